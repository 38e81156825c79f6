"""Runs the samples of torch's operator database: each passes, is refused, is wrong, or crashes.

python -m tests.frontends.torch.opdb                      every sample; counts, and what is wrong
python -m tests.frontends.torch.opdb --first 4            only the first samples of each operator
python -m tests.frontends.torch.opdb --reasons            how many samples each gap refuses
python -m tests.frontends.torch.opdb --list refused fft   one line a sample, with the reason
python -m tests.frontends.torch.opdb --jobs 2 --update    writes what became of each to opdb.txt
python -m tests.frontends.torch.opdb --log FILE           keeps results, and goes on after an end

Samples are the database's own (``sample_inputs``) in float32, int64 and bool. Many of them are
exported and compiled as one program, which costs less by far than one each.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import multiprocessing
import os
import resource
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any
from unittest import mock

from .opdb_ratchet import OUTCOMES, RATCHET, Key, Result, lost, read_ratchet, write_ratchet

SAMPLES = f"{__package__}.opdb_samples"
"""Loaded where samples run only: torch's database takes seconds to import."""
TOGETHER = 48
SECONDS_TO_START = 600.0
SECONDS_PER_SAMPLE = 120.0
BYTES_PER_PROCESS = 24 << 30
"""Address space of a process: a sample that runs away fails, and the machine goes on."""


# ------------------------------------------------------------------ processes


class Worker:
    """A process that runs samples; what hangs or dies is a crash, and a new process goes on."""

    def __init__(self) -> None:
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def run(self, keys: Sequence[Key]) -> list[Result]:
        """The outcomes of samples, together where that works and else one at a time."""
        pipe = self._started()
        pipe.send(keys)
        seconds = SECONDS_PER_SAMPLE + 4 * (len(keys) - 1)
        try:
            if pipe.poll(seconds):
                answer: list[Result] = pipe.recv()
                return answer
            why = f"no end after {seconds:g} seconds"
        except EOFError:
            assert self._process is not None
            self._process.join()
            why = f"the process ended with {self._process.exitcode}"
        self.close()
        if len(keys) == 1:
            return [Result(keys[0], "crash", why)]
        half = len(keys) // 2
        return self.run(keys[:half]) + self.run(keys[half:])

    def _started(self) -> Connection:
        if self._pipe is None:
            # A process of its own making: a fork may hold locks of threads that it does not have.
            # The database may go through sets, whose order follows the hash seed.
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs,), daemon=True)
            with mock.patch.dict(os.environ, PYTHONHASHSEED="0"):
                self._process.start()
            theirs.close()
            if not self._pipe.poll(SECONDS_TO_START):
                raise TimeoutError(f"no worker after {SECONDS_TO_START:g} seconds")
            self._pipe.recv()
        return self._pipe

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None and self._pipe is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = self._pipe = None


def _work(pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES_PER_PROCESS, BYTES_PER_PROCESS))
    warnings.simplefilter("ignore")
    samples: Any = importlib.import_module(SAMPLES)
    samples.use_one_thread()
    pipe.send("ready")
    # Garbage is looked for between groups alone: torch's graphs are many objects that live long,
    # and looking through them again and again takes a third of the time.
    gc.freeze()
    gc.disable()
    while True:
        pipe.send(samples.outcomes_of(pipe.recv()))
        gc.collect()


def run(keys: Iterable[Key], jobs: int = 1, log: Path | None = None) -> list[Result]:
    """The outcomes of samples, in order; those in the log are not run again."""
    done = {r.key: r for r in _logged(log)}
    wanted = list(keys)
    left = [k for k in wanted if k not in done]
    groups: SimpleQueue[list[Key]] = SimpleQueue()
    for start in range(0, len(left), TOGETHER):
        groups.put(left[start : start + TOGETHER])
    lock = Lock()

    def loop() -> None:
        worker = Worker()
        try:
            while True:
                found = worker.run(groups.get_nowait())
                with lock:
                    done.update((r.key, r) for r in found)
                    _write_log(log, found)
        except Empty:
            pass
        finally:
            worker.close()

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(loop) for _ in range(jobs)]:
            future.result()
    return [done[k] for k in wanted]


def _logged(log: Path | None) -> Iterator[Result]:
    if log is not None and log.exists():
        for line in log.read_text().splitlines():
            op, dtype, place, outcome, detail = json.loads(line)
            yield Result(Key(op, dtype, place), outcome, detail)


def _write_log(log: Path | None, results: Sequence[Result]) -> None:
    if log is not None:
        with log.open("a") as file:
            for r in results:
                file.write(json.dumps([*astuple(r.key), r.outcome, r.detail]) + "\n")


# ------------------------------------------------------------------ the command line


def main(arguments: Sequence[str]) -> int:
    """Runs samples and prints what became of them; 1 where any was lost, wrong or crashed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pattern", nargs="*", help="only operators whose name holds one of these")
    parser.add_argument("--first", type=int, help="only so many samples per operator and type")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes run at once")
    parser.add_argument("--log", type=Path, help="a file of results to go on from and add to")
    parser.add_argument("--list", choices=OUTCOMES, action="append", default=[])
    parser.add_argument("--reasons", action="store_true", help="count the reasons of refusals")
    parser.add_argument("--update", action="store_true", help=f"write {RATCHET.name}")
    options = parser.parse_args(arguments)
    samples: Any = importlib.import_module(SAMPLES)
    keys = samples.all_keys(options.pattern, options.first)
    samples.samples_of.cache_clear()  # the processes make their own
    results = run(keys, options.jobs, options.log)
    shown = {"wrong", "crash", *options.list}
    for r in results:
        if r.outcome in shown:
            print(f"{r.outcome:8} {r.key}  {r.detail}")
    if options.reasons:
        _print_reasons(results)
    counts = Counter(r.outcome for r in results)
    judged = sum(counts[o] for o in ("pass", "refused", "wrong", "crash"))
    print("  ".join(f"{o}: {counts[o]}" for o in OUTCOMES), f"of {len(results)}")
    print(f"{counts['pass'] / max(judged, 1):.1%} of the {judged} that torch exports pass")
    ratchet = read_ratchet() if RATCHET.exists() else {}
    gone = lost(results, ratchet)
    for r in gone:
        print(f"lost     {r.key}: {r.outcome}: {r.detail}")
    if options.update:
        write_ratchet({**ratchet, **{r.key: r.outcome for r in results}})
    return 1 if gone else 0


def _print_reasons(results: Sequence[Result]) -> None:
    refused = [r for r in results if r.outcome == "refused"]
    reasons = Counter(reason for r in refused for reason in set(r.detail.split("; ")))
    for reason, count in reasons.most_common():
        ops = sorted({r.key.op for r in refused if reason in r.detail})
        print(f"{count:5} {reason}   [{' '.join(ops[:4])}{' ...' if len(ops) > 4 else ''}]")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
