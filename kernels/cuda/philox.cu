#include "philox.cuh"

// Words (n, 4) of the counters (particle, draw, group).
extern "C" __global__ void words(const uint64* particles, int64 n, uint64 key, uint32 draw, uint32 group, uint32* out) {
    for (int64 i = own(); i < n; i += all()) {
        Words w = philox(key, particles[i], draw, group);
        out[4 * i] = w.w0, out[4 * i + 1] = w.w1, out[4 * i + 2] = w.w2, out[4 * i + 3] = w.w3;
    }
}

// Uniforms (n, dim) of one draw.
extern "C" __global__ void uniforms(const uint64* particles, int64 n, int dim, uint64 key, uint32 draw, double* out) {
    int groups = (dim + 1) / 2;
    for (int64 i = own(); i < n * groups; i += all()) {
        int64 row = i / groups;
        int axis = 2 * int(i % groups);
        Words w = philox(key, particles[row], draw, axis / 2);
        out[row * dim + axis] = unit(w.w0, w.w1);
        if (axis + 1 < dim) out[row * dim + axis + 1] = unit(w.w2, w.w3);
    }
}

// Normals (n, dim) of one draw.
extern "C" __global__ void normals(const uint64* particles, int64 n, int dim, uint64 key, uint32 draw, real* out) {
    int groups = (dim + 1) / 2;
    for (int64 i = own(); i < n * groups; i += all()) {
        int64 row = i / groups;
        int axis = 2 * int(i % groups);
        real first, second;
        normal_pair(key, particles[row], draw, axis / 2, first, second);
        out[row * dim + axis] = first;
        if (axis + 1 < dim) out[row * dim + axis + 1] = second;
    }
}
