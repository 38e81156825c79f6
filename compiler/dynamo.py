"""``torch.compile(model, backend="tilewright")``: what torch's entry point leads to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tilewright.api import compile as compile_graph
from tilewright.errors import OptionError
from tilewright.frontends import CAPTURES
from tilewright.options import from_environment
from tilewright.stages import load_function, uncollected

_OPTIONS = ("target", "math", "threads", "cache", "debug")
_MODES = ("default", "reduce-overhead")


def compile_captured(
    module: Any,
    example_inputs: Any,
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Compiles a graph that torch's Dynamo has captured.

    Args:
        module, example_inputs: what Dynamo gives a backend.
        mode: ``default`` or ``reduce-overhead``, which mean the same here.
        options: ``target``, ``math``, ``threads``, ``cache`` and ``debug``, as
            ``tilewright.compile`` takes them. Without ``threads`` (and TILEWRIGHT_THREADS) a call
            uses as many threads as ``torch.get_num_threads()`` says at that time.

    Raises:
        OptionError: a mode or an option is not known (TW-E0801, TW-E0802).
        UnsupportedError, ModelError: see ``tilewright.compile``.
    """
    chosen = dict(options or {})
    unknown = sorted(map(str, chosen.keys() - set(_OPTIONS)))
    if unknown:
        raise OptionError(
            f"torch.compile: unknown option {', '.join(unknown)}; there are {', '.join(_OPTIONS)}",
            code="TW-E0802",
        )
    if mode not in (None, *_MODES):
        raise OptionError(
            f"torch.compile: mode {mode!r} is not supported; there are {', '.join(_MODES)}",
            code="TW-E0801",
        )
    threads = from_environment(None, **chosen).threads
    make = partial(compile_graph, **chosen)
    capture = load_function(CAPTURES["dynamo"])
    with uncollected():
        function: Callable[..., Any] = capture(module, example_inputs, make, threads)
    return function
