"""Samples of operators on the simulated GPU, each against the operator's reference.

python -m tests.backends.cuda.simulated_ops [OP ...]     all samples: some minutes
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np

import tilewright as tw
from tests.backends.cpu.test_ops_native import batches, program_of
from tests.ops.agreement import assert_agree, reference
from tilewright.errors import TilewrightError
from tilewright.ops import OPS, Op, Sample


def assert_computed(op: Op, samples: Sequence[Sample], target: str = "cuda-sim") -> None:
    """Computes samples side by side in one program."""
    run = tw.compile(program_of(op, samples), target=target, cache=False)
    found = iter(run(*(x for sample in samples for x in sample.inputs)))
    for sample in samples:
        for want in reference(op, sample):
            assert_agree(op, sample, next(found), np.asarray(want))
    assert not list(found)


def spread(op: Op, most: int) -> list[Sample]:
    """At most so many samples, the first and the last among them, evenly spread."""
    samples = op.samples()
    count = min(len(samples), most)
    return [samples[k * (len(samples) - 1) // max(count - 1, 1)] for k in range(count)]


def failures(op: Op) -> list[str]:
    """What is wrong with samples; those of a batch that fails are tried one by one."""
    found = []
    for samples in batches(op):
        try:
            assert_computed(op, samples)
        except (AssertionError, TilewrightError):
            for sample in samples:
                try:
                    assert_computed(op, [sample])
                except (AssertionError, TilewrightError) as error:
                    found.append(f"{sample.note}: {str(error).strip()[:300]}")
    return found


def main(names: Sequence[str]) -> int:
    """Prints a line for each operator; the exit code says whether all samples are right."""
    wrong = 0
    for name in names or sorted(OPS):
        began = time.perf_counter()
        found = failures(OPS[name])
        wrong += len(found)
        took = time.perf_counter() - began
        print(f"{name}: {len(OPS[name].samples())} samples, {len(found)} wrong, {took:.1f} s")
        for line in found:
            print(f"    {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
