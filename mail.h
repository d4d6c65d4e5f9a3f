/* mail.h 0.1.0 - MaIL robot policies (Mamba Imitation Learning, arXiv 2406.08234) in one C header. MIT licence.

   A checkpoint trained in Python and camera frames go in, robot actions come out. libc and libm, nothing else.

   Build:     in exactly one C or C++ file write
                  #define MAIL_IMPLEMENTATION
                  #include "mail.h"
              and compile it with `cc -O2 program.c -lm`. No -march flag: the kernels are compiled for every instruction
              set of the processor family and chosen when a policy is loaded. Other files include it without the define.

   Use:       mail_policy *policy;  mail_session *session;  mail_error err;
              float action[MAIL_MAX_ACTION_DIM];
              if (mail_policy_load(&policy, "policy.safetensors", NULL, &err) ||
                  mail_session_create(&session, policy, NULL, &err)) { puts(err.text); return 1; }
              for (;;) {                                        / * one turn of the control loop * /
                  mail_image frames[2] = { ... };               / * in the order of mail_policy_info(policy)->cameras * /
                  if (mail_observe(session, frames, 2, &err) || mail_act(session, action, &err)) { puts(err.text); break; }
                  move_robot(action);
              }
              mail_session_free(session);  mail_policy_free(policy);

   Options (define before the include that carries MAIL_IMPLEMENTATION):
              MAIL_STATIC      every function static: the library stays private to this file
              MAIL_NO_STDIO    no files: only the _memory functions remain
              MAIL_NO_SIMD     plain C kernels only
              MAIL_THREADS     offer mail_pool, a small thread pool (POSIX threads)
              MAIL_SELF        this file's name as the compiler finds it, if it is not "mail.h"

   Limits:    MAIL_MAX_* below. Widths of the ResNet-18 must be multiples of 16.

   Exact:     the same seed gives the same actions, bit for bit, on one instruction set: for any number of threads, any
              batch, from .pth or .safetensors. Between instruction sets results agree to float32 rounding.

   Contents:  declarations  >>base  >>bytes  >>json  >>tensors  >>config  >>simd  >>kernels  >>layers  >>vision
              >>policy  >>sampler  >>api */

#if !defined(MAILP_PASS) /* ---- everything but >>kernels is seen once; see >>simd ---- */

#ifndef MAIL_H
#define MAIL_H

#include <stddef.h>
#include <stdint.h>

#if defined(MAIL_STATIC) && defined(__GNUC__)
#  define MAIL_API static __attribute__((unused))
#elif defined(MAIL_STATIC)
#  define MAIL_API static
#else
#  define MAIL_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define MAIL_VERSION        "0.1.0"
#define MAIL_MAX_DIMS       8    /* dimensions of a tensor in a file */
#define MAIL_MAX_CAMERAS    8
#define MAIL_MAX_ACTION_DIM 64
#define MAIL_MAX_CHUNK      256  /* actions in a chunk */
#define MAIL_MAX_HISTORY    256  /* frames in a history */
#define MAIL_MAX_TIMESTEPS  1000
#define MAIL_MAX_THREADS    64
#define MAIL_MAX_BATCH      256  /* robots in one session */
#define MAIL_MAX_IMAGE      16384 /* pixels on a side of a picture */

/* ---- status and error ------------------------------------------------------------------------------------------- */

#define MAIL_STATUS_LIST(X)                                                                   \
    X(MAIL_OK,            "ok")                                                               \
    X(MAIL_E_ARGUMENT,    "bad argument")                                                     \
    X(MAIL_E_MEMORY,      "out of memory")                                                    \
    X(MAIL_E_IO,          "file cannot be read or written")                                   \
    X(MAIL_E_FORMAT,      "file is damaged or of an unknown format")                          \
    X(MAIL_E_TENSOR,      "a tensor is missing, surplus or misshaped")                        \
    X(MAIL_E_CONFIG,      "a setting is missing or contradictory")                            \
    X(MAIL_E_UNSUPPORTED, "not supported")                                                    \
    X(MAIL_E_STATE,       "call comes too early or too late")                                 \
    X(MAIL_E_NUMBER,      "not a finite number")

typedef enum mail_status {
#define MAIL_X(code, text) code,
    MAIL_STATUS_LIST(MAIL_X)
#undef MAIL_X
    MAIL_STATUS_COUNT
} mail_status;

/* Filled by a call that fails: what was expected, what was found, where. Left alone by a call that succeeds. */
typedef struct mail_error {
    mail_status code;
    char        text[320];
} mail_error;

MAIL_API const char *mail_status_text(mail_status status);

/* ---- memory and threads, both the caller's ---------------------------------------------------------------------- */

/* alloc returns size bytes aligned to 64, or NULL. All members zero: malloc and free. */
typedef struct mail_allocator {
    void  *user;
    void *(*alloc)(void *user, size_t size);
    void  (*free)(void *user, void *memory);
} mail_allocator;

/* Calls task(arg, i) for every i < n, on any threads in any order, and returns when all have returned.
   n_threads: how many run at once; the library asks for at most that many tasks at a time. All zero: the caller's thread. */
typedef void (*mail_task)(void *arg, size_t i);
typedef struct mail_parallel {
    void  *user;
    void  (*run)(void *user, size_t n, mail_task task, void *arg);
    size_t n_threads;
} mail_parallel;

#ifdef MAIL_THREADS
/* A small thread pool for mail_session_options.parallel. Workers spin for a moment after a task and then sleep. */
typedef struct mail_pool mail_pool;
MAIL_API mail_status   mail_pool_create(mail_pool **pool, size_t n_threads, mail_error *err);
MAIL_API void          mail_pool_free(mail_pool *pool);
MAIL_API mail_parallel mail_pool_parallel(mail_pool *pool);
#endif

/* ---- tensor files: .safetensors and .pth ------------------------------------------------------------------------ */

typedef enum mail_dtype {
    MAIL_F32, MAIL_F16, MAIL_BF16, MAIL_F64, MAIL_I8, MAIL_U8, MAIL_I16, MAIL_I32, MAIL_I64, MAIL_BOOL, MAIL_DTYPE_COUNT
} mail_dtype;

/* A named array in an opened file. Valid until mail_tensors_close. */
typedef struct mail_tensor {
    const char          *name;
    mail_dtype           dtype;
    unsigned             n_dims;
    uint64_t             shape[MAIL_MAX_DIMS];
    uint64_t             strides[MAIL_MAX_DIMS];  /* in elements; row-major unless a .pth holds a view */
    uint64_t             count;                   /* product of shape */
    const unsigned char *data;                    /* little-endian, any alignment; first element of the view */
} mail_tensor;

typedef struct mail_tensors mail_tensors;

/* Open a .safetensors file or a .pth written by torch.save(state_dict); told apart by content. The file is mapped where
   the system can and read otherwise. Nothing in a pickle is executed; what a state_dict does not need is refused by name.
   open_memory: data stays the caller's and must outlive the result.   allocator: NULL for malloc. */
#ifndef MAIL_NO_STDIO
MAIL_API mail_status mail_tensors_open(mail_tensors **tensors, const char *path, const mail_allocator *allocator, mail_error *err);
#endif
MAIL_API mail_status mail_tensors_open_memory(mail_tensors **tensors, const void *data, size_t size,
                                              const mail_allocator *allocator, mail_error *err);
MAIL_API void               mail_tensors_close(mail_tensors *tensors);
MAIL_API size_t             mail_tensors_count(const mail_tensors *tensors);
MAIL_API const mail_tensor *mail_tensors_at(const mail_tensors *tensors, size_t i);             /* sorted by name */
MAIL_API const mail_tensor *mail_tensors_find(const mail_tensors *tensors, const char *name);   /* or NULL */
MAIL_API const char        *mail_tensors_metadata(const mail_tensors *tensors, const char *key);/* or NULL */
MAIL_API const char        *mail_dtype_name(mail_dtype dtype);                                  /* "F32", ... */
MAIL_API size_t             mail_dtype_size(mail_dtype dtype);

/* Values in row-major order as float32 (f32, f16, bf16, f64 and the integers are converted; n must equal count). */
MAIL_API mail_status mail_tensor_read(const mail_tensor *tensor, float *values, size_t n, mail_error *err);

/* ---- policy: weights, read-only once loaded, shared by any number of threads ------------------------------------- */

typedef enum mail_arch      { MAIL_D_MA, MAIL_ED_MA, MAIL_D_TR, MAIL_ED_TR } mail_arch;
typedef enum mail_algorithm { MAIL_DDPM, MAIL_BC } mail_algorithm;
typedef enum mail_schedule  { MAIL_COSINE, MAIL_LINEAR, MAIL_VP } mail_schedule;
typedef enum mail_weights   { MAIL_WEIGHTS_F32, MAIL_WEIGHTS_BF16, MAIL_WEIGHTS_INT8 } mail_weights;

/* Called after each timed part when profiling; part is a constant string, layer counts within it. */
typedef struct mail_profile {
    void  *user;
    double (*now)(void *user);   /* seconds */
    void  (*add)(void *user, const char *part, size_t layer, double seconds);
} mail_profile;

typedef struct mail_options {
    mail_weights   weights;      /* how weights are held and multiplied; default f32 */
    const char    *isa;          /* "scalar", "avx2", "avx512", "neon"; NULL: the best this machine has */
    const char    *config_json;  /* what the file does not say, as JSON text; NULL: look in the file, then beside it */
    size_t         config_size;  /* bytes of config_json; 0: it ends with a NUL */
    int            drop_source;  /* 1: close the file after loading; mail_policy_save is then refused */
    mail_allocator allocator;
} mail_options;

typedef struct mail_camera_info {
    const char *name;
    size_t      width, height;   /* pixels the network was trained with; other sizes are resized */
    size_t      feature_dim;
} mail_camera_info;

typedef struct mail_info {
    mail_arch               arch;
    mail_algorithm          algorithm;
    const char             *arch_name;       /* "D-Ma", "ED-Ma", "D-Tr", "ED-Tr" */
    int                     has_lang;
    size_t                  lang_dim;        /* 0 without language */
    size_t                  obs_seq;         /* history: most frames used */
    size_t                  act_seq;         /* chunk: actions predicted at once */
    size_t                  n_action_steps;  /* of them executed before the next decision */
    size_t                  action_dim, state_dim, d_model;
    size_t                  n_cameras;       /* 0: the policy takes features, mail_observe_features */
    const mail_camera_info *cameras;         /* in the order in which mail_observe wants them (sorted names) */
    size_t                  n_timesteps;     /* 0 for BC */
    mail_schedule           schedule;
    const char *const      *action_names;    /* [action_dim], or NULL */
    const float            *action_mean, *action_std, *action_min, *action_max;  /* [action_dim], robot's units */
    const char             *description;     /* or NULL */
    mail_weights            weights;
    const char             *isa;
    size_t                  n_parameters;
    size_t                  weight_bytes;    /* packed weights in memory */
} mail_info;

typedef struct mail_policy mail_policy;

MAIL_API mail_options mail_options_init(void);

/* Load a policy. What a .pth cannot say is taken from options->config_json, or else from a JSON file beside it
   ("name.pth" -> "name.json", or "config.json" in the same folder); a safetensors file says it in __metadata__.
   options NULL: defaults.   On failure *policy is NULL, everything is released, and err names what was expected. */
#ifndef MAIL_NO_STDIO
MAIL_API mail_status mail_policy_load(mail_policy **policy, const char *path, const mail_options *options, mail_error *err);
/* Write a self-contained safetensors file: dtype MAIL_F32 or MAIL_BF16. Written to path + ".tmp" first, then renamed. */
MAIL_API mail_status mail_policy_save(const mail_policy *policy, const char *path, mail_dtype dtype, mail_error *err);
#endif
MAIL_API mail_status mail_policy_load_memory(mail_policy **policy, const void *data, size_t size,
                                             const mail_options *options, mail_error *err);
MAIL_API void             mail_policy_free(mail_policy *policy);
MAIL_API const mail_info *mail_policy_info(const mail_policy *policy);

/* ---- session: one robot (or a batch of them), one thread at a time ------------------------------------------------ */

typedef enum mail_format {
    MAIL_RGB8, MAIL_BGR8, MAIL_RGBA8, MAIL_BGRA8, MAIL_GRAY8,
    MAIL_YUYV,        /* 4:2:2, Y0 U Y1 V, BT.601 limited range (V4L2) */
    MAIL_NV12,        /* 4:2:0, a plane of Y, then one of U V pairs, BT.601 limited range */
    MAIL_F32_PLANAR,  /* three planes R, G, B of float, 0..1 */
    MAIL_FORMAT_COUNT
} mail_format;

typedef struct mail_image {
    const void *data;
    size_t      width, height;  /* pixels */
    size_t      stride;         /* bytes from one row to the next; 0: rows are packed */
    mail_format format;
    int         flip;           /* 1: the first row in memory is the bottom of the picture (OpenGL, MuJoCo) */
} mail_image;

typedef enum mail_sampler { MAIL_SAMPLER_DDPM, MAIL_SAMPLER_DDIM } mail_sampler;

typedef struct mail_session_options {
    size_t        batch;           /* robots in this session; default 1 */
    uint64_t      seed;
    size_t        n_action_steps;  /* actions executed per chunk (receding horizon); 0: the policy's own */
    int           ensemble;        /* 1: temporal ensembling: plan at every action and average what all chunks say of it */
    float         ensemble_decay;  /* weight exp(-decay * i) for the i-th oldest chunk; default 0.01 */
    mail_sampler  sampler;         /* DDPM (official) or DDIM with eta 0 */
    size_t        n_steps;         /* denoising steps; 0: the policy's n_timesteps; fewer need MAIL_SAMPLER_DDIM */
    const float  *action_min, *action_max;  /* [action_dim] limits in the robot's units, copied; NULL: none */
    const float  *action_max_step;          /* [action_dim] largest change from one action to the next; NULL: none */
    mail_parallel  parallel;
    mail_profile   profile;
    mail_allocator allocator;      /* for mail_session_create */
    double       (*now)(void *now_user);    /* clock in seconds for mail_plan_within; NULL: the system's monotonic clock */
    void          *now_user;
} mail_session_options;

typedef struct mail_session mail_session;

MAIL_API mail_session_options mail_session_options_init(void);

/* Bytes that mail_session_init needs for these options; 0 if they are not valid. options NULL: defaults. */
MAIL_API size_t      mail_session_size(const mail_policy *policy, const mail_session_options *options);
/* Place a session in memory given by the caller (64-byte aligned; it stays the caller's). The policy must outlive it. */
MAIL_API mail_status mail_session_init(mail_session **session, const mail_policy *policy, const mail_session_options *options,
                                       void *memory, size_t size, mail_error *err);
/* The same with memory from the allocator, released by mail_session_free. */
MAIL_API mail_status mail_session_create(mail_session **session, const mail_policy *policy,
                                         const mail_session_options *options, mail_error *err);
MAIL_API void        mail_session_free(mail_session *session);

/* Start an episode: history, chunk and plan in progress are forgotten, the noise starts over from seed.
   The goal is kept. reset_robot does so for one robot of a batch and leaves the seed and the others alone. */
MAIL_API void        mail_session_reset(mail_session *session, uint64_t seed);
MAIL_API mail_status mail_session_reset_robot(mail_session *session, size_t robot, mail_error *err);

/* Language goal: a CLIP ViT-B/32 text feature, not normalised (512 floats; lang_dim in mail_info).
   n = lang_dim: the same for every robot; n = batch * lang_dim: one each. */
MAIL_API mail_status mail_session_set_goal(mail_session *session, const float *embedding, size_t n, mail_error *err);

/* Give the newest frame of every camera: n = batch * n_cameras images, robot by robot, cameras in mail_info order.
   Each is encoded now and its features kept, so a decision later costs no second encoding.
   On error the history is as it was. */
MAIL_API mail_status mail_observe(mail_session *session, const mail_image *images, size_t n, mail_error *err);
/* The same with features made elsewhere: [batch][state_dim]. */
MAIL_API mail_status mail_observe_features(mail_session *session, const float *features, size_t n, mail_error *err);
/* 1 if a frame given now will still be in the history at the next decision of mail_act; if 0 it may be skipped. */
MAIL_API int         mail_observe_due(const mail_session *session);

/* Next action of every robot, [batch][action_dim], robot's units. Plans a new chunk when the present one is used up.
   MAIL_E_STATE if that needs an observation or goal that was not given; MAIL_E_NUMBER if a result is not finite.
   On error actions and session are as they were. */
MAIL_API mail_status mail_act(mail_session *session, float *actions, mail_error *err);

/* Plan a chunk now, [batch][act_seq][action_dim] (or NULL), and put it in place of the present one. */
MAIL_API mail_status mail_plan(mail_session *session, float *actions, mail_error *err);
/* The same spread over calls: begin once, step until *left (steps still to do) is 0, end. mail_act goes on with the old
   chunk meanwhile, and mail_observe may be called: the plan keeps the history it began with. begin again: start over. */
MAIL_API mail_status mail_plan_begin(mail_session *session, mail_error *err);
MAIL_API mail_status mail_plan_step(mail_session *session, size_t *left, mail_error *err);
MAIL_API mail_status mail_plan_end(mail_session *session, float *actions, mail_error *err);
MAIL_API void        mail_plan_cancel(mail_session *session);
/* Plan within a time: as many of the steps as fit, the rest jumped over by DDIM; at least one. *steps (or NULL): done. */
MAIL_API mail_status mail_plan_within(mail_session *session, float *actions, double seconds, size_t *steps, mail_error *err);

/* Noise for the next plan in place of the seed's: x_T [batch][act_seq][action_dim] and noise
   [n_timesteps + diffusion_x][batch][act_seq][action_dim] in the order of the steps; either may be NULL.
   Both must stay valid until that plan ends. */
MAIL_API void mail_session_set_noise(mail_session *session, const float *x_T, const float *noise);

/* ---- trajectory (paper, appendix E.4) ----------------------------------------------------------------------------- */

/* Way-points from the pose from (excluded) to the pose to (included) on a straight line, evenly spaced and at most
   max_step apart in the Euclidean norm. Returns how many there are; writes the first min(that, capacity).
   way_points [capacity][dim]   0 if max_step is not positive or a number is not finite. */
MAIL_API size_t mail_trajectory(float *way_points, size_t capacity, const float *from, const float *to, size_t dim, float max_step);

/* ---- building block: the network of one camera --------------------------------------------------------------------- */

/* ResNet-18 with GroupNorm, spatial softmax and a linear layer: a picture to features and keypoints. */
typedef struct mail_encoder mail_encoder;

typedef struct mail_encoder_info {
    size_t       width, height;   /* pixels; other pictures are resized: by area to shrink, linearly to enlarge */
    size_t       feature_dim, n_keypoints;
    size_t       n_parameters;
    size_t       weight_bytes;    /* packed weights in memory */
    mail_weights weights;
    const char  *isa;
} mail_encoder_info;

