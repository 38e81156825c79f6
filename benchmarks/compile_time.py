"""How long does a model take to compile cold, and to load from the cache or from a .tw file?

    python benchmarks/compile_time.py [MODEL ...] [--repeats 3] [--json FILE]

Every figure comes from a fresh process with a cache folder of its own, empty for the cold ones.
CPU seconds do not depend on what else runs on the machine, wall seconds do; both are the least of
the repeats. ``call`` is ``tilewright.compile`` or ``load`` alone, after ``import tilewright``;
``process`` is all from the start of Python to its end. By default measures zoo:resnet50.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

_CHILD = """\
import sys, time
wall, cpu = time.perf_counter(), time.process_time()
import tilewright
tilewright.load
wall_import, cpu_import = time.perf_counter() - wall, time.process_time() - cpu
wall, cpu = time.perf_counter(), time.process_time()
exe = {call}
print(time.perf_counter() - wall, time.process_time() - cpu, wall_import, cpu_import)
"""


@dataclass(frozen=True, slots=True)
class Seconds:
    """Wall and CPU seconds of one way to get a model ready, each the least of some repeats.

    Attributes:
        call_wall, call_cpu: of the call that compiles or loads.
        import_wall, import_cpu: of the import before it.
        process_wall, process_cpu: of the whole process.
    """

    call_wall: float
    call_cpu: float
    import_wall: float
    import_cpu: float
    process_wall: float
    process_cpu: float


def measure(call: str, cache: Path) -> Seconds:
    """Times a call in a fresh process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TILEWRIGHT_")}
    # As when installed: modules are compiled once, not in every process.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["TILEWRIGHT_CACHE_DIR"] = str(cache)
    before = os.times()
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD.format(call=call)],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    wall = time.perf_counter() - began
    after = os.times()
    cpu = sum(after[2:4]) - sum(before[2:4])
    call_wall, call_cpu, import_wall, import_cpu = map(float, done.stdout.split()[-4:])
    return Seconds(call_wall, call_cpu, import_wall, import_cpu, wall, cpu)


def least(repeats: int, one: Callable[[], Seconds]) -> Seconds:
    """The least of each figure over repeats."""
    rows = [asdict(one()) for _ in range(repeats)]
    return Seconds(**{k: min(row[k] for row in rows) for k in rows[0]})


def figures(model: str, repeats: int) -> dict[str, Seconds]:
    """Cold, from the cache, and from a file."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        place = Path(folder)
        compiled = f"tilewright.compile({model!r})"
        # A first process writes Python's own compiled modules, which an installation has.
        file = str(place / "model.tw")
        warm = place / "warm"
        measure(f"{compiled}; exe.save({file!r})", warm)
        counter = iter(range(repeats))
        return {
            "cold": least(repeats, lambda: measure(compiled, place / f"cold{next(counter)}")),
            "cache": least(repeats, lambda: measure(compiled, warm)),
            ".tw": least(repeats, lambda: measure(f"tilewright.load({file!r})", warm)),
        }


def main() -> None:
    """Prints a line for each model and way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", default=["zoo:resnet50"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for all figures")
    chosen = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} CPUs; seconds")
    print(f"{'model':24} {'from':6} {'call cpu':>9} {'wall':>7} {'import cpu':>11} {'wall':>7}"
          f" {'process cpu':>12} {'wall':>7}")  # fmt: skip
    found: dict[str, dict[str, dict[str, float]]] = {}
    for model in chosen.models:
        rows = figures(model, chosen.repeats)
        found[model] = {k: asdict(v) for k, v in rows.items()}
        for way, s in rows.items():
            print(
                f"{Path(model).stem:24} {way:6} {s.call_cpu:9.3f} {s.call_wall:7.3f}"
                f" {s.import_cpu:11.3f} {s.import_wall:7.3f} {s.process_cpu:12.3f}"
                f" {s.process_wall:7.3f}",
                flush=True,
            )
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
