/* Every kernel of mail_cuda.cuh in one object, for compile.sh. */
#define MAIL_IMPLEMENTATION
#include "../../mail.h"
#include "../../mail_cuda.cuh"

int main(void) {
    mail_error         err;
    mail_cuda_policy  *p = NULL;
    mail_cuda_session *s = NULL;
    return (int)mail_cuda_policy_create(&p, NULL, &err) + (int)mail_cuda_session_create(&s, p, NULL, NULL, &err) +
           (int)mail_cuda_observe(s, NULL, 0, &err) + (int)mail_cuda_observe_features(s, NULL, 0, &err) +
           (int)mail_cuda_session_set_goal(s, NULL, 0, &err) + (int)mail_cuda_act(s, NULL, &err) +
           (int)mail_cuda_session_reset_robot(s, 0, &err) + (int)mail_cuda_selective_scan(NULL, 0, NULL, &err);
}
