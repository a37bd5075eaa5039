// What CUDA C++ means on a processor: what kernels see. How threads take turns, and what they do wrong, is in
// runtime.cpp.
#pragma once

#include <math.h>

#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __restrict__ __restrict
#define __constant__ static const
#define UNCHECKED __attribute__((no_sanitize("thread")))

namespace emulator {

struct Index {
    unsigned x = 0, y = 0, z = 0;
};

enum Wait { BARRIER, VOTE, SHUFFLE, BALLOT, FENCE };  // where threads of a block or of a warp wait for each other

constexpr int WARP = 32;
extern struct Scene {
    Index block, blocks, threads;
    Index* here = nullptr;          // this thread of its block
    unsigned char* pool = nullptr;  // the block's shared memory
} scene;

int number();  // of this thread in its block
// Waits, says `bits` of oneself, and learns: a lane's bits of a shuffle, everybody's votes of a ballot, how many said
// yes
uint64_t meet(Wait kind, unsigned mask, uint64_t bits, int lane, int line);
const char* launch(Index grid, Index size, size_t shared, unsigned seed, int order, void (*call)(void*), void* values,
                   size_t values_size, const size_t* extents, int given);
const char* wrong_arguments(const int* expected, int wanted, const int* sizes, int given);

template <class T>
UNCHECKED T shown(unsigned mask, T value, int lane, int line) {
    static_assert(sizeof(T) <= 8, "a value of at most 64 bits");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = meet(SHUFFLE, mask, bits, lane, line);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

// A lane of a group of `width`, where it is in the group, else one's own.
inline int lane_of(int lane, int width) {
    int own = number() % WARP, first = own / width * width;
    return lane < first || lane >= first + width ? own : lane;
}

template <class... A, size_t... I>
const char* called(void (*kernel)(A...), const unsigned* grid, const unsigned* size, size_t shared, unsigned seed,
                   int order, void** values, const int* sizes, const size_t* extents, int given,
                   std::index_sequence<I...>) {
    constexpr int wanted = int(sizeof...(A));
    const int expected[] = {int(sizeof(A))..., 0};
    if (const char* wrong = wrong_arguments(expected, wanted, sizes, given)) return wrong;
    struct Call {
        void (*kernel)(A...);
        std::tuple<std::decay_t<A>...> held;
    } call{kernel, {*(std::decay_t<A>*)values[I]...}};
    auto run = [](void* one) { std::apply(((Call*)one)->kernel, ((Call*)one)->held); };
    return launch({grid[0], grid[1], grid[2]}, {size[0], size[1], size[2]}, shared, seed, order, run, &call,
                  sizeof call, extents, given);
}

template <class... A>
const char* called(void (*kernel)(A...), const unsigned* grid, const unsigned* size, size_t shared, unsigned seed,
                   int order, void** values, const int* sizes, const size_t* extents, int given) {
    return called(kernel, grid, size, shared, seed, order, values, sizes, extents, given,
                  std::index_sequence_for<A...>{});
}

}  // namespace emulator

#define EMULATE(name)                                                                                               \
    extern "C" __attribute__((visibility("default"))) const char* emulate_##name(                                    \
        const unsigned* grid, const unsigned* size, size_t shared, unsigned seed, int order, void** values,          \
        const int* sizes, const size_t* extents, int given) {                                                        \
        return emulator::called(name, grid, size, shared, seed, order, values, sizes, extents, given);              \
    }

#define SHARED(type, name) type* name = reinterpret_cast<type*>(emulator::scene.pool)

#define threadIdx (*emulator::scene.here)
#define blockIdx (emulator::scene.block)
#define gridDim (emulator::scene.blocks)
#define blockDim (emulator::scene.threads)
#define warpSize (emulator::WARP)

// ------------------------------------------------------------------ threads that wait for each other

#define LINE int line = __builtin_LINE()

