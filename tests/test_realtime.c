/* Inside the control loop nothing asks the system for anything: observing, acting and planning run under seccomp's strict mode, in which
   any system call but read, write and _exit ends the process. So no lock that waits, no clock, no stdio, no memory from the system.

   Only Linux has that mode, and not under every emulator or sandbox; elsewhere this test says skipped. */
#if !defined(_GNU_SOURCE)
#  define _GNU_SOURCE
#endif
#define MAIL_IMPLEMENTATION
#include "../mail.h"
#include "test.h"
#include "small.h"

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PR_SET_SECCOMP
#  define PR_SET_SECCOMP 22
#endif

static double stopped_clock(void *user) {
    return *(double *)user += 0.001;
}

/* A session doing everything that a loop does. 0: fine. */
static int loop(mail_session *s, const mail_policy *policy, const float *features, const mail_image *images, float *actions) {
    const mail_info *info = mail_policy_info(policy);
    const size_t     B = s->batch;
    mail_error       err;
    size_t           left, steps;
    unsigned         t;
    for (t = 0; t < 7; t++) {
        (void)mail_observe_due(s);
        if (info->n_cameras > 0 ? mail_observe(s, images, B * info->n_cameras, &err) != MAIL_OK
                                : mail_observe_features(s, features + t, B * info->state_dim, &err) != MAIL_OK) {
            return 1;
        }
        if (mail_act(s, actions, &err) != MAIL_OK) {
            return 2;
        }
    }
    if (mail_plan(s, actions, &err) != MAIL_OK || mail_plan_begin(s, &err) != MAIL_OK) {
        return 3;
    }
    do {
        if (mail_plan_step(s, &left, &err) != MAIL_OK) {
            return 4;
        }
    } while (left > 0);
    if (mail_plan_end(s, actions, &err) != MAIL_OK || mail_plan_within(s, actions, 0.01, &steps, &err) != MAIL_OK) {
        return 5;
    }
    if (info->has_lang && mail_session_set_goal(s, features, info->lang_dim, &err) != MAIL_OK) {
        return 6;
    }
    mail_session_set_noise(s, features, NULL);
    mail_plan_cancel(s);
    if (mail_session_reset_robot(s, 0, &err) != MAIL_OK) {
        return 7;
    }
    mail_session_reset(s, 3);
    return mail_act(s, actions, &err) == MAIL_E_STATE ? 0 : 8;  /* errors as well: their text is made without the system */
}

/* Runs in a child that has given up its system calls. call_one: make one, to see that it is noticed. Returns the child's status, -1 if
   this machine has no such mode. */
static int trapped(mail_session *s, const mail_policy *policy, const float *features, const mail_image *images, float *actions, int call_one) {
    int   status = 0;
    pid_t child;
    (void)fflush(stdout);
    child = fork();
    if (child < 0) {
        return -1;
    }
    if (child == 0) {
        int result;
        if (prctl(PR_SET_SECCOMP, 1, 0, 0, 0) != 0) {
            (void)syscall(SYS_exit, 99);
        }
        if (call_one) {
            (void)syscall(SYS_getpid);
        }
        result = loop(s, policy, features, images, actions);
        (void)syscall(SYS_exit, result);
    }
    if (waitpid(child, &status, 0) != child || (WIFEXITED(status) && WEXITSTATUS(status) == 99)) {
        return -1;
    }
    return status;
}

static int test_policy(const char *name, size_t batch, int ensemble) {
    static float         features[20000], actions[8192];
    static unsigned char pixels[100 * 100 * 3];
    mail_policy         *policy = small_load(name);
    const mail_info     *info = mail_policy_info(policy);
    mail_session_options o = mail_session_options_init();
    mail_session        *s;
    mail_image           images[8];
    double               clock = 0;
    size_t               i;
    int                  status;
    o.batch = batch;
    o.ensemble = ensemble;
    o.now = stopped_clock;
    o.now_user = &clock;
    s = small_session(policy, &o);
    small_goal(s, policy, 0);
    small_fill(features, sizeof features / sizeof *features, 1, 1);
    for (i = 0; i < sizeof pixels; i++) {
        pixels[i] = (unsigned char)(i * 37);
    }
    for (i = 0; i < batch * info->n_cameras && i < 8; i++) {
        memset(&images[i], 0, sizeof images[i]);
        images[i].data = pixels;
        images[i].width = info->cameras[i % info->n_cameras].width;
        images[i].height = i % 2 ? 30 : info->cameras[i % info->n_cameras].height;  /* some are resized */
        images[i].format = MAIL_RGB8;
    }
    status = trapped(s, policy, features, images, actions, 1);
    if (status == -1) {
        mail_session_free(s);
        mail_policy_free(policy);
        return 0;
    }
    CHECK_MSG(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "a system call was not noticed: this test says nothing (%d)", status);
    status = trapped(s, policy, features, images, actions, 0);
    CHECK_MSG(!WIFSIGNALED(status), "%s: ended by signal %d: a system call in the loop", name, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    CHECK_MSG(!WIFEXITED(status) || WEXITSTATUS(status) == 0, "%s: call %d failed", name, WEXITSTATUS(status));
    mail_session_free(s);
    mail_policy_free(policy);
    return 1;
}

int main(void) {
    static const char *const others[] = { "cosine50_ed_tr", "dx3_vp_d_ma", "vision_one", "vision_two" };
    size_t i;
    small_unused();
    for (i = 0; i < SMALL_EACH; i++) {
        if (!test_policy(small_each[i], 1, 0)) {
            printf("no seccomp strict mode here\n");
            test_skipped++;
            break;
        }
        (void)test_policy(small_each[i], 3, 0);
        (void)test_policy(small_each[i], 2, 1);
    }
    for (i = 0; test_skipped == 0 && i < sizeof others / sizeof *others; i++) {
        (void)test_policy(others[i], 1, 0);
        (void)test_policy(others[i], 2, 0);
    }
    return test_end("test_realtime");
}
#else
int main(void) {
    small_unused();
    test_skipped++;
    printf("seccomp is Linux's\n");
    return test_end("test_realtime");
}
#endif
