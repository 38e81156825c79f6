"""Writes the PTX of the test models for one target: run as a process of its own.

LLVM ends the process where it has no instruction for something; a test then says for what.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.backends.cpu.cross.cases import MODELS as CASES
from tilewright import api

from .networks import NETWORKS


def main(target: str, output: Path) -> None:
    """Writes the PTX of every network, and the CUDA C++, by name."""
    found = {}
    models = {name: network.model() for name, network in NETWORKS.items()}
    for name, model in {**models, "halves": CASES["halves"]().graph}.items():
        built = api.build(model, target=target, cache=False)
        found[name] = {"ptx": built.text("ptx"), "cuda": built.text("cuda")}
    output.write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
