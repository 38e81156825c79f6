"""Bad modules and bad calls end in a coded error that names the cause and the user's line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.errors import InputError, ModelError, UnsupportedError

torch = pytest.importorskip("torch")
nn = torch.nn

pytestmark = pytest.mark.filterwarnings("ignore")


class Apply(nn.Module):  # type: ignore[misc, name-defined]
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def branch(x: Any) -> Any:
    if x.sum() > 0:
        return x + 1
    return x


def repeat(x: Any) -> Any:
    while x.sum() < 10:
        x = x + 1
    return x


def count(x: Any) -> Any:
    return torch.zeros(int(x.sum()))


# ------------------------------------------------------------------ compiling


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (branch, "if x.sum() > 0:"),
        (repeat, "while x.sum() < 10:"),
        (count, "return torch.zeros(int(x.sum()))"),
    ],
)
def test_control_flow_on_data_is_refused_with_its_line(
    function: Callable[[Any], Any], line: str
) -> None:
    with pytest.raises(ModelError) as caught:
        tw.compile(Apply(function), (torch.ones(3),))
    assert caught.value.code == "TW-E0163"
    assert __file__ in str(caught.value) and f"`{line}`" in str(caught.value)


def test_an_exception_in_a_module_is_told_with_its_line() -> None:
    def fail(x: Any) -> Any:
        raise ValueError(f"no {x.shape[0]} today")

    with pytest.raises(ModelError) as caught:
        tw.compile(Apply(fail), (torch.ones(3),))
    assert caught.value.code == "TW-E0161"
    assert "`raise ValueError(" in str(caught.value) and "no 3 today" in str(caught.value)


def test_what_a_user_calls_static_is_not_made_dynamic() -> None:
    rows = torch.export.Dim("rows")
    with pytest.raises(ModelError, match="TW-E0161.*rows"):
        tw.compile(Apply(lambda x: x.reshape(4, -1).sum() * (x.shape[0] == 4)),
                   (torch.ones(4, 3),), dynamic_shapes=(({0: rows},),))  # fmt: skip


def test_parameters_on_another_device_are_refused() -> None:
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    with pytest.raises(UnsupportedError, match="p_weight: tensors on meta; move the module to"):
        tw.compile(module, (torch.ones(4, 3, device="meta"),))
    with pytest.raises(ModelError, match="TW-E0161.*same device"):
        tw.compile(module, (torch.ones(4, 3),))


def test_complex_parameters_are_refused() -> None:
    module = nn.Linear(3, 2).to(torch.complex64)
    with pytest.raises(UnsupportedError) as caught:
        tw.compile(Apply(lambda x: module(x).real), (torch.ones(4, 3, dtype=torch.complex64),))
    assert any("tensors of torch.complex64" in gap.what for gap in caught.value.gaps)


def test_sparse_parameters_are_refused() -> None:
    module = Apply(lambda x: x * 2)
    module.register_buffer("held", torch.eye(3).to_sparse())
    module.function = lambda x: torch.mm(module.held, x)
    with pytest.raises(UnsupportedError, match="held: tensors of layout torch.sparse_coo"):
        tw.compile(module, (torch.ones(3, 3),))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.eye(3).to_sparse(), "layout torch.sparse_coo"),
        (lambda: torch.eye(3).to_sparse_csr(), "layout torch.sparse_csr"),
        (lambda: torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8), "torch.qint8"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested tensors"),
    ],
    ids=["sparse", "compressed", "quantized", "nested"],
)
def test_inputs_that_are_not_dense_are_named(make: Callable[[], Any], said: str) -> None:
    module = Apply(lambda x, others: x + others["y"].to_dense())
    with pytest.raises(UnsupportedError, match=rf"TW-E0200[\s\S]*\[1\]\['y'\]: .*{said}"):
        tw.compile(module, (torch.ones(3, 3), {"y": make()}))


class Named(nn.Module):  # type: ignore[misc, name-defined]
    """A module whose parameters stand in lines of their own."""

    def forward(
        self,
        x: Any,
        held: Any,
    ) -> Any:
        return x + held


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (torch.ones(3, dtype=torch.complex64), "held: tensors of torch.complex64"),
        (torch.ones(3).to_sparse(), "layout torch.sparse_coo"),
    ],
    ids=["complex", "sparse"],
)
def test_inputs_that_are_refused_are_told_with_the_line_that_declares_them(
    held: Any, said: str
) -> None:
    for inputs in ((torch.ones(3), held), {"x": torch.ones(3), "held": held}):
        with pytest.raises(UnsupportedError, match="TW-E0200") as caught:
            tw.compile(Named(), inputs)
        assert said in str(caught.value)
        assert f"at {__file__}:" in str(caught.value) and "`held: Any,`" in str(caught.value)


def test_inputs_of_torchs_own_modules_are_told_with_the_line_of_the_call() -> None:
    module = nn.Identity()
    with pytest.raises(UnsupportedError) as caught:
        tw.compile(module, (torch.ones(3, dtype=torch.complex64),))
    assert "`tw.compile(module, (torch.ones(3, dtype=torch.complex64),))`" in str(caught.value)


def test_inputs_of_torch_compile_are_told_with_a_line_that_reads_them() -> None:
    def twice(x: Any) -> Any:
        return x * 2

    torch.compiler.reset()
    with pytest.raises(Exception, match="tensors of torch.complex64") as caught:
        torch.compile(twice, backend="tilewright")(torch.ones(3, dtype=torch.complex64))
    assert __file__ in str(caught.value) and "`return x * 2`" in str(caught.value)


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize(), "quantize"),
        (lambda x: torch.view_as_real(torch.fft.fft(x)), "_fft_r2c"),
        (lambda x: x.to_sparse().to_dense(), "_to_sparse"),
    ],
    ids=["quantized", "complex", "sparse"],
)
def test_operators_that_make_other_tensors_are_named_with_their_line(
    function: Callable[[Any], Any], operator: str
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        tw.compile(Apply(function), (torch.ones(3, 3),))
    assert caught.value.code == "TW-E0200"
    assert f"aten.{operator}" in str(caught.value) and __file__ in str(caught.value)


@pytest.mark.parametrize("draw", [torch.rand_like, torch.bernoulli, torch.dropout])
def test_random_numbers_are_refused_as_such(draw: Callable[..., Any]) -> None:
    more = (0.5, True) if draw is torch.dropout else ()
    with pytest.raises(UnsupportedError, match="random numbers .put the module in eval mode") as e:
        tw.compile(Apply(lambda x: draw(x, *more)), (torch.ones(3),))
    assert __file__ in str(e.value)


def test_a_write_into_a_view_of_an_input_is_refused_with_its_line() -> None:
    def write(x: Any) -> Any:
        x[0].add_(1)
        return x.sum()

    with pytest.raises(UnsupportedError) as caught:
        tw.compile(Apply(write), (torch.ones(3, 3),))
    assert "a write to the input" in str(caught.value) and __file__ in str(caught.value)


def test_an_output_that_is_its_input_is_equal_to_it() -> None:
    x = torch.randn(3, 4)
    same, flat = tw.compile(Apply(lambda x: (x, x.view(-1))), (x,))(x)
    assert torch.equal(same, x) and torch.equal(flat, x.view(-1))


# ------------------------------------------------------------------ calling


@pytest.fixture(scope="module")
def linear() -> tw.Executable:
    rows = torch.export.Dim("rows", min=2, max=8)
    return tw.compile(nn.Linear(3, 2), (torch.ones(4, 3),), dynamic_shapes=({0: rows},))


CALLS: list[tuple[str, Callable[[], Any], str]] = [
    ("more than declared", lambda: torch.ones(9, 3), "TW-E0306.*rows is 9.*2 to 8"),
    ("fewer than declared", lambda: torch.ones(1, 3), "TW-E0306.*rows is 1.*2 to 8"),
    ("another size", lambda: torch.ones(4, 4), "TW-E0304.*dim 1 is 4, expected 3"),
    ("another rank", lambda: torch.ones(3), "TW-E0303.*rank 1, expected rank 2"),
    ("another dtype", lambda: torch.ones(4, 3, dtype=torch.float64), "TW-E0302.*float64"),
    ("complex", lambda: torch.ones(4, 3, dtype=torch.complex64), "TW-E0308"),
    ("sparse", lambda: torch.eye(3).to_sparse(), "TW-E0308.*layout"),
    ("another device", lambda: torch.ones(4, 3, device="meta"), "TW-E0308.*meta"),
    ("negated", lambda: torch.ones(4, 3, dtype=torch.complex64).conj().imag, "TW-E0308.*negated"),
    ("in training", lambda: torch.ones(4, 3, requires_grad=True), "TW-E0308.*detach"),
]


@pytest.mark.parametrize(("make", "said"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS])
def test_an_argument_that_does_not_fit_is_refused(
    linear: tw.Executable, make: Callable[[], Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        linear(make())


def test_an_argument_that_does_not_fit_is_refused_with_the_line_of_the_call(
    linear: tw.Executable,
) -> None:
    with pytest.raises(InputError) as caught:
        linear(torch.ones(4, 4))
    assert str(caught.value).endswith("`linear(torch.ones(4, 4))`")
    assert f"at {__file__}:" in str(caught.value)


def test_tensors_come_out_where_tensors_go_in(linear: tw.Executable) -> None:
    (got,) = linear(torch.ones(4, 3))
    assert type(got) is torch.Tensor and got.shape == (4, 2)


def test_sizes_that_decided_the_course_are_checked() -> None:
    def longer(x: Any, y: Any) -> Any:
        return x.sum() if x.shape[0] > y.shape[0] else y.sum()

    auto = {0: torch.export.Dim.AUTO}
    executable = tw.compile(
        Apply(longer), (torch.ones(4, 2), torch.ones(3, 2)), dynamic_shapes=((auto, auto),)
    )
    x = np.ones((5, 2), np.float32)
    np.testing.assert_array_equal(executable(x, x[:2])[0], 10)
    with pytest.raises(InputError, match="TW-E0312.*args_1_0 < args_0_0"):
        executable(x, x)


def test_a_module_needs_example_inputs() -> None:
    with pytest.raises(ModelError, match="TW-E0160.*Linear needs example_inputs"):
        tw.compile(nn.Linear(3, 2))


def test_an_exported_program_has_its_inputs() -> None:
    program = torch.export.export(nn.Linear(3, 2), (torch.ones(1, 3),))
    with pytest.raises(ModelError, match="TW-E0160.*give them to torch.export"):
        tw.compile(program, (torch.ones(1, 3),))


def test_a_program_that_torch_does_not_decompose_is_told_in_its_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no such decomposition")

    program = torch.export.export(nn.Linear(3, 2), (torch.ones(1, 3),))
    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", fail)
    with pytest.raises(ModelError, match="TW-E0162.*no such decomposition"):
        tw.compile(program)
