"""The native entry: addresses, dims, copies, branches and loops, checked against Python."""

from __future__ import annotations

from collections.abc import Sequence

import llvmlite.binding as llvm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright import dtype as dt
from tilewright.backends.cpu import BACKEND
from tilewright.backends.cpu.compile import compile_object
from tilewright.backends.cpu.load import CpuEntry
from tilewright.backends.cpu.program import emit_program
from tilewright.errors import InputError, InternalError
from tilewright.runtime.artifact import Artifact
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
    Tensor,
    TensorSpec,
)
from tilewright.tensor.ir import (
    Binary,
    Cast,
    Const,
    Dim,
    Expr,
    Select,
    Unary,
    Var,
    lt,
    maximum,
    minimum,
    symbol,
)
from tilewright.tensor.simplify import evaluate

# put: out[index] = value.   add: c[i] = a[i] + b[i] for n elements.
KERNELS = """
define void @put(ptr %ctx, ptr %out, i64 %index, i64 %value) {
  %p = getelementptr i64, ptr %out, i64 %index
  store i64 %value, ptr %p
  ret void
}
define void @add(ptr %ctx, ptr noalias %a, ptr noalias %b, ptr noalias %c, i64 %n) {
entry:
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %i1, %body ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %body, label %done
body:
  %pa = getelementptr i64, ptr %a, i64 %i
  %pb = getelementptr i64, ptr %b, i64 %i
  %pc = getelementptr i64, ptr %c, i64 %i
  %va = load i64, ptr %pa
  %vb = load i64, ptr %pb
  %s = add i64 %va, %vb
  store i64 %s, ptr %pc
  %i1 = add i64 %i, 1
  br label %head
done:
  ret void
}
"""
TARGET = BACKEND.resolve("x86-64-v2")
N = symbol("N", 0, 1000)
M = symbol("M", 1, 1000)


def build(
    steps: Sequence[Step],
    *,
    inputs: Sequence[TensorSpec] = (),
    outputs: Sequence[TensorSpec] = (),
    symbols: Sequence[Var] = (),
    arena: Dim = 0,
    constants: np.ndarray | None = None,
) -> Executable:
    blob = np.empty(0, np.uint8) if constants is None else constants.view(np.uint8).reshape(-1)
    program = Program(
        "p", tuple(inputs), tuple(outputs), tuple(symbols), tuple(steps), arena, blob.nbytes
    )
    objects = (
        compile_object(KERNELS, TARGET),
        compile_object(emit_program(program), TARGET, verify=True),
    )
    return Executable(Artifact(program, TARGET, objects, blob), CpuEntry(objects, 1))


def vector(name: str, n: Dim, storage: object) -> Tensor:
    return Tensor(name, dt.i64, (n,), storage)  # type: ignore[arg-type]


def aligned(values: Sequence[int]) -> np.ndarray:
    raw = np.zeros(len(values) * 8 + 64, np.uint8)
    start = -raw.ctypes.data % 64
    found = raw[start : start + 8 * len(values)].view(np.int64)
    found[:] = values
    return found


def test_kernels_get_inputs_outputs_constants_and_the_arena() -> None:
    x = vector("x", 3, InputStorage(0))
    w = vector("w", 3, ConstantStorage(64))
    t = vector("t", 3, ArenaStorage(128))
    y = vector("y", 3, OutputStorage(0))
    constants = aligned([9] * 8 + [10, 20, 30])
    run = build(
        [CallKernel("add", (x, w, t, 3)), CallKernel("add", (t, w, y, 3))],
        inputs=[TensorSpec("x", dt.i64, (3,))],
        outputs=[TensorSpec("y", dt.i64, (3,))],
        arena=256,
        constants=constants,
    )
    (result,) = run(np.array([1, 2, 3]))
    assert result.tolist() == [21, 42, 63]
    assert constants.tolist() == [9] * 8 + [10, 20, 30]


def test_results_may_begin_inside_of_an_output() -> None:
    x = vector("x", 3, InputStorage(0))
    low, high = (vector("y", 3, OutputStorage(0, offset)) for offset in (0, 24))
    run = build(
        [CallKernel("add", (x, x, high, 3)), CallKernel("add", (x, high, low, 3))],
        inputs=[TensorSpec("x", dt.i64, (3,))],
        outputs=[TensorSpec("y", dt.i64, (6,))],
    )
    (result,) = run(np.array([1, 2, 3]))
    assert result.tolist() == [3, 6, 9, 2, 4, 6]


