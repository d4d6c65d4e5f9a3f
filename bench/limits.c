/* What this machine can do at best, as JSON: multiply-add rates and read bandwidth, on 1 and on 2 threads at once.
   Floors in bench/peers/floors.py follow from it.

       cc -O2 -pthread bench/limits.c -o build/limits && build/limits

   f32_gflops   float32 multiply-adds, the widest registers there are (a multiply-add counts 2)
   int16_gops   the same with integers of 16 bits, by pairs into sums of 32: VNNI, or AVX2's product and addition; 0 if there is neither
   int8_gops    the same with integers of 8 bits, by VNNI, or by AVX2 with two products summed in 16 bits; 0 if there is neither
   read_gbs     read bandwidth over a working set of so many MiB, shared out over the threads

   Each number is the best of several tries: a floor must not be above what can be reached. */

#define _DEFAULT_SOURCE  /* madvise, posix_memalign */

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__linux__)
#  include <sys/mman.h>
#endif
#if defined(__x86_64__)
#  include <immintrin.h>
#endif

#define ACCUMULATORS 12  /* cover a latency of 4 to 6 cycles at two a cycle */
#define TRIES        15
#define MAX_THREADS  2

typedef double (*kernel)(long n);  /* returns the operations done */

static double now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The body of every rate: ACCUMULATORS independent chains of OP, kept alive by an empty asm that claims to change them. */
#define RATE_KERNEL(name, attribute, vector, constraint, zero, op, operations)                        \
    attribute static double name(long n) {                                                            \
        vector a[ACCUMULATORS];                                                                        \
        long   r;                                                                                      \
        int    i, u;                                                                                   \
        for (i = 0; i < ACCUMULATORS; i++) {                                                           \
            a[i] = zero;                                                                               \
        }                                                                                              \
        for (r = 0; r < n; r++) {                                                                      \
            for (u = 0; u < 8; u++) {                                                                  \
                vector a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3], a4 = a[4], a5 = a[5];               \
                vector a6 = a[6], a7 = a[7], a8 = a[8], a9 = a[9], a10 = a[10], a11 = a[11];           \
                op(a0); op(a1); op(a2); op(a3); op(a4); op(a5);                                        \
                op(a6); op(a7); op(a8); op(a9); op(a10); op(a11);                                      \
                __asm__ volatile("" : constraint(a0), constraint(a1), constraint(a2), constraint(a3),  \
                                      constraint(a4), constraint(a5), constraint(a6), constraint(a7),  \
                                      constraint(a8), constraint(a9), constraint(a10), constraint(a11)); \
                a[0] = a0; a[1] = a1; a[2] = a2; a[3] = a3; a[4] = a4; a[5] = a5;                      \
                a[6] = a6; a[7] = a7; a[8] = a8; a[9] = a9; a[10] = a10; a[11] = a11;                  \
            }                                                                                          \
        }                                                                                              \
        return (double)n * 8 * ACCUMULATORS * (operations);                                            \
    }

#if defined(__x86_64__)
#  define TARGET(t)  __attribute__((target(t), optimize("unroll-loops")))
#  if defined(__clang__)
#    undef TARGET
#    define TARGET(t) __attribute__((target(t)))
#  endif
#  define FMA512(a)  a = _mm512_fmadd_ps(a, _mm512_set1_ps(0.999f), _mm512_set1_ps(0.001f))
#  define FMA256(a)  a = _mm256_fmadd_ps(a, _mm256_set1_ps(0.999f), _mm256_set1_ps(0.001f))
#  define I16512(a)  a = _mm512_dpwssd_epi32(a, _mm512_set1_epi16(1), _mm512_set1_epi16(2))
#  define I16256(a)  a = _mm256_add_epi32(a, _mm256_madd_epi16(a, _mm256_set1_epi16(1)))
#  define I8512(a)   a = _mm512_dpbusd_epi32(a, _mm512_set1_epi8(1), _mm512_set1_epi8(2))
/* in assembly: compilers mix the chains until they run out of registers */
#  define I8256(a)                                                                                                               \
      { __m256i t, u;                                                                                                            \
        __asm__("vpmaddubsw %3, %0, %1\n\tvpmaddubsw %0, %3, %2\n\tvpaddw %2, %1, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0" \
                : "+x"(a), "=&x"(t), "=&x"(u) : "x"(_mm256_set1_epi8(1)), "x"(_mm256_set1_epi16(1))); }
