"""The ONNX frontend: a model file or ModelProto becomes a graph."""

from .importer import import_onnx

__all__ = ["import_onnx"]
