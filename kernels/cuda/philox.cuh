// Unit normals by counter: Philox-4x32-10, then Box and Muller, the stream of refdiff.random: words and uniforms bit by
// bit, normals up to the rounding of log, sqrt, sine and cosine, in double also where numbers are float.
#pragma once
#include "common.cuh"

struct Words {
    uint32 w0, w1, w2, w3;
};

__device__ __forceinline__ Words philox(uint64 key, uint64 particle, uint32 draw, uint32 group) {
    uint32 k0 = uint32(key), k1 = uint32(key >> 32);
    uint32 c0 = uint32(particle), c1 = uint32(particle >> 32), c2 = draw, c3 = group;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        uint32 high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        uint32 high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return {c0, c1, c2, c3};
}

// (the upper 53 bits + 1) / 2^53, in (0, 1], without rounding
__device__ __forceinline__ double unit(uint32 low, uint32 high) {
    uint64 bits = ((uint64(high) << 32) | low) >> 11;
    return double(bits + 1) * 1.1102230246251565e-16;
}

// The normals of axes 2 group and 2 group + 1.
__device__ __forceinline__ void normal_pair(uint64 key, uint64 particle, uint32 draw, uint32 group, double& first,
                                            double& second) {
    Words w = philox(key, particle, draw, group);
    double radius = sqrt(-2.0 * log(unit(w.w0, w.w1))), sine, cosine;
    sincospi(2.0 * unit(w.w2, w.w3), &sine, &cosine);
    first = radius * cosine, second = radius * sine;
}
