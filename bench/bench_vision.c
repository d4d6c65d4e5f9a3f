/* Time of the camera networks: medians per layer and in total, on every instruction set of this machine.

       cc -O2 -I. bench/bench_vision.c -lm -o bench_vision && ./bench_vision [--runs N] [--isa NAME] [--weights f32|bf16|int8]
                                                                                      [--layers] [--cpu]

   W1 is a pair of cameras of 128 x 128, W1b one of 128 x 256 and one of 256 x 256, each with its own weights of width 64. The
   two are encoded in turn, so the weights of one push those of the other out of the cache as they do in use. Rates count
   the multiply-adds of a direct convolution (2 floating-point operations each), whatever was really done. Then pictures of
   every format, brought to 128 x 128. */
#define _POSIX_C_SOURCE 200112L
#define MAIL_IMPLEMENTATION
#include "mail.h"
#include "../tests/test.h"
#include "../tests/vision_net.h"
#include <time.h>

static int cpu_time;  /* 1: time of the process, which leaves out what other processes take; 0: of the clock on the wall */

static double now(void *user) {
    struct timespec t;
    (void)user;
    clock_gettime(cpu_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define LAYERS   22
#define MAX_RUNS 1000

static double layer_time[2][LAYERS][MAX_RUNS];
static size_t run_at, camera_at;

static void add(void *user, const char *part, size_t layer, double seconds) {
    (void)user;
    (void)part;
    layer_time[camera_at][layer][run_at] = seconds;
}

static int less(const void *a, const void *b) {
    return *(const double *)a < *(const double *)b ? -1 : *(const double *)a > *(const double *)b;
}

static double median(double *v, size_t n) {
    qsort(v, n, sizeof *v, less);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* ---- the machine's rate of multiply-adds ------------------------------------------------------------------------------ */

#if defined(MAILP_X86)
#define SUMS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define PEAK(name, attr, type, set, fma, width)                                                   \
    __attribute__((target(attr))) static double name(size_t n, float *out) {                      \
        type   a = set(0.999f), b = set(0.001f);                                                  \
        size_t i;                                                                                 \
        SUMS(SUM_INIT_##width)                                                                    \
        for (i = 0; i < n; i++) {                                                                 \
            SUMS(SUM_STEP_##width)                                                                \
        }                                                                                         \
        SUMS(SUM_OUT_##width)                                                                     \
        return 2.0 * 12 * width * (double)n;                                                      \
    }
#define SUM_INIT_16(i) __m512 s##i = _mm512_set1_ps((float)i);
#define SUM_STEP_16(i) s##i = _mm512_fmadd_ps(s##i, a, b); __asm__ volatile("" : "+v"(s##i));
#define SUM_OUT_16(i)  *out += _mm512_cvtss_f32(s##i);
#define SUM_INIT_8(i)  __m256 s##i = _mm256_set1_ps((float)i);
#define SUM_STEP_8(i)  s##i = _mm256_fmadd_ps(s##i, a, b); __asm__ volatile("" : "+x"(s##i));
#define SUM_OUT_8(i)   *out += _mm256_cvtss_f32(s##i);
PEAK(peak_avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps, 16)
PEAK(peak_avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps, 8)
#endif

/* Giga floating-point operations a second; 0 where it is not measured */
static double peak(const char *isa) {
    double rate[21];
    size_t i;
    float  out = 0;
    for (i = 0; i < 21; i++) {
        double t = now(NULL), work = 0;
#if defined(MAILP_X86)
        work = strcmp(isa, "avx512") == 0 ? peak_avx512(200000, &out) : strcmp(isa, "avx2") == 0 ? peak_avx2(200000, &out) : 0;
#else
        (void)isa;
#endif
        rate[i] = work / (now(NULL) - t) * 1e-9;
    }
    return median(rate, 21) + (double)out * 1e-30;
}

/* ---- encodings -------------------------------------------------------------------------------------------------------- */

static double conv_work(const mailp_conv *c) {
    if (c->tile == MAILP_STEM) {
        return 2.0 * 147.0 * (double)(c->c_out * c->h_out * c->w_out);
    }
    if (c->tile != 0) {
        return 2.0 * 9.0 * (double)c->c_in * (double)(c->c_out * c->h_out * c->w_out);
    }
    return 2.0 * (double)(c->shape.n_taps * c->shape.n_blocks * c->shape.depth) * (double)(c->c_out * c->h_out * c->w_out);
}

static void bench_pair(const char *name, const char *isa, mail_weights weights, size_t runs, int layers, const size_t sizes[2][2]) {
    static double total[MAX_RUNS];
    mail_encoder *encoder[2];
    unsigned char *pixels[2];
    void          *scratch[2], *raw[2];
    mail_image     image[2];
    mail_profile   profile;
    mail_options   options;
    mail_error     err;
    float          features[128];
    double         work[LAYERS], rate = peak(isa), all = 0;
    size_t         c, i, j;
    memset(&options, 0, sizeof options);
    memset(work, 0, sizeof work);
    options.isa     = isa;
    options.weights = weights;
    profile.user = NULL;
    profile.now  = now;
    profile.add  = add;
    for (c = 0; c < 2; c++) {
        network       net;
        mail_tensors *tensors;
        network_make(&net, sizes[c][0], sizes[c][1], 64, 32, 128);
        if (mail_tensors_open_memory(&tensors, net.file, net.size, NULL, &err) != MAIL_OK ||
            mail_encoder_create(&encoder[c], tensors, PREFIX, sizes[c][1], sizes[c][0], &options, &err) != MAIL_OK) {
            printf("%-6s %-7s %s\n", name, isa, err.text);
            exit(err.code != MAIL_E_UNSUPPORTED);
        }
        mail_tensors_close(tensors);
        network_free(&net);
        pixels[c] = (unsigned char *)malloc(sizes[c][0] * sizes[c][1] * 3);
        for (i = 0; i < sizes[c][0] * sizes[c][1] * 3; i++) {
            pixels[c][i] = (unsigned char)(256 * test_uniform());
        }
        raw[c]     = malloc(mail_encoder_scratch(encoder[c], 1) + 64);
        scratch[c] = (unsigned char *)raw[c] + (64 - (uintptr_t)raw[c] % 64);
        memset(&image[c], 0, sizeof image[c]);
        image[c].data   = pixels[c];
        image[c].width  = sizes[c][1];
        image[c].height = sizes[c][0];
    }
    for (run_at = 0; run_at < runs + 2; run_at++) {  /* two to warm up */
        size_t at = run_at < 2 ? 0 : run_at - 2;
        double t  = now(NULL);
        size_t keep = run_at;
        run_at = at;
        for (c = 0; c < 2; c++) {
            mailp_resnet_work one;
            one.net       = &encoder[c]->net;
            one.image     = &image[c];
            one.features  = features;
            one.keypoints = NULL;
            one.scratch   = scratch[c];
            camera_at     = c;
            mailp_resnet_encode(&one, 1, encoder[c]->kernels, NULL, &profile);
        }
        total[at] = now(NULL) - t;
        run_at = keep;
    }
    for (c = 0; c < 2; c++) {
        const mailp_resnet *net = &encoder[c]->net;
        j = 1;
        work[j++] += conv_work(&net->stem);
        for (i = 0; i < 8; i++) {
            work[j++] += conv_work(&net->block[i].conv1);
            if (net->block[i].has_downsample) {
                work[j++] += conv_work(&net->block[i].downsample);
            }
            work[j++] += conv_work(&net->block[i].conv2);
        }
        work[j] += conv_work(&net->keypoint_conv);
    }
    for (j = 0; j < LAYERS; j++) {
        all += work[j];
    }
    {
        double m = median(total, runs);
        printf("%-6s %-7s median %8.3f ms  fastest %8.3f ms  %7.1f GFLOP/s  (peak %.1f, share %.0f %%)  weights %.1f MB\n", name, isa,
               1e3 * m, 1e3 * total[0], all / m * 1e-9, rate, rate > 0 ? 100 * all / m * 1e-9 / rate : 0.0,
               (double)(mail_encoder_get_info(encoder[0])->weight_bytes + mail_encoder_get_info(encoder[1])->weight_bytes) * 1e-6);
    }
    for (j = 0; layers && j < LAYERS; j++) {
        double m0 = median(layer_time[0][j], runs), m1 = median(layer_time[1][j], runs);
        printf("    layer %2d  %8.1f + %8.1f us  %7.1f GFLOP/s  fastest %8.1f + %8.1f us\n", (int)j, 1e6 * m0, 1e6 * m1,
               work[j] / (m0 + m1) * 1e-9, 1e6 * layer_time[0][j][0], 1e6 * layer_time[1][j][0]);
    }
    for (c = 0; c < 2; c++) {
        mail_encoder_free(encoder[c]);
        free(pixels[c]);
        free(raw[c]);
    }
}

/* A picture brought to a network's size, on one thread. */
static void bench_pictures(const char *isa, size_t runs) {
    static const char *const formats[] = { "rgb8", "bgr8", "rgba8", "bgra8", "gray8", "yuyv", "nv12", "float" };
    static const size_t      sizes[][2] = { { 640, 480 }, { 1280, 720 } };
    static float             table[3 * 256], row[3 * 128];
    static double            total[MAX_RUNS], columns[3 * MAILP_COLUMNS], sums[3 * 128];
    static unsigned char     rgb[3 * MAILP_COLUMNS];
    float                   *pixels = (float *)calloc(3 * 1280 * 720, sizeof(float));  /* black is a picture of every format */
    const mailp_image_tools  tools = { mailp_kernels_choose(isa), table, rgb, columns, sums };
    size_t                   f, i, at, y;
    for (f = 0; pixels != NULL && f < MAIL_FORMAT_COUNT; f++) {
        for (i = 0; i < 2; i++) {
            mail_image image;
            double     middle;
            memset(&image, 0, sizeof image);
            image.data   = pixels;
            image.width  = sizes[i][0];
            image.height = sizes[i][1];
            image.format = (mail_format)f;
            for (at = 0; at < runs; at++) {
                const double t = now(NULL);
                (void)mailp_image_check(&image, NULL);
                for (y = 0; y < 128; y++) {
                    mailp_image_prepare(row, row + 3, 6, &image, y, 128, 128, &tools);
                }
                total[at] = now(NULL) - t;
            }
            middle = median(total, runs);
            printf("picture %-6s %-5s %4d x %d to 128 x 128  median %7.3f ms  fastest %7.3f ms\n", isa, formats[f], (int)image.width, (int)image.height,
                   1e3 * middle, 1e3 * total[0]);
        }
    }
    free(pixels);
}

int main(int argc, char **argv) {
    static const char *const isas[] = { "avx512", "avx2", "neon", "scalar" };
    static const size_t      w1[2][2] = { { 128, 128 }, { 128, 128 } }, w1b[2][2] = { { 128, 256 }, { 256, 256 } };
    size_t                   runs = 21, i;
    const char              *isa = NULL;
    mail_weights             weights = MAIL_WEIGHTS_F32;
    int                      layers = 0, a;
    (void)get, (void)test_end;  /* of the tests' headers, not needed here */
    for (a = 1; a < argc; a++) {
        if (strcmp(argv[a], "--runs") == 0 && a + 1 < argc) {
            runs = (size_t)atoi(argv[++a]);
            runs = runs < 1 ? 1 : runs > MAX_RUNS ? MAX_RUNS : runs;
        } else if (strcmp(argv[a], "--isa") == 0 && a + 1 < argc) {
            isa = argv[++a];
        } else if (strcmp(argv[a], "--weights") == 0 && a + 1 < argc) {
            a++;
            weights = strcmp(argv[a], "bf16") == 0 ? MAIL_WEIGHTS_BF16 : strcmp(argv[a], "int8") == 0 ? MAIL_WEIGHTS_INT8 : MAIL_WEIGHTS_F32;
        } else if (strcmp(argv[a], "--layers") == 0) {
            layers = 1;
        } else if (strcmp(argv[a], "--cpu") == 0) {
            cpu_time = 1;
        } else {
            printf("usage: bench_vision [--runs N] [--isa NAME] [--weights f32|bf16|int8] [--layers] [--cpu]\n");
            return 2;
        }
    }
    for (i = 0; i < sizeof isas / sizeof isas[0]; i++) {
        if ((isa != NULL && strcmp(isa, isas[i]) != 0) || mailp_kernels_choose(isas[i]) == NULL) {
            continue;
        }
        if (isa == NULL && strcmp(isas[i], "scalar") == 0) {
            runs = runs < 5 ? runs : 5;
        }
        bench_pair("W1", isas[i], weights, runs, layers, w1);
        bench_pair("W1b", isas[i], weights, runs, layers, w1b);
        bench_pictures(isas[i], runs);
    }
    return 0;
}
