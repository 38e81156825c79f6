"""ldmatrix, stmatrix and mma against the figures of the PTX manual."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from tilewright.backends.cuda.simulator import Simulator

from .instruction import HEAD, Array

A_PLACES: dict[str, Callable[[int, int, int], tuple[int, int]]] = {
    # Section "Matrix Fragments for mma" of the PTX manual: element i of the lane with group g
    # and place t in the group.
    "m16n8k16.f16": lambda g, t, i: (
        g if i in (0, 1, 4, 5) else g + 8,
        t * 2 + (i & 1) + (8 if i >= 4 else 0),
    ),
    "m16n8k8.f16": lambda g, t, i: (g if i < 2 else g + 8, t * 2 + (i & 1)),
    "m16n8k8.tf32": lambda g, t, i: (g if i in (0, 2) else g + 8, t if i < 2 else t + 4),
    "m16n8k4.tf32": lambda g, t, i: (g if i == 0 else g + 8, t),
    "m16n8k32.s8": lambda g, t, i: (
        g if i < 4 or 8 <= i < 12 else g + 8,
        t * 4 + (i & 3) + (16 if i >= 8 else 0),
    ),
    "m16n8k16.s8": lambda g, t, i: (g if i < 4 else g + 8, t * 4 + (i & 3)),
    "m8n8k16.s8": lambda g, t, i: (g, t * 4 + (i & 3)),
    "m8n8k4.f64": lambda g, t, i: (g, t),
}
B_PLACES: dict[str, Callable[[int, int, int], tuple[int, int]]] = {
    "m16n8k16.f16": lambda g, t, i: (t * 2 + (i & 1) + (8 if i >= 2 else 0), g),
    "m16n8k8.f16": lambda g, t, i: (t * 2 + i, g),
    "m16n8k8.tf32": lambda g, t, i: (t if i == 0 else t + 4, g),
    "m16n8k4.tf32": lambda g, t, i: (t, g),
    "m16n8k32.s8": lambda g, t, i: (t * 4 + (i & 3) + (16 if i >= 4 else 0), g),
    "m16n8k16.s8": lambda g, t, i: (t * 4 + i, g),
    "m8n8k16.s8": lambda g, t, i: (t * 4 + i, g),
    "m8n8k4.f64": lambda g, t, i: (t, g),
}


def spread(matrix: Array, place: Callable[[int, int, int], tuple[int, int]]) -> Array:
    """The elements of each lane: (32, elements)."""
    each = matrix.size // 32
    return np.array(
        [[matrix[place(lane // 4, lane % 4, i)] for i in range(each)] for lane in range(32)],
        matrix.dtype,
    )


def bf16(x: Array) -> Array:
    """Floats of few digits as the bits of bf16."""
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


KINDS: dict[str, Callable[[Array], Array]] = {
    # type: (bits, function from small integers to the array of bits)
    "f16": lambda x: x.astype(np.float16).view(np.uint16),
    "bf16": bf16,
    "tf32": lambda x: x.astype(np.float32).view(np.uint32),
    "s8": lambda x: x.astype(np.int8).view(np.uint8),
    "u8": lambda x: np.abs(x).astype(np.uint8),
    "f64": lambda x: x.astype(np.float64).view(np.uint64),
    "e4m3": lambda x: x.astype(ml_dtypes.float8_e4m3fn).view(np.uint8),
    "e5m2": lambda x: (x // 4 * 2).astype(ml_dtypes.float8_e5m2).view(np.uint8),
}
PRODUCTS = [
    ("m16n8k16", "f16", "f32"), ("m16n8k16", "f16", "f16"), ("m16n8k16", "bf16", "f32"),
    ("m16n8k8", "f16", "f32"), ("m16n8k8", "f16", "f16"), ("m16n8k8", "bf16", "f32"),
    ("m16n8k8", "tf32", "f32"), ("m16n8k4", "tf32", "f32"), ("m16n8k32", "s8", "s32"),
    ("m16n8k16", "s8", "s32"), ("m8n8k16", "s8", "s32"), ("m16n8k32", "u8", "s32"),
    ("m8n8k4", "f64", "f64"), ("m16n8k32", "e4m3", "f32"), ("m16n8k32", "e5m2", "f32"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "kind", "result"), PRODUCTS)
def test_mma_multiplies_matrices_laid_out_as_in_the_manual(
    shape: str, kind: str, result: str
) -> None:
    m, n, k = (int(x) for x in shape[1:].replace("n", "k").split("k"))
    same = {"bf16": "f16", "u8": "s8", "e4m3": "s8", "e5m2": "s8"}
    place = f"{shape}.{same.get(kind, kind)}"
    rng = np.random.default_rng(6)
    low, high = (0, 9) if kind == "u8" else (-8, 9)
    a, b = rng.integers(low, high, (m, k)), rng.integers(low, high, (k, n))
    c = rng.integers(-50, 50, (m, n))
    register = "b64" if kind == "f64" else "b32"
    dtype = np.uint64 if kind == "f64" else np.uint32

    def registers(part: Array) -> Array:
        return np.ascontiguousarray(part).view(dtype)

    words_a = registers(spread(KINDS[kind](a), A_PLACES[place]))
    words_b = registers(spread(KINDS[kind](b), B_PLACES[place]))
    sums = lambda g, t, i: (g + 8 * (i // 2), t * 2 + i % 2)  # noqa: E731
    view = {"f32": np.float32, "f16": np.float16, "s32": np.int32, "f64": np.float64}[result]
    words_c = registers(spread(c.astype(view), sums))
    counts = [x.shape[1] for x in (words_c, words_a, words_b, words_c)]
    names = [
        [f"%{letter}{i}" for i in range(count)]
        for letter, count in zip("dabc", counts, strict=True)
    ]
    size = 8 if kind == "f64" else 4
    loads = [
        f"ld.global.{register} {name}, [%w{part}+{size * i}];"
        for part, group in enumerate(names[1:])
        for i, name in enumerate(group)
    ]
    stores = [f"st.global.{register} [%w3+{size * i}], {name};" for i, name in enumerate(names[0])]
    groups = ", ".join("{" + ", ".join(group) + "}" for group in names)
    text = "\n".join(
        [
            HEAD,
            ".visible .entry product(.param .u64 A, .param .u64 B, .param .u64 C, .param .u64 D)",
            "{",
            *(f".reg .{register} {name};" for group in names for name in group),
            ".reg .b64 %w<4>; .reg .b32 %t;",
            "mov.u32 %t, %tid.x;",
            *(
                f"ld.param.u64 %w{i}, [{p}]; mad.wide.u32 %w{i}, %t, {size * count}, %w{i};"
                for i, (p, count) in enumerate(
                    zip("ABCD", [*counts[1:3], counts[3], counts[0]], strict=True)
                )
            ),
            *loads,
            f"mma.sync.aligned.{shape}.row.col.{result}.{kind}.{kind}.{result} {groups};",
            *stores,
            "ret;",
            "}",
        ]
    )
    simulator = Simulator()
    places = [simulator.place(x) for x in (words_a, words_b, words_c)]
    out = simulator.allocate(words_c.nbytes)
    counters = simulator.launch(simulator.load(text).kernel("product"), 1, 32, (*places, out))
    found = simulator.copy_out(out, words_c.shape, dtype).view(view)
    if kind == "u8":
        a, b = np.abs(a), np.abs(b)
    if kind == "e5m2":
        a, b = a // 4 * 2, b // 4 * 2
    value = a @ b + c
    np.testing.assert_array_equal(found, spread(value.astype(view), sums))
    assert counters.tensor_flops == 2 * m * n * k


@pytest.mark.parametrize("tiles", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix_gives_each_lane_two_neighbours_of_a_row(tiles: int, transposed: bool) -> None:
    names = [f"%m{i}" for i in range(tiles)]
    trans = ".trans" if transposed else ""
    text = f"""{HEAD}
    .visible .entry tiles(.param .u64 X, .param .u64 Y) {{
        .reg .b32 %r<8>; .reg .b32 %m<4>; .reg .b64 %d<8>;
        .shared .align 16 .b8 s[512];
        ld.param.u64 %d1, [X]; ld.param.u64 %d2, [Y];
        mov.u32 %r1, %tid.x; mov.u32 %r2, s;
        mad.wide.u32 %d3, %r1, 16, %d1;
        ld.global.v4.b32 {{%r3, %r4, %r5, %r6}}, [%d3];
        mad.lo.u32 %r7, %r1, 16, %r2;
        st.shared.v4.b32 [%r7], {{%r3, %r4, %r5, %r6}};
        bar.sync 0;
        ldmatrix.sync.aligned.m8n8.x{tiles}{trans}.shared.b16 {{{", ".join(names)}}}, [%r7];
        mad.wide.u32 %d4, %r1, {4 * tiles}, %d2;
        {" ".join(f"st.global.b32 [%d4+{4 * i}], {n};" for i, n in enumerate(names))}
        ret; }}"""
    x = np.arange(256, dtype=np.uint16).reshape(4, 8, 8) + 1000
    simulator = Simulator()
    px, py = simulator.place(x), simulator.allocate(128 * tiles)
    simulator.launch(simulator.load(text).kernel("tiles"), 1, 32, (px, py))
    found = simulator.copy_out(py, (32, tiles, 2), np.uint16)
    for lane in range(32):
        for tile in range(tiles):
            for i in range(2):
                row, column = lane // 4, lane % 4 * 2 + i
                expected = x[tile, column, row] if transposed else x[tile, row, column]
                assert found[lane, tile, i] == expected


def test_stmatrix_undoes_ldmatrix() -> None:
    text = f"""{HEAD}
    .visible .entry tiles(.param .u64 X, .param .u64 Y) {{
        .reg .b32 %r<12>; .reg .b32 %m<4>; .reg .b64 %d<8>;
        .shared .align 16 .b8 s[512];
        .shared .align 16 .b8 t[512];
        ld.param.u64 %d1, [X]; ld.param.u64 %d2, [Y];
        mov.u32 %r1, %tid.x; mov.u32 %r2, s; mov.u32 %r8, t;
        mad.wide.u32 %d3, %r1, 16, %d1;
        ld.global.v4.b32 {{%r3, %r4, %r5, %r6}}, [%d3];
        mad.lo.u32 %r7, %r1, 16, %r2;
        mad.lo.u32 %r9, %r1, 16, %r8;
        st.shared.v4.b32 [%r7], {{%r3, %r4, %r5, %r6}};
        bar.sync 0;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%m0, %m1, %m2, %m3}}, [%r7];
        stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r9], {{%m0, %m1, %m2, %m3}};
        bar.sync 0;
        ld.shared.v4.b32 {{%r3, %r4, %r5, %r6}}, [%r9];
        mad.wide.u32 %d4, %r1, 16, %d2;
        st.global.v4.b32 [%d4], {{%r3, %r4, %r5, %r6}};
        ret; }}"""
    x = np.arange(256, dtype=np.uint16)
    simulator = Simulator()
    px, py = simulator.place(x), simulator.allocate(512)
    simulator.launch(simulator.load(text).kernel("tiles"), 1, 32, (px, py))
    np.testing.assert_array_equal(simulator.copy_out(py, (256,), np.uint16), x)
