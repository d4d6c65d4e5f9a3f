/* Sessions: what mail_observe, mail_act, mail_plan and their relatives promise, on the small golden policies.

   That the networks compute the right numbers is the golden cases' business. Here a chunk planned by a new session from
   given frames and given noise is the measure (the golden cases judge exactly that call), and everything else - rollouts, batches,
   spreading over calls, ensembling, limits - has to come out the same, bit for bit where nothing is computed anew. */
#define MAIL_IMPLEMENTATION
#include "../mail.h"
#include "test.h"
#include "small.h"

#define MAX_VALUES 4096

/* x_T and the noise of every step as the header says a session draws them: [1 + steps][A][D] for robot and plan */
static void draw(const mail_policy *policy, float *x_T, float *noise, uint64_t seed, uint32_t robot, uint32_t plan) {
    const size_t n = policy->cfg.act_seq * policy->cfg.action_dim, calls = policy->cfg.n_timesteps + policy->cfg.diffusion_x;
    size_t       i;
    mail_noise(x_T, n, seed, robot, plan, 0);
    for (i = 0; i < calls; i++) {
        mail_noise(noise + i * n, n, seed, robot, plan, 1 + (uint32_t)i);
    }
}

/* The chunk that a new session plans for `robot` (its frames from..to-1) with the noise of plan number `plan`. */
static void plan_anew(const mail_policy *policy, float *chunk, unsigned robot, unsigned from, unsigned to, uint64_t seed, uint32_t stream,
                      uint32_t plan) {
    static float  x_T[MAX_VALUES], noise[MAX_VALUES * 16];
    mail_session *s = small_session(policy, NULL);
    mail_error    err;
    unsigned      t;
    small_goal(s, policy, 0);
    for (t = from; t < to; t++) {
        CHECK(small_observe(s, policy, 1, robot, t, &err) == MAIL_OK);
    }
    draw(policy, x_T, noise, seed, stream, plan);
    mail_session_set_noise(s, x_T, noise);
    CHECK(mail_plan(s, chunk, &err) == MAIL_OK);
    mail_session_free(s);
}

static int same(const float *a, const float *b, size_t n) {
    return memcmp(a, b, n * sizeof(float)) == 0;
}

/* One frame and one action per tick; the network runs when the chunk is used up, on the frames seen so far, at most H.
   With skip, frames that are not due are not given. */
static void test_rollout(const char *name, size_t n_action_steps, int skip) {
    mail_policy         *policy = small_load(name);
    const mail_info     *info = mail_policy_info(policy);
    const size_t         D = info->action_dim, exec = n_action_steps ? n_action_steps : info->n_action_steps;
    const unsigned       H = (unsigned)info->obs_seq;
    mail_session_options o = mail_session_options_init();
    mail_session        *s;
    mail_error           err;
    float                chunk[MAX_VALUES], action[MAIL_MAX_ACTION_DIM];
    unsigned             t, skipped = 0;
    uint32_t             plan = 0;
    int                  ok = 1;
    o.seed = 77;
    o.n_action_steps = n_action_steps;
    s = small_session(policy, &o);
    small_goal(s, policy, 0);
    for (t = 0; t < 23; t++) {
        if (!skip || mail_observe_due(s)) {
            CHECK(small_observe(s, policy, 1, 0, t, &err) == MAIL_OK);
        } else {
            skipped++;
        }
        if (t % exec == 0) {
            plan_anew(policy, chunk, 0, t + 1 < H ? 0 : t + 1 - H, t + 1, 77, 0, plan++);
        }
        CHECK(mail_act(s, action, &err) == MAIL_OK);
        ok = ok && same(action, chunk + t % exec * D, D);
    }
    CHECK_MSG(ok, "%s, %d of the chunk executed, skip %d: not the action of a plan made anew", name, (int)exec, skip);
    CHECK_MSG(!skip || (skipped > 0) == (exec > H), "%s: %u frames skipped", name, skipped);
    mail_session_free(s);
    mail_policy_free(policy);
}

/* Temporal ensembling against a plain implementation: a chunk per tick, and the mean over all that speak of this tick,
   the i-th oldest weighted by exp(-decay i). */
static void test_ensemble(const char *name, float decay) {
    mail_policy         *policy = small_load(name);
    const mail_info     *info = mail_policy_info(policy);
    const size_t         A = info->act_seq, D = info->action_dim;
    const unsigned       H = (unsigned)info->obs_seq;
    mail_session_options o = mail_session_options_init();
    mail_session        *s;
    mail_error           err;
    static float         chunk[16][MAX_VALUES];
    float                action[MAIL_MAX_ACTION_DIM];
    unsigned             t, k;
    size_t               j;
    double               worst = 0;
    o.seed = 5;
    o.ensemble = 1;
    o.ensemble_decay = decay;
    s = small_session(policy, &o);
    small_goal(s, policy, 0);
    for (t = 0; t < 16; t++) {
        const unsigned oldest = t + 1 > A ? t + 1 - (unsigned)A : 0;
        CHECK(small_observe(s, policy, 1, 0, t, &err) == MAIL_OK);
        plan_anew(policy, chunk[t], 0, t + 1 < H ? 0 : t + 1 - H, t + 1, 5, 0, t);
        if (t == 6) {  /* a chunk planned twice in a tick counts once: the second takes the first one's place */
            CHECK(mail_plan(s, NULL, &err) == MAIL_OK);
            s->plans[0] -= 2;
            CHECK(mail_plan(s, NULL, &err) == MAIL_OK);
            s->plans[0] = t;
            CHECK(mail_plan(s, NULL, &err) == MAIL_OK);
        }
        CHECK(mail_act(s, action, &err) == MAIL_OK);
        for (j = 0; j < D; j++) {
            double sum = 0, weights = 0, got;
            for (k = oldest; k <= t; k++) {
                const double w = exp(-(double)decay * (double)(k - oldest));
                sum += w * (double)chunk[k][(t - k) * D + j];
                weights += w;
            }
            got = fabs((double)action[j] - sum / weights);
            worst = got > worst ? got : worst;
        }
    }
    CHECK_MSG(worst < 1e-6, "%s: ensemble off by %g", name, worst);
    mail_session_free(s);
    mail_policy_free(policy);
}

/* Same seed, same bits; another seed, others (DDPM); reset starts over. */
static void test_seeds(const char *name) {
    mail_policy         *policy = small_load(name);
    const mail_info     *info = mail_policy_info(policy);
    const size_t         D = info->action_dim;
    mail_session_options o = mail_session_options_init();
    mail_session        *s;
    mail_error           err;
    float                action[4][12 * 8];
    unsigned             turn, t;
    o.seed = 1234567890123ull;
    s = small_session(policy, &o);
    small_goal(s, policy, 0);
    for (turn = 0; turn < 4; turn++) {
        for (t = 0; t < 8; t++) {
            CHECK(small_observe(s, policy, 1, 0, t, &err) == MAIL_OK);
            CHECK(mail_act(s, action[turn] + t * D, &err) == MAIL_OK);
        }
        mail_session_reset(s, turn == 1 ? 1234567890124ull : 1234567890123ull);
        CHECK(mail_act(s, action[3], &err) == MAIL_E_STATE);  /* the history is forgotten */
    }
    CHECK_MSG(same(action[0], action[1], 8 * D), "%s: reset with the same seed gives other actions", name);
    CHECK_MSG(same(action[0], action[2], 8 * D) == (info->algorithm == MAIL_BC), "%s: another seed", name);
    CHECK_MSG(same(action[0], action[3], 8 * D), "%s: reset does not start over", name);
    mail_session_free(s);
    mail_policy_free(policy);
}

