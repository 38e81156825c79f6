"""Sizes are called what the user calls them, keep their ranges, and hold what decided the trace."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.errors import InputError
from tilewright.graph.check import check
from tilewright.graph.text import parse, text
from tilewright.tensor.ir import Var

torch = pytest.importorskip("torch")
nn = torch.nn

from tilewright.frontends.torch import import_exported, import_module  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

Dim = torch.export.Dim


class Several(nn.Module):  # type: ignore[misc, name-defined]
    """Two tensors that go together, and two that stand alone."""

    def forward(self, x: Any, y: Any, z: Any, w: Any) -> Any:
        return torch.cat([x, y]).reshape(-1, 2), z + 1, w * 2


class Longer(nn.Module):  # type: ignore[misc, name-defined]
    """A course that depends on sizes."""

    def forward(self, x: Any, y: Any) -> Any:
        return x.sum() if x.shape[0] > y.shape[0] else y.sum()


def _tensors(*shapes: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(torch.ones(s) for s in shapes)


def _several(**shapes: Any) -> Any:
    return import_module(Several(), _tensors((8, 2), (16, 2), (6, 5), (3,)), shapes)


def _ranges(graph: Any) -> dict[str, tuple[int | None, int | None]]:
    dims = [d for v in graph.inputs for d in v.shape if not isinstance(d, int)]
    return {v.name: (v.lo, v.hi) for d in dims for v in d.variables}


def _declared() -> Any:
    rows, half = Dim("rows", min=4, max=64), Dim("half")
    more, two = Dim("more", min=1), Dim("two", min=2, max=9)
    return _several(x={0: rows}, y={0: 2 * rows}, z={0: 2 * half, 1: more + 2}, w={0: two})


def test_symbols_are_called_what_dims_are_called_and_keep_their_ranges() -> None:
    graph = _declared()
    check(graph)
    assert _ranges(graph) == {
        "rows": (4, 64), "half": (1, None), "more": (1, None), "two": (2, 9)
    }  # fmt: skip


def test_a_symbol_that_stands_nowhere_alone_is_settled_and_checked() -> None:
    executable = tw.compile(_declared())
    assert [str(i) for i in executable.inputs][2] == "z: f32[half * 2, more + 2]"

    def call(*sizes: int) -> Any:
        a, b, c, d, e = sizes
        return executable(*(t.numpy() for t in _tensors((a, 2), (b, 2), (c, d), (e,))))

    assert [r.shape for r in call(5, 10, 2, 3, 9)] == [(15, 2), (2, 3), (9,)]
    for sizes, said in (
        ((3, 6, 2, 3, 9), "TW-E0306.*rows is 3 .*4 to 64"),
        ((5, 11, 2, 3, 9), "TW-E0304.*11, but rows . 2 is 10 with rows = 5"),
        ((5, 10, 3, 3, 9), "TW-E0304.*3, but half . 2 is 2"),
        ((5, 10, 2, 2, 9), "TW-E0306.*more is 0 .*at least 1"),
        ((5, 10, 2, 3, 1), "TW-E0306.*two is 1 .*2 to 9"),
    ):
        with pytest.raises(InputError, match=said):
            call(*sizes)


def test_dims_without_a_name_are_called_by_their_place() -> None:
    graph = _several(x={0: Dim.AUTO}, y=None, z={0: Dim.DYNAMIC(max=8), 1: Dim.AUTO}, w=None)
    assert _ranges(graph) == {"x_0": (1, None), "z_0": (1, 8), "z_1": (1, None)}


@pytest.mark.parametrize("name", ["x", "add", "lambda", "require"])
def test_any_name_of_a_dim_compiles_and_prints(name: str) -> None:
    graph = import_module(nn.ReLU(), (torch.ones(5, 2),), ({0: Dim(name)},))
    (size, _) = graph.inputs[0].shape
    assert isinstance(size, Var) and size.name.rstrip("_") == name
    again = parse(text(graph))
    assert text(again) == text(graph)
    (got,) = tw.compile(again)(-np.ones((3, 2), np.float32))
    np.testing.assert_array_equal(got, np.zeros((3, 2)))


@pytest.mark.parametrize("saved", [False, True])
def test_what_decided_the_trace_is_a_condition_even_of_a_program_that_was_saved(
    saved: bool,
) -> None:
    auto = {0: Dim.AUTO}
    program = torch.export.export(Longer(), _tensors((8, 2), (4, 2)), dynamic_shapes=(auto, auto))
    if saved:
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        program = torch.export.load(file)
    graph = import_exported(program)
    check(graph)
    assert len(graph.conditions) == 1
    executable = tw.compile(graph)
    x = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(executable(x, x[:1])[0], 6)
    with pytest.raises(InputError, match="TW-E0312.*y_0 < x_0"):
        executable(x, x)


def test_what_holds_for_all_sizes_is_no_condition() -> None:
    assert not _declared().conditions


class Halves(nn.Module):  # type: ignore[misc, name-defined]
    """A reshape to sizes that are quotients, which a pass turns round."""

    def forward(self, x: Any) -> Any:
        return (x + 1).reshape(x.shape[0] // 2, 2, -1).transpose(0, 1).exp()


def test_sizes_that_are_quotients_compile_and_refuse_what_does_not_divide() -> None:
    executable = tw.compile(Halves(), _tensors((8, 4)), dynamic_shapes=({0: Dim.AUTO},))
    for rows in (8, 4, 6):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(executable(x)[0], Halves()(x))
    with pytest.raises(InputError, match="TW-E0312.*x_0 = 5"):
        executable(torch.ones(5, 4))
    with pytest.raises(InputError, match="TW-E0309.*divided by one that is 0 with x_0 = 1"):
        executable(torch.ones(1, 4))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_keep_a_symbolic_number_of_steps(kind: str) -> None:
    torch.manual_seed(5)
    aten = torch.ops.aten
    before = [dict(o.py_kernels) for o in (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input)]
    layer = getattr(nn, kind)(3, 4).eval()
    executable = tw.compile(layer, _tensors((5, 2, 3)), dynamic_shapes=({0: Dim("steps")},))
    for steps in (1, 7):
        x = torch.randn(steps, 2, 3)
        with torch.no_grad():
            want = layer(x)[0]
        np.testing.assert_allclose(executable(x.numpy())[0], want, rtol=1e-4, atol=1e-5)
    after = [dict(o.py_kernels) for o in (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input)]
    assert before == after
