"""Kernels in PTX, written by hand."""

from __future__ import annotations

VECTOR_ADD = """
.version 7.0
.target sm_75
.address_size 64

.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
    .reg .pred %p<2>;
    .reg .f32 %f<4>;
    .reg .b32 %r<6>;
    .reg .b64 %d<11>;

    ld.param.u64 %d1, [a];
    ld.param.u64 %d2, [b];
    ld.param.u64 %d3, [c];
    ld.param.u32 %r2, [n];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.s32 %r1, %r3, %r4, %r5;
    setp.ge.s32 %p1, %r1, %r2;
    @%p1 bra END;
    mul.wide.s32 %d5, %r1, 4;
    add.s64 %d6, %d1, %d5;
    add.s64 %d8, %d2, %d5;
    add.s64 %d10, %d3, %d5;
    ld.global.f32 %f1, [%d6];
    ld.global.f32 %f2, [%d8];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%d10], %f3;
END:
    ret;
}
"""

SGEMM = """
.version 7.0
.target sm_75
.address_size 64

// C = A B in tiles of 16 x 16, one element a thread; any M, N and K.
.visible .entry sgemm(.param .u64 A, .param .u64 B, .param .u64 C,
                      .param .u32 M, .param .u32 N, .param .u32 K)
{
    .reg .pred %p<8>;
    .reg .f32 %f<8>;
    .reg .b32 %r<32>;
    .reg .b64 %d<16>;
    .shared .align 4 .b8 a[1024];
    .shared .align 4 .b8 b[1024];

    ld.param.u64 %d1, [A];
    ld.param.u64 %d2, [B];
    ld.param.u64 %d3, [C];
    ld.param.u32 %r1, [M];
    ld.param.u32 %r2, [N];
    ld.param.u32 %r3, [K];
    mov.u32 %r4, %tid.x;
    mov.u32 %r5, %tid.y;
    mov.u32 %r6, %ctaid.x;
    mov.u32 %r7, %ctaid.y;
    shl.b32 %r8, %r6, 4;
    add.u32 %r8, %r8, %r4;              // column
    shl.b32 %r9, %r7, 4;
    add.u32 %r9, %r9, %r5;              // row
    setp.lt.u32 %p1, %r9, %r1;          // the row is there
    setp.lt.u32 %p2, %r8, %r2;          // the column is there
    shl.b32 %r10, %r5, 6;
    shl.b32 %r11, %r4, 2;
    add.u32 %r12, %r10, %r11;           // place in a tile
    mov.u32 %r13, a;
    mov.u32 %r14, b;
    add.u32 %r15, %r13, %r12;
    add.u32 %r16, %r14, %r12;
    add.u32 %r17, %r13, %r10;           // row of a
    add.u32 %r18, %r14, %r11;           // column of b
    mov.f32 %f1, 0f00000000;
    mov.u32 %r19, 0;
STEP:
    add.u32 %r20, %r19, %r4;
    setp.lt.and.u32 %p3, %r20, %r3, %p1;
    mov.f32 %f2, 0f00000000;
    mad.lo.u32 %r21, %r9, %r3, %r20;
    mad.wide.u32 %d4, %r21, 4, %d1;
    @%p3 ld.global.f32 %f2, [%d4];
    st.shared.f32 [%r15], %f2;
    add.u32 %r22, %r19, %r5;
    setp.lt.and.u32 %p4, %r22, %r3, %p2;
    mov.f32 %f3, 0f00000000;
    mad.lo.u32 %r23, %r22, %r2, %r8;
    mad.wide.u32 %d5, %r23, 4, %d2;
    @%p4 ld.global.f32 %f3, [%d5];
    st.shared.f32 [%r16], %f3;
    bar.sync 0;
    mov.u32 %r24, 0;
INNER:
    shl.b32 %r25, %r24, 2;
    add.u32 %r26, %r17, %r25;
    shl.b32 %r27, %r24, 6;
    add.u32 %r28, %r18, %r27;
    ld.shared.f32 %f4, [%r26];
    ld.shared.f32 %f5, [%r28];
    fma.rn.f32 %f1, %f4, %f5, %f1;
    add.u32 %r24, %r24, 1;
    setp.lt.u32 %p5, %r24, 16;
    @%p5 bra INNER;
    bar.sync 0;
    add.u32 %r19, %r19, 16;
    setp.lt.u32 %p6, %r19, %r3;
    @%p6 bra STEP;
    and.pred %p7, %p1, %p2;
    mad.lo.u32 %r29, %r9, %r2, %r8;
    mad.wide.u32 %d6, %r29, 4, %d3;
    @%p7 st.global.f32 [%d6], %f1;
    ret;
}
"""

