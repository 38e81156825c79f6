"""What became of each sample of torch's operator database: results, and the ratchet file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, get_args

RATCHET = Path(__file__).with_name("opdb.txt")
Outcome = Literal["pass", "refused", "inexportable", "random", "wrong", "crash"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
DTYPES = ("f32", "i64", "bool")


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """One sample: the operator's full name with its variant, one of DTYPES, and its place."""

    op: str
    dtype: str
    place: int

    def __str__(self) -> str:
        return f"{self.op} {self.dtype} {self.place}"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one sample, and why it did not pass.

    Attributes:
        outcome: ``refused`` by an error with a code; ``inexportable`` by torch itself, or not even
            run by eager; ``random`` where there is no one value to expect; ``crash`` also where
            it does not end.
    """

    key: Key
    outcome: Outcome
    detail: str = ""


def read_ratchet(path: Path = RATCHET) -> dict[Key, str]:
    """What became of each sample when the file was written."""
    found: dict[Key, str] = {}
    for line in path.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        head, _, rest = line.partition(": ")
        op, dtype = head.split()
        for part in rest.split("; "):
            outcome, _, places = part.partition(" ")
            found.update((Key(op, dtype, place), outcome) for place in _places(places))
    return found


def _places(text: str) -> Iterator[int]:
    for piece in text.split(","):
        first, _, last = piece.partition("-")
        yield from range(int(first), int(last or first) + 1)


def write_ratchet(outcomes: Mapping[Key, str], path: Path = RATCHET) -> None:
    """Writes one line per operator and type: ``add f32: pass 0-9,11; refused 10``."""
    counts = Counter(outcomes.values())
    lines = [
        "# What became of each sample of torch's operator database: places by outcome.",
        "# Written by: python -m tests.frontends.torch.opdb --update",
        f"# {', '.join(f'{counts[o]} {o}' for o in OUTCOMES if counts[o])}",
    ]
    keys = sorted(outcomes, key=lambda k: (k.op, DTYPES.index(k.dtype), k.place))
    for (op, dtype), group in groupby(keys, key=lambda k: (k.op, k.dtype)):
        places: dict[str, list[int]] = {}
        for key in group:
            places.setdefault(outcomes[key], []).append(key.place)
        parts = (f"{o} {_ranges(places[o])}" for o in OUTCOMES if o in places)
        lines.append(f"{op} {dtype}: {'; '.join(parts)}")
    path.write_text("\n".join(lines) + "\n")


def _ranges(places: Sequence[int]) -> str:
    pieces = []
    for _, group in groupby(enumerate(places), key=lambda pair: pair[1] - pair[0]):
        numbers = [place for _, place in group]
        pieces.append(f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}")
    return ",".join(pieces)


def lost(results: Sequence[Result], ratchet: Mapping[Key, str]) -> list[Result]:
    """The samples that passed and do not any more, and all that are wrong or crash."""
    return [
        r
        for r in results
        if r.outcome in ("wrong", "crash") or (ratchet.get(r.key) == "pass" and r.outcome != "pass")
    ]
