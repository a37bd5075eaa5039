// The sums of pair_sums.cu on any number of axes: squared distances of SIDE x SIDE pairs are a matrix product of
// differences, FAN x FAN of them to a thread.
#include "pair_sums.cuh"

#define THREADS 256
#define SIDE 64     // of a tile of pairs
#define STEP 16     // axes, or points, in shared memory at a time; threads of a row of the block
#define FAN 4       // rows of a thread, which are neighbours, and its columns, which differ by multiples of STEP

constexpr int PITCH = SIDE + 16 / sizeof(real);  // of a row in shared memory: FAN neighbours are read at once

// Points first .. first + SIDE - 1, the last one in place of those behind it, on the axes axis .. axis + STEP - 1
__device__ __forceinline__ void load(const real* points, int64 first, int64 last, int dim, int axis, real* tile) {
    for (int e = threadIdx.x; e < SIDE * STEP; e += THREADS) {
        int row = e / STEP, j = e % STEP;
        tile[j * PITCH + row] = axis + j < dim ? points[min(first + row, last) * dim + axis + j] : real(0);
    }
}

// Squared distances of x from row `first` on to y from `begin` on; pool holds 2 STEP PITCH numbers.
__device__ __forceinline__ void squared(const real* x, const real* y, int64 n, int64 m, int dim, int64 first,
                                        int64 begin, real* pool, real (&found)[FAN][FAN]) {
    real *mine = pool, *others = pool + STEP * PITCH;
    int across = threadIdx.x % STEP, down = threadIdx.x / STEP;
#pragma unroll
    for (int e = 0; e < FAN * FAN; ++e) found[e / FAN][e % FAN] = 0;
    for (int axis = 0; axis < dim; axis += STEP) {
        __syncthreads();
        load(x, first, n - 1, dim, axis, mine);
        load(y, begin, m - 1, dim, axis, others);
        __syncthreads();
#pragma unroll 4
        for (int j = 0; j < STEP; ++j) {
            real a[FAN], b[FAN];
#pragma unroll
            for (int r = 0; r < FAN; ++r) {
                a[r] = mine[j * PITCH + FAN * down + r], b[r] = others[j * PITCH + across + r * STEP];
            }
#pragma unroll
            for (int e = 0; e < FAN * FAN; ++e) {
                real away = a[e / FAN] - b[e % FAN];
                found[e / FAN][e % FAN] = fma(away, away, found[e / FAN][e % FAN]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    wide_sums(const real* x, const real* y, const real* weights, int64 n, int64 m, int dim, int64 chunk, real scale,
              real power, real* parts) {
    SHARED(real, pool);
    int across = threadIdx.x % STEP, down = threadIdx.x / STEP;
    int64 start = (chunk + blockIdx.y) * CHUNK, end = min(start + int64(CHUNK), m);
    parts += int64(blockIdx.y) * 4 * n;
    for (int64 first = int64(blockIdx.x) * SIDE; first < n; first += int64(gridDim.x) * SIDE) {
        Sum sums[2][FAN];
#pragma unroll
        for (int r = 0; r < FAN; ++r) sums[0][r] = sums[1][r] = {0, 0};
        for (int64 begin = start; begin < end; begin += SIDE) {
            real l[FAN][FAN];
            squared(x, y, n, m, dim, first, begin, pool, l);
            real masses[FAN];
#pragma unroll
            for (int c = 0; c < FAN; ++c) {
                int64 column = begin + across + c * STEP;
                masses[c] = column < end ? weights[column] : real(0);
            }
#pragma unroll
            for (int r = 0; r < FAN; ++r) {
                real run = 0, squares = 0;
#pragma unroll
                for (int c = 0; c < FAN; ++c) {
                    real found = value(scale * l[r][c], power), term = masses[c] * found;
                    if (begin + across + c * STEP < end) run += term, squares = fma(term, found, squares);
                }
                add(sums[0][r], run), add(sums[1][r], squares);
            }
        }
#pragma unroll
        for (int q = 0; q < 2; ++q) {  // the STEP sums of a row become one, in their order
            __syncthreads();
#pragma unroll
            for (int r = 0; r < FAN; ++r) {
                int place = 2 * ((FAN * down + r) * STEP + across);
                pool[place] = sums[q][r].high, pool[place + 1] = sums[q][r].low;
            }
            __syncthreads();
            int64 i = first + threadIdx.x;
            if (threadIdx.x < SIDE && i < n) {
                Sum total = {0, 0};
                for (int k = 0; k < STEP; ++k) {
                    int place = 2 * (threadIdx.x * STEP + k);
                    add(total, Sum{pool[place], pool[place + 1]});
                }
                parts[2 * q * n + i] = total.high, parts[(2 * q + 1) * n + i] = total.low;
            }
        }
    }
}

// k of all pairs of x with y from `begin` on, (n, width)
extern "C" __global__ void __launch_bounds__(THREADS)
    pair_values(const real* x, const real* y, int64 n, int64 m, int dim, int64 begin, int64 width, real scale,
                real power, real* out) {
    SHARED(real, pool);
    int across = threadIdx.x % STEP, down = threadIdx.x / STEP;
    int64 wide = (width + SIDE - 1) / SIDE, high = (n + SIDE - 1) / SIDE;
    for (int64 tile = blockIdx.x; tile < wide * high; tile += gridDim.x) {
        int64 first = tile / wide * SIDE, from = tile % wide * SIDE;
        real l[FAN][FAN];
        squared(x, y, n, m, dim, first, begin + from, pool, l);
#pragma unroll
        for (int e = 0; e < FAN * FAN; ++e) {
            int64 row = first + FAN * down + e / FAN, column = from + across + e % FAN * STEP;
            if (row < n && column < width) out[row * width + column] = value(scale * l[e / FAN][e % FAN], power);
        }
    }
}

// F of the chunks from `chunk` on, of which `values` (n, width) are there: SIDE rows and 2 STEP axes to a block
extern "C" __global__ void __launch_bounds__(THREADS)
    wide_field(const real* x, const real* y, const real* weights, const real* values, int64 n, int64 m, int dim,
               int64 chunk, int64 width, real* parts) {
    SHARED(real, pool);
    real *pulls = pool, *others = pool + STEP * PITCH;  // (STEP, PITCH), and (STEP, 2 STEP)
    int across = threadIdx.x % STEP, down = threadIdx.x / STEP;
    int64 start = (chunk + blockIdx.y) * CHUNK, end = min(start + int64(CHUNK), m), high = (n + SIDE - 1) / SIDE;
    parts += int64(blockIdx.y) * 2 * dim * n;
    for (int64 tile = blockIdx.x; tile < high * ((dim + 2 * STEP - 1) / (2 * STEP)); tile += gridDim.x) {
        int64 first = tile % high * SIDE;
        int axis = int(tile / high) * 2 * STEP;
        real at[FAN][2];
        Sum sums[FAN][2];
#pragma unroll
        for (int e = 0; e < 2 * FAN; ++e) {
            int64 row = min(first + FAN * down + e / 2, n - 1);
            int j = axis + across + e % 2 * STEP;
            at[e / 2][e % 2] = j < dim ? x[row * dim + j] : real(0), sums[e / 2][e % 2] = {0, 0};
        }
        for (int64 begin = start; begin < end; begin += STEP) {
            int size = int(min(int64(STEP), end - begin));
            __syncthreads();
            for (int e = threadIdx.x; e < SIDE * STEP; e += THREADS) {
                int k = e % STEP;
                int64 row = min(first + e / STEP, n - 1), column = begin - chunk * CHUNK + k;
                pulls[k * PITCH + e / STEP] = k < size ? weights[begin + k] * values[row * width + column] : real(0);
            }
            for (int e = threadIdx.x; e < STEP * 2 * STEP; e += THREADS) {
                int k = e / (2 * STEP), j = axis + e % (2 * STEP);
                others[e] = k < size && j < dim ? y[(begin + k) * dim + j] : real(0);
            }
            __syncthreads();
            real run[FAN][2];
#pragma unroll
            for (int e = 0; e < 2 * FAN; ++e) run[e / 2][e % 2] = 0;
#pragma unroll 4
            for (int k = 0; k < size; ++k) {
                real b[2] = {others[2 * k * STEP + across], others[(2 * k + 1) * STEP + across]};
#pragma unroll
                for (int e = 0; e < 2 * FAN; ++e) {
                    real pull = pulls[k * PITCH + FAN * down + e / 2];
                    run[e / 2][e % 2] = fma(pull, at[e / 2][e % 2] - b[e % 2], run[e / 2][e % 2]);
                }
            }
#pragma unroll
            for (int e = 0; e < 2 * FAN; ++e) add(sums[e / 2][e % 2], run[e / 2][e % 2]);
        }
#pragma unroll
        for (int e = 0; e < 2 * FAN; ++e) {
            int64 row = first + FAN * down + e / 2, j = axis + across + e % 2 * STEP;
            if (row < n && j < dim) {
                parts[2 * j * n + row] = sums[e / 2][e % 2].high, parts[(2 * j + 1) * n + row] = sums[e / 2][e % 2].low;
            }
        }
    }
}
