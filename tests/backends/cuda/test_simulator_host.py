"""One LLVM function on two machines: this CPU, and PTX on the simulated GPU."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

from tilewright.backends.cuda.simulator import Simulator

from .nvptx import emit

Array = np.ndarray[Any, np.dtype[Any]]
COUNT = 96
DTYPES: dict[str, Any] = {
    "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "float": np.float32, "double": np.float64,
}  # fmt: skip
SUFFIX = {"float": "f32", "double": "f64"}


def integer_bodies(kind: str) -> Iterator[str]:
    operations = "add sub mul and or xor shl lshr ashr sdiv udiv srem urem"
    yield from (f"%y = {op} {kind} %a, %b" for op in operations.split())
    two = "smax smin umax umin sadd.sat ssub.sat uadd.sat usub.sat"
    yield from (f"%y = call {kind} @llvm.{f}.{kind}({kind} %a, {kind} %b)" for f in two.split())
    one = ["ctpop", "bitreverse"] + (["bswap"] if kind != "i8" else [])
    yield from (f"%y = call {kind} @llvm.{f}.{kind}({kind} %a)" for f in one)
    yield from (
        f"%y = call {kind} @llvm.{f}.{kind}({kind} %a, i1 false)" for f in ("ctlz", "cttz", "abs")
    )
    yield from (
        f"%y = call {kind} @llvm.{f}.{kind}({kind} %a, {kind} %a, {kind} %b)"
        for f in ("fshl", "fshr")
    )
    for sign in "su":
        pair = f"{{{kind}, i1}}"
        yield (
            f"%s = call {pair} @llvm.{sign}mul.with.overflow.{kind}({kind} %a, {kind} %b)\n"
            f"%v = extractvalue {pair} %s, 0\n%o = extractvalue {pair} %s, 1\n"
            f"%y = select i1 %o, {kind} 77, {kind} %v"
        )
    for test in ("slt", "uge"):
        yield f"%c = icmp {test} {kind} %a, %b\n%y = select i1 %c, {kind} %a, {kind} %b"
    # Fields of bits, and bytes taken apart and put together.
    yield f"%s = lshr {kind} %a, 3\n%r = and {kind} %s, 15\n%u = shl {kind} %b, 4\n" + (
        f"%y = or {kind} %r, %u"
    )
    yield f"%s = trunc {kind} %a to i4\n%r = sext i4 %s to {kind}\n%y = add {kind} %r, %b"
    for width in (2, 4):
        vector = f"<{width} x {kind}>"
        yield (
            f"%v = insertelement {vector} zeroinitializer, {kind} %a, i32 0\n"
            f"%w = insertelement {vector} %v, {kind} %b, i32 1\n"
            f"%x = shufflevector {vector} %w, {vector} %w, <{width} x i32> "
            f"<{', '.join(f'i32 {i % 2}' for i in range(1, width + 1))}>\n"
            f"%m = mul {vector} %x, %w\n%n = add {vector} %m, %x\n"
            f"%y = extractelement {vector} %n, i32 1"
        )


def float_bodies(kind: str) -> Iterator[str]:
    n = SUFFIX[kind]
    yield from (f"%y = {op} {kind} %a, %b" for op in ("fadd", "fsub", "fmul", "fdiv"))
    one = "floor ceil rint round roundeven trunc fabs"
    yield from (f"%y = call {kind} @llvm.{f}.{n}({kind} %a)" for f in one.split())
    two = "maximum minimum maxnum minnum copysign"
    yield from (f"%y = call {kind} @llvm.{f}.{n}({kind} %a, {kind} %b)" for f in two.split())
    yield f"%y = call {kind} @llvm.fma.{n}({kind} %a, {kind} %b, {kind} %a)"
    yield f"%p = call {kind} @llvm.fabs.{n}({kind} %a)\n%y = call {kind} @llvm.sqrt.{n}({kind} %p)"
    for test in ("olt", "uge", "une", "ord"):
        yield f"%c = fcmp {test} {kind} %a, %b\n%y = select i1 %c, {kind} %a, {kind} %b"
    for whole in ("i8", "i16", "i32", "i64"):
        yield f"%s = fptosi {kind} %a to {whole}\n%y = sitofp {whole} %s to {kind}"
        yield (
            f"%p = call {kind} @llvm.fabs.{n}({kind} %a)\n"
            f"%s = fptoui {kind} %p to {whole}\n%y = uitofp {whole} %s to {kind}"
        )
        yield (
            f"%q = fmul {kind} %a, 1.0e10\n"
            f"%s = call {whole} @llvm.fptosi.sat.{whole}.{n}({kind} %q)\n"
            f"%y = sitofp {whole} %s to {kind}"
        )
    other = "double" if kind == "float" else "float"
    if kind == "float":
        yield f"%d = fpext float %a to {other}\n%m = fmul double %d, 1.1\n" + (
            "%y = fptrunc double %m to float"
        )
    else:
        yield f"%d = fptrunc double %a to {other}\n%y = fpext float %d to double"


BODIES = [
    *((kind, body) for kind in ("i8", "i16", "i32", "i64") for body in integer_bodies(kind)),
    *((kind, body) for kind in ("float", "double") for body in float_bodies(kind)),
]


def module(head: str, place: str, space: str) -> str:
    """IR of a function for each body: element ``place`` of two arrays to that of a third."""
    declared: dict[str, str] = {}
    functions = []
    for number, (kind, body) in enumerate(BODIES):
        for result, name, given in re.findall(r"call (.+?) @(llvm\.[\w.]+)\((.*?)\)", body):
            types = ", ".join(a.strip().rsplit(" ", 1)[0] for a in given.split(","))
            declared[name] = f"declare {result} @{name}({types})"
        pointer = f"ptr{space}"
        functions.append(f"""
        define {head.replace("NAME", f"@k{number}").replace("POINTER", pointer)} {{
          {place}
          %pa = getelementptr {kind}, {pointer} %A, i32 %t
          %pb = getelementptr {kind}, {pointer} %B, i32 %t
          %a = load {kind}, {pointer} %pa
          %b = load {kind}, {pointer} %pb
          {body}
          %py = getelementptr {kind}, {pointer} %Y, i32 %t
          store {kind} %y, {pointer} %py
          ret void
        }}""")
    return "\n".join([*declared.values(), *functions])


@cache
def ptx(cpu: str, features: str) -> str:
    text = module(
        "ptx_kernel void NAME(POINTER %A, POINTER %B, POINTER %Y)",
        "%t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()",
        " addrspace(1)",
    )
    return emit("declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()\n" + text, cpu, features)


@cache
def host() -> llvm.ExecutionEngine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    text = module("void NAME(POINTER %A, POINTER %B, POINTER %Y, i32 %t)", "", "")
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), machine)
    engine.finalize_object()
    return engine


def inputs(kind: str) -> tuple[Array, Array]:
    rng = np.random.default_rng(11)
    if kind in SUFFIX:
        a, b = (rng.uniform(-100, 100, (2, COUNT))).astype(DTYPES[kind])
        b[::7] = a[::7]
        return a, b
    info = np.iinfo(DTYPES[kind])
    a = rng.integers(info.min, info.max, COUNT, DTYPES[kind], endpoint=True)
    # Small enough to shift by, and never zero.
    return a, rng.integers(1, 8, COUNT).astype(DTYPES[kind])


TARGETS = [("sm_75", "+ptx63"), ("sm_80", ""), ("sm_90", "+ptx80"), ("sm_100", "+ptx88")]


@pytest.mark.parametrize(("cpu", "features"), TARGETS)
def test_both_machines_compute_the_same(cpu: str, features: str) -> None:
    simulator = Simulator()
    loaded = simulator.load(ptx(cpu, features))
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int32)
    wrong = []
    for number, (kind, body) in enumerate(BODIES):
        a, b = inputs(kind)
        expected = np.zeros_like(a)
        function = signature(host().get_function_address(f"k{number}"))
        for t in range(COUNT):
            function(a.ctypes.data, b.ctypes.data, expected.ctypes.data, t)
        places = [simulator.place(x) for x in (a, b)]
        out = simulator.allocate(expected.nbytes)
        simulator.launch(loaded.kernel(f"k{number}"), 1, COUNT, (*places, out))
        found = simulator.copy_out(out, expected.shape, expected.dtype)
        if not np.array_equal(found, expected, equal_nan=kind in SUFFIX):
            at = int(np.argmax(found != expected))
            wrong.append((kind, body, a[at], b[at], found[at], expected[at]))
    assert not wrong
