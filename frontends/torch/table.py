"""The table of ATen overloads: converted, decomposed by torch, or refused with a reason."""

from __future__ import annotations

from . import (
    chebyshev,
    elementwise,
    factor,
    index,
    linear,
    movement,
    norm,
    order,
    recurrent,
    reduce,
    segment,
    special,
    spectral,
    window,
)
from .context import Converter

CONVERTERS: dict[str, Converter] = {
    **chebyshev.CONVERTERS,
    **elementwise.CONVERTERS,
    **factor.CONVERTERS,
    **index.CONVERTERS,
    **linear.CONVERTERS,
    **movement.CONVERTERS,
    **norm.CONVERTERS,
    **order.CONVERTERS,
    **recurrent.CONVERTERS,
    **reduce.CONVERTERS,
    **segment.CONVERTERS,
    **special.CONVERTERS,
    **spectral.CONVERTERS,
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

_DATA = (
    "the shape of its result depends on data; keep all elements (torch.where, a product with the"
    " mask, torch.nonzero_static), or call it outside of the module"
)
NUMBER = "a number read from a tensor (.item()); keep it a tensor, or give it as an argument"
RANDOM = "random numbers (put the module in eval mode)"
"""Of every overload that torch says draws them."""
_COMPLEX = "complex tensors"
_ERROR = (
    "an error that depends on data (a singular matrix); call the form that returns how it went, as"
    " torch.linalg.inv_ex"
)
EFFECT = "an effect besides its results; leave it out of what is compiled"
_CONTROL = (
    "control flow on data; use torch.where, or compile the branches or the body by themselves"
)

REFUSED: dict[str, str] = {
    "_conj.default": _COMPLEX,
    "_conj_physical.default": _COMPLEX,
    "_fft_c2c.default": _COMPLEX,
    "_fft_c2r.default": _COMPLEX,
    "_fft_r2c.default": _COMPLEX,
    "_linalg_check_errors.default": _ERROR,
    "_local_scalar_dense.default": NUMBER,
    "_print.default": EFFECT,
    "_unique2.default": _DATA,
    "bincount.default": _DATA,
    "complex.default": _COMPLEX,
    "cond": _CONTROL,
    "masked_select.default": _DATA,
    "nonzero.default": _DATA,
    "polar.default": _COMPLEX,
    "unique_consecutive.default": _DATA,
    "unique_dim.default": _DATA,
    "unique_dim_consecutive.default": _DATA,
    "view_as_complex.default": _COMPLEX,
    "view_as_real.default": _COMPLEX,
    "while_loop": _CONTROL,
}
"""Why overloads, and operators that hold graphs, cannot be imported, and what to do instead."""
