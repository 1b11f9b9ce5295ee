/* What differs between instruction sets: the number type of matrix products, and the routine that computes them.

   A *cell* is 32 bits: PAIR numbers that are consecutive in the inner dimension. A *panel* is a right factor in the
   layout that `product` reads: blocks of W columns, in each of which the cells of a row are contiguous. `ld` is the
   distance between two rows, in numbers. */

#include "vectors.h"
#include <stddef.h>

#if BF16
typedef uint16_t num;
#else
typedef float num;
#endif
enum { PAIR = 4 / sizeof(num), UNIT = TILES ? 32 : PAIR };  /* inner dimensions are padded to UNIT */

typedef num nums __attribute__((vector_size(sizeof(num) * W)));
typedef cells any_cells __attribute__((aligned(2), may_alias));  /* unaligned */
typedef nums any_nums __attribute__((aligned(2), may_alias));
typedef int32_t any_cell __attribute__((aligned(2), may_alias));

#if !BF16
static nums rounded(vec x) { return x; }
static vec widened(nums x) { return x; }
static cells paired(nums row, nums next) { return (void)next, (cells)row; }      /* from two rows */
static cells packed(vec low, vec high) { return (void)high, (cells)low; }        /* from 2 W numbers of one row */
static cells joined(vec row, vec next) { return (void)next, (cells)row; }      /* from two rows, rounded here */
INLINE vec multiply_add(vec sum, cells a, cells b) { return sum + (vec)a * (vec)b; }
#else
static vec widened(nums x) { return (vec)(__builtin_convertvector(x, bits) << 16); }
static cells paired(nums row, nums next) {
    return (cells)(__builtin_convertvector(row, bits) | (__builtin_convertvector(next, bits) << 16));
}
#ifdef __AVX512BF16__
static nums rounded(vec x) { return (nums)_mm512_cvtneps_pbh((__m512)x); }
static cells packed(vec low, vec high) { return (cells)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low); }
static cells joined(vec row, vec next) {  /* paired(rounded(row), rounded(next)), in fewer instructions */
    cells order = (cells){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * 0x10001 + (16 << 16);
    return (cells)_mm512_permutexvar_epi16((__m512i)order, (__m512i)packed(row, next));
}
INLINE vec multiply_add(vec sum, cells a, cells b) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#else  /* emulation for the tests, slow */
static nums rounded(vec x) {
    bits near = (bits)x + 0x7fff + (((bits)x >> 16) & 1), none = (bits)(x != x);
    return __builtin_convertvector(((near & ~none) | (none & 0x7fc00000)) >> 16, nums);
}
static cells packed(vec low, vec high) {
    struct { nums of[2]; } both = {{rounded(low), rounded(high)}};
    return *(any_cells *)&both;
}
static cells joined(vec row, vec next) { return paired(rounded(row), rounded(next)); }
INLINE vec multiply_add(vec sum, cells a, cells b) {
    return sum + (vec)((bits)a << 16) * (vec)((bits)b << 16) + (vec)(a & ~0xffff) * (vec)(b & ~0xffff);
}
#endif
#endif

static vec recall(const num *x) { return widened(*(const any_nums *)x); }
static void keep(num *to, vec x) { *(any_nums *)to = rounded(x); }
static vec rest(vec x) { return x - widened(rounded(x)); }  /* rounding error */

#ifdef __AVX512F__
static float total(vec x) { return _mm512_reduce_add_ps((__m512)x); }  /* in the order below */
#else
static float total(vec x) {
    float s[W];
    store(s, x);
    for (int n = W / 2; n; n /= 2)
        for (int i = 0; i < n; i++) s[i] += s[i + n];
    return s[0];
}
#endif

/* --- products --------------------------------------------------------------------------------------------------- */

typedef struct { const num *a, *panel; } Term;  /* left and right factor */
enum { HIGH = W / 2 };  /* blocks of HIGH x 2 vectors of sums are large enough to hide the latency of the additions */

#if TILES
/* A compiler barrier: compilers do not know which memory the tile instructions read and write. */
static void settle(void) { __asm__ volatile("" ::: "memory"); }

/* c (ROWS x columns) = the sum of n products, each ROWS x inner times a panel. Uses 2 x 2 tiles. */
static void product(const Term *terms, int n, int ld, int inner, float *c, int columns, int rows) {
    size_t line = sizeof(num) * ld, step = sizeof(float) * columns, column = 16 * (size_t)inner;
    (void)rows;
    settle();
    for (int j = 0; j < columns; j += 32, c += 32) {
        int both = j + 16 < columns;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int t = 0; t < n; t++) {
            const num *a = terms[t].a, *panel = terms[t].panel + j / 16 * column;
            for (int k = 0; k < inner; k += 32) {
                _tile_loadd(4, a + k, line);
                _tile_loadd(5, a + (size_t)16 * ld + k, line);
                _tile_loadd(6, panel + 16 * k, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 5, 6);
                if (!both) continue;
                _tile_loadd(7, panel + column + 16 * k, 64);
                _tile_dpbf16ps(2, 4, 7);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
        _tile_stored(0, c, step);
        _tile_stored(1, c + (size_t)16 * columns, step);
        if (!both) continue;
        _tile_stored(2, c + 16, step);
        _tile_stored(3, c + (size_t)16 * columns + 16, step);
    }
    settle();
}

typedef struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } Tiles;

/* Configure the tiles; return the previous configuration, since other libraries use tiles, too. */
static Tiles configure(void) {
    Tiles before, mine = {.palette = 1};
    for (int i = 0; i < 8; i++) mine.bytes[i] = 64, mine.rows[i] = 16;
    _tile_storeconfig(&before);
    settle();
    _tile_loadconfig(&mine);
    return before;
}

static void restore(const Tiles *before) {
    settle();
    _tile_loadconfig(before);
}
#else
/* A block of c, high x (wide W), accumulated in registers. */
INLINE void block(const Term *terms, int n, size_t ld, int inner, float *c, int columns, const int high, const int wide) {
    vec sum[16][2] = {0};
    for (int t = 0; t < n; t++) {
        const num *a = terms[t].a, *panel = terms[t].panel;
        for (int k = 0; k < inner; k += PAIR) {
            cells right = *(const any_cells *)(panel + W * k), next = right;
            if (wide == 2) next = *(const any_cells *)(panel + W * ((size_t)inner + k));
#pragma GCC unroll 16
            for (int r = 0; r < high; r++) {
                cells left = *(const any_cell *)(a + r * ld + k) + (cells){0};
                sum[r][0] = multiply_add(sum[r][0], left, right);
                if (wide == 2) sum[r][1] = multiply_add(sum[r][1], left, next);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < high; r++)
        for (int j = 0; j < wide; j++) store(c + (size_t)r * columns + j * W, sum[r][j]);
}

/* c (rows x columns) = the sum of n products, each rows x inner times a panel. May also write rows of c between `rows`
   and ROWS. */
static void product(const Term *terms, int n, int ld, int inner, float *c, int columns, int rows) {
    for (int j = 0; j < columns; j += 2 * W) {
        int wide = j + W < columns ? 2 : 1;
        for (int i = 0; i < rows; i += wide == 2 ? HIGH : 2 * HIGH) {
            Term at[3];
            for (int t = 0; t < n; t++)
                at[t] = (Term){terms[t].a + (size_t)i * ld, terms[t].panel + (size_t)j * inner};
            float *to = c + (size_t)i * columns + j;
            if (wide == 2) block(at, n, ld, inner, to, columns, HIGH, 2);
            else block(at, n, ld, inner, to, columns, 2 * HIGH, 1);
        }
    }
}

typedef char Tiles;
static Tiles configure(void) { return 0; }
static void restore(const Tiles *before) { (void)before; }
#endif
