/* Perceptrons and their gradient, one network after another, in vectors of one instruction set.

   Besides its matrix products, an update is limited by memory traffic. So blocks of ROWS rows go through all layers while
   they are in the caches, with bias, layer normalisation, activation and their gradients in the same pass. `functional.py` has
   the plain form. `kernel_library.py` compiles this file for an instruction set and defines

       VECTOR  32-bit numbers per vector: 8 (AVX2) or 16 (AVX-512)
       BF16    1 if the factors of products are rounded to bfloat16
       TILES   1 if they are multiplied by AMX tiles; otherwise by vdpbf16ps (AVX-512 BF16)
       ROWS, MOST (maximum number of layers) and EPS (of layer normalisation).

   bfloat16 has 8 significant bits; sums are float32. The forward pass of the first and last layers, which need more
   precision, is float32. With tiles, where it would be slow, a factor is split there into two bfloat16 numbers,
   x = hi + lo, and a b = ahi bhi + alo bhi + ahi blo, which has 16 bits. Gradients use rounded factors in all layers.
   Without BF16 everything is float32.

   Sizes of matrices are given as rows x columns; `ld` is the distance between two rows. `products.h` defines cells and
   panels. */

#define _GNU_SOURCE
#include "products.h"
#include <math.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct {
    int nets, batch, layers, layer_norm, tanh;   /* the hidden layers' activation is tanh, or relu */
    int share, room;                          /* consecutive networks with the same x; networks whose layers are saved */
    int width[MOST + 1];                      /* of the input and of the output of every layer */
    const float *x, *w[MOST], *b[MOST];       /* nets / share x batch x in; nets x in x out; nets x out */
    num *h[MOST], *y[MOST];                   /* saved: outputs of the hidden layers, and before relu (layer_norm) */
    float *scale[MOST];                       /* saved: 1 / std (layer_norm). All null without a gradient */
    float *out;                               /* nets x batch x out */
    float *grad;                              /* for the output; only of the picked rows, if some are picked */
    float *dx, *dw[MOST], *db[MOST];          /* dx (of x's shape) and all dw may be null */
    const int *pick;                          /* rows for which dx is computed; null for all */
    int picked;
} Stack;

static int row_of(const Stack *s, int i) { return s->pick ? s->pick[i] : i; }
static int up(int n, int unit) { return (n + unit - 1) / unit * unit; }

/* A bump allocator over one block, which is reused by later calls. */
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

/* Round rows x n floats to ROWS x ld numbers, padded with zeros; if `low`, store the rounding errors instead. */
static void round_rows(const float *x, int n, num *to, int ld, int rows, int low) {
    for (int i = 0; i < ROWS; i++, x += n, to += ld)
        for (int j = 0; j < ld; j += W) {
            vec v = some(x + j, i < rows ? n - j : 0);
            keep(to + j, low ? rest(v) : v);
        }
}

/* Transpose W x W cells: for blocks of 1, 2, 4, ... swap the upper right and the lower left. */
#ifdef __clang__
#define MIXED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIXED(a, b, ...) __builtin_shuffle(a, b, (cells){__VA_ARGS__})
#endif
#define UPPER(i, s) ((i) & (s) ? W + (i) - (s) : (i))
#define LOWER(i, s) ((i) & (s) ? W + (i) : (i) + (s))
#define EIGHT(f, i, s) f(i, s), f(i + 1, s), f(i + 2, s), f(i + 3, s), f(i + 4, s), f(i + 5, s), f(i + 6, s), f(i + 7, s)
#if W == 16
#define EACH(f, s) EIGHT(f, 0, s), EIGHT(f, 8, s)
#else
#define EACH(f, s) EIGHT(f, 0, s)
#endif
#define SWAP(s) \
    for (int i = 0; i < W; i++) \
        if (!(i & s)) { \
            cells a = r[i], b = r[i + s]; \
            r[i] = MIXED(a, b, EACH(UPPER, s)); \
            r[i + s] = MIXED(a, b, EACH(LOWER, s)); \
        }
