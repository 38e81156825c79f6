"""CPU targets by name, and what the CPU that runs this program can do."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import llvmlite.binding as llvm

from tilewright.errors import TargetError
from tilewright.target import Target

_TRIPLE = "x86_64-unknown-linux-gnu"
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
# Linux name -> LLVM name, level by level of the x86-64 psABI.
_V2 = {"cx16": "cx16", "lahf_lm": "sahf", "popcnt": "popcnt", "pni": "sse3", "ssse3": "ssse3",
       "sse4_1": "sse4.1", "sse4_2": "sse4.2"}  # fmt: skip
_V3 = {**_V2, "avx": "avx", "avx2": "avx2", "bmi1": "bmi", "bmi2": "bmi2", "f16c": "f16c",
       "fma": "fma", "abm": "lzcnt", "movbe": "movbe", "xsave": "xsave"}  # fmt: skip
_V4 = {**_V3, "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512cd": "avx512cd",
       "avx512dq": "avx512dq", "avx512vl": "avx512vl"}  # fmt: skip
_LEVELS = {"x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4}
# Beyond the levels, what generated code may use when it is compiled for one machine.
_EXTRAS = {"avx512_vnni": "avx512vnni", "avx512_bf16": "avx512bf16", "avx_vnni": "avxvnni",
           "avx512vbmi": "avx512vbmi", "avx512_vbmi2": "avx512vbmi2"}  # fmt: skip
TARGET_NAMES = ("native", *_LEVELS)
_SIZES = (32 << 10, 1 << 20, 16 << 20)


def resolve_target(name: str = "native") -> Target:
    """Returns the description of a CPU target.

    Args:
        name: ``native`` (this machine, with its caches) or an x86-64 level: ``x86-64-v2``,
            ``x86-64-v3``, ``x86-64-v4``.

    Raises:
        TargetError: an unknown name, or ``native`` on a CPU below x86-64-v2.
    """
    if name == "native":
        return _native()
    level = _LEVELS.get(name)
    if level is None:
        raise TargetError(
            f"target: {name!r} is not known; the CPU targets are {', '.join(TARGET_NAMES)}",
            code="TW-E0401",
        )
    return _target(name, name, level, _SIZES)


def missing_features(target: Target) -> tuple[str, ...]:
    """The CPU features (Linux names) that code for ``target`` needs and this CPU lacks."""
    present = host_features()
    return tuple(f for f in target.required if f not in present)


@lru_cache(maxsize=1)
def host_features() -> frozenset[str]:
    """The features of this CPU that the system lets programs use, by their Linux names."""
    flags = llvm.get_host_cpu_features()
    known = {**_V4, **_EXTRAS}
    return frozenset(linux for linux, name in known.items() if flags.get(name, False))


def _native() -> Target:
    present = host_features()
    base = next((n for n in reversed(_LEVELS) if _LEVELS[n].keys() <= present), None)
    if base is None:
        lacking = ", ".join(sorted(_V2.keys() - present))
        raise TargetError(
            f"target: this CPU lacks {lacking}, and generated code needs at least x86-64-v2",
            code="TW-E0402",
        )
    features = dict(_LEVELS[base])
    features.update({linux: f for linux, f in _EXTRAS.items() if linux in present})
    # LLVM gets the level, not the CPU's name: a name brings in instructions that ``required``
    # does not list, so code could meet a CPU without them; and equal CPUs share cached code.
    return _target("native", base, features, _cache_sizes())


def _target(name: str, cpu: str, features: dict[str, str], sizes: tuple[int, int, int]) -> Target:
    wide = "avx512f" in features
    enabled = [f"+{f}" for f in features.values()]
    # LLVM would otherwise split 512-bit vectors, for CPUs that once clocked down for them.
    width = ["-prefer-256-bit"] if wide else []
    return Target(
        name=name,
        backend="cpu",
        triple=_TRIPLE,
        cpu=cpu,
        features=",".join([*enabled, *width]),
        required=tuple(features),
        vector_bits=512 if wide else 256 if "avx2" in features else 128,
        vector_registers=32 if wide else 16,
        masked=wide,
        l1_bytes=sizes[0],
        l2_bytes=sizes[1],
        l3_bytes=sizes[2],
    )


def _cache_sizes() -> tuple[int, int, int]:
    """L1 data, L2 and L3 sizes as the system reports them, or common ones where it does not."""
    sizes = dict(zip((1, 2, 3), _SIZES, strict=True))
    for index in sorted(_CACHES.glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            level = int((index / "level").read_text())
            text = (index / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        match = re.fullmatch(r"(\d+)([KMG]?)", text)
        if kind != "Instruction" and level in sizes and match:
            sizes[level] = int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
    return sizes[1], sizes[2], sizes[3]
