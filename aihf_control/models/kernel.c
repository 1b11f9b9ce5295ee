/* A stack of perceptrons and its gradient, one network after another, on the tiles of AMX.

   What an update costs beside its products is the memory that it touches. So 32 rows go through all layers while they
   are in the first cache, and what the gradient needs is kept as bfloat16. `fused.py` has the plain form.

   Factors are rounded to bfloat16, which leaves 8 digits, and sums are float32. Where digits count, in the values of
   the first and the last layer, a factor is split into two such numbers, x = hi + lo, and
   a b = ahi bhi + alo bhi + ahi blo: 16 digits. Gradients are of rounded factors in all layers. Everything is padded:
   rows and inner dimensions to 32, columns to 16.
   `kernel.py` gives ROWS, those rows, MOST, the most layers, and EPS, of the layer normalisation.

   Matrices are named by rows x columns; `ld` is the distance of two rows. `panel`s are right factors as tiles read
   them: 16 columns after 16 columns, in each of which two consecutive inner indices lie side by side. */

#define _GNU_SOURCE
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef uint16_t bf16;

typedef struct {
    int nets, batch, layers, layer_norm;
    int width[MOST + 1];                      /* of the input and of every layer's output */
    const float *x, *w[MOST], *b[MOST];       /* nets x batch x in; nets x in x out; nets x out */
    bf16 *h[MOST], *y[MOST];                  /* kept: outputs of the hidden layers, and before the relu (layer_norm) */
    float *scale[MOST];                       /* kept: 1 / std (layer_norm). Null where no gradient is asked for */
    float *out;                               /* nets x batch x out */
    const float *grad;                        /* for the output */
    float *dx, *dw[MOST], *db[MOST];          /* dx and all dw may be null */
} Stack;

static int up(int n, int unit) { return (n + unit - 1) / unit * unit; }
static int least(int a, int b) { return a < b ? a : b; }

/* Memory that is kept from call to call: a bump allocator over one block. */
static _Thread_local struct { char *at; size_t size, used; } pool;
static void *take(size_t bytes) {
    void *p = pool.at + pool.used;
    pool.used += (bytes + 63) / 64 * 64;
    return p;
}
static int reserve(size_t bytes) {
    pool.used = 0;
    if (bytes <= pool.size) return 0;
    free(pool.at);
    pool.at = aligned_alloc(64, (bytes + 63) / 64 * 64);
    pool.size = pool.at ? bytes : 0;
    return pool.at ? 0 : -1;
}

/* --- rounding, splitting, turning ------------------------------------------------------------------------------- */

