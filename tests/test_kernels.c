/* Every kernel of every instruction set this machine has, against a plain loop in double precision. */
#define MAIL_IMPLEMENTATION
#include "../mail.h"
#include "test.h"

#define MAX 4096

static float a[MAX * 8], b[MAX * 8], c[MAX * 8], d[MAX * 8], e[MAX * 8], f[MAX * 8], out[MAX * 8], out2[MAX * 8];
static double ref[MAX * 8];

static void fill(float *x, size_t n, double lo, double hi) {
    size_t i;
    for (i = 0; i < n; i++) {
        x[i] = (float)(lo + (hi - lo) * test_uniform());
    }
}

/* y = x W + bias for odd sizes; the same bits whatever the split into rows and panels */
static void test_gemm(const mailp_kernels *k) {
    static const size_t sizes[][3] = { { 1, 1, 1 }, { 5, 128, 4 }, { 7, 33, 3 }, { 13, 8, 9 }, { 6, 256, 2 }, { 2, 512, 1 }, { 16, 24, 5 } };
    size_t s, m, j, i, p;
    int    accumulate;
    for (s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        for (accumulate = 0; accumulate < 2; accumulate++) {
            const size_t rows = sizes[s][0], depth = sizes[s][1], panels = sizes[s][2], n = panels * 16, ldy = n + 16, ldx = depth + 3;
            double tol = 0;
            fill(a, rows * ldx, -1, 1);
            fill(b, depth * n, -1, 1);
            fill(c, n, -1, 1);
            fill(out, rows * ldy, -1, 1);
            memcpy(out2, out, rows * ldy * sizeof(float));
            for (m = 0; m < rows; m++) {
                for (j = 0; j < ldy; j++) {
                    double sum = j < n && !accumulate ? 0 : (double)out[m * ldy + j], size = 1;
                    for (i = 0; j < n && i < depth; i++) {
                        double term = (double)a[m * ldx + i] * (double)b[(j / 16 * depth + i) * 16 + j % 16];
                        sum += term;
                        size += fabs(term);
                    }
                    ref[m * ldy + j] = j < n ? sum + (double)c[j] : sum;
                    tol = size > tol ? size : tol;
                }
            }
            k->gemm[0](out, ldy, a, ldx, b, NULL, c, rows, depth, panels, accumulate);
            test_close(k->name, out, ref, rows * ldy, tol * 6e-8 * (4 + sqrt((double)depth)));  /* rounding of a sum of depth terms */
            for (p = 0; p < panels; p++) {
                for (m = 0; m < rows; m++) {
                    k->gemm[0](out2 + m * ldy + p * 16, ldy, a + m * ldx, ldx, b + p * depth * 16, NULL, c + p * 16, 1, depth, 1, accumulate);
                }
            }
            CHECK_MSG(memcmp(out, out2, rows * ldy * sizeof(float)) == 0, "%s: bits depend on the split", k->name);
        }
    }
}

/* bf16 and int8 weights: the same sum of the widened weights as float32 weights of those values give, to rounding */
static void test_gemm_narrow(const mailp_kernels *k) {
    static uint16_t half[128 * 64];
    static int8_t   byte[128 * 64];
    const size_t    rows = 7, depth = 37, panels = 4, n = 64;
    size_t          i;
    int             kind;
    fill(a, rows * depth, -1, 1);
    fill(b, depth * n, -1, 1);
    fill(c, n, -1, 1);
    fill(d, n, 0.5, 2);
    for (kind = 1; kind < 3; kind++) {
        for (i = 0; i < depth * n; i++) {
            half[i] = (uint16_t)mailp_bf16(b[i]);
            byte[i] = (int8_t)(int)(b[i] * 127.0f);
            if (kind == 1) {
                uint32_t bits = (uint32_t)half[i] << 16;
                memcpy(&e[i], &bits, sizeof bits);
            } else {
                e[i] = (float)byte[i] * d[i / 16 / depth * 16 + i % 16];
            }
        }
        k->gemm[0](out, n, a, depth, e, NULL, c, rows, depth, panels, 0);
        k->gemm[kind](out2, n, a, depth, kind == 1 ? (const void *)half : (const void *)byte, kind == 1 ? NULL : d, c, rows, depth, panels, 0);
        for (i = 0; i < rows * n; i++) {
            ref[i] = (double)out[i];
        }
        test_close(kind == 1 ? "gemm bf16" : "gemm int8", out2, ref, rows * n, kind == 1 ? 0 : 2e-3);  /* int8: values reach 250 */
    }
}

