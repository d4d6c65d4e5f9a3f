/* twin_cases.h - sessions of mail_cuda.cuh beside sessions of mail.h: the same calls, the same actions. Part of test_cuda.cu.

   Policies are those of the golden cases (small, of every kind) and random ones of the released widths, which on a GPU with
   clusters take the loop in one launch. Run in the folder of mail.h. */
#ifndef TWIN_CASES_H
#define TWIN_CASES_H

#include "cuda_test.h"

#include "../small.h"

/* One policy and a session of each kind; actions so far. */
struct twin {
    const char        *name;
    mail_policy       *policy;
    mail_session      *cpu;
    mail_cuda_policy  *gpu;
    mail_cuda_session *robots;
    const mail_info   *info;
    size_t             batch;
    floats             got, want; /* all actions that were given out */
    mail_error         err, err2;

    twin(const char *case_name, mail_policy *loaded, const mail_cuda_options &o, int on_plain_path) : name(case_name), policy(loaded) {
        mail_cuda_options options = o;
        options.plain = on_plain_path;
        info = mail_policy_info(policy);
        batch = o.session.batch;
        cpu = small_session(policy, &o.session);
        if (mail_cuda_policy_create(&gpu, policy, &err) != MAIL_OK || mail_cuda_session_create(&robots, gpu, &options, NULL, &err) != MAIL_OK) {
            printf("%s: %s\n", name, err.text);
            exit(2);
        }
    }
    twin(const twin &) = delete;
    ~twin() {
        mail_cuda_session_free(robots);
        mail_cuda_policy_free(gpu);
        mail_session_free(cpu);
        mail_policy_free(policy);
    }
    void same(mail_status a, mail_status b) {
        CHECK_MSG(a == b, "%s: mail.h says %s, mail_cuda.cuh %s (%s)", name, mail_status_text(a), mail_status_text(b), b == MAIL_OK ? "" : err2.text);
    }
    void observe(unsigned tick) {
        floats f(batch * info->state_dim);
        for (size_t b = 0; b < batch; b++) {
            small_frame(policy, &f[b * info->state_dim], (unsigned)b, tick);
        }
        CHECK(mail_observe_due(cpu) == mail_cuda_observe_due(robots));
        same(mail_observe_features(cpu, f.data(), f.size(), &err), mail_cuda_observe_features(robots, f.data(), f.size(), &err2));
    }
    void goal(unsigned which) {
        if (info->has_lang) {
            floats g(batch * info->lang_dim);
            small_fill(g.data(), g.size(), 7, which);
            same(mail_session_set_goal(cpu, g.data(), g.size(), &err), mail_cuda_session_set_goal(robots, g.data(), g.size(), &err2));
        }
    }
    void keep(const floats &a, const floats &b) {
        want.insert(want.end(), a.begin(), a.end());
        got.insert(got.end(), b.begin(), b.end());
    }
    void act(void) {
        floats a(batch * info->action_dim), b(a.size());
        same(mail_act(cpu, a.data(), &err), mail_cuda_act(robots, b.data(), &err2));
        (void)cudaDeviceSynchronize();
        keep(a, b);
    }
    void plan(void) {
        floats a(batch * info->act_seq * info->action_dim), b(a.size());
        same(mail_plan(cpu, a.data(), &err), mail_cuda_plan(robots, b.data(), &err2));
        (void)cudaDeviceSynchronize();
        keep(a, b);
    }
    /* ||got - want|| / ||want|| over everything, and its hash. */
    uint64_t judge(double limit) {
        CHECK(mail_cuda_session_check(robots, &err) == MAIL_OK);
        const double d = ct_distance(got, want);
        CHECK_MSG(d <= limit, "%s: the actions are %.3g apart, %.3g is allowed", name, d, limit);
        return ct_hash(got);
    }
};

