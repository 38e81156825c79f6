"""Does a model become the same kernels through torch.export as through ONNX?

    python benchmarks/frontends.py [NAME ...] [--folder FOLDER] [--no-times] [--differences]

Compares the models of export_models.py, and needs what that needs. Each is exported both ways from
one module and compiled both ways. A kernel is its scheduled loop nest, where its own name and those
of symbols are left out, and floating-point constants have six digits. One that both programs call
counts once for each call that both make. For what only one of them calls, its name and how often
are printed; --differences adds the loop nests. Times are medians of ratios of neighbouring blocks,
and ratios of minima: torch's program over ONNX's.

What differs, and why it stays:

- bert_base, gpt2_prefill64, t5_encoder: the kernel of attention under a mask. PyTorch's operator
  gives zeros for a query whose keys are all masked, so its softmax compares once for each row, and
  it masks scores by a choice where the mask is of bools. Its ONNX exporter states such a mask as a
  sum with minus infinity, which differs where a masked score is not finite, and replaces what is
  nan after the softmax, which hides a nan of the scores, too. Neither implies the other.
- gpt2_decode128: the same. The ONNX exporter also multiplies queries and keys by the root of the
  scale each, where PyTorch's operator scales the queries alone: the keys' factor is computed where
  the cache grows, in a kernel that then writes both the longer cache and its product.
- lstm_lm: ONNX orders the gates input, output, forget, cell, PyTorch input, forget, cell, output;
  the kernel behind the product reads them from other places.
- unet: a transposed convolution whose taps do not overlap is a product of pixels and taps. Through
  ONNX it is stated as a convolution of one tap, through torch as a matrix product; the loop nests
  are the same under other names of loops.

All others (resnet18, resnet50, densenet121, efficientnet_b0, mobilenet_v2, vgg16, vit_b_16) call
the same kernels.
"""

# mypy: disable-error-code="misc, no-any-return"

from __future__ import annotations

import argparse
import contextlib
import fcntl
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from export_models import (  # type: ignore[import-not-found]
    MODELS,
    Model,
    declare_operators,
    export,
)

import tilewright
from tilewright.benchmarking.measure import interleave, ratio
from tilewright.peers import agreements
from tilewright.runtime.program import CallKernel, walk_steps
from tilewright.tensor.ir import Var

Executable = tilewright.Executable
TOLERANCE = 1e-4
MOST = {"sequence": 512}
"""The sizes that models bound by their tables of positions."""


# ------------------------------------------------------------------ both ways


def through_torch(model: Model) -> torch.export.ExportedProgram:
    """The module as torch.export gives it, with the same symbolic dims as the ONNX file."""
    if not model.symbols:
        return torch.export.export(model.module, tuple(model.sets[0].values()))
    names = {s for axes in model.symbols.values() for s in axes.values()}
    dims = {s: torch.export.Dim(s, min=1, max=MOST.get(s)) for s in names}
    shapes = {n: {a: dims[s] for a, s in axes.items()} for n, axes in model.symbols.items()}
    # A traced size of 1 would be taken for a constant.
    arguments = tuple(model.sets[-1].values())
    return torch.export.export(model.module, arguments, dynamic_shapes=shapes)


@contextlib.contextmanager
def through_onnx(name: str, model: Model, folder: Path | None) -> Iterator[Path]:
    """The module as an ONNX file, kept in the folder for the next time."""
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / f"{name}.onnx"
        if not path.exists():
            export(model, path)
        yield path


