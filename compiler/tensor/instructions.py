"""Instructions that compute a whole nest: what each one does, as a function of the tensor IR.

An instruction works on fragments: tiles that the 32 threads of a warp keep together, each in
registers of its own. Where an element of a fragment is kept follows from its place in the tile,
by the layout that the instruction wants. A copy works on memory, for one thread.

To add one: an entry in INSTRUCTIONS with its text, and how to emit it in the backend's table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from .access import flat_index
from .ir import Block, Buffer, Const, Expr, For, Func, Load, Stmt, Store, Var
from .parse import parse_func
from .simplify import Ranges, same_dim, simplify
from .walk import children, free_vars, statements, substitute

Keeper = Literal["lane", "register"]
WARP = 32


@dataclass(frozen=True, slots=True)
class Digit:
    """A part of an index of a fragment: it counts lanes, or registers of a lane.

    Attributes:
        kind: what it counts.
        extent: how many there are.
        weight: how far apart they are in the number of the lane or register.
    """

    kind: Keeper
    extent: int
    weight: int


Layout = tuple[tuple[Digit, ...], tuple[Digit, ...]]
"""Digits of the row and of the column of a fragment, the most significant first."""


def keeper(layout: Layout, kind: Keeper, row: Expr, column: Expr) -> Expr:
    """The number of the lane, or of the register, that holds an element of a fragment."""
    total: Expr = Const(0)
    for index, digits in zip((row, column), layout, strict=True):
        below = 1
        for k, d in enumerate(reversed(digits)):
            if d.kind == kind:
                part = index // below if below > 1 else index
                # The most significant digit needs no remainder: an index is below the extent.
                part = part if k == len(digits) - 1 else part % d.extent
                total = total + part * d.weight
            below *= d.extent
    return simplify(total)


def registers_of(layout: Layout) -> int:
    """How many elements of a fragment each lane keeps."""
    total = 1
    for digits in layout:
        for d in digits:
            total *= d.extent if d.kind == "register" else 1
    return total


def _layout(rows: str, columns: str) -> Layout:
    """A layout of digits such as ``r2*4 l8*4``: two registers 4 apart, eight lanes 4 apart."""

    def digits(text: str) -> tuple[Digit, ...]:
        found = []
        for part in text.split():
            extent, weight = part[1:].split("*")
            kind: Keeper = "lane" if part[0] == "l" else "register"
            found.append(Digit(kind, int(extent), int(weight)))
        return tuple(found)

    return digits(rows), digits(columns)


@dataclass(frozen=True, slots=True)
class Instruction:
    """What an instruction computes, and how it wants its fragments.

    Attributes:
        name: for people and for the tables of backends.
        func: its semantics; the parameters are the operands, the results first. Operands of
            scope fragment are whole tiles; those of other memory are rows of neighbours, the
            last dim, which may lie anywhere; variables are any value of the type.
        layouts: of the fragments, by the name of the parameter.
    """

    name: str
    func: Func
    layouts: Mapping[str, Layout]

    @property
    def nest(self) -> For:
        """The nest of loops."""
        (loop,) = self.func.body
        assert isinstance(loop, For)
        return loop


_C = _layout("r2*2 l8*4", "l4*1 r2*1")
# The machine rounds the factors of tf32 to ten bits after the point; no recipe uses it unless
# it is told that such factors will do.
_PRODUCTS: dict[str, tuple[str, int, dict[str, Layout]]] = {
    "mma.m16n8k16.f16": ("f16", 16, {
        "a": _layout("r2*2 l8*4", "r2*4 l4*1 r2*1"), "b": _layout("r2*2 l4*1 r2*1", "l8*4"),
    }),
    "mma.m16n8k16.bf16": ("bf16", 16, {
        "a": _layout("r2*2 l8*4", "r2*4 l4*1 r2*1"), "b": _layout("r2*2 l4*1 r2*1", "l8*4"),
    }),
    "mma.m16n8k8.f16": ("f16", 8, {
        "a": _layout("r2*2 l8*4", "l4*1 r2*1"), "b": _layout("l4*1 r2*1", "l8*4"),
    }),
    "mma.m16n8k8.tf32": ("f32", 8, {
        "a": _layout("r2*1 l8*4", "r2*2 l4*1"), "b": _layout("r2*1 l4*1", "l8*4"),
    }),
}  # fmt: skip
"""The type of the factors, the depth, and the layouts of a product ``c = c + a b`` of tiles."""


def _product(name: str, kind: str, depth: int, layouts: Mapping[str, Layout]) -> Instruction:
    a, b = ("a[i, k]", "b[k, j]")
    if kind != "f32":
        a, b = f"f32({a})", f"f32({b})"
    func = parse_func(f"""
