"""The layer of an encoder that torch calls as one operator, in terms of others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def encoder_layer(
    x: Tensor, width: int, heads: int, qkv_weight: Tensor, qkv_bias: Tensor, out_weight: Tensor,
    out_bias: Tensor, use_gelu: bool, norm_first: bool, eps: float, norm_weight_1: Tensor,
    norm_bias_1: Tensor, norm_weight_2: Tensor, norm_bias_2: Tensor, up_weight: Tensor,
    up_bias: Tensor, down_weight: Tensor, down_bias: Tensor, mask: Tensor | None = None,
    mask_type: int | None = None,
) -> Tensor:  # fmt: skip
    """What ``nn.TransformerEncoderLayer`` calls as one operator in eval mode.

    Args:
        x: [batch, length, width].
        mask: what is not 0 in it is not attended to, a mask of floats included; a query without
            any key gives nan.
        mask_type: 0: of [length, length]; 1: of keys, [batch, length]; 2: of all scores,
            [batch, heads, length, length].

    Returns:
        The layer's output.
    """
    batch, length, _ = x.shape
    hidden = None if mask is None else mask.to(torch.bool)
    if hidden is not None and mask_type == 1:
        hidden = hidden.view(batch, 1, 1, length)

    def attend(x: Tensor) -> Tensor:
        joined = functional.linear(x, qkv_weight, qkv_bias)
        q, k, v = joined.view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        if hidden is None:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            scores = (q * (width // heads) ** -0.5) @ k.mT
            y = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
        return functional.linear(y.transpose(1, 2).reshape(x.shape), out_weight, out_bias)

    def feed(x: Tensor) -> Tensor:
        activate = functional.gelu if use_gelu else functional.relu
        y = activate(functional.linear(x, up_weight, up_bias))
        return functional.linear(y, down_weight, down_bias)

    def norm_1(x: Tensor) -> Tensor:
        return functional.layer_norm(x, (width,), norm_weight_1, norm_bias_1, eps)

    def norm_2(x: Tensor) -> Tensor:
        return functional.layer_norm(x, (width,), norm_weight_2, norm_bias_2, eps)

    if norm_first:
        x = x + attend(norm_1(x))
        return x + feed(norm_2(x))
    x = norm_1(x + attend(x))
    return norm_2(x + feed(x))
