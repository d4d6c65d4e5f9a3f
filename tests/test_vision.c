/* The camera network against the same network written as plain loops in double precision: every instruction set of this
   machine, odd sizes, two widths, one to five threads.    cc -O2 -I.. test_vision.c -lm */
#define MAIL_IMPLEMENTATION
#include "mail.h"
#include "test.h"
#include "vision_net.h"

/* ---- the reference: plain loops over [channel][row][column] in double -------------------------------------------------- */

typedef struct {
    size_t  c, h, w;
    double *v;
} map;

static map map_make(size_t c, size_t h, size_t w) {
    map m;
    m.c = c;
    m.h = h;
    m.w = w;
    m.v = (double *)calloc(c * h * w, sizeof(double));
    return m;
}

static map ref_conv(const map *in, const float *w, size_t c_out, size_t size, size_t stride, size_t pad) {
    map    out = map_make(c_out, (in->h + 2 * pad - size) / stride + 1, (in->w + 2 * pad - size) / stride + 1);
    size_t o, i, ky, kx, y, x;
    for (o = 0; o < c_out; o++) {
        for (i = 0; i < in->c; i++) {
            for (ky = 0; ky < size; ky++) {
                for (kx = 0; kx < size; kx++) {
                    double f = (double)w[((o * in->c + i) * size + ky) * size + kx];
                    for (y = 0; y < out.h; y++) {
                        size_t  yy = y * stride + ky;
                        double *to = out.v + (o * out.h + y) * out.w;
                        if (yy < pad || yy >= in->h + pad) {
                            continue;
                        }
                        for (x = 0; x < out.w; x++) {
                            size_t xx = x * stride + kx;
                            if (xx >= pad && xx < in->w + pad) {
                                to[x] += f * in->v[(i * in->h + yy - pad) * in->w + xx - pad];
                            }
                        }
                    }
                }
            }
        }
    }
    return out;
}

static void ref_norm(map *m, const float *gamma, const float *beta) {
    size_t g, i, n = 16 * m->h * m->w;
    for (g = 0; g < m->c / 16; g++) {
        double *v = m->v + g * n, mean = 0, var = 0;
        for (i = 0; i < n; i++) {
            mean += v[i] / (double)n;
        }
        for (i = 0; i < n; i++) {
            var += (v[i] - mean) * (v[i] - mean) / (double)n;
        }
        for (i = 0; i < n; i++) {
            size_t c = g * 16 + i / (m->h * m->w);
            v[i] = (v[i] - mean) / sqrt(var + 1e-5) * (double)gamma[c] + (double)beta[c];
        }
    }
}

static void ref_relu(map *m, const map *skip) {
    size_t i;
    for (i = 0; i < m->c * m->h * m->w; i++) {
        double v = m->v[i] + (skip != NULL ? skip->v[i] : 0);
        m->v[i] = v > 0 ? v : 0;
    }
}

static map ref_layer(const network *net, const map *in, const char *conv, const char *norm, size_t c_out, size_t size, size_t stride, size_t pad) {
    char         text[96];
    const float *w, *gamma, *beta;
    map          out;
    snprintf(text, sizeof text, "backbone.%s.weight", conv);
    w = get(net, text);
    snprintf(text, sizeof text, "backbone.%s.weight", norm);
    gamma = get(net, text);
    snprintf(text, sizeof text, "backbone.%s.bias", norm);
    beta = get(net, text);
    out = ref_conv(in, w, c_out, size, stride, pad);
    ref_norm(&out, gamma, beta);
    return out;
}

