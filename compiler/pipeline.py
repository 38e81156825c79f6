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

from tilewright.backends import load_backend
from tilewright.backends.backend import Backend
from tilewright.graph import text as graph_text
from tilewright.graph.ir import Graph
from tilewright.graph.passes import run_passes
from tilewright.lower.model import Lowered, lower_graph
from tilewright.options import Options
from tilewright.runtime import text as program_text
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.buffer import aligned_bytes
from tilewright.runtime.cache import Cache, digest_key
from tilewright.target import Target
from tilewright.tensor.text import text as func_text

Progress = Callable[[str], None]


@dataclass
class Log:
    """Seconds by stage, told to whoever wants to show progress."""

    progress: Progress | None = None
    seconds: dict[str, float] = field(default_factory=dict)

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
    """Everything that compiling a graph made.

    Attributes:
        graph, fused: as imported, and after all passes.
        lowered: the program and its kernels.
        code: LLVM IR (or another backend's source) by module name.
        artifact: what runs.
        seconds: by stage.
    """

    graph: Graph
    fused: Graph
    lowered: Lowered
    code: Mapping[str, str]
    artifact: Artifact
    seconds: Mapping[str, float]

    def text(self, stage: str, backend: Backend) -> str:
        """The text of one stage."""
        kernels = self.lowered.kernels.values()
        match stage:
            case "graph":
                return graph_text.text(self.graph)
            case "passes":
                return graph_text.text(self.fused)
            case "compute":
                return "\n\n".join(k.compute for k in kernels)
            case "loops":
                return "\n\n".join(func_text(k.func) for k in kernels)
            case "schedule":
                return "\n\n".join(
                    f"# {k.func.name}: {k.recipe}\n{k.steps}" for k in kernels
                )
            case "program":
                return program_text.text(self.lowered.program)
            case "llvm":
                return "\n".join(self.code.values())
        return backend.text(stage, self.code, self.artifact.target)


STAGES = ("graph", "passes", "compute", "loops", "schedule", "program", "llvm", "asm")


def build(graph: Graph, options: Options, store: Cache, log: Log) -> Built:
    """Compiles a graph for the target of the options."""
    backend = load_backend(options.target)
    target = backend.resolve(options.target)
    with log.stage("passes"):
        fused = run_passes(graph, target)
    with log.stage("lower"):
        lowered = lower_graph(fused, target)
    with log.stage("emit"):
        code = backend.emit(
            lowered.program, [k.func for k in lowered.kernels.values()], target
        )
    with log.stage("code"):
        objects = tuple(_object(backend, text, target, store) for text in code.values())
    with log.stage("constants"):
        constants = constants_of(lowered)
    made = Artifact(lowered.program, target, objects, constants, backend.versions(), {})
    return Built(graph, fused, lowered, code, made, log.seconds)


def constants_of(lowered: Lowered) -> np.ndarray:
    """The program's constants, packed, read-only, in one aligned block."""
    block = aligned_bytes(lowered.program.constants_bytes)
    lowered.fill_constants(block)
    block.flags.writeable = False
    return block


def _object(backend: Backend, text: str, target: Target, store: Cache) -> bytes:
    key = digest_key(
        "object",
        text,
        target.triple,
        target.cpu,
        target.features,
        repr(backend.versions()),
    )
    found = store.get(key)
    if found is None:
        found = backend.compile(text, target)
        store.put(key, found)
    return found


@cache
def fingerprint() -> str:
    """A digest of the compiler's own source, so that no cache outlives the code that filled it."""
    state = hashlib.sha256()
    root = Path(__file__).parent
    places = {root}
    for package in ("frontends", "backends"):
        module = __import__(f"tilewright.{package}", fromlist=["__file__"])
        places.add(Path(str(module.__file__)).parent)
    for place in sorted(places):
        for path in sorted(place.rglob("*.py")):
            state.update(path.read_bytes())
    return state.hexdigest()
