"""Elementwise operators: one value from the values at the same position, with broadcasting.

All inputs have one element type (``where`` apart). f16 and bf16 are computed in f32 and rounded
once, in the reference and in the expressions alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from .. import dtype as dt
from ..dtype import DType
from ..graph.ir import TensorType
from ..tensor.compute import Compute
from ..tensor.exponentials import FLUSHED
from ..tensor.ir import (
    Axis,
    Binary,
    BinaryOp,
    Buffer,
    Call,
    Cast,
    Const,
    Expr,
    Load,
    Select,
    Unary,
    conjunction,
)
from .elementwise_samples import (
    binary_samples,
    cast_samples,
    unary_samples,
    where_samples,
)
from .op import (
    Arrays,
    Attrs,
    Buffers,
    Op,
    OpError,
    Types,
    bool_attr,
    broadcast_shapes,
    dtype_attr,
    expect_inputs,
    expect_same_dtype,
    output_axes,
)

Accepts = Literal["float", "number", "integer", "bits", "any"]
NumPy = Callable[..., np.ndarray]
Scalar = Callable[..., Expr]

_HALVES = (dt.f16, dt.bf16)


def _accepted(dtype: DType, accepts: Accepts) -> bool:
    match accepts:
        case "float":
            return dtype.is_float
        case "number":
            return dtype.is_float or dtype.is_integer
        case "integer":
            return dtype.is_integer
        case "bits":
            return dtype.is_integer or dtype is dt.bool_
        case "any":
            return True


# ------------------------------------------------------------------ the shape of an entry


def _entry(
    name: str,
    arity: int,
    accepts: Accepts,
    summary: str,
    numpy: NumPy,
    scalar: Scalar,
    boolean: bool = False,
) -> Op:
    """An operator that applies ``numpy`` to arrays and ``scalar`` to expressions."""

    def infer(types: Types, attrs: Attrs) -> Types:
        expect_inputs(types, arity)
        dtype = expect_same_dtype(types)
        if not _accepted(dtype, accepts):
            raise OpError(f"is not defined for {dtype}")
        shape = broadcast_shapes([t.shape for t in types])
        return (TensorType(dt.bool_ if boolean else dtype, shape),)

    def reference(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
        dtype = inputs[0].dtype
        half = dtype in (dt.f16.numpy, dt.bf16.numpy)
        with np.errstate(all="ignore"):
            result = numpy(*(x.astype(np.float32) if half else x for x in inputs))
            return (np.asarray(result).astype(np.bool_ if boolean else dtype),)

    def compute(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
        (output,) = outputs
        axes = output_axes(output)
        dtype = inputs[0].dtype
        half = dtype in _HALVES
        loads = (load_broadcast(b, axes) for b in inputs)
        result = scalar(*(Cast(x, dt.f32) if half else x for x in loads))
        if half and not boolean:
            result = Cast(result, dtype)
        return (Compute(output, axes, result),)

    samples = (
        (lambda: unary_samples(name, accepts))
        if arity == 1
        else lambda: binary_samples(name, accepts)
    )
    return Op(name, "elementwise", summary, (), infer, reference, compute, None, samples)


def load_broadcast(buffer: Buffer, axes: Sequence[Axis]) -> Expr:
    """Loads a buffer at output axes by NumPy's broadcasting: dims of 1 are read at 0."""
    trailing = axes[len(axes) - len(buffer.shape) :]
    return Load(
        buffer,
        (0 if d == 1 else a.var for d, a in zip(buffer.shape, trailing, strict=True)),
    )


def _call(name: str) -> Scalar:
    return lambda x: Call(name, (x,), x.dtype)


def _binary(op: BinaryOp) -> Scalar:
    return lambda a, b: Binary(op, a, b)


# ------------------------------------------------------------------ laws NumPy does not state


def _erf(x: np.ndarray) -> np.ndarray:
    wide = np.asarray(x, np.float64)
    flat = np.fromiter((math.erf(v) for v in wide.ravel().tolist()), np.float64, wide.size)
    return flat.reshape(wide.shape)


def _exp_flushed(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.where(x < FLUSHED, x.dtype.type(0), np.exp(x))
    return result


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # exp of a positive number is never taken, so no overflow loses the small tail.
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1 / (1 + small), small / (1 + small)))


def _not(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.logical_not(x) if x.dtype == np.bool_ else np.bitwise_not(x))


