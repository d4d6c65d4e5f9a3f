/* Numbers that are none, and numbers at the edge: NaN and Inf in what the caller gives or arising inside are reported with where, no
   action leaves, and the session goes on; no kernel turns a NaN into a number, whichever the instruction set. */
#define MAIL_IMPLEMENTATION
#include "../mail.h"
#include "test.h"
#include "small.h"

static const char *const isas[] = { "scalar", "avx2", "avx512", "neon" };

/* ---- kernels: a NaN that goes in comes out ------------------------------------------------------------------------------------ */

static float in[4096], out[4096], other[4096], weights[4096], bias[4096];

static void fill(float *x, size_t n, double lo, double hi) {
    size_t i;
    for (i = 0; i < n; i++) {
        x[i] = (float)(lo + (hi - lo) * test_uniform());
    }
}

static int is_nan(float x) {
    return x != x;
}

static void test_kernels(const mailp_kernels *k) {
    mailp_moments moments;
    size_t        i, at, e;
    int           ok, relu;
    for (at = 0; at < 48; at += 5) {
        fill(in, 48, -2, 2);
        in[at] = NAN;
        k->gelu(in, 48, 1, 3);
        for (ok = 1, i = 0; i < 48; i++) {
            ok = ok && is_nan(in[i]) == (i == at);
        }
        CHECK_MSG(ok, "%s: gelu of NaN at %d", k->name, (int)at);
        fill(in, 48, -2, 2);
        in[at] = NAN;
        k->softplus(in, 48, 1, 3);
        for (ok = 1, i = 0; i < 48; i++) {
            ok = ok && is_nan(in[i]) == (i == at);
        }
        CHECK_MSG(ok, "%s: softplus of NaN at %d", k->name, (int)at);
        fill(in, 48, -2, 2);
        fill(weights, 48, 0.5, 1);
        fill(bias, 48, -1, 1);
        in[at] = NAN;
        k->layer_norm(out, 48, in, 48, weights, bias, 1, 47);
        for (ok = 1, i = 0; i < 47; i++) {
            ok = ok && (at == 47 || is_nan(out[i]));  /* the 48th is padding */
        }
        CHECK_MSG(ok, "%s: layer_norm of NaN at %d", k->name, (int)at);
        fill(other, 48, -1, 1);
        k->add(other, 48, in, 48, 1, 3);
        CHECK_MSG(is_nan(other[at]) && !is_nan(other[(at + 1) % 48]), "%s: add of NaN", k->name);
        /* conv1d_silu: 10 tokens of 16 channels, 3 taps; NaN at token 4 reaches tokens 4, 5, 6 of its channel */
        fill(in, 160, -1, 1);
        fill(weights, 48, 0.1, 1);
        in[4 * 16 + at % 16] = NAN;
        k->conv1d_silu(out, 16, in, 16, NULL, NULL, 16, weights, bias, 16, 10, 3, 1);
        for (ok = 1, i = 0; i < 160; i++) {
            ok = ok && is_nan(out[i]) == (i % 16 == at % 16 && i / 16 >= 4 && i / 16 <= 6);
        }
        CHECK_MSG(ok, "%s: conv1d_silu of NaN at channel %d", k->name, (int)at % 16);
    }
    /* products: a NaN in a row of x or in a panel of w */
    fill(in, 7 * 20, -1, 1);
    fill(weights, 20 * 32, -1, 1);
    in[3 * 20 + 11] = NAN;
    weights[20 * 16 + 5 * 16 + 2] = NAN;  /* panel 1, k 5, column 2 */
    k->gemm[MAIL_WEIGHTS_F32](out, 32, in, 20, weights, NULL, NULL, 7, 20, 2, 0);
    for (ok = 1, i = 0; i < 7 * 32; i++) {
        ok = ok && is_nan(out[i]) == (i / 32 == 3 || i % 32 == 18);
    }
    CHECK_MSG(ok, "%s: gemm", k->name);
    /* attention: NaN in a query, a key or a value; and scores that overflow */
    for (at = 0; at < 3; at++) {
        float q[5 * 16], key[5 * 16], value[5 * 16], scores[16 * (5 + 16)];
        fill(q, 80, -1, 1);
        fill(key, 80, -1, 1);
        fill(value, 80, -1, 1);
        (at == 0 ? q : at == 1 ? key : value)[2 * 16 + 3] = NAN;
        k->attend(out, 16, q, 16, key, value, 16, scores, 5, 5, 1, 16, 0);  /* causal */
        for (ok = 1, i = 0; i < 80; i++) {
            ok = ok && is_nan(out[i]) == (at == 0 ? i / 16 == 2 : at == 1 ? i / 16 >= 2 : i / 16 >= 2 && i % 16 == 3);
        }
        CHECK_MSG(ok, "%s: attend, NaN in %s", k->name, at == 0 ? "q" : at == 1 ? "k" : "v");
    }
    /* scan */
    for (at = 0; at < 7; at++) {
        float x[6 * 16], dt[6 * 16], z[6 * 16], A[4 * 16], B[6 * 4], C[6 * 4], D[16], state[4 * 16];
        fill(x, 96, -1, 1);
        fill(dt, 96, 0.01, 1);
        fill(z, 96, -1, 1);
        fill(A, 64, -2, -0.1);
        fill(B, 24, -1, 1);
        fill(C, 24, -1, 1);
        fill(D, 16, -1, 1);
        fill(state, 64, -1, 1);
        (at == 0 ? x : at == 1 ? dt : at == 2 ? z : at == 3 ? A : at == 4 ? D : at == 5 ? state : B)[at == 6 ? 2 * 4 + 1 : at < 3 ? 2 * 16 + 7 : 7] = NAN;
        k->scan(out, 16, state, state, x, 16, dt, 16, A, B, C, 4, D, z, 16, 6, 4, 1, 0, 0);
        for (ok = 1, i = 0; i < 96; i++) {
            e = i % 16;
            ok = ok && is_nan(out[i]) == (at == 6 ? i / 16 >= 2 : e == 7 && (at < 2 ? i / 16 >= 2 : at == 2 ? i / 16 == 2 : 1));
        }
        CHECK_MSG(ok, "%s: scan, NaN in operand %d", k->name, (int)at);
    }
    /* maps of 8 and 16 bits: what is not finite must not be rounded away */
    for (at = 0; at < 2; at++) {
        unsigned char q[96];
        float         scale = 0;
        fill(in, 48, 0, 2);
        in[29] = at == 0 ? NAN : INFINITY;
        if (k->lower[MAIL_WEIGHTS_INT8] != NULL) {
            k->lower[MAIL_WEIGHTS_INT8](q, &scale, in, 48);
            CHECK_MSG(is_nan(scale), "%s: the scale of a map with %g", k->name, (double)in[29]);
            in[29] = 1;
            k->lower[MAIL_WEIGHTS_INT8](q, &scale, in, 48);
            for (ok = 1, i = 0; i < 48; i++) {
                ok = ok && fabsf((float)q[i] * scale - in[i]) <= 0.51f * scale;
            }
            CHECK_MSG(ok, "%s: a map in 8 bits", k->name);
            in[29] = at == 0 ? NAN : INFINITY;
        }
        if (k->lower[MAIL_WEIGHTS_BF16] != NULL) {
            k->lower[MAIL_WEIGHTS_BF16](q, &scale, in, 48);
            CHECK_MSG(is_nan(scale), "%s: the scale of a map of 16 bits with %g", k->name, (double)in[29]);
            in[29] = 1;
            k->lower[MAIL_WEIGHTS_BF16](q, &scale, in, 48);
            for (ok = 1, i = 0; i < 48; i++) {
                int16_t v;
                memcpy(&v, q + 2 * i, sizeof v);
                ok = ok && fabsf((float)v * scale - in[i]) <= 0.51f * scale && scale * MAILP_S16_MOST <= 2.001f;
            }
            CHECK_MSG(ok, "%s: a map in integers of 16 bits", k->name);
        }
    }
    /* vision: GroupNorm spreads it over its group, with relu or not */
    for (relu = 0; relu < 2; relu++) {
        fill(in, 6 * 5 * 16, -1, 1);
        fill(weights, 16, 0.5, 1);
        fill(bias, 16, -1, 1);
        in[3 * 5 * 16 + 21] = NAN;
        k->group_norm(out, 5 * 16, in, NULL, weights, bias, 6, 5, relu);
        for (ok = 1, i = 0; i < 6 * 5 * 16; i++) {
            ok = ok && is_nan(out[i]);
        }
        CHECK_MSG(ok, "%s: group_norm, relu %d", k->name, relu);
        fill(in, 6 * 5 * 16, -1, 1);
        fill(other, 6 * 5 * 16, -1, 1);
        other[2 * 5 * 16 + 3 * 16 + 9] = NAN;
        k->group_norm(out, 5 * 16, in, other, weights, bias, 6, 5, relu);
        for (ok = 1, i = 0; i < 6 * 5 * 16; i++) {
            ok = ok && is_nan(out[i]) == (i == 2 * 5 * 16 + 3 * 16 + 9);
        }
        CHECK_MSG(ok, "%s: group_norm, NaN in what is added, relu %d", k->name, relu);
    }
    fill(in, 6 * 5 * 16, -1, 1);
    in[3 * 5 * 16 + 21] = NAN;
    memset(&moments, 0, sizeof moments);
    k->moments(&moments, in, 3 * 5 * 16);
    k->moments(&moments, in + 3 * 5 * 16, 3 * 5 * 16);
    fill(out, 3 * 3 * 16, -1, 1);
    k->pool_norm(out, 3 * 16, &moments, weights, bias, 3, 3);
    for (ok = 1, i = 0; i < 3 * 3 * 16; i++) {
        ok = ok && is_nan(out[i]);
    }
    CHECK_MSG(ok, "%s: pool_norm after a NaN in the moments", k->name);
}