/* rgb [height][width][3] */
static void reference(const network *net, const unsigned char *rgb, double *features, double *keypoints) {
    static const double mean[3] = { 0.485, 0.456, 0.406 }, deviation[3] = { 0.229, 0.224, 0.225 };
    map                 x = map_make(3, net->height, net->width), t, pooled;
    size_t              i, j, k, y, c, n;
    char                conv[64], norm[64];
    const float        *w, *b;
    for (i = 0; i < net->height * net->width; i++) {
        for (c = 0; c < 3; c++) {
            x.v[c * net->height * net->width + i] = (rgb[3 * i + c] / 255.0 - mean[c]) / deviation[c];
        }
    }
    c = net->res_width;
    t = ref_layer(net, &x, "nets.0", "nets.1", c, 7, 2, 3);
    ref_relu(&t, NULL);
    pooled = map_make(c, (t.h + 1) / 2, (t.w + 1) / 2);
    for (i = 0; i < c; i++) {
        for (y = 0; y < t.h; y++) {
            for (k = 0; k < t.w; k++) {
                double v = t.v[(i * t.h + y) * t.w + k];
                for (j = 0; j < 9; j++) {  /* windows centred on even pixels */
                    size_t wy = y + j / 3, wx = k + j % 3;
                    if (wy > 0 && wx > 0 && (wy - 1) % 2 == 0 && (wx - 1) % 2 == 0 && wy - 1 < t.h && wx - 1 < t.w) {
                        double *to = &pooled.v[(i * pooled.h + (wy - 1) / 2) * pooled.w + (wx - 1) / 2];
                        *to = v > *to ? v : *to;
                    }
                }
            }
        }
    }
    free(x.v);
    free(t.v);
    x = pooled;
    for (i = 0; i < 4; i++) {
        for (j = 0; j < 2; j++) {
            size_t stride = i > 0 && j == 0 ? 2 : 1;
            map    a, skip = x;
            snprintf(conv, sizeof conv, "nets.%d.%d.conv1", (int)i + 4, (int)j);
            snprintf(norm, sizeof norm, "nets.%d.%d.bn1", (int)i + 4, (int)j);
            a = ref_layer(net, &x, conv, norm, c, 3, stride, 1);
            ref_relu(&a, NULL);
            snprintf(conv, sizeof conv, "nets.%d.%d.conv2", (int)i + 4, (int)j);
            snprintf(norm, sizeof norm, "nets.%d.%d.bn2", (int)i + 4, (int)j);
            t = ref_layer(net, &a, conv, norm, c, 3, 1, 1);
            if (stride == 2) {
                snprintf(conv, sizeof conv, "nets.%d.%d.downsample.0", (int)i + 4, (int)j);
                snprintf(norm, sizeof norm, "nets.%d.%d.downsample.1", (int)i + 4, (int)j);
                skip = ref_layer(net, &x, conv, norm, c, 1, 2, 0);
                free(x.v);
            }
            ref_relu(&t, &skip);
            free(skip.v);
            free(a.v);
            x = t;
        }
        c *= i < 3 ? 2 : 1;
    }
    w = get(net, "pool.nets.weight");
    t = ref_conv(&x, w, net->n_keypoints, 1, 1, 0);
    b = get(net, "pool.nets.bias");
    n = t.h * t.w;
    for (k = 0; k < net->n_keypoints; k++) {
        double most = -1e300, sum = 0, kx = 0, ky = 0, temperature = (double)get(net, "pool.temperature")[0];
        for (i = 0; i < n; i++) {
            double v = (t.v[k * n + i] + (double)b[k]) / temperature;
            t.v[k * n + i] = v;
            most = v > most ? v : most;
        }
        for (i = 0; i < n; i++) {
            double p = exp(t.v[k * n + i] - most);
            sum += p;
            kx += p * (t.w == 1 ? -1 : -1 + 2 * (double)(i % t.w) / (double)(t.w - 1));
            ky += p * (t.h == 1 ? -1 : -1 + 2 * (double)(i / t.w) / (double)(t.h - 1));
        }
        keypoints[2 * k]     = kx / sum;
        keypoints[2 * k + 1] = ky / sum;
    }
    w = get(net, "nets.3.weight");
    b = get(net, "nets.3.bias");
    for (i = 0; i < net->feature_dim; i++) {
        features[i] = (double)b[i];
        for (k = 0; k < 2 * net->n_keypoints; k++) {
            features[i] += (double)w[i * 2 * net->n_keypoints + k] * keypoints[k];
        }
    }
    free(t.v);
    free(x.v);
}

/* ---- tests ------------------------------------------------------------------------------------------------------------ */

/* tasks in reverse order on one thread: whatever depends on the order of tasks shows */
static void run_backwards(void *user, size_t n, mail_task task, void *arg) {
    (void)user;
    while (n-- > 0) {
        task(arg, n);
    }
}

static const char *const isas[] = { "scalar", "avx2", "avx512", "neon" };

enum { NOISE, GREY, BLACK, SMOOTH };

static void picture(unsigned char *rgb, size_t height, size_t width, int kind) {
    size_t i;
    for (i = 0; i < height * width * 3; i++) {
        size_t x = i / 3 % width, y = i / 3 / width;
        rgb[i] = kind == NOISE ? (unsigned char)(256 * test_uniform()) : kind == GREY ? 128 : kind == BLACK ? 0 :
                 (unsigned char)(127 + 60 * sin(0.13 * (double)x + (double)(i % 3)) + 60 * cos(0.09 * (double)y));
    }
}

