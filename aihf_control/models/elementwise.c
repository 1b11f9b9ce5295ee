/* Elementwise operations in one pass each: squashed samples of a policy, and Adam. Compiled by `kernel_library.py`
   together with kernel.c. `functional.py` and `optim.py` have the plain forms. */

#include "vectors.h"
#include <math.h>
#include <stddef.h>

/* log(1 + x) for 0 <= x <= 1: 2 artanh(x / (2 + x)). */
static vec log_of_one_and(vec x) {
    vec s = x / (2 + x), square = s * s, sum = all(1.0f / 15);
    for (int k = 13; k > 0; k -= 2) sum = sum * square + 1.0f / k;
    return 2 * s * sum;
}

/* `functional.squashed_sample`: out is rows x 2 n, means and log deviations; noise, act, u and offset are rows x n. */
void squash(int rows, int n, const float *out, const float *noise, const float *bounds, float *act, float *log_prob,
            float *u, float *offset) {
    memset(log_prob, 0, sizeof(float) * rows);
    for (int e = 0; e < rows * n; e += W) {
        float mean[W] = {0}, log_std[W] = {0}, term[W];
        int some_of = lesser(W, rows * n - e);
        for (int i = 0, row = e / n, j = e % n; i < some_of; i++, j = j + 1 < n ? j + 1 : (row++, 0)) {
            float given = out[(size_t)row * 2 * n + n + j];
            mean[i] = out[(size_t)row * 2 * n + j];
            log_std[i] = given < bounds[0] ? bounds[0] : given > bounds[1] ? bounds[1] : given;
        }
        vec z = some(noise + e, some_of), s = load(log_std);
        cells minus = (cells)all(-0.0f), large = s > 0;
        vec root = exponential((vec)((cells)s | minus));  /* of -|s| */
        vec off = z * (vec)(((cells)(1 / root) & large) | ((cells)root & ~large)), v = load(mean) + off;
        vec power = exponential(2 * (vec)((cells)v | minus)), under = rectified(v * -2, -v);  /* max(-2 v, 0) */
        vec tanh = hyperbolic_tangent(v);
        vec slope = 2 * (0.69314718f - v - under - log_of_one_and(power));
        store(term, z * z * -0.5f - s - slope - 0.91893853f);
        memcpy(act + e, &tanh, sizeof(float) * some_of);
        memcpy(u + e, &v, sizeof(float) * some_of);
        memcpy(offset + e, &off, sizeof(float) * some_of);
        for (int i = 0, row = e / n, j = e % n; i < some_of; i++, j = j + 1 < n ? j + 1 : (row++, 0)) log_prob[row] += term[i];
    }
}

/* Gradient of `squash` for out; d_u may be null. */
void unsquash(int rows, int n, const float *out, const float *bounds, const float *act, const float *offset,
              const float *d_act, const float *d_log_prob, const float *d_u, float *d_out) {
    for (int row = 0; row < rows; row++, out += 2 * n, d_out += 2 * n)
        for (int j = 0; j < n; j++) {
            size_t e = (size_t)row * n + j;
            float a = act[e], d = d_act[e] * (1 - a * a) + 2 * d_log_prob[row] * a + (d_u ? d_u[e] : 0);
            int clamped = out[n + j] < bounds[0] || out[n + j] > bounds[1];
            d_out[j] = d;
            d_out[n + j] = clamped ? 0 : d * offset[e] - d_log_prob[row];
        }
}

/* One step of Adam, and slow += rate (p - slow) unless slow is null. `how` is the learning rate, both betas, epsilon and
   `rate`. Denormal numbers are flushed to zero. */
void adam(int tensors, const int64_t *sizes, float *const *params, const float *const *grads, float *const *firsts,
          float *const *seconds, float *const *slows, float *steps, const double *how) {
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);
    double t = ++*steps, lr = how[0] / (1 - pow(how[1], t));
    float new = 1 - how[1], kept = how[2], square = 1 - how[2], root = 1 / sqrt(1 - pow(how[2], t)), eps = how[3];
    float step = lr, rate = how[4];
    for (int k = 0; k < tensors; k++) {
        float *restrict p = params[k], *restrict m = firsts[k], *restrict v = seconds[k];
        const float *restrict g = grads[k];
        for (int64_t i = 0; i < sizes[k]; i++) {
            m[i] += new * (g[i] - m[i]);
            v[i] = kept * v[i] + square * g[i] * g[i];
            p[i] -= step * m[i] / (sqrtf(v[i]) * root + eps);
        }
        float *restrict slow = slows ? slows[k] : 0;
        for (int64_t i = 0; slow && i < sizes[k]; i++) slow[i] += rate * (p[i] - slow[i]);
    }
    _mm_setcsr(mode);
}
