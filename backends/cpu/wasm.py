"""Linking for WebAssembly: one relocatable object to a module that any runtime instantiates.

An object of LLVM is a module already, but for three things: its memory, table and stack pointer
are imports, its data starts at address 0, and what it defines is listed as symbols and not
exported. The memory of the linked module:

    0 .. STACK_BYTES        the stack, which grows down: an overflow leaves the memory and traps
    STACK_BYTES ..          data
    __heap_base ..          the caller's; memory grows as he asks

The formats: WebAssembly core specification, binary format; tool-conventions, Linking.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tilewright.errors import InternalError

STACK_BYTES = 8 << 20
"""What threads of Linux have by default."""

_MAGIC = b"\0asm\1\0\0\0"
_PAGE = 1 << 16
_ALIGNMENT = 64
_CUSTOM, _IMPORT, _TABLE, _MEMORY, _GLOBAL, _EXPORT = 0, 2, 4, 5, 6, 7
_ELEMENT, _CODE, _DATA = 9, 10, 11
# In the order that modules have them; the count of data segments (12) comes before the code.
_ORDER = (1, 3, _TABLE, _MEMORY, _GLOBAL, _EXPORT, _ELEMENT, 12, _CODE, _DATA)
_FUNCTIONS = b"\x70"
_SYMBOL_TABLE = 8
_UNDEFINED, _EXPLICIT_NAME = 0x10, 0x40
_ADDRESS_LEB, _ADDRESS_SLEB, _ADDRESS_I32 = 3, 4, 5
# Relocations whose entries carry an addend: addresses, and offsets in debug information.
_WITH_ADDEND = frozenset((_ADDRESS_LEB, _ADDRESS_SLEB, _ADDRESS_I32, 8, 9))


class _Reader:
    """Reads a part of the object from its start."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def more(self) -> bool:
        return self.at < len(self.data)

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def number(self, *, signed: bool = False) -> int:
        """A variable-length (LEB128) integer."""
        result = shift = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        return result - (1 << shift) if signed and byte & 0x40 else result

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def name(self) -> str:
        return self.take(self.number()).decode()


@dataclass(slots=True)
class _Object:
    """What of an object the linker needs.

    Attributes:
        sections: payloads by number. order: the numbers in the order of the file, for relocations.
        table: whether addresses of functions are taken. stack: whether the stack is used.
        functions: the index of each defined function.
        moves: for each section, places that hold addresses: (kind, offset).
    """

    sections: dict[int, bytes] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    table: bool = False
    stack: bool = False
    functions: dict[str, int] = field(default_factory=dict)
    moves: dict[int, list[tuple[int, int]]] = field(default_factory=dict)


