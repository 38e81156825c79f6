"""The text form of a program: valid Python that parses back to an equal program.

    N = symbol("N", 1, 64)
    program("scale", arena=N * 64, constants=4)
    spec_input("x", f32[N, 3])
    spec_output("y", f32[N, 3])
    x = input(0, "x", f32[N, 3])
    y = output(0, "y", f32[N, 3])
    scale(y, x, N)

Steps are calls of kernels, ``copy(dst, src)``, ``K = element(tensor, index, ...)``, ``if`` and
``for ... in range(trip)``. The text is read as a syntax tree and never executed. The lines of the
interface come first, so that it can be read by itself: a deep model has thousands of steps, which
take longer to read than everything else that loading does.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, assert_never

from ..dtype import DTYPES, DType, i64
from ..errors import ArtifactError
from ..tensor.ir import (
    BINARY_OPS,
    Binary,
    Cast,
    Const,
    Dim,
    Expr,
    Select,
    Unary,
    Var,
    as_expr,
)
from .program import (
    ArenaStorage,
    CallKernel,
    ConstantStorage,
    CopyTensor,
    IfStep,
    InputStorage,
    LetElement,
    LoopStep,
    OutputStorage,
    Program,
    Step,
    Tensor,
    TensorSpec,
)

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip
_BINARY_NODES: dict[type[ast.AST], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.FloorDiv: "floordiv", ast.Mod: "mod",
    ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge",
}  # fmt: skip
_FUNCTIONS = BINARY_OPS - _INFIX.keys()
_WORDS = frozenset(
    ("program", "symbol", "require", "spec_input", "spec_output", "input", "output", "constant",
     "arena", "copy", "element", "range", "span", "call", "const", "neg", "select", "cast",
     "invert", "abs", *_FUNCTIONS, *DTYPES)
)  # fmt: skip


# ------------------------------------------------------------------ printing


def text(program: Program) -> str:
    """The program as Python text, such that ``parse(text(p)) == p``."""
    return _Printer(program).run()


class _Printer:
    """One printing: the names given so far and the lines written."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.lines: list[str] = []
        self.taken: set[str] = set()
        self.counts: dict[str, int] = {}
        self.variables: dict[Var, str] = {}

    def run(self) -> str:
        p = self.program
        for var in p.symbols:
            self.declare(var)
        for var in p.symbols:
            self.line(0, f"{self.variables[var]} = symbol({var.name!r}, {var.lo}, {var.hi})")
        self.line(
            0,
            f"program({p.name!r}, arena={self.dim(p.arena_bytes)}, constants={p.constants_bytes})",
        )
        for word, specs in (("spec_input", p.inputs), ("spec_output", p.outputs)):
            for s in specs:
                self.line(0, f"{word}({s.name!r}, {self.type(s.dtype, s.shape)})")
        for condition in p.conditions:
            self.line(0, f"require({self.expr(condition)})")
        self.block(p.steps, 0, {})
        return "\n".join(self.lines) + "\n"

    def line(self, depth: int, content: str) -> None:
        self.lines.append("    " * depth + content)

    def fresh(self, wanted: str) -> str:
        stem = wanted
        if not (wanted.isascii() and wanted.isidentifier()):
            stem = re.sub(r"\W", "_", wanted, flags=re.ASCII) or "_"
            if stem[0].isdigit():
                stem = "t" + stem
        # Names are never given back: what was taken for this stem before need not be tried.
        count = self.counts.get(stem, 1)
        name = stem if count == 1 else f"{stem}_{count}"
        while name in self.taken or name in _WORDS or keyword.iskeyword(name):
            count += 1
            name = f"{stem}_{count}"
        self.counts[stem] = count
        self.taken.add(name)
        return name

    def declare(self, var: Var) -> str:
        name = self.variables.get(var)
        if name is None:
            name = self.variables[var] = self.fresh(var.name)
        return name

    def block(self, steps: Sequence[Step], depth: int, outer: dict[str | int, str]) -> None:
        names = dict(outer)
        if not steps and depth:
            self.line(depth, "pass")
        for step in steps:
            self.step(step, depth, names)

    def step(self, step: Step, depth: int, names: dict[str | int, str]) -> None:
        def tensor(t: Tensor) -> str:
            # Most are the object that was met before, which is known without comparing; others
            # are equal if their texts are, which are made sooner than hashes.
            name = names.get(id(t))
            if name is None:
                described = self.tensor(t)
                name = names.get(described)
                if name is None:
                    name = names[described] = self.fresh(t.name)
                    self.line(depth, f"{name} = {described}")
                names[id(t)] = name
            return name

        match step:
            case CallKernel():
                given = [tensor(a) if isinstance(a, Tensor) else self.dim(a) for a in step.args]
                plain = step.kernel.isidentifier() and not keyword.iskeyword(step.kernel)
                if plain and step.kernel not in _WORDS:
                    self.line(depth, f"{step.kernel}({', '.join(given)})")
                else:
                    self.line(depth, f"call({', '.join([repr(step.kernel), *given])})")
            case CopyTensor():
                dst, src = tensor(step.dst), tensor(step.src)
                self.line(depth, f"copy({dst}, {src})")
            case LetElement():
                source = tensor(step.tensor)
                v = step.var
                spelled = f"{v.name!r}, {v.lo}, {v.hi}"
                if step.failure:
                    spelled += f", {step.failure!r}"
                self.line(depth, f"{self.declare(v)} = element({source}, {step.index}, {spelled})")
            case IfStep():
                self.line(depth, f"if {tensor(step.cond)}:")
                self.block(step.then, depth + 1, names)
                if step.orelse:
                    self.line(depth, "else:")
                    self.block(step.orelse, depth + 1, names)
            case LoopStep():
                v, trip = step.var, self.dim(step.trip)
                self.line(
                    depth,
                    f"for {self.declare(v)} in span({trip}, {v.name!r}, {v.lo}, {v.hi}):",
                )
                self.block(step.body, depth + 1, names)
            case _:
                assert_never(step)

    def tensor(self, t: Tensor) -> str:
        rest = f"{t.name!r}, {self.type(t.dtype, t.shape)})"
        match t.storage:
            case InputStorage(index):
                return f"input({index}, {rest}"
            case OutputStorage(index, 0):
                return f"output({index}, {rest}"
            case OutputStorage(index, offset):
                return f"output({index}, {offset}, {rest}"
            case ConstantStorage(offset):
                return f"constant({offset}, {rest}"
            case ArenaStorage(offset):
                return f"arena({self.dim(offset)}, {rest}"
            case _:
                assert_never(t.storage)

    def type(self, dtype: DType, shape: Sequence[Dim]) -> str:
        return f"{dtype.name}[{', '.join(map(self.dim, shape)) or '()'}]"

    def dim(self, d: Dim) -> str:
        if isinstance(d, int):
            return str(d)
        return f"const({d.value})" if isinstance(d, Const) else self.expr(d)

    def expr(self, e: Expr) -> str:
        match e:
            case Const():
                return str(e.value) if e.dtype is i64 else f"const({e.value!r}, {e.dtype})"
            case Var():
                return self.declare(e)
            case Unary():
                prefix = "invert" if e.op == "not" else e.op
                return f"{prefix}({self.expr(e.x)})"
            case Binary() if e.op in _INFIX:
                return f"{self.operand(e.a)} {_INFIX[e.op]} {self.operand(e.b)}"
            case Binary():
                word = e.op if not keyword.iskeyword(e.op) else f"{e.op}_"
                return f"{word}({self.expr(e.a)}, {self.expr(e.b)})"
            case Select():
                return f"select({self.expr(e.cond)}, {self.expr(e.a)}, {self.expr(e.b)})"
            case Cast():
                return f"cast({self.expr(e.x)}, {e.dtype})"
        raise TypeError(f"not a dim: {e!r}")

    def operand(self, e: Expr) -> str:
        infix = isinstance(e, Binary) and e.op in _INFIX
        return f"({self.expr(e)})" if infix else self.expr(e)


