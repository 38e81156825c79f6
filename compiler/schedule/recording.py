"""Recordings: the steps that made a kernel, as plain data, Python or JSON, and their replay.

A kernel is one schedule of its plain function, or two of which a condition on the sizes chooses
one. Replaying a recording on the same plain function gives the same kernel. A method that writes
loops of its own (lower/winograd.py) records by which plan, and replays such a recording itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from ..errors import ArtifactError
from ..tensor.ir import Expr, Func, If, Var
from ..tensor.parse import parse_expr
from ..tensor.text import text
from .loops import rename_loops
from .nest import fail, simplify_func
from .pack import Packing
from .schedule import STEPS, Schedule, Steps

SHORT = "_short"
"""What the names of loops end in in the version for few rows."""


@dataclass(frozen=True, slots=True)
class Recording:
    """How a kernel came to be.

    Attributes:
        steps: of its schedule.
        when: the condition under which they hold, as text over the kernel's symbols; empty where
            there is one version only.
        otherwise: the steps of the other version.
        method: what wrote the loops that the steps are for; empty where they are the plain
            function's.
        plan: by which it did, as names and numbers.
    """

    steps: Steps
    when: str = ""
    otherwise: Steps = ()
    method: str = ""
    plan: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        """The steps as Python, on a Schedule called ``s``; those of the other version on ``t``."""
        first = _python("s", self.steps)
        if self.method:
            plan = ", ".join(f"{name}={value}" for name, value in self.plan)
            return f"# {self.method}({plan})\n{first}"
        if not self.when:
            return first
        return f"# if {self.when}\n{first}\n# else\n{_python('t', self.otherwise)}"

    def json(self) -> str:
        """The recording as a JSON object."""
        found = {"steps": self.steps, "when": self.when, "otherwise": self.otherwise}
        if self.method:
            found |= {"method": self.method, "plan": dict(self.plan)}
        return json.dumps(found)

    @classmethod
    def from_json(cls, source: str) -> Recording:
        """The recording that ``json`` wrote.

        Raises:
            ArtifactError: the text is no recording, or has a step that there is not (TW-E0522).
        """
        try:
            found = json.loads(source)
            made = cls(
                _steps(found["steps"]),
                str(found["when"]),
                _steps(found["otherwise"]),
                str(found.get("method", "")),
                tuple((str(k), int(v)) for k, v in found.get("plan", {}).items()),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"not the text of a schedule: {type(error).__name__}: {error}", code="TW-E0522"
            ) from error
        unknown = {name for name, _ in (*made.steps, *made.otherwise)} - {*STEPS, "pack"}
        if unknown:
            raise ArtifactError(
                f"not the text of a schedule: there is no step {', '.join(sorted(unknown))}",
                code="TW-E0522",
            )
        return made

    def replay(self, func: Func) -> tuple[Func, tuple[Packing, ...]]:
        """The kernel and its packings, from the plain function that was scheduled.

        Raises:
            ScheduleError: a step does not apply, or a method wrote other loops: it is another
                function.
        """
        if self.method:
            raise fail(self.method, func, "this schedule is of loops that the method writes")
        first = Schedule(func).replay(self.steps)
        if not self.when:
            return first.finish(), tuple(first.packings)
        symbols = [p for p in func.params if isinstance(p, Var)]
        other = Schedule(func).replay(self.otherwise)
        cond = parse_expr(self.when, symbols)
        return either(cond, first, other), tuple(first.packings)


def either(cond: Expr, tall: Schedule, low: Schedule) -> Func:
    """Both versions of a kernel in one: the first where the condition holds."""
    first, short = tall.finish(), simplify_func(low.func)
    body = If(cond, first.body, rename_loops(short.body, SHORT))
    return Func(first.name, first.params, (body,))


def record(s: Schedule) -> Recording:
    """The recording of a kernel with one version."""
    return Recording(tuple(s.steps))


def record_either(cond: Expr, tall: Schedule, low: Schedule) -> Recording:
    """The recording of what ``either`` makes."""
    return Recording(tuple(tall.steps), text(cond), tuple(low.steps))


def _python(name: str, steps: Steps) -> str:
    return "\n".join(f"{name}.{step}({', '.join(map(repr, args))})" for step, args in steps)


def _steps(found: object) -> Steps:
    if not isinstance(found, list):
        raise ValueError(f"{found!r} are no steps")
    return tuple((str(name), tuple(_plain(a) for a in args)) for name, args in found)


def _plain(value: object) -> object:
    """A JSON value as steps have it: sequences are tuples."""
    return tuple(map(_plain, value)) if isinstance(value, list) else value