/* Two episodes of ten ticks in which robots are forgotten, plans asked for early and the goal changes. */
static uint64_t twin_episodes(twin &t, double limit) {
    floats nothing(t.batch * t.info->action_dim), x_T(t.batch * t.info->act_seq * t.info->action_dim, 0.5f);
    t.goal(1);
    t.same(mail_act(t.cpu, nothing.data(), &t.err), mail_cuda_act(t.robots, nothing.data(), &t.err2)); /* too early */
    for (unsigned tick = 0; tick < 10; tick++) {
        t.observe(tick);
        t.act();
        if (tick == 2 && t.batch > 1) { /* its chunk alone is planned again */
            t.same(mail_session_reset_robot(t.cpu, 1, &t.err), mail_cuda_session_reset_robot(t.robots, 1, &t.err2));
            t.same(mail_act(t.cpu, nothing.data(), &t.err), mail_cuda_act(t.robots, nothing.data(), &t.err2)); /* no frame of it yet */
        } else if (tick == 5) {
            t.plan();
        } else if (tick == 6) {
            t.goal(2);
        } else if (tick == 8) { /* noise for the next plan outlives a robot's reset */
            mail_session_set_noise(t.cpu, x_T.data(), NULL);
            mail_cuda_session_set_noise(t.robots, x_T.data(), NULL);
            t.same(mail_session_reset_robot(t.cpu, 0, &t.err), mail_cuda_session_reset_robot(t.robots, 0, &t.err2));
        } else if (tick == 7) {
            mail_session_reset(t.cpu, 99);
            t.same(MAIL_OK, mail_cuda_session_reset(t.robots, 99, &t.err2));
        }
    }
    return t.judge(limit);
}

enum { TWIN_PLAIN, TWIN_DDIM, TWIN_ENSEMBLE, TWIN_LIMITS, TWIN_ALL, TWIN_KINDS };
static const char *const twin_kinds[] = {"as trained", "DDIM", "ensembling", "limits", "DDIM, ensembling, limits"};

static mail_cuda_options twin_options(const mail_policy *policy, int kind, size_t batch) {
    static const float lo[] = {-0.2f, -0.3f, -0.25f, -0.2f, -0.3f, -0.1f, -0.2f}, hi[] = {0.3f, 0.2f, 0.25f, 0.3f, 0.1f, 0.2f, 0.3f};
    static const float step[] = {0.1f, 0.2f, 0.15f, 0.1f, 0.2f, 0.05f, 0.1f};
    const mail_info   *info = mail_policy_info(policy);
    mail_cuda_options  o = mail_cuda_options_init();
    o.session.batch = batch;
    o.session.seed = 3;
    if ((kind == TWIN_DDIM || kind == TWIN_ALL) && info->algorithm == MAIL_DDPM) {
        o.session.sampler = MAIL_SAMPLER_DDIM;
        o.session.n_steps = info->n_timesteps > 2 ? (info->n_timesteps + 1) / 2 - 1 : 0;
    }
    if (kind == TWIN_ENSEMBLE || kind == TWIN_ALL) {
        o.session.ensemble = 1;
        o.session.ensemble_decay = 0.2f;
    }
    if (kind == TWIN_LIMITS || kind == TWIN_ALL) {
        o.session.action_max_step = step;
        o.session.n_action_steps = 2;
    }
    if (kind == TWIN_LIMITS) {
        o.session.action_min = lo;
        o.session.action_max = hi;
    }
    return o;
}

/* A golden case's policy with every kind of options, or with none and with all. The golden suite judges exactness; here the two engines, both float32,
   stay within 1e-5, or what their rounding grows to where a case is made to amplify it. */
static uint64_t twin_case(const char *name, bool every_kind, double limit) {
    uint64_t hash = 0;
    for (int kind = 0; kind < TWIN_KINDS; kind += every_kind ? 1 : TWIN_ALL) {
        mail_policy            *policy = small_load(name);
        const mail_cuda_options o = twin_options(policy, kind, kind == TWIN_DDIM ? 1 : 3);
        twin                    t(twin_kinds[kind], policy, o, 0);
        hash = ct_hash(&hash, sizeof hash, twin_episodes(t, limit));
    }
    return hash;
}

static uint64_t twin_wide_case(mail_arch arch, size_t chunk, int kind, int on_plain_path) {
    random_policy     r = ct_released(arch, 2, chunk, 0);
    r.n_layers = r.enc_layers = r.dec_layers = 2;
    mail_policy      *policy = ct_load(r);
    mail_cuda_options o = twin_options(policy, kind, 2);
    if (kind == TWIN_DDIM) {
        o.session.n_steps = 3;
    }
    twin t("released widths", policy, o, on_plain_path);
    const bool mamba = arch == MAIL_D_MA || arch == MAIL_ED_MA;
    CHECK((t.robots->loop.kernel != NULL) == (mamba && !on_plain_path && t.gpu->sm >= 90));
    for (unsigned tick = 0; tick < 3; tick++) {
        t.observe(tick);
        t.plan();
    }
    return t.judge(1e-5);
}

/* ---- pictures ---- */

