"""Is a model as fast here as in ONNX Runtime? Correctness first, then interleaved times.

    python benchmarks/compare_models.py [FOLDER ...] [--only NAME ...] [--no-zoo] [--threads 1,2]

Measures every NAME.onnx with NAME.npz in the folders (see export_models.py and fetch_models.py),
and the zoo of the onnx package. Each model runs in a process of its own: a crash costs one line.
Outputs are first compared with the recorded references, all sets, and with ONNX Runtime. Times are
medians and minima of calls in turns; ratios are our time over ONNX Runtime's, so below 1 is faster.
While one run measures, others that use the same lock file wait.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import tilewright
from tilewright.benchmarking.measure import interleave, ratio
from tilewright.frontends.onnx.zoo import NAMES
from tilewright.peers import agreements, as_file, open_peer

Figures = dict[str, Any]
PEER = "onnxruntime"
LOCK = Path(tempfile.gettempdir()) / "tilewright-benchmark.lock"


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Holds the lock file, so that measurements do not disturb each other."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ------------------------------------------------------------------ one model


def recorded(model: str) -> list[tuple[dict[str, np.ndarray], list[np.ndarray]]]:
    """Inputs by name and reference outputs, for each set; for the zoo, one random picture."""
    if model.startswith("zoo:"):
        return []
    path = Path(model)
    sets = []
    for file in [path.with_suffix(".npz"), *sorted(path.parent.glob(f"{path.stem}.[0-9].npz"))]:
        with np.load(file) as archive:
            inputs = {k[3:]: archive[k] for k in archive.files if k.startswith("in_")}
            outputs = [archive[f"out_{i}"] for i in range(len(archive.files) - len(inputs))]
        sets.append((inputs, outputs))
    return sets


def difference(ours: list[np.ndarray], reference: list[np.ndarray]) -> float:
    """The largest relative difference; references may be wider than the outputs."""
    fitted = [r.astype(o.dtype) for o, r in zip(ours, reference, strict=True)]
    names = [str(i) for i in range(len(ours))]
    return max(a.relative for a in agreements(names, ours, fitted))


def measure(model: str, threads: list[int], seconds: float, lock: Path) -> Figures:
    """All figures of one model."""
    began = time.perf_counter()
    exe = tilewright.compile(model, cache=False, threads=max(threads))
    figures: Figures = {"model": model, "compile_seconds": time.perf_counter() - began, "rows": []}
    sets = recorded(model)
    wrong = [difference(list(exe.run(inputs).values()), outputs) for inputs, outputs in sets]
    figures["against_reference"] = max(wrong, default=math.nan)
    with as_file(model) as path, contextlib.ExitStack() as stack:
        feed = sets[0][0] if sets else random_picture(exe)
        stack.enter_context(alone(lock))
        for count in threads:
            exe.threads = count
            peer = open_peer(PEER, path, count)
            ours = list(exe.run(feed).values())
            figures["against_peer"] = difference(ours, list(peer.run(feed)))

            def call(peer: Any = peer) -> Any:
                return peer.run(feed)

            mine, theirs = interleave([lambda: exe.run(feed), call], 2 * seconds)
            row = {
                "threads": count, "median": mine.median, "minimum": mine.minimum,
                "peer_median": theirs.median, "peer_minimum": theirs.minimum,
                "ratio": ratio(mine, theirs), "ratio_of_minima": mine.minimum / theirs.minimum,
            }  # fmt: skip
            figures["rows"].append(row)
    return figures


def random_picture(exe: tilewright.Executable) -> dict[str, np.ndarray]:
    """An input for a network of the zoo."""
    (spec,) = exe.inputs
    shape = tuple(int(d) for d in spec.shape if isinstance(d, int))
    return {spec.name: np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}


# ------------------------------------------------------------------ all models


def in_own_process(model: str, chosen: argparse.Namespace) -> Figures:
    """The figures of a model, or what went wrong."""
    command = [
        sys.executable, __file__, "--one", model, "--threads", ",".join(map(str, chosen.threads)),
        "--seconds", str(chosen.seconds), "--lock", str(chosen.lock),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=chosen.timeout
        )
    except subprocess.TimeoutExpired:
        return {"model": model, "failed": f"no end after {chosen.timeout:.0f} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"signal {-done.returncode}"])[-1]
        return {"model": model, "failed": last}
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def show(figures: Figures) -> None:
    """Prints the lines of one model."""
    name = Path(figures["model"]).stem
    if "failed" in figures:
        print(f"{name:20} FAILED: {figures['failed'][:300]}", flush=True)
        return
    worst = max(
        v for v in (figures["against_reference"], figures["against_peer"]) if not math.isnan(v)
    )
    for row in figures["rows"]:
        print(
            f"{name:20} {row['threads']:2}  {row['median'] * 1e3:9.3f} {row['minimum'] * 1e3:9.3f}"
            f"  {row['peer_median'] * 1e3:9.3f} {row['peer_minimum'] * 1e3:9.3f}"
            f"  {row['ratio']:6.2f} {row['ratio_of_minima']:6.2f}"
            f"  {figures['compile_seconds']:6.2f}  {worst:8.1e}"
            f"{'' if worst <= 1e-4 else '  DIFFERS'}",
            flush=True,
        )


def main() -> int:
    """Measures what is asked for; 1 if anything failed or differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="models to measure")
    parser.add_argument("--no-zoo", action="store_true", help="leave the zoo out")
    parser.add_argument("--threads", type=lambda s: [int(n) for n in s.split(",")], default=[1, 2])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each contender")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for a model")
    parser.add_argument("--lock", type=Path, default=LOCK)
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--one", metavar="MODEL", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.one, chosen.threads, chosen.seconds, chosen.lock)))
        return 0
    models = [] if chosen.no_zoo else [f"zoo:{n}" for n in NAMES]
    for folder in chosen.folders:
        models += [str(p) for p in sorted(folder.glob("*.onnx")) if p.with_suffix(".npz").exists()]
    if chosen.only:
        models = [m for m in models if Path(m).stem in chosen.only or m in chosen.only]
    print(
        f"load {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} CPUs; ms; ratio to {PEER}"
    )
    print(f"{'model':18} threads     median       min       peer       min   ratio of min  compile")
    results = []
    for model in models:
        results.append(in_own_process(model, chosen))
        show(results[-1])
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1))
    rows = [r for f in results for r in f.get("rows", ())]
    for count in chosen.threads:
        ratios = [r["ratio"] for r in rows if r["threads"] == count]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            print(f"{count} threads: geometric mean {mean:.2f}, worst {max(ratios):.2f}")
    bad = [f for f in results if "failed" in f or not f["against_peer"] <= 1e-4]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
