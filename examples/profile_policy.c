/* profile_policy: where the time of a decision goes, layer by layer, through the profile callback of a session.

       cc -O2 -I.. profile_policy.c -o profile_policy -lm
       ./profile_policy policy.safetensors [f32|bf16|int8]

   Without the callback nothing is measured and nothing is paid. */
#define _POSIX_C_SOURCE 199309L
#define MAIL_IMPLEMENTATION
#include "mail.h"

#include <stdio.h>
#include <time.h>

#define DECISIONS 20
#define ROWS      256

/* one row of the table: a layer of a part */
typedef struct row {
    const char   *part;
    size_t        layer;
    unsigned long calls;
    double        seconds;
} row;

typedef struct table {
    row    rows[ROWS];
    size_t n;
} table;

static double now(void *user) {
    struct timespec t;
    (void)user;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void add(void *user, const char *part, size_t layer, double seconds) {
    table *t = (table *)user;
    size_t i;
    for (i = 0; i < t->n; i++) {
        if (t->rows[i].layer == layer && strcmp(t->rows[i].part, part) == 0) {
            break;
        }
    }
    if (i == ROWS) {
        return;
    }
    if (i == t->n) {
        memset(&t->rows[i], 0, sizeof t->rows[i]);
        t->rows[i].part  = part;
        t->rows[i].layer = layer;
        t->n++;
    }
    t->rows[i].calls++;
    t->rows[i].seconds += seconds;
}

int main(int argc, char **argv) {
    static unsigned char picture[128 * 128 * 3];
    static table         times;
    static const char *const names[] = { "f32", "bf16", "int8" };  /* as in mail_weights */
    int                  weights = 0;
    mail_options         load    = mail_options_init();
    mail_session_options options = mail_session_options_init();
    mail_policy         *policy;
    mail_session        *session;
    mail_error           err;
    mail_image           image[MAIL_MAX_CAMERAS];
    const mail_info     *info;
    double               total = 0;
    size_t               i, d;
    while (argc > 2 && weights < 3 && strcmp(argv[2], names[weights]) != 0) {
        weights++;
    }
    if (argc < 2 || weights == 3) {
        fprintf(stderr, "usage: profile_policy CHECKPOINT [f32|bf16|int8]\n");
        return 2;
    }
    load.weights = (mail_weights)weights;
    options.profile.user = &times;
    options.profile.now  = now;
    options.profile.add  = add;
    if (mail_policy_load(&policy, argv[1], &load, &err) != MAIL_OK || mail_session_create(&session, policy, &options, &err) != MAIL_OK) {
        fprintf(stderr, "profile_policy: %s\n", err.text);
        return 1;
    }
    info = mail_policy_info(policy);
    for (i = 0; i < sizeof picture; i++) {
        picture[i] = (unsigned char)(i * i >> 7);
    }
    memset(image, 0, sizeof image);
    for (i = 0; i < info->n_cameras; i++) {
        image[i].data   = picture;
        image[i].width  = 128;
        image[i].height = 128;
    }
    if (info->has_lang) {
        float *goal = (float *)calloc(info->lang_dim, sizeof(float));
        if (goal == NULL || mail_session_set_goal(session, goal, info->lang_dim, &err) != MAIL_OK) {
            return 1;
        }
        free(goal);
    }
    for (d = 0; d <= DECISIONS; d++) {
        float      *features = (float *)calloc(info->state_dim, sizeof(float));
        mail_status status;
        if (features == NULL) {
            return 1;
        }
        status = info->n_cameras == 0 ? mail_observe_features(session, features, info->state_dim, &err)
                                      : mail_observe(session, image, info->n_cameras, &err);
        free(features);
        if (status != MAIL_OK || mail_plan(session, NULL, &err) != MAIL_OK) {
            fprintf(stderr, "profile_policy: %s\n", err.text);
            return 1;
        }
        if (d == 0) {
            times.n = 0;  /* the first decision warms the caches */
        }
    }
    for (i = 0; i < times.n; i++) {
        total += times.rows[i].seconds;
    }
    printf("%s, %s weights, kernels %s: %.2f ms per decision in layers\n", info->arch_name, names[weights], info->isa,
           total / DECISIONS * 1e3);
    printf("%-8s %5s %6s %12s %7s\n", "part", "layer", "calls", "us/decision", "share");
    for (i = 0; i < times.n; i++) {
        const row *r = &times.rows[i];
        printf("%-8s %5lu %6lu %12.1f %6.1f%%\n", r->part, (unsigned long)r->layer, r->calls / DECISIONS, r->seconds / DECISIONS * 1e6,
               100.0 * r->seconds / total);
    }
    mail_session_free(session);
    mail_policy_free(policy);
    return 0;
}
