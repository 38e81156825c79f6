"""The ONNX frontend: a model file or ModelProto becomes a graph."""

from .importer import import_onnx
from .read import external_files

__all__ = ["external_files", "import_onnx"]
