"""The table of frontends says what each one takes, and everything that it names is there."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import pytest

from tilewright.frontends import CAPTURES, FRONTENDS, frontend_of

FUNCTIONS = [
    *((name, getattr(f, part)) for name, f in FRONTENDS.items()
      for part in ("imports", "opens", "content", "writes") if getattr(f, part)),
    *CAPTURES.items(),
]  # fmt: skip


def found(place: str) -> object:
    """What stands at a place; skips where the package that it needs is not installed."""
    module, name = place.split(":")
    if ".torch" in module:
        pytest.importorskip("torch")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize(("name", "place"), FUNCTIONS)
def test_every_function_of_the_table_is_there(name: str, place: str) -> None:
    assert callable(found(place)), name


@pytest.mark.parametrize("name", [n for n, f in FRONTENDS.items() if f.operators])
def test_every_frontend_lists_its_operators(name: str) -> None:
    table = found(FRONTENDS[name].operators)
    assert isinstance(table, Mapping)
    assert len(table) > 100
    assert all(callable(c) for c in table.values())


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("model.onnx", "onnx"), ("model", "onnx"), (Path("a.b/model.ONNX"), "onnx"), (b"", "onnx"),
        ("zoo:resnet50", "zoo"), ("model.pt2", "torch"), (Path("zoo:x.pt2"), "torch"),
    ],
)  # fmt: skip
def test_sources_are_recognised_by_their_names(source: object, name: str) -> None:
    assert frontend_of(source) is FRONTENDS[name]


def test_sources_are_recognised_by_what_made_them_or_a_class_above() -> None:
    torch = pytest.importorskip("torch")

    class Mine(torch.nn.Linear):  # type: ignore[misc, name-defined]
        pass

    assert frontend_of(Mine(1, 1)) is FRONTENDS["torch"]
    onnx = importlib.import_module("onnx")
    assert frontend_of(onnx.ModelProto()) is FRONTENDS["onnx"]


@pytest.mark.parametrize("source", [None, 3, [], {}, OrderedDict(), bytearray(b""), object()])
def test_nothing_else_is_recognised(source: object) -> None:
    assert frontend_of(source) is None
