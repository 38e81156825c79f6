"""Tuning a model: search for better schedules of its kernels, then prove them on the whole model.

The search measures kernels alone. What it found is taken only as far as the whole model, measured
in turns with the untuned one, is not slower for it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import numpy as np

from tilewright.api import DimRanges, Shapes, backend_of
from tilewright.autotune.fleet import Fleet
from tilewright.autotune.job import is_modelled
from tilewright.autotune.processes import LocalWorkers, Workers
from tilewright.autotune.ranking import Learned, is_available
from tilewright.autotune.records import Records, open_records
from tilewright.autotune.report import Row, table
from tilewright.autotune.search import Found, Search, Step, now, setting_of
from tilewright.autotune.task import Task, key_of
from tilewright.autotune.timing import pair
from tilewright.autotune.trial import Verdict
from tilewright.backends import load_backend
from tilewright.backends.backend import Backend
from tilewright.errors import OptionError, OutputError
from tilewright.feed import choose_dims, random_inputs
from tilewright.lower.alone import lower_alone
from tilewright.options import Options, from_environment
from tilewright.pipeline import Built, build
from tilewright.pipeline import kernel_text as stage_text
from tilewright.runtime.cache import Cache, open_cache
from tilewright.runtime.compiled import Compiled
from tilewright.runtime.executable import Executable
from tilewright.runtime.program import CallKernel, IfStep, LoopStep, Program
from tilewright.runtime.program import Step as ProgramStep
from tilewright.sources import Source, source_of
from tilewright.stages import KERNEL_STAGES, Log, Progress
from tilewright.target import Target
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.simplify import evaluate
from tilewright.tensor.text import group_symbols

MODEL_TOLERANCE = 1e-3
"""The greatest difference of a whole model's outputs, as a part of the greatest one: Winograd's
method and other orders of sums add up over many layers."""

_OTHER_SIZE = 16
_LEAST_FINAL_SECONDS = 1.0
_FINAL_SHARE = 0.15
_LEAST_SEARCH_SHARE = 0.25

Choices = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Tuned:
    """What tuning a model came to.

    Attributes:
        built: the model with the schedules that were taken.
        rows: what became of each kernel, the one with most of the time first.
        ratio: the tuned model's time over the untuned one's, measured in turns (or modelled);
            1 where nothing was taken.
        kind: "measured" or "modelled".
        notes: what the user should know besides.
        trials: how many schedules this search tried.
        seconds: how long all of it took.
    """

    built: Built
    rows: tuple[Row, ...]
    ratio: float
    kind: str
    notes: tuple[str, ...]
    trials: int
    seconds: float

    @property
    def compiled(self) -> Compiled:
        """The model, not loaded; its stage ``tuning`` is the table."""
        stages = {name: lambda name=name: stage_text(name, self.built) for name in KERNEL_STAGES}
        return Compiled(self.built.artifact, {**stages, "tuning": self.text})

    def text(self) -> str:
        """The table and the notes."""
        change = 1.0 / self.ratio if self.ratio else 1.0
        whole = f"whole model: {change:.2f} times as fast as untuned ({self.kind})"
        return "\n".join([table(self.rows, self.kind), whole, *self.notes])


def tune(
    source: Any,
    example_inputs: Any = None,
    *,
    budget: float = 60.0,
    trials: int | None = None,
    records: str | os.PathLike[str] | None = None,
    fleet: str | None = None,
    learn: bool = False,
    dims: Mapping[str, int] | None = None,
    dynamic_shapes: Any = None,
    target: str | None = None,
    math: str | None = None,
    threads: int | None = None,
    shapes: Shapes | None = None,
    dim_ranges: DimRanges | None = None,
    cache: bool | None = None,
    progress: Progress | None = None,
) -> Executable:
    """Searches for better schedules of a model's kernels and returns it compiled with them.

    The tuned model is measured in turns with the untuned one, and is never slower. Its stage
    ``tuning`` tells what was found: ``exe.text("tuning")``.

    Args:
        source, example_inputs, dynamic_shapes, target, math, threads, shapes, dim_ranges, cache,
            progress: as ``compile`` takes them.
        budget: seconds of wall-clock time for all of it.
        trials: how many schedules to try at most; None: as many as there is time for.
        records: a file that keeps every trial; what it holds already is not measured again, and
            ``compile(..., records=...)`` replays it. None: nothing is kept.
        fleet: the address of a dask scheduler whose workers build and measure; None: processes on
            this machine do.
        learn: whether trees that learn from all trials rank candidates, too (extra ``tune``).
        dims: sizes of symbolic dims to measure at, by name.

    Raises:
        ModelError, UnsupportedError, OptionError, TargetError: see their classes.
        ArtifactError: the file holds other things than records, or is damaged.
        OutputError: the file cannot be written.
    """
    options = from_environment(None, target=target, math=math, threads=threads, cache=cache)
    backend = load_backend(backend_of(options.target))
    backend.check(backend.resolve(options.target))
    found = tune_source(
        source,
        options,
        budget=budget,
        trials=trials,
        records=records,
        dims=dims or {},
        workers=None if fleet is None else Fleet(fleet),
        learn=learn,
        progress=progress,
        example_inputs=example_inputs,
        dynamic_shapes=dynamic_shapes,
        shapes=shapes,
        dim_ranges=dim_ranges,
    )
    built = found.built.artifact
    entry = backend.load(built.target, built.objects, open_cache(options), options.threads)
    stages = {"tuning": found.text()}
    return Executable(built, entry, stages)


def tune_source(
    source: Any,
    options: Options,
    *,
    budget: float,
    records: str | os.PathLike[str] | None,
    dims: Mapping[str, int],
    trials: int | None = None,
    progress: Progress | None = None,
    tell: Callable[[Step], None] = lambda step: None,
    workers: Workers | None = None,
    learn: bool = False,
    **importing: Any,
) -> Tuned:
    """Tunes a model for a target that need not be this machine where it is only modelled.

    Args:
        source, budget, trials, records, dims: as ``tune`` takes them.
        options: of the compilation.
        progress: told of each stage. tell: told of each step of the search.
        workers: what builds and measures; by default processes on this machine.
        learn: whether trees that learn from trials rank candidates, too.
        importing: options of the source's frontend.
    """
    _check_budget(budget)
    if learn and not is_available():
        raise OptionError(
            "a ranking that learns needs scikit-learn: pip install 'tilewright[tune]'",
            code="TW-E0844",
        )
    began = time.monotonic()
    backend = load_backend(backend_of(options.target))
    target = backend.resolve(options.target)
    if not is_modelled(target):
        backend.check(target)
    with open_records(records) as kept:
        work = _Work(source_of(source, Log(), **importing), options, backend, target, kept)
        work.progress = progress
        return work.tune(began, budget, trials, dims, tell, workers, learn)


def _check_budget(budget: object) -> None:
    if not isinstance(budget, Real):
        raise OptionError(f"budget: {budget!r} is no number of seconds", code="TW-E0840")
    seconds = float(budget)
    if not seconds > 0 or math.isinf(seconds):
        raise OptionError(
            f"budget: {seconds:g} s is no time to search in; give some seconds, as in "
            f"--budget 60s (tilewright compile --records replays what was found before)",
            code="TW-E0840",
        )


@dataclass
class _Work:
    """One model while it is tuned."""

    source: Source
    options: Options
    backend: Backend
    target: Target
    records: Records
    progress: Progress | None = None
    store: Cache = field(init=False)

    def __post_init__(self) -> None:
        self.store = open_cache(self.options)

    def tune(
        self,
        began: float,
        budget: float,
        trials: int | None,
        dims: Mapping[str, int],
        tell: Callable[[Step], None],
        workers: Workers | None,
        learn: bool,
    ) -> Tuned:
        """Searches, then proves."""
        untuned = self.build({})
        build_seconds = time.monotonic() - began
        program = untuned.artifact.program
        sizes = choose_dims(program.inputs, dims, program.conditions)
        tasks = tasks_of(untuned, self.target, self.options.math, sizes)
        if not tasks:
            note = "nothing to tune: no kernel of this model has a schedule to choose"
            took = time.monotonic() - began
            return Tuned(untuned, (), 1.0, "measured", (note,), 0, took)
        threads = self.threads()
        end = began + budget
        # Most code of the tuned model is in the cache by then, and less is to be imported.
        final = max(_LEAST_FINAL_SECONDS, budget * _FINAL_SHARE) + 0.7 * build_seconds
        search = Search(
            tasks,
            lower_alone,
            workers or LocalWorkers(max(1, (os.cpu_count() or 1) - threads)),
            self.records,
            threads,
            max(time.monotonic() + _LEAST_SEARCH_SHARE * budget, end - final),
            trials,
            tell,
            Learned(lower_alone, self.records.trials()) if learn else None,
        )
        found = search.run()
        notes = [search.stopped] if search.stopped else []
        if is_modelled(self.target):
            taken: Choices = {f.task.key: f.choices for f in found if f.choices}
            before = sum(f.total for f in found)
            after = sum(f.total * (f.best.ratio if f.best else 1.0) for f in found)
            ratio, kind, faults = (after / before if before else 1.0), "modelled", frozenset[str]()
            tuned = self.build(taken) if taken else untuned
        else:
            proof = _Proof(self, untuned, sizes, threads, end)
            tuned, taken, ratio = proof.settle(found)
            faults = frozenset(f.task.key for f in found if f.choices) - taken.keys()
            kind = "measured"
            if proof.note:
                notes.append(proof.note)
        notes += self._keep_verdicts(found, taken, threads)
        rows = rows_of(found, faults)
        took = time.monotonic() - began
        return Tuned(tuned, rows, ratio, kind, tuple(notes), search.trials, took)

    def threads(self) -> int:
        """How many threads a call uses."""
        if self.options.threads is not None:
            return self.options.threads
        return len(os.sched_getaffinity(0))

    def build(self, choices: Choices) -> Built:
        """The model with given answers for some kernels."""

        def answers(group: ComputeGroup, fixed: frozenset[str]) -> Mapping[str, int]:
            return choices.get(key_of(group, fixed, self.target, self.options.math), {})

        log = Log(self.progress)
        with log.stage("import"):
            graph = self.source.graph()
        return build(
            graph, self.target, self.backend, self.store, log, self.options.math,
            answers if choices else None,
        )  # fmt: skip

    def load(self, built: Built, threads: int) -> Executable:
        """A model, ready to run."""
        made = built.artifact
        entry = self.backend.load(made.target, made.objects, self.store, threads)
        return Executable(made, entry)

    def _keep_verdicts(self, found: Sequence[Found], taken: Choices, threads: int) -> list[str]:
        """Records what is to be replayed; a note where that is not possible."""
        verdicts = [
            Verdict(f.task.key, setting_of(f.task, threads), dict(taken.get(f.task.key, {})), now())
            for f in found
            if f.seconds
        ]
        try:
            self.records.add_all(verdicts)
        except OutputError as error:
            return [str(error)]
        return []


class _Proof:
    """Finds which of the schedules make the whole model no slower."""

    def __init__(
        self, work: _Work, untuned: Built, sizes: Mapping[str, int], threads: int, end: float
    ) -> None:
        self.work, self.untuned, self.threads, self.end = work, untuned, threads, end
        self.note = ""
        base = work.load(untuned, threads)
        feed = random_inputs(untuned.artifact.program.inputs, sizes, 0)
        self.base = base
        self.inputs = [feed[s.name] for s in base.inputs]
        self.wanted = base(*self.inputs)

    def settle(self, found: Sequence[Found]) -> tuple[Built, Choices, float]:
        """The model to use, the answers in it, and its time over the untuned model's."""
        better = [f for f in found if f.choices]
        better.sort(key=lambda f: f.total * (1 - (f.best.ratio if f.best else 1.0)), reverse=True)
        if not better:
            return self.untuned, {}, 1.0
        best: tuple[float, Built, Choices] = (1.0, self.untuned, {})
        pending = [better]
        good: list[Found] = []
        while pending:
            group = pending.pop(0)
            if best[2] and time.monotonic() > self.end:
                break
            tried = {f.task.key: f.choices for f in (*good, *group)}
            ratio, built = self._measure(tried)
            if ratio < best[0]:
                best = (ratio, built, tried)
                good += group
            elif len(group) > 1 and time.monotonic() < self.end:
                half = len(group) // 2
                pending += [group[:half], group[half:]]
        ratio, built, taken = best
        return built, taken, ratio

    def _measure(self, choices: Choices) -> tuple[float, Built]:
        """The time of the model with some answers over the untuned one's; infinite if wrong."""
        built = self.work.build(choices)
        exe = self.work.load(built, self.threads)
        for a, b in zip(self.wanted, exe(*self.inputs), strict=True):
            if not _alike(np.asarray(a), np.asarray(b)):
                self.note = "a tuned kernel changed the model's results and was left out"
                return math.inf, built
        left = max(0.3, min(3.0, (self.end - time.monotonic()) / 2))
        return pair(lambda: self.base(*self.inputs), lambda: exe(*self.inputs), left).ratio, built


