"""Recordings: the steps that made a kernel, as plain data, Python or JSON, and their replay.

A kernel is one schedule of its plain function, or several of which conditions on the sizes choose
one. Replaying a recording on the same plain function gives the same kernel. A method that writes
loops of its own (lower/winograd.py) records by which plan, and replays such a recording itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ArtifactError
from ..tensor.ir import Expr, Func, If, Var
from ..tensor.parse import parse_expr
from ..tensor.text import text
from .loops import rename_loops
from .nest import fail
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
        otherwise: the steps of the other version, or the recording of those that a further
            condition chooses from.
        method: what wrote the loops that the steps are for; empty where they are the plain
            function's.
        plan: by which it did, as names and numbers.
    """

    steps: Steps
    when: str = ""
    otherwise: Steps | Recording = ()
    method: str = ""
    plan: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        """The steps as Python, on a Schedule called ``s``; other versions' on ``t`` and ``u``."""
        return self.python("stu")

    def python(self, names: str) -> str:
        """The steps as Python, on a Schedule of another name for each version."""
        first = _python(names[0], self.steps)
        if self.method:
            plan = ", ".join(f"{name}={value}" for name, value in self.plan)
            return f"# {self.method}({plan})\n{first}"
        if not self.when:
            return first
        found, others = self.otherwise, names[1:]
        rest = found.python(others) if isinstance(found, Recording) else _python(others[0], found)
        return f"# if {self.when}\n{first}\n# else\n{rest}"

    def json(self) -> str:
        """The recording as a JSON object."""
        return json.dumps(self.plain())

    def plain(self) -> dict[str, object]:
        """The recording as values of JSON."""
        rest = self.otherwise
        plain = rest.plain() if isinstance(rest, Recording) else rest
        found: dict[str, object] = {"steps": self.steps, "when": self.when, "otherwise": plain}
        if self.method:
            found |= {"method": self.method, "plan": dict(self.plan)}
        return found

    @classmethod
    def from_json(cls, source: str) -> Recording:
        """The recording that ``json`` wrote.

        Raises:
            ArtifactError: the text is no recording, or has a step that there is not (TW-E0522).
        """
        try:
            made = _recording(json.loads(source))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"not the text of a schedule: {type(error).__name__}: {error}", code="TW-E0522"
            ) from error
        unknown = set(made.names()) - {*STEPS, "pack"}
        if unknown:
            raise ArtifactError(
                f"not the text of a schedule: there is no step {', '.join(sorted(unknown))}",
                code="TW-E0522",
            )
        return made

    def names(self) -> tuple[str, ...]:
        """The names of the steps of all versions."""
        rest = self.otherwise
        others = rest.names() if isinstance(rest, Recording) else tuple(name for name, _ in rest)
        return (*(name for name, _ in self.steps), *others)

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
        rest = self.otherwise
        other, _ = (rest if isinstance(rest, Recording) else Recording(rest)).replay(func)
        cond = parse_expr(self.when, symbols)
        return either(cond, first, other), tuple(first.packings)


def either(cond: Expr, tall: Schedule, low: Func) -> Func:
    """Both versions of a kernel in one: the first where the condition holds."""
    first = tall.finish()
    body = If(cond, first.body, rename_loops(low.body, SHORT))
    return Func(first.name, first.params, (body,))


def record(s: Schedule) -> Recording:
    """The recording of a kernel with one version."""
    return Recording(tuple(s.steps))


def record_either(cond: Expr, tall: Schedule, low: Recording) -> Recording:
    """The recording of what ``either`` makes."""
    return Recording(tuple(tall.steps), text(cond), low if low.when else low.steps)


def _python(name: str, steps: Steps) -> str:
    return "\n".join(f"{name}.{step}({', '.join(map(repr, args))})" for step, args in steps)


def _recording(found: Mapping[str, Any]) -> Recording:
    """What a JSON object records."""
    rest = found["otherwise"]
    return Recording(
        _steps(found["steps"]),
        str(found["when"]),
        _recording(rest) if isinstance(rest, dict) else _steps(rest),
        str(found.get("method", "")),
        tuple((str(k), int(v)) for k, v in found.get("plan", {}).items()),
    )


def _steps(found: object) -> Steps:
    if not isinstance(found, list):
        raise ValueError(f"{found!r} are no steps")
    return tuple((str(name), tuple(_plain(a) for a in args)) for name, args in found)


def _plain(value: object) -> object:
    """A JSON value as steps have it: sequences are tuples."""
    return tuple(map(_plain, value)) if isinstance(value, list) else value
