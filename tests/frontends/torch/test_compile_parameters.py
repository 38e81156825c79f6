"""Parameters are constants of what ``torch.compile`` makes, and every write to one is seen."""

from __future__ import annotations

import contextlib
import copy
import gc
import weakref
from typing import Any

import pytest

from tilewright.errors import InputError

from .calls import compiled, executables, graphs

torch = pytest.importorskip("torch")
nn = torch.nn

from torch._inductor import config as inductor  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("dynamo")]


def test_parameters_are_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    made = executables(monkeypatch)
    compiled(nn.Linear(4, 3))(torch.randn(2, 4))
    (executable,) = made
    assert [i.shape for i in executable.inputs] == [(2, 4)]


def test_parameters_are_constants_where_inductor_is_set_to_freeze_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with inductor.patch(freezing=True):
        test_parameters_are_constants(monkeypatch)


def test_a_change_of_a_parameter_is_seen_by_the_next_call() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    function, x = compiled(model), torch.randn(3, 4)

    def check() -> None:
        for _ in range(2):
            torch.testing.assert_close(function(x), model(x))

    check()
    model[0].weight.mul_(2)  # in place
    check()
    model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})
    check()
    model[0].bias.data = torch.randn(4)  # new memory
    check()
    model[0].weight = nn.Parameter(torch.randn(4, 4))  # a new parameter
    check()
    model[1].running_mean.fill_(3.0)  # a buffer
    check()
    with torch.enable_grad():
        model(x).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    check()


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "uncounted"])
def test_parameters_that_keep_changing_become_inputs(
    monkeypatch: pytest.MonkeyPatch, counted: bool
) -> None:
    made = executables(monkeypatch)
    model = nn.Linear(4, 4)
    function, x = compiled(model), torch.randn(3, 4)
    for _ in range(10):
        torch.testing.assert_close(function(x), model(x))
        (model.bias if counted else model.bias.data).add_(1)
    assert len(made) <= 5
    assert [len(e.inputs) for e in made][-1] == 2  # the weight has stayed, the bias has not


def test_parameters_that_are_replaced_at_every_call_become_inputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = executables(monkeypatch)
    model = nn.Linear(4, 4)
    function, x = compiled(model), torch.randn(3, 4)
    for _ in range(10):
        model.weight = nn.Parameter(torch.randn(4, 4))
        torch.testing.assert_close(function(x), model(x))
    assert len(made) <= 5


def test_writes_that_torch_does_not_count_are_seen_by_the_next_call() -> None:
    model = nn.Sequential(nn.Linear(40, 48), nn.LayerNorm(48)).eval()
    model[0].weight = nn.Parameter(torch.randn(40, 48).t())  # in another order in memory
    function, x = compiled(model), torch.randn(3, 40)
    weight, bias = model[0].weight, model[0].bias

    def check() -> None:
        for _ in range(2):
            torch.testing.assert_close(function(x), model(x))

    check()
    before = weight._version, bias._version
    weight.data.mul_(1.5)
    check()
    weight.data[:, 3:9] = 2.0  # 3/20, in one piece of its memory
    check()
    bias.data[17] = 9.0  # one element of a short one
    check()
    bias.detach().numpy()[0] = -3.0
    check()
    assert before == (weight._version, bias._version)


def test_halves_that_are_written_uncounted_are_seen_too() -> None:
    model = nn.Linear(32, 32).bfloat16()
    function, x = compiled(model), torch.randn(2, 32).bfloat16()
    for _ in range(3):
        torch.testing.assert_close(function(x), model(x), rtol=2e-2, atol=2e-2)
        model.weight.data.add_(1)


class Layer(nn.Module):  # type: ignore[misc, name-defined]
    """A layer of which there are several."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.inner(x))


def test_modules_that_share_a_graph_have_their_own_constants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = executables(monkeypatch)
    layers = [Layer() for _ in range(3)]
    eager = copy.deepcopy(layers)
    for layer in layers:
        layer.compile(backend="tilewright")
    for _ in range(3):
        x = torch.randn(2, 4)
        for layer, plain in zip(layers, eager, strict=True):
            torch.testing.assert_close(layer(x), plain(x))
    assert graphs() == 1
    assert len(made) == 3


def test_a_parameter_of_another_shape_is_refused_not_read_beyond() -> None:
    model = nn.Linear(4, 4)
    function, x = compiled(model), torch.randn(3, 4)
    function(x)
    model.weight, model.bias = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(6))
    with contextlib.suppress(InputError):
        torch.testing.assert_close(function(x), model(x))


def test_a_model_that_is_gone_frees_its_weights() -> None:
    model = nn.Linear(64, 64)
    watch = weakref.ref(model.weight)
    function = compiled(model)
    function(torch.randn(2, 64))
    del model, function
    torch.compiler.reset()
    gc.collect()
    assert watch() is None


def test_parameters_whose_writes_are_not_counted_are_inputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = executables(monkeypatch)
    with torch.inference_mode():
        model = nn.Linear(3, 3)
        function, x = compiled(model), torch.randn(2, 3)
        for _ in range(3):
            torch.testing.assert_close(function(x), model(x))
            model.weight.add_(1)
    assert len(made) == 1
