"""Kernels of a model: each distinct group is lowered and scheduled once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from ..errors import InternalError, ScheduleError
from ..graph.ir import Graph, Node, Value
from ..ops import OPS
from ..schedule.hints import stream
from ..schedule.nest import simplify_func
from ..schedule.pack import Packing
from ..schedule.recipes import fits_one_kernel, kinds_of, schedule, spread_loops
from ..schedule.recipes.choices import Asked, Choices, Weighing
from ..schedule.recipes.tile_plan import worth_joining
from ..schedule.recording import Recording
from ..target import Target
from ..tensor.compute import ComputeGroup
from ..tensor.ir import Buffer, Func, Reduce, Var
from ..tensor.text import text
from ..tensor.walk import block_loads, replace_buffers, stores
from .alike import Key, are_copies, body_key, sources
from .bands import Link, find_links, plan_bands, write_bands
from .fission import by_stage, fission
from .inline import has_reduce, lower_body
from .merge import divides_columns, merge_axes
from .nests import element_by_element, free_symbols, to_func
from .parts import columns, copy_rows, read_wide, write_wide
from .sliding import find_sliding
from .split import split_reductions
from .winograd import rewrite
from .winograd_plan import plan_winograd

LEAST_STREAMED = 7 << 19
"""Bytes of a result that is worth storing past the caches, at least."""

Answers = Callable[[ComputeGroup, frozenset[str]], Mapping[str, int]]
"""Answers to the questions for a group and the names of its inputs whose data is known."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of the model, and how it came to be.

    Attributes:
        func: the scheduled function; its name is unique in the model.
        packings: operands to pack on constants before the first call.
        recipe: the recipe that shaped it.
        steps: the schedule as text.
        computed: what it computes, before a schedule: a group, or a function that is its loops.
        recording: the steps as data; None where they are not all of it.
    """

    func: Func
    packings: tuple[Packing, ...]
    recipe: str
    steps: str
    computed: ComputeGroup | Func
    recording: Recording | None = None

    @property
    def compute(self) -> str:
        """What it computes, as text.

        Written only when asked for: what values share is spelt out wherever it is used.
        """
        return text(self.computed)


@dataclass(frozen=True, slots=True)
class Decided:
    """What was asked while a group became kernels: its space of schedules.

    Attributes:
        group: the group.
        fixed: the names of its inputs whose data is known.
        kernels: the names of its kernels.
        given: the answers that came from outside.
        asked: the questions, with options and the answers taken.
        weighed: what the analytic model expects of the options.
    """

    group: ComputeGroup
    fixed: frozenset[str]
    kernels: tuple[str, ...]
    given: Mapping[str, int]
    asked: Asked
    weighed: tuple[Weighing, ...]


@dataclass(frozen=True, slots=True)
class GroupCode:
    """The code of one fused node.

    Attributes:
        kernels: in the order in which they are called; each names the buffers it takes.
        inputs, outputs: body values by the names of the buffers that hold them.
        scratch: buffers between the kernels, by name.
    """

    kernels: tuple[Kernel, ...]
    inputs: tuple[tuple[str, Value], ...]
    outputs: tuple[tuple[str, Value], ...]
    scratch: tuple[Buffer, ...]

    def of(self, values: Mapping[Value, Value]) -> GroupCode:
        """The same code with other values in the buffers."""
        inputs = tuple([(n, values[v]) for n, v in self.inputs])
        outputs = tuple([(n, values[v]) for n, v in self.outputs])
        return GroupCode(self.kernels, inputs, outputs, self.scratch)


@dataclass(frozen=True, slots=True)
class _Copied:
    """The code of a body, which is that of its copies: layers that passes have put in for it.

    Attributes:
        body: what the code is of; its outputs are held by this, so that no others are at their
            place.
        known, widths, leaving: what else decided the code.
        code: that code.
    """

    body: Graph
    known: frozenset[Value]
    widths: Mapping[Value, int]
    leaving: Collection[Value]
    code: GroupCode

    def is_for(
        self,
        body: Graph,
        known: frozenset[Value],
        widths: Mapping[Value, int] | None,
        leaving: Collection[Value],
    ) -> bool:
        """Whether the code is that of another body, too."""
        alike = self.known == known and self.widths == (widths or {}) and self.leaving == leaving
        return alike and are_copies(self.body, body)


@dataclass
class KernelTable:
    """All kernels of a model; groups that are alike share theirs.

    Attributes:
        target: what the recipes schedule for.
        math: "strict" forbids methods that round otherwise than the sum itself.
        answers: what a search or records say of a group; by default the model decides alone.
        kernels: by name, in order of first use.
        decided: how each group came to its kernels, in order of first use.
    """

    target: Target
    math: str = "fast"
    answers: Answers | None = None
    decided: list[Decided] = field(default_factory=list)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    _known: dict[
        tuple[ComputeGroup, frozenset[str], tuple[tuple[str, int], ...], frozenset[str]],
        tuple[tuple[Kernel, ...], tuple[Buffer, ...]],
    ] = field(default_factory=dict)
    _bodies: dict[tuple[Key, frozenset[int]], tuple[GroupCode, list[Value]]] = field(
        default_factory=dict
    )
    _copied: dict[int, _Copied] = field(default_factory=dict)
    _plain: dict[tuple[object, ...], tuple[Kernel, ...]] = field(default_factory=dict)
    _shared: dict[tuple[object, ...], Kernel] = field(default_factory=dict)

    def code(
        self,
        body: Graph,
        constants: frozenset[Value],
        widths: Mapping[Value, int] | None = None,
        leaving: Collection[Value] = (),
    ) -> GroupCode:
        """The kernels that compute a fused body.

        Args:
            body: the body of the fused node.
            constants: its inputs whose data is known.
            widths: for inputs and outputs that are some columns of longer rows (see parts.py),
                the length of those.
            leaving: outputs that no other kernel reads.
        """
        if len(body.nodes) == 1 and OPS[body.nodes[0].op].compute is None:
            return self._loops(body)
        known = constants | set(body.constants)
        leaving = [v for v in leaving if is_past_caches(v, self.target)]
        before = self._copied.get(id(body.outputs))
        if before is not None and before.is_for(body, known, widths, leaving):
            return before.code
        code = self._of_alike(body, known, widths, leaving)
        self._copied[id(body.outputs)] = _Copied(body, known, dict(widths or {}), leaving, code)
        return code

    def _of_alike(
        self,
        body: Graph,
        known: frozenset[Value],
        widths: Mapping[Value, int] | None,
        leaving: Collection[Value],
    ) -> GroupCode:
        """The code of a body, made once for all that are alike."""
        key = body_key(body, known, widths)
        if key is None:
            return self._code(body, known, widths, leaving)
        own = [*sources(body), *body.outputs]
        way = key, frozenset(body.outputs.index(v) for v in leaving)
        if way not in self._bodies:
            self._bodies[way] = self._code(body, known, widths, leaving), own
        code, others = self._bodies[way]
        return code.of(dict(zip(others, own, strict=True)))

    def _code(
        self,
        body: Graph,
        known: frozenset[Value],
        widths: Mapping[Value, int] | None,
        leaving: Collection[Value],
    ) -> GroupCode:
        lowered = lower_body("group", body)
        names = [(b.name, v) for b, v in zip(lowered.group.inputs, lowered.inputs, strict=True)]
        fixed = frozenset(n for n, v in names if v in known)
        group, results = lowered.group, lowered.group.outputs
        wide: tuple[tuple[str, int], ...] = ()
        if widths:
            group = read_wide(group, {n: widths[v] for n, v in names if v in widths})
            named = zip(results, lowered.outputs, strict=True)
            wide = tuple((b.name, widths[v]) for b, v in named if v in widths)
        named = zip(results, lowered.outputs, strict=True)
        unread = frozenset(b.name for b, v in named if v in leaving) - {n for n, _ in wide}
        key = (group, fixed, wide, unread)
        if key not in self._known:
            kernels, scratch = self.compile(group, fixed, _title(body), unread)
            for result, width in wide:
                kernels, scratch = self._write_wide(kernels, scratch, group, result, width)
            made = tuple(k.func.name for k in kernels)
            self.decided[-1] = replace(self.decided[-1], kernels=made)
            self._known[key] = kernels, scratch
        kernels, scratch = self._known[key]
        outputs = zip((b.name for b in results), lowered.outputs, strict=True)
        return GroupCode(kernels, tuple(names), tuple(outputs), scratch)

    def _write_wide(
        self,
        kernels: tuple[Kernel, ...],
        scratch: tuple[Buffer, ...],
        group: ComputeGroup,
        result: str,
        width: int,
    ) -> tuple[tuple[Kernel, ...], tuple[Buffer, ...]]:
        """The kernels with rows of a result that are some columns of longer ones."""
        (b,) = (x for x in group.outputs if x.name == result)
        wide: list[Kernel] = []
        for k in kernels:
            func: Func | None = k.func
            if any(p.name == result for p in k.func.params):
                func = write_wide(k.func, result, columns(b.shape), width)
            if func is None:
                break
            wide.append(replace(k, func=func, recording=None))
        else:
            return tuple(self._add(k) for k in wide), scratch
        # The loops run over rows as if they were one: the result is copied to its place.
        held = Buffer(f"{result}_held", b.dtype, b.shape)
        for k in kernels:
            old = {p: Buffer(held.name, p.dtype, p.shape) for p in k.func.params
                   if isinstance(p, Buffer) and p.name == result}  # fmt: skip
            held_by = replace(k, func=replace_buffers(k.func, old), recording=None)
            wide.append(self._add(held_by))
        to = Buffer(result, b.dtype, (*b.shape[:-1], width))
        nests = to_func(_called(copy_rows(held, to), self._name("copy")))
        done = schedule(nests, self.target)
        # A text of the group would say that it fills all of the rows.
        made = Kernel(done.func, (), done.recipe, str(done.recording), nests.func)
        return (*wide[-len(kernels) :], self._add(made)), (*scratch, held)

    def compile(
        self,
        group: ComputeGroup,
        fixed: frozenset[str],
        title: str,
        unread: frozenset[str] = frozenset(),
    ) -> tuple[tuple[Kernel, ...], tuple[Buffer, ...]]:
        """The kernels of a group in order, and the buffers between them.

        Args:
            group: what they compute together.
            fixed: the names of its inputs whose data is known.
            title: what their names begin with.
            unread: names of results that no kernel reads, and that are too large for caches.
        """
        given = {} if self.answers is None else self.answers(group, fixed)
        choices = Choices(given, checked=True)
        before = set(self.kernels)
        done = self._stream(self._choose(group, fixed, title, choices), unread, choices)
        if any(q in choices.asked and choices.asked[q][1] != a for q, a in given.items()):
            # They are for other recipes than these: the model is better than some of them.
            for kernel in done[0]:
                if kernel.func.name not in before:
                    self._remove(kernel)
            given, choices = {}, Choices()
            done = self._stream(self._choose(group, fixed, title, choices), unread, choices)
        names = tuple(k.func.name for k in done[0])
        self.decided.append(
            Decided(group, fixed, names, given, choices.asked, tuple(choices.weighed))
        )
        return done

    def _choose(
        self, group: ComputeGroup, fixed: frozenset[str], title: str, choices: Choices
    ) -> tuple[tuple[Kernel, ...], tuple[Buffer, ...]]:
        """One kernel where a recipe takes the whole group, else one for each of its pieces."""
        transformed = self._winograd(group, fixed, title, choices.part("winograd."))
        if transformed is not None:
            return transformed
        links = find_links(group, fixed)
        if links is not None:
            rows = plan_bands(links, fixed, self.target)
            if rows is not None and choices.pick("bands", 1, (0, 1)):
                return self._bands(links, rows, group, fixed, title), ()
            return self._pieces(by_stage(group), group, fixed, title, "", choices)
        split = split_reductions(group, self.target)
        if split is not None:
            return self._pieces(split, group, fixed, title, "", choices)
        whole = self._merged(group, fixed, choices)
        why = ""
        fits = fits_one_kernel(to_func(whole, fixed), self.target)
        if fits and _has_pieces(group) and choices.pick("fission", 0, (0, 1)):
            fits, why = False, " (cut by choice)"
        if fits:
            try:
                return (self._kernel(whole, fixed, title, choices),), ()
            except ScheduleError as error:
                why = f" (the whole group: {error})"
        return self._pieces(fission(group), group, fixed, title, why, choices)

    def _stream(
        self,
        done: tuple[tuple[Kernel, ...], tuple[Buffer, ...]],
        unread: frozenset[str],
        choices: Choices,
    ) -> tuple[tuple[Kernel, ...], tuple[Buffer, ...]]:
        """The kernels, those that only walk over elements storing such results past the caches."""
        made: list[Kernel] = []
        for kernel in done[0]:
            plain = kernel.recording is not None and not kernel.recording.when
            walks = plain and kernel.recipe == "elementwise" and self.target.threads is None
            held = _only_written(kernel.func, unread) if walks else frozenset()
            if held and choices.pick("stream", 1, (0, 1)):
                kernel = self._add(_past_caches(kernel, sorted(held)))
            made.append(kernel)
        return tuple(made), done[1]

    def _merged(self, group: ComputeGroup, fixed: frozenset[str], choices: Choices) -> ComputeGroup:
        """The group with as few axes as it can have; groups of columns apart or joined."""
        if self.target.threads is None and divides_columns(group):
            joined = merge_axes(group, split=False)
            nests = to_func(joined, fixed)
            worth = worth_joining(nests, self.target)
            if worth is not None and choices.pick("join_groups", int(worth), (0, 1)):
                return joined
        return merge_axes(group)

    def _pieces(
        self,
        pieces: list[ComputeGroup],
        group: ComputeGroup,
        fixed: frozenset[str],
        title: str,
        why: str,
        choices: Choices,
    ) -> tuple[tuple[Kernel, ...], tuple[Buffer, ...]]:
        """A kernel for each piece of a group, and the buffers between them."""
        made = [
            self._piece(p, fixed, title, why, choices.part(f"{n}." if len(pieces) > 1 else ""))
            for n, p in enumerate(pieces)
        ]
        results = {b.name for b in group.outputs}
        scratch = tuple(b for p in pieces for b in p.outputs if b.name not in results)
        return tuple(made), scratch

    def _winograd(
        self, group: ComputeGroup, fixed: frozenset[str], title: str, choices: Choices
    ) -> tuple[tuple[Kernel, ...], tuple[Buffer, ...]] | None:
        """The kernels of a convolution by Winograd's method, where it is allowed and pays."""
        if self.math == "strict":
            return None
        found = find_sliding(group, fixed)
        plan = None if found is None else plan_winograd(found, self.target, choices)
        if found is None or plan is None:
            return None
        parts, scratch = rewrite(self._name(title), found, plan, self.target)
        results = set(group.outputs)
        made = []
        for p in parts:
            kernel = Kernel(p.func, p.packings, f"winograd {plan}", p.steps, group, p.recording)
            # Convolutions that differ in what follows them transform their inputs alike.
            is_last = not results.isdisjoint(p.func.params)
            made.append(self._add(kernel) if is_last else self._share(kernel))
        return tuple(made), scratch

    def _bands(
        self,
        links: tuple[Link, ...],
        rows: int,
        group: ComputeGroup,
        fixed: frozenset[str],
        title: str,
    ) -> tuple[Kernel, ...]:
        """The kernel of a chain of convolutions, some rows at a time."""
        p = write_bands(self._name(title), links, rows, fixed, self.target)
        kernel = Kernel(p.func, p.packings, f"bands of {rows} rows", p.steps, group)
        return (self._add(kernel),)

    def _piece(
        self, piece: ComputeGroup, fixed: frozenset[str], title: str, why: str, choices: Choices
    ) -> Kernel:
        """The kernel of a piece: by its own recipe, else by the plain one, else unscheduled."""
        merged = self._merged(piece, fixed, choices)
        try:
            return self._kernel(merged, fixed, title, choices, why)
        except ScheduleError as error:
            why = f" (its own recipe: {error})"
        try:
            return self._kernel(merged, fixed, title, choices, why, kind="plain")
        except ScheduleError as error:
            why = f" (plain: {error})"
        func = simplify_func(element_by_element(_called(merged, self._name(title))))
        (func,) = spread_loops(func, self.target)
        return self._add(Kernel(func, (), f"unscheduled{why}", "", merged))

    def _kernel(
        self,
        group: ComputeGroup,
        fixed: frozenset[str],
        title: str,
        choices: Choices,
        why: str = "",
        kind: str | None = None,
    ) -> Kernel:
        nests = to_func(_called(group, self._name(title)), fixed)
        if kind is None:
            kinds = kinds_of(nests, self.target)
            if len(kinds) > 1:
                kind = kinds[choices.pick("recipe", 0, tuple(range(len(kinds))))]
        done = schedule(nests, self.target, choices, kind)
        return self._add(
            Kernel(
                done.func,
                done.packings,
                done.recipe + why,
                str(done.recording),
                group,
                done.recording,
            )
        )

    def _name(self, title: str) -> str:
        return f"{title}_{len(self.kernels)}"

    def _add(self, kernel: Kernel) -> Kernel:
        self.kernels[kernel.func.name] = kernel
        return kernel

    def _share(self, kernel: Kernel) -> Kernel:
        """Adds a kernel, unless there is one that was shared before and does the same."""
        known = self._shared.setdefault(_work(kernel), kernel)
        return self._add(kernel) if known is kernel else known

    def _remove(self, kernel: Kernel) -> None:
        self.kernels.pop(kernel.func.name, None)
        self._shared.pop(_work(kernel), None)

    def _loops(self, body: Graph) -> GroupCode:
        """A node that is a loop nest by itself (scatter, top-k, cumulative)."""
        node = body.nodes[0]
        loops = OPS[node.op].loops
        if loops is None:
            raise InternalError(f"{node.op} has neither a compute nor loops", code="TW-E0903")
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
            self._plain[key] = tuple(
                self._add(Kernel(f, (), "loops", "", func)) for f in spread_loops(func, self.target)
            )
        used = {v: n for v, n in values.items() if v in node.inputs}
        named = tuple((n, v) for v, n in used.items())
        read = [v in body.outputs for v in node.outputs]
        results = tuple(
            (b.name, v) for b, v, r in zip(outputs, node.outputs, read, strict=True) if r
        )
        unread = tuple(b for b, r in zip(outputs, read, strict=True) if not r)
        return GroupCode(self._plain[key], named, results, unread)


