/* run_case_cuda: judge golden cases by mail_cuda.cuh, with the rule and the output of tests/run_case.c.

       run_case_cuda [--plain] [--robots N] [--pth] [--hash] [--errors] DIR...

       --plain        the plain path for every policy; otherwise the fastest way that the device and the policy allow
       --robots N     only loops of N robots a cluster, where the policy allows them

   Built by a C++ compiler with -DMAIL_CUDA_ON_CPU it runs on the CPU, built by nvcc on a GPU. On the CPU it is a part of
   all_tests.cu, since most of a build goes into the same kernels. */
#define main rc_main /* of run_case.c, not used here: its judge is */
#include "../run_case.c"
#undef main

#include "../../mail_cuda.cuh"

#include <string>

/* What a case owns beyond rc_run. */
struct rcu_run {
    rc_run             base;
    mail_cuda_policy  *policy;
    mail_cuda_session *session;
};

/* Device floats judged as output `name`; more than one frame of a robot is put together from `of` pieces. */
static void rcu_judge(rc_case *c, rcu_run *r, const char *name, const float *device, size_t n) {
    float *values = rc_floats(&r->base, n);
    (void)cudaDeviceSynchronize();
    if (!values || cudaMemcpy(values, device, n * sizeof(float), cudaMemcpyDeviceToHost) != cudaSuccess) {
        rc_fail(c, name, "cannot be read back from the device");
        return;
    }
    rc_judge(c, name, values, n);
}

/* Give frame t to the session, as rc_observe does. */
static mail_status rcu_observe(rc_case *c, rcu_run *r, const float *features, size_t frames, size_t batch, size_t t, float *scratch,
                               mail_error *err) {
    const mail_info *info = mail_policy_info(r->base.policy);
    mail_image       images[MAIL_MAX_CAMERAS * 16];
    if (info->n_cameras == 0) {
        for (size_t b = 0; b < batch; b++) {
            memcpy(scratch + b * info->state_dim, features + (b * frames + t) * info->state_dim, info->state_dim * sizeof *features);
        }
        return mail_cuda_observe_features(r->session, scratch, batch * info->state_dim, err);
    }
    for (size_t i = 0; i < batch * info->n_cameras && batch <= 16; i++) {
        const mail_camera_info *camera = &info->cameras[i % info->n_cameras];
        const size_t            size = camera->height * camera->width * 3;
        char                    name[160];
        (void)snprintf(name, sizeof name, "in.image.%s", camera->name);
        const mail_tensor *pictures = mail_tensors_find(c->file, name);
        memset(&images[i], 0, sizeof images[i]);
        images[i].data = pictures && pictures->count == batch * frames * size ? pictures->data + (i / info->n_cameras * frames + t) * size : NULL;
        images[i].width = camera->width;
        images[i].height = camera->height;
        images[i].format = MAIL_RGB8;
    }
    return mail_cuda_observe(r->session, images, batch * info->n_cameras, err);
}

