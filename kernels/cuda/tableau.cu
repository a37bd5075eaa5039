#include "mixture.cuh"
#include "philox.cuh"

// The table of kernels/numba/tableau, fused over its stages: a thread takes a point through all of them. Beside what
// mixture.cuh wants, the host defines WIDE, whether each axis has weights of its own; the most THREADS of a block; and
// STATES and OUTPUTS, how many earlier stages and outputs are kept in registers, both 0 where memory keeps them.
//
// Normals are made where they are added, from their counters: none is kept.

#define WIDTH (WIDE ? DIM : 1)  // weights of a term

// Terms starts[k] .. starts[k + 1] - 1 make stage k: kind 0 a stage, 1 an output, 2 a normal; place: a slot, or a draw.
struct Table {
    const int* kinds;
    const uint32* places;
    const real* weights;  // (terms, WIDTH)
    const int *starts, *evaluated;
    const real* scale;  // (stages, WIDTH)
};
#define TABLE_ARGUMENTS                                                                           \
    const int *kinds, const uint32 *places, const real *weights, const int *starts, const int *evaluated, \
        const real *scale
#define TABLE {kinds, places, weights, starts, evaluated, scale}

#if STATES
// The newest stages or outputs of a thread's point, in registers: slots are told apart by comparing.
template <int SLOTS>
struct Ring {
    real kept[SLOTS][DIM];
    __device__ __forceinline__ void add(int place, const real* weight, real (&y)[DIM]) const {
#pragma unroll
        for (int s = 0; s < SLOTS; ++s) {
            if (SLOTS > 1 && s != place) continue;
#pragma unroll
            for (int j = 0; j < DIM; ++j) y[j] = fma(weight[WIDE ? j : 0], kept[s][j], y[j]);
        }
    }
    __device__ __forceinline__ void put(int place, const real (&y)[DIM]) {
#pragma unroll
        for (int s = 0; s < SLOTS; ++s) {
            if (SLOTS > 1 && s != place) continue;
#pragma unroll
            for (int j = 0; j < DIM; ++j) kept[s][j] = y[j];
        }
    }
};
#else
// The newest stages or outputs of a thread's point, in memory as (slot, axis, thread of the grid).
struct Ring {
    real* own;
    __device__ __forceinline__ void add(int place, const real* weight, real (&y)[DIM]) const {
        const real* from = own + place * (DIM * all());
#pragma unroll
        for (int j = 0; j < DIM; ++j) y[j] = fma(weight[WIDE ? j : 0], from[j * all()], y[j]);
    }
    __device__ __forceinline__ void put(int place, const real (&y)[DIM]) {
        real* to = own + place * (DIM * all());
#pragma unroll
        for (int j = 0; j < DIM; ++j) to[j * all()] = y[j];
    }
};
#endif

// y += w z, z the normals of a draw: two axes a turn, and 0 on all others, for registers have no index.
__device__ __forceinline__ void add_normals(uint64 key, uint64 particle, uint32 draw, const real* weight,
                                            real (&y)[DIM]) {
#pragma unroll 1
    for (int group = 0; group < (DIM + 1) / 2; ++group) {
        real first, second;
        normal_pair(key, particle, draw, group, first, second);
#pragma unroll
        for (int j = 0; j < DIM; j += 2) {
            real z = j == 2 * group ? first : real(0), next = j == 2 * group ? second : real(0);
            y[j] = fma(weight[WIDE ? j : 0], z, y[j]);
            if (j + 1 < DIM) y[j + 1] = fma(weight[WIDE ? j + 1 : 0], next, y[j + 1]);
        }
    }
}

// Points (n, DIM) through all stages: the output (n, DIM), or with `every` all stages (stages, n, DIM). `when` has
// (stages, 5, TIMES) numbers; `work` is for rings in memory, of `states` and `outputs` slots.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    run(const real* start, int64 n, LAW_ARGUMENTS, TABLE_ARGUMENTS, const real* when, int stages, int states,
        int outputs, uint64 key, uint64 particle, int every, real* work, real* out) {
    SHARED(real, pool);
    real *at = pool, *tile = pool + TILE_AT;
    Law law = LAW;
    Table table = TABLE;
#if STATES
    Ring<STATES> ys;
    Ring<OUTPUTS> os;
#else
    Ring ys = {work + own()}, os = {work + own() + states * (DIM * all())};
#endif
    for (int64 base = int64(blockIdx.x) * blockDim.x; base < n; base += all()) {
        int64 i = base + threadIdx.x, row = min(i, n - 1);
        real y[DIM];
#pragma unroll
        for (int j = 0; j < DIM; ++j) y[j] = start[row * DIM + j];
        for (int k = 0; k < stages; ++k) {
            if (k > 0) {
#pragma unroll
                for (int j = 0; j < DIM; ++j) y[j] = 0;
                for (int e = table.starts[k]; e < table.starts[k + 1]; ++e) {
                    int kind = table.kinds[e];
                    uint32 place = table.places[e];
                    const real* weight = table.weights + e * WIDTH;
                    if (kind == 0) ys.add(place, weight, y);
                    if (kind == 1) os.add(place, weight, y);
                    if (kind == 2) add_normals(key, particle + row, place, weight, y);
                }
            }
            ys.put(k % states, y);
            if (i < n && (every || k + 1 == stages)) {
                real* to = out + (every ? k * n + i : i) * DIM;
#pragma unroll
                for (int j = 0; j < DIM; ++j) to[j] = y[j];
            }
            if (table.evaluated[k]) {
                real found[DIM];
#pragma unroll
                for (int j = 0; j < DIM; ++j) y[j] *= table.scale[k * WIDTH + (WIDE ? j : 0)];
                load_time(when + k * AT, at);
                evaluate(y, law, at, tile, found);
                os.put(k % outputs, found);
            }
        }
    }
}
