// Mixtures in many axes by tiles of points x components: what wide.py does between products of matrices. The host
// defines FORM: 0 variances v_k I, 1 variances on the axes that all components share, 2 variances on the axes of each.
//
// Numbers of the components are (5, K): offset, precision, length, pull, slope, of which a kernel gets those of a tile,
// with K as their stride; the logits of FORM 0 and 1 in base 2, with X = x - a c and Y = a (m - c), are
//
//     offset - precision |x - a m|^2,    |x - a m|^2 = |X|^2 + length - 2 X.Y,    length = |Y|^2
//
// where in FORM 1 squares are weighted by log2(e) / (2 T_j) and the precision is 1; in FORM 2 so is |X|^2, for each k.
#include "wide.cuh"

#define COARSE real(16)      // times the error of differences is what products may have
#define FINE (real(64) * EPS)  // bits: an error that is none

__device__ __forceinline__ real spread_of(const real* at, int width, int j, real v) {
    return fma(at[j] * v, at[j], at[width + j]);
}

// Numbers (5, count) of components; a warp for each. The variance of k on axis j is at k row + j column. FORM 1
// alone has `axes`, weights (d,), and `log_det`, one number.
extern "C" __global__ void numbers(const real* means, const real* variances, const real* log_weights, int64 count,
                                   int dim, int row, int column, const real* at, const real* centre, const real* axes,
                                   const real* log_det, real* found) {
    int lane = threadIdx.x % 32;
    for (int64 k = own() / 32; k < count; k += all() / 32) {
        const real* m = means + k * dim;
        real length = 0, logs = 0, precision = 1, pull = 1, slope = 0;
        for (int j = lane; j < dim; j += 32) {
            real y = m[j] - centre[j];
#if FORM == 0
            length = fma(y, y, length);
#elif FORM == 1
            y *= at[j];
            length = fma(axes[j] * y, y, length);
#else
            real t = spread_of(at, dim, j, variances[k * row + j * column]);
            y *= at[j];
            length = fma(real(0.5) * LOG2_E / t * y, y, length);
            logs += log(t);
#endif
        }
        length = warp_sum(length), logs = warp_sum(logs);
#if FORM == 0
        real v = variances[k * row], t = spread_of(at, 1, 0, v);
        precision = real(0.5) * LOG2_E / t, length *= at[0] * at[0];
        slope = fma(at[3], v, at[4]) / t, pull = fma(-slope, at[0], at[2]);
        logs = dim * log(t);
#elif FORM == 1
        logs = log_det[0];
#endif
        if (lane == 0) {
            found[k] = LOG2_E * fma(real(-0.5), logs, log_weights[k]);
            found[count + k] = precision, found[2 * count + k] = length;
            found[3 * count + k] = pull, found[4 * count + k] = slope;
        }
    }
}

// Tables (count, d) of a tile of components: m - c, or in FORM 2 p Y, p, (mu - b a) (m - c) and b, one after the other.
extern "C" __global__ void tables(const real* means, const real* variances, int64 count, int dim, int row, int column,
                                  const real* at, const real* centre, real* found) {
    int64 size = count * dim;
    for (int64 e = own(); e < size; e += all()) {
        int j = int(e % dim);
        real m = means[e] - centre[j];
#if FORM < 2
        found[e] = m;
#else
        real v = variances[e / dim * row + j * column], t = spread_of(at, dim, j, v), p = real(0.5) * LOG2_E / t;
        real b = fma(at[3 * dim + j], v, at[4 * dim + j]) / t;
        found[e] = p * at[j] * m, found[size + e] = p;
        found[2 * size + e] = fma(-b, at[j], at[2 * dim + j]) * m, found[3 * size + e] = b;
#endif
    }
}

// X (n, d), what is multiplied with tables beside it (FORM 1: X p a, FORM 2: X^2), and |X|^2; a warp for each point.
extern "C" __global__ void centred(const real* points, int64 n, int dim, const real* at, const real* centre,
                                   const real* axes, real* away, real* factor, real* lengths) {
    int lane = threadIdx.x % 32;
    for (int64 i = own() / 32; i < n; i += all() / 32) {
        real length = 0;
        for (int j = lane; j < dim; j += 32) {
            real x = fma(-at[FORM == 0 ? 0 : j], centre[j], points[i * dim + j]);
            away[i * dim + j] = x;
#if FORM == 0
            length = fma(x, x, length);
#elif FORM == 1
            length = fma(axes[j] * x, x, length);
            factor[i * dim + j] = x * (axes[j] * at[j]);
#else
            factor[i * dim + j] = x * x;
#endif
        }
        length = warp_sum(length);
        if (lane == 0) lengths[i] = length;
    }
}

