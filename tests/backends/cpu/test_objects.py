"""Compiling a unit: which objects come out, in which order, and what is left as it was."""

from __future__ import annotations

import sys

import pytest

from tilewright.backends.backend import Unit
from tilewright.backends.cpu import BACKEND, objects
from tilewright.errors import InternalError
from tilewright.runtime.cache import NO_CACHE
from tilewright.runtime.program import Program

NOTHING = Program("nothing", (), (), (), (), 0, 0)


def compile_nothing() -> list[tuple[int, int]]:
    """Compiles a program without kernels; returns the progress that was reported."""
    told: list[tuple[int, int]] = []
    unit = Unit(NOTHING, (), BACKEND.resolve("native"))
    objects.compile_unit(unit, NO_CACHE, lambda done, total: told.append((done, total)))
    return told


def test_progress_ends_with_everything() -> None:
    assert compile_nothing()[-1] == (1, 1)


def test_turns_of_threads_are_as_long_after_compiling_as_before() -> None:
    before = sys.getswitchinterval()
    compile_nothing()
    assert sys.getswitchinterval() == before


def test_what_llvm_refuses_is_an_error_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "emit_program", lambda _: "define")
    before = sys.getswitchinterval()
    with pytest.raises(InternalError, match="refuses"):
        compile_nothing()
    assert sys.getswitchinterval() == before
