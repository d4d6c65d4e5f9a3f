/* Threads: the same bits for any number of them, sessions in parallel on one policy, loading and unloading beside each other, pools that
   come and go, a pool that several sessions want at once, plans cancelled in the middle. Built with ThreadSanitizer by extra_tsan.sh.

       build/test_threads            the checks
       build/test_threads --hash     a hash of what every policy does, to compare runs
       build/test_threads --races    only what may race, and fewer policies: for ThreadSanitizer
       build/test_threads --long     more rounds */
#define MAIL_IMPLEMENTATION
#define MAIL_THREADS
#include "../mail.h"
#include "test.h"
#include "small.h"
#ifdef MAILP_POSIX
#  include <sys/wait.h>
#endif

#define N_THREADS 6

static int rounds = 1;

/* An episode of 7 ticks and a plan in steps. result [64] */
static void episode(mail_session *s, const mail_policy *policy, float *result, int cancel) {
    static const unsigned char pixels[128 * 128 * 3 + 64] = { 7, 200, 13, 90 };
    const mail_info *info = mail_policy_info(policy);
    const size_t     B = s->batch;
    float           *actions = (float *)calloc(B * info->act_seq * info->action_dim, sizeof(float));
    mail_image       images[16];
    mail_error       err;
    size_t           left = 1, i, at = 0;
    unsigned         t;
    memset(result, 0, 64 * sizeof(float));
    if (actions == NULL) {
        exit(2);
    }
    for (t = 0; t < (info->n_cameras ? 3u : 7u); t++) {
        mail_status status;
        for (i = 0; i < B * info->n_cameras && i < 16; i++) {
            memset(&images[i], 0, sizeof images[i]);
            images[i].data = pixels + t + i;
            images[i].width = info->cameras[i % info->n_cameras].width;
            images[i].height = info->cameras[i % info->n_cameras].height;
        }
        status = info->n_cameras ? mail_observe(s, images, B * info->n_cameras, &err) : small_observe(s, policy, B, 0, t, &err);
        if (status != MAIL_OK || mail_act(s, actions, &err) != MAIL_OK) {
            result[63] = -1;  /* noticed by whoever compares */
            break;
        }
        for (i = 0; i < B * info->action_dim && at < 50; i += B > 1 ? B * info->action_dim - 1 : 1) {
            result[at++] = actions[i];
        }
        if (cancel && t % 2) {
            (void)mail_plan_begin(s, &err);
            (void)mail_plan_step(s, &left, &err);
            mail_plan_cancel(s);
        }
    }
    if (mail_plan_begin(s, &err) == MAIL_OK) {
        for (left = 1; left > 0 && mail_plan_step(s, &left, &err) == MAIL_OK;) {
        }
        result[60] = mail_plan_end(s, actions, &err) == MAIL_OK ? actions[B * info->act_seq * info->action_dim - 1] : -1;
    }
    free(actions);
}

static mail_session *session_of(const mail_policy *policy, size_t batch, const mail_parallel *parallel) {
    mail_session_options o = mail_session_options_init();
    mail_session        *s;
    o.batch = batch;
    o.seed = 5;
    if (parallel != NULL) {
        o.parallel = *parallel;
    }
    s = small_session(policy, &o);
    small_goal(s, policy, 0);
    return s;
}

/* n_threads tasks at most, backwards, one after the other: the order is the caller's business */
static void backwards(void *user, size_t n, mail_task task, void *arg) {
    size_t i;
    if (n > *(size_t *)user) {
        *(size_t *)user = 0;  /* too many at a time; seen below */
    }
    for (i = n; i-- > 0;) {
        task(arg, i);
    }
}

/* 1 to 8 threads of a pool, and 2 to 64 of a caller's own: the bits of one thread */
static void test_determinism(const char *name, const char *isa, mail_weights weights, size_t batch, mail_pool **pool) {
    static const size_t counts[] = { 2, 3, 5, 16, 64 };
    mail_options   o = mail_options_init();
    mail_policy   *policy;
    mail_session  *s;
    mail_error     err;
    mail_parallel  parallel;
    float          one[64], many[64];
    size_t         n, allowed;
    o.isa = isa;
    o.weights = weights;
    if (small_load_with(&policy, name, &o, &err) != MAIL_OK) {
        CHECK_MSG(err.code == MAIL_E_UNSUPPORTED, "%s: %s", name, err.text);
        return;
    }
    s = session_of(policy, batch, NULL);
    episode(s, policy, one, 0);
    mail_session_free(s);
    CHECK(one[63] == 0.0f);
    for (n = 1; n <= 8; n++) {
        parallel = mail_pool_parallel(pool[n]);
        CHECK(parallel.n_threads == n);
        s = session_of(policy, batch, &parallel);
        episode(s, policy, many, 0);
        CHECK_MSG(memcmp(one, many, sizeof one) == 0, "%s, %s, weights %d, batch %d: %d threads, other bits", name, isa,
                  (int)weights, (int)batch, (int)n);
        mail_session_free(s);
    }
    for (n = 0; n < sizeof counts / sizeof *counts; n++) {
        allowed = counts[n];
        parallel.user = &allowed;
        parallel.run = backwards;
        parallel.n_threads = counts[n];
        s = session_of(policy, batch, &parallel);
        episode(s, policy, many, 0);
        CHECK_MSG(memcmp(one, many, sizeof one) == 0, "%s, %s, weights %d: %d tasks backwards, other bits", name, isa, (int)weights,
                  (int)counts[n]);
        CHECK_MSG(allowed == counts[n], "%s: more than %d tasks at a time", name, (int)counts[n]);
        mail_session_free(s);
    }
    mail_policy_free(policy);
}

