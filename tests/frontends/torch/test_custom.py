"""Kernels as operators of torch's: eager, exported, compiled; no gradients, no copies."""

# Type checkers and linters take the dims in the annotations of kernels for types.
# mypy: disable-error-code="attr-defined, index, name-defined, no-untyped-call, no-untyped-def"
# mypy: disable-error-code="valid-type"
# ruff: noqa: F821, N803, UP037

from __future__ import annotations

from typing import Any

import pytest

import tilewright as tw

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's own


@tw.kernel
def gemm(A: tw.f32["M", "K"], B: tw.f32["K", "N"], *, alpha: float = 1.0):
    return tw.compute(lambda i, j: alpha * tw.sum(lambda k: A[i, k] * B[k, j]))


@tw.kernel
def extremes(X: tw.bf16["N", "C"]):
    return tw.compute(lambda i: (tw.max(lambda c: X[i, c]), tw.argmax(lambda c: X[i, c])))


product = gemm.register("tilewright_tests::gemm")
ends = extremes.register("tilewright_tests::extremes")


class Layer(torch.nn.Module):  # type: ignore[misc]
    """A product with weights, and what is great in it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(17, 33))

    def forward(self, x: Any) -> Any:
        y = torch.relu(product(x, self.weight, alpha=0.5))
        return y, *ends(y.to(torch.bfloat16))


def assert_alike(found: Any, wanted: Any) -> None:
    for have, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-2, atol=1e-4)


def expected(layer: Layer, x: Any) -> Any:
    y = torch.relu(0.5 * x @ layer.weight)
    return y, *y.to(torch.bfloat16).max(1)


def test_eager_calls_take_tensors_as_they_are() -> None:
    a, b = torch.randn(9, 17), torch.randn(17, 33)
    torch.testing.assert_close(product(a, b), a @ b)
    torch.testing.assert_close(gemm(a, b, alpha=2.0), 2 * a @ b)
    torch.testing.assert_close(product(a.T.contiguous().T, b), a @ b)
    x = torch.randn(4, 8).to(torch.bfloat16)
    assert_alike(extremes(x), x.max(1))


def test_a_module_with_one_is_compiled_to_native_code() -> None:
    layer, x = Layer().eval(), torch.randn(9, 17)
    rows = torch.export.Dim("rows", min=1, max=64)
    exe = tw.compile(layer, (x,), dynamic_shapes=({0: rows},))
    for n in (1, 9, 40):
        x = torch.randn(n, 17)
        with torch.no_grad():
            assert_alike(layer(x), expected(layer, x))
            assert_alike(exe(x), expected(layer, x))
    assert "kernel(" in exe.text("graph")


def test_torch_compile_compiles_it_with_what_is_around() -> None:
    layer, x = Layer().eval(), torch.randn(9, 17)
    fast = torch.compile(layer, backend="tilewright", fullgraph=True)
    with torch.no_grad():
        assert_alike(fast(x), expected(layer, x))


def test_a_nest_scheduled_by_hand_is_an_operator_too() -> None:
    @tw.kernel
    def plain(A: tw.f32["M", "K"], B: tw.f32["K", "N"]):
        return tw.compute(lambda i, j: tw.sum(lambda k: A[i, k] * B[k, j]))

    s = plain.schedule(N=32).vectorize("j").reorder("acc_i", "k", "acc_j")
    s.compute_at("acc", "i").vectorize("acc_j", "acc_init_j")
    op = s.build().register("tilewright_tests::by_hand")
    a, b = torch.randn(5, 7), torch.randn(7, 32)
    torch.testing.assert_close(op(a, b), a @ b)
    exe = tw.compile(Doubled(op), (a, b))
    torch.testing.assert_close(exe(a, b)[0], 2 * a @ b)
    assert "vector(32)" in exe.text("loops")


class Doubled(torch.nn.Module):  # type: ignore[misc]
    """Twice an operator."""

    def __init__(self, op: Any) -> None:
        super().__init__()
        self.op = op

    def forward(self, a: Any, b: Any) -> Any:
        return self.op(a, b) * 2


def test_gradients_are_refused() -> None:
    a, b = torch.randn(3, 17, requires_grad=True), torch.randn(17, 4)
    with pytest.raises(tw.UnsupportedError, match="TW-E0251"):
        gemm(a, b)
    with pytest.raises(tw.UnsupportedError, match="TW-E0251"):
        product(a, b).sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(product(a, b), a @ b)


def test_names_and_types_that_do_not_fit_are_refused() -> None:
    for name in ("no namespace", "a::b::c", "::"):
        with pytest.raises(tw.OptionError, match="TW-E0826"):
            gemm.register(name)
    with pytest.raises(tw.InputError, match="TW-E0302"):
        product(torch.randn(3, 4, dtype=torch.float64), torch.randn(4, 5))

    @tw.kernel
    def needing(X: tw.f32["N"], *, times: float):
        return tw.compute(lambda i: X[i] * times)

    with pytest.raises(tw.OptionError, match="times must have a default"):
        needing.register("tilewright_tests::needing")