inline void __syncthreads(LINE) { emulator::meet(emulator::BARRIER, 0, 0, 0, line); }
inline int __syncthreads_count(int yes, LINE) { return int(emulator::meet(emulator::VOTE, 0, yes != 0, 0, line)); }
inline int __syncthreads_or(int yes, LINE) { return __syncthreads_count(yes, line) > 0; }
inline int __syncthreads_and(int yes, LINE) { return __syncthreads_count(!yes, line) == 0; }
inline void __syncwarp(unsigned mask = ~0u, LINE) { emulator::meet(emulator::FENCE, mask, 0, 0, line); }
inline unsigned __ballot_sync(unsigned mask, int yes, LINE) {
    return unsigned(emulator::meet(emulator::BALLOT, mask, yes != 0, 0, line));
}
inline int __any_sync(unsigned mask, int yes, LINE) { return __ballot_sync(mask, yes, line) != 0; }
inline int __all_sync(unsigned mask, int yes, LINE) { return __ballot_sync(mask, !yes, line) == 0; }
template <class T>
UNCHECKED T __shfl_sync(unsigned mask, T value, int lane, int width = 32, LINE) {
    int first = emulator::number() % emulator::WARP / width * width;
    return emulator::shown(mask, value, first + (lane & (width - 1)), line);
}
template <class T>
UNCHECKED T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, LINE) {
    return emulator::shown(mask, value, emulator::lane_of((emulator::number() % emulator::WARP) ^ bits, width), line);
}
template <class T>
UNCHECKED T __shfl_down_sync(unsigned mask, T value, unsigned step, int width = 32, LINE) {
    int lane = emulator::number() % emulator::WARP + int(step);
    return emulator::shown(mask, value, emulator::lane_of(lane, width), line);
}
template <class T>
UNCHECKED T __shfl_up_sync(unsigned mask, T value, unsigned step, int width = 32, LINE) {
    int lane = emulator::number() % emulator::WARP - int(step);
    return emulator::shown(mask, value, emulator::lane_of(lane, width), line);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

#undef LINE

// ------------------------------------------------------------------ functions

#define LARGER_AND_SMALLER(type)                                     \
    inline type max(type a, type b) { return a < b ? b : a; }        \
    inline type min(type a, type b) { return b < a ? b : a; }
LARGER_AND_SMALLER(int)
LARGER_AND_SMALLER(unsigned)
LARGER_AND_SMALLER(long long)
LARGER_AND_SMALLER(unsigned long long)
#undef LARGER_AND_SMALLER
inline double max(double a, double b) { return std::fmax(a, b); }  // of a number and a NaN, the number
inline double min(double a, double b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline float min(float a, float b) { return std::fmin(a, b); }

// Fibers change places elsewhere only: what is done here is done at once.
#define ATOMIC(name, result)                     \
    template <class T>                           \
    UNCHECKED T name(T* place, T value) {        \
        T old = *place;                          \
        *place = result;                         \
        return old;                              \
    }
ATOMIC(atomicAdd, old + value)
ATOMIC(atomicMax, max(old, value))
ATOMIC(atomicMin, min(old, value))
ATOMIC(atomicExch, value)
#undef ATOMIC

template <class T>
inline T __ldg(const T* place) {
    return *place;
}

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __clzll(long long bits) { return bits ? __builtin_clzll(bits) : 64; }
inline float __int_as_float(int bits) {
    float same;
    std::memcpy(&same, &bits, sizeof same);
    return same;
}
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline float rsqrt(float x) { return 1 / std::sqrt(x); }

inline void sincospi(double x, double* sine, double* cosine) {
    double quarter = std::rint(2 * x);  // x - quarter / 2 is exact
    long double angle = 3.14159265358979323846264338327950288L * (x - 0.5 * quarter);
    double s = double(sinl(angle)), c = double(cosl(angle));
    switch (((long long)quarter % 4 + 4) % 4) {
        case 0: *sine = s, *cosine = c; break;
        case 1: *sine = c, *cosine = -s; break;
        case 2: *sine = -s, *cosine = -c; break;
        default: *sine = -c, *cosine = s;
    }
}
inline void sincospi(float x, float* sine, float* cosine) {
    double s, c;
    sincospi(double(x), &s, &c);
    *sine = float(s), *cosine = float(c);
}
