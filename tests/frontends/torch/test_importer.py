"""What a program may hold: names, ranges and nested outputs; and what is refused, with its line."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.errors import ModelError, OptionError, UnsupportedError
from tilewright.graph.interpret import interpret
from tilewright.tensor.ir import Var
from tilewright.tensor.simplify import dim, same_dim

torch = pytest.importorskip("torch")
nn = torch.nn

from tilewright.frontends.torch import import_exported, import_module  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


class Apply(nn.Module):  # type: ignore[misc, name-defined]
    """A function as a module, with a buffer."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


def _refused(function: Any, *inputs: Any, dynamic: Any = None) -> str:
    with pytest.raises(UnsupportedError) as caught:
        import_module(Apply(function), inputs, dynamic)
    return str(caught.value)


def test_nested_outputs_are_flattened_in_order_and_named_by_their_place() -> None:
    def nested(_: Any, x: Any) -> Any:
        return {"first": x + 1, "rest": (x * 2, [x - 3])}

    graph = import_module(Apply(nested), (torch.ones(3),))
    assert graph.output_names == ("first", "rest_0", "rest_1_0")
    results = interpret(graph, {graph.inputs[0].name: np.ones(3, np.float32)})
    assert [float(r[0]) for r in results] == [2.0, 2.0, -2.0]


def test_symbolic_sizes_keep_their_ranges_and_relations() -> None:
    class Joined(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, y: Any) -> Any:
            return torch.cat([x, y]).reshape(-1, 2)

    rows = torch.export.Dim("rows", min=4, max=64)
    inputs = (torch.randn(8, 2), torch.randn(16, 2))
    graph = import_module(Joined(), inputs, ({0: rows}, {0: 2 * rows}))
    x, y = graph.inputs
    (symbol,) = (d for d in x.shape if isinstance(d, Var))
    assert (symbol.lo, symbol.hi) == (4, 64)
    assert same_dim(y.shape[0], dim(symbol * 2))
    executable = tw.compile(graph)
    a, b = np.ones((5, 2), np.float32), np.zeros((10, 2), np.float32)
    (got,) = executable(a, b)
    np.testing.assert_array_equal(got, np.concatenate([a, b]))


def test_sizes_become_numbers_of_the_program() -> None:
    def mean(_: Any, x: Any) -> Any:
        return x.sum(0) / x.shape[0], torch.arange(x.shape[0]) + x.shape[0]

    graph = import_module(Apply(mean), (torch.ones(4, 3),), (({0: torch.export.Dim("n")},),))
    for n in (1, 2, 7):
        total, places = interpret(graph, {graph.inputs[0].name: np.ones((n, 3), np.float32)})
        np.testing.assert_allclose(total, 1.0)
        np.testing.assert_array_equal(places, np.arange(n) + n)


def test_in_place_operations_on_intermediates_are_values() -> None:
    def write(_: Any, x: Any) -> Any:
        y = x.clone()
        y[1:3] = 0
        y.add_(1)
        return y

    graph = import_module(Apply(write), (torch.ones(4),))
    (got,) = interpret(graph, {graph.inputs[0].name: np.ones(4, np.float32)})
    np.testing.assert_array_equal(got, [2, 1, 1, 2])


def test_an_exported_program_compiles() -> None:
    program = torch.export.export(nn.Linear(3, 2), (torch.randn(4, 3),))
    assert len(import_exported(program).nodes) > 0
    x = np.ones((4, 3), np.float32)
    (got,) = tw.compile(program)(x)
    with torch.no_grad():
        want = program.module()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


class Several(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Any) -> Any:
        return torch.nonzero(x), torch.rand(3) + x, torch.randn(3)


def test_all_gaps_are_listed_at_once_with_their_lines() -> None:
    with pytest.raises(UnsupportedError) as caught:
        import_module(Several(), (torch.ones(3),))
    kinds = [gap.what.partition(":")[0] for gap in caught.value.gaps]
    assert kinds == ["aten.nonzero.default", "aten.rand.default", "aten.randn.default"]
    for gap in caught.value.gaps:
        (place,) = gap.nodes
        assert f"{__file__}:" in place
        assert "return torch.nonzero(x), torch.rand(3)" in place


def test_masks_that_pick_elements_are_refused() -> None:
    assert "depends on data" in _refused(lambda _, x: x[x > 0], torch.ones(3))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda _, x: x * x.sum().item(), r"\.item\(\)\); keep it a tensor, or give it as an"),
        (lambda _, x: x * (x.sum().item() * 2), r"\.item\(\)\); keep it a tensor, or give"),
        (lambda _, x: torch.unique(x), "depends on data; keep all elements .torch.where.*outside"),
        (lambda _, x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)),
         "cond: control flow on data; use torch.where"),
        (lambda _, x: torch.linalg.inv(x), "a singular matrix.*torch.linalg.inv_ex"),
    ],
    ids=["item", "computed", "unique", "cond", "effect"],
)  # fmt: skip
def test_refusals_say_what_to_do_instead(function: Any, said: str) -> None:
    assert re.search(said, _refused(function, torch.eye(3)))


def test_strides_of_views_are_refused() -> None:
    message = _refused(lambda _, x: x.t().as_strided((2, 2), (1, 2)), torch.randn(3, 4))
    assert "as_strided of a tensor that is a view" in message


def test_complex_tensors_are_refused() -> None:
    assert "complex64" in _refused(lambda _, x: x.abs(), torch.ones(3, dtype=torch.complex64))


def test_writes_to_buffers_are_refused() -> None:
    def count(self: Any, x: Any) -> Any:
        self.seen.add_(1)
        return x + 1

    message = _refused(count, torch.ones(3))
    assert "a write to the buffer seen: put the module in eval mode, or take it as" in message
    assert "test_importer.py" in message


def test_batch_norms_in_training_are_refused() -> None:
    with pytest.raises(UnsupportedError) as caught:
        import_module(nn.BatchNorm1d(3).train(), (torch.ones(2, 3),))
    kinds = [gap.what.partition(":")[0] for gap in caught.value.gaps]
    written = ("running_mean", "running_var", "num_batches_tracked")
    assert sorted(kinds) == sorted(f"a write to the buffer {w}" for w in written)


def test_writes_to_inputs_are_refused() -> None:
    message = _refused(lambda _, x: x.add_(1), torch.ones(3))
    assert "a write to the input" in message and "write to a clone of it" in message


def test_a_cache_is_written_where_it_is_cloned() -> None:
    def step(_: Any, cache: Any, place: Any, row: Any) -> Any:
        cache = cache.clone()
        cache.index_copy_(1, place, row)
        cache[:, -1] = 0.5
        return cache

    arguments = torch.randn(2, 5, 3), torch.tensor([2]), torch.randn(2, 1, 3)
    (got,) = tw.compile(Apply(step), arguments)(*(a.numpy() for a in arguments))
    np.testing.assert_array_equal(got, step(None, *arguments).numpy())


def test_training_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="eval mode"):
        import_module(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train(), (torch.ones(1, 3),))


def test_a_module_needs_example_inputs() -> None:
    with pytest.raises(ModelError, match="example_inputs"):
        tw.compile(nn.Linear(3, 2))


def test_example_inputs_go_with_modules_only() -> None:
    with pytest.raises(OptionError, match="example_inputs"):
        tw.compile("model.onnx", (np.ones(3),))


def test_importing_tilewright_does_not_import_torch() -> None:
    code = "import sys, tilewright, tilewright.frontends; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