/* ---- policies with weights that are too large ------------------------------------------------------------------------------------- */

typedef struct huge {
    const char *part;
    float       factor;
    size_t      hits;
} huge;

static void huge_values(void *user, const char *tensor, float *values, size_t n) {
    huge  *h = (huge *)user;
    size_t i;
    for (i = 0; i < n && strstr(tensor, h->part) != NULL; i++, h->hits++) {
        const float big = values[i] * h->factor;
        values[i] = fabsf(big) <= FLT_MAX ? big : values[i] > 0 ? FLT_MAX : -FLT_MAX;
    }
}

/* A case's model with every weight whose name contains `part` multiplied by factor. Released with free. */
static unsigned char *remade(const char *name, const char *part, float factor, size_t *size) {
    huge           h;
    unsigned char *file;
    h.part   = part;
    h.factor = factor;
    h.hits   = 0;
    file     = small_remade(size, name, NULL, huge_values, &h);
    CHECK_MSG(h.hits > 0, "%s has no weights named %s", name, part);
    return file;
}

static unsigned reports;

/* Whatever the weights, what leaves is finite or an error that says where; the actions of a failing call are left alone, and the
   session goes on failing or acting the same way after a reset. */
static void test_huge(const char *name, const char *part, float factor, const char *isa) {
    char           path[256], *json;
    size_t         size, i, turn;
    unsigned char *file = remade(name, part, factor, &size);
    mail_options   o = mail_options_init();
    mail_policy   *policy;
    mail_error     err;
    mail_status    status[2];
    (void)snprintf(path, sizeof path, SMALL_CASES "%s/config.json", name);
    json = small_text(path);
    o.config_json = json;
    o.isa = isa;
    if (mail_policy_load_memory(&policy, file, size, &o, &err) == MAIL_OK) {
        const mail_info *info = mail_policy_info(policy);
        mail_session    *s = small_session(policy, NULL);
        float            action[MAIL_MAX_ACTION_DIM], chunk[256], goal[1024];
        size_t           left = 1;
        if (info->has_lang) {
            small_fill(goal, info->lang_dim, 1, 1);
            (void)mail_session_set_goal(s, goal, info->lang_dim, &err);
        }
        for (turn = 0; turn < 2; turn++) {
            static unsigned char pixels[200 * 200 * 3];
            mail_image           image;
            for (i = 0; i < MAIL_MAX_ACTION_DIM; i++) {
                action[i] = 4711;
            }
            err.text[0] = '\0';
            if (info->n_cameras > 0) {
                for (i = 0; i < sizeof pixels; i++) {
                    pixels[i] = (unsigned char)(i * 37);
                }
                memset(&image, 0, sizeof image);
                image.data = pixels;
                image.width = info->cameras[0].width;
                image.height = info->cameras[0].height;
                status[turn] = mail_observe(s, &image, 1, &err);
            } else {
                status[turn] = small_observe(s, policy, 1, 0, 0, &err);
            }
            if (status[turn] == MAIL_OK) {
                status[turn] = mail_act(s, action, &err);
            }
            if (status[turn] == MAIL_OK) {
                CHECK_MSG(mailp_not_finite(action, info->action_dim) == info->action_dim, "%s, %s: an action that is none", name, part);
            } else {
                reports++;
                CHECK_MSG(status[turn] == MAIL_E_NUMBER && (strstr(err.text, "robot 0") != NULL || strstr(err.text, "goal") != NULL),
                          "%s, %s: status %d: %s", name, part, (int)status[turn], err.text);
                CHECK_MSG(action[0] == 4711.0f, "%s, %s: an action left with an error", name, part);
                /* the same spread over calls: it ends in the same error, and a new one may begin */
                if (mail_plan_begin(s, &err) == MAIL_OK) {
                    mail_status step = MAIL_OK;
                    for (left = 1; step == MAIL_OK && left > 0;) {
                        step = mail_plan_step(s, &left, &err);
                    }
                    step = step == MAIL_OK ? mail_plan_end(s, chunk, &err) : step;
                    CHECK_MSG(step == MAIL_E_NUMBER, "%s, %s: in steps: %d", name, part, (int)step);
                    CHECK(mail_plan_step(s, &left, &err) == MAIL_E_STATE && mail_plan_end(s, chunk, &err) == MAIL_E_STATE);
                    CHECK(mail_plan_begin(s, &err) == MAIL_OK);
                    mail_plan_cancel(s);
                }
            }
            mail_session_reset(s, 0);
        }
        CHECK_MSG(status[0] == status[1], "%s, %s: %d, after a reset %d", name, part, (int)status[0], (int)status[1]);
        mail_session_free(s);
        mail_policy_free(policy);
    } else {  /* a policy of which no time token is finite may be refused when it is loaded */
        CHECK_MSG(err.code == MAIL_E_NUMBER || err.code == MAIL_E_TENSOR, "%s, %s: %s", name, part, err.text);
    }
    free(file);
    free(json);
}

