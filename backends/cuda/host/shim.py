"""The header that stands for CUDA: threads of a block are fibers, which take turns at barriers."""

from __future__ import annotations

SHIM = r"""
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <vector>

#define __global__
#define __restrict__ __restrict
#define __shared__ static
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define TW_DEVICE inline

struct tw_dim { unsigned x, y, z; };
static tw_dim gridDim, blockDim, blockIdx, threadIdx;

namespace tw_host {
struct Copy {  // sixteen bytes in the background; from nowhere: zeros
  char* to;
  const char* from;
};
struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  tw_dim at;
  bool done, waits;       // waits: at a barrier of the block
  unsigned long shuffles;  // of its warp, begun
  long long held[2];      // what it shows in the even and the odd ones
  unsigned shown[2][8];   // the same, of instructions that take more
  std::vector<Copy> begun;                // since the last group
  std::vector<std::vector<Copy>> groups;  // oldest first
};
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static Fiber* current;
static void (*body)(void**);
static void** arguments;

static void start() {
  body(arguments);
  current->done = true;
  swapcontext(&current->context, &scheduler);
}

// Runs one block; returns 1 where threads part: some end while others wait.
static int block(unsigned order) {
  unsigned n = blockDim.x * blockDim.y * blockDim.z;
  if (fibers.size() < n) fibers.resize(n);
  for (unsigned i = 0; i < n; ++i) {
    Fiber& f = fibers[i];
    f.done = f.waits = false;
    f.shuffles = 0;
    f.begun.clear();
    f.groups.clear();
    f.at = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    if (f.stack.empty()) f.stack.resize(1 << 17);
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.data();
    f.context.uc_stack.ss_size = f.stack.size();
    f.context.uc_link = nullptr;
    makecontext(&f.context, start, 0);
  }
  unsigned left = n, waiting = 0;
  for (unsigned round = 0; left; ++round) {
    bool moved = false;
    for (unsigned k = 0; k < n; ++k) {
      // Another order in each round: what depends on it comes out wrong.
      unsigned i = order == 0 ? k : order == 1 ? n - 1 - k : (k * 7919u + round * 104729u) % n;
      if (order == 2 && n % 7919u == 0) i = k;
      Fiber& f = fibers[i];
      if (f.done || f.waits) continue;
      current = &f;
      threadIdx = f.at;
      unsigned long before = f.shuffles;
      swapcontext(&scheduler, &f.context);
      left -= f.done;
      waiting += f.waits;
      moved |= f.done || f.waits || f.shuffles != before;
    }
    if (left && waiting == left) {
      if (left != n) return 1;
      for (unsigned i = 0; i < n; ++i) fibers[i].waits = false;
      waiting = 0;
      moved = true;
    }
    if (!moved) return 1;
  }
  return 0;
}

// Shows a value to the warp, waits until all of it do so, and reads another thread's.
static long long exchange(long long mine, unsigned lane) {
  Fiber* own = current;
  unsigned me = own - &fibers[0], first = me & ~31u;
  unsigned n = blockDim.x * blockDim.y * blockDim.z;
  unsigned long now = ++own->shuffles;
  own->held[now & 1] = mine;
  for (unsigned i = first; i < first + 32 && i < n; ++i)
    while (fibers[i].shuffles < now) swapcontext(&own->context, &scheduler);
  return fibers[first + lane < n ? first + lane : me].held[now & 1];
}
}  // namespace tw_host

static void __syncthreads() {
  tw_host::Fiber* own = tw_host::current;
  own->waits = true;
  swapcontext(&own->context, &tw_host::scheduler);
}

template <class T> static T tw_lane(T value, unsigned lane) {
  long long word = 0;
  memcpy(&word, &value, sizeof value);
  word = tw_host::exchange(word, lane);
  memcpy(&value, &word, sizeof value);
  return value;
}
template <class T> static T __shfl_xor_sync(unsigned, T value, unsigned mask) {
  unsigned me = tw_host::current - &tw_host::fibers[0];
  return tw_lane(value, (me & 31) ^ mask);
}
template <class T> static T __shfl_sync(unsigned, T value, unsigned lane, unsigned width = 32) {
  unsigned me = tw_host::current - &tw_host::fibers[0];
  return tw_lane(value, (me & 31 & ~(width - 1)) | (lane & (width - 1)));
}

// An argument of any type out of the array that they all come in.
struct tw_argument {
  void* value;
  explicit tw_argument(void* v) : value(v) {}
  template <class T> operator T*() const { return (T*)value; }
  operator long long() const { return (long long)value; }
};

extern "C" int tw_launch(void (*body)(void**), void** arguments, const unsigned* grid,
                         const unsigned* block, unsigned order) {
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block[0], block[1], block[2]};
  tw_host::body = body;
  tw_host::arguments = arguments;
  for (unsigned z = 0; z < grid[2]; ++z)
    for (unsigned y = 0; y < grid[1]; ++y)
      for (unsigned x = 0; x < grid[0]; ++x) {
        blockIdx = {x, y, z};
        if (tw_host::block(order)) return 1;
      }
  return 0;
}
"""
