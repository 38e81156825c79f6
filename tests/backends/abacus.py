"""A backend as a newcomer writes one: kernels are their own text, and NumPy runs them.

It follows the protocol in backends/backend.py, and knows nothing of any other backend.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import numpy as np

from tilewright.backends.backend import Progress, Unit, Work, begin_whole
from tilewright.errors import TargetError
from tilewright.runtime import text as program_text
from tilewright.runtime.cache import Cache
from tilewright.runtime.program import (
    ArenaStorage,
    CallKernel,
    ConstantStorage,
    CopyTensor,
    InputStorage,
    OutputStorage,
    Program,
    Tensor,
)
from tilewright.target import Target
from tilewright.tensor.interpret import interpret
from tilewright.tensor.ir import Buffer, Func
from tilewright.tensor.parse import parse_func
from tilewright.tensor.simplify import evaluate, product
from tilewright.tensor.text import text

TARGETS = {
    "abacus": Target("abacus", "abacus", "", "", "", (), 128, 16, False, 1 << 15, 1 << 20, 1 << 23)
}


class AbacusBackend:
    """Code for whatever runs NumPy (see the Backend protocol)."""

    name = "abacus"
    stages: Mapping[str, Callable[[Unit], str]] = {
        "beads": lambda unit: "\n".join(text(f) for f in unit.kernels)
    }
    lacks: Mapping[str, str] = {"topk": "beads are not sorted"}
    versions: Mapping[str, str] = {"numpy": np.__version__}

    def resolve(self, name: str) -> Target:
        if name not in TARGETS:
            raise TargetError(f"target {name!r}: there are {', '.join(TARGETS)}", code="TW-E0401")
        return TARGETS[name]

    def check(self, target: Target) -> None:
        """All machines have NumPy."""

    def compile(
        self, unit: Unit, cache: Cache, progress: Progress | None = None
    ) -> tuple[bytes, ...]:
        kernels = {f.name: text(f) for f in unit.kernels}
        return (json.dumps([program_text.text(unit.program), kernels]).encode(),)

    def begin(
        self, target: Target, cache: Cache, progress: Progress | None = None
    ) -> AbstractContextManager[Work]:
        return begin_whole(self, cache, progress)

    def rest(self) -> None:
        """Nothing was taken."""

    def load(
        self, target: Target, objects: tuple[bytes, ...], cache: Cache, threads: int | None
    ) -> AbacusEntry:
        program, kernels = json.loads(objects[0])
        funcs = {name: parse_func(source) for name, source in kernels.items()}
        return AbacusEntry(program_text.parse(program), funcs)


class AbacusEntry:
    """A loaded program (see ``runtime.executable.Entry``)."""

    context = 0
    threads = 1

    def __init__(self, program: Program, kernels: Mapping[str, Func]) -> None:
        self.program = program
        self.kernels = kernels
        self._callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(self._run)
        self.address = ctypes.cast(self._callback, ctypes.c_void_p).value or 0

    def close(self) -> None:
        """There is nothing to free."""

    def _run(self, frame: int) -> int:
        _, inputs, outputs, constants, arena, dims = (ctypes.c_uint64 * 6).from_address(frame)
        program = self.program
        sizes = (ctypes.c_int64 * len(program.symbols)).from_address(dims)
        env = {v.name: int(n) for v, n in zip(program.symbols, sizes, strict=True)}
        given = (ctypes.c_uint64 * len(program.inputs)).from_address(inputs)
        results = (ctypes.c_uint64 * len(program.outputs)).from_address(outputs)

        def array(t: Tensor) -> np.ndarray:
            match t.storage:
                case InputStorage(index=k):
                    address = given[k]
                case OutputStorage(index=k, offset=offset):
                    address = results[k] + offset
                case ConstantStorage(offset=offset):
                    address = constants + offset
                case ArenaStorage(offset=place):
                    address = arena + evaluate(place, env)
            shape = tuple(evaluate(d, env) for d in t.shape)
            count = evaluate(product(shape), env) * t.dtype.bytes
            data = (ctypes.c_uint8 * count).from_address(address)
            return np.ctypeslib.as_array(data).view(t.dtype.numpy).reshape(shape)

        for step in program.steps:
            match step:
                case CallKernel():
                    func = self.kernels[step.kernel]
                    memory, symbols = {}, {}
                    for p, a in zip(func.params, step.args, strict=True):
                        if isinstance(a, Tensor):
                            assert isinstance(p, Buffer)
                            shape = [evaluate(d, env) for d in p.shape]
                            memory[p.name] = array(a).reshape(shape)
                        else:
                            symbols[p.name] = evaluate(a, env)
                    interpret(func, memory, symbols)
                case CopyTensor():
                    array(step.dst)[...] = array(step.src)
                case _:
                    return 1
        return 0


BACKEND = AbacusBackend()
