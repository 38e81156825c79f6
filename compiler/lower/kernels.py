"""Kernels of a model: each distinct group is lowered and scheduled once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import InternalError
from ..graph.ir import Graph, Node, Value
from ..ops import OPS
from ..schedule.nest import simplify_func
from ..schedule.place import Packing
from ..schedule.recipes import fits_one_kernel, schedule
from ..target import Target
from ..tensor.compute import Compute, ComputeGroup
from ..tensor.ir import Buffer, Expr, Func, Load, Reduce, Var
from ..tensor.simplify import substitute
from ..tensor.text import text
from .inline import LoweredGroup, loads_of, lower_body, walk
from .merge import merge_axes
from .nests import free_symbols, to_func


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of the model, and how it came to be.

    Attributes:
        func: the scheduled function; its name is unique in the model.
        packings: operands to pack on constants before the first call.
        recipe: the recipe that shaped it.
        steps: the schedule as text.
        compute: the group it computes, as text.
    """

    func: Func
    packings: tuple[Packing, ...]
    recipe: str
    steps: str
    compute: str


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel call of a group: which of the group's buffers it takes, by name."""

    kernel: Kernel


@dataclass(frozen=True, slots=True)
class GroupCode:
    """The code of one fused node.

    Attributes:
        launches: kernels, in order.
        inputs, outputs: body values by the names of the buffers that hold them.
        scratch: buffers between the launches, by name.
    """

    launches: tuple[Launch, ...]
    inputs: tuple[tuple[str, Value], ...]
    outputs: tuple[tuple[str, Value], ...]
    scratch: tuple[Buffer, ...]


@dataclass
class KernelTable:
    """All kernels of a model; groups that are alike share theirs.

    Attributes:
        target: what the recipes schedule for.
        kernels: by name, in order of first use.
    """

    target: Target
    kernels: dict[str, Kernel] = field(default_factory=dict)
    _known: dict[
        tuple[ComputeGroup, frozenset[str]],
        tuple[tuple[Launch, ...], tuple[Buffer, ...]],
    ] = field(default_factory=dict)
    _plain: dict[tuple[object, ...], Kernel] = field(default_factory=dict)

    def code(self, body: Graph, constants: frozenset[Value]) -> GroupCode:
        """The launches that compute a fused body.

        Args:
            body: the body of the fused node.
            constants: its inputs whose data is known.
        """
        if len(body.nodes) == 1 and OPS[body.nodes[0].op].compute is None:
            return self._loops(body)
        lowered = lower_body("group", body)
        known = constants | set(body.constants)
        names = [(b.name, v) for b, v in zip(lowered.group.inputs, lowered.inputs, strict=True)]
        fixed = frozenset(n for n, v in names if v in known)
        launches, scratch = self._launches(lowered, fixed, _title(body))
        outputs = zip((b.name for b in lowered.group.outputs), lowered.outputs, strict=True)
        return GroupCode(launches, tuple(names), tuple(outputs), scratch)

    def _launches(
        self, lowered: LoweredGroup, fixed: frozenset[str], title: str
    ) -> tuple[tuple[Launch, ...], tuple[Buffer, ...]]:
        key = (lowered.group, fixed)
        if key not in self._known:
            group = merge_axes(lowered.group)
            if fits_one_kernel(to_func(group, fixed)):
                self._known[key] = ((Launch(self._kernel(group, fixed, title)),), ())
            else:
                pieces = fission(lowered.group)
                scratch = tuple(
                    b for p in pieces for b in p.outputs if b not in lowered.group.outputs
                )
                made = (Launch(self._kernel(merge_axes(p), fixed, title)) for p in pieces)
                self._known[key] = (tuple(made), scratch)
        return self._known[key]

    def _kernel(self, group: ComputeGroup, fixed: frozenset[str], title: str) -> Kernel:
        name = f"{title}_{len(self.kernels)}"
        done = schedule(
            to_func(ComputeGroup(name, group.inputs, group.outputs, group.stages), fixed),
            self.target,
        )
        kernel = Kernel(done.func, done.packings, done.recipe, done.steps, text(group))
        self.kernels[name] = kernel
        return kernel

    def _loops(self, body: Graph) -> GroupCode:
        """A node that is a loop nest by itself (scatter, top-k, cumulative)."""
        node = body.nodes[0]
        loops = OPS[node.op].loops
        if loops is None:
            raise InternalError(f"{node.op} has neither a compute nor loops", code="TW-E0901")
        values: dict[Value, str] = {}
        for v in (*body.inputs, *body.constants):
            values.setdefault(v, f"x{len(values)}")
        inputs = tuple(Buffer(values[v], v.dtype, v.shape) for v in node.inputs)
        outputs = tuple(Buffer(f"y{k}", v.dtype, v.shape) for k, v in enumerate(node.outputs))
        key = (node.op, inputs, outputs, _hashable(node))
        if key not in self._plain:
            block = loops(inputs, outputs, node.attrs)
            params: list[Buffer | Var] = [*dict.fromkeys(inputs), *outputs]
            name = f"{node.op}_{len(self.kernels)}"
            func = Func(name, (*params, *free_symbols(list(block), params)), block)
            func = simplify_func(func)
            self._plain[key] = Kernel(func, (), "loops", "", text(func))
            self.kernels[name] = self._plain[key]
        used = {v: n for v, n in values.items() if v in node.inputs}
        named = tuple((n, v) for v, n in used.items())
        results = tuple((f"y{k}", v) for k, v in enumerate(node.outputs))
        return GroupCode((Launch(self._plain[key]),), named, results, ())