def is_past_caches(v: Value, target: Target) -> bool:
    """Whether a value is so large that little of it is in the cache when it is read again."""
    count = prod(d for d in v.shape if isinstance(d, int))
    known = all(isinstance(d, int) for d in v.shape)
    return known and count * v.dtype.bytes >= max(target.l2_bytes * 3 // 2, LEAST_STREAMED)


def _past_caches(kernel: Kernel, results: Sequence[str]) -> Kernel:
    """The kernel with results stored past the caches."""
    func, recording = kernel.func, kernel.recording
    assert recording is not None
    for name in results:
        func = stream(func, name)
    steps = (*recording.steps, *(("stream", (name,)) for name in results))
    recording = replace(recording, steps=steps)
    return replace(kernel, func=func, recording=recording, steps=str(recording))


def _has_pieces(group: ComputeGroup) -> bool:
    """Whether fission would cut a group."""
    return len(group.stages) > 1 or any(
        has_reduce(s.expr) and not isinstance(s.expr, Reduce) for s in group.stages
    )


def _only_written(func: Func, names: frozenset[str]) -> frozenset[str]:
    """The buffers of those names that a function stores to and does not read."""
    held = names & {x.buffer.name for x in stores(func.body)}
    return held - {x.buffer.name for x in block_loads(func.body)}


def _work(kernel: Kernel) -> tuple[object, ...]:
    """What a kernel does, whatever it is called."""
    return kernel.func.params, kernel.func.body, kernel.packings


def _called(group: ComputeGroup, name: str) -> ComputeGroup:
    return ComputeGroup(name, group.inputs, group.outputs, group.stages)


def _hashable(node: Node) -> tuple[object, ...]:
    return tuple(sorted((k, repr(v)) for k, v in node.attrs.items()))


def _title(body: Graph) -> str:
    """A readable kernel name: the anchor and a few of the other operators."""
    ops = list(dict.fromkeys(n.op for n in body.nodes))
    anchors = [o for o in ops if OPS[o].kind in ("contraction", "window", "reduce")]
    names = list(dict.fromkeys([*anchors, *ops]))[:3]
    return "_".join(names)
