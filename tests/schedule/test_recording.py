"""A recorded schedule prints as Python and as JSON, and replays to exactly the same kernel."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from tilewright.backends.cuda.target import resolve_cuda
from tilewright.errors import ArtifactError, ScheduleError
from tilewright.lower.merge import merge_axes
from tilewright.lower.nests import to_func
from tilewright.schedule.recipes import kinds_of, schedule
from tilewright.schedule.recipes.choices import Choices
from tilewright.schedule.recording import Recording
from tilewright.schedule.schedule import Schedule
from tilewright.target import Target
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.ir import symbol
from tilewright.tensor.text import text

from .groups import (
    AVX2,
    AVX512,
    SSE,
    add,
    arg_max,
    attention,
    conv,
    matmul,
    max_pool,
    softmax,
    transpose,
)

N, S = symbol("N"), symbol("S")
SM80, SM90 = (resolve_cuda(f"cuda:{sm}") for sm in ("sm_80", "sm_90"))
GROUPS: Mapping[str, ComputeGroup] = {
    "product": matmul(16, 24, 100),
    "product of symbolic rows": matmul(N, 16, 48),
    "large product": matmul(256, 256, 256),
    "convolution": conv(9, 4, 20, 3, 1, 1),
    "convolution of an image with many edges": conv(8, 4, 40, 5, 2, 2),
    "convolution of a symbolic image": conv(N, 3, 20, 3, 1, 1),
    "pointwise convolution": conv(8, 4, 40, 1, 1, 0),
    "pool": max_pool(9, 20, 3, 2, 1),
    "softmax": softmax(5, 100),
    "softmax of symbolic rows": softmax(N, S),
    "long rows": softmax(4, 9000),
    "attention": attention(3, 13, 70, 5, 33),
    "attention of symbolic rows": attention(2, N, S, 4, 24),
    "arg max": arg_max(4, 37),
    "sum": add(1000, 3),
    "long sum": add(1 << 16),
    "transposition": transpose(40, 33),
}
WEIGHTS = frozenset({"x1", "x2"})
ANSWERS: Mapping[str, Mapping[str, int]] = {
    "default": {},
    "other": {"mr": 3, "nr": 32, "rows_first": 0, "prefetch": 3072, "unroll": 1, "parallel": 1,
              "bm": 16, "bn": 32, "vector": 1},
}  # fmt: skip


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("target", [AVX512, AVX2, SSE, SM80, SM90], ids=lambda t: t.name)
@pytest.mark.parametrize("name", GROUPS)
def test_a_recording_replays_exactly(name: str, target: Target, answers: str) -> None:
    nests = to_func(merge_axes(GROUPS[name]), WEIGHTS & {b.name for b in GROUPS[name].inputs})
    for kind in kinds_of(nests, target):
        choices = Choices(ANSWERS[answers], checked=True)
        try:
            done = schedule(nests, target, choices, kind)
        except ScheduleError:
            pytest.skip("no recipe takes the whole group")
        again = Recording.from_json(done.recording.json())
        assert again == done.recording
        func, packings = again.replay(nests.func)
        assert text(func) == text(done.func)
        assert packings == done.packings


def test_the_python_form_runs() -> None:
    nests = to_func(merge_axes(matmul(N, 16, 48)), WEIGHTS)
    done = schedule(nests, AVX512)
    source = str(done.recording)
    assert source.startswith("# if ")
    assert "s.pack('x1'" in source
    s, t = Schedule(nests.func), Schedule(nests.func)
    exec(source, {"s": s, "t": t})
    assert tuple(s.steps) == done.recording.steps
    assert tuple(t.steps) == done.recording.otherwise


GOOD = {"steps": [["split", ["m", 4, "mo", "mi", "guard"]]], "when": "", "otherwise": []}


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "[]",
        "{}",
        json.dumps({**GOOD, "steps": "split"}),
        json.dumps({**GOOD, "steps": [["split"]]}),
        json.dumps({**GOOD, "steps": [["explode", []]]}),
    ],
)
def test_what_is_no_recording_is_refused(wrong: str) -> None:
    with pytest.raises(ArtifactError, match="TW-E0522"):
        Recording.from_json(wrong)


def test_a_recording_of_another_function_does_not_apply() -> None:
    done = schedule(to_func(merge_axes(softmax(5, 100))), AVX512)
    other = to_func(merge_axes(add(1000, 3)))
    with pytest.raises(ScheduleError, match="TW-E0701"):
        done.recording.replay(other.func)


def test_there_is_no_such_step() -> None:
    with pytest.raises(AttributeError, match="no step 'explode'"):
        Schedule(to_func(add(4)).func).explode()