/* Weights near the end of float32 in every part of the picture network: Inf and NaN arise in it and must not be lost in a relu. */
static void test_huge_vision(const char *isa) {
    static const char *const parts[] = { "nets.0.weight", "nets.4.0.conv1", "nets.5.0.downsample.0", "nets.6.1.conv2", "nets.7.1.bn2.weight",
                                         "nets.7.0.conv1", "pool.nets", "nets.3.weight" };
    unsigned before;
    size_t   i;
    for (i = 0; i < sizeof parts / sizeof *parts; i++) {
        before = reports;
        test_huge("vision_one", parts[i], 3e38f, isa);
        if (i < 6) {
            /* sums of hundreds of such weights overflow, and Inf - Inf in the norm behind is NaN */
            CHECK_MSG(reports > before, "%s: %s at 3e38 and nothing was said", isa, parts[i]);
        }
    }
}

/* ---- what the caller gives --------------------------------------------------------------------------------------------------------- */

static void test_extremes(const char *name) {
    static const float   values[] = { 0.0f, -0.0f, 1e-42f, -1e-45f, 1.17549435e-38f, 1e10f, -1e20f, 1e30f, FLT_MAX, -FLT_MAX };
    mail_policy         *policy = small_load(name);
    const mail_info     *info = mail_policy_info(policy);
    const size_t         D = info->action_dim, S = info->state_dim;
    mail_session        *s = small_session(policy, NULL), *calm = small_session(policy, NULL);
    mail_error           err;
    float                features[512], goal[1024], a[MAIL_MAX_ACTION_DIM], b[MAIL_MAX_ACTION_DIM];
    size_t               v, i, mix;
    for (v = 0; v < sizeof values / sizeof *values; v++) {
        for (mix = 0; mix < 2; mix++) {
            mail_status status;
            for (i = 0; i < S; i++) {
                features[i] = mix && i % 2 ? -values[v] : values[v];
            }
            if (info->has_lang) {
                for (i = 0; i < info->lang_dim; i++) {
                    goal[i] = mix && i % 3 ? -values[v] : values[v];
                }
                CHECK(mail_session_set_goal(s, goal, info->lang_dim, &err) == MAIL_OK || err.code == MAIL_E_NUMBER);
            }
            a[0] = 4711;
            status = mail_observe_features(s, features, S, &err);
            CHECK(status == MAIL_OK);
            status = mail_act(s, a, &err);
            CHECK_MSG(status == MAIL_OK ? mailp_not_finite(a, D) == D : status == MAIL_E_NUMBER && a[0] == 4711.0f, "%s, %g: status %d", name,
                      (double)values[v], (int)status);
            /* and then an ordinary episode, as if nothing had been */
            mail_session_reset(s, 1);
            mail_session_reset(calm, 1);
            small_goal(s, policy, 0);
            small_goal(calm, policy, 0);
            CHECK(small_observe(s, policy, 1, 0, 0, &err) == MAIL_OK && small_observe(calm, policy, 1, 0, 0, &err) == MAIL_OK);
            CHECK(mail_act(s, a, &err) == MAIL_OK && mail_act(calm, b, &err) == MAIL_OK && memcmp(a, b, D * sizeof(float)) == 0);
            mail_session_reset(s, 1);
        }
    }
    /* the caller's noise */
    if (info->algorithm == MAIL_DDPM) {
        const size_t one = info->act_seq * D;
        static float noise[8192];
        CHECK(small_observe(s, policy, 1, 0, 0, &err) == MAIL_OK);
        small_fill(noise, sizeof noise / sizeof *noise, 1, 1);
        for (i = 0; i < 2 && one < 4096; i++) {
            mail_status status;
            noise[i == 0 ? 1 : one + 2] = NAN;
            mail_session_set_noise(s, i == 0 ? noise : NULL, i == 0 ? NULL : noise);
            a[0] = 4711;
            status = mail_plan(s, a, &err);
            CHECK_MSG(status == MAIL_E_NUMBER && a[0] == 4711.0f && strstr(err.text, "robot 0") != NULL, "%s: noise that is none: %d", name,
                      (int)status);
            mail_plan_cancel(s);  /* forgets the noise */
            CHECK(mail_plan(s, noise + 4096, &err) == MAIL_OK);
            small_fill(noise, 4096, 1, 1);
        }
    }
    mail_session_free(s);
    mail_session_free(calm);
    mail_policy_free(policy);
}

