/* fast.c: the selective scan and group norm with their gradients, for training on a CPU (train.py loads it; inference does
   not need it).

   For every sequence b and channel i, token after token:

       h[s] = exp(dt * A[i][s]) * h[s] + dt * B[s] * x
       y    = sum_s C[s] * h[s]

   y, dt, x  [batch][tokens][d_inner];  A [d_inner][16];  B, C [batch][tokens][16].  d_state is 16.
   The backward pass computes the states again and keeps them for one channel only, so the tensor of all states
   [batch][tokens][d_inner][16], which makes a framework's own gradient slow, never exists. */

#include <math.h>
#include <string.h>

#define N 16
#define MAX_TOKENS 64

/* exp(v) for v <= 0, relative error below 2e-7: 2^n times a polynomial in the remainder. Below -87 it is about 1e-38. */
static inline float exp_neg(float v) {
    float        y, n, f, p;
    unsigned int bits;
    v = v < -87.0f ? -87.0f : v;
    y = v * 1.44269504f;
    n = (float)(int)(y - 0.5f);
    f = (y - n) * 0.69314718f;
    p = 1.0f + f * (1.0f + f * (0.5f + f * (0.16666667f + f * (0.041666667f + f * (0.0083333333f + f * 0.0013888889f)))));
    bits = (unsigned int)((int)n + 127) << 23;
    memcpy(&y, &bits, 4);
    return p * y;
}

int scan_forward(float *y, const float *dt, const float *x, const float *A, const float *B, const float *C, int batch,
                 int tokens, int d_inner) {
    int b, i, t, s;
    if (tokens > MAX_TOKENS) {
        return 1;
    }
    for (b = 0; b < batch; b++) {
        for (i = 0; i < d_inner; i++) {
            float h[N] = { 0 };
            for (t = 0; t < tokens; t++) {
                long         at = ((long)b * tokens + t) * d_inner + i;
                const float *Bt = B + ((long)b * tokens + t) * N, *Ct = C + ((long)b * tokens + t) * N;
                float        d = dt[at], dx = d * x[at], sum = 0.0f;
                for (s = 0; s < N; s++) {
                    h[s] = exp_neg(d * A[i * N + s]) * h[s] + dx * Bt[s];
                    sum += Ct[s] * h[s];
                }
                y[at] = sum;
            }
        }
    }
    return 0;
}

/* g* are gradients; gA, gB, gC are added to and must be zero before. */
int scan_backward(float *gdt, float *gx, float *gA, float *gB, float *gC, const float *gy, const float *dt,
                  const float *x, const float *A, const float *B, const float *C, int batch, int tokens, int d_inner) {
    static float decay[MAX_TOKENS][N], h[MAX_TOKENS + 1][N];
    int          b, i, t, s;
    if (tokens > MAX_TOKENS) {
        return 1;
    }
    for (b = 0; b < batch; b++) {
        for (i = 0; i < d_inner; i++) {
            float g[N] = { 0 }, a_sum[N] = { 0 };
            for (t = 0; t < tokens; t++) {
                long         at = ((long)b * tokens + t) * d_inner + i;
                const float *Bt = B + ((long)b * tokens + t) * N;
                float        d = dt[at], dx = d * x[at];
                for (s = 0; s < N; s++) {
                    decay[t][s] = exp_neg(d * A[i * N + s]);
                    h[t + 1][s] = decay[t][s] * h[t][s] + dx * Bt[s];
                }
            }
            for (t = tokens - 1; t >= 0; t--) {
                long         at = ((long)b * tokens + t) * d_inner + i, row = ((long)b * tokens + t) * N;
                const float *Bt = B + row, *Ct = C + row;
                float        d = dt[at], v = x[at], gyt = gy[at], to_dt = 0.0f, to_b = 0.0f;
                for (s = 0; s < N; s++) {
                    float gh = g[s] + gyt * Ct[s], past = decay[t][s] * h[t][s];
                    gC[row + s] += gyt * h[t + 1][s];
                    gB[row + s] += gh * d * v;
                    to_dt += gh * past * A[i * N + s];
                    to_b += gh * Bt[s];
                    a_sum[s] += gh * past * d;
                    g[s] = gh * decay[t][s];
                }
                gdt[at] = to_dt + v * to_b;
                gx[at] = d * to_b;
            }
            for (s = 0; s < N; s++) {
                gA[i * N + s] += a_sum[s];
            }
        }
    }
    return 0;
}

