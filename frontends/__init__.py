"""Importers: the table of frontends, which says what each one takes; nothing is imported for it.

To add an operator for all of them: one entry in a file of ``compiler/ops``, and for each frontend
one line in the mapping that ``operators`` or ``TRACED`` names here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Frontend:
    """How sources of one kind are recognised, known again, and imported.

    Functions are written ``module:function`` and loaded when they are called.

    Attributes:
        takes: what it takes, in words.
        imports: (source, **options) -> Graph.
        options: the names of those options.
        scheme: what the names of its sources begin with; empty where they have no names.
        suffixes: how the names of its files end; an empty one ends all that nobody else takes.
        packages: the top-level packages whose objects it takes, or objects of derived classes.
        extra: what of ours to install with them, where they are no part of every installation.
        raw: whether it takes the bytes of a file as well.
        opens: (source, **options) -> what ``imports`` and ``content`` take in place of both, for
            objects; empty where that is the source itself.
        content: (what was opened) -> a text that differs where the program or its weights do, or
            None; empty where there is no quick one.
        beside: whether ``imports`` takes ``beside`` as well: a list that it adds the names of
            those files to that lie beside the source and hold its weights.
        version: the distribution whose version decides what a name means.
        writes: (name) -> the bytes of a file with that model, for other runtimes.
        operators: the mapping whose keys are the source's operators that it knows.
    """

    takes: str
    imports: str
    options: tuple[str, ...] = ()
    scheme: str = ""
    suffixes: tuple[str, ...] = ()
    packages: frozenset[str] = frozenset()
    extra: str = ""
    raw: bool = False
    opens: str = ""
    content: str = ""
    beside: bool = False
    version: str = ""
    writes: str = ""
    operators: str = ""


_SIZES = ("shapes", "dim_ranges")

FRONTENDS: Mapping[str, Frontend] = MappingProxyType({
    "zoo": Frontend(
        takes="zoo:NAME for a network of the onnx package",
        imports="tilewright.frontends.onnx.zoo:import_zoo",
        options=_SIZES,
        scheme="zoo:",
        version="onnx",
        writes="tilewright.frontends.onnx.zoo:zoo_bytes",
    ),
    "torch": Frontend(
        takes="a program of torch.export, the .pt2 file of one, or a torch.nn.Module",
        imports="tilewright.frontends.torch:import_source",
        options=("example_inputs", "dynamic_shapes"),
        suffixes=(".pt2",),
        packages=frozenset({"torch"}),
        extra="torch",
        opens="tilewright.frontends.torch:open_source",
        content="tilewright.frontends.torch:content_of",
        operators="tilewright.frontends.torch.table:CONVERTERS",
    ),
    "onnx": Frontend(
        takes="an ONNX file, its bytes or an onnx.ModelProto",
        imports="tilewright.frontends.onnx:import_onnx",
        options=(*_SIZES, "kernels"),
        suffixes=("",),
        packages=frozenset({"onnx"}),
        raw=True,
        beside=True,
        operators="tilewright.frontends.onnx.table:CONVERTERS",
    ),
})  # fmt: skip

TRACED: Mapping[str, str] = MappingProxyType({
    "numpy": "tilewright.frontends.numpy.table:SUPPORTED",
})  # fmt: skip
"""Of each library whose functions are traced as they are called, the mapping of those known."""

CUSTOM: Mapping[str, str] = MappingProxyType({
    "torch": "tilewright.frontends.torch.custom:register",
})  # fmt: skip
"""Of each framework with operators of users' own, what registers a kernel as one."""

CAPTURES: dict[str, str] = {
    "dynamo": "tilewright.frontends.torch.dynamo:compile_captured",
}
"""Of each compiler that hands over parts of programs, what compiles a part."""


def frontend_of(source: object) -> Frontend | None:
    """The frontend that takes a source, by its name or its type; None where there is none."""
    known = FRONTENDS.values()
    match source:
        case str() if any(f.scheme and source.startswith(f.scheme) for f in known):
            return next(f for f in known if f.scheme and source.startswith(f.scheme))
        case str() | os.PathLike():
            suffix = PurePath(os.fsdecode(source)).suffix.lower()
            named = next((f for f in known if suffix and suffix in f.suffixes), None)
            return named or next((f for f in known if "" in f.suffixes), None)
        case bytes():
            return next((f for f in known if f.raw), None)
    made_by = {c.__module__.partition(".")[0] for c in type(source).__mro__}
    return next((f for f in known if f.packages & made_by), None)
