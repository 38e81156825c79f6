"""Attention in one kernel: scores stay in the block, whatever the sizes and masks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.schedule.groups import attention, variables
from tilewright import dtype as dt
from tilewright.backends.cuda.budget import check_budget
from tilewright.backends.cuda.ptx import emit_ptx
from tilewright.backends.cuda.simulator.faults import SimulationError
from tilewright.backends.cuda.threads import launch_of
from tilewright.backends.cuda.toolkit import assemble, find_tool
from tilewright.dtype import DType
from tilewright.lower.kernels import KernelTable
from tilewright.tensor.compute import Compute, ComputeGroup
from tilewright.tensor.interpret import interpret_group
from tilewright.tensor.ir import (
    Axis,
    Barrier,
    Block,
    Buffer,
    Call,
    Cast,
    Const,
    Dim,
    Expr,
    For,
    Func,
    Reduce,
    Select,
    Stmt,
    le,
    symbol,
)
from tilewright.tensor.walk import statements

from .executors import (
    SM80,
    assert_simulated_equals_group,
    random_inputs,
    scheduled,
    simulate,
)

N = symbol("N")


def causal(
    heads: int, rows: Dim, columns: Dim, depth: int, width: int, dtype: DType = dt.f32
) -> ComputeGroup:
    """softmax(q k^T * 0.25, where c <= r + 3) v, divided by the sum before the last product."""
    h, r, c, k, d = variables("h r c k d")
    f32 = dt.f32

    def wide(e: Expr) -> Expr:
        return e if dtype is f32 else Cast(e, f32)

    q, keys = (
        Buffer("x0", dtype, (heads, rows, depth)),
        Buffer("x1", dtype, (heads, columns, depth)),
    )
    v, y = Buffer("x2", dtype, (heads, columns, width)), Buffer("y0", dtype, (heads, rows, width))
    scores, e, p = (Buffer(n, f32, (heads, rows, columns)) for n in ("t0", "t2", "t4"))
    top, total = (Buffer(n, f32, (heads, rows)) for n in ("t1", "t3"))
    head, row, column = Axis(h, heads), Axis(r, rows), Axis(c, columns)
    along = (Axis(k, columns),)
    dot = Reduce("sum", (Axis(k, depth),), wide(q[h, r, k]) * wide(keys[h, c, k]))
    masked = Select(le(c, r + 3), dot * 0.25, Const(-1e30, f32))
    mixed: Expr = Reduce("sum", along, p[h, r, k] * wide(v[h, k, d]))
    if dtype is not f32:
        mixed = Cast(mixed, dtype)
    stages = (
        Compute(scores, (head, row, column), masked),
        Compute(top, (head, row), Reduce("max", along, scores[h, r, k])),
        Compute(e, (head, row, column), Call("exp", (scores[h, r, c] - top[h, r],), f32)),
        Compute(total, (head, row), Reduce("sum", along, e[h, r, k])),
        Compute(p, (head, row, column), e[h, r, c] / total[h, r]),
        Compute(y, (head, row, Axis(d, width)), mixed),
    )
    return ComputeGroup("causal", (q, keys, v), (y,), stages)


@pytest.mark.parametrize(
    "group",
    [attention(2, 20, 40, 8, 16), attention(1, 16, 128, 64, 64), attention(2, 5, 33, 7, 80),
     causal(2, 17, 19, 16, 32), causal(1, 32, 64, 32, 32)],
    ids=lambda g: f"{g.name}{'x'.join(map(str, g.outputs[0].shape))}",
)  # fmt: skip
def test_rows_of_scores_stay_in_the_block(group: ComputeGroup) -> None:
    assert launch_of(scheduled(group)).shared
    assert_simulated_equals_group(group)


def test_halves_are_multiplied_as_floats() -> None:
    assert_simulated_equals_group(causal(2, 20, 33, 16, 32, dt.f16), tolerance=2e-3)


@pytest.mark.parametrize("rows", [1, 18])
def test_the_number_of_rows_is_known_at_run_time(rows: int) -> None:
    assert_simulated_equals_group(attention(2, N, 40, 8, 16), N=rows, host=rows == 18)


def test_no_score_goes_to_global_memory() -> None:
    heads, rows, columns, depth = 2, 32, 64, 32
    counters = assert_simulated_equals_group(causal(heads, rows, columns, depth, depth), host=False)
    assert counters.global_stores.pieces == heads * rows * depth * 4 // 32
    blocks = heads * rows // 16
    whole = (16 + columns) * depth
    values = 4 * columns * depth
    assert counters.global_loads.pieces == blocks * (whole + values) * 4 // 32
    assert counters.shared_loads.pieces == counters.shared_loads.ideal


@pytest.mark.parametrize(
    "group",
    [attention(2, 5, 9000, 4, 8), attention(2, 5, N, 4, 8), attention(2, N, N, 4, 8),
     attention(2, 1, N, 4, 8), attention(2, 1, 90, 4, 8), causal(2, 5, N, 4, 8),
     attention(2, 5, 90, 4, 8)],
    ids=lambda g: "x".join("N" if d is N else str(d) for d in (*g.outputs[0].shape[:2],
                                                              g.inputs[1].shape[-1])),
)  # fmt: skip
def test_any_number_of_keys_is_one_kernel(group: ComputeGroup) -> None:
    kernels, scratch = KernelTable(SM80).compile(group, frozenset(), "attention")
    assert [k.recipe for k in kernels] == ["chain"]
    assert scratch == ()


@pytest.mark.parametrize(
    ("group", "keys"),
    [(attention(2, 20, N, 8, 16), 1), (attention(2, 20, N, 8, 16), 300),
     (attention(2, N, N, 8, 16), 133), (attention(1, 20, 600, 8, 16), 0),
     (causal(2, 20, N, 16, 32), 140), (causal(2, 5, N, 16, 80), 128),
     (causal(2, 6, N, 8, 16, dt.f16), 150)],
    ids=["one key", "300", "133 by 133", "600, known", "causal", "one block", "halves"],
)  # fmt: skip
def test_keys_are_taken_a_block_at_a_time(group: ComputeGroup, keys: int) -> None:
    half = group.inputs[0].dtype is dt.f16
    assert_simulated_equals_group(group, tolerance=2e-3 if half else 2e-5, N=keys)


@pytest.mark.parametrize("keys", [1, 127, 300])
@pytest.mark.parametrize(
    "group", [attention(3, 1, N, 8, 16), causal(3, 1, N, 8, 16)], ids=["late", "shares"]
)
def test_one_row_is_shared_by_all_threads_of_a_block(group: ComputeGroup, keys: int) -> None:
    assert launch_of(scheduled(group)).block == (128, 1)
    assert_simulated_equals_group(group, N=keys)


@pytest.mark.parametrize(
    "group", [causal(2, 64, N, 256, 256), causal(8, 1, N, 128, 128), causal(1, 16, 700, 200, 64)],
    ids=["wide heads", "one row", "known"],
)  # fmt: skip
def test_operands_are_staged_only_where_they_fit(group: ComputeGroup) -> None:
    func = scheduled(group)
    check_budget([func], SM80)
    if find_tool("ptxas") is not None:
        (taken,) = assemble(emit_ptx([func], SM80), "sm_80").kernels.values()
        assert (taken.spills, taken.stack) == (0, 0)


@pytest.mark.parametrize("depth", [20, 33, 200])
def test_threads_do_not_wait_between_the_rounds_of_a_copy(depth: int) -> None:
    counts = [
        sum(isinstance(s, Barrier) for s in statements(scheduled(causal(1, 16, N, d, 32)).body))
        for d in (32, depth)
    ]
    assert counts[0] == counts[1]


def test_masked_keys_weigh_nothing_even_where_they_come_first() -> None:
    group = attention(2, 20, N, 8, 16)
    given = random_inputs(group, {"N": 300})
    mask = given["x2"]
    # The first block of keys, a whole row, and values that spread.
    mask[:, :200] = -np.inf
    mask[1] = -np.inf
    mask[2, 250], mask[3, 10], given["x0"][0, 4, 0] = np.inf, np.nan, np.nan
    with np.errstate(all="ignore"):
        want = interpret_group(group, given, {"N": 300})["y0"]
    got = simulate(scheduled(group), given, {"N": 300})["y0"]
    assert np.isnan(want).any() and np.isfinite(want).any()
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def without(block: Block, number: list[int]) -> Block:
    """A block less one barrier: the one at which the number is 0."""
    result: list[Stmt] = []
    for stmt in block:
        if isinstance(stmt, Barrier):
            number[0] -= 1
            if number[0] == -1:
                continue
        if isinstance(stmt, For):
            stmt = For(stmt.var, stmt.extent, without(stmt.body, number), stmt.kind, stmt.start)
        result.append(stmt)
    return tuple(result)


@pytest.mark.parametrize(
    "group",
    [attention(1, 16, 64, 8, 16), attention(1, 16, 300, 8, 16), attention(2, 1, 300, 8, 16)],
    ids=["at once", "in blocks", "one row"],
)  # fmt: skip
def test_every_barrier_of_a_chain_is_needed(group: ComputeGroup) -> None:
    func = scheduled(group)
    given = random_inputs(group, {})
    count = sum(isinstance(s, Barrier) for s in statements(func.body))
    assert count >= 3
    for k in range(count):
        broken = Func(func.name, func.params, without(func.body, [k]))
        with pytest.raises(SimulationError, match="TW-E1005"):
            simulate(broken, given, {})
