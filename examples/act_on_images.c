/* act_on_images: pictures from disk (PNG, JPEG, ...) through a policy: the action chunk is printed and drawn.

       cc -O2 -I.. -isystem /usr/include/stb act_on_images.c -o act_on_images -lm        (package libstb-dev)
       ./act_on_images policy.safetensors out.png camera1.png camera2.png [camera1.png camera2.png ...]

   Pictures come in groups of one per camera, in the order of their names, oldest frame first. out.png shows the newest
   frame of every camera as given, and below it the actions of the chunk: one row per action, one bar per dimension, from
   the smallest to the largest value seen in training. */
#if defined(__GNUC__)  /* the stb headers are not written for these warnings */
#  pragma GCC diagnostic push
#  pragma GCC diagnostic ignored "-Wconversion"
#  pragma GCC diagnostic ignored "-Wsign-conversion"
#  pragma GCC diagnostic ignored "-Wshadow"
#endif
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#include <stb_image.h>
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#include <stb_image_write.h>
#if defined(__GNUC__)
#  pragma GCC diagnostic pop
#endif

#define MAIL_IMPLEMENTATION
#include "mail.h"

#include <stdio.h>
#include <time.h>

#define SHOW 192  /* pixels of a shown picture */
#define ROW  14   /* pixels of an action's row */

static void put(unsigned char *out, size_t width, size_t x, size_t y, unsigned char r, unsigned char g, unsigned char b) {
    unsigned char *p = out + (y * width + x) * 3;
    p[0] = r;
    p[1] = g;
    p[2] = b;
}

/* the newest pictures side by side, the chunk below */
static int draw(const char *path, const mail_image *images, const mail_info *info, const float *chunk) {
    const size_t   width = SHOW * (info->n_cameras > 2 ? info->n_cameras : 2), height = SHOW + info->act_seq * ROW + ROW;
    unsigned char *out = (unsigned char *)calloc(width * height, 3);
    size_t         c, x, y, i, j;
    int            written;
    if (out == NULL) {
        return 0;
    }
    for (c = 0; c < info->n_cameras; c++) {
        for (y = 0; y < SHOW; y++) {
            for (x = 0; x < SHOW; x++) {
                const unsigned char *p = (const unsigned char *)images[c].data +
                                         (y * images[c].height / SHOW * images[c].width + x * images[c].width / SHOW) * 3;
                put(out, width, c * SHOW + x, y, p[0], p[1], p[2]);
            }
        }
    }
    for (i = 0; i < info->act_seq; i++) {
        const size_t cell = width / info->action_dim;
        for (j = 0; j < info->action_dim; j++) {
            const float lo = info->action_min[j], hi = info->action_max[j], v = chunk[i * info->action_dim + j];
            float       part = hi > lo ? (v - lo) / (hi - lo) : 0.5f;
            size_t      bar;
            part = part < 0 ? 0 : part > 1 ? 1 : part;
            bar  = (size_t)(part * (float)(cell - 4));
            for (y = 2; y < ROW - 2; y++) {
                for (x = 0; x < cell - 4; x++) {
                    const int on = x <= bar;
                    put(out, width, j * cell + x + 2, SHOW + ROW / 2 + i * ROW + y, on ? 90 : 40, on ? 180 : 40, on ? 250 : 48);
                }
            }
        }
    }
    written = stbi_write_png(path, (int)width, (int)height, 3, out, 0);
    free(out);
    return written;
}

int main(int argc, char **argv) {
    mail_policy     *policy;
    mail_session    *session;
    mail_error       err;
    mail_image       images[MAIL_MAX_CAMERAS];
    const mail_info *info;
    float           *chunk;
    size_t           i, j, n;
    clock_t          start;
    double           observe, plan;
    if (argc < 4) {
        fprintf(stderr, "usage: act_on_images CHECKPOINT OUT.png PICTURE...\n");
        return 2;
    }
    if (mail_policy_load(&policy, argv[1], NULL, &err) != MAIL_OK || mail_session_create(&session, policy, NULL, &err) != MAIL_OK) {
        fprintf(stderr, "act_on_images: %s\n", err.text);
        return 1;
    }
    info = mail_policy_info(policy);
    n    = (size_t)argc - 3;
    if (info->n_cameras == 0 || n % info->n_cameras != 0) {
        fprintf(stderr, "act_on_images: %lu pictures given, but the policy has %lu cameras\n", (unsigned long)n, (unsigned long)info->n_cameras);
        return 1;
    }
    if (info->has_lang) {
        fprintf(stderr, "act_on_images: this policy wants a language goal; see mail_session_set_goal\n");
        return 1;
    }
    memset(images, 0, sizeof images);
    start = clock();
    for (i = 0; i < n; i += info->n_cameras) {
        for (j = 0; j < info->n_cameras; j++) {
            int            w, h, channels;
            unsigned char *pixels = stbi_load(argv[3 + i + j], &w, &h, &channels, 3);
            if (pixels == NULL) {
                fprintf(stderr, "act_on_images: %s: %s\n", argv[3 + i + j], stbi_failure_reason());
                return 1;
            }
            stbi_image_free((void *)(uintptr_t)images[j].data);
            images[j].data   = pixels;
            images[j].width  = (size_t)w;
            images[j].height = (size_t)h;
            images[j].format = MAIL_RGB8;
        }
        start = clock();
        if (mail_observe(session, images, info->n_cameras, &err) != MAIL_OK) {
            fprintf(stderr, "act_on_images: %s\n", err.text);
            return 1;
        }
    }
    observe = (double)(clock() - start) / CLOCKS_PER_SEC;
    chunk   = (float *)malloc(info->act_seq * info->action_dim * sizeof(float));
    start   = clock();
    if (chunk == NULL || mail_plan(session, chunk, &err) != MAIL_OK) {
        fprintf(stderr, "act_on_images: %s\n", chunk == NULL ? "out of memory" : err.text);
        return 1;
    }
    plan = (double)(clock() - start) / CLOCKS_PER_SEC;
    for (i = 0; i < info->act_seq; i++) {
        for (j = 0; j < info->action_dim; j++) {
            printf("%9.4f", (double)chunk[i * info->action_dim + j]);
        }
        printf("\n");
    }
    printf("%.1f ms to encode the newest frame, %.1f ms to plan the chunk (%s)\n", observe * 1e3, plan * 1e3, info->isa);
    if (!draw(argv[2], images, info, chunk)) {
        fprintf(stderr, "act_on_images: %s cannot be written\n", argv[2]);
        return 1;
    }
    for (j = 0; j < info->n_cameras; j++) {
        stbi_image_free((void *)(uintptr_t)images[j].data);
    }
    free(chunk);
    mail_session_free(session);
    mail_policy_free(policy);
    return 0;
}
