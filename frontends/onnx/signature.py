"""The types of a model's inputs: declared dims become ints or symbols with ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from numbers import Integral

from tilewright.errors import ModelError, OptionError
from tilewright.graph.ir import TensorType
from tilewright.tensor.ir import Dim, Var, symbol

from .messages import TensorShapeProto, ValueInfoProto
from .node import GapError, type_name
from .read import dtype_of

DimRange = tuple[int, int | None]


class Signature:
    """Turns declared inputs into tensor types.

    Args:
        shapes: dims by input name that replace the declared ones (ints, or names of symbols).
        dim_ranges: inclusive ranges by symbol name; the default is 1 and up.
        known: dims that the model needs in place of symbols (see equal.py).

    Raises:
        OptionError: a range is empty or negative.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int | str]] | None,
        dim_ranges: Mapping[str, DimRange] | None,
        known: Mapping[Var, Dim],
    ) -> None:
        self._known = known
        self._shapes = dict(shapes or {})
        self._ranges = dict(dim_ranges or {})
        self._symbols: dict[str, Var] = {}
        self._spelled: dict[str, str] = {}
        self._asked: set[str] = set()
        for name, given in self._ranges.items():
            low, high = _pair(name, given)
            if low < 0 or (high is not None and high < low):
                raise OptionError(
                    f"dim_ranges: {name!r} has the range {low} to {high}, which is empty or"
                    " negative",
                    code="TW-E0810",
                )

    def type_of(self, declared: ValueInfoProto) -> TensorType:
        """The type of one input.

        Raises:
            GapError: it is not a tensor, or its element type or rank is not supported.
            ModelError: a declared dim is not possible.
            OptionError: the dims given for it do not fit its rank.
        """
        name = declared.name
        kind = declared.type.WhichOneof("value")
        if kind != "tensor_type":
            what = "of no type" if kind is None else f"a {kind.removesuffix('_type')}"
            raise GapError(f"input is {what}, not a tensor")
        tensor = declared.type.tensor_type
        dtype = dtype_of(tensor.elem_type)
        if dtype is None:
            raise GapError(f"input of element type {type_name(tensor.elem_type)}")
        given = self._shapes.pop(name, None)
        if given is not None:
            _check_dims(name, given)
            if tensor.HasField("shape") and len(tensor.shape.dim) != len(given):
                raise OptionError(
                    f"shapes: {name!r} has {len(tensor.shape.dim)} dims in the model, but"
                    f" {len(given)} are given: {list(given)}",
                    code="TW-E0811",
                )
            dims = tuple(self._given(name, d) for d in given)
        elif tensor.HasField("shape"):
            dims = tuple(self._declared(name, i, d) for i, d in enumerate(tensor.shape.dim))
        else:
            raise GapError("input of unknown rank (give its dims with shapes)")
        return TensorType(dtype, dims)

    def finish(self, inputs: Sequence[str]) -> None:
        """Checks that every option concerned something.

        Raises:
            OptionError: ``shapes`` or ``dim_ranges`` names what the model does not have.
        """
        for name in self._shapes:
            raise OptionError(
                f"shapes: the model has no input {name!r}; its inputs are {', '.join(inputs)}",
                code="TW-E0811",
            )
        for name in self._ranges:
            if name not in self._asked:
                known = ", ".join(sorted(self._asked)) or "none"
                raise OptionError(
                    f"dim_ranges: the model has no symbolic dim {name!r}; it has: {known}",
                    code="TW-E0810",
                )

    def _given(self, name: str, given: int | str) -> Dim:
        if isinstance(given, str):
            return self._symbol(given)
        return int(given)

    def _declared(self, name: str, axis: int, declared: TensorShapeProto.Dimension) -> Dim:
        match declared.WhichOneof("value"):
            case "dim_value" if declared.dim_value >= 0:
                if declared.dim_value >= 1 << 48:
                    raise ModelError(
                        f"input {name}: dim {axis} is {declared.dim_value}, which no memory holds",
                        code="TW-E0133",
                    )
                return int(declared.dim_value)
            case "dim_value" if declared.dim_value != -1:
                raise ModelError(
                    f"input {name}: dim {axis} is {declared.dim_value}, but dims are not negative",
                    code="TW-E0133",
                )
            case "dim_param" if re.search(r"\w", declared.dim_param):
                return self._symbol(declared.dim_param)
            case _:
                # Exporters write -1, nothing, or "?" for a dim that varies on its own.
                return self._symbol(f"{name}_{axis}")

    def _symbol(self, name: str) -> Dim:
        self._asked.add(name)
        found = self._symbols.get(name)
        if found is None:
            low, high = self._ranges.get(name, (1, None))
            found = symbol(self._identifier(name), low, high)
            self._symbols[name] = found
        return self._known.get(found, found)

    def _identifier(self, name: str) -> str:
        base = re.sub(r"\W", "_", name, flags=re.ASCII)
        if not base or base[0].isdigit():
            base = f"d{base}"
        spelled, count = base, 0
        while self._spelled.setdefault(spelled, name) != name:
            count += 1
            spelled = f"{base}_{count}"
        return spelled


def _check_dims(name: str, given: object) -> None:
    """Refuses what are no dims, which the user gave for an input."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise OptionError(
            f"shapes: {name!r} is given {given!r}; give all its dims, as in ('N', 16)",
            code="TW-E0811",
        )
    for dim in given:
        if not isinstance(dim, str) and not (isinstance(dim, Integral) and int(dim) >= 0):
            raise OptionError(
                f"shapes: {name!r} is given the dim {dim!r}; a dim is a non-negative number or"
                " the name of a symbol",
                code="TW-E0811",
            )


def _pair(name: str, given: object) -> tuple[int, int | None]:
    """A range as the user gave it."""
    match given:
        case (Integral() as low, (Integral() | None) as high):
            return int(low), None if high is None else int(high)
    raise OptionError(
        f"dim_ranges: {name!r} is given {given!r}; give its least and its greatest size, as in"
        " (1, 64), or (1, None)",
        code="TW-E0810",
    )