SOFTMAX = """
.version 7.0
.target sm_75
.address_size 64

// A row of any length in each block of 128 threads.
.visible .entry softmax(.param .u64 X, .param .u64 Y, .param .u32 n)
{
    .reg .pred %p<8>;
    .reg .f32 %f<16>;
    .reg .b32 %r<24>;
    .reg .b64 %d<8>;
    .shared .align 4 .b8 parts[16];

    ld.param.u64 %d1, [X];
    ld.param.u64 %d2, [Y];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %tid.x;
    mov.u32 %r3, %ctaid.x;
    mul.lo.u32 %r4, %r3, %r1;
    mul.wide.u32 %d3, %r4, 4;
    add.u64 %d1, %d1, %d3;
    add.u64 %d2, %d2, %d3;
    mov.u32 %r10, parts;
    shr.u32 %r5, %r2, 5;
    shl.b32 %r5, %r5, 2;
    add.u32 %r11, %r10, %r5;            // the part of this warp
    and.b32 %r6, %r2, 31;
    setp.eq.u32 %p1, %r6, 0;            // the warp's first lane

    mov.f32 %f1, 0fFF800000;
    mov.u32 %r7, %r2;
    setp.ge.u32 %p2, %r7, %r1;
    @%p2 bra MAX_DONE;
MAX:
    mad.wide.u32 %d4, %r7, 4, %d1;
    ld.global.nc.f32 %f2, [%d4];
    max.f32 %f1, %f1, %f2;
    add.u32 %r7, %r7, 128;
    setp.lt.u32 %p2, %r7, %r1;
    @%p2 bra MAX;
MAX_DONE:
    shfl.sync.bfly.b32 %f2, %f1, 16, 31, 0xffffffff;
    max.f32 %f1, %f1, %f2;
    shfl.sync.bfly.b32 %f2, %f1, 8, 31, 0xffffffff;
    max.f32 %f1, %f1, %f2;
    shfl.sync.bfly.b32 %f2, %f1, 4, 31, 0xffffffff;
    max.f32 %f1, %f1, %f2;
    shfl.sync.bfly.b32 %f2, %f1, 2, 31, 0xffffffff;
    max.f32 %f1, %f1, %f2;
    shfl.sync.bfly.b32 %f2, %f1, 1, 31, 0xffffffff;
    max.f32 %f1, %f1, %f2;
    @%p1 st.shared.f32 [%r11], %f1;
    bar.sync 0;
    ld.shared.v4.f32 {%f2, %f3, %f4, %f5}, [parts];
    max.f32 %f2, %f2, %f3;
    max.f32 %f4, %f4, %f5;
    max.f32 %f1, %f2, %f4;

    mov.f32 %f6, 0f00000000;
    mov.u32 %r7, %r2;
    setp.ge.u32 %p2, %r7, %r1;
    @%p2 bra SUM_DONE;
SUM:
    mad.wide.u32 %d4, %r7, 4, %d1;
    ld.global.nc.f32 %f2, [%d4];
    sub.f32 %f2, %f2, %f1;
    mul.f32 %f2, %f2, 0f3FB8AA3B;
    ex2.approx.f32 %f2, %f2;
    mad.wide.u32 %d5, %r7, 4, %d2;
    st.global.f32 [%d5], %f2;
    add.f32 %f6, %f6, %f2;
    add.u32 %r7, %r7, 128;
    setp.lt.u32 %p2, %r7, %r1;
    @%p2 bra SUM;
SUM_DONE:
    shfl.sync.down.b32 %f2, %f6, 16, 31, 0xffffffff;
    add.f32 %f6, %f6, %f2;
    shfl.sync.down.b32 %f2, %f6, 8, 31, 0xffffffff;
    add.f32 %f6, %f6, %f2;
    shfl.sync.down.b32 %f2, %f6, 4, 31, 0xffffffff;
    add.f32 %f6, %f6, %f2;
    shfl.sync.down.b32 %f2, %f6, 2, 31, 0xffffffff;
    add.f32 %f6, %f6, %f2;
    shfl.sync.down.b32 %f2, %f6, 1, 31, 0xffffffff;
    add.f32 %f6, %f6, %f2;
    bar.sync 0;
    @%p1 st.shared.f32 [%r11], %f6;
    bar.sync 0;
    ld.shared.v4.f32 {%f2, %f3, %f4, %f5}, [parts];
    add.f32 %f2, %f2, %f3;
    add.f32 %f4, %f4, %f5;
    add.f32 %f6, %f2, %f4;
    rcp.rn.f32 %f6, %f6;

    mov.u32 %r7, %r2;
    setp.ge.u32 %p2, %r7, %r1;
    @%p2 bra END;
SCALE:
    mad.wide.u32 %d5, %r7, 4, %d2;
    ld.global.f32 %f2, [%d5];
    mul.f32 %f2, %f2, %f6;
    st.global.f32 [%d5], %f2;
    add.u32 %r7, %r7, 128;
    setp.lt.u32 %p2, %r7, %r1;
    @%p2 bra SCALE;
END:
    ret;
}
"""

