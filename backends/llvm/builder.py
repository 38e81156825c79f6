"""The mechanics of writing final SSA: scopes, value numbering, blocks and carried pointers.

Text is written once and never optimised, so this layer does what an optimiser would: an
instruction whose operands are known outside a loop is written outside it, and one that was
written before is not written again.
"""

from __future__ import annotations

from tilewright import dtype as dt
from tilewright.dtype import DType

from .types import literal, overload, register_type, splat_literal, vector

Bound = int | None


class Value:
    """An SSA value or a constant.

    Attributes:
        text: its name or literal. type: its LLVM type.
        dtype: the element type it stands for.
        lanes: 1 for a scalar.
        level: the depth of the scope that defines it (0: the function; constants too).
        const: the number of a constant (of every lane), or None.
        lo, hi: inclusive bounds of an integer scalar where known.
        wide: the vector with this scalar in every lane, once there is one.
    """

    __slots__ = ("const", "dtype", "hi", "lanes", "level", "lo", "text", "type", "wide")

    def __init__(
        self,
        text: str,
        type_: str,
        dtype: DType,
        lanes: int,
        level: int,
        const: float | bool | None = None,
        lo: Bound = None,
        hi: Bound = None,
    ) -> None:
        self.text = text
        self.type = type_
        self.dtype = dtype
        self.lanes = lanes
        self.level = level
        self.const = const
        self.lo = lo
        self.hi = hi
        self.wide: Value | None = None

    @property
    def operand(self) -> str:
        """Type and name, as most operands are written."""
        return f"{self.type} {self.text}"

    def at_level(self, level: int) -> Value:
        """The same value seen from a scope that encloses the one that defined it."""
        if self.level <= level:
            return self
        return Value(
            self.text,
            self.type,
            self.dtype,
            self.lanes,
            level,
            self.const,
            self.lo,
            self.hi,
        )


class Pointer:
    """A ptr value and the level that defines it."""

    __slots__ = ("level", "text")

    def __init__(self, text: str, level: int) -> None:
        self.text = text
        self.level = level


class Scope:
    """A region of blocks entered at one place: a function, a loop body, or an arm of a branch.

    Attributes:
        lines: what is written so far; ``block`` is the label of the block being written.
        always: whether the body runs whenever the enclosing scope does.
        stored: names of buffers that the region may store to.
        counter: of a loop, its variable; ``start`` its first value.
        pointers: pointers carried through the loop: (name, first value, step in bytes).
    """

    __slots__ = (
        "always", "block", "counter", "keys", "lines", "pointers", "start", "stored",
    )  # fmt: skip

    def __init__(self, block: str, always: bool, stored: frozenset[str]) -> None:
        self.lines: list[str] = []
        self.block = block
        self.always = always
        self.stored = stored
        self.keys: list[object] = []
        self.counter: Value | None = None
        self.start: Value | None = None
        self.pointers: list[tuple[str, str, str]] = []


