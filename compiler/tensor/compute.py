"""Compute: what operators lower to before any loop exists.

    C[i: M, j: 3072] = max(sum(A[i, k] * B[k, j] for k in 768) + b[j], 0.0)

Fusing a producer into a consumer is substitution of one expression in another.
"""

from __future__ import annotations

from dataclasses import dataclass

from .ir import Axis, Buffer, Expr


@dataclass(frozen=True, slots=True)
class Compute:
    """One stage: ``output[axes] = expr``.

    Attributes:
        output: the buffer it defines; its shape is the extents of the axes, in order.
        axes: one axis per dim of the output.
        expr: reads other buffers at any index; may hold Reduce nodes anywhere.
    """

    output: Buffer
    axes: tuple[Axis, ...]
    expr: Expr


@dataclass(frozen=True, slots=True)
class ComputeGroup:
    """The stages of one kernel, producers first.

    Attributes:
        name: the kernel's name.
        inputs: buffers read from outside.
        outputs: buffers visible outside, each the output of a stage; the others are temporaries.
        stages: each reads inputs and outputs of earlier stages.
    """

    name: str
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    stages: tuple[Compute, ...]