# ------------------------------------------------------------------ parsing

_INTERFACE = re.compile(r"[A-Za-z_]\w* = symbol\(|(?:program|spec_input|spec_output|require)\(")


def parse_interface(source: str) -> Program:
    """Reads a text up to its first step: the program that it is of, without steps.

    Raises:
        ArtifactError: what was read is not the interface of a program (TW-E0504).
    """
    end = 0
    while _INTERFACE.match(source, end):
        end = source.find("\n", end) + 1 or len(source)
    return parse(source[:end])


def parse(source: str) -> Program:
    """Reads the text form back.

    Raises:
        ArtifactError: the text is not a program (TW-E0504), with the line.
    """
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ArtifactError(f"program text: not Python: {error}", code="TW-E0504") from error
    return _Parser(source).run(module)


@dataclass
class _Scope:
    """What names mean in one block."""

    variables: dict[str, Var] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def child(self) -> _Scope:
        return _Scope(dict(self.variables), dict(self.tensors))


class _Parser:
    """One reading of a syntax tree; every form it does not know is refused with its line."""

    def __init__(self, source: str) -> None:
        self.source = source.splitlines()
        self.symbols: list[Var] = []
        self.inputs: list[TensorSpec] = []
        self.outputs: list[TensorSpec] = []
        self.conditions: list[Expr] = []

    def run(self, module: ast.Module) -> Program:
        scope = _Scope()
        steps: list[Step] = []
        heads: list[ast.Call] = []
        for node in module.body:
            count = len(steps) + len(scope.tensors)
            match node:
                case ast.Expr(ast.Call(ast.Name("program")) as found):
                    heads.append(found)
                case _ if not self.interface(node, scope):
                    self.step(node, scope, steps)
                    continue
            if count:
                self.fail(node, "the interface comes before all steps")
        if len(heads) != 1:
            raise ArtifactError("program text: expected one program(...) line", code="TW-E0504")
        arguments = heads[0].args
        keywords = {k.arg: k.value for k in heads[0].keywords}
        if len(arguments) != 1 or keywords.keys() != {"arena", "constants"}:
            self.fail(heads[0], "expected program(name, arena=..., constants=...)")
        return Program(
            name=self.string(arguments[0]),
            inputs=tuple(self.inputs),
            outputs=tuple(self.outputs),
            symbols=tuple(self.symbols),
            steps=tuple(steps),
            arena_bytes=self.dim(keywords["arena"], scope),
            constants_bytes=self.integer(keywords["constants"]),
            conditions=tuple(self.conditions),
        )

    def fail(self, node: ast.AST, why: str) -> NoReturn:
        line = getattr(node, "lineno", 1)
        shown = self.source[line - 1].strip()[:100] if line <= len(self.source) else ""
        raise ArtifactError(f"program text, line {line}: {why}: {shown!r}", code="TW-E0504")

    def interface(self, node: ast.stmt, scope: _Scope) -> bool:
        """Reads the line of a symbol, a spec or a condition; False for a step."""
        match node:
            case ast.Assign([ast.Name(name)], ast.Call(ast.Name("symbol"), [label, lo, hi])):
                var = self.variable(label, lo, hi)
                self.symbols.append(var)
                scope.variables[name] = var
            case ast.Expr(ast.Call(ast.Name("spec_input" | "spec_output" as word), [label, kind])):
                dtype, shape = self.type(kind, scope)
                target = self.inputs if word == "spec_input" else self.outputs
                target.append(TensorSpec(self.string(label), dtype, shape))
            case ast.Expr(ast.Call(ast.Name("require"), [condition])):
                self.conditions.append(self.expr(condition, scope))
            case _:
                return False
        return True

    def step(self, node: ast.stmt, scope: _Scope, steps: list[Step]) -> None:
        match node:
            case ast.Pass():
                return
            case ast.Assign([ast.Name(name)], ast.Call(ast.Name("element"), arguments)):
                if len(arguments) not in (5, 6):
                    self.fail(node, "expected element(tensor, index, name, lo, hi[, failure])")
                source, index, name_, low, high, *failure = arguments
                var = self.variable(name_, low, high)
                said = self.string(failure[0]) if failure else ""
                steps.append(LetElement(var, self.tensor(source, scope), self.integer(index), said))
                scope.variables[name] = var
            case ast.Assign([ast.Name(name)], value):
                scope.tensors[name] = self.declaration(value, scope)
            case ast.Expr(ast.Call(ast.Name("copy"), [dst, src])):
                steps.append(CopyTensor(self.tensor(dst, scope), self.tensor(src, scope)))
            case ast.Expr(ast.Call(ast.Name("call"), [kernel, *arguments])):
                steps.append(self.kernel(self.string(kernel), arguments, scope))
            case ast.Expr(ast.Call(ast.Name(kernel), arguments)) if kernel not in _WORDS:
                steps.append(self.kernel(kernel, arguments, scope))
            case ast.If(test, then, orelse):
                cond = self.tensor(test, scope)
                steps.append(IfStep(cond, self.block(then, scope), self.block(orelse, scope)))
            case ast.For(ast.Name(name), ast.Call(ast.Name("span"), [trip, *label]), body):
                if len(label) != 3:
                    self.fail(node, "expected span(trip, name, lo, hi)")
                var = self.variable(*label)
                inner = scope.child()
                inner.variables[name] = var
                steps.append(LoopStep(var, self.dim(trip, scope), self.block(body, inner)))
            case _:
                self.fail(node, "not a step")

    def block(self, nodes: Sequence[ast.stmt], scope: _Scope) -> tuple[Step, ...]:
        inner = scope.child()
        steps: list[Step] = []
        for node in nodes:
            self.step(node, inner, steps)
        return tuple(steps)

    def kernel(self, name: str, arguments: Sequence[ast.expr], scope: _Scope) -> CallKernel:
        given: list[Tensor | Dim] = []
        for a in arguments:
            if isinstance(a, ast.Name) and a.id in scope.tensors:
                given.append(scope.tensors[a.id])
            else:
                given.append(self.dim(a, scope))
        return CallKernel(name, tuple(given))

    def tensor(self, node: ast.expr, scope: _Scope) -> Tensor:
        if isinstance(node, ast.Name) and node.id in scope.tensors:
            return scope.tensors[node.id]
        self.fail(node, "expected a tensor that is declared above")

    def declaration(self, node: ast.expr, scope: _Scope) -> Tensor:
        makers: dict[str, Callable[[ast.expr], Tensor]] = {}
        match node:
            case ast.Call(ast.Name(word), [place, label, kind]):
                dtype, shape = self.type(kind, scope)
                name = self.string(label)
                makers = {
                    "input": lambda p: Tensor(name, dtype, shape, InputStorage(self.integer(p))),
                    "output": lambda p: Tensor(name, dtype, shape, OutputStorage(self.integer(p))),
                    "constant": lambda p: Tensor(
                        name, dtype, shape, ConstantStorage(self.integer(p))
                    ),
                    "arena": lambda p: Tensor(name, dtype, shape, ArenaStorage(self.dim(p, scope))),
                }
                if word in makers:
                    return makers[word](place)
            case ast.Call(ast.Name("output"), [place, start, label, kind]):
                dtype, shape = self.type(kind, scope)
                held = OutputStorage(self.integer(place), self.integer(start))
                return Tensor(self.string(label), dtype, shape, held)
        self.fail(node, "expected input, output, constant or arena (place, name, type)")

    def type(self, node: ast.expr, scope: _Scope) -> tuple[DType, tuple[Dim, ...]]:
        match node:
            case ast.Subscript(ast.Name(word), index) if word in DTYPES:
                parts = index.elts if isinstance(index, ast.Tuple) else [index]
                return DTYPES[word], tuple(self.dim(p, scope) for p in parts)
        self.fail(node, "expected a type such as f32[N, 3]")

    def variable(self, label: ast.expr, lo: ast.expr, hi: ast.expr) -> Var:
        return Var(self.string(label), i64, self.bound(lo), self.bound(hi))

    def bound(self, node: ast.expr) -> int | None:
        if isinstance(node, ast.Constant) and node.value is None:
            return None
        return self.integer(node)

    def string(self, node: ast.expr) -> str:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        self.fail(node, "expected a string")

    def integer(self, node: ast.expr) -> int:
        match node:
            case ast.Constant(int(value)) if not isinstance(value, bool):
                return value
            case ast.UnaryOp(ast.USub(), ast.Constant(int(value))):
                return -value
        self.fail(node, "expected an integer")

    def dim(self, node: ast.expr, scope: _Scope) -> Dim:
        match node:
            case ast.Constant() | ast.UnaryOp():
                return self.integer(node)
        return self.expr(node, scope)

    def expr(self, node: ast.expr, scope: _Scope) -> Expr:
        match node:
            case ast.Constant() | ast.UnaryOp():
                return Const(self.integer(node))
            case ast.Name(name) if name in scope.variables:
                return scope.variables[name]
            case ast.BinOp(a, op, b) if type(op) in _BINARY_NODES:
                return self.binary(_BINARY_NODES[type(op)], node, [a, b], scope)
            case ast.Compare(a, [op], [b]) if type(op) in _BINARY_NODES:
                return self.binary(_BINARY_NODES[type(op)], node, [a, b], scope)
            case ast.Call(ast.Name("const"), [value]):
                return Const(self.integer(value))
            case ast.Call(
                ast.Name("const"), [ast.Constant(bool() | int() | float() as value), ast.Name(word)]
            ) if word in DTYPES:
                return Const(value, DTYPES[word])
            case ast.Call(ast.Name("neg"), [x]):
                return Unary("neg", self.expr(x, scope))
            case ast.Call(ast.Name("abs"), [x]):
                return Unary("abs", self.expr(x, scope))
            case ast.Call(ast.Name("invert"), [x]):
                return Unary("not", self.expr(x, scope))
            case ast.Call(ast.Name("select"), [c, a, b]):
                return Select(self.expr(c, scope), self.expr(a, scope), self.expr(b, scope))
            case ast.Call(ast.Name("cast"), [x, ast.Name(word)]) if word in DTYPES:
                return Cast(self.expr(x, scope), DTYPES[word])
            case ast.Call(ast.Name(word), [a, b]) if word.rstrip("_") in _FUNCTIONS:
                return self.binary(word.rstrip("_"), node, [a, b], scope)
        self.fail(node, "not an expression of dims")

    def binary(self, op: str, node: ast.expr, operands: Sequence[ast.expr], scope: _Scope) -> Expr:
        a, b = (as_expr(self.expr(x, scope)) for x in operands)
        if a.dtype is not b.dtype:
            self.fail(node, f"operands of types {a.dtype} and {b.dtype}")
        return Binary(op, a, b)  # type: ignore[arg-type]
