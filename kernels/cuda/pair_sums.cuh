// Functions of a squared distance times a scale, l, and sums whose roundings do not grow with the number of terms.
//
//     GAUSSIAN   2^l                  POWER      (1 + l)^-a            PULL       2^(-sqrt l) / sqrt l, 0 at l = 0
//     LAPLACE    2^(-sqrt l)          DISTANCE   sqrt l                INVERSE    l^-a, 0 at l = 0
//
// A module has one of them, KIND, and HALVES = 2 a where that is a small whole number, else 0. Points y come in chunks
// of CHUNK. Sums of a chunk go to parts (chunks, channels, 2, n), high and low, and `merge` adds chunks in their order,
// so that no sum depends on how many are worked on together, nor on n.
#pragma once
#include "common.cuh"

enum Kind { GAUSSIAN, LAPLACE, POWER, DISTANCE, PULL, INVERSE };

// l^(-HALVES / 2) for l > 0: 1 / sqrt or 1 / l, multiplied
__device__ __forceinline__ real inverse_halves(real l) {
    real base = HALVES % 2 ? rsqrt(l) : 1 / l, result = HALVES % 2 ? base : real(1);
    if (HALVES % 2) base *= base;
#pragma unroll
    for (int n = HALVES / 2; n > 0; n >>= 1) {
        if (n & 1) result *= base;
        if (n > 1) base *= base;
    }
    return result;
}

// No comparison lets a NaN through as a number.
__device__ __forceinline__ real value(real l, real power) {
    if constexpr (KIND == GAUSSIAN) return exp2(l);
    if constexpr (KIND == LAPLACE) return exp2(-sqrt(l));
    if constexpr (KIND == POWER) return HALVES ? inverse_halves(1 + l) : exp2(-power * LOG2_E * log1p(l));
    if constexpr (KIND == DISTANCE) return sqrt(l);
    if constexpr (KIND == PULL) {
        real root = sqrt(l);
        return l == 0 ? real(0) : exp2(-root) / root;
    }
    if constexpr (KIND == INVERSE) return l == 0 ? real(0) : HALVES ? inverse_halves(l) : exp2(-power * log2(l));
}

// A sum and what rounding took from it (Knuth's two-sum): its error is that of rounding its value once, and of squares.
struct Sum {
    real high, low;
};

__device__ __forceinline__ void add(Sum& sum, real term) {
    real total = sum.high + term, grown = total - sum.high;
    sum.low += (sum.high - (total - grown)) + (term - grown);
    sum.high = total;
}

__device__ __forceinline__ void add(Sum& sum, Sum part) {
    add(sum, part.high);
    sum.low += part.low;
}

// Where a sum has left all numbers, its low part is none.
__device__ __forceinline__ double rounded(Sum sum) {
    return isfinite(sum.high) ? double(sum.high) + double(sum.low) : double(sum.high);
}

#define CHUNK 2048  // as in pair_sums.py

// Sums (n, channels), rounded, of `count` more chunks; high and low of all before, (channels, 2, n), wait in totals.
extern "C" __global__ void merge(const real* parts, int64 n, int channels, int count, int first, int last, real* totals,
                                 double* out) {
    for (int64 e = own(); e < n * channels; e += all()) {
        int64 c = e / n, i = e % n, place = 2 * c * n + i, stride = 2 * int64(channels) * n;
        Sum total = {0, 0};
        if (!first) total = {totals[place], totals[place + n]};
        for (int g = 0; g < count; ++g) add(total, Sum{parts[g * stride + place], parts[g * stride + place + n]});
        if (last) {
            out[i * channels + c] = rounded(total);
        } else {
            totals[place] = total.high, totals[place + n] = total.low;
        }
    }
}
