"""What generated CUDA C++ stands on: the laws of the tensor IR that C++ states otherwise."""

from __future__ import annotations

WARP = r"""
#ifndef TW_HOST
TW_DEVICE unsigned tw_pair(const unsigned short* x) { return x[0] | (unsigned)x[1] << 16; }
TW_DEVICE unsigned tw_near(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

#define TW_SUMS "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
#define TW_MMA_16(kind)                                                                       \
  TW_DEVICE void tw_mma_m16n8k16_##kind(float* c, const unsigned short* a,                    \
                                        const unsigned short* b) {                            \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." #kind "." #kind ".f32 "             \
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"            \
                 : TW_SUMS                                                                    \
                 : "r"(tw_pair(a)), "r"(tw_pair(a + 2)), "r"(tw_pair(a + 4)),                 \
                   "r"(tw_pair(a + 6)), "r"(tw_pair(b)), "r"(tw_pair(b + 2)));                \
  }
TW_MMA_16(f16)
TW_MMA_16(bf16)
TW_DEVICE void tw_mma_m16n8k8_f16(float* c, const unsigned short* a, const unsigned short* b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : TW_SUMS : "r"(tw_pair(a)), "r"(tw_pair(a + 2)), "r"(tw_pair(b)));
}
TW_DEVICE unsigned tw_tf32(float x) {
  unsigned y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}
TW_DEVICE void tw_mma_m16n8k8_tf32(float* c, const float* a, const float* b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : TW_SUMS
               : "r"(tw_tf32(a[0])), "r"(tw_tf32(a[1])), "r"(tw_tf32(a[2])),
                 "r"(tw_tf32(a[3])), "r"(tw_tf32(b[0])), "r"(tw_tf32(b[1])));
}

template <int count, bool transposed>
TW_DEVICE void tw_ldmatrix(unsigned short* f, const unsigned short* row) {
  unsigned x[4];
  if (count == 4 && !transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(tw_near(row)) : "memory");
  if (count == 4 && transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(tw_near(row)) : "memory");
  if (count == 2 && !transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(x[0]), "=r"(x[1]) : "r"(tw_near(row)) : "memory");
  if (count == 2 && transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(x[0]), "=r"(x[1]) : "r"(tw_near(row)) : "memory");
  if (count == 1 && !transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(x[0]) : "r"(tw_near(row)) : "memory");
  if (count == 1 && transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(x[0]) : "r"(tw_near(row)) : "memory");
  for (int k = 0; k < count; ++k) {
    f[2 * k] = (unsigned short)x[k];
    f[2 * k + 1] = (unsigned short)(x[k] >> 16);
  }
}

TW_DEVICE void tw_copy16(void* to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :: "r"(tw_near(to)), "l"(__cvta_generic_to_global(from)), "r"(inside ? 16 : 0)
               : "memory");
}
TW_DEVICE void tw_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending> TW_DEVICE void tw_wait() {
  asm volatile("cp.async.wait_group %0;" :: "n"(pending) : "memory");
}
#endif
"""
"""What a warp does together, as PTX inside CUDA C++; a host has its own (host/matrices.py)."""

