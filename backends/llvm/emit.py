"""A Func as an LLVM IR module, in final form: no optimiser runs after this.

Every kernel is ``void @NAME(ptr %ctx, params...)``. A parallel loop becomes a function of a range
of iterations, which the pool that ``%ctx`` names runs:

    @NAME         stores what the loop needs in an environment and calls ctx->parallel
    @NAME.parK    (env, begin, end): takes the environment apart
    @NAME.loopK   (params..., begin, end): the loop, with its pointers known not to alias
    @NAME.turnK   whether the loop is walked back next time (see turning.py)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tilewright import dtype as dt
from tilewright.errors import InternalError
from tilewright.target import Target
from tilewright.tensor.ir import (
    Alloc,
    Barrier,
    Block,
    Buffer,
    Commit,
    Dim,
    Expr,
    For,
    Func,
    If,
    Let,
    Prefetch,
    Stmt,
    Store,
    Var,
    Wait,
)
from tilewright.tensor.walk import (
    block_loads,
    expressions,
    free_vars,
    loads,
    statements,
)

from .builder import Pointer, Value
from .control import Lane, loop_range
from .index import Index
from .machine import Machine, machine_of
from .memory import ZEROS, ZEROS_BYTES
from .sharing import rows_of
from .statements import Statements
from .turning import walks_back
from .types import register_type

_BRIEF = " noinline optnone"
"""Attributes of functions that run once where others run their loops: LLVM takes a third of a
millisecond for one, in place of a whole one, for a few instructions more."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_]")


def emit_kernel(func: Func, target: Target) -> str:
    """Emits one kernel as a module of its own."""
    return emit_module([func], target)


def emit_module(funcs: Sequence[Func], target: Target) -> str:
    """Emits kernels with distinct names as one self-contained module."""
    machine = machine_of(target)
    parts: list[str] = []
    uses_zeros = False
    for func in funcs:
        streamed = _streamed(func) if machine.fence else ()
        for kernel in _versions(func, machine, streamed):
            parts += kernel.emit()
            uses_zeros |= kernel.uses_zeros
        if streamed:
            parts.append(_either(func, streamed, machine))
    if uses_zeros:
        zeros = f"{ZEROS} = private constant [{ZEROS_BYTES} x i8] zeroinitializer, align 64"
        parts.insert(0, zeros)
    return "\n\n".join(parts) + "\n"


def _streamed(func: Func) -> tuple[str, ...]:
    """The names of the results that go past the caches."""
    found = {s.buffer.name for s in statements(func.body) if isinstance(s, Store) and s.streamed}
    return tuple(sorted(found))


def _versions(func: Func, machine: Machine, streamed: tuple[str, ...]) -> list[_Kernel]:
    """The kernel; where results are streamed, one for memory that is aligned and one for other."""
    if not streamed:
        return [_Kernel(func, machine)]
    past, plain = (Func(f"{func.name}.{n}", func.params, func.body) for n in ("past", "plain"))
    return [_Kernel(past, machine, frozenset(streamed)), _Kernel(plain, machine, internal=True)]


def _either(func: Func, streamed: tuple[str, ...], machine: Machine) -> str:
    """The function that calls the version for where its results are."""
    names = [f"%p{k}" for k in range(len(func.params))]
    types = ["ptr" if isinstance(p, Buffer) else register_type(p.dtype) for p in func.params]
    given = ["ptr %ctx", *(f"{t} {n}" for t, n in zip(types, names, strict=True))]
    lines = []
    total = "0"
    for k, (p, name) in enumerate(zip(func.params, names, strict=True)):
        if isinstance(p, Buffer) and p.name in streamed:
            lines.append(f"  %a{k} = ptrtoint ptr {name} to i64")
            lines.append(f"  %o{k} = or i64 {total}, %a{k}")
            total = f"%o{k}"
    arguments = ", ".join(given)
    lines += [
        f"  %rest = and i64 {total}, 63",
        "  %whole = icmp eq i64 %rest, 0",
        "  br i1 %whole, label %past, label %plain",
        "past:",
        f"  call void @{func.name}.past({arguments})",
        "  ret void",
        "plain:",
        f"  call void @{func.name}.plain({arguments})",
        "  ret void",
    ]
    head = f"define void @{func.name}({arguments}) {machine.attributes} {{"
    return "\n".join([head, "entry:", *lines, "}"])


