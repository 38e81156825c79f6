"""Runs one PTX instruction on arrays of operands, in three ways that must agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilewright.backends.cuda.simulator import Options, Simulator

Array = np.ndarray[Any, np.dtype[Any]]
SEEN: dict[Case, str] = {}
"""What has been run, for NVIDIA's assembler to look at; see conftest.py."""
HEAD = ".version 8.7\n.target sm_90\n.address_size 64\n"


@dataclass(frozen=True, slots=True)
class Case:
    """An instruction to be run.

    Attributes:
        text: with d (and e) for results, a, b, c for operands, p and q for predicates among
            results; several instructions are separated by semicolons.
        results: bits of each result; 1 for a predicate.
        operands: bits of each operand.
    """

    text: str
    results: tuple[int, ...]
    operands: tuple[int, ...]

    def body(self) -> str:
        names = "defgh"
        registers = [
            f".reg .{'pred' if bits == 1 else f'b{bits}'} %{names[i]};"
            for i, bits in enumerate(self.results)
        ] + [f".reg .b{bits} %{'abc'[i]};" for i, bits in enumerate(self.operands)]
        return "\n    ".join([*registers, ".reg .b32 %w<4>;", ".reg .b64 %x<4>;"])


def kernel(case: Case, name: str, mode: str) -> str:
    """PTX of a kernel that applies the instruction.

    Args:
        mode: ``lanes``: operands differ from thread to thread; ``uniform``: they are the same
            in all; ``guarded``: as lanes, but only odd threads execute it.
    """
    names = "defgh"
    parameters = [f".param .u64 r{i}" for i in range(len(case.results))]
    loads = []
    if mode == "uniform":
        parameters += [f".param .b{bits} o{i}" for i, bits in enumerate(case.operands)]
        loads += [f"ld.param.b{bits} %{'abc'[i]}, [o{i}];" for i, bits in enumerate(case.operands)]
    else:
        parameters += [f".param .u64 o{i}" for i in range(len(case.operands))]
        for i, bits in enumerate(case.operands):
            loads += [
                f"ld.param.u64 %x1, [o{i}];",
                f"mad.wide.u32 %x1, %w0, {bits // 8}, %x1;",
                f"ld.global.b{bits} %{'abc'[i]}, [%x1];",
            ]
    stores = []
    for i, bits in enumerate(case.results):
        source, width = f"%{names[i]}", bits
        if bits == 1:
            stores += [f"selp.b32 %w1, 1, 0, %{names[i]};"]
            source, width = "%w1", 32
        stores += [
            f"ld.param.u64 %x1, [r{i}];",
            f"mad.wide.u32 %x1, %w0, {width // 8}, %x1;",
            f"st.global.b{width} [%x1], {source};",
        ]
    zeros = [
        f"setp.ne.u32 %{names[i]}, 0, 0;" if bits == 1 else f"mov.b{bits} %{names[i]}, 0;"
        for i, bits in enumerate(case.results)
    ]
    lines = [f"{part.strip()};" for part in case.text.split(";") if part.strip()]
    if mode == "guarded":
        loads += [".reg .pred %odd;", "and.b32 %w2, %w0, 1;", "setp.eq.u32 %odd, %w2, 1;"]
        lines = [line if line.startswith(".reg") else f"@%odd {line}" for line in lines]
    text = "\n    ".join(
        [
            "mov.u32 %w0, %tid.x;",
            "mov.u32 %w1, %ctaid.x;",
            "mad.lo.u32 %w0, %w1, 128, %w0;",
            *loads,
            *zeros,
            *lines,
            *stores,
            "ret;",
        ]
    )
    return (
        f".visible .entry {name}({', '.join(parameters)})\n{{\n    {case.body()}\n    {text}\n}}\n"
    )


