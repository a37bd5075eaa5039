// Embedded Runge-Kutta steps along the probability flow on the circle (c, s), one step size for each block of threads:
// the formulas, the clock u and the groups of points are those of kernels/numba/adaptive.
//
// The host defines STAGES and ERRORS of the pair of methods, 12 and 2 or 6 and 1, and LOG, whether log p is wanted.
// Slopes are slots 0 .. STAGES of a workspace, y is the next one: numbers [slot][axis][thread of the grid]. What is
// taken of slopes is a row of a table in shared memory: row s is what leads to the point of slot s, 0 and the new point
// included; then the weights of the errors, then UNIT, slope 0 alone, and BEND, slope 1 less slope 0.
#include "mixture.cuh"
#if LOG
#include "second_order.cuh"
#endif

#define NUMBERS (DIM + LOG)  // of the state
#define SLOPES (STAGES + 1)
#define STATE SLOPES  // slot of y
#define FIFTH SLOPES
#define THIRD (SLOPES + 1)
#define UNIT (SLOPES + ERRORS)
#define BEND (UNIT + 1)
#define TABLE ((BEND + 1) * SLOPES)

#define DONE 0
#define TOO_MANY 1
#define TOO_SHORT 2
#define SAFETY 0.9
#define SHRINK 0.2
#define GROW 10.0
#define SPACING 1e-15  // shorter steps, relative to u, are no steps in double
#define INFINITE exp2(real(2048))

// u at both ends, delta and floor of the clock; a step's error is proportional to its length to the power `exponent`.
struct Way {
    double start, end, delta, floor, exponent;
    real rtol, atol;
    int attempts;
};

// A thread's numbers in the workspace.
struct Slots {
    real* own;
    int64 stride;
    __device__ __forceinline__ real& at(int slot, int j) const { return own[(slot * NUMBERS + j) * stride]; }
};

// Where a block is, in shared memory, one thread's to write: y at u, the slope of `slot` wanted at `when`, by a step of
// length h (signed) by a row of the table. A step is next, or the slope at the start, or that a probe away.
struct Walk {
    double u, length, h, after, when, slope;
    int slot, row, stage, ended, accepted, rejected;
    bool refused, going;
};
#define WALK (128 / int(sizeof(real)))  // numbers of shared memory for it
enum { AT_START, PROBING, STEPPING };

// Mean squares of errors in tolerances: over the axes, and of log p.
struct Squares {
    real axes, log;
};

// Together: the numbers of the mixture at u, which `evaluate` reads behind a barrier of its own. One warp's work, as
// some devices are slow in double.
__device__ __forceinline__ void place(const Walk& walk, const Way& way, real* at) {
    __syncthreads();
    if (threadIdx.x >= 32) return;
    double total = 1 + way.floor + way.delta, w = exp(2 * walk.when);
    double g = 2 * total / (1 + sqrt(1 + 4 * w * total));
    double c = max(g - way.floor, 0.0), left = max(w * g * g - way.delta, 0.0);
    double rate = -2 * w * g * g / (1 + 2 * w * g);
    for (int i = threadIdx.x; i < AT; i += 32) {
        int row = i / TIMES;
        at[i] = real(row == 0 ? c : row == 1 ? left * (1 + c) : row == 2 ? rate : row == 3 ? rate * c : -rate * c);
    }
}

// Together: the largest number of all threads, infinite where one is no number.
__device__ __forceinline__ real largest(real v, real* scratch) {
    if (!(v <= INFINITE)) v = INFINITE;
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) v = max(v, __shfl_xor_sync(0xffffffffu, v, bits));
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    __syncthreads();
    v = scratch[0];
    for (int warp = 1; warp < int(blockDim.x) / 32; ++warp) v = max(v, scratch[warp]);
    return v;
}

// scale sum_s weights_s slope_s
__device__ __forceinline__ void combine(const Slots& slots, const real* weights, real scale, real (&out)[NUMBERS]) {
#pragma unroll
    for (int j = 0; j < NUMBERS; ++j) out[j] = 0;
#pragma unroll 2  // all at once would take the registers of another block
    for (int s = 0; s < SLOPES; ++s) {
        real weight = scale * weights[s];
        if (weight != 0)
#pragma unroll
            for (int j = 0; j < NUMBERS; ++j) out[j] = fma(weight, slots.at(s, j), out[j]);
    }
}

// v in tolerances at the larger of y and another point.
__device__ __forceinline__ Squares squares(const real (&v)[NUMBERS], const Slots& slots, const real (&other)[NUMBERS],
                                           const Way& way) {
    Squares sums = {0, 0};
#pragma unroll
    for (int j = 0; j < NUMBERS; ++j) {
        real before = slots.at(STATE, j), after = other[j];
        // an error of a log is a relative one of what it is the log of
        real most = max(max(max(before, -before), max(after, -after)), real(j < DIM ? 0 : 1));
        real scaled = v[j] / fma(way.rtol, most, way.atol);
        if (j < DIM)
            sums.axes = fma(scaled, scaled, sums.axes);
        else
            sums.log = scaled * scaled;
    }
    sums.axes /= DIM;
    return sums;
}

