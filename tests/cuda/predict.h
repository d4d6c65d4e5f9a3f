/* predict.h - what a decision should take on an H100, from what its parts took there. Part of all_tests.cu.

       build/test_cuda predict            milliseconds per batch, and what they are made of

   Convolutions and loop: the estimates by which their shapes are chosen, fitted to times of single kernels (2026-11-27). The first
   convolution: 18,600 cycles a block, 15,800 a small one; by warpgroups 28,000 for two on an SM, 23,000 for one (counted from
   its instructions). The observation's tokens, where they do not go through the loop, 16 layers: two kernels of 2 us and the time
   of their products at 7.5 T/s, and 4 us for every 8 sequences an SM (guessed). The norm of the first map, where that is a kernel,
   8 us and 0.7 us a robot; keypoints 6 us (guessed), four other kernels 1.5 us each. Whole decisions have not been timed since:
   bench/device_run.sh does. */
#ifndef PREDICT_H
#define PREDICT_H

#include "cuda_test.h"

static int predict(void) {
    const random_policy r = ct_released(MAIL_D_MA, 1, 5, 2);
    mail_policy        *policy = ct_load(r);
    mail_cuda_policy   *p;
    mail_error          err;
    if (mail_cuda_policy_create(&p, policy, &err) != MAIL_OK) {
        printf("%s\n", err.text);
        return 1;
    }
    printf("%5s %8s %8s %8s %8s %8s %8s  %s\n", "batch", "both", "first", "convs", "prefix", "loop", "others", "loop");
    for (size_t batch = 1; batch <= 64; batch *= 2) {
        mail_cuda_session *s = ct_session(p, batch, mailp_cuda_wish());
        mailp_cuda_queue   q = {NULL, cudaSuccess, 1, 0, 1, 0.0};
        mailp_cuda_queue_observe(&q, s);
        const double B = (double)batch, clock = 1.98e6 /* a millisecond */, sms = (double)p->sms;
        const bool   small = 128 * 128 / 1024 * s->B * 2 * s->eyes < 2 * p->sms; /* as mailp_cuda_queue_first */
        const double blocks = 2.0 * B * 2.0 * (small ? 48.0 : 16.0), few = ceil(blocks / sms) * (small ? 15800.0 : 18600.0) / clock;
        const double first = s->wide[0] ? (16.0 * B <= sms ? 23000.0 : ceil(16.0 * B / (2.0 * sms)) * 28000.0) / clock : few;
        const double convs = q.cycles / clock, layers = 16.0;
        const double rows = 16.0 * B * (double)s->P, product = rows * (512.0 * 128 + 256 * 128) / 7.5e9;
        const double prefix = s->inside ? 0.0 : layers * (0.004 + product + 0.004 * ceil(16.0 * B / (8.0 * sms)));
        const double loop = s->loop.cost, others = (s->wide[0] ? 0.0 : 8e-3 + 0.7e-3 * B) + 6e-3 + 4 * 1.5e-3;
        printf("%5zu %8.2f %8.3f %8.3f %8.3f %8.3f %8.3f  %d robots\n", batch, first + convs + prefix + loop + others, first, convs, prefix,
               loop, others, s->loop.robots);
        fflush(stdout);
        mail_cuda_session_free(s);
    }
    mail_cuda_policy_free(p);
    mail_policy_free(policy);
    return 0;
}

#endif
