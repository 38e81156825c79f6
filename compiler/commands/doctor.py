"""``tilewright doctor``: what this machine offers, and whether compiling works on it."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import click
import numpy as np

from tilewright import api
from tilewright import dtype as dt
from tilewright.backends import equipment, load_backend
from tilewright.backends.cpu.emulators import EMULATORS, WASM_RUNTIME, missing_tools
from tilewright.backends.cpu.peaks import Peaks, keep_peaks, known_peaks, measure_peaks
from tilewright.backends.cpu.target import TARGET_NAMES
from tilewright.backends.cpu.threads import cpu_quota, default_threads
from tilewright.errors import InternalError, TargetError
from tilewright.frontends import FRONTENDS
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType
from tilewright.options import Options, from_environment
from tilewright.peers import PEERS, peer_version
from tilewright.runtime.cache import open_cache
from tilewright.target import Target
from tilewright.tensor.ir import symbol
from tilewright.version import __version__

_PACKAGES = ("numpy", "llvmlite", "ml_dtypes", "click", "rich")


@click.command(epilog="Example: tilewright doctor")
@click.option(
    "--measure",
    is_flag=True,
    help="Measure what this machine reaches, by kernels of our own; profile and bench use it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, the peaks as numbers.")
def doctor(measure: bool, as_json: bool) -> None:
    """Show versions, CPU, targets, threads, cache and peers; then compile and run a small model.

    With --measure, also measure the peak of f32 operations and the bandwidths of caches and
    memory, of one thread and of all, and keep the figures in the cache. Other work on the machine
    makes them too small: measure when it is quiet.
    """
    options = from_environment()
    store = open_cache(options)
    peaks = measure_peaks() if measure else known_peaks(store)
    if measure and peaks is not None:
        keep_peaks(store, peaks)
    facts = dict(_facts(options))
    if as_json:
        seconds = _self_test()
        found = {**facts, "peaks": _peak_figures(peaks), "self-test seconds": seconds}
        click.echo(json.dumps(found, indent=1))
        return
    for label, value in (*facts.items(), *_peak_facts(peaks)):
        click.echo(f"{label:15} {value}")
    took = _self_test()
    click.echo(f"{'self-test':15} ok: a small model compiled and ran in {took:.2f} s")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _facts(options: Options) -> Iterator[tuple[str, str]]:
    backend = load_backend(api.backend_of(options.target))
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    frontends = sorted({name for f in FRONTENDS.values() for name in f.packages})
    tools = {n: version for n, version in backend.versions.items() if n not in _PACKAGES}
    others = "".join(f", {name} {version}" for name, version in tools.items())
    yield "tilewright", __version__
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    yield "packages", f"{packages}{others}"
    yield "frontends", ", ".join(f"{name} {_version(name)}" for name in frontends)
    try:
        yield from _target_facts(backend.resolve(options.target))
    except TargetError as error:
        yield "target", str(error)
    quota = cpu_quota()
    yield (
        "threads",
        f"{options.threads or default_threads()} "
        f"(affinity {len(os.sched_getaffinity(0))}, quota {quota or 'none'}, "
        f"machine {os.cpu_count()})",
    )
    cache = open_cache(options)
    stats = cache.stats()
    yield (
        "cache",
        f"{cache.root or 'off'}: {stats.entries} entries, {stats.bytes / 1e6:.1f} MB of at most "
        f"{options.cache_bytes / 1e6:.0f} MB",
    )
    yield from _cross_facts()
    yield from equipment()
    peers = (f"{name} {peer_version(name) or 'not installed'}" for name in PEERS)
    yield "peers", ", ".join(peers)


def _peak_facts(peaks: Peaks | None) -> Iterator[tuple[str, str]]:
    """What the machine reaches, where it was measured."""
    if peaks is None:
        yield "peaks", "not measured on this machine: tilewright doctor --measure"
        return
    one, all_of = peaks.flops
    yield (
        "peak",
        f"{one / 1e9:.1f} GFLOP/s of f32 with 1 thread, {all_of / 1e9:.1f} with {peaks.threads}",
    )
    for level, (single, together) in peaks.bandwidth.items():
        yield (
            f"reads of {level}",
            f"{single / 1e9:.1f} GB/s with 1 thread, {together / 1e9:.1f} with {peaks.threads}",
        )


def _peak_figures(peaks: Peaks | None) -> dict[str, Any] | None:
    """What the machine reaches: in operations and bytes a second, of one thread and of all."""
    if peaks is None:
        return None
    return {
        "threads": peaks.threads,
        "flops": list(peaks.flops),
        "bandwidth": {level: list(speeds) for level, speeds in peaks.bandwidth.items()},
    }


def _target_facts(target: Target) -> Iterator[tuple[str, str]]:
    yield (
        "target",
        f"{target.name}: {target.cpu}, {target.vector_registers} vector registers of "
        f"{target.vector_bits} bit",
    )
    yield "features", " ".join(target.required)
    sizes = (target.l1_bytes, target.l2_bytes, target.l3_bytes)
    yield "caches", ", ".join(f"L{i} {s >> 10} KiB" for i, s in enumerate(sizes, 1))


def _cross_facts() -> Iterator[tuple[str, str]]:
    """The targets that code can be made for, and what runs the code of other machines here."""
    yield "targets", ", ".join(TARGET_NAMES)
    for name, emulator in EMULATORS.items():
        missing = missing_tools(name)
        tools = f"{' '.join(emulator.command)}, linked by {emulator.compiler}"
        yield name, f"to run it here, install {missing}" if missing else f"runs in {tools}"
    missing = missing_tools("wasm32")
    yield (
        "wasm32",
        f"to run it here, install {missing}"
        if missing
        else f"runs in {WASM_RUNTIME} {metadata.version(WASM_RUNTIME)}",
    )


def _self_test() -> float:
    """Compiles a layer with a symbolic batch, runs it, and compares with NumPy."""
    began = time.perf_counter()
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((20, 30), dtype=np.float32)
    exe = api.compile(_layer(weights), cache=False)
    for batch in (1, 5):
        x = generator.standard_normal((batch, 20), dtype=np.float32)
        (y,) = exe(x)
        wanted = np.maximum(x @ weights, np.float32(0))
        if not np.allclose(y, wanted, rtol=1e-5, atol=1e-5):
            raise InternalError(
                f"doctor: a layer of 20 to 30 on a batch of {batch} gives a wrong result, off by "
                f"{np.abs(y - wanted).max():.3g}",
                code="TW-E0931",
            )
    return time.perf_counter() - began


def _layer(weights: np.ndarray) -> Graph:
    builder = GraphBuilder("layer")
    batch = symbol("N", 1)
    x = builder.input("x", TensorType(dt.f32, (batch, weights.shape[0])))
    product = builder.add("matmul", x, builder.constant(weights, "w"))
    zero = builder.constant(np.zeros((), np.float32), "zero")
    builder.output(builder.add("max", product, zero), "y")
    return builder.finish()