/* conv_stream on maps of 4 to 16 pixels, two steps between pixels, and every type of weight */
static void test_conv_stream(const mailp_kernels *k) {
    static const size_t heights[5] = { 1, 2, 3, 4, 2 }, widths[5] = { 4, 4, 4, 4, 8 };
    enum { BLOCKS = 3, TAPS = 9, K = BLOCKS * 16, PLANE = 20 * 20 * 16 };
    static float    x[BLOCKS * PLANE], w[TAPS * K * 16], scale[16], y[256];
    static uint16_t w16[TAPS * K * 16];
    static int8_t   w8[TAPS * K * 16];
    size_t          i, map, t, m, o;
    int             type;
    if (k->conv_stream == NULL) {
        return;
    }
    fill(x, sizeof x / sizeof *x, -1, 1);
    fill(scale, 16, 0.01, 0.02);
    for (i = 0; i < sizeof w / sizeof *w; i++) {
        w8[i]  = (int8_t)((int)(254 * test_uniform()) - 127);
        w16[i] = (uint16_t)mailp_bf16((float)test_uniform() - 0.5f);
    }
    for (map = 0; map < 10; map++) {
        const size_t     h = heights[map % 5], width = widths[map % 5], step = 1 + map / 5;
        mailp_conv_shape shape;
        double           tol = 0;
        memset(&shape, 0, sizeof shape);
        shape.width      = width;
        shape.pixel_step = step * 16;
        shape.row_step   = step * 20 * 16;
        shape.plane      = PLANE;
        shape.depth      = 16;
        shape.n_blocks   = BLOCKS;
        shape.n_taps     = map % 2 == 0 ? TAPS : 1;
        for (t = 0; t < TAPS; t++) {
            shape.tap[t] = (t / 3 * 20 + t % 3) * 16;
        }
        for (type = MAIL_WEIGHTS_F32; type <= MAIL_WEIGHTS_INT8; type++) {
            for (i = 0; i < sizeof w / sizeof *w; i++) {
                w[i] = type == MAIL_WEIGHTS_INT8 ? (float)w8[i] * scale[i % 16] : mailp_bf16_to_float(w16[i]);
            }
            for (m = 0; m < h * width; m++) {
                for (o = 0; o < 16; o++) {
                    double sum = 0, size = 0;
                    for (t = 0; t < shape.n_taps; t++) {
                        for (i = 0; i < K; i++) {
                            const size_t at = i / 16 * PLANE + shape.tap[t] + m / width * shape.row_step + m % width * shape.pixel_step + i % 16;
                            const double term = (double)x[at] * (double)w[(t * K + i) * 16 + o];
                            sum += term;
                            size += fabs(term);
                        }
                    }
                    ref[m * 16 + o] = sum;
                    tol = size > tol ? size : tol;
                }
            }
            fill(y, 256, 100, 200);  /* what was there before does not matter */
            k->conv_stream(y, x, type == MAIL_WEIGHTS_F32 ? (const void *)w : type == MAIL_WEIGHTS_BF16 ? (const void *)w16 : (const void *)w8,
                           type == MAIL_WEIGHTS_INT8 ? scale : NULL, &shape, h * width, (mail_weights)type);
            test_close("conv_stream", y, ref, h * width * 16, tol * 6e-8 * (4 + sqrt((double)(K * TAPS))));
        }
    }
}

static void test_layer_norm(const mailp_kernels *k) {
    static const size_t widths[] = { 128, 24, 40, 1, 17, 64 };
    size_t w, m, i;
    for (w = 0; w < sizeof widths / sizeof widths[0]; w++) {
        const size_t n = widths[w], ld = mailp_pad(n);
        fill(a, 3 * ld, -2, 5);
        fill(b, ld, 0.5, 1.5);
        fill(c, ld, -1, 1);
        for (m = 0; m < 3; m++) {
            double mean = 0, var = 0;
            for (i = 0; i < n; i++) {
                mean += (double)a[m * ld + i] / (double)n;
            }
            for (i = 0; i < n; i++) {
                var += ((double)a[m * ld + i] - mean) * ((double)a[m * ld + i] - mean) / (double)n;
            }
            for (i = 0; i < n; i++) {
                ref[m * n + i] = ((double)a[m * ld + i] - mean) / sqrt(var + 1e-5) * (double)b[i] + (double)c[i];
            }
        }
        k->layer_norm(out, n, a, ld, b, c, 3, n);
        test_close("layer_norm", out, ref, 3 * n, 4e-6);
        k->layer_norm(a, ld, a, ld, b, NULL, 3, n);  /* in place, no bias */
        for (m = 0; m < 3; m++) {
            for (i = 0; i < n; i++) {
                out[m * n + i] = a[m * ld + i] + c[i];
            }
        }
        test_close("layer_norm in place", out, ref, 3 * n, 4e-6);
    }
}

