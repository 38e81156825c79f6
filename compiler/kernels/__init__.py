"""Kernels: operators that users write as tensor expressions and schedule as they like."""

from __future__ import annotations

from .decorator import Kernel, kernel
from .operation import Operation
from .scalar import Scalar
from .schedule import KernelSchedule, ScheduledKernel
from .stage import Array, argmax, argmin, compute, max, min, prod, sum  # noqa: A004

__all__ = [
    "Array",
    "Kernel",
    "KernelSchedule",
    "Operation",
    "Scalar",
    "ScheduledKernel",
    "argmax",
    "argmin",
    "compute",
    "kernel",
    "max",
    "min",
    "prod",
    "sum",
]