class _Kernel:
    """The functions of one kernel.

    Args:
        streamed: names of results that begin at a multiple of 64 bytes and go past the caches.
        internal: whether only the module calls it.
    """

    def __init__(
        self,
        func: Func,
        machine: Machine,
        streamed: frozenset[str] = frozenset(),
        internal: bool = False,
    ) -> None:
        self.func = func
        self.machine = machine
        self.streamed = streamed
        self.internal = internal or bool(streamed)
        self.uses_zeros = False
        self.outlined: list[str] = []
        self.free_vars_of: dict[Expr, frozenset[Var]] = {}
        self.memory_registers = indexed_by_variables(func.body)
        self.written = frozenset(
            s.buffer.name for s in statements(func.body) if isinstance(s, Store)
        )

    def _emitter(self) -> Statements:
        emitter = Statements(self.machine)
        emitter.symbolic_registers = self.memory_registers
        emitter.free_vars_of = self.free_vars_of
        return emitter

    def emit(self) -> list[str]:
        emitter = self._emitter()
        params = ["ptr %ctx", *self._bind(emitter, self.func.params)]
        emitter.outline = lambda loop: self._parallel(emitter, loop)
        emitter.run(self.func.body)
        text = self._define(f"@{self.func.name}", params, emitter, internal=self.internal)
        return [*self.outlined, text]

    def _bind(self, emitter: Statements, params: Iterable[Buffer | Var]) -> list[str]:
        """Binds parameters; returns how they are declared."""
        declared: list[str] = []
        used: set[str] = set()
        for param in params:
            name = "%a." + _UNSAFE.sub("_", param.name)
            while name in used:
                name += "_"
            used.add(name)
            if isinstance(param, Buffer):
                written = param.name in self.written
                declared.append(f"ptr noalias {'' if written else 'readonly '}{name}")
                emitter.bases[param.name] = Pointer(name, 0)
                emitter.buffers[param.name] = param
                if param.scope != "global" or param.name in self.streamed:
                    emitter.aligned.add(param.name)
                continue
            type_ = register_type(param.dtype)
            declared.append(f"{type_} {name}")
            value = Value(name, type_, param.dtype, 1, 0, None, param.lo, param.hi)
            emitter.env[param] = emitter.atom(value) if param.dtype is dt.i64 else value
        return declared

    def _define(self, name: str, params: list[str], emitter: Statements, *, internal: bool) -> str:
        self.uses_zeros |= emitter.uses_zeros
        scope = emitter.scopes[0]
        linkage = "internal " if internal else ""
        attributes = self.machine.attributes
        if not internal and _only_calls(self.func.body):
            attributes += _BRIEF
        head = f"define {linkage}void {name}({', '.join(params)}) {attributes} {{"
        body = [*emitter.prologue, *scope.lines]
        if self.streamed:
            body.append(f"  call void @llvm.{self.machine.fence}()")
        return "\n".join([head, "entry:", *body, "  ret void", "}"])

    # -------------------------------------------------------------- parallel loops

    def _parallel(self, outer: Statements, loop: For) -> None:
        number = len(self.outlined) // 2
        names, variables = _needs(loop)
        captured = [
            p
            for p in _visible(self.func, loop)
            if (p.name in names if isinstance(p, Buffer) else p in variables)
        ]
        entry, body = (
            f"@{self.func.name}.par{number}",
            f"@{self.func.name}.loop{number}",
        )
        self.outlined.append(self._loop_function(body, loop, captured))
        types = ["ptr" if isinstance(p, Buffer) else register_type(p.dtype) for p in captured]
        turn = f"@{self.func.name}.turn{number}" if self._turns(loop) else ""
        self.outlined.append(_entry_function(entry, body, types, self.machine, turn))
        self._call(outer, loop, entry, captured, types, turn)

    def _turns(self, loop: For) -> bool:
        return self.machine.stateful and walks_back(loop)

    def _loop_function(self, name: str, loop: For, captured: Sequence[Buffer | Var]) -> str:
        emitter = self._emitter()
        params = self._bind(emitter, captured)
        begin, end = (Value(f"%{n}", "i64", dt.i64, 1, 0, None, 0, None) for n in ("begin", "end"))
        emitter.enter(Lane(1, 1))
        extent, start = emitter.index(loop.extent), emitter.index(loop.start)
        if extent.is_const:
            begin.hi, end.hi = extent.const - 1, extent.const
        emitter.ranges[loop.var] = loop_range(loop)
        first = emitter.add(start, emitter.atom(begin))
        count = Index(0, 0, (((end,), 1), ((begin,), -1)))
        emitter.serial_loop(loop.var, first, count, loop.body, [Lane(1, 1)])
        return self._define(name, [*params, "i64 %begin", "i64 %end"], emitter, internal=True)

    def _call(
        self,
        outer: Statements,
        loop: For,
        entry: str,
        captured: Sequence[Buffer | Var],
        types: Sequence[str],
        turn: str,
    ) -> None:
        outer.enter(Lane(1, 1))
        extent = outer.materialise(outer.index(loop.extent))
        environment = f"%{outer.fresh()}"
        slots = max(1, len(captured) + (2 if turn else 0))
        outer.prologue.append(f"  {environment} = alloca [{slots} x i64], align 16")
        for position, (param, type_) in enumerate(zip(captured, types, strict=True)):
            if isinstance(param, Buffer):
                if param.name in outer.registers:
                    raise InternalError(
                        f"{param.name}: a register buffer is shared by a parallel loop",
                        code="TW-E0946",
                    )
                text = outer.bases[param.name].text
            else:
                text = outer.value(param).text
            slot = f"%{outer.fresh()}"
            outer.line(f"{slot} = getelementptr i8, ptr {environment}, i64 {8 * position}")
            outer.line(f"store {type_} {text}, ptr {slot}, align 8")
        if turn:
            _turn(outer, turn, extent.text, environment, len(captured))
        run = f"%{outer.fresh()}"
        outer.line(f"{run} = load ptr, ptr %ctx, align 8")
        outer.line(
            f"call void {run}(ptr %ctx, ptr {entry}, ptr {environment}, i64 {extent.text}, "
            f"i64 {rows_of(loop)})"
        )
        for name in outer.stored_names(loop.body):
            outer.forget(name)


