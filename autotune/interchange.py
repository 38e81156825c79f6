"""Records as JSON lines: to be read by other programs, and to be carried between machines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields

from tilewright.errors import ArtifactError

from .records import Records, open_records
from .trial import STATUSES, About, Trial, Verdict, read_features

FORMAT = 1

_KINDS = {"about": About, "trial": Trial, "verdict": Verdict}


def export_lines(records: Records) -> Iterator[str]:
    """One line for each row: what it is, the format's version, and its fields."""
    for kind, rows in (
        ("about", records.about()),
        ("trial", records.trials()),
        ("verdict", records.verdicts()),
    ):
        for row in rows:
            yield json.dumps({"row": kind, "format": FORMAT, **asdict(row)})


def import_lines(records: Records, lines: Iterable[str], name: str) -> int:
    """Merges exported lines into a file; all of them or, where one is wrong, none.

    Args:
        records: what to add to.
        lines: what ``export_lines`` gave; empty ones do not count.
        name: of their source, for messages.

    Returns:
        How many rows were taken.

    Raises:
        ArtifactError: a line is not understood (TW-E0534), or of a newer format (TW-E0531).
    """
    with open_records(None) as read:
        rows = [_row(line, f"{name}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
        read.add_all(rows)
        return records.merge(read)


def _row(line: str, where: str) -> Trial | Verdict | About:
    try:
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("it is no object")
        kind = _KINDS[found.pop("row")]
        version = found.pop("format")
        if not isinstance(version, int):
            raise ValueError("its format is no number")
        if version > FORMAT:
            raise ArtifactError(
                f"{where}: is of format {version}, and this Tilewright reads up to {FORMAT}; "
                f"install a newer one",
                code="TW-E0531",
            )
        _check(kind, found)
        if "features" in found:
            found["features"] = read_features(json.dumps(found["features"]))
        row: Trial | Verdict | About = kind(**found)
        return row
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{where}: is no exported record: {type(error).__name__}: {error}; nothing was taken",
            code="TW-E0534",
        ) from error


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "float": (int, float), "int": (int,), "Status": (str,),
    "Mapping[str, int]": (dict,), "tuple[float, ...]": (list,),
}  # fmt: skip


def _check(kind: type[Trial] | type[Verdict] | type[About], found: dict[str, object]) -> None:
    """Refuses values of other types than the fields have.

    Raises:
        ValueError: one is.
    """
    for f in fields(kind):
        value = found[f.name]
        if not isinstance(value, _TYPES[str(f.type)]) or isinstance(value, bool):
            raise ValueError(f"{f.name} is {value!r}")
        if isinstance(value, dict) and not all(type(v) is int for v in value.values()):
            raise ValueError(f"{f.name} is {value!r}")
    if "status" in found and found["status"] not in STATUSES:
        raise ValueError(f"status is {found['status']!r}")