/* A picture of that format with random bytes (floats in 0..1) and rows longer than needed. */
static mail_image twin_picture(std::vector<float> &memory, mail_format format, size_t height, size_t width, size_t padding, int flip, unsigned which) {
    mail_image image;
    memset(&image, 0, sizeof image);
    image.width = width;
    image.height = height;
    image.format = format;
    image.flip = flip;
    image.stride = mailp_image_row_bytes(format, width) + padding;
    const size_t bytes = mailp_cuda_image_rows(image) * image.stride;
    const floats noise = ct_normal(bytes, 77 + which);
    memory.assign(bytes / 4 + 1, 0.0f);
    for (size_t i = 0; i < bytes; i++) {
        ((unsigned char *)memory.data())[i] = (unsigned char)(int)(noise[i] * 80.0f + 128.0f);
    }
    for (size_t i = 0; i < memory.size() && format == MAIL_F32_PLANAR; i++) {
        memory[i] = 0.5f + 0.5f * sinf(noise[i]);
    }
    image.data = memory.data();
    return image;
}

/* Every format, packed or not, either way up, of the network's size, larger and smaller, from host and device: the bits that
   mail.h makes of them. */
static uint64_t picture_case(void) {
    static const size_t sizes[][2] = {{33, 64}, {34, 64}, {66, 128}, {40, 30}, {10, 20}, {98, 40}, {2, 2}};
    mail_policy        *policy = small_load("vision_two");
    mail_cuda_options   o = mail_cuda_options_init();
    o.picture_bytes = 66 * 128 * 12; /* not enough for two of the largest: pictures go in several pieces */
    twin        t("pictures", policy, o, 0);
    uint64_t    hash = 0;
    unsigned    which = 0;
    const floats on_device = ct_host(t.gpu->image_table, 768);
    std::vector<unsigned char> rgb(3 * MAILP_COLUMNS);
    std::vector<double>        columns(3 * MAILP_COLUMNS);
    for (const size_t *size : sizes) {
        for (int format = 0; format < MAIL_FORMAT_COUNT; format++) {
            floats     memory[2];
            mail_image images[2];
            for (int k = 0; k < 2; k++, which++) {
                images[k] = twin_picture(memory[k], (mail_format)format, format == MAIL_NV12 ? (size[0] + 1) / 2 * 2 : size[0], size[1],
                                         which % 3 == 1 ? 12 : 0, which % 4 == 2, which);
            }
            ct_device there(memory[1]);
            if (size[0] % 4 == 0) {
                images[1].data = there.data;
            }
            mailp_cuda_queue q = {NULL, cudaSuccess, 0, 0, 0, 0.0};
            CHECK(mailp_cuda_image_check(t.robots, images[0], &t.err) == MAIL_OK && mailp_cuda_image_check(t.robots, images[1], &t.err) == MAIL_OK);
            mailp_cuda_queue_pictures(&q, t.robots, images, 2);
            CHECK(q.error == cudaSuccess);
            images[1].data = memory[1].data();
            for (int k = 0; k < 2; k++) {
                const mail_camera_info &cam = t.info->cameras[k];
                const size_t            row = cam.width * 3;
                floats                  want(cam.height * row);
                std::vector<double>     sums(row);
                const mailp_image_tools tools = {t.policy->kernels, on_device.data(), rgb.data(), columns.data(), sums.data()};
                for (size_t y = 0; y < cam.height; y++) {
                    mailp_image_prepare(&want[y * row], &want[y * row] + 3, 6, &images[k], y, cam.height, cam.width, &tools);
                }
                const floats got = ct_host(t.robots->picture[k], want.size());
                const double most = format == MAIL_F32_PLANAR ? 1e-7 : 0.0; /* mail.h sums floats in another order */
                CHECK_MSG(ct_distance(got, want) <= most, "format %d, %zu x %zu, picture %d: %g apart", format, size[1], size[0], k, ct_distance(got, want));
                hash = ct_hash(got, hash);
            }
        }
    }
    /* and on to the features: the same policy through both engines */
    floats     memory[2], plan[2];
    mail_image images[2] = {twin_picture(memory[0], MAIL_BGRA8, 70, 50, 4, 1, 1), twin_picture(memory[1], MAIL_NV12, 98, 40, 0, 0, 2)};
    mail_session_reset(t.cpu, 5);
    CHECK(mail_cuda_session_reset(t.robots, 5, &t.err) == MAIL_OK);
    for (int tick = 0; tick < 2; tick++) {
        CHECK(mail_observe(t.cpu, images, 2, &t.err) == MAIL_OK && mail_cuda_observe(t.robots, images, 2, &t.err) == MAIL_OK);
        t.plan();
        std::swap(images[0], images[1]);
    }
    hash = ct_hash(&hash, sizeof hash, t.judge(1e-5));
#ifdef MAIL_CUDA_ON_CPU
    floats              action(t.info->action_dim); /* neither allocates nor waits */
    const cpucuda::Count before = cpucuda::count;
    CHECK(mail_cuda_observe(t.robots, images, 2, &t.err) == MAIL_OK && mail_cuda_act(t.robots, action.data(), &t.err) == MAIL_OK);
    CHECK(cpucuda::count.mallocs == before.mallocs && cpucuda::count.syncs == before.syncs);
#endif

    /* what is refused, in mail.h's words, before anything is queued */
    mail_image bad[2] = {images[0], images[0]};
    bad[1].stride = 3;
    t.same(mail_observe(t.cpu, bad, 2, &t.err), mail_cuda_observe(t.robots, bad, 2, &t.err2));
    CHECK(strcmp(t.err.text, t.err2.text) == 0);
    bad[1] = images[0];
    bad[1].data = NULL;
    t.same(mail_observe(t.cpu, bad, 2, &t.err), mail_cuda_observe(t.robots, bad, 2, &t.err2));
    bad[1] = images[0];
    bad[1].format = (mail_format)99;
    t.same(mail_observe(t.cpu, bad, 2, &t.err), mail_cuda_observe(t.robots, bad, 2, &t.err2));
    t.same(mail_observe(t.cpu, bad, 1, &t.err), mail_cuda_observe(t.robots, bad, 1, &t.err2));
    floats big;
    bad[1] = twin_picture(big, MAIL_RGB8, 300, 400, 0, 0, 1); /* more than picture_bytes */
    CHECK(mail_cuda_observe(t.robots, bad, 2, &t.err2) == MAIL_E_ARGUMENT && strstr(t.err2.text, "picture_bytes"));
    ct_device there(big);
    bad[1].data = there.data; /* on the device they may be as large as they like */
    CHECK(mail_cuda_observe(t.robots, bad, 2, &t.err2) == MAIL_OK);
    (void)cudaDeviceSynchronize(); /* the check does not wait */
    CHECK(mail_cuda_session_check(t.robots, &t.err2) == MAIL_OK);

    /* a float outside 0..1: mail.h refuses the picture, here the check tells of it afterwards */
    floats f;
    bad[1] = twin_picture(f, MAIL_F32_PLANAR, 97, 40, 0, 0, 3);
    f[97 * 40 + 5] = 1.5f;
    CHECK(mail_observe(t.cpu, bad, 2, &t.err) == MAIL_E_NUMBER);
    CHECK(mail_cuda_observe(t.robots, bad, 2, &t.err2) == MAIL_OK);
    (void)cudaDeviceSynchronize();
    CHECK(mail_cuda_session_check(t.robots, &t.err2) == MAIL_E_NUMBER && strstr(t.err2.text, "an observation"));
    CHECK(mail_cuda_session_check(t.robots, &t.err2) == MAIL_OK); /* told once */
    floats actions(t.info->act_seq * t.info->action_dim);
    CHECK(mail_cuda_plan(t.robots, actions.data(), &t.err2) == MAIL_OK);
    (void)cudaDeviceSynchronize();
    CHECK(actions[0] != actions[0] && mail_cuda_session_check(t.robots, &t.err2) == MAIL_E_NUMBER && strstr(t.err2.text, "an action"));
    return hash;
}

