/* predict.h - what a decision should take on an H200, before any has run there. Part of all_tests.cu.

       build/test_cuda predict            milliseconds per batch, and what they are made of

   Convolutions: the estimate by which their shapes are chosen (mailp_cuda_fused_cycles) at 1.75 GHz. The first convolution:
   9,400 cycles a block, 5,000 a small one. The observation's tokens, where they do not go through the loop, 16 layers: two kernels
   of 2 us and the time of their products at 7.5 T/s, and 4 us for every 8 sequences an SM. The loop: 1.6 us for a layer with
   8 blocks and 5 tokens, times the factor by which its shape is chosen. Every other kernel 1.5 us. All of it is guesswork of
   one kind until bench/device_run.sh has run. */
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
        const double B = (double)batch, clock = 1.75e6 /* a millisecond */, sms = (double)p->sms;
        const bool   small = 128 * 128 / 1024 * s->B * 2 * s->eyes < 2 * p->sms; /* as mailp_cuda_queue_first */
        const double blocks = 2.0 * B * 2.0 * (small ? 48.0 : 16.0), first = ceil(blocks / sms) * (small ? 5000.0 : 9400.0) / clock;
        const double convs = q.cycles / clock, layers = 16.0;
        const double rows = 16.0 * B * (double)s->P, product = rows * (512.0 * 128 + 256 * 128) / 7.5e9;
        const double prefix = s->inside ? 0.0 : layers * (0.004 + product + 0.004 * ceil(16.0 * B / (8.0 * sms)));
        const double loop = 256.0 * 1.6e-3 * s->loop.cost, others = 1.5e-3 * (1 + 2 * 3 / s->eyes + 4);
        printf("%5zu %8.2f %8.3f %8.3f %8.3f %8.3f %8.3f  %d blocks, %d robots\n", batch, first + convs + prefix + loop + others, first, convs, prefix,
               loop, others, s->loop.cluster, s->loop.robots);
        fflush(stdout);
        mail_cuda_session_free(s);
    }
    mail_cuda_policy_free(p);
    mail_policy_free(policy);
    return 0;
}

#endif
