"""How fast is a fused elementwise function? Compares tw.jit with NumPy on x + x**2 + x**3.

python benchmarks/jit_elementwise.py [--size 1000] [--seconds 2]

Prints the time of each, the bytes that are read and written a second, the ratio, and what a call
costs on an array of four elements, where nothing but overhead is measured.
"""

from __future__ import annotations

import argparse

import numpy as np

import tilewright as tw
from tilewright.bench import interleave


def cubic(x: np.ndarray) -> np.ndarray:
    return x + x**2 + x**3  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1000, help="rows and columns")
    parser.add_argument("--seconds", type=float, default=2.0, help="of measurement")
    given = parser.parse_args()
    x = np.random.default_rng(0).random((given.size, given.size), dtype=np.float32)
    jitted = tw.jit(cubic)
    np.testing.assert_allclose(jitted(x), cubic(x), rtol=1e-5)
    copy = np.empty_like(x)
    ours, numpys, copies = interleave(
        [lambda: jitted(x), lambda: cubic(x), lambda: np.copyto(copy, x)], given.seconds
    )
    print(f"{'':12}{'median ms':>12}{'best ms':>12}{'GB/s':>8}")
    for name, timing in (("tw.jit", ours), ("numpy", numpys), ("a copy", copies)):
        rate = 2 * x.nbytes / timing.median / 1e9
        print(f"{name:12}{timing.median * 1e3:12.3f}{timing.minimum * 1e3:12.3f}{rate:8.1f}")
    ratios = [b / a for a, b in zip(ours.blocks, numpys.blocks, strict=True)]
    print(f"numpy / tw.jit: {np.median(ratios):.1f}")
    tiny = np.ones(4, np.float32)
    jitted(tiny)
    (small,) = interleave([lambda: jitted(tiny)], 0.5)
    print(f"a call on 4 elements: {small.median * 1e6:.2f} us; compiled {jitted.compiles} times")


if __name__ == "__main__":
    main()
