"""``torch.compile(model, backend="tilewright")``: what it computes, copies and compiles again."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
from importlib.metadata import entry_points
from typing import Any

import pytest

import tilewright as tw
from tilewright.dynamo import compile_captured
from tilewright.errors import InputError, OptionError, UnsupportedError
from tilewright.runtime.executable import Executable

from .calls import agree, compiled, executables, graphs

torch = pytest.importorskip("torch")
nn = torch.nn

from torch._dynamo.exc import BackendCompilerFailed  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("dynamo")]


# ------------------------------------------------------------------ being found and called


def test_torch_finds_the_backend_by_its_entry_point() -> None:
    (found,) = entry_points(group="torch_dynamo_backends", name="tilewright")
    assert found.value == "tilewright.dynamo:compile_captured"
    assert "tilewright" in torch.compiler.list_backends()


def test_a_module_and_a_function_agree_with_eager() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).eval()
    agree(model, torch.randn(3, 8), fullgraph=True)
    agree(lambda x, y: torch.softmax(x @ y, -1), torch.randn(3, 4), torch.randn(4, 5))


def test_an_encoder_layer_in_eval_mode_agrees_with_its_one_operator() -> None:
    for norm_first in (False, True):
        layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first=norm_first, batch_first=True)
        agree(layer.eval(), torch.randn(2, 5, 8))


def test_nested_arguments_and_results_keep_their_form() -> None:
    def swap(pair: Any, more: Any) -> Any:
        return {"sum": pair[0] + pair[1], "rest": [more["a"] * 2, None, 3]}

    got = agree(swap, (torch.ones(2), torch.ones(2)), {"a": torch.ones(3)})
    assert list(got) == ["sum", "rest"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_tensors_of_other_types_pass(dtype: Any) -> None:
    x = (torch.randn(4, 6) * 10).to(dtype)
    got = agree(lambda x: (x + x, x.t() * 2), x)
    assert got[0].dtype is dtype


def test_graph_breaks_leave_several_compiled_graphs() -> None:
    def broken(x: Any) -> Any:
        y = torch.relu(x) + 1
        torch._dynamo.graph_break()
        return y @ y.t()

    x = torch.randn(3, 3)
    torch.testing.assert_close(compiled(broken)(x), broken(x))
    assert graphs() == 2


def test_inference_mode_needs_no_other_gradients_off() -> None:
    model = nn.Linear(4, 4)
    with torch.enable_grad(), torch.inference_mode():
        agree(model, torch.randn(2, 4))


def test_several_threads_call_at_once() -> None:
    model = nn.Linear(16, 16)
    function = compiled(model)
    inputs = [torch.randn(4, 16) for _ in range(8)]
    function(inputs[0])
    wrong = []

    def work(x: Any) -> None:
        with torch.no_grad():
            for _ in range(50):
                if not torch.allclose(function(x), model(x), atol=1e-5):
                    wrong.append(x)

    workers = [threading.Thread(target=work, args=(x,)) for x in inputs]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


# ------------------------------------------------------------------ memory


def test_inputs_are_read_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[int], list[int]]] = []
    call_at = Executable.call_at

    def spy(self: Any, plan: Any, inputs: Any, outputs: Any) -> None:
        seen.append((list(inputs), list(outputs)))
        call_at(self, plan, inputs, outputs)

    monkeypatch.setattr(Executable, "call_at", spy)
    x, y = torch.randn(5, 7), torch.randn(5, 7)
    result = compiled(lambda x, y: x * y)(x, y)
    ((inputs, outputs),) = seen
    assert inputs == [x.data_ptr(), y.data_ptr()]
    assert outputs == [result.data_ptr()]


def test_inputs_that_are_views_are_read_right() -> None:
    base = torch.arange(48, dtype=torch.float32).reshape(6, 8)
    for view in (base.t(), base[:, ::2], base[1:, 3:5], base[:1].expand(4, 8), base[2]):
        agree(lambda x: x + 1, view)


def test_outputs_have_the_strides_of_eager() -> None:
    def layouts(x: Any) -> Any:
        y = x + 1
        return y.t(), (x * 2).permute(1, 0), torch.relu(x)[:, ::2]

    got, want = compiled(layouts)(torch.ones(4, 6)), layouts(torch.ones(4, 6))
    assert [g.stride() for g in got[:2]] == [w.stride() for w in want[:2]]
    torch.testing.assert_close(got, want)
    image = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    made = agree(nn.Conv2d(3, 4, 3), image)
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_outputs_that_are_inputs_or_views_of_them_share_their_memory() -> None:
    def views(x: Any) -> Any:
        return x, x.t(), x[1:, ::2], x.view(-1), x + 1, x.split(2)[1]

    base = torch.randn(9, 4)
    x = base[2:6]  # not at the start of its memory
    got, want = compiled(views)(x), views(x)
    torch.testing.assert_close(got, want)
    assert got[0] is x
    for g, w in zip(got, want, strict=True):
        assert (g.data_ptr() == w.data_ptr()) == (g is not got[4])
        assert g.stride() == w.stride()


def test_outputs_that_are_views_of_each_other_share_memory() -> None:
    def pair(x: Any) -> Any:
        y = x * 2
        return y, y[1:], y

    y, tail, again = compiled(pair)(torch.randn(4, 3))
    y.zero_()
    assert not tail.any()
    assert again is y


def test_empty_and_scalar_tensors_pass() -> None:
    agree(lambda x: (x + 1, x.sum()), torch.empty(0, 4))
    agree(lambda x: x * 2, torch.tensor(3.0))


# ------------------------------------------------------------------ mutation


def test_writes_to_inputs_happen() -> None:
    def write(x: Any, y: Any) -> Any:
        x.add_(1)
        y[1:3] = x[:2]
        return x * y

    agree(write, torch.randn(4), torch.randn(4))


def test_a_cache_in_a_buffer_grows() -> None:
    class Cache(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("keys", torch.zeros(2, 8, 4))
            self.register_buffer("place", torch.zeros(1, dtype=torch.long))

        def forward(self, x: Any) -> Any:
            self.keys.index_copy_(1, self.place, x)
            self.place.add_(1)
            return self.keys.sum(-1)

    mine, theirs = Cache(), Cache()
    function = compiled(mine)
    for _ in range(3):
        x = torch.randn(2, 1, 4)
        torch.testing.assert_close(function(x), theirs(x))
    torch.testing.assert_close(mine.state_dict(), theirs.state_dict())


def test_writes_through_views_happen() -> None:
    def write(x: Any) -> Any:
        flat = x.view(-1)
        flat[::2].mul_(3)
        return flat.sum(), x.t()

    agree(write, torch.randn(4, 4))


def test_inputs_that_overlap_are_written_as_in_eager_or_refused() -> None:
    def write(x: Any, y: Any) -> Any:
        x.add_(1)
        return y * 2

    mine, theirs = torch.ones(6), torch.ones(6)
    with contextlib.suppress(BackendCompilerFailed):
        got = compiled(write)(mine[:4], mine[2:])
        torch.testing.assert_close(got, write(theirs[:4], theirs[2:]))
    torch.testing.assert_close(mine, theirs)


class Counter(nn.Module):  # type: ignore[misc, name-defined]
    """Counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Any) -> Any:
        self.seen += 1
        return x * self.seen


