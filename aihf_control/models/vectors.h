/* Vectors of VECTOR 32-bit numbers, by the vector extensions of GCC and Clang. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define W VECTOR
#define INLINE static inline __attribute__((always_inline, unused))

typedef float vec __attribute__((vector_size(4 * W)));
typedef int32_t cells __attribute__((vector_size(4 * W)));
typedef uint32_t bits __attribute__((vector_size(4 * W)));
typedef vec any_vec __attribute__((aligned(4), may_alias));  /* unaligned */

INLINE int lesser(int a, int b) { return a < b ? a : b; }
INLINE vec load(const float *x) { return *(const any_vec *)x; }
INLINE void store(float *to, vec x) { *(any_vec *)to = x; }
INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec rectified(vec x, vec where) { return (vec)((cells)x & ~(where <= 0)); }  /* keeps NaN */

/* The first `left` of W numbers, then zeros. */
INLINE vec some(const float *x, int left) {
    vec v = {0};
    if (left >= W) return load(x);
#ifdef __AVX512F__
    if (left > 0) v = (vec)_mm512_maskz_loadu_ps((1 << left) - 1, x);
#else
    if (left > 0) memcpy(&v, x, sizeof(float) * left);
#endif
    return v;
}

/* e^x for x <= 0; keeps NaN. */
INLINE vec exponential(vec x) {
    cells low = x < -87;
    x = (vec)(((cells)x & ~low) | ((cells)all(-87) & low));
    vec n = x * 1.44269504f + 12582912.0f;  /* rounds to an integer, in the lowest bits */
    cells power = (cells)n << 23;
    n -= 12582912.0f;
    x = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec sum = all(1.0f / 5040);
    for (int k = 6, f = 720; k >= 0; f /= k ? k : 1, k--) sum = sum * x + 1.0f / f;
    return (vec)((cells)sum + power);
}

/* tanh x as (1 - p) / (1 + p), p = e^(-2 |x|), with the sign of x; keeps NaN. */
INLINE vec hyperbolic_tangent(vec x) {
    cells minus = (cells)all(-0.0f);
    vec power = exponential(2 * (vec)((cells)x | minus));
    return (vec)((cells)((1 - power) / (1 + power)) | ((cells)x & minus));
}
