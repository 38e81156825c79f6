"""Well-formedness of programs: what every backend may rely on."""

from __future__ import annotations

from typing import assert_never

from ..dtype import bool_, i64
from ..errors import InternalError
from ..tensor.ir import Dim, Var, as_expr, binary, le
from ..tensor.simplify import product, prove, same_dim, symbols
from .program import (
    ALIGNMENT,
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


def check(program: Program) -> None:
    """Returns if a program is well formed.

    Every tensor lies within its memory as far as sizes are known, starts at a multiple of its
    element, and has constants at multiples of 64; every variable is in scope; a kernel has one
    signature; nothing copies to inputs or constants.

    Raises:
        InternalError: it is not; names the step (TW-E0913).
    """
    _Checker(program).run()


class _Checker:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.signatures: dict[str, tuple[bool, ...]] = {}

    def run(self) -> None:
        p = self.program
        scope = frozenset(p.symbols)
        if len({v.name for v in p.symbols}) < len(p.symbols):
            self.fail("two symbols have one name")
        for kind, specs in (("input", p.inputs), ("output", p.outputs)):
            if len({s.name for s in specs}) < len(specs):
                self.fail(f"two {kind}s have one name")
            for spec in specs:
                self.dims(spec.shape, scope, f"{kind} {spec}")
        self.dims((p.arena_bytes,), scope, "the arena")
        self.dims(p.conditions, scope, "a condition")
        self.steps(p.steps, scope)

    def fail(self, what: str) -> None:
        raise InternalError(f"program {self.program.name}: {what}", code="TW-E0913")

    def steps(self, steps: tuple[Step, ...], scope: frozenset[Var]) -> None:
        for step in steps:
            match step:
                case CallKernel():
                    self.call(step, scope)
                case CopyTensor():
                    self.copy(step, scope)
                case LetElement():
                    self.tensor(step.tensor, scope, f"element {step.var.name}")
                    if step.tensor.dtype is not i64:
                        self.fail(f"{step.var.name} is read from {step.tensor.dtype} elements")
                    inside = prove(binary("lt", step.index, as_expr(product(step.tensor.shape))))
                    if step.index < 0 or inside is False:
                        self.fail(f"{step.var.name}: there is no element {step.index}")
                    scope |= {step.var}
                case IfStep():
                    self.tensor(step.cond, scope, "a condition")
                    if step.cond.dtype is not bool_:
                        self.fail(f"condition {step.cond.name!r} is {step.cond.dtype}")
                    self.steps(step.then, scope)
                    self.steps(step.orelse, scope)
                case LoopStep():
                    self.dims((step.trip,), scope, f"loop {step.var.name}")
                    self.steps(step.body, scope | {step.var})
                case _:
                    assert_never(step)

    def call(self, step: CallKernel, scope: frozenset[Var]) -> None:
        where = f"kernel {step.kernel}"
        for arg in step.args:
            if isinstance(arg, Tensor):
                self.tensor(arg, scope, where)
            else:
                self.dims((arg,), scope, where)
        signature = tuple(isinstance(a, Tensor) for a in step.args)
        if self.signatures.setdefault(step.kernel, signature) != signature:
            self.fail(f"{where} is called with different arguments")

    def copy(self, step: CopyTensor, scope: frozenset[Var]) -> None:
        where = f"copy to {step.dst.name!r}"
        self.tensor(step.dst, scope, where)
        self.tensor(step.src, scope, where)
        if not isinstance(step.dst.storage, ArenaStorage | OutputStorage):
            self.fail(f"{where}: it is read-only")
        if step.dst.dtype is not step.src.dtype or not same_dim(
            product(step.dst.shape), product(step.src.shape)
        ):
            self.fail(f"{where}: {step.dst.dtype} {step.dst.shape} from {step.src.dtype} "
                      f"{step.src.shape}")  # fmt: skip

    def tensor(self, t: Tensor, scope: frozenset[Var], where: str) -> None:
        at = f"{where}: tensor {t.name!r}"
        self.dims(t.shape, scope, at)
        size = product((*t.shape, t.dtype.bytes))
        match t.storage:
            case InputStorage(index):
                self.interface(t, 0, self.program.inputs, index, f"{at}: input")
            case OutputStorage(index, offset):
                self.interface(t, offset, self.program.outputs, index, f"{at}: output")
            case ConstantStorage(offset):
                if offset % ALIGNMENT:
                    self.fail(f"{at}: constant at {offset}, not a multiple of {ALIGNMENT}")
                self.within(offset, size, self.program.constants_bytes, at)
            case ArenaStorage(offset):
                self.dims((offset,), scope, at)
                if isinstance(offset, int) and offset % t.dtype.bytes:
                    self.fail(f"{at}: arena offset {offset} splits its elements")
                self.within(offset, size, self.program.arena_bytes, at)
            case _:
                assert_never(t.storage)

    def interface(
        self, t: Tensor, offset: int, specs: tuple[TensorSpec, ...], index: int, at: str
    ) -> None:
        if not 0 <= index < len(specs):
            self.fail(f"{at} {index} of {len(specs)}")
        spec = specs[index]
        first, rest = divmod(offset, spec.dtype.bytes)
        sizes = as_expr(product(t.shape)) + first, as_expr(product(spec.shape))
        fits = prove(binary("le", *sizes)) is not False
        if t.dtype is not spec.dtype or not fits or first < 0 or rest:
            place = f" from byte {offset}" if offset else ""
            self.fail(f"{at} {index} is {spec}, used as {t.dtype} {t.shape}{place}")

    def within(self, offset: Dim, size: Dim, whole: Dim, at: str) -> None:
        end = as_expr(offset) + as_expr(size)
        if prove(le(0, as_expr(offset))) is False or prove(le(end, as_expr(whole))) is False:
            self.fail(f"{at}: {size} bytes at {offset} do not fit {whole}")

    def dims(self, dims: tuple[Dim, ...], scope: frozenset[Var], where: str) -> None:
        for d in dims:
            unknown = symbols(d) - scope
            if unknown:
                names = ", ".join(sorted(v.name for v in unknown))
                self.fail(f"{where}: {names} is not in scope")
