/* demo.c: what a policy sees, plans and does, in numbers and pictures; `make demo` runs it.

       demo [POLICY [FOLDER [EPISODES]]]

   Runs 100 episodes and prints success, time and memory. Into FOLDER it draws
       rollouts.gif   some episodes: the scene with the planned chunk on it, and both cameras' pictures as the policy gets them
       strip          one episode in six moments
       denoising      one chunk while it is denoised, from noise on the left to the plan on the right
       keypoints      the spatial-softmax points of both cameras
   (the last three as PNG, or PPM without stb_image_write). A simple loop to copy from is in play.c.
   Exit status: 0 if most episodes succeed, 1 if not, 2 if the policy cannot be used or a picture cannot be written. */

#define _POSIX_C_SOURCE 199309L
#define MAIL_IMPLEMENTATION
#include "mail.h"

#include "picture.h"
#include "sim.h"

#include "episode.h"

#define VIEW 256        /* the scene in rollouts.gif */
#define SMALL 128       /* a camera's picture beside it */
#define MAX_TIMES 8192
#define SHOWN 4         /* episodes in rollouts.gif */
#define STRIP 6         /* moments in the strip */
#define PART 192        /* size of a scene in the strip and the denoising picture */

static uint8_t scene_rgb[VIEW * VIEW * 3];
static uint8_t canvas_rgb[2 * VIEW * VIEW * 3];
static uint8_t strip_rgb[STRIP * PART * (PART + PART / 2) * 3];
static gif     movie;
static double  times[2][MAX_TIMES];

static const uint8_t white[3] = { 255, 255, 255 }, pink[3] = { 255, 60, 200 }, green[3] = { 60, 255, 120 };

static picture picture_of(uint8_t *rgb, int width, int height) {
    picture p;
    p.rgb = rgb;
    p.width = width;
    p.height = height;
    return p;
}

/* The scene with a chunk drawn on it: actions [n][3] in the robot's units, those before `done` are past. The dots are where
   the hand would be after each action; green where the gripper is to be closed. */
static picture draw_scene(const conveyor_sim *sim, int size, const float *actions, int n, int done) {
    picture p = picture_of(scene_rgb, size, size);
    float   scale = (float)size / 2.1f, x[2], y[2];
    int     i, pass;
    conveyor_render(sim, 0, size, size, scene_rgb);
    for (pass = 0; pass < 2; pass++) { /* lines, then dots on them */
        x[0] = (sim->hand_x + 1.05f) * scale;
        y[0] = (1.0f - sim->hand_y) * scale;
        for (i = done; i < n; i++) {
            const float *a = actions + i * CONVEYOR_ACTION_DIM;
            x[1] = x[0] + a[0] * scale;
            y[1] = y[0] - a[1] * scale;
            if (pass == 0) {
                picture_line(p, x[0], y[0], x[1], y[1], 0.004f * (float)size, white);
            } else {
                picture_line(p, x[1], y[1], x[1], y[1], 0.011f * (float)size, a[2] > 0.0f ? green : pink);
            }
            x[0] = x[1];
            y[0] = y[1];
        }
    }
    return p;
}

/* Camera c's picture as the policy got it, shrunk or enlarged to size x size at (x, y) of p. */
static void draw_camera(picture p, int x, int y, int size, const mail_info *info, int c) {
    int w = (int)info->cameras[c].width, h = (int)info->cameras[c].height, i, j;
    for (j = 0; j < size; j++) {
        for (i = 0; i < size; i++) {
            picture_blend(p, x + i, y + j, episode_rgb[c] + ((j * h / size) * w + i * w / size) * 3, 1.0f);
        }
    }
}

/* One chunk while it is denoised: after 0, 3, 6, 9, 12 and all 16 steps. Returns 2 if the file cannot be written. */
static int draw_denoising(mail_session *session, const mail_info *info, const conveyor_sim *sim, const char *folder,
                          mail_status *status, mail_error *err) {
    static float   chunk[MAIL_MAX_CHUNK * CONVEYOR_ACTION_DIM];
    static uint8_t rgb[STRIP * PART * PART * 3];
    picture        strip = picture_of(rgb, STRIP * PART, PART);
    const size_t   steps = info->n_timesteps + info->diffusion_x;
    size_t         left = steps, done;
    int            part = 0;
    char           path[400];
    *status = mail_plan_begin(session, err);
    while (*status == MAIL_OK) {
        done = steps - left;
        if (left == 0 || (part < STRIP - 1 && done == (size_t)part * steps / (STRIP - 1))) {
            *status = mail_plan_sample(session, chunk, err);
            picture_paste(strip, part * PART, 0, draw_scene(sim, PART, chunk, (int)info->act_seq, 0), 1);
            part++;
        }
        if (left == 0 || *status != MAIL_OK) {
            break;
        }
        *status = mail_plan_step(session, &left, err);
    }
    mail_plan_cancel(session);
    snprintf(path, sizeof path, "%s/denoising", folder);
    return *status == MAIL_OK && picture_save(strip, path) ? 2 : 0;
}

