/* cuda_bench: how long a decision takes on this machine's GPU.

       build/cuda_bench [--batches 1,2,4,...] [--seconds S] [--only decisions|loops|layers|scans]

   A D-Ma policy of the released widths with random weights: two 128 x 128 cameras, one frame of history, chunk of 5, 16
   layers, 16 DDPM steps. Per batch, in milliseconds: pictures on the device to actions on the device ("both"), its parts,
   the same with half products, on the plain path and with an L2 that was overwritten before; medians and 99th percentiles
   over S seconds on rotating pictures. "from host": pictures and actions in page-locked memory of the host, one decision
   every 50 ms, by the host's clock, as a control loop sees it. Before timing, batch 1 is compared with mail.h and the other
   batches with the plain path. Then the denoising loop alone in each of its shapes, convolutions with their norm for 5 to 64 robots
   by each kind of tile, and long scans, as a share of the bandwidth that a device copy reaches. Predictions were written before any run; see the table in the source. */
#include "../tests/cuda/cuda_test.h"

#include <algorithm>

#ifdef MAIL_CUDA_ON_CPU
#  error "times mean nothing on the CPU stand-in: build with nvcc"
#endif

static double wall(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double percentile(std::vector<double> v, double p) {
    std::sort(v.begin(), v.end());
    return v.empty() ? NAN : v[std::min(v.size() - 1, (size_t)(p * (double)v.size()))];
}

static void check(cudaError_t e, const char *what) {
    if (e != cudaSuccess) {
        printf("%s: %s\n", what, cudaGetErrorString(e));
        exit(1);
    }
}

/* What was expected of each batch on an H200 before anything had run on a GPU, and what it must reach (milliseconds, "both"). */
static const struct {
    size_t batch;
    double predicted, must;
} expected[] = {{1, 0.47, 1.0}, {2, 0.49, 0.0}, {4, 0.59, 0.0}, {8, 0.73, 0.0}, {16, 1.20, 0.0}, {32, 1.74, 2.0}, {64, 3.27, 3.5}};

/* Milliseconds on the stream of run(i), again and again for `seconds`; overwrite: memory written before each. */
template <class Run>
static std::vector<double> timed(cudaStream_t stream, double seconds, Run run, void *overwrite = NULL, size_t bytes = 0) {
    cudaEvent_t         begin, end;
    std::vector<double> ms;
    check(cudaEventCreate(&begin), "event");
    check(cudaEventCreate(&end), "event");
    for (int i = 0; i < 5; i++) {
        run(i);
    }
    check(cudaStreamSynchronize(stream), "warm-up");
    const double until = wall() + seconds;
    for (int i = 0; i < 5000 && (i < 10 || wall() < until); i++) {
        float t;
        if (overwrite) { /* what the L2 held is gone */
            check(cudaMemsetAsync(overwrite, i, bytes, stream), "memset");
        }
        check(cudaEventRecord(begin, stream), "event");
        run(i);
        check(cudaEventRecord(end, stream), "event");
        check(cudaEventSynchronize(end), "run");
        check(cudaEventElapsedTime(&t, begin, end), "event");
        ms.push_back((double)t);
    }
    (void)cudaEventDestroy(begin);
    (void)cudaEventDestroy(end);
    return ms;
}

/* The policy that is timed, on the device and for mail.h. */
static mail_cuda_policy *released(mail_policy **policy) {
    mail_cuda_policy *p;
    mail_error        err;
    *policy = ct_load(ct_released(MAIL_D_MA, 1, 5, 2));
    if (mail_cuda_policy_create(&p, *policy, &err) != MAIL_OK) {
        printf("policy: %s\n", err.text);
        exit(1);
    }
    return p;
}

static mail_cuda_session *make(const mail_cuda_policy *p, size_t batch, int plain, int half, cudaStream_t stream) {
    mail_cuda_options  o = mail_cuda_options_init();
    mail_cuda_session *s;
    mail_error         err;
    o.session.batch = batch;
    o.plain = plain;
    o.half = half;
    if (mail_cuda_session_create(&s, p, &o, stream, &err) != MAIL_OK) {
        printf("session: %s\n", err.text);
        exit(1);
    }
    return s;
}

static void decisions(const std::string &batches, double seconds, cudaStream_t stream) {
    mail_error        err;
    mail_policy      *policy;
    mail_cuda_policy *p = released(&policy);
    const mail_info  *info = mail_policy_info(policy);
    void             *flush;
    const size_t      flush_bytes = (size_t)256 << 20, picture = 128 * 128 * 3, pictures = 4;
    check(cudaMalloc(&flush, flush_bytes), "memory");
    printf("milliseconds on the GPU, median (p99); predicted and must: for an H200\n%8s %5s %8s %9s %9s %6s %17s %17s %17s %17s %10s %10s  %-20s %s\n", "", "batch", "both",
           "(p99)", "predicted", "must", "encoder", "decision", "half products", "plain path", "L2 cold", "from host", "loop", "compared");
    for (const char *at = batches.c_str(); at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        const size_t   B = (size_t)atoi(at), n = B * info->act_seq * info->action_dim;
        unsigned char *image, *host;
        float         *host_actions;
        double         predicted = NAN, must = 0.0;
        for (const auto &e : expected) {
            predicted = e.batch == B ? e.predicted : predicted;
            must = e.batch == B ? e.must : must;
        }
        check(cudaMalloc((void **)&image, 2 * pictures * B * picture), "pictures");
        check(cudaHostAlloc((void **)&host, 2 * B * picture, cudaHostAllocDefault), "pictures");
        check(cudaHostAlloc((void **)&host_actions, n * sizeof(float), cudaHostAllocDefault), "actions");
        const floats               noise = ct_normal(2 * pictures * picture, 5, 60.0f, 128.0f);
        std::vector<unsigned char> one(noise.size());
        for (size_t i = 0; i < one.size(); i++) {
            one[i] = (unsigned char)std::min(255.0f, std::max(0.0f, noise[i]));
        }
        for (size_t i = 0; i < 2 * pictures * B; i++) {
            check(cudaMemcpy(image + i * picture, one.data() + i % (2 * pictures) * picture, picture, cudaMemcpyHostToDevice), "pictures");
        }
        check(cudaMemcpy(host, image, 2 * B * picture, cudaMemcpyDeviceToHost), "pictures");
        std::vector<mail_image> frames(2 * B);
        auto observe_at = [&](mail_cuda_session *s, const unsigned char *from) {
            for (size_t k = 0; k < 2 * B; k++) {
                memset(&frames[k], 0, sizeof frames[k]);
                frames[k].data = from + k * picture;
                frames[k].width = frames[k].height = 128;
            }
            if (mail_cuda_observe(s, frames.data(), 2 * B, &err) != MAIL_OK) {
                printf("observe: %s\n", err.text);
                exit(1);
            }
        };
        auto observe = [&](mail_cuda_session *s, int i) { observe_at(s, image + (size_t)i % pictures * 2 * B * picture); };
        auto plan = [&](mail_cuda_session *s, float *actions) {
            if (mail_cuda_plan(s, actions, &err) != MAIL_OK) {
                printf("plan: %s\n", err.text);
                exit(1);
            }
        };
        mail_cuda_session *fast = make(p, B, 0, 0, stream), *plain = make(p, B, 1, 0, stream), *half = make(p, B, 0, 1, stream);
        observe(fast, 0);
        observe(plain, 0);
        plan(fast, NULL);
        plan(plain, NULL);
        check(cudaStreamSynchronize(stream), "first decision");
        const floats first = ct_host(fast->actions, n), other = ct_host(plain->actions, n);
        char         compared[96];
        (void)snprintf(compared, sizeof compared, "plain %.1e", ct_distance(first, other));
        if (B == 1) {
            mail_session *cpu;
            floats        want(n);
            for (size_t k = 0; k < 2; k++) {
                frames[k].data = host + k * picture;
            }
            if (mail_session_create(&cpu, policy, NULL, &err) != MAIL_OK || mail_observe(cpu, frames.data(), 2, &err) != MAIL_OK ||
                mail_plan(cpu, want.data(), &err) != MAIL_OK) {
                printf("mail.h: %s\n", err.text);
                exit(1);
            }
            mail_session_free(cpu);
            (void)snprintf(compared, sizeof compared, "plain %.1e, mail.h %.1e", ct_distance(first, other), ct_distance(first, want));
        }
        auto both = [&](mail_cuda_session *s, void *overwrite) {
            return timed(
                stream, seconds,
                [&](int i) {
                    observe(s, i);
                    plan(s, NULL);
                },
                overwrite, flush_bytes);
        };
        const std::vector<double> enc = timed(stream, seconds, [&](int) { check(cudaGraphLaunch(fast->observe, stream), "encoder"); });
        const std::vector<double> dec = timed(stream, seconds, [&](int) { plan(fast, NULL); });
        const std::vector<double> all = both(fast, NULL), all_plain = both(plain, NULL), all_half = both(half, NULL), cold = both(fast, flush);
        std::vector<double>       paced;
        for (int i = 0; i < 20; i++) {
            const struct timespec pause = {0, 50000000};
            (void)nanosleep(&pause, NULL);
            const double begin = wall();
            observe_at(fast, host);
            plan(fast, host_actions);
            check(cudaStreamSynchronize(stream), "paced");
            paced.push_back(1e3 * (wall() - begin));
        }
        char loop[64] = "plain";
        if (fast->loop.kernel) {
            (void)snprintf(loop, sizeof loop, "%d robots", fast->loop.robots);
        }
        printf("%8s %5zu %8.3f (%7.3f) %9.2f %6.1f %8.3f (%6.3f) %8.3f (%6.3f) %8.3f (%6.3f) %8.3f (%6.3f) %10.3f %10.3f  %-20s %s\n", "decision", B,
               percentile(all, 0.5), percentile(all, 0.99), predicted, must, percentile(enc, 0.5), percentile(enc, 0.99), percentile(dec, 0.5),
               percentile(dec, 0.99), percentile(all_half, 0.5), percentile(all_half, 0.99), percentile(all_plain, 0.5), percentile(all_plain, 0.99),
               percentile(cold, 0.5), percentile(paced, 0.5), loop, compared);
        fflush(stdout);
        mail_cuda_session_free(fast);
        mail_cuda_session_free(plain);
        mail_cuda_session_free(half);
        (void)cudaFree(image);
        (void)cudaFreeHost(host);
        (void)cudaFreeHost(host_actions);
    }
    (void)cudaFree(flush);
    mail_cuda_policy_free(p);
    mail_policy_free(policy);
}

/* The loop of the same policy by robots a cluster owns, where the shape is one of those compiled; what mailp_cuda_consider chooses from. */
static void loops(cudaStream_t stream) {
    mail_policy      *policy;
    mail_cuda_policy *p = released(&policy);
    printf("denoising loop alone, milliseconds\n%6s %7s %9s %9s %9s\n", "batch", "robots", "at once", "ms", "expected");
    for (size_t batch : {1, 15, 30, 32, 60, 64}) {
        for (int robots = 1; robots <= 8 && robots <= (int)batch; robots++) {
            mailp_cuda_wish    wish = {};
            mailp_cuda_queue   q = {stream, cudaSuccess, 0, 0, 0, 0.0};
            mail_cuda_session *s;
            wish.robots = robots;
            s = ct_session(p, batch, wish);
            if (s->loop.kernel) {
                const int    active = mailp_cuda_active_clusters(s->loop.kernel, MAILP_CUDA_CS, s->loop.shared, p->sms);
                const double ms = percentile(timed(stream, 0.1, [&](int) { mailp_cuda_queue_fast_loop(&q, s); }), 0.5);
                check(q.error, "loop");
                printf("%6zu %7d %9d %9.3f %9.3f\n", batch, robots, active * robots, ms, s->loop.cost);
                fflush(stdout);
            }
            mail_cuda_session_free(s);
        }
    }
    mail_cuda_policy_free(p);
    mail_policy_free(policy);
}

/* The convolutions of a resnet18, both cameras in a launch, in microseconds: as mailp_cuda_queue_fused chooses and, on a GPU with products
   of warpgroups, by mailp_cuda_wide with tiles of each width that fits; what mailp_cuda_choose_wide chooses from. The first one by
   mailp_cuda_stem and mailp_cuda_norm, and by mailp_cuda_wide_stem. */
static void layers(cudaStream_t stream) {
    static const struct {
        int HO, CI, CO, stride, residual, quarters;
    } kinds[] = {{32, 64, 64, 1, 0, 0},  {32, 64, 64, 1, 1, 0},    {32, 64, 64, 1, 1, 1}, {16, 64, 128, 2, 0, 0},  {16, 128, 128, 1, 1, 0},
                 {8, 128, 256, 2, 0, 0}, {8, 256, 256, 1, 1, 0}, {4, 256, 512, 2, 0, 0}, {4, 512, 512, 1, 1, 0}};
    mail_policy      *policy;
    mail_cuda_policy *p = released(&policy);
    printf("convolutions of two cameras, microseconds\n%6s %6s %9s %7s %9s %9s", "batch", "map", "channels", "stride", "residual", "fused");
    for (int columns : {48, 96, 136, 152}) {
        printf(" %7s%d", "wide ", columns);
    }
    printf(" %9s\n", "chosen");
    for (size_t batch : {1, 2, 4, 5, 8, 16, 32, 64}) {
        for (const auto &k : kinds) {
            const int           H = k.HO * k.stride;
            const size_t        maps = 2 * batch * (size_t)(H * H * k.CI), out_maps = 2 * batch * (size_t)(k.HO * k.HO * k.CO);
            const mailp_cuda_line line = mailp_cuda_line_of(k.HO, k.HO, (int)batch), next = mailp_cuda_line_of(k.HO / 2, k.HO / 2, (int)batch);
            ct_device           in(2 * std::max(maps, (size_t)line.Q * (size_t)(k.CI * k.stride * k.stride))), skip(2 * std::max(out_maps, (size_t)line.Q * (size_t)k.CO));
            ct_device           out(2 * std::max(out_maps, (size_t)std::max(line.Q, 4 * next.Q) * (size_t)k.CO));
            const mailp_cuda_stage *w[2];
            for (int e = 0; e < 2; e++) { /* the policy's layer of that shape */
                const mailp_cuda_camera &cam = p->camera[e];
                for (int i = 0; i < 8; i++) {
                    w[e] = k.residual && cam.conv2[i].CO == k.CO ? &cam.conv2[i] : !k.residual && cam.conv1[i].CO == k.CO && cam.conv1[i].stride == k.stride ? &cam.conv1[i] : i ? w[e] : NULL;
                }
            }
            check(cudaMemset(in, 0x2c, in.n * sizeof(float)), "memory"); /* 6e-12 as floats, 0.06 as halves */
            check(cudaMemset(skip, 0, skip.n * sizeof(float)), "memory");
            printf("%6zu %6d %4d-%-4d %7d %9s", batch, k.HO, k.CI, k.CO, k.stride, k.quarters ? "quarters" : k.residual ? "yes" : "no");
            for (int columns : {-1, 48, 96, 136, 152, 0}) {
                mailp_cuda_wish     wish = {};
                mail_cuda_session   s = {};
                mailp_cuda_queue    q = {stream, cudaSuccess, 0, 0, 0, 0.0};
                mailp_cuda_wide_work wide[2];
                mailp_cuda_work     fused[2];
                wish.wide = columns;
                s.policy = p;
                s.B = (int)batch;
                s.eyes = 2;
                s.wish = wish;
                for (int e = 0; e < 2; e++) {
                    float *from = (float *)in + (size_t)e * in.n / 2, *to = (float *)out + (size_t)e * out.n / 2, *add = (float *)skip + (size_t)e * skip.n / 2;
                    wide[e] = {w[e], (uint4 *)(void *)from, k.residual ? (uint4 *)(void *)add : NULL, (uint4 *)(void *)to, NULL, 1, k.quarters};
                    fused[e] = {w[e], to, from, k.residual ? add : NULL, 1, NULL, NULL, NULL};
                }
                const bool fits = columns < 0 || (p->warpgroups && mailp_cuda_choose_wide(&s, line, k.CI, k.CO, 2, k.stride == 1).shape);
                const double ms = fits ? percentile(timed(stream, 0.02, [&](int) {
                    if (columns < 0) {
                        (void)mailp_cuda_queue_fused(&q, &s, fused, 2, H, H);
                    } else {
                        mailp_cuda_queue_wide(&q, &s, wide, 2, k.HO, k.HO);
                    }
                }), 0.5) : NAN;
                check(q.error, "layer");
                printf(" %9.1f", 1e3 * ms);
            }
            printf("\n");
            fflush(stdout);
        }
        /* the first convolution with its pooling, by mailp_cuda_stem and mailp_cuda_norm, and by mailp_cuda_wide_stem */
        const size_t          maps = batch * 64 * 64 * 64;
        ct_device             in(2 * batch * 128 * 128 * 3), raw(2 * maps), stats(2 * maps / 16), out(maps / 2);
        check(cudaMemset(in, 0x2c, in.n * sizeof(float)), "memory");
        printf("%6zu %6d %9s %7d %9s", batch, 64, "3-64", 2, "no");
        for (int wide : {0, 1}) {
            mail_cuda_session s = {};
            mailp_cuda_queue  q = {stream, cudaSuccess, 0, 0, 0, 0.0};
            mailp_cuda_work   first[2];
            s.policy = p;
            s.B = (int)batch;
            s.eyes = 2;
            for (size_t e = 0; e < 2; e++) {
                float *to = (float *)out + e * out.n / 2;
                first[e] = {&p->camera[e].stem, to, (float *)in + e * in.n / 2, NULL, 1, (float *)raw + e * maps, (float *)stats + e * stats.n / 2, NULL};
            }
            s.wish.wide = wide;
            const double ms = percentile(timed(stream, 0.02, [&](int) { mailp_cuda_queue_first(&q, &s, first, 2, 128, 128, 0); }), 0.5);
            check(q.error, "first convolution");
            printf(" %9.1f", 1e3 * ms);
        }
        printf("\n");
        fflush(stdout);
    }
    mail_cuda_policy_free(p);
    mail_policy_free(policy);
}

/* The first kernel, of which 30% of the copy was predicted, reached 27% at L 4096, batch 8 on an H100; mailp_cuda_scan_ring, with all fmas
   of a segment on the way around the ring, 43% there and 28% on an H200. Now some 640 instructions of a warp a segment of 8 tokens are
   the limit, of which 1 in 9 is an exponential: 45 us on an H200, 56%. Exponentials alone would allow 75%. */
static void scans(cudaStream_t stream) {
    const size_t copy_bytes = (size_t)1 << 30;
    char        *a, *b;
    check(cudaMalloc((void **)&a, copy_bytes), "copy");
    check(cudaMalloc((void **)&b, copy_bytes), "copy");
    const double copy_ms = percentile(timed(stream, 0.3, [&](int) { check(cudaMemcpyAsync(a, b, copy_bytes, cudaMemcpyDeviceToDevice, stream), "copy"); }), 0.5);
    const double rate = 2.0 * (double)copy_bytes / copy_ms; /* bytes a millisecond, read and written */
    (void)cudaFree(a);
    (void)cudaFree(b);
    printf("device copy: %.0f GB/s\nscan, d_inner 256, d_state 16; expected for L 4096, batch 8: 56%% of the copy (H200), must: 70%%\n%6s %6s %10s %10s %s\n", rate * 1e-6,
           "batch", "L", "ms", "GB/s", "of copy");
    for (size_t batch = 1; batch <= 8; batch *= 8) {
        for (size_t L = 64; L <= 65536; L *= 4) {
            ct_scan      s(batch, L, 256, 16, false, false);
            const double ms = percentile(timed(stream, 0.2, [&](int) { (void)s.run(stream); }), 0.5);
            const double bytes = (double)(batch * L) * (3.0 * 256 + 2.0 * 16) * 4.0;
            printf("%6zu %6zu %10.4f %10.0f %.0f%%\n", batch, L, ms, bytes / ms * 1e-6, 100.0 * bytes / ms / rate);
        }
    }
}

int main(int argc, char **argv) {
    std::string batches = "1,2,4,8,16,32,64", only;
    double      seconds = 1.0;
    int         devices = 0, driver = 0;
    cudaStream_t stream;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--batches") == 0) {
            batches = argv[i + 1];
        } else if (strcmp(argv[i], "--seconds") == 0) {
            seconds = atof(argv[i + 1]);
        } else if (strcmp(argv[i], "--only") == 0) {
            only = argv[i + 1];
        }
    }
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < 1) {
        printf("cuda_bench: skipped, no GPU\n");
        return 0;
    }
    cudaDeviceProp prop;
    check(cudaGetDeviceProperties(&prop, 0), "properties");
    check(cudaDriverGetVersion(&driver), "driver");
    printf("%s, sm_%d%d, %d SMs, CUDA %d.%d\n", prop.name, prop.major, prop.minor, prop.multiProcessorCount, driver / 1000, driver % 1000 / 10);

    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    if (only.empty() || only == "decisions") {
        decisions(batches, seconds, stream);
    }
    if (only.empty() || only == "loops") {
        loops(stream);
    }
    if (only.empty() || only == "layers") {
        layers(stream);
    }
    if (only.empty() || only == "scans") {
        scans(stream);
    }
    (void)cudaStreamDestroy(stream);
    return 0;
}
