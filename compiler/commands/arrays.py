"""Arrays of a run: inputs from files or random ones that fit the model, outputs to files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tilewright.errors import InputError
from tilewright.feed import choose_dims, random_inputs
from tilewright.runtime.files import replace_file
from tilewright.runtime.program import TensorSpec
from tilewright.tensor.ir import Var

__all__ = ["choose_dims", "dims_from", "random_inputs", "read_inputs", "write_arrays"]


def read_inputs(
    specs: Sequence[TensorSpec], files: Sequence[tuple[str, Path]], archive: Path | None
) -> dict[str, np.ndarray]:
    """Arrays by input name from ``.npy`` files and from one ``.npz`` archive.

    Raises:
        InputError: a file cannot be read, or names no input (TW-E0310, TW-E0301).
    """
    names = [s.name for s in specs]
    given = {} if archive is None else _read_archive(archive)
    for name, path in files:
        given[name] = _read_array(path)
    unknown = [n for n in given if n not in names]
    if unknown:
        raise InputError(
            f"there is no input {', '.join(map(repr, unknown))}; "
            f"the model takes {', '.join(map(str, specs)) or 'none'}",
            code="TW-E0301",
        )
    return given


def _read_array(path: Path) -> np.ndarray:
    found = _load(path)
    if not isinstance(found, np.ndarray):
        raise InputError(f"{path} holds several arrays; give it with --inputs", code="TW-E0310")
    return found


def _read_archive(path: Path) -> dict[str, np.ndarray]:
    found = _load(path)
    if isinstance(found, np.ndarray):
        raise InputError(
            f"{path} holds one array; give it with --input NAME={path}", code="TW-E0310"
        )
    return found


def _load(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    try:
        # Opened here: NumPy does not close the file of an archive that it cannot read.
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            return found if isinstance(found, np.ndarray) else {k: found[k] for k in found.files}
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError) as error:
        raise InputError(f"{path} cannot be read as NumPy data: {error}", code="TW-E0310") from None
    except Exception as error:
        # A damaged archive raises zipfile's and zlib's own errors.
        raise InputError(f"{path} is damaged: {error}", code="TW-E0310") from None


def dims_from(specs: Sequence[TensorSpec], given: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The sizes of symbols that given arrays settle."""
    sizes: dict[str, int] = {}
    for spec in specs:
        array = given.get(spec.name)
        if array is not None and array.ndim == len(spec.shape):
            for dim, size in zip(spec.shape, array.shape, strict=True):
                if isinstance(dim, Var):
                    sizes.setdefault(dim.name, size)
    return sizes


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an ``.npz`` file in one step; bf16, which NumPy's files do not know, becomes f32.

    Raises:
        OutputError: it cannot be written; nothing is left behind.
    """
    buffer = io.BytesIO()
    # Not np.savez, which takes names as keywords and stumbles over one that is its own.
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            known = array if array.dtype.kind in "biufc" else array.astype(np.float32)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(known), allow_pickle=False)
    with replace_file(path) as put:
        put(0, buffer.getbuffer())
