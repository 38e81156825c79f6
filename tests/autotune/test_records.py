"""Records keep every trial, say what to replay, and refuse what is no file of records."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tilewright.autotune.interchange import export_lines, import_lines
from tilewright.autotune.records import FORMAT, Records, open_records, read_records
from tilewright.autotune.trial import About, Status, Trial, Verdict
from tilewright.errors import ArtifactError, OutputError

ONE, TWO = "threads=1", "threads=2"
NOBODY = 65534


def trial(
    mr: int,
    ratio: float,
    *,
    key: str = "k",
    setting: str = ONE,
    status: Status = "ok",
    rounds: int = 5,
    at: str = "2026-01-01T00:00:00",
) -> Trial:
    return Trial(key, setting, {"mr": mr}, status, ratio, 1e-3, rounds, "measured", "", at)


def about(key: str = "k") -> About:
    return About(key, "matmul_0", "cpu", "0", "fast", "y0 = x0")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "records.db"


def test_rows_come_back_as_they_were_written(file: Path) -> None:
    rows = (trial(2, 0.5), trial(3, 0.0, status="crashed"), about())
    verdict = Verdict("k", ONE, {"mr": 2}, "2026-01-02")
    with open_records(file) as records:
        records.add_all([*rows, verdict])
    with read_records(file) as records:
        assert records.trials() == list(rows[:2])
        assert records.about() == [about()]
        assert records.verdicts() == [verdict]


def test_the_best_right_trial_that_is_worth_it_is_replayed() -> None:
    with open_records(None) as records:
        records.add_all([trial(2, 0.9), trial(3, 0.7), trial(4, 0.1, status="wrong")])
        assert records.choices() == {"k": {"mr": 3}}
        records.add_all([trial(2, 0.99, key="slow"), trial(3, 1.5, key="slow")])
        assert "slow" not in records.choices()


def test_a_verdict_counts_more_than_trials() -> None:
    with open_records(None) as records:
        records.add(trial(3, 0.5))
        records.add(Verdict("k", ONE, {}, "2026-01-02"))
        assert records.choices() == {}


def test_the_setting_that_was_tuned_last_is_replayed() -> None:
    with open_records(None) as records:
        records.add(trial(3, 0.5, at="2026-01-01"))
        records.add(trial(4, 0.9, setting=TWO, at="2026-01-02"))
        assert records.choices() == {"k": {"mr": 4}}


def test_a_trial_that_is_measured_again_replaces_the_first() -> None:
    with open_records(None) as records:
        records.add_all([trial(3, 0.5), trial(3, 0.8)])
        assert [t.ratio for t in records.trials("k", ONE)] == [0.8]


def test_merging_keeps_what_was_measured_longer_or_later() -> None:
    with open_records(None) as mine, open_records(None) as theirs:
        mine.add_all([trial(2, 0.9, rounds=5), trial(3, 0.8, rounds=50), about()])
        theirs.add_all([trial(2, 0.7, rounds=9), trial(3, 0.1, rounds=5), trial(4, 0.6), about()])
        theirs.add(Verdict("k", ONE, {"mr": 4}, "2026-01-03"))
        assert mine.merge(theirs) == 3
        assert {t.choices["mr"]: t.ratio for t in mine.trials()} == {2: 0.7, 3: 0.8, 4: 0.6}
        assert mine.choices() == {"k": {"mr": 4}}
        assert mine.merge(theirs) == 0


def test_exported_lines_import_to_the_same_records() -> None:
    with open_records(None) as first, open_records(None) as second:
        first.add_all([trial(2, 0.5), about(), Verdict("k", ONE, {"mr": 2}, "2026-01-02")])
        lines = list(export_lines(first))
        assert import_lines(second, [*lines, ""], "lines") == 3
        assert list(export_lines(second)) == lines


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("{", "TW-E0534"),
        ("[]", "TW-E0534"),
        ('{"row": "trial", "format": 1}', "TW-E0534"),
        ('{"row": "other", "format": 1}', "TW-E0534"),
        ('{"row": "verdict", "format": 99}', "TW-E0531"),
        (
            '{"row": "verdict", "format": 1, "key": "k", "setting": "s", "choices": {"mr": "6"}, '
            '"at": "now"}',
            "TW-E0534",
        ),
    ],
)
def test_a_line_that_is_not_understood_adds_nothing(line: str, code: str) -> None:
    with open_records(None) as good, open_records(None) as records:
        good.add(trial(2, 0.5))
        with pytest.raises(ArtifactError, match=code):
            import_lines(records, [*export_lines(good), line], "lines")
        assert records.trials() == []


# ------------------------------------------------------------------ bad files


def refused(file: Path) -> set[str]:
    """The codes with which a file is refused for reading and for writing; it stays as it is."""
    before = file.read_bytes()
    codes = set()
    for use in (open_records, read_records):
        with pytest.raises(ArtifactError) as error:
            use(file)
        codes.add(error.value.code)
        assert str(file) in str(error.value)
    assert file.read_bytes() == before
    return codes


def test_a_file_of_another_kind_is_refused(file: Path) -> None:
    file.write_text("not a database, but somebody's text")
    assert refused(file) == {"TW-E0530"}


def test_a_database_of_another_program_is_refused(file: Path) -> None:
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    assert refused(file) == {"TW-E0530"}


def test_records_of_a_newer_format_are_refused(file: Path) -> None:
    open_records(file).close()
    with sqlite3.connect(file) as newer:
        newer.execute(f"PRAGMA user_version = {FORMAT + 1}")
    newer.close()
    assert refused(file) == {"TW-E0531"}


def test_damaged_records_are_refused(file: Path) -> None:
    with open_records(file) as records:
        records.add_all([trial(k, 0.5, key=f"{n}") for n in range(50) for k in range(20)])
    data = bytearray(file.read_bytes())
    data[4096 * 2 : 4096 * 4] = b"\xa5" * 8192
    file.write_bytes(data)
    assert refused(file) == {"TW-E0532"}


def test_a_file_that_is_cut_off_is_refused(file: Path) -> None:
    with open_records(file) as records:
        records.add_all([trial(k, 0.5, key=f"{n}") for n in range(50) for k in range(20)])
    file.write_bytes(file.read_bytes()[:9000])
    assert refused(file) == {"TW-E0532"}


def test_answers_that_are_none_are_damage(file: Path) -> None:
    open_records(file).close()
    with sqlite3.connect(file) as other:
        other.execute("INSERT INTO verdicts VALUES ('k', 's', '{\"mr\": \"six\"}', 'now')")
    other.close()
    with read_records(file) as records, pytest.raises(ArtifactError, match="TW-E0532"):
        records.choices()


def test_reading_needs_a_file(file: Path) -> None:
    with pytest.raises(ArtifactError, match="TW-E0533"):
        read_records(file)
    with pytest.raises(ArtifactError, match="TW-E0533"):
        read_records(file.parent)


def test_an_empty_file_becomes_records(file: Path) -> None:
    file.touch()
    with open_records(file) as records:
        records.add(trial(2, 0.5))
    with read_records(file) as records:
        assert len(records.trials()) == 1


def test_a_database_that_is_being_made_becomes_records(file: Path) -> None:
    """What another process sees between the first page of a file and its tables."""
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA journal_mode = WAL")
    database.close()
    with pytest.raises(ArtifactError, match="TW-E0530.*empty database"):
        read_records(file)
    with open_records(file) as kept:
        kept.add(trial(2, 0.5))
    with read_records(file) as kept:
        assert len(kept.trials()) == 1


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="TW-E0601"):
        open_records(tmp_path / "missing" / "records.db")


@contextmanager
def as_a_user() -> Iterator[None]:
    """For whom a folder may be read-only, as none is for root."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(was)


