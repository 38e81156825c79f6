"""Other runtimes for the same model, to measure against and to check results with.

Each is loaded only when it is asked for; none is needed to compile or run anything.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tilewright.api import import_graph
from tilewright.errors import OptionError, first_line
from tilewright.frontends import frontend_of
from tilewright.graph.interpret import interpret
from tilewright.stages import load_function

Feed = Mapping[str, np.ndarray]
Run = Callable[[Feed], Sequence[np.ndarray]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A runtime with a model in it.

    Attributes:
        name: its key in PEERS.
        version: of the installed package.
        seconds: how long it took to get ready.
        run: inputs by name to outputs in the model's order.
    """

    name: str
    version: str
    seconds: float
    run: Run


def _onnxruntime(path: Path, threads: int, module: Any) -> Run:
    options = module.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = str(_in_format(path, ".onnx"))
    session = module.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(feed: Feed) -> Sequence[np.ndarray]:
        results: list[np.ndarray] = session.run(None, dict(feed))
        return results

    return run


def _openvino(path: Path, threads: int, module: Any) -> Run:
    core = module.Core()
    settings = {
        # Without it OpenVINO computes in bf16 where the CPU can: another problem than ours.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    model = core.read_model(str(_in_format(path, ".onnx")))
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    outputs = list(compiled.outputs)

    def run(feed: Feed) -> Sequence[np.ndarray]:
        results = request.infer(dict(feed), share_inputs=True, share_outputs=True)
        return [results[o] for o in outputs]

    return run


def _torch(path: Path, threads: int, module: Any) -> Run:
    """torch.compile with Inductor, weights frozen; eager execution where no C++ compiler is."""
    module.set_num_threads(threads)
    module.set_float32_matmul_precision("highest")
    exported = _beside(path, ".pt2")
    if exported is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own file format
            model = module.export.load(str(exported)).module()
    elif find_spec("onnx2torch") is not None:
        model = import_module("onnx2torch").convert(str(path)).eval()
    else:
        raise ValueError(
            f"torch takes {path.with_suffix('.pt2').name} of torch.export.save beside the model, "
            f"or an ONNX file where onnx2torch is installed"
        )
    if has_cpp_compiler():
        settings: Any = import_module("torch._inductor.config")
        settings.freezing = True
        model = module.compile(model)

    def run(feed: Feed) -> Sequence[np.ndarray]:
        # Threads are the process's: another number may have been asked for meanwhile.
        if module.get_num_threads() != threads:
            module.set_num_threads(threads)
        with module.no_grad():
            found = model(*(module.from_numpy(x) for x in feed.values()))
        return [x.numpy() for x in (found if isinstance(found, (tuple, list)) else [found])]

    return run


def has_cpp_compiler() -> bool:
    """Whether Inductor finds what it compiles its code with."""
    return any(shutil.which(name) for name in ("g++", "c++", "clang++"))


def _tvm(path: Path, threads: int, module: Any) -> Run:
    """TVM's Relax pipeline for LLVM, untuned, weights folded in."""
    relax = import_module("tvm.relax")
    model = import_module("onnx").load(str(_in_format(path, ".onnx")))
    imported = import_module("tvm.relax.frontend.onnx").from_onnx(model, keep_params_in_input=False)
    passes = relax.transform
    lowered = passes.LegalizeOps()(passes.DecomposeOpsForInference()(imported))
    cpu = module.get_global_func("target.llvm_get_system_cpu")()
    target = module.target.Target({"kind": "llvm", "mcpu": cpu, "num-cores": threads})
    machine = relax.VirtualMachine(module.compile(lowered, target=target), module.cpu())
    configure = module.get_global_func("runtime.config_threadpool")

    def run(feed: Feed) -> Sequence[np.ndarray]:
        configure(1, threads)
        found = machine["main"](*(module.runtime.tensor(x) for x in feed.values()))
        results = [found] if hasattr(found, "numpy") else list(found)
        return [x.numpy() for x in results]

    return run


def _beside(path: Path, suffix: str) -> Path | None:
    """The model in another format: the file itself, or one of its name in the same folder."""
    other = path.with_suffix(suffix)
    return other if other.is_file() else None


def _in_format(path: Path, suffix: str) -> Path:
    found = _beside(path, suffix)
    if found is None:
        raise ValueError(f"it takes {suffix} files, and there is none beside {path.name}")
    return found


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a peer is found and made ready.

    Attributes:
        package: what is installed; its version is shown.
        module: what is imported.
        make: gets a file ready to run on a number of threads, in float32.
        kind: which of its ways to run is used, where it has several.
    """

    package: str
    module: str
    make: Callable[[Path, int, Any], Run]
    kind: Callable[[], str] = str


def _torch_kind() -> str:
    return "inductor" if has_cpp_compiler() else "eager: no C++ compiler"


PEERS: dict[str, Runtime] = {
    "onnxruntime": Runtime("onnxruntime", "onnxruntime", _onnxruntime),
    "openvino": Runtime("openvino", "openvino", _openvino),
    "torch": Runtime("torch", "torch", _torch, _torch_kind),
    "tvm": Runtime("apache-tvm", "tvm", _tvm, lambda: "untuned"),
}
"""The runtimes to measure against and to check results with, by name."""

REFERENCE = "reference"
"""Tilewright's own graph run by NumPy: slow, and independent of all code generation."""


def peer_version(name: str) -> str | None:
    """The version of an installed peer, or None where it is not installed."""
    try:
        return metadata.version(PEERS[name].package)
    except metadata.PackageNotFoundError:
        return None


def require_peer(name: str) -> str:
    """The version of a peer.

    Raises:
        OptionError: there is no such peer, or it is not installed (TW-E0824).
    """
    version = peer_version(name) if name in PEERS else None
    if version is None:
        known = ", ".join(f"{n} ({peer_version(n) or 'not installed'})" for n in PEERS)
        raise OptionError(
            f"peer {name!r} is not there; known are {known}; pip install 'tilewright[bench]' "
            "installs them",
            code="TW-E0824",
        )
    return version


def open_peer(name: str, path: Path, threads: int) -> Peer:
    """Gets a peer ready to run a file of the format that runtimes share.

    Raises:
        OptionError: there is no such peer, or it is not installed (TW-E0824), or it does not
            take the model (TW-E0825).
    """
    version = require_peer(name)
    runtime = PEERS[name]
    module = import_module(runtime.module)
    began = time.perf_counter()
    try:
        run = runtime.make(path, threads, module)
    except Exception as error:
        # Their errors share no type of their own.
        raise OptionError(
            f"{name} {version} does not take {path.name}: {first_line(error)}", code="TW-E0825"
        ) from error
    shown = f"{version} {runtime.kind()}".strip()
    return Peer(name, shown, time.perf_counter() - began, run)


def run_reference(
    model: str, shapes: Mapping[str, tuple[int | str, ...]] | None, feed: Feed
) -> list[np.ndarray]:
    """What NumPy computes for the model's graph as imported."""
    return interpret(import_graph(model, shapes or None), feed)


@contextmanager
def as_file(model: str) -> Iterator[Path]:
    """The file of a model, for other runtimes; one that only has a name is written."""
    frontend = frontend_of(model)
    if frontend is None or not frontend.writes:
        yield Path(model)
        return
    with TemporaryDirectory(prefix="tilewright-") as folder:
        path = Path(folder) / f"{model.removeprefix(frontend.scheme)}.onnx"
        path.write_bytes(load_function(frontend.writes)(model))
        yield path


# ------------------------------------------------------------------ agreement


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far one output is from another runtime's.

    Attributes:
        output: its name.
        relative: the largest \\|a-b\\| over the largest \\|b\\|; infinite where shapes, types or
            the places of nan and infinity differ, or integers do.
        note: what differs, where it is not the size of the numbers.
    """

    output: str
    relative: float
    note: str = ""


def agreements(
    names: Sequence[str], ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]
) -> list[Agreement]:
    """Compares outputs pairwise."""
    if len(ours) != len(theirs):
        return [Agreement("outputs", np.inf, f"{len(ours)} here, {len(theirs)} there")]
    return [_agreement(n, a, np.asarray(b)) for n, a, b in zip(names, ours, theirs, strict=True)]


def _agreement(name: str, a: np.ndarray, b: np.ndarray) -> Agreement:
    if a.shape != b.shape or a.dtype != b.dtype:
        return Agreement(
            name, np.inf, f"{a.dtype}{list(a.shape)} here, {b.dtype}{list(b.shape)} there"
        )
    if a.size == 0:
        return Agreement(name, 0.0)
    if a.dtype.kind in "biu":
        different = int((a != b).sum())
        return Agreement(
            name, np.inf if different else 0.0, f"{different} differ" if different else ""
        )
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(wide_b)
    if not np.array_equal(wide_a[~finite], wide_b[~finite], equal_nan=True):
        return Agreement(name, np.inf, "nan or infinity in other places")
    if not np.isfinite(wide_a[finite]).all():
        return Agreement(name, np.inf, "nan or infinity where there is none there")
    error = float(np.abs(wide_a - wide_b, where=finite, out=np.zeros_like(wide_a)).max())
    scale = float(np.abs(wide_b, where=finite, out=np.zeros_like(wide_b)).max())
    return Agreement(name, error / scale if scale else (np.inf if error else 0.0))