RATE_KERNEL(f32_512, TARGET("avx512f"), __m512, "+v", _mm512_set1_ps(0.1f), FMA512, 32)
RATE_KERNEL(f32_256, TARGET("avx2,fma"), __m256, "+x", _mm256_set1_ps(0.1f), FMA256, 16)
RATE_KERNEL(int16_512, TARGET("avx512f,avx512vnni"), __m512i, "+v", _mm512_set1_epi32(1), I16512, 64)
RATE_KERNEL(int16_256, TARGET("avx2"), __m256i, "+x", _mm256_set1_epi32(1), I16256, 32)
RATE_KERNEL(int8_512, TARGET("avx512f,avx512vnni"), __m512i, "+v", _mm512_set1_epi32(1), I8512, 128)
RATE_KERNEL(int8_256, TARGET("avx2"), __m256i, "+x", _mm256_set1_epi32(1), I8256, 128)
#else
typedef float v4 __attribute__((vector_size(16)));
#  define FMA128(a)  a = a * 0.999f + 0.001f
#  if defined(__aarch64__)
RATE_KERNEL(f32_128, , v4, "+w", ((v4){ 0.1f, 0.1f, 0.1f, 0.1f }), FMA128, 8)
#  else
RATE_KERNEL(f32_128, , v4, "+m", ((v4){ 0.1f, 0.1f, 0.1f, 0.1f }), FMA128, 8)
#  endif
#endif

static uint64_t read_all(const uint64_t *p, size_t words, long times) {
    uint64_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    long     r;
    size_t   i;
    for (r = 0; r < times; r++) {
        for (i = 0; i + 32 <= words; i += 32) {
            size_t k;
            for (k = 0; k < 32; k += 4) {
                s0 |= p[i + k];
                s1 |= p[i + k + 1];
                s2 |= p[i + k + 2];
                s3 |= p[i + k + 3];
            }
        }
        __asm__ volatile("" : "+r"(s0), "+r"(s1), "+r"(s2), "+r"(s3) : : "memory");
    }
    return s0 | s1 | s2 | s3;
}

#if defined(__x86_64__)
TARGET("avx2") static uint64_t read_all_256(const uint64_t *p, size_t words, long times) {
    __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
    long    r;
    size_t  i;
    for (r = 0; r < times; r++) {
        const __m256i *v = (const __m256i *)(const void *)p;
        for (i = 0; i + 8 <= words / 4; i += 8) {
            s0 = _mm256_or_si256(s0, _mm256_loadu_si256(v + i));
            s1 = _mm256_or_si256(s1, _mm256_loadu_si256(v + i + 1));
            s2 = _mm256_or_si256(s2, _mm256_loadu_si256(v + i + 2));
            s3 = _mm256_or_si256(s3, _mm256_loadu_si256(v + i + 3));
            s0 = _mm256_or_si256(s0, _mm256_loadu_si256(v + i + 4));
            s1 = _mm256_or_si256(s1, _mm256_loadu_si256(v + i + 5));
            s2 = _mm256_or_si256(s2, _mm256_loadu_si256(v + i + 6));
            s3 = _mm256_or_si256(s3, _mm256_loadu_si256(v + i + 7));
        }
        __asm__ volatile("" : "+x"(s0), "+x"(s1), "+x"(s2), "+x"(s3) : : "memory");
    }
    s0 = _mm256_or_si256(_mm256_or_si256(s0, s1), _mm256_or_si256(s2, s3));
    return (uint64_t)_mm256_extract_epi64(s0, 0) | (uint64_t)_mm256_extract_epi64(s0, 1);
}
#endif

typedef struct job {
    kernel             rate;   /* or NULL: read */
    uint64_t          *buffer;
    size_t             bytes;
    long               n;
    double             work, start, end;
    pthread_barrier_t *barrier;
} job;

static volatile uint64_t sink;

