"""Runs a benchmark and records what it prints in benchmarks/RESULTS.md, whatever it shows.

    python benchmarks/record.py SCRIPT [OPTIONS OF THE SCRIPT ...]

SCRIPT is the name of a file here (``overhead``). Its section holds the question that it answers,
the date, the CPU, the versions, the load and the command, and replaces the one that was there.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shlex
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from tilewright.benchmarking.surroundings import commit_info, cpu_info

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "RESULTS.md"
PACKAGES = ("tilewright", "llvmlite", "numpy", "onnxruntime", "openvino", "torch", "apache-tvm")


def question(script: Path) -> str:
    """The first sentence of a script's docstring."""
    told = ast.get_docstring(ast.parse(script.read_text())) or script.stem
    return told.split("\n\n")[0].replace("\n", " ")


def versions() -> str:
    """The versions of what takes part."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def section(script: Path, arguments: list[str], load: float, printed: str) -> str:
    """The text of a section."""
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    cpus = len(os.sched_getaffinity(0))
    # Folders of this machine mean nothing elsewhere.
    shown = shlex.join([Path(a).name if a.startswith("/") else a for a in arguments])
    return (
        f"## {script.stem}\n\n{question(script)}\n\n"
        f"{when}; {cpu_info()['brand_raw']}, {cpus} CPUs, load {load:.1f} before; "
        f"commit {str(commit_info(FOLDER)['id'])[:12]}; {versions()}\n\n"
        f"`python benchmarks/{script.name} {shown}`\n\n"
        f"```text\n{printed.rstrip()}\n```\n"
    )


def put(text: str, name: str, new: str) -> str:
    """The document with the section of that name replaced, or added in the order of names."""
    head, *old = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    kept = {s.split("\n", 1)[0].removeprefix("## "): s.rstrip() + "\n" for s in old}
    kept[name] = new
    return "\n".join([head.rstrip() + "\n", *(kept[n] for n in sorted(kept))])


def main() -> int:
    """Runs the script, shows what it prints, and records it unless it broke off."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("script", help="name of a benchmark")
    parser.add_argument("options", nargs=argparse.REMAINDER)
    chosen = parser.parse_args()
    script = FOLDER / f"{Path(chosen.script).stem}.py"
    if not script.is_file():
        parser.error(f"there is no {script.name} here")
    load = os.getloadavg()[0]
    lines = []
    command = [sys.executable, str(script), *chosen.options]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        process.wait()
        errors.seek(0)
        told = errors.read()
    print(told, end="", file=sys.stderr)
    if not lines or process.returncode < 0 or "Traceback (most recent call last)" in told:
        print(f"{script.name} broke off: nothing is recorded", file=sys.stderr)
        return process.returncode or 1
    new = section(script, chosen.options, load, "".join(lines))
    RESULTS.write_text(put(RESULTS.read_text(), script.stem, new))
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
