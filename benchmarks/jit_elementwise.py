"""How fast are fused NumPy functions? Compares tw.jit with NumPy and with what else compiles them.

    python benchmarks/jit_elementwise.py [--only polynomial,gelu] [--sizes 1e3,1e6] [--seconds 2]

Peers are torch.compile (Inductor), JAX, Numba and numexpr, each where it is installed and knows
the expression. All compute on arrays of their own kind that are there already, and make a new
result. ``us`` is the median of our calls, ``GB/s`` the bytes of inputs and result by that time;
then for each peer its time over ours: the median over blocks of calls taken in turns, and in
parentheses the ratio of the best calls. Above 1, we are faster. ``copy`` is one thread's pass over
memory that is there: it reads and writes as many bytes as the inputs have.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

import tilewright as tw
from tilewright.benchmarking.measure import Timing, interleave, ratio

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Expression:
    """Something to compute.

    Attributes:
        make: from a module with NumPy's names to a function of arrays.
        text: the same for numexpr, if it can say it.
        inputs: from a number of elements in the result to the arguments.
    """

    make: Callable[[Any], Function]
    inputs: Callable[[int], tuple[np.ndarray, ...]]
    text: str = ""


def square(size: int) -> tuple[np.ndarray, ...]:
    side = max(2, round(size**0.5))
    return (np.random.default_rng(0).standard_normal((side, side), dtype=np.float32),)


def positive(size: int) -> tuple[np.ndarray, ...]:
    return tuple(np.abs(x) for x in square(size))


def points(size: int) -> tuple[np.ndarray, ...]:
    count = max(2, round(size**0.5))
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal((count, 8), dtype=np.float32) for _ in range(2))


def polynomial(_: Any) -> Function:
    return lambda x: x + x**2 + x**3


def gelu(xp: Any) -> Function:
    return lambda x: 0.5 * x * (1 + xp.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def branches(xp: Any) -> Function:
    return lambda x: xp.where(x > 0.5, x * 2, xp.where(x < -0.5, x - 1, x * x))


def softmax(xp: Any) -> Function:
    def function(x: Any) -> Any:
        e = xp.exp(x - xp.amax(x, 1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    return function


def normalised(xp: Any) -> Function:
    def function(x: Any) -> Any:
        centred = x - x.mean(1, keepdims=True)
        return centred / xp.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)

    return function


def norms(xp: Any) -> Function:
    return lambda x: xp.sqrt((x * x).sum(1))


def distances(xp: Any) -> Function:
    return lambda x, y: xp.sqrt(((x[:, None, :] - y[None, :, :]) ** 2).sum(-1))


EXPRESSIONS: Mapping[str, Expression] = {
    "polynomial": Expression(polynomial, square, "a0 + a0**2 + a0**3"),
    # NumPy's power takes a hundred times longer where bases are negative.
    "positive": Expression(polynomial, positive, "a0 + a0**2 + a0**3"),
    "gelu": Expression(
        gelu, square, "0.5 * a0 * (1 + tanh(0.7978845608 * (a0 + 0.044715 * a0**3)))"
    ),
    "branches": Expression(
        branches, square, "where(a0 > 0.5, a0 * 2, where(a0 < -0.5, a0 - 1, a0 * a0))"
    ),
    "softmax": Expression(softmax, square),
    "normalised": Expression(normalised, square),
    "norms": Expression(norms, square),
    "distances": Expression(distances, points),
}

Contender = Callable[[], Any]
Peer = Callable[[ModuleType, Expression, Sequence[np.ndarray], int], Contender]


def in_numpy(_: ModuleType, e: Expression, inputs: Sequence[np.ndarray], threads: int) -> Contender:
    function = e.make(np)
    return lambda: function(*inputs)


def in_torch(
    torch: Any, e: Expression, inputs: Sequence[np.ndarray], threads: int
) -> Contender:  # fmt: skip
    torch.set_num_threads(threads)
    compiled = torch.compile(e.make(torch), dynamic=False)
    tensors = [torch.from_numpy(x) for x in inputs]
    with torch.no_grad():
        compiled(*tensors)
    return lambda: compiled(*tensors)


def in_jax(
    jax: Any, e: Expression, inputs: Sequence[np.ndarray], threads: int
) -> Contender:  # fmt: skip
    compiled = jax.jit(e.make(import_module("jax.numpy")))
    arrays = [jax.device_put(x) for x in inputs]
    return lambda: compiled(*arrays).block_until_ready()


def in_numba(
    numba: Any, e: Expression, inputs: Sequence[np.ndarray], threads: int
) -> Contender:  # fmt: skip
    numba.set_num_threads(threads)
    compiled = numba.njit(parallel=True)(e.make(np))
    compiled(*inputs)
    return lambda: compiled(*inputs)


def in_numexpr(
    numexpr: Any, e: Expression, inputs: Sequence[np.ndarray], threads: int
) -> Contender:  # fmt: skip
    if not e.text:
        raise NotImplementedError
    numexpr.set_num_threads(threads)
    named = {f"a{i}": x for i, x in enumerate(inputs)}
    return lambda: numexpr.evaluate(e.text, named)


PEERS: Mapping[str, Peer] = {
    "numpy": in_numpy, "torch": in_torch, "jax": in_jax, "numba": in_numba, "numexpr": in_numexpr,
}  # fmt: skip


def installed(only: Sequence[str]) -> dict[str, ModuleType]:
    """The peers' modules, of those that are there."""
    found = {}
    for name in PEERS:
        if only and name not in only:
            continue
        try:
            found[name] = import_module(name)
        except ImportError:
            print(f"{name} is not installed")
    return found