static double job_work(job *j) {
    uint64_t (*reader)(const uint64_t *, size_t, long) = read_all;
    if (j->rate != NULL) {
        return j->rate(j->n);
    }
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        reader = read_all_256;
    }
#endif
    sink += reader(j->buffer, j->bytes / 8, j->n);
    return (double)j->bytes * (double)j->n;
}

static void *job_run(void *arg) {
    job *j = (job *)arg;
    long n = j->n;
    j->n = j->rate != NULL ? n / 10 + 1 : 1;
    (void)job_work(j);
    j->n = n;
    (void)pthread_barrier_wait(j->barrier);
    j->start = now();
    j->work = job_work(j);
    j->end = now();
    return NULL;
}

/* Best of TRIES on that many threads, in units of 1e9 a second. */
static double best(kernel rate, uint64_t **buffers, size_t bytes, int threads) {
    double most = 0.0;
    int    t, i;
    for (t = 0; t < TRIES; t++) {
        pthread_t         id[MAX_THREADS];
        job               j[MAX_THREADS];
        pthread_barrier_t barrier;
        double            sum = 0.0;
        (void)pthread_barrier_init(&barrier, NULL, (unsigned)threads);
        for (i = 0; i < threads; i++) {
            memset(&j[i], 0, sizeof j[i]);
            j[i].rate = rate;
            j[i].buffer = buffers[i];
            j[i].bytes = bytes / (size_t)threads;
            j[i].n = rate != NULL ? 100000 : (long)(200000000 / (bytes / (size_t)threads)) + 1;
            j[i].barrier = &barrier;
            (void)pthread_create(&id[i], NULL, job_run, &j[i]);
        }
        for (i = 0; i < threads; i++) {
            (void)pthread_join(id[i], NULL);
            sum += j[i].work / (j[i].end - j[i].start) / 1e9;
        }
        most = sum > most ? sum : most;
        (void)pthread_barrier_destroy(&barrier);
    }
    return most;
}

int main(void) {
    static const int set_mib[] = { 1, 4, 12, 24, 48, 96, 384 };
    uint64_t *buffers[MAX_THREADS];
    size_t    i, big = (size_t)384 << 20;
    int       threads;
    kernel    f32 = NULL, int16 = NULL, int8 = NULL;
#if defined(__x86_64__)
    f32 = __builtin_cpu_supports("avx512f") ? f32_512 : __builtin_cpu_supports("fma") ? f32_256 : NULL;
    int16 = __builtin_cpu_supports("avx512vnni") ? int16_512 : __builtin_cpu_supports("avx2") ? int16_256 : NULL;
    int8 = __builtin_cpu_supports("avx512vnni") ? int8_512 : __builtin_cpu_supports("avx2") ? int8_256 : NULL;
#else
    f32 = f32_128;
#endif
    for (i = 0; i < MAX_THREADS; i++) {
        void *memory = NULL;
        if (posix_memalign(&memory, (size_t)2 << 20, big) != 0) {
            (void)fprintf(stderr, "limits: out of memory\n");
            return 1;
        }
        buffers[i] = (uint64_t *)memory;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
        (void)madvise(buffers[i], big, MADV_HUGEPAGE);
#endif
        memset(buffers[i], (int)i + 1, big);
    }
    printf("{");
    for (threads = 1; threads <= MAX_THREADS; threads++) {
        printf("%s\n \"%d\": {\"f32_gflops\": %.1f, \"int16_gops\": %.1f, \"int8_gops\": %.1f, \"read_gbs\": {", threads > 1 ? "," : "",
               threads, f32 != NULL ? best(f32, buffers, 0, threads) : 0.0, int16 != NULL ? best(int16, buffers, 0, threads) : 0.0,
               int8 != NULL ? best(int8, buffers, 0, threads) : 0.0);
        for (i = 0; i < sizeof set_mib / sizeof *set_mib; i++) {
            printf("%s\"%d\": %.1f", i > 0 ? ", " : "", set_mib[i], best(NULL, buffers, (size_t)set_mib[i] << 20, threads));
        }
        printf("}}");
    }
    printf("\n}\n");
    for (i = 0; i < MAX_THREADS; i++) {
        free(buffers[i]);
    }
    return 0;
}
