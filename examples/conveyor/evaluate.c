/* evaluate.c: success of conveyor policies over many episodes; results.py makes RESULTS.md from its lines.

       evaluate [--episodes N] [--first SEED] [--occlude SHARE] [--steps N] [--execute N] [--weights f32|bf16|int8]
                [--isa NAME] [--trace] POLICY...

   --occlude  share of the pictures' 8 x 8 pixel squares that are blacked out, drawn anew for every frame
   --steps    denoise in N steps by DDIM in place of all steps by DDPM
   --execute  actions of a chunk that are executed before the next decision; the policy's own number otherwise
   --weights  how weights are held; f32 if not said
   --trace    print every episode:  seed outcome ticks side
   Prints per policy: file, episodes, caught, hit, missed, timeout, left, right (sides among the caught), mean ticks of the
   caught, median and largest milliseconds of a decision (all denoising steps; frames are encoded when they arrive).
   Exit status 2 if a policy cannot be used. */

#define _POSIX_C_SOURCE 199309L
#define MAIL_IMPLEMENTATION
#include "mail.h"

#include "sim.h"

#include "episode.h"

#define MAX_TIMES 200000

typedef struct settings {
    int          episodes, first, steps, execute, trace;
    float        occlude;
    mail_weights weights;
    const char  *isa;
} settings;

static double times[MAX_TIMES];

/* Run all episodes of one policy. Returns 0, or 2 after saying what is wrong. */
static int run(const char *path, const settings *set) {
    mail_options         options = mail_options_init();
    mail_session_options session_options = mail_session_options_init();
    mail_policy         *policy = NULL;
    mail_session        *session = NULL;
    const mail_info     *info;
    mail_error           err;
    mail_status          status = MAIL_OK;
    int                  count[5] = { 0 }, sides[2] = { 0 }, execute, i;
    double               ticks = 0.0;
    size_t               n_times = 0;

    options.isa = set->isa;
    options.weights = set->weights;
    if (set->steps > 0) {
        session_options.sampler = MAIL_SAMPLER_DDIM;
        session_options.n_steps = (size_t)set->steps;
    }
    if (set->execute > 0) {
        session_options.n_action_steps = (size_t)set->execute;
    }
    if (episode_load(&policy, &session, "evaluate", path, &options, &session_options)) {
        return 2;
    }
    info = mail_policy_info(policy);
    execute = set->execute > 0 ? set->execute : (int)info->n_action_steps;
    for (i = 0; i < set->episodes && status == MAIL_OK; i++) {
        uint64_t     seed = (uint64_t)(set->first + i), random = seed ^ UINT64_C(0x5DEECE66D);
        conveyor_sim sim;
        float        action[CONVEYOR_ACTION_DIM] = { 0 };
        int          used = 0;
        conveyor_reset(&sim, seed);
        mail_session_reset(session, seed);
        while (sim.status == CONVEYOR_RUNNING && status == MAIL_OK) {
            status = episode_look(session, info, &sim, set->occlude, &random, &err);
            if (status == MAIL_OK && sim.tick >= CONVEYOR_SETTLE) {
                double start = episode_seconds();
                status = mail_act(session, action, &err);
                if (used++ % execute == 0 && n_times < MAX_TIMES) {
                    times[n_times++] = episode_seconds() - start;
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
        double median = episode_median(times, n_times);
        printf("%s %d %d %d %d %d %d %d %.1f %.3f %.3f\n", path, set->episodes, count[CONVEYOR_CAUGHT],
               count[CONVEYOR_HIT], count[CONVEYOR_MISSED], count[CONVEYOR_TIMEOUT], sides[0], sides[1],
               count[CONVEYOR_CAUGHT] ? ticks / count[CONVEYOR_CAUGHT] : 0.0, 1e3 * median,
               n_times ? 1e3 * times[n_times - 1] : 0.0);
        fflush(stdout);
    }
    mail_session_free(session);
    mail_policy_free(policy);
    return status ? 2 : 0;
}

int main(int argc, char **argv) {
    settings set = { 500, 0, 0, 0, 0, 0.0f, MAIL_WEIGHTS_F32, NULL };
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
            } else if (strcmp(argv[i], "--weights") == 0 && strcmp(value, "f32") == 0) {
                set.weights = MAIL_WEIGHTS_F32;
            } else if (strcmp(argv[i], "--weights") == 0 && strcmp(value, "bf16") == 0) {
                set.weights = MAIL_WEIGHTS_BF16;
            } else if (strcmp(argv[i], "--weights") == 0 && strcmp(value, "int8") == 0) {
                set.weights = MAIL_WEIGHTS_INT8;
            } else if (strcmp(argv[i], "--isa") == 0) {
                set.isa = value;
            } else {
                fprintf(stderr, "evaluate: unknown option %s %s\n", argv[i], value);
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
                        "[--weights f32|bf16|int8] [--isa NAME] [--trace] POLICY...\n");
        return 2;
    }
    return failed;
}
