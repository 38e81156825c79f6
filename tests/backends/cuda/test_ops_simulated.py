"""Every operator on the simulated GPU, with its checks on, against the operator's reference."""

from __future__ import annotations

import pytest

from tilewright.ops import OPS

from .simulated_ops import assert_computed, spread

MOST = 10
"""Samples of an operator that the test runs; ``simulated_ops`` runs all when it is called."""


@pytest.mark.parametrize("name", sorted(OPS))
def test_a_simulated_gpu_computes_the_reference(name: str) -> None:
    assert_computed(OPS[name], spread(OPS[name], MOST))


def test_a_shift_by_a_number_above_32_bits_is_not_cut() -> None:
    # LLVM 22 folds a guarded shift by an i64 into one that reads the low half of the amount.
    wide = [s for s in OPS["shl"].samples() if s.note == "i64 every pair of edges"]
    assert_computed(OPS["shl"], wide)
