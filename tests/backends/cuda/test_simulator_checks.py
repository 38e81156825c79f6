"""What a kernel may not do, each with its code, its line and its thread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tilewright.backends.cuda.simulator import Options, PtxError, SimulationError, Simulator

from .instruction import HEAD, Array

DECLARED = """
    .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<32>; .reg .b64 %d<16>; .reg .f32 %f<8>;
    .shared .align 16 .b8 s[1024];
    ld.param.u64 %d1, [X]; mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, s;
    mad.wide.u32 %d2, %r1, 4, %d1;      // x[thread]
    mad.lo.u32 %r4, %r1, 4, %r3;        // s[thread]
    xor.b32 %r5, %r1, 32; mad.lo.u32 %r5, %r5, 4, %r3;      // s[thread ^ 32]
    xor.b32 %r6, %r1, 1; mad.lo.u32 %r6, %r6, 4, %r3;       // s[thread ^ 1]
"""


def run(
    body: str,
    *,
    grid: int = 1,
    block: int | Sequence[int] = 64,
    values: Array | None = None,
    options: Options | None = None,
    module: str = "",
    shared: int = 0,
) -> Array:
    """Runs a kernel whose one parameter is the address of an array; returns that array."""
    text = f"{HEAD}{module}\n.visible .entry k(.param .u64 X)\n{{{DECLARED}\n{body}\nret;\n}}\n"
    simulator = Simulator(options)
    given = np.arange(256, dtype=np.uint32) if values is None else values
    place = simulator.place(given, "x")
    simulator.launch(simulator.load(text).kernel("k"), grid, block, (place,), shared)
    return simulator.copy_out(place, given.shape, given.dtype)


def refused(body: str, code: str, match: str, **launch: object) -> SimulationError:
    with pytest.raises(SimulationError, match=match) as caught:
        run(body, **launch)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert str(caught.value).startswith(code)
    return caught.value


def test_loads_and_stores_stay_in_their_allocation() -> None:
    error = refused("ld.global.u32 %r9, [%d2+1000];", "TW-E1001", "bytes after the end of x")
    assert error.place is not None
    assert error.place.thread == (6, 0, 0)
    assert error.place.line > 4
    refused("ld.global.u32 %r9, [%d2+-4];", "TW-E1001", "4 bytes before x")
    refused("st.global.v2.u32 [%d1+1020], {%r1, %r1};", "TW-E1001", "last 4 of 8 bytes")
    refused("st.shared.u32 [%r4+1024], %r1;", "TW-E1001", "bytes after the end of .shared s")
    refused("mov.u32 %r9, 0; ld.shared.u32 %r9, [%r9];", "TW-E1001", "before .shared s")
    refused("mov.u64 %d3, 0; ld.u32 %r9, [%d3];", "TW-E1001", "out of bounds")


def test_a_variable_does_not_run_into_the_next() -> None:
    body = ".shared .align 4 .b8 t[64]; mov.u32 %r9, t; st.shared.u32 [%r4], %r9;"
    refused(body + "st.shared.u32 [%r3+1024], %r1;", "TW-E1001", "after the end of .shared s")


def test_freed_memory_is_nobodys() -> None:
    simulator = Simulator()
    text = f"{HEAD}.visible .entry k(.param .u64 X) {{{DECLARED} st.global.u32 [%d2], %r1; ret;}}"
    kernel = simulator.load(text).kernel("k")
    place = simulator.allocate(256)
    simulator.launch(kernel, 1, 64, (place,))
    simulator.free(place)
    with pytest.raises(SimulationError, match="out of bounds"):
        simulator.launch(kernel, 1, 64, (place,))
    with pytest.raises(SimulationError, match="no allocation"):
        simulator.free(place)
    again = simulator.allocate(256)
    with pytest.raises(SimulationError, match="256 of 256 bytes .* never written"):
        simulator.copy_out(again, (64,), np.uint32)


def test_accesses_are_aligned_to_their_size() -> None:
    refused("ld.global.u32 %r9, [%d2+2];", "TW-E1002", "misaligned by 2 bytes")
    refused("ld.global.v4.u32 {%r8, %r9, %r10, %r11}, [%d1+8];", "TW-E1002", "16 bytes")
    refused("st.shared.u64 [%r3+4], %d1;", "TW-E1002", "8 bytes")


def test_what_nobody_wrote_is_not_read() -> None:
    refused("ld.shared.u32 %r9, [%r4];", "TW-E1003", "never written")
    local = ".local .align 4 .b8 v[16]; mov.u64 %d5, v;"
    refused(f"{local} ld.local.u32 %r9, [%d5];", "TW-E1003", "never written")
    found = run(
        f"{local} st.local.u32 [%d5+4], %r1; ld.local.u32 %r9, [%d5+4]; st.global.u32 [%d2], %r9;"
    )
    np.testing.assert_array_equal(found[:64], np.arange(64))


def test_global_memory_has_a_first_write_too() -> None:
    simulator = Simulator()
    text = f"{HEAD}.visible .entry k(.param .u64 X) {{{DECLARED} ld.global.u32 %r9, [%d2]; ret;}}"
    kernel = simulator.load(text).kernel("k")
    place = simulator.allocate(256, "scratch")
    with pytest.raises(SimulationError, match="scratch, offset 0, that were never written"):
        simulator.launch(kernel, 1, 64, (place,))
    simulator.copy_in(place, np.zeros(32, np.uint32))
    with pytest.raises(SimulationError, match="scratch, offset 128"):
        simulator.launch(kernel, 1, 64, (place,))


def test_threads_do_not_part_at_a_barrier() -> None:
    refused(
        "setp.lt.u32 %p1, %r1, 16; @%p1 bra L; bar.sync 0; L: mov.u32 %r9, 0;",
        "TW-E1004",
        "48 threads wait at line .*; 16 threads have ended",
    )
    refused(
        "setp.lt.u32 %p1, %r1, 32; @%p1 bra L; bar.sync 0; bra M; L: bar.sync 0; "
        "M: mov.u32 %r9, 0;",
        "TW-E1004",
        "other threads of the block wait at the barrier of line",
    )
    refused(
        "setp.lt.u32 %p1, %r1, 32; @%p1 bra L; bar.sync 0; L: bar.sync 0;",
        "TW-E1004",
        "divergent barrier",
    )


def test_a_loop_of_other_length_in_each_warp_is_no_divergent_barrier_afterwards() -> None:
    found = run(
        """
        shr.u32 %r9, %r1, 5; add.u32 %r9, %r9, 1; mov.u32 %r10, 0;
        L: add.u32 %r10, %r10, 1; setp.lt.u32 %p1, %r10, %r9; @%p1 bra L;
        st.shared.u32 [%r4], %r10; bar.sync 0; ld.shared.u32 %r11, [%r5];
        st.global.u32 [%d2], %r11;
        """
    )
    np.testing.assert_array_equal(found[:64], np.repeat([2, 1], 32))


def test_reads_and_writes_of_shared_memory_are_ordered_by_barriers() -> None:
    read = refused(
        "st.shared.u32 [%r4], %r1; ld.shared.u32 %r9, [%r5];",
        "TW-E1005",
        r"reads .shared s, offset 128, which thread \(32, 0, 0\) wrote",
    )
    assert read.place is not None
    assert read.place.thread == (0, 0, 0)
    refused(
        "st.shared.u32 [%r4], %r1; bar.sync 0; ld.shared.u32 %r9, [%r5]; st.shared.u32 [%r4], %r9;",
        "TW-E1005",
        r"writes .shared s, offset 0, which thread \(32, 0, 0\) read",
    )
    refused("st.shared.u32 [%r4], %r1; st.shared.u32 [%r5], %r1;", "TW-E1005", "another value")
    refused("st.shared.u32 [%r3], %r1;", "TW-E1005", "another value")


def test_stores_of_one_value_are_no_race() -> None:
    found = run("st.shared.u32 [%r3], 7; bar.sync 0; ld.shared.u32 %r9, [%r3]; "
                "st.global.u32 [%d2], %r9;")  # fmt: skip
    np.testing.assert_array_equal(found[:64], 7)


def test_a_barrier_of_the_warp_orders_its_lanes_only() -> None:
    exchange = "st.shared.u32 [%r4], %r1; {} ld.shared.u32 %r9, [{}]; st.global.u32 [%d2], %r9;"
    refused(exchange.format("", "%r6"), "TW-E1005", "with no barrier between")
    found = run(exchange.format("bar.warp.sync 0xffffffff;", "%r6"))
    np.testing.assert_array_equal(found[:64], np.arange(64) ^ 1)
    refused(exchange.format("bar.warp.sync 0xffffffff;", "%r5"), "TW-E1005", "no barrier between")
    # Shuffles order nothing in memory.
    shuffle = "shfl.sync.idx.b32 %r10, %r1, 0, 31, 0xffffffff;"
    refused(exchange.format(shuffle, "%r6"), "TW-E1005", "no barrier between")


def test_atomics_race_with_plain_accesses_only() -> None:
    start = "mov.u32 %r9, 0; st.shared.u32 [%r4], %r9; bar.sync 0;"
    add = "red.shared.add.u32 [%r3], 1;"
    read = "ld.shared.u32 %r9, [%r3]; st.global.u32 [%d2], %r9;"
    found = run(f"{start} {add} {add} bar.sync 0; {read}")
    np.testing.assert_array_equal(found[:64], 128)
    refused(f"{start} {add} {read}", "TW-E1005", "no barrier between")
    refused(f"{add}", "TW-E1003", "never written")


def test_named_barriers_pass_data_from_warp_to_warp() -> None:
    """A producer arrives, a consumer waits: only that direction is ordered."""
    split = "setp.lt.u32 %p1, %r1, 32; @%p1 bra CONSUME; st.shared.u32 [%r4], %r1; "
    after = (
        "bra END; CONSUME: bar.sync 1, 64; ld.shared.u32 %r9, [%r5]; st.global.u32 [%d2], %r9; END:"
    )
    found = run(f"{split} bar.arrive 1, 64; {after} mov.u32 %r9, 0;")
    np.testing.assert_array_equal(found[:32], np.arange(32, 64))
    late = f"{split} bar.arrive 1, 64; st.shared.u32 [%r4], %r2; {after} mov.u32 %r9, 0;"
    refused(late, "TW-E1005", "no barrier between")


def test_barriers_with_a_reduction() -> None:
    found = run(
        """
        setp.lt.u32 %p1, %r1, 5;
        bar.red.popc.u32 %r9, 0, %p1;
        bar.red.and.pred %p2, 0, %p1;
        bar.red.or.pred %p3, 0, !%p1;
        selp.u32 %r10, 100, 0, %p2; selp.u32 %r11, 1000, 0, %p3;
        add.u32 %r9, %r9, %r10; add.u32 %r9, %r9, %r11; st.global.u32 [%d2], %r9;
        """,
        grid=1,
    )
    np.testing.assert_array_equal(found[:64], 1005)


COPY = "cp.async.ca.shared.global [%r4], [%d2], 4; "


def test_a_copy_is_not_touched_before_it_is_waited_for() -> None:
    refused(COPY + "ld.shared.u32 %r9, [%r4];", "TW-E1006", "under way that was not waited for")
    refused(COPY + "st.shared.u32 [%r4], %r1;", "TW-E1006", "not waited for")
    refused(COPY + "cp.async.commit_group; cp.async.wait_group 1; ld.shared.u32 %r9, [%r4];",
            "TW-E1006", "not waited for")  # fmt: skip
    # Groups that are not committed are not waited for.
    refused(COPY + "cp.async.wait_group 0; ld.shared.u32 %r9, [%r4];", "TW-E1006", "not waited")
    done = "cp.async.commit_group; cp.async.wait_group 0; ld.shared.u32 %r9, [%r4]; "
    found = run(COPY + done + "add.u32 %r9, %r9, 5; st.global.u32 [%d2], %r9;")
    np.testing.assert_array_equal(found[:64], np.arange(64) + 5)
    found = run(COPY + "cp.async.wait_all; ld.shared.u32 %r9, [%r4]; st.global.u32 [%d2], %r9;")
    np.testing.assert_array_equal(found[:64], np.arange(64))


def test_a_wait_is_the_threads_own_and_the_others_need_a_barrier() -> None:
    wait = COPY + "cp.async.wait_all; {} ld.shared.u32 %r9, [%r5]; st.global.u32 [%d2], %r9;"
    refused(wait.format(""), "TW-E1005", "no barrier between")
    found = run(wait.format("bar.sync 0;"))
    np.testing.assert_array_equal(found[:64], np.arange(64) ^ 32)


def test_a_copy_races_with_who_reads_its_destination() -> None:
    refused(
        "st.shared.u32 [%r4], %r1; bar.sync 0; ld.shared.u32 %r9, [%r5]; " + COPY,
        "TW-E1005",
        "writes .shared s, offset 0, which thread .* read",
    )


def test_without_the_check_for_races_a_copy_counts_as_unwritten() -> None:
    refused(
        COPY + "ld.shared.u32 %r9, [%r4];", "TW-E1006", "not waited", options=Options(races=False)
    )


@pytest.mark.parametrize("size", [0, 1, 3, 4, 6, 8, 12, 16])
def test_a_short_copy_is_filled_with_zeros(size: int) -> None:
    body = f"""
        mad.lo.u32 %r9, %r1, 16, %r3; mad.wide.u32 %d3, %r1, 16, %d1; mov.u32 %r10, {size};
        cp.async.cg.shared.global [%r9], [%d3], 16, %r10;
        cp.async.wait_all;
        ld.shared.v4.u32 {{%r11, %r12, %r13, %r14}}, [%r9];
        st.global.v4.u32 [%d3], {{%r11, %r12, %r13, %r14}};
    """
    values = np.random.default_rng(0).integers(1, 255, 256).astype(np.uint8)
    found = run(body, block=16, values=values)
    expected = values.reshape(16, 16).copy()
    expected[:, size:] = 0
    np.testing.assert_array_equal(found, expected.reshape(-1))


def test_copies_under_a_predicate_and_of_other_sizes_in_each_lane() -> None:
    body = """
        and.b32 %r9, %r1, 1; setp.eq.u32 %p1, %r9, 1; selp.u32 %r10, 4, 0, %p1;
        mov.u32 %r11, 77; st.shared.u32 [%r4], %r11; bar.sync 0;
        setp.lt.u32 %p2, %r1, 32;
        @%p2 cp.async.ca.shared.global [%r4], [%d2], 4, %r10;
        cp.async.commit_group; cp.async.wait_group 0;
        ld.shared.u32 %r12, [%r4]; st.global.u32 [%d2], %r12;
    """
    found = run(body)
    lane = np.arange(64)
    np.testing.assert_array_equal(found[:64], np.where(lane < 32, np.where(lane % 2, lane, 0), 77))


def test_blocks_do_not_write_one_byte() -> None:
    refused("st.global.u32 [%d2], %r2;", "TW-E1007", "another block", grid=2)
    refused("st.global.u32 [%d2], %r2;", "TW-E1007", "another block", grid=2000)
    run("st.global.u32 [%d2], %r2;", grid=2, options=Options(sharing=False))
    refused(
        "xor.b32 %r9, %r2, 1; mad.wide.u32 %d3, %r9, 256, %d2; mad.wide.u32 %d4, %r2, 256, %d2;"
        "st.global.u32 [%d4], %r1; ld.global.u32 %r9, [%d3];",
        "TW-E1007",
        "touches what another block writes",
        grid=2,
    )
    found = run("red.global.add.u32 [%d1], 1;", grid=3, values=np.zeros(4, np.uint32))
    assert found[0] == 192


def test_threads_of_a_block_race_in_global_memory_too() -> None:
    partner = "xor.b32 %r9, %r1, 33; mad.wide.u32 %d3, %r9, 4, %d1; "
    exchange = partner + "st.global.u32 [%d2], %r1; {} ld.global.u32 %r9, [%d3]; "
    refused(exchange.format(""), "TW-E1005", "touches what another thread writes")
    found = run(exchange.format("bar.sync 0;") + "bar.sync 0; st.global.u32 [%d2], %r9;")
    np.testing.assert_array_equal(found[:64], np.arange(64) ^ 33)
    refused(
        partner + "st.global.u32 [%d2], %r1; st.global.u32 [%d3], %r1;",
        "TW-E1005",
        "with another value",
    )
    refused("st.global.u32 [%d1], %r1;", "TW-E1005", "with another value")
    refused("st.global.v2.u32 [%d1], {%r3, %r1};", "TW-E1005", "with another value")
    assert run("st.global.u32 [%d1], 7; st.global.u32 [%d1], 7;")[0] == 7


def test_launches_one_after_another_do_not_race() -> None:
    simulator = Simulator()
    text = f"{HEAD}.visible .entry k(.param .u64 X) {{{DECLARED} st.global.u32 [%d2], %r1; ret;}}"
    kernel = simulator.load(text).kernel("k")
    place = simulator.allocate(256)
    for _ in range(3):
        simulator.launch(kernel, 1, 64, (place,))


def test_read_only_loads_are_of_what_nobody_writes() -> None:
    refused(
        "st.global.u32 [%d2], %r1; ld.global.nc.u32 %r9, [%d2];", "TW-E1010", "reads as read-only"
    )


def test_an_endless_kernel_is_ended() -> None:
    error = refused("L: add.u32 %r9, %r9, 1; bra L;", "TW-E1008", "did not end within 1000",
                    options=Options(limit=1000))  # fmt: skip
    assert error.place is not None


def test_spinning_lanes_let_others_run() -> None:
    found = run(
        """
        setp.eq.u32 %p1, %r1, 63; @%p1 bra SET;
        L: ld.volatile.global.u32 %r9, [%d1+1020]; setp.eq.u32 %p2, %r9, 255; @%p2 bra L; bra END;
        SET: mov.u32 %r9, 9; st.volatile.global.u32 [%d1+1020], %r9;
        END: st.global.u32 [%d2], %r9;
        """
    )
    np.testing.assert_array_equal(found[:64], 9)


def test_lanes_of_a_warp_meet_where_they_work_together() -> None:
    # The lanes part and join before the shuffle.
    found = run(
        """
        and.b32 %r9, %r1, 1; setp.eq.u32 %p1, %r9, 1; @%p1 bra ODD;
        mov.u32 %r10, 5; bra JOIN; ODD: mov.u32 %r10, 6; JOIN:
        shfl.sync.bfly.b32 %r11, %r10, 1, 31, 0xffffffff; st.global.u32 [%d2], %r11;
        """
    )
    np.testing.assert_array_equal(found[:64], np.where(np.arange(64) % 2, 5, 6))
    refused(
        "setp.lt.u32 %p1, %r1, 40; @%p1 bra L; shfl.sync.bfly.b32 %r9, %r1, 1, 31, 0xffffffff; "
        "bra M; L: shfl.sync.bfly.b32 %r9, %r1, 2, 31, 0xffffffff; M: mov.u32 %r9, 0;",
        "TW-E1009",
        "never come",
    )
    refused(
        "setp.lt.u32 %p1, %r1, 40; @%p1 shfl.sync.bfly.b32 %r9, %r1, 1, 31, 0xffffffff;",
        "TW-E1009",
        "are elsewhere",
    )
    refused(
        "shfl.sync.bfly.b32 %r9, %r1, 16, 31, 0xffffffff;",
        "TW-E1009",
        "reads lane 24, which does not execute it",
        block=24,
    )


def test_a_trap_is_an_error() -> None:
    refused("setp.eq.u32 %p1, %r1, 5; @%p1 trap;", "TW-E1015", r"thread \(5, 0, 0\)")


def test_blocks_and_threads_are_named_in_three_dimensions() -> None:
    error = refused(
        "mov.u32 %r9, %tid.z; mov.u32 %r10, %ctaid.x; mul.lo.u32 %r9, %r9, %r10; "
        "setp.eq.u32 %p1, %r9, 2; @%p1 trap;",
        "TW-E1015",
        "gives up",
        grid=3,
        block=(4, 2, 3),
    )
    assert error.place is not None
    assert (error.place.block, error.place.thread) == ((1, 0, 0), (0, 0, 2))


def test_dynamic_shared_memory_is_what_the_launch_asks_for() -> None:
    module = ".extern .shared .align 16 .b8 dynamic[];"
    body = "mov.u32 %r9, dynamic; mad.lo.u32 %r9, %r1, 4, %r9; st.shared.u32 [%r9], %r1;"
    run(body, module=module, shared=256)
    refused(body, "TW-E1001", "after the end of dynamic shared memory", module=module, shared=252)
    refused(
        body, "TW-E1013", "bytes of shared memory; a block of sm_90", module=module, shared=1 << 18
    )


def test_module_variables_are_in_memory() -> None:
    module = """
        .global .align 4 .u32 table[4] = {10, 20, 0x30, 40};
        .const .align 4 .f32 scale = 0f40000000;
    """
    body = """
        and.b32 %r9, %r1, 3; mov.u64 %d3, table; mad.wide.u32 %d3, %r9, 4, %d3;
        ld.global.u32 %r10, [%d3]; ld.const.u32 %r11, [scale]; ld.global.u32 %r12, [table+4];
        add.u32 %r10, %r10, %r11; add.u32 %r10, %r10, %r12; st.global.u32 [%d2], %r10;
    """
    found = run(body, module=module)
    expected = np.array([10, 20, 48, 40])[np.arange(64) % 4] + 0x40000000 + 20
    np.testing.assert_array_equal(found[:64], expected)
    refused(
        "mov.u32 %r9, 1; st.const.u32 [scale], %r9;", "TW-E1010", "store to .const", module=module
    )


def test_generic_addresses_lead_to_all_spaces() -> None:
    body = """
        .local .align 4 .b8 v[8]; mov.u64 %d3, v; cvta.local.u64 %d4, %d3;
        mov.u64 %d5, s; cvta.shared.u64 %d6, %d5; mad.wide.u32 %d6, %r1, 4, %d6;
        cvta.to.global.u64 %d7, %d2;
        and.b32 %r9, %r1, 1; setp.eq.u32 %p1, %r9, 1;
        selp.b64 %d8, %d4, %d6, %p1;
        st.u32 [%d8], %r1; ld.u32 %r10, [%d8]; add.u32 %r10, %r10, 1;
        selp.b64 %d8, %d8, %d7, %p1;
        st.u32 [%d8], %r10; ld.u32 %r11, [%d8]; st.global.u32 [%d7], %r11;
    """
    np.testing.assert_array_equal(run(body)[:64], np.arange(64) + 1)


def test_launches_are_checked() -> None:
    simulator = Simulator()
    text = f"{HEAD}.visible .entry k(.param .u64 X, .param .f32 y) .maxntid 64\n{{ ret; }}"
    module = simulator.load(text)
    kernel = module.kernel("k")
    simulator.launch(kernel, (1, 1, 1), (64, 1), (0, 1.5))
    for grid, block, args, match in (
        (1, 64, (0,), "1 arguments for 2 parameters"),
        (1, 65, (0, 1.0), "at most 64"),
        (0, 64, (0, 1.0), "not possible"),
        (1, (8, 8, 65), (0, 1.0), "not possible"),
        (1, 64, (1 << 64, 1.0), "does not fit the 8 bytes"),
        (1, 64, (0, np.float64(1)), "does not fit the 4 bytes"),
    ):
        with pytest.raises(SimulationError, match=match) as caught:
            simulator.launch(kernel, grid, block, args)
        assert caught.value.code == "TW-E1013"
    with pytest.raises(SimulationError, match="the module has k") as caught:
        module.kernel("j")
    assert caught.value.code == "TW-E1014"


@pytest.mark.parametrize(
    ("body", "code", "match"),
    [
        ("tcgen05.wait::ld.sync.aligned;", "TW-E1012", "not modelled"),
        ("mov.u32 %q9, 1;", "TW-E1011", "%q9 is not declared"),
        ("bra NOWHERE;", "TW-E1011", "no label NOWHERE"),
        ("mov.u64 %d3, nothing;", "TW-E1011", "no variable nothing"),
        ("add.u32 %r1, %r2, [%r3];", "TW-E1012", "no source"),
        ("call other, ();", "TW-E1012", "no function other"),
        (".reg .b77 %z;", "TW-E1011", "registers of"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(body: str, code: str, match: str) -> None:
    text = f"{HEAD}.visible .entry k(.param .u64 X)\n{{{DECLARED}\n{body}\nret;\n}}\n"
    with pytest.raises(PtxError, match=match) as caught:
        Simulator().load(text)
    assert caught.value.code == code
    assert text.splitlines()[caught.value.line - 1] == body


def test_text_that_is_no_module_is_refused() -> None:
    for text, match in (
        ("", "has no .target"),
        (".version 7.0\n.target sm_80\n.address_size 32\n", "64-bit addresses"),
        (f"{HEAD}.visible .entry k()\n{{ ret;", "does not end"),
        (f"{HEAD}nonsense", "ends inside a directive"),
        (f"{HEAD}nonsense;", "not understood"),
    ):
        with pytest.raises(PtxError, match=match):
            Simulator().load(text)


def test_clocks_go_on() -> None:
    found = run("mov.u32 %r9, %clock; bar.sync 0; mov.u64 %d5, %clock64; cvt.u32.u64 %r10, %d5; "
                "sub.u32 %r10, %r10, %r9; st.global.u32 [%d2], %r10;")  # fmt: skip
    assert (found[:64] > 0).all()


@pytest.mark.parametrize(
    "body",
    [
        "cvt.rn.scaled::n2::ue8m0.f32.f32 %f1, %f2;",
        "atom.global.add.v2.f32 {%f1, %f2}, [%d1], {%f3, %f4};",
        "ld.global.L2::cache_hint.u32 %r9, [%d1], %d2;",
        "ld.global.u32 {%r9, %r10}, %r11;",
        "mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1}, {%r1}, {%r1}, {%f1}, %r1, 0;",
        "add.oob.f32 %f1, %f2, %f3;",
        "shfl.sync.bfly.b32 %r9;",
        "add.u64 %d1, %d2, %r3;",
        "setp.lt.and.u32 %p1, %r1, %r2;",
        "setp.lt.u32 %p1, %r1, %r2, %p2;",
        "add.sat.u32 %r9, %r1, %r2;",
        "call.uni %d1, (), X;",
        "ld.param.u32 %r9, [%d1];",
        "ld.param.u32 %r9, [X+8];",
        "st.param.u32 [X], %r9;",
        "mov.b32 %r9, %d1;",
        "fma.rn.f32 %f1, %f2, %d3, %f3;",
        "cp.async.ca.shared.global [%r4], [%d2], 4, %p1;",
        "mul.wide.u32 %r9, %r1, %r2;",
    ],
)
def test_modifiers_and_operands_that_are_not_modelled_are_not_ignored(body: str) -> None:
    with pytest.raises(PtxError) as caught:
        run(body)
    assert caught.value.code == "TW-E1012"


def test_indirect_branches_stay_in_their_list() -> None:
    body = """
        T: .branchtargets A, B;
        {} brx.idx %r9, T;
        A: mov.u32 %r10, 5; bra END;
        B: mov.u32 %r10, 6;
        END: st.global.u32 [%d2], %r10;
    """
    found = run(body.replace("{}", "and.b32 %r9, %r1, 1;"))
    np.testing.assert_array_equal(found[:64], 5 + np.arange(64) % 2)
    refused(
        body.replace("{}", "and.b32 %r9, %r1, 3;"), "TW-E1001", "target 2 of 2 is out of bounds"
    )


def test_directives_amid_instructions_are_no_instructions() -> None:
    found = run(
        """
        .loc 1 2 3
        mov.u32 %r9, 5;
        .loc 1 3 3, function_name $L__info, inlined_at 1 9 9
        L: .pragma "nounroll"; add.u32 %r9, %r9, 1;
        .file 1 "kernel.cu"
        st.global.u32 [%d2], %r9;
        """
    )
    np.testing.assert_array_equal(found[:64], 6)
