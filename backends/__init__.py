"""Code generators, by name; a backend is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from tilewright.errors import TargetError

from .backend import Backend, Exporter

BACKENDS: dict[str, str] = {
    "cpu": "tilewright.backends.cpu",
    "cuda": "tilewright.backends.cuda",
    "cuda-sim": "tilewright.backends.cuda.simulation",
}
"""The module of each backend, which holds it as ``BACKEND``."""

EXPORTERS: dict[str, str] = {"cpu": "tilewright.backends.cpu.export"}
"""The module of each backend whose code runs without us, which holds it as ``EXPORTER``."""


def load_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        TargetError: there is none (TW-E0404).
    """
    module = BACKENDS.get(name)
    if module is None:
        raise TargetError(f"backend {name!r}: there are {', '.join(BACKENDS)}", code="TW-E0404")
    return cast(Backend, import_module(module).BACKEND)


def find_exporter(name: str) -> Exporter:
    """What writes the code of a backend to files that need no Tilewright.

    Raises:
        TargetError: the backend has no such files (TW-E0406).
    """
    module = EXPORTERS.get(name)
    if module is None:
        raise TargetError(
            f"backend {name!r}: its code is not exported; {', '.join(EXPORTERS)} code is",
            code="TW-E0406",
        )
    return cast(Exporter, import_module(module).EXPORTER)
