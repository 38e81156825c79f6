"""From a fused graph to a Program: where every tensor lives and in which order kernels run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from mmap import mmap

import numpy as np

from ..dtype import i64
from ..errors import InternalError
from ..graph.constants import copy_view, forget_files, forget_pages, mapped_files
from ..graph.ir import Graph, Node, Value
from ..runtime.program import (
    ALIGNMENT,
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
    Storage,
    Tensor,
    TensorSpec,
)
from ..schedule.pack import Packing
from ..target import Target
from ..tensor.ir import Buffer, Dim, Expr, Func, Load, Var, as_expr
from ..tensor.simplify import dim, product, substitute, symbols
from .inline import loads_of
from .kernels import Answers, Decided, Kernel, KernelTable
from .memory import lifetimes, most_live, planned, unplaced
from .mixing import LARGE_BYTES, Runner
from .pack import pack_array
from .parts import Part, Slab, find_padded, find_parts, find_slabs

Taker = Callable[[Func], None]
"""Takes a kernel as soon as it is done, so that work on it can begin."""

_FORGOTTEN_AT_ONCE = 1 << 20
"""Bytes of a weight that leaves memory as soon as it is packed."""
_FORGOTTEN_TOGETHER = 4 << 20
"""Bytes of smaller ones that leave it together."""


@dataclass(frozen=True, slots=True)
class ConstantEntry:
    """One constant of the program.

    Attributes:
        offset, nbytes: its place in the constants.
        data: the model's array.
        packing: how it is laid out; None: as it is.
    """

    offset: int
    nbytes: int
    data: np.ndarray
    packing: Packing | None


@dataclass(frozen=True, slots=True)
class Lowered:
    """A model ready for a backend.

    Attributes:
        program: with memory planned.
        kernels: by name.
        constants: what to write into the constants.
        decided: how each group came to its kernels.
        least_arena: the most bytes of the arena that are live at one step.
    """

    program: Program
    kernels: Mapping[str, Kernel]
    constants: tuple[ConstantEntry, ...]
    decided: tuple[Decided, ...] = ()
    least_arena: Dim = 0


def fill_constants(
    entries: list[ConstantEntry], out: np.ndarray, run: Runner | None = None
) -> None:
    """Writes all constants, packed, into a fresh byte array of the program's size."""
    for _ in filling(entries, out, run):
        pass


