// Unit normals by counter: Philox-4x32-10, then Box and Muller, the stream of refdiff.random: words and uniforms bit by
// bit, normals up to the rounding of log, sqrt, sine and cosine in the type of numbers.
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

// 2^53 u = the upper 53 bits + 1, and u in (0, 1] without rounding
__device__ __forceinline__ uint64 units(uint32 low, uint32 high) {
    return (((uint64(high) << 32) | low) >> 11) + 1;
}
__device__ __forceinline__ double unit(uint32 low, uint32 high) {
    return double(units(low, high)) * 1.1102230246251565e-16;
}

#ifdef SINGLE
// Whole numbers hold u to its last bit, float does not: what is rounded is 1 - u and the rest of a quarter of a turn,
// each to 2^-24 of itself, so that a normal is as near as float can be also where logarithm, sine or cosine vanish.

// m / 2^53 for m <= 2^53, rounded, without conversions of 64 bits: many devices make them as slowly as double.
__device__ __forceinline__ float fraction(uint64 m) {
    int zeros = __clzll(m);
    return float(uint32((m << (zeros & 63)) >> 32)) * __int_as_float((106 - zeros) << 23);  // 2^(-21 - zeros)
}

// sqrt(-2 log u) with u = 2^-e (1 - v), v in [0, 1/2]
__device__ __forceinline__ float radius(uint64 u) {
    int e = max(__clzll(u) - 11, 0);
    float v = fraction((uint64(1) << 53) - (u << e));
    return sqrt(-2.0f * fma(-0.693147180559945309f, float(e), log1p(-v)));
}

// cos(2 pi u) and sin(2 pi u)
__device__ __forceinline__ void turned(uint64 u, float& cosine, float& sine) {
    int64 quarter = int64(u + (uint64(1) << 50)) >> 51, rest = int64(u) - (quarter << 51);  // of 2^51, nearest
    float turn = fraction(uint64(rest < 0 ? -rest : rest)), c, s;
    sincospi(2.0f * (rest < 0 ? -turn : turn), &s, &c);
    cosine = quarter & 1 ? s : c, sine = quarter & 1 ? c : s;
    if (quarter == 1 || quarter == 2) cosine = -cosine;
    if (quarter == 2 || quarter == 3) sine = -sine;
}
#endif

// The normals of axes 2 group and 2 group + 1.
__device__ __forceinline__ void normal_pair(uint64 key, uint64 particle, uint32 draw, uint32 group, real& first,
                                            real& second) {
    Words w = philox(key, particle, draw, group);
#ifdef SINGLE
    float length = radius(units(w.w0, w.w1)), sine, cosine;
    turned(units(w.w2, w.w3), cosine, sine);
#else
    double length = sqrt(-2.0 * log(unit(w.w0, w.w1))), sine, cosine;
    sincospi(2.0 * unit(w.w2, w.w3), &sine, &cosine);
#endif
    first = length * cosine, second = length * sine;
}
