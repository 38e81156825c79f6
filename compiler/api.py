"""The public face: compile a model, load a compiled one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tilewright.backends import BACKENDS, load_backend
from tilewright.backends.backend import Backend
from tilewright.errors import OptionError
from tilewright.graph.ir import Graph
from tilewright.models import find_model, keep_model, model_key
from tilewright.options import Options, from_environment
from tilewright.runtime import artifact
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.cache import NO_CACHE, open_cache
from tilewright.runtime.compiled import Compiled
from tilewright.runtime.executable import Executable
from tilewright.sources import Source, source_of
from tilewright.stages import (
    GRAPH_STAGES,
    KERNEL_STAGES,
    PIPELINE,
    Log,
    Progress,
    load_function,
    uncollected,
)
from tilewright.target import Target

if TYPE_CHECKING:
    from tilewright.kernels.operation import Operation
    from tilewright.pipeline import Built

Shapes = Mapping[str, Sequence[int | str]]
DimRanges = Mapping[str, tuple[int, int | None]]


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
    kernels: Mapping[str, Operation] | None = None,
    cache: bool | None = None,
    debug: int | None = None,
    records: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Executable:
    """Compiles a model to native code and returns it ready to run.

    Args:
        source: a model that a frontend takes (the table in ``tilewright.frontends`` says which):
            the path of a file or its bytes, an object of another framework, ``zoo:NAME`` for a
            network that needs no download (``zoo:resnet50``); or a Graph.
        example_inputs: arguments, as a tuple or by name, for a source that is a function of them
            and not yet a program.
        dynamic_shapes: which of their sizes may differ, in the words of the source's framework.
        target: ``native`` (this CPU) or a target that it can run (``x86-64-v3``).
        math: ``fast`` (the default) allows Winograd's method for convolutions of float32, whose
            results differ from the plain sum's by up to about 5e-6 of the largest one, and which
            spreads an infinity or a nan to neighbouring places; ``strict`` forbids it.
        threads: the most threads a call may use; by default what affinity and quota allow.
        shapes: dims by input name in place of the declared ones: numbers or symbol names.
        dim_ranges: inclusive ranges by symbol name; by default at least 1.
        kernels: what ``tw.kernel`` made, to take the place of operators of a model whose
            frontend has them by name: ``domain::name``.
        cache: whether to look up and keep compiled code on disk.
        debug: 0 to 5, see Options.
        records: a file of records (``tilewright tune`` makes one): kernels that were tuned for
            this target get the schedules that were found.
        progress: called with the name of each stage as it begins.

    Raises:
        ModelError, UnsupportedError, OptionError, TargetError: see their classes.
        ArtifactError: the file of records cannot be used.
    """
    options = from_environment(
        None, target=target, math=math, threads=threads, cache=cache, debug=debug
    )
    backend = load_backend(backend_of(options.target))
    # Not after compiling for minutes what could not be run.
    backend.check(backend.resolve(options.target))
    log = Log(progress)
    opened = source_of(
        source,
        log,
        example_inputs=example_inputs,
        dynamic_shapes=dynamic_shapes,
        shapes=shapes,
        dim_ranges=dim_ranges,
        kernels=kernels,
    )
    found, again = _build(opened, options, log, records)
    entry = backend.load(found.target, found.objects, open_cache(options), options.threads)
    if again.made is not None:
        backend.rest()
    _report(options.debug, log, again)
    return Executable(found, entry, again.stages())


def build(
    source: Any,
    *,
    target: str | None = None,
    math: str | None = None,
    shapes: Shapes | None = None,
    dim_ranges: DimRanges | None = None,
    kernels: Mapping[str, Operation] | None = None,
    cache: bool | None = None,
    records: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Compiled:
    """Compiles a model for a target that need not be this machine: to be saved or looked at.

    Args:
        source, target, math, shapes, dim_ranges, kernels, cache, records, progress: as
            ``compile`` takes them.

    Raises:
        ModelError, UnsupportedError, OptionError, TargetError, ArtifactError: see their classes.
    """
    options = from_environment(None, target=target, math=math, cache=cache)
    log = Log(progress)
    opened = source_of(source, log, shapes=shapes, dim_ranges=dim_ranges, kernels=kernels)
    found, again = _build(opened, options, log, records)
    return Compiled(found, again.stages())


@uncollected()
def _build(
    opened: Source, options: Options, log: Log, records: str | os.PathLike[str] | None
) -> tuple[Artifact, _Again]:
    """The compiled model, from the cache where it is there, and what its texts are made of."""
    store = open_cache(options)
    backend = load_backend(backend_of(options.target))
    wanted = backend.resolve(options.target)
    replay = None
    if records is not None:
        replay = load_function(PIPELINE["replay"])(records, wanted, options.math)
    digest = "" if replay is None else replay.digest
    key = model_key(store, opened, wanted, options.math, digest)
    found = None if key is None else find_model(store, key, opened)
    made: Built | None = None
    if found is None:
        # Loading what makes code touches much memory: let it be before there is anything else.
        backend.rest()
        # No name for the graph: its weights are to go when they are packed.
        function = load_function(PIPELINE["build"])
        made = function(_imported(opened, log), wanted, backend, store, log, options.math, replay)
        assert made is not None
        found = made.artifact
        if key is not None:
            keep_model(store, key, opened, found)
    return found, _Again(opened, wanted, options.math, backend, made, replay)


@uncollected()
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
    """The backend of a target's name: what stands before a colon, or is one; else the CPU's."""
    name, colon, _ = target.partition(":")
    return name if colon or name in BACKENDS else "cpu"


def import_graph(
    source: Any,
    shapes: Shapes | None = None,
    dim_ranges: DimRanges | None = None,
) -> Graph:
    """The graph of a model, as imported."""
    return source_of(source, Log(), shapes=shapes, dim_ranges=dim_ranges).graph()


def _imported(source: Source, log: Log) -> Graph:
    with log.stage("import"):
        return source.graph()


# ------------------------------------------------------------------ stages as text


@dataclass
class _Again:
    """Texts of the stages; what is not held is made again from the source when it is asked for.

    The weights of the source are not kept for this: only texts of graphs need them.
    """

    source: Source
    target: Target
    math: str
    backend: Backend
    made: Built | None
    replay: Callable[..., Mapping[str, int]] | None = None

    def stages(self) -> dict[str, str | Callable[[], str]]:
        """A function for every stage, in the order of the pipeline."""
        names = (*GRAPH_STAGES, *KERNEL_STAGES, *self.backend.stages)
        return {name: partial(self.text, name) for name in names}

    def text(self, stage: str) -> str:
        """The text of one stage."""
        if stage in GRAPH_STAGES:
            show = load_function(PIPELINE["graph_text"])
            return str(show(stage, self._graph(), self.target, self.math))
        if self.made is None:
            build = load_function(PIPELINE["build"])
            graph = self._graph()
            self.made = build(
                graph, self.target, self.backend, NO_CACHE, Log(), self.math, self.replay
            )
        if stage in KERNEL_STAGES:
            return str(load_function(PIPELINE["kernel_text"])(stage, self.made))
        return self.backend.stages[stage](self.made.unit)

    def _graph(self) -> Graph:
        if self.source.has_changed():
            raise OptionError(
                f"{self.source.value} has changed since it was compiled; compile it again to see "
                f"its stages",
                code="TW-E0807",
            )
        return self.source.graph()


def _report(debug: int, log: Log, texts: _Again) -> None:
    """The ladder: 1 stage times, 2 chosen schedules, 3 loops, 4 generated source, 5 graphs."""
    if debug >= 1:
        times = ", ".join(f"{k} {v * 1e3:.0f} ms" for k, v in log.seconds.items())
        print(f"tilewright: {times or 'from the cache'}", file=sys.stderr)
    for level, stage in ((2, "schedule"), (3, "loops"), (4, "llvm"), (5, "graph"), (5, "passes")):
        if debug >= level:
            print(texts.text(stage), file=sys.stderr)
