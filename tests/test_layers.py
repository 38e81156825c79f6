"""Who may import whom: the layers of the house, read from the source of every file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP = {"compiler": (), "frontends": ("frontends",), "backends": ("backends",),
       "autotune": ("autotune",)}  # fmt: skip

BASE = {"errors", "dtype", "version"}
TENSOR = BASE | {"tensor"}
GRAPH = TENSOR | {"graph.ir", "ops", "graph"}
LOWER = GRAPH | {"schedule", "schedule.recipes", "target"}
PROGRAM = TENSOR | {"options", "target", "runtime"}
PIPELINE = LOWER | PROGRAM | {"graph.passes", "lower", "backends", "frontends"}

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "dtype": set(),
    "version": set(),
    "options": BASE,
    "target": BASE,
    "tensor": BASE,
    "graph.ir": TENSOR,
    "ops": TENSOR | {"graph.ir"},
    "graph": TENSOR | {"graph.ir", "ops"},
    "graph.passes": GRAPH | {"target"},
    "schedule": TENSOR,
    "schedule.recipes": TENSOR | {"schedule", "target"},
    "lower": LOWER | {"runtime"},
    "runtime": PROGRAM,
    "frontends": GRAPH,
    "backends": PROGRAM,
    "autotune": TENSOR | {"schedule", "schedule.recipes", "runtime", "target", "backends"},
    "stages": BASE | {"backends", "frontends"},
    "pipeline": PIPELINE | {"stages"},
    "sources": BASE | {"graph.ir", "runtime", "frontends", "stages"},
    "models": BASE | {"runtime", "sources", "stages", "target"},
    "api": PROGRAM | {"graph.ir", "backends", "models", "sources", "stages"},
    "feed": PROGRAM,
    "tuning": PIPELINE | {"graph.ir", "api", "autotune", "feed", "pipeline", "sources", "stages"},
    "standalone": PROGRAM | {"api", "backends", "sources", "stages"},
    "jit": PIPELINE | {"api"},
    "kernels": PIPELINE | {"api", "stages"},
    "dynamo": BASE | {"api", "frontends", "options", "stages"},
    "peers": GRAPH | {"api", "frontends", "stages"},
    "benchmarking": GRAPH | PROGRAM | {"api", "backends", "peers"},
    "profiling": GRAPH | PROGRAM | {"backends"},
    "commands": PIPELINE
    | {"api", "autotune", "feed", "tuning", "benchmarking", "peers", "profiling", "standalone"}
    | {"stages"},
    "cli": BASE | {"options"},
    "__main__": {"cli"},
    "": BASE,
}
"""For each layer, the layers below it that it may import (and always itself)."""

THIRD_PARTY = {
    "onnx": {"frontends"},
    "google": {"frontends"},
    "torch": {"frontends"},
    "llvmlite": {"backends"},
    "distributed": {"autotune"},
    "sklearn": {"autotune"},
    "click": {"cli", "commands"},
    "rich": {"commands"},
}
"""Packages that only some layers may import."""

ENTRIES = {"dynamo", "jit"}
"""What the entry points of one framework lead to; only these name a frontend."""

FACE = {
    "api",
    "feed",
    "tuning",
    "standalone",
    "models",
    "sources",
    "jit",
    "kernels",
    "dynamo",
    "stages",
    "pipeline",
    "peers",
    "benchmarking",
    "profiling",
    "commands",
    "cli",
    "__main__",
}
"""The layers above all folders; they import by absolute names."""


def sources() -> list[Path]:
    return sorted(p for top in TOP for p in (ROOT / top).rglob("*.py"))


def module_of(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(ROOT).with_suffix("").parts
    names = (*TOP[parts[0]], *parts[1:])
    return names[:-1] if names[-1] == "__init__" else names


def layer_of(module: tuple[str, ...]) -> str:
    """The layer of a module, ("graph", "passes", "fold") being in graph.passes."""
    longest = next(
        (n for n in range(min(2, len(module)), 0, -1) if ".".join(module[:n]) in ALLOWED), 0
    )
    return ".".join(module[:longest]) or (module[0] if module else "")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def is_for_types_only(tree: ast.Module) -> set[int]:
    """The imports inside ``if TYPE_CHECKING``."""
    return {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }


def imports(path: Path) -> Iterator[tuple[ast.Import | ast.ImportFrom, int, tuple[str, ...]]]:
    """Each import: its node, its level, and the absolute name (within tilewright if relative)."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path)[:-1]
    tree = tree_of(path)
    hidden = is_for_types_only(tree)
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield node, 0, tuple(alias.name.split("."))
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package[: len(package) - level + 1] if level else ()
                inside = ("tilewright", *base) if level else ()
                for alias in names:
                    # What is imported from a package may be a module of it, or a name in it.
                    full = (*inside, *(module.split(".") if module else ()), alias.name)
                    yield node, level, full


