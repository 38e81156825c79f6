"""Features say of a schedule what its text says, in numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from tilewright import dtype as dt
from tilewright.autotune.features import NAMES, features
from tilewright.lower.alone import lower_alone
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.ir import (
    Buffer,
    Const,
    For,
    Func,
    Prefetch,
    Select,
    Store,
    Var,
    lt,
    symbol,
)

from ..schedule.groups import AVX512, add, attention, conv, matmul, max_pool, softmax
from .groups import WEIGHTS

N = symbol("N")


def look(
    group: ComputeGroup, given: Mapping[str, int] | None = None, **sizes: int
) -> dict[str, float]:
    fixed = WEIGHTS & {b.name for b in group.inputs if all(isinstance(d, int) for d in b.shape)}
    made = lower_alone(group, fixed, AVX512, "fast", given or {})
    found = features(made.kernels, AVX512, sizes)
    return dict(zip(NAMES, found, strict=True))


@pytest.mark.parametrize(
    "group",
    [matmul(N, 16, 48), conv(14, 16, 32, 3, 1, 1), max_pool(9, 20, 3, 2, 1), softmax(5, 100),
     attention(2, N, 33, 4, 24), add(N, 768), add(1)],
    ids=lambda g: g.name,
)  # fmt: skip
def test_every_feature_is_a_number(group: ComputeGroup) -> None:
    found = look(group, N=20)
    assert len(found) == len(NAMES)
    assert all(math.isfinite(v) and v >= 0 for v in found.values()), found


def test_a_tile_is_seen() -> None:
    wide = look(matmul(64, 64, 256), {"mr": 6, "nr": 64})
    assert wide["hot unroll"] == 6
    assert wide["widest vector"] == 4
    assert wide["registers held"] == pytest.approx(6 * 4 / AVX512.vector_registers)
    assert wide["beyond registers"] == 0
    assert look(matmul(64, 64, 256), {"mr": 10, "nr": 64})["beyond registers"] > 0


def test_lower_tiles_load_more_for_the_same_operations() -> None:
    tall, low = (look(matmul(96, 64, 256), {"mr": mr, "nr": 64}) for mr in (6, 1))
    assert tall["operations"] == pytest.approx(low["operations"], rel=0.01)
    assert tall["loads"] < low["loads"]
    assert tall["operations a load"] > low["operations a load"]


def test_more_comes_from_afar_where_more_is_read_again() -> None:
    found = look(matmul(512, 1024, 4096))
    assert found["bytes from near"] >= found["bytes from middle"] >= found["bytes from far"]
    p, x, y = Var("p"), Buffer("x", dt.f32, (1 << 20, 8)), Buffer("y", dt.f32, (1 << 20,))
    orders = []
    for outer in (p // 4, p % (1 << 20)):
        k = Var("k")
        body = For(k, 8, (Store(y, (outer,), x[outer, k] + 1.0),))
        func = Func("f", (x, y), (For(p, 1 << 20, (body,), "parallel"),))
        orders.append(dict(zip(NAMES, features([func], AVX512, {}), strict=True)))
    few, many = orders
    assert few["bytes from far"] < many["bytes from far"] - 1


def test_sizes_of_symbols_count() -> None:
    small, large = (look(matmul(N, 16, 48), N=n) for n in (4, 4000))
    assert large["operations"] > small["operations"] + 8


def test_prefetches_and_guards_are_counted() -> None:
    i, x, y = Var("i"), Buffer("x", dt.f32, (64,)), Buffer("y", dt.f32, (64,))
    plain = Store(y, (i,), x[i] + 1.0)
    guarded = Store(y, (i,), Select(lt(i, 60), x[i], Const(0.0, dt.f32)) + 1.0)
    one, two = (
        dict(zip(NAMES, features([func], AVX512, {}), strict=True))
        for func in (
            Func("f", (x, y), (For(i, 64, body),))
            for body in ((plain,), (Prefetch(x, (i + 8,)), guarded))
        )
    )
    assert one["prefetches"] == one["guards"] == 0
    assert two["prefetches"] == two["guards"] == pytest.approx(math.log2(65))
