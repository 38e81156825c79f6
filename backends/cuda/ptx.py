"""A scheduled function as PTX: LLVM IR for NVPTX, which LLVM optimises and prints.

A kernel is ``.entry NAME(buffers..., symbols...)`` in the order of the function's parameters. Its
threads run the same code; a loop over blocks or threads binds its variable to the special
register, under a guard where it has fewer iterations than the launch has blocks or threads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import llvmlite.binding as llvm

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.target import Target
from tilewright.tensor.ir import (
    Barrier,
    Block,
    Buffer,
    Call,
    Expr,
    For,
    Func,
    If,
    LoopKind,
    Var,
    lt,
)
from tilewright.tensor.walk import substitute, visit

from ..cpu.compile import machine_for, parse
from ..llvm.builder import Pointer, Value
from ..llvm.control import Lane, loop_range
from ..llvm.emit import indexed_by_variables
from ..llvm.machine import machine_of
from ..llvm.memory import ZEROS, ZEROS_BYTES
from ..llvm.statements import Statements
from ..llvm.types import memory_type, register_type
from .threads import BLOCKS, THREADS, Launch, launch_of, private

_UNSAFE = re.compile(r"[^A-Za-z0-9_]")
_REGISTERS: dict[LoopKind, str] = {
    "block.x": "ctaid.x",
    "block.y": "ctaid.y",
    "block.z": "ctaid.z",
    "thread.x": "tid.x",
    "thread.y": "tid.y",
}
_SHUFFLES = frozenset({"shuffle_xor", "shuffle_lane"})
_BARRIER = "call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)"


def emit_ptx(funcs: Sequence[Func], target: Target) -> str:
    """The PTX of kernels with distinct names, as one module."""
    module = parse(emit_llvm(funcs, target), target)
    machine = machine_for(target, opt=3)
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return str(machine.emit_assembly(module))


def emit_llvm(funcs: Sequence[Func], target: Target) -> str:
    """The LLVM IR of kernels with distinct names, as one module."""
    kernels = [_Kernel(f, target) for f in funcs]
    parts = [k.emit() for k in kernels]
    if any(k.uses_zeros for k in kernels):
        zeros = f"[{ZEROS_BYTES} x i8] zeroinitializer, align 64"
        parts.insert(0, f"{ZEROS} = private constant {zeros}")
    return "\n\n".join(parts) + "\n"


class _Threads(Statements):
    """Statements as one thread of a block runs them.

    Attributes:
        launch: how many blocks and threads there are.
        shared: names and sizes of the shared buffers, as LLVM globals.
    """

    def __init__(self, func: Func, target: Target, launch: Launch) -> None:
        super().__init__(machine_of(target))
        self.launch = launch
        self.name = func.name
        self.shared: list[str] = []

    def block(self, body: Block, lanes: list[Lane]) -> None:
        for stmt in body:
            match stmt:
                case Barrier():
                    self.enter(lanes[0])
                    self.line(_BARRIER)
                    for name in self.buffers:
                        if name not in self.registers:
                            self.forget(name)
                case For() if stmt.kind in _REGISTERS:
                    self._bound(stmt, lanes)
                case _:
                    super().block((stmt,), lanes)

    def _bound(self, loop: For, lanes: list[Lane]) -> None:
        """The body for the iteration that is this block's or this thread's."""
        self.enter(lanes[0])
        register = f"%{_REGISTERS[loop.kind]}"
        last = self._last(loop.kind)
        value = Value(register, "i64", dt.i64, 1, 0, None, 0, last)
        self.ranges[loop.var] = loop_range(loop)
        self.env[loop.var] = self.add(self.index(loop.start), self.atom(value))
        if loop.kind in THREADS:
            count = self.launch.block[THREADS.index(loop.kind)]
            if isinstance(loop.extent, int) and loop.extent < count:
                super().block((If(lt(loop.var, loop.extent), loop.body),), lanes)
                return
        self.block(loop.body, lanes)

    def _last(self, kind: LoopKind) -> int | None:
        if kind in THREADS:
            return self.launch.block[THREADS.index(kind)] - 1
        extent = self.launch.grid[BLOCKS.index(kind)]
        return extent - 1 if isinstance(extent, int) else None

    def expanded(self, e: Expr) -> Expr:
        """The expression with calls written out, but those of the machine."""
        shuffles = [x for x in visit(e) if isinstance(x, Call) and x.name in _SHUFFLES]
        marks: dict[Expr, Expr] = {x: Var(f".{k}", x.dtype) for k, x in enumerate(shuffles)}
        back: dict[Expr, Expr] = {mark: x for x, mark in marks.items()}
        return substitute(super().expanded(substitute(e, marks)), back)

    def call(self, name: str, args: list[Value], dtype: DType) -> Value:
        """A function; shuffles move what another thread of the warp keeps."""
        if name not in _SHUFFLES:
            return super().call(name, args, dtype)
        x = args[0]
        lane, width = (int(args[1].const or 0), 32) if name == "shuffle_xor" else _lane(args)
        how = "bfly" if name == "shuffle_xor" else "idx"
        bits = 64 if dtype.bits == 64 else 32
        whole = self._whole(x, bits)
        level = x.level
        words = []
        for k in range(0, bits, 32):
            word = whole
            if bits == 64:
                word = self.pure(f"lshr i64 {whole}, {k}", "i64", dtype, 1, level).text
                word = self.pure(f"trunc i64 {word} to i32", "i32", dtype, 1, level).text
            text = f"call i32 @llvm.nvvm.shfl.sync.{how}.i32(i32 -1, i32 {word}, i32 {lane}, "
            words.append(self.pure(f"{text}i32 {_segments(width)})", "i32", dtype, 1, level).text)
        return self._part(words, x, dtype)

    def _whole(self, x: Value, bits: int) -> str:
        """The bits of a value in a register of 32 or 64."""
        text, own = x.text, x.type
        if not own.startswith("i"):
            own = f"i{x.dtype.bits}"
            text = self.pure(f"bitcast {x.type} {text} to {own}", own, x.dtype, 1, x.level).text
        if own == f"i{bits}":
            return text
        return self.pure(f"zext {own} {text} to i{bits}", f"i{bits}", x.dtype, 1, x.level).text

    def _part(self, words: list[str], x: Value, dtype: DType) -> Value:
        """A value of the type of ``x`` from its words, the low one first."""
        level = x.level
        text, bits = words[0], 32 * len(words)
        if bits == 64:
            low, high = (
                self.pure(f"zext i32 {w} to i64", "i64", dtype, 1, level).text for w in words
            )
            high = self.pure(f"shl i64 {high}, 32", "i64", dtype, 1, level).text
            text = self.pure(f"or i64 {high}, {low}", "i64", dtype, 1, level).text
        own = x.type if x.type.startswith("i") else f"i{x.dtype.bits}"
        if own != f"i{bits}":
            text = self.pure(f"trunc i{bits} {text} to {own}", own, dtype, 1, level).text
        if own == x.type:
            return Value(text, own, dtype, 1, level)
        return self.pure(f"bitcast {own} {text} to {x.type}", x.type, dtype, 1, level)

    def _allocate(self, buffer: Buffer) -> Pointer:
        if buffer.scope != "shared":
            return super()._allocate(buffer)
        count = 1
        for d in buffer.shape:
            assert isinstance(d, int), "shared memory has a constant size"
            count *= d
        symbol = f"@{self.name}.{_UNSAFE.sub('_', buffer.name)}"
        type_ = f"[{count} x {memory_type(buffer.dtype)}]"
        self.shared.append(f"{symbol} = internal addrspace(3) global {type_} undef, align 16")
        return Pointer(f"addrspacecast (ptr addrspace(3) {symbol} to ptr)", 0)


def _lane(args: list[Value]) -> tuple[int, int]:
    """The lane that is read, and how many threads are a row of the warp."""
    return int(args[1].const or 0), min(32, int(args[2].const or 0))


def _segments(width: int) -> int:
    """The last operand of shfl: rows of so many lanes keep to themselves."""
    return (32 - width) << 8 | 31


class _Kernel:
    """One kernel."""

    def __init__(self, func: Func, target: Target) -> None:
        self.func = private(func)
        self.launch = launch_of(func)
        self.target = target
        self.uses_zeros = False

    def emit(self) -> str:
        emitter = _Threads(self.func, self.target, self.launch)
        emitter.symbolic_registers = indexed_by_variables(self.func.body)
        params, casts = self._params(emitter)
        emitter.run(self.func.body)
        self.uses_zeros = emitter.uses_zeros
        head = (
            f"define ptx_kernel void @{self.func.name}({', '.join(params)}) "
            f'nounwind "nvvm.maxntid"="{self.launch.threads}" {{'
        )
        body = [*casts, *self._special(), *emitter.prologue, *emitter.scopes[0].lines]
        return "\n".join([*emitter.shared, head, "entry:", *body, "  ret void", "}"])

    def _params(self, emitter: _Threads) -> tuple[list[str], list[str]]:
        declared: list[str] = []
        casts: list[str] = []
        for k, p in enumerate(self.func.params):
            if isinstance(p, Buffer):
                declared.append(f"ptr addrspace(1) noalias align 16 %a.{k}")
                casts.append(f"  %a.g{k} = addrspacecast ptr addrspace(1) %a.{k} to ptr")
                emitter.bases[p.name] = Pointer(f"%a.g{k}", 0)
                emitter.buffers[p.name] = p
                emitter.aligned.add(p.name)
                continue
            assert isinstance(p, Var)
            type_ = register_type(p.dtype)
            declared.append(f"{type_} %a.{k}")
            value = Value(f"%a.{k}", type_, p.dtype, 1, 0, None, p.lo, p.hi)
            emitter.env[p] = emitter.atom(value)
        return declared, casts

    def _special(self) -> list[str]:
        """The special registers as i64, whether they are used or not."""
        lines = []
        for name in _REGISTERS.values():
            call = f"call i32 @llvm.nvvm.read.ptx.sreg.{name}()"
            lines += [f"  %i.{name} = {call}", f"  %{name} = zext nneg i32 %i.{name} to i64"]
        return lines
