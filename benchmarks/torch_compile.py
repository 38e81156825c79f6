"""Is torch.compile with this backend as fast as with Inductor, and how long do both compile?

    python benchmarks/torch_compile.py [NAME ...] [--threads 1,2] [--seconds 10] [--freezing]
                                       [--dynamic] [--json FILE] [--lock FILE]

Each model runs in a process of its own with empty caches for both; torch's aot_eager, which makes
no code, goes first, and so loads what both need. Outputs are compared with eager ones before
anything is timed. Times are of calls in turns; ``ratio`` is our time over Inductor's, the median
over blocks and of the two minima, so below 1 is faster; ``faster`` is Inductor's first call over
ours.

A second table splits the first calls, by the times that torch takes itself
(torch._dynamo.utils.compile_times): ``Dynamo`` is what a backend has no part in (tracing Python,
guards, and the call itself), ``capture`` what turns Dynamo's graph into functional ATen calls (of
Inductor: what AOTAutograd took aot_eager, without Inductor's decompositions), ``own`` the rest.
Dynamo is told to trace recurrent layers, which it leaves to eager mode by default (both would then
be timed in eager mode).

Needs what export_models.py needs, and a C++ compiler for Inductor.
"""

# mypy: disable-error-code="misc, no-any-return"

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from export_models import Model, declare_operators, ids  # type: ignore[import-not-found]
from torch import nn
from torch._dynamo import config as dynamo
from torch._dynamo.utils import compilation_time_metrics, compile_times

from tilewright.benchmarking.measure import interleave, ratio

TOLERANCE = 1e-4
LOCK = Path(tempfile.gettempdir()) / "tilewright-benchmark.lock"
OTHERS = importlib.import_module("frontends").MODELS  # benchmarks/frontends.py, of its folder


class DecodeStep(nn.Module):
    """One step of a language model with a cache: a token and what came before, as one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, token: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The next scores and the longer cache; ``past`` is layer, key or value, then as usual."""
        cache = importlib.import_module("transformers").DynamicCache()
        for k in range(past.shape[0]):
            cache.update(past[k, 0], past[k, 1], k)
        out = self.model(input_ids=token, past_key_values=cache, use_cache=True)
        return (out.logits, *(layer.keys for layer in cache.layers))


class Perceptron(nn.Module):
    """Two small layers, whose work is nothing: what a call costs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The second layer's output."""
        return self.layers(x)


def gpt2_decode() -> Model:
    """GPT-2 small: one token after 64."""
    transformers = importlib.import_module("transformers")
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    inputs = {"token": ids(1, 1, 50257), "past": torch.randn(12, 2, 1, 12, 64, 64)}
    return Model(DecodeStep(model).eval(), (inputs,))


def perceptron() -> Model:
    """The smallest model."""
    return Model(Perceptron().eval(), ({"x": torch.randn(2, 8)},))


BUILDERS: dict[str, Callable[[], Model]] = {
    "perceptron": perceptron,
    **OTHERS,
    "gpt2_decode": gpt2_decode,
}
BACKENDS = ("tilewright", "inductor")


# ------------------------------------------------------------------ one model


def first_tensors(result: Any) -> list[torch.Tensor]:
    """The tensors of a result."""
    return list(result) if isinstance(result, (tuple, list)) else [result]


def error_of(result: Any, wanted: Any) -> float:
    """The largest difference between two results, relative to the largest element."""
    pairs = zip(first_tensors(result), first_tensors(wanted), strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)


def split_of(total: float, own: str, capture: float = 0.0) -> dict[str, float]:
    """What a first call was spent on, in seconds.

    Args:
        total: that the call took.
        own: what torch's times call the backend's own part; empty: all but the capture.
        capture: how long the capture took, where it has no time of its own.
    """
    names, values = compile_times(repr="csv", aggregate=True)
    seconds = {name: float(value) for name, value in zip(names, values, strict=True)}
    given = seconds["OutputGraph.call_user_compiler"]
    mine = seconds[own] if own else given - capture
    return {"dynamo": total - given, "capture": given - mine, "own": mine}


