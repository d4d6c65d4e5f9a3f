/* cuda_bench: how long a decision takes on this machine's GPU.

       build/cuda_bench [--batches 1,2,4,...] [--seconds S]

   A released D-Ma policy with random weights: two 128 x 128 cameras, one frame of history, chunk of 5, 16 layers, 16 DDPM
   steps. Per batch: the encoder (mail_cuda_observe's graph, pictures already on the device), the decision (mail_cuda_plan's
   graph), both, and both on the plain path; median and 99th percentile over S seconds of back-to-back runs on rotating
   pictures, and the median of single decisions 50 ms apart. Before timing, the two paths are compared. Then long scans,
   as a share of the bandwidth that a device copy reaches.  Lines beginning with "predicted" were written before any run. */
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

static mailp_config released(void) {
    mailp_config c = ct_config(MAIL_D_MA, 16, 5);
    c.obs_seq = 1;
    c.pos_rows = 5;
    c.state_dim = 256;
    c.trunk[0].n_layers = 16;
    c.n_timesteps = 16;
    c.n_cameras = 2;
    for (size_t i = 0; i < 2; i++) {
        mailp_camera_config &cam = c.camera[i];
        (void)snprintf(cam.name, sizeof cam.name, "camera%zu", i);
        cam.height = cam.width = 128;
        cam.map_height = cam.map_width = 4;
        cam.res_width = 64;
        cam.n_keypoints = 32;
        cam.feature_dim = 128;
    }
    return c;
}

