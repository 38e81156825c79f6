"""Integer, bit and comparison instructions against formulas in Python's integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from .instruction import Case, apply, values

Formula = Callable[..., int]


def signed(x: int, bits: int) -> int:
    return x - (1 << bits) if x >> (bits - 1) else x


def clip(x: int, bits: int = 32) -> int:
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, x))


def truncated(a: int, b: int) -> int:
    if b == 0:
        return -1
    q = abs(a) // abs(b)
    return q if (a < 0) == (b < 0) else -q


def rest(a: int, b: int) -> int:
    return a if b == 0 else a - b * truncated(a, b)


def check(text: str, result: int, operands: tuple[int, ...], formula: Formula) -> None:
    given = [values(bits, seed) for seed, bits in enumerate(operands)]
    (found,) = apply(Case(text, (result,), operands), given)
    for at in range(len(found)):
        inputs = [int(g[at]) for g in given]
        expected = int(formula(*inputs)) & ((1 << result) - 1)
        assert int(found[at]) == expected, (text, [hex(i) for i in inputs])


ARITHMETIC: dict[str, Formula] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "div": truncated,
    "rem": rest,
    "min": min,
    "max": max,
}


@pytest.mark.parametrize("operation", ARITHMETIC)
@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_arithmetic_wraps_and_divides_towards_zero(operation: str, kind: str) -> None:
    bits = int(kind[1:])
    cast = signed if kind[0] == "s" else (lambda x, _: x)
    check(
        f"{operation}.{kind} %d, %a, %b",
        bits,
        (bits, bits),
        lambda a, b: ARITHMETIC[operation](cast(a, bits), cast(b, bits)),
    )


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_high_and_wide_products_are_exact(kind: str) -> None:
    bits = int(kind[1:])
    cast = signed if kind[0] == "s" else (lambda x, _: x)

    def product(a: int, b: int) -> int:
        return cast(a, bits) * cast(b, bits)

    check(f"mul.hi.{kind} %d, %a, %b", bits, (bits, bits), lambda a, b: product(a, b) >> bits)
    check(f"mad.lo.{kind} %d, %a, %b, %c", bits, (bits,) * 3, lambda a, b, c: product(a, b) + c)
    check(
        f"mad.hi.{kind} %d, %a, %b, %c",
        bits,
        (bits,) * 3,
        lambda a, b, c: (product(a, b) >> bits) + c,
    )
    if bits < 64:
        check(f"mul.wide.{kind} %d, %a, %b", 2 * bits, (bits, bits), product)
        check(
            f"mad.wide.{kind} %d, %a, %b, %c",
            2 * bits,
            (bits, bits, 2 * bits),
            lambda a, b, c: product(a, b) + c,
        )


@pytest.mark.parametrize("kind", ["s16", "s32", "s64"])
def test_abs_neg_and_sad(kind: str) -> None:
    bits = int(kind[1:])
    check(f"abs.{kind} %d, %a", bits, (bits,), lambda a: abs(signed(a, bits)))
    check(f"neg.{kind} %d, %a", bits, (bits,), lambda a: -a)
    check(
        f"sad.{kind} %d, %a, %b, %c",
        bits,
        (bits,) * 3,
        lambda a, b, c: c + abs(signed(a, bits) - signed(b, bits)),
    )


def test_saturated_sums_stop_at_the_ends() -> None:
    for name, function in (("add", lambda a, b: a + b), ("sub", lambda a, b: a - b)):
        check(
            f"{name}.sat.s32 %d, %a, %b",
            32,
            (32, 32),
            lambda a, b, f=function: clip(f(signed(a, 32), signed(b, 32))),
        )
    check(
        "mad.hi.sat.s32 %d, %a, %b, %c",
        32,
        (32, 32, 32),
        lambda a, b, c: clip((signed(a, 32) * signed(b, 32) >> 32) + signed(c, 32)),
    )


def test_carries_add_and_subtract_128_bits() -> None:
    given = [values(64, seed) for seed in range(3)]
    text = "add.cc.u64 %d, %a, %b; addc.cc.u64 %e, %b, %c; addc.u64 %f, 0, 0"
    low, high, carry = apply(Case(text, (64, 64, 64), (64, 64, 64)), given)
    down = "sub.cc.u64 %d, %a, %b; subc.cc.u64 %e, %b, %c; subc.u64 %f, 0, 0"
    low2, high2, borrow = apply(Case(down, (64, 64, 64), (64, 64, 64)), given)
    for at, (a, b, c) in enumerate(zip(*[g.tolist() for g in given], strict=True)):
        total = (a + (b << 64)) + (b + (c << 64))
        found = int(low[at]) + (int(high[at]) << 64) + (int(carry[at]) << 128)
        assert found == total
        difference = ((a + (b << 64)) - (b + (c << 64))) % (1 << 192)
        found = int(low2[at]) + (int(high2[at]) << 64) + (int(borrow[at]) << 128)
        assert found == difference


def test_products_with_carry_make_a_64_bit_product() -> None:
    given = [values(32, seed) for seed in range(3)]
    text = "mad.lo.cc.u32 %d, %a, %b, %c; madc.hi.u32 %e, %a, %b, %c"
    low, high = apply(Case(text, (32, 32), (32, 32, 32)), given)
    for at, (a, b, c) in enumerate(zip(*[g.tolist() for g in given], strict=True)):
        assert int(low[at]) + (int(high[at]) << 32) == (a * b + c + (c << 32)) % (1 << 64)


def test_dot_products_of_bytes() -> None:
    def parts(x: int, width: int, sign: bool) -> list[int]:
        found = [(x >> (width * i)) & ((1 << width) - 1) for i in range(32 // width)]
        return [signed(p, width) for p in found] if sign else found

    for left in ("u32", "s32"):
        for right in ("u32", "s32"):

            def four(a: int, b: int, c: int, s: str = left, t: str = right) -> int:
                pairs = zip(parts(a, 8, s == "s32"), parts(b, 8, t == "s32"), strict=True)
                return c + sum(x * y for x, y in pairs)

            def two(a: int, b: int, c: int, s: str = left, t: str = right) -> int:
                pairs = zip(parts(a, 16, s == "s32"), parts(b, 8, t == "s32")[2:], strict=True)
                return c + sum(x * y for x, y in pairs)

            check(f"dp4a.{left}.{right} %d, %a, %b, %c", 32, (32, 32, 32), four)
            check(f"dp2a.hi.{left}.{right} %d, %a, %b, %c", 32, (32, 32, 32), two)


def test_pairs_of_16_bits() -> None:
    def halves(x: int) -> tuple[int, int]:
        return signed(x & 0xFFFF, 16), signed(x >> 16, 16)

    def joined(low: int, high: int) -> int:
        return (low & 0xFFFF) | (high & 0xFFFF) << 16

    for name, function in (("add", lambda a, b: a + b), ("min", min), ("max", max)):
        check(
            f"{name}.s16x2 %d, %a, %b",
            32,
            (32, 32),
            lambda a, b, f=function: joined(
                *(f(x, y) for x, y in zip(halves(a), halves(b), strict=True))
            ),
        )


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_bitwise(bits: int) -> None:
    check(f"and.b{bits} %d, %a, %b", bits, (bits, bits), lambda a, b: a & b)
    check(f"or.b{bits} %d, %a, %b", bits, (bits, bits), lambda a, b: a | b)
    check(f"xor.b{bits} %d, %a, %b", bits, (bits, bits), lambda a, b: a ^ b)
    check(f"not.b{bits} %d, %a", bits, (bits,), lambda a: ~a)
    check(f"cnot.b{bits} %d, %a", bits, (bits,), lambda a: int(a == 0))


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_shifts_beyond_the_width_shift_everything_out(bits: int) -> None:
    check(f"shl.b{bits} %d, %a, %b", bits, (bits, 32), lambda a, b: a << min(b, 99))
    check(f"shr.u{bits} %d, %a, %b", bits, (bits, 32), lambda a, b: a >> min(b, 99))
    check(f"shr.s{bits} %d, %a, %b", bits, (bits, 32), lambda a, b: signed(a, bits) >> min(b, 99))
    check(f"shl.b{bits} %d, %a, 3", bits, (bits,), lambda a: a << 3)
    check(f"shr.s{bits} %d, %a, 5", bits, (bits,), lambda a: signed(a, bits) >> 5)
    check(f"shr.u{bits} %d, %a, {bits}", bits, (bits,), lambda a: 0)


def test_funnel_shifts() -> None:
    def funnel(a: int, b: int, count: int, left: bool) -> int:
        wide = b << 32 | a
        return (wide << count >> 32) if left else wide >> count

    for side in "lr":
        for mode in ("wrap", "clamp"):
            check(
                f"shf.{side}.{mode}.b32 %d, %a, %b, %c",
                32,
                (32, 32, 32),
                lambda a, b, c, s=side, m=mode: funnel(
                    a, b, min(c, 32) if m == "clamp" else c & 31, s == "l"
                ),
            )


@pytest.mark.parametrize("table", [0x00, 0x1E, 0x80, 0x96, 0xB8, 0xE8, 0xF6, 0xFF])
def test_lop3_is_any_function_of_three_bits(table: int) -> None:
    def formula(a: int, b: int, c: int) -> int:
        out = 0
        for bit in range(32):
            row = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | (c >> bit & 1)
            out |= (table >> row & 1) << bit
        return out

    check(f"lop3.b32 %d, %a, %b, %c, {table}", 32, (32, 32, 32), formula)


def test_prmt_picks_bytes() -> None:
    def general(a: int, b: int, c: int) -> int:
        octets = [(b << 32 | a) >> (8 * i) & 255 for i in range(8)]
        out = 0
        for i in range(4):
            nibble = c >> (4 * i) & 15
            byte = octets[nibble & 7]
            out |= ((255 if byte & 128 else 0) if nibble & 8 else byte) << (8 * i)
        return out

    check("prmt.b32 %d, %a, %b, %c", 32, (32, 32, 32), general)
    modes = {"f4e": 1, "b4e": -1}
    for mode, direction in modes.items():
        check(
            f"prmt.b32.{mode} %d, %a, %b, %c",
            32,
            (32, 32, 32),
            lambda a, b, c, s=direction: sum(
                ((b << 32 | a) >> (8 * ((c % 4 + s * i) % 8)) & 255) << (8 * i) for i in range(4)
            ),
        )
    check(
        "prmt.b32.rc8 %d, %a, %b, %c",
        32,
        (32, 32, 32),
        lambda a, b, c: (a >> (8 * (c % 4)) & 255) * 0x01010101,
    )
    check(
        "prmt.b32.rc16 %d, %a, %b, %c",
        32,
        (32, 32, 32),
        lambda a, b, c: (a >> (16 * (c % 2)) & 0xFFFF) * 0x00010001,
    )
    check(
        "prmt.b32.ecl %d, %a, %b, %c",
        32,
        (32, 32, 32),
        lambda a, b, c: sum((a >> (8 * max(i, c % 4)) & 255) << (8 * i) for i in range(4)),
    )
    check(
        "prmt.b32.ecr %d, %a, %b, %c",
        32,
        (32, 32, 32),
        lambda a, b, c: sum((a >> (8 * min(i, c % 4)) & 255) << (8 * i) for i in range(4)),
    )


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_fields_of_bits(kind: str) -> None:
    bits = int(kind[1:])

    def extract(a: int, start: int, count: int) -> int:
        start, count = start & 255, count & 255
        wide = signed(a, bits) if kind[0] == "s" else a
        if count == 0:
            return 0
        field = (wide >> start) & ((1 << count) - 1)
        if kind[0] == "s":
            last = wide >> min(start + count - 1, bits - 1) & 1
            return field | (-1 << count) if last else field
        return field

    check(f"bfe.{kind} %d, %a, %b, %c", bits, (bits, 32, 32), extract)


@pytest.mark.parametrize("bits", [32, 64])
def test_insertion_and_counts_of_bits(bits: int) -> None:
    width = f"b{bits}"

    def insert(a: int, b: int, start: int, count: int) -> int:
        mask = ((1 << count) - 1) << start & ((1 << bits) - 1)
        return (b & ~mask) | (a << start & mask)

    for start, count in ((0, 8), (5, 11), (bits - 4, 9), (bits, 3), (3, 0), (0, bits)):
        check(
            f"bfi.{width} %d, %a, %b, {start}, {count}",
            bits,
            (bits, bits),
            lambda a, b, s=start, n=count: insert(a, b, s, n),
        )
    check(f"popc.{width} %d, %a", 32, (bits,), int.bit_count)
    check(f"clz.{width} %d, %a", 32, (bits,), lambda a: bits - a.bit_length())
    check(f"brev.{width} %d, %a", bits, (bits,), lambda a: int(f"{a:0{bits}b}"[::-1], 2))
    check(f"bfind.u{bits} %d, %a", 32, (bits,), lambda a: a.bit_length() - 1)
    check(
        f"bfind.s{bits} %d, %a",
        32,
        (bits,),
        lambda a: (a if signed(a, bits) >= 0 else ~a & ((1 << bits) - 1)).bit_length() - 1,
    )
    check(
        f"bfind.shiftamt.u{bits} %d, %a",
        32,
        (bits,),
        lambda a: bits - a.bit_length() if a else -1,
    )


COMPARE: dict[str, Formula] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("name", COMPARE)
def test_comparisons_follow_the_sign(kind: str, name: str) -> None:
    bits = int(kind[1:])
    cast = signed if kind[0] == "s" else (lambda x, _: x)
    check(
        f"setp.{name}.{kind} %d, %a, %b",
        1,
        (bits, bits),
        lambda a, b: COMPARE[name](cast(a, bits), cast(b, bits)),
    )


def test_setp_combines_with_a_predicate_and_gives_both() -> None:
    given = [values(32, seed) for seed in range(2)]
    for name, join in (("and", np.logical_and), ("or", np.logical_or), ("xor", np.logical_xor)):
        text = f"setp.lt.u32 %f, %a, 9; setp.gt.{name}.s32 %d|%e, %a, %b, !%f"
        yes, no, _ = apply(Case(text, (1, 1, 1), (32, 32)), given)
        greater = given[0].view(np.int32) > given[1].view(np.int32)
        other = given[0] >= 9
        np.testing.assert_array_equal(yes, join(greater, other))
        np.testing.assert_array_equal(no, join(~greater, other))


def test_predicates_have_logic_of_their_own() -> None:
    given = [values(32, seed) for seed in range(2)]
    text = "setp.lt.u32 %d, %a, %b; setp.lt.s32 %e, %a, %b; xor.pred %f, %d, %e; not.pred %g, %f"
    d, e, f, g = apply(Case(text, (1, 1, 1, 1), (32, 32)), given)
    np.testing.assert_array_equal(f, d ^ e)
    np.testing.assert_array_equal(g, 1 - f)


def test_choices() -> None:
    check(
        "setp.lt.u32 %e, %c, 40; selp.b32 %d, %a, %b, %e".replace("%e", "%q").replace(
            "setp", ".reg .pred %q; setp", 1
        ),
        32,
        (32, 32, 32),
        lambda a, b, c: a if c < 40 else b,
    )
    check(
        "slct.b64.s32 %d, %a, %b, %c",
        64,
        (64, 64, 32),
        lambda a, b, c: a if signed(c, 32) >= 0 else b,
    )
    check("set.lt.u32.s32 %d, %a, %b", 32, (32, 32), lambda a, b: -(signed(a, 32) < signed(b, 32)))


def test_registers_are_packed_and_unpacked() -> None:
    check("mov.b64 %d, {%a, %b}", 64, (32, 32), lambda a, b: a | b << 32)
    check("mov.b32 %d, {%a, %b}", 32, (16, 16), lambda a, b: a | b << 16)
    given = [values(64)]
    low, high = apply(Case("mov.b64 {%d, %e}, %a", (32, 32), (64,)), given)
    np.testing.assert_array_equal(low, given[0] & 0xFFFFFFFF)
    np.testing.assert_array_equal(high, given[0] >> 32)
    (third,) = apply(
        Case(".reg .b16 %t; mov.b64 {_, _, %t, _}, %a; cvt.u32.u16 %d, %t", (32,), (64,)), given
    )
    np.testing.assert_array_equal(third, given[0] >> 32 & 0xFFFF)


INTEGERS = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"]


@pytest.mark.parametrize("to", INTEGERS)
@pytest.mark.parametrize("of", INTEGERS)
def test_integers_convert_by_wrapping_or_saturation(to: str, of: str) -> None:
    wide, narrow = int(of[1:]), int(to[1:])
    source, result = max(16, wide), max(16, narrow)

    def value(a: int) -> int:
        a &= (1 << wide) - 1
        return signed(a, wide) if of[0] == "s" else a

    def kept(x: int) -> int:
        x &= (1 << narrow) - 1
        return signed(x, narrow) if to[0] == "s" else x

    check(f"cvt.{to}.{of} %d, %a", result, (source,), lambda a: kept(value(a)))
    low = -(1 << (narrow - 1)) if to[0] == "s" else 0
    high = low + (1 << narrow) - 1
    first = -(1 << (wide - 1)) if of[0] == "s" else 0
    if low <= first and first + (1 << wide) - 1 <= high:
        # PTX has .sat only where it can change something.
        return
    check(
        f"cvt.sat.{to}.{of} %d, %a",
        result,
        (source,),
        lambda a: max(low, min(high, value(a))),
    )
