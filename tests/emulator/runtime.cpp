// How emulated threads take turns: blocks run one after the other, the threads of a block as fibers in a random order,
// which change places only where they wait for each other. Shared memory starts as NaNs. A launch answers nothing, or
// what was wrong.
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <random>
#include <vector>

#include "accesses.h"

namespace emulator {

namespace {

// ------------------------------------------------------------------ fibers

void enter() {
    for (;;) {
        body(held);
        current->state = DONE;
        if (_setjmp(current->place) == 0) _longjmp(scheduler, 1);
    }
}

void resume(Fiber* fiber) {
    current = fiber, scene.here = &fiber->thread;
    fiber->running = true;
    if (_setjmp(scheduler)) {
        fiber->running = false;
        return;
    }
    if (fiber->begun) _longjmp(fiber->place, 1);
    fiber->begun = true;
    setcontext(&fiber->context);
}

void begin(int number) {
    while (int(fibers.size()) <= number) {
        Fiber* made = new Fiber;
        made->stack = stacks + fibers.size() * STACK;
        fibers.push_back(made);
    }
    Fiber* fiber = fibers[number];
    unsigned i = unsigned(number);
    fiber->number = number, fiber->state = READY;
    Index size = scene.threads;
    fiber->thread = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    if (fiber->begun) return;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = STACK;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, enter, 0);
}

// ------------------------------------------------------------------ threads that wait for each other

bool of_warp(Wait kind) { return kind >= SHUFFLE; }

bool together(const Fiber* a, const Fiber* b) {
    return a->state == WAITING && b->state == WAITING && a->kind == b->kind && a->line == b->line && a->mask == b->mask;
}

void answer(const std::vector<Fiber*>& group) {
    uint64_t ballot = 0, yes = 0;
    for (Fiber* one : group) ballot |= one->bits << (one->number % WARP), yes += one->bits;
    for (Fiber* one : group) {
        one->answer = one->kind == BALLOT ? ballot : one->kind == VOTE ? yes : ~uint64_t(0);
        if (one->kind != SHUFFLE) continue;
        for (Fiber* other : group)  // who shuffles with a thread that is not there learns a NaN
            if (other->number % WARP == one->lane) one->answer = other->bits;
    }
    for (Fiber* one : group) one->state = READY;
}

// Lets threads go on that have met all of a warp whom they wait for; says whether there were any.
bool release_warps() {
    bool released = false;
    std::vector<Fiber*> group;
    for (int i = 0; i < count; ++i) {
        Fiber* fiber = fibers[i];
        if (fiber->state != WAITING || !of_warp(fiber->kind)) continue;
        if (!(fiber->mask >> (i % WARP) & 1)) wrong("a thread is not in its own mask, line %d", fiber->line);
        group.clear();
        bool all = true;
        for (int other = i / WARP * WARP; other < std::min(count, (i / WARP + 1) * WARP); ++other) {
            if (!(fiber->mask >> (other % WARP) & 1)) continue;
            if (fibers[other]->state == DONE)
                wrong("threads of a warp ended where others wait for them, line %d", fiber->line);
            all = all && together(fiber, fibers[other]);
            group.push_back(fibers[other]);
        }
        if (!all) continue;
        if (fiber->kind == FENCE) ++fences[i / WARP];
        answer(group);
        released = true;
    }
    return released;
}

void release_block() {
    std::vector<Fiber*> group(fibers.begin(), fibers.begin() + count);
    const Fiber* first = nullptr;
    for (Fiber* one : group)
        if (one->state == WAITING) first = one;
    for (Fiber* one : group) {
        if (one->state == DONE) wrong("threads ended where others wait at a barrier, line %d", first->line);
        if (of_warp(one->kind) || !together(first, one))
            wrong("threads wait for each other at different places, lines %d and %d", first->line, one->line);
    }
    ++barriers;
    answer(group);
}

void run_block(std::mt19937& random, int order) {
    std::vector<Fiber*> ready;
    for (;;) {
        ready.clear();
        int done = 0;
        for (int i = 0; i < count; ++i) {
            if (fibers[i]->state == READY) ready.push_back(fibers[i]);
            done += fibers[i]->state == DONE;
        }
        if (done == count) return;
        if (order == 0) std::shuffle(ready.begin(), ready.end(), random);
        if (order < 0) std::reverse(ready.begin(), ready.end());
        for (Fiber* fiber : ready) resume(fiber);
        done = 0;
        for (int i = 0; i < count; ++i) done += fibers[i]->state == DONE;
        if (done < count && !release_warps()) release_block();
    }
}

// ------------------------------------------------------------------ launches

void* fault_address = nullptr;

void on_fault(int, siginfo_t* info, void*) {
    fault_address = info->si_addr;
    siglongjmp(broken, 2);
}

void run_blocks(Index grid, unsigned seed, int order) {
    std::mt19937 random(seed);
    std::vector<unsigned> places(size_t(grid.x) * grid.y * grid.z);
    for (size_t i = 0; i < places.size(); ++i) places[i] = unsigned(i);
    if (order == 0) std::shuffle(places.begin(), places.end(), random);
    if (order < 0) std::reverse(places.begin(), places.end());
    first_block = this_block + 1;
    for (unsigned place : places) {
        ++this_block, barriers = 0;
        scene.block = {place % grid.x, place / grid.x % grid.y, place / (grid.x * grid.y)};
        std::memset(scene.pool, 0xff, (shared_size + 15) / 16 * 16);
        for (int i = 0; i < count; ++i) begin(i);
        run_block(random, order);
    }
}

}  // namespace

