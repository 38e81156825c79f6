"""Final text becomes an object without optimisation; text that LLVM refuses is a defect."""

from __future__ import annotations

import pytest

from tilewright.backends.cpu.compile import compile_assembly, compile_object, parse
from tilewright.backends.cpu.target import resolve_target
from tilewright.errors import InternalError

TWICE = """
define void @twice(ptr %p) nounwind {
  %a = load <16 x float>, ptr %p, align 4
  %b = fadd <16 x float> %a, %a
  store <16 x float> %b, ptr %p, align 4
  ret void
}
"""


def test_a_module_becomes_an_elf_object() -> None:
    assert compile_object(TWICE, resolve_target("x86-64-v2"), verify=True)[:4] == b"\x7fELF"


@pytest.mark.parametrize(
    ("name", "register"), [("x86-64-v2", "xmm"), ("x86-64-v3", "ymm"), ("x86-64-v4", "zmm")]
)
def test_code_uses_the_widest_registers_of_its_target_and_no_wider(
    name: str, register: str
) -> None:
    text = compile_assembly(TWICE, resolve_target(name))
    assert f"%{register}" in text
    assert not any(f"%{r}" in text for r in ("xmm", "ymm", "zmm") if r > register)


def test_text_that_llvm_refuses_is_an_internal_error() -> None:
    with pytest.raises(InternalError, match="TW-E0948"):
        compile_object("define void @f() { ret i32 0 }", resolve_target("x86-64-v2"))


def test_what_llvm_keeps_of_a_module_s_types_goes_with_it() -> None:
    text = "%pair = type { i64, i64 }\ndefine %pair @f(%pair %x) {\n ret %pair %x\n}"
    target = resolve_target("x86-64-v2")
    modules = [parse(text, target) for _ in range(2)]
    # In one context for all, the second would have to call its type %pair.0.
    assert all("%pair = type" in str(m) for m in modules)
