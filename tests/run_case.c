/* run_case: judge golden cases. Builds to build/run_case; tests/golden/make_cases.py writes cases and describes them.
   On a GPU: tests/cuda/run_case_cuda.cu, which takes the judge from here.

       build/run_case [options] DIR...

       --isa scalar|avx2|avx512|neon   kernels to use; default: the best this machine has
       --threads N                     1 (default): the calling thread; more: a pool
       --weights f32|bf16|int8         how weights are held; default f32
       --pth                           load model.pth in place of model.safetensors
       --model FILE                    load this file instead, with the case's own config.json
       --hash                          print a hash of all outputs of each case, to compare runs bit for bit
       --errors                        judge nothing; lines are then  CASE/OUTPUT max_abs max_rel rms  (root mean square error)

   Prints a line per output:  CASE/OUTPUT max_abs max_rel budget ok|FAIL
       max_abs   largest absolute difference to the float64 reference ref64.*, over the whole output
       max_rel   the same over the largest magnitude in the reference
   Exit status: 0 all ok; 1 a case failed; 2 wrong use; 3 this machine lacks the instruction set (nothing was judged).

   The rule for the budget, stated here once.  An output passes when

       max_abs <= 4 * E + 4 * 2^-23 * M

   M is the largest magnitude in the reference output, so the second term is four units in its last place: rounding that
   no float32 program escapes.  E is what a good float32 program makes of this very output: the error of PyTorch in
   float32, as recorded in the case, or the upper quartile of that error over neighbouring inputs where it is larger.
   A single run can be right by luck: the first denoising steps magnify an error in eps up to 30 times in those elements
   that are not clipped, and so PyTorch's own error differs tenfold and more between inputs a per cent apart. The factor
   4 is for another order of summation and other approximations of exp and tanh than PyTorch's. Errors are of whole
   tensors: an element's own error is luck as well.

   With --weights bf16 or int8, E is instead the error of a float64 model whose linears and convolutions round their
   weights and inputs to that type (also recorded), because what is judged then is whether no more was lost than that.
   For x0 alone the budget is at least what half a unit in the last place of the predicted noise becomes in the first step,
   2^-24 * max|eps| * sqrt_recipm1[T-1] (325 in the official schedule): x0 is made from a float32 eps, and where it is not
   clipped, PyTorch's own error there is luck too.
   Integers (in which steps the network ran) have to be equal. A value that is not finite fails. */

#define MAIL_IMPLEMENTATION
#if !defined(MAIL_THREADS) && defined(__GNUC__) && !defined(__TINYC__)
#  define MAIL_THREADS
#endif
#include "../mail.h"

#define RC_MAX_PATH 1024

typedef struct rc_options {
    const char  *isa, *model;
    size_t       threads;
    mail_weights weights;
    int          pth, hash, errors;
} rc_options;

/* One case being judged. */
typedef struct rc_case {
    const rc_options *options;
    const char       *name;     /* the folder's own name */
    char             *config;   /* config.json as text */
    mail_tensors     *file;     /* case.safetensors */
    uint64_t          hash;     /* FNV-1a over the bits of all outputs, in the order of judging */
    size_t            n_outputs;
    int               failed;
} rc_case;

/* Everything the run of one case owns. */
typedef struct rc_run {
    mail_tensors *tensors;      /* the weights file, for the parts that are tested on their own */
    mail_policy  *policy;
    mail_session *session;
    float        *buffer[48];   /* released at the end */
    size_t        n_buffers;
} rc_run;

static void rc_fail(rc_case *c, const char *what, const char *why) {
    printf("%s/%s nan nan 0 FAIL  %s\n", c->name, what, why);
    c->failed = 1;
}

/* Whole file as text with a NUL after it, or NULL. */
static char *rc_read_text(const char *path) {
    FILE  *f = fopen(path, "rb");
    char  *text = NULL;
    size_t size = 0, capacity = 0, n;
    if (f == NULL) {
        return NULL;
    }
    do {
        if (capacity - size < 4096) {
            char *more = (char *)realloc(text, capacity * 2 + 8192);
            if (more == NULL) {
                break;
            }
            text = more;
            capacity = capacity * 2 + 8192;
        }
        n = fread(text + size, 1, capacity - size - 1, f);
        size += n;
    } while (n > 0);
    (void)fclose(f);
    if (text != NULL) {
        text[size] = '\0';
    }
    return text;
}