/* A batch is as many sessions: robot r draws the noise of stream r, and histories may differ in length. */
static void test_batch(const char *name) {
    mail_policy         *policy = small_load(name);
    const mail_info     *info = mail_policy_info(policy);
    const size_t         A = info->act_seq, D = info->action_dim;
    const unsigned       H = (unsigned)info->obs_seq, n = 3;
    mail_session_options o = mail_session_options_init();
    mail_session        *s;
    mail_error           err;
    float                actions[3 * MAIL_MAX_ACTION_DIM], chunk[3][MAX_VALUES];
    unsigned             t, r, began[3] = { 0, 0, 0 };
    uint32_t             plans[3] = { 0, 0, 0 };
    size_t               used[3];
    int                  ok = 1;
    o.batch = n;
    o.seed = 99;
    s = small_session(policy, &o);
    small_goal(s, policy, 0);
    used[0] = used[1] = used[2] = info->n_action_steps;
    for (t = 0; t < 14; t++) {
        if (t == 4 || t == 6) {  /* one robot starts an episode in the middle of the others' */
            r = t == 4 ? 1 : 2;
            CHECK(mail_session_reset_robot(s, r, &err) == MAIL_OK);
            began[r] = t;
            used[r] = info->n_action_steps;
        }
        CHECK(small_observe(s, policy, n, 0, t, &err) == MAIL_OK);
        CHECK(mail_act(s, actions, &err) == MAIL_OK);
        for (r = 0; r < n; r++) {
            if (used[r] == info->n_action_steps) {
                const unsigned from = t + 1 - began[r] < H ? began[r] : t + 1 - H;
                plan_anew(policy, chunk[r], r, from, t + 1, 99, r, plans[r]++);
                used[r] = 0;
            }
            ok = ok && same(actions + r * D, chunk[r] + used[r]++ * D, D);
        }
    }
    CHECK_MSG(ok, "%s: a robot of a batch does not act as a session of its own", name);
    /* the caller's noise, [batch][act_seq][action_dim]: robot by robot as in single sessions */
    {
        static float x_T[MAX_VALUES], noise[MAX_VALUES * 16], mine[MAX_VALUES], one_x[MAX_VALUES], one_noise[MAX_VALUES * 16];
        const size_t one = A * D, calls = policy->cfg.n_timesteps + policy->cfg.diffusion_x;
        float        all[3 * MAX_VALUES];
        size_t       i;
        small_fill(x_T, n * one, 1, 1);
        small_fill(noise, calls * n * one, 1, 2);
        mail_session_set_noise(s, x_T, noise);
        CHECK(mail_plan(s, all, &err) == MAIL_OK);
        ok = 1;
        for (r = 0; r < n; r++) {
            mail_session_options single = mail_session_options_init();
            mail_session        *alone = small_session(policy, &single);
            small_goal(alone, policy, 0);
            for (i = (t - began[r] < H ? began[r] : t - H); i < t; i++) {
                CHECK(small_observe(alone, policy, 1, r, (unsigned)i, &err) == MAIL_OK);
            }
            memcpy(one_x, x_T + r * one, one * sizeof(float));
            for (i = 0; i < calls; i++) {
                memcpy(one_noise + i * one, noise + (i * n + r) * one, one * sizeof(float));
            }
            mail_session_set_noise(alone, one_x, one_noise);
            CHECK(mail_plan(alone, mine, &err) == MAIL_OK);
            ok = ok && same(mine, all + r * one, one);
            mail_session_free(alone);
        }
        CHECK_MSG(ok, "%s: the caller's noise in a batch", name);
    }
    mail_session_free(s);
    mail_policy_free(policy);
}

/* Goals: one for all, one each; kept over a reset; another goal, another action. */
static void test_goal(const char *name) {
    mail_policy         *policy = small_load(name);
    const mail_info     *info = mail_policy_info(policy);
    const size_t         n = info->lang_dim, one = info->act_seq * info->action_dim;
    mail_session_options o = mail_session_options_init();
    mail_session        *s;
    mail_error           err;
    float                goal[2 * 1024], a[2 * MAX_VALUES], b[2 * MAX_VALUES], c[2 * MAX_VALUES];
    o.batch = 2;
    s = small_session(policy, &o);
    small_fill(goal, 2 * n, 7, 0);
    CHECK(small_observe(s, policy, 2, 0, 0, &err) == MAIL_OK);
    CHECK(mail_plan(s, a, &err) == MAIL_E_STATE && strstr(err.text, "mail_session_set_goal") != NULL);
    CHECK(mail_session_set_goal(s, goal, n, &err) == MAIL_OK);
    CHECK(mail_plan(s, a, &err) == MAIL_OK);
    mail_session_reset(s, 0);
    CHECK(small_observe(s, policy, 2, 0, 0, &err) == MAIL_OK);
    CHECK(mail_plan(s, b, &err) == MAIL_OK);
    CHECK_MSG(same(a, b, 2 * one), "%s: the goal does not outlive a reset", name);
    mail_session_reset(s, 0);
    CHECK(small_observe(s, policy, 2, 0, 0, &err) == MAIL_OK);
    CHECK(mail_session_set_goal(s, goal, 2 * n, &err) == MAIL_OK);
    CHECK(mail_plan(s, c, &err) == MAIL_OK);
    CHECK_MSG(same(a, c, one) && !same(a + one, c + one, one), "%s: a goal for each robot", name);
    {   /* a goal whose token overflows for the second robot changes nothing for the first either */
        size_t i;
        for (i = n; i < 2 * n; i++) {
            goal[i] = 3e38f;
        }
        goal[0] = 5;
        CHECK(mail_session_set_goal(s, goal, 2 * n, &err) == MAIL_E_NUMBER && strstr(err.text, "robot 1") != NULL);
        mail_session_reset(s, 0);
        CHECK(small_observe(s, policy, 2, 0, 0, &err) == MAIL_OK);
        CHECK(mail_plan(s, b, &err) == MAIL_OK && same(b, c, 2 * one));
    }
    mail_session_free(s);
    mail_policy_free(policy);
}

/* begin, step, end give what mail_plan gives; observing, a new goal and acting in between change nothing of it, and the old chunk
   goes on. cancel and begin again start over. */
static void test_spread(const char *name) {
    mail_policy         *policy = small_load(name);
    const mail_info     *info = mail_policy_info(policy);
    const size_t         A = info->act_seq, D = info->action_dim, one = A * D;
    mail_session_options o = mail_session_options_init();
    mail_session        *a, *b;
    mail_error           err;
    float                whole[MAX_VALUES], spread[MAX_VALUES], old[MAX_VALUES], action[MAIL_MAX_ACTION_DIM];
    size_t               left = 0, steps = 0, given = 0, expected;
    unsigned             t;
    int                  ok = 1;
    o.seed = 3;
    a = small_session(policy, &o);
    b = small_session(policy, &o);
    small_goal(a, policy, 0);
    small_goal(b, policy, 0);
    for (t = 0; t < 3; t++) {
        CHECK(small_observe(a, policy, 1, 0, t, &err) == MAIL_OK && small_observe(b, policy, 1, 0, t, &err) == MAIL_OK);
    }
    CHECK(mail_plan(a, old, &err) == MAIL_OK && mail_plan(b, NULL, &err) == MAIL_OK);
    CHECK(small_observe(a, policy, 1, 0, 3, &err) == MAIL_OK && small_observe(b, policy, 1, 0, 3, &err) == MAIL_OK);
    CHECK(mail_plan_step(b, &left, &err) == MAIL_E_STATE && strstr(err.text, "mail_plan_begin") != NULL);
    CHECK(mail_plan_end(b, spread, &err) == MAIL_E_STATE && strstr(err.text, "mail_plan_begin") != NULL);
    CHECK(mail_plan_sample(b, spread, &err) == MAIL_E_STATE && mail_plan_sample(NULL, spread, &err) == MAIL_E_ARGUMENT);
    if (info->algorithm == MAIL_DDPM) {  /* before the first step a plan is its noise, in the robot's units */
        size_t i;
        mail_noise(spread, A * D, 5, 0, 0, 0);
        mail_session_set_noise(b, spread, NULL);
        CHECK(mail_plan_begin(b, &err) == MAIL_OK && mail_plan_sample(b, whole, &err) == MAIL_OK);
        for (i = 0; i < A * D; i++) {
            const double expect = policy->cfg.scale_data ? (double)spread[i] * (double)policy->cfg.std[i % D] + (double)policy->cfg.mean[i % D]
                                                         : (double)spread[i];
            ok = ok && fabs((double)whole[i] - expect) <= 1e-6 * (1 + fabs(expect));
        }
        CHECK(ok);
        mail_plan_cancel(b);
        CHECK(mail_plan_sample(b, spread, &err) == MAIL_E_STATE);
    }
    CHECK(mail_plan(a, whole, &err) == MAIL_OK);
    CHECK(mail_plan_begin(b, &err) == MAIL_OK);
    CHECK(mail_plan_step(b, &left, &err) == MAIL_OK);
    CHECK(mail_plan_begin(b, &err) == MAIL_OK);  /* starts over */
    CHECK(mail_plan_step(b, &left, &err) == MAIL_OK);
    mail_plan_cancel(b);
    CHECK(mail_plan_step(b, &left, &err) == MAIL_E_STATE);
    CHECK(mail_plan_begin(b, &err) == MAIL_OK);
    expected = info->algorithm == MAIL_BC ? 1 : policy->cfg.n_timesteps + policy->cfg.diffusion_x;
    do {
        if (steps > 0) {
            CHECK(mail_plan_end(b, spread, &err) == MAIL_E_STATE && strstr(err.text, "still to do") != NULL);
        }
        CHECK(mail_plan_step(b, &left, &err) == MAIL_OK);
        steps++;
        CHECK(left == expected - steps);
        CHECK(small_observe(b, policy, 1, 0, 50 + (unsigned)steps, &err) == MAIL_OK);
        small_goal(b, policy, (unsigned)steps);
        if (given < A) {
            CHECK(mail_act(b, action, &err) == MAIL_OK);
            ok = ok && same(action, old + given * D, D);
            given++;
        } else if (b->n_exec == A) {
            CHECK(mail_act(b, action, &err) == MAIL_E_STATE && strstr(err.text, "plan is in progress") != NULL);
        }
    } while (left > 0);
    CHECK(mail_plan_step(b, &left, &err) == MAIL_E_STATE && strstr(err.text, "mail_plan_end") != NULL);
    CHECK(mail_plan_end(b, spread, &err) == MAIL_OK);
    CHECK(mail_plan_end(b, spread, &err) == MAIL_E_STATE);
    CHECK_MSG(ok, "%s: the old chunk does not go on during a plan", name);
    CHECK_MSG(same(whole, spread, one), "%s: mail_plan and its steps differ", name);
    CHECK(mail_act(b, action, &err) == MAIL_OK && same(action, whole, D));  /* without align_plan: from its first action */
    mail_session_free(a);
    mail_session_free(b);
    mail_policy_free(policy);
}

