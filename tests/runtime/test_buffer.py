"""Memory of the run time: its alignment and its size."""

from __future__ import annotations

import pytest

from tilewright.runtime.buffer import address_of, aligned_bytes

HUGE_PAGE = 2 << 20


@pytest.mark.parametrize("size", [1, 1000, HUGE_PAGE // 2 - 1])
def test_small_memory_has_its_size_and_starts_at_a_multiple_of_64(size: int) -> None:
    block = aligned_bytes(size)
    assert block.nbytes == size
    assert address_of(block) % 64 == 0


@pytest.mark.parametrize("size", [HUGE_PAGE // 2, HUGE_PAGE, HUGE_PAGE + 1])
def test_large_memory_starts_with_a_huge_page_and_is_written_to_its_end(size: int) -> None:
    block = aligned_bytes(size)
    assert block.nbytes == size
    assert address_of(block) % HUGE_PAGE == 0
    block[:] = 7
    assert block[0] == block[-1] == 7


@pytest.mark.parametrize("size", [1 << 60, 1 << 66])
def test_memory_that_is_not_there_is_refused(size: int) -> None:
    with pytest.raises(MemoryError):
        aligned_bytes(size)
