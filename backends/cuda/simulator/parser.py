"""PTX text to data.

A statement ends with a semicolon, a label with a colon; braces open and close scopes in which
registers and labels are declared. Whatever is not understood is refused with its line.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field, replace
from typing import cast

from .faults import PtxError
from .ptx import (
    Address,
    Function,
    Guard,
    Immediate,
    Instruction,
    Label,
    Module,
    Negated,
    Operand,
    Pair,
    Parameter,
    Register,
    Sink,
    Space,
    Special,
    Symbol,
    Variable,
    Vector,
)
from .scalars import SCALARS, Scalar

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_NAME = r"[A-Za-z_$%][\w$]*"
_SPACE = re.compile(r"\s*")
_LABEL = re.compile(rf"({_NAME})\s*:(?!:)")
_STATEMENT = re.compile(r"[^;]*;")
_GUARD = re.compile(rf"@(!?)\s*({_NAME})\s*")
_OPCODE = re.compile(r"[a-z][\w.:]*")
_REGISTERS = re.compile(rf"({_NAME})(?:<(\d+)>)?$")
_VARIABLE = re.compile(
    rf"\.(?P<type>[a-z]\w*)\s+(?P<name>{_NAME})\s*(?P<dims>(?:\[\s*\d*\s*\]\s*)*)"
    r"(?:=\s*(?P<value>.*))?$",
    re.DOTALL,
)
_HEAD = re.compile(
    r"(?P<links>(?:\.(?:visible|extern|weak|common)\s+)*)"
    rf"\.(?P<kind>entry|func)\b\s*(?:\((?P<results>[^)]*)\)\s*)?(?P<name>{_NAME})\s*"
    r"(?:\((?P<parameters>[^)]*)\))?\s*(?P<directives>[^{;]*)(?P<end>[{;])",
    re.DOTALL,
)
_LIMIT = re.compile(r"\.(?:maxntid|reqntid)\s+(\d+(?:\s*,\s*\d+)*)")
_INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)[uU]?$")
_DECIMAL = re.compile(r"-?\d+\.\d*(?:[eE][-+]?\d+)?$|-?\d+[eE][-+]?\d+$")
# Places in the source end with their line, hints with a semicolon.
_IGNORED = re.compile(r"\.(?:file|loc)\b[^\n]*|\.pragma\b[^;]*;|\.section\b[^{]*\{[^}]*\}")
_SPECIALS = frozenset(
    [f"{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"]
    + ["laneid", "warpid", "nwarpid", "smid", "nsmid", "gridid", "clock", "clock64", "clock_hi"]
    + ["globaltimer", "dynamic_smem_size", "total_smem_size"]
    + [f"lanemask_{which}" for which in ("eq", "lt", "le", "gt", "ge")]
)  # fmt: skip


def parse(text: str) -> Module:
    """Reads a PTX module.

    Raises:
        PtxError: a directive, declaration or operand that is not understood (TW-E1011).
    """
    return _ModuleParser(_without_comments(text)).module()


def _without_comments(text: str) -> str:
    return _COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


class _Text:
    """The text with a position, and the line of any position."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._counted = 0
        self._line = 1

    def line(self, at: int | None = None) -> int:
        """The line of a position; positions are asked for in rising order mostly."""
        at = self.at if at is None else at
        if at < self._counted:
            return self.text.count("\n", 0, at) + 1
        self._line += self.text.count("\n", self._counted, at)
        self._counted = at
        return self._line

    def skip(self) -> bool:
        """Goes to the next thing that is no white space; whether there is one."""
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()
        return self.at < len(self.text)

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.at)
        if found is not None:
            self.at = found.end()
        return found

    def fail(self, message: str) -> PtxError:
        return PtxError(message, code="TW-E1011", line=self.line())


