"""What several folders of tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives a test a cache of its own, and none of the settings of who runs it."""
    for name in [n for n in os.environ if n.startswith("TILEWRIGHT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "cache"))
