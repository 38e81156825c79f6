"""Products in 16 bits with their bias: rounded once, as torch rounds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tilewright
from tilewright.runtime.program import CallKernel, walk_steps

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
HALVES = (torch.float16, torch.bfloat16)
Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A function, what it is called with, and which of that is an attribute of the module."""

    name: str
    function: Function
    shapes: tuple[tuple[int, ...], ...]


CASES = (
    Case("linear", functional.linear, ((3, 40, 96), (48, 96), (48,))),
    Case("linear of a vector", functional.linear, ((96,), (48, 96), (48,))),
    Case("addmm", torch.addmm, ((48,), (40, 96), (96, 48))),
    Case(
        "addmm with factors",
        lambda c, a, b: torch.addmm(c, a, b, beta=0.3, alpha=2.5),
        ((40, 48), (40, 96), (96, 48)),
    ),
    Case(
        "addmm without its bias",
        lambda c, a, b: torch.addmm(c, a, b, beta=0, alpha=2.5),
        ((40, 48), (40, 96), (96, 48)),
    ),
    Case("addmv", torch.addmv, ((40,), (40, 96), (96,))),
    Case("baddbmm", torch.baddbmm, ((3, 40, 48), (3, 40, 96), (3, 96, 48))),
    Case("conv1d", functional.conv1d, ((2, 16, 30), (24, 16, 3), (24,))),
    Case(
        "conv2d",
        lambda x, w, b: functional.conv2d(x, w, b, padding=1),
        ((2, 64, 14, 14), (64, 64, 3, 3), (64,)),
    ),
    Case("conv3d", functional.conv3d, ((2, 16, 5, 5, 5), (24, 16, 3, 3, 3), (24,))),
    Case(
        "depthwise",
        lambda x, w, b: functional.conv2d(x, w, b, groups=24),
        ((2, 24, 9, 9), (24, 1, 3, 3), (24,)),
    ),
    Case(
        "transposed convolution",
        lambda x, w, b: functional.conv_transpose2d(x, w, b, stride=2),
        ((2, 16, 9, 9), (16, 24, 3, 3), (24,)),
    ),
    Case(
        "transposed convolution of blocks",
        lambda x, w, b: functional.conv_transpose2d(x, w, b, stride=2),
        ((2, 16, 9, 9), (16, 24, 2, 2), (24,)),
    ),
)


class Together(torch.nn.Module):  # type: ignore[misc, name-defined]
    """All cases, each of its own operands; those of index 1 and above may be parameters."""

    def __init__(self, parameters: list[list[Any]] | None) -> None:
        super().__init__()
        lists = map(torch.nn.ParameterList, parameters or ())
        self.rest = torch.nn.ModuleList(lists) if parameters else None

    def forward(self, *operands: Any) -> Any:
        left = list(operands)
        results = []
        for k, case in enumerate(CASES):
            first = left.pop(0)
            count = len(case.shapes) - 1
            rest = [left.pop(0) for _ in range(count)] if self.rest is None else self.rest[k]
            results.append(case.function(first, *rest))
        return tuple(results)


def operands(case: Case, half: Any) -> list[Any]:
    torch.manual_seed(3)
    return [torch.randn(s).mul(3 if len(s) == 1 else 1).to(half) for s in case.shapes]


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("fixed", [False, True], ids=["all operands given", "parameters"])
def test_a_product_and_its_bias_are_rounded_once(half: Any, fixed: bool) -> None:
    given = [operands(case, half) for case in CASES]
    with torch.no_grad():
        if fixed:
            module = Together([x[1:] for x in given]).eval()
            call = tuple(x[0] for x in given)
        else:
            module, call = Together(None), tuple(t for x in given for t in x)
        found = tilewright.compile(module, call)(*call)
    for case, inputs, ours in zip(CASES, given, found, strict=True):
        assert ours.dtype is half
        exact = case.function(*(x.double() for x in inputs))
        sizes = case.function(*(x.double().abs() for x in inputs)).abs()
        # Half a unit in the last place, and what sums in f32 may be off by.
        exponent = torch.frexp(exact)[1] - 1
        unit = torch.ldexp(torch.ones_like(exact), exponent.clamp(min=_least(half)))
        allowed = unit * torch.finfo(half).eps / 2 + 24 * torch.finfo(torch.float32).eps * sizes
        assert ((ours.double() - exact).abs() <= allowed).all(), case.name
        # Where sums in f32 come near the middle between two numbers, their order decides.
        assert (ours != case.function(*inputs)).float().mean() <= 0.01, case.name


def _least(half: Any) -> int:
    return int(np.log2(torch.finfo(half).smallest_normal))


def _module(function: Function) -> Any:
    class Given(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, *operands: Any) -> Any:
            return function(*operands)

    return Given().eval()


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_a_product_and_a_sum_that_are_written_apart_are_rounded_twice(half: Any) -> None:
    x, w, b = operands(CASES[2], half)[1], operands(CASES[2], half)[2], operands(CASES[2], half)[0]
    compiled = tilewright.compile(_module(lambda x, w, b: x @ w + b), (x, w, b))
    ours = compiled(x, w, b)[0]
    assert (ours != x @ w + b).float().mean() <= 0.01
    assert (ours != torch.addmm(b, x, w)).float().mean() > 0.1


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_a_wide_product_is_one_kernel_that_reads_16_bits(half: Any) -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU()).to(half).eval()
    compiled = tilewright.compile(layer, (torch.randn(32, 256).to(half),))
    (call,) = [s for s in walk_steps(compiled.program.steps) if isinstance(s, CallKernel)]
    assert call.kernel.startswith("matmul")
    assert compiled.program.constants_bytes < 256 * 512 * 4
