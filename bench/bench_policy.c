/* bench_policy: how long a decision takes, in parts and as a whole.

       build/bench_policy [--isa NAME] [--threads N] [--seconds S] [--weights f32|bf16|int8]
           Policies of the paper's sizes with random weights: median, 99th percentile and worst time of encoding a frame of
           both cameras (observe), of planning a chunk (plan), and of both; bytes allocated meanwhile. Then, each in a
           process of its own: the time to load the policy from a file in the page cache (least of five), the bytes of its
           packed weights, and by how much the process grew at most, file included, beside them.

       build/bench_policy --worker CASES THREADS WEIGHTS [--isa NAME] WORK...
           mail.h as one of the engines that bench/peers/run.py times in turn: 'err WORK ERROR' for each work, 'ready', and
           then for every line 'WORK RUNS' on the input a line of milliseconds (with PEERS_CLOCK=cpu the lesser of wall
           clock and processor time). CASES is the folder written by bench/peers/export.py. */

#ifndef _DEFAULT_SOURCE
#  define _DEFAULT_SOURCE  /* what cc shows without -std: POSIX, and madvise, by which loading gives pages back */
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Every byte that mail.h takes from malloc is counted. */
static size_t bench_bytes;

static void *bench_malloc(size_t size) {
    bench_bytes += size;
    return malloc(size);
}

#define malloc(size) bench_malloc(size)
#define MAIL_IMPLEMENTATION
#ifndef MAIL_THREADS
#  define MAIL_THREADS
#endif
#include "../mail.h"
#undef malloc
#include "random_policy.h"

#define BENCH_MAX_WORKS 16

