// Accesses of kernels to memory, of each of which the compiler tells, as it tells a sanitizer. They must be within the
// block's shared memory or an argument's array, shared memory must have been written before it is read, and where two
// threads touch the same bytes, and one of them writes, a barrier must stand between. Threads of different blocks never
// wait for each other.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "fibers.h"

#define OF_PROGRAM __attribute__((visibility("hidden")))
extern char __ehdr_start[] OF_PROGRAM, _end[] OF_PROGRAM;  // where the program begins and ends, as the linker says

namespace emulator {
namespace {

constexpr size_t MOST_SHARED = 256 * 1024;

// What a thread did last to a word of four bytes.
struct Touch {
    unsigned block, barriers, fences;
    short thread;
    unsigned char bytes;
};
struct alignas(64) Word {
    uint64_t many;  // the time since the last barrier in which several threads have read it
    Touch writer, readers[2];
};

// An array of a launch, and where its words are.
struct Array {
    size_t begin, end, argument, word;
};

unsigned char* pages = nullptr;
size_t shared_size = 0;
std::vector<Word> shared_words, words;
std::vector<Array> arrays;

uint64_t tally[4];  // bytes read and written in global memory, and in shared memory

uint64_t since_barrier() { return uint64_t(this_block) << 32 | barriers; }

bool races(const Touch& before, unsigned char bytes, bool shared) {
    if (before.block < first_block || !(before.bytes & bytes)) return false;
    if (before.block != this_block) return !shared;
    if (before.thread == current->number || before.barriers != barriers) return false;
    return before.thread / WARP != current->number / WARP || before.fences == fences[current->number / WARP];
}

struct Place {
    const char* what;
    size_t argument, byte;
};

__attribute__((noinline)) void look(Word& word, unsigned char bytes, bool write, bool shared, const Place& place) {
    if (shared && !write && word.writer.block != this_block)
        wrong("shared memory is read at byte %zu before it is written, block %u thread %d", place.byte, scene.block.x,
              current->number);
    for (const Touch* before : {&word.writer, &word.readers[0], &word.readers[1]}) {
        if (before != &word.writer && !write) break;
        if (races(*before, bytes, shared))
            wrong("a race for byte %zu of %s %zu: thread %d of block %u %s what thread %d of %s block %s", place.byte,
                  place.what, place.argument, current->number, scene.block.x, write ? "writes" : "reads",
                  before->thread, before->block == this_block ? "the same" : "another",
                  before == &word.writer ? "writes" : "reads");
    }
    Touch now = {this_block, barriers, fences[current->number / WARP], short(current->number), bytes};
    if (write) {
        word.writer = now, word.many = 0;
        return;
    }
    // of readers whom a write may yet meet two are kept: nobody can write then without meeting one of them
    for (Touch& reader : word.readers) {
        bool own = reader.block == this_block && reader.thread == now.thread;
        if (own || !races(reader, 0xff, shared)) {
            reader = now;
            return;
        }
    }
    word.many = since_barrier();
}

const Array* find(size_t at, size_t size) {
    static size_t last = 0;
    if (last < arrays.size() && at >= arrays[last].begin && at + size <= arrays[last].end) return &arrays[last];
    for (const Array& one : arrays) {
        last = size_t(&one - arrays.data());
        if (at >= one.begin && at + size <= one.end) return &one;
    }
    for (const Array& one : arrays)
        if (at + PAGE >= one.begin && at < one.end + PAGE)
            wrong("argument %zu, an array of %zu bytes, is touched at byte %td, block %u thread %d", one.argument,
                  one.end - one.begin, std::ptrdiff_t(at - one.begin), scene.block.x, current->number);
    wrong("memory that is no argument's is touched at %zx, block %u thread %d", at, scene.block.x, current->number);
}

// Whether a place is a thread's own, one of its arguments, or of the program.
inline bool is_private(size_t at) {
    return at - size_t(current->stack) < STACK || at - size_t(current) < sizeof(Fiber) ||
           at - size_t(held) < held_size || (at >= size_t(__ehdr_start) && at < size_t(_end));
}

inline void touch(const void* address, size_t size, bool write) {
    size_t at = size_t(address), byte = at - size_t(scene.pool);
    Place place = {"shared memory", 0, byte};
    Word* word = nullptr;
    bool shared = at - size_t(pages) < MOST_SHARED + 2 * PAGE;
    if (shared) {
        if (byte >= shared_size || size > shared_size - byte)
            wrong("shared memory of %zu bytes is touched at byte %td, block %u thread %d", shared_size,
                  std::ptrdiff_t(byte), scene.block.x, current->number);
        word = &shared_words[byte / 4];
    } else {
        if (!current->running || is_private(at)) return;
        const Array* array = find(at, size);
        byte = at - array->begin;
        place = {"argument", array->argument, byte};
        word = &words[array->word + byte / 4];
    }
    tally[2 * shared + write] += size;
    for (; size; ++word) {
        size_t part = std::min(4 - byte % 4, size);
        if (write || word->many != since_barrier())
            look(*word, (unsigned char)(((1u << part) - 1) << byte % 4), write, shared, place);
        byte += part, size -= part;
    }
}

// A device reads and writes numbers only at multiples of their size; of 16 bytes the compiler may have joined two.
inline void fits(const void* address, size_t size) {
    if (current->running && size_t(address) % std::min(size, size_t(8)))
        wrong("a number of %zu bytes is not at a multiple of them, block %u thread %d", size, scene.block.x,
              current->number);
}

// Shared memory ends where a page ends that must not be touched, but for fewer than 16 bytes.
void make_pool(size_t size) {
    if (!pages) {
        void* made = mmap(nullptr, MOST_SHARED + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        pages = (unsigned char*)made;
        mprotect(pages + PAGE, MOST_SHARED, PROT_READ | PROT_WRITE);
        shared_words.resize(MOST_SHARED / 4);
    }
    shared_size = size;
    scene.pool = pages + PAGE + MOST_SHARED - (size + 15) / 16 * 16;
}

void make_words(const size_t* extents, int given) {
    arrays.clear();
    size_t needed = 0;
    for (int i = 0; i < given; ++i, extents += 2) {
        if (!extents[0]) continue;  // a number
        arrays.push_back({extents[0], extents[0] + extents[1], size_t(i), needed});
        needed += (extents[1] + 3) / 4 + 1;
    }
    if (words.size() < needed) words.resize(needed);  // what earlier launches left there counts for nothing
}

}  // namespace
}  // namespace emulator

// ------------------------------------------------------------------ what the compiler calls at each access

using emulator::touch;
#define SEEN(size)                                                                                        \
    extern "C" void __tsan_read##size(void* place) { emulator::fits(place, size), touch(place, size, false); } \
    extern "C" void __tsan_write##size(void* place) { emulator::fits(place, size), touch(place, size, true); }
#define SEEN_UNALIGNED(size)                                                             \
    extern "C" void __tsan_unaligned_read##size(void* place) { touch(place, size, false); } \
    extern "C" void __tsan_unaligned_write##size(void* place) { touch(place, size, true); }
SEEN(1)
SEEN(2)
SEEN(4)
SEEN(8)
SEEN(16)
SEEN_UNALIGNED(2)
SEEN_UNALIGNED(4)
SEEN_UNALIGNED(8)
SEEN_UNALIGNED(16)
extern "C" void __tsan_read_range(void* place, size_t size) { touch(place, size, false); }
extern "C" void __tsan_write_range(void* place, size_t size) { touch(place, size, true); }
extern "C" void* __tsan_memcpy(void* to, const void* from, size_t size) {
    touch(from, size, false), touch(to, size, true);
    return std::memcpy(to, from, size);
}
extern "C" void* __tsan_memset(void* place, int value, size_t size) {
    touch(place, size, true);
    return std::memset(place, value, size);
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" __attribute__((visibility("default"))) uint64_t* emulate_bytes() { return emulator::tally; }