INLINE void turn(cells r[W]) {
    SWAP(1)
    SWAP(2)
    SWAP(4)
#if W == 16
    SWAP(8)
#endif
}

static cells row_of_cells(const num *a, int ld) {
    return paired(*(const any_nums *)a, *(const any_nums *)(a + (size_t)(PAIR - 1) * ld));
}

/* Copy a, inner x columns, to a panel. */
static void panel_of(const num *a, int ld, num *to, int inner, int columns) {
    for (int j = 0; j < columns; j += W)
        for (int k = 0; k < inner; k += PAIR, to += PAIR * W)
            *(any_cells *)to = row_of_cells(a + (size_t)k * ld + j, ld);
}

/* Write the transpose of a, rows x columns, to `to`, which has `rows` columns. */
static void transpose(const num *a, int ld, num *to, int rows, int columns) {
    for (int j = 0; j < columns; j += W)
        for (int i = 0; i < rows; i += PAIR * W) {
            cells r[W];
            for (int k = 0; k < W; k++) r[k] = row_of_cells(a + (size_t)(i + PAIR * k) * ld + j, ld);
            turn(r);
            for (int k = 0; k < W; k++) *(any_cells *)(to + (size_t)(j + k) * rows + i) = r[k];
        }
}

/* --- layers ----------------------------------------------------------------------------------------------------- */

static vec at(const float *c, const float *b, int j) { return load(c + j) + load(b + j); }

/* Mean of c + b, and 1 / std. */
static void moments(const float *c, const float *b, int n, vec *mean, vec *scale) {
    vec sum = {0}, squares = {0};
    for (int j = 0; j < n; j += W) sum += at(c, b, j);
    *mean = all(total(sum) / n);
    for (int j = 0; j < n; j += W) {
        vec v = at(c, b, j) - *mean;
        squares += v * v;
    }
    *scale = all(1 / sqrtf(total(squares) / n + EPS));
}

/* Finish a hidden layer for ROWS rows, starting at row `row` of all networks: h = relu((layer_norm)(c + b)) or tanh, rounded, and
   in front of the last layer also what `h` lacks: `left`, the rounding errors, with tiles, otherwise c, not rounded.
   Keeps NaN. Hidden widths are multiples of 32. */
static void finish(const Stack *s, int layer, int g, size_t row, float *c, num *h, num *left, int rows) {
    int n = s->width[layer + 1], in_front = layer + 2 == s->layers;
    const float *b = s->b[layer] + (size_t)g * n;
    num *y = s->y[layer] ? s->y[layer] + row * n : 0;
    for (int r = 0; r < rows; r++, c += n) {
        vec mean = {0}, scale = all(1);
        if (s->layer_norm) moments(c, b, n, &mean, &scale);
        if (y) s->scale[layer][row + r] = scale[0];
        for (int j = 0; j < n; j += W) {
            vec v = (at(c, b, j) - mean) * scale;
            if (y) keep(y + (size_t)r * n + j, v);
            v = s->tanh ? hyperbolic_tangent(v) : rectified(v, v);
            keep(h + (size_t)r * n + j, v);
            if (in_front && TILES) keep(left + (size_t)r * n + j, rest(v));
            if (in_front && !TILES) store(c + j, v);
        }
    }
}

/* The gradient for the input of relu or tanh, from that for the output and the input (relu) or the output. */
INLINE vec before_activation(const Stack *s, vec grad, vec v) {
    return s->tanh ? grad * (1 - v * v) : rectified(grad, v);
}

/* Compute the gradient for the input of a hidden layer's normalisation and activation from that for their output, for ROWS rows
   of network g from row i; round it to d and add its sum to db, unless null. */
