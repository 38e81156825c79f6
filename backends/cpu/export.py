"""Export: a model as code that needs no Tilewright, to be linked into a program or instantiated.

    model.o, model.h    an object with all code and weights, and what a C program needs to call it
    model.wasm          a WebAssembly module that imports nothing

Both have two functions, named for the model:

    i32 NAME_sizes(const i64 *dims, i64 *sizes)    what a call needs: workspace, then each output
    i32 NAME_run(inputs, outputs, workspace, dims)

Parallel loops run on the calling thread: the code starts none, and knows no operating system.
"""

from __future__ import annotations

import re
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np

from tilewright.runtime.program import ALIGNMENT, TensorSpec
from tilewright.target import Target
from tilewright.tensor.ir import Var
from tilewright.tensor.text import text as expression_text

from ..backend import Exporter, Unit
from ..llvm.emit import emit_module
from .compile import emit_object, parse
from .program import ENTRY, emit_program, emit_sizes
from .wasm import link

_C_TYPES = {
    "f64": "double", "f32": "float", "f16": "uint16_t (f16)", "bf16": "uint16_t (bf16)",
    "bool": "uint8_t (0 or 1)",
}  # fmt: skip


def suffixes(target: Target) -> tuple[str, ...]:
    """What a model is exported as: an object, for WebAssembly also a module."""
    return (".o", ".wasm") if target.architecture == "wasm32" else (".o",)


def export(unit: Unit, constants: np.ndarray, path: Path) -> dict[Path, bytes]:
    """The files that a model is exported as, with their contents.

    Args:
        unit: the model for its target.
        constants: the bytes that the program refers to.
        path: the file to write, with one of the suffixes; its stem names the functions.
    """
    name = re.sub(r"\W", "_", path.stem, flags=re.ASCII)
    name = f"_{name}" if name[:1].isdigit() or not name else name
    code = emit_object(export_module(unit, constants, name), unit.target)
    if path.suffix == ".wasm":
        return {path: link(code, functions_of(name))}
    return {path: code, path.with_suffix(".h"): header(unit, name).encode()}


def functions_of(name: str) -> tuple[str, str]:
    """The functions of an exported model."""
    return f"{name}_sizes", f"{name}_run"


def export_module(unit: Unit, constants: np.ndarray, name: str) -> llvm.ModuleRef:
    """One module of all kernels, the entry and the constants; it defines only two symbols."""
    texts = (
        emit_module(unit.kernels, unit.target),
        emit_program(unit.program),
        emit_sizes(unit.program, functions_of(name)[0]),
    )
    context = llvm.create_context()
    module = parse(_entry_text(unit, constants, name), unit.target, context)
    for text in texts:
        module.link_in(parse(text, unit.target, context))
    for function in module.functions:
        if not function.is_declaration and function.name not in functions_of(name):
            function.linkage = llvm.Linkage.internal
    return module


def _entry_text(unit: Unit, constants: np.ndarray, name: str) -> str:
    program = unit.program
    sizes, run = functions_of(name)
    size = constants.nbytes
    data = "\\" + constants.tobytes().hex("\\") if size else ""
    return f"""
@constants = internal constant [{size} x i8] c"{data}", align {ALIGNMENT}

declare i32 @{ENTRY}(ptr, ptr, ptr, ptr, ptr, ptr)
declare i32 @{sizes}(ptr, ptr)

define internal void @parallel(ptr %ctx, ptr %fn, ptr %env, i64 %n, i64 %rows) nounwind {{
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %all, label %done
all:
  call void %fn(ptr %env, i64 0, i64 %n)
  br label %done
done:
  ret void
}}

define i32 @{run}(ptr %inputs, ptr %outputs, ptr %workspace, ptr %dims) nounwind {{
  %sizes = alloca [{1 + len(program.outputs)} x i64], align 8
  %ctx = alloca {{ ptr, ptr, i64 }}, align 8
  %bad = call i32 @{sizes}(ptr %dims, ptr %sizes)
  %good = icmp eq i32 %bad, 0
  br i1 %good, label %vectors, label %refuse
vectors:
{_check_scale(unit.target)}
call:
  store {{ ptr, ptr, i64 }} {{ ptr @parallel, ptr null, i64 1 }}, ptr %ctx
  %result = call i32 @{ENTRY}(ptr %ctx, ptr %inputs, ptr %outputs, ptr @constants,
                              ptr %workspace, ptr %dims)
  ret i32 %result
refuse:
  ret i32 %bad
unfit:
  ret i32 -3
}}
"""


def _check_scale(target: Target) -> str:
    """Leaves where the machine's vectors are of a length that the code is not right for."""
    least, largest = target.scales
    if not least and not largest:
        return "  br i1 true, label %call, label %unfit"
    return f"""\
  %scale = call i64 @llvm.vscale.i64()
  %long = icmp uge i64 %scale, {least}
  %short = icmp ule i64 %scale, {largest or 1 << 20}
  %fits = and i1 %long, %short
  br i1 %fits, label %call, label %unfit"""


# ------------------------------------------------------------------ the header


def header(unit: Unit, name: str) -> str:
    """What a C program must know to call the model."""
    program = unit.program
    sizes, run = functions_of(name)
    guard = f"{name.upper()}_H"
    lines = [
        f"/* {name}, compiled for {unit.target.name} by Tilewright. Functions start no thread and",
        "   return 0 for success, -2 if the dims are not as said below, -1 if one would be divided",
        "   by 0, -3 if the vectors of this machine do not have the length that the code is for,",
        "   and else the number of a size that the model computed and that is out of range. */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        "#include <stdint.h>",
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        "/* dims: what symbolic dims are in this call.",
        *(f"     dims[{i}]  {_range(v)}" for i, v in enumerate(program.symbols)),
        *([] if program.symbols else ["     (none: any pointer)"]),
        *(f"     where {expression_text(c)}" for c in program.conditions),
        "   inputs: dense arrays, the last axis contiguous, aligned to their elements.",
        *(f"     inputs[{i}]  {_array(s)}" for i, s in enumerate(program.inputs)),
        f"   outputs, and the workspace: aligned to {ALIGNMENT} bytes, overlapping nothing.",
        *(f"     outputs[{i}]  {_array(s)}" for i, s in enumerate(program.outputs)),
        "*/",
        f"enum {{ {name}_dims = {len(program.symbols)}, {name}_inputs = {len(program.inputs)}, "
        f"{name}_outputs = {len(program.outputs)} }};",
        "",
        "/* Writes bytes: of the workspace, then of each output. */",
        f"int32_t {sizes}(const int64_t *dims, int64_t *sizes);",
        "",
        f"int32_t {run}(const void *const *inputs, void *const *outputs, void *workspace,",
        f"{' ' * (len(run) + 9)}const int64_t *dims);",
        "",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def _range(var: Var) -> str:
    return _plain(f"{var.name}: {var.lo if var.lo is not None else ''}..{var.hi or ''}")


def _array(spec: TensorSpec) -> str:
    kind = spec.dtype.name.rstrip("_")
    default = f"{'u' if kind[0] == 'u' else ''}int{spec.dtype.bits}_t"
    dims = "".join(f"[{d if isinstance(d, int) else expression_text(d)}]" for d in spec.shape)
    return _plain(f"{_C_TYPES.get(kind, default)} {spec.name}{dims}")


def _plain(text: str) -> str:
    """Text that cannot end the comment that it stands in, whatever the model's names are."""
    return text.replace("*/", "* /").replace("\n", " ")


EXPORTER = Exporter(suffixes, export)
