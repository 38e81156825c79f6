"""Is a model as fast here as in the best other runtime? Outputs first, then times taken in turns.

    python benchmarks/zoo.py [FOLDER ...] [--only NAME ...] [--no-light] [--threads 1,2]
                             [--compare onnxruntime,openvino,torch] [--time-budget 8]
                             [--isa avx2] [--json LOG] [--show]

Measures every NAME.onnx with NAME.npz in the folders (export_models.py and fetch_models.py write
them) and the nine light models of the onnx package. Every engine has a process of its own, which
gets ready before anything is timed and stands still unless it is its turn. Outputs are compared
with the recorded references, all sets of them, and with those of each peer; a peer that is wrong
where we are right is left out. Then blocks of calls take turns (ABBA) until all ratios are known
within 1 %, or to the end of the budget.

``x`` is a peer's time over ours: above 1, Tilewright is faster. The first is the median over the
rounds, the second that of the fastest calls. ``best`` is the least of all peers, and the means
are geometric. ``--isa`` limits all to older instructions; ONNX Runtime has no switch for that and
is left out. ``--json`` names a log with a line of JSON for each row: what it holds is not measured
again, so a run that was cut off goes on. ``--show`` only prints what the log holds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.api import import_graph
from tilewright.benchmarking.engine import Engine
from tilewright.benchmarking.measure import Timing, precise, take_turns
from tilewright.benchmarking.operations import count_flops, share_of_convolutions
from tilewright.benchmarking.report import OURS
from tilewright.benchmarking.significance import paired_ratio
from tilewright.benchmarking.surroundings import commit_info
from tilewright.commands.bench import parse_peers, parse_threads
from tilewright.errors import OptionError
from tilewright.frontends.onnx.zoo import NAMES
from tilewright.peers import agreements, as_file

TOLERANCE = 1e-4
PRECISION = 0.01
BLOCK_SECONDS = 0.1
EARLIEST = 10
LIGHT = "zoo:"
TRANSFORMERS = ("vit_b_16", "bert_base", "gpt2_prefill64", "gpt2_decode128", "t5_encoder")


@dataclass(frozen=True, slots=True)
class Instructions:
    """How engines are kept from using newer instructions.

    Attributes:
        target: what Tilewright compiles for.
        environment: what oneDNN (in OpenVINO and torch) and torch read.
    """

    target: str
    environment: Mapping[str, str]


ISAS: dict[str, Instructions] = {
    "avx2": Instructions(
        "x86-64-v3", {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    ),
    "sse4.1": Instructions(
        "x86-64-v2", {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}
    ),
}
UNLIMITED = ("onnxruntime",)
"""Peers that take the newest instructions whatever they are told."""


@dataclass(frozen=True, slots=True)
class Contender:
    """What was measured of one engine.

    Attributes:
        version: of it.
        median_ms, least_ms: of its calls.
        seconds: until it was ready.
        peak_bytes: the peak resident size of its process by then.
        ratio, ratio_low, ratio_high: its time over ours, the median of rounds, and the bounds.
        least_ratio: that of the fastest calls.
        difference: of our outputs from its, relative to the largest; ours: from the references.
    """

    version: str
    median_ms: float
    least_ms: float
    seconds: float
    peak_bytes: int
    ratio: float = 1.0
    ratio_low: float = 1.0
    ratio_high: float = 1.0
    least_ratio: float = 1.0
    difference: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A row: one model with one number of threads.

    Attributes:
        model: a file's stem, or a light model's name.
        threads: of a call.
        isa: a key of ISAS; empty: what there is.
        groups: what kinds of model it is.
        rounds: how many there were.
        load: of the machine before.
        commit: of Tilewright.
        engines: by name, ours first.
        refusals: what peers say that do not run it.
        failed: what went wrong, if it did.
    """

    model: str
    threads: int
    isa: str
    groups: tuple[str, ...] = ()
    rounds: int = 0
    load: float = 0.0
    commit: str = ""
    engines: dict[str, Contender] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()
    failed: str = ""

    @property
    def peers(self) -> dict[str, Contender]:
        """The others."""
        return {name: c for name, c in self.engines.items() if name != OURS}

    @property
    def best(self) -> tuple[str, Contender] | None:
        """The peer that leaves us the least."""
        return min(self.peers.items(), key=lambda p: p[1].ratio, default=None)

    @property
    def differs(self) -> bool:
        """Whether an output is not what it should be."""
        known = [c.difference for c in self.engines.values() if c.difference is not None]
        return not all(d <= TOLERANCE for d in known)


