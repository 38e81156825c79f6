"""Runs scheduled functions in every way there is without a GPU, and compares them with NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tilewright.backends.cuda.host import HostKernels, host_compiler
from tilewright.backends.cuda.host.execute import ORDERS
from tilewright.backends.cuda.ptx import emit_ptx
from tilewright.backends.cuda.simulator import Counters, Simulator
from tilewright.backends.cuda.target import resolve_cuda
from tilewright.backends.cuda.threads import launch_of
from tilewright.lower.merge import merge_axes
from tilewright.lower.nests import to_func
from tilewright.schedule.recipes import schedule
from tilewright.tensor.check import check
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.interpret import interpret, interpret_group
from tilewright.tensor.ir import Buffer, Func
from tilewright.tensor.simplify import evaluate

SM80 = resolve_cuda("cuda:sm_80")
Arrays = dict[str, np.ndarray]


def shape_of(b: Buffer, dims: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(evaluate(d, dims) for d in b.shape)


def simulate(func: Func, given: Arrays, dims: Mapping[str, int]) -> Arrays:
    """What the PTX of a function leaves in the buffers that are not given."""
    return profile(func, given, dims)[0]


def profile(func: Func, given: Arrays, dims: Mapping[str, int]) -> tuple[Arrays, Counters]:
    """What the PTX of a function computes, and what that took."""
    simulator = Simulator()
    module = simulator.load(emit_ptx([func], SM80))
    launch = launch_of(func)
    args, results = [], {}
    for p in func.params:
        if not isinstance(p, Buffer):
            args.append(dims[p.name])
            continue
        if p.name in given:
            args.append(simulator.place(given[p.name]))
            continue
        count = int(np.prod(shape_of(p, dims)))
        args.append(simulator.allocate(count * p.dtype.bytes, p.name))
        results[p.name] = (args[-1], p)
    grid = tuple(evaluate(d, dims) for d in launch.grid)
    counters = simulator.launch(module.kernel(func.name), grid, (*launch.block, 1), args)
    outputs = {
        name: simulator.copy_out(at, shape_of(p, dims), p.dtype.numpy)
        for name, (at, p) in results.items()
    }
    return outputs, counters


def on_host(func: Func, given: Arrays, dims: Mapping[str, int]) -> list[Arrays]:
    """What its CUDA C++ leaves there, with threads in every order."""
    kernels = HostKernels([func])
    grid = [evaluate(d, dims) for d in launch_of(func).grid]
    results = []
    for order in ORDERS:
        memory = arrays(func, given, dims)
        kernels.launch(func.name, memory, dims, grid, order)
        results.append({n: a for n, a in memory.items() if n not in given})
    return results


def arrays(func: Func, given: Arrays, dims: Mapping[str, int]) -> Arrays:
    """An array for every buffer: what is given, zeros else."""
    return {
        p.name: np.ascontiguousarray(given[p.name].reshape(shape_of(p, dims)))
        if p.name in given
        else np.zeros(shape_of(p, dims), p.dtype.numpy)
        for p in func.params
        if isinstance(p, Buffer)
    }


def interpreted(func: Func, given: Arrays, dims: Mapping[str, int]) -> Arrays:
    """What the interpreter of the tensor IR leaves there."""
    memory = arrays(func, given, dims)
    interpret(func, memory, dict(dims))
    return {n: a for n, a in memory.items() if n not in given}


def random_inputs(group: ComputeGroup, dims: Mapping[str, int]) -> Arrays:
    rng = np.random.default_rng(0)
    return {
        b.name: rng.standard_normal(shape_of(b, dims)).astype(b.dtype.numpy) for b in group.inputs
    }


def scheduled(group: ComputeGroup) -> Func:
    """The function that the recipes make of a group, well-formed."""
    func = schedule(to_func(merge_axes(group)), SM80).func
    check(func)
    return func


def assert_simulated_equals_group(
    group: ComputeGroup,
    *,
    tolerance: float = 2e-5,
    given: Arrays | None = None,
    host: bool = True,
    **dims: int,
) -> Counters:
    """Holds the simulator and the host compiler to the group's meaning; returns what it took.

    Args:
        host: whether to run CUDA C++ too.
    """
    func = scheduled(group)
    given = given or random_inputs(group, dims)
    expected = interpret_group(group, given, dims)
    got, counters = profile(func, given, dims)
    results = [got]
    if host and host_compiler() is not None:
        results += on_host(func, given, dims)
    for result in results:
        for name, values in result.items():
            want = np.asarray(expected[name]).ravel()
            np.testing.assert_allclose(values.ravel(), want, rtol=tolerance, atol=tolerance)
    return counters


def in_turn(funcs: Sequence[Func], given: Arrays, results: Sequence[Buffer]) -> list[Arrays]:
    """What kernels of constant sizes leave that follow each other: simulated, and on the host.

    Args:
        results: the buffers that they fill.
    """
    simulator = Simulator()
    module = simulator.load(emit_ptx(funcs, SM80))
    places = {n: simulator.place(a) for n, a in given.items()}
    for b in results:
        places[b.name] = simulator.allocate(int(np.prod(shape_of(b, {}))) * b.dtype.bytes, b.name)
    for f in funcs:
        launch = launch_of(f)
        args = [places[p.name] for p in f.params]
        grid = tuple(evaluate(d, {}) for d in launch.grid)
        simulator.launch(module.kernel(f.name), grid, (*launch.block, 1), args)
    found = [
        {
            b.name: simulator.copy_out(places[b.name], shape_of(b, {}), b.dtype.numpy)
            for b in results
        }
    ]
    if host_compiler() is None:
        return found
    kernels = HostKernels(funcs)
    for order in ORDERS:
        memory = {n: np.ascontiguousarray(a) for n, a in given.items()}
        memory |= {b.name: np.zeros(shape_of(b, {}), b.dtype.numpy) for b in results}
        for f in funcs:
            sizes = [evaluate(d, {}) for d in launch_of(f).grid]
            kernels.launch(f.name, memory, {}, sizes, order)
        found.append({b.name: memory[b.name] for b in results})
    return found
