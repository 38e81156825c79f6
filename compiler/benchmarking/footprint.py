"""Peak memory: a process that runs a model and tells its own, and what starts such processes.

python -m tilewright.benchmarking.footprint ENGINE MODEL INPUTS.npz THREADS
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import numpy as np

from tilewright.api import compile, load  # noqa: A004
from tilewright.errors import InternalError


def peak_memory(
    engine: str,
    model: Path,
    inputs: Path,
    threads: int,
    environment: Mapping[str, str] | None = None,
) -> int:
    """The peak resident bytes of a fresh process that loads a model and runs it three times.

    Args:
        engine: ``tilewright`` (a ``.tw`` file, or an ONNX file that it compiles) or a peer.
        model: the file.
        inputs: an ``.npz`` file with the inputs by name.
        threads: of a call.
        environment: variables that are set for the process; without TILEWRIGHT_CACHE, nothing
            is looked up in the cache.
    """
    command = [
        sys.executable,
        "-m",
        "tilewright.benchmarking.footprint",
        engine,
        str(model),
        str(inputs),
        str(threads),
    ]
    given = {**os.environ, "TILEWRIGHT_CACHE": "0", **(environment or {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=given)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InternalError(f"{engine}: its process for measuring memory ended with {last}",
                            code="TW-E0932")  # fmt: skip
    return int(done.stdout)


def peak_bytes() -> int:
    """The peak resident size of this process.

    Not getrusage: its figure survives exec and starts with the parent's size.
    """
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) << 10


def main(engine: str, model: str, inputs: str, threads: str) -> None:
    """Runs the model three times and prints the peak."""
    with np.load(inputs) as archive:
        feed = {name: archive[name] for name in archive.files}
    run: Callable[[dict[str, np.ndarray]], object]
    if engine == "tilewright":
        exe = (
            load(model, threads=int(threads))
            if model.endswith(".tw")
            else compile(model, threads=int(threads))
        )
        run = exe.run
    else:
        # What peers need is none of our own memory.
        run = import_module("tilewright.peers").open_peer(engine, Path(model), int(threads)).run
    for _ in range(3):
        run(feed)
    print(peak_bytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
