"""Which loops are proven to have independent iterations."""

from __future__ import annotations

import pytest

from tilewright.tensor.independence import is_independent
from tilewright.tensor.ir import For
from tilewright.tensor.parse import parse_func


def loop_of(body: str) -> For:
    lines = "\n".join("    " + line for line in body.strip("\n").splitlines())
    func = parse_func(f"def f(A: f32[64, 64], B: f32[64, 64, 64]):\n{lines}\n")
    (loop,) = func.body
    assert isinstance(loop, For)
    return loop


@pytest.mark.parametrize(
    ("body", "independent"),
    [
        ("for o in serial(9):\n  for x in serial(32):\n"
         "    A[(o * 32 + x) // 20, (o * 32 + x) % 20] = 1.0", True),
        ("for o in serial(9):\n  for x in serial(33):\n"
         "    A[(o * 32 + x) // 20, (o * 32 + x) % 20] = 1.0", False),
        # The remainder alone comes back; another divisor joins nothing.
        ("for o in serial(9):\n  for x in serial(32):\n"
         "    A[0, (o * 32 + x) % 20] = 1.0", False),
        ("for o in serial(9):\n  for x in serial(32):\n"
         "    A[(o * 32 + x) // 21, (o * 32 + x) % 20] = 1.0", False),
        ("for o in serial(9):\n  for x in serial(32):\n"
         "    B[(o * 32 + x) // 60, (o * 32 + x) // 20 % 3, (o * 32 + x) % 20] = 1.0", True),
        ("for o in serial(9):\n  for x in serial(32):\n"
         "    B[0, (o * 32 + x) // 20 % 3, (o * 32 + x) % 20] = 1.0", False),
        # What is read is cut in another way than what is written.
        ("for o in serial(9):\n  for x in serial(32):\n"
         "    A[(o * 32 + x) // 20, (o * 32 + x) % 20] = A[(o * 32 + x) // 10, (o * 32 + x) % 10]",
         False),
    ],
)  # fmt: skip
def test_a_flat_number_cut_into_indices_tells_iterations_apart(
    body: str, independent: bool
) -> None:
    assert is_independent(loop_of(body)) == independent
