// The threads of a block as fibers, the time as threads of a block can tell it, and how a launch ends that goes wrong.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <vector>

#include "emulator.h"

namespace emulator {

Scene scene;

namespace {

enum State { READY, WAITING, DONE };

struct Fiber {
    Index thread;
    int number = 0;
    State state = READY;
    Wait kind = BARRIER;
    unsigned mask = 0;
    int lane = 0, line = 0;
    uint64_t bits = 0, answer = 0;
    bool begun = false, running = false;
    char* stack = nullptr;
    ucontext_t context;  // where it begins
    jmp_buf place;       // where it goes on
};

constexpr size_t STACK = 256 * 1024, PAGE = 4096;
constexpr int MOST_THREADS = 1024;

std::vector<Fiber*> fibers;
char* stacks = nullptr;  // MOST_THREADS times STACK bytes, which all programs of a process share
int count = 0;
Fiber nobody, *current = &nobody;
jmp_buf scheduler;
sigjmp_buf broken;
char message[512];
void (*body)(void*) = nullptr;
void* held = nullptr;  // the kernel's arguments
size_t held_size = 0;

// Blocks are numbered through all launches; barriers since a block began, and fences of its warps.
unsigned first_block = 1, this_block = 0, barriers = 0, fences[32];

template <class... A>
[[noreturn]] void wrong(const char* format, A... values) {
    std::snprintf(message, sizeof message, format, values...);
    siglongjmp(broken, 1);
}

}  // namespace
}  // namespace emulator
