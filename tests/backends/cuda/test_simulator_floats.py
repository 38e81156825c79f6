"""Floating-point instructions and conversions against exact fractions."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from .exact import FORMATS, arithmetic, is_nan, number
from .instruction import Array, Case, apply, floats, values

BITS = {"f16": 16, "bf16": 16, "f32": 32, "f64": 64}


def check(
    text: str,
    result: str,
    sources: list[str],
    formula: Callable[..., int],
    given: list[Array] | None = None,
) -> None:
    """Compares bits; any NaN is as good as another."""
    given = given or [floats(name, seed) for seed, name in enumerate(sources)]
    (found,) = apply(Case(text, (BITS[result],), tuple(BITS[s] for s in sources)), given)
    for at in range(len(found)):
        inputs = [int(g[at]) for g in given]
        expected, got = formula(*inputs), int(found[at])
        if is_nan(expected, result) and is_nan(got, result):
            continue
        assert got == expected, (text, [hex(i) for i in inputs], hex(got), hex(expected))


def subnormal(code: int, name: str) -> bool:
    return code & (FORMATS[name].encode(math.inf)) == 0


def flushed(code: int, name: str) -> int:
    return code & 1 << (BITS[name] - 1) if subnormal(code, name) else code


def unit(code: int, name: str) -> int:
    """Clamped to [0, 1]; NaN is 0."""
    value = number(code, name)
    if not value > 0:
        return 0
    return FORMATS[name].encode(1.0) if value > 1 else code


@pytest.mark.parametrize("operation", ["add", "sub", "mul", "fma", "div", "sqrt"])
@pytest.mark.parametrize("direction", ["rn", "rz", "rm", "rp"])
def test_f32_is_rounded_once_in_any_direction(operation: str, direction: str) -> None:
    count = {"fma": 3, "sqrt": 1}.get(operation, 2)
    operands = ", ".join(["%a", "%b", "%c"][:count])
    check(
        f"{operation}.{direction}.f32 %d, {operands}",
        "f32",
        ["f32"] * count,
        lambda *codes: arithmetic(operation, "f32", list(codes), direction),
    )


def test_f32_fma_does_not_round_twice() -> None:
    # The sum lies just beside a midpoint of f32, where f64 would round onto it.
    a = np.array([0x3F800001, 0x3F800001, 0x4B800001], np.uint32)
    b = np.array([0x3F800001, 0xBF800001, 0x3F800000], np.uint32)
    c = np.array([0x33800000, 0x33000001, 0x1E800000], np.uint32)
    check(
        "fma.rn.f32 %d, %a, %b, %c",
        "f32",
        ["f32"] * 3,
        lambda *codes: arithmetic("fma", "f32", list(codes)),
        [np.resize(x, 12) for x in (a, b, c)],
    )


@pytest.mark.parametrize("operation", ["add", "sub", "mul", "fma", "div", "sqrt"])
def test_f64_is_rounded_to_nearest(operation: str) -> None:
    count = {"fma": 3, "sqrt": 1}.get(operation, 2)
    operands = ", ".join(["%a", "%b", "%c"][:count])
    check(
        f"{operation}.rn.f64 %d, {operands}",
        "f64",
        ["f64"] * count,
        lambda *codes: arithmetic(operation, "f64", list(codes)),
    )


def test_f64_fma_at_the_ends_of_its_range() -> None:
    rng = np.random.default_rng(8)
    scale = rng.integers(-1022, 1023, (3, 300)).astype(np.float64)
    given = np.ldexp(rng.uniform(1, 2, (3, 300)) * rng.choice([-1, 1], (3, 300)), scale.astype(int))
    # Products near the top with a third that takes them back, or all near the bottom.
    given[:, :60] = np.ldexp(rng.uniform(1, 2, (3, 60)), [[520], [504], [1023]])
    given[2, :60] *= -1
    given[:, 60:120] = np.ldexp(rng.uniform(1, 2, (3, 60)), [[-520], [-540], [-1070]])
    check(
        "fma.rn.f64 %d, %a, %b, %c",
        "f64",
        ["f64"] * 3,
        lambda *codes: arithmetic("fma", "f64", list(codes)),
        [g.view(np.uint64) for g in given],
    )


@pytest.mark.parametrize("name", ["f16", "bf16"])
@pytest.mark.parametrize("operation", ["add", "sub", "mul", "fma"])
def test_16_bit_floats_are_rounded_once(name: str, operation: str) -> None:
    count = 3 if operation == "fma" else 2
    operands = ", ".join(["%a", "%b", "%c"][:count])
    check(
        f"{operation}.rn.{name} %d, {operands}",
        name,
        [name] * count,
        lambda *codes: arithmetic(operation, name, list(codes)),
    )


@pytest.mark.parametrize("name", ["f16", "bf16"])
@pytest.mark.parametrize("operation", ["add", "mul", "fma"])
def test_pairs_are_computed_half_by_half(name: str, operation: str) -> None:
    count = 3 if operation == "fma" else 2
    operands = ", ".join(["%a", "%b", "%c"][:count])
    low = [floats(name, seed) for seed in range(count)]
    high = [floats(name, seed + 7) for seed in range(count)]
    given = [
        x.astype(np.uint32) | y.astype(np.uint32) << 16 for x, y in zip(low, high, strict=True)
    ]
    (found,) = apply(Case(f"{operation}.rn.{name}x2 %d, {operands}", (32,), (32,) * count), given)
    for part, codes in ((found & 0xFFFF, low), (found >> 16, high)):
        for at in range(len(found)):
            expected = arithmetic(operation, name, [int(c[at]) for c in codes])
            got = int(part[at])
            assert got == expected or (is_nan(got, name) and is_nan(expected, name))


@pytest.mark.parametrize("short", ["f16", "bf16"])
@pytest.mark.parametrize("operation", ["add", "sub", "fma"])
def test_sums_of_f32_take_shorter_operands(operation: str, short: str) -> None:
    count = 3 if operation == "fma" else 2
    given = [floats(short, seed) for seed in range(count - 1)] + [floats("f32", 9)]
    text = f"{operation}.rn.f32.{short} %d, {', '.join(['%a', '%b', '%c'][:count])}"
    case = Case(text, (32,), (*(16 for _ in range(count - 1)), 32))
    (found,) = apply(case, given, "sm_100")
    for at in range(len(found)):
        codes = [FORMATS["f32"].encode(FORMATS[short].decode(int(g[at]))) for g in given[:-1]]
        expected = arithmetic(operation, "f32", [*codes, int(given[-1][at])])
        got = int(found[at])
        assert got == expected or (is_nan(got, "f32") and is_nan(expected, "f32"))


@pytest.mark.parametrize("operation", ["add", "mul", "fma"])
def test_ftz_and_sat_of_f32(operation: str) -> None:
    count = 3 if operation == "fma" else 2
    operands = ", ".join(["%a", "%b", "%c"][:count])

    def flush(*codes: int) -> int:
        inner = arithmetic(operation, "f32", [flushed(c, "f32") for c in codes])
        return flushed(inner, "f32")

    rounding = ".rn" if operation == "fma" else ""
    check(f"{operation}{rounding}.ftz.f32 %d, {operands}", "f32", ["f32"] * count, flush)
    check(
        f"{operation}{rounding}.sat.f32 %d, {operands}",
        "f32",
        ["f32"] * count,
        lambda *codes: unit(arithmetic(operation, "f32", list(codes)), "f32"),
    )


def test_fma_relu_of_f16() -> None:
    def relu(*codes: int) -> int:
        code = arithmetic("fma", "f16", list(codes))
        return 0 if not is_nan(code, "f16") and number(code, "f16") <= 0 else code

    check("fma.rn.relu.f16 %d, %a, %b, %c", "f16", ["f16"] * 3, relu)


@pytest.mark.parametrize(
    ("name", "nan"),
    [
        ("f16", ""),
        ("bf16", ""),
        ("f32", ""),
        ("f64", ""),
        ("f16", ".NaN"),
        ("bf16", ".NaN"),
        ("f32", ".NaN"),
    ],
)
@pytest.mark.parametrize("operation", ["min", "max"])
def test_extremes_know_zeros_and_nan(name: str, operation: str, nan: str) -> None:
    pick = min if operation == "min" else max

    def formula(a: int, b: int) -> int:
        if is_nan(a, name) or is_nan(b, name):
            if nan or (is_nan(a, name) and is_nan(b, name)):
                return FORMATS[name].encode(math.nan)
            return b if is_nan(a, name) else a
        key = [(number(x, name), -(x >> (BITS[name] - 1)), x) for x in (a, b)]
        return pick(key)[2]

    check(f"{operation}{nan}.{name} %d, %a, %b", name, [name] * 2, formula)


def test_extremes_of_magnitudes_take_the_product_of_the_signs() -> None:
    def formula(a: int, b: int) -> int:
        sign = (a ^ b) & 0x80000000
        x, y = a & 0x7FFFFFFF, b & 0x7FFFFFFF
        if is_nan(a, "f32") or is_nan(b, "f32"):
            picked = y if is_nan(a, "f32") else x
            return picked | sign
        return min(x, y) | sign

    check("min.xorsign.abs.f32 %d, %a, %b", "f32", ["f32"] * 2, formula)


@pytest.mark.parametrize("name", ["f16", "bf16", "f32", "f64"])
def test_signs(name: str) -> None:
    top = 1 << (BITS[name] - 1)
    check(f"abs.{name} %d, %a", name, [name], lambda a: a & ~top)
    check(f"neg.{name} %d, %a", name, [name], lambda a: a ^ top)
    if name in ("f32", "f64"):
        check(f"copysign.{name} %d, %a, %b", name, [name] * 2, lambda a, b: (a & top) | (b & ~top))


APPROXIMATE: dict[str, Callable[[float], float]] = {
    "ex2.approx": lambda x: 2.0**x,
    "lg2.approx": math.log2,
    "sin.approx": math.sin,
    "cos.approx": math.cos,
    "tanh.approx": math.tanh,
    "rsqrt.approx": lambda x: 1 / math.sqrt(x),
    "sqrt.approx": math.sqrt,
    "rcp.approx": lambda x: 1 / x,
}


@pytest.mark.parametrize("operation", APPROXIMATE)
def test_approximations_are_the_rounded_functions(operation: str) -> None:
    rng = np.random.default_rng(3)
    given = rng.uniform(0.01, 30, 200).astype(np.float32)
    (found,) = apply(Case(f"{operation}.f32 %d, %a", (32,), (32,)), [given.view(np.uint32)])
    expected = np.array([APPROXIMATE[operation](float(x)) for x in given])
    units = np.abs(found.view(np.float32) - expected) / np.spacing(expected.astype(np.float32))
    assert units.max() <= 0.5001


def test_approximations_at_the_ends() -> None:
    given = np.array([0.0, -0.0, math.inf, -math.inf, math.nan, -1.0, 200.0, -200.0], np.float32)
    bits = [np.resize(given.view(np.uint32), 16)]

    def of(operation: str) -> list[float]:
        (found,) = apply(Case(f"{operation}.f32 %d, %a", (32,), (32,)), bits)
        return [float(x) for x in found.view(np.float32)[:8]]

    assert of("ex2.approx.ftz")[:4] == [1, 1, math.inf, 0]
    assert of("ex2.approx")[6:] == [math.inf, 0]
    assert of("lg2.approx")[:3] == [-math.inf, -math.inf, math.inf]
    assert of("rcp.approx")[:4] == [math.inf, -math.inf, 0, 0]
    assert math.copysign(1, of("rcp.approx")[3]) == -1
    assert of("rsqrt.approx")[:3] == [math.inf, -math.inf, 0]
    assert math.isnan(of("sqrt.approx")[5])
    assert of("tanh.approx")[2:4] == [1, -1]


def test_tanh_of_f16_pairs() -> None:
    x = np.linspace(-4, 4, 64).astype(np.float16)
    pairs = x.view(np.uint16).astype(np.uint32)
    (found,) = apply(Case("tanh.approx.f16x2 %d, %a", (32,), (32,)), [pairs | pairs << 16])
    expected = np.tanh(x.astype(np.float64)).astype(np.float16)
    np.testing.assert_array_equal(found.view(np.float16)[::2], expected)
    np.testing.assert_array_equal(found.view(np.float16)[1::2], expected)


COMPARE: dict[str, Callable[[float, float], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a < b or a > b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "equ": lambda a, b: not (a < b or a > b),
    "neu": lambda a, b: a != b,
    "ltu": lambda a, b: not a >= b,
    "leu": lambda a, b: not a > b,
    "gtu": lambda a, b: not a <= b,
    "geu": lambda a, b: not a < b,
    "num": lambda a, b: a == a and b == b,
    "nan": lambda a, b: a != a or b != b,
}


@pytest.mark.parametrize("name", ["f16", "bf16", "f32", "f64"])
def test_comparisons_are_ordered_or_not(name: str) -> None:
    bits = BITS[name]
    given = [floats(name, seed) for seed in range(2)]
    # Some equal pairs.
    given[1][::5] = given[0][::5]
    for comparison, formula in COMPARE.items():
        (found,) = apply(Case(f"setp.{comparison}.{name} %d, %a, %b", (1,), (bits, bits)), given)
        for at in range(len(found)):
            a, b = (number(int(g[at]), name) for g in given)
            assert bool(found[at]) == formula(a, b), (comparison, a, b)


def test_comparison_of_pairs_gives_two_predicates() -> None:
    given = [
        floats("f16", s).astype(np.uint32) | floats("f16", s + 5).astype(np.uint32) << 16
        for s in (0, 1)
    ]
    low, high = apply(Case("setp.lt.f16x2 %d|%e, %a, %b", (1, 1), (32, 32)), given)
    a, b = (g.view(np.float16).reshape(-1, 2) for g in given)
    np.testing.assert_array_equal(low, a[:, 0] < b[:, 0])
    np.testing.assert_array_equal(high, a[:, 1] < b[:, 1])


@pytest.mark.parametrize(
    "test", ["finite", "infinite", "number", "notanumber", "normal", "subnormal"]
)
def test_classes_of_numbers(test: str) -> None:
    given = floats("f32")
    (found,) = apply(Case(f"testp.{test}.f32 %d, %a", (1,), (32,)), [given])
    x = given.view(np.float32)
    tiny = np.finfo(np.float32).tiny
    expected = {
        "finite": np.isfinite(x),
        "infinite": np.isinf(x),
        "number": ~np.isnan(x),
        "notanumber": np.isnan(x),
        "normal": np.isfinite(x) & (np.abs(x) >= tiny),
        "subnormal": (np.abs(x) < tiny) & (x != 0),
    }[test]
    np.testing.assert_array_equal(found, expected)


# PTX rounds to bf16 to nearest and towards zero only.
NARROWING = [
    (to, of, direction)
    for to, of in (("f32", "f64"), ("f16", "f32"), ("f16", "f64"), ("bf16", "f32"))
    for direction in ("rn", "rz", "rm", "rp")
    if to != "bf16" or direction in ("rn", "rz")
]


@pytest.mark.parametrize(("to", "of", "direction"), NARROWING)
def test_narrowing_rounds_in_any_direction(to: str, of: str, direction: str) -> None:
    check(
        f"cvt.{direction}.{to}.{of} %d, %a",
        to,
        [of],
        lambda a: FORMATS[to].encode(FORMATS[of].decode(a), direction),
    )


@pytest.mark.parametrize(
    ("of", "to"), [("f16", "f32"), ("f16", "f64"), ("f32", "f64"), ("bf16", "f32")]
)
def test_widening_is_exact(of: str, to: str) -> None:
    check(f"cvt.{to}.{of} %d, %a", to, [of], lambda a: FORMATS[to].encode(FORMATS[of].decode(a)))


def test_tf32_rounds_ties_away() -> None:
    (found,) = apply(Case("cvt.rna.tf32.f32 %d, %a", (32,), (32,)), [floats("f32")])
    for a, got in zip(floats("f32").tolist(), found.tolist(), strict=True):
        if is_nan(a, "f32"):
            continue
        expected = FORMATS["tf32"].encode(FORMATS["f32"].decode(a), "rna")
        assert got == expected, (hex(a), hex(got), hex(expected))


@pytest.mark.parametrize("name", ["f16", "bf16"])
@pytest.mark.parametrize("relu", ["", ".relu"])
def test_two_floats_make_a_pair_with_the_first_above(name: str, relu: str) -> None:
    given = [floats("f32", seed) for seed in range(2)]
    (found,) = apply(Case(f"cvt.rn{relu}.{name}x2.f32 %d, %a, %b", (32,), (32, 32)), given)
    for part, source in ((found >> 16, given[0]), (found & 0xFFFF, given[1])):
        for got, code in zip(part.tolist(), source.tolist(), strict=True):
            value = FORMATS["f32"].decode(code)
            expected = FORMATS[name].encode(value)
            if is_nan(expected, name):
                assert is_nan(got, name)
            elif relu and math.copysign(1, float(value)) < 0:
                assert got == 0
            else:
                assert got == expected


@pytest.mark.parametrize("name", ["f16", "f32", "f64"])
@pytest.mark.parametrize("rounding", ["rni", "rzi", "rmi", "rpi"])
def test_floats_round_to_integral_values(name: str, rounding: str) -> None:
    table: dict[str, Callable[[Fraction], int]] = {
        "rni": round,
        "rzi": math.trunc,
        "rmi": math.floor,
        "rpi": math.ceil,
    }
    function = table[rounding]

    def formula(a: int) -> int:
        value = FORMATS[name].decode(a)
        if isinstance(value, float):
            return FORMATS[name].encode(value)
        whole = Fraction(function(value))
        code = FORMATS[name].encode(whole)
        return code | (1 << (BITS[name] - 1) if value < 0 and not whole else 0)

    check(f"cvt.{rounding}.{name}.{name} %d, %a", name, [name], formula)


@pytest.mark.parametrize("to", ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("of", ["f16", "f32", "f64"])
def test_floats_become_the_nearest_integer_in_range(to: str, of: str) -> None:
    narrow = int(to[1:])
    low = -(1 << (narrow - 1)) if to[0] == "s" else 0
    high = low + (1 << narrow) - 1
    register = max(16, narrow)
    scaled = floats(of)
    scale = np.random.default_rng(5).uniform(-300, 300, 60)
    extra = scale.astype({"f16": np.float16, "f32": np.float32, "f64": np.float64}[of])
    given = np.concatenate([scaled, extra.view(scaled.dtype)])
    for rounding, function in (("rzi", math.trunc), ("rni", round), ("rmi", math.floor)):
        (found,) = apply(
            Case(f"cvt.{rounding}.{to}.{of} %d, %a", (register,), (BITS[of],)), [given]
        )
        for a, got in zip(given.tolist(), found.tolist(), strict=True):
            value = FORMATS[of].decode(a)
            if is_nan(a, of):
                expected = 1 << 63 if narrow == 64 else 0
            elif isinstance(value, float) and math.isinf(value):
                expected = high if value > 0 else low
            else:
                expected = max(low, min(high, function(Fraction(value))))
            assert got == expected % (1 << register), (rounding, hex(a), hex(got), expected)


@pytest.mark.parametrize("of", ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("to", ["f16", "f32", "f64"])
@pytest.mark.parametrize("direction", ["rn", "rz", "rm", "rp"])
def test_integers_become_rounded_floats(to: str, of: str, direction: str) -> None:
    wide = int(of[1:])
    given = values(max(16, wide))

    def value(a: int) -> Fraction:
        a &= (1 << wide) - 1
        return Fraction(a - (1 << wide) if of[0] == "s" and a >> (wide - 1) else a)

    (found,) = apply(
        Case(f"cvt.{direction}.{to}.{of} %d, %a", (BITS[to],), (max(16, wide),)), [given]
    )
    for a, got in zip(given.tolist(), found.tolist(), strict=True):
        expected = FORMATS[to].encode(value(a), direction)
        assert got == expected, (hex(a), hex(got), hex(expected))


def test_saturating_conversion_to_f32() -> None:
    check("cvt.sat.f32.f32 %d, %a", "f32", ["f32"], lambda a: unit(a, "f32"))
    check(
        "cvt.rn.sat.f16.f32 %d, %a",
        "f16",
        ["f32"],
        lambda a: unit(FORMATS["f16"].encode(FORMATS["f32"].decode(a)), "f16"),
    )


@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
def test_8_bit_floats_saturate_and_come_back(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}[name]
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.standard_normal(150) * 4, rng.standard_normal(50) * 0.01]).astype(
        np.float32
    )
    given = [x.view(np.uint32), np.roll(x, 1).view(np.uint32)]
    (found,) = apply(Case(f"cvt.rn.satfinite.{name}x2.f32 %d, %a, %b", (16,), (32, 32)), given)
    np.testing.assert_array_equal(found >> 8, x.astype(kind).view(np.uint8))
    np.testing.assert_array_equal(found & 255, np.roll(x, 1).astype(kind).view(np.uint8))
    codes = np.arange(256, dtype=np.uint16)
    (back,) = apply(Case(f"cvt.rn.f16x2.{name}x2 %d, %a", (32,), (16,)), [codes | codes[::-1] << 8])
    expected = codes.astype(np.uint8).view(kind).astype(np.float16)
    np.testing.assert_array_equal((back & 0xFFFF).astype(np.uint16).view(np.float16), expected)


def test_literals_of_all_forms() -> None:
    zero = [np.zeros(16, np.uint32)]
    for text, expected in (
        ("mov.f32 %d, 0f3FC00000", 0x3FC00000),
        ("mov.f32 %d, 1.5", 0x3FC00000),
        ("mov.b32 %d, -2", 0xFFFFFFFE),
        ("mov.b32 %d, 0x1F", 31),
        ("mov.b32 %d, 017", 15),
        ("mov.u32 %d, 0b101U", 5),
        ("mov.u32 %d, WARP_SZ", 32),
    ):
        (found,) = apply(Case(text, (32,), (32,)), zero)
        assert int(found[0]) == expected, text
    (found,) = apply(Case("mov.f64 %d, 0d3FF8000000000000", (64,), (32,)), zero)
    assert float(found.view(np.float64)[0]) == 1.5
