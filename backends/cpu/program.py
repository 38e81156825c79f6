"""Program -> LLVM IR text of ``tilewright_main``: kernel calls with addresses as plain arithmetic.

    i32 tilewright_main(ptr ctx, ptr inputs, ptr outputs, ptr constants, ptr arena, ptr dims)

    i32 tilewright_call(ptr frame)      the same with its six arguments in an array

``inputs`` and ``outputs`` are arrays of pointers, ``dims`` the i64 values of ``Program.symbols``.
The result is 0, or 1 + k if the k-th LetElement (in the order of ``walk_steps``) read a value
outside its variable's range, or -1 if a dim divides by a value that is 0 in this call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from tilewright.dtype import bool_, i64
from tilewright.errors import InternalError
from tilewright.runtime.program import (
    ArenaStorage,
    CallKernel,
    ConstantStorage,
    CopyTensor,
    IfStep,
    InputStorage,
    LetElement,
    LoopStep,
    OutputStorage,
    Program,
    Step,
    Tensor,
)
from tilewright.tensor.ir import Binary, Cast, Const, Dim, Expr, Select, Unary, Var
from tilewright.tensor.simplify import bounds, product

from .turns import Turns, find_turns

ENTRY = "tilewright_main"
FRAME_ENTRY = "tilewright_call"

_PLAIN = {
    "add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor",
    "shl": "shl", "shr": "ashr", "div": "sdiv",
}  # fmt: skip
_COMPARE = {"eq": "eq", "ne": "ne", "lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge"}
_INTRINSICS = """\
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)
declare i64 @llvm.abs.i64(i64, i1)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""
_LOG = """\
declare i64 @llvm.readcyclecounter()
define internal void @tilewright_log(ptr %ctx, i64 %number, i64 %start, i64 %end) {
entry:
  %place = getelementptr { ptr, ptr, i64, ptr }, ptr %ctx, i64 0, i32 3
  %log = load ptr, ptr %place
  %count = load i64, ptr %log
  %next = add i64 %count, 1
  store i64 %next, ptr %log
  %most.p = getelementptr i64, ptr %log, i64 1
  %most = load i64, ptr %most.p
  %room = icmp slt i64 %count, %most
  br i1 %room, label %enter, label %out
enter:
  %words = mul i64 %count, 3
  %first = add i64 %words, 2
  %entry.p = getelementptr i64, ptr %log, i64 %first
  store i64 %number, ptr %entry.p
  %start.p = getelementptr i64, ptr %entry.p, i64 1
  store i64 %start, ptr %start.p
  %end.p = getelementptr i64, ptr %entry.p, i64 2
  store i64 %end, ptr %end.p
  br label %out
out:
  ret void
}
"""


def emit_program(program: Program, *, timed: bool = False) -> str:
    """The entry of a program as a module of LLVM IR text; kernels are declared, not defined.

    Args:
        program: what to run.
        timed: whether each kernel call and copy is entered in the log that the context's field
            after the pool's points to, by its number among them in the order of ``walk_steps``:
            how many entries there are and how many it takes, then number, start and end of each,
            in ticks of the processor's clock. What it has no room for is only counted.

    Raises:
        InternalError: a kernel is called with two signatures, or a dim uses a variable that is
            not in scope or an operation that dims do not have (TW-E0911).
    """
    return _Writer(program, timed).run()


def _frame_entry() -> str:
    """The entry with one argument: a caller that converts each argument is faster so."""
    lines = [f"define i32 @{FRAME_ENTRY}(ptr %frame) {{"]
    for i in range(6):
        lines.append(f"  %p{i} = getelementptr ptr, ptr %frame, i64 {i}")
        lines.append(f"  %a{i} = load ptr, ptr %p{i}")
    arguments = ", ".join(f"ptr %a{i}" for i in range(6))
    return "\n".join([*lines, f"  %r = call i32 @{ENTRY}({arguments})", "  ret i32 %r", "}\n"])


def emit_sizes(program: Program, name: str) -> str:
    """The function that says what a call of certain dims needs, as a module of LLVM IR text.

        i32 NAME(ptr dims, ptr sizes)

    It writes i64 values: the bytes of the arena, then of each output. The result is 0, or -2 if a
    dim is outside its range or a condition does not hold, or -1 if a dim divides by a value that
    is 0 in this call.
    """
    return _Writer(program).sizes(name)