HISTOGRAM = """
.version 7.0
.target sm_75
.address_size 64

// Counts in shared memory first; numbers that 3 divides count once, the next ones twice.
.visible .entry histogram(.param .u64 V, .param .u64 H, .param .u32 n)
{
    .reg .pred %p<8>;
    .reg .b32 %r<24>;
    .reg .b64 %d<8>;
    .shared .align 4 .b8 counts[1024];

    ld.param.u64 %d1, [V];
    ld.param.u64 %d2, [H];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %tid.x;
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mad.lo.u32 %r5, %r3, %r4, %r2;
    mov.u32 %r6, %nctaid.x;
    mul.lo.u32 %r6, %r6, %r4;
    mov.u32 %r7, counts;
    mad.lo.u32 %r8, %r2, 4, %r7;
    mov.u32 %r9, 0;
    st.shared.u32 [%r8], %r9;
    bar.sync 0;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
NEXT:
    mad.wide.u32 %d3, %r5, 4, %d1;
    ld.global.nc.u32 %r10, [%d3];
    rem.u32 %r11, %r10, 3;
    setp.eq.u32 %p2, %r11, 0;
    @%p2 bra ONCE;
    setp.eq.u32 %p3, %r11, 1;
    @!%p3 bra STEP;
    and.b32 %r12, %r10, 255;
    mad.lo.u32 %r12, %r12, 4, %r7;
    red.shared.add.u32 [%r12], 2;
    bra STEP;
ONCE:
    and.b32 %r12, %r10, 255;
    mad.lo.u32 %r12, %r12, 4, %r7;
    atom.shared.add.u32 %r13, [%r12], 1;
STEP:
    add.u32 %r5, %r5, %r6;
    setp.lt.u32 %p1, %r5, %r1;
    @%p1 bra NEXT;
DONE:
    bar.sync 0;
    ld.shared.u32 %r14, [%r8];
    mad.wide.u32 %d4, %r2, 4, %d2;
    red.global.add.u32 [%d4], %r14;
    ret;
}
"""