def _alike(wanted: np.ndarray, got: np.ndarray) -> bool:
    if wanted.dtype.kind in "biu":
        return bool(np.count_nonzero(wanted != got) <= wanted.size * MODEL_TOLERANCE)
    x, y = wanted.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(x)
    if not np.array_equal(finite, np.isfinite(y)):
        return False
    scale = float(np.abs(x[finite]).max(initial=0.0)) or 1.0
    return float(np.abs(x[finite] - y[finite]).max(initial=0.0)) <= MODEL_TOLERANCE * scale


# ------------------------------------------------------------------ tasks and rows


def tasks_of(built: Built, target: Target, math_: str, sizes: Mapping[str, int]) -> list[Task]:
    """The groups of a model that have schedules to choose, each once."""
    counts = calls_of(built.artifact.program, sizes)
    found: dict[str, Task] = {}
    for d in built.decided:
        if not any(len(options) > 1 for options, _ in d.asked.values()):
            continue
        here = {v.name: sizes.get(v.name) or _usual_size(v) for v in group_symbols(d.group)}
        # Several groups may share the kernel that transforms their inputs, none the last one.
        calls = counts.get(d.kernels[-1], 0)
        task = Task(d.group, d.fixed, target, math_, d.kernels[-1], calls, here)
        known = found.get(task.key)
        found[task.key] = task if known is None else replace(known, calls=known.calls + calls)
    return [t for t in found.values() if t.calls]


