/* The building blocks for sequences, mail_selective_scan and mail_mamba_block, against plain loops in double, on every instruction
   set of the machine. (The encoder and the tensor reader have tests of their own.) */
#define MAIL_IMPLEMENTATION
#define MAIL_THREADS
#include "../mail.h"
#include "test.h"

#define MAX_L 70
#define MAX_E 48
#define MAX_N 24

static const char *const isas[] = { "scalar", "avx2", "avx512", "neon" };
static mail_pool        *pool[4];  /* of 2, 3, 5 and 8 threads */
static const size_t      pool_threads[4] = { 2, 3, 5, 8 };

static size_t most_tasks;
static int    too_many;

/* The caller's threads, looked over: no more tasks at a time than it said it has threads. */
static void counting_run(void *user, size_t n, mail_task task, void *arg) {
    size_t i;
    too_many = too_many || n > most_tasks;
    for (i = n; i-- > 0;) {  /* the order is the caller's as well */
        task(arg, i);
    }
    (void)user;
}

static void fill(float *x, size_t n, double lo, double hi) {
    size_t i;
    for (i = 0; i < n; i++) {
        x[i] = (float)(lo + (hi - lo) * test_uniform());
    }
}

static void *scratch(size_t bytes) {
    static unsigned char *memory;
    static size_t         size;
    if (bytes + 128 > size) {
        free(memory);
        size = bytes + 128;
        memory = (unsigned char *)malloc(size);
        if (memory == NULL) {
            exit(2);
        }
    }
    memset(memory, 0x7f, size);  /* floats of 3.4e38: what is read before it is written shows */
    memset(memory + 64 - (uintptr_t)memory % 64 + bytes, 0x5a, 64);
    return memory + 64 - (uintptr_t)memory % 64;
}

/* 1 if the bytes behind the last scratch are as they were */
static int scratch_intact(const void *memory, size_t bytes) {
    const unsigned char *at = (const unsigned char *)memory + bytes;
    size_t               i;
    for (i = 0; i < 64; i++) {
        if (at[i] != 0x5a) {
            return 0;
        }
    }
    return 1;
}

static float  x[MAX_L * MAX_E], dt[MAX_L * MAX_E], z[MAX_L * MAX_E], y[MAX_L * MAX_E], y2[MAX_L * MAX_E], A[MAX_E * MAX_N];
static float  B[MAX_L * MAX_N], C[MAX_L * MAX_N], D[MAX_E], state[MAX_E * MAX_N], state0[MAX_E * MAX_N], state2[MAX_E * MAX_N];
static double want[MAX_L * MAX_E], want_state[MAX_E * MAX_N];

static void plain_scan(size_t L, size_t E, size_t N, int with_D, int with_z) {
    size_t l, e, s;
    for (e = 0; e < E * N; e++) {
        want_state[e] = (double)state0[e];
    }
    for (l = 0; l < L; l++) {
        for (e = 0; e < E; e++) {
            const double d = (double)dt[l * E + e], v = (double)x[l * E + e], gate = (double)z[l * E + e];
            double       sum = with_D ? (double)D[e] * v : 0;
            for (s = 0; s < N; s++) {
                double *h = &want_state[e * N + s];
                *h = exp(d * (double)A[e * N + s]) * *h + d * (double)B[l * N + s] * v;
                sum += (double)C[l * N + s] * *h;
            }
            want[l * E + e] = with_z ? sum * gate / (1 + exp(-gate)) : sum;
        }
    }
}

