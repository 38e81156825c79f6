"""What can run foreign code here is found, and what is missing is named with where to get it."""

from __future__ import annotations

import pytest

from tilewright import cli
from tilewright.backends.cpu.emulators import EMULATORS, missing_tools
from tilewright.backends.cpu.target import TARGETS

FOREIGN = [name for name, t in TARGETS.items() if t.architecture != "x86_64"]


def test_every_foreign_target_has_something_that_runs_it() -> None:
    assert sorted(FOREIGN) == sorted([*EMULATORS, "wasm32"])


@pytest.mark.parametrize("target", EMULATORS)
def test_missing_tools_are_named_with_their_packages(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    missing = missing_tools(target)
    assert EMULATORS[target].compiler in missing
    assert EMULATORS[target].command[0] in missing
    assert "Debian: qemu-user" in missing


def test_doctor_shows_every_target_and_what_runs_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert cli.run_command(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (targets,) = [line for line in lines if line.startswith("targets")]
    assert all(name in targets for name in TARGETS)
    for name in EMULATORS:
        (line,) = [x for x in lines if x.startswith(f"{name} ")]
        assert "install qemu-" in line
    assert any(line.startswith("wasm32") for line in lines)
