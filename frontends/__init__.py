"""Importers: the table of frontends, each loaded when it is asked for."""

from __future__ import annotations

FRONTENDS: dict[str, str] = {
    "onnx": "tilewright.frontends.onnx:import_onnx",
    "zoo": "tilewright.frontends.onnx.zoo:load_zoo",
}
