"""Products of matrices and tensors: all are one contraction by labels."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim
from tilewright.tensor.simplify import product, same_dim

from .reductions import axes_of, axis_of, reduced, result
from .shapes import promote, reshaped, transposed
from .trace import Handler, Trace
from .tracer import Tracer, call_function, operand, tracer

Labels = Sequence[Any]


def contract(
    trace: Trace, who: str, a: Value, la: Labels, b: Value, lb: Labels, out: Labels
) -> Value:
    """Multiplies two values whose axes have labels and sums over the labels that are not in out.

    Labels are distinct within one value; an axis of size 1 broadcasts.
    """
    boolean = a.dtype is dt.bool_
    if boolean:
        a, b = trace.cast(a, dt.i32), trace.cast(b, dt.i32)
    a, la = _summed(trace, a, la, {*lb, *out})
    b, lb = _summed(trace, b, lb, {*la, *out})
    a, b = _matched(trace, who, a, la, b, lb)
    both = [i for i in la if i in lb]
    batch = [i for i in both if i in out]
    inner = [i for i in both if i not in out]
    rows, columns = [i for i in la if i not in lb], [i for i in lb if i not in la]
    sizes: dict[Any, Dim] = dict(zip((*la, *lb), (*a.shape, *b.shape), strict=True))
    a = transposed(trace, a, [la.index(i) for i in (*batch, *rows, *inner)])
    b = transposed(trace, b, [lb.index(i) for i in (*batch, *inner, *columns)])

    def shape(*groups: Sequence[Any]) -> tuple[Dim, ...]:
        return (*(sizes[i] for i in batch), *(product([sizes[i] for i in g]) for g in groups))

    left = reshaped(trace, a, shape(rows, inner))
    right = reshaped(trace, b, shape(inner, columns))
    found = trace.add("matmul" if inner else "mul", left, right)
    order = (*batch, *rows, *columns)
    found = reshaped(trace, found, [sizes[i] for i in order])
    found = transposed(trace, found, [order.index(i) for i in out])
    return trace.cast(found, dt.bool_) if boolean else found


def _summed(trace: Trace, x: Value, labels: Labels, used: set[Any]) -> tuple[Value, list[Any]]:
    """Sums over the axes whose labels nothing else uses."""
    alone = [d for d, i in enumerate(labels) if i not in used]
    if alone:
        x = reduced(trace, "sum", x, alone, False)
    return x, [i for i in labels if i in used]


def _matched(
    trace: Trace, who: str, a: Value, la: Labels, b: Value, lb: Labels
) -> tuple[Value, Value]:
    """Makes axes of one label equal; an axis of size 1 is repeated."""
    wide_a, wide_b = list(a.shape), list(b.shape)
    for label in la:
        if label not in lb:
            continue
        i, j = la.index(label), lb.index(label)
        one, other = a.shape[i], b.shape[j]
        if same_dim(one, other):
            continue
        if trace.hint(one) != trace.hint(other) and not (same_dim(one, 1) or same_dim(other, 1)):
            trace.refuse(
                f"{who}: shapes {trace.hints(a.shape)} and {trace.hints(b.shape)} do not match:"
                f" {trace.hint(one)} against {trace.hint(other)}"
            )
        if trace.hint(one) == trace.hint(other):
            trace.require_equal(one, other)
        wide_a[i] = wide_b[j] = other if same_dim(one, 1) else one
    if tuple(wide_a) != a.shape:
        a = trace.add("broadcast_to", a, shape=tuple(wide_a))
    if tuple(wide_b) != b.shape:
        b = trace.add("broadcast_to", b, shape=tuple(wide_b))
    return a, b


def _pair(trace: Trace, who: str, a: Any, b: Any) -> tuple[Value, Value]:
    kind = promote(a, b)
    return operand(trace, who, a, kind), operand(trace, who, b, kind)


def _equal(trace: Trace, who: str, a: Value, i: int, b: Value, j: int) -> None:
    """Refuses contracted axes of different sizes, 1 among them."""
    if trace.hint(a.shape[i]) != trace.hint(b.shape[j]):
        trace.refuse(
            f"{who}: shapes {trace.hints(a.shape)} and {trace.hints(b.shape)} do not match:"
            f" {trace.hint(a.shape[i])} against {trace.hint(b.shape[j])}"
        )
    trace.require_equal(a.shape[i], b.shape[j])


def _matmul(trace: Trace, a: Any, b: Any) -> Any:
    who = "numpy.matmul"
    x, y = _pair(trace, who, a, b)
    if not x.shape or not y.shape:
        trace.refuse(f"{who}: a scalar is no matrix; use *")
    left, right = x, y
    if len(x.shape) == 1:
        left = reshaped(trace, x, (1, *x.shape))
    if len(y.shape) == 1:
        right = reshaped(trace, y, (*y.shape, 1))
    _equal(trace, who, left, len(left.shape) - 1, right, len(right.shape) - 2)
    trace.broadcast(who, [left.shape[:-2], right.shape[:-2]])
    boolean = left.dtype is dt.bool_
    if boolean:
        left, right = trace.cast(left, dt.i32), trace.cast(right, dt.i32)
    found = trace.add("matmul", left, right)
    if boolean:
        found = trace.cast(found, dt.bool_)
    shape = list(found.shape)
    if len(y.shape) == 1:
        shape.pop()
    if len(x.shape) == 1:
        shape.pop(-1 if len(y.shape) == 1 else -2)
    if len(shape) < len(found.shape):
        found = reshaped(trace, found, shape)
    return result(trace, found)


def _dot(trace: Trace, a: Any, b: Any, out: Any = None) -> Any:
    who = "numpy.dot"
    if out is not None:
        trace.unsupported(f"{who} with the argument out", "TW-E0245")
    x, y = _pair(trace, who, a, b)
    if not x.shape or not y.shape:
        return tracer(trace, who, a) * b if isinstance(a, Tracer) else tracer(trace, who, b) * a
    if len(x.shape) <= 2 and len(y.shape) <= 2:
        return _matmul(trace, a, b)
    return _tensordot(trace, a, b, ([len(x.shape) - 1], [max(0, len(y.shape) - 2)]))


def _tensordot(trace: Trace, a: Any, b: Any, axes: Any = 2) -> Any:
    who = "numpy.tensordot"
    x, y = _pair(trace, who, a, b)
    ranks = len(x.shape), len(y.shape)
    first: Sequence[int]
    second: Sequence[int]
    if isinstance(axes, int):
        first, second = range(ranks[0] - axes, ranks[0]), range(axes)
    else:
        first, second = (a if isinstance(a, list | tuple) else [a] for a in axes)
    pairs = [
        (axis_of(trace, who, i, ranks[0]), axis_of(trace, who, j, ranks[1]))
        for i, j in zip(first, second, strict=True)
    ]
    for i, j in pairs:
        _equal(trace, who, x, i, y, j)
    la = [("a", d) for d in range(ranks[0])]
    lb = [("b", d) for d in range(ranks[1])]
    for i, j in pairs:
        lb[j] = la[i]
    inner = {la[i] for i, _ in pairs}
    out = [i for i in (*la, *lb) if i not in inner]
    return Tracer(trace, contract(trace, who, x, la, y, lb, out))


def _inner(trace: Trace, a: Any, b: Any) -> Any:
    ranks = tracer(trace, "numpy.inner", a).ndim, tracer(trace, "numpy.inner", b).ndim
    if 0 in ranks or ranks == (1, 1):
        return _dot(trace, a, b)
    return _tensordot(trace, a, b, ([ranks[0] - 1], [ranks[1] - 1]))


def _flat(trace: Trace, who: str, x: Any) -> Tracer:
    flat = tracer(trace, who, x)
    return Tracer(trace, reshaped(trace, flat.value, (product(flat.dims),)))


def _outer(trace: Trace, a: Any, b: Any, out: Any = None) -> Any:
    if out is not None:
        trace.unsupported("numpy.outer with the argument out", "TW-E0245")
    rows = _flat(trace, "numpy.outer", a)[:, None]
    return rows * _flat(trace, "numpy.outer", b)[None, :]


def _vdot(trace: Trace, a: Any, b: Any) -> Any:
    return _matmul(trace, _flat(trace, "numpy.vdot", a), _flat(trace, "numpy.vdot", b))


def _kron(trace: Trace, a: Any, b: Any) -> Any:
    x: Any = tracer(trace, "numpy.kron", a)
    y: Any = tracer(trace, "numpy.kron", b)
    rank = max(x.ndim, y.ndim)
    one = [1] * (rank - x.ndim) + list(x.dims)
    other = [1] * (rank - y.ndim) + list(y.dims)
    left: Any = Tracer(trace, reshaped(trace, x.value, [d for size in one for d in (size, 1)]))
    right = Tracer(trace, reshaped(trace, y.value, [d for size in other for d in (1, size)]))
    found = left * right
    final = [product(pair) for pair in zip(one, other, strict=True)]
    return Tracer(trace, reshaped(trace, found.value, final))


# ------------------------------------------------------------------ einsum


def _einsum(
    trace: Trace, subscripts: Any, *operands: Any, out: Any = None, optimize: Any = False,
    dtype: Any = None, casting: Any = None, order: Any = None,
) -> Any:  # fmt: skip
    who = "numpy.einsum"
    if out is not None:
        trace.unsupported(f"{who} with out", "TW-E0245")
    if not isinstance(subscripts, str):
        subscripts, operands = _written(trace, who, (subscripts, *operands))
    kind = promote(*operands) if dtype is None else np.dtype(dtype)
    values = [operand(trace, who, x, kind) for x in operands]
    inputs, output = _labels(trace, who, subscripts, values)
    terms: list[tuple[Value, list[Any]]] = [
        _diagonal(trace, who, x, labels) for x, labels in zip(values, inputs, strict=True)
    ]
    x, labels = terms[0]
    for i, (y, others) in enumerate(terms[1:], 1):
        later = {*output, *(label for _, ls in terms[i + 1 :] for label in ls)}
        wanted = list(dict.fromkeys(j for j in (*labels, *others) if j in later))
        x = contract(trace, who, x, labels, y, others, wanted)
        labels = wanted
    x, labels = _summed(trace, x, labels, set(output))
    return result(trace, transposed(trace, x, [labels.index(i) for i in output]))


def _written(trace: Trace, who: str, given: Sequence[Any]) -> tuple[str, tuple[Any, ...]]:
    """The string of subscripts of the form ``einsum(a, [0, 1], b, [1, 2], [0, 2])``."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

    def term(labels: Any) -> str:
        try:
            return "".join("..." if i is ... else letters[operator.index(i)] for i in labels)
        except (TypeError, IndexError):
            trace.refuse(f"{who}: {labels!r} is no list of labels below {len(letters)}")

    operands = tuple(given[: len(given) // 2 * 2 : 2])
    terms = ",".join(term(labels) for labels in given[1::2])
    return f"{terms}->{term(given[-1])}" if len(given) % 2 else terms, operands


def _labels(
    trace: Trace, who: str, subscripts: str, values: Sequence[Value]
) -> tuple[list[list[Any]], list[Any]]:
    """The labels of each operand's axes and of the output's; those of an ellipsis are negative."""
    text = subscripts.replace(" ", "")
    left, arrow, right = text.partition("->")
    parts = left.split(",")
    if len(parts) != len(values):
        trace.refuse(f"{who}: {len(parts)} subscripts for {len(values)} operands")
    inputs: list[list[Any]] = []
    for part, value in zip(parts, values, strict=True):
        named = part.replace("...", "")
        hidden = len(value.shape) - len(named)
        if hidden < 0 or (hidden and "..." not in part) or not (named.isalpha() or not named):
            trace.refuse(f"{who}: {part!r} does not fit {len(value.shape)} dimensions")
        before, _, after = part.partition("...") if "..." in part else (part, "", "")
        inputs.append([*before, *range(-hidden, 0), *after])
    every = [i for labels in inputs for i in labels]
    broadcast = sorted({i for i in every if isinstance(i, int)})
    if arrow:
        before, dots, after = right.partition("...")
        if broadcast and not dots:
            trace.refuse(f"{who}: the output {right!r} leaves out the dimensions of the ellipsis")
        output: list[Any] = [*before, *(broadcast if dots else []), *after]
    else:
        output = [*broadcast, *sorted({i for i in every if every.count(i) == 1} - set(broadcast))]
    if len(set(output)) != len(output) or not set(output) <= set(every):
        trace.refuse(f"{who}: the output {right!r} repeats or invents a label")
    return inputs, output


def _diagonal(trace: Trace, who: str, x: Value, labels: list[Any]) -> tuple[Value, list[Any]]:
    """Takes the diagonal of axes with one label."""
    labels = list(labels)
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            i = labels.index(label)
            j = labels.index(label, i + 1)
            _equal(trace, who, x, i, x, j)
            found = call_function(trace, np.diagonal, (Tracer(trace, x), 0, i, j), {})
            x = found.value
            del labels[j], labels[i]
            labels.append(label)
    return x, labels


# ------------------------------------------------------------------ norms


def _norm(trace: Trace, x: Any, ord: Any = None, axis: Any = None, keepdims: Any = False) -> Any:  # noqa: A002
    who = "numpy.linalg.norm"
    a: Any = tracer(trace, who, x)
    if not a.value.dtype.is_float:
        a = Tracer(trace, trace.cast(a.value, dt.f64))
    keep = {"keepdims": bool(keepdims)}
    axes = axes_of(trace, who, axis, a.ndim)

    def call(function: object, value: Any, over: Any = axes) -> Any:
        return call_function(trace, function, (value, over), keep)

    if ord is None or (len(axes) == 2 and ord == "fro") or (len(axes) == 1 and ord == 2):
        return np.sqrt(call(np.sum, a * a))
    if len(axes) == 1:
        if isinstance(ord, str):
            trace.refuse(f"{who}: {ord!r} is no order of vectors")
        size = np.absolute(a)
        if ord in (np.inf, -np.inf):
            return call(np.max if ord > 0 else np.min, size)
        if ord == 0:
            return call(np.sum, call_function(trace, np.astype, (a != 0, a.dtype), {}))
        if ord == 1:
            return call(np.sum, size)
        return call(np.sum, size**ord) ** (1 / ord)
    if len(axes) == 2 and ord in (1, -1, np.inf, -np.inf):
        rows, columns = axes if axis is None else [axis_of(trace, who, i, a.ndim) for i in axis]
        over = rows if abs(ord) == 1 else columns
        total = call_function(trace, np.sum, (np.absolute(a), over), {"keepdims": True})
        return call_function(
            trace, np.max if ord > 0 else np.min, (total, axes), {"keepdims": bool(keepdims)}
        )
    return trace.unsupported(f"{who} with ord={ord!r} over {len(axes)} axes", "TW-E0245")


def _matrix_power(trace: Trace, a: Any, n: Any) -> Any:
    count = operator.index(n)
    if count < 1:
        trace.unsupported(f"numpy.linalg.matrix_power with n={count}", "TW-E0245")
    found = a
    for _ in range(count - 1):
        found = _matmul(trace, found, a)
    return found


def _each_pair(trace: Trace, ufunc: np.ufunc, a: Any, b: Any) -> Any:
    x, y = tracer(trace, ufunc.__name__, a), tracer(trace, ufunc.__name__, b)
    value = reshaped(trace, x.value, (*x.dims, *[1] * y.ndim))
    return ufunc(Tracer(trace, value), y)


LINEAR: Mapping[object, Handler] = {
    "matmul": _matmul,
    np.dot: _dot,
    np.inner: _inner,
    np.outer: _outer,
    np.vdot: _vdot,
    np.tensordot: _tensordot,
    np.kron: _kron,
    np.einsum: _einsum,
    np.linalg.norm: _norm,
    np.linalg.matrix_power: _matrix_power,
    np.linalg.matmul: _matmul,
    np.linalg.outer: _outer,
    np.linalg.tensordot: lambda trace, x1, x2, /, *, axes=2: _tensordot(trace, x1, x2, axes),
    "outer": _each_pair,
}
"""What products become."""