// Products (n, count) become logits, and what the largest is at least; a block for each point. `twice` is what
// X.(m - c) is multiplied with. Lengths are |X|^2 (n,), in FORM 2 (n, count).
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    logits(int64 n, int64 count, const real* numbers, int64 stride, const real* lengths, real twice, real share,
           const real* tops, real* products, real* lows) {
    SHARED(real, room);
    for (int64 i = blockIdx.x; i < n; i += gridDim.x) {
        real low = tops[i];
        for (int64 k = threadIdx.x; k < count; k += ROW_THREADS) {
            real* place = products + i * count + k;
            real precision = numbers[stride + k], length = numbers[2 * stride + k];
            real points = lengths[FORM == 2 ? i * count + k : i], square = fma(-twice, *place, points + length);
            square = square < 0 ? real(0) : isinf(points) ? points : square;
            real l = fma(-precision, square, numbers[k]), root = sqrt(points) + sqrt(length);
            *place = l;
            low = max(low, fma(-share * precision, root * root, l));
        }
        low = block_max(low, room);
        if (threadIdx.x == 0) lows[i] = low;
    }
}

// Whether a logit of products has to be found by differences: it is felt, and its error more than theirs by COARSE.
__device__ __forceinline__ bool needed(real l, real offset, real precision, real points, real length, real low,
                                       real share, real cutoff) {
    real root = sqrt(points) + sqrt(length), both = precision * root * root, off = share * both;
    bool exact = isfinite(points) && (COARSE * (offset - l) >= both || off <= FINE);
    return !(exact || l + off < low - cutoff);
}

// Logits (n, count) by differences: of all pairs, or where `screened` of those that need it. FORM 1 has `weights` (d,)
// of the axes, FORM 2 (count, d); `gain` is a, for all axes where `wide` is 0.
extern "C" __global__ void __launch_bounds__(PAIR_THREADS, DEEP)
    differences(const real* points, int64 n, const real* means, int64 count, int dim, const real* gain, int wide,
                const real* weights, const real* numbers, int64 stride, const real* lengths, const real* lows,
                real share, real cutoff, int screened, real* found) {
    SHARED(real, pool);
    real *mine = pool, *others = mine + STEP * PITCH, *gains = others + STEP * PITCH, *scales = gains + STEP;
    int across = threadIdx.x % STEP, down = threadIdx.x / STEP;
    int64 columns = (count + SIDE - 1) / SIDE, tiles = columns * ((n + SIDE - 1) / SIDE);
    for (int64 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int64 first = tile / columns * SIDE, begin = tile % columns * SIDE;
        uint64 wanted = 0;
#pragma unroll
        for (int e = 0; e < FAN * FAN; ++e) {
            int64 i = first + down + e / FAN * STEP, k = begin + across + e % FAN * STEP;
            bool mark = i < n && k < count;
            if (mark && screened) {
                real points_length = lengths[FORM == 2 ? i * count + k : i];
                mark = needed(found[i * count + k], numbers[k], numbers[stride + k], points_length,
                              numbers[2 * stride + k], lows[i], share, cutoff);
            }
            wanted |= uint64(mark) << e;
        }
        if (!__syncthreads_or(wanted != 0)) continue;
        real sums[FAN][FAN];
#pragma unroll
        for (int e = 0; e < FAN * FAN; ++e) sums[e / FAN][e % FAN] = 0;
        for (int axis = 0; axis < dim; axis += STEP) {
            __syncthreads();
            load_rows(points, first, n, dim, axis, mine);
            load_rows(means, begin, count, dim, axis, others);
            load_axes(gain, wide, dim, axis, gains);
            if (FORM == 1) load_axes(weights, 1, dim, axis, scales);
            if (FORM == 2) load_rows(weights, begin, count, dim, axis, scales);
            __syncthreads();
#pragma unroll 2
            for (int j = 0; j < STEP; ++j) {
                real x[FAN], a = gains[j];
#pragma unroll
                for (int r = 0; r < FAN; ++r) x[r] = mine[j * PITCH + down + r * STEP];
#pragma unroll
                for (int c = 0; c < FAN; ++c) {
                    int place = j * PITCH + across + c * STEP;
                    real y = others[place], w = FORM == 0 ? real(1) : scales[FORM == 1 ? j : place];
#pragma unroll
                    for (int r = 0; r < FAN; ++r) {
                        real t = fma(-a, y, x[r]);
                        sums[r][c] = fma(FORM == 0 ? t : t * w, t, sums[r][c]);
                    }
                }
            }
        }
#pragma unroll
        for (int e = 0; e < FAN * FAN; ++e) {
            int64 i = first + down + e / FAN * STEP, k = begin + across + e % FAN * STEP;
            if (wanted >> e & 1) found[i * count + k] = fma(-numbers[stride + k], sums[e / FAN][e % FAN], numbers[k]);
        }
    }
}

