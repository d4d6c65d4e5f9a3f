/* The sampler's parts: noise schedules, the reverse step and the random numbers, against the table of the specification, a
   double implementation of the published formulas and published vectors. */
#define MAIL_IMPLEMENTATION
#include "../mail.h"
#include "test.h"

static float memory[MAIL_DDPM_TABLES * MAIL_MAX_TIMESTEPS];

static double relative(double got, double want) {
    return fabs(got - want) / (fabs(want) > 1e-30 ? fabs(want) : 1e-30);
}

/* cosine, 16 steps: as PyTorch prints them (nine digits tell every float32 apart) */
static void test_table(void) {
    static const double table[16][7] = {  /* beta, alpha-bar, recip, recipm1, coef1, coef2, sigma */
        { 0.0118676666, 0.988132358, 1.00598717, 0.109591134, 1.00000203, 0, 1.00000064e-10 },
        { 0.030691985, 0.95780462, 1.02178979, 0.209891096, 0.723048866, 0.276904792, 0.0929099619 },
        { 0.0497394875, 0.910163939, 1.04819047, 0.314170569, 0.541862488, 0.457862973, 0.15284729 },
        { 0.0693849996, 0.847012222, 1.08656359, 0.424994767, 0.432681829, 0.566472709, 0.201850474 },
        { 0.0900507718, 0.770738125, 1.1390599, 0.545396686, 0.361493468, 0.63655138, 0.245135486 },
        { 0.112245008, 0.684226573, 1.20892692, 0.679341018, 0.312064886, 0.684073567, 0.285470784 },
        { 0.136616603, 0.59074986, 1.30106258, 0.832324326, 0.276130646, 0.716949522, 0.324672192 },
        { 0.164039433, 0.493843615, 1.42300129, 1.01238954, 0.249095201, 0.73925966, 0.364188462 },
        { 0.19575119, 0.397173136, 1.58675575, 1.23198771, 0.22819522, 0.752986789, 0.405413568 },
        { 0.233596444, 0.304394901, 1.81251371, 1.51168978, 0.211637869, 0.758679926, 0.449933201 },
        { 0.280480266, 0.219018146, 2.13678074, 1.88834095, 0.198143616, 0.755515158, 0.499818176 },
        { 0.341277808, 0.144272104, 2.63274503, 2.43543577, 0.186643288, 0.740723908, 0.558093071 },
        { 0.424809128, 0.0829840004, 3.47138524, 3.32423162, 0.17595762, 0.707725406, 0.629616797 },
        { 0.548443615, 0.0374719538, 5.16591024, 5.06819773, 0.164140508, 0.640205622, 0.722849309 },
        { 0.74761343, 0.0094574187, 10.282855, 10.2341146, 0.146102324, 0.488172561, 0.852331758 },
        { 0.999000013, 9.45729698e-06, 325.1745, 325.172974, 0.0971529409, 0.0313238055, 0.99476701 },
    };
    mail_ddpm  d;
    mail_error err;
    size_t     i, j;
    CHECK(mail_ddpm_schedule(&d, MAIL_COSINE, 16, memory, &err) == MAIL_OK && d.n_timesteps == 16);
    for (i = 0; i < 16; i++) {
        const float got[7] = { d.betas[i], d.alphas_cumprod[i], d.sqrt_recip_alphas_cumprod[i], d.sqrt_recipm1_alphas_cumprod[i],
                               d.posterior_mean_coef1[i], d.posterior_mean_coef2[i], d.posterior_std[i] };
        for (j = 0; j < 7; j++) {
            /* a unit in the last place: libm's cos, exp and log may differ from PyTorch's; what is printed has nine digits */
            CHECK_MSG(relative((double)got[j], table[i][j]) <= 1.2e-7 + 1e-8 || (double)got[j] == table[i][j], "step %d, column %d: %.9g, expected %.9g",
                      (int)i, (int)j, (double)got[j], table[i][j]);
        }
        CHECK(d.alphas_cumprod_prev[i] == (i == 0 ? 1.0f : d.alphas_cumprod[i - 1]));
    }
    CHECK(d.posterior_mean_coef2[0] == 0.0f && d.posterior_variance[0] == 0.0f);
}