def targets(path: Path) -> Iterator[tuple[int, str]]:
    """The layers of the package that a file imports, by line."""
    for node, _, name in imports(path):
        if name[0] == "tilewright":
            yield node.lineno, layer_of(name[1:])


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_its_layer_may(path: Path) -> None:
    layer = layer_of(module_of(path))
    assert layer in ALLOWED, f"{path.name}: say in ALLOWED what the layer {layer!r} may import"
    allowed = ALLOWED[layer] | {layer}
    # The name of a value in the package's root ("from tilewright import errors") is its own layer.
    wrong = [f"line {n}: {t}" for n, t in targets(path) if t not in allowed and t in ALLOWED]
    assert not wrong, f"{path.relative_to(ROOT)} in {layer!r} imports {', '.join(wrong)}"


def test_layers_have_no_cycles() -> None:
    done: set[str] = set()
    left = dict(ALLOWED)
    while left:
        ready = {k for k, v in left.items() if v - {k} <= done}
        assert ready, f"a cycle among {sorted(left)}"
        done |= ready
        left = {k: v for k, v in left.items() if k not in ready}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_are_relative_inside_a_folder_and_absolute_across(path: Path) -> None:
    module = module_of(path)
    own = path.relative_to(ROOT).parts[0]
    face = layer_of(module) in FACE
    for node, level, name in imports(path):
        if name[0] in TOP and level == 0:
            pytest.fail(f"line {node.lineno}: {name[0]} is a second copy; write tilewright")
        if name[0] != "tilewright":
            continue
        target = name[1] if len(name) > 1 and name[1] in TOP else "compiler"
        if level:
            assert target == own, f"line {node.lineno}: leaves {own}/ by a relative import"
        elif not face:
            assert target != own, f"line {node.lineno}: write a relative import inside {own}/"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_optional_and_heavy_packages_stay_in_their_folders(path: Path) -> None:
    layer = layer_of(module_of(path))
    for node, level, name in imports(path):
        if level == 0 and name[0] in THIRD_PARTY:
            assert layer in THIRD_PARTY[name[0]], f"line {node.lineno}: {layer} imports {name[0]}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_stand_at_the_top_of_files(path: Path) -> None:
    tree = tree_of(path)
    inner = [
        node.lineno
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert not inner, f"{path.relative_to(ROOT)}: imports inside functions, lines {inner}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_private_names_are_not_imported(path: Path) -> None:
    private = [
        ".".join(name)
        for _, _, name in imports(path)
        if name[0] == "tilewright" and name[-1].startswith("_") and not name[-1].startswith("__")
    ]
    assert not private


def texts_and_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The strings of a file that are no docstrings, and the names in its code."""
    told = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in told:
                yield node.lineno, text
            case ast.Name(id=text) | ast.Attribute(attr=text):
                yield node.lineno, text.replace("_", " ")
            case ast.FunctionDef(name=text) | ast.ClassDef(name=text) | ast.arg(arg=text):
                yield node.lineno, text.replace("_", " ")


OUTSIDE = [p for p in sources() if p.relative_to(ROOT).parts[0] != "frontends"]


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_frontend_is_named_outside_its_folder(path: Path) -> None:
    layer = layer_of(module_of(path))
    # The list of all error codes says what each one is about; runtimes to measure against have
    # the names that they have.
    if layer in ENTRIES | {"errors", "peers"}:
        return
    inside = [".".join(n[1:]) for _, _, n in imports(path) if n[:2] == ("tilewright", "frontends")]
    packages = {p.name for p in (ROOT / "frontends").iterdir() if p.is_dir()}
    assert not [n for n in inside if packages & set(n.split("."))]
    # A file's suffix is the user's word for it; NumPy's own name is not that of its frontend.
    framework = re.compile(r"(?<!\.)\b(onnx|torch|pytorch|aten)\b", re.IGNORECASE)
    named = [f"line {n}: {t}" for n, t in texts_and_names(tree_of(path)) if framework.search(t)]
    assert not named


GPUS = re.compile(r"\b(cuda|nvptx|nvvm|ptx|ptxas)\b", re.IGNORECASE)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_gpu_is_named_outside_its_backend(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    table = parts == ("backends", "__init__.py") or parts == ("compiler", "errors.py")
    if table or parts[:2] == ("backends", "cuda"):
        return
    tree = tree_of(path)
    # Examples of commands are words for people; schedules and passes ask a target for numbers.
    named = [
        f"line {n}: {t}"
        for n, t in texts_and_names(tree)
        if GPUS.search(t) and not t.startswith("Example:")
    ]
    inside = [".".join(n[1:]) for _, _, n in imports(path) if "cuda" in n]
    assert not named + inside
