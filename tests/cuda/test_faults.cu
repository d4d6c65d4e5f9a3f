/* test_faults: would the tests notice a missing synchronisation?

       build/test_cuda faults mail_cuda.cuh [PART]     (built by all_tests.cu; PART: only cases whose name contains it)

   Each __syncthreads, __syncwarp, cluster barrier, barrier wait and wait for the kernel before of mail_cuda.cuh that the cases below reach is switched
   off in turn, by its source line, and the cases run again under five schedules of the threads. A fault is noticed when
   the bits change, or when cuda_on_cpu.h stops the program (deadlock, divergence, out-of-bounds). Every fault must be
   noticed, but for lines that say "(unseen by test_faults: REASON)". Before that, kernels with other faults show that
   cuda_on_cpu.h stops them. Needs no GPU and has no meaning on one. */
#include "cuda_test.h"

#include <fcntl.h>
#include <sys/wait.h>

static uint64_t run_scan(void) {
    ct_scan s(2, 300, 4, 16, false);
    (void)s.run();
    return ct_hash(s.h.host(), ct_hash(s.y.host()));
}

static uint64_t run_ring(void) {
    ct_scan s(1, 500, 16, 16, false); /* every lane has a pair, so that states read too early are other states */
    (void)s.run_ring();
    return ct_hash(s.h.host(), ct_hash(s.y.host()));
}

/* A decision with features, by the plain path (robots 0) or in one launch. */
static uint64_t run_plan(mail_arch arch, int robots, size_t batch) {
    mailp_config      c = ct_config(arch, 16, 5);
    mailp_cuda_wish   wish = {};
    c.n_timesteps = 2;
    wish.plain = !robots && arch == MAIL_D_MA; /* transformers have no other path, and there kernels begin early */
    wish.robots = robots;
    mail_cuda_policy  *p = ct_policy(c);
    mail_cuda_session *s = ct_session(p, batch, wish);
    floats             f = ct_normal(batch * c.state_dim, 3), actions(batch * c.action_dim);
    (void)mail_cuda_observe_features(s, f.data(), f.size(), NULL);
    (void)mail_cuda_act(s, actions.data(), NULL);
    const uint64_t hash = ct_hash(ct_host(s->chunks.chunk, batch * c.act_seq * c.action_dim), ct_hash(actions));
    mail_cuda_session_free(s);
    mail_cuda_policy_free(p);
    return hash;
}

/* A long sequence in small tiles, as a long history would have. 64 threads: a channel moves from thread to thread. */
static uint64_t run_tiles(void) {
    ct_mixer m(96, 4, 2, 7, 96);
    m.launch(2, 64);
    return ct_hash(m.state.host(), ct_hash(m.y.host()));
}

/* One small picture through the whole encoder, by the plain kernels where a block has little shared memory. */
static uint64_t run_camera(int smem) {
    mailp_config c = ct_config(MAIL_D_MA, 8, 5);
    c.algorithm = MAIL_BC;
    (void)snprintf(c.trunk[0].name, sizeof c.trunk[0].name, "encoder");
    c.n_cameras = 1;
    (void)snprintf(c.camera[0].name, sizeof c.camera[0].name, "cam");
    c.camera[0].height = 32;
    c.camera[0].width = 40;
    c.camera[0].map_height = 1;
    c.camera[0].map_width = 2;
    c.camera[0].res_width = 16;
    c.camera[0].n_keypoints = 9;
    c.camera[0].feature_dim = c.state_dim;
    const int          given = cpucuda::device.smem;
    cpucuda::device.smem = smem;
    mail_cuda_policy  *p = ct_policy(c);
    mail_cuda_session *s = ct_session(p, 1, mailp_cuda_wish());
    cpucuda::device.smem = given;
    const floats       noise = ct_normal(32 * 40 * 3, 9, 60.0f, 128.0f);
    std::vector<unsigned char> pixels(noise.size());
    for (size_t i = 0; i < noise.size(); i++) {
        pixels[i] = (unsigned char)(noise[i] < 0.0f ? 0.0f : noise[i] > 255.0f ? 255.0f : noise[i]);
    }
    mail_image image;
    memset(&image, 0, sizeof image);
    image.data = pixels.data();
    image.width = 40;
    image.height = 32;
    (void)mail_cuda_observe(s, &image, 1, NULL);
    const uint64_t hash = ct_hash(ct_host(s->history.ring, c.obs_seq * c.state_dim), ct_hash(ct_host(s->features[0], c.state_dim)));
    mail_cuda_session_free(s);
    mail_cuda_policy_free(p);
    return hash;
}

