"""Scheduling a kernel by hand: a loop nest, and the steps that reshape it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, Self

import numpy as np

from tilewright.api import backend_of
from tilewright.api import compile as compile_graph
from tilewright.errors import InputError, InternalError, OptionError, ScheduleError
from tilewright.graph.ir import Attr, Graph
from tilewright.lower.nests import to_func
from tilewright.runtime.executable import Executable
from tilewright.schedule.nest import fail, find_loop, loops, simplify_func
from tilewright.schedule.schedule import STEPS, Schedule
from tilewright.tensor.check import CheckError
from tilewright.tensor.check import check as check_func
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.evaluate import InterpretError
from tilewright.tensor.independence import is_independent
from tilewright.tensor.interpret import interpret, interpret_group
from tilewright.tensor.ir import (
    Alloc,
    Binary,
    Block,
    Buffer,
    For,
    Func,
    Load,
    LoopKind,
    Scope,
    Stmt,
    Store,
    Var,
)
from tilewright.tensor.simplify import bounds, evaluate, product
from tilewright.tensor.text import group_symbols, text
from tilewright.tensor.walk import (
    block_loads,
    loads,
    map_block,
    rename_vars,
    replace_buffers,
    statements,
)

from .graph import graph_of
from .operation import Operation
from .statement import Static

Tail = Literal["exact", "guard", "shift", "peel"]

MOST_SCRATCH = 2 << 20
"""The most bytes of temporaries in a thread: a quarter of the stack that threads have."""
MOST_WRITTEN_OUT = 8192
"""The most statements that a loop may become: beyond it, LLVM takes minutes."""
LANES = 4
"""The least elements of a vector register that a loop is written out for."""


class ScheduledKernel(Operation):
    """A kernel compiled from a nest that was scheduled by hand; used as the kernel is.

    Args:
        group: what it computes.
        func: the nest.
        made: what was compiled of it.
    """

    statics: Mapping[str, type] = MappingProxyType({})
    defaults: Mapping[str, Static] = MappingProxyType({})

    def __init__(self, group: ComputeGroup, func: Func, made: Executable) -> None:
        self.name = group.name
        self.operands = tuple(b.name for b in group.inputs)
        self._attrs: dict[str, Attr] = {"stages": text(group), "loops": text(func)}
        self._made = made

    def node(self, statics: Mapping[str, Static]) -> tuple[str, dict[str, Attr]]:
        """The operator and attributes of a graph's node that computes it.

        Raises:
            InputError: there are parameters, which were settled before (TW-E0324).
        """
        if statics:
            raise InputError(
                f"{self.name}: was scheduled for settled parameters; {', '.join(statics)} cannot"
                " be given",
                code="TW-E0324",
            )
        return "scheduled_kernel", dict(self._attrs)

    def executable(self, **statics: Static) -> Executable:
        """What calls run."""
        return self._made

    def __repr__(self) -> str:
        return f"<scheduled kernel {self._attrs['stages']}\n{self._attrs['loops']}>"


class KernelSchedule:
    """A kernel's loop nest, and what was done to it; ``print`` shows the nest as it stands.

    Each reduction is computed into a temporary (``acc``, ``acc2`` ...) by two nests of its own, one
    that fills it with the identity and one that adds to it; the last nest reads it. Steps have
    the names of the compiler's own primitives, which recipes are made of; each returns the
    schedule. What a step says of loops is checked, so that the nest computes the same after it.

    Attributes:
        group: what it computes.
        target, threads: what it is compiled for.
    """

    def __init__(self, group: ComputeGroup, target: str | None, threads: int | None) -> None:
        name = target or "native"
        if backend_of(name) != "cpu":
            raise OptionError(
                f"{group.name}: nests are scheduled by hand for CPUs, not for {name}; the kernel"
                " itself is compiled for every target",
                code="TW-E0827",
            )
        self.group = group
        self.target = target
        self.threads = threads
        self._schedule = Schedule(_readable(to_func(group, frozenset()).func, group))

    # ---------------------------------------------------------- what it is

    @property
    def func(self) -> Func:
        """The nest as it stands."""
        return self._schedule.func

    @property
    def loops(self) -> tuple[str, ...]:
        """The names of the loops, outer before inner."""
        return tuple(x.var.name for x in loops(self.func.body))

    @property
    def steps(self) -> str:
        """What was done, as Python."""
        return str(self._schedule)

    def json(self) -> str:
        """What was done, as JSON."""
        return self._schedule.json()

    def __str__(self) -> str:
        return text(self.func)

    def __repr__(self) -> str:
        return f"<schedule of {self.group.name}: {text(self.group)}\n{self}>"

    # ---------------------------------------------------------- steps

    def do(self, step: str, *args: object) -> Self:
        """Applies a primitive of the compiler by its name; ``docs`` of it in tilewright.schedule.

        Raises:
            ScheduleError: there is none, or it does not apply; names the loops there are.
        """
        if step not in STEPS:
            raise fail(step, self.func, f"no such step; there are {', '.join(STEPS)}")
        before = self.func
        try:
            self._schedule.do(step, *args)
            self._schedule.func = simplify_func(self.func)
            check_func(self.func)
        except CheckError as error:
            self._undo(before)
            raise fail(f"{step}{args!r}", before, error.message.partition(": ")[2]) from None
        except (TypeError, ValueError, AssertionError) as error:
            self._undo(before)
            raise fail(
                f"{step}{args!r}", before, f"arguments that it does not take: {error}"
            ) from None
        return self

    def _undo(self, before: Func) -> None:
        if self.func is not before and self._schedule.steps:
            self._schedule.steps.pop()
        self._schedule.func = before

    def split(
        self, loop: str, factor: int, outer: str = "", inner: str = "", tail: Tail = "exact"
    ) -> Self:
        """Splits a loop so that ``loop == outer * factor + inner``; by default ``i_o`` and ``i_i``.

        Args:
            tail: what happens where the factor does not divide the extent: ``exact`` refuses,
                ``guard`` puts an ``if`` around the body, ``shift`` moves the last tile back,
                ``peel`` writes the rest out as loops of their own.
        """
        return self.do("split", loop, factor, outer or f"{loop}_o", inner or f"{loop}_i", tail)

    def fuse(self, outer: str, inner: str, name: str) -> Self:
        """Makes one loop of two nested ones, of which the inner one is its remainder."""
        return self.do("fuse", outer, inner, name)

    def reorder(self, *names: str) -> Self:
        """Puts perfectly nested loops in the given order, outermost first."""
        return self.do("reorder", names)

    def set_kind(self, loop: str, kind: LoopKind) -> Self:
        """Makes a loop serial, parallel, vector or unroll."""
        self._expect_order_free(find_loop(self.func, loop, f"set_kind({loop!r})"), kind)
        return self.do("set_kind", loop, kind)

    def parallel(self, *names: str) -> Self:
        """Spreads the iterations of outermost loops over threads."""
        return self._kinds(names, "parallel")

    def vectorize(self, *names: str) -> Self:
        """Makes loops vector operations; an extent may be several registers wide."""
        return self._kinds(names, "vector")

    def unroll(self, *names: str) -> Self:
        """Writes the iterations of loops out."""
        return self._kinds(names, "unroll")

    def _kinds(self, names: Sequence[str], kind: LoopKind) -> Self:
        for name in names:
            self.set_kind(name, kind)
        return self

    def peel(self, loop: str, front: int = 0, back: int = 0) -> Self:
        """Writes the first and last iterations of a loop out as copies."""
        return self.do("peel", loop, front, back)

    def tighten(self, loop: str) -> Self:
        """Turns conditions on a loop's variable into the bounds of the loop."""
        return self.do("tighten", loop)

    def specialise(self, loop: str, *inner: str) -> Self:
        """Gives the tiles that lie wholly inside a body of their own, without conditions."""
        return self.do("specialise", loop, inner)

    def compute_at(self, array: str, loop: str) -> Self:
        """Computes a temporary inside a loop of its reader, just what one iteration reads."""
        return self.do("compute_at", array, loop)

    def inline(self, array: str) -> Self:
        """Computes a temporary anew wherever it is read."""
        return self.do("inline", array)

    def set_scope(self, array: str, scope: Scope) -> Self:
        """Keeps a temporary in ``local`` memory of a thread, or in ``register``s."""
        return self.do("set_scope", array, scope)

    def rfactor(self, loop: str, lanes: int, name: str) -> Self:
        """Splits a reduction into ``lanes`` running results that are combined at the end."""
        return self.do("rfactor", loop, lanes, name)

    def prefetch(self, loop: str, array: str, distance: int) -> Self:
        """Asks, in each iteration, for what is read ``distance`` iterations later."""
        return self.do("prefetch", loop, array, distance)

    def cache_read(self, array: str, loop: str, name: str, scope: Scope = "local") -> Self:
        """Copies what one iteration of a loop reads of an array to other memory, at its start."""
        return self.do("cache_read", array, loop, name, scope)

    def pack(self, array: str, loop: str, name: str) -> Self:
        """Copies what one iteration of a loop reads to a thread's own memory, by vectors.

        That is ``cache_read`` with the last loop of the copy a vector: what lies far apart in the
        array lies side by side in the copy.
        """
        self.cache_read(array, loop, name)
        last = next(x for x in reversed(self.loops) if x.startswith(f"{name}_"))
        return self.vectorize(last)

    # ---------------------------------------------------------- what must hold

    def _expect_order_free(self, loop: For, kind: LoopKind) -> None:
        if kind not in ("parallel", "vector") or _is_order_free(loop):
            return
        if kind == "vector" and _is_horizontal(loop):
            return
        raise fail(
            f"set_kind({loop.var.name!r}, {kind!r})",
            self.func,
            "its iterations read what others write, or that is not certain",
        )

    def expect_sound(self) -> None:
        """Returns if the nest computes the same in whatever order its parallel loops run.

        Raises:
            ScheduleError: iterations of one depend on others (TW-E0701).
        """
        for loop in loops(self.func.body):
            self._expect_order_free(loop, loop.kind)

    def _expect_affordable(self) -> None:
        """Returns if the nest takes neither more stack than there is nor ever to compile."""
        kept = 0
        for stmt in statements(self.func.body):
            if isinstance(stmt, Alloc):
                kept += self._bytes(stmt.buffer)
        if kept > MOST_SCRATCH:
            raise fail(
                "build",
                self.func,
                f"temporaries take {kept} bytes of a thread's stack, of which there are"
                f" {MOST_SCRATCH}; compute them inside a loop (compute_at)",
            )
        for loop in loops(self.func.body):
            written = _written_out(loop)
            if written > MOST_WRITTEN_OUT:
                raise fail(
                    "build",
                    self.func,
                    f"{loop.var.name} would be written out as {written} statements, of which there"
                    f" may be {MOST_WRITTEN_OUT}",
                )

    def _bytes(self, b: Buffer) -> int:
        """The most bytes that a temporary may take."""
        if b.scope not in ("local", "register"):
            raise fail("build", self.func, f"{b.name} is in {b.scope} memory, which CPUs have not")
        _, most = bounds(product(b.shape))
        if most is None:
            raise fail(
                "build",
                self.func,
                f"{b.name} has no largest size; compute it inside a loop (compute_at), give sizes,"
                " or narrow the dims with dim_ranges=",
            )
        return most * b.dtype.bytes

    def check(self, seed: int = 0, **dims: int) -> Self:
        """Runs the nest in the reference interpreter, and compares it with the expression.

        Operands are small whole numbers, whose sums are exact in any order. The interpreter
        refuses indices outside of arrays, and reads of what nobody wrote.

        Args:
            seed: of the numbers.
            dims: sizes of the dims that are symbolic still.

        Raises:
            ScheduleError: the nest is no schedule of the expression (TW-E0702).
            OptionError: a size is missing (TW-E0823).
        """
        self.expect_sound()
        missing = [v.name for v in group_symbols(self.group) if v.name not in dims]
        if missing:
            raise OptionError(f"check: no size is given for {missing[0]}", code="TW-E0823")
        rng = np.random.default_rng(seed)
        memory = {b.name: _numbers(rng, b, dims) for b in self.group.inputs}
        expected = interpret_group(self.group, memory, dims)
        for b in self.group.outputs:
            memory[b.name] = _numbers(rng, b, dims)
        own = {v.name: dims[v.name] for v in self.func.params if isinstance(v, Var)}
        try:
            interpret(self.func, memory, own)
        except InterpretError as error:
            raise self._unequal(str(error)) from error
        for b in self.group.outputs:
            self._compare(b, memory[b.name], expected[b.name])
        return self

    def _compare(self, b: Buffer, found: np.ndarray, wanted: np.ndarray) -> None:
        if b.dtype.is_float:
            wide, exact = found.astype(np.float64), wanted.astype(np.float64)
            tolerance = {64: 1e-12, 32: 1e-5}.get(b.dtype.bits, 1e-2)
            equal = np.isclose(wide, exact, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            equal = found == wanted
        if not equal.all():
            place = tuple(int(k) for k in np.argwhere(~equal)[0])
            raise self._unequal(
                f"{b.name}{list(place)} is {found[place]}, the expression says {wanted[place]}"
            )

    def _unequal(self, why: str) -> ScheduleError:
        return ScheduleError(
            f"{self.group.name}: {why}; the steps were\n{self.steps}", code="TW-E0702"
        )

    # ---------------------------------------------------------- what is made of it

    def graph(self) -> Graph:
        """The graph of it alone.

        Raises:
            ScheduleError: the nest is not sound, takes more stack than there is, or is too long
                where it is unrolled (TW-E0701).
        """
        self.expect_sound()
        self._expect_affordable()
        attrs: dict[str, Attr] = {"stages": text(self.group), "loops": text(self.func)}
        return graph_of(self.group, "scheduled_kernel", attrs)

    def build(self, *, target: str | None = None, threads: int | None = None) -> ScheduledKernel:
        """Compiles the nest as it stands.

        Raises:
            ScheduleError: it is not sound (TW-E0701), or no code can be made of it (TW-E0703).
        """
        graph = self.graph()
        try:
            made = compile_graph(
                graph, target=target or self.target, threads=threads or self.threads
            )
        except InternalError as error:
            raise ScheduleError(
                f"{self.group.name}: no code can be made of the nest: {error.message}\n{self}",
                code="TW-E0703",
            ) from error
        return ScheduledKernel(self.group, self.func, made)


def _numbers(rng: np.random.Generator, b: Buffer, dims: Mapping[str, int]) -> np.ndarray:
    shape = tuple(evaluate(d, dims) for d in b.shape)
    low = -4 if b.dtype.is_signed else 0
    return rng.integers(low, 5, shape).astype(b.dtype.numpy)


def _written_out(loop: For) -> int:
    """How many statements code generation makes of a loop's body, by unrolling and by vectors."""
    inner = sum(_written_out(x) for x in loop.body if isinstance(x, For))
    inner += sum(1 for x in loop.body if not isinstance(x, For))
    if not isinstance(loop.extent, int):
        return inner
    match loop.kind:
        case "unroll":
            return inner * loop.extent
        case "vector":
            return inner * -(-loop.extent // LANES)
    return inner


def _is_order_free(loop: For) -> bool:
    """Whether no iteration of a loop reads what another writes.

    Two may write one element, as tiles do that are moved back from the edge: what a nest stores
    and does not add to is the value that the expression has at that index, whoever stores it.
    """
    read = {x.buffer for x in block_loads(loop.body)}

    def each(stmt: Stmt) -> Block:
        return () if isinstance(stmt, Store) and stmt.buffer not in read else (stmt,)

    body = map_block(loop.body, each)
    return is_independent(For(loop.var, loop.extent, body, loop.kind, loop.start))


def _is_horizontal(loop: For) -> bool:
    """Whether a loop adds (or takes the greatest ...) into one place: vectors are then added up."""
    if len(loop.body) != 1 or not isinstance(loop.body[0], Store):
        return False
    store = loop.body[0]
    own, value = Load(store.buffer, store.indices), store.value
    if loop.var in own.variables or not isinstance(value, Binary):
        return False
    rest = value.b if value.a is own else value.a
    return (
        value.op in ("add", "mul", "max", "min", "and", "or")
        and (value.a is own or value.b is own)
        and all(x.buffer != store.buffer for x in loads(rest))
    )


def _readable(func: Func, group: ComputeGroup) -> Func:
    """The nest with accumulators called ``acc``, which lowering numbers among all temporaries."""
    stages = {s.output.name for s in group.stages} | {b.name for b in group.inputs}
    sums = [s.buffer for s in func.body if isinstance(s, Alloc) and s.buffer.name not in stages]
    new: dict[Buffer, Buffer] = {}
    names: dict[Var, Var] = {}
    taken = {x.var.name for x in loops(func.body)} | stages
    for b in sums:
        name, k = "acc", 2
        while name in taken or any(t.startswith(f"{name}_") for t in taken):
            name, k = f"acc{k}", k + 1
        new[b] = Buffer(name, b.dtype, b.shape, b.scope)
        for x in loops(func.body):
            if x.var.name.startswith(f"{b.name}_"):
                names[x.var] = Var(name + x.var.name.removeprefix(b.name))
        taken |= {name}
    return rename_vars(replace_buffers(func, new), names)
