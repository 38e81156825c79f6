"""Loads and stores: plain, masked, strided and gathered; and register buffers as SSA values."""

from __future__ import annotations

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.errors import InternalError
from tilewright.tensor.ir import Buffer, Expr, Load, Var
from tilewright.tensor.walk import free_vars, loads

from .arithmetic import Arithmetic
from .builder import Pointer, Value
from .index import Form, Index, Terms
from .machine import Machine
from .registers import Cells
from .types import memory_type, overload, vector

# Where a guarded load reads when its guard is false; one full chunk of the widest element.
ZEROS = "@tilewright.zeros"
ZEROS_BYTES = 256
# Strides up to this are loaded as whole vectors and shuffled.
_SHUFFLED_STRIDE = 4


class Memory(Arithmetic):
    """Reads and writes buffers in the current lanes.

    Attributes:
        mask: the lanes that execute (None: all existing lanes).
        guard: a scalar condition under which loads are performed (None: always); elsewhere
            they give zero.
        exposed: undefined register elements that were read: (buffer, first, count, lanes).
        streaming: whether what is stored now may go past the caches.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.mask: Value | None = None
        self.guard: Value | None = None
        self.bases: dict[str, Pointer] = {}
        self.aligned: set[str] = set()
        self.registers: dict[str, Cells] = {}
        self.exposed: set[tuple[str, int, int, int]] = set()
        self.uses_zeros = False
        self.streaming = False
        self._dependents: dict[str, list[object]] = {}
        self.free_vars_of: dict[Expr, frozenset[Var]] = {}
        self._load_forms: dict[Load, Form] = {}
        self._load_facts: dict[Load, tuple[tuple[Var, ...], frozenset[str], frozenset[str]]] = {}
        self._types: dict[tuple[DType, int], Value] = {}

    def free_vars(self, e: Expr) -> frozenset[Var]:
        """The variables that an expression mentions, found once."""
        found = self.free_vars_of.get(e)
        if found is None:
            found = self.free_vars_of[e] = free_vars(e)
        return found

    # -------------------------------------------------------------- masks

    def memory_mask(self) -> Value | None:
        """The lanes that may touch memory: those that execute and exist."""
        if self.active == self.width:
            return self.mask
        return self.both(self.mask, self.constant_mask_of_active())

    def constant_mask_of_active(self) -> Value:
        """The mask of the existing lanes of a partial chunk."""
        items = ", ".join("i1 true" if i < self.active else "i1 false" for i in range(self.width))
        return Value(f"<{items}>", vector("i1", self.width), dt.bool_, self.width, 0)

    def any_lane(self, mask: Value) -> Value:
        """Whether any lane of a mask is set."""
        if mask.lanes == 1:
            return mask
        text = f"call i1 @llvm.vector.reduce.or.v{mask.lanes}i1({mask.type} {mask.text})"
        return self.pure(text, "i1", dt.bool_, 1, mask.level)

    # -------------------------------------------------------------- loads

    def load_form(self, e: Load) -> Form:
        """The flat position of a load, as a sum of products."""
        found = self._load_forms.get(e)
        if found is None:
            found = self._load_forms[e] = self.flat_form(e.buffer.shape, e.indices)
        return found

    def load(self, e: Load, passthru: Value | None = None) -> Value:
        """The loaded element in each lane; ``passthru`` in the lanes that are masked off."""
        name = e.buffer.name
        cells = self.registers.get(name)
        if cells is not None:
            return self.read_register(e.buffer, cells, self.evaluate(self.load_form(e)))
        facts = self._load_facts.get(e)
        if facts is None:
            names = frozenset([name, *(inner.buffer.name for inner in loads(e))])
            facts = self._load_facts[e] = (tuple(self.free_vars(e)), names, names - {name})
        variables, names, inner = facts
        if inner and inner & self.registers.keys():
            return self._load_at(e.buffer, self.evaluate(self.load_form(e)), passthru, e)
        env = self.env
        key = (e, self.width, self.active, self.mask, self.guard, passthru,
               *[env[v] for v in variables])  # fmt: skip
        found = self.memo.get(key)
        if found is not None:
            return found
        value = self._load_at(e.buffer, self.evaluate(self.load_form(e)), passthru, e)
        self._remember(key, value, names)
        return value

    def _remember(self, key: object, value: Value, names: frozenset[str] | tuple[str, ...]) -> None:
        self.memo[key] = value
        self.scopes[value.level].keys.append(key)
        for name in names:
            self._dependents.setdefault(name, []).append(key)

    def forget(self, name: str) -> None:
        """Drops what was loaded from a buffer, since it changes."""
        for key in self._dependents.pop(name, ()):
            self.memo.pop(key, None)

    def _read(self, text: str, like: Value, buffer: Buffer, needs: int) -> Value:
        """A load instruction, in the outermost scope where it is sure to run and to be right."""
        found = self.memo.get(text)
        if found is not None:
            return found
        level = self.level
        while level > needs:
            scope = self.scopes[level]
            if not scope.always or buffer.name in scope.stored:
                break
            level -= 1
        self._next += 1
        name = f"%v{self._next}"
        self.scopes[level].lines.append(f"  {name} = {text}")
        value = Value(name, like.type, like.dtype, like.lanes, level)
        self._remember(text, value, (buffer.name,))
        return value

    def _typed(self, buffer: Buffer, lanes: int) -> Value:
        """A value that stands for the type of a buffer's elements in memory."""
        found = self._types.get((buffer.dtype, lanes))
        if found is None:
            dtype = dt.u8 if buffer.dtype is dt.bool_ else buffer.dtype
            found = Value("", vector(memory_type(dtype), lanes), dtype, lanes, 0)
            self._types[buffer.dtype, lanes] = found
        return found

    def _from_memory(self, raw: Value, dtype: DType) -> Value:
        if dtype is not dt.bool_:
            return raw
        return self._test("icmp ne", raw, self.like(0, raw))

    def _load_at(
        self, buffer: Buffer, at: Index, passthru: Value | None, e: Load | None = None
    ) -> Value:
        """The elements at a flat position in each lane; ``e`` is the load where there is one."""
        width = self.width
        if width == 1 or at.is_uniform:
            return self._load_scalar(buffer, at)
        mask = self.memory_mask()
        if mask is not None and mask.const is False:
            return self.poison(buffer.dtype, width)
        if at.is_affine and at.stride == 1:
            return self._load_contiguous(buffer, at, mask, passthru)
        if at.is_affine and mask is None:
            if at.stride == -1:
                first = Index(at.const - (width - 1), 1, at.terms)
                forward = self._load_contiguous(buffer, first, None, None)
                return self.shuffle(forward, None, list(range(width - 1, -1, -1)))
            if 2 <= at.stride <= _SHUFFLED_STRIDE:
                return self._load_shuffled(buffer, at)
        if at.is_affine and self.mask is None and not self._can_gather(buffer.dtype):
            return self._load_lanes(buffer, at)
        found = None if e is None else self._load_pattern(e, at)
        if found is not None:
            return found
        return self._load_gather(buffer, at, mask, passthru)

    def _can_gather(self, dtype: DType) -> bool:
        return self.machine.gather and dtype.bits >= 32

    def _guarded(self, pointer: Pointer, guard: Value | None) -> Pointer:
        """The pointer where the guard holds, else that of a block of zeros."""
        if guard is None or guard.const is True:
            return pointer
        if guard.const is False:
            self.uses_zeros = True
            return Pointer(ZEROS, 0)
        self.uses_zeros = True
        text = f"select i1 {guard.text}, ptr {pointer.text}, ptr {ZEROS}"
        return self.pointer(text, max(pointer.level, guard.level))

    def _alignment(self, buffer: Buffer, at: Index) -> int:
        """The alignment in bytes that every lane-0 address is known to have."""
        size = buffer.dtype.bytes
        if buffer.name not in self.aligned:
            return size
        bits = at.const | 64 // size
        for m, k in at.terms:
            bits |= k * self.multiples.get(m[0].text, 1) if len(m) == 1 else k
        return (bits & -bits) * size

    def _load_scalar(self, buffer: Buffer, at: Index) -> Value:
        guard = self.guard
        if self.mask is not None:
            # The address may be wrong where no lane executes.
            guard = self.both(guard, self.any_lane(self.mask))
        size = buffer.dtype.bytes
        pointer = self._guarded(self.locate(self.bases[buffer.name], size, at), guard)
        like = self._typed(buffer, 1)
        align = size if guard is not None else self._alignment(buffer, at)
        text = f"load {like.type}, ptr {pointer.text}, align {align}"
        return self._from_memory(self._read(text, like, buffer, pointer.level), buffer.dtype)

    def _load_contiguous(
        self, buffer: Buffer, at: Index, mask: Value | None, passthru: Value | None
    ) -> Value:
        size = buffer.dtype.bytes
        pointer = self._guarded(self.locate(self.bases[buffer.name], size, at), self.guard)
        like = self._typed(buffer, self.width)
        align = self._alignment(buffer, at)
        if mask is None:
            text = f"load {like.type}, ptr {pointer.text}, align {align}"
            raw = self._read(text, like, buffer, pointer.level)
            return self._from_memory(raw, buffer.dtype)
        mask = self.splat(mask, self.width)
        rest, needs = self._rest(buffer, passthru)
        name = f"llvm.masked.load.{overload(memory_type(buffer.dtype), self.width)}.p0"
        text = (
            f"call {like.type} @{name}(ptr align {align} {pointer.text}, "
            f"{mask.type} {mask.text}, {like.type} {rest})"
        )
        needs = max(pointer.level, mask.level, needs)
        return self._from_memory(self._read(text, like, buffer, needs), buffer.dtype)

    def _rest(self, buffer: Buffer, passthru: Value | None) -> tuple[str, int]:
        """What masked lanes hold, and the level that knows it."""
        if passthru is None:
            return "zeroinitializer", 0
        wide = self.splat(passthru, self.width)
        if buffer.dtype is dt.bool_:
            wide = self.change("zext", wide, dt.u8)
        return wide.text, wide.level

    def _load_shuffled(self, buffer: Buffer, at: Index) -> Value:
        """A load of stride 2 to 4: whole vectors, of which every stride-th element is taken.

        The last vector ends at the last element wanted, so nothing beyond it is read.
        """
        width, stride = self.width, at.stride
        reach = (width - 1) * stride + 1
        starts = [*range(0, reach - width, width), reach - width]
        parts = [
            self._load_contiguous(buffer, Index(at.const + s, 1, at.terms), None, None)
            for s in starts
        ]
        result: Value | None = None
        done = 0
        for part, start in zip(parts, starts, strict=True):
            lanes = [n for n in range(done, width) if start <= n * stride < start + width]
            if result is None:
                result = part
                picks = [n * stride if n in lanes else -1 for n in range(width)]
                result = self.shuffle(part, None, picks)
            else:
                picks = [
                    n if n < done else width + n * stride - start if n in lanes else -1
                    for n in range(width)
                ]
                result = self.shuffle(result, part, picks)
            done = lanes[-1] + 1 if lanes else done
        assert result is not None
        return result

    def _load_pattern(self, e: Load, at: Index) -> Value | None:
        """A load whose lanes lie at constant places of one or two vectors of a row, shuffled.

        Vectors begin at multiples of their length, so that loads of other elements of the same
        neighbourhood share them. None where a vector might reach beyond the row, where the places
        are no such constants, or where a mask may be what keeps all of them inside.
        """
        if self.mask is not None:
            return None
        last, size = self.index(e.indices[-1]), e.buffer.shape[-1]
        pattern = self._lane_places(last)
        whole = self._lane_places(at)
        if pattern is None or whole is None or not isinstance(size, int):
            return None
        if any(w - p != at.const - last.const for w, p in zip(whole, pattern, strict=True)):
            return None
        lowest, highest = self.bounds_of(Index(0, 0, self._shared_terms(last)))
        places = pattern[: self.active]
        count = 1
        while count < self.width and count <= max(places) - min(places):
            count *= 2
        starts = sorted({p - p % count for p in places})
        if len(starts) > 2 or lowest is None or highest is None:
            return None
        if lowest + starts[0] < 0 or highest + starts[-1] + count > size:
            return None
        terms = self._shared_terms(at)
        parts = []
        for start in starts:
            where = Index(at.const - last.const + start, 0, terms)
            pointer = self.locate(self.bases[e.buffer.name], e.dtype.bytes, where)
            pointer = self._guarded(pointer, self.guard)
            like = self._typed(e.buffer, count)
            align = e.dtype.bytes if self.guard is not None else self._alignment(e.buffer, where)
            text = f"load {like.type}, ptr {pointer.text}, align {align}"
            raw = self._read(text, like, e.buffer, pointer.level)
            parts.append(self._from_memory(raw, e.dtype))
        lanes = [p - starts[0] if p < starts[0] + count else count + p - starts[1] for p in places]
        lanes += [-1] * (self.width - self.active)
        if len(parts) > 1:
            return self.shuffle(parts[0], parts[1], lanes)
        return parts[0] if lanes == list(range(count)) else self._permuted(parts[0], lanes)

    def _permuted(self, value: Value, lanes: list[int]) -> Value:
        """Lanes of a vector by number: one instruction, where any instruction does it."""
        name = self.machine.permute
        whole = value.lanes == len(lanes) == self.machine.lanes and value.dtype is dt.f32
        if not name or not whole or all(p // 4 == i // 4 for i, p in enumerate(lanes) if p >= 0):
            return self.shuffle(value, None, lanes)
        order = ", ".join(f"i32 {max(p, 0)}" for p in lanes)
        text = f"call {value.type} @llvm.{name}({value.type} {value.text}, "
        text += f"{vector('i32', value.lanes)} <{order}>)"
        return self.pure(text, value.type, value.dtype, value.lanes, value.level)

    def _lane_places(self, at: Index) -> list[int] | None:
        """How far the element of each lane lies from what lanes share; None if not a constant."""
        places = [at.const + at.stride * lane for lane in range(self.width)]
        for monomial, k in at.terms:
            if all(v.lanes == 1 for v in monomial):
                continue
            items = self.lane_constants.get(monomial[0].text) if len(monomial) == 1 else None
            if items is None or len(items) != self.width:
                return None
            places = [p + k * item for p, item in zip(places, items, strict=True)]
        return places

    def _shared_terms(self, at: Index) -> Terms:
        """The terms of an index that are the same in all lanes."""
        return tuple((m, k) for m, k in at.terms if all(v.lanes == 1 for v in m))

    def _load_lanes(self, buffer: Buffer, at: Index) -> Value:
        """One scalar load for each existing lane."""
        result = self.poison(buffer.dtype, self.width)
        for lane in range(self.active):
            element = self._load_scalar(buffer, Index(at.const + lane * at.stride, 0, at.terms))
            result = self.insert(result, element, lane)
        return result

    def _vector_pointers(self, buffer: Buffer, at: Index) -> tuple[str, int]:
        """The operand and level of a vector of pointers, one to each lane's element."""
        uniform = tuple((m, k) for m, k in at.terms if all(v.lanes == 1 for v in m))
        varying = tuple((m, k) for m, k in at.terms if any(v.lanes > 1 for v in m))
        size = buffer.dtype.bytes
        base = self.locate(self.bases[buffer.name], size, Index(at.const, 0, uniform))
        if varying:
            offsets = self.materialise(Index(0, at.stride, varying))
        else:
            offsets = self.ramp(self.width, at.stride, dt.i32)
        text = (
            f"getelementptr {memory_type(buffer.dtype)}, ptr {base.text}, "
            f"{offsets.type} {offsets.text}"
        )
        pointers = self.pointer(text, max(base.level, offsets.level))
        return pointers.text, pointers.level

    def _load_gather(
        self, buffer: Buffer, at: Index, mask: Value | None, passthru: Value | None
    ) -> Value:
        width, size = self.width, buffer.dtype.bytes
        mask = self.both(mask, self.guard)
        pointers, level = self._vector_pointers(buffer, at)
        lanes = self.constant(True, dt.bool_, width) if mask is None else self.splat(mask, width)
        like = self._typed(buffer, width)
        rest, needs = self._rest(buffer, passthru)
        name = f"llvm.masked.gather.{overload(memory_type(buffer.dtype), width)}.v{width}p0"
        text = (
            f"call {like.type} @{name}(<{width} x ptr> align {size} {pointers}, "
            f"{lanes.type} {lanes.text}, {like.type} {rest})"
        )
        raw = self._read(text, like, buffer, max(level, lanes.level, needs))
        return self._from_memory(raw, buffer.dtype)

    # -------------------------------------------------------------- stores

    def store_at(self, buffer: Buffer, at: Index, value: Value) -> None:
        """Writes a value to the elements ``at`` in the lanes that execute."""
        cells = self.registers.get(buffer.name)
        if cells is not None:
            self.write_register(buffer, cells, at, value)
            return
        if self.width == 1 or at.is_uniform:
            self._store_scalar(buffer, at, value)
            return
        mask = self.memory_mask()
        if mask is not None and mask.const is False:
            return
        value = self.splat(value, self.width)
        if at.is_affine and at.stride == 1:
            self._store_contiguous(buffer, at, value, mask)
        elif at.is_affine and at.stride == -1 and mask is None:
            order = list(range(self.width - 1, -1, -1))
            first = Index(at.const - (self.width - 1), 1, at.terms)
            self._store_contiguous(buffer, first, self.shuffle(value, None, order), None)
        elif at.is_affine and self.mask is None:
            for lane in range(self.active):
                element = self.extract(value, lane)
                where = Index(at.const + lane * at.stride, 0, at.terms)
                self._store_scalar(buffer, where, element)
        else:
            self._store_scatter(buffer, at, value, mask)

    def _to_memory(self, value: Value) -> Value:
        return self.change("zext", value, dt.u8) if value.dtype is dt.bool_ else value

    def _store_scalar(self, buffer: Buffer, at: Index, value: Value) -> None:
        if value.lanes > 1 or self.mask is not None:
            raise InternalError(
                f"{buffer.name}: lanes of a vector loop are stored to one element, and not as a "
                "reduction of the form s = op(s, e)",
                code="TW-E0942",
            )
        pointer = self.locate(self.bases[buffer.name], buffer.dtype.bytes, at)
        raw = self._to_memory(value)
        where = f"ptr {pointer.text}, align {self._alignment(buffer, at)}"
        self.line(f"store {raw.type} {raw.text}, {where}")
        self.forget(buffer.name)
        self._forward(buffer, f"load {raw.type}, {where}", raw)

    def _store_contiguous(
        self, buffer: Buffer, at: Index, value: Value, mask: Value | None
    ) -> None:
        pointer = self.locate(self.bases[buffer.name], buffer.dtype.bytes, at)
        raw = self._to_memory(value)
        align = self._alignment(buffer, at)
        if mask is None:
            where = f"ptr {pointer.text}, align {align}"
            past = self.streaming and align >= self.width * buffer.dtype.bytes
            hint = ", !nontemporal !{i32 1}" if past else ""
            self.line(f"store {raw.type} {raw.text}, {where}{hint}")
            self.forget(buffer.name)
            self._forward(buffer, f"load {raw.type}, {where}", raw)
            return
        mask = self.splat(mask, self.width)
        name = f"llvm.masked.store.{overload(memory_type(buffer.dtype), self.width)}.p0"
        self.line(
            f"call void @{name}({raw.type} {raw.text}, ptr align {align} {pointer.text}, "
            f"{mask.type} {mask.text})"
        )
        self.forget(buffer.name)

    def _forward(self, buffer: Buffer, text: str, raw: Value) -> None:
        """Lets a load of what was just stored take the value."""
        level = self.level
        value = Value(raw.text, raw.type, raw.dtype, raw.lanes, level, raw.const)
        self._remember(text, value, (buffer.name,))

    def _store_scatter(self, buffer: Buffer, at: Index, value: Value, mask: Value | None) -> None:
        width = self.width
        pointers, _ = self._vector_pointers(buffer, at)
        raw = self._to_memory(value)
        lanes = self.constant(True, dt.bool_, width) if mask is None else self.splat(mask, width)
        name = f"llvm.masked.scatter.{overload(memory_type(buffer.dtype), width)}.v{width}p0"
        self.line(
            f"call void @{name}({raw.type} {raw.text}, <{width} x ptr> align "
            f"{buffer.dtype.bytes} {pointers}, {lanes.type} {lanes.text})"
        )
        self.forget(buffer.name)

    # -------------------------------------------------------------- registers

    def read_register(self, buffer: Buffer, cells: Cells, at: Index) -> Value:
        """The elements of a register buffer in the current lanes."""
        self._check_constant(buffer, at)
        if self.width == 1 or not at.stride:
            return self._gather_cells(buffer, cells, [at.const], 1)
        if at.stride == 1:
            found = cells.exact(at.const, self.active)
            if found is not None and found.lanes == self.width:
                return found
        positions = [at.const + lane * at.stride for lane in range(self.active)]
        return self._gather_cells(buffer, cells, positions, self.width)

    def _check_constant(self, buffer: Buffer, at: Index) -> None:
        if at.terms:
            raise InternalError(
                f"{buffer.name}: a register buffer is indexed by a variable",
                code="TW-E0943",
            )

    def read_span(self, buffer: Buffer, cells: Cells, first: int, count: int, lanes: int) -> Value:
        """A run of elements as one value of ``lanes`` lanes."""
        found = cells.exact(first, count)
        if found is not None and found.lanes == lanes:
            return found
        return self._gather_cells(buffer, cells, list(range(first, first + count)), lanes)

    def _gather_cells(
        self, buffer: Buffer, cells: Cells, positions: list[int], lanes: int
    ) -> Value:
        found = [cells.find(p) for p in positions]
        if all(f is None for f in found):
            self.exposed.add((buffer.name, positions[0], len(positions), lanes))
            return self.poison(buffer.dtype, lanes)
        for position, f in zip(positions, found, strict=True):
            if f is None:
                self.exposed.add((buffer.name, position, 1, 1))
        sources = list({id(f[0]): f[0] for f in found if f is not None}.values())
        padding = [-1] * (lanes - len(positions))
        if len(sources) == 1:
            source = sources[0]
            if source.lanes == 1 and lanes == 1:
                return source
            if source.lanes > 1:
                return self.shuffle(source, None, [f[1] if f else -1 for f in found] + padding)
        if len(sources) == 2 and sources[0].lanes == sources[1].lanes > 1 and lanes > 1:
            a, b = sources
            picks = [-1 if f is None else f[1] + (0 if f[0] is a else a.lanes) for f in found]
            return self.shuffle(a, b, picks + padding)
        result = self.poison(buffer.dtype, lanes)
        for lane, f in enumerate(found):
            if f is not None:
                result = self.insert(result, self.extract(*f), lane)
        return result

    def write_register(self, buffer: Buffer, cells: Cells, at: Index, value: Value) -> None:
        """Gives elements of a register buffer new values in the lanes that execute."""
        self._check_constant(buffer, at)
        if self.width == 1 or not at.stride:
            if value.lanes > 1 or self.mask is not None:
                self._store_scalar(buffer, at, value)
            self.write_span(cells, at.const, 1, value)
            return
        mask = self.mask
        if mask is not None and mask.const is False:
            return
        value = self.splat(value, self.width)
        if mask is not None:
            value = self.select(mask, value, self.read_register(buffer, cells, at))
        if at.stride == 1:
            self.write_span(cells, at.const, self.active, value)
            return
        for lane in range(self.active):
            self.write_span(cells, at.const + lane * at.stride, 1, self.extract(value, lane))

    def write_span(self, cells: Cells, first: int, count: int, value: Value) -> None:
        """Replaces a run of elements; what it overlaps in part is taken apart."""
        if cells.exact(first, count) is not None:
            cells.spans[first] = (count, value)
            return
        for other in cells.overlapping(first, count):
            size, old = cells.drop(other)
            for lane in range(size):
                element = other + lane
                if not first <= element < first + count:
                    cells.put(element, 1, self.extract(old, lane))
        cells.put(first, count, value)