/* elementwise functions over a wide range: relative to the result's own size */
static void test_elementwise(const mailp_kernels *k) {
    size_t i, n = 4096;
    double worst_softplus = 0, worst_gelu = 0;
    for (i = 0; i < n; i++) {
        a[i] = (float)(-100.0 + 200.0 * (double)i / (double)n);
        if (i % 2) {
            a[i] /= 20;
        }
    }
    memcpy(out, a, n * sizeof(float));
    k->softplus(out, 16, n / 16, 1);
    memcpy(out2, a, n * sizeof(float));
    k->gelu(out2, 64, n / 64, 4);
    for (i = 0; i < n; i++) {
        const double x = (double)a[i], sp = x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)), g = 0.5 * x * erfc(-x / sqrt(2.0));
        const double es = fabs((double)out[i] - sp) / (sp + 2e-38), eg = fabs((double)out2[i] - g) / (fabs(x) + 1e-30);
        worst_softplus = es > worst_softplus && x > -86 ? es : worst_softplus;
        worst_gelu     = eg > worst_gelu ? eg : worst_gelu;
    }
    CHECK_MSG(worst_softplus < 4e-7, "%s: softplus off by %g of its value", k->name, worst_softplus);
    CHECK_MSG(worst_gelu < 2e-7, "%s: gelu off by %g |x|", k->name, worst_gelu);
    for (i = 0; i < 16; i++) {
        out[i] = i % 2 ? NAN : 3.0f;
        out2[i] = i % 2 ? NAN : -3.0f;
    }
    k->softplus(out, 16, 1, 1);
    k->gelu(out2, 16, 1, 1);
    for (i = 0; i < 16; i++) {
        CHECK(i % 2 ? out[i] != out[i] && out2[i] != out2[i] : out[i] == out[0] && out2[i] == out2[0] && out[i] == out[i]);
    }
}

static double silu(double x) {
    return x / (1 + exp(-x));
}

