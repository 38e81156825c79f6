"""Factors of matrices agree with torch's, for batches, symbolic sizes and singular matrices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import tilewright as tw
from tilewright.errors import UnsupportedError

torch = pytest.importorskip("torch")
nn = torch.nn
linalg = torch.linalg

pytestmark = pytest.mark.filterwarnings("ignore")

Function = Callable[..., Any]


class Apply(nn.Module):  # type: ignore[misc, name-defined]
    """A function as a module."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def random(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def positive(*shape: int) -> Any:
    x = random(*shape)
    return x @ x.mT + torch.eye(shape[-1], dtype=torch.float64)


def agree(function: Function | list[Function], *args: Any) -> None:
    """Compiled and eager code agree; f64 shows signs and pivots as well as f32 would."""
    if isinstance(function, list):
        several = function
        return agree(lambda *args: [f(*args) for f in several], *args)
    executable = tw.compile(Apply(function), args)
    want = torch.utils._pytree.tree_leaves(function(*args))
    for got, wanted in zip(executable(*args), want, strict=True):
        assert got.dtype is wanted.dtype
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


B = random(2, 1, 5, 3)


@pytest.mark.parametrize("left", [False, True])
def test_triangles_are_solved_from_either_side(left: bool) -> None:
    def solved(a: Any, b: Any) -> Any:
        return [
            linalg.solve_triangular(a, b, upper=upper, left=left, unitriangular=unit)
            for upper in (False, True)
            for unit in (False, True)
        ]

    agree(solved, random(4, 5, 5) + 3 * torch.eye(5), B if left else B.mT)


def test_the_other_half_of_a_triangle_is_not_read() -> None:
    a = random(4, 4)
    a[0, 3] = torch.nan
    agree(lambda a, b: linalg.solve_triangular(a, b, upper=False), a, random(4, 2))


@pytest.mark.parametrize("transpose", [False, True])
def test_the_older_triangular_solve_gives_its_matrix_too(transpose: bool) -> None:
    agree(lambda b, a: torch.triangular_solve(b, a, True, transpose), random(2, 4, 3),
          random(4, 4))  # fmt: skip


@pytest.mark.parametrize("upper", [False, True])
def test_factors_of_cholesky_and_what_they_solve_agree(upper: bool) -> None:
    a = positive(3, 5, 5)
    agree(lambda a: linalg.cholesky_ex(a, upper=upper), a)
    agree(lambda b, f: torch.cholesky_solve(b, f, upper), random(3, 5, 2), random(5, 5))
    agree(lambda f: torch.cholesky_inverse(f, upper), random(3, 5, 5))


def test_the_minor_that_is_not_positive_is_told() -> None:
    a = torch.stack([positive(4, 4), -positive(4, 4), torch.diag(torch.tensor([1.0, 2, 0, 4]))])
    agree(lambda a: linalg.cholesky_ex(a)[1], a)


@pytest.mark.parametrize("shape", [(5, 5), (2, 3, 6, 4), (2, 4, 6), (0, 3, 3), (1, 1)])
def test_eliminations_agree(shape: tuple[int, ...]) -> None:
    agree([linalg.lu_factor_ex, linalg.lu], random(*shape))
    agree(torch.lu_unpack, *linalg.lu_factor(random(*shape)))


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("adjoint", [False, True])
def test_systems_are_solved_from_factors(left: bool, adjoint: bool) -> None:
    both, pivots = linalg.lu_factor(random(4, 5, 5))
    b = B if left else B.mT
    agree(lambda f, p, b: linalg.lu_solve(f, p, b, left=left, adjoint=adjoint), both, pivots, b)


def test_systems_inverses_and_determinants_agree() -> None:
    a = random(3, 5, 5)
    agree([linalg.inv_ex, linalg.det, linalg.slogdet], a)
    agree(linalg.solve_ex, a, random(3, 5))
    agree([linalg.solve_ex, lambda a, b: linalg.solve_ex(a, b.mT, left=False)], a, B)
    agree(linalg.det, random(2, 0, 0))


def test_a_singular_matrix_is_told() -> None:
    a = random(3, 4, 4)
    a[1, :, 2] = 0
    a[2] = torch.ones(4, 4)
    agree([lambda a: linalg.inv_ex(a)[1], linalg.lu_factor_ex, linalg.det], a)
    agree(linalg.slogdet, a[1:])


@pytest.mark.parametrize("shape", [(5, 5), (2, 6, 4), (2, 4, 6), (3, 1), (1, 3)])
def test_reflections_agree(shape: tuple[int, ...]) -> None:
    modes = ("reduced", "complete", "r")
    agree([torch.geqrf, *(partial(linalg.qr, mode=m) for m in modes)], random(*shape))


def test_a_column_that_is_zero_below_is_not_reflected() -> None:
    agree(torch.geqrf, torch.triu(random(4, 4)))


def test_products_of_reflections_agree() -> None:
    vectors, scales = torch.geqrf(random(2, 6, 4))
    agree(linalg.householder_product, vectors, scales)

    def products(v: Any, s: Any, x: Any) -> Any:
        left = [torch.ormqr(v, s, x, True, t) for t in (False, True)]
        return left, [torch.ormqr(v, s, x.mT, False, t) for t in (False, True)]

    agree(products, vectors, scales, random(2, 6, 3))


def test_sizes_of_matrices_may_be_symbolic() -> None:
    size, batch = torch.export.Dim("size", min=2, max=16), torch.export.Dim("batch")
    executable = tw.compile(
        Apply(lambda a: (linalg.det(a), linalg.inv_ex(a)[0])), (random(3, 4, 4),),
        dynamic_shapes=(({0: batch, 1: size, 2: size},),),
    )  # fmt: skip
    for shape in ((1, 3, 3), (4, 9, 9)):
        a = random(*shape)
        for got, want in zip(executable(a), (linalg.det(a), linalg.inv(a)), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("function", [linalg.inv, linalg.cholesky, linalg.solve])
def test_forms_that_raise_by_data_are_refused_with_the_one_that_does_not(
    function: Function,
) -> None:
    args = (positive(3, 3), random(3, 2))[: 2 if function is linalg.solve else 1]
    with pytest.raises(UnsupportedError, match="_linalg_check_errors.*as torch.linalg.inv_ex"):
        tw.compile(Apply(function), args)
