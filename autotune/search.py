"""The search: time goes where the model's time is, and every trial is kept as it comes.

All kernels are built and timed untuned first. From then on the next candidate is always of the
kernel from which most is to be had: the more of the model's time it takes and the fewer of its
last candidates were no better, the sooner. Builds run beside the one measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import prod
from typing import Any, Literal

from tilewright.errors import OutputError
from tilewright.schedule.recipes.space import Answers
from tilewright.tensor.ir import Reduce
from tilewright.tensor.simplify import evaluate
from tilewright.tensor.text import text
from tilewright.tensor.walk import visit
from tilewright.version import __version__

from .candidates import Proposer
from .job import Candidate, Lower, Measured, build, is_modelled, measure, time_base
from .processes import FailedJobError, LostJobError, Workers
from .ranking import Learned, look_at, row
from .records import WORTH, Records
from .task import Task, target_key
from .trial import About, Status, Trial

BUILD_SECONDS = 30.0
GLANCE_SECONDS = 0.04
LOOK_SECONDS = 0.25
"""How long a candidate is timed, and one that seems to be the best so far."""
FIRST_SECONDS, _MODEL_SECONDS = 15.0, 120.0
"""How long the first timing of an untuned schedule may take, and any by a model."""
PATIENCE_SECONDS, _BUILD_PATIENCE, _MEASURE_PATIENCE = 2.0, 10.0, 4.0
"""How much longer than the untuned schedule a candidate may take: so many times as long to build,
to load and to measure, and these seconds more. Then the job is ended, and the search goes on."""
_UNTUNED_SHARE = 0.4
"""How much of the time may go into timing kernels untuned."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a search has just done.

    Attributes:
        task: the kernel. number, of: which one of how many.
        what: "untuned" for its first timing, else how the trial ended.
        ratio: of the trial.
        best: the best ratio of this kernel so far.
        trials: how many there were so far, of all kernels.
        seconds: of one call of the kernel, untuned.
    """

    task: Task
    what: Status | Literal["untuned"]
    ratio: float
    best: float
    trials: int
    seconds: float = 0.0


@dataclass
class Found:
    """What a search knows of one kernel.

    Attributes:
        task: the kernel.
        seconds: its time untuned, of one of its calls; 0 where it was not timed.
        kind: "measured" or "modelled".
        best: the best trial that is worth taking; None: the untuned schedule.
        trials: how many schedules are known, those of earlier searches too.
        size: of the space, as far as it is known.
        note: why it was not searched, where it was not.
    """

    task: Task
    seconds: float = 0.0
    kind: str = "measured"
    best: Trial | None = None
    trials: int = 0
    size: int = 1
    note: str = ""

    @property
    def choices(self) -> Answers:
        """The answers to use."""
        return {} if self.best is None else self.best.choices

    @property
    def total(self) -> float:
        """The seconds of all its calls in one call of the model, untuned."""
        return self.seconds * self.task.calls


@dataclass
class _State:
    """A kernel while it is searched.

    Attributes:
        found: what is known of it. base: its untuned schedule.
        proposer: says what to try next.
        untuned: features of the untuned schedule, where a ranking learns.
        build_limit, measure_limit: seconds after which a candidate's job is ended.
        stale: how many candidates in a row were no better. flying: how many are on their way.
        exhausted: whether nothing is left to try.
    """

    found: Found
    base: Candidate
    proposer: Proposer
    untuned: list[float]
    build_limit: float
    measure_limit: float
    stale: int = 0
    flying: int = 0
    exhausted: bool = False

    @property
    def best_ratio(self) -> float:
        return 1.0 if self.found.best is None else self.found.best.ratio

    @property
    def promise(self) -> float:
        return self.found.total * self.best_ratio / (2 + self.stale + self.flying)


@dataclass
class Search:
    """One search over some kernels.

    Attributes:
        tasks: the kernels; two with one key are one kernel.
        lower: lowers a group by answers.
        workers: what builds and measures; closed at the end.
        records: where trials are kept.
        threads: of a call.
        deadline: when to stop, by time.monotonic.
        most: how many schedules to try at most; None: as many as there is time for.
        tell: told of every step.
        learned: ranks candidates by what trials taught it; None: the analytic model does.
        seed: of all that is random.
    """

    tasks: Sequence[Task]
    lower: Lower
    workers: Workers
    records: Records
    threads: int
    deadline: float
    most: int | None = None
    tell: Callable[[Step], None] = lambda step: None
    learned: Learned | None = None
    seed: int = 0
    trials: int = 0
    stopped: str = ""
    _states: list[_State] = field(default_factory=list)
    _flying: dict[Future[Any], tuple[_State, Candidate | Answers, float]] = field(
        default_factory=dict
    )

    def run(self) -> list[Found]:
        """Searches until the deadline, or until nothing is left to try.

        A record that cannot be written ends the search, not the program: ``stopped`` says why,
        and what was found so far is returned.
        """
        found = [Found(t) for t in sorted(self.tasks, key=work_of, reverse=True)]
        try:
            self._time_untuned(found)
            while time.monotonic() < self.deadline:
                self._fill()
                if not self._flying:
                    break
                self._collect()
        except OutputError as error:
            self.stopped = str(error)
        finally:
            self.workers.close()
        return found

    # -------------------------------------------------------------- untuned

    def _time_untuned(self, found: Sequence[Found]) -> None:
        """Builds and times every kernel as the model has it, the largest first."""
        builds = {f.task.key: self._build(f.task, {}) for f in found}
        # The kernels with the most operations come first: what is to be had is had of them.
        began = time.monotonic()
        enough = began + _UNTUNED_SHARE * (self.deadline - began)
        for f in found:
            left = self.deadline - time.monotonic()
            if left <= 0 or (self._states and time.monotonic() > enough):
                builds[f.task.key].cancel()
                f.note = "no time was left for it"
                continue
            try:
                base: Candidate = builds[f.task.key].result(left)
                seconds = min(GLANCE_SECONDS, left)
                limit = _MODEL_SECONDS if is_modelled(f.task.target) else FIRST_SECONDS
                timing = self.workers.measure(limit, time_base, f.task, base, self.threads, seconds)
                measured: Measured = timing.result(left)
            except TimeoutError:
                f.note = "no time was left for it"
                continue
            except (LostJobError, FailedJobError) as error:
                f.note = f"not searched, untuned it could not be measured: {error}"
                continue
            self._begin(f, base, measured)

    def _begin(self, f: Found, base: Candidate, measured: Measured) -> None:
        task, lowered = f.task, base.lowered
        f.seconds, f.kind = measured.seconds, measured.kind
        untuned = look_at(task, lowered.kernels) if f.kind == "measured" else []
        ranking = self.learned.of(task, untuned) if self.learned and untuned else None
        # With one thread nothing is shared, and a schedule for it is replayed with more.
        settled = ("parallel",) if self.threads == 1 and f.kind == "measured" else ()
        proposer = Proposer(lowered.asked, lowered.weighed, settled, self.seed, ranking)
        setting = setting_of(task, self.threads)
        known = self.records.trials(task.key, setting)
        proposer.remember(known)
        f.trials, f.size = len(known), proposer.space.size
        good = [t for t in known if t.status == "ok" and t.ratio <= WORTH]
        f.best = min(good, key=lambda t: t.ratio, default=None)
        self.records.add(
            About(
                task.key, task.title, target_key(task.target), __version__, task.math,
                text(task.group),
            )
        )  # fmt: skip
        if proposer.space.size > 1:
            self._states.append(_State(f, base, proposer, untuned, *limits(base, measured)))
        else:
            f.note = "there is nothing to choose"
        self.tell(Step(task, "untuned", 1.0, 1.0, self.trials, f.seconds))

    # -------------------------------------------------------------- candidates

    def _fill(self) -> None:
        """Keeps the builders busy."""
        most = self.workers.builders + 2
        if self.most is not None:
            most = min(most, self.most - self.trials)
        while len(self._flying) < most:
            ready = [s for s in self._states if not s.exhausted]
            if not ready:
                return
            state = max(ready, key=lambda s: s.promise)
            given = state.proposer.next()
            if given is None:
                state.exhausted = True
                continue
            state.flying += 1
            building = self._build(state.found.task, given, state.build_limit)
            self._flying[building] = (state, given, 0.0)

    def _collect(self) -> None:
        """Takes what is done, and sends what is built on to be measured."""
        left = max(0.0, self.deadline - time.monotonic())
        done, _ = wait(self._flying, timeout=left, return_when=FIRST_COMPLETED)
        for future in done:
            state, what, seconds = self._flying.pop(future)
            if isinstance(what, Candidate):
                self._after_measuring(state, what, future, seconds)
            else:
                self._after_building(state, what, future)

    def _after_building(self, state: _State, given: Answers, future: Future[Any]) -> None:
        try:
            candidate: Candidate = future.result()
        except (LostJobError, FailedJobError) as error:
            self._keep(state, given, _status(error), note=str(error))
            return
        lowered = candidate.lowered
        new = state.proposer.built(given, lowered.asked, lowered.weighed)
        state.found.size = state.proposer.space.size
        if not new:
            state.flying -= 1
            return
        self._measure(state, candidate, GLANCE_SECONDS)

    def _after_measuring(
        self, state: _State, candidate: Candidate, future: Future[Any], seconds: float
    ) -> None:
        given = candidate.given
        try:
            measured: Measured = future.result()
        except (LostJobError, FailedJobError) as error:
            self._keep(state, given, _status(error), note=str(error))
            return
        if not measured.agrees:
            self._keep(state, given, "wrong", note=measured.note, kind=measured.kind)
            return
        promising = measured.ratio < min(state.best_ratio, WORTH)
        if promising and seconds < LOOK_SECONDS and measured.kind == "measured":
            self._measure(state, candidate, LOOK_SECONDS)
            return
        look = look_at(state.found.task, candidate.lowered.kernels) if state.untuned else []
        self._keep(state, given, "ok", measured=measured, features=look)

    def _keep(
        self,
        state: _State,
        given: Answers,
        status: Status,
        note: str = "",
        kind: str = "measured",
        measured: Measured | None = None,
        features: Sequence[float] = (),
    ) -> None:
        f = state.found
        trial = Trial(
            f.task.key,
            setting_of(f.task, self.threads),
            given,
            status,
            0.0 if measured is None else measured.ratio,
            f.seconds if measured is None else measured.seconds,
            0 if measured is None else measured.rounds,
            kind if measured is None else measured.kind,
            note,
            now(),
            row(state.untuned, features) if features else (),
        )
        if self.learned is not None:
            self.learned.learn(trial)
        state.flying -= 1
        state.stale += 1
        self.trials += 1
        f.trials += 1
        if trial.status == "ok":
            state.proposer.measured(given, trial.ratio)
            if trial.ratio < min(state.best_ratio, WORTH):
                f.best = trial
                state.stale = 0
        self.records.add(trial)
        self.tell(Step(f.task, status, trial.ratio, state.best_ratio, self.trials, f.seconds))

    # -------------------------------------------------------------- jobs

    def _build(self, task: Task, given: Answers, limit: float = BUILD_SECONDS) -> Future[Any]:
        return self.workers.build(min(limit, BUILD_SECONDS), build, task, self.lower, given)

    def _measure(self, state: _State, candidate: Candidate, seconds: float) -> None:
        future = self.workers.measure(
            state.measure_limit + seconds, measure, state.found.task, state.base, candidate,
            self.threads, seconds,
        )  # fmt: skip
        self._flying[future] = (state, candidate, seconds)


def limits(base: Candidate, measured: Measured) -> tuple[float, float]:
    """How long building and measuring a candidate may take, by how long the untuned schedule did.

    Where a model compares schedules, simulating one may take many times as long as another.
    """
    built = PATIENCE_SECONDS + _BUILD_PATIENCE * base.seconds
    if measured.kind == "modelled":
        return built, _MODEL_SECONDS
    return built, PATIENCE_SECONDS + _MEASURE_PATIENCE * measured.took


def setting_of(task: Task, threads: int) -> str:
    """What a measurement depends on besides the kernel: threads, and sizes of its symbols."""
    sizes = " ".join(str(task.sizes[name]) for name in task.symbols)
    return f"threads={threads}" + (f" sizes={sizes}" if sizes else "")


def work_of(task: Task) -> float:
    """About how many operations all calls of a kernel are."""
    return float(task.calls) * sum(
        _count([a.extent for a in stage.axes], task.sizes)
        * sum(
            _count([a.extent for a in e.axes], task.sizes) if isinstance(e, Reduce) else 1.0
            for e in visit(stage.expr)
            if isinstance(e, Reduce) or e is stage.expr
        )
        for stage in task.group.stages
    )


def _count(extents: Iterable[Any], sizes: Mapping[str, int]) -> float:
    return float(prod(evaluate(d, sizes) for d in extents))


def now() -> str:
    """This moment, as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _status(error: LostJobError | FailedJobError) -> Status:
    if isinstance(error, FailedJobError):
        return "refused"
    return "hung" if error.hung else "crashed"
