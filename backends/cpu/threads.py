"""How many threads this process may use: its CPU affinity and its control group's CPU quota."""

from __future__ import annotations

import os
from pathlib import Path

_SELF = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def default_threads(own: Path = _SELF, root: Path = _ROOT) -> int:
    """The CPUs this process may run on, cut to the quota (rounded up) of its control groups.

    Args:
        own: the kernel's list of this process's control groups.
        root: where the control group file systems are mounted.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota(own, root)
    return allowed if quota is None else max(1, min(allowed, -int(-quota // 1)))


def cpu_quota(own: Path = _SELF, root: Path = _ROOT) -> float | None:
    """The smallest CPU quota of the control groups around this process, in CPUs; None for none.

    Version 2 writes ``cpu.max`` ("max 100000" or "150000 100000"), version 1 writes
    ``cpu.cfs_quota_us`` (-1 for none) and ``cpu.cfs_period_us``. A group inside a container may
    be named by a path that is not visible here; then the mounted root is the group.
    """
    try:
        groups = own.read_text().splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            bases, read = [root, root / "unified"], _quota_v2
        elif "cpu" in controllers.split(","):
            bases, read = [root / controllers, root / "cpu"], _quota_v1
        else:
            continue
        for base in bases:
            folder = base / path.strip("/")
            for place in (folder, *folder.parents):
                if not place.is_relative_to(base):
                    break
                quota = read(place)
                if quota is not None:
                    quotas.append(quota)
    return min(quotas, default=None)


def _quota_v2(folder: Path) -> float | None:
    try:
        limit, period = (folder / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        limit = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return limit / period if limit > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
