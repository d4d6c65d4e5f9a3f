/* Memory: nothing is allocated after a session is made, every failed allocation is a clean error with nothing leaked, nobody relies on
   fresh memory being zero, and a session stays inside exactly mail_session_size bytes. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* malloc and its relatives are looked over in the whole program, the C library included, where glibc allows it, and in the library's
   own text elsewhere. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#  define TM_SANITIZED 1
#elif defined(__has_feature)
#  if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#    define TM_SANITIZED 1
#  endif
#endif
static long tm_calls, tm_live, tm_fail_at = -1;  /* the call to malloc that fails, counting from 0; -1: none */

static int tm_fails(void) {
    return tm_calls++ == tm_fail_at;
}

#if defined(__GLIBC__) && !defined(TM_SANITIZED) && !defined(TM_STATIC)
#  define TM_WHOLE_PROGRAM 1
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *memory, size_t size);
void  __libc_free(void *memory);
void *malloc(size_t size) {
    void *memory = tm_fails() ? NULL : __libc_malloc(size);
    tm_live += memory != NULL;
    return memory;
}
void *calloc(size_t n, size_t size) {
    void *memory = tm_fails() ? NULL : __libc_calloc(n, size);
    tm_live += memory != NULL;
    return memory;
}
void *realloc(void *old, size_t size) {
    void *memory = tm_fails() ? NULL : __libc_realloc(old, size);
    tm_live += memory != NULL && old == NULL;
    return memory;
}
void free(void *memory) {
    tm_live -= memory != NULL;
    __libc_free(memory);
}
#else
static void *tm_malloc(size_t size) {
    void *memory = tm_fails() ? NULL : malloc(size);
    tm_live += memory != NULL;
    return memory;
}
static void tm_free(void *memory) {
    tm_live -= memory != NULL;
    free(memory);
}
#  include <stdio.h>
#  include <string.h>
#  define malloc tm_malloc
#  define free   tm_free
#endif

#define MAIL_IMPLEMENTATION
#define MAIL_THREADS
#include "../mail.h"
#include "test.h"
#include "small.h"

#if defined(__unix__) || defined(__APPLE__)
#  include <sys/mman.h>
#  include <unistd.h>
#  ifndef MAP_ANONYMOUS
#    define MAP_ANONYMOUS MAP_ANON
#  endif
#  define TM_PAGES 1
#endif

/* An allocator that counts, fails when told to, hands out exactly what was asked for between two fences, full of rubbish. */
typedef struct counting {
    long          calls, live, fail_at;
    size_t        bytes, most;
    int           broken;
} counting;

typedef struct tm_head {
    void          *raw;
    size_t         size;
    unsigned char  fence[64 - sizeof(void *) - sizeof(size_t)];
} tm_head;

static void *counting_alloc(void *user, size_t size) {
    counting      *c = (counting *)user;
    unsigned char *raw, *at;
    tm_head       *head;
    size_t         i;
    if (c->calls++ == c->fail_at) {
        return NULL;
    }
    raw = (unsigned char *)malloc(size + 256);
    if (raw == NULL) {
        exit(2);
    }
    at = raw + 64 + (64 - (uintptr_t)raw % 64);
    head = (tm_head *)(void *)(at - 64);
    head->raw = raw;
    head->size = size;
    memset(head->fence, 0x5a, sizeof head->fence);
    memset(at, 0xcb, size);
    for (i = 0; i < 32; i++) {
        at[size + i] = 0x5a;
    }
    c->live++;
    c->bytes += size;
    c->most = c->bytes > c->most ? c->bytes : c->most;
    return at;
}

static void counting_free(void *user, void *memory) {
    counting      *c = (counting *)user;
    tm_head       *head = (tm_head *)(void *)((unsigned char *)memory - 64);
    unsigned char *end = (unsigned char *)memory + head->size;
    size_t         i;
    for (i = 0; i < sizeof head->fence; i++) {
        c->broken = c->broken || head->fence[i] != 0x5a;
    }
    for (i = 0; i < 32; i++) {
        c->broken = c->broken || end[i] != 0x5a;
    }
    c->live--;
    c->bytes -= head->size;
    free(head->raw);
}

