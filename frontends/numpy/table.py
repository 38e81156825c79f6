"""NumPy's functions by name: those that are traced, and those that are refused, with the reason.

Together the two tables are all of ``numpy``, ``numpy.linalg`` and ``numpy.ndarray`` that takes
arrays. What is not about arrays of numbers (files, texts, dates, settings, polynomials of the old
interface) is in neither.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .arrange import ARRANGE
from .calculus import CALCULUS
from .choice import CHOICE, CREATION
from .enlarge import ENLARGE
from .indexing import INDEXING
from .linear import LINEAR
from .order import ORDER
from .reductions import REDUCTIONS
from .refused import REFUSED
from .shapes import SHAPES
from .trace import Handler
from .tracer import name_of
from .ufuncs import UFUNCS, elementwise
from .writing import WRITING

FUNCTIONS: Mapping[object, Handler] = {
    "ufunc": elementwise, **REDUCTIONS, **SHAPES, **INDEXING, **LINEAR, **CHOICE, **ORDER,
    **CALCULUS, **ARRANGE, **ENLARGE, **WRITING,
}  # fmt: skip
"""What NumPy's functions become while they are traced, by the function itself."""


def _names() -> dict[str, Handler]:
    named: dict[str, Handler] = {f"numpy.{name}": handler for name, handler in UFUNCS.items()}
    for function, handler in {**FUNCTIONS, **CREATION}.items():
        match function:
            case str():
                if isinstance(getattr(np, function, None), np.ufunc):
                    named[f"numpy.{function}"] = handler
            case np.ufunc() as ufunc, str(method):
                named[f"numpy.{ufunc.__name__}.{method}"] = handler
            case _ if name_of(function).startswith("numpy"):
                named[name_of(function)] = handler
            case _:
                pass
    return named


SUPPORTED: Mapping[str, Handler] = _names()
"""Every function that is traced, by its public name."""

__all__ = ["FUNCTIONS", "REFUSED", "SUPPORTED"]