/* The same formulas in double throughout. float32 has to agree up to what cancels in 1 - alpha-bar. */
static void test_schedule(mail_schedule schedule, size_t T) {
    const double pi = 3.14159265358979323846;
    mail_ddpm    d;
    mail_error   err;
    double       bar = 1, prev, worst = 0;
    size_t       i;
    CHECK(mail_ddpm_schedule(&d, schedule, T, memory, &err) == MAIL_OK);
    for (i = 0; i < T; i++) {
        const double n = (double)T, j = (double)i + 1;
        double       beta, a, e, slack, variance;
        if (schedule == MAIL_COSINE) {
            const double up = cos((j / n + 0.008) / 1.008 * pi / 2), down = cos(((j - 1) / n + 0.008) / 1.008 * pi / 2);
            beta = 1 - up * up / (down * down);
            beta = beta > 0.999 ? 0.999 : beta;
        } else if (schedule == MAIL_LINEAR) {
            beta = T == 1 ? 1e-4 : 1e-4 + (2e-2 - 1e-4) * (double)i / (n - 1);
        } else {
            beta = 1 - exp(-0.1 / n - 0.5 * 9.9 * (2 * j - 1) / (n * n));
        }
        prev = bar;
        bar *= 1 - beta;
        a = 1 - beta;
        /* rounding of a beta moves alpha-bar by 6e-8 each (adding up over the steps), and 1 - alpha-bar by that over its own size */
        slack = 6e-8 * ((double)i + 4);
        e = relative((double)d.betas[i], beta) / 1e-6;
        worst = e > worst ? e : worst;
        e = fabs((double)d.alphas_cumprod[i] - bar) / slack;
        worst = e > worst ? e : worst;
        e = fabs((double)d.sqrt_recip_alphas_cumprod[i] - sqrt(1 / bar)) / (slack * (1 + pow(bar, -1.5)));
        worst = e > worst ? e : worst;
        e = fabs((double)d.sqrt_recipm1_alphas_cumprod[i] - sqrt(1 / bar - 1)) / (slack * (1 + pow(bar, -1.5)) * (1 + 1 / sqrt(1 - bar)));
        worst = e > worst ? e : worst;
        slack *= 4 / (1 - bar);
        variance = beta * (1 - prev) / (1 - bar);
        e = fabs((double)d.posterior_mean_coef1[i] - beta * sqrt(prev) / (1 - bar)) / slack;
        worst = e > worst ? e : worst;
        e = fabs((double)d.posterior_mean_coef2[i] - (1 - prev) * sqrt(a) / (1 - bar)) / slack;
        worst = e > worst ? e : worst;
        e = fabs((double)d.posterior_variance[i] - variance) / slack;
        worst = e > worst ? e : worst;
        e = fabs((double)d.posterior_std[i] - sqrt(variance > 1e-20 ? variance : 1e-20)) / (slack / (variance > 1e-6 ? sqrt(variance) : 1));
        worst = e > worst ? e : worst;
    }
    CHECK_MSG(worst <= 1, "schedule %d, %d steps: %.3g of what rounding explains", (int)schedule, (int)T, worst);
}

