"""What a parent and its worker processes say to each other."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from tilewright.errors import TilewrightError

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that raised an error.

    Attributes:
        message: of the error.
        expected: whether it is one of ours: the candidate cannot be made; else a defect.
    """

    message: str
    expected: bool


def send(pipe: BinaryIO, value: object) -> None:
    """Writes one value."""
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(_LENGTH.pack(len(data)))
    pipe.write(data)
    pipe.flush()


def receive(pipe: BinaryIO) -> Any:
    """Reads one value that ``send`` wrote.

    Raises:
        EOFError: the other side is gone.
    """
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)


def run(function: Callable[..., object], arguments: tuple[object, ...]) -> object:
    """The value of a job, or the failure that it ended with."""
    try:
        return function(*arguments)
    except TilewrightError as error:
        return Failure(str(error), expected=True)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}", expected=False)