typedef struct worker {
    const mail_policy   *policy;
    const char          *name;
    const mail_parallel *parallel;
    const float         *want;
    int                  wrong, mode;
} worker;

static void *work(void *arg) {
    worker *w = (worker *)arg;
    float   got[64];
    int     round;
    if (w->mode == 0) {  /* one session again and again */
        mail_session *s = session_of(w->policy, 1, w->parallel);
        for (round = 0; round < 6 * rounds; round++) {
            mail_session_reset(s, 5);
            episode(s, w->policy, got, round % 2);
            w->wrong += round % 2 == 0 && memcmp(got, w->want, sizeof got) != 0;
        }
        mail_session_free(s);
    } else if (w->mode == 1) {  /* a session each time */
        for (round = 0; round < 6 * rounds; round++) {
            mail_session *s = session_of(w->policy, 1, w->parallel);
            episode(s, w->policy, got, 0);
            w->wrong += memcmp(got, w->want, sizeof got) != 0;
            mail_session_free(s);
        }
    } else if (w->mode == 2) {  /* a policy each time */
        for (round = 0; round < 3 * rounds; round++) {
            mail_policy  *policy = small_load(w->name);
            mail_session *s = session_of(policy, 1, w->parallel);
            episode(s, policy, got, 0);
            w->wrong += memcmp(got, w->want, sizeof got) != 0;
            mail_session_free(s);
            mail_policy_free(policy);
        }
    } else {  /* a pool each time */
        for (round = 0; round < 6 * rounds; round++) {
            mail_pool    *pool;
            mail_parallel parallel;
            mail_session *s;
            if (mail_pool_create(&pool, 1 + (size_t)round % 4, NULL) != MAIL_OK) {
                w->wrong++;
                break;
            }
            parallel = mail_pool_parallel(pool);
            s = session_of(w->policy, 1, &parallel);
            episode(s, w->policy, got, 0);
            w->wrong += memcmp(got, w->want, sizeof got) != 0;
            mail_session_free(s);
            mail_pool_free(pool);
        }
    }
    return NULL;
}

/* Threads of all four kinds at once on one policy, some of them sharing a pool. */
static void test_parallel(const char *name, mail_pool *shared) {
    mail_policy  *policy = small_load(name);
    mail_session *s = session_of(policy, 1, NULL);
    mail_parallel parallel = mail_pool_parallel(shared);
    float         want[64];
    worker        w[N_THREADS];
    pthread_t     thread[N_THREADS];
    int           i, n = 0, wrong = 0;
    episode(s, policy, want, 0);
    mail_session_free(s);
    for (i = 0; i < N_THREADS; i++) {
        w[i].policy = policy;
        w[i].name = name;
        w[i].parallel = i < 3 ? &parallel : NULL;
        w[i].want = want;
        w[i].wrong = 0;
        w[i].mode = i % 4;
        if (pthread_create(&thread[n], NULL, work, &w[i]) == 0) {
            n++;
        }
    }
    CHECK(n == N_THREADS);
    for (i = 0; i < n; i++) {
        (void)pthread_join(thread[i], NULL);
        wrong += w[i].wrong;
    }
    CHECK_MSG(wrong == 0, "%s: %d episodes with other bits beside other threads", name, wrong);
    mail_policy_free(policy);
}

static void count_task(void *arg, size_t i) {
    __atomic_add_fetch((unsigned *)arg + i, 1, __ATOMIC_RELAXED);
}

static void *pool_user(void *arg) {
    const mail_parallel *parallel = (const mail_parallel *)arg;
    unsigned             count[300];
    size_t               n, i, bad = 0;
    for (n = 1; n < 300; n += rounds > 1 ? 1 : 7) {
        memset(count, 0, sizeof count);
        parallel->run(parallel->user, n, count_task, count);
        for (i = 0; i < n; i++) {
            bad += __atomic_load_n(&count[i], __ATOMIC_RELAXED) != 1;
        }
    }
    return (void *)(uintptr_t)bad;
}

