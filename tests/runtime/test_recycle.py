"""Memory of outputs is used again when nothing refers to it, and never before."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.runtime.buffer import address_of, aligned_empty
from tilewright.runtime.recycle import Block, Recycler, size_class

SIZE = 1 << 20
F4 = np.dtype(np.float32)


def block(size: int) -> Block:
    raw = np.empty(size, np.uint8)
    return Block(raw, 0, address_of(raw))


def make(recycler: Recycler, size: int = SIZE) -> np.ndarray:
    array, address = recycler.empty((size // 4,), F4, size)
    assert address_of(array) == address
    return array


def test_memory_is_used_again_after_its_array() -> None:
    recycler = Recycler(block, 8 * SIZE)
    first = address_of(make(recycler))
    assert address_of(make(recycler)) == first
    assert address_of(make(recycler, SIZE - 4096)) == first


HOLDERS: list[Any] = [
    lambda x: x[3:],
    lambda x: x.reshape(2, -1).T[1:],
    memoryview,
    lambda x: np.frombuffer(x.view("u1"), "u1"),
    np.from_dlpack,
]


@pytest.mark.parametrize("hold", HOLDERS)
def test_memory_is_not_used_again_while_something_refers_to_it(hold: Any) -> None:
    recycler = Recycler(block, 8 * SIZE)
    array = make(recycler)
    first, held = address_of(array), hold(array)
    del array
    assert address_of(make(recycler)) != first
    del held
    # The newest is tried first; while it lives, the one before is free.
    keep = make(recycler)
    assert {address_of(keep), address_of(make(recycler))} >= {first}


def test_tensors_of_torch_keep_memory() -> None:
    torch = pytest.importorskip("torch")
    recycler = Recycler(block, 8 * SIZE)
    array = make(recycler)
    first, tensor = address_of(array), torch.from_numpy(array)
    del array
    part = tensor[5:]
    del tensor
    assert address_of(make(recycler)) != first
    assert part.data_ptr() == first + 20


def test_at_the_limit_all_is_forgotten() -> None:
    recycler = Recycler(block, 3 * SIZE)
    kept = [make(recycler) for _ in range(20)]
    assert len({address_of(x) for x in kept}) == 20
    assert sum(len(b) for b in recycler._blocks.values()) <= 3
    small = Recycler(block, SIZE // 2)
    make(small)
    assert not any(small._blocks.values())


def test_idle_memory_is_freed_when_there_is_no_more() -> None:
    left = 2

    def scarce(size: int) -> Block:
        nonlocal left
        if not left:
            left = 1
            raise MemoryError
        left -= size >= SIZE
        return block(size)

    recycler = Recycler(scarce, 8 * SIZE)
    kept = [make(recycler), make(recycler)]
    assert make(recycler, 2 * SIZE).size and len(kept) == 2
    with pytest.raises(MemoryError):
        Recycler(lambda size: (_ for _ in ()).throw(MemoryError) if size > 64 else block(size), 0
                 ).empty((1,), F4, SIZE)  # fmt: skip


def test_size_classes_hold_their_sizes_and_waste_little() -> None:
    for size in (1, 7, 8, 9, 1000, SIZE - 1, SIZE, SIZE + 1, 10**9 + 7):
        room = size_class(size)
        assert size <= room <= size + size // 8 + 1 and size_class(room) == room


def test_threads_never_get_the_same_memory() -> None:
    recycler = Recycler(block, 64 * SIZE)
    failures: list[object] = []

    def work(mark: int) -> None:
        for _ in range(300):
            array = make(recycler, 1 << 12)
            array.fill(mark)
            other = make(recycler, 1 << 12)
            other.fill(-mark)
            if not ((array == mark).all() and (other == -mark).all()):
                failures.append(mark)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_results_of_calls_stay_apart_and_their_memory_is_reused() -> None:
    double = tw.jit(lambda x: x * 2)
    x = np.ones((512, 512), np.float32)
    kept = [double(x * i) for i in range(12)]
    assert all((y == 2 * i).all() for i, y in enumerate(kept))
    places = {address_of(y) for y in kept}
    del kept
    again = double(x)
    assert address_of(again) in places
    assert address_of(aligned_empty((4,), F4, 16)[0]) % 64 == 0