static void test_scan(const char *isa, size_t L, size_t E, size_t N, int with_D, int with_z) {
    mail_error err;
    size_t     chunks, i, bytes;
    void      *memory;
    double     tol;
    char       what[120];
    fill(x, L * E, -1, 1);
    fill(dt, L * E, 0.001, 0.5);
    fill(z, L * E, -3, 3);
    fill(A, E * N, -4, -0.05);
    fill(B, L * N, -1, 1);
    fill(C, L * N, -1, 1);
    fill(D, E, -1, 1);
    fill(state0, E * N, -1, 1);
    plain_scan(L, E, N, with_D, with_z);
    /* Each token adds N terms of size <= 2 with a few roundings each; a state's own error is carried on and decays. */
    tol = 1.2e-7 * (8.0 + 2.0 * (double)N);
    for (chunks = 0; chunks <= 7; chunks++) {
        const float *d = with_D ? D : NULL, *gate = with_z ? z : NULL;
        bytes = mail_selective_scan_size(L, E, N, chunks);
        memory = scratch(bytes);
        memcpy(state, state0, sizeof state);
        CHECK(mail_selective_scan(y, state, x, dt, A, B, C, d, gate, L, E, N, chunks, memory, isa, NULL, &err) == MAIL_OK);
        CHECK(scratch_intact(memory, bytes));
        (void)snprintf(what, sizeof what, "scan %s L %d E %d N %d chunks %d", isa, (int)L, (int)E, (int)N, (int)chunks);
        test_close(what, y, want, L * E, tol);
        test_close(what, state, want_state, E * N, tol);
        /* the same bits on threads, in any order of the tasks, and in place */
        for (i = 0; i < 6; i++) {
            mail_parallel parallel;
            if (i < 4) {
                parallel = mail_pool_parallel(pool[i]);
            } else {
                parallel.user = NULL;
                parallel.run = counting_run;
                parallel.n_threads = most_tasks = i == 4 ? 2 : 3;
            }
            memory = scratch(bytes);
            memcpy(state2, state0, sizeof state2);
            memcpy(y2, x, L * E * sizeof(float));
            CHECK(mail_selective_scan(y2, state2, y2, dt, A, B, C, d, gate, L, E, N, chunks, memory, isa, &parallel, &err) == MAIL_OK);
            CHECK_MSG(memcmp(y, y2, L * E * sizeof(float)) == 0 && memcmp(state, state2, E * N * sizeof(float)) == 0, "%s, threads %d, in place",
                      what, (int)i);
        }
        if (chunks == 1 && L > 1) {  /* in two pieces, the state carried over */
            const size_t half = L / 2;
            memory = scratch(bytes);
            memcpy(state2, state0, sizeof state2);
            CHECK(mail_selective_scan(y2, state2, x, dt, A, B, C, d, gate, half, E, N, 1, memory, isa, NULL, &err) == MAIL_OK);
            CHECK(mail_selective_scan(y2 + half * E, state2, x + half * E, dt + half * E, A, B + half * N, C + half * N, d,
                                      gate == NULL ? NULL : gate + half * E, L - half, E, N, 1, memory, isa, NULL, &err) == MAIL_OK);
            CHECK_MSG(memcmp(y, y2, L * E * sizeof(float)) == 0 && memcmp(state, state2, E * N * sizeof(float)) == 0, "%s in two pieces", what);
        }
    }
}