def _turn(outer: Statements, turn: str, extent: str, environment: str, slots: int) -> None:
    """Turns a loop around, and stores how it is walked this time.

    What is stored is the number of iterations in the first half, as the pool cuts them, or in all
    of it on one thread; 0 for a walk forth; then the number of all.
    """
    names = ("seen", "next", "back", "place", "threads", "alone", "half", "first", "way", "a", "b")
    name = {n: f"%{outer.fresh()}" for n in names}
    for line in (
        # Calls at once may see one turn twice: each walks one way or the other.
        f"{name['seen']} = load atomic i8, ptr {turn} monotonic, align 1",
        f"{name['next']} = xor i8 {name['seen']}, 1",
        f"store atomic i8 {name['next']}, ptr {turn} monotonic, align 1",
        f"{name['back']} = icmp ne i8 {name['seen']}, 0",
        f"{name['place']} = getelementptr {{ ptr, ptr, i64 }}, ptr %ctx, i64 0, i32 2",
        f"{name['threads']} = load i64, ptr {name['place']}, align 8",
        f"{name['alone']} = icmp ule i64 {name['threads']}, 1",
        f"{name['half']} = sub i64 {extent}, {int(extent) // 2}",
        f"{name['first']} = select i1 {name['alone']}, i64 {extent}, i64 {name['half']}",
        f"{name['way']} = select i1 {name['back']}, i64 {name['first']}, i64 0",
        f"{name['a']} = getelementptr i8, ptr {environment}, i64 {8 * slots}",
        f"store i64 {name['way']}, ptr {name['a']}, align 8",
        f"{name['b']} = getelementptr i8, ptr {environment}, i64 {8 * slots + 8}",
        f"store i64 {extent}, ptr {name['b']}, align 8",
    ):
        outer.line(line)


def _entry_function(
    entry: str, body: str, types: Sequence[str], machine: Machine, turn: str
) -> str:
    """The function the pool calls: it takes the environment apart, and knows which way to go."""
    lines = [
        f"define internal void {entry}(ptr %env, i64 %begin, i64 %end) "
        f"{machine.attributes}{_BRIEF} {{",
        "entry:",
    ]
    args: list[str] = []
    for position, type_ in enumerate([*types, *(["i64"] * 2 if turn else [])]):
        lines.append(f"  %s{position} = getelementptr i8, ptr %env, i64 {8 * position}")
        lines.append(f"  %e{position} = load {type_}, ptr %s{position}, align 8")
        args.append(f"{type_} %e{position}")
    if turn:
        given = "".join(f"{a}, " for a in args[:-2])
        lines += _either_way(body, given, f"%e{len(types)}", f"%e{len(types) + 1}")
        lines.insert(0, f"{turn} = internal global i8 0")
    else:
        args += ["i64 %begin", "i64 %end"]
        lines.append(f"  call void {body}({', '.join(args)})")
    return "\n".join([*lines, "  ret void", "}"])


