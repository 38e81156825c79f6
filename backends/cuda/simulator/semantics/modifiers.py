"""The modifiers that each instruction is modelled with: any other one is refused, not ignored."""

from __future__ import annotations

from collections.abc import Mapping

from ..code import Assembly
from ..ptx import Instruction
from ..scalars import SCALARS

_ROUNDING = "rn rz rm rp"
_FLOAT = f"{_ROUNDING} ftz sat"
_COMPARE = "eq ne lt le gt ge lo ls hi hs equ neu ltu leu gtu geu num nan and or xor ftz"
_SPACES = "global shared shared::cta local const param"
_ORDER = "weak volatile relaxed acquire release acq_rel sys gpu cta cluster mmio"
_CACHE = (
    "ca cg cs lu cv wb wt nc v2 v4 v8 unified L1::evict_normal L1::evict_unchanged L1::evict_first "
    "L1::evict_last L1::no_allocate L2::64B L2::128B L2::256B L2::evict_normal L2::evict_first "
    "L2::evict_last"
)
_MEMORY = f"{_SPACES} {_ORDER} {_CACHE}"
_ATOMIC = f"{_SPACES} {_ORDER} add min max inc dec and or xor exch cas noftz"

_ALLOWED: Mapping[str, str] = {
    "add": f"{_FLOAT} cc",
    "addc": "cc",
    "sub": f"{_FLOAT} cc",
    "subc": "cc",
    "mul": f"{_FLOAT} lo hi wide",
    "mad": f"{_FLOAT} lo hi wide cc",
    "madc": "lo hi cc",
    "fma": f"{_FLOAT} relu",
    "div": f"{_ROUNDING} ftz approx full",
    "rem": "",
    "abs": "ftz",
    "neg": "ftz",
    "min": "ftz NaN xorsign abs relu",
    "max": "ftz NaN xorsign abs relu",
    "sad": "",
    "dp4a": "",
    "dp2a": "lo hi",
    "rcp": f"{_ROUNDING} ftz approx",
    "sqrt": f"{_ROUNDING} ftz approx",
    "rsqrt": "ftz approx",
    "ex2": "ftz approx",
    "lg2": "ftz approx",
    "sin": "ftz approx",
    "cos": "ftz approx",
    "tanh": "approx",
    "copysign": "",
    "cvt": f"{_FLOAT} rni rzi rmi rpi rna relu satfinite",
    "cvta": f"{_SPACES} to",
    "mov": "",
    "and": "",
    "or": "",
    "xor": "",
    "not": "",
    "cnot": "",
    "shl": "",
    "shr": "",
    "shf": "l r wrap clamp",
    "lop3": "",
    "prmt": "f4e b4e rc8 ecl ecr rc16",
    "bfe": "",
    "bfi": "",
    "popc": "",
    "clz": "",
    "bfind": "shiftamt",
    "brev": "",
    "setp": _COMPARE,
    "set": _COMPARE,
    "selp": "",
    "slct": "ftz",
    "testp": "finite infinite number notanumber normal subnormal",
    "ld": _MEMORY,
    "ldu": _MEMORY,
    "st": _MEMORY,
    "atom": _ATOMIC,
    "red": _ATOMIC,
    "shfl": "sync up down bfly idx",
    "vote": "sync all any uni ballot",
    "match": "sync any all",
    "redux": "sync add min max and or xor",
    "activemask": "",
    "elect": "sync",
    "bar": "warp sync",
    "ldmatrix": "sync aligned m8n8 x1 x2 x4 trans shared shared::cta",
    "stmatrix": "sync aligned m8n8 x1 x2 x4 trans shared shared::cta",
    "mma": "sync aligned row col satfinite m16n8k16 m16n8k8 m16n8k4 m16n8k32 m8n8k16 m8n8k4",
    "cp": (
        "async ca cg shared shared::cta global commit_group wait_group wait_all "
        "L2::64B L2::128B L2::256B"
    ),
    "membar": "cta gl sys",
    "fence": f"{_ORDER} sc",
}
_KNOWN = {opcode: frozenset(words.split()) for opcode, words in _ALLOWED.items()}


def check_modifiers(code: Assembly, instruction: Instruction) -> None:
    """Refuses modifiers that the instruction is not modelled with; hints take any.

    Raises:
        PtxError: there is one (TW-E1012).
    """
    known = _KNOWN.get(instruction.opcode)
    if known is None:
        return
    for modifier in instruction.modifiers:
        if modifier not in known and modifier not in SCALARS:
            raise code.fail(f".{modifier} is not modelled")
