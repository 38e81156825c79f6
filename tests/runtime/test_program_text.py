"""The text form of programs: parse(text(p)) == p, and everything else is refused by line."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright import dtype as dt
from tilewright.errors import ArtifactError
from tilewright.runtime.program import (
    ArenaStorage,
    CallKernel,
    ConstantStorage,
    CopyTensor,
    IfStep,
    InputStorage,
    LetElement,
    LoopStep,
    OutputStorage,
    Program,
    Step,
    Tensor,
    TensorSpec,
    kernel_names,
    walk_steps,
)
from tilewright.runtime.text import parse, parse_interface, text
from tilewright.tensor.ir import BINARY_OPS, Binary, Cast, Const, Expr, Select, Unary, Var, lt

NAMES = st.sampled_from(["x", "y", "1/conv:0", "for", "input", "", "batch size", "é", "x_2"])
SYMBOLS = st.lists(
    st.builds(Var, NAMES, st.just(dt.i64), st.integers(0, 2), st.none() | st.integers(3, 99)),
    unique=True,
    max_size=3,
)
ARITHMETIC = sorted(BINARY_OPS - {"eq", "ne", "lt", "le", "gt", "ge"})


def exprs(variables: list[Var]) -> st.SearchStrategy[Expr]:
    leaves = st.builds(Const, st.integers(-(1 << 40), 1 << 40))
    if variables:
        leaves |= st.sampled_from(variables)
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(Binary, st.sampled_from(ARITHMETIC), inner, inner),
            st.builds(Unary, st.sampled_from(["neg", "abs", "not"]), inner),
            st.builds(lambda a, b, c: Select(lt(a, b), c, a), inner, inner, inner),
            st.builds(lambda a, b: Cast(lt(a, b), dt.i64), inner, inner),
        ),
        max_leaves=6,
    )


@st.composite
def programs(draw: st.DrawFn) -> Program:
    symbols = draw(SYMBOLS)

    def dims(variables: list[Var]) -> st.SearchStrategy[int | Expr]:
        return st.integers(-3, 1000) | exprs(variables)

    def tensors(variables: list[Var]) -> st.SearchStrategy[Tensor]:
        storage = st.one_of(
            st.builds(InputStorage, st.integers(0, 3)),
            st.builds(OutputStorage, st.integers(0, 3), st.sampled_from([0, 64])),
            st.builds(ConstantStorage, st.integers(0, 9).map(lambda i: i * 64)),
            st.builds(ArenaStorage, dims(variables)),
        )
        shape = st.lists(dims(variables), max_size=3).map(tuple)
        return st.builds(Tensor, NAMES, st.sampled_from(list(dt.DTYPES.values())), shape, storage)

    def steps(variables: list[Var], depth: int) -> tuple[Step, ...]:
        result: list[Step] = []
        known = list(variables)
        for kind in draw(st.lists(st.integers(0, 4 if depth else 2), max_size=3)):
            if kind == 0:
                args = st.lists(tensors(known) | dims(known), max_size=3).map(tuple)
                kernel = draw(st.sampled_from(["add", "copy", "if", "k.1", "mul_2"]))
                result.append(CallKernel(kernel, draw(args)))
            elif kind == 1:
                result.append(CopyTensor(draw(tensors(known)), draw(tensors(known))))
            elif kind == 2:
                var = Var(draw(NAMES), dt.i64, draw(st.none() | st.just(0)), None)
                result.append(LetElement(var, draw(tensors(known)), draw(st.integers(0, 5))))
                known.append(var)
            elif kind == 3:
                arms = steps(known, depth - 1), steps(known, depth - 1)
                result.append(IfStep(draw(tensors(known)), *arms))
            else:
                var = Var(draw(NAMES))
                body = steps([*known, var], depth - 1)
                result.append(LoopStep(var, draw(dims(known)), body))
        return tuple(result)

    specs = st.lists(
        st.builds(
            TensorSpec, NAMES, st.just(dt.f32), st.lists(dims(symbols), max_size=2).map(tuple)
        ),
        max_size=2,
    ).map(tuple)
    return Program(
        draw(NAMES), draw(specs), draw(specs), tuple(symbols), steps(symbols, 2),
        draw(dims(symbols)), draw(st.integers(0, 1 << 40)),
        draw(st.lists(st.builds(lt, exprs(symbols), exprs(symbols)), max_size=2).map(tuple)),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(programs())
def test_parsing_the_text_gives_the_program_back(program: Program) -> None:
    written = text(program)
    compile(written, "<program>", "exec")
    assert parse(written) == program
    assert parse_interface(written) == replace(program, steps=())


def test_steps_are_walked_and_kernels_named_in_order() -> None:
    cond = Tensor("c", dt.bool_, (), InputStorage(0))
    inner = (CallKernel("b", ()), CallKernel("a", ()))
    steps = (IfStep(cond, inner, (LoopStep(Var("i"), 2, (CallKernel("c", ()),)),)),
             CallKernel("a", ()))  # fmt: skip
    assert kernel_names(Program("p", (), (), (), steps)) == ("b", "a", "c")
    assert len(list(walk_steps(steps))) == 6


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("(", "not Python"),
        ("import os", "not a step"),
        ("k(x)", "not an expression of dims"),
        ("k(__import__('os'))", "not an expression"),
        ("copy(x, x)", "declared above"),
        ("x = input(0, 'x', f33[2])", "expected a type"),
        ("x = input('0', 'x', f32[2])", "expected an integer"),
        ("x = nowhere(0, 'x', f32[2])", "expected input, output"),
        ("for i in range(3):\n    pass", "not a step"),
        ("while True:\n    pass", "not a step"),
        ("k(1 < 2, (1 < 2) + 1)", "operands of types"),
        ("program('q', arena=0, constants=0)", "one program"),
        ("k()\nspec_input('x', f32[2])", "interface comes before"),
        ("t = arena(0, 't', f32[2])\nrequire(1 < 2)", "interface comes before"),
    ],
)
def test_other_text_is_refused_with_its_line(line: str, said: str) -> None:
    with pytest.raises(ArtifactError, match=said) as caught:
        parse(f"program('p', arena=0, constants=0)\n{line}\n")
    assert caught.value.code == "TW-E0504"


def test_text_without_a_program_line_is_refused() -> None:
    with pytest.raises(ArtifactError, match="TW-E0504.*program"):
        parse("")
