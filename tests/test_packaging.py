"""The package that is installed: complete, pure Python, and light to import."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tilewright

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOP = {"compiler": "tilewright", "frontends": "tilewright.frontends",
       "backends": "tilewright.backends", "autotune": "tilewright.autotune"}  # fmt: skip
HEAVY = ("onnx", "torch", "llvmlite", "onnxruntime", "openvino", "click", "rich")


def packages_in_tree() -> set[str]:
    found = set()
    for top, name in TOP.items():
        for init in (ROOT / top).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / top).parts
            found.add(".".join((name, *inner)))
    return found


def test_the_list_of_packages_is_that_of_the_tree() -> None:
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(packages_in_tree())
    assert listed == sorted(listed)


def test_every_folder_with_source_is_a_package() -> None:
    forgotten = {
        str(path.parent.relative_to(ROOT))
        for top in TOP
        for path in (ROOT / top).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    }
    assert not forgotten


def test_no_module_is_named_after_one_of_the_standard_library_at_the_top() -> None:
    names = {p.stem for top in TOP for p in (ROOT / top).glob("*.py")} - {"__init__", "__main__"}
    assert not names & set(sys.stdlib_module_names)


def test_the_version_is_one() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert tilewright.__version__.count(".") == 2


def test_public_names_are_there() -> None:
    for name in tilewright.__all__:
        assert getattr(tilewright, name) is not None
        assert name in dir(tilewright)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tilewright.nonsense


def test_importing_loads_no_frontend_and_no_backend() -> None:
    code = (
        f"import sys, json, tilewright; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == []


def test_importing_takes_less_than_0_4_seconds() -> None:
    code = "import time; t = time.process_time(); import tilewright; print(time.process_time() - t)"
    times = [
        float(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
            ).stdout
        )
        for _ in range(3)
    ]
    assert min(times) < 0.4


def test_help_does_not_load_the_compiler() -> None:
    code = (
        "import sys, tilewright.cli as c; r = c.run_command(['--help']); "
        "sys.exit(r or 'llvmlite' in sys.modules or 'onnx' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout


def test_the_source_ships_nothing_but_python_and_what_is_listed() -> None:
    listed = {
        "/".join(("compiler", *package.split(".")[1:], name))
        for package, names in PROJECT["tool"]["setuptools"]["package-data"].items()
        for name in names
    }
    other = {
        str(p.relative_to(ROOT))
        for top in TOP
        for p in (ROOT / top).rglob("*")
        if p.is_file() and p.suffix not in (".py", ".pyc")
    }
    assert other == listed == {"compiler/py.typed", "compiler/profiling/page.html"}


def test_the_licence_is_apache_2() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
