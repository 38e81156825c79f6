"""Scalars: what the elements and indices of a kernel's expression are while it is stated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn, TypeAlias

import numpy as np

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.errors import ModelError
from tilewright.graph.ir import Attr, TensorType
from tilewright.ops import OPS, OpError
from tilewright.tensor.ir import (
    Axis,
    Binary,
    Buffer,
    Cast,
    Const,
    Dim,
    Expr,
    Load,
    Reduce,
    Var,
)
from tilewright.tensor.simplify import prove, simplify, substitute
from tilewright.tensor.text import text
from tilewright.tensor.walk import rewrite

Operand: TypeAlias = "Scalar | int | float | bool | np.generic"

FUNCTIONS: Mapping[str, str] = {
    "absolute": "abs", "add": "add", "arccos": "acos", "arccosh": "acosh", "arcsin": "asin",
    "arcsinh": "asinh", "arctan": "atan", "arctanh": "atanh", "bitwise_and": "and",
    "bitwise_or": "or", "bitwise_xor": "xor", "ceil": "ceil", "cos": "cos", "cosh": "cosh",
    "divide": "div", "equal": "eq", "exp": "exp", "expm1": "expm1", "floor": "floor",
    "floor_divide": "floordiv", "fmod": "fmod", "greater": "gt", "greater_equal": "ge",
    "invert": "not", "isinf": "isinf", "isnan": "isnan", "left_shift": "shl", "less": "lt",
    "less_equal": "le", "log": "log", "log1p": "log1p", "logical_and": "and",
    "logical_not": "not", "logical_or": "or", "logical_xor": "xor", "maximum": "max",
    "minimum": "min", "multiply": "mul", "negative": "neg", "not_equal": "ne", "power": "pow",
    "remainder": "mod", "right_shift": "shr", "rint": "round", "sign": "sign", "sin": "sin",
    "sinh": "sinh", "sqrt": "sqrt", "subtract": "sub", "tan": "tan", "tanh": "tanh",
    "trunc": "trunc",
}  # fmt: skip
"""The operator that each of NumPy's ufuncs is on scalars of a kernel."""

_OTHERS = {np.where: "where", np.clip: "clip"}


