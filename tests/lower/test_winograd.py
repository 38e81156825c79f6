"""Winograd: every form of the rewrite computes the convolution; what does not fit is left alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.errors import ArtifactError, ScheduleError
from tilewright.graph.build import GraphBuilder
from tilewright.graph.interpret import interpret as interpret_graph
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.lower import kernels
from tilewright.lower.inline import lower_body
from tilewright.lower.kernels import KernelTable
from tilewright.lower.sliding import Sliding, find_sliding
from tilewright.lower.winograd import Plan, apart_in_cache, replay, rewrite
from tilewright.lower.winograd_plan import plan_winograd
from tilewright.schedule.recording import Recording
from tilewright.target import Target, Threads
from tilewright.tensor.ir import Dim, symbol
from tilewright.tensor.parse import parse_func
from tilewright.tensor.text import text

from ..schedule.groups import AVX512
from .bodies import TARGET, body, f32, random_inputs, run_code

N = symbol("N")
H, W = symbol("H", 8), symbol("W", 5)
CONSTANTS = ("w", "b")


def conv(
    x: tuple[Dim, ...],
    columns: int,
    taps: tuple[int, ...] = (3, 3),
    lo: tuple[int, ...] = (1, 1),
    hi: tuple[int, ...] = (1, 1),
    epilogue: str = "",
    strides: tuple[int, ...] = (1, 1),
    dilations: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> Graph:
    """A convolution with, as ``epilogue`` says: bias, residual, relu, sum kept as well."""

    def make(b: GraphBuilder) -> Value | tuple[Value, ...]:
        channels = x[-1]
        assert isinstance(channels, int)
        given = b.input("x", f32(*x))
        weights = b.input("w", f32(*taps, channels // groups, columns))
        y = b.add("conv", given, weights, strides=strides[: len(taps)], lo=lo, hi=hi,
                  dilations=dilations[: len(taps)], groups=groups)  # fmt: skip
        if "bias" in epilogue:
            y = b.add("add", y, b.input("b", f32(columns)))
        if "residual" in epilogue:
            y = b.add("add", y, b.input("r", TensorType(dt.f32, y.shape)))
        total = y
        if "relu" in epilogue:
            y = b.add("max", y, b.constant(np.float32(0)))
        return (total, y) if "kept" in epilogue else y

    return body(make)


def worst(
    graph: Graph,
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
    sizes: Mapping[str, int],
    target: Target = TARGET,
) -> float:
    """The greatest error of a plan, against float64, relative to the greatest result."""
    monkeypatch.setattr(kernels, "plan_winograd", lambda *_: plan)
    fixed = frozenset(v for v in graph.inputs if v.name in CONSTANTS)
    code = KernelTable(target).code(graph, fixed)
    assert len(code.kernels) == 1 + plan.by_panels
    assert all(k.recipe.startswith("winograd") for k in code.kernels)
    assert all(parse_func(text(k.func)) == k.func for k in code.kernels)
    arrays = random_inputs(graph, sizes)
    found = run_code(code, graph, arrays, sizes)
    exact = interpret_graph(double(graph), {k: v.astype(np.float64) for k, v in arrays.items()})
    errors = [
        np.abs(got - want).max() / np.abs(want).max()
        for got, want in zip(found, exact, strict=True)
    ]
    return float(max(errors))


def double(graph: Graph) -> Graph:
    """The same graph in float64."""
    builder = GraphBuilder("double")
    names: dict[Value, Value] = {}
    for v in graph.inputs:
        names[v] = builder.input(v.name, TensorType(dt.f64, v.shape))
    for v, a in graph.constants.items():
        names[v] = builder.constant(np.asarray(a, np.float64))
    for node in graph.nodes:
        inputs = [names[v] for v in node.inputs]
        attrs: dict[str, Any] = dict(node.attrs)
        names[node.outputs[0]] = builder.add(node.op, *inputs, **attrs)
    for k, v in enumerate(graph.outputs):
        builder.output(names[v], f"out{k}")
    return builder.finish()


CASES: list[tuple[str, Callable[[], Graph], Plan, dict[str, int]]] = [
    ("even", lambda: conv((1, 8, 8, 8), 16), Plan(4, 4, 4, 8, False), {}),
    ("odd sizes", lambda: conv((1, 7, 9, 5), 11), Plan(4, 3, 2, 16, False), {}),
    ("odd sizes by panels", lambda: conv((1, 7, 9, 5), 19), Plan(4, 4, 2, 8, True), {}),
    ("2x2 tiles", lambda: conv((1, 7, 6, 9), 8), Plan(2, 5, 3, 8, True), {}),
    ("no padding", lambda: conv((1, 9, 7, 4), 8, lo=(0, 0), hi=(0, 0)), Plan(4, 3, 3, 8, False),
     {}),
    ("uneven padding", lambda: conv((1, 6, 5, 4), 8, lo=(2, 0), hi=(1, 2)),
     Plan(4, 4, 2, 8, True), {}),
    ("many tiles inside", lambda: conv((1, 33, 29, 8), 8), Plan(4, 14, 7, 8, False), {}),
    ("batch", lambda: conv((3, 6, 6, 4), 8), Plan(4, 5, 5, 8, False), {}),
    ("batch by panels", lambda: conv((3, 6, 6, 4), 24), Plan(4, 5, 5, 8, True), {}),
    ("symbolic batch", lambda: conv((N, 6, 10, 4), 8), Plan(4, 6, 3, 8, False), {"N": 3}),
    ("symbolic batch by panels", lambda: conv((N, 6, 10, 4), 12), Plan(4, 6, 3, 8, True),
     {"N": 2}),
    ("symbolic sizes", lambda: conv((1, H, W, 4), 8), Plan(4, 4, 4, 8, False), {"H": 9, "W": 14}),
    ("all sizes symbolic", lambda: conv((N, H, W, 4), 24, epilogue="residual"),
     Plan(4, 4, 2, 8, True), {"N": 2, "H": 13, "W": 7}),
    ("bias, residual, relu", lambda: conv((2, 7, 7, 8), 8, epilogue="bias residual relu"),
     Plan(4, 4, 4, 8, False), {}),
    ("two results", lambda: conv((1, 7, 7, 8), 16, epilogue="bias relu kept"),
     Plan(4, 4, 4, 16, True), {}),
    ("5x5", lambda: conv((1, 7, 8, 4), 8, (5, 5), (2, 2), (2, 2)), Plan(2, 4, 4, 8, False), {}),
    ("dilated", lambda: conv((1, 12, 16, 4), 8, lo=(2, 2), hi=(2, 2), dilations=(2, 2)),
     Plan(4, 4, 4, 8, False), {}),
    ("dilated, odd sizes", lambda: conv((2, 11, 13, 5), 11, lo=(3, 2), hi=(3, 1),
     dilations=(3, 2), epilogue="bias relu"), Plan(4, 5, 5, 8, True), {}),
    ("dilated beyond the image", lambda: conv((1, 7, 9, 4), 8, lo=(8, 8), hi=(8, 8),
     dilations=(8, 8)), Plan(2, 4, 4, 8, False), {}),
    ("dilated, symbolic", lambda: conv((N, H, W, 4), 8, lo=(2, 4), hi=(2, 4), dilations=(2, 4)),
     Plan(4, 4, 4, 8, False), {"N": 2, "H": 13, "W": 7}),
    ("one axis", lambda: conv((2, 11, 6), 8, (3,), (1,), (1,)), Plan(4, 3, 3, 8, False), {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("graph", "plan", "sizes"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_the_rewrite_computes_the_convolution(
    graph: Callable[[], Graph],
    plan: Plan,
    sizes: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert worst(graph(), plan, monkeypatch, sizes) < 1e-5


@pytest.mark.parametrize("by_panels", [False, True])
@pytest.mark.parametrize("channels", [12, 10, 9, 7])
def test_weights_read_in_several_places_make_the_same_sums(
    channels: int, by_panels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those are that lie beyond the caches."""
    tiny = replace(TARGET, l2_bytes=4096)
    graph = conv((1, 7, 9, channels), 20, epilogue="bias relu")
    assert worst(graph, Plan(4, 6, 3, 8, by_panels), monkeypatch, {}, tiny) < 1e-5


