"""Writing files: a file appears complete, or what was there before stays.

Devices and pipes (``/dev/null``, ``/dev/stdout``) are no files that another one could take the
place of: they are written as they are.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import OutputError

_MOST_LINKS = 40

Put = Callable[[int, bytes | memoryview], None]
"""``put(offset, data)``: what stands there in the file."""


@contextlib.contextmanager
def replace_file(path: Path, *, durable: bool = True) -> Iterator[Put]:
    """Gives ``put(offset, data)``; what was put becomes the file at the end, or nothing does.

    The gaps between what is put are zeros; the file ends where the last ``put`` ended. Where the
    path is a link, the file that it leads to is replaced.

    Args:
        path: where to.
        durable: whether the file is on the disk at the end, and not on its way there.

    Raises:
        OutputError: TW-E0601, or TW-E0602 where the disk is full.
    """
    check_place(path)
    try:
        if _is_stream(path):
            yield from _into_stream(path)
        else:
            yield from _into_file(Path(os.path.realpath(path)), durable)
    except OSError as error:
        raise OutputError.of(str(path), error) from error


def check_place(path: Path) -> None:
    """Refuses a path that no file can be written to, before the work that would fill it.

    Raises:
        OutputError: it is a folder, or there is no folder that it could be in (TW-E0601).
    """
    if path.is_dir():
        raise OutputError(
            f"{path}: cannot be written: it is a folder; name a file in it", code="TW-E0601"
        )
    if not path.parent.is_dir():
        raise OutputError(
            f"{path}: cannot be written: there is no folder {path.parent}", code="TW-E0601"
        )


def _is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe, or what this process has open (``/dev/stdout``)."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    if not stat.S_ISREG(mode):
        return True
    place = os.fspath(path)
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(os.path.dirname(place))
        if folder.startswith("/proc/"):
            return True
        if not os.path.islink(place):
            break
        place = os.path.join(folder, os.readlink(place))
    return False


def _into_stream(path: Path) -> Iterator[Put]:
    data = bytearray()

    def put(offset: int, piece: bytes | memoryview) -> None:
        view = memoryview(piece).cast("B")
        data.extend(bytes(max(0, offset + len(view) - len(data))))
        data[offset : offset + len(view)] = view

    yield put
    # Appended, since standard output may be a file that something was written to before.
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), "wb") as stream:
        stream.write(data)


def _into_file(path: Path, durable: bool) -> Iterator[Put]:
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    try:
        # Not tempfile: its files are private whatever the user's umask says. Its import and that of
        # secrets bring in OpenSSL, too: 4 MB and 20 ms for every program that loads a model.
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            end = 0

            def put(offset: int, data: bytes | memoryview) -> None:
                nonlocal end
                view = memoryview(data)
                while view.nbytes:
                    written = os.pwrite(descriptor, view, offset)
                    offset, view = offset + written, view[written:]
                end = max(end, offset)

            yield put
            os.ftruncate(descriptor, end)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable, where the file system lets folders be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
