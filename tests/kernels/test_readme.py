"""The README's walk from a plain loop nest to a fast one prints what stands there."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from tests.readme_blocks import Block, blocks

_HEAD = "import numpy as np\nimport tilewright as tw\n"


def walk() -> list[Block]:
    """The blocks from the first kernel to the last step."""
    found = blocks()
    first = next(i for i, b in enumerate(found) if "@tw.kernel" in b.text)
    last = next(i for i, b in enumerate(found) if ".build(threads=2)" in b.text)
    return found[first : last + 1]


def test_each_step_prints_the_nest_that_stands_below_it() -> None:
    names: dict[str, Any] = {}
    exec(_HEAD, names)
    printed, compared = "", 0
    for block in walk():
        if block.language == "text":
            assert printed == block.text, f"line {block.line}"
            compared += 1
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(block.text, names)
        printed = out.getvalue()
    assert compared == 3


def test_a_product_takes_a_few_lines() -> None:
    code = [b.text for b in walk() if b.language == "python"]
    lines = [x for text in code for x in text.splitlines() if x.strip() and "softmax" not in x]
    assert len(lines) <= 25
