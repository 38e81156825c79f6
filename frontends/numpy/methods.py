"""The methods of arrays and the operators of Python, by the functions that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Methods:
    """What an array can do, all by way of ``call``, ``loop``, ``apply`` and ``put``."""

    __slots__ = ()

    def call(self, function: object, *args: Any, **kwargs: Any) -> Any:
        """A function of NumPy, with the array as its first argument."""
        raise NotImplementedError

    def loop(self, ufunc: np.ufunc, *operands: object) -> Any:
        """A ufunc of operands of which the array is one."""
        raise NotImplementedError

    def apply(self, ufunc: np.ufunc, other: object, swap: bool = False) -> Any:
        """An operator of Python with two operands."""
        raise NotImplementedError

    def put(self, ufunc: np.ufunc, other: object) -> Any:
        """An operator of Python that writes into the array."""
        raise NotImplementedError

    def __round__(self, digits: int = 0) -> Any:
        return self.call(np.round, digits)

    def __divmod__(self, other: object) -> Any:
        return self.loop(np.divmod, self, other)

    def __rdivmod__(self, other: object) -> Any:
        return self.loop(np.divmod, other, self)

    def reshape(self, *shape: Any, order: str = "C") -> Any:
        """numpy.ndarray.reshape."""
        return self.call(np.reshape, shape[0] if len(shape) == 1 else shape, order=order)

    def transpose(self, *axes: Any) -> Any:
        """numpy.ndarray.transpose."""
        return self.call(np.transpose, axes[0] if len(axes) == 1 else axes or None)

    def astype(
        self, dtype: Any, order: str = "K", casting: str = "unsafe", subok: bool = True,
        copy: bool = True,
    ) -> Any:  # fmt: skip
        """numpy.ndarray.astype."""
        return self.call(np.astype, dtype, copy=copy, casting=casting)

    def conj(self) -> Any:
        """The array itself: no complex numbers are supported."""
        return self

    conjugate = conj

    def flatten(self, order: str = "C") -> Any:
        """numpy.ndarray.flatten."""
        return self.call(np.ravel, order=order).copy()

    def fill(self, value: Any) -> None:
        """numpy.ndarray.fill."""
        self.__setitem__(..., value)

    def sort(self, axis: int = -1, kind: Any = None, order: Any = None, **_: Any) -> None:
        """numpy.ndarray.sort."""
        self.__setitem__(..., self.call(np.sort, axis))

    def __setitem__(self, key: Any, value: Any) -> None:
        raise NotImplementedError


def _method(name: str) -> Callable[..., Any]:
    function = getattr(np, name)

    def method(self: Methods, *args: Any, **kwargs: Any) -> Any:
        return self.call(function, *args, **kwargs)

    method.__name__ = name
    method.__doc__ = f"numpy.ndarray.{name}."
    return method


def _unary(ufunc: np.ufunc) -> Callable[..., Any]:
    return lambda self: self.loop(ufunc, self)


def _operator(ufunc: np.ufunc, swap: bool = False) -> Callable[..., Any]:
    return lambda self, other: self.apply(ufunc, other, swap)


def _in_place(ufunc: np.ufunc) -> Callable[..., Any]:
    return lambda self, other: self.put(ufunc, other)


_METHODS = (
    "all any argmax argmin argpartition argsort clip copy cumprod cumsum diagonal dot max mean min"
    " prod ravel repeat round searchsorted squeeze std sum swapaxes take trace var"
)
_UNARY: dict[str, np.ufunc] = {
    "pos": np.positive, "neg": np.negative, "invert": np.invert, "abs": np.absolute,
}  # fmt: skip
_OPERATORS: dict[str, np.ufunc] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide,
    "floordiv": np.floor_divide, "mod": np.remainder, "pow": np.power, "matmul": np.matmul,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "lshift": np.left_shift, "rshift": np.right_shift,
}  # fmt: skip
_COMPARISONS: dict[str, np.ufunc] = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "eq": np.equal, "ne": np.not_equal,
}  # fmt: skip

for _name in _METHODS.split():
    setattr(Methods, _name, _method(_name))
for _name, _ufunc in _UNARY.items():
    setattr(Methods, f"__{_name}__", _unary(_ufunc))
for _name, _ufunc in _OPERATORS.items():
    setattr(Methods, f"__{_name}__", _operator(_ufunc))
    setattr(Methods, f"__r{_name}__", _operator(_ufunc, swap=True))
    setattr(Methods, f"__i{_name}__", _in_place(_ufunc))
for _name, _ufunc in _COMPARISONS.items():
    setattr(Methods, f"__{_name}__", _operator(_ufunc))
