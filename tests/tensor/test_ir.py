"""Expressions that are built alike are one object, for as long as anybody holds them."""

from __future__ import annotations

import copy
import gc
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from tilewright import dtype as dt
from tilewright.tensor import expr
from tilewright.tensor.ir import (
    Axis,
    Binary,
    Buffer,
    Call,
    Cast,
    Const,
    Expr,
    Load,
    Reduce,
    Select,
    Unary,
    Var,
    lt,
    symbol,
)

N = symbol("N")


def one_of_each() -> list[Expr]:
    i, k = Var("i"), Var("k")
    load = Load(Buffer("A", dt.f32, (4, N)), [i, k + 1])
    return [
        Const(3),
        i,
        load,
        Unary("neg", load),
        Binary("max", load, load * 2.0),
        Cast(load, dt.f64),
        Select(lt(i, k), load, Const(0.0, dt.f32)),
        Call("exp", [load], dt.f32),
        Reduce("sum", [Axis(k, N - 1)], load),
    ]


def test_expressions_built_alike_are_one_object() -> None:
    assert all(a is b for a, b in zip(one_of_each(), one_of_each(), strict=True))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_are_the_same_object(again: object) -> None:
    assert callable(again)
    assert all(again(e) is e for e in one_of_each())


def test_constants_differ_by_type_and_bits() -> None:
    zeros = {Const(0), Const(0.0, dt.f32), Const(-0.0, dt.f32), Const(0.0, dt.f64)}
    assert len(zeros | {Const(False, dt.bool_)}) == 5
    assert Const(math.nan, dt.f32) is Const(math.nan, dt.f32)


def test_nodes_know_their_operands_variables_and_depth() -> None:
    i, k = Var("i"), Var("k")
    load = Load(Buffer("A", dt.f32, (4, N)), [i, k + 1])
    total = Reduce("sum", [Axis(k, N - 1)], load)
    assert load.operands == (i, k + 1)
    assert load.variables == {i, k, N}
    assert total.operands == (load, N - 1)
    assert Const(1).variables == frozenset()
    assert (i.depth, load.depth, total.depth) == (0, 2, 3)


def test_a_sweep_keeps_the_living_and_drops_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    held = one_of_each()
    chain: Expr = Var("chain")
    for k in range(2000):
        chain = chain + k
    before = len(expr._TABLE)
    del chain
    gc.collect()
    monkeypatch.setattr(expr, "_swept_at", [0])
    trigger = Var("one more")
    assert len(expr._TABLE) <= before - 1900
    assert trigger is Var("one more")
    assert all(a is b for a, b in zip(held, one_of_each(), strict=True))


def test_threads_get_the_same_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expr, "_LEAST_SWEPT", 64)
    monkeypatch.setattr(expr, "_swept_at", [64])

    def build(_: int) -> list[Expr]:
        x: Expr = Var("x")
        made = [x]
        for k in range(300):
            made.append(made[-1] * (k % 7) + k)
        return made

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(build, range(4))
    assert all(a is b for other in others for a, b in zip(first, other, strict=True))
