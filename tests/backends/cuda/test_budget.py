"""Kernels that a GPU cannot hold are refused before code is made; times follow their formula."""

from __future__ import annotations

from collections import Counter

import pytest

from tilewright.backends.backend import Unit
from tilewright.backends.cuda import BACKEND
from tilewright.backends.cuda import backend as cuda_backend
from tilewright.backends.cuda.budget import check_budget, held_words
from tilewright.backends.cuda.roofline import bounds_of, kind_of, mix
from tilewright.backends.cuda.simulator import Counters, Traffic
from tilewright.backends.cuda.target import ARCHITECTURES, resolve_cuda
from tilewright.errors import TargetError
from tilewright.runtime.cache import NO_CACHE
from tilewright.runtime.program import Program
from tilewright.tensor.ir import Func
from tilewright.tensor.parse import parse_func


def kernel(threads: int = 64, shared: int = 64, kept: int = 4) -> Func:
    """A copy through shared memory and registers."""
    return parse_func(f"""
def kept_0(x: f32[4096], y: f32[4096]):
    for b in block.x(2):
        s: shared[f32, {shared}]
        r: register[f32, {threads}, {kept}]
        for t in thread.x({threads}):
            s[t % {shared}] = x[t]
        for t2 in thread.x({threads}):
            r[t2, 0] = x[t2]
        for t3 in thread.x({threads}):
            y[t3] = r[t3, 0]
""")


def test_a_kernel_within_all_limits_is_taken() -> None:
    for architecture in ARCHITECTURES:
        check_budget([kernel(1024, 48 << 8, 64)], resolve_cuda(f"cuda:{architecture}"))


@pytest.mark.parametrize(
    ("func", "figures"),
    [
        (kernel(threads=2048), "2048 threads in a block; there are at most 1024"),
        (kernel(shared=(48 << 8) + 1), "49156 bytes of shared memory; there are at most 49152"),
        (kernel(kept=256), "256 registers for values that a thread keeps; there are at most 255"),
        (kernel(threads=1024, kept=65), "66560 registers in a block; there are at most 65536"),
    ],
)
def test_a_kernel_over_a_limit_is_refused_with_both_figures(func: Func, figures: str) -> None:
    with pytest.raises(TargetError) as told:
        check_budget([func], resolve_cuda("cuda:sm_80"))
    assert told.value.code == "TW-E0410"
    assert figures in str(told.value) and "kept_0" in str(told.value)


def test_the_backend_checks_before_it_emits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_backend, "emit_llvm", lambda *_: pytest.fail("code is emitted"))
    program = Program("p", (), (), (), (), 0, 0)
    unit = Unit(program, (kernel(threads=2048),), resolve_cuda("cuda:sm_80"))
    with pytest.raises(TargetError, match="TW-E0410"):
        BACKEND.compile(unit, NO_CACHE)


def test_loops_after_one_another_share_registers() -> None:
    func = parse_func("""
def k(x: f32[64], y: f32[64]):
    for t in thread.x(64):
        for i in serial(2):
            a: register[f32, 10]
            a[0] = x[t]
            y[t] = a[0]
        for j in serial(2):
            b: register[f64, 3]
            b[0] = 0.0
""")
    assert held_words(func.body) == 10


# ------------------------------------------------------------------ modelled time


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("fma.rn.f32", "f32"),
        ("fma.rn.f64", "f64"),
        ("add.rn.f16x2", "f32"),
        ("add.s64", "integers and moves"),
        ("selp.f32", "integers and moves"),
        ("ld.global.nc.v4.b32", "global memory"),
        ("ld.shared.v2.b32", "shared memory"),
        ("cp.async.cg.shared.global", "shared memory"),
        ("st.local.b32", "local memory"),
        ("ex2.approx.ftz.f32", "special functions"),
        ("div.rn.f32", "special functions"),
        ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", "tensor"),
        ("bar.sync", "barriers"),
        ("cp.async.wait_group", "barriers"),
        ("shfl.sync.bfly.b32", "warp exchange"),
        ("bra", "control"),
    ],
)
def test_an_instruction_belongs_to_a_part_of_the_machine(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_times_follow_the_formula() -> None:
    machine = ARCHITECTURES["sm_80"]
    counters = Counters(blocks=216, threads=216 * 128)
    counters.instructions = Counter({"fma.rn.f32": 1080, "mov.b32": 1080})
    counters.global_loads = Traffic(10, 5120, 40)
    counters.shared_loads = Traffic(10, 2160, 20)
    counters.tensor_flops = 2048 * 108
    found = bounds_of(counters, 2_039_000, machine)
    clock = 1.41e9
    assert found["DRAM"] == pytest.approx(1e-6)
    assert found["L2"] == pytest.approx(5120 * 32 / (5120 * clock))
    # Two of 216 blocks are on each of 108 multiprocessors.
    assert found["shared memory"] == pytest.approx(2160 / 108 / clock)
    assert found["issue"] == pytest.approx(2160 / 4 / 108 / clock)
    assert found["f32"] == pytest.approx(1080 * 32 / 64 / 108 / clock)
    assert found["tensor"] == pytest.approx(1 / clock)
    assert mix(counters) == {"f32": 1080, "integers and moves": 1080}


def test_a_last_wave_of_one_block_counts_as_a_whole_one() -> None:
    machine = ARCHITECTURES["sm_80"]
    counters = Counters(blocks=109, threads=109)
    counters.instructions = Counter({"fma.rn.f32": 109})
    whole = bounds_of(counters, 0, machine)["f32"]
    assert whole == pytest.approx(2 * 32 / 64 / 1.41e9)


@pytest.mark.parametrize(
    ("sm", "teraflops"), [("sm_75", 130.5), ("sm_80", 312), ("sm_90", 989), ("sm_120", 209.5)]
)
def test_matrix_units_have_the_peak_that_is_published(sm: str, teraflops: float) -> None:
    a = ARCHITECTURES[sm]
    assert a.processors * a.tensor * a.mhz / 1e6 == pytest.approx(teraflops, rel=0.005)
