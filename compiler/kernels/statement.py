"""From a user's function to the group of stages that it states."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tilewright.dtype import Declared, DType
from tilewright.errors import ArtifactError, OptionError, TilewrightError
from tilewright.tensor.check import check_group
from tilewright.tensor.compute import Compute, ComputeGroup
from tilewright.tensor.ir import Axis, Buffer, Dim, Expr, Load, Reduce, Var, symbol
from tilewright.tensor.parse import parse_dim
from tilewright.tensor.simplify import dim, symbols
from tilewright.tensor.solve import sources
from tilewright.tensor.walk import free_vars, loads, replace_loads, rewrite, substitute, visit

from .scalar import stem, wrong
from .stage import Array, Source, parameter

DimRanges = Mapping[str, tuple[int, int | None]]
Static = int | float | bool | str
_STATIC: tuple[type, ...] = (int, float, bool, str)
_RESERVED = frozenset({"nan", "inf"})


@dataclass(frozen=True, slots=True)
class Signature:
    """What a kernel's function takes.

    Attributes:
        operands: dtype and dims of the arrays, by name, in order.
        statics: the types of what else it takes, which is part of the program, by name.
        defaults: of those that have one.
    """

    operands: Mapping[str, tuple[DType, tuple[Dim, ...]]]
    statics: Mapping[str, type]
    defaults: Mapping[str, Static]


def read_signature(
    function: Callable[..., Any], dim_ranges: DimRanges | None, around: Mapping[str, Any]
) -> Signature:
    """Reads the annotations of a function: ``tw.f32["M", 64]`` for an array, or ``float``.

    Args:
        function: the kernel's.
        dim_ranges: inclusive ranges by the names of dims.
        around: the variables around its definition, which annotations may use, too.

    Raises:
        ModelError: one is missing or is neither (TW-E0260).
        OptionError: a range is impossible or of no symbol (TW-E0810, TW-E0823).
    """
    who = getattr(function, "__name__", "kernel")
    try:
        annotations = inspect.get_annotations(function, locals=around, eval_str=True)
    except Exception as error:
        raise wrong(f"{who}: its annotations cannot be evaluated ({error}); arrays are"
                    ' annotated as in tw.f32["M", "K"]', "TW-E0260") from error  # fmt: skip
    known = _Symbols(who, dim_ranges or {})
    operands: dict[str, tuple[DType, tuple[Dim, ...]]] = {}
    statics: dict[str, type] = {}
    defaults: dict[str, Static] = {}
    for p in inspect.signature(function).parameters.values():
        found = annotations.get(p.name)
        match found:
            case _ if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                raise wrong(
                    f"{who}: *{p.name}: a kernel has a fixed number of parameters", "TW-E0260"
                )
            case DType():
                operands[p.name] = found, ()
            case Declared():
                operands[p.name] = found.dtype, tuple(known.dim(p.name, d) for d in found.dims)
            case type() if found in _STATIC:
                statics[p.name] = found
                if p.default is not p.empty:
                    defaults[p.name] = p.default
            case _:
                raise wrong(f"{who}: the parameter {p.name} is annotated {found!r}; an array as in"
                            ' tw.f32["M", "K"], a number that is part of the program int, float,'
                            " bool or str", "TW-E0260")  # fmt: skip
    known.finish()
    if not operands:
        raise wrong(f"{who}: has no array among its parameters", "TW-E0260")
    clash = sorted(operands.keys() & known.found.keys())
    if clash:
        raise wrong(f"{who}: {clash[0]} is an array and a dim", "TW-E0260")
    settled = sources([shape for _, shape in operands.values()])
    for v in known.found.values():
        if v not in settled:
            raise wrong(
                f"{who}: no parameter has the dim {v.name} alone, or linear in it", "TW-E0260"
            )
    return Signature(operands, statics, defaults)


class _Symbols:
    """The symbolic dims of one kernel."""

    def __init__(self, who: str, ranges: DimRanges) -> None:
        self.who = who
        self.ranges = ranges
        self.found: dict[str, Var] = {}

    def dim(self, parameter: str, given: object) -> Dim:
        """A declared dim: a number from 0 on, or the text of an expression over symbols."""
        if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
            return given
        if isinstance(given, str):
            try:
                names = {
                    n.id for n in ast.walk(ast.parse(given, mode="eval")) if isinstance(n, ast.Name)
                }
                return dim(parse_dim(given, {n: self._symbol(n) for n in sorted(names)}))
            except (SyntaxError, ArtifactError):
                pass
        raise wrong(f"{self.who}: {parameter} has the dim {given!r}; dims are numbers from 1 on and"
                    ' names, or expressions of names ("2*N + 1")', "TW-E0260")  # fmt: skip

    def _symbol(self, name: str) -> Var:
        low, high = self.ranges.get(name, (1, None))
        if low < 1 or (high is not None and high < low):
            raise OptionError(
                f"{self.who}: {name} in {low}..{high}: a dim is at least 1 and its range not empty",
                code="TW-E0810",
            )
        return self.found.setdefault(name, symbol(name, low, high))

    def finish(self) -> None:
        unknown = sorted(self.ranges.keys() - self.found.keys())
        if unknown:
            raise OptionError(f"{self.who}: dim_ranges: {unknown[0]} is no dim of it; there are"
                              f" {', '.join(self.found) or 'none'}", code="TW-E0823")  # fmt: skip


# ------------------------------------------------------------------ stages


def state(
    function: Callable[..., Any], signature: Signature, statics: Mapping[str, Static]
) -> ComputeGroup:
    """Runs a kernel's function on arrays that stand for its operands.

    Raises:
        ModelError: it states something that cannot be meant (TW-E026x).
    """
    who = getattr(function, "__name__", "kernel")
    name = who if who.isidentifier() else "kernel"
    given = {n: parameter(n, t, shape) for n, (t, shape) in signature.operands.items()}
    try:
        result = function(**given, **statics)
    except TilewrightError as error:
        error.add_note(f"in the kernel {name}")
        raise
    results = list(result) if isinstance(result, tuple | list) else [result]
    for r in results:
        if not isinstance(r, Array) or r.source.definition is None:
            what = "its parameter" if isinstance(r, Array) else type(r).__name__
            raise wrong(f"{name}: returns {what} {r}; a kernel returns what tw.compute gives, or a"
                        " tuple of that", "TW-E0261")  # fmt: skip
    outputs = [r.source for r in results]
    if len(set(outputs)) != len(outputs):
        raise wrong(f"{name}: returns one array twice", "TW-E0261")
    group = _Writer(name, [a.source for a in given.values()]).write(outputs)
    check_group(group)
    return group


class _Writer:
    """The buffers of a group while its stages are written, in order."""

    def __init__(self, name: str, operands: Sequence[Source]) -> None:
        self.name = name
        self.held: dict[Buffer, Buffer] = {
            s: Buffer(stem(s.name), s.dtype, s.shape) for s in operands
        }
        self.inputs = tuple(self.held.values())
        dims = {v.name for b in self.inputs for d in b.shape for v in symbols(d)}
        self.taken = {*dims, *(b.name for b in self.inputs), *_RESERVED}
        self.stages: list[Compute] = []

    def write(self, outputs: list[Source]) -> ComputeGroup:
        several = len(outputs) > 1
        wanted = {s: f"out{k}" if several else "out" for k, s in enumerate(outputs)}
        for source in outputs:
            self._need(source, wanted)
        made = tuple(self.held[s] for s in outputs)
        return ComputeGroup(self.name, self.inputs, made, tuple(self.stages))

    def _need(self, last: Source, wanted: Mapping[Source, str]) -> None:
        """Writes an array's stage, after those that it reads; without recursion."""
        stack = [last]
        while stack:
            source = stack[-1]
            if source in self.held:
                stack.pop()
                continue
            value = self._value(source)
            missing = [
                x.buffer
                for x in loads(value)
                if isinstance(x.buffer, Source) and x.buffer not in self.held
            ]
            if missing:
                stack += missing
                continue
            self._stage(source, value, wanted.get(source, "t0"))
            stack.pop()

    def _value(self, source: Source) -> Expr:
        if source.definition is None:
            raise wrong(f"{self.name}: reads {stem(source.name)} of another kernel", "TW-E0266")
        return source.definition.values[source.position]

    def _stage(self, source: Source, value: Expr, otherwise: str) -> None:
        assert source.definition is not None
        named = source.definition.name
        name = self._free(named if named.isidentifier() else otherwise, number=not named)
        self.taken.add(name)
        buffer = Buffer(name, source.dtype, source.shape)
        self.held[source] = buffer
        value = replace_loads(value, {x.buffer: self.held[x.buffer] for x in loads(value)})
        own: dict[Expr, Expr] = {}
        axes: list[Axis] = []
        used = set(self.taken)
        for a in source.definition.axes:
            var = Var(_unused(stem(a.var.name), used))
            used.add(var.name)
            own[a.var] = var
            axes.append(Axis(var, a.extent))
        value = substitute(_named(value, used), own)
        extents = {a.var: a.extent for a in axes}
        while (inner := _repeated(value)) is not None:
            value = substitute(value, {inner: self._kept(inner, value, extents)})
        self.stages.append(Compute(buffer, tuple(axes), value))

    def _kept(self, inner: Reduce, value: Expr, extents: Mapping[Var, Dim]) -> Load:
        """Makes a stage of a reduction inside of another, over all axes that it varies along."""
        known = dict(extents)
        for x in visit(value):
            if isinstance(x, Reduce):
                known |= {a.var: a.extent for a in x.axes}
        axes = tuple(
            Axis(v, known[v])
            for v in sorted(free_vars(inner), key=lambda v: v.name)
            if not v.is_symbol
        )
        name = self._free("t0", number=True)
        self.taken.add(name)
        buffer = Buffer(name, inner.dtype, tuple(a.extent for a in axes))
        self.stages.append(Compute(buffer, axes, inner))
        return Load(buffer, (a.var for a in axes))

    def _free(self, name: str, number: bool) -> str:
        if not number or name not in self.taken:
            return _unused(name, self.taken)
        return next(n for k in range(len(self.taken) + 1) if (n := f"t{k}") not in self.taken)


