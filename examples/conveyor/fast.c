/* fast.c: the inner parts of a Mamba block and group norm with their gradients, for training on a CPU (train.py loads it;
   inference does not need it).

   The selective scan. For every sequence b and channel i, token after token:

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

/* Causal convolution over the tokens of each channel, then SiLU.

       y[t][i] = silu(bias[i] + sum_j taps[j][i] * x[t + j - (K - 1)][i])      x is 0 before the first token

   y, gy, gx  [batch][tokens][d_inner];  x the same, but its rows lie `stride` floats apart;  taps, gtaps [K][d_inner];
   bias, gbias [d_inner]. gtaps and gbias are added to. MAX_INNER bounds d_inner. */
#define MAX_INNER 512

static void conv_row(float *restrict u, const float *x, const float *taps, const float *bias, int t, int stride,
                     int d_inner, int K) {
    int i, j;
    memcpy(u, bias, (size_t)d_inner * sizeof *u);
    for (j = t < K - 1 ? K - 1 - t : 0; j < K; j++) {
        const float *from = x + (long)(t + j - (K - 1)) * stride, *w = taps + (long)j * d_inner;
        for (i = 0; i < d_inner; i++) {
            u[i] += w[i] * from[i];
        }
    }
}

static inline float sigmoid(float v) {
    float e = exp_neg(-fabsf(v));
    return (v < 0.0f ? e : 1.0f) / (1.0f + e);
}

int conv_forward(float *restrict y, const float *restrict x, const float *restrict taps, const float *restrict bias,
                 int batch, int tokens, int d_inner,
                 int stride, int K) {
    float u[MAX_INNER];
    int   b, t, i;
    if (d_inner > MAX_INNER) {
        return 1;
    }
    for (b = 0; b < batch; b++) {
        for (t = 0; t < tokens; t++) {
            float *restrict to = y + ((long)b * tokens + t) * d_inner;
            conv_row(u, x + (long)b * tokens * stride, taps, bias, t, stride, d_inner, K);
            for (i = 0; i < d_inner; i++) {
                to[i] = u[i] * sigmoid(u[i]);
            }
        }
    }
    return 0;
}

void conv_backward(float *restrict gx, float *restrict gtaps, float *restrict gbias, const float *restrict gy,
                   const float *restrict x, const float *restrict taps,
                   const float *restrict bias, int batch, int tokens, int d_inner, int stride, int K) {
    float u[MAX_INNER];
    int   b, t, i, j;
    memset(gx, 0, (size_t)batch * (size_t)tokens * (size_t)d_inner * sizeof *gx);
    for (b = 0; b < batch; b++) {
        for (t = 0; t < tokens; t++) {
            const float *restrict g = gy + ((long)b * tokens + t) * d_inner;
            conv_row(u, x + (long)b * tokens * stride, taps, bias, t, stride, d_inner, K);
            for (i = 0; i < d_inner; i++) {
                float s = sigmoid(u[i]);
                u[i] = g[i] * s * (1.0f + u[i] * (1.0f - s));
                gbias[i] += u[i];
            }
            for (j = t < K - 1 ? K - 1 - t : 0; j < K; j++) {
                long         at = (long)b * tokens + t + j - (K - 1);
                const float *restrict from = x + at * stride, *w = taps + (long)j * d_inner;
                float       *to = gx + at * d_inner, *gw = gtaps + (long)j * d_inner;
                for (i = 0; i < d_inner; i++) {
                    to[i] += w[i] * u[i];
                    gw[i] += from[i] * u[i];
                }
            }
        }
    }
}

/* The gate: out = (y + D x) silu(z). rows is batch * tokens; z's rows lie `stride` floats apart, the rest is dense; gD is
   added to. */
void gate_forward(float *restrict out, const float *restrict y, const float *restrict x, const float *restrict z,
                  const float *restrict D, int rows, int d_inner, int stride) {
    int r, i;
    for (r = 0; r < rows; r++) {
        long at = (long)r * d_inner, zt = (long)r * stride;
        for (i = 0; i < d_inner; i++) {
            out[at + i] = (y[at + i] + D[i] * x[at + i]) * z[zt + i] * sigmoid(z[zt + i]);
        }
    }
}

void gate_backward(float *restrict gy, float *restrict gx, float *restrict gz, float *restrict gD,
                   const float *restrict g,
                   const float *restrict y, const float *restrict x, const float *restrict z, const float *restrict D,
                   int rows, int d_inner, int stride) {
    int r, i;
    for (r = 0; r < rows; r++) {
        long at = (long)r * d_inner, zt = (long)r * stride;
        for (i = 0; i < d_inner; i++) {
            float v = z[zt + i], s = sigmoid(v), to = g[at + i] * v * s;
            gy[at + i] = to;
            gx[at + i] = to * D[i];
            gD[i] += to * x[at + i];
            gz[at + i] = g[at + i] * (y[at + i] + D[i] * x[at + i]) * s * (1.0f + v * (1.0f - s));
        }
    }
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
