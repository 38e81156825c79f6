"""The one-file artefact (``.tw``): a compiled model that loads without compiling.

    48 bytes   magic, format version, header size, file size, XXH3-128 of the header
    header     JSON: program text, target, versions, digests of the rest, stage texts
    body       from the next multiple of 4096: object code, then the constants on their own page

Constants are memory-mapped when loaded, so processes share them and nothing is copied. Every
byte that is used is covered by a digest that is checked first: against chance, which damages
files, and as fast as memory is read. A file appears complete, by rename, or not at all.

The native entry knows what to run, so that the steps of a loaded program are read from its text
only when somebody looks at them.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from ..errors import ArtifactError
from ..target import Target, Threads
from . import text
from .files import replace_file
from .program import Program

FORMAT_VERSION = 4

_MAGIC = b"\x89TILEW\r\n"
_PROLOGUE = struct.Struct("<8sQQQ16s")
_PAGE = 4096
_OBJECT_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class StoredProgram:
    """A program as a file has it.

    Attributes:
        text: all of it.
        interface: the program without its steps.
    """

    text: str
    interface: Program


@dataclass(frozen=True, eq=False)
class Artifact:
    """A compiled model.

    Attributes:
        source: what runs, with the names and shapes of its interface, or the text of it.
        target: what the code was generated for.
        objects: object code that defines the entry and every kernel.
        constants: the program's constants, u8 and read-only.
        versions: what made it (``tilewright``, ``llvm``).
        stages: texts of stages that were asked to be kept, by name.
    """

    source: Program | StoredProgram
    target: Target
    objects: tuple[bytes, ...]
    constants: np.ndarray
    versions: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)

    @property
    def interface(self) -> Program:
        """The program; its steps may be missing."""
        return self.source if isinstance(self.source, Program) else self.source.interface

    @cached_property
    def program(self) -> Program:
        """The program with its steps.

        Raises:
            ArtifactError: the text of a file is no program (TW-E0504).
        """
        return self.source if isinstance(self.source, Program) else text.parse(self.source.text)

    @property
    def program_text(self) -> str:
        """The text of the program."""
        return text.text(self.source) if isinstance(self.source, Program) else self.source.text


# ------------------------------------------------------------------ writing


def write(path: str | os.PathLike[str], artifact: Artifact, *, durable: bool = True) -> None:
    """Writes an artefact; the file is complete and on disk when this returns.

    Args:
        path: where to.
        artifact: what to write.
        durable: False: it may still be on its way to the disk, and damaged if the machine stops
            before; for those who can do without it.

    Raises:
        OutputError: the place cannot be written (TW-E0601) or is full (TW-E0602); nothing is
            left behind and a file that was there before is untouched.
    """
    constants = artifact.constants.data
    sections: list[dict[str, int | str]] = []
    offsets: list[int] = []
    offset = 0
    for code in artifact.objects:
        offsets.append(offset)
        sections.append({"offset": offset, "size": len(code), "digest": xxh3_128_hexdigest(code)})
        offset = _round_up(offset + len(code), _OBJECT_ALIGNMENT)
    base = _round_up(offset, _PAGE)
    header = json.dumps(
        {
            "versions": dict(artifact.versions),
            "program": artifact.program_text,
            "target": asdict(artifact.target),
            "objects": sections,
            "constants": {
                "offset": base,
                "size": constants.nbytes,
                "digest": xxh3_128_hexdigest(constants),
            },
            "stages": dict(artifact.stages),
        }
    ).encode()
    body = _round_up(_PROLOGUE.size + len(header), _PAGE)
    total = body + base + constants.nbytes
    digest = xxh3_128_digest(header)
    with replace_file(Path(path), durable=durable) as put:
        put(0, _PROLOGUE.pack(_MAGIC, FORMAT_VERSION, len(header), total, digest))
        put(_PROLOGUE.size, header)
        for offset, code in zip(offsets, artifact.objects, strict=True):
            put(body + offset, code)
        put(body + base, constants)


# ------------------------------------------------------------------ reading


def read(path: str | os.PathLike[str]) -> Artifact:
    """Reads an artefact and checks all of it; its constants stay in the mapped file.

    Whether this machine can run it is the backend's question, asked before it loads the code.

    Raises:
        ArtifactError: the file cannot be read (TW-E0505), is no artefact (TW-E0501), is of
            another format version (TW-E0502), is damaged (TW-E0503) or does not say what it
            must (TW-E0504).
    """
    mapped = _map(Path(path))
    if len(mapped) < _PROLOGUE.size or mapped[: len(_MAGIC)] != _MAGIC:
        raise ArtifactError(
            f"{path}: not a Tilewright artefact (its first bytes differ); compile the model anew "
            f"and save it",
            code="TW-E0501",
        )
    _, version, header_size, total, digest = _PROLOGUE.unpack_from(mapped)
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{path}: artefact of format version {version}, this Tilewright reads version "
            f"{FORMAT_VERSION}; compile the model anew with this one",
            code="TW-E0502",
        )
    if total != len(mapped):
        raise _damaged(path, f"it has {len(mapped)} bytes and should have {total}")
    header_end = _PROLOGUE.size + header_size
    if header_end > total:
        raise _damaged(path, f"its header of {header_size} bytes does not fit the file")
    header = mapped[_PROLOGUE.size : header_end]
    if xxh3_128_digest(header) != digest:
        raise _damaged(path, "its header does not have the digest it should have")
    try:
        return _unpack(path, mapped, json.loads(header), _round_up(header_end, _PAGE))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path}: its header is not understood ({type(error).__name__}: {error}); it may come "
            f"from another version of Tilewright",
            code="TW-E0504",
        ) from error


def _map(path: Path) -> mmap.mmap | bytes:
    try:
        # Opening a pipe would wait for a writer.
        if path.exists() and not path.is_file():
            raise ArtifactError(f"{path}: not a regular file", code="TW-E0505")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return b""
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ArtifactError(f"{path}: cannot be read: {why}", code="TW-E0505") from error


def _unpack(
    path: str | os.PathLike[str], mapped: mmap.mmap | bytes, header: dict[str, Any], body: int
) -> Artifact:
    memory = np.frombuffer(mapped, np.uint8)

    def section(entry: dict[str, Any]) -> np.ndarray:
        begin, size = body + int(entry["offset"]), int(entry["size"])
        if not body <= begin <= begin + size <= len(memory):
            raise _damaged(path, "a section lies outside the file")
        return memory[begin : begin + size]

    objects = []
    for entry in header["objects"]:
        code = section(entry).tobytes()
        if xxh3_128_hexdigest(code) != entry["digest"]:
            raise _damaged(path, "its object code does not have the digest it should have")
        objects.append(code)
    constants = section(header["constants"])
    if xxh3_128_hexdigest(constants.data) != header["constants"]["digest"]:
        raise _damaged(path, "its constants do not have the digest they should have")
    program = StoredProgram(header["program"], text.parse_interface(header["program"]))
    wanted = program.interface.constants_bytes
    if wanted != len(constants):
        raise _damaged(path, f"it holds {len(constants)} bytes of {wanted}")
    return Artifact(
        source=program,
        target=_target(header["target"]),
        objects=tuple(objects),
        constants=constants,
        versions={str(k): str(v) for k, v in header["versions"].items()},
        stages={str(k): str(v) for k, v in header["stages"].items()},
    )


def _target(given: dict[str, Any]) -> Target:
    values = _values(Target, given)
    if values["threads"] is not None:
        values["threads"] = Threads(**_values(Threads, values["threads"]))
    return Target(**values)


def _values(kind: type[Target] | type[Threads], given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record as JSON keeps them, which knows no tuples."""
    names = {f.name for f in fields(kind)}
    if given.keys() != names:
        raise ValueError(f"target fields {sorted(given.keys() ^ names)} differ")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}


def _damaged(path: str | os.PathLike[str], what: str) -> ArtifactError:
    return ArtifactError(
        f"{path}: damaged: {what}; copy it again or compile the model anew", code="TW-E0503"
    )


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step
