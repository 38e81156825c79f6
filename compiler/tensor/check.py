"""Well-formedness of functions and groups: what every pass may rely on and must keep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn, assert_never

from .. import dtype as dt
from ..errors import InternalError
from .compute import ComputeGroup
from .intrinsics import INTRINSICS
from .ir import (
    Alloc,
    Barrier,
    Block,
    Buffer,
    Call,
    Commit,
    Dim,
    Expr,
    For,
    Func,
    If,
    Let,
    Load,
    Prefetch,
    Reduce,
    Stmt,
    Store,
    Unary,
    Var,
    Wait,
)
from .text import text
from .walk import visit


class CheckError(InternalError):
    """A function or a group that no pass may produce; the message shows the place."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="TW-E0915")


def check(func: Func) -> None:
    """Raises unless a function is well-formed.

    The rules: parameters are buffers of global scope and then i64 variables; every symbol of a
    parameter's shape is a parameter. Names of buffers, and of loops, are unique. A variable is
    bound before it is used and once along a path; a buffer is declared before it is used.
    Indices are i64, one for each dim; conditions are bool; a stored value has the buffer's type.
    Extents are ints >= 0 or i64 expressions, constant for vector and unroll. Parallel loops stand
    at the top level. Register buffers have constant shapes, and no buffer of global scope is
    declared. Calls fit the table of intrinsics, and there is no Reduce.

    Raises:
        CheckError: says which rule is broken, and where.
    """
    _Checker(func).run()