static void rcu_single(rc_case *c, rcu_run *r, size_t batch, size_t frames, const float *features, float *scratch) {
    const mail_info   *info = mail_policy_info(r->base.policy);
    const size_t       n = batch * info->act_seq * info->action_dim;
    const mail_tensor *tx, *tnoise;
    const float       *x_T = rc_input(c, &r->base, "in.x_T", &tx), *noise = rc_input(c, &r->base, "in.noise", &tnoise);
    float             *actions = rc_floats(&r->base, n);
    mail_error         err;
    if (!actions) {
        rc_fail(c, "run", "out of memory");
        return;
    }
    for (size_t t = 0; t < frames; t++) {
        if (rcu_observe(c, r, features, frames, batch, t, scratch, &err) != MAIL_OK) {
            rc_fail(c, "observe", err.text);
            return;
        }
    }
    for (size_t i = 0; i < info->n_cameras && frames == 1; i++) {
        char name[160];
        (void)snprintf(name, sizeof name, "kp.%s", info->cameras[i].name);
        rcu_judge(c, r, name, r->session->keypoints[i], batch * 2 * (size_t)r->policy->camera[i].n_keypoints);
        (void)snprintf(name, sizeof name, "feat.%s", info->cameras[i].name);
        rcu_judge(c, r, name, r->session->features[i], batch * info->cameras[i].feature_dim);
    }
    mail_cuda_session_set_noise(r->session, x_T, noise);
    if (mail_cuda_plan(r->session, actions, &err) != MAIL_OK) {
        rc_fail(c, "plan", err.text);
        return;
    }
    (void)cudaDeviceSynchronize();
    if (info->algorithm == MAIL_DDPM) {
        rcu_judge(c, r, "time_emb", r->policy->time, info->n_timesteps * info->d_model);
        if (!r->session->loop.kernel) { /* one launch does not show its steps */
            const size_t calls = (size_t)r->session->calls;
            rcu_judge(c, r, "eps", r->session->trace_noise, calls * n);
            rcu_judge(c, r, "x0", r->session->trace_x_start, calls * n);
            rcu_judge(c, r, "x", r->session->trace_x, calls * n);
        }
    }
    rcu_judge(c, r, "action_norm", r->session->trace_norm, n);
    rc_judge(c, "action", actions, n);
}

static void rcu_rollout(rc_case *c, rcu_run *r, size_t steps, const float *features, float *scratch) {
    const mail_info   *info = mail_policy_info(r->base.policy);
    const size_t       runs = (steps + info->n_action_steps - 1) / info->n_action_steps;
    const mail_tensor *tx, *tnoise;
    const float       *x_T = rc_input(c, &r->base, "in.x_T", &tx), *noise = rc_input(c, &r->base, "in.noise", &tnoise);
    float             *actions = rc_floats(&r->base, steps * info->action_dim);
    mail_error         err;
    if (!actions) {
        rc_fail(c, "run", "out of memory");
        return;
    }
    for (size_t i = 0; i < steps; i++) {
        const size_t run = i / info->n_action_steps;
        if (rcu_observe(c, r, features, steps, 1, i, scratch, &err) != MAIL_OK) {
            rc_fail(c, "observe", err.text);
            return;
        }
        if (i % info->n_action_steps == 0 && x_T && noise) {
            mail_cuda_session_set_noise(r->session, x_T + run * (size_t)(tx->count / runs), noise + run * (size_t)(tnoise->count / runs));
        }
        if (mail_cuda_act(r->session, actions + i * info->action_dim, &err) != MAIL_OK) {
            rc_fail(c, "act", err.text);
            return;
        }
        (void)cudaDeviceSynchronize();
    }
    rc_judge(c, "actions", actions, steps * info->action_dim);
}

static void rcu_run_case(rc_case *c, rcu_run *r, const char *dir, mailp_cuda_wish wish) {
    char               path[RC_MAX_PATH + 64];
    mail_options       options = mail_options_init();
    const mail_tensor *t_features, *t_lang, *t_pictures;
    const char        *kind = mail_tensors_metadata(c->file, "kind");
    const bool         rollout = kind && strcmp(kind, "rollout") == 0;
    mail_error         err;
    options.config_json = c->config;
    for (int i = 0; i < 2 && !r->base.policy; i++) { /* cases may have one kind of file only */
        (void)snprintf(path, sizeof path, "%s/%s", dir, (c->options->pth != 0) == (i == 0) ? "model.pth" : "model.safetensors");
        FILE *there = fopen(path, "rb");
        if (there) {
            (void)fclose(there);
            if (mail_policy_load(&r->base.policy, path, &options, &err) != MAIL_OK) {
                rc_fail(c, "load", err.text);
                return;
            }
        }
    }
    if (!r->base.policy || mail_cuda_policy_create(&r->policy, r->base.policy, &err) != MAIL_OK) {
        rc_fail(c, "load", r->base.policy ? err.text : "there is no model file");
        return;
    }
    const mail_info *info = mail_policy_info(r->base.policy);
    const float     *features = rc_input(c, &r->base, "in.features", &t_features), *lang = rc_input(c, &r->base, "in.lang", &t_lang);
    t_pictures = t_features;
    if (info->n_cameras > 0) {
        char name[160];
        (void)snprintf(name, sizeof name, "in.image.%s", info->cameras[0].name);
        t_pictures = mail_tensors_find(c->file, name);
    }
    if (!t_pictures || t_pictures->n_dims < 2) {
        rc_fail(c, "load", "the case has no pictures or features for this policy");
        return;
    }
    const size_t frames = (size_t)t_pictures->shape[rollout ? 0 : 1], batch = rollout ? 1 : (size_t)t_pictures->shape[0];
    float       *scratch = rc_floats(&r->base, batch * info->state_dim);
    mail_cuda_options o = mail_cuda_options_init();
    o.session.batch = batch;
    if (!scratch || mailp_cuda_session_build(&r->session, r->policy, o, NULL, wish, &err) != MAIL_OK) {
        rc_fail(c, "session", scratch ? err.text : "out of memory");
        return;
    }
    if (lang && mail_cuda_session_set_goal(r->session, lang, (size_t)t_lang->count, &err) != MAIL_OK) {
        rc_fail(c, "set_goal", err.text);
        return;
    }
    if (rollout) {
        rcu_rollout(c, r, frames, features, scratch);
    } else {
        rcu_single(c, r, batch, frames, features, scratch);
    }
}