/* Make one from the tensors whose names begin with prefix, such as "obs_encoder.key_model_map.agentview_rgb.".
   width, height  of the pictures that the network was trained with: ceil(width / 32) and ceil(height / 32) are in the file
   options        weights, isa and allocator are used; NULL: defaults.   The tensors may be closed afterwards. */
MAIL_API mail_status mail_encoder_create(mail_encoder **encoder, const mail_tensors *tensors, const char *prefix,
                                         size_t width, size_t height, const mail_options *options, mail_error *err);
MAIL_API void                     mail_encoder_free(mail_encoder *encoder);
MAIL_API const mail_encoder_info *mail_encoder_get_info(const mail_encoder *encoder);
/* Bytes of scratch for an encoding on that many threads (1 to MAIL_MAX_THREADS); 0 if that is not valid. */
MAIL_API size_t                   mail_encoder_scratch(const mail_encoder *encoder, size_t n_threads);
/* features   out, [feature_dim];   keypoints  out, [n_keypoints][2] as (x, y) in -1..1, or NULL
   scratch    size bytes, aligned to 64; one encoding at a time may use it
   parallel   NULL: the caller's thread. The result is the same, bit for bit, for any number of threads.
   Memory     none. */
MAIL_API mail_status mail_encoder_encode(const mail_encoder *encoder, float *features, float *keypoints, const mail_image *image,
                                         void *scratch, size_t size, const mail_parallel *parallel, mail_error *err);

#ifdef __cplusplus
}
#endif
#endif /* MAIL_H */


#ifdef MAIL_IMPLEMENTATION
#ifndef MAILP_IMPLEMENTED
#define MAILP_IMPLEMENTED

/* ================================================================================================================
   >>base   compiler differences, checked arithmetic, errors, memory

   Out: everything below allocates through mailp_arena or mailp_alloc, fails through mailp_fail, and multiplies sizes
   that come from a file with mailp_mul.
   ============================================================================================================= */

#include <assert.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>   /* snprintf; files only without MAIL_NO_STDIO */
#include <stdlib.h>
#include <string.h>

#ifndef MAIL_SELF
#  define MAIL_SELF "mail.h"
#endif

#if defined(__GNUC__) || defined(__clang__)
#  define MAILP_UNUSED          __attribute__((unused))
#  define MAILP_INLINE          static inline __attribute__((always_inline, unused))
#  define MAILP_PRINTF(f, a)    __attribute__((format(printf, f, a)))
#  define MAILP_RESTRICT        __restrict__
#else
#  define MAILP_UNUSED
#  define MAILP_INLINE          static __inline
#  define MAILP_PRINTF(f, a)
#  define MAILP_RESTRICT        __restrict
#endif

#define MAILP_LANES 16  /* channels are padded with zeros to a multiple of this and weights packed in panels of this width;
                           one 512-bit register, two of 256 or four of 128 bits: one packing serves every instruction set */
#define MAILP_ALIGN 64  /* bytes; a cache line, and a 512-bit register */

#define MAILP_MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAILP_MAX(a, b) ((a) > (b) ? (a) : (b))

/* n rounded up to whole panels */
MAILP_INLINE size_t mailp_pad(size_t n) {
    return (n + MAILP_LANES - 1) / MAILP_LANES * MAILP_LANES;
}

MAILP_INLINE size_t mailp_panels(size_t n) {
    return (n + MAILP_LANES - 1) / MAILP_LANES;
}

/* *product = a * b; 0 if that does not fit, and then *product is left alone. */
MAILP_INLINE int mailp_mul(uint64_t *product, uint64_t a, uint64_t b) {
    if (a != 0 && b > UINT64_MAX / a) {
        return 0;
    }
    *product = a * b;
    return 1;
}

/* Describe a failure in err (may be NULL) and return its code. */
static mail_status mailp_fail(mail_error *err, mail_status code, const char *format, ...) MAILP_PRINTF(3, 4);
static mail_status mailp_fail(mail_error *err, mail_status code, const char *format, ...) {
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        err->code = code;
        (void)vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return code;
}

MAIL_API const char *mail_status_text(mail_status status) {
    static const char *const text[] = {
#define MAIL_X(code, words) words,
        MAIL_STATUS_LIST(MAIL_X)
#undef MAIL_X
    };
    return (unsigned)status < MAIL_STATUS_COUNT ? text[status] : "unknown status";
}

/* size bytes aligned to MAILP_ALIGN from the allocator (NULL or empty: malloc), or NULL */
static void *mailp_alloc(const mail_allocator *allocator, size_t size) {
    unsigned char *raw, *aligned;
    if (allocator != NULL && allocator->alloc != NULL) {
        return allocator->alloc(allocator->user, size);
    }
    if (size > SIZE_MAX - MAILP_ALIGN) {
        return NULL;
    }
    raw = (unsigned char *)malloc(size + MAILP_ALIGN);
    if (raw == NULL) {
        return NULL;
    }
    aligned = raw + (MAILP_ALIGN - (uintptr_t)raw % MAILP_ALIGN);  /* moves by 1..64 bytes; the byte before says how far */
    aligned[-1] = (unsigned char)(aligned - raw);
    return aligned;
}

static void mailp_free(const mail_allocator *allocator, void *memory) {
    if (memory == NULL) {
        return;
    }
    if (allocator != NULL && allocator->alloc != NULL) {
        if (allocator->free != NULL) {
            allocator->free(allocator->user, memory);
        }
        return;
    }
    free((unsigned char *)memory - ((unsigned char *)memory)[-1]);
}

/* Memory handed out front to back. The code that lays out an object runs twice: with base NULL it only measures
   (mailp_take returns NULL and used grows), then with a block of that size it gets the pieces. */
typedef struct mailp_arena {
    unsigned char *base;
    size_t         used;
} mailp_arena;

static void *mailp_take(mailp_arena *arena, size_t bytes) {
    size_t at = arena->used;
    arena->used += (bytes + MAILP_ALIGN - 1) / MAILP_ALIGN * MAILP_ALIGN;
    return arena->base == NULL ? NULL : arena->base + at;
}

MAILP_UNUSED static float *mailp_take_floats(mailp_arena *arena, size_t n) {
    return (float *)mailp_take(arena, n * sizeof(float));
}

/* Run task(arg, i) for i < n through the caller's threads, or one after the other. */
MAILP_UNUSED static void mailp_parallel_run(const mail_parallel *parallel, size_t n, mail_task task, void *arg) {
    size_t i;
    if (parallel != NULL && parallel->run != NULL && n > 1) {
        parallel->run(parallel->user, n, task, arg);
        return;
    }
    for (i = 0; i < n; i++) {
        task(arg, i);
    }
}

/* Threads to split work over: 1 without a callback. */
MAILP_UNUSED static size_t mailp_threads(const mail_parallel *parallel) {
    if (parallel == NULL || parallel->run == NULL || parallel->n_threads < 2) {
        return 1;
    }
    return MAILP_MIN(parallel->n_threads, (size_t)MAIL_MAX_THREADS);
}

/* ================================================================================================================
   >>bytes   cursor over a byte range, little-endian reads, whole-file read
   ============================================================================================================= */

/* ================================================================================================================
   >>json   the subset of JSON that headers and configs need
   ============================================================================================================= */

/* ================================================================================================================
   >>tensors   checkpoint bytes -> a table of named tensors

   In:  a byte range that may be damaged or hostile.
   Out: mail_tensors, sorted by name; each entry has a dtype, at most MAIL_MAX_DIMS dimensions and a byte range.
   After this section every range lies inside the file and its length equals shape times element size, so nothing
   below checks that again.
   ============================================================================================================= */

/* ================================================================================================================
   >>config   sizes, from the tensors' own shapes and from what the file says of itself
   ============================================================================================================= */

/* One stack of layers. name: where its tensors are ("mamba", "encoder" or "decoder" below the head's prefix). */
typedef struct mailp_trunk_config {
    char   name[16];
    size_t n_layers;
    size_t d_state, d_conv, d_inner, dt_rank;  /* Mamba only */
} mailp_trunk_config;

typedef struct mailp_camera_config {
    char   name[64];
    size_t height, width;          /* of the pictures the network was trained with */
    size_t map_height, map_width;  /* of the last feature map: ceil(height / 32), ceil(width / 32) */
    size_t res_width;              /* channels of the first stage: 64 in a ResNet-18 */
    size_t n_keypoints;
    size_t feature_dim;
} mailp_camera_config;

typedef struct mailp_config {
    mail_arch           arch;
    mail_algorithm      algorithm;
    int                 lang;
    size_t              obs_seq, act_seq, n_action_steps;
    size_t              action_dim, state_dim, d_model, lang_dim;
    size_t              pos_rows;      /* obs_seq + act_seq - 1 + lang */
    size_t              n_trunks;      /* 1: trunk[0]; 2: trunk[0] encoder, trunk[1] decoder */
    mailp_trunk_config  trunk[2];
    size_t              n_heads;       /* transformers */
    size_t              n_cameras;     /* sorted by name; 0: features are given */
    mailp_camera_config camera[MAIL_MAX_CAMERAS];
    size_t              n_timesteps;   /* DDPM */
    mail_schedule       schedule;
    int                 clip_denoised, predict_epsilon;
    size_t              diffusion_x;   /* extra steps at t = 0 */
    int                 scale_data;
    float               mean[MAIL_MAX_ACTION_DIM], std[MAIL_MAX_ACTION_DIM];
    float               min[MAIL_MAX_ACTION_DIM], max[MAIL_MAX_ACTION_DIM];
    int                 has_action_names;
    char                action_names[MAIL_MAX_ACTION_DIM][32];
    char                description[256];
} mailp_config;

/* ================================================================================================================
   >>simd   what the processor runs; the vector words; the type of the kernel table

   The file includes itself once per instruction set with MAILP_PASS defined; then only >>kernels is seen. Each pass
   names its functions with a suffix and ends in one constant table. A policy points to the table chosen at load.
   ============================================================================================================= */

#define MAILP_PASS_SCALAR 1
#define MAILP_PASS_AVX2   2
#define MAILP_PASS_AVX512 3
#define MAILP_PASS_NEON   4

#if !defined(MAIL_NO_SIMD)
#  if (defined(__x86_64__) || defined(_M_X64) || defined(__i386__)) && (defined(__GNUC__) || defined(_MSC_VER)) && !defined(__TINYC__)
#    define MAILP_X86 1
#  elif defined(__aarch64__) && defined(__GNUC__) && !defined(__AARCH64EB__)
#    define MAILP_ARM 1
#  endif
#endif

#ifdef MAILP_X86
#  include <immintrin.h>
#  if defined(_MSC_VER)
#    include <intrin.h>
#  else
#    include <cpuid.h>
#  endif
#endif
#ifdef MAILP_ARM
#  include <arm_neon.h>
#endif

#define MAILP_MAX_STATE 256  /* d_state; the scan keeps that many vectors on the stack */

/* Words of the scalar pass: nearest integer for |a| < 2^31 (halves away from zero), and a * 2^n for whole n in -126..127. */
MAILP_INLINE float mailp_round1(float a) {
    if (!(a > -2e9f && a < 2e9f)) {
        return a;  /* NaN stays NaN */
    }
    return (float)(int32_t)(a + (a < 0 ? -0.5f : 0.5f));
}

MAILP_INLINE float mailp_scale1(float a, float n) {
    uint32_t bits;
    float    power;
    if (!(n >= -126.0f && n <= 127.0f)) {
        return a * n;  /* NaN; the callers' ranges exclude the rest */
    }
    bits = (uint32_t)((int32_t)n + 127) << 23;
    memcpy(&power, &bits, sizeof power);
    return a * power;
}

/* Weights of a linear map, packed: output channels in panels of MAILP_LANES, w[panel][k][lane]; lanes beyond n are zero.
   k is the true depth. bias [panels * lanes] or NULL. */
typedef struct mailp_mat {
    const void  *w;
    const float *bias;
    size_t       n, k, panels;
} mailp_mat;

/* Where a convolution finds its inputs, for the implicit product `conv`. Offsets and steps count floats.

   Input pixels lie in blocks of 16 channels, [blocks][rows][columns][16], with a border of zeros, so that no tap needs a
   bounds check. Tap t of output pixel (row, column) reads `depth` neighbouring floats in each of n_blocks blocks, from
       row * row_step + column * pixel_step + tap[t] + block * plane. */
typedef struct mailp_conv_shape {
    size_t width;       /* output pixels in a row */
    size_t pixel_step, row_step, plane, depth, n_blocks, n_taps;
    size_t tap[9];
} mailp_conv_shape;

#if defined(__GNUC__)
#  define MAILP_PREFETCH(p) __builtin_prefetch(p, 0, 2)  /* into the second-level cache */
#else
#  define MAILP_PREFETCH(p) ((void)(p))
#endif

typedef struct mailp_kernels {
    const char *name;

    /* y[m][j] = (accumulate ? y[m][j] : 0) + bias[j] + sum_k x[m][k] * w[j / 16][k][j % 16]

       y     [rows][>= 16 * panels], row stride ldy;  x [rows][>= k], row stride ldx;  w [panels][k][16];  bias or NULL.
       y does not overlap the others. Every element is summed in the order of k in one accumulator, and what was in y and the
       bias are added last: the result does not depend on how rows and panels are split into calls. */
    void (*gemm)(float *y, size_t ldy, const float *x, size_t ldx, const float *w, const float *bias,
                 size_t rows, size_t k, size_t panels, int accumulate);

    /* sequences: each is described where it is defined, in >>kernels */
    void (*layer_norm)(float *y, size_t ldy, const float *x, size_t ldx, const float *gain, const float *bias,
                       size_t rows, size_t d);
    void (*add)(float *y, size_t ldy, const float *x, size_t ldx, size_t rows, size_t panels);
    void (*conv1d_silu)(float *y, size_t ldy, const float *x, size_t ldx, const float *conv_state, float *conv_out, size_t ldc,
                        const float *w, const float *b, size_t ldw, size_t len, size_t d_conv, size_t panels);
    void (*softplus)(float *x, size_t ldx, size_t rows, size_t panels);
    void (*gelu)(float *x, size_t ldx, size_t rows, size_t panels);
    void (*scan)(float *y, size_t ldy, float *state_out, const float *state_in, const float *x, size_t ldx,
                 const float *dt, size_t lddt, const float *A, size_t lda, const float *B, const float *C, size_t ldbc,
                 const float *D, const float *z, size_t ldz, size_t len, size_t d_state, size_t panels);
    void (*attend)(float *y, size_t ldy, const float *q, size_t ldq, const float *k, const float *v, size_t ldkv,
                   float *scores, size_t n_q, size_t n_kv, size_t visible, size_t head_dim, int accumulate);

    /* vision */

    /* y[p][m][j] = sum over taps t, blocks b, i < depth of x[at(m) + tap[t] + b * plane + i] * w[p][(t, b, i)][j]

       y  [panels], panel stride ldy, of [pixels][16];  x as mailp_conv_shape says;
       w  [n_taps * n_blocks * depth][group][16]: `group` panels side by side (conv_group of them, fewer at the end of a layer),
          of which the first `panels` are used.
       Every element is summed in the order of k, in as many partial sums as its weights are cut into to stay in the
       second-level cache; that depends on the layer alone, so results do not depend on which panels one call does.
       What follows in memory behind the weights is fetched meanwhile: weights lie in the order in which they are used. */
    void (*conv)(float *y, size_t ldy, const float *x, const float *w, size_t group, const mailp_conv_shape *shape,
                 size_t pixels, size_t panels);
    size_t conv_group;

    /* One group of a GroupNorm, which is one block of 16 channels:
           out[y][x][j] = (in[y][x][j] - mean) / sqrt(var + 1e-5) * gamma[j] + beta[j]  (+ skip[y][x][j]), then relu if asked
       mean and var (biased) over the whole block.
       out, skip [h][w][16], row stride row;  in [h][w][16], dense;  gamma, beta [16];  skip NULL or of out's geometry, may be
       out;  out may be in (then row = w * 16).
       Numbers: two passes; sums in float32 over runs of 64 pixels, those in double. */
    void (*group_norm)(float *out, size_t row, const float *in, const float *skip, const float *gamma, const float *beta,
                       size_t h, size_t w, int relu);

    /* out[y][x] = largest of in[2y-1 .. 2y+1][2x-1 .. 2x+1], outside never wins;  in [h][w][16], dense;
       out [ceil(h / 2)][ceil(w / 2)][16], row stride row */
    void (*max_pool)(float *out, size_t row, const float *in, size_t h, size_t w);

    /* Winograd's F(tile x tile, 3 x 3), tile 2 or 4, on one block; described where they are defined. */
    void (*winograd_in)(float *v, size_t plane, const float *x, size_t row, size_t tiles_h, size_t tiles_w, size_t tile);
    void (*winograd_out)(float *y, const float *m, size_t plane, size_t h, size_t w, size_t tile, size_t tiles_w, size_t begin,
                         size_t end);
} mailp_kernels;

#endif /* MAILP_IMPLEMENTED */

#define MAILP_PASS MAILP_PASS_SCALAR
#include MAIL_SELF
#undef MAILP_PASS
#ifdef MAILP_X86
#  define MAILP_PASS MAILP_PASS_AVX2
#  include MAIL_SELF
#  undef MAILP_PASS
#  define MAILP_PASS MAILP_PASS_AVX512
#  include MAIL_SELF
#  undef MAILP_PASS
#endif
#ifdef MAILP_ARM
#  define MAILP_PASS MAILP_PASS_NEON
#  include MAIL_SELF
#  undef MAILP_PASS
#endif

#endif /* MAIL_IMPLEMENTATION */
#endif /* !MAILP_PASS */

#ifdef MAILP_PASS
/* ================================================================================================================
   >>kernels   every hot loop once; this section is compiled again for each instruction set

   Words: mailp_vec holds MAILP_W floats. A panel of 16 lanes is MAILP_V = 16 / MAILP_W of them. Operands that hold
   channels are padded to whole panels, so no kernel has a remainder loop over channels.
   ============================================================================================================= */

