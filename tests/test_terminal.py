"""Tables for people: nothing in them is cut off, whatever the terminal's width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Column

from tilewright.commands.terminal import print_table

COLUMNS = [Column(name, justify="right") for name in ("model", "median ms", "p90", "file MB")]
ROWS = [["resnet50", "123.456", "234.567", "102.5"], ["bert", "9.876", "10.123", "438.0"]]
SPARE = ("p90", "file MB", "none of the table's")


def printed(width: int, *, watched: bool = True) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=watched, no_color=True, highlight=False)
    print_table(console, COLUMNS, ROWS, spare=SPARE, styles=[None, "red"])
    return out.getvalue()


@pytest.mark.parametrize("width", range(26, 60))
def test_a_narrow_terminal_gets_fewer_columns_and_no_cut_ones(width: int) -> None:
    text = printed(width)
    assert "…" not in text
    for wanted in ("resnet50", "123.456", "bert", "9.876"):
        assert wanted in text
    table, told, note = text.partition("a wider terminal, or a pipe, shows ")
    assert told or width > 41
    for name, value in (("p90", "234.567"), ("file MB", "438.0")):
        assert (name in note) != (value in table)


def test_columns_go_in_the_order_in_which_they_can_be_spared() -> None:
    assert "shows p90, file MB" in printed(28)
    assert "234.567" not in printed(36)
    assert "102.5" in printed(36)
    assert "wider" not in printed(60)


def test_what_is_no_terminal_has_no_rules() -> None:
    assert "─" in printed(60)
    assert "─" not in printed(60, watched=False)
