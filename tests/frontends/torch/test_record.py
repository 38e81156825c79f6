"""Capturing a graph of Dynamo in one pass: which graphs, and that they mean what they did."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

from torch._dynamo.utils import counters  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("dynamo")]

Function = Callable[..., Any]


def agree(function: Function, *args: Any, passes: int) -> None:
    """Compiled and eager code must agree on results and arguments; AOTAutograd ran this often."""
    mine, theirs = copy.deepcopy(args), copy.deepcopy(args)
    got = torch.compile(function, backend="tilewright", fullgraph=True)(*mine)
    want = function(*theirs)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(mine, theirs)
    assert counters["aot_autograd"]["total"] == passes


def relu_in_place(x: Any) -> Any:
    return nn.functional.relu(x * 2, inplace=True) + 1


def filled(x: Any) -> Any:
    y = torch.empty_like(x)
    y.copy_(x)
    z = torch.zeros(3, 4)
    z += y
    z[...] = z * 2
    return y, z


def widened(x: Any) -> Any:
    y = torch.zeros(3, 4)
    y.copy_(x.to(torch.int32))  # another element type
    return y


def constants(x: Any) -> Any:
    y = torch.tensor([1.0, 2.0, 3.0, 4.0])
    y.mul_(3)
    return x + y, y


def written_after_a_view_is_gone(x: Any) -> Any:
    y = (x + 1).view(-1)
    y.mul_(2)
    return y.view(4, 3)


def a_view_after_a_write(x: Any) -> Any:
    y = x + 1
    y.mul_(2)
    return y, y[0], y.T


def normed(x: Any) -> Any:
    y = nn.functional.batch_norm(x, torch.ones(4), torch.full((4,), 2.0))
    return nn.functional.layer_norm(y, (4,)).sigmoid_()


@pytest.mark.parametrize(
    "function",
    [
        relu_in_place, filled, widened, constants, written_after_a_view_is_gone,
        a_view_after_a_write, normed, lambda x: x, lambda x: (x.T, x[1], x.T.T),
        lambda x: x[torch.tensor([2, 0])], lambda x: torch.split(x, 2, 1)[1].contiguous(),
        lambda x: x @ x.mT + torch.arange(3),
    ],
)  # fmt: skip
def test_writes_to_nothing_but_what_it_made_take_one_pass(function: Function) -> None:
    agree(function, torch.randn(3, 4), passes=0)


def attended(x: Any) -> Any:
    y = x.view(1, 3, 4)
    return nn.functional.scaled_dot_product_attention(y, y, y), nn.functional.dropout(y, 0.0)


def kept_whole(x: Any) -> Any:
    torch._C._log_api_usage_once("what library code says when it is called")
    return nn.functional.dropout(x, 0.5, training=False) + 1


@pytest.mark.parametrize("function", [attended, kept_whole])
def test_what_would_drop_elements_but_does_not_takes_one_pass(function: Function) -> None:
    agree(function, torch.randn(3, 4), passes=0)


def test_recurrent_layers_that_drop_nothing_take_one_pass() -> None:
    x = torch.randn(2, 5, 4)
    with torch._dynamo.config.patch(allow_rnn=True):
        for layer in (nn.LSTM, nn.GRU, nn.RNN):
            agree(layer(4, 3, 2, batch_first=True, dropout=0.5).eval(), x, passes=0)


@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_what_does_drop_elements_is_refused(probability: float) -> None:
    def attend(x: Any) -> Any:
        y = x.view(1, 3, 4)
        return nn.functional.scaled_dot_product_attention(y, y, y, dropout_p=probability)

    with pytest.raises(Exception, match="TW-E0200"):
        torch.compile(attend, backend="tilewright")(torch.randn(3, 4))


def written_argument(x: Any) -> Any:
    x.mul_(2)
    return x + 1


def written_view_of_an_argument(x: Any) -> Any:
    x.view(-1)[2:5].zero_()
    return x + 1


def written_through_a_view(x: Any) -> Any:
    y = x + 1
    y[1].mul_(2)
    return y


def written_under_a_view(x: Any) -> Any:
    y = x + 1
    row = y[1]
    y.mul_(2)
    return row * 3


def written_beside_a_view(x: Any) -> Any:
    left, right = (x + 1).split(2, 1)
    left.mul_(right)
    return left, right


def turned_in_place(x: Any) -> Any:
    y = x + 1
    y.t_()
    return y * 2


def written_as_out(x: Any) -> Any:
    y = torch.empty(3, 4)
    torch.add(x, 1, out=y)
    return y


def under_autocast(x: Any) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return (x @ x.T).float()


@pytest.mark.parametrize(
    "function",
    [
        written_argument, written_view_of_an_argument, written_through_a_view,
        written_under_a_view, written_beside_a_view, turned_in_place, written_as_out,
        under_autocast,
    ],
)  # fmt: skip
def test_other_writes_and_states_are_left_to_aotautograd(function: Function) -> None:
    agree(function, torch.randn(3, 4), passes=1)


def test_inputs_that_want_gradients_are_left_to_aotautograd() -> None:
    weight = nn.Parameter(torch.randn(4))
    with torch.enable_grad():
        agree(lambda x: (x + weight).detach(), torch.randn(3, 4), passes=1)


def test_symbolic_sizes_take_one_pass_where_native_code_makes_all_results() -> None:
    function = torch.compile(lambda x: torch.softmax(x @ x.mT, -1).view(-1), backend="tilewright")
    for size in (3, 5, 7):
        x = torch.randn(size, size + 1)
        torch.testing.assert_close(function(x), torch.softmax(x @ x.mT, -1).view(-1))
    assert counters["aot_autograd"]["total"] == 0
    assert counters["stats"]["unique_graphs"] == 2


def test_symbolic_sizes_of_views_that_are_returned_are_right() -> None:
    def function(x: Any) -> Any:
        y = x + 1
        return x.view(-1, 2), y, y[: x.shape[0] - 1]

    compiled = torch.compile(function, backend="tilewright", dynamic=True)
    for size in (4, 6, 8):
        x = torch.randn(size, 4)
        got = compiled(x)
        torch.testing.assert_close(got, function(x))
        assert got[0].data_ptr() == x.data_ptr()
        assert got[1].data_ptr() == got[2].data_ptr()