static void unfinish(const Stack *s, int layer, int g, int i, float *c, num *d, float *db) {
    int n = s->width[layer + 1];
    for (int r = 0; r < ROWS; r++, c += n, d += n) {
        size_t row = (size_t)(g % s->room) * up(s->batch, ROWS) + row_of(s, i + r);
        const num *y = (s->layer_norm ? s->y : s->h)[layer] + row * n;
        vec mean = {0}, along = {0}, scale = all(1);
        if (s->layer_norm) {
            vec sum = {0}, with_y = {0};
            for (int j = 0; j < n; j += W) {
                vec v = recall(y + j), on = before_activation(s, load(c + j), v);
                sum += on;
                with_y += on * v;
            }
            mean = all(total(sum) / n), along = all(total(with_y) / n), scale = all(s->scale[layer][row]);
        }
        for (int j = 0; j < n; j += W) {
            vec v = recall(y + j), on = before_activation(s, load(c + j), v);
            if (s->layer_norm) on = (on - (v * along + mean)) * scale;
            keep(d + j, on);
            if (db) store(db + j, load(db + j) + on);
        }
    }
}

/* --- forward ---------------------------------------------------------------------------------------------------- */

static int is_outer(const Stack *s, int layer) { return layer == 0 || layer == s->layers - 1; }

/* Copy the rounded weights of a layer to a panel; if `low`, the rounding errors. */
static num *weights(const Stack *s, int layer, int g, int low) {
    int in = s->width[layer], out = s->width[layer + 1], inner = up(in, UNIT), columns = up(out, W);
    const float *w = s->w[layer] + (size_t)g * in * out;
    num *panel = take(sizeof(num) * inner * columns);
    for (int k = 0; k < inner; k += PAIR)  /* in the order of memory, which may be far */
        for (int j = 0; j < columns; j += W) {
            const float *row = w + (size_t)k * out + j;
            vec one = some(row, k < in ? out - j : 0), next = some(row + (PAIR - 1) * out, k + PAIR - 1 < in ? out - j : 0);
            *(any_cells *)(panel + (size_t)j * inner + W * k) = low ? joined(rest(one), rest(next)) : joined(one, next);
        }
    return panel;
}

/* The first layer in float32, if it is hidden: c = x w for ROWS rows of x. Blocks of HIGH x 2 vectors, as in `product`. */
static void first_layer(const Stack *s, int g, const float *x, float *c) {
    int in = s->width[0], n = s->width[1];
    const float *w = s->w[0] + (size_t)g * in * n;
    for (int j = 0; j < n; j += 2 * W)
        for (int i = 0; i < ROWS; i += HIGH) {
            vec sum[HIGH][2] = {0};
            for (int k = 0; k < in; k++) {
                vec right = load(w + (size_t)k * n + j), next = load(w + (size_t)k * n + j + W);
#pragma GCC unroll 16
                for (int r = 0; r < HIGH; r++) {
                    vec left = all(x[(i + r) * in + k]);
                    sum[r][0] += left * right;
                    sum[r][1] += left * next;
                }
            }
#pragma GCC unroll 16
            for (int r = 0; r < HIGH; r++)
                for (int k = 0; k < 2; k++) store(c + (size_t)(i + r) * n + j + k * W, sum[r][k]);
        }
}

/* The transposed weights of the last layer: outputs x inputs. */
static const float *last_weights(const Stack *s, int g) {
    int in = s->width[s->layers - 1], out = s->width[s->layers];
    const float *w = s->w[s->layers - 1] + (size_t)g * in * out;
    float *turned = take(sizeof(float) * in * out);
    for (int j = 0; j < out; j++)
        for (int k = 0; k < in; k++) turned[(size_t)j * in + k] = w[(size_t)k * out + j];
    return turned;
}

/* The last layer in float32, for `rows` rows of h. It has few outputs: a sum over each row for each. */
static void last_layer(const Stack *s, int g, const float *h, const float *turned, float *to, int rows) {
    int in = s->width[s->layers - 1], out = s->width[s->layers];
    for (int r = 0; r < rows; r++, h += in, to += out)
        for (int j = 0; j < out; j++) {
            vec sum = {0};
            for (int k = 0; k < in; k += W) sum += some(h + k, in - k) * some(turned + (size_t)j * in + k, in - k);
            to[j] = total(sum) + s->b[s->layers - 1][(size_t)g * out + j];
        }
}

