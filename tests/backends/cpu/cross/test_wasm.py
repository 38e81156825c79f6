"""WebAssembly modules are linked without a linker: complete, and with the stack below the data."""

from __future__ import annotations

import pytest

from tilewright.backends.cpu.compile import compile_object
from tilewright.backends.cpu.target import resolve_target
from tilewright.backends.cpu.wasm import STACK_BYTES, link
from tilewright.errors import InternalError

from .machines import Instance, need

TARGET = resolve_target("wasm32")

# Data of two segments, an address in data, a function's address in data, and a large stack frame.
MODULE = """
@small = internal constant [3 x i32] [i32 5, i32 7, i32 11], align 64
@table = internal global [2 x ptr] [ptr getelementptr (i8, ptr @small, i64 4), ptr @twice]

define internal i32 @twice(i32 %x) {
  %y = mul i32 %x, 2
  ret i32 %y
}

define i32 @m_run(i64 %index) {
  %s = getelementptr i32, ptr @small, i64 %index
  %a = load i32, ptr %s
  %p = load volatile ptr, ptr @table
  %b = load i32, ptr %p
  %slot = getelementptr ptr, ptr @table, i64 1
  %f = load volatile ptr, ptr %slot
  %sum = add i32 %a, %b
  %r = call i32 %f(i32 %sum)
  ret i32 %r
}

define i32 @m_sizes(i32 %count) {
  %room = alloca i32, i32 %count
  store volatile i32 9, ptr %room
  %r = load volatile i32, ptr %room
  ret i32 %r
}
"""


def linked() -> bytes:
    return link(compile_object(MODULE, TARGET, verify=True), ["m_run", "m_sizes"])


@pytest.mark.wasm
def test_addresses_of_data_and_of_functions_are_those_of_the_linked_module() -> None:
    need("wasm32")
    module = Instance(linked(), "m")
    assert module.imports == []
    assert [module.run(module.store, i) for i in range(3)] == [2 * (v + 7) for v in (5, 7, 11)]


@pytest.mark.wasm
def test_a_stack_that_overflows_traps_and_leaves_the_data_alone() -> None:
    need("wasm32")
    module = Instance(linked(), "m")
    data = module.read(STACK_BYTES, module.top - STACK_BYTES)
    assert (5).to_bytes(4, "little") in data
    assert module.sizes(module.store, STACK_BYTES // 8) == 9
    with pytest.raises(Exception, match="out of bounds memory access"):
        module.sizes(module.store, STACK_BYTES // 2)
    assert module.read(STACK_BYTES, module.top - STACK_BYTES) == data


def test_a_symbol_that_nobody_defines_is_refused_by_name() -> None:
    text = "declare void @absent()\ndefine void @f() {\n  call void @absent()\n  ret void\n}\n"
    with pytest.raises(InternalError, match="TW-E0910.*absent"):
        link(compile_object(text, TARGET), ["f"])


def test_an_export_that_is_not_defined_is_refused_by_name() -> None:
    with pytest.raises(InternalError, match="TW-E0910.*g"):
        link(compile_object("define void @f() {\n  ret void\n}\n", TARGET), ["f", "g"])


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(InternalError, match="TW-E0910"):
        link(b"\x7fELF and so on", [])