class Builder:
    """Writes instructions into the outermost scope where their operands are known.

    The memo is one table for all open scopes; each scope lists the keys that die with it.
    """

    def __init__(self) -> None:
        self.scopes: list[Scope] = [Scope("entry", True, frozenset())]
        self.prologue: list[str] = []
        self.memo: dict[object, Value] = {}
        self._pointers: dict[object, Pointer] = {}
        self._next = 0
        self._constants: dict[tuple[float | bool | str, str, int], Value] = {}

    # -------------------------------------------------------------- scopes and blocks

    @property
    def level(self) -> int:
        """The depth of the innermost open scope."""
        return len(self.scopes) - 1

    def fresh(self) -> str:
        """A name that is new in the function, without its sigil."""
        self._next += 1
        return f"v{self._next}"

    def open_scope(self, block: str, always: bool, stored: frozenset[str]) -> Scope:
        """Enters a region whose first block is ``block``."""
        scope = Scope(block, always, stored)
        self.scopes.append(scope)
        return scope

    def close_scope(self) -> Scope:
        """Leaves the innermost region; what was computed in it is forgotten."""
        scope = self.scopes.pop()
        memo, pointers = self.memo, self._pointers
        for key in scope.keys:
            memo.pop(key, None)
            pointers.pop(key, None)
        return scope

    def line(self, text: str) -> None:
        """Writes a line with an effect into the innermost scope."""
        self.scopes[-1].lines.append("  " + text)

    def start_block(self, label: str) -> None:
        """Starts the next block of the innermost scope."""
        scope = self.scopes[-1]
        scope.lines.append(f"{label}:")
        scope.block = label

    # -------------------------------------------------------------- values

    def constant(self, value: float | bool, dtype: DType, lanes: int = 1) -> Value:
        """A constant, the same in every lane."""
        # 0.0 and -0.0 are equal as keys, and nan is never found again.
        exact = value if value else repr(value)
        key = (exact, dtype.name, lanes)
        found = self._constants.get(key)
        if found is not None:
            return found
        scalar = register_type(dtype)
        text = splat_literal(literal(value, dtype), scalar, lanes)
        bound = int(value) if dtype.is_integer else None
        new = Value(text, vector(scalar, lanes), dtype, lanes, 0, value, bound, bound)
        self._constants[key] = new
        return new

    def poison(self, dtype: DType, lanes: int) -> Value:
        """The value of what was never written."""
        return Value("poison", vector(register_type(dtype), lanes), dtype, lanes, 0)

    def pure(
        self,
        text: str,
        type_: str,
        dtype: DType,
        lanes: int,
        level: int,
        lo: Bound = None,
        hi: Bound = None,
    ) -> Value:
        """The value of an instruction without effects, written at ``level`` unless it is known."""
        found = self.memo.get(text)
        if found is not None:
            if found.dtype is dtype:
                return found
            # One instruction may serve a signed and an unsigned type of the same width.
            return Value(found.text, type_, dtype, lanes, found.level, None, lo, hi)
        self._next += 1
        name = f"%v{self._next}"
        scope = self.scopes[level]
        scope.lines.append(f"  {name} = {text}")
        new = Value(name, type_, dtype, lanes, level, None, lo, hi)
        self.memo[text] = new
        scope.keys.append(text)
        return new

    def splat(self, value: Value, lanes: int) -> Value:
        """The vector with ``value`` in every lane; vectors pass through."""
        if value.lanes == lanes:
            return value
        found = value.wide
        if found is not None and found.lanes == lanes:
            return found
        assert value.lanes == 1, (value.text, value.lanes, lanes)
        if value.const is not None:
            return self.constant(value.const, value.dtype, lanes)
        wide = vector(value.type, lanes)
        if value.text == "poison":
            return self.poison(value.dtype, lanes)
        one = self.pure(
            f"insertelement {wide} poison, {value.type} {value.text}, i64 0",
            wide, value.dtype, lanes, value.level,
        )  # fmt: skip
        found = value.wide = self.pure(
            f"shufflevector {wide} {one.text}, {wide} poison, <{lanes} x i32> zeroinitializer",
            wide, value.dtype, lanes, value.level,
        )  # fmt: skip
        return found

    def intrinsic(self, name: str, result: Value, *args: Value) -> Value:
        """A call of ``llvm.NAME`` whose result has the type of ``result``."""
        scalar = register_type(result.dtype)
        operands = ", ".join(f"{a.type} {a.text}" for a in args)
        level = max([a.level for a in args])
        suffix = overload(scalar, result.lanes)
        text = f"call {result.type} @llvm.{name}.{suffix}({operands})"
        return self.pure(text, result.type, result.dtype, result.lanes, level)

    def shuffle(self, a: Value, b: Value | None, lanes: list[int]) -> Value:
        """Lanes of ``a`` and then ``b`` (of one type) by number; -1 is any lane."""
        count = len(lanes)
        if count == 1:
            source, lane = (
                (a, lanes[0]) if lanes[0] < a.lanes or b is None else (b, lanes[0] - a.lanes)
            )
            return self.extract(source, lane)
        second = "poison" if b is None else b.text
        level = a.level if b is None else max(a.level, b.level)
        mask = ", ".join("i32 poison" if i < 0 else f"i32 {i}" for i in lanes)
        type_ = vector(register_type(a.dtype), count)
        text = f"shufflevector {a.type} {a.text}, {a.type} {second}, <{count} x i32> <{mask}>"
        return self.pure(text, type_, a.dtype, count, level)

    def extract(self, value: Value, lane: int) -> Value:
        """One lane of a vector (a scalar is its own lane 0)."""
        if value.lanes == 1:
            return value
        if value.const is not None:
            return self.constant(value.const, value.dtype)
        type_ = register_type(value.dtype)
        text = f"extractelement {value.type} {value.text}, i64 {lane}"
        return self.pure(text, type_, value.dtype, 1, value.level)

    def insert(self, value: Value, element: Value, lane: int) -> Value:
        """The vector with one lane replaced."""
        if value.lanes == 1:
            return element
        text = f"insertelement {value.type} {value.text}, {element.type} {element.text}, i64 {lane}"
        return self.pure(
            text, value.type, value.dtype, value.lanes, max(value.level, element.level)
        )

    def ramp(self, lanes: int, stride: int, dtype: DType = dt.i64) -> Value:
        """The constant vector 0, stride, 2 * stride, ..."""
        scalar = register_type(dtype)
        items = ", ".join(f"{scalar} {i * stride}" for i in range(lanes))
        return Value(f"<{items}>", vector(scalar, lanes), dtype, lanes, 0)

    # -------------------------------------------------------------- pointers

    def pointer(self, text: str, level: int) -> Pointer:
        """The ptr value of an instruction without effects."""
        found = self._pointers.get(text)
        if found is not None:
            return found
        self._next += 1
        name = f"%p{self._next}"
        scope = self.scopes[level]
        scope.lines.append(f"  {name} = {text}")
        new = Pointer(name, level)
        self._pointers[text] = new
        scope.keys.append(text)
        return new

    def offset(self, base: Pointer, offset: Value | int) -> Pointer:
        """A pointer ``offset`` bytes on.

        It is plain arithmetic, never ``inbounds``: a clipped row may start outside its buffer.
        """
        if isinstance(offset, int):
            if offset == 0:
                return base
            return self.pointer(f"getelementptr i8, ptr {base.text}, i64 {offset}", base.level)
        level = max(base.level, offset.level)
        return self.pointer(f"getelementptr i8, ptr {base.text}, i64 {offset.text}", level)

    def carried_pointer(self, level: int, base: Pointer, step: Value) -> Pointer:
        """The pointer ``base + step * counter`` of the loop at ``level``, stepped by addition."""
        key = f"carried {level} {base.text} {step.text}"
        found = self._pointers.get(key)
        if found is not None:
            return found
        scope = self.scopes[level]
        assert scope.start is not None
        first = base
        if scope.start.const is None:
            first = self.offset(base, self._multiply(scope.start, step))
        elif step.const is not None:
            first = self.offset(base, int(scope.start.const) * int(step.const))
        elif scope.start.const != 0:
            first = self.offset(base, self._multiply(step, scope.start))
        self._next += 1
        name = f"%p{self._next}"
        scope.pointers.append((name, first.text, step.text))
        new = Pointer(name, level)
        self._pointers[key] = new
        scope.keys.append(key)
        return new

    def _multiply(self, a: Value, b: Value) -> Value:
        level = max(a.level, b.level)
        return self.pure(f"mul i64 {a.text}, {b.text}", "i64", dt.i64, 1, level)
