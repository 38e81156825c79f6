"""Products by matrix instructions: what they compute in every executor, and what that takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.schedule.groups import matmul, variables
from tilewright import dtype as dt
from tilewright.backends.cuda.host import host_compiler
from tilewright.backends.cuda.ptx import emit_ptx
from tilewright.backends.cuda.simulator import Counters, Simulator
from tilewright.backends.cuda.source import emit_source
from tilewright.backends.cuda.target import ARCHITECTURES, resolve_cuda
from tilewright.backends.cuda.threads import launch_of
from tilewright.backends.cuda.toolkit import assemble, find_tool
from tilewright.dtype import DType
from tilewright.errors import TargetError
from tilewright.lower.merge import merge_axes
from tilewright.lower.nests import to_func
from tilewright.schedule.recipes import schedule
from tilewright.schedule.recipes.choices import Choices
from tilewright.tensor.check import check
from tilewright.tensor.compute import Compute, ComputeGroup
from tilewright.tensor.interpret import interpret_group
from tilewright.tensor.ir import (
    Axis,
    Barrier,
    Buffer,
    Cast,
    Const,
    Dim,
    Expr,
    Func,
    Reduce,
    Select,
    conjunction,
    le,
    lt,
    maximum,
    symbol,
)
from tilewright.tensor.parse import parse_func
from tilewright.tensor.simplify import evaluate, product
from tilewright.tensor.text import text
from tilewright.tensor.walk import statements

from .executors import Arrays, interpreted, on_host, profile, random_inputs

N = symbol("N")


def halves(
    m_: Dim,
    k_: int,
    n_: int,
    kind: DType = dt.f16,
    out: DType = dt.f32,
    *,
    batch: int = 0,
    transposed: tuple[bool, bool] = (False, False),
) -> ComputeGroup:
    """relu(A B + bias), of halves, summed in f32."""
    b, m, n, k = variables("b m n k")
    lead: tuple[Dim, ...] = (batch,) if batch else ()
    at: tuple[Expr, ...] = (b,) if batch else ()
    left = (k_, m_) if transposed[0] else (m_, k_)
    right = (n_, k_) if transposed[1] else (k_, n_)
    x0, x1 = Buffer("x0", kind, (*lead, *left)), Buffer("x1", kind, (*lead, *right))
    bias, y = Buffer("x2", kind, (n_,)), Buffer("y0", out, (*lead, m_, n_))
    a = x0[(*at, k, m) if transposed[0] else (*at, m, k)]
    w = x1[(*at, n, k) if transposed[1] else (*at, k, n)]
    total = Reduce("sum", (Axis(k, k_),), Cast(a, dt.f32) * Cast(w, dt.f32))
    value: Expr = maximum(total + Cast(bias[n], dt.f32), 0.0)
    value = value if out is dt.f32 else Cast(value, out)
    axes = (*(Axis(b, d) for d in lead), Axis(m, m_), Axis(n, n_))
    return ComputeGroup("halves", (x0, x1, bias), (y,), (Compute(y, axes, value),))


def half_conv(size: int, c: int, o: int, k: int, stride: int, pad: int) -> ComputeGroup:
    n, oh, ow, oc, kh, kw, ci = variables("n oh ow oc kh kw ci")
    out = (size + 2 * pad - k) // stride + 1
    x, w = Buffer("x0", dt.f16, (1, size, size, c)), Buffer("x1", dt.f16, (k, k, c, o))
    y = Buffer("y0", dt.f16, (1, out, out, o))
    ih, iw = oh * stride + kh - pad, ow * stride + kw - pad
    inside = conjunction([le(0, ih), lt(ih, size), le(0, iw), lt(iw, size)])
    value = Cast(Select(inside, x[n, ih, iw, ci], Const(0, dt.f16)), dt.f32)
    body = value * Cast(w[kh, kw, ci, oc], dt.f32)
    total = Reduce("sum", (Axis(kh, k), Axis(kw, k), Axis(ci, c)), body)
    axes = (Axis(n, 1), Axis(oh, out), Axis(ow, out), Axis(oc, o))
    return ComputeGroup("conv", (x, w), (y,), (Compute(y, axes, Cast(total, dt.f16)),))


def scheduled(group: ComputeGroup, target: str = "sm_80") -> Func:
    func = schedule(to_func(merge_axes(group)), resolve_cuda(f"cuda:{target}")).func
    check(func)
    return func


def bound(group: ComputeGroup, given: Arrays, depth: int) -> np.ndarray:
    """How far a sum in another order may be off: K 2^-23 |A| |B|, and a rounding of the result."""
    size = {n: np.abs(a.astype(np.float32)).astype(a.dtype) for n, a in given.items()}
    (y,) = group.outputs
    most = interpret_group(group, size, {})[y.name].astype(np.float64)
    step = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}[y.dtype.name]
    return most * (4 * depth * 2.0**-23 + 2 * step)


def assert_every_executor_agrees(
    group: ComputeGroup, depth: int, *, target: str = "sm_80", dims: dict[str, int] | None = None
) -> Counters:
    dims = dims or {}
    func = scheduled(group, target)
    given = random_inputs(group, dims)
    (y,) = group.outputs
    want = np.asarray(interpret_group(group, given, dims)[y.name]).astype(np.float64)
    limit = np.max(np.abs(want)) * 2.0**-7 if dims else bound(group, given, depth)
    got, counters = profile(func, given, dims)
    results = [got]
    if host_compiler() is not None:
        results += on_host(func, given, dims)
    for result in results:
        off = np.abs(result[y.name].astype(np.float64).reshape(want.shape) - want)
        assert (off <= limit).all(), float(np.max(off))
    return counters


@pytest.mark.parametrize(
    "group",
    [halves(64, 64, 64), halves(70, 200, 104), halves(33, 50, 37), halves(9, 16, 8),
     halves(16, 24, 72, out=dt.f16), halves(40, 72, 40, dt.bf16),
     halves(40, 72, 40, dt.bf16, dt.bf16), halves(20, 40, 24, batch=3),
     halves(40, 72, 48, transposed=(False, True)), halves(40, 72, 48, transposed=(True, False)),
     halves(40, 72, 48, transposed=(True, True)), halves(40, 71, 47, transposed=(True, True))],
    ids=lambda g: "-".join(text(b).replace(" ", "") for b in (*g.inputs[:2], *g.outputs)),
)  # fmt: skip
def test_products_of_halves_use_matrix_instructions_and_are_right(group: ComputeGroup) -> None:
    counters = assert_every_executor_agrees(group, 256)
    assert counters.count("mma.sync") > 0


@pytest.mark.parametrize("rows", [1, 5, 70])
def test_rows_may_be_symbolic(rows: int) -> None:
    counters = assert_every_executor_agrees(halves(N, 72, 48), 72, dims={"N": rows})
    assert counters.count("mma.sync") > 0


@pytest.mark.parametrize(
    "group", [half_conv(12, 16, 24, 3, 1, 1), half_conv(17, 3, 8, 3, 2, 1)], ids=["wide", "odd"]
)
def test_convolutions_of_halves_are_implicit_products(group: ComputeGroup) -> None:
    counters = assert_every_executor_agrees(group, 160)
    assert counters.count("mma.sync") > 0


def test_the_interpreter_computes_what_the_instructions_do() -> None:
    group = halves(20, 24, 40)
    func = scheduled(group)
    given = random_inputs(group, {})
    want = interpret_group(group, given, {})["y0"]
    got = interpreted(func, given, {})["y0"]
    assert (np.abs(got - want) <= bound(group, given, 24)).all()
    assert parse_func(text(func)) == func


def test_tiles_meet_no_bank_conflicts_and_are_copied_in_the_background() -> None:
    counters = assert_every_executor_agrees(halves(128, 256, 128), 256)
    for traffic in (counters.shared_loads, counters.shared_stores):
        assert traffic.pieces == traffic.ideal
    assert counters.tensor_flops == 2 * 128 * 256 * 128
    assert counters.count("cp.async.cg") == 2 * 128 * 256 // 8 // 32 * 2


@pytest.mark.parametrize(
    "given",
    [{"bm": 128, "bn": 128}, {"bm": 16, "bn": 128, "bk": 32}, {"bm": 128, "bn": 32, "stages": 3},
     {"stages": 1}, {"bk": 16, "stages": 3}],
    ids=str,
)  # fmt: skip
def test_every_choice_of_tiles_computes_the_same(given: dict[str, int]) -> None:
    group = halves(130, 200, 136)
    func = schedule(to_func(merge_axes(group)), resolve_cuda("cuda:sm_80"), Choices(given)).func
    check(func)
    taken = sum(evaluate(product(b.shape), {}) * b.dtype.bytes for b in launch_of(func).shared)
    assert taken <= 48 << 10
    inputs = random_inputs(group, {})
    got, counters = profile(func, inputs, {})
    off = np.abs(got["y0"] - interpret_group(group, inputs, {})["y0"])
    assert (off <= bound(group, inputs, 200)).all()
    assert counters.shared_loads.pieces == counters.shared_loads.ideal


@pytest.mark.parametrize("sizes", [(70, 96, 104), (33, 50, 37)], ids=str)
def test_words_of_32_bits_are_rounded_to_tf32_only_where_asked(sizes: tuple[int, int, int]) -> None:
    group = matmul(*sizes)
    given = random_inputs(group, {})
    want = interpret_group(group, given, {})["y0"]
    size = {n: np.abs(a) for n, a in given.items()}
    # Each factor keeps ten bits after the point.
    limit = interpret_group(group, size, {})["y0"] * 2.0**-10
    nests = to_func(merge_axes(group))
    for answers in ({}, {"tf32": 1}):
        func = schedule(nests, resolve_cuda("cuda:sm_80"), Choices(answers)).func
        check(func)
        got, counters = profile(func, given, {})
        results = [got, *(on_host(func, given, {}) if host_compiler() is not None else ())]
        assert all((np.abs(r["y0"] - want) <= limit).all() for r in results)
        assert (counters.count("mma.sync") > 0) == bool(answers)
        assert counters.shared_loads.pieces == counters.shared_loads.ideal
        if find_tool("ptxas") is not None and answers:
            made = assemble(emit_ptx([func], resolve_cuda("cuda:sm_80")), "sm_80")
            assert all(k.spills == 0 for k in made.kernels.values())


def test_a_step_waits_once() -> None:
    func = scheduled(halves(128, 256, 128))
    assert len([s for s in statements(func.body) if isinstance(s, Barrier)]) == 2


def test_older_gpus_copy_in_the_foreground_with_smaller_instructions() -> None:
    func = scheduled(halves(70, 72, 104), "sm_75")
    ptx = emit_ptx([func], resolve_cuda("cuda:sm_75"))
    assert "m16n8k8" in ptx
    assert "cp.async" not in ptx
    assert_every_executor_agrees(halves(70, 72, 104), 72, target="sm_75")


def test_an_instruction_that_the_target_lacks_is_refused_before_any_code() -> None:
    func = scheduled(halves(64, 64, 64), "sm_80")
    with pytest.raises(TargetError, match=r"TW-E0411.*needs sm_80 and PTX 7.0; cuda:sm_75"):
        emit_ptx([func], resolve_cuda("cuda:sm_75"))


def test_the_source_names_its_helpers() -> None:
    source = emit_source([scheduled(halves(64, 64, 64))])
    for helper in ("tw_mma_m16n8k16_f16(r0", "tw_ldmatrix<4, true>(fb", "tw_copy16(x0_a"):
        assert helper in source


@pytest.mark.skipif(
    find_tool("ptxas") is None,
    reason="NVIDIA's assembler is not there (pip install nvidia-cuda-nvcc)",
)
@pytest.mark.parametrize("target", ARCHITECTURES)
def test_nvidias_assembler_takes_the_products_without_spills(target: str) -> None:
    for kind in (dt.f16, dt.bf16) if target != "sm_75" else (dt.f16,):
        func = scheduled(halves(200, 256, 136, kind), target)
        made = assemble(emit_ptx([func], resolve_cuda(f"cuda:{target}")), target)
        (taken,) = made.kernels.values()
        assert (taken.spills, taken.stack) == (0, 0)


needs_nvcc = pytest.mark.skipif(
    find_tool("nvcc") is None, reason="no nvcc: pip install nvidia-cuda-nvcc"
)


def compiled(func: Func, target: str, folder: Path, *flags: str) -> tuple[bytes, str]:
    """What nvcc makes of the CUDA C++ of a function, and what it says."""
    source, made = folder / "kernel.cu", folder / "kernel.out"
    source.write_text(emit_source([func]))
    command = [str(find_tool("nvcc")), f"-arch={target}", "-std=c++17", "-w", *flags]
    done = subprocess.run(
        [*command, str(source), "-o", str(made)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return made.read_bytes(), done.stderr


@needs_nvcc
@pytest.mark.parametrize("target", ARCHITECTURES)
def test_nvcc_takes_the_source_without_spills(target: str, tmp_path: Path) -> None:
    func = scheduled(halves(200, 256, 136), target)
    _, said = compiled(func, target, tmp_path, "-cubin", "-Xptxas", "-v")
    assert "0 bytes spill stores, 0 bytes spill loads" in said


@needs_nvcc
def test_what_nvcc_makes_of_the_source_computes_the_same(tmp_path: Path) -> None:
    group = halves(70, 200, 104)
    func = scheduled(group)
    ptx, _ = compiled(func, "sm_80", tmp_path, "-ptx")
    simulator, launch, given = Simulator(), launch_of(func), random_inputs(group, {})
    args = [simulator.place(given[b.name]) for b in group.inputs]
    args.append(simulator.allocate(70 * 104 * 4, "y0"))
    kernel = simulator.load(ptx.decode()).kernel(func.name)
    grid = tuple(evaluate(d, {}) for d in launch.grid)
    counters = simulator.launch(kernel, grid, (*launch.block, 1), args)
    off = np.abs(simulator.copy_out(args[-1], (70, 104), np.float32)
                 - interpret_group(group, given, {})["y0"])  # fmt: skip
    assert (off <= bound(group, given, 200)).all()
    assert counters.shared_loads.pieces == counters.shared_loads.ideal
