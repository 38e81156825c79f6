"""Arguments of a wrong type are told by their names and codes, not by what they break inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright
from tilewright.errors import InputError, ModelError, OptionError

from .readme_model import write_model

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A layer, x: f32[N, 16] -> y: f32[N, 8]."""
    write_model(tmp_path)
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("threads", "2", "TW-E0801: threads: '2' is of type str; expected a whole number"),
        ("threads", 2.5, "TW-E0801: threads: 2.5 is of type float"),
        ("threads", True, "TW-E0801: threads: True is of type bool"),
        ("debug", "1", "TW-E0801: debug"),
        ("target", 5, "TW-E0801: target: 5 is of type int; expected a text"),
        ("math", 1, "TW-E0801: math"),
        ("cache", "no", "TW-E0801: cache: 'no' is of type str; expected True or False"),
        ("shapes", [4, 16], "TW-E0801: shapes: expected a dict by name, not a list"),
        ("dim_ranges", "N", "TW-E0801: dim_ranges: expected a dict by name"),
        ("kernels", [3], "TW-E0801: kernels: expected a dict by name"),
        ("shapes", {"x": 4}, "TW-E0811: shapes: 'x' is given 4; give all its dims"),
        ("shapes", {"x": "4x16"}, "TW-E0811: shapes: 'x' is given '4x16'; give all its dims"),
        ("shapes", {"x": (4.0, 16)}, "TW-E0811: shapes: 'x' is given the dim 4.0"),
        ("shapes", {"x": (None, 16)}, "TW-E0811: shapes: 'x' is given the dim None"),
        ("dim_ranges", {"N": 3}, "TW-E0810: dim_ranges: 'N' is given 3"),
        ("dim_ranges", {"N": (1, 2, 3)}, r"TW-E0810: dim_ranges: 'N' is given \(1, 2, 3\)"),
        ("dim_ranges", {"N": ("1", "2")}, "TW-E0810: dim_ranges"),
    ],
    ids=str,
)
def test_an_option_of_another_type_is_refused_by_name(
    option: str, value: Any, said: str, model: Path
) -> None:
    with pytest.raises(OptionError, match=said):
        tilewright.compile(model, **{option: value})


def test_whole_numbers_of_numpy_are_taken(model: Path) -> None:
    exe = tilewright.compile(
        model,
        threads=np.int64(2),  # type: ignore[arg-type]
        shapes={"x": (np.int32(4), 16)},  # type: ignore[dict-item]
    )
    assert exe.threads == 2
    assert [str(s) for s in exe.inputs] == ["x: f32[4, 16]"]
    exe.threads = np.int8(1)  # type: ignore[assignment]
    assert exe.threads == 1
    with pytest.raises(OptionError, match="TW-E0801: threads: '1'"):
        exe.threads = "1"  # type: ignore[assignment]


def test_a_range_may_be_open(model: Path) -> None:
    ranges: dict[str, Any] = {"N": [2, None]}
    exe = tilewright.compile(model, dim_ranges=ranges)
    with pytest.raises(InputError, match="TW-E0306"):
        exe(np.zeros((1, 16), np.float32))
    assert exe(np.zeros((2, 16), np.float32))[0].shape == (2, 8)


@pytest.mark.parametrize("given", [None, 3, [np.zeros((1, 16), np.float32)]], ids=repr)
def test_run_takes_arrays_by_name_only(given: Any, model: Path) -> None:
    exe = tilewright.compile(model)
    with pytest.raises(InputError, match="TW-E0301.*run takes a dict of arrays by name"):
        exe.run(given)


def test_an_input_that_no_memory_holds_once_copied_is_named(model: Path) -> None:
    huge = np.broadcast_to(np.float32(1), (1 << 40, 16))
    with pytest.raises(InputError, match="TW-E0307: input 'x'"):
        tilewright.compile(model)(huge)


@pytest.mark.parametrize("budget", ["10s", None, [1]], ids=repr)
def test_a_budget_is_a_number(budget: Any, model: Path) -> None:
    with pytest.raises(OptionError, match="TW-E0840"):
        tilewright.tune(model, budget=budget)


def test_what_is_compiled_already_is_told_so(model: Path, tmp_path: Path) -> None:
    tilewright.compile(model).save(tmp_path / "model.tw")
    with pytest.raises(ModelError, match=r"TW-E0103.*compiled already: tilewright\.load"):
        tilewright.compile(tmp_path / "model.tw")


@pytest.mark.parametrize("use", [tilewright.jit, tilewright.jit()], ids=["plain", "options"])
def test_jit_takes_functions_only(use: Callable[[Any], object]) -> None:
    with pytest.raises(OptionError, match="TW-E0801: jit takes a function of arrays"):
        use(3)
