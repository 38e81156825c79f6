"""Indices given as data: what eager refuses is refused, not clamped."""

from __future__ import annotations

from typing import Any

import pytest

import tilewright as tw
from tilewright.errors import InputError

from .calls import Function, compiled

torch = pytest.importorskip("torch")
functional = torch.nn.functional

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("dynamo")]


class _Module(torch.nn.Module):  # type: ignore[misc,name-defined]
    """A function of a table of 5 rows and of 3 indices."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any, i: Any) -> Any:
        return self.function(x, i)


def _ones(i: Any) -> Any:
    return torch.ones(i.shape[0], 4)


FUNCTIONS: dict[str, Function] = {
    "embedding": lambda x, i: functional.embedding(i, x),
    "index": lambda x, i: x[i],
    "two axes": lambda x, i: x[i, i % 4],
    "gather": lambda x, i: x.gather(0, i[:, None]),
    "index_select": lambda x, i: x.index_select(0, i),
    "take": lambda x, i: x.take(i * 4),
    "index_put": lambda x, i: torch.index_put(x, (i,), torch.ones(())),
    "scatter": lambda x, i: x.scatter(0, i[:, None], 1.0),
    "scatter_add": lambda x, i: x.scatter_add(0, i[:, None], _ones(i)[:, :1]),
    "scatter_reduce": lambda x, i: x.scatter_reduce(0, i[:, None], _ones(i)[:, :1], "sum"),
    "index_add": lambda x, i: x.index_add(0, i, _ones(i)),
    "index_copy": lambda x, i: x.index_copy(0, i, _ones(i)),
    "index_fill": lambda x, i: x.index_fill(0, i, 2.0),
    "index_reduce": lambda x, i: x.index_reduce(0, i, _ones(i), "amax"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_indices_outside_of_a_tensor_are_refused_where_eager_refuses_them(name: str) -> None:
    function = FUNCTIONS[name]
    x = torch.randn(5, 4)
    exported = tw.compile(_Module(function), (x, torch.tensor([0, 1, 2])))
    runs: list[Function] = [compiled(function), lambda x, i: exported(x, i)[0]]
    for places in ([0, 1, 2], [0, 4, 3], [0, 5, 1], [0, -1, 2], [0, -6, 2]):
        i = torch.tensor(places)
        try:
            want = function(x, i)
        except (IndexError, RuntimeError):
            want = None
        for run in runs:
            if want is not None:
                torch.testing.assert_close(run(x, i), want)
                continue
            with pytest.raises(InputError, match="an index is outside of") as error:
                run(x, i)
            assert error.value.code == "TW-E0314"


def test_a_wrong_index_is_told_with_the_operator_and_the_line() -> None:
    def look_up(table: Any, tokens: Any) -> Any:
        return functional.embedding(tokens, table)

    with pytest.raises(InputError, match=r"aten\.embedding\.default.*functional\.embedding\(tok"):
        compiled(look_up)(torch.randn(5, 4), torch.tensor([7]))


def test_a_sequence_longer_than_its_table_of_positions_is_refused() -> None:
    def positions(table: Any, x: Any) -> Any:
        return x + functional.embedding(torch.arange(x.shape[0]), table)

    function = compiled(positions, dynamic=True)
    table = torch.randn(6, 4)
    for length in (3, 6):
        x = torch.randn(length, 4)
        torch.testing.assert_close(function(table, x), positions(table, x))
    with pytest.raises(InputError, match="an index is outside of"):
        function(table, torch.randn(7, 4))