def _usual_size(v: Any) -> int:
    """A size for a symbol that the model computes."""
    least = max(_OTHER_SIZE, v.lo or 0)
    return least if v.hi is None else min(least, int(v.hi))


def calls_of(program: Program, sizes: Mapping[str, int]) -> dict[str, int]:
    """How often one call of a model runs each kernel; of two branches, both count."""
    counts: dict[str, int] = {}
    pending: list[tuple[ProgramStep, int]] = [(s, 1) for s in program.steps]
    while pending:
        step, times = pending.pop()
        match step:
            case CallKernel():
                counts[step.kernel] = counts.get(step.kernel, 0) + times
            case IfStep():
                pending += [(s, times) for s in (*step.then, *step.orelse)]
            case LoopStep():
                try:
                    trips = evaluate(step.trip, dict(sizes))
                except KeyError:  # It depends on data.
                    trips = 1
                pending += [(s, times * trips) for s in step.body]
    return counts


def rows_of(found: Sequence[Found], faults: frozenset[str]) -> tuple[Row, ...]:
    """What became of each kernel, the one with most of the time first.

    Args:
        found: what the search knows.
        faults: the kernels whose schedules were not taken, because the model was slower.
    """
    total = sum(f.total for f in found) or 1.0
    rows = []
    for f in sorted(found, key=lambda f: f.total, reverse=True):
        fault = f.task.key in faults
        taken = f.best is not None and not fault
        ratio = f.best.ratio if f.best is not None and taken else 1.0
        note = "untuned stays: the model was no faster with it" if fault else f.note
        rows.append(
            Row(
                f.task.title, f.task.calls, f.total / total, f.seconds, f.seconds * ratio,
                f.choices if taken else {}, f.trials, f.size, note,
            )
        )  # fmt: skip
    return tuple(rows)
