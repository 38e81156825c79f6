"""A scheduled function as CUDA C++: readable, and by a way that shares nothing with LLVM's.

The text compiles with nvcc or NVRTC as it is, and with a host compiler behind the header of
``host/``. Functions with a library of their own on the device (exp, tanh) are called by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from tilewright import dtype as dt
from tilewright.dtype import DType, Kind
from tilewright.errors import InternalError
from tilewright.tensor.instructions import Operand, find, layouts_of, registers_of, tile_size
from tilewright.tensor.ir import (
    BOUND_KINDS,
    Alloc,
    Barrier,
    Binary,
    Block,
    Buffer,
    Call,
    Cast,
    Commit,
    Const,
    Dim,
    Expr,
    For,
    Func,
    If,
    Let,
    Load,
    LoopKind,
    Prefetch,
    Select,
    Stmt,
    Store,
    Unary,
    Var,
    Wait,
    as_expr,
    le,
)
from tilewright.tensor.simplify import prove, simplify
from tilewright.tensor.walk import statements

from .alignment import NONE_LOOSE, Loose, without_wide_copies
from .fragments import scattered
from .instructions import LANE, rows_of
from .prelude import PRELUDE, WARP
from .threads import BLOCKS, THREADS, Launch, launch_of, private

_TYPES = {
    "f64": "double", "f32": "float", "f16": "tw_f16", "bf16": "tw_bf16", "i64": "long long",
    "i32": "int", "i16": "short", "i8": "signed char", "u64": "unsigned long long",
    "u32": "unsigned int", "u16": "unsigned short", "u8": "unsigned char", "bool_": "bool",
}  # fmt: skip
_INDEX: Mapping[LoopKind, str] = {
    "block.x": "blockIdx.x",
    "block.y": "blockIdx.y",
    "block.z": "blockIdx.z",
    "thread.x": "threadIdx.x",
    "thread.y": "threadIdx.y",
}
_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">",
    "ge": ">=",
}  # fmt: skip
_LIBRARY = {
    "sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "rint",
    "fma": "fma", "mad": "fma", "copysign": "copysign", "exp": "exp", "exp2": "exp2",
    "expm1": "expm1", "log": "log", "log2": "log2", "log1p": "log1p", "sin": "sin", "cos": "cos",
    "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan", "sinh": "sinh", "cosh": "cosh",
    "tanh": "tanh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "erf": "erf",
    "pow": "pow", "fmod": "fmod",
}  # fmt: skip
_KEYWORDS = frozenset({
    "alignas", "auto", "bool", "break", "case", "catch", "char", "class", "const", "continue",
    "default", "delete", "do", "double", "else", "enum", "extern", "false", "float", "for",
    "goto", "if", "inline", "int", "long", "new", "operator", "or", "and", "not", "xor",
    "private", "public", "register", "return", "short", "signed", "sizeof", "static", "struct",
    "switch", "template", "this", "throw", "true", "try", "typedef", "union", "unsigned",
    "using", "virtual", "void", "volatile", "while",
})  # fmt: skip
_UNSAFE = re.compile(r"[^A-Za-z0-9_]")


def emit_source(funcs: Sequence[Func], loose: Loose = NONE_LOOSE) -> str:
    """CUDA C++ of kernels with distinct names, as one file.

    Args:
        loose: the parameters that may begin at any element.
    """
    funcs = [without_wide_copies(f, loose.get(f.name, frozenset())) for f in funcs]
    parts = [PRELUDE, WARP] if any(_uses_warps(f.body) for f in funcs) else [PRELUDE]
    return "\n".join([*parts, *(_Kernel(f).text() for f in funcs)])


def _uses_warps(block: Block) -> bool:
    return any(
        isinstance(s, Commit | Wait) or (isinstance(s, For) and s.kind == "instruction")
        for s in statements(block)
    )


class _Kernel:
    """One kernel being written."""

    def __init__(self, func: Func) -> None:
        self.launch: Launch = launch_of(func)
        self.func = private(func)
        self.layouts = layouts_of(self.func.body)
        self.names: dict[str, str] = {}
        self.ranges: dict[Var, tuple[Dim, Dim]] = {}

    def text(self) -> str:
        """The definition of the kernel."""
        written = {s.buffer for s in statements(self.func.body) if isinstance(s, Store)}
        params = []
        for p in self.func.params:
            name = self.name(p.name)
            if isinstance(p, Buffer):
                const = "" if p in written else "const "
                params.append(f"{const}{_TYPES[p.dtype.name]}* __restrict__ {name}")
            else:
                params.append(f"long long {name}")
        head = f'extern "C" __global__ void __launch_bounds__({self.launch.threads}, 1)'
        lines = [f"{head} {self.func.name}({', '.join(params)}) {{"]
        if self.layouts:
            lines.append(f"  const long long {self.name(LANE.name)} = threadIdx.x;")
        lines += self.block(scattered(self.func).body, "  ")
        return "\n".join([*lines, "}", ""])

    def name(self, given: str) -> str:
        """A name of the tensor IR as a C identifier."""
        found = self.names.get(given)
        if found is None:
            found = _UNSAFE.sub("_", given)
            while found in _KEYWORDS or found in self.names.values():
                found += "_"
            self.names[given] = found
        return found

    # -------------------------------------------------------------- statements

    def block(self, block: Block, indent: str) -> list[str]:
        """The lines of statements."""
        return [line for stmt in block for line in self.statement(stmt, indent)]

    def statement(self, stmt: Stmt, indent: str) -> list[str]:
        """The lines of one statement."""
        match stmt:
            case For() if stmt.kind == "instruction":
                return [f"{indent}{self.instruction(stmt)};"]
            case For():
                return self.loop(stmt, indent)
            case Store():
                place = self.element(stmt.buffer, stmt.indices)
                return [f"{indent}{place} = {self.stored(stmt.buffer.dtype, stmt.value)};"]
            case If():
                lines = [f"{indent}if ({self.expr(stmt.cond)}) {{"]
                lines += self.block(stmt.then, indent + "  ")
                if stmt.orelse:
                    lines += [f"{indent}}} else {{", *self.block(stmt.orelse, indent + "  ")]
                return [*lines, f"{indent}}}"]
            case Alloc():
                return [f"{indent}{self.declaration(stmt.buffer)};"]
            case Let():
                type_ = _value_type(stmt.var.dtype)
                name = self.name(stmt.var.name)
                return [f"{indent}const {type_} {name} = {self.expr(stmt.value)};"]
            case Barrier():
                return [f"{indent}__syncthreads();"]
            case Commit():
                return [f"{indent}tw_commit();"]
            case Wait():
                return [f"{indent}tw_wait<{stmt.pending}>();"]
            case Prefetch():
                return []

    def loop(self, loop: For, indent: str) -> list[str]:
        """A loop; blocks and threads take the iteration that is theirs."""
        name = self.name(loop.var.name)
        deeper = indent + "  "
        last = simplify(as_expr(loop.start) + (as_expr(loop.extent) - 1))
        self.ranges[loop.var] = (loop.start, last)
        start = self.expr(as_expr(loop.start))
        if loop.kind in BOUND_KINDS:
            own = f"const long long {name} = {_INDEX[loop.kind]}"
            own += ";" if start == "0" else f" + {start};"
            if loop.kind in THREADS and loop.extent != self.launch.block[THREADS.index(loop.kind)]:
                guard = f"if (threadIdx.{loop.kind[-1]} < {self.expr(as_expr(loop.extent))}) {{"
                return [indent + guard, deeper + own, *self.block(loop.body, deeper), indent + "}"]
            assert loop.kind in BLOCKS or loop.kind in THREADS
            return [f"{indent}{{", deeper + own, *self.block(loop.body, deeper), indent + "}"]
        end = self.expr(simplify(as_expr(loop.start) + loop.extent))
        head = f"for (long long {name} = {start}; {name} < {end}; ++{name}) {{"
        lines = [f"{indent}#pragma unroll"] if loop.kind in ("unroll", "vector") else []
        return [*lines, indent + head, *self.block(loop.body, deeper), indent + "}"]

    def instruction(self, nest: For) -> str:
        """A nest as a call of the helper that computes it."""
        found = find(nest)
        if found is None:
            raise InternalError(
                f"{self.func.name}: a nest is no instruction in CUDA C++", code="TW-E0953"
            )
        name, operands = found.instruction.name, found.operands
        if name.startswith("mma."):
            args = ", ".join(self.kept(operands[n]) for n in "cab")
            return f"tw_{name.replace('.', '_')}({args})"
        if name.startswith("ldmatrix."):
            rows = rows_of(found, self.layouts[operands["f"].buffer.name])
            how = f"{rows.count}, {'true' if rows.transposed else 'false'}"
            source = self.address(operands["s"], rows.at)
            return f"tw_ldmatrix<{how}>({self.kept(operands['f'])}, {source})"
        inside = found.values.get("inside")
        guard = "true" if inside is None else self.expr(inside)
        near, far = (self.address(operands[n], operands[n].first) for n in "sg")
        return f"tw_copy16({near}, {far}, {guard})"

    def kept(self, operand: Operand) -> str:
        """What this lane keeps of a tile."""
        count = registers_of(self.layouts[operand.buffer.name])
        first = simplify(operand.first // tile_size(operand.buffer) * count)
        return self.address(operand, first)

    def address(self, operand: Operand, at: Expr) -> str:
        """The address of an element by its position."""
        position = self.expr(simplify(at, self.ranges))
        return f"{self.name(operand.buffer.name)} + {position}"

    def declaration(self, b: Buffer) -> str:
        """A temporary of constant size."""
        count = 1
        for d in b.shape:
            if not isinstance(d, int):
                raise InternalError(
                    f"{self.func.name}: {b.name} has no constant size", code="TW-E0951"
                )
            count *= d
        shared = "__shared__ __align__(16) " if b.scope == "shared" else ""
        return f"{shared}{_TYPES[b.dtype.name]} {self.name(b.name)}[{count}]"

    # -------------------------------------------------------------- expressions

    def element(self, b: Buffer, indices: Sequence[Expr]) -> str:
        """An element of a row-major array."""
        flat: Expr = Const(0)
        for i, d in zip(indices, b.shape, strict=True):
            flat = flat * d + i
        return f"{self.name(b.name)}[{self.expr(simplify(flat, self.ranges))}]"

    def stored(self, dtype: DType, e: Expr) -> str:
        """A value as memory holds it."""
        text = self.expr(e)
        return f"tw_to_{dtype.name}({text})" if dtype in (dt.f16, dt.bf16) else text

    def expr(self, e: Expr) -> str:
        """An expression; halves are computed as float and rounded after each operation."""
        match e:
            case Const():
                return _literal(e)
            case Var():
                return self.name(e.name)
            case Load():
                text = self.element(e.buffer, e.indices)
                return f"tw_from_{e.dtype.name}({text})" if e.dtype in (dt.f16, dt.bf16) else text
            case Select():
                return f"({self.expr(e.cond)} ? {self.expr(e.a)} : {self.expr(e.b)})"
            case Cast():
                return self.cast(e)
            case Unary():
                return self.unary(e)
            case Binary():
                return _rounded(e.dtype, self.binary(e))
            case Call():
                return _rounded(e.dtype, self.call(e))
        raise InternalError(f"{self.func.name}: {e!r} in a function", code="TW-E0953")

    def cast(self, e: Cast) -> str:
        """A conversion by value."""
        x = self.expr(e.x)
        if e.dtype is dt.bool_:
            return f"({x} != 0)"
        return _rounded(e.dtype, f"({_value_type(e.dtype)})({x})")

    def unary(self, e: Unary) -> str:
        """neg, abs, not."""
        x = self.expr(e.x)
        match e.op:
            case "neg":
                return f"(-{x})" if e.dtype.is_float else f"tw_neg({x})"
            case "abs":
                return f"tw_abs({x})"
        return f"(!{x})" if e.dtype is dt.bool_ else f"({_value_type(e.dtype)})(~{x})"

    def binary(self, e: Binary) -> str:
        """Two operands; integers wrap, floats follow IEEE, min and max keep nan."""
        a, b = self.expr(e.a), self.expr(e.b)
        kind = e.a.dtype
        match e.op:
            case "and" | "or" if kind is dt.bool_:
                return f"({a} {'&&' if e.op == 'and' else '||'} {b})"
            case "and" | "or" | "xor":
                sign = {"and": "&", "or": "|", "xor": "^"}[e.op]
                return f"({_value_type(e.dtype)})({a} {sign} {b})"
            case "floordiv" | "mod" if kind is dt.i64 and self.positive(e):
                return f"({a} {'/' if e.op == 'floordiv' else '%'} {b})"
            case "div" if kind.is_float:
                return f"({a} / {b})"
            case "add" | "sub" | "mul" if kind.bits < 32 and not kind.is_float:
                return f"({_value_type(e.dtype)})({a} {_INFIX[e.op]} {b})"
            case _ if e.op in _INFIX:
                return f"({a} {_INFIX[e.op]} {b})"
        return f"tw_{e.op}<{_value_type(kind)}>({a}, {b})"

    def positive(self, e: Binary) -> bool:
        """Whether a quotient of indices is the same rounded down as towards zero."""
        divisor = isinstance(e.b, Const) and e.b.value > 0
        return divisor and prove(le(0, e.a), self.ranges) is True

    def call(self, e: Call) -> str:
        """A function by its name in the library."""
        args = ", ".join(self.expr(a) for a in e.args)
        kind = e.args[0].dtype
        if e.name == "shuffle_xor":
            return f"__shfl_xor_sync(0xffffffffu, {args})"
        if e.name == "shuffle_lane":
            return f"__shfl_sync(0xffffffffu, {args})"
        if e.name == "bitcast":
            return f"tw_bitcast<{_value_type(e.dtype)}>({args})"
        if not kind.is_float:
            return f"tw_{e.name}<{_value_type(kind)}>({args})"
        suffix = "" if kind is dt.f64 else "f"
        name = _LIBRARY.get(e.name)
        return f"{name}{suffix}({args})" if name else f"tw_{e.name}({args})"


def _value_type(dtype: DType) -> str:
    return "float" if dtype in (dt.f16, dt.bf16) else _TYPES[dtype.name]


def _rounded(dtype: DType, text: str) -> str:
    return f"tw_round_{dtype.name}({text})" if dtype in (dt.f16, dt.bf16) else text


def _literal(e: Const) -> str:
    if e.dtype is dt.bool_:
        return "true" if e.value else "false"
    if e.dtype.kind is Kind.FLOAT:
        value = float(e.value)
        if math.isnan(value):
            return "tw_nan()"
        if math.isinf(value):
            return "tw_inf()" if value > 0 else "(-tw_inf())"
        text = value.hex() if e.dtype is dt.f64 or value != round(value, 3) else repr(value)
        text = text if e.dtype is dt.f64 else f"{text}f"
        return f"({text})" if value < 0 or math.copysign(1, value) < 0 else text
    value = int(e.value)
    if value == -(1 << 63):
        return "(-9223372036854775807LL - 1)"
    suffix = {"i64": "LL" if abs(value) >> 31 else "", "u64": "ULL", "u32": "U"}.get(
        e.dtype.name, ""
    )
    return f"({value}{suffix})" if value < 0 else f"{value}{suffix}"
