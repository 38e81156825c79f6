"""The pipeline between a graph and native code, step by step, each step's result kept as text.

Graph -> passes -> fused Graph -> lower -> Program + kernels -> emit -> objects
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tilewright.backends import find_runner
from tilewright.backends.backend import Backend, Unit
from tilewright.errors import Gap, UnsupportedError
from tilewright.graph.constants import forget_files, mapped_files
from tilewright.graph.ir import Graph, all_nodes
from tilewright.graph.passes import run_passes
from tilewright.graph.text import text as print_graph
from tilewright.lower.kernels import Answers, Decided, Kernel
from tilewright.lower.model import ConstantEntry, filling, lower_graph
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.buffer import aligned_bytes
from tilewright.runtime.cache import Cache
from tilewright.schedule.recipes.space import Space
from tilewright.stages import Log, uncollected
from tilewright.target import Target
from tilewright.tensor.ir import Func
from tilewright.tensor.text import text as func_text
from tilewright.version import __version__

CODE_BYTES = 32 << 20
"""More than what generates code takes at its end. While it works, constants are packed only as
long as so many bytes are to spare, so that both together never take more than constants alone."""


@dataclass(frozen=True)
class Built:
    """What compiling a graph made.

    Attributes:
        artifact: what runs.
        unit: the program and its kernels, as the backend got them.
        kernels: how each kernel came to be.
        seconds: by stage.
        decided: how each group came to its kernels.
    """

    artifact: Artifact
    unit: Unit
    kernels: tuple[Kernel, ...]
    seconds: Mapping[str, float]
    decided: tuple[Decided, ...] = ()


def build(
    graph: Graph,
    target: Target,
    backend: Backend,
    store: Cache,
    log: Log,
    math: str = "fast",
    answers: Answers | None = None,
) -> Built:
    """Compiles a graph for a target, with the math that options allow and the answers of records.

    Code is made of the first kernels while the last are not known yet. All of it comes before
    constants: what generates it takes memory that weights then have. They are let go one by one
    as they are packed: whoever calls should not hold them either.
    """
    with uncollected():
        files = mapped_files(graph.constants.values())
        with log.stage("passes"):
            graph = run_passes(graph, target, math=math)
        check_operators(graph, target, backend)
        # Weights that had to be rearranged were copied.
        forget_files(files)
        with backend.begin(target, store, log.objects) as work:

            def take(kernel: Func) -> None:
                with log.part("code"):
                    work.add(kernel)

            with log.stage("lower"):
                lowered = lower_graph(graph, target, math, answers, take)
            del graph
            forget_files(files)
            program, kernels = lowered.program, tuple(lowered.kernels.values())
            entries, decided = list(lowered.constants), lowered.decided
            del lowered
            unit = Unit(program, tuple(k.func for k in kernels), target)
            constants = aligned_bytes(program.constants_bytes)
            packing = pack_constants(entries, constants, store)
            with log.stage("code"):
                work.complete(unit)
                with log.part("constants"):
                    for spare in packing:
                        if spare < CODE_BYTES or work.is_done():
                            break
                objects = work.objects()
        backend.rest()
        with log.stage("constants"):
            for _ in packing:
                pass
            forget_files(files)
            constants.flags.writeable = False
    versions = {"tilewright": __version__, **backend.versions}
    made = Artifact(program, target, objects, constants, versions, {})
    return Built(made, unit, kernels, log.seconds, decided)


def check_operators(graph: Graph, target: Target, backend: Backend) -> None:
    """Returns if the backend has code for every operator of a graph.

    Raises:
        UnsupportedError: it lacks some; lists all of them (TW-E0201).
    """
    lacking: dict[str, list[str]] = {}
    for node in all_nodes(graph):
        if node.op in backend.lacks:
            lacking.setdefault(node.op, []).append(node.origin or node.op)
    if lacking:
        gaps = [
            Gap(f"{op} on {target.name}: {backend.lacks[op]}", tuple(nodes))
            for op, nodes in lacking.items()
        ]
        raise UnsupportedError(gaps, code="TW-E0201", model=graph.name)


def graph_text(stage: str, graph: Graph, target: Target, math: str = "fast") -> str:
    """The text of the graph as imported, or after all passes."""
    return print_graph(graph if stage == "graph" else run_passes(graph, target, math=math))


def kernel_text(stage: str, built: Built) -> str:
    """The text of one of the stages that every backend shares."""
    match stage:
        case "compute":
            return "\n\n".join(k.compute for k in built.kernels)
        case "space":
            return "\n\n".join(map(_space_text, built.decided)) or "nothing to choose"
        case "loops":
            return "\n\n".join(func_text(k.func) for k in built.kernels)
        case "schedule.json":
            found = {k.func.name: k.recording for k in built.kernels if k.recording is not None}
            lines = (f"{json.dumps(name)}: {r.json()}" for name, r in found.items())
            return "{" + ",\n".join(lines) + "}"
        case "schedule":
            return "\n\n".join(f"# {k.func.name}: {k.recipe}\n{k.steps}" for k in built.kernels)
    raise KeyError(stage)


def _space_text(decided: Decided) -> str:
    space = Space.of(decided.asked, decided.weighed)
    several = f" and {len(decided.kernels) - 1} more" if len(decided.kernels) > 1 else ""
    head = f"{decided.kernels[-1]}{several}: up to {space.size} schedules"
    return f"{head}\n{space}" if space.open else head


def pack_constants(entries: list[ConstantEntry], out: np.ndarray, store: Cache) -> Iterator[int]:
    """Packs constants one by one; before each, yields how many bytes are to spare."""

    def run(func: Func, arguments: Sequence[np.ndarray | int]) -> None:
        find_runner()(func, arguments, store)

    return filling(entries, out, run)
