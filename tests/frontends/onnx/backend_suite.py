"""Runs onnx's own backend suite: every case passes, is refused, is wrong, or crashes.

python tests/frontends/onnx/backend_suite.py                     counts, and what is wrong
python tests/frontends/onnx/backend_suite.py --list refused      one line a case, with the reason
python tests/frontends/onnx/backend_suite.py --reasons           how many cases each gap refuses
python tests/frontends/onnx/backend_suite.py --update --jobs 2   adds new passes to passing.txt
python tests/frontends/onnx/backend_suite.py --executor interpret test_conv
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

import tilewright
from tilewright.errors import UnsupportedError
from tilewright.frontends.onnx import import_onnx
from tilewright.graph.interpret import interpret

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
OUTCOMES = ("pass", "refused", "wrong", "crash")
PASSING = Path(__file__).with_name("passing.txt")
SECONDS_PER_CASE = 60.0
SECONDS_TO_START = 300.0
BYTES_PER_PROCESS = 12 << 30
"""Address space of a process: a case that runs away fails, and the machine goes on."""

Runner = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]
Executor = Callable[[onnx.ModelProto, str | None], Runner]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one case.

    Attributes:
        case: its kind and name, ``node/test_abs``.
        outcome: one of OUTCOMES.
        detail: why it did not pass.
    """

    case: str
    outcome: str
    detail: str = ""


# ------------------------------------------------------------------ executors


def by_interpreter(model: onnx.ModelProto, folder: str | None) -> Runner:
    """Imports a model and runs the references of its ops."""
    graph = import_onnx(model, base_dir=folder)
    names = [value.name for value in graph.inputs]
    return lambda inputs: interpret(graph, dict(zip(names, inputs, strict=True)))


def by_native_code(model: onnx.ModelProto, folder: str | None) -> Runner:
    """Compiles a model for this machine."""
    graph = import_onnx(model, base_dir=folder)
    executable = tilewright.compile(graph, cache=False, threads=1)
    return lambda inputs: executable(*inputs)


EXECUTORS: dict[str, Executor] = {"interpret": by_interpreter, "native": by_native_code}


# ------------------------------------------------------------------ cases


@cache
def all_cases() -> dict[str, TestCase]:
    """The cases that need no download, by kind and name."""
    with warnings.catch_warnings():
        # Building the cases computes infinities and overflows on purpose.
        warnings.simplefilter("ignore")
        return {
            f"{kind}/{case.name}": case
            for kind in KINDS
            for case in sorted(load_model_tests(kind=kind), key=lambda c: c.name)
        }


def passing() -> frozenset[str]:
    """The cases that must pass."""
    return frozenset(PASSING.read_text().split())


def _data_sets(
    case: TestCase, model: onnx.ModelProto
) -> Iterator[tuple[list[object], list[object]]]:
    if case.data_sets is not None:
        for inputs, outputs in case.data_sets:
            yield [_array(x) for x in inputs], [_array(y) for y in outputs]
        return
    assert case.model_dir is not None
    for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
        given = len(list(folder.glob("input_*.pb")))
        yield (
            [_stored(folder / f"input_{i}.pb", v) for i, v in enumerate(model.graph.input[:given])],
            [_stored(folder / f"output_{i}.pb", v) for i, v in enumerate(model.graph.output)],
        )


def _array(data: object) -> object:
    return numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else data


def _stored(path: Path, declared: onnx.ValueInfoProto) -> object:
    data = path.read_bytes()
    match declared.type.WhichOneof("value"):
        case "sequence_type":
            return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
        case "optional_type":
            return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
        case _:
            return numpy_helper.to_array(onnx.TensorProto.FromString(data))


# ------------------------------------------------------------------ one case


def run_case(name: str, executor: Executor) -> Result:
    """Runs one case with the suite's own tolerances."""
    case = all_cases()[name]
    try:
        model = case.model
        if model is None:
            assert case.model_dir is not None
            model = onnx.load(Path(case.model_dir) / "model.onnx")
        run = executor(model, case.model_dir)
        for inputs, expected in _data_sets(case, model):
            found = run(inputs)  # type: ignore[arg-type]
            problem = _difference(found, expected, case.rtol, case.atol)
            if problem:
                return Result(name, "wrong", problem)
    except UnsupportedError as error:
        return Result(name, "refused", "; ".join(gap.what for gap in error.gaps))
    except Exception as error:  # a crash is one of the outcomes
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return Result(name, "crash", f"{type(error).__name__} at {where}: {error}")
    return Result(name, "pass")


