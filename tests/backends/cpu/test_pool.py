"""The worker pool: every index is run once, whoever calls, however many threads there are."""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import suppress
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest

from tilewright.backends.cpu import link, load, pool
from tilewright.backends.cpu.threads import cpu_quota, default_threads

# count: adds 1 to out[i] for i in begin .. end, after `spin` rounds of work.
# repeat: runs `regions` regions of n on one env that lives on its own stack, scribbling over the
# env after each, and returns in how many an index was missed or doubled.
KERNEL = """
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
%env = type { ptr, i64, i64 }
define internal void @count(ptr %e, i64 %begin, i64 %end) {
entry:
  %magic.p = getelementptr %env, ptr %e, i64 0, i32 2
  %magic = load i64, ptr %magic.p
  %alive = icmp eq i64 %magic, 77
  br i1 %alive, label %start, label %dead
dead:
  call void @llvm.trap()
  unreachable
start:
  %out = load ptr, ptr %e
  %spin.p = getelementptr %env, ptr %e, i64 0, i32 1
  %spin = load i64, ptr %spin.p
  br label %head
head:
  %i = phi i64 [ %begin, %start ], [ %i1, %done ]
  %more = icmp slt i64 %i, %end
  br i1 %more, label %work, label %out.block
work:
  %s = phi i64 [ 0, %head ], [ %s1, %work ]
  call void @llvm.x86.sse2.pause()
  %s1 = add i64 %s, 1
  %go = icmp slt i64 %s1, %spin
  br i1 %go, label %work, label %done
done:
  %p = getelementptr i64, ptr %out, i64 %i
  %v = load i64, ptr %p
  %v1 = add i64 %v, 1
  store i64 %v1, ptr %p
  %i1 = add i64 %i, 1
  br label %head
out.block:
  ret void
}
declare void @llvm.trap()
declare void @llvm.x86.sse2.pause()
define i64 @repeat(ptr %ctx, ptr %out, i64 %n, i64 %spin, i64 %regions, i64 %rows) {
entry:
  %e = alloca %env
  %parallel = load ptr, ptr %ctx
  %spin.p = getelementptr %env, ptr %e, i64 0, i32 1
  %magic.p = getelementptr %env, ptr %e, i64 0, i32 2
  br label %region
region:
  %r = phi i64 [ 0, %entry ], [ %r1, %next ]
  %bad = phi i64 [ 0, %entry ], [ %bad2, %next ]
  store volatile ptr %out, ptr %e
  store volatile i64 %spin, ptr %spin.p
  store volatile i64 77, ptr %magic.p
  call void %parallel(ptr %ctx, ptr @count, ptr %e, i64 %n, i64 %rows)
  store volatile ptr null, ptr %e
  store volatile i64 0, ptr %magic.p
  %r1 = add i64 %r, 1
  br label %check
check:
  %i = phi i64 [ 0, %region ], [ %i1, %check ]
  %wrong = phi i64 [ 0, %region ], [ %wrong1, %check ]
  %p = getelementptr i64, ptr %out, i64 %i
  %v = load i64, ptr %p
  %differs = icmp ne i64 %v, %r1
  %d = zext i1 %differs to i64
  %wrong1 = or i64 %wrong, %d
  %i1 = add i64 %i, 1
  %c = icmp slt i64 %i1, %n
  br i1 %c, label %check, label %next
next:
  %bad2 = add i64 %bad, %wrong1
  %again = icmp slt i64 %r1, %regions
  br i1 %again, label %region, label %end
end:
  ret i64 %bad2
}
"""


def compile_object(text: str) -> bytes:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple("x86_64-unknown-linux-gnu").create_target_machine(
        cpu="x86-64", reloc="pic", codemodel="default"
    )
    module = llvm.parse_assembly(text)
    module.verify()
    return bytes(machine.emit_object(module))


class Regions:
    """The kernel above, loaded, with a context of its own."""

    def __init__(self) -> None:
        self.library = link.Library([compile_object(KERNEL)], ["repeat"])
        signature = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 4)
        self.call = signature(self.library.addresses["repeat"])

    def run(self, threads: int, n: int, regions: int, spin: int = 1, rows: int = 0) -> int:
        parallel, state = load.pool_address()
        context = (ctypes.c_int64 * 3)(parallel, state, threads)
        out = np.zeros(n, np.int64)
        wrong: int = self.call(ctypes.addressof(context), out.ctypes.data, n, spin, regions, rows)
        assert (out == regions).all()
        return wrong


@pytest.fixture(scope="module")
def regions() -> Regions:
    return Regions()


def workers(wanted: int = 0) -> int:
    """How many pool threads this process has; a new one needs a moment to take its name."""
    for _ in range(5000):
        if (found := count_workers()) >= wanted:
            break
        threading.Event().wait(0.001)
    return found


def count_workers() -> int:
    found = 0
    for thread in os.listdir("/proc/self/task"):
        # One may end between being listed and being asked for its name.
        with suppress(FileNotFoundError, ProcessLookupError):
            name = Path(f"/proc/self/task/{thread}/comm").read_text()
            found += name.strip() == "tilewright"
    return found


def test_pool_text_is_valid_llvm() -> None:
    llvm.parse_assembly(pool.TEXT).verify()


def test_pool_runs_every_index_once_in_100000_tiny_regions(regions: Regions) -> None:
    assert regions.run(threads=2, n=7, regions=100_000) == 0


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 63, 1000])
@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16])
def test_pool_cuts_any_range_for_any_number_of_threads(
    regions: Regions, n: int, threads: int
) -> None:
    assert regions.run(threads, n, regions=200) == 0


