"""Random graphs as native code, and after the passes, against the interpreter."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from tilewright.api import compile as compile_model
from tilewright.backends.cpu.target import resolve_target
from tilewright.graph.interpret import interpret
from tilewright.graph.passes import run_passes
from tilewright.graph.text import text

from .random_graphs import SYMBOLS, Made, random_graphs

EXAMPLES = int(os.environ.get("TILEWRIGHT_TEST_EXAMPLES", "25"))
bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=EXAMPLES == 25,
)


def assert_alike(
    found: list[np.ndarray], wanted: list[np.ndarray], smooth: bool, where: str
) -> None:
    assert len(found) == len(wanted)
    for k, (have, want) in enumerate(zip(found, wanted, strict=True)):
        label = f"{where}: output {k}"
        assert have.dtype == want.dtype and have.shape == want.shape, label
        wide_have, wide_want = have.astype(np.float64), want.astype(np.float64)
        if not smooth:
            np.testing.assert_array_equal(wide_have, wide_want, err_msg=label)
            continue
        scale = float(np.abs(wide_want).max(initial=1.0))
        np.testing.assert_allclose(wide_have, wide_want, atol=2e-5 * scale, err_msg=label)


def assert_native_code_agrees(made: Made, smooth: bool, sizes: list[int], seed: int) -> None:
    note(text(made.graph))
    event(f"{len(made.graph.nodes) // 5 * 5} nodes or more")
    executable = compile_model(made.graph, cache=False, threads=1)
    passed = run_passes(made.graph, resolve_target())
    for k in range(0, len(sizes), 2):
        env = {s.name: n for s, n in zip(SYMBOLS, sizes[k : k + 2], strict=True)}
        note(f"{env}")
        inputs = made.feed(env, seed + k, smooth)
        with np.errstate(all="ignore"):
            wanted = interpret(made.graph, inputs)
            after = interpret(passed, inputs)
        assert_alike(after, wanted, smooth, "after the passes")
        assert_alike(list(executable(**inputs)), wanted, smooth, "as native code")


SOME_SIZES = st.lists(st.sampled_from([1, 2, 3, 4, 7, 8, 15, 16, 17, 33]), min_size=4, max_size=4)


@pytest.mark.parametrize("symbolic", [False, True])
def test_native_code_gives_exactly_the_interpreters_whole_numbers(symbolic: bool) -> None:
    @bounded
    @given(made=random_graphs(smooth=False, symbolic=symbolic), sizes=SOME_SIZES)
    def run(made: Made, sizes: list[int]) -> None:
        assert_native_code_agrees(made, False, sizes if symbolic else sizes[:2], 0)

    run()


@pytest.mark.parametrize("symbolic", [False, True])
def test_native_code_gives_the_interpreters_values_of_smooth_functions(symbolic: bool) -> None:
    @bounded
    @given(made=random_graphs(smooth=True, symbolic=symbolic), sizes=SOME_SIZES)
    def run(made: Made, sizes: list[int]) -> None:
        assert_native_code_agrees(made, True, sizes if symbolic else sizes[:2], 0)

    run()