class _ModuleParser:
    def __init__(self, text: str) -> None:
        self.text = _Text(text)
        self.version = (0, 0)
        self.target = ""
        self.functions: dict[str, Function] = {}
        self.variables: dict[str, Variable] = {}

    def module(self) -> Module:
        while self.text.skip():
            self.directive()
        if not self.target:
            raise self.text.fail("the module has no .target")
        return Module(self.version, self.target, self.functions, self.variables)

    def directive(self) -> None:
        text = self.text
        if found := text.take(re.compile(r"\.version\s+(\d+)\.(\d+)")):
            self.version = (int(found[1]), int(found[2]))
        elif found := text.take(re.compile(r"\.target\s+(\w+)[^\n]*")):
            self.target = found[1]
        elif found := text.take(re.compile(r"\.address_size\s+(\d+)")):
            if found[1] != "64":
                raise text.fail("only 64-bit addresses are modelled")
        elif text.take(re.compile(r"\.(?:file|loc|pragma)\b[^\n]*")) or text.take(
            re.compile(r"\.section\b[^{]*\{[^}]*\}")
        ):
            pass
        elif found := text.take(_HEAD):
            self.function(found)
        elif found := text.take(_STATEMENT):
            variable = read_variable(found[0][:-1], text.line(found.start()))
            # A declaration without a value does not hide the definition.
            self.variables.setdefault(variable.name, variable)
        else:
            raise text.fail("the module ends inside a directive")

    def function(self, head: re.Match[str]) -> None:
        line = self.text.line(head.start())
        if head["end"] == ";":
            return
        function = _FunctionParser(self.text, head, line).function()
        self.functions[function.name] = function


@dataclass(slots=True)
class _Scope:
    """What one pair of braces declares."""

    outer: _Scope | None
    registers: dict[str, Register] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)

    def register(self, name: str) -> Register | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.registers:
                return scope.registers[name]
            scope = scope.outer
        return None

    def label(self, name: str) -> int | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.labels:
                return scope.labels[name]
            scope = scope.outer
        return None


class _FunctionParser:
    """The body of a function; labels are resolved when all of it is read."""

    def __init__(self, text: _Text, head: re.Match[str], line: int) -> None:
        self.text = text
        self.head = head
        self.line = line
        self.registers: list[Scalar] = []
        self.variables: dict[str, Variable] = {}
        self.lists: dict[str, tuple[_Scope, tuple[str, ...]]] = {}
        self.found: list[tuple[Instruction, _Scope]] = []

    def function(self) -> Function:
        head = self.head
        parameters = read_parameters(head["parameters"] or "", self.line)
        results = read_parameters(head["results"] or "", self.line)
        limit = None
        if found := _LIMIT.search(head["directives"]):
            limit = 1
            for part in found[1].split(","):
                limit *= int(part)
        self.body()
        lists = {
            name: tuple(self.resolve(label, scope, self.line) for label in labels)
            for name, (scope, labels) in self.lists.items()
        }
        return Function(
            name=head["name"],
            entry=head["kind"] == "entry",
            parameters=parameters,
            results=results,
            registers=tuple(self.registers),
            variables=self.variables,
            instructions=tuple(self.with_labels(i, scope) for i, scope in self.found),
            lists=lists,
            line=self.line,
            block_limit=limit,
        )

    def body(self) -> None:
        text = self.text
        scope: _Scope | None = _Scope(None)
        while scope is not None:
            if not text.skip():
                raise text.fail(f"the body of {self.head['name']!r} does not end")
            sign = text.text[text.at]
            if sign == "{":
                text.at += 1
                scope = _Scope(scope)
            elif sign == "}":
                text.at += 1
                scope = scope.outer
            elif text.take(_IGNORED):
                pass
            elif found := text.take(_LABEL):
                self.label(found[1], scope)
            elif found := text.take(_STATEMENT):
                self.statement(found[0][:-1].strip(), scope, text.line(found.start()))
            else:
                raise text.fail("a statement without a semicolon")

    def label(self, name: str, scope: _Scope) -> None:
        targets = self.text.take(re.compile(r"\s*\.branchtargets\s+([^;]*);"))
        if targets is not None:
            self.lists[name] = (scope, tuple(t.strip() for t in targets[1].split(",")))
            return
        if self.text.take(re.compile(r"\s*\.callprototype\b[^;]*;")):
            return
        scope.labels[name] = len(self.found)

    def statement(self, text: str, scope: _Scope, line: int) -> None:
        if not text.startswith("."):
            self.found.append((self.instruction(text, scope, line), scope))
        elif text.startswith(".reg"):
            self.declare(text, scope, line)
        else:
            variable = read_variable(text, line)
            self.variables[variable.name] = variable

    def declare(self, text: str, scope: _Scope, line: int) -> None:
        head = re.match(r"\.reg\s+\.(\w+)\s+", text)
        if head is None or head[1] not in SCALARS:
            raise PtxError(f"registers of {text!r} are not modelled", code="TW-E1011", line=line)
        scalar = SCALARS[head[1]]
        for part in text[head.end() :].split(","):
            found = _REGISTERS.match(part.strip())
            if found is None:
                raise PtxError(f"{part!r} declares no register", code="TW-E1011", line=line)
            names = (
                [found[1]] if found[2] is None else [f"{found[1]}{i}" for i in range(int(found[2]))]
            )
            for name in names:
                scope.registers[name] = Register(name, len(self.registers), scalar)
                self.registers.append(scalar)

    def instruction(self, text: str, scope: _Scope, line: int) -> Instruction:
        guard = None
        rest = text
        if found := _GUARD.match(rest):
            register = scope.register(found[2])
            if register is None:
                raise PtxError(f"{found[2]} is not declared", code="TW-E1011", line=line)
            guard = Guard(register, found[1] == "!")
            rest = rest[found.end() :]
        opcode = _OPCODE.match(rest)
        if opcode is None:
            raise PtxError(f"{text!r} is no instruction", code="TW-E1011", line=line)
        name, *modifiers = opcode[0].split(".")
        reader = _Operands(scope, line)
        operands = tuple(reader.operand(part) for part in split(rest[opcode.end() :]))
        return Instruction(name, tuple(modifiers), operands, guard, line, " ".join(text.split()))

    def with_labels(self, instruction: Instruction, scope: _Scope) -> Instruction:
        if instruction.opcode not in ("bra", "brx"):
            return instruction
        operands = tuple(
            self.resolve(o.name, scope, instruction.line)
            if isinstance(o, Symbol) and o.name not in self.lists
            else o
            for o in instruction.operands
        )
        return replace(instruction, operands=operands)

    def resolve(self, name: str, scope: _Scope, line: int) -> Label:
        target = scope.label(name)
        if target is None:
            raise PtxError(f"there is no label {name}", code="TW-E1011", line=line)
        return Label(name, target)


