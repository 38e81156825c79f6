"""LLVM IR text to a relocatable object, by llvmlite's code generator alone."""

from __future__ import annotations

from functools import cache

import llvmlite.binding as llvm

from tilewright.errors import InternalError
from tilewright.target import Target

from .pages import forget_code, forget_pages, map_singly, trim_heap

_LIBRARY = "libllvmlite"
_OTHERS = ("libpython", "/numpy", "/ml_dtypes", "/google/")
"""Parts of the names of other libraries that compiling goes through and no call of a model does."""


def machine_for(target: Target, *, opt: int = 1) -> llvm.TargetMachine:
    """LLVM's code generator for a target, with the small code model."""
    _initialize()
    if target.architecture != "x86_64":
        _initialize_all()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu,
        features=target.features,
        opt=opt,
        reloc=target.relocation,
        codemodel="small",
        abiname=target.abi,
    )


@cache
def _initialize() -> None:
    """Prepares LLVM once a process.

    Loop strength reduction is switched off for the whole process: the emitted pointers are
    already reduced, and it took half of the time of code generation (ResNet-50: 1.7 s of CPU,
    0.8 s without) for code that is no faster.
    """
    llvm.set_option("tilewright", "-disable-lsr")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    forget_pages(_LIBRARY)
    map_singly(_LIBRARY, *_OTHERS)


def rest() -> None:
    """Gives back the pages of LLVM and other libraries, and what it and Python have freed.

    To be called when something else is to come before the next compilation: the pages come back
    when they are touched, which costs that one some 5 ms. Called first of all, it has the 36 MB
    that loading LLVM takes gone before anything else takes memory.
    """
    _initialize()
    forget_code()
    trim_heap()


@cache
def _initialize_all() -> None:
    """Prepares LLVM for other machines, which takes 10 MB."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def compile_object(text: str, target: Target, *, opt: int = 1, verify: bool = False) -> bytes:
    """Compiles a module to the bytes of an ELF object.

    No optimisation passes run: the text is final. Code generation schedules instructions and
    assigns registers at ``opt`` (1 and 2 give equal code for convolutions and products and equal
    speed for all, but 2 takes longer; 0 does not assign registers well).

    Args:
        text: one LLVM module.
        target: what to compile for; it need not be this machine.
        opt: LLVM's code generation level.
        verify: whether to check the module first.

    Raises:
        InternalError: LLVM does not accept the text; that is a defect of the emitter.
    """
    return emit_object(parse(text, target, verify=verify), target, opt=opt)


def compile_assembly(text: str, target: Target, *, opt: int = 1) -> str:
    """The assembly of the code that ``compile_object`` would give."""
    return str(_machine(target, opt).emit_assembly(parse(text, target)))


def emit_object(module: llvm.ModuleRef, target: Target, *, opt: int = 1) -> bytes:
    """The object of a module that was parsed for the target."""
    return bytes(_machine(target, opt).emit_object(module))


@cache
def _machine(target: Target, opt: int) -> llvm.TargetMachine:
    """A code generator that stays: a new one finds out what features mean again, for 2 ms."""
    # It works in other parts of the library than those before it.
    forget_pages(_LIBRARY)
    return machine_for(target, opt=opt)


@cache
def _layout(target: Target) -> str:
    return str(machine_for(target).target_data)


def parse(
    text: str, target: Target, context: llvm.ContextRef | None = None, *, verify: bool = False
) -> llvm.ModuleRef:
    """A module of LLVM IR with the triple and the memory layout of a target.

    Args:
        text: one LLVM module.
        target: what it is for.
        context: where LLVM keeps the module's types and constants, one for modules that are to be
            linked; by default its own, and they go with it: one for all would only grow.
        verify: whether to check the module.

    Raises:
        InternalError: LLVM does not accept the text; that is a defect of the emitter.
    """
    try:
        module = llvm.parse_assembly(text, context or llvm.create_context())
        if verify:
            module.verify()
    except RuntimeError as error:
        raise InternalError(f"LLVM refuses the emitted code: {error}", code="TW-E0948") from error
    module.triple = target.triple
    module.data_layout = _layout(target)
    return module
