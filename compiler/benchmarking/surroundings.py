"""Where and of what a measurement was made: the machine and the commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")


def machine_info() -> dict[str, Any]:
    """The machine under the keys that pytest-benchmark writes, with the load and the CPUs."""
    return {
        "node": platform.node(),
        "processor": platform.processor(),
        "machine": platform.machine(),
        "python_compiler": platform.python_compiler(),
        "python_implementation": platform.python_implementation(),
        "python_implementation_version": platform.python_version(),
        "python_version": platform.python_version(),
        "python_build": list(platform.python_build()),
        "release": platform.release(),
        "system": platform.system(),
        "cpu": cpu_info(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "governor": _governor(),
    }


def cpu_info() -> dict[str, Any]:
    """The first processor as the kernel describes it; two machines of one model give the same."""
    try:
        first = _CPUINFO.read_text().split("\n\n")[0]
    except OSError:
        first = ""
    fields = dict(re.findall(r"^([^\t:]+)[\t ]*: ?(.*)$", first, re.MULTILINE))
    return {
        "vendor_id_raw": fields.get("vendor_id", ""),
        "brand_raw": fields.get("model name", platform.machine()),
        "family": fields.get("cpu family", ""),
        "model": fields.get("model", ""),
        "stepping": fields.get("stepping", ""),
        "flags": sorted(fields.get("flags", "").split()),
        "count": os.cpu_count() or 1,
    }


def _governor() -> str:
    try:
        place = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
        return place.read_text().strip()
    except OSError:
        return ""


def commit_info(folder: Path | None = None) -> dict[str, Any]:
    """The commit that is checked out in a folder, by git; "unversioned" where there is none."""
    place = Path.cwd() if folder is None else folder
    identity = _git(place, "rev-parse", "HEAD")
    if identity is None:
        return {"id": "unversioned", "time": None, "author_time": None, "dirty": False,
                "project": place.name, "branch": "(unknown)"}  # fmt: skip
    times = (_git(place, "log", "-1", "--format=%cI%n%aI") or "\n").splitlines()
    top = _git(place, "rev-parse", "--show-toplevel") or str(place)
    return {
        "id": identity,
        "time": times[0],
        "author_time": times[-1],
        "dirty": bool(_git(place, "status", "--porcelain", "--untracked-files=no")),
        "project": Path(top).name,
        "branch": _git(place, "branch", "--show-current") or "(detached head)",
    }


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where there is no git or nothing that it knows."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
