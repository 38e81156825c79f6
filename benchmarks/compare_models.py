"""Is a model as fast here as in the best other runtime? Correctness first, then interleaved times.

    python benchmarks/compare_models.py [FOLDER ...] [--only NAME ...] [--no-zoo] [--threads 1,2]
                                        [--compare onnxruntime,openvino] [--time-budget 30]

Measures every NAME.onnx with NAME.npz in the folders (see export_models.py and fetch_models.py),
and the zoo of the onnx package, as ``tilewright bench`` does. Each model runs in a process of its
own: a crash costs one line. Outputs are first compared with the recorded references, all sets, and
with the peers. ``ratio`` is our time over the peer's with a 95 % interval, so below 1 is faster;
``best`` is the ratio to the fastest peer. Rounds end once all ratios are known within 2 %, or with
the budget. While one run measures, others that use the same lock file wait.
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
from tilewright.api import import_graph
from tilewright.benchmarking.baseline import digest_of
from tilewright.benchmarking.operations import count_flops
from tilewright.benchmarking.report import OURS, figures
from tilewright.benchmarking.session import TOLERANCE, Case, measure
from tilewright.commands.arrays import choose_dims, random_inputs, write_arrays
from tilewright.commands.bench import parse_peers, parse_threads
from tilewright.frontends.onnx.zoo import NAMES
from tilewright.peers import agreements, as_file

Figures = dict[str, Any]
LOCK = Path(tempfile.gettempdir()) / "tilewright-benchmark.lock"


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Holds the lock file, so that measurements do not disturb each other."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ------------------------------------------------------------------ one model


def recorded(model: str) -> list[tuple[dict[str, np.ndarray], list[np.ndarray]]]:
    """Inputs by name and reference outputs, for each set; none for the zoo."""
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


def measure_model(model: str, chosen: argparse.Namespace) -> Figures:
    """All figures of one model."""
    began = time.perf_counter()
    exe = tilewright.compile(model, cache=False, threads=max(chosen.threads))
    took = time.perf_counter() - began
    sets = recorded(model)
    wrong = [difference(list(exe.run(inputs).values()), outputs) for inputs, outputs in sets]
    sizes = choose_dims(exe.inputs, {}, exe.program.conditions)
    feed = sets[0][0] if sets else random_inputs(exe.inputs, sizes, 0)
    found: Figures = {"model": model, "rows": [], "refusals": []}
    found["against_reference"] = max(wrong, default=None)
    with tempfile.TemporaryDirectory(prefix="tilewright-") as name, as_file(model) as source:
        file, feed_file = Path(name, "model.tw"), Path(name, "inputs.npz")
        exe.save(file)
        write_arrays(feed_file, feed)
        given = {k: v.shape for k, v in feed.items()}
        flops = count_flops(import_graph(model, given), {})
        label = model if model.startswith("zoo:") else Path(model).stem
        case = Case(label, file, source, feed, feed_file, {}, took, flops, digest_of(exe.artifact))
        del exe
        with alone(chosen.lock):
            for count in chosen.threads:
                rows, refusals = measure(case, chosen.compare, count, chosen.time_budget, None)
                found["rows"] += [{**figures(r), "differs": r.differs} for r in rows]
                found["refusals"] += refusals
    return found


# ------------------------------------------------------------------ all models


def in_own_process(model: str, chosen: argparse.Namespace) -> Figures:
    """The figures of a model, or what went wrong."""
    command = [
        sys.executable, __file__, "--one", model, "--threads", ",".join(map(str, chosen.threads)),
        "--compare", ",".join(chosen.compare), "--time-budget", str(chosen.time_budget),
        "--lock", str(chosen.lock),
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


def by_threads(found: Figures) -> Iterator[tuple[Figures, list[Figures]]]:
    """Our rows, each with those of the peers on as many threads."""
    rows = found.get("rows", [])
    for ours in rows:
        if ours["engine"] == OURS:
            same = [r for r in rows if r["threads"] == ours["threads"] and r is not ours]
            yield ours, same


def best_ratio(peers: list[Figures]) -> float:
    """Our time over that of the fastest peer; 0 where there is none."""
    return max((float(p["ratio"]) for p in peers), default=0.0)


def show(found: Figures, chosen: argparse.Namespace) -> None:
    """Prints the lines of one model."""
    name = Path(found["model"]).stem
    if "failed" in found:
        print(f"{name:20} FAILED: {found['failed'][:300]}", flush=True)
        return
    for ours, peers in by_threads(found):
        cells = ""
        for wanted in chosen.compare:
            row = next((p for p in peers if p["engine"] == wanted), None)
            if row is None:
                cells += f" {'-':>22}"
                continue
            width = max(row["ratio_high"] - row["ratio"], row["ratio"] - row["ratio_low"])
            cells += f" {row['median_ms']:9.3f} {row['ratio']:6.2f} ±{width:4.2f}"
        best = best_ratio(peers)
        print(
            f"{name:20} {ours['threads']:2} {ours['median_ms']:9.3f}{cells} {best:6.2f}"
            f" {ours['ready_seconds']:8.2f} {ours['peak_bytes'] / 1e6:7.0f}"
            f" {ours['artifact_bytes'] / 1e6:7.1f} {worst(found):8.1e}"
            f"{'  DIFFERS' if is_wrong(found) else ''}"
            f"{'  LOSES' if best > 1 else ''}",
            flush=True,
        )
    for refusal in found["refusals"]:
        print(f"{'':20} {refusal[:200]}", flush=True)


def worst(found: Figures) -> float:
    """The largest difference from the reference and from the peers."""
    known = [r["difference"] for r in found["rows"] if r["difference"] is not None]
    reference = found["against_reference"]
    return max([*known, *([] if reference is None else [reference])], default=math.nan)


def is_wrong(found: Figures) -> bool:
    """Whether outputs are not what they should be."""
    reference = found["against_reference"]
    return any(r["differs"] for r in found["rows"]) or not (reference or 0.0) <= TOLERANCE


def summarise(results: list[Figures], chosen: argparse.Namespace) -> None:
    """Prints geometric means and everything that is lost."""
    for count in chosen.threads:
        pairs = [
            (found["model"], ours, peers)
            for found in results
            for ours, peers in by_threads(found)
            if ours["threads"] == count and peers
        ]
        if not pairs:
            continue
        for wanted in chosen.compare:
            ratios = [p["ratio"] for _, _, peers in pairs for p in peers if p["engine"] == wanted]
            if ratios:
                print(f"{count} threads: {wanted}: geometric mean {mean(ratios):.3f} of its time")
        best = {model: best_ratio(peers) for model, _, peers in pairs}
        lost = sorted((m for m in best if best[m] > 1), key=lambda m: -best[m])
        of_best = mean(list(best.values()))
        print(
            f"{count} threads: best peer of each model: geometric mean {of_best:.3f} of its time"
            f" ({1 / of_best:.2f}x as fast); "
            + (f"lost: {', '.join(f'{Path(m).stem} {best[m]:.2f}' for m in lost)}" if lost
               else "none lost")
        )  # fmt: skip


def mean(ratios: list[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def main() -> int:
    """Measures what is asked for; 1 if anything failed or differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="models to measure")
    parser.add_argument("--no-zoo", action="store_true", help="leave the zoo out")
    parser.add_argument("--threads", type=parse_threads, default=(1, 2))
    parser.add_argument("--compare", type=parse_peers, default=("onnxruntime", "openvino"))
    parser.add_argument("--time-budget", type=float, default=30.0, help="for each row")
    parser.add_argument("--timeout", type=float, default=1200.0, help="seconds for a model")
    parser.add_argument("--lock", type=Path, default=LOCK)
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--one", metavar="MODEL", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure_model(chosen.one, chosen)))
        return 0
    models = [] if chosen.no_zoo else [f"zoo:{n}" for n in NAMES]
    for folder in chosen.folders:
        models += [str(p) for p in sorted(folder.glob("*.onnx")) if p.with_suffix(".npz").exists()]
    if chosen.only:
        models = [m for m in models if Path(m).stem in chosen.only or m in chosen.only]
    print(f"load {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} CPUs; medians in ms")
    heads = "".join(f" {p + ' ms':>9} {'ratio':>6} {'':>5}" for p in chosen.compare)
    print(
        f"{'model':20} {'th':>2} {'ms':>9}{heads} {'best':>6} {'ready s':>8} {'peak MB':>7}"
        f" {'file MB':>7} {'differs':>8}"
    )
    results = []
    for model in models:
        results.append(in_own_process(model, chosen))
        show(results[-1], chosen)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1))
    summarise(results, chosen)
    bad = [f for f in results if "failed" in f or is_wrong(f)]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