def _sign(x: Expr) -> Expr:
    zero, one = Const(0, x.dtype), Const(1, x.dtype)
    positive = Binary("gt", x, zero)
    if not x.dtype.is_signed:
        return Select(positive, one, x)
    # Zero and nan are their own sign.
    return Select(positive, one, Select(Binary("lt", x, zero), Const(-1, x.dtype), x))


def _magnitude(x: Expr) -> Expr:
    return Unary("abs", x) if x.dtype.is_signed else x


def _safe_divisor(b: Expr) -> tuple[Expr, Expr, Expr]:
    """Returns (b is 0, b is -1, b with both replaced by 1): the divisions that trap."""
    zero = Binary("eq", b, Const(0, b.dtype))
    if not b.dtype.is_signed:
        return zero, Const(False, dt.bool_), Select(zero, Const(1, b.dtype), b)
    minus = Binary("eq", b, Const(-1, b.dtype))
    return zero, minus, Select(Binary("or", zero, minus), Const(1, b.dtype), b)


def _quotient(op: BinaryOp) -> Scalar:
    def scalar(a: Expr, b: Expr) -> Expr:
        if a.dtype.is_float:
            return Binary(op, a, b) if op == "div" else _float_floordiv(a, b)
        zero, minus, safe = _safe_divisor(b)
        result: Expr = Binary(op, a, safe)
        if a.dtype.is_signed:
            result = Select(minus, Unary("neg", a), result)
        return Select(zero, Const(0, a.dtype), result)

    return scalar


def _remainder(op: Literal["mod", "fmod"]) -> Scalar:
    def scalar(a: Expr, b: Expr) -> Expr:
        if a.dtype.is_float:
            return _float_mod(a, b) if op == "mod" else Call("fmod", (a, b), a.dtype)
        # A divisor of 0 or -1 becomes 1: the remainder is 0 then, as the law says.
        _, _, safe = _safe_divisor(b)
        return Binary("mod", a, safe) if op == "mod" else a - Binary("div", a, safe) * safe

    return scalar


