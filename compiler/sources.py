"""What a user wants compiled: recognised by a frontend, known again, and imported.

Light on purpose: a model that the cache has is neither imported nor does it need its frontend.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_hexdigest

from tilewright.errors import ModelError, OptionError
from tilewright.frontends import FRONTENDS, Frontend, frontend_of
from tilewright.graph.ir import Graph
from tilewright.runtime.cache import Cache, digest_key
from tilewright.stages import Log, load_function

_CODES = {"shapes": "TW-E0804", "dim_ranges": "TW-E0804", "kernels": "TW-E0829"}
_VERSION = "importlib.metadata:version"  # slow to import; few sources need it


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to compile.

    Attributes:
        value: what the user gave, opened by its frontend where that is an object.
        frontend: what takes it; None for a Graph.
        options: those that the user chose, by name, as far as they are not part of the value.
        stamp: what differs once the file was written to or replaced; None where there is none.
        read: names of the files beside it that importing has read.
    """

    value: Any
    frontend: Frontend | None
    options: Mapping[str, Any]
    stamp: tuple[int, ...] | None
    read: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path | None:
        """The file, where the source is one."""
        return _path_of(self.value, self.frontend)

    def graph(self) -> Graph:
        """The graph, imported now.

        Raises:
            ModelError, UnsupportedError: the frontend does not take it.
        """
        if self.frontend is None:
            assert isinstance(self.value, Graph)
            return self.value
        beside = {"beside": self.read} if self.frontend.beside else {}
        graph = _function(self.frontend, "imports")(self.value, **self.options, **beside)
        assert isinstance(graph, Graph)
        return graph

    def has_changed(self) -> bool:
        """Whether the file is another one than when the source was made."""
        return self.stamp != _stamp(self.path)

    def content(self, store: Cache) -> str | None:
        """What differs wherever the source does, files beside it left out; None: not known."""
        if self.frontend is None:
            return None
        if not all(k.is_fixed for k in self.options.get("kernels", {}).values()):
            return None
        if self.path is not None:
            return store.file_digest(self.path)
        if isinstance(self.value, bytes):
            return xxh3_128_hexdigest(self.value)
        if self.frontend.version:
            # Its weights follow from what that package holds and from our own source.
            return f"{self.value} {load_function(_VERSION)(self.frontend.version)}"
        if self.frontend.content:
            found: str | None = _function(self.frontend, "content")(self.value)
            return found
        return None

    def beside(self) -> tuple[str, ...]:
        """The names of the files beside this one that hold its weights, once it is imported."""
        return tuple(dict.fromkeys(self.read))

    def key(self) -> str:
        """A text of the options."""
        plain = {
            k: sorted(v.items()) if isinstance(v, Mapping) else v for k, v in self.options.items()
        }
        return digest_key(*(f"{k}={v!r}" for k, v in sorted(plain.items())))


def source_of(value: Any, log: Log, **options: Any) -> Source:
    """Recognises what is to be compiled; objects are opened by their frontend.

    Args:
        options: of all frontends; None stands for one that was not chosen.

    Raises:
        ModelError: no frontend takes it (TW-E0100), or its own does not.
        OptionError: an option does not go with it (TW-E0804, TW-E0806).
    """
    chosen = {k: v for k, v in options.items() if v is not None}
    frontend = None if isinstance(value, Graph) else frontend_of(value)
    if frontend is None and not isinstance(value, Graph):
        raise ModelError(
            f"compile takes {', '.join(f.takes for f in FRONTENDS.values())}, or a Graph; not "
            f"{type(value).__name__}",
            code="TW-E0100",
        )
    for name in _CODES.keys() & chosen.keys():
        if not isinstance(chosen[name], Mapping):
            kind = type(chosen[name]).__name__
            raise OptionError(f"{name}: expected a dict by name, not a {kind}", code="TW-E0801")
    for name, kernel in chosen.get("kernels", {}).items():
        if not hasattr(kernel, "node"):
            raise OptionError(
                f"kernels: {name} is a {type(kernel).__name__}; give what tw.kernel makes, or what"
                " a schedule of it builds",
                code="TW-E0829",
            )
    path = _path_of(value, frontend)
    opened = frontend is not None and bool(frontend.opens) and path is None
    for name in chosen:
        if frontend is None or name not in frontend.options or (frontend.opens and not opened):
            what = "a Graph" if frontend is None else path or type(value).__name__
            raise OptionError(f"{name} does not go with {what}", code=_CODES.get(name, "TW-E0806"))
    if opened:
        assert frontend is not None
        with log.stage("import"):
            return Source(_function(frontend, "opens")(value, **chosen), frontend, {}, None)
    return Source(value, frontend, chosen, _stamp(path))


def _function(frontend: Frontend, part: str) -> Callable[..., Any]:
    try:
        return load_function(getattr(frontend, part))
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] not in frontend.packages:
            raise
        raise ModelError(
            f"{missing.name} is not installed, which compiling {frontend.takes} needs: "
            f"pip install 'tilewright[{frontend.extra}]'",
            code="TW-E0106",
        ) from missing


def _path_of(value: object, frontend: Frontend | None) -> Path | None:
    if frontend is None or not isinstance(value, str | os.PathLike):
        return None
    named = isinstance(value, str) and frontend.scheme and value.startswith(frontend.scheme)
    return None if named else Path(os.fsdecode(value))


def _stamp(path: Path | None) -> tuple[int, ...] | None:
    if path is None:
        return None
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