def _hashable(node: Node) -> tuple[object, ...]:
    return tuple(sorted((k, repr(v)) for k, v in node.attrs.items()))


def _title(body: Graph) -> str:
    """A readable kernel name: the anchor and a few of the other operators."""
    ops = list(dict.fromkeys(n.op for n in body.nodes))
    anchors = [o for o in ops if OPS[o].kind in ("contraction", "window", "reduce")]
    names = list(dict.fromkeys([*anchors, *ops]))[:3]
    return "_".join(names)


def fission(group: ComputeGroup) -> list[ComputeGroup]:
    """Cuts a group into one group a reduction and one a map, joined by buffers in memory.

    For groups whose temporaries do not all belong to one row or tile.
    """
    stages: list[Compute] = []
    count = 0
    for s in group.stages:
        expr = s.expr
        while True:
            found = [r for r in walk(expr) if isinstance(r, Reduce)]
            inner = next(
                (r for r in found if not any(isinstance(x, Reduce) for x in walk(r.body))),
                None,
            )
            if inner is None or (inner is expr and s.output not in group.outputs):
                break
            if inner is expr:
                break
            used = {v for x in walk(inner) for v in ([x] if isinstance(x, Var) else [])}
            axes = tuple(a for a in s.axes if a.var in used)
            held = Buffer(f"s{count}", inner.dtype, tuple(a.extent for a in axes))
            count += 1
            stages.append(Compute(held, axes, inner))
            mapping: dict[Expr, Expr] = {inner: Load(held, (a.var for a in axes))}
            expr = substitute(expr, mapping)
        stages.append(Compute(s.output, s.axes, expr))
    pieces: list[ComputeGroup] = []
    for s in stages:
        sources = dict.fromkeys(x.buffer for x in loads_of(s.expr))
        pieces.append(ComputeGroup(group.name, tuple(sources), (s.output,), (s,)))
    return pieces


def parameters(kernel: Kernel, names: Mapping[str, object]) -> list[str]:
    """The names of a kernel's buffer parameters that are not among ``names`` (packed ones)."""
    return [p.name for p in kernel.func.params if isinstance(p, Buffer) and p.name not in names]
