"""A compiled model that is called like a function.

A call checks its arguments, takes a call context (argument arrays and scratch memory) off a free
list, allocates the outputs, and enters native code once, with the interpreter lock released. Any
number of threads may call at once; each has its own context.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..dtype import DType, i64
from ..errors import InputError, InternalError, OptionError
from ..options import whole_number
from .artifact import Artifact
from .buffer import (
    BorrowError,
    address_of,
    aligned_bytes,
    aligned_copy,
    aligned_empty,
    borrow,
    exporter,
    library_of,
)
from .compiled import Compiled, Stages
from .program import LetElement, Program, TensorSpec, walk_steps
from .shapes import Plan, Planner

_ENTRY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_MOST_PLANS = 256
READY = 0x101
"""NumPy's flags C_CONTIGUOUS and ALIGNED, which arrays that are used in place have."""


class Entry(Protocol):
    """Native code that is loaded: what a backend's loader returns.

    Attributes:
        address: of ``i32 (ptr frame)``; the frame holds six pointers: the context, the arrays of
            input and output pointers, the constants, the arena, and the i64 values of the dims.
        context: the first of them.
        threads: how many threads a call may use; may be set.
    """

    address: int
    context: int
    threads: int

    def close(self) -> None:
        """Frees the code; no call may be running or follow."""


class _CallContext:
    """What one running call owns; kept for the next one."""

    __slots__ = ("arena", "dims", "frame", "frame_address", "inputs", "outputs", "plan")

    def __init__(self, program: Program, context: int, constants: int) -> None:
        self.inputs = (ctypes.c_uint64 * len(program.inputs))()
        self.outputs = (ctypes.c_uint64 * len(program.outputs))()
        self.dims = (ctypes.c_int64 * len(program.symbols))()
        self.frame = (ctypes.c_uint64 * 6)(
            context,
            ctypes.addressof(self.inputs),
            ctypes.addressof(self.outputs),
            constants,
            0,
            ctypes.addressof(self.dims),
        )
        self.frame_address = ctypes.addressof(self.frame)
        self.arena: np.ndarray | None = None
        self.plan: Plan | None = None

    def prepare(self, plan: Plan) -> None:
        """Sets the dims and makes the arena large enough."""
        if self.arena is None or self.arena.nbytes < plan.arena_bytes:
            # The old one goes first: two at once could be what does not fit.
            self.plan = self.arena = None
            self.arena = aligned_bytes(plan.arena_bytes)
            self.frame[4] = address_of(self.arena)
        self.dims[:] = list(plan.dims)
        self.plan = plan