/* ---- what cuda_on_cpu.h itself has to report ---- */

/* 1 if a block of 64 threads, or a cluster of two, with 256 bytes of shared memory ends in any other way than well. */
static int stopped(unsigned cluster, const std::function<void()> &kernel) {
    const pid_t child = fork();
    int         status = 0;
    if (child == 0) {
        const int quiet = open("/dev/null", O_WRONLY);
        (void)dup2(quiet, 2);
        (void)alarm(60);
        cpucuda::launch_now(dim3(cluster), dim3(64), cluster, false, 256, kernel);
        _exit(0);
    }
    return child > 0 && waitpid(child, &status, 0) == child && !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void faults_of_kernels(void) {
    CHECK(!stopped(2, [] { /* nothing wrong */
        MAILP_CUDA_SHARED(float, s);
        s[threadIdx.x] = 1.0f;
        __syncthreads();
        s[threadIdx.x] = __shfl_xor_sync(0xffffffffu, s[63 - threadIdx.x], 1);
        mailp_dev_cluster_sync();
    }));
    CHECK(stopped(1, [] { /* two barriers at once */
        if (threadIdx.x < 32) {
            __syncthreads();
        } else {
            __syncthreads();
        }
    }));
    CHECK(stopped(1, [] { /* a lane that does not come to the shuffle */
        if (threadIdx.x != 7) {
            (void)__shfl_sync(0xffffffffu, 1.0f, 0);
        }
    }));
    CHECK(stopped(1, [] { /* not the whole warp asked for */
        (void)__shfl_sync(0xffffu, 1.0f, 0);
    }));
    CHECK(stopped(1, [] { /* behind the end of shared memory */
        MAILP_CUDA_SHARED(float, s);
        s[64 + 32 + threadIdx.x] = 1.0f;
    }));
    CHECK(stopped(2, [] { /* a block that leaves before what it is sent has arrived */
        MAILP_CUDA_SHARED(float, s);
        mailp_cuda_bar *bar = (mailp_cuda_bar *)(void *)(s + 32);
        if (threadIdx.x == 0) {
            mailp_dev_bar_init(bar);
            mailp_dev_bar_expect(bar, 16);
        }
        mailp_dev_cluster_sync();
        if (mailp_dev_rank() == 0 && threadIdx.x == 0) {
            mailp_dev_push4(s, 1, make_float4(1.0f, 1.0f, 1.0f, 1.0f), bar);
        }
    }));
    CHECK(stopped(1, [] { /* bytes that nobody sends */
        MAILP_CUDA_SHARED(mailp_cuda_bar, bar);
        if (threadIdx.x == 0) {
            mailp_dev_bar_init(bar);
            mailp_dev_bar_expect(bar, 4);
        }
        __syncthreads();
        mailp_dev_bar_wait(bar, 0);
    }));
}

/* 1 if switching off the synchronisation on `line` is noticed. Runs in a process of its own. */
static int noticed(const std::function<uint64_t()> &run, uint64_t want, int line) {
    const pid_t child = fork();
    int         status = 0;
    if (child == 0) {
        const int quiet = open("/dev/null", O_WRONLY);
        (void)dup2(quiet, 1);
        (void)dup2(quiet, 2);
        (void)alarm(60); /* a program that never ends is noticed too */
        cpucuda::skip_line = line;
        int other = 0;
        for (int order = 0; order < 5 && !other; order++) {
            cpucuda::order = order;
            other = run() != want;
        }
        _exit(other);
    }
    return child > 0 && waitpid(child, &status, 0) == child && !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int TEST_FAULTS_MAIN(int argc, char **argv) {
    const std::vector<ct_case> cases = {
        {"scan", run_scan},
        {"scan, ring", run_ring},
        {"tiles of a long sequence", run_tiles},
        {"plain, D-Ma", [] { return run_plan(MAIL_D_MA, 0, 1); }},
        {"plain, D-Tr", [] { return run_plan(MAIL_D_TR, 0, 1); }},
        {"one launch, 4 robots", [] { return run_plan(MAIL_D_MA, 4, 4); }}, /* sums of x_proj travel twice */
        {"one launch, 2 robots", [] { return run_plan(MAIL_ED_MA, 2, 2); }},
        {"one launch, 1 robot", [] { return run_plan(MAIL_D_MA, 1, 1); }},
        {"camera, 24 KB of shared memory", [] { return run_camera(24 * 1024); }},
        {"camera", [] { return run_camera(227 * 1024); }},
        {"convolution of few pictures", [] { return fused_case(1, 8, 8, 128, 16, 3, 1, false, false, 8); }}, /* of test_cuda.cu */
        {"convolution of many pictures", [] { return fused_case(3, 8, 8, 64, 64, 3, 1, true, false, 1); }},
        {"convolution by warpgroups", [] { return wide_case(1, 8, 8, 128, 64, 3, 1, true, false, 48, "line"); }},
        {"convolution by warpgroups, stride 2", [] { return wide_case(2, 8, 8, 96, 64, 3, 2, false, false, 48, "line"); }},
        {"first convolution by warpgroups", [] { return first_case(1, 20, 12, 64, false, 0); }},
        {"convolution of many pictures, inputs in parts", [] { return fused_case(2, 16, 12, 128, 64, 3, 1, false, false, 1); }},
    };
    faults_of_kernels();
    std::vector<std::string> source(1); /* lines count from 1 */
    FILE                    *f = argc > 1 ? fopen(argv[1], "r") : NULL;
    char                     text[512];
    while (f && fgets(text, sizeof text, f)) {
        source.push_back(text);
    }
    if (!f || source.size() < 100) {
        printf("usage: test_cuda faults mail_cuda.cuh\n");
        return 2;
    }
    (void)fclose(f);
    std::vector<int> state(source.size()); /* 0 never reached, 1 reached, 2 noticed */
    for (const ct_case &c : cases) {
        if (argc > 2 && !strstr(c.name, argv[2])) {
            continue;
        }
        memset(cpucuda::sync_seen, 0, sizeof cpucuda::sync_seen);
        cpucuda::order = 0;
        const uint64_t want = c.run();
        int            lines = 0, found = 0;
        for (size_t line = 1; line < source.size(); line++) {
            if (cpucuda::sync_seen[line] && state[line] < 2) {
                lines++;
                state[line] = noticed(c.run, want, (int)line) ? 2 : 1;
                found += state[line] == 2;
            }
        }
        printf("%-40s %d of %d faults noticed\n", c.name, found, lines);
        fflush(stdout);
    }
    for (size_t line = 1; line < source.size(); line++) {
        const bool sync = source[line].find("__syncthreads()") != std::string::npos || source[line].find("__syncwarp()") != std::string::npos ||
                          source[line].find("mailp_dev_cluster_sync();") != std::string::npos ||
                          source[line].find("mailp_dev_cluster_arrive();") != std::string::npos ||
                          source[line].find("mailp_dev_cluster_wait();") != std::string::npos ||
                          source[line].find("mailp_dev_bar_wait(&") != std::string::npos || source[line].find("    mailp_dev_wait();") == 0;
        if (sync && argc > 2 && state[line] == 1) {
            printf("line %zu: its absence goes unnoticed here: %s", line, source[line].c_str());
        }
        if (sync && argc <= 2 && source[line].find("unseen by test_faults") == std::string::npos) {
            CHECK_MSG(state[line] == 2, "line %zu, %s: %s", line, state[line] ? "its absence goes unnoticed" : "never reached",
                      source[line].c_str());
        }
    }
    return test_end("test_faults");
}