static __m256i rounded(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
static __m512 widened(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
static __m256i rest(__m512 x) { return rounded(_mm512_sub_ps(x, widened(rounded(x)))); }
static __m512 load(const bf16 *x) { return widened(_mm256_loadu_si256((const void *)x)); }
static void keep(bf16 *to, __m256i x) { _mm256_storeu_si256((void *)to, x); }

/* As many of 16 numbers as are left. */
static __mmask16 some(int left) { return left >= 16 ? 0xffff : (__mmask16)((1u << (left > 0 ? left : 0)) - 1); }

/* rows x n floats become rows x ld rounded ones, zero beyond n. */
static void round_rows(const float *x, int from, bf16 *to, int ld, int rows, int n) {
    for (int i = 0; i < rows; i++, x += from, to += ld)
        for (int j = 0; j < ld; j += 16) keep(to + j, rounded(_mm512_maskz_loadu_ps(some(n - j), x + j)));
}

/* What the rounding left of them, rounded. */
static void round_rest(const float *x, int from, bf16 *to, int ld, int rows, int n) {
    for (int i = 0; i < rows; i++, x += from, to += ld)
        for (int j = 0; j < ld; j += 16) keep(to + j, rest(_mm512_maskz_loadu_ps(some(n - j), x + j)));
}

/* 16 x 16 numbers of 32 bits, turned. */
static void turn(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; k++) {
            r[i + 2 * k] = _mm512_unpacklo_epi64(t[i + k], t[i + k + 2]);
            r[i + 2 * k + 1] = _mm512_unpackhi_epi64(t[i + k], t[i + k + 2]);
        }
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 2; k++) {
            t[8 * k + i] = _mm512_shuffle_i32x4(r[8 * k + i], r[8 * k + i + 4], 0x88);
            t[8 * k + i + 4] = _mm512_shuffle_i32x4(r[8 * k + i], r[8 * k + i + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

/* 16 numbers of a row and 16 of the next, in pairs. */
static __m512i paired(__m256i row, __m256i next) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(row), _mm512_slli_epi32(_mm512_cvtepu16_epi32(next), 16));
}
static __m512i two_rows(const bf16 *a, int ld) {
    return paired(_mm256_loadu_si256((const void *)a), _mm256_loadu_si256((const void *)(a + ld)));
}

/* A panel of a, inner x columns. */
static void panel_of(const bf16 *a, int ld, bf16 *to, int inner, int columns) {
    for (int k = 0; k < inner; k += 2, a += 2 * ld)
        for (int j = 0; j < columns; j += 16) _mm512_storeu_si512(to + (size_t)j * inner + 16 * k, two_rows(a + j, ld));
}

/* The transpose of a, rows x columns; to has `rows` columns. */
static void transpose(const bf16 *a, int ld, bf16 *to, int rows, int columns) {
    for (int i = 0; i < rows; i += 32)
        for (int j = 0; j < columns; j += 16) {
            __m512i r[16];
            for (int k = 0; k < 16; k++) r[k] = two_rows(a + (size_t)(i + 2 * k) * ld + j, ld);
            turn(r);
            for (int k = 0; k < 16; k++) _mm512_storeu_si512(to + (size_t)(j + k) * rows + i, r[k]);
        }
}

/* --- products --------------------------------------------------------------------------------------------------- */

/* Compilers know little of what the tile instructions read and write: here all of it is in memory. */
static void settle(void) { __asm__ volatile("" ::: "memory"); }

typedef struct { const bf16 *a, *panel; } Term;  /* a left factor and a right one */

/* c (ROWS x columns) = the sum of n products, each ROWS x inner times a panel. Two tiles of rows by two of columns. */
static void product(const Term *terms, int n, int ld, int inner, float *c, int columns) {
    size_t line = sizeof(bf16) * ld, step = sizeof(float) * columns, column = 16 * (size_t)inner;
    settle();
    for (int j = 0; j < columns; j += 32, c += 32) {
        int both = j + 16 < columns;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int t = 0; t < n; t++) {
            const bf16 *a = terms[t].a, *panel = terms[t].panel + j / 16 * column;
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

/* Configures the tiles, and says how they were: other libraries use them too and may think them theirs still. */
static Tiles configure(void) {
    Tiles before, mine = {.palette = 1};
    for (int i = 0; i < 8; i++) mine.bytes[i] = 64, mine.rows[i] = 16;
    _tile_storeconfig(&before);
    settle();
    _tile_loadconfig(&mine);
    return before;
}

/* --- layers ----------------------------------------------------------------------------------------------------- */

static __m512 at(const float *c, const float *b, int j) {
    return _mm512_add_ps(_mm512_loadu_ps(c + j), _mm512_loadu_ps(b + j));
}

/* Mean of c + b, and 1 / std. */
static void moments(const float *c, const float *b, int n, __m512 *mean, __m512 *scale) {
    __m512 sum = _mm512_setzero_ps(), squares = sum;
    for (int j = 0; j < n; j += 16) sum = _mm512_add_ps(sum, at(c, b, j));
    *mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / n);
    for (int j = 0; j < n; j += 16) {
        __m512 v = _mm512_sub_ps(at(c, b, j), *mean);
        squares = _mm512_fmadd_ps(v, v, squares);
    }
    *scale = _mm512_set1_ps(1 / sqrtf(_mm512_reduce_add_ps(squares) / n + EPS));
}

/* A hidden layer's end for ROWS rows from row `row` of all: h is relu((layer_norm)(c + b)) rounded and left, unless null,
   what the rounding left. A NaN stays one. Widths of hidden layers are multiples of 32. */
static void finish(const Stack *s, int layer, int g, size_t row, const float *c, bf16 *h, bf16 *left) {
    int n = s->width[layer + 1];
    const float *b = s->b[layer] + (size_t)g * n;
    bf16 *y = s->y[layer] ? s->y[layer] + row * n : 0;
    for (int r = 0; r < ROWS; r++, c += n) {
        __m512 mean = _mm512_setzero_ps(), scale = _mm512_set1_ps(1);
        if (s->layer_norm) moments(c, b, n, &mean, &scale);
        if (y) s->scale[layer][row + r] = _mm512_cvtss_f32(scale);
        for (int j = 0; j < n; j += 16) {
            __m512 v = _mm512_mul_ps(_mm512_sub_ps(at(c, b, j), mean), scale);
            if (y) keep(y + (size_t)r * n + j, rounded(v));
            v = _mm512_max_ps(_mm512_setzero_ps(), v);
            keep(h + (size_t)r * n + j, rounded(v));
            if (left) keep(left + (size_t)r * n + j, rest(v));
        }
    }
}

/* The gradient for what a hidden layer normalised and rectified, from that for what came out: ROWS rows, in place, and
   rounded to d. */
static void unfinish(const Stack *s, int layer, size_t row, float *c, bf16 *d) {
    int n = s->width[layer + 1];
    for (int r = 0; r < ROWS; r++, row++, c += n, d += n) {
        const bf16 *y = (s->layer_norm ? s->y : s->h)[layer] + row * n;
        __m512 sum = _mm512_setzero_ps(), with_y = sum;
        for (int j = 0; j < n; j += 16) {
            __m512 v = load(y + j);
            __m512 on = _mm512_maskz_loadu_ps(_mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NLE_UQ), c + j);
            _mm512_storeu_ps(c + j, on);
            keep(d + j, rounded(on));
            sum = _mm512_add_ps(sum, on);
            with_y = _mm512_fmadd_ps(on, v, with_y);
        }
        if (!s->layer_norm) continue;
        __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / n);
        __m512 along = _mm512_set1_ps(_mm512_reduce_add_ps(with_y) / n);
        __m512 scale = _mm512_set1_ps(s->scale[layer][row]);
        for (int j = 0; j < n; j += 16) {
            __m512 v = _mm512_sub_ps(_mm512_loadu_ps(c + j), _mm512_fmadd_ps(load(y + j), along, mean));
            v = _mm512_mul_ps(v, scale);
            _mm512_storeu_ps(c + j, v);
            keep(d + j, rounded(v));
        }
    }
}

/* --- forward ---------------------------------------------------------------------------------------------------- */

static int is_split(const Stack *s, int layer) { return layer == 0 || layer == s->layers - 1; }

/* A layer's weights as a panel, rounded, or what the rounding left. */
static bf16 *weights(const Stack *s, int layer, int g, __m256i (*round)(__m512)) {
    int in = s->width[layer], out = s->width[layer + 1], inner = up(in, 32), columns = up(out, 16);
    const float *w = s->w[layer] + (size_t)g * in * out;
    bf16 *panel = take(sizeof(bf16) * inner * columns);
    for (int k = 0; k < inner; k += 2)
        for (int j = 0; j < columns; j += 16) {
            const float *row = w + (size_t)k * out + j;
            __m512 one = _mm512_maskz_loadu_ps(k < in ? some(out - j) : 0, row);
            __m512 next = _mm512_maskz_loadu_ps(k + 1 < in ? some(out - j) : 0, row + out);
            _mm512_storeu_si512(panel + (size_t)j * inner + 16 * k, paired(round(one), round(next)));
        }
    return panel;
}

static void forward_net(const Stack *s, int g, int widest) {
    bf16 *high[MOST], *low[MOST];
    bf16 *spare = take(sizeof(bf16) * ROWS * widest), *left = take(sizeof(bf16) * ROWS * widest);
    float *c = take(sizeof(float) * ROWS * widest), *x = take(sizeof(float) * ROWS * s->width[0]);
    int last = s->layers - 1, out = s->width[s->layers], ld = up(out, 16);
    size_t first = (size_t)g * up(s->batch, ROWS);
    for (int l = 0; l <= last; l++) {
        high[l] = weights(s, l, g, rounded);
        if (is_split(s, l)) low[l] = weights(s, l, g, rest);
    }
    for (int i = 0; i < s->batch; i += ROWS) {
        int real = least(ROWS, s->batch - i);
        memset(x, 0, sizeof(float) * ROWS * s->width[0]);
        memcpy(x, s->x + ((size_t)g * s->batch + i) * s->width[0], sizeof(float) * real * s->width[0]);
        bf16 *a = spare;
        round_rows(x, s->width[0], a, up(s->width[0], 32), ROWS, s->width[0]);
        round_rest(x, s->width[0], left, up(s->width[0], 32), ROWS, s->width[0]);
        for (int l = 0; l <= last; l++) {
            int inner = up(s->width[l], 32);
            Term terms[3] = {{a, high[l]}, {left, high[l]}, {a, low[l]}};
            product(terms, is_split(s, l) ? 3 : 1, inner, inner, c, up(s->width[l + 1], 16));
            if (l == last) continue;
            a = s->h[l] ? s->h[l] + (first + i) * s->width[l + 1] : spare;
            finish(s, l, g, first + i, c, a, is_split(s, l + 1) ? left : 0);
        }
        for (int r = 0; r < real; r++)
            for (int j = 0; j < out; j++)
                s->out[((size_t)g * s->batch + i + r) * out + j] = c[r * ld + j] + s->b[last][(size_t)g * out + j];
    }
}

/* --- backward --------------------------------------------------------------------------------------------------- */

/* A layer's weights transposed, as a panel: inner are its outputs, columns its inputs. */
static bf16 *transposed_weights(const Stack *s, int layer, int g) {
    int in = s->width[layer], out = s->width[layer + 1], inner = up(out, 32), columns = up(in, 16);
    bf16 *panel = take(sizeof(bf16) * inner * columns), *to = panel;
    for (int j = 0; j < columns; j += 16)
        for (int k = 0; k < inner; k += 32, to += 512) {
            __m512i r[16];
            for (int i = 0; i < 16; i++) {
                const float *w = s->w[layer] + ((size_t)g * in + least(j + i, in - 1)) * out + k;
                __mmask16 low = j + i < in ? some(out - k) : 0, high = j + i < in ? some(out - k - 16) : 0;
                r[i] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(high, w + 16), _mm512_maskz_loadu_ps(low, w));
            }
            turn(r);
            for (int i = 0; i < 16; i++) _mm512_storeu_si512(to + 32 * i, r[i]);
        }
    return panel;
}

/* The sums over rows are added to db. */
static void add_rows(const float *c, int ld, float *db, int rows, int n) {
    for (int j = 0; j < n; j += 16) {
        __mmask16 on = some(n - j);
        __m512 sum = _mm512_maskz_loadu_ps(on, db + j);
        for (int r = 0; r < rows; r++) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(on, c + (size_t)r * ld + j));
        _mm512_mask_storeu_ps(db + j, on, sum);
    }
}

/* dw = inputs^T d, for all rows of net g. */
static void weight_gradient(const Stack *s, int layer, int g, const bf16 *d) {
    int in = s->width[layer], out = s->width[layer + 1], columns = up(out, 16), rows = up(s->batch, ROWS);
    size_t mark = pool.used;
    bf16 *turned = take(sizeof(bf16) * up(in, ROWS) * rows), *panel = take(sizeof(bf16) * rows * columns);
    float *c = take(sizeof(float) * ROWS * columns), *dw = s->dw[layer] + (size_t)g * in * out;
    if (layer) transpose(s->h[layer - 1] + (size_t)g * rows * in, in, turned, rows, in);
    else {
        int ld = up(in, 16);
        bf16 *x = take(sizeof(bf16) * rows * ld);
        memset(x, 0, sizeof(bf16) * rows * ld);
        round_rows(s->x + (size_t)g * s->batch * in, in, x, ld, s->batch, in);
        transpose(x, ld, turned, rows, ld);
    }
    panel_of(d, up(out, 32), panel, rows, columns);
    for (int i = 0; i < in; i += ROWS, dw += (size_t)ROWS * out) {
        int whole = i + ROWS <= in && columns == out;
        Term term = {turned + (size_t)i * rows, panel};
        product(&term, 1, rows, rows, whole ? dw : c, columns);
        for (int r = 0; !whole && r < least(ROWS, in - i); r++)
            memcpy(dw + (size_t)r * out, c + (size_t)r * columns, sizeof(float) * out);
    }
    pool.used = mark;
}

