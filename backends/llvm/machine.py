"""What the emitter asks of a target: instructions, as yes-or-no facts."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.target import Target


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts about a target's instructions.

    Attributes:
        lanes: 32-bit elements in a vector register; a vector loop is cut into chunks of so many.
        fma: fused multiply-add. f16c: conversion between f16 and f32.
        masked: masked loads and stores of any width are one instruction.
        gather: loads through a vector of indices are one instruction.
    """

    lanes: int
    fma: bool
    f16c: bool
    masked: bool
    gather: bool


def machine_of(target: Target) -> Machine:
    """Derives the facts from the features that the target requires."""
    has = frozenset(target.required)
    return Machine(
        lanes=target.lanes(32),
        fma="fma" in has,
        f16c="f16c" in has,
        masked=target.masked,
        gather="avx2" in has,
    )
