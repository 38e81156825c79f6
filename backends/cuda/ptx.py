"""A scheduled function as PTX: LLVM IR for NVPTX, which LLVM optimises and prints.

A kernel is ``.entry NAME(buffers..., symbols...)`` in the order of the function's parameters. Its
threads run the same code; a loop over blocks or threads binds its variable to the special
register, under a guard where it has fewer iterations than the launch has blocks or threads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import llvmlite.binding as llvm

from tilewright import dtype as dt
from tilewright.target import Target
from tilewright.tensor.ir import Barrier, Block, Buffer, For, Func, If, LoopKind, Var, lt

from ..cpu.compile import machine_for, parse
from ..llvm.builder import Pointer, Value
from ..llvm.control import Lane, loop_range
from ..llvm.emit import indexed_by_variables
from ..llvm.machine import machine_of
from ..llvm.memory import ZEROS, ZEROS_BYTES
from ..llvm.statements import Statements
from ..llvm.types import memory_type, register_type
from .threads import BLOCKS, THREADS, Launch, launch_of, private

_UNSAFE = re.compile(r"[^A-Za-z0-9_]")
_REGISTERS: dict[LoopKind, str] = {
    "block.x": "ctaid.x",
    "block.y": "ctaid.y",
    "block.z": "ctaid.z",
    "thread.x": "tid.x",
    "thread.y": "tid.y",
}
_BARRIER = "call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)"


def emit_ptx(funcs: Sequence[Func], target: Target) -> str:
    """The PTX of kernels with distinct names, as one module."""
    module = parse(emit_llvm(funcs, target), target)
    machine = machine_for(target, opt=3)
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return str(machine.emit_assembly(module))


def emit_llvm(funcs: Sequence[Func], target: Target) -> str:
    """The LLVM IR of kernels with distinct names, as one module."""
    kernels = [_Kernel(f, target) for f in funcs]
    parts = [k.emit() for k in kernels]
    if any(k.uses_zeros for k in kernels):
        zeros = f"[{ZEROS_BYTES} x i8] zeroinitializer, align 64"
        parts.insert(0, f"{ZEROS} = private constant {zeros}")
    return "\n\n".join(parts) + "\n"


class _Threads(Statements):
    """Statements as one thread of a block runs them.

    Attributes:
        launch: how many blocks and threads there are.
        shared: names and sizes of the shared buffers, as LLVM globals.
    """

    def __init__(self, func: Func, target: Target, launch: Launch) -> None:
        super().__init__(machine_of(target))
        self.launch = launch
        self.name = func.name
        self.shared: list[str] = []

    def block(self, body: Block, lanes: list[Lane]) -> None:
        for stmt in body:
            match stmt:
                case Barrier():
                    self.enter(lanes[0])
                    self.line(_BARRIER)
                    for name in self.buffers:
                        if name not in self.registers:
                            self.forget(name)
                case For() if stmt.kind in _REGISTERS:
                    self._bound(stmt, lanes)
                case _:
                    super().block((stmt,), lanes)

    def _bound(self, loop: For, lanes: list[Lane]) -> None:
        """The body for the iteration that is this block's or this thread's."""
        self.enter(lanes[0])
        register = f"%{_REGISTERS[loop.kind]}"
        last = self._last(loop.kind)
        value = Value(register, "i64", dt.i64, 1, 0, None, 0, last)
        self.ranges[loop.var] = loop_range(loop)
        self.env[loop.var] = self.add(self.index(loop.start), self.atom(value))
        if loop.kind in THREADS:
            count = self.launch.block[THREADS.index(loop.kind)]
            if isinstance(loop.extent, int) and loop.extent < count:
                super().block((If(lt(loop.var, loop.extent), loop.body),), lanes)
                return
        self.block(loop.body, lanes)

    def _last(self, kind: LoopKind) -> int | None:
        if kind in THREADS:
            return self.launch.block[THREADS.index(kind)] - 1
        extent = self.launch.grid[BLOCKS.index(kind)]
        return extent - 1 if isinstance(extent, int) else None

    def _allocate(self, buffer: Buffer) -> Pointer:
        if buffer.scope != "shared":
            return super()._allocate(buffer)
        count = 1
        for d in buffer.shape:
            assert isinstance(d, int), "shared memory has a constant size"
            count *= d
        symbol = f"@{self.name}.{_UNSAFE.sub('_', buffer.name)}"
        type_ = f"[{count} x {memory_type(buffer.dtype)}]"
        self.shared.append(f"{symbol} = internal addrspace(3) global {type_} undef, align 16")
        return Pointer(f"addrspacecast (ptr addrspace(3) {symbol} to ptr)", 0)


class _Kernel:
    """One kernel."""

    def __init__(self, func: Func, target: Target) -> None:
        self.func = private(func)
        self.launch = launch_of(func)
        self.target = target
        self.uses_zeros = False

    def emit(self) -> str:
        emitter = _Threads(self.func, self.target, self.launch)
        emitter.symbolic_registers = indexed_by_variables(self.func.body)
        params, casts = self._params(emitter)
        emitter.run(self.func.body)
        self.uses_zeros = emitter.uses_zeros
        head = (
            f"define ptx_kernel void @{self.func.name}({', '.join(params)}) "
            f'nounwind "nvvm.maxntid"="{self.launch.threads}" {{'
        )
        body = [*casts, *self._special(), *emitter.prologue, *emitter.scopes[0].lines]
        return "\n".join([*emitter.shared, head, "entry:", *body, "  ret void", "}"])

    def _params(self, emitter: _Threads) -> tuple[list[str], list[str]]:
        declared: list[str] = []
        casts: list[str] = []
        for k, p in enumerate(self.func.params):
            if isinstance(p, Buffer):
                declared.append(f"ptr addrspace(1) noalias align 16 %a.{k}")
                casts.append(f"  %a.g{k} = addrspacecast ptr addrspace(1) %a.{k} to ptr")
                emitter.bases[p.name] = Pointer(f"%a.g{k}", 0)
                emitter.buffers[p.name] = p
                emitter.aligned.add(p.name)
                continue
            assert isinstance(p, Var)
            type_ = register_type(p.dtype)
            declared.append(f"{type_} %a.{k}")
            value = Value(f"%a.{k}", type_, p.dtype, 1, 0, None, p.lo, p.hi)
            emitter.env[p] = emitter.atom(value)
        return declared, casts

    def _special(self) -> list[str]:
        """The special registers as i64, whether they are used or not."""
        lines = []
        for name in _REGISTERS.values():
            call = f"call i32 @llvm.nvvm.read.ptx.sreg.{name}()"
            lines += [f"  %i.{name} = {call}", f"  %{name} = zext nneg i32 %i.{name} to i64"]
        return lines
