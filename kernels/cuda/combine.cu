#include "philox.cuh"

#define SOURCES 8  // arrays of a launch

// One stage of a sampler for points (n, dim): out = sum_i w_i a_i + sum_m v_m z_m, or out += that with `more`, over
// `count` <= SOURCES arrays and `drawn` normals, made where they are added, with weights w (count, width) and
// v (drawn, width), one or `dim` for each. Two axes for a thread: those that have their normals of one counter.
extern "C" __global__ void combine(const real* a0, const real* a1, const real* a2, const real* a3, const real* a4,
                                   const real* a5, const real* a6, const real* a7, int count, const uint32* draws,
                                   int drawn, const real* weights, const real* noise, int width, int64 n,
                                   int dim, uint64 key, uint64 particle, int more, real* out) {
    const real* from[SOURCES] = {a0, a1, a2, a3, a4, a5, a6, a7};
    int groups = (dim + 1) / 2;
    for (int64 i = own(); i < n * groups; i += all()) {
        int64 row = i / groups;
        int group = int(i - row * groups), axis = 2 * group;
        int64 at = row * dim + axis;
        bool both = axis + 1 < dim;
        int w = width == 1 ? 0 : axis, next = width == 1 ? 0 : axis + (both ? 1 : 0);
        real first = more ? out[at] : real(0), second = more && both ? out[at + 1] : real(0);
#pragma unroll
        for (int s = 0; s < SOURCES; ++s) {
            if (s >= count) continue;
            first = fma(weights[s * width + w], from[s][at], first);
            if (both) second = fma(weights[s * width + next], from[s][at + 1], second);
        }
        for (int m = 0; m < drawn; ++m) {
            const real* weight = noise + m * width;
            real one, two;
            normal_pair(key, particle + row, draws[m], group, one, two);
            first = fma(weight[w], one, first), second = fma(weight[next], two, second);
        }
        out[at] = first;
        if (both) out[at + 1] = second;
    }
}
