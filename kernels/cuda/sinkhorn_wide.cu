// Points of any number of axes: a block goes through tiles of ROWS points u and COLUMNS points v, AXES at a time, and a
// thread through 4 by 4 pairs of them, as products of matrices are made.
#include "sinkhorn.cuh"

#define ROWS 64
#define COLUMNS 32
#define AXES 16
#define LANES 8                 // threads that share rows
#define ROW_STRIDE (ROWS + 4)   // of shared memory: multiples of 4 are read as vectors
#define COLUMN_STRIDE (COLUMNS + 4)

// Where a thread's pairs begin in a tile.
__device__ __forceinline__ int own_row() { return int(threadIdx.x) / LANES * 4; }
__device__ __forceinline__ int own_column() { return int(threadIdx.x) % LANES * 4; }

// AXES of `count` points from `begin` on, the last again where there are no more, as (AXES, stride); beyond d axes
// are 0.
__device__ __forceinline__ void fill(const real* points, int64 begin, int64 last, int count, int d, int axis,
                                     int stride, real* tile) {
    for (int k = threadIdx.x; k < count * AXES; k += blockDim.x) {
        int a = k % AXES;
        int64 row = min(begin + k / AXES, last - 1);
        tile[a * stride + k / AXES] = axis + a < d ? points[row * d + axis + a] : real(0);
    }
}

// |u - v|^2, or u.v, of a thread's pairs.
template <bool OF_PRODUCTS>
__device__ __forceinline__ void pairs(const real* u, int64 n, int64 base, const real* v, int64 last, int64 begin, int d,
                                      real* pool, real (&s)[4][4]) {
    real *rows = pool, *columns = pool + AXES * ROW_STRIDE;
    int row = own_row(), column = own_column();
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) s[i][j] = 0;
    for (int axis = 0; axis < d; axis += AXES) {
        __syncthreads();
        fill(u, base, n, ROWS, d, axis, ROW_STRIDE, rows);
        fill(v, begin, last, COLUMNS, d, axis, COLUMN_STRIDE, columns);
        __syncthreads();
#pragma unroll 4
        for (int a = 0; a < AXES; ++a) {
            real x[4], y[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                x[i] = rows[a * ROW_STRIDE + row + i], y[i] = columns[a * COLUMN_STRIDE + column + i];
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    real t = x[i] - y[j];
                    s[i][j] = OF_PRODUCTS ? fma(x[i], y[j], s[i][j]) : fma(t, t, s[i][j]);
                }
        }
    }
}

// Heights of a thread's columns, -inf where there are no more.
__device__ __forceinline__ void heights_of(const real* h, int64 begin, int64 last, real (&height)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        int64 column = begin + own_column() + j;
        height[j] = column < last ? h[column] : -real(1) / real(0);
    }
}

// As minima of few axes, for u (n, d). With PRODUCTS l = h + scale u.v takes the place of h - scale |u - v|^r.
extern "C" __global__ void __launch_bounds__(128, 4)
minima(const real* u, int64 n, const real* v, const real* h, int64 m, int64 length, real scale, real half_order, int d,
       real* partial) {
    SHARED(real, pool);
    int64 first = blockIdx.y * length, last = min(first + length, m);
    for (int64 base = int64(blockIdx.x) * ROWS; base < n; base += int64(gridDim.x) * ROWS) {
        Running running[4];
        for (int64 begin = first; begin < last; begin += COLUMNS) {
            real s[4][4], height[4];
            pairs<PRODUCTS>(u, n, base, v, last, begin, d, pool, s);
            heights_of(h, begin, last, height);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    s[i][j] = PRODUCTS ? fma(scale, s[i][j], height[j])
                                       : fma(-scale, power(s[i][j], half_order), height[j]);
                running[i].take(s[i], false);
                running[i].end_tile();
            }
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int place = int(threadIdx.x) % LANES * ROWS + own_row() + i;
            pool[place] = running[i].most, pool[LANES * ROWS + place] = running[i].sum;
        }
        __syncthreads();
        int64 row = base + threadIdx.x;
        if (threadIdx.x < ROWS && row < n) {
            Running whole;
            for (int lane = 0; lane < LANES; ++lane)
                whole.join(pool[lane * ROWS + threadIdx.x], pool[(LANES + lane) * ROWS + threadIdx.x]);
            partial[2 * blockIdx.y * n + row] = whole.most;
            partial[(2 * blockIdx.y + 1) * n + row] = whole.sum;
        }
    }
}

// As powers of few axes.
extern "C" __global__ void __launch_bounds__(128, 4)
powers(const real* u, int64 n, const real* v, const real* h, int64 m, int64 length, real scale, real half_order, int d,
       const real* minima, real* partial) {
    SHARED(real, pool);
    int64 first = blockIdx.y * length, last = min(first + length, m);
    for (int64 base = int64(blockIdx.x) * ROWS; base < n; base += int64(gridDim.x) * ROWS) {
        Totals<1> totals[4];
        for (int64 begin = first; begin < last; begin += COLUMNS) {
            real s[4][4], height[4];
            pairs<false>(u, n, base, v, last, begin, d, pool, s);
            heights_of(h, begin, last, height);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                real lift = minima[min(base + own_row() + i, n - 1)];
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    real p[1] = {power(s[i][j], half_order)};
                    totals[i].take(exp2(fma(-scale, p[0], height[j]) + lift), p);
                }
                totals[i].end_tile();
            }
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int place = int(threadIdx.x) % LANES * ROWS + own_row() + i;
            pool[place] = totals[i].sum[0], pool[LANES * ROWS + place] = totals[i].sum[1];
        }
        __syncthreads();
        int64 row = base + threadIdx.x;
        if (threadIdx.x < ROWS && row < n) {
            Totals<1> whole;
            for (int lane = 0; lane < LANES; ++lane) {
                whole.sum[0] += pool[lane * ROWS + threadIdx.x];
                whole.sum[1] += pool[(LANES + lane) * ROWS + threadIdx.x];
            }
            whole.store(partial, n, row);
        }
    }
}

// 2^(l + M), shape (m, n): rows are points v.
extern "C" __global__ void __launch_bounds__(128, 4)
shares(const real* u, int64 n, const real* v, const real* h, int64 m, int64 length, real scale, real half_order, int d,
       const real* minima, real* out) {
    SHARED(real, pool);
    int64 first = blockIdx.y * length, last = min(first + length, m);
    for (int64 base = int64(blockIdx.x) * ROWS; base < n; base += int64(gridDim.x) * ROWS) {
        for (int64 begin = first; begin < last; begin += COLUMNS) {
            real s[4][4], height[4];
            pairs<false>(u, n, base, v, last, begin, d, pool, s);
            heights_of(h, begin, last, height);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                int64 row = base + own_row() + i;
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    int64 column = begin + own_column() + j;
                    if (row < n && column < last)
                        out[column * n + row] = exp2(fma(-scale, power(s[i][j], half_order), height[j]) + minima[row]);
                }
            }
        }
    }
}
