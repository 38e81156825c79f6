"""Recurrent layers under torch.compile: Dynamo leaves them out until it is told to trace them."""

from __future__ import annotations

from typing import Any

import pytest

from .calls import graphs

torch = pytest.importorskip("torch")
nn = torch.nn

from torch._dynamo import config as dynamo  # noqa: E402
from torch._dynamo.exc import Unsupported  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("dynamo")]


class Tagger(nn.Module):  # type: ignore[misc, name-defined]
    """A recurrent layer and a linear one."""

    def __init__(self, layer: Any, **options: Any) -> None:
        super().__init__()
        self.recurrent = layer(8, 12, **options)
        self.out = nn.Linear(12 * (1 + self.recurrent.bidirectional), 5)

    def forward(self, x: Any) -> Any:
        return self.out(self.recurrent(x)[0])


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (nn.LSTM, {}),
        (nn.LSTM, {"num_layers": 2, "batch_first": True, "bidirectional": True}),
        (nn.GRU, {"batch_first": True}),
        (nn.RNN, {}),
    ],
)
def test_a_recurrent_layer_is_one_graph_with_what_follows(
    layer: Any, options: dict[str, Any]
) -> None:
    model = Tagger(layer, **options).eval()
    x = torch.randn(7, 3, 8)
    with dynamo.patch(allow_rnn=True):
        found = torch.compile(model, backend="tilewright", fullgraph=True)(x)
    torch.testing.assert_close(found, model(x))
    assert graphs() == 1


def test_a_recurrent_layer_is_compiled_once_for_all_lengths() -> None:
    model = Tagger(nn.LSTM, batch_first=True).eval()
    with dynamo.patch(allow_rnn=True):
        fast = torch.compile(model, backend="tilewright", dynamic=True)
        made = []
        for batch, steps in ((3, 7), (2, 9), (5, 12)):
            x = torch.randn(batch, steps, 8)
            torch.testing.assert_close(fast(x), model(x))
            made.append(graphs())
    assert made[0] == made[-1]


def test_without_the_setting_dynamo_says_that_it_traces_no_recurrent_layer() -> None:
    model = Tagger(nn.LSTM).eval()
    with pytest.raises(Unsupported, match="allow_rnn"):
        torch.compile(model, backend="tilewright", fullgraph=True)(torch.randn(7, 3, 8))
