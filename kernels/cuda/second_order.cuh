// Second derivatives of the mixture at one time, for a thread's point: see kernels/numba/second_order. With the output
// o_k = mu m_k + B_k t_k of a component, t_k = x - a m_k, and half the gradient h_k = P_k t_k of its logit in base 2,
// P_k = -log2(e) T_k^-1 / 2, whence g_k = -T_k^-1 t_k = 2 log(2) h_k,
//
//     first sweep    o = sum_k r_k o_k,    h = sum_k r_k h_k,    the largest logit
//     second sweep   div o = sum_k r_k (tr B_k + 2 log(2) (o_k - o).(h_k - h)),    r_k anew
//
// so that no two large numbers meet in a sum of products. Where covariances are the SAME, all stands on the average
// c = sum_k r_k m_k: (o_k - o).(g_k - g) = (m_k - c).(mu - B a) a T^-1 (m_k - c).
#pragma once
#include "mixture.cuh"

#define TWICE_LN_2 real(1.386294361119890618834464242916353)

#define CENTRES (SAME ? DIM : 2 * DIM)  // o and h; or c
#define H (CENTRES - DIM)               // where h begins

#if KIND == 2
// U' t for the component of a row, times slopes and times precisions: U turns them into B t and P t.
__device__ __forceinline__ void scale(const real* row, real factor, real (&turned)[DIM], real (&half)[DIM]) {
    TAKE_TURNS(0);
#pragma unroll
    for (int e = 0; e < DIM; ++e) {
        turned[e] *= factor;
        half[e] = turned[e] * row[DIM + e];
        turned[e] *= row[2 * DIM + e];
    }
}
// Axis j of them, added to two numbers.
__device__ __forceinline__ void turn_back(const real* row, int j, const real (&turned)[DIM], const real (&half)[DIM],
                                          real& out, real& pull) {
    TAKE_TURNS(j);
    const real* basis = row + 3 * DIM + j * DIM;
#pragma unroll
    for (int e = 0; e < DIM; ++e) {
        out = fma(basis[e], turned[e], out);
        pull = fma(basis[e], half[e], pull);
    }
}
#else
// Axis j of h_k, and of o_k less a number near it, before anything is added to its large part; or of m_k less it.
__device__ __forceinline__ real fields(const real (&x)[DIM], const real* at, const real* row, int j, real less,
                                       real& half) {
#if KIND == 0
    if (SAME) return row[j] - less;
    real t = fma(-at[0], row[j], x[j]);
    half = row[DIM] * t;
    return fma(row[DIM + 3], t, fma(at[2], row[j], -less));
#else
    if (SAME) return row[2 * DIM + j] - less;
    real t = x[j] - row[j];
    half = row[DIM + j] * t;
    return fma(row[3 * DIM + j], t, row[2 * DIM + j] - less);
#endif
}
#endif

__device__ __forceinline__ void absorb_fields(const real (&x)[DIM], const real* at, const real* table, int size,
                                              Sums<CENTRES>& sums) {
#if KIND == 2
#pragma unroll 1
    for (int k = 0; k < size; ++k) {
        const real* row = table + k * ROW;
        real turned[DIM], l = turned_logit(x, at, row, turned);
        raise(sums, l);
        real r = exp2(l - sums.top), mu = r * at[2];
        sums.total += r;
        real half[DIM];
        scale(row, r, turned, half);
#pragma unroll
        for (int j = 0; j < DIM; ++j) {
            sums.of[j] = fma(mu, row[j], sums.of[j]);
            turn_back(row, j, turned, half, sums.of[j], sums.of[H + j]);
        }
    }
#else
    for (int k = 0; k < size; k += CHUNK) {
        real l[CHUNK], top = sums.top;
#pragma unroll
        for (int c = 0; c < CHUNK; ++c) {
            if (k + c < size) {
                l[c] = logit(x, at, table + (k + c) * ROW);
                top = max(top, l[c]);
            }
        }
        raise(sums, top);
#pragma unroll
        for (int c = 0; c < CHUNK; ++c) {
            if (k + c < size) {
                const real* row = table + (k + c) * ROW;
                real r = exp2(l[c] - sums.top);
                sums.total += r;
#pragma unroll
                for (int j = 0; j < DIM; ++j) {
                    real half, out = fields(x, at, row, j, 0, half);
                    sums.of[j] = fma(r, out, sums.of[j]);
                    if (!SAME) sums.of[H + j] = fma(r, half, sums.of[H + j]);
                }
            }
        }
    }
#endif
}