class Executable(Compiled):
    """A model ready to run.

    Args:
        built: the program, its constants and where they came from.
        entry: the loaded code, which it owns.
        stages: what ``text`` shows, by name: texts, or functions that make them when asked.
    """

    def __init__(self, built: Artifact, entry: Entry, stages: Stages | None = None) -> None:
        program = built.interface
        constants = built.constants
        if constants.nbytes != program.constants_bytes:
            raise InternalError(
                f"program {program.name}: {constants.nbytes} bytes of constants, planned "
                f"{program.constants_bytes}",
                code="TW-E0912",
            )
        if constants.nbytes and address_of(constants) % 64:
            raise InternalError(f"program {program.name}: constants not aligned", code="TW-E0912")
        super().__init__(built, stages)
        self._entry = entry
        self._call = _ENTRY(entry.address)
        self._context = entry.context
        self._constants = address_of(constants) if constants.nbytes else 0
        self._planner = Planner(program)
        self._plans: dict[tuple[tuple[int, ...], ...], Plan] = {}
        self._free: list[_CallContext] = []
        # Contexts beyond this number are freed, so memory follows the machine, not the callers.
        self._most_free = 2 * (os.cpu_count() or 1)
        self._positions = {s.name: i for i, s in enumerate(program.inputs)}
        self._dtypes = tuple(s.dtype.numpy for s in program.inputs)

    @property
    def threads(self) -> int:
        """How many threads a call may use; may be set at any time."""
        return self._entry.threads

    @threads.setter
    def threads(self, count: int) -> None:
        count = whole_number("threads", count)
        if not 1 <= count <= 1024:
            raise OptionError(f"threads: {count} is not in 1..1024", code="TW-E0801")
        self._entry.threads = count

    def __del__(self) -> None:
        entry = getattr(self, "_entry", None)
        if entry is not None:
            entry.close()

    # -------------------------------------------------------------- calling

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Runs on named inputs and returns the outputs by name (see ``__call__``).

        Raises:
            InputError: as ``__call__``; what is given has no names (TW-E0301).
        """
        if not isinstance(inputs, Mapping):
            raise InputError(
                f"{self.name}: run takes a dict of arrays by name, not a "
                f"{type(inputs).__name__}; arrays in order are given to the model as a function "
                f"is called; it takes {', '.join(map(str, self.inputs)) or 'none'}",
                code="TW-E0301",
            )
        results = self(*self._arrange((), inputs))
        return {s.name: r for s, r in zip(self.outputs, results, strict=True)}

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Runs on inputs given in order or by name; returns the outputs in order.

        An input is a NumPy array or any CPU tensor with ``__dlpack__``, of exactly the declared
        dtype; it is used in place if it is contiguous and aligned, else copied once. Python
        numbers and lists are taken where the declared dtype holds their values exactly; an input
        of shape (n, 0) is the integer n where the model takes a size as an argument. If all
        inputs are tensors of one library (torch), so are the outputs. Outputs are the caller's.

        Raises:
            InputError: TW-E0301 missing or unknown names, TW-E0302 dtype, TW-E0303 to TW-E0307
                shapes and sizes, TW-E0308 an object that is no tensor, TW-E0309 a value that the
                model computed and uses as a size is outside its range, TW-E0314 an index that
                is given or computed is outside of its tensor.
        """
        if kwargs or len(args) != len(self._dtypes):
            args = self._arrange(args, kwargs)
        arrays = list(args)
        shapes: list[tuple[int, ...]] = []
        for i, dtype in enumerate(self._dtypes):
            x = arrays[i]
            if type(x) is not np.ndarray or x.dtype is not dtype or x.flags.num & READY != READY:
                x = arrays[i] = _as_input(self.inputs[i], x)
            shapes.append(x.shape)
        plan = self.plan(tuple(shapes))
        results = self.enter(plan, arrays)
        if args and type(args[0]) is not np.ndarray:
            return _like(args, results)
        return results

    def plan(self, shapes: tuple[tuple[int, ...], ...]) -> Plan:
        """What inputs of these shapes lead to: what ``call_at`` needs to know of the outputs.

        Args:
            shapes: of each input in order; a size input's is ``(n, 0)``.

        Raises:
            InputError: they do not fit (TW-E0303 to TW-E0307).
        """
        plan = self._plans.get(shapes)
        if plan is None:
            plan = self._planner.plan(shapes)
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            self._plans[shapes] = plan
        return plan

    def call_at(self, plan: Plan, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Runs on memory that the caller owns; nothing is allocated for it, copied or checked.

        Args:
            plan: of this executable, for the shapes that the inputs have.
            inputs: the address of each input, in order: row-major elements of the declared
                dtype, aligned to an element. What has no elements may be at 0.
            outputs: where each output goes: as many bytes as the plan says at a multiple of 64,
                which no input and no other output overlaps.

        Raises:
            InputError: there is no scratch memory (TW-E0307), a size that the model computes is
                outside its range (TW-E0309), or an index outside of its tensor (TW-E0314).
        """
        try:
            context = self._free.pop()
        except IndexError:
            context = _CallContext(self._built.interface, self._context, self._constants)
        if context.plan is not plan:
            try:
                context.prepare(plan)
            except MemoryError as error:
                raise self._no_memory(plan) from error
        context.inputs[:] = [*inputs]
        context.outputs[:] = [*outputs]
        status = self._call(context.frame_address)
        if status:
            failure = getattr(self._entry, "failure", None)
            if failure is not None:
                self._entry.failure = None  # type: ignore[attr-defined]
                raise failure
            raise self._failure(status)
        if len(self._free) < self._most_free:
            self._free.append(context)

    def enter(self, plan: Plan, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Runs on arrays that are known to fit, and returns the outputs in order.

        Args:
            plan: of this executable, for the shapes that the arrays have.
            arrays: one for each input, of the declared dtype, C-contiguous and aligned.

        Raises:
            InputError: as ``call_at``; there is no memory for the outputs (TW-E0307).
        """
        results, places = [], []
        try:
            for shape, dtype, size in plan.outputs:
                result, place = aligned_empty(shape, dtype, size)
                results.append(result)
                places.append(place)
        except MemoryError as error:
            raise self._no_memory(plan) from error
        self.call_at(plan, [address_of(x) for x in arrays], places)
        return tuple(results)

    def _no_memory(self, plan: Plan) -> InputError:
        need = plan.arena_bytes + sum(size for _, _, size in plan.outputs)
        return InputError(
            f"{self.name}: there is no memory for the {need} bytes that inputs of these sizes need",
            code="TW-E0307",
        )

    def _failure(self, status: int) -> InputError:
        lets = [s for s in walk_steps(self.program.steps) if isinstance(s, LetElement)]
        if 1 <= status <= len(lets):
            let = lets[status - 1]
            if let.failure:
                return InputError(f"{self.name}: {let.failure}", code="TW-E0314")
            return InputError(
                f"{self.name}: element {let.index} of {let.tensor.name!r} is used as the size "
                f"{let.var.name} and is outside its range {let.var.lo} to {let.var.hi}",
                code="TW-E0309",
            )
        return InputError(f"{self.name}: a size is divided by one that is 0", code="TW-E0309")

    def _arrange(self, args: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, ...]:
        """The arguments in input order.

        Raises:
            InputError: some are missing, unknown or given twice (TW-E0301).
        """
        names = list(self._positions)
        problems = []
        if len(args) > len(names):
            problems.append(f"{len(args)} given for {len(names)} inputs")
        unknown = [n for n in named if n not in self._positions]
        if unknown:
            problems.append("unknown " + ", ".join(map(repr, unknown)))
        twice = [n for n in names[: len(args)] if n in named]
        if twice:
            problems.append("given twice " + ", ".join(map(repr, twice)))
        missing = [n for n in names[len(args) :] if n not in named]
        if missing:
            problems.append("missing " + ", ".join(map(repr, missing)))
        if problems:
            wanted = ", ".join(map(str, self.inputs)) or "none"
            raise InputError(
                f"{self.name}: inputs: {'; '.join(problems)}; it takes {wanted}", code="TW-E0301"
            )
        return (*args, *(named[n] for n in names[len(args) :]))


# ------------------------------------------------------------------ arguments and results


def _as_input(spec: TensorSpec, value: Any) -> np.ndarray:
    """A C-contiguous, aligned, native array with the value's elements; no copy where possible."""
    array = _as_array(spec, value)
    wanted = spec.dtype.numpy
    if array.dtype != wanted:
        if array.dtype.newbyteorder("=") != wanted:
            raise InputError(
                f"input {spec.name!r}: dtype {array.dtype}, expected {wanted} ({spec}); convert it "
                f"with .astype({str(wanted)!r}) if that is meant",
                code="TW-E0302",
            )
        array = array.astype(wanted)
    if array.flags.num & READY == READY:
        return array
    try:
        return aligned_copy(array)
    except MemoryError as error:
        raise InputError(
            f"input {spec.name!r}: there is no memory for a contiguous copy of its "
            f"{array.nbytes} bytes",
            code="TW-E0307",
        ) from error


def _as_array(spec: TensorSpec, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray):
            raise _no_tensor(spec, value, "its mask would be lost")
        return np.asarray(value)
    if isinstance(value, np.generic):
        return np.asarray(value)
    if type(value) is int and _is_size(spec):
        return _size(spec, value)
    if isinstance(value, (bool, int, float, list, tuple)):
        return _exactly(spec, value)
    try:
        if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
            return borrow(value)
    except BorrowError as error:
        raise _no_tensor(spec, value, str(error)) from error
    if any(hasattr(value, a) for a in ("__array__", "__array_interface__")):
        return np.asarray(value)
    raise _no_tensor(spec, value, "give a NumPy array or a CPU tensor with __dlpack__")


def _is_size(spec: TensorSpec) -> bool:
    """Whether an input stands for an integer that the model uses as a size.

    Its shape is (n, 0): it has no elements, and its first dim says what n is.
    """
    return spec.dtype is i64 and len(spec.shape) == 2 and spec.shape[1] == 0


def _size(spec: TensorSpec, value: int) -> np.ndarray:
    if not 0 <= value < 1 << 63:
        raise InputError(
            f"input {spec.name!r}: the size {value} is outside its range: at least 0",
            code="TW-E0306",
        )
    return np.empty((value, 0), spec.dtype.numpy)


def _no_tensor(spec: TensorSpec, value: object, why: str) -> InputError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return InputError(f"input {spec.name!r}: cannot use a {kind}: {why}", code="TW-E0308")


def _exactly(spec: TensorSpec, value: Any) -> np.ndarray:
    """Python numbers as the declared dtype, where it holds every one of them exactly."""
    try:
        found = np.asarray(value)
    except (ValueError, OverflowError, TypeError) as error:
        raise _no_tensor(spec, value, f"not a regular array of numbers: {error}") from error
    if found.dtype == object or found.dtype.kind not in "biuf":
        raise _no_tensor(spec, value, f"not an array of numbers (NumPy makes {found.dtype} of it)")
    wanted = spec.dtype
    if found.size == 0 or _holds(wanted, found):
        return found.astype(wanted.numpy)
    raise InputError(
        f"input {spec.name!r}: the Python value has elements that {wanted} does not hold exactly; "
        f"give np.asarray(value, {str(wanted.numpy)!r}) if rounding is meant",
        code="TW-E0302",
    )


def _holds(wanted: DType, found: np.ndarray) -> bool:
    """Whether every element survives the conversion; truth values and numbers do not mix."""
    if (found.dtype.kind == "b") != (wanted.numpy == np.bool_):
        return False
    if found.dtype.kind == "f" and not wanted.is_float:
        return False
    with np.errstate(all="ignore"):
        there = found.astype(wanted.numpy)
        back = there.astype(found.dtype)
    same = bool(np.array_equal(back, found, equal_nan=found.dtype.kind == "f"))
    # A float beyond the integers' range comes back as anything, even as what it was made of.
    if wanted.is_float and found.dtype.kind in "iu":
        return same and bool((np.abs(found.astype(np.float64)) < 2.0**63).all())
    return same


def _like(args: Sequence[Any], results: tuple[np.ndarray, ...]) -> tuple[Any, ...]:
    """The results as tensors of the one library that all arguments come from, if there is one."""
    tensors = [a for a in args if type(a) is not int]
    libraries = {library_of(a) for a in tensors}
    if len(libraries) != 1 or not all(hasattr(a, "__dlpack__") for a in tensors):
        return results
    (library,) = libraries
    export = None if library == "numpy" else exporter(library)
    return results if export is None else tuple(map(export, results))
