// The mixture sum_k w_k N(x; a m_k, T_k), T_k = a S_k a + q, at one time, for a thread's point, as in numba/mixture.
//
//     logits   l_k = log2(e) (log w_k - (t' T_k^-1 t + log det T_k) / 2),   t = x - a m_k,   r = 2^(l - top) / total
//     output   o = sum_k r_k (mu m_k + B_k t),                              B_k = (beta S_k + gamma) T_k^-1
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

// Sums of r and of N numbers times r over components so far, relative to the largest logit so far.
template <int N>
struct Sums {
    real top, total, of[N];
};
#define SUMMED (SAME || KIND == 2 ? DIM : DIM + PARTS)  // of an output: what is not x times something, and that

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

template <int N>
__device__ __forceinline__ void begin(Sums<N>& sums) {
    sums.top = LOWEST, sums.total = 0;  // finite: a logit of -infinity less this one is no NaN
#pragma unroll
    for (int j = 0; j < N; ++j) sums.of[j] = 0;
}

// What has been summed, made relative to a new largest logit.
template <int N>
__device__ __forceinline__ void raise(Sums<N>& sums, real top) {
    if (!(top > sums.top)) return;
    real fall = exp2(sums.top - top);
    sums.top = top, sums.total *= fall;
#pragma unroll
    for (int j = 0; j < N; ++j) sums.of[j] *= fall;
}

// Sums of a part of the components go to parts, (parts, 2 + N, n), for point i of n;
// the first of them comes back, or all added in order.
template <int N>
__device__ __forceinline__ void save(const Sums<N>& sums, int64 part, int64 n, int64 i, real* parts) {
    real* to = parts + part * (2 + N) * n + i;
    to[0] = sums.top, to[n] = sums.total;
#pragma unroll
    for (int j = 0; j < N; ++j) to[(2 + j) * n] = sums.of[j];
}
template <int N>
__device__ __forceinline__ void restore(const real* parts, int64 n, int64 i, Sums<N>& sums) {
    sums.top = parts[i], sums.total = parts[n + i];
#pragma unroll
    for (int j = 0; j < N; ++j) sums.of[j] = parts[(2 + j) * n + i];
}
template <int N>
__device__ __forceinline__ void merge(const real* parts, int count, int64 n, int64 i, Sums<N>& sums) {
    begin(sums);
    const int64 stride = (2 + N) * n;
    for (int p = 0; p < count; ++p) sums.top = max(sums.top, parts[p * stride + i]);
    for (int p = 0; p < count; ++p) {
        const real* from = parts + p * stride + i;
        real fall = exp2(from[0] - sums.top);
        sums.total = fma(fall, from[n], sums.total);
#pragma unroll
        for (int j = 0; j < N; ++j) sums.of[j] = fma(fall, from[(2 + j) * n], sums.of[j]);
    }
}

#if KIND != 2
// The components of a tile from k on, with one look at the largest logit. FULL where there are CHUNK: few axes then take a
// third fewer instructions, as nothing is asked and rows stay in registers, of which many axes have none left.
#define FEW (DIM * int(sizeof(real)) <= 16)
template <bool FULL>
__device__ __forceinline__ void absorb_chunk(const real (&x)[DIM], const real* at, const real* table, int k,
                                             int size, Sums<SUMMED>& sums) {
    real l[CHUNK], top = sums.top;
#pragma unroll
    for (int c = 0; c < CHUNK; ++c) {
        if (FULL || k + c < size) {
            l[c] = logit(x, at, table + (k + c) * ROW);
            top = max(top, l[c]);
        }
    }
    raise(sums, top);
#pragma unroll
    for (int c = 0; c < CHUNK; ++c) {
        if (FULL || k + c < size) {
            const real* row = table + (k + c) * ROW;
            real r = exp2(l[c] - sums.top);
            sums.total += r;
#if KIND == 0
            real weight = SAME ? r : r * row[DIM + 2];
#pragma unroll
            for (int j = 0; j < DIM; ++j) sums.of[j] = fma(weight, row[j], sums.of[j]);
            if (!SAME) sums.of[SUMMED - 1] = fma(r, row[DIM + 3], sums.of[SUMMED - 1]);
#else
#pragma unroll
            for (int j = 0; j < DIM; ++j) {
                sums.of[j] = fma(r, row[2 * DIM + j], sums.of[j]);
                if (!SAME) sums.of[SUMMED - DIM + j] = fma(r, row[3 * DIM + j], sums.of[SUMMED - DIM + j]);
            }
#endif
        }
    }
}
#endif