// tr B_k + 2 log(2) (o_k - o).(h_k - h); or (m_k - c).w (m_k - c), w of all axes in KIND 1, 1 in KIND 0.
__device__ __forceinline__ real contribution(const real (&x)[DIM], const real* at, const real* row,
                                             const Sums<CENTRES>& centre, real& l) {
    real sum = 0, trace = 0;
#if KIND == 2
    real turned[DIM], halves[DIM];
    l = turned_logit(x, at, row, turned);
    scale(row, 1, turned, halves);
#pragma unroll
    for (int j = 0; j < DIM; ++j) {
        real out = fma(at[2], row[j], -centre.of[j]), half = -centre.of[H + j];
        turn_back(row, j, turned, halves, out, half);
        sum = fma(out, half, sum);
        trace += row[2 * DIM + j];
    }
#else
    l = logit(x, at, row);
#pragma unroll
    for (int j = 0; j < DIM; ++j) {
        real half = 0, out = fields(x, at, row, j, centre.of[j], half);
        if (SAME) {
            sum = fma(KIND == 0 ? out : row[3 * DIM + j] * out, out, sum);
        } else {
            sum = fma(out, half - centre.of[H + j], sum);
            if (KIND == 1) trace += row[3 * DIM + j];
        }
    }
    if (SAME) return sum;
    if (KIND == 0) trace = DIM * row[DIM + 3];
#endif
    return fma(TWICE_LN_2, sum, trace);
}

// Together: the first sweep over the components first .. last - 1.
__device__ __forceinline__ void find_centre(const real (&x)[DIM], const Law& law, const real* at, real* table,
                                            int64 first, int64 last, Sums<CENTRES>& sums) {
    begin(sums);
    for (int64 place = first; place < last; place += TILE) {
        int size = int(min(int64(TILE), last - place));
        load_tile<true>(law, at, place, size, table);
        absorb_fields(x, at, table, size, sums);
    }
}

// What the first sweep's sums are averages of.
__device__ __forceinline__ void settle(Sums<CENTRES>& sums) {
#pragma unroll
    for (int j = 0; j < CENTRES; ++j) sums.of[j] /= sums.total;
}

// Together: the second sweep over the components first .. last - 1, for an average and the largest of all logits.
__device__ __forceinline__ void sum_contributions(const real (&x)[DIM], const Law& law, const real* at, real* table,
                                                  int64 first, int64 last, const Sums<CENTRES>& centre, real& total,
                                                  real& sum) {
    total = sum = 0;
    for (int64 place = first; place < last; place += TILE) {
        int size = int(min(int64(TILE), last - place));
        load_tile<true>(law, at, place, size, table);
#pragma unroll 1
        for (int k = 0; k < size; ++k) {
            real l, value = contribution(x, at, table + k * ROW, centre, l), r = exp2(l - centre.top);
            total += r;
            if (r > 0) sum = fma(r, value, sum);  // the value may be infinite where r is 0
        }
    }
}

// Together: output and divergence on the axes of the variances. Turns keep the divisions of many axes apart.
__device__ __forceinline__ void conclude(const real (&x)[DIM], const Law& law, const real* at,
                                         const Sums<CENTRES>& centre, real total, real sum, real (&out)[DIM],
                                         real& div) {
    div = sum / total;
    real trace = 0;
#pragma unroll
    for (int j = 0; j < DIM; ++j) {
        out[j] = centre.of[j];
        if (SAME) {
            TAKE_TURNS(j);
            int s = KIND == 0 ? 0 : j;
            real v = law.variances[s], t = spread(at, s, v), b = slope(at, s, v, t), c = centre.of[j];
            out[j] = fma(b, fma(-at[s], c, x[j]), at[2 * TIMES + s] * c);
            trace += b;
            if (KIND == 0 && j == 0) div *= pull(at, 0, b) * at[0] / t;
        }
    }
    if (SAME) div += trace;
}

// Together: output and its divergence at a thread's point; `at` and `table` as for `evaluate`. Answers the log density.
__device__ __forceinline__ real evaluate_divergence(const real (&x)[DIM], const Law& law, const real* at, real* table,
                                                    real (&out)[DIM], real& div) {
    Sums<CENTRES> centre;
    real point[DIM], found[DIM], total, sum;
    onto_axes(law, x, point);
    find_centre(point, law, at, table, 0, law.count, centre);
    settle(centre);
    sum_contributions(point, law, at, table, 0, law.count, centre, total, sum);
    conclude(point, law, at, centre, total, sum, found, div);
    from_axes(law, found, out);
    return log_density(centre.top, total);
}
