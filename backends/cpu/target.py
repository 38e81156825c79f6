"""CPU targets by name, as a table, and what the CPU that runs this program can do.

A target is a line of data: LLVM's names, the width and number of vector registers, and which
instructions there are. The recipes and the emitter read nothing else.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from tilewright.errors import TargetError
from tilewright.target import Target

_X86 = "x86_64-unknown-linux-gnu"
_ARM = "aarch64-unknown-linux-gnu"
_RISCV = "riscv64-unknown-linux-gnu"
_WASM = "wasm32-unknown-unknown"
_CPUINFO = Path("/proc/cpuinfo")
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
_SIZES = (32 << 10, 1 << 20, 16 << 20)


def _level(
    name: str, cpu: str, features: dict[str, str], sizes: tuple[int, int, int] = _SIZES
) -> Target:
    wide = "avx512f" in features
    enabled = [f"+{f}" for f in features.values()]
    # LLVM would otherwise split 512-bit vectors, for CPUs that once clocked down for them.
    width = ["-prefer-256-bit"] if wide else []
    return Target(
        name=name,
        backend="cpu",
        triple=_X86,
        cpu=cpu,
        features=",".join([*enabled, *width]),
        required=tuple(features),
        vector_bits=512 if wide else 256 if "avx2" in features else 128,
        vector_registers=32 if wide else 16,
        masked=wide,
        l1_bytes=sizes[0],
        l2_bytes=sizes[1],
        l3_bytes=sizes[2],
        fma="fma" in features,
        half="f16c" in features,
        gather="avx2" in features,
    )


def _riscv(name: str, bits: int, features: str) -> Target:
    return Target(
        name=name,
        backend="cpu",
        triple=_RISCV,
        cpu="generic-rv64",
        features=f"+m,+a,+f,+d,+c,{features}",
        required=tuple(features.replace("+", "").split(",")),
        vector_bits=bits,
        vector_registers=32,
        masked=True,
        l1_bytes=32 << 10,
        l2_bytes=512 << 10,
        l3_bytes=4 << 20,
        fma=True,
        gather=True,
        abi="lp64d",
        scales=(bits // 64, 0),
    )


_NEON = Target(
    name="aarch64",
    backend="cpu",
    triple=_ARM,
    cpu="generic",
    features="+fp-armv8,+neon",
    required=("asimd",),
    vector_bits=128,
    vector_registers=32,
    masked=False,
    l1_bytes=32 << 10,
    l2_bytes=512 << 10,
    l3_bytes=4 << 20,
    fma=True,
    half=True,
)

TARGETS: Mapping[str, Target] = {
    t.name: t
    for t in (
        *(_level(name, name, features) for name, features in _LEVELS.items()),
        _NEON,
        # SVE code for one vector length: a vector register is then as plain as NEON's.
        replace(
            _NEON,
            name="aarch64-sve256",
            features="+fp-armv8,+neon,+fullfp16,+sve",
            required=("asimd", "fphp", "sve"),
            vector_bits=256,
            masked=True,
            gather=True,
            attributes="nounwind vscale_range(2,2)",
            scales=(2, 2),
        ),
        # Vectors of 128 bits are there wherever the vector extension is; longer ones by name.
        _riscv("riscv64", 128, "+v"),
        _riscv("riscv64-zvl256b", 256, "+v,+zvl256b"),
        Target(
            name="wasm32",
            backend="cpu",
            triple=_WASM,
            cpu="generic",
            features="+simd128,+bulk-memory,+nontrapping-fptoint,+sign-ext,+mutable-globals",
            required=("simd128",),
            vector_bits=128,
            vector_registers=16,
            masked=False,
            l1_bytes=32 << 10,
            l2_bytes=512 << 10,
            l3_bytes=4 << 20,
            relocation="static",
        ),
    )
}
"""Every CPU target but ``native``, by name."""

TARGET_NAMES = ("native", *TARGETS)


def resolve_target(name: str = "native") -> Target:
    """Returns the description of a CPU target.

    Args:
        name: ``native`` (this machine, with its caches) or a name in TARGETS.

    Raises:
        TargetError: an unknown name, or ``native`` on a CPU below x86-64-v2.
    """
    if name == "native":
        return _native()
    found = TARGETS.get(name)
    if found is None:
        raise TargetError(
            f"target: {name!r} is not known; the CPU targets are {', '.join(TARGET_NAMES)}",
            code="TW-E0401",
        )
    return found


def runs_here(target: Target) -> bool:
    """Whether the code is for this kind of processor (which may still lack features)."""
    return target.architecture == _host_architecture()


def missing_features(target: Target) -> tuple[str, ...]:
    """The CPU features (Linux names) that code for ``target`` needs and this CPU lacks."""
    present = host_features() if runs_here(target) else frozenset()
    return tuple(f for f in target.required if f not in present)


@lru_cache(maxsize=1)
def host_features() -> frozenset[str]:
    """The features of this CPU that the system lets programs use, by their Linux names."""
    known = {**_V4, **_EXTRAS}
    try:
        told = re.search(r"^flags\s*:(.*)$", _CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        told = None
    return frozenset(known) & frozenset(told[1].split() if told else ())


def _host_architecture() -> str:
    return platform.machine()


def _native() -> Target:
    if _host_architecture() != "x86_64":
        raise TargetError(
            f"target: native code is made for x86-64 CPUs, and this one is "
            f"{_host_architecture()}; compile or export for a target by its name",
            code="TW-E0402",
        )
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
    return _level("native", base, features, _cache_sizes())


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
