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
from tilewright.tensor.instructions import (
    Match,
    Operand,
    find,
    layouts_of,
    registers_of,
    tile_size,
)
from tilewright.tensor.ir import (
    Barrier,
    Block,
    Buffer,
    Call,
    Commit,
    Expr,
    For,
    Func,
    If,
    LoopKind,
    Var,
    Wait,
    lt,
)
from tilewright.tensor.simplify import simplify
from tilewright.tensor.walk import statements, substitute, visit

from ..cpu.compile import machine_for, parse
from ..llvm.builder import Pointer, Value
from ..llvm.control import Lane, loop_range
from ..llvm.emit import indexed_by_variables
from ..llvm.machine import machine_of
from ..llvm.memory import ZEROS, ZEROS_BYTES
from ..llvm.statements import Statements
from ..llvm.types import memory_type, register_type
from .alignment import NONE_LOOSE, VECTOR_BYTES, Loose, without_wide_copies
from .fragments import scattered
from .instructions import LANE, check_instructions, needs, rows_of
from .threads import BLOCKS, THREADS, Launch, launch_of, private

_UNSAFE = re.compile(r"[^A-Za-z0-9_]")
_REGISTERS: dict[LoopKind, str] = {
    "block.x": "ctaid.x",
    "block.y": "ctaid.y",
    "block.z": "ctaid.z",
    "thread.x": "tid.x",
    "thread.y": "tid.y",
}
MOST_UNROLLED = 16
"""Iterations of a loop that LLVM may write out as a whole."""
_HINT = re.compile(r"!llvm\.loop !(\w+)")
_HINTS = {
    "SOME": '!{!"llvm.loop.unroll.count", i32 4}',
    "NONE": '!{!"llvm.loop.unroll.disable"}',
}
"""How much of a longer loop is written out at once: nothing where it holds other loops."""
_SHUFFLES = frozenset({"shuffle_xor", "shuffle_lane"})
_ROUND_TF32 = "llvm.nvvm.f2tf32.rna"
_BARRIER = "call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)"


def emit_ptx(funcs: Sequence[Func], target: Target, loose: Loose = NONE_LOOSE) -> str:
    """The PTX of kernels with distinct names, as one module (see ``emit_llvm``)."""
    module = parse(emit_llvm(funcs, target, loose), target)
    machine = machine_for(target, opt=3)
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return str(machine.emit_assembly(module))


def emit_llvm(funcs: Sequence[Func], target: Target, loose: Loose = NONE_LOOSE) -> str:
    """The LLVM IR of kernels with distinct names, as one module.

    Args:
        loose: the parameters that may begin at any element; all others begin at a multiple of
            sixteen bytes.

    Raises:
        TargetError: the target lacks an instruction (TW-E0411).
    """
    check_instructions(funcs, target)
    kernels = [_Kernel(f, target, loose.get(f.name, frozenset())) for f in funcs]
    parts = [k.emit() for k in kernels]
    if any(k.uses_zeros for k in kernels):
        zeros = f"[{ZEROS_BYTES} x i8] zeroinitializer, align 64"
        parts.insert(0, f"{ZEROS} = private constant {zeros}")
    return _with_hints("\n\n".join(parts) + "\n")


def _with_hints(text: str) -> str:
    """LLVM IR with the hints of its loops, each by a number of its own."""
    marked = list(_HINT.finditer(text))
    lines = [f"!{k} = distinct !{{!{k}, {_HINTS[m[1]]}}}\n" for k, m in enumerate(marked)]
    numbers = iter(range(len(marked)))
    return _HINT.sub(lambda _: f"!llvm.loop !{next(numbers)}", text) + "".join(lines)


