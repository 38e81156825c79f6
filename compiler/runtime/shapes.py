"""From the shapes of a call's inputs to everything that depends on them, or the reason why not.

A symbol is bound by the first dim of an input that settles it (tensor/solve.py); every other dim
is then checked, and so is what the model requires of the symbols. What depends on them (output
shapes, the arena) is compiled to one Python function when the executable is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..dtype import bool_
from ..errors import InputError, InternalError
from ..tensor.ir import Binary, Cast, Const, Dim, Expr, Select, Unary, Var
from ..tensor.simplify import evaluate, symbols
from ..tensor.solve import solve, sources
from ..tensor.text import text
from .program import Program, TensorSpec

Shape = tuple[int, ...]

_MOST_BYTES = 1 << 47
_OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%", "shl": "<<", "shr": ">>",
    "and": "&", "or": "|", "xor": "^",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What one combination of input shapes leads to.

    Attributes:
        dims: the symbols' values, in ``Program.symbols`` order.
        outputs: shape, NumPy dtype and bytes of each output.
        arena_bytes: the scratch memory needed.
    """

    dims: tuple[int, ...]
    outputs: tuple[tuple[Shape, np.dtype, int], ...]
    arena_bytes: int


class Planner:
    """Binds symbols from input shapes and evaluates what depends on them.

    Args:
        program: whose interface it is.

    Raises:
        InternalError: no size of an input settles a symbol (TW-E0912).
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._sources = sources([s.shape for s in program.inputs])
        unbound = [s.name for s in program.symbols if s not in self._sources]
        if unbound:
            raise InternalError(
                f"program {program.name}: no size of an input settles {', '.join(unbound)}",
                code="TW-E0912",
            )
        sizes: list[Dim] = [program.arena_bytes]
        for spec in program.outputs:
            sizes.extend(spec.shape)
        self._sizes = compile_dims(sizes, program.symbols)

    def plan(self, shapes: Sequence[Shape]) -> Plan:
        """What the input shapes lead to.

        Raises:
            InputError: a shape does not fit (TW-E0303 rank, TW-E0304 dim, TW-E0305 symbols in
                conflict, TW-E0306 range, TW-E0312 condition), a size is divided by one that is 0
                (TW-E0309), or the call would need more memory than there can be (TW-E0307).
        """
        specs = self.program.inputs
        for spec, shape in zip(specs, shapes, strict=True):
            if len(shape) != len(spec.shape):
                raise InputError(
                    f"input {spec.name!r}: shape {shape} has rank {len(shape)}, expected rank "
                    f"{len(spec.shape)}: {spec}",
                    code="TW-E0303",
                )
        settled = dict(solve(self._sources, shapes, {}))
        values = {s: settled[s] for s in self.program.symbols}
        try:
            return self._plan(shapes, values)
        except ZeroDivisionError as error:
            raise InputError(
                f"{self.program.name}: a size is divided by one that is 0{self._given(values)}",
                code="TW-E0309",
            ) from error

    def _plan(self, shapes: Sequence[Shape], values: Mapping[Var, int]) -> Plan:
        specs = self.program.inputs
        for spec, shape in zip(specs, shapes, strict=True):
            self._check_dims(spec, shape, values)
        for var, value in values.items():
            self._check_range(var, value)
        self._check_conditions(values)
        dims = tuple(values[s] for s in self.program.symbols)
        arena, *sizes = self._sizes(dims)
        outputs = []
        for spec in self.program.outputs:
            shape, sizes = tuple(sizes[: len(spec.shape)]), sizes[len(spec.shape) :]
            size = math.prod(shape) * spec.dtype.bytes
            if min(shape, default=0) < 0 or size > _MOST_BYTES:
                raise InputError(
                    f"output {spec.name!r}: would have shape {shape}{self._given(values)}",
                    code="TW-E0307",
                )
            outputs.append((shape, spec.dtype.numpy, size))
        if not 0 <= arena <= _MOST_BYTES:
            raise InputError(
                f"the call would need {arena} bytes of scratch memory{self._given(values)}",
                code="TW-E0307",
            )
        return Plan(dims, tuple(outputs), arena)

    def _check_dims(self, spec: TensorSpec, shape: Shape, values: Mapping[Var, int]) -> None:
        names = {s.name: v for s, v in values.items()}
        for axis, (d, given) in enumerate(zip(spec.shape, shape, strict=True)):
            if isinstance(d, int):
                if given != d:
                    raise InputError(
                        f"input {spec.name!r}: dim {axis} is {given}, expected {d}: shape {shape} "
                        f"for {spec}",
                        code="TW-E0304",
                    )
            elif isinstance(d, Var):
                if given != values[d]:
                    raise InputError(
                        f"{d.name} is {values[d]} from {self._origin(d)} but {given} from input "
                        f"{spec.name!r} (dim {axis})",
                        code="TW-E0305",
                    )
            elif given != (wanted := evaluate(d, names)):
                used = {s: v for s, v in values.items() if s in symbols(d)}
                raise InputError(
                    f"input {spec.name!r}: dim {axis} is {given}, but {text(d)} is {wanted}"
                    f"{self._given(used)}",
                    code="TW-E0304",
                )

    def _check_range(self, var: Var, value: int) -> None:
        if (var.lo is not None and value < var.lo) or (var.hi is not None and value > var.hi):
            limits = f"at least {var.lo}" if var.hi is None else f"{var.lo} to {var.hi}"
            raise InputError(
                f"{var.name} is {value} from {self._origin(var)}, outside its range: {limits}",
                code="TW-E0306",
            )

    def _check_conditions(self, values: Mapping[Var, int]) -> None:
        names = {s.name: v for s, v in values.items()}
        for condition in self.program.conditions:
            if not evaluate(condition, names):
                used = {s: v for s, v in values.items() if s in symbols(condition)}
                raise InputError(
                    f"{self.program.name} is compiled for sizes with {text(condition)}, which does "
                    f"not hold{self._given(used)}",
                    code="TW-E0312",
                )

    def _origin(self, var: Var) -> str:
        source = self._sources[var]
        return f"input {self.program.inputs[source.index].name!r} (dim {source.axis})"

    def _given(self, values: Mapping[Var, int]) -> str:
        shown = [f"{s.name} = {v} from {self._origin(s)}" for s, v in values.items()]
        return f" with {', '.join(shown)}" if shown else ""


def compile_dims(
    dims: Sequence[Dim], variables: Sequence[Var]
) -> Callable[[Sequence[int]], tuple[int, ...]]:
    """A Python function from the variables' values to the values of the dims.

    Each shared sub-expression becomes one assignment, so neither depth nor sharing costs more
    than its size.

    Raises:
        InternalError: a dim uses another variable or an operation dims do not have (TW-E0912).
    """
    names: dict[Expr, str] = {v: f"values[{i}]" for i, v in enumerate(variables)}
    lines: list[str] = []

    def visit(e: Expr) -> str:
        if isinstance(e, Const):
            return f"({int(e.value)})"
        found = names.get(e)
        if found is None:
            expression = _python(e, visit)
            found = names[e] = f"t{len(lines)}"
            lines.append(f"    {found} = {expression}\n")
        return found

    results = [str(d) if isinstance(d, int) else visit(d) for d in dims]
    result = "".join(f"{r}, " for r in results)
    source = f"def sizes(values):\n{''.join(lines)}    return ({result})\n"
    scope: dict[str, Callable[[Sequence[int]], tuple[int, ...]]] = {}
    # Generated from indices and integers only: no text of the model is in it.
    exec(compile(source, "<dims>", "exec"), {}, scope)
    return scope["sizes"]


def _python(e: Expr, visit: Callable[[Expr], str]) -> str:
    match e:
        case Unary(op="neg"):
            return f"-{visit(e.x)}"
        case Unary(op="abs"):
            return f"abs({visit(e.x)})"
        case Unary(op="not") if e.dtype is bool_:
            return f"not {visit(e.x)}"
        case Select():
            return f"{visit(e.a)} if {visit(e.cond)} else {visit(e.b)}"
        case Cast() if e.x.dtype is bool_ or e.x.dtype is e.dtype:
            return f"int({visit(e.x)})" if e.x.dtype is bool_ else visit(e.x)
        case Binary(op="min" | "max"):
            return f"{e.op}({visit(e.a)}, {visit(e.b)})"
        case Binary(op="div"):
            a, b = visit(e.a), visit(e.b)
            return f"abs({a}) // abs({b}) * (1 if ({a} < 0) == ({b} < 0) else -1)"
        case Binary() if e.op in _OPERATORS:
            return f"{visit(e.a)} {_OPERATORS[e.op]} {visit(e.b)}"
    name = e.name if isinstance(e, Var) else repr(e)
    raise InternalError(f"dim: {name} cannot be evaluated before the call", code="TW-E0912")
