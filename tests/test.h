/* A few macros for the tests: each test file is a program whose exit status is its verdict and whose last line is
   "N passed, N failed, N skipped". */
#ifndef TEST_H
#define TEST_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int test_passed, test_failed, test_skipped;

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (condition) {                                                            \
            test_passed++;                                                          \
        } else {                                                                    \
            test_failed++;                                                          \
            printf("%s:%d: FAILED: %s\n", __FILE__, __LINE__, #condition);          \
        }                                                                           \
    } while (0)

/* The same with what was found: CHECK_MSG(n == 3, "n is %d", n) */
#define CHECK_MSG(condition, ...)                                                   \
    do {                                                                            \
        if (condition) {                                                            \
            test_passed++;                                                          \
        } else {                                                                    \
            test_failed++;                                                          \
            printf("%s:%d: FAILED: %s: ", __FILE__, __LINE__, #condition);          \
            printf(__VA_ARGS__);                                                    \
            printf("\n");                                                           \
        }                                                                           \
    } while (0)

/* Largest |a[i] - b[i]| against tol; prints where it is. NaN anywhere fails. */
static void test_close(const char *what, const float *a, const double *b, size_t n, double tol) {
    size_t i, worst = 0;
    double most = -1;
    for (i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d <= most)) {
            most  = d;
            worst = i;
            if (d != d) {
                break;
            }
        }
    }
    if (n == 0 || most <= tol) {
        test_passed++;
    } else {
        test_failed++;
        printf("FAILED: %s: [%lu] is %.9g, expected %.17g: off by %.3g, allowed %.3g\n", what, (unsigned long)worst,
               (double)a[worst], b[worst], most, tol);
    }
}

/* splitmix64, for test data */
static unsigned long long test_seed = 1;
static double test_uniform(void) {
    unsigned long long z = (test_seed += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

static int test_end(const char *name) {
    (void)test_close;
    (void)test_uniform;
    printf("%s: %d passed, %d failed, %d skipped\n", name, test_passed, test_failed, test_skipped);
    return test_failed != 0;
}

#endif