def link(code: bytes, exports: Sequence[str]) -> bytes:
    """A module that imports nothing and exports ``memory``, ``__heap_base`` and functions.

    Args:
        code: an object for wasm32.
        exports: the functions to export, which it must define.

    Raises:
        InternalError: it needs a symbol that it does not define, or lacks an export (TW-E0910).
    """
    given = _read(code)
    lacking = [name for name in exports if name not in given.functions]
    if lacking:
        raise InternalError(f"linking: not defined: {', '.join(lacking)}", code="TW-E0910")
    sections = given.sections
    for kind in (_CODE, _DATA):
        if kind in sections:
            sections[kind] = _moved(sections[kind], given.moves.get(kind, ()))
    end = STACK_BYTES
    if _DATA in sections:
        sections[_DATA], end = _placed(sections[_DATA])
    heap = -(-end // _ALIGNMENT) * _ALIGNMENT
    sections[_MEMORY] = b"\1\0" + _leb(-(-heap // _PAGE))
    if given.table:
        # It has a place for each function whose address is taken; address 0 is none of them.
        size = _leb(_end_of_elements(sections[_ELEMENT])) if _ELEMENT in sections else b"\1"
        sections[_TABLE] = b"\1" + _FUNCTIONS + b"\0" + size
    stack = [b"\x7f\1\x41" + _sleb(STACK_BYTES) + b"\x0b"] if given.stack else []
    sections[_GLOBAL] = _vector([*stack, b"\x7f\0\x41" + _sleb(heap) + b"\x0b"])
    sections[_EXPORT] = _vector(
        [
            _name("memory") + b"\2\0",
            _name("__heap_base") + b"\3" + _leb(len(stack)),
            *(_name(name) + b"\0" + _leb(given.functions[name]) for name in exports),
        ]
    )
    parts = [bytes([k]) + _leb(len(sections[k])) + sections[k] for k in _ORDER if k in sections]
    return _MAGIC + b"".join(parts)


# ------------------------------------------------------------------ reading


def _read(code: bytes) -> _Object:
    found = _Object()
    reader = _Reader(code)
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise InternalError("linking: not an object for WebAssembly", code="TW-E0910")
    while reader.more:
        kind = reader.byte()
        payload = reader.take(reader.number())
        found.order.append(kind)
        if kind == _CUSTOM:
            _read_custom(found, _Reader(payload))
        elif kind == _IMPORT:
            _read_imports(found, _Reader(payload))
        else:
            found.sections[kind] = payload
    return found


def _read_imports(found: _Object, reader: _Reader) -> None:
    undefined = []
    for _ in range(reader.number()):
        reader.name()
        name = reader.name()
        match reader.byte():
            case 0:
                reader.number()
                undefined.append(name)
            case 1:
                reader.byte()
                _skip_limits(reader)
                found.table = True
            case 2:
                _skip_limits(reader)
            case _:
                reader.take(2)
                found.stack = True
                if name != "__stack_pointer":
                    undefined.append(name)
    if undefined:
        raise InternalError(f"linking: not defined: {', '.join(undefined)}", code="TW-E0910")


def _skip_limits(reader: _Reader) -> None:
    bounded = reader.byte() & 1
    for _ in range(1 + bounded):
        reader.number()


def _read_custom(found: _Object, reader: _Reader) -> None:
    name = reader.name()
    if name == "linking":
        reader.number()
        while reader.more:
            kind = reader.byte()
            part = _Reader(reader.take(reader.number()))
            if kind == _SYMBOL_TABLE:
                _read_symbols(found, part)
    elif name.startswith("reloc."):
        section = found.order[reader.number()]
        moves = found.moves.setdefault(section, [])
        for _ in range(reader.number()):
            kind, offset = reader.byte(), reader.number()
            reader.number()
            if kind in _WITH_ADDEND:
                reader.number(signed=True)
            if kind in (_ADDRESS_LEB, _ADDRESS_SLEB, _ADDRESS_I32):
                moves.append((kind, offset))


def _read_symbols(found: _Object, reader: _Reader) -> None:
    for _ in range(reader.number()):
        kind, flags = reader.byte(), reader.number()
        if kind == 1:
            reader.name()
            if not flags & _UNDEFINED:
                for _ in range(3):
                    reader.number()
            continue
        index = reader.number()
        named = kind != 3 and (not flags & _UNDEFINED or flags & _EXPLICIT_NAME)
        name = reader.name() if named else ""
        if kind == 0 and not flags & _UNDEFINED:
            found.functions[name] = index


# ------------------------------------------------------------------ writing


def _moved(payload: bytes, moves: Sequence[tuple[int, int]]) -> bytes:
    """The section with its addresses counted from the start of the data, not from 0."""
    data = bytearray(payload)
    for kind, offset in moves:
        if kind == _ADDRESS_I32:
            value = int.from_bytes(data[offset : offset + 4], "little") + STACK_BYTES
            data[offset : offset + 4] = value.to_bytes(4, "little")
            continue
        # Five bytes, whatever the value: seven bits in each, the lowest first.
        bits = sum((data[offset + i] & 0x7F) << 7 * i for i in range(5)) + STACK_BYTES
        for i in range(5):
            data[offset + i] = (bits >> 7 * i & 0x7F) | (0x80 if i < 4 else 0)
    return bytes(data)


def _end_of_elements(payload: bytes) -> int:
    """The place in the table behind the only segment, whose place is "i32.const N, end"."""
    reader = _Reader(payload)
    if reader.take(3) != b"\1\0\x41":
        raise InternalError("linking: functions in no plain place of a table", code="TW-E0910")
    place = reader.number(signed=True)
    reader.byte()
    return place + reader.number()


def _placed(payload: bytes) -> tuple[bytes, int]:
    """The data section with its segments behind the stack, and the address behind them."""
    reader = _Reader(payload)
    segments, end = [], STACK_BYTES
    for _ in range(reader.number()):
        # An active segment of memory 0; its place is "i32.const N, end".
        if reader.take(2) != b"\0\x41":
            raise InternalError("linking: a data segment has no plain place", code="TW-E0910")
        place = reader.number(signed=True) + STACK_BYTES
        reader.byte()
        data = reader.take(reader.number())
        segments.append(b"\0\x41" + _sleb(place) + b"\x0b" + _leb(len(data)) + data)
        end = max(end, place + len(data))
    return _vector(segments), end


def _leb(value: int) -> bytes:
    out = bytearray()
    while True:
        byte = value & 0x7F
        value >>= 7
        if not value:
            out.append(byte)
            return bytes(out)
        out.append(byte | 0x80)


def _sleb(value: int) -> bytes:
    """A signed LEB128 integer; ``value`` is not negative."""
    # One more group where the highest bit would be taken for a sign.
    digits = value.bit_length() // 7
    return bytes((value >> 7 * i & 0x7F) | (0x80 if i < digits else 0) for i in range(digits + 1))


def _name(text: str) -> bytes:
    encoded = text.encode()
    return _leb(len(encoded)) + encoded


def _vector(items: Sequence[bytes]) -> bytes:
    return _leb(len(items)) + b"".join(items)