# ------------------------------------------------------------------ kernels


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel apart from the names that it came to bear.

    Attributes:
        name: of its operators.
        loops: its loop nest.
    """

    name: str
    loops: str


def kernels(executable: Executable) -> Counter[Kernel]:
    """How often a program states a call of each kernel."""
    sizes = [d for spec in executable.inputs for d in spec.shape if isinstance(d, Var)]
    symbols = {s.name: f"symbol{i}" for i, s in enumerate(dict.fromkeys(sizes))}
    found = {}
    for text in re.split(r"\n\n(?=def )", executable.text("loops")):
        called = text.removeprefix("def ").partition("(")[0]
        plain = re.sub(r"_\d+$", "", called)
        body = text.removeprefix(f"def {called}")
        body = re.sub(r"[A-Za-z_]\w*", lambda m: symbols.get(m[0], m[0]), body)
        loops = re.sub(r"\d+\.\d+(e[-+]\d+)?", lambda m: f"{float(m[0]):.6g}", body)
        found[called] = Kernel(plain, loops)
    calls = [s for s in walk_steps(executable.program.steps) if isinstance(s, CallKernel)]
    return Counter(found[c.kernel] for c in calls)


def only(mine: Counter[Kernel], others: Counter[Kernel]) -> Counter[Kernel]:
    """The calls of one program that the other does not make."""
    left = mine.copy()
    left.subtract(others)
    return +left


def listed(found: Counter[Kernel], loops: bool) -> str:
    """Kernels by name, with how often they are called."""
    if loops:
        return "\n".join(f"{n} x {k.name}{k.loops}" for k, n in found.items())
    names: Counter[str] = Counter()
    for kernel, calls in found.items():
        names[kernel.name] += calls
    return ", ".join(f"{n} {name}" for name, n in sorted(names.items())) or "none"


# ------------------------------------------------------------------ one model


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Holds the lock file, so that measurements do not disturb each other."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def compare(name: str, chosen: argparse.Namespace) -> bool:
    """Prints the line of one model and what differs; returns whether both agree."""
    torch.manual_seed(0)
    model = MODELS[name]()
    mine = tilewright.compile(through_torch(model), threads=chosen.threads)
    with through_onnx(name, model, chosen.folder) as path:
        theirs = tilewright.compile(path, threads=chosen.threads)
        a, b = kernels(mine), kernels(theirs)
    feed = [v.numpy() for v in model.sets[0].values()]
    del model
    agreement = max(
        x.relative for x in agreements([o.name for o in theirs.outputs], mine(*feed), theirs(*feed))
    )
    times = ""
    if not chosen.no_times:
        with alone(chosen.lock):
            ours, peer = interleave(
                [lambda: mine(*feed), lambda: theirs(*feed)], 2 * chosen.seconds
            )
        times = f"{ratio(ours, peer):8.3f} {ours.minimum / peer.minimum:8.3f}"
    same = (a & b).total()
    print(
        f"{name:16} {a.total():6} {b.total():6} {same:6}   {len(a):5} {len(b):5} {len(a & b):5}"
        f"   {agreement:8.1e} {times}",
        flush=True,
    )
    for label, left in (("torch", only(a, b)), ("ONNX", only(b, a))):
        if left:
            print(f"    only through {label}: {listed(left, chosen.differences)}", flush=True)
    return agreement <= TOLERANCE


def main() -> int:
    """Compares what is asked for; 1 if any outputs differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--folder", type=Path, help="where to keep and find the ONNX files")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each contender")
    parser.add_argument("--no-times", action="store_true", help="compare kernels only")
    parser.add_argument("--differences", action="store_true", help="print loops that differ")
    parser.add_argument(
        "--lock", type=Path, default=Path(tempfile.gettempdir()) / "tilewright-benchmark.lock"
    )
    chosen = parser.parse_args()
    unknown = set(chosen.names) - set(MODELS)
    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    print(f"{'':16} {'calls':>20}   {'kernels':>17}   {'outputs':>8} {'time, torch / ONNX':>17}")
    print(
        f"{'model':16} {'torch':>6} {'ONNX':>6} {'same':>6}   {'torch':>5} {'ONNX':>5} {'same':>5}"
        f"   {'differ':>8} {'median':>8} {'minimum':>8}"
    )
    agreed = [compare(name, chosen) for name in chosen.names or MODELS]
    return 0 if all(agreed) else 1


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # The exporters warn of their own internals.
    declared = declare_operators()
    with torch.no_grad():
        sys.exit(main())
