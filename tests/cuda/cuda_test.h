/* cuda_test.h - what the tests of mail_cuda.cuh share: random policies without a file, comparisons, hashes.

   Compiled by a C++ compiler with -DMAIL_CUDA_ON_CPU the kernels run on the CPU (see cuda_on_cpu.h); compiled by nvcc they
   run on the GPU. */
#ifndef CUDA_TEST_H
#define CUDA_TEST_H

#include "../test.h"

#ifndef MAIL_IMPLEMENTATION /* defined: all_tests.cu has included it before */
#  define MAIL_IMPLEMENTATION
#  ifndef MAIL_NO_SIMD
#    define MAIL_NO_SIMD /* the CPU engine is a reference here; plain C builds faster */
#  endif
#  include "../../mail.h"
#endif
#include "../../mail_cuda.cuh"

#include "../../bench/random_policy.h"

#include <time.h>

#include <functional>
#include <string>
#include <vector>

/* Cases that take minutes on a CPU are for a GPU, or for those who set CT_LARGE=1. */
#ifdef MAIL_CUDA_ON_CPU
#  define CT_LARGE (cpucuda::env_int("CT_LARGE", 0))
#else
#  define CT_LARGE 1
#endif

typedef std::vector<float>  floats;
typedef std::vector<double> doubles;

/* ---- random numbers ---- */

/* n standard normals; the same seed gives the same numbers everywhere. */
static inline floats ct_normal(size_t n, uint64_t seed, float scale = 1.0f, float shift = 0.0f) {
    floats v(n);
    mail_noise(v.data(), n, seed, 0, 0, 0);
    for (float &x : v) {
        x = x * scale + shift;
    }
    return v;
}

static inline uint64_t ct_hash(const void *data, size_t bytes, uint64_t hash = 14695981039346656037u) {
    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ ((const unsigned char *)data)[i]) * 1099511628211u;
    }
    return hash;
}
static inline uint64_t ct_hash(const floats &v, uint64_t hash = 14695981039346656037u) {
    return ct_hash(v.data(), v.size() * sizeof(float), hash);
}

/* ||got - want|| / ||want||; not-a-number stays. */
template <class Want>
static inline double ct_distance(const floats &got, const Want &want) {
    double num = 0.0, den = 0.0;
    for (size_t i = 0; i < want.size(); i++) {
        num += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        den += (double)want[i] * want[i];
    }
    return want.size() ? sqrt(num / den) : 0.0;
}

/* ---- device memory ---- */

/* An array on the device, released at the end of the scope. */
struct ct_device {
    float *data = NULL;
    size_t n = 0;
    explicit ct_device(size_t count) : n(count) {
        if (cudaMalloc((void **)&data, (n + 1) * sizeof(float)) != cudaSuccess) {
            printf("cudaMalloc failed\n");
            exit(2);
        }
        (void)cudaMemset(data, 0xff, (n + 1) * sizeof(float));
    }
    explicit ct_device(const floats &v) : ct_device(v.size()) {
        (void)cudaMemcpy(data, v.data(), n * sizeof(float), cudaMemcpyHostToDevice);
    }
    ct_device(const ct_device &) = delete;
    ~ct_device() {
        (void)cudaFree(data);
    }
    operator float *() const {
        return data;
    }
    floats host() const {
        floats v(n);
        (void)cudaDeviceSynchronize();
        (void)cudaMemcpy(v.data(), data, n * sizeof(float), cudaMemcpyDeviceToHost);
        return v;
    }
};

static inline floats ct_host(const float *device, size_t n) {
    floats v(n);
    (void)cudaDeviceSynchronize();
    (void)cudaMemcpy(v.data(), device, n * sizeof(float), cudaMemcpyDeviceToHost);
    return v;
}

/* ---- policies without a file ---- */

