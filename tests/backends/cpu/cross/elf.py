"""The undefined symbols of an object, read from its symbol table (ELF-64, little-endian)."""

from __future__ import annotations

import struct

_SYMBOLS = 2


def undefined_symbols(code: bytes) -> set[str]:
    """The names that an object uses and does not define."""
    assert code[:6] == b"\x7fELF\x02\x01"
    (start,) = struct.unpack_from("<Q", code, 0x28)
    size, count = struct.unpack_from("<HH", code, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", code, start + size * i) for i in range(count)]
    found = set()
    for _, kind, _, _, offset, length, link, _, _, entry in sections:
        if kind != _SYMBOLS:
            continue
        names = sections[link][4]
        for at in range(offset + entry, offset + length, entry):
            name, _, _, section = struct.unpack_from("<IBBH", code, at)
            if section == 0:
                found.add(code[names + name : code.index(b"\0", names + name)].decode())
    return found
