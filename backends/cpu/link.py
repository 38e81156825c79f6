"""Linking: x86-64 ELF objects to code in memory that can be called.

What a code generator leaves open is little: where constants and the functions of other objects
are. So a program that loads a compiled model needs no LLVM, whose library takes 0.2 s to load and
50 MB of memory. The sections of all objects lie in one block, code first, then constants, then
data: no distance between them exceeds 32 bits. What the C library defines may be further away,
and is reached through a slot with its address behind the code. (System V Application Binary
Interface, AMD64 Architecture Processor Supplement, section 4.4.)
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tilewright.errors import InternalError

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_ELF64_LITTLE = b"\x7fELF\x02\x01"
_RELOCATABLE, _X86_64 = 1, 62
_PROGBITS, _SYMTAB, _RELA, _NOBITS, _UNWIND = 1, 2, 4, 8, 0x70000001
_WRITE, _ALLOC, _EXECUTE, _THREAD_LOCAL = 1, 2, 4, 0x400
_LOCAL, _GLOBAL, _WEAK = 0, 1, 2
_UNDEFINED, _RESERVED, _ABSOLUTE = 0, 0xFF00, 0xFFF1
# Relocations: 64 bits; 32 bits relative, of a symbol or of what jumps to it; relative to the slot
# that holds an address; 64 bits relative.
_R_NONE, _R_64, _R_PC32, _R_PLT32, _R_PC64 = 0, 1, 2, 4, 24
_R_SLOT = frozenset((9, 41, 42))
_JUMP = b"\xff\x25\x02\x00\x00\x00\x0f\x0b"  # jmp *[8 bytes on]; ud2
_SLOT_BYTES = 16
_MOST_BYTES = 1 << 30
_DAMAGED = (struct.error, IndexError, KeyError, ValueError, OverflowError)
_PROTECTIONS = (mmap.PROT_READ | mmap.PROT_EXEC, mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


LIBC = _libc()
"""The C library, and whatever else the process has loaded for all to see."""


def map_memory(size: int) -> int:
    """The address of fresh zeroed pages, private to this process.

    Raises:
        MemoryError: there are none.
    """
    protection, kind = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    found = LIBC.mmap(None, size, protection, kind, -1, 0)
    if found is None or found == ctypes.c_void_p(-1).value:
        raise MemoryError(os.strerror(ctypes.get_errno()))
    return int(found)


@dataclass(slots=True)
class _Section:
    """A section that is in memory while the code runs.

    Attributes:
        data: its bytes; zeros are written out.
        alignment: of its address.
        group: 0 for code, 1 for constants, 2 for data.
        offset: its place in the block, once it has one.
    """

    data: bytes
    alignment: int
    group: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class _Symbol:
    name: str
    binding: int
    section: int
    value: int


@dataclass(frozen=True, slots=True)
class _Object:
    """An object: its sections in memory by index, its symbols, and what is to be filled in."""

    sections: Mapping[int, _Section]
    symbols: Sequence[_Symbol]
    open: Sequence[tuple[int, int, int, int, int]]
    """Section, place in it, kind, symbol, addend."""


class Library:
    """Native code in memory, from one or more objects that may refer to each other.

    Args:
        objects: x86-64 object code, linked in this order; what the process has loaded for all to
            see, libc and libm among it, is visible to it.
        exports: the functions whose addresses are wanted.

    Raises:
        InternalError: an object is damaged or is not of this kind, or a symbol is missing or
            defined twice (TW-E0910).
    """

    def __init__(self, objects: Sequence[bytes], exports: Sequence[str]) -> None:
        try:
            read = [_read(code) for code in objects]
            defined = _definitions(read)
            slots = _slots(read, defined, exports)
            ends, size = _place(read, len(slots))
        except _DAMAGED as error:
            raise InternalError(
                f"linking {len(objects)} objects for {', '.join(exports)}: {error}", code="TW-E0910"
            ) from error
        self._size = size
        self._base = map_memory(size)
        try:
            image = bytearray(size)
            _fill(image, self._base, read, defined, slots, ends[0])
        except _DAMAGED as error:
            self.close()
            raise InternalError(
                f"linking {len(objects)} objects for {', '.join(exports)}: {error}", code="TW-E0910"
            ) from error
        ctypes.memmove(self._base, bytes(image), size)
        for (begin, end), protection in zip(_ranges(ends, size), _PROTECTIONS, strict=True):
            if end > begin:
                LIBC.mprotect(self._base + begin, end - begin, protection)
        self.addresses = {
            name: self._base + defined[name][0].offset + defined[name][1] for name in exports
        }

    def close(self) -> None:
        """Frees the code; nothing may be running in it."""
        LIBC.munmap(self._base, self._size)


def _read(code: bytes) -> _Object:
    """The parts of an object that linking needs."""
    ident, kind, machine, _, _, _, table, _, _, _, _, each, count, names = _HEADER.unpack_from(code)
    if not ident.startswith(_ELF64_LITTLE) or (kind, machine) != (_RELOCATABLE, _X86_64):
        raise ValueError("not an x86-64 ELF object")
    if each != _SECTION.size:
        raise ValueError("its sections are not described as they should be")
    headers = [_SECTION.unpack_from(code, table + i * each) for i in range(count)]
    if names >= count:
        raise ValueError("its sections have no names")

    def content(header: tuple[int, ...]) -> bytes:
        begin, size = header[4], header[5]
        if begin + size > len(code):
            raise ValueError("a section lies outside of it")
        return code[begin : begin + size]

    sections, symbols, left = {}, [], []
    for index, header in enumerate(headers):
        _, what, flags, _, _, size, link, info, alignment, _ = header
        if what == _SYMTAB:
            strings = content(headers[link])
            symbols = [
                _Symbol(_string(strings, name), about >> 4, section, value)
                for name, about, _, section, value, _ in _SYMBOL.iter_unpack(content(header))
            ]
        elif what == _RELA:
            for place, about, addend in _RELOCATION.iter_unpack(content(header)):
                left.append((info, place, about & 0xFFFFFFFF, about >> 32, addend))
        # What unwinds the stack is of no use: nothing that is called throws.
        elif flags & _ALLOC and what in (_PROGBITS, _NOBITS):
            if flags & _THREAD_LOCAL:
                raise ValueError("it has variables of each thread")
            if size > _MOST_BYTES or alignment > mmap.PAGESIZE:
                raise ValueError("a section is too large, or aligned to more than a page")
            data = bytes(size) if what == _NOBITS else content(header)
            group = 0 if flags & _EXECUTE else 2 if flags & _WRITE else 1
            sections[index] = _Section(data, max(1, alignment), group)
        elif flags & _ALLOC and what != _UNWIND:
            raise ValueError(f"it has a section of kind {what}")
    kept = [r for r in left if r[0] in sections]
    return _Object(sections, symbols, kept)


def _string(strings: bytes, start: int) -> str:
    return strings[start : strings.index(b"\0", start)].decode()


Definition = tuple[_Section, int]
"""The section that a symbol is in, and its place there."""


def _definitions(objects: Iterable[_Object]) -> dict[str, Definition]:
    """Where each symbol is that objects define for each other."""
    found: dict[str, Definition] = {}
    strong: set[str] = set()
    for one in objects:
        for symbol in one.symbols:
            if symbol.binding == _LOCAL or symbol.section == _UNDEFINED:
                continue
            if symbol.section >= _RESERVED:
                raise ValueError(f"symbol {symbol.name} is in no section")
            if symbol.binding == _GLOBAL:
                if symbol.name in strong:
                    raise ValueError(f"symbol {symbol.name} is defined twice")
                strong.add(symbol.name)
            elif symbol.name in found:
                continue
            found[symbol.name] = one.sections[symbol.section], symbol.value
    return found


def _slots(
    objects: Iterable[_Object], defined: Mapping[str, Definition], exports: Iterable[str]
) -> dict[str, int]:
    """The symbols that are reached through a slot, with their numbers."""
    missing = [name for name in exports if name not in defined]
    if missing:
        raise ValueError(f"symbol {', '.join(missing)} is not defined")
    found: dict[str, int] = {}
    for one in objects:
        for _, _, kind, index, _ in one.open:
            symbol = one.symbols[index]
            outside = symbol.section == _UNDEFINED and symbol.name not in defined
            if outside or kind in _R_SLOT:
                found.setdefault(_slot_name(one, index), len(found))
    return found


def _slot_name(one: _Object, index: int) -> str:
    """What a slot is known by; symbols of one object alone are told apart from others."""
    symbol = one.symbols[index]
    return symbol.name if symbol.binding != _LOCAL else f"{id(one)}:{index}"


def _place(objects: Iterable[_Object], slots: int) -> tuple[tuple[int, int], int]:
    """Gives each section its place; where the code and the constants end, and how large all is."""
    parts = [s for one in objects for s in one.sections.values()]
    end, ends = 0, []
    for group in range(3):
        for section in parts:
            if section.group == group:
                section.offset = -(-end // section.alignment) * section.alignment
                end = section.offset + len(section.data)
        if group == 0:
            end = -(-end // _SLOT_BYTES) * _SLOT_BYTES + slots * _SLOT_BYTES
        end = -(-end // mmap.PAGESIZE) * mmap.PAGESIZE
        ends.append(end)
    return (ends[0], ends[1]), max(end, mmap.PAGESIZE)


def _ranges(ends: tuple[int, int], size: int) -> Iterator[tuple[int, int]]:
    yield 0, ends[0]
    yield ends[0], ends[1]
    yield ends[1], size


def _fill(
    image: bytearray,
    base: int,
    objects: Iterable[_Object],
    defined: Mapping[str, Definition],
    slots: Mapping[str, int],
    code_end: int,
) -> None:
    """Writes the sections and all that was open in them."""
    first = code_end - len(slots) * _SLOT_BYTES
    for one in objects:
        for section in one.sections.values():
            image[section.offset : section.offset + len(section.data)] = section.data
    for one in objects:
        for index, place, kind, number, addend in one.open:
            section = one.sections[index]
            at = section.offset + place
            size = 8 if kind in (_R_64, _R_PC64) else 4
            if place + size > len(section.data):
                raise ValueError("a relocation lies outside of its section")
            slot = slots.get(_slot_name(one, number))
            target = _address(one.symbols[number], one, base, defined)
            if slot is not None:
                jump = first + slot * _SLOT_BYTES
                image[jump : jump + _SLOT_BYTES] = _JUMP + target.to_bytes(8, "little")
                if kind in _R_SLOT:
                    target = base + jump + len(_JUMP)
                elif kind == _R_PLT32:
                    target = base + jump
            _write(image, at, kind, target + addend, base + at)


def _write(image: bytearray, at: int, kind: int, value: int, here: int) -> None:
    """Fills in one place; a distance that does not fit is an error of ``struct``."""
    if kind == _R_64:
        struct.pack_into("<Q", image, at, value)
    elif kind == _R_PC64:
        struct.pack_into("<q", image, at, value - here)
    elif kind in (_R_PC32, _R_PLT32) or kind in _R_SLOT:
        struct.pack_into("<i", image, at, value - here)
    elif kind != _R_NONE:
        raise ValueError(f"relocation of kind {kind}")


def _address(symbol: _Symbol, one: _Object, base: int, defined: Mapping[str, Definition]) -> int:
    """Where a symbol is."""
    if symbol.section == _ABSOLUTE:
        return symbol.value
    if symbol.binding == _LOCAL and symbol.section != _UNDEFINED:
        return base + one.sections[symbol.section].offset + symbol.value
    known = defined.get(symbol.name)
    if known is not None:
        return base + known[0].offset + known[1]
    try:
        found = ctypes.cast(getattr(LIBC, symbol.name), ctypes.c_void_p).value
    except AttributeError:
        found = None
    if found is None:
        if symbol.binding == _WEAK:
            return 0
        raise ValueError(f"symbol {symbol.name} is not defined")
    return found
