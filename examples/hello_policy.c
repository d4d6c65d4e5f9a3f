/* hello_policy: the shortest useful program. A checkpoint in, a chunk of actions out.

       cc -O2 -I.. hello_policy.c -o hello_policy -lm
       ./hello_policy policy.safetensors            (or a .pth with its .json beside it)

   The cameras see grey here; robot_loop.c shows the loop of a real robot, act_on_images.c pictures from disk. */
#define MAIL_IMPLEMENTATION
#include "mail.h"

#include <stdio.h>

int main(int argc, char **argv) {
    static unsigned char grey[128 * 128 * 3];
    mail_policy         *policy;
    mail_session        *session;
    mail_image           image[MAIL_MAX_CAMERAS];
    mail_error           err;
    const mail_info     *info;
    float               *chunk;
    size_t               i, j;
    if (argc != 2) {
        fprintf(stderr, "usage: hello_policy CHECKPOINT\n");
        return 2;
    }
    if (mail_policy_load(&policy, argv[1], NULL, &err) != MAIL_OK || mail_session_create(&session, policy, NULL, &err) != MAIL_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    info = mail_policy_info(policy);
    printf("%s, %lu cameras, history %lu, %lu actions of %lu numbers, kernels %s\n", info->arch_name, (unsigned long)info->n_cameras,
           (unsigned long)info->obs_seq, (unsigned long)info->act_seq, (unsigned long)info->action_dim, info->isa);

    memset(grey, 128, sizeof grey);
    memset(image, 0, sizeof image);
    for (i = 0; i < info->n_cameras; i++) {  /* other sizes than the policy's are resized */
        image[i].data   = grey;
        image[i].width  = 128;
        image[i].height = 128;
        image[i].format = MAIL_RGB8;
    }
    if (info->has_lang) {
        float *goal = (float *)calloc(info->lang_dim, sizeof(float));  /* your CLIP text feature */
        if (goal == NULL || mail_session_set_goal(session, goal, info->lang_dim, &err) != MAIL_OK) {
            fprintf(stderr, "%s\n", goal == NULL ? "out of memory" : err.text);
            return 1;
        }
        free(goal);
    }
    chunk = (float *)malloc(info->act_seq * info->action_dim * sizeof(float));
    if (chunk == NULL || mail_observe(session, image, info->n_cameras, &err) != MAIL_OK || mail_plan(session, chunk, &err) != MAIL_OK) {
        fprintf(stderr, "%s\n", chunk == NULL ? "out of memory" : err.text);
        return 1;
    }
    for (i = 0; i < info->act_seq; i++) {
        for (j = 0; j < info->action_dim; j++) {
            printf("%9.4f", (double)chunk[i * info->action_dim + j]);
        }
        printf("\n");
    }
    free(chunk);
    mail_session_free(session);
    mail_policy_free(policy);
    return 0;
}
