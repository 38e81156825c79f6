"""The one-file artefact: what is saved is what is loaded, and nothing damaged ever is."""

from __future__ import annotations

import dataclasses
import os
import resource
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tilewright.backends.cpu import BACKEND
from tilewright.errors import ArtifactError, OutputError, TargetError
from tilewright.runtime import artifact
from tilewright.runtime.artifact import Artifact, read
from tilewright.runtime.cache import Cache
from tilewright.runtime.executable import Executable

A = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture
def saved(shift: Executable, tmp_path: Path) -> Path:
    path = tmp_path / "model.tw"
    shift.save(path, ["llvm"])
    return path


def load(path: Path, cache: Cache) -> Executable:
    built = read(path)
    return Executable(built, BACKEND.load(built.target, built.objects, cache, 1))


def test_a_loaded_artefact_runs_like_the_saved_one(
    shift: Executable, saved: Path, cache: Cache
) -> None:
    run = load(saved, cache)
    assert run.program == shift.program and run.target == shift.target
    assert run.stages == ("llvm", "program") and run.text("llvm") == shift.text("llvm")
    for one, other in zip(run(A, A), shift(A, A), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_loaded_artefact_saves_itself_again(saved: Path, tmp_path: Path, cache: Cache) -> None:
    again = tmp_path / "again.tw"
    load(saved, cache).save(again, ["llvm"])
    assert again.read_bytes() == saved.read_bytes()


def test_steps_of_a_loaded_program_are_read_when_they_are_looked_at(
    shift: Executable, saved: Path, cache: Cache
) -> None:
    run = load(saved, cache)
    run(A, A)
    assert run.artifact.interface.steps == () != shift.program.steps
    assert run.inputs == shift.inputs and run.text("program") == shift.text("program")
    assert "program" not in vars(run.artifact)
    assert run.program.steps == shift.program.steps


def test_constants_are_mapped_and_aligned_to_a_page(saved: Path) -> None:
    constants = read(saved).constants
    assert not constants.flags.writeable and not constants.flags.owndata
    assert constants.ctypes.data % 4096 == 0


def test_an_artefact_in_use_may_be_replaced_or_removed(saved: Path, cache: Cache) -> None:
    run = load(saved, cache)
    run.save(saved)
    saved.unlink()
    np.testing.assert_array_equal(run(A, A)[1], A + A)


def test_large_constants_are_checked_in_chunks(tmp_path: Path, shift: Executable) -> None:
    size = (20 << 20) + 3
    constants = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    program = dataclasses.replace(shift.program, constants_bytes=size)
    path = tmp_path / "large.tw"
    artifact.write(path, Artifact(program, shift.target, (b"x", b"yz"), constants))
    back = read(path)
    assert back.objects == (b"x", b"yz")
    np.testing.assert_array_equal(back.constants, constants)
    data = bytearray(path.read_bytes())
    data[-(9 << 20)] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="TW-E0503.*constants"):
        read(path)


def test_pages_of_constants_that_change_places_are_found(tmp_path: Path, shift: Executable) -> None:
    constants = np.random.default_rng(0).integers(0, 256, 10 * 4096 + 100, np.uint8)
    program = dataclasses.replace(shift.program, constants_bytes=constants.size)
    path = tmp_path / "pages.tw"
    artifact.write(path, Artifact(program, shift.target, (b"x",), constants))
    data = path.read_bytes()
    start = len(data) - constants.size
    for a, b, size in ((0, 4096, 4096), (8192, 8200, 8), (4096, 10 * 4096, 8)):
        bad = bytearray(data)
        one, other = slice(start + a, start + a + size), slice(start + b, start + b + size)
        bad[one], bad[other] = bad[other], bad[one]
        path.write_bytes(bad)
        with pytest.raises(ArtifactError, match="TW-E0503.*constants"):
            read(path)


def test_no_single_damaged_byte_goes_unnoticed(saved: Path, tmp_path: Path) -> None:
    good = saved.read_bytes()
    built = read(saved)
    gaps = good.count(b"\0")
    assert gaps < len(good)
    body = good.index(built.objects[0])
    header = len(good[:body].rstrip(b"\0"))
    places = [*range(64), *range(64, header, 97)]
    start = body
    for code in built.objects:
        start = good.index(code, start)
        places += [start, start + len(code) // 2, start + len(code) - 1]
    places += [len(good) - 1]
    bad = tmp_path / "bad.tw"
    for place in places:
        data = bytearray(good)
        data[place] ^= 0x41
        bad.write_bytes(data)
        with pytest.raises(ArtifactError, match=r"TW-E050[1-4].*bad\.tw"):
            read(bad)


def test_a_truncated_file_is_damaged_at_any_length(saved: Path, tmp_path: Path) -> None:
    good = saved.read_bytes()
    bad = tmp_path / "bad.tw"
    for size in (0, 1, 7, 8, 63, 64, 65, 1000, 4096, len(good) // 2, len(good) - 1):
        bad.write_bytes(good[:size])
        with pytest.raises(ArtifactError, match=r"TW-E050[13]"):
            read(bad)
    bad.write_bytes(good + b"\0")
    with pytest.raises(ArtifactError, match="TW-E0503"):
        read(bad)


def test_random_bytes_are_not_an_artefact(tmp_path: Path) -> None:
    path = tmp_path / "noise.tw"
    path.write_bytes(np.random.default_rng(1).bytes(10_000))
    with pytest.raises(ArtifactError, match="TW-E0501"):
        read(path)


def test_another_format_version_is_refused_by_number(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    struct.pack_into("<Q", data, 8, 99)
    saved.write_bytes(data)
    with pytest.raises(ArtifactError, match="TW-E0502.*version 99.*version 4"):
        read(saved)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.tw", tmp_path):
        with pytest.raises(ArtifactError, match="TW-E0505"):
            read(path)


def test_code_for_another_cpu_is_refused_before_it_is_loaded(
    shift: Executable, tmp_path: Path, cache: Cache
) -> None:
    path = tmp_path / "other.tw"
    other = dataclasses.replace(shift.target, name="future", required=("popcnt", "timetravel"))
    constants = np.zeros(shift.program.constants_bytes, np.uint8)
    artifact.write(path, Artifact(shift.program, other, (b"no object code",), constants))
    with pytest.raises(TargetError, match=r"TW-E0403.*future.*lacks timetravel"):
        load(path, cache)


# ------------------------------------------------------------------ writing


def test_saving_where_nothing_can_be_written_leaves_nothing(
    shift: Executable, tmp_path: Path
) -> None:
    for path in (tmp_path / "missing" / "m.tw", tmp_path):
        with pytest.raises(OutputError, match="TW-E0601"):
            shift.save(path)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Makes writes beyond ``size`` fail as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_file_and_no_other(shift: Executable, saved: Path) -> None:
    before = saved.read_bytes()
    for size in (0, 40, 5000):
        with largest_file(size), pytest.raises(OutputError, match=r"TW-E0602.*model\.tw.*free"):
            shift.save(saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == ["model.tw"]


def test_saved_files_have_the_users_permissions(shift: Executable, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        shift.save(tmp_path / "m.tw")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "m.tw").stat().st_mode) == 0o640
