"""The public face: compile a model, load a compiled one."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.backends import load_backend
from tilewright.backends.backend import Backend
from tilewright.errors import ModelError, OptionError
from tilewright.frontends import BESIDE, FRONTENDS
from tilewright.graph.ir import Graph
from tilewright.options import from_environment
from tilewright.runtime import artifact
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.cache import NO_CACHE, Cache, digest_key, file_digest, open_cache
from tilewright.runtime.executable import Executable
from tilewright.stages import (
    GRAPH_STAGES,
    KERNEL_STAGES,
    PIPELINE,
    Log,
    Progress,
    fingerprint,
    load_function,
)
from tilewright.target import Target

if TYPE_CHECKING:
    from tilewright.pipeline import Built

Shapes = Mapping[str, Sequence[int | str]]
DimRanges = Mapping[str, tuple[int, int | None]]

_VERSIONS = {"version": "importlib.metadata:version"}  # slow to import; only the zoo needs it


def compile(  # noqa: A001
    source: Any,
    example_inputs: Any = None,
    *,
    dynamic_shapes: Any = None,
    target: str | None = None,
    math: str | None = None,
    threads: int | None = None,
    shapes: Shapes | None = None,
    dim_ranges: DimRanges | None = None,
    cache: bool | None = None,
    debug: int | None = None,
    progress: Progress | None = None,
) -> Executable:
    """Compiles a model to native code and returns it ready to run.

    Args:
        source: a path of an ONNX file, its bytes, an ``onnx.ModelProto``, a Graph,
            ``zoo:NAME`` for a network of the zoo (``zoo:resnet50``), a
            ``torch.export.ExportedProgram``, or a ``torch.nn.Module`` in eval mode.
        example_inputs: a module's arguments, as a tuple or by name, which it is exported with.
        dynamic_shapes: of a module, as ``torch.export.export`` takes it.
        target: ``native`` (this CPU) or a level (``x86-64-v3``).
        math: ``fast`` (the default) allows Winograd's method for convolutions of float32, whose
            results differ from the plain sum's by up to about 2e-5 of the largest one, and which
            spreads an infinity or a nan to neighbouring places; ``strict`` forbids it.
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
        None, target=target, math=math, threads=threads, cache=cache, debug=debug
    )
    log = Log(progress)
    if _is_torch(source):
        with log.stage("import"):
            source = load_function(FRONTENDS, "torch")(source, example_inputs, dynamic_shapes)
    elif example_inputs is not None or dynamic_shapes is not None:
        raise OptionError(
            "example_inputs and dynamic_shapes go with a torch.nn.Module only", code="TW-E0806"
        )
    store = open_cache(options)
    backend = load_backend(backend_of(options.target))
    wanted = backend.resolve(options.target)
    stamp = _stamp(source)
    key = None
    if store.root is not None:
        key = _model_key(source, wanted, options.math, shapes, dim_ranges)
    found = None if key is None else _cached(store, key, source)
    made: Built | None = None
    if found is None:
        # No name for the graph: its weights are to go when they are packed.
        build = load_function(PIPELINE, "build")
        made = build(
            _import(source, shapes, dim_ranges, log), wanted, backend, store, log, options.math
        )
        assert made is not None
        found = made.artifact
        if key is not None and stamp == _stamp(source):
            _keep(store, key, source, found)
    entry = backend.load(found.target, found.objects, store, options.threads)
    again = _Again(source, wanted, options.math, backend, shapes, dim_ranges, made, stamp)
    _report(options.debug, log, again)
    return Executable(found, entry, again.stages())


def load(path: str | os.PathLike[str], *, threads: int | None = None) -> Executable:
    """Loads a model that ``Executable.save`` wrote; nothing is compiled.

    Raises:
        ArtifactError: the file is damaged, foreign or of another version.
        TargetError: it was compiled for a CPU that this one is not.
    """
    options = from_environment(None, threads=threads)
    found = artifact.read(path)
    backend = load_backend(found.target.backend)
    entry = backend.load(found.target, found.objects, open_cache(options), options.threads)
    return Executable(found, entry, {})


def backend_of(target: str) -> str:
    """The backend of a target's name: what stands before a colon, else the CPU's."""
    return target.partition(":")[0] if ":" in target else "cpu"


def import_graph(
    source: Any,
    shapes: Shapes | None = None,
    dim_ranges: DimRanges | None = None,
) -> Graph:
    """The graph of a model, as imported."""
    return _import(source, shapes, dim_ranges, Log())


def _import(
    source: Any,
    shapes: Shapes | None,
    dim_ranges: DimRanges | None,
    log: Log,
) -> Graph:
    if isinstance(source, Graph):
        if shapes or dim_ranges:
            raise OptionError("shapes and dim_ranges do not apply to a Graph", code="TW-E0804")
        return source
    with log.stage("import"):
        if _is_zoo(source):
            source = load_function(FRONTENDS, "zoo")(source)
        if not _is_onnx(source):
            raise ModelError(
                f"compile takes a path, bytes, an onnx.ModelProto or a Graph, not "
                f"{type(source).__name__}",
                code="TW-E0100",
            )
        graph = load_function(FRONTENDS, "onnx")(source, shapes=shapes, dim_ranges=dim_ranges)
        assert isinstance(graph, Graph)
        return graph


