"""Files are written whole or not at all, and what is no file is never replaced by one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tilewright.errors import OutputError
from tilewright.runtime.files import check_place, replace_file


def write(path: Path, *pieces: tuple[int, bytes]) -> None:
    with replace_file(path) as put:
        for offset, data in pieces:
            put(offset, data)


def test_gaps_between_pieces_are_zeros(tmp_path: Path) -> None:
    write(tmp_path / "a", (0, b"ab"), (4, b"c"))
    assert (tmp_path / "a").read_bytes() == b"ab\0\0c"


def test_an_error_in_between_keeps_what_was_there(tmp_path: Path) -> None:
    place = tmp_path / "a"
    place.write_bytes(b"before")

    def fail() -> None:
        with replace_file(place) as put:
            put(0, b"half")
            raise RuntimeError("a mistake of the caller's")

    with pytest.raises(RuntimeError):
        fail()
    assert place.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [place]


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "v1").write_bytes(b"before")
    (tmp_path / "latest").symlink_to("v1")
    write(tmp_path / "latest", (0, b"after"))
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "v1").read_bytes() == b"after"


@pytest.mark.parametrize("place", [".", "..", "/", "", "folder"])
def test_a_folder_is_no_place_for_a_file(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="TW-E0601.*it is a folder; name a file in it"):
        write(Path(place), (0, b"x"))
    with pytest.raises(OutputError, match="TW-E0601.*there is no folder no"):
        check_place(Path("no/file"))


def test_a_pipe_gets_the_bytes_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write(pipe, (2, b"cd"), (0, b"ab"))
    reader.join(10)
    assert read == [b"abcd"]
    assert pipe.is_fifo()


def test_a_device_stays_a_device() -> None:
    before = Path("/dev/null").stat()
    write(Path("/dev/null"), (0, b"x"))
    assert Path("/dev/null").stat().st_rdev == before.st_rdev
    assert Path("/dev/null").stat().st_ino == before.st_ino


def test_a_device_that_is_full_says_so() -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full")
    with pytest.raises(OutputError, match="TW-E0602"):
        write(Path("/dev/full"), (0, b"x"))
    assert Path("/dev/full").is_char_device()


PRINT = """
import sys
from pathlib import Path
from tilewright.runtime.files import replace_file
print("table", flush=True)
with replace_file(Path("/dev/stdout")) as put:
    put(0, b"report\\n")
"""


@pytest.mark.parametrize("where", ["file", "pipe"])
def test_standard_output_is_written_after_what_was_printed(where: str, tmp_path: Path) -> None:
    if where == "pipe":
        done = subprocess.run([sys.executable, "-c", PRINT], capture_output=True, check=True)
        found = done.stdout
    else:
        with (tmp_path / "out").open("wb") as out:
            subprocess.run([sys.executable, "-c", PRINT], stdout=out, check=True)
        found = (tmp_path / "out").read_bytes()
    assert found == b"table\nreport\n"
    assert not Path("/dev/stdout").is_file() or Path("/dev/stdout").is_symlink()
