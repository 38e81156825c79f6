"""Records: every trial in one SQLite file, so that nothing measured is lost.

Each trial is committed by itself in write-ahead mode: a process that is killed loses none that it
has reported, and several processes may add to one file. What is replayed for a kernel is the
verdict of the last search, else the best trial.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from tilewright.errors import ArtifactError, OutputError, TilewrightError
from tilewright.runtime.cache import digest_key

from .trial import (
    STATUSES,
    About,
    Trial,
    Verdict,
    read_choices,
    read_features,
    write_choices,
    write_features,
)

FORMAT = 1
"""The version of the tables; a file with a higher one was written by a newer Tilewright."""

_APPLICATION = 0x74775263  # "twRc"
_MAGIC = b"SQLite format 3\0"
_BUSY_SECONDS = 30.0
WORTH = 0.98
"""A schedule is taken where its time is at most this part of the untuned one's."""

_TABLES = """
CREATE TABLE about (
    key TEXT PRIMARY KEY, title TEXT, target TEXT, version TEXT, math TEXT, text TEXT
) WITHOUT ROWID;
CREATE TABLE trials (
    key TEXT, setting TEXT, choices TEXT, status TEXT, ratio REAL, seconds REAL, rounds INTEGER,
    kind TEXT, note TEXT, at TEXT, features TEXT, PRIMARY KEY (key, setting, choices)
) WITHOUT ROWID;
CREATE TABLE verdicts (
    key TEXT, setting TEXT, choices TEXT, at TEXT, PRIMARY KEY (key, setting)
) WITHOUT ROWID;
"""

_Row = TypeVar("_Row", Trial, Verdict, About)
_NAMES = {Trial: "trials", Verdict: "verdicts", About: "about"}


