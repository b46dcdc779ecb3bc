// Fused kernels for bound propagation through linear layers and piecewise-linear activations.
// Called through ctypes by library.py, which is the only user; it never calls where `level` is 0.
#include "kernels.h"

#include <atomic>
#include <cfloat>
#include <cstring>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

// Which sources this was built from (`fingerprint` in library.py).
EXPORT const char *certify_sources() { return CERTIFY_SOURCES; }

#if defined(__x86_64__) && defined(__GNUC__)

// Memory aligned to cache lines, zeroed unless all of it is written before it is read.
template <class T>
struct Scratch {
    T *data;
    explicit Scratch(int64_t count, bool zeroed = true) {
        size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
        data = static_cast<T *>(::operator new(bytes + 64, std::align_val_t(64)));
        if (zeroed) std::memset(data, 0, bytes + 64);
    }
    ~Scratch() { ::operator delete(data, std::align_val_t(64)); }
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;
};

#define LANES 8
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#include "kernels.inl"
#include "sweep.inl"
}
#pragma GCC pop_options
#undef LANES

#define LANES 16
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,fma")
namespace avx512 {
#include "kernels.inl"
#include "sweep.inl"
}
#pragma GCC pop_options
#undef LANES

static int found() {
    __builtin_cpu_init();
    bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    return wide ? 2 : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0;
}

// 1 where memory ran out, else 0.
template <class Work>
static int tried(Work work) {
    try {
        work();
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

#define TRY(function, ...) tried([&] { level > 1 ? avx512::function(__VA_ARGS__) : avx2::function(__VA_ARGS__); })

EXPORT int certify_level() { return found(); }
EXPORT int certify_bounds(const Chain *c, int level) { return TRY(bounds, *c); }
EXPORT int certify_relax(const Relaxed *t, int level) { return TRY(relax, *t); }
EXPORT int certify_follow(const Followed *t, int level) { return TRY(follow, *t); }
EXPORT int certify_kinked(const Kinked *t, int level) { return TRY(kinked, *t); }
EXPORT int certify_ascend(const Ascent *t, int level) { return TRY(ascend, *t); }
EXPORT int certify_sweep(const Sweep *t, int level) { return TRY(sweep, *t); }
EXPORT int certify_multiply(int64_t m, const float *a, const Matrix *b, const float *bias, float *c, int level) {
    return TRY(multiply, m, a, *b, bias, c);
}

#else
EXPORT int certify_level() { return 0; }
#endif
