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
