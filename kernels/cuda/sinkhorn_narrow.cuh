// Points v of few axes, DIM of them, in tiles of shared memory, for threads that hold a point u each.
#pragma once
#include "sinkhorn.cuh"

#define TILE 128
#define CHUNK 8  // logits at a time

// The tile of points begin .. last - 1 and their heights as (DIM + 1, TILE), where there are no more points of height
// -inf. Answers whether there is a NaN among this thread's numbers.
__device__ __forceinline__ bool fill(const real* v, const real* h, int64 begin, int64 last, real* tile) {
    int there = int(min(last - begin, int64(TILE)));
    bool wrong = false;
    for (int k = threadIdx.x; k < TILE * DIM; k += blockDim.x) {
        int point = k / DIM;
        real value = point < there ? v[begin * DIM + k] : real(0);
        tile[k % DIM * TILE + point] = value;
        wrong = wrong || value != value;
    }
    for (int k = threadIdx.x; k < TILE; k += blockDim.x) {
        real height = k < there ? h[begin + k] : -real(1) / real(0);
        tile[DIM * TILE + k] = height;
        wrong = wrong || height != height;
    }
    return wrong;
}

// Powers of distances of u to the points k .. k + CHUNK - 1 of a tile.
__device__ __forceinline__ void powers_of(const real (&u)[DIM], const real* tile, int k, real half_order,
                                          real (&p)[CHUNK]) {
#pragma unroll
    for (int c = 0; c < CHUNK; ++c) p[c] = 0;
#pragma unroll
    for (int axis = 0; axis < DIM; ++axis) {
#pragma unroll
        for (int c = 0; c < CHUNK; ++c) {
            real t = u[axis] - tile[axis * TILE + k + c];
            p[c] = fma(t, t, p[c]);
        }
    }
#pragma unroll
    for (int c = 0; c < CHUNK; ++c) p[c] = power(p[c], half_order);
}
