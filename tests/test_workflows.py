"""The workflows of GitHub Actions: well-formed, of commands that there are, as the README says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tilewright.commands.bench import bench

from .readme_blocks import README, blocks

WORKFLOWS = sorted((README.parent / ".github" / "workflows").glob("*.yml"))


def commands(path: Path) -> list[list[str]]:
    """The arguments of every ``tilewright`` command of a workflow."""
    lines = re.findall(r"^\s*(tilewright .*?)(?: \|\| .*)?$", path.read_text(), re.MULTILINE)
    return [shlex.split(line)[1:] for line in lines]


def test_there_is_a_workflow_for_benchmarks() -> None:
    assert [p.name for p in WORKFLOWS] == ["bench.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_its_commands_have_options_that_there_are(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A report is refused where it could not be written: the workflow makes its folder first.
    monkeypatch.chdir(tmp_path)
    for folder in re.findall(r"^\s*mkdir (\w+)$", path.read_text(), re.MULTILINE):
        (tmp_path / folder).mkdir()
    found = commands(path)
    assert len(found) == 2
    for name, *arguments in found:
        assert name == "bench"
        context = bench.make_context("bench", [a for a in arguments if a != "$MODELS"] + ["m.onnx"])
        assert context.params["baseline"] is not None or context.params["keep_artifacts"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_it_names_no_host_and_no_machine(path: Path) -> None:
    assert "://" not in path.read_text()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_it_is_yaml_of_known_keys(path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    # "on" is a boolean in YAML 1.1, which GitHub's reader does not follow there.
    workflow: dict[Any, Any] = yaml.safe_load(path.read_text())
    assert {str(k) for k in workflow} == {"name", "True", "permissions", "env", "jobs"}
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert set(step) <= {"name", "if", "run", "uses", "with"}


def test_the_readme_shows_the_workflow_that_there_is() -> None:
    shown = [b.text for b in blocks() if b.language == "yaml"]
    assert [s.strip() for s in shown] == [p.read_text().strip() for p in WORKFLOWS]
