"""Schedule: a thin recorder of the steps that shaped a function."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ..tensor.ir import Func, Load
from ..tensor.walk import block_loads
from .ahead import prefetch, prefetch_panel, prefetch_rows
from .barriers import place_barriers
from .exchange import combine, combine_columns, on_one_thread
from .factors import drop_guards, level_guards, stage, widen
from .hints import stream
from .inline import inline
from .keep import keep_factor
from .loops import fuse, peel, reorder, set_kind, specialise, split, tighten
from .narrow import narrow
from .nest import fail, find_loop, loops, simplify_func
from .online import online
from .pack import PackDim, Packing, pack
from .place import align_dim, compute_at, rfactor, set_scope
from .stage import cache_read, interleave, pad_dim, spread
from .streams import run_apart
from .tensorize import merge_dims, pipeline, tensorize

STEPS: dict[str, Callable[..., Func]] = {
    "split": split,
    "fuse": fuse,
    "reorder": reorder,
    "set_kind": set_kind,
    "peel": peel,
    "narrow": narrow,
    "tighten": tighten,
    "specialise": specialise,
    "compute_at": compute_at,
    "set_scope": set_scope,
    "rfactor": rfactor,
    "run_apart": run_apart,
    "keep_factor": keep_factor,
    "prefetch": prefetch,
    "prefetch_panel": prefetch_panel,
    "prefetch_rows": prefetch_rows,
    "stream": stream,
    "place_barriers": place_barriers,
    "cache_read": cache_read,
    "spread": spread,
    "stage": stage,
    "drop_guards": drop_guards,
    "widen": widen,
    "level_guards": level_guards,
    "tensorize": tensorize,
    "merge_dims": merge_dims,
    "pipeline": pipeline,
    "interleave": interleave,
    "pad_dim": pad_dim,
    "align_dim": align_dim,
    "combine": combine,
    "combine_columns": combine_columns,
    "on_one_thread": on_one_thread,
    "inline": inline,
    "online": online,
}


Steps = tuple[tuple[str, tuple[object, ...]], ...]
"""Primitives and their arguments, in order."""


@dataclass
class Schedule:
    """A function and the steps that made it; prints as Python and saves as JSON.

    Attributes:
        func: the function as it stands now.
        steps: (primitive, arguments), in order; arguments are plain data.
        packings: the operands that must be packed before the kernel is called.
    """

    func: Func
    steps: list[tuple[str, tuple[object, ...]]] = field(default_factory=list)
    packings: list[Packing] = field(default_factory=list)

    def do(self, step: str, *args: object) -> Schedule:
        """Applies the primitive of that name to the function, and records it."""
        self.func = STEPS[step](self.func, *args)
        self.steps.append((step, args))
        return self

    def loop_names(self) -> frozenset[str]:
        """The names of all loops."""
        return frozenset(x.var.name for x in loops(self.func.body))

    def pack(
        self, load: Load | str, dims: Sequence[PackDim | tuple[str, int | None]], name: str
    ) -> Schedule:
        """Packs the operand of one load; recorded by its buffer, axes and block lengths.

        Args:
            load: how the nest reads the operand; the buffer's name where it does so in one way.
            dims: the packed dims; the name of a loop and a block length stand for one, too.
            name: of the packed operand.
        """
        load = self._load_of(load) if isinstance(load, str) else load
        packed = [d if isinstance(d, PackDim) else self._dim_of(*d) for d in dims]
        self.func, packing = pack(self.func, load, packed, name)
        self.packings.append(packing)
        layout = tuple((d.var.name, d.factor) for d in packed)
        self.steps.append(("pack", (load.buffer.name, layout, name)))
        return self

    def _load_of(self, name: str) -> Load:
        found = {x for x in block_loads(self.func.body) if x.buffer.name == name}
        if len(found) != 1:
            raise fail(f"pack({name!r})", self.func, f"the buffer is read in {len(found)} ways")
        return found.pop()

    def _dim_of(self, loop: str, factor: int | None) -> PackDim:
        found = find_loop(self.func, loop, "pack")
        return PackDim(found.var, found.extent, factor)

    def replay(self, steps: Steps) -> Schedule:
        """Applies recorded steps in order."""
        for name, args in steps:
            if name == "pack":
                self.pack(*args)  # type: ignore[arg-type]
            else:
                self.do(name, *args)
        return self

    def __getattr__(self, name: str) -> Callable[..., Schedule]:
        """The primitive of that name as a method, so that the printed steps run as they are."""
        if name not in STEPS:
            raise AttributeError(f"a schedule has no step {name!r}")
        return partial(self.do, name)

    def finish(self) -> Func:
        """The function, simplified under the ranges of its loops."""
        return simplify_func(self.func)

    def __str__(self) -> str:
        return "\n".join(f"s.{name}({', '.join(map(repr, args))})" for name, args in self.steps)

    def json(self) -> str:
        """The steps as a JSON list."""
        return json.dumps([[name, list(args)] for name, args in self.steps])
