"""Programs of torch.export are known again in a fresh process, and never taken for others."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright as tw

torch = pytest.importorskip("torch")
nn = torch.nn

from tilewright.errors import ModelError, OptionError  # noqa: E402
from tilewright.frontends.torch import content_of, open_source  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "cache"))


class Affine(nn.Module):  # type: ignore[misc, name-defined]
    """``relu(x @ w + b) * scale + shift``, with a parameter, a buffer and a number of its own."""

    def __init__(self, scale: float = 2.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 5)
        self.register_buffer("shift", torch.ones(5))
        self.scale = scale

    def forward(self, x: Any) -> Any:
        return self.layer(x).relu() * self.scale + self.shift


X = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)


def exported(module: Any, **options: Any) -> Any:
    return torch.export.export(module.eval(), (torch.from_numpy(X),), **options)


def content(program: Any) -> str:
    found = content_of(open_source(program))
    assert found is not None
    return found


def wanted(module: Any) -> np.ndarray:
    with torch.no_grad():
        result: np.ndarray = module(torch.from_numpy(X)).numpy()
    return result


def test_equal_programs_have_equal_content() -> None:
    assert content(exported(Affine())) == content(exported(Affine()))


def _weight(module: Any) -> None:
    with torch.no_grad():
        module.layer.weight[4, 5] += 1e-6


def _buffer(module: Any) -> None:
    module.shift[0] = 2.0


def _number(module: Any) -> None:
    module.scale = 2.0000001


@pytest.mark.parametrize("change", [_weight, _buffer, _number])
def test_a_changed_program_is_another_one(change: Callable[[Any], None]) -> None:
    before, module = exported(Affine()), Affine()
    change(module)
    assert content(before) != content(exported(module))


def test_symbols_and_their_ranges_are_part_of_a_program() -> None:
    contents = {content(exported(Affine()))}
    for most in (8, 16):
        batch = torch.export.Dim("batch", max=most)
        contents.add(content(exported(Affine(), dynamic_shapes=({0: batch},))))
    assert len(contents) == 3


def test_weights_that_change_in_place_are_never_served_stale() -> None:
    module = Affine()
    program = exported(module)
    first = tw.compile(program)(X)[0]
    np.testing.assert_allclose(first, wanted(module), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        module.layer.weight.mul_(-3)
    second = tw.compile(program)(X)[0]
    np.testing.assert_allclose(second, wanted(module), rtol=1e-5, atol=1e-6)


def compiled_elsewhere(code: str) -> set[str]:
    """The modules that a fresh process has after running some code."""
    shown = f"{code}\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("kind", ["program", "module"])
def test_a_program_that_the_cache_has_is_not_imported(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    torch.export.save(exported(nn.Linear(6, 5)), path)
    give = {
        "program": f"tilewright.compile(torch.export.load({str(path)!r}))",
        "module": "torch.manual_seed(0); tilewright.compile("
        "torch.nn.Linear(6, 5).eval(), (torch.ones(4, 6),))",
    }
    code = f"import tilewright, torch; {give[kind]}"
    assert "tilewright.lower" in compiled_elsewhere(code)
    assert "tilewright.lower" not in compiled_elsewhere(code)


# ------------------------------------------------------------------ files


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt2"
    torch.export.save(exported(Affine()), path)
    return path


@pytest.mark.parametrize("kind", [str, Path])
def test_a_saved_program_is_compiled_from_its_file(
    kind: Callable[[Path], Any], saved: Path
) -> None:
    result = tw.compile(kind(saved))(X)[0]
    np.testing.assert_allclose(result, wanted(Affine()), rtol=1e-5, atol=1e-6)


def test_a_file_that_the_cache_has_is_compiled_without_torch(saved: Path) -> None:
    code = f"import tilewright; tilewright.compile({str(saved)!r})"
    assert "torch" in compiled_elsewhere(code)
    assert not {"torch", "tilewright.lower"} & compiled_elsewhere(code)


def test_a_damaged_file_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    for damaged in (b"", b"not a program", whole[: len(whole) // 2]):
        saved.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"TW-E0164.*model\.pt2"):
            tw.compile(saved)


def test_another_file_of_torch_is_refused(tmp_path: Path) -> None:
    held = io.BytesIO()
    torch.save(Affine().state_dict(), held)
    path = tmp_path / "weights.pt2"
    path.write_bytes(held.getvalue())
    with pytest.raises(ModelError, match=r"TW-E0164.*weights\.pt2"):
        tw.compile(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"TW-E0164.*nothing\.pt2.*No such file"):
        tw.compile(tmp_path / "nothing.pt2")


def test_options_that_do_not_go_with_a_file_are_refused(saved: Path) -> None:
    with pytest.raises(OptionError, match=r"TW-E0804.*model\.pt2"):
        tw.compile(saved, shapes={"x": (4, 6)})
    with pytest.raises(OptionError, match=r"TW-E0806.*model\.pt2"):
        tw.compile(saved, (X,))


def test_without_torch_a_file_of_it_is_refused_with_what_to_install(saved: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import tilewright\n"
        f"try: tilewright.compile({str(saved)!r})\n"
        "except tilewright.TilewrightError as error: print(error)"
    )
    env = {**os.environ, "TILEWRIGHT_CACHE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert "TW-E0106" in done.stdout
    assert "pip install 'tilewright[torch]'" in done.stdout
