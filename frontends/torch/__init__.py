"""PyTorch's frontend: exported programs become graphs."""

from __future__ import annotations

from .importer import import_exported, import_module
from .sources import content_of, import_source, open_source

__all__ = ["content_of", "import_exported", "import_module", "import_source", "open_source"]