/* The number config[object][key], or 0 if there is none. Objects of this kind are flat: names and numbers. */
static double rc_config_number(const char *config, const char *object, const char *key) {
    char        quoted[160];
    const char *at, *end, *found;
    (void)snprintf(quoted, sizeof quoted, "\"%s\"", object);
    at = strstr(config, quoted);
    if (at == NULL || (at = strchr(at, '{')) == NULL || (end = strchr(at, '}')) == NULL) {
        return 0.0;
    }
    (void)snprintf(quoted, sizeof quoted, "\"%s\"", key);
    found = strstr(at, quoted);
    if (found == NULL || found > end || (found = strchr(found, ':')) == NULL) {
        return 0.0;
    }
    return strtod(found + 1, NULL);
}

static double rc_f64(const unsigned char *p) {
    uint64_t bits = 0;
    double   value;
    int      i;
    for (i = 7; i >= 0; i--) {
        bits = bits << 8 | p[i];
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Compare got [n] with the case's ref64.NAME by the rule on top. */
static void rc_judge_floor(rc_case *c, const char *output, const float *got, size_t n, double floor_abs) {
    static const char *const rounded[] = { "float32_error", "bf16_error", "int8_error" };
    char               name[160];
    const mail_tensor *ref;
    double             max_abs = 0.0, largest = 0.0, squares = 0.0, e, budget;
    size_t             i, b;
    int                finite = 1;
    (void)snprintf(name, sizeof name, "ref64.%s", output);
    ref = mail_tensors_find(c->file, name);
    if (ref == NULL || ref->dtype != MAIL_F64 || ref->count != n) {
        rc_fail(c, output, ref == NULL ? "the case has no such reference" : "the case's reference has another size");
        return;
    }
    for (i = 0; i < n; i++) {
        double   want = rc_f64(ref->data + 8 * i), error = fabs((double)got[i] - want);
        uint32_t bits;
        memcpy(&bits, &got[i], sizeof bits);
        for (b = 0; b < 32; b += 8) {
            c->hash = (c->hash ^ ((bits >> b) & 0xff)) * 1099511628211u;
        }
        finite = finite && isfinite(got[i]);
        max_abs = error > max_abs ? error : max_abs;
        squares += error * error;
        largest = fabs(want) > largest ? fabs(want) : largest;
    }
    e = rc_config_number(c->config, rounded[c->options->weights], output);
    if (c->options->weights == MAIL_WEIGHTS_F32) {
        double typical = rc_config_number(c->config, "float32_error_near", output);
        e = typical > e ? typical : e;
    }
    budget = 4.0 * e + 4.0 * (double)FLT_EPSILON * largest;
    budget = floor_abs > budget ? floor_abs : budget;
    c->n_outputs++;
    if (!finite) {
        printf("%s/%s nan nan %.3e FAIL  not finite\n", c->name, output, budget);
        c->failed = 1;
        return;
    }
    if (c->options->errors) {
        printf("%s/%s %.3e %.3e %.3e\n", c->name, output, max_abs, largest > 0.0 ? max_abs / largest : 0.0, sqrt(squares / (double)(n ? n : 1)));
        return;
    }
    printf("%s/%s %.3e %.3e %.3e %s\n", c->name, output, max_abs, largest > 0.0 ? max_abs / largest : 0.0, budget,
           max_abs <= budget ? "ok" : "FAIL");
    c->failed = c->failed || max_abs > budget;
}

static void rc_judge(rc_case *c, const char *output, const float *got, size_t n) {
    rc_judge_floor(c, output, got, n, 0.0);
}

/* Compare integers with the case's out.NAME; they must be equal. */
static void rc_judge_integers(rc_case *c, const char *output, const float *got, size_t n) {
    char               name[160];
    const mail_tensor *want;
    float             *values = (float *)malloc((n + 1) * sizeof *values);
    double             max_abs = 0.0;
    size_t             i;
    (void)snprintf(name, sizeof name, "out.%s", output);
    want = mail_tensors_find(c->file, name);
    if (values == NULL || want == NULL || want->count != n || mail_tensor_read(want, values, n, NULL) != MAIL_OK) {
        rc_fail(c, output, "the case has no such entry of this size");
        free(values);
        return;
    }
    for (i = 0; i < n; i++) {
        max_abs = fabs((double)got[i] - (double)values[i]) > max_abs ? fabs((double)got[i] - (double)values[i]) : max_abs;
    }
    c->n_outputs++;
    printf("%s/%s %.3e 0 0 %s\n", c->name, output, max_abs, max_abs > 0.0 ? "FAIL" : "ok");
    c->failed = c->failed || max_abs > 0.0;
    free(values);
}

static float *rc_floats(rc_run *r, size_t n) {
    float *p = r->n_buffers < sizeof r->buffer / sizeof *r->buffer ? (float *)calloc(n + 1, sizeof *p) : NULL;
    if (p != NULL) {
        r->buffer[r->n_buffers++] = p;
    }
    return p;
}

/* Values of a tensor of the case, or NULL if it has none of that name (then nothing is wrong yet). */
static float *rc_input(rc_case *c, rc_run *r, const char *name, const mail_tensor **tensor) {
    const mail_tensor *t = mail_tensors_find(c->file, name);
    float             *values;
    *tensor = t;
    if (t == NULL) {
        return NULL;
    }
    values = rc_floats(r, (size_t)t->count);
    return values != NULL && mail_tensor_read(t, values, (size_t)t->count, NULL) == MAIL_OK ? values : NULL;
}

/* Give frame t to the session: features [...][state_dim] or pictures, as the case has it.
   Single inferences hold [batch][frames][...], rollouts [frames][...], which is the same with a batch of one. */
static mail_status rc_observe(rc_case *c, rc_run *r, const float *features, size_t frames, size_t batch, size_t t,
                              float *scratch, mail_error *err) {
    const mail_info *info = mail_policy_info(r->policy);
    mail_image       images[MAIL_MAX_CAMERAS * 16];
    size_t           b, k;
    if (info->n_cameras == 0) {
        for (b = 0; b < batch; b++) {
            memcpy(scratch + b * info->state_dim, features + (b * frames + t) * info->state_dim, info->state_dim * sizeof *features);
        }
        return mail_observe_features(r->session, scratch, batch * info->state_dim, err);
    }
    for (b = 0; b < batch; b++) {
        for (k = 0; k < info->n_cameras; k++) {
            const mail_camera_info *camera = &info->cameras[k];
            char                    name[160];
            const mail_tensor      *pictures;
            mail_image             *image = &images[b * info->n_cameras + k];
            size_t                  size = camera->height * camera->width * 3;
            (void)snprintf(name, sizeof name, "in.image.%s", camera->name);
            pictures = mail_tensors_find(c->file, name);
            if (batch > 16 || pictures == NULL || pictures->dtype != MAIL_U8 || pictures->count != batch * frames * size) {
                return mailp_fail(err, MAIL_E_FORMAT, "%s is missing or has another size than the camera", name);
            }
            memset(image, 0, sizeof *image);
            image->data = pictures->data + (b * frames + t) * size;
            image->width = camera->width;
            image->height = camera->height;
            image->format = MAIL_RGB8;
        }
    }
    return mail_observe(r->session, images, batch * info->n_cameras, err);
}

/* Features and keypoints of every picture, from the encoder as a part of its own. Returns 0 on failure. */
static int rc_encoders(rc_case *c, rc_run *r, size_t batch, size_t frames, const mail_parallel *parallel) {
    const mail_info *info = mail_policy_info(r->policy);
    mail_options     options = mail_options_init();
    size_t           k, i;
    options.weights = c->options->weights;
    options.isa = c->options->isa;
    for (k = 0; k < info->n_cameras; k++) {
        const mail_camera_info *camera = &info->cameras[k];
        mail_encoder           *encoder = NULL;
        mail_error              err;
        char                    name[160];
        const mail_tensor      *pictures;
        float                  *features, *keypoints;
        void                   *scratch;
        size_t                  size, n_keypoints;
        mail_status             status;
        (void)snprintf(name, sizeof name, "obs_encoder.key_model_map.%s.", camera->name);
        if (mail_encoder_create(&encoder, r->tensors, name, camera->width, camera->height, &options, &err) != MAIL_OK) {
            rc_fail(c, "encoder", err.text);
            return 0;
        }
        (void)snprintf(name, sizeof name, "in.image.%s", camera->name);
        pictures = mail_tensors_find(c->file, name);  /* checked when it was observed */
        n_keypoints = 2 * mail_encoder_get_info(encoder)->n_keypoints;
        size = mail_encoder_scratch(encoder, c->options->threads);
        scratch = mailp_alloc(NULL, size);
        features = rc_floats(r, batch * frames * camera->feature_dim);
        keypoints = rc_floats(r, batch * frames * n_keypoints);
        status = scratch != NULL && features != NULL && keypoints != NULL ? MAIL_OK : mailp_fail(&err, MAIL_E_MEMORY, "out of memory");
        for (i = 0; i < batch * frames && status == MAIL_OK; i++) {
            mail_image image;
            memset(&image, 0, sizeof image);
            image.data = pictures->data + i * camera->height * camera->width * 3;
            image.width = camera->width;
            image.height = camera->height;
            image.format = MAIL_RGB8;
            status = mail_encoder_encode(encoder, features + i * camera->feature_dim, keypoints + i * n_keypoints, &image, scratch, size,
                                         parallel, &err);
        }
        if (status == MAIL_OK) {
            (void)snprintf(name, sizeof name, "kp.%s", camera->name);
            rc_judge(c, name, keypoints, batch * frames * n_keypoints);
            (void)snprintf(name, sizeof name, "feat.%s", camera->name);
            rc_judge(c, name, features, batch * frames * camera->feature_dim);
        } else {
            rc_fail(c, "encoder", err.text);
        }
        mailp_free(NULL, scratch);
        mail_encoder_free(encoder);
        if (status != MAIL_OK) {
            return 0;
        }
    }
    return 1;
}

/* What the session holds after the observations: state tokens, oldest first, and the time embeddings of the policy.
   Looks into private structs, as the tests of a library may. Returns 0 on failure. */
static int rc_observed(rc_case *c, rc_run *r, size_t batch, size_t frames) {
    const mail_session *s = r->session;
    const mail_policy  *p = r->policy;
    const size_t        width = p->cfg.state_dim, lang = p->cfg.lang ? 1 : 0, rows = lang + frames;
    float              *obs = rc_floats(r, batch * rows * width);
    size_t              b, i;
    if (obs == NULL) {
        rc_fail(c, "obs", "out of memory");
        return 0;
    }
    for (b = 0; b < batch; b++) {
        float *to = obs + b * rows * width;
        if (lang) {
            memcpy(to, s->goal + b * width, width * sizeof *to);
        }
        for (i = 0; i < frames; i++) {
            size_t slot = (s->newest[b] + p->cfg.obs_seq - frames + i) % p->cfg.obs_seq;
            memcpy(to + (lang + i) * width, s->features + (b * p->cfg.obs_seq + slot) * width, width * sizeof *to);
        }
    }
    rc_judge(c, "obs", obs, batch * rows * width);
    if (p->cfg.algorithm == MAIL_DDPM) {
        const size_t d = p->cfg.d_model;
        float       *emb = rc_floats(r, p->cfg.n_timesteps * d);
        if (emb == NULL) {
            rc_fail(c, "time_emb", "out of memory");
            return 0;
        }
        for (i = 0; i < p->cfg.n_timesteps; i++) {
            memcpy(emb + i * d, p->time_emb + i * p->dp, d * sizeof *emb);
        }
        rc_judge(c, "time_emb", emb, p->cfg.n_timesteps * d);
    }
    return 1;
}

/* A single inference: every output on the way from pictures to actions. */
static void rc_single(rc_case *c, rc_run *r, size_t batch, size_t frames, const float *features, float *scratch,
                      const mail_parallel *parallel) {
    const mail_info   *info = mail_policy_info(r->policy);
    const size_t       n = batch * info->act_seq * info->action_dim;
    const int          ddpm = info->algorithm == MAIL_DDPM;
    const mail_tensor *tx, *tnoise;
    const float       *x_T = rc_input(c, r, "in.x_T", &tx), *noise = rc_input(c, r, "in.noise", &tnoise);
    const size_t       calls = ddpm && tnoise != NULL ? (size_t)tnoise->shape[0] : 0;
    float             *actions = rc_floats(r, n), *again = rc_floats(r, n);
    float             *eps = rc_floats(r, calls * n), *x0 = rc_floats(r, calls * n), *x = rc_floats(r, calls * n);
    mail_error         err;
    size_t             t, i, left = 0;
    double             gain;
    if (actions == NULL || again == NULL || eps == NULL || x0 == NULL || x == NULL) {
        rc_fail(c, "run", "out of memory");
        return;
    }
    for (t = 0; t < frames; t++) {
        if (rc_observe(c, r, features, frames, batch, t, scratch, &err) != MAIL_OK) {
            rc_fail(c, "observe", err.text);
            return;
        }
    }
    /* once in one call, once step by step with a look inside; both must give the same bits */
    mail_session_set_noise(r->session, x_T, noise);
    if (mail_plan(r->session, again, &err) != MAIL_OK) {
        rc_fail(c, "plan", err.text);
        return;
    }
    mail_session_set_noise(r->session, x_T, noise);
    if (mail_plan_begin(r->session, &err) != MAIL_OK) {
        rc_fail(c, "plan_begin", err.text);
        return;
    }
    if (!rc_encoders(c, r, batch, frames, parallel) || !rc_observed(c, r, batch, frames)) {
        return;
    }
    t = 0;
    do {
        if (t < calls) {
            memcpy(x0 + t * n, r->session->x, n * sizeof *x0);
        }
        if (mail_plan_step(r->session, &left, &err) != MAIL_OK) {
            rc_fail(c, "plan_step", err.text);
            return;
        }
        if (t < calls) {
            memcpy(eps + t * n, r->session->noise_pred, n * sizeof *eps);
            for (i = 0; i < n; i++) {  /* as the step does, from what x was before it */
                const mail_policy *p = r->policy;
                const float       *lo = p->cfg.clip_denoised ? p->lo : NULL, *hi = p->cfg.clip_denoised ? p->hi : NULL;
                x0[t * n + i] = mailp_x_start(&p->ddpm, r->session->order[t], x0[t * n + i], eps[t * n + i], lo, hi, i % p->cfg.action_dim,
                                              p->cfg.predict_epsilon);
            }
            memcpy(x + t * n, r->session->x, n * sizeof *x);
        }
        t++;
    } while (left > 0);
    if (ddpm) {
        if (t != calls) {
            rc_fail(c, "plan_step", "another number of steps than the case has");
            return;
        }
        rc_judge(c, "eps", eps, calls * n);
        gain = 0.0;
        if (r->policy->cfg.predict_epsilon) {
            for (i = 0; i < n; i++) {
                gain = fabs((double)eps[i]) > gain ? fabs((double)eps[i]) : gain;
            }
            gain *= (double)r->policy->ddpm.sqrt_recipm1_alphas_cumprod[r->policy->cfg.n_timesteps - 1];
        }
        rc_judge_floor(c, "x0", x0, calls * n, 0.5 * (double)FLT_EPSILON * gain);
        rc_judge(c, "x", x, calls * n);
    }
    if (mail_plan_end(r->session, actions, &err) != MAIL_OK) {
        rc_fail(c, "plan_end", err.text);
        return;
    }
    rc_judge(c, "action_norm", r->session->x, n);
    rc_judge(c, "action", actions, n);
    if (memcmp(actions, again, n * sizeof *actions) != 0) {
        rc_fail(c, "action", "mail_plan and mail_plan_step differ");
    }
}

/* A rollout: one frame and one action per step of the environment; the network runs when the chunk is used up. */
static void rc_rollout(rc_case *c, rc_run *r, size_t steps, const float *features, float *scratch) {
    const mail_info   *info = mail_policy_info(r->policy);
    const size_t       runs = (steps + info->n_action_steps - 1) / info->n_action_steps;
    const mail_tensor *tx, *tnoise;
    const float       *x_T = rc_input(c, r, "in.x_T", &tx), *noise = rc_input(c, r, "in.noise", &tnoise);
    float             *actions = rc_floats(r, steps * info->action_dim);
    float             *infer_at = rc_floats(r, runs), *frames_seen = rc_floats(r, runs);
    mail_error         err;
    size_t             i, run = 0;
    if (actions == NULL || infer_at == NULL || frames_seen == NULL) {
        rc_fail(c, "run", "out of memory");
        return;
    }
    for (i = 0; i < steps; i++) {
        if (rc_observe(c, r, features, steps, 1, i, scratch, &err) != MAIL_OK) {
            rc_fail(c, "observe", err.text);
            return;
        }
        if (i % info->n_action_steps == 0) {
            infer_at[run] = (float)i;
            frames_seen[run] = (float)(i + 1 < info->obs_seq ? i + 1 : info->obs_seq);
            if (x_T != NULL && noise != NULL) {
                mail_session_set_noise(r->session, x_T + run * (size_t)(tx->count / runs), noise + run * (size_t)(tnoise->count / runs));
            }
            run++;
        }
        if (mail_act(r->session, actions + i * info->action_dim, &err) != MAIL_OK) {
            rc_fail(c, "act", err.text);
            return;
        }
    }
    rc_judge_integers(c, "infer_at", infer_at, runs);
    rc_judge_integers(c, "frames_seen", frames_seen, runs);
    rc_judge(c, "actions", actions, steps * info->action_dim);
}

/* Load the policy, make a session, and run. Returns 0 if the machine lacks the instruction set. */
static int rc_run_case(rc_case *c, rc_run *r, const char *dir, const mail_parallel *parallel) {
    char                 path[RC_MAX_PATH + 64];
    mail_options         options = mail_options_init();
    mail_session_options session = mail_session_options_init();
    const mail_info     *info;
    const mail_tensor   *t_features, *t_lang, *t_pictures;
    const float         *features, *lang;
    float               *scratch;
    const char          *kind = mail_tensors_metadata(c->file, "kind");
    const int            rollout = kind != NULL && strcmp(kind, "rollout") == 0;
    size_t               batch = 1, frames;
    mail_error           err;
    mail_status          status;
    FILE                *there;

    options.config_json = c->config;
    options.isa = c->options->isa;
    options.weights = c->options->weights;
    (void)snprintf(path, sizeof path, "%s/%s", dir, c->options->pth ? "model.pth" : "model.safetensors");
    there = fopen(path, "rb");
    if (there != NULL) {
        (void)fclose(there);
    } else {  /* cases may have one kind of file only */
        (void)snprintf(path, sizeof path, "%s/%s", dir, c->options->pth ? "model.safetensors" : "model.pth");
    }
    if (c->options->model != NULL) {
        (void)snprintf(path, sizeof path, "%s", c->options->model);
    }
    status = mail_policy_load(&r->policy, path, &options, &err);
    if (status == MAIL_E_UNSUPPORTED && c->options->isa != NULL) {
        printf("%s/load skipped: %s\n", c->name, err.text);
        return 0;
    }
    if (status == MAIL_OK) {
        status = mail_tensors_open(&r->tensors, path, NULL, &err);
    }
    if (status != MAIL_OK) {
        rc_fail(c, "load", err.text);
        return 1;
    }
    info = mail_policy_info(r->policy);
    features = rc_input(c, r, "in.features", &t_features);
    lang = rc_input(c, r, "in.lang", &t_lang);
    t_pictures = t_features;
    if (info->n_cameras > 0) {
        char name[160];
        (void)snprintf(name, sizeof name, "in.image.%s", info->cameras[0].name);
        t_pictures = mail_tensors_find(c->file, name);
    }
    if (t_pictures == NULL || t_pictures->n_dims < 2) {
        rc_fail(c, "load", "the case has no pictures or features for this policy");
        return 1;
    }
    frames = (size_t)t_pictures->shape[rollout ? 0 : 1];
    batch = rollout ? 1 : (size_t)t_pictures->shape[0];
    if (info->n_cameras == 0 && t_features->count != batch * frames * info->state_dim) {
        rc_fail(c, "load", "in.features has another width than the policy");
        return 1;
    }
    scratch = rc_floats(r, batch * info->state_dim);
    session.batch = batch;
    if (parallel != NULL) {
        session.parallel = *parallel;
    }
    if (scratch == NULL || mail_session_create(&r->session, r->policy, &session, &err) != MAIL_OK) {
        rc_fail(c, "session", scratch == NULL ? "out of memory" : err.text);
        return 1;
    }
    if (lang != NULL && mail_session_set_goal(r->session, lang, (size_t)t_lang->count, &err) != MAIL_OK) {
        rc_fail(c, "set_goal", err.text);
        return 1;
    }
    if (rollout) {
        rc_rollout(c, r, frames, features, scratch);
    } else {
        rc_single(c, r, batch, frames, features, scratch, parallel);
    }
    return 1;
}

/* Judge the case in dir. Returns 0 ok, 1 failed, 3 not on this machine. */
static int rc_judge_folder(const rc_options *options, const char *dir, const mail_parallel *parallel) {
    char       folder[RC_MAX_PATH], path[RC_MAX_PATH + 64];
    size_t     length = strlen(dir), i;
    rc_case    c;
    rc_run     r;
    mail_error err;
    int        here = 1;
    if (length == 0 || length >= sizeof folder) {
        printf("%s/load nan nan 0 FAIL  bad folder name\n", dir);
        return 1;
    }
    memcpy(folder, dir, length + 1);
    while (length > 1 && folder[length - 1] == '/') {
        folder[--length] = '\0';
    }
    memset(&c, 0, sizeof c);
    memset(&r, 0, sizeof r);
    c.options = options;
    c.hash = 14695981039346656037u;
    c.name = strrchr(folder, '/') != NULL ? strrchr(folder, '/') + 1 : folder;
    (void)snprintf(path, sizeof path, "%s/config.json", folder);
    c.config = rc_read_text(path);
    (void)snprintf(path, sizeof path, "%s/case.safetensors", folder);
    if (c.config == NULL) {
        rc_fail(&c, "load", "config.json cannot be read");
    } else if (mail_tensors_open(&c.file, path, NULL, &err) != MAIL_OK) {
        rc_fail(&c, "load", err.text);
    } else {
        here = rc_run_case(&c, &r, folder, parallel);
        if (here && !c.failed && c.n_outputs == 0) {
            rc_fail(&c, "outputs", "nothing was judged");
        }
    }
    if (here && options->hash) {
        printf("%s/hash %016llx\n", c.name, (unsigned long long)c.hash);
    }
    mail_session_free(r.session);
    mail_policy_free(r.policy);
    mail_tensors_close(r.tensors);
    for (i = 0; i < r.n_buffers; i++) {
        free(r.buffer[i]);
    }
    mail_tensors_close(c.file);
    free(c.config);
    return !here ? 3 : c.failed;
}

static int rc_usage(const char *what) {
    (void)fprintf(stderr,
                  "run_case: %s\n"
                  "usage: run_case [--isa scalar|avx2|avx512|neon] [--threads N] [--weights f32|bf16|int8] [--pth]\n"
                  "                [--model FILE] [--hash] [--errors] DIR...\n", what);
    return 2;
}

int main(int argc, char **argv) {
    rc_options    options;
#ifdef MAIL_THREADS
    mail_pool    *pool = NULL;
    mail_error    err;
#endif
    mail_parallel parallel;
    int           i, result = 0, n_dirs = 0;
    memset(&options, 0, sizeof options);
    memset(&parallel, 0, sizeof parallel);
    options.threads = 1;
    for (i = 1; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--pth") == 0) {
            options.pth = 1;
        } else if (strcmp(argv[i], "--hash") == 0) {
            options.hash = 1;
        } else if (strcmp(argv[i], "--errors") == 0) {
            options.errors = 1;
        } else if (strcmp(argv[i], "--isa") == 0) {
            options.isa = value;
            i++;
        } else if (strcmp(argv[i], "--model") == 0) {
            options.model = value;
            i++;
        } else if (strcmp(argv[i], "--threads") == 0) {
            options.threads = (size_t)strtoul(value, NULL, 10);
            if (options.threads < 1 || options.threads > MAIL_MAX_THREADS) {
                return rc_usage("--threads wants a number from 1 on");
            }
            i++;
        } else if (strcmp(argv[i], "--weights") == 0) {
            if (strcmp(value, "f32") == 0) {
                options.weights = MAIL_WEIGHTS_F32;
            } else if (strcmp(value, "bf16") == 0) {
                options.weights = MAIL_WEIGHTS_BF16;
            } else if (strcmp(value, "int8") == 0) {
                options.weights = MAIL_WEIGHTS_INT8;
            } else {
                return rc_usage("--weights wants f32, bf16 or int8");
            }
            i++;
        } else {
            return rc_usage("unknown option");
        }
    }
    if (i >= argc) {
        return rc_usage("no case folder given");
    }
#ifdef MAIL_THREADS
    if (options.threads > 1) {
        if (mail_pool_create(&pool, options.threads, &err) != MAIL_OK) {
            (void)fprintf(stderr, "run_case: %s\n", err.text);
            return 2;
        }
        parallel = mail_pool_parallel(pool);
    }
#else
    if (options.threads > 1) {
        return rc_usage("this build has no threads");
    }
#endif
    for (; i < argc; i++, n_dirs++) {
        int judged = rc_judge_folder(&options, argv[i], parallel.run != NULL ? &parallel : NULL);
        result = judged == 1 ? 1 : (judged == 3 && result == 0) ? 3 : result;
        if (judged == 3) {
            break;  /* it is the same for every case */
        }
    }
#ifdef MAIL_THREADS
    mail_pool_free(pool);
#endif
    return result;
}
