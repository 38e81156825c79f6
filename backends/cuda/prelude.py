"""What generated CUDA C++ stands on: the laws of the tensor IR that C++ states otherwise."""

from __future__ import annotations

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