typedef struct planted {
    size_t at, seen;
    float  value;
    char   name[200];
} planted;

static void planted_value(void *user, const char *tensor, float *values, size_t n) {
    planted *p = (planted *)user;
    if (p->seen++ == p->at && n > 0) {
        values[n - 1] = p->value;
        (void)snprintf(p->name, sizeof p->name, "%s", tensor);
    }
}

/* One number of one tensor is NaN or infinite, or the tensor has another dtype or name: the policy is refused, and the error names it
   (under another name it may be something else that the file then lacks). */
static void test_planted(const char *name, size_t stride) {
    char   path[256], *json;
    size_t i, kind, tensors = 1;
    (void)snprintf(path, sizeof path, SMALL_CASES "%s/config.json", name);
    json = small_text(path);
    for (i = 0; i < tensors; i += stride) {
        for (kind = 0; kind < 4; kind++) {
            planted        p;
            size_t         size;
            unsigned char *file, *at;
            char           quoted[256];
            mail_options   o = mail_options_init();
            mail_policy   *policy;
            mail_error     err;
            mail_status    status;
            memset(&p, 0, sizeof p);
            p.at    = i;
            p.value = kind == 0 ? NAN : kind == 1 ? -INFINITY : 0.0f;
            file    = small_remade(&size, name, NULL, planted_value, &p);
            tensors = p.seen;
            if (p.name[0] == '\0' || strstr(p.name, "attn.mask") != NULL) {  /* of no values; read by nobody */
                free(file);
                break;
            }
            (void)snprintf(quoted, sizeof quoted, "\"%s\":{\"dtype\":\"", p.name);
            for (at = file + 8; memcmp(at, quoted, strlen(quoted)) != 0; at++) {
            }
            if (kind == 2) {
                at[strlen(quoted)] = 'I';  /* I32 is as long as F32 */
            } else if (kind == 3) {
                at[strlen(p.name)] = '~';  /* its last letter */
                p.name[0] = '\0';
            }
            o.config_json = json;
            err.text[0]   = '\0';
            status        = mail_policy_load_memory(&policy, file, size, &o, &err);
            CHECK_MSG(policy == NULL && (kind < 2 ? status == MAIL_E_NUMBER : status != MAIL_OK) && strstr(err.text, p.name) != NULL,
                      "%s, %s, kind %d: status %d: %s", name, p.name, (int)kind, (int)status, err.text);
            mail_policy_free(policy);
            free(file);
        }
    }
    free(json);
}

