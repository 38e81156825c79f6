"""Walks: every node once, operands first, at any depth."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright import dtype as dt
from tilewright.tensor.ir import (
    Alloc,
    Axis,
    Block,
    Buffer,
    Const,
    Expr,
    For,
    Let,
    Load,
    Reduce,
    Stmt,
    Store,
    Var,
)
from tilewright.tensor.parse import parse_func
from tilewright.tensor.text import text
from tilewright.tensor.walk import (
    allocations,
    children,
    free_vars,
    loads,
    loops,
    map_block,
    rebuild,
    rename_vars,
    replace_buffers,
    rewrite,
    rewrite_block,
    statements,
    stores,
    substitute,
    substitute_block,
    visit,
)

from .strategies import M, N, expressions

X, Y = Var("x"), Var("y")
SOURCE = """\
def f(A: f32[N], B: f32[N], N: symbol(1)):
    for i in serial(N):
        t: local[f32, N]
        for j in serial(i, start=1):
            t[j] = A[j] * 2.0
        if i < 3:
            s: f32 = t[i]
            B[i] = s"""


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_rebuild_from_own_children_is_the_same_node(data: st.DataObject) -> None:
    e = data.draw(expressions(dt.f32, [N, Var("f", dt.f32)], [Buffer("A", dt.f32, (4,))], 4))
    for node in visit(e):
        assert rebuild(node, children(node)) is node
    assert rewrite(e, lambda node: node) is e


def test_walks_do_not_depend_on_pythons_recursion_limit() -> None:
    e: Expr = X
    for i in range(10_000):
        e = e + i
    assert free_vars(e) == {X}
    assert free_vars(rewrite(e, lambda n: Y if n is X else n)) == {Y}
    assert free_vars(substitute(e, {X: Y})) == {Y}


def test_visit_yields_each_shared_node_once_and_operands_first() -> None:
    e: Expr = X
    for _ in range(100):
        e = e * e
    nodes = list(visit(e))
    assert len(nodes) == 101
    assert nodes[0] is X
    assert nodes[-1] is e


def test_substitute_swaps() -> None:
    assert substitute(X - Y, {X: Y, Y: X}) is Y - X


def test_free_vars_leave_out_the_axes_of_a_reduction() -> None:
    k = Var("k")
    e = Reduce("sum", [Axis(k, N)], k * X)
    assert free_vars(e) == {X, N}


def test_loads_finds_loads_inside_indices() -> None:
    a = Buffer("A", dt.i64, (4,))
    inner = Load(a, [X])
    assert list(loads(Load(a, [inner]) + 1)) == [inner, Load(a, [inner])]


def test_statements_come_before_those_inside_them() -> None:
    func = parse_func(SOURCE)
    kinds = [type(s).__name__ for s in statements(func.body)]
    assert kinds == ["For", "Alloc", "For", "Store", "If", "Let", "Store"]
    assert [loop.var.name for loop in loops(func)] == ["i", "j"]
    assert [s.buffer.name for s in stores(func.body)] == ["t", "B"]
    assert [b.name for b in allocations(func.body)] == ["t"]


def test_rewrite_block_reaches_every_expression() -> None:
    func = parse_func(SOURCE)
    i = Var("i")
    body = rewrite_block(func.body, lambda e: substitute(e, {i: i + 1}))
    shown = text(body)
    assert "serial(i + 1, start=1)" in shown
    assert "if i + 1 < 3" in shown
    assert "s: f32 = t[i + 1]" in shown
    assert "B[i + 1] = s" in shown


def test_map_block_can_drop_and_repeat_statements() -> None:
    func = parse_func(SOURCE)

    def twice(stmt: Stmt) -> Block:
        match stmt:
            case Store():
                return (stmt, stmt)
            case Let() | Alloc():
                return ()
        return (stmt,)

    kinds = [type(s).__name__ for s in statements(map_block(func.body, twice))]
    assert kinds == ["For", "For", "Store", "Store", "If", "Store", "Store"]


def test_replace_buffers_changes_parameters_stores_and_loads() -> None:
    func = parse_func(SOURCE)
    old = func.params[0]
    assert isinstance(old, Buffer)
    new = replace_buffers(func, {old: Buffer("Z", dt.f32, old.shape)})
    assert text(new) == SOURCE.replace("A", "Z")


def test_rename_vars_renames_symbols_in_shapes_and_loops_where_bound() -> None:
    func = parse_func(SOURCE)
    renamed = rename_vars(func, {N: M, Var("i"): Var("row")})
    assert renamed.params[-1] is M
    expected = SOURCE.replace("N: symbol(1)", "N: symbol(2, 64)").replace("N", "M")
    expected = expected.replace("i in", "row in").replace("serial(i,", "serial(row,")
    expected = expected.replace("if i <", "if row <").replace("[i]", "[row]")
    assert text(renamed) == expected


def test_substitute_block_changes_the_shapes_of_declared_buffers() -> None:
    t = Buffer("t", dt.f32, (X,), "local")
    block: Block = (Alloc(t), For(Var("i"), X, (Store(t, (Var("i"),), Const(0.0, dt.f32)),)))
    small = Buffer("t", dt.f32, (4,), "local")
    assert substitute_block(block, {X: Const(4)}) == (
        Alloc(small),
        For(Var("i"), 4, (Store(small, (Var("i"),), Const(0.0, dt.f32)),)),
    )
