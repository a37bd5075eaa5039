// Components of a mixture as a thread's point meets them: tiles of their numbers in shared memory, and their logits.
//
// The host defines DIM; KIND, how covariances are stored: 0 variances v_k I, 1 variances on the axes, 2 a basis and
// variances for each component; ONE, whether all components have the variances of the first; TURNED, whether means and
// variances are in one basis of all components (KIND 1); TILE, how many components are in shared memory at a time.
//
// A block's threads work on the same components: they must all call what is said to be `together`.
#pragma once
#include "common.cuh"

// Together: before row j of a basis. Without it the assembler reads all of a basis at once, and once for both times it
// is used, and registers do not suffice; rows that follow each other at once are so many that latency is hidden. An
// emulator has no registers to save, and takes turns only where a test asks whether all threads of a warp do.
#ifndef TURNS
#ifdef __CUDACC__
#define TURNS __syncwarp()
#else
#define TURNS
#endif
#endif
#define TAKE_TURNS(j) \
    if (j % (DIM < 32 ? 32 / DIM : 1) == 0) TURNS

#define PARTS (KIND == 0 ? 1 : DIM)  // variances of a component
#define TIMES (KIND == 1 ? DIM : 1)  // columns of a, q, mu, beta, gamma
#define AT (5 * TIMES)
#define SAME (ONE && KIND != 2)  // one covariance of all components, in one basis
// Rows begin at multiples of 16 bytes, behind the times at TILE_AT, so that several numbers are read at once.
#define WHOLE(n) (((n) + 16 / int(sizeof(real)) - 1) / (16 / int(sizeof(real))) * (16 / int(sizeof(real))))
#define TILE_AT WHOLE(AT)
#if KIND == 0
#define ROW WHOLE(DIM + 4)  // m, precision, offset, pull, slope
#define CHUNK 8
#elif KIND == 1
#define ROW WHOLE(4 * DIM + 1)  // a m, precision, target, slope, offset
#define CHUNK 4
#else
#define ROW WHOLE(DIM * DIM + 3 * DIM + 1)  // m, precision, slope, U, offset
#define CHUNK 1
#endif

// means (count, DIM), variances (count or 1, PARTS), log_weights (count,), bases (0, 1 or count, DIM, DIM).
struct Law {
    const real *means, *variances, *log_weights, *bases;
    int64 count;
};
#define LAW_ARGUMENTS const real *means, const real *variances, const real *log_weights, const real *bases, int64 count
#define LAW {means, variances, log_weights, bases, count}

__device__ __forceinline__ real spread(const real* at, int axis, real v) {
    real a = at[axis];
    return fma(a * v, a, at[TIMES + axis]);
}
__device__ __forceinline__ real slope(const real* at, int axis, real v, real spread) {
    return fma(at[3 * TIMES + axis], v, at[4 * TIMES + axis]) / spread;
}
__device__ __forceinline__ real pull(const real* at, int axis, real slope) {
    return fma(-slope, at[axis], at[2 * TIMES + axis]);
}

// Together: the numbers of a time, (5, TIMES), into shared memory.
__device__ __forceinline__ void load_time(const real* from, real* at) {
    __syncthreads();
    for (int i = threadIdx.x; i < AT; i += blockDim.x) at[i] = from[i];
    __syncthreads();
}

// Together: the components first .. first + size - 1 as rows of shared memory; for SECOND derivatives, KIND 1 has
// mu m in place of the target, or m and (mu - b a) a / T for target and slope where covariances are the SAME.
template <bool SECOND = false>
__device__ __forceinline__ void load_tile(const Law& law, const real* at, int64 first, int size, real* table) {
    __syncthreads();
#if KIND == 2
    for (int i = threadIdx.x; i < size * DIM; i += blockDim.x) {
        int k = i / DIM, j = i % DIM;
        real v = law.variances[(ONE ? 0 : (first + k) * DIM) + j], t = spread(at, 0, v);
        real* row = table + k * ROW;
        row[j] = law.means[(first + k) * DIM + j];
        row[DIM + j] = real(-0.5) * LOG2_E / t;
        row[2 * DIM + j] = slope(at, 0, v, t);
        row[3 * DIM + j] = log(t);  // where a row of the basis will be
    }
    __syncthreads();
#endif
    for (int k = threadIdx.x; k < size; k += blockDim.x) {
        real* row = table + k * ROW;
        real log_det = 0;
#if KIND == 0
        const real* m = law.means + (first + k) * DIM;
        real v = law.variances[ONE ? 0 : first + k], t = spread(at, 0, v), b = slope(at, 0, v, t);
        for (int j = 0; j < DIM; ++j) row[j] = m[j];
        row[DIM] = real(-0.5) * LOG2_E / t;
        row[DIM + 2] = pull(at, 0, b);
        row[DIM + 3] = b;
        log_det = DIM * log(t);
        real* offset = row + DIM + 1;
#elif KIND == 1
        const real* m = law.means + (first + k) * DIM;
        const real* v = law.variances + (ONE ? 0 : (first + k) * DIM);
        for (int j = 0; j < DIM; ++j) {
            real t = spread(at, j, v[j]), b = slope(at, j, v[j], t), drawn = pull(at, j, b);
            row[j] = at[j] * m[j];
            row[DIM + j] = real(-0.5) * LOG2_E / t;
            row[2 * DIM + j] = (SECOND ? SAME ? real(1) : at[2 * TIMES + j] : drawn) * m[j];
            row[3 * DIM + j] = SECOND && SAME ? drawn * at[j] / t : b;
            log_det += log(t);
        }
        real* offset = row + 4 * DIM;
#else
        for (int j = 0; j < DIM; ++j) log_det += row[3 * DIM + j];
        real* offset = row + 3 * DIM + DIM * DIM;
#endif
        *offset = LOG2_E * fma(real(-0.5), log_det, law.log_weights[first + k]);
    }
    __syncthreads();
#if KIND == 2
    for (int i = threadIdx.x; i < size * (DIM * DIM); i += blockDim.x)
        table[i / (DIM * DIM) * ROW + 3 * DIM + i % (DIM * DIM)] = law.bases[first * (DIM * DIM) + i];
    __syncthreads();
#endif
}

#if KIND == 2
// U' t for the component of a row, and its logit.
__device__ __forceinline__ real turned_logit(const real (&x)[DIM], const real* at, const real* row,
                                             real (&turned)[DIM]) {
    const real* basis = row + 3 * DIM;
    real l = 0;
#pragma unroll
    for (int e = 0; e < DIM; ++e) turned[e] = 0;
#pragma unroll
    for (int j = 0; j < DIM; ++j) {
        TAKE_TURNS(j);
        real t = fma(-at[0], row[j], x[j]);
#pragma unroll
        for (int e = 0; e < DIM; ++e) turned[e] = fma(basis[j * DIM + e], t, turned[e]);
    }
#pragma unroll
    for (int e = 0; e < DIM; ++e) l = fma(row[DIM + e] * turned[e], turned[e], l);
    return l + row[3 * DIM + DIM * DIM];
}
#else
__device__ __forceinline__ real logit(const real (&x)[DIM], const real* at, const real* row) {
    real l = 0;
#if KIND == 0
#pragma unroll
    for (int j = 0; j < DIM; ++j) {
        real t = fma(-at[0], row[j], x[j]);
        l = fma(t, t, l);
    }
    return fma(row[DIM], l, row[DIM + 1]);
#else
#pragma unroll
    for (int j = 0; j < DIM; ++j) {
        real t = x[j] - row[j];
        l = fma(row[DIM + j] * t, t, l);
    }
    return l + row[4 * DIM];
#endif
}
#endif