#if MAILP_PASS == MAILP_PASS_SCALAR
#  define MAILP_FN(name)        mailp_##name##_scalar
#  define MAILP_KERNEL          static
#  define MAILP_WORD            MAILP_INLINE
#  define MAILP_W               1
#  define mailp_vec             float
#  define mailp_vzero()         0.0f
#  define mailp_vset(a)         (a)
#  define mailp_vload(p)        (*(p))
#  define mailp_vstore(p, a)    (*(p) = (a))
#  define mailp_vadd(a, b)      ((a) + (b))
#  define mailp_vsub(a, b)      ((a) - (b))
#  define mailp_vmul(a, b)      ((a) * (b))
#  define mailp_vdiv(a, b)      ((a) / (b))
#  define mailp_vmax(a, b)      ((a) > (b) ? (a) : (b))
#  define mailp_vmin(a, b)      ((a) < (b) ? (a) : (b))
#  define mailp_vsqrt(a)        sqrtf(a)
#  define mailp_vmadd(a, b, c)  ((a) * (b) + (c))          /* a * b + c */
#  define mailp_vnmadd(a, b, c) ((c) - (a) * (b))          /* c - a * b */
#  define mailp_vround(a)       mailp_round1(a)
#  define mailp_vscale(a, n)    mailp_scale1(a, n)
#  define MAILP_NAME            "scalar"
#elif MAILP_PASS == MAILP_PASS_AVX2
#  define MAILP_FN(name)        mailp_##name##_avx2
#  define MAILP_ATTR            __attribute__((target("avx2,fma")))
#  define MAILP_W               8
#  define mailp_vec             __m256
#  define mailp_vzero()         _mm256_setzero_ps()
#  define mailp_vset(a)         _mm256_set1_ps(a)
#  define mailp_vload(p)        _mm256_loadu_ps(p)
#  define mailp_vstore(p, a)    _mm256_storeu_ps(p, a)
#  define mailp_vadd(a, b)      _mm256_add_ps(a, b)
#  define mailp_vsub(a, b)      _mm256_sub_ps(a, b)
#  define mailp_vmul(a, b)      _mm256_mul_ps(a, b)
#  define mailp_vdiv(a, b)      _mm256_div_ps(a, b)
#  define mailp_vmax(a, b)      _mm256_max_ps(a, b)
#  define mailp_vmin(a, b)      _mm256_min_ps(a, b)
#  define mailp_vsqrt(a)        _mm256_sqrt_ps(a)
#  define mailp_vmadd(a, b, c)  _mm256_fmadd_ps(a, b, c)
#  define mailp_vnmadd(a, b, c) _mm256_fnmadd_ps(a, b, c)
#  define mailp_vround(a)       _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#  define mailp_vscale(a, n)    _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)))
#  define MAILP_NAME            "avx2"
#elif MAILP_PASS == MAILP_PASS_AVX512
#  define MAILP_FN(name)        mailp_##name##_avx512
#  define MAILP_ATTR            __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
#  define MAILP_W               16
#  define mailp_vec             __m512
#  define mailp_vzero()         _mm512_setzero_ps()
#  define mailp_vset(a)         _mm512_set1_ps(a)
#  define mailp_vload(p)        _mm512_loadu_ps(p)
#  define mailp_vstore(p, a)    _mm512_storeu_ps(p, a)
#  define mailp_vadd(a, b)      _mm512_add_ps(a, b)
#  define mailp_vsub(a, b)      _mm512_sub_ps(a, b)
#  define mailp_vmul(a, b)      _mm512_mul_ps(a, b)
#  define mailp_vdiv(a, b)      _mm512_div_ps(a, b)
#  define mailp_vmax(a, b)      _mm512_max_ps(a, b)
#  define mailp_vmin(a, b)      _mm512_min_ps(a, b)
#  define mailp_vsqrt(a)        _mm512_sqrt_ps(a)
#  define mailp_vmadd(a, b, c)  _mm512_fmadd_ps(a, b, c)
#  define mailp_vnmadd(a, b, c) _mm512_fnmadd_ps(a, b, c)
#  define mailp_vround(a)       _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#  define mailp_vscale(a, n)    _mm512_scalef_ps(a, n)
#  define MAILP_NAME            "avx512"
#else
#  define MAILP_FN(name)        mailp_##name##_neon
#  define MAILP_ATTR
#  define MAILP_W               4
#  define mailp_vec             float32x4_t
#  define mailp_vzero()         vdupq_n_f32(0.0f)
#  define mailp_vset(a)         vdupq_n_f32(a)
#  define mailp_vload(p)        vld1q_f32(p)
#  define mailp_vstore(p, a)    vst1q_f32(p, a)
#  define mailp_vadd(a, b)      vaddq_f32(a, b)
#  define mailp_vsub(a, b)      vsubq_f32(a, b)
#  define mailp_vmul(a, b)      vmulq_f32(a, b)
#  define mailp_vdiv(a, b)      vdivq_f32(a, b)
#  define mailp_vmax(a, b)      vmaxq_f32(a, b)
#  define mailp_vmin(a, b)      vminq_f32(a, b)
#  define mailp_vsqrt(a)        vsqrtq_f32(a)
#  define mailp_vmadd(a, b, c)  vfmaq_f32(c, a, b)
#  define mailp_vnmadd(a, b, c) vfmsq_f32(c, a, b)
#  define mailp_vround(a)       vrndnq_f32(a)
#  define mailp_vscale(a, n)    vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23)))
#  define MAILP_NAME            "neon"
#endif
#ifndef MAILP_KERNEL
#  if defined(_MSC_VER) && !defined(__clang__)
#    undef MAILP_ATTR
#    define MAILP_ATTR
#  endif
#  define MAILP_KERNEL MAILP_ATTR static
#  define MAILP_WORD   MAILP_ATTR MAILP_INLINE
#endif
#define MAILP_V (MAILP_LANES / MAILP_W)

/* ---- matrix product ---------------------------------------------------------------------------------------------- */

#if MAILP_W == 1

MAILP_KERNEL void MAILP_FN(gemm)(float *y, size_t ldy, const float *x, size_t ldx, const float *w, const float *bias,
                                 size_t rows, size_t k, size_t panels, int accumulate) {
    size_t m, p, i, j;
    for (m = 0; m < rows; m++) {
        for (p = 0; p < panels; p++) {
            const float *wp = w + p * k * MAILP_LANES, *xm = x + m * ldx;
            float       *ym = y + m * ldy + p * MAILP_LANES, acc[MAILP_LANES];
            memset(acc, 0, sizeof acc);
            for (i = 0; i < k; i++, wp += MAILP_LANES) {
                for (j = 0; j < MAILP_LANES; j++) {
                    acc[j] += xm[i] * wp[j];
                }
            }
            for (j = 0; j < MAILP_LANES; j++) {
                float add = bias == NULL ? 0.0f : bias[p * MAILP_LANES + j];
                ym[j] = acc[j] + (accumulate ? ym[j] + add : add);
            }
        }
    }
}

#else

/* A tile of MR rows by NV vectors keeps its sums in registers; statements are written out per row and vector because
   compilers do not unroll reliably at -O2. Six rows by four vectors fill 24 of 32 registers (AVX-512, NEON); AVX2 has 16
   and takes two vectors. */