static mail_allocator counting_allocator(counting *c) {
    mail_allocator a;
    memset(c, 0, sizeof *c);
    c->fail_at = -1;
    a.user = c;
    a.alloc = counting_alloc;
    a.free = counting_free;
    return a;
}

/* Two episodes with everything a session can do. sum: what came out, to compare. */
static void exercise(mail_session *s, const mail_policy *policy, float *sum) {
    const mail_info *info = mail_policy_info(policy);
    static float     features[MAIL_MAX_BATCH * 128], actions[MAIL_MAX_BATCH * 8], chunk[8192], goal[8192];
    static unsigned char pixels[2][200 * 200 * 4];
    const size_t     B = s->batch;
    mail_image       images[16];
    mail_error       err;
    size_t           i, left, steps, at = 0;
    unsigned         t, episode;
    small_fill(goal, info->lang_dim < 4096 ? info->lang_dim : 4096, 7, 0);
    for (i = 0; i < sizeof pixels; i++) {
        pixels[0][i % sizeof pixels[0]] = (unsigned char)(i * 37 + i / 251);
    }
    for (episode = 0; episode < 2; episode++) {
        mail_session_reset(s, episode);
        if (info->has_lang && mail_session_set_goal(s, goal, info->lang_dim, &err) != MAIL_OK) {
            exit(2);
        }
        for (t = 0; t < (info->n_cameras ? 4u : 9u); t++) {
            mail_status status;
            if (info->n_cameras > 0) {
                for (i = 0; i < B * info->n_cameras; i++) {
                    const mail_camera_info *camera = &info->cameras[i % info->n_cameras];
                    memset(&images[i], 0, sizeof images[i]);
                    images[i].data = pixels[0] + t * 64;
                    images[i].width = t == 2 ? 60 : camera->width;
                    images[i].height = t == 2 ? 90 : camera->height;
                    images[i].format = t == 3 ? MAIL_BGRA8 : MAIL_RGB8;
                    images[i].flip = (int)(t & 1);
                }
                status = mail_observe(s, images, B * info->n_cameras, &err);
            } else {
                small_fill(features, B * info->state_dim, 3, t);
                status = mail_observe_features(s, features, B * info->state_dim, &err);
            }
            if (status != MAIL_OK || mail_act(s, actions, &err) != MAIL_OK) {
                CHECK_MSG(0, "%s", err.text);
                return;
            }
            sum[at++] = actions[0] + actions[B * info->action_dim - 1];
        }
        CHECK(mail_plan(s, chunk, &err) == MAIL_OK);
        sum[at++] = chunk[0];
        CHECK(mail_plan_begin(s, &err) == MAIL_OK && mail_plan_step(s, &left, &err) == MAIL_OK);
        mail_plan_cancel(s);
        CHECK(mail_plan_begin(s, &err) == MAIL_OK);
        do {
            CHECK(mail_plan_step(s, &left, &err) == MAIL_OK);
        } while (left > 0);
        CHECK(mail_plan_end(s, chunk, &err) == MAIL_OK);
        sum[at++] = chunk[B * info->act_seq * info->action_dim - 1];
        CHECK(mail_plan_within(s, chunk, 1e9, &steps, &err) == MAIL_OK);
        sum[at++] = chunk[0];
        CHECK(mail_session_reset_robot(s, B - 1, &err) == MAIL_OK);
        CHECK(mail_plan(s, chunk, &err) == MAIL_E_STATE);
        if (info->n_cameras == 0) {
            features[0] = NAN;
            CHECK(mail_observe_features(s, features, B * info->state_dim, &err) == MAIL_E_NUMBER);
        }
    }
    while (at < 32) {
        sum[at++] = 0;
    }
}

static int with_threads(mail_session_options *o, size_t n, mail_pool **pool) {
    *pool = NULL;
    if (n > 1) {
        if (mail_pool_create(pool, n, NULL) != MAIL_OK) {
            return 0;
        }
        o->parallel = mail_pool_parallel(*pool);
    }
    return 1;
}

