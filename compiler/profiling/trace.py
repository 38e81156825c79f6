"""A profile as a trace that chrome://tracing and Perfetto show (the Trace Event Format)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tilewright.backends.backend import Profile
from tilewright.runtime.program import CallKernel

from .origins import Timed


def chrome_trace(
    model: str, profile: Profile, steps: Sequence[Timed], origins: Sequence[tuple[str, ...]]
) -> str:
    """One measured call as complete events, with times in microseconds."""
    kernels = {k.name: k for k in profile.kernels}
    events: list[dict[str, object]] = [
        {"name": "process_name", "ph": "M", "pid": 1, "tid": 1, "args": {"name": "tilewright"}},
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": 1, "args": {"name": "caller"}},
        {
            "name": model, "cat": "call", "ph": "X", "pid": 1, "tid": 1, "ts": 0.0,
            "dur": max((s.start + s.seconds for s in profile.steps), default=0.0) * 1e6,
            "args": {"notes": list(profile.notes)},
        },
    ]  # fmt: skip
    for done in profile.steps:
        step = steps[done.number]
        name = step.kernel if isinstance(step, CallKernel) else f"copy {step.dst.name}"
        known = kernels.get(name)
        events.append(
            {
                "name": name,
                "cat": "kernel" if isinstance(step, CallKernel) else "copy",
                "ph": "X",
                "pid": 1,
                "tid": 1,
                "ts": done.start * 1e6,
                "dur": done.seconds * 1e6,
                "args": {
                    "step": done.number,
                    "nodes": list(origins[done.number]),
                    "limited by": known.limiter if known else "",
                },
            }
        )
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}) + "\n"
