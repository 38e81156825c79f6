"""What LLVM's NVPTX target emits runs: arithmetic, control, intrinsics, tensor cores."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilewright.backends.cuda.simulator import Simulator

from .assembler import PTXAS, complaints, needs_ptxas
from .nvptx import emit

Array = np.ndarray[Any, np.dtype[Any]]
INTRINSICS = """
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ntid.x()
declare void @llvm.nvvm.barrier.cta.sync.aligned.all(i32)
declare i32 @llvm.nvvm.shfl.sync.bfly.i32(i32, i32, i32, i32)
declare float @llvm.nvvm.shfl.sync.down.f32(i32, float, i32, i32)
declare i32 @llvm.nvvm.redux.sync.add(i32, i32)
declare i32 @llvm.nvvm.idp4a.s.s(i32, i32, i32)
declare float @llvm.fma.f32(float, float, float)
declare float @llvm.exp2.f32(float)
declare float @llvm.sqrt.f32(float)
declare float @llvm.floor.f32(float)
declare float @llvm.rint.f32(float)
declare float @llvm.maximum.f32(float, float)
declare float @llvm.minnum.f32(float, float)
declare float @llvm.copysign.f32(float, float)
declare half @llvm.fma.f16(half, half, half)
declare <2 x half> @llvm.fma.v2f16(<2 x half>, <2 x half>, <2 x half>)
declare i32 @llvm.ctpop.i32(i32)
declare i32 @llvm.ctlz.i32(i32, i1)
declare i32 @llvm.cttz.i32(i32, i1)
declare i32 @llvm.bitreverse.i32(i32)
declare i32 @llvm.bswap.i32(i32)
declare i32 @llvm.fshl.i32(i32, i32, i32)
declare i32 @llvm.sadd.sat.i32(i32, i32)
declare i32 @llvm.smax.i32(i32, i32)
declare i64 @llvm.abs.i64(i64, i1)
declare float @llvm.sin.f32(float)
declare float @llvm.tanh.f32(float)
"""


def kernel(body: str, of: str, to: str, name: str = "k") -> str:
    """IR of a kernel with ``%y`` (of type ``to``) computed from ``%a`` and ``%b``, lane by lane."""
    return f"""
    define ptx_kernel void @{name}(ptr addrspace(1) noalias %A, ptr addrspace(1) noalias %B,
                                   ptr addrspace(1) noalias %Y, i32 %n) {{
      %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
      %c = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
      %s = call i32 @llvm.nvvm.read.ptx.sreg.ntid.x()
      %o = mul i32 %c, %s
      %i = add i32 %o, %t
      %in = icmp slt i32 %i, %n
      br i1 %in, label %go, label %end
    go:
      %pa = getelementptr {of}, ptr addrspace(1) %A, i32 %i
      %pb = getelementptr {of}, ptr addrspace(1) %B, i32 %i
      %a = load {of}, ptr addrspace(1) %pa
      %b = load {of}, ptr addrspace(1) %pb
      {body}
      %py = getelementptr {to}, ptr addrspace(1) %Y, i32 %i
      store {to} %y, ptr addrspace(1) %py
      br label %end
    end:
      ret void
    }}"""


def run(text: str, a: Array, b: Array, result: Any, cpu: str = "sm_80") -> Array:
    """What the kernel ``k`` of a module computes."""
    features = "+ptx80" if cpu == "sm_90" else ""
    return launch(emit(INTRINSICS + text, cpu, features), "k", a, b, result)


def launch(ptx: str, name: str, a: Array, b: Array, result: Any) -> Array:
    simulator = Simulator()
    places = [simulator.place(x) for x in (a, b)]
    dtype = np.dtype(result)
    out = simulator.allocate(dtype.itemsize * len(a))
    kernel = simulator.load(ptx).kernel(name)
    simulator.launch(kernel, -(-len(a) // 64), 64, (*places, out, len(a)))
    return simulator.copy_out(out, (len(a),), dtype)


@cache
def table(of: str) -> str:
    """PTX of a kernel for each entry of FLOAT or INTEGER; one process emits them all."""
    entries = FLOAT if of == "float" else INTEGER
    return emit(
        INTRINSICS
        + "".join(kernel(body, of, of, f"k{i}") for i, (body, _) in enumerate(entries.values()))
    )


def floats(dtype: Any = np.float32) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 200))
    return (a * 5).astype(dtype), (b * 5).astype(dtype)


def integers(dtype: Any = np.int32) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    info = np.iinfo(dtype)
    a, b = rng.integers(info.min, info.max, (2, 200), dtype, endpoint=True)
    b[b == 0] = 3
    return a, b


FLOAT: dict[str, tuple[str, Callable[..., Any]]] = {
    "fma": ("%y = call float @llvm.fma.f32(float %a, float %b, float 2.0)",
            lambda a, b: (a.astype(np.float64) * b + 2).astype(np.float32)),
    "exp2": ("%y = call float @llvm.exp2.f32(float %a)", lambda a, b: np.exp2(a)),
    "sqrt": ("%p = fmul float %a, %a\n %y = call float @llvm.sqrt.f32(float %p)",
             lambda a, b: np.sqrt(a * a)),
    "floor": ("%y = call float @llvm.floor.f32(float %a)", lambda a, b: np.floor(a)),
    "rint": ("%y = call float @llvm.rint.f32(float %a)", lambda a, b: np.rint(a)),
    "maximum": ("%y = call float @llvm.maximum.f32(float %a, float %b)",
                np.maximum),
    "minnum": ("%y = call float @llvm.minnum.f32(float %a, float %b)", np.fmin),
    "copysign": ("%y = call float @llvm.copysign.f32(float %a, float %b)",
                 np.copysign),
    "fdiv": ("%y = fdiv float %a, %b", lambda a, b: a / b),
    "frem": ("%y = frem float %a, %b", np.fmod),
    "sin": ("%y = call afn float @llvm.sin.f32(float %a)", lambda a, b: np.sin(a)),
    "tanh": ("%y = call afn float @llvm.tanh.f32(float %a)", lambda a, b: np.tanh(a)),
    "select": ("%c1 = fcmp olt float %a, %b\n %y = select i1 %c1, float %a, float 1.5",
               lambda a, b: np.where(a < b, a, np.float32(1.5))),
    "to f16 and back": ("%h = fptrunc float %a to half\n %y = fpext half %h to float",
                        lambda a, b: a.astype(np.float16).astype(np.float32)),
    "to i32 and back": ("%h = fptosi float %a to i32\n %y = sitofp i32 %h to float",
                        lambda a, b: np.trunc(a)),
    "through f64": ("%h = fpext float %a to double\n %g = fmul double %h, 1.1\n"
                    "%y = fptrunc double %g to float",
                    lambda a, b: (a.astype(np.float64) * 1.1).astype(np.float32)),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOAT)
def test_float_operations(name: str) -> None:
    _, formula = FLOAT[name]
    a, b = floats()
    found = launch(table("float"), f"k{list(FLOAT).index(name)}", a, b, np.float32)
    np.testing.assert_allclose(found, formula(a, b), rtol=3e-7, atol=1e-6 if name == "frem" else 0)


INTEGER: dict[str, tuple[str, Callable[..., Any]]] = {
    "sdiv": ("%y = sdiv i32 %a, %b",
             lambda a, b: np.fix(a.astype(np.float64) / b).astype(np.int64)),
    "urem": ("%y = urem i32 %a, %b", lambda a, b: a.view(np.uint32) % b.view(np.uint32)),
    "ashr": ("%m = and i32 %b, 31\n %y = ashr i32 %a, %m", lambda a, b: a >> (b & 31)),
    "ctpop": ("%y = call i32 @llvm.ctpop.i32(i32 %a)",
              lambda a, b: np.bitwise_count(a.view(np.uint32))),
    "ctlz": ("%y = call i32 @llvm.ctlz.i32(i32 %a, i1 false)",
             lambda a, b: [32 - int(x).bit_length() for x in a.view(np.uint32)]),
    "cttz": ("%y = call i32 @llvm.cttz.i32(i32 %a, i1 false)",
             lambda a, b: [(int(x) & -int(x)).bit_length() - 1 for x in a]),
    "bitreverse": ("%y = call i32 @llvm.bitreverse.i32(i32 %a)",
                   lambda a, b: [int(f"{int(x):032b}"[::-1], 2) for x in a.view(np.uint32)]),
    "bswap": ("%y = call i32 @llvm.bswap.i32(i32 %a)", lambda a, b: a.byteswap()),
    "fshl": ("%y = call i32 @llvm.fshl.i32(i32 %a, i32 %b, i32 7)",
             lambda a, b: (a.view(np.uint32) << 7) | (b.view(np.uint32) >> 25)),
    "saturated": ("%y = call i32 @llvm.sadd.sat.i32(i32 %a, i32 %b)",
                  lambda a, b: np.clip(a.astype(np.int64) + b, -(2**31), 2**31 - 1)),
    "smax": ("%y = call i32 @llvm.smax.i32(i32 %a, i32 %b)", np.maximum),
    "wide": ("%x = sext i32 %a to i64\n %z = sext i32 %b to i64\n %m = mul i64 %x, %z\n"
             "%q = call i64 @llvm.abs.i64(i64 %m, i1 false)\n %h = lshr i64 %q, 30\n"
             "%y = trunc i64 %h to i32",
             lambda a, b: np.abs(a.astype(np.int64) * b) >> 30),
    "bytes": ("%u = trunc i32 %a to i8\n %v = trunc i32 %b to i8\n %w = mul i8 %u, %v\n"
              "%y = sext i8 %w to i32",
              lambda a, b: (a.astype(np.int8) * b.astype(np.int8)).astype(np.int32)),
    "dp4a": ("%y = call i32 @llvm.nvvm.idp4a.s.s(i32 %a, i32 %b, i32 5)",
             lambda a, b: 5 + (a.view(np.int8).reshape(-1, 4).astype(int)
                               * b.view(np.int8).reshape(-1, 4)).sum(1)),
    "fields": ("%u = lshr i32 %a, 9\n %v = and i32 %u, 1023\n %w = shl i32 %b, 10\n"
               "%y = or i32 %v, %w",
               lambda a, b: ((a.view(np.uint32) >> 9) & 1023) | (b.view(np.uint32) << 10)),
}  # fmt: skip


@pytest.mark.parametrize("name", INTEGER)
def test_integer_operations(name: str) -> None:
    _, formula = INTEGER[name]
    a, b = integers()
    with np.errstate(over="ignore"):
        expected = np.asarray(formula(a, b)).astype(np.int64) & 0xFFFFFFFF
    found = launch(table("i32"), f"k{list(INTEGER).index(name)}", a, b, np.uint32)
    np.testing.assert_array_equal(found, expected)


def test_half_and_bfloat_arithmetic() -> None:
    a, b = floats(np.float16)
    body = "%y = call half @llvm.fma.f16(half %a, half %b, half 0xH3C00)"
    found = run(kernel(body, "half", "half"), a, b, np.float16)
    expected = (a.astype(np.float64) * b + 1).astype(np.float16)
    np.testing.assert_array_equal(found, expected)
    pairs = "%y = call <2 x half> @llvm.fma.v2f16(<2 x half> %a, <2 x half> %b, <2 x half> %b)"
    text = kernel(pairs, "<2 x half>", "<2 x half>")
    found = run(text, a.view(np.uint32), b.view(np.uint32), np.uint32)
    expected = (a.astype(np.float64) * b + b).astype(np.float16)
    np.testing.assert_array_equal(found.view(np.float16), expected)
    wide, _ = floats()
    body = """
      %h = fptrunc float %a to bfloat
      %g = fmul bfloat %h, %h
      %y = fpext bfloat %g to float
    """
    found = run(kernel(body, "float", "float"), wide, wide, np.float32, "sm_90")
    short = (wide.view(np.uint32) + 0x7FFF + (wide.view(np.uint32) >> 16 & 1)) >> 16 << 16
    square = np.square(short.view(np.float32))
    assert np.abs(found / square - 1).max() < 2**-8


SWITCH = """
      switch i32 %a, label %other [ i32 0, label %c0  i32 1, label %c1  i32 2, label %c2
                                   i32 3, label %c3  i32 4, label %c4  i32 5, label %c5 ]
    c0:
      %v0 = mul i32 %b, %b
      br label %join
    c1:
      %v1 = sdiv i32 %b, 7
      br label %join
    c2:
      %v2 = xor i32 %b, 255
      br label %join
    c3:
      %v3 = call i32 @llvm.ctpop.i32(i32 %b)
      br label %join
    c4:
      %v4 = srem i32 %b, 11
      br label %join
    c5:
      %v5 = shl i32 %b, 3
      br label %join
    other:
      br label %join
    join:
      %y = phi i32 [ %v0, %c0 ], [ %v1, %c1 ], [ %v2, %c2 ], [ %v3, %c3 ], [ %v4, %c4 ],
                   [ %v5, %c5 ], [ -1, %other ]
