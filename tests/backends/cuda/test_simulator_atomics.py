"""Atomic changes of one place by many lanes, each in turn."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest

from tilewright.backends.cuda.simulator import Simulator

from .instruction import HEAD, Array, values


def one_place(
    operation: str, kind: str, start: int, given: list[Array], bits: int = 32
) -> tuple[Array, int]:
    """What 128 lanes find in one place that all of them change, and what is there at last."""
    operands = ", ".join(["%a", "%b"][: len(given)])
    registers = "".join(f".reg .b{bits} %{n}; " for n in "dab")
    loads = "".join(
        f"ld.param.u64 %x, [{p}]; mad.wide.u32 %x, %t, {bits // 8}, %x; "
        f"ld.global.b{bits} %{n}, [%x]; "
        for p, n in (("A", "a"), ("B", "b"))[: len(given)]
    )
    text = f"""{HEAD}
    .visible .entry change(.param .u64 P, .param .u64 O, .param .u64 A, .param .u64 B) {{
        {registers} .reg .b32 %t; .reg .b64 %x; .reg .b64 %y;
        mov.u32 %t, %tid.x; {loads}
        ld.param.u64 %y, [P];
        atom.global.{operation}.{kind} %d, [%y], {operands};
        ld.param.u64 %x, [O]; mad.wide.u32 %x, %t, {bits // 8}, %x;
        st.global.b{bits} [%x], %d;
        ret; }}"""
    simulator = Simulator()
    dtype = np.dtype(f"u{bits // 8}")
    place = simulator.place(np.array([start], dtype))
    out = simulator.allocate(bits // 8 * 128)
    args = [simulator.place(g) for g in given] + [0] * (2 - len(given))
    simulator.launch(simulator.load(text).kernel("change"), 1, 128, (place, out, *args))
    found = simulator.copy_out(out, (128,), dtype)
    return found, int(simulator.copy_out(place, (1,), dtype)[0])


ATOMICS: dict[str, Callable[..., int]] = {
    "add.u32": lambda old, a: old + a,
    "add.u64": lambda old, a: old + a,
    "min.u32": min,
    "max.u32": max,
    "min.s32": lambda old, a: min((old, a), key=lambda x: x - (x >> 31 << 32)),
    "max.s32": lambda old, a: max((old, a), key=lambda x: x - (x >> 31 << 32)),
    "and.b32": lambda old, a: old & a,
    "or.b32": lambda old, a: old | a,
    "xor.b32": lambda old, a: old ^ a,
    "exch.b32": lambda old, a: a,
    "inc.u32": lambda old, a: 0 if old >= a else old + 1,
    "dec.u32": lambda old, a: a if old == 0 or old > a else old - 1,
    "cas.b32": lambda old, a, b: b if old == a else old,
    "cas.b64": lambda old, a, b: b if old == a else old,
}


@pytest.mark.parametrize("name", ATOMICS)
def test_atomics_change_one_place_in_turn(name: str) -> None:
    operation, kind = name.split(".")
    bits = int(kind[1:])
    rng = np.random.default_rng(9)
    count = 2 if operation == "cas" else 1
    given = [rng.integers(0, 5, 128).astype(f"u{bits // 8}") for _ in range(count)]
    if operation in ("add", "min", "max", "and", "or", "xor"):
        given = [values(bits, 1, 180)[:128]]
    found, final = one_place(operation, kind, 3, given, bits)
    there = 3
    for at in range(128):
        assert int(found[at]) == there
        there = ATOMICS[name](there, *[int(g[at]) for g in given]) & ((1 << bits) - 1)
    assert final == there


def test_atomic_sums_of_floats() -> None:
    given = np.arange(128, dtype=np.float32)
    found, final = one_place("add", "f32", 0, [given.view(np.uint32)])
    assert struct.unpack("<f", struct.pack("<I", final))[0] == given.sum()
    np.testing.assert_array_equal(found.view(np.float32)[1:], np.cumsum(given)[:-1])
    ones = np.ones(128, np.float16)
    found, final = one_place("add.noftz", "f16", 0, [ones.view(np.uint16)], 16)
    assert np.array([final], np.uint16).view(np.float16)[0] == 128
    pairs = np.full(128, 0x3C003C00, np.uint32)
    _, final = one_place("add.noftz", "f16x2", 0, [pairs], 32)
    np.testing.assert_array_equal(np.array([final], np.uint32).view(np.float16), [128, 128])
