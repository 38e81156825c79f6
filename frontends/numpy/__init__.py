"""Plain NumPy functions in: a call with symbolic arrays becomes a Graph."""

from __future__ import annotations
