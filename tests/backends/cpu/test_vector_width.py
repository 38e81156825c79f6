"""Code uses the vectors of its target, no wider and no narrower, for kernels of every kind."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.api import compile as compile_model
from tilewright.backends import load_backend
from tilewright.backends.cpu.target import TARGETS, missing_features, resolve_target, runs_here
from tilewright.graph.build import GraphBuilder
from tilewright.graph.interpret import interpret
from tilewright.graph.ir import Graph, TensorType
from tilewright.pipeline import build
from tilewright.runtime.cache import NO_CACHE
from tilewright.stages import Log

from .cross.agreement import assert_close
from .cross.cases import MODELS

BACKEND = load_backend("cpu")


def matmul() -> Graph:
    b = GraphBuilder("matmul")
    x = b.input("x", TensorType(dt.f32, (64, 64)))
    w = b.constant(np.ones((64, 64), np.float32))
    b.output(b.add("matmul", x, w))
    return b.finish()


def exponential() -> Graph:
    b = GraphBuilder("exponential")
    b.output(b.add("exp", b.input("x", TensorType(dt.f32, (1024,)))))
    return b.finish()


def row_sums() -> Graph:
    b = GraphBuilder("row_sums")
    x = b.input("x", TensorType(dt.f32, (32, 256)))
    b.output(b.add("reduce", x, op="sum", axes=(1,), keepdims=False))
    return b.finish()


# What arithmetic on whole vectors of f32 looks like, and on single ones.
VECTOR = {
    "x86-64-v2": r"(mul|add)ps\s.*%xmm",
    "x86-64-v3": r"v(fm?n?m?add\w*|mul|add)ps\s.*%ymm",
    "x86-64-v4": r"v(fm?n?m?add\w*|mul|add)ps\s.*%zmm",
    "aarch64": r"(fmla|fmul|fadd)\s+v\d+\.4s",
    "aarch64-sve256": r"(fmla|fmad|fmul|fadd)\s+z\d+\.s",
    "riscv64": r"vf(macc|madd|mul|add)\.v[vf]",
    "riscv64-zvl256b": r"vf(macc|madd|mul|add)\.v[vf]",
    "wasm32": r"f32x4\.(mul|add)",
}
SINGLE = {
    "x86-64-v2": r"(mul|add)ss\s",
    "x86-64-v3": r"v(fm?n?m?add\w*|mul)ss\s",
    "x86-64-v4": r"v(fm?n?m?add\w*|mul)ss\s",
    "aarch64": r"(fmadd|fmul)\s+s\d",
    "aarch64-sve256": r"(fmadd|fmul)\s+s\d",
    "riscv64": r"\tf(madd|mul)\.s",
    "riscv64-zvl256b": r"\tf(madd|mul)\.s",
    "wasm32": r"f32\.mul",
}
WIDER = {"x86-64-v2": "%[yz]mm", "x86-64-v3": "%zmm"}
# Elements that one instruction works on: RISC-V says so ahead of it.
LENGTH = {"riscv64": r"vsetivli\s+zero, 4, e32, m1", "riscv64-zvl256b": r"zero, 8, e32, m1"}


def assembly(graph: Graph, target: str) -> str:
    made = build(graph, resolve_target(target), BACKEND, NO_CACHE, Log())
    return BACKEND.stages["asm"](made.unit)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", [matmul, exponential, row_sums], ids=lambda f: f.__name__)
def test_arithmetic_fills_the_vectors_of_the_target(
    kernel: Callable[[], Graph], target: str
) -> None:
    text = assembly(kernel(), target)
    vectors, singles = (len(re.findall(p[target], text)) for p in (VECTOR, SINGLE))
    assert vectors >= 4
    # The end of a reduction over lanes is all that is done one by one.
    assert singles * 4 <= vectors
    assert re.search(LENGTH.get(target, ""), text)
    assert target not in WIDER or not re.search(WIDER[target], text)


# Multiply-adds, and loads of either operand (a broadcast may be a load).
TILED = {
    "x86-64-v4": (r"vfmadd", r"vmovups|vbroadcastss"),
    "aarch64": (r"fmla", r"ldp|ldr|ld1r"),
    "aarch64-sve256": (r"fmla|fmad", r"ldr|ld1rw"),
    "riscv64": (r"vfmacc", r"vle32|flw"),
    "riscv64-zvl256b": (r"vfmacc", r"vle32|flw"),
}


@pytest.mark.parametrize("target", TILED)
def test_the_inner_loop_of_a_product_keeps_its_tile_in_registers(target: str) -> None:
    text = assembly(matmul(), target)
    pattern, load = TILED[target]
    loops = [part for part in text.split("LBB") if len(re.findall(pattern, part)) >= 20]
    # From its label to the branch back to it.
    body = re.split(r"\n\t(?:b\.lt|blt|jl)\t", min(loops, key=len))[0]
    lines = [line.split()[0] for line in body.splitlines()[1:]]
    products = sum(bool(re.match(pattern, op)) for op in lines)
    loads = sum(bool(re.match(load, op)) for op in lines)
    assert products >= 20
    # An operand is used several times once it is loaded, and nothing is stored.
    assert loads * 2 <= products
    assert not any(op.startswith(("st", "vse", "fsw", "vs1r")) for op in lines)
    assert len(lines) - products - loads <= products // 2


@pytest.mark.parametrize("target", [n for n, t in TARGETS.items() if t.architecture == "x86_64"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_level_computes_whole_models(name: str, target: str) -> None:
    resolved = resolve_target(target)
    if not runs_here(resolved) or missing_features(resolved):
        pytest.skip(f"this CPU is below {target}")
    case = MODELS[name]()
    names = [v.name for v in case.graph.inputs]
    with np.errstate(all="ignore"):
        wanted = interpret(case.graph, dict(zip(names, case.inputs, strict=True)))
    found = compile_model(case.graph, target=target, threads=2, cache=False)(*case.inputs)
    for have, want in zip(found, wanted, strict=True):
        assert_close(name, have, want)
