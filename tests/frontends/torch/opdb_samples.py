"""The samples of torch's operator database, and what becomes of each in Tilewright."""

from __future__ import annotations

import itertools
import linecache
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import torch
from torch.export.graph_signature import ConstantArgument
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils import _pytree as pytree

import tilewright
from tilewright.errors import InternalError, TilewrightError, UnsupportedError
from tilewright.frontends.torch import import_exported
from tilewright.frontends.torch.types import array_of

from .opdb_ratchet import DTYPES, Key, Result

TYPES = {"f32": torch.float32, "i64": torch.int64, "bool": torch.bool}

UNINITIALISED = frozenset({
    "empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided",
})  # fmt: skip
"""Operators whose results are memory that nothing has written: there is no value to expect."""

PLACES = {"argsort": (0, 1), "kthvalue": (1, 2), "mode": (1, 1), "sort": (1, 1), "topk": (1, 2)}
"""Operators that may take any of several equal elements: which result says the places that they
took, and which argument the axis. Such places are compared by the elements there."""

UP_TO_SIGNS = frozenset({"linalg.eigh", "linalg.svd", "svd"})
"""Operators that may turn each of their vectors around, and choose those of no length. Their
results are compared as torch's own tests do: by what the sample says is determined."""


# ------------------------------------------------------------------ samples


def use_one_thread() -> None:
    """Has eager torch share the machine with other processes."""
    torch.set_num_threads(1)


@cache
def operators() -> dict[str, OpInfo]:
    """The database's entries by full name (with the variant behind a dot)."""
    return {op.full_name: op for op in op_db}


class _Samples:
    """The samples of one operator in one type, made as they are asked for: flat, with their form.

    The database seeds torch before each of them. They are copied at once: some entries write to
    the tensors of one sample to make the next.
    """

    def __init__(self, op: str, dtype: str) -> None:
        info = operators()[op]
        torch.manual_seed(0)
        known = TYPES[dtype] in info.supported_dtypes("cpu")
        self._rest = iter(info.sample_inputs("cpu", TYPES[dtype]) if known else ())
        self._made: list[Any] = []

    def first(self, count: int | None) -> list[Any]:
        """So many samples from the first on, or all."""
        with torch.no_grad():
            missing = None if count is None else max(count - len(self._made), 0)
            self._made += map(_copied, itertools.islice(self._rest, missing))
        return self._made[:count]


