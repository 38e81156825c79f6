"""Winograd's minimal filtering: the matrices of F(m, r), exact, and how to apply them cheaply.

F(m, r) computes m outputs of a filter of r taps with t = m + r - 1 products instead of m * r:

    y = outputs @ ((weights @ g) * (inputs @ d))        (y: m, g: r, d: t)

The matrices follow from t - 1 points and infinity by the Toom-Cook construction (S. Winograd,
Arithmetic Complexity of Computations, 1980; A. Lavin and S. Gray, Fast Algorithms for
Convolutional Neural Networks, 2015, section 4). In two dims both sides are applied along each.

Which points matters for rounding (B. Barabasz, A. Anderson, K. Soodhalter, D. Gregg, Error
Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks, 2018). If
each product has a relative error of e, output i has e * sqrt(sum over p of outputs[i, p]^2 *
|weights[p]|^2 * |inputs[p]|^2 / r), along each axis. For F(4, 3) and the points 0, +-1, +-2 that
is 5.6 for the last output and 3.3 on average; for 0, +-3/4, +-3/2 it is 3.0 and 2.3, within 4 %
of what any two pairs reach. For F(2, 3) it is 1.3 with the points 0, +-1, which are best there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

Matrix = tuple[tuple[Fraction, ...], ...]

_FEW_POINTS = tuple(Fraction(x) for x in ("0", "1", "-1"))
_POINTS = tuple(Fraction(x) for x in ("0", "3/4", "-3/4", "3/2", "-3/2"))
"""Evaluation points, in pairs of opposite sign, which share sums: up to three of them, or more.

Their squares have few digits, so that all factors of the inputs are exact in f32.
"""


@dataclass(frozen=True, slots=True)
class Filtering:
    """The matrices of F(m, r).

    Attributes:
        outputs: m x t. weights: t x r. inputs: t x t.
    """

    outputs: Matrix
    weights: Matrix
    inputs: Matrix


@dataclass(frozen=True, slots=True)
class LinearProgram:
    """A matrix-vector product as straight-line code.

    A value is named by its number: the inputs come first, then the result of each step.

    Attributes:
        inputs: how many inputs there are.
        steps: each the sum of (factor, value), the first factor being 1 where one is.
        outputs: the values that are the elements of the product.
    """

    inputs: int
    steps: tuple[tuple[tuple[Fraction, int], ...], ...]
    outputs: tuple[int, ...]


@lru_cache
def filtering(m: int, r: int) -> Filtering:
    """The matrices of F(m, r).

    Args:
        m: outputs at a time, at least 1.
        r: taps of the filter, at least 1; m + r - 2 is at most the number of points, 5.
    """
    t = m + r - 1
    points = (_FEW_POINTS if t - 1 <= len(_FEW_POINTS) else _POINTS)[: t - 1]
    assert len(points) == t - 1, (m, r)
    # What a product is multiplied by is free, as the weights can be divided by it: with these,
    # each of the first outputs adds a product as it is.
    scales = [_power(abs(p), -((k + 1) // 2)) for k, p in enumerate(points)]
    outputs = [
        [s * _power(p, i) for p, s in zip(points, scales, strict=True)] + [Fraction(i == m - 1)]
        for i in range(m)
    ]
    weights = [
        [_power(p, k) / s / _distance(p, points) for k in range(r)]
        for p, s in zip(points, scales, strict=True)
    ]
    weights.append([Fraction(k == r - 1) for k in range(r)])
    inputs = [_polynomial([q for q in points if q != p], t) for p in points]
    inputs.append(_polynomial(points, t))
    return Filtering(_matrix(outputs), _matrix(weights), _matrix(inputs))


def _matrix(rows: Sequence[Sequence[Fraction]]) -> Matrix:
    return tuple(tuple(row) for row in rows)


def _power(x: Fraction, n: int) -> Fraction:
    return Fraction(1) if n == 0 else x**n


def _distance(p: Fraction, points: Sequence[Fraction]) -> Fraction:
    product = Fraction(1)
    for q in points:
        if q != p:
            product *= p - q
    return product


def _polynomial(roots: Sequence[Fraction], length: int) -> list[Fraction]:
    """The coefficients of the monic polynomial with these roots, lowest degree first."""
    found = [Fraction(1)]
    for q in roots:
        shifted = [Fraction(0), *found]
        found = [a - q * b for a, b in zip(shifted, [*found, Fraction(0)], strict=True)]
    return found + [Fraction(0)] * (length - len(found))


@lru_cache
def linear_program(matrix: Matrix) -> LinearProgram:
    """Straight-line code for ``matrix @ x`` that computes shared sums once.

    Two columns that are equal or opposite in every row are read as one sum and one difference;
    two rows that are are one sum plus and minus a multiple of another.
    """
    steps: list[tuple[tuple[Fraction, int], ...]] = []
    count = len(matrix[0])

    def add(terms: Sequence[tuple[Fraction, int]]) -> int:
        kept = sorted((t for t in terms if t[0]), key=lambda t: (abs(t[0]) != 1, t[0] < 0))
        if len(kept) == 1 and kept[0][0] == 1:
            return kept[0][1]
        steps.append(tuple(kept))
        return count + len(steps) - 1

    rows = [[(c, j) for j, c in enumerate(row)] for row in matrix]
    for j in range(1, count - 1, 2):
        pair = [(row[j], row[j + 1]) for row in matrix]
        if all(abs(a) == abs(b) for a, b in pair) and any(a != b for a, b in pair):
            plus = add([(Fraction(1), j), (Fraction(1), j + 1)])
            minus = add([(Fraction(1), j), (Fraction(-1), j + 1)])
            for row, (a, b) in zip(rows, pair, strict=True):
                row[j], row[j + 1] = (a, plus if a == b else minus), (Fraction(0), j + 1)
    outputs: list[int] = []
    k = 0
    while k < len(rows):
        row = rows[k]
        after = rows[k + 1] if k + 1 < len(rows) else None
        if after is not None and _are_mirrored(row, after):
            same = add([a for a, b in zip(row, after, strict=True) if a == b])
            terms = [a for a, b in zip(row, after, strict=True) if a != b]
            # With a multiply-add, a factor costs nothing where something is added to.
            factor = next((c for c, _ in terms if abs(c) == 1), terms[-1][0])
            other = add([(c / factor, value) for c, value in terms])
            outputs.append(add([(Fraction(1), same), (factor, other)]))
            outputs.append(add([(Fraction(1), same), (-factor, other)]))
            k += 2
            continue
        outputs.append(add(row))
        k += 1
    return LinearProgram(count, tuple(steps), tuple(outputs))


def _are_mirrored(a: Sequence[tuple[Fraction, int]], b: Sequence[tuple[Fraction, int]]) -> bool:
    """Whether two rows agree up to signs, which differ in some terms, and have three or more."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x[0] or y[0]]
    if any(abs(x[0]) != abs(y[0]) or x[1] != y[1] for x, y in pairs):
        return False
    same = sum(x[0] == y[0] for x, y in pairs)
    return 0 < same < len(pairs) and len(pairs) > 2
