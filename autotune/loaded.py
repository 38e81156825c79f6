"""A candidate in memory, called again and again as a model would call it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import cycle

import numpy as np

from tilewright.errors import InternalError
from tilewright.runtime.buffer import address_of, aligned_bytes, aligned_copy
from tilewright.runtime.executable import Entry
from tilewright.runtime.program import Program
from tilewright.runtime.shapes import Planner

_ENTRY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_MOST_COPIES = 32
_MOST_BYTES = 256 << 20


class Loaded:
    """A program with the memory of its calls; closes its code at the end of a ``with``.

    In a model the weights of a kernel have left the near cache by the next call: calls take
    turns with copies of the constants that together do not fit there.

    Args:
        entry: the loaded code, which it owns.
        program: what it runs.
        inputs: the arrays of a call, in order.
        constants: of the program.
        near_bytes: the size of the cache that constants are not in.
    """

    def __init__(
        self,
        entry: Entry,
        program: Program,
        inputs: Sequence[np.ndarray],
        constants: np.ndarray,
        near_bytes: int,
    ) -> None:
        self._entry = entry
        self._native = _ENTRY(entry.address)
        plan = Planner(program).plan(tuple(x.shape for x in inputs))
        self._inputs = [aligned_copy(x) for x in inputs]
        self._outputs = [np.zeros(0, np.uint8) for _ in plan.outputs]
        self._results = []
        for k, (shape, dtype, size) in enumerate(plan.outputs):
            self._outputs[k] = aligned_bytes(max(size, 64))
            count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            self._results.append(self._outputs[k][:count].view(dtype).reshape(shape))
        self._arena = aligned_bytes(max(plan.arena_bytes, 64))
        self._dims = (ctypes.c_int64 * max(1, len(plan.dims)))(*plan.dims)
        self._constants = [constants, *self._copies(constants, near_bytes)]
        self._in = (ctypes.c_uint64 * max(1, len(inputs)))(*map(address_of, self._inputs))
        self._out = (ctypes.c_uint64 * max(1, len(self._outputs)))(*map(address_of, self._outputs))
        self._frames = [self._frame(c) for c in self._constants]
        self._next = cycle([ctypes.addressof(f) for f in self._frames])

    @staticmethod
    def _copies(constants: np.ndarray, near_bytes: int) -> list[np.ndarray]:
        size = constants.nbytes
        if not size:
            return []
        count = min(_MOST_COPIES, -(-2 * near_bytes // size), _MOST_BYTES // size)
        return [aligned_copy(constants) for _ in range(count - 1)]

    def _frame(self, constants: np.ndarray) -> ctypes.Array[ctypes.c_uint64]:
        return (ctypes.c_uint64 * 6)(
            self._entry.context,
            ctypes.addressof(self._in),
            ctypes.addressof(self._out),
            address_of(constants) if constants.nbytes else 0,
            address_of(self._arena),
            ctypes.addressof(self._dims),
        )

    def call(self) -> None:
        """Runs once.

        Raises:
            InternalError: it reports a size outside its range (TW-E0938).
        """
        status = self._native(next(self._next))
        if status:
            raise InternalError(f"a candidate ended with status {status}", code="TW-E0938")

    def outputs(self) -> tuple[np.ndarray, ...]:
        """What the last call wrote."""
        return tuple(self._results)

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the code."""
        self._entry.close()