@pytest.mark.parametrize(("n", "rows"), [(6, 2), (6, 3), (12, 4), (99, 33), (140, 7), (1000, 8)])
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_pool_cuts_any_number_of_rounds_for_any_number_of_threads(
    regions: Regions, n: int, rows: int, threads: int
) -> None:
    assert regions.run(threads, n, regions=200, rows=rows) == 0


@pytest.mark.parametrize("rows", [-4, 1, 7, 2**62])
def test_what_is_no_number_of_rounds_is_one_round(regions: Regions, rows: int) -> None:
    assert chunks_of(40, 2, rows) == chunks_of(40, 2)
    assert regions.run(threads=2, n=40, regions=200, rows=rows) == 0


def test_pool_is_right_when_oversubscribed(regions: Regions) -> None:
    assert regions.run(threads=4 * (os.cpu_count() or 1), n=40, regions=2000, spin=20) == 0


def test_pool_is_right_when_workers_sleep_between_regions(regions: Regions) -> None:
    for _ in range(50):
        assert regions.run(threads=2, n=16, regions=1, spin=2000) == 0
        threading.Event().wait(0.001)


def test_pool_wakes_a_caller_that_waits_for_a_slow_worker(regions: Regions) -> None:
    # The worker sleeps at first, so it ends its half well after the caller's 20 to 50 us of spin.
    for _ in range(30):
        assert regions.run(threads=2, n=2, regions=1, spin=5000) == 0
        threading.Event().wait(0.001)


def test_pool_serves_several_python_threads_at_once(regions: Regions) -> None:
    wrong: list[int] = []

    def work(n: int) -> None:
        wrong.append(regions.run(threads=2, n=n, regions=5000, spin=3))

    callers = [threading.Thread(target=work, args=(3 + 5 * k,)) for k in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == [0, 0, 0, 0]


def test_pool_starts_again_in_a_forked_child(regions: Regions) -> None:
    assert regions.run(threads=3, n=64, regions=10) == 0
    assert workers(2) >= 2
    child = os.fork()
    if child == 0:
        before = workers()
        wrong = regions.run(threads=3, n=64, regions=2000, spin=10)
        os._exit(0 if (wrong, before, workers(2)) == (0, 0, 2) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert regions.run(threads=3, n=64, regions=10) == 0


def test_library_reports_a_missing_symbol_instead_of_ending_the_process() -> None:
    code = compile_object(
        "declare void @nowhere()\ndefine void @f() {\n call void @nowhere()\n ret void\n}"
    )
    with pytest.raises(Exception, match="TW-E0910"):
        link.Library([code], ["f"])


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ("0::/gone", {"cpu.max": "50000 100000"}, 0.5),
        ("3:cpu,cpuacct:/x", {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000",
                              "cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, 3.0),
        ("3:cpu,cpuacct:/x", {"cpu/x/cpu.cfs_quota_us": "-1",
                              "cpu/x/cpu.cfs_period_us": "100000"}, None),
        ("2:memory:/", {}, None),
    ],
)  # fmt: skip
def test_quota_is_the_smallest_of_the_groups_around(
    tmp_path: Path, groups: str, files: dict[str, str], quota: float | None
) -> None:
    for name, content in files.items():
        place = tmp_path / "fs" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
    own = tmp_path / "cgroup"
    own.write_text(groups + "\n")
    assert cpu_quota(own, tmp_path / "fs") == quota


def test_default_threads_rounds_the_quota_up_and_is_at_least_one(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/\n")
    (tmp_path / "cpu.max").write_text("10000 100000")
    assert default_threads(own, tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000")
    assert default_threads(own, tmp_path) == len(os.sched_getaffinity(0))


def chunks_of(n: int, threads: int, rows: int = 0) -> list[tuple[int, int]]:
    """The pieces in which a range is run, in order; they cover it."""
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    chunks: list[tuple[int, int]] = []
    address, state = load.pool_address()
    context = (ctypes.c_int64 * 3)(address, state, threads)
    record = kind(lambda _, begin, end: chunks.append((begin, end)))
    run = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, kind, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
    )(address)
    run(ctypes.addressof(context), record, None, n, rows)
    chunks.sort()
    ends = [begin for begin, _ in chunks[1:]]
    assert chunks[0][0] == 0 and [end for _, end in chunks] == [*ends, n]
    return chunks


@pytest.mark.parametrize("n", [2, 3, 7, 12, 43, 50])
def test_chunks_of_a_short_range_differ_by_at_most_one(n: int) -> None:
    chunks = chunks_of(n, 3)
    sizes = {end - begin for begin, end in chunks}
    assert len(chunks) == min(n, 22)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("n", [52, 53, 100, 960, 12345])
def test_the_last_quarter_of_each_half_of_a_long_range_comes_in_small_chunks(n: int) -> None:
    chunks = chunks_of(n, 3)
    slices = 2 * 26
    assert len(chunks) == 2 * (5 + 6)
    for k, (begin, end) in enumerate(chunks):
        count = 4 if k < 5 or 11 <= k < 16 else 1
        assert count * (n // slices) <= end - begin <= count * -(-n // slices)


@pytest.mark.parametrize(("n", "rows"), [(6, 2), (99, 33), (140, 7), (1000, 8), (168, 84)])
def test_no_piece_is_of_both_halves_of_a_round(n: int, rows: int) -> None:
    half = rows - rows // 2
    for begin, end in chunks_of(n, 2, rows):
        assert (begin // rows, begin % rows < half) == ((end - 1) // rows, (end - 1) % rows < half)