def test_writes_to_buffers_happen_at_every_call() -> None:
    model = Counter()
    function = compiled(model)
    for i in range(1, 5):
        torch.testing.assert_close(function(torch.ones(3)), torch.full((3,), float(i)))
    assert float(model.seen[0]) == 4
    assert graphs() == 1


# ------------------------------------------------------------------ gradients


def test_gradients_are_refused_not_dropped() -> None:
    model = nn.Linear(4, 2)
    with torch.enable_grad(), pytest.raises(BackendCompilerFailed) as caught:
        compiled(model)(torch.randn(3, 4))
    message = str(caught.value)
    assert "TW-E0250" in message
    assert "torch.no_grad()" in message
    assert "weight" in message
    assert isinstance(caught.value.inner_exception, UnsupportedError)


def test_turning_gradients_on_later_is_refused() -> None:
    model = nn.Linear(4, 2)
    function, x = compiled(model), torch.randn(3, 4)
    function(x)
    with torch.enable_grad(), pytest.raises(BackendCompilerFailed, match="TW-E0250"):
        function(x)


def test_gradients_that_nothing_needs_are_no_obstacle() -> None:
    x = torch.randn(3, 4)
    with torch.enable_grad():
        agree(lambda x: x * 2, x)
        weight = torch.randn(4, 5, requires_grad=True)
        got = compiled(lambda x, w: (x @ w).argmax(-1))(x, weight)
        assert torch.equal(got, (x @ weight).argmax(-1))


# ------------------------------------------------------------------ sizes


def test_dynamic_compiles_once_for_many_sizes() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)).eval()
    function = compiled(model, dynamic=True)
    for n in (5, 2, 3, 17, 64):
        x = torch.randn(n, 8)
        torch.testing.assert_close(function(x), model(x))
    assert graphs() == 1


def test_sizes_that_turn_out_to_vary_compile_once_more() -> None:
    model = nn.Linear(8, 8)
    function = compiled(model)
    for n in (5, 2, 3, 17, 64):
        x = torch.randn(n, 8)
        torch.testing.assert_close(function(x), model(x))
    assert graphs() == 2


def test_sizes_0_and_1_are_graphs_of_their_own() -> None:
    def spread(x: Any, y: Any) -> Any:
        return x + y

    function = compiled(spread, dynamic=True)
    for n in (4, 1, 0, 5):
        x, y = torch.randn(n, 3), torch.randn(4 if n == 1 else n, 3)
        torch.testing.assert_close(function(x, y), spread(x, y))
    assert graphs() == 3


