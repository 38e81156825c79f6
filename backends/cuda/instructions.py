"""Instructions of NVIDIA GPUs: what each one needs, checked before any code is emitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tilewright.errors import TargetError
from tilewright.target import Target
from tilewright.tensor.instructions import INSTRUCTIONS, Layout, Match, find, registers_of
from tilewright.tensor.ir import Commit, Const, Expr, For, Func, Var, Wait
from tilewright.tensor.simplify import simplify
from tilewright.tensor.walk import statements, substitute

LANE = Var("tw_lane")
"""The number of a thread in its warp."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What an instruction asks of a target.

    Attributes:
        sm: the least compute capability, as 80 for 8.0.
        ptx: the least version of PTX, in tenths.
        call: LLVM's name for it.
    """

    sm: int
    ptx: int
    call: str


_MMA = "llvm.nvvm.mma"
NEEDS: dict[str, Needs] = {
    "mma.m16n8k16.f16": Needs(80, 70, f"{_MMA}.m16n8k16.row.col.f32.f32"),
    "mma.m16n8k16.bf16": Needs(80, 70, f"{_MMA}.m16n8k16.row.col.bf16"),
    "mma.m16n8k8.f16": Needs(75, 65, f"{_MMA}.m16n8k8.row.col.f32.f32"),
    "mma.m16n8k8.tf32": Needs(80, 70, f"{_MMA}.m16n8k8.row.col.tf32"),
    "ldmatrix": Needs(75, 65, "llvm.nvvm.ldmatrix.sync.aligned.m8n8"),
    "cp.async": Needs(80, 70, "llvm.nvvm.cp.async.cg.shared.global.16"),
    "cp.async.commit_group": Needs(80, 70, "llvm.nvvm.cp.async.commit.group"),
    "cp.async.wait_group": Needs(80, 70, "llvm.nvvm.cp.async.wait.group"),
}
"""By name, without the type where all types need the same."""


def needs(name: str) -> Needs:
    """What an instruction of the tensor IR needs."""
    return NEEDS[name] if name in NEEDS else NEEDS[".".join(name.split(".")[: _words(name)])]


def _words(name: str) -> int:
    return 2 if name.startswith("cp.") else 1


def instructions_for(version: int, ptx: int) -> tuple[str, ...]:
    """The instructions of the tensor IR that a compute capability has."""
    return tuple(n for n in INSTRUCTIONS if needs(n).sm <= version and needs(n).ptx <= ptx)


def check_instructions(funcs: Sequence[Func], target: Target) -> None:
    """Returns if the target has every instruction of the functions.

    Raises:
        TargetError: it lacks one, or a nest is no instruction at all (TW-E0411).
    """
    assert target.threads is not None
    version, ptx = target.threads.version, int(target.features.rpartition("+ptx")[2] or 0)
    for func in funcs:
        for name in _used(func):
            if name is None:
                raise TargetError(
                    f"{func.name}: a nest marked as an instruction is none that {target.name} has",
                    code="TW-E0411",
                )
            needed = needs(name)
            if version < needed.sm or ptx < needed.ptx:
                raise TargetError(
                    f"{func.name}: {name} needs sm_{needed.sm} and PTX "
                    f"{needed.ptx // 10}.{needed.ptx % 10}; {target.name} is {target.cpu} with "
                    f"PTX {ptx // 10}.{ptx % 10}",
                    code="TW-E0411",
                )


def _used(func: Func) -> Iterator[str | None]:
    for stmt in statements(func.body):
        match stmt:
            case For() if stmt.kind == "instruction":
                found = find(stmt)
                yield None if found is None else found.instruction.name
            case Commit():
                yield "cp.async.commit_group"
            case Wait():
                yield "cp.async.wait_group"


@dataclass(frozen=True, slots=True)
class Rows:
    """What each lane of ``ldmatrix`` says and gets.

    Attributes:
        at: the position in shared memory of the row that a lane names, in terms of LANE.
        count: how many tiles of 8 x 8, each two registers of 16 bits a lane.
        transposed: whether lanes get columns of what lies in memory as rows.
    """

    at: Expr
    count: int
    transposed: bool


def rows_of(found: Match, layout: Layout) -> Rows:
    """How ``ldmatrix`` fills a fragment of that layout.

    Lanes 8 q to 8 q + 7 name the rows of tile q; a lane gets two neighbours of each tile as one
    register, along the dim of the fragment whose last digit counts registers.
    """
    tiles = found.instruction.nest.extent if "t" in found.loops else 1
    assert isinstance(tiles, int)
    pairs = registers_of(layout) // 2
    along = 0 if layout[0][-1].kind == "register" else 1
    names = ("i", "j")
    transposed = found.operands["s"].run != names[along]
    tile = LANE // 8 % (tiles * pairs)
    pair, row = tile % pairs, LANE % 8
    places: list[Expr] = []
    for k, digits in enumerate(layout):
        place: Expr = Const(0)
        below = 1
        for d in reversed(digits):
            if d.kind == "register" and d.weight > 1:
                place = place + pair * 2 // d.weight % d.extent * below
            below *= d.extent
        # In memory a row runs along the neighbours, or across them where it is transposed.
        counted = k == along if transposed else k != along
        places.append(place + row if counted else place)
    named = dict(zip(("t", *names), (tile // pairs, *places), strict=True))
    at: dict[Expr, Expr] = {v: named[n] for n, v in found.loops.items()}
    position = simplify(substitute(found.operands["s"].at, at), {LANE: (0, 31)})
    return Rows(position, tiles * pairs, transposed)