// The fifth order's error, made smaller where the third order's is larger still.
__device__ __forceinline__ real tempered(real fifth, real third) {
    return fifth > 0 ? fifth * (fifth / (fifth + real(0.01) * third)) : fifth;
}

// Together: the worst thread's.
__device__ __forceinline__ real worst(const Squares& s, real* scratch) {
    return largest(LOG && !(s.log <= s.axes) ? s.log : s.axes, scratch);
}

// Together: the square of the size of what a row of the table gives, in tolerances at y.
__device__ __forceinline__ real size(const Slots& slots, const real* weights, const real (&y)[NUMBERS], const Way& way,
                                     real* scratch) {
    real v[NUMBERS];
    combine(slots, weights, 1, v);
    return worst(squares(v, slots, y, way), scratch);
}

// Together: the square of the error of a step to x.
__device__ __forceinline__ real error_of(const Slots& slots, const real* table, real h, const real (&x)[NUMBERS],
                                         const Way& way, real* scratch) {
    real v[NUMBERS];
    combine(slots, table + FIFTH * SLOPES, h, v);
    Squares found = squares(v, slots, x, way);
#if ERRORS == 2
    combine(slots, table + THIRD * SLOPES, h, v);
    Squares third = squares(v, slots, x, way);
    found.axes = tempered(found.axes, third.axes), found.log = tempered(found.log, third.log);
#endif
    return worst(found, scratch);
}

// The stage `slot` of the step at hand.
__device__ __forceinline__ void to_stage(Walk& walk, int slot, const double* nodes) {
    walk.slot = walk.row = slot;
    walk.when = slot == STAGES ? walk.after : fma(nodes[slot], walk.h, walk.u);
}

// The next step, if there is one to make.
__device__ __forceinline__ void attempt(Walk& walk, const Way& way, const double* nodes) {
    double left = fabs(way.end - walk.u);
    bool final = walk.length >= left;
    if (left > 0 && walk.accepted + walk.rejected >= way.attempts)
        walk.ended = TOO_MANY;
    else if (!(final || walk.length > SPACING * max(1.0, fabs(walk.u))))  // not a number, too
        walk.ended = TOO_SHORT;
    walk.going = left > 0 && walk.ended == DONE;
    walk.after = final ? way.end : way.end > way.start ? walk.u + walk.length : walk.u - walk.length;
    walk.h = walk.after - walk.u;
    to_stage(walk, 1, nodes);
}

// With the sizes of y and y' known: how long the step is of which the slope at the end tells of y''.
__device__ __forceinline__ void probe(Walk& walk, double d0, double d1, const Way& way) {
    walk.slope = d1;
    walk.length = min(fabs(way.end - way.start), d0 < 1e-5 || d1 < 1e-5 ? 1e-6 : 0.01 * d0 / d1);
    walk.h = way.end > way.start ? walk.length : -walk.length;
    walk.when = way.start + walk.h;
    walk.stage = PROBING, walk.slot = 1, walk.row = UNIT;
}

// With the size of the change of y' known: a first step of which the error should be 1/100 or so.
__device__ __forceinline__ void first_step(Walk& walk, double change, const Way& way) {
    double bend = max(walk.slope, change / walk.length);
    double second = bend <= 1e-15 ? max(1e-6, 1e-3 * walk.length) : pow(0.01 / bend, 1 / way.exponent);
    walk.length = min(fabs(way.end - way.start), min(100 * walk.length, second));
    if (!(walk.slope < INFINITE)) walk.length = 0;  // there is no slope, and no step
    walk.stage = STEPPING;
}

// With the square of the error known: whether the step is taken, and how long the next one is.
__device__ __forceinline__ void judge(Walk& walk, double square, const Way& way) {
    double factor = square == 0 ? GROW : SAFETY * pow(square, -0.5 / way.exponent);
    walk.length = fabs(walk.h) * max(SHRINK, min(factor, walk.refused ? 1.0 : GROW));
    walk.refused = !(square <= 1);
    if (walk.refused) {
        ++walk.rejected;
    } else {
        ++walk.accepted;
        walk.u = walk.after;
    }
}

