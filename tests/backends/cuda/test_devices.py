"""Kernels of every kind by way of a Device: the simulator, and a GPU where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from tests.schedule.groups import add, attention, conv, matmul, softmax, transpose
from tilewright import dtype as dt
from tilewright.backends.cuda.device import Device
from tilewright.backends.cuda.driver import open_gpu
from tilewright.backends.cuda.ptx import emit_ptx
from tilewright.backends.cuda.simulated import SimulatedDevice
from tilewright.backends.cuda.target import resolve_cuda
from tilewright.backends.cuda.threads import launch_of
from tilewright.lower.merge import merge_axes
from tilewright.lower.nests import to_func
from tilewright.schedule.recipes import schedule
from tilewright.target import Target
from tilewright.tensor.interpret import interpret_group
from tilewright.tensor.ir import Buffer, Func, symbol
from tilewright.tensor.simplify import evaluate

from .executors import Arrays, random_inputs, shape_of
from .gpus import TARGETS, available
from .test_attention import causal
from .test_rows import norm
from .test_tensor_cores import half_conv, halves

N = symbol("N")
SIZE = 75
GROUPS = {
    "elements": add(33, 40),
    "a transpose": transpose(65, 70),
    "short rows": softmax(7, 33),
    "long rows": softmax(3, 5000),
    "norms": norm(9, 256),
    "tiles": matmul(70, 50, 100),
    "tiles copied ahead": matmul(70, 96, 104),
    "any number of rows": matmul(N, 36, 65),
    "a convolution": conv(14, 16, 32, 3, 1, 1),
    "products of f16": halves(70, 200, 104),
    "products of bf16": halves(40, 72, 40, dt.bf16),
    "a convolution of f16": half_conv(12, 16, 24, 3, 1, 1),
    "attention": causal(2, 20, 40, 16, 32),
    "attention to any number of keys": attention(2, 20, N, 8, 16),
    "attention of one row": attention(3, 1, N, 8, 16),
}


def opened(name: str) -> tuple[Device, Target]:
    """The device for a target; skips the test where there is none."""
    target = resolve_cuda(available(name))
    return (open_gpu(target) if target.backend == "cuda" else SimulatedDevice()), target


def run_on(device: Device, func: Func, target: Target, given: Arrays) -> Arrays:
    """What a kernel leaves in the buffers that are not given."""
    dims = {"N": SIZE}
    module = device.load(emit_ptx([func], target))
    args, results = [], {}
    for p in func.params:
        if not isinstance(p, Buffer):
            args.append(dims[p.name])
            continue
        shape = shape_of(p, dims)
        args.append(device.allocate(int(np.prod(shape)) * p.dtype.bytes))
        if p.name in given:
            device.copy_in(args[-1], given[p.name])
        else:
            results[p.name] = args[-1], np.empty(shape, p.dtype.numpy)
    launch = launch_of(func)
    x, y, z = (evaluate(d, dims) for d in launch.grid)
    device.launch(module, func.name, (x, y, z), launch.block, args)
    for address, data in results.values():
        device.copy_out(address, data)
    for a, p in zip(args, func.params, strict=True):
        if isinstance(p, Buffer):
            device.free(a)
    return {name: data for name, (_, data) in results.items()}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kind", GROUPS)
def test_a_kernel_computes_the_reference(kind: str, name: str) -> None:
    device, target = opened(name)
    group = GROUPS[kind]
    given = random_inputs(group, {"N": SIZE})
    func = schedule(to_func(merge_axes(group)), target).func
    got = run_on(device, func, target, given)
    (y,) = group.outputs
    want = np.asarray(interpret_group(group, given, {"N": SIZE})[y.name]).astype(np.float64)
    # Matrix units add up in f32 in their own order, and may cut where others round.
    tolerance = {"f32": 2e-5, "f16": 2e-3, "bf16": 2e-2}[y.dtype.name]
    have = got[y.name].astype(np.float64).reshape(want.shape)
    np.testing.assert_allclose(have, want, rtol=tolerance, atol=tolerance * np.abs(want).max())
