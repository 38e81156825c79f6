"""A profile as one page of HTML that needs nothing else: no network, no other file.

The page is ``page.html``, a viewer, with the data of one profile put into it, compressed: texts of
loops and assembly shrink tenfold.
"""

from __future__ import annotations

import base64
import html
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from tilewright.backends.backend import Profile
from tilewright.runtime.program import (
    ArenaStorage,
    CallKernel,
    ConstantStorage,
    InputStorage,
    OutputStorage,
    Program,
    Tensor,
)
from tilewright.tensor.ir import Func
from tilewright.tensor.simplify import evaluate

from .origins import Timed, operands

MOST_STEPS = 20_000
"""Of a call with more steps than this, as of a long loop, the timeline shows the first."""


@dataclass(frozen=True, slots=True)
class Texts:
    """What a kernel looks like on its way to machine code."""

    recipe: str = ""
    schedule: str = ""
    loops: str = ""
    assembly: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a page shows.

    Attributes:
        model, target, threads: what was profiled.
        program: what ran.
        profile: what was found.
        steps, origins: the timed steps of the program, and the source nodes of each.
        kernels: their functions, where they are known.
        texts: by kernel.
        sizes: of the symbols, by name.
    """

    model: str
    target: str
    threads: int
    program: Program
    profile: Profile
    steps: Sequence[Timed]
    origins: Sequence[tuple[str, ...]]
    kernels: Mapping[str, Func]
    texts: Mapping[str, Texts]
    sizes: Mapping[str, int]


def render(subject: Subject) -> str:
    """The page."""
    data = json.dumps(page_data(subject), separators=(",", ":"), allow_nan=False)
    packed = base64.b64encode(zlib.compress(data.encode(), 9)).decode()
    viewer = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    title = html.escape(f"{subject.model}: profile by Tilewright")
    return viewer.replace("@TITLE@", title).replace("@DATA@", packed)


def page_data(subject: Subject) -> dict[str, Any]:
    """What the viewer draws, as JSON."""
    profile = subject.profile
    tensors = _Tensors(subject.sizes)
    steps = []
    for k, step in enumerate(subject.steps):
        name = step.kernel if isinstance(step, CallKernel) else "copy"
        func = subject.kernels.get(name)
        read, written = operands(step, func)
        steps.append(
            {
                "kernel": name,
                "nodes": list(subject.origins[k]),
                "reads": [tensors.number(t, k) for t in read],
                "writes": [tensors.number(t, k) for t in written],
            }
        )
    return {
        "model": subject.model,
        "target": subject.target,
        "threads": subject.threads,
        "kind": profile.kind,
        "notes": list(profile.notes),
        "seconds": profile.seconds,
        "roofs": dict(profile.roofs),
        "kernels": [
            {
                "name": k.name,
                "runs": k.launches,
                "seconds": k.seconds,
                "limiter": k.limiter,
                "figures": {n: v for n, v in k.figures.items() if v is not None},
                **_texts(subject.texts.get(k.name, Texts())),
            }
            for k in profile.kernels
        ],
        "steps": steps,
        "events": [
            [s.number, round(s.start * 1e9), round(s.seconds * 1e9)]
            for s in profile.steps[:MOST_STEPS]
        ],
        "tensors": tensors.found,
        "arena": evaluate(subject.program.arena_bytes, dict(subject.sizes)),
        "constants": subject.program.constants_bytes,
    }


def _texts(texts: Texts) -> dict[str, str]:
    return {
        "recipe": texts.recipe,
        "schedule": texts.schedule,
        "loops": texts.loops,
        "assembly": texts.assembly,
    }


class _Tensors:
    """The tensors of a program, each storage and name once, with their first and last use."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = dict(sizes)
        self.found: list[dict[str, Any]] = []
        self.numbers: dict[object, int] = {}

    def number(self, t: Tensor, step: int) -> int:
        key = (t.storage, t.name)
        if key not in self.numbers:
            self.numbers[key] = len(self.found)
            self.found.append({**self._describe(t), "first": step, "last": step})
        number = self.numbers[key]
        self.found[number]["last"] = step
        return number

    def _describe(self, t: Tensor) -> dict[str, Any]:
        shape = [self._value(d) for d in t.shape]
        nbytes = t.dtype.bytes
        for d in shape:
            nbytes *= max(0, d)
        kind, offset = "arena", -1
        match t.storage:
            case InputStorage(index):
                kind, offset = "input", index
            case OutputStorage(index, _):
                kind, offset = "output", index
            case ConstantStorage(start):
                kind, offset = "constant", start
            case ArenaStorage(start):
                offset = self._value(start)
        return {"name": t.name, "type": f"{t.dtype}[{', '.join(map(str, shape))}]",
                "bytes": nbytes, "kind": kind, "offset": offset}  # fmt: skip

    def _value(self, d: Any) -> int:
        """A dim; -1 where only data settles it."""
        try:
            return int(evaluate(d, self.sizes))
        except KeyError:
            return -1


def split_assembly(assembly: str, kernels: Sequence[str]) -> dict[str, str]:
    """The functions of each kernel, its loops with it, out of one listing."""
    found: dict[str, list[str]] = {name: [] for name in kernels}
    current: str | None = None
    for line in assembly.splitlines():
        label = re.match(r'"?([\w.]+)"?:', line)
        if label and not label[1].startswith(".L"):
            name = re.sub(r"\.(par|loop)\d+$", "", label[1])
            current = name if name in found else None
        if current is not None and not _is_directive(line):
            found[current].append(line.split("#", 1)[0].rstrip().replace("\t", "  "))
        if line.startswith(".Lfunc_end"):
            current = None
    return {name: "\n".join(x for x in lines if x) for name, lines in found.items()}


def _is_directive(line: str) -> bool:
    return bool(re.match(r"\s*\.(cfi|p2align|type|globl|size|section|text|file|set|ident)", line))
