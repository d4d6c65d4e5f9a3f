/* robot_loop: the control loop of a robot. Fixed period, memory given by the caller, no allocation in the loop, the
   denoising steps spread over the last ticks of a chunk so that no tick is long.

   That has a price: a chunk is planned from a frame that is AHEAD ticks old when its first action is executed. align_plan
   keeps the time right (actions whose tick has passed are left out), but what happened since is not seen: keep AHEAD small,
   or let mail_act plan by itself (AHEAD 0) where a whole decision fits into a tick.

       cc -O2 -I.. robot_loop.c -o robot_loop -lm
       ./robot_loop policy.safetensors [ticks]

   Replace camera() and move() by your robot's; read conveyor/play.c next for a policy that really closes the loop. */
#define _POSIX_C_SOURCE 199309L
#define MAIL_IMPLEMENTATION
#include "mail.h"

#include <stdio.h>
#include <time.h>

#define PERIOD 0.05  /* seconds: 20 Hz */
#define AHEAD  3     /* ticks over which the steps of the next chunk are shared out */
#define MIN(a, b) ((a) < (b) ? (a) : (b))

static unsigned char frame[MAIL_MAX_CAMERAS][96 * 96 * 3];

/* the robot's cameras: here a moving bar */
static void camera(mail_image *image, size_t which, long tick) {
    size_t x, y;
    for (y = 0; y < 96; y++) {
        for (x = 0; x < 96; x++) {
            memset(&frame[which][(y * 96 + x) * 3], (x + (size_t)tick) % 96 < 12 ? 250 : 30 + (int)y, 3);
        }
    }
    memset(image, 0, sizeof *image);
    image->data   = frame[which];
    image->width  = 96;
    image->height = 96;
    image->format = MAIL_RGB8;
}

/* the robot's motors */
static void move(const float *action, size_t n) {
    (void)action;
    (void)n;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int fail(const mail_error *err) {
    fprintf(stderr, "robot_loop: %s: %s\n", mail_status_text(err->code), err->text);
    return 1;
}

int main(int argc, char **argv) {
    mail_session_options options = mail_session_options_init();
    mail_policy         *policy;
    mail_session        *session;
    mail_error           err;
    mail_image           image[MAIL_MAX_CAMERAS];
    const mail_info     *info;
    float                action[MAIL_MAX_ACTION_DIM];
    unsigned char       *memory, *aligned;
    const long           ticks = argc > 2 ? strtol(argv[2], NULL, 10) : 60;
    size_t               size, steps, ahead, left = 0, i;
    int                  planning = 0;
    long                 tick;
    double               worst = 0, next;
    if (argc < 2) {
        fprintf(stderr, "usage: robot_loop CHECKPOINT [TICKS]\n");
        return 2;
    }
    if (mail_policy_load(&policy, argv[1], NULL, &err) != MAIL_OK) {
        return fail(&err);
    }
    info = mail_policy_info(policy);
    options.seed = 7;
    options.align_plan = 1;

    /* everything the session will ever need, in one block of ours */
    size    = mail_session_size(policy, &options);
    memory  = (unsigned char *)malloc(size + 64);
    aligned = memory + (64 - (uintptr_t)memory % 64) % 64;
    if (memory == NULL || mail_session_init(&session, policy, &options, aligned, size, &err) != MAIL_OK) {
        return memory == NULL ? 1 : fail(&err);
    }
    if (info->has_lang) {
        static float goal[4096];
        if (info->lang_dim > 4096 || mail_session_set_goal(session, goal, info->lang_dim, &err) != MAIL_OK) {
            return fail(&err);
        }
    }
    steps = info->algorithm == MAIL_BC ? 1 : info->n_timesteps + info->diffusion_x;
    ahead = MIN(MIN(AHEAD, info->n_action_steps), info->act_seq / 2);
    next  = seconds();
    for (tick = 0; tick < ticks; tick++) {
        const double start = seconds();
        double       took;
        for (i = 0; i < info->n_cameras; i++) {
            camera(&image[i], i, tick);
        }
        if (mail_observe(session, image, info->n_cameras, &err) != MAIL_OK) {
            return fail(&err);
        }
        if (planning && left == 0 && mail_actions_left(session) == 0) {  /* the new chunk goes on where the old one ends */
            if (mail_plan_end(session, NULL, &err) != MAIL_OK) {
                return fail(&err);
            }
            planning = 0;
        }
        if (!planning && mail_actions_left(session) > 0 && mail_actions_left(session) <= ahead) {
            if (mail_plan_begin(session, &err) != MAIL_OK) {
                return fail(&err);
            }
            planning = 1;
            left     = steps;
        }
        if (planning) {  /* this tick's share of what is to do before the old chunk is used up */
            for (i = (left + mail_actions_left(session) - 1) / mail_actions_left(session); i > 0; i--) {
                if (mail_plan_step(session, &left, &err) != MAIL_OK) {
                    return fail(&err);
                }
            }
        }
        if (mail_act(session, action, &err) != MAIL_OK) {  /* the first one plans: there is no old chunk yet */
            return fail(&err);
        }
        move(action, info->action_dim);
        took  = seconds() - start;
        worst = took > worst && tick > 0 ? took : worst;
        next += PERIOD;
        if (next > seconds()) {
            struct timespec wait;
            took         = next - seconds();
            wait.tv_sec  = (time_t)took;
            wait.tv_nsec = took > 0 ? (long)((took - (double)wait.tv_sec) * 1e9) : 0;
            nanosleep(&wait, NULL);
        } else {
            next = seconds();  /* late: go on from here, do not hurry after */
        }
    }
    printf("%ld ticks of %.0f ms, longest computation in one of them %.2f ms, %lu bytes for the session\n", ticks, PERIOD * 1e3, worst * 1e3,
           (unsigned long)size);
    free(memory);
    mail_policy_free(policy);
    return 0;
}