static int rcu_judge_folder(const rc_options *options, const char *dir, mailp_cuda_wish wish) {
    std::string folder(dir);
    rc_case     c;
    rcu_run     r;
    mail_error  err;
    while (folder.size() > 1 && folder.back() == '/') {
        folder.pop_back();
    }
    const std::string name = folder.substr(folder.rfind('/') + 1);
    memset(&c, 0, sizeof c);
    memset(&r, 0, sizeof r);
    c.options = options;
    c.hash = 14695981039346656037u;
    c.name = name.c_str();
    c.config = rc_read_text((folder + "/config.json").c_str());
    if (!c.config) {
        rc_fail(&c, "load", "config.json cannot be read");
    } else if (mail_tensors_open(&c.file, (folder + "/case.safetensors").c_str(), NULL, &err) != MAIL_OK) {
        rc_fail(&c, "load", err.text);
    } else {
        rcu_run_case(&c, &r, folder.c_str(), wish);
        if (!c.failed && c.n_outputs == 0) {
            rc_fail(&c, "outputs", "nothing was judged");
        }
    }
    if (options->hash) {
        printf("%s/hash %016llx\n", c.name, (unsigned long long)c.hash);
    }
    mail_cuda_session_free(r.session);
    mail_cuda_policy_free(r.policy);
    mail_policy_free(r.base.policy);
    for (size_t i = 0; i < r.base.n_buffers; i++) {
        free(r.base.buffer[i]);
    }
    mail_tensors_close(c.file);
    free(c.config);
    return c.failed;
}

#ifndef RUN_CASE_CUDA_MAIN
#  define RUN_CASE_CUDA_MAIN main
#endif
int RUN_CASE_CUDA_MAIN(int argc, char **argv) {
    rc_options      options;
    mailp_cuda_wish wish = {};
    int             i, failed = 0;
    memset(&options, 0, sizeof options);
    options.threads = 1;
    wish.trace = 1;
    for (i = 1; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        if (strcmp(argv[i], "--plain") == 0) {
            wish.plain = 1;
        } else if (strcmp(argv[i], "--pth") == 0) {
            options.pth = 1;
        } else if (strcmp(argv[i], "--hash") == 0) {
            options.hash = 1;
        } else if (strcmp(argv[i], "--errors") == 0) {
            options.errors = 1;
        } else if (strcmp(argv[i], "--robots") == 0 && i + 1 < argc) {
            wish.robots = atoi(argv[++i]);
        } else {
            return rc_usage("run_case_cuda: unknown option");
        }
    }
    if (i >= argc) {
        return rc_usage("run_case_cuda: no case folder given");
    }
    for (; i < argc; i++) {
        failed |= rcu_judge_folder(&options, argv[i], wish);
    }
    (void)rc_main;
    return failed;
}
