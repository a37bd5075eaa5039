// Mixtures in many axes whose components have a basis each: what wide_full.py does between products of matrices. Arrays
// (components, height, d) hold t = x - a m of a group of components and a tile of points, in their bases or not.
#include "wide.cuh"

// The variance of k on axis e is at k row + e column.
__device__ __forceinline__ real spread_of(const real* variances, int row, int column, const real* at, int64 k, int e) {
    real v = variances[k * row + e * column];
    return fma(at[0] * v, at[0], at[1]);
}
__device__ __forceinline__ real slope_of(const real* variances, int row, int column, const real* at, int64 k, int e) {
    return fma(at[3], variances[k * row + e * column], at[4]) / spread_of(variances, row, column, at, k, e);
}

// Offsets and traces of B (2, count); a warp for each component.
extern "C" __global__ void offsets(const real* variances, int row, int column, const real* log_weights, int64 count,
                                   int dim, const real* at, real* found) {
    int lane = threadIdx.x % 32;
    for (int64 k = own() / 32; k < count; k += all() / 32) {
        real logs = 0, trace = 0;
        for (int e = lane; e < dim; e += 32) {
            logs += log(spread_of(variances, row, column, at, k, e));
            trace += slope_of(variances, row, column, at, k, e);
        }
        logs = warp_sum(logs), trace = warp_sum(trace);
        if (lane == 0) found[k] = LOG2_E * fma(real(-0.5), logs, log_weights[k]), found[count + k] = trace;
    }
}

// x - a m of n points and `count` components, (count, height, d).
extern "C" __global__ void deviations(const real* points, int64 n, int64 height, const real* means, int64 count,
                                      int dim, const real* at, real* found) {
    int64 size = n * dim;
    for (int64 e = own(); e < count * size; e += all()) {
        int64 k = e / size, place = e % size;
        found[k * height * dim + place] = fma(-at[0], means[k * dim + place % dim], points[place]);
    }
}

// Logits (n, count); a warp for each.
extern "C" __global__ void logits(const real* turned, int64 n, int64 height, const real* variances, int row, int column,
                                  const real* numbers, int64 count, int dim, const real* at, real* found) {
    int lane = threadIdx.x % 32;
    for (int64 e = own() / 32; e < n * count; e += all() / 32) {
        int64 i = e / count, k = e % count;
        const real* t = turned + (k * height + i) * dim;
        real sum = 0;
        for (int j = lane; j < dim; j += 32) {
            sum = fma(t[j] * t[j], real(0.5) * LOG2_E / spread_of(variances, row, column, at, k, j), sum);
        }
        sum = warp_sum(sum);
        if (lane == 0) found[e] = numbers[k] - sum;
    }
}

// t in the bases becomes b t, times weights (n, count) if there are any, or -t / T.
extern "C" __global__ void scaled(const real* turned, int64 n, int64 height, const real* variances, int row, int column,
                                  int64 count, int dim, const real* at, const real* weights, int kind, real* found) {
    int64 size = n * dim;
    for (int64 e = own(); e < count * size; e += all()) {
        int64 k = e / size, place = k * height * dim + e % size;
        int j = int(e % dim);
        real scale = kind == 2 ? -1 / spread_of(variances, row, column, at, k, j)
                               : slope_of(variances, row, column, at, k, j);
        if (kind == 1) scale *= weights[e % size / dim * count + k];
        found[place] = turned[place] * scale;
    }
}

// Sums (n, d) with r (mu m + B t) of a group added, in the order of its components.
extern "C" __global__ void absorb(const real* fields, int64 n, int64 height, const real* means, int64 count, int dim,
                                  const real* at, const real* weights, int first, const real* falls, real* sums) {
    for (int64 e = own(); e < n * dim; e += all()) {
        int64 i = e / dim;
        real sum = first ? real(0) : sums[e] * falls[i];
        for (int64 k = 0; k < count; ++k) {
            sum = fma(weights[i * count + k], at[2] * means[k * dim + e % dim], sum + fields[k * height * dim + e]);
        }
        sums[e] = sum;
    }
}

// tr B + (mu m + B t - o).(-T^-1 t - g) of n points and `count` components; a warp for each pair.
extern "C" __global__ void contractions(const real* lefts, const real* rights, int64 n, int64 height, const real* means,
                                        int64 count, int dim, const real* at, const real* traces, const real* outputs,
                                        const real* gradients, real* found) {
    int lane = threadIdx.x % 32;
    for (int64 e = own() / 32; e < n * count; e += all() / 32) {
        int64 i = e / count, k = e % count, place = (k * height + i) * dim;
        real sum = 0;
        for (int j = lane; j < dim; j += 32) {
            real left = fma(at[2], means[k * dim + j], -outputs[i * dim + j]) + lefts[place + j];
            sum = fma(left, rights[place + j] - gradients[i * dim + j], sum);
        }
        sum = warp_sum(sum);
        if (lane == 0) found[e] = traces[k] + sum;
    }
}
