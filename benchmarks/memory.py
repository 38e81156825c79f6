"""How much memory does a process take at most that runs a model, here and in ONNX Runtime?

    python benchmarks/memory.py [MODEL ...] [--threads 1] [--plan] [--json FILE]

MODEL is an ONNX file with an NPZ beside it that holds its inputs (see export_models.py), or a
network of the zoo. Every figure is the peak resident size of a fresh process that gets the model
ready and runs it three times on the same inputs: loaded from a .tw file; compiled, without any
cache; and in ONNX Runtime from the ONNX file. With --plan runs nothing, and compares the arena
that a call works in with the most bytes that are live at one step, which no plan can undercut;
symbolic dims count as 64. By default measures zoo:resnet50.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np

import tilewright
from tilewright.api import import_graph
from tilewright.backends.cpu.target import resolve_target
from tilewright.benchmarking.footprint import peak_memory
from tilewright.graph.passes import run_passes
from tilewright.lower.model import lower_graph
from tilewright.peers import as_file
from tilewright.tensor.simplify import evaluate

PEER = "onnxruntime"
NOMINAL = 64
"""What symbolic dims are taken to be."""


def inputs_of(model: str, exe: tilewright.Executable) -> dict[str, np.ndarray]:
    """Recorded inputs, or a random picture for a network of the zoo."""
    if not model.startswith("zoo:"):
        with np.load(Path(model).with_suffix(".npz")) as archive:
            return {k[3:]: archive[k] for k in archive.files if k.startswith("in_")}
    (spec,) = exe.inputs
    shape = tuple(int(d) for d in spec.shape if isinstance(d, int))
    return {spec.name: np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}


def figures(model: str, threads: int) -> dict[str, int]:
    """Peak bytes by how the model runs."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder, as_file(model) as path:
        compiled, inputs = Path(folder, "model.tw"), Path(folder, "inputs.npz")
        exe = tilewright.compile(model)
        exe.save(compiled)
        np.savez(inputs, **inputs_of(model, exe))  # type: ignore[arg-type]
        del exe
        return {
            ".tw": peak_memory("tilewright", compiled, inputs, threads),
            "compiled": peak_memory("tilewright", path, inputs, threads),
            PEER: peak_memory(PEER, path, inputs, threads),
        }


def plan(model: str) -> dict[str, int]:
    """The bytes of the arena, and of what is live at one step."""
    target = resolve_target("native")
    lowered = lower_graph(run_passes(import_graph(model, None), target), target)
    sizes = {v.name: NOMINAL for v in lowered.program.symbols}
    return {
        "arena": evaluate(lowered.program.arena_bytes, sizes),
        "live": evaluate(lowered.least_arena, sizes),
    }


def show_plans(models: list[str]) -> dict[str, dict[str, int]]:
    """Prints a line for each model, without running any."""
    print(f"{'model':24} {'arena MB':>9} {'live MB':>9} {'ratio':>6}")
    found = {}
    for model in models:
        found[model] = row = plan(model)
        ratio = row["arena"] / max(row["live"], 1)
        line = f"{row['arena'] / 1e6:9.2f} {row['live'] / 1e6:9.2f} {ratio:6.3f}"
        print(f"{Path(model).stem:24} {line}", flush=True)
    return found


def main() -> None:
    """Prints a line for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", default=["zoo:resnet50"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plan", action="store_true", help="only compare the plans of the arenas")
    parser.add_argument("--json", type=Path, help="file for all figures")
    chosen = parser.parse_args()
    if chosen.plan:
        plans = show_plans(chosen.models)
        if chosen.json:
            chosen.json.write_text(json.dumps(plans, indent=1))
        return
    print(f"load {os.getloadavg()[0]:.1f}; {chosen.threads} threads; peak MB, ratio to {PEER}")
    print(f"{'model':24} {'.tw':>8} {'ratio':>6} {'compiled':>9} {'ratio':>6} {PEER:>12}")
    found = {}
    for model in chosen.models:
        found[model] = row = figures(model, chosen.threads)
        print(
            f"{Path(model).stem:24} {row['.tw'] / 1e6:8.0f} {row['.tw'] / row[PEER]:6.2f}"
            f" {row['compiled'] / 1e6:9.0f} {row['compiled'] / row[PEER]:6.2f}"
            f" {row[PEER] / 1e6:12.0f}",
            flush=True,
        )
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