def _repeated(value: Expr) -> Reduce | None:
    """A reduction that another one computes anew for each of its indices, and that repeats none."""
    for outer in visit(value):
        if not isinstance(outer, Reduce):
            continue
        own = {a.var for a in outer.axes}
        for inner in visit(outer.body):
            if isinstance(inner, Reduce) and not own.isdisjoint(free_vars(inner)):
                return inner
    return None


def _unused(name: str, used: set[str]) -> str:
    found, k = name, 2
    while found in used:
        found, k = f"{name}_{k}", k + 1
    return found


def _named(value: Expr, used: set[str]) -> Expr:
    """Gives the axes of reductions the user's names, others only where two would be mixed up."""

    def each(e: Expr) -> Expr:
        if not isinstance(e, Reduce):
            return e
        inside = {a.var.name for x in visit(e.body) if isinstance(x, Reduce) for a in x.axes}
        own = {a.var for a in e.axes}
        inside |= {stem(v.name) for v in free_vars(e.body) - own} | used
        names: dict[Expr, Expr] = {}
        axes = []
        for a in e.axes:
            var = Var(_unused(stem(a.var.name), inside))
            inside.add(var.name)
            names[a.var] = var
            axes.append(Axis(var, a.extent))
        return Reduce(e.op, axes, substitute(e.body, names))

    return rewrite(value, each)
