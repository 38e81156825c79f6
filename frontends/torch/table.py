"""The table of ATen overloads: converted, decomposed by torch, or refused with a reason."""

from __future__ import annotations

from . import (
    elementwise,
    index,
    linear,
    movement,
    norm,
    order,
    recurrent,
    reduce,
    special,
    window,
)
from .context import Converter

CONVERTERS: dict[str, Converter] = {
    **elementwise.CONVERTERS,
    **index.CONVERTERS,
    **linear.CONVERTERS,
    **movement.CONVERTERS,
    **norm.CONVERTERS,
    **order.CONVERTERS,
    **recurrent.CONVERTERS,
    **reduce.CONVERTERS,
    **special.CONVERTERS,
    **window.CONVERTERS,
}
"""Of each overload ("add.Tensor"), the function that states it in primitive ops."""

DECOMPOSED: tuple[str, ...] = (
    "_batch_norm_with_update_functional.default",
    "_native_batch_norm_legit.default",
    "_native_batch_norm_legit_functional.default",
    "col2im.default",
    "dist.default",
    "embedding_dense_backward.default",
    "grid_sampler_2d.default",
    "ldexp.Tensor",
    "max_pool2d_with_indices_backward.default",
    "native_group_norm_backward.default",
    "native_layer_norm_backward.default",
)
"""Core overloads that torch states in terms of other core ones."""

_DATA = "its shape depends on data"
_RANDOM = "random numbers (put the module in eval mode)"
_COMPLEX = "complex tensors"

REFUSED: dict[str, str] = {
    "_fft_c2r.default": _COMPLEX,
    "_fft_r2c.default": _COMPLEX,
    "_local_scalar_dense.default": "a number read from a tensor (.item())",
    "bernoulli.p": _RANDOM,
    "masked_select.default": _DATA,
    "nonzero.default": _DATA,
    "rand.default": _RANDOM,
    "randint.low": _RANDOM,
    "randn.default": _RANDOM,
    "randperm.default": _RANDOM,
    "unique_consecutive.default": _DATA,
}
"""Why overloads that no converter is for cannot be imported."""
