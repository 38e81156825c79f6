"""Constants that stand for those of many layers, and what was made of them and asked of them.

Passes go over a few of many equal layers (repeats.py), whose weights differ. To the passes they
are stand-ins: their types are known and their data is not to be seen. What a pass makes of one by
``derive`` is remembered, and made of the weights of the other layers afterwards. What it asks by
``ask`` is answered for the layer at hand, and must have the same answer for every other one. To
anything else a stand-in is opaque, so that no pass can rely on what is true of one layer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar, Union, cast

import numpy as np

Answer = TypeVar("Answer", bound=Hashable)


class OpaqueError(Exception):
    """A pass looked into a stand-in, or layers gave different answers (internal)."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A constant of one layer.

    Attributes:
        layer: counted from the first.
        slot: which of the layer's constants.
    """

    layer: int
    slot: int


@dataclass(frozen=True, slots=True, eq=False)
class Plain:
    """A constant that is the same in every layer; equal only to itself and to equal small ones."""

    array: np.ndarray

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plain) or other.array.size != 1 or self.array.size != 1:
            return isinstance(other, Plain) and other.array is self.array
        a, b = self.array, other.array
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()

    def __hash__(self) -> int:
        return hash((self.array.dtype, self.array.shape))


@dataclass(frozen=True, slots=True)
class Derived:
    """What a function makes of constants.

    Attributes:
        function: of arrays and options; one that its module names, so that equal ones are one.
        parts: its arrays.
        options: its keyword arguments.
    """

    function: Callable[..., object]
    parts: tuple[Recipe, ...]
    options: tuple[tuple[str, Hashable], ...]


Recipe = Union[Leaf, Plain, Derived]


@dataclass(frozen=True, slots=True)
class Guard:
    """A question about constants and the answer that a pass has relied on."""

    question: Derived
    answer: Hashable


def _refuse(self: object, *args: object, **options: object) -> NoReturn:
    raise OpaqueError


@dataclass(slots=True, eq=False)
class StandIn:
    """A constant of one of the layers that stand for all.

    Attributes:
        array: its data.
        recipe: how it came to be.
        guards: where to note what is asked of it.
    """

    array: np.ndarray
    recipe: Recipe
    guards: list[Guard] = field(repr=False)

    @property
    def dtype(self) -> np.dtype:
        """The element type, as an array has it."""
        return self.array.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its axes."""
        return self.array.shape

    @property
    def size(self) -> int:
        """The number of its elements."""
        return self.array.size

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return self.array.ndim

    @property
    def nbytes(self) -> int:
        """The bytes of its elements."""
        return self.array.nbytes

    def __getattr__(self, name: str) -> NoReturn:
        raise OpaqueError

    __array__ = __array_ufunc__ = __array_function__ = _refuse
    __getitem__ = __len__ = __iter__ = __bool__ = __float__ = __int__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __neg__ = __abs__ = __eq__ = __ne__ = _refuse
    __hash__ = object.__hash__


def stand_in(array: np.ndarray, recipe: Recipe, guards: list[Guard]) -> np.ndarray:
    """A stand-in, which passes take for an array."""
    return cast("np.ndarray", StandIn(array, recipe, guards))


def recipe_of(array: np.ndarray) -> Recipe | None:
    """How a stand-in came to be; None for any other array."""
    given: object = array
    return given.recipe if isinstance(given, StandIn) else None


def derive(
    function: Callable[..., np.ndarray], *arrays: np.ndarray, **options: Hashable
) -> np.ndarray:
    """``function(*arrays, **options)``, for stand-ins as well."""
    given: tuple[object, ...] = arrays
    guards = next((a.guards for a in given if isinstance(a, StandIn)), None)
    if guards is None:
        return function(*arrays, **options)
    made = function(*map(data_of, arrays), **options)
    return stand_in(made, _derived(function, arrays, options), guards)


def ask(question: Callable[..., Answer], *arrays: np.ndarray, **options: Hashable) -> Answer:
    """``question(*arrays, **options)``, which must not depend on the layer of a stand-in."""
    given: tuple[object, ...] = arrays
    guards = next((a.guards for a in given if isinstance(a, StandIn)), None)
    if guards is None:
        return question(*arrays, **options)
    answer = question(*map(data_of, arrays), **options)
    guards.append(Guard(_derived(question, arrays, options), answer))
    return answer


def data_of(array: np.ndarray) -> np.ndarray:
    """What a stand-in stands for; any other array is its own data."""
    given: object = array
    return given.array if isinstance(given, StandIn) else array


def _derived(
    function: Callable[..., object], arrays: Iterable[np.ndarray], options: Mapping[str, Hashable]
) -> Derived:
    parts = tuple(recipe_of(a) or Plain(a) for a in arrays)
    return Derived(function, parts, tuple(options.items()))


def layers_of(recipe: Recipe) -> set[int]:
    """The layers whose constants a recipe needs."""
    match recipe:
        case Leaf():
            return {recipe.layer}
        case Derived():
            return set[int]().union(*map(layers_of, recipe.parts))
        case Plain():
            return set()


def shifted(recipe: Recipe, by: int) -> Recipe:
    """The recipe for the layers that lie ``by`` further."""
    match recipe:
        case Leaf():
            return Leaf(recipe.layer + by, recipe.slot)
        case Derived():
            parts = tuple(shifted(p, by) for p in recipe.parts)
            return Derived(recipe.function, parts, recipe.options)
        case Plain():
            return recipe


def reshaped(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array in another shape, to derive with."""
    return array.reshape(shape)