def _is_onnx(source: object) -> bool:
    return isinstance(source, str | bytes | os.PathLike) or _is_proto(source)


def _is_torch(source: object) -> bool:
    """Whether torch made the source or a class that it derives from; torch is not imported."""
    roots = {c.__module__.partition(".")[0] for c in type(source).__mro__}
    return "torch" in roots


def _is_zoo(source: object) -> bool:
    return isinstance(source, str) and source.startswith("zoo:")


def _is_proto(source: object) -> bool:
    return type(source).__name__ == "ModelProto" and hasattr(source, "SerializeToString")


# ------------------------------------------------------------------ whole models on disk


def _model_key(
    source: object,
    target: Target,
    math: str,
    shapes: Shapes | None,
    dim_ranges: DimRanges | None,
) -> str | None:
    """A key for everything that decides the compiled model; None where it has none."""
    content: str | None
    if _is_zoo(source):
        # Its weights follow from the graph in the onnx package and from our own source.
        content = f"{source} {load_function(_VERSIONS, 'version')('onnx')}"
    elif isinstance(source, str | os.PathLike):
        content = _file_digest(Path(source))
    elif isinstance(source, bytes):
        content = hashlib.sha256(source).hexdigest()
    else:
        return None
    if content is None:
        return None
    choices = repr((sorted((shapes or {}).items()), sorted((dim_ranges or {}).items())))
    return digest_key("model", content, repr(target), math, choices, fingerprint())


def _file_digest(path: Path) -> str | None:
    try:
        return file_digest(path) if path.is_file() else None
    except (OSError, ValueError):
        return None  # the importer says what is wrong with it


def _stamp(source: object) -> tuple[int, ...] | None:
    """What differs once a file was written to or replaced; None where there is no file."""
    if not isinstance(source, str | os.PathLike) or _is_zoo(source):
        return None
    try:
        status = os.stat(source)
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _cached(store: Cache, key: str, source: object) -> Artifact | None:
    names = store.get(digest_key("beside", key))
    whole = _with_files(key, source, () if names is None else json.loads(names))
    path = None if whole is None else store.find(whole)
    if whole is None or path is None:
        return None
    try:
        return artifact.read(path)
    except Exception:
        store.discard(whole)
        return None


def _keep(store: Cache, key: str, source: object, made: Artifact) -> None:
    names: tuple[str, ...] = ()
    if isinstance(source, str | os.PathLike) and not _is_zoo(source):
        names = load_function(BESIDE, "onnx")(source)
    whole = _with_files(key, source, names)
    if whole is None:
        return
    if names:
        store.put(digest_key("beside", key), json.dumps(names).encode())
    store.publish(whole, lambda path: artifact.write(path, made))


def _with_files(key: str, source: object, names: Sequence[str]) -> str | None:
    """The key of a model with the content of the files beside it that hold its weights."""
    if not names:
        return key
    assert isinstance(source, str | os.PathLike)
    digests = [_file_digest(Path(source).parent / name) for name in names]
    present = [d for d in digests if d is not None]
    return digest_key("with files", key, *present) if len(present) == len(names) else None


# ------------------------------------------------------------------ stages as text


@dataclass
class _Again:
    """Texts of the stages; what is not held is made again from the source when it is asked for.

    The weights of the source are not kept for this: only texts of graphs need them.
    """

    source: object
    target: Target
    math: str
    backend: Backend
    shapes: Shapes | None
    dim_ranges: DimRanges | None
    made: Built | None
    stamp: tuple[int, ...] | None

    def stages(self) -> dict[str, str | Callable[[], str]]:
        """A function for every stage, in the order of the pipeline."""
        names = (*GRAPH_STAGES, *KERNEL_STAGES, *self.backend.stages)
        return {name: partial(self.text, name) for name in names}

    def text(self, stage: str) -> str:
        """The text of one stage."""
        if stage in GRAPH_STAGES:
            return str(load_function(PIPELINE, "graph_text")(stage, self._graph(), self.target))
        if self.made is None:
            build = load_function(PIPELINE, "build")
            graph = self._graph()
            self.made = build(graph, self.target, self.backend, NO_CACHE, Log(), self.math)
        if stage in KERNEL_STAGES:
            return str(load_function(PIPELINE, "kernel_text")(stage, self.made))
        return self.backend.stages[stage](self.made.unit)

    def _graph(self) -> Graph:
        if self.stamp != _stamp(self.source):
            raise OptionError(
                f"{self.source} has changed since it was compiled; compile it again to see its "
                f"stages",
                code="TW-E0807",
            )
        return _import(self.source, self.shapes, self.dim_ranges, Log())


def _report(debug: int, log: Log, texts: _Again) -> None:
    """The ladder: 1 stage times, 2 chosen schedules, 3 loops, 4 generated source, 5 graphs."""
    if debug >= 1:
        times = ", ".join(f"{k} {v * 1e3:.0f} ms" for k, v in log.seconds.items())
        print(f"tilewright: {times or 'from the cache'}", file=sys.stderr)
    for level, stage in ((2, "schedule"), (3, "loops"), (4, "llvm"), (5, "graph"), (5, "passes")):
        if debug >= level:
            print(texts.text(stage), file=sys.stderr)
