"""The state of one tracing: the graph so far, and what was decided about sizes on the way.

Sizes are symbols of at least 2 (0 and 1 are known numbers, since broadcasting depends on them).
Each symbol has the value that it has in the call that is traced. Where the function's course
depends on a size, the course of this call is taken and becomes a guard; where two dims must be
equal, the tracing begins again with one put in the other's place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from tilewright import dtype as dt
from tilewright.errors import Gap, InputError, UnsupportedError, user_line
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Attr, Value
from tilewright.ops.op import OpError, shape_text
from tilewright.tensor.ir import Dim, Expr, Var, as_expr
from tilewright.tensor.simplify import dim, evaluate, prove, same_dim, simplify, symbols

Handler = Callable[..., Any]


class Restart(BaseException):
    """Tracing must begin again with dims in place of symbols.

    Not an Exception: a handler in the user's function must not stop it.
    """

    def __init__(self, replace: Mapping[Var, Dim]) -> None:
        super().__init__()
        self.replace = replace


class Trace:
    """One run of a function on symbolic arrays.

    Args:
        name: the function's.
        env: the symbols' values in the call that is traced, by name.
        functions: what NumPy's functions become.
        ufuncs: what a ufunc's loop becomes, by the ufunc's name.
        refused: of NumPy's functions that are refused, by public name, the code and the reason.
    """

    def __init__(
        self,
        name: str,
        env: Mapping[str, int],
        functions: Mapping[object, Handler],
        ufuncs: Mapping[str, Handler],
        refused: Mapping[str, tuple[str, str]],
    ) -> None:
        self.name = name
        self.env = env
        self.functions = functions
        self.ufuncs = ufuncs
        self.refused = refused
        self.builder = GraphBuilder(name)
        self.guards: dict[Expr, bool] = {}

    # ---------------------------------------------------------- the graph

    def add(self, op: str, /, *inputs: Value, **attrs: Attr) -> Value:
        """Adds a node with one output."""
        return self.add_many(op, *inputs, **attrs)[0]

    def add_many(self, op: str, /, *inputs: Value, **attrs: Attr) -> tuple[Value, ...]:
        """Adds a node; its origin is the user's line."""
        try:
            with self.builder.origin(self.place()):
                return self.builder.add_many(op, *inputs, **attrs)  # type: ignore[arg-type]
        except OpError as error:
            raise UnsupportedError(
                [Gap(error.message, (self.place(),))], code="TW-E0240", model=self.name
            ) from error

    def constant(self, array: np.ndarray | np.generic) -> Value:
        """Adds a constant."""
        return self.builder.constant(array)

    def cast(self, value: Value, dtype: dt.DType) -> Value:
        """Converts a value unless it has the type."""
        if value.dtype is dtype:
            return value
        return self.add("cast", value, dtype=dtype, saturate=False)

    # ---------------------------------------------------------- sizes

    def hint(self, size: Dim) -> int:
        """The size in the call that is traced."""
        return evaluate(size, self.env)

    def hints(self, shape: Sequence[Dim]) -> tuple[int, ...]:
        """The shape in the call that is traced."""
        return tuple(self.hint(d) for d in shape)

    def decide(self, condition: Expr) -> bool:
        """Whether a condition on sizes holds; what only this call decides becomes a guard."""
        simple = simplify(condition)
        known = prove(simple)
        if known is not None:
            return known
        held = bool(evaluate(simple, self.env))
        self.guards[simple] = held
        return held

    def require_equal(self, a: Dim, b: Dim) -> None:
        """Makes two dims one that are equal in this call.

        Raises:
            Restart: a symbol is replaced everywhere, so tracing begins again.
        """
        if same_dim(a, b):
            return
        difference = as_expr(dim(as_expr(a) - b))
        for symbol in sorted(symbols(difference), key=lambda s: s.name, reverse=True):
            for solved in (dim(symbol + difference), dim(symbol - difference)):
                if symbol not in symbols(solved):
                    raise Restart({symbol: solved})
        self._pair_factors(as_expr(a), as_expr(b))
        self.specialise(difference)

    def _pair_factors(self, a: Expr, b: Expr) -> None:
        """Where products are equal (of sizes of flattened arrays), makes equal factors one.

        That is more than is needed, but leaves sizes symbolic; calls that have the product in
        common, but not the factors, are compiled apart.
        """
        mine, others = (sorted(symbols(e), key=lambda s: s.name) for e in (a, b))
        for one in mine:
            for other in others:
                apart = one not in others and other not in mine
                if apart and self.env[one.name] == self.env[other.name]:
                    raise Restart({other: one})

    def specialise(self, size: Dim) -> int:
        """The size as a number, for which the symbols in it become numbers.

        Raises:
            Restart: it had symbols.
        """
        if isinstance(size, int):
            return size
        raise Restart({s: self.env[s.name] for s in symbols(size)})

    def broadcast(self, who: str, shapes: Sequence[Sequence[Dim]]) -> tuple[Dim, ...]:
        """Broadcasts shapes by NumPy's rule, with dims unified where that needs it."""
        rank = max((len(s) for s in shapes), default=0)
        result: list[Dim] = [1] * rank
        for shape in shapes:
            for position, size in enumerate(shape, rank - len(shape)):
                have = result[position]
                if same_dim(size, have) or same_dim(size, 1):
                    continue
                if same_dim(have, 1):
                    result[position] = size
                    continue
                one, other = self.hint(have), self.hint(size)
                if one == other:
                    self.require_equal(have, size)
                elif one == 1:
                    self.require_equal(have, 1)
                elif other == 1:
                    self.require_equal(size, 1)
                else:
                    shown = " and ".join(str(self.hints(s)) for s in shapes)
                    self.refuse(f"{who}: shapes {shown} do not broadcast: {one} against {other}")
        return tuple(result)

    # ---------------------------------------------------------- errors

    def refuse(self, message: str, code: str = "TW-E0320") -> NoReturn:
        """Raises that the arguments do not go with the function, as NumPy would."""
        raise InputError(f"{self.name}: {message}", code=code)

    def missing(self, name: str) -> NoReturn:
        """Raises that a function of NumPy is not there, with the reason where one is known."""
        code, reason = self.refused.get(name, ("TW-E0241", ""))
        self.unsupported(f"{name}: {reason}" if reason else name, code)

    def unsupported(self, what: str, code: str = "TW-E0241") -> NoReturn:
        """Raises that something of NumPy is not there."""
        raise UnsupportedError([Gap(what, (self.place(),))], code=code, model=self.name)

    def place(self) -> str:
        """The line of the user's function that is being run."""
        return user_line() or "?"


def shown(shape: Sequence[Dim]) -> str:
    """A shape in messages."""
    return shape_text(tuple(shape))