// Together: dy/du at x, and -div below it, as a slot.
__device__ __forceinline__ void store_slope(const real (&x)[NUMBERS], const Law& law, const real* at, real* tile,
                                            const Slots& slots, int slot) {
    real point[DIM], found[DIM];
#pragma unroll
    for (int j = 0; j < DIM; ++j) point[j] = x[j];
#if LOG
    real divergence;
    evaluate_divergence(point, law, at, tile, found, divergence);
    slots.at(slot, DIM) = -divergence;
#else
    evaluate(point, law, at, tile, found);
#endif
#pragma unroll
    for (int j = 0; j < DIM; ++j) slots.at(slot, j) = found[j];
}

// Together: y from the start of the way to its end, or as far as it gets.
__device__ __forceinline__ void solve(Walk& walk, const Slots& slots, const Law& law, const Way& way,
                                      const double* nodes, const real* table, real* at, real* tile, real* scratch) {
    __syncthreads();
    if (threadIdx.x == 0)
        walk = {way.start, 0, 0, 0, way.start, 0, 0, 0, AT_START, DONE, 0, 0, false, way.start != way.end};
    __syncthreads();
    while (walk.going) {
        // what is read of the walk is read before the barriers of `evaluate`, and written behind them
        int slot = walk.slot, stage = walk.stage;
        real x[NUMBERS], h = real(walk.h), first = 0, second = 0;
        combine(slots, table + walk.row * SLOPES, h, x);
#pragma unroll
        for (int j = 0; j < NUMBERS; ++j) x[j] += slots.at(STATE, j);
        place(walk, way, at);
        store_slope(x, law, at, tile, slots, slot);
        if (stage == AT_START) {
            first = worst(squares(x, slots, x, way), scratch);
            second = size(slots, table + UNIT * SLOPES, x, way, scratch);
        } else if (stage == PROBING) {
#pragma unroll
            for (int j = 0; j < NUMBERS; ++j) x[j] = slots.at(STATE, j);
            first = size(slots, table + BEND * SLOPES, x, way, scratch);
        } else if (slot == STAGES) {
            first = error_of(slots, table, h, x, way, scratch);
            if (first <= 1)
#pragma unroll
                for (int j = 0; j < NUMBERS; ++j) slots.at(STATE, j) = x[j], slots.at(0, j) = slots.at(STAGES, j);
        }
        if (threadIdx.x == 0) {
            if (stage == AT_START) {
                probe(walk, sqrt(double(first)), sqrt(double(second)), way);
            } else if (stage == STEPPING && slot < STAGES) {
                to_stage(walk, slot + 1, nodes);
            } else {
                if (stage == PROBING)
                    first_step(walk, sqrt(double(first)), way);
                else
                    judge(walk, first, way);
                attempt(walk, way, nodes);
            }
        }
        __syncthreads();
    }
}

// Points (n, DIM) along the flow, in groups as large as a block.
//
// nodes: of the stages, (SLOPES,). weights: the table. slopes: the workspace. out: y at the end, (n, DIM). change:
// log p(end) - log p(start), (n,). counts: DONE or why not, steps accepted, rejected and evaluations of each group,
// (groups, 4). reached: the u of each group at which `out` is.
// One block a multiprocessor is asked for: for more the compiler spills registers.
extern "C" __global__ void __launch_bounds__(128, 1)
    flow(const real* points, int64 n, LAW_ARGUMENTS, const double* nodes, const double* weights, double start,
         double end, double delta, double floor, double exponent, double rtol, double atol, int attempts, real* slopes,
         real* out, real* change, int64* counts, double* reached) {
    SHARED(real, pool);
    Walk& walk = *reinterpret_cast<Walk*>(pool);
    real *scratch = pool + WALK, *at = scratch + 32, *tile = at + TILE_AT, *table = tile + TILE * ROW;
    Law law = LAW;
    Way way = {start, end, delta, floor, exponent, real(rtol), real(atol), attempts};
    Slots slots = {slopes + own(), all()};
    for (int i = threadIdx.x; i < TABLE; i += blockDim.x) table[i] = real(weights[i]);
    __syncthreads();
    for (int64 group = blockIdx.x; group * blockDim.x < n; group += gridDim.x) {
        int64 i = group * blockDim.x + threadIdx.x, from = min(i, n - 1);
#pragma unroll
        for (int j = 0; j < NUMBERS; ++j) slots.at(STATE, j) = j < DIM ? points[from * DIM + j] : real(0);
        solve(walk, slots, law, way, nodes, table, at, tile, scratch);
        if (i < n) {
#pragma unroll
            for (int j = 0; j < DIM; ++j) out[i * DIM + j] = slots.at(STATE, j);
            if (LOG) change[i] = slots.at(STATE, NUMBERS - 1);
        }
        if (threadIdx.x == 0) {
            int64* known = counts + 4 * group;
            known[0] = walk.ended, known[1] = walk.accepted, known[2] = walk.rejected;
            known[3] = way.start == way.end ? 0 : 2 + int64(STAGES) * (walk.accepted + walk.rejected);
            reached[group] = walk.u;
        }
    }
}