# ------------------------------------------------------------------ one model


def feeds_of(model: str, folder: Path) -> tuple[list[Path], list[list[np.ndarray]]]:
    """Files with the inputs of each set, and the references; a light model's are random."""
    if model.startswith(LIGHT):
        (value,) = import_graph(model, None).inputs
        shape = tuple(d for d in value.shape if isinstance(d, int))
        image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        np.savez(folder / "in0.npz", **{value.name: image})  # type: ignore[arg-type]
        return [folder / "in0.npz"], []
    path = Path(model)
    files, references = [], []
    recorded = [path.with_suffix(".npz"), *sorted(path.parent.glob(f"{path.stem}.[0-9].npz"))]
    for k, file in enumerate(recorded):
        with np.load(file) as archive:
            inputs = {n[3:]: archive[n] for n in archive.files if n.startswith("in_")}
            references.append(
                [archive[f"out_{i}"] for i in range(len(archive.files) - len(inputs))]
            )
        files.append(folder / f"in{k}.npz")
        np.savez(files[-1], **inputs)
    return files, references


def groups_of(model: str, feed: Path) -> tuple[str, ...]:
    """The kinds of model that means are taken over."""
    with np.load(feed) as archive:
        shapes = {n: archive[n].shape for n in archive.files}
    graph = import_graph(model, shapes)
    found = ["light"] if model.startswith(LIGHT) else []
    if count_flops(graph, {}) and share_of_convolutions(graph, {}, (3, 3)) > 0.5:
        found.append("3x3 CNNs")
    if Path(model).stem in TRANSFORMERS:
        found.append("transformers")
    return tuple(found)


