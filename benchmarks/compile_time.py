"""How long does a model take to compile cold, and to load from the cache or from a .tw file?

    python benchmarks/compile_time.py [MODEL ...] [--repeats 3] [--ratio] [--json FILE]

Every figure comes from a fresh process with a cache folder of its own, empty for the cold ones.
CPU seconds, of all threads, do not depend on what else runs on the machine, wall seconds do; all
are the least of the repeats. ``call`` is ``tilewright.compile`` or ``load`` alone, ``imports`` the
modules that it needs, imported before it, ``process`` all from the start of Python to its end. The
line below a model gives the CPU seconds of each stage of a cold call. By default measures
zoo:resnet50.

``layers:N`` is a transformer of N layers that differ in their weights alone; ``--ratio`` compares
the calls for 96 and for 12 of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

_CHILD = """\
import json, sys, time
kind, source, file = sys.argv[1:]
cpu = time.process_time
began = cpu()
import tilewright
from tilewright.backends import load_backend
from tilewright.frontends import frontend_of
from tilewright.stages import PIPELINE, load_function
tilewright.load
load_backend("cpu")
if kind != "load":
    for place in (frontend_of(source).imports, *PIPELINE.values()):
        load_function(place)
imports = cpu() - began
marks = []
wall, began = time.perf_counter(), cpu()
if kind == "load":
    exe = tilewright.load(file)
else:
    exe = tilewright.compile(source, progress=lambda stage: marks.append((stage, cpu())))
ended = cpu()
wall = time.perf_counter() - wall
if kind == "save":
    exe.save(file)
stages = {}
last, since = "look up", began
for stage, at in [*marks, ("", ended)]:
    stages[last] = stages.get(last, 0.0) + at - since
    last, since = stage.partition(" ")[0], at
print(json.dumps([ended - began, wall, imports, stages]))
"""
_LAYERS = "layers:"
_WIDTH, _ROWS, _HEADS = 128, 64, 4


@dataclass(frozen=True, slots=True)
class Seconds:
    """What one way to get a model ready costs, each figure the least of some repeats.

    Attributes:
        call_cpu, call_wall: of the call that compiles or loads.
        import_cpu: of the imports before it.
        process_cpu, process_wall: of the whole process.
        stages: CPU of each stage of the call.
    """

    call_cpu: float
    call_wall: float
    import_cpu: float
    process_cpu: float
    process_wall: float
    stages: Mapping[str, float] = field(default_factory=dict)


def measure(kind: str, source: str, file: Path, cache: Path) -> Seconds:
    """Times a call in a fresh process: ``compile``, ``save`` (compiles and saves) or ``load``."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TILEWRIGHT_")}
    # As when installed: modules are compiled once, not in every process.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["TILEWRIGHT_CACHE_DIR"] = str(cache)
    before = os.times()
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, kind, source, str(file)],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    wall = time.perf_counter() - began
    after = os.times()
    cpu = sum(after[2:4]) - sum(before[2:4])
    call_cpu, call_wall, imports, stages = json.loads(done.stdout.splitlines()[-1])
    return Seconds(call_cpu, call_wall, imports, cpu, wall, stages)


def least(repeats: int, one: Callable[[], Seconds]) -> Seconds:
    """The least of each figure over repeats."""
    rows = [one() for _ in range(repeats)]
    stages = {k: min(r.stages.get(k, 0.0) for r in rows) for k in rows[0].stages}
    return Seconds(
        min(r.call_cpu for r in rows),
        min(r.call_wall for r in rows),
        min(r.import_cpu for r in rows),
        min(r.process_cpu for r in rows),
        min(r.process_wall for r in rows),
        stages,
    )


