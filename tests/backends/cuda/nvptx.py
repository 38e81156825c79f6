"""LLVM IR to PTX, in a process of its own: LLVM ends the process on what it cannot select."""

from __future__ import annotations

import subprocess
import sys

_EMIT = """
import sys
import llvmlite.binding as llvm
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
target = llvm.Target.from_triple("nvptx64-nvidia-cuda")
machine = target.create_target_machine(cpu=sys.argv[1], features=sys.argv[2], opt=3)
module = llvm.parse_assembly(sys.stdin.read())
module.verify()
builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(3))
builder.getModulePassManager().run(module, builder)
print(machine.emit_assembly(module))
"""
HEAD = 'target triple = "nvptx64-nvidia-cuda"\n'


def emit(text: str, cpu: str = "sm_80", features: str = "") -> str:
    """The PTX of a module; raises with LLVM's words where it refuses."""
    done = subprocess.run(
        [sys.executable, "-c", _EMIT, cpu, features],
        input=HEAD + text,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout
