"""PyTorch's frontend: exported programs become graphs."""

from __future__ import annotations

from .importer import import_exported, import_module, import_torch

__all__ = ["import_exported", "import_module", "import_torch"]
