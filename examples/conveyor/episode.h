/* episode.h: what demo.c and evaluate.c share: a clock, the cameras' pictures, and loading a policy that fits the task.
   play.c does the same in its own words, since it is to be copied from. Include it after mail.h and sim.h. */

#ifndef CONVEYOR_EPISODE_H
#define CONVEYOR_EPISODE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EPISODE_MAX_SIDE 128 /* of a camera's picture */

/* What the cameras saw last, [height][width][3] each, in the order of mail_policy_info. */
static uint8_t episode_rgb[CONVEYOR_CAMERAS][EPISODE_MAX_SIDE * EPISODE_MAX_SIDE * 3];

static inline double episode_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline int episode_order(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sort n times; -> the one in the middle, 0 if there is none. */
static inline double episode_median(double *times, size_t n) {
    qsort(times, n, sizeof *times, episode_order);
    return n > 0 ? times[n / 2] : 0.0;
}

/* Load a policy and make a session; both options may be NULL. Returns 0, or 2 after saying what is wrong; then nothing is left. */
static inline int episode_load(mail_policy **policy, mail_session **session, const char *program, const char *path,
                               const mail_options *options, const mail_session_options *session_options) {
    const mail_info *info;
    mail_error       err;
    int              c, fits;
    *policy = NULL;
    *session = NULL;
    if (mail_policy_load(policy, path, options, &err)) {
        fprintf(stderr, "%s: %s\n", program, err.text);
        return 2;
    }
    info = mail_policy_info(*policy);
    fits = info->n_cameras == CONVEYOR_CAMERAS && info->action_dim == CONVEYOR_ACTION_DIM && !info->has_lang;
    for (c = 0; fits && c < CONVEYOR_CAMERAS; c++) {
        fits = info->cameras[c].width <= EPISODE_MAX_SIDE && info->cameras[c].height <= EPISODE_MAX_SIDE;
    }
    if (!fits) {
        fprintf(stderr, "%s: %s: this policy is for another robot\n", program, path);
    } else if (mail_session_create(session, *policy, session_options, &err)) {
        fprintf(stderr, "%s: %s: %s\n", program, path, err.text);
        fits = 0;
    }
    if (!fits) {
        mail_policy_free(*policy);
        *policy = NULL;
    }
    return fits ? 0 : 2;
}

/* Black out a share of a picture's 8 x 8 squares. */
static inline void episode_occlude(uint8_t *rgb, int width, int height, float share, uint64_t *random) {
    int x, y, j;
    for (y = 0; y < height; y += 8) {
        for (x = 0; x < width; x += 8) {
            if (conveyor_random(random) < share) {
                int w = width - x < 8 ? width - x : 8;
                for (j = y; j < y + 8 && j < height; j++) {
                    memset(rgb + ((size_t)j * (size_t)width + (size_t)x) * 3, 0, (size_t)w * 3);
                }
            }
        }
    }
}

/* Take a picture with each camera into episode_rgb, black out a share of it (0: nothing), and hand them to the policy. */
static inline mail_status episode_look(mail_session *session, const mail_info *info, const conveyor_sim *sim, float occluded,
                                       uint64_t *random, mail_error *err) {
    mail_image frames[CONVEYOR_CAMERAS];
    int        c;
    for (c = 0; c < CONVEYOR_CAMERAS; c++) {
        int w = (int)info->cameras[c].width, h = (int)info->cameras[c].height;
        memset(&frames[c], 0, sizeof frames[c]);
        frames[c].data = episode_rgb[c];
        frames[c].width = (size_t)w;
        frames[c].height = (size_t)h;
        frames[c].format = MAIL_RGB8;
        conveyor_picture(sim, c, w, h, episode_rgb[c]);
        if (occluded > 0.0f) {
            episode_occlude(episode_rgb[c], w, h, occluded, random);
        }
    }
    return mail_observe(session, frames, CONVEYOR_CAMERAS, err);
}

#endif
