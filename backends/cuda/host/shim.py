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
#define __launch_bounds__(n)
#define TW_DEVICE inline

struct tw_dim { unsigned x, y, z; };
static tw_dim gridDim, blockDim, blockIdx, threadIdx;

namespace tw_host {
struct Fiber { ucontext_t context; std::vector<char> stack; tw_dim at; bool done; };
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static Fiber* current;
static void (*body)(void**);
static void** arguments;
static int waited;

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
    f.done = false;
    f.at = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    if (f.stack.empty()) f.stack.resize(1 << 17);
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.data();
    f.context.uc_stack.ss_size = f.stack.size();
    f.context.uc_link = nullptr;
    makecontext(&f.context, start, 0);
  }
  unsigned left = n;
  for (unsigned round = 0; left; ++round) {
    unsigned ended = 0;
    for (unsigned k = 0; k < n; ++k) {
      // Another order in each round: what depends on it comes out wrong.
      unsigned i = order == 0 ? k : order == 1 ? n - 1 - k : (k * 7919u + round * 104729u) % n;
      if (order == 2 && n % 7919u == 0) i = k;
      Fiber& f = fibers[i];
      if (f.done) continue;
      current = &f;
      threadIdx = f.at;
      swapcontext(&scheduler, &f.context);
      ended += f.done;
    }
    if (ended && ended != left) return 1;
    left -= ended;
  }
  return 0;
}
}  // namespace tw_host

static void __syncthreads() {
  tw_host::Fiber* own = tw_host::current;
  swapcontext(&own->context, &tw_host::scheduler);
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