/* Allowed difference from double precision. The library's float32 is held to the order of PyTorch's own: on such networks
   (random weights, features of order 1) that is a few times 1e-6; an error in the order or kind of any operation is
   thousands of times larger. */
#define TOLERANCE 1.5e-5

/* Weights of 16 and 8 bits: features of order 1 may differ by what rounding weights (and with int8, but for plain C, activations) does
   to them. Rounding to 8 bits of mantissa is 2^-9 a weight, to +-127 steps 2^-8 of the largest; over 20 layers errors found are
   up to 0.009 and 0.046 (0.023 where activations have all 8 bits) on these networks. A wrong scale, tap or channel gives errors of order 1. */
static const double weights_tolerance[] = { TOLERANCE, 0.02, 0.06 };
static const char *const weights_names[] = { "f32", "bf16", "int8" };

static void test_network(size_t height, size_t width, size_t res_width, size_t n_keypoints, size_t feature_dim, int kind) {
    network        net;
    mail_tensors  *tensors = NULL;
    mail_error     err;
    unsigned char *rgb = (unsigned char *)malloc(height * width * 3);
    double        *features = (double *)malloc(feature_dim * sizeof(double));
    double        *keypoints = (double *)malloc(2 * n_keypoints * sizeof(double));
    float         *f = (float *)malloc(feature_dim * sizeof(float)), *k = (float *)malloc(2 * n_keypoints * sizeof(float));
    float         *f1 = (float *)malloc(feature_dim * sizeof(float)), *k1 = (float *)malloc(2 * n_keypoints * sizeof(float));
    size_t         i, j, weights, bytes[3] = { 0, 0, 0 };
    mail_image     image;
    network_make(&net, height, width, res_width, n_keypoints, feature_dim);
    picture(rgb, height, width, kind);
    memset(&image, 0, sizeof image);
    image.data   = rgb;
    image.width  = width;
    image.height = height;
    reference(&net, rgb, features, keypoints);
    err.text[0] = 0;
    CHECK_MSG(mail_tensors_open_memory(&tensors, net.file, net.size, NULL, &err) == MAIL_OK, "%s", err.text);
    for (i = 0; i < 3 * sizeof isas / sizeof isas[0]; i++) {
        mail_encoder *encoder;
        const char   *isa = isas[i / 3];
        mail_options  options;
        mail_status   status;
        char          what[160];
        memset(&options, 0, sizeof options);
        weights         = i % 3;
        options.isa     = isa;
        options.weights = (mail_weights)weights;
        status = mail_encoder_create(&encoder, tensors, PREFIX, width, height, &options, &err);
        if (status == MAIL_E_UNSUPPORTED) {
            test_skipped++;
            continue;
        }
        CHECK_MSG(status == MAIL_OK, "%s", err.text);
        if (status != MAIL_OK) {
            continue;
        }
        CHECK(mail_encoder_get_info(encoder)->feature_dim == feature_dim);
        CHECK(mail_encoder_get_info(encoder)->n_keypoints == n_keypoints);
        CHECK(strcmp(mail_encoder_get_info(encoder)->isa, isa) == 0);
        CHECK((size_t)mail_encoder_get_info(encoder)->weights == weights);
        bytes[weights] = mail_encoder_get_info(encoder)->weight_bytes;
        CHECK(weights == 0 || res_width < 32 || 10 * bytes[weights] < 6 * bytes[weights - 1]);
        for (j = 0; j < 4; j++) {
            static const size_t threads[] = { 1, 2, 3, 5 };
            mail_parallel       parallel;
            size_t              size = mail_encoder_scratch(encoder, threads[j]), at;
            unsigned char      *raw = (unsigned char *)malloc(size + 128), *scratch = raw + (64 - (uintptr_t)raw % 64);
            int                 intact = 1;
            memset(raw, 0xff, size + 128);  /* NaN: nothing may rely on clean scratch */
            parallel.user      = NULL;
            parallel.run       = run_backwards;
            parallel.n_threads = threads[j];
            status = mail_encoder_encode(encoder, j ? f1 : f, j ? k1 : k, &image, scratch, size, j ? &parallel : NULL, &err);
            CHECK_MSG(status == MAIL_OK, "%s", err.text);
            for (at = 0; at < (size_t)(scratch - raw); at++) {
                intact = intact && raw[at] == 0xff;
            }
            for (at = (size_t)(scratch - raw) + size; at < size + 128; at++) {
                intact = intact && raw[at] == 0xff;
            }
            CHECK_MSG(intact, "bytes outside the scratch were written");
            if (j == 0) {
                double worst = 0;
                sprintf(what, "%s %s %lux%lu width %lu picture %d", isa, weights_names[weights], (unsigned long)height, (unsigned long)width,
                        (unsigned long)res_width, kind);
                test_close(what, k, keypoints, 2 * n_keypoints, weights_tolerance[weights]);
                test_close(what, f, features, feature_dim, weights_tolerance[weights]);
                for (at = 0; at < feature_dim; at++) {
                    double d = fabs((double)f[at] - features[at]);
                    worst = d > worst ? d : worst;
                }
                printf("%-50s largest error %.2e\n", what, worst);
            } else {
                CHECK_MSG(memcmp(f, f1, feature_dim * sizeof(float)) == 0 && memcmp(k, k1, 2 * n_keypoints * sizeof(float)) == 0,
                          "%lu threads give other bits than one", (unsigned long)threads[j]);
            }
            free(raw);
        }
        mail_encoder_free(encoder);
    }
    mail_tensors_close(tensors);
    network_free(&net);
    free(rgb);
    free(features);
    free(keypoints);
    free(f);
    free(k);
    free(f1);
    free(k1);
}

