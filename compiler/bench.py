"""Measuring: interleaved timings, their statistics, floating-point operations, peak memory.

Contenders take turns in short blocks, so that what disturbs the machine disturbs them alike; a
ratio is the median over rounds of the ratio of two neighbouring blocks.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from tilewright.errors import InternalError
from tilewright.graph.ir import Graph, Node
from tilewright.tensor.ir import Dim
from tilewright.tensor.simplify import evaluate

_BLOCK_SECONDS = 0.05
_LEAST_ROUNDS = 5
_MOST_IN_BLOCK = 1000


@dataclass(frozen=True, slots=True)
class Timing:
    """The seconds of one contender's calls.

    Attributes:
        calls: all timed calls.
        blocks: the median of each block, one a round.
    """

    calls: tuple[float, ...]
    blocks: tuple[float, ...]

    @property
    def minimum(self) -> float:
        """The fastest call."""
        return min(self.calls)

    def percentile(self, percent: float) -> float:
        """The time that ``percent`` of the calls do not exceed."""
        return float(np.percentile(self.calls, percent, method="higher"))

    @property
    def median(self) -> float:
        """The middle of all calls."""
        return median(self.calls)


def interleave(contenders: Sequence[Callable[[], object]], seconds: float) -> list[Timing]:
    """Times contenders in turns.

    Each round gives every contender one block of calls: the first is not timed, since it finds
    caches and cores as the one before left them. The order is turned around every round.

    Args:
        contenders: what to call.
        seconds: how long to go on, for all together; at least five rounds are made.
    """
    counts = [_calls_in_block(c) for c in contenders]
    calls: list[list[float]] = [[] for _ in contenders]
    blocks: list[list[float]] = [[] for _ in contenders]
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < _LEAST_ROUNDS or time.perf_counter() < end:
        order = range(len(contenders))
        for i in order if rounds % 2 == 0 else reversed(order):
            block = _block(contenders[i], counts[i])
            calls[i] += block
            blocks[i].append(median(block))
        rounds += 1
    return [Timing(tuple(c), tuple(b)) for c, b in zip(calls, blocks, strict=True)]


def _calls_in_block(call: Callable[[], object]) -> int:
    call()
    once = min(_block(call, 2))
    return max(1, min(_MOST_IN_BLOCK, round(_BLOCK_SECONDS / max(once, 1e-9))))


def _block(call: Callable[[], object], count: int) -> list[float]:
    clock = time.perf_counter
    call()
    times = []
    for _ in range(count):
        began = clock()
        call()
        times.append(clock() - began)
    return times


def ratio(ours: Timing, theirs: Timing) -> float:
    """Our time over theirs, block by block: below 1, we are faster."""
    return median(a / b for a, b in zip(ours.blocks, theirs.blocks, strict=True))


# ------------------------------------------------------------------ operations


def count_flops(graph: Graph, sizes: Mapping[str, int]) -> int:
    """The multiplications and additions of a model's products and convolutions.

    Args:
        graph: as imported, before any rewriting: all compilers are counted alike.
        sizes: the value of every symbol.
    """
    total = 0
    pending: list[tuple[Graph, int]] = [(graph, 1)]
    while pending:
        body, times = pending.pop()
        for node in body.nodes:
            total += times * _node_flops(node, sizes)
            pending += [(b, times * n) for b, n in _bodies(node, sizes)]
    return total


def _node_flops(node: Node, sizes: Mapping[str, int]) -> int:
    if node.op not in ("matmul", "conv"):
        return 0
    outputs = _count(node.outputs[0].shape, sizes)
    operand = node.inputs[1].shape
    # matmul: b[..., K, N]; conv: w[*kernel, C / groups, O].
    summed = operand[-2:-1] if node.op == "matmul" else operand[:-1]
    return 2 * outputs * _count(summed, sizes)


def _bodies(node: Node, sizes: Mapping[str, int]) -> list[tuple[Graph, int]]:
    """The graphs inside a node, and how often each runs; of two branches, the first."""
    match node.op:
        case "if":
            body, times = node.attrs["then"], 1
        case "scan":
            carried = node.attrs["carried"]
            assert isinstance(carried, int)
            body = node.attrs["body"]
            times = _value(node.inputs[carried].shape[0], sizes) if node.attrs["scanned"] else 1
        case _:
            return []
    assert isinstance(body, Graph)
    return [(body, times)]


def _count(shape: Sequence[Dim], sizes: Mapping[str, int]) -> int:
    return math.prod(_value(d, sizes) for d in shape)


def _value(dim: Dim, sizes: Mapping[str, int]) -> int:
    return dim if isinstance(dim, int) else evaluate(dim, dict(sizes))


# ------------------------------------------------------------------ memory


def peak_memory(engine: str, model: Path, inputs: Path, threads: int) -> int:
    """The peak resident bytes of a fresh process that loads a model and runs it three times.

    Args:
        engine: ``tilewright`` (a ``.tw`` file, or an ONNX file that it compiles) or a peer.
        model: the file.
        inputs: an ``.npz`` file with the inputs by name.
        threads: of a call.
    """
    command = [
        sys.executable,
        "-m",
        "tilewright.footprint",
        engine,
        str(model),
        str(inputs),
        str(threads),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InternalError(f"{engine}: its process for measuring memory ended with {last}",
                            code="TW-E0932")  # fmt: skip
    return int(done.stdout)