/* Nothing allocated after mail_session_init, by either way; the same actions whatever was in the memory before; inside the fences. */
static void test_no_allocation(const char *name, size_t batch, size_t threads, int ensemble) {
    counting             c;
    mail_options         o = mail_options_init();
    mail_session_options so = mail_session_options_init();
    mail_policy         *policy, *plain;
    mail_session        *s;
    mail_pool           *pool;
    mail_error           err;
    float                a[64], b[64];
    long                 calls, mallocs;
    o.allocator = counting_allocator(&c);
    so.allocator = o.allocator;
    so.batch = batch;
    so.ensemble = ensemble;
    if (!with_threads(&so, threads, &pool)) {
        test_skipped++;
        return;
    }
    CHECK_MSG(small_load_with(&policy, name, &o, &err) == MAIL_OK, "%s: %s", name, err.text);
    CHECK(mail_session_create(&s, policy, &so, &err) == MAIL_OK);
    CHECK_MSG(c.calls > 0 && c.most >= mail_session_size(policy, &so), "%s: the allocator was not used", name);
    calls = c.calls;
    mallocs = tm_calls;
    exercise(s, policy, a);
    CHECK_MSG(c.calls == calls && tm_calls == mallocs, "%s: %ld allocations and %ld mallocs after init", name, c.calls - calls,
              tm_calls - mallocs);
    mail_session_free(s);
    mail_policy_free(policy);
    CHECK_MSG(c.live == 0 && c.bytes == 0 && !c.broken, "%s: %ld blocks left, fences %s", name, c.live, c.broken ? "broken" : "whole");

    memset(&so.allocator, 0, sizeof so.allocator);
    plain = small_load(name);
    s = small_session(plain, &so);
    exercise(s, plain, b);
    CHECK_MSG(memcmp(a, b, sizeof(float) * 32) == 0, "%s: rubbish in fresh memory changes the actions", name);
    mail_session_free(s);
    mail_policy_free(plain);
    mail_pool_free(pool);
}

