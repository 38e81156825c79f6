"""``tilewright ops``: the operators, and what a model lacks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import click
from rich.table import Table

from tilewright.backends import BACKENDS, load_backend
from tilewright.errors import UnsupportedError
from tilewright.frontends import FRONTENDS, TRACED
from tilewright.graph.ir import all_nodes
from tilewright.ops import OPS

from .model import SHAPE, graph_of
from .terminal import open_console


@click.command(epilog="Example: tilewright ops --for model.onnx")
@click.option("--for", "model", metavar="MODEL", help="List what is missing for a model.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@SHAPE
def ops(
    model: str | None, as_json: bool, shapes: tuple[tuple[str, tuple[int | str, ...]], ...]
) -> int:
    """List the primitive operators, which targets have them, and what becomes them.

    With --for, list everything that a model needs and that is not supported (exit code 3), or
    the primitives that it becomes.
    """
    if model is None:
        if as_json:
            click.echo(json.dumps(_tables(), indent=1))
        else:
            _print_tables()
        return 0
    try:
        graph = graph_of(model, dict(shapes))
    except UnsupportedError as error:
        if as_json:
            gaps = [{"what": gap.what, "nodes": list(gap.nodes)} for gap in error.gaps]
            click.echo(json.dumps({"model": model, "supported": False, "gaps": gaps}, indent=1))
            return error.exit_code
        click.echo(f"{model}: not supported, {len(error.gaps)} things are missing")
        for gap in error.gaps:
            click.echo(f"  {gap.what}")
            click.echo(f"      {len(gap.nodes)} nodes: {', '.join(gap.nodes)}")
        return error.exit_code
    counts = Counter(node.op for node in all_nodes(graph))
    if as_json:
        found = {"model": model, "supported": True, "primitives": dict(counts.most_common())}
        click.echo(json.dumps(found, indent=1))
        return 0
    click.echo(f"{model}: all operators are supported; it becomes {counts.total()} primitives")
    for name, count in counts.most_common():
        click.echo(f"  {count:5}  {name}")
    return 0


def _print_tables() -> None:
    console = open_console(160)
    table = Table(box=None, pad_edge=False)
    backends = [load_backend(name) for name in BACKENDS]
    for column in ("primitive", "kind", *BACKENDS, "attributes", "meaning"):
        table.add_column(column, overflow="fold")
    for op in OPS.values():
        has = ("-" if op.name in b.lacks else "yes" for b in backends)
        table.add_row(op.name, op.kind, *has, ", ".join(op.attrs), op.summary)
    console.print(f"{len(OPS)} primitive operators, and which targets have them")
    console.print(table, markup=False)
    for b in backends:
        for name, why in b.lacks.items():
            console.print(f"{b.name} has no {name}: {why}", markup=False)
    for name, supported in _sources():
        if isinstance(supported, str):
            console.print(f"\n{name}: needs {supported}, which is not installed")
            continue
        console.print(f"\n{len(supported)} operators of {name} become them")
        console.print(", ".join(supported), markup=False)


def _sources() -> Iterator[tuple[str, list[str] | str]]:
    """The operators of each source of models, or the package that has to be there to know them."""
    tables = {name: f.operators for name, f in FRONTENDS.items() if f.operators}
    for name, place in {**tables, **TRACED}.items():
        module, names = place.split(":")
        try:
            yield name, sorted(getattr(import_module(module), names))
        except ModuleNotFoundError as missing:
            yield name, str(missing.name)


def _tables() -> dict[str, Any]:
    """What the tables hold: primitives, why targets lack some, and operators by source."""
    backends = [load_backend(name) for name in BACKENDS]
    return {
        "primitives": [
            {
                "name": op.name,
                "kind": op.kind,
                "attributes": list(op.attrs),
                "meaning": op.summary,
                "targets": [b.name for b in backends if op.name not in b.lacks],
            }
            for op in OPS.values()
        ],
        "lacking": {b.name: dict(b.lacks) for b in backends if b.lacks},
        "sources": {name: found for name, found in _sources() if isinstance(found, list)},
    }
