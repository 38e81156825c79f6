"""Importers: the table of frontends, each loaded when it is asked for."""

from __future__ import annotations

FRONTENDS: dict[str, str] = {
    "dynamo": "tilewright.frontends.torch.dynamo:compile_captured",
    "onnx": "tilewright.frontends.onnx:import_onnx",
    "torch": "tilewright.frontends.torch:import_torch",
    "zoo": "tilewright.frontends.onnx.zoo:load_zoo",
}

SUPPORTED: dict[str, str] = {
    "onnx": "tilewright.frontends.onnx.table:CONVERTERS",
    "torch": "tilewright.frontends.torch.table:CONVERTERS",
}
"""Of each frontend, the mapping whose keys are the source operators that it knows."""

BESIDE: dict[str, str] = {
    "onnx": "tilewright.frontends.onnx:external_files",
}
"""Of each frontend that reads more files than the one it is given, what names the others."""
