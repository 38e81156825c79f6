"""Scalar functions written as tensor-IR expressions."""

from __future__ import annotations

from collections.abc import Callable

from .ir import Expr

EXPANSIONS: dict[str, Callable[..., Expr]] = {}