/* Ensembling with plans spread over actions: meanwhile the mean is that of the older chunks, until none of them has an action for now;
   a chunk counts from the action that is due when its plan ends. */
static void test_spread_ensemble(const char *name, unsigned ticks) {
    static float         chunks[64][MAX_VALUES];
    mail_policy         *policy = small_load(name);
    const mail_info     *info = mail_policy_info(policy);
    const size_t         A = info->act_seq, D = info->action_dim;
    mail_session_options o = mail_session_options_init();
    mail_session        *s;
    mail_error           err;
    size_t               begins[64], n = 0, t, i, j, left;
    unsigned             wait = 0, goes_on = 0, refused_acts = 0;
    float                action[MAIL_MAX_ACTION_DIM];
    int                  ok = 1;
    o.ensemble       = 1;
    o.ensemble_decay = 0.2f;
    s = small_session(policy, &o);
    small_goal(s, policy, 0);
    CHECK(small_observe(s, policy, 1, 0, 0, &err) == MAIL_OK && mail_plan_begin(s, &err) == MAIL_OK);
    CHECK(mail_act(s, action, &err) == MAIL_E_STATE && strstr(err.text, "plan is in progress") != NULL);
    for (t = 0; t < 24;) {
        double   want[MAIL_MAX_ACTION_DIM], weights = 0;
        unsigned rank = 0;
        if (wait == ticks * (n % 3 == 2 ? 2 : 1) || refused_acts > 0) {
            do {
                CHECK(mail_plan_step(s, &left, &err) == MAIL_OK);
            } while (left > 0);
            CHECK(mail_plan_end(s, chunks[n], &err) == MAIL_OK && mail_actions_left(s) == 1);
            begins[n++]  = t;
            refused_acts = wait = 0;
            if (n % 2 == 0) {  /* another one at the same tick takes its place */
                CHECK(mail_plan(s, chunks[n - 1], &err) == MAIL_OK);
            }
            CHECK(small_observe(s, policy, 1, 0, (unsigned)t, &err) == MAIL_OK && mail_plan_begin(s, &err) == MAIL_OK);
        }
        memset(want, 0, sizeof want);
        for (i = 0; i < n; i++) {
            if (t - begins[i] < A) {
                const double w = exp(-0.2 * rank++);
                weights += w;
                for (j = 0; j < D; j++) {
                    want[j] += w * (double)chunks[i][(t - begins[i]) * D + j];
                }
            }
        }
        wait++;
        if (rank == 0) {
            memset(action, 0, sizeof action);
            CHECK(mail_act(s, action, &err) == MAIL_E_STATE && action[0] == 0.0f);
            refused_acts++;
            continue;
        }
        goes_on += mail_actions_left(s) == 0;
        CHECK_MSG(mail_act(s, action, &err) == MAIL_OK && mail_actions_left(s) == 0, "%s, action %d: %s", name, (int)t, err.text);
        for (j = 0; j < D; j++) {
            ok = ok && fabs((double)action[j] - want[j] / weights) < 1e-5;
        }
        t++;
    }
    CHECK_MSG(ok && goes_on > 0, "%s: the mean during plans over %u actions (%u)", name, ticks, goes_on);
    mail_plan_cancel(s);  /* planned at once, as ever */
    CHECK(mail_act(s, action, &err) == MAIL_OK && mail_plan_begin(s, &err) == MAIL_OK && mail_session_reset_robot(s, 0, &err) == MAIL_OK);
    CHECK(small_observe(s, policy, 1, 0, 0, &err) == MAIL_OK && mail_plan_begin(s, &err) == MAIL_OK && mail_act(s, action, &err) == MAIL_E_STATE);
    mail_session_free(s);
    mail_policy_free(policy);
}

static void test_align(void) {
    mail_policy         *policy = small_load("long_d_ma");  /* 16 actions */
    const size_t         D = mail_policy_info(policy)->action_dim;
    mail_session_options o = mail_session_options_init();
    mail_session        *s;
    mail_error           err;
    float                old[MAX_VALUES], chunk[MAX_VALUES], action[MAIL_MAX_ACTION_DIM];
    size_t               left, i;
    o.align_plan = 1;
    s = small_session(policy, &o);
    CHECK(small_observe(s, policy, 1, 0, 0, &err) == MAIL_OK);
    CHECK(mail_plan(s, old, &err) == MAIL_OK);
    for (i = 0; i < 5; i++) {
        CHECK(mail_act(s, action, &err) == MAIL_OK && same(action, old + i * D, D));
    }
    CHECK(small_observe(s, policy, 1, 0, 1, &err) == MAIL_OK);
    CHECK(mail_plan_begin(s, &err) == MAIL_OK);
    for (left = 1, i = 5; left > 0; i++) {
        CHECK(mail_plan_step(s, &left, &err) == MAIL_OK);
        CHECK(mail_act(s, action, &err) == MAIL_OK && same(action, old + i * D, D));
    }
    CHECK(mail_plan_end(s, chunk, &err) == MAIL_OK);
    for (i = 4; i < 16; i++) {  /* four steps, four actions given meanwhile */
        CHECK(mail_act(s, action, &err) == MAIL_OK && same(action, chunk + i * D, D));
    }
    CHECK(mail_plan_begin(s, &err) == MAIL_OK);  /* used up: nothing to give while it is planned, nothing to leave out */
    CHECK(mail_act(s, action, &err) == MAIL_E_STATE);
    do {
        CHECK(mail_plan_step(s, &left, &err) == MAIL_OK);
    } while (left > 0);
    CHECK(mail_plan_end(s, chunk, &err) == MAIL_OK);
    CHECK(mail_act(s, action, &err) == MAIL_OK && same(action, chunk, D));
    mail_session_free(s);
    mail_policy_free(policy);
}

/* align_plan where fewer actions than the chunk has are executed, and with limits: the first action is that of the tick, a step leads
   to it from the last one given out, and n_action_steps follow. */
static void test_align_limits(void) {
    mail_policy         *policy = small_load("long_d_ma");
    const size_t         D = mail_policy_info(policy)->action_dim;
    mail_session_options o = mail_session_options_init();
    mail_session        *s;
    mail_error           err;
    float                chunk[MAX_VALUES], free_chunk[MAX_VALUES], action[MAIL_MAX_ACTION_DIM], last[MAIL_MAX_ACTION_DIM], step[MAIL_MAX_ACTION_DIM];
    size_t               left, i, j, acts;
    int                  limited;
    for (j = 0; j < D; j++) {
        step[j] = 0.05f;
    }
    for (limited = 0; limited < 2; limited++) {
        for (acts = 0; acts <= 4; acts++) {
            o.align_plan      = 1;
            o.n_action_steps  = 4;
            o.action_max_step = limited ? step : NULL;
            s = small_session(policy, &o);
            CHECK(mail_actions_left(s) == 0);
            CHECK(small_observe(s, policy, 1, 0, 0, &err) == MAIL_OK && mail_plan(s, NULL, &err) == MAIL_OK && mail_actions_left(s) == 4);
            CHECK(mail_plan_begin(s, &err) == MAIL_OK);
            memset(last, 0, sizeof last);
            for (i = 0; i < acts; i++) {
                CHECK(mail_act(s, last, &err) == MAIL_OK);
            }
            CHECK(mail_actions_left(s) == 4 - acts);
            do {
                CHECK(mail_plan_step(s, &left, &err) == MAIL_OK);
            } while (left > 0);
            CHECK(mail_plan_sample(s, free_chunk, &err) == MAIL_OK);  /* as predicted; inside the scaler's limits here */
            CHECK(mail_plan_end(s, chunk, &err) == MAIL_OK && mail_actions_left(s) == 4);
            for (i = acts; i < acts + 4; i++) {
                CHECK(mail_act(s, action, &err) == MAIL_OK && same(action, chunk + i * D, D));
                for (j = 0; j < D && limited && (i > 0 || acts > 0); j++) {
                    const float wish = free_chunk[i * D + j], down = last[j] - step[j], up = last[j] + step[j];
                    CHECK(fabsf(action[j] - (wish < down ? down : wish > up ? up : wish)) < 1e-6f);
                }
                CHECK(limited || same(action, free_chunk + i * D, D));
                memcpy(last, action, sizeof last);
            }
            mail_session_free(s);
        }
    }
    o.ensemble = 1;
    CHECK(mail_session_create(&s, policy, &o, &err) == MAIL_E_ARGUMENT && strstr(err.text, "align_plan") != NULL);
    mail_policy_free(policy);
}

