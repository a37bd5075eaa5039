// The mixture sum_k w_k N(x; a m_k, T_k), T_k = a S_k a + q, at one time, for a thread's point, as in numba/mixture.
//
//     logits   l_k = log2(e) (log w_k - (t' T_k^-1 t + log det T_k) / 2),   t = x - a m_k,   r = 2^(l - top) / total
//     output   o = sum_k r_k (mu m_k + B_k t),                              B_k = (beta S_k + gamma) T_k^-1
#pragma once
#include "laws.cuh"

// Sums of r and of N numbers times r over components so far, relative to the largest logit so far.
template <int N>
struct Sums {
    real top, total, of[N];
};
#define SUMMED (SAME || KIND == 2 ? DIM : DIM + PARTS)  // of an output: what is not x times something, and that

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
// The components of a tile from k on, with one look at the largest logit. FULL where there are CHUNK: few axes then
// take a third fewer instructions, as nothing is asked and rows stay in registers, of which many axes have none left.
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