def _difference(
    found: Sequence[np.ndarray], expected: Sequence[object], rtol: float, atol: float
) -> str:
    if len(found) != len(expected):
        return f"{len(found)} outputs, expected {len(expected)}"
    for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        want = np.asarray(theirs)
        if ours.dtype != want.dtype or ours.shape != want.shape:
            return (
                f"output {i} is {ours.dtype}{list(ours.shape)}, "
                f"expected {want.dtype}{list(want.shape)}"
            )
        tolerance = rtol
        if want.dtype.name == "bfloat16":
            # As the suite does: two units in the last place, compared in a type NumPy knows.
            tolerance = max(rtol, 2.0**-6)
            ours, want = ours.astype(np.float32), want.astype(np.float32)
        try:
            np.testing.assert_allclose(ours, want, rtol=tolerance, atol=atol)
        except AssertionError as error:
            return f"output {i}: {' '.join(str(error).split())[:200]}"
    return ""


# ------------------------------------------------------------------ all cases


@dataclass(frozen=True, slots=True)
class Selection:
    """Some of the cases; which ones, only the process that runs them works out.

    Attributes:
        patterns: a case's name holds one of these; none: all cases.
        part, parts: every ``parts``-th of these cases, from the ``part``-th on.
    """

    patterns: tuple[str, ...] = ()
    part: int = 0
    parts: int = 1

    def names(self) -> list[str]:
        """The names of the cases, in order."""
        chosen = [
            name
            for name in all_cases()
            if not self.patterns or any(pattern in name for pattern in self.patterns)
        ]
        return chosen[self.part :: self.parts]


def run_cases(
    selection: Selection, executor: str, seconds: float = SECONDS_PER_CASE
) -> list[Result]:
    """Runs cases in a process apart: one that hangs or dies is a crash, and the rest go on."""
    results: list[Result] = []
    while _batch(selection, executor, seconds, results):
        pass
    return results


def _batch(selection: Selection, executor: str, seconds: float, results: list[Result]) -> bool:
    """Adds to the results what one process gives; whether it ended early."""
    # A process of its own making: a fork may hold locks of threads that it does not have.
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(selection, executor, len(results), send))
    worker.start()
    send.close()
    try:
        if not receive.poll(SECONDS_TO_START):
            raise TimeoutError(f"no cases after {SECONDS_TO_START:g} seconds")
        for name in receive.recv():
            if not receive.poll(seconds):
                results.append(Result(name, "crash", f"no end after {seconds:g} seconds"))
                return True
            try:
                results.append(receive.recv())
            except EOFError:
                worker.join()
                results.append(Result(name, "crash", f"the process ended with {worker.exitcode}"))
                return True
    finally:
        worker.kill()
        worker.join()
        receive.close()
    return False


def _work(selection: Selection, executor: str, skip: int, send: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES_PER_PROCESS, BYTES_PER_PROCESS))
    names = selection.names()[skip:]
    send.send(names)
    for name in names:
        send.send(run_case(name, EXECUTORS[executor]))


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="*", help="only cases whose name holds one of these")
    parser.add_argument("--executor", choices=sorted(EXECUTORS), default="native")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes run at once")
    parser.add_argument("--list", choices=OUTCOMES, action="append", default=[])
    parser.add_argument(
        "--reasons", action="store_true", help="count cases by why they are refused"
    )
    parser.add_argument("--update", action="store_true", help="add new passes to passing.txt")
    options = parser.parse_args(arguments)
    parts = [Selection(tuple(options.pattern), k, options.jobs) for k in range(options.jobs)]
    with ThreadPoolExecutor(options.jobs) as pool:
        found = pool.map(partial(run_cases, executor=options.executor), parts)
        results = sorted((r for part in found for r in part), key=lambda r: r.case)
    shown = {"wrong", "crash", *options.list}
    for result in results:
        if result.outcome in shown:
            print(f"{result.outcome:8} {result.case}  {result.detail}")
    if options.reasons:
        _print_reasons(results)
    counts = Counter(r.outcome for r in results)
    print("  ".join(f"{outcome}: {counts[outcome]}" for outcome in OUTCOMES), f"of {len(results)}")
    passed = {r.case for r in results if r.outcome == "pass"}
    lost = sorted((passing() & {r.case for r in results}) - passed)
    for name in lost:
        print(f"lost     {name}")
    if options.update:
        known = passing()
        PASSING.write_text("".join(f"{name}\n" for name in sorted(known | passed)))
        print(f"{PASSING.name}: {len(known)} -> {len(known | passed)}")
    return 1 if counts["wrong"] or counts["crash"] or lost else 0


def _print_reasons(results: Sequence[Result]) -> None:
    refused = [r for r in results if r.outcome == "refused"]
    reasons = Counter(reason for r in refused for reason in set(r.detail.split("; ")))
    for reason, count in reasons.most_common():
        print(f"{count:5} {reason}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
