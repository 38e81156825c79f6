"""The disk cache: a miss at worst, never a wrong answer, never a failed compilation."""

from __future__ import annotations

import os
import subprocess
import sys
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