def test_arena_offsets_may_be_symbolic() -> None:
    x = vector("x", N, InputStorage(0))
    first = vector("t", N, ArenaStorage(0))
    second = vector("u", N, ArenaStorage((N * 8 + 63) // 64 * 64))
    y = vector("y", N, OutputStorage(0))
    run = build(
        [
            CallKernel("add", (x, x, first, N)),
            CallKernel("add", (x, first, second, N)),
            CallKernel("add", (first, second, y, N)),
        ],
        inputs=[TensorSpec("x", dt.i64, (N,))],
        outputs=[TensorSpec("y", dt.i64, (N,))],
        symbols=[N],
        arena=(N * 8 + 63) // 64 * 64 * 2,
    )
    for n in (5, 0, 1000, 8, 9):
        x_values = np.arange(n)
        assert (run(x_values)[0] == 5 * x_values).all()


def test_calls_that_repeat_are_a_loop_that_does_what_they_do() -> None:
    count = 30
    x, y = vector("x", 2, InputStorage(0)), vector("y", 2, OutputStorage(0))
    a, b = vector("a", 2, ArenaStorage(0)), vector("b", 2, ArenaStorage(64))
    steps = [CallKernel("add", (x, x, a, 2))]
    for k in range(count):
        w = vector("w", 2, ConstantStorage(64 * k))
        kept = vector("kept", 2, ArenaStorage(128 + 64 * (count - 1 - k)))
        steps += [CallKernel("add", (a, w, b, 2)), CallKernel("add", (b, x, a, 2))]
        steps.append(CallKernel("add", (a, w, kept, 2)))
    last, first = (vector("kept", 2, ArenaStorage(128 + 64 * k)) for k in (0, count - 1))
    steps.append(CallKernel("add", (last, first, y, 2)))
    constants = aligned([k * k + i for k in range(count) for i in range(8)])
    run = build(
        steps,
        inputs=[TensorSpec("x", dt.i64, (2,))],
        outputs=[TensorSpec("y", dt.i64, (2,))],
        arena=128 + 64 * count,
        constants=constants,
    )
    given_x = np.array([5, 70])
    total, sums = 2 * given_x, []
    for w_values in constants.reshape(count, 8)[:, :2]:
        total = total + w_values + given_x
        sums.append(total + w_values)
    assert run(given_x)[0].tolist() == (sums[0] + sums[-1]).tolist()
    program = Program("p", (), (), (), tuple(steps))
    assert emit_program(program).count("call void @add(") == 5
    assert emit_program(program, timed=True).count("call void @add(") == len(steps)


def test_copies_write_outputs_that_are_inputs_or_constants() -> None:
    x = vector("x", N, InputStorage(0))
    w = vector("w", 2, ConstantStorage(0))
    run = build(
        [
            CopyTensor(vector("y", N, OutputStorage(0)), x),
            CopyTensor(vector("z", 2, OutputStorage(1)), w),
        ],
        inputs=[TensorSpec("x", dt.i64, (N,))],
        outputs=[TensorSpec("y", dt.i64, (N,)), TensorSpec("z", dt.i64, (2,))],
        symbols=[N],
        constants=aligned([7, 8]),
    )
    given_x = np.arange(4)
    y, z = run(given_x)
    assert y.tolist() == [0, 1, 2, 3] and z.tolist() == [7, 8]
    assert not np.shares_memory(y, given_x)


def test_branches_take_the_side_that_the_tensor_says_and_nest() -> None:
    a = Tensor("a", dt.bool_, (), InputStorage(0))
    b = Tensor("b", dt.bool_, (), InputStorage(1))
    y = vector("y", 1, OutputStorage(0))
    inner = IfStep(b, (CallKernel("put", (y, 0, 1)),), (CallKernel("put", (y, 0, 2)),))
    run = build(
        [CallKernel("put", (y, 0, 3)), IfStep(a, (inner,)), IfStep(b, (), ())],
        inputs=[TensorSpec("a", dt.bool_, ()), TensorSpec("b", dt.bool_, ())],
        outputs=[TensorSpec("y", dt.i64, (1,))],
    )
    results = [run(p, q)[0][0] for p in (True, False) for q in (True, False)]
    assert results == [1, 2, 3, 3]


def test_loops_run_trip_times_in_order_and_nest() -> None:
    i, j = Var("i"), Var("j")
    x = vector("x", N, InputStorage(0))
    y = vector("y", 100, OutputStorage(0))
    inner = LoopStep(j, i + 1, (CallKernel("put", (y, i * 10 + j, i * 100 + j * N)),))
    run = build(
        [LoopStep(i, N, (inner,))],
        inputs=[TensorSpec("x", dt.i64, (N,))],
        outputs=[TensorSpec("y", dt.i64, (100,))],
        symbols=[N],
    )
    del x
    for n in (0, 1, 7):
        expected = {i * 10 + j: i * 100 + j * n for i in range(n) for j in range(i + 1)}
        (result,) = run(np.zeros(n, np.int64))
        assert {k: result[k] for k in expected} == expected


def test_views_of_the_arena_move_with_the_loop() -> None:
    i = Var("i")
    x = vector("x", 6, InputStorage(0))
    row = vector("row", 2, ArenaStorage(i * 16))
    following = vector("next", 2, ArenaStorage(i * 16 + 16))
    run = build(
        [
            CopyTensor(vector("t", 6, ArenaStorage(0)), x),
            LoopStep(i, 2, (CallKernel("add", (row, row, following, 2)),)),
            CopyTensor(vector("y", 6, OutputStorage(0)), vector("t", 6, ArenaStorage(0))),
        ],
        inputs=[TensorSpec("x", dt.i64, (6,))],
        outputs=[TensorSpec("y", dt.i64, (6,))],
        arena=64,
    )  # fmt: skip
    assert run(np.array([1, 2, 0, 0, 0, 0]))[0].tolist() == [1, 2, 2, 4, 4, 8]


def element_program() -> Executable:
    k = Var("K", dt.i64, 0, 4)
    i = Var("i")
    y = vector("y", 4, OutputStorage(0))
    return build(
        [
            *(CallKernel("put", (y, at, -1)) for at in range(4)),
            LetElement(k, vector("x", 2, InputStorage(0)), 1),
            LoopStep(i, k, (CallKernel("put", (y, i, k * 2)),)),
        ],
        inputs=[TensorSpec("x", dt.i64, (2,))],
        outputs=[TensorSpec("y", dt.i64, (4,))],
    )


def test_elements_become_dims() -> None:
    run = element_program()
    assert run(np.array([9, 3]))[0].tolist() == [6, 6, 6, -1]
    assert run(np.array([9, 0]))[0].tolist() == [-1] * 4


@pytest.mark.parametrize("value", [-1, 5, 1 << 40])
def test_an_element_outside_its_range_ends_the_call(value: int) -> None:
    run = element_program()
    with pytest.raises(InputError, match="TW-E0309.*element 1 of 'x'.*K.*0 to 4"):
        run(np.array([0, value]))
    assert run(np.array([9, 1]))[0].tolist() == [2, -1, -1, -1]


def test_a_division_by_a_size_that_is_zero_ends_the_call() -> None:
    y = vector("y", 1, OutputStorage(0))
    run = build(
        [CallKernel("put", (y, 0, M // N))],
        inputs=[TensorSpec("x", dt.i8, (N, M))],
        outputs=[TensorSpec("y", dt.i64, (1,))],
        symbols=[N, M],
    )
    assert run(np.zeros((3, 7), np.int8))[0][0] == 2
    with pytest.raises(InputError, match="TW-E0309"):
        run(np.zeros((0, 7), np.int8))


def _expressions() -> st.SearchStrategy[Expr]:
    leaves = st.sampled_from([N, M]) | st.integers(-40, 40).map(Const)
    divisors = st.sampled_from([M, Const(7), Const(-3), Const(1), Const(16)])
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(Binary, st.sampled_from(["add", "sub", "min", "max"]), inner, inner),
            st.builds(Binary, st.sampled_from(["floordiv", "mod", "div"]), inner, divisors),
            st.builds(lambda a, c: a * Const(c), inner, st.integers(-5, 5)),
            st.builds(lambda a: Unary("neg", a), inner),
            st.builds(lambda a, b, c, d: Select(lt(a, b), c, d), inner, inner, inner, inner),
            st.builds(lambda a, b: Cast(lt(a, b), dt.i64), inner, inner),
        ),
        max_leaves=12,
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(_expressions(), min_size=1, max_size=8), st.integers(0, 50), st.integers(1, 50))
def test_native_dims_equal_python_dims(dims: list[Expr], n: int, m: int) -> None:
    y = vector("y", len(dims), OutputStorage(0))
    run = build(
        [CallKernel("put", (y, k, d)) for k, d in enumerate(dims)],
        inputs=[TensorSpec("x", dt.i8, (N, M))],
        outputs=[TensorSpec("y", dt.i64, (len(dims),))],
        symbols=[N, M],
    )
    expected = [evaluate(d, {"N": n, "M": m}) for d in dims]
    assert run(np.zeros((n, m), np.int8))[0].tolist() == expected


def test_a_variable_out_of_scope_is_refused() -> None:
    i = Var("i")
    y = vector("y", 1, OutputStorage(0))
    program = Program("p", (), (), (), (LoopStep(i, 2, ()), CallKernel("put", (y, 0, i))))
    with pytest.raises(InternalError, match="TW-E0911.*i: not in scope"):
        emit_program(program)


def test_a_kernel_with_two_signatures_is_refused() -> None:
    program = Program("p", (), (), (), (CallKernel("k", (1,)), CallKernel("k", (1, 2))))
    with pytest.raises(InternalError, match="TW-E0911.*kernel k"):
        emit_program(program)


def test_long_programs_emit_in_linear_time_and_verify() -> None:
    y = vector("y", 1, OutputStorage(0))
    steps = tuple(CallKernel("put", (y, 0, minimum(maximum(N, k), M))) for k in range(5000))
    text = emit_program(Program("p", (), (), (N, M), steps))
    llvm.parse_assembly(text).verify()
    assert len(text.splitlines()) < 5 * 5000