#define MAILP_R1(X, n) X(0, n)
#define MAILP_R2(X, n) MAILP_R1(X, n) X(1, n)
#define MAILP_R3(X, n) MAILP_R2(X, n) X(2, n)
#define MAILP_R4(X, n) MAILP_R3(X, n) X(3, n)
#define MAILP_R5(X, n) MAILP_R4(X, n) X(4, n)
#define MAILP_R6(X, n) MAILP_R5(X, n) X(5, n)
#define MAILP_C1(X, r) X(r, 0)
#define MAILP_C2(X, r) MAILP_C1(X, r) X(r, 1)
#define MAILP_C3(X, r) MAILP_C2(X, r) X(r, 2)
#define MAILP_C4(X, r) MAILP_C3(X, r) X(r, 3)
#define MAILP_WAT(c)       ((size_t)((c) / MAILP_V) * k * MAILP_LANES + (size_t)((c) % MAILP_V) * MAILP_W)
#define MAILP_ZERO(r, c)   mailp_vec s##r##c = mailp_vzero();
#define MAILP_GETW(r, c)   const mailp_vec w##c = mailp_vload(w + MAILP_WAT(c));
#define MAILP_FMA(r, c)    s##r##c = mailp_vmadd(xv, w##c, s##r##c);
#define MAILP_PUT(r, c)                                                                     \
    {                                                                                       \
        mailp_vec add = bias == NULL ? mailp_vzero() : mailp_vload(bias + (c) * MAILP_W);   \
        float    *at  = y + (r) * ldy + (c) * MAILP_W;                                      \
        if (accumulate) {                                                                   \
            add = mailp_vadd(add, mailp_vload(at));                                         \
        }                                                                                   \
        mailp_vstore(at, mailp_vadd(s##r##c, add));                                         \
    }
#define MAILP_ROW_INIT(r, n)  MAILP_C##n(MAILP_ZERO, r) const float *x##r = x + (r) * ldx;
#define MAILP_ROW_STEP(r, n)  { const mailp_vec xv = mailp_vset(x##r[i]); MAILP_C##n(MAILP_FMA, r) }
#define MAILP_ROW_PUT(r, n)   MAILP_C##n(MAILP_PUT, r)

#define MAILP_GEMM_TILE(mr, nv)                                                                                      \
    MAILP_KERNEL void MAILP_FN(gemm_##mr##x##nv)(float *y, size_t ldy, const float *x, size_t ldx, const float *w,   \
                                                 const float *bias, size_t k, int accumulate) {                     \
        size_t i;                                                                                                    \
        MAILP_R##mr(MAILP_ROW_INIT, nv)                                                                              \
        for (i = 0; i < k; i++, w += MAILP_LANES) {                                                                  \
            MAILP_C##nv(MAILP_GETW, 0)                                                                               \
            MAILP_R##mr(MAILP_ROW_STEP, nv)                                                                          \
        }                                                                                                            \
        MAILP_R##mr(MAILP_ROW_PUT, nv)                                                                               \
    }
#define MAILP_GEMM_TILES(nv) \
    MAILP_GEMM_TILE(1, nv) MAILP_GEMM_TILE(2, nv) MAILP_GEMM_TILE(3, nv) \
    MAILP_GEMM_TILE(4, nv) MAILP_GEMM_TILE(5, nv) MAILP_GEMM_TILE(6, nv)
#define MAILP_GEMM_ROW(nv) \
    { MAILP_FN(gemm_1x##nv), MAILP_FN(gemm_2x##nv), MAILP_FN(gemm_3x##nv), \
      MAILP_FN(gemm_4x##nv), MAILP_FN(gemm_5x##nv), MAILP_FN(gemm_6x##nv) }

typedef void (*MAILP_FN(gemm_tile))(float *y, size_t ldy, const float *x, size_t ldx, const float *w, const float *bias,
                                    size_t k, int accumulate);

#if MAILP_PASS == MAILP_PASS_AVX512
#  define MAILP_TILE_PANELS 4
MAILP_GEMM_TILES(1)
MAILP_GEMM_TILES(2)
MAILP_GEMM_TILES(3)
MAILP_GEMM_TILES(4)
static const MAILP_FN(gemm_tile) MAILP_FN(gemm_tiles)[4][6] = { MAILP_GEMM_ROW(1), MAILP_GEMM_ROW(2),
                                                                MAILP_GEMM_ROW(3), MAILP_GEMM_ROW(4) };
#elif MAILP_PASS == MAILP_PASS_AVX2
#  define MAILP_TILE_PANELS 1
MAILP_GEMM_TILES(2)
static const MAILP_FN(gemm_tile) MAILP_FN(gemm_tiles)[1][6] = { MAILP_GEMM_ROW(2) };
#else
#  define MAILP_TILE_PANELS 1
MAILP_GEMM_TILES(4)
static const MAILP_FN(gemm_tile) MAILP_FN(gemm_tiles)[1][6] = { MAILP_GEMM_ROW(4) };
#endif

MAILP_KERNEL void MAILP_FN(gemm)(float *y, size_t ldy, const float *x, size_t ldx, const float *w, const float *bias,
                                 size_t rows, size_t k, size_t panels, int accumulate) {
    size_t tiles = (rows + 5) / 6;  /* rows are shared out evenly: 10 rows are two tiles of 5, not 6 and 4 */
    size_t p, np;
    for (p = 0; p < panels; p += np) {
        size_t t, m = 0;
        np = MAILP_MIN(panels - p, (size_t)MAILP_TILE_PANELS);
        for (t = 0; t < tiles; t++) {
            size_t mr = (rows - m) / (tiles - t);
            MAILP_FN(gemm_tiles)[np - 1][mr - 1](y + m * ldy + p * MAILP_LANES, ldy, x + m * ldx, ldx, w + p * k * MAILP_LANES,
                                                 bias == NULL ? NULL : bias + p * MAILP_LANES, k, accumulate);
            m += mr;
        }
    }
}

#undef MAILP_TILE_PANELS
#endif /* MAILP_W */

/* ---- vision ------------------------------------------------------------------------------------------------------ */

#if MAILP_W == 1

#define MAILP_CONV_PANELS 1
MAILP_KERNEL void MAILP_FN(conv)(float *y, size_t ldy, const float *x, const float *w, size_t group, const mailp_conv_shape *shape,
                                 size_t pixels, size_t panels) {
    size_t p, m, t, b, i, j;
    for (p = 0; p < panels; p++) {
        for (m = 0; m < pixels; m++) {
            const float *from = x + m / shape->width * shape->row_step + m % shape->width * shape->pixel_step;
            const float *at = w + p * MAILP_LANES;
            float        acc[MAILP_LANES];
            memset(acc, 0, sizeof acc);
            for (t = 0; t < shape->n_taps; t++) {
                for (b = 0; b < shape->n_blocks; b++) {
                    const float *run = from + shape->tap[t] + b * shape->plane;
                    for (i = 0; i < shape->depth; i++, at += group * MAILP_LANES) {
                        for (j = 0; j < MAILP_LANES; j++) {
                            acc[j] += run[i] * at[j];
                        }
                    }
                }
            }
            memcpy(y + p * ldy + m * MAILP_LANES, acc, sizeof acc);
        }
    }
}

#else

/* As in the matrix product, a tile of rows (output pixels) by vectors (output channels) keeps its sums in registers. The
   pixels' inputs have a pointer each and share one running offset. */
#define MAILP_CONV_GETW(r, c)   const mailp_vec w##c = mailp_vload(w + (c) * MAILP_W);
#define MAILP_CONV_INIT(r, n)   MAILP_C##n(MAILP_ZERO, r) const float *x##r = x + at[r];
#define MAILP_CONV_PUT(r, c)                                                                          \
    {                                                                                                 \
        float *to = y + (size_t)((c) / MAILP_V) * ldy + (r) * MAILP_LANES + ((c) % MAILP_V) * MAILP_W; \
        mailp_vstore(to, accumulate ? mailp_vadd(s##r##c, mailp_vload(to)) : s##r##c);                \
    }
#define MAILP_CONV_ROW_PUT(r, n) MAILP_C##n(MAILP_CONV_PUT, r)

#define MAILP_CONV_TILE(mr, nv)                                                                                        \
    MAILP_KERNEL void MAILP_FN(conv_##mr##x##nv)(float *y, size_t ldy, const float *x, const size_t *at, const float *w, \
                                                 size_t step, const mailp_conv_shape *shape, size_t tap, size_t end,   \
                                                 int accumulate, const float *ahead, size_t ahead_step) {              \
        const size_t depth = shape->depth, plane = shape->plane, n_blocks = shape->n_blocks;                           \
        MAILP_R##mr(MAILP_CONV_INIT, nv)                                                                               \
        for (; tap < end; tap++) {                                                                                     \
            size_t b, i0 = shape->tap[tap];                                                                            \
            for (b = 0; b < n_blocks; b++, i0 += plane) {                                                              \
                size_t i = i0, stop = i0 + depth;                                                                      \
                for (; i < stop; i++, w += step, ahead += ahead_step) {                                                \
                    MAILP_C##nv(MAILP_CONV_GETW, 0)                                                                    \
                    MAILP_PREFETCH(ahead);                                                                             \
                    MAILP_PREFETCH(ahead + MAILP_LANES);                                                               \
                    MAILP_R##mr(MAILP_ROW_STEP, nv)                                                                    \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        MAILP_R##mr(MAILP_CONV_ROW_PUT, nv)                                                                            \
    }
#define MAILP_CONV_TILES(nv) \
    MAILP_CONV_TILE(1, nv) MAILP_CONV_TILE(2, nv) MAILP_CONV_TILE(3, nv) \
    MAILP_CONV_TILE(4, nv) MAILP_CONV_TILE(5, nv) MAILP_CONV_TILE(6, nv)
#define MAILP_CONV_ROW(nv) \
    { MAILP_FN(conv_1x##nv), MAILP_FN(conv_2x##nv), MAILP_FN(conv_3x##nv), \
      MAILP_FN(conv_4x##nv), MAILP_FN(conv_5x##nv), MAILP_FN(conv_6x##nv) }

typedef void (*MAILP_FN(conv_tile))(float *y, size_t ldy, const float *x, const size_t *at, const float *w, size_t step,
                                    const mailp_conv_shape *shape, size_t tap, size_t end, int accumulate, const float *ahead,
                                    size_t ahead_step);

#if MAILP_PASS == MAILP_PASS_AVX512
#  define MAILP_CONV_PANELS 4
MAILP_CONV_TILES(1)
MAILP_CONV_TILES(2)
MAILP_CONV_TILES(3)
MAILP_CONV_TILES(4)
static const MAILP_FN(conv_tile) MAILP_FN(conv_tiles)[4][6] = { MAILP_CONV_ROW(1), MAILP_CONV_ROW(2),
                                                                MAILP_CONV_ROW(3), MAILP_CONV_ROW(4) };
#elif MAILP_PASS == MAILP_PASS_AVX2
#  define MAILP_CONV_PANELS 1
MAILP_CONV_TILES(2)
static const MAILP_FN(conv_tile) MAILP_FN(conv_tiles)[1][6] = { MAILP_CONV_ROW(2) };
#else
#  define MAILP_CONV_PANELS 1
MAILP_CONV_TILES(4)
static const MAILP_FN(conv_tile) MAILP_FN(conv_tiles)[1][6] = { MAILP_CONV_ROW(4) };
#endif

#define MAILP_CONV_CHUNK 131072  /* bytes of weights used again and again by the tiles of one chunk: a part of the L2 cache */

MAILP_KERNEL void MAILP_FN(conv)(float *y, size_t ldy, const float *x, const float *w, size_t group, const mailp_conv_shape *shape,
                                 size_t pixels, size_t panels) {
    const size_t depth = shape->n_blocks * shape->depth, step = group * MAILP_LANES;
    const size_t most = MAILP_CONV_CHUNK / sizeof(float) / MAILP_CONV_PANELS / MAILP_LANES / depth;
    const size_t taps = pixels <= 6 ? shape->n_taps : most == 0 ? 1 : most;
    const size_t tiles = (pixels + 5) / 6;
    size_t       p, np;
    for (p = 0; p < panels; p += np) {
        size_t tap, end;
        np = MAILP_MIN(panels - p, (size_t)MAILP_CONV_PANELS);
        for (tap = 0; tap < shape->n_taps; tap = end) {
            const float *from = w + tap * depth * step + p * MAILP_LANES, *ahead;
            size_t       t, m = 0, row = 0, column = 0, fetched = 0, bytes;
            end   = MAILP_MIN(tap + taps, shape->n_taps);
            bytes = (end - tap) * depth;                /* k-steps in this chunk; the next chunk has about as many lines: */
            ahead = w + end * depth * step;             /* they are shared out to the tiles, two lines per k-step */
            for (t = 0; t < tiles; t++) {
                size_t mr = (pixels - m) / (tiles - t), r, at[6];
                int    more = fetched < bytes * group;
                for (r = 0; r < mr; r++) {
                    at[r] = row * shape->row_step + column * shape->pixel_step;
                    if (++column == shape->width) {
                        column = 0;
                        row++;
                    }
                }
                MAILP_FN(conv_tiles)[np - 1][mr - 1](y + p * ldy + m * MAILP_LANES, ldy, x, at, from, step, shape, tap, end,
                                                     tap > 0, more ? ahead + fetched * MAILP_LANES : from,
                                                     more ? 2 * (size_t)MAILP_LANES : 0);
                fetched += 2 * bytes;
                m += mr;
            }
        }
    }
}

#endif /* MAILP_W */

/* Sum over the n values of in, or of their squared distances from mean when squares is set. n is a multiple of 16. */
MAILP_KERNEL double MAILP_FN(group_sum)(const float *in, size_t n, float mean, int squares) {
    const mailp_vec vm = mailp_vset(mean);
    double          total = 0;
    size_t          i = 0, j;
    while (i < n) {
        size_t    end = MAILP_MIN(i + 64 * MAILP_LANES, n);
        float     lanes[4 * MAILP_W];
        mailp_vec s0 = mailp_vzero(), s1 = mailp_vzero(), s2 = mailp_vzero(), s3 = mailp_vzero();
        if (squares) {
            for (; i + 4 * MAILP_W <= end; i += 4 * MAILP_W) {
                mailp_vec d0 = mailp_vsub(mailp_vload(in + i), vm);
                mailp_vec d1 = mailp_vsub(mailp_vload(in + i + MAILP_W), vm);
                mailp_vec d2 = mailp_vsub(mailp_vload(in + i + 2 * MAILP_W), vm);
                mailp_vec d3 = mailp_vsub(mailp_vload(in + i + 3 * MAILP_W), vm);
                s0 = mailp_vmadd(d0, d0, s0);
                s1 = mailp_vmadd(d1, d1, s1);
                s2 = mailp_vmadd(d2, d2, s2);
                s3 = mailp_vmadd(d3, d3, s3);
            }
            for (; i < end; i += MAILP_W) {
                mailp_vec d0 = mailp_vsub(mailp_vload(in + i), vm);
                s0 = mailp_vmadd(d0, d0, s0);
            }
        } else {
            for (; i + 4 * MAILP_W <= end; i += 4 * MAILP_W) {
                s0 = mailp_vadd(s0, mailp_vload(in + i));
                s1 = mailp_vadd(s1, mailp_vload(in + i + MAILP_W));
                s2 = mailp_vadd(s2, mailp_vload(in + i + 2 * MAILP_W));
                s3 = mailp_vadd(s3, mailp_vload(in + i + 3 * MAILP_W));
            }
            for (; i < end; i += MAILP_W) {
                s0 = mailp_vadd(s0, mailp_vload(in + i));
            }
        }
        mailp_vstore(lanes, s0);
        mailp_vstore(lanes + MAILP_W, s1);
        mailp_vstore(lanes + 2 * MAILP_W, s2);
        mailp_vstore(lanes + 3 * MAILP_W, s3);
        for (j = 0; j < 4 * MAILP_W; j++) {
            total += (double)lanes[j];
        }
    }
    return total;
}

MAILP_KERNEL void MAILP_FN(group_norm)(float *out, size_t row, const float *in, const float *skip, const float *gamma,
                                       const float *beta, size_t h, size_t w, int relu) {
    const size_t    n = h * w * MAILP_LANES;
    const float     mean = (float)(MAILP_FN(group_sum)(in, n, 0.0f, 0) / (double)n);
    const double    var = MAILP_FN(group_sum)(in, n, mean, 1) / (double)n;
    const mailp_vec vm = mailp_vset(mean), rstd = mailp_vset((float)(1.0 / sqrt(var + 1e-5)));
    const mailp_vec floor_ = mailp_vset(relu ? 0.0f : -FLT_MAX);
    size_t          v, y, x;
    for (v = 0; v < MAILP_LANES; v += MAILP_W) {
        const mailp_vec a = mailp_vmul(rstd, mailp_vload(gamma + v)), b = mailp_vload(beta + v);
        for (y = 0; y < h; y++) {
            const float *from = in + y * w * MAILP_LANES + v;
            float       *to   = out + y * row + v;
            if (skip != NULL) {
                const float *add = skip + y * row + v;
                for (x = 0; x < w * MAILP_LANES; x += MAILP_LANES) {
                    mailp_vec c = mailp_vmadd(mailp_vsub(mailp_vload(from + x), vm), a, b);
                    mailp_vstore(to + x, mailp_vmax(floor_, mailp_vadd(c, mailp_vload(add + x))));
                }
            } else {
                for (x = 0; x < w * MAILP_LANES; x += MAILP_LANES) {
                    mailp_vec c = mailp_vmadd(mailp_vsub(mailp_vload(from + x), vm), a, b);
                    mailp_vstore(to + x, mailp_vmax(floor_, c));
                }
            }
        }
    }
}

MAILP_KERNEL void MAILP_FN(max_pool)(float *out, size_t row, const float *in, size_t h, size_t w) {
    size_t y, x, v;
    for (y = 0; y < (h + 1) / 2; y++) {
        /* a row or column that would lie outside is replaced by its neighbour inside, which is in the window anyway */
        const float *r1 = in + 2 * y * w * MAILP_LANES;
        const float *r0 = y > 0 ? r1 - w * MAILP_LANES : r1;
        const float *r2 = 2 * y + 1 < h ? r1 + w * MAILP_LANES : r1;
        for (x = 0; x < (w + 1) / 2; x++) {
            const size_t c1 = 2 * x * MAILP_LANES, c0 = x > 0 ? c1 - MAILP_LANES : c1;
            const size_t c2 = 2 * x + 1 < w ? c1 + MAILP_LANES : c1;
            for (v = 0; v < MAILP_LANES; v += MAILP_W) {
                mailp_vec a = mailp_vmax(mailp_vmax(mailp_vload(r0 + c0 + v), mailp_vload(r0 + c1 + v)), mailp_vload(r0 + c2 + v));
                mailp_vec b = mailp_vmax(mailp_vmax(mailp_vload(r1 + c0 + v), mailp_vload(r1 + c1 + v)), mailp_vload(r1 + c2 + v));
                mailp_vec c = mailp_vmax(mailp_vmax(mailp_vload(r2 + c0 + v), mailp_vload(r2 + c1 + v)), mailp_vload(r2 + c2 + v));
                mailp_vstore(out + y * row + x * MAILP_LANES + v, mailp_vmax(mailp_vmax(a, b), c));
            }
        }
    }
}

/* Winograd's convolution: tile x tile outputs of a 3 x 3 convolution from n x n products per channel pair, n = tile + 2:

       y = At [ sum over channels of (G g Gt) * (Bt d B) ] A        (* element by element)

   d is an n x n piece of the input, g the 3 x 3 weights; G g Gt is done at load. Bt, G and At follow from the points 0, 1, -1,
   infinity for tile 2 and 0, +-sqrt(1/2), +-sqrt(2), infinity for tile 4; those round better than 0, +-1, +-2.

   Source:  A. Lavin, S. Gray, arXiv 1509.09308.   Numbers: see test_vision; tile 4 loses about a bit and a half. */

/* One dimension of Bt d for tile 4: six vectors apart by ds become six apart by os. */
MAILP_WORD void MAILP_FN(winograd4_in1)(float *o, size_t os, const float *d, size_t ds) {
    const mailp_vec a = mailp_vset(0.70710678f), b = mailp_vset(1.41421356f), half = mailp_vset(0.5f), two = mailp_vset(2.0f);
    const mailp_vec c = mailp_vset(2.5f);
    const mailp_vec d0 = mailp_vload(d), d1 = mailp_vload(d + ds), d2 = mailp_vload(d + 2 * ds), d3 = mailp_vload(d + 3 * ds);
    const mailp_vec d4 = mailp_vload(d + 4 * ds), d5 = mailp_vload(d + 5 * ds);
    const mailp_vec u = mailp_vnmadd(two, d2, d4), v = mailp_vnmadd(two, d1, d3);
    const mailp_vec s = mailp_vnmadd(half, d2, d4), t = mailp_vnmadd(half, d1, d3);
    mailp_vstore(o, mailp_vadd(mailp_vnmadd(c, d2, d0), d4));
    mailp_vstore(o + os, mailp_vmadd(a, v, u));
    mailp_vstore(o + 2 * os, mailp_vnmadd(a, v, u));
    mailp_vstore(o + 3 * os, mailp_vmadd(b, t, s));
    mailp_vstore(o + 4 * os, mailp_vnmadd(b, t, s));
    mailp_vstore(o + 5 * os, mailp_vadd(mailp_vnmadd(c, d3, d1), d5));
}

/* One dimension of At m: six vectors to four. */
MAILP_WORD void MAILP_FN(winograd4_out1)(float *o, size_t os, const float *m, size_t ms) {
    const mailp_vec a = mailp_vset(0.70710678f), b = mailp_vset(1.41421356f), half = mailp_vset(0.5f), two = mailp_vset(2.0f);
    const mailp_vec a3 = mailp_vset(0.35355339f), b3 = mailp_vset(2.82842712f);
    const mailp_vec m1 = mailp_vload(m + ms), m2 = mailp_vload(m + 2 * ms), m3 = mailp_vload(m + 3 * ms), m4 = mailp_vload(m + 4 * ms);
    const mailp_vec s = mailp_vadd(m1, m2), d = mailp_vsub(m1, m2), t = mailp_vadd(m3, m4), e = mailp_vsub(m3, m4);
    mailp_vstore(o, mailp_vadd(mailp_vadd(mailp_vload(m), s), t));
    mailp_vstore(o + os, mailp_vmadd(a, d, mailp_vmul(b, e)));
    mailp_vstore(o + 2 * os, mailp_vmadd(half, s, mailp_vmul(two, t)));
    mailp_vstore(o + 3 * os, mailp_vmadd(a3, d, mailp_vmadd(b3, e, mailp_vload(m + 5 * ms))));
}

MAILP_WORD void MAILP_FN(winograd2_in1)(float *o, size_t os, const float *d, size_t ds) {
    const mailp_vec d0 = mailp_vload(d), d1 = mailp_vload(d + ds), d2 = mailp_vload(d + 2 * ds), d3 = mailp_vload(d + 3 * ds);
    mailp_vstore(o, mailp_vsub(d0, d2));
    mailp_vstore(o + os, mailp_vadd(d1, d2));
    mailp_vstore(o + 2 * os, mailp_vsub(d2, d1));
    mailp_vstore(o + 3 * os, mailp_vsub(d1, d3));
}

MAILP_WORD void MAILP_FN(winograd2_out1)(float *o, size_t os, const float *m, size_t ms) {
    const mailp_vec m1 = mailp_vload(m + ms), m2 = mailp_vload(m + 2 * ms);
    mailp_vstore(o, mailp_vadd(mailp_vload(m), mailp_vadd(m1, m2)));
    mailp_vstore(o + os, mailp_vsub(mailp_vsub(m1, m2), mailp_vload(m + 3 * ms)));
}

/* v[i * n + j][t][16] = (Bt d B)[i][j] of every tile t of a block x, whose rows are `row` floats apart and whose border is
   included;  v [n * n] planes, `plane` floats apart, of [tiles][16] */
MAILP_KERNEL void MAILP_FN(winograd_in)(float *v, size_t plane, const float *x, size_t row, size_t tiles_h, size_t tiles_w, size_t tile) {
    const size_t n = tile + 2;
    float        tmp[36 * MAILP_W];
    size_t       lane, ty, tx, i;
    for (lane = 0; lane < MAILP_LANES; lane += MAILP_W) {
        for (ty = 0; ty < tiles_h; ty++) {
            for (tx = 0; tx < tiles_w; tx++) {
                const float *d = x + ty * tile * row + tx * tile * MAILP_LANES + lane;
                float       *o = v + (ty * tiles_w + tx) * MAILP_LANES + lane;
                if (tile == 4) {
                    for (i = 0; i < 6; i++) {
                        MAILP_FN(winograd4_in1)(tmp + i * MAILP_W, 6 * MAILP_W, d + i * MAILP_LANES, row);
                    }
                    for (i = 0; i < 6; i++) {
                        MAILP_FN(winograd4_in1)(o + i * n * plane, plane, tmp + 6 * i * MAILP_W, MAILP_W);
                    }
                } else {
                    for (i = 0; i < 4; i++) {
                        MAILP_FN(winograd2_in1)(tmp + i * MAILP_W, 4 * MAILP_W, d + i * MAILP_LANES, row);
                    }
                    for (i = 0; i < 4; i++) {
                        MAILP_FN(winograd2_in1)(o + i * n * plane, plane, tmp + 4 * i * MAILP_W, MAILP_W);
                    }
                }
            }
        }
    }
}

/* y [h][w][16] gets tiles begin..end-1, cut off at h and w;  m [n * n] planes, `plane` floats apart, of [end - begin][16] */
MAILP_KERNEL void MAILP_FN(winograd_out)(float *y, const float *m, size_t plane, size_t h, size_t w, size_t tile, size_t tiles_w,
                                         size_t begin, size_t end) {
    const size_t n = tile + 2;
    float        tmp[24 * MAILP_W], out[16 * MAILP_W];
    size_t       lane, t, i, j;
    for (lane = 0; lane < MAILP_LANES; lane += MAILP_W) {
        for (t = begin; t < end; t++) {
            const float *from = m + (t - begin) * MAILP_LANES + lane;
            const size_t y0 = t / tiles_w * tile, x0 = t % tiles_w * tile;
            const size_t rows = MAILP_MIN(tile, h - y0), columns = MAILP_MIN(tile, w - x0);
            float       *to = y + (y0 * w + x0) * MAILP_LANES + lane;
            if (tile == 4) {
                for (i = 0; i < 6; i++) {
                    MAILP_FN(winograd4_out1)(tmp + i * MAILP_W, 6 * MAILP_W, from + i * plane, n * plane);
                }
                if (rows == 4 && columns == 4) {
                    for (i = 0; i < 4; i++) {
                        MAILP_FN(winograd4_out1)(to + i * w * MAILP_LANES, MAILP_LANES, tmp + 6 * i * MAILP_W, MAILP_W);
                    }
                    continue;
                }
                for (i = 0; i < 4; i++) {
                    MAILP_FN(winograd4_out1)(out + 4 * i * MAILP_W, MAILP_W, tmp + 6 * i * MAILP_W, MAILP_W);
                }
            } else {
                for (i = 0; i < 4; i++) {
                    MAILP_FN(winograd2_out1)(tmp + i * MAILP_W, 4 * MAILP_W, from + i * plane, n * plane);
                }
                if (rows == 2 && columns == 2) {
                    for (i = 0; i < 2; i++) {
                        MAILP_FN(winograd2_out1)(to + i * w * MAILP_LANES, MAILP_LANES, tmp + 4 * i * MAILP_W, MAILP_W);
                    }
                    continue;
                }
                for (i = 0; i < 2; i++) {
                    MAILP_FN(winograd2_out1)(out + 2 * i * MAILP_W, MAILP_W, tmp + 4 * i * MAILP_W, MAILP_W);
                }
            }
            for (i = 0; i < rows; i++) {
                for (j = 0; j < columns; j++) {
                    mailp_vstore(to + (i * w + j) * MAILP_LANES, mailp_vload(out + (tile * i + j) * MAILP_W));
                }
            }
        }
    }
}

/* ---- sequences ---------------------------------------------------------------------------------------------------- */

/* e^x: x = n ln 2 + f, |f| <= ln 2 / 2, ln 2 in two parts so that f is exact to rounding; a polynomial of degree 6 for e^f
   (relative error 2e-9); the exponent is set at the end. Saturates near 2^-126 and 2^127; NaN stays NaN (the constant is the
   first operand of min and max for that reason). */
MAILP_WORD mailp_vec MAILP_FN(exp)(mailp_vec x) {
    mailp_vec n, f, p;
    x = mailp_vmax(mailp_vset(-87.33654f), mailp_vmin(mailp_vset(88.37626f), x));
    n = mailp_vround(mailp_vmul(x, mailp_vset(1.44269504f)));
    f = mailp_vnmadd(n, mailp_vset(0.693145752f), x);
    f = mailp_vnmadd(n, mailp_vset(1.42860677e-6f), f);
    p = mailp_vmadd(mailp_vset(1.38436e-3f), f, mailp_vset(8.37424e-3f));
    p = mailp_vmadd(p, f, mailp_vset(4.166801e-2f));
    p = mailp_vmadd(p, f, mailp_vset(0.1666643f));
    p = mailp_vmadd(p, f, mailp_vset(0.49999994f));
    p = mailp_vmadd(p, f, mailp_vset(1.00000003f));
    p = mailp_vmadd(p, f, mailp_vset(1.0f));
    return mailp_vscale(p, n);
}

/* 2^x for x <= 0: the decay of the scan, with log2(e) already in A. Degree 6, relative error 2e-9; 0 below -126 is 2^-126. */
MAILP_WORD mailp_vec MAILP_FN(exp2)(mailp_vec x) {
    mailp_vec n, f, p;
    x = mailp_vmax(mailp_vset(-126.0f), x);
    n = mailp_vround(x);
    f = mailp_vsub(x, n);
    p = mailp_vmadd(mailp_vset(1.53533621e-4f), f, mailp_vset(1.33988745e-3f));
    p = mailp_vmadd(p, f, mailp_vset(9.61843736e-3f));
    p = mailp_vmadd(p, f, mailp_vset(5.55033247e-2f));
    p = mailp_vmadd(p, f, mailp_vset(0.240226479f));
    p = mailp_vmadd(p, f, mailp_vset(0.693147203f));
    p = mailp_vmadd(p, f, mailp_vset(1.0f));
    return mailp_vscale(p, n);
}

/* x / (1 + e^-x) */
MAILP_WORD mailp_vec MAILP_FN(silu)(mailp_vec x) {
    return mailp_vdiv(x, mailp_vadd(mailp_vset(1.0f), MAILP_FN(exp)(mailp_vsub(mailp_vzero(), x))));
}

MAILP_WORD float MAILP_FN(sum)(mailp_vec x) {
    float  lane[MAILP_W], s = 0;
    size_t i;
    mailp_vstore(lane, x);
    for (i = 0; i < MAILP_W; i++) {
        s += lane[i];
    }
    return s;
}

/* y[m] = (x[m] - mean) / sqrt(variance + 1e-5) * gain + bias over the d values of each row; variance biased, in two passes.
   bias NULL: none.   y may be x.   Sums are taken lane by lane, so the last bits depend on the instruction set. */
MAILP_KERNEL void MAILP_FN(layer_norm)(float *y, size_t ldy, const float *x, size_t ldx, const float *gain, const float *bias,
                                       size_t rows, size_t d) {
    size_t whole = d / MAILP_W * MAILP_W, m, i;
    for (m = 0; m < rows; m++, x += ldx, y += ldy) {
        mailp_vec sum = mailp_vzero(), square = mailp_vzero(), centre, scale;
        float     mean, tail = 0, inverse;
        for (i = 0; i < whole; i += MAILP_W) {
            sum = mailp_vadd(sum, mailp_vload(x + i));
        }
        for (; i < d; i++) {
            tail += x[i];
        }
        mean   = (MAILP_FN(sum)(sum) + tail) / (float)d;
        centre = mailp_vset(mean);
        tail   = 0;
        for (i = 0; i < whole; i += MAILP_W) {
            mailp_vec v = mailp_vsub(mailp_vload(x + i), centre);
            square = mailp_vmadd(v, v, square);
        }
        for (; i < d; i++) {
            tail += (x[i] - mean) * (x[i] - mean);
        }
        inverse = 1.0f / sqrtf((MAILP_FN(sum)(square) + tail) / (float)d + 1e-5f);
        scale   = mailp_vset(inverse);
        for (i = 0; i < whole; i += MAILP_W) {
            mailp_vec v = mailp_vmul(mailp_vmul(mailp_vsub(mailp_vload(x + i), centre), scale), mailp_vload(gain + i));
            mailp_vstore(y + i, bias == NULL ? v : mailp_vadd(v, mailp_vload(bias + i)));
        }
        for (; i < d; i++) {
            float v = (x[i] - mean) * inverse * gain[i];
            y[i] = bias == NULL ? v : v + bias[i];
        }
    }
}

/* y[m] += x[m] */
MAILP_KERNEL void MAILP_FN(add)(float *y, size_t ldy, const float *x, size_t ldx, size_t rows, size_t panels) {
    size_t m, i;
    for (m = 0; m < rows; m++, x += ldx, y += ldy) {
        for (i = 0; i < panels * MAILP_LANES; i += MAILP_W) {
            mailp_vstore(y + i, mailp_vadd(mailp_vload(y + i), mailp_vload(x + i)));
        }
    }
}

/* Causal depthwise convolution and SiLU over one sequence:

       y[l][e] = silu(b[e] + sum_j w[j][e] * x[l - (d_conv - 1) + j][e])

   Rows of x before the first come from conv_state [d_conv - 1][ldc] (NULL: zeros). The last d_conv - 1 rows are left in
   conv_out (NULL: not wanted; may be conv_state).   w [d_conv][ldw], b [ldw], x [len][ldx], y [len][ldy]; y is not x. */
MAILP_KERNEL void MAILP_FN(conv1d_silu)(float *y, size_t ldy, const float *x, size_t ldx, const float *conv_state, float *conv_out,
                                        size_t ldc, const float *w, const float *b, size_t ldw,
                                        size_t len, size_t d_conv, size_t panels) {
    size_t l, j, i, past = d_conv - 1;
    for (l = 0; l < len; l++) {
        for (i = 0; i < panels * MAILP_LANES; i += MAILP_W) {
            mailp_vec s = mailp_vload(b + i);
            for (j = 0; j < d_conv; j++) {
                if (l + j >= past) {
                    s = mailp_vmadd(mailp_vload(w + j * ldw + i), mailp_vload(x + (l + j - past) * ldx + i), s);
                } else if (conv_state != NULL) {
                    s = mailp_vmadd(mailp_vload(w + j * ldw + i), mailp_vload(conv_state + (l + j) * ldc + i), s);
                }
            }
            mailp_vstore(y + l * ldy + i, MAILP_FN(silu)(s));
        }
    }
    for (j = 0; conv_out != NULL && j < past; j++) {
        const float *from = len + j >= past ? x + (len + j - past) * ldx : conv_state == NULL ? NULL : conv_state + (len + j) * ldc;
        for (i = 0; i < panels * MAILP_LANES; i += MAILP_W) {
            mailp_vstore(conv_out + j * ldc + i, from == NULL ? mailp_vzero() : mailp_vload(from + i));
        }
    }
}

/* x = softplus(x) = ln(1 + e^x) = max(x, 0) + ln(1 + u), u = e^-|x|; ln(1 + u) = 2 artanh(s), s = u / (2 + u) <= 1/3, as an odd
   polynomial (relative error 1e-10). PyTorch returns x itself above 20, which is the same to rounding. */
MAILP_KERNEL void MAILP_FN(softplus)(float *x, size_t ldx, size_t rows, size_t panels) {
    size_t m, i;
    for (m = 0; m < rows; m++, x += ldx) {
        for (i = 0; i < panels * MAILP_LANES; i += MAILP_W) {
            mailp_vec v = mailp_vload(x + i), above = mailp_vmax(mailp_vzero(), v);
            mailp_vec u = MAILP_FN(exp)(mailp_vsub(v, mailp_vadd(above, above)));  /* v - 2 max(v, 0) = -|v| */
            mailp_vec s = mailp_vdiv(u, mailp_vadd(mailp_vset(2.0f), u)), t = mailp_vmul(s, s), p;
            p = mailp_vmadd(mailp_vset(0.24289562f), t, mailp_vset(0.2143074f));
            p = mailp_vmadd(p, t, mailp_vset(0.28616597f));
            p = mailp_vmadd(p, t, mailp_vset(0.39998888f));
            p = mailp_vmadd(p, t, mailp_vset(0.66666676f));
            p = mailp_vmadd(p, t, mailp_vset(2.0f));
            mailp_vstore(x + i, mailp_vmadd(p, s, above));
        }
    }
}

/* x = 0.5 x (1 + erf(x / sqrt 2)) = max(x, 0) - |x| q, q = 0.5 erfc(|x| / sqrt 2) = 2^P(|x|) with P of degree 9:
   |error| <= 1e-7 |x| everywhere, no cancellation for negative x. Above 6.5, q < 4e-11 no longer matters. */
MAILP_KERNEL void MAILP_FN(gelu)(float *x, size_t ldx, size_t rows, size_t panels) {
    size_t m, i;
    for (m = 0; m < rows; m++, x += ldx) {
        for (i = 0; i < panels * MAILP_LANES; i += MAILP_W) {
            mailp_vec v = mailp_vload(x + i), above = mailp_vmax(mailp_vzero(), v), size = mailp_vsub(mailp_vadd(above, above), v);
            mailp_vec a = mailp_vmin(mailp_vset(6.5f), size), p;
            p = mailp_vmadd(mailp_vset(2.860954282e-7f), a, mailp_vset(-6.442018275e-6f));
            p = mailp_vmadd(p, a, mailp_vset(5.793922537e-5f));
            p = mailp_vmadd(p, a, mailp_vset(-2.365801338e-4f));
            p = mailp_vmadd(p, a, mailp_vset(-5.905974103e-5f));
            p = mailp_vmadd(p, a, mailp_vset(6.994694937e-3f));
            p = mailp_vmadd(p, a, mailp_vset(-5.246334895e-2f));
            p = mailp_vmadd(p, a, mailp_vset(-4.592155814e-1f));
            p = mailp_vmadd(p, a, mailp_vset(-1.151104689f));
            p = mailp_vmadd(p, a, mailp_vset(-1.0f));
            mailp_vstore(x + i, mailp_vnmadd(size, MAILP_FN(exp2)(p), above));
        }
    }
}

/* Selective state space model over one sequence, with the gate:

       ssm_state[s][e] = 2^(dt[l][e] * A[s][e]) * ssm_state[s][e] + dt[l][e] * B[l][s] * x[l][e]
       y[l][e]         = (sum_s C[l][s] * ssm_state[s][e] + D[e] * x[l][e]) * silu(z[l][e])

   y         [len][ldy]      out; may be x, dt or z
   state_out [d_state][lda]  out, the state after the last token; NULL: not wanted; may be state_in
   state_in  [d_state][lda]  the state before the first token; NULL: zeros
   x         [len][ldx]      after conv1d and silu
   dt        [len][lddt]     > 0, after softplus
   A         [d_state][lda]  -exp(A_log) * log2(e), channels last; so a vector holds neighbouring channels, every d_state
                             fits and no sum over lanes is needed
   B, C      [len][ldbc]     d_state values per token
   D         [..]            skip weights
   z         [len][ldz]      NULL: no gate

   Source:  arXiv 2312.00752, sections 2 and 3.2, with dt * B in place of the exact integral, as released weights were trained.
   Numbers: sums run over s in two alternating accumulators, the same on every instruction set.
   Cost:    len * d_inner * d_state exponentials dominate. The state of a panel stays in the first-level cache. */
MAILP_KERNEL void MAILP_FN(scan)(float *y, size_t ldy, float *state_out, const float *state_in, const float *x, size_t ldx,
                                 const float *dt, size_t lddt, const float *A, size_t lda, const float *B, const float *C,
                                 size_t ldbc, const float *D, const float *z, size_t ldz,
                                 size_t len, size_t d_state, size_t panels) {
    float  state[MAILP_MAX_STATE * MAILP_W];
    size_t i, l, s;
    for (i = 0; i < panels * MAILP_LANES; i += MAILP_W) {
        const mailp_vec skip = mailp_vload(D + i);
        for (s = 0; s < d_state; s++) {
            mailp_vstore(state + s * MAILP_W, state_in == NULL ? mailp_vzero() : mailp_vload(state_in + s * lda + i));
        }
        for (l = 0; l < len; l++) {
            const float    *Bl = B + l * ldbc, *Cl = C + l * ldbc;
            const mailp_vec xv = mailp_vload(x + l * ldx + i), dv = mailp_vload(dt + l * lddt + i), in = mailp_vmul(dv, xv);
            mailp_vec       even = mailp_vmul(skip, xv), odd = mailp_vzero(), h;
            for (s = 0; s + 2 <= d_state; s += 2) {
                h = mailp_vmadd(MAILP_FN(exp2)(mailp_vmul(dv, mailp_vload(A + s * lda + i))), mailp_vload(state + s * MAILP_W),
                                mailp_vmul(in, mailp_vset(Bl[s])));
                mailp_vstore(state + s * MAILP_W, h);
                even = mailp_vmadd(h, mailp_vset(Cl[s]), even);
                h = mailp_vmadd(MAILP_FN(exp2)(mailp_vmul(dv, mailp_vload(A + (s + 1) * lda + i))),
                                mailp_vload(state + (s + 1) * MAILP_W), mailp_vmul(in, mailp_vset(Bl[s + 1])));
                mailp_vstore(state + (s + 1) * MAILP_W, h);
                odd = mailp_vmadd(h, mailp_vset(Cl[s + 1]), odd);
            }
            if (s < d_state) {
                h = mailp_vmadd(MAILP_FN(exp2)(mailp_vmul(dv, mailp_vload(A + s * lda + i))), mailp_vload(state + s * MAILP_W),
                                mailp_vmul(in, mailp_vset(Bl[s])));
                mailp_vstore(state + s * MAILP_W, h);
                even = mailp_vmadd(h, mailp_vset(Cl[s]), even);
            }
            even = mailp_vadd(even, odd);
            if (z != NULL) {
                even = mailp_vmul(even, MAILP_FN(silu)(mailp_vload(z + l * ldz + i)));
            }
            mailp_vstore(y + l * ldy + i, even);
        }
        for (s = 0; state_out != NULL && s < d_state; s++) {
            mailp_vstore(state_out + s * lda + i, mailp_vload(state + s * MAILP_W));
        }
    }
}

/* One head of attention:  y[i] (+)= sum_j p[i][j] v[j],  p[i] = softmax_j(q[i] . k[j] / sqrt(head_dim))

   Query i sees the first min(visible + i, n_kv) keys: visible = past + 1 makes it causal, visible = n_kv sees all.
   y [n_q][ldy], q [n_q][ldq], k and v [n_kv][ldkv], each pointing at the head's first channel.   accumulate: add to y.
   scores: scratch, n_kv rounded up to 16.   Cost: n_q * n_kv * head_dim multiply-adds twice. */
MAILP_KERNEL void MAILP_FN(attend)(float *y, size_t ldy, const float *q, size_t ldq, const float *k, const float *v, size_t ldkv,
                                   float *scores, size_t n_q, size_t n_kv, size_t visible, size_t head_dim, int accumulate) {
    const float scale = 1.0f / sqrtf((float)head_dim);
    size_t      whole = head_dim / MAILP_W * MAILP_W, i, j, c;
    for (i = 0; i < n_q; i++, q += ldq, y += ldy) {
        size_t    n = MAILP_MIN(visible + i, n_kv);
        float     most = -FLT_MAX, sum;
        mailp_vec total = mailp_vzero();
        for (j = 0; j < n; j++) {
            mailp_vec s = mailp_vzero();
            float     dot = 0;
            for (c = 0; c < whole; c += MAILP_W) {
                s = mailp_vmadd(mailp_vload(q + c), mailp_vload(k + j * ldkv + c), s);
            }
            for (; c < head_dim; c++) {
                dot += q[c] * k[j * ldkv + c];
            }
            scores[j] = (MAILP_FN(sum)(s) + dot) * scale;
            most      = scores[j] > most ? scores[j] : most;
        }
        for (; j < (n + MAILP_W - 1) / MAILP_W * MAILP_W; j++) {
            scores[j] = -FLT_MAX;  /* whole vectors: e^-huge is 0 to rounding */
        }
        for (j = 0; j < n; j += MAILP_W) {
            mailp_vec e = MAILP_FN(exp)(mailp_vsub(mailp_vload(scores + j), mailp_vset(most)));
            mailp_vstore(scores + j, e);
            total = mailp_vadd(total, e);
        }
        sum = MAILP_FN(sum)(total);
        for (j = 0; j < n; j++) {
            scores[j] /= sum;
        }
        for (c = 0; c < whole; c += MAILP_W) {
            mailp_vec s = mailp_vzero();
            for (j = 0; j < n; j++) {
                s = mailp_vmadd(mailp_vset(scores[j]), mailp_vload(v + j * ldkv + c), s);
            }
            mailp_vstore(y + c, accumulate ? mailp_vadd(mailp_vload(y + c), s) : s);
        }
        for (; c < head_dim; c++) {
            float s = 0;
            for (j = 0; j < n; j++) {
                s += scores[j] * v[j * ldkv + c];
            }
            y[c] = accumulate ? y[c] + s : s;
        }
    }
}

static const mailp_kernels MAILP_FN(kernels) = {
    MAILP_NAME,
    MAILP_FN(gemm),
    MAILP_FN(layer_norm),
    MAILP_FN(add),
    MAILP_FN(conv1d_silu),
    MAILP_FN(softplus),
    MAILP_FN(gelu),
    MAILP_FN(scan),
    MAILP_FN(attend),
    /* vision */
    MAILP_FN(conv),
    MAILP_CONV_PANELS,
    MAILP_FN(group_norm),
    MAILP_FN(max_pool),
    MAILP_FN(winograd_in),
    MAILP_FN(winograd_out),
};

/* the words of this pass end here */
#undef MAILP_FN
#undef MAILP_ATTR
#undef MAILP_KERNEL
#undef MAILP_WORD
#undef MAILP_W
#undef MAILP_V
#undef mailp_vec
#undef mailp_vzero
#undef mailp_vset
#undef mailp_vload
#undef mailp_vstore
#undef mailp_vadd
#undef mailp_vsub
#undef mailp_vmul
#undef mailp_vdiv
#undef mailp_vmax
#undef mailp_vmin
#undef mailp_vsqrt
#undef mailp_vmadd
#undef mailp_vnmadd
#undef mailp_vround
#undef mailp_vscale
#undef MAILP_CONV_PANELS
#undef MAILP_NAME
#endif /* MAILP_PASS: end of >>kernels */

#if !defined(MAILP_PASS) && defined(MAIL_IMPLEMENTATION) && !defined(MAILP_UPPER_HALF)
#define MAILP_UPPER_HALF

#if defined(MAILP_X86)
/* What cpuid and the operating system (xgetbv: are the wide registers saved?) allow. */
static void mailp_cpu(int *avx2, int *avx512) {
    unsigned a, b, c, d, xcr0 = 0;
    *avx2 = *avx512 = 0;
#if defined(_MSC_VER) && !defined(__clang__)
    {
        int r[4];
        __cpuid(r, 0);
        if (r[0] < 7) {
            return;
        }
        __cpuid(r, 1);
        c = (unsigned)r[2];
        if (!(c & (1u << 27))) {
            return;
        }
        xcr0 = (unsigned)_xgetbv(0);
        if (!(c & (1u << 12)) || !(c & (1u << 28))) {
            return;
        }
        __cpuidex(r, 7, 0);
        b = (unsigned)r[1];
        (void)a;
        (void)d;
    }
#else
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27)) || !(c & (1u << 12)) || !(c & (1u << 28))) {
        return;  /* no osxsave, fma or avx */
    }
    {
        unsigned high;
        __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    }
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        return;
    }
#endif
    *avx2   = (xcr0 & 0x06) == 0x06 && (b & (1u << 5));
    *avx512 = *avx2 && (xcr0 & 0xe6) == 0xe6 && (b & (1u << 16)) && (b & (1u << 17)) && (b & (1u << 30)) && (b & (1u << 31));
}
#endif

/* The table named isa, or the best of this machine for NULL; NULL if this machine or build has no such set. */
MAILP_UNUSED static const mailp_kernels *mailp_kernels_choose(const char *isa) {
#if defined(MAILP_X86)
    int avx2, avx512;
    mailp_cpu(&avx2, &avx512);
    if (avx512 && (isa == NULL || strcmp(isa, "avx512") == 0)) {
        return &mailp_kernels_avx512;
    }
    if (avx2 && (isa == NULL || strcmp(isa, "avx2") == 0)) {
        return &mailp_kernels_avx2;
    }
#elif defined(MAILP_ARM)
    if (isa == NULL || strcmp(isa, "neon") == 0) {
        return &mailp_kernels_neon;
    }
#endif
    return isa == NULL || strcmp(isa, "scalar") == 0 ? &mailp_kernels_scalar : NULL;
}

/* ================================================================================================================
   >>layers   weights read and packed; kernels joined to weights: linear, norms, attention, mamba block
   ============================================================================================================= */

/* Loading runs twice over the same code (see mailp_arena): first shapes are checked and sizes added up, then tensors are
   read and packed. The first failure sticks in status, and everything after it does nothing. */
typedef struct mailp_loader {
    const mail_tensors  *tensors;
    const mailp_kernels *kernels;
    mail_weights         weights;
    mailp_arena          arena;    /* packed weights */
    float               *tmp;      /* one tensor at a time, as float32; NULL while measuring */
    size_t               tmp_need; /* floats; grows while measuring */
    unsigned char       *used;     /* [mail_tensors_count] tensors that were asked for */
    size_t               n_parameters;
    mail_status          status;
    mail_error          *err;
} mailp_loader;

static int mailp_loading(const mailp_loader *l) {
    return l->status == MAIL_OK && l->arena.base != NULL;
}

/* name with the first occurrence of from replaced by to, in out; 0 if from is not there */
static int mailp_rename(char *out, size_t size, const char *name, const char *from, const char *to) {
    const char *at = strstr(name, from);
    if (at == NULL) {
        return 0;
    }
    (void)snprintf(out, size, "%.*s%s%s", (int)(at - name), name, to, at + strlen(from));
    return 1;
}

/* The tensor of that name. Modules that a checkpoint registers twice (robomimic's backbone = nets.0 and pool = nets.1) are found
   under either name; both are marked as used, and if a file carries both they must be equal. */
static const mail_tensor *mailp_find(mailp_loader *l, const char *name) {
    char               other[256];
    const mail_tensor *a = mail_tensors_find(l->tensors, name), *b = NULL;
    if (mailp_rename(other, sizeof other, name, ".backbone.", ".nets.0.") || mailp_rename(other, sizeof other, name, ".pool.", ".nets.1.")) {
        b = mail_tensors_find(l->tensors, other);
    }
    if (a != NULL) {
        l->used[a - mail_tensors_at(l->tensors, 0)] = 1;
    }
    if (b != NULL) {
        l->used[b - mail_tensors_at(l->tensors, 0)] = 1;
    }
    if (a != NULL && b != NULL && a->data != b->data && a->dtype == b->dtype && a->count == b->count &&
        memcmp(a->data, b->data, (size_t)a->count * mail_dtype_size(a->dtype)) != 0) {
        l->status = mailp_fail(l->err, MAIL_E_TENSOR, "tensors '%s' and '%s' are two names of one thing, but their values differ", name, other);
        return NULL;
    }
    return a != NULL ? a : b;
}

/* Fetch a weight as float32, row-major, with exactly this shape. While measuring only the shape is checked.
   Returns values that hold until the next call, or NULL while measuring and after a failure. */
static const float *mailp_load(mailp_loader *l, const char *name, unsigned n_dims, size_t d0, size_t d1, size_t d2, size_t d3) {
    const mail_tensor *t;
    size_t             want[4], n = 1, i;
    unsigned           d;
    int                same;
    want[0] = d0;
    want[1] = d1;
    want[2] = d2;
    want[3] = d3;
    if (l->status != MAIL_OK) {
        return NULL;
    }
    t = mailp_find(l, name);
    if (l->status != MAIL_OK) {
        return NULL;
    }
    if (t == NULL) {
        l->status = mailp_fail(l->err, MAIL_E_TENSOR, "tensor '%s' is missing", name);
        return NULL;
    }
    same = t->n_dims == n_dims;
    for (d = 0; d < n_dims; d++) {
        same = same && t->shape[d] == want[d];
        n *= want[d];
    }
    if (!same) {
        char   found[160] = "", expected[160] = "";
        size_t at = 0;
        for (d = 0; d < t->n_dims && at < sizeof found - 24; d++) {
            at += (size_t)snprintf(found + at, sizeof found - at, d ? ", %llu" : "%llu", (unsigned long long)t->shape[d]);
        }
        for (d = 0, at = 0; d < n_dims; d++) {
            at += (size_t)snprintf(expected + at, sizeof expected - at, d ? ", %llu" : "%llu", (unsigned long long)want[d]);
        }
        l->status = mailp_fail(l->err, MAIL_E_TENSOR, "tensor '%s' has shape [%s], expected [%s]", name, found, expected);
        return NULL;
    }
    if (t->dtype != MAIL_F32 && t->dtype != MAIL_F16 && t->dtype != MAIL_BF16 && t->dtype != MAIL_F64) {
        l->status = mailp_fail(l->err, MAIL_E_TENSOR, "tensor '%s' has dtype %s, expected F32, F16, BF16 or F64", name,
                               mail_dtype_name(t->dtype));
        return NULL;
    }
    if (l->tmp == NULL) {
        l->tmp_need = MAILP_MAX(l->tmp_need, n);
        l->n_parameters += n;
        return NULL;
    }
    l->status = mail_tensor_read(t, l->tmp, n, l->err);
    mailp_tensors_release(l->tensors, t);
    for (i = 0; l->status == MAIL_OK && i < n; i++) {
        if (!(fabsf(l->tmp[i]) <= FLT_MAX)) {
            l->status = mailp_fail(l->err, MAIL_E_NUMBER, "tensor '%s' holds a value that is not a finite float32 at index %llu", name,
                                   (unsigned long long)i);
        }
    }
    return l->status == MAIL_OK ? l->tmp : NULL;
}

/* ================================================================================================================
   >>vision   image preparation, resnet18, spatial_softmax

   In:  a picture of any format and size, and a camera's weights.
   Out: the camera's features (and keypoints). Section 3 of the model: ResNet-18 with GroupNorm, 16 channels a group.

   Maps are kept as [channels / 16][rows][columns][16] with a border of zeros, so a block of 16 channels is one contiguous
   piece and exactly one group of a GroupNorm. A task that owns blocks convolves them, takes their statistics, normalises,
   adds the skip and applies relu while they are in its cache; no sum is ever split between tasks, so results do not
   depend on the number of threads.
   ============================================================================================================= */

static const float mailp_image_mean[3] = { 0.485f, 0.456f, 0.406f };
static const float mailp_image_std[3]  = { 0.229f, 0.224f, 0.225f };

/* Bytes of one row of pixels without padding; width at most MAIL_MAX_IMAGE. */
static size_t mailp_image_row_bytes(mail_format format, size_t width) {
    switch (format) {
        case MAIL_RGB8:
        case MAIL_BGR8:       return 3 * width;
        case MAIL_RGBA8:
        case MAIL_BGRA8:      return 4 * width;
        case MAIL_YUYV:       return 2 * width;
        case MAIL_F32_PLANAR: return sizeof(float) * width;
        case MAIL_GRAY8:
        case MAIL_NV12:
        case MAIL_FORMAT_COUNT:
        default:              return width;
    }
}

static size_t mailp_image_stride(const mail_image *image) {
    return image->stride != 0 ? image->stride : mailp_image_row_bytes(image->format, image->width);
}

/* First byte of the row that is y-th from the picture's top, in plane 0. */
static const unsigned char *mailp_image_at(const mail_image *image, size_t y) {
    return (const unsigned char *)image->data + (image->flip ? image->height - 1 - y : y) * mailp_image_stride(image);
}

/* Is this a picture that can be read? Floats are looked at one by one. */
static mail_status mailp_image_check(const mail_image *image, mail_error *err) {
    size_t stride, row, planes, x, y, c;
    if (image == NULL || image->data == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "image: no data");
    }
    if ((unsigned)image->format >= MAIL_FORMAT_COUNT) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "image: unknown format %d", (int)image->format);
    }
    if (image->width == 0 || image->height == 0 || image->width > MAIL_MAX_IMAGE || image->height > MAIL_MAX_IMAGE) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "image: size %llu x %llu, expected 1 x 1 to %d x %d",
                          (unsigned long long)image->width, (unsigned long long)image->height, MAIL_MAX_IMAGE, MAIL_MAX_IMAGE);
    }
    if ((image->format == MAIL_YUYV || image->format == MAIL_NV12) && image->width % 2 != 0) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "image: width %llu, expected an even number for yuyv and nv12",
                          (unsigned long long)image->width);
    }
    if (image->format == MAIL_NV12 && image->height % 2 != 0) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "image: height %llu, expected an even number for nv12",
                          (unsigned long long)image->height);
    }
    row    = mailp_image_row_bytes(image->format, image->width);
    stride = mailp_image_stride(image);
    planes = image->format == MAIL_F32_PLANAR ? 3 : 2;
    if (stride < row || stride > SIZE_MAX / 2 / planes / image->height) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "image: stride %llu bytes, expected 0 or at least %llu for %llu pixels",
                          (unsigned long long)stride, (unsigned long long)row, (unsigned long long)image->width);
    }
    if (image->format == MAIL_F32_PLANAR) {
        if ((uintptr_t)image->data % sizeof(float) != 0 || stride % sizeof(float) != 0) {
            return mailp_fail(err, MAIL_E_ARGUMENT, "image: float data or stride is not a multiple of %d bytes", (int)sizeof(float));
        }
        for (c = 0; c < 3; c++) {
            for (y = 0; y < image->height; y++) {
                const float *v = (const float *)(const void *)(mailp_image_at(image, y) + c * image->height * stride);
                for (x = 0; x < image->width; x++) {
                    if (!(v[x] >= 0.0f && v[x] <= 1.0f)) {
                        return mailp_fail(err, MAIL_E_NUMBER, "image: channel %d is %g at column %llu, row %llu, expected 0..1",
                                          (int)c, (double)v[x], (unsigned long long)x, (unsigned long long)y);
                    }
                }
            }
        }
    }
    return MAIL_OK;
}

