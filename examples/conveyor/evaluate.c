/* evaluate.c: success of conveyor policies over many episodes; results.py makes RESULTS.md from its lines.

       evaluate [--episodes N] [--first SEED] [--occlude SHARE] [--steps N] [--execute N] [--isa NAME] [--trace] POLICY...

   --occlude  share of the pictures' 8 x 8 pixel squares that are blacked out, drawn anew for every frame
   --steps    denoise in N steps by DDIM in place of all steps by DDPM
   --execute  actions of a chunk that are executed before the next decision; the policy's own number otherwise
   --trace    print every episode:  seed outcome ticks side
   Prints per policy: file, episodes, caught, hit, missed, timeout, left, right (sides among the caught), mean ticks of the
   caught, median and largest milliseconds of a decision (all denoising steps; frames are encoded when they arrive).
   Exit status 2 if a policy cannot be used. */

#define _POSIX_C_SOURCE 199309L
#define MAIL_IMPLEMENTATION
#include "mail.h"

#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_PIXELS (256 * 256)
#define MAX_TIMES 200000

typedef struct settings {
    int         episodes, first, steps, execute, trace;
    float       occlude;
    const char *isa;
} settings;

static uint8_t pixels[CONVEYOR_CAMERAS][MAX_PIXELS * 3];
static double  times[MAX_TIMES];

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void occlude(uint8_t *rgb, int width, int height, float share, uint64_t *random) {
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

/* Run all episodes of one policy. Returns 0, or 2 after saying what is wrong. */
static int run(const char *path, const settings *set) {
    mail_options         options = mail_options_init();
    mail_session_options session_options = mail_session_options_init();
    mail_policy         *policy = NULL;
    mail_session        *session = NULL;
    const mail_info     *info;
    mail_error           err;
    mail_status          status = MAIL_OK;
    int                  count[5] = { 0 }, sides[2] = { 0 }, execute, i, c;
    double               ticks = 0.0;
    size_t               n_times = 0;

    options.isa = set->isa;
    if (mail_policy_load(&policy, path, &options, &err)) {
        fprintf(stderr, "evaluate: %s: %s\n", path, err.text);
        return 2;
    }
    info = mail_policy_info(policy);
    execute = set->execute > 0 ? set->execute : (int)info->n_action_steps;
    if (info->n_cameras != CONVEYOR_CAMERAS || info->action_dim != CONVEYOR_ACTION_DIM || info->has_lang ||
        info->cameras[0].width * info->cameras[0].height > MAX_PIXELS ||
        info->cameras[1].width * info->cameras[1].height > MAX_PIXELS) {
        fprintf(stderr, "evaluate: %s: this policy is for another robot\n", path);
        mail_policy_free(policy);
        return 2;
    }
    if (set->steps > 0 && info->n_timesteps > 0) {
        session_options.sampler = MAIL_SAMPLER_DDIM;
        session_options.n_steps = (size_t)set->steps;
    }
    if (set->execute > 0) {
        session_options.n_action_steps = (size_t)set->execute;
    }
    if (mail_session_create(&session, policy, &session_options, &err)) {
        fprintf(stderr, "evaluate: %s: %s\n", path, err.text);
        mail_policy_free(policy);
        return 2;
    }
    for (i = 0; i < set->episodes && status == MAIL_OK; i++) {
        uint64_t     seed = (uint64_t)(set->first + i), random = seed ^ UINT64_C(0x5DEECE66D);
        conveyor_sim sim;
        float        action[CONVEYOR_ACTION_DIM] = { 0 };
        int          used = 0;
        conveyor_reset(&sim, seed);
        mail_session_reset(session, seed);
        while (sim.status == CONVEYOR_RUNNING && status == MAIL_OK) {
            mail_image frames[CONVEYOR_CAMERAS];
            for (c = 0; c < CONVEYOR_CAMERAS; c++) {
                int w = (int)info->cameras[c].width, h = (int)info->cameras[c].height;
                memset(&frames[c], 0, sizeof frames[c]);
                frames[c].data = pixels[c];
                frames[c].width = (size_t)w;
                frames[c].height = (size_t)h;
                frames[c].format = MAIL_RGB8;
                conveyor_picture(&sim, c, w, h, pixels[c]);
                occlude(pixels[c], w, h, set->occlude, &random);
            }
            status = mail_observe(session, frames, CONVEYOR_CAMERAS, &err);
            if (status == MAIL_OK && sim.tick >= CONVEYOR_SETTLE) {
                double start = seconds();
                status = mail_act(session, action, &err);
                if (used++ % execute == 0 && n_times < MAX_TIMES) {
                    times[n_times++] = seconds() - start;
                }
            }
            (void)conveyor_step(&sim, action);
        }
        if (sim.status == CONVEYOR_CAUGHT) {
            ticks += sim.tick;
            sides[sim.passed > 0]++;
        }
        count[sim.status]++;
        if (set->trace) {
            static const char *const outcome[] = { "running", "caught", "hit", "missed", "timeout" };
            printf("%d %s %d %d\n", set->first + i, outcome[sim.status], (int)sim.tick, (int)sim.passed);
        }
    }
    if (status) {
        fprintf(stderr, "evaluate: %s: %s\n", path, err.text);
    } else {
        qsort(times, n_times, sizeof times[0], by_size);
        printf("%s %d %d %d %d %d %d %d %.1f %.3f %.3f\n", path, set->episodes, count[CONVEYOR_CAUGHT],
               count[CONVEYOR_HIT], count[CONVEYOR_MISSED], count[CONVEYOR_TIMEOUT], sides[0], sides[1],
               count[CONVEYOR_CAUGHT] ? ticks / count[CONVEYOR_CAUGHT] : 0.0, n_times ? 1e3 * times[n_times / 2] : 0.0,
               n_times ? 1e3 * times[n_times - 1] : 0.0);
        fflush(stdout);
    }
    mail_session_free(session);
    mail_policy_free(policy);
    return status ? 2 : 0;
}

int main(int argc, char **argv) {
    settings set = { 500, 0, 0, 0, 0, 0.0f, NULL };
    int      i, failed = 0, files = 0;
    for (i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--trace") == 0) {
            set.trace = 1;
        } else if (strncmp(argv[i], "--", 2) == 0) {
            if (strcmp(argv[i], "--episodes") == 0) {
                set.episodes = atoi(value);
            } else if (strcmp(argv[i], "--first") == 0) {
                set.first = atoi(value);
            } else if (strcmp(argv[i], "--occlude") == 0) {
                set.occlude = (float)atof(value);
            } else if (strcmp(argv[i], "--steps") == 0) {
                set.steps = atoi(value);
            } else if (strcmp(argv[i], "--execute") == 0) {
                set.execute = atoi(value);
            } else if (strcmp(argv[i], "--isa") == 0) {
                set.isa = value;
            } else {
                fprintf(stderr, "evaluate: unknown option %s\n", argv[i]);
                return 2;
            }
            i++;
        } else {
            files++;
            failed |= run(argv[i], &set);
        }
    }
    if (files == 0) {
        fprintf(stderr, "usage: evaluate [--episodes N] [--first SEED] [--occlude SHARE] [--steps N] [--execute N] "
                        "[--isa NAME] [--trace] POLICY...\n");
        return 2;
    }
    return failed;
}