/* x_{t-1} = coef1 x0 + coef2 x_t + std noise, x0 = clamp(recip x_t - recipm1 output) */
static void test_step(void) {
    mail_ddpm d;
    float     x[12], before[12], x_start[12], output[12], noise[12], lo[3] = { -1, -0.5f, 0 }, hi[3] = { 1, 0.5f, 0.25f };
    size_t    t, i;
    int       epsilon, clamp;
    CHECK(mail_ddpm_schedule(&d, MAIL_COSINE, 16, memory, NULL) == MAIL_OK);
    for (epsilon = 0; epsilon < 2; epsilon++) {
        for (clamp = 0; clamp < 2; clamp++) {
            for (t = 0; t < 16; t++) {
                double worst = 0;
                for (i = 0; i < 12; i++) {
                    before[i] = x[i] = (float)(4 * test_uniform() - 2);
                    output[i] = (float)(4 * test_uniform() - 2);
                    noise[i] = (float)(4 * test_uniform() - 2);
                }
                mail_ddpm_step(x, x_start, &d, t, output, t == 0 ? NULL : noise, clamp ? lo : NULL, clamp ? hi : NULL, 12, 3, epsilon);
                for (i = 0; i < 12; i++) {
                    const double recip = (double)d.sqrt_recip_alphas_cumprod[t], recipm1 = (double)d.sqrt_recipm1_alphas_cumprod[t];
                    double       x0 = epsilon ? recip * (double)before[i] - recipm1 * (double)output[i] : (double)output[i], want, scale, e;
                    if (clamp) {
                        x0 = x0 < (double)lo[i % 3] ? (double)lo[i % 3] : x0 > (double)hi[i % 3] ? (double)hi[i % 3] : x0;
                    }
                    want = (double)d.posterior_mean_coef1[t] * x0 + (double)d.posterior_mean_coef2[t] * (double)before[i] +
                           (t == 0 ? 0 : (double)d.posterior_std[t] * (double)noise[i]);
                    scale = 2 + 2 * recip * (fabs((double)before[i]) + fabs((double)output[i]));
                    e = fabs((double)x_start[i] - x0) / scale;
                    worst = e > worst ? e : worst;
                    e = fabs((double)x[i] - want) / scale;
                    worst = e > worst ? e : worst;
                }
                CHECK_MSG(worst <= 1.2e-7, "step %d, epsilon %d, clamp %d: off by %.3g", (int)t, epsilon, clamp, worst);
                memcpy(x, before, sizeof x);
                mail_ddpm_step(x, NULL, &d, t, output, noise, clamp ? lo : NULL, clamp ? hi : NULL, 12, 3, epsilon);  /* x_start is optional */
            }
        }
    }
}

