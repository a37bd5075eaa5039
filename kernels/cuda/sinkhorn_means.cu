#include "sinkhorn_narrow.cuh"

// Sums of 2^(l + M) and of it times COUNT columns of a table (m, k), the first of which is `column`, or times |u -
// v|^r, over the points of each part: (parts, COUNT + 1, n), the weights last.
template <bool OF_POWERS, int COUNT>
__device__ __forceinline__ void sums(const real* u, int64 n, const real* v, const real* h, int64 m, int64 length,
                                     real scale, real half_order, const real* minima, const real* values, int k_all,
                                     int column, real* partial) {
    SHARED(real, tile);
    real* table = tile + (DIM + 1) * TILE;  // (COUNT, TILE)
    int64 first = blockIdx.y * length, last = min(first + length, m);
    for (int64 base = int64(blockIdx.x) * blockDim.x; base < n; base += all()) {
        int64 i = base + threadIdx.x;
        real own[DIM], lift = minima[min(i, n - 1)];
#pragma unroll
        for (int axis = 0; axis < DIM; ++axis) own[axis] = u[min(i, n - 1) * DIM + axis];
        Totals<COUNT> totals;
        for (int64 begin = first; begin < last; begin += TILE) {
            __syncthreads();
            fill(v, h, begin, last, tile);
            for (int k = threadIdx.x; !OF_POWERS && k < TILE * COUNT; k += blockDim.x) {
                int64 row = begin + k / COUNT;
                table[k % COUNT * TILE + k / COUNT] = row < last ? values[row * k_all + column + k % COUNT] : real(0);
            }
            __syncthreads();
#pragma unroll 1
            for (int k = 0; k < TILE; k += CHUNK) {
                real p[CHUNK];
                powers_of(own, tile, k, half_order, p);
#pragma unroll
                for (int c = 0; c < CHUNK; ++c) {
                    real weight = exp2(fma(-scale, p[c], tile[DIM * TILE + k + c]) + lift), row[COUNT];
#pragma unroll
                    for (int j = 0; j < COUNT; ++j) row[j] = OF_POWERS ? p[c] : table[j * TILE + k + c];
                    totals.take(weight, row);
                }
            }
            totals.end_tile();
        }
        if (i < n) totals.store(partial, n, i);
    }
}

extern "C" __global__ void __launch_bounds__(128, 3)
means(const real* u, int64 n, const real* v, const real* h, int64 m, int64 length, real scale, real half_order,
      const real* minima, const real* values, int k_all, int column, real* partial) {
    sums<false, VALUES>(u, n, v, h, m, length, scale, half_order, minima, values, k_all, column, partial);
}

// As means, of |u - v|^r.
extern "C" __global__ void __launch_bounds__(128, 3)
powers(const real* u, int64 n, const real* v, const real* h, int64 m, int64 length, real scale, real half_order,
       const real* minima, real* partial) {
    sums<true, 1>(u, n, v, h, m, length, scale, half_order, minima, u, 0, 0, partial);
}