def test_upsampling_before_a_convolution_is_read_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is read need not be a plain tensor: it must only slide."""

    def make(b: GraphBuilder) -> Value:
        x = b.input("x", f32(1, 3, 4, 8))
        wide = b.add("broadcast_to", b.add("reshape", x, shape=(1, 3, 1, 4, 1, 8)),
                     shape=(1, 3, 2, 4, 2, 8))  # fmt: skip
        wide = b.add("reshape", b.add("abs", wide), shape=(1, 6, 8, 8))
        w = b.input("w", f32(3, 3, 8, 8))
        return b.add("conv", wide, w, strides=(1, 1), lo=(1, 1), hi=(1, 1), dilations=(1, 1),
                     groups=1)  # fmt: skip

    assert worst(body(make), Plan(4, 4, 4, 8, False), monkeypatch, {}) < 1e-5


def sliding(graph: Graph, constants: tuple[str, ...] = CONSTANTS) -> Sliding | None:
    lowered = lower_body("group", graph)
    pairs = zip(lowered.group.inputs, lowered.inputs, strict=True)
    fixed = frozenset(b.name for b, v in pairs if v.name in constants)
    return find_sliding(lowered.group, fixed)


def matched(graph: Graph, constants: tuple[str, ...] = CONSTANTS) -> bool:
    return sliding(graph, constants) is not None


FAR: tuple[str, Callable[[], Graph], Plan, dict[str, int]] = (
    "weights from afar",
    lambda: conv((1, 14, 14, 256), 256),
    Plan(4, 8, 8, 32, True),
    {},
)


ARRIVING: tuple[str, Callable[[], Graph], Plan, dict[str, int]] = (
    "weights that fit the cache",
    lambda: conv((1, 14, 14, 64), 64),
    Plan(4, 16, 16, 16, True),
    {},
)
RECORDED = [*CASES, FAR, ARRIVING]


@pytest.mark.parametrize(
    ("graph", "plan"), [c[1:3] for c in RECORDED], ids=[c[0] for c in RECORDED]
)
def test_a_recording_replays_exactly(graph: Callable[[], Graph], plan: Plan) -> None:
    found = sliding(graph())
    assert found is not None
    made, scratch = rewrite("conv", found, plan, AVX512)
    for part in made:
        assert part.recording is not None
        recording = Recording.from_json(part.recording.json())
        assert recording == part.recording
        again, between = replay(recording, "conv", found, AVX512)
        assert [text(p.func) for p in again] == [text(p.func) for p in made]
        assert [p.packings for p in again] == [p.packings for p in made]
        assert between == scratch


@pytest.mark.parametrize(
    ("case", "l2"),
    [(FAR, 64 << 20), (ARRIVING, 64 << 10), (ARRIVING, 64 << 20)],
    ids=["larger than afar", "smaller", "larger"],
)
def test_a_recording_replays_for_a_machine_of_another_cache(
    case: tuple[str, Callable[[], Graph], Plan, dict[str, int]], l2: int
) -> None:
    found = sliding(case[1]())
    assert found is not None
    made, _ = rewrite("conv", found, case[2], AVX512)
    assert made[-1].recording is not None
    other = replace(AVX512, l2_bytes=l2)
    assert text(rewrite("conv", found, case[2], other)[0][-1].func) != text(made[-1].func)
    again, _ = replay(made[-1].recording, "conv", found, other)
    assert [text(p.func) for p in again] == [text(p.func) for p in made]
    assert [p.packings for p in again] == [p.packings for p in made]


@pytest.mark.parametrize("places", [0, 3])
def test_weights_that_do_not_divide_into_so_many_places_are_refused(places: int) -> None:
    found = sliding(FAR[1]())
    assert found is not None
    made, _ = rewrite("conv", found, FAR[2], AVX512)
    recording = made[-1].recording
    assert recording is not None
    plan = tuple((n, places if n == "streams" else v) for n, v in recording.plan)
    with pytest.raises(ArtifactError, match=f"256 channels are not read in {places} places"):
        replay(replace(recording, plan=plan), "conv", found, AVX512)


def test_weights_from_afar_are_read_in_several_places_at_once() -> None:
    found = sliding(FAR[1]())
    assert found is not None
    made, _ = rewrite("conv", found, FAR[2], AVX512)
    loops = text(made[-1].func)
    assert "_transformed: f32[4, 8, 6, 6, 64, 32]" in loops and "for s in unroll(4):" in loops
    arriving = sliding(conv((1, 14, 14, 64), 64))
    assert arriving is not None
    made, _ = rewrite("conv", arriving, FAR[2], AVX512)
    loops = text(made[-1].func)
    assert "_transformed: f32[2, 2, 6, 6, 32, 32]" in loops and "for s in unroll(2):" in loops
    assert "s.prefetch('k" in made[-1].steps
    near = sliding(conv((1, 14, 14, 32), 32))
    assert near is not None
    made, _ = rewrite("conv", near, FAR[2], AVX512)
    assert "_transformed: f32[1, 1, 6, 6, 32, 32]" in text(made[-1].func)
    assert "s.prefetch(" not in made[-1].steps


@pytest.mark.parametrize("channels", [16, 24, 64, 256, 512])
@pytest.mark.parametrize("block", [5, 8, 13, 16, 32])
def test_the_lines_of_a_tile_at_all_positions_stay_in_the_cache_together(
    block: int, channels: int
) -> None:
    rows, length = apart_in_cache(36, block, channels, AVX512)
    assert rows in (block, block + 1) and length in (channels, channels + 16)
    sets = [k * rows * length * 4 % 4096 // 64 for k in range(36)]
    assert max(sets.count(x) for x in sets) * 4096 <= AVX512.l1_bytes * 3 // 4


def test_positions_that_share_no_sets_are_not_moved_apart() -> None:
    assert apart_in_cache(36, 13, 128, AVX512) == (13, 128)
    assert apart_in_cache(36, 16, 256, AVX512) != (16, 256)


def test_recorded_steps_shape_the_product_and_not_the_recipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = sliding(FAR[1]())
    assert found is not None
    made, _ = rewrite("conv", found, FAR[2], AVX512)
    assert made[-1].steps.startswith(
        "# winograd(m=4, block=8, mr=8, nr=32, by_panels=1, streams=4)\ns.split("
    )
    assert "s.prefetch('k" in made[-1].steps

    def no_recipe(*_: object) -> None:
        raise AssertionError("the recipe was asked")

    monkeypatch.setattr("tilewright.lower.winograd.tile", no_recipe)
    assert made[-1].recording is not None
    again, _ = replay(made[-1].recording, "conv", found, AVX512)
    assert text(again[-1].func) == text(made[-1].func)


def test_a_recording_of_another_method_does_not_apply() -> None:
    found = sliding(CASES[0][1]())
    assert found is not None
    (made,), _ = rewrite("conv", found, CASES[0][2], TARGET)
    recording = made.recording
    assert recording is not None
    with pytest.raises(ScheduleError, match="winograd"):
        recording.replay(made.func)
    with pytest.raises(ArtifactError, match="TW-E0522"):
        replay(Recording(recording.steps), "conv", found, TARGET)
    with pytest.raises(ArtifactError, match="TW-E0522"):
        replay(replace(recording, plan=(("m", 4),)), "conv", found, TARGET)


def test_only_dense_convolutions_of_stride_1_with_known_weights_match() -> None:
    x = (1, 8, 8, 8)
    assert matched(conv(x, 16))
    assert matched(conv(x, 16, epilogue="bias residual relu"))
    assert not matched(conv(x, 16), constants=())
    assert not matched(conv(x, 16, strides=(2, 2)))
    assert not matched(conv(x, 16, groups=2))
    assert not matched(conv(x, 16, (1, 1), (0, 0), (0, 0)))


def chosen(x: tuple[Dim, ...], columns: int, target: Target = TARGET) -> Plan | None:
    lowered = lower_body("group", conv(x, columns))
    found = find_sliding(lowered.group, frozenset(b.name for b in lowered.group.inputs))
    assert found is not None
    return plan_winograd(found, target)


def test_the_model_takes_the_method_where_it_pays() -> None:
    large = chosen((1, 56, 56, 64), 64)
    assert large is not None and large.m == 4 and not large.by_panels
    few_tiles = chosen((1, 14, 14, 256), 256)
    assert few_tiles is not None and few_tiles.by_panels
    assert chosen((1, 224, 224, 3), 64) is None
    assert chosen((1, 4, 4, 64), 64) is None
    assert chosen((N, 56, 56, 64), 64) is not None
    assert chosen((N, symbol("H", 32), symbol("W", 32), 64), 64) is not None
    assert chosen((N, symbol("H"), symbol("W"), 64), 64) is None
    blocks = replace(TARGET, threads=Threads(32, 1024, 1 << 15, 255, 1 << 16, 16, 80))
    assert chosen((1, 56, 56, 64), 64, blocks) is None


def test_strict_math_forbids_it() -> None:
    graph = conv((1, 28, 28, 32), 32)
    fixed = frozenset(v for v in graph.inputs if v.name in CONSTANTS)
    fast = KernelTable(TARGET).code(graph, fixed)
    strict = KernelTable(TARGET, "strict").code(graph, fixed)
    assert fast.kernels[0].recipe.startswith("winograd")
    assert [k.recipe for k in strict.kernels] == ["tile"]


def test_convolutions_with_other_epilogues_share_the_transform_of_their_inputs() -> None:
    table = KernelTable(TARGET)
    made = []
    for epilogue in ("bias", "bias relu", "bias residual relu"):
        graph = conv((1, 14, 14, 256), 256, epilogue=epilogue)
        fixed = frozenset(v for v in graph.inputs if v.name in CONSTANTS)
        made.append(table.code(graph, fixed))
    assert {len(code.kernels) for code in made} == {2}
    assert len({code.kernels[0].func.name for code in made}) == 1
    assert len({code.kernels[1].func.name for code in made}) == 3
    assert len(table.kernels) == 4