static unsigned char mailp_u8(int v) {
    return (unsigned char)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* BT.601, limited range (16..235, 16..240) to RGB 0..255; coefficients in 1/65536 */
static void mailp_yuv(unsigned char *rgb, int y, int u, int v) {
    y = (y - 16) * 76309 + 32768;
    u -= 128;
    v -= 128;
    rgb[0] = mailp_u8((y + 104597 * v) / 65536);
    rgb[1] = mailp_u8((y - 25675 * u - 53279 * v) / 65536);
    rgb[2] = mailp_u8((y + 132201 * u) / 65536);
}

/* Row y from the picture's top of an 8-bit image as [width][3]: in place where it is so already, else written to rgb. */
static const unsigned char *mailp_image_row(unsigned char *rgb, const mail_image *image, size_t y) {
    const unsigned char *from = mailp_image_at(image, y);
    const size_t         width = image->width;
    size_t               x;
    switch (image->format) {
        case MAIL_BGR8:
            for (x = 0; x < width; x++) {
                rgb[3 * x]     = from[3 * x + 2];
                rgb[3 * x + 1] = from[3 * x + 1];
                rgb[3 * x + 2] = from[3 * x];
            }
            return rgb;
        case MAIL_RGBA8:
            for (x = 0; x < width; x++) {
                rgb[3 * x]     = from[4 * x];
                rgb[3 * x + 1] = from[4 * x + 1];
                rgb[3 * x + 2] = from[4 * x + 2];
            }
            return rgb;
        case MAIL_BGRA8:
            for (x = 0; x < width; x++) {
                rgb[3 * x]     = from[4 * x + 2];
                rgb[3 * x + 1] = from[4 * x + 1];
                rgb[3 * x + 2] = from[4 * x];
            }
            return rgb;
        case MAIL_GRAY8:
            for (x = 0; x < width; x++) {
                rgb[3 * x] = rgb[3 * x + 1] = rgb[3 * x + 2] = from[x];
            }
            return rgb;
        case MAIL_YUYV:
            for (x = 0; x < width; x += 2) {
                const unsigned char *p = from + 2 * x;
                mailp_yuv(rgb + 3 * x, p[0], p[1], p[3]);
                mailp_yuv(rgb + 3 * x + 3, p[2], p[1], p[3]);
            }
            return rgb;
        case MAIL_NV12: {
            /* two rows share one row of U V pairs; those follow the last row of Y */
            const size_t         in_memory = image->flip ? image->height - 1 - y : y;
            const unsigned char *uv = (const unsigned char *)image->data + (image->height + in_memory / 2) * mailp_image_stride(image);
            for (x = 0; x < width; x++) {
                mailp_yuv(rgb + 3 * x, from[x], uv[x / 2 * 2], uv[x / 2 * 2 + 1]);
            }
            return rgb;
        }
        case MAIL_RGB8:
        case MAIL_F32_PLANAR:
        case MAIL_FORMAT_COUNT:
        default:
            return from;
    }
}

/* Resizing of n samples to m: output i is a mean of `count` inputs from `first` on with the weights w_first, w_inner ...,
   w_last, whose sum is total. Shrinking (m <= n) is by area: input j covers j..j+1 and output i covers i*n/m..(i+1)*n/m.
   Enlarging is linear between the centres of the inputs, and constant beyond the outermost. All are integers. */
typedef struct mailp_filter {
    size_t first, count;
    double w_first, w_inner, w_last, total;
} mailp_filter;

static mailp_filter mailp_filter_at(size_t i, size_t n, size_t m) {
    mailp_filter f;
    f.w_inner = (double)m;
    if (m <= n) {
        size_t lo = i * n, hi = lo + n, last = (hi - 1) / m;
        f.first   = lo / m;
        f.count   = last - f.first + 1;
        f.w_first = (double)(f.count == 1 ? n : (f.first + 1) * m - lo);
        f.w_last  = (double)(hi - last * m);
        f.total   = (double)n;
    } else {
        size_t at = (2 * i + 1) * n, rest;  /* 2m times the position of the output's centre; inputs' centres are at (2j + 1) m */
        f.total = (double)(2 * m);
        f.first = at < m ? 0 : (at - m) / (2 * m);
        rest    = at < m ? 0 : (at - m) % (2 * m);
        f.count = rest == 0 || f.first + 1 >= n ? 1 : 2;
        f.w_first = (double)(f.count == 1 ? 2 * m : 2 * m - rest);
        f.w_last  = (double)rest;
    }
    return f;
}

/* Row y of the picture as the network sees it, [width][3], normalised:  v = (u / 255 - mean) / std.

   to     [width][3]
   table  [3][256]    the same for all 8-bit values
   rgb    scratch, 3 * MAIL_MAX_IMAGE bytes
   sums   scratch, [width][3]
   Sums of 8-bit values times weights are whole numbers below 2^53, so those of doubles are exact. */
static void mailp_image_prepare(float *to, const mail_image *image, size_t y, size_t height, size_t width, const float *table,
                                unsigned char *rgb, double *sums) {
    const int    is_float = image->format == MAIL_F32_PLANAR;
    const size_t plane = image->height * mailp_image_stride(image);
    mailp_filter fy;
    size_t       x, c, j, k;
    if (image->height == height && image->width == width && !is_float) {
        const unsigned char *row = mailp_image_row(rgb, image, y);
        for (x = 0; x < width; x++) {
            to[3 * x]     = table[row[3 * x]];
            to[3 * x + 1] = table[256 + row[3 * x + 1]];
            to[3 * x + 2] = table[512 + row[3 * x + 2]];
        }
        return;
    }
    if (image->height == height && image->width == width) {
        for (c = 0; c < 3; c++) {
            const float *row = (const float *)(const void *)(mailp_image_at(image, y) + c * plane);
            for (x = 0; x < width; x++) {
                to[3 * x + c] = (row[x] - mailp_image_mean[c]) / mailp_image_std[c];
            }
        }
        return;
    }
    fy = mailp_filter_at(y, image->height, height);
    for (x = 0; x < 3 * width; x++) {
        sums[x] = 0;
    }
    for (k = 0; k < fy.count; k++) {
        const double         wy = k == 0 ? fy.w_first : k + 1 == fy.count ? fy.w_last : fy.w_inner;
        const unsigned char *row = is_float ? mailp_image_at(image, fy.first + k) : mailp_image_row(rgb, image, fy.first + k);
        for (x = 0; x < width; x++) {
            const mailp_filter fx = mailp_filter_at(x, image->width, width);
            double             s[3] = { 0, 0, 0 };
            for (j = 0; j < fx.count; j++) {
                const double wx = j == 0 ? fx.w_first : j + 1 == fx.count ? fx.w_last : fx.w_inner;
                if (is_float) {
                    const float *at = (const float *)(const void *)row + fx.first + j;
                    for (c = 0; c < 3; c++) {
                        s[c] += wx * (double)at[c * (plane / sizeof(float))];
                    }
                } else {
                    const unsigned char *at = row + 3 * (fx.first + j);
                    s[0] += wx * at[0];
                    s[1] += wx * at[1];
                    s[2] += wx * at[2];
                }
            }
            for (c = 0; c < 3; c++) {
                sums[3 * x + c] += wy * s[c] / (is_float ? fx.total * fy.total : 1.0);
            }
        }
    }
    for (x = 0; x < 3 * width; x++) {
        c = x % 3;
        if (is_float) {
            to[x] = ((float)sums[x] - mailp_image_mean[c]) / mailp_image_std[c];
        } else {
            const double total = fy.total * mailp_filter_at(0, image->width, width).total;
            to[x] = table[256 * c + (size_t)(sums[x] / total + 0.5)];
        }
    }
}

/* ---- the network ------------------------------------------------------------------------------------------------- */

/* A map as a convolution reads it: [blocks][rows][columns][16], the picture's pixel (0, 0) at row 1, column 1, zeros
   around it. Rows and columns are rounded up so that tiles of 4 x 4 outputs never read beyond. */
static size_t mailp_map_side(size_t n) {
    return (n + 3) / 4 * 4 + 2;
}

/* A convolution without bias and the GroupNorm after it. */
typedef struct mailp_conv {
    size_t           c_in, c_out, h_in, w_in, h_out, w_out;
    mailp_conv_shape shape;
    size_t           tile;         /* 4 or 2: by Winograd; 0: directly */
    size_t           tiles_h, tiles_w;
    const float     *w;            /* see mailp_conv_pack; by Winograd mailp_winograd_pack */
    const float     *gamma, *beta; /* [c_out] */
} mailp_conv;

typedef struct mailp_basic_block {
    mailp_conv conv1, conv2, downsample;
    int        has_downsample;
} mailp_basic_block;

typedef struct mailp_resnet {
    size_t            height, width, feature_dim, n_keypoints;
    mailp_conv        stem;
    mailp_basic_block block[8];
    mailp_conv        keypoint_conv;  /* 1 x 1; no GroupNorm, a bias instead */
    const float      *keypoint_bias;  /* [n_keypoints] */
    const float      *pos_x, *pos_y;  /* [map_height * map_width] */
    float             temperature;
    const float      *linear_w, *linear_bias;  /* panels of feature_dim, depth 2 * n_keypoints */
    const float      *table;          /* [3][256] normalised pixel values */
} mailp_resnet;

/* Scratch of one encoding. */
typedef struct mailp_resnet_buffers {
    float         *image;      /* [height + 6][width + 6][3], normalised, border 0 */
    float         *raw;        /* outputs of the convolution at work, dense [blocks][h][w][16] */
    float         *map[3];     /* bordered maps */
    float         *v[2];       /* Winograd's inputs of this convolution and the next, [n * n][blocks][tiles][16] */
    float         *m;          /* [threads][n * n][4][MAILP_TILES][16], its products */
    unsigned char *rgb;        /* [threads][3 * MAIL_MAX_IMAGE] */
    double        *sums;       /* [threads][width][3] */
    float         *keypoints;  /* [n_keypoints][2] */
    float         *features;   /* padded to whole panels */
} mailp_resnet_buffers;

#define MAILP_CONV_GROUP 4  /* largest conv_group of the kernel tables */
#define MAILP_TILES      32 /* Winograd's tiles at a time: products for 4 blocks, 295 KB, stay in the second-level cache */

/* floats of Winograd's input */
static size_t mailp_winograd_floats(const mailp_conv *conv) {
    return (conv->tile + 2) * (conv->tile + 2) * conv->c_in * conv->tiles_h * conv->tiles_w;
}

static size_t mailp_conv_map(const mailp_conv *conv) {
    return conv->c_out * mailp_map_side(conv->h_out) * mailp_map_side(conv->w_out);
}

static void mailp_resnet_layout(mailp_resnet_buffers *buffers, mailp_arena *arena, const mailp_resnet *net, size_t n_threads) {
    size_t i, raw = net->stem.c_out * net->stem.h_out * net->stem.w_out, map = 0, v = 0, planes = 0;
    for (i = 0; i < 16; i++) {
        const mailp_conv *conv = i % 2 == 0 ? &net->block[i / 2].conv1 : &net->block[i / 2].conv2;
        if (conv->tile != 0) {
            v      = MAILP_MAX(v, mailp_winograd_floats(conv));
            planes = MAILP_MAX(planes, (conv->tile + 2) * (conv->tile + 2));
        }
    }
    for (i = 0; i < 8; i++) {
        /* the first block's input is as large as its output */
        map = MAILP_MAX(map, mailp_conv_map(&net->block[i].conv2));
        raw = MAILP_MAX(raw, net->block[i].conv2.c_out * net->block[i].conv2.h_out * net->block[i].conv2.w_out);
    }
    raw = MAILP_MAX(raw, net->keypoint_conv.c_out * net->keypoint_conv.h_out * net->keypoint_conv.w_out);
    buffers->image     = mailp_take_floats(arena, (net->height + 6) * (net->width + 6) * 3);
    buffers->raw       = mailp_take_floats(arena, raw);
    buffers->map[0]    = mailp_take_floats(arena, map);
    buffers->map[1]    = mailp_take_floats(arena, map);
    buffers->map[2]    = mailp_take_floats(arena, map);
    buffers->v[0]      = mailp_take_floats(arena, v);
    buffers->v[1]      = mailp_take_floats(arena, v);
    buffers->m         = mailp_take_floats(arena, n_threads * planes * MAILP_CONV_GROUP * MAILP_TILES * MAILP_LANES);
    buffers->rgb       = (unsigned char *)mailp_take(arena, n_threads * 3 * MAIL_MAX_IMAGE);
    buffers->sums      = (double *)mailp_take(arena, n_threads * net->width * 3 * sizeof(double));
    buffers->keypoints = mailp_take_floats(arena, 2 * net->n_keypoints);
    buffers->features  = mailp_take_floats(arena, mailp_pad(net->feature_dim));
}

/* Bytes of scratch, aligned to 64, that mailp_resnet_encode needs with that many threads. */
static size_t mailp_resnet_scratch(const mailp_resnet *net, size_t n_threads) {
    mailp_resnet_buffers buffers;
    mailp_arena          arena;
    arena.base = NULL;
    arena.used = 0;
    mailp_resnet_layout(&buffers, &arena, net, MAILP_MAX(n_threads, (size_t)1));
    return arena.used;
}

/* Load n floats named prefix + name (one dimension) into memory of their own, padded with zeros to whole panels. */
static const float *mailp_resnet_vector(mailp_loader *loader, const char *prefix, const char *name, size_t n) {
    char         full[256];
    const float *from;
    float       *to;
    (void)snprintf(full, sizeof full, "%s%s", prefix, name);
    from = mailp_load(loader, full, 1, n, 0, 0, 0);
    to   = mailp_take_floats(&loader->arena, mailp_pad(n));
    if (from != NULL && to != NULL) {
        memset(to, 0, mailp_pad(n) * sizeof(float));
        memcpy(to, from, n * sizeof(float));
    }
    return to;
}

/* Panels that lie side by side with this one: `group` of them, fewer at the end of a layer.   *first: the first of them */
static size_t mailp_conv_group(size_t *first, size_t panel, size_t panels, size_t group) {
    *first = panel / group * group;
    return MAILP_MIN(panels - *first, group);
}

/* Weights [c_out][c_in][taps] -> [groups][taps][c_in][group][16]. The stem's taps are rows of the picture: their depth is 7
   pixels of 3 channels, which is the same order. */
static void mailp_conv_pack(float *to, const float *from, size_t c_out, size_t c_in, size_t taps, size_t group) {
    size_t o, t, i, first;
    for (o = 0; o < mailp_pad(c_out); o++) {
        const size_t n = mailp_conv_group(&first, o / MAILP_LANES, mailp_panels(c_out), group);
        for (t = 0; t < taps; t++) {
            for (i = 0; i < c_in; i++) {
                to[((first * taps * c_in) + (t * c_in + i) * n + o / MAILP_LANES - first) * MAILP_LANES + o % MAILP_LANES] =
                    o < c_out ? from[(o * c_in + i) * taps + t] : 0.0f;
            }
        }
    }
}

/* Weights [c_out][c_in][3][3] -> G g Gt as [groups][n * n][c_in][group][16] */
static void mailp_winograd_pack(float *to, const float *from, size_t c_out, size_t c_in, size_t tile, size_t group) {
    static const double G2[4][3] = { { 1, 0, 0 }, { 0.5, 0.5, 0.5 }, { 0.5, -0.5, 0.5 }, { 0, 0, 1 } };
    const double        a = sqrt(0.5), b = sqrt(2.0);
    const size_t        n = tile + 2, panels = c_out / MAILP_LANES;
    double              G[6][3];
    size_t              o, i, y, x, first;
    if (tile == 2) {
        memcpy(G, G2, sizeof G2);
    } else {
        /* row of a point p: (1, p, p * p) / product of the differences to the other finite points */
        const double point[5] = { 0, a, -a, b, -b };
        for (y = 0; y < 5; y++) {
            double d = 1;
            for (x = 0; x < 5; x++) {
                d *= x == y ? 1 : point[y] - point[x];
            }
            G[y][0] = 1 / d;
            G[y][1] = point[y] / d;
            G[y][2] = point[y] * point[y] / d;
        }
        G[5][0] = G[5][1] = 0;
        G[5][2] = 1;
    }
    for (o = 0; o < c_out; o++) {
        const size_t count = mailp_conv_group(&first, o / MAILP_LANES, panels, group);
        for (i = 0; i < c_in; i++) {
            const float *g = from + (o * c_in + i) * 9;
            double       half[6][3];
            for (y = 0; y < n; y++) {
                for (x = 0; x < 3; x++) {
                    half[y][x] = G[y][0] * (double)g[x] + G[y][1] * (double)g[3 + x] + G[y][2] * (double)g[6 + x];
                }
            }
            for (y = 0; y < n; y++) {
                for (x = 0; x < n; x++) {
                    to[(first * n * n * c_in + ((y * n + x) * c_in + i) * count + o / MAILP_LANES - first) * MAILP_LANES +
                       o % MAILP_LANES] = (float)(half[y][0] * G[x][0] + half[y][1] * G[x][1] + half[y][2] * G[x][2]);
                }
            }
        }
    }
}

/* Winograd needs (n / 3)^2 times the weights, which pays when there are enough tiles to use each weight on. */
static size_t mailp_winograd_choose(size_t h, size_t w) {
    return ((h + 3) / 4) * ((w + 3) / 4) >= 32 ? 4 : ((h + 1) / 2) * ((w + 1) / 2) >= 12 ? 2 : 0;
}

/* A convolution of size x size (1, 3, or 7 for the stem), its weights at prefix + name + ".weight", and unless norm is NULL its
   GroupNorm at prefix + norm. */
static void mailp_conv_build(mailp_conv *conv, mailp_loader *loader, const char *prefix, const char *name, const char *norm,
                             size_t c_out, size_t c_in, size_t h_in, size_t w_in, size_t size, size_t stride) {
    char              full[256], text[64];
    const float      *from;
    float            *w;
    mailp_conv_shape *shape = &conv->shape;
    const size_t      columns = mailp_map_side(w_in);
    size_t            y, x;

    conv->c_in  = c_in;
    conv->c_out = c_out;
    conv->h_in  = h_in;
    conv->w_in  = w_in;
    conv->h_out = (h_in + stride - 1) / stride;
    conv->w_out = (w_in + stride - 1) / stride;
    shape->width = conv->w_out;
    if (size == 7) {
        shape->pixel_step = stride * c_in;
        shape->row_step   = stride * (w_in + 6) * c_in;
        shape->plane      = 0;
        shape->depth      = 7 * c_in;
        shape->n_blocks   = 1;
        shape->n_taps     = 7;
        for (y = 0; y < 7; y++) {
            shape->tap[y] = y * (w_in + 6) * c_in;
        }
    } else {
        shape->pixel_step = stride * MAILP_LANES;
        shape->row_step   = stride * columns * MAILP_LANES;
        shape->plane      = mailp_map_side(h_in) * columns * MAILP_LANES;
        shape->depth      = MAILP_LANES;
        shape->n_blocks   = c_in / MAILP_LANES;
        shape->n_taps     = size * size;
        for (y = 0; y < size; y++) {
            for (x = 0; x < size; x++) {
                shape->tap[y * size + x] = ((y + (3 - size) / 2) * columns + x + (3 - size) / 2) * MAILP_LANES;
            }
        }
    }

    (void)snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    from = mailp_load(loader, full, 4, c_out, c_in, size, size);
    conv->tile = size == 3 && stride == 1 ? mailp_winograd_choose(conv->h_out, conv->w_out) : 0;
    if (conv->tile != 0) {
        conv->tiles_h = (conv->h_out + conv->tile - 1) / conv->tile;
        conv->tiles_w = (conv->w_out + conv->tile - 1) / conv->tile;
        /* the products of each of the n * n planes: rows are tiles, all in one row of the picture */
        shape->width      = conv->tiles_h * conv->tiles_w;
        shape->pixel_step = MAILP_LANES;
        shape->row_step   = 0;
        shape->plane      = shape->width * MAILP_LANES;
        shape->n_taps     = 1;
        shape->tap[0]     = 0;
        w = mailp_take_floats(&loader->arena, c_out * c_in * (conv->tile + 2) * (conv->tile + 2));
        if (from != NULL && w != NULL) {
            mailp_winograd_pack(w, from, c_out, c_in, conv->tile, loader->kernels->conv_group);
        }
    } else {
        w = mailp_take_floats(&loader->arena, mailp_pad(c_out) * c_in * size * size);
        if (from != NULL && w != NULL) {
            mailp_conv_pack(w, from, c_out, c_in, size * size, loader->kernels->conv_group);
        }
    }
    conv->w = w;
    conv->gamma = conv->beta = NULL;
    if (norm != NULL) {
        (void)snprintf(text, sizeof text, "%s.weight", norm);
        conv->gamma = mailp_resnet_vector(loader, prefix, text, c_out);
        (void)snprintf(text, sizeof text, "%s.bias", norm);
        conv->beta = mailp_resnet_vector(loader, prefix, text, c_out);
    }
}

/* Bind the tensors below prefix ("obs_encoder.key_model_map.<camera>.") and pack them; camera says sizes that are valid. Errors
   stay in the loader. */
static void mailp_resnet_build(mailp_resnet *net, mailp_loader *loader, const char *prefix, const mailp_camera_config *camera) {
    char         name[192], conv[32], norm[32];
    const float *from;
    float       *to;
    size_t       h, w, c, i, stage, n;

    memset(net, 0, sizeof *net);
    if (camera->height == 0 || camera->width == 0 || camera->height > MAIL_MAX_IMAGE || camera->width > MAIL_MAX_IMAGE ||
        camera->res_width == 0 || camera->res_width % MAILP_LANES != 0 || camera->res_width > 4096 ||
        camera->n_keypoints == 0 || camera->feature_dim == 0) {
        if (loader->status == MAIL_OK) {
            loader->status = mailp_fail(loader->err, MAIL_E_CONFIG,
                                        "camera '%s': pictures of %llu x %llu and a network of width %llu; expected 1 to %d pixels a "
                                        "side and a width that is a multiple of 16, at most 4096", camera->name,
                                        (unsigned long long)camera->width, (unsigned long long)camera->height,
                                        (unsigned long long)camera->res_width, MAIL_MAX_IMAGE);
        }
        return;
    }
    net->height      = camera->height;
    net->width       = camera->width;
    net->feature_dim = camera->feature_dim;
    net->n_keypoints = camera->n_keypoints;

    (void)snprintf(name, sizeof name, "%sbackbone.", prefix);
    c = camera->res_width;
    mailp_conv_build(&net->stem, loader, name, "nets.0", "nets.1", c, 3, net->height, net->width, 7, 2);
    h = (net->stem.h_out + 1) / 2;  /* after max_pool */
    w = (net->stem.w_out + 1) / 2;
    for (i = 0; i < 8; i++) {
        mailp_basic_block *block = &net->block[i];
        const size_t       c_in = i > 0 && i % 2 == 0 ? c / 2 : c, stride = c_in == c ? 1 : 2;
        stage = 4 + i / 2;
        (void)snprintf(conv, sizeof conv, "nets.%d.%d.conv1", (int)stage, (int)(i % 2));
        (void)snprintf(norm, sizeof norm, "nets.%d.%d.bn1", (int)stage, (int)(i % 2));
        mailp_conv_build(&block->conv1, loader, name, conv, norm, c, c_in, h, w, 3, stride);
        block->has_downsample = stride == 2;
        if (block->has_downsample) {
            (void)snprintf(conv, sizeof conv, "nets.%d.%d.downsample.0", (int)stage, (int)(i % 2));
            (void)snprintf(norm, sizeof norm, "nets.%d.%d.downsample.1", (int)stage, (int)(i % 2));
            mailp_conv_build(&block->downsample, loader, name, conv, norm, c, c_in, h, w, 1, stride);
        }
        h = block->conv1.h_out;
        w = block->conv1.w_out;
        (void)snprintf(conv, sizeof conv, "nets.%d.%d.conv2", (int)stage, (int)(i % 2));
        (void)snprintf(norm, sizeof norm, "nets.%d.%d.bn2", (int)stage, (int)(i % 2));
        mailp_conv_build(&block->conv2, loader, name, conv, norm, c, c, h, w, 3, 1);
        if (i % 2 == 1 && i < 7) {
            c *= 2;
        }
    }

    mailp_conv_build(&net->keypoint_conv, loader, prefix, "pool.nets", NULL, net->n_keypoints, c, h, w, 1, 1);
    net->keypoint_conv.c_out = mailp_pad(net->n_keypoints);
    net->keypoint_bias = mailp_resnet_vector(loader, prefix, "pool.nets.bias", net->n_keypoints);

    (void)snprintf(name, sizeof name, "%spool.temperature", prefix);
    from = mailp_load(loader, name, 1, 1, 0, 0, 0);
    if (from != NULL) {
        net->temperature = from[0];
        if (!(net->temperature > 0.0f)) {
            loader->status = mailp_fail(loader->err, MAIL_E_TENSOR, "tensor '%s' is %g, expected a positive number", name,
                                        (double)net->temperature);
        }
    }
    for (i = 0; i < 2; i++) {
        (void)snprintf(name, sizeof name, "%spool.pos_%c", prefix, i == 0 ? 'x' : 'y');
        from = mailp_load(loader, name, 2, 1, h * w, 0, 0);
        to   = mailp_take_floats(&loader->arena, h * w);
        if (from != NULL && to != NULL) {
            memcpy(to, from, h * w * sizeof(float));
        }
        *(i == 0 ? &net->pos_x : &net->pos_y) = to;
    }

    n = 2 * net->n_keypoints;
    (void)snprintf(name, sizeof name, "%snets.3.weight", prefix);
    from = mailp_load(loader, name, 2, net->feature_dim, n, 0, 0);
    to   = mailp_take_floats(&loader->arena, mailp_pad(net->feature_dim) * n);
    if (from != NULL && to != NULL) {
        mailp_conv_pack(to, from, net->feature_dim, n, 1, 1);
    }
    net->linear_w    = to;
    net->linear_bias = mailp_resnet_vector(loader, prefix, "nets.3.bias", net->feature_dim);

    to = mailp_take_floats(&loader->arena, 3 * 256);
    for (i = 0; to != NULL && i < 3 * 256; i++) {
        const float u = (float)(i % 256) / 255.0f, v = u - mailp_image_mean[i / 256];
        to[i] = v / mailp_image_std[i / 256];
    }
    net->table = to;
}

/* One step of an encoding: every task takes a share of it. */
typedef struct mailp_resnet_step {
    const mailp_resnet         *net;
    const mailp_kernels        *kernels;
    const mail_image           *image;
    const mailp_resnet_buffers *buffers;
    const mailp_conv           *conv, *next;  /* next: the convolution that reads out, if by Winograd; or NULL */
    const float                *in;           /* a map; Winograd's input v if conv is by Winograd */
    float                      *out, *v;      /* a map; and Winograd's input for next */
    const float                *skip;
    int                         relu;
    size_t                      n_shares;
    const mail_profile         *profile;  /* or NULL */
    size_t                      count;    /* steps done */
    double                      time;     /* when the last one ended */
} mailp_resnet_step;

static void mailp_resnet_step_done(mailp_resnet_step *step) {
    if (step->profile != NULL) {
        const double now = step->profile->now(step->profile->user);
        step->profile->add(step->profile->user, "vision", step->count, now - step->time);
        step->time = now;
    }
    step->count++;
}

static void mailp_resnet_step_run(mailp_resnet_step *step, const mail_parallel *parallel, mail_task task) {
    mailp_parallel_run(parallel, step->n_shares, task, step);
    mailp_resnet_step_done(step);
}

/* The i-th of n_shares nearly equal parts of 0..n-1 */
static void mailp_share(size_t *begin, size_t *end, size_t n, size_t i, size_t n_shares) {
    *begin = n * i / n_shares;
    *end   = n * (i + 1) / n_shares;
}

static void mailp_resnet_image_task(void *arg, size_t i) {
    const mailp_resnet_step *step = (const mailp_resnet_step *)arg;
    const mailp_resnet      *net = step->net;
    const size_t             row = (net->width + 6) * 3;
    unsigned char           *rgb = step->buffers->rgb + i * 3 * MAIL_MAX_IMAGE;
    double                  *sums = step->buffers->sums + i * net->width * 3;
    size_t                   y, end;
    mailp_share(&y, &end, net->height + 6, i, step->n_shares);
    for (; y < end; y++) {
        float *to = step->buffers->image + y * row;
        if (y < 3 || y >= net->height + 3) {
            memset(to, 0, row * sizeof(float));
            continue;
        }
        memset(to, 0, 9 * sizeof(float));
        memset(to + row - 9, 0, 9 * sizeof(float));
        mailp_image_prepare(to + 9, step->image, y - 3, net->height, net->width, net->table, rgb, sums);
    }
}

/* Zeros around the h x w pixels of one block of a map. */
static void mailp_map_border(float *block, size_t h, size_t w) {
    const size_t rows = mailp_map_side(h), columns = mailp_map_side(w);
    size_t       y;
    memset(block, 0, columns * MAILP_LANES * sizeof(float));
    for (y = 1; y <= h; y++) {
        float *row = block + y * columns * MAILP_LANES;
        memset(row, 0, MAILP_LANES * sizeof(float));
        memset(row + (w + 1) * MAILP_LANES, 0, (columns - w - 1) * MAILP_LANES * sizeof(float));
    }
    memset(block + (h + 1) * columns * MAILP_LANES, 0, (rows - h - 1) * columns * MAILP_LANES * sizeof(float));
}

/* Blocks begin..begin+n-1 (all of one group) of a convolution, to y [n][h * w][16]; m is scratch for Winograd's products. */
static void mailp_conv_run(float *y, float *m, const mailp_conv *conv, const mailp_kernels *kernels, const float *in, size_t begin,
                           size_t n) {
    const size_t pixels = conv->h_out * conv->w_out;
    const size_t depth = conv->shape.n_taps * conv->shape.n_blocks * conv->shape.depth;
    size_t       first, group = mailp_conv_group(&first, begin, conv->c_out / MAILP_LANES, kernels->conv_group);
    if (conv->tile == 0) {
        kernels->conv(y, pixels * MAILP_LANES, in, conv->w + (first * depth + begin - first) * MAILP_LANES, group, &conv->shape,
                      pixels, n);
    } else {
        const size_t planes = (conv->tile + 2) * (conv->tile + 2), tiles = conv->tiles_h * conv->tiles_w;
        size_t       t, count, k, b;
        for (t = 0; t < tiles; t += count) {
            count = MAILP_MIN(tiles - t, (size_t)MAILP_TILES);
            for (k = 0; k < planes; k++) {
                kernels->conv(m + k * n * count * MAILP_LANES, count * MAILP_LANES, in + (k * conv->c_in * tiles + t * MAILP_LANES),
                              conv->w + ((first * planes + k * group) * depth + begin - first) * MAILP_LANES, group, &conv->shape,
                              count, n);
            }
            for (b = 0; b < n; b++) {
                kernels->winograd_out(y + b * pixels * MAILP_LANES, m + b * count * MAILP_LANES, n * count * MAILP_LANES, conv->h_out,
                                      conv->w_out, conv->tile, conv->tiles_w, t, t + count);
            }
        }
    }
}

/* Winograd's input of block b for the convolution `next` from the bordered map `block` that has just been made. */
static void mailp_conv_prepare(float *v, const mailp_conv *next, const mailp_kernels *kernels, const float *block, size_t b) {
    if (next != NULL && next->tile != 0) {
        const size_t tiles = next->tiles_h * next->tiles_w;
        kernels->winograd_in(v + b * tiles * MAILP_LANES, next->c_in * tiles, block, mailp_map_side(next->w_in) * MAILP_LANES,
                             next->tiles_h, next->tiles_w, next->tile);
    }
}

/* Scratch for the products of the i-th task */
static float *mailp_resnet_products(const mailp_resnet_step *step, size_t i) {
    return step->buffers->m + i * (step->conv->tile + 2) * (step->conv->tile + 2) * MAILP_CONV_GROUP * MAILP_TILES * MAILP_LANES;
}

/* Convolution, GroupNorm, skip, relu for a share of the output blocks. */
static void mailp_resnet_conv_task(void *arg, size_t i) {
    const mailp_resnet_step *step = (const mailp_resnet_step *)arg;
    const mailp_conv        *conv = step->conv;
    const size_t             pixels = conv->h_out * conv->w_out, columns = mailp_map_side(conv->w_out);
    const size_t             plane = mailp_map_side(conv->h_out) * columns * MAILP_LANES;
    size_t                   b, begin, end, n;
    mailp_share(&begin, &end, conv->c_out / MAILP_LANES, i, step->n_shares);
    for (; begin < end; begin += n) {
        float *raw = step->buffers->raw + begin * pixels * MAILP_LANES;
        n = MAILP_MIN(end - begin, step->kernels->conv_group - begin % step->kernels->conv_group);
        mailp_conv_run(raw, mailp_resnet_products(step, i), conv, step->kernels, step->in, begin, n);
        for (b = begin; b < begin + n; b++, raw += pixels * MAILP_LANES) {
            const size_t at = b * plane + (columns + 1) * MAILP_LANES;
            mailp_map_border(step->out + b * plane, conv->h_out, conv->w_out);
            step->kernels->group_norm(step->out + at, columns * MAILP_LANES, raw, step->skip == NULL ? NULL : step->skip + at,
                                      conv->gamma + b * MAILP_LANES, conv->beta + b * MAILP_LANES, conv->h_out, conv->w_out,
                                      step->relu);
            mailp_conv_prepare(step->v, step->next, step->kernels, step->out + b * plane, b);
        }
    }
}

/* The stem: convolution from the picture, GroupNorm, relu, max_pool. */
static void mailp_resnet_stem_task(void *arg, size_t i) {
    const mailp_resnet_step *step = (const mailp_resnet_step *)arg;
    const mailp_conv        *conv = step->conv;
    const size_t             pixels = conv->h_out * conv->w_out, h = (conv->h_out + 1) / 2, w = (conv->w_out + 1) / 2;
    const size_t             columns = mailp_map_side(w), plane = mailp_map_side(h) * columns * MAILP_LANES;
    size_t                   b, begin, end, n;
    mailp_share(&begin, &end, conv->c_out / MAILP_LANES, i, step->n_shares);
    for (; begin < end; begin += n) {
        float *raw = step->buffers->raw + begin * pixels * MAILP_LANES;
        n = MAILP_MIN(end - begin, step->kernels->conv_group - begin % step->kernels->conv_group);
        mailp_conv_run(raw, NULL, conv, step->kernels, step->in, begin, n);
        for (b = begin; b < begin + n; b++, raw += pixels * MAILP_LANES) {
            step->kernels->group_norm(raw, conv->w_out * MAILP_LANES, raw, NULL, conv->gamma + b * MAILP_LANES,
                                      conv->beta + b * MAILP_LANES, conv->h_out, conv->w_out, 1);
            mailp_map_border(step->out + b * plane, h, w);
            step->kernels->max_pool(step->out + b * plane + (columns + 1) * MAILP_LANES, columns * MAILP_LANES, raw,
                                    conv->h_out, conv->w_out);
            mailp_conv_prepare(step->v, step->next, step->kernels, step->out + b * plane, b);
        }
    }
}

/* Keypoint k is the mean position under softmax(logits / temperature):

       p[i]           = exp((logits[i] - max) / temperature) / sum
       keypoints[k]   = (sum_i p[i] * pos_x[i], sum_i p[i] * pos_y[i])

   logits  [panels][n][16], without bias (added here) */
static void mailp_spatial_softmax(float *keypoints, const float *logits, const mailp_resnet *net, size_t n) {
    size_t k, i;
    for (k = 0; k < net->n_keypoints; k++) {
        const float *a = logits + k / MAILP_LANES * n * MAILP_LANES + k % MAILP_LANES;
        const float  bias = net->keypoint_bias[k];
        float        most = -FLT_MAX;
        double       sum = 0, x = 0, y = 0;
        for (i = 0; i < n; i++) {
            const float v = (a[i * MAILP_LANES] + bias) / net->temperature;
            most = v > most ? v : most;
        }
        for (i = 0; i < n; i++) {
            const float  v = (a[i * MAILP_LANES] + bias) / net->temperature;
            const double p = (double)expf(v - most);
            sum += p;
            x += p * (double)net->pos_x[i];
            y += p * (double)net->pos_y[i];
        }
        keypoints[2 * k]     = (float)(x / sum);
        keypoints[2 * k + 1] = (float)(y / sum);
    }
}

/* features [feature_dim] and keypoints [n_keypoints][2] (or NULL) of a checked image.
   scratch   mailp_resnet_scratch(net, threads of parallel) bytes, aligned to 64
   profile   NULL, or told the seconds of each step as part "vision": layer 0 image, 1 stem, 2..20 the convolutions in order,
             21 keypoints and linear
   Memory    none.   The result does not depend on the number of threads. */
static void mailp_resnet_encode_profiled(const mailp_resnet *net, const mailp_kernels *kernels, float *features, float *keypoints,
                                         const mail_image *image, void *scratch, const mail_parallel *parallel,
                                         const mail_profile *profile) {
    mailp_resnet_buffers buffers;
    mailp_resnet_step    step;
    mailp_arena          arena;
    float               *x, *t, *d;
    size_t               i, pixels = net->keypoint_conv.h_out * net->keypoint_conv.w_out;

    arena.base = (unsigned char *)scratch;
    arena.used = 0;
    step.n_shares = mailp_threads(parallel);
    mailp_resnet_layout(&buffers, &arena, net, step.n_shares);
    step.net     = net;
    step.kernels = kernels;
    step.image   = image;
    step.buffers = &buffers;
    step.skip    = NULL;
    step.profile = profile;
    step.count   = 0;
    step.time    = profile == NULL ? 0 : profile->now(profile->user);
    step.relu    = 1;
    x = buffers.map[0];
    t = buffers.map[1];
    d = buffers.map[2];

    mailp_resnet_step_run(&step, parallel, mailp_resnet_image_task);
    step.conv = &net->stem;
    step.next = &net->block[0].conv1;
    step.in   = buffers.image;
    step.out  = x;
    step.v    = buffers.v[0];
    mailp_resnet_step_run(&step, parallel, mailp_resnet_stem_task);
    for (i = 0; i < 8; i++) {
        const mailp_basic_block *block = &net->block[i];
        /* conv1 reads v[0] or x and leaves t and v[1]; conv2 reads v[1] or t and leaves x and v[0] */
        step.conv = &block->conv1;
        step.next = &block->conv2;
        step.in   = block->conv1.tile != 0 ? buffers.v[0] : x;
        step.out  = t;
        step.v    = buffers.v[1];
        step.skip = NULL;
        step.relu = 1;
        mailp_resnet_step_run(&step, parallel, mailp_resnet_conv_task);
        if (block->has_downsample) {
            float *swap = x;
            step.conv = &block->downsample;
            step.next = NULL;
            step.in   = x;
            step.out  = d;
            step.relu = 0;
            mailp_resnet_step_run(&step, parallel, mailp_resnet_conv_task);
            x = d;
            d = swap;
        }
        /* a task reads skip only where it writes, so the sum may replace it */
        step.conv = &block->conv2;
        step.next = i < 7 ? &net->block[i + 1].conv1 : NULL;
        step.in   = block->conv2.tile != 0 ? buffers.v[1] : t;
        step.out  = x;
        step.v    = buffers.v[0];
        step.skip = x;
        step.relu = 1;
        mailp_resnet_step_run(&step, parallel, mailp_resnet_conv_task);
    }
    for (i = 0; i < net->keypoint_conv.c_out / MAILP_LANES; i++) {
        mailp_conv_run(buffers.raw + i * pixels * MAILP_LANES, NULL, &net->keypoint_conv, kernels, x, i, 1);
    }
    mailp_spatial_softmax(buffers.keypoints, buffers.raw, net, pixels);
    kernels->gemm(buffers.features, mailp_pad(net->feature_dim), buffers.keypoints, 2 * net->n_keypoints, net->linear_w,
                  net->linear_bias, 1, 2 * net->n_keypoints, mailp_panels(net->feature_dim), 0);
    mailp_resnet_step_done(&step);
    memcpy(features, buffers.features, net->feature_dim * sizeof(float));
    if (keypoints != NULL) {
        memcpy(keypoints, buffers.keypoints, 2 * net->n_keypoints * sizeof(float));
    }
}

static void mailp_resnet_encode(const mailp_resnet *net, const mailp_kernels *kernels, float *features, float *keypoints,
                                const mail_image *image, void *scratch, const mail_parallel *parallel) {
    mailp_resnet_encode_profiled(net, kernels, features, keypoints, image, scratch, parallel, NULL);
}

/* ---- the network of one camera as a building block ----------------------------------------------------------------- */

struct mail_encoder {
    mailp_resnet         net;
    const mailp_kernels *kernels;
    mail_allocator       allocator;
    mail_encoder_info    info;
};

MAIL_API mail_status mail_encoder_create(mail_encoder **encoder, const mail_tensors *tensors, const char *prefix, size_t width,
                                         size_t height, const mail_options *options, mail_error *err) {
    static const char    missing[] = "mail_encoder_create: tensors, prefix or result is NULL";
    mail_allocator       none;
    const mail_allocator *allocator = &none;
    mailp_camera_config  camera;
    mailp_loader         loader;
    mail_encoder        *made;
    const mail_tensor   *stem, *pool, *linear;
    char                 name[256];
    void                *memory;

    memset(&none, 0, sizeof none);
    memset(&camera, 0, sizeof camera);
    memset(&loader, 0, sizeof loader);
    if (encoder == NULL || tensors == NULL || prefix == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "%s", missing);
    }
    *encoder = NULL;
    if (options != NULL) {
        allocator      = &options->allocator;
        loader.weights = options->weights;
    }
    loader.tensors = tensors;
    loader.err     = err;
    loader.kernels = mailp_kernels_choose(options == NULL ? NULL : options->isa);
    if (loader.kernels == NULL) {
        return mailp_fail(err, MAIL_E_UNSUPPORTED, "instruction set '%s' is not available here", options->isa);
    }
    loader.used = (unsigned char *)mailp_alloc(allocator, mail_tensors_count(tensors) + 1);
    if (loader.used == NULL) {
        return mailp_fail(err, MAIL_E_MEMORY, "out of memory");
    }
    memset(loader.used, 0, mail_tensors_count(tensors) + 1);

    (void)snprintf(name, sizeof name, "%sbackbone.nets.0.weight", prefix);
    stem = mailp_find(&loader, name);
    (void)snprintf(name, sizeof name, "%spool.nets.weight", prefix);
    pool = mailp_find(&loader, name);
    (void)snprintf(name, sizeof name, "%snets.3.weight", prefix);
    linear = mailp_find(&loader, name);
    if (loader.status == MAIL_OK && (stem == NULL || pool == NULL || linear == NULL || stem->n_dims != 4 || pool->n_dims != 4 ||
                                     linear->n_dims != 2)) {
        loader.status = mailp_fail(err, MAIL_E_TENSOR, "'%sbackbone.nets.0.weight', '...pool.nets.weight' or '...nets.3.weight' is "
                                   "missing or has not 4, 4 and 2 dimensions", prefix);
    }
    if (loader.status == MAIL_OK) {
        (void)snprintf(camera.name, sizeof camera.name, "%.60s", prefix);
        camera.height      = height;
        camera.width       = width;
        camera.map_height  = height / 32 + (height % 32 != 0);
        camera.map_width   = width / 32 + (width % 32 != 0);
        camera.res_width   = (size_t)MAILP_MIN(stem->shape[0], (uint64_t)SIZE_MAX);
        camera.n_keypoints = (size_t)MAILP_MIN(pool->shape[0], (uint64_t)SIZE_MAX);
        camera.feature_dim = (size_t)MAILP_MIN(linear->shape[0], (uint64_t)SIZE_MAX);
        made = (mail_encoder *)mailp_take(&loader.arena, sizeof *made);
        {
            mailp_resnet net;
            mailp_resnet_build(&net, &loader, prefix, &camera);
        }
    }
    if (loader.status == MAIL_OK) {
        memory     = mailp_alloc(allocator, loader.arena.used);
        loader.tmp = (float *)mailp_alloc(allocator, loader.tmp_need * sizeof(float));
        if (memory == NULL || loader.tmp == NULL) {
            loader.status = mailp_fail(err, MAIL_E_MEMORY, "out of memory");
        } else {
            loader.arena.base = (unsigned char *)memory;
            loader.arena.used = 0;
            made = (mail_encoder *)mailp_take(&loader.arena, sizeof *made);
            memset(made, 0, sizeof *made);
            mailp_resnet_build(&made->net, &loader, prefix, &camera);
            made->kernels          = loader.kernels;
            made->allocator        = *allocator;
            made->info.width       = width;
            made->info.height      = height;
            made->info.feature_dim = camera.feature_dim;
            made->info.n_keypoints = camera.n_keypoints;
            made->info.n_parameters = loader.n_parameters;
            made->info.weight_bytes = loader.arena.used - sizeof *made;
            made->info.isa         = loader.kernels->name;
            made->info.weights     = loader.weights;
            *encoder               = made;
        }
        mailp_free(allocator, loader.tmp);
        if (loader.status != MAIL_OK) {
            mailp_free(allocator, memory);
            *encoder = NULL;
        }
    }
    mailp_free(allocator, loader.used);
    return loader.status;
}

