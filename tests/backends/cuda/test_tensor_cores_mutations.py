"""A product by matrix instructions with any one barrier, wait or mask removed is found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from tilewright.backends.cuda.simulator import SimulationError
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.interpret import interpret_group
from tilewright.tensor.ir import (
    Barrier,
    Binary,
    Block,
    Buffer,
    Commit,
    Expr,
    Func,
    If,
    Select,
    Stmt,
    Store,
    Wait,
    conjunction,
)
from tilewright.tensor.walk import map_block, statements

from .executors import Arrays, profile, random_inputs
from .test_tensor_cores import bound, halves, scheduled


@dataclass(frozen=True)
class Product:
    """A product with inputs that need each of its barriers, waits and masks."""

    group: ComputeGroup
    depth: int
    func: Func
    inputs: Arrays
    wanted: np.ndarray


def product(m: int, k: int, n: int) -> Product:
    group = halves(m, k, n)
    inputs = random_inputs(group, {})
    # What is padded must be 0 on both sides: 0 times infinity is no number.
    inputs["x0"][3, 1] = inputs["x1"][1, 5] = np.inf
    with np.errstate(invalid="ignore", over="ignore"):
        wanted = interpret_group(group, inputs, {})["y0"].astype(np.float64)
    return Product(group, k, scheduled(group), inputs, wanted)


PRODUCTS = {"two steps": product(40, 72, 40), "one step": product(40, 40, 40)}


def conjuncts(e: Expr) -> list[Expr]:
    if isinstance(e, Binary) and e.op == "and":
        return [*conjuncts(e.a), *conjuncts(e.b)]
    return [e]


def replaced(func: Func, old: Stmt, number: int, new: Callable[[Stmt], Block]) -> Func:
    """The function with the numbered occurrence of a statement replaced."""
    seen = 0

    def each(stmt: Stmt) -> Block:
        nonlocal seen
        if stmt != old:
            return (stmt,)
        seen += 1
        return new(stmt) if seen - 1 == number else (stmt,)

    return Func(func.name, func.params, map_block(func.body, each))


def without(cond: Expr, k: int) -> Expr:
    parts = conjuncts(cond)
    return conjunction(parts[:k] + parts[k + 1 :])


def mutants(p: Product) -> Iterator[tuple[str, Func]]:
    """(what was removed, the changed function)."""
    counts: dict[Stmt, int] = {}
    outputs = {b.name for b in p.group.outputs}
    for place, stmt in enumerate(statements(p.func.body)):
        number = counts[stmt] = counts.get(stmt, -1) + 1
        change = partial(replaced, p.func, stmt, number)
        match stmt:
            case Barrier() | Commit() | Wait():
                label = f"{type(stmt).__name__.lower()} {number}"
                yield label, change(lambda _: ())
                if isinstance(stmt, Wait):
                    yield f"{label} for fewer", change(partial(instead, Wait(stmt.pending + 1)))
            case Store(buffer=Buffer(scope="shared", name=name), value=Select() as value):
                for k in range(len(conjuncts(value.cond))):
                    less = Select(without(value.cond, k), value.a, value.b)
                    what = Store(stmt.buffer, stmt.indices, less)
                    yield f"mask {k} of {name} at {place}", change(partial(instead, what))
            case If() if any(
                isinstance(s, Store) and s.buffer.name in outputs for s in statements(stmt.then)
            ):
                yield f"mask of the result at {place}", change(partial(bare, stmt.then))


def bare(body: Block, old: Stmt) -> Block:
    del old
    return body


def instead(new: Stmt, old: Stmt) -> Block:
    del old
    return (new,)


# In the first of two steps more rows of B follow, so that what is read past the end of a row is
# memory of B; it is in columns of the result that are not stored.
_HARMLESS = next(w for w, _ in mutants(PRODUCTS["two steps"]) if w.startswith("mask 0 of x1_b"))
CASES = [
    pytest.param(name, func, id=f"{name}: {what}")
    for name, p in PRODUCTS.items()
    for what, func in mutants(p)
    if (name, what) != ("two steps", _HARMLESS)
]


def is_wrong(p: Product, func: Func) -> bool:
    found = profile(func, p.inputs, {})[0]["y0"].astype(np.float64).reshape(p.wanted.shape)
    numbers = np.isfinite(p.wanted)
    finite = {n: np.where(np.isfinite(a), a, 0).astype(a.dtype) for n, a in p.inputs.items()}
    with np.errstate(invalid="ignore"):
        off = np.abs(found - p.wanted) > bound(p.group, finite, p.depth)
    return bool((np.isfinite(found) != numbers).any() or off[numbers].any())


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_products_themselves_are_right(name: str) -> None:
    assert not is_wrong(PRODUCTS[name], PRODUCTS[name].func)


@pytest.mark.parametrize(("name", "func"), CASES)
def test_a_removed_barrier_wait_or_mask_is_found(name: str, func: Func) -> None:
    try:
        wrong = is_wrong(PRODUCTS[name], func)
    except SimulationError:
        return
    assert wrong, "the mutant computes the right result without an error"


def test_everything_has_mutants() -> None:
    names = [str(c.id).split()[2] for c in CASES]
    assert names.count("barrier") >= 3
    assert names.count("wait") >= 4
    assert names.count("commit") >= 2
    assert names.count("mask") >= 10
