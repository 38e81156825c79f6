"""Functions that the compiler itself wants done, such as the packing of weights, run natively."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llvmlite
import numpy as np

from tilewright.runtime.buffer import address_of
from tilewright.runtime.cache import Cache, digest_key
from tilewright.tensor.ir import Func

from ..llvm.emit import emit_kernel
from .compile import compile_object, rest
from .link import Library
from .load import pool_address
from .pool import CONTEXT_FIELDS
from .target import resolve_target
from .threads import default_threads

_LOADED: dict[Func, Library] = {}


def run_here(func: Func, arguments: Sequence[np.ndarray | int], cache: Cache) -> None:
    """Runs a function on this machine, by all its threads; its code is kept.

    Args:
        func: what to run.
        arguments: contiguous arrays and sizes, in the order of its parameters.
        cache: where its object code is kept.

    Raises:
        TargetError: there is no code for this machine.
    """
    library = _LOADED.get(func)
    if library is None:
        target = resolve_target("native")
        text = emit_kernel(func, target)
        key = digest_key(
            "here", text, target.triple, target.cpu, target.features, llvmlite.__version__
        )
        code = cache.get(key)
        if code is None:
            code = compile_object(text, target)
            cache.put(key, code)
            # Which may be compiled, too.
            pool_address(cache)
            rest()
        library = _LOADED[func] = Library([code], [func.name])
    parallel, state = pool_address(cache)
    context = (ctypes.c_int64 * len(CONTEXT_FIELDS))(parallel, state, default_threads())
    kinds = [ctypes.c_void_p if isinstance(a, np.ndarray) else ctypes.c_int64 for a in arguments]
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *kinds)(library.addresses[func.name])
    raw = [address_of(a) if isinstance(a, np.ndarray) else a for a in arguments]
    entry(ctypes.addressof(context), *raw)
