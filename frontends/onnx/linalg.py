"""Converters of ONNX's matrix products: MatMul, Gemm and Einsum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim
from tilewright.tensor.simplify import product, same_dim

from .context import Context, Converter
from .node import NodeView


def matmul(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The matrix product by NumPy's rule: vectors are rows on the left and columns on the right."""
    return (matrix_product(ctx, node, node.input(0), node.input(1)),)


def matrix_product(ctx: Context, node: NodeView, a: Value, b: Value) -> Value:
    """``a @ b`` by NumPy's rule."""
    if not a.shape or not b.shape:
        node.broken("the matrix product of a scalar is not defined")
    row, column = len(a.shape) == 1, len(b.shape) == 1
    left = ctx.unsqueeze(a, (0,)) if row else a
    right = ctx.unsqueeze(b, (1,)) if column else b
    result = ctx.op("matmul", left, right)
    rank = len(result.shape)
    dropped = ([rank - 2] if row else []) + ([rank - 1] if column else [])
    return ctx.squeeze(result, dropped) if dropped else result


def gemm(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``alpha * A' @ B' + beta * C`` with either matrix transposed on request.

    One operator rounds once: 16-bit products stay in f32 up to the end.
    """
    a, b, c = node.input(0), node.input(1), node.optional(2)
    if len(a.shape) != 2 or len(b.shape) != 2:
        node.broken(f"needs two matrices, got ranks {len(a.shape)} and {len(b.shape)}")
    a = ctx.transpose(a, (1, 0)) if node.int("transA", 0) else a
    b = ctx.transpose(b, (1, 0)) if node.int("transB", 0) else b
    alpha, beta = node.float("alpha", 1.0), node.float("beta", 1.0)
    if not a.dtype.is_float and not (alpha.is_integer() and beta.is_integer()):
        ctx.unsupported(f"alpha {alpha} and beta {beta} of integer matrices")
    result = ctx.op("matmul", a, b, wide=True)
    if alpha != 1:
        result = ctx.op("mul", result, alpha)
    if c is None or beta == 0:
        return (ctx.cast(result, a.dtype),)
    if len(c.shape) > 2:
        node.broken(f"C has rank {len(c.shape)}, more than the 2 of the product")
    if c.dtype is not a.dtype:
        node.broken(f"C is {c.dtype.name}, and the matrices are {a.dtype.name}")
    c = ctx.cast(c, result.dtype)
    if beta != 1:
        c = ctx.op("mul", c, beta)
    return (ctx.cast(ctx.op("add", result, c), a.dtype),)


# ------------------------------------------------------------------ einsum


@dataclass(frozen=True, slots=True)
class _Term:
    """An operand and the label of each of its axes.

    Labels are letters of the equation; the axes that an ellipsis covers are called by their
    distance from its end ("...0" is the last), so that they align as broadcasting does.
    """

    value: Value
    labels: tuple[str, ...]


def einsum(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Sums of products over the labels that the result does not have."""
    equation = node.string("equation").replace(" ", "")
    operands = node.variadic()
    left, arrow, right = equation.partition("->")
    specs = left.split(",")
    if len(specs) != len(operands):
        node.broken(f"{equation!r} names {len(specs)} operands, but there are {len(operands)}")
    terms = [
        _Term(v, _labels(node, spec, len(v.shape))) for spec, v in zip(specs, operands, strict=True)
    ]
    ellipsis = max((_ellipsis(t.labels) for t in terms), key=len, default=())
    if arrow:
        wanted = _labels(node, right, len(right.replace("...", "")) + len(ellipsis))
    else:
        every = [label for t in terms for label in t.labels if not label.startswith(".")]
        wanted = (*ellipsis, *sorted(label for label in set(every) if every.count(label) == 1))
    if len(set(wanted)) != len(wanted):
        node.broken(f"{equation!r}: the result has a label twice")
    known = {label for t in terms for label in t.labels}
    if not known >= set(wanted):
        node.broken(f"{equation!r}: the result has a label that no operand has")
    terms = [_without_repeats(ctx, t) for t in terms]
    result = terms[0]
    for i, term in enumerate(terms[1:], 2):
        kept = set(wanted).union(*(t.labels for t in terms[i:]))
        result = _contract(ctx, node, result, term, kept)
    result = _summed(ctx, result, set(wanted))
    return (ctx.transpose(result.value, (result.labels.index(label) for label in wanted)),)


def _labels(node: NodeView, spec: str, rank: int) -> tuple[str, ...]:
    """The labels of ``rank`` axes."""
    before, dots, after = spec.partition("...")
    letters = before + after
    if not all(c.isascii() and c.isalpha() for c in letters):
        node.broken(f"labels must be letters, got {spec!r}")
    covered = rank - len(letters)
    if covered < 0 or (covered and not dots):
        node.broken(f"{spec!r} does not fit a tensor of rank {rank}")
    return (*before, *(f"...{i}" for i in reversed(range(covered))), *after)


def _ellipsis(labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(label for label in labels if label.startswith("."))


def _without_repeats(ctx: Context, term: _Term) -> _Term:
    """Takes the diagonal where one operand has a label twice."""
    value, labels = term.value, list(term.labels)
    while len(set(labels)) != len(labels):
        label = next(x for x in labels if labels.count(x) > 1)
        first = labels.index(label)
        second = labels.index(label, first + 1)
        rank = len(labels)
        rows, columns = (
            ctx.reshape(
                ctx.op("iota", shape=(value.shape[axis],), axis=0, dtype=dt.i64),
                (value.shape[axis] if i == axis else 1 for i in range(rank)),
            )
            for axis in (first, second)
        )
        zero = ctx.literal(0, value.dtype)
        masked = ctx.op("where", ctx.op("eq", rows, columns), value, zero)
        value = ctx.reduce(masked, "sum", (second,))
        del labels[second]
    return _Term(value, tuple(labels))


def _summed(ctx: Context, term: _Term, kept: set[str]) -> _Term:
    """Sums over the labels that nothing needs any more."""
    axes = [i for i, label in enumerate(term.labels) if label not in kept]
    left = tuple(label for label in term.labels if label in kept)
    return _Term(ctx.reduce(term.value, "sum", axes), left)


def _contract(ctx: Context, node: NodeView, a: _Term, b: _Term, kept: set[str]) -> _Term:
    """The product of two operands, summed over their labels that are not kept."""
    a = _summed(ctx, a, kept | set(b.labels))
    b = _summed(ctx, b, kept | set(a.labels))
    a, b = _spread(ctx, node, a, b)
    shared = [label for label in a.labels if label in b.labels]
    batch = [label for label in shared if label in kept]
    inner = [label for label in shared if label not in kept]
    rows = [label for label in a.labels if label not in shared]
    columns = [label for label in b.labels if label not in shared]
    labels = (*batch, *rows, *columns)
    if not inner:
        # No sum: the product of every pair, by broadcasting.
        left = _arranged(ctx, a, [*batch, *rows], len(columns))
        right = ctx.transpose(b.value, [b.labels.index(x) for x in (*batch, *columns)])
        at = range(len(batch), len(batch) + len(rows))
        return _Term(ctx.op("mul", left, ctx.unsqueeze(right, at)), labels)
    left = _arranged(ctx, a, [*batch, *rows, *inner])
    right = _arranged(ctx, b, [*batch, *inner, *columns])
    sizes = dict(zip(b.labels, b.value.shape, strict=True)) | dict(
        zip(a.labels, a.value.shape, strict=True)
    )

    def extent(group: Sequence[str]) -> Dim:
        return product(sizes[label] for label in group)

    outer = tuple(sizes[label] for label in batch)
    left = ctx.reshape(left, (*outer, extent(rows), extent(inner)))
    right = ctx.reshape(right, (*outer, extent(inner), extent(columns)))
    result = ctx.op("matmul", left, right)
    return _Term(ctx.reshape(result, (sizes[label] for label in labels)), labels)


def _arranged(ctx: Context, term: _Term, order: Sequence[str], trailing: int = 0) -> Value:
    """The operand with its axes in order and some axes of extent 1 behind them."""
    value = ctx.transpose(term.value, [term.labels.index(label) for label in order])
    rank = len(order)
    return ctx.unsqueeze(value, range(rank, rank + trailing)) if trailing else value


def _spread(ctx: Context, node: NodeView, a: _Term, b: _Term) -> tuple[_Term, _Term]:
    """Repeats axes of extent 1 where the other operand has more under the same label."""
    sizes: dict[str, Dim] = {}
    for term in (a, b):
        for label, extent in zip(term.labels, term.value.shape, strict=True):
            known = sizes.get(label, 1)
            if known != 1 and extent != 1 and not same_dim(known, extent):
                node.broken(f"label {label!r} has extents {known} and {extent}")
            sizes[label] = extent if known == 1 else known
    return tuple(
        _Term(ctx.broadcast_to(t.value, (sizes[label] for label in t.labels)), t.labels)
        for t in (a, b)
    )  # type: ignore[return-value]


CONVERTERS: dict[str, Converter] = {
    "Einsum": einsum,
    "Gemm": gemm,
    "MatMul": matmul,
}
