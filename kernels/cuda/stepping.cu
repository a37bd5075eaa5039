// Steps of an embedded Runge-Kutta pair for points (n, dim) in many axes that share their step size, whose field is
// evaluated elsewhere. A slot has n * dim numbers, and n more behind them where log p is wanted; slots are the `slopes`
// slopes, then y, then another point. What is taken of them is y times weights[slopes] + h sum_s weights_s slope_s.
#include "common.cuh"

__device__ __forceinline__ real combined(const real* slots, int64 size, int slopes, const real* weights, real h,
                                         int64 i) {
    real sum = 0;
    for (int s = 0; s < slopes; ++s)
        if (weights[s] != 0) sum = fma(h * weights[s], slots[s * size + i], sum);
    return weights[slopes] != 0 ? fma(weights[slopes], slots[slopes * size + i], sum) : sum;
}

// The other point.
extern "C" __global__ void advance(real* slots, int64 size, int slopes, const real* weights, int row, real h) {
    weights += row * (slopes + 1);
    for (int64 i = own(); i < size; i += all())
        slots[(slopes + 1) * size + i] = combined(slots, size, slopes, weights, h, i);
}

__device__ __forceinline__ real square(real v, real before, real after, real least, real rtol, real atol) {
    real most = max(max(max(before, -before), max(after, -after)), least), scaled = v / fma(rtol, most, atol);
    return scaled * scaled;
}

// The fifth order's error, made smaller where the third order's is larger still.
__device__ __forceinline__ real tempered(real fifth, real third) {
    return fifth > 0 ? fifth * (fifth / (fifth + real(0.01) * third)) : fifth;
}

// Mean squares (n,), in tolerances at the larger of y and slot `other`, of what a row of weights, or it and the next,
// take: over the axes, and of log p where that is larger; infinite where one is no number. A warp for each point.
extern "C" __global__ void squares(const real* slots, int64 n, int dim, int log, int slopes, const real* weights,
                                   int row, int rows, real h, int other, real rtol, real atol, real* out) {
    weights += row * (slopes + 1);
    int64 size = n * (dim + log);
    int lane = threadIdx.x % 32;
    const real *before = slots + slopes * size, *after = slots + other * size, *second = weights + slopes + 1;
    for (int64 i = own() / 32; i < n; i += all() / 32) {
        real fifth = 0, third = 0;
        for (int j = lane; j < dim; j += 32) {
            int64 k = i * dim + j;
            real v = combined(slots, size, slopes, weights, h, k);
            fifth += square(v, before[k], after[k], 0, rtol, atol);
            if (rows == 2) v = combined(slots, size, slopes, second, h, k);
            if (rows == 2) third += square(v, before[k], after[k], 0, rtol, atol);
        }
#pragma unroll
        for (int bits = 16; bits > 0; bits /= 2) {
            fifth += __shfl_xor_sync(0xffffffffu, fifth, bits);
            third += __shfl_xor_sync(0xffffffffu, third, bits);
        }
        real worst = rows == 2 ? tempered(fifth / dim, third / dim) : fifth / dim;
        if (log) {  // an error of a log is a relative one of what it is the log of
            int64 k = n * dim + i;
            real v = combined(slots, size, slopes, weights, h, k), l = square(v, before[k], after[k], 1, rtol, atol);
            if (rows == 2) v = combined(slots, size, slopes, second, h, k);
            if (rows == 2) l = tempered(l, square(v, before[k], after[k], 1, rtol, atol));
            if (!(l <= worst)) worst = l;
        }
        if (lane == 0) out[i] = worst <= exp2(real(2048)) ? worst : exp2(real(2048));
    }
}
