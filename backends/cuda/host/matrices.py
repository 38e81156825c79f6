"""Instructions of a warp on the host: products of tiles, their rows, copies in the background.

Written from NVIDIA's description of the fragments (PTX ISA, "Matrix Fragments for mma" and
"ldmatrix"), not from the tables of tensor/instructions.py: each is a check on the other.
"""

from __future__ import annotations

MATRICES = r"""
#define TW_HOST

namespace tw_host {
// Shows words to the warp and waits until all of it do so; what the others show is in view().
static unsigned long meet(const unsigned* words, unsigned count) {
  Fiber* own = current;
  unsigned first = (own - &fibers[0]) & ~31u;
  unsigned long now = ++own->shuffles;
  memcpy(own->shown[now & 1], words, 4 * count);
  for (unsigned i = first; i < first + 32; ++i)
    while (fibers[i].shuffles < now) swapcontext(&own->context, &scheduler);
  return now;
}
static const unsigned* view(unsigned long when, unsigned lane) {
  return fibers[((current - &fibers[0]) & ~31u) + lane].shown[when & 1];
}
static unsigned own_lane() { return (current - &fibers[0]) & 31; }

// c += a b for tiles of 16 x depth and depth x 8, whose elements take so many bits.
template <class Value>
static void multiply(float* c, const unsigned* a, const unsigned* b, int depth, int bits,
                     Value value) {
  int each = 32 / bits, left = 16 * depth / 32 / each, right = depth * 8 / 32 / each;
  unsigned words[8];
  memcpy(words, a, 4 * left);
  memcpy(words + left, b, 4 * right);
  unsigned long when = meet(words, left + right);
  auto element = [&](unsigned lane, int word, int part) {
    unsigned bitsOf = view(when, lane)[word];
    return value(bits == 32 ? bitsOf : (bitsOf >> (16 * part)) & 0xffff);
  };
  unsigned group = own_lane() >> 2, pair = own_lane() & 3;
  for (int n = 0; n < 4; ++n) {
    int row = group + (n & 2 ? 8 : 0), column = pair * 2 + (n & 1);
    float sum = c[n];
    for (int k = 0; k < depth; ++k) {
      // Along k, four lanes hold one word each: 4 words of neighbours, then the next 4.
      int inside = k % (4 * each), block = k / (4 * each);
      unsigned holder = inside / each;
      float x = element((row & 7) * 4 + holder, block * 2 + (row >> 3), inside % each);
      float y = element(column * 4 + holder, left + block, inside % each);
      sum += x * y;
    }
    c[n] = sum;
  }
}
static void finish(std::vector<Copy>& copies) {
  for (Copy& x : copies) {
    if (x.from) memcpy(x.to, x.from, 16);
    else memset(x.to, 0, 16);
  }
  copies.clear();
}
}  // namespace tw_host

static float tw_from_f16(unsigned short);
static float tw_from_bf16(unsigned short);

#define TW_MMA_HALVES(kind, depth)                                                            \
  static void tw_mma_m16n8k##depth##_##kind(float* c, const unsigned short* a,                \
                                            const unsigned short* b) {                        \
    unsigned left[4], right[2];                                                               \
    memcpy(left, a, depth);                                                                   \
    memcpy(right, b, depth / 2);                                                              \
    tw_host::multiply(c, left, right, depth, 16,                                              \
                      [](unsigned x) { return tw_from_##kind((unsigned short)x); });          \
  }
TW_MMA_HALVES(f16, 16)
TW_MMA_HALVES(bf16, 16)
TW_MMA_HALVES(f16, 8)
static void tw_mma_m16n8k8_tf32(float* c, const float* a, const float* b) {
  unsigned left[4], right[2];
  memcpy(left, a, 16);
  memcpy(right, b, 8);
  tw_host::multiply(c, left, right, 8, 32, [](unsigned x) {
    // Numbers of ten bits after the point, the nearest, ties away from zero.
    if ((x & 0x7f800000u) != 0x7f800000u) x = (x + 0x1000u) & ~0x1fffu;
    float f;
    memcpy(&f, &x, 4);
    return f;
  });
}

template <int count, bool transposed>
static void tw_ldmatrix(unsigned short* f, const unsigned short* row) {
  unsigned long long at = (unsigned long long)row;
  unsigned words[2] = {(unsigned)at, (unsigned)(at >> 32)};
  unsigned long when = tw_host::meet(words, 2);
  unsigned lane = tw_host::own_lane();
  for (int tile = 0; tile < count; ++tile) {
    for (int e = 0; e < 2; ++e) {
      unsigned r = lane / 4, c = lane % 4 * 2 + e;
      const unsigned* shown = tw_host::view(when, tile * 8 + (transposed ? c : r));
      unsigned long long from = shown[0] | (unsigned long long)shown[1] << 32;
      f[tile * 2 + e] = ((const unsigned short*)from)[transposed ? r : c];
    }
  }
}

// What is copied is spoiled until it is waited for.
static void tw_copy16(void* to, const void* from, bool inside) {
  memset(to, 0xff, 16);
  tw_host::current->begun.push_back({(char*)to, inside ? (const char*)from : nullptr});
}
static void tw_commit() {
  tw_host::Fiber* own = tw_host::current;
  own->groups.emplace_back();
  own->groups.back().swap(own->begun);
}
template <int pending> static void tw_wait() {
  std::vector<std::vector<tw_host::Copy>>& groups = tw_host::current->groups;
  while (groups.size() > pending) {
    tw_host::finish(groups.front());
    groups.erase(groups.begin());
  }
}
"""
