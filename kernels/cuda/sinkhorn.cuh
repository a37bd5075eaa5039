// Logits of soft minima and their running sums:
//
//     l_ij = h_j - scale |u_i - v_j|^r        in bits
//
// A sum of powers of two of unknown size is kept by its largest exponent so far. ORDER is r where that is 1 or 2, else
// 0, and r comes as half of it.
#pragma once
#include "common.cuh"

#ifdef SINGLE
#define UNFELT real(-64)  // terms by so many bits below the largest are lost to rounding, 2^35 of them
#else
#define UNFELT real(-100)
#endif

__device__ __forceinline__ real power(real square, real half_order) {
#if ORDER == 2
    return square;
#elif ORDER == 1
    return sqrt(square);
#else
    return pow(square, half_order);
#endif
}

// 2^most (sum + tile). Terms of a tile are summed before they join, so that a sum has few roundings; where all terms
// are 0, most is LOWEST. A NaN among terms is in the sum.
struct Running {
    real most = LOWEST, tile = 0, sum = 0;

    // `sound`: no term is NaN unless all are, and those that are not felt may be left out.
    template <int N>
    __device__ __forceinline__ void take(const real (&l)[N], bool sound) {
        real top = l[0];
#pragma unroll
        for (int c = 1; c < N; ++c) top = l[c] > top ? l[c] : top;
        if (sound && top < most + UNFELT) return;
        if (top > most) {
            real less = exp2(most - top);
            tile *= less, sum *= less, most = top;
        }
        real terms = exp2(l[0] - most);
#pragma unroll
        for (int c = 1; c < N; ++c) terms += exp2(l[c] - most);
        tile += terms;
    }

    __device__ __forceinline__ void end_tile() { sum += tile, tile = 0; }

    // The sum of both, after tiles have ended.
    __device__ __forceinline__ void join(real other_most, real other_sum) {
        real top = other_most > most ? other_most : most;
        sum = sum * exp2(most - top) + other_sum * exp2(other_most - top);
        most = top;
    }
};

// Sums of weights and of weighted numbers, tile by tile.
template <int N>
struct Totals {
    real tile[N + 1], sum[N + 1];

    __device__ __forceinline__ Totals() {
#pragma unroll
        for (int c = 0; c <= N; ++c) tile[c] = 0, sum[c] = 0;
    }

    __device__ __forceinline__ void take(real weight, const real (&values)[N]) {
#pragma unroll
        for (int c = 0; c < N; ++c) tile[c] = fma(weight, values[c], tile[c]);
        tile[N] += weight;
    }

    __device__ __forceinline__ void end_tile() {
#pragma unroll
        for (int c = 0; c <= N; ++c) sum[c] += tile[c], tile[c] = 0;
    }

    // To (parts, N + 1, n), for row i of this part.
    __device__ __forceinline__ void store(real* partial, int64 n, int64 i) const {
#pragma unroll
        for (int c = 0; c <= N; ++c) partial[(int64(blockIdx.y) * (N + 1) + c) * n + i] = sum[c];
    }
};