/* Weights of order one, a function of the tensor's name. */
static inline mail_status ct_read(void *, const char *name, float *values, size_t n, mail_error *) {
    const std::string s(name);
    auto  has = [&](const char *part) { return s.find(part) != std::string::npos; };
    float scale = 0.09f, shift = 0.0f; /* 1 / sqrt(128) */
    if (has("A_log")) {
        scale = 0.4f;
        shift = 1.0f;
    } else if (has("mixer.D") || (has("norm") && has("weight")) || (has("bn") && has("weight")) || has("downsample.1.weight") ||
               has("nets.1.weight") || has("ln") ) {
        scale = 0.25f;
        shift = 1.0f;
    } else if (has("conv1d.weight")) {
        scale = 0.5f;
    } else if (has("dt_proj.bias")) {
        shift = -3.0f;
        scale = 1.0f;
    } else if (has("temperature")) {
        scale = 0.0f;
        shift = 1.0f;
    } else if (has("bias")) {
        scale = 0.2f;
    } else if (has("pos_emb") || has("token") || has("query_embed") || has("pos_x") || has("pos_y")) {
        scale = 0.5f;
    } else if (has("action_emb")) {
        scale = 0.4f;
    } else if (has("backbone")) {
        scale = (float)sqrt(2.0 / (has("nets.0.weight") ? 147.0 : has("downsample") ? 64.0 : 9.0 * 96.0));
    }
    const floats v = ct_normal(n, ct_hash(name, strlen(name)), scale, shift);
    memcpy(values, v.data(), n * sizeof(float));
    return MAIL_OK;
}

/* The released widths with few layers and steps; change what a test is about. */
static inline mailp_config ct_config(mail_arch arch, size_t d_state, size_t act_seq) {
    mailp_config c;
    memset(&c, 0, sizeof c);
    c.arch = arch;
    c.algorithm = MAIL_DDPM;
    c.obs_seq = 2;
    c.act_seq = c.n_action_steps = act_seq;
    c.action_dim = 7;
    c.state_dim = 64;
    c.d_model = 128;
    c.n_trunks = arch == MAIL_ED_MA || arch == MAIL_ED_TR ? 2 : 1;
    for (size_t i = 0; i < c.n_trunks; i++) {
        mailp_trunk_config &t = c.trunk[i];
        const bool          mamba = arch == MAIL_D_MA || arch == MAIL_ED_MA;
        (void)snprintf(t.name, sizeof t.name, "%s", mamba && i + 1 == c.n_trunks ? "mamba" : i ? "decoder" : "encoder");
        t.n_layers = 2;
        t.d_state = d_state;
        t.d_conv = i ? 2 : 4;
        t.d_inner = 256;
        t.dt_rank = 8;
    }
    c.n_heads = 4;
    c.n_timesteps = 3;
    c.schedule = MAIL_COSINE;
    c.clip_denoised = c.predict_epsilon = c.scale_data = 1;
    for (size_t a = 0; a < c.action_dim; a++) {
        c.mean[a] = 0.1f * (float)a - 0.3f;
        c.std[a] = 0.2f + 0.05f * (float)a;
        c.min[a] = c.mean[a] - 3.0f * c.std[a];
        c.max[a] = c.mean[a] + 3.0f * c.std[a];
    }
    c.pos_rows = c.obs_seq + c.act_seq - 1;
    return c;
}

static inline mail_cuda_policy *ct_policy(const mailp_config &c) {
    const mailp_cuda_source source = {ct_read, NULL};
    mail_cuda_policy       *p;
    mail_error              err;
    if (mailp_cuda_policy_build(&p, &c, source, &err) != MAIL_OK) {
        printf("policy: %s\n", err.text);
        exit(2);
    }
    return p;
}

static inline mail_cuda_session *ct_session(const mail_cuda_policy *p, size_t batch, mailp_cuda_wish wish,
                                            mail_cuda_options options = mail_cuda_options_init()) {
    mail_cuda_session *s;
    mail_error         err;
    options.session.batch = batch;
    options.session.seed = 7;
    if (mailp_cuda_session_build(&s, p, options, NULL, wish, &err) != MAIL_OK) {
        printf("session: %s\n", err.text);
        exit(2);
    }
    return s;
}

/* ---- set-ups that several programs share ---- */

/* A loaded random policy of the released widths: 16 layers or 6 + 10, 16 states or 8, actions of 7 numbers. The caller changes
   what else it needs. */