class Scalar:
    """One number of a kernel: an element of an operand, an index, or what is computed of them.

    Arithmetic, comparisons and NumPy's ufuncs (``np.exp``, ``np.maximum``, ...), ``np.where`` and
    ``np.clip`` give scalars. Both operands have one dtype: a Python number takes that of the
    other, everything else is converted with ``astype``. ``np.where(c, a, b)`` reads only the arm
    that it takes, so that it can stand for the boundary of an array.

    Attributes:
        expr: what it is in the tensor IR.
    """

    __slots__ = ("expr",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expr: Expr) -> None:
        self.expr = expr

    @classmethod
    def of(cls, value: np.generic) -> Scalar:
        """A number of NumPy's, which has a dtype."""
        found = _expr_of(value)
        if found is None:
            raise wrong(f"no element type stores NumPy's {value.dtype}", "TW-E0262")
        return cls(found)

    @property
    def dtype(self) -> DType:
        """The element type."""
        return self.expr.dtype

    def astype(self, dtype: DType | np.dtype | type) -> Scalar:
        """The number as another type: floats truncate to integers, integers wrap."""
        wanted = dtype if isinstance(dtype, DType) else dt.from_numpy(dtype)
        if wanted is None:
            raise wrong(
                f"astype: no element type stores NumPy's {np.dtype(str(dtype))}", "TW-E0262"
            )
        return apply("cast", self, dtype=wanted, saturate=False)

    # ---------------------------------------------------------- arithmetic

    def __add__(self, other: Operand) -> Scalar:
        return apply("add", self, other)

    def __radd__(self, other: Operand) -> Scalar:
        return apply("add", other, self)

    def __sub__(self, other: Operand) -> Scalar:
        return apply("sub", self, other)

    def __rsub__(self, other: Operand) -> Scalar:
        return apply("sub", other, self)

    def __mul__(self, other: Operand) -> Scalar:
        return apply("mul", self, other)

    def __rmul__(self, other: Operand) -> Scalar:
        return apply("mul", other, self)

    def __truediv__(self, other: Operand) -> Scalar:
        return apply("div", self, other)

    def __rtruediv__(self, other: Operand) -> Scalar:
        return apply("div", other, self)

    def __floordiv__(self, other: Operand) -> Scalar:
        return apply("floordiv", self, other)

    def __rfloordiv__(self, other: Operand) -> Scalar:
        return apply("floordiv", other, self)

    def __mod__(self, other: Operand) -> Scalar:
        return apply("mod", self, other)

    def __rmod__(self, other: Operand) -> Scalar:
        return apply("mod", other, self)

    def __pow__(self, other: Operand) -> Scalar:
        if type(other) is int and 0 < other <= 4:
            result = self
            for _ in range(other - 1):
                result = result * self
            return result
        return apply("pow", self, other)

    def __rpow__(self, other: Operand) -> Scalar:
        return apply("pow", other, self)

    def __and__(self, other: Operand) -> Scalar:
        return apply("and", self, other)

    def __or__(self, other: Operand) -> Scalar:
        return apply("or", self, other)

    def __xor__(self, other: Operand) -> Scalar:
        return apply("xor", self, other)

    def __lshift__(self, other: Operand) -> Scalar:
        return apply("shl", self, other)

    def __rshift__(self, other: Operand) -> Scalar:
        return apply("shr", self, other)

    def __neg__(self) -> Scalar:
        return apply("neg", self)

    def __abs__(self) -> Scalar:
        return apply("abs", self)

    def __invert__(self) -> Scalar:
        return apply("not", self)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    # ---------------------------------------------------------- comparisons

    def __lt__(self, other: Operand) -> Scalar:
        return apply("lt", self, other)

    def __le__(self, other: Operand) -> Scalar:
        return apply("le", self, other)

    def __gt__(self, other: Operand) -> Scalar:
        return apply("gt", self, other)

    def __ge__(self, other: Operand) -> Scalar:
        return apply("ge", self, other)

    def __eq__(self, other: object) -> Scalar:  # type: ignore[override]
        return apply("eq", self, other)

    def __ne__(self, other: object) -> Scalar:  # type: ignore[override]
        return apply("ne", self, other)

    def __bool__(self) -> bool:  # noqa: PLE0304
        self._concrete("a condition of Python (if, and, or, not, min, max, 0 <= i < n)",
                       "np.where, &, |, ~, np.minimum, (0 <= i) & (i < n)")  # fmt: skip

    def __index__(self) -> int:  # noqa: PLE0305
        self._concrete("an index of Python (range(), a list)", "tw.sum, tw.compute")

    def __float__(self) -> float:
        self._concrete("float() or a function of math", "NumPy's functions")

    def __int__(self) -> int:
        self._concrete("int()", ".astype")

    def _concrete(self, what: str, instead: str) -> NoReturn:
        raise wrong(
            f"{what} needs the value of {shown(self)}, which is there only when the kernel runs;"
            f" use {instead}",
            "TW-E0263",
        )

    # ---------------------------------------------------------- NumPy's functions

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Scalar:
        op = FUNCTIONS.get(ufunc.__name__)
        if op is None or method != "__call__" or kwargs:
            how = (
                f".{method}"
                if method != "__call__"
                else f" with {', '.join(kwargs)}" * bool(kwargs)
            )
            raise _missing(f"{ufunc.__name__}{how}")
        return apply(op, *inputs)

    def __array_function__(
        self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any
    ) -> Scalar:
        match _OTHERS.get(func):
            case "where" if len(args) == 3 and not kwargs:
                return apply("where", *args)
            case "clip" if len(args) == 3 and not kwargs:
                x, low, high = args
                return apply("min", apply("max", x, low), high)
        raise _missing(getattr(func, "__name__", "?"))

    def __repr__(self) -> str:
        return f"Scalar({shown(self)})"


def wrong(message: str, code: str) -> ModelError:
    """A kernel that says something that cannot be meant."""
    return ModelError(message, code=code)


def _missing(function: str) -> ModelError:
    return wrong(
        f"numpy.{function}: not a function of scalars in a kernel; there are where(c, a, b),"
        f" clip(x, low, high), {', '.join(sorted(FUNCTIONS))}",
        "TW-E0264",
    )


def shown(x: Scalar) -> str:
    """A scalar in messages: axes without the numbers that tell them apart."""
    return text(plain(x.expr))


def plain(e: Expr) -> Expr:
    """An expression whose variables and arrays have the names that people gave them."""

    def each(x: Expr) -> Expr:
        match x:
            case Var():
                return _named(x)
            case Load() if "." in x.buffer.name:
                b = x.buffer
                return Load(Buffer(stem(b.name), b.dtype, b.shape), x.indices)
            case Reduce():
                axes = [Axis(_named(a.var), a.extent) for a in x.axes]
                return Reduce(x.op, axes, x.body)
        return x

    return rewrite(e, each)


def stem(name: str) -> str:
    """A name without the number that tells it apart."""
    return name.partition(".")[0]


def _named(v: Var) -> Var:
    return Var(stem(v.name), v.dtype, v.lo, v.hi) if "." in v.name else v


# ------------------------------------------------------------------ operators


