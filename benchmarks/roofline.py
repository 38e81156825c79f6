"""Where is a kernel below 85 % of its roofline, and how much time does that cost?

    python benchmarks/roofline.py MODEL ... [--threads 1] [--least 0.01] [--json FILE]

Runs ``tilewright profile`` on each model and prints the kernels that take at least that share of
its time and stay below 85 % of their roofline, by kind: what ``ROOFLINE.md`` explains. A kind's
``share`` is that of all kernels' time, ``of roof`` the mean over that time. ``at 85 %`` is what
the model's time would be if all kernels below reached 85 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENOUGH = 0.85
PRODUCTS = ("MatMul", "Gemm")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel of a model.

    Attributes:
        name: its name.
        kind: what it computes, in words.
        launches: calls of it in one run of the model.
        share: of the time of all kernels.
        of_roof: its speed as a share of its roofline's; None: it counts no work.
        limit: what its roofline is there, "compute" or a level of memory.
        gflops, gbytes: billions of operations and of bytes of its operands a second.
    """

    name: str
    kind: str
    launches: int
    share: float
    of_roof: float | None
    limit: str
    gflops: float
    gbytes: float

    @property
    def is_below(self) -> bool:
        """Whether it is to be explained."""
        return self.of_roof is not None and self.of_roof < ENOUGH


def kind_of(sources: Sequence[str], launches: int) -> str:
    """What a call of a kernel computes, by the operators that all its calls were made of."""
    operators = [s.partition(":")[0] for s in sources]
    convolutions = (operators.count("Conv") + operators.count("ConvTranspose")) / launches
    products = sum(operators.count(p) for p in PRODUCTS) / launches
    if convolutions > 1:
        return "several convolutions"
    if convolutions:
        return "convolution"
    if products > 1 or (products and "Softmax" in operators):
        return "attention"
    return "product" if products else "rows, elements, movement"


def kernels_of(model: str, threads: int) -> list[Kernel]:
    """The kernels of a model, measured, those that take longest first."""
    command = [
        sys.executable, "-m", "tilewright", "profile", model, "--threads", str(threads), "--json"
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    total = sum(float(k["measured seconds"]) for k in told["kernels"])
    found = [_kernel(k, total) for k in told["kernels"]]
    return sorted(found, key=lambda k: -k.share)


def _kernel(told: Mapping[str, Any], total: float) -> Kernel:
    return Kernel(
        told["name"],
        kind_of(told["source nodes"], int(told["launches"])),
        int(told["launches"]),
        told["measured seconds"] / total,
        told["of roofline"],
        str(told["limited by"] or ""),
        float(told["GFLOP/s"] or 0.0),
        float(told["GB/s"] or 0.0),
    )


def show(name: str, kernels: Sequence[Kernel], least: float) -> None:
    """Prints the kernels of a model that stay below, by kind."""
    below = [k for k in kernels if k.is_below]
    share = sum(k.share for k in below)
    left = sum(k.share * (1 - (k.of_roof or 0.0) / ENOUGH) for k in below)
    print(f"{name}: {share:.0%} of the time below {ENOUGH:.0%}; at {ENOUGH:.0%}: {1 - left:.0%}")
    for kind in sorted({k.kind for k in below}):
        part = [k for k in below if k.kind == kind]
        time = sum(k.share for k in part)
        mean = sum(k.share * (k.of_roof or 0.0) for k in part) / time
        print(f"  {kind:36} {len(part):3} kernels {time:6.1%} share {mean:6.1%} of roof")
        for k in part:
            if k.share >= least:
                print(
                    f"    {k.name:32} {k.launches:3} x {k.share:14.1%} {k.of_roof:12.1%}"
                    f" {k.limit:8} {k.gflops:7.1f} GFLOP/s {k.gbytes:6.1f} GB/s"
                )


def main() -> None:
    """Prints a part for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--least", type=float, default=0.01, help="share of the time that is shown")
    parser.add_argument("--json", type=Path, help="file for all figures")
    chosen = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}; {chosen.threads} threads")
    found = {}
    for model in chosen.models:
        kernels = kernels_of(model, chosen.threads)
        name = Path(model).stem
        found[name] = [{n: getattr(k, n) for n in Kernel.__dataclass_fields__} for k in kernels]
        show(name, kernels, chosen.least)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
