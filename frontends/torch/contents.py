"""Whether memory was written to in a way that torch does not count: samples of its contents.

Torch counts writes by the tensor that they go through, and not those through ``parameter.data``,
``parameter.numpy()`` or a DLPack import, whose writes the parameter's own count does not show.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

WHOLE = 64
"""Tensors of up to so many elements are read whole."""
PARTS = 7
"""Larger ones at this many places. It is odd, so that those of a matrix lie in many columns."""
_WORD = 8


class _Memory:
    """Words of memory from an address on, as NumPy's array interface."""

    def __init__(self, address: int, words: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "shape": (words,),
            "typestr": "=u8",
            "data": (address, True),
        }


class Contents:
    """Samples of the contents of CPU tensors, as they were when this was made.

    The places are spread evenly, so that new values in any contiguous 1/7 of a tensor (and in any
    element of one of up to 64) change a sample. A sample is the aligned word that an element lies
    in, all of them are read by one call, and nothing else is touched.

    Attributes:
        before: the samples of each tensor, as they were.
    """

    __slots__ = ("_joined", "_memory", "_places", "_tensors", "before")

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = [t.detach() for t in tensors]  # what keeps the memory
        places = [_words(t) for t in self._tensors]
        every = np.concatenate([*places, np.empty(0, np.int64)])
        first, last = (int(every.min()), int(every.max())) if every.size else (0, -1)
        self._places = every - first
        self._memory = np.asarray(_Memory(first * _WORD, last + 1 - first))
        found = self._memory.take(self._places)
        self._joined = found.tobytes()
        ends = np.cumsum([len(p) for p in places])
        self.before = tuple(part.tobytes() for part in np.split(found, ends[:-1])[: len(places)])

    def are_as_before(self) -> bool:
        """Whether all samples are what they were."""
        return self._memory.take(self._places).tobytes() == self._joined


def _words(tensor: torch.Tensor) -> np.ndarray:
    """The numbers of the words that are looked at."""
    if not tensor.numel():
        return np.empty(0, np.int64)
    span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    chosen = np.arange(0, span, 1 if span <= WHOLE else span // PARTS)
    return np.unique((tensor.data_ptr() + chosen * tensor.element_size()) // _WORD)