// Logits (n, count) become weights r (times pulls in FORM 0), relative to the largest so far; totals with them, and by
// how much older sums fall. Sums of r and of r b are `wholes` (2, n). What each warp has found to be felt is `few`
// (n, WARPS, 1 + FEW), how many and the first of them, with their r in `shares`. A block for each point.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    weights(int64 n, int64 count, const real* numbers, int64 stride, real cutoff, real* found, real* tops, real* totals,
            real* falls, real* wholes, int* few, real* shares) {
    SHARED(real, room);
    uint32 before = (1u << threadIdx.x % 32) - 1;  // lanes
    for (int64 i = blockIdx.x; i < n; i += gridDim.x) {
        real *row = found + i * count, old = tops[i], top = old, total = 0, slope = 0;
        int64 place = i * WARPS + threadIdx.x / 32;
        int felt = 0;
        for (int64 k = threadIdx.x; k < count; k += ROW_THREADS) top = max(top, row[k]);
        top = block_max(top, room);
        for (int64 k = threadIdx.x; k - threadIdx.x < count; k += ROW_THREADS) {
            real r = k < count ? exp2(row[k] - top) : real(0);
            bool own = k < count && row[k] - top > -cutoff;
            uint32 all = __ballot_sync(EVERYONE, own);
            int nth = felt + __popc(all & before);
            if (own && nth < FEW) few[place * (1 + FEW) + 1 + nth] = int(k), shares[place * FEW + nth] = r;
            felt += __popc(all);
            total += r;
            if (k >= count) continue;
            if (FORM == 0) slope = fma(r, numbers[4 * stride + k], slope);
            row[k] = FORM == 0 ? r * numbers[3 * stride + k] : r;
        }
        total = block_sum(total, room);
        if (FORM == 0) slope = block_sum(slope, room);
        if (before == 0) few[place * (1 + FEW)] = felt;
        if (threadIdx.x == 0) {
            real fall = exp2(old - top);
            tops[i] = top, falls[i] = fall, totals[i] = fma(totals[i], fall, total);
            wholes[i] = total, wholes[n + i] = slope;
        }
    }
}

// Sums (n, d) with those of a tile added: r (mu m + b (x - a m)) of what is felt, where each warp has found few; else
// products `parts`, and in FORM 2 `slopes` for X, which cancel where |X| is much more than noise. FORM 1 has slopes and
// pulls (2, d) in `table`, FORM 2 slopes (count, d).
extern "C" __global__ void absorb(const real* points, int64 n, int dim, const real* means, const real* at,
                                  const real* centre, const real* table, const real* numbers, int64 stride, int first,
                                  const real* falls, const real* wholes, const int* few, const real* shares,
                                  const real* parts, const real* slopes, const real* away, real* sums) {
    for (int64 e = own(); e < n * dim; e += all()) {
        int64 i = e / dim;
        int j = int(e % dim), s = FORM == 0 ? 0 : j, width = FORM == 0 ? 1 : dim;
        const int* felt = few + i * WARPS * (1 + FEW);
        real mu = at[2 * width + s], part = 0;
        bool fits = true;
        for (int w = 0; w < WARPS; ++w) fits &= felt[w * (1 + FEW)] <= FEW;
        for (int w = 0; fits && w < WARPS; ++w, felt += 1 + FEW) {
            for (int c = 0; c < felt[0]; ++c) {
                int64 k = felt[1 + c];
                real m = means[k * dim + j];
                real b = FORM == 0 ? numbers[4 * stride + k] : table[FORM == 1 ? j : k * dim + j];
                part = fma(shares[(i * WARPS + w) * FEW + c], fma(b, fma(-at[s], m, points[e]), mu * m), part);
            }
        }
        if (!fits) {
            real slope = FORM == 0 ? wholes[n + i] : FORM == 1 ? table[j] * wholes[i] : slopes[e];
            part = fma(slope, away[e], FORM == 1 ? table[dim + j] * parts[e] : parts[e]);
            part = fma(wholes[i], mu * centre[j], part);
        }
        sums[e] = first ? part : fma(sums[e], falls[i], part);
    }
}

// Sums (n, d) become outputs, with log densities (n,).
extern "C" __global__ void finish(int64 n, int dim, const real* tops, const real* totals, real* sums, real* logp) {
    for (int64 e = own(); e < n * dim; e += all()) {
        int64 i = e / dim;
        sums[e] /= totals[i];
        if (e % dim == 0) logp[i] = fma(LN_2, tops[i], log(totals[i])) - dim * HALF_LOG_2PI;
    }
}

