/* The whole library in one file; calls a function of each part and expects the right answer or the right error. */
#define MAIL_IMPLEMENTATION
#include "mail.h"
#include "mail.h" /* a second time, through another header: nothing more */

#include <stdio.h>

int main(void) {
    static const unsigned char damaged[] = { 9, 9, 9 };
    mail_policy *policy = NULL;
    mail_error   err;
    float        from[2] = { 0, 0 }, to[2] = { 3, 4 };
    mail_ddpm    ddpm;
    static float point[3][2], tables[MAIL_DDPM_TABLES * 16];  /* static: gcc's analyzer stops following loops that write them */
    if (mail_policy_load_memory(&policy, damaged, sizeof damaged, NULL, &err) == MAIL_OK || policy != NULL) {
        return 1;
    }
    if (mail_trajectory(&point[0][0], 3, from, to, 2, 2.5f) != 2 || point[1][1] != 4.0f) {
        return 2;
    }
    if (mail_ddpm_schedule(&ddpm, MAIL_COSINE, 16, tables, &err) != MAIL_OK || !(ddpm.betas[15] > 0.9989f && ddpm.betas[15] < 0.9991f)) {
        return 3;
    }
    puts(err.text);
    return 0;
}
