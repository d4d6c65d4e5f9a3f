/* play.c: a policy in a control loop, to copy from: load, observe, act.

       cc -O2 -I. examples/conveyor/play.c -o play -lm        in the folder of mail.h
       ./play examples/conveyor/d_ma_h5_ddpm.safetensors [episodes [first_seed [spread]]]

   The robot is the simulator in sim.h: put yours in its place. With the word "spread" the denoising steps of a decision
   are spread over SPREAD ticks instead of being done at once, so that no tick is much longer than another; the loop
   plans while it executes the chunk before. Every action then rests on frames that are two ticks older, which this policy
   was not trained for: it catches 81 of 100 that way (seeds 0 to 99) in place of 97.
   Exit status: 0 if at least one episode succeeds, 1 if none does, 2 if the policy cannot be used.
   Next: demo.c draws what the policy sees and plans. */

#define _POSIX_C_SOURCE 199309L /* clock_gettime */
#define MAIL_IMPLEMENTATION
#include "mail.h"

#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SPREAD 2        /* ticks over which a decision is spread */
#define PERIOD 3        /* ticks from one new chunk to the next */
#define MAX_PIXELS (256 * 256)

static uint8_t pixels[CONVEYOR_CAMERAS][MAX_PIXELS * 3];

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Take a picture with every camera and hand them to the policy. Cameras come in the order of mail_policy_info. */
static mail_status look(mail_session *session, const mail_info *info, const conveyor_sim *sim, mail_error *err) {
    mail_image frames[CONVEYOR_CAMERAS];
    int        i;
    for (i = 0; i < CONVEYOR_CAMERAS; i++) {
        memset(&frames[i], 0, sizeof frames[i]);
        frames[i].data = pixels[i];
        frames[i].width = info->cameras[i].width;
        frames[i].height = info->cameras[i].height;
        frames[i].format = MAIL_RGB8;
        conveyor_picture(sim, i, (int)frames[i].width, (int)frames[i].height, pixels[i]);
    }
    return mail_observe(session, frames, CONVEYOR_CAMERAS, err);
}

/* A new chunk every PERIOD ticks: begun from the newest frame SPREAD ticks before it is needed, a share of its steps done in
   each of these, and then put to use. `tick` counts from the first action. With the option align_plan the new chunk goes on
   with the action for the tick at which it is ready. */
static mail_status plan_ahead(mail_session *session, const mail_info *info, int tick, mail_error *err) {
    int         at = tick % PERIOD, i;
    size_t      left;
    mail_status status = MAIL_OK;
    if (tick == 0) {
        return mail_plan(session, NULL, err); /* there is no old chunk yet */
    }
    if (at == 0) {
        return mail_plan_end(session, NULL, err);
    }
    if (at == PERIOD - SPREAD) {
        status = mail_plan_begin(session, err);
    }
    for (i = 0; i < (int)info->n_timesteps / SPREAD && at >= PERIOD - SPREAD && status == MAIL_OK; i++) {
        status = mail_plan_step(session, &left, err);
    }
    return status;
}

int main(int argc, char **argv) {
    const char      *path = argc > 1 ? argv[1] : "examples/conveyor/d_ma_h5_ddpm.safetensors";
    int              episodes = argc > 2 ? atoi(argv[2]) : 20, first = argc > 3 ? atoi(argv[3]) : 0;
    int              spread = argc > 4 && strcmp(argv[4], "spread") == 0, i, won = 0;
    double           worst = 0.0, sum = 0.0;
    long             ticks = 0;
    mail_session_options options = mail_session_options_init();
    mail_policy         *policy;
    mail_session        *session = NULL;
    const mail_info     *info;
    mail_error           err;

    if (mail_policy_load(&policy, path, NULL, &err)) {
        fprintf(stderr, "play: %s\n", err.text);
        return 2;
    }
    info = mail_policy_info(policy);
    if (info->n_cameras != CONVEYOR_CAMERAS || info->action_dim != CONVEYOR_ACTION_DIM || info->has_lang ||
        info->cameras[0].width * info->cameras[0].height > MAX_PIXELS ||
        info->cameras[1].width * info->cameras[1].height > MAX_PIXELS || (spread && (info->n_timesteps % SPREAD != 0 || info->diffusion_x != 0))) {
        fprintf(stderr, "play: %s: this policy is for another robot\n", path);
        mail_policy_free(policy);
        return 2;
    }
    options.align_plan = spread;
    options.n_action_steps = spread ? info->act_seq : 0; /* spread: mail_act must never have to plan by itself */
    if (mail_session_create(&session, policy, &options, &err)) {
        fprintf(stderr, "play: %s\n", err.text);
        mail_policy_free(policy);
        return 2;
    }
    for (i = 0; i < episodes; i++) {
        static const char *const outcome[] = { "running", "caught", "hit", "missed", "timeout" };
        conveyor_sim             sim;
        float                    action[CONVEYOR_ACTION_DIM] = { 0 };
        mail_status              status = MAIL_OK;
        conveyor_reset(&sim, (uint64_t)(first + i));
        mail_session_reset(session, (uint64_t)(first + i));
        while (sim.status == CONVEYOR_RUNNING) { /* one turn of the control loop; a real one waits for its tick here */
            double start = seconds();
            status = look(session, info, &sim, &err);
            if (status == MAIL_OK && sim.tick >= CONVEYOR_SETTLE) { /* before, just watch */
                if (spread && info->n_timesteps > 0) {
                    status = plan_ahead(session, info, sim.tick - CONVEYOR_SETTLE, &err);
                }
                status = status ? status : mail_act(session, action, &err);
            }
            if (status) {
                fprintf(stderr, "play: %s\n", err.text);
                break;
            }
            start = seconds() - start;
            worst = start > worst ? start : worst;
            sum += start;
            ticks++;
            (void)conveyor_step(&sim, action); /* move the robot */
        }
        printf("seed %d: %s after %d ticks\n", first + i, outcome[sim.status], (int)sim.tick);
        won += sim.status == CONVEYOR_CAUGHT;
    }
    printf("%d of %d caught; %.2f ms a tick on average, %.2f at worst\n", won, episodes,
           ticks ? 1e3 * sum / (double)ticks : 0.0, 1e3 * worst);
    mail_session_free(session);
    mail_policy_free(policy);
    return won > 0 ? 0 : 1;
}