MAIL_API void mail_encoder_free(mail_encoder *encoder) {
    if (encoder != NULL) {
        mail_allocator allocator = encoder->allocator;
        mailp_free(&allocator, encoder);
    }
}

MAIL_API const mail_encoder_info *mail_encoder_get_info(const mail_encoder *encoder) {
    return &encoder->info;
}

MAIL_API size_t mail_encoder_scratch(const mail_encoder *encoder, size_t n_threads) {
    return encoder == NULL || n_threads > MAIL_MAX_THREADS ? 0 : mailp_resnet_scratch(&encoder->net, n_threads);
}

MAIL_API mail_status mail_encoder_encode(const mail_encoder *encoder, float *features, float *keypoints, const mail_image *image,
                                         void *scratch, size_t size, const mail_parallel *parallel, mail_error *err) {
    mail_status status;
    size_t      need, i;
    if (encoder == NULL || features == NULL || scratch == NULL || (uintptr_t)scratch % MAILP_ALIGN != 0) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_encoder_encode: encoder, features or scratch is NULL, or scratch is not aligned to %d",
                          MAILP_ALIGN);
    }
    need = mailp_resnet_scratch(&encoder->net, mailp_threads(parallel));
    if (size < need) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_encoder_encode: scratch has %llu bytes, expected %llu", (unsigned long long)size,
                          (unsigned long long)need);
    }
    status = mailp_image_check(image, err);
    if (status != MAIL_OK) {
        return status;
    }
    mailp_resnet_encode(&encoder->net, encoder->kernels, features, keypoints, image, scratch, parallel);
    for (i = 0; i < encoder->net.feature_dim; i++) {
        if (!(fabsf(features[i]) <= FLT_MAX)) {
            return mailp_fail(err, MAIL_E_NUMBER, "feature %llu is not finite", (unsigned long long)i);
        }
    }
    return MAIL_OK;
}

/* ================================================================================================================
   >>policy   tensors bound to weight structs; the mamba and transformer trunks; history and goal tokens
   ============================================================================================================= */

/* ================================================================================================================
   >>sampler   noise schedules, denoise, sample, action scaling
   ============================================================================================================= */

/* ================================================================================================================
   >>api   public functions: check arguments, call down
   ============================================================================================================= */

#endif /* upper half */
