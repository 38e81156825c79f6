"""Converters of ONNX's operators on shapes, and of those that only rearrange elements."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.graph.ir import Value
from tilewright.ops.op import dim_text
from tilewright.tensor.ir import Dim, as_expr, eq, maximum, minimum
from tilewright.tensor.simplify import dim, product, prove, same_dim

from .context import Context, Converter
from .node import NodeView


def shape(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The dims from ``start`` to ``end`` as an i64 tensor."""
    dims = node.input(0).shape
    start, end = node.int("start", 0), node.int("end", len(dims))
    return (ctx.dims_value(dims[slice(start, end)]),)


def size(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The number of elements as an i64 scalar."""
    return (ctx.dim_value(product(node.input(0).shape)),)


def identity(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The operand itself."""
    return (node.input(0),)


# ------------------------------------------------------------------ reshape and its kin


def reshape(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The elements under another shape: -1 is what is left, 0 (by default) the dim of the input."""
    x = node.input(0)
    wanted: tuple[Dim, ...]
    if ctx.opset < 5 and node.domain == "":
        wanted = node.ints("shape") or ()
    else:
        wanted = ctx.require_dims(node.input(1), "the shape")
    keep_zero = bool(node.int("allowzero", 0))
    dims: list[Dim] = []
    for i, d in enumerate(wanted):
        if same_dim(d, 0) and not keep_zero:
            if i >= len(x.shape):
                node.broken(f"dim {i} is 0, a copy, but the operand has rank {len(x.shape)}")
            d = x.shape[i]
        dims.append(d)
    free = [i for i, d in enumerate(dims) if same_dim(d, -1)]
    if len(free) > 1:
        node.broken(f"the shape has {len(free)} dims of -1; one at most can be derived")
    for i in free:
        dims[i] = _quotient(x.shape, dims[:i] + dims[i + 1 :])
    return (ctx.reshape(x, dims),)


def _quotient(above: Sequence[Dim], below: Sequence[Dim]) -> Dim:
    """The product of ``above`` over that of ``below``, rounded down; common dims cancel first."""
    rest, divisors = list(above), []
    for d in below:
        found = next((i for i, a in enumerate(rest) if same_dim(a, d) and d != 0), None)
        if found is None:
            divisors.append(d)
        else:
            del rest[found]
    divisor = product(divisors)
    if divisor == 0:
        return 0
    return dim(as_expr(product(rest)) // divisor)


def flatten(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """A matrix: the axes before ``axis`` are its rows, the others its columns."""
    x = node.input(0)
    rank = len(x.shape)
    axis = node.int("axis", 1)
    if not -rank <= axis <= rank:
        node.broken(f"axis {axis} is not within a tensor of rank {rank}")
    at = axis + rank if axis < 0 else axis
    return (ctx.reshape(x, (product(x.shape[:at]), product(x.shape[at:]))),)


def _axes(ctx: Context, node: NodeView) -> tuple[int, ...] | None:
    """Axes that are an attribute before opset 13 and an input since."""
    given = node.optional(1)
    if ctx.opset < 13 or given is None:
        return node.ints("axes")
    return ctx.require_ints(given, "the list of axes")


def squeeze(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Drops the named axes, which have extent 1; by default all of extent 1."""
    x, given = node.input(0), _axes(ctx, node)
    if given is None:
        for axis, d in enumerate(x.shape):
            if not isinstance(d, int) and prove(eq(d, 1)) is None:
                ctx.unsupported(
                    f"axes are not named, and axis {axis} has the dim {dim_text(d)}, which may be"
                    " 1 or not"
                )
        return (ctx.squeeze(x, [i for i, d in enumerate(x.shape) if same_dim(d, 1)]),)
    axes = ctx.axes(given, len(x.shape))
    for axis in axes:
        if not same_dim(x.shape[axis], 1):
            reason = f"axis {axis} has the dim {dim_text(x.shape[axis])}, not 1"
            if isinstance(x.shape[axis], int):
                node.broken(reason)
            ctx.unsupported(reason)
    return (ctx.squeeze(x, axes),)


def unsqueeze(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Inserts axes of extent 1, counted in the result."""
    x, given = node.input(0), _axes(ctx, node)
    if given is None:
        node.broken("its axes are not given")
    return (ctx.unsqueeze(x, ctx.axes(given, len(x.shape) + len(given))),)


def transpose(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Axes in the order of ``perm``; by default reversed."""
    x = node.input(0)
    perm = node.ints("perm")
    rank = len(x.shape)
    order = tuple(reversed(range(rank))) if perm is None else tuple(ctx.axis(p, rank) for p in perm)
    if sorted(order) != list(range(rank)):
        node.broken(f"perm {list(order)} is no permutation of the {rank} axes")
    return (ctx.transpose(x, order),)


# ------------------------------------------------------------------ repetition


def expand(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Broadcasts the operand and a shape against each other."""
    x = node.input(0)
    wanted = ctx.require_dims(node.input(1), "the shape")
    rank = max(len(wanted), len(x.shape))
    have = (1,) * (rank - len(x.shape)) + x.shape
    want = (1,) * (rank - len(wanted)) + wanted
    dims = [_expanded(ctx, node, a, b) for a, b in zip(have, want, strict=True)]
    return (ctx.broadcast_to(x, dims),)


def _expanded(ctx: Context, node: NodeView, have: Dim, want: Dim) -> Dim:
    if same_dim(have, want) or same_dim(want, 1):
        return have
    if same_dim(have, 1):
        return want
    if isinstance(have, int) and not isinstance(want, int):
        return have  # the only other value that `want` may have here is 1
    reason = f"the dim {dim_text(have)} does not broadcast to {dim_text(want)}"
    if isinstance(have, int):
        node.broken(reason)
    ctx.need_equal(have, want)
    ctx.unsupported(f"{reason} for all values of its symbols")


def tile(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Repeats the whole operand along each axis."""
    x = node.input(0)
    rank = len(x.shape)
    if ctx.opset < 6:
        count = ctx.require_dim(node.input(1), "the number of tiles")
        axis = ctx.require_int(node.input(2), "the axis")
        repeats = tuple(count if i == ctx.axis(axis, rank) else 1 for i in range(rank))
    else:
        repeats = ctx.require_dims(node.input(1), "the number of repeats")
    if len(repeats) != rank:
        node.broken(f"{len(repeats)} repeats are given for a tensor of rank {rank}")
    apart: list[Dim] = []
    spread: list[Dim] = []
    for d, r in zip(x.shape, repeats, strict=True):
        if same_dim(r, 1):
            apart.append(d)
            spread.append(d)
        elif same_dim(d, 1):
            apart.append(1)
            spread.append(r)
        else:
            apart += [1, d]
            spread += [r, d]
    wide = ctx.broadcast_to(ctx.reshape(x, apart), spread)
    dims = [dim(as_expr(d) * r) for d, r in zip(x.shape, repeats, strict=True)]
    return (ctx.reshape(wide, dims),)


# ------------------------------------------------------------------ blocks and windows


def _blocks(node: NodeView) -> tuple[Value, tuple[Dim, Dim, Dim, Dim], int]:
    x, block = node.input(0), node.int("blocksize")
    if len(x.shape) != 4 or block < 1:
        node.broken(f"it takes [N, C, H, W] and a positive block, not rank {len(x.shape)}, {block}")
    n, c, h, w = x.shape
    return x, (n, c, h, w), block


def space_to_depth(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Moves blocks of [b, b] pixels into channels."""
    x, (n, c, h, w), b = _blocks(node)
    high, wide = dim(as_expr(h) // b), dim(as_expr(w) // b)
    parts = ctx.reshape(x, (n, c, high, b, wide, b))
    match node.string("mode", "DCR"):
        case "DCR":
            order = (0, 3, 5, 1, 2, 4)
        case "CRD":
            order = (0, 1, 3, 5, 2, 4)
        case other:
            node.broken(f"mode is {other!r}, not DCR or CRD")
    return (ctx.reshape(ctx.transpose(parts, order), (n, dim(as_expr(c) * b * b), high, wide)),)


def depth_to_space(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Moves groups of b * b channels into blocks of [b, b] pixels."""
    x, (n, c, h, w), b = _blocks(node)
    depth = dim(as_expr(c) // (b * b))
    match node.string("mode", "DCR"):
        case "DCR":
            parts = ctx.reshape(x, (n, b, b, depth, h, w))
            order = (0, 3, 4, 1, 5, 2)
        case "CRD":
            parts = ctx.reshape(x, (n, depth, b, b, h, w))
            order = (0, 1, 4, 2, 5, 3)
        case other:
            node.broken(f"mode is {other!r}, not DCR or CRD")
    dims = (n, depth, dim(as_expr(h) * b), dim(as_expr(w) * b))
    return (ctx.reshape(ctx.transpose(parts, order), dims),)


def center_crop_pad(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Crops or pads with zeros to a shape, keeping the centre."""
    x = node.input(0)
    rank = len(x.shape)
    wanted = ctx.require_dims(node.input(1), "the shape")
    given = node.ints("axes")
    axes = [ctx.axis(a, rank) for a in (range(rank) if given is None else given)]
    if len(axes) != len(wanted) or len(set(axes)) != len(axes):
        node.broken(f"{len(wanted)} dims are given for the axes {axes}")
    target = dict(zip(axes, wanted, strict=True))
    zero = as_expr(0)
    starts: list[Dim] = [0] * rank
    sizes, lo, hi = list(x.shape), list(starts), list(starts)
    for axis, want in target.items():
        have = as_expr(x.shape[axis])
        starts[axis] = dim(maximum(have - want, zero) // 2)
        sizes[axis] = dim(minimum(have, as_expr(want)))
        total = maximum(want - have, zero)
        lo[axis] = dim(total // 2)
        hi[axis] = dim(total - total // 2)
    window = ctx.slice(x, starts, sizes)
    return (ctx.pad(window, lo, hi, 0),)


CONVERTERS: dict[str, Converter] = {
    "CenterCropPad": center_crop_pad,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Flatten": flatten,
    "Identity": identity,
    "Reshape": reshape,
    "Shape": shape,
    "Size": size,
    "SpaceToDepth": space_to_depth,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
