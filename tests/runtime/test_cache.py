"""The disk cache: a miss at worst, never a wrong answer, never a failed compilation."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tilewright.errors import OutputError
from tilewright.options import Options
from tilewright.runtime.cache import NO_CACHE, Cache, digest_key, open_cache


def files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file())


def test_keys_differ_by_every_part_and_by_where_parts_end() -> None:
    keys = {
        digest_key(*parts)
        for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), (), ("ab", b"d"))
    }
    assert len(keys) == 6
    assert digest_key("é") == digest_key("é".encode())


def test_what_was_put_is_found_by_another_cache_on_the_same_place(tmp_path: Path) -> None:
    key = digest_key("x")
    assert Cache(tmp_path / "a" / "b", 1000).get(key) is None
    assert Cache(tmp_path / "a" / "b", 1000).put(key, b"content")
    assert Cache(tmp_path / "a" / "b", 1000).get(key) == b"content"


def test_an_empty_content_is_not_a_miss(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    cache.put(digest_key("x"), b"")
    assert cache.get(digest_key("x")) == b""


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "grow"])
def test_a_damaged_entry_is_a_miss_and_is_removed(tmp_path: Path, damage: str) -> None:
    cache, key = Cache(tmp_path, 10_000), digest_key("x")
    cache.put(key, b"content" * 20)
    (path,) = files(tmp_path)
    data = path.read_bytes()
    path.write_bytes(
        {
            "flip": data[:-1] + bytes([data[-1] ^ 1]),
            "cut": data[:50],
            "empty": b"",
            "grow": data + b"!",
        }[damage]
    )
    assert cache.get(key) is None
    assert files(tmp_path) == []
    assert cache.put(key, b"new") and cache.get(key) == b"new"


def test_the_least_recently_used_go_first_and_the_size_is_bounded(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10_000)
    keys = [digest_key(str(i)) for i in range(8)]
    for age, key in enumerate(keys):
        cache.put(key, bytes(1000))
        path = tmp_path / "v1" / key[:2] / key
        os.utime(path, (1e9 + age, 1e9 + age))
    assert cache.get(keys[0]) is not None
    for i in range(4):
        cache.put(digest_key(f"new {i}"), bytes(1000))
    assert cache.stats().bytes <= 10_000
    assert cache.get(keys[0]) is not None
    assert cache.get(keys[1]) is None
    assert cache.get(digest_key("new 3")) is not None


def test_an_entry_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100)
    assert not cache.put(digest_key("x"), bytes(101))
    assert files(tmp_path) == []


def test_a_place_that_cannot_be_written_is_a_cache_that_keeps_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    cache = Cache(blocked, 1000)
    assert not cache.put(digest_key("x"), b"content")
    assert cache.get(digest_key("x")) is None
    assert cache.stats().entries == 0


def test_a_cache_that_is_off_keeps_nothing(tmp_path: Path) -> None:
    for cache in (NO_CACHE, open_cache(Options(cache=False, cache_dir=tmp_path))):
        assert not cache.put(digest_key("x"), b"content")
        assert cache.get(digest_key("x")) is None
        assert cache.publish(digest_key("x"), lambda p: p.touch()) is None
    assert files(tmp_path) == []


def test_published_files_are_found_evicted_and_discarded(tmp_path: Path) -> None:
    cache, key = Cache(tmp_path, 1000), digest_key("x")
    path = cache.publish(key, lambda p: p.write_bytes(bytes(500)))
    assert path is not None and cache.find(key) == path
    cache.discard(key)
    assert cache.find(key) is None

    def fail(_: Path) -> None:
        raise OutputError("full", code="TW-E0602")

    assert cache.publish(key, fail) is None


def test_leftovers_of_writers_that_died_are_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    cache.put(digest_key("x"), b"content")
    (entry,) = files(tmp_path)
    fresh, stale = entry.with_name(".fresh"), entry.with_name(".stale")
    for path in (fresh, stale):
        path.write_bytes(b"half")
    os.utime(stale, (1e9, 1e9))
    assert cache.stats().entries == 1
    assert fresh.exists() and not stale.exists()


def test_clear_removes_everything_and_says_how_much(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    cache.put(digest_key("x"), bytes(68))
    cache.put(digest_key("y"), bytes(68))
    assert (cache.clear().entries, cache.clear().bytes) == (2, 0)


WRITER = """
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tilewright.runtime.cache import Cache, digest_key
cache = Cache(Path(sys.argv[1]), 40_000)
for round in range(50):
    for i in range(12):
        content = bytes([i]) * 4000
        found = cache.get(digest_key(str(i)))
        assert found in (None, content), i
        if found is None or round % 5 == i % 5:
            assert cache.put(digest_key(str(i)), content)
