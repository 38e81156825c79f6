"""Arithmetic on SSA values of every element type, by the laws of the tensor IR."""

from __future__ import annotations

import math

from tilewright import dtype as dt
from tilewright.dtype import DType, Kind
from tilewright.errors import InternalError
from tilewright.tensor.ir import COMPARISONS

from .address import Addresser
from .builder import Value
from .machine import Machine
from .types import is_half, memory_type, overload, register_type, vector

_FLOAT_OPS = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_FLOAT_COMPARE = {
    "eq": "oeq",
    "ne": "une",
    "lt": "olt",
    "le": "ole",
    "gt": "ogt",
    "ge": "oge",
}
_NATIVE_CALLS = {
    "sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "roundeven",
    "copysign": "copysign",
}  # fmt: skip


class Arithmetic(Addresser):
    """Operations on values; lanes are made equal by splats."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine = machine
        self._fma_heads: dict[str, str] = {}

    # -------------------------------------------------------------- pieces

    def _apply(self, text: str, like: Value, *operands: Value) -> Value:
        level = max([o.level for o in operands])
        return self.pure(text, like.type, like.dtype, like.lanes, level)

    def op(self, opcode: str, a: Value, b: Value) -> Value:
        """One two-operand instruction on values of one type."""
        if a.lanes != b.lanes:
            lanes = max(a.lanes, b.lanes)
            a, b = self.splat(a, lanes), self.splat(b, lanes)
        level = max(a.level, b.level)
        text = f"{opcode} {a.type} {a.text}, {b.text}"
        return self.pure(text, a.type, a.dtype, a.lanes, level)

    def like(self, value: float | bool, v: Value) -> Value:
        """A constant of the type and lanes of ``v``."""
        return self.constant(value, v.dtype, v.lanes)

    def change(self, opcode: str, v: Value, dtype: DType, scalar: str | None = None) -> Value:
        """A conversion instruction to an element type (or another spelling of it)."""
        type_ = vector(scalar or register_type(dtype), v.lanes)
        text = f"{opcode} {v.type} {v.text} to {type_}"
        return self.pure(text, type_, dtype, v.lanes, v.level)

    def _test(self, predicate: str, a: Value, b: Value) -> Value:
        """A comparison instruction (``icmp slt`` and so on)."""
        lanes = max(a.lanes, b.lanes)
        a, b = self.splat(a, lanes), self.splat(b, lanes)
        text = f"{predicate} {a.type} {a.text}, {b.text}"
        return self.pure(text, vector("i1", lanes), dt.bool_, lanes, max(a.level, b.level))

    def select(self, cond: Value, a: Value, b: Value) -> Value:
        """``a`` in the lanes where ``cond`` holds, else ``b``."""
        if cond.const is not None:
            return a if cond.const else b
        if a.text == b.text:
            return a
        lanes = max(cond.lanes, a.lanes, b.lanes)
        # A scalar condition is spread too: a select of vectors by one bit would become a branch.
        cond, a, b = self.splat(cond, lanes), self.splat(a, lanes), self.splat(b, lanes)
        if a.dtype is dt.bool_ and b.const is False:
            return self.op("and", cond, a)
        text = f"select {cond.type} {cond.text}, {a.type} {a.text}, {b.type} {b.text}"
        return self._apply(text, a, cond, a, b)

    # -------------------------------------------------------------- operators

    def unary(self, op: str, x: Value) -> Value:
        """neg, not or abs."""
        dtype = x.dtype
        if op == "not":
            return self.invert(x) if dtype is dt.bool_ else self.op("xor", x, self.like(-1, x))
        if is_half(dtype):
            bit = Value("", x.type, dt.u16, x.lanes, 0)
            if op == "neg":
                return self.op("xor", x, self.like(0x8000, bit))
            return self.op("and", x, self.like(0x7FFF, bit))
        if dtype.is_float:
            if op == "abs":
                return self.intrinsic("fabs", x, x)
            return self._apply(f"fneg {x.type} {x.text}", x, x)
        if op == "neg":
            return self.op("sub", self.like(0, x), x)
        return self.intrinsic("abs", x, x, self.constant(False, dt.bool_)) if dtype.is_signed else x

    def binary(self, op: str, a: Value, b: Value) -> Value:
        """An operator of the tensor IR on two values of one element type."""
        dtype = a.dtype
        if dtype is dt.bool_:
            return self._binary_bool(op, a, b)
        if not dtype.is_float:
            return self._binary_int(op, a, b)
        if is_half(dtype):
            wide = self.binary(op, self.widen(a), self.widen(b))
            return wide if op in COMPARISONS else self.narrow(wide, dtype)
        if op in _FLOAT_OPS:
            return self.op(_FLOAT_OPS[op], a, b)
        if op in COMPARISONS:
            return self._test(f"fcmp {_FLOAT_COMPARE[op]}", a, b)
        if op in ("min", "max"):
            return self._float_extreme(op, a, b)
        raise InternalError(f"{op}: not an operation on {dtype}", code="TW-E0940")

    def _binary_bool(self, op: str, a: Value, b: Value) -> Value:
        match op:
            case "and" | "mul" | "min":
                both = self.both(a, b)
                return self.constant(True, dt.bool_) if both is None else both
            case "or" | "add" | "max":
                if a.const is True or b.const is False:
                    return a
                return b if b.const is True or a.const is False else self.op("or", a, b)
            case "xor" | "ne":
                return self.op("xor", a, b)
            case "eq":
                return self.invert(self.op("xor", a, b))
            case "lt" | "le" | "gt" | "ge":
                return self._test(f"icmp u{op}", a, b)
            case _:
                raise InternalError(f"{op}: not an operation on bool", code="TW-E0940")

    def _binary_int(self, op: str, a: Value, b: Value) -> Value:
        signed = a.dtype.is_signed
        match op:
            case "add" | "sub" | "mul" | "and" | "or" | "xor":
                return self.op(op, a, b)
            case "min" | "max":
                lanes = max(a.lanes, b.lanes)
                a, b = self.splat(a, lanes), self.splat(b, lanes)
                return self.intrinsic(("s" if signed else "u") + op, a, a, b)
            case "shl" | "shr":
                return self._shift(op, a, b)
            case "div" | "floordiv" | "mod":
                return self._divide_int(op, a, b)
            case "eq" | "ne":
                return self._test(f"icmp {op}", a, b)
            case "lt" | "le" | "gt" | "ge":
                return self._test(f"icmp {'s' if signed else 'u'}{op}", a, b)
            case _:
                raise InternalError(f"{op}: not an operation on {a.dtype}", code="TW-E0940")

    def _shift(self, op: str, a: Value, b: Value) -> Value:
        """A shift; by the width or more it gives 0, or the sign where that is shifted in."""
        bits = a.dtype.bits
        arithmetic = op == "shr" and a.dtype.is_signed
        opcode = "shl" if op == "shl" else "ashr" if arithmetic else "lshr"
        if b.const is not None and 0 <= b.const < bits:
            return self.op(opcode, a, b)
        inside = self._test("icmp ult", b, self.like(bits, b))
        last = self.like(bits - 1, b)
        if arithmetic:
            return self.op(opcode, a, self.select(inside, b, last))
        # Not a select here too: LLVM 22 makes one NVPTX shift of both, which reads 32 bits of b.
        shifted = self.op(opcode, a, self.op("and", b, last))
        return self.select(inside, shifted, self.like(0, shifted))

    def _divide_int(self, op: str, a: Value, b: Value) -> Value:
        """Integer division; by zero gives 0, since the machine's instruction would end the process.

        The lowest value divided by -1 wraps to itself for the same reason.
        """
        lanes = max(a.lanes, b.lanes)
        a, b = self.splat(a, lanes), self.splat(b, lanes)
        signed = a.dtype.is_signed
        zero, one = self.like(0, b), self.like(1, b)
        nonzero: Value | None = None
        minus: Value | None = None
        divisor = b
        positive = (b.lo is not None and b.lo > 0) or (b.const is not None and b.const > 0)
        if not positive and not (b.const is not None and b.const < -1):
            nonzero = self._test("icmp ne", b, zero)
            divisor = self.select(nonzero, divisor, one)
            if signed:
                minus = self._test("icmp eq", b, self.like(-1, b))
                divisor = self.select(minus, one, divisor)
        known = signed and positive and a.lo is not None and a.lo >= 0
        quotient = self.op("sdiv" if signed and not known else "udiv", a, divisor)
        if minus is not None:
            quotient = self.select(minus, self.op("sub", zero, a), quotient)
        if op == "div" or (op == "floordiv" and (not signed or known)):
            return quotient if nonzero is None else self.select(nonzero, quotient, zero)
        rest = self.op("sub", a, self.op("mul", quotient, b))
        if signed and not known:
            # Truncation rounded up where the rest has the other sign than the divisor.
            crossed = self._test("icmp slt", self.op("xor", rest, b), zero)
            crossed = self.op("and", crossed, self._test("icmp ne", rest, zero))
            if op == "mod":
                rest = self.op("add", rest, self.select(crossed, b, zero))
            else:
                quotient = self.op("sub", quotient, self.select(crossed, one, zero))
        result = rest if op == "mod" else quotient
        return result if nonzero is None else self.select(nonzero, result, zero)

    def _float_extreme(self, op: str, a: Value, b: Value) -> Value:
        """min or max, nan if either operand is.

        The machine's instruction returns its second operand when unordered. With a constant that
        is enough (the constant goes first); else nan in the other operand is put back. Of two
        zeros, which are equal, either may be the result.
        """
        lanes = max(a.lanes, b.lanes)
        if a.const is not None and b.const is None:
            a, b = b, a
        a, b = self.splat(a, lanes), self.splat(b, lanes)
        relation = "gt" if op == "max" else "lt"
        if b.const is not None:
            if math.isnan(b.const):
                return b
            # In this order LLVM sees that instruction for a zero, too, whose sign may differ.
            return self.select(self._test(f"fcmp o{relation}", b, a), b, a)
        picked = self.select(self._test(f"fcmp o{relation}", a, b), a, b)
        return self.select(self._test("fcmp uno", a, a), a, picked)

    # -------------------------------------------------------------- calls

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once where the machine has the instruction."""
        lanes = max(a.lanes, b.lanes, c.lanes)
        a, b, c = self.splat(a, lanes), self.splat(b, lanes), self.splat(c, lanes)
        if is_half(a.dtype):
            return self.narrow(self.fma(self.widen(a), self.widen(b), self.widen(c)), a.dtype)
        if not self.machine.fma:
            return self.op("fadd", self.op("fmul", a, b), c)
        type_ = c.type
        head = self._fma_heads.get(type_)
        if head is None:
            suffix = overload(register_type(c.dtype), c.lanes)
            head = self._fma_heads[type_] = f"call {type_} @llvm.fma.{suffix}({type_} "
        text = f"{head}{a.text}, {type_} {b.text}, {type_} {c.text})"
        return self.pure(text, type_, c.dtype, lanes, max(a.level, b.level, c.level))

    def call(self, name: str, args: list[Value], dtype: DType) -> Value:
        """A native function of the intrinsic table."""
        if name == "bitcast":
            return self._bitcast(args[0], dtype)
        if name == "fma":
            return self._exact_fma(*args)
        if name == "mad":
            return self.fma(*args)
        native = _NATIVE_CALLS.get(name)
        if native is None:
            raise InternalError(f"{name}: no expansion for the cpu backend", code="TW-E0941")
        lanes = max([a.lanes for a in args])
        wide = [self.splat(a, lanes) for a in args]
        if not is_half(dtype):
            return self.intrinsic(native, wide[0], *wide)
        wide = [self.widen(a) for a in wide]
        return self.narrow(self.intrinsic(native, wide[0], *wide), dtype)

    def _exact_fma(self, a: Value, b: Value, c: Value) -> Value:
        """The function ``fma``, rounded once also where there is no instruction for it."""
        if self.machine.fma or is_half(a.dtype):
            return self.fma(a, b, c)
        lanes = max(a.lanes, b.lanes, c.lanes)
        a, b, c = self.splat(a, lanes), self.splat(b, lanes), self.splat(c, lanes)
        if a.dtype is dt.f32:
            # The product is exact in f64; the sum is rounded to odd, then to f32.
            x, y, z = (self.change("fpext", v, dt.f64) for v in (a, b, c))
            return self.change("fptrunc", self._odd_sum(self.op("fmul", x, y), z), dt.f32)
        product, low = self._two_product(a, b)
        partial, lowest = self._two_sum(c, low)
        high, middle = self._two_sum(product, partial)
        fused = self.op("fadd", self._odd_sum(lowest, middle), high)
        plain = self.op("fadd", product, c)
        # Infinities and what overflows in the splitting keep the plain result.
        difference = self.op("fsub", self.op("fadd", fused, low), self.op("fadd", fused, low))
        return self.select(self._test("fcmp ord", difference, difference), fused, plain)

    def _two_sum(self, a: Value, b: Value) -> tuple[Value, Value]:
        """The rounded sum and its error (Knuth 1969)."""
        s = self.op("fadd", a, b)
        t = self.op("fsub", s, a)
        rest = self.op("fsub", a, self.op("fsub", s, t))
        return s, self.op("fadd", rest, self.op("fsub", b, t))

    def _two_product(self, a: Value, b: Value) -> tuple[Value, Value]:
        """The rounded product of f64 and its error (Dekker 1971)."""
        p = self.op("fmul", a, b)
        ah, al = self._halves(a)
        bh, bl = self._halves(b)
        error = self.op("fsub", self.op("fmul", ah, bh), p)
        error = self.op("fadd", error, self.op("fmul", ah, bl))
        error = self.op("fadd", error, self.op("fmul", al, bh))
        return p, self.op("fadd", error, self.op("fmul", al, bl))

    def _halves(self, a: Value) -> tuple[Value, Value]:
        t = self.op("fmul", a, self.like(134217729.0, a))
        high = self.op("fsub", t, self.op("fsub", t, a))
        return high, self.op("fsub", a, high)

    def _odd_sum(self, a: Value, b: Value) -> Value:
        """a + b in f64 rounded to odd: an inexact sum has its last bit set."""
        s, error = self._two_sum(a, b)
        bits = self._bitcast(s, dt.i64)
        zero = self.like(0.0, s)
        even = self._test("icmp eq", self.op("and", bits, self.like(1, bits)), self.like(0, bits))
        inexact = self.op("and", even, self._test("fcmp one", error, zero))
        # Towards the true value: one step up in magnitude when the error has the sign of the sum.
        signs = self.op("xor", bits, self._bitcast(error, dt.i64))
        same = self._test("icmp sge", signs, self.like(0, bits))
        step = self.select(same, self.like(1, bits), self.like(-1, bits))
        moved = self.op("add", bits, self.select(inexact, step, self.like(0, bits)))
        return self._bitcast(moved, dt.f64)

    def _bitcast(self, x: Value, dtype: DType) -> Value:
        if register_type(x.dtype) == register_type(dtype):
            return Value(x.text, x.type, dtype, x.lanes, x.level)
        return self.change("bitcast", x, dtype)

    # -------------------------------------------------------------- conversions

    def convert(self, x: Value, dtype: DType) -> Value:
        """A conversion by value: float to int truncates, int to int wraps, to bool is != 0."""
        source = x.dtype
        if source is dtype:
            return x
        if dtype is dt.bool_:
            return self.binary("ne", x, self.like(0, x))
        if is_half(source):
            return self.convert(self.widen(x), dtype)
        if source.is_float:
            return self._from_float(x, dtype)
        if source is dt.bool_ and not dtype.is_float:
            return self.change("zext", x, dtype)
        if not dtype.is_float:
            return self._int_to_int(x, dtype)
        target = dt.f32 if is_half(dtype) else dtype
        signed = source.kind is Kind.INT
        opcode = "sitofp" if signed else "uitofp"
        if source.bits < 32 or source is dt.bool_:
            # Vectors convert from 32 bits; a widened unsigned value is a non-negative signed one.
            x = self.change("sext" if signed else "zext", x, dt.i32)
            opcode = "sitofp"
        converted = self.change(opcode, x, target)
        return self.narrow(converted, dtype) if is_half(dtype) else converted

    def _int_to_int(self, x: Value, dtype: DType) -> Value:
        if x.dtype.bits == dtype.bits:
            return Value(x.text, x.type, dtype, x.lanes, x.level, x.const)
        if dtype.bits < x.dtype.bits:
            result = self.change("trunc", x, dtype)
        else:
            result = self.change("sext" if x.dtype.is_signed else "zext", x, dtype)
        return result

    def _from_float(self, x: Value, dtype: DType) -> Value:
        if is_half(dtype):
            return self.narrow(x, dtype)
        if dtype.is_float:
            return self.change("fpext" if dtype.bits > x.dtype.bits else "fptrunc", x, dtype)
        if dtype is dt.u64:
            return self.change("fptoui", x, dtype)
        # Narrow integers go through a wider signed one and wrap, as the machine does.
        middle = dt.i32 if dtype.bits < 32 or dtype is dt.i32 else dt.i64
        return self.convert(self.change("fptosi", x, middle), dtype)

    def widen(self, x: Value) -> Value:
        """The f32 value of an f16 or bf16, exactly."""
        if x.dtype is dt.bf16:
            bits = self.change("zext", x, dt.u32)
            return self._bitcast(self.op("shl", bits, self.like(16, bits)), dt.f32)
        if self.machine.half:
            half = self.change("bitcast", x, dt.f16, "half")
            return self.change("fpext", half, dt.f32)
        bits = self.change("zext", x, dt.u32)
        sign = self.op("shl", self.op("and", bits, self.like(0x8000, bits)), self.like(16, bits))
        size = self.op("shl", self.op("and", bits, self.like(0x7FFF, bits)), self.like(13, bits))
        # Multiplying by 2**112 moves the exponent and makes subnormals right.
        scaled = self._bitcast(size, dt.f32)
        scaled = self.op("fmul", scaled, self.like(2.0**112, scaled))
        special = self._test("icmp uge", size, self.like(0x7C00 << 13, size))
        moved = self._bitcast(scaled, dt.u32)
        moved = self.op(
            "or",
            moved,
            self.select(special, self.like(0x7F800000, size), self.like(0, size)),
        )
        return self._bitcast(self.op("or", moved, sign), dt.f32)

    def narrow(self, x: Value, dtype: DType) -> Value:
        """The nearest f16 or bf16, ties to even; from f64 with one rounding."""
        if x.dtype is dt.f64:
            x = self._to_odd(x)
        if dtype is dt.bf16:
            return self._narrow_bf16(x)
        if self.machine.half:
            half = self.change("fptrunc", x, dtype, "half")
            return self.change("bitcast", half, dtype)
        return self._narrow_f16(x)

    def _to_odd(self, x: Value) -> Value:
        """f64 to f32 rounded to odd, so that a further rounding is that of the exact value."""
        nearest = self.change("fptrunc", x, dt.f32)
        back = self.change("fpext", nearest, dt.f64)
        bits = self._bitcast(nearest, dt.u32)
        one, zero = self.like(1, bits), self.like(0, bits)
        above = self._test("fcmp ogt", self.unary("abs", back), self.unary("abs", x))
        inexact = self._test("fcmp one", back, x)
        down = self.op("sub", bits, self.select(above, one, zero))
        return self._bitcast(self.op("or", down, self.select(inexact, one, zero)), dt.f32)

    def _narrow_bf16(self, x: Value) -> Value:
        bits = self._bitcast(x, dt.u32)
        sixteen, one = self.like(16, bits), self.like(1, bits)
        upper = self.op("lshr", bits, sixteen)
        rounding = self.op("add", self.op("and", upper, one), self.like(0x7FFF, bits))
        rounded = self.op("lshr", self.op("add", bits, rounding), sixteen)
        nan = self.op("or", upper, self.like(0x40, bits))
        chosen = self.select(self._test("fcmp uno", x, x), nan, rounded)
        return self.change("trunc", chosen, dt.bf16, memory_type(dt.bf16))

    def _narrow_f16(self, x: Value) -> Value:
        """f32 to f16 in integer arithmetic, for machines without the conversion."""
        bits = self._bitcast(x, dt.u32)

        def n(value: int) -> Value:
            return self.like(value, bits)

        sign = self.op("lshr", self.op("and", bits, n(0x80000000)), n(16))
        size = self.op("and", bits, n(0x7FFFFFFF))
        # Subnormal results: adding 0.5 aligns the bits so that the addition itself rounds.
        half = self.constant(0.5, dt.f32, x.lanes)
        aligned = self.op("fadd", self._bitcast(size, dt.f32), half)
        small = self.op("sub", self._bitcast(aligned, dt.u32), n(0x3F000000))
        odd = self.op("and", self.op("lshr", size, n(13)), n(1))
        moved = self.op("add", self.op("add", size, n(0xC8000FFF)), odd)
        normal = self.op("lshr", moved, n(13))
        nan = self._test("icmp ugt", size, n(0x7F800000))
        special = self.select(nan, n(0x7E00), n(0x7C00))
        result = self.select(self._test("icmp ult", size, n(0x38800000)), small, normal)
        result = self.select(self._test("icmp uge", size, n(0x47800000)), special, result)
        return self.change("trunc", self.op("or", result, sign), dt.f16, memory_type(dt.f16))
