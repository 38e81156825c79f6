"""Runs generated CUDA C++ on the CPU, through a host compiler: a second opinion on every kernel."""

from __future__ import annotations

from .execute import HostKernels, host_compiler

__all__ = ["HostKernels", "host_compiler"]
