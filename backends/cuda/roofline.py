"""The least time that a kernel can take, from what it executes and what the hardware can do.

The model is a roofline (Williams, Waterman, Patterson, CACM 52(4), 2009) with a roof for each part
of the machine that a kernel keeps busy. Work that belongs to a multiprocessor is that of the one
with the most blocks:

    t = max(bytes of operands / DRAM bandwidth,
            sectors * 32 / L2 bandwidth,
            share * max(warp instructions / 4,
                        shared wavefronts,
                        32 * f32 instructions / f32 lanes, ... f64, ... special functions,
                        tensor operations / tensor rate) / clock)
    share = ceil(blocks / multiprocessors) / blocks

It knows no latency that nothing hides, no cost of a launch, and no data that stays in a cache from
the kernel before: a bound to compare schedules by, not a measurement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from .simulator import Counters
from .target import Architecture

ISSUE = 4
"""Warp instructions that a multiprocessor starts in a clock: it has four schedulers."""
SPECIAL = 16
"""Lanes of special functions a clock (CUDA Programming Guide, arithmetic throughput)."""
SECTOR = 32
_WARP = 32

_KINDS: Mapping[str, str] = {
    "mma": "tensor", "wmma": "tensor", "wgmma": "tensor", "ldmatrix": "shared memory",
    "bar": "barriers", "barrier": "barriers",
    "bra": "control", "brx": "control", "ret": "control", "exit": "control", "call": "control",
    "shfl": "warp exchange", "vote": "warp exchange", "match": "warp exchange",
    "redux": "warp exchange", "activemask": "warp exchange",
    "ex2": "special functions", "lg2": "special functions", "sin": "special functions",
    "cos": "special functions", "rcp": "special functions", "sqrt": "special functions",
    "rsqrt": "special functions", "tanh": "special functions", "cvt": "conversions",
}  # fmt: skip
_MEMORY = frozenset({"ld", "ldu", "st", "atom", "red", "cp", "prefetch"})
_WAITS = frozenset({"commit_group", "wait_group", "wait_all", "mbarrier"})
_MOVES = frozenset({"mov", "selp", "setp", "set", "prmt", "cvta"})


def kind_of(name: str) -> str:
    """The part of the machine that executes an instruction (``fma.rn.f32``: ``f32``)."""
    stem, *modifiers = name.split(".")
    if _WAITS.intersection(modifiers):
        return "barriers"
    if stem in _MEMORY:
        space = next((m.split("::")[0] for m in modifiers if m.startswith(_SPACES)), "generic")
        return f"{space} memory"
    if stem in _KINDS:
        return _KINDS[stem]
    if stem == "div" and modifiers[-1] in ("f32", "f64"):
        return "special functions" if modifiers[-1] == "f32" else "f64"
    if stem not in _MOVES:
        for kind, types in (("f64", ("f64",)), ("f32", ("f32", "f16", "f16x2", "bf16", "bf16x2"))):
            if modifiers and modifiers[-1] in types:
                return kind
    return "integers and moves"


_SPACES = ("global", "shared", "local", "param", "const")


def mix(counters: Counters) -> dict[str, int]:
    """Instructions that warps executed, by kind, the most frequent kind first."""
    found: Counter[str] = Counter()
    for name, count in counters.instructions.items():
        found[kind_of(name)] += count
    return dict(found.most_common())


def bounds_of(c: Counters, operand_bytes: int, machine: Architecture) -> dict[str, float]:
    """Seconds that each part of the machine is busy for one launch, by part."""
    kinds = mix(c)
    clock = machine.mhz * 1e6
    share = -(-c.blocks // machine.processors) / max(c.blocks, 1)
    sectors = sum(t.pieces for t in (c.global_loads, c.global_stores, c.global_atomics))
    wavefronts = sum(t.pieces for t in (c.shared_loads, c.shared_stores, c.shared_atomics))
    cycles = {
        "issue": sum(kinds.values()) / ISSUE,
        "shared memory": wavefronts,
        "f32": _WARP * kinds.get("f32", 0) / machine.f32,
        "f64": _WARP * kinds.get("f64", 0) / machine.f64,
        "special functions": _WARP * kinds.get("special functions", 0) / SPECIAL,
        "tensor": c.tensor_flops / machine.tensor,
    }
    return {
        "DRAM": operand_bytes / (machine.dram_gbs * 1e9),
        "L2": sectors * SECTOR / (machine.l2_clock * clock),
        **{part: share * n / clock for part, n in cycles.items()},
    }