/* The same picture in other formats gives the same bits, whatever the weights. */
static void test_formats(void) {
    network        net;
    mail_tensors  *tensors = NULL;
    mail_error     err;
    unsigned char  rgb[40 * 33 * 3], bgr[40 * 33 * 3];
    static float   planes[3 * 40 * 33];
    size_t         i, j, c;
    network_make(&net, 40, 33, 16, 5, 24);
    picture(rgb, 40, 33, NOISE);
    for (i = 0; i < 40 * 33; i++) {
        for (c = 0; c < 3; c++) {
            bgr[((39 - i / 33) * 33 + i % 33) * 3 + 2 - c] = rgb[3 * i + c];
            planes[c * 40 * 33 + i] = (float)rgb[3 * i + c] / 255.0f;
        }
    }
    CHECK(mail_tensors_open_memory(&tensors, net.file, net.size, NULL, &err) == MAIL_OK);
    for (i = 0; i < 3; i++) {
        mail_encoder *encoder = NULL;
        mail_options  options;
        float         features[3][24];
        memset(&options, 0, sizeof options);
        options.weights = (mail_weights)i;
        CHECK(mail_encoder_create(&encoder, tensors, PREFIX, 33, 40, &options, &err) == MAIL_OK);
        for (j = 0; j < 3 && encoder != NULL; j++) {
            size_t         size = mail_encoder_scratch(encoder, 1);
            unsigned char *raw = (unsigned char *)malloc(size + 64);
            mail_image     image;
            memset(&image, 0, sizeof image);
            image.width  = 33;
            image.height = 40;
            image.format = j == 0 ? MAIL_RGB8 : j == 1 ? MAIL_BGR8 : MAIL_F32_PLANAR;
            image.flip   = j == 1;
            image.data   = j == 0 ? (const void *)rgb : j == 1 ? (const void *)bgr : (const void *)planes;
            CHECK(mail_encoder_encode(encoder, features[j], NULL, &image, raw + (64 - (uintptr_t)raw % 64) % 64, size, NULL, &err) == MAIL_OK);
            CHECK(memcmp(features[0], features[j], sizeof features[0]) == 0);
            free(raw);
        }
        mail_encoder_free(encoder);
    }
    mail_tensors_close(tensors);
    network_free(&net);
}

