"""How tests of ``torch.compile`` call it, and what they see of what it makes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tilewright.runtime.executable import Executable

torch = pytest.importorskip("torch")

from torch._dynamo.utils import counters  # noqa: E402

Function = Callable[..., Any]


def compiled(function: Any, **options: Any) -> Function:
    result: Function = torch.compile(function, backend="tilewright", **options)
    return result


def agree(function: Any, *args: Any, **options: Any) -> Any:
    """Runs compiled and eager code on copies of the arguments; results and copies must agree."""
    mine, theirs = copy.deepcopy((function, args)), copy.deepcopy((function, args))
    got = compiled(mine[0], **options)(*mine[1])
    want = theirs[0](*theirs[1])
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(mine[1], theirs[1])
    return got


def graphs() -> int:
    """How many graphs were compiled in this test."""
    return int(counters["stats"]["unique_graphs"])


def executables(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is compiled from now on."""
    made: list[Any] = []
    init = Executable.__init__

    def record(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(Executable, "__init__", record)
    return made
