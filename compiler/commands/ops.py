"""``tilewright ops``: the operators, and what a model lacks."""

from __future__ import annotations

from collections import Counter
from importlib import import_module

import click
from rich.console import Console
from rich.table import Table

from tilewright.backends import BACKENDS, load_backend
from tilewright.errors import UnsupportedError
from tilewright.frontends import FRONTENDS, TRACED
from tilewright.graph.ir import all_nodes
from tilewright.ops import OPS

from .model import SHAPE, graph_of


@click.command(epilog="Example: tilewright ops --for model.onnx")
@click.option("--for", "model", metavar="MODEL", help="List what is missing for a model.")
@SHAPE
def ops(model: str | None, shapes: tuple[tuple[str, tuple[int | str, ...]], ...]) -> int:
    """List the primitive operators, which targets have them, and what becomes them.

    With --for, list everything that a model needs and that is not supported (exit code 3), or
    the primitives that it becomes.
    """
    if model is None:
        _print_tables()
        return 0
    try:
        graph = graph_of(model, dict(shapes))
    except UnsupportedError as error:
        click.echo(f"{model}: not supported, {len(error.gaps)} things are missing")
        for gap in error.gaps:
            click.echo(f"  {gap.what}")
            click.echo(f"      {len(gap.nodes)} nodes: {', '.join(gap.nodes)}")
        return error.exit_code
    counts = Counter(node.op for node in all_nodes(graph))
    click.echo(f"{model}: all operators are supported; it becomes {counts.total()} primitives")
    for name, count in counts.most_common():
        click.echo(f"  {count:5}  {name}")
    return 0


def _print_tables() -> None:
    console = Console(highlight=False, width=None if Console().is_terminal else 160)
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
    tables = {name: f.operators for name, f in FRONTENDS.items() if f.operators}
    for name, place in {**tables, **TRACED}.items():
        module, names = place.split(":")
        try:
            supported = sorted(getattr(import_module(module), names))
        except ModuleNotFoundError as missing:
            console.print(f"\n{name}: needs {missing.name}, which is not installed")
            continue
        console.print(f"\n{len(supported)} operators of {name} become them")
        console.print(", ".join(supported), markup=False)