/* Milliseconds on the stream of run(i), again and again for `seconds`. */
template <class Run>
static std::vector<double> timed(cudaStream_t stream, double seconds, Run run) {
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

static mail_cuda_session *make(const mail_cuda_policy *p, size_t batch, int plain, int half, cudaStream_t stream) {
    mail_cuda_options  o = mail_cuda_options_init();
    mail_cuda_session *s;
    mail_error         err;
    o.batch = batch;
    o.plain = plain;
    o.half = half;
    if (mail_cuda_session_create(&s, p, &o, stream, &err) != MAIL_OK) {
        printf("session: %s\n", err.text);
        exit(1);
    }
    return s;
}

int main(int argc, char **argv) {
    std::string batches = "1,2,4,8,16,32,64";
    double      seconds = 1.0;
    int         devices = 0, driver = 0;
    mail_error  err;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--batches") == 0) {
            batches = argv[i + 1];
        } else if (strcmp(argv[i], "--seconds") == 0) {
            seconds = atof(argv[i + 1]);
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
    printf("predicted for an H200, ms: batch 1: 0.8 (encoder 0.2, decision 0.6); batch 32: 2.0; batch 64: 3.5\n");

    const mailp_config c = released();
    mail_cuda_policy  *p = ct_policy(c);
    cudaStream_t       stream;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    printf("%6s %22s | %17s %17s %17s %17s | %17s %10s | %s\n", "batch", "loop", "encoder ms (p99)", "decision", "both", "both, half", "both, plain",
           "every 50ms", "|fast - plain|");
    for (const char *at = batches.c_str(); at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        const size_t B = (size_t)atoi(at), pictures = 4, bytes = B * 128 * 128 * 3;
        unsigned char *image;
        check(cudaMalloc((void **)&image, 2 * pictures * bytes), "pictures");
        {
            const floats               noise = ct_normal(2 * pictures * 128 * 128 * 3, 5, 60.0f, 128.0f);
            std::vector<unsigned char> one(noise.size());
            for (size_t i = 0; i < one.size(); i++) {
                one[i] = (unsigned char)std::min(255.0f, std::max(0.0f, noise[i]));
            }
            for (size_t i = 0; i < 2 * pictures * B; i++) {
                check(cudaMemcpy(image + i * 49152, one.data() + i % (2 * pictures) * 49152, 49152, cudaMemcpyHostToDevice), "pictures");
            }
        }
        std::vector<mail_image> frames(2 * B);
        auto observe = [&](mail_cuda_session *s, int i) { /* as a robot whose cameras write to the device */
            for (size_t k = 0; k < 2 * B; k++) {
                memset(&frames[k], 0, sizeof frames[k]);
                frames[k].data = image + ((size_t)i % pictures * 2 * B + k) * 49152;
                frames[k].width = frames[k].height = 128;
            }
            if (mail_cuda_observe(s, frames.data(), 2 * B, &err) != MAIL_OK) {
                printf("observe: %s\n", err.text);
                exit(1);
            }
        };
        auto plan = [&](mail_cuda_session *s) {
            if (mail_cuda_plan(s, NULL, &err) != MAIL_OK) {
                printf("plan: %s\n", err.text);
                exit(1);
            }
        };
        mail_cuda_session *fast = make(p, B, 0, 0, stream), *plain = make(p, B, 1, 0, stream), *half = make(p, B, 0, 1, stream);
        observe(fast, 0);
        observe(plain, 0);
        plan(fast);
        plan(plain);
        check(cudaStreamSynchronize(stream), "first decision");
        const size_t n = B * c.act_seq * c.action_dim;
        const double apart = ct_distance(ct_host(fast->actions, n), ct_host(plain->actions, n));
        auto both = [&](mail_cuda_session *s) {
            return timed(stream, seconds, [&](int i) {
                observe(s, i);
                plan(s);
            });
        };
        const std::vector<double> enc = timed(stream, seconds, [&](int) { check(cudaGraphLaunch(fast->observe, stream), "encoder"); });
        const std::vector<double> dec = timed(stream, seconds, [&](int) { plan(fast); });
        const std::vector<double> all = both(fast), all_plain = both(plain), all_half = both(half);
        std::vector<double>       paced;
        for (int i = 0; i < 20; i++) {
            const struct timespec pause = {0, 50000000};
            (void)nanosleep(&pause, NULL);
            const double begin = wall();
            observe(fast, i);
            plan(fast);
            check(cudaStreamSynchronize(stream), "paced");
            paced.push_back(1e3 * (wall() - begin));
        }
        char loop[64] = "plain";
        if (fast->loop.kernel) {
            (void)snprintf(loop, sizeof loop, "%d blocks, %d robots", fast->loop.cluster, fast->loop.robots);
        }
        printf("%6zu %22s | %8.3f (%6.3f) %8.3f (%6.3f) %8.3f (%6.3f) %8.3f (%6.3f) | %8.3f (%6.3f) %10.3f | %.1e\n", B, loop, percentile(enc, 0.5),
               percentile(enc, 0.99), percentile(dec, 0.5), percentile(dec, 0.99), percentile(all, 0.5), percentile(all, 0.99),
               percentile(all_half, 0.5), percentile(all_half, 0.99), percentile(all_plain, 0.5), percentile(all_plain, 0.99),
               percentile(paced, 0.5), apart);
        fflush(stdout);
        mail_cuda_session_free(fast);
        mail_cuda_session_free(plain);
        mail_cuda_session_free(half);
        (void)cudaFree(image);
    }
    mail_cuda_policy_free(p);

    const size_t copy_bytes = (size_t)1 << 30;
    char        *a, *b;
    check(cudaMalloc((void **)&a, copy_bytes), "copy");
    check(cudaMalloc((void **)&b, copy_bytes), "copy");
    const double copy_ms = percentile(timed(stream, 0.3, [&](int) { check(cudaMemcpyAsync(a, b, copy_bytes, cudaMemcpyDeviceToDevice, stream), "copy"); }), 0.5);
    const double rate = 2.0 * (double)copy_bytes / copy_ms; /* bytes a millisecond, read and written */
    (void)cudaFree(a);
    (void)cudaFree(b);
    printf("device copy: %.0f GB/s\n%6s %6s %10s %10s %s\n", rate * 1e-6, "batch", "L", "ms", "GB/s", "of copy   (scan, d_inner 256, d_state 16)");
    for (int batch = 1; batch <= 8; batch *= 8) {
        for (int L = 64; L <= 65536; L *= 4) {
            const size_t   E = 256, N = 16, rows = (size_t)batch * (size_t)L;
            ct_device      u(rows * E), dt(rows * E), B(rows * N), C(rows * N), A(E * N), y(rows * E);
            mail_cuda_scan s = {};
            for (ct_device *d : {&u, &dt, &B, &C, &A}) {
                (void)cudaMemset(d->data, 0, d->n * sizeof(float));
            }
            s.y = y;
            s.u = u;
            s.dt = dt;
            s.A = A;
            s.B = B;
            s.C = C;
            s.L = L;
            s.d_inner = (int)E;
            s.d_state = (int)N;
            s.softplus = 1;
            const double ms = percentile(timed(stream, 0.2, [&](int) { (void)mail_cuda_selective_scan(&s, (size_t)batch, stream, &err); }), 0.5);
            const double bytes = (double)rows * (3.0 * E + 2.0 * N) * 4.0;
            printf("%6d %6d %10.4f %10.0f %.0f%%\n", batch, L, ms, bytes / ms * 1e-6, 100.0 * bytes / ms / rate);
        }
    }
    (void)cudaStreamDestroy(stream);
    return 0;
}
