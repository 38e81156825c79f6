"""Models as code that needs no Tilewright where it runs: objects for C, WebAssembly modules."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tilewright.api import DimRanges, Shapes, backend_of
from tilewright.backends import find_exporter, load_backend
from tilewright.errors import TargetError
from tilewright.options import from_environment
from tilewright.runtime.cache import open_cache
from tilewright.runtime.files import replace_file
from tilewright.sources import source_of
from tilewright.stages import PIPELINE, Log, Progress, load_function


def export(
    source: Any,
    path: str | os.PathLike[str],
    *,
    target: str | None = None,
    math: str | None = None,
    shapes: Shapes | None = None,
    dim_ranges: DimRanges | None = None,
    cache: bool | None = None,
    progress: Progress | None = None,
) -> tuple[Path, ...]:
    """Compiles a model to code that needs neither Tilewright nor Python where it runs.

    Args:
        source, target, math, shapes, dim_ranges, cache, progress: as ``compile`` takes them.
        path: ``model.o`` for an object and its C header ``model.h``, or ``model.wasm`` for a
            module; functions are named for the stem. Existing files are replaced.

    Returns:
        The files that were written.

    Raises:
        ModelError, UnsupportedError, OptionError, TargetError, OutputError: see their classes.
    """
    options = from_environment(target=target, math=math, cache=cache)
    backend = load_backend(backend_of(options.target))
    resolved = backend.resolve(options.target)
    exporter = find_exporter(backend.name)
    suffixes = exporter.suffixes(resolved)
    if Path(path).suffix not in suffixes:
        raise TargetError(
            f"{path}: code for {resolved.name} is exported to a file that ends in "
            f"{' or '.join(suffixes)}",
            code="TW-E0406",
        )
    log = Log(progress)
    opened = source_of(source, log, shapes=shapes, dim_ranges=dim_ranges)
    with log.stage("import"):
        graph = opened.graph()
    build = load_function(PIPELINE["build"])
    made = build(graph, resolved, backend, open_cache(options), log, options.math)
    files = exporter.export(made.unit, made.artifact.constants, Path(path))
    for file, data in files.items():
        with replace_file(file) as put:
            put(0, data)
    return tuple(files)
