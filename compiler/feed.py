"""What a call is given when nobody says: sizes for symbols, and random inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from tilewright.dtype import DType, Kind
from tilewright.errors import InputError, OptionError
from tilewright.runtime.program import TensorSpec
from tilewright.tensor.ir import Dim, Expr, Var
from tilewright.tensor.simplify import evaluate, symbols

_INNER = 16
"""A symbolic dim that is not the first of any input is this large unless it is chosen."""
_MOST_FREE = 4
"""For more symbols than this, no sizes that keep the conditions are looked for."""


def symbols_of(specs: Sequence[TensorSpec]) -> dict[str, Var]:
    """The symbols of input shapes by name, in order of appearance."""
    found: dict[str, Var] = {}
    for spec in specs:
        for dim in spec.shape:
            if not isinstance(dim, int):
                found |= {v.name: v for v in sorted(symbols(dim), key=lambda v: v.name)}
    return found


def choose_dims(
    specs: Sequence[TensorSpec], chosen: Mapping[str, int], conditions: Sequence[Expr] = ()
) -> dict[str, int]:
    """A size for every symbol: the chosen one, else 1 for batches and 16 for the rest, in range.

    Where these break one of the conditions, sizes nearby that keep all of them are looked for.

    Raises:
        OptionError: a name is not a symbol of the inputs (TW-E0823).
    """
    known = symbols_of(specs)
    unknown = sorted(chosen.keys() - known.keys())
    if unknown:
        raise OptionError(
            f"dims: {', '.join(unknown)} is no symbol of the inputs; "
            f"there are {', '.join(known) or 'none'}",
            code="TW-E0823",
        )
    first = {s.shape[0].name for s in specs if s.shape and isinstance(s.shape[0], Var)}
    sizes = {}
    for name, var in known.items():
        size = chosen.get(name, 1 if name in first else _INNER)
        if name not in chosen:
            size = max(size, 1 if var.lo is None else var.lo)
            size = size if var.hi is None else min(size, var.hi)
        sizes[name] = size
    free = [v for name, v in known.items() if name not in chosen]
    if len(free) > _MOST_FREE or _hold(conditions, known, sizes):
        return sizes
    for others in product(*(_candidates(v, sizes[v.name]) for v in free)):
        tried = {**sizes, **{v.name: n for v, n in zip(free, others, strict=True)}}
        if _hold(conditions, known, tried):
            return tried
    return sizes


def _hold(conditions: Sequence[Expr], known: Mapping[str, Var], sizes: Mapping[str, int]) -> bool:
    """Whether sizes keep the conditions that are about the inputs' symbols."""
    inside = [c for c in conditions if {v.name for v in c.variables} <= known.keys()]
    return all(bool(evaluate(c, dict(sizes))) for c in inside)


def _candidates(v: Var, first: int) -> list[int]:
    """Sizes to try, the most usual one first."""
    low, high = 1 if v.lo is None else v.lo, v.hi
    tried = dict.fromkeys((first, 2, 3, 4, 8, 16, 32, 64, low))
    return [n for n in tried if n >= low and (high is None or n <= high)]


def size_of(dim: Dim, sizes: Mapping[str, int]) -> int:
    """The value of a dim where every symbol has one."""
    return dim if isinstance(dim, int) else evaluate(dim, dict(sizes))


def random_inputs(
    specs: Sequence[TensorSpec], sizes: Mapping[str, int], seed: int
) -> dict[str, np.ndarray]:
    """Seeded inputs: floats are normal; integers, which are often indices, are 0 or 1.

    Raises:
        InputError: there is no memory for one (TW-E0307).
    """
    generator = np.random.default_rng(seed)
    found = {}
    for spec in specs:
        shape = tuple(size_of(d, sizes) for d in spec.shape)
        try:
            found[spec.name] = _random(spec.dtype, shape, generator)
        except (MemoryError, ValueError, OverflowError) as error:
            # NumPy's words for what no address reaches are those of a wrong value.
            raise InputError(
                f"input {spec.name!r}: there is no memory for random numbers of the shape "
                f"{'x'.join(map(str, shape))}; choose smaller sizes",
                code="TW-E0307",
            ) from error
    return found


def _random(dtype: DType, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    if dtype.kind is Kind.FLOAT:
        return generator.standard_normal(shape, dtype=np.float32).astype(dtype.numpy)
    return generator.integers(0, 2, shape).astype(dtype.numpy)