class Records:
    """A file of records that is open.

    Args:
        connection: to the database; closed by ``close``.
        path: the file, for messages.
    """

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self.path = path

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -------------------------------------------------------------- reading

    def trials(self, key: str | None = None, setting: str | None = None) -> list[Trial]:
        """The trials of a kernel in a setting, or all of them, the oldest first."""
        return self._rows(Trial, key, setting)

    def verdicts(self, key: str | None = None, setting: str | None = None) -> list[Verdict]:
        """The verdicts on a kernel, or all of them, the oldest first."""
        return self._rows(Verdict, key, setting)

    def about(self) -> list[About]:
        """What the kernels are, by key."""
        return self._rows(About, None, None)

    def _rows(self, kind: type[_Row], key: str | None, setting: str | None) -> list[_Row]:
        where = {k: v for k, v in (("key", key), ("setting", setting)) if v is not None}
        condition = " AND ".join(f"{k} = ?" for k in where) or "1"
        order = "key" if _NAMES[kind] == "about" else "at, key, choices"
        names = [f.name for f in fields(kind)]
        query = f"SELECT {', '.join(names)} FROM {_NAMES[kind]} WHERE {condition} ORDER BY {order}"
        with self._watched():
            found = self._connection.execute(query, tuple(where.values())).fetchall()
            return [kind(**_read(dict(zip(names, row, strict=True)))) for row in found]

    def choices(self) -> dict[str, Mapping[str, int]]:
        """What to use for each kernel, by key: what the last setting it was tuned in says."""
        last: dict[str, tuple[str, str]] = {}
        rows: list[Trial | Verdict] = [*self.trials(), *self.verdicts()]
        for row in rows:
            last[row.key] = max(last.get(row.key, ("", "")), (row.at, row.setting))
        chosen: dict[str, Mapping[str, int]] = {}
        best: dict[str, Trial] = {}
        for trial in self.trials():
            if last[trial.key][1] == trial.setting and trial.status == "ok":
                better = trial.key not in best or trial.ratio < best[trial.key].ratio
                if trial.ratio <= WORTH and better:
                    best[trial.key] = trial
        chosen |= {key: trial.choices for key, trial in best.items()}
        for verdict in self.verdicts():
            if last[verdict.key][1] == verdict.setting:
                chosen[verdict.key] = verdict.choices
        return {key: answers for key, answers in sorted(chosen.items()) if answers}

    # -------------------------------------------------------------- writing

    def add(self, row: Trial | Verdict | About) -> None:
        """Keeps a row for good before it returns; one with the same key is replaced.

        Raises:
            OutputError: the file cannot be written (TW-E0601), or the disk is full (TW-E0602).
        """
        self.add_all([row])

    def add_all(self, rows: Iterable[Trial | Verdict | About]) -> None:
        """Keeps all of some rows, or none; see ``add``."""
        with self._watched(), self._connection:
            for row in rows:
                values = [_column(getattr(row, f.name)) for f in fields(row)]
                marks = ", ".join("?" for _ in values)
                self._connection.execute(
                    f"INSERT OR REPLACE INTO {_NAMES[type(row)]} VALUES ({marks})", values
                )

    def merge(self, other: Records) -> int:
        """Takes what another file knows better; returns how many rows were taken.

        Of two trials of one schedule, the one with more rounds counts, else the later one; of two
        verdicts, the later one.
        """
        trials = {(t.key, t.setting, write_choices(t.choices)): t for t in self.trials()}
        verdicts = {(v.key, v.setting): v for v in self.verdicts()}
        known = {a.key for a in self.about()}
        taken: list[Trial | Verdict | About] = [a for a in other.about() if a.key not in known]
        for t in other.trials():
            mine = trials.get((t.key, t.setting, write_choices(t.choices)))
            if mine is None or (mine.rounds, mine.at) < (t.rounds, t.at):
                taken.append(t)
        for v in other.verdicts():
            own = verdicts.get((v.key, v.setting))
            if own is None or own.at < v.at:
                taken.append(v)
        self.add_all(taken)
        return len(taken)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Makes errors of the database errors with a code."""
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            raise _coded(self.path, error) from error


def open_records(path: str | os.PathLike[str] | None) -> Records:
    """Opens a file of records to read and add to; makes it where there is none.

    Args:
        path: the file; None: records in memory, which end with the process.

    Raises:
        ArtifactError: it holds something else (TW-E0530), was written by a newer Tilewright
            (TW-E0531) or is damaged (TW-E0532); it is left as it is.
        OutputError: it cannot be written (TW-E0601), or the disk is full (TW-E0602).
    """
    if path is None:
        connection = sqlite3.connect(":memory:")
        _create(connection)
        return Records(connection, "records in memory")
    name = os.fspath(path)
    new = _check_magic(Path(name), must_be_there=False)
    try:
        connection = sqlite3.connect(name, timeout=_BUSY_SECONDS)
    except sqlite3.Error as error:
        raise _coded(name, error) from error
    try:
        # Another process may be making it: until its tables are there, the database is empty.
        if not new and not _is_empty(connection):
            _check(connection, name)
        _write_ahead(connection)
        # Enough for a process that is killed; a power cut may take the last trials with it.
        connection.execute("PRAGMA synchronous = NORMAL")
        if not connection.execute("PRAGMA application_id").fetchone()[0]:
            _create(connection)
        with connection:  # A file that cannot be written is refused now, not after a search.
            connection.execute("DELETE FROM about WHERE 0")
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    except (sqlite3.Error, TilewrightError) as error:
        connection.close()
        raise _coded(name, error) from error
    return Records(connection, name)


def read_records(path: str | os.PathLike[str]) -> Records:
    """Opens a file of records to read, also where nothing can be written.

    Raises:
        ArtifactError: as ``open_records`` does, or there is no such file (TW-E0533).
    """
    name = os.fspath(path)
    _check_magic(Path(name), must_be_there=True)
    uri = Path(name).absolute().as_uri()
    failure: Exception | None = None
    # Reading beside a writer needs its files; where they cannot be made there is no writer.
    for mode in ("mode=ro", "mode=ro&immutable=1"):
        connection = sqlite3.connect(f"{uri}?{mode}", uri=True, timeout=_BUSY_SECONDS)
        try:
            if _is_empty(connection):
                raise ArtifactError(
                    f"{name}: is an empty database, and no file of records; if a search is just "
                    f"making it, try again",
                    code="TW-E0530",
                )
            _check(connection, name)
        except sqlite3.OperationalError as error:
            failure = error
            connection.close()
            continue
        except (sqlite3.Error, TilewrightError) as error:
            connection.close()
            raise _coded(name, error, reading=True) from error
        return Records(connection, name)
    assert failure is not None
    raise _coded(name, failure, reading=True) from failure


def digest_of(choices: Mapping[str, Mapping[str, int]]) -> str:
    """A digest of what is to be used for each kernel."""
    return digest_key(*(f"{key} {write_choices(a)}" for key, a in sorted(choices.items())))


# ------------------------------------------------------------------ opening


def _create(connection: sqlite3.Connection) -> None:
    """Makes the tables, in one step that another process sees whole or not at all."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")


