// Numbers that count what is done with them, in place of `real`: additions (and differences), products, fused
// multiply-adds, quotients, the larger or smaller of two, exponentials, roots, logarithms. Signs cost nothing.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

enum Counts {
    COUNTED_ADD,
    COUNTED_MULTIPLY,
    COUNTED_FUSED,
    COUNTED_DIVIDE,
    COUNTED_SELECT,
    COUNTED_EXP2,
    COUNTED_ROOT,
    COUNTED_LOG,
    COUNTED_KINDS
};
static uint64_t counts[COUNTED_KINDS];
extern "C" __attribute__((visibility("default"))) uint64_t* counted() { return counts; }

// An operator of two numbers, of which one may be any other; those that say how they compare cost nothing.
#define OF_TWO(Answer, sign, count)                                                                \
    friend Answer operator sign(Counted a, Counted b) { return (void)(count), Answer(a.v sign b.v); } \
    template <class Other, class = std::enable_if_t<std::is_arithmetic_v<Other>>>                   \
    friend Answer operator sign(Counted a, Other b) { return a sign Counted(double(b)); }           \
    template <class Other, class = std::enable_if_t<std::is_arithmetic_v<Other>>>                   \
    friend Answer operator sign(Other a, Counted b) { return Counted(double(a)) sign b; }

struct Counted {
    double v;
    Counted() = default;
    Counted(double value) : v(value) {}
    operator double() const { return v; }
    explicit operator float() const { return float(v); }
    explicit operator int() const { return int(v); }
    Counted operator-() const { return -v; }
    Counted& operator+=(Counted b) { return ++counts[COUNTED_ADD], v += b.v, *this; }
    Counted& operator-=(Counted b) { return ++counts[COUNTED_ADD], v -= b.v, *this; }
    Counted& operator*=(Counted b) { return ++counts[COUNTED_MULTIPLY], v *= b.v, *this; }
    Counted& operator/=(Counted b) { return ++counts[COUNTED_DIVIDE], v /= b.v, *this; }
    OF_TWO(Counted, +, ++counts[COUNTED_ADD])
    OF_TWO(Counted, -, ++counts[COUNTED_ADD])
    OF_TWO(Counted, *, ++counts[COUNTED_MULTIPLY])
    OF_TWO(Counted, /, ++counts[COUNTED_DIVIDE])
    OF_TWO(bool, <, 0)
    OF_TWO(bool, >, 0)
    OF_TWO(bool, <=, 0)
    OF_TWO(bool, >=, 0)
    OF_TWO(bool, ==, 0)
    OF_TWO(bool, !=, 0)
    friend Counted fma(Counted a, Counted b, Counted c) { return ++counts[COUNTED_FUSED], ::fma(a.v, b.v, c.v); }
    friend Counted max(Counted a, Counted b) { return ++counts[COUNTED_SELECT], ::fmax(a.v, b.v); }
    friend Counted min(Counted a, Counted b) { return ++counts[COUNTED_SELECT], ::fmin(a.v, b.v); }
    friend Counted fmax(Counted a, Counted b) { return ++counts[COUNTED_SELECT], ::fmax(a.v, b.v); }
    friend Counted fabs(Counted a) { return ::fabs(a.v); }
    friend Counted abs(Counted a) { return ::fabs(a.v); }
    friend Counted exp2(Counted a) { return ++counts[COUNTED_EXP2], ::exp2(a.v); }
    friend Counted sqrt(Counted a) { return ++counts[COUNTED_ROOT], ::sqrt(a.v); }
    friend Counted rsqrt(Counted a) { return ++counts[COUNTED_ROOT], 1 / ::sqrt(a.v); }
    friend Counted log(Counted a) { return ++counts[COUNTED_LOG], ::log(a.v); }
    friend Counted log2(Counted a) { return ++counts[COUNTED_LOG], ::log2(a.v); }
    friend Counted log1p(Counted a) { return ++counts[COUNTED_LOG], ::log1p(a.v); }
    friend Counted pow(Counted a, Counted b) { return ++counts[COUNTED_LOG], ++counts[COUNTED_EXP2], ::pow(a.v, b.v); }
    friend bool isfinite(Counted a) { return std::isfinite(a.v); }
    friend bool isnan(Counted a) { return std::isnan(a.v); }
    friend bool isinf(Counted a) { return std::isinf(a.v); }
    friend Counted nextafter(Counted a, Counted b) { return std::nextafter(a.v, b.v); }
    friend Counted copysign(Counted a, Counted b) { return std::copysign(a.v, b.v); }
};
