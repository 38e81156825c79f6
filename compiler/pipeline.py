"""The pipeline between a graph and native code, step by step, each step's result kept as text.

Graph -> passes -> fused Graph -> lower -> Program + kernels -> emit -> objects
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from tilewright import backends, frontends
from tilewright.backends.backend import Backend, Unit
from tilewright.graph import text as graph_text
from tilewright.graph.ir import Graph
from tilewright.graph.passes import run_passes
from tilewright.lower.kernels import Kernel
from tilewright.lower.model import Lowered, lower_graph
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.buffer import aligned_bytes
from tilewright.runtime.cache import Cache
from tilewright.target import Target
from tilewright.tensor.text import text as func_text
from tilewright.version import __version__

Progress = Callable[[str], None]


@dataclass
class Log:
    """Seconds by stage, told to whoever wants to show progress."""

    progress: Progress | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def objects(self, done: int, total: int) -> None:
        """Tells how many objects are done."""
        if self.progress is not None:
            self.progress(f"code {done}/{total}")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage."""
        if self.progress is not None:
            self.progress(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Built:
    """What compiling a graph made.

    Attributes:
        artifact: what runs.
        unit: the program and its kernels, as the backend got them.
        kernels: how each kernel came to be.
        seconds: by stage.
    """

    artifact: Artifact
    unit: Unit
    kernels: tuple[Kernel, ...]
    seconds: Mapping[str, float]


GRAPH_STAGES = ("graph", "passes")
"""Stages whose text needs the model's weights, for their digests."""

KERNEL_STAGES: Mapping[str, Callable[[Built], str]] = {
    "compute": lambda built: "\n\n".join(k.compute for k in built.kernels),
    "loops": lambda built: "\n\n".join(func_text(k.func) for k in built.kernels),
    "schedule": lambda built: "\n\n".join(
        f"# {k.func.name}: {k.recipe}\n{k.steps}" for k in built.kernels
    ),
}
"""Stages that every backend shares, from tensor expressions to scheduled loops."""


def build(graph: Graph, target: Target, backend: Backend, store: Cache, log: Log) -> Built:
    """Compiles a graph for a target."""
    with log.stage("passes"):
        fused = run_passes(graph, target)
    with log.stage("lower"):
        lowered = lower_graph(fused, target)
    unit = Unit(lowered.program, tuple(k.func for k in lowered.kernels.values()), target)
    with log.stage("code"):
        objects = backend.compile(unit, store, log.objects)
    with log.stage("constants"):
        constants = constants_of(lowered)
    versions = {"tilewright": __version__, **backend.versions}
    made = Artifact(lowered.program, target, objects, constants, versions, {})
    return Built(made, unit, tuple(lowered.kernels.values()), log.seconds)


def graph_stage(stage: str, graph: Graph, target: Target) -> str:
    """The text of the graph as imported, or after all passes."""
    return graph_text.text(graph if stage == "graph" else run_passes(graph, target))


def constants_of(lowered: Lowered) -> np.ndarray:
    """The program's constants, packed, read-only, in one aligned block."""
    block = aligned_bytes(lowered.program.constants_bytes)
    lowered.fill_constants(block)
    block.flags.writeable = False
    return block


@cache
def fingerprint() -> str:
    """A digest of the compiler's own source, so that no cache outlives the code that filled it."""
    state = hashlib.sha256()
    for place in (Path(__file__), Path(str(backends.__file__)), Path(str(frontends.__file__))):
        for path in sorted(place.parent.rglob("*.py")):
            state.update(path.read_bytes())
    return state.hexdigest()