static void forward_net(const Stack *s, int g, int widest) {
    num *high[MOST], *low[MOST] = {0};
    num *spare = take(sizeof(num) * ROWS * widest), *left = take(sizeof(num) * ROWS * widest);
    float *c = take(sizeof(float) * ROWS * widest), *whole = take(sizeof(float) * ROWS * widest);
    int last = s->layers - 1, in = s->width[0], out = s->width[s->layers], ld = up(out, W);
    size_t first = (size_t)(g % s->room) * up(s->batch, ROWS);
    const float *turned = TILES ? 0 : last_weights(s, g);
    for (int l = 0; l <= last; l++) {
        if (TILES || !is_outer(s, l)) high[l] = weights(s, l, g, 0);
        if (TILES && is_outer(s, l)) low[l] = weights(s, l, g, 1);
    }
    for (int i = 0; i < s->batch; i += ROWS) {
        int real = lesser(ROWS, s->batch - i), rows = s->h[0] ? ROWS : real;  /* the gradient reads all ROWS */
        const float *x = s->x + ((size_t)(g / s->share) * s->batch + i) * in;
        num *a = spare;
        if (TILES) {
            round_rows(x, in, a, up(in, 32), real, 0);
            round_rows(x, in, left, up(in, 32), real, 1);
        } else if (real < ROWS) x = memcpy(memset(whole, 0, sizeof(float) * ROWS * in), x, sizeof(float) * real * in);
        for (int l = 0; l <= last; l++) {
            Term terms[3] = {{a, high[l]}, {left, high[l]}, {a, low[l]}};
            int step = up(s->width[l], 32), columns = up(s->width[l + 1], W), outer = is_outer(s, l);
            if (TILES || !outer) product(terms, outer ? 3 : 1, step, up(s->width[l], UNIT), c, columns, rows);
            else if (l < last) first_layer(s, g, x, c);
            else last_layer(s, g, l ? c : x, turned, s->out + ((size_t)g * s->batch + i) * out, real);
            if (l == last) continue;
            a = s->h[l] ? s->h[l] + (first + i) * s->width[l + 1] : spare;
            finish(s, l, g, first + i, c, a, left, rows);
        }
        for (int r = 0; TILES && r < real; r++)
            for (int j = 0; j < out; j++)
                s->out[((size_t)g * s->batch + i + r) * out + j] = c[r * ld + j] + s->b[last][(size_t)g * out + j];
    }
}

/* --- backward --------------------------------------------------------------------------------------------------- */

/* Copy the transposed weights of a layer to a panel: inner dimension its outputs, columns its inputs. */
static num *transposed_weights(const Stack *s, int layer, int g) {
    int in = s->width[layer], out = s->width[layer + 1], inner = up(out, UNIT), columns = up(in, W);
    num *panel = take(sizeof(num) * up(inner, PAIR * W) * columns), *to = panel;
    for (int j = 0; j < columns; j += W, to += (size_t)W * inner)
        for (int k = 0; k < inner; k += PAIR * W) {
            cells r[W];
            for (int i = 0; i < W; i++) {
                const float *w = s->w[layer] + ((size_t)g * in + lesser(j + i, in - 1)) * out + k;
                int left = j + i < in ? out - k : 0;
                r[i] = packed(some(w, left), some(w + W, PAIR == 2 ? left - W : 0));
            }
            turn(r);
            for (int i = 0; i < W && k + PAIR * i < inner; i++) *(any_cells *)(to + W * (k + PAIR * i)) = r[i];
        }
    return panel;
}

