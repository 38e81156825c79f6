"""Objects become code that can be called, whatever they refer to; damaged ones are errors."""

from __future__ import annotations

import contextlib
import ctypes
import math
import random

import pytest

from tilewright.backends.cpu.compile import compile_object
from tilewright.backends.cpu.link import Library
from tilewright.backends.cpu.target import resolve_target
from tilewright.errors import InternalError

TARGET = resolve_target("x86-64-v2")


def built(*texts: str, names: tuple[str, ...] = ("f",)) -> Library:
    return Library([compile_object(text, TARGET) for text in texts], names)


def number(library: Library, name: str = "f") -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int64)(library.addresses[name])())


def test_objects_call_each_other_in_both_directions() -> None:
    first = "declare i64 @g()\ndefine i64 @h() {\n ret i64 20\n}\n"
    first += "define i64 @f() {\n %x = call i64 @g()\n ret i64 %x\n}"
    second = "declare i64 @h()\ndefine i64 @g() {\n %x = call i64 @h()\n"
    second += " %y = add i64 %x, 1\n ret i64 %y\n}"
    library = built(first, second, names=("f", "g", "h"))
    assert [number(library, n) for n in "fgh"] == [21, 21, 20]
    library.close()


def test_the_mathematics_library_is_there_however_far_away() -> None:
    text = "declare double @cbrt(double)\ndefine double @f(double %x) {\n"
    text += " %y = call double @cbrt(double %x)\n %z = call double @cbrt(double %y)\n"
    library = built(text + " ret double %z\n}")
    function = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(library.addresses["f"])
    assert function(512.0) == pytest.approx(2.0)
    library.close()


def test_a_function_of_the_c_library_can_be_taken_as_a_pointer() -> None:
    text = "declare double @floor(double)\ndefine ptr @f() {\n ret ptr @floor\n}"
    library = built(text)
    place = ctypes.CFUNCTYPE(ctypes.c_void_p)(library.addresses["f"])()
    floor = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(place)
    assert floor(2.5) == math.floor(2.5)
    library.close()


def test_constants_tables_and_variables_are_where_the_code_looks_for_them() -> None:
    text = """
@table = private constant [3 x i64] [i64 5, i64 7, i64 11], align 64
@places = private constant [2 x ptr] [ptr @one, ptr @two]
@count = internal global i64 0
@zeros = internal global [16 x i64] zeroinitializer
define internal i64 @one() {
  ret i64 100
}
define internal i64 @two() {
  ret i64 200
}
define i64 @f() {
  %old = load i64, ptr @count
  %new = add i64 %old, 1
  store i64 %new, ptr @count
  %odd = and i64 %old, 1
  %e = getelementptr [3 x i64], ptr @table, i64 0, i64 %odd
  %x = load i64, ptr %e
  %p = getelementptr [2 x ptr], ptr @places, i64 0, i64 %odd
  %g = load ptr, ptr %p
  %y = call i64 %g()
  %q = getelementptr [16 x i64], ptr @zeros, i64 0, i64 %odd
  %z = load i64, ptr %q
  %s = add i64 %x, %y
  %t = add i64 %s, %z
  ret i64 %t
}"""
    library = built(text)
    assert [number(library) for _ in range(3)] == [105, 207, 105]
    library.close()


CONSTANT = "define i64 @f() {\n ret i64 1\n}"


@pytest.mark.parametrize(
    ("texts", "names", "said"),
    [
        ((CONSTANT, CONSTANT), ("f",), "f is defined twice"),
        ((CONSTANT,), ("g",), "g is not defined"),
        (("declare i64 @nowhere()\ndefine i64 @f() {\n %x = call i64 @nowhere()\n ret i64 %x\n}",),
         ("f",), "nowhere is not defined"),
    ],
)  # fmt: skip
def test_symbols_that_are_missing_or_doubled_are_named(
    texts: tuple[str, ...], names: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InternalError, match=said) as caught:
        built(*texts, names=names)
    assert caught.value.code == "TW-E0910"


def test_damaged_objects_are_internal_errors_or_harmless() -> None:
    good = compile_object(CONSTANT, TARGET)
    generator = random.Random(5)
    with pytest.raises(InternalError, match="not an x86-64 ELF object"):
        Library([b"\x7fELF" + bytes(100)], ["f"])
    for _ in range(300):
        size = generator.randrange(len(good)) if generator.random() < 0.3 else len(good)
        bad = bytearray(good[:size])
        for _ in range(min(size, 4)):
            bad[generator.randrange(size)] = generator.randrange(256)
        with contextlib.suppress(InternalError):
            Library([bytes(bad)], ["f"]).close()
