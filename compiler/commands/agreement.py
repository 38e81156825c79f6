"""What ``run --check`` shows: how far outputs are from those of another runtime."""

from __future__ import annotations

from collections.abc import Mapping

import click
import numpy as np

from tilewright.peers import REFERENCE, agreements, as_file, open_peer, run_reference


def show_agreement(
    model: str,
    shapes: Mapping[str, tuple[int | str, ...]],
    other: str,
    feed: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    tolerance: float,
) -> int:
    """Prints how far the outputs are from another runtime's; returns the exit code."""
    if other == REFERENCE:
        label, theirs = "NumPy", run_reference(model, shapes, feed)
    else:
        with as_file(model) as path:
            peer = open_peer(other, path, 1)
            label, theirs = f"{other} {peer.version}", list(peer.run(feed))
    code = 0
    for found in agreements(list(outputs), list(outputs.values()), theirs):
        agrees = found.relative <= tolerance
        code = code if agrees else 1
        size = found.note or f"largest difference {found.relative:.2e} of the largest value"
        click.echo(f"{'agrees with' if agrees else 'DIFFERS from'} {label}: {found.output}: {size}")
    return code
