"""Symbolic sizes of exported programs: their names, their ranges, and what must hold between them.

Torch calls a symbol s77 and keeps elsewhere what the user called it. It assumes that a size which
it traced as a symbol is at least 2, and lets a size of 1 pass all the same; so do we, unless the
user has declared a least size.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any

import sympy
import torch
from torch.utils import _pytree as pytree
from torch.utils._sympy.symbol import SymT, symbol_is_type

from tilewright.dtype import bool_
from tilewright.tensor.ir import Const, Dim, Expr, Var, as_expr, binary, symbol
from tilewright.tensor.simplify import simplify

from .types import GapError, of_sympy

Least = Mapping[str, int]
"""The least size that the user has given, by the name of a Dim."""


def declared_least(dynamic_shapes: object) -> Least:
    """The least sizes of the named Dims in a ``dynamic_shapes`` of ``torch.export.export``."""
    leaves = pytree.tree_leaves(dynamic_shapes)
    roots = [getattr(d, "root", d) for d in leaves if isinstance(d, torch.export.Dim)]
    return {d.__name__: int(d.min) for d in roots}


def symbols_of(program: torch.export.ExportedProgram, least: Least) -> dict[str, Var]:
    """The symbols by torch's name, with the names and the ranges that the user has given."""
    spoken = _spoken(program)
    values_of = (n.meta.get("val") for n in program.graph.find_nodes(op="placeholder"))
    numbers = {v.node.expr for v in values_of if isinstance(v, torch.SymInt)}
    taken: set[str] = set()
    found = {}
    for name, values in program.range_constraints.items():
        if not isinstance(name, sympy.Symbol) or symbol_is_type(name, SymT.UNBACKED_INT):
            continue  # no size, or one that depends on data
        given = spoken.get(name.name, name.name)
        low = int(values.lower) if values.lower.is_Integer else 0
        high = int(values.upper) if values.upper.is_Integer else None
        if name in numbers:
            low = max(low, 0)
        elif low <= 2:
            low = max(least.get(given, 1), 1)
        found[name.name] = symbol(_distinct(given, taken), low, high)
    return found


def guards_of(program: torch.export.ExportedProgram) -> list[Any]:
    """What torch holds sizes to, as its own expressions over the program's symbols."""
    environment = _environment(program)
    return [] if environment is None else [environment.replace(g.expr) for g in environment.guards]


def conditions_of(
    program: torch.export.ExportedProgram, stated: str, symbols: Mapping[str, Dim]
) -> tuple[Expr, ...]:
    """What must hold between sizes for the program to be what the module does.

    Torch takes the course that a module's Python takes for the sizes of the example; with
    ``Dim.AUTO`` it notes what decided it.

    Args:
        program: after its decomposition, which states the conditions over its symbols anew.
        stated: the ``conditions_text`` of the program before.

    Raises:
        GapError: a condition is not stated in integers, or was lost on the way.
    """
    guards = guards_of(program)
    if stated and not guards:
        raise GapError(f"the conditions {stated}, which torch does not state anew")
    found: dict[Expr, None] = {}
    for guard in guards:
        condition = simplify(_condition(guard, symbols))
        if not isinstance(condition, Const):
            found[condition] = None
        elif not condition.value:
            raise GapError(f"the condition {guard}, which holds for no sizes in range")
    return tuple(found)


def conditions_text(program: torch.export.ExportedProgram) -> str:
    """What must hold between sizes, in torch's words."""
    return ", ".join(getattr(program, "_guards_code", None) or ())


def _condition(e: Any, symbols: Mapping[str, Dim]) -> Expr:
    if isinstance(e, sympy.logic.boolalg.BooleanAtom):
        return Const(bool(e), bool_)
    make = _CONDITIONS.get(type(e))
    if make is None:
        raise GapError(f"the condition {e}")
    if isinstance(e, sympy.core.relational.Relational):
        return make(*(as_expr(of_sympy(a, symbols)) for a in e.args))
    return reduce(make, (_condition(a, symbols) for a in e.args))


_CONDITIONS: dict[type, Callable[..., Expr]] = {
    sympy.Eq: partial(binary, "eq"),
    sympy.Ne: partial(binary, "ne"),
    sympy.Lt: partial(binary, "lt"),
    sympy.Le: partial(binary, "le"),
    sympy.Gt: partial(binary, "gt"),
    sympy.Ge: partial(binary, "ge"),
    sympy.And: partial(binary, "and"),
    sympy.Or: partial(binary, "or"),
}


def _environment(program: torch.export.ExportedProgram) -> Any:
    """Torch's records of how symbols came about; None for a program without tensors."""
    for node in program.graph.find_nodes(op="placeholder"):
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None:
            return mode.shape_env
    return None


def _spoken(program: torch.export.ExportedProgram) -> dict[str, str]:
    """What the user calls a symbol; else where it stands: ``x_0`` for axis 0 of the input x."""
    names: dict[str, str] = {}
    environment = _environment(program)
    if environment is not None:
        called = environment.source_name_to_debug_name
        for name, sources in environment.var_to_sources.items():
            for source in sources:
                given = called.get(source.name, source.name)
                if given.isidentifier():
                    names.setdefault(name.name, given)
    for node in program.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        for axis, size in enumerate(value.shape if isinstance(value, torch.Tensor) else ()):
            if isinstance(size, torch.SymInt) and isinstance(size.node.expr, sympy.Symbol):
                names.setdefault(size.node.expr.name, f"{node.name}_{axis}")
    return names


def _distinct(name: str, taken: set[str]) -> str:
    """An identifier for a symbol that texts can print and nothing else has."""
    base = re.sub(r"\W", "_", name, flags=re.ASCII)
    if keyword.iskeyword(base) or base[0].isdigit():
        base = f"{base}_" if base.isidentifier() else f"d{base}"
    spelled, count = base, 0
    while spelled in taken:
        count += 1
        spelled = f"{base}_{count}"
    taken.add(spelled)
    return spelled