def difference(ours: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """The largest relative difference; references may be wider than the outputs."""
    fitted = [o.astype(a.dtype) for a, o in zip(ours, others, strict=True)]
    return max(a.relative for a in agreements([str(i) for i in range(len(ours))], ours, fitted))


def tell(text: str) -> None:
    """Says what goes on, to whoever watches."""
    if sys.stderr.isatty():
        print(f"\r{text:70}\r", end="", file=sys.stderr)


def measure_model(model: str, threads: int, chosen: argparse.Namespace) -> Measured:
    """A row of a model."""
    isa = ISAS.get(chosen.isa, Instructions("native", {}))
    name = label(model)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tilewright-")))
        path = stack.enter_context(as_file(model))
        tell(f"{name}: getting ready")
        feeds, references = feeds_of(model, folder)
        engines = [
            stack.enter_context(
                Engine(
                    engine, path, threads, feeds if engine == OURS else feeds[:1],
                    target=isa.target, environment=isa.environment,
                )
            )
            for engine in (OURS, *chosen.compare)
        ]  # fmt: skip
        groups = groups_of(model, feeds[0])
        opened, refusals = ready(engines)
        wrong = [difference(o, r) for o, r in zip(opened[0].outputs, references, strict=False)]
        if wrong and max(wrong) <= TOLERANCE:
            opened, more = without_wrong(opened)
            refusals += more
        load = os.getloadavg()[0]
        tell(f"{name}: measuring with {threads} threads")
        timings = take_turns(
            [e.block for e in opened],
            chosen.time_budget,
            enough=precise(PRECISION, len(opened) - 1),
            earliest=EARLIEST,
            block_seconds=BLOCK_SECONDS,
        )
        found = contenders(opened, timings, max(wrong, default=None))
    return Measured(
        name, threads, chosen.isa, groups, len(timings[0].blocks), load, commit_of(), found,
        tuple(refusals),
    )  # fmt: skip


def ready(engines: Sequence[Engine]) -> tuple[list[Engine], list[str]]:
    """The engines that run the model, ours being the first, and what the others say.

    Raises:
        OptionError: ours does not.
    """
    opened, refusals = [], []
    for engine in engines:
        try:
            engine.ready()
        except OptionError as error:
            if engine.name == OURS:
                raise
            refusals.append(error.message)
        else:
            opened.append(engine)
    return opened, refusals


def without_wrong(engines: Sequence[Engine]) -> tuple[list[Engine], list[str]]:
    """Leaves out peers whose outputs are wrong, ours being known to be right."""
    right, refusals = [], []
    for engine in engines:
        far = difference(engines[0].outputs[0], engine.outputs[0])
        if far <= TOLERANCE:
            right.append(engine)
        else:
            refusals.append(f"{engine.name}: its outputs are wrong by {far:.1e}")
    return right, refusals


def contenders(
    engines: Sequence[Engine], timings: Sequence[Timing], wrong: float | None
) -> dict[str, Contender]:
    """What was measured, by engine."""
    ours, our_timing = engines[0], timings[0]
    found = {}
    for engine, timing in zip(engines, timings, strict=True):
        times = (timing.median * 1e3, timing.minimum * 1e3, engine.seconds, engine.peak_bytes)
        if engine is ours:
            found[engine.name] = Contender(engine.version, *times, difference=wrong)
            continue
        ratio = paired_ratio(timing.blocks, our_timing.blocks)
        found[engine.name] = Contender(
            engine.version, *times, ratio.estimate, ratio.low, ratio.high,
            timing.minimum / our_timing.minimum, difference(ours.outputs[0], engine.outputs[0]),
        )  # fmt: skip
    return found


def label(model: str) -> str:
    """What a model is called."""
    return model if model.startswith(LIGHT) else Path(model).stem


def commit_of() -> str:
    """The commit, marked where files differ from it."""
    found = commit_info(Path(__file__).parent)
    return str(found["id"])[:12] + ("+" if found["dirty"] else "")


# ------------------------------------------------------------------ the log


def to_json(row: Measured) -> dict[str, Any]:
    """A row as the log holds it."""
    plain = {n: getattr(row, n) for n in Measured.__dataclass_fields__ if n != "engines"}
    engines = {
        n: {k: getattr(c, k) for k in Contender.__dataclass_fields__}
        for n, c in row.engines.items()
    }
    return {**plain, "engines": engines}


def from_json(data: Mapping[str, Any]) -> Measured:
    """A row that the log holds."""
    engines = {n: Contender(**c) for n, c in data["engines"].items()}
    lists = {k: tuple(data[k]) for k in ("groups", "refusals")}
    return Measured(**{**data, **lists, "engines": engines})


def read_log(log: Path | None) -> dict[tuple[str, int, str], Measured]:
    """The rows of a log that did not fail, by model, threads and instructions."""
    if log is None or not log.exists():
        return {}
    rows = [from_json(json.loads(line)) for line in log.read_text().splitlines()]
    return {(r.model, r.threads, r.isa): r for r in rows if not r.failed}


# ------------------------------------------------------------------ printing


def head(peers: Sequence[str]) -> str:
    """The columns."""
    cells = "".join(f" {p[:11] + ' ms':>14} {'x':>5} {'x min':>5}" for p in peers)
    return f"{'model':18} th {'ms':>8}{cells} {'best':>11} {'x':>5} {'x min':>5} {'differs':>8}"


def line(row: Measured, peers: Sequence[str]) -> str:
    """A row, as it is printed."""
    start = f"{row.model:18} {row.threads:2}"
    if row.failed:
        return f"{start} FAILED: {row.failed[:200]}"
    cells = ""
    for name in peers:
        c = row.engines.get(name)
        cells += (
            f" {'-':>14} {'':5} {'':5}" if c is None
            else f" {c.median_ms:14.3f} {c.ratio:5.2f} {c.least_ratio:5.2f}"
        )  # fmt: skip
    ours, best = row.engines[OURS], row.best
    told = f"{start} {ours.median_ms:8.3f}{cells}"
    if best is not None:
        told += f" {best[0]:>11} {best[1].ratio:5.2f} {best[1].least_ratio:5.2f}"
    known = [c.difference for c in row.engines.values() if c.difference is not None]
    told += f" {max(known, default=math.nan):8.1e}"
    if row.differs:
        told += "  DIFFERS"
    if best is not None and min(best[1].ratio, best[1].least_ratio) < 1:
        told += "  LOSES" if max(best[1].ratio, best[1].least_ratio) < 1 else "  LOSES one"
    return told


def mean(values: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def summary(rows: Sequence[Measured], peers: Sequence[str]) -> Iterator[str]:
    """Lines of means for each number of threads and kind of model, and what is lost."""
    for threads in sorted({r.threads for r in rows}):
        pairs = [(r, r.best) for r in rows if r.threads == threads]
        known = [(r, best) for r, best in pairs if best is not None]
        kinds = ["all", *sorted({g for r, _ in known for g in r.groups})]
        for kind in kinds:
            part = [(r, b) for r, b in known if kind == "all" or kind in r.groups]
            medians = mean([b[1].ratio for _, b in part])
            least = mean([b[1].least_ratio for _, b in part])
            each = []
            for peer in peers:
                ratios = [r.engines[peer].ratio for r, _ in part if peer in r.engines]
                if ratios:
                    each.append(f"{peer} {mean(ratios):.2f}")
            yield (
                f"{threads} threads, {kind} ({len(part)}): best peer x {medians:.3f},"
                f" of minima {least:.3f}; {', '.join(each)}"
            )
        lost = sorted((b[1].ratio, r.model, b[0]) for r, b in known if b[1].ratio < 1)
        shown = ", ".join(f"{model} {ratio:.2f} ({peer})" for ratio, model, peer in lost)
        yield f"{threads} threads, lost: {shown or 'none'}"


# ------------------------------------------------------------------ all models


def wanted(chosen: argparse.Namespace) -> list[str]:
    """The models that are asked for."""
    models = []
    for folder in chosen.folders:
        models += [str(p) for p in sorted(folder.glob("*.onnx")) if p.with_suffix(".npz").exists()]
    if not chosen.no_light:
        models += [f"{LIGHT}{n}" for n in NAMES]
    if chosen.only:
        models = [m for m in models if label(m) in chosen.only]
    return models


def main() -> int:
    """Measures what is asked for; 1 if anything failed or differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="models to measure")
    parser.add_argument("--no-light", action="store_true", help="leave the light models out")
    parser.add_argument("--threads", type=parse_threads, default=(1, 2))
    parser.add_argument("--compare", type=parse_peers, default=("onnxruntime", "openvino", "torch"))
    parser.add_argument("--time-budget", type=float, default=8.0, help="for each row")
    parser.add_argument("--isa", choices=list(ISAS), default="")
    parser.add_argument("--json", type=Path, metavar="LOG", help="log of rows, which is continued")
    parser.add_argument("--show", action="store_true", help="only print what the log holds")
    chosen = parser.parse_args()
    if chosen.isa:
        chosen.compare = tuple(p for p in chosen.compare if p not in UNLIMITED)
    known = read_log(chosen.json)
    limited = f"; instructions up to {chosen.isa}" if chosen.isa else ""
    print(f"load {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} CPUs; medians{limited}")
    print(head(chosen.compare))
    rows = []
    for model in wanted(chosen):
        for threads in chosen.threads:
            row = known.get((label(model), threads, chosen.isa))
            if row is None and chosen.show:
                continue
            if row is None:
                try:
                    row = measure_model(model, threads, chosen)
                except OptionError as error:
                    row = Measured(label(model), threads, chosen.isa, failed=error.message)
                if chosen.json:
                    with chosen.json.open("a") as log:
                        log.write(json.dumps(to_json(row)) + "\n")
            rows.append(row)
            print(line(row, chosen.compare), flush=True)
            for refusal in row.refusals:
                print(f"{'':21} {refusal[:150]}", flush=True)
    for text in summary([r for r in rows if not r.failed], chosen.compare):
        print(text)
    return 1 if any(r.failed or r.differs for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
