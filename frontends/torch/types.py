"""Element types and sizes as torch states them: dtypes, promotion, symbolic integers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import sympy
import torch

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, Expr, as_expr, maximum, minimum
from tilewright.tensor.simplify import ceildiv, dim

FROM_TORCH: dict[torch.dtype, DType] = {
    torch.float64: dt.f64,
    torch.float32: dt.f32,
    torch.float16: dt.f16,
    torch.bfloat16: dt.bf16,
    torch.int64: dt.i64,
    torch.int32: dt.i32,
    torch.int16: dt.i16,
    torch.int8: dt.i8,
    torch.uint64: dt.u64,
    torch.uint32: dt.u32,
    torch.uint16: dt.u16,
    torch.uint8: dt.u8,
    torch.bool: dt.bool_,
}
TO_TORCH: dict[DType, torch.dtype] = {ours: theirs for theirs, ours in FROM_TORCH.items()}

Scalar = int | float | bool | Expr
Operand = Value | Scalar


class GapError(Exception):
    """A node needs something that is not supported (internal); the importer collects it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def element_type(dtype: torch.dtype) -> DType:
    """The element type of a torch dtype.

    Raises:
        GapError: there is none (complex, quantised, 8-bit floats).
    """
    found = FROM_TORCH.get(dtype)
    if found is None:
        raise GapError(f"tensors of {dtype}")
    return found


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's data as a NumPy view; nothing is copied."""
    plain = tensor.detach().resolve_neg()
    if plain.dtype is torch.bfloat16:
        return np.asarray(plain.view(torch.uint16).numpy()).view(ml_dtypes.bfloat16)
    return np.asarray(plain.numpy())


# ------------------------------------------------------------------ promotion


def promoted(operands: Iterable[Operand]) -> DType:
    """The type that torch computes a mix of tensors, scalar tensors and Python numbers in.

    Tensors with dims decide within their category (bool, integer, float); scalar tensors, and
    after them Python numbers, only where their category is higher.
    """
    levels: list[DType | None] = [None, None, None]
    for operand in operands:
        if isinstance(operand, Value):
            level, dtype = (0 if operand.shape else 1), operand.dtype
        else:
            level, dtype = 2, _number_type(operand)
        before = levels[level]
        levels[level] = dtype if before is None else _common(before, dtype)
    result = _outranked(levels[0], _outranked(levels[1], levels[2]))
    assert result is not None, "promotion of nothing"
    return result


def _number_type(number: Scalar) -> DType:
    if isinstance(number, bool):
        return dt.bool_
    if isinstance(number, float):
        return element_type(torch.get_default_dtype())
    return dt.i64


def _common(a: DType, b: DType) -> DType:
    return FROM_TORCH[torch.promote_types(TO_TORCH[a], TO_TORCH[b])]


def _outranked(first: DType | None, second: DType | None) -> DType | None:
    """``first``, unless the category of ``second`` is higher."""
    if first is None or second is None:
        return first or second
    if first.is_float:
        return first
    if first is dt.bool_ or second.is_float:
        return _common(first, second)
    return first


# ------------------------------------------------------------------ sizes


def to_dim(size: object, symbols: Mapping[str, Dim]) -> Dim:
    """A torch size (int or SymInt) as a dim over the program's symbols.

    Raises:
        GapError: it depends on data, or is an expression that dims do not have.
    """
    if isinstance(size, int):
        return int(size)
    assert isinstance(size, torch.SymInt), size
    return dim(of_sympy(size.node.expr, symbols))


def of_sympy(e: Any, symbols: Mapping[str, Dim]) -> Dim:
    """An integer expression of torch's as a dim over the program's symbols.

    Raises:
        GapError: it depends on data, or is an expression that dims do not have.
    """
    if isinstance(e, sympy.Integer):
        return int(e)
    if isinstance(e, sympy.Symbol):
        if e.name not in symbols:
            raise GapError(
                f"a size that depends on data ({e}); compute it outside, and give it as the size of"
                " an input"
            )
        return symbols[e.name]
    if isinstance(e, sympy.Pow):
        base, power = e.args
        if isinstance(power, sympy.Integer) and int(power) > 0:
            factor = as_expr(of_sympy(base, symbols))
            result = factor
            for _ in range(int(power) - 1):
                result = result * factor
            return result
    fold = _FOLDS.get(type(e).__name__)
    if fold is None:
        raise GapError(f"the size {e}")
    first, *rest = (as_expr(of_sympy(a, symbols)) for a in e.args)
    for other in rest:
        first = as_expr(fold(first, other))
    return first


_FOLDS: dict[str, Any] = {
    "Add": lambda a, b: a + b,
    "Mul": lambda a, b: a * b,
    "FloorDiv": lambda a, b: a // b,
    "CleanDiv": lambda a, b: a // b,
    "CeilDiv": ceildiv,
    "Mod": lambda a, b: a % b,
    "PythonMod": lambda a, b: a % b,
    "Max": maximum,
    "Min": minimum,
}
"""Binary meanings of sympy's functions, by the name of their class."""
