"""The table of ONNX operators: which converter handles which one.

Keys are operator names of ONNX's own domain, or ``domain::name`` of another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from . import (
    activation,
    attention,
    contrib,
    control,
    creation,
    elementwise,
    linalg,
    loss,
    ml,
    nn,
    norm,
    pool,
    quant,
    recurrent,
    reduce,
    resize,
    sampling,
    scatter,
    shape,
    slicing,
    spectral,
)
from .context import Converter

_FAMILIES: tuple[Mapping[str, Converter], ...] = (
    activation.CONVERTERS,
    attention.CONVERTERS,
    contrib.CONVERTERS,
    control.CONVERTERS,
    creation.CONVERTERS,
    elementwise.CONVERTERS,
    linalg.CONVERTERS,
    loss.CONVERTERS,
    ml.CONVERTERS,
    nn.CONVERTERS,
    norm.CONVERTERS,
    pool.CONVERTERS,
    quant.CONVERTERS,
    recurrent.CONVERTERS,
    reduce.CONVERTERS,
    resize.CONVERTERS,
    sampling.CONVERTERS,
    scatter.CONVERTERS,
    shape.CONVERTERS,
    slicing.CONVERTERS,
    spectral.CONVERTERS,
)


def _merge() -> Mapping[str, Converter]:
    merged: dict[str, Converter] = {}
    for family in _FAMILIES:
        twice = merged.keys() & family.keys()
        assert not twice, f"converters given twice: {sorted(twice)}"
        merged.update(family)
    return MappingProxyType(merged)


CONVERTERS: Mapping[str, Converter] = _merge()


def key_of(domain: str, op: str) -> str:
    """The table's key of an operator ("ai.onnx" is the long name of ONNX's own domain)."""
    return op if domain in ("", "ai.onnx") else f"{domain}::{op}"
