"""Sizes that guards equate: programs whose sizes agree only by them, and symbols by others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("torch")

import sympy
import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils._sympy.functions import FloorDiv, Mod

import tilewright as tw
from tilewright.frontends.torch.equalities import settled
from tilewright.tensor.ir import as_expr, symbol
from tilewright.tensor.simplify import same_dim, symbols

pytestmark = pytest.mark.filterwarnings("ignore")

Program = Callable[..., torch.Tensor]
Sizes = Sequence[tuple[int, ...]]
A, B = symbol("A", 2), symbol("B", 2)
a, b = sympy.Symbol("a", integer=True), sympy.Symbol("b", integer=True)
GIVEN = {"a": A, "b": B}


def upsampled(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, F.interpolate(F.max_pool2d(x, 2), scale_factor=2)], 1)


PROGRAMS: dict[str, tuple[Program, Sequence[Sizes]]] = {
    "half is a number": (
        lambda x: x[: x.shape[0] // 2] + torch.ones(2, 3),
        [[(4, 3)], [(5, 3)]],
    ),
    "half is another size": (
        lambda x, y: x[: x.shape[0] // 2] + y,
        [[(4, 3), (2, 3)], [(5, 3), (2, 3)], [(9, 3), (4, 3)]],
    ),
    "steps are another size": (
        lambda x, y: torch.where(x[::2] > 0.5, y, 0.0),
        [[(8, 3), (4, 3)], [(7, 3), (4, 3)]],
    ),
    "halves are equal": (
        lambda x: x[:, : x.shape[1] // 2] * x[:, x.shape[1] // 2 :],
        [[(3, 8)], [(3, 12)], [(4, 10)]],
    ),
    "chunks are equal": (lambda x: x.chunk(2)[0] + x.chunk(2)[1], [[(8, 3)], [(10, 3)]]),
    "a remainder is another size": (
        lambda x, y: x[: x.shape[0] % 5] + y,
        [[(8, 3), (3, 3)], [(13, 3), (3, 3)]],
    ),
    "a width from a view": (
        lambda x, y: x.view(-1, x.shape[1] // 2) @ y,
        [[(6, 8), (4, 3)], [(6, 10), (5, 3)]],
    ),
    "pooled and put back": (upsampled, [[(1, 3, 8, 8)], [(1, 3, 12, 12)], [(1, 3, 16, 16)]]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_sizes_that_agree_by_a_guard_compile(name: str) -> None:
    program, calls = PROGRAMS[name]
    torch.compiler.reset()
    compiled = torch.compile(program, backend="tilewright", dynamic=True)
    for sizes in calls:
        args = [torch.rand(s) for s in sizes]
        torch.testing.assert_close(compiled(*args), program(*args))


class Upsampled(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return upsampled(x)


def test_an_exported_program_of_even_sizes_refuses_odd_ones() -> None:
    model, size = Upsampled(), torch.export.Dim.AUTO
    x = torch.rand(1, 3, 8, 12)
    compiled = tw.compile(model, (x,), dynamic_shapes=({2: size, 3: size},))
    for sizes in ((8, 12), (10, 6), (4, 6)):
        x = torch.rand(1, 3, *sizes)
        (found,) = compiled(x)
        torch.testing.assert_close(torch.as_tensor(found), model(x))
    with pytest.raises(tw.InputError):
        compiled(torch.rand(1, 3, 9, 12))


def test_a_symbol_alone_becomes_the_other_side() -> None:
    found = settled(GIVEN, [sympy.Eq(FloorDiv(a, 2), b)])
    assert found["a"] is A
    assert same_dim(found["b"], as_expr(A) // 2)


def test_what_is_known_of_a_quotient_leaves_a_remainder() -> None:
    found = settled(GIVEN, [sympy.Eq(FloorDiv(a + 1, 3), 4)])
    (rest,) = symbols(found["a"])
    assert (rest.lo, rest.hi) == (0, 2)
    assert same_dim(found["a"], rest + 11)


def test_a_known_remainder_leaves_a_quotient() -> None:
    found = settled(GIVEN, [sympy.Eq(Mod(a, 4), 3)])
    (quotient,) = symbols(found["a"])
    assert (quotient.lo, quotient.hi) == (0, None)
    assert same_dim(found["a"], quotient * 4 + 3)


def test_equalities_are_used_one_after_another() -> None:
    found = settled(GIVEN, [sympy.Eq(Mod(a, 2), 0), sympy.Eq(FloorDiv(a, 2), b)])
    assert same_dim(found["a"], as_expr(found["b"]) * 2)


@pytest.mark.parametrize(
    "guard",
    [sympy.Ne(a, 3), sympy.Lt(a, b), sympy.Eq(a * b, 12), sympy.Eq(Mod(a * b, 2), 0)],
    ids=str,
)
def test_other_conditions_leave_symbols_as_they_are(guard: Any) -> None:
    assert settled(GIVEN, [guard]) == GIVEN


def test_a_remainder_that_no_size_has_leaves_the_symbol() -> None:
    impossible = sympy.Eq(Mod(a, 4), 5, evaluate=False)
    assert settled(GIVEN, [impossible]) == GIVEN
