// What CUDA C++ means on a processor: blocks one after the other, the threads of a block as fibers that take turns in a
// random order and change places only where they wait for each other. Shared memory starts as NaNs, ends at a page that
// must not be touched, and belongs to one block. A launch answers with nothing, or with what was wrong.
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __restrict__ __restrict
#define __constant__ static const

using std::max;
using std::min;

namespace emulator {

struct Index {
    unsigned x = 0, y = 0, z = 0;
};

enum State { READY, AT_BARRIER, AT_WARP, DONE };

struct Fiber {
    ucontext_t context;
    Index thread;
    int number = 0, line = 0;
    int turn = 0;  // which of the two rows of slots of its warp it uses next
    State state = READY;
};

constexpr size_t STACK = 256 * 1024;
constexpr int WARP = 32;

static Index block, blocks, threads;
static Fiber* here = nullptr;
static std::vector<Fiber> fibers;
static std::vector<char*> stacks;
static ucontext_t scheduler;
static std::function<void()> body;
static unsigned char *pool = nullptr, *pages = nullptr;
static size_t pages_size = 0;
static std::vector<uint64_t> slots;  // (warps, 2, 32): what lanes show each other
static int votes[3];                 // threads that said yes at this barrier; what the last one added up to
static char message[512];
static sigjmp_buf fault;
static void* fault_address;

static void enter() {
    body();
    here->state = DONE;
    swapcontext(&here->context, &scheduler);
}

static void wait(State state, int line) {
    here->state = state;
    here->line = line;
    swapcontext(&here->context, &scheduler);
}

static void barrier(int line) { wait(AT_BARRIER, line); }

static int barrier_count(bool yes, int line) {
    votes[0] += yes;
    wait(AT_BARRIER, line);
    return votes[1];
}

template <class T>
static T shown(T value, int lane, int line) {
    static_assert(sizeof(T) <= 8, "a value of at most 64 bits");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    uint64_t* row = &slots[((here->number / WARP) * 2 + here->turn) * WARP];
    here->turn ^= 1;
    row[here->number % WARP] = bits;
    wait(AT_WARP, line);
    if (lane < 0 || lane >= WARP) return value;
    std::memcpy(&value, &row[lane], sizeof(T));
    return value;
}

static unsigned ballot(bool yes, int line) {
    uint64_t* row = &slots[((here->number / WARP) * 2 + here->turn) * WARP];
    shown<int>(yes, 0, line);
    unsigned bits = 0;
    for (int lane = 0; lane < WARP; ++lane) bits |= unsigned(row[lane] & 1) << lane;
    return bits;
}

// ------------------------------------------------------------------ one block

static bool met(State state, int first, int last) {
    // whether all threads first .. last - 1 wait for each other at one place
    int line = 0;
    for (int i = first; i < last; ++i) {
        if (fibers[i].state == DONE) continue;
        if (fibers[i].state != state || (line && fibers[i].line != line)) return false;
        line = fibers[i].line;
    }
    return line != 0;
}

static const char* run_block(std::mt19937& random, int order) {
    int count = int(fibers.size());
    std::vector<int> ready;
    for (;;) {
        ready.clear();
        for (int i = 0; i < count; ++i)
            if (fibers[i].state == READY) ready.push_back(i);
        if (order == 0) std::shuffle(ready.begin(), ready.end(), random);
        if (order < 0) std::reverse(ready.begin(), ready.end());
        for (int i : ready) {
            here = &fibers[i];
            swapcontext(&scheduler, &here->context);
        }
        int done = 0, released = 0;
        for (int i = 0; i < count; ++i) done += fibers[i].state == DONE;
        if (done == count) return nullptr;
        for (int first = 0; first < count; first += WARP) {
            int last = std::min(first + WARP, count);
            if (!met(AT_WARP, first, last)) continue;
            for (int i = first; i < last; ++i) {
                if (fibers[i].state == DONE) return "threads of a warp ended where others wait for them";
                fibers[i].state = READY;
                ++released;
            }
        }
        if (released) continue;
        if (!met(AT_BARRIER, 0, count)) return "threads wait for each other at different places";
        if (done) return "threads ended where others wait at a barrier";
        votes[1] = votes[0];
        votes[0] = 0;
        for (auto& fiber : fibers) fiber.state = READY;
    }
}

static void on_fault(int, siginfo_t* info, void*) {
    fault_address = info->si_addr;
    siglongjmp(fault, 1);
}

static void make_pool(size_t bytes) {
    constexpr size_t PAGE = 4096;
    size_t needed = (bytes + PAGE - 1) / PAGE * PAGE + PAGE;
    if (needed != pages_size) {
        if (pages) munmap(pages, pages_size);
        pages = (unsigned char*)mmap(nullptr, needed, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(pages + needed - PAGE, PAGE, PROT_NONE);
        pages_size = needed;
    }
    pool = pages + (pages_size - PAGE - (bytes + 15) / 16 * 16);
}

// A seed of the order of blocks and threads; order 0 at random, 1 as they are numbered, -1 from the last to the first.
static const char* launch(Index grid, Index size, size_t shared, unsigned seed, int order, std::function<void()> call) {
    int count = int(size.x * size.y * size.z);
    if (count < 1 || count > 1024) return "a block must have 1 to 1024 threads";
    std::mt19937 random(seed);
    blocks = grid, threads = size, body = std::move(call);
    make_pool(shared);
    while (int(stacks.size()) < count)
        stacks.push_back((char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    fibers.resize(count);
    slots.assign(size_t((count + WARP - 1) / WARP) * 2 * WARP, 0);
    std::vector<unsigned> places(size_t(grid.x) * grid.y * grid.z);
    for (size_t i = 0; i < places.size(); ++i) places[i] = unsigned(i);
    if (order == 0) std::shuffle(places.begin(), places.end(), random);
    if (order < 0) std::reverse(places.begin(), places.end());

    static char spare[65536];
    stack_t mine{}, before{};
    mine.ss_sp = spare, mine.ss_size = sizeof spare;
    sigaltstack(&mine, &before);
    struct sigaction action {}, old_segv, old_bus;
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &old_segv);
    sigaction(SIGBUS, &action, &old_bus);
    const char* wrong = nullptr;
    fault_address = nullptr;
    if (sigsetjmp(fault, 1) == 0) {
        for (unsigned place : places) {
            block = {place % grid.x, place / grid.x % grid.y, place / (grid.x * grid.y)};
            std::memset(pool, 0xff, (shared + 15) / 16 * 16);
            votes[0] = votes[1] = 0;
            for (int i = 0; i < count; ++i) {
                Fiber& fiber = fibers[i];
                fiber.number = i, fiber.state = READY, fiber.turn = 0;
                fiber.thread = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
                getcontext(&fiber.context);
                fiber.context.uc_stack.ss_sp = stacks[i];
                fiber.context.uc_stack.ss_size = STACK;
                fiber.context.uc_link = nullptr;
                makecontext(&fiber.context, enter, 0);
            }
            wrong = run_block(random, order);
            if (wrong) break;
            for (size_t i = shared; i < (shared + 15) / 16 * 16; ++i)
                if (pool[i] != 0xff) wrong = "shared memory was written behind its end";
        }
    } else {
        bool ours = fault_address >= pages && fault_address < pages + pages_size;
        std::snprintf(message, sizeof message, "memory %s was touched at %p, block %u thread %d",
                      ours ? "behind shared memory" : "that is no array's", fault_address, block.x, here->number);
        wrong = message;
    }
    sigaction(SIGSEGV, &old_segv, nullptr);
    sigaction(SIGBUS, &old_bus, nullptr);
    sigaltstack(&before, nullptr);
    return wrong;
}

// ------------------------------------------------------------------ calls by addresses of arguments

template <class... A, size_t... I>
static const char* unpacked(void (*kernel)(A...), Index grid, Index size, size_t shared, unsigned seed, int order,
                            void** values, const int* sizes, int given, std::index_sequence<I...>) {
    constexpr int wanted = int(sizeof...(A));
    if (given != wanted) {
        std::snprintf(message, sizeof message, "%d arguments are given, and %d wanted", given, wanted);
        return message;
    }
    const int expected[] = {int(sizeof(A))...};
    for (int i = 0; i < wanted; ++i)
        if (expected[i] != sizes[i]) {
            std::snprintf(message, sizeof message, "argument %d has %d bytes, not %d", i, sizes[i], expected[i]);
            return message;
        }
    std::tuple<std::decay_t<A>...> held{*(std::decay_t<A>*)values[I]...};
    return launch(grid, size, shared, seed, order, [&] { std::apply(kernel, held); });
}

template <class... A>
static const char* called(void (*kernel)(A...), Index grid, Index size, size_t shared, unsigned seed, int order,
                          void** values, const int* sizes, int given) {
    return unpacked(kernel, grid, size, shared, seed, order, values, sizes, given, std::index_sequence_for<A...>{});
}

}  // namespace emulator

#define EMULATE(name)                                                                                              \
    extern "C" const char* emulate_##name(const unsigned* grid, const unsigned* size, size_t shared, unsigned seed, \
                                          int order, void** values, const int* sizes, int given) {                  \
        return emulator::called(name, {grid[0], grid[1], grid[2]}, {size[0], size[1], size[2]}, shared, seed, order, \
                                values, sizes, given);                                                              \
    }

#define SHARED(type, name) type* name = reinterpret_cast<type*>(emulator::pool)

#define threadIdx (emulator::here->thread)
#define blockIdx (emulator::block)
#define gridDim (emulator::blocks)
#define blockDim (emulator::threads)
#define warpSize (emulator::WARP)

#define __syncthreads() emulator::barrier(__LINE__)
#define __syncthreads_count(yes) emulator::barrier_count(bool(yes), __LINE__)
#define __syncthreads_or(yes) (emulator::barrier_count(bool(yes), __LINE__) > 0)
#define __syncthreads_and(yes) (emulator::barrier_count(!bool(yes), __LINE__) == 0)
#define __syncwarp(...) ((void)emulator::shown(0, 0, __LINE__))
#define __shfl_sync(mask, value, lane) emulator::shown(value, int(lane), __LINE__)
#define __shfl_xor_sync(mask, value, bits) emulator::shown(value, (emulator::here->number % 32) ^ int(bits), __LINE__)
#define __shfl_down_sync(mask, value, step) emulator::shown(value, (emulator::here->number % 32) + int(step), __LINE__)
#define __shfl_up_sync(mask, value, step) emulator::shown(value, (emulator::here->number % 32) - int(step), __LINE__)
#define __ballot_sync(mask, yes) emulator::ballot(bool(yes), __LINE__)
#define __any_sync(mask, yes) (emulator::ballot(bool(yes), __LINE__) != 0)
#define __all_sync(mask, yes) (emulator::ballot(!bool(yes), __LINE__) == 0)

// ------------------------------------------------------------------ functions

template <class T>
static T atomicAdd(T* place, T value) {
    T old = *place;
    *place = old + value;
    return old;
}
template <class T>
static T atomicMax(T* place, T value) {
    T old = *place;
    *place = std::max(old, value);
    return old;
}
template <class T>
static T __ldg(const T* place) {
    return *place;
}

static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
static inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
static inline double rsqrt(double x) { return 1 / std::sqrt(x); }
static inline float rsqrt(float x) { return 1 / std::sqrt(x); }
using std::exp2;
using std::fma;
using std::isfinite;
using std::log;
using std::log1p;
using std::log2;
using std::pow;
using std::sqrt;

static inline void sincospi(double x, double* sine, double* cosine) {
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
