"""Options of one compilation, and the one place where environment variables are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral
from pathlib import Path

from .errors import OptionError

DEFAULT_CACHE_BYTES = 2 << 30
MATH = ("fast", "strict")


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose; built once by ``from_environment`` and passed down.

    Attributes:
        target: ``native`` or a name that the backend knows (``x86-64-v3``).
        threads: the most threads a call may use; None: what affinity and CPU quota allow.
        cache: whether compiled code is kept on disk and looked up there.
        cache_dir: where; None turns the cache off as ``cache=False`` does.
        cache_bytes: the size above which the least recently used entries are removed.
        debug: 0 nothing, 1 stage times, 2 chosen schedules, 3 loops, 4 generated source,
            5 the graph before and after all passes.
        math: ``fast`` lets a convolution be computed by Winograd's method where that is faster;
            ``strict`` computes every convolution by plain sums, in some order.
    """

    target: str = "native"
    threads: int | None = None
    cache: bool = True
    cache_dir: Path | None = None
    cache_bytes: int = DEFAULT_CACHE_BYTES
    debug: int = 0
    math: str = "fast"

    def __post_init__(self) -> None:
        if self.math not in MATH:
            raise OptionError(
                f"math: {self.math!r} is not one of {', '.join(MATH)}", code="TW-E0801"
            )
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise OptionError(f"threads: {self.threads} is not in 1..1024", code="TW-E0801")
        if not 0 <= self.debug <= 5:
            raise OptionError(f"debug: {self.debug} is not in 0..5", code="TW-E0801")
        if self.cache_bytes < 0:
            raise OptionError(f"cache_bytes: {self.cache_bytes} is negative", code="TW-E0801")


def from_environment(environment: Mapping[str, str] | None = None, **chosen: object) -> Options:
    """Options from the environment; what is chosen explicitly and is not None goes first.

    ``TILEWRIGHT_TARGET``, ``TILEWRIGHT_MATH``, ``TILEWRIGHT_THREADS``, ``TILEWRIGHT_CACHE`` (0
    or 1), ``TILEWRIGHT_CACHE_DIR`` (default ``$XDG_CACHE_HOME/tilewright``, else
    ``~/.cache/tilewright``), ``TILEWRIGHT_CACHE_BYTES`` and ``TILEWRIGHT_DEBUG``. An empty
    variable counts as unset.

    Args:
        environment: the variables; None: this process's.
        chosen: fields of Options.

    Raises:
        OptionError: a field does not exist, or a value is not understood (TW-E0801, TW-E0802).
    """
    given = {k: v for k, v in chosen.items() if v is not None}
    names = [f.name for f in fields(Options)]
    unknown = sorted(given.keys() - set(names))
    if unknown:
        raise OptionError(
            f"unknown option {', '.join(unknown)}; there are {', '.join(names)}", code="TW-E0802"
        )
    given = {name: _of_its_type(name, value) for name, value in given.items()}
    env = os.environ if environment is None else environment
    found: dict[str, object] = {"cache_dir": _cache_dir(env)}
    for name in names:
        variable = f"TILEWRIGHT_{name.upper()}"
        value = env.get(variable, "").strip()
        if value and name not in given:
            found[name] = _read(variable, name, value)
    return Options(**{**found, **given})  # type: ignore[arg-type]


def whole_number(name: str, value: object) -> int:
    """A number that a user gave for an option.

    Raises:
        OptionError: it is none, or no whole one (TW-E0801).
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise _of_another_type(name, value, "a whole number")
    return int(value)


def _of_its_type(name: str, value: object) -> object:
    match name:
        case "threads" | "debug" | "cache_bytes":
            return whole_number(name, value)
        case "target" | "math" if not isinstance(value, str):
            raise _of_another_type(name, value, "a text")
        case "cache" if not isinstance(value, bool):
            raise _of_another_type(name, value, "True or False")
    return value


def _of_another_type(name: str, value: object, wanted: str) -> OptionError:
    return OptionError(
        f"{name}: {value!r} is of type {type(value).__name__}; expected {wanted}", code="TW-E0801"
    )


def _read(variable: str, name: str, value: str) -> object:
    match name:
        case "target" | "math":
            return value
        case "cache_dir":
            return Path(value).expanduser()
        case "cache" if value in ("0", "1"):
            return value == "1"
        case "threads" | "debug" | "cache_bytes" if value.isascii() and value.isdigit():
            return int(value)
    wanted = "0 or 1" if name == "cache" else "a whole number"
    raise OptionError(f"{variable}={value!r}: expected {wanted}", code="TW-E0801")


def _cache_dir(env: Mapping[str, str]) -> Path | None:
    """The default place; None where there is no home directory."""
    base = env.get("XDG_CACHE_HOME", "")
    # The specification has relative paths ignored.
    if base and Path(base).is_absolute():
        return Path(base) / "tilewright"
    home = env.get("HOME", "")
    return Path(home) / ".cache" / "tilewright" if home else None
