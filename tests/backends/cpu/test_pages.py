"""Pages of a library are given back, and come back as they were."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tilewright.backends.cpu.compile import compile_object, rest
from tilewright.backends.cpu.pages import forget_code, forget_pages, map_singly
from tilewright.backends.cpu.target import resolve_target

TEXT = "define i64 @f(i64 %x) {\n %y = mul i64 %x, 3\n ret i64 %y\n}"


def resident(library: str) -> int:
    """The kilobytes of a library that are in memory."""
    total, mine = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-", line):
            mine = library in line
        elif mine and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


def test_llvm_works_as_before_once_its_pages_are_gone() -> None:
    target = resolve_target("x86-64-v2")
    before = compile_object(TEXT, target)
    held = resident("libllvmlite")
    forget_pages("libllvmlite")
    assert resident("libllvmlite") < held / 2
    assert compile_object(TEXT, target) == before


def test_a_library_that_is_not_there_is_nothing_to_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilewright.backends.cpu.pages._SMAPS", Path("/nowhere/smaps"))
    forget_pages("libnowhere")


def test_llvm_takes_the_pages_it_touches_and_none_around_them() -> None:
    target = resolve_target("x86-64-v2")
    before = compile_object(TEXT, target)
    if map_singly("libc.") is None:
        pytest.skip("the system does not let pages be mapped one by one")
    rest()
    assert compile_object(TEXT, target) == before
    assert resident("libllvmlite") < 22 << 10


def test_where_pages_are_not_mapped_one_by_one_all_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tilewright.backends.cpu.pages._USERFAULTFD", {})
    assert map_singly("libnowhere") is None


def test_resting_gives_llvm_s_pages_back_and_it_works_again() -> None:
    target = resolve_target("x86-64-v2")
    before = compile_object(TEXT, target)
    held = resident("libllvmlite")
    rest()
    assert resident("libllvmlite") < held / 2
    assert compile_object(TEXT, target) == before


def test_the_code_of_all_libraries_leaves_memory_and_works_as_before() -> None:
    array = np.arange(24.0)
    before = np.sin(array) @ np.cos(array)
    held = resident("_multiarray_umath")
    forget_code()
    assert resident("_multiarray_umath") < held / 2
    assert np.sin(array) @ np.cos(array) == before


def test_libraries_whose_pages_are_mapped_otherwise_leave_the_rest_as_it_is() -> None:
    first = map_singly("libm.")
    if first is None:
        pytest.skip("the system does not let pages be mapped one by one")
    assert map_singly("libm.") == first
    # Whoever watches the pages first keeps them.
    assert map_singly("libm.", "libnowhere") is None


def test_only_code_is_forgotten_not_what_a_process_reads(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    np.arange(1 << 16, dtype=np.float32).tofile(path)
    mapped = np.memmap(path, np.float32, "r")
    total = mapped.sum()
    held = resident(str(path))
    assert held >= 200
    forget_code()
    assert resident(str(path)) == held
    assert mapped.sum() == total
