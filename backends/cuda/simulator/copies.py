"""Asynchronous copies: what cp.async starts and a wait ends.

The bytes are read when the copy is issued and written when it is waited for. In between, the
destination counts as never written and holds bits that are no number, so that whoever reads too
early is found, or at least gets NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .batch import Batch
from .scalars import Array


@dataclass(slots=True)
class Copy:
    """The copies of one instruction.

    Attributes:
        lanes: who issued them. index: where they go. group: of each lane, or of all.
        data: the bytes, as rows of elements of ``width``.
    """

    lanes: Array
    index: Array
    data: Array
    group: Array | int

    @property
    def size(self) -> int:
        return int(self.data.shape[1] * self.data.itemsize)


class AsyncCopies:
    """The copies that are under way.

    Attributes:
        committed: how many groups a lane has committed, or all lanes.
    """

    def __init__(self) -> None:
        self.pending: list[Copy] = []
        self.committed: Array | int = 0

    def issue(self, batch: Batch, index: Array, data: Array) -> None:
        """Starts copies of the active lanes.

        Args:
            index: where in shared memory each lane's copy goes.
            data: a row of unsigned elements for each lane.
        """
        lanes = batch.numbers()
        committed = self.committed
        group = committed if isinstance(committed, int) else committed[lanes]
        self.pending.append(Copy(lanes, index, data, group))
        memory = batch.shared.bytes
        width = data.itemsize
        memory.store_vector(index, width, np.full_like(data, ~data.dtype.type(0)))
        memory.forget(index, data.shape[1] * width)

    def commit(self, batch: Batch) -> None:
        """Ends the group of the active lanes; what they issue next belongs to another."""
        if batch.merge is None and isinstance(self.committed, int):
            self.committed += 1
            return
        committed = self._each(batch).copy()
        committed[batch.numbers()] += 1
        self.committed = committed

    def wait(self, batch: Batch, left: int) -> None:
        """Lands the copies of the active lanes, but for those of the ``left`` latest groups."""
        committed = self.committed
        waiting: list[Copy] = []
        for copy in self.pending:
            if batch.merge is None and isinstance(committed, int) and isinstance(copy.group, int):
                if copy.group < committed - left:
                    self._land(batch, copy)
                else:
                    waiting.append(copy)
                continue
            limit = self._each(batch)[copy.lanes] - left
            done = np.broadcast_to(copy.group < limit, copy.lanes.shape)
            if batch.active is not None:
                done = done & batch.active[copy.lanes]
            if done.all():
                self._land(batch, copy)
            elif done.any():
                self._land(batch, _part(copy, done))
                waiting.append(_part(copy, ~done))
            else:
                waiting.append(copy)
        self.pending = waiting

    def touches(self, index: int, size: int) -> bool:
        """Whether a copy that is under way writes any of the bytes."""
        return any(
            bool(((copy.index < index + size) & (index < copy.index + copy.size)).any())
            for copy in self.pending
        )

    def _each(self, batch: Batch) -> Array:
        committed = self.committed
        if isinstance(committed, int):
            return np.full(batch.lanes, committed, np.int64)
        return committed

    def _land(self, batch: Batch, copy: Copy) -> None:
        batch.shared.bytes.store_vector(copy.index, copy.data.itemsize, copy.data)
        if batch.races is not None:
            batch.races.land(batch, copy.index, copy.size, copy.lanes)


def _part(copy: Copy, chosen: Array) -> Copy:
    group = copy.group if isinstance(copy.group, int) else copy.group[chosen]
    return Copy(copy.lanes[chosen], copy.index[chosen], copy.data[chosen], group)
