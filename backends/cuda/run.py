"""Runs a program on a device, step by step: the host's side of a model."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tilewright.runtime.program import (
    ArenaStorage,
    CallKernel,
    ConstantStorage,
    CopyTensor,
    IfStep,
    InputStorage,
    LetElement,
    LoopStep,
    OutputStorage,
    Program,
    Step,
    Tensor,
    walk_steps,
)
from tilewright.tensor.ir import Dim
from tilewright.tensor.simplify import evaluate, product

from .device import Device
from .launches import Launching, check_grid

RAISED = -100
"""The status of a call that ended with an exception, which the entry holds."""
_FRAME = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


class DeviceEntry:
    """A loaded program for a device (see ``runtime.executable.Entry``).

    Inputs, constants and outputs live in the caller's memory; each call copies inputs to the
    device and outputs back. Constants are copied once.

    Args:
        program: what to run.
        launches: how every kernel is launched, by name.
        ptx: the module of all kernels.
        device: where.
        watch: told of each launch, just after it: the kernel and the bytes of its tensors.
    """

    def __init__(
        self,
        program: Program,
        launches: Mapping[str, Launching],
        ptx: str,
        device: Device,
        watch: Callable[[str, int], None] | None = None,
    ) -> None:
        self.program = program
        self.device = device
        self.failure: BaseException | None = None
        self.context = 0
        self.threads = 1
        self.watch = watch
        self._launches = launches
        self._module = device.load(ptx)
        self._constants: int | None = None
        self._lets = [s for s in walk_steps(program.steps) if isinstance(s, LetElement)]
        self._callback = _FRAME(self._enter)
        self.address = ctypes.cast(self._callback, ctypes.c_void_p).value or 0

    def close(self) -> None:
        """Frees what the device holds for the program."""
        if self._constants is not None:
            self.device.free(self._constants)
            self._constants = None

    def _enter(self, frame: int) -> int:
        try:
            return _Call(self, frame).run()
        except BaseException as error:
            self.failure = error
            return RAISED

    def constants(self, address: int) -> int:
        """Where the constants are on the device."""
        if self._constants is None:
            count = self.program.constants_bytes
            self._constants = self.device.allocate(max(1, count))
            if count:
                self.device.copy_in(self._constants, _host(address, count))
        return self._constants

    def let_number(self, step: LetElement) -> int:
        """The status that says that this step read a value out of range."""
        return next(k for k, s in enumerate(self._lets, 1) if s is step)

    def launch(self, kernel: str, args: Sequence[int]) -> bool:
        """Launches a kernel on a grid of the sizes at hand; an empty one is nothing to do.

        Returns:
            Whether there was something to do.
        """
        how = self._launches[kernel]
        grid = how.blocks(args)
        if 0 in grid:
            return False
        check_grid(kernel, grid)
        self.device.launch(self._module, kernel, grid, how.block, args)
        return True


class _OutOfRangeError(Exception):
    """A size that the model computes is outside its range."""

    def __init__(self, status: int) -> None:
        self.status = status


def _host(address: int, nbytes: int) -> np.ndarray:
    """The caller's memory as bytes."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


class _Call:
    """One call: the sizes, and where everything is on the device."""

    def __init__(self, entry: DeviceEntry, frame: int) -> None:
        self.entry = entry
        program = entry.program
        _, inputs, outputs, constants, _, dims = (ctypes.c_uint64 * 6).from_address(frame)
        values = (ctypes.c_int64 * len(program.symbols)).from_address(dims)
        self.env = {v.name: int(n) for v, n in zip(program.symbols, values, strict=True)}
        self.host_inputs = (ctypes.c_uint64 * len(program.inputs)).from_address(inputs)
        self.host_outputs = (ctypes.c_uint64 * len(program.outputs)).from_address(outputs)
        self.host_constants = constants

    def run(self) -> int:
        """Copies in, runs the steps, copies out."""
        entry, device, program = self.entry, self.entry.device, self.entry.program
        held: list[int] = []

        def place(nbytes: int) -> int:
            held.append(device.allocate(max(1, nbytes)))
            return held[-1]

        try:
            self.constants = entry.constants(self.host_constants)
            self.inputs = []
            for spec, source in zip(program.inputs, self.host_inputs, strict=True):
                size = self._bytes(spec.shape, spec.dtype.bytes)
                self.inputs.append(place(size))
                if size:
                    device.copy_in(self.inputs[-1], _host(source, size))
            sizes = [self._bytes(s.shape, s.dtype.bytes) for s in program.outputs]
            self.outputs = [place(n) for n in sizes]
            self.arena = place(evaluate(program.arena_bytes, self.env))
            self._block(program.steps)
            for address, target, size in zip(self.outputs, self.host_outputs, sizes, strict=True):
                if size:
                    device.copy_out(address, _host(target, size))
        except _OutOfRangeError as error:
            return error.status
        finally:
            for address in held:
                device.free(address)
        return 0

    def _bytes(self, shape: tuple[Dim, ...], each: int) -> int:
        return evaluate(product(shape), self.env) * each

    def _at(self, t: Tensor) -> int:
        match t.storage:
            case InputStorage(index=index):
                return self.inputs[index]
            case OutputStorage(index=index, offset=offset):
                return self.outputs[index] + offset
            case ConstantStorage(offset=offset):
                return self.constants + offset
            case ArenaStorage(offset=offset):
                return self.arena + evaluate(offset, self.env)

    def _read(self, t: Tensor, index: int, dtype: Any) -> Any:
        data = np.empty(1, dtype)
        self.entry.device.copy_out(self._at(t) + index * data.itemsize, data)
        return data[0]

    def _block(self, steps: tuple[Step, ...]) -> None:
        for step in steps:
            match step:
                case CallKernel():
                    args = [
                        self._at(a) if isinstance(a, Tensor) else evaluate(a, self.env)
                        for a in step.args
                    ]
                    launched = self.entry.launch(step.kernel, args)
                    if launched and self.entry.watch is not None:
                        tensors = {a for a in step.args if isinstance(a, Tensor)}
                        size = sum(self._bytes(t.shape, t.dtype.bytes) for t in tensors)
                        self.entry.watch(step.kernel, size)
                case CopyTensor():
                    size = self._bytes(step.src.shape, step.src.dtype.bytes)
                    if size:
                        self.entry.device.copy(self._at(step.dst), self._at(step.src), size)
                case LetElement():
                    value = int(self._read(step.tensor, step.index, np.int64))
                    low, high = step.var.lo, step.var.hi
                    if (low is not None and value < low) or (high is not None and value > high):
                        raise _OutOfRangeError(self.entry.let_number(step))
                    self.env[step.var.name] = value
                case IfStep():
                    chosen = step.then if self._read(step.cond, 0, np.uint8) else step.orelse
                    self._block(chosen)
                case LoopStep():
                    for k in range(evaluate(step.trip, self.env)):
                        self.env[step.var.name] = k
                        self._block(step.body)