def measure(name: str, threads: int, seconds: float, dynamic: bool) -> dict[str, Any]:
    """Compiles and times one model in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = BUILDERS[name]()
    inputs = tuple(model.sets[0].values())
    wanted = model.module(*inputs)
    for backend in BACKENDS:  # loads what torch and the backends import
        torch.compile(lambda x: x.sin() + 1, backend=backend)(torch.ones(3))
    found: dict[str, Any] = {"model": name, "threads": threads}
    calls: list[Callable[[], object]] = []
    capture = 0.0
    for backend in ("aot_eager", *BACKENDS):
        compiled = torch.compile(model.module, backend=backend, dynamic=dynamic or None)
        compilation_time_metrics.clear()
        began = time.perf_counter()
        result = compiled(*inputs)
        total = time.perf_counter() - began
        own = "tilewright.compile" if backend == "tilewright" else ""
        split = split_of(total, own, capture)
        if backend == "aot_eager":
            capture = split["own"]  # it does nothing after it
            continue
        found |= {f"{backend}_compile_s": total, f"{backend}_split_s": split}
        found[f"{backend}_error"] = error_of(result, wanted)
        calls.append(partial(compiled, *inputs))
    if found["tilewright_error"] > TOLERANCE:
        return found
    calls.append(partial(model.module, *inputs))
    timings = interleave(calls, seconds)
    for who, timing in zip((*BACKENDS, "eager"), timings, strict=True):
        found[f"{who}_ms"] = sorted(timing.calls)[len(timing.calls) // 2] * 1e3
        found[f"{who}_min_ms"] = min(timing.calls) * 1e3
    found["ratio"] = ratio(timings[0], timings[1])
    found["ratio_min"] = min(timings[0].calls) / min(timings[1].calls)
    return found


# ------------------------------------------------------------------ all of them


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Holds the lock file, so that measurements do not disturb each other."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def in_a_process(name: str, threads: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Measures a model in a process with empty caches."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder, alone(chosen.lock):
        environment = {
            **os.environ,
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
            "TORCHINDUCTOR_FREEZING": str(int(chosen.freezing)),
            "TILEWRIGHT_CACHE_DIR": f"{folder}/tilewright",
        }
        command = [sys.executable, __file__, name, "--one", "--threads", str(threads)]
        command += ["--seconds", str(chosen.seconds)] + ["--dynamic"] * chosen.dynamic
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=1800
        )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.strip() or "no output").splitlines()[-1]
        return {"model": name, "threads": threads, "failed": reason}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def line_of(found: dict[str, Any]) -> str:
    """One line of the table."""
    head = f"{found['model']:16} {found['threads']:3}"
    if "failed" in found:
        return f"{head}  failed: {found['failed'][:120]}"
    if "ratio" not in found:
        return f"{head}  wrong: error {found['tilewright_error']:.1e}"
    ours, theirs = found["tilewright_compile_s"], found["inductor_compile_s"]
    return (
        f"{head} {found['tilewright_ms']:9.3f} {found['inductor_ms']:9.3f} {found['eager_ms']:9.3f}"
        f" {found['ratio']:6.2f} {found['ratio_min']:6.2f} {ours:8.1f} {theirs:8.1f}"
        f" {theirs / ours:6.1f} {found['tilewright_error']:8.1e}"
    )


def split_line(found: dict[str, Any]) -> str:
    """One line of the table of first calls."""
    parts = [found[f"{backend}_split_s"] for backend in BACKENDS]
    columns = [f"{p['dynamo']:8.2f} {p['capture']:8.2f} {p['own']:8.2f}" for p in parts]
    ours, theirs = (p["capture"] + p["own"] for p in parts)
    return (
        f"{found['model']:16} {found['threads']:3} {'  '.join(columns)}"
        f"  {theirs / ours:8.1f} {parts[1]['own'] / parts[0]['own']:6.1f}"
    )


def main() -> int:
    """Prints a line for each model and number of threads."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BUILDERS))
    parser.add_argument("--threads", default="1,2", help="numbers of threads, with commas")
    parser.add_argument("--seconds", type=float, default=10.0, help="of timed calls, for each")
    parser.add_argument("--freezing", action="store_true", help="let Inductor pack weights")
    parser.add_argument("--dynamic", action="store_true", help="with symbolic sizes")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--lock", type=Path, default=LOCK, help="held while a model runs")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    unknown = set(chosen.names) - set(BUILDERS)
    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}; there are {', '.join(BUILDERS)}")
    if chosen.one:
        figures = measure(chosen.names[0], int(chosen.threads), chosen.seconds, chosen.dynamic)
        print(json.dumps(figures))
        return 0
    print(f"load {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} CPUs")
    print(f"{'model':16} {'thr':>3} {'ours ms':>9} {'inductor':>9} {'eager':>9} {'ratio':>6}"
          f" {'min':>6} {'compile':>8} {'inductor':>8} {'faster':>6} {'error':>8}")  # fmt: skip
    table = []
    for name in chosen.names or BUILDERS:
        for threads in map(int, chosen.threads.split(",")):
            table.append(found := in_a_process(name, threads, chosen))
            print(line_of(found), flush=True)
            if chosen.json:
                chosen.json.write_text(json.dumps(table, indent=1))
    print("\nfirst calls, in seconds")
    print(f"{'':20} {'ours':^26}  {'Inductor':^26}  {'faster':>15}")
    stages = f"{'Dynamo':>8} {'capture':>8} {'own':>8}"
    print(f"{'model':16} {'thr':>3} {stages}  {stages}  {'- Dynamo':>8} {'own':>6}")
    for found in table:
        if "inductor_split_s" in found:
            print(split_line(found))
    return int(any("ratio" not in found for found in table))


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # torch and the models warn of their own internals.
    dynamo.allow_rnn = True
    declared = declare_operators()
    with torch.no_grad():
        sys.exit(main())