/* The caller's noise belongs to the plan that begins next, to no other. */
static void test_given_noise(void) {
    mail_policy         *policy = small_load("long_d_ma");
    const mail_info     *info = mail_policy_info(policy);
    const size_t         one = info->act_seq * info->action_dim;
    mail_session_options o = mail_session_options_init();
    mail_session        *s = small_session(policy, &o);
    mail_error           err;
    static float         noise[2][MAX_VALUES * 16];
    float                seeded[MAX_VALUES], given[MAX_VALUES], got[MAX_VALUES];
    size_t               left;
    int                  i;
    small_fill(noise[0], one * 16, 1, 1);
    small_fill(noise[1], one * 16, 1, 2);
    CHECK(small_observe(s, policy, 1, 0, 0, &err) == MAIL_OK && mail_plan(s, seeded, &err) == MAIL_OK);
    mail_session_reset(s, o.seed);
    mail_session_set_noise(s, noise[0], noise[0]);
    CHECK(small_observe(s, policy, 1, 0, 0, &err) == MAIL_OK && mail_plan(s, given, &err) == MAIL_OK && !same(given, seeded, one));
    for (i = 0; i < 4; i++) {
        mail_session_reset(s, o.seed);
        CHECK(small_observe(s, policy, 1, 0, 0, &err) == MAIL_OK);
        if (i == 0) {  /* given in the middle of a plan: for the next */
            CHECK(mail_plan_begin(s, &err) == MAIL_OK && mail_plan_step(s, &left, &err) == MAIL_OK);
            mail_session_set_noise(s, noise[0], noise[0]);
            while (left > 0) {
                CHECK(mail_plan_step(s, &left, &err) == MAIL_OK);
            }
            CHECK(mail_plan_end(s, got, &err) == MAIL_OK && same(got, seeded, one));
            CHECK(mail_plan(s, got, &err) == MAIL_OK && same(got, given, one));
        } else if (i == 1) {  /* a plan that starts over keeps its noise; a cancelled one takes it along */
            mail_session_set_noise(s, noise[0], noise[0]);
            CHECK(mail_plan_begin(s, &err) == MAIL_OK && mail_plan_step(s, &left, &err) == MAIL_OK);
            CHECK(mail_plan(s, got, &err) == MAIL_OK && same(got, given, one));
            mail_session_reset(s, o.seed);
            CHECK(small_observe(s, policy, 1, 0, 0, &err) == MAIL_OK);
            mail_session_set_noise(s, noise[1], noise[1]);
            CHECK(mail_plan_begin(s, &err) == MAIL_OK);
            mail_plan_cancel(s);
            CHECK(mail_plan(s, got, &err) == MAIL_OK && same(got, seeded, one));
        } else if (i == 2) {  /* a plan that fails lets go of it */
            noise[1][0] = NAN;
            mail_session_set_noise(s, noise[1], NULL);
            CHECK(mail_plan(s, got, &err) == MAIL_E_NUMBER);
            small_fill(noise[1], one * 16, 1, 3);
            CHECK(mail_plan(s, got, &err) == MAIL_OK && same(got, seeded, one));
        } else {  /* a plan that cannot begin does not take it; reset drops it */
            mail_session_reset(s, o.seed);
            mail_session_set_noise(s, noise[0], noise[0]);
            CHECK(mail_plan(s, got, &err) == MAIL_E_STATE);
            CHECK(small_observe(s, policy, 1, 0, 0, &err) == MAIL_OK && mail_plan(s, got, &err) == MAIL_OK && same(got, given, one));
            mail_session_set_noise(s, noise[0], noise[0]);
            mail_session_reset(s, o.seed);
            CHECK(small_observe(s, policy, 1, 0, 0, &err) == MAIL_OK && mail_plan(s, got, &err) == MAIL_OK && same(got, seeded, one));
        }
    }
    mail_session_free(s);
    mail_policy_free(policy);
}

/* A clock that moves by the same amount whenever it is looked at. */
typedef struct fake_clock {
    double   now, tick;
    unsigned looks;
} fake_clock;

static double fake_now(void *user) {
    fake_clock *c = (fake_clock *)user;
    c->looks++;
    c->now += c->tick;
    return c->now;
}

