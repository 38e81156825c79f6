"""Calls that repeat: what is found is what the steps do, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright import dtype as dt
from tilewright.backends.cpu.turns import LEAST_STEPS, LEAST_TURNS, find_turns
from tilewright.runtime.program import (
    ArenaStorage,
    CallKernel,
    ConstantStorage,
    CopyTensor,
    InputStorage,
    Step,
    Tensor,
)
from tilewright.tensor.ir import symbol


def tensor(storage: object) -> Tensor:
    return Tensor("t", dt.f32, (4,), storage)  # type: ignore[arg-type]


def moved(argument: object, by: int) -> object:
    if not isinstance(argument, Tensor):
        return argument
    match argument.storage:
        case ConstantStorage(offset):
            return replace(argument, storage=ConstantStorage(offset + by))
        case ArenaStorage(offset) if isinstance(offset, int):
            return replace(argument, storage=ArenaStorage(offset + by))
    assert by == 0
    return argument


def written_out(steps: list[Step]) -> list[Step]:
    """The steps with those of the loop made again from its first turn."""
    found = find_turns(steps)
    if found is None:
        return steps
    again: list[Step] = []
    for turn in range(found.count):
        for step, advances in zip(steps[found.start :], found.advances, strict=False):
            assert isinstance(step, CallKernel)
            pairs = zip(step.args, advances, strict=True)
            args = tuple(moved(a, turn * by) for a, by in pairs)
            again.append(CallKernel(step.kernel, args))  # type: ignore[arg-type]
    return [*steps[: found.start], *again, *steps[found.end :]]


storages = st.one_of(
    st.integers(0, 3).map(ConstantStorage),
    st.integers(0, 3).map(ArenaStorage),
    st.integers(0, 1).map(InputStorage),
)
calls = st.builds(
    CallKernel,
    st.sampled_from(["a", "b", "c"]),
    st.lists(st.one_of(storages.map(tensor), st.integers(0, 2)), min_size=1, max_size=3).map(tuple),
)


@settings(max_examples=60)
@given(st.data(), st.lists(calls, min_size=1, max_size=6), st.integers(0, 60))
def test_turns_are_the_steps_that_they_stand_for(
    data: st.DataObject, layer: list[CallKernel], turns: int
) -> None:
    steps: list[Step] = list(data.draw(st.lists(calls, max_size=3)))
    advances = [[data.draw(st.integers(-2, 2)) * 64 for _ in c.args] for c in layer]
    for turn in range(turns):
        for call, ways in zip(layer, advances, strict=True):
            args = []
            for a, by in zip(call.args, ways, strict=True):
                plain = not isinstance(a, Tensor) or isinstance(a.storage, InputStorage)
                args.append(moved(a, 0 if plain else turn * by))
            steps.append(CallKernel(call.kernel, tuple(args)))  # type: ignore[arg-type]
        if data.draw(st.integers(0, 30)) == 0:
            steps.append(data.draw(calls))
    steps += data.draw(st.lists(calls, max_size=3))
    assert written_out(steps) == steps


def test_layers_on_weights_of_their_own_are_turns() -> None:
    x, y = tensor(ArenaStorage(0)), tensor(ArenaStorage(64))
    steps: list[Step] = []
    for k in range(LEAST_STEPS // 2):
        w = tensor(ConstantStorage(128 * k))
        steps += [CallKernel("first", (x, w, y)), CallKernel("second", (y, x))]
    steps.insert(0, CallKernel("before", (tensor(InputStorage(0)), x)))
    found = find_turns(steps)
    assert found is not None
    assert (found.start, found.count) == (1, LEAST_STEPS // 2)
    assert found.advances == ((0, 128, 0), (0, 0))


def test_few_turns_and_steps_that_are_no_calls_of_known_places_are_none() -> None:
    n = symbol("N")
    x = tensor(ArenaStorage(0))
    assert find_turns([CallKernel("k", (x,))] * (LEAST_STEPS - 1)) is None
    many = [CallKernel(f"k{i}", (x,)) for i in range(LEAST_STEPS)]
    assert find_turns(many * (LEAST_TURNS - 1)) is None
    assert find_turns(many * LEAST_TURNS) is not None
    assert find_turns([CallKernel("k", (x, n))] * LEAST_STEPS) is None
    assert find_turns([CallKernel("k", (tensor(ArenaStorage(n * 4)),))] * LEAST_STEPS) is None
    assert find_turns([CopyTensor(x, x)] * LEAST_STEPS) is None
