"""Code generators, by name; a backend is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import cast

from tilewright.errors import TargetError

from .backend import Backend, Exporter, Profiler, Runner

BACKENDS: dict[str, str] = {
    "cpu": "tilewright.backends.cpu",
    "cuda": "tilewright.backends.cuda",
    "cuda-sim": "tilewright.backends.cuda.simulation",
}
"""The module of each backend, which holds it as ``BACKEND``."""

EXPORTERS: dict[str, str] = {"cpu": "tilewright.backends.cpu.export"}
"""The module of each backend whose code runs without us, which holds it as ``EXPORTER``."""

PROFILERS: dict[str, str] = {
    "cpu": "tilewright.backends.cpu.profile",
    "cuda": "tilewright.backends.cuda.profile",
    "cuda-sim": "tilewright.backends.cuda.profile",
}
"""The module of each backend whose kernels are measured or modelled: ``PROFILER``."""

EQUIPMENT: dict[str, str] = {"cuda": "tilewright.backends.cuda.equipment"}
"""The module of each backend that needs more than this package: ``facts`` says what is there."""


RUNNER = "tilewright.backends.cpu.run"
"""The module of the backend whose code runs wherever we do: ``run_here``."""


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


def find_profiler(name: str) -> Profiler:
    """What measures or models the kernels of a backend.

    Raises:
        TargetError: nothing does (TW-E0409).
    """
    module = PROFILERS.get(name)
    if module is None:
        raise TargetError(
            f"backend {name!r}: its kernels are not profiled; those of {', '.join(PROFILERS)} are",
            code="TW-E0409",
        )
    return cast(Profiler, import_module(module).PROFILER)


def find_runner() -> Runner:
    """What runs a function on this machine, for the compiler's own work."""
    return cast(Runner, import_module(RUNNER).run_here)


def equipment() -> Iterator[tuple[str, str]]:
    """What there is on this machine for each backend that needs something, or what is missing."""
    for module in EQUIPMENT.values():
        yield from import_module(module).facts()