static inline random_policy ct_released(mail_arch arch, size_t obs_seq, size_t chunk, size_t cameras) {
    random_policy r;
    memset(&r, 0, sizeof r);
    r.arch = arch;
    r.obs_seq = obs_seq;
    r.act_seq = chunk;
    r.action_dim = 7;
    r.n_layers = 16;
    r.enc_layers = 6;
    r.dec_layers = 10;
    r.d_state = arch == MAIL_D_MA ? 16 : 8;
    r.d_conv = 4;
    r.dec_conv = 2;
    r.n_cameras = cameras;
    for (size_t i = 0; i < cameras; i++) {
        r.height[i] = r.width[i] = 128;
    }
    return r;
}

static inline mail_policy *ct_load(random_policy r) {
    char           json[4096];
    size_t         size;
    mail_options   options = mail_options_init();
    mail_policy   *policy;
    mail_error     err;
    unsigned char *file = random_policy_make(&r, &size, json, sizeof json);
    options.config_json = json;
    if (mail_policy_load_memory(&policy, file, size, &options, &err) != MAIL_OK) {
        printf("random policy: %s\n", err.text);
        exit(2);
    }
    /* the policy keeps the file open; it stays until the end of the program, and so does the list, which leak checks look at then */
    static std::vector<unsigned char *> &kept = *new std::vector<unsigned char *>;
    kept.push_back(file);
    return policy;
}

/* A long scan with random operands, or zeros: what mail_cuda_selective_scan wants, and the same on the host. */
struct ct_scan {
    size_t         batch, L, E, N;
    floats         u, dt, z, B, C, D, bias, h0, A;
    ct_device      du, ddt, dz, dB, dC, dD, dbias, dh0, dA, y, h;
    mail_cuda_scan args;

    ct_scan(size_t batch_, size_t L_, size_t E_, size_t N_, bool gate, bool random = true)
        : batch(batch_), L(L_), E(E_), N(N_), u(make(batch * L * E, 1, random)), dt(make(batch * L * E, 2, random)),
          z(make(gate ? batch * L * E : 0, 3, random)), B(make(batch * L * N, 4, random)), C(make(batch * L * N, 5, random)), D(ct_normal(E, 6)),
          bias(ct_normal(E, 7, 0.5f, -3.0f)), h0(ct_normal(batch * E * N, 8)), A(ct_normal(E * N, 9, 0.3f)), du(u), ddt(dt), dz(z), dB(B), dC(C), dD(D),
          dbias(bias), dh0(h0), dA(decays()), y(batch * L * E), h(batch * E * N), args() {
        args.y = y;
        args.state_out = h;
        args.state_in = dh0;
        args.u = du;
        args.dt = ddt;
        args.z = gate ? (float *)dz : NULL;
        args.A = dA;
        args.B = dB;
        args.C = dC;
        args.D = dD;
        args.dt_bias = dbias;
        args.L = (int)L;
        args.d_inner = (int)E;
        args.d_state = (int)N;
        args.softplus = 1;
    }
    static floats make(size_t n, uint64_t seed, bool random) {
        return random ? ct_normal(n, seed) : floats(n);
    }
    const floats &decays(void) {
        for (size_t i = 0; i < A.size(); i++) {
            A[i] = -expf(A[i]) * (float)(i % N + 1);
        }
        return A;
    }
    mail_status run(cudaStream_t stream = NULL) {
        mail_error err;
        return mail_cuda_selective_scan(&args, batch, stream, &err);
    }
    /* By the ring of warps, which otherwise only many channels get. */
    mail_status run_ring(void) {
        mail_error       err;
        mailp_cuda_queue q = {NULL, cudaSuccess, 0, 0, 0, 0.0};
        mailp_cuda_queue_ring(&q, args, batch);
        return mailp_cuda_check(q.error, "queueing a scan", &err);
    }
};

/* Two sequences for mailp_cuda_mixer, whole: y and state on the device, operands on both sides. */
struct ct_mixer {
    enum { Q = 2, K = 4 };
    size_t                e, n, r, l;
    floats                xz, conv_w, conv_b, x_proj, dt_w, dt_b, D, A2;
    ct_device             dxz, dcw, dcb, dxp, ddw, ddb, dD, dA, y, state;
    mailp_cuda_mixer_args args;