// The components of a tile, in chunks with one look at the largest logit.
__device__ __forceinline__ void absorb(const real (&x)[DIM], const real* at, const real* table, int size,
                                       Sums<SUMMED>& sums) {
#if KIND == 2
#pragma unroll 1
    for (int k = 0; k < size; ++k) {
        const real* row = table + k * ROW;
        const real* basis = row + 3 * DIM;
        real turned[DIM], l = turned_logit(x, at, row, turned);
        raise(sums, l);
        real r = exp2(l - sums.top), mu = r * at[2 * TIMES];
        sums.total += r;
#pragma unroll
        for (int e = 0; e < DIM; ++e) turned[e] *= r * row[2 * DIM + e];
#pragma unroll
        for (int j = 0; j < DIM; ++j) {
            TAKE_TURNS(j);
            real sum = fma(mu, row[j], sums.of[j]);
#pragma unroll
            for (int e = 0; e < DIM; ++e) sum = fma(basis[j * DIM + e], turned[e], sum);
            sums.of[j] = sum;
        }
    }
#else
    int k = 0;
    if (FEW)
        for (; k + CHUNK <= size; k += CHUNK) absorb_chunk<true>(x, at, table, k, size, sums);
    for (; k < size; k += CHUNK) absorb_chunk<false>(x, at, table, k, size, sums);
#endif
}

// Together: the components first .. last - 1, for a point on the axes of the variances.
__device__ __forceinline__ void sum_components(const real (&x)[DIM], const Law& law, const real* at, real* table,
                                               int64 first, int64 last, Sums<SUMMED>& sums) {
    begin(sums);
    for (int64 place = first; place < last; place += TILE) {
        int size = int(min(int64(TILE), last - place));
        load_tile(law, at, place, size, table);
        absorb(x, at, table, size, sums);
    }
}

// The output of all components' sums.
__device__ __forceinline__ void answer(const real (&x)[DIM], const Law& law, const real* at, const Sums<SUMMED>& sums,
                                       real (&out)[DIM]) {
#pragma unroll
    for (int j = 0; j < DIM; ++j) {
        if (SAME) {
            int s = KIND == 0 ? 0 : j;
            real v = law.variances[s], b = slope(at, s, v, spread(at, s, v)), average = sums.of[j] / sums.total;
            out[j] = fma(b, x[j], KIND == 0 ? pull(at, 0, b) * average : average);
        } else {
            real slopes = KIND == 2 ? real(0) : sums.of[KIND == 0 ? SUMMED - 1 : SUMMED - DIM + j];
            out[j] = fma(slopes, x[j], sums.of[j]) / sums.total;
        }
    }
}

__device__ __forceinline__ real log_density(real top, real total) {
    return fma(LN_2, top, log(total)) - DIM * HALF_LOG_2PI;
}

// U' x, and U x: into the one basis of all components, and out of it.
__device__ __forceinline__ void turn(const real* basis, const real (&x)[DIM], real (&out)[DIM]) {
#pragma unroll
    for (int e = 0; e < DIM; ++e) out[e] = 0;
#pragma unroll
    for (int j = 0; j < DIM; ++j) {
        TAKE_TURNS(j);
#pragma unroll
        for (int e = 0; e < DIM; ++e) out[e] = fma(basis[j * DIM + e], x[j], out[e]);
    }
}
__device__ __forceinline__ void turn_back(const real* basis, const real (&x)[DIM], real (&out)[DIM]) {
#pragma unroll
    for (int j = 0; j < DIM; ++j) {
        TAKE_TURNS(j);
        out[j] = 0;
#pragma unroll
        for (int e = 0; e < DIM; ++e) out[j] = fma(basis[j * DIM + e], x[e], out[j]);
    }
}

// Point i of (n, DIM), the last one again beyond.
__device__ __forceinline__ void load_point(const real* points, int64 n, int64 i, real (&x)[DIM]) {
    const real* row = points + min(i, n - 1) * DIM;
#pragma unroll
    for (int j = 0; j < DIM; ++j) x[j] = row[j];
}
__device__ __forceinline__ void store_point(const real (&x)[DIM], int64 i, real* points) {
#pragma unroll
    for (int j = 0; j < DIM; ++j) points[i * DIM + j] = x[j];
}

// A point onto the axes of the variances, and an output back from them.
__device__ __forceinline__ void onto_axes(const Law& law, const real (&x)[DIM], real (&out)[DIM]) {
#if TURNED
    turn(law.bases, x, out);
#else
#pragma unroll
    for (int j = 0; j < DIM; ++j) out[j] = x[j];
#endif
}
__device__ __forceinline__ void from_axes(const Law& law, const real (&x)[DIM], real (&out)[DIM]) {
#if TURNED
    turn_back(law.bases, x, out);
#else
#pragma unroll
    for (int j = 0; j < DIM; ++j) out[j] = x[j];
#endif
}

// Together: output and log density at a thread's point; at and table are shared memory of AT and TILE * ROW numbers,
// which is read faster where table is aligned to 16 bytes.
__device__ __forceinline__ real evaluate(const real (&x)[DIM], const Law& law, const real* at, real* table,
                                         real (&out)[DIM]) {
    Sums<SUMMED> sums;
    real point[DIM], found[DIM];
    onto_axes(law, x, point);
    sum_components(point, law, at, table, 0, law.count, sums);
    answer(point, law, at, sums, found);
    from_axes(law, found, out);
    return log_density(sums.top, sums.total);
}
