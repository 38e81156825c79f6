"""The memory plan never lets two live buffers overlap, and reuses what is dead."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from numpy.random import Generator, default_rng

from tilewright import dtype as dt
from tilewright.errors import UnsupportedError
from tilewright.lower.memory import (
    least_arena,
    lifetimes,
    lower_bound,
    pack,
    place,
    plan_memory,
    unplaced,
)
from tilewright.runtime.program import (
    ALIGNMENT,
    ArenaStorage,
    CallKernel,
    CopyTensor,
    IfStep,
    InputStorage,
    LetElement,
    LoopStep,
    Program,
    Step,
    Tensor,
)
from tilewright.tensor.ir import Dim, Var, as_expr, symbol
from tilewright.tensor.simplify import dim, evaluate

B, S = symbol("B", 1, 64), symbol("S", 1, 512)


def tensor(name: str, *shape: Dim, displacement: Dim = 0) -> Tensor:
    offset = dim(unplaced(name) + displacement)
    return Tensor(name, dt.f32, shape, ArenaStorage(offset))


def program(*steps: Step, symbols: tuple[Var, ...] = (B, S)) -> Program:
    return Program("p", (), (), symbols, steps)


def call(*tensors: Tensor) -> CallKernel:
    return CallKernel("k", tensors)


def plain(steps: tuple[Step, ...]) -> list[Tensor]:
    """All tensors of the calls, through branches and loops."""
    found: list[Tensor] = []
    for step in steps:
        match step:
            case CallKernel(args=args):
                found.extend(a for a in args if isinstance(a, Tensor))
            case IfStep(then=then, orelse=orelse):
                found.extend(plain(then) + plain(orelse))
            case LoopStep(body=body):
                found.extend(plain(body))
    return found


def offsets(planned: Program) -> dict[str, Dim]:
    found: dict[str, Dim] = {}
    for item in plain(planned.steps):
        if isinstance(item.storage, ArenaStorage):
            found[item.name] = item.storage.offset
    return found


def test_a_chain_needs_two_buffers() -> None:
    x = [tensor(f"t{i}", 16) for i in range(6)]
    planned = plan_memory(program(*(call(a, b) for a, b in pairwise(x))))
    assert planned.arena_bytes == 2 * 64
    assert set(offsets(planned).values()) == {0, 64}


def test_a_symbolic_chain_needs_two_buffers_of_its_own_size() -> None:
    x = [tensor(f"t{i}", B, S, 768) for i in range(6)]
    planned = plan_memory(program(*(call(a, b) for a, b in pairwise(x))))
    assert planned.arena_bytes is dim(2 * 768 * 4 * B * S)


def test_both_branches_share_memory() -> None:
    cond = Tensor("c", dt.bool_, (), InputStorage(0))
    branch = [call(tensor(f"{n}0", 64), tensor(f"{n}1", 64)) for n in "ab"]
    planned = plan_memory(program(IfStep(cond, (branch[0],), (branch[1],))))
    assert planned.arena_bytes == 2 * 64 * 4


def test_a_buffer_used_before_and_in_a_loop_lives_for_all_of_it() -> None:
    state, a, b = tensor("state", 16), tensor("a", 16), tensor("b", 16)
    loop = LoopStep(Var("t"), S, (call(state, a), call(a, b), call(b, b)))
    found = {x.offset.name: (x.first, x.last) for x in lifetimes(program(call(state), loop))}
    assert found == {"arena:state": (0, 4), "arena:a": (2, 3), "arena:b": (3, 4)}


def test_a_buffer_of_an_inner_loop_outlives_only_that_loop() -> None:
    outer, inner = tensor("outer", 16), tensor("inner", 16)
    loop = LoopStep(
        Var("t"), 4, (call(inner), LoopStep(Var("u"), 4, (call(inner), call(outer))), call(outer))
    )
    found = {x.offset.name: (x.first, x.last) for x in lifetimes(program(loop))}
    assert found == {"arena:inner": (1, 4), "arena:outer": (2, 5)}


def test_views_of_a_loop_make_a_buffer_as_large_as_all_iterations() -> None:
    t = Var("t")
    forward = tensor("y", B, displacement=dim(t * (B * 4)))
    backward = tensor("z", B, displacement=dim((S - 1 - t) * (B * 4)))
    found = lifetimes(program(LoopStep(t, S, (call(forward, backward),))))
    assert [x.size for x in found] == [dim(B * S * 4)] * 2


def test_views_keep_their_displacement() -> None:
    t = Var("t")
    pad, view = tensor("pad", 100), tensor("y", 16, displacement=t * 64)
    planned = plan_memory(program(call(pad), LoopStep(t, 8, (call(pad, view),))))
    places = offsets(planned)
    assert isinstance(places["pad"], int)
    assert dim(as_expr(places["y"]) - t * 64) in (0, 448)


def test_a_size_read_from_data_takes_its_upper_bound() -> None:
    n = Var("n", dt.i64, 0, 100)
    count = Tensor("count", dt.i64, (1,), InputStorage(0))
    planned = plan_memory(program(LetElement(n, count, 0), call(tensor("x", n))))
    assert planned.arena_bytes == 448


def test_a_size_read_from_data_without_a_bound_is_refused() -> None:
    n = Var("n", dt.i64, 0, None)
    count = Tensor("count", dt.i64, (1,), InputStorage(0))
    with pytest.raises(UnsupportedError, match="x"):
        plan_memory(program(LetElement(n, count, 0), call(tensor("x", n))))


def test_a_program_without_arena_buffers_needs_none() -> None:
    assert plan_memory(program(call())).arena_bytes == 0


# ------------------------------------------------------------------ random programs


@dataclass
class _Random:
    """Programs whose buffers are written before they are read, as lowering makes them."""

    rng: Generator
    made: int = 0
    shapes: tuple[tuple[Dim, ...], ...] = field(
        default=((3,), (100,), (1000,), (B, 5), (B, 64), (B, S), (B, S, 48), (B, S, S), (S + 1, 3))
    )

    def block(self, depth: int, visible: list[Tensor]) -> tuple[Step, ...]:
        visible = list(visible)
        steps: list[Step] = []
        for _ in range(int(self.rng.integers(2, 9))):
            kind = int(self.rng.integers(8)) if depth < 3 else 7
            if kind == 0:
                steps.append(LoopStep(Var(f"t{self.made}"), 4, self.block(depth + 1, visible)))
            elif kind == 1:
                cond = Tensor("c", dt.bool_, (), InputStorage(0))
                branches = self.block(depth + 1, visible), self.block(depth + 1, visible)
                steps.append(IfStep(cond, *branches))
            else:
                reads = [
                    visible[max(0, len(visible) - 1 - int(self.rng.geometric(0.3)))]
                    for _ in range(int(self.rng.integers(3)))
                    if visible
                ]
                shape = self.shapes[int(self.rng.integers(len(self.shapes)))]
                new = tensor(f"b{self.made}", *shape)
                self.made += 1
                steps.append(call(*reads, new))
                visible.append(new)
                if len(reads) == 2:
                    steps.append(CopyTensor(reads[0], reads[1]))
        return tuple(steps)


@pytest.mark.parametrize("seed", range(40))
def test_no_two_live_buffers_overlap(seed: int) -> None:
    whole = program(*_Random(default_rng(seed)).block(0, []))
    buffers = lifetimes(whole)
    places, total = place(buffers)
    for env in ({"B": 1, "S": 1}, {"B": 3, "S": 7}, {"B": 64, "S": 33}):
        size = {b.offset: evaluate(b.size, env) for b in buffers}
        start = {b.offset: evaluate(places[b.offset], env) for b in buffers}
        for i, a in enumerate(buffers):
            assert start[a.offset] % ALIGNMENT == 0
            assert start[a.offset] + size[a.offset] <= evaluate(total, env)
            for b in buffers[:i]:
                if a.first <= b.last and b.first <= a.last:
                    assert (
                        start[a.offset] + size[a.offset] <= start[b.offset]
                        or start[b.offset] + size[b.offset] <= start[a.offset]
                    )


@pytest.mark.parametrize("seed", range(20))
def test_a_walk_through_the_program_never_reads_what_another_buffer_wrote(seed: int) -> None:
    """Runs the plan on an arena of owners: each call checks its reads and claims its writes."""
    rng = default_rng(seed)
    planned = plan_memory(program(*_Random(rng).block(0, [])))
    env = {"B": 3, "S": 5}
    owner = [""] * (evaluate(planned.arena_bytes, env) // ALIGNMENT + 1)

    def places(item: Tensor) -> range:
        assert isinstance(item.storage, ArenaStorage)
        first = evaluate(item.storage.offset, env)
        size = 4
        for d in item.shape:
            size *= evaluate(d, env)
        return range(first // ALIGNMENT, -(-(first + size) // ALIGNMENT))

    def run(steps: tuple[Step, ...]) -> None:
        for step in steps:
            match step:
                case CallKernel(args=args):
                    *reads, new = [a for a in args if isinstance(a, Tensor)]
                    for read in reads:
                        assert all(owner[p] == read.name for p in places(read)), read.name
                    for p in places(new):
                        owner[p] = new.name
                case IfStep(then=then, orelse=orelse):
                    run(then if rng.random() < 0.5 else orelse)
                case LoopStep(trip=trip, body=body):
                    for _ in range(evaluate(trip, env)):
                        run(body)

    run(planned.steps)


@pytest.mark.parametrize("seed", range(20))
def test_packing_stays_near_the_bound_of_what_is_live(seed: int) -> None:
    rng = default_rng(seed)
    spans = []
    for moment in range(120):
        size = int(rng.choice([1, 4, 16, 64])) * int(rng.integers(1, 8))
        spans.append((size, moment, moment + int(rng.geometric(0.4))))
    _, height = pack(spans)
    assert lower_bound(spans) <= height <= 1.15 * lower_bound(spans)


@pytest.mark.parametrize("seed", range(20))
def test_no_arena_is_smaller_than_what_is_live_at_one_step(seed: int) -> None:
    whole = program(*_Random(default_rng(seed)).block(0, []))
    env = {"B": 3, "S": 7}
    least, planned = least_arena(whole), plan_memory(whole).arena_bytes
    assert 0 < evaluate(least, env) <= evaluate(planned, env)
