"""How much memory does running a model take, next to other runtimes, and is the plan tight?

    python benchmarks/memory.py [MODEL ...] [--threads 1] [--compare onnxruntime,openvino]
                                [--plan] [--json FILE]

MODEL is an ONNX file with its inputs beside it (NAME.npz, see export_models.py), or a network of
the zoo. Each figure is the peak resident size of a fresh process that loads the model and runs it
three times: ours from a .tw file, found in the cache, and compiled anew. ``of least`` is the share
of the peer that takes the least. ``--plan`` compares the planned arena with the most bytes that
are live at one step, without running anything; symbolic dims are taken to be 64.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import tilewright
from tilewright.api import import_graph
from tilewright.backends.cpu.target import resolve_target
from tilewright.benchmarking.footprint import peak_memory
from tilewright.commands.bench import parse_peers
from tilewright.errors import InternalError
from tilewright.graph.passes import run_passes
from tilewright.lower.model import lower_graph
from tilewright.peers import as_file
from tilewright.tensor.simplify import evaluate

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


OURS = (".tw", "cached", "compiled")
"""How our model comes to run: loaded, found in the cache, compiled anew."""


def figures(model: str, threads: int, peers: Sequence[str]) -> dict[str, int]:
    """Peak bytes by how the model runs; a peer that does not run it is left out."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder, as_file(model) as path:
        compiled, inputs = Path(folder, "model.tw"), Path(folder, "inputs.npz")
        cache = {"TILEWRIGHT_CACHE_DIR": str(Path(folder, "cache"))}
        exe = tilewright.compile(model, cache=False)
        exe.save(compiled)
        np.savez(inputs, **inputs_of(model, exe))  # type: ignore[arg-type]
        del exe

        def peak(engine: str, file: Path, **variables: str) -> int:
            return peak_memory(engine, file, inputs, threads, {**cache, **variables})

        found = {".tw": peak("tilewright", compiled)}
        peak("tilewright", path, TILEWRIGHT_CACHE="1")
        found["cached"] = peak("tilewright", path, TILEWRIGHT_CACHE="1")
        found["compiled"] = peak("tilewright", path, TILEWRIGHT_CACHE="0")
        for peer in peers:
            with contextlib.suppress(InternalError):
                found[peer] = peak(peer, path)
        return found


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


def line(model: str, row: Mapping[str, int], peers: Sequence[str]) -> str:
    """The figures of a model, and which of ours exceed what the least of the peers takes."""
    least = min((row[p] for p in peers if p in row), default=0)
    cells = "".join(
        f" {row[name] / 1e6:9.0f} {row[name] / least if least else math.nan:8.2f}" for name in OURS
    )
    theirs = "".join(f" {row[p] / 1e6:12.0f}" if p in row else f" {'-':>12}" for p in peers)
    above = [name for name in OURS if least and row[name] > least]
    return f"{Path(model).stem:24}{cells}{theirs}" + (
        f"  ABOVE: {' '.join(above)}" if above else ""
    )


def main() -> None:
    """Prints a line for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", default=["zoo:resnet50"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compare", type=parse_peers, default=("onnxruntime", "openvino"))
    parser.add_argument("--plan", action="store_true", help="only compare the plans of the arenas")
    parser.add_argument("--json", type=Path, help="file for all figures")
    chosen = parser.parse_args()
    if chosen.plan:
        plans = show_plans(chosen.models)
        if chosen.json:
            chosen.json.write_text(json.dumps(plans, indent=1))
        return
    print(f"load {os.getloadavg()[0]:.1f}; {chosen.threads} threads; peak MB")
    heads = "".join(f" {name:>9} {'of least':>8}" for name in OURS)
    print(f"{'model':24}{heads}" + "".join(f" {p:>12}" for p in chosen.compare))
    found = {}
    for model in chosen.models:
        found[model] = row = figures(model, chosen.threads, chosen.compare)
        print(line(model, row, chosen.compare), flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
