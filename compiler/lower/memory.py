"""Memory planning: two arena buffers share memory if they are never live at once.

Lowering does not choose offsets. It gives each arena buffer a variable of its own,
``unplaced(name)``, and writes every tensor in that buffer, also views (one step of a loop), with
an offset of ``variable + displacement``. Planning finds a value for each variable.

Sizes may be symbolic. Buffers whose sizes are multiples of one symbolic unit (``B*S`` elements,
say) are packed among themselves exactly as if the unit were a number, since a packing holds for
any size of its unit; the regions of different units, and of constant sizes, stand one behind the
other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import gcd

from ..errors import Gap, InternalError, UnsupportedError
from ..runtime.program import (
    ALIGNMENT,
    ArenaStorage,
    CallKernel,
    CopyTensor,
    IfStep,
    LetElement,
    LoopStep,
    Program,
    Step,
    Tensor,
)
from ..tensor.ir import Binary, Const, Dim, Expr, Var, as_expr, maximum
from ..tensor.simplify import bounds, dim, product, substitute, symbols

_PREFIX = "arena:"
_ATTEMPTS = 8
"""How often buffers are placed again in another order."""
_WASTE = 16
"""Rounding sizes up to a common granule may add one part in this many."""


def unplaced(name: str) -> Var:
    """The offset, not yet known, of the arena buffer of a name that is unique in its program."""
    return Var(_PREFIX + name)


def is_unplaced(value: Expr) -> bool:
    """Whether an expression is the offset of a buffer that is not placed yet."""
    return isinstance(value, Var) and value.name.startswith(_PREFIX)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """One arena buffer: ``size`` bytes, live from step ``first`` to ``last``, both included.

    Steps count as they are written down. A buffer that is touched inside and outside of a loop
    is live for all of the loop; one that is touched only inside holds nothing from one iteration
    to the next.
    """

    offset: Var
    size: Dim
    first: int
    last: int


@dataclass(slots=True)
class _Touches:
    sizes: dict[Dim, None] = field(default_factory=dict)
    places: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)


@dataclass(slots=True)
class _Scope:
    """The variables known at a step: those of the loops around, and elements read before."""

    loops: tuple[int, ...]
    steps: tuple[LoopStep, ...]


def plan_memory(program: Program) -> Program:
    """Returns the program with all arena buffers placed, and the size of the arena.

    Raises:
        UnsupportedError: the size of a buffer depends on data and has no upper bound.
    """
    return planned(program, lifetimes(program))


def planned(program: Program, buffers: Sequence[Lifetime]) -> Program:
    """Returns the program with its arena buffers placed, whose lifetimes are known."""
    placed, total = place(buffers)
    # Steps share their tensors: one that is written once is read by many.
    changed: dict[int, Tensor] = {}

    def change(tensor: Tensor) -> Tensor:
        found = changed.get(id(tensor))
        if found is None:
            found = changed[id(tensor)] = _placed(tensor, placed)
        return found

    steps = _rewrite(program.steps, change)
    return replace(program, steps=steps, arena_bytes=total)


def least_arena(program: Program) -> Dim:
    """The most bytes that are live at one step, which no plan of the arena can undercut.

    Args:
        program: not planned yet. Where sizes are symbolic, those of each unit count by themselves.
    """
    return most_live(lifetimes(program))


def most_live(buffers: Sequence[Lifetime]) -> Dim:
    """The most bytes of some buffers that are live at one step."""
    spans: dict[Dim, list[tuple[int, int, int]]] = {}
    for b in buffers:
        count, unit = _factored(b.size)
        spans.setdefault(unit, []).append((count, b.first, b.last))
    total: Expr = Const(0)
    for unit, members in spans.items():
        total = total + as_expr(unit) * lower_bound(members)
    return dim(total)


# ------------------------------------------------------------------ lifetimes


def lifetimes(program: Program) -> list[Lifetime]:
    """Lists the arena buffers of a program, in order of their first use."""
    touched: dict[Var, _Touches] = {}
    spans: list[list[int]] = []
    limits: dict[Expr, Expr] = {}
    # Outside of loops a tensor always ends where it did before.
    seen: dict[int, _Touches | None] = {}
    for position, step, scope, opened in _walk(program.steps):
        while len(spans) < opened:
            spans.append([position, position])
        for loop in scope.loops:
            spans[loop][1] = position
        if isinstance(step, LetElement) and step.var.hi is not None:
            limits[step.var] = Const(step.var.hi)
        for tensor in _tensors(step):
            if not scope.loops and id(tensor) in seen:
                known_touches = seen[id(tensor)]
                if known_touches is not None:
                    known_touches.places.append((position, ()))
                continue
            offset = _offset(tensor)
            touches = None if offset is None else touched.setdefault(offset, _Touches())
            if not scope.loops and not limits:
                seen[id(tensor)] = touches
            if offset is None or touches is None:
                continue
            touches.places.append((position, scope.loops))
            for end in _ends(tensor, offset, scope.steps, limits):
                touches.sizes[end] = None
    known = frozenset(program.symbols)
    return [
        _lifetime(offset, touches, [(a, b) for a, b in spans], known)
        for offset, touches in touched.items()
    ]


def _walk(steps: Sequence[Step]) -> Iterator[tuple[int, Step, _Scope, int]]:
    """Yields every step with its position, its scope and the number of loops met so far."""
    empty = _Scope((), ())
    pending: list[tuple[Step, _Scope]] = [(s, empty) for s in reversed(steps)]
    position = opened = 0
    while pending:
        step, scope = pending.pop()
        if isinstance(step, LoopStep):
            inner = _Scope((*scope.loops, opened), (*scope.steps, step))
            opened += 1
            yield position, step, inner, opened
            pending.extend((s, inner) for s in reversed(step.body))
        else:
            yield position, step, scope, opened
            if isinstance(step, IfStep):
                pending.extend((s, scope) for s in reversed((*step.then, *step.orelse)))
        position += 1


def _tensors(step: Step) -> tuple[Tensor, ...]:
    match step:
        case CallKernel(args=args):
            return tuple(a for a in args if isinstance(a, Tensor))
        case CopyTensor(dst=dst, src=src):
            return (dst, src)
        case LetElement(tensor=tensor):
            return (tensor,)
        case IfStep(cond=cond):
            return (cond,)
        case LoopStep():
            return ()


def _offset(tensor: Tensor) -> Var | None:
    """The variable of the buffer that a tensor lies in; None outside the arena."""
    if not isinstance(tensor.storage, ArenaStorage):
        return None
    whole = tensor.storage.offset
    if isinstance(whole, Var) and is_unplaced(whole):
        return whole
    found = [v for v in symbols(whole) if is_unplaced(v)]
    if len(found) != 1:
        raise InternalError(
            f"plan_memory: tensor {tensor.name} lies in {len(found)} buffers, not one",
            code="TW-E0902",
        )
    return found[0]


def _ends(
    tensor: Tensor, offset: Var, loops: Sequence[LoopStep], limits: Mapping[Expr, Expr]
) -> Iterator[Dim]:
    """The displacements, in bytes, at which a tensor may end: for the first and last iterations.

    In between it ends in between, since displacements and sizes are linear in loop variables.
    """
    assert isinstance(tensor.storage, ArenaStorage)
    size = product((*tensor.shape, tensor.dtype.bytes))
    if isinstance(size, int) and tensor.storage.offset is offset:
        yield size
        return
    ends: list[Expr] = [as_expr(tensor.storage.offset) - offset + size]
    for loop in reversed(loops):
        ends = [new for e in ends for new in _extremes(e, loop)]
    yield from dict.fromkeys(dim(substitute(e, limits)) for e in ends)


def _extremes(end: Expr, loop: LoopStep) -> Iterator[Expr]:
    """The end in the iteration where it is largest; in the first and last if that is not known."""
    if loop.var not in symbols(end):
        yield end
        return
    first = substitute(end, {loop.var: Const(0)})
    lowest, highest = bounds(dim(substitute(end, {loop.var: Const(1)}) - first))
    if lowest is None or lowest < 0:
        yield first
    if highest is None or highest > 0:
        yield substitute(end, {loop.var: as_expr(loop.trip) - 1})


def _lifetime(
    offset: Var, touches: _Touches, spans: list[tuple[int, int]], known: frozenset[Var]
) -> Lifetime:
    size: Dim = 0
    for end in touches.sizes:
        if isinstance(size, int) and isinstance(end, int):
            size = max(size, end)
        else:
            size = dim(maximum(as_expr(size), as_expr(end)))
    if not isinstance(size, int) and symbols(size) - known:
        name = offset.name.removeprefix(_PREFIX)
        raise UnsupportedError([Gap("a size that depends on data and has no bound", (name,))])
    paths = [path for _, path in touches.places]
    shared = 0
    while all(len(p) > shared and p[shared] == paths[0][shared] for p in paths):
        shared += 1
    # Where uses differ in their loops, the whole outermost loop that they do not share counts.
    reach = [spans[path[shared]] if len(path) > shared else (at, at) for at, path in touches.places]
    return Lifetime(offset, size, min(a for a, _ in reach), max(b for _, b in reach))


# ------------------------------------------------------------------ placing


def place(buffers: Sequence[Lifetime]) -> tuple[dict[Var, Dim], Dim]:
    """Gives each buffer an offset, a multiple of 64, so that no two live at once overlap.

    Returns:
        The offsets, and the number of bytes they need in all.
    """
    regions: dict[Dim, list[tuple[int, Lifetime]]] = {}
    for buffer in buffers:
        count, unit = _factored(buffer.size)
        regions.setdefault(unit, []).append((count, buffer))
    offsets: dict[Var, Dim] = {}
    total: Dim = 0
    # Constant sizes first, so that their offsets are constants.
    for unit in sorted(regions, key=lambda u: not isinstance(u, int)):
        members = regions[unit]
        counts = [count for count, _ in members]
        granule = ALIGNMENT if unit == 1 else _granule(counts)
        step = _aligned(dim(as_expr(unit) * granule))
        spans = [(-(-count // granule), b.first, b.last) for count, b in members]
        starts, height = pack(spans)
        for (_, buffer), start in zip(members, starts, strict=True):
            if isinstance(total, int) and isinstance(step, int):
                offsets[buffer.offset] = total + step * start
            else:
                offsets[buffer.offset] = dim(as_expr(total) + as_expr(step) * start)
        total = dim(as_expr(total) + as_expr(step) * height)
    return offsets, total


def _factored(size: Dim) -> tuple[int, Dim]:
    """Splits a size into an integer and a unit whose product it is: ``12*S`` is 12 and ``S``."""
    if isinstance(size, int):
        return size, 1
    if isinstance(size, Binary) and size.op == "mul" and isinstance(size.b, Const):
        return int(size.b.value), dim(size.a)
    return 1, size


def _granule(counts: Sequence[int]) -> int:
    """The common multiple to round counts to: large, so that alignment costs little, but cheap.

    A granule of at least 64 makes every offset aligned whatever the unit is.
    """
    granule = max(1, gcd(*counts))
    exact = sum(counts)
    while granule < ALIGNMENT or granule % ALIGNMENT:
        wider = granule * 2
        if sum(-(-c // wider) * wider for c in counts) * _WASTE > exact * (_WASTE + 1):
            break
        granule = wider
    return granule


def _aligned(step: Dim) -> Dim:
    if isinstance(step, int):
        return -(-step // ALIGNMENT) * ALIGNMENT
    count, _ = _factored(step)
    if count % ALIGNMENT == 0:
        return step
    return dim((step + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT)


def pack(spans: Sequence[tuple[int, int, int]]) -> tuple[list[int], int]:
    """Places intervals of time as rectangles on a shelf, keeping the shelf low.

    Args:
        spans: (size, first, last) of each; those that share a moment must not overlap.

    Returns:
        The start of each, and the height needed. Best fit in three orders (large first, long
        and large first, early first), of which the lowest counts. While one reaches above what
        is live at one moment, those that do come first in another attempt.
    """
    orders: tuple[Callable[[tuple[int, int, int]], tuple[int, ...]], ...] = (
        lambda s: (-s[0], s[1]),
        lambda s: (-s[0] * (s[2] - s[1] + 1), s[1]),
        lambda s: (s[1], -s[0]),
    )
    bound = lower_bound(spans)
    best: tuple[list[int], int] | None = None
    for key in orders:
        ranks = [key(s) for s in spans]
        order = sorted(range(len(spans)), key=ranks.__getitem__)
        for _ in range(_ATTEMPTS):
            starts, height = _best_fit(spans, order)
            if best is None or height < best[1]:
                best = starts, height
            if best[1] == bound:
                return best
            high = [starts[i] + spans[i][0] > bound for i in range(len(spans))]
            again = sorted(order, key=lambda i: not high[i])
            if again == order:
                break
            order = again
    assert best is not None
    return best


def lower_bound(spans: Sequence[tuple[int, int, int]]) -> int:
    """The most that is live at one moment, which no placement can undercut."""
    changes: dict[int, int] = {}
    for size, first, last in spans:
        changes[first] = changes.get(first, 0) + size
        changes[last + 1] = changes.get(last + 1, 0) - size
    highest = live = 0
    for moment in sorted(changes):
        live += changes[moment]
        highest = max(highest, live)
    return highest


def _best_fit(spans: Sequence[tuple[int, int, int]], order: Sequence[int]) -> tuple[list[int], int]:
    """Puts each interval in turn into the tightest gap that holds it, else on top."""
    starts = [0] * len(spans)
    # What is placed already, by each moment at which it is live.
    live: list[list[int]] = [[] for _ in range(1 + max((s[2] for s in spans), default=0))]
    height = 0
    for index in order:
        size, first, last = spans[index]
        near = set().union(*live[first : last + 1])
        best, top, tightest = -1, 0, 0
        # The top of everything below, and from there to the next start, is a gap.
        for other in sorted(near, key=starts.__getitem__):
            gap = starts[other] - top
            if gap >= size and (best < 0 or gap < tightest):
                best, tightest = top, gap
            end = starts[other] + spans[other][0]
            if end > top:
                top = end
        start = starts[index] = top if best < 0 else best
        for moment in range(first, last + 1):
            live[moment].append(index)
        height = max(height, start + size)
    return starts, height


# ------------------------------------------------------------------ rewriting


def _placed(tensor: Tensor, offsets: Mapping[Var, Dim]) -> Tensor:
    offset = _offset(tensor)
    if offset is None:
        return tensor
    assert isinstance(tensor.storage, ArenaStorage)
    place: Dim = offsets[offset]
    if tensor.storage.offset is not offset:
        place = dim(substitute(as_expr(tensor.storage.offset), {offset: as_expr(place)}))
    return Tensor(tensor.name, tensor.dtype, tensor.shape, ArenaStorage(place))


def _rewrite(steps: Sequence[Step], change: Callable[[Tensor], Tensor]) -> tuple[Step, ...]:
    """Applies a function to every tensor; recurses only into nested branches and loops."""
    result: list[Step] = []
    for step in steps:
        match step:
            case CallKernel(kernel, args):
                changed = tuple(change(a) if isinstance(a, Tensor) else a for a in args)
                result.append(CallKernel(kernel, changed))
            case CopyTensor(dst, src):
                result.append(CopyTensor(change(dst), change(src)))
            case LetElement():
                result.append(replace(step, tensor=change(step.tensor)))
            case IfStep(cond, then, orelse):
                branches = _rewrite(then, change), _rewrite(orelse, change)
                result.append(IfStep(change(cond), *branches))
            case LoopStep(var, trip, body):
                result.append(LoopStep(var, trip, _rewrite(body, change)))
    return tuple(result)
