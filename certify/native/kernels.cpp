// Fused kernels for bound propagation through linear layers and piecewise-linear activations.
// Called through ctypes by library.py, which is the only user; it never calls where `level` is 0.
#include "kernels.h"

#include <cfloat>
#include <cstdlib>
#include <cstring>

#define EXPORT extern "C" __attribute__((visibility("default")))

#if defined(__x86_64__) && defined(__GNUC__)

// Zeroed memory, aligned to cache lines.
template <class T>
struct Scratch {
    T *data;
    explicit Scratch(int64_t count) {
        size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
        data = static_cast<T *>(std::aligned_alloc(64, bytes + 64));
        if (!data) std::abort();
        std::memset(data, 0, bytes + 64);
    }
    ~Scratch() { std::free(data); }
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;
};

#define LANES 8
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#include "kernels.inl"
}
#pragma GCC pop_options
#undef LANES

#define LANES 16
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,fma")
namespace avx512 {
#include "kernels.inl"
}
#pragma GCC pop_options
#undef LANES

static int found() {
    __builtin_cpu_init();
    bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    return wide ? 2 : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0;
}

#define CALL(function, ...) (level > 1 ? avx512::function(__VA_ARGS__) : avx2::function(__VA_ARGS__))

EXPORT int certify_level() { return found(); }
EXPORT void certify_through(const Through *t, int level) { CALL(through, *t); }
EXPORT void certify_bounds(const Chain *c, int level) { CALL(bounds, *c); }
EXPORT void certify_ascend(const Ascent *t, int level) { CALL(ascend, *t); }
EXPORT void certify_multiply(int64_t m, const float *a, const Matrix *b, const float *bias, float *c, int level) {
    CALL(multiply, m, a, *b, bias, c);
}

#else
EXPORT int certify_level() { return 0; }
#endif
