"""What the emitter asks of a target: instructions, as yes-or-no facts."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.target import Target

_FENCES = {"x86_64": "x86.sse.sfence"}
_PERMUTE = {("x86_64", 512): "x86.avx512.permvar.sf.512"}


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts about a target's instructions.

    Attributes:
        lanes: 32-bit elements in a vector register; a vector loop is cut into chunks of so many.
        registers: vector registers.
        fma: fused multiply-add. half: conversion between f16 and f32.
        masked: masked loads and stores of any width are one instruction.
        gather: loads through a vector of indices are one instruction.
        permute: LLVM's name of the instruction that moves each lane of a register of f32 to any
            other; what LLVM makes of such a shuffle may be two. Empty: there is none.
        fence: LLVM's name of the instruction after which others see what was stored past the
            caches. Empty: such stores are as any others.
        stateful: code may have variables of its own, which keep their values between calls.
        attributes: of every function.
    """

    lanes: int
    registers: int
    fma: bool
    half: bool
    masked: bool
    gather: bool
    permute: str
    fence: str
    stateful: bool
    attributes: str


def machine_of(target: Target) -> Machine:
    """The facts about a target."""
    return Machine(
        lanes=target.lanes(32),
        registers=target.vector_registers,
        fma=target.fma,
        half=target.half,
        masked=target.masked,
        gather=target.gather,
        permute=_PERMUTE.get((target.architecture, target.vector_bits), ""),
        fence=_FENCES.get(target.architecture, ""),
        # A WebAssembly module has memory for what it is given, and for constants.
        stateful=not target.architecture.startswith("wasm"),
        attributes=target.attributes,
    )