class _Writer:
    """One emission: the lines so far, and which values are known in the open blocks."""

    def __init__(self, program: Program, timed: bool = False) -> None:
        self.program = program
        self.timed = timed
        self.entries = 0
        self.lines: list[str] = []
        self.kernels: dict[str, str] = {}
        self.known: dict[Expr | str, str] = {}
        self.count = 0
        self.block = "entry"
        self.lets = 0

    def sizes(self, name: str) -> str:
        self.symbols()
        for var in self.program.symbols:
            for order, limit in (("slt", var.lo), ("sgt", var.hi)):
                if limit is not None:
                    self.leave_if(f"icmp {order} i64 {self.known[var]}, {limit}", -2)
        for condition in self.program.conditions:
            self.leave_if(f"xor i1 {self.expr(condition)}, true", -2)
        outputs = [product((*o.shape, o.dtype.bytes)) for o in self.program.outputs]
        for index, size in enumerate([self.program.arena_bytes, *outputs]):
            value = self.dim(size)
            self.line(f"store i64 {value}, ptr {self.offset('%sizes', 8 * index)}")
        head = f"define i32 @{name}(ptr %dims, ptr %sizes) {{"
        return "\n".join([_INTRINSICS, head, "entry:", *self.end()])

    def symbols(self) -> None:
        for index, var in enumerate(self.program.symbols):
            self.known[var] = self.load("i64", self.offset("%dims", 8 * index))

    def end(self) -> list[str]:
        return [*self.lines, "  ret i32 0", "division:", "  ret i32 -1", "}\n"]

    def run(self) -> str:
        self.symbols()
        self.steps(self.program.steps)
        declarations = [
            f"declare void @{_quote(name)}({types})" for name, types in self.kernels.items()
        ]
        arguments = "ptr %ctx, ptr %inputs, ptr %outputs, ptr %constants, ptr %arena, ptr %dims"
        return "\n".join(
            [
                _INTRINSICS + (_LOG if self.timed else "") + "\n".join(declarations),
                f"define i32 @{ENTRY}({arguments}) {{",
                "entry:",
                *self.end(),
                _frame_entry(),
            ]
        )

    # -------------------------------------------------------------- lines and blocks

    def line(self, content: str) -> None:
        self.lines.append("  " + content)

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def value(self, content: str) -> str:
        name = "%" + self.fresh()
        self.line(f"{name} = {content}")
        return name

    def start(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.block = label

    def load(self, kind: str, pointer: str) -> str:
        return self.value(f"load {kind}, ptr {pointer}")

    def offset(self, base: str, offset: int | str) -> str:
        if offset == 0:
            return base
        return self.value(f"getelementptr i8, ptr {base}, i64 {offset}")

    # -------------------------------------------------------------- steps

    def steps(self, steps: tuple[Step, ...]) -> None:
        turns = None if self.timed else find_turns(steps)
        if turns is not None:
            self.each(steps[: turns.start])
            self.turns(steps[turns.start : turns.end], turns)
            steps = steps[turns.end :]
        self.each(steps)

    def turns(self, steps: tuple[Step, ...], turns: Turns) -> None:
        """Writes a loop for calls that repeat; its one block is left at its end."""
        label, before = self.fresh(), self.block
        turn = f"%{label}.i"
        self.line(f"br label %{label}.turn")
        self.start(f"{label}.turn")
        self.line(f"{turn} = phi i64 [ 0, %{before} ], [ {turn}.next, %{label}.turn ]")
        passed: dict[int, str] = {0: "0"}
        for step, advances in zip(steps, turns.advances, strict=False):
            assert isinstance(step, CallKernel)
            given: list[str] = []
            for a, advance in zip(step.args, advances, strict=True):
                if advance not in passed:
                    passed[advance] = self.value(f"mul i64 {turn}, {advance}")
                way = passed[advance] if advance else 0
                place = self.place(a)
                given.append(self.offset(place, way) if isinstance(a, Tensor) else place)
            self.call(step, given)
        self.line(f"{turn}.next = add i64 {turn}, 1")
        self.line(f"{turn}.more = icmp ult i64 {turn}.next, {turns.count}")
        self.line(f"br i1 {turn}.more, label %{label}.turn, label %{label}.end")
        self.start(f"{label}.end")

    def each(self, steps: tuple[Step, ...]) -> None:
        for step in steps:
            match step:
                case CallKernel():
                    places = [self.place(a) for a in step.args]
                    self.call(step, places)
                case CopyTensor():
                    dst, src = self.address(step.dst), self.address(step.src)
                    size = self.dim(product((*step.src.shape, step.src.dtype.bytes)))
                    copy = "call void @llvm.memcpy.p0.p0.i64"
                    self.work(f"{copy}(ptr {dst}, ptr {src}, i64 {size}, i1 false)")
                case LetElement():
                    self.let(step)
                case IfStep():
                    self.branch(step)
                case LoopStep():
                    self.loop(step)
                case _:
                    assert_never(step)

    def nested(self, steps: tuple[Step, ...]) -> None:
        """Writes steps whose values are known only in there."""
        outer = dict(self.known)
        self.steps(steps)
        self.known = outer

    def place(self, argument: Tensor | Dim) -> str:
        return self.address(argument) if isinstance(argument, Tensor) else self.dim(argument)

    def call(self, step: CallKernel, places: Sequence[str]) -> None:
        given = [
            f"ptr {place}" if isinstance(a, Tensor) else f"i64 {place}"
            for a, place in zip(step.args, places, strict=True)
        ]
        types = ", ".join(["ptr", *(g.split(" ", 1)[0] for g in given)])
        if self.kernels.setdefault(step.kernel, types) != types:
            raise InternalError(
                f"kernel {step.kernel}: called with ({types}) and ({self.kernels[step.kernel]})",
                code="TW-E0911",
            )
        self.work(f"call void @{_quote(step.kernel)}({', '.join(['ptr %ctx', *given])})")

    def work(self, call: str) -> None:
        """Writes a call that takes its time, and how long, where that is asked for."""
        if not self.timed:
            self.line(call)
            return
        start = self.value("call i64 @llvm.readcyclecounter()")
        self.line(call)
        end = self.value("call i64 @llvm.readcyclecounter()")
        number = self.entries
        self.entries += 1
        self.line(f"call void @tilewright_log(ptr %ctx, i64 {number}, i64 {start}, i64 {end})")

    def let(self, step: LetElement) -> None:
        if step.tensor.dtype is not i64:
            raise InternalError(f"{step.var.name}: read from {step.tensor}", code="TW-E0911")
        self.lets += 1
        pointer = self.offset(self.address(step.tensor), 8 * step.index)
        value = self.load("i64", pointer)
        checks = [("slt", step.var.lo), ("sgt", step.var.hi)]
        for order, limit in checks:
            if limit is not None:
                self.leave_if(f"icmp {order} i64 {value}, {limit}", self.lets)
        self.known[step.var] = value

    def leave_if(self, condition: str, code: int) -> None:
        """Ends the call with ``code`` where the condition holds."""
        label = self.fresh()
        bad = self.value(condition)
        self.line(f"br i1 {bad}, label %{label}.bad, label %{label}.good")
        self.start(f"{label}.bad")
        self.line(f"ret i32 {code}")
        self.start(f"{label}.good")

    def branch(self, step: IfStep) -> None:
        label = self.fresh()
        byte = self.load("i8", self.address(step.cond))
        taken = self.value(f"icmp ne i8 {byte}, 0")
        self.line(f"br i1 {taken}, label %{label}.then, label %{label}.else")
        for name, steps in (("then", step.then), ("else", step.orelse)):
            self.start(f"{label}.{name}")
            self.nested(steps)
            self.line(f"br label %{label}.end")
        self.start(f"{label}.end")

    def loop(self, step: LoopStep) -> None:
        label = self.fresh()
        trip = self.dim(step.trip)
        before = self.block
        counter = f"%{label}.i"
        self.line(f"br label %{label}.head")
        self.start(f"{label}.head")
        # The last block of the body is known only once the body is written.
        phi = len(self.lines)
        self.line("")
        more = self.value(f"icmp slt i64 {counter}, {trip}")
        self.line(f"br i1 {more}, label %{label}.body, label %{label}.end")
        self.start(f"{label}.body")
        outer = dict(self.known)
        self.known[step.var] = counter
        self.steps(step.body)
        self.known = outer
        following = self.value(f"add i64 {counter}, 1")
        self.line(f"br label %{label}.head")
        self.lines[phi] = f"  {counter} = phi i64 [ 0, %{before} ], [ {following}, %{self.block} ]"
        self.start(f"{label}.end")

    # -------------------------------------------------------------- addresses and dims

    def address(self, tensor: Tensor) -> str:
        match tensor.storage:
            case InputStorage(index):
                return self.pointer("inputs", index)
            case OutputStorage(index, offset):
                return self.offset(self.pointer("outputs", index), offset)
            case ConstantStorage(offset):
                return self.offset("%constants", offset)
            case ArenaStorage(offset):
                return self.offset("%arena", self.dim(offset))
            case _:
                assert_never(tensor.storage)

    def pointer(self, array: str, index: int) -> str:
        key = f"{array} {index}"
        if key not in self.known:
            # Counted in pointers, which are not of 8 bytes everywhere.
            place = self.value(f"getelementptr ptr, ptr %{array}, i64 {index}")
            self.known[key] = self.load("ptr", place)
        return self.known[key]

    def dim(self, d: Dim) -> str:
        return str(d) if isinstance(d, int) else self.expr(d)

    def expr(self, e: Expr) -> str:
        if isinstance(e, Const):
            return str(int(e.value))
        found = self.known.get(e)
        if found is None:
            found = self.compute(e)
            self.known[e] = found
        return found

    def compute(self, e: Expr) -> str:
        match e:
            case Var():
                raise InternalError(f"dim {e.name}: not in scope here", code="TW-E0911")
            case Unary(op="neg"):
                return self.value(f"sub i64 0, {self.expr(e.x)}")
            case Unary(op="abs"):
                return self.value(f"call i64 @llvm.abs.i64(i64 {self.expr(e.x)}, i1 false)")
            case Unary(op="not"):
                kind, ones = ("i1", "true") if e.dtype is bool_ else ("i64", "-1")
                return self.value(f"xor {kind} {self.expr(e.x)}, {ones}")
            case Select():
                cond, a, b = self.expr(e.cond), self.expr(e.a), self.expr(e.b)
                return self.value(f"select i1 {cond}, i64 {a}, i64 {b}")
            case Cast() if e.x.dtype is bool_ and e.dtype is i64:
                return self.value(f"zext i1 {self.expr(e.x)} to i64")
            case Cast() if e.x.dtype is e.dtype:
                return self.expr(e.x)
            case Binary() if e.a.dtype is i64 or e.a.dtype is bool_:
                return self.binary(e)
        raise InternalError(f"not an expression of dims: {e!r}", code="TW-E0911")

    def binary(self, e: Binary) -> str:
        kind = "i1" if e.a.dtype is bool_ else "i64"
        a, b = self.expr(e.a), self.expr(e.b)
        if e.op in ("div", "floordiv", "mod"):
            self.guard_division(e.b, b)
        if e.op in _PLAIN:
            return self.value(f"{_PLAIN[e.op]} {kind} {a}, {b}")
        if e.op in _COMPARE:
            order = _COMPARE[e.op] if kind == "i64" else _COMPARE[e.op].replace("s", "u")
            return self.value(f"icmp {order} {kind} {a}, {b}")
        if e.op in ("min", "max"):
            return self.value(f"call i64 @llvm.s{e.op}.i64(i64 {a}, i64 {b})")
        rest = self.value(f"srem i64 {a}, {b}")
        inexact = self.value(f"icmp ne i64 {rest}, 0")
        mixed = self.value(f"xor i64 {rest}, {b}")
        opposite = self.value(f"icmp slt i64 {mixed}, 0")
        down = self.value(f"and i1 {inexact}, {opposite}")
        if e.op == "mod":
            step = self.value(f"select i1 {down}, i64 {b}, i64 0")
            return self.value(f"add i64 {rest}, {step}")
        quotient = self.value(f"sdiv i64 {a}, {b}")
        borrow = self.value(f"zext i1 {down} to i64")
        return self.value(f"sub i64 {quotient}, {borrow}")

    def guard_division(self, divisor: Expr, text: str) -> None:
        lo, hi = bounds(divisor)
        if (lo is not None and lo > 0) or (hi is not None and hi < 0):
            return
        label = self.fresh()
        zero = self.value(f"icmp eq i64 {text}, 0")
        self.line(f"br i1 {zero}, label %division, label %{label}.good")
        self.start(f"{label}.good")


def _quote(name: str) -> str:
    return name if name.isascii() and name.isidentifier() else f'"{name}"'
