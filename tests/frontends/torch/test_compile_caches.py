"""torch.compile in loops that grow: caches of keys and values, as text is generated with."""

from __future__ import annotations

from typing import Any

import pytest

from .calls import compiled, graphs

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("dynamo")]


class _Cache:
    """The keys and the values of the tokens so far, outside of what is compiled."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.keys = torch.randn(2, 4, 3, 8, generator=generator)
        self.values = torch.randn(2, 4, 3, 8, generator=generator)


def _step(x: Any, to_key: Any, to_value: Any, cache: _Cache, mask: Any = None) -> Any:
    cache.keys = torch.cat([cache.keys, x @ to_key], 2)
    cache.values = torch.cat([cache.values, x @ to_value], 2)
    return torch.nn.functional.scaled_dot_product_attention(
        x, cache.keys, cache.values, attn_mask=mask
    )


@pytest.mark.parametrize("masked", [False, True])
def test_caches_of_keys_and_of_values_grow_in_one_graph(masked: bool) -> None:
    # Dynamo has a symbol for the length of each, and attention's shape does not tell their tie.
    step, ours, theirs = compiled(_step), _Cache(), _Cache()
    to_key, to_value = torch.randn(8, 8), torch.randn(8, 8)
    for token in range(6):
        x = torch.randn(2, 4, 1, 8)
        mask = torch.rand(2, 1, 1, token + 4) > 0.3 if masked else None
        if mask is not None:
            mask[..., 0] = True
        got = step(x, to_key, to_value, ours, mask)
        want = _step(x, to_key, to_value, theirs, mask)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.values, theirs.values)
    assert graphs() == 2  # one for the first sizes, one for all others