/* conv1d + silu and the scan, in one piece and fed in pieces with the state carried over */
static void test_sequences(const mailp_kernels *k) {
    const size_t panels = 3, E = 48, L = 9;
    size_t taps, l, i, j, n;
    for (taps = 1; taps <= 6; taps++) {
        fill(a, L * E, -2, 2);
        fill(b, taps * E, -1, 1);
        fill(c, E, -1, 1);
        for (l = 0; l < L; l++) {
            for (i = 0; i < E; i++) {
                double s = (double)c[i];
                for (j = 0; j < taps; j++) {
                    s += l + j + 1 >= taps ? (double)b[j * E + i] * (double)a[(l + j + 1 - taps) * E + i] : 0;
                }
                ref[l * E + i] = silu(s);
            }
        }
        k->conv1d_silu(out, E, a, E, NULL, NULL, E, b, c, E, L, taps, panels);
        test_close("conv1d_silu", out, ref, L * E, 2e-6);
        memset(d, 0, sizeof d);
        for (l = 0; l < L; l += n) {
            n = l == 0 ? 1 : l == 1 ? 2 : L - l;
            k->conv1d_silu(out2 + l * E, E, a + l * E, E, l == 0 ? NULL : d, d, E, b, c, E, n, taps, panels);
        }
        CHECK_MSG(memcmp(out, out2, L * E * sizeof(float)) == 0, "%s: conv1d in pieces differs, %lu taps", k->name, (unsigned long)taps);
    }
#define AT(channel, s) (((channel) / 16 * n + (s)) * 16 + (channel) % 16)  /* A and states: [panels][d_state][16] */
    for (n = 1; n <= 17; n += 4) {  /* d_state */
        double h[48 * 17];
        fill(a, L * E, -1, 1);       /* x */
        fill(b, L * E, 0.001, 1);    /* dt */
        fill(c, n * E, -20, -0.5);   /* A log2(e) */
        for (i = 3; i < E; i += 15) {
            c[AT(i, n / 2)] *= 40;   /* decays that vanish at some tokens */
        }
        fill(d, L * 2 * n, -1, 1);   /* B, C */
        fill(e, E, -1, 1);           /* D */
        fill(f, L * E, -3, 3);       /* z */
        memset(h, 0, sizeof h);
        for (l = 0; l < L; l++) {
            for (i = 0; i < E; i++) {
                double y = (double)e[i] * (double)a[l * E + i];
                for (j = 0; j < n; j++) {
                    h[AT(i, j)] = pow(2.0, (double)b[l * E + i] * (double)c[AT(i, j)]) * h[AT(i, j)] +
                                   (double)b[l * E + i] * (double)d[l * 2 * n + j] * (double)a[l * E + i];
                    y += h[AT(i, j)] * (double)d[l * 2 * n + n + j];
                }
                ref[l * E + i] = y * silu((double)f[l * E + i]);
            }
        }
        k->scan(out, E, NULL, NULL, a, E, b, E, c, d, d + n, 2 * n, e, f, E, L, n, panels);
        test_close("scan", out, ref, L * E, 5e-6);
        {
            float *state = out2 + L * E;
            k->scan(out2, E, state, NULL, a, E, b, E, c, d, d + n, 2 * n, e, f, E, 4, n, panels);
            k->scan(out2 + 4 * E, E, state, state, a + 4 * E, E, b + 4 * E, E, c, d + 8 * n, d + 9 * n, 2 * n, e, f + 4 * E, E, L - 4, n, panels);
            CHECK_MSG(memcmp(out, out2, L * E * sizeof(float)) == 0, "%s: scan in pieces differs, d_state %lu", k->name, (unsigned long)n);
            for (i = 0; i < n * E; i++) {
                ref[i] = h[i];
            }
            test_close("scan state", state, ref, n * E, 5e-6);
        }
    }
}

static void test_attend(const mailp_kernels *k) {
    static const size_t dims[] = { 32, 16, 6, 8, 19 };
    size_t t, i, j, n, causal;
    for (t = 0; t < 5; t++) {
        for (causal = 0; causal < 2; causal++) {
            const size_t dim = dims[t], nq = 5, nk = 12, ld = 40;
            float scores[32];
            fill(a, nq * ld, -2, 2);
            fill(b, nk * ld, -2, 2);
            fill(c, nk * ld, -2, 2);
            for (i = 0; i < nq; i++) {
                double s[12], sum = 0;
                size_t seen = causal ? nk - nq + 1 + i : nk;
                for (j = 0; j < seen; j++) {
                    s[j] = 0;
                    for (n = 0; n < dim; n++) {
                        s[j] += (double)a[i * ld + n] * (double)b[j * ld + n] / sqrt((double)dim);
                    }
                    s[j] = exp(s[j]);
                    sum += s[j];
                }
                for (n = 0; n < dim; n++) {
                    ref[i * dim + n] = 0;
                    for (j = 0; j < seen; j++) {
                        ref[i * dim + n] += s[j] / sum * (double)c[j * ld + n];
                    }
                }
            }
            k->attend(out, dim, a, ld, b, c, ld, scores, nq, nk, causal ? nk - nq + 1 : nk, dim, 0);
            test_close("attend", out, ref, nq * dim, 5e-6);
            k->attend(out, dim, a, ld, b, c, ld, scores, nq, nk, causal ? nk - nq + 1 : nk, dim, 1);
            for (i = 0; i < nq * dim; i++) {
                ref[i] *= 2;
            }
            test_close("attend, added", out, ref, nq * dim, 1e-5);
        }
    }
}

int main(void) {
    static const char *const isas[] = { "scalar", "avx2", "avx512", "neon" };
    size_t i;
    for (i = 0; i < 4; i++) {
        const mailp_kernels *k = mailp_kernels_choose(isas[i]);
        if (k == NULL) {
            printf("%s: not on this machine\n", isas[i]);
            test_skipped++;
            continue;
        }
        CHECK(strcmp(k->name, isas[i]) == 0);
        test_gemm(k);
        test_gemm_narrow(k);
        test_conv_stream(k);
        test_layer_norm(k);
        test_elementwise(k);
        test_sequences(k);
        test_attend(k);
    }
    CHECK(mailp_kernels_choose("mmx") == NULL);
    return test_end("test_kernels");
}
