#include "sinkhorn_narrow.cuh"

// Sums of 2^l over the points of each part, blockIdx.y, of `length` points, for u (n, DIM): (parts, 2, n), the largest
// l and the sum in units of 2 to it.
extern "C" __global__ void __launch_bounds__(128, 4)
minima(const real* u, int64 n, const real* v, const real* h, int64 m, int64 length, real scale, real half_order,
       real* partial) {
    SHARED(real, tile);
    int64 first = blockIdx.y * length, last = min(first + length, m);
    for (int64 base = int64(blockIdx.x) * blockDim.x; base < n; base += all()) {
        int64 i = base + threadIdx.x;
        real own[DIM];
#pragma unroll
        for (int axis = 0; axis < DIM; ++axis) own[axis] = u[min(i, n - 1) * DIM + axis];
        Running running;
        for (int64 begin = first; begin < last; begin += TILE) {
            __syncthreads();
            bool sound = !__syncthreads_or(fill(v, h, begin, last, tile));
#pragma unroll 1
            for (int k = 0; k < TILE; k += CHUNK) {
                real l[CHUNK];
                powers_of(own, tile, k, half_order, l);
#pragma unroll
                for (int c = 0; c < CHUNK; ++c) l[c] = fma(-scale, l[c], tile[DIM * TILE + k + c]);
                running.take(l, sound);
            }
            running.end_tile();
        }
        if (i < n) {
            partial[2 * blockIdx.y * n + i] = running.most;
            partial[(2 * blockIdx.y + 1) * n + i] = running.sum;
        }
    }
}
