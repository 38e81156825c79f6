"""What a block and a thread of a kernel take of a GPU, checked before code is made of it."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.errors import TargetError
from tilewright.target import Target
from tilewright.tensor.ir import Alloc, Block, Buffer, For, Func, If, Stmt

from .threads import launch_of, private

STATIC_SHARED = 48 << 10
"""Bytes of shared memory that a block may have without asking for more when it is launched."""


def check_budget(funcs: Sequence[Func], target: Target) -> None:
    """Refuses kernels that no block of the target can hold.

    Raises:
        TargetError: one has too many threads, too much shared memory or keeps more in registers
            than a thread has (TW-E0410); names the kernel and both figures.
    """
    limits = target.threads
    assert limits is not None
    for func in funcs:
        launch = launch_of(func)
        shared = sum(_bytes(b) for b in launch.shared)
        words = held_words(private(func).body)
        for what, need, most in (
            ("threads in a block", launch.threads, limits.most),
            ("bytes of shared memory", shared, min(limits.shared_bytes, STATIC_SHARED)),
            ("registers for values that a thread keeps", words, limits.registers),
            ("registers in a block", words * launch.threads, limits.block_registers),
        ):
            if need > most:
                raise TargetError(
                    f"kernel {func.name} for {target.name}: {need} {what}; "
                    f"there are at most {most}",
                    code="TW-E0410",
                )


def held_words(block: Block) -> int:
    """32-bit registers for the temporaries that a thread keeps at one time, at least.

    Those of one block of statements are there together; those of loops after one another are not.
    """
    kept = [s.buffer for s in block if isinstance(s, Alloc) and s.buffer.scope == "register"]
    own = sum(-(-_bytes(b) // 4) for b in kept)
    return own + max((held_words(b) for s in block for b in _inside(s)), default=0)


def _inside(stmt: Stmt) -> tuple[Block, ...]:
    match stmt:
        case For():
            return (stmt.body,)
        case If():
            return (stmt.then, stmt.orelse)
    return ()


def _bytes(buffer: Buffer) -> int:
    count = 1
    for d in buffer.shape:
        assert isinstance(d, int), f"{buffer.name} has a constant size"
        count *= d
    return count * buffer.dtype.bytes