static void backward_net(const Stack *s, int g, int widest) {
    bf16 *panel[MOST], *d[MOST];
    float *c = take(sizeof(float) * ROWS * widest);
    int last = s->layers - 1, rows = up(s->batch, ROWS), out = s->width[s->layers];
    for (int l = 0; l <= last; l++) {
        d[l] = take(sizeof(bf16) * rows * up(s->width[l + 1], 32));
        if (l || s->dx) panel[l] = transposed_weights(s, l, g);
        if (s->dw[0]) memset(s->db[l] + (size_t)g * s->width[l + 1], 0, sizeof(float) * s->width[l + 1]);
    }
    for (int i = 0; i < s->batch; i += ROWS) {
        int real = least(ROWS, s->batch - i), ld = up(out, 32);
        const float *grad = s->grad + ((size_t)g * s->batch + i) * out;
        memset(d[last] + (size_t)i * ld, 0, sizeof(bf16) * ROWS * ld);
        round_rows(grad, out, d[last] + (size_t)i * ld, ld, real, out);
        if (s->dw[0]) add_rows(grad, out, s->db[last] + (size_t)g * out, real, out);
        for (int l = last; l >= (s->dx ? 0 : 1); l--) {
            int in = s->width[l], inner = up(s->width[l + 1], 32);
            Term term = {d[l] + (size_t)i * inner, panel[l]};
            product(&term, 1, inner, inner, c, up(in, 16));
            if (!l) {
                for (int r = 0; r < real; r++)
                    memcpy(s->dx + ((size_t)g * s->batch + i + r) * in, c + r * up(in, 16), sizeof(float) * in);
                continue;
            }
            unfinish(s, l - 1, (size_t)g * rows + i, c, d[l - 1] + (size_t)i * in);
            if (s->dw[0]) add_rows(c, in, s->db[l - 1] + (size_t)g * in, real, in);
        }
    }
    for (int l = 0; s->dw[0] && l <= last; l++) weight_gradient(s, l, g, d[l]);
}

/* --- what is called from outside: 0, or -1 where memory or the tiles are not to be had --------------------------- */

int usable(void) { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) ? -1 : 0; }

/* `rows` are those of which `one` needs all at once. */
static int each_net(const Stack *s, int rows, void (*one)(const Stack *, int, int)) {
    int widest = 32;
    for (int l = 0; l <= s->layers; l++) widest = s->width[l] > widest ? up(s->width[l], ROWS) : widest;
    if (reserve((size_t)4 * (s->layers + 3) * (widest + ROWS) * (widest + rows + ROWS))) return -1;
    Tiles before = configure();
    for (int g = 0; g < s->nets; g++, pool.used = 0) one(s, g, widest);
    settle();
    _tile_loadconfig(&before);
    return 0;
}

int forward(const Stack *s) { return each_net(s, ROWS, forward_net); }
int backward(const Stack *s) { return each_net(s, up(s->batch, ROWS), backward_net); }
