"""A small compiled program that the runtime's tests call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.backends.backend import Unit
from tilewright.backends.cpu import BACKEND
from tilewright.dtype import DType
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.cache import Cache
from tilewright.runtime.executable import Executable
from tilewright.runtime.program import (
    ArenaStorage,
    CallKernel,
    ConstantStorage,
    InputStorage,
    OutputStorage,
    Program,
    Tensor,
    TensorSpec,
)
from tilewright.tensor.ir import Buffer, For, Func, Store, Var, symbol


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(Path(tmp_path_factory.mktemp("cache")), 1 << 24)


def make(dtype: DType, cache: Cache, threads: int = 1) -> Executable:
    """``y = (a + b) + w`` over [N, 2]: N is 1..64, w a constant [2]; ``flat`` (2 N) is copied."""
    n = symbol("N", 1, 64)
    i, j = Var("i"), Var("j")
    a, b, c = (Buffer(name, dtype, (n, 2)) for name in "abc")
    w = Buffer("w", dtype, (2,))

    def nest(value: Store) -> tuple[For, ...]:
        return (For(i, n, (For(j, 2, (value,)),), "parallel"),)

    add = Func("add", (a, b, c, n), nest(Store(c, (i, j), a[i, j] + b[i, j])))
    shift = Func("shift", (a, w, c, n), nest(Store(c, (i, j), a[i, j] + w[j])))
    shape = (n, 2)
    first = Tensor("a", dtype, shape, InputStorage(0))
    second = Tensor("b", dtype, shape, InputStorage(1))
    between = Tensor("t", dtype, shape, ArenaStorage(0))
    constant = Tensor("w", dtype, (2,), ConstantStorage(0))
    result = Tensor("y", dtype, shape, OutputStorage(0))
    program = Program(
        name="shift",
        inputs=(TensorSpec("a", dtype, shape), TensorSpec("b", dtype, shape)),
        outputs=(TensorSpec("y", dtype, shape), TensorSpec("z", dtype, shape)),
        symbols=(n,),
        steps=(
            CallKernel("add", (first, second, between, n)),
            CallKernel("shift", (between, constant, result, n)),
            CallKernel("add", (first, first, Tensor("z", dtype, shape, OutputStorage(1)), n)),
        ),
        arena_bytes=n * 16,
        constants_bytes=2 * dtype.bytes,
    )
    unit = Unit(program, (add, shift), BACKEND.resolve("x86-64-v2"))
    objects = BACKEND.compile(unit, cache)
    raw = np.zeros(256, np.uint8)
    start = -raw.ctypes.data % 64
    constants = raw[start : start + program.constants_bytes]
    constants.view(dtype.numpy)[:] = (10, 20)
    built = Artifact(program, unit.target, objects, constants, BACKEND.versions)
    stages = {name: lambda stage=stage: stage(unit) for name, stage in BACKEND.stages.items()}
    return Executable(built, BACKEND.load(unit.target, objects, cache, threads), stages)


@pytest.fixture(scope="session")
def compile_shift(cache: Cache) -> Callable[..., Executable]:
    return lambda dtype=dt.f32, threads=1: make(dtype, cache, threads)


@pytest.fixture(scope="session")
def shift(compile_shift: Callable[..., Executable]) -> Executable:
    return compile_shift()