class Writer:
    """Collects PTX statements and hands out registers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.registers = {"r": 0, "d": 0, "f": 0, "p": 0}

    def new(self, kind: str) -> str:
        self.registers[kind] += 1
        return f"%{kind}{self.registers[kind]}"

    def say(self, text: str) -> None:
        self.lines.append(text)

    def let(self, kind: str, operation: str, *operands: object) -> str:
        """A new register with the result of an operation."""
        target = self.new(kind)
        self.say(f"{operation} {', '.join([target, *map(str, operands)])};")
        return target

    def text(self) -> str:
        types = {"r": "b32", "d": "b64", "f": "f32", "p": "pred"}
        declared = [
            f".reg .{types[kind]} %{kind}<{count + 1}>;" for kind, count in self.registers.items()
        ]
        return "\n".join(f"    {line}" for line in [*declared, *self.lines])


A_ROW, B_ROW = 80, 144
"""Bytes of a row of the tiles in shared memory: padded, so that ldmatrix meets no conflict."""
A_TILE, B_TILE = 64 * A_ROW, 32 * B_ROW


def tensor_core_gemm(*, padded: bool = True) -> str:
    """PTX of C = A B: f16 inputs, f32 sums, tiles of 64 x 64 x 32, four warps, double buffering.

    K and N must be multiples of 8; M is any. Args: A, B, C, M, N, K.
    """
    a_row, b_row = (A_ROW, B_ROW) if padded else (64, 128)
    a_tile, b_tile = 64 * a_row, 32 * b_row
    w = Writer()
    far_a, far_b, far_c = (w.let("d", "ld.param.u64", f"[{p}]") for p in "ABC")
    m, n, k = (w.let("r", "ld.param.u32", f"[{p}]") for p in "MNK")
    thread = w.let("r", "mov.u32", "%tid.x")
    row0 = w.let("r", "shl.b32", w.let("r", "mov.u32", "%ctaid.y"), 6)
    column0 = w.let("r", "shl.b32", w.let("r", "mov.u32", "%ctaid.x"), 6)
    lane = w.let("r", "and.b32", thread, 31)
    warp = w.let("r", "shr.u32", thread, 5)
    warp_row = w.let("r", "shl.b32", w.let("r", "shr.u32", warp, 1), 5)
    warp_column = w.let("r", "shl.b32", w.let("r", "and.b32", warp, 1), 5)
    tile_a, tile_b = w.let("r", "mov.u32", "tile_a"), w.let("r", "mov.u32", "tile_b")

    def copy(inside: str, target: str, source: str) -> None:
        size = w.let("r", "selp.b32", 16, 0, inside)
        w.say(f"cp.async.cg.shared.global [{target}], [{source}], 16, {size};")

    def issue(start: str, a_base: str, b_base: str) -> None:
        """Starts the copies of one tile of A and of B; what is outside becomes zero."""
        for part in range(2):
            chunk = w.let("r", "add.u32", thread, 128 * part)
            r = w.let("r", "shr.u32", chunk, 2)
            q = w.let("r", "shl.b32", w.let("r", "and.b32", chunk, 3), 3)
            row, column = w.let("r", "add.u32", row0, r), w.let("r", "add.u32", start, q)
            there = w.let("p", "setp.lt.u32", row, m)
            there = w.let("p", "setp.lt.and.u32", column, k, there)
            at = w.let("r", "mad.lo.u32", row, k, column)
            # A copy of no bytes still names an address.
            at = w.let("r", "selp.b32", at, 0, there)
            near = w.let("r", "mad.lo.u32", r, a_row, a_base)
            near = w.let("r", "mad.lo.u32", q, 2, near)
            copy(there, near, w.let("d", "mad.wide.u32", at, 2, far_a))
        for part in range(2):
            chunk = w.let("r", "add.u32", thread, 128 * part)
            r = w.let("r", "shr.u32", chunk, 3)
            q = w.let("r", "shl.b32", w.let("r", "and.b32", chunk, 7), 3)
            row, column = w.let("r", "add.u32", start, r), w.let("r", "add.u32", column0, q)
            there = w.let("p", "setp.lt.u32", row, k)
            there = w.let("p", "setp.lt.and.u32", column, n, there)
            at = w.let("r", "mad.lo.u32", row, n, column)
            at = w.let("r", "selp.b32", at, 0, there)
            near = w.let("r", "mad.lo.u32", r, b_row, b_base)
            near = w.let("r", "mad.lo.u32", q, 2, near)
            copy(there, near, w.let("d", "mad.wide.u32", at, 2, far_b))

    sums = [[[w.let("f", "mov.f32", "0f00000000") for _ in range(4)] for _ in range(4)]
            for _ in range(2)]  # fmt: skip
    start, buffer = w.let("r", "mov.u32", 0), w.let("r", "mov.u32", 0)
    issue(start, tile_a, tile_b)
    w.say("cp.async.commit_group;")
    w.say("STEP:")
    following = w.let("r", "add.u32", start, 32)
    more = w.let("p", "setp.lt.u32", following, k)
    other = w.let("r", "xor.b32", buffer, 1)
    w.say(f"@!{more} bra LAST;")
    issue(
        following,
        w.let("r", "mad.lo.u32", other, a_tile, tile_a),
        w.let("r", "mad.lo.u32", other, b_tile, tile_b),
    )
    w.say("LAST:")
    w.say("cp.async.commit_group;")
    w.say("cp.async.wait_group 1;")
    w.say("bar.sync 0;")
    low = w.let("r", "and.b32", lane, 15)
    high = w.let("r", "shl.b32", w.let("r", "shr.u32", lane, 4), 4)
    a_base = w.let("r", "mad.lo.u32", buffer, a_tile, tile_a)
    b_base = w.let("r", "mad.lo.u32", buffer, b_tile, tile_b)
    for step in range(2):
        left = []
        for i in range(2):
            row = w.let("r", "add.u32", w.let("r", "add.u32", warp_row, 16 * i), low)
            at = w.let("r", "add.u32", w.let("r", "mad.lo.u32", row, a_row, a_base), high)
            found = [w.new("r") for _ in range(4)]
            w.say(
                "ldmatrix.sync.aligned.m8n8.x4.shared.b16 "
                f"{{{', '.join(found)}}}, [{at}+{32 * step}];"
            )
            left.append(found)
        right = []
        for j in range(2):
            row = w.let("r", "add.u32", low, 16 * step)
            at = w.let("r", "add.u32", w.let("r", "mad.lo.u32", row, b_row, b_base), high)
            at = w.let("r", "mad.lo.u32", warp_column, 2, at)
            found = [w.new("r") for _ in range(4)]
            w.say(
                "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 "
                f"{{{', '.join(found)}}}, [{at}+{32 * j}];"
            )
            right += [found[:2], found[2:]]
        for i in range(2):
            for j in range(4):
                c = ", ".join(sums[i][j])
                w.say(
                    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                    f"{{{c}}}, {{{', '.join(left[i])}}}, {{{', '.join(right[j])}}}, {{{c}}};"
                )
    w.say("bar.sync 0;")
    w.say(f"mov.u32 {start}, {following};")
    w.say(f"mov.u32 {buffer}, {other};")
    w.say(f"@{more} bra STEP;")
    group, pair = w.let("r", "shr.u32", lane, 2), w.let("r", "and.b32", lane, 3)
    for i in range(2):
        for j in range(4):
            column = w.let("r", "mad.lo.u32", pair, 2, warp_column)
            column = w.let("r", "add.u32", w.let("r", "add.u32", column, 8 * j), column0)
            for half in range(2):
                row = w.let("r", "add.u32", w.let("r", "add.u32", group, warp_row), row0)
                row = w.let("r", "add.u32", row, 16 * i + 8 * half)
                there = w.let("p", "setp.lt.u32", row, m)
                there = w.let("p", "setp.lt.and.u32", column, n, there)
                at = w.let("d", "mad.wide.u32", w.let("r", "mad.lo.u32", row, n, column), 4, far_c)
                x, y = sums[i][j][2 * half : 2 * half + 2]
                w.say(f"@{there} st.global.v2.f32 [{at}], {{{x}, {y}}};")
    w.say("ret;")
    return f"""
.version 7.0
.target sm_80
.address_size 64

.visible .entry gemm(.param .u64 A, .param .u64 B, .param .u64 C,
                     .param .u32 M, .param .u32 N, .param .u32 K)
.maxntid 128
{{
    .shared .align 16 .b8 tile_a[{2 * a_tile}];
    .shared .align 16 .b8 tile_b[{2 * b_tile}];
{w.text()}
}}
"""