def product(c: fragment[f32, 16, 8], a: fragment[{kind}, 16, {depth}], b: fragment[{kind}, {depth}, 8]):
    for i in instruction(16):
        for j in serial(8):
            for k in serial({depth}):
                c[i, j] = c[i, j] + {a} * {b}
""")  # noqa: E501
    return Instruction(name, func, {"c": _C, **layouts})


def _fetch(kind: str, tile: tuple[int, int], count: int, transposed: bool) -> Instruction:
    """Tiles of a fragment from rows of eight in shared memory, one row an address."""
    rows, columns = tile
    source = "s[j, i]" if transposed else "s[i, j]"
    shape = f"{columns}, {rows}" if transposed else f"{rows}, {columns}"
    text = f"""
def fetch(f: fragment[{kind}, {rows}, {columns}], s: shared[{kind}, {shape}]):
    for i in instruction({rows}):
        for j in serial({columns}):
            f[i, j] = {source}
"""
    if count > 1:
        text = f"""
def fetch(f: fragment[{kind}, {count}, {rows}, {columns}], s: shared[{kind}, {count}, {shape}]):
    for t in instruction({count}):
        for i in serial({rows}):
            for j in serial({columns}):
                f[t, i, j] = {source.replace("[", "[t, ")}
"""
    func = parse_func(text)
    name = f"ldmatrix.{'trans.' if transposed else ''}{kind}.{count}x{rows}x{columns}"
    return Instruction(name, func, {})


def _copy(kind: str, count: int, guarded: bool) -> Instruction:
    """Sixteen bytes from global to shared memory, in the background."""
    zero = "0.0" if kind == "f32" else f"{kind}(0.0)"
    value = f"select(inside, g[v], {zero})" if guarded else "g[v]"
    func = parse_func(f"""
def copy(s: shared[{kind}, {count}], g: global_[{kind}, {count}], inside: bool_):
    for v in instruction({count}):
        s[v] = {value}
