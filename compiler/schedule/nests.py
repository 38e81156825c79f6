"""What a recipe is given: a plain Func and the structure that lowering knows of it."""

from __future__ import annotations

from dataclasses import dataclass

from ..tensor.ir import Axis, Buffer, Expr, Func, ReduceOp


@dataclass(frozen=True, slots=True)
class Reduction:
    """A reduction that became a temporary.

    Attributes:
        buffer: the temporary; indexed by the spatial axes that the reduction depends on.
        op, body: what is reduced, over the update nest's variables.
        init: names of the loops of the nest that initialises it.
        spatial: the loops of the update nest that index the temporary, in its order.
        reduce: the loops of the update nest that it is reduced over.
        axes: names of the axes of the nest that reads it, to which the spatial loops correspond.
    """

    buffer: Buffer
    op: ReduceOp
    body: Expr
    init: tuple[str, ...]
    spatial: tuple[Axis, ...]
    reduce: tuple[Axis, ...]
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MapStage:
    """A temporary without a reduction: values that several later steps need.

    Attributes:
        buffer: the temporary.
        axes: the loops of the nest that fills it.
    """

    buffer: Buffer
    axes: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Nests:
    """A plain Func and what it is made of.

    Attributes:
        func: temporaries declared at the top, then the nests, producers first.
        temporaries: in order of computation.
        axes: the loops of the final nest.
        constants: names of the parameters whose values are known when the code is made.
        finals: how many nests write outputs.
    """

    func: Func
    temporaries: tuple[Reduction | MapStage, ...]
    axes: tuple[Axis, ...]
    constants: frozenset[str]
    finals: int = 1

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """The temporaries that are reductions."""
        return tuple(t for t in self.temporaries if isinstance(t, Reduction))