def filling(
    entries: list[ConstantEntry], out: np.ndarray, run: Runner | None = None
) -> Iterator[int]:
    """Writes constants, packed, one by one; before each, yields how many bytes are to spare.

    These are the bytes that it could take more without taking more than others will.

    No weight stays in memory once it is packed, so that they are never all there twice: mapped
    ones leave it, and others are let go. The largest come first, while there is the most room.

    Args:
        entries: what to write, in any order; they are taken off the list.
        out: where to write.
        run: runs functions natively, where there is much to compute.
    """
    mixed: dict[object, int] = {}
    for e in entries:
        if e.packing is not None:
            mixed[e.packing.mixings] = mixed.get(e.packing.mixings, 0) + e.nbytes
    entries.sort(key=lambda e: (e.data.nbytes, e.nbytes, -e.offset))
    files: dict[int, mmap] = {}
    held = 0
    spare = _spare_bytes(entries)
    while entries:
        yield spare.pop()
        e = entries.pop()
        end = e.offset + e.nbytes
        place = out[e.offset : end]
        if end % ALIGNMENT:
            # What lies between constants is written, too: equal models are equal bytes.
            out[end : -(-end // ALIGNMENT) * ALIGNMENT] = 0
        if e.packing is None:
            copy_view(place.view(e.data.dtype).reshape(e.data.shape), e.data)
        else:
            shape = tuple(d for d in e.packing.packed.shape if isinstance(d, int))
            assert len(shape) == len(e.packing.packed.shape), "constants have constant dims"
            view = place.view(e.packing.packed.dtype.numpy).reshape(shape)
            large = mixed[e.packing.mixings] >= LARGE_BYTES
            pack_array(e.packing, e.data, view, run if large else None)
        if e.data.nbytes >= _FORGOTTEN_AT_ONCE:
            forget_pages(e.data)
        else:
            # Many small ones leave memory together: to ask for each took as long as to pack it.
            files |= {id(file): file for file in mapped_files((e.data,))}
            held += e.data.nbytes
        if held >= _FORGOTTEN_TOGETHER:
            forget_files(files.values())
            held = 0
        # No weight is held while the next one waits.
        del e


def _spare_bytes(entries: list[ConstantEntry]) -> list[int]:
    """How far below its most memory is when each entry is packed, from the last to the first.

    Its data goes once it is packed; what is in a mapped file takes no memory to begin with.
    """
    held = 0
    tops: list[int] = []
    for e in reversed(entries):
        tops.append(held + e.nbytes)
        held += e.nbytes - (0 if mapped_files((e.data,)) else e.data.nbytes)
    most = max(tops, default=0)
    return [most - top for top in reversed(tops)]


@dataclass
class _Lowering:
    """One model being lowered: kernels, constants and names so far."""

    table: KernelTable
    take: Taker | None = None
    taken: int = 0
    entries: list[ConstantEntry] = field(default_factory=list)
    placed: dict[tuple[object, ...], ConstantStorage] = field(default_factory=dict)
    constant_bytes: int = 0
    walks: dict[int, tuple[Packing, Expr]] = field(default_factory=dict)
    counter: int = 0

    # -------------------------------------------------------------- memory

    def arena(self, name: str, like: Value | Buffer) -> Tensor:
        """A fresh arena tensor."""
        self.counter += 1
        storage = ArenaStorage(unplaced(f"{name}.{self.counter}"))
        return Tensor(name, like.dtype, like.shape, storage)

    def constant(self, value: Value, data: np.ndarray) -> Tensor:
        """The tensor of a constant in its own layout."""
        key = (id(data), None)
        if key not in self.placed:
            nbytes = data.size * value.dtype.bytes
            self.placed[key] = self._reserve(nbytes, data, None)
        return Tensor(value.name, value.dtype, value.shape, self.placed[key])

    def packed(self, packing: Packing, data: np.ndarray) -> Tensor:
        """The tensor of a packed constant; equal packings of one array share it."""
        b = packing.packed
        # Layers that are alike share their kernels, and these their packings.
        known = self.walks.get(id(packing))
        if known is None:
            known = self.walks[id(packing)] = packing, _walk_of(packing)
        key = (id(data), b.shape, known[1], packing.mixings)
        if key not in self.placed:
            count = product(b.shape)
            assert isinstance(count, int)
            self.placed[key] = self._reserve(count * b.dtype.bytes, data, packing)
        return Tensor(b.name, b.dtype, b.shape, self.placed[key])

    def _reserve(self, nbytes: int, data: np.ndarray, packing: Packing | None) -> ConstantStorage:
        offset = self.constant_bytes
        self.entries.append(ConstantEntry(offset, nbytes, data, packing))
        self.constant_bytes = -(-(offset + nbytes) // ALIGNMENT) * ALIGNMENT
        return ConstantStorage(offset)

    # -------------------------------------------------------------- kernels

    def hand_over(self) -> None:
        """Hands over the kernels that the last group has added: what others add comes after."""
        kernels = self.table.kernels
        if self.take is not None:
            for kernel in islice(kernels.values(), self.taken, None):
                self.take(kernel.func)
        self.taken = len(kernels)

    # -------------------------------------------------------------- blocks

    def block(
        self,
        graph: Graph,
        given: Mapping[Value, Tensor],
        results: Mapping[Value, Tensor],
    ) -> list[Step]:
        """The steps of a graph.

        Args:
            graph: its body.
            given: tensors of its inputs.
            results: where outputs are to be; an output that is not there yet is copied.
        """
        roots = _roots(graph)
        wanted: dict[Value, Tensor] = {}
        for v, t in results.items():
            root = roots.get(v, v)
            if root not in given and root not in graph.constants:
                wanted.setdefault(root, Tensor(root.name, root.dtype, root.shape, t.storage))
        where: dict[Value, Tensor] = dict(given)
        parts = find_parts(graph)
        if self.table.target.threads is None:
            lanes = self.table.target.lanes(32)
            parts |= {v: p for v, p in find_padded(graph, lanes).items() if v not in results}
        where |= self._parts(parts)
        where |= self._slabs(find_slabs(graph), wanted)
        steps: list[Step] = []
        for node in graph.nodes:
            if node.op == "concat":
                continue
            if node.op == "reshape" and node.inputs[0] is not None:
                source = self._find(graph, where, node.inputs[0])
                out = node.outputs[0]
                where.setdefault(out, Tensor(out.name, out.dtype, out.shape, source.storage))
                continue
            for v in node.outputs:
                if v not in where:
                    where[v] = wanted[v] if v in wanted else self.arena(v.name, v)
            match node.op:
                case "fused":
                    steps += self._fused(graph, node, where, parts)
                case "if":
                    steps += self._if(graph, node, where)
                case "scan":
                    steps += self._scan(graph, node, where)
                case _:
                    raise InternalError(f"{node.op} was left outside a group", code="TW-E0904")
        for v, t in results.items():
            source = self._find(graph, where, v)
            if source.storage != t.storage:
                steps.append(CopyTensor(t, Tensor(v.name, v.dtype, v.shape, source.storage)))
        return steps

    def _find(self, graph: Graph, where: Mapping[Value, Tensor], v: Value) -> Tensor:
        if v in where:
            return where[v]
        return self.constant(v, graph.constants[v])

    def _parts(self, parts: Mapping[Value, Part]) -> dict[Value, Tensor]:
        """The tensors of all parts, as rows as wide as those that hold them, and of the wholes."""
        found: dict[Value, Tensor] = {}
        for v, part in parts.items():
            whole = found.get(part.whole)
            if whole is None:
                whole = found[part.whole] = self.arena(part.whole.name, part.whole)
            assert isinstance(whole.storage, ArenaStorage)
            offset = dim(as_expr(whole.storage.offset) + part.start * v.dtype.bytes)
            shape = (*v.shape[:-1], part.width)
            found[v] = Tensor(v.name, v.dtype, shape, ArenaStorage(offset))
        return found

    def _slabs(
        self, slabs: Mapping[Value, Slab], wanted: Mapping[Value, Tensor]
    ) -> dict[Value, Tensor]:
        """The tensors of all slabs, and of the wholes: in a result where they are one."""
        found: dict[Value, Tensor] = {}
        for v, slab in slabs.items():
            whole = found.get(slab.whole) or wanted.get(slab.whole)
            found[slab.whole] = whole = whole or self.arena(slab.whole.name, slab.whole)
            storage: Storage
            if isinstance(whole.storage, OutputStorage):
                storage = replace(whole.storage, offset=whole.storage.offset + slab.offset)
            else:
                assert isinstance(whole.storage, ArenaStorage), "what is read is no result"
                storage = ArenaStorage(dim(as_expr(whole.storage.offset) + slab.offset))
            found[v] = Tensor(v.name, v.dtype, v.shape, storage)
        return found

    def _fused(
        self,
        graph: Graph,
        node: Node,
        where: Mapping[Value, Tensor],
        parts: Mapping[Value, Part],
    ) -> list[Step]:
        body = node.attrs["body"]
        assert isinstance(body, Graph)
        outer = dict(zip(body.inputs, node.inputs, strict=True))
        data: dict[Value, np.ndarray] = dict(body.constants)
        data |= {b: graph.constants[v] for b, v in outer.items() if v in graph.constants}
        produced = dict(zip(body.outputs, node.outputs, strict=True))
        placed = (outer | produced).items()
        widths = {b: parts[v].width for b, v in placed if v in parts}
        leaving = [b for b, v in produced.items() if isinstance(where[v].storage, OutputStorage)]
        if leaving:
            read = {v for n in graph.nodes for v in n.inputs}
            leaving = [b for b in leaving if produced[b] not in read]
        code = self.table.code(body, frozenset(data), widths, leaving)
        self.hand_over()
        names: dict[str, Tensor] = {b.name: self.arena(b.name, b) for b in code.scratch}
        names |= {n: where[produced[v]] for n, v in code.outputs}
        sources = dict(code.inputs)
        steps: list[Step] = []
        for kernel in code.kernels:
            packed = {p.packed.name: p for p in kernel.packings}
            args: list[Tensor | Dim] = []
            for p in kernel.func.params:
                if isinstance(p, Var):
                    args.append(p)
                elif p.name in packed:
                    source = sources[packed[p.name].source.name]
                    args.append(self.packed(packed[p.name], data[source]))
                elif p.name in names:
                    args.append(names[p.name])
                else:
                    v = sources[p.name]
                    held = outer.get(v)
                    if held is None:
                        args.append(self.constant(v, body.constants[v]))
                    else:
                        args.append(self._find(graph, where, held))
            steps.append(CallKernel(kernel.func.name, tuple(args)))
        # One value may be two outputs of the group.
        for v, t in ((node.outputs[k], b) for k, b in enumerate(body.outputs)):
            made = next(names[n] for n, x in code.outputs if x is t)
            if where[v].storage != made.storage:
                steps.append(CopyTensor(where[v], made))
        return steps

    def _if(self, graph: Graph, node: Node, where: Mapping[Value, Tensor]) -> list[Step]:
        cond, *captured = (self._find(graph, where, v) for v in node.inputs)
        branches = []
        for key in ("then", "orelse"):
            body = node.attrs[key]
            assert isinstance(body, Graph)
            branches.append(self._call(body, captured, [where[v] for v in node.outputs]))
        return [IfStep(cond, tuple(branches[0]), tuple(branches[1]))]

    def _call(self, body: Graph, args: list[Tensor], results: list[Tensor]) -> list[Step]:
        """A subgraph's steps, with its outputs stored in ``results``."""
        given = {
            v: Tensor(v.name, v.dtype, v.shape, t.storage)
            for v, t in zip(body.inputs, args, strict=True)
        }
        first: dict[Value, Tensor] = {}
        again: list[tuple[Tensor, Value]] = []
        for v, t in zip(body.outputs, results, strict=True):
            if v in first:
                again.append((t, v))
            else:
                first[v] = t
        steps = self.block(body, given, first)
        return [*steps, *(CopyTensor(t, first[v]) for t, v in again)]

    def _scan(self, graph: Graph, node: Node, where: Mapping[Value, Tensor]) -> list[Step]:
        """A native loop: carried values are double-buffered, rows are views at t * stride."""
        body = node.attrs["body"]
        carried, scanned = node.attrs["carried"], node.attrs["scanned"]
        assert isinstance(body, Graph) and isinstance(carried, int) and isinstance(scanned, int)
        sources = [self._find(graph, where, v) for v in node.inputs]
        inits, rows, captured = (
            sources[:carried],
            sources[carried : carried + scanned],
            sources[carried + scanned :],
        )
        steps: list[Step] = []
        trip = rows[0].shape[0]
        self.counter += 1
        t = Var(f"t{self.counter}")
        last = dim(as_expr(trip) - 1)
        position: Dim = dim(as_expr(last) - t) if node.attrs["reverse"] else t
        row_views: list[Tensor] = []
        for v, r in zip(node.inputs[carried : carried + scanned], rows, strict=True):
            if not isinstance(r.storage, ArenaStorage):
                kept = self.arena(v.name, v)
                steps.append(CopyTensor(kept, r))
                r = kept
            row_views.append(_row(r, position))
        states = [self.arena(f"{v.name}.state", v) for v in node.outputs[:carried]]
        steps += [CopyTensor(s, i) for s, i in zip(states, inits, strict=True)]
        nexts = [self.arena(f"{v.name}.next", v) for v in node.outputs[:carried]]
        stacked: list[tuple[Tensor, Tensor]] = []
        for v in node.outputs[carried:]:
            whole = where[v]
            kept = whole
            if not isinstance(whole.storage, ArenaStorage):
                kept = self.arena(v.name, v)
            stacked.append((whole, kept))
        results = [*nexts, *(_row(kept, position) for _, kept in stacked)]
        inner = self._call(body, [*states, *row_views, *captured], results)
        inner += [CopyTensor(s, n) for s, n in zip(states, nexts, strict=True)]
        steps.append(LoopStep(t, trip, tuple(inner)))
        steps += [
            CopyTensor(where[v], s) for v, s in zip(node.outputs[:carried], states, strict=True)
        ]
        steps += [CopyTensor(w, k) for w, k in stacked if w.storage != k.storage]
        return steps


def _walk_of(packing: Packing) -> Expr:
    """What is packed where, without the names of axes and buffers."""
    axes: dict[Expr, Expr] = {v: Var(f"p{k}") for k, v in enumerate(packing.axes)}
    value = substitute(packing.value, axes)
    source = Buffer("source", packing.source.dtype, packing.source.shape)
    return substitute(value, {x: Load(source, x.indices) for x in loads_of(value)})


def _row(t: Tensor, position: Dim) -> Tensor:
    """Row ``position`` along axis 0, as a view."""
    assert isinstance(t.storage, ArenaStorage)
    stride = dim(as_expr(product(t.shape[1:])) * t.dtype.bytes)
    offset = dim(as_expr(t.storage.offset) + as_expr(position) * as_expr(stride))
    return Tensor(t.name, t.dtype, t.shape[1:], ArenaStorage(offset))


def _roots(graph: Graph) -> dict[Value, Value]:
    """For every view the value whose memory it shares."""
    roots: dict[Value, Value] = {}
    for node in graph.nodes:
        if node.op == "reshape":
            source = node.inputs[0]
            roots[node.outputs[0]] = roots.get(source, source)
    return roots


def lower_graph(
    graph: Graph,
    target: Target,
    math: str = "fast",
    answers: Answers | None = None,
    take: Taker | None = None,
) -> Lowered:
    """Lowers a fused graph: schedules its kernels, places its tensors, plans its memory.

    Args:
        graph: the graph.
        target: what to schedule for.
        math: "strict" forbids methods that round otherwise than the sums that ops state.
        answers: what a search or records say of a group.
        take: takes the kernels in their order, each once no other group can change it.
    """
    work = _Lowering(KernelTable(target, math, answers), take)
    given: dict[Value, Tensor] = {}
    for k, v in enumerate(graph.inputs):
        given[v] = Tensor(v.name, v.dtype, v.shape, InputStorage(k))
    names = graph.output_names or tuple(v.name for v in graph.outputs)
    outputs: dict[Value, Tensor] = {}
    again: list[tuple[Tensor, Value]] = []
    results = len(graph.outputs) - graph.guards
    guards: list[tuple[str, Tensor]] = []
    for k, v in enumerate(graph.outputs):
        if k >= results and v in graph.constants and not graph.constants[v]:
            continue
        if k < results:
            t = Tensor(names[k], v.dtype, v.shape, OutputStorage(k))
        else:
            t = outputs[v] if v in outputs else work.arena(v.name, v)
            guards.append((names[k], t))
            if v in outputs:
                continue
        if v in outputs:
            again.append((t, v))
        else:
            outputs[v] = t
    steps = work.block(graph, given, outputs)
    steps += [CopyTensor(t, outputs[v]) for t, v in again]
    steps += [
        LetElement(Var(f"guard_{k}", i64, 0, 0), t, 0, message)
        for k, (message, t) in enumerate(guards)
    ]
    found: set[Var] = set()
    for v in (*graph.inputs, *graph.outputs):
        for d in v.shape:
            found |= symbols(d)
    for s in steps:
        found |= _step_symbols(s)
    program = Program(
        name=graph.name,
        inputs=tuple(TensorSpec(v.name, v.dtype, v.shape) for v in graph.inputs),
        outputs=tuple(
            TensorSpec(n, v.dtype, v.shape)
            for n, v in zip(names[:results], graph.outputs[:results], strict=True)
        ),
        symbols=tuple(sorted((v for v in found if v.is_symbol), key=lambda v: v.name)),
        steps=tuple(steps),
        arena_bytes=0,
        constants_bytes=work.constant_bytes,
        conditions=graph.conditions,
    )
    table = work.table
    buffers = lifetimes(program)
    return Lowered(
        planned(program, buffers),
        table.kernels,
        tuple(work.entries),
        tuple(table.decided),
        most_live(buffers),
    )


def _step_symbols(step: Step) -> set[Var]:
    found: set[Var] = set()
    match step:
        case CallKernel():
            for a in step.args:
                dims = a.shape if isinstance(a, Tensor) else (a,)
                for d in dims:
                    found |= symbols(d)
        case IfStep():
            for s in (*step.then, *step.orelse):
                found |= _step_symbols(s)
        case LoopStep():
            found |= symbols(step.trip)
            for s in step.body:
                found |= _step_symbols(s)
    return found
