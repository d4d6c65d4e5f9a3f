/* A million decisions of a small policy, and a day of robot time in simulated time: memory and timing must not grow, and the same seed
   must still give the same bits at the end.

       build/long_run [DECISIONS]      default 1000000 */
#define MAIL_IMPLEMENTATION
#include "../mail.h"
#include "test.h"
#include "small.h"

/* kilobytes of this process that are not a file's (those come and go with the system's cache), 0 if that cannot be told */
static long resident(void) {
    char  line[200];
    long  kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "RssAnon:", 8) == 0) {
            kb = strtol(line + 8, NULL, 10);
        }
    }
    if (f != NULL) {
        (void)fclose(f);
    }
    return kb;
}

static double seconds(void) {
    return (double)clock() / (double)CLOCKS_PER_SEC;
}

/* 12 ticks of an episode; a hash of the actions */
static unsigned long long episode(mail_session *s, const mail_policy *policy, uint64_t seed, unsigned from) {
    const mail_info   *info = mail_policy_info(policy);
    unsigned long long hash = 14695981039346656037ull;
    float              features[64], action[MAIL_MAX_ACTION_DIM];
    unsigned           t;
    size_t             i;
    mail_error         err;
    mail_session_reset(s, seed);
    for (t = 0; t < 12; t++) {
        small_frame(policy, features, 0, from + t);
        if (mail_observe_features(s, features, info->state_dim, &err) != MAIL_OK || mail_act(s, action, &err) != MAIL_OK) {
            printf("%s\n", err.text);
            test_failed++;
            return 0;
        }
        for (i = 0; i < info->action_dim * sizeof(float); i++) {
            hash = (hash ^ ((const unsigned char *)action)[i]) * 1099511628211ull;
        }
    }
    return hash;
}

int main(int argc, char **argv) {
    const unsigned long  decisions = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000000;
    const unsigned long  day = 24ul * 3600 * 20;  /* ticks of a day at 20 per second */
    mail_policy         *policy = small_load("d_ma_ddpm_h5");
    mail_session_options o = mail_session_options_init();
    mail_session        *s;
    float                features[64], action[MAIL_MAX_ACTION_DIM], low = FLT_MAX, high = -FLT_MAX;
    unsigned long        n = 0, ticks;
    unsigned long long   first, last;
    double               start, early = 0, late = 0;
    long                 before, after;
    mail_error           err;
    small_unused();
    o.n_action_steps = 1;  /* a decision in every tick */
    s = small_session(policy, &o);
    first = episode(s, policy, 1, 0);
    printf("%s: every tick a decision\n", mail_policy_info(policy)->arch_name);
    before = 0;
    while (n < decisions && test_failed == 0) {
        start = seconds();
        for (ticks = 0; ticks < 10000 && n < decisions; ticks++, n++) {
            small_frame(policy, features, 0, (unsigned)n);
            if (mail_observe_features(s, features, mail_policy_info(policy)->state_dim, &err) != MAIL_OK || mail_act(s, action, &err) != MAIL_OK) {
                printf("decision %lu: %s\n", n, err.text);
                test_failed++;
                break;
            }
            low = action[0] < low ? action[0] : low;
            high = action[0] > high ? action[0] : high;
        }
        late = seconds() - start;
        early = early == 0 || late < early ? late : early;
        if (before == 0) {
            before = resident();  /* after the first ten thousand: the program itself is in memory by now */
        }
        if (n % 100000 == 0) {
            printf("%lu decisions, %.1f us each, %ld kB, actions[0] in %g .. %g\n", n, late / 1e4 * 1e6, resident(), (double)low, (double)high);
            (void)fflush(stdout);
        }
    }
    after = resident();
    CHECK(n == decisions);
    CHECK_MSG(after <= before + 16, "memory grew from %ld to %ld kB", before, after);
    CHECK(low >= mail_policy_info(policy)->action_min[0] - 1e-5f && high <= mail_policy_info(policy)->action_max[0] + 1e-5f);
    last = episode(s, policy, 1, 0);
    CHECK_MSG(first == last, "the same episode gives other bits after %lu decisions", n);
    mail_session_free(s);
    /* a day of robot time: the policy's own chunk, an action in each tick */
    s = small_session(policy, NULL);
    ticks = argc > 1 && decisions < 1000000 ? day / 100 : day;
    for (n = 0; n < ticks && test_failed == 0; n++) {
        if (mail_observe_due(s)) {
            small_frame(policy, features, 0, (unsigned)n);
            CHECK(mail_observe_features(s, features, mail_policy_info(policy)->state_dim, &err) == MAIL_OK);
        }
        if (mail_act(s, action, &err) != MAIL_OK || !(fabsf(action[0]) <= FLT_MAX)) {
            CHECK_MSG(0, "tick %lu: %s", n, err.text);
        }
    }
    CHECK_MSG(resident() <= after + 16, "memory grew over a day to %ld kB", resident());
    printf("%lu decisions and %lu ticks (%.1f hours at 20 per second), %ld kB before and %ld after\n", decisions, ticks,
           (double)ticks / 72000.0, before, resident());
    mail_session_free(s);
    mail_policy_free(policy);
    return test_end("long_run");
}
