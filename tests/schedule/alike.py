"""What the tests of primitives share: nests as text, and a check that two of them do the same."""

from __future__ import annotations

import textwrap

import numpy as np

from tilewright.schedule.nest import simplify_func
from tilewright.tensor.check import check
from tilewright.tensor.interpret import interpret
from tilewright.tensor.ir import Buffer, Func
from tilewright.tensor.parse import parse_func
from tilewright.tensor.simplify import evaluate


def nest(source: str) -> Func:
    """A function from its indented text."""
    return parse_func(textwrap.dedent(source).strip())


def outcome(func: Func, **symbols: int) -> dict[str, np.ndarray]:
    """All memory after a run on small whole numbers, whose sums are exact in any order."""
    rng = np.random.default_rng(7)
    memory: dict[str, np.ndarray] = {}
    for b in sorted((p for p in func.params if isinstance(p, Buffer)), key=lambda b: b.name):
        shape = tuple(evaluate(d, symbols) for d in b.shape)
        memory[b.name] = rng.integers(-9, 10, shape).astype(b.dtype.numpy)
    interpret(func, memory, symbols)
    return memory


def assert_alike(before: Func, after: Func, **symbols: int) -> None:
    """Both functions leave the same in memory, before and after simplification.

    The interpreter refuses indices out of bounds and reads of what nobody wrote.
    """
    expected = outcome(before, **symbols)
    for func in (after, simplify_func(after)):
        check(func)
        got = outcome(func, **symbols)
        for name, array in expected.items():
            np.testing.assert_array_equal(got[name], array, err_msg=name)