PRELUDE = r"""
#ifndef TW_DEVICE
#define TW_DEVICE __device__ __forceinline__
#endif

typedef unsigned short tw_f16;
typedef unsigned short tw_bf16;

template <class To, class From> TW_DEVICE To tw_bitcast(From x) {
  static_assert(sizeof(To) == sizeof(From), "a bitcast keeps the size");
  union { From from; To to; } u;
  u.from = x;
  return u.to;
}
TW_DEVICE float tw_inf() { return tw_bitcast<float>(0x7f800000u); }
TW_DEVICE float tw_nan() { return tw_bitcast<float>(0x7fc00000u); }

TW_DEVICE float tw_from_bf16(tw_bf16 x) { return tw_bitcast<float>((unsigned)x << 16); }
TW_DEVICE tw_bf16 tw_to_bf16(float x) {
  unsigned u = tw_bitcast<unsigned>(x);
  if (x != x) return (tw_bf16)((u >> 16) | 0x40);
  return (tw_bf16)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
TW_DEVICE float tw_from_f16(tw_f16 x) {
  unsigned sign = (unsigned)(x & 0x8000) << 16, e = (x >> 10) & 31, m = x & 0x3ff;
  if (e == 31) return tw_bitcast<float>(sign | 0x7f800000u | (m << 13));
  if (e == 0) {
    float tiny = (float)m * 5.9604644775390625e-08f;  // 2 ** -24
    return sign ? -tiny : tiny;
  }
  return tw_bitcast<float>(sign | ((e + 112) << 23) | (m << 13));
}
TW_DEVICE tw_f16 tw_to_f16(float x) {
  unsigned u = tw_bitcast<unsigned>(x), sign = (u >> 16) & 0x8000, a = u & 0x7fffffff;
  if (a > 0x7f800000u) return (tw_f16)(sign | 0x7e00);
  if (a >= 0x477ff000u) return (tw_f16)(sign | 0x7c00);
  if (a < 0x38800000u) {  // below the least normal number: steps of 2 ** -24
    float scaled = tw_bitcast<float>(a) * 16777216.0f;
    unsigned whole = (unsigned)scaled;
    float rest = scaled - (float)whole;
    if (rest > 0.5f || (rest == 0.5f && (whole & 1))) ++whole;
    return (tw_f16)(sign | whole);
  }
  return (tw_f16)(sign | ((a - 0x38000000u + 0xfff + ((a >> 13) & 1)) >> 13));
}
TW_DEVICE float tw_round_f16(float x) { return tw_from_f16(tw_to_f16(x)); }
TW_DEVICE float tw_round_bf16(float x) { return tw_from_bf16(tw_to_bf16(x)); }

template <class T> TW_DEVICE T tw_neg(T x) { return (T)(0 - x); }
template <class T> TW_DEVICE T tw_abs(T x) { return x < T(0) ? (T)(T(0) - x) : x; }
template <> TW_DEVICE float tw_abs<float>(float x) { return fabsf(x); }
template <> TW_DEVICE double tw_abs<double>(double x) { return fabs(x); }
template <class T> TW_DEVICE T tw_min(T a, T b) { return a < b || a != a ? a : b; }
template <class T> TW_DEVICE T tw_max(T a, T b) { return a > b || a != a ? a : b; }
template <class T> TW_DEVICE T tw_div(T a, T b) { return b == T(0) ? T(0) : (T)(a / b); }
template <class T> TW_DEVICE T tw_floordiv(T a, T b) {
  T q = (T)(a / b);
  return (a % b != 0 && (a < 0) != (b < 0)) ? (T)(q - 1) : q;
}
template <> TW_DEVICE float tw_floordiv<float>(float a, float b) { return floorf(a / b); }
template <> TW_DEVICE double tw_floordiv<double>(double a, double b) { return floor(a / b); }
template <class T> TW_DEVICE T tw_mod(T a, T b) {
  T r = (T)(a % b);
  return (r != 0 && (r < 0) != (b < 0)) ? (T)(r + b) : r;
}
template <> TW_DEVICE float tw_mod<float>(float a, float b) {
  float r = fmodf(a, b);
  return (r != 0 && (r < 0) != (b < 0)) ? r + b : r;
}
template <> TW_DEVICE double tw_mod<double>(double a, double b) {
  double r = fmod(a, b);
  return (r != 0 && (r < 0) != (b < 0)) ? r + b : r;
}
template <class T> TW_DEVICE T tw_fmod(T a, T b) { return (T)(a % b); }
template <class T> TW_DEVICE T tw_shl(T a, T b) { return (T)(a << b); }
template <class T> TW_DEVICE T tw_shr(T a, T b) { return (T)(a >> b); }
template <class T> TW_DEVICE T tw_pow(T a, T b) {
  if (b < 0) return a == T(1) ? T(1) : a == T(-1) ? ((b & 1) ? T(-1) : T(1)) : T(0);
  T r = 1;
  for (; b; b = (T)(b >> 1), a = (T)(a * a)) if (b & 1) r = (T)(r * a);
  return r;
}
template <class T> TW_DEVICE bool tw_isnan(T x) { return x != x; }
template <class T> TW_DEVICE bool tw_isinf(T x) { return x == T(tw_inf()) || x == T(-tw_inf()); }
TW_DEVICE float tw_rsqrt(float x) { return 1.0f / sqrtf(x); }
TW_DEVICE double tw_rsqrt(double x) { return 1.0 / sqrt(x); }
TW_DEVICE float tw_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
TW_DEVICE double tw_sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
"""
