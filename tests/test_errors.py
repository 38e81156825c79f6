"""Every error code stands for one cause and is listed with it."""

from __future__ import annotations

import ast
import errno
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tilewright
from tilewright import autotune, backends, errors, frontends
from tilewright.errors import CODES, OutputError, TilewrightError

CODE = re.compile(r"TW-E\d{4}")
RANGES = {
    "ModelError": 1,
    "OpError": 1,
    "UnsupportedError": 2,
    "InputError": 3,
    "TargetError": 4,
    "ArtifactError": 5,
    "OutputError": 6,
    "ScheduleError": 7,
    "OptionError": 8,
    "InternalError": 9,
    "SimulationError": 10,
    "PtxError": 10,
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for package in (tilewright, frontends, backends, autotune):
        for path in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            if path != Path(errors.__file__):
                yield str(path), ast.parse(path.read_text())


def uses() -> Iterator[tuple[str, str, str]]:
    """(code, file, class of the error or "") of every code that the source holds."""
    for path, module in sources():
        raised: dict[ast.AST, str] = {}
        for call in ast.walk(module):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                for keyword in call.keywords:
                    raised |= dict.fromkeys(ast.walk(keyword.value), call.func.id)
        for node in ast.walk(module):
            if isinstance(node, ast.Constant) and CODE.fullmatch(str(node.value)):
                yield str(node.value), path, raised.get(node, "")


USES = tuple(uses())


def test_every_code_is_listed_with_its_cause() -> None:
    assert {code for code, _, _ in USES} - CODES.keys() == set()


def test_every_listed_code_is_in_use() -> None:
    # The default code of UnsupportedError stands beside the list.
    assert CODES.keys() - {code for code, _, _ in USES} == {"TW-E0200"}


def test_every_code_that_a_user_can_meet_is_named_by_a_test() -> None:
    """Codes of defects (TW-E09xx) are met by nobody if all is well; others need a test each."""
    tests = "".join(p.read_text() for p in Path(__file__).parent.rglob("*.py"))
    assert [c for c in CODES if not c.startswith("TW-E09") and c not in tests] == []


def test_no_cause_has_two_codes() -> None:
    assert len(set(CODES.values())) == len(CODES)
    assert list(CODES) == sorted(CODES)


def test_the_code_of_an_error_lies_in_its_range() -> None:
    for code, path, kind in USES:
        if kind in RANGES:
            assert int(code[4:6]) == RANGES[kind], (code, path, kind)


def test_a_defect_is_reported_by_one_part() -> None:
    """Codes of InternalError say where to look, so no two folders share one."""
    places: dict[str, set[Path]] = {}
    for code, path, _ in USES:
        if code.startswith("TW-E09"):
            places.setdefault(code, set()).add(Path(path).parent)
    assert {c: p for c, p in places.items() if len(p) > 1} == {}


@pytest.mark.parametrize("name", [n for n in RANGES if hasattr(errors, n)])
def test_every_kind_of_error_is_public(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, TilewrightError)
    assert getattr(tilewright, name) is kind


def test_a_full_disk_has_a_code_of_its_own() -> None:
    full = OutputError.of("a", OSError(errno.ENOSPC, "No space left on device"))
    assert full.code == "TW-E0602" and "free some space" in full.message
    assert OutputError.of("a", OSError(errno.EACCES, "denied")).code == "TW-E0601"
