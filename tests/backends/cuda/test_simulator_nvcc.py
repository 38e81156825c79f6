"""What nvcc makes of CUDA C runs: C, library functions, calls, helpers in inline assembly."""

from __future__ import annotations

import math
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilewright.backends.cuda.simulator import SimulationError, Simulator

Array = np.ndarray[Any, np.dtype[Any]]
NVCC = shutil.which("nvcc")
pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not on the path")

SOURCE = r"""
#include <cuda_fp16.h>
#include <cstdint>
extern "C" __global__ void functions(const float *a, float *c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float x = a[i];
    c[i] = expf(x); c[n + i] = sinf(x * 1e6f); c[2 * n + i] = tanhf(x); c[3 * n + i] = erff(x);
    c[4 * n + i] = logf(fabsf(x)); c[5 * n + i] = powf(fabsf(x), 1.5f); c[6 * n + i] = x / 3.0f;
}
extern "C" __global__ void sgemm(const float *A, const float *B, float *C, int M, int N, int K) {
    __shared__ float a[16][16], b[16][16];
    int x = threadIdx.x, y = threadIdx.y, r = blockIdx.y * 16 + y, c = blockIdx.x * 16 + x;
    float s = 0;
    for (int k = 0; k < K; k += 16) {
        a[y][x] = A[r * K + k + x];
        b[y][x] = B[(k + y) * N + c];
        __syncthreads();
        for (int i = 0; i < 16; i++) s += a[y][i] * b[i][x];
        LAST_BARRIER;
    }
    C[r * N + c] = s;
}
__device__ __noinline__ float series(float x, int n) {
    float r = 0;
    for (int i = 0; i < n; i++) r = r * x + 1.f;
    return r;
}
extern "C" __global__ void calls(const float *a, float *c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = series(a[i], 5) + series(a[i] + 1, 3);
}
extern "C" __global__ void halves(const __half2 *a, const __half2 *b, __half2 *c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = __hfma2(a[i], b[i], __hmul2(a[i], a[i]));
}
__device__ __forceinline__ void copy16(void *to, const void *from, bool there) {
    uint32_t near = (uint32_t)__cvta_generic_to_shared(to);
    int size = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(near), "l"(from), "r"(size)
                 : "memory");
}
extern "C" __global__ void tile(const __half *A, const __half *B, float *C) {
    extern __shared__ __align__(16) __half s[];
    __half *a = s, *b = s + 256;
    int t = threadIdx.x;
    copy16(a + 8 * t, A + 8 * t, true);
    if (t < 16) copy16(b + 8 * t, B + 8 * t, true);
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncthreads();
    uint32_t x[4], y[2], at = (uint32_t)__cvta_generic_to_shared(a + t % 16 * 16 + t / 16 * 8);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(at) : "memory");
    at = (uint32_t)__cvta_generic_to_shared(b + t % 16 * 8);
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(y[0]), "=r"(y[1]) : "r"(at) : "memory");
    float d[4] = {1, 1, 1, 1};
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
    for (int i = 0; i < 4; i++) C[(t / 4 + i / 2 * 8) * 8 + t % 4 * 2 + i % 2] = d[i];
}
"""


@cache
def compiled(folder: str, barrier: str) -> str:
    source = Path(folder) / "kernels.cu"
    source.write_text(SOURCE.replace("LAST_BARRIER", barrier))
    assert NVCC is not None
    # With the places of lines, which are directives amid the instructions.
    command = [NVCC, "-ptx", "-lineinfo", "-arch=sm_80", str(source)]
    command += ["-o", str(Path(folder) / "kernels.ptx")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return (Path(folder) / "kernels.ptx").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("nvcc"))


def test_library_functions_are_right_to_a_few_units(folder: str) -> None:
    simulator = Simulator()
    n = 2000
    x = np.random.default_rng(0).standard_normal(n).astype(np.float32) * 3
    px, pc = simulator.place(x), simulator.allocate(7 * 4 * n)
    kernel = simulator.load(compiled(folder, "__syncthreads()")).kernel("functions")
    simulator.launch(kernel, -(-n // 128), 128, (px, pc, n))
    found = simulator.copy_out(pc, (7, n), np.float32)
    e = x.astype(np.float64)
    far = (x * np.float32(1e6)).astype(np.float64)
    erf = np.array([math.erf(v) for v in e])
    exact = [np.exp(e), np.sin(far), np.tanh(e), erf, np.log(np.abs(e)), np.abs(e) ** 1.5, e / 3]
    for got, expected in zip(found, exact, strict=True):
        assert np.max(np.abs(got - expected) / np.spacing(np.abs(expected).astype(np.float32))) < 3


def test_a_product_in_tiles_needs_both_its_barriers(folder: str) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 64, 64)).astype(np.float32)

    def run(barrier: str) -> Array:
        simulator = Simulator()
        pa, pb, pc = simulator.place(a), simulator.place(b), simulator.allocate(4 * 64 * 64)
        kernel = simulator.load(compiled(folder, barrier)).kernel("sgemm")
        simulator.launch(kernel, (4, 4), (16, 16), (pa, pb, pc, 64, 64, 64))
        return simulator.copy_out(pc, (64, 64), np.float32)

    found = run("__syncthreads()")
    np.testing.assert_allclose(found, a.astype(np.float64) @ b, rtol=0, atol=1e-4)
    with pytest.raises(SimulationError, match="race: writes"):
        run("")


def test_functions_are_called_and_halves_multiplied(folder: str) -> None:
    simulator = Simulator()
    module = simulator.load(compiled(folder, "__syncthreads()"))
    n = 1000
    x = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    px, pc = simulator.place(x), simulator.allocate(4 * n)
    simulator.launch(module.kernel("calls"), 8, 128, (px, pc, n))
    e = x.astype(np.float64)
    expected = sum(e**i for i in range(5)) + sum((e + 1) ** i for i in range(3))
    found = simulator.copy_out(pc, (n,), np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    a, b = np.random.default_rng(1).standard_normal((2, 2 * n)).astype(np.float16)
    pa, pb = simulator.place(a), simulator.place(b)
    simulator.launch(module.kernel("halves"), 8, 128, (pa, pb, pc, n))
    squares = a * a
    expected = (a.astype(np.float64) * b + squares).astype(np.float16)
    np.testing.assert_array_equal(simulator.copy_out(pc, (2 * n,), np.float16), expected)


def test_helpers_in_inline_assembly_drive_tensor_cores(folder: str) -> None:
    simulator = Simulator()
    rng = np.random.default_rng(0)
    a = rng.integers(-9, 9, (16, 16)).astype(np.float16)
    b = rng.integers(-9, 9, (16, 8)).astype(np.float16)
    pa, pb, pc = simulator.place(a), simulator.place(b), simulator.allocate(512)
    kernel = simulator.load(compiled(folder, "__syncthreads()")).kernel("tile")
    simulator.launch(kernel, 1, 32, (pa, pb, pc), shared_bytes=768)
    np.testing.assert_array_equal(simulator.copy_out(pc, (16, 8), np.float32), a @ b + 1)
    with pytest.raises(SimulationError, match="out of bounds"):
        simulator.launch(kernel, 1, 32, (pa, pb, pc), shared_bytes=767)
