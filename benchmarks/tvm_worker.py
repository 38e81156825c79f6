"""TVM's side of tune_tvm.py: run by a Python that has TVM, and need not have anything of ours.

    python tvm_worker.py tune MODEL FOLDER CPU THREADS EACH     until it is ended from outside
    python tvm_worker.py serve MODEL FOLDER CPU THREADS FEED    answers lines on standard input

``tune`` says when its imports are done and the search begins, EACH schedules of a kernel at a time.
``serve`` compiles the model untuned and with the records in FOLDER. A line ``untuned 3`` or
``tuned 3`` asks for so many calls: the answer is a line of JSON with their seconds. A line
``outputs PATH`` writes the results of the tuned model there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx

FOREVER = 1 << 30
PATIENCE = 120.0


class Model:
    """A model in TVM's graph language, lowered as far as tuning wants it."""

    def __init__(self, path: str, cpu: str, threads: int) -> None:
        self.tvm: Any = import_module("tvm")
        self.relax: Any = import_module("tvm.relax")
        self.schedules: Any = import_module("tvm.s_tir.meta_schedule")
        importer: Any = import_module("tvm.relax.frontend.onnx")
        import_module("tvm.s_tir.tensor_intrin")
        module = importer.from_onnx(onnx.load(path), keep_params_in_input=False)
        self.names = [p.name for p in module["main"].params]
        self.target = self.tvm.target.Target({"kind": "llvm", "mcpu": cpu, "num-cores": threads})
        with self.target:
            self.module = self.relax.get_pipeline("zero")(module)

    def tune(self, folder: Path, each: int) -> None:
        """Searches until the process is ended; records are written as they come.

        The processes that build and measure import TVM first, for which 30 seconds, the default
        of their time limits, are not enough on a busy machine.
        """
        self.schedules.relax_integration.tune_relax(
            mod=self.module,
            params={},
            target=self.target,
            work_dir=str(folder),
            max_trials_global=FOREVER,
            num_trials_per_iter=each,
            builder=self.schedules.builder.LocalBuilder(timeout_sec=PATIENCE),
            runner=self.schedules.runner.LocalRunner(timeout_sec=PATIENCE),
            seed=0,
        )

    def compiled(self, folder: Path | None) -> Any:
        """The model as a virtual machine, with the records in a folder or without any."""
        module = self.module
        with self.target, self.tvm.transform.PassContext(opt_level=3):
            if folder is not None:
                module = self.relax.transform.MetaScheduleApplyDatabase(str(folder))(module)
            made = self.tvm.compile(module, target=self.target)
        return self.relax.VirtualMachine(made, self.tvm.cpu())


def has_records(folder: Path) -> bool:
    """Whether tuning came as far as one measurement."""
    place = folder / "database_tuning_record.json"
    return place.exists() and place.stat().st_size > 0


def arrays_of(results: Any) -> list[np.ndarray]:
    return [results.numpy()] if hasattr(results, "numpy") else [r.numpy() for r in results]


def timed(call: Callable[[], object], count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return seconds


def serve(model: Model, folder: Path, feed: Path) -> None:
    """Compiles, says how long that took, and answers lines until there are no more."""
    found = np.load(feed)
    args = [model.tvm.runtime.tensor(found[name]) for name in model.names]
    began = time.perf_counter()
    machines = {"untuned": model.compiled(None)}
    seconds = time.perf_counter() - began
    machines["tuned"] = model.compiled(folder) if has_records(folder) else machines["untuned"]
    answer({"compile": seconds, "records": has_records(folder)})
    for line in sys.stdin:
        what, argument = line.split()
        if what == "outputs":
            np.savez(argument, *arrays_of(machines["tuned"]["main"](*args)))
            answer({})
        else:
            answer({"seconds": timed(partial(machines[what]["main"], *args), int(argument))})


def answer(what: object) -> None:
    # TVM itself writes to standard output.
    print("\n@" + json.dumps(what), flush=True)


def main() -> None:
    task, path, folder, cpu, threads, last = sys.argv[1:]
    os.environ["TVM_NUM_THREADS"] = threads
    model = Model(path, cpu, int(threads))
    if task == "tune":
        answer({"ready": True})
        model.tune(Path(folder), int(last))
    else:
        serve(model, Path(folder), Path(last))


if __name__ == "__main__":
    main()
