/* Prints the instruction set that is chosen on this processor, after an episode with it. Used by emulation.sh. */
#define MAIL_IMPLEMENTATION
#include "../mail.h"
#include "test.h"
#include "small.h"

int main(void) {
    mail_policy  *policy = small_load("d_ma_ddpm_h5");
    mail_session *s = small_session(policy, NULL);
    mail_error    err;
    float         action[MAIL_MAX_ACTION_DIM];
    unsigned      t;
    small_unused();
    for (t = 0; t < 5; t++) {
        if (small_observe(s, policy, 1, 0, t, &err) != MAIL_OK || mail_act(s, action, &err) != MAIL_OK) {
            printf("%s\n", err.text);
            return 1;
        }
    }
    printf("%s\n", mail_policy_info(policy)->isa);
    mail_session_free(s);
    mail_policy_free(policy);
    return test_failed;
}