/* What create and encode must refuse. */
static void test_refused(void) {
    network       net;
    mail_tensors *tensors = NULL;
    mail_encoder *encoder = NULL;
    mail_error    err;
    mail_options  options;
    mail_parallel parallel;
    mail_image    image;
    unsigned char rgb[32 * 32 * 3];
    float         features[24];
    size_t        size;
    void         *raw;
    memset(&options, 0, sizeof options);
    network_make(&net, 32, 32, 16, 5, 24);
    CHECK(mail_tensors_open_memory(&tensors, net.file, net.size, NULL, &err) == MAIL_OK);
    CHECK(mail_encoder_create(&encoder, NULL, PREFIX, 32, 32, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_encoder_create(&encoder, tensors, "elsewhere.", 32, 32, NULL, &err) == MAIL_E_TENSOR && encoder == NULL);
    CHECK(mail_encoder_create(&encoder, tensors, PREFIX, 0, 32, NULL, &err) == MAIL_E_CONFIG && encoder == NULL);
    CHECK(mail_encoder_create(&encoder, tensors, PREFIX, 32, MAIL_MAX_IMAGE + 1, NULL, &err) == MAIL_E_CONFIG);
    CHECK(mail_encoder_create(&encoder, tensors, PREFIX, 64, 64, NULL, &err) == MAIL_E_CONFIG);  /* pos_x would be [1, 4] */
    CHECK_MSG(strstr(err.text, "pos_x is for 1 x 1") != NULL, "%s", err.text);
    options.isa = "no such set";
    CHECK(mail_encoder_create(&encoder, tensors, PREFIX, 32, 32, &options, &err) == MAIL_E_UNSUPPORTED);
    options.isa     = NULL;
    options.weights = (mail_weights)7;
    CHECK(mail_encoder_create(&encoder, tensors, PREFIX, 32, 32, &options, &err) == MAIL_E_ARGUMENT && strstr(err.text, "weights 7") != NULL);
    CHECK(mail_encoder_get_info(NULL) == NULL && mail_encoder_scratch(NULL, 1) == 0);
    CHECK(mail_encoder_create(&encoder, tensors, PREFIX, 32, 32, NULL, &err) == MAIL_OK);
    CHECK(mail_encoder_scratch(encoder, MAIL_MAX_THREADS + 1) == 0 && mail_encoder_scratch(encoder, 0) == 0);
    size = mail_encoder_scratch(encoder, 1);
    raw  = malloc(size + 64);
    memset(rgb, 7, sizeof rgb);
    memset(&image, 0, sizeof image);
    image.data  = rgb;
    image.width = image.height = 32;
    {
        unsigned char *scratch = (unsigned char *)raw + (64 - (uintptr_t)raw % 64) % 64;
        CHECK(mail_encoder_encode(encoder, features, NULL, &image, scratch, size, NULL, &err) == MAIL_OK);
        CHECK(mail_encoder_encode(encoder, features, NULL, &image, scratch, size - 1, NULL, &err) == MAIL_E_ARGUMENT);
        CHECK(mail_encoder_encode(encoder, features, NULL, &image, scratch + 4, size, NULL, &err) == MAIL_E_ARGUMENT);
        CHECK(mail_encoder_encode(encoder, NULL, NULL, &image, scratch, size, NULL, &err) == MAIL_E_ARGUMENT);
        memset(&parallel, 0, sizeof parallel);
        parallel.n_threads = 2;
        CHECK(mail_encoder_encode(encoder, features, NULL, &image, scratch, 2 * size, &parallel, &err) == MAIL_E_ARGUMENT);
        CHECK_MSG(strstr(err.text, "parallel.run is NULL") != NULL, "%s", err.text);
        image.data = NULL;
        CHECK(mail_encoder_encode(encoder, features, NULL, &image, scratch, size, NULL, &err) == MAIL_E_ARGUMENT);
    }
    free(raw);
    mail_encoder_free(encoder);
    mail_encoder_free(NULL);
    mail_tensors_close(tensors);
    network_free(&net);
}

/* The network's status if it is made from the file as it is now, on pictures of width x height. */
static mail_status made_from(network *net, const char *prefix, size_t width, size_t height, mail_error *err) {
    mail_tensors *tensors;
    mail_encoder *encoder;
    mail_status   status;
    network_pack(net);
    CHECK_MSG(mail_tensors_open_memory(&tensors, net->file, net->size, NULL, err) == MAIL_OK, "%s", err->text);
    status = mail_encoder_create(&encoder, tensors, prefix, width, height, NULL, err);
    CHECK((status == MAIL_OK) == (encoder != NULL));
    mail_encoder_free(encoder);
    mail_tensors_close(tensors);
    return status;
}

/* A copy of tensor i under another name, of the same values */
static void put_copy(network *net, size_t i, const char *name) {
    const weight *from = &net->w[i];
    float        *to   = put(net, "", from->n_dims, from->shape[0], from->shape[1], from->shape[2], from->shape[3], 0, 0);
    memcpy(to, from->v, from->count * sizeof(float));
    (void)snprintf(net->w[net->n - 1].name, sizeof net->w[0].name, "%s", name);
}

/* Width and height in the wrong order give a map of as many pixels. */
static void test_swapped(void) {
    network    net;
    mail_error err;
    network_make(&net, 96, 128, 16, 5, 24);
    CHECK(made_from(&net, PREFIX, 96, 128, &err) == MAIL_E_CONFIG);
    CHECK_MSG(strstr(err.text, "128 x 96 (height x width) give a map of 4 x 3") != NULL && strstr(err.text, "pos_x is for 3 x 4") != NULL, "%s", err.text);
    CHECK(made_from(&net, PREFIX, 384, 32, &err) == MAIL_E_CONFIG && made_from(&net, PREFIX, SIZE_MAX, SIZE_MAX, &err) == MAIL_E_CONFIG);
    CHECK_MSG(made_from(&net, PREFIX, 128, 96, &err) == MAIL_OK && made_from(&net, PREFIX, 97, 65, &err) == MAIL_OK, "%s", err.text);
    network_free(&net);
}

/* Tensors under the prefix that an encoder has no use for are refused by name, those elsewhere left alone; modules registered under two
   names are not surplus, whatever the prefix is. */
static void test_surplus(void) {
    static const char *const surplus[] = { PREFIX "backbone.nets.1.running_mean", PREFIX "backbone.nets.0.bias", PREFIX "x" };
    static const char *const prefixes[] = { PREFIX, "", "policy.backbone.pool.cam." };
    network                  net;
    mail_error               err;
    size_t                   i, j, n;
    network_make(&net, 32, 32, 16, 5, 24);
    for (i = 0; i < sizeof surplus / sizeof *surplus; i++) {
        put_copy(&net, 1, surplus[i]);
        CHECK(made_from(&net, PREFIX, 32, 32, &err) == MAIL_E_TENSOR);
        CHECK_MSG(strstr(err.text, surplus[i]) != NULL && strstr(err.text, "encoder") != NULL, "%s", err.text);
        free(net.w[--net.n].v);
    }
    put_copy(&net, 1, "obs_encoder.key_model_map.camera.backbone.nets.0.bias");
    CHECK_MSG(made_from(&net, PREFIX, 32, 32, &err) == MAIL_OK, "%s", err.text);
    CHECK(made_from(&net, "", 32, 32, &err) == MAIL_E_TENSOR);
    free(net.w[--net.n].v);
    n = net.n;
    for (j = 0; j < sizeof prefixes / sizeof *prefixes; j++) {
        for (i = 0; i < n; i++) {  /* all names begin with the prefix; then the same under the other names of backbone and pool */
            char suffix[128], name[256];
            (void)snprintf(suffix, sizeof suffix, "%s", net.w[i].name + (j == 0 ? strlen(PREFIX) : strlen(prefixes[j - 1])));
            (void)snprintf(net.w[i].name, sizeof net.w[0].name, "%s%s", prefixes[j], suffix);
            if (strncmp(suffix, "backbone.", 9) == 0 && strstr(suffix, "bn") == NULL) {
                (void)snprintf(name, sizeof name, "%snets.0.%s", prefixes[j], suffix + 9);
                put_copy(&net, i, name);
            } else if (strncmp(suffix, "pool.", 5) == 0) {
                (void)snprintf(name, sizeof name, "%snets.1.%s", prefixes[j], suffix + 5);
                put_copy(&net, i, name);
            }
        }
        CHECK(net.n > n + 20);
        CHECK_MSG(made_from(&net, prefixes[j], 32, 32, &err) == MAIL_OK, "prefix '%s': %s", prefixes[j], err.text);
        net.w[n].v[0] += 1;
        CHECK(made_from(&net, prefixes[j], 32, 32, &err) == MAIL_E_TENSOR && strstr(err.text, "differ") != NULL);
        while (net.n > n) {
            free(net.w[--net.n].v);
        }
    }
    network_free(&net);
}

int main(void) {
    test_network(33, 31, 16, 5, 24, NOISE);
    test_network(32, 32, 16, 32, 128, SMOOTH);
    test_network(50, 70, 16, 32, 128, SMOOTH);
    test_network(1, 1, 16, 3, 1, NOISE);
    test_network(7, 200, 32, 17, 33, NOISE);
    test_network(8, 530, 16, 5, 24, SMOOTH);  /* maps of two rows, with more tiles of one row than there is room for */
    test_network(96, 96, 16, 16, 64, GREY);
    test_network(96, 96, 16, 16, 64, BLACK);
    test_network(50, 70, 64, 32, 128, NOISE);
    test_network(128, 128, 64, 32, 128, SMOOTH);
    test_network(128, 256, 16, 32, 128, NOISE);
    test_formats();
    test_refused();
    test_surplus();
    test_swapped();
    return test_end("vision");
}