class _Threads(Statements):
    """Statements as one thread of a block runs them.

    Attributes:
        launch: how many blocks and threads there are.
        shared: names and sizes of the shared buffers, as LLVM globals.
    """

    def __init__(self, func: Func, target: Target, launch: Launch) -> None:
        super().__init__(machine_of(target))
        self.launch = launch
        self.layouts = layouts_of(func.body)
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
                case Commit():
                    self.enter(lanes[0])
                    self.line(f"call void @{needs('cp.async.commit_group').call}()")
                case Wait():
                    self.enter(lanes[0])
                    self.line(f"call void @{needs('cp.async.wait_group').call}(i32 {stmt.pending})")
                case For() if stmt.kind == "instruction":
                    self.enter(lanes[0])
                    self._instruction(stmt)
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

    # -------------------------------------------------------------- instructions

    def _instruction(self, nest: For) -> None:
        """A nest as the instruction that computes it."""
        found = find(nest)
        assert found is not None, "instructions are checked before"
        name = found.instruction.name
        if name.startswith("mma."):
            self._matrix_product(found)
        elif name.startswith("ldmatrix."):
            self._fetch(found)
        else:
            self._copy(found)

    def _matrix_product(self, found: Match) -> None:
        name = found.instruction.name
        a, b, c = (found.operands[n] for n in "abc")
        whole = "<2 x half>" if a.buffer.dtype is dt.f16 else "i32"
        values = []
        for operand in (a, b):
            pointer, count = self._kept(operand)
            step = 4 // operand.buffer.dtype.bytes
            for k in range(0, count, step):
                at = self.offset(pointer, k * operand.buffer.dtype.bytes)
                if operand.buffer.dtype is dt.f32:
                    exact = self._fresh_line(f"load float, ptr {at.text}, align 4")
                    near = self._fresh_line(f"call i32 @{_ROUND_TF32}(float {exact})")
                    values.append(f"i32 {near}")
                    continue
                values.append(
                    f"{whole} {self._fresh_line(f'load {whole}, ptr {at.text}, align 4')}"
                )
        pointer, count = self._kept(c)
        places = [self.offset(pointer, 4 * k).text for k in range(count)]
        for at_text in places:
            values.append(f"float {self._fresh_line(f'load float, ptr {at_text}, align 4')}")
        result = "{float, float, float, float}"
        called = self._fresh_line(f"call {result} @{needs(name).call}({', '.join(values)})")
        for k, at_text in enumerate(places):
            part = self._fresh_line(f"extractvalue {result} {called}, {k}")
            self.line(f"store float {part}, ptr {at_text}, align 4")
        self.forget(c.buffer.name)

    def _fetch(self, found: Match) -> None:
        target = found.operands["f"]
        rows = rows_of(found, self.layouts[target.buffer.name])
        source = self._shared(found.operands["s"], rows.at)
        call = f"{needs(found.instruction.name).call}.x{rows.count}"
        call += ".trans.b16.p3" if rows.transposed else ".b16.p3"
        result = "i32" if rows.count == 1 else f"{{{', '.join(['i32'] * rows.count)}}}"
        called = self._fresh_line(f"call {result} @{call}(ptr addrspace(3) {source})")
        pointer, _ = self._kept(target)
        for k in range(rows.count):
            part = called
            if rows.count > 1:
                part = self._fresh_line(f"extractvalue {result} {called}, {k}")
            self.line(f"store i32 {part}, ptr {self.offset(pointer, 4 * k).text}, align 4")
        self.forget(target.buffer.name)

    def _copy(self, found: Match) -> None:
        target, source = found.operands["s"], found.operands["g"]
        near = self._shared(target, target.first)
        size = source.buffer.dtype.bytes
        base = self.bases[source.buffer.name]
        at = self.locate(base, size, self.index(source.first))
        inside, text, call = found.values.get("inside"), at.text, needs(found.instruction.name).call
        count = ""
        if inside is not None:
            # A copy of no bytes still names an address.
            holds = self.value(self.expanded(inside)).text
            text = self._fresh_line(f"select i1 {holds}, ptr {at.text}, ptr {base.text}")
            count = f", i32 {self._fresh_line(f'select i1 {holds}, i32 16, i32 0')}"
            call += ".s"
        far = self._fresh_line(f"addrspacecast ptr {text} to ptr addrspace(1)")
        arguments = f"ptr addrspace(3) {near}, ptr addrspace(1) {far}{count}"
        self.line(f"call void @{call}({arguments})")
        self.forget(target.buffer.name)

    def _kept(self, operand: Operand) -> tuple[Pointer, int]:
        """Where this lane keeps its part of a tile, and how many elements that is."""
        count = registers_of(self.layouts[operand.buffer.name])
        first = simplify(operand.first // tile_size(operand.buffer) * count)
        base, size = self.bases[operand.buffer.name], operand.buffer.dtype.bytes
        return self.locate(base, size, self.index(first)), count

    def _shared(self, operand: Operand, at: Expr) -> str:
        """The address of an element in shared memory."""
        base, size = self.bases[operand.buffer.name], operand.buffer.dtype.bytes
        pointer = self.locate(base, size, self.index(at))
        return self._fresh_line(f"addrspacecast ptr {pointer.text} to ptr addrspace(3)")

    def _fresh_line(self, text: str) -> str:
        name = f"%{self.fresh()}"
        self.line(f"{name} = {text}")
        return name

    def loop_hint(self, first: Value, last: Value, body: Block) -> str:
        """Long loops stay loops: LLVM would write out some as a whole, beyond all registers."""
        if first.const is None or last.const is None:
            return ""
        if int(last.const) - int(first.const) <= MOST_UNROLLED:
            return ""
        inner = any(
            isinstance(s, Barrier) or (isinstance(s, For) and s.kind == "serial")
            for s in statements(body)
        )
        return f", !llvm.loop !{'NONE' if inner else 'SOME'}"

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

    def __init__(self, func: Func, target: Target, loose: frozenset[str]) -> None:
        self.func = without_wide_copies(private(func), loose)
        self.launch = launch_of(func)
        self.target = target
        self.loose = loose
        self.uses_zeros = False

    def emit(self) -> str:
        emitter = _Threads(self.func, self.target, self.launch)
        body = scattered(self.func).body
        emitter.symbolic_registers = indexed_by_variables(body)
        params, casts = self._params(emitter)
        lane = Value("%tid.x", "i64", dt.i64, 1, 0, None, 0, 31)
        emitter.env[LANE] = emitter.atom(lane)
        emitter.run(body)
        self.uses_zeros = emitter.uses_zeros
        head = (
            f"define ptx_kernel void @{self.func.name}({', '.join(params)}) "
            # One block that fits is enough: for more, ptxas would rather spill than use registers.
            f'nounwind "nvvm.maxntid"="{self.launch.threads}" "nvvm.minctasm"="1" {{'
        )
        lines = [*casts, *self._special(), *emitter.prologue, *emitter.scopes[0].lines]
        return "\n".join([*emitter.shared, head, "entry:", *lines, "  ret void", "}"])

    def _params(self, emitter: _Threads) -> tuple[list[str], list[str]]:
        declared: list[str] = []
        casts: list[str] = []
        for k, p in enumerate(self.func.params):
            if isinstance(p, Buffer):
                loose = p.name in self.loose
                align = p.dtype.bytes if loose else VECTOR_BYTES
                declared.append(f"ptr addrspace(1) noalias align {align} %a.{k}")
                casts.append(f"  %a.g{k} = addrspacecast ptr addrspace(1) %a.{k} to ptr")
                emitter.bases[p.name] = Pointer(f"%a.g{k}", 0)
                emitter.buffers[p.name] = p
                if not loose:
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