/* dw = inputs^T d, for all rows of net g. */
static void weight_gradient(const Stack *s, int layer, int g, const num *d) {
    int in = s->width[layer], out = s->width[layer + 1], columns = up(out, W), rows = up(s->batch, ROWS);
    size_t mark = pool.used;
    num *turned = take(sizeof(num) * up(in, ROWS) * rows), *panel = take(sizeof(num) * rows * columns);
    float *c = take(sizeof(float) * ROWS * columns), *dw = s->dw[layer] + (size_t)g * in * out;
    if (layer) transpose(s->h[layer - 1] + (size_t)(g % s->room) * rows * in, in, turned, rows, in);
    else {
        int ld = up(in, 32);
        num *x = take(sizeof(num) * rows * ld);
        for (int i = 0; i < s->batch; i += ROWS)
            round_rows(s->x + ((size_t)(g / s->share) * s->batch + i) * in, in, x + (size_t)i * ld, ld, s->batch - i, 0);
        transpose(x, ld, turned, rows, up(in, W));
    }
    panel_of(d, up(out, 32), panel, rows, columns);
    for (int i = 0; i < in; i += ROWS, dw += (size_t)ROWS * out) {
        int whole = i + ROWS <= in && columns == out, real = lesser(ROWS, in - i);
        Term term = {turned + (size_t)i * rows, panel};
        product(&term, 1, rows, rows, whole ? dw : c, columns, real);
        for (int r = 0; !whole && r < real; r++)
            memcpy(dw + (size_t)r * out, c + (size_t)r * columns, sizeof(float) * out);
    }
    pool.used = mark;
}

static void backward_net(const Stack *s, int g, int widest) {
    num *panel[MOST], *d[MOST];
    float *c = take(sizeof(float) * ROWS * widest);
    int last = s->layers - 1, rows = up(s->batch, ROWS), out = s->width[s->layers];
    for (int l = 0; l <= last; l++) {
        d[l] = take(sizeof(num) * rows * up(s->width[l + 1], 32));
        if (l || s->dx) panel[l] = transposed_weights(s, l, g);
        if (s->dw[0]) memset(s->db[l] + (size_t)g * s->width[l + 1], 0, sizeof(float) * s->width[l + 1]);
    }
    for (int i = 0; i < (s->pick ? s->picked : s->batch); i += ROWS) {
        int real = lesser(ROWS, (s->pick ? s->picked : s->batch) - i), ld = up(out, 32);
        const float *grad = s->grad + (i + (s->pick ? 0 : (size_t)g * s->batch)) * out;
        round_rows(grad, out, d[last] + (size_t)i * ld, ld, real, 0);
        for (int r = 0; s->dw[0] && r < real; r++)
            for (int j = 0; j < out; j++) s->db[last][(size_t)g * out + j] += grad[r * out + j];
        for (int l = last; l >= (s->dx ? 0 : 1); l--) {
            int in = s->width[l], columns = up(in, W), step = up(s->width[l + 1], 32);
            Term term = {d[l] + (size_t)i * step, panel[l]};
            product(&term, 1, step, up(s->width[l + 1], UNIT), c, columns, ROWS);
            if (l) {
                float *db = s->dw[0] ? s->db[l - 1] + (size_t)g * in : 0;
                unfinish(s, l - 1, g, i, c, d[l - 1] + (size_t)i * in, db);
                continue;
            }
            for (int r = 0; r < real; r++) {
                float *dx = s->dx + ((size_t)(g / s->share) * s->batch + row_of(s, i + r)) * in;
                int add = !s->pick && g % s->share;
                for (int j = 0; j < in; j++) dx[j] = c[r * columns + j] + (add ? dx[j] : 0);
            }
        }
    }
    for (int l = 0; s->dw[0] && l <= last; l++) weight_gradient(s, l, g, d[l]);
}

/* --- interface: functions return 0, or -1 without memory or without permission to use tiles ---------------------- */

int usable(void) {
    return TILES && syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) ? -1 : 0;
}