def figures(model: str, repeats: int) -> dict[str, Seconds]:
    """Cold, from the cache, and from a file."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        place = Path(folder)
        source = model
        if model.startswith(_LAYERS):
            source = str(place / "layers.onnx")
            onnx.save(transformer(int(model.removeprefix(_LAYERS))), source)
        # A first process writes Python's own compiled modules, which an installation has.
        file, warm = place / "model.tw", place / "warm"
        measure("save", source, file, warm)
        colds = iter(range(repeats))
        return {
            "cold": least(
                repeats, lambda: measure("compile", source, file, place / f"cold{next(colds)}")
            ),
            "cache": least(repeats, lambda: measure("compile", source, file, warm)),
            ".tw": least(repeats, lambda: measure("load", source, file, warm)),
        }


def transformer(layers: int) -> onnx.ModelProto:
    """Layers of attention and a small network behind it, each with weights of its own."""
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def weight(*shape: int) -> str:
        data = random.standard_normal(shape, np.float32) * np.float32(shape[0] ** -0.5)
        weights.append(numpy_helper.from_array(data, f"w{len(weights)}"))
        return str(weights[-1].name)

    def integers(*values: int) -> str:
        weights.append(numpy_helper.from_array(np.array(values, np.int64), f"w{len(weights)}"))
        return str(weights[-1].name)

    def node(op: str, *inputs: str, **attrs: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [f"v{len(nodes)}"], **attrs))
        return str(nodes[-1].output[0])

    def linear(x: str, rows: int, columns: int) -> str:
        return node("Add", node("MatMul", x, weight(rows, columns)), weight(columns))

    def heads(x: str, *order: int) -> str:
        split = node("Reshape", x, integers(1, _ROWS, _HEADS, _WIDTH // _HEADS))
        return node("Transpose", split, perm=order)

    def norm(x: str) -> str:
        return node("LayerNormalization", x, weight(_WIDTH), weight(_WIDTH), axis=-1)

    scale = np.array((_WIDTH // _HEADS) ** -0.5, np.float32)
    weights.append(numpy_helper.from_array(scale, "scale"))
    x = "x"
    for _ in range(layers):
        a = norm(x)
        q = heads(linear(a, _WIDTH, _WIDTH), 0, 2, 1, 3)
        k = heads(linear(a, _WIDTH, _WIDTH), 0, 2, 3, 1)
        v = heads(linear(a, _WIDTH, _WIDTH), 0, 2, 1, 3)
        scores = node("Mul", node("MatMul", q, k), "scale")
        mixed = node("MatMul", node("Softmax", scores, axis=-1), v)
        joined = node("Transpose", mixed, perm=(0, 2, 1, 3))
        joined = node("Reshape", joined, integers(1, _ROWS, _WIDTH))
        x = node("Add", x, linear(joined, _WIDTH, _WIDTH))
        wide = node("Gelu", linear(norm(x), _WIDTH, 4 * _WIDTH))
        x = node("Add", x, linear(wide, 4 * _WIDTH, _WIDTH))
    shape = [1, _ROWS, _WIDTH]
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, f"layers{layers}", [given], [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def show(model: str, rows: Mapping[str, Seconds]) -> None:
    """Prints the lines of one model."""
    for way, s in rows.items():
        print(
            f"{Path(model).stem:24} {way:6} {s.call_cpu:9.3f} {s.call_wall:7.3f}"
            f" {s.import_cpu:12.3f} {s.process_cpu:12.3f} {s.process_wall:7.3f}"
        )
    stages = ", ".join(f"{k} {v:.3f}" for k, v in rows["cold"].stages.items())
    print(f"{'':24} stages {stages}", flush=True)


def main() -> None:
    """Prints a line for each model and way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ratio", action="store_true", help="compare 96 layers with 12")
    parser.add_argument("--json", type=Path, help="file for all figures")
    chosen = parser.parse_args()
    few, many = f"{_LAYERS}12", f"{_LAYERS}96"
    models = [*chosen.models, *((few, many) if chosen.ratio else ())] or ["zoo:resnet50"]
    print(f"load {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} CPUs; seconds")
    print(
        f"{'model':24} {'from':6} {'call cpu':>9} {'wall':>7} {'imports cpu':>12}"
        f" {'process cpu':>12} {'wall':>7}"
    )
    found: dict[str, dict[str, Seconds]] = {}
    for model in models:
        found[model] = figures(model, chosen.repeats)
        show(model, found[model])
    if chosen.ratio:
        ratio = found[many]["cold"].call_cpu / found[few]["cold"].call_cpu
        print(f"96 layers cost {ratio:.2f} times the CPU of 12")
    if chosen.json:
        plain = {m: {k: asdict(v) for k, v in rows.items()} for m, rows in found.items()}
        chosen.json.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