def apply(case: Case, operands: Sequence[Array], target: str = "sm_90") -> list[Array]:
    """The results' bits for arrays of operands' bits; checks that all ways of running agree.

    Args:
        target: the lowest that has the instruction.
    """
    SEEN[case] = target
    simulator = Simulator()
    module = simulator.load(
        HEAD + "".join(kernel(case, mode, mode) for mode in ("lanes", "guarded", "uniform"))
    )
    count = -(-len(operands[0]) // 128) * 128
    padded = [np.resize(o, count) for o in operands]
    given = [simulator.place(o) for o in padded]
    dtypes = [np.dtype(np.uint32 if b == 1 else f"u{b // 8}") for b in case.results]

    def launch(name: str, threads: int, args: Sequence[Any]) -> list[Array]:
        places = [simulator.allocate(d.itemsize * count) for d in dtypes]
        simulator.launch(
            module.kernel(name), -(-threads // 128), min(128, threads), (*places, *args)
        )
        return [simulator.copy_out(p, (threads,), d) for p, d in zip(places, dtypes, strict=True)]

    results = launch("lanes", count, given)
    for result, guarded in zip(results, launch("guarded", count, given), strict=True):
        odd = np.arange(count) % 2 == 1
        np.testing.assert_array_equal(guarded, np.where(odd, result, 0))
    for at in range(0, len(operands[0]), max(1, len(operands[0]) // 3)):
        single = launch("uniform", 1, [o[at] for o in padded])
        for result, one in zip(results, single, strict=True):
            assert one[0] == result[at], (case.text, [hex(int(o[at])) for o in padded])
    return [r[: len(operands[0])] for r in results]


def across(case: Case, operands: Sequence[Array], options: Options | None = None) -> list[Array]:
    """The results of an instruction in which lanes take part together; 128 threads a block."""
    SEEN[case] = "sm_90"
    simulator = Simulator(options)
    module = simulator.load(HEAD + kernel(case, "across", "lanes"))
    count = len(operands[0])
    given = [simulator.place(o) for o in operands]
    dtypes = [np.dtype(np.uint32 if b == 1 else f"u{b // 8}") for b in case.results]
    places = [simulator.allocate(d.itemsize * count) for d in dtypes]
    simulator.launch(module.kernel("across"), -(-count // 128), min(128, count), (*places, *given))
    return [simulator.copy_out(p, (count,), d) for p, d in zip(places, dtypes, strict=True)]


def values(bits: int, seed: int = 0, count: int = 100) -> Array:
    """Bits of operands: the ends of all ranges, and random ones."""
    rng = np.random.default_rng(seed)
    top = 1 << bits
    edges = [0, 1, 2, 3, 5, 7, 31, 32, 33, 63, 64, 127, 128, top // 2 - 1, top // 2, top // 2 + 1]
    edges += [top - 1, top - 2, top - 3, top // 3, top // 5 * 3]
    found = np.array([e % top for e in edges], np.uint64)
    draws = rng.integers(0, top - 1, count, dtype=np.uint64, endpoint=True)
    small = rng.integers(0, 50, count // 4, dtype=np.uint64)
    out = np.concatenate([found, draws, small]).astype(f"u{bits // 8}")
    rng.shuffle(out)
    return out


def floats(name: str, seed: int = 0, count: int = 120) -> Array:
    """Bits of floats: zeros, infinities, NaN, subnormal and neighbouring numbers, random ones."""
    rng = np.random.default_rng(seed)
    bits = {"f16": 16, "bf16": 16, "f32": 32, "tf32": 32, "f64": 64}[name]
    fraction = {"f16": 10, "bf16": 7, "f32": 23, "tf32": 23, "f64": 52}[name]
    exponents = (1 << (bits - 1 - fraction)) - 1
    one = exponents // 2 << fraction
    inf = exponents << fraction
    edges = [
        0,
        1,
        2,
        3,
        one - 1,
        one,
        one + 1,
        inf - 1,
        inf,
        inf | 1 << (fraction - 1),
        1 << fraction,
    ]
    edges += [one + (1 << fraction), one | 1 << (fraction - 1), (1 << fraction) - 1]
    edges += [e | 1 << (bits - 1) for e in edges]
    anything = rng.integers(0, (1 << bits) - 1, count // 2, dtype=np.uint64, endpoint=True)
    # Numbers near one another, so that sums cancel and products stay in range.
    near = rng.integers(0, 1 << fraction, count, dtype=np.uint64) & ~np.uint64(
        (1 << int(fraction * 0.4)) - 1
    )
    near = near + (
        np.uint64(exponents // 2) + rng.integers(0, 6, count, dtype=np.uint64) - np.uint64(3)
        << np.uint64(fraction)
    )
    near = near | rng.integers(0, 2, count, dtype=np.uint64) << np.uint64(bits - 1)
    out = np.concatenate([np.array(edges, np.uint64), anything, near]).astype(f"u{bits // 8}")
    if name == "tf32":
        out = out & np.uint32(0xFFFFE000)
    rng.shuffle(out)
    return out
