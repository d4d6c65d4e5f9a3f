/* Every kernel of every instruction set this machine has, against a plain loop in double precision. */
#define MAIL_IMPLEMENTATION
#include "../mail.h"
#include "test.h"

#define MAX 4096

static float a[MAX * 8], b[MAX * 8], c[MAX * 8], d[MAX * 8], e[MAX * 8], f[MAX * 8], out[MAX * 8], out2[MAX * 8];
static double ref[MAX * 8], pooled[MAX * 8];

static void fill(float *x, size_t n, double lo, double hi) {
    size_t i;
    for (i = 0; i < n; i++) {
        x[i] = (float)(lo + (hi - lo) * test_uniform());
    }
}

/* y = x W + bias for odd sizes; the same bits whatever the split into rows and panels */
static void test_gemm(const mailp_kernels *k) {
    static const size_t sizes[][3] = { { 0, 3, 2 }, { 1, 1, 1 }, { 5, 128, 4 }, { 7, 33, 3 }, { 13, 8, 9 }, { 6, 256, 2 }, { 2, 512, 1 }, { 16, 24, 5 },
                                        { 7, 33, 4 }, { 8, 16, 2 }, { 9, 17, 6 }, { 10, 128, 2 }, { 11, 5, 4 }, { 12, 40, 2 } };
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

/* gemm_low: rows of integers come out exactly, other rows to what rounding them may do; the same bits whatever the split; nothing wraps
   where rows and weights are as large as can be; what is not finite stays in its row */
static void test_gemm_low(const mailp_kernels *k) {
    enum { ROWS = 26, DEPTH = 1101, MOST = 4 * 16 };
    static const size_t depths[] = { 128, 129, 300, 512, 513, DEPTH, 640, 33, 40, 257, 130, 128 };
    static const size_t rows[] = { 1, 5, 7, 24, ROWS, 12, 7, 8, 9, 10, 11, 12 };
    static float        x[ROWS * DEPTH], y[ROWS * (MOST + 16)], y2[ROWS * (MOST + 16)], w[MOST * DEPTH];
    static int8_t       w8[MOST * (DEPTH + 1)];
    static int16_t      w16[MOST * (DEPTH + 1)];
    float               scale[MOST];
    size_t              s, m, i, j, n, p;
    int                 type, kind, accumulate, fit;
    for (type = MAIL_WEIGHTS_BF16; type <= MAIL_WEIGHTS_INT8; type++) {
        const size_t bytes = type == MAIL_WEIGHTS_BF16 ? 2 : 1;
        const void  *from = type == MAIL_WEIGHTS_BF16 ? (const void *)w16 : (const void *)w8;
        if (k->gemm_low[type] == NULL) {
            continue;
        }
        for (s = 0; s < sizeof depths / sizeof *depths; s++) {
            const size_t depth = depths[s], even = (depth + 1) / 2 * 2, panels = s < 6 ? 3 : s % 2 ? 2 : 4, N = 16 * panels, ldx = DEPTH, ldy = N + 16;
            for (kind = 0; kind < 3; kind++) {  /* small integers, any numbers, the largest there can be */
                double size = 0;
                memset(w8, 0, sizeof w8);
                memset(w16, 0, sizeof w16);
                fill(c, N, -1, 1);
                fit = 1;
                for (j = 0; j < N; j++) {
                    double step;
                    for (i = 0; i < depth; i++) {
                        w[j * depth + i] = kind == 2 ? (float)(j % 2 ? 1 : -1) * (j == 0 || i == 5 ? 1.0f : 0.9f) :
                                           kind == 0 ? (float)((int)(7 * test_uniform()) - 3) * (i == 0 ? 0 : 1) : (float)test_uniform() - 0.5f;
                    }
                    step = kind == 0 ? 1.0 : (double)mailp_mat_step(w + j * depth, depth, (mail_weights)type);
                    scale[j] = (float)step;
                    for (i = 0; i < depth; i++) {
                        const int    v = (int)floor((double)w[j * depth + i] / step + 0.5);
                        const size_t at = j / 16 * even * 16 + (i / 2 * 16 + j % 16) * 2 + i % 2;
                        fit = fit && abs(v) <= (type == MAIL_WEIGHTS_BF16 ? 32767 : 127);
                        w8[at]  = (int8_t)v;
                        w16[at] = (int16_t)v;
                        w[j * depth + i] = (float)(v * step);
                    }
                }
                CHECK(fit);
                for (m = 0; m < rows[s]; m++) {
                    for (i = 0; i < depth; i++) {
                        x[m * ldx + i] = kind == 2 ? 3.0f : kind == 0 ? (float)((int)(100 * test_uniform()) - 50) : 2 * (float)test_uniform() - 1;
                    }
                    for (i = 0; kind == 0 && i < depth; i += MAILP_PAIRS_SUM) {
                        x[m * ldx + i] = MAILP_PAIRS_MOST;  /* the step is 1 */
                    }
                }
                for (accumulate = 0; accumulate < 2; accumulate++) {
                    fill(y, rows[s] * ldy, -1, 1);
                    memcpy(y2, y, sizeof y);
                    for (m = 0; m < rows[s]; m++) {
                        for (j = 0; j < ldy; j++) {
                            double sum = (j < N && !accumulate ? 0 : (double)y[m * ldy + j]) + (j < N ? (double)c[j] : 0), all = 1;
                            for (i = 0; j < N && i < depth; i++) {
                                const double term = (double)x[m * ldx + i] * (double)w[j * depth + i];
                                sum += term;
                                all += fabs(term);
                            }
                            ref[m * ldy + j] = sum;
                            size = all > size ? all : size;
                        }
                    }
                    k->gemm_low[type](y, ldy, x, ldx, from, scale, c, rows[s], depth, panels, accumulate);
                    /* sums of the parts in float32; and for kind 1 five times the RMS of sums of roundings of numbers in -1..1 by weights in -1/2..1/2 */
                    test_close("gemm_low", y, ref, rows[s] * ldy,
                               size * 6e-8 * 8 + (kind == 1 ? 5 * sqrt((double)depth / 12) / MAILP_PAIRS_MOST / sqrt(12.0) : 0));
                    for (p = 0; p < panels; p++) {
                        for (m = 0; m < rows[s]; m += n) {
                            n = MAILP_MIN(rows[s] - m, (size_t)4);
                            k->gemm_low[type](y2 + m * ldy + p * 16, ldy, x + m * ldx, ldx, (const unsigned char *)from + p * even * 16 * bytes,
                                              scale + p * 16, c + p * 16, n, depth, 1, accumulate);
                        }
                    }
                    CHECK_MSG(memcmp(y, y2, rows[s] * ldy * sizeof(float)) == 0, "%s: gemm_low, bits depend on the split", k->name);
                }
            }
            x[depth - 1] = s % 2 ? NAN : -INFINITY;
            k->gemm_low[type](y, ldy, x, ldx, from, scale, NULL, rows[s], depth, panels, 0);
            for (i = 0, m = 0; m < rows[s]; m++) {
                for (j = 0; j < N; j++) {
                    i += (m == 0) != (y[m * ldy + j] != y[m * ldy + j]);
                }
            }
            CHECK_MSG(i == 0, "%s: gemm_low, what is not finite", k->name);
        }
    }
}

enum { LOW_BLOCKS = 2, LOW_TAPS = 9, LOW_LANES = 64, LOW_PLANE = 28 * 16 * 16, LOW_PIXELS = 13 };

/* conv_low on values in q, with every number of panels, at once and block by block, against sums of integers. Scales are powers of two
   and sums fit into float32's 24 bits, so not a bit may differ; but for integers of 16 bits, whose sums are rounded to float32 in the end.
   x  the values of q as integers, times x_scale [n_blocks];  w [n_blocks][n_taps][depth][LOW_LANES] */
static void conv_low_agrees(const mailp_kernels *k, int type, const int *x, const unsigned char *q, const float *x_scale, const int *w,
                            const mailp_conv_shape *shape, size_t pixels) {
    static float         y[LOW_LANES / 16 * LOW_PIXELS * 16];
    static unsigned char packed[2 * LOW_BLOCKS * LOW_TAPS * 16 * LOW_LANES];
    const size_t         n = type == MAIL_WEIGHTS_INT8 ? 4 : 2, group = k->conv_group, steps = shape->n_taps * shape->depth;
    const int            sixteen = type == MAIL_WEIGHTS_BF16;
    float                scale[LOW_LANES], bias[LOW_LANES];
    size_t               block, i, o, m, t, panels, split, wrong = 0;
    for (o = 0; o < LOW_LANES; o++) {
        scale[o] = o % 2 ? 0.5f : 1.0f;
        bias[o]  = (float)o - 20.0f;
    }
    for (i = 0; i < shape->n_blocks * steps; i++) {
        for (o = 0; o < group * 16; o++) {
            const size_t at = ((i / n * group + o / 16) * 16 + o % 16) * n + i % n;
            if (sixteen) {
                const int16_t value = (int16_t)w[i * LOW_LANES + o];
                memcpy(packed + 2 * at, &value, 2);
            } else {
                ((int8_t *)packed)[at] = (int8_t)w[i * LOW_LANES + o];
            }
        }
    }
    for (panels = 1; panels <= group; panels++) {
        for (split = 0; split < 2; split++) {
            fill(y, sizeof y / sizeof *y, 100, 200);  /* what was there before does not matter */
            for (block = 0; block < shape->n_blocks; block += split ? 1 : shape->n_blocks) {
                const unsigned char *from = packed + block * steps * group * 16 * 4 / n;
                k->conv_low[type](y, pixels * 16, q, x_scale, from, scale, bias, group, shape, block,
                                  split ? block + 1 : shape->n_blocks, pixels, panels, (uintptr_t)from, 0);
            }
            for (o = 0; o < panels * 16; o++) {
                for (m = 0; m < pixels; m++) {
                    double sum = (double)bias[o], rounded = 0;
                    for (block = 0; block < shape->n_blocks; block++) {
                        int whole = 0;
                        for (t = 0; t < shape->n_taps; t++) {
                            const size_t at = block * shape->plane + shape->tap[t] + m / shape->width * shape->row_step +
                                              m % shape->width * shape->pixel_step;
                            for (i = 0; i < shape->depth; i++) {
                                whole += x[at + i] * w[((block * shape->n_taps + t) * shape->depth + i) * LOW_LANES + o];
                            }
                        }
                        sum += (double)x_scale[block] * (double)scale[o] * whole;
                        rounded += sixteen ? (fabs(sum) + fabs((double)whole)) * 6e-8 : 0;
                    }
                    wrong += !(fabs((double)y[(o / 16 * pixels + m) * 16 + o % 16] - sum) <= rounded);
                }
            }
        }
    }
    CHECK_MSG(wrong == 0, "%s: conv_low, weights %d, %lu pixels: %lu values differ from sums of integers", k->name, type, (unsigned long)pixels,
              (unsigned long)wrong);
}

/* the stem's 7 x 7 convolution of stride 2 by Winograd: rows of one to more tiles than are done at a time, cut off and not, of a whole group of
   panels and of less */
static void test_stem(const mailp_kernels *k) {
    static const size_t widths[] = { 1, 2, 5, 6, 7, 13, 20, 41, 128, 385, 400 };
    static float        w[5 * 16 * 147], picture[(7 + 6) * (400 + 6) * 3], phases[6 * 210 * 16], u[36 * 12 * 5 * 16], m[36 * MAILP_M_PLANE(4)],
                        v[36 * MAILP_M_PLANE(1)], got[5 * (3 * 200 + 1) * 16];
    static double       want[5 * (3 * 200 + 1) * 16];
    const size_t        panels = k->conv_group + 1;
    size_t              s, h, x, y, i, t, o;
    for (s = 0; s < sizeof widths / sizeof widths[0]; s++) {
        const size_t w_in = widths[s], w_out = (w_in + 1) / 2, row = (w_in + 6) * 3, ldy = 3 * w_out * 16 + 16;
        for (h = 1; h <= 3; h += 2) {  /* rows of outputs, from 2 * h - 1 of the picture */
            const size_t h_in = 2 * h - 1;
            mailp_conv   conv;
            memset(&conv, 0, sizeof conv);
            conv.c_out            = panels * 16;
            conv.h_out            = h;
            conv.w_out            = w_out;
            conv.tiles_h          = 1;
            conv.tiles_w          = (w_out + 2) / 3;
            conv.group            = k->conv_group;
            conv.shape.pixel_step = 16;
            conv.shape.n_blocks   = 1;
            fill(w, panels * 16 * 147, -1, 1);
            memset(picture, 0, sizeof picture);
            memset(phases, 0, sizeof phases);
            for (y = 3; y < h_in + 3; y++) {
                fill(picture + y * row + 9, w_in * 3, -1, 1);
                for (x = 3; x < w_in + 3; x++) {
                    static const size_t place[2][2] = { { 3, 0 }, { 6, 9 } };  /* [row % 2][column % 2] */
                    memcpy(phases + (y / 2 * mailp_phases_columns(&conv) + x / 2) * 16 + place[y % 2][x % 2], picture + y * row + x * 3,
                           3 * sizeof(float));
                }
            }
            mailp_stem_transform(u, w, panels * 16, conv.group);
            conv.w = u;
            fill(got, panels * ldy, -1, 1);
            for (i = 0; i < panels * ldy; i++) {
                want[i] = (double)got[i];
            }
            for (o = 0; o < panels * 16; o++) {
                for (y = 0; y < h; y++) {
                    for (x = 0; x < w_out; x++) {
                        double sum = 0;
                        for (t = 0; t < 49; t++) {
                            for (i = 0; i < 3; i++) {
                                sum += (double)picture[(2 * y + t / 7) * row + (2 * x + t % 7) * 3 + i] * (double)w[(o * 3 + i) * 49 + t];
                            }
                        }
                        want[o / 16 * ldy + (y * w_out + x) * 16 + o % 16] = sum;
                    }
                }
            }
            mailp_stem_run(got, ldy, m, v, &conv, k, phases, 0, h, 0, panels);
            test_close(k->name, got, want, panels * ldy, 147 * 6e-8 * 3);  /* as for squares below */
            fill(got, ldy, -1, 1);
            mailp_stem_run(got, ldy, m, v, &conv, k, phases, 0, h, panels - 2, panels - 1);
            test_close(k->name, got, want + (panels - 2) * ldy, 3 * w_out * 16 - (3 - h) * w_out * 16, 147 * 6e-8 * 3);
        }
    }
}

/* sums of one plane for every number of pixels up to three tiles, whatever was there before */
static void test_winograd_products(const mailp_kernels *k) {
    const size_t group = k->conv_group;
    size_t       pixels, runs, p, m, t, i, j;
    int          accumulate;
    for (pixels = 1; k->winograd_products != NULL && pixels <= 18; pixels++) {
        for (runs = 1; runs <= 4; runs += 3) {
            for (accumulate = 0; accumulate < 2; accumulate++) {
                const size_t stride = pixels * 16 + 32, n = pixels * 16, ldy = n + 16;
                fill(a, runs * stride, -1, 1);
                fill(b, runs * 256 * group, -1, 1);
                fill(out, ldy * group, -1, 1);
                for (p = 0; p < group; p++) {
                    for (m = 0; m < pixels + 1; m++) {
                        for (j = 0; j < 16; j++) {
                            double sum = m < pixels && !accumulate ? 0 : (double)out[p * ldy + m * 16 + j];
                            for (t = 0; m < pixels && t < runs; t++) {
                                for (i = 0; i < 16; i++) {
                                    sum += (double)a[t * stride + m * 16 + i] * (double)b[((t * 16 + i) * group + p) * 16 + j];
                                }
                            }
                            ref[p * ldy + m * 16 + j] = sum;
                        }
                    }
                }
                k->winograd_products(out, ldy, a, stride, runs, b, pixels, accumulate, (uintptr_t)b, 0);
                test_close(k->name, out, ref, ldy * group, 16.0 * (double)runs * 6e-8 * 4);  /* a sum of 16 * runs terms below 1, and one pixel untouched */
            }
        }
    }
}

/* A random 3 x 3 convolution of one block to h x w outputs: a, its input of h_in x w_in with a border, `rows` rows `row` floats apart; b, the
   values of weights of a type, their scales c; ref, the outputs. Weight (tap t, input i) is at [first[t] + i * step].
   Returned: the weights as they are stored. */
static const void *random_block(int type, const size_t *first, size_t step, size_t stride, size_t h, size_t w, size_t h_in, size_t w_in,
                                size_t rows, size_t row) {
    static int8_t   byte[9 * 256];
    static uint16_t half[9 * 256];
    size_t          y, x, j, i, t;
    memset(a, 0, rows * row * sizeof *a);
    for (y = 0; y < h_in; y++) {
        fill(a + (y + 1) * row + 16, w_in * 16, -1, 1);
    }
    fill(c, 16, 0.004f, 0.008f);
    for (i = 0; i < 9 * 256; i++) {
        byte[i] = (int8_t)(255 * test_uniform() - 127);
        half[i] = (uint16_t)mailp_bf16((float)(2 * test_uniform() - 1));
        b[i]    = type == MAIL_WEIGHTS_F32 ? (float)(2 * test_uniform() - 1) :
                  type == MAIL_WEIGHTS_BF16 ? mailp_bf16_to_float(half[i]) : (float)byte[i] * c[i % 16];
    }
    for (y = 0; y < h; y++) {
        for (x = 0; x < w; x++) {
            for (j = 0; j < 16; j++) {
                double sum = 0;
                for (t = 0; t < 9; t++) {
                    for (i = 0; i < 16; i++) {
                        sum += (double)a[(stride * y + t / 3) * row + (stride * x + t % 3) * 16 + i] * (double)b[(first[t] + i * step) * 16 + j];
                    }
                }
                ref[(y * w + x) * 16 + j] = sum;
            }
        }
    }
    return type == MAIL_WEIGHTS_F32 ? (const void *)b : type == MAIL_WEIGHTS_BF16 ? (const void *)half : (const void *)byte;
}

/* a 3 x 3 convolution of one block by tiles of one row, with weights of every type, some tiles cut off */
static void test_winograd_rows(const mailp_kernels *k) {
    static const size_t first[9] = { 0, 48, 96, 16, 64, 112, 32, 80, 128 };  /* [3 columns][3 rows][16] */
    const size_t        h = 5;
    size_t              w, i, plane, tiles;
    int                 type;
    for (type = MAIL_WEIGHTS_F32; k->winograd_rows_weights != NULL && k->conv_group == 1 && type <= MAIL_WEIGHTS_INT8; type++) {
        for (w = 4; w <= 9; w++) {
            const size_t row = (w + 9) / 4 * 64;
            const void  *from = random_block(type, first, 1, 1, h, w, h, w, h + 2, row);
            tiles = (w + 3) / 4;
            plane = (h + 2) * tiles * 16;
            k->winograd_in(d, plane, a, row, h, tiles, 1);
            k->winograd_rows_weights(e, from, MAILP_COLUMN, c, (mail_weights)type, (uintptr_t)from, 0);
            for (i = 0; i < 6; i++) {
                const float *u = type == MAIL_WEIGHTS_F32 && i % 5 == 0 ? b + (i == 0 ? 0 : 2 * MAILP_COLUMN) : e + i * MAILP_COLUMN;
                k->winograd_products(f + i * MAILP_M_PLANE(1), 0, d + i * plane, tiles * 16, 3, u, h * tiles, 0, (uintptr_t)u, 0);
            }
            k->winograd_out(out, f, h, w, 1, tiles, 0, h * tiles);
            test_close(k->name, out, ref, h * w * 16, 144 * 6e-8 * 2);  /* 144 terms below 1; in the planes they are larger, which costs a bit */
        }
    }
}

/* the products of four rows of tiles of one row, of several panels and blocks at a time: what sums of the transformed weights are */
static void test_winograd_rows4(const mailp_kernels *k, size_t tiles) {
    enum { BLOCKS = 3, FLOATS = 3 * (int)MAILP_COLUMN };
    static float  w[MAILP_ROWS4 * BLOCKS * FLOATS], v[6 * (BLOCKS * 96 * 4 + 16)], m[6 * MAILP_M_PLANE(4)];
    static double u[6 * MAILP_COLUMN], want[6 * MAILP_M_PLANE(4)];
    const size_t  row = tiles * 16, plane = BLOCKS * 6 * row + 16, m_plane = MAILP_M_PLANE(k->conv_group);
    size_t        p, at, i, j, t, y, h;
    if (k->winograd_rows4 == NULL) {
        return;
    }
    fill(w, sizeof w / sizeof *w, -1, 1);
    fill(m, sizeof m / sizeof *m, -1, 1);
    for (i = 0; i < sizeof m / sizeof *m; i++) {
        want[i] = (double)m[i];
    }
    for (h = 0; h < 6 * BLOCKS; h++) {  /* rows 0 and 5 of a block are the map's border */
        memset(v + h / BLOCKS * plane + h % BLOCKS * 6 * row, 0, 6 * row * sizeof *v);
        fill(v + h / BLOCKS * plane + h % BLOCKS * 6 * row + row, 4 * row, -1, 1);
    }
    for (p = 0; p < MAILP_ROWS4; p++) {
        for (h = 0; h < 6; h++) {
            memset(want + h * m_plane + p * 4 * row, 0, 4 * row * sizeof *want);
        }
        for (at = 0; at < BLOCKS; at++) {
            const float *g = w + (p * BLOCKS + at) * FLOATS;
            for (i = 0; i < MAILP_COLUMN; i++) {
                const double g0 = (double)g[i], g1 = 1.41421356237309505 * (double)g[MAILP_COLUMN + i], g2 = (double)g[2 * MAILP_COLUMN + i];
                u[i]                    = g0;
                u[MAILP_COLUMN + i]     = 2 * g0 + g2 + g1;
                u[2 * MAILP_COLUMN + i] = 2 * g0 + g2 - g1;
                u[3 * MAILP_COLUMN + i] = g0 + 2 * g2 + g1;
                u[4 * MAILP_COLUMN + i] = g0 + 2 * g2 - g1;
                u[5 * MAILP_COLUMN + i] = g2;
            }
            for (h = 0; h < 6; h++) {
                for (t = 0; t < 4 * tiles; t++) {
                    for (y = 0; y < 3; y++) {
                        for (i = 0; i < 16; i++) {
                            for (j = 0; j < 16; j++) {
                                want[h * m_plane + (p * 4 * tiles + t) * 16 + j] +=
                                    (double)v[h * plane + at * 6 * row + (t + y * tiles) * 16 + i] * u[h * MAILP_COLUMN + (y * 16 + i) * 16 + j];
                            }
                        }
                    }
                }
            }
        }
    }
    k->winograd_rows4(m, v, plane, tiles, w, BLOCKS);
    test_close(k->name, m, want, sizeof m / sizeof *m, 144 * 6e-8 * 4.5);  /* 144 terms, below 4.5 */
}

/* a 3 x 3 convolution of one block, of stride 1 by squares or 2 by phases, with weights of every type, some tiles cut off */
static void test_winograd_squares(const mailp_kernels *k) {
    static const size_t tiles[3] = { 2, 4, MAILP_PHASES }, first[9] = { 0, 1, 2, 3, 4, 5, 6, 7, 8 };  /* [16][9] */
    const size_t        group = k->conv_group, u_plane = MAILP_U_PLANE(group), m_plane = MAILP_M_PLANE(group);
    static float        u[36 * MAILP_U_PLANE(4)], m[36 * MAILP_M_PLANE(4)];
    size_t              kind, h, w, x, j, i, t;
    int                 type;
    for (kind = 0; kind < 3; kind++) {
        const size_t tile = tiles[kind], stride = tile == MAILP_PHASES ? 2 : 1, high = tile == 4 ? 4 : 2, planes = tile == 4 ? 36 : tile == 2 ? 16 : 25;
        for (type = MAIL_WEIGHTS_F32; type <= MAIL_WEIGHTS_INT8; type++) {
            for (h = 1, w = 9; h <= 9; h += 4, w -= 3) {
                const size_t h_in = h * stride - (stride == 2 && h == 5), w_in = w * stride - (stride == 2 && w == 6);
                const size_t row = ((w_in + 3) / 4 * 4 + 2) * 16, rows = (h_in + 3) / 4 * 4 + 2;
                const size_t tiles_h = (h + high - 1) / high, tiles_w = (w + high - 1) / high, plane = tiles_h * tiles_w * 16 + 16;
                const void  *from = random_block(type, first, 9, stride, h, w, h_in, w_in, rows, row);
                k->winograd_in(d, plane, a, row, tiles_h, tiles_w, tile);
                k->winograd_weights(u, from, c, 16, 1, 1, tile, (mail_weights)type);
                for (t = 0; t < planes; t++) {
                    const float *uk = u + mailp_tile_weights(tile, t) * u_plane;
                    for (x = 0; x < tiles_h * tiles_w; x++) {
                        for (j = 0; j < 16; j++) {
                            float sum = 0;
                            for (i = 0; i < 16; i++) {
                                sum += d[t * plane + x * 16 + i] * uk[i * 16 + j];
                            }
                            m[t * m_plane + x * 16 + j] = sum;
                        }
                    }
                }
                fill(out, h * w * 16 + 16, -1, 1);
                for (i = 0; i < 16; i++) {
                    ref[h * w * 16 + i] = (double)out[h * w * 16 + i];
                }
                k->winograd_out(out, m, h, w, tile, tiles_w, 0, tiles_h * tiles_w);
                /* 144 terms below 1; in the planes they are up to four times as large, which costs a bit and a half */
                test_close(k->name, out, ref, (h * w + 1) * 16, 144 * 6e-8 * 3);
            }
        }
    }
}

/* a 3 x 3 convolution of 64 channels of a map of four or eight tiles of 4 x 4, whole ones or cut off, in whatever order they lie */
static void test_winograd_quad(const mailp_kernels *k) {
    enum { C = 64 };
    static const size_t sizes[8][2] = { { 8, 8 }, { 7, 6 }, { 5, 8 }, { 4, 14 }, { 13, 3 }, { 8, 16 }, { 13, 7 }, { 3, 30 } };
    static float        w[16 * C * 9], packed[16 * C * 9], map[C / 16][18 * 18 * 16], planes[36 * 128], m[36 * MAILP_M_PLANE(4)];
    static float        v[C / MAILP_QUAD_DEPTH * 24 * MAILP_QUAD_PASS], u[6 * MAILP_QUAD_COLUMN(16)];
    const size_t        lanes = k->quad_lanes, column = MAILP_QUAD_COLUMN(lanes);
    size_t              s, at, y, x, i, j, t;
    for (s = 0; k->winograd_quad != NULL && s < (k->quads_most == 1 ? 5 : 8); s++) {
        const size_t high = sizes[s][0], wide = sizes[s][1], tiles_h = (high + 3) / 4, tiles_w = (wide + 3) / 4, row = (4 * tiles_w + 2) * 16;
        const size_t quads = tiles_h * tiles_w / 4, channel = 12 * quads;
        fill(w, 16 * C * 9, -1, 1);
        fill(m, sizeof m / sizeof *m, -1, 1);
        memset(map, 0, sizeof map);
        mailp_quad_pack(packed, w, 16, C, lanes);
        for (at = 0; at < C / 16; at++) {
            for (y = 1; y <= high; y++) {
                fill(map[at] + y * row + 16, wide * 16, -1, 1);
            }
            k->winograd_in(planes, quads * 64, map[at], row, tiles_h, tiles_w, 4);
            k->winograd_quad_in(v + at / 2 * channel * MAILP_QUAD_PASS + at % 2 * 16 * channel, planes, quads);
        }
        for (j = 0; j < 16 / lanes; j++) {
            for (at = 0; at < C / MAILP_QUAD_DEPTH; at++) {
                const float *from = packed + (j * (C / MAILP_QUAD_DEPTH) + at) * 3 * column;
                k->winograd_rows_weights(u, from, column, NULL, MAIL_WEIGHTS_F32, (uintptr_t)from, 0);
                k->winograd_quad(m + j * lanes, v + at * channel * MAILP_QUAD_PASS, quads, u, from, at > 0, (uintptr_t)from, 0);
            }
        }
        k->winograd_out(out, m, high, wide, 4, tiles_w, 0, 4 * quads);
        for (i = 0; i < high * wide; i++) {
            for (j = 0; j < 16; j++) {
                double sum = 0;
                for (at = 0; at < C; at++) {
                    for (t = 0; t < 9; t++) {
                        x = (i / wide + t / 3) * row + (i % wide + t % 3) * 16 + at % 16;
                        sum += (double)map[at / 16][x] * (double)w[(j * C + at) * 9 + t];
                    }
                }
                ref[i * 16 + j] = sum;
            }
        }
        test_close(k->name, out, ref, high * wide * 16, 576 * 6e-8 * 3);  /* as test_winograd_squares, 576 terms */
    }
}

/* Weights w [LOW_BLOCKS][LOW_TAPS][16][LOW_LANES] are cut so that the four of them that meet in 16 bits add up to most of either sign */
static void conv_low_meet(int *w, int most) {
    size_t at, o, four, i;
    for (at = 0; at < LOW_BLOCKS * LOW_TAPS; at++) {
        for (o = 0; o < LOW_LANES; o++) {
            for (four = 0; four < 16; four += four % 8 == 0 ? 2 : 6) {
                int plus = most, minus = most;
                for (i = 0; i < 4; i++) {
                    int *v = &w[(at * 16 + four + i % 2 + i / 2 * 4) * LOW_LANES + o];
                    *v = *v > plus ? plus : *v < -minus ? -minus : *v;
                    plus  -= *v > 0 ? *v : 0;
                    minus += *v < 0 ? *v : 0;
                }
            }
        }
    }
}

/* Weights as mailp_conv_pack makes them: their sums are what the products allow, and they are as near as their scale says. */
static void test_conv_pack(void) {
    static float  w[2 * 16 * 32 * 9];
    static int8_t packed[2 * 16 * 32 * 9];
    float         scale[32];
    int           sum, channel;
    size_t        o, i, t;
    for (sum = 0; sum <= 258; sum += 258) {
        size_t wrong = 0, over = 0;
        for (i = 0; i < sizeof w / sizeof *w; i++) {
            channel = (int)(i / 288);
            w[i] = channel == 0 ? 1.0f : channel == 1 ? -1.0f : channel == 2 ? 0.0f : channel == 3 ? (i % 288 == 7 ? 1.0f : 1e-4f) :
                   (float)(test_uniform() - 0.5) * (channel % 2 ? 1.0f : 0.01f);
        }
        mailp_conv_pack(packed, scale, w, 32, 32, 9, 1, MAILP_LOW, MAIL_WEIGHTS_INT8, sum);
        for (o = 0; o < 32; o++) {
            float most = 0;
            for (i = 0; i < 32; i++) {
                for (t = 0; t < 9; t++) {
                    const size_t at = o / 16 * 9 * 32 * 16 + (((i / 16 * 9 + t) * 4 + i % 16 / 4) * 16 + o % 16) * 4 + i % 4;
                    const float  v = w[(o * 32 + i) * 9 + t];
                    most   = fabsf(v) > most ? fabsf(v) : most;
                    wrong += !(fabsf((float)packed[at] * scale[o] - v) <= 0.5001f * scale[o]);
                }
            }
            for (i = 0; i < 9 * 32 / 8 * 2; i++) {  /* steps of eight channels by halves */
                int    plus = 0, minus = 0;
                size_t j;
                for (j = 0; j < 4; j++) {
                    const int v = packed[o / 16 * 9 * 32 * 16 + ((i / 2 * 2 + j / 2) * 16 + o % 16) * 4 + i % 2 * 2 + j % 2];
                    plus  += v > 0 ? v : 0;
                    minus -= v < 0 ? v : 0;
                }
                over += sum > 0 && (plus > sum || minus > sum);
            }
            /* one large weight among small ones loses no bit, four large ones lose one */
            wrong += sum == 0 || o == 3 ? (o != 2 && !(scale[o] <= most * 1.001f / 127.0f)) : o < 2 && !(scale[o] <= most * 4.001f / 256.0f);
        }
        CHECK_MSG(wrong == 0 && over == 0, "weights of 8 bits, sums of %d: %lu are not what they stand for, %lu sums are too large", sum,
                  (unsigned long)wrong, (unsigned long)over);
    }
}

/* Integers of 16 bits as mailp_conv_pack makes them: whatever the activations are, no sum of a block leaves 32 bits, nor a number of a plane
   16; flat weights come near to that */
static void test_conv_pack16(void) {
    enum { C = 32, N = 16 * C * 9 };
    static float   w[N];
    static int16_t packed[N];
    float          scale[16];
    size_t         i, t, o, block, rows, wrong = 0;
    double         largest = 0;
    for (rows = 0; rows < 2; rows++) {
        for (i = 0; i < N; i++) {
            w[i] = i / (C * 9) == 0 ? 0.37f : i / (C * 9) == 1 ? (i % 3 == 1 ? -0.1f : 0.1f) : i / (C * 9) == 2 ? (i % 144 == 2 ? 1.0f : 0.0f) :
                   i / (C * 9) == 3 ? (i % 3 == 2 ? 1.0f : 0.0f) : i / (C * 9) == 4 ? 0.0f : (float)test_uniform() - 0.5f;
        }
        mailp_conv_pack(packed, scale, w, 16, C, 9, 1, rows ? MAILP_ROWS16 : MAILP_LOW, MAIL_WEIGHTS_BF16, 0);
        for (o = 0; o < 16; o++) {
            for (block = 0; block < C / 16; block++) {
                double all = 0, ones = 0, powers = 0;
                for (i = 0; i < 16; i++) {
                    int g[9], y;
                    for (t = 0; t < 9; t++) {
                        const size_t tap = rows ? t % 3 * 3 + t / 3 : t;
                        g[t] = packed[((block * 9 + tap) * 8 + i / 2) * 32 + o * 2 + i % 2];
                        all += abs(g[t]);
                        /* a quotient below 2^15 in float32 may be off by another 2^-10 */
                        wrong += !(fabs(g[t] * (double)scale[o] - (double)w[(o * C + block * 16 + i) * 9 + t]) <= 0.501 * (double)scale[o]);
                    }
                    for (y = 0; rows && y < 9; y += 3) {
                        const int wide = abs(g[y]) + 2 * abs(g[y + 1]) + 4 * abs(g[y + 2]);
                        ones   += abs(g[y]) + abs(g[y + 1]) + abs(g[y + 2]);
                        powers += wide;
                        wrong  += wide > 32767;
                    }
                }
                all *= MAILP_S16_MOST;
                if (rows) {  /* planes of activations are 8 and 3 times as large as these at most */
                    all = MAILP_MAX(8 * ones, 3 * powers) * MAILP_ROWS16_MOST;
                }
                largest = MAILP_MAX(all, largest);
            }
        }
        CHECK_MSG(wrong == 0 && largest < 2147483648.0 && largest > 2.1e9, "weights of 16 bits%s: %lu wrong, sums up to %.0f",
                  rows ? ", rows" : "", (unsigned long)wrong, largest);
        largest = 0;
    }
}

/* a 3 x 3 convolution of two blocks by tiles of one row in integers, of a whole group of panels and of one panel in a group of two: a direct
   one of the rounded activations and weights, in double, agrees to float32's roundings */
static void test_rows16(const mailp_kernels *k) {
    enum { BLOCKS = 2, H = 5, C = BLOCKS * 16, MOST = 64 + 32 };
    static float   weights[MOST * C * 9], map[BLOCKS * 7 * 18 * 16];
    static int16_t packed[MOST * C * 9], ready[4 * 4 * MAILP_COLUMN], v[6 * BLOCKS * 7 * 3 * 16];
    size_t         w, y, x, j, i, t, at, wrong, part;
    if (k->rows16_weights == NULL) {
        return;
    }
    for (w = 1; w <= 9; w++) {
        const size_t     tiles = (w + 3) / 4, row = (4 * tiles + 2) * 16, floats = (H + 2) * row, plane = BLOCKS * (H + 2) * tiles * 16;
        const size_t     m_plane = MAILP_M_PLANE(k->conv_group), c_out = 16 * (k->conv_group + (k->conv_group > 1 ? 2 : 0));
        float            scale[MOST], x_scale[BLOCKS];
        mailp_conv_shape shape;
        memset(&shape, 0, sizeof shape);
        shape.width      = H * tiles;
        shape.pixel_step = 16;
        shape.plane      = (H + 2) * tiles * 16;
        shape.depth      = 16;
        shape.n_blocks   = BLOCKS;
        shape.n_taps     = 3;
        for (t = 0; t < 3; t++) {
            shape.tap[t] = t * tiles * 16;
        }
        for (i = 0; i < c_out * C * 9; i++) {
            weights[i] = i < C * 9 ? 0.5f : (float)(2 * test_uniform() - 1);
        }
        memset(map, 0, sizeof map);
        for (at = 0; at < BLOCKS; at++) {
            for (y = 0; y < H; y++) {
                fill(map + at * floats + (y + 1) * row + 16, w * 16, w % 2 ? 2.5 : 0, 2.5 * (double)(at + 1));
            }
        }
        mailp_conv_pack(packed, scale, weights, c_out, C, 9, k->conv_group, MAILP_ROWS16, MAIL_WEIGHTS_BF16, 0);
        for (at = 0; at < BLOCKS; at++) {
            k->rows16_in(v + at * shape.plane, &x_scale[at], plane, map + at * floats, floats, row, H, tiles);
        }
        for (part = 0; 16 * k->conv_group * part < c_out; part++) {
            const size_t   first = part * k->conv_group, group = MAILP_MIN(c_out / 16 - first, k->conv_group), column = MAILP_COLUMN * group;
            const size_t   begin = first + part, panels = part ? 1 : group;  /* of the second group, its second panel */
            const int16_t *from = packed + first * C * 9 * 16;
            for (at = 0; at < BLOCKS; at++, from += 3 * column) {
                k->rows16_weights(ready, from, group, (uintptr_t)from, 0);
                for (i = 0; i < 6; i++) {
                    const int16_t *u = (i == 0 ? from : i == 5 ? from + 2 * column : ready + (i - 1) * column) + part * 32;
                    k->conv_low[MAIL_WEIGHTS_BF16](f + i * m_plane, H * tiles * 16, (const unsigned char *)(v + i * plane), x_scale,
                                                   (const unsigned char *)u, scale + 16 * begin, NULL, group, &shape, at, at + 1, H * tiles,
                                                   panels, (uintptr_t)u, 0);
                }
            }
            for (j = 0; j < 16 * panels; j++) {
                const size_t o = 16 * begin + j;
                if (j % 16 == 0) {
                    fill(out, H * w * 16 + 16, 100, 200);
                    memcpy(out2, out, sizeof out);
                    k->rows16_out(out, f + j * H * tiles, H, w, tiles);
                }
                wrong = memcmp(out + H * w * 16, out2 + H * w * 16, 16 * sizeof(float)) != 0;  /* nothing beyond */
                for (i = 0; i < H * w; i++) {
                    double sum = 0, size = 0;
                    y = i / w;
                    x = i % w;
                    for (at = 0; at < C; at++) {
                        for (t = 0; t < 9; t++) {
                            const float  pixel = map[at / 16 * floats + (y + t / 3) * row + (x + t % 3) * 16 + at % 16];
                            const double q = floor((double)pixel / (double)x_scale[at / 16] + 0.5);
                            const double g = floor((double)(weights[(o * C + at) * 9 + t] / scale[o]) + 0.5);
                            sum  += q * g * (double)x_scale[at / 16] * (double)scale[o];
                            size += fabs(q * g * (double)x_scale[at / 16] * (double)scale[o]);
                        }
                    }
                    /* roundings to float32 of planes that are a few times as large; and a half may go either way for an activation or two */
                    wrong += !(fabs((double)out[i * 16 + j % 16] - sum) <= size * 4e-6 + 2.0 * (double)x_scale[1]);
                }
                CHECK_MSG(wrong == 0, "%s: rows in 16 bits, %lu pixels wide, output %lu: %lu values are not those of a direct convolution", k->name,
                          (unsigned long)w, (unsigned long)o, (unsigned long)wrong);
            }
        }
    }
}

/* the operands of 8 and 16 bits where the processor has their products; in channels 0 and 1 all weights are as large as can be */
static void test_conv_low(const mailp_kernels *k) {
    static const size_t  heights[] = { 1, 1, 2, 1, 3, LOW_PIXELS }, widths[] = { 1, 5, 3, 7, 4, 1 };
    static float         map[LOW_BLOCKS * LOW_PLANE];
    static unsigned char q[2 * LOW_BLOCKS * LOW_PLANE];
    static int           x[LOW_BLOCKS * LOW_PLANE], w[LOW_BLOCKS * LOW_TAPS * 16 * LOW_LANES];
    size_t               i, size, t;
    int                  type;
    for (type = MAIL_WEIGHTS_BF16; type <= MAIL_WEIGHTS_INT8; type++) {
        const int sixteen = type == MAIL_WEIGHTS_BF16;
        int       most = MAILP_S16_MOST;
        if (!mailp_cpu_low(k, (mail_weights)type)) {
            continue;
        }
        if (type == MAIL_WEIGHTS_INT8) {
            float scale[1];
            fill(map, 16, 3, 3);
            k->lower[type](q, scale, map, 16);
            most = q[15];
            CHECK(most == 127 || most == 255);
        }
        for (size = 0; size < 2 * sizeof heights / sizeof *heights; size++) {
            const size_t     h = heights[size / 2], width = widths[size / 2], step = 1 + size % 2;
            mailp_conv_shape shape;
            float            x_scale[LOW_BLOCKS] = { 1.0f, 0.5f };
            memset(&shape, 0, sizeof shape);
            shape.width      = width;
            shape.pixel_step = step * 16;
            shape.row_step   = step * 16 * 16;
            shape.plane      = LOW_PLANE;
            shape.depth      = 16;
            shape.n_blocks   = LOW_BLOCKS;
            shape.n_taps     = size % 3 == 0 ? 1 : LOW_TAPS;
            for (t = 0; t < LOW_TAPS; t++) {
                shape.tap[t] = (t / 3 * 16 + t % 3) * 16;
            }
            for (i = 0; i < sizeof x / sizeof *x; i++) {
                x[i]   = i % 4 < 2 ? most : (int)((most + 1) * test_uniform());
                map[i] = (float)x[i] * x_scale[i / LOW_PLANE];
            }
            for (i = 0; i < sizeof w / sizeof *w; i++) {
                w[i] = i % LOW_LANES == 0 ? 127 : i % LOW_LANES == 1 ? -127 : (int)(255 * test_uniform()) - 127;
                if (sixteen) {
                    w[i] = w[i] * 14 + w[i] / 3;  /* 127 becomes 1820, and 144 * 8191 * 1820 are 2^31 - 786368 */
                }
            }
            if (type == MAIL_WEIGHTS_INT8 && k->low_sum > 0) {
                conv_low_meet(w, k->low_sum);
            }
            for (i = 0; i < LOW_BLOCKS; i++) {
                const float as_made = x_scale[i];
                k->lower[type](q + i * LOW_PLANE * (type == MAIL_WEIGHTS_INT8 ? 1 : 2), &x_scale[i], map + i * LOW_PLANE, LOW_PLANE);
                CHECK(x_scale[i] == as_made);
            }
            conv_low_agrees(k, type, x, q, x_scale, w, &shape, h * width);
        }
        if (sixteen || k->stem_most > 0) {  /* a picture's rows of 7 pixels, all of their 8 bits in use */
            const float      one = 1.0f;
            const int        largest = sixteen ? 32767 : k->stem_most;
            mailp_conv_shape shape;
            memset(&shape, 0, sizeof shape);
            shape.width      = 4;
            shape.pixel_step = 6;
            shape.row_step   = 60;
            shape.depth      = mailp_stem_depth((mail_weights)type);
            shape.n_blocks   = 1;
            shape.n_taps     = 7;
            for (t = 0; t < 7; t++) {
                shape.tap[t] = t * 30;
            }
            for (i = 0; i < 600; i++) {
                const uint16_t wide = (uint16_t)(i % 4 < 2 ? 255 : (int)(256 * test_uniform()));
                x[i] = wide;
                if (sixteen) {
                    memcpy(q + 2 * i, &wide, 2);
                } else {
                    q[i] = (unsigned char)x[i];
                }
            }
            for (i = 0; i < 7 * 24 * LOW_LANES; i++) {
                w[i] = i % LOW_LANES == 0 ? largest : i % LOW_LANES == 1 ? -largest : (int)((2 * largest + 1) * test_uniform()) - largest;
            }
            conv_low_agrees(k, type, x, q, &one, w, &shape, 12);
        }
    }
}

/* GroupNorm against double: maps around zero, far from it, and nearly constant but for a few pixels at the start; out over in. And the
   stem's, three rows at a time, of which the largest is taken, whatever gamma's sign and where the window is cut off; with the moments of the
   whole map it has the bits of the largest of group_norm's values. */
static void test_group_norm(const mailp_kernels *k) {
    static const size_t sizes[][2] = { { 1, 1 }, { 1, 2 }, { 3, 5 }, { 8, 8 }, { 9, 17 }, { 31, 40 } };
    size_t s, i, y, x, j, r, t, differ = 0;
    int    kind;
    for (s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        const size_t h = sizes[s][0], w = sizes[s][1], n = h * w * 16, ph = (h + 1) / 2, pw = (w + 1) / 2, row = (pw + 1) * 16;
        for (kind = 0; kind < 3; kind++) {
            const double  allowed = kind == 1 ? 1e-4 : 4e-6;
            double        mean = 0, var = 0;
            mailp_moments moments = { 0, 0, 0 }, whole = { 0, 0, 0 };
            fill(c, 16, -1, 1);
            fill(d, 16, -1, 1);
            fill(a, n, kind == 1 ? 99 : -1, kind == 1 ? 101 : 1);
            for (i = 0; kind == 2 && i < n; i++) {
                a[i] = i < 48 ? 100.0f : 1e-3f * a[i];
            }
            for (i = 0; i < n; i++) {
                mean += (double)a[i] / (double)n;
            }
            for (i = 0; i < n; i++) {
                var += ((double)a[i] - mean) * ((double)a[i] - mean) / (double)n;
            }
            for (i = 0; i < n; i++) {
                ref[i] = ((double)a[i] - mean) / sqrt(var + 1e-5) * (double)c[i % 16] + (double)d[i % 16];
            }
            memcpy(b, a, n * sizeof *a);
            k->group_norm(b, w * 16, b, NULL, c, d, h, w, 0);
            /* near 100, where floats are 8e-6 apart, a run's 1024 values add up to sums of 26,000 (scalar), of which a rounding is 1e-3 and
               1000 of either sign are 3e-2: 3e-5 of the mean, and twice that when it is divided by a deviation of 1/2 */
            test_close(k->name, b, ref, n, allowed);
            fill(out, ph * row, -1, 1);
            for (i = 0; i < ph * row; i++) {
                pooled[i] = (double)out[i];
            }
            for (y = 0; y < ph; y++) {
                for (x = 0; x < pw; x++) {
                    for (j = 0; j < 16; j++) {
                        double most = 0;
                        for (r = y > 0 ? 2 * y - 1 : 0; r <= 2 * y + 1 && r < h; r++) {
                            for (t = x > 0 ? 2 * x - 1 : 0; t <= 2 * x + 1 && t < w; t++) {
                                most = ref[(r * w + t) * 16 + j] > most ? ref[(r * w + t) * 16 + j] : most;
                            }
                        }
                        pooled[y * row + x * 16 + j] = most;
                    }
                }
            }
            for (y = 0; y < h; y += 3) {
                const size_t rows = h - y < 3 ? h - y : 3;
                memcpy(b + y % MAILP_STEM_RING * w * 16, a + y * w * 16, rows * w * 16 * sizeof *a);
                mailp_stem_pool(out, row, &moments, k, b, c, y, y + rows, h, w);
            }
            memcpy(out2, out, ph * row * sizeof *out);
            k->pool_norm(out, row, &moments, c, d, ph, pw);
            test_close(k->name, out, pooled, ph * row, allowed);
            k->moments(&whole, a, n);
            k->pool_norm(out2, row, &whole, c, d, ph, pw);
            k->group_norm(b, w * 16, a, NULL, c, d, h, w, 1);
            for (y = 0; y < ph; y++) {
                for (x = 0; x < pw * 16; x++) {
                    float most = 0;
                    for (r = y > 0 ? 2 * y - 1 : 0; r <= 2 * y + 1 && r < h; r++) {
                        for (t = x / 16 > 0 ? x / 16 * 2 - 1 : 0; t <= x / 16 * 2 + 1 && t < w; t++) {
                            most = b[(r * w + t) * 16 + x % 16] > most ? b[(r * w + t) * 16 + x % 16] : most;
                        }
                    }
                    /* where floats are computed with more bits than they have, the two round at different places */
                    differ += !(fabsf(out2[y * row + x] - most) <= (FLT_EVAL_METHOD == 0 ? 0.0f : 1e-5f));
                }
            }
            CHECK_MSG(differ == 0, "%s: of the maxima of %lu x %lu %lu differ from group_norm's", k->name, (unsigned long)h, (unsigned long)w,
                      (unsigned long)differ);
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
        k->scan(out, E, NULL, NULL, a, E, b, E, c, d, d + n, 2 * n, e, f, E, L, n, panels, 0, 0);
        test_close("scan", out, ref, L * E, 5e-6);
        {
            float *state = out2 + L * E;
            k->scan(out2, E, state, NULL, a, E, b, E, c, d, d + n, 2 * n, e, f, E, 4, n, panels, 0, 0);
            k->scan(out2 + 4 * E, E, state, state, a + 4 * E, E, b + 4 * E, E, c, d + 8 * n, d + 9 * n, 2 * n, e, f + 4 * E, E, L - 4, n, panels, 0, 0);
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
            const size_t dim = dims[t], nq = t == 1 ? 1 : t == 2 ? 12 : 5, nk = 12, ld = 40;
            float scores[16 * (12 + 32)];
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
        test_gemm_low(k);
        test_conv_low(k);
        test_stem(k);
        test_winograd_rows4(k, 1);
        test_winograd_rows4(k, 2);
        test_winograd_rows4(k, 4);
        test_winograd_products(k);
        test_winograd_rows(k);
        test_winograd_squares(k);
        test_winograd_quad(k);
        test_rows16(k);
        test_group_norm(k);
        test_layer_norm(k);
        test_elementwise(k);
        test_sequences(k);
        test_attend(k);
    }
    test_conv_pack();
    test_conv_pack16();
    CHECK(mailp_kernels_choose("mmx") == NULL);
#ifdef MAILP_X86
    if (mailp_kernels_choose("avx2") != NULL) {
        int avx2, avx512, vnni, vnni512;
        mailp_cpu(&avx2, &avx512, &vnni, &vnni512);
#ifdef MAILP_HAS_AVX_VNNI
        CHECK(mailp_kernels_choose("avx2") == (vnni ? &mailp_kernels_vnni_avx2 : &mailp_kernels_avx2));
        if (vnni) {
            test_conv_low(&mailp_kernels_avx2);  /* not chosen, but as right as elsewhere */
            test_gemm_low(&mailp_kernels_avx2);
            test_rows16(&mailp_kernels_avx2);
        } else {
            printf("avx2 with AVX-VNNI: not on this machine\n");
            test_skipped++;
        }
#endif
#ifndef MAILP_NO_VNNI
        CHECK(mailp_kernels_choose("avx512") == (vnni512 ? &mailp_kernels_vnni_avx512 : avx512 ? &mailp_kernels_avx512 : NULL));
#endif
    }
#endif
    return test_end("test_kernels");
}