def _copied(sample: Any) -> tuple[list[Any], Any, Any]:
    leaves, spec = pytree.tree_flatten(((sample.input, *sample.args), dict(sample.kwargs)))
    memory: dict[int, Any] = {}  # views of one another stay such

    def copied(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        # Sparse ones have no storage that could be shared.
        return deepcopy(x, memory) if x.layout is torch.strided else x.clone()

    return [copied(x) for x in leaves], spec, sample.output_process_fn_grad


@cache
def samples_of(op: str, dtype: str) -> _Samples:
    """The samples of one operator."""
    return _Samples(op, dtype)


def all_keys(patterns: Sequence[str] = (), first: int | None = None) -> list[Key]:
    """Every sample, or the first of each operator and type, in a fixed order."""
    return [
        Key(op, dtype, place)
        for op in sorted(operators())
        if not patterns or any(p in op for p in patterns)
        for dtype in DTYPES
        for place in range(len(samples_of(op, dtype).first(first)))
    ]


@dataclass(frozen=True, slots=True)
class _Call:
    """One sample as a call: the function, and its flat arguments, of which tensors are inputs.

    ``shown`` is the sample's own function of a result to what torch's tests look at.
    """

    key: Key
    function: Callable[..., Any]
    leaves: list[Any]
    spec: Any
    shown: Callable[[Any], Any]

    @property
    def tensors(self) -> list[torch.Tensor]:
        return [leaf for leaf in self.leaves if isinstance(leaf, torch.Tensor)]

    def __call__(self, tensors: Iterator[torch.Tensor]) -> Any:
        leaves = [next(tensors) if isinstance(x, torch.Tensor) else x for x in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return args, kwargs

    def eager(self, seed: int = 0, *, exact: bool = False) -> list[Any]:
        """The flat results of eager torch.

        Args:
            seed: what random numbers start from, also where the database's entry itself seeds.
            exact: whether f32 is computed in f64.
        """
        wide = {torch.float32: torch.float64} if exact else {}
        args, kwargs = self(t.to(wide.get(t.dtype, t.dtype), copy=True) for t in self.tensors)
        original = torch.manual_seed
        original(seed)
        with mock.patch.object(torch, "manual_seed", lambda given: original(given + seed)):
            return list(pytree.tree_leaves(self.function(*args, **kwargs)))

    def determined(self, results: list[Any]) -> list[Any]:
        """What is determined of flat results."""
        if self.key.op not in UP_TO_SIGNS:
            return results
        return list(pytree.tree_leaves(self.shown(tuple(results))))

    def may_be_random(self) -> bool:
        """Whether the call that was just made has drawn random numbers."""
        if any(isinstance(leaf, torch.Generator) for leaf in self.leaves):
            return True
        found = torch.get_rng_state()
        torch.manual_seed(0)
        return not torch.equal(found, torch.get_rng_state())


def _call(key: Key) -> _Call:
    leaves, spec, shown = samples_of(key.op, key.dtype).first(key.place + 1)[key.place]
    return _Call(key, operators()[key.op].op, leaves, spec, shown)


# ------------------------------------------------------------------ programs of many calls


class _Program(torch.nn.Module):  # type: ignore[misc]
    """Calls of samples in one program.

    Each call has a line of its own in a source made for it, so that the lines which refusals name
    tell the samples that they refuse.
    """

    FILE = "<samples>"

    def __init__(self, calls: Sequence[_Call]) -> None:
        super().__init__()
        self.calls = calls
        lines = ["def forward(calls, tensors):\n"]
        lines += ["    rest, found = iter(tensors), []\n"]
        for i in range(len(calls)):
            lines.append(
                f"    a = calls[{i}](rest); found.append(calls[{i}].function(*a[0], **a[1]))\n"
            )
        lines.append("    return found\n")
        linecache.cache[self.FILE] = (sum(map(len, lines)), None, lines, self.FILE)
        scope: dict[str, Any] = {}
        exec(compile("".join(lines), self.FILE, "exec"), scope)
        self.run = scope["forward"]

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.run(self.calls, tensors)

    def index_at(self, place: str) -> int | None:
        """The call that a refusal's place ("name at file:line ...") is in."""
        found = re.search(rf"{self.FILE}:(\d+)", place)
        return int(found.group(1)) - 3 if found else None


def _export(calls: Sequence[_Call]) -> tuple[_Program, torch.export.ExportedProgram]:
    module = _Program(calls)
    tensors = tuple(t for call in calls for t in call.tensors)
    with torch.no_grad():
        return module, torch.export.export(module, tensors, strict=False)


def outcomes_of(keys: Sequence[Key]) -> list[Result]:
    """What becomes of each of some samples."""
    found: list[Result] = []
    calls: list[_Call] = []
    wanted: dict[Key, list[Any]] = {}
    for key in keys:
        call = _call(key)
        if key.op in UNINITIALISED:
            found.append(Result(key, "random", "memory that nothing has written"))
            continue
        try:
            wanted[key] = call.eager()
            random = call.may_be_random() and any(
                _differences(call.eager(n), wanted[key], {}) for n in (1, 2)
            )
        except Exception as error:
            found.append(Result(key, "inexportable", f"eager: {_first_line(error)}"))
            continue
        if random:
            found.append(Result(key, "random", "its results depend on the seed"))
            continue
        calls.append(call)
    return sorted(found + _together(calls, wanted), key=lambda r: r.key)


def _together(calls: Sequence[_Call], wanted: Mapping[Key, list[Any]]) -> list[Result]:
    """Outcomes of calls in one program, which is taken apart where it does not compile."""
    if not calls:
        return []
    try:
        module, program = _export(calls)
    except Exception as error:
        if len(calls) == 1:
            return [Result(calls[0].key, "inexportable", _first_line(error))]
        return _apart(calls, wanted)
    try:
        graph = import_exported(program)
        executable = tilewright.compile(graph, cache=False, threads=1)
        arrays = [_array(t) for call in calls for t in call.tensors]
        results = executable(*arrays)
    except UnsupportedError as error:
        refused = _refused(module, calls, error)
        if refused is not None:
            rest = [c for i, c in enumerate(calls) if i not in refused]
            listed = [Result(calls[i].key, "refused", why) for i, why in refused.items()]
            return listed + _together(rest, wanted)
    except Exception as error:
        if len(calls) == 1:
            return [_failed(calls[0].key, error)]
    else:
        return _compared(calls, program, results, wanted)
    half = len(calls) // 2
    return _together(calls[:half], wanted) + _together(calls[half:], wanted)


def _apart(calls: Sequence[_Call], wanted: Mapping[Key, list[Any]]) -> list[Result]:
    """Outcomes of calls that torch does not export together: those it exports alone, together."""
    taken: list[_Call] = []
    found: list[Result] = []
    for call in calls:
        try:
            _export([call])
        except Exception as error:
            found.append(Result(call.key, "inexportable", _first_line(error)))
        else:
            taken.append(call)
    if found:
        return found + _together(taken, wanted)
    half = len(calls) // 2
    return _together(calls[:half], wanted) + _together(calls[half:], wanted)


def _refused(
    module: _Program, calls: Sequence[_Call], error: UnsupportedError
) -> dict[int, str] | None:
    """Calls that an error refuses, with their gaps; None where no gap tells its call."""
    if len(calls) == 1:
        return {0: "; ".join(gap.what for gap in error.gaps)}
    found: dict[int, str] = {}
    for gap in error.gaps:
        for place in gap.nodes:
            index = module.index_at(place)
            if index is not None:
                found[index] = f"{found[index]}; {gap.what}" if index in found else gap.what
    return found or None


def _failed(key: Key, error: Exception) -> Result:
    """A coded error refuses a sample; a defect of the compiler, or any other error, is a crash."""
    if isinstance(error, TilewrightError) and not isinstance(error, InternalError):
        return Result(key, "refused", _first_line(error))
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return Result(key, "crash", f"{type(error).__name__} at {where}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


# ------------------------------------------------------------------ comparison


def _array(tensor: torch.Tensor) -> np.ndarray:
    return array_of(tensor.resolve_conj())


def _tensor(array: np.ndarray) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _compared(
    calls: Sequence[_Call],
    program: torch.export.ExportedProgram,
    results: Sequence[np.ndarray],
    wanted: Mapping[Key, list[Any]],
) -> list[Result]:
    rest = iter(results)
    specs = iter(program.graph_signature.output_specs)
    found = []
    for call in calls:
        expected = wanted[call.key]
        ours: list[Any] = []
        for _, spec in zip(expected, specs, strict=False):
            known = isinstance(spec.arg, ConstantArgument)
            ours.append(spec.arg.value if known else _tensor(next(rest)))
        if call.key.op in PLACES:
            result, _ = PLACES[call.key.op]
            ours[result] = _settled(call, ours[result], expected[result])
        ours, expected = call.determined(ours), call.determined(expected)
        problem = _differences(ours, expected, {})
        if problem and _is_as_exact(call, ours, expected):
            problem = ""
        found.append(Result(call.key, "wrong" if problem else "pass", problem))
    assert next(rest, None) is None
    return found


def _is_as_exact(call: _Call, ours: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Whether sums that cancel come out about as near to the result in f64 as eager's do.

    Torch's tolerances are for results near 1: a sum of products of 80 that is near 2 has an error
    in any order of its terms, eager's own among them. The typical error may be twice eager's; the
    largest one of thousands, which is a matter of luck, four times.
    """
    floats = [t for t in (*ours, *expected) if isinstance(t, torch.Tensor)]
    if any(t.dtype is not torch.float32 for t in floats) or len(floats) != 2 * len(ours):
        return False
    try:
        exact = call.determined(call.eager(exact=True))
    except Exception:
        return False  # no f64 where the dtype is an argument
    pairs = zip(ours, expected, exact, strict=True)
    return all(
        want.dtype is torch.float64
        and want.shape == got.shape
        and bool(torch.isfinite(want).all())
        and _is_within(got - want, eager - want)
        for got, eager, want in pairs
    )


def _is_within(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether errors are as small as others, by their mean square and by the largest."""
    typical = bool(ours.square().mean() <= 4 * theirs.square().mean())
    return typical and bool(ours.abs().max() <= 4 * theirs.abs().max())


def _differences(ours: Sequence[Any], expected: Sequence[Any], options: Mapping[str, float]) -> str:
    """Where results differ by more than torch's own tolerances; nan equals nan."""
    for i, (got, want) in enumerate(zip(ours, expected, strict=True)):
        if isinstance(got, torch.Tensor) and isinstance(want, int | float):
            want = torch.tensor(want)
        if not isinstance(want, torch.Tensor):
            same = got == want or (got != got and want != want)
            if not same:
                return f"result {i} is {got!r}, expected {want!r}"
            continue
        if got.shape != want.shape or got.dtype != want.dtype:
            return (
                f"result {i} is {got.dtype}{list(got.shape)},"
                f" expected {want.dtype}{list(want.shape)}"
            )
        try:
            torch.testing.assert_close(
                got, want.resolve_conj(), equal_nan=True, check_layout=False, **options
            )
        except AssertionError as error:
            return f"result {i}: {' '.join(str(error).split())[:200]}"
    return ""


def _settled(call: _Call, places: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """The expected places, where ours are as good: of equal elements, and none of them twice."""
    args, kwargs = call(iter(call.tensors))
    position = PLACES[call.key.op][1]
    axis = kwargs.get("dim", args[position] if len(args) > position else -1)
    x = args[0]
    if not x.dim() or places.shape != expected.shape:
        return places
    flat = places.dim() < x.dim()
    ours, theirs = (p.unsqueeze(axis) if flat else p for p in (places, expected))
    same = torch.equal(x.take_along_dim(ours, axis), x.take_along_dim(theirs, axis))
    sorted_ = ours.sort(axis).values
    twice = (sorted_.narrow(axis, 1, ours.shape[axis] - 1) == sorted_.narrow(
        axis, 0, ours.shape[axis] - 1
    )).any() if ours.shape[axis] > 1 else False  # fmt: skip
    return expected if same and not twice else places