static void test_arguments(void) {
    mail_ddpm  d;
    mail_error err;
    CHECK(mail_ddpm_schedule(NULL, MAIL_COSINE, 16, memory, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_ddpm_schedule(&d, MAIL_COSINE, 16, NULL, &err) == MAIL_E_ARGUMENT && strstr(err.text, "NULL") != NULL);
    CHECK(mail_ddpm_schedule(&d, MAIL_COSINE, 0, memory, &err) == MAIL_E_CONFIG && strstr(err.text, "1 to 1000") != NULL);
    CHECK(mail_ddpm_schedule(&d, MAIL_COSINE, MAIL_MAX_TIMESTEPS + 1, memory, &err) == MAIL_E_CONFIG && strstr(err.text, "1001") != NULL);
    CHECK(mail_ddpm_schedule(&d, (mail_schedule)9, 16, memory, &err) == MAIL_E_ARGUMENT && strstr(err.text, "cosine, linear or vp") != NULL);
}

/* Philox 4x32-10: the three known answers that its authors publish with Random123 */
static void test_philox(void) {
    static const uint32_t counter[3][4] = { { 0, 0, 0, 0 },
                                            { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff },
                                            { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 } };
    static const uint32_t key[3][2] = { { 0, 0 }, { 0xffffffff, 0xffffffff }, { 0xa4093822, 0x299f31d0 } };
    static const uint32_t want[3][4] = { { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 },
                                         { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd },
                                         { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } };
    size_t i;
    for (i = 0; i < 3; i++) {
        uint32_t out[4];
        mailp_philox(out, counter[i][0], counter[i][1], counter[i][2], counter[i][3], (uint64_t)key[i][1] << 32 | key[i][0]);
        CHECK_MSG(memcmp(out, want[i], sizeof out) == 0, "vector %d: %08lx %08lx %08lx %08lx", (int)i, (unsigned long)out[0], (unsigned long)out[1],
                  (unsigned long)out[2], (unsigned long)out[3]);
    }
}

/* mail_noise: Box-Muller on Philox words of counter (i / 4, call, plan, robot) and key seed; moments of a normal; streams apart */
static void test_noise(void) {
    const size_t  n = 400000;
    float        *a = (float *)malloc(n * sizeof(float)), *b = (float *)malloc(n * sizeof(float));
    double        sum = 0, square = 0, third = 0, fourth = 0, cross = 0, lag = 0;
    size_t        i, beyond = 0;
    unsigned      which;
    uint32_t      word[4];
    if (a == NULL || b == NULL) {
        exit(2);
    }
    mail_noise(a, n, 42, 1, 2, 3);
    mailp_philox(word, 5, 3, 2, 1, 42);
    for (i = 0; i < 4; i++) {
        const double u = ((double)word[i & ~(size_t)1] + 0.5) / 4294967296.0, angle = 2 * 3.14159265358979323846 * (double)word[i | 1] / 4294967296.0;
        const double want = sqrt(-2 * log(u)) * (i % 2 ? sin(angle) : cos(angle));
        CHECK(fabs((double)a[20 + i] - want) <= 1e-7 * (1 + fabs(want)));
    }
    for (i = 0; i < n; i++) {
        const double v = (double)a[i];
        sum += v;
        square += v * v;
        third += v * v * v;
        fourth += v * v * v * v;
        beyond += fabs(v) > 3;
        lag += i ? v * (double)a[i - 1] : 0;
    }
    /* five standard errors of each moment: 1, sqrt 2, sqrt 15, sqrt 96 over sqrt n = 632 */
    CHECK_MSG(fabs(sum / (double)n) < 5 / 632.0, "mean %g", sum / (double)n);
    CHECK_MSG(fabs(square / (double)n - 1) < 5 * 1.4143 / 632, "variance %g", square / (double)n);
    CHECK_MSG(fabs(third / (double)n) < 5 * 3.873 / 632, "third moment %g", third / (double)n);
    CHECK_MSG(fabs(fourth / (double)n - 3) < 5 * 9.798 / 632, "fourth moment %g", fourth / (double)n);
    CHECK_MSG(fabs(lag / (double)n) < 5 / 632.0, "neighbours correlate: %g", lag / (double)n);
    CHECK_MSG(beyond > 935 && beyond < 1225, "%d beyond three sigma, expected 1080", (int)beyond);  /* +- 4.4 sqrt(1080) */
    for (which = 0; which < 4; which++) {
        mail_noise(b, n, which == 0 ? 43 : 42, which == 1 ? 2 : 1, which == 2 ? 3 : 2, which == 3 ? 4 : 3);
        for (cross = 0, i = 0; i < n; i++) {
            cross += (double)a[i] * (double)b[i];
        }
        CHECK_MSG(fabs(cross / (double)n) < 5 / 632.0, "stream %u correlates: %g", which, cross / (double)n);
    }
    mail_noise(b, n, 42 + (1ull << 32), 1, 2, 3);  /* all 64 bits of the seed count */
    CHECK(memcmp(a, b, n * sizeof(float)) != 0);
    for (i = 0; i < 9; i++) {  /* a prefix is a prefix, and nothing is written behind it */
        b[i] = 777;
        mail_noise(b, i, 42, 1, 2, 3);
        CHECK(memcmp(a, b, i * sizeof(float)) == 0 && b[i] == 777);
    }
    free(a);
    free(b);
}

int main(void) {
    static const size_t steps[] = { 1, 2, 4, 8, 16, 50, 100, 1000 };
    size_t i;
    test_table();
    for (i = 0; i < sizeof steps / sizeof *steps; i++) {
        test_schedule(MAIL_COSINE, steps[i]);
        test_schedule(MAIL_LINEAR, steps[i]);
        test_schedule(MAIL_VP, steps[i]);
    }
    test_step();
    test_arguments();
    test_philox();
    test_noise();
    return test_end("test_sampler");
}