def _either_way(body: str, given: str, half: str, count: str) -> list[str]:
    """Runs iterations in order, or the mirror image of each within its half, one by one."""
    return [
        f"  %forth = icmp eq i64 {half}, 0",
        "  br i1 %forth, label %all, label %one",
        "all:",
        f"  call void {body}({given}i64 %begin, i64 %end)",
        "  br label %done",
        "one:",
        "  %i = phi i64 [ %begin, %entry ], [ %next, %one ]",
        f"  %early = icmp ult i64 %i, {half}",
        f"  %start = select i1 %early, i64 0, i64 {count}",
        f"  %sum = add i64 {half}, %start",
        "  %after = sub i64 %sum, %i",
        "  %mirrored = sub i64 %after, 1",
        f"  call void {body}({given}i64 %mirrored, i64 %after)",
        "  %next = add i64 %i, 1",
        "  %more = icmp ult i64 %next, %end",
        "  br i1 %more, label %one, label %done",
        "done:",
    ]


def _only_calls(body: Block) -> bool:
    """Whether all loops and stores of a kernel are in parallel loops, which it calls."""
    for stmt in body:
        match stmt:
            case For(kind="parallel") | Let():
                pass
            case If():
                if not (_only_calls(stmt.then) and _only_calls(stmt.orelse)):
                    return False
            case _:
                return False
    return True


def _visible(func: Func, loop: For) -> list[Buffer | Var]:
    """What a loop may mention that is declared outside it, each once.

    The two arms of a branch may declare the same name; only one of them is around the loop.
    """
    found: dict[Buffer | Var, None] = dict.fromkeys(func.params)
    own = {id(s) for s in statements(loop.body)}
    for stmt in statements(func.body):
        if id(stmt) in own:
            continue
        match stmt:
            case Let():
                found[stmt.var] = None
            case Alloc():
                found[stmt.buffer] = None
            case _:
                pass
    return list(found)


def _needs(loop: For) -> tuple[set[str], set[Var]]:
    """The names of the buffers and the variables that a loop mentions."""
    names = {load.buffer.name for load in block_loads((loop,))}
    variables: set[Var] = set()
    for stmt in statements((loop,)):
        # Those of a load are also the ones in the shape of its buffer.
        for e in expressions(stmt):
            variables |= e.variables
        if isinstance(stmt, Store | Prefetch | Alloc):
            names.add(stmt.buffer.name)
            for dim in stmt.buffer.shape:
                variables |= free_vars(dim)
    return names, variables


def indexed_by_variables(body: Block) -> frozenset[str]:
    """The register buffers with an index that is no constant after unrolling.

    They cannot be SSA values and are kept in memory.
    """
    found: set[str] = set()

    def check(buffer: Buffer, indices: Sequence[Expr], fixed: frozenset[Var]) -> None:
        if buffer.scope != "register":
            return
        if not all(isinstance(d, int) for d in buffer.shape):
            found.add(buffer.name)
        for index in indices:
            # The variables of a load may all be known, and still not what it reads.
            if not index.variables <= fixed or (index.operands and any(loads(index))):
                found.add(buffer.name)

    def visit(stmt: Stmt, fixed: frozenset[Var]) -> None:
        for e in expressions(stmt):
            for load in loads(e):
                check(load.buffer, load.indices, fixed)
        match stmt:
            case Store():
                check(stmt.buffer, stmt.indices, fixed)
            case For():
                known = _is_fixed(stmt, fixed)
                inner = fixed | {stmt.var} if known else fixed
                for s in stmt.body:
                    visit(s, inner)
            case Let() | Alloc() | Prefetch() | Barrier() | Commit() | Wait():
                pass
            case _:
                for s in (*stmt.then, *stmt.orelse):
                    visit(s, fixed)

    for stmt in body:
        visit(stmt, frozenset())
    return frozenset(found)


def _is_fixed(loop: For, fixed: frozenset[Var]) -> bool:
    """Whether each value of a loop's variable is a constant when the loop has been expanded."""

    def is_known(d: Dim) -> bool:
        return isinstance(d, int) or free_vars(d) <= fixed

    if loop.kind in ("unroll", "vector"):
        return is_known(loop.start) and is_known(loop.extent)
    return loop.extent == 1 and is_known(loop.start)