static void test_within(const char *name) {
    mail_policy         *policy = small_load(name);
    const mail_info     *info = mail_policy_info(policy);
    const size_t         one = info->act_seq * info->action_dim, all = policy->cfg.n_timesteps + policy->cfg.diffusion_x;
    mail_session_options o = mail_session_options_init();
    mail_session        *a, *b;
    mail_error           err;
    fake_clock           clock;
    float                want[MAX_VALUES], got[MAX_VALUES];
    size_t               steps, before, budget;
    memset(&clock, 0, sizeof clock);
    o.seed = 8;
    a = small_session(policy, &o);
    o.now = fake_now;
    o.now_user = &clock;
    b = small_session(policy, &o);
    small_goal(a, policy, 0);
    small_goal(b, policy, 0);
    CHECK(mail_plan_within(b, got, 1.0, &steps, &err) == MAIL_E_STATE);
    CHECK(mail_plan_within(b, got, -1.0, &steps, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_plan_within(b, got, (double)NAN, &steps, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_plan_within(NULL, got, 1.0, &steps, &err) == MAIL_E_ARGUMENT);
    CHECK(small_observe(a, policy, 1, 0, 0, &err) == MAIL_OK && small_observe(b, policy, 1, 0, 0, &err) == MAIL_OK);
    /* a clock that stands still, then plenty of time: all steps, the same bits as mail_plan */
    CHECK(mail_plan(a, want, &err) == MAIL_OK);
    CHECK(mail_plan_within(b, got, 0.0, &steps, &err) == MAIL_OK && steps == all && same(want, got, one));
    clock.tick = 0.001;
    CHECK(mail_plan(a, want, &err) == MAIL_OK);
    CHECK(mail_plan_within(b, got, 1e6, &steps, &err) == MAIL_OK && steps == all && same(want, got, one));
    CHECK(mail_plan(a, want, &err) == MAIL_OK);
    CHECK(mail_plan_within(b, got, HUGE_VAL, NULL, &err) == MAIL_OK && same(want, got, one));
    /* no time: one step, still an action within the bounds */
    CHECK(mail_plan_within(b, got, 0.0, &steps, &err) == MAIL_OK);
    CHECK_MSG(steps == 1, "%s: %u steps in no time", name, (unsigned)steps);
    CHECK(mailp_not_finite(got, one) == one);
    /* A step takes a tick between the looks before and after it, and three ticks all in all: with time for n steps by the clock's own
       account, at most n are done, and more time never means fewer. */
    before = 0;
    for (budget = 1; budget < 3 * all + 6; budget++) {
        const double from = clock.now;
        CHECK(mail_plan_within(b, got, 0.001 * (double)budget, &steps, &err) == MAIL_OK);
        /* this clock charges the encoder a tick for any number of steps; what it costs for one is then known from the last plan only, and
           where it runs several times per plan that may be a step off */
        CHECK_MSG(steps >= 1 && steps <= all && steps + (all > MAILP_SLOTS && policy->cfg.n_trunks == 2) >= before, "%s: %u steps, with less time %u", name, (unsigned)steps, (unsigned)before);
        /* what it had to look at the clock for, plus one step that was begun in time, plus the looks at both ends */
        CHECK_MSG(clock.now - from <= 0.001 * ((double)budget + 6.5), "%s: took %g of %g", name, clock.now - from, 0.001 * (double)budget);
        before = steps;
    }
    CHECK_MSG(before == all, "%s: only %u of %u steps in the end", name, (unsigned)before, (unsigned)all);
    mail_session_free(a);
    mail_session_free(b);
    mail_policy_free(policy);
}

/* A clock that moves by the work that is done: a layer of a step takes 1/1024 s, one of the encoder as long for each step it runs for. */
typedef struct work_clock {
    double              now;
    const mail_session *session;
} work_clock;

static double work_now(void *user) {
    return ((work_clock *)user)->now;
}

static void work_add(void *user, const char *part, size_t layer, double seconds) {
    work_clock *c = (work_clock *)user;
    (void)layer;
    (void)seconds;
    c->now += strcmp(part, "encoder") == 0 ? (double)c->session->n_slots / 1024 : 1.0 / 1024;
}

/* Once it is known what a step costs, a deadline is kept to the last layer, also where the encoder has to run anew on the way
   (more than 16 steps, or other ones than planned), and no step that would have fitted is left out. */
static void test_deadline(const char *name) {
    mail_policy         *policy = small_load(name);
    const mail_info     *info = mail_policy_info(policy);
    const size_t         one = info->act_seq * info->action_dim, all = policy->cfg.n_timesteps;
    mail_session_options o = mail_session_options_init();
    mail_session        *s;
    mail_error           err;
    work_clock           clock;
    float                got[MAX_VALUES];
    size_t               steps, n, extra;
    double               of_one, from;
    memset(&clock, 0, sizeof clock);
    o.now = o.profile.now = work_now;
    o.now_user = o.profile.user = &clock;
    o.profile.add = work_add;
    s = small_session(policy, &o);
    clock.session = s;
    small_goal(s, policy, 0);
    CHECK(small_observe(s, policy, 1, 0, 0, &err) == MAIL_OK);
    CHECK(mail_plan_within(s, got, 1e6, &steps, &err) == MAIL_OK && steps == all);
    of_one = clock.now / (double)all;
    for (n = 1; n <= all; n++) {
        for (extra = 0; extra < 2; extra++) {  /* exactly enough, and half a step more */
            const double seconds = of_one * ((double)n + 0.5 * (double)extra);
            from = clock.now;
            CHECK(mail_plan_within(s, got, seconds, &steps, &err) == MAIL_OK && mailp_not_finite(got, one) == one);
            CHECK_MSG(steps == n, "%s: %u steps in the time of %u", name, (unsigned)steps, (unsigned)n);
            CHECK_MSG(clock.now - from <= seconds, "%s: %g s, allowed %g", name, clock.now - from, seconds);
        }
    }
    mail_session_free(s);
    mail_policy_free(policy);
}

/* DDIM with fewer steps: x_{t'} = sqrt(abar') x0 + sqrt(1 - abar') (x - sqrt(abar) x0) / sqrt(1 - abar), in double, at the evenly
   spread times T (n - i) / n - 1; and the network at time t sees what it sees in a full plan at that time. */
static void test_ddim(const char *name, size_t n_steps) {
    mail_policy         *policy = small_load(name);
    const mailp_config  *c = &policy->cfg;
    const size_t         D = c->action_dim, one = c->act_seq * D, T = c->n_timesteps, n = n_steps ? n_steps : T;
    mail_session_options o = mail_session_options_init();
    mail_session        *s, *full;
    mail_error           err;
    float                x[MAX_VALUES], chunk[MAX_VALUES];
    size_t               i, j, left, at;
    double               worst = 0;
    int                  ok = 1;
    o.seed = 21;
    full = small_session(policy, &o);
    o.sampler = MAIL_SAMPLER_DDIM;
    o.n_steps = n_steps;
    s = small_session(policy, &o);
    small_goal(s, policy, 0);
    small_goal(full, policy, 0);
    CHECK(small_observe(s, policy, 1, 0, 0, &err) == MAIL_OK && small_observe(full, policy, 1, 0, 0, &err) == MAIL_OK);
    CHECK(mail_plan_begin(s, &err) == MAIL_OK);
    mail_noise(x, one, 21, 0, 0, 0);
    CHECK(same(x, s->x, one));
    for (i = 0; i < n + c->diffusion_x; i++) {
        const size_t t = i < n ? T * (n - i) / n - 1 : 0;
        const size_t next = i + 1 < n ? T * (n - i - 1) / n - 1 : 0;
        const int    end = t == 0 || i + 1 == n + c->diffusion_x;
        const double bar = (double)policy->ddpm.alphas_cumprod[t], to = end ? 1.0 : (double)policy->ddpm.alphas_cumprod[next];
        memcpy(x, s->x, one * sizeof(float));
        CHECK(mail_plan_step(s, &left, &err) == MAIL_OK);
        for (j = 0; j < one; j++) {
            const double recip = sqrt(1.0 / bar), recipm1 = sqrt(1.0 / bar - 1.0);
            double       x0 = c->predict_epsilon ? recip * (double)x[j] - recipm1 * (double)s->noise_pred[j] : (double)s->noise_pred[j], d, want;
            if (c->clip_denoised) {
                x0 = x0 < (double)policy->lo[j % D] ? (double)policy->lo[j % D] : x0 > (double)policy->hi[j % D] ? (double)policy->hi[j % D] : x0;
            }
            want = sqrt(to) * x0 + sqrt(1.0 - to) * ((double)x[j] - sqrt(bar) * x0) / sqrt(1.0 - bar);
            /* float32 rounding of x0, which the gain recip (325 at the first of 16 steps) blows up where the clamp does not hold it */
            d = fabs((double)s->x[j] - want) / (1.0 + fabs(want) + 2.0 * recip * (fabs((double)x[j]) + fabs((double)s->noise_pred[j])));
            worst = d > worst ? d : worst;
        }
        /* the same x at the same time in a plan over all steps */
        CHECK(mail_plan_begin(full, &err) == MAIL_OK);
        for (at = 0; full->order[at] > t; at++) {
            CHECK(mail_plan_step(full, &left, &err) == MAIL_OK);
        }
        memcpy(full->x, x, one * sizeof(float));
        CHECK(mail_plan_step(full, NULL, &err) == MAIL_OK);
        ok = ok && same(full->noise_pred, s->noise_pred, one);
    }
    CHECK_MSG(ok, "%s, %d steps: the network's output at some step differs from that of a full plan", name, (int)n);
    CHECK_MSG(worst < 5e-7, "%s, %d steps: DDIM off by %g", name, (int)n, worst);
    CHECK(mail_plan_end(s, chunk, &err) == MAIL_OK && mailp_not_finite(chunk, one) == one);
    mail_session_free(s);
    mail_session_free(full);
    mail_policy_free(policy);
}

/* Limits on what leaves: by value and by change, in a rollout, in planned chunks and in ensembles. */
static void test_limits(const char *name, int ensemble) {
    mail_policy         *policy = small_load(name);
    const mail_info     *info = mail_policy_info(policy);
    const size_t         A = info->act_seq, D = info->action_dim;
    mail_session_options o = mail_session_options_init();
    mail_session        *s, *free_of_limits;
    mail_error           err;
    float                lo[MAIL_MAX_ACTION_DIM], hi[MAIL_MAX_ACTION_DIM], step[MAIL_MAX_ACTION_DIM], action[MAIL_MAX_ACTION_DIM];
    float                last[MAIL_MAX_ACTION_DIM], chunk[MAX_VALUES], unlimited[MAIL_MAX_ACTION_DIM];
    unsigned             t, held = 0, slowed = 0;
    size_t               j, i;
    int                  ok = 1;
    o.seed = 4;
    o.ensemble = ensemble;
    free_of_limits = small_session(policy, &o);
    for (j = 0; j < D; j++) {
        const float middle = 0.5f * (info->action_min[j] + info->action_max[j]), width = info->action_max[j] - info->action_min[j];
        lo[j] = middle - 0.2f * width;
        hi[j] = middle + 0.2f * width;
        step[j] = 0.05f * width;
    }
    o.action_min = lo;
    o.action_max = hi;
    o.action_max_step = step;
    s = small_session(policy, &o);
    small_goal(s, policy, 0);
    small_goal(free_of_limits, policy, 0);
    {
        float kept[3];
        kept[0] = lo[0];
        kept[1] = hi[0];
        kept[2] = step[0];
        lo[0] = hi[0] = step[0] = 1e30f;  /* the options were copied: what becomes of the caller's arrays does not matter */
        for (t = 0; t < 20; t++) {
            CHECK(small_observe(s, policy, 1, 0, t, &err) == MAIL_OK && small_observe(free_of_limits, policy, 1, 0, t, &err) == MAIL_OK);
            if (t == 10) {  /* a chunk asked for is limited as well, beginning at the last action given */
                CHECK(mail_plan(s, chunk, &err) == MAIL_OK && mail_plan(free_of_limits, NULL, &err) == MAIL_OK);
                for (i = 0; i < A; i++) {
                    for (j = 0; j < D; j++) {
                        const float most = j == 0 ? kept[2] : step[j], from = i == 0 ? last[j] : chunk[(i - 1) * D + j];
                        ok = ok && chunk[i * D + j] >= (j == 0 ? kept[0] : lo[j]) && chunk[i * D + j] <= (j == 0 ? kept[1] : hi[j]) &&
                             fabsf(chunk[i * D + j] - from) <= most * 1.00001f;
                    }
                }
                CHECK_MSG(ok, "%s, ensemble %d: a planned chunk goes beyond the limits", name, ensemble);
            }
            CHECK(mail_act(s, action, &err) == MAIL_OK && mail_act(free_of_limits, unlimited, &err) == MAIL_OK);
            for (j = 0; j < D; j++) {
                const float least = j == 0 ? kept[0] : lo[j], top = j == 0 ? kept[1] : hi[j], most = j == 0 ? kept[2] : step[j];
                ok = ok && action[j] >= least && action[j] <= top;
                if (t > 0) {
                    volatile float want = unlimited[j], above = last[j] + most, below = last[j] - most;  /* rounded also where x87 computes */
                    ok = ok && fabsf(action[j] - last[j]) <= most * 1.00001f;
                    slowed += fabsf(unlimited[j] - last[j]) > most;
                    want = want > above ? above : want < below ? below : want;
                    want = want < least ? least : want > top ? top : want;
                    ok = ok && want == action[j];
                }
                held += unlimited[j] < least || unlimited[j] > top;
                last[j] = action[j];
            }
        }
    }
    CHECK_MSG(ok, "%s, ensemble %d: an action goes beyond the limits, or is held back for nothing", name, ensemble);
    CHECK_MSG(held > 0 && slowed > 0, "%s: the limits were never met (%u, %u): this test says nothing", name, held, slowed);
    mail_session_free(s);
    mail_session_free(free_of_limits);
    mail_policy_free(policy);
}

static void test_trajectory(void) {
    float  from[3] = { 1, 2, 3 }, to[3] = { 2, 4, 5 }, way[64 * 3], tight[2 * 3];
    size_t n, i, j;
    int    ok = 1;
    n = mail_trajectory(way, 64, from, to, 3, 0.25f);  /* 3 units apart */
    CHECK(n == 12);
    for (i = 0; i < n; i++) {
        double d = 0;
        for (j = 0; j < 3; j++) {
            const double before = i == 0 ? (double)from[j] : (double)way[(i - 1) * 3 + j], step = (double)way[i * 3 + j] - before;
            d += step * step;
            ok = ok && fabs(((double)to[j] - (double)from[j]) / 12.0 - step) < 1e-6;
        }
        ok = ok && sqrt(d) <= 0.25 + 1e-6;
    }
    CHECK(ok && same(way + (n - 1) * 3, to, 3));
    CHECK(mail_trajectory(way, 64, from, to, 3, 0.2499f) == 13);
    CHECK(mail_trajectory(way, 64, from, to, 3, 100.0f) == 1 && same(way, to, 3));
    CHECK(mail_trajectory(way, 64, from, from, 3, 0.1f) == 1 && same(way, from, 3));
    for (i = 0; i < 6; i++) {
        tight[i] = -7;
    }
    CHECK(mail_trajectory(tight, 1, from, to, 3, 0.25f) == 12 && tight[3] == -7);
    CHECK(mail_trajectory(NULL, 0, from, to, 3, 0.25f) == 12);
    CHECK(mail_trajectory(NULL, 4, from, to, 3, 0.25f) == 0);
    CHECK(mail_trajectory(way, 64, NULL, to, 3, 0.25f) == 0 && mail_trajectory(way, 64, from, NULL, 3, 0.25f) == 0);
    CHECK(mail_trajectory(way, 64, from, to, 3, 0.0f) == 0 && mail_trajectory(way, 64, from, to, 3, -1.0f) == 0);
    CHECK(mail_trajectory(way, 64, from, to, 3, NAN) == 0 && mail_trajectory(way, 64, from, to, 3, INFINITY) == 0);
    to[1] = NAN;
    CHECK(mail_trajectory(way, 64, from, to, 3, 0.25f) == 0);
    to[1] = INFINITY;
    CHECK(mail_trajectory(way, 64, from, to, 3, 0.25f) == 0);
    to[1] = 3e38f;
    from[1] = -3e38f;
    CHECK(mail_trajectory(way, 64, from, to, 3, 1e-30f) == 0);  /* more than can be counted */
    CHECK(mail_trajectory(way, 64, from, to, 3, 3e38f) >= 2);
}

/* What a call that fails may do to a session: nothing. Two sessions side by side; one gets failing calls in between. */
static void test_errors(const char *name) {
    mail_policy         *policy = small_load(name);
    const mail_info     *info = mail_policy_info(policy);
    const size_t         D = info->action_dim, S = info->state_dim, one = info->act_seq * D;
    mail_session_options o = mail_session_options_init();
    mail_session        *a, *b;
    mail_error           err;
    mail_image           image;
    float                actions[2][2 * MAIL_MAX_ACTION_DIM], chunk[2][2 * MAX_VALUES], bad[4096], untouched[2 * MAX_VALUES];
    unsigned char        pixels[12] = { 0 };
    unsigned             t;
    size_t               i, left;
    o.batch = 2;
    o.seed = 6;
    a = small_session(policy, &o);
    b = small_session(policy, &o);
    memset(&image, 0, sizeof image);
    image.data = pixels;
    image.width = image.height = 2;
    for (i = 0; i < 2 * MAX_VALUES; i++) {
        untouched[i] = chunk[0][i] = 12345.0f;
    }
    CHECK(mail_act(b, chunk[0], &err) == MAIL_E_STATE && err.code == MAIL_E_STATE);
    CHECK(mail_plan(b, chunk[0], NULL) == MAIL_E_STATE);
    CHECK(mail_plan_begin(b, &err) == MAIL_E_STATE);
    CHECK(mail_plan_step(b, NULL, &err) == MAIL_E_STATE);
    CHECK(mail_plan_end(b, chunk[0], &err) == MAIL_E_STATE);
    CHECK(mail_plan_within(b, chunk[0], 1.0, NULL, &err) == MAIL_E_STATE);
    small_goal(a, policy, 0);
    small_goal(b, policy, 0);
    CHECK(mail_act(b, chunk[0], &err) == MAIL_E_STATE && strstr(err.text, "robot 0: no observation") != NULL);
    CHECK(same(chunk[0], untouched, 2 * one));
    small_fill(bad, sizeof bad / sizeof *bad, 1, 1);
    for (t = 0; t < 12; t++) {
        CHECK(small_observe(a, policy, 2, 0, t, &err) == MAIL_OK && small_observe(b, policy, 2, 0, t, &err) == MAIL_OK);
        bad[S + 1] = t % 2 ? NAN : -INFINITY;
        CHECK(mail_observe_features(b, bad, 2 * S, &err) == MAIL_E_NUMBER);
        CHECK_MSG(strstr(err.text, "robot 1") != NULL && strstr(err.text, "feature 1 ") != NULL, "%s", err.text);
        CHECK(mail_observe_features(b, bad, S, &err) == MAIL_E_ARGUMENT);
        CHECK_MSG(strstr(err.text, "2 robots") != NULL, "%s", err.text);
        CHECK(mail_observe_features(b, NULL, 2 * S, &err) == MAIL_E_ARGUMENT);
        CHECK(mail_observe_features(b, bad, 0, NULL) == MAIL_E_ARGUMENT);
        CHECK(mail_observe(b, &image, 1, &err) == MAIL_E_STATE && strstr(err.text, "mail_observe_features") != NULL);
        CHECK(mail_observe(b, NULL, 1, &err) == MAIL_E_ARGUMENT);
        if (info->has_lang) {
            CHECK(mail_session_set_goal(b, bad, info->lang_dim + 1, &err) == MAIL_E_ARGUMENT);
            CHECK(mail_session_set_goal(b, bad, 0, &err) == MAIL_E_ARGUMENT);
            CHECK(mail_session_set_goal(b, NULL, info->lang_dim, &err) == MAIL_E_ARGUMENT);
            bad[3] = INFINITY;
            CHECK(mail_session_set_goal(b, bad, info->lang_dim, &err) == MAIL_E_NUMBER);
            CHECK_MSG(strstr(err.text, "value 3 ") != NULL, "%s", err.text);
            bad[3] = 0;
        } else {
            CHECK(mail_session_set_goal(b, bad, 512, &err) == MAIL_E_STATE && strstr(err.text, "without language") != NULL);
        }
        CHECK(mail_session_reset_robot(b, 2, &err) == MAIL_E_ARGUMENT);
        CHECK(mail_act(b, NULL, &err) == MAIL_E_ARGUMENT);
        CHECK(mail_plan_end(b, chunk[0], &err) == MAIL_E_STATE);
        CHECK(mail_act(a, actions[0], &err) == MAIL_OK && mail_act(b, actions[1], &err) == MAIL_OK);
        CHECK_MSG(same(actions[0], actions[1], 2 * D), "%s: a failed call left its mark (tick %u)", name, t);
    }
    CHECK(mail_plan_begin(b, &err) == MAIL_OK);
    while (mail_plan_step(b, &left, &err) == MAIL_OK && left > 0) {
        CHECK(mail_observe_features(b, bad, 2 * S, &err) == MAIL_E_NUMBER);
        CHECK(mail_plan_end(b, chunk[0], &err) == MAIL_E_STATE && same(chunk[0], untouched, 2 * one));
    }
    CHECK(mail_plan_end(b, chunk[1], &err) == MAIL_OK && mail_plan(a, chunk[0], &err) == MAIL_OK && same(chunk[0], chunk[1], 2 * one));
    /* NULL sessions */
    CHECK(mail_act(NULL, actions[0], &err) == MAIL_E_ARGUMENT && mail_plan(NULL, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_plan_begin(NULL, &err) == MAIL_E_ARGUMENT && mail_plan_step(NULL, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_plan_end(NULL, NULL, &err) == MAIL_E_ARGUMENT && mail_observe(NULL, &image, 1, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_observe_features(NULL, bad, 1, &err) == MAIL_E_ARGUMENT && mail_session_set_goal(NULL, bad, 1, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_session_reset_robot(NULL, 0, &err) == MAIL_E_ARGUMENT && mail_observe_due(NULL) == 0);
    mail_session_reset(NULL, 0);
    mail_plan_cancel(NULL);
    mail_session_set_noise(NULL, NULL, NULL);
    mail_session_free(NULL);
    mail_policy_free(NULL);
    CHECK(mail_policy_info(NULL) == NULL);
    mail_session_free(a);
    mail_session_free(b);
    mail_policy_free(policy);
}

static void refused(const mail_policy *policy, const mail_session_options *o, const char *named) {
    mail_session *s = (mail_session *)(uintptr_t)64;
    mail_error    err;
    CHECK(mail_session_size(policy, o) == 0);
    CHECK(mail_session_create(&s, policy, o, &err) == MAIL_E_ARGUMENT && s == NULL);
    CHECK_MSG(strstr(err.text, named) != NULL, "expected '%s' in: %s", named, err.text);
    CHECK(mail_session_create(&s, policy, o, NULL) == MAIL_E_ARGUMENT);
}

static double stopped(void *user) {
    (void)user;
    return 0;
}

static void ignored(void *user, const char *part, size_t layer, double seconds) {
    (void)user;
    (void)part;
    (void)layer;
    (void)seconds;
}

/* Infinite limits are none, dimension by dimension. */
static void test_infinite_limits(const char *name, int ensemble) {
    mail_policy         *policy = small_load(name);
    const mail_info     *info = mail_policy_info(policy);
    const size_t         D = info->action_dim;
    mail_session_options o = mail_session_options_init();
    mail_session        *s[2];
    mail_error           err;
    float                lo[MAIL_MAX_ACTION_DIM], hi[MAIL_MAX_ACTION_DIM], step[MAIL_MAX_ACTION_DIM], a[2][MAX_VALUES];
    size_t               i, j, k;
    int                  ok = 1;
    for (k = 0; k < 2; k++) {  /* all but dimension 0 free: as large finite limits or as infinite ones */
        for (j = 0; j < D; j++) {
            const float none = k == 0 ? 1e30f : INFINITY, middle = 0.5f * (info->action_min[0] + info->action_max[0]);
            lo[j]   = j == 0 ? middle - 0.01f : -none;
            hi[j]   = j == 0 ? middle + 0.01f : none;
            step[j] = j == 0 ? 0.001f : none;
        }
        o.ensemble        = ensemble;
        o.action_min      = lo;
        o.action_max      = hi;
        o.action_max_step = step;
        s[k] = small_session(policy, &o);
        small_goal(s[k], policy, 0);
    }
    for (i = 0; i < 12; i++) {
        for (k = 0; k < 2; k++) {
            CHECK(small_observe(s[k], policy, 1, 0, (unsigned)i, &err) == MAIL_OK);
            CHECK(i != 5 || mail_plan(s[k], a[k], &err) == MAIL_OK);
        }
        ok = ok && (i != 5 || same(a[0], a[1], info->act_seq * D));
        CHECK(mail_act(s[0], a[0], &err) == MAIL_OK && mail_act(s[1], a[1], &err) == MAIL_OK);
        ok = ok && same(a[0], a[1], D);
    }
    CHECK_MSG(ok, "%s, ensemble %d: infinite limits", name, ensemble);
    mail_session_free(s[0]);
    mail_session_free(s[1]);
    mail_policy_free(policy);
}

static void test_options(void) {
    mail_policy         *policy = small_load("d_ma_ddpm_h5"), *bc = small_load("d_tr_bc_h5");
    mail_session_options o = mail_session_options_init();
    mail_session        *s;
    mail_error           err;
    float                one[2] = { 1, 1 }, two[2] = { 2, 0 }, nan[2] = { 0, NAN }, nan2[2] = { NAN, 1 };
    float                inf[2] = { INFINITY, 0 }, low[2] = { 0, -INFINITY };
    size_t               size = mail_session_size(policy, NULL);
    unsigned char       *memory = (unsigned char *)malloc(size + 128), *aligned = memory + (64 - (uintptr_t)memory % 64);
#define REFUSED(member, value, named)                \
    do {                                             \
        o = mail_session_options_init();             \
        o.member = value;                            \
        refused(policy, &o, named);                  \
    } while (0)
    REFUSED(batch, 0, "batch is 0, expected 1 to 256");
    REFUSED(batch, MAIL_MAX_BATCH + 1, "batch is 257");
    REFUSED(n_action_steps, 4, "a chunk has 3 actions");
    REFUSED(sampler, (mail_sampler)7, "sampler 7");
    REFUSED(n_steps, 9, "n_steps is 9");
    REFUSED(n_steps, 4, "MAIL_SAMPLER_DDIM");
    REFUSED(action_min, nan, "dimension 1");
    REFUSED(action_min, inf, "dimension 0");   /* +inf and -inf the other way round would let nothing through */
    REFUSED(action_max, low, "dimension 1");
    REFUSED(action_max_step, nan2, "dimension 0");
    REFUSED(parallel.n_threads, 4, "parallel.run is NULL");
    REFUSED(profile.now, stopped, "profile.add");
    REFUSED(profile.add, ignored, "profile.now");
    REFUSED(action_max_step, two, "dimension 1");
    REFUSED(action_max_step, low, "dimension 0");
    o = mail_session_options_init();
    o.action_min = one;
    o.action_max = two;
    refused(policy, &o, "dimension 1");
    o = mail_session_options_init();
    o.ensemble = 1;
    o.ensemble_decay = NAN;
    refused(policy, &o, "ensemble_decay");
    o.ensemble_decay = -1;
    refused(policy, &o, "ensemble_decay");
    CHECK(mail_session_size(NULL, NULL) == 0);
    CHECK(mail_session_create(&s, NULL, NULL, &err) == MAIL_E_ARGUMENT && mail_session_create(NULL, policy, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_session_init(NULL, policy, NULL, aligned, size, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_session_init(&s, NULL, NULL, aligned, size, &err) == MAIL_E_ARGUMENT && s == NULL);
    CHECK(mail_session_init(&s, policy, NULL, NULL, size, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_session_init(&s, policy, NULL, aligned + 4, size, &err) == MAIL_E_ARGUMENT && strstr(err.text, "aligned to 64") != NULL);
    CHECK(mail_session_init(&s, policy, NULL, aligned, size - 1, &err) == MAIL_E_ARGUMENT && s == NULL);
    CHECK(mail_session_init(&s, policy, NULL, aligned, size, &err) == MAIL_OK && s != NULL);
    mail_session_free(s);  /* nothing: the memory is the caller's */
    o = mail_session_options_init();
    o.n_steps = 500;  /* BC has no steps: not looked at */
    CHECK(mail_session_size(bc, &o) > 0);
    o = mail_session_options_init();
    o.n_steps = 8;  /* all of them need no DDIM */
    CHECK(mail_session_size(policy, &o) > 0);
    free(memory);
    mail_policy_free(policy);
    mail_policy_free(bc);
}

/* The largest that all limits allow together. No memory is touched but what was promised, so the promise must not wrap around where
   sizes have 32 bits: with an ensemble of 256 robots, chunks of 256 and 64 dimensions its actions alone are 2^32 bytes. */
static void test_largest(void) {
    static const char *const names[] = { "d_ma_ddpm_h5", "ed_ma_ddpm_lang_h5", "d_tr_ddpm_h1", "ed_tr_ddpm_h5", "d_tr_bc_h5", "ed_ma_bc_h5" };
    static const size_t batches[] = { 1, 16, MAIL_MAX_BATCH }, models[] = { 16, 512, (size_t)1 << 20 };
    const double every = (double)(SIZE_MAX - 4096);
    size_t       i, j, k;
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        mail_policy *policy = small_load(names[i]);
        mailp_config was = policy->cfg;
        const size_t dp = policy->dp, t = policy->max_t;
        for (j = 0; j < 3; j++) {
            for (k = 0; k < 3; k++) {
                mail_session_options o = mail_session_options_init();
                double               least, size;
                o.batch    = batches[j];
                o.ensemble = 1;
                policy->cfg.act_seq    = MAIL_MAX_CHUNK;
                policy->cfg.obs_seq    = MAIL_MAX_HISTORY;
                policy->cfg.action_dim = MAIL_MAX_ACTION_DIM;
                policy->max_t          = MAIL_MAX_HISTORY + 1;
                policy->dp             = models[k];
                least = (double)o.batch * ((double)MAIL_MAX_CHUNK * MAIL_MAX_CHUNK * MAIL_MAX_ACTION_DIM + (double)policy->max_t * (double)models[k]) * 4;
                size  = (double)mail_session_size(policy, &o);
                CHECK_MSG(size >= (least < every ? least : every), "%s, batch %lu: %.0f bytes, at least %.0f are needed", names[i], (unsigned long)o.batch,
                          size, least);
                policy->cfg   = was;
                policy->dp    = dp;
                policy->max_t = t;
            }
        }
        mail_policy_free(policy);
    }
    CHECK(mailp_alloc(NULL, SIZE_MAX) == NULL && mailp_alloc(NULL, SIZE_MAX / 2 + 1) == NULL);
    CHECK(mailp_bytes((uint64_t)1 << 62, 4) == SIZE_MAX && mailp_bytes(5, 4) == 20 && mailp_bytes(0, 8) == 0);
}

static void test_loading(void) {
    mail_policy *policy = (mail_policy *)(uintptr_t)64;
    mail_options o = mail_options_init();
    mail_error   err;
    CHECK(mail_policy_load(&policy, "tests/golden/cases/no/such.safetensors", NULL, &err) == MAIL_E_IO && policy == NULL);
    CHECK(strstr(err.text, "no/such.safetensors") != NULL);
    CHECK(mail_policy_load(NULL, "x", NULL, &err) == MAIL_E_ARGUMENT && mail_policy_load(&policy, NULL, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_policy_load_memory(&policy, NULL, 5, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_policy_load_memory(&policy, "", 0, NULL, &err) == MAIL_E_FORMAT);
    CHECK(mail_policy_load_memory(NULL, "", 0, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_policy_save(NULL, "x", MAIL_F32, &err) == MAIL_E_ARGUMENT);
    o.isa = "quantum";
    CHECK(small_load_with(&policy, "d_ma_ddpm_h1", &o, &err) == MAIL_E_UNSUPPORTED && strstr(err.text, "quantum") != NULL);
    o = mail_options_init();
    o.drop_source = 1;
    CHECK(small_load_with(&policy, "d_ma_ddpm_h1", &o, &err) == MAIL_OK);
    CHECK(mail_policy_save(policy, "build/never.safetensors", MAIL_F32, &err) == MAIL_E_STATE && strstr(err.text, "drop_source") != NULL);
    mail_policy_free(policy);
}

/* Acting never reads the checkpoint: it may be cut to nothing, in place, once it is loaded. */
static void test_cut_file(void) {
#if defined(MAILP_POSIX)
    mail_policy  *made = small_load("d_ma_ddpm_h5"), *policy;
    mail_session *session;
    mail_error    err;
    float         expected[MAX_VALUES], found[MAX_VALUES];
    char          path[64];
    FILE         *f;
    (void)snprintf(path, sizeof path, "build/cut.%ld.safetensors", (long)getpid());
    CHECK(mail_policy_save(made, path, MAIL_F32, &err) == MAIL_OK && mail_policy_load(&policy, path, NULL, &err) == MAIL_OK);
    CHECK((f = fopen(path, "wb")) != NULL && fclose(f) == 0);
    session = small_session(made, NULL);
    CHECK(small_observe(session, made, 1, 0, 0, &err) == MAIL_OK && mail_act(session, expected, &err) == MAIL_OK);
    mail_session_free(session);
    session = small_session(policy, NULL);
    CHECK(small_observe(session, policy, 1, 0, 0, &err) == MAIL_OK && mail_act(session, found, &err) == MAIL_OK);
    CHECK(memcmp(expected, found, mail_policy_info(made)->action_dim * sizeof *found) == 0);
    mail_session_free(session);
    mail_policy_free(policy);
    mail_policy_free(made);
    (void)remove(path);
#else
    test_skipped++;
#endif
}

int main(void) {
    static const char *const others[] = { "d_ma_ddpm_h1", "d_ma_bc_h1", "odd_d_ma", "odd_d_ma_bc", "odd_d_tr", "odd_ed_ma", "odd_ed_tr",
                                          "cosine50_ed_tr", "linear50_d_tr", "dx3_vp_d_ma", "dx10_ed_ma", "long_d_ma", "roll_chunk2_ed_ma_bc",
                                          "noscale_d_ma", "noclip_ed_tr", "x0_d_tr", "x0_ed_ma", "steps1_d_ma" };
    size_t i;
    small_unused();
    for (i = 0; i < SMALL_EACH; i++) {
        test_rollout(small_each[i], 0, 0);
        test_rollout(small_each[i], 2, 0);
        test_seeds(small_each[i]);
        test_batch(small_each[i]);
        test_spread(small_each[i]);
        test_errors(small_each[i]);
        test_limits(small_each[i], 0);
        test_limits(small_each[i], 1);
        if (strstr(small_each[i], "lang") != NULL) {
            test_goal(small_each[i]);
        }
        if (strstr(small_each[i], "ddpm") != NULL) {
            test_within(small_each[i]);
            test_deadline(small_each[i]);
            test_ddim(small_each[i], 0);
            test_ddim(small_each[i], 3);
            test_ddim(small_each[i], 1);
        }
    }
    for (i = 0; i < sizeof others / sizeof *others; i++) {
        test_rollout(others[i], 0, 0);
        test_batch(others[i]);
        test_spread(others[i]);
        if (strstr(others[i], "bc") == NULL) {
            test_ddim(others[i], 0);
        }
    }
    test_rollout("d_ma_ddpm_h5", 1, 0);
    test_rollout("long_d_ma", 7, 0);
    test_rollout("d_ma_ddpm_h1", 0, 1);   /* 3 actions, one frame: two of three can be skipped */
    test_rollout("long_d_ma", 0, 1);      /* 16 actions, ten frames */
    test_rollout("odd_d_tr", 0, 1);       /* 6 and 4 */
    test_rollout("d_tr_ddpm_h5", 0, 1);   /* 3 and 5: none */
    test_rollout("long_d_ma", 4, 1);
    test_ensemble("d_ma_ddpm_h5", 0.01f);
    test_ensemble("long_d_ma", 0.0f);
    test_ensemble("odd_ed_ma", 0.5f);
    test_ensemble("ed_tr_bc_lang_h5", 0.1f);
    for (i = 1; i <= 4; i++) {
        test_spread_ensemble("long_d_ma", (unsigned)i * 3 - 2);
        test_spread_ensemble("d_ma_ddpm_h5", (unsigned)i - 1);
        test_spread_ensemble("ed_tr_bc_h5", (unsigned)i);
    }
    test_align();
    test_align_limits();
    test_given_noise();
    test_within("cosine50_ed_tr");
    test_within("dx3_vp_d_ma");
    test_deadline("cosine50_ed_tr");
    test_deadline("linear50_d_tr");
    test_ddim("cosine50_ed_tr", 20);
    test_ddim("linear50_d_tr", 33);
    test_ddim("linear50_d_tr", 7);
    test_trajectory();
    test_options();
    test_infinite_limits("d_ma_ddpm_h5", 0);
    test_infinite_limits("long_d_ma", 1);
    test_largest();
    test_loading();
    test_cut_file();
    return test_end("test_session");
}
