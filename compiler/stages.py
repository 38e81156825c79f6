"""The stages of a compilation by name, their times, and what code they belong to.

Light on purpose: loading a compiled model needs this file and none of the compiler itself, which
``load_function`` brings in when something is to be compiled.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from xxhash import xxh3_128

from tilewright import backends, frontends

Progress = Callable[[str], None]

GRAPH_STAGES = ("graph", "passes")
"""Stages whose text needs the model's weights, for their digests."""

KERNEL_STAGES = ("compute", "space", "loops", "schedule", "schedule.json")
"""Stages that every backend shares, from tensor expressions to scheduled loops.

``space`` is what there is to choose on the way."""

PIPELINE: dict[str, str] = {
    "build": "tilewright.pipeline:build",
    "graph_text": "tilewright.pipeline:graph_text",
    "kernel_text": "tilewright.pipeline:kernel_text",
    "replay": "tilewright.autotune.replay:open_replay",
}
"""The compiler's functions, imported when they are asked for: half of all imports are theirs."""


def load_function(place: str) -> Callable[..., Any]:
    """The function at a place written ``module:function``; its module is imported."""
    module, function = place.split(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


@dataclass
class Log:
    """Seconds by stage, told to whoever wants to show progress."""

    progress: Progress | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    _elsewhere: float = 0.0

    def objects(self, done: int, total: int) -> None:
        """Tells how many objects are done."""
        if self.progress is not None:
            self.progress(f"code {done}/{total}")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage."""
        if self.progress is not None:
            self.progress(name)
        start, elsewhere = time.perf_counter(), self._elsewhere
        yield
        self._add(name, time.perf_counter() - start - (self._elsewhere - elsewhere))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times a part of a later stage that comes within an earlier one, and is not its own."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._elsewhere += seconds
        self._add(name, seconds)

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


@contextmanager
def uncollected() -> Iterator[None]:
    """Keeps Python from searching for cycles meanwhile, where it did before.

    A compiler makes many objects that live until its end and next to no cycles; each search
    would go through all of them and through every module that is imported. At the end they count
    as old, or the next object to be made would set off a search through all of them.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            # What somebody else has frozen is to stay so.
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()


@cache
def fingerprint() -> str:
    """A digest of the compiler's own source, so that no cache outlives the code that filled it."""
    state = xxh3_128()
    for place in (Path(__file__), Path(str(backends.__file__)), Path(str(frontends.__file__))):
        names = (f"{folder}/{name}" for folder, _, files in os.walk(place.parent) for name in files)
        for name in sorted(n for n in names if n.endswith(".py")):
            with open(name, "rb", 0) as file:
                state.update(file.read())
    return state.hexdigest()
