"""Integer values as sums of products: what an expression is a sum of, and what it is now."""

from __future__ import annotations

from tilewright.tensor.ir import Expr

from .builder import Value

Monomial = tuple[Value, ...]
Terms = tuple[tuple[Monomial, int], ...]


class Index:
    """An i64 value ``const + stride * lane + sum(coefficient * product of values)``."""

    __slots__ = ("_affine", "const", "is_const", "stride", "terms")

    def __init__(
        self,
        const: int,
        stride: int = 0,
        terms: Terms = (),
        affine: bool | None = None,
    ) -> None:
        self.const = const
        self.stride = stride
        self.terms = terms
        self.is_const = not terms and not stride
        self._affine = affine

    @property
    def is_uniform(self) -> bool:
        """Whether it is the same in every lane."""
        return not self.stride and self.is_affine

    @property
    def is_affine(self) -> bool:
        """Whether lanes differ by a constant step only."""
        found = self._affine
        if found is None:
            found = self._affine = all(v.lanes == 1 for m, _ in self.terms for v in m)
        return found


class Form:
    """A flat sum of products of atoms, found once for an expression.

    Attributes:
        varying: what it was last a sum of besides constants and lanes; ``sum`` that sum's terms,
            the same object for all rows and chunks of a tile; ``affine`` whether no term of it
            differs between lanes.
    """

    __slots__ = ("affine", "const", "products", "sum", "terms", "varying")

    def __init__(self, linear: dict[tuple[Expr, ...], int]) -> None:
        self.const = linear.get((), 0)
        self.terms = tuple([(c, f) for f, c in linear.items() if f])
        self.products = tuple([(c, f[0], f[1:]) for c, f in self.terms])
        self.varying: list[tuple[int, Terms]] = []
        self.sum: Terms = ()
        self.affine = True
