"""A kernel with any one barrier, wait or mask removed is found out."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tilewright.backends.cuda.simulator import Options, SimulationError, shadow

from .running import EXAMPLES

_WHOLE_LINES = (
    r"bar\.sync 0;",
    r"cp\.async\.wait_group 1;",
    r"cp\.async\.commit_group;",
)
_PARTS = {
    # Masks: predicates of loads and stores, sizes of copies, bounds of rows and columns.
    r"@%p\d+ (?=ld|st)": "",
    r"(cp\.async\.\S+ .*), %r\d+;": r"\1;",
    r"setp\.lt\.and\.u32 (%p\d+), (%r\d+), (%r\d+), (%p\d+);": r"setp.lt.u32 \1, \2, \3;",
    r"setp\.lt\.and\.u32 (%p\d+), %r\d+, %r\d+, (%p\d+);": r"mov.pred \1, \2;",
    # Waits for fewer groups than are needed.
    r"wait_group 1;": "wait_group 2;",
    # What lies where.
    r"\.trans": "",
    r"atom\.shared\.add\.u32 (%r\d+), (\[%r\d+\]), 1;": r"st.shared.u32 \2, 1;",
}


def mutants(text: str) -> Iterator[tuple[str, str]]:
    """(what was removed, the changed text)."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if any(re.search(pattern, line) for pattern in _WHOLE_LINES):
            yield (
                f"{number + 1}: {line.strip()}",
                "\n".join([*lines[:number], "", *lines[number + 1 :]]),
            )
        for pattern, replacement in _PARTS.items():
            changed = re.sub(pattern, replacement, line)
            if changed != line:
                yield (
                    f"{number + 1}: {line.strip()} -> {changed.strip()}",
                    "\n".join([*lines[:number], changed, *lines[number + 1 :]]),
                )
    for branch in sorted(set(re.findall(r"@%p\d+ bra (?:END|DONE|MAX_DONE|SUM_DONE);", text))):
        yield f"bound: {branch}", text.replace(branch, "", 1)


# All lanes of a warp hold its maximum, and may as well all store it.
_EQUIVALENT = {("softmax", "@%p1 st.shared.f32 [%r11], %f1;")}
CASES = [
    pytest.param(name, mutant, id=f"{name} {what}")
    for name, example in EXAMPLES.items()
    for what, mutant in mutants(example.text)
    if not any(name == kernel and line in what for kernel, line in _EQUIVALENT)
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_kernels_themselves_are_right(name: str) -> None:
    example = EXAMPLES[name]
    assert not example.wrong(example.text)


@pytest.mark.parametrize(("name", "mutant"), CASES)
def test_a_removed_barrier_wait_or_mask_is_found(name: str, mutant: str) -> None:
    try:
        wrong = EXAMPLES[name].wrong(mutant)
    except SimulationError:
        return
    assert wrong, "the mutant computes the right result without an error"


def test_every_kernel_has_mutants() -> None:
    counts = {n: sum(1 for c in CASES if c.values[0] == n) for n in EXAMPLES}
    assert counts["vector add"] >= 1
    assert counts["sgemm"] >= 5
    assert counts["softmax"] >= 4
    assert counts["histogram"] >= 3
    assert counts["tensor-core gemm"] >= 25


def test_lockstep_alone_hides_a_missing_barrier() -> None:
    """Why races are looked for: without the check, the wrong kernel gives the right result."""
    example = EXAMPLES["sgemm"]
    first = example.text.index("bar.sync 0;")
    broken = example.text[:first] + example.text[first:].replace("bar.sync 0;", "", 1)
    assert not example.wrong(broken, Options(races=False))
    with pytest.raises(SimulationError, match="race: reads .*which thread .* wrote"):
        example.wrong(broken)


def test_races_are_found_however_long_a_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the shadow outgrows 32 bits."""
    monkeypatch.setattr(shadow, "_LATEST", 4)
    example = EXAMPLES["sgemm"]
    assert not example.wrong(example.text)
    last = example.text.rindex("bar.sync 0;")
    broken = example.text[:last] + example.text[last:].replace("bar.sync 0;", "", 1)
    with pytest.raises(SimulationError, match="race: writes .*which thread .* read"):
        example.wrong(broken)