"""


def test_processes_that_share_a_full_cache_never_read_a_wrong_entry(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    running = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    cache = Cache(tmp_path, 40_000)
    cache.evict()
    assert cache.stats().bytes <= 40_000
    assert not [p for p in files(tmp_path) if p.name.startswith(".")]


# ------------------------------------------------------------------ digests of files


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A large file that, as the tests' clock has it, was written long ago."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(5 << 20))
    later = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr("tilewright.runtime.cache.time.time_ns", lambda: later)
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pieces that were read, by their start, each once for every reading."""
    found: list[int] = []
    read = os.preadv

    def counted(descriptor: int, buffers: list[memoryview], start: int) -> int:
        if start % (4 << 20) == 0:
            found.append(start)
        return read(descriptor, buffers, start)

    monkeypatch.setattr("tilewright.runtime.cache.os.preadv", counted)
    return found


def test_a_large_file_is_read_once(tmp_path: Path, weights: Path, reads: list[int]) -> None:
    digests = {Cache(tmp_path / "cache", 10_000).file_digest(weights) for _ in range(3)}
    assert len(digests) == 1
    assert sorted(reads) == [0, 4 << 20]


def test_a_file_under_another_name_is_the_same(
    tmp_path: Path, weights: Path, reads: list[int]
) -> None:
    cache = Cache(tmp_path / "cache", 10_000)
    before = cache.file_digest(weights)
    copy = tmp_path / "copy"
    copy.write_bytes(weights.read_bytes())
    assert cache.file_digest(copy) == before
    assert len(reads) == 4


def _written(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"x")


def _replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"x" * path.stat().st_size)
    other.replace(path)


@pytest.mark.parametrize("change", [_written, _replaced])
def test_a_changed_file_is_read_again_though_its_time_is_put_back(
    change: Callable[[Path], None], tmp_path: Path, weights: Path
) -> None:
    cache = Cache(tmp_path / "cache", 10_000)
    before, times = cache.file_digest(weights), weights.stat()
    change(weights)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (
        times.st_size,
        times.st_mtime_ns,
    )
    assert cache.file_digest(weights) != before


def test_a_file_that_changed_lately_is_not_known_by_its_times(
    tmp_path: Path, reads: list[int]
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(5 << 20))
    cache = Cache(tmp_path / "cache", 10_000)
    for _ in range(2):
        cache.file_digest(path)
    assert len(reads) == 4


def test_without_a_cache_every_file_is_read(weights: Path, reads: list[int]) -> None:
    assert NO_CACHE.file_digest(weights) == NO_CACHE.file_digest(weights) is not None
    assert len(reads) == 4


def test_a_damaged_digest_is_found_anew(tmp_path: Path, weights: Path) -> None:
    cache = Cache(tmp_path / "cache", 10_000)
    before = cache.file_digest(weights)
    (entry,) = files(tmp_path / "cache")
    entry.write_bytes(b"0" * len(entry.read_bytes()))
    assert cache.file_digest(weights) == before


def test_what_cannot_be_read_has_no_digest(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10_000)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, tmp_path / "nothing", pipe, Path("a\0b")):
        assert cache.file_digest(path) is None
