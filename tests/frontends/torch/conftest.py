"""What the tests of torch's frontend share."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest


@pytest.fixture
def dynamo() -> Iterator[None]:
    """A test that compiles anew, without gradients, whatever was compiled before it."""
    torch = importlib.import_module("torch")
    torch.compiler.reset()
    importlib.import_module("torch._dynamo.utils").counters.clear()
    torch.manual_seed(0)
    with torch.no_grad():
        yield
