"""Whole compiled models in the cache, by all that decides them.

A model is looked up by what its source holds. Files beside it, which hold weights, are named in
an entry of their own, so that looking up needs no importer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from tilewright.runtime import artifact
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.cache import Cache, digest_key
from tilewright.sources import Source
from tilewright.stages import fingerprint
from tilewright.target import Target


def model_key(
    store: Cache, source: Source, target: Target, math: str, records: str = ""
) -> str | None:
    """A key for all that decides a compiled model but files beside it; None where it has none.

    Args:
        store: the cache.
        source, target, math: what is compiled, and for what.
        records: a digest of the schedules that are replayed.
    """
    if store.root is None:
        return None
    content = source.content(store)
    if content is None:
        return None
    return digest_key("model", content, repr(target), math, source.key(), records, fingerprint())


def find_model(store: Cache, key: str, source: Source) -> Artifact | None:
    """The compiled model; a damaged one is removed and not found."""
    names = store.get(digest_key("beside", key))
    whole = _with_files(store, key, source, () if names is None else json.loads(names))
    path = None if whole is None else store.find(whole)
    if whole is None or path is None:
        return None
    try:
        return artifact.read(path)
    except Exception:
        store.discard(whole)
        return None


def keep_model(store: Cache, key: str, source: Source, made: Artifact) -> None:
    """Keeps a compiled model, unless its source has changed meanwhile."""
    if source.has_changed():
        return
    names = source.beside()
    whole = _with_files(store, key, source, names)
    if whole is None:
        return
    if names:
        store.put(digest_key("beside", key), json.dumps(names).encode())
    # What a stop of the machine damages is found to be, and made again.
    store.publish(whole, lambda path: artifact.write(path, made, durable=False))


def _with_files(store: Cache, key: str, source: Source, names: Sequence[str]) -> str | None:
    """The key of a model with the content of the files beside it."""
    if not names:
        return key
    assert source.path is not None
    digests = [store.file_digest(source.path.parent / name) for name in names]
    present = [d for d in digests if d is not None]
    return digest_key("with files", key, *present) if len(present) == len(names) else None