static void test_scan_arguments(void) {
    mail_parallel parallel;
    mail_error    err;
    void         *memory = scratch(mail_selective_scan_size(4, 4, MAX_N, 1));
    CHECK(mail_selective_scan(NULL, state, x, dt, A, B, C, D, z, 4, 4, 4, 1, memory, NULL, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_selective_scan(y, state, x, dt, A, B, C, D, z, 4, 4, 4, 1, NULL, NULL, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_selective_scan(y, state, x, dt, A, B, C, D, z, 4, 4, 0, 1, memory, NULL, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_selective_scan(y, state, x, dt, A, B, C, D, z, 4, 0, 4, 1, memory, NULL, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_selective_scan(y, state, x, dt, A, B, C, D, z, 4, 4, 257, 1, memory, NULL, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK_MSG(strstr(err.text, "257") != NULL && strstr(err.text, "256") != NULL, "%s", err.text);
    CHECK(mail_selective_scan(y, state, x, dt, A, B, C, D, z, 4, 4, 4, 1, memory, "mmx", NULL, &err) == MAIL_E_UNSUPPORTED);
    CHECK_MSG(strstr(err.text, "mmx") != NULL, "%s", err.text);
    CHECK(mail_selective_scan(y, state, x, dt, A, B, C, D, z, 4, 4, 4, 1, (char *)memory + 4, NULL, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK_MSG(strstr(err.text, "multiple of 64") != NULL, "%s", err.text);
    memset(&parallel, 0, sizeof parallel);
    parallel.n_threads = 4;
    CHECK(mail_selective_scan(y, state, x, dt, A, B, C, D, z, 4, 4, 4, 1, memory, NULL, &parallel, &err) == MAIL_E_ARGUMENT);
    CHECK_MSG(strstr(err.text, "parallel.run is NULL") != NULL, "%s", err.text);
    CHECK(mail_selective_scan_size(4, 4, 256, 1) > 0 && mail_selective_scan_size(4, 4, 257, 1) == 0);
    CHECK(mail_selective_scan_size(4, 4, 0, 1) == 0 && mail_selective_scan_size(4, 0, 4, 1) == 0);
    memcpy(state2, state, sizeof state);
    y[0] = 5;
    CHECK(mail_selective_scan(y, state, x, dt, A, B, C, D, z, 0, 4, 4, 1, memory, NULL, NULL, &err) == MAIL_OK && y[0] == 5.0f);
    CHECK(memcmp(state, state2, sizeof state) == 0);
}

/* ---- one Mamba block ------------------------------------------------------------------------------------------------------- */

/* Values of prefix + suffix as doubles; released with free. */
static double *weights(const mail_tensors *t, const char *prefix, const char *suffix, size_t *dims) {
    char               name[200];
    const mail_tensor *tensor;
    float             *values;
    double            *out;
    size_t             i;
    (void)snprintf(name, sizeof name, "%s%s", prefix, suffix);
    tensor = mail_tensors_find(t, name);
    if (tensor == NULL) {
        printf("%s is missing\n", name);
        exit(2);
    }
    values = (float *)malloc((size_t)tensor->count * sizeof(float));
    out = (double *)malloc((size_t)tensor->count * sizeof(double));
    if (values == NULL || out == NULL || mail_tensor_read(tensor, values, (size_t)tensor->count, NULL) != MAIL_OK) {
        exit(2);
    }
    for (i = 0; i < tensor->count; i++) {
        out[i] = (double)values[i];
    }
    for (i = 0; i < tensor->n_dims && i < 3; i++) {
        dims[i] = (size_t)tensor->shape[i];
    }
    free(values);
    return out;
}

/* The equations of the specification, section 5, on in [L][d]; returns the largest magnitude on the way. */
static void plain_mamba(double *out, const float *in, size_t L, const mail_tensors *t, const char *prefix) {
    size_t  dims[3], d, E, N, K, R, l, e, s, i;
    double *A_log = weights(t, prefix, "A_log", dims), *in_proj, *conv_w, *conv_b, *x_proj, *dt_proj, *dt_bias, *out_proj, *skip;
    double *xz, *xc, *h, *q, *yy;
    E = dims[0];
    N = dims[1];
    in_proj = weights(t, prefix, "in_proj.weight", dims);
    d = dims[1];
    conv_w = weights(t, prefix, "conv1d.weight", dims);
    K = dims[2];
    conv_b = weights(t, prefix, "conv1d.bias", dims);
    x_proj = weights(t, prefix, "x_proj.weight", dims);
    dt_proj = weights(t, prefix, "dt_proj.weight", dims);
    R = dims[1];
    dt_bias = weights(t, prefix, "dt_proj.bias", dims);
    out_proj = weights(t, prefix, "out_proj.weight", dims);
    skip = weights(t, prefix, "D", dims);
    xz = (double *)calloc(L * 2 * E, sizeof(double));
    xc = (double *)calloc(E, sizeof(double));
    h = (double *)calloc(E * N, sizeof(double));
    q = (double *)calloc(R + 2 * N, sizeof(double));
    yy = (double *)calloc(E, sizeof(double));
    if (xz == NULL || xc == NULL || h == NULL || q == NULL || yy == NULL) {
        exit(2);
    }
    for (l = 0; l < L; l++) {
        for (e = 0; e < 2 * E; e++) {
            for (i = 0; i < d; i++) {
                xz[l * 2 * E + e] += in_proj[e * d + i] * (double)in[l * d + i];
            }
        }
        for (e = 0; e < E; e++) {
            double v = conv_b[e];
            for (i = 0; i < K; i++) {
                v += l + i + 1 >= K ? conv_w[e * K + i] * xz[(l + i + 1 - K) * 2 * E + e] : 0;
            }
            xc[e] = v / (1 + exp(-v));
        }
        for (i = 0; i < R + 2 * N; i++) {
            q[i] = 0;
            for (e = 0; e < E; e++) {
                q[i] += x_proj[i * E + e] * xc[e];
            }
        }
        for (e = 0; e < E; e++) {
            double v = dt_bias[e], sum = skip[e] * xc[e];
            const double gate = xz[l * 2 * E + E + e];
            for (i = 0; i < R; i++) {
                v += dt_proj[e * R + i] * q[i];
            }
            v = v > 20 ? v : log1p(exp(v));
            for (s = 0; s < N; s++) {
                h[e * N + s] = exp(-v * exp(A_log[e * N + s])) * h[e * N + s] + v * xc[e] * q[R + s];
                sum += h[e * N + s] * q[R + N + s];
            }
            yy[e] = sum * gate / (1 + exp(-gate));
        }
        for (i = 0; i < d; i++) {
            out[l * d + i] = 0;
            for (e = 0; e < E; e++) {
                out[l * d + i] += out_proj[i * E + e] * yy[e];
            }
        }
    }
    free(A_log);
    free(in_proj);
    free(conv_w);
    free(conv_b);
    free(x_proj);
    free(dt_proj);
    free(dt_bias);
    free(out_proj);
    free(skip);
    free(xz);
    free(xc);
    free(h);
    free(q);
    free(yy);
}

static void test_mamba(const char *file, const char *prefix, const char *isa) {
    static const size_t piece[4] = { 1, 2, 5, 13 };
    static float        in[MAX_L * MAX_E], out[MAX_L * MAX_E], pieces[MAX_L * MAX_E], memory_state[8192];
    static double       reference[MAX_L * MAX_E];
    const size_t        L = 40;
    mail_tensors       *t;
    mail_mamba         *block;
    mail_options        o = mail_options_init();
    mail_error          err;
    size_t              d, i, l, n, floats;
    double              largest = 0;
    char                path[200];
    (void)snprintf(path, sizeof path, "tests/golden/cases/%s/model.safetensors", file);
    if (mail_tensors_open(&t, path, NULL, &err) != MAIL_OK) {
        printf("%s\n", err.text);
        exit(2);
    }
    o.isa = isa;
    CHECK_MSG(mail_mamba_create(&block, t, prefix, &o, &err) == MAIL_OK, "%s", err.text);
    d = mail_mamba_d_model(block);
    floats = mail_mamba_state_floats(block);
    CHECK(d > 0 && d <= MAX_E && floats > 0 && floats <= sizeof memory_state / sizeof(float));
    fill(in, L * d, -2, 2);
    plain_mamba(reference, in, L, t, prefix);
    for (i = 0; i < L * d; i++) {
        largest = fabs(reference[i]) > largest ? fabs(reference[i]) : largest;
    }
    mail_tensors_close(t);  /* the block keeps nothing of the file */
    memset(memory_state, 0, sizeof memory_state);
    mail_mamba_block(block, out, memory_state, in, L, scratch(mail_mamba_scratch(block, L)));
    /* four products of up to 96 terms in a row, each good to a few units in the last place of its terms */
    test_close(path, out, reference, L * d, 2e-6 * (1 + largest));
    for (n = 0; n < 4; n++) {
        memset(memory_state, 0, sizeof memory_state);
        memory_state[floats] = 77;
        for (l = 0; l < L; l += piece[n]) {
            const size_t len = L - l < piece[n] ? L - l : piece[n], bytes = mail_mamba_scratch(block, len);
            void        *memory = scratch(bytes);
            memcpy(pieces + l * d, in + l * d, len * d * sizeof(float));
            mail_mamba_block(block, pieces + l * d, memory_state, pieces + l * d, len, memory);  /* in place */
            CHECK(scratch_intact(memory, bytes));
        }
        mail_mamba_block(block, pieces, memory_state, in, 0, NULL);  /* nothing to do */
        CHECK_MSG(memcmp(pieces, out, L * d * sizeof(float)) == 0, "%s, %s in pieces of %d", path, prefix, (int)piece[n]);
        CHECK(memory_state[floats] == 77.0f);
    }
    mail_mamba_free(block);
}

static void test_mamba_arguments(void) {
    mail_tensors *t;
    mail_mamba   *block = (mail_mamba *)(uintptr_t)64;
    mail_options  o = mail_options_init();
    mail_error    err;
    CHECK(mail_tensors_open(&t, "tests/golden/cases/d_ma_ddpm_h5/model.safetensors", NULL, &err) == MAIL_OK);
    CHECK(mail_mamba_create(&block, t, "model.model.nothing.", NULL, &err) == MAIL_E_TENSOR && block == NULL);
    CHECK_MSG(strstr(err.text, "model.model.nothing.A_log") != NULL, "%s", err.text);
    CHECK(mail_mamba_create(NULL, t, "", NULL, &err) == MAIL_E_ARGUMENT && mail_mamba_create(&block, NULL, "", NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_mamba_create(&block, t, NULL, NULL, &err) == MAIL_E_ARGUMENT);
    o.isa = "mmx";
    CHECK(mail_mamba_create(&block, t, "model.model.mamba.layers.0.mixer.", &o, &err) == MAIL_E_UNSUPPORTED && strstr(err.text, "mmx") != NULL);
    o.isa     = NULL;
    o.weights = (mail_weights)7;
    CHECK(mail_mamba_create(&block, t, "model.model.mamba.layers.0.mixer.", &o, &err) == MAIL_E_ARGUMENT && strstr(err.text, "weights 7") != NULL);
    CHECK(mail_mamba_d_model(NULL) == 0 && mail_mamba_state_floats(NULL) == 0 && mail_mamba_scratch(NULL, 1) == 0);
    CHECK(mail_mamba_create(&block, t, "model.model.mamba.layers.0.mixer.", NULL, &err) == MAIL_OK);
    CHECK(mail_mamba_scratch(block, SIZE_MAX / 16) >= SIZE_MAX / 16);  /* not wrapped around */
    mail_mamba_free(block);
    CHECK(mail_pool_parallel(NULL).run == NULL);
    CHECK(mail_selective_scan_size((size_t)1 << 26, 1, 1, 1) >= (sizeof(size_t) == 4 ? SIZE_MAX : (size_t)1 << 26));  /* 2^34 bytes */
    mail_mamba_free(NULL);
    mail_tensors_close(t);
}

/* The file of a Mamba block under this prefix, of the values of a golden case, with one more tensor of one number if extra is not NULL */
static unsigned char *block_file(size_t *size, const char *prefix, const char *extra) {
    static const char from[] = "model.model.mamba.layers.0.mixer.";
    static char       header[1 << 14];
    unsigned char    *file = NULL;
    mail_tensors     *t;
    size_t            i, j, pass, n, at = 0, offset = 0;
    if (mail_tensors_open(&t, "tests/golden/cases/d_ma_ddpm_h5/model.safetensors", NULL, NULL) != MAIL_OK) {
        exit(2);
    }
    for (pass = 0; pass < 2; pass++) {  /* the header, then the values */
        for (i = 0, offset = 0; i < mail_tensors_count(t); i++) {
            const mail_tensor *tensor = mail_tensors_at(t, i);
            if (strncmp(tensor->name, from, sizeof from - 1) != 0) {
                continue;
            }
            n = (size_t)tensor->count * sizeof(float);
            if (pass == 1) {
                memcpy(file + 8 + at + offset, tensor->data, n);
            } else {
                at += (size_t)sprintf(header + at, "%s\"%s%s\":{\"dtype\":\"F32\",\"shape\":[", at ? "," : "{", prefix, tensor->name + sizeof from - 1);
                for (j = 0; j < tensor->n_dims; j++) {
                    at += (size_t)sprintf(header + at, "%s%lu", j ? "," : "", (unsigned long)tensor->shape[j]);
                }
                at += (size_t)sprintf(header + at, "],\"data_offsets\":[%lu,%lu]}", (unsigned long)offset, (unsigned long)(offset + n));
            }
            offset += n;
        }
        if (pass == 0) {
            if (extra != NULL) {
                at += (size_t)sprintf(header + at, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[%lu,%lu]}", extra,
                                      (unsigned long)offset, (unsigned long)offset + 4);
            }
            header[at++] = '}';
            *size = 8 + at + offset + (extra == NULL ? 0 : 4);
            file = (unsigned char *)calloc(*size, 1);
            if (file == NULL) {
                exit(2);
            }
            for (i = 0; i < 8; i++) {
                file[i] = (unsigned char)((unsigned long long)at >> 8 * i);
            }
            memcpy(file + 8, header, at);
        }
    }
    mail_tensors_close(t);
    return file;
}

/* Tensors under the prefix that the block has no use for are refused by name; those elsewhere are left alone. */
static void test_mamba_surplus(void) {
    static const struct {
        const char *prefix, *extra;
        int         refused;
    } cases[] = {
        { "layers.0.mixer.", NULL, 0 },
        { "", NULL, 0 },
        { "layers.0.mixer.", "layers.0.mixer.in_proj.bias", 1 },
        { "layers.0.mixer.", "layers.0.mixer.out_proj.bias", 1 },
        { "layers.0.mixer.", "layers.0.mixer.A_b_log", 1 },
        { "layers.0.mixer.", "layers.0.mixer.dt_layernorm.weight", 1 },
        { "", "dt_layernorm.weight", 1 },
        { "", "obs_encoder._dummy_variable", 0 },  /* holds no weights */
        { "layers.1.mixer.", "layers.10.mixer.A_b_log", 0 },
        { "layers.1.mixer.", "layers.1.norm.weight", 0 },
        { "backbone.layers.0.mixer.", "nets.0.layers.0.mixer.in_proj.bias", 0 },
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t         size;
        unsigned char *file = block_file(&size, cases[i].prefix, cases[i].extra);
        mail_tensors  *t;
        mail_mamba    *block;
        mail_error     err;
        err.text[0] = 0;
        CHECK_MSG(mail_tensors_open_memory(&t, file, size, NULL, &err) == MAIL_OK, "%s", err.text);
        CHECK_MSG(mail_mamba_create(&block, t, cases[i].prefix, NULL, &err) == (cases[i].refused ? MAIL_E_TENSOR : MAIL_OK), "case %d: %s", (int)i, err.text);
        CHECK((block == NULL) == cases[i].refused);
        CHECK_MSG(!cases[i].refused || (strstr(err.text, cases[i].extra) != NULL && strstr(err.text, "Mamba block") != NULL), "%s", err.text);
        mail_mamba_free(block);
        mail_tensors_close(t);
        free(file);
    }
}

int main(void) {
    static const size_t shapes[][3] = { { 1, 1, 1 }, { 2, 16, 16 }, { 7, 17, 3 }, { 33, 33, 16 }, { 70, 15, 8 }, { 64, 48, 24 }, { 3, 40, 5 } };
    size_t i, j, n_isas = 0;
    for (i = 0; i < 4; i++) {
        if (mail_pool_create(&pool[i], pool_threads[i], NULL) != MAIL_OK) {
            printf("no threads\n");
            return 2;
        }
    }
    for (j = 0; j < sizeof isas / sizeof *isas; j++) {
        if (mailp_kernels_choose(isas[j]) == NULL) {
            continue;
        }
        n_isas++;
        for (i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            test_scan(isas[j], shapes[i][0], shapes[i][1], shapes[i][2], i % 2 == 0, i % 3 == 0);
            test_scan(isas[j], shapes[i][0], shapes[i][1], shapes[i][2], 1, 1);
        }
        test_mamba("d_ma_ddpm_h5", "model.model.mamba.layers.0.mixer.", isas[j]);
        test_mamba("odd_d_ma_bc", "model.encoder.layers.0.mixer.", isas[j]);
        test_mamba("odd_ed_ma", "model.model.encoder.layers.0.mixer.", isas[j]);
        test_mamba("odd_ed_ma", "model.model.mamba.layers.0.mixer.", isas[j]);
        test_mamba("taps1_ed_ma", "model.model.encoder.layers.0.mixer.", isas[j]);
        test_mamba("expand1_d_ma", "model.model.mamba.layers.0.mixer.", isas[j]);
        test_mamba("expand3_ed_ma", "model.model.mamba.layers.0.mixer.", isas[j]);
        test_mamba("wide_d_ma", "model.model.mamba.layers.0.mixer.", isas[j]);
    }
    test_scan_arguments();
    test_mamba_arguments();
    test_mamba_surplus();
    CHECK_MSG(!too_many, "more tasks at a time than the caller has threads");
    for (i = 0; i < 4; i++) {
        mail_pool_free(pool[i]);
    }
    CHECK(n_isas > 0);
    return test_end("test_blocks");
}
