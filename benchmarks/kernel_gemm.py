"""How fast is a product that a user schedules by hand? Compares it with ONNX Runtime and NumPy.

    python benchmarks/kernel_gemm.py [--sizes 512,1024] [--threads 1,2] [--seconds 10]

Both operands are activations: each call finds them as they lie, and nothing is packed before it.
``by hand`` is the schedule of the README, ``recipes`` the same kernel as the compiler schedules it
for these sizes. ``GFLOP/s`` is of the fastest call; then for each peer its time over ours: the
median over blocks of calls taken in turns, and in parentheses the ratio of the fastest calls. Above
1, the schedule by hand is faster. Each number of threads is a process of its own that may use as
many CPUs, by which NumPy's OpenBLAS goes.
"""

# Type checkers and linters take the dims in the annotations of kernels for types.
# mypy: disable-error-code="index, name-defined, no-untyped-def, valid-type"
# ruff: noqa: F821, N803, UP037

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from onnx import TensorProto, helper

import tilewright as tw
from tilewright.benchmarking.measure import Timing, interleave, ratio


@tw.kernel
def gemm(A: tw.f32["M", "K"], B: tw.f32["K", "N"]):
    return tw.compute(lambda i, j: tw.sum(lambda k: A[i, k] * B[k, j]))


def by_hand(size: int, threads: int) -> Callable[..., Any]:
    s = gemm.schedule(M=size, K=size, N=size, threads=threads)
    s.split("i", 4, "i0", "i1", "shift").split("j", 64, "j0", "j1", "shift")
    s.reorder("j0", "i0", "i1", "j1").compute_at("acc", "i0").set_scope("acc", "register")
    s.reorder("k", "acc_i", "acc_j").unroll("acc_init_i", "acc_i", "i1")
    s.vectorize("acc_init_j", "acc_j", "j1").pack("B", "j0", "panel").parallel("j0")
    return s.build()


def by_recipes(size: int, threads: int) -> Callable[..., Any]:
    return tw.compile(gemm.graph(M=size, K=size, N=size), threads=threads)


def in_onnxruntime(size: int, threads: int) -> Callable[..., Any]:
    runtime = import_module("onnxruntime")
    square = [size, size]
    a, b, c = (helper.make_tensor_value_info(n, TensorProto.FLOAT, square) for n in "ABC")
    graph = helper.make_graph([helper.make_node("MatMul", ["A", "B"], ["C"])], "gemm", [a, b], [c])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda a, b: session.run(None, {"A": a, "B": b})[0]


def shown(theirs: Timing, ours: Timing) -> str:
    best = f"({theirs.minimum / ours.minimum:.2f})"
    return f"{1 / ratio(ours, theirs):8.2f}{best:>7}"


def measure(size: int, threads: int, seconds: float) -> None:
    """Prints one line."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    made = [by_hand(size, threads), by_recipes(size, threads), in_onnxruntime(size, threads)]
    wanted = a.astype(np.float64) @ b
    for call in made:
        found = call(a, b)
        found = found[0] if isinstance(found, tuple) else found
        np.testing.assert_allclose(found, wanted, atol=1e-5 * size)
    calls = [lambda call=call: call(a, b) for call in made]
    ours, recipes, onnxruntime, numpy = interleave([*calls, lambda: a @ b], seconds)
    rate = 2 * size**3 / ours.minimum / 1e9
    peers = "".join(shown(x, ours) for x in (recipes, onnxruntime, numpy))
    print(f"{size:6}{threads:9}{rate:10.1f}{peers}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="512,1024", help="rows, columns and sums")
    parser.add_argument("--threads", default="1,2", help="how many threads a call may use")
    parser.add_argument("--seconds", type=float, default=10.0, help="of measurement for each line")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        for size in given.sizes.split(","):
            measure(int(size), int(given.threads), given.seconds)
        return
    names = "".join(f"{n:>15}" for n in ("recipes", "onnxruntime", "numpy"))
    print(f"{'size':>6}{'threads':>9}{'GFLOP/s':>10}{names}", flush=True)
    cpus = sorted(os.sched_getaffinity(0))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    for threads in map(int, given.threads.split(",")):
        os.sched_setaffinity(0, cpus[:threads])
        options = ["--measure", "--sizes", given.sizes, "--threads", str(threads)]
        subprocess.run(
            [sys.executable, __file__, *options, "--seconds", str(given.seconds)],
            env=environment,
            check=True,
        )


if __name__ == "__main__":
    main()