/* Both cameras of the real robot, 128 x 256 and 256 x 256, through the whole encoder. Full width takes minutes on a CPU;
   there CT_LARGE=1 asks for it. */
static uint64_t robot_camera_case(int on_plain_path) {
    if (!CT_LARGE) {
        return 0;
    }
    random_policy     r = ct_released(MAIL_D_MA, 1, 5, 2);
    r.n_layers = 2;
    r.width[0] = r.height[1] = r.width[1] = 256;
    mail_policy      *policy = ct_load(r);
    mail_cuda_options o = mail_cuda_options_init();
    o.session.sampler = MAIL_SAMPLER_DDIM;
    o.session.n_steps = 2;
    twin       t("robot cameras", policy, o, on_plain_path);
    floats     memory[2];
    mail_image images[2] = {twin_picture(memory[0], MAIL_RGB8, 128, 256, 0, 0, 1), twin_picture(memory[1], MAIL_RGB8, 256, 256, 0, 0, 2)};
    CHECK(mail_observe(t.cpu, images, 2, &t.err) == MAIL_OK && mail_cuda_observe(t.robots, images, 2, &t.err) == MAIL_OK);
    t.plan();
    return t.judge(1e-5);
}

/* More robots than mailp_cuda_few is for: by warpgroups on a GPU that has them, of pictures with odd sizes in later stages, a few to a block. */
static uint64_t many_robots_case(void) {
    random_policy r = ct_released(MAIL_D_MA, 1, 5, 2);
    r.n_layers = 1;
    r.height[0] = r.height[1] = 24;
    r.width[0] = r.width[1] = 32;
    mail_policy      *policy = ct_load(r);
    mail_cuda_options o = mail_cuda_options_init();
    o.session.sampler = MAIL_SAMPLER_DDIM;
    o.session.n_steps = 1;
    o.session.batch = MAILP_CUDA_WIDE_ROBOTS;
    twin                    t("many robots", policy, o, 0);
    std::vector<floats>     memory(2 * o.session.batch);
    std::vector<mail_image> images;
    CHECK(t.robots->wide[0] == t.gpu->warpgroups);
    for (unsigned i = 0; i < 2 * o.session.batch; i++) {
        images.push_back(twin_picture(memory[i], MAIL_RGB8, 24, 32, 0, 0, i));
    }
    t.same(mail_observe(t.cpu, images.data(), images.size(), &t.err), mail_cuda_observe(t.robots, images.data(), images.size(), &t.err2));
    t.plan();
    return t.judge(1e-5);
}