def contender(
    name: str, module: ModuleType, e: Expression, inputs: Sequence[np.ndarray], threads: int
) -> Contender | None:
    """A peer's compiled function; None where it does not know the expression."""
    try:
        call = PEERS[name](module, e, inputs, threads)
        wanted = e.make(np)(*inputs)
        np.testing.assert_allclose(np.asarray(call()), wanted, rtol=1e-3, atol=1e-4)
    except Exception as error:  # whatever a peer says, it does not run this one
        if not isinstance(error, NotImplementedError):
            print(f"  {name}: {type(error).__name__}")
        return None
    return call


def shown(theirs: Timing | None, ours: Timing) -> str:
    if theirs is None:
        return f"{'-':>15}"
    best = f"({theirs.minimum / ours.minimum:.2f})"
    return f"{1 / ratio(ours, theirs):8.2f}{best:>7}"


def measure(
    name: str,
    jitted: Callable[..., Any],
    size: int,
    modules: Mapping[str, ModuleType],
    given: argparse.Namespace,
) -> None:
    """Prints one line."""
    e = EXPRESSIONS[name]
    inputs = e.inputs(size)
    wanted = e.make(np)(*inputs)
    np.testing.assert_allclose(jitted(*inputs), wanted, rtol=1e-3, atol=1e-4)
    calls = {n: contender(n, m, e, inputs, given.threads) for n, m in modules.items()}
    there = {n: c for n, c in calls.items() if c is not None}
    copies = [(np.empty_like(x), x) for x in inputs]

    def copy() -> None:
        for to, x in copies:
            np.copyto(to, x)

    ours, copied, *theirs = interleave(
        [lambda: jitted(*inputs), copy, *there.values()], given.seconds
    )
    timings = dict(zip(there, theirs, strict=True))
    rate = (sum(x.nbytes for x in inputs) + wanted.nbytes) / ours.median / 1e9
    peers = "".join(shown(timings.get(p), ours) for p in modules)
    start = f"{name:14}{size:8.0e}{ours.median * 1e6:9.1f}{rate:7.1f}"
    print(f"{start}{shown(copied, ours)}{peers}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(EXPRESSIONS), help="which expressions")
    parser.add_argument("--sizes", default="1e3,1e4,1e5,1e6,1e7", help="elements of the result")
    parser.add_argument("--peers", default="", help="which peers; by default all there are")
    parser.add_argument("--seconds", type=float, default=2.0, help="of measurement for each line")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    modules = installed([p for p in given.peers.split(",") if p])
    print(f"{'':22}{'us':>9}{'GB/s':>7}{'copy':>15}" + "".join(f"{p:>15}" for p in modules))
    for name in given.only.split(","):
        jitted = tw.jit(EXPRESSIONS[name].make(np), threads=given.threads)
        for size in given.sizes.split(","):
            measure(name, jitted, round(float(size)), modules, given)
        print(f"{name}: compiled {jitted.compiles} times")


if __name__ == "__main__":
    main()
