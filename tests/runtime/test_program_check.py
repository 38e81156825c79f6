"""What makes a program well formed, one claim at a time."""

from __future__ import annotations

import pytest

from tilewright import dtype as dt
from tilewright.errors import InternalError
from tilewright.runtime.check import check
from tilewright.runtime.executable import Executable
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
    Storage,
    Tensor,
    TensorSpec,
)
from tilewright.tensor.ir import Dim, Var, symbol

N = symbol("N", 1, 8)
I = Var("i")  # noqa: E741
K = Var("K", dt.i64, 0, 4)


def tensor(storage: Storage, shape: tuple[Dim, ...] = (N,), dtype: dt.DType = dt.f32) -> Tensor:
    return Tensor("t", dtype, shape, storage)


X, Y = tensor(InputStorage(0)), tensor(OutputStorage(0))


def program(*steps: Step) -> Program:
    specs = (TensorSpec("x", dt.f32, (N,)),), (TensorSpec("y", dt.f32, (N,)),)
    return Program("p", *specs, (N,), steps, N * 64, 256)


def test_compiled_programs_are_well_formed(shift: Executable) -> None:
    check(shift.program)


def test_scopes_reach_to_the_end_of_their_block() -> None:
    element = tensor(ArenaStorage(0), (2,), dt.i64)
    flag = tensor(ArenaStorage(3), (), dt.bool_)
    row = tensor(ArenaStorage(I * 4), (1,))
    check(
        program(
            LetElement(K, element, 1),
            LoopStep(I, K, (CallKernel("k", (row, I + K)), IfStep(flag, (CopyTensor(Y, X),)))),
        )
    )


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (CallKernel("k", (I,)), "kernel k: i is not in scope"),
        (CallKernel("k", (tensor(InputStorage(1)),)), "input 1 of 1"),
        (CallKernel("k", (tensor(OutputStorage(-1)),)), "output -1 of 1"),
        (CallKernel("k", (tensor(OutputStorage(0, 4)),)), "output 0 is y.* from byte 4"),
        (CallKernel("k", (tensor(OutputStorage(0, -4), (1,)),)), "from byte -4"),
        (CallKernel("k", (tensor(OutputStorage(0, 2), (1,)),)), "from byte 2"),
        (CallKernel("k", (tensor(InputStorage(0), (N,), dt.i8),)), "input 0 is x: f32"),
        (CallKernel("k", (tensor(InputStorage(0), (N + 1,)),)), "input 0 is x"),
        (CallKernel("k", (tensor(ConstantStorage(4), (1,)),)), "not a multiple of 64"),
        (CallKernel("k", (tensor(ConstantStorage(192), (17,)),)), "68 bytes at 192 do not fit 256"),
        (CallKernel("k", (tensor(ArenaStorage(2), (1,)),)), "splits its elements"),
        (CallKernel("k", (tensor(ArenaStorage(N * 64), (1,)),)), "do not fit"),
        (CallKernel("k", (tensor(ArenaStorage(-4), (1,)),)), "do not fit"),
        (CopyTensor(X, Y), "read-only"),
        (CopyTensor(Y, tensor(ArenaStorage(0), (3,))), "copy to 't'"),
        (CopyTensor(Y, tensor(ArenaStorage(0), (N,), dt.i32)), "copy to 't'"),
        (LetElement(K, X, 0), "read from f32"),
        (LetElement(K, tensor(ArenaStorage(0), (2,), dt.i64), 2), "no element 2"),
        (IfStep(X, ()), "condition 't' is f32"),
        (LoopStep(I, I, ()), "loop i: i is not in scope"),
    ],
)
def test_a_malformed_step_is_named(step: Step, said: str) -> None:
    with pytest.raises(InternalError, match=said) as caught:
        check(program(step))
    assert caught.value.code == "TW-E0913"


def test_a_kernel_has_one_signature() -> None:
    with pytest.raises(InternalError, match="kernel k is called with different"):
        check(program(CallKernel("k", (X, N)), CallKernel("k", (X, Y))))


def test_an_element_is_not_known_outside_its_block() -> None:
    flag = tensor(ArenaStorage(3), (), dt.bool_)
    let = LetElement(K, tensor(ArenaStorage(0), (2,), dt.i64), 1)
    with pytest.raises(InternalError, match="K is not in scope"):
        check(program(IfStep(flag, (let,)), CallKernel("k", (K,))))
