"""A graph of torch.compile as native code, called with torch's own tensors.

Parameters reach a compiled graph as arguments of each call. Here they are constants, so that
they are packed when the graph is compiled; each call checks that they are the tensors they were,
unwritten: by what torch counts, and by samples of their contents. Tensors go in and out by address:
nothing is copied.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch._C._dynamo import guards
from torch._dynamo.utils import dynamo_timed

from tilewright.errors import InputError
from tilewright.graph.ir import Graph
from tilewright.tensor.ir import Dim

from .capture import Captured, import_captured
from .contents import Contents
from .results import Results

_WORTHWHILE = 16
_PATIENCE = 2
_MOST_LAYOUTS = 256

_empty = guards._empty_strided_cpu  # type: ignore[attr-defined]  # noqa: SLF001
"""What Inductor's code allocates with: a third of the time of torch.empty_strided."""
_versions = operator.attrgetter("_version")
_places = torch.Tensor.data_ptr


class Plan(Protocol):
    """What one combination of input shapes leads to: the shapes of the outputs, among others."""

    outputs: tuple[tuple[tuple[int, ...], Any, int], ...]


class Executable(Protocol):
    """Native code, as ``tilewright.compile`` returns it."""

    threads: int

    def plan(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        """What inputs of these shapes lead to."""

    def call_at(self, plan: Any, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Runs on memory by address."""


Compile = Callable[[Graph], Executable]
_Stamp = tuple[int, int, bytes]
"""Of a constant: its id, how often it was written to, and samples of its contents."""
Layout = tuple[Any, tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]]
"""A plan, and of each output the sizes, strides and dtype."""


@dataclass(frozen=True, slots=True)
class Region:
    """A graph to compile.

    Attributes:
        module: holds the graph.
        name: for messages.
        symbols: the sizes that may differ from call to call.
        steady: the positions of the arguments that stay the same tensors from call to call.
        results: how its outputs come about.
        threads: the most threads of a call; None: as many as torch uses.
    """

    module: Any
    name: str
    symbols: Mapping[str, Dim]
    steady: frozenset[int]
    results: Results
    threads: int | None


@dataclass(slots=True, weakref_slot=True, eq=False)
class Variant:
    """Native code for one set of constants.

    Attributes:
        executable: what runs; None where native code has nothing to do.
        constants: the positions of the arguments that are constants in it.
        ids, versions, places, contents: of those arguments, as they were.
        inputs: the positions of the arguments that it reads, with the dtype of each; None: a
            symbolic integer.
        watches: weak references to the constants, which drop the variant with any of them.
        calls: how many calls it has served.
        threads: how many threads it may use now.
        layouts: by the shapes of the inputs.
    """

    executable: Executable | None
    constants: tuple[int, ...]
    ids: tuple[int, ...]
    versions: tuple[int, ...]
    places: tuple[int, ...]
    contents: Contents
    inputs: tuple[tuple[int, torch.dtype | None], ...]
    watches: tuple[Any, ...] = ()
    calls: int = 0
    threads: int = 0
    layouts: dict[tuple[Any, ...], Layout] = field(default_factory=dict)


class Runner:
    """A compiled region, called with a list of arguments, which it empties.

    One graph may serve many modules (the layers of a network that are compiled one by one), so
    there is a variant for each set of parameters. A parameter that was written to, or replaced,
    makes a new variant; what changes again before a variant has paid for itself becomes an input
    of the code instead.
    """

    _boxed_call = True  # what AOTAutograd calls this convention

    def __init__(self, region: Region, compile_graph: Compile) -> None:
        self._region = region
        self._compile = compile_graph
        self._placeholders = region.module.graph.find_nodes(op="placeholder")
        self._steady = sorted(p for p in region.steady if self._placeholders[p].users)
        self._demoted: set[int] = set()
        self._variants: dict[tuple[int, ...], Variant] = {}
        self._last: Variant | None = None
        self._wasted: list[tuple[tuple[int, ...], tuple[_Stamp, ...]]] = []
        self._lock = threading.RLock()
        self._select_constants()

    # -------------------------------------------------------------- calling

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Runs the region on all arguments of the graph."""
        variant = self._last
        constants = self._pick(args)
        if (
            variant is None
            or variant.ids != tuple(map(id, constants))
            or variant.versions != tuple(map(_versions, constants))
            or variant.places != tuple(map(_places, constants))
            or not variant.contents.are_as_before()
        ):
            variant = self.variant(args)
        variant.calls += 1
        made = () if variant.executable is None else self._run(variant, variant.executable, args)
        results = self._region.results
        if results.assemble is not None:
            made = results.assemble(*[args[p] for p in results.used], *made)
        args.clear()
        return made

    def _run(self, variant: Variant, executable: Executable, args: list[Any]) -> Sequence[Any]:
        threads = self._region.threads or torch.get_num_threads()
        if threads != variant.threads:
            executable.threads = variant.threads = threads
        shapes: list[Any] = []
        inputs = []
        copies = []
        for position, dtype in variant.inputs:
            x = args[position]
            if dtype is None:
                inputs.append(0)
                shapes.append((x, 0))
                continue
            if x.dtype is not dtype or not x.is_cpu:
                raise self._misfit(position, x)
            if not x.is_contiguous():
                x = x.contiguous()
                copies.append(x)
            address = x.data_ptr()
            if address % dtype.itemsize:
                x = x.clone()
                copies.append(x)
                address = x.data_ptr()
            inputs.append(address)
            shapes.append(x.shape)
        key = tuple(shapes)
        layout = variant.layouts.get(key)
        if layout is None:
            layout = self._layout(variant, executable, key)
        plan, wanted = layout
        made = [_empty(size, stride, dtype) for size, stride, dtype in wanted]
        executable.call_at(plan, inputs, [_places(x) for x in made])
        return made

    def _layout(self, variant: Variant, executable: Executable, key: tuple[Any, ...]) -> Layout:
        """The plan for inputs of these shapes, and the outputs as torch is to see them."""
        plan = executable.plan(tuple(tuple(map(int, shape)) for shape in key))
        results = self._region.results
        wanted = tuple(
            (*_strided(shape, output.order), dtype)
            for (shape, _, _), output, dtype in zip(
                plan.outputs, results.native, results.dtypes, strict=True
            )
        )
        if len(variant.layouts) >= _MOST_LAYOUTS:
            variant.layouts.clear()
        variant.layouts[key] = plan, wanted
        return plan, wanted

    def _misfit(self, position: int, x: torch.Tensor) -> InputError:
        wanted = self._placeholders[position].meta["val"]
        return InputError(
            f"{self._region.name}: {self._placeholders[position].name} is now {x.dtype} on"
            f" {x.device}, and was {wanted.dtype} on cpu when it was compiled; call"
            " torch.compiler.reset()",
            code="TW-E0302",
        )

    # -------------------------------------------------------------- variants

    def variant(self, args: Sequence[Any]) -> Variant:
        """The variant for these arguments, compiled now if there is none."""
        with self._lock:
            constants = self._pick(args)
            if any(x.is_inference() for x in constants):
                # Writes to them are not counted.
                self._demoted.update(
                    p for p in self._steady if isinstance(args[p], torch.Tensor)
                    and args[p].is_inference()
                )  # fmt: skip
                self._select_constants()
                constants = self._pick(args)
            ids = tuple(map(id, constants))
            found = self._variants.get(ids)
            if found is not None and not _is_current(found, constants):
                self.drop(found)
                found = None
            if found is None:
                if self._demote_changing(constants):
                    return self.variant(args)
                found = self._variants[ids] = self._make(args)
            self._last = found
            return found

    def drop(self, variant: Variant) -> None:
        """Forgets a variant: one of its constants was written to or is gone."""
        if self._variants.get(variant.ids) is variant:
            del self._variants[variant.ids]
            if variant.calls < _WORTHWHILE:
                stamps = zip(variant.ids, variant.versions, variant.contents.before, strict=True)
                self._wasted.append((variant.constants, tuple(stamps)))
        if self._last is variant:
            self._last = None

    def _demote_changing(self, constants: Sequence[torch.Tensor]) -> bool:
        """Makes inputs of those constants that keep changing; true if there are such."""
        if len(self._wasted) <= _PATIENCE:
            return False
        positions, before = self._wasted.pop()
        samples = Contents(constants).before
        now = tuple(zip(map(id, constants), map(_versions, constants), samples, strict=True))
        self._wasted.clear()
        if positions != self._positions or before == now:
            return False
        triples = zip(positions, before, now, strict=True)
        self._demoted.update(p for p, was, new in triples if was != new)
        self._select_constants()
        return True

    def _select_constants(self) -> None:
        """Settles which arguments are constants from now on."""
        self._positions = tuple(p for p in self._steady if p not in self._demoted)
        self._variants.clear()
        self._last = None
        self._pick = _picker(self._positions)

    def _make(self, args: Sequence[Any]) -> Variant:
        """Compiles the region for the constants among these arguments."""
        region = self._region
        constants = self._pick(args)
        before = tuple(map(_versions, constants)), tuple(map(_places, constants))
        known: dict[str, Any] = {}
        inputs: list[tuple[int, torch.dtype | None]] = []
        bound = self._bound()
        for position, node in enumerate(self._placeholders):
            value = node.meta.get("val")
            if position in self._positions:
                self._check_constant(position, args[position])
                known[node.name] = args[position]
            elif isinstance(value, torch.Tensor) and node.users:
                inputs.append((position, value.dtype))
            elif isinstance(value, torch.SymInt) and str(value.node.expr) not in bound:
                inputs.append((position, None))
            else:
                known[node.name] = None  # its users read its value from what torch has found
        contents = Contents(constants)
        native = region.results.native
        captured = Captured(region.module, region.name, known, native, region.symbols)
        with dynamo_timed("tilewright.compile"):
            executable = self._compile(import_captured(captured)) if native else None
        made = Variant(
            executable, self._positions, tuple(map(id, constants)), *before, contents,
            tuple(inputs), threads=0 if executable is None else executable.threads,
        )  # fmt: skip
        made.watches = tuple(weakref.ref(c, _dropper(self, made)) for c in constants)
        return made

    def _bound(self) -> frozenset[str]:
        """The symbols that are a dim of a tensor among the arguments that is read."""
        return frozenset(
            str(d.node.expr)
            for node in self._placeholders
            if node.users and isinstance(node.meta.get("val"), torch.Tensor)
            for d in node.meta["val"].shape
            if isinstance(d, torch.SymInt)
        )

    def _check_constant(self, position: int, x: torch.Tensor) -> None:
        """Holds a parameter to what was traced: torch itself does not look at it again."""
        wanted = self._placeholders[position].meta["val"]
        if x.dtype is not wanted.dtype or not x.is_cpu:
            raise self._misfit(position, x)
        if x.shape != wanted.shape:
            raise InputError(
                f"{self._region.name}: {self._placeholders[position].name} is now of shape"
                f" {tuple(x.shape)}, and was of {tuple(wanted.shape)} when it was compiled; call"
                " torch.compiler.reset()",
                code="TW-E0304",
            )


def _picker(positions: tuple[int, ...]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """A function that picks some of a list's elements."""
    match positions:
        case ():
            return lambda _: ()
        case (one,):
            return lambda args: (args[one],)
        case _:
            return operator.itemgetter(*positions)


def _is_current(variant: Variant, constants: Sequence[torch.Tensor]) -> bool:
    """Whether the constants of a variant are as they were; their identity is known."""
    return (
        variant.versions == tuple(map(_versions, constants))
        and variant.places == tuple(map(_places, constants))
        and variant.contents.are_as_before()
    )


def _dropper(runner: Runner, variant: Variant) -> Callable[[object], None]:
    """Drops a variant when one of its constants is gone; keeps neither of them alive."""
    runner_of, variant_of = weakref.ref(runner), weakref.ref(variant)

    def drop(_: object) -> None:
        runner, variant = runner_of(), variant_of()
        if runner is not None and variant is not None:
            runner.drop(variant)

    return drop


def _strided(
    shape: tuple[int, ...], order: tuple[int, ...] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes and strides of a tensor whose axes have this shape in this order in memory."""
    axes = range(len(shape)) if order is None else order
    sizes, strides = [0] * len(shape), [0] * len(shape)
    step = 1
    for place in reversed(range(len(shape))):
        axis = axes[place]
        sizes[axis], strides[axis] = shape[place], step
        step *= max(shape[place], 1)
    return tuple(sizes), tuple(strides)