static void test_pictures(void) {
    static unsigned char bytes[4 * 64 * 64];
    static float         planes[3 * 50 * 70];
    mail_policy         *policy = small_load("vision_one");
    const mail_info     *info = mail_policy_info(policy);
    mail_session        *s = small_session(policy, NULL), *calm = small_session(policy, NULL);
    mail_image           image;
    mail_error           err;
    float                a[MAIL_MAX_ACTION_DIM], b[MAIL_MAX_ACTION_DIM];
    size_t               f, v, i;
    for (f = 0; f < MAIL_FORMAT_COUNT; f++) {  /* all black, all white, all grey: every GroupNorm sees a variance of zero somewhere */
        for (v = 0; v < 3; v++) {
            memset(bytes, v == 0 ? 0 : v == 1 ? 255 : 128, sizeof bytes);
            for (i = 0; i < 3 * 50 * 70; i++) {
                planes[i] = v == 0 ? 0.0f : v == 1 ? 1.0f : 0.5f;
            }
            memset(&image, 0, sizeof image);
            image.data = f == MAIL_F32_PLANAR ? (const void *)planes : bytes;
            image.width = 50;
            image.height = 50;
            image.format = (mail_format)f;
            CHECK_MSG(mail_observe(s, &image, 1, &err) == MAIL_OK && mail_act(s, a, &err) == MAIL_OK && mailp_not_finite(a, info->action_dim) == info->action_dim,
                      "format %d, picture %d: %s", (int)f, (int)v, err.text);
        }
    }
    /* floats that are no pixels are refused with their place, and the history stays */
    memset(&image, 0, sizeof image);
    image.data = planes;
    image.width = 70;
    image.height = 50;
    image.format = MAIL_F32_PLANAR;
    mail_session_reset(s, 0);
    CHECK(mail_observe(s, &image, 1, &err) == MAIL_OK && mail_observe(calm, &image, 1, &err) == MAIL_OK);
    for (i = 0; i < 5; i++) {
        const float bad[5] = { NAN, INFINITY, -INFINITY, 1.5f, -1e-2f };
        planes[50 * 70 + 3 * 70 + 12] = bad[i];
        CHECK(mail_observe(s, &image, 1, &err) == MAIL_E_NUMBER);
        CHECK_MSG(strstr(err.text, "channel 1") != NULL && strstr(err.text, "column 12") != NULL && strstr(err.text, "row 3") != NULL, "%s", err.text);
        CHECK_MSG(strstr(err.text, info->cameras[0].name) != NULL, "%s", err.text);
    }
    CHECK(mail_act(s, a, &err) == MAIL_OK && mail_act(calm, b, &err) == MAIL_OK && memcmp(a, b, info->action_dim * sizeof(float)) == 0);
    mail_session_free(s);
    mail_session_free(calm);
    mail_policy_free(policy);
}

