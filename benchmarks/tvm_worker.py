"""TVM's side of tune_tvm.py: run by a Python that has TVM, and need not have anything of ours.

    python tvm_worker.py tune MODEL FOLDER CPU THREADS EACH     until it is ended from outside
    python tvm_worker.py serve MODEL FOLDER CPU THREADS FEED    answers lines on standard input

``tune`` says when its imports are done, its kernels extracted and its processes for building and
measuring up; then its search begins, EACH schedules of a kernel at a time.
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

PATIENCE = 120.0
POPULATION = 64
"""How many schedules evolve; by default 512, which takes 8 to 30 seconds a turn on two cores."""


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

        MetaSchedule's own scheduler of tasks writes the first record when each kernel had its
        turn, which alone takes minutes. So kernels are tuned one after the other, and the next
        one is always that with the most operations for the turns that it had.
        """
        schedules = self.schedules
        evaluator = schedules.runner.EvaluatorConfig(number=1, repeat=1, min_repeat_ms=40)
        runner = schedules.runner.LocalRunner(timeout_sec=PATIENCE, evaluator_config=evaluator)
        builder = schedules.builder.LocalBuilder(timeout_sec=PATIENCE, f_build=build)
        database = schedules.database.JSONDatabase(work_dir=str(folder))
        costs = schedules.cost_model.XGBModel()
        kernels = self.kernels()
        answer({"ready": True, "kernels": len(kernels)})
        began = time.perf_counter()
        turns = [0] * len(kernels)
        while True:
            at = max(range(len(kernels)), key=lambda i: kernels[i][0] / (1 + turns[i]))
            contexts, weights = schedules.relax_integration.extracted_tasks_to_tune_contexts(
                [kernels[at][1]], str(folder), strategy=self.strategy(), seed=turns[at]
            )
            schedules.tune_tasks(
                tasks=contexts, task_weights=weights, work_dir=str(folder), max_trials_global=each,
                num_trials_per_iter=each, builder=builder, runner=runner, database=database,
                cost_model=costs,
            )  # fmt: skip
            turns[at] += 1
            took = time.perf_counter() - began
            log(f"{took:6.1f} s: {kernels[at][1].task_name}, turn {turns[at]} of {each}")

    def kernels(self) -> list[tuple[float, Any]]:
        """The kernels that can be tuned, each with its operations in a call of the model."""
        count: Any = import_module("tvm.s_tir.analysis").estimate_tir_flops
        tasks = self.schedules.relax_integration.extract_tasks(self.module, self.target, {})
        return [(task.weight * (1.0 + count(task.mod)), task) for task in tasks]

    def strategy(self) -> Any:
        """Evolution as MetaSchedule has it, of a population that a turn of seconds can breed."""
        return self.schedules.search_strategy.EvolutionarySearch(
            population_size=POPULATION, init_min_unmeasured=16, genetic_num_iters=2
        )

    def compiled(self, folder: Path | None) -> Any:
        """The model as a virtual machine, with the records in a folder or without any."""
        module = self.module
        with self.target, self.tvm.transform.PassContext(opt_level=3):
            if folder is not None:
                module = self.relax.transform.MetaScheduleApplyDatabase(str(folder))(module)
            made = self.tvm.compile(module, target=self.target)
        return self.relax.VirtualMachine(made, self.tvm.cpu())


def build(module: Any, target: Any, _: Any) -> Any:
    """MetaSchedule's default, less the import of instructions for tensors of other targets.

    That import takes 8 seconds in each of the processes, which are new for every turn.
    """
    simplify: Any = import_module("tvm.s_tir.transform").RemoveWeightLayoutRewriteBlock
    driver: Any = import_module("tvm.driver")
    return driver.build(simplify(skip_tensor_rewrite=True)(module), target=target)


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


def log(line: str) -> None:
    print(f"@{line}", file=sys.stderr, flush=True)


def main() -> None:
    task, path, folder, cpu, threads, last = sys.argv[1:]
    os.environ["TVM_NUM_THREADS"] = threads
    model = Model(path, cpu, int(threads))
    if task == "tune":
        model.tune(Path(folder), int(last))
    else:
        serve(model, Path(folder), Path(last))


if __name__ == "__main__":
    main()