def _check_magic(path: Path, must_be_there: bool) -> bool:
    """Whether the file is still to be made; refuses what is no database at all."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except FileNotFoundError as error:
        if must_be_there:
            raise ArtifactError(
                f"{path}: there is no such file of records; tilewright tune makes one",
                code="TW-E0533",
            ) from error
        return True
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot be read: {error.strerror or error}", code="TW-E0533"
        ) from error
    if not start and not must_be_there:
        return True
    if start != _MAGIC:
        raise ArtifactError(
            f"{path}: is no file of records: it does not start as one; it is left as it is, name "
            f"another file",
            code="TW-E0530",
        )
    return False


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Turns write-ahead mode on; SQLite itself does not wait here for others that do the same."""
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > end:
                raise
        time.sleep(0.01)


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Whether a database holds nothing at all, and no program has put its name on it."""
    marks = [
        connection.execute(f"PRAGMA {m}").fetchone()[0] for m in ("application_id", "user_version")
    ]
    return not any(marks) and not connection.execute("SELECT 1 FROM sqlite_master").fetchone()


def _check(connection: sqlite3.Connection, name: str) -> None:
    """Refuses a database with anything but records that this version understands."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise ArtifactError(
            f"{name}: is a database of another program, not a file of records; it is left as it "
            f"is, name another file",
            code="TW-E0530",
        )
    if version > FORMAT:
        raise ArtifactError(
            f"{name}: has records of format {version}, and this Tilewright reads up to {FORMAT}; "
            f"install a newer one, or name another file",
            code="TW-E0531",
        )
    (found,) = connection.execute("PRAGMA quick_check").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(found)
    for kind, table in _NAMES.items():
        names = ", ".join(f.name for f in fields(kind))
        connection.execute(f"SELECT {names} FROM {table} LIMIT 1").fetchone()


def _coded(path: str, error: Exception, reading: bool = False) -> TilewrightError:
    """An error of the database as one of ours."""
    if isinstance(error, TilewrightError):
        return error
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL"):
        return OutputError(
            f"{path}: the disk is full: {error}; what was recorded before is kept, free some space "
            f"and go on",
            code="TW-E0602",
        )
    places = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM", "SQLITE_BUSY")
    if name.startswith(places):
        if reading:
            return ArtifactError(f"{path}: cannot be read: {error}", code="TW-E0533")
        return OutputError(f"{path}: records cannot be written there: {error}", code="TW-E0601")
    return ArtifactError(
        f"{path}: the records are damaged: {error}; the file is left as it is, name another one",
        code="TW-E0532",
    )


def _column(value: object) -> object:
    """A field as the tables have it."""
    match value:
        case Mapping():
            return write_choices(value)
        case tuple():
            return write_features(value)
    return value


def _read(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table as the fields of its kind.

    Raises:
        ValueError: it holds something else.
    """
    if "choices" in row:
        row["choices"] = read_choices(str(row["choices"]))
    if "features" in row:
        row["features"] = read_features(str(row["features"]))
    if "status" in row and row["status"] not in STATUSES:
        raise ValueError(f"there is no status {row['status']!r}")
    return row