static double clock_ms(clockid_t clock) {
    struct timespec t;
    (void)clock_gettime(clock, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static double now_ms(void) {
    return clock_ms(CLOCK_MONOTONIC);
}

static void die(const char *what, const char *why) {
    (void)fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static mail_weights weights_of(const char *name) {
    if (strcmp(name, "f32") != 0 && strcmp(name, "bf16") != 0 && strcmp(name, "int8") != 0) {
        die(name, "weights are f32, bf16 or int8");
    }
    return name[0] == 'f' ? MAIL_WEIGHTS_F32 : name[0] == 'b' ? MAIL_WEIGHTS_BF16 : MAIL_WEIGHTS_INT8;
}

/* ---- worker --------------------------------------------------------------------------------------------------------- */

enum { BENCH_VISION = 1, BENCH_HEAD = 2, BENCH_SCAN = 4 };

typedef struct bench_work {
    const char   *name, *folder;   /* folder: the case, below CASES */
    int           parts;
    mail_policy  *policy;
    mail_session *session;
    mail_tensors *file;
    mail_image    images[MAIL_MAX_CAMERAS];
    size_t        n_images;
    float        *x_T, *noise, *actions;
    /* a scan: x, dt, A, B, C, D and what comes out */
    float        *in[6], *y, *state;
    void         *memory;
    size_t        length, chunks;  /* chunks: 1 on one thread, where more would be work for nothing */
    const mail_parallel *parallel;
    const char   *isa;
} bench_work;

static const bench_work *work_named(const char *name) {
    static bench_work found;
    static const struct { const char *name, *folder; int parts; } works[] = {
        { "D-Tr_H1", "d_tr_h1", BENCH_VISION | BENCH_HEAD },
        { "D-Tr_H5", "d_tr_h5", BENCH_VISION | BENCH_HEAD },
        { "ED-Ma_H1", "ed_ma_h1", BENCH_VISION | BENCH_HEAD },
        { "ED-Ma_H5", "ed_ma_h5", BENCH_VISION | BENCH_HEAD },
        { "ED-Tr_H1", "ed_tr_h1", BENCH_VISION | BENCH_HEAD },
        { "ED-Tr_H5", "ed_tr_h5", BENCH_VISION | BENCH_HEAD },
        { "W1", "d_ma_h1", BENCH_VISION },
        { "W1b", "robot", BENCH_VISION },
        { "W2_S1", "d_ma_head_h1", BENCH_HEAD },
        { "W2_S5", "d_ma_head_h5", BENCH_HEAD },
        { "W3", "d_ma_h1", BENCH_VISION | BENCH_HEAD },
        { "W4_4096", "W4_4096", BENCH_SCAN },
        { "W4_512", "W4_512", BENCH_SCAN },
        { "W4_64", "W4_64", BENCH_SCAN },
    };
    size_t i;
    for (i = 0; i < sizeof works / sizeof *works; i++) {
        if (strcmp(works[i].name, name) == 0) {
            memset(&found, 0, sizeof found);
            found.name = works[i].name;
            found.folder = works[i].folder;
            found.parts = works[i].parts;
            return &found;
        }
    }
    return NULL;
}

/* Values of a tensor of the work's file, kept for good. */
static float *load(bench_work *w, const char *name) {
    const mail_tensor *t = mail_tensors_find(w->file, name);
    float             *values = t == NULL ? NULL : (float *)malloc((size_t)t->count * sizeof *values + 64);
    if (values == NULL || mail_tensor_read(t, values, (size_t)t->count, NULL) != MAIL_OK) {
        die(w->folder, name);
    }
    return values;
}

/* Largest difference of got to the tensor's values from index `from` on. */
static double error_to(bench_work *w, const char *name, size_t from, const float *got, size_t n) {
    float *want = load(w, name);
    double worst = 0.0;
    size_t i;
    for (i = 0; i < n; i++) {
        double e = fabs((double)want[from + i] - (double)got[i]);
        worst = e > worst || !(e <= 1e30) ? e : worst;
    }
    free(want);
    return worst;
}

static void run_once(bench_work *w) {
    mail_error err;
    if (w->parts & BENCH_SCAN) {
        memset(w->state, 0, 256 * 16 * sizeof *w->state);
        if (mail_selective_scan(w->y, w->state, w->in[0], w->in[1], w->in[2], w->in[3], w->in[4], w->in[5], NULL, w->length, 256, 16,
                                w->chunks, w->memory, w->isa, w->parallel, &err) != MAIL_OK) {
            die(w->name, err.text);
        }
        return;
    }
    if ((w->parts & BENCH_VISION) && mail_observe(w->session, w->images, w->n_images, &err) != MAIL_OK) {
        die(w->name, err.text);
    }
    if (w->parts & BENCH_HEAD) {
        mail_session_set_noise(w->session, w->x_T, w->noise);
        if (mail_plan(w->session, w->actions, &err) != MAIL_OK) {
            die(w->name, err.text);
        }
    }
}

/* Open a work, run it once on the case's own inputs and return its largest error to the float64 result. */
static double work_open(bench_work *w, const char *cases, const mail_options *options, const mail_parallel *parallel) {
    char                 path[1200];
    mail_options         o = *options;
    mail_session_options so = mail_session_options_init();
    mail_error           err;
    const mail_info     *info;
    double               error = 0.0;
    size_t               i, t, frames = 1;
    w->parallel = parallel;
    w->isa = options->isa;
    (void)snprintf(path, sizeof path, w->parts & BENCH_SCAN ? "%s/%s.safetensors" : "%s/%s/case.safetensors", cases, w->folder);
    if (mail_tensors_open(&w->file, path, NULL, &err) != MAIL_OK) {
        die(path, err.text);
    }
    if (w->parts & BENCH_SCAN) {
        static const char *const names[] = { "x", "dt", "A", "B", "C", "D" };
        for (i = 0; i < 6; i++) {
            w->in[i] = load(w, names[i]);
        }
        w->length = (size_t)mail_tensors_find(w->file, "x")->shape[0];
        w->chunks = parallel == NULL ? 1 : 0;
        w->y = (float *)calloc(w->length * 256, sizeof *w->y);
        w->state = (float *)calloc(256 * 16, sizeof *w->state);
        w->memory = mailp_alloc(NULL, mail_selective_scan_size(w->length, 256, 16, w->chunks));
        if (w->y == NULL || w->state == NULL || w->memory == NULL) {
            die(w->name, "out of memory");
        }
        run_once(w);
        return error_to(w, "ref64", 0, w->y, w->length * 256);
    }
    (void)snprintf(path, sizeof path, "%s/%s/model.safetensors", cases, w->folder);
    if (mail_policy_load(&w->policy, path, &o, &err) != MAIL_OK) {  /* config.json lies beside it */
        die(path, err.text);
    }
    info = mail_policy_info(w->policy);
    if (parallel != NULL) {
        so.parallel = *parallel;
    }
    if (mail_session_create(&w->session, w->policy, &so, &err) != MAIL_OK) {
        die(w->name, err.text);
    }
    w->n_images = info->n_cameras;
    w->x_T = load(w, "in.x_T");
    w->noise = load(w, "in.noise");
    w->actions = (float *)calloc(info->act_seq * info->action_dim, sizeof *w->actions);
    if (info->n_cameras == 0) {
        float *features = load(w, "in.features");
        for (t = 0; t < info->obs_seq; t++) {
            if (mail_observe_features(w->session, features + t * info->state_dim, info->state_dim, &err) != MAIL_OK) {
                die(w->name, err.text);
            }
        }
        free(features);
    } else {
        frames = (size_t)mail_tensors_find(w->file, "ref64.obs")->shape[1];
        for (t = 0; t < frames; t++) {
            for (i = 0; i < info->n_cameras; i++) {
                char               name[160];
                const mail_tensor *pictures;
                (void)snprintf(name, sizeof name, "in.image.%s", info->cameras[i].name);
                pictures = mail_tensors_find(w->file, name);
                if (pictures == NULL) {
                    die(w->name, name);
                }
                w->images[i].width = info->cameras[i].width;
                w->images[i].height = info->cameras[i].height;
                w->images[i].format = MAIL_RGB8;
                w->images[i].data = pictures->data + t * w->images[i].width * w->images[i].height * 3;
            }
            if (t + 1 < frames && mail_observe(w->session, w->images, w->n_images, &err) != MAIL_OK) {
                die(w->name, err.text);
            }
        }
    }
    run_once(w);
    if (w->parts & BENCH_VISION) {  /* the newest frame stands before the slot that comes next */
        const size_t slot = (w->session->newest[0] + info->obs_seq - 1) % info->obs_seq;
        error = error_to(w, "ref64.obs", (frames - 1) * info->state_dim, w->session->features + slot * info->state_dim, info->state_dim);
    }
    if (w->parts & BENCH_HEAD) {
        double e = error_to(w, "ref64.action_norm", 0, w->session->x, info->act_seq * info->action_dim);
        error = e > error ? e : error;
    }
    return error;
}

static int worker(int argc, char **argv) {
    static bench_work works[BENCH_MAX_WORKS];
    mail_options      options = mail_options_init();
    mail_pool        *pool = NULL;
    mail_parallel     parallel;
    mail_error        err;
    char              name[64];
    int               i, n = 0, runs;
    size_t            threads;
    const int         cpu_clock = getenv("PEERS_CLOCK") != NULL && strcmp(getenv("PEERS_CLOCK"), "cpu") == 0;
    if (argc < 5) {
        die("bench_policy", "--worker CASES THREADS WEIGHTS [--isa NAME] WORK...");
    }
    threads = (size_t)strtoul(argv[3], NULL, 10);
    options.weights = weights_of(argv[4]);
    memset(&parallel, 0, sizeof parallel);
    if (threads > 1) {
        if (mail_pool_create(&pool, threads, &err) != MAIL_OK) {
            die("pool", err.text);
        }
        parallel = mail_pool_parallel(pool);
    }
    for (i = 5; i < argc; i++) {
        if (strcmp(argv[i], "--isa") == 0 && i + 1 < argc) {
            options.isa = argv[++i];
        } else if (work_named(argv[i]) == NULL || n == BENCH_MAX_WORKS) {
            die(argv[i], "no such work");
        } else {
            double error;
            works[n] = *work_named(argv[i]);
            error = work_open(&works[n], argv[2], &options, pool != NULL ? &parallel : NULL);
            run_once(&works[n]);
            printf("err %s %.2e\n", works[n].name, error);
            n++;
        }
    }
    printf("ready\n");
    (void)fflush(stdout);
    while (scanf("%63s %d", name, &runs) == 2) {
        for (i = 0; i < n && strcmp(works[i].name, name) != 0; i++) {
        }
        for (; i < n && runs > 0; runs--) {
            double cpu = clock_ms(CLOCK_PROCESS_CPUTIME_ID), wall = now_ms();
            run_once(&works[i]);
            wall = now_ms() - wall;
            cpu = clock_ms(CLOCK_PROCESS_CPUTIME_ID) - cpu;
            printf("%.5f ", cpu_clock && cpu < wall ? cpu : wall);
        }
        printf("\n");
        (void)fflush(stdout);
    }
    return 0;
}

/* ---- rows ----------------------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct bench_row {
    const char   *name;
    random_policy policy;
} bench_row;

/* Time one part of a policy for about `seconds`; prints median, p99, worst and bytes allocated. */
static void time_part(const char *policy, const char *part, mail_session *session, const mail_image *images, size_t n_images,
                      int observe, int plan, float *actions, double seconds) {
    static double times[20000];
    size_t        n = 0, before = bench_bytes;
    double        end = now_ms() + 1e3 * seconds;
    mail_error    err;
    while (n < 20 || (now_ms() < end && n < sizeof times / sizeof *times)) {
        double start = now_ms();
        if ((observe && mail_observe(session, images, n_images, &err) != MAIL_OK) || (plan && mail_plan(session, actions, &err) != MAIL_OK)) {
            die(policy, err.text);
        }
        times[n++] = now_ms() - start;
    }
    qsort(times, n, sizeof *times, by_value);
    printf("%-14s %-8s %9.3f %9.3f %9.3f %8.2f %10lu %7lu\n", policy, part, times[n / 2], times[n - 1 - n / 100], times[n - 1],
           times[n - 1 - n / 100] / times[n / 2], (unsigned long)(bench_bytes - before), (unsigned long)n);
    (void)fflush(stdout);
}

/* Peak resident memory of this program in KB, mapped files included; 0 where /proc does not tell. (getrusage would include what
   the process was before it became this program.) */
static long peak_kb(void) {
    FILE *f = fopen("/proc/self/status", "r");
    char  line[256];
    long  kb = 0;
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            kb = strtol(line + 6, NULL, 10);
        }
    }
    if (f != NULL) {
        (void)fclose(f);
    }
    return kb;
}

/* Load a policy of the given bytes from a file in a new process; prints time, size of the packed weights and growth. The file has no
   name any more by then: nothing is left of it when the program is stopped. */
static void time_load(const char *name, const unsigned char *file, size_t size, const mail_options *options) {
    char  path[32] = "bench_policy.XXXXXX";
    int   fd = mkstemp(path), status = 0;
    FILE *f = fd < 0 ? NULL : fdopen(fd, "wb");
    pid_t child;
    if (fd >= 0) {
        (void)remove(path);
    }
    if (f == NULL || fwrite(file, 1, size, f) != size || fflush(f) != 0) {
        (void)fprintf(stderr, "%s: no file can be written here, so loading was not measured\n", name);
        if (f != NULL) {
            (void)fclose(f);
        }
        return;
    }
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    (void)fflush(stdout);
    child = fork();
    if (child == 0) {
        char number[32];
        (void)snprintf(number, sizeof number, "%d", (int)options->weights);
        (void)execl("/proc/self/exe", "bench_policy", "--load", path, number, options->config_json, name, options->isa, (char *)NULL);
        _exit(1);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
        (void)fprintf(stderr, "%s: loading was not measured\n", name);
    }
    (void)fclose(f);
}

/* --load PATH WEIGHTS CONFIG NAME [ISA]: what time_load starts */
static int load_once(char **argv, int argc) {
    mail_options options = mail_options_init();
    mail_policy *policy;
    mail_error   err;
    double       best = 1e30;
    long         before, most = 0;
    size_t       packed = 0;
    int          i;
    options.weights     = (mail_weights)atoi(argv[3]);
    options.config_json = argv[4];
    options.isa         = argc > 6 ? argv[6] : NULL;
    before = peak_kb();
    for (i = 0; i < 5; i++) {
        double start = now_ms();
        if (mail_policy_load(&policy, argv[2], &options, &err) != MAIL_OK) {
            die(argv[2], err.text);
        }
        start  = now_ms() - start;
        best   = start < best ? start : best;
        most   = i == 0 ? peak_kb() - before : most;
        packed = mail_policy_info(policy)->weight_bytes;
        mail_policy_free(policy);
    }
    printf("%-14s load %.0f ms, weights %.1f MB packed, peak memory %.1f MB (%.2f x)\n", argv[5], best, (double)packed / 1e6,
           (double)most * 1024 / 1e6, (double)most * 1024 / (double)packed);
    return 0;
}

int main(int argc, char **argv) {
    static bench_row rows[8];
    mail_options     options = mail_options_init();
    mail_pool       *pool = NULL;
    mail_parallel    parallel;
    mail_error       err;
    double           seconds = 1.0;
    size_t           threads = 1, r, n = 0;
    int              i;
    if (argc > 1 && strcmp(argv[1], "--worker") == 0) {
        return worker(argc, argv);
    }
    if (argc > 5 && strcmp(argv[1], "--load") == 0) {
        return load_once(argv, argc);
    }
    for (i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--isa") == 0) {
            options.isa = argv[i + 1];
        } else if (strcmp(argv[i], "--threads") == 0) {
            threads = (size_t)strtoul(argv[i + 1], NULL, 10);
        } else if (strcmp(argv[i], "--seconds") == 0) {
            seconds = strtod(argv[i + 1], NULL);
        } else if (strcmp(argv[i], "--weights") == 0) {
            options.weights = weights_of(argv[i + 1]);
        } else {
            die(argv[i], "unknown option");
        }
    }
    memset(&parallel, 0, sizeof parallel);
    if (threads > 1) {
        if (mail_pool_create(&pool, threads, &err) != MAIL_OK) {
            die("pool", err.text);
        }
        parallel = mail_pool_parallel(pool);
    }
    for (r = 0; r < 2; r++) {
        static const char *const names[2][4] = { { "D-Ma H1", "ED-Ma H1", "D-Tr H1", "ED-Tr H1" }, { "D-Ma H5", "ED-Ma H5", "D-Tr H5", "ED-Tr H5" } };
        static const mail_arch   archs[] = { MAIL_D_MA, MAIL_ED_MA, MAIL_D_TR, MAIL_ED_TR };
        size_t                   a;
        for (a = 0; a < 4; a++, n++) {
            random_policy *p = &rows[n].policy;
            rows[n].name = names[r][a];
            p->arch = archs[a];
            p->obs_seq = r ? 5 : 1;
            p->act_seq = a == 0 ? 5 : 10;
            p->action_dim = 7;
            p->n_layers = a == 0 ? 16 : 8;
            p->d_state = 16;
            p->d_conv = 4;
            p->dec_conv = 2;
            p->enc_layers = a == 1 ? 10 : 4;
            p->dec_layers = 6;
            p->n_cameras = 2;
            p->height[0] = p->height[1] = p->width[0] = p->width[1] = 128;
        }
    }
    for (r = 0; r < n; r++) {
        static unsigned char pictures[2][128 * 128 * 3];
        char                 json[1024];
        size_t               size, k;
        unsigned char       *file = random_policy_make(&rows[r].policy, &size, json, sizeof json);
        mail_policy         *policy;
        mail_session        *session;
        mail_session_options so = mail_session_options_init();
        mail_image           images[2];
        static float         actions[16 * 16];
        const mail_info     *info;
        options.config_json = json;
        if (mail_policy_load_memory(&policy, file, size, &options, &err) != MAIL_OK) {
            die(rows[r].name, err.text);
        }
        info = mail_policy_info(policy);
        if (pool != NULL) {
            so.parallel = parallel;
        }
        if (mail_session_create(&session, policy, &so, &err) != MAIL_OK) {
            die(rows[r].name, err.text);
        }
        memset(images, 0, sizeof images);
        for (k = 0; k < 2; k++) {
            size_t j;
            for (j = 0; j < sizeof pictures[k]; j++) {
                pictures[k][j] = (unsigned char)((j * 2654435761u >> 13) + j / 96);
            }
            images[k].data = pictures[k];
            images[k].width = images[k].height = 128;
            images[k].format = MAIL_RGB8;
        }
        for (k = 0; k < info->obs_seq; k++) {
            if (mail_observe(session, images, 2, &err) != MAIL_OK) {
                die(rows[r].name, err.text);
            }
        }
        if (r == 0) {
            printf("%s, %lu thread%s, weights %s; random weights, two 128x128 cameras, 16 steps, ms\n", info->isa, (unsigned long)threads,
                   threads > 1 ? "s" : "", info->weights == MAIL_WEIGHTS_F32 ? "f32" : info->weights == MAIL_WEIGHTS_BF16 ? "bf16" : "int8");
            printf("%-14s %-8s %9s %9s %9s %8s %10s %7s\n", "policy", "part", "median", "p99", "worst", "p99/med", "allocated", "runs");
        }
        time_part(rows[r].name, "observe", session, images, 2, 1, 0, actions, seconds);
        time_part(rows[r].name, "plan", session, images, 2, 0, 1, actions, seconds);
        time_part(rows[r].name, "both", session, images, 2, 1, 1, actions, seconds);
        mail_session_free(session);
        mail_policy_free(policy);
        time_load(rows[r].name, file, size, &options);
        free(file);
    }
    mail_pool_free(pool);
    return 0;
}