def apply(op: str, *operands: Any, **attrs: Attr) -> Scalar:
    """What an operator of the op table says of scalars; halves are computed in f32 and rounded.

    Raises:
        ModelError: operands of different types (TW-E0262), or of one that the operator lacks.
    """
    exprs = _exprs(op, operands)
    if op in ("floordiv", "mod") and exprs[0].dtype is dt.i64 and _is_positive(exprs[1]):
        # Of an index by a size: a quotient that the compiler knows how to split.
        return Scalar(Binary("floordiv" if op == "floordiv" else "mod", *exprs))
    if op == "div" and exprs[0].dtype.is_integer:
        raise wrong(
            f"{text(plain(exprs[0]))} / {text(plain(exprs[1]))}: integers have //; for a quotient"
            " in floating point, convert both with astype",
            "TW-E0262",
        )
    template = _template(op, tuple(e.dtype for e in exprs), tuple(sorted(attrs.items())))
    places, result = template
    return Scalar(simplify(substitute(result, dict(zip(places, exprs, strict=True)))))


def _is_positive(e: Expr) -> bool:
    return prove(Binary("lt", Const(0), e)) is True


@lru_cache(maxsize=512)
def _template(
    op: str, dtypes: tuple[DType, ...], attrs: tuple[tuple[str, Attr], ...]
) -> tuple[tuple[Expr, ...], Expr]:
    """An operator's expression over 0-d loads, and those loads."""
    entry = OPS[op]
    given = dict(attrs)
    try:
        (type_,) = entry.infer(tuple(TensorType(d, ()) for d in dtypes), given)
    except OpError as error:
        raise wrong(f"{op}: {error.message}", "TW-E0262") from None
    inputs = tuple(Buffer(f"a{k}", d, ()) for k, d in enumerate(dtypes))
    assert entry.compute is not None, op
    (stage,) = entry.compute(inputs, (Buffer("y", type_.dtype, ()),), given)
    return tuple(Load(b, ()) for b in inputs), stage.expr


def _exprs(op: str, operands: Sequence[Any]) -> list[Expr]:
    """The operands as expressions of one type (``where``: but for the condition)."""
    typed = operands[1:] if op == "where" else operands
    known = next((e.dtype for x in typed if (e := _expr_of(x)) is not None), None)
    if known is None:
        raise wrong(f"{op} of {', '.join(map(repr, typed))}: one of them needs a dtype; write, for"
                    f" instance, np.float32({typed[0]!r})", "TW-E0262")  # fmt: skip
    result = [number(x, known, op) for x in typed]
    found = list(dict.fromkeys(e.dtype for e in result))
    if len(found) > 1:
        raise wrong(f"{op} of {' and '.join(map(str, found))}: both must have one dtype; convert"
                    " one with astype", "TW-E0262")  # fmt: skip
    return [number(operands[0], dt.bool_, op), *result] if op == "where" else result


def _expr_of(x: object) -> Expr | None:
    """What has a type of its own as an expression; None for a Python number."""
    if isinstance(x, Scalar):
        return x.expr
    if isinstance(x, np.generic):
        dtype = dt.from_numpy(x.dtype)
        if dtype is not None:
            return Const(x.item() if dtype.kind.value != "float" else float(x), dtype)
    return None


def number(x: object, dtype: DType, who: str) -> Expr:
    """An operand as an expression; a Python number has the dtype that is given.

    Raises:
        ModelError: it is no number (TW-E0261), or the dtype does not hold it (TW-E0262).
    """
    found = _expr_of(x)
    if found is not None:
        return found
    if not isinstance(x, bool | int | float):
        raise wrong(f"{who}: {type(x).__name__} is no scalar of a kernel; index arrays to get one",
                    "TW-E0261")  # fmt: skip
    fits = dtype.is_float or (isinstance(x, bool) if dtype is dt.bool_ else isinstance(x, int))
    if fits and dtype.is_integer:
        low, high = np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max
        fits = low <= x <= high
    if not fits:
        raise wrong(f"{who}: {dtype} does not hold {x!r}; convert with astype", "TW-E0262")
    return Const(x, dtype)


def as_scalar(d: Dim) -> Any:
    """A dim as users see it: an int, or a scalar."""
    return d if isinstance(d, int) else Scalar(d)


def index_of(x: object, who: str) -> Expr:
    """An index as an i64 expression.

    Raises:
        ModelError: it is no integer (TW-E0262).
    """
    e = number(x, dt.i64, who)
    if not e.dtype.is_integer:
        raise wrong(f"{who}: an index is an integer, not {e.dtype}; convert it with"
                    " .astype(tw.i64)", "TW-E0262")  # fmt: skip
    return e if e.dtype is dt.i64 else Cast(e, dt.i64)