    ct_mixer(int E, int N, int R, int L, int slice)
        : e((size_t)E), n((size_t)N), r((size_t)R), l((size_t)L), xz(ct_normal(Q * l * 2 * e, 1)), conv_w(ct_normal(K * e, 2, 0.5f)),
          conv_b(ct_normal(e, 3, 0.2f)), x_proj(ct_normal((r + 2 * n) * e, 4, (float)(1.0 / sqrt(E)))), dt_w(ct_normal(r * e, 5, 0.3f)),
          dt_b(ct_normal(e, 6, 1.0f, -3.0f)), D(ct_normal(e, 8, 0.3f, 1.0f)), A2(ct_normal(n * e, 7, 0.3f)), dxz(xz), dcw(conv_w), dcb(conv_b),
          dxp(x_proj), ddw(dt_w), ddb(dt_b), dD(D), dA(decays()), y(Q * l * e), state(Q * e * (K - 1 + n)), args() {
        args.y = y;
        args.state_out = state;
        args.xz = dxz;
        args.conv_w = dcw;
        args.conv_b = dcb;
        args.x_proj = dxp;
        args.dt_w = ddw;
        args.dt_b = ddb;
        args.A2 = dA;
        args.D = dD;
        args.robots = args.share = 1;
        args.L = L;
        args.d_inner = args.slice_in = E;
        args.slice_out = slice;
        args.d_state = N;
        args.d_conv = K;
        args.dt_rank = R;
    }
    const floats &decays(void) {
        for (float &v : A2) {
            v = -expf(v) * MAILP_CUDA_LOG2E;
        }
        return A2;
    }
    void launch(int tile, unsigned threads) {
        mailp_cuda_queue q = {};
        args.tile = tile;
        mailp_cuda_launch(&q, mailp_cuda_mixer<16>, dim3(Q), threads, sizeof(float) * (size_t)tile * (e + r + 2 * n), args);
        CHECK(q.error == cudaSuccess);
    }
};

/* ---- running ---- */

/* One case: computes, checks, and returns a hash of everything it computed. */
struct ct_case {
    const char                 *name;
    std::function<uint64_t()>   run;
};

/* Run every case whose name contains `only`, on the CPU under four schedules (whole policies, which take seconds: two, and
   test_faults runs the same kernels under five; CT_TIMES sets another number): the bits must be the same. On a GPU twice.
   CT_SHARE=i/n takes every n-th case from the i-th on, for n programs side by side. */
static inline int ct_run(const char *program, const std::vector<ct_case> &cases, const char *only) {
    const char *share = getenv("CT_SHARE");
    int         ran = 0, at = -1, mine = 0, shares = 1;
    if (share && (sscanf(share, "%d/%d", &mine, &shares) != 2 || mine < 0 || mine >= shares)) {
        printf("%s: FAIL: CT_SHARE=%s is not i/n with 0 <= i < n\n", program, share);
        return 2;
    }
    for (const ct_case &c : cases) {
        at++;
        if ((only && !strstr(c.name, only)) || at % shares != mine) {
            continue;
        }
        ran++;
        const int before = test_failed;
        const clock_t began = clock();
        uint64_t  first = 0;
#ifdef MAIL_CUDA_ON_CPU
        const int times = cpucuda::env_int("CT_TIMES", strstr(c.name, "beside") || strstr(c.name, "loop") || strstr(c.name, "ages") ? 2 : 4), given = cpucuda::order;
#else
        const int times = 2;
#endif
        for (int i = 0; i < times; i++) {
#ifdef MAIL_CUDA_ON_CPU
            cpucuda::order = i;
#endif
            const uint64_t bits = c.run();
            first = i ? first : bits;
            test_passed += bits == first;
            if (bits != first) {
                test_failed++;
                printf("%s: FAIL: run %d gave other bits\n", c.name, i);
            }
        }
#ifdef MAIL_CUDA_ON_CPU
        cpucuda::order = given;
#endif
        printf("%-60s %s  %.2f s\n", c.name, test_failed == before ? "ok" : "FAIL", (double)(clock() - began) / CLOCKS_PER_SEC);
        fflush(stdout);
    }
    if (ran == 0) {
        printf("%s: FAIL: no case is called '%s'\n", program, only ? only : "");
        test_failed++;
    }
    return test_end(program);
}

#endif
