"""Compound overloads that torch has no decompositions of, and integers that grow beyond 64 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tilewright as tw

torch = pytest.importorskip("torch")
functional = torch.nn.functional

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("dynamo")]


def agree(function: Callable[..., Any], *args: Any) -> None:
    """Holds torch.compile and the exported program to eager execution."""

    class Module(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, *args: Any) -> Any:
            return function(*args)

    want = function(*args)
    got = torch.compile(function, backend="tilewright", fullgraph=True)(*args)
    torch.testing.assert_close(got, want, equal_nan=True)
    (got,) = tw.compile(Module(), args)(*args)
    torch.testing.assert_close(torch.as_tensor(got), want, equal_nan=True)


# ------------------------------------------------------------------ bags


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_rows_agree_with_eager(mode: str) -> None:
    def bags(rows: Any, weight: Any, offsets: Any) -> Any:
        return functional.embedding_bag(rows, weight, offsets, mode=mode)

    def padded(rows: Any, weight: Any, offsets: Any) -> Any:
        return functional.embedding_bag(
            rows, weight, offsets, mode=mode, padding_idx=3, include_last_offset=True
        )

    weight, rows = torch.randn(10, 4), torch.tensor([3, 1, 2, 3, 3, 4, 5])
    agree(bags, rows, weight, torch.tensor([0, 3, 3, 5]))  # the second bag is empty
    agree(padded, rows, weight, torch.tensor([0, 3, 5, 7]))  # the second has padding alone


def test_bags_of_one_length_and_of_weighted_rows_agree_with_eager() -> None:
    weight = torch.randn(10, 4)
    agree(functional.embedding_bag, torch.randint(0, 10, (3, 4)), weight)

    def weighted(rows: Any, weight: Any, offsets: Any, shares: Any) -> Any:
        return functional.embedding_bag(
            rows, weight, offsets, mode="sum", per_sample_weights=shares
        )

    rows = torch.randint(0, 10, (7,), dtype=torch.int32)
    offsets = torch.tensor([0, 3, 5], dtype=torch.int32)
    agree(weighted, rows, weight, offsets, torch.randn(7))


# ------------------------------------------------------------------ antialiased resizing


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "corners"), [((4, 3), False), ((12, 2), True), ((1, 1), False)])
def test_antialiased_resizing_agrees_with_eager(
    mode: str, size: tuple[int, int], corners: bool
) -> None:
    def resize(x: Any) -> Any:
        return functional.interpolate(
            x, size=size, mode=mode, align_corners=corners, antialias=True
        )

    agree(resize, torch.randn(2, 3, 9, 7))


def test_antialiased_resizing_by_a_factor_agrees_with_eager() -> None:
    def resize(x: Any) -> Any:
        return functional.interpolate(x, scale_factor=(0.45, 1.7), mode="bilinear", antialias=True)

    agree(resize, torch.randn(2, 3, 9, 7))


def test_antialiased_resizing_of_bytes_is_refused() -> None:
    def resize(x: Any) -> Any:
        return functional.interpolate(x, size=(3, 3), mode="bilinear", antialias=True)

    image = torch.zeros(1, 3, 6, 6, dtype=torch.uint8)
    with pytest.raises(Exception, match="_upsample_bilinear2d_aa"):
        torch.compile(resize, backend="tilewright")(image)


# ------------------------------------------------------------------ masks of encoder layers


@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoder_layer_takes_masks_of_keys_and_of_scores(norm_first: bool) -> None:
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, norm_first=norm_first, batch_first=True)
    layer.eval()
    x = torch.randn(2, 5, 8)
    hidden = torch.arange(5) >= torch.tensor([[5], [3]])
    causal = torch.nn.Transformer.generate_square_subsequent_mask(5)
    for masks in (
        {"src_key_padding_mask": hidden},
        {"src_mask": causal},
        {"src_mask": causal, "src_key_padding_mask": hidden},
    ):
        torch.compiler.reset()
        got = torch.compile(layer, backend="tilewright")(x, **masks)
        torch.testing.assert_close(got, layer(x, **masks))


def test_a_query_of_an_encoder_layer_without_any_key_gives_nan_as_in_eager() -> None:
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x, hidden = torch.randn(2, 5, 8), torch.tensor([[True] * 5, [False] * 5])
    got = torch.compile(layer, backend="tilewright")(x, src_key_padding_mask=hidden)
    want = layer(x, src_key_padding_mask=hidden)
    assert want[0].isnan().all()
    torch.testing.assert_close(got, want, equal_nan=True)


# ------------------------------------------------------------------ smaller ones


def test_histograms_count_what_lies_in_their_range() -> None:
    agree(lambda x: torch.histc(x, 10, -1, 1), torch.randn(200))
    agree(lambda x: torch.histc(x, 8, 0, 7), torch.randint(0, 8, (50,)).float())


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
def test_distances_of_pairs_agree_with_eager(p: float) -> None:
    agree(lambda x: functional.pdist(x, p), torch.randn(6, 4))


def test_a_random_leaky_unit_in_eval_mode_is_a_leaky_one() -> None:
    agree(functional.rrelu, torch.randn(5))


def test_the_sign_of_nan_is_0_as_in_eager() -> None:
    agree(torch.sign, torch.tensor([float("nan"), 2.0, -0.0, -2.0]))
    agree(torch.sgn, torch.tensor([3, 0, -4]))


def test_integers_that_grow_beyond_64_bits_wrap() -> None:
    def doubled(x: Any) -> Any:
        for _ in range(70):
            x = x + x
        return x * (1 << 62) * 4 + x

    x = torch.arange(-3, 5)
    agree(doubled, x)
    agree(lambda x: 3 ** x.abs() + 2 ** (x + 60), x)
    agree(lambda x: (x * (1 << 62)) * 3 - x * -(1 << 62), x)
