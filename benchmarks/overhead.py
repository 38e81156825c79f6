"""What does Tilewright add to the kernels: for each operator of a chain, and for a Python call?

    python benchmarks/overhead.py [--seconds 2] [--json FILE]

Runs chains of tiny operators, each on the result of the one before, in turns with ONNX Runtime on
one thread. ``ns`` is the cost of one more link of the chain, its own work included: the time of
101 links less the time of 1, by 100. ``call`` is a whole Python call of the chain of one link,
whose work is nothing: an upper bound of what a call adds to its kernels. All are minima. The last
chain is one kernel, whatever its length; the others are a kernel for each link.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

import tilewright
from tilewright.peers import open_peer
from tilewright.runtime.program import CallKernel, walk_steps

LENGTH = 100
PEER = "onnxruntime"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a chain costs, in nanoseconds.

    Attributes:
        chain: its links.
        kernels: how many kernel calls one more link adds.
        link, peer_link: one more link, here and in ONNX Runtime.
        call, peer_call: a Python call of one link.
    """

    chain: str
    kernels: float
    link: float
    peer_link: float
    call: float
    peer_call: float


def model_of(nodes: Sequence[NodeProto], weights: Sequence[TensorProto], shape: list[int],
             last: str) -> ModelProto:  # fmt: skip
    """A model from x to the last value, both of one shape."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)
    graph: GraphProto = helper.make_graph(nodes, "chain", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def products(count: int, width: int) -> ModelProto:
    """Products of a row with a matrix, each with a ReLU behind it."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for i in range(count):
        w = (rng.standard_normal((width, width)) / width**0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(w, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"y{i}"]))
        last = f"y{i}"
    return model_of(nodes, weights, [1, width], last)


def sums(count: int, width: int) -> ModelProto:
    """Running sums, which are kernels of their own."""
    axis = numpy_helper.from_array(np.array(1, np.int64), "axis")
    names = ["x", *(f"y{i}" for i in range(count))]
    nodes = [helper.make_node("CumSum", [names[i], "axis"], [names[i + 1]]) for i in range(count)]
    return model_of(nodes, [axis], [1, width], names[-1])


def maps(count: int, width: int) -> ModelProto:
    """Multiplications and additions, which fuse."""
    part = numpy_helper.from_array(np.full((1, width), 0.5, np.float32), "part")
    nodes, last = [], "x"
    for i in range(count):
        nodes.append(helper.make_node("Mul", [last, "part"], [f"m{i}"]))
        nodes.append(helper.make_node("Sub", ["part", f"m{i}"], [f"y{i}"]))
        last = f"y{i}"
    return model_of(nodes, [part], [1, width], last)


CHAINS: dict[str, tuple[Callable[[int, int], ModelProto], int]] = {
    "[1,4] @ [4,4], relu": (products, 4),
    "[1,16] @ [16,16], relu": (products, 16),
    "cumulative sum of [1,4]": (sums, 4),
    "mul, sub of [1,16]": (maps, 16),
}


def least(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """The fewest nanoseconds of each call, all taking turns."""
    clock = time.perf_counter_ns
    found = [float("inf")] * len(calls)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for i, call in enumerate(calls):
            for _ in range(20):
                began = clock()
                call()
                found[i] = min(found[i], clock() - began)
    return found


def cost(name: str, seconds: float) -> Cost:
    """Measures a chain."""
    make, width = CHAINS[name]
    x = np.random.default_rng(1).random((1, width), dtype=np.float32)
    calls: list[Callable[[], object]] = []
    kernels = []
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        for count in (1, LENGTH + 1):
            path = Path(folder, f"{count}.onnx")
            path.write_bytes(make(count, width).SerializeToString())
            exe = tilewright.compile(path, cache=False, threads=1)
            peer = open_peer(PEER, path, 1)
            np.testing.assert_allclose(exe(x)[0], peer.run({"x": x})[0], rtol=1e-4, atol=1e-5)
            calls += [partial(exe, x), partial(peer.run, {"x": x})]
            kernels.append(sum(isinstance(s, CallKernel) for s in walk_steps(exe.program.steps)))
    one, peer_one, many, peer_many = least(calls, seconds)
    return Cost(
        name, (kernels[1] - kernels[0]) / LENGTH, (many - one) / LENGTH,
        (peer_many - peer_one) / LENGTH, one, peer_one,
    )  # fmt: skip


def main() -> None:
    """Prints a line for each chain."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="for each chain")
    parser.add_argument("--json", type=Path, help="file for all figures")
    chosen = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} CPUs")
    print(f"{'link':26} {'kernels':>7} {'ns':>7} {PEER:>12} {'call us':>8} {PEER:>12}")
    found = []
    for name in CHAINS:
        found.append(c := cost(name, chosen.seconds))
        print(
            f"{name:26} {c.kernels:7.2f} {c.link:7.1f} {c.peer_link:12.1f}"
            f" {c.call / 1e3:8.2f} {c.peer_call / 1e3:12.2f}",
            flush=True,
        )
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(c) for c in found], indent=1))


if __name__ == "__main__":
    main()