/* The spatial-softmax points of both cameras on their pictures. The encoder is also to be had without a policy. */
static int draw_keypoints(const char *policy_path, const mail_info *info, const char *folder, mail_status *status,
                          mail_error *err) {
    picture       both = picture_of(canvas_rgb, 2 * VIEW, VIEW), one;
    mail_tensors *tensors = NULL;
    char          name[400];
    int           c;
    *status = mail_tensors_open(&tensors, policy_path, NULL, err);
    for (c = 0; c < CONVEYOR_CAMERAS && *status == MAIL_OK; c++) {
        mail_encoder *encoder = NULL;
        mail_image    image;
        float        *keypoints = NULL, *features = NULL;
        void         *scratch = NULL;
        size_t        size = 0, n = 0, i;
        memset(&image, 0, sizeof image);
        image.data = episode_rgb[c];
        image.width = info->cameras[c].width;
        image.height = info->cameras[c].height;
        image.format = MAIL_RGB8;
        snprintf(name, sizeof name, "obs_encoder.key_model_map.%s.", info->cameras[c].name);
        *status = mail_encoder_create(&encoder, tensors, name, image.width, image.height, NULL, err);
        if (*status == MAIL_OK) {
            n = mail_encoder_get_info(encoder)->n_keypoints;
            size = mail_encoder_scratch(encoder, 1);
            keypoints = (float *)malloc(2 * n * sizeof(float));
            features = (float *)malloc(mail_encoder_get_info(encoder)->feature_dim * sizeof(float));
            scratch = malloc(size + 64);
            *status = keypoints && features && scratch
                          ? mail_encoder_encode(encoder, features, keypoints, &image,
                                                (char *)scratch + (64 - (uintptr_t)scratch % 64), size, NULL, err)
                          : MAIL_E_MEMORY;
        }
        draw_camera(both, c * VIEW, 0, VIEW, info, c);
        one = both;
        for (i = 0; i < n && *status == MAIL_OK; i++) {
            float x = ((float)c + 0.5f + 0.5f * keypoints[2 * i]) * (float)VIEW;
            float y = (0.5f + 0.5f * keypoints[2 * i + 1]) * (float)VIEW;
            picture_line(one, x, y, x, y, 5.0f, white);
            picture_line(one, x, y, x, y, 3.5f, pink);
        }
        free(keypoints);
        free(features);
        free(scratch);
        mail_encoder_free(encoder);
    }
    mail_tensors_close(tensors);
    snprintf(name, sizeof name, "%s/keypoints", folder);
    return *status == MAIL_OK && picture_save(both, name) ? 2 : 0;
}

