"""Tilewright: models in, native code out.

    import tilewright as tw

    exe = tw.compile("model.onnx")
    (y,) = exe(x)

Importing this package loads neither a frontend nor a backend nor LLVM; the first compilation does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import (
    ArtifactError,
    Gap,
    InputError,
    InternalError,
    ModelError,
    OptionError,
    OutputError,
    ScheduleError,
    TargetError,
    TilewrightError,
    UnsupportedError,
)
from .version import __version__

if TYPE_CHECKING:
    from .api import compile, load  # noqa: A004
    from .dtype import bf16, bool_, f16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64
    from .jit import jit
    from .kernels import argmax, argmin, compute, kernel, max, min, prod, sum  # noqa: A004
    from .runtime.executable import Executable
    from .runtime.program import TensorSpec
    from .standalone import export
    from .tuning import tune

_DTYPES = (
    "bf16", "bool_", "f16", "f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64",
)  # fmt: skip
_KERNELS = ("argmax", "argmin", "compute", "kernel", "max", "min", "prod", "sum")

_LAZY = {
    **dict.fromkeys(_DTYPES, "tilewright.dtype"),
    **dict.fromkeys(_KERNELS, "tilewright.kernels"),
    "Executable": "tilewright.runtime.executable",
    "TensorSpec": "tilewright.runtime.program",
    "compile": "tilewright.api",
    "export": "tilewright.standalone",
    "jit": "tilewright.jit",
    "load": "tilewright.api",
    "tune": "tilewright.tuning",
}

__all__ = [
    "ArtifactError",
    "Executable",
    "Gap",
    "InputError",
    "InternalError",
    "ModelError",
    "OptionError",
    "OutputError",
    "ScheduleError",
    "TargetError",
    "TensorSpec",
    "TilewrightError",
    "UnsupportedError",
    "__version__",
    "argmax",
    "argmin",
    "bf16",
    "bool_",
    "compile",
    "compute",
    "export",
    "f16",
    "f32",
    "f64",
    "i8",
    "i16",
    "i32",
    "i64",
    "jit",
    "kernel",
    "load",
    "max",
    "min",
    "prod",
    "sum",
    "tune",
    "u8",
    "u16",
    "u32",
    "u64",
]


def __getattr__(name: str) -> object:
    """Loads a public name when it is first asked for."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