// tr B_k + (o_k - o).(g_k - g) of pairs (n, count): o and g are `outputs` and `gradients` (n, d). FORM 2 has tables
// (count, d) of slopes and precisions, FORM 0 numbers of the components.
extern "C" __global__ void __launch_bounds__(PAIR_THREADS, 2)
    contractions(const real* points, const real* outputs, const real* gradients, int64 n, const real* means,
                 int64 count, int dim, const real* at, const real* slopes, const real* precisions, const real* numbers,
                 int64 stride, real* found) {
    SHARED(real, pool);
    constexpr int PAIRS = 4, EDGE = STEP * PAIRS, LINE = EDGE + 1, DEPTH = 8;  // six arrays: less of each
    real *xs = pool, *os = xs + DEPTH * LINE, *gs = os + DEPTH * LINE, *ms = gs + DEPTH * LINE, *bs = ms + DEPTH * LINE,
         *ps = bs + DEPTH * LINE;
    int across = threadIdx.x % STEP, down = threadIdx.x / STEP, width = FORM == 0 ? 1 : dim;
    int64 columns = (count + EDGE - 1) / EDGE, tiles = columns * ((n + EDGE - 1) / EDGE);
    for (int64 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int64 first = tile / columns * EDGE, begin = tile % columns * EDGE;
        real sums[PAIRS][PAIRS], traces[PAIRS], b[PAIRS], p[PAIRS];
#pragma unroll
        for (int c = 0; c < PAIRS; ++c) {
            int64 k = min(begin + across + c * STEP, count - 1);
            traces[c] = 0;
            if (FORM == 0) b[c] = numbers[4 * stride + k], p[c] = 2 * LN_2 * numbers[stride + k];
#pragma unroll
            for (int r = 0; r < PAIRS; ++r) sums[r][c] = 0;
        }
        for (int axis = 0; axis < dim; axis += DEPTH) {
            __syncthreads();
            for (int e = threadIdx.x; e < EDGE * DEPTH; e += PAIR_THREADS) {
                int row = e / DEPTH, j = e % DEPTH, place = j * LINE + row;
                bool there = axis + j < dim;
                int64 i = min(first + row, n - 1) * dim + axis + j, k = min(begin + row, count - 1) * dim + axis + j;
                xs[place] = there ? points[i] : real(0), os[place] = there ? outputs[i] : real(0);
                gs[place] = there ? gradients[i] : real(0), ms[place] = there ? means[k] : real(0);
                if (FORM == 2) {
                    bs[place] = there ? slopes[k] : real(0), ps[place] = there ? 2 * LN_2 * precisions[k] : real(0);
                }
            }
            __syncthreads();
            for (int j = 0; j < min(DEPTH, dim - axis); ++j) {
                int s = FORM == 0 ? 0 : axis + j;
                real a = at[s], mu = at[2 * width + s], m[PAIRS];
#pragma unroll
                for (int c = 0; c < PAIRS; ++c) {
                    int place = j * LINE + across + c * STEP;
                    m[c] = ms[place];
                    if (FORM == 2) b[c] = bs[place], p[c] = ps[place];
                    traces[c] += b[c];
                }
#pragma unroll
                for (int r = 0; r < PAIRS; ++r) {
                    int place = j * LINE + down + r * STEP;
                    real x = xs[place], o = os[place], g = gs[place];
#pragma unroll
                    for (int c = 0; c < PAIRS; ++c) {
                        real t = fma(-a, m[c], x), left = fma(b[c], t, fma(mu, m[c], -o)), right = fma(p[c], t, g);
                        sums[r][c] = fma(-left, right, sums[r][c]);
                    }
                }
            }
        }
#pragma unroll
        for (int e = 0; e < PAIRS * PAIRS; ++e) {
            int64 i = first + down + e / PAIRS * STEP, k = begin + across + e % PAIRS * STEP;
            if (i < n && k < count) found[i * count + k] = traces[e % PAIRS] + sums[e / PAIRS][e % PAIRS];
        }
    }
}

// Averages (n,) of values (n, count) by logits, whose largest and total are known, with those of a tile added. A block
// for each point; what is not felt has no value, which may be infinite there.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    average(int64 n, int64 count, const real* found, const real* values, const real* tops, const real* totals,
            real* averages) {
    SHARED(real, room);
    for (int64 i = blockIdx.x; i < n; i += gridDim.x) {
        real sum = 0;
        for (int64 k = threadIdx.x; k < count; k += ROW_THREADS) {
            real r = exp2(found[i * count + k] - tops[i]);
            if (!(r == 0)) sum = fma(r, values[i * count + k], sum);
        }
        sum = block_sum(sum, room);
        if (threadIdx.x == 0) averages[i] += sum / totals[i];
    }
}