/* Pools made and released in a loop, idle or at work; every task runs once; several threads may run jobs on one pool. */
static void test_pool(void) {
    mail_pool    *pool = (mail_pool *)(uintptr_t)64;
    mail_error    err;
    mail_parallel parallel;
    pthread_t     user[3];
    void         *bad;
    size_t        n, wrong = 0;
    int           round, i;
    CHECK(mail_pool_create(&pool, 0, &err) == MAIL_E_ARGUMENT && strstr(err.text, "1 to 64") != NULL);
    CHECK(mail_pool_create(&pool, MAIL_MAX_THREADS + 1, &err) == MAIL_E_ARGUMENT && strstr(err.text, "65") != NULL);
    CHECK(mail_pool_create(NULL, 2, &err) == MAIL_E_ARGUMENT && strstr(err.text, "pool is NULL") != NULL);
    mail_pool_free(NULL);
    for (round = 0; round < 30 * rounds; round++) {
        CHECK(mail_pool_create(&pool, 1 + (size_t)round % 8, &err) == MAIL_OK);
        if (round % 3) {
            unsigned count[64] = { 0 };
            parallel = mail_pool_parallel(pool);
            parallel.run(parallel.user, 64, count_task, count);
            for (n = 0; n < 64; n++) {
                wrong += count[n] != 1;
            }
        }
        mail_pool_free(pool);
    }
    CHECK(mail_pool_create(&pool, 4, &err) == MAIL_OK);
    parallel = mail_pool_parallel(pool);
    for (i = 0; i < 3; i++) {
        CHECK(pthread_create(&user[i], NULL, pool_user, &parallel) == 0);
    }
    for (i = 0; i < 3; i++) {
        (void)pthread_join(user[i], &bad);
        wrong += (size_t)(uintptr_t)bad;
    }
    CHECK_MSG(wrong == 0, "%d tasks not run exactly once", (int)wrong);
    mail_pool_free(pool);
}

/* A forked child has no workers: its tasks run, and the pool can be freed. */
static void test_fork(void) {
#if defined(MAILP_POSIX)
    mail_pool *pool = NULL;
    mail_error err;
    pid_t      child;
    int        status = 1;
    CHECK(mail_pool_create(&pool, 4, &err) == MAIL_OK);
    child = fork();
    if (child == 0) {
        const mail_parallel parallel = mail_pool_parallel(pool);
        unsigned            count[64] = { 0 }, n, wrong = 0;
        parallel.run(parallel.user, 64, count_task, count);
        for (n = 0; n < 64; n++) {
            wrong += count[n] != 1;
        }
        mail_pool_free(pool);
        _exit(wrong != 0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    mail_pool_free(pool);
#else
    test_skipped++;
#endif
}

static void hashes(mail_pool **pool) {
    size_t i, j;
    for (i = 0; i < SMALL_EACH; i++) {
        mail_policy       *policy = small_load(small_each[i]);
        mail_parallel      parallel = mail_pool_parallel(pool[1 + i % 8]);
        mail_session      *s = session_of(policy, 2, &parallel);
        float              got[64];
        unsigned long long hash = 14695981039346656037ull;
        episode(s, policy, got, 0);
        for (j = 0; j < sizeof got; j++) {
            hash = (hash ^ ((const unsigned char *)got)[j]) * 1099511628211ull;
        }
        printf("%s %s %016llx\n", small_each[i], mail_policy_info(policy)->isa, hash);
        mail_session_free(s);
        mail_policy_free(policy);
    }
}

int main(int argc, char **argv) {
    static const char *const isas[] = { "scalar", "avx2", "avx512", "neon" };
    static const char *const more[] = { "odd_ed_ma", "odd_ed_tr", "wide_d_ma", "cosine50_ed_tr", "vision_one", "vision_two" };
    mail_pool *pool[9];
    const int  races = argc > 1 && strcmp(argv[1], "--races") == 0;
    size_t     i, j;
    small_unused();
    rounds = argc > 1 && strcmp(argv[1], "--long") == 0 ? 20 : 1;
    pool[0] = NULL;
    for (i = 1; i <= 8; i++) {
        if (mail_pool_create(&pool[i], i, NULL) != MAIL_OK) {
            printf("no threads\n");
            return 2;
        }
    }
    if (argc > 1 && strcmp(argv[1], "--hash") == 0) {
        hashes(pool);
    } else {
        test_pool();
        if (!races) {
            test_fork();
        }
        for (i = races ? SMALL_EACH - 2 : 0; i < SMALL_EACH + (races ? 1 : sizeof more / sizeof *more); i++) {
            const char *name = i < SMALL_EACH ? small_each[i] : more[i - SMALL_EACH];
            for (j = 0; j < sizeof isas / sizeof *isas; j++) {
                test_determinism(name, isas[j], MAIL_WEIGHTS_F32, 1, pool);
                if (i % 3 == 0) {
                    test_determinism(name, isas[j], MAIL_WEIGHTS_F32, 4, pool);
                }
                if (i % 5 == 0 || i == SMALL_EACH + 4) {  /* the narrow weights have kernels of their own */
                    test_determinism(name, isas[j], MAIL_WEIGHTS_BF16, 1, pool);
                    test_determinism(name, isas[j], MAIL_WEIGHTS_INT8, 1, pool);
                }
            }
        }
        for (i = 0; i < SMALL_EACH; i += rounds > 1 ? 1 : races ? 5 : 3) {
            test_parallel(small_each[i], pool[3]);
        }
    }
    for (i = 1; i <= 8; i++) {
        mail_pool_free(pool[i]);
    }
    return argc > 1 && strcmp(argv[1], "--hash") == 0 ? 0 : test_end("test_threads");
}
