"""Code generators, by name; a backend is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from tilewright.errors import TargetError

from .backend import Backend

BACKENDS: dict[str, str] = {"cpu": "tilewright.backends.cpu"}
"""The module of each backend, which holds it as ``BACKEND``."""


def load_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        TargetError: there is none (TW-E0404).
    """
    module = BACKENDS.get(name)
    if module is None:
        raise TargetError(f"backend {name!r}: there are {', '.join(BACKENDS)}", code="TW-E0404")
    return cast(Backend, import_module(module).BACKEND)
