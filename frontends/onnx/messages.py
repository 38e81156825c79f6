"""The messages that ONNX files are made of, without the rest of the onnx package.

Their classes lie in a generated file of that package, which needs protobuf alone. Importing all of
the package takes four times as long, and 6 MB that nothing here uses. Protobuf has one class for a
message, however often that file is run: a program that imports onnx as well gets the same ones.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

__all__ = [
    "AttributeProto",
    "FunctionProto",
    "GraphProto",
    "ModelProto",
    "NodeProto",
    "OperatorSetIdProto",
    "TensorProto",
    "TensorShapeProto",
    "TypeProto",
    "ValueInfoProto",
]

_GENERATED = "onnx.onnx_ml_pb2"


def _generated() -> ModuleType:
    """The generated file, or the whole package where that is there already or has no such file."""
    known = sys.modules.get(_GENERATED)
    if known is not None:
        return known
    package = None if "onnx" in sys.modules else find_spec("onnx")
    for folder in () if package is None else package.submodule_search_locations or ():
        file = Path(folder, _GENERATED.partition(".")[2]).with_suffix(".py")
        spec = spec_from_file_location(_GENERATED, file) if file.is_file() else None
        if spec is not None and spec.loader is not None:
            # Not in sys.modules: there, it would stand for a part of a package that is not.
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    return import_module("onnx")


if TYPE_CHECKING:
    from onnx import (
        AttributeProto,
        FunctionProto,
        GraphProto,
        ModelProto,
        NodeProto,
        OperatorSetIdProto,
        TensorProto,
        TensorShapeProto,
        TypeProto,
        ValueInfoProto,
    )
else:
    _MESSAGES = _generated()
    globals().update({name: getattr(_MESSAGES, name) for name in __all__})

GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
"""The types of attributes that hold graphs."""
