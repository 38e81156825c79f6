"""If, Loop and Scan: what is decided while importing, what at run time, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.errors import UnsupportedError

from .models import imported, run

F32 = np.float32
IF = """agraph (bool c, float[3] x) => (float[3] y) {
    %s
    y = If <
        then_branch = then () => (float[3] a) { a = Abs(x) },
        else_branch = orelse () => (float[3] b) { b = Neg(x) }
    > (%s)
}"""
LOOP = """agraph (float[2] x) => (float[2] y, float[k, 2] ys) {
    n = Constant <value = int64 {%d}> ()
    go = Constant <value = bool {%d}> ()
    y, ys = Loop <
        body = step (int64 i, bool before, float[2] s) => (bool after, float[2] t, float[2] u) {
            after = %s
            f = Cast <to = 1> (i)
            t = Add(s, f)
            u = Mul(t, x)
        }
    > (n, go, x)
}"""
SCAN = """agraph (float[2] s, float[N, 2] x) => (float[2] t, float[2, N] y) {
    t, y = Scan <
        num_scan_inputs = 1, scan_input_directions = [%d], scan_output_axes = [1],
        body = step (float[2] a, float[2] b) => (float[2] c, float[2] d) {
            c = Add(a, b)
            d = Mul(c, c)
        }
    > (s, x)
}"""


def gap(body: str) -> str:
    with pytest.raises(UnsupportedError) as caught:
        imported(body)
    return str(caught.value)


def test_a_constant_condition_leaves_one_branch() -> None:
    graph = imported(IF % ("k = Constant <value = bool {0}> ()", "k"))
    assert [n.op for n in graph.nodes] == ["neg"]


@pytest.mark.parametrize("cond", [True, False])
def test_a_condition_at_run_time_picks_a_branch(cond: bool) -> None:
    x = np.array([1, -2, 3], F32)
    (y,) = run(imported(IF % ("", "c")), np.array(cond), x)
    np.testing.assert_array_equal(y, np.abs(x) if cond else -x)


def test_branches_of_two_shapes_are_refused() -> None:
    body = (IF % ("", "c")).replace(
        "(float[3] b) { b = Neg(x) }", "(float[6] b) { b = Concat <axis = 0> (x, x) }"
    )
    assert "f32[3] and f32[6]" in gap(body)


def looped(x: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    state, rows = x, []
    for i in range(steps):
        state = state + F32(i)
        rows.append(state * x)
    return state, np.array(rows)


@pytest.mark.parametrize("steps", [1, 3, 40])
@pytest.mark.parametrize("condition", ["Identity(before)", "Constant <value = bool {1}> ()"])
def test_a_loop_of_known_length_runs(steps: int, condition: str) -> None:
    x = np.array([1, 2], F32)
    graph = imported(LOOP % (steps, 1, condition))
    assert ("scan" in {n.op for n in graph.nodes}) == (steps == 40)
    for ours, theirs in zip(run(graph, x), looped(x, steps), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_loop_stops_where_its_condition_is_known_to_fail() -> None:
    limit = "Less(i, two)\n            two = Constant <value = int64 {2}> ()"
    x = np.array([1, 2], F32)
    for ours, theirs in zip(run(imported(LOOP % (9, 1, limit)), x), looped(x, 3), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_loop_until_data_says_so_is_refused() -> None:
    body = LOOP % (5, 1, "Greater(m, m0)\n m = ReduceMax <keepdims = 0> (s)\n m0 = Neg(m)")
    assert "Loop: a condition that depends on data" in gap(body)


@pytest.mark.parametrize("backwards", [0, 1])
def test_scan_runs_either_way_over_a_symbolic_length(backwards: int) -> None:
    graph = imported(SCAN % backwards)
    for count in (1, 4):
        s, x = np.array([1, 2], F32), np.arange(2 * count, dtype=F32).reshape(count, 2)
        t, y = run(graph, s, x)
        sums = s + np.cumsum(x[::-1] if backwards else x, axis=0)
        np.testing.assert_allclose(t, sums[-1])
        np.testing.assert_allclose(y, (sums**2).T)