@dataclass(frozen=True, slots=True)
class _Operands:
    """Reads operands of one line with the registers of one scope."""

    scope: _Scope
    line: int

    def operand(self, text: str) -> Operand:
        if text == "_":
            return Sink()
        match text[:1]:
            case "[":
                return self.address(text[1:-1].strip())
            case "{" | "(":
                return Vector(tuple(self.operand(part) for part in split(text[1:-1])))
            case "!":
                inner = self.operand(text[1:].strip())
                if not isinstance(inner, Register):
                    raise self.fail(text)
                return Negated(inner)
        if "|" in text:
            first, second = (part.strip() for part in text.split("|"))
            return Pair(self.operand(first), self.operand(second))
        register = self.scope.register(text)
        if register is not None:
            return register
        return self.constant(text)

    def constant(self, text: str) -> Operand:
        if text.startswith("%"):
            if text[1:] in _SPECIALS:
                return Special(text[1:])
            raise PtxError(f"{text} is not declared", code="TW-E1011", line=self.line)
        if text == "WARP_SZ":
            return Immediate(32, "integer")
        literal = read_literal(text)
        if literal is not None:
            return literal
        name, offset = self.sum(text)
        if re.fullmatch(_NAME, name) is None:
            raise self.fail(text)
        return Symbol(name, offset)

    def address(self, text: str) -> Address:
        name, offset = self.sum(text)
        base = self.operand(name)
        match base:
            case Register() | Symbol() | Immediate():
                return Address(base, offset)
            case _:
                raise self.fail(text)

    def sum(self, text: str) -> tuple[str, int]:
        """``name+4``, ``name+-4`` and ``name-4`` as (name, offset)."""
        found = re.fullmatch(r"([^\s+-]\S*?)\s*(?:\+\s*(-?\w+)|(-\s*\w+))", text)
        if found is None:
            return text, 0
        literal = read_literal((found[2] or found[3]).replace(" ", ""))
        if literal is None or literal.form != "integer":
            raise self.fail(text)
        return found[1], int(literal.value)

    def fail(self, text: str) -> PtxError:
        return PtxError(f"{text!r} is no operand", code="TW-E1011", line=self.line)


def split(text: str) -> list[str]:
    """The parts between commas that stand in no brackets; a call's parentheses are one part."""
    parts, depth, start = [], 0, 0
    for at, sign in enumerate(text):
        if sign in "[{(":
            depth += 1
        elif sign in "]})":
            depth -= 1
        elif sign == "," and not depth:
            parts.append(text[start:at].strip())
            start = at + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts


def read_literal(text: str) -> Immediate | None:
    """The literal that the text is; None if it is none."""
    prefix = text[:2].lower()
    if prefix == "0f" and len(text) == 10:
        return Immediate(int(text[2:], 16), "f32")
    if prefix == "0d" and len(text) == 18:
        return Immediate(int(text[2:], 16), "f64")
    if _INTEGER.match(text):
        digits = text.rstrip("uU")
        negative = digits.startswith("-")
        digits = digits.lstrip("-")
        octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
        value = int(digits, 8 if octal else 0)
        return Immediate(-value if negative else value, "integer")
    if _DECIMAL.match(text):
        return Immediate(float(text), "decimal")
    return None


def read_parameters(text: str, line: int) -> tuple[Parameter, ...]:
    """The parameters between the parentheses of a function's head."""
    found = []
    for part in split(text):
        shape = re.fullmatch(
            r"\.(?:param|reg)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+"
            rf"(?:\.ptr\s+(?:\.\w+\s+)?(?:\.align\s+\d+\s+)?)?({_NAME})\s*(?:\[\s*(\d*)\s*\])?",
            part,
        )
        if shape is None or shape[2] not in SCALARS:
            raise PtxError(f"{part!r} is no parameter", code="TW-E1011", line=line)
        scalar = SCALARS[shape[2]]
        size = scalar.bytes * int(shape[4] or 1)
        found.append(Parameter(shape[3], scalar, int(shape[1] or scalar.bytes), size))
    return tuple(found)


def read_variable(text: str, line: int) -> Variable:
    """A declaration of memory, ``.shared .align 16 .b8 tile[4096]``."""
    words = " ".join(text.split())
    words = re.sub(r"^(?:\.(?:visible|extern|weak|common)\s+)+", "", words)
    head = re.match(r"\.(global|shared|const|local|param)\s+", words)
    if head is None:
        raise PtxError(f"{words!r} is not understood", code="TW-E1011", line=line)
    rest = re.sub(r"\.attribute\([^)]*\)\s*", "", words[head.end() :])
    align = 0
    if found := re.match(r"\.align\s+(\d+)\s+", rest):
        align = int(found[1])
        rest = rest[found.end() :]
    lanes = 1
    if found := re.match(r"\.v([24])\s+", rest):
        lanes = int(found[1])
        rest = rest[found.end() :]
    shape = _VARIABLE.match(rest)
    if shape is None or shape["type"] not in SCALARS:
        raise PtxError(f"{words!r} declares no variable", code="TW-E1011", line=line)
    scalar = SCALARS[shape["type"]]
    count = lanes
    for size in re.findall(r"\[\s*(\d*)\s*\]", shape["dims"]):
        count *= int(size or 0)
    total = count * scalar.bytes
    space = cast(Space, head[1])
    initial = None
    if shape["value"] is not None:
        initial = _initial(shape["value"], scalar, line).ljust(total, b"\0")
    elif space in ("global", "const"):
        initial = bytes(total)
    return Variable(shape["name"], space, align or scalar.bytes * lanes, total, initial)


def _initial(text: str, scalar: Scalar, line: int) -> bytes:
    parts = [p for p in re.split(r"[{},\s]+", text) if p]
    out = bytearray()
    for part in parts:
        literal = read_literal(part)
        if literal is None:
            raise PtxError(
                f"the initial value {part!r} is not modelled", code="TW-E1011", line=line
            )
        out += literal_bits(literal, scalar).to_bytes(scalar.bytes, "little")
    return bytes(out)


def literal_bits(literal: Immediate, scalar: Scalar) -> int:
    """The bits of a literal where a value of that type is wanted."""
    number = literal.value
    if scalar.name in ("f32", "f64") and literal.form in ("decimal", "integer"):
        code, raw = ("<f", "<I") if scalar.bits == 32 else ("<d", "<Q")
        (bits,) = struct.unpack(raw, struct.pack(code, number))
        return int(bits)
    if scalar.name == "f64" and literal.form == "f32":
        (wide,) = struct.unpack("<f", int(number).to_bytes(4, "little"))
        (bits,) = struct.unpack("<Q", struct.pack("<d", wide))
        return int(bits)
    if scalar.name == "f32" and literal.form == "f64":
        (wide,) = struct.unpack("<d", int(number).to_bytes(8, "little"))
        (bits,) = struct.unpack("<I", struct.pack("<f", wide))
        return int(bits)
    return int(number) & ((1 << scalar.bits) - 1)
