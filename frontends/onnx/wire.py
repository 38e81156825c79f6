"""Cutting the weights out of a serialised model, so that protobuf never copies them.

A ModelProto is a message of fields; weights are the ``raw_data`` of the tensors in its graph's
``initializer``. The walk below finds where they lie in the file (protobuf's encoding document,
"Message Structure": a field is a varint of number and wire type, then its payload) and puts
together the same message without them, which is what protobuf parses. Anything unexpected stops
the walk, and the whole file is parsed as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from .messages import GraphProto, ModelProto, TensorProto

_GRAPH = ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER = GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA = TensorProto.RAW_DATA_FIELD_NUMBER
_WORTH_CUTTING = 1024


class _Odd(Exception):
    """The bytes are not what this walk expects."""


_Field: TypeAlias = tuple[int, int, int, int]
"""A field of a message: its number, where it starts, its payload and where it ends."""


def without_weights(data: np.ndarray) -> tuple[bytes, dict[int, np.ndarray]] | None:
    """The message without its large weights, and these by the index of their initializer.

    Args:
        data: the bytes of a ModelProto, u8.

    Returns:
        None where the bytes are not understood; views of ``data`` otherwise.
    """
    view = data.data
    try:
        return _cut(view, data)
    except _Odd:
        return None


def _cut(view: memoryview, data: np.ndarray) -> tuple[bytes, dict[int, np.ndarray]] | None:
    graphs = [f for f in _fields(view, 0, len(view)) if f[0] == _GRAPH]
    if len(graphs) != 1:
        return None
    ((_, begin, first, last),) = graphs
    weights: dict[int, np.ndarray] = {}
    parts: list[bytes | memoryview] = []
    index = 0
    kept = first
    for number, opens, inside, closes in _fields(view, first, last):
        if number != _INITIALIZER:
            continue
        if closes - inside >= _WORTH_CUTTING:
            raw = [f for f in _fields(view, inside, closes) if f[0] == _RAW_DATA]
            if len(raw) == 1 and raw[0][3] - raw[0][2] >= _WORTH_CUTTING:
                _, start, body, end = raw[0]
                weights[index] = data[body:end]
                rest = start - inside + closes - end
                parts += (view[kept:opens], _header(_INITIALIZER, rest))
                parts += (view[inside:start], view[end:closes])
                kept = closes
        index += 1
    parts.append(view[kept:last])
    inner = b"".join(parts)
    return b"".join((view[:begin], _header(_GRAPH, len(inner)), inner, view[last:])), weights


def _fields(view: memoryview, start: int, end: int) -> Iterator[_Field]:
    at = start
    while at < end:
        # Most keys and many lengths are one byte.
        key, body = view[at], at + 1
        if key > 127:
            key, body = _varint(view, at, end)
        kind = key & 7
        if kind == 2:  # a length, then as many bytes
            if body >= end:
                raise _Odd
            length = view[body]
            body += 1
            if length > 127:
                length, body = _varint(view, body - 1, end)
            after = body + length
        elif kind == 0:  # varint
            if body < end and view[body] < 128:
                after = body + 1
            else:
                _, after = _varint(view, body, end)
        elif kind == 1:  # 64 bits
            after = body + 8
        elif kind == 5:  # 32 bits
            after = body + 4
        else:
            raise _Odd
        if after > end:
            raise _Odd
        yield key >> 3, at, body, after
        at = after


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= end:
            raise _Odd
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _Odd


def _header(number: int, length: int) -> bytes:
    """The start of a field of ``length`` bytes."""
    result = bytearray()
    for value in (number << 3 | 2, length):
        while value > 127:
            result.append(value & 127 | 128)
            value >>= 7
        result.append(value)
    return bytes(result)