def test_a_read_only_folder_is_read_and_not_written() -> None:
    # Others may not enter the folder that pytest makes for root.
    with tempfile.TemporaryDirectory() as made:
        file = Path(made, "records.db")
        with open_records(file) as records:
            records.add(trial(2, 0.5))
        file.chmod(0o444)
        file.parent.chmod(0o555)
        try:
            with as_a_user():
                with read_records(file) as records:
                    assert len(records.trials()) == 1
                with pytest.raises(OutputError, match="TW-E0601"):
                    open_records(file)
        finally:
            file.parent.chmod(0o755)


def fill(records: Records) -> tuple[int, str]:
    """Adds rows until that fails; returns how many were kept, and the code of the error."""
    kept = 0
    while True:
        try:
            records.add(trial(kept, 0.5))
        except OutputError as error:
            return kept, error.code
        kept += 1


def test_a_full_disk_loses_no_earlier_trial(file: Path) -> None:
    with open_records(file) as records:
        records._connection.execute("PRAGMA max_page_count = 12")
        kept, code = fill(records)
        assert code == "TW-E0602"
        assert len(records.trials()) == kept > 10
    with read_records(file) as records:
        assert len(records.trials()) == kept


WRITER = """
import sys
from tests.autotune.test_records import trial
from tilewright.autotune.records import open_records
records = open_records(sys.argv[1])
for k in range(10**6):
    records.add(trial(k, 0.5))
    print(k, flush=True)
"""


def test_a_process_that_is_killed_loses_nothing_that_it_added(file: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= 20:
                break
        writer.send_signal(signal.SIGKILL)
        reported = [int(line), *map(int, writer.stdout.read().split())]
    with read_records(file) as records:
        assert {t.choices["mr"] for t in records.trials()} >= set(range(max(reported) + 1))


def test_two_processes_add_to_one_file(file: Path) -> None:
    first, second = open_records(file), open_records(file)
    for k in range(10):
        first.add(trial(k, 0.5))
        second.add(trial(100 + k, 0.5))
    assert len(first.trials()) == len(second.trials()) == 20
    first.close()
    second.close()


def test_processes_that_make_one_file_at_once_wait_for_each_other(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("spawn")
    with processes.Pool(3) as pool:
        for turn in range(10):
            file = str(tmp_path / f"records{turn}.db")
            pool.starmap(add_one, [(file, k) for k in range(6)], chunksize=1)
            with read_records(file) as records:
                assert {t.choices["mr"] for t in records.trials()} == set(range(6))


def add_one(file: str, k: int) -> None:
    with open_records(file) as records:
        records.add(trial(k, 0.5))
