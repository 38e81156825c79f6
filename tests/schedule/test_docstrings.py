"""The loop nests in the docstrings of the primitives are what the primitives do."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable

import pytest

from tilewright.schedule.nest import simplify_func
from tilewright.schedule.schedule import STEPS
from tilewright.tensor.ir import Func
from tilewright.tensor.parse import parse_func
from tilewright.tensor.text import text

EXAMPLE = re.compile(r"Before:\n(.*?)After ``(.*?)``:\n(.*?)\n\n", re.S)


def with_header(body: str) -> str:
    """A function around a docstring's statements; buffers A, B, C have 4,096 elements a dim."""
    declared = set(re.findall(r"^\s*(\w+): \w+\[", body, re.M))
    ranks: dict[str, int] = {}
    for name, index in re.findall(r"\b([A-Za-z]\w*)\[([^\]]*)\]", body):
        if name not in declared and name not in ("register", "local"):
            ranks[name] = index.count(",") + 1
    params = ", ".join(f"{n}: f32[{', '.join(['4096'] * r)}]" for n, r in sorted(ranks.items()))
    return f"def f({params}):\n{textwrap.indent(textwrap.dedent(body), '    ')}"


def documented() -> list[tuple[str, Callable[..., Func]]]:
    return [(n, f) for n, f in STEPS.items() if "Before:" in (inspect.getdoc(f) or "")]


@pytest.mark.parametrize(("name", "step"), documented(), ids=[n for n, _ in documented()])
def test_docstring_shows_the_nest_before_and_after(name: str, step: Callable[..., Func]) -> None:
    doc = inspect.getdoc(step) or ""
    found = EXAMPLE.search(doc + "\n\n")
    assert found is not None
    before, call, after = found.groups()
    func = parse_func(with_header(before))
    arguments = eval(f"(lambda *a: a){call[call.index('(') :]}", {})
    result = simplify_func(step(func, *arguments))
    shown = text(result).split("\n", 1)[1]
    assert textwrap.dedent(shown).strip() == textwrap.dedent(after).strip()


def test_every_step_but_the_trivial_shows_an_example() -> None:
    assert {n for n in STEPS if n not in dict(documented())} <= {
        "set_scope",
        "specialise",
    }