/* Cameras of a few pixels by the plain path: their last maps are larger than the first. */
static uint64_t tiny_camera_case(void) {
    random_policy r = ct_released(MAIL_D_MA, 1, 5, 2);
    r.n_layers = 1;
    r.height[0] = r.width[0] = r.height[1] = r.width[1] = 4;
    mail_policy      *policy = ct_load(r);
    mail_cuda_options o = mail_cuda_options_init();
    o.session.sampler = MAIL_SAMPLER_DDIM;
    o.session.n_steps = 1;
    twin       t("tiny cameras", policy, o, 1);
    floats     memory[2];
    mail_image images[2] = {twin_picture(memory[0], MAIL_RGB8, 4, 4, 0, 0, 1), twin_picture(memory[1], MAIL_RGB8, 4, 4, 0, 0, 2)};
    t.same(mail_observe(t.cpu, images, 2, &t.err), mail_cuda_observe(t.robots, images, 2, &t.err2));
    t.plan();
    return t.judge(1e-5);
}

static std::vector<ct_case> twin_cases(void) {
    static const char *const names[] = {"d_ma_ddpm_lang_h5", "ed_ma_ddpm_lang_h5", "d_tr_ddpm_lang_h5", "ed_tr_ddpm_lang_h5", "d_ma_bc_lang_h5",
                                        "ed_ma_bc_h5", "d_tr_bc_h5", "ed_tr_bc_lang_h5", "d_ma_ddpm_h1", "dx10_ed_ma", "noscale_d_ma"};
    std::vector<ct_case> cases;
    for (const char *name : names) {
        static std::vector<std::string> kept;
        kept.reserve(64); /* names must stay where they are */
        kept.push_back(std::string("beside mail.h: ") + name);
        cases.push_back({kept.back().c_str(), [name] { return twin_case(name, strcmp(name, "d_ma_ddpm_lang_h5") == 0, 1e-5); }});
    }
    for (int plain = 0; plain < 2; plain++) {
        cases.push_back({plain ? "beside mail.h: D-Ma, released widths, plain" : "beside mail.h: D-Ma, released widths",
                         [plain] { return twin_wide_case(MAIL_D_MA, 5, TWIN_DDIM, plain); }});
        cases.push_back({plain ? "beside mail.h: ED-Ma, released widths, plain" : "beside mail.h: ED-Ma, released widths",
                         [plain] { return twin_wide_case(MAIL_ED_MA, 10, TWIN_DDIM, plain); }});
        cases.push_back({plain ? "beside mail.h: robot cameras, plain" : "beside mail.h: robot cameras", [plain] { return robot_camera_case(plain); }});
    }
    cases.push_back({"beside mail.h: D-Tr, released widths", [] { return twin_wide_case(MAIL_D_TR, 10, TWIN_DDIM, 0); }});
    cases.push_back({"beside mail.h: ED-Tr, released widths", [] { return twin_wide_case(MAIL_ED_TR, 5, TWIN_DDIM, 0); }});
    cases.push_back({"beside mail.h: pictures", picture_case});
    cases.push_back({"beside mail.h: many robots with a camera", many_robots_case});
    cases.push_back({"beside mail.h: tiny cameras, plain", tiny_camera_case});
    return cases;
}

#endif