int main(int argc, char **argv) {
    const char      *path = argc > 1 ? argv[1] : "examples/conveyor/d_ma_h5_ddpm.safetensors";
    const char      *folder = argc > 2 ? argv[2] : ".";
    int              episodes = argc > 3 ? atoi(argv[3]) : 100, count[5] = { 0 }, sides[2] = { 0 }, i, drawn = 0;
    size_t           n_times[2] = { 0 };
    static float     chunk[MAIL_MAX_CHUNK * CONVEYOR_ACTION_DIM];
    picture          canvas = picture_of(canvas_rgb, VIEW + SMALL, VIEW);
    picture          strip = picture_of(strip_rgb, STRIP * PART, PART + PART / 2);
    mail_policy     *policy;
    mail_session    *session;
    const mail_info *info;
    mail_error       err;
    mail_status      status = MAIL_OK;
    char             name[400];

    if (episode_load(&policy, &session, "demo", path, NULL, NULL)) {
        return 2;
    }
    info = mail_policy_info(policy);
    snprintf(name, sizeof name, "%s/rollouts.gif", folder);
    if (gif_open(&movie, name, VIEW + SMALL, VIEW)) {
        fprintf(stderr, "demo: cannot write %s\n", name);
        return 2;
    }
    for (i = 0; i < episodes && status == MAIL_OK; i++) {
        conveyor_sim sim;
        float        action[CONVEYOR_ACTION_DIM] = { 0 };
        int          used = (int)info->n_action_steps, planned = 0;
        conveyor_reset(&sim, (uint64_t)(500000 + i));
        mail_session_reset(session, (uint64_t)i);
        while (sim.status == CONVEYOR_RUNNING && status == MAIL_OK) {
            double start = episode_seconds(), looked;
            status = episode_look(session, info, &sim, 0.0f, NULL, &err);
            looked = episode_seconds();
            if (status == MAIL_OK && sim.tick >= CONVEYOR_SETTLE) {
                if (used == (int)info->n_action_steps) {
                    status = mail_plan(session, chunk, &err);
                    used = 0;
                    planned = (int)info->act_seq;
                    if (n_times[1] < MAX_TIMES) {
                        times[1][n_times[1]++] = episode_seconds() - looked;
                    }
                }
                status = status ? status : mail_act(session, action, &err);
            }
            if (n_times[0] < MAX_TIMES) {
                times[0][n_times[0]++] = looked - start;
            }
            if (i < SHOWN) {
                picture_paste(canvas, 0, 0, draw_scene(&sim, VIEW, chunk, planned, used), 1);
                draw_camera(canvas, VIEW, 0, SMALL, info, 0);
                draw_camera(canvas, VIEW, VIEW - SMALL, SMALL, info, 1);
                gif_frame(&movie, canvas, 9);
                if (i == 0 && drawn < STRIP && sim.tick == CONVEYOR_SETTLE + drawn * 5) {
                    picture_paste(strip, drawn * PART, 0, draw_scene(&sim, PART, chunk, planned, used), 1);
                    draw_camera(strip, drawn * PART, PART, PART / 2, info, 0);
                    draw_camera(strip, drawn * PART + PART / 2, PART, PART / 2, info, 1);
                    drawn++;
                }
            }
            if (i == 0 && sim.tick == CONVEYOR_SETTLE && status == MAIL_OK) {
                if ((info->n_timesteps > 0 && draw_denoising(session, info, &sim, folder, &status, &err)) ||
                    (status == MAIL_OK && draw_keypoints(path, info, folder, &status, &err))) {
                    return 2;
                }
            }
            used += sim.tick >= CONVEYOR_SETTLE;
            (void)conveyor_step(&sim, action);
        }
        if (i < SHOWN && status == MAIL_OK) {
            picture_paste(canvas, 0, 0, draw_scene(&sim, VIEW, chunk, 0, 0), 1);
            gif_frame(&movie, canvas, 80);
        }
        count[sim.status]++;
        if (sim.status == CONVEYOR_CAUGHT) {
            sides[sim.passed > 0]++;
        }
    }
    if (status) {
        fprintf(stderr, "demo: %s\n", err.text);
        return 2;
    }
    if (gif_close(&movie)) {
        fprintf(stderr, "demo: cannot write %s\n", name);
        return 2;
    }
    printf("wrote %s\n", name);
    snprintf(name, sizeof name, "%s/strip", folder);
    if (drawn > 0 && picture_save(picture_of(strip_rgb, STRIP * PART, PART + PART / 2), name)) {
        return 2;
    }
    printf("%s: %s, history %d, chunk %d, %d denoising steps, %.2f million parameters, kernels %s\n", path, info->arch_name,
           (int)info->obs_seq, (int)info->act_seq, (int)info->n_timesteps, 1e-6 * (double)info->n_parameters, info->isa);
    printf("caught %d of %d (%d on the left, %d on the right); hit the obstacle %d, closed on nothing %d, out of time %d\n",
           count[CONVEYOR_CAUGHT], episodes, sides[0], sides[1], count[CONVEYOR_HIT], count[CONVEYOR_MISSED],
           count[CONVEYOR_TIMEOUT]);
    if (n_times[0] > 0 && n_times[1] > 0) {
        double look_ms = 1e3 * episode_median(times[0], n_times[0]), plan_ms = 1e3 * episode_median(times[1], n_times[1]);
        printf("a frame (two pictures encoded): median %.2f ms, worst %.2f\n", look_ms, 1e3 * times[0][n_times[0] - 1]);
        printf("a decision (all denoising steps): median %.2f ms, worst %.2f; %.0f decisions a second, frame included\n",
               plan_ms, 1e3 * times[1][n_times[1] - 1], 1e3 / (look_ms + plan_ms));
    }
    printf("memory: weights %.2f MiB, session %.2f MiB; nothing is allocated while acting\n",
           (double)info->weight_bytes / 1048576.0, (double)mail_session_size(policy, NULL) / 1048576.0);
    mail_session_free(session);
    mail_policy_free(policy);
    return 2 * count[CONVEYOR_CAUGHT] > episodes ? 0 : 1;
}
