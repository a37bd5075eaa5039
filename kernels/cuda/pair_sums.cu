// Sums over pairs of points x (n, DIM) and y (m, DIM), with l = scale |x_i - y_j|^2 and `value` as of pair_sums.cuh:
//
//     row_sums     S_i = sum_j w_j k(l_ij),   T_i = sum_j w_j k(l_ij)^2
//     field        F_i = sum_j w_j k(l_ij) (x_i - y_j)
//
// A thread has one x in registers, and all threads read the same y of a tile in shared memory; terms are added RUN at a
// time, and runs without loss. Every row of the grid has a chunk of points y, whose sums go to `parts`.
#include "pair_sums.cuh"

#define THREADS 128
#define TILE 128  // points y in shared memory, each with its weight, from one multiple of 16 bytes to another
#define RUN 32

constexpr int LINE = 16 / sizeof(real), STRIDE = (DIM + LINE) / LINE * LINE;

// Points y begin .. begin + size - 1 and their weights; nobody still reads what was there, and all may read what is.
__device__ __forceinline__ void load(const real* y, const real* weights, int64 begin, int size, real* tile) {
    __syncthreads();
    for (int e = threadIdx.x; e < size * DIM; e += THREADS) tile[e / DIM * STRIDE + e % DIM] = y[begin * DIM + e];
    for (int k = threadIdx.x; k < size; k += THREADS) tile[k * STRIDE + DIM] = weights[begin + k];
    __syncthreads();
}

__device__ __forceinline__ real square(const real (&at)[DIM], const real* point, real (&away)[DIM]) {
    real sum = 0;
#pragma unroll
    for (int j = 0; j < DIM; ++j) away[j] = at[j] - point[j], sum = fma(away[j], away[j], sum);
    return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS, 4)
    row_sums(const real* x, const real* y, const real* weights, int64 n, int64 m, int64 chunk, real scale, real power,
             real* parts) {
    SHARED(real, tile);
    int64 start = (chunk + blockIdx.y) * CHUNK, end = min(start + int64(CHUNK), m);
    parts += int64(blockIdx.y) * 4 * n;
    for (int64 base = int64(blockIdx.x) * THREADS; base < n; base += int64(gridDim.x) * THREADS) {
        int64 i = min(base + int64(threadIdx.x), n - 1);
        real at[DIM], away[DIM];
#pragma unroll
        for (int j = 0; j < DIM; ++j) at[j] = x[i * DIM + j];
        Sum sum = {0, 0}, squares = {0, 0};
        for (int64 begin = start; begin < end; begin += TILE) {
            int size = int(min(int64(TILE), end - begin));
            load(y, weights, begin, size, tile);
            for (int from = 0; from < size; from += RUN) {
                real first = 0, second = 0;
                int to = min(from + RUN, size);
#pragma unroll 4
                for (int k = from; k < to; ++k) {
                    const real* point = tile + k * STRIDE;
                    real found = value(scale * square(at, point, away), power), term = point[DIM] * found;
                    first += term, second = fma(term, found, second);
                }
                add(sum, first), add(squares, second);
            }
        }
        if (base + threadIdx.x < n) {
            parts[i] = sum.high, parts[n + i] = sum.low;
            parts[2 * n + i] = squares.high, parts[3 * n + i] = squares.low;
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    field(const real* x, const real* y, const real* weights, int64 n, int64 m, int64 chunk, real scale, real power,
          real* parts) {
    SHARED(real, tile);
    int64 start = (chunk + blockIdx.y) * CHUNK, end = min(start + int64(CHUNK), m);
    parts += int64(blockIdx.y) * 2 * DIM * n;
    for (int64 base = int64(blockIdx.x) * THREADS; base < n; base += int64(gridDim.x) * THREADS) {
        int64 i = min(base + int64(threadIdx.x), n - 1);
        real at[DIM], away[DIM];
        Sum sums[DIM];
#pragma unroll
        for (int j = 0; j < DIM; ++j) at[j] = x[i * DIM + j], sums[j] = {0, 0};
        for (int64 begin = start; begin < end; begin += TILE) {
            int size = int(min(int64(TILE), end - begin));
            load(y, weights, begin, size, tile);
            for (int from = 0; from < size; from += RUN) {
                real run[DIM];
#pragma unroll
                for (int j = 0; j < DIM; ++j) run[j] = 0;
                int to = min(from + RUN, size);
#pragma unroll 2
                for (int k = from; k < to; ++k) {
                    const real* point = tile + k * STRIDE;
                    real pull = point[DIM] * value(scale * square(at, point, away), power);
#pragma unroll
                    for (int j = 0; j < DIM; ++j) run[j] = fma(pull, away[j], run[j]);
                }
#pragma unroll
                for (int j = 0; j < DIM; ++j) add(sums[j], run[j]);
            }
        }
        if (base + threadIdx.x < n) {
#pragma unroll
            for (int j = 0; j < DIM; ++j) parts[2 * j * n + i] = sums[j].high, parts[(2 * j + 1) * n + i] = sums[j].low;
        }
    }
}