class _Checker:
    def __init__(self, func: Func) -> None:
        self._func = func
        self._loop_names: set[str] = set()
        self._buffer_names: set[str] = set()
        self._threads: frozenset[str] = frozenset()

    def run(self) -> None:
        func = self._func
        bound: set[Var] = set()
        declared: set[Buffer] = set()
        for param in func.params:
            if isinstance(param, Var):
                if param.dtype is not dt.i64:
                    self._fail(f"parameter {param.name} is {param.dtype}, not i64", None)
                if any(v.name == param.name for v in bound):
                    self._fail(f"two parameters are named {param.name}", None)
                bound.add(param)
                continue
            if bound:
                self._fail(f"buffer {param.name} comes after a symbol in the parameters", None)
            if param.scope != "global":
                self._fail(f"parameter {param.name} has scope {param.scope}, not global", None)
            self._new_buffer(param, None)
            declared.add(param)
        for buffer in declared:
            self._shape(buffer, bound, None)
        self._block(func.body, frozenset(bound), frozenset(declared), top=True)

    def _fail(self, why: str, place: Stmt | None) -> NoReturn:
        shown = "" if place is None else f"\n    at: {_first_lines(place)}"
        raise CheckError(f"{self._func.name}: {why}{shown}")

    # -------------------------------------------------------------- statements

    def _block(
        self, block: Block, bound: frozenset[Var], declared: frozenset[Buffer], *, top: bool
    ) -> None:
        for stmt in block:
            match stmt:
                case For():
                    self._for(stmt, bound, declared, top)
                case Store():
                    self._store(stmt, bound, declared)
                case Prefetch():
                    self._access(stmt.buffer, stmt.indices, declared, stmt)
                    for e in stmt.indices:
                        self._expr(e, bound, declared, stmt)
                case Barrier() | Commit() | Wait():
                    if self._threads:
                        self._fail("a barrier or wait is inside a loop over threads", stmt)
                case If():
                    self._expr(stmt.cond, bound, declared, stmt)
                    if stmt.cond.dtype is not dt.bool_:
                        self._fail(f"the condition is {stmt.cond.dtype}, not bool", stmt)
                    self._block(stmt.then, bound, declared, top=top)
                    self._block(stmt.orelse, bound, declared, top=top)
                case Alloc():
                    if stmt.buffer.scope == "global":
                        self._fail(f"buffer {stmt.buffer.name} is declared with scope global", stmt)
                    self._new_buffer(stmt.buffer, stmt)
                    self._shape(stmt.buffer, bound, stmt)
                    declared |= {stmt.buffer}
                case Let():
                    self._expr(stmt.value, bound, declared, stmt)
                    if stmt.value.dtype is not stmt.var.dtype:
                        self._fail(
                            f"{stmt.var.name} is {stmt.var.dtype}, its value {stmt.value.dtype}",
                            stmt,
                        )
                    bound = self._bind(stmt.var, bound, stmt)
                case _:
                    assert_never(stmt)

    def _for(
        self, loop: For, bound: frozenset[Var], declared: frozenset[Buffer], top: bool
    ) -> None:
        if loop.var.dtype is not dt.i64 or loop.var.is_symbol:
            self._fail(f"loop variable {loop.var.name} is not a plain i64", loop)
        if loop.var.name in self._loop_names:
            self._fail(f"two loops are named {loop.var.name}", loop)
        self._loop_names.add(loop.var.name)
        if loop.kind == "parallel" and not top:
            self._fail(f"parallel loop {loop.var.name} is not at the top level", loop)
        if loop.kind.startswith("block.") and self._threads:
            self._fail(f"{loop.kind} loop {loop.var.name} is inside a loop over threads", loop)
        if loop.kind.startswith("thread.") and not (
            isinstance(loop.extent, int) and loop.start == 0
        ):
            self._fail(f"{loop.kind} loop {loop.var.name} has no constant extent from 0", loop)
        if loop.kind in self._threads:
            self._fail(f"{loop.kind} loop {loop.var.name} is inside another", loop)
        if loop.kind in ("vector", "unroll") and not isinstance(loop.extent, int):
            self._fail(f"{loop.kind} loop {loop.var.name} has no constant extent", loop)
        if isinstance(loop.extent, int) and loop.extent < 0:
            self._fail(f"loop {loop.var.name} has extent {loop.extent}", loop)
        for end in (loop.start, loop.extent):
            self._dim(end, bound, declared, loop)
        inner = self._bind(loop.var, bound, loop)
        around = self._threads
        if loop.kind.startswith("thread."):
            self._threads = around | {loop.kind}
        self._block(loop.body, inner, declared, top=False)
        self._threads = around

    def _store(self, stmt: Store, bound: frozenset[Var], declared: frozenset[Buffer]) -> None:
        self._access(stmt.buffer, stmt.indices, declared, stmt)
        for e in (*stmt.indices, stmt.value):
            self._expr(e, bound, declared, stmt)
        if stmt.value.dtype is not stmt.buffer.dtype:
            self._fail(f"stores {stmt.value.dtype} to a buffer of {stmt.buffer.dtype}", stmt)

    def _bind(self, var: Var, bound: frozenset[Var], place: Stmt) -> frozenset[Var]:
        if any(v.name == var.name for v in bound):
            self._fail(f"{var.name} is bound again", place)
        return bound | {var}

    # -------------------------------------------------------------- buffers

    def _new_buffer(self, buffer: Buffer, place: Stmt | None) -> None:
        if buffer.name in self._buffer_names:
            self._fail(f"two buffers are named {buffer.name}", place)
        self._buffer_names.add(buffer.name)

    def _shape(self, buffer: Buffer, bound: Iterable[Var], place: Stmt | None) -> None:
        for d in buffer.shape:
            if isinstance(d, int):
                if d < 0:
                    self._fail(f"buffer {buffer.name} has a dim of {d}", place)
                continue
            if buffer.scope in ("register", "fragment"):
                self._fail(f"{buffer.scope} buffer {buffer.name} has a dim that varies", place)
            self._dim(d, frozenset(bound), frozenset(), place)

    def _access(
        self,
        buffer: Buffer,
        indices: tuple[Expr, ...],
        declared: frozenset[Buffer],
        place: Stmt | None,
    ) -> None:
        if buffer not in declared:
            same = next((b for b in declared if b.name == buffer.name), None)
            if same is not None:
                self._fail(f"{text(buffer)} is declared as {text(same)}", place)
            self._fail(f"buffer {buffer.name} is not declared here", place)
        if len(indices) != len(buffer.shape):
            self._fail(
                f"{len(indices)} indices for {buffer.name} of {len(buffer.shape)} dims", place
            )
        for index in indices:
            if index.dtype is not dt.i64:
                self._fail(f"index {text(index)} is {index.dtype}, not i64", place)

    # -------------------------------------------------------------- expressions

    def _dim(
        self, d: Dim, bound: frozenset[Var], declared: frozenset[Buffer], place: Stmt | None
    ) -> None:
        if isinstance(d, int):
            return
        if d.dtype is not dt.i64:
            self._fail(f"dim {text(d)} is {d.dtype}, not i64", place)
        self._expr(d, bound, declared, place)

    def _expr(
        self, e: Expr, bound: frozenset[Var], declared: frozenset[Buffer], place: Stmt | None
    ) -> None:
        for node in visit(e):
            match node:
                case Var():
                    if node not in bound:
                        self._unbound(node, bound, place)
                case Load():
                    self._access(node.buffer, node.indices, declared, place)
                case Call():
                    self._call(node, place)
                case Unary():
                    if node.op != "not" and node.dtype is dt.bool_:
                        self._fail(f"{node.op} of a bool", place)
                    if node.op == "not" and node.dtype.is_float:
                        self._fail("not of a float", place)
                case Reduce():
                    self._fail("a reduction stands only in a Compute", place)

    def _unbound(self, var: Var, bound: frozenset[Var], place: Stmt | None) -> NoReturn:
        same = next((v for v in bound if v.name == var.name), None)
        if same is not None:
            self._fail(f"variable {var!r} is bound here as {same!r}", place)
        self._fail(f"variable {var.name} is not bound here", place)

    def _call(self, e: Call, place: Stmt | None) -> None:
        entry = INTRINSICS.get(e.name)
        if entry is None:
            self._fail(f"{e.name} is not a scalar function", place)
        try:
            inferred = entry.infer(tuple(a.dtype for a in e.args))
        except TypeError as error:
            self._fail(str(error), place)
        if inferred is None:
            if e.dtype.bits != e.args[0].dtype.bits:
                self._fail(f"{e.name} from {e.args[0].dtype} to {e.dtype}", place)
        elif inferred is not e.dtype:
            self._fail(f"{e.name} gives {inferred}, not {e.dtype}", place)