def test_declared_ranges_and_relations_of_sizes_hold() -> None:
    def joined(x: Any, y: Any) -> Any:
        return torch.cat([x, y]).reshape(-1, 3, x.shape[1]).sum(1)

    function = compiled(joined)
    for n in (2, 6, 8):
        x, y = torch.randn(n, 3), torch.randn(2 * n, 3)
        torch._dynamo.mark_dynamic(x, 0, min=2, max=8)
        torch._dynamo.mark_dynamic(y, 0)
        torch.testing.assert_close(function(x, y), joined(x, y))


def test_numbers_are_inputs_and_outputs() -> None:
    def window(x: Any, n: int) -> Any:
        return x[:, :n] * n, x.shape[0] * n, torch.arange(n), n

    function = compiled(window, dynamic=True)
    for rows, n in ((3, 4), (5, 2), (2, 7)):
        x = torch.randn(rows, 9)
        got, want = function(x, n), window(x, n)
        torch.testing.assert_close(got[0], want[0])
        assert got[1:2] + got[3:] == want[1:2] + want[3:]
        torch.testing.assert_close(got[2], want[2])
    assert graphs() == 1


def test_negative_numbers_and_fractions_are_numbers() -> None:
    x = torch.randn(4)

    def scaled(x: Any, n: Any) -> Any:
        return x * n + n

    function = compiled(scaled, dynamic=True)
    for n in (3, -5, 1 << 40):
        torch.testing.assert_close(function(x, n), scaled(x, n))
    function = compiled(scaled)
    for s in (0.5, 0.25, -3.5, 1e-3):
        torch.testing.assert_close(function(x, s), scaled(x, s))


def test_integers_of_exported_programs_are_inputs_too() -> None:
    class Window(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, n: int) -> Any:
            return x[:, :n] * n, torch.arange(n)

    rows, count = torch.export.Dim("rows"), torch.export.Dim.DYNAMIC
    program = torch.export.export(
        Window(), (torch.ones(3, 8), 5), dynamic_shapes=({0: rows}, count)
    )
    executable = tw.compile(program)
    for n in (2, 6):
        x = torch.randn(4, 8)
        torch.testing.assert_close(executable(x, n), Window()(x, n))
    with pytest.raises(InputError, match="TW-E0306"):
        executable(x, -1)


# ------------------------------------------------------------------ options


def test_threads_are_those_of_torch_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TILEWRIGHT_THREADS", raising=False)
    made = executables(monkeypatch)
    before = torch.get_num_threads()
    function, x = compiled(lambda x: x.sin()), torch.randn(8)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            function(x)
            assert made[-1].threads == count  # torch compiles again for another number
    finally:
        torch.set_num_threads(before)


def test_threads_of_the_options_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    made = executables(monkeypatch)
    compiled(lambda x: x.cos(), options={"threads": 3, "cache": False})(torch.randn(8))
    assert made[0].threads == 3


@pytest.mark.parametrize(
    ("chosen", "code"),
    [
        ({"options": {"thread": 1}}, "TW-E0802"),
        ({"options": {"threads": 0}}, "TW-E0801"),
        ({"options": {"target": "z80"}}, "TW-E0401"),
        ({"mode": "max-autotune"}, "TW-E0801"),
    ],
)
def test_options_that_are_not_known_are_refused(chosen: dict[str, Any], code: str) -> None:
    with pytest.raises(BackendCompilerFailed, match=code):
        compiled(lambda x: x + 1, **chosen)(torch.ones(2))


def test_known_modes_and_options_pass() -> None:
    agree(lambda x: x + 1, torch.ones(2), mode="reduce-overhead")
    agree(lambda x: x + 2, torch.ones(2), options={"target": "x86-64-v3"})


# ------------------------------------------------------------------ what is refused


def test_all_gaps_are_listed_with_the_lines() -> None:
    def gaps(x: Any) -> Any:
        y = torch.rand(3) + x
        return y, torch.randn(3)

    with pytest.raises(BackendCompilerFailed) as caught:
        compiled(gaps)(torch.ones(3))
    found = caught.value.inner_exception
    assert isinstance(found, UnsupportedError)
    assert len(found.gaps) == 2
    for gap in found.gaps:
        assert any(f"{__file__}:" in place for place in gap.nodes)


def test_a_refusal_is_not_a_fallback() -> None:
    with pytest.raises(BackendCompilerFailed, match="TW-E0200"):
        compiled(lambda x: torch.nn.functional.dropout(x, 0.5, training=True))(torch.ones(3))


def test_option_errors_are_ours() -> None:
    with pytest.raises(OptionError, match="unknown option depth"):
        compile_captured(None, [], options={"depth": 3})


# ------------------------------------------------------------------ without a compiler


def test_no_compiler_is_needed(tmp_path: Any) -> None:
    program = """
        import os, shutil, torch
        assert not any(map(shutil.which, ("cc", "gcc", "g++", "clang", "ld", "as")))
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()).eval()
        x = torch.randn(2, 4)
        with torch.no_grad():
            got = torch.compile(model, backend="tilewright")(x)
            torch.testing.assert_close(got, model(x))
        print("agrees")
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path), **_python_path()},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.stdout.strip() == "agrees", done.stderr


def _python_path() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k in ("PYTHONPATH", "LD_LIBRARY_PATH")}
