"""The cache on disk: compiled code by a digest of everything that made it.

An entry is one file: a digest of the content, then the content. Files appear by rename, so
readers in other processes see all of an entry or nothing; a damaged entry is a miss and is
removed. The cache never makes a compilation fail: what cannot be written is not kept.

Digests are XXH3's of 128 bits, for content and for keys: no two models or texts meet by chance,
and hashing a model takes no longer than reading it. They are no defence against somebody who
makes two models of one digest on purpose, who could as well give the worse of the two alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xxhash import xxh3_128, xxh3_128_digest

from ..errors import OutputError
from ..options import Options

_LAYOUT = "v1"
_SETTLED_NS = 60 * 10**9
"""How long after a change a file is known by its times: longer than what was written through a
mapping stays out of them, until it is on disk."""
_DIGEST_BYTES = 16
_LARGE_BYTES = 4 << 20
_READ_BYTES = 1 << 18
_TOUCH_SECONDS = 60.0
_STALE_SECONDS = 3600.0


def digest_key(*parts: str | bytes) -> str:
    """A key that differs whenever any part differs or the parts are cut differently."""
    state = xxh3_128()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def _digest_of(descriptor: int) -> str:
    """A digest of a file's content.

    The file is read, not mapped, because a mapping would count as memory in use, and a little at
    a time, into memory that stays in the cache.
    """
    state = xxh3_128()
    held = memoryview(bytearray(_READ_BYTES))
    start = 0
    while count := os.preadv(descriptor, [held], start):
        state.update(held[:count])
        start += count
    return state.hexdigest()


def _identity(descriptor: int) -> tuple[int, ...]:
    """What differs once a file was written to or another one has taken its name."""
    s = os.fstat(descriptor)
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


@dataclass(frozen=True, slots=True)
class CacheStats:
    """How many entries there are and how many bytes they take."""

    entries: int
    bytes: int


class Cache:
    """A directory of entries, at most ``limit`` bytes, least recently used removed first.

    Args:
        root: the directory; made when first written to. None: nothing is found or kept.
        limit: bytes above which entries are removed.
    """

    def __init__(self, root: Path | None, limit: int) -> None:
        self.root = root
        self.limit = limit
        # The directory is measured at the first write and again whenever this process has
        # written an eighth of the limit since; other processes do the same.
        self._unmeasured: int | None = None

    def get(self, key: str) -> bytes | None:
        """The content kept under a key, or None."""
        if self.root is None:
            return None
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        content = data[_DIGEST_BYTES:]
        if xxh3_128_digest(content) != data[:_DIGEST_BYTES]:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        _touch(path)
        return content

    def put(self, key: str, content: bytes) -> bool:
        """Keeps content under a key; False where it could not be written."""
        if self.root is None or len(content) + _DIGEST_BYTES > self.limit:
            return False
        path = self._path(key)
        digest = xxh3_128_digest(content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _replacement(path) as descriptor:
                _write_all(descriptor, digest)
                _write_all(descriptor, content)
        except OSError:
            return False
        self._account(len(content) + _DIGEST_BYTES)
        return True

    def file_digest(self, path: Path) -> str | None:
        """A digest of a file's content; None where it cannot be read.

        A model is hundreds of megabytes and must be known before anything is looked up, so large
        files are read once: their digest is kept under what the system says changes with them.
        Files are not known by it that changed within the last minute, since a write may leave the
        time as it is until what another wrote is on disk, nor those of read-only file systems,
        whose times may be made up.
        """
        try:
            # A pipe would be waited for, and its content gone once it is read.
            if not path.is_file():
                return None
            with path.open("rb") as file:
                return self._file_digest(file.fileno())
        except (OSError, ValueError):
            return None

    def _file_digest(self, descriptor: int) -> str:
        identity = _identity(descriptor)
        _, _, size, modified, changed = identity
        settled = time.time_ns() - max(modified, changed) > _SETTLED_NS
        read_only = os.fstatvfs(descriptor).f_flag & os.ST_RDONLY
        if not settled or read_only or size < _LARGE_BYTES:
            return _digest_of(descriptor)
        key = digest_key("file", repr(identity))
        known = self.get(key)
        if known is not None:
            return known.decode()
        digest = _digest_of(descriptor)
        if _identity(descriptor) == identity:
            self.put(key, digest.encode())
        return digest

    def find(self, key: str) -> Path | None:
        """The file kept under a key by ``publish``, or None; its reader checks its content."""
        if self.root is None:
            return None
        path = self._path(key)
        if not path.is_file():
            return None
        _touch(path)
        return path

    def publish(self, key: str, write: Callable[[Path], object]) -> Path | None:
        """Has a large file written under a key; None where it could not be.

        Args:
            key: as for ``get``; one key is used either with files or with contents.
            write: writes the whole file atomically, and raises OutputError where it cannot.
        """
        if self.root is None:
            return None
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write(path)
            self._account(path.stat().st_size)
        except (OSError, OutputError):
            return None
        return path if path.is_file() else None

    def discard(self, key: str) -> None:
        """Removes what is kept under a key, if anything is."""
        if self.root is not None:
            with contextlib.suppress(OSError):
                self._path(key).unlink()

    def stats(self) -> CacheStats:
        """What is there now."""
        found = self._entries()
        return CacheStats(len(found), sum(size for _, size, _ in found))

    def clear(self) -> CacheStats:
        """Removes all entries; returns what was removed."""
        entries = removed = 0
        for path, size, _ in self._entries():
            with contextlib.suppress(OSError):
                path.unlink()
                entries += 1
                removed += size
        return CacheStats(entries, removed)

    def evict(self) -> None:
        """Removes the least recently used entries until seven eighths of the limit are left."""
        found = self._entries()
        total = sum(size for _, size, _ in found)
        if total <= self.limit:
            return
        for path, size, _ in sorted(found, key=lambda entry: entry[2]):
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size
            if total <= self.limit * 7 // 8:
                return

    def _path(self, key: str) -> Path:
        assert self.root is not None
        return self.root / _LAYOUT / key[:2] / key

    def _account(self, written: int) -> None:
        if self._unmeasured is not None:
            self._unmeasured += written
            if self._unmeasured <= self.limit // 8:
                return
        self._unmeasured = 0
        self.evict()

    def _entries(self) -> list[tuple[Path, int, float]]:
        """(path, bytes, last use) of each entry; removes leftovers of writers that died."""
        if self.root is None:
            return []
        found: list[tuple[Path, int, float]] = []
        now = time.time()
        for folder, _, names in os.walk(self.root / _LAYOUT):
            for name in names:
                path = Path(folder, name)
                try:
                    status = path.stat()
                except OSError:
                    continue
                if not name.startswith("."):
                    found.append((path, status.st_size, status.st_mtime))
                elif now - status.st_mtime > _STALE_SECONDS:
                    with contextlib.suppress(OSError):
                        path.unlink()
        return found


NO_CACHE = Cache(None, 0)
"""A cache that keeps nothing."""


def open_cache(options: Options) -> Cache:
    """The cache that the options ask for (one that keeps nothing where it is off)."""
    return Cache(options.cache_dir if options.cache else None, options.cache_bytes)


def _touch(path: Path) -> None:
    """Marks an entry as used; once a minute is exact enough and spares the disk."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > _TOUCH_SECONDS:
            os.utime(path)


@contextlib.contextmanager
def _replacement(path: Path) -> Iterator[int]:
    """A descriptor whose content becomes ``path`` at the end, or vanishes on an error."""
    name = path.with_name(f".{os.urandom(9).hex()}")
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            yield descriptor
        finally:
            os.close(descriptor)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
