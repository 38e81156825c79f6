"""The softmax in blocks: what it computes, and the nests that it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.errors import ScheduleError
from tilewright.schedule.online import online
from tilewright.tensor.check import check
from tilewright.tensor.interpret import interpret
from tilewright.tensor.parse import parse_func

ROWS = """
def f(A: f32[4, {n}], V: f32[{n}, 3], B: f32[4, 3]{symbol}):
    for b in serial(4):
        t: local[f32, {n}]
        for c in serial({n}):
            t[c] = A[b, c] * 2.0
        m: local[f32]
        m[()] = -inf
        for k in serial({n}):
            m[()] = max(m[()], t[k])
        e: local[f32, {n}]
        for d in serial({n}):
            e[d] = exp(t[d] - m[()])
        s: local[f32]
        s[()] = 0.0
        for j in serial({n}):
            s[()] = s[()] + e[j]
        {share}
        r: local[f32, 3]
        for h in serial(3):
            r[h] = 0.0
        for i in serial(3):
            for l in serial({n}):
                r[i] = r[i] + {term}
        for o in serial(3):
            B[b, o] = {result}
"""
SHARE = """p: local[f32, {n}]
        for q in serial({n}):
            p[q] = e[q] / s[()]"""
INVERSE = """w: local[f32]
        w[()] = 1.0 / s[()]"""
FORMS = {
    "divided at the end": ("", "e[l] * V[l, i]", "r[o] / s[()]"),
    "shares": (SHARE, "V[l, i] * p[l]", "r[o]"),
    "an inverse": (INVERSE, "e[l] * w[()] * V[l, i]", "r[o]"),
}


def func_of(form: str, n: int | str) -> str:
    share, term, result = FORMS[form]
    symbol = ", n: symbol(1)" if isinstance(n, str) else ""
    share = share.replace("{n}", str(n))
    return ROWS.format(n=n, share=share, term=term, result=result, symbol=symbol)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "size"), [(32, 32), (37, 37), ("n", 21), ("n", 3)])
def test_blocks_give_what_the_whole_row_gives(form: str, n: int | str, size: int) -> None:
    func = parse_func(func_of(form, n))
    shares = "p" if form == "shares" else ""
    cut = online(func, "b", 8, "t", "m", "e", ("s", "r"), "o2", shares)
    check(cut)
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, size)).astype(np.float32) * 4
    # A row whose first block is masked, and one that is masked as a whole.
    a[1, :8], a[2] = -np.inf, -np.inf
    v = rng.standard_normal((size, 3)).astype(np.float32)
    found = []
    for f in (func, cut):
        memory = {"A": a, "V": v, "B": np.zeros((4, 3), np.float32)}
        with np.errstate(all="ignore"):
            interpret(f, memory, {"n": size})
        found.append(memory["B"])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)
    assert np.isnan(found[0][2]).all() and np.isfinite(found[0][0]).all()


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("exp(t[d] - m[()])", "exp(t[d] + m[()])", "are not exponentials of 't' below 'm'"),
        ("max(m[()], t[k])", "min(m[()], t[k])", "'m' is not accumulated by 'max'"),
        ("max(m[()], t[k])", "max(m[()], t[k] * 2.0)", "is not the maximum of 't'"),
        ("s[()] + e[j]", "s[()] + e[j] * e[j]", "does not add up weights, or products with them"),
        ("s[()] + e[j]", "s[()] + e[0]", "no loop of its own along the axis"),
        ("r[o] / s[()]", "r[o] / s[()] + e[0]", "what has been weighed is read again"),
        ("r[h] = 0.0", "r[h] = V[h, 0]", "does not begin with one value"),
        ("t: local[f32, 32]\n", "t2: local[f32, 32]\n", "declares no 't'"),
    ],
)  # fmt: skip
def test_what_is_no_softmax_is_refused(old: str, new: str, why: str) -> None:
    text = func_of("divided at the end", 32)
    assert old in text
    text = text.replace(old, new)
    if "t2" in new:
        text = text.replace("t[", "t2[")
    with pytest.raises(ScheduleError, match=why.replace("(", r"\(")):
        online(parse_func(text), "b", 8, "t", "m", "e", ("s", "r"), "o2")
