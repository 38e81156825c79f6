"""The public face: compile a model, load a compiled one."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from tilewright.backends import load_backend
from tilewright.errors import ModelError, OptionError
from tilewright.frontends import FRONTENDS
from tilewright.graph.ir import Graph
from tilewright.options import Options, from_environment
from tilewright.pipeline import STAGES, Built, Log, Progress, build, fingerprint
from tilewright.runtime import artifact
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.cache import Cache, digest_key, open_cache
from tilewright.runtime.executable import Executable


def compile(  # noqa: A001
    source: Any,
    *,
    target: str | None = None,
    threads: int | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dim_ranges: Mapping[str, tuple[int, int | None]] | None = None,
    cache: bool | None = None,
    debug: int | None = None,
    progress: Progress | None = None,
) -> Executable:
    """Compiles a model to native code and returns it ready to run.

    Args:
        source: a path of an ONNX file, its bytes, an ``onnx.ModelProto``, or a Graph.
        target: ``native`` (this CPU) or a level (``x86-64-v3``).
        threads: the most threads a call may use; by default what affinity and quota allow.
        shapes: dims by input name in place of the declared ones: numbers or symbol names.
        dim_ranges: inclusive ranges by symbol name; by default at least 1.
        cache: whether to look up and keep compiled code on disk.
        debug: 0 to 5, see Options.
        progress: called with the name of each stage as it begins.

    Raises:
        ModelError, UnsupportedError, OptionError, TargetError: see their classes.
    """
    options = from_environment(
        None, target=target, threads=threads, cache=cache, debug=debug
    )
    log = Log(progress)
    store = open_cache(options)
    backend = load_backend(options.target)
    wanted = backend.resolve(options.target)
    backend.require(wanted)
    key = (
        _model_key(source, options, shapes, dim_ranges)
        if store.root is not None
        else None
    )
    found = None if key is None else _cached(store, key)
    made: Built | None = None
    if found is None:
        graph = _import(source, shapes, dim_ranges, log)
        made = build(graph, options, store, log)
        found = made.artifact
        if key is not None and not _has_external_data(source):
            _keep(store, key, found)
    entry = backend.load(found.objects, options.threads)
    return Executable(found, entry, _stages(made, source, options, shapes, dim_ranges))


def load(path: str | os.PathLike[str], *, threads: int | None = None) -> Executable:
    """Loads a model that ``Executable.save`` wrote; nothing is compiled.

    Raises:
        ArtifactError: the file is damaged, foreign or of another version.
        TargetError: it was compiled for a CPU that this one is not.
    """
    options = from_environment(None, threads=threads)
    found = artifact.read(path)
    backend = load_backend(found.target.backend)
    backend.require(found.target)
    return Executable(found, backend.load(found.objects, options.threads), {})


def import_graph(
    source: Any,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dim_ranges: Mapping[str, tuple[int, int | None]] | None = None,
) -> Graph:
    """The graph of a model, as imported."""
    return _import(source, shapes, dim_ranges, Log())


def _import(
    source: Any,
    shapes: Mapping[str, Sequence[int | str]] | None,
    dim_ranges: Mapping[str, tuple[int, int | None]] | None,
    log: Log,
) -> Graph:
    if isinstance(source, Graph):
        if shapes or dim_ranges:
            raise OptionError(
                "shapes and dim_ranges do not apply to a Graph", code="TW-E0804"
            )
        return source
    with log.stage("import"):
        importer = _frontend("onnx")
        if not _is_onnx(source):
            raise ModelError(
                f"compile takes a path, bytes, an onnx.ModelProto or a Graph, not "
                f"{type(source).__name__}",
                code="TW-E0100",
            )
        graph = importer(source, shapes=shapes, dim_ranges=dim_ranges)
        assert isinstance(graph, Graph)
        return graph


def _frontend(name: str) -> Callable[..., object]:
    module, function = FRONTENDS[name].split(":")
    found: Callable[..., object] = getattr(import_module(module), function)
    return found


def _is_onnx(source: object) -> bool:
    return isinstance(source, str | bytes | os.PathLike) or _is_proto(source)


def _is_proto(source: object) -> bool:
    return type(source).__name__ == "ModelProto" and hasattr(
        source, "SerializeToString"
    )


# ------------------------------------------------------------------ whole models on disk


def _model_key(
    source: object,
    options: Options,
    shapes: Mapping[str, Sequence[int | str]] | None,
    dim_ranges: Mapping[str, tuple[int, int | None]] | None,
) -> str | None:
    """A key for everything that decides the compiled model; None where it has none."""
    if isinstance(source, str | os.PathLike):
        content = _file_digest(Path(source))
    elif isinstance(source, bytes):
        content = hashlib.sha256(source).hexdigest()
    else:
        return None
    if content is None:
        return None
    backend = load_backend(options.target)
    target = backend.resolve(options.target)
    choices = repr((sorted((shapes or {}).items()), sorted((dim_ranges or {}).items())))
    return digest_key("model", content, repr(target), choices, fingerprint())


def _file_digest(path: Path) -> str | None:
    try:
        with (
            open(path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return hashlib.sha256(data).hexdigest()
    except (OSError, ValueError):
        return None  # the importer says what is wrong with it


def _cached(store: Cache, key: str) -> Artifact | None:
    path = store.find(key)
    if path is None:
        return None
    try:
        return artifact.read(path)
    except Exception:  # noqa: BLE001  a damaged entry is a miss, whatever is wrong with it
        path.unlink(missing_ok=True)
        return None


def _keep(store: Cache, key: str, made: Artifact) -> None:
    store.publish(key, lambda path: artifact.write(path, made))


def _has_external_data(source: object) -> bool:
    """Whether weights lie in files that the key does not cover."""
    if not isinstance(source, str | os.PathLike):
        return False
    with (
        open(source, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return data.find(b"location") >= 0 and data.find(b"\x12\x08location"[2:]) >= 0


# ------------------------------------------------------------------ stages as text


def _stages(
    made: Built | None,
    source: object,
    options: Options,
    shapes: Mapping[str, Sequence[int | str]] | None,
    dim_ranges: Mapping[str, tuple[int, int | None]] | None,
) -> dict[str, str | Callable[[], str]]:
    """Texts of all stages; a model that came from the cache is compiled again when one is asked."""
    held: list[Built] = [made] if made is not None else []

    def text(stage: str) -> str:
        if not held:
            graph = _import(source, shapes, dim_ranges, Log())
            held.append(
                build(graph, replace(options, cache=False), Cache(None, 0), Log())
            )
        return held[0].text(stage, load_backend(options.target))

    return {stage: (lambda s=stage: text(s)) for stage in STAGES}  # type: ignore[misc]