/* Reserve the memory for one network, `rows` rows at a time. */
static int begin(const Stack *s, int rows, int *widest, Tiles *before) {
    *widest = 32;
    for (int l = 0; l <= s->layers; l++) *widest = s->width[l] > *widest ? up(s->width[l], ROWS) : *widest;
    if (reserve((size_t)4 * (s->layers + 3) * (*widest + ROWS) * (*widest + rows + ROWS) + 8 * rows)) return -1;
    *before = configure();
    return 0;
}

static int each_net(const Stack *s, int rows, void (*one)(const Stack *, int, int)) {
    int widest;
    Tiles before;
    if (begin(s, rows, &widest, &before)) return -1;
    for (int g = 0; g < s->nets; g++, pool.used = 0) one(s, g, widest);
    restore(&before);
    return 0;
}

int forward(const Stack *s) { return each_net(s, ROWS, forward_net); }
int backward(const Stack *s) { return each_net(s, up(s->batch, ROWS), backward_net); }

/* For networks with one output: loss = mean (out - target)^2 / 2 of each, and its gradient for the weights. target is
   nets / share x batch. Each network is finished before the next, so that saved layers stay in the caches. */
int regress(const Stack *s, const float *target, float *loss) {
    int widest, n = s->batch;
    Tiles before;
    if (begin(s, up(n, ROWS), &widest, &before)) return -1;
    for (int g = 0; g < s->nets; g++, pool.used = 0) {
        forward_net(s, g, widest);
        pool.used = 0;
        double sum = 0;
        for (int i = 0; i < n; i++) {
            float gap = s->out[(size_t)g * n + i] - target[(size_t)(g / s->share) * n + i];
            s->grad[(size_t)g * n + i] = gap / n;
            sum += gap * gap;
        }
        loss[g] = sum / 2 / n;
        backward_net(s, g, widest);
    }
    restore(&before);
    return 0;
}

/* For networks with one output: the minimum over every `share` consecutive networks, nets / share x batch, and its
   gradient for x. The gradient of a row is that of the network with the minimum, so each network has a part of the rows. */
int least(const Stack *s, float *value) {
    int widest, n = s->batch, rows = up(n, ROWS);
    Tiles before;
    if (begin(s, rows, &widest, &before)) return -1;
    for (int g = 0; g < s->nets; g += s->share, value += n) {
        for (int k = 0; k < s->share; k++, pool.used = 0) forward_net(s, g + k, widest);
        const float *out = s->out + (size_t)g * n;
        for (int k = 0; k < s->share; k++, pool.used = 0) {
            Stack part = *s;
            int *pick = take(sizeof(int) * rows);
            part.grad = take(sizeof(float) * rows);
            memset(pick, 0, sizeof(int) * rows);
            for (int i = 0; i < n; i++) {
                int which = 0;
                for (int j = 1; j < s->share; j++)
                    if (!(out[j * n + i] >= out[which * n + i]) && out[which * n + i] == out[which * n + i]) which = j;
                value[i] = out[which * n + i];
                part.grad[i] = 1;
                if (which == k) pick[part.picked++] = i;
            }
            part.pick = pick;
            backward_net(&part, g + k, widest);
        }
    }
    restore(&before);
    return 0;
}

/* Multiply rows x inner by inner x columns `times` times, to measure the speed of the products. */
int multiply(int times, int rows, int inner, int columns) {
    int ld = up(inner, 32), wide = up(columns, W);
    size_t left = sizeof(num) * ROWS * ld, right = sizeof(num) * ld * wide, sums = sizeof(float) * ROWS * wide;
    if (reserve(left + right + sums + 4 * 64)) return -1;
    Tiles before = configure();
    Term term = {memset(take(left), 0, left), memset(take(right), 0, right)};
    float *c = take(sums);
    for (int t = 0; t < times; t++)
        for (int i = 0; i < rows; i += ROWS) product(&term, 1, ld, up(inner, UNIT), c, wide, lesser(ROWS, rows - i));
    restore(&before);
    return 0;
}