"""


def test_a_switch_parts_lanes_and_joins_them() -> None:
    a = np.random.default_rng(0).integers(0, 8, 200).astype(np.int32)
    b = np.arange(200, dtype=np.int32)
    found = run(kernel(SWITCH, "i32", "i32"), a, b, np.int32)
    cases = [b * b, b // 7, b ^ 255, np.bitwise_count(b), b % 11, b << 3, -1 + 0 * b, -1 + 0 * b]
    np.testing.assert_array_equal(found, np.choose(a, cases))


def test_shared_memory_and_shuffles_reduce_a_block() -> None:
    text = f"""{INTRINSICS}
    @parts = internal addrspace(3) global [2 x float] undef, align 16
    define ptx_kernel void @k(ptr addrspace(1) noalias %A, ptr addrspace(1) noalias %Y) {{
      %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
      %pa = getelementptr float, ptr addrspace(1) %A, i32 %t
      %v0 = load float, ptr addrspace(1) %pa
      {
        "".join(
            f'''
      %s{i} = call float @llvm.nvvm.shfl.sync.down.f32(i32 -1, float %v{i}, i32 {16 >> i}, i32 31)
      %v{i + 1} = fadd float %v{i}, %s{i}'''
            for i in range(5)
        )
    }
      %lane = and i32 %t, 31
      %warp = lshr i32 %t, 5
      %first = icmp eq i32 %lane, 0
      br i1 %first, label %put, label %wait
    put:
      %p = getelementptr float, ptr addrspace(3) @parts, i32 %warp
      store float %v5, ptr addrspace(3) %p
      br label %wait
    wait:
      call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)
      %x = load float, ptr addrspace(3) @parts
      %q = getelementptr float, ptr addrspace(3) @parts, i32 1
      %z = load float, ptr addrspace(3) %q
      %y = fadd float %x, %z
      %py = getelementptr float, ptr addrspace(1) %Y, i32 %t
      store float %y, ptr addrspace(1) %py
      ret void
    }}"""
    simulator = Simulator()
    x = np.arange(64, dtype=np.float32)
    px, py = simulator.place(x), simulator.allocate(256)
    simulator.launch(simulator.load(emit(text)).kernel("k"), 1, 64, (px, py))
    np.testing.assert_array_equal(simulator.copy_out(py, (64,), np.float32), x.sum())


ATOMIC = f"""{INTRINSICS}
    define ptx_kernel void @k(ptr addrspace(1) %A, ptr addrspace(1) %Y) {{
      %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
      %pa = getelementptr float, ptr addrspace(1) %A, i32 %t
      %v = load float, ptr addrspace(1) %pa
      %o = atomicrmw fadd ptr addrspace(1) %Y, float %v seq_cst
      %pm = getelementptr float, ptr addrspace(1) %Y, i32 1
      %m = atomicrmw fmax ptr addrspace(1) %pm, float %v seq_cst
      %pi = getelementptr i32, ptr addrspace(1) %Y, i32 2
      %n = atomicrmw umax ptr addrspace(1) %pi, i32 %t monotonic
      ret void
    }}"""


def test_atomics_and_the_loop_that_llvm_makes_of_fmax() -> None:
    simulator = Simulator()
    x = np.random.default_rng(0).permutation(64).astype(np.float32)
    px, py = simulator.place(x), simulator.place(np.zeros(4, np.float32))
    simulator.launch(simulator.load(emit(ATOMIC)).kernel("k"), 1, 64, (px, py))
    found = simulator.copy_out(py, (4,), np.float32)
    assert found[0] == x.sum()
    assert found[1] == 63
    assert found.view(np.uint32)[2] == 63


def test_functions_are_called() -> None:
    text = kernel("%y = call float @poly(float %a, float %b)", "float", "float")
    text += """
    define internal float @poly(float %x, float %c) noinline {
      %p = fmul float %x, %c
      %b = fcmp ogt float %p, 0.0
      br i1 %b, label %more, label %less
    more:
      %q = fadd float %p, 1.0
      ret float %q
    less:
      ret float %p
    }"""
    a, b = floats()
    found = run(text, a, b, np.float32)
    np.testing.assert_array_equal(found, np.where(a * b > 0, a * b + 1, a * b))


def test_vectors_and_local_arrays() -> None:
    text = f"""{INTRINSICS}
    define ptx_kernel void @k(ptr addrspace(1) noalias align 16 %A,
                              ptr addrspace(1) align 16 %Y, i32 %j) {{
      %v = alloca [8 x i32], align 16
      %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
      %pa = getelementptr <4 x i32>, ptr addrspace(1) %A, i32 %t
      %x = load <4 x i32>, ptr addrspace(1) %pa, align 16
      store <4 x i32> %x, ptr %v, align 16
      %h = getelementptr i32, ptr %v, i32 4
      %d = add <4 x i32> %x, %x
      store <4 x i32> %d, ptr %h, align 16
      %s = add i32 %t, %j
      %i = and i32 %s, 7
      %p = getelementptr i32, ptr %v, i32 %i
      %e = load i32, ptr %p
      %py = getelementptr i32, ptr addrspace(1) %Y, i32 %t
      store i32 %e, ptr addrspace(1) %py
      ret void
    }}"""
    simulator = Simulator()
    x = np.arange(256, dtype=np.int32).reshape(64, 4)
    px, py = simulator.place(x), simulator.allocate(256)
    simulator.launch(simulator.load(emit(text)).kernel("k"), 1, 64, (px, py, 3))
    both = np.concatenate([x, 2 * x], 1)
    expected = both[np.arange(64), (np.arange(64) + 3) % 8]
    np.testing.assert_array_equal(simulator.copy_out(py, (64,), np.int32), expected)


EIGHT = """
    declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
    declare <8 x float> @llvm.fma.v8f32(<8 x float>, <8 x float>, <8 x float>)
    define ptx_kernel void @k(ptr addrspace(1) noalias align 32 %A,
                              ptr addrspace(1) noalias align 32 %Y) {
      %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
      %p = getelementptr <8 x float>, ptr addrspace(1) %A, i32 %t
      %x = load <8 x float>, ptr addrspace(1) %p, align 32
      %y = call <8 x float> @llvm.fma.v8f32(<8 x float> %x, <8 x float> %x, <8 x float> %x)
      %z = fadd <8 x float> %y, %x
      %w = fmul <8 x float> %z, %x
      %q = getelementptr <8 x float>, ptr addrspace(1) %Y, i32 %t
      store <8 x float> %w, ptr addrspace(1) %q, align 32
      ret void
    }"""


@pytest.mark.parametrize(("cpu", "features"), [("sm_80", ""), ("sm_100", "+ptx88")])
def test_vectors_of_256_bits_and_pairs_of_f32(cpu: str, features: str, tmp_path: Path) -> None:
    text = emit(EIGHT, cpu, features)
    wide = cpu == "sm_100"
    assert ("fma.rn.f32x2" in text) == wide
    simulator = Simulator()
    x = np.random.default_rng(0).standard_normal(256).astype(np.float32)
    px, py = simulator.place(x), simulator.allocate(1024)
    counters = simulator.launch(simulator.load(text).kernel("k"), 1, 32, (px, py))
    once = (x.astype(np.float64) * x + x).astype(np.float32)
    np.testing.assert_array_equal(simulator.copy_out(py, (256,), np.float32), (once + x) * x)
    assert counters.global_stores.pieces == (32 if wide else 64)
    if PTXAS is not None:
        assert complaints(text, cpu, tmp_path) == ""


def test_dimensions_of_a_loop_are_data() -> None:
    """A loop whose length differs from lane to lane."""
    body = """
      br label %loop
    loop:
      %k = phi i32 [ 0, %go ], [ %k1, %loop ]
      %s0 = phi i32 [ 0, %go ], [ %s1, %loop ]
      %sq = mul i32 %k, %k
      %s1 = add i32 %s0, %sq
      %k1 = add i32 %k, 1
      %w = xor i32 %s1, %b
      %m = icmp slt i32 %k1, %a
      br i1 %m, label %loop, label %out
    out:
      %y = add i32 %s1, %w
    """
    a = np.random.default_rng(0).integers(1, 40, 200).astype(np.int32)
    b = np.arange(200, dtype=np.int32)
    total = np.array([sum(k * k for k in range(int(n))) for n in a])
    found = run(kernel(body, "i32", "i32"), a, b, np.int32)
    np.testing.assert_array_equal(found, total + (total ^ b))


TENSOR = """
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
declare {i32, i32, i32, i32} @llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.b16.p3(ptr addrspace(3))
declare {i32, i32} @llvm.nvvm.ldmatrix.sync.aligned.m8n8.x2.trans.b16.p3(ptr addrspace(3))
declare void @llvm.nvvm.cp.async.cg.shared.global.16(ptr addrspace(3), ptr addrspace(1))
declare void @llvm.nvvm.cp.async.commit.group()
declare void @llvm.nvvm.cp.async.wait.group(i32)
declare void @llvm.nvvm.barrier.cta.sync.aligned.all(i32)
declare {float, float, float, float} @llvm.nvvm.mma.m16n8k16.row.col.KIND(ARGS)
@a = internal addrspace(3) global [256 x half] undef, align 16
@b = internal addrspace(3) global [128 x half] undef, align 16
define ptx_kernel void @k(ptr addrspace(1) noalias align 16 %A,
                          ptr addrspace(1) noalias align 16 %B,
                          ptr addrspace(1) noalias align 16 %C) {
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %o = mul i32 %t, 8
  %fa = getelementptr half, ptr addrspace(1) %A, i32 %o
  %na = getelementptr half, ptr addrspace(3) @a, i32 %o
  call void @llvm.nvvm.cp.async.cg.shared.global.16(ptr addrspace(3) %na, ptr addrspace(1) %fa)
  %half = icmp ult i32 %t, 16
  br i1 %half, label %more, label %done
more:
  %fb = getelementptr half, ptr addrspace(1) %B, i32 %o
  %nb = getelementptr half, ptr addrspace(3) @b, i32 %o
  call void @llvm.nvvm.cp.async.cg.shared.global.16(ptr addrspace(3) %nb, ptr addrspace(1) %fb)
  br label %done
done:
  call void @llvm.nvvm.cp.async.commit.group()
  call void @llvm.nvvm.cp.async.wait.group(i32 0)
  call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)
  %r = and i32 %t, 15
  %h = lshr i32 %t, 4
  %r16 = mul i32 %r, 16
  %h8 = mul i32 %h, 8
  %ai = add i32 %r16, %h8
  %ap = getelementptr half, ptr addrspace(3) @a, i32 %ai
  %x = call {i32, i32, i32, i32}
       @llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.b16.p3(ptr addrspace(3) %ap)
  %bi = mul i32 %r, 8
  %bp = getelementptr half, ptr addrspace(3) @b, i32 %bi
  %z = call {i32, i32} @llvm.nvvm.ldmatrix.sync.aligned.m8n8.x2.trans.b16.p3(ptr addrspace(3) %bp)
  PARTS
  %d = call {float, float, float, float} @llvm.nvvm.mma.m16n8k16.row.col.KIND(VALUES)
  %g = lshr i32 %t, 2
  %q = and i32 %t, 3
  %g8 = mul i32 %g, 8
  %q2 = mul i32 %q, 2
  %ci = add i32 %g8, %q2
  STORES
  ret void
}
"""


def tensor(kind: str) -> str:
    half = kind == "f32.f32"
    vector = "<2 x half>" if half else "i32"
    arguments = ", ".join([vector] * 6 + ["float"] * 4)
    parts, values = [], []
    for i in range(6):
        source, at, width = ("%x", i, 4) if i < 4 else ("%z", i - 4, 2)
        struct = "{" + ", ".join(["i32"] * width) + "}"
        parts.append(f"%e{i} = extractvalue {struct} {source}, {at}")
        if half:
            parts.append(f"%v{i} = bitcast i32 %e{i} to <2 x half>")
        values.append(f"{vector} %{'v' if half else 'e'}{i}")
    stores = []
    for i in range(4):
        stores += [
            f"%s{i} = extractvalue {{float, float, float, float}} %d, {i}",
            f"%ci{i} = add i32 %ci, {i % 2 + 64 * (i // 2)}",
            f"%cp{i} = getelementptr float, ptr addrspace(1) %C, i32 %ci{i}",
            f"store float %s{i}, ptr addrspace(1) %cp{i}",
        ]
    values += ["float 1.0"] * 4
    return (
        TENSOR.replace("KIND", kind)
        .replace("ARGS", arguments)
        .replace("PARTS", "\n  ".join(parts))
        .replace("VALUES", ", ".join(values))
        .replace("STORES", "\n  ".join(stores))
    )


@pytest.mark.parametrize("kind", ["f32.f32", "bf16"])
def test_tensor_core_intrinsics_multiply_a_tile(kind: str) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(-9, 9, (16, 16)).astype(np.float32)
    b = rng.integers(-9, 9, (16, 8)).astype(np.float32)

    def bits(x: Array) -> Array:
        if kind == "bf16":
            return (x.view(np.uint32) >> 16).astype(np.uint16)
        return x.astype(np.float16).view(np.uint16)

    simulator = Simulator()
    pa, pb, pc = simulator.place(bits(a)), simulator.place(bits(b)), simulator.allocate(512)
    simulator.launch(simulator.load(emit(tensor(kind))).kernel("k"), 1, 32, (pa, pb, pc))
    np.testing.assert_array_equal(simulator.copy_out(pc, (16, 8), np.float32), a @ b + 1)


@needs_ptxas
@pytest.mark.parametrize("cpu", ["sm_80", "sm_90", "sm_100", "sm_120"])
def test_the_same_text_assembles(cpu: str, tmp_path: Path) -> None:
    for text in (INTRINSICS + kernel(SWITCH, "i32", "i32"), ATOMIC, tensor("bf16")):
        assert complaints(emit(text, cpu), cpu, tmp_path) == ""


def test_an_exponential_is_right_to_two_units() -> None:
    """exp(x) = exp2(x log2 e) with the constant in two parts, as generated code has it."""
    high = float(np.float32(math.log2(math.e)))
    low = math.log2(math.e) - high
    body = f"""
      %m = fmul float %a, {hexadecimal(high)}
      %neg = fneg float %m
      %e = call float @llvm.fma.f32(float %a, float {hexadecimal(high)}, float %neg)
      %f = call float @llvm.fma.f32(float %a, float {hexadecimal(low)}, float %e)
      %x = call float @llvm.exp2.f32(float %m)
      %g = fmul float %f, {hexadecimal(math.log(2))}
      %y = call float @llvm.fma.f32(float %x, float %g, float %x)
    """
    a, b = floats()
    found = run(kernel(body, "float", "float"), a, b, np.float32)
    exact = np.exp(a.astype(np.float64))
    assert np.max(np.abs(found - exact) / np.spacing(exact.astype(np.float32))) < 2


def hexadecimal(value: float) -> str:
    """A float literal of LLVM, rounded to f32."""
    return f"0x{np.float64(np.float32(value)).view(np.uint64):016X}"