def _float_remainder(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """Returns fmod(a, b), and whether it is to be moved into the sign of the divisor."""
    zero = Const(0.0, a.dtype)
    rest = Call("fmod", (a, b), a.dtype)
    differ = Binary("xor", Binary("lt", rest, zero), Binary("lt", b, zero))
    return rest, Binary("and", Binary("ne", rest, zero), differ)


def _float_mod(a: Expr, b: Expr) -> Expr:
    """fmod moved into the sign of the divisor; a zero result takes the divisor's sign."""
    zero = Const(0.0, a.dtype)
    rest, differ = _float_remainder(a, b)
    signed_zero = Select(Binary("lt", b, zero), Const(-0.0, a.dtype), zero)
    return Select(Binary("eq", rest, zero), signed_zero, Select(differ, rest + b, rest))


def _float_floordiv(a: Expr, b: Expr) -> Expr:
    """The integer that (a - fmod(a, b)) / b all but is, one less if the signs differ; a / 0."""
    zero = Const(0.0, a.dtype)
    rest, differ = _float_remainder(a, b)
    quotient = (a - rest) / b
    quotient = Select(differ, quotient - 1.0, quotient)
    down = Call("floor", (quotient,), a.dtype)
    nearest = Select(Binary("gt", quotient - down, Const(0.5, a.dtype)), down + 1.0, down)
    # A quotient of 0 has the sign of a / b, which the difference in it has lost.
    signed = Select(Binary("eq", nearest, zero), a / b * zero, nearest)
    return Select(Binary("eq", b, zero), a / b, signed)


def _integer_quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Division that truncates for integers; x / 0 is 0 and the lowest / -1 wraps to itself."""
    if a.dtype.kind == "f":
        return np.asarray(np.divide(a, b))
    down = np.floor_divide(a, b)
    rest = np.remainder(a, b)
    return np.asarray(down + ((rest != 0) & ((rest < 0) != (a < 0))).astype(a.dtype))


def _power_numpy(x: np.ndarray, e: np.ndarray) -> np.ndarray:
    """Powers; those of integers by squaring, wrapping, where 1 / x**-e truncates (1 / 0 is 0)."""
    if x.dtype.kind == "f":
        return np.asarray(np.power(x, e))
    x, e = np.broadcast_arrays(x, e)
    result, square, rest = np.ones_like(x), x, e
    for _ in range(8 * x.dtype.itemsize):
        result = np.where(rest & 1 == 1, result * square, result)
        square, rest = square * square, rest >> 1
    if x.dtype.kind == "u":
        return result
    inverse = np.where(x == 1, 1, np.where(x == -1, np.where(e & 1 == 1, -1, 1), 0))
    return np.where(e < 0, inverse.astype(x.dtype), result)


def _shift(op: BinaryOp) -> Scalar:
    """Shifts by less than the width; others give 0, or all sign bits for a signed shr."""

    def scalar(a: Expr, b: Expr) -> Expr:
        conditions = [Binary("lt", b, Const(b.dtype.bits, b.dtype))]
        if b.dtype.is_signed:
            conditions.append(Binary("ge", b, Const(0, b.dtype)))
        inside = conjunction(conditions)
        zero = Const(0, a.dtype)
        beyond: Expr = zero
        if op == "shr" and a.dtype.is_signed:
            beyond = Select(Binary("lt", a, zero), Const(-1, a.dtype), zero)
        return Select(inside, Binary(op, a, Select(inside, b, zero)), beyond)

    return scalar


def _test(name: str) -> Scalar:
    return lambda x: Call(name, (x,), dt.bool_)


# ------------------------------------------------------------------ where and cast


def _infer_where(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 3)
    if types[0].dtype is not dt.bool_:
        raise OpError(f"the condition must be bool_, got {types[0].dtype}")
    dtype = expect_same_dtype(types[1:])
    return (TensorType(dtype, broadcast_shapes([t.shape for t in types])),)


def _reference_where(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    return (np.where(inputs[0], inputs[1], inputs[2]),)


def _compute_where(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    axes = output_axes(outputs[0])
    cond, a, b = (load_broadcast(x, axes) for x in inputs)
    return (Compute(outputs[0], axes, Select(cond, a, b)),)


def _infer_cast(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 1)
    bool_attr(attrs, "saturate")
    return (TensorType(dtype_attr(attrs, "dtype"), types[0].shape),)


def _reference_cast(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    (x,) = inputs
    to = dtype_attr(attrs, "dtype")
    source = dt.from_numpy(x.dtype)
    assert source is not None, x.dtype
    with np.errstate(all="ignore"):
        if to in _HALVES:
            narrow = _round_to_odd_numpy(x) if source is dt.f64 else x.astype(np.float32)
            return (narrow.astype(to.numpy),)
        if to.is_integer and source.is_float:
            wide = np.trunc(x.astype(np.float64))
            if bool_attr(attrs, "saturate"):
                return (_saturate_floats(wide, to),)
            return (_truncate(wide, to),)
        if to.is_integer and source.is_integer and bool_attr(attrs, "saturate"):
            info, have = np.iinfo(to.numpy), np.iinfo(x.dtype)
            low, high = max(info.min, have.min), min(info.max, have.max)
            return (np.clip(x, low, high).astype(to.numpy),)
        return (x.astype(to.numpy),)


def _round_to_odd_numpy(x: np.ndarray) -> np.ndarray:
    """Rounds f64 to f32 such that a second rounding to 16 bits is that of the exact value.

    Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using
    rounding to odd": an inexact result takes the neighbour whose last bit is 1.
    """
    near = x.astype(np.float32)
    even = (near.view(np.uint32) & 1 == 0) & (near != x) & np.isfinite(near)
    toward = np.where(x > near, np.float32(np.inf), np.float32(-np.inf))
    return np.where(even, np.nextafter(near, toward), near)


def _round_to_odd(x: Expr) -> Expr:
    """The expression of ``_round_to_odd_numpy``; one step in magnitude is one step of the bits."""
    near = Cast(x, dt.f32)
    back = Cast(near, dt.f64)
    bits = Call("bitcast", (near,), dt.i32)
    even = Binary("eq", Binary("and", bits, Const(1, dt.i32)), Const(0, dt.i32))
    # Two ordered comparisons: a nan is neither above nor below itself and stays as it is.
    inexact = Binary("or", Binary("lt", back, x), Binary("gt", back, x))
    short = Binary("lt", Unary("abs", back), Unary("abs", x))
    step = Select(short, Const(1, dt.i32), Const(-1, dt.i32))
    odd = Select(Binary("and", even, inexact), bits + step, bits)
    return Call("bitcast", (odd,), dt.f32)


def _truncate(wide: np.ndarray, to: DType) -> np.ndarray:
    """Converts integral doubles; nan and values out of range give 0 (the law leaves them open)."""
    low, high = float(to.lowest), float(to.highest)
    # float(highest) of 64-bit types rounds up to a value that is already out of range.
    fits = (wide >= low) & ((wide < high) if to.bits == 64 else (wide <= high))
    return np.where(fits, wide, 0.0).astype(to.numpy)


def _saturate_floats(wide: np.ndarray, to: DType) -> np.ndarray:
    low, high = float(to.lowest), float(to.highest)
    above, below = wide >= high, wide <= low
    inside = np.where(above | below | np.isnan(wide), 0.0, wide).astype(to.numpy)
    result = np.where(above, np.array(to.highest, to.numpy), inside)
    return np.where(below, np.array(to.lowest, to.numpy), result)


def _compute_cast(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    axes = output_axes(outputs[0])
    x = load_broadcast(inputs[0], axes)
    return (Compute(outputs[0], axes, cast(x, outputs[0].dtype, bool_attr(attrs, "saturate"))),)


def cast(x: Expr, to: DType, saturate: bool) -> Expr:
    """Converts an expression by the law of the cast operator.

    f16 and bf16 convert from and to f32 alone: what every machine can, and one rounding each.
    """
    source = x.dtype
    if source is to:
        return x
    if source in _HALVES:
        wide = Cast(x, dt.f32)
        return wide if to is dt.f32 else cast(wide, to, saturate)
    if to in _HALVES and source is not dt.f32:
        return Cast(_round_to_odd(x) if source is dt.f64 else Cast(x, dt.f32), to)
    if not saturate or not to.is_integer or source is dt.bool_:
        return Cast(x, to)
    if source.is_float:
        return _saturated(x, to, float(to.lowest), float(to.highest))
    low = max(int(to.lowest), int(source.lowest))
    high = min(int(to.highest), int(source.highest))
    return _saturated(x, to, low, high)


def _saturated(x: Expr, to: DType, low: float, high: float) -> Expr:
    """Casts x clamped to low..high; nan gives 0."""
    result: Expr = Cast(x, to)
    if x.dtype.is_float:
        # f32 rounds the highest of a wide integer up: the comparison then holds one step early,
        # where the exact conversion would no longer fit.
        result = Select(Call("isnan", (x,), dt.bool_), Const(0, to), result)
    result = Select(Binary("ge", x, Const(high, x.dtype)), _end(to, int(high)), result)
    return Select(Binary("le", x, Const(low, x.dtype)), _end(to, int(low)), result)


def _end(to: DType, value: int) -> Const:
    return Const(max(int(to.lowest), min(int(to.highest), value)), to)


# ------------------------------------------------------------------ the table


def _floats(name: str, summary: str, numpy: NumPy) -> Op:
    return _entry(name, 1, "float", summary, numpy, _call(name))


def _compare(name: str, op: BinaryOp, numpy: NumPy, accepts: Accepts = "number") -> Op:
    summary = f"Whether a {op} b; false for nan" + (
        ", except that nan ne nan." if op == "ne" else "."
    )
    return _entry(name, 2, accepts, summary, numpy, _binary(op), boolean=True)


_UNARY = (
    _entry("neg", 1, "number", "-x; integers wrap.", np.negative, lambda x: -x),
    _entry("abs", 1, "number", "|x|; the lowest integer wraps to itself.", np.abs, _magnitude),
    _entry("sign", 1, "number", "-1, 0 or 1; nan stays nan.", np.sign, _sign),
    _floats("floor", "The greatest integer not above x.", np.floor),
    _floats("ceil", "The least integer not below x.", np.ceil),
    _floats("round", "The nearest integer, halves to even.", np.rint),
    _floats("trunc", "x without its fraction.", np.trunc),
    _floats("sqrt", "The square root; nan for negatives.", np.sqrt),
    _floats("exp", "e to the x.", np.exp),
    _floats("exp_flushed", "e to the x, and 0 below -87.", _exp_flushed),
    _floats("log", "The natural logarithm.", np.log),
    _floats("log1p", "log(1 + x), exact near 0.", np.log1p),
    _floats("expm1", "exp(x) - 1, exact near 0.", np.expm1),
    _floats("sin", "The sine of radians.", np.sin),
    _floats("cos", "The cosine of radians.", np.cos),
    _floats("tan", "The tangent of radians.", np.tan),
    _floats("asin", "The inverse sine, in -pi/2..pi/2.", np.arcsin),
    _floats("acos", "The inverse cosine, in 0..pi.", np.arccos),
    _floats("atan", "The inverse tangent, in -pi/2..pi/2.", np.arctan),
    _floats("sinh", "The hyperbolic sine.", np.sinh),
    _floats("cosh", "The hyperbolic cosine.", np.cosh),
    _floats("tanh", "The hyperbolic tangent.", np.tanh),
    _floats("asinh", "The inverse hyperbolic sine.", np.arcsinh),
    _floats("acosh", "The inverse hyperbolic cosine; nan below 1.", np.arccosh),
    _floats("atanh", "The inverse hyperbolic tangent; nan outside -1..1.", np.arctanh),
    _floats("erf", "The error function.", _erf),
    _floats("sigmoid", "1 / (1 + exp(-x)).", _sigmoid),
    _entry("not", 1, "bits", "Logical for bool, bitwise for integers.", _not,
           lambda x: Unary("not", x)),
    _entry("isnan", 1, "float", "Whether x is nan.", np.isnan, _test("isnan"), boolean=True),
    _entry("isinf", 1, "float", "Whether x is infinite.", np.isinf, _test("isinf"), boolean=True),
)  # fmt: skip

_BINARY = (
    _entry("add", 2, "number", "a + b; integers wrap.", np.add, _binary("add")),
    _entry("sub", 2, "number", "a - b; integers wrap.", np.subtract, _binary("sub")),
    _entry("mul", 2, "number", "a * b; integers wrap.", np.multiply, _binary("mul")),
    _entry("div", 2, "number", "a / b; integers truncate, and x / 0 is 0.",
           _integer_quotient, _quotient("div")),
    _entry("floordiv", 2, "number", "a / b rounded down; for integers x / 0 is 0.",
           np.floor_divide, _quotient("floordiv")),
    _entry("mod", 2, "number", "a - floordiv(a, b) * b, the divisor's sign; x mod 0 is 0.",
           np.mod, _remainder("mod")),
    _entry("fmod", 2, "number", "a - div(a, b) * b, the dividend's sign; integers: x mod 0 is 0.",
           np.fmod, _remainder("fmod")),
    _entry("pow", 2, "number",
           "a to the b. Integers wrap; their negative powers truncate, and 0 to them is 0.",
           _power_numpy, lambda x, e: Call("pow", (x, e), x.dtype)),
    _entry("min", 2, "number", "The smaller; nan if either is nan.", np.minimum, _binary("min")),
    _entry("max", 2, "number", "The larger; nan if either is nan.", np.maximum, _binary("max")),
    _entry("and", 2, "bits", "Logical for bool, bitwise for integers.", np.bitwise_and,
           _binary("and")),
    _entry("or", 2, "bits", "Logical for bool, bitwise for integers.", np.bitwise_or,
           _binary("or")),
    _entry("xor", 2, "bits", "Logical for bool, bitwise for integers.", np.bitwise_xor,
           _binary("xor")),
    _entry("shl", 2, "integer", "a * 2**b, wrapping; 0 where b is not in 0..bits-1.",
           np.left_shift, _shift("shl")),
    _entry("shr", 2, "integer", "a / 2**b rounded down; other b shift every bit out.",
           np.right_shift, _shift("shr")),
    _compare("eq", "eq", np.equal, "any"),
    _compare("ne", "ne", np.not_equal, "any"),
    _compare("lt", "lt", np.less),
    _compare("le", "le", np.less_equal),
    _compare("gt", "gt", np.greater),
    _compare("ge", "ge", np.greater_equal),
)  # fmt: skip

_WHERE = Op(
    "where", "elementwise", "a where the bool c holds, else b.", (),
    _infer_where, _reference_where, _compute_where, None, where_samples,
)  # fmt: skip

_CAST = Op(
    "cast", "elementwise",
    "Converts by value: rounds to nearest even (integers to 16-bit floats by way of f32), truncates"
    " float to int (out of range is open unless saturate clamps it, nan then gives 0), wraps int to"
    " int, to bool is != 0.",
    ("dtype", "saturate"), _infer_cast, _reference_cast, _compute_cast, None, cast_samples,
)  # fmt: skip

ELEMENTWISE: dict[str, Op] = {op.name: op for op in (*_UNARY, *_BINARY, _WHERE, _CAST)}
