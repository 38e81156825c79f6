"""Every code block of the README runs as it stands."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from .readme_blocks import README, blocks
from .readme_model import write_model

ROOT = README.parent
CI = (ROOT / ".ci" / "run").read_text()
COMMANDS = [c for b in blocks() if b.language == "console" for c in b.commands]
OURS = [c for c in COMMANDS if c.startswith("tilewright ")]
MADE_BY = {
    "model.tw": "-o model.tw",
    "base.json": "--json base.json",
    "tuned.db": "tune model.onnx",
}
"""Files that commands need, and a part of the command that writes each."""
RUN_BY_CI = [c for c in COMMANDS if not c.startswith("tilewright ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model that the examples name, and with what they wrote so far."""
    place = tmp_path_factory.mktemp("readme")
    write_model(place)
    return place


def execute(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    scripts = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "TILEWRIGHT_CACHE_DIR": str(folder / "cache"),
    }
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False,
        timeout=600,
    )  # fmt: skip


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert {b.language for b in blocks()} <= {"python", "console", "text", "yaml"}
    assert len(OURS) >= 8


def test_python_blocks_run_in_order(folder: Path) -> None:
    program = "\n".join(b.text for b in blocks() if b.language == "python" and not b.needs_torch)
    done = execute([sys.executable, "-W", "error", "-c", program], folder)
    assert done.returncode == 0, done.stderr
    assert "TW-E0302" in done.stdout


def test_python_blocks_with_pytorch_run_in_order(folder: Path) -> None:
    pytest.importorskip("torch")
    program = "\n".join(b.text for b in blocks() if b.needs_torch)
    assert 'backend="tilewright"' in program
    done = execute([sys.executable, "-c", program], folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "torch_model.tw").exists()


@pytest.mark.parametrize("command", OURS)
def test_a_command_runs(command: str, folder: Path) -> None:
    for file, part in MADE_BY.items():
        # Where tests are shared among processes, another one may have run the command before.
        if file in command and part not in command and not (folder / file).exists():
            (first,) = (c for c in OURS if part in c)
            made = execute(shlex.split(first), folder)
            assert made.returncode == 0, made.stderr
    done = execute(shlex.split(command), folder)
    # A busy machine may be too noisy to judge.
    assert done.returncode == 0 or (done.returncode == 5 and "--gate" in command), done.stderr
    assert done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", RUN_BY_CI)
def test_a_command_about_the_tests_themselves_is_run_by_ci(command: str) -> None:
    # Installing, linting and testing inside a test would never end; CI carries them out.
    assert command in CI


def test_the_first_screen_holds_two_commands() -> None:
    early = [b for b in blocks() if b.line < 25 and b.language == "console"]
    assert [len(b.lines) for b in early] == [1, 1]