/* A caller's memory of exactly mail_session_size bytes, with a page that must not be touched right before it or right behind it. */
static void test_guard_pages_of(const mail_policy *policy, const char *name, size_t batch, size_t threads, int ensemble) {
#ifdef TM_PAGES
    const size_t         page = (size_t)sysconf(_SC_PAGESIZE);
    mail_session_options so = mail_session_options_init();
    mail_session        *s;
    mail_pool           *pool;
    mail_error           err;
    float                sum[2][64];
    int                  at_end;
    so.batch = batch;
    so.ensemble = ensemble;
    if (!with_threads(&so, threads, &pool)) {
        test_skipped++;
        return;
    }
    for (at_end = 0; at_end < 2; at_end++) {
        const size_t   size = mail_session_size(policy, &so), pages = (size + page - 1) / page;
        unsigned char *map = (unsigned char *)mmap(NULL, (pages + 2) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *at;
        if (map == (unsigned char *)MAP_FAILED || mprotect(map, page, PROT_NONE) != 0 ||
            mprotect(map + (pages + 1) * page, page, PROT_NONE) != 0) {
            test_skipped++;
            return;
        }
        CHECK(size % 64 == 0);  /* so both ends can lie at a page's edge */
        memset(map + page, 0xcb, pages * page);
        at = at_end ? map + (pages + 1) * page - size : map + page;
        CHECK(mail_session_init(&s, policy, &so, at, size, &err) == MAIL_OK);
        exercise(s, policy, sum[at_end]);
        mail_session_free(s);
        if (at_end) {
            size_t i;
            for (i = page; map + i < at && map[i] == 0xcb; i++) {
            }
            CHECK_MSG(map + i >= at, "%s: written before the session", name);
        }
        (void)munmap(map, (pages + 2) * page);
    }
    CHECK_MSG(memcmp(sum[0], sum[1], sizeof(float) * 32) == 0, "%s: the place in memory changes the actions", name);
    mail_pool_free(pool);
#else
    (void)policy;
    (void)name;
    (void)batch;
    (void)threads;
    (void)ensemble;
    test_skipped++;
#endif
}

static void test_guard_pages(const char *name, size_t batch, size_t threads, int ensemble) {
    mail_policy *policy = small_load(name);
    test_guard_pages_of(policy, name, batch, threads, ensemble);
    mail_policy_free(policy);
}

/* ---- a policy whose state is far wider than its model ---------------------------------------------------------------------------- */

static void wide_shape(void *user, const char *tensor, uint64_t *shape, unsigned n_dims) {
    unsigned j;
    for (j = 0; j < n_dims; j++) {
        if (shape[j] == 12 && (strcmp(tensor, "linear.weight") == 0 || strcmp(tensor, "linear.bias") == 0 || strcmp(tensor, "model.tok_emb.weight") == 0)) {
            shape[j] = *(const size_t *)user;
        }
    }
}

static void wide_values(void *user, const char *tensor, float *values, size_t n) {
    (void)user;
    small_fill(values, n, 11, (unsigned)strlen(tensor));
}

/* d_ma_bc_lang_h1 with state_dim S in place of 12: a safetensors file in memory, weights made up; and its configuration. Released with free. */
static unsigned char *widened(size_t S, size_t *size, char **json) {
    unsigned char *file = small_remade(size, "d_ma_bc_lang_h1", wide_shape, wide_values, &S);
    char          *config = small_text(SMALL_CASES "d_ma_bc_lang_h1/config.json"), *at = strstr(config, "\"state_dim\": 12");
    *json = (char *)malloc(strlen(config) + 32);
    if (*json == NULL || at == NULL) {
        exit(2);
    }
    (void)sprintf(*json, "%.*s\"state_dim\": %lu%s", (int)(at - config), config, (unsigned long)S, at + strlen("\"state_dim\": 12"));
    free(config);
    return file;
}

static void test_wide_state(void) {
    static const size_t widths[] = { 13, 64, 500, 4000 };
    size_t              i, size;
    for (i = 0; i < 4; i++) {
        mail_options   o = mail_options_init();
        mail_policy   *policy;
        mail_error     err;
        char          *json;
        unsigned char *file = widened(widths[i], &size, &json);
        o.config_json = json;
        CHECK_MSG(mail_policy_load_memory(&policy, file, size, &o, &err) == MAIL_OK, "%s", err.text);
        if (policy != NULL) {
#ifdef TM_PAGES
            const size_t   page = (size_t)sysconf(_SC_PAGESIZE), need = mail_session_size(policy, NULL), pages = (need + page - 1) / page;
            unsigned char *map = (unsigned char *)mmap(NULL, (pages + 1) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            static float   goal[512], features[4000], chunk[64];
            mail_session  *s;
            if (map == (unsigned char *)MAP_FAILED || mprotect(map + pages * page, page, PROT_NONE) != 0) {
                exit(2);
            }
            CHECK(mail_session_init(&s, policy, NULL, map + pages * page - need, need, &err) == MAIL_OK);
            small_fill(goal, mail_policy_info(policy)->lang_dim, 1, 1);
            small_fill(features, widths[i], 1, 2);
            CHECK(mail_session_set_goal(s, goal, mail_policy_info(policy)->lang_dim, &err) == MAIL_OK);
            CHECK(mail_observe_features(s, features, widths[i], &err) == MAIL_OK);
            CHECK(mail_plan(s, chunk, &err) == MAIL_OK);
            (void)munmap(map, (pages + 1) * page);
#endif
        }
        mail_policy_free(policy);
        free(file);
        free(json);
    }
}

/* ---- every allocation fails once ------------------------------------------------------------------------------------------------ */

typedef enum what { LOAD_SAFETENSORS, LOAD_PTH, LOAD_MEMORY, SESSION, MAMBA, ENCODER, TENSORS, SAVE, POOL, N_WHAT } what;

typedef struct make {
    const mail_allocator *allocator;
    char                 *json;
    unsigned char        *file;
    size_t                size;
    const mail_policy    *policy;
    const mail_tensors   *tensors, *pictures;
    const char           *name;
} make;

/* Make one, say how it went, and release it. */
static mail_status make_one(const make *m, what w, mail_error *err) {
    mail_options         o = mail_options_init();
    mail_session_options so = mail_session_options_init();
    mail_policy         *policy = NULL;
    mail_session        *session = NULL;
    mail_mamba          *mamba = NULL;
    mail_encoder        *encoder = NULL;
    mail_tensors        *tensors = NULL;
    mail_pool           *pool = NULL;
    mail_status          status = MAIL_OK;
    char                 path[256];
    o.config_json = m->json;
    if (m->allocator != NULL) {
        o.allocator = *m->allocator;
        so.allocator = *m->allocator;
    }
    (void)snprintf(path, sizeof path, SMALL_CASES "%s/%s", m->name, w == LOAD_PTH ? "model.pth" : "model.safetensors");
    switch (w) {
        case LOAD_SAFETENSORS:
        case LOAD_PTH:    status = mail_policy_load(&policy, path, &o, err); break;
        case LOAD_MEMORY: status = mail_policy_load_memory(&policy, m->file, m->size, &o, err); break;
        case SESSION:     status = mail_session_create(&session, m->policy, &so, err); break;
        case MAMBA:       status = mail_mamba_create(&mamba, m->tensors, "model.model.mamba.layers.0.mixer.", &o, err); break;
        case ENCODER:     status = mail_encoder_create(&encoder, m->pictures, "obs_encoder.key_model_map.wrist_rgb.", 70, 50, &o, err); break;
        case TENSORS:     status = mail_tensors_open(&tensors, path, m->allocator, err); break;
        case SAVE:        status = mail_policy_save(m->policy, "build/test_memory.safetensors", MAIL_F32, err); break;
        default:          status = mail_pool_create(&pool, 3, err); break;
    }
    if (status != MAIL_OK) {
        CHECK(policy == NULL && session == NULL && mamba == NULL && encoder == NULL && tensors == NULL && pool == NULL);
    }
    mail_policy_free(policy);
    mail_session_free(session);
    mail_mamba_free(mamba);
    mail_encoder_free(encoder);
    mail_tensors_close(tensors);
    mail_pool_free(pool);
    return status;
}

static void test_failures(const char *name, what w) {
    static const char *const names[N_WHAT] = { "load .safetensors", "load .pth", "load from memory", "session", "mamba", "encoder", "tensors",
                                               "save", "pool" };
    char           path[256], text[sizeof ((mail_error *)NULL)->text];
    make           m;
    counting       c;
    mail_allocator allocator = counting_allocator(&c);
    mail_policy   *policy = small_load(name);
    mail_tensors  *tensors, *pictures;
    mail_error     err;
    mail_status    status;
    long           fail, live;
    FILE          *f;
    memset(&m, 0, sizeof m);
    (void)snprintf(path, sizeof path, SMALL_CASES "%s/config.json", name);
    m.json = small_text(path);
    (void)snprintf(path, sizeof path, SMALL_CASES "%s/model.safetensors", name);
    m.file = (unsigned char *)malloc(2000000);
    f = fopen(path, "rb");
    if (m.json == NULL || m.file == NULL || f == NULL || mail_tensors_open(&tensors, path, NULL, &err) != MAIL_OK ||
        mail_tensors_open(&pictures, SMALL_CASES "vision_one/model.safetensors", NULL, &err) != MAIL_OK) {
        exit(2);
    }
    m.size = fread(m.file, 1, 2000000, f);
    (void)fclose(f);
    m.policy = policy;
    m.tensors = tensors;
    m.pictures = pictures;
    m.name = name;
    /* the caller's allocator */
    if (w != SAVE && w != POOL) {
        m.allocator = &allocator;
        for (fail = 0;; fail++) {
            c.calls = 0;
            c.fail_at = fail;
            err.code = MAIL_OK;
            err.text[0] = '\0';
            status = make_one(&m, w, &err);
            CHECK_MSG(c.live == 0 && !c.broken, "%s %s: allocation %ld fails: %ld blocks left", name, names[w], fail, c.live);
            if (c.calls <= fail) {
                CHECK_MSG(status == MAIL_OK, "%s %s: %s", name, names[w], err.text);
                break;
            }
            CHECK_MSG(status == MAIL_E_MEMORY && err.code == MAIL_E_MEMORY && err.text[0] != '\0', "%s %s: allocation %ld fails: status %d, %s",
                      name, names[w], fail, (int)status, err.text);
        }
        CHECK_MSG(fail > 0, "%s %s: nothing was allocated", name, names[w]);
        m.allocator = NULL;
    }
    /* malloc, also where the C library uses it */
    for (fail = 0;; fail++) {
        live = tm_live;
        tm_calls = 0;
        tm_fail_at = fail;
        err.text[0] = '\0';
        status = make_one(&m, w, &err);
        tm_fail_at = -1;
        memcpy(text, err.text, sizeof err.text);
        CHECK_MSG(tm_live == live, "%s %s: malloc %ld fails: %ld blocks left", name, names[w], fail, tm_live - live);
        if (tm_calls <= fail) {
            CHECK_MSG(status == MAIL_OK, "%s %s: %s", name, names[w], text);
            break;
        }
        /* a file that cannot be opened for lack of memory is not told apart from one that cannot be opened for another reason */
        CHECK_MSG(status == MAIL_E_MEMORY || status == MAIL_E_IO || status == MAIL_OK, "%s %s: malloc %ld fails: status %d, %s", name, names[w], fail,
                  (int)status, text);
        CHECK_MSG(status == MAIL_OK || text[0] != '\0', "%s %s: malloc %ld fails without a word", name, names[w], fail);
    }
    CHECK_MSG(fail > 0, "%s %s: nothing was allocated", name, names[w]);
    if (w == SAVE) {
        (void)remove("build/test_memory.safetensors");
    }
    mail_tensors_close(tensors);
    mail_tensors_close(pictures);
    mail_policy_free(policy);
    free(m.json);
    free(m.file);
}

int main(void) {
    static const char *const others[] = { "cosine50_ed_tr", "odd_d_ma_bc", "odd_ed_ma", "odd_ed_tr", "wide_d_tr", "long_d_ma", "dx3_vp_d_ma",
                                          "lang512_ed_ma", "steps1_d_ma", "vision_one", "vision_two" };
    size_t i;
    small_unused();
    for (i = 0; i < SMALL_EACH + sizeof others / sizeof *others; i++) {
        const char *name = i < SMALL_EACH ? small_each[i] : others[i - SMALL_EACH];
        const int   vision = strncmp(name, "vision", 6) == 0;
        test_no_allocation(name, 1, 1, 0);
        test_guard_pages(name, 1, 1, 0);
        test_guard_pages(name, vision ? 2 : 5, 1, 0);
        test_guard_pages(name, 1, 3, 0);
        if (!vision) {
            test_no_allocation(name, 3, 2, 1);
            test_guard_pages(name, 2, 2, 1);
            test_guard_pages(name, 17, 8, 0);
        }
    }
    test_wide_state();
    for (i = 0; i < N_WHAT; i++) {
        test_failures("d_ma_ddpm_h5", (what)i);
    }
    test_failures("ed_tr_ddpm_h5", LOAD_SAFETENSORS);
    test_failures("ed_tr_ddpm_h5", LOAD_PTH);
    test_failures("ed_ma_ddpm_h5", LOAD_PTH);
    test_failures("vision_one", LOAD_SAFETENSORS);
    test_failures("vision_one", LOAD_MEMORY);
#ifdef TM_WHOLE_PROGRAM
    printf("malloc watched in the whole program\n");
#else
    printf("malloc watched in the text of mail.h\n");
#endif
    return test_end("test_memory");
}
