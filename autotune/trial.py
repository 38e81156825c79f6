"""Trials: what was measured of one schedule of one kernel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Status = Literal["ok", "wrong", "crashed", "hung", "refused"]
"""ok: right and measured; wrong: other values than the untuned kernel's; crashed: its process
ended; hung: it did not end; refused: no code could be made of it."""

STATUSES: frozenset[str] = frozenset(get_args(Status))


@dataclass(frozen=True, slots=True)
class Trial:
    """One schedule of a kernel, measured against the untuned one.

    Attributes:
        key: what the kernel is known by.
        setting: where it was measured: threads and sizes.
        choices: the answers to the recipe's questions that made the schedule.
        status: how it went.
        ratio: its time over the untuned kernel's, in turns in one process; 0 if not measured.
        seconds: the time of the untuned kernel there.
        rounds: how many pairs of blocks were timed for it.
        kind: "measured", or "modelled" where no machine of the target ran it.
        note: what went wrong.
        at: when, in UTC, as ISO 8601.
        features: what the schedule looks like, beside the untuned one (ranking.row); empty where
            that was not looked at.
    """

    key: str
    setting: str
    choices: Mapping[str, int]
    status: Status
    ratio: float
    seconds: float
    rounds: int
    kind: str
    note: str
    at: str
    features: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be used for a kernel, decided on the whole model at the end of a search.

    Attributes:
        key, setting: the kernel, as trials have them.
        choices: the answers to use; none: the untuned kernel.
        at: when, in UTC, as ISO 8601.
    """

    key: str
    setting: str
    choices: Mapping[str, int]
    at: str


@dataclass(frozen=True, slots=True)
class About:
    """What people may want to know of a kernel that records are about.

    Attributes:
        key: what it is known by.
        title: its name in the model where it was first met.
        target, version, math: part of what the key is made of.
        text: the tensor expressions.
    """

    key: str
    title: str
    target: str
    version: str
    math: str
    text: str


def write_features(features: tuple[float, ...]) -> str:
    """Features as JSON, as exactly as a ranking needs them."""
    return json.dumps([round(x, 4) for x in features])


def read_features(text: str) -> tuple[float, ...]:
    """Features that ``write_features`` wrote.

    Raises:
        ValueError: it did not.
    """
    found = json.loads(text)
    if not isinstance(found, list) or not all(type(x) in (int, float) for x in found):
        raise ValueError(f"{text[:80]!r} are no features")
    return tuple(float(x) for x in found)


def write_choices(choices: Mapping[str, int]) -> str:
    """Answers as JSON; equal ones give equal texts."""
    return json.dumps(dict(sorted(choices.items())))


def read_choices(text: str) -> dict[str, int]:
    """Answers that ``write_choices`` wrote.

    Raises:
        ValueError: it did not.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or not all(type(v) is int for v in found.values()):
        raise ValueError(f"{text[:80]!r} are no answers")
    return found
