"""Symbolic arrays and sizes: what the user's function computes with while it is traced."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn
from weakref import ReferenceType, ref

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import Attr, Value
from tilewright.ops.kernel import equal_dims
from tilewright.tensor.ir import Dim, Expr, as_expr, binary
from tilewright.tensor.simplify import dim, product

from .methods import Methods
from .trace import Handler, Trace

Weak = type[int] | type[float] | type[bool] | None

NO_VALUE: Any = inspect.signature(np.sum).parameters["initial"].default
"""What NumPy gives for an argument that was not given, where None would be a value."""


class Size:
    """A symbolic integer, an entry of the shape of a traced array.

    Arithmetic with integers stays symbolic; with floats it becomes a computed scalar. A comparison
    takes the course of the call that is traced and guards it. Where Python needs the very number
    (``range(n)``, ``int(n)``), the compiled code serves that number only.
    """

    __slots__ = ("dim", "tracing")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, trace: Trace, size: Expr) -> None:
        self.tracing = trace
        self.dim = size

    def _apply(self, other: object, name: str, swap: bool = False) -> Any:
        if isinstance(other, Size | int | np.integer):
            a, b = self.dim, dim_of(other)
            if swap:
                a, b = as_expr(b), a
            if name in ("floordiv", "mod") and not self.tracing.decide(binary("gt", as_expr(b), 0)):
                number = self.tracing.specialise(b)
                self.tracing.specialise(a)
                self.tracing.refuse(f"a size is divided by {number}")
            return size_of(self.tracing, dim(binary(name, a, b)))  # type: ignore[arg-type]
        if isinstance(other, float):
            ufunc = {"add": np.add, "sub": np.subtract, "mul": np.multiply,
                     "floordiv": np.floor_divide, "mod": np.remainder}[name]  # fmt: skip
            return self._scalar(ufunc, other, swap)
        return NotImplemented

    def _scalar(self, ufunc: np.ufunc, other: object, swap: bool = False) -> Any:
        if not isinstance(other, Size | int | float):
            return NotImplemented
        mine = Tracer(self.tracing, self.tracing.add("dim", value=self.dim), weak=int)
        mine.sizes = (self.dim,)
        return mine.apply(ufunc, other, swap)

    def __add__(self, other: object) -> Any:
        return self._apply(other, "add")

    def __sub__(self, other: object) -> Any:
        return self._apply(other, "sub")

    def __rsub__(self, other: object) -> Any:
        return self._apply(other, "sub", swap=True)

    def __mul__(self, other: object) -> Any:
        return self._apply(other, "mul")

    def __floordiv__(self, other: object) -> Any:
        return self._apply(other, "floordiv")

    def __rfloordiv__(self, other: object) -> Any:
        return self._apply(other, "floordiv", swap=True)

    def __mod__(self, other: object) -> Any:
        return self._apply(other, "mod")

    def __rmod__(self, other: object) -> Any:
        return self._apply(other, "mod", swap=True)

    def __truediv__(self, other: object) -> Any:
        return self._scalar(np.true_divide, other)

    def __rtruediv__(self, other: object) -> Any:
        return self._scalar(np.true_divide, other, swap=True)

    def __pow__(self, other: object) -> Any:
        if isinstance(other, int) and 0 <= other <= 4:
            return size_of(self.tracing, product([self.dim] * other))
        return self._scalar(np.power, other)

    def __neg__(self) -> Any:
        return size_of(self.tracing, dim(-self.dim))

    __radd__ = __add__
    __rmul__ = __mul__

    def _compare(self, other: object, name: str) -> Any:
        if isinstance(other, float) and other.is_integer():
            other = int(other)
        if not isinstance(other, Size | int | np.integer):
            return NotImplemented
        return self.tracing.decide(binary(name, self.dim, dim_of(other)))  # type: ignore[arg-type]

    def __lt__(self, other: object) -> Any:
        return self._compare(other, "lt")

    def __le__(self, other: object) -> Any:
        return self._compare(other, "le")

    def __gt__(self, other: object) -> Any:
        return self._compare(other, "gt")

    def __ge__(self, other: object) -> Any:
        return self._compare(other, "ge")

    def __eq__(self, other: object) -> Any:
        if isinstance(other, Size) and self.tracing.hint(self.dim) == other.tracing.hint(other.dim):
            self.tracing.require_equal(self.dim, other.dim)
            return True
        return self._compare(other, "eq")

    def __ne__(self, other: object) -> Any:
        equal = self.__eq__(other)
        return NotImplemented if equal is NotImplemented else not equal

    def __bool__(self) -> bool:
        return self.tracing.decide(binary("ne", self.dim, 0))

    def __index__(self) -> int:
        return self.tracing.specialise(self.dim)

    def __int__(self) -> int:
        return self.tracing.specialise(self.dim)

    def __float__(self) -> float:
        return float(self.tracing.specialise(self.dim))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return call_ufunc(self.tracing, ufunc, method, inputs, kwargs)

    def __array_function__(self, func: Handler, types: Any, args: Any, kwargs: Any) -> Any:
        return call_function(self.tracing, func, args, kwargs)

    def __repr__(self) -> str:
        return f"Size({self.tracing.hint(self.dim)})"


class Family:
    """Arrays that share memory in NumPy: one, its views, and theirs.

    Attributes:
        outside: whether it is memory of the caller's.
        members: those that still exist, among references to others that do not.
    """

    __slots__ = ("members", "outside")

    def __init__(self, outside: bool) -> None:
        self.outside = outside
        self.members: list[ReferenceType[Tracer]] = []


class Tracer(Methods):
    """A symbolic array.

    Attributes:
        tracing: the one it belongs to.
        value: what it is in the graph; an in-place operator replaces it.
        weak: int, float or bool for what would be a Python number (a quotient of sizes).
        scalar: whether NumPy would give a scalar and not a 0-d array.
        sizes: of what is weak, the sizes that it is computed from.
        family: the arrays over the same memory, if there may be others.
        origin: of what an index selects, the array and the key.
    """

    __slots__ = ("__weakref__", "family", "origin", "scalar", "sizes", "tracing", "value", "weak")
    __hash__ = None  # type: ignore[assignment]
    __array_priority__ = 1000

    def __init__(
        self,
        trace: Trace,
        value: Value,
        *,
        weak: Weak = None,
        scalar: bool = False,
        family: Family | None = None,
    ) -> None:
        self.tracing = trace
        self.value = value
        self.weak = weak
        self.scalar = scalar or weak is not None
        self.sizes: tuple[Dim, ...] = ()
        self.family = family
        self.origin: tuple[Tracer, Any] | None = None
        if family is not None:
            family.members.append(ref(self))

    @property
    def shared(self) -> bool:
        """Whether the caller, or another array that still exists, would see what is written."""
        return not self.seen_by(self)

    def seen_by(self, *arrays: Tracer) -> bool:
        """Whether nobody but these arrays would see what is written."""
        family = self.family
        if family is None:
            return True
        family.members = [m for m in family.members if m() is not None]
        known = {id(a) for a in arrays}
        return not family.outside and all(id(m()) in known for m in family.members)

    def viewed(self, value: Value) -> Tracer:
        """An array over the same memory."""
        if self.family is None:
            self.family = Family(outside=False)
            self.family.members.append(ref(self))
        return Tracer(self.tracing, value, family=self.family)

    # ---------------------------------------------------------- what it is

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The shape as dims."""
        return self.value.shape

    @property
    def shape(self) -> tuple[Any, ...]:
        """The shape: integers and sizes."""
        return tuple(size_of(self.tracing, d) for d in self.dims)

    @property
    def dtype(self) -> np.dtype:
        """The NumPy dtype."""
        return self.value.dtype.numpy

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.dims)

    @property
    def size(self) -> Any:
        """The number of elements."""
        return size_of(self.tracing, product(self.dims))

    @property
    def itemsize(self) -> int:
        """The bytes of an element."""
        return self.value.dtype.bytes

    @property
    def nbytes(self) -> Any:
        """The bytes of all elements."""
        return self.size * self.itemsize

    @property
    def T(self) -> Any:  # noqa: N802
        """The array with its axes reversed."""
        return np.transpose(self)

    @property
    def mT(self) -> Any:  # noqa: N802
        """The array with its last two axes swapped."""
        return np.swapaxes(self, -1, -2)

    @property
    def real(self) -> Any:
        """The array itself: no complex numbers are supported."""
        return self

    @property
    def imag(self) -> Any:
        """Zeros: no complex numbers are supported."""
        return np.zeros_like(self)

    def __len__(self) -> int:
        if not self.dims:
            raise TypeError("len() of unsized object")
        return self.tracing.specialise(self.dims[0])

    def __iter__(self) -> Iterator[Any]:
        if not self.dims:
            raise TypeError("iteration over a 0-d array")
        if not isinstance(self.dims[0], int):
            self.tracing.unsupported(
                "iteration over an axis of symbolic size; compute on the whole array, or use"
                " tw.jit(dynamic=False)",
                "TW-E0243",
            )
        return iter([self[i] for i in range(self.dims[0])])

    def __repr__(self) -> str:
        return f"Tracer({self.value.type})"

    # ---------------------------------------------------------- kernels

    def __tilewright_node__(
        self, op: str, attrs: Mapping[str, Attr], operands: Sequence[Any]
    ) -> list[Tracer]:
        """Adds a node that a kernel asks for when it is called with a traced array."""
        values = [operand(self.tracing, f"tw.{op}", x) for x in operands]
        for a, b in equal_dims(attrs, tuple(v.type for v in values)):
            if self.tracing.hint(a) == self.tracing.hint(b):
                self.tracing.require_equal(a, b)
        return [Tracer(self.tracing, v) for v in self.tracing.add_many(op, *values, **attrs)]

    # ---------------------------------------------------------- what needs the data

    def _concrete(self, what: str) -> NoReturn:
        # What comes from sizes alone is a number as soon as they are.
        for size in self.sizes:
            self.tracing.specialise(size)
        self.tracing.unsupported(
            f"{what} needs the data of a traced array, which exists only when the compiled code"
            " runs; use np.where, or pass the value as a Python number",
            "TW-E0242",
        )

    def __bool__(self) -> bool:  # noqa: PLE0304
        self._concrete("a condition of Python (if, while, and, or, not, bool())")

    def __int__(self) -> int:
        self._concrete("int()")

    def __float__(self) -> float:
        self._concrete("float()")

    def __complex__(self) -> complex:
        self._concrete("complex()")

    def __index__(self) -> int:  # noqa: PLE0305
        self._concrete("an index of a Python sequence or range()")

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        self._concrete(
            "np.asarray(), a NumPy function without a traced form, or writing into an array that"
            " is not traced (make it with np.zeros_like(x) or another function of x)"
        )

    def item(self, *args: Any) -> Any:
        """Refused: the data is not there yet."""
        self._concrete(".item()")

    def tolist(self) -> Any:
        """Refused: the data is not there yet."""
        self._concrete(".tolist()")

    def __setitem__(self, key: Any, value: Any) -> None:
        call_function(self.tracing, operator.setitem, (self, key, value), {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(np.ndarray, name):
            raise AttributeError(f"a traced array has no attribute {name!r}")
        return self.tracing.unsupported(f"numpy.ndarray.{name}", "TW-E0241")

    # ---------------------------------------------------------- dispatch

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return call_ufunc(self.tracing, ufunc, method, inputs, kwargs)

    def __array_function__(self, func: Handler, types: Any, args: Any, kwargs: Any) -> Any:
        return call_function(self.tracing, func, args, kwargs)

    def __getitem__(self, key: Any) -> Any:
        return call_function(self.tracing, operator.getitem, (self, key), {})

    def apply(self, ufunc: np.ufunc, other: object, swap: bool = False) -> Any:
        """An operator of Python: of two weak operands the result is weak."""
        if not isinstance(other, _OPERANDS):
            if isinstance(other, list | tuple):
                other = np.asarray(other)
            elif other is None and ufunc in (np.equal, np.not_equal):
                # No number is None; NumPy says so of each element.
                like = call_function(self.tracing, np.zeros_like, (self,), {"dtype": bool})
                return like if ufunc is np.equal else ~like
            elif isinstance(other, str | bytes):
                who = name_of(ufunc)
                self.tracing.refuse(f"{who}: {other!r} is no operand of an array of numbers")
            else:
                return NotImplemented
        pair = (other, self) if swap else (self, other)
        result = call_ufunc(self.tracing, ufunc, "__call__", pair, {})
        if isinstance(kind_of(self), type) and isinstance(kind_of(other), type):
            kind = result.value.dtype
            result.weak = float if kind.is_float else int if kind.is_integer else bool
            more = other.sizes if isinstance(other, Tracer) else ()
            result.sizes = (*self.sizes, *more, *((other.dim,) if isinstance(other, Size) else ()))
        return result

    def call(self, function: object, *args: Any, **kwargs: Any) -> Any:
        """A function of NumPy, with the array as its first argument."""
        return call_function(self.tracing, function, (self, *args), kwargs)

    def loop(self, ufunc: np.ufunc, *operands: object) -> Any:
        """A ufunc of operands of which the array is one."""
        return call_ufunc(self.tracing, ufunc, "__call__", operands, {})

    def put(self, ufunc: np.ufunc, other: object) -> Any:
        """An operator that writes: ``x += y``."""
        if self.weak:
            return self.apply(ufunc, other)
        result = self.apply(ufunc, other)
        if self.scalar:
            return result
        name = f"in-place {ufunc.__name__}"
        return self.tracing.functions["write"](self.tracing, name, self, result)


_OPERANDS = (Tracer, Size, bool, int, float, complex, np.generic, np.ndarray)


# ------------------------------------------------------------------ dispatch


def call_ufunc(
    trace: Trace, ufunc: np.ufunc, method: str, inputs: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    """Calls what stands for a ufunc (or a method of it, such as ``np.add.reduce``)."""
    if method == "outer" and ufunc.nin == 2 and ufunc.nout == 1:
        return bind(trace, f"numpy.{ufunc.__name__}.outer", trace.functions["outer"],
                    (ufunc, *inputs), kwargs)  # fmt: skip
    if method != "__call__":
        found = trace.functions.get((ufunc, method))
        if found is None:
            return trace.unsupported(f"numpy.{ufunc.__name__}.{method}")
        return bind(trace, f"numpy.{ufunc.__name__}.{method}", found, inputs, kwargs)
    return bind(
        trace, f"numpy.{ufunc.__name__}", trace.functions["ufunc"], (ufunc, *inputs), kwargs
    )


def call_function(trace: Trace, func: object, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Calls what stands for a NumPy function."""
    name = name_of(func)
    found = trace.functions.get(func)
    if found is None:
        return trace.missing(name)
    return bind(trace, name, found, args, kwargs)


def bind(
    trace: Trace, name: str, handler: Handler, args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    """Calls a handler; arguments that it does not take are a gap, named.

    What is given as ``out`` is written, and returned.
    """
    if kwargs.get("out") is not None:
        rest, mask = {k: v for k, v in kwargs.items() if k != "out"}, True
        if handler is trace.functions["ufunc"]:
            mask = rest.pop("where", True)
        found = bind(trace, name, handler, args, rest)
        return trace.functions["out"](trace, name, kwargs["out"], found, mask)
    code = handler.__code__
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    extra = [k for k in kwargs if k not in known and not code.co_flags & 0x08]
    extra = [k for k in extra if kwargs[k] is not None and kwargs[k] is not NO_VALUE]
    if extra:
        return trace.unsupported(f"{name} with the argument {', '.join(extra)}", "TW-E0245")
    given = {k: v for k, v in kwargs.items() if k in known or code.co_flags & 0x08}
    positional = code.co_argcount - 1
    if len(args) > positional and not code.co_flags & 0x04:
        return trace.unsupported(f"{name} with {len(args)} positional arguments", "TW-E0245")
    return handler(trace, *args, **given)


def name_of(func: object) -> str:
    """A NumPy function's public name."""
    module = getattr(func, "__module__", None) or "numpy"
    return f"{module}.{getattr(func, '__name__', func)}"


# ------------------------------------------------------------------ conversions


def size_of(trace: Trace, size: Dim) -> Any:
    """A dim as the user sees it."""
    return size if isinstance(size, int) else Size(trace, size)


def dim_of(size: object) -> Dim:
    """The dim behind an integer or a Size."""
    if isinstance(size, Size):
        return size.dim
    return operator.index(size)  # type: ignore[arg-type]


def kind_of(x: object) -> np.dtype | type:
    """What promotion sees of an operand: a dtype, or int or float for what is weak."""
    match x:
        case Tracer():
            return x.weak if x.weak is int or x.weak is float else x.dtype
        case bool():
            return np.dtype(np.bool_)
        case Size() | int():
            return int
        case float() if not isinstance(x, np.generic):
            return float
        case _:
            return np.asarray(x).dtype


def element_type(trace: Trace, who: str, dtype: Any) -> dt.DType:
    """The element type that stores a NumPy dtype; refuses what there is none for."""
    wanted = np.dtype(dtype)
    found = None if wanted.kind in "OSUVMmc" else dt.from_numpy(wanted)
    if found is None:
        trace.unsupported(f"{who}: elements of type {wanted}", "TW-E0246")
    return found


def operand(trace: Trace, who: str, x: object, dtype: np.dtype | None = None) -> Value:
    """An operand as a value of a dtype; by default of its own."""
    if isinstance(x, list | tuple):
        x = stacked(trace, who, x)
    if isinstance(x, Tracer):
        if x.tracing is not trace:
            trace.refuse(f"{who}: an array of another traced call is used", "TW-E0321")
        return x.value if dtype is None else trace.cast(x.value, element_type(trace, who, dtype))
    if isinstance(x, Size):
        wanted = element_type(trace, who, np.int64 if dtype is None else dtype)
        return trace.cast(trace.add("dim", value=x.dim), wanted)
    return trace.constant(_constant(trace, who, x, dtype))


def _constant(trace: Trace, who: str, x: object, dtype: np.dtype | None) -> np.ndarray:
    if isinstance(x, np.ma.MaskedArray | np.matrix):
        trace.unsupported(f"{who}: an operand that is a {type(x).__name__}", "TW-E0246")
    if type(x) is int and dtype is not None and dtype.kind in "iu":
        info = np.iinfo(dtype)
        if not info.min <= x <= info.max:
            trace.refuse(f"{who}: the Python integer {x} is out of bounds for {dtype}")
    try:
        array = np.asarray(x)
    except ValueError as error:
        trace.refuse(f"{who}: {error}")
    element_type(trace, who, array.dtype)
    if dtype is None or array.dtype == dtype:
        return array
    element_type(trace, who, dtype)
    with np.errstate(all="ignore"):
        return array.astype(dtype)


def _counted(trace: Trace, who: str, item: object) -> object:
    """A number in a list, whose type counts in full there, unlike in an operation."""
    if isinstance(item, Size) or (isinstance(item, Tracer) and item.weak is not None):
        return Tracer(trace, operand(trace, who, item))
    return np.asarray(item) if isinstance(item, bool | int | float) else item


def stacked(trace: Trace, who: str, items: Sequence[object]) -> object:
    """A nested sequence as one array; traced where something in it is."""
    if not has_traced(items):
        return np.asarray(items)
    parts = [
        stacked(trace, who, item) if isinstance(item, list | tuple) else _counted(trace, who, item)
        for item in items
    ]
    return call_function(trace, np.stack, (parts,), {})


def has_traced(x: object) -> bool:
    """Whether something symbolic is in a nest of sequences."""
    if isinstance(x, list | tuple):
        return any(has_traced(item) for item in x)
    return isinstance(x, Tracer | Size)


def tracer(trace: Trace, who: str, x: object) -> Tracer:
    """An operand as a symbolic array."""
    if isinstance(x, Tracer) and x.tracing is trace:
        return x
    return Tracer(trace, operand(trace, who, x))
