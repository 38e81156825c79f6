"""Functions that tw.jit compiles take tensors of other libraries, and give them back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilewright as tw

torch = pytest.importorskip("torch")


def test_tensors_in_are_tensors_out() -> None:
    jitted = tw.jit(lambda x, y: {"sum": x["a"] + y, "parts": (x["a"].max(), y.T)})
    for size in (3, 5):
        a, b = torch.randn(size, 4), torch.randn(size, 4)
        found: Any = jitted({"a": a}, y=b)
        assert torch.equal(found["sum"], a + b)
        assert torch.equal(found["parts"][0], a.max()) and torch.equal(found["parts"][1], b.T)
    assert jitted.compiles == 1


def test_tensors_are_read_in_place_and_may_be_views() -> None:
    x = torch.arange(24.0).reshape(4, 6)
    found: Any = tw.jit(lambda x: x * 2)(x[:, ::2])
    assert torch.equal(found, x[:, ::2] * 2)
    half: Any = tw.jit(lambda x: x + x)(torch.ones(3, dtype=torch.float16))
    assert half.dtype is torch.float16


def test_next_to_arrays_tensors_give_arrays() -> None:
    found = tw.jit(lambda x, y: x + y)(np.ones(3, np.float32), torch.ones(3))
    assert isinstance(found, np.ndarray) and found.tolist() == [2, 2, 2]


def test_tensors_and_arrays_are_different_variants() -> None:
    jitted: Any = tw.jit(lambda x: x + 1)
    assert isinstance(jitted(torch.ones(3)), torch.Tensor)
    assert isinstance(jitted(np.ones(3, np.float32)), np.ndarray)
    assert isinstance(jitted(torch.ones(3)), torch.Tensor)


@pytest.mark.parametrize(
    "tensor", [torch.ones(2, requires_grad=True), torch.ones(2, device="meta")]
)
def test_tensors_that_cannot_be_read_are_refused(tensor: Any) -> None:
    with pytest.raises(tw.InputError, match=r"TW-E0323.*torch\.Tensor"):
        tw.jit(lambda x: x + 1)(tensor)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bfloat16])
def test_elements_that_numpy_functions_do_not_have_are_refused(dtype: Any) -> None:
    with pytest.raises(tw.TilewrightError, match=r"TW-E0(323|246)"):
        tw.jit(lambda x: x)(torch.ones(2, dtype=dtype))
