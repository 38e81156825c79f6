"""Chains written in turns keep their order, and everything comes after what it uses."""

from __future__ import annotations

import pytest

from tilewright.backends.cpu.target import resolve_target
from tilewright.backends.llvm.emit import emit_kernel
from tilewright.backends.llvm.interleave import interleave
from tilewright.tensor.parse import parse_func


def test_chains_take_turns() -> None:
    first = ["  %v1 = fadd float %a, %b", "  %v2 = fadd float %v1, %b"]
    second = [
        "  %v3 = fmul float %a, %b",
        "  %v4 = fmul float %v3, %b",
        "  store float %v4, ptr %p",
    ]
    assert interleave([first, second]) == [
        first[0], second[0], first[1], second[1], second[2],
    ]  # fmt: skip


def test_a_chain_waits_for_what_one_before_it_defines() -> None:
    first = ["  %v1 = fadd float %a, %b", "  %v2 = fadd float %v1, %b"]
    second = ["  %v3 = fmul float %v2, %v2"]
    assert interleave([first, second]) == [*first, *second]


def test_no_chains_are_no_lines() -> None:
    assert interleave([]) == []
    assert interleave([[], []]) == []


@pytest.mark.parametrize(("target", "side_by_side"), [("x86-64-v4", 4), ("x86-64-v3", 2)])
def test_as_many_exponentials_run_at_once_as_registers_hold(target: str, side_by_side: int) -> None:
    func = parse_func(
        "def f(x: f32[64], y: f32[64]):\n    for j in vector(64):\n        y[j] = exp(x[j])"
    )
    text = emit_kernel(func, resolve_target(target))
    order = [
        line.split()[0] for line in text.splitlines() if " load <" in line or "store <" in line
    ]
    first = order.index("store")
    assert first == side_by_side
    assert order.count("store") == 64 // (16 if target == "x86-64-v4" else 8)


def test_short_bodies_are_written_one_vector_after_the_other() -> None:
    func = parse_func(
        "def f(x: f32[64], y: f32[64]):\n    for j in vector(64):\n        y[j] = x[j] + 1.0"
    )
    text = emit_kernel(func, resolve_target("x86-64-v4"))
    order = [line for line in text.splitlines() if " load <" in line or "store <" in line]
    assert ["load" in line for line in order] == [True, False] * 4
