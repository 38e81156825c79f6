"""Matrix instructions of a warp: ldmatrix, stmatrix and mma.

An mma multiplies A (m x k) by B (k x n) and adds C (m x n). Which lane holds which element is
stated here once for each shape, as in the figures of the PTX manual (section on matrix fragments
for mma), with g = lane / 4 and t = lane % 4. Products are summed in f32 (or exactly, for
integers); the order of a GPU's sum and its last bits are not modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..access import Access, addresses, window_index
from ..batch import WARP, Batch
from ..code import Assembly, Step
from ..memory import SHARED_BASE
from ..ptx import Instruction
from ..rounding import widen
from ..scalars import SCALARS, Array, Scalar
from .lanewise import Builder, types_of
from .loads import address_operand, items, note_width
from .warp import whole_warps

Place = Callable[[int, int, int], tuple[int, int]]
"""(g, t, number of the element in the lane) -> (row, column)."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """How a matrix is spread over the lanes of a warp.

    Attributes:
        rows, columns: of the matrix. each: elements in a lane.
        order: for each element of the matrix in row order, where it is (lane * each + number).
        spread: for each of those places, which element of the matrix is there.
    """

    rows: int
    columns: int
    each: int
    order: Array
    spread: Array


def _fragment(rows: int, columns: int, place: Place) -> Fragment:
    each = rows * columns // WARP
    spread = np.empty(WARP * each, np.int64)
    for lane in range(WARP):
        for number in range(each):
            row, column = place(lane // 4, lane % 4, number)
            spread[lane * each + number] = row * columns + column
    return Fragment(rows, columns, each, np.argsort(spread), spread)


def _left(rows: int, columns: int, run: int) -> Fragment:
    """An A whose lanes hold runs of ``run`` elements of a row: row g, then g + 8, then further."""
    halves = rows // 8

    def place(g: int, t: int, number: int) -> tuple[int, int]:
        part, rest = divmod(number, run)
        return g + 8 * (part % halves), t * run + rest + 4 * run * (part // halves)

    return _fragment(rows, columns, place)


def _right(rows: int, columns: int, run: int) -> Fragment:
    """A B whose lanes hold runs of ``run`` elements of a column."""

    def place(g: int, t: int, number: int) -> tuple[int, int]:
        part, rest = divmod(number, run)
        return t * run + rest + 4 * run * part, g

    return _fragment(rows, columns, place)


def _sum(rows: int) -> Fragment:
    """A C: two neighbours of a row, then those eight rows further down."""
    return _fragment(rows, 8, lambda g, t, i: (g + 8 * (i // 2), t * 2 + i % 2))


@dataclass(frozen=True, slots=True)
class Product:
    """The fragments of one shape of mma."""

    a: Fragment
    b: Fragment
    c: Fragment


def _product(m: int, k: int, run: int) -> Product:
    return Product(_left(m, k, run), _right(k, 8, run), _sum(m))


_HALF, _BYTE, _WORD = 2, 4, 1
"""Elements in a 32-bit register; of f64, which has one a lane, likewise."""

PRODUCTS: Mapping[tuple[str, int], Product] = {
    ("m16n8k16", 16): _product(16, 16, _HALF),
    ("m16n8k8", 16): _product(16, 8, _HALF),
    ("m16n8k8", 32): _product(16, 8, _WORD),
    ("m16n8k4", 32): _product(16, 4, _WORD),
    ("m16n8k32", 8): _product(16, 32, _BYTE),
    ("m16n8k16", 8): _product(16, 16, _BYTE),
    ("m8n8k16", 8): _product(8, 16, _BYTE),
    ("m8n8k4", 64): _product(8, 4, _WORD),
}
"""The shapes, with the bits of an element of A and B."""


def _multiply(code: Assembly, instruction: Instruction) -> Step:
    types = types_of(instruction)[-4:]
    if len(types) != 4 or not instruction.has("row") or not instruction.has("col"):
        raise code.fail("only mma of a row-major A and a column-major B is modelled")
    result, left, right, added = types
    shape = next((m for m in instruction.modifiers if m.startswith("m") and m[1].isdigit()), "")
    product = PRODUCTS.get((shape, left.bits))
    if product is None or instruction.has("sp", "xor", "and", "block_scale"):
        raise code.fail(f"mma of shape {shape} and {left.bits} bits is not modelled")
    targets, a, b, c = (items(o) for o in instruction.operands)
    # f16 accumulators lie in pairs; all other registers hold bits of their width.
    register = SCALARS["b64" if left.bits == 64 else "b32"]
    target = tuple(code.write(o, register) for o in targets)
    slots = [tuple(code.read(o, register) for o in part) for part in (a, b, c)]
    saturates = instruction.has("satfinite")
    flops = 2 * product.a.rows * product.a.columns * 8

    def step(batch: Batch) -> None:
        whole_warps(batch, instruction)
        x = _matrix(batch, slots[0], product.a, left)
        y = _matrix(batch, slots[1], product.b, right)
        total = (x @ y).reshape(len(x), -1)[:, product.c.spread]
        start = _elements(batch, slots[2], added).reshape(len(x), -1)
        out = _round(total, start, result, saturates)
        rows = np.ascontiguousarray(out).view(register.raw).reshape(-1, len(target))
        for number, slot in enumerate(target):
            batch.put_active(slot, np.ascontiguousarray(rows[:, number]))
        if batch.counters is not None:
            batch.counters.tensor_flops += flops * len(x)

    return step


def _round(total: Array, start: Array, result: Scalar, saturates: bool) -> Array:
    """The sum with C, in the type of the result, as bits."""
    if result.name == "s32":
        exact = total.astype(np.int64) + start.view(np.int32)
        if saturates:
            exact = np.clip(exact, -(2**31), 2**31 - 1)
        return exact.astype(np.int32)
    if result.name == "f16":
        return (start.view(np.float16).astype(np.float32) + total).astype(np.float16)
    return start.view(result.view) + total


def _elements(batch: Batch, slots: tuple[int, ...], scalar: Scalar) -> Array:
    """The bits of the elements that the active lanes hold, lane after lane."""
    index = batch.index()
    parts = [batch.whole(batch.r[s]) for s in slots]
    rows = np.stack(parts if index is None else [p[index] for p in parts], axis=1)
    return rows.reshape(-1).view(scalar.raw)


def _matrix(batch: Batch, slots: tuple[int, ...], fragment: Fragment, scalar: Scalar) -> Array:
    """The matrix of each warp, in a type that its products are exact in."""
    sources = tuple(batch.r[s] for s in slots)
    key = tuple(id(s) for s in sources)
    known = batch.fragments.get(key)
    if known is not None and known[1].dtype == _computed(scalar) and batch.active is None:
        return known[1]
    bits = _elements(batch, slots, scalar).reshape(-1, WARP * fragment.each)
    ordered = bits[:, fragment.order]
    matrix = _value(ordered, scalar).reshape(-1, fragment.rows, fragment.columns)
    if batch.active is None:
        if len(batch.fragments) >= 64:
            batch.fragments.clear()
        # The registers are kept with it, so that no other array gets their identity.
        batch.fragments[key] = (sources, matrix)
    return matrix


def _computed(scalar: Scalar) -> np.dtype[np.generic]:
    wide = (scalar.bits == 8 and scalar.kind != "float") or scalar.name == "f64"
    return np.dtype(np.float64 if wide else np.float32)


def _value(bits: Array, scalar: Scalar) -> Array:
    if scalar.kind == "float" and scalar.view.kind != "f":
        return widen(bits, scalar).astype(np.float32)
    return bits.view(scalar.view).astype(_computed(scalar))


def _tiles(instruction: Instruction) -> int:
    return next(int(m[1:]) for m in instruction.modifiers if m in ("x1", "x2", "x4"))


def _row_index(batch: Batch, access: Access, slot: int, offset: int, tiles: int) -> Array:
    """Where the rows of the tiles are: (warps, tiles, 8), from the lanes that name them."""
    lanes = batch.numbers()
    given = batch.r[slot]
    if not given.ndim:
        batch.r[slot] = given = np.full(batch.lanes, given)
    mask = np.zeros(batch.lanes, np.bool_)
    mask[lanes[lanes % WARP < 8 * tiles]] = True
    kept = batch.active, batch.merge
    if tiles < 4 or batch.active is not None:
        batch.active = batch.merge = mask
    found = addresses(batch, slot, offset)
    if access.space == "generic" or int(found.min()) >= SHARED_BASE:
        found = found - SHARED_BASE
    index = window_index(batch, batch.shared, access, found)
    batch.active, batch.merge = kept
    return index.reshape(-1, tiles, 8)


def _load_tiles(code: Assembly, instruction: Instruction) -> Step:
    """ldmatrix: 8x8 tiles of 16-bit elements, each row from an address of one lane."""
    if not instruction.has("m8n8"):
        raise code.fail("only tiles of 8x8 elements of 16 bits are modelled")
    tiles, transposed = _tiles(instruction), instruction.has("trans")
    slots = [code.write(o, SCALARS["b32"]) for o in items(instruction.operands[0])]
    base, offset, _ = code.base(address_operand(code, instruction.operands[1]))
    access = Access(instruction, "shared", "load", 2, 8)
    note_width(code, "shared", 16)

    def step(batch: Batch) -> None:
        whole_warps(batch, instruction)
        index = _row_index(batch, access, base, offset, tiles)
        rows = batch.shared.bytes.load_vector(index, 2, 8)
        if transposed:
            rows = rows.swapaxes(2, 3)
        pairs = np.ascontiguousarray(rows).view(np.uint32).reshape(-1, tiles, WARP)
        for number, slot in enumerate(slots):
            batch.put_active(slot, np.ascontiguousarray(pairs[:, number]).reshape(-1))

    return step


def _store_tiles(code: Assembly, instruction: Instruction) -> Step:
    """stmatrix: the inverse of ldmatrix."""
    if not instruction.has("m8n8"):
        raise code.fail("only tiles of 8x8 elements of 16 bits are modelled")
    tiles, transposed = _tiles(instruction), instruction.has("trans")
    slots = [code.read(o, SCALARS["b32"]) for o in items(instruction.operands[1])]
    base, offset, _ = code.base(address_operand(code, instruction.operands[0]))
    access = Access(instruction, "shared", "store", 2, 8)
    note_width(code, "shared", 16)

    def step(batch: Batch) -> None:
        whole_warps(batch, instruction)
        index = _row_index(batch, access, base, offset, tiles)
        lanes = batch.index()
        parts = [batch.whole(batch.r[s]) for s in slots]
        pairs = np.stack(parts if lanes is None else [p[lanes] for p in parts])
        grouped = np.ascontiguousarray(pairs.reshape(tiles, -1, WARP).swapaxes(0, 1))
        rows = grouped.view(np.uint16).reshape(-1, tiles, 8, 8)
        if transposed:
            rows = rows.swapaxes(2, 3)
        batch.shared.bytes.store_vector(index, 2, np.ascontiguousarray(rows))

    return step


MATRIX: Mapping[str, Builder] = {
    "ldmatrix": _load_tiles,
    "stmatrix": _store_tiles,
    "mma": _multiply,
}
"""Matrix instructions."""