def _first_lines(stmt: Stmt, most: int = 3) -> str:
    try:
        lines = text(stmt).splitlines()
    except InternalError:
        # The statement itself is what has no text: a name or a variable that none can hold.
        return repr(stmt)[:200]
    return "\n        ".join([*lines[:most], *(["..."] if len(lines) > most else [])])


def check_group(group: ComputeGroup) -> None:
    """Raises unless a group is well-formed.

    The rules: names are unique; each stage's shape is the extents of its axes and its value has
    its type; it reads inputs and earlier stages, at i64 indices, over its own axes, the axes of
    its Reduces, and symbols; every output is the output of a stage.

    Raises:
        CheckError: says which rule is broken, and in which stage.
    """
    known = set(group.inputs)
    if len({b.name for b in known}) != len(group.inputs):
        raise CheckError(f"{group.name}: two inputs have one name")
    for stage in group.stages:
        place = f"{group.name}: stage {stage.output.name}"
        if any(b.name == stage.output.name for b in known):
            raise CheckError(f"{place}: the name is taken")
        if tuple(a.extent for a in stage.axes) != stage.output.shape:
            raise CheckError(f"{place}: its axes do not have its shape {stage.output.shape}")
        if stage.expr.dtype is not stage.output.dtype:
            raise CheckError(
                f"{place}: the value is {stage.expr.dtype}, the buffer {stage.output.dtype}"
            )
        axes = [a.var for a in stage.axes]
        axes += [a.var for n in visit(stage.expr) if isinstance(n, Reduce) for a in n.axes]
        if len({a.var.name for a in stage.axes}) != len(stage.axes):
            raise CheckError(f"{place}: two axes have one name")
        for node in visit(stage.expr):
            if isinstance(node, Var) and node not in axes and not node.is_symbol:
                raise CheckError(f"{place}: variable {node.name} is not bound")
            if isinstance(node, Load):
                if node.buffer not in known:
                    raise CheckError(f"{place}: {text(node)} is not defined before")
                if any(i.dtype is not dt.i64 for i in node.indices):
                    raise CheckError(f"{place}: an index of {text(node)} is not i64")
        known.add(stage.output)
    if missing := [b.name for b in group.outputs if b not in {s.output for s in group.stages}]:
        raise CheckError(f"{group.name}: no stage defines {', '.join(missing)}")
