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

// Where a block is: y at u, the slope of `slot` wanted at `when`, by a step of length h (signed) by a row of the table.
struct Walk {
    double u, length, h, after, when, d1;
    int slot, row, ended, accepted, rejected;
    bool refused;
};

// Mean squares of errors in tolerances: over the axes, and of log p.
struct Squares {
    real axes, log;
};

// Together: the numbers of the mixture at u, which `evaluate` reads behind a barrier of its own.
__device__ __forceinline__ void place(double u, const Way& way, real* at) {
    __syncthreads();
    if (threadIdx.x < AT) {
        double total = 1 + way.floor + way.delta, w = exp(2 * u);
        double g = 2 * total / (1 + sqrt(1 + 4 * w * total));
        double c = max(g - way.floor, 0.0), left = max(w * g * g - way.delta, 0.0);
        double rate = -2 * w * g * g / (1 + 2 * w * g);
        int row = threadIdx.x / TIMES;
        double of_row = row == 0 ? c : row == 1 ? left * (1 + c) : row == 2 ? rate : row == 3 ? rate * c : -rate * c;
        at[threadIdx.x] = real(of_row);
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

// Together: the root of the worst thread's.
__device__ __forceinline__ double worst(const Squares& s, real* scratch) {
    real v = s.axes;
    if (LOG && !(s.log <= v)) v = s.log;
    return sqrt(double(largest(v, scratch)));
}

// Together: the size of what a row of the table gives, in tolerances at y.
__device__ __forceinline__ double size(const Slots& slots, const real* weights, const real (&y)[NUMBERS],
                                       const Way& way, real* scratch) {
    real v[NUMBERS];
    combine(slots, weights, 1, v);
    return worst(squares(v, slots, y, way), scratch);
}

// Together: the error of a step to x.
__device__ __forceinline__ double error_of(const Slots& slots, const real* table, real h, const real (&x)[NUMBERS],
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

// Together, with the slope at y known: how long the step is of which the slope at the end tells of y''.
__device__ __forceinline__ void probe(Walk& walk, const Slots& slots, const real* table, const real (&y)[NUMBERS],
                                      const Way& way, double side, real* scratch) {
    double d0 = worst(squares(y, slots, y, way), scratch);
    walk.d1 = size(slots, table + UNIT * SLOPES, y, way, scratch);
    walk.length = min(fabs(way.end - way.start), d0 < 1e-5 || walk.d1 < 1e-5 ? 1e-6 : 0.01 * d0 / walk.d1);
    walk.h = side * walk.length, walk.when = way.start + walk.h;
    walk.slot = 1, walk.row = UNIT;
}

// Together: a first step of which the error should be 1/100 or so, from the sizes of y, y' and y''.
__device__ __forceinline__ void first_step(Walk& walk, const Slots& slots, const real* table, const Way& way,
                                           real* scratch) {
    real y[NUMBERS];
#pragma unroll
    for (int j = 0; j < NUMBERS; ++j) y[j] = slots.at(STATE, j);
    double bend = max(walk.d1, size(slots, table + BEND * SLOPES, y, way, scratch) / walk.length);
    double second = bend <= 1e-15 ? max(1e-6, 1e-3 * walk.length) : pow(0.01 / bend, 1 / way.exponent);
    walk.length = min(fabs(way.end - way.start), min(100 * walk.length, second));
    if (!(walk.d1 < INFINITE)) walk.length = 0;  // there is no slope, and no step
}

// The stage `slot` of the step at hand.
__device__ __forceinline__ void to_stage(Walk& walk, int slot, const double* nodes) {
    walk.slot = walk.row = slot;
    walk.when = slot == STAGES ? walk.after : fma(nodes[slot], walk.h, walk.u);
}

// Whether there is a step to make, which is begun.
__device__ __forceinline__ bool attempt(Walk& walk, const Way& way, double side, const double* nodes) {
    if (walk.u == way.end) return false;
    double left = fabs(way.end - walk.u);
    bool final = walk.length >= left;
    if (walk.accepted + walk.rejected >= way.attempts)
        walk.ended = TOO_MANY;
    else if (!(final || walk.length > SPACING * max(1.0, fabs(walk.u))))  // not a number, too
        walk.ended = TOO_SHORT;
    if (walk.ended != DONE) return false;
    walk.after = final ? way.end : walk.u + side * walk.length;
    walk.h = walk.after - walk.u;
    to_stage(walk, 1, nodes);
    return true;
}

// Together: whether the step to x is taken, and how long the next one is.
__device__ __forceinline__ void judge(Walk& walk, const Slots& slots, const real* table, const real (&x)[NUMBERS],
                                      const Way& way, real* scratch) {
    double error = error_of(slots, table, real(walk.h), x, way, scratch);
    double factor = error == 0 ? GROW : SAFETY * pow(error, -1 / way.exponent);
    walk.length = fabs(walk.h) * max(SHRINK, min(factor, walk.refused ? 1.0 : GROW));
    walk.refused = !(error <= 1);
    if (walk.refused) {
        ++walk.rejected;
        return;
    }
    ++walk.accepted;
    walk.u = walk.after;
#pragma unroll
    for (int j = 0; j < NUMBERS; ++j) slots.at(STATE, j) = x[j], slots.at(0, j) = slots.at(STAGES, j);
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
__device__ __forceinline__ Walk solve(const Slots& slots, const Law& law, const Way& way, const double* nodes,
                                      const real* table, real* at, real* tile, real* scratch) {
    double side = way.end > way.start ? 1.0 : -1.0;
    Walk walk = {way.start, 0, 0, 0, way.start, 0, 0, 0, DONE, 0, 0, false};
    bool started = false, going = way.start != way.end;
    while (going) {
        real x[NUMBERS];
        combine(slots, table + walk.row * SLOPES, real(walk.h), x);
#pragma unroll
        for (int j = 0; j < NUMBERS; ++j) x[j] += slots.at(STATE, j);
        place(walk.when, way, at);
        store_slope(x, law, at, tile, slots, walk.slot);
        if (started && walk.slot < STAGES) {
            to_stage(walk, walk.slot + 1, nodes);
        } else if (!started && walk.slot == 0) {
            probe(walk, slots, table, x, way, side, scratch);
        } else {
            if (started)
                judge(walk, slots, table, x, way, scratch);
            else
                first_step(walk, slots, table, way, scratch);
            started = true;
            going = attempt(walk, way, side, nodes);
        }
    }
    return walk;
}

// Points (n, DIM) along the flow, in groups as large as a block.
//
// nodes: of the stages, (SLOPES,). weights: the table. slopes: the workspace. out: y at the end, (n, DIM). change:
// log p(end) - log p(start), (n,). counts: DONE or why not, steps accepted, rejected and evaluations of each group,
// (groups, 4). reached: the u of each group at which `out` is.
extern "C" __global__ void __launch_bounds__(128) flow(const real* points, int64 n, LAW_ARGUMENTS, const double* nodes,
                                                       const double* weights, double start, double end, double delta,
                                                       double floor, double exponent, double rtol, double atol,
                                                       int attempts, real* slopes, real* out, real* change,
                                                       int64* counts, double* reached) {
    SHARED(real, pool);
    real *scratch = pool, *table = pool + 32, *at = table + TABLE, *tile = at + AT;
    Law law = LAW;
    Way way = {start, end, delta, floor, exponent, real(rtol), real(atol), attempts};
    Slots slots = {slopes + own(), all()};
    for (int i = threadIdx.x; i < TABLE; i += blockDim.x) table[i] = real(weights[i]);
    __syncthreads();
    for (int64 group = blockIdx.x; group * blockDim.x < n; group += gridDim.x) {
        int64 i = group * blockDim.x + threadIdx.x, from = min(i, n - 1);
#pragma unroll
        for (int j = 0; j < NUMBERS; ++j) slots.at(STATE, j) = j < DIM ? points[from * DIM + j] : real(0);
        Walk walk = solve(slots, law, way, nodes, table, at, tile, scratch);
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
