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