int number() { return current->number; }

uint64_t meet(Wait kind, unsigned mask, uint64_t bits, int lane, int line) {
    Fiber* own = current;
    own->state = WAITING, own->kind = kind, own->mask = mask, own->bits = bits, own->lane = lane, own->line = line;
    if (_setjmp(own->place) == 0) _longjmp(scheduler, 1);
    return current->answer;
}

const char* wrong_arguments(const int* expected, int wanted, const int* sizes, int given) {
    if (given != wanted) {
        std::snprintf(message, sizeof message, "%d arguments are given, and %d wanted", given, wanted);
        return message;
    }
    for (int i = 0; i < wanted; ++i)
        if (expected[i] != sizes[i]) {
            std::snprintf(message, sizeof message, "argument %d has %d bytes, and %d are wanted", i, sizes[i],
                          expected[i]);
            return message;
        }
    return nullptr;
}

// A seed of the order of blocks and threads; order 0 at random, 1 as they are numbered, -1 from the last to the first.
const char* launch(Index grid, Index size, size_t shared, unsigned seed, int order, void (*call)(void*), void* values,
                   size_t values_size, const size_t* extents, int given) {
    count = int(size.x * size.y * size.z);
    if (count < 1 || count > MOST_THREADS || shared > MOST_SHARED)
        return "a block has 1 to 1024 threads, and shared memory";
    scene.blocks = grid, scene.threads = size, body = call;
    held = values, held_size = values_size;
    make_pool(shared);
    make_words(extents, given);

    static char spare[65536];
    stack_t mine{}, before{};
    mine.ss_sp = spare, mine.ss_size = sizeof spare;
    sigaltstack(&mine, &before);
    struct sigaction action {}, old_segv, old_bus;
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &old_segv);
    sigaction(SIGBUS, &action, &old_bus);
    int how = sigsetjmp(broken, 1);
    if (how == 0) run_blocks(grid, seed, order);
    if (how == 2)
        std::snprintf(message, sizeof message, "memory that is no argument's is touched at %p, block %u thread %d",
                      fault_address, scene.block.x, current->number);
    // where threads stopped, nobody goes on; and other programs are about to use their stacks
    for (Fiber* fiber : fibers) fiber->begun = fiber->running = false;
    sigaction(SIGSEGV, &old_segv, nullptr);
    sigaction(SIGBUS, &old_bus, nullptr);
    sigaltstack(&before, nullptr);
    return how ? message : nullptr;
}

}  // namespace emulator

extern "C" __attribute__((visibility("default"))) void emulator_stacks(char* given) { emulator::stacks = given; }

