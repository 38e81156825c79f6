"""Schedule: a thin recorder of the steps that shaped a function."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from ..tensor.ir import Func, Load
from .ahead import prefetch_panel
from .barriers import place_barriers
from .exchange import combine, combine_columns, on_one_thread
from .factors import drop_guards, level_guards, stage, widen
from .inline import inline
from .keep import keep_factor
from .loops import fuse, peel, reorder, set_kind, specialise, split, tighten
from .nest import loops, simplify_func
from .pack import PackDim, Packing, pack
from .place import compute_at, prefetch, rfactor, set_scope
from .stage import cache_read, interleave, pad_dim, spread
from .tensorize import merge_dims, pipeline, tensorize

STEPS: dict[str, Callable[..., Func]] = {
    "split": split,
    "fuse": fuse,
    "reorder": reorder,
    "set_kind": set_kind,
    "peel": peel,
    "tighten": tighten,
    "specialise": specialise,
    "compute_at": compute_at,
    "set_scope": set_scope,
    "rfactor": rfactor,
    "keep_factor": keep_factor,
    "prefetch": prefetch,
    "prefetch_panel": prefetch_panel,
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
    "combine": combine,
    "combine_columns": combine_columns,
    "on_one_thread": on_one_thread,
    "inline": inline,
}


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

    def pack(self, load: Load, dims: list[PackDim], name: str) -> Schedule:
        """Packs the operand of one load; recorded by its buffer, axes and block lengths."""
        self.func, packing = pack(self.func, load, dims, name)
        self.packings.append(packing)
        layout = tuple((d.var.name, d.factor) for d in dims)
        self.steps.append(("pack", (load.buffer.name, layout, name)))
        return self

    def finish(self) -> Func:
        """The function, simplified under the ranges of its loops."""
        return simplify_func(self.func)

    def __str__(self) -> str:
        return "\n".join(f"s.{name}({', '.join(map(repr, args))})" for name, args in self.steps)

    def json(self) -> str:
        """The steps as a JSON list."""
        return json.dumps([[name, list(args)] for name, args in self.steps])
