// Pairs of points and components in many axes: tiles of SIDE x SIDE pairs to a block, FAN x FAN pairs to a thread, STEP
// axes in shared memory at a time, as in a product of matrices; and sums along rows in an order that is always one.
#pragma once
#include "common.cuh"

#define PAIR_THREADS 256
#define ROW_THREADS 128
#define WARPS (ROW_THREADS / 32)
#define FEW 8    // components that a warp of a point feels are summed one by one if there are no more
#define STEP 16  // axes in shared memory; threads of a row of a block of pairs
#ifdef SINGLE
#define FAN 8
#define DEEP 1  // blocks of differences on a multiprocessor: 64 sums of a thread leave no room for more everywhere
#define EPS real(1.1920928955078125e-07)
#else
#define FAN 4
#define DEEP 2
#define EPS real(2.2204460492503131e-16)
#endif
#define SIDE (STEP * FAN)
#define PITCH (SIDE + 1)  // of an axis in shared memory: neighbours of a column lie in different banks
#define EVERYONE 0xffffffffu

// What all lanes of a warp have, added; each lane has the same bits.
__device__ __forceinline__ real warp_sum(real value) {
#pragma unroll
    for (int bit = 16; bit > 0; bit >>= 1) value += __shfl_xor_sync(EVERYONE, value, bit);
    return value;
}
__device__ __forceinline__ real warp_max(real value) {
#pragma unroll
    for (int bit = 16; bit > 0; bit >>= 1) value = max(value, __shfl_xor_sync(EVERYONE, value, bit));
    return value;
}

// Together: the same of a block of ROW_THREADS, with room for a number of each warp.
__device__ __forceinline__ real block_sum(real value, real* room) {
    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = value;
    __syncthreads();
    value = room[0];
#pragma unroll
    for (int w = 1; w < ROW_THREADS / 32; ++w) value += room[w];
    return value;
}
__device__ __forceinline__ real block_max(real value, real* room) {
    value = warp_max(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = value;
    __syncthreads();
    value = room[0];
#pragma unroll
    for (int w = 1; w < ROW_THREADS / 32; ++w) value = max(value, room[w]);
    return value;
}

// Together: rows first .. first + SIDE - 1 of an array (count, dim), the last one in place of those behind it, on the
// axes axis .. axis + STEP - 1, axis by axis; 0 where there is no axis.
__device__ __forceinline__ void load_rows(const real* rows, int64 first, int64 count, int dim, int axis, real* tile) {
    for (int e = threadIdx.x; e < SIDE * STEP; e += PAIR_THREADS) {
        int row = e / STEP, j = e % STEP;
        tile[j * PITCH + row] = axis + j < dim ? rows[min(first + row, count - 1) * dim + axis + j] : real(0);
    }
}

// Together: numbers of the axes axis .. axis + STEP - 1, one for all where `wide` is 0.
__device__ __forceinline__ void load_axes(const real* numbers, int wide, int dim, int axis, real* row) {
    if (threadIdx.x < STEP) {
        int j = axis + threadIdx.x;
        row[threadIdx.x] = j < dim ? numbers[j * wide] : real(0);
    }
}