""")
    return Instruction(f"cp.async.{kind}{'.guarded' if guarded else ''}", func, {})


_TILES = (((16, 16), (1,)), ((16, 8), (1, 2)), ((8, 8), (1, 2, 4)))
INSTRUCTIONS: Mapping[str, Instruction] = {
    i.name: i
    for i in (
        *(_product(name, *how) for name, how in _PRODUCTS.items()),
        *(
            _fetch(kind, tile, count, transposed)
            for kind in ("f16", "bf16")
            for tile, counts in _TILES
            for count in counts
            for transposed in (False, True)
        ),
        *(
            _copy(kind, count, guarded)
            for kind, count in (("f16", 8), ("bf16", 8), ("f32", 4))
            for guarded in (False, True)
        ),
    )
}
"""Every instruction, by name."""


@dataclass(frozen=True, slots=True)
class Operand:
    """A buffer that an instruction works on.

    Attributes:
        buffer: where.
        at: the position of an element, in terms of the loops of the nest.
        first: the position of the first element.
        run: the instruction's loop along which neighbours lie side by side in memory, if any.
    """

    buffer: Buffer
    at: Expr
    first: Expr
    run: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """A nest as an instruction.

    Attributes:
        instruction: which one.
        operands: by the name of the parameter.
        values: of its variables, by name.
        loops: the variables of the nest, by the name of the instruction's.
    """

    instruction: Instruction
    operands: Mapping[str, Operand]
    values: Mapping[str, Expr]
    loops: Mapping[str, Var]


def find(nest: For, ranges: Ranges | None = None) -> Match | None:
    """The instruction that computes what a nest computes.

    Args:
        ranges: of the variables around it.
    """
    for instruction in INSTRUCTIONS.values():
        found = match(instruction, nest, ranges)
        if found is not None:
            return found
    return None


def match(instruction: Instruction, nest: For, ranges: Ranges | None = None) -> Match | None:
    """The nest as that instruction; None where it computes something else."""
    loops: dict[str, Var] = {}
    wanted: Stmt = instruction.nest
    given: Stmt = nest
    while isinstance(wanted, For):
        if not isinstance(given, For) or given.extent != wanted.extent or given.start != 0:
            return None
        if len(given.body) != 1:
            return None
        loops[wanted.var.name] = given.var
        (wanted,), (given,) = wanted.body, given.body
    if not isinstance(wanted, Store) or not isinstance(given, Store):
        return None
    bound: dict[str, Expr] = {}
    target = Load(given.buffer, given.indices)
    if not _bind(Load(wanted.buffer, wanted.indices), target, bound):
        return None
    if not _bind(wanted.value, given.value, bound):
        return None
    operands: dict[str, Operand] = {}
    values: dict[str, Expr] = {}
    patterns = {x.buffer.name: x for x in _loads_of(wanted)}
    own = set(loops.values())
    for p in instruction.func.params:
        e = bound.get(p.name)
        if isinstance(p, Var):
            if e is None or free_vars(e) & own:
                if e is None:
                    continue
                return None
            values[p.name] = e
            continue
        assert isinstance(e, Load)
        operand = _operand(p, patterns[p.name], e, loops, ranges or {})
        if operand is None:
            return None
        operands[p.name] = operand
    return Match(instruction, operands, values, loops)


def _loads_of(store: Store) -> Iterator[Load]:
    yield Load(store.buffer, store.indices)
    todo = [store.value]
    while todo:
        e = todo.pop()
        if isinstance(e, Load):
            yield e
        else:
            todo += children(e)


def _bind(wanted: Expr, given: Expr, bound: dict[str, Expr]) -> bool:
    """Whether two expressions are alike; enters what stands for the parameters."""
    if wanted.dtype is not given.dtype:
        return False
    match wanted:
        case Var():
            return bound.setdefault(wanted.name, given) is given
        case Load():
            if not isinstance(given, Load) or given.buffer.scope != wanted.buffer.scope:
                return False
            return bound.setdefault(wanted.buffer.name, given) is given
        case Const():
            return wanted is given
    if type(wanted) is not type(given) or getattr(wanted, "op", 0) != getattr(given, "op", 0):
        return False
    pairs = zip(children(wanted), children(given), strict=True)
    return all(_bind(w, g, bound) for w, g in pairs)


def _operand(
    parameter: Buffer, pattern: Load, load: Load, loops: Mapping[str, Var], ranges: Ranges
) -> Operand | None:
    """Where an operand lies; None if not as the parameter wants it."""
    inner = {v: (0, n - 1) for v, n in _extents(pattern, parameter, loops)}
    at = flat_index(load, {**ranges, **inner})
    first = simplify(substitute(at, {v: Const(0) for v in loops.values()}), ranges)
    if parameter.scope == "fragment":
        place: Expr = Const(0)
        for i, d in zip(pattern.indices, parameter.shape, strict=True):
            assert isinstance(i, Var)
            place = place * d + loops[i.name]
        same = load.buffer.shape[-2:] == parameter.shape[-2:]
        whole = same and same_dim(simplify(at - first - place, {**ranges, **inner}), 0)
        return Operand(load.buffer, at, first) if whole else None
    last = pattern.indices[-1]
    assert isinstance(last, Var)
    run = loops[last.name]
    if not same_dim(simplify(substitute(at, {run: run + 1}) - at), 1):
        return None
    # Rows are read eight elements at a time, sixteen bytes, at addresses of that alignment.
    width = 16 // load.dtype.bytes
    starts = simplify(substitute(at, {run: run * width}) % width, ranges)
    return Operand(load.buffer, at, first, last.name) if same_dim(starts, 0) else None


def _extents(
    pattern: Load, parameter: Buffer, loops: Mapping[str, Var]
) -> Iterator[tuple[Var, int]]:
    for i, d in zip(pattern.indices, parameter.shape, strict=True):
        assert isinstance(i, Var) and isinstance(d, int)
        yield loops[i.name], d


def layouts_of(block: Block) -> dict[str, Layout]:
    """The layout of every fragment that an instruction of a block wants in one, by name."""
    found: dict[str, Layout] = {}
    for stmt in statements(block):
        if isinstance(stmt, For) and stmt.kind == "instruction":
            how = find(stmt)
            for name, layout in how.instruction.layouts.items() if how is not None else ():
                assert how is not None
                found[how.operands[name].buffer.name] = layout
    return found


def tile_size(fragment: Buffer) -> int:
    """How many elements a tile of a fragment has."""
    rows, columns = fragment.shape[-2:]
    assert isinstance(rows, int) and isinstance(columns, int)
    return rows * columns