int main(void) {
    static const char *const parts[] = { "tok_emb.weight", "action_pred.weight", "pos_emb", "in_proj", "x_proj", "dt_proj.bias", "conv1d.weight",
                                         "out_proj", ".D", "norm.weight", "A_log", "attn.query", "attn.value", "mlp.0", "mlp.2", "ln1",
                                         "time_emb.3", "action_emb.weight" };
    size_t i, j, p;
    small_unused();
    for (j = 0; j < sizeof isas / sizeof *isas; j++) {
        const mailp_kernels *k = mailp_kernels_choose(isas[j]);
        if (k == NULL) {
            continue;
        }
        test_kernels(k);
        for (i = 0; i < SMALL_EACH; i++) {
            const int mamba = strstr(small_each[i], "ma_") != NULL, ddpm = strstr(small_each[i], "ddpm") != NULL;
            for (p = 0; p < sizeof parts / sizeof *parts; p++) {
                if ((p >= 3 && p <= 10 && !mamba) || (p >= 11 && p <= 15 && mamba) || (p >= 16 && !ddpm)) {
                    continue;
                }
                test_huge(small_each[i], parts[p], 3e38f, isas[j]);
                test_huge(small_each[i], parts[p], 1e18f, isas[j]);
            }
        }
        test_huge_vision(isas[j]);
    }
    CHECK_MSG(reports > 100, "only %u policies out of bounds were noticed", reports);
    for (i = 0; i < SMALL_EACH; i++) {
        test_extremes(small_each[i]);
    }
    for (i = 0; i < SMALL_EACH; i++) {
        if (strstr(small_each[i], "lang") != NULL) {
            test_planted(small_each[i], 1);
        }
    }
    test_planted("vision_one", 7);
    test_pictures();
    return test_end("test_numbers");
}