/* Group norm with 16 channels per group, channels last, with its gradient; relu != 0: followed by ReLU.

   x, y  [n][pixels][channels];  gain, bias [channels];  stats [n][channels / 16][2]: mean and 1 / deviation, kept for backward */
void norm_forward(float *y, float *stats, const float *x, const float *gain, const float *bias, int n, int pixels,
                  int channels, int relu) {
    int b, g, p, c, groups = channels / N;
    for (b = 0; b < n; b++) {
        for (g = 0; g < groups; g++) {
            const float *xg = x + (long)b * pixels * channels + g * N;
            float       *yg = y + (long)b * pixels * channels + g * N, *st = stats + ((long)b * groups + g) * 2;
            float        sum[N] = { 0 }, square[N] = { 0 }, a[N], d[N], low = relu ? 0.0f : -3e38f;
            double       m = 0.0, v = 0.0;
            for (p = 0; p < pixels; p++) {
                for (c = 0; c < N; c++) {
                    sum[c] += xg[(long)p * channels + c];
                }
            }
            for (c = 0; c < N; c++) {
                m += sum[c];
            }
            m /= (double)pixels * N;
            for (p = 0; p < pixels; p++) {
                for (c = 0; c < N; c++) {
                    float e = xg[(long)p * channels + c] - (float)m;
                    square[c] += e * e;
                }
            }
            for (c = 0; c < N; c++) {
                v += square[c];
            }
            st[0] = (float)m;
            st[1] = (float)(1.0 / sqrt(v / ((double)pixels * N) + 1e-5));
            for (c = 0; c < N; c++) {
                a[c] = st[1] * gain[g * N + c];
                d[c] = bias[g * N + c] - st[0] * a[c];
            }
            for (p = 0; p < pixels; p++) {
                for (c = 0; c < N; c++) {
                    float e = xg[(long)p * channels + c] * a[c] + d[c];
                    yg[(long)p * channels + c] = e > low ? e : low;
                }
            }
        }
    }
}

/* gx is written; ggain and gbias are added to. y is the forward result and is only read for ReLU's sake. */
void norm_backward(float *gx, float *ggain, float *gbias, const float *gy, const float *y, const float *x,
                   const float *stats, const float *gain, int n, int pixels, int channels, int relu) {
    int b, g, p, c, groups = channels / N;
    for (b = 0; b < n; b++) {
        for (g = 0; g < groups; g++) {
            long         at = (long)b * pixels * channels + g * N;
            const float *st = stats + ((long)b * groups + g) * 2;
            float        to_bias[N] = { 0 }, to_gain[N] = { 0 }, a[N], mean_g = 0.0f, mean_gx = 0.0f;
            float        low = relu ? 0.0f : -3e38f;
            for (p = 0; p < pixels; p++) {
                long q = at + (long)p * channels;
                for (c = 0; c < N; c++) {
                    float v = y[q + c] > low ? gy[q + c] : 0.0f;
                    to_bias[c] += v;
                    to_gain[c] += v * (x[q + c] - st[0]);
                }
            }
            for (c = 0; c < N; c++) {
                to_gain[c] *= st[1];
                gbias[g * N + c] += to_bias[c];
                ggain[g * N + c] += to_gain[c];
                mean_g += to_bias[c] * gain[g * N + c];
                mean_gx += to_gain[c] * gain[g * N + c];
                a[c] = st[1] * gain[g * N + c];
            }
            mean_g *= st[1] / ((float)pixels * N);
            mean_gx *= st[1] * st[1] / ((float)pixels * N);
            for (p = 0; p < pixels; p++) {
                long q = at + (long)p * channels;
                for (c = 0; c < N; c++) {
                    float v = y[q + c] > low ? gy[q + c] : 0.0f;
                    gx[q + c] = v * a[c] - mean_g - (x[q + c] - st[0]) * mean_gx;
                }
            }
        }
    }
}
