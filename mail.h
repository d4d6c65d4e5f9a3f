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

   Options (define before the include that carries MAIL_IMPLEMENTATION; MAIL_STATIC and MAIL_THREADS before every include):
              MAIL_STATIC      every function static: the library stays private to this file
              MAIL_NO_STDIO    no files: only the _memory functions remain
              MAIL_NO_SIMD     plain C kernels only
              MAIL_NO_MMAP     files are read into memory, never mapped
              MAIL_THREADS     offer mail_pool, a small thread pool (POSIX threads; -pthread where the C library wants it)
              MAIL_SELF        this file's name as the compiler finds it, if it is not "mail.h"

   Limits:    MAIL_MAX_* below. Widths of the ResNet-18 must be multiples of 16, at most 4096; d_state at most 256. Names of
              cameras and actions have at most 63 bytes, a description 1023.

   Exact:     the same seed gives the same actions, bit for bit, on one instruction set: for any number of threads, any
              batch, from .pth or .safetensors. Between instruction sets results agree to float32 rounding, but
              not those of cameras with bf16 or int8 weights, whose activations each set rounds in its own way: actions differ by
              up to about 1e-3 and 1e-2.

   Contents:  declarations  >>base  >>bytes  >>json  >>tensors  >>config  >>simd  >>kernels  >>layers  >>vision
              >>policy  >>sampler  >>api */

#if !defined(MAILP_PASS) /* ---- everything but >>kernels is seen once; see >>simd ---- */

#if defined(MAIL_H) && ((defined(MAIL_THREADS) && !defined(MAILP_SEEN_THREADS)) || (defined(MAIL_STATIC) && !defined(MAILP_SEEN_STATIC)))
#  error "mail.h was included before without MAIL_THREADS or MAIL_STATIC; define them before every include of it"
#endif

#ifndef MAIL_H
#define MAIL_H

#ifdef MAIL_THREADS
#  define MAILP_SEEN_THREADS
#endif
#ifdef MAIL_STATIC
#  define MAILP_SEEN_STATIC
#endif

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
    char        text[512];
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
/* A small thread pool for mail_session_options.parallel. n_threads counts the caller's, so 1 starts none. Workers spin for a moment
   after a task and then sleep; handing out work takes locks and may wake them, which are system calls. Sessions may share a pool:
   the one that finds it busy works alone. Free it when nothing uses it any more. After fork the child has no workers: its
   sessions go on, alone. */
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
   A mapped file must not be shortened in place while it is open: the system then ends the program (SIGBUS). Replace files by
   renaming; where that cannot be had, MAIL_NO_MMAP reads them into memory.
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
/* How weights are held. bf16: 16 bits each; where the processor has faster products of integers than of floats (VNNI, AVX2) these are integers with a
   scale for each output, and rows they meet are rounded to 13 bits and a sign: less than bf16 itself rounds. int8: 8 bits with a scale for
   each output. Vectors, embeddings and what dt hangs on stay float32. */
typedef enum mail_weights   { MAIL_WEIGHTS_F32, MAIL_WEIGHTS_BF16, MAIL_WEIGHTS_INT8 } mail_weights;

/* Where the time goes, told layer by layer; free when off. part is a constant string, layer counts within it: "vision" (0 the
   picture, 1 the first convolution, then the others in order), "encoder" (ED: for all steps; BC), "denoise" (one layer of one
   step), "decoder" (BC). Both members are needed. */
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

/* Settings say a camera as "name": [height, width]. */
typedef struct mail_camera_info {
    const char *name;            /* as in the tensors' names */
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
    const mail_camera_info *cameras;         /* sorted by name, in whatever order the settings have them: mail_observe's order */
    size_t                  n_timesteps;     /* 0 for BC */
    size_t                  diffusion_x;     /* steps that a plan has beyond n_timesteps (or the options' n_steps) */
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
   ("name.pth" -> "name.json", or "config.json" in the same folder); a safetensors file says it in __metadata__. README.md
   lists the settings. Two of them have a default: n_action_steps (act_seq) and diffusion_x (0).
   The file stays open for mail_policy_save, and mapped where it is (see mail_tensors_open), unless drop_source is set; acting never
   reads it.
   options NULL: defaults.   On failure *policy is NULL, everything is released, and err names what was expected. */
#ifndef MAIL_NO_STDIO
MAIL_API mail_status mail_policy_load(mail_policy **policy, const char *path, const mail_options *options, mail_error *err);
/* Write a self-contained safetensors file: dtype MAIL_F32 or MAIL_BF16. Written beside path (path + ".tmp", or ".tmp1" and so on
   where there is such a file) and then renamed, so path may be the file that was loaded; Windows refuses that one. A path where
   there is something else than a regular file is refused: a device, a pipe, a folder, and a symbolic link too (give what it points
   to; a strict -std or a _POSIX_C_SOURCE below 200112L hides what tells a link, and then the file takes the link's place). */
MAIL_API mail_status mail_policy_save(const mail_policy *policy, const char *path, mail_dtype dtype, mail_error *err);
#endif
/* The same from memory. data must outlive the policy, unless drop_source is set. */
MAIL_API mail_status mail_policy_load_memory(mail_policy **policy, const void *data, size_t size,
                                             const mail_options *options, mail_error *err);
MAIL_API void             mail_policy_free(mail_policy *policy);
MAIL_API const mail_info *mail_policy_info(const mail_policy *policy);

/* ---- session: one robot (or a batch of them), one thread at a time ------------------------------------------------ */

typedef enum mail_format {
    MAIL_RGB8, MAIL_BGR8, MAIL_RGBA8, MAIL_BGRA8, MAIL_GRAY8,
    MAIL_YUYV,        /* 4:2:2, Y0 U Y1 V, BT.601 limited range (V4L2) */
    MAIL_NV12,        /* 4:2:0, a plane of Y, height * stride bytes after its begin one of U V pairs, BT.601 limited range */
    MAIL_F32_PLANAR,  /* three planes R, G, B of float, height * stride bytes from one to the next; 0..1, and up to 1/512 beyond is
                         taken as it is, since resizing elsewhere may lead there; more is MAIL_E_NUMBER */
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
    int           ensemble;        /* 1: temporal ensembling: plan at every action, whatever n_action_steps is, and average what all
                                      chunks say of it */
    float         ensemble_decay;  /* weight exp(-decay * i) for the i-th oldest chunk; default 0.01 */
    mail_sampler  sampler;         /* DDPM (official) or DDIM with eta 0 */
    size_t        n_steps;         /* denoising steps; 0: the policy's n_timesteps; fewer need MAIL_SAMPLER_DDIM */
    const float  *action_min, *action_max;  /* [action_dim] limits in the robot's units, copied; NULL: none. -INFINITY and INFINITY,
                                               and INFINITY below: none in this dimension */
    const float  *action_max_step;          /* [action_dim] largest change from one action to the next of an episode; the first after
                                               a reset is free, since the robot's pose is not known; NULL: none */
    mail_parallel  parallel;
    mail_profile   profile;
    mail_allocator allocator;      /* for mail_session_create */
    int            align_plan;     /* 1: mail_plan_end leaves out as many actions as mail_act gave since mail_plan_begin, so that the
                                      new chunk goes on at the action whose time has come; n_action_steps are then executed, or
                                      what is left of it. Not together with ensemble */
    double       (*now)(void *now_user);    /* clock in seconds for mail_plan_within; NULL: the system's monotonic clock (its wall clock where a
                                               strict -std hides that one) */
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
   The goal is kept. reset_robot does so for one robot of a batch and leaves the seed and the others' history and chunks alone;
   a plan in progress, which is one for all, is cancelled, and that robot's noise goes on instead of starting over. */
MAIL_API void        mail_session_reset(mail_session *session, uint64_t seed);
MAIL_API mail_status mail_session_reset_robot(mail_session *session, size_t robot, mail_error *err);

/* Language goal: a CLIP ViT-B/32 text feature, not normalised (512 floats; lang_dim in mail_info).
   n = lang_dim: the same for every robot; n = batch * lang_dim: one each. It counts from the next plan that begins; the present
   chunk goes on. On error the goal is as it was. */
MAIL_API mail_status mail_session_set_goal(mail_session *session, const float *embedding, size_t n, mail_error *err);

/* Give the newest frame of every camera: n = batch * n_cameras images, robot by robot, cameras in mail_info order, which is that of
   their sorted names.
   Each is encoded now and its features kept, so a decision later costs no second encoding.
   On error the history is as it was. */
MAIL_API mail_status mail_observe(mail_session *session, const mail_image *images, size_t n, mail_error *err);
/* The same with features made elsewhere: [batch][state_dim]. */
MAIL_API mail_status mail_observe_features(mail_session *session, const float *features, size_t n, mail_error *err);
/* 1 if a frame given now will still be in the history at the next decision of mail_act; if 0 it may be skipped. */
MAIL_API int         mail_observe_due(const mail_session *session);

/* Next action of every robot, [batch][action_dim], robot's units. Plans a new chunk when the present one is used up.
   MAIL_E_STATE if that needs an observation or goal that was not given, or while a plan is in progress: then there is no action
   before its end. (With ensembling there is, from older chunks, as long as one of them has an action for now.)
   MAIL_E_NUMBER if a result is not finite.
   On error actions and session are as they were. */
MAIL_API mail_status mail_act(mail_session *session, float *actions, mail_error *err);

/* Actions that mail_act can still give without a new plan; of a batch, the fewest. With ensembling, which plans at every action,
   1 or 0. */
MAIL_API size_t      mail_actions_left(const mail_session *session);

/* Plan a chunk now, [batch][act_seq][action_dim] (or NULL), and put it in place of the present one and of a plan in progress. */
MAIL_API mail_status mail_plan(mail_session *session, float *actions, mail_error *err);
/* The same spread over calls: begin once, step until *left (steps still to do) is 0, end. mail_act goes on with the old
   chunk meanwhile, with ensembling with the mean of the older ones; mail_observe may be called: the plan keeps the history and goal
   it began with. begin again: start over.
   A step or an end that fails discards the plan; the present chunk stays. */
MAIL_API mail_status mail_plan_begin(mail_session *session, mail_error *err);
MAIL_API mail_status mail_plan_step(mail_session *session, size_t *left, mail_error *err);
MAIL_API mail_status mail_plan_end(mail_session *session, float *actions, mail_error *err);
MAIL_API void        mail_plan_cancel(mail_session *session);
/* The plan in progress as it stands after the steps done so far, to look at: noisy actions in the robot's units, not clamped or
   limited. MAIL_E_STATE if no plan is in progress, or of BC before its step. */
MAIL_API mail_status mail_plan_sample(const mail_session *session, float *actions, mail_error *err);
/* Plan within a time: as many of the steps as fit, the rest jumped over by DDIM; at least one. *steps (or NULL): done.
   What a step costs is learnt from one call to the next: the first call of a session may take longer. */
MAIL_API mail_status mail_plan_within(mail_session *session, float *actions, double seconds, size_t *steps, mail_error *err);

/* Noise for the plan that begins next, in place of the seed's: x_T [batch][act_seq][action_dim] and noise
   [n_timesteps + diffusion_x][batch][act_seq][action_dim] in the order of the steps; either may be NULL.
   Both must stay valid until that plan has ended, failed, or been cancelled. mail_session_reset drops what no plan has taken. */
MAIL_API void mail_session_set_noise(mail_session *session, const float *x_T, const float *noise);

/* ---- building blocks: each works without the rest ------------------------------------------------------------------ */

/* DDPM tables (arXiv 2006.11239). Betas are made in double and rounded, the rest is float32, as in the official code.
   mail_ddpm_schedule fills memory, MAIL_DDPM_TABLES * n_timesteps floats of the caller's, and points into it. */
#define MAIL_DDPM_TABLES 9
typedef struct mail_ddpm {
    size_t       n_timesteps;
    const float *betas, *alphas_cumprod, *alphas_cumprod_prev;
    const float *sqrt_recip_alphas_cumprod, *sqrt_recipm1_alphas_cumprod;
    const float *posterior_mean_coef1, *posterior_mean_coef2;
    const float *posterior_variance, *posterior_std;  /* std = exp(0.5 ln max(variance, 1e-20)) */
} mail_ddpm;
MAIL_API mail_status mail_ddpm_schedule(mail_ddpm *ddpm, mail_schedule schedule, size_t n_timesteps, float *memory, mail_error *err);

/* One reverse step x_t -> x_{t-1} for n values of which dim neighbours form an action:
       x_start = clamp(sqrt_recip[t] x - sqrt_recipm1[t] output, lo, hi);   x = coef1[t] x_start + coef2[t] x + std[t] noise
   x [n] in and out; x_start [n] out or NULL; output [n]: predicted noise, or x_start itself if predict_epsilon is 0;
   noise [n], unused at t = 0; lo, hi [dim] or NULL: no clamp.
   Nothing is checked: ddpm is one that mail_ddpm_schedule filled, t < n_timesteps, dim at least 1, and x, output and, at t > 0, noise
   are not NULL. */
MAIL_API void mail_ddpm_step(float *x, float *x_start, const mail_ddpm *ddpm, size_t t, const float *output, const float *noise,
                             const float *lo, const float *hi, size_t n, size_t dim, int predict_epsilon);

/* Standard normal numbers, a function of the arguments alone (Philox 4x32-10, arXiv SC11 "Parallel random numbers: as easy as
   1, 2, 3", then Box-Muller in double): what a session draws for step `call` of its chunk number `plan` of robot `robot`;
   call 0 is x_T, call 1 + i the noise of the i-th step. values is not checked; it may be NULL only if n is 0. */
MAIL_API void mail_noise(float *values, size_t n, uint64_t seed, uint32_t robot, uint32_t plan, uint32_t call);

/* Selective state space model over a sequence (arXiv 2312.00752, section 3.2):
       state[e][s] = exp(dt[l][e] A[e][s]) state[e][s] + dt[l][e] B[l][s] x[l][e];   y[l][e] = sum_s C[l][s] state[e][s] + D[e] x[l][e]
   y, x, dt, z  [length][d_inner]; y may be x; z NULL, or y is multiplied by silu(z)
   state        [d_inner][d_state] in and out; zeros before the first token
   A            [d_inner][d_state] < 0;   B, C [length][d_state];   D [d_inner] or NULL
   memory       mail_selective_scan_size bytes of scratch, 64-byte aligned; that size is 0 for a d_inner or d_state that is not supported
   chunks       1: one pass over the sequence. More: that many pieces scanned at once and joined by the associative rule
                (a2, b2) o (a1, b1) = (a1 a2, a2 b1 + b2); never stores length x d_inner x d_state. Which bits come out depends on
                chunks, not on the number of threads.   0: chosen from length.
   isa, parallel as in the options; NULL: best instruction set, caller's thread.
   Cost: length * d_inner * d_state exponentials (twice for all but the first piece if chunks > 1). */
MAIL_API size_t      mail_selective_scan_size(size_t length, size_t d_inner, size_t d_state, size_t chunks);
MAIL_API mail_status mail_selective_scan(float *y, float *state, const float *x, const float *dt, const float *A, const float *B,
                                         const float *C, const float *D, const float *z, size_t length, size_t d_inner,
                                         size_t d_state, size_t chunks, void *memory, const char *isa,
                                         const mail_parallel *parallel, mail_error *err);

/* One Mamba block, y = out_proj(scan(conv1d(in_proj x)) * silu(z)), without norm and residual, from any checkpoint that names its
   tensors as mamba_ssm does: prefix "backbone.layers.0.mixer." finds "backbone.layers.0.mixer.in_proj.weight" and so on.
   Every tensor whose name begins with prefix must be one of such a block: those of bias=True or of bidirectional ones are refused.
   state: mail_mamba_state_floats(block) floats, zeros before the first token; a sequence may be fed in pieces of any length.
   y and x [length][d_model]; y may be x.  memory: mail_mamba_scratch bytes, 64-byte aligned.
   mail_mamba_block checks nothing: if length is not 0, no pointer may be NULL. */
typedef struct mail_mamba mail_mamba;
MAIL_API mail_status mail_mamba_create(mail_mamba **block, const mail_tensors *tensors, const char *prefix,
                                       const mail_options *options, mail_error *err);
MAIL_API void        mail_mamba_free(mail_mamba *block);
MAIL_API size_t      mail_mamba_d_model(const mail_mamba *block);
MAIL_API size_t      mail_mamba_state_floats(const mail_mamba *block);
MAIL_API size_t      mail_mamba_scratch(const mail_mamba *block, size_t length);
MAIL_API void        mail_mamba_block(const mail_mamba *block, float *y, float *state, const float *x, size_t length, void *memory);


/* ---- trajectory (paper, appendix E.4) ----------------------------------------------------------------------------- */

/* Way-points from the pose from (excluded) to the pose to (included) on a straight line, evenly spaced and at most
   max_step apart in the Euclidean norm. Returns how many there are; writes the first min(that, capacity).
   way_points [capacity][dim]   0 if max_step is not positive, more than 1e9 would be needed, or a number is not finite. */
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

/* Make one from the tensors whose names begin with prefix, such as "obs_encoder.key_model_map.agentview_rgb."; all of them must
   be this network's.
   width, height  of the pictures that the network was trained with; ceil(width / 32) and ceil(height / 32) must be as in the file
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
#include <time.h>

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#  error "mail.h checks for NaN and infinity before an action leaves; -ffast-math and -ffinite-math-only remove those checks"
#endif

#ifndef MAIL_SELF
#  define MAIL_SELF "mail.h"
#endif

#if defined(__GNUC__) || defined(__clang__)
#  define MAILP_UNUSED          __attribute__((unused))
#  define MAILP_INLINE          static inline __attribute__((always_inline, unused))
#  define MAILP_NOINLINE        __attribute__((noinline))
#  define MAILP_PRINTF(f, a)    __attribute__((format(printf, f, a)))
#else
#  define MAILP_UNUSED
#  define MAILP_INLINE          static __inline
#  define MAILP_NOINLINE
#  define MAILP_PRINTF(f, a)
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
    if (size > SIZE_MAX / 2) {  /* also what mailp_bytes could not express */
        return NULL;
    }
    if (allocator != NULL && allocator->alloc != NULL) {
        return allocator->alloc(allocator->user, size);
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

/* Bytes of n elements; SIZE_MAX, which nobody can give, if they cannot be addressed: on a machine of 32 bits the largest batch, chunk
   and network together can ask for that. n is multiplied in 64 bits for this reason. */
MAILP_INLINE size_t mailp_bytes(uint64_t n, size_t element) {
    return n > SIZE_MAX / 2 / element ? SIZE_MAX : (size_t)n * element;
}

/* Memory handed out front to back. The code that lays out an object runs twice: with base NULL it only measures
   (mailp_take returns NULL and used grows, to nearly SIZE_MAX at most), then with a block of that size it gets the pieces. */
typedef struct mailp_arena {
    unsigned char *base;
    size_t         used;
} mailp_arena;

static void *mailp_take(mailp_arena *arena, size_t bytes) {
    const size_t most = SIZE_MAX / MAILP_ALIGN * MAILP_ALIGN - MAILP_ALIGN, at = arena->used;
    if (bytes > most - at) {
        arena->used = most;
        return NULL;
    }
    arena->used += (bytes + MAILP_ALIGN - 1) / MAILP_ALIGN * MAILP_ALIGN;
    return arena->base == NULL ? NULL : arena->base + at;
}

MAILP_UNUSED static float *mailp_take_floats(mailp_arena *arena, uint64_t n) {
    return (float *)mailp_take(arena, mailp_bytes(n, sizeof(float)));
}

MAILP_UNUSED static void *mailp_take_zeros(mailp_arena *arena, uint64_t n, size_t element) {
    const size_t bytes = mailp_bytes(n, element);
    void        *zeros = mailp_take(arena, bytes);
    if (zeros != NULL) {
        memset(zeros, 0, bytes);
    }
    return zeros;
}

/* Numbers below 2^-126 are taken as zero while kernels run: on many processors each costs a hundred cycles or more, and an action
   never hangs on one. The caller's setting is restored; other processors than these keep theirs. */
#if defined(__SSE__) || defined(_M_X64)
#  include <xmmintrin.h>
#  define MAILP_FLUSH_BITS 0x8040u  /* flush to zero, denormals are zero */
MAILP_INLINE uint64_t mailp_flush_on(void) {
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | MAILP_FLUSH_BITS);
    return before;
}
MAILP_INLINE void mailp_flush_restore(uint64_t before) {
    _mm_setcsr((unsigned)before);
}
#elif defined(__aarch64__) && defined(__GNUC__)
MAILP_INLINE uint64_t mailp_flush_on(void) {
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (uint64_t)1 << 24));
    return before;
}
MAILP_INLINE void mailp_flush_restore(uint64_t before) {
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
}
#else
#  define mailp_flush_on()          0u
#  define mailp_flush_restore(bits) ((void)(bits))
#endif

/* A task of the caller's threads with the setting above, which belongs to a thread. */
typedef struct mailp_task {
    mail_task task;
    void     *arg;
} mailp_task;

static void mailp_task_run(void *arg, size_t i) {
    const mailp_task *t = (const mailp_task *)arg;
    const uint64_t    before = mailp_flush_on();
    t->task(t->arg, i);
    mailp_flush_restore(before);
}

/* Run task(arg, i) for i < n through the caller's threads, or one after the other. */
static void mailp_parallel_run(const mail_parallel *parallel, size_t n, mail_task task, void *arg) {
    mailp_task t;
    size_t     i;
    t.task = task;
    t.arg  = arg;
    if (parallel != NULL && parallel->run != NULL && n > 1) {
        parallel->run(parallel->user, n, mailp_task_run, &t);
        return;
    }
    for (i = 0; i < n; i++) {
        mailp_task_run(&t, i);
    }
}

/* Threads without a function that runs tasks on them would be left unused without a word. */
MAILP_UNUSED static mail_status mailp_parallel_check(const mail_parallel *parallel, mail_error *err) {
    return parallel == NULL || parallel->run != NULL || parallel->n_threads < 2
               ? MAIL_OK
               : mailp_fail(err, MAIL_E_ARGUMENT, "parallel.n_threads is %llu, but parallel.run is NULL: it takes a function that runs tasks, as "
                            "mail_pool_parallel gives it", (unsigned long long)parallel->n_threads);
}

/* Threads to split work over: 1 without a callback. */
MAILP_UNUSED static size_t mailp_threads(const mail_parallel *parallel) {
    if (parallel == NULL || parallel->run == NULL || parallel->n_threads < 2) {
        return 1;
    }
    return MAILP_MIN(parallel->n_threads, (size_t)MAIL_MAX_THREADS);
}

#ifdef MAIL_THREADS
#if !defined(__GNUC__) || defined(__TINYC__)
#  error "MAIL_THREADS needs the atomic built-ins of gcc or clang; without it, mail_parallel takes threads of your own"
#endif
#include <pthread.h>
#include <sys/types.h>
#include <unistd.h>

#define MAILP_SPINS 2000  /* looks for a job before a thread goes to sleep: 20 to 100 us, more than a phase of a layer takes */

#if defined(MAILP_PAUSE)
#elif defined(__x86_64__) || defined(__i386__)
#  define MAILP_PAUSE() __asm__ volatile("pause")
#elif defined(__aarch64__)
#  define MAILP_PAUSE() __asm__ volatile("yield")
#else
#  define MAILP_PAUSE() ((void)0)
#endif

/* One job at a time; its n tasks are dealt into at most as many hands as there are threads, task i into hand i % hands. Thread t
   takes hand t if it is still there, so that in every phase it finds what it worked on before in its own cache, and then
   whatever is left. A hand is taken by raising `taken` to the number of the job. Numbers only grow, so a thread that is late
   finds nothing to take of a job that has ended, and a job cannot end while a thread holds a hand of it. What one thread
   writes while others wait stands on a cache line of its own: fetching one from another core takes about 0.1 us. */
typedef struct mailp_hand {
    uint64_t      taken, done;   /* atomic: the last job in which it was taken, and finished */
    unsigned char apart[48];
} mailp_hand;

typedef struct mailp_worker {
    pthread_t  thread;
    mail_pool *pool;
    size_t     index;
} mailp_worker;

struct mail_pool {
    uint64_t        job;       /* atomic: its number * 256 + hands */
    size_t          n;
    mail_task       task;
    void           *arg;
    unsigned char   apart[64 - 2 * sizeof(void *) - sizeof(size_t) - 8];
    mailp_hand      hand[MAIL_MAX_THREADS];
    int             sleepers, waiting, stop;  /* atomic */
    size_t          n_workers;
    mailp_worker    worker[MAIL_MAX_THREADS];
    pthread_mutex_t one;       /* held while a job runs */
    pthread_mutex_t lock;
    pthread_cond_t  wake, finished;
    pid_t           process;   /* that has the workers: a forked child has not */
};

/* Take hands of the job until none is left, beginning with that of thread t. */
static void mailp_pool_work(mail_pool *pool, uint64_t job, size_t t) {
    const size_t hands = (size_t)(job & 255);
    size_t       k, i;
    for (k = 0; k < hands; k++) {
        mailp_hand *hand  = &pool->hand[(t + k) % hands];
        uint64_t    taken = __atomic_load_n(&hand->taken, __ATOMIC_SEQ_CST);
        if (taken >= job || !__atomic_compare_exchange_n(&hand->taken, &taken, job, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            continue;
        }
        for (i = (t + k) % hands; i < pool->n; i += hands) {
            pool->task(pool->arg, i);
        }
        __atomic_store_n(&hand->done, job, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&pool->waiting, __ATOMIC_SEQ_CST)) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->finished);
            pthread_mutex_unlock(&pool->lock);
        }
    }
}

static int mailp_pool_finished(mail_pool *pool, uint64_t job) {
    size_t i;
    for (i = 0; i < (size_t)(job & 255); i++) {
        if (__atomic_load_n(&pool->hand[i].done, __ATOMIC_SEQ_CST) != job) {
            return 0;
        }
    }
    return 1;
}

/* No job after `last`, and nothing to stop for */
static int mailp_pool_idle(mail_pool *pool, uint64_t last) {
    return __atomic_load_n(&pool->job, __ATOMIC_SEQ_CST) == last && !__atomic_load_n(&pool->stop, __ATOMIC_SEQ_CST);
}

static void *mailp_pool_main(void *arg) {
    const mailp_worker *worker = (const mailp_worker *)arg;
    mail_pool          *pool   = worker->pool;
    uint64_t            last   = 0;
    for (;;) {
        int spins;
        for (spins = 0; spins < MAILP_SPINS && mailp_pool_idle(pool, last); spins++) {
            MAILP_PAUSE();
        }
        if (spins == MAILP_SPINS) {
            pthread_mutex_lock(&pool->lock);
            __atomic_add_fetch(&pool->sleepers, 1, __ATOMIC_SEQ_CST);
            while (mailp_pool_idle(pool, last)) {
                pthread_cond_wait(&pool->wake, &pool->lock);
            }
            __atomic_sub_fetch(&pool->sleepers, 1, __ATOMIC_SEQ_CST);
            pthread_mutex_unlock(&pool->lock);
        }
        if (__atomic_load_n(&pool->stop, __ATOMIC_SEQ_CST)) {
            return NULL;
        }
        last = __atomic_load_n(&pool->job, __ATOMIC_SEQ_CST);
        mailp_pool_work(pool, last, worker->index);
    }
}

static void mailp_pool_run(void *user, size_t n, mail_task task, void *arg) {
    mail_pool   *pool  = (mail_pool *)user;
    const size_t hands = MAILP_MIN(n, pool->n_workers + 1);
    uint64_t     job;
    int          spins;
    size_t       i;
    if (n < 2 || pthread_mutex_trylock(&pool->one) != 0) {
        for (i = 0; i < n; i++) {  /* another session is using the threads: this one does its work itself */
            task(arg, i);
        }
        return;
    }
    pool->task = task;
    pool->arg  = arg;
    pool->n    = n;
    job = ((__atomic_load_n(&pool->job, __ATOMIC_SEQ_CST) >> 8) + 1) << 8 | hands;
    __atomic_store_n(&pool->job, job, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&pool->sleepers, __ATOMIC_SEQ_CST) > 0) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
    }
    mailp_pool_work(pool, job, 0);
    for (spins = 0; spins < MAILP_SPINS && !mailp_pool_finished(pool, job); spins++) {
        MAILP_PAUSE();
    }
    if (spins == MAILP_SPINS) {
        pthread_mutex_lock(&pool->lock);
        __atomic_store_n(&pool->waiting, 1, __ATOMIC_SEQ_CST);
        while (!mailp_pool_finished(pool, job)) {
            pthread_cond_wait(&pool->finished, &pool->lock);
        }
        __atomic_store_n(&pool->waiting, 0, __ATOMIC_SEQ_CST);
        pthread_mutex_unlock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->one);
}

MAIL_API mail_status mail_pool_create(mail_pool **pool, size_t n_threads, mail_error *err) {
    mail_pool *p;
    if (pool == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_pool_create: pool is NULL");
    }
    *pool = NULL;
    if (n_threads < 1 || n_threads > MAIL_MAX_THREADS) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_pool_create: n_threads is %llu, expected 1 to %d", (unsigned long long)n_threads,
                          MAIL_MAX_THREADS);
    }
    p = (mail_pool *)mailp_alloc(NULL, sizeof *p);
    if (p == NULL) {
        return mailp_fail(err, MAIL_E_MEMORY, "no memory for a thread pool");
    }
    memset(p, 0, sizeof *p);
    p->process = getpid();
    (void)pthread_mutex_init(&p->one, NULL);
    (void)pthread_mutex_init(&p->lock, NULL);
    (void)pthread_cond_init(&p->wake, NULL);
    (void)pthread_cond_init(&p->finished, NULL);
    while (p->n_workers + 1 < n_threads) {  /* the caller's thread is the first */
        mailp_worker *worker = &p->worker[p->n_workers];
        worker->pool  = p;
        worker->index = p->n_workers + 1;
        if (pthread_create(&worker->thread, NULL, mailp_pool_main, worker) != 0) {
            mail_pool_free(p);
            return mailp_fail(err, MAIL_E_MEMORY, "thread %llu could not be started", (unsigned long long)p->n_workers + 1);
        }
        p->n_workers++;
    }
    *pool = p;
    return MAIL_OK;
}

MAIL_API void mail_pool_free(mail_pool *pool) {
    size_t i;
    if (pool == NULL) {
        return;
    }
    if (pool->process != getpid()) {  /* nobody to join or to wake here */
        mailp_free(NULL, pool);
        return;
    }
    pthread_mutex_lock(&pool->lock);
    __atomic_store_n(&pool->stop, 1, __ATOMIC_SEQ_CST);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (i = 0; i < pool->n_workers; i++) {
        (void)pthread_join(pool->worker[i].thread, NULL);
    }
    (void)pthread_cond_destroy(&pool->finished);
    (void)pthread_cond_destroy(&pool->wake);
    (void)pthread_mutex_destroy(&pool->lock);
    (void)pthread_mutex_destroy(&pool->one);
    mailp_free(NULL, pool);
}

MAIL_API mail_parallel mail_pool_parallel(mail_pool *pool) {
    mail_parallel parallel;
    parallel.user      = pool;
    parallel.run       = pool == NULL ? NULL : mailp_pool_run;
    parallel.n_threads = pool == NULL ? 0 : pool->n_workers + 1;
    return parallel;
}
#endif /* MAIL_THREADS */

/* ================================================================================================================
   >>bytes   little-endian reads, range checks, a sort without bad cases, whole-file read

   Out: integers are put together byte by byte, so any host reads any file at any alignment. A range is checked by
   subtracting from the known size; a sum could wrap around.

   Files are mapped where the system can (POSIX, Windows) and read otherwise, or if mapping fails; MAIL_NO_MMAP always
   reads. A mapped file must not be shortened by others while it is open: the system then ends the program.
   ============================================================================================================= */

#if defined(__BYTE_ORDER__) && defined(__ORDER_LITTLE_ENDIAN__)
#  if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#    define MAILP_LITTLE_ENDIAN 1
#  endif
#elif defined(_WIN32)
#  define MAILP_LITTLE_ENDIAN 1
#endif

#ifndef MAIL_NO_STDIO
#  include <errno.h>
#  if defined(_WIN32)
#    ifndef WIN32_LEAN_AND_MEAN
#      define WIN32_LEAN_AND_MEAN
#    endif
#    ifndef NOMINMAX
#      define NOMINMAX
#    endif
#    include <windows.h>
#    ifndef MAIL_NO_MMAP
#      define MAILP_MAP_WINDOWS 1
#    endif
#  elif (defined(__unix__) || defined(__APPLE__)) && !defined(__wasi__) && !defined(__EMSCRIPTEN__)
#    include <fcntl.h>
#    include <sys/mman.h>
#    include <sys/stat.h>
#    include <sys/time.h>
#    include <unistd.h>
#    define MAILP_POSIX 1
#    if defined(_POSIX_C_SOURCE) ? _POSIX_C_SOURCE >= 200112L : !defined(__STRICT_ANSI__)
#      define MAILP_LSTAT 1  /* not hidden by a strict -std or by who asks for less of POSIX */
#    endif
#    ifndef MAIL_NO_MMAP
#      define MAILP_MAP_POSIX 1
#    endif
#  endif
#endif

MAILP_INLINE unsigned mailp_le16(const unsigned char *p) {
    return (unsigned)p[0] | (unsigned)p[1] << 8;
}

MAILP_INLINE uint32_t mailp_le32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

MAILP_INLINE uint64_t mailp_le64(const unsigned char *p) {
    return (uint64_t)mailp_le32(p) | (uint64_t)mailp_le32(p + 4) << 32;
}

/* 1 if the n bytes from at lie inside size bytes */
MAILP_INLINE int mailp_inside(uint64_t size, uint64_t at, uint64_t n) {
    return at <= size && n <= size - at;
}

/* Bytes of a file made fit for an error message: control characters become '?', long text is cut. */
typedef struct mailp_shown {
    char text[100];
} mailp_shown;

static mailp_shown mailp_show(const void *bytes, size_t n) {
    const unsigned char *p = (const unsigned char *)bytes;
    mailp_shown          shown;
    size_t               i, most = sizeof shown.text - 4;
    for (i = 0; i < n && i < most; i++) {
        shown.text[i] = (char)(p[i] < 0x20 || p[i] == 0x7f ? '?' : p[i]);
    }
    memcpy(shown.text + i, n > most ? "..." : "", n > most ? 4 : 1);
    return shown;
}

static mailp_shown mailp_show_text(const char *text) {
    return mailp_show(text, strlen(text));
}

#define MAILP_LLU(n) ((unsigned long long)(n))  /* for %llu */

/* Merge sort of pointers: stable, n log n for every input.   tmp [n] */
static void mailp_sort(const void **items, const void **tmp, size_t n, int (*compare)(const void *a, const void *b)) {
    const void **from = items, **to = tmp, **swap;
    size_t       width, start, i, j, k, middle, stop;
    for (width = 1; width < n; width *= 2) {
        for (start = 0; start < n; start = stop) {
            middle = start + MAILP_MIN(width, n - start);
            stop   = middle + MAILP_MIN(width, n - middle);
            for (i = start, j = middle, k = start; k < stop; k++) {
                to[k] = j == stop || (i < middle && compare(from[i], from[j]) <= 0) ? from[i++] : from[j++];
            }
        }
        swap = from;
        from = to;
        to   = swap;
    }
    if (from != items) {
        memcpy((void *)items, (const void *)from, n * sizeof *items);
    }
}

typedef struct mailp_file {
    const unsigned char *data;
    size_t               size;
    int                  mapped;
} mailp_file;

#ifndef MAIL_NO_STDIO

/* A path: the end of a long one says more. */
static mailp_shown mailp_show_path(const char *path) {
    const size_t n = strlen(path), most = sizeof(mailp_shown) - 4;
    mailp_shown  shown = mailp_show(n > most ? path + n - most : path, n > most ? most : n);
    if (n > most) {
        memcpy(shown.text, "...", 3);
    }
    return shown;
}

/* Name the file that a failure is about, before what err says of it already. */
static mail_status mailp_fail_in(const char *path, mail_status status, mail_error *err) {
    if (status != MAIL_OK && err != NULL) {
        const mail_error what = *err;
        (void)mailp_fail(err, status, "%s: %s", mailp_show_path(path).text, what.text);
    }
    return status;
}

/* All of a file into memory from the allocator. An empty file is an error. */
static mail_status mailp_read_file(unsigned char **data, size_t *size, const char *path, const mail_allocator *allocator, mail_error *err) {
    mail_status status = MAIL_OK;
    long        n = -1;
    FILE       *f = fopen(path, "rb");
    *data = NULL;
    if (f == NULL) {
        return mailp_fail(err, MAIL_E_IO, "%s: cannot be opened: %s", mailp_show_path(path).text, strerror(errno));
    }
    if (fseek(f, 0, SEEK_END) == 0) {
        n = ftell(f);
    }
    if (n < 0 || fseek(f, 0, SEEK_SET) != 0) {
        status = mailp_fail(err, MAIL_E_IO, "%s: its size cannot be told: %s", mailp_show_path(path).text, strerror(errno));
    } else if (n == 0) {
        status = mailp_fail(err, MAIL_E_FORMAT, "%s: the file is empty", mailp_show_path(path).text);
    } else if ((*data = (unsigned char *)mailp_alloc(allocator, (size_t)n)) == NULL) {
        status = mailp_fail(err, MAIL_E_MEMORY, "%s: no memory for its %ld bytes", mailp_show_path(path).text, n);
    } else if (fread(*data, 1, (size_t)n, f) != (size_t)n) {
        mailp_free(allocator, *data);
        *data  = NULL;
        status = mailp_fail(err, MAIL_E_IO, "%s: cannot be read: %s", mailp_show_path(path).text, strerror(errno));
    }
    *size = status ? 0 : (size_t)n;
    (void)fclose(f);
    return status;
}

/* Map a file, or read it. An empty file is an error. */
static mail_status mailp_file_open(mailp_file *file, const char *path, const mail_allocator *allocator, mail_error *err) {
    unsigned char *data;
    mail_status    status;
#if defined(MAILP_POSIX)
    struct stat st;
    int         fd = open(path, O_RDONLY | O_NONBLOCK);  /* a pipe is refused below, not waited for */
    if (fd < 0) {
        return mailp_fail(err, MAIL_E_IO, "%s: cannot be opened: %s", mailp_show_path(path).text, strerror(errno));
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        (void)close(fd);
        return mailp_fail(err, MAIL_E_IO, "%s: not a regular file", mailp_show_path(path).text);
    }
#  if defined(MAILP_MAP_POSIX)
    if (st.st_size > 0 && (uint64_t)st.st_size <= SIZE_MAX) {
        void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map != MAP_FAILED) {
            (void)close(fd);
            file->data   = (const unsigned char *)map;
            file->size   = (size_t)st.st_size;
            file->mapped = 1;
            return MAIL_OK;
        }
    }
#  endif
    (void)close(fd);
#elif defined(MAILP_MAP_WINDOWS)
    HANDLE h = CreateFileA(path, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL, OPEN_EXISTING, 0, NULL);
    if (h != INVALID_HANDLE_VALUE) {
        LARGE_INTEGER size;
        HANDLE        mapping = CreateFileMappingA(h, NULL, PAGE_READONLY, 0, 0, NULL);
        void         *view = NULL;
        if (mapping != NULL && GetFileSizeEx(h, &size) && (uint64_t)size.QuadPart <= SIZE_MAX) {
            view = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
        }
        if (mapping != NULL) {
            (void)CloseHandle(mapping);  /* the view keeps it */
        }
        (void)CloseHandle(h);
        if (view != NULL) {
            file->data   = (const unsigned char *)view;
            file->size   = (size_t)size.QuadPart;
            file->mapped = 1;
            return MAIL_OK;
        }
    }
#endif
    status       = mailp_read_file(&data, &file->size, path, allocator, err);
    file->data   = data;
    file->mapped = 0;
    return status;
}

static void mailp_file_close(mailp_file *file, const mail_allocator *allocator) {
    if (file->data != NULL) {
        if (!file->mapped) {
            mailp_free(allocator, (void *)(uintptr_t)file->data);
        }
#if defined(MAILP_MAP_POSIX)
        else {
            (void)munmap((void *)(uintptr_t)file->data, file->size);
        }
#elif defined(MAILP_MAP_WINDOWS)
        else {
            (void)UnmapViewOfFile(file->data);
        }
#endif
    }
    memset(file, 0, sizeof *file);
}

#endif /* MAIL_NO_STDIO */

/* ================================================================================================================
   >>json   the subset of JSON that headers and configs need

   In:  text that may be damaged or hostile.
   Out: mailp_json_check accepts all of RFC 8259 but strings with a NUL or bytes that are not UTF-8, and at most
        MAILP_JSON_DEPTH nested brackets. The functions after it walk over checked text only: a value is a range of the
        text, nothing is allocated, and every walk is linear in the size of what it walks over.
   ============================================================================================================= */

#define MAILP_JSON_DEPTH 32

/* The text of one value, from its first character to behind its last; at NULL: no value. */
typedef struct mailp_json {
    const char *at, *end;
} mailp_json;

typedef struct mailp_json_scanner {
    const char *at, *end;  /* what is left of the text */
    const char *expected;  /* what should have stood at `at`, once a scan has failed */
} mailp_json_scanner;

static int mailp_json_expected(mailp_json_scanner *s, const char *expected) {
    s->expected = expected;
    return 0;
}

/* Pass over the next character if it is one of these. */
static int mailp_json_accept(mailp_json_scanner *s, const char *these) {
    if (s->at == s->end || *s->at == 0 || strchr(these, *s->at) == NULL) {
        return 0;
    }
    s->at++;
    return 1;
}

static void mailp_json_space(mailp_json_scanner *s) {
    while (mailp_json_accept(s, " \t\n\r")) {
    }
}

/* The number of the \uXXXX at p, or -1. */
static long mailp_json_hex(const char *p, const char *end) {
    static const char digits[] = "0123456789abcdefABCDEF";
    long              value = 0;
    int               i;
    if (end - p < 6 || p[0] != '\\' || p[1] != 'u') {
        return -1;
    }
    for (i = 2; i < 6; i++) {
        const char *digit = p[i] == 0 ? NULL : strchr(digits, p[i]);
        if (digit == NULL) {
            return -1;
        }
        value = value * 16 + (long)(digit - digits) - (digit - digits < 16 ? 0 : 6);
    }
    return value;
}

/* The character that the escape sequence at *p means, and *p moves behind it; 0 if it is NUL, half a surrogate pair or no
   escape sequence. */
static unsigned long mailp_json_escape(const char **p, const char *end) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char       *at = *p, *simple = end - at < 2 || at[1] == 0 ? NULL : strchr(from, at[1]);
    long              code, low;
    if (simple != NULL) {
        *p = at + 2;
        return (unsigned char)to[simple - from];
    }
    code = mailp_json_hex(at, end);
    if (code <= 0) {
        return 0;
    }
    *p = at + 6;
    if (code >= 0xd800 && code <= 0xdfff) {
        low = mailp_json_hex(*p, end);
        if (code > 0xdbff || low < 0xdc00 || low > 0xdfff) {
            return 0;
        }
        *p  += 6;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    return (unsigned long)code;
}

/* Bytes of the UTF-8 character at p, 0 if it is none (also overlong forms, surrogates and numbers above 10ffff). */
static size_t mailp_utf8(const unsigned char *p, size_t n) {
    size_t   i, length = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    unsigned low  = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;  /* what the second byte may be */
    unsigned high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    if (length > n || (length > 1 && (p[1] < low || p[1] > high))) {
        return 0;
    }
    for (i = 2; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return length;
}

static int mailp_json_scan_string(mailp_json_scanner *s) {
    s->at++;
    while (s->at < s->end && *s->at != '"') {
        if ((unsigned char)*s->at < 0x20) {
            return mailp_json_expected(s, "no control character in a string");
        }
        if (*s->at == '\\') {
            const char *p = s->at;
            if (mailp_json_escape(&p, s->end) == 0) {
                return mailp_json_expected(s, "an escape sequence of a character other than NUL, surrogates in pairs");
            }
            s->at = p;
        } else {
            size_t n = mailp_utf8((const unsigned char *)s->at, (size_t)(s->end - s->at));
            if (n == 0) {
                return mailp_json_expected(s, "UTF-8");
            }
            s->at += n;
        }
    }
    return mailp_json_accept(s, "\"") || mailp_json_expected(s, "the end of a string");
}

static int mailp_json_scan_digits(mailp_json_scanner *s) {
    if (!mailp_json_accept(s, "0123456789")) {
        return mailp_json_expected(s, "a digit");
    }
    while (mailp_json_accept(s, "0123456789")) {
    }
    return 1;
}

static int mailp_json_scan_number(mailp_json_scanner *s) {
    (void)mailp_json_accept(s, "-");
    if (!mailp_json_accept(s, "0") && !mailp_json_scan_digits(s)) {
        return 0;
    }
    if (mailp_json_accept(s, ".") && !mailp_json_scan_digits(s)) {
        return 0;
    }
    if (mailp_json_accept(s, "eE")) {
        (void)mailp_json_accept(s, "+-");
        return mailp_json_scan_digits(s);
    }
    return 1;
}

static int mailp_json_scan_word(mailp_json_scanner *s, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n) != 0) {
        return mailp_json_expected(s, "a value");
    }
    s->at += n;
    return 1;
}

static int mailp_json_scan(mailp_json_scanner *s, unsigned depth);

/* An object or array, from its opening bracket. */
static int mailp_json_scan_members(mailp_json_scanner *s, unsigned depth) {
    int         object = *s->at++ == '{';
    const char *close = object ? "}" : "]";
    if (depth == 0) {
        return mailp_json_expected(s, "fewer nested brackets");
    }
    mailp_json_space(s);
    if (mailp_json_accept(s, close)) {
        return 1;
    }
    do {
        mailp_json_space(s);
        if (object) {
            if (s->at == s->end || *s->at != '"') {
                return mailp_json_expected(s, "a name in quotes");
            }
            if (!mailp_json_scan_string(s)) {
                return 0;
            }
            mailp_json_space(s);
            if (!mailp_json_accept(s, ":")) {
                return mailp_json_expected(s, "':'");
            }
        }
        if (!mailp_json_scan(s, depth - 1)) {
            return 0;
        }
        mailp_json_space(s);
    } while (mailp_json_accept(s, ","));
    return mailp_json_accept(s, close) || mailp_json_expected(s, object ? "',' or '}'" : "',' or ']'");
}

/* Pass over one value and the white space before it. */
static int mailp_json_scan(mailp_json_scanner *s, unsigned depth) {
    mailp_json_space(s);
    switch (s->at < s->end ? *s->at : 0) {
    case '{': case '[': return mailp_json_scan_members(s, depth);
    case '"': return mailp_json_scan_string(s);
    case 't': return mailp_json_scan_word(s, "true");
    case 'f': return mailp_json_scan_word(s, "false");
    case 'n': return mailp_json_scan_word(s, "null");
    case '-': case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
        return mailp_json_scan_number(s);
    default: return mailp_json_expected(s, "a value");
    }
}

/* The one value that a text holds. what and code: how a failure is named. */
static mail_status mailp_json_check(mailp_json *value, const char *text, size_t size, const char *what, mail_status code, mail_error *err) {
    mailp_json_scanner s;
    const char        *p;
    uint64_t           line = 1, column = 1;  /* in characters, as editors count */
    s.at       = text;
    s.end      = text + size;
    s.expected = NULL;
    mailp_json_space(&s);
    value->at  = s.at;
    if (mailp_json_scan(&s, MAILP_JSON_DEPTH)) {
        value->end = s.at;
        mailp_json_space(&s);
        if (s.at == s.end) {
            return MAIL_OK;
        }
        (void)mailp_json_expected(&s, "the end");
    }
    value->at = value->end = NULL;
    for (p = text; p < s.at; p++) {
        line  += *p == '\n';
        column = *p == '\n' ? 1 : column + (((unsigned char)*p & 0xc0) != 0x80);
    }
    return mailp_fail(err, code, "%s: line %llu, column %llu: expected %s, found %s%s%s", what, MAILP_LLU(line), MAILP_LLU(column), s.expected,
                      s.at == s.end ? "" : "'", s.at == s.end ? "the end" : mailp_show(s.at, MAILP_MIN((size_t)(s.end - s.at), (size_t)12)).text, s.at == s.end ? "" : "'");
}

MAILP_INLINE int mailp_json_type(mailp_json v, char first) {
    return v.at != NULL && *v.at == first;
}

static mailp_shown mailp_json_show(mailp_json v) {
    return mailp_show(v.at, (size_t)(v.end - v.at));
}

/* Step through an object or array: *at is NULL before the first step. Returns 0 after the last. key: objects only. */
static int mailp_json_next(mailp_json container, const char **at, mailp_json *key, mailp_json *value) {
    mailp_json_scanner s;
    s.at       = *at == NULL ? container.at + 1 : *at;
    s.end      = container.end - 1;
    s.expected = NULL;
    while (mailp_json_accept(&s, " \t\n\r,")) {
    }
    if (s.at >= s.end) {
        return 0;
    }
    if (*container.at == '{') {
        key->at = s.at;
        (void)mailp_json_scan_string(&s);
        key->end = s.at;
        while (mailp_json_accept(&s, " \t\n\r:")) {
        }
    }
    value->at = s.at;
    (void)mailp_json_scan(&s, MAILP_JSON_DEPTH);
    value->end = *at = s.at;
    return 1;
}

/* The next character of a string as UTF-8: *p moves on; returns how many bytes of utf8 are set, 0 at the closing quote. */
static size_t mailp_json_char(const char **p, const char *end, unsigned char utf8[4]) {
    unsigned long code;
    size_t        n, i;
    if (**p == '"') {
        return 0;
    }
    if (**p != '\\') {  /* longer characters byte by byte */
        utf8[0] = (unsigned char)*(*p)++;
        return 1;
    }
    code = mailp_json_escape(p, end);
    n    = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (i = n; i-- > 1; code >>= 6) {
        utf8[i] = (unsigned char)(0x80 | (code & 0x3f));
    }
    utf8[0] = (unsigned char)((n == 1 ? 0 : 0xf00 >> n & 0xff) | code);  /* as many ones as bytes, then a zero */
    return n;
}

/* A string with its escapes undone and a NUL at its end. Returns the bytes written, 0 if they are more than capacity. They
   are never more than the value's own text. */
static size_t mailp_json_string(char *text, size_t capacity, mailp_json v) {
    const char   *p = v.at + 1;
    unsigned char utf8[4];
    size_t        n, used = 0;
    while ((n = mailp_json_char(&p, v.end, utf8)) != 0) {
        if (n >= capacity - used) {
            return 0;
        }
        memcpy(text + used, utf8, n);
        used += n;
    }
    text[used] = 0;
    return used + 1;
}

/* 1 if v is the string word */
static int mailp_json_is(mailp_json v, const char *word) {
    const char   *p;
    unsigned char utf8[4];
    size_t        n;
    if (!mailp_json_type(v, '"')) {
        return 0;
    }
    for (p = v.at + 1; (n = mailp_json_char(&p, v.end, utf8)) != 0; word += n) {
        if (strncmp(word, (const char *)utf8, n) != 0) {
            return 0;
        }
    }
    return *word == 0;
}

/* Members called name in an object: how many, and the last one. */
static int mailp_json_find(mailp_json *value, mailp_json object, const char *name) {
    const char *at = NULL;
    mailp_json  key, v;
    int         n = 0;
    value->at = value->end = NULL;
    while (mailp_json_type(object, '{') && mailp_json_next(object, &at, &key, &v)) {
        if (mailp_json_is(key, name)) {
            *value = v;
            n += n < 2;
        }
    }
    return n;
}

/* A whole number without sign, point or exponent. */
static int mailp_json_u64(uint64_t *number, mailp_json v) {
    const char *p;
    uint64_t    n = 0;
    for (p = v.at; p < v.end; p++) {
        unsigned digit = (unsigned)(unsigned char)*p - '0';
        if (digit > 9 || n > (UINT64_MAX - digit) / 10) {
            return 0;
        }
        n = n * 10 + digit;
    }
    *number = n;
    return 1;
}

/* An array of at most `most` whole numbers; *n: how many. */
static int mailp_json_u64s(uint64_t *numbers, unsigned *n, unsigned most, mailp_json v) {
    const char *at = NULL;
    mailp_json  key, item;
    int         ok = mailp_json_type(v, '[');
    for (*n = 0; ok && mailp_json_next(v, &at, &key, &item); ++*n) {
        ok = *n < most && mailp_json_u64(&numbers[*n], item);
    }
    return ok;
}

/* Any number. Exact to about one unit in the last place of a double (strtod would ask the locale what a point is), which
   gives back every float32 that was written with nine digits. Too large: infinity. */
static int mailp_json_number(double *number, mailp_json v) {
    const char *p = v.at;
    uint64_t    digits = 0;
    int64_t     exponent = 0, shift = 0, step;
    int         negative, after_point = 0, negative_exponent = 0;
    double      x, power;
    if (p == NULL || !(*p == '-' || (*p >= '0' && *p <= '9'))) {
        return 0;
    }
    negative = *p == '-';
    for (p += negative; p < v.end && *p != 'e' && *p != 'E'; p++) {
        if (*p == '.') {
            after_point = 1;
        } else if (digits <= (UINT64_MAX - 9) / 10) {
            digits = digits * 10 + (unsigned)(*p - '0');
            shift -= after_point;
        } else {
            shift += !after_point;  /* digits beyond the nineteenth only count as places */
        }
    }
    if (p < v.end) {
        p++;
        negative_exponent = *p == '-';
        for (p += *p == '-' || *p == '+'; p < v.end; p++) {
            exponent = MAILP_MIN(exponent * 10 + (*p - '0'), (int64_t)1 << 40);
        }
    }
    exponent = shift + (negative_exponent ? -exponent : exponent);
    for (x = (double)digits; exponent != 0 && x > 0 && x <= DBL_MAX; exponent += exponent > 0 ? -step : step) {
        for (power = 1, step = 0; step < 22 && step != exponent && step != -exponent; step++) {
            power *= 10;  /* exact up to 10^22 */
        }
        x = exponent > 0 ? x * power : x / power;
    }
    *number = negative ? -x : x;
    return 1;
}

/* ================================================================================================================
   >>tensors   checkpoint bytes -> a table of named tensors

   In:  a byte range that may be damaged or hostile.
   Out: mail_tensors, sorted by name; each entry has a dtype, at most MAIL_MAX_DIMS dimensions and a byte range.
   After this section every range lies inside the file and its length equals shape times element size (of a view: every
   element lies inside its storage, and there are no more of them than the storage has), so nothing below checks that
   again.

   Limits that hold for every file: time n log n in its size; memory at most 128 times the bytes that are not tensor data
   (safetensors header; zip directory and pickle), plus 4 KiB; the tensors have at most 16 times the bytes that the file has,
   which bounds what a policy made of them takes.
   ============================================================================================================= */

typedef struct mailp_pair {
    const char *key, *value;
} mailp_pair;

struct mail_tensors {
    mail_allocator allocator;
    mailp_file     file;      /* data NULL: the bytes are the caller's */
    mail_tensor   *tensor;    /* [n] in the order of the file; begins the block that holds the other arrays and the strings too */
    const void   **by_name;   /* [n] const mail_tensor *, sorted */
    size_t         n;
    mailp_pair    *pair;      /* [n_pairs] metadata */
    const void   **by_key;    /* [n_pairs] const mailp_pair *, sorted */
    size_t         n_pairs;
};

static const struct {
    char     name[8];
    unsigned size;
} mailp_dtypes[MAIL_DTYPE_COUNT] = { { "F32", 4 }, { "F16", 2 }, { "BF16", 2 }, { "F64", 8 }, { "I8", 1 },
                                     { "U8", 1 },  { "I16", 2 }, { "I32", 4 },  { "I64", 8 }, { "BOOL", 1 } };

MAIL_API const char *mail_dtype_name(mail_dtype dtype) {
    return (unsigned)dtype < MAIL_DTYPE_COUNT ? mailp_dtypes[dtype].name : "unknown";
}

MAIL_API size_t mail_dtype_size(mail_dtype dtype) {
    return (unsigned)dtype < MAIL_DTYPE_COUNT ? mailp_dtypes[dtype].size : 0;
}

/* *count = product of the shape; 0 if it or its bytes do not fit. */
static int mailp_shape_count(uint64_t *count, const uint64_t *shape, unsigned n_dims, mail_dtype dtype) {
    uint64_t product = mail_dtype_size(dtype);
    unsigned d;
    for (d = 0; d < n_dims; d++) {
        if (!mailp_mul(&product, product, shape[d])) {
            return 0;
        }
    }
    *count = product / mail_dtype_size(dtype);
    return 1;
}

/* ---- the table: two passes over a file count and fill it, mailp_tensors_finish sorts it ---------------------------- */

/* Room for n tensors, n_pairs of metadata and text_size bytes of strings, in one block; *text: where the strings go. */
static mail_status mailp_tensors_reserve(mail_tensors *t, char **text, size_t n, size_t n_pairs, size_t text_size, mail_error *err) {
    size_t bytes = n * (sizeof *t->tensor + 2 * sizeof *t->by_name) + n_pairs * (sizeof *t->pair + 2 * sizeof *t->by_key) + text_size + 1;
    t->tensor = (mail_tensor *)mailp_alloc(&t->allocator, bytes);
    if (t->tensor == NULL) {
        return mailp_fail(err, MAIL_E_MEMORY, "no memory for a table of %llu tensors (%llu bytes)", MAILP_LLU(n), MAILP_LLU(bytes));
    }
    t->pair    = (mailp_pair *)(void *)(t->tensor + n);
    t->by_name = (const void **)(void *)(t->pair + n_pairs);  /* twice: room to sort */
    t->by_key  = t->by_name + 2 * n;
    *text      = (char *)(void *)(t->by_key + 2 * n_pairs);
    return MAIL_OK;
}

/* A mail_tensor begins with its name, a mailp_pair with its key. */
static int mailp_by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int mailp_by_data(const void *a, const void *b) {
    const mail_tensor *x = (const mail_tensor *)a, *y = (const mail_tensor *)b;
    return x->data != y->data ? (x->data < y->data ? -1 : 1) : (x->count > y->count) - (x->count < y->count);
}

/* Pointers to the n entries of an array, sorted.   by [2 n]   Returns the place in it of the second of two equal entries, or 0. */
static size_t mailp_index(const void **by, const void *entries, size_t n, size_t size, int (*compare)(const void *a, const void *b)) {
    size_t i;
    for (i = 0; i < n; i++) {
        by[i] = (const char *)entries + i * size;
    }
    mailp_sort(by, by + n, n, compare);
    for (i = 1; i < n && compare(by[i - 1], by[i]) != 0; i++) {
    }
    return i < n ? i : 0;
}

/* The one of n sorted entries that compares equal to key, or NULL. */
static const void *mailp_search(const void **by, size_t n, const void *key, int (*compare)(const void *a, const void *b)) {
    size_t low = 0, high = n;
    while (low < high) {
        size_t at = low + (high - low) / 2;
        int    c = compare(key, by[at]);
        if (c == 0) {
            return by[at];
        }
        if (c > 0) {
            low = at + 1;
        } else {
            high = at;
        }
    }
    return NULL;
}

static mail_status mailp_tensors_finish(mail_tensors *t, mail_error *err) {
    size_t twice = mailp_index(t->by_name, t->tensor, t->n, sizeof *t->tensor, mailp_by_name);
    if (twice > 0) {
        return mailp_fail(err, MAIL_E_FORMAT, "tensor '%s' is there twice", mailp_show_text(mail_tensors_at(t, twice)->name).text);
    }
    twice = mailp_index(t->by_key, t->pair, t->n_pairs, sizeof *t->pair, mailp_by_name);
    if (twice > 0) {
        return mailp_fail(err, MAIL_E_FORMAT, "metadata key '%s' is there twice", mailp_show_text(*(const char *const *)t->by_key[twice]).text);
    }
    return MAIL_OK;
}

/* ---- safetensors ---------------------------------------------------------------------------------------------------

   u64        size of the header
   header     JSON object: name -> {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, and "__metadata__" ->
              object of strings; may be padded with spaces
   data       little-endian, row-major; offsets count from here

   As the format demands, the tensors' ranges cover the data without holes or overlaps, and no name is there twice. */

#define MAILP_HEADER_MAX 100000000u  /* bytes; the format's reference reader has the same limit */

/* One tensor from its JSON object. data, size: the bytes behind the header. */
static mail_status mailp_safetensors_entry(mail_tensor *x, mailp_json entry, const unsigned char *data, uint64_t size, mail_error *err) {
    const char *at = NULL;
    mailp_json  key, v;
    uint64_t    range[2];
    unsigned    n, has_dtype = 0, has_shape = 0, has_range = 0, d;
    mailp_shown name = mailp_show_text(x->name);
    if (!mailp_json_type(entry, '{')) {
        return mailp_fail(err, MAIL_E_FORMAT, "tensor '%s': expected an object with dtype, shape and data_offsets", name.text);
    }
    while (mailp_json_next(entry, &at, &key, &v)) {
        if (mailp_json_is(key, "dtype") && !has_dtype++) {
            for (d = 0; d < MAIL_DTYPE_COUNT && !mailp_json_is(v, mailp_dtypes[d].name); d++) {
            }
            if (d == MAIL_DTYPE_COUNT) {
                return mailp_fail(err, MAIL_E_UNSUPPORTED, "tensor '%s': dtype %s is not supported", name.text, mailp_json_show(v).text);
            }
            x->dtype = (mail_dtype)d;
        } else if (mailp_json_is(key, "shape") && !has_shape++) {
            if (!mailp_json_u64s(x->shape, &x->n_dims, MAIL_MAX_DIMS, v)) {
                return mailp_fail(err, MAIL_E_FORMAT, "tensor '%s': expected a shape of at most %d whole numbers, found %s", name.text,
                                  MAIL_MAX_DIMS, mailp_json_show(v).text);
            }
        } else if (mailp_json_is(key, "data_offsets") && !has_range++) {
            if (!mailp_json_u64s(range, &n, 2, v) || n != 2) {
                return mailp_fail(err, MAIL_E_FORMAT, "tensor '%s': expected two data_offsets, found %s", name.text, mailp_json_show(v).text);
            }
        } else {
            return mailp_fail(err, MAIL_E_FORMAT, "tensor '%s': member %s is unknown or there twice", name.text, mailp_json_show(key).text);
        }
    }
    if (!has_dtype || !has_shape || !has_range) {
        return mailp_fail(err, MAIL_E_FORMAT, "tensor '%s': it has no %s", name.text,
                          !has_dtype ? "dtype" : !has_shape ? "shape" : "data_offsets");
    }
    if (range[0] > range[1] || range[1] > size) {
        return mailp_fail(err, MAIL_E_FORMAT, "tensor '%s': bytes %llu..%llu, but the file has 0..%llu", name.text, MAILP_LLU(range[0]),
                          MAILP_LLU(range[1]), MAILP_LLU(size));
    }
    if (!mailp_shape_count(&x->count, x->shape, x->n_dims, x->dtype) || x->count * mail_dtype_size(x->dtype) != range[1] - range[0]) {
        return mailp_fail(err, MAIL_E_FORMAT, "tensor '%s': its shape does not take the %llu bytes of its data_offsets", name.text,
                          MAILP_LLU(range[1] - range[0]));
    }
    x->data = data + range[0];
    for (d = x->n_dims; d-- > 0;) {
        x->strides[d] = d + 1 == x->n_dims ? 1 : x->strides[d + 1] * x->shape[d + 1];
    }
    return MAIL_OK;
}

static mail_status mailp_safetensors_parse(mail_tensors *t, const unsigned char *bytes, size_t size, mail_error *err) {
    uint64_t             header_size = mailp_le64(bytes);
    const unsigned char *data, *end;
    const char          *at, *at2;
    char                *text = NULL;
    mailp_json           header, key, v, key2, v2;
    size_t               n = 0, n_pairs = 0, i;
    mail_status          status;
    if (header_size > size - 8 || header_size > MAILP_HEADER_MAX) {
        return mailp_fail(err, MAIL_E_FORMAT, "safetensors header: it is said to have %llu bytes, but the file has %llu and the limit is %u",
                          MAILP_LLU(header_size), MAILP_LLU(size - 8), MAILP_HEADER_MAX);
    }
    data   = bytes + 8 + header_size;
    size  -= 8 + (size_t)header_size;
    status = mailp_json_check(&header, (const char *)bytes + 8, (size_t)header_size, "safetensors header", MAIL_E_FORMAT, err);
    if (status) {
        return status;
    }
    for (at = NULL; mailp_json_next(header, &at, &key, &v);) {
        if (!mailp_json_is(key, "__metadata__")) {
            n++;
            continue;
        }
        if (!mailp_json_type(v, '{') || n_pairs > 0) {
            return mailp_fail(err, MAIL_E_FORMAT, "safetensors header: expected one __metadata__, an object");
        }
        for (at2 = NULL; mailp_json_next(v, &at2, &key2, &v2); n_pairs++) {
            if (!mailp_json_type(v2, '"')) {
                return mailp_fail(err, MAIL_E_FORMAT, "safetensors header: __metadata__ %s: expected a string, found %s",
                                  mailp_json_show(key2).text, mailp_json_show(v2).text);
            }
        }
    }
    status = mailp_tensors_reserve(t, &text, n, n_pairs, (size_t)header_size, err);  /* no string grows by being decoded */
    for (at = NULL; status == MAIL_OK && mailp_json_next(header, &at, &key, &v);) {
        if (mailp_json_is(key, "__metadata__")) {
            for (at2 = NULL; mailp_json_next(v, &at2, &key2, &v2); t->n_pairs++) {
                t->pair[t->n_pairs].key   = text;
                text += mailp_json_string(text, (size_t)(key2.end - key2.at), key2);
                t->pair[t->n_pairs].value = text;
                text += mailp_json_string(text, (size_t)(v2.end - v2.at), v2);
            }
        } else {
            mail_tensor *x = &t->tensor[t->n++];
            memset(x, 0, sizeof *x);
            x->name = text;
            text += mailp_json_string(text, (size_t)(key.end - key.at), key);
            status = mailp_safetensors_entry(x, v, data, size, err);
        }
    }
    if (status) {
        return status;
    }
    (void)mailp_index(t->by_name, t->tensor, t->n, sizeof *t->tensor, mailp_by_data);
    for (i = 0, end = data; i <= t->n; i++) {
        const mail_tensor   *x = mail_tensors_at(t, i);
        const unsigned char *begin = x != NULL ? x->data : data + size;
        if (begin != end) {
            return mailp_fail(err, MAIL_E_FORMAT, "safetensors data: %s before '%s': byte %llu follows byte %llu",
                              begin < end ? "overlap" : "unused bytes", mailp_show_text(x != NULL ? x->name : "the end of the file").text,
                              MAILP_LLU(begin - data), MAILP_LLU(end - data));
        }
        end = x != NULL ? begin + x->count * mail_dtype_size(x->dtype) : end;
    }
    return mailp_tensors_finish(t, err);
}

/* ---- zip, as torch.save writes it ----------------------------------------------------------------------------------

   local header       "PK\3\4", version u16, flags u16, method u16, time u32, crc u32, stored u32, size u32, name length u16,
   (30 bytes)         extra length u16, then name, extra, data. The sizes may be 0 here (flag bit 3); the directory decides.
   directory entry    "PK\1\2", version u16 x2, flags u16, method u16, time u32, crc u32, stored u32, size u32, name length u16,
   (46 bytes)         extra length u16, comment length u16, disk u16, attributes u16 + u32, local header's offset u32, then
                      name, extra, comment. Numbers that are all ones stand in extra field 1 (zip64), 8 bytes each, in the
                      order size, stored, offset.
   end (22 bytes)     "PK\5\6", disk u16 x2, entries u16 x2, directory size u32 and offset u32, comment length u16
   zip64 end          "PK\6\6", size u64, version u16 x2, disk u32 x2, entries u64 x2, directory size u64 and offset u64;
                      found through the locator "PK\6\7", disk u32, offset u64, disks u32 that stands 20 bytes before the end

   Only stored (not compressed, not encrypted) entries are read. Checksums are not: torch can be told not to write them,
   and weights are checked for what they hold where they are packed. */

typedef struct mailp_zip_entry {
    const unsigned char *name;
    size_t               name_size;
    uint64_t             at;          /* of the local header */
    uint64_t             data, size;
} mailp_zip_entry;

typedef struct mailp_zip {
    const unsigned char *bytes;
    mailp_zip_entry     *entry;    /* [n]; begins a block that ends with by_name */
    const void         **by_name;  /* [n] const mailp_zip_entry *, sorted, and as much room to sort */
    size_t               n;
    const unsigned char *folder;   /* that of torch's entries, with the slash at its end */
    size_t               folder_size;
} mailp_zip;

static int mailp_zip_by_name(const void *a, const void *b) {
    const mailp_zip_entry *x = (const mailp_zip_entry *)a, *y = (const mailp_zip_entry *)b;
    int                    c = memcmp(x->name, y->name, MAILP_MIN(x->name_size, y->name_size));
    return c != 0 ? c : (x->name_size > y->name_size) - (x->name_size < y->name_size);
}

static int mailp_zip_by_place(const void *a, const void *b) {
    const mailp_zip_entry *x = (const mailp_zip_entry *)a, *y = (const mailp_zip_entry *)b;
    return (x->at > y->at) - (x->at < y->at);
}

static mailp_shown mailp_zip_show(const mailp_zip_entry *e) {
    return mailp_show(e->name, e->name_size);
}

/* The directory's place and number of entries. */
static mail_status mailp_zip_end(uint64_t *offset, uint64_t *dir_size, uint64_t *n, const unsigned char *b, uint64_t size, mail_error *err) {
    uint64_t at, least, limit;
    least = size < 22 + 65535u ? 0 : size - 22 - 65535u;  /* a comment may follow */
    for (at = size < 22 ? 0 : size - 22; ; at--) {
        if (mailp_inside(size, at, 22) && memcmp(b + at, "PK\5\6", 4) == 0 && at + 22 + mailp_le16(b + at + 20) == size) {
            break;
        }
        if (at == least) {
            return mailp_fail(err, MAIL_E_FORMAT, "zip: no end of central directory; the file is cut off or damaged");
        }
    }
    limit     = at;
    *n        = mailp_le16(b + at + 10);
    *dir_size = mailp_le32(b + at + 12);
    *offset   = mailp_le32(b + at + 16);
    if (at >= 20 && memcmp(b + at - 20, "PK\6\7", 4) == 0) {
        at = mailp_le64(b + at - 20 + 8);
        if (!mailp_inside(limit - 20, at, 56) || memcmp(b + at, "PK\6\6", 4) != 0) {
            return mailp_fail(err, MAIL_E_FORMAT, "zip: the zip64 end of central directory is not where its locator says");
        }
        limit     = at;
        *n        = mailp_le64(b + at + 32);
        *dir_size = mailp_le64(b + at + 40);
        *offset   = mailp_le64(b + at + 48);
    }
    if (!mailp_inside(limit, *offset, *dir_size) || *n > *dir_size / 46) {
        return mailp_fail(err, MAIL_E_FORMAT, "zip: central directory of %llu entries at bytes %llu + %llu does not lie before byte %llu",
                          MAILP_LLU(*n), MAILP_LLU(*offset), MAILP_LLU(*dir_size), MAILP_LLU(limit));
    }
    return MAIL_OK;
}

/* Size, stored size and offset of a directory entry: those that did not fit into 32 bits stand in an extra field. */
static int mailp_zip64_extra(uint64_t number[3], const unsigned char *extra, size_t n) {
    const unsigned char *p = NULL;
    size_t               field, left = 0, i;
    for (; n >= 4 && p == NULL; extra += 4 + field, n -= 4 + field) {
        field = mailp_le16(extra + 2);
        if (field > n - 4) {
            return 0;
        }
        if (mailp_le16(extra) == 1) {
            p    = extra + 4;
            left = field;
        }
    }
    for (i = 0; i < 3; i++) {
        if (number[i] == 0xffffffffu) {
            if (left < 8) {
                return 0;
            }
            number[i] = mailp_le64(p);
            p += 8;
            left -= 8;
        }
    }
    return 1;
}

/* One directory entry at p, with `left` bytes of directory from there; *used: its length. dir: where the directory begins. */
static mail_status mailp_zip_entry_read(mailp_zip_entry *e, uint64_t *used, const mailp_zip *zip, const unsigned char *p, uint64_t left,
                                        uint64_t dir, mail_error *err) {
    const unsigned char *b = zip->bytes;
    mailp_shown          name;
    uint64_t             number[3];  /* size, stored, offset */
    unsigned             extra;
    if (left < 46 || memcmp(p, "PK\1\2", 4) != 0) {
        return mailp_fail(err, MAIL_E_FORMAT, "zip: expected a directory entry at byte %llu", MAILP_LLU(p - b));
    }
    e->name      = p + 46;
    e->name_size = mailp_le16(p + 28);
    extra        = mailp_le16(p + 30);
    *used        = 46 + (uint64_t)e->name_size + extra + mailp_le16(p + 32);
    if (*used > left) {
        return mailp_fail(err, MAIL_E_FORMAT, "zip: the directory entry at byte %llu is cut off", MAILP_LLU(p - b));
    }
    name      = mailp_zip_show(e);
    number[0] = mailp_le32(p + 24);
    number[1] = mailp_le32(p + 20);
    number[2] = mailp_le32(p + 42);
    if ((mailp_le16(p + 8) & 1) != 0 || mailp_le16(p + 10) != 0) {
        return mailp_fail(err, MAIL_E_UNSUPPORTED, "zip: entry '%s' is compressed or encrypted; torch.save stores plain bytes", name.text);
    }
    if (!mailp_zip64_extra(number, e->name + e->name_size, extra) || number[0] != number[1]) {
        return mailp_fail(err, MAIL_E_FORMAT, "zip: entry '%s' has contradictory sizes", name.text);
    }
    e->size = number[0];
    e->at   = number[2];
    if (!mailp_inside(dir, e->at, 30) || memcmp(b + e->at, "PK\3\4", 4) != 0 || mailp_le16(b + e->at + 26) != e->name_size ||
        !mailp_inside(dir - e->at - 30, 0, e->name_size + mailp_le16(b + e->at + 28)) ||
        memcmp(b + e->at + 30, e->name, e->name_size) != 0) {
        return mailp_fail(err, MAIL_E_FORMAT, "zip: entry '%s': its local header is not at byte %llu", name.text, MAILP_LLU(e->at));
    }
    e->data = e->at + 30 + e->name_size + mailp_le16(b + e->at + 28);
    if (!mailp_inside(dir, e->data, e->size)) {
        return mailp_fail(err, MAIL_E_FORMAT, "zip: entry '%s': bytes %llu + %llu run into the directory at %llu", name.text,
                          MAILP_LLU(e->data), MAILP_LLU(e->size), MAILP_LLU(dir));
    }
    return MAIL_OK;
}

/* Read the directory. zip->entry is the caller's to free, also on failure. */
static mail_status mailp_zip_open(mailp_zip *zip, const unsigned char *bytes, size_t size, const mail_allocator *allocator, mail_error *err) {
    uint64_t    offset = 0, dir_size = 0, n = 0, at = 0, used = 0;
    size_t      i;
    mail_status status;
    zip->bytes = bytes;
    status     = mailp_zip_end(&offset, &dir_size, &n, bytes, size, err);
    if (status) {
        return status;
    }
    zip->entry = (mailp_zip_entry *)mailp_alloc(allocator, (size_t)n * (sizeof *zip->entry + 2 * sizeof *zip->by_name) + 1);
    if (zip->entry == NULL) {
        return mailp_fail(err, MAIL_E_MEMORY, "no memory for a zip directory of %llu entries", MAILP_LLU(n));
    }
    zip->by_name = (const void **)(void *)(zip->entry + n);
    for (zip->n = 0; zip->n < n; zip->n++, at += used) {
        status = mailp_zip_entry_read(&zip->entry[zip->n], &used, zip, bytes + offset + at, dir_size - at, offset, err);
        if (status) {
            return status;
        }
    }
    if (at != dir_size) {
        return mailp_fail(err, MAIL_E_FORMAT, "zip: its directory has %llu bytes more than its %llu entries", MAILP_LLU(dir_size - at), MAILP_LLU(n));
    }
    (void)mailp_index(zip->by_name, zip->entry, zip->n, sizeof *zip->entry, mailp_zip_by_place);
    for (i = 1; i < zip->n; i++) {
        const mailp_zip_entry *a = (const mailp_zip_entry *)zip->by_name[i - 1], *b = (const mailp_zip_entry *)zip->by_name[i];
        if (b->at < a->data + a->size) {
            return mailp_fail(err, MAIL_E_FORMAT, "zip: entries '%s' and '%s' overlap", mailp_zip_show(a).text, mailp_zip_show(b).text);
        }
    }
    i = mailp_index(zip->by_name, zip->entry, zip->n, sizeof *zip->entry, mailp_zip_by_name);
    if (i > 0) {
        return mailp_fail(err, MAIL_E_FORMAT, "zip: entry '%s' is there twice", mailp_zip_show((const mailp_zip_entry *)zip->by_name[i]).text);
    }
    return MAIL_OK;
}

/* The entry called folder + middle + key, or NULL. torch names the folder after the file and numbers the rest: longer names
   than there is room for are none of its. */
static const mailp_zip_entry *mailp_zip_find(const mailp_zip *zip, const char *middle, const unsigned char *key, size_t key_size) {
    unsigned char   name[1024];
    size_t          middle_size = strlen(middle);
    mailp_zip_entry e;
    if (zip->folder_size > 512 || key_size > 256) {
        return NULL;
    }
    memcpy(name, zip->folder, zip->folder_size);
    memcpy(name + zip->folder_size, middle, middle_size);
    memcpy(name + zip->folder_size + middle_size, key, key_size);
    e.name      = name;
    e.name_size = zip->folder_size + middle_size + key_size;
    return (const mailp_zip_entry *)mailp_search(zip->by_name, zip->n, &e, mailp_zip_by_name);
}

/* ---- pickle --------------------------------------------------------------------------------------------------------

   A pickle is a program for a stack machine. This one can make None, booleans, numbers, strings, tuples, lists,
   dictionaries, and of classes and functions only the few named in mailp_globals; it calls nothing. Any other opcode or
   global is refused by name. A state_dict looks like this:

       collections.OrderedDict() REDUCE, then for each tensor its name and
           torch._utils._rebuild_tensor_v2(('storage', torch.FloatStorage, '17', 'cuda:0', 128) BINPERSID,
                                           offset, shape, stride, requires_grad, OrderedDict()) REDUCE
       SETITEMS; and {'_metadata': ...} BUILD, which is passed over.

   '17' is the entry FOLDER/data/17 of the zip; the location behind it does not matter here.

   The program runs once over the bytes (there is no jump), so time is linear. An opcode takes at least one byte and pushes,
   moves or stores at most one value, and a pair for a dictionary takes two: that is the room the lists below have. */

typedef enum mailp_pickle_kind {
    MAILP_P_OTHER,    /* a value that no tensor depends on */
    MAILP_P_MARK,
    MAILP_P_INT,      /* at: the number, two's complement */
    MAILP_P_STRING,   /* at: place in the pickle, n: bytes */
    MAILP_P_GLOBAL,   /* n: index into mailp_globals */
    MAILP_P_TUPLE,    /* at: first of n values in the pool */
    MAILP_P_LIST,
    MAILP_P_DICT,     /* at: number of the dictionary */
    MAILP_P_STORAGE,  /* at: zip entry, n: dtype */
    MAILP_P_TENSOR    /* at: storage, offset, shape and stride in the pool */
} mailp_pickle_kind;

typedef struct mailp_pickle_value {
    uint32_t kind, n;
    uint64_t at;
} mailp_pickle_value;

typedef struct mailp_pickle_item {
    uint64_t           dict;
    mailp_pickle_value key, value;
} mailp_pickle_item;

typedef struct mailp_pickle {
    const unsigned char *p;
    uint64_t             size;
    const mailp_zip     *zip;
    mailp_pickle_value  *stack, *pool, *memo;
    mailp_pickle_item   *item;
    size_t               n_stack, n_pool, n_memo, n_items;  /* in use */
    uint64_t             n_dicts;
} mailp_pickle;

enum {
    MAILP_G_STORAGE = MAIL_DTYPE_COUNT, MAILP_G_ORDERED_DICT = MAIL_DTYPE_COUNT, MAILP_G_REBUILD_TENSOR, MAILP_G_REBUILD_PARAMETER,
    MAILP_G_REBUILD_PARAMETER_WITH_STATE  /* attributes, such as mamba_ssm's _no_weight_decay, are left out */
};

/* the storages stand in the order of mail_dtype */
static const struct {
    const char *module, *name;
} mailp_globals[] = {
    { "torch", "FloatStorage" }, { "torch", "HalfStorage" },  { "torch", "BFloat16Storage" }, { "torch", "DoubleStorage" },
    { "torch", "CharStorage" },  { "torch", "ByteStorage" },  { "torch", "ShortStorage" },    { "torch", "IntStorage" },
    { "torch", "LongStorage" },  { "torch", "BoolStorage" },  { "collections", "OrderedDict" },
    { "torch._utils", "_rebuild_tensor_v2" }, { "torch._utils", "_rebuild_parameter" },
    { "torch._utils", "_rebuild_parameter_with_state" }
};

#define MAILP_ARG_LINES   (-2)  /* two lines of text */
#define MAILP_ARG_TEXT(n) (-(n)) /* a length of n = 1, 4 or 8 bytes, and so much text */
#define MAILP_ARG_REFUSED (-9)
#define MAILP_TO_MARK     9

/* argument: bytes, or what stands above. needs: values on the stack, MAILP_TO_MARK: a mark. The commonest come first. */
typedef struct mailp_opcode {
    unsigned char code;
    signed char   argument;
    unsigned char needs;
    const char   *name;
} mailp_opcode;

static const mailp_opcode mailp_opcodes[] = {
    { 'h', 1, 0, "BINGET" },                     { 'q', 1, 1, "BINPUT" },                  { 'K', 1, 0, "BININT1" },
    { 'X', MAILP_ARG_TEXT(4), 0, "BINUNICODE" }, { 'r', 4, 1, "LONG_BINPUT" },             { 'j', 4, 0, "LONG_BINGET" },
    { '(', 0, 0, "MARK" },                       { 't', 0, MAILP_TO_MARK, "TUPLE" },       { 0x94, 0, 1, "MEMOIZE" },
    { 'R', 0, 2, "REDUCE" },                     { 'Q', 0, 1, "BINPERSID" },               { 'M', 2, 0, "BININT2" },
    { 'J', 4, 0, "BININT" },                     { 0x89, 0, 0, "NEWFALSE" },               { 0x88, 0, 0, "NEWTRUE" },
    { ')', 0, 0, "EMPTY_TUPLE" },                { 0x85, 0, 1, "TUPLE1" },                 { 0x86, 0, 2, "TUPLE2" },
    { 0x87, 0, 3, "TUPLE3" },                    { 'N', 0, 0, "NONE" },                    { 'G', 8, 0, "BINFLOAT" },
    { '}', 0, 0, "EMPTY_DICT" },                 { 'd', 0, MAILP_TO_MARK, "DICT" },        { 's', 0, 3, "SETITEM" },
    { 'u', 0, MAILP_TO_MARK, "SETITEMS" },       { ']', 0, 0, "EMPTY_LIST" },              { 'l', 0, MAILP_TO_MARK, "LIST" },
    { 'a', 0, 2, "APPEND" },                     { 'e', 0, MAILP_TO_MARK, "APPENDS" },     { '0', 0, 1, "POP" },
    { '1', 0, MAILP_TO_MARK, "POP_MARK" },       { 'c', MAILP_ARG_LINES, 0, "GLOBAL" },    { 0x93, 0, 2, "STACK_GLOBAL" },
    { 0x8a, MAILP_ARG_TEXT(1), 0, "LONG1" },     { 'U', MAILP_ARG_TEXT(1), 0, "SHORT_BINSTRING" },
    { 'T', MAILP_ARG_TEXT(4), 0, "BINSTRING" },  { 0x8c, MAILP_ARG_TEXT(1), 0, "SHORT_BINUNICODE" },
    { 'b', 0, 2, "BUILD" },                      { 0x8d, MAILP_ARG_TEXT(8), 0, "BINUNICODE8" },
    { 0x80, 1, 0, "PROTO" },                     { 0x95, 8, 0, "FRAME" },                  { '.', 0, 1, "STOP" },
#define MAILP_NO(code, name) { code, MAILP_ARG_REFUSED, 0, name }
    MAILP_NO(0x81, "NEWOBJ"), MAILP_NO(0x92, "NEWOBJ_EX"), MAILP_NO('i', "INST"), MAILP_NO('o', "OBJ"), MAILP_NO(0x82, "EXT"),
    MAILP_NO(0x83, "EXT"), MAILP_NO(0x84, "EXT"), MAILP_NO('P', "PERSID"), MAILP_NO('B', "BINBYTES"), MAILP_NO('C', "BINBYTES"),
    MAILP_NO(0x8e, "BINBYTES"), MAILP_NO(0x96, "BYTEARRAY8"), MAILP_NO(0x8f, "SET"), MAILP_NO(0x90, "SET"), MAILP_NO(0x91, "SET"),
    MAILP_NO('I', "protocol 0"), MAILP_NO('L', "protocol 0"), MAILP_NO('F', "protocol 0"), MAILP_NO('S', "protocol 0"),
    MAILP_NO('V', "protocol 0"), MAILP_NO('p', "protocol 0"), MAILP_NO('g', "protocol 0"), MAILP_NO(0, "unknown")
#undef MAILP_NO
};

/* The instruction at *at and its argument, of n bytes from arg (text: without its length). Moves *at behind it. */
static mail_status mailp_pickle_fetch(const mailp_opcode **opcode, uint64_t *arg, uint64_t *n, const mailp_pickle *vm, uint64_t *at,
                                      mail_error *err) {
    const unsigned char *p = vm->p;
    uint64_t             here = *at, width;
    const mailp_opcode  *o = mailp_opcodes;
    if (here == vm->size) {
        return mailp_fail(err, MAIL_E_FORMAT, "pickle: it ends at byte %llu without STOP", MAILP_LLU(here));
    }
    while (o->code != p[here] && o->code != 0) {
        o++;
    }
    if (o->argument == MAILP_ARG_REFUSED) {
        return mailp_fail(err, MAIL_E_UNSUPPORTED, "pickle: opcode 0x%02x (%s) at byte %llu is not needed by a state_dict and is refused",
                          p[here], o->name, MAILP_LLU(here));
    }
    *arg = here + 1;
    *n   = vm->size;  /* too much, unless the argument is there */
    if (o->argument >= 0) {
        *n = (uint64_t)o->argument;
    } else if (o->argument == MAILP_ARG_LINES) {
        uint64_t i;
        int      lines = 0;
        for (i = *arg; i < vm->size && lines < 2; i++) {
            lines += p[i] == '\n';
        }
        *n = lines < 2 ? *n : i - *arg;
    } else {
        width = (uint64_t)-o->argument;
        if (mailp_inside(vm->size, *arg, width)) {
            *n = width == 1 ? p[*arg] : width == 4 ? mailp_le32(p + *arg) : mailp_le64(p + *arg);
            *arg += width;
        }
    }
    if (!mailp_inside(vm->size, *arg, *n)) {
        return mailp_fail(err, MAIL_E_FORMAT, "pickle: the argument of opcode 0x%02x (%s) at byte %llu runs over the end", o->code, o->name,
                          MAILP_LLU(here));
    }
    *opcode = o;
    *at     = *arg + *n;
    return MAIL_OK;
}

static mail_status mailp_pickle_damaged(uint64_t at, const char *expected, mail_error *err) {
    return mailp_fail(err, MAIL_E_FORMAT, "pickle: before byte %llu: expected %s", MAILP_LLU(at), expected);
}

static void mailp_pickle_push(mailp_pickle *vm, mailp_pickle_kind kind, uint64_t n, uint64_t at) {
    mailp_pickle_value *v = &vm->stack[vm->n_stack++];
    v->kind = (uint32_t)kind;
    v->n    = (uint32_t)n;
    v->at   = at;
}

/* Move the values from the stack's place first to its top into the pool; as a tuple they come back at place base. */
static void mailp_pickle_tuple(mailp_pickle *vm, size_t base, size_t first) {
    size_t at = vm->n_pool, n = vm->n_stack - first;
    memcpy(vm->pool + at, vm->stack + first, n * sizeof *vm->pool);
    vm->n_pool += n;
    vm->n_stack = base;
    mailp_pickle_push(vm, MAILP_P_TUPLE, n, at);
}

/* Enter the pairs (key, value) from the stack's place first to its top into the dictionary at place dict, which stays. */
static int mailp_pickle_set(mailp_pickle *vm, size_t dict, size_t first) {
    size_t i;
    if (dict >= first || (vm->n_stack - first) % 2 != 0 || vm->stack[dict].kind != MAILP_P_DICT) {
        return 0;
    }
    for (i = first; i < vm->n_stack; i += 2) {
        uint32_t kind = vm->stack[i + 1].kind;
        if (kind == MAILP_P_TENSOR || kind == MAILP_P_DICT) {
            mailp_pickle_item *item = &vm->item[vm->n_items++];
            item->dict  = vm->stack[dict].at;
            item->key   = vm->stack[i];
            item->value = vm->stack[i + 1];
        }
    }
    vm->n_stack = dict + 1;
    return 1;
}

static int mailp_text_is(const unsigned char *p, size_t n, const char *text) {
    return strlen(text) == n && memcmp(p, text, n) == 0;
}

static int mailp_pickle_is(const mailp_pickle *vm, const mailp_pickle_value *v, const char *text) {
    return v->kind == MAILP_P_STRING && mailp_text_is(vm->p + v->at, v->n, text);
}

/* Push the global module.name. */
static mail_status mailp_pickle_global(mailp_pickle *vm, const unsigned char *module, size_t module_size, const unsigned char *name,
                                       size_t name_size, mail_error *err) {
    size_t i;
    for (i = 0; i < sizeof mailp_globals / sizeof *mailp_globals; i++) {
        if (mailp_text_is(module, module_size, mailp_globals[i].module) && mailp_text_is(name, name_size, mailp_globals[i].name)) {
            mailp_pickle_push(vm, MAILP_P_GLOBAL, i, 0);
            return MAIL_OK;
        }
    }
    return mailp_fail(err, MAIL_E_UNSUPPORTED, "pickle: '%s.%s' is not needed by a state_dict of tensors and is refused; save model.state_dict()",
                      mailp_show(module, module_size).text, mailp_show(name, name_size).text);
}

/* ('storage', torch.FloatStorage, '17', 'cuda:0', numel) on top of the stack -> the storage */
static mail_status mailp_pickle_storage(mailp_pickle *vm, mail_error *err) {
    const mailp_pickle_value *tuple = &vm->stack[vm->n_stack - 1], *v = vm->pool + (tuple->kind == MAILP_P_TUPLE ? tuple->at : 0);
    const mailp_zip_entry    *e;
    mailp_shown               key;
    uint64_t                  bytes;
    if (tuple->kind != MAILP_P_TUPLE || tuple->n != 5 || !mailp_pickle_is(vm, &v[0], "storage") || v[1].kind != MAILP_P_GLOBAL ||
        v[1].n >= MAILP_G_STORAGE || v[2].kind != MAILP_P_STRING || v[4].kind != MAILP_P_INT) {
        return mailp_fail(err, MAIL_E_FORMAT, "pickle: a persistent id is not ('storage', type, key, location, size)");
    }
    key = mailp_show(vm->p + v[2].at, v[2].n);
    e   = mailp_zip_find(vm->zip, "data/", vm->p + v[2].at, v[2].n);
    if (e == NULL) {
        return mailp_fail(err, MAIL_E_FORMAT, "storage '%s': the archive has no entry data/%s", key.text, key.text);
    }
    if (!mailp_mul(&bytes, v[4].at, mail_dtype_size((mail_dtype)v[1].n)) || bytes != e->size) {
        return mailp_fail(err, MAIL_E_FORMAT, "storage '%s': %llu elements of %s do not take the %llu bytes of its entry", key.text,
                          MAILP_LLU(v[4].at), mailp_dtypes[v[1].n].name, MAILP_LLU(e->size));
    }
    vm->n_stack--;
    mailp_pickle_push(vm, MAILP_P_STORAGE, v[1].n, (uint64_t)(e - vm->zip->entry));
    return MAIL_OK;
}

/* A call: function and argument tuple on top of the stack -> its result. */
static mail_status mailp_pickle_reduce(mailp_pickle *vm, uint64_t at, mail_error *err) {
    const mailp_pickle_value *f = &vm->stack[vm->n_stack - 2], *tuple = f + 1;
    const mailp_pickle_value *v = vm->pool + (tuple->kind == MAILP_P_TUPLE ? tuple->at : 0);
    if (f->kind != MAILP_P_GLOBAL || tuple->kind != MAILP_P_TUPLE) {
        return mailp_pickle_damaged(at, "a global and a tuple to call it with", err);
    }
    vm->n_stack -= 2;
    if (f->n == MAILP_G_ORDERED_DICT && tuple->n == 0) {
        mailp_pickle_push(vm, MAILP_P_DICT, 0, vm->n_dicts++);
    } else if (f->n == MAILP_G_REBUILD_TENSOR && tuple->n >= 4 && tuple->n <= 6 && v[0].kind == MAILP_P_STORAGE && v[1].kind == MAILP_P_INT &&
               v[2].kind == MAILP_P_TUPLE && v[3].kind == MAILP_P_TUPLE) {
        mailp_pickle_push(vm, MAILP_P_TENSOR, 0, tuple->at);
    } else if (f->n >= MAILP_G_REBUILD_PARAMETER && tuple->n >= 1 && v[0].kind == MAILP_P_TENSOR) {
        mailp_pickle_push(vm, MAILP_P_TENSOR, 0, v[0].at);
    } else {
        return mailp_fail(err, MAIL_E_UNSUPPORTED, "pickle: before byte %llu: %s.%s is called with arguments that a state_dict does not have",
                          MAILP_LLU(at), mailp_globals[f->n].module, mailp_globals[f->n].name);
    }
    return MAIL_OK;
}

/* Little-endian number of n <= 8 bytes, two's complement */
static uint64_t mailp_pickle_int(const unsigned char *p, uint64_t n) {
    uint64_t value = n > 0 && p[n - 1] >= 0x80 ? UINT64_MAX : 0;
    while (n-- > 0) {
        value = value << 8 | p[n];
    }
    return value;
}

/* Run the program. *top: the number of the dictionary it ends with. */
static mail_status mailp_pickle_run(uint64_t *top, mailp_pickle *vm, mail_error *err) {
    const mailp_opcode *opcode = NULL;
    uint64_t            at = 0, arg = 0, n = 0, slot;
    for (;;) {
        uint64_t                  here = at;
        mail_status               status = mailp_pickle_fetch(&opcode, &arg, &n, vm, &at, err);
        const unsigned char      *p = vm->p + arg;
        const mailp_pickle_value *v;
        size_t                    mark = vm->n_stack, line;  /* mark: place behind the topmost mark, which its opcodes remove */
        if (status) {
            return status;
        }
        if (opcode->needs == MAILP_TO_MARK) {
            while (mark > 0 && vm->stack[mark - 1].kind != MAILP_P_MARK) {
                mark--;
            }
            if (mark == 0) {
                return mailp_pickle_damaged(at, "a mark on the stack", err);
            }
        } else if (vm->n_stack < opcode->needs) {
            return mailp_pickle_damaged(at, "more values on the stack", err);
        }
        switch (opcode->code) {
        case 0x80:
            if (here != 0 || *p < 2 || *p > 5) {
                return mailp_fail(err, MAIL_E_UNSUPPORTED, "pickle: protocol %u; 2 to 5 are understood", *p);
            }
            break;
        case 0x95: break;  /* frame */
        case '(': mailp_pickle_push(vm, MAILP_P_MARK, 0, 0); break;
        case 'N': case 0x88: case 0x89: case 'G': mailp_pickle_push(vm, MAILP_P_OTHER, 0, 0); break;
        case 'K': case 'M': mailp_pickle_push(vm, MAILP_P_INT, 0, n == 1 ? *p : mailp_le16(p)); break;
        case 'J': case 0x8a: mailp_pickle_push(vm, n > 8 ? MAILP_P_OTHER : MAILP_P_INT, 0, n > 8 ? 0 : mailp_pickle_int(p, n)); break;
        case 'U': case 'T': case 'X': case 0x8c: case 0x8d:
            if (n > UINT32_MAX) {
                return mailp_pickle_damaged(at, "a string of less than 4 GiB", err);
            }
            mailp_pickle_push(vm, MAILP_P_STRING, n, arg);
            break;
        case ')': case 0x85: case 0x86: case 0x87:
            mailp_pickle_tuple(vm, vm->n_stack - opcode->needs, vm->n_stack - opcode->needs);
            break;
        case 't': mailp_pickle_tuple(vm, mark - 1, mark); break;
        case ']': mailp_pickle_push(vm, MAILP_P_LIST, 0, 0); break;
        case 'a': case 'e': {
            size_t list = (opcode->code == 'a' ? vm->n_stack : mark) - 2;
            if (list >= vm->n_stack || vm->stack[list].kind != MAILP_P_LIST) {
                return mailp_pickle_damaged(at, "a list to append to", err);
            }
            vm->n_stack = list + 1;
            break;
        }
        case 'l':
            vm->n_stack = mark - 1;
            mailp_pickle_push(vm, MAILP_P_LIST, 0, 0);
            break;
        case '}': mailp_pickle_push(vm, MAILP_P_DICT, 0, vm->n_dicts++); break;
        case 'd':
            vm->stack[mark - 1].kind = MAILP_P_DICT;
            vm->stack[mark - 1].at   = vm->n_dicts++;
            if (!mailp_pickle_set(vm, mark - 1, mark)) {
                return mailp_pickle_damaged(at, "pairs for a dictionary", err);
            }
            break;
        case 's': case 'u':
            if (opcode->code == 's' ? !mailp_pickle_set(vm, vm->n_stack - 3, vm->n_stack - 2) : !mailp_pickle_set(vm, mark - 2, mark)) {
                return mailp_pickle_damaged(at, "pairs and a dictionary to set items of", err);
            }
            break;
        case '0': vm->n_stack--; break;
        case '1': vm->n_stack = mark - 1; break;
        case 'q': case 'r': case 0x94:
            slot = n == 0 ? vm->n_memo : n == 1 ? *p : mailp_le32(p);
            if (slot > vm->n_memo) {
                return mailp_pickle_damaged(at, "memo places in ascending order", err);
            }
            vm->memo[slot] = vm->stack[vm->n_stack - 1];
            vm->n_memo += slot == vm->n_memo;
            break;
        case 'h': case 'j':
            slot = n == 1 ? *p : mailp_le32(p);
            if (slot >= vm->n_memo) {
                return mailp_pickle_damaged(at, "a memo place that is filled", err);
            }
            vm->stack[vm->n_stack++] = vm->memo[slot];
            break;
        case 'c':
            line   = (size_t)((const unsigned char *)memchr(p, '\n', (size_t)n) - p);
            status = mailp_pickle_global(vm, p, line, p + line + 1, (size_t)n - line - 2, err);
            break;
        case 0x93:
            v = &vm->stack[vm->n_stack - 2];
            if (v[0].kind != MAILP_P_STRING || v[1].kind != MAILP_P_STRING) {
                return mailp_pickle_damaged(at, "two strings that name a global", err);
            }
            vm->n_stack -= 2;
            status = mailp_pickle_global(vm, vm->p + v[0].at, v[0].n, vm->p + v[1].at, v[1].n, err);
            break;
        case 'R': status = mailp_pickle_reduce(vm, at, err); break;
        case 'Q': status = mailp_pickle_storage(vm, err); break;
        case 'b':  /* attributes (_metadata) for what is below them */
            v = &vm->stack[--vm->n_stack - 1];
            if (v->kind != MAILP_P_DICT && v->kind != MAILP_P_TENSOR) {
                return mailp_pickle_damaged(at, "a dictionary or tensor to set attributes of", err);
            }
            break;
        default: /* '.' */
            if (vm->stack[0].kind != MAILP_P_DICT || vm->n_stack != 1) {
                return mailp_fail(err, MAIL_E_UNSUPPORTED, "pickle: it does not hold a dictionary; save model.state_dict()");
            }
            *top = vm->stack[0].at;
            return MAIL_OK;
        }
        if (status) {
            return status;
        }
    }
}

/* A tensor from storage, offset, shape and stride in the pool. */
static mail_status mailp_pickle_tensor(mail_tensor *x, const mailp_pickle *vm, const mailp_pickle_value *v, mail_error *err) {
    const mailp_zip_entry *e = &vm->zip->entry[v[0].at];
    mailp_shown            name = mailp_show_text(x->name);
    uint64_t               numel, last = v[1].at;
    unsigned               d;
    int                    fits = 1;
    x->dtype  = (mail_dtype)v[0].n;
    numel     = e->size / mail_dtype_size(x->dtype);
    x->n_dims = v[2].n;
    if (v[2].n > MAIL_MAX_DIMS || v[3].n != v[2].n) {
        return mailp_fail(err, MAIL_E_FORMAT, "tensor '%s': %u dimensions and %u strides; at most %d and as many", name.text, (unsigned)v[2].n,
                          (unsigned)v[3].n, MAIL_MAX_DIMS);
    }
    for (d = 0; d < x->n_dims; d++) {
        const mailp_pickle_value *shape = &vm->pool[v[2].at + d], *stride = &vm->pool[v[3].at + d];
        if (shape->kind != MAILP_P_INT || stride->kind != MAILP_P_INT || shape->at > INT64_MAX || stride->at > INT64_MAX) {
            return mailp_fail(err, MAIL_E_FORMAT, "tensor '%s': dimension %u is not a whole number", name.text, d);
        }
        x->shape[d]   = shape->at;
        x->strides[d] = stride->at;
    }
    if (!mailp_shape_count(&x->count, x->shape, x->n_dims, x->dtype)) {
        return mailp_fail(err, MAIL_E_FORMAT, "tensor '%s': its shape is larger than any memory", name.text);
    }
    for (d = 0; d < x->n_dims && x->count > 0; d++) {  /* last: index of the last element */
        uint64_t step = 0;
        fits = fits && mailp_mul(&step, x->shape[d] - 1, x->strides[d]) && step <= INT64_MAX && last <= INT64_MAX;
        last += step;
    }
    if (!fits || (x->count > 0 ? last >= numel : last > numel)) {
        return mailp_fail(err, MAIL_E_FORMAT, "tensor '%s': its view reaches beyond the %llu elements of its storage", name.text, MAILP_LLU(numel));
    }
    if (x->count > numel) {
        return mailp_fail(err, MAIL_E_UNSUPPORTED, "tensor '%s': an expanded view (%llu elements of %llu); save a contiguous copy", name.text,
                          MAILP_LLU(x->count), MAILP_LLU(numel));
    }
    x->data = vm->zip->bytes + e->data + v[1].at * mail_dtype_size(x->dtype);
    return MAIL_OK;
}

/* The dictionary that is meant: top's member 'state_dict' if that holds tensors, else top. */
static uint64_t mailp_pickle_choose(const mailp_pickle *vm, uint64_t top) {
    const mailp_pickle_item *item, *end = vm->item + vm->n_items, *inner = NULL;
    for (item = vm->item; item < end; item++) {
        if (item->dict == top && item->value.kind == MAILP_P_DICT && mailp_pickle_is(vm, &item->key, "state_dict")) {
            inner = item;
        }
    }
    for (item = vm->item; item < end && inner != NULL; item++) {
        if (item->dict == inner->value.at && item->value.kind == MAILP_P_TENSOR) {
            return item->dict;
        }
    }
    return top;
}

/* There are no tensors where they are expected: an error that says in which member of top they are, if in one. */
static mail_status mailp_pickle_empty(const mailp_pickle *vm, uint64_t top, mail_error *err) {
    const mailp_pickle_item *item, *end = vm->item + vm->n_items, *tensor = NULL;
    for (item = vm->item; item < end && tensor == NULL; item++) {
        tensor = item->value.kind == MAILP_P_TENSOR ? item : NULL;
    }
    for (item = vm->item; item < end && tensor != NULL; item++) {
        if (item->dict == top && item->value.kind == MAILP_P_DICT && item->value.at == tensor->dict && item->key.kind == MAILP_P_STRING) {
            return mailp_fail(err, MAIL_E_FORMAT, "pickle: there is no tensor in it, nor in a 'state_dict', but in its '%s'; save that alone",
                              mailp_show(vm->p + item->key.at, item->key.n).text);
        }
    }
    return mailp_fail(err, MAIL_E_FORMAT, "pickle: there is no tensor in it; expected a state_dict");
}

#define MAILP_MOST_SHARED 16  /* bytes of tensors for each byte stored: layers may share weights, but a small file must stay small */

/* The tensors of dictionary top, or of its state_dict, become the table. */
static mail_status mailp_pickle_table(mail_tensors *t, const mailp_pickle *vm, uint64_t top, mail_error *err) {
    const mailp_pickle_item *item, *end = vm->item + vm->n_items;
    const uint64_t           dict = mailp_pickle_choose(vm, top);
    uint64_t                 text_size = 0, bytes = 0, stored = 0;  /* text_size: one long name, said often, would not fit into 32 bits */
    size_t                   n = 0, i;
    char                    *text = NULL;
    mail_status              status;
    for (item = vm->item; item < end; item++) {
        if (item->dict == dict && item->value.kind == MAILP_P_TENSOR) {
            if (item->key.kind != MAILP_P_STRING || memchr(vm->p + item->key.at, 0, item->key.n) != NULL) {
                return mailp_fail(err, MAIL_E_FORMAT, "pickle: a tensor's name is not a plain string");
            }
            n++;
            text_size += (uint64_t)item->key.n + 1;
        }
    }
    if (n == 0) {
        return mailp_pickle_empty(vm, top, err);
    }
    if (text_size > vm->size) {  /* every name was written once, with a length before it */
        return mailp_fail(err, MAIL_E_FORMAT, "pickle: a name is there twice");
    }
    status = mailp_tensors_reserve(t, &text, n, 0, (size_t)text_size, err);
    for (item = vm->item; item < end && status == MAIL_OK; item++) {
        if (item->dict == dict && item->value.kind == MAILP_P_TENSOR) {
            mail_tensor *x = &t->tensor[t->n++];
            memset(x, 0, sizeof *x);
            x->name = text;
            memcpy(text, vm->p + item->key.at, item->key.n);
            text[item->key.n] = 0;
            text += item->key.n + 1;
            status = mailp_pickle_tensor(x, vm, vm->pool + item->value.at, err);
            bytes += x->count * mail_dtype_size(x->dtype);
        }
    }
    for (i = 0; i < vm->zip->n; i++) {
        stored += vm->zip->entry[i].size;
    }
    if (status == MAIL_OK && bytes / MAILP_MOST_SHARED > stored) {
        status = mailp_fail(err, MAIL_E_UNSUPPORTED, "pickle: its tensors share their storage: %llu bytes of them, %llu in the file",
                            MAILP_LLU(bytes), MAILP_LLU(stored));
    }
    return status ? status : mailp_tensors_finish(t, err);
}

static mail_status mailp_pickle_parse(mail_tensors *t, mailp_pickle *vm, mail_error *err) {
    size_t      n = (size_t)vm->size;
    uint64_t    top = 0;
    mail_status status;
    if (vm->size < SIZE_MAX / 128) {
        vm->stack = (mailp_pickle_value *)mailp_alloc(&t->allocator, 3 * n * sizeof *vm->stack + (n / 2 + 1) * sizeof *vm->item);
    }
    if (vm->stack == NULL) {
        return mailp_fail(err, MAIL_E_MEMORY, "no memory to read a pickle of %llu bytes", MAILP_LLU(vm->size));
    }
    vm->pool = vm->stack + n;
    vm->memo = vm->pool + n;
    vm->item = (mailp_pickle_item *)(void *)(vm->memo + n);
    status   = mailp_pickle_run(&top, vm, err);
    if (status == MAIL_OK) {
        status = mailp_pickle_table(t, vm, top, err);
    }
    mailp_free(&t->allocator, vm->stack);
    return status;
}

/* FOLDER/data.pkl, FOLDER/data/N, and perhaps FOLDER/byteorder; other entries do not matter. */
static mail_status mailp_pth_entries(mail_tensors *t, mailp_zip *zip, mail_error *err) {
    const mailp_zip_entry *program = NULL, *order, *e;
    mailp_pickle           vm;
    for (e = zip->entry; e < zip->entry + zip->n; e++) {
        if (e->name_size >= 9 && memcmp(e->name + e->name_size - 9, "/data.pkl", 9) == 0) {
            if (program != NULL) {
                return mailp_fail(err, MAIL_E_FORMAT, "zip: two entries end in /data.pkl: '%s' and '%s'", mailp_zip_show(program).text,
                                  mailp_zip_show(e).text);
            }
            program = e;
        }
    }
    if (program == NULL) {
        return mailp_fail(err, MAIL_E_FORMAT, "zip: no entry ends in /data.pkl: not written by torch.save");
    }
    zip->folder      = program->name;
    zip->folder_size = program->name_size - 8;
    order            = mailp_zip_find(zip, "byteorder", program->name, 0);
    if (order != NULL && !mailp_text_is(zip->bytes + order->data, (size_t)order->size, "little")) {
        return mailp_fail(err, MAIL_E_UNSUPPORTED, "zip: byteorder is '%s', only 'little' is read; save it again on a little-endian machine",
                          mailp_show(zip->bytes + order->data, (size_t)order->size).text);
    }
    memset(&vm, 0, sizeof vm);
    vm.p    = zip->bytes + program->data;
    vm.size = program->size;
    vm.zip  = zip;
    return mailp_pickle_parse(t, &vm, err);
}

static mail_status mailp_pth_parse(mail_tensors *t, const unsigned char *bytes, size_t size, mail_error *err) {
    mailp_zip   zip;
    mail_status status;
    memset(&zip, 0, sizeof zip);
    status = mailp_zip_open(&zip, bytes, size, &t->allocator, err);
    if (status == MAIL_OK) {
        status = mailp_pth_entries(t, &zip, err);
    }
    mailp_free(&t->allocator, zip.entry);
    return status;
}

/* ---- the public functions ------------------------------------------------------------------------------------------ */

static mail_status mailp_tensors_parse(mail_tensors *t, const unsigned char *bytes, size_t size, mail_error *err) {
    /* pickle of torch's magic number, with which files began before torch 1.6 */
    static const unsigned char old[] = { 0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19 };
    if (size >= 4 && memcmp(bytes, "PK\3\4", 4) == 0) {
        return mailp_pth_parse(t, bytes, size, err);
    }
    if (size >= sizeof old && memcmp(bytes, old, sizeof old) == 0) {
        return mailp_fail(err, MAIL_E_UNSUPPORTED, "the file has torch's format from before 1.6; write it anew in Python: "
                          "torch.save(torch.load(path, map_location='cpu'), path, _use_new_zipfile_serialization=True)");
    }
    if (size > 8 && bytes[8] == '{') {
        return mailp_safetensors_parse(t, bytes, size, err);
    }
    if (size >= 19 && memcmp(bytes, "version https://git", 19) == 0) {
        return mailp_fail(err, MAIL_E_FORMAT, "this is what Git LFS keeps in place of the file until 'git lfs pull' fetches it (%llu bytes)", MAILP_LLU(size));
    }
    return mailp_fail(err, MAIL_E_FORMAT, "neither .safetensors nor a .pth written by torch.save: it begins with 0x%02x 0x%02x and has %llu bytes",
                      size > 0 ? bytes[0] : 0, size > 1 ? bytes[1] : 0, MAILP_LLU(size));
}

/* The table of a file, or if path is NULL of data. */
static mail_status mailp_tensors_open(mail_tensors **tensors, const char *path, const void *data, size_t size, const mail_allocator *allocator,
                                      mail_error *err) {
    mail_tensors *t = (mail_tensors *)mailp_alloc(allocator, sizeof *t);
    mail_status   status = MAIL_OK;
    *tensors = NULL;
    if (t == NULL) {
        return mailp_fail(err, MAIL_E_MEMORY, "no memory for a table of tensors");
    }
    memset(t, 0, sizeof *t);
    if (allocator != NULL) {
        t->allocator = *allocator;
    }
#ifndef MAIL_NO_STDIO
    if (path != NULL) {
        status = mailp_file_open(&t->file, path, allocator, err);
        data   = t->file.data;
        size   = t->file.size;
    }
#endif
    if (status == MAIL_OK) {
        status = mailp_tensors_parse(t, (const unsigned char *)data, size, err);
#ifndef MAIL_NO_STDIO
        if (path != NULL) {
            status = mailp_fail_in(path, status, err);
        }
#else
        (void)path;
#endif
    }
    if (status) {
        mail_tensors_close(t);
    } else {
        *tensors = t;
    }
    return status;
}

MAIL_API mail_status mail_tensors_open_memory(mail_tensors **tensors, const void *data, size_t size, const mail_allocator *allocator,
                                              mail_error *err) {
    if (tensors != NULL) {
        *tensors = NULL;
    }
    if (tensors == NULL || data == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_tensors_open_memory: tensors or data is NULL");
    }
    return mailp_tensors_open(tensors, NULL, data, size, allocator, err);
}

#ifndef MAIL_NO_STDIO
MAIL_API mail_status mail_tensors_open(mail_tensors **tensors, const char *path, const mail_allocator *allocator, mail_error *err) {
    if (tensors != NULL) {
        *tensors = NULL;
    }
    if (tensors == NULL || path == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_tensors_open: tensors or path is NULL");
    }
    return mailp_tensors_open(tensors, path, NULL, 0, allocator, err);
}
#endif

MAIL_API void mail_tensors_close(mail_tensors *tensors) {
    if (tensors != NULL) {
        mail_allocator allocator = tensors->allocator;
        mailp_free(&allocator, tensors->tensor);
#ifndef MAIL_NO_STDIO
        mailp_file_close(&tensors->file, &allocator);
#endif
        mailp_free(&allocator, tensors);
    }
}

MAIL_API size_t mail_tensors_count(const mail_tensors *tensors) {
    return tensors == NULL ? 0 : tensors->n;
}

MAIL_API const mail_tensor *mail_tensors_at(const mail_tensors *tensors, size_t i) {
    return tensors == NULL || i >= tensors->n ? NULL : (const mail_tensor *)tensors->by_name[i];
}

MAIL_API const mail_tensor *mail_tensors_find(const mail_tensors *tensors, const char *name) {
    return tensors == NULL || name == NULL ? NULL : (const mail_tensor *)mailp_search(tensors->by_name, tensors->n, &name, mailp_by_name);
}

MAIL_API const char *mail_tensors_metadata(const mail_tensors *tensors, const char *key) {
    const mailp_pair *pair = NULL;
    if (tensors != NULL && key != NULL) {
        pair = (const mailp_pair *)mailp_search(tensors->by_key, tensors->n_pairs, &key, mailp_by_name);
    }
    return pair == NULL ? NULL : pair->value;
}

MAILP_INLINE float mailp_f32_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float mailp_f16(unsigned h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 0x1f, mantissa = h & 0x3ffu;
    if (exponent == 0) {  /* zero, or mantissa * 2^-24, which is an ordinary float32 */
        float value = (float)mantissa * 5.9604644775390625e-8f;
        return sign ? -value : value;
    }
    return mailp_f32_bits(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13);
}

MAILP_INLINE float mailp_bf16_to_float(unsigned h) {
    return mailp_f32_bits((uint32_t)h << 16);
}

static float mailp_f64(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return (float)value;
}

/* n elements of a file, step bytes apart, as float32 */
static void mailp_convert(float *values, const unsigned char *p, mail_dtype dtype, size_t n, uint64_t step) {
    size_t i;
#define MAILP_EACH(value)                     \
    for (i = 0; i < n; i++, p += step) {      \
        values[i] = (value);                  \
    }                                         \
    break
    switch (dtype) {
    case MAIL_F32:
#ifdef MAILP_LITTLE_ENDIAN
        if (step == 4) {
            memcpy(values, p, n * 4);
            break;
        }
#endif
        MAILP_EACH(mailp_f32_bits(mailp_le32(p)));
    case MAIL_F16: MAILP_EACH(mailp_f16(mailp_le16(p)));
    case MAIL_BF16: MAILP_EACH(mailp_bf16_to_float(mailp_le16(p)));
    case MAIL_F64: MAILP_EACH(mailp_f64(mailp_le64(p)));
    case MAIL_I8: MAILP_EACH((float)(p[0] < 0x80 ? (int)p[0] : (int)p[0] - 0x100));
    case MAIL_I16: MAILP_EACH((float)(int16_t)mailp_le16(p));
    case MAIL_I32: MAILP_EACH((float)(int32_t)mailp_le32(p));
    case MAIL_I64: MAILP_EACH((float)(int64_t)mailp_le64(p));
    case MAIL_BOOL: MAILP_EACH(p[0] != 0 ? 1.0f : 0.0f);
    case MAIL_U8: default: MAILP_EACH((float)p[0]);
    }
#undef MAILP_EACH
}

/* 1 if the elements lie one behind the other in row-major order */
static int mailp_tensor_is_dense(const mail_tensor *x) {
    uint64_t stride = 1;
    unsigned d;
    for (d = x->n_dims; d-- > 0;) {
        if (x->shape[d] != 1 && x->strides[d] != stride) {
            return 0;
        }
        stride *= x->shape[d];
    }
    return 1;
}

/* Elements first .. first + n - 1 in row-major order; they must exist. */
static void mailp_tensor_values(float *values, const mail_tensor *x, uint64_t first, size_t n) {
    size_t   size = mail_dtype_size(x->dtype);
    int      dense = mailp_tensor_is_dense(x);
    while (n > 0) {
        uint64_t at = first, step = 1, rest = first;
        size_t   run = n;
        if (!dense) {  /* runs along the last dimension */
            unsigned d;
            for (at = 0, d = x->n_dims; d-- > 0;) {
                uint64_t i = rest % x->shape[d];
                rest /= x->shape[d];
                at += i * x->strides[d];
                if (d + 1 == x->n_dims) {
                    run  = (size_t)MAILP_MIN((uint64_t)n, x->shape[d] - i);
                    step = x->strides[d];
                }
            }
        }
        mailp_convert(values, x->data + at * size, x->dtype, run, step * size);
        values += run;
        first += run;
        n -= run;
    }
}

/* Round to nearest, ties to even; a NaN stays one. */
MAILP_UNUSED static unsigned mailp_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return bits >> 16 | 0x40u;
    }
    return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

MAIL_API mail_status mail_tensor_read(const mail_tensor *tensor, float *values, size_t n, mail_error *err) {
    if (tensor == NULL || (values == NULL && n > 0)) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_tensor_read: tensor or values is NULL");
    }
    if (n != tensor->count) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "tensor '%s': room for %llu values, but it has %llu",
                          mailp_show_text(tensor->name).text, MAILP_LLU(n), MAILP_LLU(tensor->count));
    }
    mailp_tensor_values(values, tensor, 0, n);
    return MAIL_OK;
}

/* The tensor's values where they lie in a mapped file, if they can be used as they are; else NULL. */
MAILP_UNUSED static const float *mailp_tensor_in_place(const mail_tensors *t, const mail_tensor *x) {
#ifdef MAILP_LITTLE_ENDIAN
    if (t->file.mapped && x->dtype == MAIL_F32 && (uintptr_t)x->data % sizeof(float) == 0 && mailp_tensor_is_dense(x)) {
        return (const float *)(const void *)x->data;
    }
#else
    (void)t;
    (void)x;
#endif
    return NULL;
}

/* The tensor's bytes are not needed for now: pages of a mapped file that it fills alone may leave memory. Reading them again
   is allowed and brings them back. */
MAILP_UNUSED static void mailp_tensors_release(const mail_tensors *t, const mail_tensor *x) {
#if defined(MAILP_MAP_POSIX) && defined(MADV_DONTNEED)
    long   page_size = sysconf(_SC_PAGESIZE);
    size_t bytes = (size_t)x->count * mail_dtype_size(x->dtype), begin, end;
    if (t->file.mapped && page_size > 0 && mailp_tensor_is_dense(x)) {
        begin = (size_t)(x->data - t->file.data);  /* the mapping begins with a page */
        end   = begin + bytes;
        begin = (begin + (size_t)page_size - 1) / (size_t)page_size * (size_t)page_size;
        end   = end / (size_t)page_size * (size_t)page_size;
        if (begin < end) {
            (void)madvise((void *)((uintptr_t)t->file.data + begin), end - begin, MADV_DONTNEED);
        }
    }
#else
    (void)t;
    (void)x;
#endif
}

/* ================================================================================================================
   >>config   sizes, from the tensors' own shapes and from what the file says of itself

   In:  a table of tensors; JSON text and the file's metadata for what shapes cannot say.
   Out: a mailp_config in which every number is within its limit and nothing contradicts anything else. Shapes are looked
        at only as far as sizes are derived from them; >>policy fetches every tensor with the shape that then follows.

   A setting may stand in the JSON text (at the top or in a member "config", as the official configuration nests it) and in
   the metadata as "mail." + its name. Where it stands twice, or where the shapes say it too, all must agree.
   Required is whatever would move the robot wrongly if it were guessed; only diffusion_x (0) and n_action_steps (act_seq),
   which all published configurations have alike, may be left out. Other members than settings are passed over, but not one whose
   name is nearly that of a setting that is missing or may be left out.
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

#define MAILP_MOST_TEXT 1024  /* bytes of the longest text, the description, with its NUL */

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
    char                action_names[MAIL_MAX_ACTION_DIM][64];
    char                description[MAILP_MOST_TEXT];
} mailp_config;

MAILP_UNUSED static const char *const mailp_arch_names[] = { "D-Ma", "ED-Ma", "D-Tr", "ED-Tr" };  /* of mail_arch */

static int mailp_is_mamba(const mailp_config *c) {
    return c->arch == MAIL_D_MA || c->arch == MAIL_ED_MA;
}

/* ---- settings: their names and where they were given --------------------------------------------------------------- */

#define MAILP_TRUTH "false or true"

/* The words that a setting may be, in the order of its enum; NULL: it is a whole number. */
#define MAILP_SETTING_LIST(X)                                              \
    X(ARCH,            "arch",            "d_ma or ed_ma or d_tr or ed_tr") \
    X(ALGO,            "algo",            "ddpm or bc")                     \
    X(LANG,            "lang",            MAILP_TRUTH)                      \
    X(OBS_SEQ,         "obs_seq",         NULL)                             \
    X(ACT_SEQ,         "act_seq",         NULL)                             \
    X(N_ACTION_STEPS,  "n_action_steps",  NULL)                             \
    X(ACTION_DIM,      "action_dim",      NULL)                             \
    X(STATE_DIM,       "state_dim",       NULL)                             \
    X(D_MODEL,         "d_model",         NULL)                             \
    X(LANG_DIM,        "lang_dim",        NULL)                             \
    X(N_LAYERS,        "n_layers",        NULL)                             \
    X(D_STATE,         "d_state",         NULL)                             \
    X(D_CONV,          "d_conv",          NULL)                             \
    X(ENC_LAYERS,      "enc_layers",      NULL)                             \
    X(ENC_STATE,       "enc_state",       NULL)                             \
    X(ENC_CONV,        "enc_conv",        NULL)                             \
    X(DEC_LAYERS,      "dec_layers",      NULL)                             \
    X(DEC_STATE,       "dec_state",       NULL)                             \
    X(DEC_CONV,        "dec_conv",        NULL)                             \
    X(EXPAND,          "expand",          NULL)                             \
    X(N_HEADS,         "n_heads",         NULL)                             \
    X(FEAT_DIM,        "feat_dim",        NULL)                             \
    X(RES_WIDTH,       "res_width",       NULL)                             \
    X(N_TIMESTEPS,     "n_timesteps",     NULL)                             \
    X(SCHEDULE,        "schedule",        "cosine or linear or vp")         \
    X(CLIP_DENOISED,   "clip_denoised",   MAILP_TRUTH)                      \
    X(PREDICT_EPSILON, "predict_epsilon", MAILP_TRUTH)                      \
    X(DIFFUSION_X,     "diffusion_x",     NULL)                             \
    X(SCALE_DATA,      "scale_data",      MAILP_TRUTH)

typedef enum mailp_setting {
#define MAILP_X(id, name, words) MAILP_S_##id,
    MAILP_SETTING_LIST(MAILP_X)
#undef MAILP_X
    MAILP_S_COUNT
} mailp_setting;

static const struct {
    const char *name, *words;
} mailp_settings[MAILP_S_COUNT] = {
#define MAILP_X(id, name, words) { name, words },
    MAILP_SETTING_LIST(MAILP_X)
#undef MAILP_X
};

/* Vectors of action_dim numbers. unset: the value that changes nothing, where a vector is not needed and not given. */
#define MAILP_SCALER_VECTORS 4
static const struct {
    const char *name;
    size_t      offset;  /* in mailp_config */
    float       unset;
} mailp_scaler[MAILP_SCALER_VECTORS] = { { "scaler.mean", offsetof(mailp_config, mean), 0.0f },
                                         { "scaler.std", offsetof(mailp_config, std), 1.0f },
                                         { "scaler.min", offsetof(mailp_config, min), -FLT_MAX },
                                         { "scaler.max", offsetof(mailp_config, max), FLT_MAX } };

static float *mailp_scaler_vector(const mailp_config *cfg, int k) {
    return (float *)((uintptr_t)cfg + mailp_scaler[k].offset);
}

/* Where settings come from, as messages call it. */
typedef struct mailp_source {
    char text[256];
} mailp_source;

/* The first failure sticks in status, and every function below then does nothing. */
typedef struct mailp_config_reader {
    mailp_config       *cfg;
    const mail_tensors *t;
    mail_error         *err;
    mail_status         status;
    const char         *head;                   /* what the names of the head's tensors begin with */
    mailp_json          object;                 /* where settings are looked up now; at NULL: in the metadata */
    const char         *source;                 /* what that is called */
    mailp_json          json[2];                /* the JSON text's object and its member config; at NULL: there is none */
    const char         *json_source;
    uint64_t            value[MAILP_S_COUNT];
    const char         *where[MAILP_S_COUNT];   /* the source that gave it; NULL: none */
    const char         *vector_where[MAILP_SCALER_VECTORS];
    const char         *camera_where[MAIL_MAX_CAMERAS];
    const char         *action_names_where, *description_where;
    char                missing[220];           /* names of required settings that nobody gave */
} mailp_config_reader;

#define MAILP_CONFIG_FAIL(r, ...) ((r)->status = (r)->status ? (r)->status : mailp_fail((r)->err, __VA_ARGS__))

/* ---- sizes from shapes --------------------------------------------------------------------------------------------- */

/* The tensor called prefix + name, or NULL. */
static const mail_tensor *mailp_config_find(const mailp_config_reader *r, const char *prefix, const char *name) {
    char full[320];
    int  n = snprintf(full, sizeof full, "%s%s", prefix, name);
    return n < 0 || (size_t)n >= sizeof full ? NULL : mail_tensors_find(r->t, full);
}

/* Its size along dimension `dim`, with n_dims dimensions expected; 0 if it failed. */
static size_t mailp_config_size(mailp_config_reader *r, const char *prefix, const char *name, unsigned n_dims, unsigned dim) {
    const mail_tensor *x = mailp_config_find(r, prefix, name);
    if (x == NULL) {
        MAILP_CONFIG_FAIL(r, MAIL_E_TENSOR, "tensor '%s%s' is missing", prefix, name);
    } else if (x->n_dims != n_dims || x->count == 0 || x->shape[dim] > SIZE_MAX / 64) {
        MAILP_CONFIG_FAIL(r, MAIL_E_TENSOR, "tensor '%s%s': expected %u dimensions, none of them 0, found %u dimensions and %llu elements", prefix,
                          name, n_dims, x->n_dims, MAILP_LLU(x->count));
    }
    return r->status ? 0 : (size_t)x->shape[dim];
}

/* Layers there are: NAME.layers.0, 1, ... (Mamba) or NAME.blocks.0, 1, ... (transformer). */
static size_t mailp_config_layers(const mailp_config_reader *r, const char *name, int mamba) {
    char   part[64];
    size_t n;
    for (n = 0; n < r->t->n; n++) {
        (void)snprintf(part, sizeof part, mamba ? "%s.layers.%lu.mixer.A_log" : "%s.blocks.%lu.ln1.weight", name, (unsigned long)n);
        if (mailp_config_find(r, r->head, part) == NULL) {
            break;
        }
    }
    return n;
}

static void mailp_config_trunk(mailp_config_reader *r, const char *name, int mamba) {
    mailp_trunk_config *trunk = &r->cfg->trunk[r->cfg->n_trunks++];
    char                prefix[64];
    (void)snprintf(trunk->name, sizeof trunk->name, "%s", name);
    trunk->n_layers = mailp_config_layers(r, name, mamba);
    if (mamba) {
        (void)snprintf(prefix, sizeof prefix, "%s%s.layers.0.mixer.", r->head, name);
        trunk->d_inner = mailp_config_size(r, prefix, "A_log", 2, 0);
        trunk->d_state = mailp_config_size(r, prefix, "A_log", 2, 1);
        trunk->d_conv  = mailp_config_size(r, prefix, "conv1d.weight", 3, 2);
        trunk->dt_rank = mailp_config_size(r, prefix, "dt_proj.weight", 2, 1);
    }
}

static int mailp_ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* 1 if a tensor holds no weights: robomimic's empty placeholder, or a causal mask, which is known */
static int mailp_weightless(const mail_tensor *x) {
    return strcmp(x->name, "obs_encoder._dummy_variable") == 0 || mailp_ends_with(x->name, ".attn.mask");
}

/* Algorithm, architecture and trunks from the names of tensors; see the head keys of each system in the official code. */
static void mailp_config_arch(mailp_config_reader *r) {
    mailp_config *cfg = r->cfg;
    int           ddpm = mail_tensors_find(r->t, "model.model.tok_emb.weight") != NULL;
    int           mamba, two;
    cfg->algorithm = ddpm ? MAIL_DDPM : MAIL_BC;
    r->head        = ddpm ? "model.model." : "model.";
    if (!ddpm && mail_tensors_find(r->t, "model.tok_emb.weight") == NULL) {
        const char *like = NULL;  /* as DataParallel (module.) and torch.compile (_orig_mod.) save it */
        size_t      i;
        for (i = 0; i < r->t->n && like == NULL; i++) {
            like = mailp_ends_with(mail_tensors_at(r->t, i)->name, ".model.tok_emb.weight") ? mail_tensors_at(r->t, i)->name : NULL;
        }
        MAILP_CONFIG_FAIL(r, MAIL_E_TENSOR, "not a MaIL policy: neither 'model.model.tok_emb.weight' (DDPM) nor 'model.tok_emb.weight' (BC) "
                          "is among its %llu tensors%s%s%s", MAILP_LLU(r->t->n), like == NULL ? "" : "; it has '",
                          like == NULL ? "" : mailp_show_text(like).text, like == NULL ? "" : "': save the model inside its wrapper");
        return;
    }
    if (mailp_config_layers(r, "mamba", 1) > 0) {  /* DDPM only */
        mamba = 1;
        two   = mailp_config_layers(r, "encoder", 1) > 0;
    } else {
        mamba = mailp_config_layers(r, "encoder", 1) > 0;
        two   = mailp_config_layers(r, "decoder", mamba) > 0;
        if (!mamba && mailp_config_layers(r, "encoder", 0) == 0) {
            MAILP_CONFIG_FAIL(r, MAIL_E_TENSOR, "no layers: neither '%smamba.layers.0...' nor '%sencoder.layers.0...' nor "
                              "'%sencoder.blocks.0...' is there", r->head, r->head, r->head);
            return;
        }
    }
    cfg->arch = mamba ? (two ? MAIL_ED_MA : MAIL_D_MA) : (two ? MAIL_ED_TR : MAIL_D_TR);
    if (two || !(mamba && ddpm)) {
        mailp_config_trunk(r, "encoder", mamba);
    }
    if (two || (mamba && ddpm)) {
        mailp_config_trunk(r, mamba && ddpm ? "mamba" : "decoder", mamba);
    }
}

#define MAILP_CAMERA_NAMES "obs_encoder.key_model_map."  /* then the camera's name and a point */

/* The last feature map's size from pos_x [1, height * width]: row by row the same coordinates, so that their period is the width. */
static mail_status mailp_map_size(mailp_camera_config *camera, const mail_tensor *pos_x, mail_error *err) {
    const uint64_t n = pos_x->count;
    uint64_t       period;
    float          first, value;
    if (pos_x->n_dims != 2 || pos_x->shape[0] != 1 || n == 0 || n > SIZE_MAX / 64) {
        return mailp_fail(err, MAIL_E_TENSOR, "tensor '%s': expected shape [1, height * width], found %llu rows, %u dimensions and %llu elements",
                          pos_x->name, MAILP_LLU(pos_x->shape[0]), pos_x->n_dims, MAILP_LLU(n));
    }
    mailp_tensor_values(&first, pos_x, 0, 1);
    for (period = 1; period < n; period++) {
        mailp_tensor_values(&value, pos_x, period, 1);
        if (value == first) {
            break;
        }
    }
    if (n % period != 0) {
        return mailp_fail(err, MAIL_E_TENSOR, "tensor '%s': %llu coordinates do not make rows of %llu", pos_x->name, MAILP_LLU(n), MAILP_LLU(period));
    }
    camera->map_width  = (size_t)period;
    camera->map_height = (size_t)(n / period);
    return MAIL_OK;
}

/* Pictures of this size, as source says it, must give that map. */
static mail_status mailp_map_check(const mailp_camera_config *camera, uint64_t height, uint64_t width, const char *source, mail_error *err) {
    const uint64_t h = height / 32 + (height % 32 != 0), w = width / 32 + (width % 32 != 0);
    return h == camera->map_height && w == camera->map_width
               ? MAIL_OK
               : mailp_fail(err, MAIL_E_CONFIG, "camera '%s' in %s: pictures of %llu x %llu (height x width) give a map of %llu x %llu, but its pos_x "
                            "is for %llu x %llu", camera->name, source, MAILP_LLU(height), MAILP_LLU(width), MAILP_LLU(h), MAILP_LLU(w),
                            MAILP_LLU(camera->map_height), MAILP_LLU(camera->map_width));
}

/* Sizes of one camera's network from its tensors, which may be called backbone.* and pool.* or nets.0.* and nets.1.*. */
static void mailp_config_camera(mailp_config_reader *r, mailp_camera_config *camera) {
    char prefix[128], backbone[160], pool[160];
    (void)snprintf(prefix, sizeof prefix, MAILP_CAMERA_NAMES "%s.", camera->name);
    (void)snprintf(backbone, sizeof backbone, "%s%s", prefix, "backbone.");
    if (mailp_config_find(r, backbone, "nets.0.weight") == NULL) {
        (void)snprintf(backbone, sizeof backbone, "%s%s", prefix, "nets.0.");
    }
    (void)snprintf(pool, sizeof pool, "%s%s", prefix, "pool.");
    if (mailp_config_find(r, pool, "pos_x") == NULL) {
        (void)snprintf(pool, sizeof pool, "%s%s", prefix, "nets.1.");
    }
    camera->res_width   = mailp_config_size(r, backbone, "nets.0.weight", 4, 0);
    camera->n_keypoints = mailp_config_size(r, pool, "nets.weight", 4, 0);
    camera->feature_dim = mailp_config_size(r, prefix, "nets.3.weight", 2, 0);
    (void)mailp_config_size(r, pool, "pos_x", 2, 1);
    if (r->status) {
        return;
    }
    if (camera->res_width % 16 != 0) {
        MAILP_CONFIG_FAIL(r, MAIL_E_UNSUPPORTED, "camera '%s': its ResNet has %llu channels; a multiple of 16 is needed", camera->name,
                          MAILP_LLU(camera->res_width));
    }
    if (r->status == MAIL_OK) {
        r->status = mailp_map_size(camera, mailp_config_find(r, pool, "pos_x"), r->err);
    }
}

/* The cameras that tensors are named after, sorted: features are joined in this order. */
static void mailp_config_cameras(mailp_config_reader *r) {
    static const char start[] = MAILP_CAMERA_NAMES;
    mailp_config     *cfg = r->cfg;
    size_t            i, j, n, state_dim = 0;
    for (i = 0; i < r->t->n; i++) {
        const char *name = mail_tensors_at(r->t, i)->name;
        char        camera[sizeof cfg->camera[0].name] = "";
        int         order = 1;
        if (strncmp(name, start, sizeof start - 1) != 0) {
            continue;
        }
        name += sizeof start - 1;
        n     = strcspn(name, ".");
        if (n == 0 || n >= sizeof camera || name[n] == 0) {
            MAILP_CONFIG_FAIL(r, MAIL_E_TENSOR, "tensor '%s%s': expected a camera's name of 1 to %u bytes and a point", start,
                              mailp_show_text(name).text, (unsigned)sizeof camera - 1);
            return;
        }
        memcpy(camera, name, n);
        for (j = 0; j < cfg->n_cameras && (order = strcmp(cfg->camera[j].name, camera)) < 0; j++) {
        }
        if (j < cfg->n_cameras && order == 0) {
            continue;
        }
        if (cfg->n_cameras == MAIL_MAX_CAMERAS) {
            MAILP_CONFIG_FAIL(r, MAIL_E_UNSUPPORTED, "more than %d cameras", MAIL_MAX_CAMERAS);
            return;
        }
        memmove(&cfg->camera[j + 1], &cfg->camera[j], (cfg->n_cameras++ - j) * sizeof *cfg->camera);
        memset(&cfg->camera[j], 0, sizeof *cfg->camera);
        memcpy(cfg->camera[j].name, camera, sizeof camera);
    }
    for (i = 0; i < cfg->n_cameras; i++) {
        mailp_config_camera(r, &cfg->camera[i]);
        state_dim += cfg->camera[i].feature_dim;
    }
    if (cfg->n_cameras > 0 && state_dim != cfg->state_dim) {
        MAILP_CONFIG_FAIL(r, MAIL_E_TENSOR, "tensor '%stok_emb.weight' takes %llu features, but the %llu cameras give %llu", r->head,
                          MAILP_LLU(cfg->state_dim), MAILP_LLU(cfg->n_cameras), MAILP_LLU(state_dim));
    }
}

/* 1 if two tensors have as many elements and the same values, however each of them lies in the file. */
static int mailp_tensors_alike(const mail_tensor *x, const mail_tensor *y) {
    float    a[256], b[256];
    size_t   n;
    uint64_t at;
    if (x->count != y->count) {
        return 0;
    }
    if (x->data == y->data && x->dtype == y->dtype && x->n_dims == y->n_dims && memcmp(x->shape, y->shape, sizeof x->shape) == 0 &&
        memcmp(x->strides, y->strides, sizeof x->strides) == 0) {
        return 1;
    }
    for (at = 0; at < x->count; at += n) {
        n = (size_t)MAILP_MIN(x->count - at, (uint64_t)256);
        mailp_tensor_values(a, x, at, n);
        mailp_tensor_values(b, y, at, n);
        if (memcmp(a, b, n * sizeof *a) != 0) {
            return 0;
        }
    }
    return 1;
}

static void mailp_config_shapes(mailp_config_reader *r) {
    mailp_config *cfg = r->cfg;
    const char   *table = NULL;
    size_t        total;
    mailp_config_arch(r);
    if (r->status) {
        return;
    }
    cfg->lang       = mail_tensors_find(r->t, "linear.weight") != NULL;
    cfg->d_model    = mailp_config_size(r, r->head, "tok_emb.weight", 2, 0);
    cfg->state_dim  = mailp_config_size(r, r->head, "tok_emb.weight", 2, 1);
    cfg->action_dim = mailp_config_size(r, r->head, "action_pred.weight", 2, 0);
    cfg->lang_dim   = cfg->lang ? mailp_config_size(r, "", "linear.weight", 2, 1) : 0;
    cfg->pos_rows   = mailp_config_size(r, r->head, "pos_emb", 3, 1);
    mailp_config_cameras(r);
    if (cfg->algorithm == MAIL_BC) {
        table = cfg->arch == MAIL_D_MA || cfg->arch == MAIL_D_TR ? "query_embed.weight" : "action_token.weight";
    } else if (cfg->arch == MAIL_ED_MA) {
        table = "act_tokens.weight";
    }
    if (table != NULL) {
        cfg->act_seq = mailp_config_size(r, r->head, table, 2, 0);
    }
    total = cfg->pos_rows + 1 - (size_t)cfg->lang;  /* obs_seq + act_seq */
    if (total < 2 || (table != NULL && cfg->act_seq >= total)) {
        MAILP_CONFIG_FAIL(r, MAIL_E_TENSOR, "tensor '%spos_emb' has %llu rows, too few for %llu actions and a frame", r->head,
                          MAILP_LLU(cfg->pos_rows), MAILP_LLU(MAILP_MAX(cfg->act_seq, (size_t)1)));
    } else if (cfg->action_dim > MAIL_MAX_ACTION_DIM) {
        MAILP_CONFIG_FAIL(r, MAIL_E_UNSUPPORTED, "actions have %llu dimensions; the limit is %d", MAILP_LLU(cfg->action_dim), MAIL_MAX_ACTION_DIM);
    } else if (cfg->algorithm == MAIL_DDPM && (cfg->d_model % 2 != 0 || cfg->d_model < 4)) {
        MAILP_CONFIG_FAIL(r, MAIL_E_UNSUPPORTED, "d_model is %llu; the time code needs an even number of at least 4", MAILP_LLU(cfg->d_model));
    }
}

/* ---- settings from JSON and metadata ------------------------------------------------------------------------------- */

static void mailp_config_bad(mailp_config_reader *r, const char *name, const char *expected, mailp_json found) {
    MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "%s in %s: expected %s, found %s", name, r->source, expected, mailp_json_show(found).text);
}

/* What the source says of a setting, and 1; 0 if it says nothing. "scaler.mean" is member mean of member scaler.
   type: '[' or '{' if it must be that, 'w' for a word or free text, which metadata hold as it is and not as JSON; else 0. */
static int mailp_config_get(mailp_config_reader *r, mailp_json *value, const char *name, char type, const char *expected) {
    const char *point = strchr(name, '.'), *member = point == NULL ? name : point + 1, *found;
    char        part[96];
    int         n = 1;
    if (r->status) {
        return 0;
    }
    if (r->object.at != NULL) {
        *value = r->object;
        if (point != NULL) {
            (void)snprintf(part, sizeof part, "%.*s", (int)(point - name), name);
            n = mailp_json_find(value, r->object, part);
            if (n == 1 && !mailp_json_type(*value, '{') && !mailp_json_type(*value, 'n')) {
                mailp_config_bad(r, part, "an object", *value);
            }
        }
        n = n == 1 ? mailp_json_find(value, *value, member) : n;
        if (n > 1) {
            MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "%s: it is there twice in %s", name, r->source);
        }
        if (n == 0 || mailp_json_type(*value, 'n')) {  /* null: not given */
            return 0;
        }
    } else {
        (void)snprintf(part, sizeof part, "mail.%s", name);
        found = mail_tensors_metadata(r->t, part);
        if (found == NULL) {
            return 0;
        }
        value->at  = found;
        value->end = found + strlen(found);
        if (type != 'w') {
            (void)snprintf(part, sizeof part, "mail.%s in %s", name, r->source);
            r->status = mailp_json_check(value, found, strlen(found), part, MAIL_E_CONFIG, r->err);
        }
    }
    if (r->status == MAIL_OK && (type == '[' || type == '{') && !mailp_json_type(*value, type)) {
        mailp_config_bad(r, name, expected, *value);
    }
    return r->status == MAIL_OK;
}

/* The word number k of a list such as "false or true", and its length; NULL if there are fewer. */
static const char *mailp_word(size_t *length, const char *words, uint64_t k) {
    const char *end;
    for (; (end = strstr(words, " or ")) != NULL && k > 0; k--) {
        words = end + 4;
    }
    *length = end == NULL ? strlen(words) : (size_t)(end - words);
    return k == 0 ? words : NULL;
}

static int mailp_word_find(uint64_t *k, const char *words, const char *text, size_t n) {
    const char *word;
    size_t      length;
    for (*k = 0; (word = mailp_word(&length, words, *k)) != NULL; ++*k) {
        if (length == n && memcmp(word, text, n) == 0) {
            return 1;
        }
    }
    return 0;
}

/* A setting's value as a number or word. */
static mailp_shown mailp_setting_show(mailp_setting s, uint64_t value) {
    char        number[24];
    size_t      n;
    const char *word;
    if (mailp_settings[s].words != NULL) {
        word = mailp_word(&n, mailp_settings[s].words, value);
        return mailp_show(word, n);
    }
    (void)snprintf(number, sizeof number, "%llu", MAILP_LLU(value));
    return mailp_show_text(number);
}

/* What another source gave, or what the shapes say, must be what was given, if it was. */
static void mailp_config_agree(mailp_config_reader *r, mailp_setting s, uint64_t value, const char *where) {
    if (r->where[s] != NULL && r->value[s] != value) {
        MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "%s: %s in %s, but %s in %s", mailp_settings[s].name, mailp_setting_show(s, r->value[s]).text,
                          r->where[s], mailp_setting_show(s, value).text, where);
    }
}

/* One setting of mailp_settings. */
static void mailp_config_take(mailp_config_reader *r, mailp_setting s) {
    const char *words = mailp_settings[s].words;
    mailp_json  v;
    uint64_t    value = 0;
    char        word[16];
    size_t      n;
    int         ok;
    if (!mailp_config_get(r, &v, mailp_settings[s].name, words != NULL ? 'w' : 0, NULL)) {
        return;
    }
    n = (size_t)(v.end - v.at);
    if (words == NULL) {
        words = "a whole number";
        ok    = mailp_json_u64(&value, v) && value <= 0xffffffffu;
    } else if (strcmp(words, MAILP_TRUTH) == 0) {  /* also as Python prints it */
        ok = mailp_word_find(&value, words, v.at, n) || mailp_word_find(&value, "False or True", v.at, n) || mailp_word_find(&value, "0 or 1", v.at, n);
    } else if (r->object.at == NULL) {
        ok = mailp_word_find(&value, words, v.at, n);
    } else {
        n  = mailp_json_type(v, '"') ? mailp_json_string(word, sizeof word, v) : 0;
        ok = n > 0 && mailp_word_find(&value, words, word, n - 1);
    }
    if (!ok) {
        mailp_config_bad(r, mailp_settings[s].name, words, v);
    } else {
        mailp_config_agree(r, s, value, r->source);
        r->value[s] = value;
        r->where[s] = r->source;
    }
}

static void mailp_config_vector(mailp_config_reader *r, int k) {
    const char *name = mailp_scaler[k].name, *at = NULL, *before = r->vector_where[k];
    float      *vector = mailp_scaler_vector(r->cfg, k);
    mailp_json  v, key, item;
    size_t      n;
    double      value;
    if (!mailp_config_get(r, &v, name, '[', "an array of numbers")) {
        return;
    }
    for (n = 0; mailp_json_next(v, &at, &key, &item); n++) {
        if (n >= r->cfg->action_dim) {
            continue;  /* counted for the message */
        }
        if (!mailp_json_number(&value, item) || !(fabs(value) <= (double)FLT_MAX)) {
            mailp_config_bad(r, name, "finite numbers", item);
            return;
        }
        if (before != NULL && vector[n] != (float)value) {
            MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "%s[%llu]: %.9g in %s, but %.9g in %s", name, MAILP_LLU(n), (double)vector[n], before,
                              (double)(float)value, r->source);
        }
        vector[n] = (float)value;
    }
    if (n != r->cfg->action_dim) {
        MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "%s in %s: expected %llu numbers (action_dim), found %llu", name, r->source,
                          MAILP_LLU(r->cfg->action_dim), MAILP_LLU(n));
    }
    r->vector_where[k] = r->source;
}

static void mailp_config_camera_sizes(mailp_config_reader *r) {
    mailp_config *cfg = r->cfg;
    const char   *at = NULL;
    mailp_json    v, key, item;
    int           seen[MAIL_MAX_CAMERAS];
    uint64_t      size[2];
    unsigned      n;
    size_t        i;
    if (!mailp_config_get(r, &v, "cameras", '{', "an object of name: [height, width]")) {
        return;
    }
    memset(seen, 0, sizeof seen);
    while (r->status == MAIL_OK && mailp_json_next(v, &at, &key, &item)) {
        mailp_camera_config *camera;
        for (i = 0; i < cfg->n_cameras && !mailp_json_is(key, cfg->camera[i].name); i++) {
        }
        if (i == cfg->n_cameras || seen[i]) {
            MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "cameras in %s: %s %s", r->source, mailp_json_show(key).text,
                              i < cfg->n_cameras ? "is there twice" : cfg->n_cameras == 0 ? "is named, but the file has no camera network"
                              : "is not a camera of the file's tensors");
            return;
        }
        camera  = &cfg->camera[i];
        seen[i] = 1;
        if (!mailp_json_u64s(size, &n, 2, item) || n != 2 || size[0] == 0 || size[1] == 0 || size[0] > 0xffffffu || size[1] > 0xffffffu) {
            mailp_config_bad(r, camera->name, "[height, width]", item);
            return;
        }
        if (r->status == MAIL_OK) {
            r->status = mailp_map_check(camera, size[0], size[1], r->source, r->err);
        }
        if (r->camera_where[i] != NULL && (camera->height != size[0] || camera->width != size[1])) {
            MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "camera '%s': %llu x %llu in %s, but %llu x %llu in %s", camera->name, MAILP_LLU(camera->height),
                              MAILP_LLU(camera->width), r->camera_where[i], MAILP_LLU(size[0]), MAILP_LLU(size[1]), r->source);
        }
        camera->height     = (size_t)size[0];
        camera->width      = (size_t)size[1];
        r->camera_where[i] = r->source;
    }
}

/* Copy a string to text. before: NULL, or the source that gave it before: then both must be alike.
   plain: v is the text itself and not a JSON string. */
static void mailp_config_text(mailp_config_reader *r, char *text, size_t capacity, const char *name, const char *before, mailp_json v, int plain) {
    char   found[MAILP_MOST_TEXT] = "", expected[48];
    size_t n = (size_t)(v.end - v.at);
    assert(capacity <= sizeof found);
    if (plain && n < capacity) {
        memcpy(found, v.at, n);
    } else if (plain || !mailp_json_type(v, '"') || mailp_json_string(found, capacity, v) == 0) {
        (void)snprintf(expected, sizeof expected, "text of at most %u bytes", (unsigned)capacity - 1);
        mailp_config_bad(r, name, expected, v);
        return;
    }
    if (before != NULL && strcmp(text, found) != 0) {
        MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "%s: '%.80s' in %s, but '%.80s' in %s", name, text, before, found, r->source);
    }
    memcpy(text, found, strlen(found) + 1);
}

static void mailp_config_texts(mailp_config_reader *r) {
    mailp_config *cfg = r->cfg;
    const char   *at = NULL;
    mailp_json    v, key, item;
    size_t        n;
    if (mailp_config_get(r, &v, "description", 'w', NULL)) {
        mailp_config_text(r, cfg->description, sizeof cfg->description, "description", r->description_where, v, r->object.at == NULL);
        r->description_where = r->source;
    }
    if (!mailp_config_get(r, &v, "action_names", '[', "an array of strings")) {
        return;
    }
    for (n = 0; mailp_json_next(v, &at, &key, &item); n++) {
        if (n < cfg->action_dim) {
            mailp_config_text(r, cfg->action_names[n], sizeof cfg->action_names[n], "action_names", r->action_names_where, item, 0);
        }
    }
    if (n != cfg->action_dim) {
        MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "action_names in %s: expected %llu (action_dim), found %llu", r->source, MAILP_LLU(cfg->action_dim),
                          MAILP_LLU(n));
    }
    cfg->has_action_names = 1;
    r->action_names_where = r->source;
}

/* All that one source says. */
static void mailp_config_source(mailp_config_reader *r, mailp_json object, const char *source) {
    int i;
    r->object = object;
    r->source = source;
    for (i = 0; i < MAILP_S_COUNT; i++) {
        mailp_config_take(r, (mailp_setting)i);
    }
    for (i = 0; i < MAILP_SCALER_VECTORS; i++) {
        mailp_config_vector(r, i);
    }
    mailp_config_camera_sizes(r);
    mailp_config_texts(r);
}

/* ---- shapes and settings together ---------------------------------------------------------------------------------- */

static void mailp_config_shape(mailp_config_reader *r, mailp_setting s, uint64_t value) {
    mailp_config_agree(r, s, value, "the tensors' shapes");
}

static void mailp_config_missing(mailp_config_reader *r, const char *name) {
    size_t used = strlen(r->missing);
    (void)snprintf(r->missing + used, sizeof r->missing - used, "%s%s", used == 0 ? "" : ", ", name);
}

/* 1 if one character more, less or other, or two neighbours exchanged, make name of the n bytes at text; 0 if they are name */
static int mailp_nearly(const char *text, size_t n, const char *name) {
    size_t m = strlen(name), begin = 0;
    while (begin < n && begin < m && text[begin] == name[begin]) {
        begin++;
    }
    while (n > begin && m > begin && text[n - 1] == name[m - 1]) {
        n--;
        m--;
    }
    n -= begin;
    m -= begin;
    return (n + m > 0 && n <= 1 && m <= 1) || (n == 2 && m == 2 && text[begin] == name[begin + 1] && text[begin + 1] == name[begin]);
}

/* Is there a member that must have been meant as this setting? */
static void mailp_config_nearly(mailp_config_reader *r, const char *name) {
    static const char start[] = "mail.";
    mailp_json        key, v;
    size_t            i;
    for (i = 0; i < 2; i++) {
        const char *at = NULL;
        while (mailp_json_type(r->json[i], '{') && mailp_json_next(r->json[i], &at, &key, &v)) {
            if (mailp_nearly(key.at + 1, (size_t)(key.end - key.at) - 2, name) && !mailp_json_type(v, 'n')) {
                MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "%s in %s is not a setting; \"%s\" is", mailp_json_show(key).text, r->json_source, name);
            }
        }
    }
    for (i = 0; i < r->t->n_pairs; i++) {
        const char *found = r->t->pair[i].key;
        if (strncmp(found, start, sizeof start - 1) == 0 && mailp_nearly(found + sizeof start - 1, strlen(found) - (sizeof start - 1), name)) {
            MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "\"%s\" in the file's __metadata__ is not a setting; \"mail.%s\" is", mailp_show_text(found).text, name);
        }
    }
}

/* The value of a setting that may be left out. */
static size_t mailp_config_value(mailp_config_reader *r, mailp_setting s, size_t otherwise) {
    mailp_config_nearly(r, mailp_settings[s].name);
    return r->where[s] == NULL ? otherwise : (size_t)r->value[s];
}

/* A setting that must be given. If it is missing, the value does not matter. */
static size_t mailp_config_require(mailp_config_reader *r, mailp_setting s) {
    if (r->where[s] == NULL) {  /* only then: a training's configuration may well have a "scheduler", too */
        mailp_config_nearly(r, mailp_settings[s].name);
        mailp_config_missing(r, mailp_settings[s].name);
        return 1;
    }
    return (size_t)r->value[s];
}

static void mailp_config_range(mailp_config_reader *r, mailp_setting s, size_t value, size_t least, size_t most) {
    if (value < least || value > most) {
        MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "%s: expected %llu to %llu, found %llu", mailp_settings[s].name, MAILP_LLU(least), MAILP_LLU(most),
                          MAILP_LLU(value));
    }
}

/* obs_seq + act_seq is known; act_seq may be, from a table of tokens. */
static void mailp_config_sequence(mailp_config_reader *r) {
    mailp_config *cfg = r->cfg;
    size_t        total = cfg->pos_rows + 1 - (size_t)cfg->lang;
    if (cfg->act_seq == 0 && r->where[MAILP_S_ACT_SEQ] != NULL) {
        cfg->act_seq = (size_t)r->value[MAILP_S_ACT_SEQ];
        mailp_config_range(r, MAILP_S_ACT_SEQ, cfg->act_seq, 1, total - 1);
        if (r->where[MAILP_S_OBS_SEQ] != NULL && cfg->act_seq + r->value[MAILP_S_OBS_SEQ] != total) {
            MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "obs_seq and act_seq: %llu in %s and %llu in %s, but by the tensors' shapes their sum is %llu",
                              MAILP_LLU(r->value[MAILP_S_OBS_SEQ]), r->where[MAILP_S_OBS_SEQ], MAILP_LLU(cfg->act_seq),
                              r->where[MAILP_S_ACT_SEQ], MAILP_LLU(total));
        }
    } else if (cfg->act_seq == 0 && r->where[MAILP_S_OBS_SEQ] != NULL) {
        cfg->act_seq = total - (size_t)r->value[MAILP_S_OBS_SEQ];
        mailp_config_range(r, MAILP_S_OBS_SEQ, (size_t)r->value[MAILP_S_OBS_SEQ], 1, total - 1);
    } else if (cfg->act_seq == 0) {
        char text[64];
        mailp_config_nearly(r, "obs_seq");
        mailp_config_nearly(r, "act_seq");
        (void)snprintf(text, sizeof text, "obs_seq or act_seq (their sum is %llu)", MAILP_LLU(total));
        mailp_config_missing(r, text);
        return;
    }
    cfg->obs_seq = total - cfg->act_seq;
    mailp_config_shape(r, MAILP_S_ACT_SEQ, cfg->act_seq);
    mailp_config_shape(r, MAILP_S_OBS_SEQ, cfg->obs_seq);
    mailp_config_range(r, MAILP_S_OBS_SEQ, cfg->obs_seq, 1, MAIL_MAX_HISTORY);
    mailp_config_range(r, MAILP_S_ACT_SEQ, cfg->act_seq, 1, MAIL_MAX_CHUNK);
    cfg->n_action_steps = mailp_config_value(r, MAILP_S_N_ACTION_STEPS, cfg->act_seq);
    mailp_config_range(r, MAILP_S_N_ACTION_STEPS, cfg->n_action_steps, 1, cfg->act_seq);
}

static void mailp_config_trunks(mailp_config_reader *r) {
    static const mailp_setting first[3] = { MAILP_S_N_LAYERS, MAILP_S_ENC_LAYERS, MAILP_S_DEC_LAYERS };  /* d_state and d_conv follow */
    mailp_config *cfg = r->cfg;
    int           mamba = mailp_is_mamba(cfg);
    size_t        i;
    assert(cfg->n_trunks <= 2);
    for (i = 0; i < cfg->n_trunks; i++) {
        int s = (int)first[cfg->n_trunks == 1 ? 0 : i + 1];
        mailp_config_shape(r, (mailp_setting)s, cfg->trunk[i].n_layers);
        if (mamba) {
            mailp_config_shape(r, (mailp_setting)(s + 1), cfg->trunk[i].d_state);
            mailp_config_shape(r, (mailp_setting)(s + 2), cfg->trunk[i].d_conv);
            if (r->where[MAILP_S_EXPAND] != NULL && r->value[MAILP_S_EXPAND] * cfg->d_model != cfg->trunk[i].d_inner) {
                MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "expand: %llu in %s, but d_inner is %llu and d_model %llu", MAILP_LLU(r->value[MAILP_S_EXPAND]),
                                  r->where[MAILP_S_EXPAND], MAILP_LLU(cfg->trunk[i].d_inner), MAILP_LLU(cfg->d_model));
            }
        }
    }
    if (!mamba) {
        cfg->n_heads = mailp_config_require(r, MAILP_S_N_HEADS);
        if (cfg->n_heads == 0 || cfg->d_model % cfg->n_heads != 0) {
            MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "n_heads: %llu in %s, which does not divide d_model %llu", MAILP_LLU(cfg->n_heads),
                              r->where[MAILP_S_N_HEADS], MAILP_LLU(cfg->d_model));
        }
    }
}

static void mailp_config_diffusion(mailp_config_reader *r) {
    mailp_config *cfg = r->cfg;
    if (cfg->algorithm == MAIL_DDPM) {
        cfg->n_timesteps     = mailp_config_require(r, MAILP_S_N_TIMESTEPS);
        cfg->schedule        = (mail_schedule)mailp_config_require(r, MAILP_S_SCHEDULE);
        cfg->clip_denoised   = (int)mailp_config_require(r, MAILP_S_CLIP_DENOISED);
        cfg->predict_epsilon = (int)mailp_config_require(r, MAILP_S_PREDICT_EPSILON);
        cfg->diffusion_x     = mailp_config_value(r, MAILP_S_DIFFUSION_X, 0);
        mailp_config_range(r, MAILP_S_N_TIMESTEPS, cfg->n_timesteps, 1, MAIL_MAX_TIMESTEPS);
        mailp_config_range(r, MAILP_S_DIFFUSION_X, cfg->diffusion_x, 0, MAIL_MAX_TIMESTEPS);
    }
}

/* mean and std undo the scaling, min and max bound a diffusion policy's actions. */
static void mailp_config_scaler(mailp_config_reader *r) {
    mailp_config *cfg = r->cfg;
    int           k;
    size_t        i;
    cfg->scale_data = (int)mailp_config_require(r, MAILP_S_SCALE_DATA);
    for (k = 0; k < MAILP_SCALER_VECTORS; k++) {
        float    *vector = mailp_scaler_vector(cfg, k);
        const int scales = k < 2;  /* mean and std */
        if (r->vector_where[k] == NULL && (scales ? cfg->scale_data : cfg->algorithm == MAIL_DDPM)) {
            mailp_config_nearly(r, "scaler");
            mailp_config_missing(r, mailp_scaler[k].name);
        }
        for (i = 0; i < cfg->action_dim && r->vector_where[k] == NULL; i++) {
            vector[i] = mailp_scaler[k].unset;
        }
    }
    for (i = 0; i < cfg->action_dim; i++) {
        double low = (double)cfg->min[i], high = (double)cfg->max[i], mean = (double)cfg->mean[i], std = (double)cfg->std[i];
        double slack = 0.01 * (fabs(low) + fabs(high));  /* the mean of many equal float32 may leave them by rounding */
        double most  = low < high ? (high - low) / 2 * (1 + 1e-5) : slack;  /* std if one half are low and one half high; then, too, it is rounding */
        if (std < 0) {
            MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "scaler.std[%llu]: expected at least 0, found %.9g", MAILP_LLU(i), std);
        } else if (low > high) {
            MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "scaler.min[%llu] is %.9g, above scaler.max[%llu] = %.9g", MAILP_LLU(i), low, MAILP_LLU(i), high);
        } else if (cfg->scale_data && r->vector_where[0] != NULL && (mean < low - slack || mean > high + slack)) {
            MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "scaler.mean[%llu] is %.9g, not between scaler.min %.9g and scaler.max %.9g", MAILP_LLU(i), mean,
                              low, high);
        } else if (cfg->scale_data && r->vector_where[2] != NULL && r->vector_where[3] != NULL &&
                   (std > most || (std == 0 && low < high))) {
            MAILP_CONFIG_FAIL(r, MAIL_E_CONFIG, "scaler.std[%llu] is %.9g, which numbers from scaler.min %.9g to scaler.max %.9g cannot have",
                              MAILP_LLU(i), std, low, high);
        }
    }
}

/* Everything that is known of a policy.
   json     text of json_size bytes, or NULL; it must outlive only this call
   source   what that text is called in messages, or, if json is NULL, why there is none */
MAILP_UNUSED static mail_status mailp_config_read(mailp_config *cfg, const mail_tensors *t, const char *json, size_t json_size,
                                                  const char *source, mail_error *err) {
    mailp_config_reader r;
    mailp_json          none, root, inner;
    size_t              i;
    char                member[sizeof(mailp_source) + 32];
    memset(cfg, 0, sizeof *cfg);
    memset(&r, 0, sizeof r);
    memset(&none, 0, sizeof none);
    r.cfg = cfg;
    r.t   = t;
    r.err = err;
    mailp_config_shapes(&r);
    if (r.status == MAIL_OK && json != NULL) {
        r.status = mailp_json_check(&root, json, json_size, source, MAIL_E_CONFIG, err);
        if (r.status == MAIL_OK && !mailp_json_type(root, '{')) {
            MAILP_CONFIG_FAIL(&r, MAIL_E_CONFIG, "%s: expected an object", source);
        }
        if (r.status == MAIL_OK) {
            int n = mailp_json_find(&inner, root, "config");
            r.json[0]     = root;
            r.json[1]     = inner;
            r.json_source = source;
            mailp_config_source(&r, root, source);
            if (n > 1) {
                MAILP_CONFIG_FAIL(&r, MAIL_E_CONFIG, "config: it is there twice in %s", source);
            }
            if (mailp_json_type(inner, '{')) {
                (void)snprintf(member, sizeof member, "member config of %s", source);
                mailp_config_source(&r, inner, member);
            }
        }
    }
    mailp_config_source(&r, none, "the file's __metadata__");
    if (r.status) {
        return r.status;
    }
    mailp_config_shape(&r, MAILP_S_ARCH, (uint64_t)cfg->arch);
    mailp_config_shape(&r, MAILP_S_ALGO, (uint64_t)cfg->algorithm);
    mailp_config_shape(&r, MAILP_S_LANG, (uint64_t)cfg->lang);
    mailp_config_shape(&r, MAILP_S_ACTION_DIM, cfg->action_dim);
    mailp_config_shape(&r, MAILP_S_STATE_DIM, cfg->state_dim);
    mailp_config_shape(&r, MAILP_S_D_MODEL, cfg->d_model);
    if (cfg->lang) {
        mailp_config_shape(&r, MAILP_S_LANG_DIM, cfg->lang_dim);
    }
    for (i = 0; i < cfg->n_cameras; i++) {
        mailp_config_shape(&r, MAILP_S_FEAT_DIM, cfg->camera[i].feature_dim);
        mailp_config_shape(&r, MAILP_S_RES_WIDTH, cfg->camera[i].res_width);
    }
    mailp_config_sequence(&r);
    mailp_config_trunks(&r);
    mailp_config_diffusion(&r);
    mailp_config_scaler(&r);
    if (!cfg->has_action_names) {
        mailp_config_nearly(&r, "action_names");
    }
    for (i = 0; i < cfg->n_cameras; i++) {
        if (r.camera_where[i] == NULL) {
            char text[96];
            mailp_config_nearly(&r, "cameras");
            (void)snprintf(text, sizeof text, "cameras (%.63s)", cfg->camera[i].name);
            mailp_config_missing(&r, text);
        }
    }
    if (r.missing[0] != 0) {
        MAILP_CONFIG_FAIL(&r, MAIL_E_CONFIG, json != NULL ? "missing in %s or as \"mail.NAME\" in the __metadata__: %s"
                          : "missing as \"mail.NAME\" in the __metadata__ (%s): %s", source, r.missing);
    }
    return r.status;
}

#ifndef MAIL_NO_STDIO

/* ---- writing ------------------------------------------------------------------------------------------------------- */

/* Counts bytes, and writes them if there is a file. */
typedef struct mailp_writer {
    FILE    *file;
    uint64_t size;
    int      failed;
} mailp_writer;

static void mailp_put(mailp_writer *w, const void *bytes, size_t n) {
    w->size += n;
    if (w->file != NULL && fwrite(bytes, 1, n, w->file) != n) {
        w->failed = 1;
    }
}

/* Text inside `level` nested JSON strings. */
static void mailp_put_text(mailp_writer *w, int level, const char *text) {
    char escape[8];
    for (; *text != 0; text++) {
        if (level == 0) {
            mailp_put(w, text, 1);
            continue;
        }
        if ((unsigned char)*text < 0x20) {
            (void)snprintf(escape, sizeof escape, "\\u%04x", (unsigned)(unsigned char)*text);
        } else {
            (void)snprintf(escape, sizeof escape, "%s%c", *text == '"' || *text == '\\' ? "\\" : "", *text);
        }
        mailp_put_text(w, level - 1, escape);
    }
}

/* The same of at most 127 bytes as printf makes them. */
static void mailp_put_format(mailp_writer *w, int level, const char *format, ...) MAILP_PRINTF(3, 4);
static void mailp_put_format(mailp_writer *w, int level, const char *format, ...) {
    char    text[128];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    mailp_put_text(w, level, text);
}

static void mailp_put_setting(mailp_writer *w, mailp_setting s, uint64_t value) {
    mailp_put_format(w, 0, ",\"mail.%s\":\"%s\"", mailp_settings[s].name, mailp_setting_show(s, value).text);
}

/* Nine digits give back every float32. Whatever the locale uses as a decimal point becomes one. */
static void mailp_put_floats(mailp_writer *w, const char *name, const float *values, size_t n) {
    char   text[32], *p;
    size_t i;
    mailp_put_format(w, 0, ",\"mail.%s\":\"[", name);
    for (i = 0; i < n; i++) {
        (void)snprintf(text, sizeof text, "%s%.9g", i == 0 ? "" : ",", (double)values[i]);
        for (p = text + (i > 0); *p != 0; p++) {
            *p = (char)(strchr("0123456789+-e", *p) == NULL ? '.' : *p);
        }
        mailp_put_text(w, 0, text);
    }
    mailp_put_text(w, 0, "]\"");
}

/* What mailp_config_read cannot take from shapes. */
static void mailp_put_config(mailp_writer *w, const mailp_config *cfg) {
    size_t i, n;
    int    k;
    mailp_put_text(w, 0, "\"__metadata__\":{\"format\":\"pt\"");
    mailp_put_setting(w, MAILP_S_ARCH, (uint64_t)cfg->arch);
    mailp_put_setting(w, MAILP_S_ALGO, (uint64_t)cfg->algorithm);
    mailp_put_setting(w, MAILP_S_OBS_SEQ, cfg->obs_seq);
    mailp_put_setting(w, MAILP_S_ACT_SEQ, cfg->act_seq);
    mailp_put_setting(w, MAILP_S_N_ACTION_STEPS, cfg->n_action_steps);
    if (!mailp_is_mamba(cfg)) {
        mailp_put_setting(w, MAILP_S_N_HEADS, cfg->n_heads);
    }
    if (cfg->algorithm == MAIL_DDPM) {
        mailp_put_setting(w, MAILP_S_N_TIMESTEPS, cfg->n_timesteps);
        mailp_put_setting(w, MAILP_S_SCHEDULE, (uint64_t)cfg->schedule);
        mailp_put_setting(w, MAILP_S_CLIP_DENOISED, cfg->clip_denoised != 0);
        mailp_put_setting(w, MAILP_S_PREDICT_EPSILON, cfg->predict_epsilon != 0);
        mailp_put_setting(w, MAILP_S_DIFFUSION_X, cfg->diffusion_x);
    }
    mailp_put_setting(w, MAILP_S_SCALE_DATA, cfg->scale_data != 0);
    for (k = 0; k < MAILP_SCALER_VECTORS; k++) {
        const float *vector = mailp_scaler_vector(cfg, k);
        for (n = 0; n < cfg->action_dim && fabsf(vector[n]) < FLT_MAX; n++) {
        }
        if (n == cfg->action_dim) {  /* a limit of FLT_MAX is not known */
            mailp_put_floats(w, mailp_scaler[k].name, vector, n);
        }
    }
    for (i = 0; i < cfg->n_cameras; i++) {
        mailp_put_text(w, 0, i == 0 ? ",\"mail.cameras\":\"{\\\"" : ",\\\"");
        mailp_put_text(w, 2, cfg->camera[i].name);
        mailp_put_format(w, 0, "\\\":[%llu,%llu]%s", MAILP_LLU(cfg->camera[i].height), MAILP_LLU(cfg->camera[i].width),
                         i + 1 == cfg->n_cameras ? "}\"" : "");
    }
    for (i = 0; i < cfg->action_dim && cfg->has_action_names; i++) {
        mailp_put_text(w, 0, i == 0 ? ",\"mail.action_names\":\"[\\\"" : ",\\\"");
        mailp_put_text(w, 2, cfg->action_names[i]);
        mailp_put_text(w, 0, i + 1 == cfg->action_dim ? "\\\"]\"" : "\\\"");
    }
    if (cfg->description[0] != 0) {
        mailp_put_text(w, 0, ",\"mail.description\":\"");
        mailp_put_text(w, 1, cfg->description);
        mailp_put_text(w, 0, "\"");
    }
    mailp_put_text(w, 0, "}");
}

/* A file may hold the vision tensors under both of their names. If x has the second: the tensor with the first, or NULL. */
static const mail_tensor *mailp_first_name(const mail_tensors *t, const mail_tensor *x) {
    const char *part = strncmp(x->name, MAILP_CAMERA_NAMES, sizeof MAILP_CAMERA_NAMES - 1) != 0 ? NULL
                       : strchr(x->name + sizeof MAILP_CAMERA_NAMES - 1, '.');
    const char *first = part == NULL ? NULL : strncmp(part, ".nets.0.", 8) == 0 ? "backbone." : strncmp(part, ".nets.1.", 8) == 0 ? "pool." : NULL;
    char        name[320];
    if (first == NULL || strlen(x->name) > sizeof name - 8) {
        return NULL;
    }
    (void)snprintf(name, sizeof name, "%.*s%s%s", (int)(part + 1 - x->name), x->name, first, part + 8);
    return mail_tensors_find(t, name);
}

/* The k-th of 2 * t->n tensors to save, in the order of their names: those of float32, then the others, so that all are aligned to
   their size. NULL: none here, as of what a policy can do without (the second name of a vision tensor, and what holds no weights).
   bf16 (dtype) is for the large weights, where it halves the file; vectors, A_log, positions and pixel coordinates keep float32. */
static const mail_tensor *mailp_save_at(mail_dtype *as, const mail_tensors *t, size_t k, mail_dtype dtype) {
    const mail_tensor *x = mail_tensors_at(t, k % t->n);
    *as = x->n_dims >= 2 && mailp_ends_with(x->name, ".weight") ? dtype : MAIL_F32;
    return (*as == MAIL_F32) == (k < t->n) && !mailp_weightless(x) && mailp_first_name(t, x) == NULL ? x : NULL;
}

static void mailp_put_tensor(mailp_writer *w, const mail_tensor *x, mail_dtype as) {
    float         values[1024];
    unsigned char bytes[4096];
    size_t        size = mail_dtype_size(as), n, i, b;
    uint64_t      at;
    for (at = 0; at < x->count; at += n) {
        n = (size_t)MAILP_MIN(x->count - at, (uint64_t)1024);
        mailp_tensor_values(values, x, at, n);
        for (i = 0; i < n; i++) {
            uint32_t bits;
            memcpy(&bits, &values[i], sizeof bits);
            bits = as == MAIL_F32 ? bits : mailp_bf16(values[i]);
            for (b = 0; b < size; b++) {
                bytes[size * i + b] = (unsigned char)(bits >> 8 * b & 0xff);
            }
        }
        mailp_put(w, bytes, n * size);
    }
}

/* The JSON header, padded so that the data behind it is aligned. */
static void mailp_put_header(mailp_writer *w, const mail_tensors *t, const mailp_config *cfg, mail_dtype dtype) {
    uint64_t   at = 0, bytes;
    size_t     k;
    unsigned   d;
    mail_dtype as;
    mailp_put_text(w, 0, "{");
    mailp_put_config(w, cfg);
    for (k = 0; k < 2 * t->n; k++) {
        const mail_tensor *x = mailp_save_at(&as, t, k, dtype);
        if (x != NULL) {
            bytes = x->count * mail_dtype_size(as);
            mailp_put_text(w, 0, ",\"");
            mailp_put_text(w, 1, x->name);
            mailp_put_format(w, 0, "\":{\"dtype\":\"%s\",\"shape\":[", mail_dtype_name(as));
            for (d = 0; d < x->n_dims; d++) {
                mailp_put_format(w, 0, "%s%llu", d == 0 ? "" : ",", MAILP_LLU(x->shape[d]));
            }
            mailp_put_format(w, 0, "],\"data_offsets\":[%llu,%llu]}", MAILP_LLU(at), MAILP_LLU(at + bytes));
            at += bytes;
        }
    }
    mailp_put_text(w, 0, "}");
    while (w->size % 8 != 0) {
        mailp_put_text(w, 0, " ");
    }
}

static void mailp_put_file(mailp_writer *w, const mail_tensors *t, const mailp_config *cfg, mail_dtype dtype) {
    mailp_writer  count;
    unsigned char size[8];
    mail_dtype    as;
    size_t        k;
    memset(&count, 0, sizeof count);
    mailp_put_header(&count, t, cfg, dtype);
    for (k = 0; k < 8; k++) {
        size[k] = (unsigned char)(count.size >> 8 * k & 0xff);
    }
    mailp_put(w, size, 8);
    mailp_put_header(w, t, cfg, dtype);
    for (k = 0; k < 2 * t->n && !w->failed; k++) {
        const mail_tensor *x = mailp_save_at(&as, t, k, dtype);
        if (x != NULL) {
            mailp_put_tensor(w, x, as);
        }
    }
}

/* An empty file where there is none yet; 0: there is one, or it cannot be made (errno). */
static int mailp_file_create(const char *path) {
#if defined(MAILP_POSIX)
    const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0666);
    return fd >= 0 && close(fd) == 0;
#elif defined(_WIN32)
    HANDLE h = CreateFileA(path, GENERIC_WRITE, 0, NULL, CREATE_NEW, FILE_ATTRIBUTE_NORMAL, NULL);
    errno = GetLastError() == ERROR_FILE_EXISTS ? EEXIST : EACCES;
    return h != INVALID_HANDLE_VALUE && CloseHandle(h);
#else
    FILE *f = fopen(path, "rb");
    errno = EEXIST;
    return f == NULL || (fclose(f), 0);
#endif
}

/* 1 if path may be replaced: it is a regular file, or nothing is there. */
static int mailp_file_replaceable(const char *path) {
#if defined(MAILP_POSIX)
    struct stat st;
#  if defined(MAILP_LSTAT)
    return lstat(path, &st) != 0 || S_ISREG(st.st_mode);
#  else
    return stat(path, &st) != 0 || S_ISREG(st.st_mode);
#  endif
#elif defined(_WIN32)
    const DWORD is = GetFileAttributesA(path);
    return is == INVALID_FILE_ATTRIBUTES || (is & (FILE_ATTRIBUTE_DIRECTORY | FILE_ATTRIBUTE_DEVICE | FILE_ATTRIBUTE_REPARSE_POINT)) == 0;
#else
    (void)path;
    return 1;
#endif
}

/* Put tmp in path's place; 0: that cannot be done (errno). */
static int mailp_file_replace(const char *tmp, const char *path) {
#if defined(_WIN32)
    errno = EACCES;  /* as a rule: somebody, or this policy's own mapping, has path open */
    return MoveFileExA(tmp, path, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH) != 0;
#else
    return rename(tmp, path) == 0;
#endif
}

/* Write a self-contained safetensors file: the source's tensors and all settings as metadata. It is written beside path and
   takes its place when it is whole; until then, and on failure, what was there stays. */
MAILP_UNUSED static mail_status mailp_save(const mail_tensors *t, const mailp_config *cfg, const char *path, mail_dtype dtype, mail_error *err) {
    mailp_writer w;
    size_t       n = strlen(path);
    char        *tmp;
    mail_status  status = MAIL_OK;
    int          reason, tries = 0, created;
    if (dtype != MAIL_F32 && dtype != MAIL_BF16) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "%s: a policy is saved as F32 or BF16, not as %s", path, mail_dtype_name(dtype));
    }
    if (!mailp_file_replaceable(path)) {
        return mailp_fail(err, MAIL_E_IO, "%s: a file cannot be written in place of a link, a folder or a device", mailp_show_path(path).text);
    }
    memset(&w, 0, sizeof w);
    tmp = (char *)mailp_alloc(&t->allocator, n + 16);
    if (tmp == NULL) {
        return mailp_fail(err, MAIL_E_MEMORY, "no memory for a file name");
    }
    memcpy(tmp, path, n);
    do {  /* never over a file that is there: it may be anybody's, even the source of t */
        (void)snprintf(tmp + n, 16, tries == 0 ? ".tmp" : ".tmp%d", tries);
        created = mailp_file_create(tmp);
    } while (!created && errno == EEXIST && ++tries < 1000);
    w.file = created ? fopen(tmp, "wb") : NULL;
    if (w.file == NULL) {
        status = mailp_fail(err, MAIL_E_IO, "%s: cannot be opened for writing: %s", mailp_show_path(tmp).text, strerror(errno));
        if (created) {
            (void)remove(tmp);
        }
    } else {
        mailp_put_file(&w, t, cfg, dtype);
        w.failed = fflush(w.file) != 0 || w.failed;
#if defined(MAILP_POSIX) && (!defined(__STRICT_ANSI__) || defined(_POSIX_C_SOURCE))
        w.failed = w.failed || fsync(fileno(w.file)) != 0;  /* on the disk before it takes the old file's place */
#endif
        reason = errno;
        if (fclose(w.file) != 0 && !w.failed) {
            reason   = errno;
            w.failed = 1;
        }
        if (w.failed || !mailp_file_replace(tmp, path)) {
            reason = w.failed ? reason : errno;
            (void)remove(tmp);
            status = mailp_fail(err, MAIL_E_IO, "%s: cannot be written: %s", mailp_show_path(path).text, strerror(reason));
        }
    }
    mailp_free(&t->allocator, tmp);
    return status;
}

#endif /* MAIL_NO_STDIO */

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
#if defined(MAILP_X86) && !defined(MAILP_NO_VNNI) && \
    (defined(MAILP_EMULATED_AVX512) || (defined(__clang__) ? __clang_major__ >= 12 && !defined(__APPLE__) : defined(__GNUC__) && __GNUC__ >= 11))
#  define MAILP_HAS_AVX_VNNI 1  /* and AVX-VNNI, which no Apple has; the assembler has to know it as well (binutils 2.36) */
#endif
#ifdef MAILP_ARM
#  include <arm_neon.h>
#  if defined(__linux__)
#    include <sys/auxv.h>
#  endif
#  if defined(__ARM_FEATURE_DOTPROD)
#    define MAILP_NEON_DOT   /* attributes of functions that use sdot */
#  elif !defined(__clang__) && __GNUC__ >= 8
#    define MAILP_NEON_DOT __attribute__((target("arch=armv8.2-a+dotprod")))
#  endif
#endif

#if defined(MAILP_X86) && defined(__GNUC__)
/* Two words of the AVX-512 pass. Without optimisation gcc's own macros for them convert an unsigned mask to short. */
#  pragma GCC diagnostic push
#  pragma GCC diagnostic ignored "-Wsign-conversion"
__attribute__((target("avx512f,avx512dq"))) MAILP_INLINE __m512 mailp_round512(__m512 a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

__attribute__((target("avx512f,avx512dq"))) MAILP_INLINE __m512 mailp_fraction512(__m512 a) {
    return _mm512_reduce_ps(a, 0x09);  /* a - floor(a) */
}
#  pragma GCC diagnostic pop
#elif defined(MAILP_X86)
#  define mailp_round512(a)    _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#  define mailp_fraction512(a) _mm512_reduce_ps(a, 0x09)
#endif

#define MAILP_SCAN_LINES  ((size_t)32)  /* fetched for each token of a panel: more would be waited for */
#define MAILP_SCAN_TOKENS 32  /* at a time for all channels whose states fit there; larger pieces of long sequences leave the second-level cache */
#define MAILP_MAX_STATE 256  /* d_state; the scan keeps that many vectors on the stack */

/* Words of the scalar pass: nearest integer (halves away from zero) and the one below, and a * 2^n for whole n in -126..127. */
MAILP_INLINE float mailp_round1(float a) {
    if (!(a > -2e9f && a < 2e9f)) {
        return a;  /* NaN stays NaN */
    }
    return (float)(int32_t)(a + (a < 0 ? -0.5f : 0.5f));
}

MAILP_INLINE float mailp_floor1(float a) {
    float whole;
    if (!(a > -2e9f && a < 2e9f)) {
        return a;  /* NaN stays NaN */
    }
    whole = (float)(int32_t)a;
    return whole > a ? whole - 1.0f : whole;
}

MAILP_INLINE float mailp_scale1(float a, float n) {
    if (!(n >= -126.0f && n <= 127.0f)) {
        return a * n;  /* NaN; the callers' ranges exclude the rest */
    }
    return a * mailp_f32_bits((uint32_t)((int32_t)n + 127) << 23);
}

/* Weights of a linear map, packed: output channels in panels of MAILP_LANES; lanes beyond n are zero.
   k is the true depth. bias [panels * lanes] or NULL. */
typedef struct mailp_mat {
    const void  *w;            /* [panels][k][MAILP_LANES] of type; low: [panels][k / 2][MAILP_LANES][2] of int16 for bf16, or int8 */
    const float *bias, *scale; /* [panels * MAILP_LANES] or NULL; scale for integers */
    size_t       k, panels;
    mail_weights type;
    int          low;          /* 1: by gemm_low; k is rounded up to even in w */
} mailp_mat;

/* Convolutions in 16 bits: largest activation. Sums of 9 x 16 products with weights have to fit into 32 bits: see mailp_conv_step16. */
#define MAILP_S16_MOST    8191
#define MAILP_ROWS16_MOST 4095  /* by Winograd's rows, whose planes have numbers eight times as large */

/* gemm_low sums the products of so many neighbours of a row, integers of at most this magnitude, in 32 bits. */
#define MAILP_PAIRS_SUM  128
#define MAILP_PAIRS_MOST 8191

/* Bytes by which an address to be fetched moves at each of n steps to pass over that many cache lines, evenly: bursts would
   crowd out the loads. At most a line a step. */
MAILP_INLINE size_t mailp_pace(size_t lines, size_t n) {
    return MAILP_MIN((lines * MAILP_ALIGN + n - 1) / n, (size_t)MAILP_ALIGN);
}

/* Panels of the next tile of a matrix product, when `left` are to do and no tile has more than `most` */
MAILP_INLINE size_t mailp_tile_panels(size_t left, size_t most) {
    left = MAILP_MIN(left, most);
    return left == 3 ? 2 : left;
}

#ifdef MAILP_ARM
/* four bytes, in the low half */
MAILP_INLINE int8x8_t mailp_neon_load4(const int8_t *p) {
    uint32_t bits;
    memcpy(&bits, p, sizeof bits);
    return vreinterpret_s8_u32(vdup_n_u32(bits));
}
#endif

/* Where a convolution finds its inputs, for the implicit product `conv`. Offsets and steps count floats.

   Input pixels lie in blocks of 16 channels, [blocks][rows][columns][16], with a border of zeros, so that no tap needs a
   bounds check. Tap t of output pixel (row, column) reads `depth` neighbouring floats in each of n_blocks blocks, from
       row * row_step + column * pixel_step + tap[t] + block * plane. */
typedef struct mailp_conv_shape {
    size_t width;       /* output pixels in a row */
    size_t pixel_step, row_step, plane, depth, n_blocks, n_taps;
    size_t tap[9];
} mailp_conv_shape;

/* What GroupNorm has to know of n values: their mean, and the sum of their squared distances from it. */
typedef struct mailp_moments {
    double mean, squares;
    size_t n;
} mailp_moments;

MAILP_INLINE float mailp_moments_rstd(const mailp_moments *sum) {
    return (float)(1.0 / sqrt(sum->squares / (double)sum->n + 1e-5));
}

/* Winograd's input channels at a time, half as many for groups of four panels where there are more: transformed weights are 147 or 295 KB, or
   590 of all 64. With a second-level cache of 1 MB that takes 0.9 of the time for 128 channels of 16 x 16. And tiles at a time, all of a
   map of 32 x 32. */
#define MAILP_DEPTH 64
#define MAILP_TILES ((size_t)64)

/* Winograd's tiles: 4 and 2, F(4x4, 3x3) and F(2x2, 3x3); 1, F(1x4, 3x3); and these, 2 x 2 outputs of a convolution of stride 2 by phases,
   and 3 x 3 of the stem's, F(3x3, 4x4), whose inputs are the phases of its picture. All are described at their kernels. */
#define MAILP_PHASES 5
#define MAILP_STEM   3
MAILP_INLINE size_t mailp_tile_height(size_t tile) {
    return tile == MAILP_PHASES ? 2 : tile;
}

MAILP_INLINE size_t mailp_tile_width(size_t tile) {
    return tile == 1 ? 4 : mailp_tile_height(tile);
}

/* The plane of weights that meets the k-th plane of inputs: by phases, four are for the even pixels of either dimension. */
MAILP_INLINE size_t mailp_tile_weights(size_t tile, size_t k) {
    return tile == MAILP_PHASES ? MAILP_MIN(k / 5, (size_t)3) * 4 + MAILP_MIN(k % 5, (size_t)3) : k;
}

/* The stem's input channels are the four phases of three colours: pixels of odd column and even row, both even, even column and odd row,
   both odd. Odd rows (and columns) meet three weights, a fourth of 0, and nothing in the planes of infinity.
   Returns how many channels the k-th plane takes, from *from on: all, or 8, some of which may have weight 0. */
#define MAILP_STEM_DEPTH 12
MAILP_INLINE size_t mailp_stem_inputs(size_t *from, size_t k) {
    *from = k % 6 == 5 ? 2 : 0;
    return k % 6 == 5 || k / 6 == 5 ? 8 : MAILP_STEM_DEPTH;
}

/* n, or the next number above it that is a sum of fives and sixes */
MAILP_INLINE size_t mailp_stem_pixels(size_t n) {
    return MAILP_MAX(n, (n + 5) / 6 * 5);
}

/* Floats from one of Winograd's planes to the next, for weights and for products of a group of panels. With constants there is an address
   to each plane in the instruction; strides of a power of two would fall on one set of the cache. */
#define MAILP_PLANE_PAD  16
#define MAILP_U_PLANE(group) ((group) * MAILP_DEPTH * MAILP_LANES + MAILP_PLANE_PAD)
#define MAILP_M_PLANE(group) ((group) * MAILP_TILES * MAILP_LANES + MAILP_PLANE_PAD)

/* Winograd's tiles of one row: the weights of one column of 3 x 3 for a block of channels and a panel, [3 rows][16][16]
   (16 bits: for a group of panels, [3 rows][8][group][16][2]) */
#define MAILP_COLUMN (3 * (size_t)MAILP_LANES * MAILP_LANES)
#define MAILP_ROWS4  4  /* panels at a time by winograd_rows4 */

/* Winograd's maps of four or eight tiles of 4 x 4, one or two quads: input channels at a time, the weights of one column of 3 x 3 for them and
   `lanes` outputs, [32][3 rows][lanes], and the inputs of a pass over them for each quad: [32][3 planes][quads][4 tiles] in all */
#define MAILP_QUAD_DEPTH 32
#define MAILP_QUAD_COLUMN(lanes) ((size_t)MAILP_QUAD_DEPTH * 3 * (lanes))
#define MAILP_QUAD_PASS          ((size_t)MAILP_QUAD_DEPTH * 3 * 4)

/* Where the inputs of the next n output pixels are, from pixel (*row, *column) on. */
MAILP_INLINE void mailp_conv_places(size_t *at, size_t n, size_t *row, size_t *column, const mailp_conv_shape *shape) {
    size_t r;
    for (r = 0; r < n; r++) {
        at[r] = *row * shape->row_step + *column * shape->pixel_step;
        if (++*column == shape->width) {
            *column = 0;
            (*row)++;
        }
    }
}

#define MAILP_COLUMNS 1024  /* of a picture at a time, an even number: what is added up down their rows stays in the first-level cache */

/* v / 65536, rounded down, within 0..255 */
MAILP_INLINE unsigned char mailp_u8_of(int v) {
    return (unsigned char)(v < 0 ? 0 : v > 0xffffff ? 255 : v >> 16);
}

#if defined(__GNUC__)
#  define MAILP_PREFETCH(address) __builtin_prefetch((const void *)(address), 0, 2)  /* into the second-level cache */
#else
#  define MAILP_PREFETCH(address) ((void)(address))
#endif

typedef struct mailp_kernels {
    const char *name;

    /* y[m][j] = (accumulate ? y[m][j] : 0) + bias[j] + scale[j] * sum_k x[m][k] * w[j / 16][k][j % 16]

       y     [rows][>= 16 * panels], row stride ldy;  x [rows][>= k], row stride ldx;  w [panels][k][16], of float, bf16 or int8:
       gemm[mail_weights];  bias, scale [16 * panels] or NULL: 0 and 1. y does not overlap the others.
       Every element is summed in the order of k in one float32 accumulator, and what was in y and the bias are added last: the
       result does not depend on how rows and panels are split into calls. Weights are widened as they are loaded, so bf16 and
       int8 save memory traffic, which is what bounds a few rows, and round nothing but the weights. */
    void (*gemm[3])(float *y, size_t ldy, const float *x, size_t ldx, const void *w, const float *scale, const float *bias,
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
                 const float *dt, size_t lddt, const float *A, const float *B, const float *C, size_t ldbc, const float *D,
                 const float *z, size_t ldz, size_t len, size_t d_state, size_t panels, uintptr_t ahead, size_t lines);
    void (*attend)(float *y, size_t ldy, const float *q, size_t ldq, const float *k, const float *v, size_t ldkv,
                   float *scores, size_t n_q, size_t n_kv, size_t visible, size_t head_dim, int accumulate);

    /* vision */

    /* to[i] = (accumulate ? to[i] : 0) + weight * from[i], i < n: exact while these are whole numbers up to 2^24 */
    void (*add_bytes)(float *to, const unsigned char *from, float weight, size_t n, int accumulate);
    void (*add_floats)(double *to, const float *from, double weight, size_t n, int accumulate);

    /* n pixels, an even number, of BT.601, limited range (16..235, 16..240), to red, green and blue [3][MAILP_COLUMNS] in 0..255, in
       1/65536:  76309 (y - 16) + 104597 (v - 128), - 25675 (u - 128) - 53279 (v - 128), + 132201 (u - 128), rounded and clamped.
       uv  U and V of each two pixels;  NULL: y is Y U Y V of each two pixels */
    void (*yuv)(unsigned char *rgb, const unsigned char *y, const unsigned char *uv, size_t n);

    /* y[p][m][j] = (accumulate ? y[p][m][j] : 0) + sum over taps tap <= t < end, blocks b, i < depth of
                        x[at(m) + tap[t] + b * plane + i] * w[(t - tap, b, i)][p][j]

       y  [panels], panel stride ldy, of [pixels][16];  x as mailp_conv_shape says;
       w  [(end - tap) * n_blocks * depth][group][16]: `group` panels side by side, of which the first `panels` are used.
       Every element is summed in the order of k in one accumulator, to which what was in y is added last.
       Meanwhile `lines` cache lines from ahead on are fetched into the second-level cache: the weights needed next. */
    void (*conv)(float *y, size_t ldy, const float *x, const float *w, size_t group, const mailp_conv_shape *shape, size_t tap,
                 size_t end, size_t pixels, size_t panels, int accumulate, uintptr_t ahead, size_t lines);
    size_t conv_group;

    /* One group of a GroupNorm, which is one block of 16 channels:
           out[y][x][j] = (in[y][x][j] - mean) / sqrt(var + 1e-5) * gamma[j] + beta[j]  (+ skip[y][x][j]), then relu if asked
       mean and var (biased) over the whole block.
       out, skip [h][w][16], row stride row;  in [h][w][16], dense;  gamma, beta [16];  skip NULL or of out's geometry, may be
       out;  out may be in (then row = w * 16).
       Numbers: of each run of 64 pixels the sum and then the squared distances from its mean in float32; these put together in
       double, as if all distances had been from the mean of all (T. Chan, G. Golub, R. LeVeque, 1979). */
    void (*group_norm)(float *out, size_t row, const float *in, const float *skip, const float *gamma, const float *beta,
                       size_t h, size_t w, int relu);

    /* The stem's GroupNorm, relu and maximum over [2y-1 .. 2y+1][2x-1 .. 2x+1], for which a few rows of its outputs suffice at a time:
       - moments  adds n values, a multiple of 16, to what is known of their block
       - pool     out[x][j] = that maximum before GroupNorm, or where gamma is negative, so that GroupNorm turns the order around, the
                  minimum with its sign changed. Rounding keeps order: the largest result is that of this value.
                  out [ceil(w / 2)][16];  r0, r1, r2 [w][16], a row outside is replaced by its neighbour inside
       - pool_norm  GroupNorm and relu in place of h rows of such maxima, row stride row */
    void (*moments)(mailp_moments *sum, const float *in, size_t n);
    void (*pool)(float *out, const float *r0, const float *r1, const float *r2, const float *gamma, size_t w);
    void (*pool_norm)(float *out, size_t row, const mailp_moments *moments, const float *gamma, const float *beta, size_t h, size_t w);

    /* to[k][p][j] = from[k][p][j] (* scale[p][j] for int8);  to [n][panels][16], from [n][group][16] */
    void (*widen)(float *to, const void *from, const float *scale, size_t n, size_t group, size_t panels, mail_weights type);

    /* Winograd's convolutions on one block; for tile see MAILP_PHASES */
    void (*winograd_weights)(float *u, const void *w, const float *scale, size_t c_in, size_t group, size_t panels, size_t tile,
                             mail_weights type);
    void (*winograd_in)(float *v, size_t plane, const float *x, size_t row, size_t tiles_h, size_t tiles_w, size_t tile);
    void (*winograd_out)(float *y, const float *m, size_t h, size_t w, size_t tile, size_t tiles_w, size_t begin, size_t end);

    /* y[p][m][j] = (accumulate ? y[p][m][j] : 0) + sum over t < runs, i < 16 of x[t * stride + m * 16 + i] * w[t][i][p][j] for m < pixels,
       p < conv_group; ldy: panel stride of y.  At each step of t and i the address `ahead` from which is fetched moves by ahead_step
       bytes. NULL: conv is used instead. */
    void (*winograd_products)(float *y, size_t ldy, const float *x, size_t stride, size_t runs, const float *w, size_t pixels, int accumulate,
                              uintptr_t ahead, size_t ahead_step);
    /* y[p][m][j] = sum over i < depth of x[m * 16 + i] * w[i][p][j] for p < conv_group and m < pixels, and perhaps some more: as many as
       mailp_stem_pixels says.  ldy: panel stride of y;  depth is what mailp_stem_inputs says.  NULL: conv is used instead. */
    void (*stem_products)(float *y, size_t ldy, const float *x, const float *w, size_t depth, size_t pixels);
    /* NULL: no tiles of one row.  At every 16 weights of a column of w the address `ahead` from which is fetched moves by ahead_step bytes. */
    void (*winograd_rows_weights)(float *u, const void *w, size_t column, const float *scale, mail_weights type, uintptr_t ahead,
                                  size_t ahead_step);
    /* The products of MAILP_ROWS4 panels of float32 weights with four rows of tiles_w such tiles: a map of 4 x 4 or a few more pixels, on which
       there is little to use weights. NULL: as other maps. Defined after winograd_rows_weights. */
    void (*winograd_rows4)(float *m, const float *v, size_t plane, size_t tiles_w, const float *w, size_t n_blocks);
    /* The products of quad_lanes outputs and MAILP_QUAD_DEPTH channels with 4, or up to 4 * quads_most, tiles of 4 x 4, a map of 8 x 8 or
       8 x 16 pixels, and what lays such tiles as they are used. 0 and NULL: as other maps. Defined after winograd_rows4. */
    size_t quads_most, quad_lanes;
    void (*winograd_quad)(float *m, const float *v, size_t quads, const float *u, const float *w, int accumulate, uintptr_t ahead,
                          size_t ahead_step);
    void (*winograd_quad_in)(float *v, const float *planes, size_t quads);

    /* integers in the place of floats; NULL where the set gains nothing by them */

    /* gemm, but for the rounding of x: weights of bf16 are held as 16 bits with a scale for that, and all lie as mailp_mat says for
       `low`. Described where it is defined. */
    void (*gemm_low[3])(float *y, size_t ldy, const float *x, size_t ldx, const void *w, const float *scale, const float *bias,
                        size_t rows, size_t k, size_t panels, int accumulate);

    /* conv with integers of 16 bits (for weights of bf16) or 8 bits, [mail_weights], and what makes such integers of a map. Defined at
       the end of the vision kernels. */
    void (*conv_low[3])(float *y, size_t ldy, const unsigned char *x, const float *x_scale, const unsigned char *w, const float *w_scale,
                        const float *bias, size_t group, const mailp_conv_shape *shape, size_t block, size_t end, size_t pixels,
                        size_t panels, uintptr_t ahead, size_t lines);
    void (*lower[3])(unsigned char *q, float *scale, const float *x, size_t n);
    size_t low_rate[3];  /* its products in the time of four of floats */
    int    stem_most;    /* largest weight of a stem in 8 bits; 0: it has to be done in float */
    int    low_sum;      /* most that four weights of 8 bits whose products meet in 16 may add up to, of one sign; 0: they meet in 32 */

    /* Winograd's tiles of one row in integers of 16 bits, for conv_low[MAIL_WEIGHTS_BF16] */
    void (*rows16_weights)(int16_t *u, const int16_t *w, size_t group, uintptr_t ahead, size_t lines);
    void (*rows16_in)(int16_t *v, float *scale, size_t plane, const float *x, size_t floats, size_t row, size_t tiles_h, size_t tiles_w);
    void (*rows16_out)(float *y, const float *m, size_t h, size_t w, size_t tiles_w);
} mailp_kernels;

#define MAILP_PASS MAILP_PASS_SCALAR
#include MAIL_SELF
#undef MAILP_PASS
#ifdef MAILP_X86
#  define MAILP_PASS MAILP_PASS_AVX2
#  include MAIL_SELF
#  undef MAILP_PASS
#  define MAILP_PASS MAILP_PASS_AVX512
#  if defined(__GNUC__) && !defined(__clang__)
#    pragma GCC diagnostic push
#    pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  /* gcc's own AVX-512 intrinsics begin from an undefined register */
#    pragma GCC diagnostic ignored "-Wuninitialized"
#  endif
#  include MAIL_SELF
#  if defined(__GNUC__) && !defined(__clang__)
#    pragma GCC diagnostic pop
#  endif
#  undef MAILP_PASS
#endif
#ifdef MAILP_ARM
#  define MAILP_PASS MAILP_PASS_NEON
#  include MAIL_SELF
#  undef MAILP_PASS
#endif

#endif /* MAILP_IMPLEMENTED */

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
#  define mailp_vmadd(a, b, c)  ((a) * (b) + (c))          /* a * b + c */
#  define mailp_vnmadd(a, b, c) ((c) - (a) * (b))          /* c - a * b */
#  define mailp_vround(a)       mailp_round1(a)
#  define mailp_vfloor(a)       mailp_floor1(a)
#  define mailp_vscale(a, n)    mailp_scale1(a, n)
#  define mailp_vload_bf16(p)   mailp_bf16_to_float(*(p))
#  define mailp_vload_i8(p)     ((float)*(p))
#  define mailp_vload_u8(p)     ((float)*(p))
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
#  define mailp_vmadd(a, b, c)  _mm256_fmadd_ps(a, b, c)
#  define mailp_vnmadd(a, b, c) _mm256_fnmadd_ps(a, b, c)
#  define mailp_vround(a)       _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#  define mailp_vfloor(a)       _mm256_floor_ps(a)
#  define mailp_vscale(a, n)    _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)))
#  define mailp_vload_bf16(p)   _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))), 16))
#  define mailp_vload_i8(p)     _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p))))
#  define mailp_vload_u8(p)     _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p))))
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
#  define mailp_vmadd(a, b, c)  _mm512_fmadd_ps(a, b, c)
#  define mailp_vnmadd(a, b, c) _mm512_fnmadd_ps(a, b, c)
#  define mailp_vround(a)       mailp_round512(a)
#  define mailp_vscale(a, n)    _mm512_scalef_ps(a, n)
#  define mailp_vload_bf16(p)   _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p))), 16))
#  define mailp_vload_i8(p)     _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))))
#  define mailp_vload_u8(p)     _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(p)))))
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
#  define mailp_vmadd(a, b, c)  vfmaq_f32(c, a, b)
#  define mailp_vnmadd(a, b, c) vfmsq_f32(c, a, b)
#  define mailp_vround(a)       vrndnq_f32(a)
#  define mailp_vfloor(a)       vrndmq_f32(a)
#  define mailp_vscale(a, n)    vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23)))
#  define mailp_vload_bf16(p)   vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))
#  define mailp_vload_i8(p)     vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(mailp_neon_load4(p)))))
#  define mailp_vload_u8(p)     vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_s8(mailp_neon_load4((const int8_t *)(p)))))))
#  define MAILP_NAME            "neon"
#  define MAILP_IN_ORDER        __asm__ volatile("" ::: "memory");  /* see MAILP_ROW_STEP */
#endif
#ifndef MAILP_IN_ORDER
#  define MAILP_IN_ORDER
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

/* X(0, n) .. X(11, n), for statements that are written out */
#define MAILP_R1(X, n) X(0, n)
#define MAILP_R2(X, n) MAILP_R1(X, n) X(1, n)
#define MAILP_R3(X, n) MAILP_R2(X, n) X(2, n)
#define MAILP_R4(X, n) MAILP_R3(X, n) X(3, n)
#define MAILP_R5(X, n) MAILP_R4(X, n) X(4, n)
#define MAILP_R6(X, n) MAILP_R5(X, n) X(5, n)
#define MAILP_R7(X, n) MAILP_R6(X, n) X(6, n)
#define MAILP_R8(X, n) MAILP_R7(X, n) X(7, n)
#define MAILP_R9(X, n) MAILP_R8(X, n) X(8, n)
#define MAILP_R10(X, n) MAILP_R9(X, n) X(9, n)
#define MAILP_R11(X, n) MAILP_R10(X, n) X(10, n)
#define MAILP_R12(X, n) MAILP_R11(X, n) X(11, n)

#if MAILP_W == 1

#define MAILP_CONV_PANELS 1
#define MAILP_GEMM_KIND(kind, type, load)                                                                                          \
    MAILP_KERNEL void MAILP_FN(gemm_##kind)(float *y, size_t ldy, const float *x, size_t ldx, const void *weights, const float *scale, \
                                            const float *bias, size_t rows, size_t k, size_t panels, int accumulate) {             \
        size_t m, p, i, j;                                                                                                         \
        for (m = 0; m < rows; m++) {                                                                                               \
            for (p = 0; p < panels; p++) {                                                                                         \
                const type  *w = (const type *)weights + p * k * MAILP_LANES;                                                      \
                const float *xm = x + m * ldx;                                                                                     \
                float       *ym = y + m * ldy + p * MAILP_LANES, acc[MAILP_LANES];                                                 \
                memset(acc, 0, sizeof acc);                                                                                        \
                for (i = 0; i < k; i++, w += MAILP_LANES) {                                                                        \
                    for (j = 0; j < MAILP_LANES; j++) {                                                                            \
                        acc[j] += xm[i] * load(w + j);                                                                             \
                    }                                                                                                              \
                }                                                                                                                  \
                for (j = 0; j < MAILP_LANES; j++) {                                                                                \
                    float add = bias == NULL ? 0.0f : bias[p * MAILP_LANES + j];                                                   \
                    add       = accumulate ? ym[j] + add : add;                                                                    \
                    ym[j]     = (scale == NULL ? acc[j] : acc[j] * scale[p * MAILP_LANES + j]) + add;                              \
                }                                                                                                                  \
            }                                                                                                                      \
        }                                                                                                                          \
    }

#else

/* A tile of MR rows by NV vectors keeps its sums in registers; statements are written out per row and vector because
   compilers do not unroll reliably at -O2. Six rows by four vectors fill 24 of 32 registers (AVX-512, NEON); AVX2 has 16
   and takes two vectors. Compilers for NEON would begin with the loads of all rows, for which there are no registers then: a row's
   loads stay with it (six rows by four vectors: 12 cycles and not 15; Neoverse N1 by llvm-mca).

   MAILP_EVERY_TILE(X, a, b, attr)  X(a, b, attr, mr, nv) for 1 to 6 rows by MAILP_CONV_PANELS panels and, if these are several, by one:
                                    other numbers of panels are made up of these two, since each function takes the compiler its time
   MAILP_TILE_TABLE(name)           the functions name_<mr>x<nv> that were made so: [np > 1][mr - 1]
   MAILP_EVERY_TALL(X, a, b, attr)  of AVX-512 also tiles of 1 to 12 rows by 2 panels, for matrix products: narrow ones are as fast, and as
                                    many rows as most decisions of transformers have read each weight once (a sixteenth of their time)
   MAILP_TALL_TABLE(name)           these: [mr - 1]; not used elsewhere
   MAILP_TALL                       most rows that a tile has */
#define MAILP_TILES_WIDE(X, a, b, attr, nv) \
    X(a, b, attr, 1, nv) X(a, b, attr, 2, nv) X(a, b, attr, 3, nv) X(a, b, attr, 4, nv) X(a, b, attr, 5, nv) X(a, b, attr, 6, nv)
#define MAILP_TILE_ROW(name, nv)                                                 \
    MAILP_FN(name##_1x##nv), MAILP_FN(name##_2x##nv), MAILP_FN(name##_3x##nv),   \
    MAILP_FN(name##_4x##nv), MAILP_FN(name##_5x##nv), MAILP_FN(name##_6x##nv)
#if MAILP_PASS == MAILP_PASS_AVX512
#  define MAILP_CONV_PANELS                4
#  define MAILP_EVERY_TILE(X, a, b, attr)  MAILP_TILES_WIDE(X, a, b, attr, 1) MAILP_TILES_WIDE(X, a, b, attr, 4)
#  define MAILP_TILE_TABLE(name)           { { MAILP_TILE_ROW(name, 1) }, { MAILP_TILE_ROW(name, 4) } }
#  define MAILP_TALL                       12
#  define MAILP_EVERY_TALL(X, a, b, attr)  MAILP_TILES_WIDE(X, a, b, attr, 2) X(a, b, attr, 7, 2) X(a, b, attr, 8, 2) X(a, b, attr, 9, 2) \
                                           X(a, b, attr, 10, 2) X(a, b, attr, 11, 2) X(a, b, attr, 12, 2)
#  define MAILP_TALL_TABLE(name)           { MAILP_TILE_ROW(name, 2), MAILP_FN(name##_7x2), MAILP_FN(name##_8x2), MAILP_FN(name##_9x2), \
                                             MAILP_FN(name##_10x2), MAILP_FN(name##_11x2), MAILP_FN(name##_12x2) }
#elif MAILP_PASS == MAILP_PASS_AVX2
#  define MAILP_CONV_PANELS                1
#  define MAILP_EVERY_TILE(X, a, b, attr)  MAILP_TILES_WIDE(X, a, b, attr, 2)
#  define MAILP_TILE_TABLE(name)           { { MAILP_TILE_ROW(name, 2) } }
#else
#  define MAILP_CONV_PANELS                1
#  define MAILP_EVERY_TILE(X, a, b, attr)  MAILP_TILES_WIDE(X, a, b, attr, 4)
#  define MAILP_TILE_TABLE(name)           { { MAILP_TILE_ROW(name, 4) } }
#endif
#ifndef MAILP_TALL
#  define MAILP_TALL                       6
#  define MAILP_EVERY_TALL(X, a, b, attr)
#  define MAILP_TALL_TABLE(name)           { NULL }
#endif
#define MAILP_C1(X, r) X(r, 0)
#define MAILP_C2(X, r) MAILP_C1(X, r) X(r, 1)
#define MAILP_C3(X, r) MAILP_C2(X, r) X(r, 2)
#define MAILP_C4(X, r) MAILP_C3(X, r) X(r, 3)
#define MAILP_WAT(c)       ((size_t)((c) / MAILP_V) * k * MAILP_LANES + (size_t)((c) % MAILP_V) * MAILP_W)
#define MAILP_ZERO(r, c)   mailp_vec s##r##c = mailp_vzero();
#define MAILP_FMA(r, c)    s##r##c = mailp_vmadd(xv, w##c, s##r##c);
#define MAILP_SCALE(r, c)  s##r##c = mailp_vmul(s##r##c, mailp_vload(scale + (c) * MAILP_W));
#define MAILP_BIAS(r, c)   s##r##c = mailp_vadd(s##r##c, mailp_vload(bias + (c) * MAILP_W));
#define MAILP_OLD(r, c)    s##r##c = mailp_vadd(s##r##c, mailp_vload(y + (r) * ldy + (c) * MAILP_W));
#define MAILP_PUT(r, c)    mailp_vstore(y + (r) * ldy + (c) * MAILP_W, s##r##c);
#define MAILP_GETW_f32(r, c)   const mailp_vec w##c = mailp_vload(w + MAILP_WAT(c));
#define MAILP_GETW_bf16(r, c)  const mailp_vec w##c = mailp_vload_bf16(w + MAILP_WAT(c));
#define MAILP_GETW_int8(r, c)  const mailp_vec w##c = mailp_vload_i8(w + MAILP_WAT(c));
#define MAILP_ROW_INIT(r, n)   MAILP_C##n(MAILP_ZERO, r) const float *x##r = x + (r) * ldx;
#define MAILP_ROW_STEP(r, n)   { const mailp_vec xv = mailp_vset(x##r[i]); MAILP_C##n(MAILP_FMA, r) MAILP_IN_ORDER }
#define MAILP_ROW_SCALE(r, n)  MAILP_C##n(MAILP_SCALE, r)
#define MAILP_ROW_BIAS(r, n)   MAILP_C##n(MAILP_BIAS, r)
#define MAILP_ROW_OLD(r, n)    MAILP_C##n(MAILP_OLD, r)
#define MAILP_ROW_PUT(r, n)    MAILP_C##n(MAILP_PUT, r)

#define MAILP_GEMM_TILE(kind, type, attr, mr, nv)                                                                               \
    attr static void MAILP_FN(gemm_##kind##_##mr##x##nv)(float *y, size_t ldy, const float *x, size_t ldx, const type *w,       \
                                                         const float *scale, const float *bias, size_t k, int accumulate,       \
                                                         uintptr_t ahead, size_t ahead_step) {                                  \
        size_t i;                                                                                                               \
        MAILP_R##mr(MAILP_ROW_INIT, nv)                                                                                         \
        for (i = 0; i < k; i++, w += MAILP_LANES, ahead += ahead_step) {                                                        \
            MAILP_C##nv(MAILP_GETW_##kind, 0)                                                                                   \
            MAILP_PREFETCH(ahead);                                                                                              \
            MAILP_R##mr(MAILP_ROW_STEP, nv)                                                                                     \
        }                                                                                                                       \
        if (scale != NULL) {                                                                                                    \
            MAILP_R##mr(MAILP_ROW_SCALE, nv)                                                                                    \
        }                                                                                                                       \
        if (bias != NULL) {                                                                                                     \
            MAILP_R##mr(MAILP_ROW_BIAS, nv)                                                                                     \
        }                                                                                                                       \
        if (accumulate) {                                                                                                       \
            MAILP_R##mr(MAILP_ROW_OLD, nv)                                                                                      \
        }                                                                                                                       \
        MAILP_R##mr(MAILP_ROW_PUT, nv)                                                                                          \
    }

/* Rows are shared out evenly over tiles: 10 rows are two tiles of 5, not 6 and 4. The first tile waits for its panels to come from
   afar; while the others find them in the cache, the next panels are fetched (a tenth of the time of a D-Tr denoiser). A single tile
   fetches them as well, which gains nothing where the third-level cache holds all weights, and up to a tenth elsewhere. */
#define MAILP_GEMM_KIND(kind, type, load)                                                                                           \
    MAILP_EVERY_TILE(MAILP_GEMM_TILE, kind, type, MAILP_ATTR)                                                                       \
    MAILP_EVERY_TALL(MAILP_GEMM_TILE, kind, type, MAILP_ATTR)                                                                       \
    typedef void (*MAILP_FN(gemm_##kind##_tile))(float *y, size_t ldy, const float *x, size_t ldx, const type *w, const float *scale,\
                                                 const float *bias, size_t k, int accumulate, uintptr_t ahead,                       \
                                                 size_t ahead_step);                                                                \
    static const MAILP_FN(gemm_##kind##_tile) MAILP_FN(gemm_##kind##_tiles)[2][6] = MAILP_TILE_TABLE(gemm_##kind);                  \
    static const MAILP_FN(gemm_##kind##_tile) MAILP_FN(gemm_##kind##_tall)[12] = MAILP_TALL_TABLE(gemm_##kind);                     \
    MAILP_KERNEL void MAILP_FN(gemm_##kind)(float *y, size_t ldy, const float *x, size_t ldx, const void *weights, const float *scale,\
                                            const float *bias, size_t rows, size_t k, size_t panels, int accumulate) {              \
        const type  *w     = (const type *)weights;                                                                                 \
        const int    tall  = rows > 6 && rows <= MAILP_TALL && panels % 2 == 0;                                                     \
        const size_t tiles = tall ? 1 : (rows + 5) / 6, least = rows / MAILP_MAX(tiles, (size_t)1), more = tiles * (least + 1) - rows; \
        const size_t most  = tall ? 2 : MAILP_CONV_PANELS, start = tiles > 1;  /* the tile that begins to fetch */                  \
        size_t       p, np;                                                                                                         \
        for (p = 0; p < panels; p += np, w += np * k * MAILP_LANES) {                                                               \
            uintptr_t ahead;                                                                                                        \
            size_t    t, m = 0, next, ahead_step = 0;                                                                               \
            np    = mailp_tile_panels(panels - p, most);                                                                            \
            next  = mailp_tile_panels(panels - p - np, most) * k * MAILP_LANES * sizeof(type);                                      \
            ahead = (uintptr_t)w;                                                                                                   \
            for (t = 0; t < tiles; t++) {                                                                                           \
                const size_t mr = least + (t >= more);                                                                              \
                if (t == start) {                                                                                                   \
                    ahead     += np * k * MAILP_LANES * sizeof(type);                                                               \
                    ahead_step = mailp_pace(next / MAILP_ALIGN, (tiles - start) * k);                                               \
                }                                                                                                                   \
                const MAILP_FN(gemm_##kind##_tile) tile = np == 2 ? MAILP_FN(gemm_##kind##_tall)[mr - 1]                            \
                                                                  : MAILP_FN(gemm_##kind##_tiles)[np > 1][mr - 1];                  \
                tile(y + m * ldy + p * MAILP_LANES, ldy, x + m * ldx, ldx, w, scale == NULL ? NULL : scale + p * MAILP_LANES,       \
                     bias == NULL ? NULL : bias + p * MAILP_LANES, k, accumulate, ahead, ahead_step);                               \
                ahead += k * ahead_step;                                                                                            \
                m += mr;                                                                                                            \
            }                                                                                                                       \
        }                                                                                                                           \
    }

#endif /* MAILP_W */

MAILP_GEMM_KIND(f32, float, mailp_vload)
MAILP_GEMM_KIND(bf16, uint16_t, mailp_vload_bf16)
MAILP_GEMM_KIND(int8, int8_t, mailp_vload_i8)

#undef MAILP_GEMM_KIND

/* ---- vision ------------------------------------------------------------------------------------------------------ */

MAILP_KERNEL void MAILP_FN(add_bytes)(float *to, const unsigned char *from, float weight, size_t n, int accumulate) {
    const mailp_vec w = mailp_vset(weight);
    size_t          i;
    for (i = 0; i + MAILP_W <= n; i += MAILP_W) {
        mailp_vstore(to + i, mailp_vmadd(w, mailp_vload_u8(from + i), accumulate ? mailp_vload(to + i) : mailp_vzero()));
    }
    for (; i < n; i++) {
        to[i] = (accumulate ? to[i] : 0.0f) + weight * (float)from[i];
    }
}

MAILP_KERNEL void MAILP_FN(add_floats)(double *to, const float *from, double weight, size_t n, int accumulate) {
    size_t i = 0;
#if MAILP_PASS == MAILP_PASS_AVX2 || MAILP_PASS == MAILP_PASS_AVX512
    const __m256d w = _mm256_set1_pd(weight);
    for (; i + 4 <= n; i += 4) {
        const __m256d x = _mm256_cvtps_pd(_mm_loadu_ps(from + i));
        _mm256_storeu_pd(to + i, _mm256_fmadd_pd(w, x, accumulate ? _mm256_loadu_pd(to + i) : _mm256_setzero_pd()));
    }
#endif
    for (; i < n; i++) {
        to[i] = (accumulate ? to[i] : 0.0) + weight * (double)from[i];
    }
}

#if MAILP_PASS == MAILP_PASS_AVX2 || MAILP_PASS == MAILP_PASS_AVX512
/* whole + (rest + 1/2) / 65536 of 16 numbers, clamped to bytes; rest in the order of two unpacks */
MAILP_WORD void MAILP_FN(yuv_put)(unsigned char *to, __m256i whole, __m256i rest0, __m256i rest1) {
    const __m256i half = _mm256_set1_epi32(32768);
    const __m256i more = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(rest0, half), 16), _mm256_srai_epi32(_mm256_add_epi32(rest1, half), 16));
    const __m256i v = _mm256_add_epi16(whole, more);
    _mm_storeu_si128((__m128i *)(void *)to, _mm_packus_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}
#endif

MAILP_KERNEL void MAILP_FN(yuv)(unsigned char *rgb, const unsigned char *y, const unsigned char *uv, size_t n) {
    size_t i = 0, k;
#if MAILP_PASS == MAILP_PASS_AVX2 || MAILP_PASS == MAILP_PASS_AVX512
    /* Coefficients are split into multiples of 65536 and what 16 bits hold: 65536 + 10773, 2 * 65536 - 26475, -65536 + 12257, 2 * 65536 + 1129 */
    const __m256i red = _mm256_set1_epi32((int)(-26475u << 16 | 10773u)), green = _mm256_set1_epi32((int)(12257u << 16 | (-25675u & 0xffff)));
    const __m256i blue = _mm256_set1_epi32(1129 << 16 | 10773), luma = _mm256_set1_epi32(10773), zero = _mm256_setzero_si256();
    for (; i + 16 <= n; i += 16) {
        const __m256i both = uv == NULL ? _mm256_loadu_si256((const __m256i *)(const void *)(y + 2 * i)) : zero;
        const __m256i bright = uv == NULL ? _mm256_and_si256(both, _mm256_set1_epi16(255)) :
                               _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(y + i)));
        const __m256i colour = uv == NULL ? _mm256_srli_epi16(both, 8) : _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(uv + i)));
        const __m256i l = _mm256_sub_epi16(bright, _mm256_set1_epi16(16)), pair = _mm256_sub_epi16(colour, _mm256_set1_epi16(128));
        const __m256i u = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(pair, 0xa0), 0xa0), v = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(pair, 0xf5), 0xf5);
        const __m256i g = _mm256_madd_epi16(pair, green);
        MAILP_FN(yuv_put)(rgb + i, _mm256_add_epi16(l, _mm256_add_epi16(v, v)), _mm256_madd_epi16(_mm256_unpacklo_epi16(l, v), red),
                          _mm256_madd_epi16(_mm256_unpackhi_epi16(l, v), red));
        MAILP_FN(yuv_put)(rgb + MAILP_COLUMNS + i, _mm256_sub_epi16(l, v),
                          _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpacklo_epi16(l, zero), luma), _mm256_unpacklo_epi32(g, g)),
                          _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpackhi_epi16(l, zero), luma), _mm256_unpackhi_epi32(g, g)));
        MAILP_FN(yuv_put)(rgb + 2 * MAILP_COLUMNS + i, _mm256_add_epi16(l, _mm256_add_epi16(u, u)), _mm256_madd_epi16(_mm256_unpacklo_epi16(l, u), blue),
                          _mm256_madd_epi16(_mm256_unpackhi_epi16(l, u), blue));
    }
#endif
    for (; i < n; i += 2) {
        const unsigned char *pair = uv == NULL ? y + 2 * i + 1 : uv + i;
        const int            u = pair[0] - 128, v = pair[uv == NULL ? 2 : 1] - 128;
        for (k = i; k < i + 2; k++) {
            const int l = (y[uv == NULL ? 2 * k : k] - 16) * 76309 + 32768;
            rgb[k]                     = mailp_u8_of(l + 104597 * v);
            rgb[MAILP_COLUMNS + k]     = mailp_u8_of(l - 25675 * u - 53279 * v);
            rgb[2 * MAILP_COLUMNS + k] = mailp_u8_of(l + 132201 * u);
        }
    }
}

#if MAILP_W == 1

MAILP_KERNEL void MAILP_FN(conv)(float *y, size_t ldy, const float *x, const float *w, size_t group, const mailp_conv_shape *shape,
                                 size_t tap, size_t end, size_t pixels, size_t panels, int accumulate, uintptr_t ahead,
                                 size_t lines) {
    size_t p, m, t, b, i, j;
    (void)ahead;
    (void)lines;
    for (p = 0; p < panels; p++) {
        for (m = 0; m < pixels; m++) {
            const float *from = x + m / shape->width * shape->row_step + m % shape->width * shape->pixel_step;
            const float *at = w + p * MAILP_LANES;
            float       *to = y + p * ldy + m * MAILP_LANES, acc[MAILP_LANES];
            memset(acc, 0, sizeof acc);
            for (t = tap; t < end; t++) {
                for (b = 0; b < shape->n_blocks; b++) {
                    const float *run = from + shape->tap[t] + b * shape->plane;
                    for (i = 0; i < shape->depth; i++, at += group * MAILP_LANES) {
                        for (j = 0; j < MAILP_LANES; j++) {
                            acc[j] += run[i] * at[j];
                        }
                    }
                }
            }
            for (j = 0; j < MAILP_LANES; j++) {
                to[j] = accumulate ? acc[j] + to[j] : acc[j];
            }
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

#define MAILP_CONV_TILE(name, type, attr, mr, nv)                                                                      \
    attr static void MAILP_FN(name##_##mr##x##nv)(float *y, size_t ldy, const float *x, const size_t *at, const type *w, \
                                                  size_t step, const mailp_conv_shape *shape, size_t tap, size_t end,  \
                                                  int accumulate, uintptr_t ahead, size_t ahead_step) {                \
        const size_t depth = shape->depth, plane = shape->plane, n_blocks = shape->n_blocks;                           \
        MAILP_R##mr(MAILP_CONV_INIT, nv)                                                                               \
        for (; tap < end; tap++) {                                                                                     \
            size_t b, i0 = shape->tap[tap];                                                                            \
            for (b = 0; b < n_blocks; b++, i0 += plane) {                                                              \
                size_t i = i0, stop = i0 + depth;                                                                      \
                for (; i < stop; i++, w += step, ahead += ahead_step) {                                                \
                    MAILP_C##nv(MAILP_CONV_GETW, 0)                                                                    \
                    MAILP_PREFETCH(ahead);                                                                             \
                    MAILP_R##mr(MAILP_ROW_STEP, nv)                                                                    \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        MAILP_R##mr(MAILP_CONV_ROW_PUT, nv)                                                                            \
    }
MAILP_EVERY_TILE(MAILP_CONV_TILE, conv, float, MAILP_ATTR)
typedef void (*MAILP_FN(conv_tile))(float *y, size_t ldy, const float *x, const size_t *at, const float *w, size_t step,
                                    const mailp_conv_shape *shape, size_t tap, size_t end, int accumulate,
                                    uintptr_t ahead, size_t ahead_step);
static const MAILP_FN(conv_tile) MAILP_FN(conv_tiles)[2][6] = MAILP_TILE_TABLE(conv);

MAILP_KERNEL void MAILP_FN(conv)(float *y, size_t ldy, const float *x, const float *w, size_t group, const mailp_conv_shape *shape,
                                 size_t tap, size_t end, size_t pixels, size_t panels, int accumulate, uintptr_t ahead,
                                 size_t lines) {
    const size_t step = group * MAILP_LANES, tiles = (pixels + 5) / 6;
    const size_t steps = (end - tap) * shape->n_blocks * shape->depth, ahead_step = mailp_pace(lines, tiles * steps);
    size_t       p, np;
    for (p = 0; p < panels; p += np) {
        size_t t, m = 0, row = 0, column = 0;
        np = panels - p < MAILP_CONV_PANELS ? 1 : MAILP_CONV_PANELS;
        for (t = 0; t < tiles; t++) {
            size_t mr = (pixels - m) / (tiles - t), at[6];
            mailp_conv_places(at, mr, &row, &column, shape);
            MAILP_FN(conv_tiles)[np > 1][mr - 1](y + p * ldy + m * MAILP_LANES, ldy, x, at, w + p * MAILP_LANES, step, shape, tap, end,
                                                 accumulate, ahead, ahead_step);
            ahead += steps * ahead_step;
            m += mr;
        }
    }
}

#endif /* MAILP_W */

/* Sum over the n <= 1024 values of in, or of their squared distances from mean when squares is set. n is a multiple of 16. */
MAILP_WORD double MAILP_FN(group_sum)(const float *in, size_t n, float mean, int squares) {
    const mailp_vec vm = mailp_vset(mean);
    float           lanes[MAILP_LANES];
    double          part[4] = { 0, 0, 0, 0 };  /* four sums, so that one need not wait for the other */
    mailp_vec       s0 = mailp_vzero(), s1 = mailp_vzero(), s2 = mailp_vzero(), s3 = mailp_vzero();
    size_t          i = 0, j;
    if (squares) {
        for (; i + 4 * MAILP_W <= n; i += 4 * MAILP_W) {
            mailp_vec d0 = mailp_vsub(mailp_vload(in + i), vm);
            mailp_vec d1 = mailp_vsub(mailp_vload(in + i + MAILP_W), vm);
            mailp_vec d2 = mailp_vsub(mailp_vload(in + i + 2 * MAILP_W), vm);
            mailp_vec d3 = mailp_vsub(mailp_vload(in + i + 3 * MAILP_W), vm);
            s0 = mailp_vmadd(d0, d0, s0);
            s1 = mailp_vmadd(d1, d1, s1);
            s2 = mailp_vmadd(d2, d2, s2);
            s3 = mailp_vmadd(d3, d3, s3);
        }
        for (; i < n; i += MAILP_W) {
            mailp_vec d0 = mailp_vsub(mailp_vload(in + i), vm);
            s0 = mailp_vmadd(d0, d0, s0);
        }
    } else {
        for (; i + 4 * MAILP_W <= n; i += 4 * MAILP_W) {
            s0 = mailp_vadd(s0, mailp_vload(in + i));
            s1 = mailp_vadd(s1, mailp_vload(in + i + MAILP_W));
            s2 = mailp_vadd(s2, mailp_vload(in + i + 2 * MAILP_W));
            s3 = mailp_vadd(s3, mailp_vload(in + i + 3 * MAILP_W));
        }
        for (; i < n; i += MAILP_W) {
            s0 = mailp_vadd(s0, mailp_vload(in + i));
        }
    }
    memset(lanes, 0, sizeof lanes);
    mailp_vstore(lanes, mailp_vadd(mailp_vadd(s0, s1), mailp_vadd(s2, s3)));
    for (j = 0; j < MAILP_LANES; j += 4) {
        part[0] += (double)lanes[j];
        part[1] += (double)lanes[j + 1];
        part[2] += (double)lanes[j + 2];
        part[3] += (double)lanes[j + 3];
    }
    return (part[0] + part[1]) + (part[2] + part[3]);
}

/* A run of values stays in the first-level cache between its two sums, so that a large map is read from farther away once. */
MAILP_KERNEL void MAILP_FN(moments)(mailp_moments *sum, const float *in, size_t n) {
    const size_t most = 64 * MAILP_LANES;
    size_t       i, run;
    for (i = 0; i < n; i += run) {
        double own, step, before = (double)sum->n;
        run      = MAILP_MIN(n - i, most);
        own      = MAILP_FN(group_sum)(in + i, run, 0.0f, 0) / (double)run;
        step     = own - sum->mean;
        sum->n  += run;
        sum->mean    += step * (double)run / (double)sum->n;
        sum->squares += MAILP_FN(group_sum)(in + i, run, (float)own, 1) + step * step * before * (double)run / (double)sum->n;
    }
}

MAILP_KERNEL void MAILP_FN(group_norm)(float *out, size_t row, const float *in, const float *skip, const float *gamma,
                                       const float *beta, size_t h, size_t w, int relu) {
    const mailp_vec floor_ = mailp_vset(relu ? 0.0f : -FLT_MAX);
    mailp_moments   sum = { 0, 0, 0 };
    mailp_vec       vm, rstd;
    size_t          v, y, x;
    MAILP_FN(moments)(&sum, in, h * w * MAILP_LANES);
    vm   = mailp_vset((float)sum.mean);
    rstd = mailp_vset(mailp_moments_rstd(&sum));
    for (y = 0; y < h; y++) {
        for (v = 0; v < MAILP_LANES; v += MAILP_W) {
            const mailp_vec a = mailp_vmul(rstd, mailp_vload(gamma + v)), b = mailp_vload(beta + v);
            const float    *from = in + y * w * MAILP_LANES + v;
            float          *to   = out + y * row + v;
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

/* +-1 with gamma's sign */
MAILP_WORD void MAILP_FN(signs)(float *sign, const float *gamma) {
    size_t j;
    for (j = 0; j < MAILP_LANES; j++) {
        sign[j] = gamma[j] < 0.0f ? -1.0f : 1.0f;
    }
}

MAILP_KERNEL void MAILP_FN(pool)(float *out, const float *r0, const float *r1, const float *r2, const float *gamma, size_t w) {
    float  sign[MAILP_LANES];
    size_t x, v;
    MAILP_FN(signs)(sign, gamma);
#define MAILP_SIGNED(row, c) mailp_vmul(s, mailp_vload((row) + (c) + v))
    for (v = 0; v < MAILP_LANES; v += MAILP_W) {
        const mailp_vec s = mailp_vload(sign + v);
        mailp_vec       shared = mailp_vset(-FLT_MAX);  /* of the column that two windows share */
        for (x = 0; x < (w + 1) / 2; x++) {
            /* a column outside is replaced as well */
            const size_t    c1 = 2 * x * MAILP_LANES, c2 = 2 * x + 1 < w ? c1 + MAILP_LANES : c1;
            const mailp_vec middle = mailp_vmax(mailp_vmax(MAILP_SIGNED(r0, c1), MAILP_SIGNED(r1, c1)), MAILP_SIGNED(r2, c1));
            const mailp_vec right  = mailp_vmax(mailp_vmax(MAILP_SIGNED(r0, c2), MAILP_SIGNED(r1, c2)), MAILP_SIGNED(r2, c2));
            mailp_vstore(out + x * MAILP_LANES + v, mailp_vmax(mailp_vmax(middle, right), shared));
            shared = right;
        }
    }
#undef MAILP_SIGNED
}

MAILP_KERNEL void MAILP_FN(pool_norm)(float *out, size_t row, const mailp_moments *moments, const float *gamma, const float *beta, size_t h,
                                      size_t w) {
    const mailp_vec vm = mailp_vset((float)moments->mean), rstd = mailp_vset(mailp_moments_rstd(moments));
    float           sign[MAILP_LANES];
    size_t          y, x, v;
    MAILP_FN(signs)(sign, gamma);
    for (y = 0; y < h; y++, out += row) {
        for (v = 0; v < MAILP_LANES; v += MAILP_W) {
            const mailp_vec s = mailp_vload(sign + v), a = mailp_vmul(rstd, mailp_vload(gamma + v)), b = mailp_vload(beta + v);
            for (x = v; x < w * MAILP_LANES; x += MAILP_LANES) {
                const mailp_vec most = mailp_vmul(s, mailp_vload(out + x));
                mailp_vstore(out + x, mailp_vmax(mailp_vzero(), mailp_vmadd(mailp_vsub(most, vm), a, b)));
            }
        }
    }
}

/* Winograd's convolution: tile x tile outputs of a 3 x 3 convolution from n x n products per channel pair, n = tile + 2:

       y = At [ sum over channels of (G g Gt) * (Bt d B) ] A        (* element by element)

   d is an n x n piece of the input, g the 3 x 3 weights. G g Gt is n * n / 9 times as large as g, so it is made where it is
   used, a piece of the second-level cache at a time: memory is slower than that arithmetic. Bt, G and At follow from the points 0, 1, -1,
   infinity for tile 2 and 0, +-sqrt(1/2), +-sqrt(2), infinity for tile 4; those round better than 0, +-1, +-2.

   Maps of few pixels have few tiles to use G g Gt on. For them there are tiles of one row, `tile` 1: four outputs from six products
   for each row of g, whose three rows stay taps of a convolution. G g is only twice as large as g.

   A convolution of stride 2 reads its input's pixels by phases: in one dimension the even ones meet the middle weight alone and the
   odd ones d0, d1, d2 the two others, as a convolution of two taps, by the points 0, 1, infinity:

       y0 = e0 g1 + (d0 - d1) g0 + d1 (g0 + g2)        y1 = e1 g1 + (d2 - d1) g2 + d1 (g0 + g2)

   In both dimensions 2 x 2 outputs take 25 products instead of 36, with 16 planes of weights.

   The stem, 7 x 7 of stride 2, is likewise a sum of four convolutions of stride 1, of 4 or 3 weights a side, one for each phase of the
   picture: the pixels of even or odd rows and of even or odd columns. By the six points of tile 4 they give 3 x 3 outputs from 363
   products for the three colours instead of 1323. Its weights are so few that G g Gt is made when they are loaded.

   Source:  A. Lavin, S. Gray, arXiv 1509.09308.   Numbers: see test_vision; tile 4 loses about a bit and a half. */

/* Weight i of a packed array, as float */
MAILP_WORD mailp_vec MAILP_FN(weight)(const void *w, size_t i, mail_weights type) {
    return type == MAIL_WEIGHTS_F32 ? mailp_vload((const float *)w + i) :
           type == MAIL_WEIGHTS_BF16 ? mailp_vload_bf16((const uint16_t *)w + i) : mailp_vload_i8((const int8_t *)w + i);
}

/* The same with the scale of its channel, scale[channel], if it is of int8 */
MAILP_WORD mailp_vec MAILP_FN(scaled_weight)(const void *w, size_t i, const float *scale, size_t channel, mail_weights type) {
    const mailp_vec v = MAILP_FN(weight)(w, i, type);
    return type == MAIL_WEIGHTS_INT8 ? mailp_vmul(v, mailp_vload(scale + channel)) : v;
}

MAILP_KERNEL void MAILP_FN(widen)(float *to, const void *from, const float *scale, size_t n, size_t group, size_t panels,
                                  mail_weights type) {
    size_t k, j, count = panels * MAILP_LANES;
    for (k = 0; k < n; k++, to += count) {
        const size_t at = k * group * MAILP_LANES;
        if (type == MAIL_WEIGHTS_INT8) {
            for (j = 0; j < count; j += MAILP_W) {
                mailp_vstore(to + j, mailp_vmul(MAILP_FN(weight)(from, at + j, MAIL_WEIGHTS_INT8), mailp_vload(scale + j)));
            }
        } else {
            for (j = 0; j < count; j += MAILP_W) {
                mailp_vstore(to + j, MAILP_FN(weight)(from, at + j, MAIL_WEIGHTS_BF16));
            }
        }
    }
}

/* One dimension of G g: three vectors to six, apart by os, of which the first and the last are g0 and g2 themselves. What all
   of a row have in common is left to At: rows 1 and 2 are -3 times, 3 and 4 are 6 times G's. */
MAILP_WORD void MAILP_FN(winograd4_weights_inner)(float *o, size_t os, mailp_vec g0, mailp_vec g1, mailp_vec g2) {
    const mailp_vec two = mailp_vset(2.0f), root = mailp_vset(1.41421356f);
    const mailp_vec s = mailp_vmadd(two, g0, g2), t = mailp_vmadd(two, g2, g0);
    mailp_vstore(o + os, mailp_vmadd(root, g1, s));
    mailp_vstore(o + 2 * os, mailp_vnmadd(root, g1, s));
    mailp_vstore(o + 3 * os, mailp_vmadd(root, g1, t));
    mailp_vstore(o + 4 * os, mailp_vnmadd(root, g1, t));
}

MAILP_WORD void MAILP_FN(winograd4_weights1)(float *o, size_t os, mailp_vec g0, mailp_vec g1, mailp_vec g2) {
    mailp_vstore(o, g0);
    MAILP_FN(winograd4_weights_inner)(o, os, g0, g1, g2);
    mailp_vstore(o + 5 * os, g2);
}

/* Both dimensions; g of three rows */
MAILP_WORD void MAILP_FN(winograd4_weights)(float *o, size_t os, const mailp_vec *g) {
    const mailp_vec two = mailp_vset(2.0f), root = mailp_vset(1.41421356f);
    const mailp_vec s0 = mailp_vmadd(two, g[0], g[6]), s1 = mailp_vmadd(two, g[1], g[7]), s2 = mailp_vmadd(two, g[2], g[8]);
    const mailp_vec t0 = mailp_vmadd(two, g[6], g[0]), t1 = mailp_vmadd(two, g[7], g[1]), t2 = mailp_vmadd(two, g[8], g[2]);
    MAILP_FN(winograd4_weights1)(o, os, g[0], g[1], g[2]);
    MAILP_FN(winograd4_weights1)(o + 6 * os, os, mailp_vmadd(root, g[3], s0), mailp_vmadd(root, g[4], s1), mailp_vmadd(root, g[5], s2));
    MAILP_FN(winograd4_weights1)(o + 12 * os, os, mailp_vnmadd(root, g[3], s0), mailp_vnmadd(root, g[4], s1), mailp_vnmadd(root, g[5], s2));
    MAILP_FN(winograd4_weights1)(o + 18 * os, os, mailp_vmadd(root, g[3], t0), mailp_vmadd(root, g[4], t1), mailp_vmadd(root, g[5], t2));
    MAILP_FN(winograd4_weights1)(o + 24 * os, os, mailp_vnmadd(root, g[3], t0), mailp_vnmadd(root, g[4], t1), mailp_vnmadd(root, g[5], t2));
    MAILP_FN(winograd4_weights1)(o + 30 * os, os, g[6], g[7], g[8]);
}

MAILP_WORD void MAILP_FN(winograd2_weights1)(float *o, size_t os, mailp_vec g0, mailp_vec g1, mailp_vec g2) {
    const mailp_vec half = mailp_vset(0.5f), s = mailp_vmul(half, mailp_vadd(g0, g2)), t = mailp_vmul(half, g1);
    mailp_vstore(o, g0);
    mailp_vstore(o + os, mailp_vadd(s, t));
    mailp_vstore(o + 2 * os, mailp_vsub(s, t));
    mailp_vstore(o + 3 * os, g2);
}

MAILP_WORD void MAILP_FN(winograd2_weights)(float *o, size_t os, const mailp_vec *g) {
    const mailp_vec half = mailp_vset(0.5f);
    const mailp_vec s0 = mailp_vmul(half, mailp_vadd(g[0], g[6])), t0 = mailp_vmul(half, g[3]);
    const mailp_vec s1 = mailp_vmul(half, mailp_vadd(g[1], g[7])), t1 = mailp_vmul(half, g[4]);
    const mailp_vec s2 = mailp_vmul(half, mailp_vadd(g[2], g[8])), t2 = mailp_vmul(half, g[5]);
    MAILP_FN(winograd2_weights1)(o, os, g[0], g[1], g[2]);
    MAILP_FN(winograd2_weights1)(o + 4 * os, os, mailp_vadd(s0, t0), mailp_vadd(s1, t1), mailp_vadd(s2, t2));
    MAILP_FN(winograd2_weights1)(o + 8 * os, os, mailp_vsub(s0, t0), mailp_vsub(s1, t1), mailp_vsub(s2, t2));
    MAILP_FN(winograd2_weights1)(o + 12 * os, os, g[6], g[7], g[8]);
}

/* One dimension by phases: (g0, g0 + g2, g2, g1) */
MAILP_WORD void MAILP_FN(phases_weights1)(float *o, size_t os, mailp_vec g0, mailp_vec g1, mailp_vec g2) {
    mailp_vstore(o, g0);
    mailp_vstore(o + os, mailp_vadd(g0, g2));
    mailp_vstore(o + 2 * os, g2);
    mailp_vstore(o + 3 * os, g1);
}

MAILP_WORD void MAILP_FN(phases_weights)(float *o, size_t os, const mailp_vec *g) {
    MAILP_FN(phases_weights1)(o, os, g[0], g[1], g[2]);
    MAILP_FN(phases_weights1)(o + 4 * os, os, mailp_vadd(g[0], g[6]), mailp_vadd(g[1], g[7]), mailp_vadd(g[2], g[8]));
    MAILP_FN(phases_weights1)(o + 8 * os, os, g[6], g[7], g[8]);
    MAILP_FN(phases_weights1)(o + 12 * os, os, g[3], g[4], g[5]);
}

MAILP_WORD void MAILP_FN(winograd_weights_of)(float *u, const void *w, const float *scale, size_t c_in, size_t group, size_t panels,
                                              size_t tile, mail_weights type) {
    size_t c, p, lane;
    for (c = 0; c < c_in; c++) {
        for (p = 0; p < panels; p++) {
            for (lane = 0; lane < MAILP_LANES; lane += MAILP_W) {
                const size_t at = (c * group + p) * 9 * MAILP_LANES + lane, channel = p * MAILP_LANES + lane;
                float       *o = u + (c * panels + p) * MAILP_LANES + lane;
                mailp_vec    g[9];
#define MAILP_GET_TAP(i) g[i] = MAILP_FN(scaled_weight)(w, at + (i) * MAILP_LANES, scale, channel, type);
                MAILP_GET_TAP(0) MAILP_GET_TAP(1) MAILP_GET_TAP(2)
                MAILP_GET_TAP(3) MAILP_GET_TAP(4) MAILP_GET_TAP(5)
                MAILP_GET_TAP(6) MAILP_GET_TAP(7) MAILP_GET_TAP(8)
#undef MAILP_GET_TAP
                if (tile == 4) {
                    MAILP_FN(winograd4_weights)(o, MAILP_U_PLANE(MAILP_CONV_PANELS), g);
                } else if (tile == MAILP_PHASES) {
                    MAILP_FN(phases_weights)(o, MAILP_U_PLANE(MAILP_CONV_PANELS), g);
                } else {
                    MAILP_FN(winograd2_weights)(o, MAILP_U_PLANE(MAILP_CONV_PANELS), g);
                }
            }
        }
    }
}

/* u[i * n + j][c][p][16] = (G g Gt)[i][j];  u [n * n] planes, MAILP_U_PLANE floats apart, of [c_in][panels][16];
   w [c_in][group][9][16], of which the first `panels` are used;  scale [panels][16] for int8 */
MAILP_KERNEL void MAILP_FN(winograd_weights)(float *u, const void *w, const float *scale, size_t c_in, size_t group, size_t panels,
                                             size_t tile, mail_weights type) {
    if (type == MAIL_WEIGHTS_F32) {
        MAILP_FN(winograd_weights_of)(u, w, scale, c_in, group, panels, tile, MAIL_WEIGHTS_F32);
    } else if (type == MAIL_WEIGHTS_BF16) {
        MAILP_FN(winograd_weights_of)(u, w, scale, c_in, group, panels, tile, MAIL_WEIGHTS_BF16);
    } else {
        MAILP_FN(winograd_weights_of)(u, w, scale, c_in, group, panels, tile, MAIL_WEIGHTS_INT8);
    }
}

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
    const mailp_vec third = mailp_vset(1.0f / 3), sixth = mailp_vset(1.0f / 6);
    const mailp_vec a = mailp_vset(0.23570226f), b = mailp_vset(0.11785113f), c = mailp_vset(0.47140452f);  /* sqrt(2) / 6, / 12, / 3 */
    const mailp_vec m1 = mailp_vload(m + ms), m2 = mailp_vload(m + 2 * ms), m3 = mailp_vload(m + 3 * ms), m4 = mailp_vload(m + 4 * ms);
    const mailp_vec s = mailp_vadd(m1, m2), d = mailp_vsub(m1, m2), t = mailp_vadd(m3, m4), e = mailp_vsub(m3, m4);
    mailp_vstore(o, mailp_vnmadd(third, s, mailp_vmadd(sixth, t, mailp_vload(m))));
    mailp_vstore(o + os, mailp_vmul(a, mailp_vsub(e, d)));
    mailp_vstore(o + 2 * os, mailp_vnmadd(sixth, s, mailp_vmul(third, t)));
    mailp_vstore(o + 3 * os, mailp_vnmadd(b, d, mailp_vmadd(c, e, mailp_vload(m + 5 * ms))));
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

/* One row of up to MAILP_STRIP tiles of 6 x 6 inputs, `wide` columns apart, both dimensions: first down the columns, which neighbouring
   tiles share, then along the rows. */
#define MAILP_STRIP 4
MAILP_WORD void MAILP_FN(winograd4_in)(float *v, size_t plane, const float *d, size_t row, size_t wide, size_t tiles) {
    enum { COLUMNS = (4 * MAILP_STRIP + 2) * MAILP_W };
    float  strip[6 * COLUMNS];
    size_t x, i;
    for (x = 0; x < wide * tiles + 6 - wide; x++) {
        MAILP_FN(winograd4_in1)(strip + x * MAILP_W, COLUMNS, d + x * MAILP_LANES, row);
    }
    for (i = 0; i < 6; i++, v += 6 * plane) {
        for (x = 0; x < tiles; x++) {
            MAILP_FN(winograd4_in1)(v + x * MAILP_LANES, plane, strip + i * COLUMNS + wide * x * MAILP_W, MAILP_W);
        }
    }
}

MAILP_WORD void MAILP_FN(winograd2_in)(float *o, size_t os, const float *d, size_t row) {
    float  tmp[16 * MAILP_W];
    size_t i;
    for (i = 0; i < 4; i++) {
        MAILP_FN(winograd2_in1)(tmp + i * MAILP_W, 4 * MAILP_W, d + i * MAILP_LANES, row);
    }
    for (i = 0; i < 4; i++) {
        MAILP_FN(winograd2_in1)(o + 4 * i * os, os, tmp + 4 * i * MAILP_W, MAILP_W);
    }
}

/* One dimension by phases: five vectors to (d0 - d2, d2, d4 - d2, d1, d3) */
MAILP_WORD void MAILP_FN(phases_in1)(float *o, size_t os, mailp_vec d0, mailp_vec d1, mailp_vec d2, mailp_vec d3, mailp_vec d4) {
    mailp_vstore(o, mailp_vsub(d0, d2));
    mailp_vstore(o + os, d2);
    mailp_vstore(o + 2 * os, mailp_vsub(d4, d2));
    mailp_vstore(o + 3 * os, d1);
    mailp_vstore(o + 4 * os, d3);
}

MAILP_WORD void MAILP_FN(phases_in)(float *o, size_t os, const float *d, size_t row) {
#define MAILP_GET(y, x)         mailp_vload(d + (y) * row + (x) * MAILP_LANES)
#define MAILP_GET_LESS(y, x)    mailp_vsub(MAILP_GET(y, x), MAILP_GET(2, x))
#define MAILP_PHASE(i, get, y)  MAILP_FN(phases_in1)(o + 5 * i * os, os, get(y, 0), get(y, 1), get(y, 2), get(y, 3), get(y, 4));
    MAILP_PHASE(0, MAILP_GET_LESS, 0)
    MAILP_PHASE(1, MAILP_GET, 2)
    MAILP_PHASE(2, MAILP_GET_LESS, 4)
    MAILP_PHASE(3, MAILP_GET, 1)
    MAILP_PHASE(4, MAILP_GET, 3)
#undef MAILP_GET
#undef MAILP_GET_LESS
#undef MAILP_PHASE
}

/* v[i * n + j][t][16] = (Bt d B)[i][j] of every tile t of a block x, whose rows are `row` floats apart and whose border is
   included;  v [n * n] planes, `plane` floats apart, of [tiles][16]  (tile 1: 6 planes of [tiles_h + 2][tiles_w][16]; by phases:
   25 planes, tiles are 4 pixels apart) */
MAILP_KERNEL void MAILP_FN(winograd_in)(float *v, size_t plane, const float *x, size_t row, size_t tiles_h, size_t tiles_w, size_t tile) {
    const size_t rows = tile == 1 ? tiles_h + 2 : tiles_h, stride = tile == MAILP_PHASES ? 2 : 1;
    const size_t high = stride * mailp_tile_height(tile), wide = stride * mailp_tile_width(tile);
    size_t       lane, ty, tx;
    for (ty = 0; ty < rows; ty++, x += high * row, v += tiles_w * MAILP_LANES) {
        for (tx = 0; tx < tiles_w; tx += tile == 4 || tile == MAILP_STEM ? MAILP_STRIP : 1) {
            for (lane = 0; lane < MAILP_LANES; lane += MAILP_W) {
                const float *d = x + wide * tx * MAILP_LANES + lane;
                float       *o = v + tx * MAILP_LANES + lane;
                if (tile == 1) {
                    MAILP_FN(winograd4_in1)(o, plane, d, MAILP_LANES);
                } else if (tile == 4) {
                    MAILP_FN(winograd4_in)(o, plane, d, row, 4, MAILP_MIN(tiles_w - tx, (size_t)MAILP_STRIP));
                } else if (tile == MAILP_STEM) {
                    MAILP_FN(winograd4_in)(o, plane, d, row, 3, MAILP_MIN(tiles_w - tx, (size_t)MAILP_STRIP));
                } else if (tile == MAILP_PHASES) {
                    MAILP_FN(phases_in)(o, plane, d, row);
                } else {
                    MAILP_FN(winograd2_in)(o, plane, d, row);
                }
            }
        }
    }
}

/* One dimension by phases: (m0 + m1 + m3, m1 + m2 + m4) */
MAILP_WORD void MAILP_FN(phases_out1)(float *o, size_t os, const float *m, size_t ms) {
    const mailp_vec m1 = mailp_vload(m + ms);
    mailp_vstore(o, mailp_vadd(mailp_vadd(mailp_vload(m), m1), mailp_vload(m + 3 * ms)));
    mailp_vstore(o + os, mailp_vadd(mailp_vadd(m1, mailp_vload(m + 2 * ms)), mailp_vload(m + 4 * ms)));
}

/* One dimension of the stem's At m: six vectors to three. The weights hold sqrt(1/2) for m1 and m2 and sqrt(2) for m3 and m4. */
MAILP_WORD void MAILP_FN(stem_out1)(float *o, size_t os, const float *m, size_t ms) {
    const mailp_vec half = mailp_vset(0.70710678f), two = mailp_vset(1.41421356f);
    const mailp_vec m1 = mailp_vload(m + ms), m2 = mailp_vload(m + 2 * ms), m3 = mailp_vload(m + 3 * ms), m4 = mailp_vload(m + 4 * ms);
    const mailp_vec s = mailp_vadd(m1, m2), t = mailp_vadd(m3, m4);
    mailp_vstore(o, mailp_vmadd(two, s, mailp_vmadd(half, t, mailp_vload(m))));
    mailp_vstore(o + os, mailp_vadd(mailp_vsub(m1, m2), mailp_vsub(m3, m4)));
    mailp_vstore(o + 2 * os, mailp_vmadd(half, s, mailp_vmadd(two, t, mailp_vload(m + 5 * ms))));
}

/* Both dimensions: m of n * n planes to `high` rows of outputs, written out, since loops would not be unrolled */
#define MAILP_OUT_COLUMN(c, name)  MAILP_FN(name##_out1)(tmp + (c) * MAILP_W, N * MAILP_W, m + (c) * PLANE, N * PLANE);
#define MAILP_OUT_ROW(r, name)     MAILP_FN(name##_out1)(o + (r) * row, MAILP_LANES, tmp + (r) * N * MAILP_W, MAILP_W);
#define MAILP_OUT(name, n, high)                                              \
    MAILP_WORD void MAILP_FN(name##_out)(float *o, size_t row, const float *m) { \
        enum { N = n, PLANE = MAILP_M_PLANE(MAILP_CONV_PANELS) };             \
        float tmp[high * N * MAILP_W];                                        \
        MAILP_R##n(MAILP_OUT_COLUMN, name)                                    \
        MAILP_R##high(MAILP_OUT_ROW, name)                                    \
    }
MAILP_OUT(winograd4, 6, 4)
MAILP_OUT(winograd2, 4, 2)
MAILP_OUT(phases, 5, 2)
MAILP_OUT(stem, 6, 3)

MAILP_WORD void MAILP_FN(winograd_out_tile)(float *o, size_t row, const float *m, size_t tile) {
    if (tile == 4) {
        MAILP_FN(winograd4_out)(o, row, m);
    } else if (tile == 2) {
        MAILP_FN(winograd2_out)(o, row, m);
    } else if (tile == MAILP_PHASES) {
        MAILP_FN(phases_out)(o, row, m);
    } else if (tile == MAILP_STEM) {
        MAILP_FN(stem_out)(o, row, m);
    } else {
        MAILP_FN(winograd4_out1)(o, MAILP_LANES, m, MAILP_M_PLANE(MAILP_CONV_PANELS));
    }
}

/* y [h][w][16] gets tiles begin..end-1, cut off at h and w;  m [n * n] planes, MAILP_M_PLANE floats apart, of [end - begin][16] */
MAILP_KERNEL void MAILP_FN(winograd_out)(float *y, const float *m, size_t h, size_t w, size_t tile, size_t tiles_w, size_t begin,
                                         size_t end) {
    const size_t high = mailp_tile_height(tile), wide = mailp_tile_width(tile);
    float        out[4 * 4 * MAILP_LANES];
    size_t       lane, t, i, j;
    for (t = begin; t < end; t++) {
        const size_t y0 = t / tiles_w * high, x0 = t % tiles_w * wide;
        const size_t rows = MAILP_MIN(high, h - y0), columns = MAILP_MIN(wide, w - x0);
        for (lane = 0; lane < MAILP_LANES; lane += MAILP_W) {
            const float *from = m + (t - begin) * MAILP_LANES + lane;
            float       *to = y + (y0 * w + x0) * MAILP_LANES + lane;
            if (rows == high && columns == wide) {
                MAILP_FN(winograd_out_tile)(to, w * MAILP_LANES, from, tile);
                continue;
            }
            MAILP_FN(winograd_out_tile)(out, 4 * MAILP_LANES, from, tile);
            for (i = 0; i < rows; i++) {
                for (j = 0; j < columns; j++) {
                    mailp_vstore(to + (i * w + j) * MAILP_LANES, mailp_vload(out + (4 * i + j) * MAILP_LANES));
                }
            }
        }
    }
}

#if MAILP_W > 1

/* The products of one plane with one group of panels. They are a convolution in which all places are apart by constants: with one pointer
   for all pixels and four steps written out they take 10 to 20 % less time than by conv, most where a neighbour on the same core leaves
   few instructions a cycle. (Zen 3; AVX-512 has 34 instructions a step for 40.) */
#if MAILP_W == 8
#  define MAILP_PRODUCTS_VECS(X, r)   MAILP_C2(X, r)
#else
#  define MAILP_PRODUCTS_VECS(X, r)   MAILP_C4(X, r)
#endif
#define MAILP_PRODUCTS_STRIDE         (MAILP_CONV_PANELS * MAILP_LANES)  /* of a step in w */
#define MAILP_PRODUCTS_INIT(r, n)     MAILP_PRODUCTS_VECS(MAILP_ZERO, r)
#define MAILP_PRODUCTS_GETW(i, c)     const mailp_vec w##c = mailp_vload(w + (i) * MAILP_PRODUCTS_STRIDE + (c) * MAILP_W);
#define MAILP_PRODUCTS_ROW(r, i)      { const mailp_vec xv = mailp_vset(x[(r) * MAILP_LANES + (i)]); MAILP_PRODUCTS_VECS(MAILP_FMA, r) MAILP_IN_ORDER }
#define MAILP_PRODUCTS_STEP(mr, i)    { MAILP_PRODUCTS_VECS(MAILP_PRODUCTS_GETW, i) MAILP_R##mr(MAILP_PRODUCTS_ROW, i) }
#define MAILP_PRODUCTS_ROW_PUT(r, n)  MAILP_PRODUCTS_VECS(MAILP_CONV_PUT, r)
#define MAILP_PRODUCTS_TILE(mr)                                                                                             \
    MAILP_KERNEL void MAILP_FN(products_##mr)(float *y, size_t ldy, const float *x, size_t stride, size_t runs, const float *w, \
                                              int accumulate, uintptr_t ahead, size_t ahead_step) {                         \
        size_t t, i;                                                                                                        \
        MAILP_R##mr(MAILP_PRODUCTS_INIT, 0)                                                                                 \
        (void)ldy;                                                                                                          \
        for (t = 0; t < runs; t++, x += stride - MAILP_LANES) {                                                             \
            for (i = 0; i < MAILP_LANES; i += 4, x += 4, w += 4 * MAILP_PRODUCTS_STRIDE, ahead += 4 * ahead_step) {         \
                MAILP_PREFETCH(ahead);                                                                                      \
                MAILP_PRODUCTS_STEP(mr, 0)                                                                                  \
                MAILP_PRODUCTS_STEP(mr, 1)                                                                                  \
                MAILP_PREFETCH(ahead + 2 * ahead_step);                                                                     \
                MAILP_PRODUCTS_STEP(mr, 2)                                                                                  \
                MAILP_PRODUCTS_STEP(mr, 3)                                                                                  \
            }                                                                                                               \
        }                                                                                                                   \
        MAILP_R##mr(MAILP_PRODUCTS_ROW_PUT, 0)                                                                              \
    }
MAILP_PRODUCTS_TILE(1)
MAILP_PRODUCTS_TILE(2)
MAILP_PRODUCTS_TILE(3)
MAILP_PRODUCTS_TILE(4)
MAILP_PRODUCTS_TILE(5)
MAILP_PRODUCTS_TILE(6)

typedef void (*MAILP_FN(products_tile))(float *y, size_t ldy, const float *x, size_t stride, size_t runs, const float *w, int accumulate,
                                        uintptr_t ahead, size_t ahead_step);

MAILP_KERNEL void MAILP_FN(winograd_products)(float *y, size_t ldy, const float *x, size_t stride, size_t runs, const float *w, size_t pixels,
                                              int accumulate, uintptr_t ahead, size_t ahead_step) {
    static const MAILP_FN(products_tile) tile[6] = { MAILP_FN(products_1), MAILP_FN(products_2), MAILP_FN(products_3),
                                                     MAILP_FN(products_4), MAILP_FN(products_5), MAILP_FN(products_6) };
    uint32_t left, tiles, mr;
    for (left = (uint32_t)pixels, tiles = (left + 5) / 6; tiles > 0; left -= mr, tiles--) {
        mr = left / tiles;
        tile[mr - 1](y, ldy, x, stride, runs, w, accumulate, ahead, ahead_step);
        y     += mr * MAILP_LANES;
        x     += mr * MAILP_LANES;
        ahead += runs * MAILP_LANES * ahead_step;
    }
}

/* The stem's sums are so short that all of one is written out: with a loop over the inputs they take 1.3 to 1.5 times as long. */
#define MAILP_STEM_STEPS(mr, i)     MAILP_PRODUCTS_STEP(mr, i) MAILP_PRODUCTS_STEP(mr, (i) + 1) \
                                    MAILP_PRODUCTS_STEP(mr, (i) + 2) MAILP_PRODUCTS_STEP(mr, (i) + 3)
#define MAILP_STEM_STEPS_8(mr)      MAILP_STEM_STEPS(mr, 0) MAILP_STEM_STEPS(mr, 4)
#define MAILP_STEM_STEPS_12(mr)     MAILP_STEM_STEPS_8(mr) MAILP_STEM_STEPS(mr, 8)
#define MAILP_STEM_PUT(r, c)        mailp_vstore(y + (size_t)((c) / MAILP_V) * ldy + (r) * MAILP_LANES + ((c) % MAILP_V) * MAILP_W, s##r##c);
#define MAILP_STEM_ROW_PUT(r, n)    MAILP_PRODUCTS_VECS(MAILP_STEM_PUT, r)
#define MAILP_STEM_TILES(mr, depth)                                                                                              \
    MAILP_KERNEL void MAILP_FN(stem_##mr##x##depth)(float *y, size_t ldy, const float *x, const float *w, size_t tiles) {        \
        (void)ldy;                                                                                                               \
        for (; tiles > 0; tiles--, x += (mr) * MAILP_LANES, y += (mr) * MAILP_LANES) {                                           \
            MAILP_R##mr(MAILP_PRODUCTS_INIT, 0)                                                                                  \
            MAILP_STEM_STEPS_##depth(mr)                                                                                         \
            MAILP_R##mr(MAILP_STEM_ROW_PUT, 0)                                                                                   \
        }                                                                                                                        \
    }
MAILP_STEM_TILES(5, 8)
MAILP_STEM_TILES(6, 8)
MAILP_STEM_TILES(5, 12)
MAILP_STEM_TILES(6, 12)

MAILP_KERNEL void MAILP_FN(stem_products)(float *y, size_t ldy, const float *x, const float *w, size_t depth, size_t pixels) {
    const size_t n = mailp_stem_pixels(pixels), tiles = (n + 5) / 6, sixes = n - 5 * tiles, at = sixes * 6 * MAILP_LANES;
    if (depth == 8) {
        MAILP_FN(stem_6x8)(y, ldy, x, w, sixes);
        MAILP_FN(stem_5x8)(y + at, ldy, x + at, w, tiles - sixes);
    } else {
        MAILP_FN(stem_6x12)(y, ldy, x, w, sixes);
        MAILP_FN(stem_5x12)(y + at, ldy, x + at, w, tiles - sixes);
    }
}
#  undef MAILP_PRODUCTS_VECS
#  undef MAILP_PRODUCTS_STRIDE
#  define MAILP_WINOGRAD_PRODUCTS MAILP_FN(winograd_products)
#  define MAILP_STEM_PRODUCTS     MAILP_FN(stem_products)

/* One dimension of G g: u[j][i] = (G g)[j] of the three columns g0[i], g1[i], g2[i], which are MAILP_COLUMN weights of one block of 16 channels
   and one panel, whose scales are `scale` if they are int8, or those of winograd_quad;
   u [6][column];  w [3 columns][column].  Of float32 weights planes 0 and 5 are left out: they are columns 0 and 2 of w. */
MAILP_WORD void MAILP_FN(winograd_rows_weights_of)(float *u, const void *w, size_t column, const float *scale, mail_weights type,
                                                   uintptr_t ahead, size_t ahead_step) {
    size_t i;
    for (i = 0; i < column; i += MAILP_W, ahead += ahead_step * MAILP_W / MAILP_LANES) {
        const mailp_vec g0 = MAILP_FN(scaled_weight)(w, i, scale, i % MAILP_LANES, type);
        const mailp_vec g1 = MAILP_FN(scaled_weight)(w, column + i, scale, i % MAILP_LANES, type);
        const mailp_vec g2 = MAILP_FN(scaled_weight)(w, 2 * column + i, scale, i % MAILP_LANES, type);
        MAILP_PREFETCH(ahead);
        if (type == MAIL_WEIGHTS_F32) {
            MAILP_FN(winograd4_weights_inner)(u + i, column, g0, g1, g2);
        } else {
            MAILP_FN(winograd4_weights1)(u + i, column, g0, g1, g2);
        }
    }
}

MAILP_KERNEL void MAILP_FN(winograd_rows_weights)(float *u, const void *w, size_t column, const float *scale, mail_weights type,
                                                  uintptr_t ahead, size_t ahead_step) {
    if (type == MAIL_WEIGHTS_F32) {
        MAILP_FN(winograd_rows_weights_of)(u, w, column, scale, MAIL_WEIGHTS_F32, ahead, ahead_step);
    } else if (type == MAIL_WEIGHTS_BF16) {
        MAILP_FN(winograd_rows_weights_of)(u, w, column, scale, MAIL_WEIGHTS_BF16, ahead, ahead_step);
    } else {
        MAILP_FN(winograd_rows_weights_of)(u, w, column, scale, MAIL_WEIGHTS_INT8, ahead, ahead_step);
    }
}

#  define MAILP_WINOGRAD_ROWS     MAILP_FN(winograd_rows_weights)
#else
#  define MAILP_WINOGRAD_PRODUCTS NULL
#  define MAILP_STEM_PRODUCTS     NULL
#  define MAILP_WINOGRAD_ROWS     NULL
#endif

#if MAILP_PASS == MAILP_PASS_AVX2 || MAILP_PASS == MAILP_PASS_AVX512

/* Four tiles of one row use a weight so rarely that it is transformed in registers, twice, instead of being written and read. A pass makes
   the products of two planes with a vector of outputs: from row y of g come p##y and q##y for the two, and row r of the inputs meets
   them in the tiles r - y. The rows above and below the map, which are zeros, are left out.
   What these layers wait for is memory, and that gives more when several far places are read in turn: by panels one after the other
   their weights come at 13 GB/s, by four at a time at 16. (Zen 3; a layer takes 0.8 of the time that it takes directly. AVX-512, by llvm-mca:
   87 cycles a channel for 144 on Zen 4.) */
#if MAILP_W == 8
#  define MAILP_ROWS4_FETCHED       96  /* bytes of a panel at every fourth channel: 24 passes go over 9 KB, or 12 */
#  define MAILP_ROWS4_FETCH(from)   MAILP_PREFETCH(from); MAILP_PREFETCH((from) + 48);
#else
#  define MAILP_ROWS4_FETCHED       192
#  define MAILP_ROWS4_FETCH(from)   MAILP_PREFETCH(from); MAILP_PREFETCH((from) + 64); MAILP_PREFETCH((from) + 128);
#endif
#define MAILP_ROWS4_G(column, y)   mailp_vload(w + ((column) * 3 + (y)) * 256)
#define MAILP_ROWS4_INNER(y, twice, once)                                                     \
    {                                                                                         \
        const mailp_vec two = MAILP_ROWS4_G(twice, y), g1 = mailp_vmul(root, MAILP_ROWS4_G(1, y)); \
        const mailp_vec sum = mailp_vadd(mailp_vadd(two, two), MAILP_ROWS4_G(once, y));       \
        p##y = mailp_vadd(sum, g1);                                                           \
        q##y = mailp_vsub(sum, g1);                                                           \
    }
#define MAILP_ROWS4_OUTER(y, first, last)  p##y = MAILP_ROWS4_G(first, y); q##y = MAILP_ROWS4_G(last, y);
#define MAILP_ROWS4_TAP(s, t, g)   s##t = mailp_vmadd(xv, g, s##t);
#define MAILP_ROWS4_ROWS(s, x, g)                                                                                                         \
    { const mailp_vec xv = mailp_vset(x[row]); MAILP_ROWS4_TAP(s, 1, g##0) MAILP_ROWS4_TAP(s, 0, g##1) }                                  \
    { const mailp_vec xv = mailp_vset(x[2 * row]); MAILP_ROWS4_TAP(s, 2, g##0) MAILP_ROWS4_TAP(s, 1, g##1) MAILP_ROWS4_TAP(s, 0, g##2) }      \
    { const mailp_vec xv = mailp_vset(x[3 * row]); MAILP_ROWS4_TAP(s, 3, g##0) MAILP_ROWS4_TAP(s, 2, g##1) MAILP_ROWS4_TAP(s, 1, g##2) }      \
    { const mailp_vec xv = mailp_vset(x[4 * row]); MAILP_ROWS4_TAP(s, 3, g##1) MAILP_ROWS4_TAP(s, 2, g##2) }
#define MAILP_ROWS4_LOAD(s, m, t)  mailp_vec s##t = accumulate ? mailp_vload(m + (t) * row) : mailp_vzero();
#define MAILP_ROWS4_PUT(s, m, t)   mailp_vstore(m + (t) * row, s##t);
#define MAILP_TILES_4(X, s, m)     X(s, m, 0) X(s, m, 1) X(s, m, 2) X(s, m, 3)
#define MAILP_ROWS4_PASS(name, weights, a, b)                                                                                  \
    MAILP_KERNEL void MAILP_FN(name)(float *m0, float *m1, const float *x0, const float *x1, size_t row, const float *w,      \
                                     int accumulate, uintptr_t ahead, size_t panel) {                                          \
        const mailp_vec root = mailp_vset(1.41421356f);                                                                        \
        size_t          i;                                                                                                     \
        MAILP_TILES_4(MAILP_ROWS4_LOAD, s, m0)                                                                             \
        MAILP_TILES_4(MAILP_ROWS4_LOAD, t, m1)                                                                             \
        (void)root;                                                                                                            \
        for (i = 0; i < MAILP_LANES; i++, x0++, x1++, w += MAILP_LANES) {                                                      \
            mailp_vec p0, p1, p2, q0, q1, q2;                                                                                  \
            MAILP_ROWS4_FETCH(ahead + i / 4 * MAILP_ROWS4_FETCHED + i % 4 * panel)                                             \
            weights(0, a, b)                                                                                                   \
            weights(1, a, b)                                                                                                   \
            weights(2, a, b)                                                                                                   \
            MAILP_ROWS4_ROWS(s, x0, p)                                                                                         \
            MAILP_ROWS4_ROWS(t, x1, q)                                                                                         \
        }                                                                                                                      \
        MAILP_TILES_4(MAILP_ROWS4_PUT, s, m0)                                                                              \
        MAILP_TILES_4(MAILP_ROWS4_PUT, t, m1)                                                                              \
    }
MAILP_ROWS4_PASS(rows4_0_and_5, MAILP_ROWS4_OUTER, 0, 2)
MAILP_ROWS4_PASS(rows4_1_and_2, MAILP_ROWS4_INNER, 0, 2)
MAILP_ROWS4_PASS(rows4_3_and_4, MAILP_ROWS4_INNER, 2, 0)

/* m  6 planes, MAILP_M_PLANE(MAILP_CONV_PANELS) floats apart, of [MAILP_ROWS4][4 rows][tiles_w][16];
   v  6 planes of [n_blocks][6 rows][tiles_w][16];  w  [MAILP_ROWS4][n_blocks][3 columns][3 rows][16][16] */
MAILP_KERNEL void MAILP_FN(winograd_rows4)(float *m, const float *v, size_t plane, size_t tiles_w, const float *w, size_t n_blocks) {
    const size_t next = MAILP_M_PLANE(MAILP_CONV_PANELS), panel = n_blocks * 3 * MAILP_COLUMN, row = tiles_w * MAILP_LANES;
    const size_t fetched = MAILP_LANES / 4 * MAILP_ROWS4_FETCHED;
    size_t       b, p, lane, t;
    for (b = 0; b < n_blocks; b++, v += 6 * row) {
        /* the next block of each panel, after the last one the first of the next panels; the first tiles of the rows pass over it */
        uintptr_t ahead = (uintptr_t)(w + (b + 1 < n_blocks ? (b + 1) * 3 * MAILP_COLUMN : MAILP_ROWS4 * panel));
        for (p = 0; p < MAILP_ROWS4; p++) {
            const float *wp = w + p * panel + b * 3 * MAILP_COLUMN;
            for (lane = 0; lane < MAILP_LANES; lane += MAILP_W, ahead += 3 * fetched) {
                for (t = 0; t < row; t += MAILP_LANES) {
                    const float *x = v + t, *g = wp + lane;
                    float       *to = m + p * 4 * row + t + lane;
                    MAILP_FN(rows4_0_and_5)(to, to + 5 * next, x, x + 5 * plane, row, g, b > 0, ahead, panel * sizeof *w);
                    MAILP_FN(rows4_1_and_2)(to + next, to + 2 * next, x + plane, x + 2 * plane, row, g, b > 0, ahead + fetched,
                                            panel * sizeof *w);
                    MAILP_FN(rows4_3_and_4)(to + 3 * next, to + 4 * next, x + 3 * plane, x + 4 * plane, row, g, b > 0, ahead + 2 * fetched,
                                            panel * sizeof *w);
                }
            }
        }
    }
}
#  define MAILP_WINOGRAD_ROWS4   MAILP_FN(winograd_rows4)

/* Likewise for four or eight tiles of 4 x 4, a map of 8 x 8 or 8 x 16: weights are transformed by columns in memory (winograd_rows_weights) and by rows in
   registers. A pass makes the products of three planes, of rows 0, 1, 2 or 5, 3, 4 of one column, with a vector of outputs. Its inputs lie in the
   order of use: addresses 64 bytes apart, as one channel of neighbouring tiles has them elsewhere, are in one bank of the first-level
   cache, which gives one at a time (Zen 3: a step of 12 products takes 8.3 cycles and not 10.8).
   w  [32 channels][3 rows][MAILP_W], the second row times sqrt(2);  first, last  where the rows are that are twice and once in the sum */
#define MAILP_QUAD_TAP(s, g, t)  s##t = mailp_vmadd(mailp_vset(x[t]), g, s##t);
#define MAILP_TILES_8(X, s, m)   MAILP_TILES_4(X, s, m) X(s, m, 4) X(s, m, 5) X(s, m, 6) X(s, m, 7)
#define MAILP_QUAD_TILES(tiles)                                                                                              \
    MAILP_KERNEL void MAILP_FN(quad_##tiles)(float *m0, float *m1, float *m2, const float *x, const float *w, size_t first,   \
                                             size_t last, int accumulate, uintptr_t ahead, size_t ahead_step) {              \
        const size_t row = MAILP_LANES;                                                                                      \
        size_t       i;                                                                                                      \
        MAILP_TILES_##tiles(MAILP_ROWS4_LOAD, r, m0)                                                                          \
        MAILP_TILES_##tiles(MAILP_ROWS4_LOAD, s, m1)                                                                          \
        MAILP_TILES_##tiles(MAILP_ROWS4_LOAD, t, m2)                                                                          \
        for (i = 0; i < MAILP_QUAD_DEPTH; i++, x += tiles, w += 3 * MAILP_W, ahead += ahead_step) {                          \
            const mailp_vec two = mailp_vload(w + first), g1 = mailp_vload(w + MAILP_W);                                     \
            const mailp_vec sum = mailp_vadd(mailp_vadd(two, two), mailp_vload(w + last));                                   \
            const mailp_vec plus = mailp_vadd(sum, g1), minus = mailp_vsub(sum, g1);                                         \
            MAILP_PREFETCH(ahead);                                                                                           \
            MAILP_TILES_##tiles(MAILP_QUAD_TAP, r, two) x += tiles;                                                           \
            MAILP_TILES_##tiles(MAILP_QUAD_TAP, s, plus) x += tiles;                                                          \
            MAILP_TILES_##tiles(MAILP_QUAD_TAP, t, minus)                                                                     \
        }                                                                                                                    \
        MAILP_TILES_##tiles(MAILP_ROWS4_PUT, r, m0)                                                                           \
        MAILP_TILES_##tiles(MAILP_ROWS4_PUT, s, m1)                                                                           \
        MAILP_TILES_##tiles(MAILP_ROWS4_PUT, t, m2)                                                                           \
    }
MAILP_QUAD_TILES(4)
#if MAILP_PASS == MAILP_PASS_AVX512
#  define MAILP_QUADS_MOST 2
MAILP_QUAD_TILES(8)
#  define MAILP_QUAD_PASSES(quads) ((quads) == 1 ? MAILP_FN(quad_4) : MAILP_FN(quad_8))
#else
#  define MAILP_QUADS_MOST 1
#  define MAILP_QUAD_PASSES(quads) ((void)(quads), MAILP_FN(quad_4))
#endif
typedef void (*MAILP_FN(quad_pass))(float *m0, float *m1, float *m2, const float *x, const float *w, size_t first, size_t last, int accumulate,
                                    uintptr_t ahead, size_t ahead_step);

/* m  36 planes, MAILP_M_PLANE(MAILP_CONV_PANELS) floats apart, of [4 * quads tiles][16], of which MAILP_W are these outputs;
   v  [6 columns][2][quads * MAILP_QUAD_PASS];  w  [3 columns][MAILP_QUAD_COLUMN(MAILP_W)], from which u [6][the same] was made */
MAILP_KERNEL void MAILP_FN(winograd_quad)(float *m, const float *v, size_t quads, const float *u, const float *w, int accumulate,
                                          uintptr_t ahead, size_t ahead_step) {
    const MAILP_FN(quad_pass) pass = MAILP_QUAD_PASSES(quads);
    const size_t plane = MAILP_M_PLANE(MAILP_CONV_PANELS), next = 6 * plane, column = MAILP_QUAD_COLUMN(MAILP_W), last = 2 * MAILP_W;
    size_t       k;
    for (k = 0; k < 6; k++, m += plane, v += 2 * quads * MAILP_QUAD_PASS, ahead += 2 * MAILP_QUAD_DEPTH * ahead_step) {
        const float *g = k == 0 ? w : k == 5 ? w + 2 * column : u + k * column;
        pass(m, m + next, m + 2 * next, v, g, 0, last, accumulate, ahead, ahead_step);
        pass(m + 5 * next, m + 3 * next, m + 4 * next, v + quads * MAILP_QUAD_PASS, g, last, 0, accumulate, ahead + MAILP_QUAD_DEPTH * ahead_step,
             ahead_step);
    }
}

/* v of 16 of the channels, from planes [36][4 * quads tiles][16] */
MAILP_KERNEL void MAILP_FN(winograd_quad_in)(float *v, const float *planes, size_t quads) {
    static const size_t row[6] = { 0, 1, 2, 1, 2, 0 };  /* of each pass */
    const size_t        channel = 12 * quads;
    size_t              k, t, lane;
    for (k = 0; k < 36; k++) {
        for (t = 0; t < 4 * quads; t += 4, planes += 3 * MAILP_LANES) {
            float *to = v + (k % 6 * 2 + (k >= 18)) * quads * MAILP_QUAD_PASS + row[k / 6] * 4 * quads + t;
            for (lane = 0; lane < MAILP_LANES; lane += 8, planes += 8, to += 8 * channel) {
                const __m256 a = _mm256_loadu_ps(planes), b = _mm256_loadu_ps(planes + 16), c = _mm256_loadu_ps(planes + 32), d = _mm256_loadu_ps(planes + 48);
                const __m256 ab = _mm256_unpacklo_ps(a, b), cd = _mm256_unpacklo_ps(c, d), ef = _mm256_unpackhi_ps(a, b), gh = _mm256_unpackhi_ps(c, d);
#define MAILP_QUAD_PUT(i, low, high, which)                                                                              \
                {                                                                                                        \
                    const __m256 both = _mm256_shuffle_ps(low, high, which);  /* channels i and i + 4 */                 \
                    _mm_storeu_ps(to + (i) * channel, _mm256_castps256_ps128(both));                                     \
                    _mm_storeu_ps(to + ((i) + 4) * channel, _mm256_extractf128_ps(both, 1));                             \
                }
                MAILP_QUAD_PUT(0, ab, cd, 0x44)
                MAILP_QUAD_PUT(1, ab, cd, 0xee)
                MAILP_QUAD_PUT(2, ef, gh, 0x44)
                MAILP_QUAD_PUT(3, ef, gh, 0xee)
#undef MAILP_QUAD_PUT
            }
        }
    }
}
#  define MAILP_QUAD_LANES       MAILP_W
#  define MAILP_WINOGRAD_QUAD    MAILP_FN(winograd_quad)
#  define MAILP_WINOGRAD_QUAD_IN MAILP_FN(winograd_quad_in)
#else
#  define MAILP_WINOGRAD_ROWS4   NULL
#  define MAILP_QUADS_MOST       0
#  define MAILP_QUAD_LANES       0
#  define MAILP_WINOGRAD_QUAD    NULL
#  define MAILP_WINOGRAD_QUAD_IN NULL
#endif

/* ---- vision, 8 and 16 bits ----

   A vector holds 16, 8 or 4 output channels by four input channels of 8 bits or by two of 16, whose products are summed in 32 bits. VNNI (of
   AVX-512, or AVX-VNNI beside AVX2) does that in one instruction, and sdot (NEON) for 8 bits. AVX2 alone takes two for 16 bits, and three
   for 8, of which the first sums pairs in 16 bits, so there activations have 7 bits, and so they have for sdot, whose operands are both
   signed. Integers of 16 bits also stand in for AVX512-BF16, which no processor does more of and which would round activations to 8 bits. */

#if defined(__GNUC__) && defined(MAILP_X86) && !defined(MAILP_EMULATED_AVX512)
#  define MAILP_IN_PLACE(a) __asm__("" : "+v"(a));  /* without this gcc 12 copies and spills the sums at every step: half the speed */
#else
#  define MAILP_IN_PLACE(a)
#endif

#if MAILP_PASS == MAILP_PASS_AVX512 && !defined(MAILP_NO_VNNI)
#  define MAILP_U8_ATTR           __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#  define MAILP_U8_MOST           255   /* largest activation */
#  define MAILP_U8_RATE           16
#  define MAILP_U8_STEM           127   /* largest weight that pixels of 8 bits meet */
#  define MAILP_U8_SUM            0
#  define MAILP_S16_RATE          8
#  define mailp_ints              __m512i
#  define mailp_izero()           _mm512_setzero_si512()
#  define mailp_iset(a)           _mm512_set1_epi32(a)
#  define mailp_iload(p)          _mm512_loadu_si512((const void *)(p))
#  define mailp_istore(p, a)      _mm512_storeu_si512((void *)(p), a)
#  define mailp_iload_i8(p)       _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#  define mailp_idot(s, x, w)     s = _mm512_dpbusd_epi32(s, x, w); MAILP_IN_PLACE(s)  /* s += x . w, four by four */
#  define mailp_pairs(s, x, w)    s = _mm512_dpwssd_epi32(s, x, w); MAILP_IN_PLACE(s)  /* s += x . w, 16 bits, two by two */
#  define mailp_ifloat(a)         _mm512_cvtepi32_ps(a)
#  define mailp_iadd16(a, b)      _mm512_add_epi16(a, b)
#  define mailp_isub16(a, b)      _mm512_sub_epi16(a, b)
#elif MAILP_PASS == MAILP_PASS_AVX2
#  define MAILP_U8_ATTR           MAILP_ATTR
#  define MAILP_U8_MOST           127   /* two products of 127 * 127 fit into 16 bits */
#  define MAILP_U8_RATE           8
#  define MAILP_U8_STEM           63    /* as do two of 255 * 63 */
#  define MAILP_U8_SUM            258   /* and 127 * 258 */
#  define MAILP_S16_RATE          5
#  define mailp_ints              __m256i
#  define mailp_izero()           _mm256_setzero_si256()
#  define mailp_iset(a)           _mm256_set1_epi32(a)
#  define mailp_iload(p)          _mm256_loadu_si256((const __m256i *)(const void *)(p))
#  define mailp_istore(p, a)      _mm256_storeu_si256((__m256i *)(void *)(p), a)
#  define mailp_iload_i8(p)       _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#  define mailp_idot(s, x, w)     s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)));
#  define mailp_pairs(s, x, w)    s = _mm256_add_epi32(s, _mm256_madd_epi16(x, w)); MAILP_IN_PLACE(s)
#  define mailp_ifloat(a)         _mm256_cvtepi32_ps(a)
#  define mailp_iadd16(a, b)      _mm256_add_epi16(a, b)
#  define mailp_isub16(a, b)      _mm256_sub_epi16(a, b)
#  ifdef MAILP_HAS_AVX_VNNI
#    define MAILP_VNNI_ATTR       __attribute__((target("avx2,fma,avxvnni")))
#    define MAILP_VNNI_MOST       255
#    define MAILP_VNNI_RATE       16
#    define MAILP_VNNI_STEM       127
#  endif
#elif defined(MAILP_NEON_DOT) && MAILP_PASS == MAILP_PASS_NEON
#  define MAILP_U8_ATTR           MAILP_NEON_DOT
#  define MAILP_U8_MOST           127
#  define MAILP_U8_RATE           16
#  define MAILP_U8_STEM           0     /* pixels have a bit too many */
#  define MAILP_U8_SUM            0
#  define mailp_ints              int32x4_t
#  define mailp_izero()           vdupq_n_s32(0)
#  define mailp_iset(a)           vreinterpretq_s8_s32(vdupq_n_s32(a))
#  define mailp_iload(p)          vld1q_s8(p)
#  define mailp_idot(s, x, w)     s = vdotq_s32(s, w, x);
#  define mailp_ifloat(a)         vcvtq_f32_s32(a)
#endif

#ifdef MAILP_U8_ATTR

/* 16 values as 8 bits: round(f * x) */
#if MAILP_PASS == MAILP_PASS_AVX512
#  define MAILP_QUANTIZE16(q, x, f) \
    _mm_storeu_si128((__m128i *)(void *)(q), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(mailp_vmul(f, mailp_vload(x)))));
#elif MAILP_PASS == MAILP_PASS_AVX2
#  define MAILP_QUANTIZE16(q, x, f)                                                                                           \
    {                                                                                                                         \
        const __m256i ab = _mm256_packs_epi32(_mm256_cvtps_epi32(mailp_vmul(f, mailp_vload(x))),                              \
                                              _mm256_cvtps_epi32(mailp_vmul(f, mailp_vload((x) + 8))));                       \
        const __m256i in_order = _mm256_permute4x64_epi64(ab, 0xd8);                                                          \
        _mm_storeu_si128((__m128i *)(void *)(q),                                                                              \
                         _mm_packus_epi16(_mm256_castsi256_si128(in_order), _mm256_extracti128_si256(in_order, 1)));          \
    }
#else
#  define MAILP_QUANTIZE16(q, x, f)                                                                                           \
    {                                                                                                                         \
        const uint16x8_t a = vcombine_u16(vqmovn_u32(vcvtnq_u32_f32(mailp_vmul(f, mailp_vload(x)))),                          \
                                          vqmovn_u32(vcvtnq_u32_f32(mailp_vmul(f, mailp_vload((x) + 4)))));                   \
        const uint16x8_t b = vcombine_u16(vqmovn_u32(vcvtnq_u32_f32(mailp_vmul(f, mailp_vload((x) + 8)))),                    \
                                          vqmovn_u32(vcvtnq_u32_f32(mailp_vmul(f, mailp_vload((x) + 12)))));                  \
        vst1q_u8(q, vcombine_u8(vqmovn_u16(a), vqmovn_u16(b)));                                                               \
    }
#endif

/* scale = largest of x / largest, or NaN if one of them is not finite;  x [n] >= 0, n a multiple of 16;  returned: 1 / scale, or 0 */
MAILP_WORD float MAILP_FN(step_of)(float *scale, const float *x, size_t n, float largest) {
    mailp_vec most = mailp_vzero(), odd = mailp_vzero();
    float     lanes[MAILP_W], odds[MAILP_W], m = 0, bad = 0;
    size_t    i;
    for (i = 0; i < n; i += MAILP_W) {
        most = mailp_vmax(most, mailp_vload(x + i));
        odd  = mailp_vmadd(mailp_vload(x + i), mailp_vzero(), odd);
    }
    mailp_vstore(lanes, most);
    mailp_vstore(odds, odd);
    for (i = 0; i < MAILP_W; i++) {
        m = lanes[i] > m ? lanes[i] : m;
        bad += odds[i];
    }
    *scale = m / largest + bad;
    return m > 1e-30f ? largest / m : 0.0f;
}

/* q[i] = round(x[i] / scale), at most `largest`;  see step_of */
MAILP_WORD void MAILP_FN(quantize_to)(unsigned char *q, float *scale, const float *x, size_t n, float largest) {
    const mailp_vec f = mailp_vset(MAILP_FN(step_of)(scale, x, n, largest));
    size_t          i;
    for (i = 0; i < n; i += MAILP_LANES) {
        MAILP_QUANTIZE16(q + i, x + i, f)
    }
}

MAILP_KERNEL void MAILP_FN(quantize)(unsigned char *q, float *scale, const float *x, size_t n) {
    MAILP_FN(quantize_to)(q, scale, x, n, (float)MAILP_U8_MOST);
}

#if MAILP_PASS == MAILP_PASS_NEON
#  define MAILP_U8_W int8x16_t
#else
#  define MAILP_U8_W mailp_ints
#endif

/* What a tile of integers is added to where there is neither a bias nor an earlier sum */
static const float MAILP_FN(zeros)[MAILP_CONV_PANELS * MAILP_LANES] = { 0 };

/* The sums of a tile of integers, of convolutions here and of matrix products below */
#define MAILP_ISUM(r, c)         mailp_ints s##r##c;
#define MAILP_IZERO(r, c)        s##r##c = mailp_izero();
#define MAILP_ROW_IZERO(r, n)    MAILP_C##n(MAILP_IZERO, r)

/* What differs between 8 bits (u8) and 16 (s16). BYTES: of an activation; a step takes four bytes of activations of every pixel.
   RUN: steps at a time. */
#define MAILP_BYTES_u8          1
#define MAILP_RUN_u8            1
#define MAILP_LOADS_u8(r, c)    const MAILP_U8_W w##c = mailp_iload((const int8_t *)(w + (c) * 4 * MAILP_W));
#define MAILP_DOTS_u8(r, c)     mailp_idot(s##r##c, xv, w##c)
#define MAILP_STEP_u8(r, n)     { int32_t four; MAILP_U8_W xv; memcpy(&four, x##r + i, 4); xv = mailp_iset(four); MAILP_C##n(MAILP_DOTS_u8, r) MAILP_IN_ORDER }

#define MAILP_LOW_SCALE(r, c)   const mailp_vec f##c = mailp_vmul(mailp_vset(x_scale[block]), mailp_vload(w_scale + (c) * MAILP_W));
#define MAILP_LOW_PUT(r, c, old)                                                                                           \
    {                                                                                                                      \
        float *to = y + (size_t)((c) / MAILP_V) * ldy + (r) * MAILP_LANES + ((c) % MAILP_V) * MAILP_W;                     \
        mailp_vstore(to, mailp_vmadd(mailp_ifloat(s##r##c), f##c, mailp_vload(old)));                                      \
    }
#define MAILP_LOW_FIRST(r, c)   MAILP_LOW_PUT(r, c, first + (c) * MAILP_W)
#define MAILP_LOW_MORE(r, c)    MAILP_LOW_PUT(r, c, to)
#define MAILP_LOW_ROW(r, n)     MAILP_C##n(MAILP_ISUM, r) const unsigned char *x##r = x + at[r] * bytes;
#define MAILP_LOW_ROW_FIRST(r, n) MAILP_C##n(MAILP_LOW_FIRST, r)
#define MAILP_LOW_ROW_MORE(r, n)  MAILP_C##n(MAILP_LOW_MORE, r)
#define MAILP_LOW_ARGS                                                                                                     \
    float *y, size_t ldy, const unsigned char *x, const float *x_scale, const size_t *at, const unsigned char *w,          \
    const float *w_scale, const float *bias, size_t step, const mailp_conv_shape *shape, size_t block, size_t end,         \
    uintptr_t ahead, size_t ahead_step
#define MAILP_LOW_TILE(name, kind, attr, mr, nv)                                                                           \
    attr static void MAILP_FN(conv_##name##_##mr##x##nv)(MAILP_LOW_ARGS) {                                                 \
        const float *first = bias != NULL ? bias : MAILP_FN(zeros);                                                        \
        const size_t bytes = MAILP_BYTES_##kind;                                                                           \
        MAILP_R##mr(MAILP_LOW_ROW, nv)                                                                                     \
        for (; block < end; block++) {                                                                                     \
            size_t t;                                                                                                      \
            MAILP_C##nv(MAILP_LOW_SCALE, 0)                                                                                \
            MAILP_R##mr(MAILP_ROW_IZERO, nv)                                                                               \
            for (t = 0; t < shape->n_taps; t++) {                                                                          \
                size_t i = (shape->tap[t] + block * shape->plane) * bytes, stop = i + shape->depth * bytes;                \
                for (; i < stop; i += 4 * MAILP_RUN_##kind, w += MAILP_RUN_##kind * step, ahead += MAILP_RUN_##kind * ahead_step) { \
                    MAILP_C##nv(MAILP_LOADS_##kind, 0)                                                                     \
                    MAILP_PREFETCH(ahead);                                                                                 \
                    MAILP_PREFETCH(ahead + MAILP_ALIGN);                                                                   \
                    MAILP_R##mr(MAILP_STEP_##kind, nv)                                                                     \
                }                                                                                                          \
            }                                                                                                              \
            if (block > 0) {                                                                                               \
                MAILP_R##mr(MAILP_LOW_ROW_MORE, nv)                                                                        \
            } else {                                                                                                       \
                MAILP_R##mr(MAILP_LOW_ROW_FIRST, nv)                                                                       \
            }                                                                                                              \
        }                                                                                                                  \
    }
typedef void (*MAILP_FN(conv_low_tile))(MAILP_LOW_ARGS);

/* y[p][m][j] = (block > 0 ? y[p][m][j] : bias[p][j]) + sum over blocks block <= b < end of x_scale[b] * w_scale[p][j] *
                sum over taps t, i < depth of x[at(m) + tap[t] + b * plane + i] * w[(b, t, i / n)][p][j][i % n]

   x  maps of n = 4 values of 8 bits or 2 of 16 in four bytes, laid out as those of floats (mailp_conv_shape); x_scale: one for each block;
   w  [end - block][n_taps][depth / n][group][16][n], of which the first `panels` panels are used;
   w_scale, bias [panels][16];  bias NULL: zeros.
   Numbers: the inner sums are exact, so results do not depend on their order. */
#define MAILP_LOW_CONV(name, kind, attr)                                                                                                \
    MAILP_EVERY_TILE(MAILP_LOW_TILE, name, kind, attr)                                                                                  \
    static const MAILP_FN(conv_low_tile) MAILP_FN(conv_##name##_tiles)[2][6] = MAILP_TILE_TABLE(conv_##name);                           \
    MAILP_KERNEL void MAILP_FN(conv_##name)(float *y, size_t ldy, const unsigned char *x, const float *x_scale, const unsigned char *w, \
                                            const float *w_scale, const float *bias, size_t group, const mailp_conv_shape *shape,       \
                                            size_t block, size_t end, size_t pixels, size_t panels, uintptr_t ahead,                    \
                                            size_t lines) {                                                                             \
        const size_t tiles = (pixels + 5) / 6, steps = (end - block) * shape->n_taps * (shape->depth * MAILP_BYTES_##kind / 4);         \
        const size_t ahead_step = mailp_pace((lines + 1) / 2, tiles * steps) * 2;                                                       \
        size_t       p, np;                                                                                                             \
        for (p = 0; p < panels; p += np) {                                                                                              \
            size_t t, m = 0, row = 0, column = 0;                                                                                       \
            np = panels - p < MAILP_CONV_PANELS ? 1 : MAILP_CONV_PANELS;                                                                \
            for (t = 0; t < tiles; t++) {                                                                                               \
                size_t mr = (pixels - m) / (tiles - t), at[6];                                                                          \
                mailp_conv_places(at, mr, &row, &column, shape);                                                                        \
                MAILP_FN(conv_##name##_tiles)[np > 1][mr - 1](y + p * ldy + m * MAILP_LANES, ldy, x, x_scale, at,                       \
                                                              w + p * 4 * MAILP_LANES, w_scale + p * MAILP_LANES,                       \
                                                              bias == NULL ? NULL : bias + p * MAILP_LANES, group * 4 * MAILP_LANES,    \
                                                              shape, block, end, ahead, ahead_step);                                    \
                ahead += steps * ahead_step;                                                                                            \
                m += mr;                                                                                                                \
            }                                                                                                                           \
        }                                                                                                                               \
    }
MAILP_LOW_CONV(u8, u8, MAILP_U8_ATTR)

#if MAILP_PASS == MAILP_PASS_AVX2
/* Two steps at once: their products are summed in 16 bits before they are widened; mailp_conv_pack makes the weights small enough for
   that. Three instructions in place of four take 0.85 of the time (Zen 3). */
#define MAILP_RUN_u8x2          2
#define MAILP_BYTES_u8x2        1
#define MAILP_LOADS_u8x2(r, c) \
    const __m256i w##c = mailp_iload((const int8_t *)(w + (c) * 4 * MAILP_W)), v##c = mailp_iload((const int8_t *)(w + step + (c) * 4 * MAILP_W));
#define MAILP_DOTS_u8x2(r, c)                                                                                          \
    s##r##c = _mm256_add_epi32(s##r##c, _mm256_madd_epi16(_mm256_add_epi16(_mm256_maddubs_epi16(xw, w##c),             \
                                                                           _mm256_maddubs_epi16(xv, v##c)), _mm256_set1_epi16(1)));
#define MAILP_STEP_u8x2(r, n)                                                                                          \
    {                                                                                                                  \
        int32_t eight[2];                                                                                              \
        __m256i xw, xv;                                                                                                \
        memcpy(eight, x##r + i, 8);                                                                                    \
        xw = mailp_iset(eight[0]);                                                                                     \
        xv = mailp_iset(eight[1]);                                                                                     \
        MAILP_C##n(MAILP_DOTS_u8x2, r)                                                                                 \
    }
MAILP_LOW_CONV(u8x2, u8x2, MAILP_U8_ATTR)

/* The stem takes one step at a time: its rows are not blocks of 16, and its pixels have 8 bits, so that sums of four products in 16 would
   leave few bits to its weights. */
MAILP_KERNEL void MAILP_FN(conv_u8_or_stem)(float *y, size_t ldy, const unsigned char *x, const float *x_scale, const unsigned char *w,
                                            const float *w_scale, const float *bias, size_t group, const mailp_conv_shape *shape,
                                            size_t block, size_t end, size_t pixels, size_t panels, uintptr_t ahead, size_t lines) {
    (shape->depth == MAILP_LANES ? MAILP_FN(conv_u8x2) : MAILP_FN(conv_u8))(y, ldy, x, x_scale, w, w_scale, bias, group, shape, block, end,
                                                                            pixels, panels, ahead, lines);
}
#endif

#ifdef MAILP_S16_RATE
/* Operands of 16 bits, two by two */
#define MAILP_BYTES_s16         2
#define MAILP_RUN_s16           1
#define MAILP_LOADS_s16(r, c)   MAILP_LOADS_u8(r, c)
#define MAILP_DOTS_s16(r, c)    mailp_pairs(s##r##c, xv, w##c)
#define MAILP_STEP_s16(r, n)    { int32_t two; mailp_ints xv; memcpy(&two, x##r + i, 4); xv = mailp_iset(two); MAILP_C##n(MAILP_DOTS_s16, r) }
MAILP_LOW_CONV(s16, s16, MAILP_U8_ATTR)

/* 16 values as 16 bits, in order: round(f * x) */
MAILP_WORD __m256i MAILP_FN(pixel16)(const float *x, mailp_vec f) {
#if MAILP_PASS == MAILP_PASS_AVX512
    return _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(mailp_vmul(f, mailp_vload(x))));
#else
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(mailp_vmul(f, mailp_vload(x))),
                                                       _mm256_cvtps_epi32(mailp_vmul(f, mailp_vload(x + MAILP_W)))), 0xd8);
#endif
}

MAILP_KERNEL void MAILP_FN(quantize16)(unsigned char *q, float *scale, const float *x, size_t n) {
    const mailp_vec f = mailp_vset(MAILP_FN(step_of)(scale, x, n, (float)MAILP_S16_MOST));
    size_t          i;
    for (i = 0; i < n; i += MAILP_LANES) {
        _mm256_storeu_si256((__m256i *)(void *)(q + 2 * i), MAILP_FN(pixel16)(x + i, f));
    }
}

/* Winograd's tiles of one row in integers, by the points 0, +-1, +-2, infinity: nothing but the numbers that come in is rounded, and the
   result is that of a direct convolution of them. */

/* u[j - 1][y][i / 2][group][16][2] = (G g)[j] times its denominator, j = 1..4; planes 0 and 5 are columns 0 and 2 of
   w [3 columns][3 rows][8][group][16][2].  Meanwhile `lines` cache lines from ahead on are fetched. */
MAILP_KERNEL void MAILP_FN(rows16_weights)(int16_t *u, const int16_t *w, size_t group, uintptr_t ahead, size_t lines) {
    const size_t column = MAILP_COLUMN * group, step = 2 * MAILP_W, ahead_step = mailp_pace(lines, column / step);
    size_t       i;
    for (i = 0; i < column; i += step, ahead += ahead_step) {
        const mailp_ints g0 = mailp_iload(w + i), g1 = mailp_iload(w + column + i), g2 = mailp_iload(w + 2 * column + i);
        const mailp_ints s = mailp_iadd16(g0, g2), d = mailp_iadd16(g1, g1), e = mailp_iadd16(g2, g2);
        const mailp_ints t = mailp_iadd16(g0, mailp_iadd16(e, e));
        MAILP_PREFETCH(ahead);
        mailp_istore(u + i, mailp_iadd16(s, g1));
        mailp_istore(u + column + i, mailp_isub16(s, g1));
        mailp_istore(u + 2 * column + i, mailp_iadd16(t, d));
        mailp_istore(u + 3 * column + i, mailp_isub16(t, d));
    }
}

/* v[j][t][16] = (Bt d)[j] of every tile t of a block x of `floats` >= 0, rounded to steps of *scale, of which d has MAILP_ROWS16_MOST at
   most and Bt d eight times as many;  v 6 planes, `plane` apart, of [tiles_h + 2][tiles_w][16];  rows of x are `row` floats apart */
MAILP_KERNEL void MAILP_FN(rows16_in)(int16_t *v, float *scale, size_t plane, const float *x, size_t floats, size_t row, size_t tiles_h,
                                      size_t tiles_w) {
    const mailp_vec f = mailp_vset(MAILP_FN(step_of)(scale, x, floats, (float)MAILP_ROWS16_MOST));
    size_t          y, t;
    for (y = 0; y < tiles_h + 2; y++) {
        for (t = 0; t < tiles_w; t++, v += MAILP_LANES) {
            const float  *d = x + y * row + 4 * t * MAILP_LANES;
            const __m256i d0 = MAILP_FN(pixel16)(d, f), d1 = MAILP_FN(pixel16)(d + MAILP_LANES, f), d2 = MAILP_FN(pixel16)(d + 2 * MAILP_LANES, f);
            const __m256i d3 = MAILP_FN(pixel16)(d + 3 * MAILP_LANES, f), d4 = MAILP_FN(pixel16)(d + 4 * MAILP_LANES, f);
            const __m256i d5 = MAILP_FN(pixel16)(d + 5 * MAILP_LANES, f);
            const __m256i a = _mm256_sub_epi16(d4, _mm256_slli_epi16(d2, 2)), b = _mm256_sub_epi16(d3, _mm256_slli_epi16(d1, 2));
            const __m256i c = _mm256_sub_epi16(d4, d2), e = _mm256_slli_epi16(_mm256_sub_epi16(d3, d1), 1);
            const __m256i g = _mm256_sub_epi16(_mm256_slli_epi16(_mm256_sub_epi16(d0, d2), 2), d2);
            const __m256i h = _mm256_sub_epi16(_mm256_slli_epi16(_mm256_sub_epi16(d1, d3), 2), d3);
            _mm256_storeu_si256((__m256i *)(void *)v, _mm256_add_epi16(g, d4));
            _mm256_storeu_si256((__m256i *)(void *)(v + plane), _mm256_add_epi16(a, b));
            _mm256_storeu_si256((__m256i *)(void *)(v + 2 * plane), _mm256_sub_epi16(a, b));
            _mm256_storeu_si256((__m256i *)(void *)(v + 3 * plane), _mm256_add_epi16(c, e));
            _mm256_storeu_si256((__m256i *)(void *)(v + 4 * plane), _mm256_sub_epi16(c, e));
            _mm256_storeu_si256((__m256i *)(void *)(v + 5 * plane), _mm256_add_epi16(h, d5));
        }
    }
}

/* y [h][w][16] from m [6] planes, MAILP_M_PLANE floats apart, of [h][tiles_w][16]: At m, the denominators of G taken away */
MAILP_KERNEL void MAILP_FN(rows16_out)(float *y, const float *m, size_t h, size_t w, size_t tiles_w) {
    enum { PLANE = MAILP_M_PLANE(MAILP_CONV_PANELS) };
    const mailp_vec quarter = mailp_vset(0.25f), third = mailp_vset(1.0f / 3), sixth = mailp_vset(1.0f / 6), twelfth = mailp_vset(1.0f / 12);
    const mailp_vec last = mailp_vset(1.0f / 24);
    size_t          i, t, lane;
    for (i = 0; i < h; i++) {
        for (t = 0; t < tiles_w; t++, m += MAILP_LANES) {
            for (lane = 0; lane < MAILP_LANES; lane += MAILP_W) {
                const float    *from = m + lane;
                float          *to = y + (i * w + 4 * t) * MAILP_LANES + lane;
                const mailp_vec m1 = mailp_vload(from + PLANE), m2 = mailp_vload(from + 2 * PLANE);
                const mailp_vec m3 = mailp_vload(from + 3 * PLANE), m4 = mailp_vload(from + 4 * PLANE);
                const mailp_vec s = mailp_vmul(sixth, mailp_vadd(m1, m2)), d = mailp_vmul(sixth, mailp_vsub(m1, m2));
                const mailp_vec u = mailp_vadd(m3, m4), e = mailp_vsub(m3, m4);
                mailp_vstore(to, mailp_vmadd(quarter, mailp_vload(from), mailp_vsub(mailp_vmul(last, u), s)));
                if (4 * t + 1 < w) {
                    mailp_vstore(to + MAILP_LANES, mailp_vsub(mailp_vmul(twelfth, e), d));
                }
                if (4 * t + 2 < w) {
                    mailp_vstore(to + 2 * MAILP_LANES, mailp_vsub(mailp_vmul(sixth, u), s));
                }
                if (4 * t + 3 < w) {
                    mailp_vstore(to + 3 * MAILP_LANES, mailp_vadd(mailp_vsub(mailp_vmul(third, e), d), mailp_vload(from + 5 * PLANE)));
                }
            }
        }
    }
}

/* ---- matrix product, 16 bits ----

   Rows are rounded to 14 bits, 128 numbers by the largest of them, and meet weights of 16 or 8 bits two by two: twice as many such products
   are done at once as of floats, by VNNI in one instruction, by AVX2 with an addition each (Zen 3: 0.75 of the time). */

#define MAILP_PAIRS_ROWS  24     /* rows at a time, and how much of them: 25 KB on the stack */
#define MAILP_PAIRS_DEPTH 512

/* q[i] = round(x[i] / scale), and q[n] = 0 if n is odd;  returned: scale = largest |x| / MAILP_PAIRS_MOST, or NaN if one of them is not
   finite;  x [n], n <= MAILP_PAIRS_SUM */
MAILP_KERNEL float MAILP_FN(pairs_row)(int16_t *q, const float *x, size_t n) {
    const __m256i bits = _mm256_set1_epi32(0x7fffffff);
    const size_t  padded = mailp_pad(n);
    float         copy[MAILP_PAIRS_SUM], m;
    int16_t       last[MAILP_PAIRS_SUM];
    int16_t      *to = q;
    __m256i       most = _mm256_setzero_si256();
    __m128i       four;
    mailp_vec     f;
    int32_t       largest;
    size_t        i;
    if (n < padded) {
        memcpy(copy, x, n * sizeof *x);
        memset(copy + n, 0, (padded - n) * sizeof *x);
        x  = copy;
        to = last;
    }
    for (i = 0; i < padded; i += 8) {  /* as integers, magnitudes are in order, and what is not finite comes last */
        most = _mm256_max_epi32(most, _mm256_and_si256(bits, _mm256_castps_si256(_mm256_loadu_ps(x + i))));
    }
    four    = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    four    = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    four    = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
    largest = _mm_cvtsi128_si32(four);
    m = mailp_f32_bits((uint32_t)largest);
    f = mailp_vset(m > 1e-30f ? (float)MAILP_PAIRS_MOST / m : 0.0f);
    for (i = 0; i < padded; i += MAILP_LANES) {
        _mm256_storeu_si256((__m256i *)(void *)(to + i), MAILP_FN(pixel16)(x + i, f));
    }
    if (n < padded) {
        memcpy(q, last, (n + 1) / 2 * 2 * sizeof *q);
    }
    return largest < 0x7f800000 ? m / (float)MAILP_PAIRS_MOST : NAN;
}

#define MAILP_PAIRS_AT(c)        ((size_t)((c) / MAILP_V) * panel + (size_t)((c) % MAILP_V) * 2 * MAILP_W)
#define MAILP_PAIRS_W_int16(r, c) const mailp_ints w##c = mailp_iload(w + MAILP_PAIRS_AT(c));
#define MAILP_PAIRS_W_int8(r, c)  const mailp_ints w##c = mailp_iload_i8(w + MAILP_PAIRS_AT(c));
#define MAILP_PAIRS_PUT(r, c, old)                                                                                      \
    mailp_vstore(y + (r) * ldy + (c) * MAILP_W,                                                                         \
                 mailp_vmadd(mailp_ifloat(s##r##c), mailp_vmul(fv, mailp_vload(scale + (c) * MAILP_W)), mailp_vload(old)));
#define MAILP_PAIRS_FIRST(r, c) MAILP_PAIRS_PUT(r, c, first + (c) * MAILP_W)
#define MAILP_PAIRS_MORE(r, c)  MAILP_PAIRS_PUT(r, c, y + (r) * ldy + (c) * MAILP_W)
#define MAILP_PAIRS_PLUS(r, c)                                                                                          \
    {                                                                                                                   \
        float *to = y + (r) * ldy + (c) * MAILP_W;                                                                      \
        mailp_vstore(to, mailp_vadd(mailp_vload(to), mailp_vload(bias + (c) * MAILP_W)));                               \
    }
#define MAILP_PAIRS_ROW(r, n)   MAILP_C##n(MAILP_ISUM, r)
#define MAILP_PAIRS_ROW_STEP(r, n)                                                                                      \
    {                                                                                                                   \
        int32_t    two;                                                                                                 \
        mailp_ints xv;                                                                                                  \
        memcpy(&two, q + (r) * MAILP_PAIRS_DEPTH + i, sizeof two);                                                      \
        xv = mailp_iset(two);                                                                                           \
        MAILP_C##n(MAILP_DOTS_s16, r)                                                                                   \
    }
#define MAILP_PAIRS_ROW_PUT(r, n, put)                                                                                  \
    {                                                                                                                   \
        const mailp_vec fv = mailp_vset(f[(r) * (MAILP_PAIRS_DEPTH / MAILP_PAIRS_SUM) + part]);                         \
        MAILP_C##n(put, r)                                                                                              \
    }
#define MAILP_PAIRS_ROW_FIRST(r, n) MAILP_PAIRS_ROW_PUT(r, n, MAILP_PAIRS_FIRST)
#define MAILP_PAIRS_ROW_MORE(r, n)  MAILP_PAIRS_ROW_PUT(r, n, MAILP_PAIRS_MORE)
#define MAILP_PAIRS_ROW_PLUS(r, n)  MAILP_C##n(MAILP_PAIRS_PLUS, r)
#define MAILP_PAIRS_TILE(kind, name, attr, mr, nv)                                                                      \
    attr static void MAILP_FN(pairs_##name##_##mr##x##nv)(float *y, size_t ldy, const int16_t *q, const float *f,       \
                                                          const kind##_t *w, const float *scale, const float *bias,     \
                                                          size_t k, size_t panel, int accumulate, uintptr_t ahead,      \
                                                          size_t ahead_step) {                                          \
        const float *first = bias != NULL ? bias : MAILP_FN(zeros);                                                     \
        size_t       i = 0, part, end;                                                                                  \
        MAILP_R##mr(MAILP_PAIRS_ROW, nv)                                                                                \
        (void)panel;                                                                                                    \
        for (part = 0; i < k; part++) {                                                                                 \
            end = MAILP_MIN(i + MAILP_PAIRS_SUM, k);                                                                    \
            MAILP_R##mr(MAILP_ROW_IZERO, nv)                                                                            \
            for (; i < end; i += 2, w += 2 * MAILP_LANES, ahead += ahead_step) {                                        \
                MAILP_C##nv(MAILP_PAIRS_W_##kind, 0)                                                                    \
                MAILP_PREFETCH(ahead);                                                                                  \
                MAILP_R##mr(MAILP_PAIRS_ROW_STEP, nv)                                                                   \
            }                                                                                                           \
            if (part > 0 || accumulate) {                                                                               \
                MAILP_R##mr(MAILP_PAIRS_ROW_MORE, nv)                                                                   \
            } else {                                                                                                    \
                MAILP_R##mr(MAILP_PAIRS_ROW_FIRST, nv)                                                                  \
            }                                                                                                           \
        }                                                                                                               \
        if (accumulate && bias != NULL) {                                                                               \
            MAILP_R##mr(MAILP_PAIRS_ROW_PLUS, nv)                                                                       \
        }                                                                                                               \
    }

/* As gemm (mailp_kernels), for weights [panels][k / 2][16][2] of int16 or int8, k rounded up to even, the last of which are zeros; scale
   is not NULL. Numbers: sums of 128 products are exact; they are added in float32, in order, to what was in y and the bias; a result does
   not depend on how rows and panels are split into calls. While the last rows meet some panels, the next are fetched, a line a step. */
#define MAILP_PAIRS_KIND(kind, type, name, attr)                                                                                     \
    MAILP_EVERY_TILE(MAILP_PAIRS_TILE, kind, name, attr)                                                                             \
    MAILP_EVERY_TALL(MAILP_PAIRS_TILE, kind, name, attr)                                                                             \
    MAILP_KERNEL void MAILP_FN(gemm_##name)(float *y, size_t ldy, const float *x, size_t ldx, const void *weights, const float *scale, \
                                            const float *bias, size_t rows, size_t k, size_t panels, int accumulate) {               \
        typedef void (*tile)(float *y, size_t ldy, const int16_t *q, const float *f, const type *w, const float *scale,              \
                             const float *bias, size_t k, size_t panel, int accumulate, uintptr_t ahead, size_t ahead_step);         \
        static const tile tiles[2][6] = MAILP_TILE_TABLE(pairs_##name), talls[12] = MAILP_TALL_TABLE(pairs_##name);                  \
        const size_t even = (k + 1) / 2 * 2, panel = even * MAILP_LANES, parts = MAILP_PAIRS_DEPTH / MAILP_PAIRS_SUM;                \
        int16_t      q[MAILP_PAIRS_ROWS * MAILP_PAIRS_DEPTH];                                                                        \
        float        f[MAILP_PAIRS_ROWS * (MAILP_PAIRS_DEPTH / MAILP_PAIRS_SUM)];                                                    \
        size_t       from, depth, first, count, m, i, p, np, mr;                                                                     \
        int          tall;                                                                                                           \
        for (from = 0; from < k; from += depth) {                                                                                    \
            depth = MAILP_MIN(even - from, (size_t)MAILP_PAIRS_DEPTH);                                                               \
            for (first = 0; first < rows; first += count) {                                                                          \
                count = MAILP_MIN(rows - first, (size_t)MAILP_PAIRS_ROWS);                                                           \
                for (m = 0; m < count; m++) {                                                                                        \
                    for (i = 0; i < depth; i += MAILP_PAIRS_SUM) {                                                                   \
                        f[m * parts + i / MAILP_PAIRS_SUM] =                                                                         \
                            MAILP_FN(pairs_row)(q + m * MAILP_PAIRS_DEPTH + i, x + (first + m) * ldx + from + i,                     \
                                                MAILP_MIN(k - from - i, (size_t)MAILP_PAIRS_SUM));                                   \
                    }                                                                                                                \
                }                                                                                                                    \
                tall = count > 6 && count <= MAILP_TALL && panels % 2 == 0;                                                          \
                for (p = 0; p < panels; p += np) {                                                                                   \
                    const type *w = (const type *)weights + p * panel + from * MAILP_LANES;                                          \
                    np = mailp_tile_panels(panels - p, tall ? 2 : MAILP_CONV_PANELS);                                                \
                    for (m = 0; m < count; m += mr) {                                                                                \
                        const size_t left = tall ? 1 : (count - m + 5) / 6, next = m > 0 || left == 1 ? np * panel * sizeof(type) : 0; \
                        mr = (count - m) / left;                                                                                     \
                        (np == 2 ? talls[mr - 1] : tiles[np > 1][mr - 1])(                                                           \
                            y + (first + m) * ldy + p * MAILP_LANES, ldy, q + m * MAILP_PAIRS_DEPTH, f + m * parts, w,               \
                            scale + p * MAILP_LANES, bias == NULL || from > 0 ? NULL : bias + p * MAILP_LANES, depth, panel,         \
                            accumulate || from > 0, (uintptr_t)w + next, next > 0 && left == 1 ? 2 * MAILP_LANES * sizeof(type) : 0); \
                    }                                                                                                                \
                }                                                                                                                    \
            }                                                                                                                        \
        }                                                                                                                            \
    }

MAILP_PAIRS_KIND(int16, int16_t, int16, MAILP_U8_ATTR)
MAILP_PAIRS_KIND(int8, int8_t, int8x16, MAILP_U8_ATTR)
#endif /* MAILP_S16_RATE */

#ifdef MAILP_VNNI_ATTR
/* The same with AVX-VNNI's instructions. Nothing else of AVX2's differs: see the two tables. */
#  undef mailp_idot
#  define mailp_idot(s, x, w)  s = _mm256_dpbusd_avx_epi32(s, x, w); MAILP_IN_PLACE(s)
#  undef mailp_pairs
#  define mailp_pairs(s, x, w) s = _mm256_dpwssd_avx_epi32(s, x, w); MAILP_IN_PLACE(s)
MAILP_LOW_CONV(u8_vnni, u8, MAILP_VNNI_ATTR)
MAILP_LOW_CONV(s16_vnni, s16, MAILP_VNNI_ATTR)
MAILP_PAIRS_KIND(int16, int16_t, int16_vnni, MAILP_VNNI_ATTR)
MAILP_PAIRS_KIND(int8, int8_t, int8x16_vnni, MAILP_VNNI_ATTR)

MAILP_KERNEL void MAILP_FN(quantize_vnni)(unsigned char *q, float *scale, const float *x, size_t n) {
    MAILP_FN(quantize_to)(q, scale, x, n, (float)MAILP_VNNI_MOST);
}
#endif

#  undef MAILP_U8_W
#  undef MAILP_QUANTIZE16
#  undef mailp_ints
#  undef mailp_izero
#  undef mailp_iset
#  undef mailp_iload
#  undef mailp_istore
#  undef mailp_iload_i8
#  undef mailp_idot
#  undef mailp_pairs
#  undef mailp_ifloat
#  undef mailp_iadd16
#  undef mailp_isub16
#endif /* MAILP_U8_ATTR */

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

/* 2^x for x <= 0: the decay of the scan, with log2(e) already in A. x = n + f, 0 <= f < 1; degree 6 in Estrin's order, which
   leaves a shorter chain to wait for than Horner's; relative error 2e-9. AVX-512 takes f and applies n in one instruction each. */
MAILP_WORD mailp_vec MAILP_FN(exp2)(mailp_vec x) {
    mailp_vec f, f2, p, q, r;
#if MAILP_PASS == MAILP_PASS_AVX512
    f = mailp_fraction512(x);
#else
    mailp_vec n;
    x = mailp_vmax(mailp_vset(-126.0f), x);
    n = mailp_vfloor(x);
    f = mailp_vsub(x, n);
#endif
    f2 = mailp_vmul(f, f);
    p  = mailp_vmadd(mailp_vset(0.6931470444f), f, mailp_vset(1.0f));
    q  = mailp_vmadd(mailp_vset(5.548528058e-2f), f, mailp_vset(0.2402293056f));
    r  = mailp_vmadd(mailp_vset(1.246784554e-3f), f, mailp_vset(9.675451654e-3f));
    r  = mailp_vmadd(mailp_vset(2.161291838e-4f), f2, r);
    p  = mailp_vmadd(mailp_vmadd(r, f2, q), f2, p);
#if MAILP_PASS == MAILP_PASS_AVX512
    return _mm512_scalef_ps(p, x);  /* p * 2^floor(x) */
#else
    return mailp_vscale(p, n);
#endif
}

#if MAILP_PASS == MAILP_PASS_AVX2
/* 2^(dt A) for -125 <= dt A <= 0. A sum with 1.5 * 2^20 rounds it to an eighth, n + j / 8, whose j and n are then the sum's lowest
   bits: 2^(j/8) comes from a table, whose entries make up for the j that is added below the exponent, and a polynomial of degree 3
   does the rest, which is at most 1/16 (relative error 3e-8). Two thirds of the time of exp2. */
MAILP_WORD mailp_vec MAILP_FN(decay)(mailp_vec dt, mailp_vec A) {
    const __m256i   table = _mm256_setr_epi32(0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7);
    const mailp_vec eighths = mailp_vset(1572864.0f), sum = mailp_vmadd(dt, A, eighths);
    const mailp_vec f = mailp_vmadd(dt, A, mailp_vsub(eighths, sum));
    const __m256i   bits = _mm256_castps_si256(sum);
    const mailp_vec power = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_permutevar8x32_epi32(table, bits), _mm256_slli_epi32(bits, 20)));
    const mailp_vec q = mailp_vmadd(mailp_vmadd(mailp_vset(5.549622e-2f), f, mailp_vset(0.2402576f)), f, mailp_vset(0.6931472f));
    return mailp_vmadd(power, mailp_vmul(q, f), power);
}
#elif MAILP_PASS == MAILP_PASS_AVX512
/* The same by 32nds, which two registers hold: a polynomial of degree 2 is enough for at most 1/64 (relative error 5e-8). */
MAILP_WORD mailp_vec MAILP_FN(decay)(mailp_vec dt, mailp_vec A) {
    static const uint32_t table[32] = {
        0x3f800000, 0x3f7ecd87, 0x3f7daac3, 0x3f7c980f, 0x3f7b95c2, 0x3f7aa43a, 0x3f79c3d3, 0x3f78f4f0, 0x3f7837f0, 0x3f778d3a, 0x3f76f532,
        0x3f767043, 0x3f75fed7, 0x3f75a15b, 0x3f75583f, 0x3f7523f6, 0x3f7504f3, 0x3f74fbaf, 0x3f7508a4, 0x3f752c4d, 0x3f75672a, 0x3f75b9be,
        0x3f76248c, 0x3f76a81e, 0x3f7744fd, 0x3f77fbb8, 0x3f78ccdf, 0x3f79b907, 0x3f7ac0c7, 0x3f7be4ba, 0x3f7d257d, 0x3f7e83b3 };
    const mailp_vec parts = mailp_vset(393216.0f), sum = mailp_vmadd(dt, A, parts), f = mailp_vmadd(dt, A, mailp_vsub(parts, sum));
    const __m512i   bits = _mm512_castps_si512(sum);
    const __m512i   root = _mm512_permutex2var_epi32(_mm512_loadu_si512((const void *)table), bits, _mm512_loadu_si512((const void *)(table + 16)));
    const mailp_vec power = _mm512_castsi512_ps(_mm512_add_epi32(root, _mm512_slli_epi32(bits, 18)));
    return mailp_vmadd(power, mailp_vmul(mailp_vmadd(mailp_vset(0.2402265f), f, mailp_vset(0.69315733f)), f), power);
}
#endif

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

/* conv1d_silu of MAILP_W channels for 2 to 4 taps, as in every published model: weights and the last inputs stay in registers. */
MAILP_WORD void MAILP_FN(conv1d_lanes)(float *y, size_t ldy, const float *x, size_t ldx, const float *conv_state, size_t ldc, const float *w,
                                       const float *b, size_t ldw, size_t len, size_t d_conv) {
    const mailp_vec zero = mailp_vzero(), bias = mailp_vload(b);
    const mailp_vec w0 = mailp_vload(w), w1 = mailp_vload(w + ldw), w2 = d_conv > 2 ? mailp_vload(w + 2 * ldw) : zero;
    const mailp_vec w3 = d_conv > 3 ? mailp_vload(w + 3 * ldw) : zero;
    mailp_vec       x0 = conv_state == NULL ? zero : mailp_vload(conv_state);
    mailp_vec       x1 = conv_state == NULL || d_conv < 3 ? zero : mailp_vload(conv_state + ldc);
    mailp_vec       x2 = conv_state == NULL || d_conv < 4 ? zero : mailp_vload(conv_state + 2 * ldc);
    for (; len > 0; len--, x += ldx, y += ldy) {
        const mailp_vec now = mailp_vload(x);
        mailp_vec       s = mailp_vmadd(w0, x0, bias);
        if (d_conv == 2) {
            s = mailp_vmadd(w1, now, s);
        } else if (d_conv == 3) {
            s = mailp_vmadd(w2, now, mailp_vmadd(w1, x1, s));
        } else {
            s = mailp_vmadd(w3, now, mailp_vmadd(w2, x2, mailp_vmadd(w1, x1, s)));
        }
        mailp_vstore(y, MAILP_FN(silu)(s));
        x0 = d_conv > 2 ? x1 : now;
        x1 = d_conv > 3 ? x2 : now;
        x2 = now;
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
    for (i = 0; i < panels * MAILP_LANES; i += MAILP_W) {
        const float *from = conv_state == NULL ? NULL : conv_state + i;
        if (d_conv == 4) {
            MAILP_FN(conv1d_lanes)(y + i, ldy, x + i, ldx, from, ldc, w + i, b + i, ldw, len, 4);
        } else if (d_conv == 3) {
            MAILP_FN(conv1d_lanes)(y + i, ldy, x + i, ldx, from, ldc, w + i, b + i, ldw, len, 3);
        } else if (d_conv == 2) {
            MAILP_FN(conv1d_lanes)(y + i, ldy, x + i, ldx, from, ldc, w + i, b + i, ldw, len, 2);
        } else {
            for (l = 0; l < len; l++) {
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

#if MAILP_PASS == MAILP_PASS_AVX2 || MAILP_PASS == MAILP_PASS_AVX512
#  define MAILP_SCAN_LANES MAILP_LANES  /* channels at a time: here the vectors of a panel, which share B and C */
#else
#  define MAILP_SCAN_LANES MAILP_W
#endif

/* What the same channels need MAILP_SCAN_TOKENS later, whose rows are too far apart for the processor to see where they go, and `share`
   lines from ahead on */
#define MAILP_SCAN_FETCH                                                       \
    MAILP_PREFETCH((uintptr_t)x + MAILP_SCAN_TOKENS * ldx * sizeof(float));    \
    MAILP_PREFETCH((uintptr_t)dt + MAILP_SCAN_TOKENS * lddt * sizeof(float));  \
    MAILP_PREFETCH((uintptr_t)z + MAILP_SCAN_TOKENS * ldz * sizeof(float));    \
    MAILP_PREFETCH((uintptr_t)y + MAILP_SCAN_TOKENS * ldy * sizeof(float));    \
    for (to = ahead + share * MAILP_ALIGN; ahead < to; ahead += MAILP_ALIGN) { \
        MAILP_PREFETCH(ahead);                                                 \
    }
#define MAILP_SCAN_ARGS                                                                                                 \
    float *y, size_t ldy, float *state, const float *x, size_t ldx, const float *dt, size_t lddt, const float *A,       \
    const float *B, const float *C, size_t ldbc, const float *D, const float *z, size_t ldz, size_t len, size_t d_state, \
    uintptr_t ahead, size_t share

/* state[s] = 2^(dt * A[s]) * state[s] + in * B[s] of MAILP_W channels, and its value;  in = dt * x */
MAILP_WORD mailp_vec MAILP_FN(scan_state)(float *state, const float *A, const float *B, mailp_vec dt, mailp_vec in, size_t s) {
    const mailp_vec h = mailp_vmadd(MAILP_FN(exp2)(mailp_vmul(dt, mailp_vload(A + s * MAILP_LANES))), mailp_vload(state + s * MAILP_SCAN_LANES),
                                    mailp_vmul(in, mailp_vset(B[s])));
    mailp_vstore(state + s * MAILP_SCAN_LANES, h);
    return h;
}

/* One token of MAILP_W channels; operands as in scan, state [d_state][MAILP_SCAN_LANES]. */
MAILP_WORD void MAILP_FN(scan_token)(float *y, float *state, const float *x, const float *dt, const float *A, const float *B,
                                     const float *C, const float *D, const float *z, size_t d_state) {
    const mailp_vec xv = mailp_vload(x), dv = mailp_vload(dt), in = mailp_vmul(dv, xv);
    mailp_vec       even = mailp_vmul(mailp_vload(D), xv), odd = mailp_vzero();
    size_t          s;
    for (s = 0; s + 2 <= d_state; s += 2) {
        even = mailp_vmadd(MAILP_FN(scan_state)(state, A, B, dv, in, s), mailp_vset(C[s]), even);
        odd  = mailp_vmadd(MAILP_FN(scan_state)(state, A, B, dv, in, s + 1), mailp_vset(C[s + 1]), odd);
    }
    if (s < d_state) {
        even = mailp_vmadd(MAILP_FN(scan_state)(state, A, B, dv, in, s), mailp_vset(C[s]), even);
    }
    even = mailp_vadd(even, odd);
    if (z != NULL) {
        even = mailp_vmul(even, MAILP_FN(silu)(mailp_vload(z)));
    }
    mailp_vstore(y, even);
}

#if MAILP_PASS == MAILP_PASS_AVX2 || MAILP_PASS == MAILP_PASS_AVX512
/* The same for a panel where some decay vanishes or is NaN. Apart, so that its constants take no registers from what is usual. */
MAILP_KERNEL MAILP_NOINLINE void MAILP_FN(scan_token_far)(float *y, float *state, const float *x, const float *dt, const float *A,
                                                          const float *B, const float *C, const float *D, const float *z,
                                                          size_t d_state) {
    size_t v;
    for (v = 0; v < MAILP_LANES; v += MAILP_W) {
        MAILP_FN(scan_token)(y + v, state + v, x + v, dt + v, A + v, B, C, D + v, z == NULL ? NULL : z + v, d_state);
    }
}

/* least[j] = smallest A[s][j] */
MAILP_WORD void MAILP_FN(scan_least)(float *least, const float *A, size_t d_state) {
    size_t s, v;
    for (v = 0; v < MAILP_LANES; v += MAILP_W) {
        mailp_vec even = mailp_vzero(), odd = mailp_vzero();
        for (s = 0; s + 2 <= d_state; s += 2) {
            even = mailp_vmin(mailp_vload(A + s * MAILP_LANES + v), even);
            odd  = mailp_vmin(mailp_vload(A + (s + 1) * MAILP_LANES + v), odd);
        }
        if (s < d_state) {
            even = mailp_vmin(mailp_vload(A + s * MAILP_LANES + v), even);
        }
        mailp_vstore(least + v, mailp_vmin(even, odd));
    }
}

/* One token of a panel by decay. 0: nothing was done, since dt * A is below what that takes. */
#if MAILP_PASS == MAILP_PASS_AVX2
#  define MAILP_SCAN_EACH(X) X(0) X(1)
#  define MAILP_SCAN_NEAR                                                                                               \
    (_mm256_movemask_ps(_mm256_and_ps(_mm256_cmp_ps(mailp_vmul(dt0, mailp_vload(least)), low, _CMP_GE_OQ),              \
                                      _mm256_cmp_ps(mailp_vmul(dt1, mailp_vload(least + MAILP_W)), low, _CMP_GE_OQ))) == 0xff)
#else
#  define MAILP_SCAN_EACH(X) X(0)
#  define MAILP_SCAN_NEAR    (_mm512_cmp_ps_mask(mailp_vmul(dt0, mailp_vload(least)), low, _CMP_GE_OQ) == 0xffff)
#endif
#define MAILP_SCAN_FROM(v)   const mailp_vec x##v = mailp_vload(x + v * MAILP_W), dt##v = mailp_vload(dt + v * MAILP_W);
#define MAILP_SCAN_BEGIN(v)  const mailp_vec in##v = mailp_vmul(dt##v, x##v); mailp_vec y##v = mailp_vmul(mailp_vload(D + v * MAILP_W), x##v);
#define MAILP_SCAN_STATE(v)                                                                                             \
    const mailp_vec h##v = mailp_vmadd(MAILP_FN(decay)(dt##v, mailp_vload(As + v * MAILP_W)), mailp_vload(h + v * MAILP_W), mailp_vmul(in##v, b));
#define MAILP_SCAN_SUM(v)    mailp_vstore(h + v * MAILP_W, h##v); y##v = mailp_vmadd(h##v, c, y##v);
#define MAILP_SCAN_GATE(v)   y##v = mailp_vmul(y##v, MAILP_FN(silu)(mailp_vload(z + v * MAILP_W)));
#define MAILP_SCAN_PUT(v)    mailp_vstore(y + v * MAILP_W, y##v);
MAILP_WORD int MAILP_FN(scan_token_near)(float *y, float *state, const float *x, const float *dt, const float *A, const float *least,
                                         const float *B, const float *C, const float *D, const float *z, size_t d_state) {
    const mailp_vec low = mailp_vset(-125.0f);
    size_t          s;
    MAILP_SCAN_EACH(MAILP_SCAN_FROM)
    MAILP_SCAN_EACH(MAILP_SCAN_BEGIN)
    if (!MAILP_SCAN_NEAR) {
        return 0;
    }
    for (s = 0; s < d_state; s++) {
        const float    *As = A + s * MAILP_LANES;
        float          *h = state + s * MAILP_LANES;
        const mailp_vec b = mailp_vset(B[s]), c = mailp_vset(C[s]);
        MAILP_SCAN_EACH(MAILP_SCAN_STATE)
        MAILP_SCAN_EACH(MAILP_SCAN_SUM)
    }
    if (z != NULL) {
        MAILP_SCAN_EACH(MAILP_SCAN_GATE)
    }
    MAILP_SCAN_EACH(MAILP_SCAN_PUT)
    return 1;
}
#  undef MAILP_SCAN_EACH
#  undef MAILP_SCAN_NEAR
#endif

#if MAILP_PASS == MAILP_PASS_AVX512
/* scan_tokens for 16 states, as in every published model, which stay in registers. */
#define MAILP_SCAN_16(X)      X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define MAILP_SCAN_LOAD(s)    h##s = mailp_vload(state + s * MAILP_LANES);
#define MAILP_SCAN_STORE(s)   mailp_vstore(state + s * MAILP_LANES, h##s);
#define MAILP_SCAN_STEP(s)                                                                                              \
    h##s = mailp_vmadd(MAILP_FN(decay)(dv, mailp_vload(A + s * MAILP_LANES)), h##s, mailp_vmul(in, mailp_vset(B[s])));  \
    *(s % 2 == 0 ? &even : &odd) = mailp_vmadd(h##s, mailp_vset(C[s]), s % 2 == 0 ? even : odd);
MAILP_KERNEL void MAILP_FN(scan_16)(MAILP_SCAN_ARGS) {
    const mailp_vec low = mailp_vset(-125.0f);
    float           least[MAILP_LANES];
    uintptr_t       to;
    mailp_vec       h0, h1, h2, h3, h4, h5, h6, h7, h8, h9, h10, h11, h12, h13, h14, h15;
    MAILP_FN(scan_least)(least, A, d_state);
    MAILP_SCAN_16(MAILP_SCAN_LOAD)
    for (; len > 0; len--, x += ldx, dt += lddt, y += ldy, B += ldbc, C += ldbc, z = z == NULL ? NULL : z + ldz) {
        const mailp_vec xv = mailp_vload(x), dv = mailp_vload(dt), in = mailp_vmul(dv, xv);
        mailp_vec       even = mailp_vmul(mailp_vload(D), xv), odd = mailp_vzero();
        MAILP_SCAN_FETCH
        if (_mm512_cmp_ps_mask(mailp_vmul(dv, mailp_vload(least)), low, _CMP_GE_OQ) != 0xffff) {
            MAILP_SCAN_16(MAILP_SCAN_STORE)
            MAILP_FN(scan_token_far)(y, state, x, dt, A, B, C, D, z, d_state);
            MAILP_SCAN_16(MAILP_SCAN_LOAD)
            continue;
        }
        MAILP_SCAN_16(MAILP_SCAN_STEP)
        even = mailp_vadd(even, odd);
        mailp_vstore(y, z == NULL ? even : mailp_vmul(even, MAILP_FN(silu)(mailp_vload(z))));
    }
    MAILP_SCAN_16(MAILP_SCAN_STORE)
}
#endif

/* Some tokens of MAILP_SCAN_LANES channels; operands as in scan, state [d_state][MAILP_SCAN_LANES] in and out. */
MAILP_WORD void MAILP_FN(scan_tokens)(MAILP_SCAN_ARGS) {
    uintptr_t to;
#if MAILP_PASS == MAILP_PASS_AVX2 || MAILP_PASS == MAILP_PASS_AVX512
    float     least[MAILP_LANES];
#endif
#if MAILP_PASS == MAILP_PASS_AVX512
    if (d_state == 16) {
        MAILP_FN(scan_16)(y, ldy, state, x, ldx, dt, lddt, A, B, C, ldbc, D, z, ldz, len, d_state, ahead, share);
        return;
    }
#endif
#if MAILP_PASS == MAILP_PASS_AVX2 || MAILP_PASS == MAILP_PASS_AVX512
    MAILP_FN(scan_least)(least, A, d_state);
#endif
    for (; len > 0; len--, x += ldx, dt += lddt, y += ldy, B += ldbc, C += ldbc, z = z == NULL ? NULL : z + ldz) {
        MAILP_SCAN_FETCH
#if MAILP_PASS == MAILP_PASS_AVX2 || MAILP_PASS == MAILP_PASS_AVX512
        if (!MAILP_FN(scan_token_near)(y, state, x, dt, A, least, B, C, D, z, d_state)) {
            MAILP_FN(scan_token_far)(y, state, x, dt, A, B, C, D, z, d_state);
        }
#else
        MAILP_FN(scan_token)(y, state, x, dt, A, B, C, D, z, d_state);
#endif
    }
}

/* Selective state space model over one sequence, with the gate:

       ssm_state[s][e] = 2^(dt[l][e] * A[s][e]) * ssm_state[s][e] + dt[l][e] * B[l][s] * x[l][e]
       y[l][e]         = (sum_s C[l][s] * ssm_state[s][e] + D[e] * x[l][e]) * silu(z[l][e])

   y         [len][ldy]      out; may be x, dt or z
   state_out [panels][d_state][16]  out, the state after the last token; NULL: not wanted; may be state_in
   state_in  [panels][d_state][16]  the state before the first token; NULL: zeros
   x         [len][ldx]      after conv1d and silu
   dt        [len][lddt]     > 0, after softplus
   A         [panels][d_state][16]  -exp(A_log) * log2(e); a vector holds neighbouring channels, so every d_state fits and no
                             sum over lanes is needed, and what a panel needs lies together in memory
   B, C      [len][ldbc]     d_state values per token
   D         [..]            skip weights
   z         [len][ldz]      NULL: no gate
   ahead     from here on `lines` cache lines are fetched into the second-level cache meanwhile

   Source:  arXiv 2312.00752, sections 2 and 3.2, with dt * B in place of the exact integral, as released weights were trained.
   Numbers: sums run over s, in two alternating accumulators where one vector is at work.
   Cost:    len * d_inner * d_state exponentials dominate. The state of a panel stays in the first-level cache. */
MAILP_KERNEL void MAILP_FN(scan)(float *y, size_t ldy, float *state_out, const float *state_in, const float *x, size_t ldx,
                                 const float *dt, size_t lddt, const float *A, const float *B, const float *C, size_t ldbc,
                                 const float *D, const float *z, size_t ldz,
                                 size_t len, size_t d_state, size_t panels, uintptr_t ahead, size_t lines) {
    float        room[(MAILP_MAX_STATE + 1) * MAILP_SCAN_LANES];
    float       *state = room + (0 - (uintptr_t)room / sizeof(float)) % MAILP_SCAN_LANES;  /* aligned: no vector crosses a line of the cache */
    const size_t together = MAILP_MAX_STATE / d_state * MAILP_SCAN_LANES, d = panels * MAILP_LANES;
    const size_t share = lines / MAILP_MAX(len * (d / MAILP_SCAN_LANES), (size_t)1);
    size_t       first, end, i, l, s, v, count;
    for (first = 0; first < d; first = end) {
        end = MAILP_MIN(first + together, d);
        for (l = 0; l < len; l += count) {
            count = MAILP_MIN(len - l, (size_t)MAILP_SCAN_TOKENS);
            for (i = first; i < end; i += MAILP_SCAN_LANES) {
                const size_t at = i / MAILP_LANES * d_state * MAILP_LANES + i % MAILP_LANES;  /* of these channels in A and the states */
                float       *own = state + (i - first) * d_state;
                if (l == 0) {
                    for (s = 0; s < d_state; s++) {
                        for (v = 0; v < MAILP_SCAN_LANES; v += MAILP_W) {
                            mailp_vstore(own + s * MAILP_SCAN_LANES + v, state_in == NULL ? mailp_vzero() : mailp_vload(state_in + at + s * MAILP_LANES + v));
                        }
                    }
                }
                MAILP_FN(scan_tokens)(y + l * ldy + i, ldy, own, x + l * ldx + i, ldx, dt + l * lddt + i, lddt, A + at, B + l * ldbc, C + l * ldbc, ldbc,
                                      D + i, z == NULL ? NULL : z + l * ldz + i, ldz, count, d_state, ahead, share);
                ahead += count * share * MAILP_ALIGN;
                for (s = 0; state_out != NULL && l + count == len && s < d_state; s++) {
                    for (v = 0; v < MAILP_SCAN_LANES; v += MAILP_W) {
                        mailp_vstore(state_out + at + s * MAILP_LANES + v, mailp_vload(own + s * MAILP_SCAN_LANES + v));
                    }
                }
            }
        }
    }
}
#undef MAILP_SCAN_LANES

/* One head of attention:  y[i] (+)= sum_j p[i][j] v[j],  p[i] = softmax_j(q[i] . k[j] / sqrt(head_dim))

   Query i sees the first min(visible + i, n_kv) keys: visible = past + 1 makes it causal, visible = n_kv sees all.
   y [n_q][ldy], q [n_q][ldq], k and v [n_kv][ldkv], each pointing at the head's first channel.   accumulate: add to y.
   scores: scratch, 16 * (n_kv + head_dim).   Cost: n_q * n_kv * head_dim multiply-adds twice, n_q in the first rounded up to vectors.
   Up to the softmax the lanes of a vector are queries, so that nothing is summed over lanes: a third of the time it takes with keys there. */
#define MAILP_ATTEND_SCORE(r)  s##r = mailp_vmadd(qc, mailp_vset(kj[r * ldkv + c]), s##r);
#define MAILP_ATTEND_VALUE(r)  s##r = mailp_vmadd(share, mailp_vload(vj + r * MAILP_W), s##r);
#define MAILP_ATTEND_PUT(r)    s##r = mailp_vmul(s##r, mailp_vset(inverse[i])); \
                               mailp_vstore(yi + c + r * MAILP_W, accumulate ? mailp_vadd(mailp_vload(yi + c + r * MAILP_W), s##r) : s##r);
MAILP_KERNEL void MAILP_FN(attend)(float *y, size_t ldy, const float *q, size_t ldq, const float *k, const float *v, size_t ldkv,
                                   float *scores, size_t n_q, size_t n_kv, size_t visible, size_t head_dim, int accumulate) {
    const float scale = 1.0f / sqrtf((float)head_dim);
    const size_t whole = head_dim / MAILP_W * MAILP_W;
    float       *columns = scores + n_kv * MAILP_W;  /* of q: [head_dim][queries] */
    float        inverse[MAILP_W];
    size_t       first, here, i, j, c;
    for (first = 0; first < n_q; first += here, visible += here, q += here * ldq, y += here * ldy) {
        mailp_vec most = mailp_vset(-FLT_MAX), total = mailp_vzero();
        size_t    n;
        here = MAILP_MIN(n_q - first, (size_t)MAILP_W);
        n    = MAILP_MIN(visible + here - 1, n_kv);  /* keys that the last of them sees */
        memset(columns, 0, head_dim * MAILP_W * sizeof *columns);
        for (i = 0; i < here; i++) {
            for (c = 0; c < head_dim; c++) {
                columns[c * MAILP_W + i] = q[i * ldq + c] * scale;
            }
        }
        for (j = 0; j + 4 <= n; j += 4) {
            const float *kj = k + j * ldkv;
            mailp_vec    s0 = mailp_vzero(), s1 = mailp_vzero(), s2 = mailp_vzero(), s3 = mailp_vzero();
            for (c = 0; c < head_dim; c++) {
                const mailp_vec qc = mailp_vload(columns + c * MAILP_W);
                MAILP_ATTEND_SCORE(0) MAILP_ATTEND_SCORE(1) MAILP_ATTEND_SCORE(2) MAILP_ATTEND_SCORE(3)
            }
            mailp_vstore(scores + j * MAILP_W, s0);
            mailp_vstore(scores + (j + 1) * MAILP_W, s1);
            mailp_vstore(scores + (j + 2) * MAILP_W, s2);
            mailp_vstore(scores + (j + 3) * MAILP_W, s3);
        }
        for (; j < n; j++) {
            const float *kj = k + j * ldkv;
            mailp_vec    s0 = mailp_vzero();
            for (c = 0; c < head_dim; c++) {
                const mailp_vec qc = mailp_vload(columns + c * MAILP_W);
                MAILP_ATTEND_SCORE(0)
            }
            mailp_vstore(scores + j * MAILP_W, s0);
        }
        for (j = visible; j < n; j++) {
            for (i = 0; i <= j - visible; i++) {
                scores[j * MAILP_W + i] = -FLT_MAX;  /* not for this query: e^-huge is 0 to rounding */
            }
        }
        for (j = 0; j < n; j++) {
            most = mailp_vmax(most, mailp_vload(scores + j * MAILP_W));
        }
        for (j = 0; j < n; j++) {
            const mailp_vec e = MAILP_FN(exp)(mailp_vsub(mailp_vload(scores + j * MAILP_W), most));
            mailp_vstore(scores + j * MAILP_W, e);
            total = mailp_vadd(total, e);
        }
        mailp_vstore(inverse, mailp_vdiv(mailp_vset(1.0f), total));
        for (i = 0; i < here; i++) {
            const size_t seen = MAILP_MIN(visible + i, n_kv);
            float       *yi = y + i * ldy;
            for (c = 0; c + 4 * MAILP_W <= whole; c += 4 * MAILP_W) {
                mailp_vec s0 = mailp_vzero(), s1 = mailp_vzero(), s2 = mailp_vzero(), s3 = mailp_vzero();
                for (j = 0; j < seen; j++) {
                    const float    *vj = v + j * ldkv + c;
                    const mailp_vec share = mailp_vset(scores[j * MAILP_W + i]);
                    MAILP_ATTEND_VALUE(0) MAILP_ATTEND_VALUE(1) MAILP_ATTEND_VALUE(2) MAILP_ATTEND_VALUE(3)
                }
                MAILP_ATTEND_PUT(0) MAILP_ATTEND_PUT(1) MAILP_ATTEND_PUT(2) MAILP_ATTEND_PUT(3)
            }
            for (; c < whole; c += MAILP_W) {
                mailp_vec s0 = mailp_vzero();
                for (j = 0; j < seen; j++) {
                    const float    *vj = v + j * ldkv + c;
                    const mailp_vec share = mailp_vset(scores[j * MAILP_W + i]);
                    MAILP_ATTEND_VALUE(0)
                }
                MAILP_ATTEND_PUT(0)
            }
            for (; c < head_dim; c++) {
                float s = 0;
                for (j = 0; j < seen; j++) {
                    s += scores[j * MAILP_W + i] * v[j * ldkv + c];
                }
                yi[c] = accumulate ? yi[c] + s * inverse[i] : s * inverse[i];
            }
        }
    }
}

#undef MAILP_ATTEND_SCORE
#undef MAILP_ATTEND_VALUE
#undef MAILP_ATTEND_PUT

/* What a table ends in, see mailp_kernels: no products of integers, those of 8 bits, or those of 16 and 8 */
#define MAILP_NO_LOW  { NULL, NULL, NULL }, { NULL, NULL, NULL }, { NULL, NULL, NULL }, { 0, 0, 0 }, 0, 0, NULL, NULL, NULL
#define MAILP_LOW8    { NULL, NULL, NULL }, { NULL, NULL, MAILP_FN(conv_u8) }, { NULL, NULL, MAILP_FN(quantize) }, \
                      { 0, 0, MAILP_U8_RATE }, MAILP_U8_STEM, MAILP_U8_SUM, NULL, NULL, NULL
#define MAILP_LOW16(gemm16, gemm8, conv16, conv8, quantize8, rate8, stem, sum)                                               \
    { NULL, gemm16, gemm8 }, { NULL, conv16, conv8 }, { NULL, MAILP_FN(quantize16), quantize8 }, { 0, MAILP_S16_RATE, rate8 }, \
    stem, sum, MAILP_FN(rows16_weights), MAILP_FN(rows16_in), MAILP_FN(rows16_out)
#define MAILP_TABLE(low)                                                \
    { MAILP_NAME,                                                       \
      { MAILP_FN(gemm_f32), MAILP_FN(gemm_bf16), MAILP_FN(gemm_int8) }, \
      MAILP_FN(layer_norm),                                             \
      MAILP_FN(add),                                                    \
      MAILP_FN(conv1d_silu),                                            \
      MAILP_FN(softplus),                                               \
      MAILP_FN(gelu),                                                   \
      MAILP_FN(scan),                                                   \
      MAILP_FN(attend),                                                 \
      /* vision */                                                      \
      MAILP_FN(add_bytes), MAILP_FN(add_floats),                        \
      MAILP_FN(yuv),                                                    \
      MAILP_FN(conv),                                                   \
      MAILP_CONV_PANELS,                                                \
      MAILP_FN(group_norm),                                             \
      MAILP_FN(moments),                                                \
      MAILP_FN(pool),                                                   \
      MAILP_FN(pool_norm),                                              \
      MAILP_FN(widen),                                                  \
      MAILP_FN(winograd_weights),                                       \
      MAILP_FN(winograd_in),                                            \
      MAILP_FN(winograd_out),                                           \
      MAILP_WINOGRAD_PRODUCTS,                                          \
      MAILP_STEM_PRODUCTS,                                              \
      MAILP_WINOGRAD_ROWS,                                              \
      MAILP_WINOGRAD_ROWS4,                                             \
      MAILP_QUADS_MOST, MAILP_QUAD_LANES,                               \
      MAILP_WINOGRAD_QUAD,                                              \
      MAILP_WINOGRAD_QUAD_IN,                                           \
      low }
#if MAILP_PASS == MAILP_PASS_AVX2
static const mailp_kernels MAILP_FN(kernels) =
    MAILP_TABLE(MAILP_LOW16(MAILP_FN(gemm_int16), MAILP_FN(gemm_int8x16), MAILP_FN(conv_s16), MAILP_FN(conv_u8_or_stem), MAILP_FN(quantize),
                            MAILP_U8_RATE, MAILP_U8_STEM, MAILP_U8_SUM));
#elif MAILP_PASS == MAILP_PASS_NEON && defined(MAILP_U8_ATTR)
static const mailp_kernels MAILP_FN(kernels) = MAILP_TABLE(MAILP_LOW8);
#else
static const mailp_kernels MAILP_FN(kernels) = MAILP_TABLE(MAILP_NO_LOW);
#endif
#ifdef MAILP_VNNI_ATTR
static const mailp_kernels MAILP_FN(kernels_vnni) =
    MAILP_TABLE(MAILP_LOW16(MAILP_FN(gemm_int16_vnni), MAILP_FN(gemm_int8x16_vnni), MAILP_FN(conv_s16_vnni), MAILP_FN(conv_u8_vnni),
                            MAILP_FN(quantize_vnni), MAILP_VNNI_RATE, MAILP_VNNI_STEM, 0));
#elif MAILP_PASS == MAILP_PASS_AVX512 && defined(MAILP_U8_ATTR)
static const mailp_kernels MAILP_FN(kernels_vnni) =
    MAILP_TABLE(MAILP_LOW16(MAILP_FN(gemm_int16), MAILP_FN(gemm_int8x16), MAILP_FN(conv_s16), MAILP_FN(conv_u8), MAILP_FN(quantize),
                            MAILP_U8_RATE, MAILP_U8_STEM, MAILP_U8_SUM));
#endif

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
#undef mailp_vmadd
#undef mailp_vnmadd
#undef mailp_vround
#undef mailp_vfloor
#undef mailp_vscale
#undef mailp_vload_bf16
#undef mailp_vload_i8
#undef mailp_vload_u8
#undef MAILP_IN_ORDER
#undef MAILP_CONV_PANELS
#undef MAILP_EVERY_TILE
#undef MAILP_TALL
#undef MAILP_EVERY_TALL
#undef MAILP_TALL_TABLE
#undef MAILP_TILE_TABLE
#undef MAILP_WINOGRAD_PRODUCTS
#undef MAILP_STEM_PRODUCTS
#undef MAILP_WINOGRAD_ROWS
#undef MAILP_WINOGRAD_ROWS4
#undef MAILP_ROWS4_FETCHED
#undef MAILP_ROWS4_FETCH
#undef MAILP_QUADS_MOST
#undef MAILP_QUAD_PASSES
#undef MAILP_QUAD_LANES
#undef MAILP_WINOGRAD_QUAD
#undef MAILP_WINOGRAD_QUAD_IN
#undef MAILP_IN_PLACE
#undef MAILP_U8_MOST
#undef MAILP_U8_RATE
#undef MAILP_U8_STEM
#undef MAILP_U8_SUM
#undef MAILP_U8_ATTR
#undef MAILP_S16_RATE
#undef MAILP_VNNI_ATTR
#undef MAILP_VNNI_MOST
#undef MAILP_VNNI_RATE
#undef MAILP_VNNI_STEM
#undef MAILP_TABLE
#undef MAILP_NO_LOW
#undef MAILP_LOW8
#undef MAILP_LOW16
#undef MAILP_NAME
#endif /* MAILP_PASS: end of >>kernels */

#if !defined(MAILP_PASS) && defined(MAIL_IMPLEMENTATION) && !defined(MAILP_UPPER_HALF)
#define MAILP_UPPER_HALF

#if defined(MAILP_X86)
/* r: eax, ebx, ecx and edx; zeros where there is no such leaf */
static void mailp_cpuid(unsigned *r, unsigned leaf, unsigned subleaf) {
    memset(r, 0, 4 * sizeof *r);
#if defined(_MSC_VER) && !defined(__clang__)
    __cpuid((int *)r, 0);
    if (r[0] < leaf) {
        memset(r, 0, 4 * sizeof *r);
        return;
    }
    __cpuidex((int *)r, (int)leaf, (int)subleaf);
#else
    (void)__get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]);
#endif
}

/* What cpuid and the operating system (xgetbv: are the wide registers saved?) allow; vnni: AVX-VNNI, vnni512: AVX-512's.
   MAILP_EMULATED_AVX512: tests/simde/avx512.h puts functions in the place of the intrinsics of AVX-512 and AVX-VNNI. */
static void mailp_cpu(int *avx2, int *avx512, int *vnni, int *vnni512) {
    unsigned r[4], xcr0;
    *avx2 = *avx512 = *vnni = *vnni512 = 0;
    mailp_cpuid(r, 1, 0);
    if (!(r[2] & (1u << 27)) || !(r[2] & (1u << 12)) || !(r[2] & (1u << 28))) {
        return;  /* no osxsave, fma or avx */
    }
#if defined(_MSC_VER) && !defined(__clang__)
    xcr0 = (unsigned)_xgetbv(0);
#else
    __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(r[3]) : "c"(0));
#endif
    mailp_cpuid(r, 7, 0);
    *avx2   = (xcr0 & 0x06) == 0x06 && (r[1] & (1u << 5));
    *avx512 = *avx2 && (xcr0 & 0xe6) == 0xe6 && (r[1] & (1u << 16)) && (r[1] & (1u << 17)) && (r[1] & (1u << 30)) && (r[1] & (1u << 31));
    *vnni512 = *avx512 && (r[2] & (1u << 11));
    mailp_cpuid(r, 7, 1);
    *vnni = *avx2 && (r[0] & (1u << 4));
#if defined(MAILP_EMULATED_AVX512)
    *avx512 = *vnni = *vnni512 = *avx2;
#endif
}
#endif

/* The table named isa, or the best of this machine for NULL; NULL if this machine or build has no such set. */
MAILP_UNUSED static const mailp_kernels *mailp_kernels_choose(const char *isa) {
#if defined(MAILP_X86)
    int avx2, avx512, vnni, vnni512;
    mailp_cpu(&avx2, &avx512, &vnni, &vnni512);
#if !defined(MAILP_NO_VNNI)
    if (vnni512 && (isa == NULL || strcmp(isa, "avx512") == 0)) {
        return &mailp_kernels_vnni_avx512;
    }
#endif
    if (avx512 && (isa == NULL || strcmp(isa, "avx512") == 0)) {
        return &mailp_kernels_avx512;
    }
#if defined(MAILP_HAS_AVX_VNNI)
    if (vnni && (isa == NULL || strcmp(isa, "avx2") == 0)) {
        return &mailp_kernels_vnni_avx2;
    }
#endif
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
    const mail_tensors   *tensors;
    const mail_allocator *allocator;
    const mailp_kernels  *kernels;
    mail_weights          weights;
    mailp_arena           arena;    /* packed weights */
    size_t                measured; /* bytes of them */
    float                *tmp;      /* one tensor at a time, as float32; NULL while measuring */
    size_t                tmp_need; /* floats; grows while measuring */
    const mail_tensor    *held;     /* the tensor whose values were given out last, or NULL */
    const mail_tensor    *twin;     /* what the file has under the other name of the tensor that was found last, or NULL */
    unsigned char        *used;     /* [mail_tensors_count] tensors that were asked for */
    size_t                n_parameters;
    mail_status           status;
    mail_error           *err;
} mailp_loader;

/* Begin with the weights, instruction set and allocator of options, which must outlive the loader. What this takes, mailp_loader_end
   gives back; after a failure there is nothing. */
static mail_status mailp_loader_begin(mailp_loader *l, const mail_tensors *tensors, const mail_options *options, mail_error *err) {
    const size_t n = mail_tensors_count(tensors) + 1;
    memset(l, 0, sizeof *l);
    l->tensors   = tensors;
    l->allocator = &options->allocator;
    l->kernels   = mailp_kernels_choose(options->isa);
    l->weights   = options->weights;
    l->err       = err;
    if ((unsigned)options->weights > MAIL_WEIGHTS_INT8) {
        l->status = mailp_fail(err, MAIL_E_ARGUMENT, "weights %d are none of f32, bf16 and int8", (int)options->weights);
    } else if (l->kernels == NULL) {
        l->status = mailp_fail(err, MAIL_E_UNSUPPORTED, "instruction set '%s' is not known or this machine does not have it", options->isa);
    } else if ((l->used = (unsigned char *)mailp_alloc(l->allocator, n)) == NULL) {
        l->status = mailp_fail(err, MAIL_E_MEMORY, "no memory to mark %llu tensors", MAILP_LLU(n));
    } else {
        memset(l->used, 0, n);
    }
    return l->status;
}

/* All has been measured: memory for a tensor at a time, and for the weights, which is the caller's to free, also if this fails. NULL:
   something failed before. */
static void *mailp_loader_block(mailp_loader *l) {
    void *block = l->status == MAIL_OK ? mailp_alloc(l->allocator, l->arena.used) : NULL;
    if (block != NULL) {
        l->tmp = (float *)mailp_alloc(l->allocator, mailp_bytes((uint64_t)l->tmp_need + MAILP_LANES, sizeof(float)));
    }
    if (l->status == MAIL_OK && l->tmp == NULL) {
        l->status = mailp_fail(l->err, MAIL_E_MEMORY, "no memory for %llu bytes of weights", MAILP_LLU(l->arena.used));
    }
    l->measured   = l->arena.used;
    l->arena.base = (unsigned char *)block;
    l->arena.used = 0;
    return block;
}

/* name with the last occurrence of from replaced by to, in out; 0 if from is not there. Both begin with a point, which is not there
   where name begins with the rest of from. */
static int mailp_alias(char *out, size_t size, const char *name, const char *from, const char *to) {
    const char *at = NULL, *next = name;
    while ((next = strstr(next, from)) != NULL) {
        at = next++;
    }
    if (at == NULL && strncmp(name, from + 1, strlen(from) - 1) == 0) {
        (void)snprintf(out, size, "%s%s", to + 1, name + strlen(from) - 1);
        return 1;
    }
    if (at == NULL) {
        return 0;
    }
    (void)snprintf(out, size, "%.*s%s%s", (int)(at - name), name, to, at + strlen(from));
    return 1;
}

/* The tensor of that name. Modules that a checkpoint registers twice (robomimic's backbone = nets.0 and pool = nets.1) are found
   under either name; both are marked as used, and if a file carries both, mailp_load wants them equal. */
static const mail_tensor *mailp_find(mailp_loader *l, const char *name) {
    char               other[256];
    const mail_tensor *a = mail_tensors_find(l->tensors, name), *b = NULL;
    if (mailp_alias(other, sizeof other, name, ".backbone.", ".nets.0.")) {
        b = mail_tensors_find(l->tensors, other);
    }
    if (b == NULL && mailp_alias(other, sizeof other, name, ".pool.", ".nets.1.")) {  /* the part before may have backbones of its own */
        b = mail_tensors_find(l->tensors, other);
    }
    if (a != NULL) {
        l->used[a - l->tensors->tensor] = 1;
    }
    if (b != NULL) {
        l->used[b - l->tensors->tensor] = 1;
    }
    l->twin = a != NULL ? b : NULL;
    return a != NULL ? a : b;
}

/* Every tensor whose name begins with prefix must have been asked for, but for what holds no weights: it would change the result. */
static void mailp_check_surplus(mailp_loader *l, const char *prefix, const char *whole) {
    const size_t n = strlen(prefix);
    size_t       i;
    for (i = 0; i < l->tensors->n && l->status == MAIL_OK; i++) {
        const mail_tensor *t = mail_tensors_at(l->tensors, i);
        if (strncmp(t->name, prefix, n) == 0 && !l->used[t - l->tensors->tensor] && !mailp_weightless(t)) {
            l->status = mailp_fail(l->err, MAIL_E_TENSOR, "tensor '%s' belongs to no part of this %s", t->name, whole);
        }
    }
}

/* What mailp_load gave last is no longer needed. */
static void mailp_loader_release(mailp_loader *l) {
    if (l->held != NULL) {
        mailp_tensors_release(l->tensors, l->held);
        l->held = NULL;
    }
}

static void mailp_loader_end(mailp_loader *l) {
    assert(l->status != MAIL_OK || l->arena.used == l->measured);
    mailp_loader_release(l);
    mailp_free(l->allocator, l->tmp);
    mailp_free(l->allocator, l->used);
}

/* Where the first value that is not finite stands, or n. */
static size_t mailp_not_finite(const float *x, size_t n) {
    size_t i;
    for (i = 0; i < n && fabsf(x[i]) <= FLT_MAX; i++) {
    }
    return i;
}

/* Fetch a weight as float32, row-major, with exactly this shape. While measuring only the shape is checked.
   Returns values that hold until the next call, or NULL while measuring and after a failure. */
static const float *mailp_load(mailp_loader *l, const char *name, unsigned n_dims, size_t d0, size_t d1, size_t d2, size_t d3) {
    const mail_tensor *t;
    const float       *values;
    size_t             want[4], n = 1, bad;
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
        if (l->twin != NULL && !mailp_tensors_alike(t, l->twin)) {
            l->status = mailp_fail(l->err, MAIL_E_TENSOR, "tensors '%s' and '%s' are two names of one thing, but their values differ",
                                   t->name, mailp_show_text(l->twin->name).text);
        }
        l->tmp_need = MAILP_MAX(l->tmp_need, n);
        l->n_parameters += n;
        return NULL;
    }
    mailp_loader_release(l);
    l->held = t;
    values  = mailp_tensor_in_place(l->tensors, t);
    if (values == NULL) {
        values    = l->tmp;
        l->status = mail_tensor_read(t, l->tmp, n, l->err);
    }
    bad = l->status == MAIL_OK ? mailp_not_finite(values, n) : n;
    if (bad < n) {
        l->status = mailp_fail(l->err, MAIL_E_NUMBER, "tensor '%s' holds a value that is not a finite float32 at index %llu", name,
                               MAILP_LLU(bad));
    }
    return l->status == MAIL_OK ? values : NULL;
}

/* Kernels, threads and where time is reported, carried through a computation. */
typedef struct mailp_ctx {
    const mailp_kernels *kernels;
    const mail_parallel *parallel;
    size_t               n_threads;
    const mail_profile  *profile;   /* or NULL */
    const char          *part;      /* what is being computed, for the profile */
} mailp_ctx;

/* The clock of the profile, or 0 when nobody asks; mailp_profile_add reports the time since start. */
MAILP_INLINE double mailp_profile_now(const mailp_ctx *ctx) {
    return ctx->profile == NULL ? 0.0 : ctx->profile->now(ctx->profile->user);
}

static void mailp_profile_add(const mailp_ctx *ctx, size_t layer, double start) {
    if (ctx->profile != NULL) {
        ctx->profile->add(ctx->profile->user, ctx->part, layer, mailp_profile_now(ctx) - start);
    }
}

/* Share t of n units split over n_threads: [*from, *to). */
static void mailp_share(size_t *from, size_t *to, size_t n, size_t t, size_t n_threads) {
    *from = n * t / n_threads;
    *to   = n * (t + 1) / n_threads;
}

static size_t mailp_weight_bytes(mail_weights type) {
    return type == MAIL_WEIGHTS_F32 ? sizeof(float) : type == MAIL_WEIGHTS_BF16 ? sizeof(uint16_t) : sizeof(int8_t);
}

/* Element `at` of packed weights: value as it is, rounded to bf16, or as an integer the nearest multiple of step. With bf16, step 0
   means that there is none; otherwise the integers have 16 bits. */
MAILP_INLINE void mailp_weight_put(void *to, size_t at, float value, mail_weights type, float step) {
    if (type == MAIL_WEIGHTS_F32) {
        ((float *)to)[at] = value;
    } else if (type == MAIL_WEIGHTS_INT8) {
        ((int8_t *)to)[at] = (int8_t)floorf(value / step + 0.5f);
    } else if (step > 0) {
        ((int16_t *)to)[at] = (int16_t)floorf(value / step + 0.5f);
    } else {
        ((uint16_t *)to)[at] = (uint16_t)mailp_bf16(value);
    }
}

/* Depth of a linear map's packed weights */
static size_t mailp_mat_depth(const mailp_mat *mat) {
    return mat->low ? (mat->k + 1) / 2 * 2 : mat->k;
}

/* Room for a linear map of k inputs and lanes outputs (whole panels), zeros until filled. Rounding rows to integers pays where many
   outputs share it. */
static void mailp_mat_take(mailp_loader *l, mailp_mat *mat, size_t lanes, size_t k, int has_bias, mail_weights type) {
    mat->k      = k;
    mat->panels = lanes / MAILP_LANES;
    mat->type   = type;
    mat->low    = l->kernels->gemm_low[type] != NULL && k >= 32 && lanes >= 4 * MAILP_LANES;
    mat->w      = mailp_take_zeros(&l->arena, (uint64_t)lanes * mailp_mat_depth(mat), mailp_weight_bytes(type));
    mat->bias   = has_bias ? (float *)mailp_take_zeros(&l->arena, lanes, sizeof(float)) : NULL;
    mat->scale  = type == MAIL_WEIGHTS_INT8 || mat->low ? (float *)mailp_take_zeros(&l->arena, lanes, sizeof(float)) : NULL;
}

/* The step of integers that hold weights v [k] of one output: the largest is +-127, or with bf16, which becomes 16 bits, so large
   that sums of products with a row fit into 32. */
static float mailp_mat_step(const float *v, size_t k, mail_weights type) {
    float  most = 0, sum = 0, sums = 0;
    size_t i;
    for (i = 0; i < k; i++) {
        most = MAILP_MAX(most, fabsf(v[i]));
        sum  = fabsf(v[i]) + (i % MAILP_PAIRS_SUM == 0 ? 0 : sum);
        sums = MAILP_MAX(sums, sum);
    }
    most /= type == MAIL_WEIGHTS_INT8 ? 127.0f : 32767.0f;
    if (type != MAIL_WEIGHTS_INT8) {
        most = MAILP_MAX(most, sums / (2147483647.0f / MAILP_PAIRS_MOST - MAILP_PAIRS_SUM));  /* 128 are rounded by a half each, and float rounds */
    }
    return most > 1e-30f ? most : 1.0f;
}

/* Pack n rows of the tensor name, [rows][k], from row `row` on, as output channels at, at + 1, ...
   Integers are the nearest multiples of scale[o] = mailp_mat_step. */
static void mailp_mat_rows(mailp_loader *l, mailp_mat *mat, size_t at, const char *name, size_t rows, size_t row, size_t n) {
    const float *from = mailp_load(l, name, 2, rows, mat->k, 0, 0);
    void        *w    = (void *)(uintptr_t)mat->w;
    size_t       o, i;
    for (o = 0; from != NULL && o < n; o++) {
        const float *v     = from + (row + o) * mat->k;
        const size_t first = (at + o) / MAILP_LANES * mailp_mat_depth(mat) * MAILP_LANES, lane = (at + o) % MAILP_LANES;
        float        step  = 0;
        if (mat->scale != NULL) {
            step = mailp_mat_step(v, mat->k, mat->type);
            ((float *)(uintptr_t)mat->scale)[at + o] = step;
        }
        for (i = 0; i < mat->k; i++) {
            const size_t to = first + (mat->low ? (i / 2 * MAILP_LANES + lane) * 2 + i % 2 : i * MAILP_LANES + lane);
            mailp_weight_put(w, to, v[i], mat->type, step);
        }
    }
}

/* Copy a vector of n values, padded with zeros, to where to points (NULL while measuring). */
static void mailp_vector_fill(mailp_loader *l, const float *to, const char *name, size_t n) {
    const float *from = mailp_load(l, name, 1, n, 0, 0, 0);
    if (from != NULL && to != NULL) {
        memcpy((float *)(uintptr_t)to, from, n * sizeof(float));
    }
}

static const float *mailp_vector(mailp_loader *l, const char *name, size_t n) {
    float *to = (float *)mailp_take_zeros(&l->arena, mailp_pad(n), sizeof(float));
    mailp_vector_fill(l, to, name, n);
    return to;
}

/* A table of rows of n values each, every row padded to whole panels. name: [rows][n], or [1][rows][n] if lead is 1. */
static const float *mailp_table(mailp_loader *l, const char *name, int lead, size_t rows, size_t n) {
    size_t       ld = mailp_pad(n), i;
    float       *to = (float *)mailp_take_zeros(&l->arena, (uint64_t)rows * ld, sizeof(float));
    const float *from = lead ? mailp_load(l, name, 3, 1, rows, n, 0) : mailp_load(l, name, 2, rows, n, 0, 0);
    if (from != NULL && to != NULL) {
        for (i = 0; i < rows; i++) {
            memcpy(to + i * ld, from + i * n, n * sizeof(float));
        }
    }
    return to;
}

/* prefix + suffix, for names of tensors; cut if too long, and then the tensor is not found */
typedef struct mailp_name {
    char text[256];
} mailp_name;

static const char *mailp_cat(mailp_name *name, const char *prefix, const char *suffix) {
    const size_t n = sizeof name->text, a = MAILP_MIN(strlen(prefix), n - 1), b = MAILP_MIN(strlen(suffix), n - 1 - a);
    memmove(name->text, prefix, a);
    memcpy(name->text + a, suffix, b);
    name->text[a + b] = '\0';
    return name->text;
}

/* y = W x + b as checkpoints hold it: prefix.weight [n][k], prefix.bias [n] */
static void mailp_linear_build(mailp_loader *l, mailp_mat *mat, const char *prefix, size_t n, size_t k, mail_weights type) {
    mailp_name name;
    mailp_mat_take(l, mat, mailp_pad(n), k, 1, type);
    mailp_mat_rows(l, mat, 0, mailp_cat(&name, prefix, ".weight"), n, 0, n);
    mailp_vector_fill(l, mat->bias, mailp_cat(&name, prefix, ".bias"), n);
}

/* y[m] (+)= W x[m] + b for panels [from, to) of the outputs; y and ldy count from output channel 0. */
static void mailp_linear_part(const mailp_ctx *ctx, float *y, size_t ldy, const float *x, size_t ldx, const mailp_mat *mat,
                              size_t rows, size_t from, size_t to, int accumulate) {
    if (rows != 0 && from < to) {
        (mat->low ? ctx->kernels->gemm_low : ctx->kernels->gemm)[mat->type](
            y + from * MAILP_LANES, ldy, x, ldx,
            (const unsigned char *)mat->w + from * mailp_mat_depth(mat) * MAILP_LANES * mailp_weight_bytes(mat->type),
            mat->scale == NULL ? NULL : mat->scale + from * MAILP_LANES, mat->bias == NULL ? NULL : mat->bias + from * MAILP_LANES,
            rows, mat->k, to - from, accumulate);
    }
}

static void mailp_linear(const mailp_ctx *ctx, float *y, size_t ldy, const float *x, size_t ldx, const mailp_mat *mat, size_t rows) {
    mailp_linear_part(ctx, y, ldy, x, ldx, mat, rows, 0, mat->panels, 0);
}

/* ---- Mamba (MODEL of the paper's D-Ma and ED-Ma; block of arXiv 2312.00752, section 3.4) --------------------------------- */

typedef struct mailp_mamba_layer {
    const float *norm_weight, *norm_bias;                /* [d_model] */
    mailp_mat    in_proj;                                /* d_model -> x [ep] then z [ep] */
    const float *conv_w, *conv_b;                        /* [d_conv][ep], [ep] */
    mailp_mat    x_proj;                                 /* d_inner -> dt_rank, B, C */
    mailp_mat    dt_proj;                                /* dt_rank -> ep */
    const float *A, *D;                                  /* [ep / 16][d_state][16]: -exp(A_log) log2(e); [ep] */
    mailp_mat    out_proj;                               /* d_inner -> d_model */
} mailp_mamba_layer;

typedef struct mailp_mamba {
    size_t             n_layers, d_model, d_state, d_conv, d_inner, dt_rank;
    size_t             dp, ep;         /* d_model and d_inner padded to panels */
    size_t             state_floats;   /* per layer and sequence: conv_state [d_conv - 1][ep], then ssm_state [ep / 16][d_state][16] */
    mailp_mamba_layer *layers;
    const float       *norm_f_weight, *norm_f_bias;
} mailp_mamba;

/* The block without its norm: prefix "...mixer." */
static void mailp_mixer_build(mailp_loader *l, const mailp_mamba *m, mailp_mamba_layer *layer, const char *prefix) {
    mailp_name   name;
    const float *from;
    float       *A, *conv;
    size_t       e, s;
    mailp_mat_take(l, &layer->in_proj, 2 * m->ep, m->d_model, 0, l->weights);
    mailp_mat_rows(l, &layer->in_proj, 0, mailp_cat(&name, prefix, "in_proj.weight"), 2 * m->d_inner, 0, m->d_inner);
    mailp_mat_rows(l, &layer->in_proj, m->ep, name.text, 2 * m->d_inner, m->d_inner, m->d_inner);
    if (l->tmp == NULL) {
        l->n_parameters -= 2 * m->d_inner * m->d_model;  /* asked for twice, counted once */
    }
    conv          = (float *)mailp_take_zeros(&l->arena, (uint64_t)m->d_conv * m->ep, sizeof(float));
    layer->conv_w = conv;
    from = mailp_load(l, mailp_cat(&name, prefix, "conv1d.weight"), 3, m->d_inner, 1, m->d_conv, 0);
    if (from != NULL && conv != NULL) {
        for (e = 0; e < m->d_inner; e++) {
            for (s = 0; s < m->d_conv; s++) {
                conv[s * m->ep + e] = from[e * m->d_conv + s];
            }
        }
    }
    layer->conv_b = mailp_vector(l, mailp_cat(&name, prefix, "conv1d.bias"), m->d_inner);
    mailp_mat_take(l, &layer->x_proj, mailp_pad(m->dt_rank + 2 * m->d_state), m->d_inner, 0, l->weights);
    mailp_mat_rows(l, &layer->x_proj, 0, mailp_cat(&name, prefix, "x_proj.weight"), m->dt_rank + 2 * m->d_state, 0,
                   m->dt_rank + 2 * m->d_state);
    mailp_linear_build(l, &layer->dt_proj, mailp_cat(&name, prefix, "dt_proj"), m->d_inner, m->dt_rank, MAIL_WEIGHTS_F32);  /* few bytes, and all of dt hangs on it */
    A        = (float *)mailp_take_zeros(&l->arena, (uint64_t)m->d_state * m->ep, sizeof(float));
    layer->A = A;
    from = mailp_load(l, mailp_cat(&name, prefix, "A_log"), 2, m->d_inner, m->d_state, 0, 0);
    if (from != NULL && A != NULL) {
        for (e = 0; e < m->d_inner; e++) {
            for (s = 0; s < m->d_state; s++) {
                double a = -exp((double)from[e * m->d_state + s]) * 1.4426950408889634;
                A[(e / MAILP_LANES * m->d_state + s) * MAILP_LANES + e % MAILP_LANES] = a < -1e30 ? -1e30f : (float)a;  /* beyond float32 the decay is 0 all the same */
            }
        }
    }
    layer->D = mailp_vector(l, mailp_cat(&name, prefix, "D"), m->d_inner);
    mailp_mat_take(l, &layer->out_proj, m->dp, m->d_inner, 0, l->weights);
    mailp_mat_rows(l, &layer->out_proj, 0, mailp_cat(&name, prefix, "out_proj.weight"), m->d_model, 0, m->d_model);
}

static void mailp_mamba_build(mailp_loader *l, mailp_mamba *m, const char *prefix, const mailp_trunk_config *c, size_t d_model) {
    mailp_name name, at;
    size_t     i;
    m->n_layers = c->n_layers;
    m->d_model  = d_model;
    m->d_state  = c->d_state;
    m->d_conv   = c->d_conv;
    m->d_inner  = c->d_inner;
    m->dt_rank  = c->dt_rank;
    m->dp       = mailp_pad(d_model);
    m->ep       = mailp_pad(c->d_inner);
    m->state_floats = (c->d_conv - 1 + c->d_state) * m->ep;
    m->layers   = (mailp_mamba_layer *)mailp_take(&l->arena, c->n_layers * sizeof(mailp_mamba_layer));
    for (i = 0; i < c->n_layers && l->status == MAIL_OK; i++) {
        mailp_mamba_layer unplaced;
        mailp_mamba_layer *y = m->layers == NULL ? &unplaced : &m->layers[i];
        (void)snprintf(at.text, sizeof at.text, "%s%s.layers.%lu.", prefix, c->name, (unsigned long)i);
        mailp_mixer_build(l, m, y, mailp_cat(&name, at.text, "mixer."));
        y->norm_weight = mailp_vector(l, mailp_cat(&name, at.text, "norm.weight"), d_model);
        y->norm_bias   = mailp_vector(l, mailp_cat(&name, at.text, "norm.bias"), d_model);
    }
    (void)snprintf(at.text, sizeof at.text, "%s%s.norm_f.", prefix, c->name);
    m->norm_f_weight = mailp_vector(l, mailp_cat(&name, at.text, "weight"), d_model);
    m->norm_f_bias   = mailp_vector(l, mailp_cat(&name, at.text, "bias"), d_model);
}

/* A run of consecutive rows that belong to one sequence, and what stands before it. */
typedef struct mailp_seq {
    size_t       row, len;
    const float *state_in;  /* Mamba: [n_layers][state_floats], or NULL: the sequence starts here */
    float       *state_out; /* the same, after the last row; NULL: not wanted; may be state_in */
    float       *kv;        /* transformer: [n_layers][2][capacity][dp]; rows before past are given, len rows are added */
    size_t       capacity, past;
    const float *memory;    /* decoder: cross keys and values [n_layers][2][n_memory][dp] */
    size_t       n_memory;
} mailp_seq;

/* One layer on several sequences:  r += mixer(layer_norm(r)) + cond.  Work is split over threads by channels, in three
   phases with a join after each; every sum is taken by one thread in a fixed order. */
typedef struct mailp_mamba_job {
    const mailp_ctx         *ctx;
    const mailp_mamba       *m;
    const mailp_mamba_layer *layer;
    size_t                   index;       /* of the layer */
    float                   *r;           /* [rows][dp] residual stream */
    const float             *input;       /* NULL; or [rows][d_model]: the block alone, r = mixer(input) */
    const float             *cond;        /* [rows][dp] or NULL */
    const mailp_seq         *seqs;
    size_t                   n_seqs, rows;
    int                      state_only;  /* nothing after the scan is wanted */
    float                   *xz;          /* [rows][2 ep]: x and z; later y in place of x */
    float                   *xc;          /* [rows][ep]: x after conv1d and silu */
    float                   *dt;          /* [rows][ep] */
    float                   *own;         /* per thread: [rows][dp], then [rows][pad(dt_rank + 2 d_state)] */
    size_t                   own_floats;
} mailp_mamba_job;

static uint64_t mailp_mamba_scratch(const mailp_mamba *m, uint64_t rows, uint64_t n_threads) {
    return rows * 4 * m->ep + n_threads * rows * (m->dp + mailp_pad(m->dt_rank + 2 * m->d_state));
}

static void mailp_mamba_in(void *arg, size_t t) {
    const mailp_mamba_job   *j = (const mailp_mamba_job *)arg;
    const mailp_mamba       *m = j->m;
    const mailp_mamba_layer *y = j->layer;
    const size_t             P = m->ep / MAILP_LANES, ld = 2 * m->ep;
    float                   *normed = j->own + t * j->own_floats;
    const float             *in     = j->input == NULL ? normed : j->input;
    const size_t             ldin   = j->input == NULL ? m->dp : m->d_model;
    size_t                   from, to, i;
    mailp_share(&from, &to, P, t, j->ctx->n_threads);
    if (from == to) {
        return;
    }
    if (j->input == NULL) {
        j->ctx->kernels->layer_norm(normed, m->dp, j->r, m->dp, y->norm_weight, y->norm_bias, j->rows, m->d_model);
    }
    mailp_linear_part(j->ctx, j->xz, ld, in, ldin, &y->in_proj, j->rows, from, to, 0);
    if (!j->state_only) {
        mailp_linear_part(j->ctx, j->xz, ld, in, ldin, &y->in_proj, j->rows, P + from, P + to, 0);
    }
    from *= MAILP_LANES;
    to   *= MAILP_LANES;
    for (i = 0; i < j->n_seqs; i++) {
        const mailp_seq *s  = &j->seqs[i];
        const size_t     at = j->index * m->state_floats + from;
        j->ctx->kernels->conv1d_silu(j->xc + s->row * m->ep + from, m->ep, j->xz + s->row * ld + from, ld,
                                     s->state_in == NULL ? NULL : s->state_in + at, s->state_out == NULL ? NULL : s->state_out + at,
                                     m->ep, y->conv_w + from, y->conv_b + from, m->ep, s->len, m->d_conv, (to - from) / MAILP_LANES);
    }
}

/* The weights that a thread reads after the scan, which leaves memory idle: its part of out_proj, and with one thread the next layer's in_proj,
   which follows. Returns where they are; *lines: how many lines of the cache. */
static uintptr_t mailp_mamba_ahead(size_t *lines, const mailp_mamba_job *j, size_t t) {
    const mailp_mat *out = &j->layer->out_proj, *last = out;
    const size_t     panel = mailp_mat_depth(out) * MAILP_LANES * mailp_weight_bytes(out->type);
    size_t           from, to;
    mailp_share(&from, &to, out->panels, t, j->ctx->n_threads);
    if (j->ctx->n_threads == 1 && j->index + 1 < j->m->n_layers) {
        last = &j->m->layers[j->index + 1].in_proj;
        to   = ((uintptr_t)last->w - (uintptr_t)out->w) / panel + last->panels * mailp_mat_depth(last) / mailp_mat_depth(out);
    }
    *lines = j->state_only ? 0 : (to - from) * panel / MAILP_ALIGN;
    return (uintptr_t)out->w + from * panel;
}

static void mailp_mamba_scan(void *arg, size_t t) {
    const mailp_mamba_job   *j = (const mailp_mamba_job *)arg;
    const mailp_mamba       *m = j->m;
    const mailp_mamba_layer *y = j->layer;
    const size_t             P = m->ep / MAILP_LANES, ld = 2 * m->ep, ldbc = y->x_proj.panels * MAILP_LANES;
    float                   *dbc = j->own + t * j->own_floats + j->rows * m->dp;  /* dt (low rank), B, C */
    size_t                   from, to, i, lines = 0;
    uintptr_t                ahead;
    mailp_share(&from, &to, P, t, j->ctx->n_threads);
    if (from == to) {
        return;
    }
    ahead = mailp_mamba_ahead(&lines, j, t);
    mailp_linear(j->ctx, dbc, ldbc, j->xc, m->ep, &y->x_proj, j->rows);
    mailp_linear_part(j->ctx, j->dt, m->ep, dbc, ldbc, &y->dt_proj, j->rows, from, to, 0);
    j->ctx->kernels->softplus(j->dt + from * MAILP_LANES, m->ep, j->rows, to - from);
    from *= MAILP_LANES;
    to   *= MAILP_LANES;
    for (i = 0; i < j->n_seqs; i++) {
        const mailp_seq *s   = &j->seqs[i];
        const size_t     at  = j->index * m->state_floats + (m->d_conv - 1) * m->ep + from * m->d_state;
        const float     *row = dbc + s->row * ldbc + m->dt_rank;
        const size_t     now = MAILP_MIN(MAILP_SCAN_LINES * s->len * (to - from) / MAILP_LANES, lines);
        j->ctx->kernels->scan(j->xz + s->row * ld + from, ld, s->state_out == NULL ? NULL : s->state_out + at,
                              s->state_in == NULL ? NULL : s->state_in + at, j->xc + s->row * m->ep + from, m->ep,
                              j->dt + s->row * m->ep + from, m->ep, y->A + from * m->d_state, row, row + m->d_state, ldbc, y->D + from,
                              j->state_only ? NULL : j->xz + s->row * ld + m->ep + from, ld, s->len, m->d_state,
                              (to - from) / MAILP_LANES, ahead, now);
        ahead += now * MAILP_ALIGN;
        lines -= now;
    }
}

static void mailp_mamba_out(void *arg, size_t t) {
    const mailp_mamba_job *j = (const mailp_mamba_job *)arg;
    size_t                 from, to;
    mailp_share(&from, &to, j->m->dp / MAILP_LANES, t, j->ctx->n_threads);
    mailp_linear_part(j->ctx, j->r, j->m->dp, j->xz, 2 * j->m->ep, &j->layer->out_proj, j->rows, from, to,
                      j->input == NULL);
    if (j->cond != NULL && from < to) {
        j->ctx->kernels->add(j->r + from * MAILP_LANES, j->m->dp, j->cond + from * MAILP_LANES, j->m->dp, j->rows, to - from);
    }
}

/* scratch: mailp_mamba_scratch floats */
static void mailp_mamba_job_init(mailp_mamba_job *j, const mailp_ctx *ctx, const mailp_mamba *m, float *r, size_t rows,
                                 const mailp_seq *seqs, size_t n_seqs, const float *cond, float *scratch) {
    memset(j, 0, sizeof *j);
    j->ctx    = ctx;
    j->m      = m;
    j->r      = r;
    j->cond   = cond;
    j->seqs   = seqs;
    j->n_seqs = n_seqs;
    j->rows   = rows;
    j->xz     = scratch;
    j->xc     = j->xz + rows * 2 * m->ep;
    j->dt     = j->xc + rows * m->ep;
    j->own    = j->dt + rows * m->ep;
    j->own_floats = rows * (m->dp + mailp_pad(m->dt_rank + 2 * m->d_state));
}

static void mailp_mamba_layer_run(mailp_mamba_job *j, size_t index) {
    const double start = mailp_profile_now(j->ctx);
    j->layer = &j->m->layers[index];
    j->index = index;
    mailp_parallel_run(j->ctx->parallel, j->ctx->n_threads, mailp_mamba_in, j);
    mailp_parallel_run(j->ctx->parallel, j->ctx->n_threads, mailp_mamba_scan, j);
    if (!j->state_only) {
        mailp_parallel_run(j->ctx->parallel, j->ctx->n_threads, mailp_mamba_out, j);
    }
    mailp_profile_add(j->ctx, index, start);
}

/* The stack of layers on rows of r [rows][dp], in place; norm_f is left to the caller.
   cond: added after every layer, or NULL.   state_only: what the last layer would write to r is not wanted. */
static void mailp_mamba_run(const mailp_ctx *ctx, const mailp_mamba *m, float *r, size_t rows, const mailp_seq *seqs, size_t n_seqs,
                            const float *cond, int state_only, float *scratch) {
    mailp_mamba_job j;
    size_t          i;
    mailp_mamba_job_init(&j, ctx, m, r, rows, seqs, n_seqs, cond, scratch);
    for (i = 0; i < m->n_layers; i++) {
        j.state_only = state_only && i + 1 == m->n_layers;
        mailp_mamba_layer_run(&j, i);
    }
}

/* ---- transformer (the paper's D-Tr and ED-Tr) ------------------------------------------------------------------------------ */

typedef struct mailp_block {
    const float *ln1, *ln2;   /* gains; these norms have no bias */
    mailp_mat    qkv;         /* d_model -> q [dp], k [dp], v [dp], and the decoder's cross query [dp] */
    mailp_mat    cross_kv;    /* decoder: memory -> k [dp], v [dp] */
    mailp_mat    proj;
    mailp_mat    mlp_0, mlp_2;
} mailp_block;

typedef struct mailp_transformer {
    size_t       n_layers, d_model, n_heads, head_dim, dp, hidden;  /* hidden: width of the mlp, 4 d_model */
    int          cross;
    mailp_block *blocks;
    const float *ln;
} mailp_transformer;

/* several maps of the same input side by side in one matrix, each padded to whole panels */
static void mailp_linears_build(mailp_loader *l, mailp_mat *mat, const char *prefix, const char *const *names, size_t n_names,
                                size_t n, size_t k) {
    mailp_name name, full;
    size_t     i;
    mailp_mat_take(l, mat, n_names * mailp_pad(n), k, 1, l->weights);
    for (i = 0; i < n_names; i++) {
        (void)mailp_cat(&full, prefix, names[i]);
        mailp_mat_rows(l, mat, i * mailp_pad(n), mailp_cat(&name, full.text, ".weight"), n, 0, n);
        mailp_vector_fill(l, mat->bias == NULL ? NULL : mat->bias + i * mailp_pad(n), mailp_cat(&name, full.text, ".bias"), n);
    }
}

static void mailp_transformer_build(mailp_loader *l, mailp_transformer *m, const char *prefix, const mailp_trunk_config *c,
                                    size_t d_model, size_t n_heads, int cross) {
    static const char *const own[4]   = { "attn.query", "attn.key", "attn.value", "attn.cross_query" };
    static const char *const other[2] = { "attn.cross_key", "attn.cross_value" };
    mailp_name               name, at;
    size_t                   i;
    m->n_layers = c->n_layers;
    m->d_model  = d_model;
    m->n_heads  = n_heads;
    m->head_dim = d_model / n_heads;
    m->dp       = mailp_pad(d_model);
    m->hidden   = 4 * d_model;
    m->cross    = cross;
    m->blocks   = (mailp_block *)mailp_take(&l->arena, c->n_layers * sizeof(mailp_block));
    for (i = 0; i < c->n_layers && l->status == MAIL_OK; i++) {
        mailp_block  unplaced;
        mailp_block *b = m->blocks == NULL ? &unplaced : &m->blocks[i];
        (void)snprintf(at.text, sizeof at.text, "%s%s.blocks.%lu.", prefix, c->name, (unsigned long)i);
        b->ln1 = mailp_vector(l, mailp_cat(&name, at.text, "ln1.weight"), d_model);
        b->ln2 = mailp_vector(l, mailp_cat(&name, at.text, "ln2.weight"), d_model);
        mailp_linears_build(l, &b->qkv, at.text, own, cross ? 4 : 3, d_model, d_model);
        if (cross) {
            mailp_linears_build(l, &b->cross_kv, at.text, other, 2, d_model, d_model);
        }
        mailp_linear_build(l, &b->proj, mailp_cat(&name, at.text, "attn.proj"), d_model, d_model, l->weights);
        mailp_linear_build(l, &b->mlp_0, mailp_cat(&name, at.text, "mlp.0"), m->hidden, d_model, l->weights);
        mailp_linear_build(l, &b->mlp_2, mailp_cat(&name, at.text, "mlp.2"), d_model, m->hidden, l->weights);
    }
    (void)snprintf(name.text, sizeof name.text, "%s%s.ln.weight", prefix, c->name);
    m->ln = mailp_vector(l, name.text, d_model);
}

typedef struct mailp_block_job {
    const mailp_ctx         *ctx;
    const mailp_transformer *m;
    const mailp_block       *block;
    size_t                   index;
    float                   *r;
    const mailp_seq         *seqs;
    size_t                   n_seqs, rows;
    float                   *qkv;     /* [rows][3 or 4 dp] */
    float                   *att;     /* [rows][dp] */
    float                   *mlp;     /* [rows][pad(hidden)] */
    float                   *own;     /* per thread: [rows][dp] and scores */
    size_t                   own_floats;
} mailp_block_job;

/* longest: most keys that any query sees */
static uint64_t mailp_transformer_scratch(const mailp_transformer *m, uint64_t rows, size_t longest, uint64_t n_threads) {
    return rows * (5 * m->dp + mailp_pad(m->hidden)) + n_threads * (rows * m->dp + MAILP_LANES * (longest + m->head_dim));
}

static void mailp_block_qkv(void *arg, size_t t) {
    const mailp_block_job *j = (const mailp_block_job *)arg;
    float                 *normed = j->own + t * j->own_floats;
    size_t                 from, to;
    mailp_share(&from, &to, j->block->qkv.panels, t, j->ctx->n_threads);
    if (from == to) {
        return;
    }
    j->ctx->kernels->layer_norm(normed, j->m->dp, j->r, j->m->dp, j->block->ln1, NULL, j->rows, j->m->d_model);
    mailp_linear_part(j->ctx, j->qkv, j->block->qkv.panels * MAILP_LANES, normed, j->m->dp, &j->block->qkv, j->rows, from, to, 0);
}

static void mailp_block_attend(void *arg, size_t t) {
    const mailp_block_job   *j = (const mailp_block_job *)arg;
    const mailp_transformer *m = j->m;
    const size_t             ld = j->block->qkv.panels * MAILP_LANES;
    float                   *scores = j->own + t * j->own_floats + j->rows * m->dp;
    size_t                   from, to, u, i;
    mailp_share(&from, &to, j->n_seqs * m->n_heads, t, j->ctx->n_threads);
    for (u = from; u < to; u++) {
        const mailp_seq *s    = &j->seqs[u / m->n_heads];
        const size_t     c    = u % m->n_heads * m->head_dim;
        const float     *q    = j->qkv + s->row * ld + c;
        float           *keys = s->kv + j->index * 2 * s->capacity * m->dp + c, *values = keys + s->capacity * m->dp;
        for (i = 0; i < s->len; i++) {
            memcpy(keys + (s->past + i) * m->dp, q + i * ld + m->dp, m->head_dim * sizeof(float));
            memcpy(values + (s->past + i) * m->dp, q + i * ld + 2 * m->dp, m->head_dim * sizeof(float));
        }
        j->ctx->kernels->attend(j->att + s->row * m->dp + c, m->dp, q, ld, keys, values, m->dp, scores, s->len, s->past + s->len,
                                s->past + 1, m->head_dim, 0);
        if (m->cross) {
            const float *k = s->memory + j->index * 2 * s->n_memory * m->dp + c;
            j->ctx->kernels->attend(j->att + s->row * m->dp + c, m->dp, q + 3 * m->dp, ld, k, k + s->n_memory * m->dp, m->dp, scores,
                                    s->len, s->n_memory, s->n_memory, m->head_dim, 1);
        }
    }
}

static void mailp_block_proj(void *arg, size_t t) {
    const mailp_block_job *j = (const mailp_block_job *)arg;
    size_t                 from, to;
    mailp_share(&from, &to, j->block->proj.panels, t, j->ctx->n_threads);
    mailp_linear_part(j->ctx, j->r, j->m->dp, j->att, j->m->dp, &j->block->proj, j->rows, from, to, 1);
}

static void mailp_block_mlp_0(void *arg, size_t t) {
    const mailp_block_job *j = (const mailp_block_job *)arg;
    const size_t           ld = j->block->mlp_0.panels * MAILP_LANES;
    float                 *normed = j->own + t * j->own_floats;
    size_t                 from, to;
    mailp_share(&from, &to, j->block->mlp_0.panels, t, j->ctx->n_threads);
    if (from == to) {
        return;
    }
    j->ctx->kernels->layer_norm(normed, j->m->dp, j->r, j->m->dp, j->block->ln2, NULL, j->rows, j->m->d_model);
    mailp_linear_part(j->ctx, j->mlp, ld, normed, j->m->dp, &j->block->mlp_0, j->rows, from, to, 0);
    j->ctx->kernels->gelu(j->mlp + from * MAILP_LANES, ld, j->rows, to - from);
}

static void mailp_block_mlp_2(void *arg, size_t t) {
    const mailp_block_job *j = (const mailp_block_job *)arg;
    size_t                 from, to;
    mailp_share(&from, &to, j->block->mlp_2.panels, t, j->ctx->n_threads);
    mailp_linear_part(j->ctx, j->r, j->m->dp, j->mlp, j->block->mlp_0.panels * MAILP_LANES, &j->block->mlp_2, j->rows, from, to, 1);
}

/* The blocks on rows of r [rows][dp], in place; the final ln is left to the caller.
   kv_only: of the last block only the keys and values are wanted.   longest: most keys that any query sees. */
static void mailp_transformer_run(const mailp_ctx *ctx, const mailp_transformer *m, float *r, size_t rows, const mailp_seq *seqs,
                                  size_t n_seqs, size_t longest, int kv_only, float *scratch) {
    mailp_block_job j;
    size_t          i;
    j.ctx    = ctx;
    j.m      = m;
    j.r      = r;
    j.seqs   = seqs;
    j.n_seqs = n_seqs;
    j.rows   = rows;
    j.qkv    = scratch;
    j.att    = j.qkv + rows * 4 * m->dp;
    j.mlp    = j.att + rows * m->dp;
    j.own    = j.mlp + rows * mailp_pad(m->hidden);
    j.own_floats = rows * m->dp + MAILP_LANES * (longest + m->head_dim);
    for (i = 0; i < m->n_layers; i++) {
        const double start = mailp_profile_now(ctx);
        j.block = &m->blocks[i];
        j.index = i;
        mailp_parallel_run(ctx->parallel, ctx->n_threads, mailp_block_qkv, &j);
        mailp_parallel_run(ctx->parallel, ctx->n_threads, mailp_block_attend, &j);
        if (kv_only && i + 1 == m->n_layers) {
            mailp_profile_add(ctx, i, start);
            break;
        }
        mailp_parallel_run(ctx->parallel, ctx->n_threads, mailp_block_proj, &j);
        mailp_parallel_run(ctx->parallel, ctx->n_threads, mailp_block_mlp_0, &j);
        mailp_parallel_run(ctx->parallel, ctx->n_threads, mailp_block_mlp_2, &j);
        mailp_profile_add(ctx, i, start);
    }
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

/* Is this a float of a picture? 0..1 and half a step of 8 bits beyond, where resizing and other rounding may have brought it. */
#define MAILP_IMAGE_VALUE(v) (fabsf((v) - 0.5f) <= 0.5f + 1.0f / 512)

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
                int          bad = 0;
                for (x = 0; x < image->width; x++) {
                    bad |= !MAILP_IMAGE_VALUE(v[x]);
                }
                for (x = 0; bad && x < image->width; x++) {
                    if (!MAILP_IMAGE_VALUE(v[x])) {
                        return mailp_fail(err, MAIL_E_NUMBER, "image: channel %d is %.9g at column %llu, row %llu, expected 0..1",
                                          (int)c, (double)v[x], MAILP_LLU(x), MAILP_LLU(y));
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

/* How an 8-bit picture's row lies in memory: pixel i's channel c is number i * step + at[c]. */
typedef struct mailp_image_layout {
    size_t step, at[3];
} mailp_image_layout;

static const mailp_image_layout mailp_image_planes = { 1, { 0, MAILP_COLUMNS, 2 * MAILP_COLUMNS } };  /* of scratch */

/* Pixels first, an even number, to first + n - 1 of row y from the picture's top of an 8-bit image: in place, or of YUV in rgb */
static const unsigned char *mailp_image_pixels(mailp_image_layout *layout, unsigned char *rgb, const mailp_kernels *kernels, const mail_image *image,
                                               size_t y, size_t first, size_t n) {
    static const mailp_image_layout rgb8 = { 3, { 0, 1, 2 } }, bgr8 = { 3, { 2, 1, 0 } }, rgba8 = { 4, { 0, 1, 2 } }, bgra8 = { 4, { 2, 1, 0 } },
                                    gray8 = { 1, { 0, 0, 0 } };
    const unsigned char *from = mailp_image_at(image, y) + mailp_image_row_bytes(image->format, first);
    switch (image->format) {
        case MAIL_BGR8:  *layout = bgr8;  return from;
        case MAIL_RGBA8: *layout = rgba8; return from;
        case MAIL_BGRA8: *layout = bgra8; return from;
        case MAIL_GRAY8: *layout = gray8; return from;
        case MAIL_YUYV:
            *layout = mailp_image_planes;
            kernels->yuv(rgb, from, NULL, n);
            return rgb;
        case MAIL_NV12:  /* two rows share one row of U V pairs; those follow the last row of Y */
            *layout = mailp_image_planes;
            kernels->yuv(rgb, from, (const unsigned char *)image->data +
                         (image->height + (image->flip ? image->height - 1 - y : y) / 2) * mailp_image_stride(image) + first, n);
            return rgb;
        case MAIL_RGB8:
        case MAIL_F32_PLANAR:
        case MAIL_FORMAT_COUNT:
        default:         *layout = rgb8;  return from;
    }
}

/* Resizing of n samples to m: output i is a mean of `count` inputs from `first` on with the weights w_first, w_inner ...,
   w_last, whose sum is total. Shrinking (m <= n) is by area: input j covers j..j+1 and output i covers i*n/m..(i+1)*n/m.
   Enlarging is linear between the centres of the inputs, and constant beyond the outermost. All are integers. */
typedef struct mailp_filter {
    size_t first, count;
    double w_first, w_inner, w_last, total;
} mailp_filter;

static mailp_filter mailp_filter_at(size_t output, size_t inputs, size_t outputs) {
    const uint32_t i = (uint32_t)output, n = (uint32_t)inputs, m = (uint32_t)outputs;  /* divisions of 64 bits take longer */
    mailp_filter   f;
    f.w_inner = (double)m;
    if (m <= n) {
        const uint32_t lo = i * n, hi = lo + n, last = (hi - 1) / m;
        f.first   = lo / m;
        f.count   = last - f.first + 1;
        f.w_first = (double)(f.count == 1 ? n : ((uint32_t)f.first + 1) * m - lo);
        f.w_last  = (double)(hi - last * m);
        f.total   = (double)n;
    } else {
        const uint32_t at = (2 * i + 1) * n;  /* 2m times the position of the output's centre; inputs' centres are at (2j + 1) m */
        const uint32_t rest = at < m ? 0 : (at - m) % (2 * m);
        f.total   = (double)(2 * m);
        f.first   = at < m ? 0 : (at - m) / (2 * m);
        f.count   = rest == 0 || f.first + 1 >= n ? 1 : 2;
        f.w_first = (double)(f.count == 1 ? 2 * m : 2 * m - rest);
        f.w_last  = (double)rest;
    }
    return f;
}

/* What it takes to bring a picture to a network: kernels, the normalised values of 8 bits [3][256], and scratch. */
typedef struct mailp_image_tools {
    const mailp_kernels *kernels;
    const float         *table;
    unsigned char       *rgb;      /* [3][MAILP_COLUMNS] */
    void                *columns;  /* aligned for doubles: double [3][MAILP_COLUMNS] or float [MAILP_COLUMNS][4] */
    double              *sums;     /* [width][3] */
} mailp_image_tools;

/* sums[x][c] of the outputs x += columns from..end-1 by their weights; column j's channel c is number (j - from) * step + at[c] of columns */
MAILP_INLINE void mailp_columns_add(double *sums, const void *columns, int is_float, const mailp_image_layout *layout, size_t from, size_t end,
                                    size_t n, size_t width) {
#define MAILP_COLUMN_SUM(s, j)                                                                                          \
    for (c = 0; c < 3; c++) {                                                                                           \
        const size_t place = ((j) - from) * layout->step + layout->at[c];                                               \
        s[c] += is_float ? ((const double *)columns)[place] : (double)((const float *)columns)[place];                 \
    }
    size_t x, j, c;
    for (x = from == 0 ? 0 : (from - 1) * width / n; x < width; x++) {
        const mailp_filter f = mailp_filter_at(x, n, width);
        const size_t       last = f.first + f.count - 1, stop = MAILP_MIN(last, end);
        double             head[3] = { 0, 0, 0 }, inner[3] = { 0, 0, 0 }, tail[3] = { 0, 0, 0 };
        if (f.first >= end) {
            break;
        }
        if (f.first >= from) {
            MAILP_COLUMN_SUM(head, f.first)
        }
        for (j = MAILP_MAX(f.first + 1, from); j < stop; j++) {
            MAILP_COLUMN_SUM(inner, j)
        }
        if (f.count > 1 && last >= from && last < end) {
            MAILP_COLUMN_SUM(tail, last)
        }
        for (c = 0; c < 3; c++) {
            sums[3 * x + c] += f.w_first * head[c] + f.w_inner * inner[c] + f.w_last * tail[c];
        }
    }
#undef MAILP_COLUMN_SUM
}

/* Row y of the picture resized to height x width, into tools->sums, times the weights' total, which is returned. First down the rows
   that it is made of, then along the columns. Sums of 8-bit values times weights are whole numbers, down the rows below 2^24 and then
   below 2^39: exact. */
static double mailp_image_resize(const mailp_image_tools *tools, const mail_image *image, size_t y, size_t height, size_t width) {
    const mailp_filter fy = mailp_filter_at(y, image->height, height);
    const int          is_float = image->format == MAIL_F32_PLANAR;
    mailp_image_layout layout = mailp_image_planes;
    size_t             from, end, k, x, c;
    for (x = 0; x < 3 * width; x++) {
        tools->sums[x] = 0;
    }
    for (from = 0; from < image->width; from = end) {
        end = MAILP_MIN(from + MAILP_COLUMNS, image->width);
        for (k = 0; k < fy.count; k++) {
            const double wy = k == 0 ? fy.w_first : k + 1 == fy.count ? fy.w_last : fy.w_inner;
            if (is_float) {
                const unsigned char *row = mailp_image_at(image, fy.first + k);
                for (c = 0; c < 3; c++, row += image->height * mailp_image_stride(image)) {
                    tools->kernels->add_floats((double *)tools->columns + layout.at[c], (const float *)(const void *)row + from, wy, end - from, k > 0);
                }
            } else {
                const unsigned char *pixels = mailp_image_pixels(&layout, tools->rgb, tools->kernels, image, fy.first + k, from, end - from);
                for (c = 0; c < (pixels == tools->rgb ? 3 : 1); c++) {  /* planes, or all channels side by side */
                    tools->kernels->add_bytes((float *)tools->columns + c * MAILP_COLUMNS, pixels + c * MAILP_COLUMNS, (float)wy,
                                              (end - from) * layout.step, k > 0);
                }
            }
        }
        if (is_float) {
            mailp_columns_add(tools->sums, tools->columns, 1, &layout, from, end, image->width, width);
        } else {
            mailp_columns_add(tools->sums, tools->columns, 0, &layout, from, end, image->width, width);
        }
    }
    return fy.total * mailp_filter_at(0, image->width, width).total;
}

/* Row y of the picture as the network sees it, normalised:  v = (u / 255 - mean) / std.
   even   pixel 2 * i becomes the three values even[i * step], odd the pixel after it */
static void mailp_image_prepare(float *even, float *odd, size_t step, const mail_image *image, size_t y, size_t height, size_t width,
                                const mailp_image_tools *tools) {
    const int    is_float = image->format == MAIL_F32_PLANAR, same = image->height == height && image->width == width;
    const size_t plane = image->height * mailp_image_stride(image);
    double       total;
    size_t       x, c, n, i;
    if (same && !is_float) {
        for (x = 0; x < width; x += n) {
            mailp_image_layout   l;
            const unsigned char *pixels;
            n      = MAILP_MIN(width - x, (size_t)MAILP_COLUMNS);
            pixels = mailp_image_pixels(&l, tools->rgb, tools->kernels, image, y, x, n);
            for (c = 0; c < 2; c++) {
                const unsigned char *p  = pixels + c * l.step;
                float               *to = (c == 0 ? even : odd) + x / 2 * step;
                for (i = c; i < n; i += 2, p += 2 * l.step, to += step) {
                    to[0] = tools->table[p[l.at[0]]];
                    to[1] = tools->table[256 + p[l.at[1]]];
                    to[2] = tools->table[512 + p[l.at[2]]];
                }
            }
        }
        return;
    }
    if (same) {
        for (c = 0; c < 3; c++) {
            const float *row = (const float *)(const void *)(mailp_image_at(image, y) + c * plane);
            for (x = 0; x < width; x++) {
                (x % 2 == 0 ? even : odd)[x / 2 * step + c] = (row[x] - mailp_image_mean[c]) / mailp_image_std[c];
            }
        }
        return;
    }
    total = mailp_image_resize(tools, image, y, height, width);
    for (x = 0; x < width; x++) {
        float *at = (x % 2 == 0 ? even : odd) + x / 2 * step;
        for (c = 0; c < 3; c++) {
            const double mean = tools->sums[3 * x + c] / total;
            at[c] = is_float ? ((float)mean - mailp_image_mean[c]) / mailp_image_std[c] : tools->table[256 * c + (size_t)(mean + 0.5)];
        }
    }
}

/* The same as 8-bit values, not normalised.   line  scratch, [width][3] */
static void mailp_image_prepare_u8(uint8_t *to, const mail_image *image, size_t y, size_t height, size_t width, const mailp_image_tools *tools,
                                   float *line) {
    size_t x, n, i;
    if (image->height == height && image->width == width && image->format != MAIL_F32_PLANAR) {
        for (x = 0; x < width; x += n) {
            mailp_image_layout   l;
            const unsigned char *pixels;
            n      = MAILP_MIN(width - x, (size_t)MAILP_COLUMNS);
            pixels = mailp_image_pixels(&l, tools->rgb, tools->kernels, image, y, x, n);
            for (i = 0; i < 3 * n; i++) {
                to[3 * x + i] = pixels[i / 3 * l.step + l.at[i % 3]];
            }
        }
        return;
    }
    mailp_image_prepare(line, line + 3, 6, image, y, height, width, tools);
    for (x = 0; x < 3 * width; x++) {
        to[x] = mailp_u8((int)floorf((line[x] * mailp_image_std[x % 3] + mailp_image_mean[x % 3]) * 255.0f + 0.5f));
    }
}

/* ---- the network ------------------------------------------------------------------------------------------------- */

#define MAILP_STEM_RING   6    /* rows of the stem's outputs that are kept: three new ones, a row of tiles, and two of those before */
#define MAILP_STEM_PANELS 256  /* at most */

/* A map as a convolution reads it: [blocks][rows][columns][16], the picture's pixel (0, 0) at row 1, column 1, zeros
   around it. Rows and columns are rounded up so that tiles of 4 x 4 outputs never read beyond. */
static size_t mailp_map_side(size_t n) {
    return (n + 3) / 4 * 4 + 2;
}

/* Has the processor the products of 8 or 16 bits that these kernels use with such weights? The tables of x86 were chosen by that. */
static int mailp_cpu_low(const mailp_kernels *kernels, mail_weights type) {
    if (kernels->conv_low[type] == NULL) {
        return 0;
    }
#if defined(MAILP_X86)
    return 1;
#elif defined(MAILP_NEON_DOT) && defined(__linux__)
    return (getauxval(AT_HWCAP) >> 20 & 1) != 0;  /* HWCAP_ASIMDDP */
#elif defined(MAILP_NEON_DOT) && defined(__ARM_FEATURE_DOTPROD)
    return 1;
#else
    return 0;
#endif
}

/* A convolution without bias and the GroupNorm after it. */
typedef struct mailp_conv {
    size_t           c_in, c_out, h_in, w_in, h_out, w_out;
    mailp_conv_shape shape;
    size_t           tile;         /* 4, 2, 1, MAILP_PHASES or MAILP_STEM: by Winograd; 0: directly */
    size_t           tiles_h, tiles_w, planes;
    mail_weights     type;         /* of w */
    size_t           group;        /* panels packed side by side */
    int              rows4;        /* 1: of tile 1, by winograd_rows4 where there are so many panels */
    size_t           quads;        /* of tile 4: the fours of tiles of a map that is done by winograd_quad, or 0 */
    int              inside;       /* 1: directly, a tap at a time, and only for the pixels that it finds inside the picture */
    int              low;          /* 1: weights meet activations of their own width, by conv_low; 0: they are widened to float */
    const void      *w;            /* see mailp_conv_pack, mailp_stem_pack, mailp_stem_transform */
    const float     *scale;        /* [c_out] for integers */
    const float     *bias;         /* [c_out] for the stem in 8 bits: what the pictures' mean takes away; or NULL */
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
    mailp_mat         linear;         /* 2 * n_keypoints -> feature_dim */
    const float      *table;          /* [3][256] normalised pixel values */
} mailp_resnet;

/* Scratch of one encoding. */
typedef struct mailp_resnet_buffers {
    float         *image;      /* [height + 6][width + 6][3], normalised, border 0; for a stem by Winograd its phases, see mailp_phases_rows */
    float         *ring;       /* [blocks][MAILP_STEM_RING][w][16], rows of the stem's outputs: row y is at y % MAILP_STEM_RING */
    float         *raw;        /* outputs of the convolution at work after it, dense [blocks][h][w][16] */
    float         *map[3];     /* bordered maps */
    float         *v[2];       /* Winograd's inputs of this convolution and the next, [n * n][blocks][tiles][16] */
    float         *m;          /* [threads][planes][group][tiles at a time][16], its products */
    float         *u;          /* [threads][u_floats], weights made ready: transformed or widened */
    size_t         u_floats;
    uint8_t       *image_u8;   /* the same in 8 bits, border mailp_image_mean, for a stem in integers; 16 bits each for weights of 16 */
    unsigned char *q[2];       /* maps of 8 or 16 bits for this convolution and the next, or Winograd's inputs of 16 bits */
    float         *q_scale[2]; /* one for each of their blocks */
    unsigned char *rgb;        /* [threads][3][MAILP_COLUMNS] */
    double        *columns;    /* [threads][3][MAILP_COLUMNS] */
    double        *sums;       /* [threads][width][3] */
    float         *keypoints;  /* [n_keypoints][2] */
    float         *features;   /* padded to whole panels */
} mailp_resnet_buffers;

#define MAILP_CONV_GROUP 4  /* largest conv_group of the kernel tables */
#define MAILP_STEPS      512 /* steps of k whose weights, 131 KB for 4 blocks, stay in the second-level cache for all pixels */
#define MAILP_STEPS_READY 64 /* the same for weights that are widened first: 16 KB, in the first-level cache */
#define MAILP_INSIDE     32 /* output pixels at most of which taps that fall outside are left out */
#define MAILP_STEPS_INSIDE 256 /* steps of these: 16 KB, which are fetched two pieces ahead (one, or pieces twice as long: up to 1.1 of the time) */

/* floats of a plane of Winograd's inputs */
static size_t mailp_winograd_in_plane(const mailp_conv *conv) {
    return conv->shape.n_blocks * conv->shape.plane + MAILP_PLANE_PAD;
}

/* A direct convolution is done in pieces of k: some taps with all their blocks, or of one tap some blocks. */
static void mailp_conv_piece(size_t *taps, size_t *blocks, const mailp_conv *conv) {
    const size_t depth = conv->shape.n_blocks * conv->shape.depth;
    const size_t steps = conv->type != MAIL_WEIGHTS_F32 ? MAILP_STEPS_READY : conv->inside ? MAILP_STEPS_INSIDE : MAILP_STEPS;
    *taps   = conv->inside ? 1 : MAILP_MAX(MAILP_MIN(steps / depth, conv->shape.n_taps), (size_t)1);
    *blocks = depth <= steps ? conv->shape.n_blocks : steps / conv->shape.depth;
}

/* floats of weights made ready at a time */
static size_t mailp_conv_u_floats(const mailp_conv *conv) {
    if (conv->quads != 0) {  /* or inputs not yet laid side by side */
        return MAILP_MAX(6 * MAILP_QUAD_COLUMN(MAILP_LANES), conv->planes * conv->shape.plane);
    }
    if (conv->tile != 0) {
        return conv->planes * (conv->tile == 1 ? MAILP_COLUMN * conv->group : MAILP_U_PLANE(conv->group));
    }
    return conv->type == MAIL_WEIGHTS_F32 ? 0 : MAILP_STEPS_READY * MAILP_CONV_GROUP * MAILP_LANES;
}

static size_t mailp_conv_map(const mailp_conv *conv) {
    return conv->c_out * mailp_map_side(conv->h_out) * mailp_map_side(conv->w_out);
}

/* A stem by Winograd reads [rows][columns][16], of which 12 are used: two by two pixels of the picture with its border, see
   mailp_stem_inputs. */
static size_t mailp_phases_rows(const mailp_conv *stem) {
    return 3 * stem->tiles_h + 3;
}

static size_t mailp_phases_columns(const mailp_conv *stem) {
    return 3 * stem->tiles_w + 3;
}

/* floats of scratch for the inputs of as many of a stem's tiles as are done at a time */
static size_t mailp_stem_in_floats(const mailp_conv *stem) {
    return stem->planes * MAILP_M_PLANE(1);
}

static void mailp_resnet_layout(mailp_resnet_buffers *buffers, mailp_arena *arena, const mailp_resnet *net, size_t n_threads) {
    const int by_phases = net->stem.tile == MAILP_STEM;
    size_t    i, k, at, end, raw = 0, map = 0, v = 0, m = 0, u = 0, q = 0, blocks = 0;
    if (by_phases) {
        m = net->stem.planes * MAILP_M_PLANE(net->stem.group);
        u = mailp_stem_in_floats(&net->stem);
    }
    for (i = 0; i < 8; i++) {
        const mailp_basic_block *block = &net->block[i];
        for (k = 0; k < 3; k++) {
            const mailp_conv *conv = k == 0 ? &block->conv1 : k == 1 ? &block->conv2 : &block->downsample;  /* zeros if there is none */
            const size_t      v_floats = conv->planes * mailp_winograd_in_plane(conv);
            if (conv->tile != 0) {
                v = MAILP_MAX(v, v_floats);
                m = MAILP_MAX(m, conv->planes * MAILP_M_PLANE(conv->group));
            }
            if (conv->low) {
                const size_t values = conv->tile != 0 ? v_floats : conv->c_in * mailp_map_side(conv->h_in) * mailp_map_side(conv->w_in);
                q      = MAILP_MAX(q, values * mailp_weight_bytes(conv->type));
                blocks = MAILP_MAX(blocks, conv->c_in / MAILP_LANES);
            }
            u = MAILP_MAX(u, mailp_conv_u_floats(conv));
        }
        map = MAILP_MAX(map, mailp_conv_map(&block->conv2));  /* the first block's input is as large as its output */
        raw = MAILP_MAX(raw, block->conv2.c_out * block->conv2.h_out * block->conv2.w_out);
    }
    raw = MAILP_MAX(raw, net->keypoint_conv.c_out * net->keypoint_conv.h_out * net->keypoint_conv.w_out);
    /* What is needed only after the stem takes the place of its inputs and outputs, which are in the cache by then. */
    at = arena->used;
    buffers->image     = mailp_take_floats(arena, by_phases ? mailp_phases_rows(&net->stem) * mailp_phases_columns(&net->stem) * MAILP_LANES :
                                                  (net->height + 6) * (net->width + 6) * 3);
    end = arena->used;
    arena->used = at;
    buffers->v[1]      = mailp_take_floats(arena, v);
    at = arena->used = MAILP_MAX(arena->used, end);
    buffers->ring      = mailp_take_floats(arena, net->stem.c_out * MAILP_STEM_RING * net->stem.w_out);
    end = arena->used;
    arena->used = at;
    buffers->raw       = mailp_take_floats(arena, raw);
    arena->used = MAILP_MAX(arena->used, end);
    buffers->m         = mailp_take_floats(arena, n_threads * m);
    buffers->u         = mailp_take_floats(arena, n_threads * u);
    buffers->u_floats  = u;
    buffers->map[0]    = mailp_take_floats(arena, map);
    buffers->map[1]    = mailp_take_floats(arena, map);
    buffers->map[2]    = mailp_take_floats(arena, map);
    buffers->v[0]      = mailp_take_floats(arena, v);
    buffers->image_u8  = (uint8_t *)mailp_take(arena, net->stem.low ? (net->height + 6) * (net->width + 6) * 3 * mailp_weight_bytes(net->stem.type) +
                                                            MAILP_ALIGN : 0);
    buffers->q[0]      = (unsigned char *)mailp_take(arena, q);
    buffers->q[1]      = (unsigned char *)mailp_take(arena, q);
    buffers->q_scale[0] = mailp_take_floats(arena, blocks);
    buffers->q_scale[1] = mailp_take_floats(arena, blocks);
    buffers->rgb       = (unsigned char *)mailp_take(arena, n_threads * 3 * MAILP_COLUMNS);
    buffers->columns   = (double *)mailp_take(arena, n_threads * 3 * MAILP_COLUMNS * sizeof(double));
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

/* Panels that lie side by side with this one: `group` of them, fewer at the end of a layer.   *first: the first of them */
static size_t mailp_conv_group(size_t *first, size_t panel, size_t panels, size_t group) {
    *first = panel / group * group;
    return MAILP_MIN(panels - *first, group);
}

typedef enum mailp_packing { MAILP_DIRECT, MAILP_WINOGRAD, MAILP_ROWS, MAILP_LOW, MAILP_ROWS16 } mailp_packing;

/* Whether bf16 weights become integers of 16 bits with a scale for each channel, because those have the faster products */
static int mailp_sixteen(const mailp_kernels *kernels, mail_weights type) {
    return type == MAIL_WEIGHTS_BF16 && kernels->conv_low[type] != NULL;
}

/* Largest sum of weights v [c_in][taps] of one sign among the four whose products meet in 16 bits: of a tap and eight channels, either
   the first two or the last two of every four. It is half of what the sum of the magnitudes and the magnitude of the sum add up to. */
static float mailp_conv_meet(const float *v, size_t c_in, size_t taps) {
    float  most = 0;
    size_t c, t;
    for (c = 0; c < c_in; c += c % 8 == 0 ? 2 : 6) {
        const float *a = v + c * taps, *b = a + taps, *d = a + 4 * taps, *e = d + taps;
        for (t = 0; t < taps; t++) {
            const float sum = a[t] + b[t] + d[t] + e[t], all = fabsf(a[t]) + fabsf(b[t]) + fabsf(d[t]) + fabsf(e[t]);
            most = MAILP_MAX(most, 0.5f * (all + fabsf(sum)));
        }
    }
    return most;
}

/* mailp_conv_step for 16 bits: no sum of products of a block of 16 channels may leave 32 bits (2.14e9: roundings are less than the rest),
   and no number of a plane of MAILP_ROWS16 may leave 16. */
static float mailp_conv_step16(const float *v, size_t c_in, size_t taps, mailp_packing packing) {
    float  step = 0;
    size_t c, i;
    for (c = 0; c < c_in * taps; c += MAILP_LANES * taps) {
        float sum = 0, powers = 0, most = 0;
        for (i = c; i < c + MAILP_LANES * taps; i++) {
            most = MAILP_MAX(most, fabsf(v[i]));
            sum += fabsf(v[i]);
        }
        if (packing == MAILP_ROWS16) {  /* planes 1 and 2: g0 +- g1 + g2 meet 8 activations at most; 3 and 4: g0 +- 2 g1 + 4 g2 meet 3 */
            for (i = c; i < c + MAILP_LANES * taps; i += 3) {
                const float wide = fabsf(v[i]) + 2 * fabsf(v[i + 1]) + 4 * fabsf(v[i + 2]);
                most    = MAILP_MAX(most, wide);
                powers += wide;
            }
            sum = MAILP_MAX(8 * sum, 3 * powers) * (float)MAILP_ROWS16_MOST;
        } else {
            sum *= (float)MAILP_S16_MOST;
        }
        step = MAILP_MAX(step, MAILP_MAX(sum / 2.14e9f, most / 32760.0f));
    }
    return step > 1e-30f ? step : 1.0f;
}

/* Step of the integers that stand for an output's weights v [c_in][taps]. int8: the largest is +-127, or less if `sum` is not 0: positive
   and negative ones of the four whose products meet in 16 bits (MAILP_LOW) add up to `sum` at most. */
static float mailp_conv_step(const float *v, size_t c_in, size_t taps, mailp_packing packing, mail_weights type, int sum) {
    float  most = 0;
    size_t i;
    if (type == MAIL_WEIGHTS_BF16) {
        return mailp_conv_step16(v, c_in, taps, packing);
    }
    for (i = 0; i < c_in * taps; i++) {
        most = MAILP_MAX(most, fabsf(v[i]));
    }
    most = most > 1e-30f ? most / 127.0f : 1.0f;
    if (packing == MAILP_LOW && sum > 0) {
        most = MAILP_MAX(most, mailp_conv_meet(v, c_in, taps) / (float)(sum - 2));  /* four are rounded by a half */
    }
    return most;
}

/* Weights [c_out][c_in][taps] ->
       [groups][taps][c_in][group][16]                        to be read directly; the stem's taps are rows of the picture: their
                                                              depth is 7 pixels of 3 channels, which is the same order
       [groups][c_in][group][taps][16]                        for Winograd
       [c_out / 16][c_in / 16][3 columns][3 rows][16][16]     for Winograd with tiles of one row
       [groups][c_in / 16][taps][16 / n][group][16][n]        for products of 8 or 16 bits, n = 4 or 2
       [groups][c_in / 16][3 columns][3 rows][8][group][16][2]  for both of the last two
   scale  out, [c_out] for weights that become integers, int8 or with bf16 int16: steps, see mailp_conv_step; or NULL */
static void mailp_conv_pack(void *to, float *scale, const float *from, size_t c_out, size_t c_in, size_t taps, size_t group,
                            mailp_packing packing, mail_weights type, int sum) {
    const int    by_columns = packing == MAILP_ROWS || packing == MAILP_ROWS16;
    const size_t shift = packing != MAILP_LOW && packing != MAILP_ROWS16 ? 0 : type == MAIL_WEIGHTS_INT8 ? 2 : 1;
    const size_t together = (size_t)1 << shift;  /* input channels side by side */
    size_t       o, t, i, first;
    for (o = 0; o < mailp_pad(c_out); o++) {
        const size_t panel = o / MAILP_LANES, n = mailp_conv_group(&first, panel, mailp_panels(c_out), packing == MAILP_ROWS ? 1 : group);
        const float *v = from + o * c_in * taps;
        float        step = 0;
        if (scale != NULL) {
            step = scale[o] = o < c_out ? mailp_conv_step(v, c_in, taps, packing, type, sum) : 1.0f;
        }
        for (t = 0; t < taps; t++) {
            for (i = 0; i < c_in; i++) {
                const size_t place = by_columns ? t % 3 * 3 + t / 3 : t, block = (i / MAILP_LANES * taps + place) * MAILP_LANES + i % MAILP_LANES;
                const size_t k = packing == MAILP_WINOGRAD ? (i * n + panel - first) * taps + t :
                                 (packing == MAILP_DIRECT ? t * c_in + i : block >> shift) * n + panel - first;
                const size_t at = first * taps * c_in * MAILP_LANES + (k * MAILP_LANES + o % MAILP_LANES) * together + (i & (together - 1));
                mailp_weight_put(to, at, o < c_out ? v[i * taps + t] : 0.0f, type, step);
            }
        }
    }
}

/* Weights [c_out][c_in][3][3] -> [c_out / lanes][c_in / 32][3 columns][32][3 rows][lanes] for winograd_quad, the second row times sqrt(2) */
static void mailp_quad_pack(float *to, const float *from, size_t c_out, size_t c_in, size_t lanes) {
    const size_t blocks = c_in / MAILP_QUAD_DEPTH;
    size_t       o, i, t;
    for (o = 0; o < c_out; o++) {
        for (i = 0; i < c_in; i++, from += 9) {
            float *block = to + (o / lanes * blocks + i / MAILP_QUAD_DEPTH) * 3 * MAILP_QUAD_COLUMN(lanes) + i % MAILP_QUAD_DEPTH * 3 * lanes + o % lanes;
            for (t = 0; t < 9; t++) {
                block[t % 3 * MAILP_QUAD_COLUMN(lanes) + t / 3 * lanes] = t / 3 == 1 ? 1.41421356f * from[t] : from[t];
            }
        }
    }
}

/* Values of a row of 7 pixels in a stem of integers: 21, and as many of no weight as fill the products' four bytes */
static size_t mailp_stem_depth(mail_weights type) {
    return type == MAIL_WEIGHTS_INT8 ? 24 : 22;
}

/* The stem's weights [c_out][3][7][7] for pictures in 8 bits: [groups][7][depth / n][group][16][n], n = 4 of 8 bits or 2 of 16. The
   normalisation goes into the weights and the bias:
       sum w * (u / 255 - mean) / std = scale * (sum q * u - sum q * 255 * mean),  q = round(w / (255 * std) / scale), at most `largest` */
static void mailp_stem_pack(void *to, float *scale, float *bias, const float *from, size_t c_out, size_t group, mail_weights type, int largest) {
    const size_t depth = mailp_stem_depth(type), together = 4 / mailp_weight_bytes(type);
    size_t       o, i, first;
    memset(to, 0, c_out * 7 * depth * mailp_weight_bytes(type));
    for (o = 0; o < c_out; o++) {
        const size_t panel = o / MAILP_LANES, n = mailp_conv_group(&first, panel, c_out / MAILP_LANES, group);
        const float *v = from + o * 147;
        float        most = 0;
        double       sum = 0;
        for (i = 0; i < 147; i++) {
            most = MAILP_MAX(most, fabsf(v[i] / mailp_image_std[i / 49] / 255.0f));
        }
        most = most > 1e-30f ? most / (float)largest : 1.0f;
        for (i = 0; i < 147; i++) {
            const size_t c = i / 49, y = i / 7 % 7, k = i % 7 * 3 + c;
            const size_t at = first * 7 * depth * MAILP_LANES +
                              (((y * depth / together + k / together) * n + panel - first) * MAILP_LANES + o % MAILP_LANES) * together + k % together;
            const float  q = floorf(v[i] / mailp_image_std[c] / 255.0f / most + 0.5f);
            mailp_weight_put(to, at, q, type, 1.0f);
            sum += (double)q * 255.0 * (double)mailp_image_mean[c];
        }
        scale[o] = most;
        bias[o]  = (float)(-sum * (double)most);
    }
}

/* The stem's weights [c_out][3][7][7] for Winograd: G g Gt of each phase, [groups][36][12][group][16]. At holds what is left out of G:
   1 / |p| for the point p. */
static void mailp_stem_transform(float *to, const float *from, size_t c_out, size_t group) {
    static const double point[4] = { 0.70710678118654752, -0.70710678118654752, 1.41421356237309505, -1.41421356237309505 };
    static const int    odd_row[4] = { 0, 0, 1, 1 }, odd_column[4] = { 1, 0, 0, 1 };
    double              G[6][4] = { { 1, 0, 0, 0 }, { 0 }, { 0 }, { 0 }, { 0 }, { 0, 0, 0, 1 } };
    size_t              o, i, k, y, x, first;
    for (i = 0; i < 4; i++) {  /* |p| (1, p, p^2, p^3) / the product of p's distances from the other points */
        const double factor = i < 2 ? 0.70710678118654752 / -1.5 : 1.41421356237309505 / 6;
        for (y = 0; y < 4; y++) {
            G[i + 1][y] = y == 0 ? factor : G[i + 1][y - 1] * point[i];
        }
    }
    for (o = 0; o < c_out; o++) {
        const size_t panel = o / MAILP_LANES, n = mailp_conv_group(&first, panel, c_out / MAILP_LANES, group);
        for (i = 0; i < MAILP_STEM_DEPTH; i++) {
            const float *g = from + (o * 3 + i % 3) * 49;
            const size_t at_y = (size_t)odd_row[i / 3], at_x = (size_t)odd_column[i / 3];
            for (k = 0; k < 36; k++) {
                double sum = 0;
                for (y = 0; 2 * y + at_y < 7; y++) {
                    for (x = 0; 2 * x + at_x < 7; x++) {
                        sum += G[k / 6][y] * G[k % 6][x] * (double)g[(2 * y + at_y) * 7 + 2 * x + at_x];
                    }
                }
                to[((first * 36 + k * n) * MAILP_STEM_DEPTH + i * n + panel - first) * MAILP_LANES + o % MAILP_LANES] = (float)sum;
            }
        }
    }
}

/* Can a convolution of size 3 and stride 1 be done by winograd_rows4, at least most of its panels? */
static int mailp_by_rows4(const mailp_conv *conv, const mailp_kernels *kernels) {
    return kernels->winograd_rows4 != NULL && conv->type == MAIL_WEIGHTS_F32 && conv->h_out == 4 && conv->w_out <= 16 &&
           (kernels->conv_group == 1 || conv->c_out % (MAILP_ROWS4 * MAILP_LANES) == 0);
}

/* The fours of tiles of a map whose convolution of size 3 and stride 1 can be done by winograd_quad, or 0 */
static size_t mailp_quads(const mailp_conv *conv, const mailp_kernels *kernels) {
    const size_t tiles = ((conv->h_out + 3) / 4) * ((conv->w_out + 3) / 4);
    return tiles % 4 == 0 && tiles <= 4 * kernels->quads_most && conv->type == MAIL_WEIGHTS_F32 && conv->c_in % MAILP_QUAD_DEPTH == 0 ? tiles / 4 : 0;
}

/* Winograd's tile for a convolution, or 0. Transforming the weights pays when there are enough tiles to use each on. Tiles of one row are
   for small maps: all their products have to fit at once. */
static size_t mailp_winograd_choose(const mailp_conv *conv, const mailp_kernels *kernels, size_t size, size_t stride) {
    const size_t       h = conv->h_out, w = conv->w_out, four = ((h + 3) / 4) * ((w + 3) / 4), two = ((h + 1) / 2) * ((w + 1) / 2);
    const mail_weights type = conv->type;
    const int          low = conv->low, by_panels = kernels->winograd_rows_weights != NULL && kernels->conv_group == 1;
    if (size == 7) {  /* 363 products for 9 outputs, and their transforms as so many more */
        return 480 * ((h + 2) / 3) * ((w + 2) / 3) * (low ? kernels->low_rate[type] : 4) < 4 * 147 * h * w ? MAILP_STEM : 0;
    }
    if (stride == 2) {
        return !low && (by_panels ? 9 * h * w > 25 * two + 50 : two >= 20) ? MAILP_PHASES : 0;
    }
    if (by_panels || (low && mailp_sixteen(kernels, type))) {
        /* products for a pair of channels, and the transform of its weights in such products as times on AVX2 have it: of floats, which
           squares are always of; of integers of 16 bits; or of 8 bits, which rows are never of */
        const int    sixteen = low && mailp_sixteen(kernels, type);
        const size_t rate    = low ? kernels->low_rate[type] : 4;
        const size_t strips  = h * ((w + 3) / 4);
        const size_t squares = 36 * four + (type == MAIL_WEIGHTS_INT8 ? 150 : 120);
        const size_t rows    = strips > MAILP_TILES ? SIZE_MAX :
                               sixteen ? 18 * strips * 4 / rate + (kernels->conv_group == 1 ? 20 : 90) :
                               mailp_by_rows4(conv, kernels) ? 75 * (strips / 4) : 18 * strips + 43;
        const size_t direct  = (low || h * w > MAILP_INSIDE ? 9 * h * w : (3 * h - 2) * (3 * w - 2)) * 4 / rate;
        return MAILP_MIN(direct, rows) > squares ? 4 : direct > rows ? 1 : 0;
    }
    return four >= 12 || mailp_quads(conv, kernels) != 0 ? 4 : mailp_by_rows4(conv, kernels) && w <= 8 ? 1 : two >= 12 ? 2 : 0;
}

/* Where a convolution whose tile is chosen finds its inputs: see mailp_conv_shape */
static void mailp_conv_geometry(mailp_conv *conv, size_t size, size_t stride) {
    mailp_conv_shape *shape = &conv->shape;
    size_t            y, x;
    if (conv->tile != 0) {  /* the products of each of the planes: rows are tiles, all in one row of the picture */
        const size_t high = mailp_tile_height(conv->tile), wide = mailp_tile_width(conv->tile);
        conv->tiles_h = (conv->h_out + high - 1) / high;
        conv->tiles_w = (conv->w_out + wide - 1) / wide;
        conv->planes  = conv->tile == 1 ? 6 : conv->tile == MAILP_PHASES ? 25 : conv->tile == 2 ? 16 : 36;
        shape->n_taps     = conv->tile == 1 ? 3 : 1;
        shape->n_blocks   = mailp_panels(conv->c_in);
        shape->depth      = MAILP_LANES;
        shape->width      = conv->tiles_h * conv->tiles_w;
        shape->pixel_step = MAILP_LANES;
        shape->row_step   = 0;
        shape->plane      = (conv->tiles_h + shape->n_taps - 1) * conv->tiles_w * MAILP_LANES;
        for (y = 0; y < shape->n_taps; y++) {
            shape->tap[y] = y * conv->tiles_w * MAILP_LANES;
        }
    } else if (size == 7) {
        const size_t row = (conv->w_in + 6) * conv->c_in;
        shape->n_taps     = 7;
        shape->n_blocks   = 1;
        shape->depth      = conv->low ? mailp_stem_depth(conv->type) : 7 * conv->c_in;
        shape->width      = conv->w_out;
        shape->pixel_step = stride * conv->c_in;
        shape->row_step   = stride * row;
        shape->plane      = 0;
        for (y = 0; y < 7; y++) {
            shape->tap[y] = y * row;
        }
    } else {
        const size_t columns = mailp_map_side(conv->w_in);
        shape->n_taps     = size * size;
        shape->n_blocks   = conv->c_in / MAILP_LANES;
        shape->depth      = MAILP_LANES;
        shape->width      = conv->w_out;
        shape->pixel_step = stride * MAILP_LANES;
        shape->row_step   = stride * columns * MAILP_LANES;
        shape->plane      = mailp_map_side(conv->h_in) * columns * MAILP_LANES;
        for (y = 0; y < size; y++) {
            for (x = 0; x < size; x++) {
                shape->tap[y * size + x] = ((y + (3 - size) / 2) * columns + x + (3 - size) / 2) * MAILP_LANES;
            }
        }
    }
}

/* A convolution of size x size (1, 3, or 7 for the stem), its weights at prefix + name + ".weight", and unless norm is NULL its
   GroupNorm at prefix + norm. */
static void mailp_conv_build(mailp_conv *conv, mailp_loader *loader, const char *prefix, const char *name, const char *norm,
                             size_t c_out, size_t c_in, size_t h_in, size_t w_in, size_t size, size_t stride) {
    mailp_name   full;
    const float *from;
    float       *scale, *bias;
    void        *w;
    int          sixteen;
    conv->type  = norm == NULL ? MAIL_WEIGHTS_F32 : loader->weights;  /* the keypoints' keep all bits */
    sixteen     = mailp_sixteen(loader->kernels, conv->type);
    conv->low   = mailp_cpu_low(loader->kernels, conv->type) &&
                  (size != 7 || sixteen || (conv->type == MAIL_WEIGHTS_INT8 && loader->kernels->stem_most > 0)) && !(size == 1 && sixteen);
    conv->c_in  = c_in;
    conv->c_out = c_out;
    conv->h_in  = h_in;
    conv->w_in  = w_in;
    conv->h_out = (h_in + stride - 1) / stride;
    conv->w_out = (w_in + stride - 1) / stride;
    conv->tile  = size == 1 ? 0 : mailp_winograd_choose(conv, loader->kernels, size, stride);
    if (conv->low && (conv->tile == MAILP_STEM || (conv->tile == 4 && loader->kernels->low_rate[conv->type] < 16))) {
        conv->low = 0;  /* so few products in float32 are less work (AVX2 alone: 0.37 against 0.47 ms for 64 channels of 32 x 32) */
    }
    if (conv->low && !(conv->tile == 1 && sixteen)) {
        conv->tile = 0;
    }
    if (size == 7 && !conv->low) {
        conv->type = MAIL_WEIGHTS_F32;
    }
    mailp_conv_geometry(conv, size, stride);
    from = mailp_load(loader, mailp_cat(&full, mailp_cat(&full, prefix, name), ".weight"), 4, c_out, c_in, size, size);
    conv->quads = conv->tile == 4 ? mailp_quads(conv, loader->kernels) : 0;
    conv->rows4 = conv->tile == 1 && mailp_by_rows4(conv, loader->kernels);
    conv->group  = loader->kernels->conv_group;
    conv->inside = conv->tile == 0 && !conv->low && size == 3 && conv->h_out * conv->w_out <= MAILP_INSIDE;
    scale = conv->type == MAIL_WEIGHTS_INT8 || (conv->low && sixteen) ? mailp_take_floats(&loader->arena, mailp_pad(c_out)) : NULL;
    w = mailp_take(&loader->arena, mailp_weight_bytes(conv->type) * (size == 7 && conv->low ? c_out * 7 * conv->shape.depth :
                                                                     conv->tile == MAILP_STEM ? c_out * 36 * MAILP_STEM_DEPTH :
                                                                     mailp_pad(c_out) * c_in * size * size));
    bias = size == 7 && conv->low ? mailp_take_floats(&loader->arena, c_out) : NULL;
    if (from != NULL && w != NULL) {
        if (conv->tile == MAILP_STEM) {
            mailp_stem_transform((float *)w, from, c_out, conv->group);
        } else if (size == 7 && conv->low) {
            mailp_stem_pack(w, scale, bias, from, c_out, conv->group, conv->type, sixteen ? 32767 : loader->kernels->stem_most);
        } else if (conv->quads != 0) {
            mailp_quad_pack((float *)w, from, c_out, c_in, loader->kernels->quad_lanes);
        } else {
            const mailp_packing packing = conv->tile == 1 ? (conv->low ? MAILP_ROWS16 : MAILP_ROWS) :
                                          conv->tile != 0 ? MAILP_WINOGRAD : conv->low ? MAILP_LOW : MAILP_DIRECT;
            mailp_conv_pack(w, scale, from, c_out, c_in, size * size, conv->group, packing, conv->type, loader->kernels->low_sum);
        }
    }
    conv->w     = w;
    conv->scale = scale;
    conv->bias  = bias;
    conv->gamma = conv->beta = NULL;
    if (norm != NULL) {
        conv->gamma = mailp_vector(loader, mailp_cat(&full, mailp_cat(&full, prefix, norm), ".weight"), c_out);
        conv->beta  = mailp_vector(loader, mailp_cat(&full, mailp_cat(&full, prefix, norm), ".bias"), c_out);
    }
}

/* Bind the tensors below prefix ("obs_encoder.key_model_map.<camera>.") and pack them; camera says sizes that are valid. Errors
   stay in the loader. */
static void mailp_resnet_build(mailp_resnet *net, mailp_loader *loader, const char *prefix, const mailp_camera_config *camera) {
    mailp_name   name;
    const float *from;
    float       *to;
    size_t       h, w, c, i;

    memset(net, 0, sizeof *net);
    if (camera->height == 0 || camera->width == 0 || camera->height > MAIL_MAX_IMAGE || camera->width > MAIL_MAX_IMAGE ||
        camera->res_width == 0 || camera->res_width % MAILP_LANES != 0 || camera->res_width > MAILP_STEM_PANELS * MAILP_LANES ||
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
    /* scratch is at most a few floats for each pixel and channel of the stem: where memory has 32 bits, not even that may fit */
    if ((uint64_t)(camera->height + 8) * (camera->width + 8) * (16 + 4 * camera->res_width) > SIZE_MAX / 16) {
        if (loader->status == MAIL_OK) {
            loader->status = mailp_fail(loader->err, MAIL_E_UNSUPPORTED, "camera '%s': pictures of %llu x %llu need more memory than this machine "
                                        "can address", camera->name, (unsigned long long)camera->width, (unsigned long long)camera->height);
        }
        return;
    }
    net->height      = camera->height;
    net->width       = camera->width;
    net->feature_dim = camera->feature_dim;
    net->n_keypoints = camera->n_keypoints;

    c = camera->res_width;
    mailp_conv_build(&net->stem, loader, prefix, "backbone.nets.0", "backbone.nets.1", c, 3, net->height, net->width, 7, 2);
    h = (net->stem.h_out + 1) / 2;  /* after the maximum */
    w = (net->stem.w_out + 1) / 2;
    for (i = 0; i < 8; i++) {
        mailp_basic_block *block = &net->block[i];
        const size_t       c_in = i > 0 && i % 2 == 0 ? c / 2 : c, stride = c_in == c ? 1 : 2;
        (void)snprintf(name.text, sizeof name.text, "%.200sbackbone.nets.%d.%d.", prefix, (int)(4 + i / 2), (int)(i % 2));
        mailp_conv_build(&block->conv1, loader, name.text, "conv1", "bn1", c, c_in, h, w, 3, stride);
        block->has_downsample = stride == 2;
        if (block->has_downsample) {
            mailp_conv_build(&block->downsample, loader, name.text, "downsample.0", "downsample.1", c, c_in, h, w, 1, stride);
        }
        h = block->conv1.h_out;
        w = block->conv1.w_out;
        mailp_conv_build(&block->conv2, loader, name.text, "conv2", "bn2", c, c, h, w, 3, 1);
        if (i % 2 == 1 && i < 7) {
            c *= 2;
        }
    }

    mailp_conv_build(&net->keypoint_conv, loader, prefix, "pool.nets", NULL, net->n_keypoints, c, h, w, 1, 1);
    net->keypoint_conv.c_out = mailp_pad(net->n_keypoints);
    net->keypoint_bias = mailp_vector(loader, mailp_cat(&name, prefix, "pool.nets.bias"), net->n_keypoints);

    from = mailp_load(loader, mailp_cat(&name, prefix, "pool.temperature"), 1, 1, 0, 0, 0);
    if (from != NULL) {
        net->temperature = from[0];
        if (!(net->temperature > 0.0f)) {
            loader->status = mailp_fail(loader->err, MAIL_E_TENSOR, "tensor '%s' is %g, expected a positive number", name.text,
                                        (double)net->temperature);
        }
    }
    for (i = 0; i < 2; i++) {
        from = mailp_load(loader, mailp_cat(&name, prefix, i == 0 ? "pool.pos_x" : "pool.pos_y"), 2, 1, h * w, 0, 0);
        to   = mailp_take_floats(&loader->arena, h * w);
        if (from != NULL && to != NULL) {
            memcpy(to, from, h * w * sizeof(float));
        }
        *(i == 0 ? &net->pos_x : &net->pos_y) = to;
    }

    mailp_linear_build(loader, &net->linear, mailp_cat(&name, prefix, "nets.3"), net->feature_dim, 2 * net->n_keypoints, MAIL_WEIGHTS_F32);

    to = mailp_take_floats(&loader->arena, 3 * 256);
    for (i = 0; to != NULL && i < 3 * 256; i++) {
        const float u = (float)(i % 256) / 255.0f, v = u - mailp_image_mean[i / 256];
        to[i] = v / mailp_image_std[i / 256];
    }
    net->table = to;
}

/* One step of an encoding: every task takes a share of it. */
typedef struct mailp_resnet_step {
    const mailp_resnet   *net;
    const mailp_kernels  *kernels;
    const mail_image     *image;
    mailp_resnet_buffers  buffers;
    float                *x, *d;              /* the maps that hold the block's input, and its downsampled input */
    const mailp_conv     *conv, *next;        /* next: the convolution that reads out; NULL: it needs nothing but the map */
    size_t                from;               /* which of the buffers' v, q and q_scale conv reads; what next reads goes into the other */
    const float          *in;                 /* a map */
    float                *out;                /* a map */
    const float          *skip;               /* a map, added to out; or NULL */
    int                   relu;
    size_t                n_shares;
} mailp_resnet_step;

/* Several pictures, each through a network of its own, advance together: with as many pictures as threads every core keeps to
   one picture and its maps stay in that core's cache. */
typedef struct mailp_resnet_group {
    mailp_resnet_step    step[MAIL_MAX_CAMERAS];
    size_t               n;        /* pictures */
    const mail_parallel *parallel;
    mail_task            task;
    const mail_profile  *profile;  /* or NULL */
    size_t               count;    /* steps done */
    double               time;     /* when the last one ended */
} mailp_resnet_group;

static void mailp_resnet_group_task(void *arg, size_t i) {
    mailp_resnet_group *group = (mailp_resnet_group *)arg;
    group->task(&group->step[i % group->n], i / group->n);
}

static void mailp_resnet_step_run(mailp_resnet_group *group, mail_task task) {
    group->task = task;
    mailp_parallel_run(group->parallel, group->n * group->step[0].n_shares, mailp_resnet_group_task, group);
    if (group->profile != NULL) {
        const double now = group->profile->now(group->profile->user);
        group->profile->add(group->profile->user, "vision", group->count, now - group->time);
        group->time = now;
    }
    group->count++;
}

/* n values of 8 bits in the second half of a line become 16 bits each and fill it. Only for sets of x86, which puts the low byte first. */
static void mailp_line_widen(uint8_t *line, size_t n) {
    const uint8_t *from = line + n;
    size_t         x;
    for (x = 0; x + 4 <= n; x += 4) {  /* what is written ends where the next four begin, or before */
        uint32_t four;
        uint64_t wide;
        memcpy(&four, from + x, sizeof four);
        wide = (four | (uint64_t)four << 16) & 0x0000ffff0000ffffu;
        wide = (wide | wide << 8) & 0x00ff00ff00ff00ffu;
        memcpy(line + 2 * x, &wide, sizeof wide);
    }
    for (; x < n; x++) {
        const uint16_t wide = from[x];
        memcpy(line + 2 * x, &wide, sizeof wide);
    }
}

/* Row y of the phases: rows 2y - 3 and 2y - 2 of the picture. */
static void mailp_resnet_phases(const mailp_resnet_step *step, size_t y, const mailp_image_tools *tools) {
    const mailp_resnet *net = step->net;
    const size_t        row = mailp_phases_columns(&net->stem) * MAILP_LANES;
    float              *to = step->buffers.image + y * row;
    size_t              at;
    memset(to, 0, row * sizeof(float));
    for (at = 2 * y; at < 2 * y + 2; at++) {
        if (at >= 3 && at < net->height + 3) {  /* the picture's even columns are odd with its border of 3 */
            mailp_image_prepare(to + MAILP_LANES + (at % 2 == 0 ? 0 : 9), to + 2 * MAILP_LANES + (at % 2 == 0 ? 3 : 6), MAILP_LANES, step->image,
                                at - 3, net->height, net->width, tools);
        }
    }
}

static void mailp_resnet_image_task(void *arg, size_t i) {
    const mailp_resnet_step *step = (const mailp_resnet_step *)arg;
    const mailp_resnet      *net = step->net;
    const size_t             row = (net->width + 6) * 3;
    mailp_image_tools        tools;
    size_t                   y, end;
    tools.kernels = step->kernels;
    tools.table   = net->table;
    tools.rgb     = step->buffers.rgb + i * 3 * MAILP_COLUMNS;
    tools.columns = step->buffers.columns + i * 3 * MAILP_COLUMNS;
    tools.sums    = step->buffers.sums + i * net->width * 3;
    if (net->stem.tile == MAILP_STEM) {
        mailp_share(&y, &end, mailp_phases_rows(&net->stem), i, step->n_shares);
        for (; y < end; y++) {
            mailp_resnet_phases(step, y, &tools);
        }
        return;
    }
    mailp_share(&y, &end, net->height + 6, i, step->n_shares);
    for (; y < end; y++) {
        float *to = step->buffers.image + y * row;
        if (net->stem.low) {
            const size_t bytes = mailp_weight_bytes(net->stem.type);
            uint8_t     *line = step->buffers.image_u8 + y * row * bytes, *q = line + row * (bytes - 1);
            size_t       x;
            if (y >= 3 && y < net->height + 3) {
                mailp_image_prepare_u8(q + 9, step->image, y - 3, net->height, net->width, &tools, to);
            }
            for (x = 0; x < row; x++) {
                if (x == 9 && y >= 3 && y < net->height + 3) {
                    x = row - 9;
                }
                q[x] = (uint8_t)(mailp_image_mean[x % 3] * 255.0f + 0.5f);
            }
            if (bytes == 2) {
                mailp_line_widen(line, row);
            }
            if (y + 1 == net->height + 6) {
                memset(line + row * bytes, 0, 4);  /* read with weight zero after the last pixel */
            }
            continue;
        }
        if (y < 3 || y >= net->height + 3) {
            memset(to, 0, row * sizeof(float));
            continue;
        }
        memset(to, 0, 9 * sizeof(float));
        memset(to + row - 9, 0, 9 * sizeof(float));
        mailp_image_prepare(to + 9, to + 12, 6, step->image, y - 3, net->height, net->width, &tools);
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

/* The outputs that find their tap, 0 to 2, inside the picture are *from..*end-1: output o looks for it at input stride * o + tap - 1. */
static void mailp_conv_inside(size_t *from, size_t *end, size_t inputs, size_t outputs, size_t stride, size_t tap) {
    *from = tap == 0 ? 1 : 0;
    *end  = MAILP_MIN((inputs + stride - tap) / stride, outputs);
}

/* One tap of one piece of a convolution for the pixels that find it inside the picture, added to y [n][h * w][16]; other operands as in
   mailp_kernels.conv */
static void mailp_conv_add_inside(float *y, const mailp_conv *conv, const mailp_kernels *kernels, const float *x, const float *w, size_t group,
                                  mailp_conv_shape shape, size_t tap, size_t n, uintptr_t ahead, size_t lines) {
    const size_t pixels = conv->h_out * conv->w_out, stride = shape.pixel_step / MAILP_LANES;
    float        part[MAILP_CONV_GROUP * MAILP_INSIDE * MAILP_LANES];
    size_t       row, rows_end, column, columns_end, count, i;
    mailp_conv_inside(&row, &rows_end, conv->h_in, conv->h_out, stride, tap / 3);
    mailp_conv_inside(&column, &columns_end, conv->w_in, conv->w_out, stride, tap % 3);
    if (row >= rows_end || column >= columns_end) {
        return;
    }
    shape.width = columns_end - column;
    count       = (rows_end - row) * shape.width;
    kernels->conv(part, count * MAILP_LANES, x + row * shape.row_step + column * shape.pixel_step, w, group, &shape, tap, tap + 1, count, n, 0,
                  ahead, lines);
    for (i = 0; i < n; i++) {
        kernels->add(y + (i * pixels + row * conv->w_out + column) * MAILP_LANES, conv->w_out * MAILP_LANES, part + i * count * MAILP_LANES,
                     shape.width * MAILP_LANES, rows_end - row, shape.width);
    }
}

/* Blocks begin..begin+n-1, all of one group, of a convolution; each of the following does it in one of the ways that mailp_conv_build
   chooses from. While a piece of the weights is at work the next one is fetched; pieces lie in memory in the order of use. */
typedef struct mailp_conv_job {
    const mailp_conv    *conv;
    const mailp_kernels *kernels;
    const float         *in;       /* a bordered map, or Winograd's inputs */
    const unsigned char *q;        /* the same for integers */
    const float         *q_scale;  /* of its blocks */
    float               *m, *u;    /* scratch for Winograd's products, and for weights made ready */
    float               *y;        /* [n][h * w][16], block stride ldy */
    size_t               ldy;
    size_t               begin, n;
    size_t               first, group;  /* of the panels that are packed side by side with these */
    const float         *scale;    /* of these outputs' weights, or NULL */
} mailp_conv_job;

/* What the blocks of the i-th task of a step have in common, of conv as of a step's own */
static mailp_conv_job mailp_conv_job_of(const mailp_resnet_step *step, const mailp_conv *conv, size_t i) {
    mailp_conv_job j;
    memset(&j, 0, sizeof j);
    j.conv    = conv;
    j.kernels = step->kernels;
    j.in      = conv->tile != 0 ? step->buffers.v[step->from] : step->in;
    j.q       = step->buffers.q[step->from];
    j.q_scale = step->buffers.q_scale[step->from];
    j.m       = step->buffers.m + i * conv->planes * MAILP_M_PLANE(conv->group);
    j.u       = step->buffers.u + i * step->buffers.u_floats;
    j.ldy     = conv->h_out * conv->w_out * MAILP_LANES;
    return j;
}

/* Directly, in products of integers */
static void mailp_conv_low(const mailp_conv_job *j) {
    const mailp_conv       *conv = j->conv;
    const mailp_conv_shape *shape = &conv->shape;
    const size_t            size = mailp_weight_bytes(conv->type) * MAILP_LANES, bytes = shape->n_taps * shape->depth * j->group * size;  /* of a block */
    const float            *bias = conv->bias == NULL ? NULL : conv->bias + j->begin * MAILP_LANES;
    const unsigned char    *w = (const unsigned char *)conv->w + j->first * shape->n_taps * shape->n_blocks * shape->depth * size +
                                (j->begin - j->first) * 4 * MAILP_LANES;
    size_t                  b, end;
    for (b = 0; b < shape->n_blocks; b = end) {
        end = MAILP_MIN(b + 2 * MAILP_LANES / size, shape->n_blocks);  /* two blocks of 8 bits, one of 16 */
        j->kernels->conv_low[conv->type](j->y, j->ldy, j->q, j->q_scale, w, j->scale, bias, j->group, shape, b, end, conv->h_out * conv->w_out, j->n,
                                         (uintptr_t)w + (end - b) * bytes, (end - b) * bytes / MAILP_ALIGN);
        w += (end - b) * bytes;
    }
}

/* Directly, in float32 */
static void mailp_conv_direct(const mailp_conv_job *j) {
    const mailp_conv    *conv = j->conv;
    mailp_conv_shape     shape = conv->shape;
    const size_t         pixels = conv->h_out * conv->w_out, size = mailp_weight_bytes(conv->type) * MAILP_LANES;
    const size_t         n_blocks = shape.n_blocks, depth = n_blocks * shape.depth;
    const unsigned char *w = (const unsigned char *)conv->w + (j->first * shape.n_taps * depth + j->begin - j->first) * size;
    const int            ready = conv->type == MAIL_WEIGHTS_F32;
    const size_t         ready_group = ready ? j->group : j->n;
    size_t               taps, blocks, tap, end, b;
    mailp_conv_piece(&taps, &blocks, conv);
    if (conv->inside) {
        memset(j->y, 0, j->n * pixels * MAILP_LANES * sizeof(float));
    }
    for (tap = 0; tap < shape.n_taps; tap = end) {
        end = MAILP_MIN(tap + taps, shape.n_taps);
        for (b = 0; b < n_blocks; b += blocks) {
            const float *x = j->in + b * shape.plane, *g = ready ? (const float *)(const void *)w : j->u;
            size_t       steps, bytes;
            shape.n_blocks = MAILP_MIN(blocks, n_blocks - b);
            steps          = (end - tap) * shape.n_blocks * shape.depth;
            bytes          = steps * j->group * size;
            if (!ready) {
                j->kernels->widen(j->u, w, j->scale, steps, j->group, j->n, conv->type);
            }
            if (conv->inside) {
                mailp_conv_add_inside(j->y, conv, j->kernels, x, g, ready_group, shape, tap, j->n, (uintptr_t)w + 2 * bytes, bytes / MAILP_ALIGN);
            } else {
                j->kernels->conv(j->y, j->ldy, x, g, ready_group, &shape, tap, end, pixels, j->n, tap > 0 || b > 0, (uintptr_t)w + bytes,
                                 bytes / MAILP_ALIGN);
            }
            w += bytes;
        }
    }
}

/* Winograd's tiles of one row, in products of 16 bits */
static void mailp_conv_rows16(const mailp_conv_job *j) {
    const mailp_conv    *conv = j->conv;
    const mailp_kernels *kernels = j->kernels;
    const size_t         plane = mailp_winograd_in_plane(conv), m_plane = MAILP_M_PLANE(conv->group), column = MAILP_COLUMN * j->group;
    const size_t         tiles = conv->shape.width, n_blocks = conv->shape.n_blocks;
    const size_t         lines = 3 * column * sizeof(int16_t) / MAILP_ALIGN, first_lines = lines / 4, share = (lines - first_lines) / 6 + 1;
    const int16_t       *w = (const int16_t *)conv->w + j->first * n_blocks * 3 * MAILP_COLUMN;
    int16_t             *ready = (int16_t *)(void *)j->u;
    size_t               b, k, i;
    for (b = 0; b < n_blocks; b++, w += 3 * column) {
        const uintptr_t ahead = (uintptr_t)(w + 3 * column);
        kernels->rows16_weights(ready, w, j->group, ahead, first_lines);
        for (k = 0; k < 6; k++) {
            const int16_t *uk = (k == 0 ? w : k == 5 ? w + 2 * column : ready + (k - 1) * column) + (j->begin - j->first) * 2 * MAILP_LANES;
            kernels->conv_low[conv->type](j->m + k * m_plane, tiles * MAILP_LANES, j->q + k * plane * sizeof(int16_t), j->q_scale,
                                          (const unsigned char *)uk, j->scale, NULL, j->group, &conv->shape, b, b + 1, tiles, j->n,
                                          ahead + (first_lines + k * share) * MAILP_ALIGN, share);
        }
    }
    for (i = 0; i < j->n; i++) {
        kernels->rows16_out(j->y + i * j->ldy, j->m + i * tiles * MAILP_LANES, conv->h_out, conv->w_out, conv->tiles_w);
    }
}

/* Winograd's tiles of one row, in float32 */
static void mailp_conv_rows(const mailp_conv_job *j) {
    const mailp_conv    *conv = j->conv;
    const mailp_kernels *kernels = j->kernels;
    const size_t         plane = mailp_winograd_in_plane(conv), m_plane = MAILP_M_PLANE(conv->group), tiles = conv->shape.width;
    const size_t         n_blocks = conv->shape.n_blocks, bytes = 9 * MAILP_LANES * MAILP_LANES * mailp_weight_bytes(conv->type);  /* of a block */
    const size_t         lines = bytes / MAILP_ALIGN, first_lines = lines / 4, steps = 3 * MAILP_LANES * ((tiles + 5) / 6);
    const size_t         first_pace = mailp_pace(first_lines, MAILP_COLUMN / MAILP_LANES), pace = mailp_pace(lines - first_lines, 6 * steps);
    const unsigned char *w = (const unsigned char *)conv->w + j->begin * n_blocks * bytes;
    size_t               b, k, i;
    for (i = 0; i < j->n; i++) {
        for (b = 0; b < n_blocks; b++, w += bytes) {
            const uintptr_t ahead = (uintptr_t)w + bytes;
            kernels->winograd_rows_weights(j->u, w, MAILP_COLUMN, j->scale == NULL ? NULL : j->scale + i * MAILP_LANES, conv->type, ahead, first_pace);
            for (k = 0; k < 6; k++) {
                const float *uk = j->u + k * MAILP_COLUMN;
                if (conv->type == MAIL_WEIGHTS_F32 && k % 5 == 0) {
                    uk = (const float *)(const void *)w + (k == 0 ? 0 : 2 * MAILP_COLUMN);
                }
                kernels->winograd_products(j->m + k * m_plane, 0, j->in + k * plane + b * conv->shape.plane, conv->shape.tap[1], 3, uk, tiles, b > 0,
                                           ahead + first_lines * MAILP_ALIGN + k * steps * pace, pace);
            }
        }
        kernels->winograd_out(j->y + i * j->ldy, j->m, conv->h_out, conv->w_out, 1, conv->tiles_w, 0, tiles);
    }
}

/* The same for MAILP_ROWS4 panels at a time */
static void mailp_conv_rows4(const mailp_conv_job *j) {
    const mailp_conv *conv = j->conv;
    const size_t      tiles = conv->shape.width;
    size_t            i;
    j->kernels->winograd_rows4(j->m, j->in, mailp_winograd_in_plane(conv), conv->tiles_w,
                               (const float *)conv->w + j->begin * conv->shape.n_blocks * 3 * MAILP_COLUMN, conv->shape.n_blocks);
    for (i = 0; i < MAILP_ROWS4; i++) {
        j->kernels->winograd_out(j->y + i * j->ldy, j->m + i * tiles * MAILP_LANES, conv->h_out, conv->w_out, 1, conv->tiles_w, 0, tiles);
    }
}

/* Four or eight of Winograd's tiles of 4 x 4 */
static void mailp_conv_quad(const mailp_conv_job *j) {
    const mailp_conv *conv = j->conv;
    const size_t      lanes = j->kernels->quad_lanes, column = MAILP_QUAD_COLUMN(lanes);
    const size_t      lines = 3 * column * sizeof(float) / MAILP_ALIGN, first_lines = lines / 4;
    const size_t      first_pace = mailp_pace(first_lines, column / MAILP_LANES), pace = mailp_pace(lines - first_lines, 12 * MAILP_QUAD_DEPTH);
    const float      *w = (const float *)conv->w + j->begin * conv->shape.n_blocks * 3 * MAILP_COLUMN;
    size_t            i, lane, b;
    for (i = 0; i < j->n; i++) {
        for (lane = 0; lane < MAILP_LANES; lane += lanes) {
            for (b = 0; b < conv->c_in / MAILP_QUAD_DEPTH; b++, w += 3 * column) {
                const uintptr_t ahead = (uintptr_t)(w + 3 * column);
                j->kernels->winograd_rows_weights(j->u, w, column, NULL, MAIL_WEIGHTS_F32, ahead, first_pace);
                j->kernels->winograd_quad(j->m + lane, j->in + b * 12 * conv->quads * MAILP_QUAD_PASS, conv->quads, j->u, w, b > 0,
                                          ahead + first_lines * MAILP_ALIGN, pace);
            }
        }
        j->kernels->winograd_out(j->y + i * j->ldy, j->m, conv->h_out, conv->w_out, 4, conv->tiles_w, 0, 4 * conv->quads);
    }
}

/* Winograd's square tiles, of either stride */
static void mailp_conv_squares(const mailp_conv_job *j) {
    const mailp_conv    *conv = j->conv;
    const mailp_kernels *kernels = j->kernels;
    mailp_conv_shape     shape = conv->shape;
    const size_t         tiles = shape.width, most = MAILP_TILES, size = 9 * MAILP_LANES * mailp_weight_bytes(conv->type);
    const size_t         plane = mailp_winograd_in_plane(conv), m_plane = MAILP_M_PLANE(conv->group), u_plane = MAILP_U_PLANE(conv->group);
    const unsigned char *w = (const unsigned char *)conv->w + (j->first * conv->c_in + j->begin - j->first) * size;
    const size_t         most_depth = conv->group > 1 && conv->c_in > MAILP_DEPTH ? MAILP_DEPTH / 2 : MAILP_DEPTH;
    size_t               t, count, k, b, c, depth;
    for (t = 0; t < tiles; t += count) {
        count = MAILP_MIN(tiles - t, most);
        for (c = 0; c < conv->c_in; c += depth) {
            const size_t lines = most_depth * j->group * size / MAILP_ALIGN / conv->planes + 1;
            size_t       pace;
            depth   = MAILP_MIN(conv->c_in - c, most_depth);
            pace    = mailp_pace(lines, (count + 5) / 6 * depth);
            if (t == 0 || conv->c_in > MAILP_DEPTH) {
                kernels->winograd_weights(j->u, w + c * j->group * size, j->scale, depth, j->group, j->n, conv->tile, conv->type);
            }
            shape.n_blocks = depth / MAILP_LANES;
            for (k = 0; k < conv->planes; k++) {
                const uintptr_t ahead = (uintptr_t)w + (c + depth) * j->group * size + k * lines * MAILP_ALIGN;
                const float    *v = j->in + k * plane + c * tiles + t * MAILP_LANES, *uk = j->u + mailp_tile_weights(conv->tile, k) * u_plane;
                float          *mk = j->m + k * m_plane;
                if (kernels->winograd_products != NULL && j->n == kernels->conv_group) {
                    kernels->winograd_products(mk, count * MAILP_LANES, v, shape.plane, shape.n_blocks, uk, count, c > 0, ahead, pace);
                } else {
                    kernels->conv(mk, count * MAILP_LANES, v, uk, j->n, &shape, 0, 1, count, j->n, c > 0, ahead, lines);
                }
            }
        }
        for (b = 0; b < j->n; b++) {
            kernels->winograd_out(j->y + b * j->ldy, j->m + b * count * MAILP_LANES, conv->h_out, conv->w_out, conv->tile, conv->tiles_w, t, t + count);
        }
    }
}

static void mailp_conv_run(mailp_conv_job *j, float *y, size_t begin, size_t n) {
    const mailp_conv *conv = j->conv;
    j->y     = y;
    j->begin = begin;
    j->n     = n;
    j->group = mailp_conv_group(&j->first, begin, conv->c_out / MAILP_LANES, conv->group);
    j->scale = conv->scale == NULL ? NULL : conv->scale + begin * MAILP_LANES;
    if (conv->tile == 1) {
        (conv->low ? mailp_conv_rows16 : conv->rows4 && n == MAILP_ROWS4 ? mailp_conv_rows4 : mailp_conv_rows)(j);
    } else if (conv->tile != 0) {
        (conv->quads != 0 ? mailp_conv_quad : mailp_conv_squares)(j);
    } else {
        (conv->low ? mailp_conv_low : mailp_conv_direct)(j);
    }
}

/* Rows from..from+rows-1 of blocks begin..end-1 of a stem by Winograd, which are one row of tiles, a piece of it at a time.
   y     row `from` of the first block, block stride ldy
   in    a picture's phases
   m, v  scratch for products and inputs */
static void mailp_stem_run(float *y, size_t ldy, float *m, float *v, const mailp_conv *conv, const mailp_kernels *kernels, const float *in,
                           size_t from, size_t rows, size_t begin, size_t end) {
    const size_t     row = mailp_phases_columns(conv) * MAILP_LANES, m_plane = MAILP_M_PLANE(conv->group), v_plane = MAILP_M_PLANE(1);
    const size_t     most = MAILP_TILES, ldm = most * MAILP_LANES;
    mailp_conv_shape shape = conv->shape;
    size_t           t, count, b, n, k, p;
    for (t = 0; t < conv->tiles_w; t += count) {
        count       = MAILP_MIN(conv->tiles_w - t, most);
        shape.width = count;
        kernels->winograd_in(v, v_plane, in + from * row + t * 3 * MAILP_LANES, row, 1, count, MAILP_STEM);
        for (b = begin; b < end; b += n) {
            size_t       first;
            const size_t group = mailp_conv_group(&first, b, conv->c_out / MAILP_LANES, conv->group);
            const float *w = (const float *)conv->w + (first * 36 * MAILP_STEM_DEPTH + b - first) * MAILP_LANES;
            n = MAILP_MIN(end, first + group) - b;
            for (k = 0; k < 36; k++, w += MAILP_STEM_DEPTH * group * MAILP_LANES) {
                size_t       skip;
                const float *wk, *vk;
                shape.depth = mailp_stem_inputs(&skip, k);
                wk          = w + skip * group * MAILP_LANES;
                vk          = v + k * v_plane + skip;
                if (kernels->stem_products != NULL && n == kernels->conv_group) {
                    kernels->stem_products(m + k * m_plane, ldm, vk, wk, shape.depth, count);
                } else {
                    kernels->conv(m + k * m_plane, ldm, vk, wk, group, &shape, 0, 1, count, n, 0, (uintptr_t)wk, 0);
                }
            }
            for (p = 0; p < n; p++) {
                kernels->winograd_out(y + (b - begin + p) * ldy, m + p * ldm, rows, conv->w_out, MAILP_STEM, conv->tiles_w, t, t + count);
            }
        }
    }
}

/* Rows from..end-1 of a block of the stem's h x w outputs are new in a ring of MAILP_STEM_RING rows, [w][16] each: add them to the moments,
   and write the rows of maxima that waited for them to out, row stride row. */
static void mailp_stem_pool(float *out, size_t row, mailp_moments *moments, const mailp_kernels *kernels, const float *ring, const float *gamma,
                            size_t from, size_t end, size_t h, size_t w) {
    size_t y;
    kernels->moments(moments, ring + from % MAILP_STEM_RING * w * MAILP_LANES, (end - from) * w * MAILP_LANES);
    for (y = from / 2; 2 * y < h && (2 * y + 2 <= end || end == h); y++) {
        const float *r1 = ring + 2 * y % MAILP_STEM_RING * w * MAILP_LANES;
        const float *r0 = y == 0 ? r1 : ring + (2 * y - 1) % MAILP_STEM_RING * w * MAILP_LANES;
        const float *r2 = 2 * y + 1 == h ? r1 : ring + (2 * y + 1) % MAILP_STEM_RING * w * MAILP_LANES;
        kernels->pool(out + y * row, r0, r1, r2, gamma, w);
    }
}

/* What the next convolution reads beside the bordered map step->out, whose block b has just been made by the i-th task: Winograd's
   input, or integers. */
static void mailp_conv_prepare(const mailp_resnet_step *step, size_t i, size_t b) {
    const mailp_conv    *next = step->next;
    const mailp_kernels *kernels = step->kernels;
    float               *u = step->buffers.u + i * step->buffers.u_floats, *v = step->buffers.v[1 - step->from];
    unsigned char       *q = step->buffers.q[1 - step->from];
    float               *q_scale = step->buffers.q_scale[1 - step->from] + b;
    const float         *block;
    size_t               row, floats;
    if (next == NULL) {
        return;
    }
    row    = mailp_map_side(next->w_in) * MAILP_LANES;
    floats = mailp_map_side(next->h_in) * row;
    block  = step->out + b * floats;
    if (next->low && next->tile == 1) {
        kernels->rows16_in((int16_t *)(void *)q + b * next->shape.plane, q_scale, mailp_winograd_in_plane(next), block, floats, row,
                           next->tiles_h, next->tiles_w);
    } else if (next->low) {
        kernels->lower[next->type](q + b * floats * mailp_weight_bytes(next->type), q_scale, block, floats);
    } else if (next->quads != 0) {
        const size_t together = MAILP_QUAD_DEPTH / MAILP_LANES, channel = 12 * next->quads;
        kernels->winograd_in(u, next->shape.plane, block, row, next->tiles_h, next->tiles_w, 4);
        kernels->winograd_quad_in(v + b / together * channel * MAILP_QUAD_PASS + b % together * MAILP_LANES * channel, u, next->quads);
    } else if (next->tile != 0) {
        kernels->winograd_in(v + b * next->shape.plane, mailp_winograd_in_plane(next), block, row, next->tiles_h, next->tiles_w, next->tile);
    }
}

/* Convolution, GroupNorm, skip, relu for a share of the output blocks. */
static void mailp_resnet_conv_task(void *arg, size_t i) {
    const mailp_resnet_step *step = (const mailp_resnet_step *)arg;
    const mailp_conv        *conv = step->conv;
    const size_t             columns = mailp_map_side(conv->w_out), plane = mailp_map_side(conv->h_out) * columns * MAILP_LANES;
    /* winograd_rows4 rounds differently: which panels it does must not depend on the shares */
    const size_t             panels = conv->c_out / MAILP_LANES, unit = conv->rows4 ? MAILP_ROWS4 : 1, together = conv->rows4 ? MAILP_ROWS4 : conv->group;
    mailp_conv_job           job = mailp_conv_job_of(step, conv, i);
    size_t                   b, begin, end, n;
    mailp_share(&begin, &end, (panels + unit - 1) / unit, i, step->n_shares);
    begin *= unit;
    end    = MAILP_MIN(end * unit, panels);
    for (; begin < end; begin += n) {
        float *raw = step->buffers.raw + begin * job.ldy;
        n = MAILP_MIN(end - begin, together - begin % together);
        mailp_conv_run(&job, raw, begin, n);
        for (b = begin; b < begin + n; b++, raw += job.ldy) {
            const size_t at = b * plane + (columns + 1) * MAILP_LANES;
            mailp_map_border(step->out + b * plane, conv->h_out, conv->w_out);
            step->kernels->group_norm(step->out + at, columns * MAILP_LANES, raw, step->skip == NULL ? NULL : step->skip + at,
                                      conv->gamma + b * MAILP_LANES, conv->beta + b * MAILP_LANES, conv->h_out, conv->w_out,
                                      step->relu);
            mailp_conv_prepare(step, i, b);
        }
    }
}

/* The stem: convolution from the picture, GroupNorm, relu, maximum. Of its outputs there are only a few rows at a time. */
static void mailp_resnet_stem_task(void *arg, size_t i) {
    const mailp_resnet_step *step = (const mailp_resnet_step *)arg;
    const mailp_conv        *conv = step->conv;
    const size_t             h = (conv->h_out + 1) / 2, w = (conv->w_out + 1) / 2, row = conv->w_out * MAILP_LANES, block = MAILP_STEM_RING * row;
    const size_t             columns = mailp_map_side(w), plane = mailp_map_side(h) * columns * MAILP_LANES;
    const size_t             image_row = conv->shape.row_step * mailp_weight_bytes(conv->type);
    const float              one = 1.0f;
    mailp_conv               strip = *conv;  /* as many rows as are done at a time */
    mailp_conv_job           job = mailp_conv_job_of(step, &strip, i);
    mailp_moments            moments[MAILP_STEM_PANELS];
    size_t                   b, begin, end, n, y, rows;
    job.ldy     = block;
    job.q_scale = &one;
    mailp_share(&begin, &end, conv->c_out / MAILP_LANES, i, step->n_shares);
    memset(moments, 0, sizeof moments);
    for (y = 0; y < conv->h_out; y += rows) {
        rows = MAILP_MIN(conv->h_out - y, (size_t)MAILP_STEM_RING / 2);
        if (conv->tile == MAILP_STEM) {
            mailp_stem_run(step->buffers.ring + begin * block + y % MAILP_STEM_RING * row, block, job.m, job.u, conv, step->kernels,
                           step->buffers.image, y, rows, begin, end);
        } else {
            strip.h_out = rows;
            job.in      = step->buffers.image + y * conv->shape.row_step;
            job.q       = conv->low ? step->buffers.image_u8 + y * image_row : NULL;
            for (b = begin; b < end; b += n) {
                n = MAILP_MIN(end - b, conv->group - b % conv->group);
                mailp_conv_run(&job, step->buffers.ring + b * block + y % MAILP_STEM_RING * row, b, n);
            }
        }
        for (b = begin; b < end; b++) {
            mailp_stem_pool(step->out + b * plane + (columns + 1) * MAILP_LANES, columns * MAILP_LANES, &moments[b], step->kernels,
                            step->buffers.ring + b * block, conv->gamma + b * MAILP_LANES, y, y + rows, conv->h_out, conv->w_out);
        }
    }
    for (b = begin; b < end; b++) {
        mailp_map_border(step->out + b * plane, h, w);
        step->kernels->pool_norm(step->out + b * plane + (columns + 1) * MAILP_LANES, columns * MAILP_LANES, &moments[b], conv->gamma + b * MAILP_LANES,
                                 conv->beta + b * MAILP_LANES, h, w);
        mailp_conv_prepare(step, i, b);
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

/* A picture and what becomes of it. */
typedef struct mailp_resnet_work {
    const mailp_resnet *net;
    const mail_image   *image;      /* checked */
    float              *features;   /* [feature_dim] */
    float              *keypoints;  /* [n_keypoints][2], or NULL */
    void               *scratch;    /* mailp_resnet_scratch(net, threads of parallel) bytes, aligned to 64 */
} mailp_resnet_work;

/* Keypoints and features from the last map. */
static void mailp_resnet_last_task(void *arg, size_t i) {
    const mailp_resnet_step    *step = (const mailp_resnet_step *)arg;
    const mailp_resnet         *net  = step->net;
    const mailp_resnet_buffers *b    = &step->buffers;
    mailp_conv_job              job;
    size_t                      panel;
    if (i > 0) {
        return;
    }
    job = mailp_conv_job_of(step, &net->keypoint_conv, 0);
    for (panel = 0; panel < net->keypoint_conv.c_out / MAILP_LANES; panel++) {
        mailp_conv_run(&job, b->raw + panel * job.ldy, panel, 1);
    }
    mailp_spatial_softmax(b->keypoints, b->raw, net, net->keypoint_conv.h_out * net->keypoint_conv.w_out);
    step->kernels->gemm[MAIL_WEIGHTS_F32](b->features, mailp_pad(net->feature_dim), b->keypoints, net->linear.k, net->linear.w, NULL,
                                          net->linear.bias, 1, net->linear.k, net->linear.panels, 0);
}

/* Encode n <= MAIL_MAX_CAMERAS pictures together.
   profile   NULL, or told the seconds of each step as part "vision": layer 0 image, 1 stem, 2..20 the convolutions in order,
             21 keypoints and linear
   Memory    none.   The result depends neither on the number of threads nor on which pictures go together. */
static void mailp_resnet_encode(const mailp_resnet_work *work, size_t n, const mailp_kernels *kernels, const mail_parallel *parallel,
                                const mail_profile *profile) {
    mailp_resnet_group group;
    mailp_resnet_step *step = group.step;
    size_t             i, k;
    group.n        = n;
    group.parallel = parallel;
    group.profile  = profile;
    group.count    = 0;
    group.time     = profile == NULL ? 0 : profile->now(profile->user);
    for (k = 0; k < n; k++) {
        mailp_arena arena;
        arena.base = (unsigned char *)work[k].scratch;
        arena.used = 0;
        step[k].n_shares = MAILP_MAX(mailp_threads(parallel) / n, (size_t)1);
        mailp_resnet_layout(&step[k].buffers, &arena, work[k].net, mailp_threads(parallel));
        step[k].net     = work[k].net;
        step[k].kernels = kernels;
        step[k].image   = work[k].image;
    }
    mailp_resnet_step_run(&group, mailp_resnet_image_task);
    for (k = 0; k < n; k++) {
        step[k].x    = step[k].buffers.map[0];
        step[k].d    = step[k].buffers.map[2];
        step[k].conv = &step[k].net->stem;
        step[k].next = &step[k].net->block[0].conv1;
        step[k].from = 1;
        step[k].in   = NULL;
        step[k].out  = step[k].x;
    }
    mailp_resnet_step_run(&group, mailp_resnet_stem_task);
    for (i = 0; i < 8; i++) {
        for (k = 0; k < n; k++) {
            step[k].conv = &step[k].net->block[i].conv1;
            step[k].next = &step[k].net->block[i].conv2;
            step[k].from = 0;
            step[k].in   = step[k].x;
            step[k].out  = step[k].buffers.map[1];
            step[k].skip = NULL;
            step[k].relu = 1;
        }
        mailp_resnet_step_run(&group, mailp_resnet_conv_task);
        if (step[0].net->block[i].has_downsample) {
            for (k = 0; k < n; k++) {
                step[k].conv = &step[k].net->block[i].downsample;
                step[k].next = NULL;
                step[k].out  = step[k].d;
                step[k].relu = 0;
            }
            mailp_resnet_step_run(&group, mailp_resnet_conv_task);
        }
        /* a task reads skip only where it writes, so the sum may replace it */
        for (k = 0; k < n; k++) {
            if (step[k].net->block[i].has_downsample) {
                float *swap = step[k].x;
                step[k].x = step[k].d;
                step[k].d = swap;
            }
            step[k].conv = &step[k].net->block[i].conv2;
            step[k].next = i < 7 ? &step[k].net->block[i + 1].conv1 : NULL;
            step[k].from = 1;
            step[k].in   = step[k].buffers.map[1];
            step[k].out  = step[k].x;
            step[k].skip = step[k].x;
            step[k].relu = 1;
        }
        mailp_resnet_step_run(&group, mailp_resnet_conv_task);
    }
    for (k = 0; k < n; k++) {
        step[k].in = step[k].x;
    }
    mailp_resnet_step_run(&group, mailp_resnet_last_task);
    for (k = 0; k < n; k++) {
        memcpy(work[k].features, step[k].buffers.features, work[k].net->feature_dim * sizeof(float));
        if (work[k].keypoints != NULL) {
            memcpy(work[k].keypoints, step[k].buffers.keypoints, 2 * work[k].net->n_keypoints * sizeof(float));
        }
    }
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
    const mail_options  o = options == NULL ? mail_options_init() : *options;
    mailp_camera_config camera;
    mailp_resnet        net;
    mailp_loader        l;
    mailp_name          name;
    mail_encoder       *made;
    const mail_tensor  *stem, *pool, *linear, *pos_x;
    if (encoder != NULL) {
        *encoder = NULL;
    }
    if (encoder == NULL || tensors == NULL || prefix == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_encoder_create: tensors, prefix or result is NULL");
    }
    if (mailp_loader_begin(&l, tensors, &o, err) != MAIL_OK) {
        return l.status;
    }
    stem   = mailp_find(&l, mailp_cat(&name, prefix, "backbone.nets.0.weight"));
    pool   = mailp_find(&l, mailp_cat(&name, prefix, "pool.nets.weight"));
    linear = mailp_find(&l, mailp_cat(&name, prefix, "nets.3.weight"));
    pos_x  = mailp_find(&l, mailp_cat(&name, prefix, "pool.pos_x"));
    if (stem == NULL || pool == NULL || linear == NULL || pos_x == NULL || stem->n_dims != 4 || pool->n_dims != 4 || linear->n_dims != 2) {
        l.status = mailp_fail(err, MAIL_E_TENSOR, "'%sbackbone.nets.0.weight', '...pool.nets.weight', '...nets.3.weight' or '...pool.pos_x' is "
                              "missing or has not 4, 4, 2 and 2 dimensions", prefix);
    } else {
        memset(&camera, 0, sizeof camera);
        (void)snprintf(camera.name, sizeof camera.name, "%.60s", prefix);
        camera.height      = height;
        camera.width       = width;
        camera.res_width   = (size_t)MAILP_MIN(stem->shape[0], (uint64_t)SIZE_MAX);
        camera.n_keypoints = (size_t)MAILP_MIN(pool->shape[0], (uint64_t)SIZE_MAX);
        camera.feature_dim = (size_t)MAILP_MIN(linear->shape[0], (uint64_t)SIZE_MAX);
        l.status = mailp_map_size(&camera, pos_x, err);
        if (l.status == MAIL_OK) {
            l.status = mailp_map_check(&camera, height, width, "mail_encoder_create", err);
        }
        (void)mailp_take(&l.arena, sizeof *made);
        mailp_resnet_build(&net, &l, prefix, &camera);
        mailp_check_surplus(&l, prefix, "encoder");
    }
    made = (mail_encoder *)mailp_loader_block(&l);
    if (l.status == MAIL_OK) {
        (void)mailp_take(&l.arena, sizeof *made);
        memset(made, 0, sizeof *made);
        mailp_resnet_build(&made->net, &l, prefix, &camera);
        made->kernels           = l.kernels;
        made->allocator         = o.allocator;
        made->info.width        = width;
        made->info.height       = height;
        made->info.feature_dim  = camera.feature_dim;
        made->info.n_keypoints  = camera.n_keypoints;
        made->info.n_parameters = l.n_parameters;
        made->info.weight_bytes = l.arena.used - sizeof *made;
        made->info.isa          = l.kernels->name;
        made->info.weights      = l.weights;
    }
    mailp_loader_end(&l);
    if (l.status != MAIL_OK) {
        mailp_free(&o.allocator, made);
    } else {
        *encoder = made;
    }
    return l.status;
}

MAIL_API void mail_encoder_free(mail_encoder *encoder) {
    if (encoder != NULL) {
        mail_allocator allocator = encoder->allocator;
        mailp_free(&allocator, encoder);
    }
}

MAIL_API const mail_encoder_info *mail_encoder_get_info(const mail_encoder *encoder) {
    return encoder == NULL ? NULL : &encoder->info;
}

MAIL_API size_t mail_encoder_scratch(const mail_encoder *encoder, size_t n_threads) {
    return encoder == NULL || n_threads < 1 || n_threads > MAIL_MAX_THREADS ? 0 : mailp_resnet_scratch(&encoder->net, n_threads);
}

MAIL_API mail_status mail_encoder_encode(const mail_encoder *encoder, float *features, float *keypoints, const mail_image *image,
                                         void *scratch, size_t size, const mail_parallel *parallel, mail_error *err) {
    mailp_resnet_work work;
    mail_status       status;
    size_t            need, bad;
    if (encoder == NULL || features == NULL || scratch == NULL || (uintptr_t)scratch % MAILP_ALIGN != 0) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_encoder_encode: encoder, features or scratch is NULL, or scratch is not aligned to %d",
                          MAILP_ALIGN);
    }
    if (mailp_parallel_check(parallel, err) != MAIL_OK) {
        return MAIL_E_ARGUMENT;
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
    work.net       = &encoder->net;
    work.image     = image;
    work.features  = features;
    work.keypoints = keypoints;
    work.scratch   = scratch;
    mailp_resnet_encode(&work, 1, encoder->kernels, parallel, NULL);
    bad = mailp_not_finite(features, encoder->net.feature_dim);
    return bad < encoder->net.feature_dim ? mailp_fail(err, MAIL_E_NUMBER, "feature %llu is not finite", MAILP_LLU(bad)) : MAIL_OK;
}

/* ================================================================================================================
   >>policy   tensors bound to weight structs; the mamba and transformer trunks; history and goal tokens
   ============================================================================================================= */

#define MAILP_SLOTS 16  /* denoising steps that the encoder runs for as one batch: all of them in every official policy */
#define MAILP_AHEAD 64  /* up to this many timesteps the time token is run through the layers at load */

struct mail_policy {
    mail_allocator       allocator;
    mail_tensors        *tensors;      /* the opened file, for mail_policy_save; NULL after drop_source */
    const mailp_kernels *kernels;
    mailp_config         cfg;
    mail_info            info;
    mail_camera_info     cameras[MAIL_MAX_CAMERAS];
    const char          *action_names[MAIL_MAX_ACTION_DIM];
    void                *block;        /* arena: everything below that is a pointer */
    mailp_resnet         resnet[MAIL_MAX_CAMERAS];
    mailp_mat            lang;         /* lang_dim -> state_dim */
    mailp_mat            tok_emb;      /* state_dim -> d_model */
    mailp_mat            action_emb;   /* action_dim -> d_model */
    mailp_mat            action_pred;  /* d_model -> action_dim */
    const float         *pos_emb;      /* [pos_rows][dp] */
    const float         *act_tokens;   /* [act_seq][dp]: act_tokens, query_embed or action_token */
    const float         *state_tokens; /* [obs_seq + lang (+ 1 for DDPM)][dp]: ED-Ma decoder, under time and states */
    const float         *noise_tokens; /* [act_seq][dp]: ED-Ma BC decoder, action_noise_token */
    mailp_mamba          mamba[2];
    mailp_transformer    transformer[2];
    mail_ddpm            ddpm;
    float                lo[MAIL_MAX_ACTION_DIM], hi[MAIL_MAX_ACTION_DIM];  /* bounds of normalised actions */
    size_t               dp;           /* d_model padded to panels */
    size_t               max_t;        /* most state tokens: obs_seq + lang */
    size_t               ahead;        /* 1: time tokens were computed at load */
    float               *time_emb;     /* [n_timesteps][dp] time tokens */
    float               *time_state;   /* [n_timesteps][time_floats]: what the time token leaves in trunk 0: Mamba states, or
                                          transformer keys and values [n_layers][2][dp] */
    float               *time_out;     /* [n_timesteps][dp] encoder output at the time token, after its final norm */
    size_t               time_floats;
};

/* Time tokens:  code[m] = sin(k c_m), code[half + m] = cos(k c_m), c_m = exp(-m ln 10000 / (half - 1)),
   then linear, mish(v) = v tanh(ln(1 + e^v)), linear. In double: it runs once. */
static void mailp_time_emb_build(mailp_loader *l, mail_policy *p, const char *prefix) {
    const size_t d = p->cfg.d_model, half = d / 2, T = p->cfg.n_timesteps, hidden = 2 * d;
    mailp_name   name;
    float       *h    = mailp_take_floats(&l->arena, (uint64_t)T * hidden), *out = (float *)mailp_take_zeros(&l->arena, (uint64_t)T * p->dp, sizeof(float));
    double      *code = (double *)mailp_take(&l->arena, d * sizeof *code);
    const float *from;
    size_t       k, o, i;
    p->time_emb = out;
    from = mailp_load(l, mailp_cat(&name, prefix, "time_emb.1.weight"), 2, hidden, d, 0, 0);
    if (from != NULL) {
        for (k = 0; k < T; k++) {
            for (i = 0; i < half; i++) {
                double arg = (double)k * exp(-(double)i * log(10000.0) / ((double)half - 1.0));
                code[i]        = sin(arg);
                code[half + i] = cos(arg);
            }
            for (o = 0; o < hidden; o++) {
                double s = 0;
                for (i = 0; i < half; i++) {
                    s += code[i] * (double)from[o * d + i] + code[half + i] * (double)from[o * d + half + i];
                }
                h[k * hidden + o] = (float)s;
            }
        }
    }
    from = mailp_load(l, mailp_cat(&name, prefix, "time_emb.1.bias"), 1, hidden, 0, 0, 0);
    if (from != NULL) {
        for (k = 0; k < T * hidden; k++) {
            double v = (double)h[k] + (double)from[k % hidden];
            h[k] = (float)(v * tanh(v > 30 ? v : log1p(exp(v))));
        }
    }
    from = mailp_load(l, mailp_cat(&name, prefix, "time_emb.3.weight"), 2, d, hidden, 0, 0);
    if (from != NULL) {
        for (k = 0; k < T; k++) {
            for (o = 0; o < d; o++) {
                double s = 0;
                for (i = 0; i < hidden; i++) {
                    s += (double)h[k * hidden + i] * (double)from[o * hidden + i];
                }
                out[k * p->dp + o] = (float)s;
            }
        }
    }
    from = mailp_load(l, mailp_cat(&name, prefix, "time_emb.3.bias"), 1, d, 0, 0, 0);
    if (from != NULL) {
        for (k = 0; k < T; k++) {
            for (o = 0; o < d; o++) {
                out[k * p->dp + o] += from[o];
            }
        }
    }
}

/* Bind every tensor. Runs twice, see mailp_loader. */
static void mailp_policy_build(mailp_loader *l, mail_policy *p) {
    const mailp_config *c    = &p->cfg;
    const int           ddpm = c->algorithm == MAIL_DDPM;
    const char         *head = ddpm ? "model.model." : "model.";
    mailp_name          name;
    size_t              i;
    for (i = 0; i < c->n_cameras && l->status == MAIL_OK; i++) {
        (void)snprintf(name.text, sizeof name.text, MAILP_CAMERA_NAMES "%s.", c->camera[i].name);
        mailp_resnet_build(&p->resnet[i], l, name.text, &c->camera[i]);
    }
    if (c->lang) {
        mailp_linear_build(l, &p->lang, "linear", c->state_dim, c->lang_dim, MAIL_WEIGHTS_F32);
    }
    mailp_linear_build(l, &p->tok_emb, mailp_cat(&name, head, "tok_emb"), c->d_model, c->state_dim, MAIL_WEIGHTS_F32);
    mailp_linear_build(l, &p->action_pred, mailp_cat(&name, head, "action_pred"), c->action_dim, c->d_model, MAIL_WEIGHTS_F32);
    p->pos_emb = mailp_table(l, mailp_cat(&name, head, "pos_emb"), 1, c->pos_rows, c->d_model);
    for (i = 0; i < c->n_trunks && l->status == MAIL_OK; i++) {
        if (mailp_is_mamba(c)) {
            mailp_mamba_build(l, &p->mamba[i], head, &c->trunk[i], c->d_model);
        } else {
            mailp_transformer_build(l, &p->transformer[i], head, &c->trunk[i], c->d_model, c->n_heads, i == 1);
        }
    }
    if (ddpm) {
        mailp_linear_build(l, &p->action_emb, mailp_cat(&name, head, "action_emb"), c->d_model, c->action_dim, MAIL_WEIGHTS_F32);
        mailp_time_emb_build(l, p, head);
    }
    if (c->arch == MAIL_ED_MA) {
        p->act_tokens   = mailp_table(l, mailp_cat(&name, head, ddpm ? "act_tokens.weight" : "action_token.weight"), 0, c->act_seq, c->d_model);
        p->state_tokens = mailp_table(l, mailp_cat(&name, head, ddpm ? "state_tokens.weight" : "state_token.weight"), 0,
                                      p->max_t + (ddpm ? 1 : 0), c->d_model);
        if (!ddpm) {
            p->noise_tokens = mailp_table(l, mailp_cat(&name, head, "action_noise_token.weight"), 0, c->act_seq, c->d_model);
        }
    } else if (!ddpm) {
        p->act_tokens = mailp_table(l, mailp_cat(&name, head, c->arch == MAIL_ED_TR ? "action_token.weight" : "query_embed.weight"), 0,
                                    c->act_seq, c->d_model);
    }
    if (ddpm) {
        float *tables = mailp_take_floats(&l->arena, MAIL_DDPM_TABLES * c->n_timesteps);
        if (p->ahead) {
            p->time_floats = mailp_is_mamba(c) ? p->mamba[0].n_layers * p->mamba[0].state_floats : p->transformer[0].n_layers * 2 * p->dp;
            p->time_state  = mailp_take_floats(&l->arena, (uint64_t)c->n_timesteps * p->time_floats);
            p->time_out    = mailp_take_floats(&l->arena, (uint64_t)c->n_timesteps * p->dp);
        }
        if (tables != NULL) {
            (void)mail_ddpm_schedule(&p->ddpm, c->schedule, c->n_timesteps, tables, NULL);
        }
    }
}

/* The norm after the last layer of a trunk: y [rows][dp] of x [rows][dp] */
static void mailp_trunk_norm(const mail_policy *p, size_t trunk, float *y, const float *x, size_t rows) {
    const int mamba = mailp_is_mamba(&p->cfg);
    p->kernels->layer_norm(y, p->dp, x, p->dp, mamba ? p->mamba[trunk].norm_f_weight : p->transformer[trunk].ln,
                           mamba ? p->mamba[trunk].norm_f_bias : NULL, rows, p->cfg.d_model);
}

/* Run the time token of every step through the first trunk: it is token 0 of a causal model, so what it leaves behind depends on
   the weights alone. */
static mail_status mailp_time_ahead(mail_policy *p, mail_error *err) {
    const mailp_config *c = &p->cfg;
    const size_t        T = c->n_timesteps;
    const uint64_t      floats = (uint64_t)T * p->dp + (mailp_is_mamba(c) ? mailp_mamba_scratch(&p->mamba[0], T, 1)
                                                                          : mailp_transformer_scratch(&p->transformer[0], T, 1, 1));
    float              *r    = (float *)mailp_alloc(&p->allocator, mailp_bytes(floats, sizeof(float)));
    mailp_seq          *seqs = (mailp_seq *)mailp_alloc(&p->allocator, T * sizeof(mailp_seq));
    mailp_ctx           ctx;
    size_t              k;
    if (r == NULL || seqs == NULL) {
        mailp_free(&p->allocator, r);
        mailp_free(&p->allocator, seqs);
        return mailp_fail(err, MAIL_E_MEMORY, "no memory for %llu floats of scratch while loading", (unsigned long long)floats);
    }
    memset(&ctx, 0, sizeof ctx);
    ctx.kernels   = p->kernels;
    ctx.n_threads = 1;
    memset(seqs, 0, T * sizeof(mailp_seq));
    memset(r, 0, (size_t)floats * sizeof(float));
    memcpy(r, p->time_emb, T * p->dp * sizeof(float));
    for (k = 0; k < T; k++) {
        seqs[k].row       = k;
        seqs[k].len       = 1;
        seqs[k].state_out = p->time_state + k * p->time_floats;
        seqs[k].kv        = seqs[k].state_out;
        seqs[k].capacity  = 1;
    }
    if (mailp_is_mamba(c)) {
        mailp_mamba_run(&ctx, &p->mamba[0], r, T, seqs, T, NULL, c->n_trunks == 1, r + T * p->dp);
    } else {
        mailp_transformer_run(&ctx, &p->transformer[0], r, T, seqs, T, 1, c->n_trunks == 1, r + T * p->dp);
    }
    mailp_trunk_norm(p, 0, p->time_out, r, T);
    mailp_free(&p->allocator, r);
    mailp_free(&p->allocator, seqs);
    return MAIL_OK;
}

/* ---- session: memory --------------------------------------------------------------------------------------------------- */

typedef enum mailp_plan_state { MAILP_PLAN_NONE, MAILP_PLAN_STEPS, MAILP_PLAN_DONE } mailp_plan_state;

struct mail_session {
    const mail_policy   *policy;
    mail_session_options options;
    mailp_ctx            ctx;
    void                *block;          /* of mail_session_create */
    size_t               batch, n_exec;  /* robots; actions executed per chunk */
    int                  has_goal;
    size_t               longest;
    float               *features;       /* [batch][obs_seq][state_dim] ring of frames */
    float               *incoming;       /* [batch][state_dim] frame being encoded */
    float               *goal;           /* [batch][state_dim] language token */
    size_t              *frames;         /* [batch] frames seen, at most obs_seq matter */
    size_t              *newest;         /* [batch] ring slot of the next frame */
    float               *chunk;          /* [batch][act_seq][action_dim] present chunk, robot's units */
    size_t              *next, *due;     /* [batch] its next action; where a new chunk is due */
    float               *last;           /* [batch][action_dim] last action given out */
    int                 *has_last;       /* [batch] */
    uint32_t            *plans;          /* [batch] chunks planned since reset: counter of the noise */
    float               *ensemble;       /* [batch][act_seq chunks][act_seq][action_dim] ring by plan number; NULL: off */
    size_t              *ensemble_n;     /* [batch] chunks ever put into it since reset, with those that were missing */
    /* the plan in progress */
    mailp_plan_state     plan;
    size_t              *active;         /* [n_active] robots that are planned for */
    size_t               n_active, acts; /* acts: actions given out since plan_begin */
    size_t              *t;              /* [batch] state tokens of that plan */
    float               *tokens;         /* [batch][max_t][dp] state tokens with positions */
    size_t              *order;          /* steps to do, in order */
    size_t               n_order, at;
    size_t               slot_step[MAILP_SLOTS], n_slots;
    float               *slots;          /* [batch][MAILP_SLOTS][slot_floats] ED: what the encoder gives to the decoder. ED-Ma: its output
                                            [1 + t + act_seq][dp]; ED-Tr: cross keys and values [n_layers][2][1 + t][dp] */
    size_t               slot_floats;
    float               *kv;             /* [batch][kv_floats] transformers: keys and values of a step, trunk that sees the actions */
    size_t               kv_floats, kv_capacity;
    const float         *x_T, *noise;    /* the caller's, or NULL: from the seed */
    const float         *next_x_T, *next_noise;  /* for the plan that begins next */
    float               *x;              /* [n_active][act_seq][action_dim] noisy actions, then the result */
    float               *noise_pred;     /* the same: last output of the head */
    float               *out;            /* the same: result in the robot's units */
    double               step_seconds, encode_seconds;  /* of a step, and of the encoder for one, measured by mail_plan_within;
                                                           0: not known */
    /* scratch */
    mailp_seq           *seqs;
    float               *r, *cond, *normed, *pred, *scratch;
    size_t               together;       /* pictures encoded at a time, each with scratch of its own */
    void                *vision[MAIL_MAX_CAMERAS];
};

/* ED: steps that the encoder runs for as one batch; 1 for BC */
static size_t mailp_n_slots(const mailp_config *c) {
    return MAILP_MAX(MAILP_MIN(c->n_timesteps, (size_t)MAILP_SLOTS), (size_t)1);
}

/* Lay a session out in the arena; with base NULL it only measures. */
static void mailp_session_layout(mail_session *s, mailp_arena *arena) {
    const mail_policy  *p = s->policy;
    const mailp_config *c = &p->cfg;
    const uint64_t      B = s->batch, A = c->act_seq, D = c->action_dim, dp = p->dp, t = p->max_t, n = s->ctx.n_threads;  /* see mailp_bytes */
    const uint64_t      slots = mailp_n_slots(c), rows = MAILP_MAX(B, c->n_trunks == 2 ? slots : (uint64_t)1) * (1 + t + A);
    uint64_t            scratch = 0, floats;
    size_t              vision = 0, i;
    s->features   = mailp_take_floats(arena, B * c->obs_seq * c->state_dim);
    s->incoming   = mailp_take_floats(arena, B * c->state_dim + MAILP_LANES);
    s->goal       = mailp_take_floats(arena, B * c->state_dim);
    s->frames     = (size_t *)mailp_take(arena, mailp_bytes(B, sizeof(size_t)));
    s->newest     = (size_t *)mailp_take(arena, mailp_bytes(B, sizeof(size_t)));
    s->chunk      = mailp_take_floats(arena, B * A * D);
    s->next       = (size_t *)mailp_take(arena, mailp_bytes(B, sizeof(size_t)));
    s->due        = (size_t *)mailp_take(arena, mailp_bytes(B, sizeof(size_t)));
    s->last       = mailp_take_floats(arena, B * D);
    s->has_last   = (int *)mailp_take(arena, mailp_bytes(B, sizeof(int)));
    s->plans      = (uint32_t *)mailp_take(arena, mailp_bytes(B, sizeof(uint32_t)));
    s->ensemble   = s->options.ensemble ? mailp_take_floats(arena, B * A * A * D) : NULL;
    s->ensemble_n = (size_t *)mailp_take(arena, mailp_bytes(B, sizeof(size_t)));
    s->active     = (size_t *)mailp_take(arena, mailp_bytes(B, sizeof(size_t)));
    s->t          = (size_t *)mailp_take(arena, mailp_bytes(B, sizeof(size_t)));
    s->tokens     = mailp_take_floats(arena, B * t * dp);
    s->order      = (size_t *)mailp_take(arena, (c->n_timesteps + c->diffusion_x + 1) * sizeof(size_t));
    floats         = c->arch == MAIL_ED_MA ? (1 + t + A) * dp : c->arch == MAIL_ED_TR ? p->transformer[1].n_layers * 2 * (1 + t) * dp : 0;
    s->slot_floats = (size_t)floats;
    s->slots       = mailp_take_floats(arena, B * slots * floats);
    s->kv_capacity = (size_t)(c->arch == MAIL_ED_TR ? A : 1 + t + A);
    floats         = mailp_is_mamba(c) ? 0 : p->transformer[c->n_trunks - 1].n_layers * 2 * s->kv_capacity * dp;
    s->kv_floats   = (size_t)floats;
    s->kv          = mailp_take_floats(arena, B * floats);
    s->x          = mailp_take_floats(arena, B * A * D + MAILP_LANES);
    s->noise_pred = mailp_take_floats(arena, B * A * D);
    s->out        = mailp_take_floats(arena, B * A * D);
    s->longest  = (size_t)(1 + t + A);
    s->seqs     = (mailp_seq *)mailp_take(arena, mailp_bytes(MAILP_MAX(B, slots), sizeof(mailp_seq)));
    s->r        = mailp_take_floats(arena, rows * dp);
    s->cond     = mailp_take_floats(arena, rows * dp);
    s->normed   = mailp_take_floats(arena, rows * dp);
    s->pred     = mailp_take_floats(arena, B * A * mailp_pad(c->action_dim));
    for (i = 0; i < c->n_trunks; i++) {
        const uint64_t need = mailp_is_mamba(c) ? mailp_mamba_scratch(&p->mamba[i], rows, n)
                                                : mailp_transformer_scratch(&p->transformer[i], rows, s->longest, n);
        scratch = MAILP_MAX(scratch, need);
    }
    if (c->arch == MAIL_ED_TR) {  /* keys and values of the encoder, and of the memory on their way to the slots */
        scratch += slots * p->transformer[0].n_layers * 2 * (1 + t) * dp;
        scratch  = MAILP_MAX(scratch, rows * 2 * dp);
    }
    s->scratch = mailp_take_floats(arena, scratch);
    for (i = 0; i < c->n_cameras; i++) {
        vision = MAILP_MAX(vision, mailp_resnet_scratch(&p->resnet[i], s->ctx.n_threads));
    }
    s->together = (size_t)MAILP_MIN(MAILP_MIN(n, B * c->n_cameras), (uint64_t)MAIL_MAX_CAMERAS);
    for (i = 0; i < s->together; i++) {
        s->vision[i] = mailp_take(arena, vision);
    }
}

/* ---- a decision ---------------------------------------------------------------------------------------------------------- */

static float *mailp_slot(const mail_session *s, size_t robot, size_t slot) {
    return s->slots + (robot * mailp_n_slots(&s->policy->cfg) + slot) * s->slot_floats;
}

static void mailp_copy_rows(float *to, const float *from, size_t rows, size_t dp) {
    memcpy(to, from, rows * dp * sizeof(float));
}

/* State tokens of the active robots: e_i = tok_emb(s_i) + pos_emb[i], oldest first, the language token before the frames. */
static void mailp_tokens(mail_session *s) {
    const mail_policy  *p = s->policy;
    const mailp_config *c = &p->cfg;
    size_t              a, i;
    for (a = 0; a < s->n_active; a++) {
        const size_t robot = s->active[a], f = MAILP_MIN(s->frames[robot], c->obs_seq);
        float       *out   = s->tokens + robot * p->max_t * p->dp;
        size_t       row   = 0;
        s->t[robot] = f + (c->lang ? 1u : 0u);
        if (c->lang) {
            mailp_linear(&s->ctx, out, p->dp, s->goal + robot * c->state_dim, c->state_dim, &p->tok_emb, 1);
            row = 1;
        }
        for (i = 0; i < f; i++, row++) {
            const size_t at = (s->newest[robot] + c->obs_seq - f + i) % c->obs_seq;
            mailp_linear(&s->ctx, out + row * p->dp, p->dp, s->features + (robot * c->obs_seq + at) * c->state_dim, c->state_dim,
                         &p->tok_emb, 1);
        }
        p->kernels->add(out, p->dp, p->pos_emb, p->dp, row, p->dp / MAILP_LANES);
    }
}

/* The keys and values [n_layers][2][capacity][dp] of trunk 0 begin with those of the time token of step k. */
static void mailp_time_kv(const mail_policy *p, float *kv, size_t capacity, size_t k) {
    size_t layer;
    for (layer = 0; layer < 2 * p->transformer[0].n_layers; layer++) {
        mailp_copy_rows(kv + layer * capacity * p->dp, p->time_state + k * p->time_floats + layer * p->dp, 1, p->dp);
    }
}

/* Time and state tokens of a step, into trunk 0: rows of r and what stands before them in q. Returns the number of rows. */
static size_t mailp_time_and_states(mail_session *s, mailp_seq *q, float *r, size_t robot, size_t k) {
    const mail_policy *p     = s->policy;
    const size_t       first = p->ahead ? 0 : 1;
    if (first) {
        mailp_copy_rows(r, p->time_emb + k * p->dp, 1, p->dp);
    } else if (mailp_is_mamba(&p->cfg)) {
        q->state_in = p->time_state + k * p->time_floats;
    } else {
        mailp_time_kv(p, q->kv, q->capacity, k);
        q->past = 1;
    }
    mailp_copy_rows(r + first * p->dp, s->tokens + robot * p->max_t * p->dp, s->t[robot], p->dp);
    return first + s->t[robot];
}

/* ED-Tr: the decoder's keys and values of the encoder's output in s->cond, [n][rows][dp], into n slots of a robot */
static void mailp_cross_kv(mail_session *s, size_t robot, size_t n, size_t rows) {
    const mailp_transformer *m = &s->policy->transformer[1];
    const size_t             dp = m->dp;
    size_t                   layer, i;
    for (layer = 0; layer < m->n_layers; layer++) {
        mailp_linear(&s->ctx, s->scratch, 2 * dp, s->cond, dp, &m->blocks[layer].cross_kv, n * rows);
        for (i = 0; i < n * rows; i++) {
            float *kv = mailp_slot(s, robot, i / rows) + (layer * 2 * rows + i % rows) * dp;
            mailp_copy_rows(kv, s->scratch + i * 2 * dp, 1, dp);
            mailp_copy_rows(kv + rows * dp, s->scratch + i * 2 * dp + dp, 1, dp);
        }
    }
}

/* ED: the encoder, for one robot and all steps in slot_step as one batch of sequences; its output is left in the slots. */
static void mailp_encode_robot(mail_session *s, size_t robot) {
    const mail_policy  *p = s->policy;
    const mailp_config *c = &p->cfg;
    const size_t        dp = p->dp, t = s->t[robot], A = c->act_seq, n = s->n_slots, first = p->ahead ? 0 : 1;
    const size_t        len = first + t + (c->arch == MAIL_ED_MA ? A : 0);
    float              *scratch = s->scratch;
    size_t              i;
    s->ctx.part = "encoder";
    memset(s->seqs, 0, n * sizeof(mailp_seq));
    for (i = 0; i < n; i++) {
        float     *r = s->r + i * len * dp;
        mailp_seq *q = &s->seqs[i];
        q->row      = i * len;
        q->len      = len;
        q->capacity = 1 + t;
        q->kv       = c->arch == MAIL_ED_TR ? scratch + i * p->transformer[0].n_layers * 2 * q->capacity * dp : NULL;
        r += mailp_time_and_states(s, q, r, robot, s->slot_step[i]) * dp;
        if (c->arch == MAIL_ED_MA) {
            mailp_copy_rows(r, p->act_tokens, A, dp);
        }
    }
    if (c->arch == MAIL_ED_MA) {
        mailp_mamba_run(&s->ctx, &p->mamba[0], s->r, n * len, s->seqs, n, NULL, 0, scratch);
    } else {
        mailp_transformer_run(&s->ctx, &p->transformer[0], s->r, n * len, s->seqs, n, s->longest, 0,
                              scratch + n * p->transformer[0].n_layers * 2 * (1 + t) * dp);
    }
    mailp_trunk_norm(p, 0, s->normed, s->r, n * len);
    for (i = 0; i < n; i++) {  /* with the row of the time token in front */
        float *out = c->arch == MAIL_ED_MA ? mailp_slot(s, robot, i) : s->cond + i * (1 + t) * dp;
        if (!first) {
            mailp_copy_rows(out, p->time_out + s->slot_step[i] * dp, 1, dp);
        }
        mailp_copy_rows(out + (1 - first) * dp, s->normed + i * len * dp, len, dp);
    }
    if (c->arch == MAIL_ED_TR) {
        mailp_cross_kv(s, robot, n, 1 + t);
    }
}

/* ED: the slot that holds step k, or n_slots. */
static size_t mailp_slot_find(const mail_session *s, size_t k) {
    size_t slot = 0;
    while (slot < s->n_slots && s->slot_step[slot] != k) {
        slot++;
    }
    return slot;
}

/* ED: the slot that holds step order[at]; if there is none, the encoder runs for this and the following steps. */
static size_t mailp_slot_of_step(mail_session *s) {
    size_t i, a, slot = mailp_slot_find(s, s->order[s->at]);
    if (slot < s->n_slots) {
        return slot;
    }
    s->n_slots = 0;
    for (i = s->at; i < s->n_order && s->n_slots < MAILP_SLOTS; i++) {
        if (i == s->at || s->order[i] != s->order[i - 1]) {  /* diffusion-X repeats step 0 */
            s->slot_step[s->n_slots++] = s->order[i];
        }
    }
    for (a = 0; a < s->n_active; a++) {
        mailp_encode_robot(s, s->active[a]);
    }
    return 0;
}

/* The head's last layer: the first rows of s->normed -> actions [rows][action_dim] */
static void mailp_predict(mail_session *s, float *actions, size_t rows) {
    const size_t D = s->policy->cfg.action_dim, ld = mailp_pad(D);
    size_t       i;
    mailp_linear(&s->ctx, s->pred, ld, s->normed, s->policy->dp, &s->policy->action_pred, rows);
    for (i = 0; i < rows; i++) {
        memcpy(actions + i * D, s->pred + i * ld, D * sizeof(float));
    }
}

/* One call of the DDPM head: s->x at step order[at] -> s->noise_pred, for the active robots as one batch. Tokens before the
   actions are computed again in every step, because the time token stands before them; beside the actions they cost no more
   reading of weights, and weights are what a step waits for. */
static void mailp_denoise(mail_session *s) {
    const mail_policy  *p = s->policy;
    const mailp_config *c = &p->cfg;
    const size_t        dp = p->dp, A = c->act_seq, D = c->action_dim, k = s->order[s->at];
    const size_t        slot = c->n_trunks == 2 ? mailp_slot_of_step(s) : 0;
    size_t              a, rows = 0;
    s->ctx.part = "denoise";
    memset(s->seqs, 0, s->n_active * sizeof(mailp_seq));
    for (a = 0; a < s->n_active; a++) {
        const size_t robot = s->active[a], t = s->t[robot];
        mailp_seq   *q     = &s->seqs[a];
        float       *r     = s->r + rows * dp;
        size_t       before = 0;
        q->row      = rows;
        q->kv       = s->kv + robot * s->kv_floats;
        q->capacity = s->kv_capacity;
        if (c->n_trunks == 1) {
            before = mailp_time_and_states(s, q, r, robot, k);
        } else if (c->arch == MAIL_ED_MA) {
            before = 1 + t;
            mailp_copy_rows(r, p->state_tokens, before, dp);
            mailp_copy_rows(s->cond + rows * dp, mailp_slot(s, robot, slot), before + A, dp);
        } else {
            q->memory   = mailp_slot(s, robot, slot);
            q->n_memory = 1 + t;
        }
        mailp_linear(&s->ctx, r + before * dp, dp, s->x + a * A * D, D, &p->action_emb, A);
        p->kernels->add(r + before * dp, dp, p->pos_emb + (t - 1) * dp, dp, A, dp / MAILP_LANES);
        q->len = before + A;
        rows  += before + A;
    }
    if (mailp_is_mamba(c)) {
        mailp_mamba_run(&s->ctx, &p->mamba[c->n_trunks - 1], s->r, rows, s->seqs, s->n_active, c->arch == MAIL_ED_MA ? s->cond : NULL, 0,
                        s->scratch);
    } else {
        mailp_transformer_run(&s->ctx, &p->transformer[c->n_trunks - 1], s->r, rows, s->seqs, s->n_active, s->longest, 0, s->scratch);
    }
    for (a = 0; a < s->n_active; a++) {
        mailp_trunk_norm(p, c->n_trunks - 1, s->normed + a * A * dp, s->r + (s->seqs[a].row + s->seqs[a].len - A) * dp, A);
    }
    mailp_predict(s, s->noise_pred, s->n_active * A);
}

/* The BC head: states -> normalised actions in s->x, robot by robot. */
static void mailp_regress(mail_session *s) {
    const mail_policy  *p = s->policy;
    const mailp_config *c = &p->cfg;
    const size_t        dp = p->dp, A = c->act_seq;
    size_t              a;
    for (a = 0; a < s->n_active; a++) {
        const size_t robot = s->active[a], t = s->t[robot], len = t + (c->arch == MAIL_ED_TR ? 0 : A);
        mailp_seq   *q = s->seqs;
        float       *rows;
        s->ctx.part = "encoder";
        memset(q, 0, sizeof *q);
        q->len = len;
        mailp_copy_rows(s->r, s->tokens + robot * p->max_t * dp, t, dp);
        if (c->arch != MAIL_ED_TR) {
            mailp_copy_rows(s->r + t * dp, p->act_tokens, A, dp);
        }
        rows = s->r + t * dp;
        if (mailp_is_mamba(c)) {
            mailp_mamba_run(&s->ctx, &p->mamba[0], s->r, len, q, 1, NULL, 0, s->scratch);
            if (c->arch == MAIL_ED_MA) {
                mailp_trunk_norm(p, 0, s->cond, s->r, len);
                s->ctx.part = "decoder";
                mailp_copy_rows(s->r, p->state_tokens, t, dp);
                mailp_copy_rows(s->r + t * dp, p->noise_tokens, A, dp);
                mailp_mamba_run(&s->ctx, &p->mamba[1], s->r, len, q, 1, s->cond, 0, s->scratch);
            }
        } else {
            const size_t kv_floats = c->arch == MAIL_ED_TR ? p->transformer[0].n_layers * 2 * len * dp : 0;  /* the encoder's: in scratch */
            q->capacity = len;
            q->kv       = c->arch == MAIL_ED_TR ? s->scratch : s->kv;
            mailp_transformer_run(&s->ctx, &p->transformer[0], s->r, len, q, 1, s->longest, 0, s->scratch + kv_floats);
            if (c->arch == MAIL_ED_TR) {
                mailp_trunk_norm(p, 0, s->cond, s->r, t);
                mailp_cross_kv(s, robot, 1, t);
                rows        = s->r;
                q->len      = A;
                q->capacity = A;
                q->kv       = s->kv;
                q->memory   = mailp_slot(s, robot, 0);
                q->n_memory = t;
                mailp_copy_rows(rows, p->act_tokens, A, dp);
                s->ctx.part = "decoder";
                mailp_transformer_run(&s->ctx, &p->transformer[1], rows, A, q, 1, s->longest, 0, s->scratch);
            }
        }
        mailp_trunk_norm(p, c->n_trunks - 1, s->normed, rows, A);
        mailp_predict(s, s->x + a * A * c->action_dim, A);
    }
}

/* ================================================================================================================
   >>sampler   noise schedules, denoise, sample, action scaling
   ============================================================================================================= */

static double mailp_cosine_phi(double v) {
    double c = cos((v + 0.008) / 1.008 * 3.14159265358979323846 * 0.5);
    return c * c;
}

/* x rounded to float32, also where a compiler computes with more (x87). */
static float mailp_rounded(float x) {
    volatile float rounded = x;
    return rounded;
}

MAIL_API mail_status mail_ddpm_schedule(mail_ddpm *ddpm, mail_schedule schedule, size_t n_timesteps, float *memory, mail_error *err) {
    const size_t n = n_timesteps;
    const double T = (double)n;
    float       *betas, *bar, *prev, *recip, *recipm1, *coef1, *coef2, *variance, *std;
    double       product = 1.0;
    size_t       i;
    if (ddpm == NULL || memory == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_ddpm_schedule: ddpm or memory is NULL");
    }
    if (n < 1 || n > MAIL_MAX_TIMESTEPS) {
        return mailp_fail(err, MAIL_E_CONFIG, "n_timesteps is %llu, expected 1 to %d", (unsigned long long)n, MAIL_MAX_TIMESTEPS);
    }
    if (schedule != MAIL_COSINE && schedule != MAIL_LINEAR && schedule != MAIL_VP) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "schedule %d is not cosine, linear or vp", (int)schedule);
    }
    betas    = memory;
    bar      = betas + n;
    prev     = bar + n;
    recip    = prev + n;
    recipm1  = recip + n;
    coef1    = recipm1 + n;
    coef2    = coef1 + n;
    variance = coef2 + n;
    std      = variance + n;
    for (i = 0; i < n; i++) {
        double beta, at = (double)i, root;
        float  alpha, rest, inverse;
        if (schedule == MAIL_COSINE) {
            beta = 1.0 - mailp_cosine_phi((at + 1.0) / T) / mailp_cosine_phi(at / T);
            beta = beta < 0.0 ? 0.0 : beta > 0.999 ? 0.999 : beta;
        } else if (schedule == MAIL_LINEAR) {
            beta = n == 1 ? 1e-4 : 1e-4 + (2e-2 - 1e-4) * at / (T - 1.0);
        } else {
            beta = 1.0 - exp(-0.1 / T - 0.5 * 9.9 * (2.0 * (at + 1.0) - 1.0) / (T * T));
        }
        betas[i] = mailp_rounded((float)beta);
        alpha    = mailp_rounded(1.0f - betas[i]);
        prev[i]  = mailp_rounded((float)product);  /* the product runs in double and each entry is rounded, as PyTorch does on a CPU */
        product *= (double)alpha;
        bar[i]   = mailp_rounded((float)product);
        rest     = mailp_rounded(1.0f - bar[i]);   /* what cancels here in float32 is part of the official tables */
        inverse  = mailp_rounded(1.0f / bar[i]);
        recip[i]    = sqrtf(inverse);
        recipm1[i]  = sqrtf(mailp_rounded(inverse - 1.0f));
        coef1[i]    = mailp_rounded(betas[i] * mailp_rounded(sqrtf(prev[i]))) / rest;
        coef2[i]    = mailp_rounded(mailp_rounded(1.0f - prev[i]) * mailp_rounded(sqrtf(alpha))) / rest;
        variance[i] = mailp_rounded(mailp_rounded(betas[i] * mailp_rounded(1.0f - prev[i])) / rest);
        root        = 0.5 * (double)(float)log((double)(variance[i] > 1e-20f ? variance[i] : 1e-20f));
        std[i]      = (float)exp((double)(float)root);
    }
    ddpm->n_timesteps                 = n;
    ddpm->betas                       = betas;
    ddpm->alphas_cumprod              = bar;
    ddpm->alphas_cumprod_prev         = prev;
    ddpm->sqrt_recip_alphas_cumprod   = recip;
    ddpm->sqrt_recipm1_alphas_cumprod = recipm1;
    ddpm->posterior_mean_coef1        = coef1;
    ddpm->posterior_mean_coef2        = coef2;
    ddpm->posterior_variance          = variance;
    ddpm->posterior_std               = std;
    return MAIL_OK;
}

/* x0 from x_t and the head's output, clamped to the bounds */
static float mailp_x_start(const mail_ddpm *d, size_t t, float x, float output, const float *lo, const float *hi, size_t j, int epsilon) {
    float x0 = epsilon ? d->sqrt_recip_alphas_cumprod[t] * x - d->sqrt_recipm1_alphas_cumprod[t] * output : output;
    if (lo != NULL && x0 < lo[j]) {
        x0 = lo[j];
    }
    if (hi != NULL && x0 > hi[j]) {
        x0 = hi[j];
    }
    return x0;
}

MAIL_API void mail_ddpm_step(float *x, float *x_start, const mail_ddpm *ddpm, size_t t, const float *output, const float *noise,
                             const float *lo, const float *hi, size_t n, size_t dim, int predict_epsilon) {
    size_t i;
    for (i = 0; i < n; i++) {
        float x0   = mailp_x_start(ddpm, t, x[i], output[i], lo, hi, i % dim, predict_epsilon);
        float mean = ddpm->posterior_mean_coef1[t] * x0 + ddpm->posterior_mean_coef2[t] * x[i];
        x[i] = t == 0 ? mean : mean + ddpm->posterior_std[t] * noise[i];
        if (x_start != NULL) {
            x_start[i] = x0;
        }
    }
}

/* DDIM with eta 0 (arXiv 2010.02502, equation 12) from step t to the next, which may lie further down; next < 0: the end.
   The direction is taken from the clamped x0, so that it stays on the way to what is returned. */
static void mailp_ddim_step(float *x, const mail_ddpm *d, size_t t, long next, const float *output,
                            const float *lo, const float *hi, size_t n, size_t dim, int predict_epsilon) {
    const double bar = (double)d->alphas_cumprod[t], to = next < 0 ? 1.0 : (double)d->alphas_cumprod[next];
    size_t       i;
    for (i = 0; i < n; i++) {
        float  x0   = mailp_x_start(d, t, x[i], output[i], lo, hi, i % dim, predict_epsilon);
        double away = ((double)x[i] - sqrt(bar) * (double)x0) / sqrt(1.0 - bar);
        x[i]        = (float)(sqrt(to) * (double)x0 + sqrt(1.0 - to) * away);
    }
}

/* Philox 4x32-10: four random words from a counter and a key */
static void mailp_philox(uint32_t out[4], uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t key) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    int      round;
    for (round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xd2511f53u * c0, b = (uint64_t)0xcd9e8d57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

MAIL_API void mail_noise(float *values, size_t n, uint64_t seed, uint32_t robot, uint32_t plan, uint32_t call) {
    size_t i, j;
    for (i = 0; i < n; i += 4) {
        uint32_t word[4];
        float    four[4];
        mailp_philox(word, (uint32_t)(i / 4), call, plan, robot, seed);
        for (j = 0; j < 4; j += 2) {
            double u = ((double)word[j] + 0.5) / 4294967296.0, angle = 6.283185307179586 * ((double)word[j + 1] / 4294967296.0);
            double radius = sqrt(-2.0 * log(u));
            four[j]     = (float)(radius * cos(angle));
            four[j + 1] = (float)(radius * sin(angle));
        }
        for (j = 0; j < 4 && i + j < n; j++) {
            values[i + j] = four[j];
        }
    }
}

/* ---- plan: begin, step, end -------------------------------------------------------------------------------------------------- */

/* x_T or the noise of a step for the active robots, from the caller's array [batch][act_seq][action_dim] or from the seed */
static void mailp_draw(const mail_session *s, float *to, const float *given, uint32_t call) {
    const size_t n = s->policy->cfg.act_seq * s->policy->cfg.action_dim;
    size_t       a;
    for (a = 0; a < s->n_active; a++) {
        if (given != NULL) {
            memcpy(to + a * n, given + s->active[a] * n, n * sizeof(float));
        } else {
            mail_noise(to + a * n, n, s->options.seed, (uint32_t)s->active[a], s->plans[s->active[a]], call);
        }
    }
}

/* n of the timesteps below or at `from`, evenly spread and ending near 0 ("trailing" spacing), into order */
static void mailp_order(size_t *order, size_t from, size_t n) {
    size_t i;
    for (i = 0; i < n; i++) {
        order[i] = (from + 1) * (n - i) / n - 1;
    }
}

/* Start a plan for the robots in s->active. */
static mail_status mailp_plan_start(mail_session *s, mail_error *err) {
    const mail_policy  *p = s->policy;
    const mailp_config *c = &p->cfg;
    const int           again = s->plan != MAILP_PLAN_NONE;
    size_t              a, i;
    s->plan = MAILP_PLAN_NONE;
    if (c->lang && !s->has_goal) {
        return mailp_fail(err, MAIL_E_STATE, "no goal was given: this policy needs mail_session_set_goal before it can plan");
    }
    for (a = 0; a < s->n_active; a++) {
        if (s->frames[s->active[a]] == 0) {
            return mailp_fail(err, MAIL_E_STATE, "robot %llu: no observation since the session began or was reset",
                              (unsigned long long)s->active[a]);
        }
    }
    if (!again || s->next_x_T != NULL || s->next_noise != NULL) {  /* a plan that starts over keeps its noise */
        s->x_T        = s->next_x_T;
        s->noise      = s->next_noise;
        s->next_x_T   = NULL;
        s->next_noise = NULL;
    }
    mailp_tokens(s);
    s->acts    = 0;
    s->at      = 0;
    s->n_slots = 0;
    s->n_order = 0;
    s->plan    = MAILP_PLAN_STEPS;
    if (c->algorithm == MAIL_BC) {
        s->n_order = 1;
        return MAIL_OK;
    }
    s->n_order = s->options.n_steps == 0 ? c->n_timesteps : s->options.n_steps;
    mailp_order(s->order, c->n_timesteps - 1, s->n_order);
    for (i = 0; i < c->diffusion_x; i++) {
        s->order[s->n_order++] = 0;
    }
    mailp_draw(s, s->x, s->x_T, 0);
    return MAIL_OK;
}

static mail_status mailp_plan_step(mail_session *s, mail_error *err) {
    const mail_policy  *p = s->policy;
    const mailp_config *c = &p->cfg;
    const size_t        D = c->action_dim, one = c->act_seq * D, n = s->n_active * one;
    const float        *lo = c->clip_denoised ? p->lo : NULL, *hi = c->clip_denoised ? p->hi : NULL;
    const float        *result;
    size_t              k = 0, bad;
    if (c->algorithm == MAIL_BC) {
        mailp_regress(s);
        result = s->x;
    } else {
        k = s->order[s->at];
        mailp_denoise(s);
        result = s->noise_pred;
    }
    bad = mailp_not_finite(result, n);
    if (bad < n) {
        s->plan = MAILP_PLAN_NONE;
        return mailp_fail(err, MAIL_E_NUMBER, "the network's output is not finite: robot %llu, action %llu, dimension %llu, step %llu",
                          (unsigned long long)s->active[bad / one], (unsigned long long)(bad % one / D), (unsigned long long)(bad % D),
                          (unsigned long long)k);
    }
    if (c->algorithm == MAIL_DDPM) {
        const int last = s->at + 1 == s->n_order;
        const int one_down = last ? k == 0 : s->order[s->at + 1] + 1 == k || k == 0;
        if (s->options.sampler == MAIL_SAMPLER_DDPM && one_down) {
            float *noise = s->out;  /* free until the plan ends */
            if (k > 0) {
                mailp_draw(s, noise, s->noise == NULL ? NULL : s->noise + s->at * s->batch * one, 1 + (uint32_t)s->at);
            }
            mail_ddpm_step(s->x, NULL, &p->ddpm, k, s->noise_pred, noise, lo, hi, n, D, c->predict_epsilon);
        } else {
            mailp_ddim_step(s->x, &p->ddpm, k, last || k == 0 ? -1 : (long)s->order[s->at + 1], s->noise_pred, lo, hi, n, D,
                            c->predict_epsilon);
        }
        bad = mailp_not_finite(s->x, n);
        if (bad < n) {
            s->plan = MAILP_PLAN_NONE;
            return mailp_fail(err, MAIL_E_NUMBER, "denoising ran away: robot %llu, action %llu, dimension %llu is not finite after step %llu",
                              (unsigned long long)s->active[bad / one], (unsigned long long)(bad % one / D),
                              (unsigned long long)(bad % D), (unsigned long long)k);
        }
    }
    if (++s->at == s->n_order) {
        s->plan = MAILP_PLAN_DONE;
    }
    return MAIL_OK;
}

/* Keep an action of robot within the caller's limits; previous NULL: none was given out yet. */
static void mailp_limit(const mail_session *s, float *action, const float *previous) {
    size_t j;
    for (j = 0; j < s->policy->cfg.action_dim; j++) {
        if (previous != NULL && s->options.action_max_step != NULL) {
            const float step = s->options.action_max_step[j];
            action[j] = action[j] > previous[j] + step ? previous[j] + step : action[j] < previous[j] - step ? previous[j] - step : action[j];
        }
        if (s->options.action_min != NULL && action[j] < s->options.action_min[j]) {
            action[j] = s->options.action_min[j];
        }
        if (s->options.action_max != NULL && action[j] > s->options.action_max[j]) {
            action[j] = s->options.action_max[j];
        }
    }
}

/* Dimension j of an action in the robot's units */
static float mailp_unscale(const mailp_config *c, float x, size_t j) {
    return c->scale_data ? x * (c->std[j] + 1e-12f) + c->mean[j] : x;
}

/* Final clamp, inverse scaler, limits; then the chunk takes the place of the present one.
   skip: actions whose time has passed while the plan was made. */
static mail_status mailp_plan_finish(mail_session *s, float *actions, size_t skip, mail_error *err) {
    const mail_policy  *p = s->policy;
    const mailp_config *c = &p->cfg;
    const size_t        A = c->act_seq, D = c->action_dim, one = A * D, n = s->n_active * one;
    const size_t        first = MAILP_MIN(skip, A - 1);
    size_t              a, i, bad;
    for (i = 0; i < n; i++) {
        const size_t j = i % D;
        float        x = s->x[i];
        if (c->algorithm == MAIL_DDPM) {
            x = x < p->lo[j] ? p->lo[j] : x > p->hi[j] ? p->hi[j] : x;
        }
        s->x[i]   = x;
        s->out[i] = mailp_unscale(c, x, j);
    }
    s->plan = MAILP_PLAN_NONE;
    bad = mailp_not_finite(s->out, n);
    if (bad < n) {
        return mailp_fail(err, MAIL_E_NUMBER, "robot %llu, action %llu, dimension %llu is not finite in the robot's units",
                          (unsigned long long)s->active[bad / one], (unsigned long long)(bad % one / D), (unsigned long long)(bad % D));
    }
    for (a = 0; a < s->n_active; a++) {
        const size_t robot    = s->active[a];
        const float *previous = s->has_last[robot] ? s->last + robot * D : NULL;
        if (s->ensemble != NULL) {  /* as predicted: the limits are for the mean; a chunk that gave no action yet is replaced */
            s->ensemble_n[robot] -= s->ensemble_n[robot] > 0 && s->next[robot] == 0;
            memcpy(s->ensemble + (robot * A + s->ensemble_n[robot] % A) * one, s->out + a * one, one * sizeof(float));
            s->ensemble_n[robot]++;
        }
        for (i = 0; i < A; i++) {  /* those before the first are not given out: no step leads to them or from them */
            mailp_limit(s, s->out + a * one + i * D, i < first ? NULL : previous);
            previous = i < first ? previous : s->out + a * one + i * D;
        }
        memcpy(s->chunk + robot * one, s->out + a * one, one * sizeof(float));
        s->next[robot] = first;
        s->due[robot]  = MAILP_MIN(first + s->n_exec, A);
        s->plans[robot]++;
        if (actions != NULL) {
            memcpy(actions + robot * one, s->out + a * one, one * sizeof(float));
        }
    }
    return MAIL_OK;
}

/* ================================================================================================================
   >>api   public functions: check arguments, call down
   ============================================================================================================= */

/* ---- policy --------------------------------------------------------------------------------------------------------------- */

MAIL_API mail_options mail_options_init(void) {
    mail_options o;
    memset(&o, 0, sizeof o);
    return o;
}

static void mailp_info_fill(mail_policy *p, const mailp_loader *l) {
    const mailp_config *c = &p->cfg;
    mail_info          *i = &p->info;
    size_t              n;
    for (n = 0; n < c->n_cameras; n++) {
        p->cameras[n].name        = c->camera[n].name;
        p->cameras[n].width       = c->camera[n].width;
        p->cameras[n].height      = c->camera[n].height;
        p->cameras[n].feature_dim = c->camera[n].feature_dim;
    }
    for (n = 0; n < c->action_dim; n++) {
        p->action_names[n] = c->action_names[n];
    }
    i->arch           = c->arch;
    i->algorithm      = c->algorithm;
    i->arch_name      = mailp_arch_names[c->arch];
    i->has_lang       = c->lang;
    i->lang_dim       = c->lang ? c->lang_dim : 0;
    i->obs_seq        = c->obs_seq;
    i->act_seq        = c->act_seq;
    i->n_action_steps = c->n_action_steps;
    i->action_dim     = c->action_dim;
    i->state_dim      = c->state_dim;
    i->d_model        = c->d_model;
    i->n_cameras      = c->n_cameras;
    i->cameras        = p->cameras;
    i->diffusion_x    = c->diffusion_x;
    i->n_timesteps    = c->algorithm == MAIL_DDPM ? c->n_timesteps : 0;
    i->schedule       = c->schedule;
    i->action_names   = c->has_action_names ? p->action_names : NULL;
    i->action_mean    = c->mean;
    i->action_std     = c->std;
    i->action_min     = c->min;
    i->action_max     = c->max;
    i->description    = c->description[0] ? c->description : NULL;
    i->weights        = l->weights;
    i->isa            = p->kernels->name;
    i->n_parameters   = l->n_parameters;
    i->weight_bytes   = l->arena.used;
}

/* Everything but opening the files. json: what a file beside the checkpoint says, or NULL, and source: see mailp_config_read;
   options->config_json takes its place. */
static mail_status mailp_policy_bind(mail_policy *p, const char *json, size_t json_size, const char *source, const mail_options *options,
                                     mail_error *err) {
    mailp_loader l;
    size_t       j;
    mail_status  status;
    if (options->config_json != NULL) {
        json      = options->config_json;
        source    = "options->config_json";
        json_size = options->config_size ? options->config_size : strlen(json);
    }
    status = mailp_config_read(&p->cfg, p->tensors, json, json_size, source, err);
    if (status != MAIL_OK) {
        return status;
    }
    p->dp    = mailp_pad(p->cfg.d_model);
    p->max_t = p->cfg.obs_seq + (p->cfg.lang ? 1u : 0u);
    p->ahead = p->cfg.algorithm == MAIL_DDPM && p->cfg.n_timesteps <= MAILP_AHEAD;
    for (j = 0; j < p->cfg.n_trunks; j++) {
        if (p->cfg.trunk[j].d_state > MAILP_MAX_STATE) {
            return mailp_fail(err, MAIL_E_UNSUPPORTED, "d_state is %llu, at most %d is supported",
                              (unsigned long long)p->cfg.trunk[j].d_state, MAILP_MAX_STATE);
        }
    }
    for (j = 0; j < p->cfg.action_dim; j++) {  /* bounds of normalised actions: float32 differences, float64 quotient */
        const double s = (double)p->cfg.std[j] + 1e-12;
        p->lo[j] = p->cfg.scale_data ? (float)((double)(p->cfg.min[j] - p->cfg.mean[j]) / s) : p->cfg.min[j];
        p->hi[j] = p->cfg.scale_data ? (float)((double)(p->cfg.max[j] - p->cfg.mean[j]) / s) : p->cfg.max[j];
    }
    status = mailp_loader_begin(&l, p->tensors, options, err);
    if (status != MAIL_OK) {
        return status;
    }
    p->kernels = l.kernels;
    mailp_policy_build(&l, p);
    mailp_check_surplus(&l, "", "policy");
    p->block = mailp_loader_block(&l);
    if (l.status == MAIL_OK) {
        mailp_policy_build(&l, p);
    }
    mailp_loader_end(&l);
    if (l.status == MAIL_OK && p->ahead) {
        l.status = mailp_time_ahead(p, err);
    }
    if (l.status == MAIL_OK) {
        mailp_info_fill(p, &l);
        if (options->drop_source) {
            mail_tensors_close(p->tensors);
            p->tensors = NULL;
        }
    }
    return l.status;
}

#ifndef MAIL_NO_STDIO
/* The JSON file beside a checkpoint: its name with .json in place of the extension, or config.json in its folder.
   file->data is NULL if there is neither. source: its name, which is enough beside the checkpoint's path, or the names tried. */
static mail_status mailp_open_beside(mailp_file *file, mailp_source *source, const char *path, const mail_allocator *allocator, mail_error *err) {
    const size_t len    = strlen(path);
    size_t       stem   = len, folder = len;
    char        *name   = (char *)mailp_alloc(allocator, len + 16);
    mail_status  status = MAIL_OK;
    int          turn;
    memset(file, 0, sizeof *file);
    if (name == NULL) {
        return mailp_fail(err, MAIL_E_MEMORY, "no memory for a file name");
    }
    while (folder > 0 && path[folder - 1] != '/' && path[folder - 1] != '\\') {
        folder--;
    }
    while (stem > folder && path[stem - 1] != '.') {
        stem--;
    }
    stem = stem > folder ? stem - 1 : len;
    for (turn = 0; turn < 2 && file->data == NULL && status == MAIL_OK; turn++) {
        mail_error why;
        memcpy(name, path, turn ? folder : stem);
        strcpy(name + (turn ? folder : stem), turn ? "config.json" : ".json");
        if (turn == 0) {
            (void)snprintf(source->text, sizeof source->text, "no %s or config.json is beside it", mailp_show_path(name + folder).text);
        }
        errno  = 0;
        status = mailp_file_open(file, name, allocator, &why);
        if (status == MAIL_E_IO && errno == ENOENT) {
            status = MAIL_OK;
        } else if (status != MAIL_OK) {
            status = mailp_fail(err, status, "%s", why.text);
        } else {
            (void)snprintf(source->text, sizeof source->text, "%s", mailp_show_path(name + folder).text);
        }
    }
    mailp_free(allocator, name);
    return status;
}
#endif

/* A policy from a file, or if path is NULL from data. */
static mail_status mailp_policy_load(mail_policy **policy, const char *path, const void *data, size_t size, const mail_options *options,
                                     mail_error *err) {
    const mail_options o = options == NULL ? mail_options_init() : *options;
    mail_policy       *p = (mail_policy *)mailp_alloc(&o.allocator, sizeof *p);
    mail_status        status;
    mailp_file         beside;
    mailp_source       source = { "there is no options->config_json" };
    if (p == NULL) {
        return mailp_fail(err, MAIL_E_MEMORY, "no memory for a policy");
    }
    memset(p, 0, sizeof *p);
    memset(&beside, 0, sizeof beside);
    p->allocator = o.allocator;
    status = mailp_tensors_open(&p->tensors, path, data, size, &o.allocator, err);
#ifndef MAIL_NO_STDIO
    if (status == MAIL_OK && path != NULL && o.config_json == NULL && mail_tensors_metadata(p->tensors, "mail.obs_seq") == NULL) {
        status = mailp_open_beside(&beside, &source, path, &o.allocator, err);
    }
#endif
    if (status == MAIL_OK) {
        status = mailp_policy_bind(p, (const char *)beside.data, beside.size, source.text, &o, err);
#ifndef MAIL_NO_STDIO
        if (path != NULL) {
            status = mailp_fail_in(path, status, err);
        }
#endif
    }
#ifndef MAIL_NO_STDIO
    mailp_file_close(&beside, &o.allocator);
#endif
    if (status != MAIL_OK) {
        mail_policy_free(p);
        return status;
    }
    *policy = p;
    return MAIL_OK;
}

MAIL_API mail_status mail_policy_load_memory(mail_policy **policy, const void *data, size_t size,
                                             const mail_options *options, mail_error *err) {
    if (policy != NULL) {
        *policy = NULL;
    }
    if (policy == NULL || data == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_policy_load_memory: policy or data is NULL");
    }
    return mailp_policy_load(policy, NULL, data, size, options, err);
}

#ifndef MAIL_NO_STDIO
MAIL_API mail_status mail_policy_load(mail_policy **policy, const char *path, const mail_options *options, mail_error *err) {
    if (policy != NULL) {
        *policy = NULL;
    }
    if (policy == NULL || path == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_policy_load: policy or path is NULL");
    }
    return mailp_policy_load(policy, path, NULL, 0, options, err);
}

MAIL_API mail_status mail_policy_save(const mail_policy *policy, const char *path, mail_dtype dtype, mail_error *err) {
    if (policy == NULL || path == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_policy_save: policy or path is NULL");
    }
    if (policy->tensors == NULL) {
        return mailp_fail(err, MAIL_E_STATE, "the policy was loaded with drop_source: its checkpoint is closed and cannot be saved again");
    }
    return mailp_save(policy->tensors, &policy->cfg, path, dtype, err);
}
#endif

MAIL_API void mail_policy_free(mail_policy *policy) {
    if (policy != NULL) {
        mail_allocator allocator = policy->allocator;
        mail_tensors_close(policy->tensors);
        mailp_free(&allocator, policy->block);
        mailp_free(&allocator, policy);
    }
}

MAIL_API const mail_info *mail_policy_info(const mail_policy *policy) {
    return policy == NULL ? NULL : &policy->info;
}

/* ---- session ---------------------------------------------------------------------------------------------------------------- */

MAIL_API mail_session_options mail_session_options_init(void) {
    mail_session_options o;
    memset(&o, 0, sizeof o);
    o.batch          = 1;
    o.ensemble_decay = 0.01f;
    return o;
}

static mail_status mailp_session_check(const mail_policy *p, const mail_session_options *o, mail_error *err) {
    const mailp_config *c;
    size_t              j;
    if (p == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "the policy is NULL");
    }
    c = &p->cfg;
    if (o->batch < 1 || o->batch > MAIL_MAX_BATCH) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "batch is %llu, expected 1 to %d", (unsigned long long)o->batch, MAIL_MAX_BATCH);
    }
    if (o->n_action_steps > c->act_seq) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "n_action_steps is %llu, but a chunk has %llu actions",
                          (unsigned long long)o->n_action_steps, (unsigned long long)c->act_seq);
    }
    if (o->sampler != MAIL_SAMPLER_DDPM && o->sampler != MAIL_SAMPLER_DDIM) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "sampler %d is neither DDPM nor DDIM", (int)o->sampler);
    }
    if (c->algorithm == MAIL_DDPM && o->n_steps > c->n_timesteps) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "n_steps is %llu, but the policy was trained with %llu timesteps",
                          (unsigned long long)o->n_steps, (unsigned long long)c->n_timesteps);
    }
    if (c->algorithm == MAIL_DDPM && o->n_steps != 0 && o->n_steps < c->n_timesteps && o->sampler == MAIL_SAMPLER_DDPM) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "n_steps is %llu of %llu: fewer steps need MAIL_SAMPLER_DDIM",
                          (unsigned long long)o->n_steps, (unsigned long long)c->n_timesteps);
    }
    if (mailp_parallel_check(&o->parallel, err) != MAIL_OK) {
        return MAIL_E_ARGUMENT;
    }
    if ((o->profile.now == NULL) != (o->profile.add == NULL)) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "profile.now and profile.add are needed together; %s is NULL",
                          o->profile.now == NULL ? "profile.now" : "profile.add");
    }
    if (o->parallel.n_threads > MAIL_MAX_THREADS) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "parallel.n_threads is %llu, at most %d is supported",
                          (unsigned long long)o->parallel.n_threads, MAIL_MAX_THREADS);
    }
    if (o->ensemble && o->align_plan) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "ensemble and align_plan exclude each other: chunks to average begin with the action that is due");
    }
    if (o->ensemble && !(o->ensemble_decay >= 0 && o->ensemble_decay <= FLT_MAX)) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "ensemble_decay must be 0 or more");
    }
    for (j = 0; j < c->action_dim; j++) {
        const float lo = o->action_min == NULL ? -FLT_MAX : o->action_min[j], hi = o->action_max == NULL ? FLT_MAX : o->action_max[j];
        if (!(lo <= hi && lo <= FLT_MAX && hi >= -FLT_MAX)) {
            return mailp_fail(err, MAIL_E_ARGUMENT, "action_min and action_max of dimension %llu are %g and %g: they cross, or nothing is between them",
                              (unsigned long long)j, (double)lo, (double)hi);
        }
        if (o->action_max_step != NULL && !(o->action_max_step[j] > 0)) {
            return mailp_fail(err, MAIL_E_ARGUMENT, "action_max_step of dimension %llu is %g, expected a positive number", (unsigned long long)j,
                              (double)o->action_max_step[j]);
        }
    }
    return MAIL_OK;
}

/* Set up what layout needs to know, then lay out: the session itself, copies of the limits, everything else. */
static void mailp_session_place(mail_session *s, const mail_policy *policy, const mail_session_options *o, mailp_arena *arena) {
    const size_t  D = policy->cfg.action_dim;
    const float **limit[3];
    size_t        i;
    memset(s, 0, sizeof *s);
    s->policy  = policy;
    s->options = *o;
    s->batch   = o->batch;
    s->n_exec  = o->ensemble ? 1 : o->n_action_steps ? o->n_action_steps : policy->cfg.n_action_steps;
    s->ctx.kernels   = policy->kernels;
    s->ctx.parallel  = o->parallel.run == NULL ? NULL : &s->options.parallel;
    s->ctx.n_threads = mailp_threads(&o->parallel);
    s->ctx.profile   = o->profile.now == NULL || o->profile.add == NULL ? NULL : &s->options.profile;
    limit[0] = &s->options.action_min;
    limit[1] = &s->options.action_max;
    limit[2] = &s->options.action_max_step;
    for (i = 0; i < 3; i++) {
        float *copy = mailp_take_floats(arena, D);
        if (copy != NULL && *limit[i] != NULL) {
            memcpy(copy, *limit[i], D * sizeof(float));
            *limit[i] = copy;
        }
    }
    mailp_session_layout(s, arena);
}

MAIL_API size_t mail_session_size(const mail_policy *policy, const mail_session_options *options) {
    const mail_session_options o = options == NULL ? mail_session_options_init() : *options;
    mail_session               s;
    mailp_arena                arena;
    if (mailp_session_check(policy, &o, NULL) != MAIL_OK) {
        return 0;
    }
    arena.base = NULL;
    arena.used = 0;
    (void)mailp_take(&arena, sizeof(mail_session));
    mailp_session_place(&s, policy, &o, &arena);
    return arena.used;
}

MAIL_API mail_status mail_session_init(mail_session **session, const mail_policy *policy, const mail_session_options *options,
                                       void *memory, size_t size, mail_error *err) {
    const mail_session_options o = options == NULL ? mail_session_options_init() : *options;
    mail_session              *s;
    mailp_arena                arena;
    size_t                     need;
    mail_status                status;
    if (session == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_session_init: session is NULL");
    }
    *session = NULL;
    status   = mailp_session_check(policy, &o, err);
    if (status != MAIL_OK) {
        return status;
    }
    need = mail_session_size(policy, &o);
    if (memory == NULL || size < need || (uintptr_t)memory % MAILP_ALIGN != 0) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "a session of this policy needs %llu bytes aligned to %d, given are %llu bytes at %p",
                          (unsigned long long)need, MAILP_ALIGN, (unsigned long long)size, memory);
    }
    memset(memory, 0, need);
    arena.base = (unsigned char *)memory;
    arena.used = 0;
    s = (mail_session *)mailp_take(&arena, sizeof(mail_session));
    mailp_session_place(s, policy, &o, &arena);
    assert(arena.used == need);
    mail_session_reset(s, o.seed);
    *session = s;
    return MAIL_OK;
}

MAIL_API mail_status mail_session_create(mail_session **session, const mail_policy *policy,
                                         const mail_session_options *options, mail_error *err) {
    const mail_session_options o = options == NULL ? mail_session_options_init() : *options;
    size_t                     size;
    void                      *memory;
    mail_status                status;
    if (session == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_session_create: session is NULL");
    }
    *session = NULL;
    status   = mailp_session_check(policy, &o, err);
    if (status != MAIL_OK) {
        return status;
    }
    size   = mail_session_size(policy, &o);
    memory = mailp_alloc(&o.allocator, size);
    if (memory == NULL) {
        return mailp_fail(err, MAIL_E_MEMORY, "no memory for a session of %llu bytes", (unsigned long long)size);
    }
    status = mail_session_init(session, policy, &o, memory, size, err);
    if (status != MAIL_OK) {
        mailp_free(&o.allocator, memory);
    } else {
        (*session)->block = memory;
    }
    return status;
}

MAIL_API void mail_session_free(mail_session *session) {
    if (session != NULL && session->block != NULL) {
        mail_allocator allocator = session->options.allocator;
        mailp_free(&allocator, session->block);
    }
}

static void mailp_forget(mail_session *s, size_t robot) {
    s->frames[robot]     = 0;
    s->newest[robot]     = 0;
    s->next[robot]       = 0;
    s->due[robot]        = 0;
    s->has_last[robot]   = 0;
    s->ensemble_n[robot] = 0;
}

MAIL_API void mail_session_reset(mail_session *session, uint64_t seed) {
    size_t robot;
    if (session == NULL) {
        return;
    }
    mail_plan_cancel(session);
    mail_session_set_noise(session, NULL, NULL);
    session->options.seed = seed;
    for (robot = 0; robot < session->batch; robot++) {
        mailp_forget(session, robot);
        session->plans[robot] = 0;
    }
}

MAIL_API mail_status mail_session_reset_robot(mail_session *session, size_t robot, mail_error *err) {
    if (session == NULL || robot >= session->batch) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "robot %llu of a session with %llu", (unsigned long long)robot,
                          (unsigned long long)(session == NULL ? 0 : session->batch));
    }
    mail_plan_cancel(session);
    mailp_forget(session, robot);
    return MAIL_OK;
}

MAIL_API mail_status mail_session_set_goal(mail_session *session, const float *embedding, size_t n, mail_error *err) {
    const mailp_config *c;
    size_t              robot, bad;
    int                 pass;
    if (session == NULL || embedding == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_session_set_goal: session or embedding is NULL");
    }
    c = &session->policy->cfg;
    if (!c->lang) {
        return mailp_fail(err, MAIL_E_STATE, "this policy was trained without language and takes no goal");
    }
    if (n != c->lang_dim && n != session->batch * c->lang_dim) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "a goal has %llu values (or that times %llu robots), given are %llu",
                          (unsigned long long)c->lang_dim, (unsigned long long)session->batch, (unsigned long long)n);
    }
    bad = mailp_not_finite(embedding, n);
    if (bad < n) {
        return mailp_fail(err, MAIL_E_NUMBER, "value %llu of the goal is not finite", (unsigned long long)bad);
    }
    for (pass = 0; pass < 2; pass++) {  /* check all, then take them */
        for (robot = 0; robot < session->batch; robot++) {
            mailp_linear(&session->ctx, session->incoming, mailp_pad(c->state_dim), embedding + (n == c->lang_dim ? 0 : robot * c->lang_dim),
                         c->lang_dim, &session->policy->lang, 1);  /* whole panels are written; incoming has room for them */
            if (pass == 0 && mailp_not_finite(session->incoming, c->state_dim) < c->state_dim) {
                return mailp_fail(err, MAIL_E_NUMBER, "the goal of robot %llu is so large that its token is not finite", (unsigned long long)robot);
            }
            if (pass == 1) {
                memcpy(session->goal + robot * c->state_dim, session->incoming, c->state_dim * sizeof(float));
            }
        }
    }
    session->has_goal = 1;
    return MAIL_OK;
}

/* s->incoming becomes the newest frame of every robot, if it is finite. */
static mail_status mailp_push(mail_session *s, mail_error *err) {
    const mailp_config *c = &s->policy->cfg;
    const size_t        S = c->state_dim;
    const size_t        bad = mailp_not_finite(s->incoming, s->batch * S);
    size_t              robot;
    if (bad < s->batch * S) {
        return mailp_fail(err, MAIL_E_NUMBER, "observation of robot %llu: feature %llu is not finite", (unsigned long long)(bad / S),
                          (unsigned long long)(bad % S));
    }
    for (robot = 0; robot < s->batch; robot++) {
        memcpy(s->features + (robot * c->obs_seq + s->newest[robot]) * S, s->incoming + robot * S, S * sizeof(float));
        s->newest[robot] = (s->newest[robot] + 1) % c->obs_seq;
        s->frames[robot] += s->frames[robot] < c->obs_seq;
    }
    return MAIL_OK;
}

MAIL_API mail_status mail_observe(mail_session *session, const mail_image *images, size_t n, mail_error *err) {
    const mail_policy  *p;
    const mailp_config *c;
    size_t              i, at, together;
    if (session == NULL || images == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_observe: session or images is NULL");
    }
    p = session->policy;
    c = &p->cfg;
    if (c->n_cameras == 0) {
        return mailp_fail(err, MAIL_E_STATE, "this policy has no cameras: use mail_observe_features");
    }
    if (n != session->batch * c->n_cameras) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "%llu images given, expected %llu (%llu robots with %llu cameras)", (unsigned long long)n,
                          (unsigned long long)(session->batch * c->n_cameras), (unsigned long long)session->batch,
                          (unsigned long long)c->n_cameras);
    }
    for (i = 0; i < n; i++) {
        mail_error  why;
        mail_status status = mailp_image_check(&images[i], &why);
        if (status != MAIL_OK) {
            return mailp_fail(err, status, "image %llu (%s): %.250s", (unsigned long long)i, c->camera[i % c->n_cameras].name, why.text);
        }
    }
    for (i = 0, at = 0; i < n; i += together) {
        mailp_resnet_work work[MAIL_MAX_CAMERAS];
        size_t            k;
        together = MAILP_MIN(session->together, n - i);
        for (k = 0; k < together; k++) {
            work[k].net       = &p->resnet[(i + k) % c->n_cameras];
            work[k].image     = &images[i + k];
            work[k].features  = session->incoming + at;
            work[k].keypoints = NULL;
            work[k].scratch   = session->vision[k];
            at += c->camera[(i + k) % c->n_cameras].feature_dim;
        }
        mailp_resnet_encode(work, together, p->kernels, session->ctx.parallel, session->ctx.profile);
    }
    return mailp_push(session, err);
}

MAIL_API mail_status mail_observe_features(mail_session *session, const float *features, size_t n, mail_error *err) {
    const size_t S = session == NULL ? 0 : session->policy->cfg.state_dim;
    if (session == NULL || features == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_observe_features: session or features is NULL");
    }
    if (n != session->batch * S) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "%llu features given, expected %llu (%llu robots with %llu)", (unsigned long long)n,
                          (unsigned long long)(session->batch * S), (unsigned long long)session->batch, (unsigned long long)S);
    }
    memcpy(session->incoming, features, n * sizeof(float));
    return mailp_push(session, err);
}

MAIL_API size_t mail_actions_left(const mail_session *session) {
    size_t robot, left = session == NULL ? 0 : SIZE_MAX;
    for (robot = 0; session != NULL && robot < session->batch; robot++) {
        left = MAILP_MIN(left, session->due[robot] - session->next[robot]);
    }
    return left;
}

MAIL_API int mail_observe_due(const mail_session *session) {
    return session != NULL && mail_actions_left(session) < session->policy->cfg.obs_seq;
}

/* A plan is for the robots whose chunk is used up (all: for every robot). */
static void mailp_activate(mail_session *s, int all) {
    size_t robot;
    s->n_active = 0;
    for (robot = 0; robot < s->batch; robot++) {
        if (all || s->next[robot] >= s->due[robot]) {
            s->active[s->n_active++] = robot;
        }
    }
}

/* Plan for the active robots, in one go. */
static mail_status mailp_plan_now(mail_session *s, float *actions, mail_error *err) {
    mail_status status = mailp_plan_start(s, err);
    while (status == MAIL_OK && s->plan == MAILP_PLAN_STEPS) {
        status = mailp_plan_step(s, err);
    }
    return status == MAIL_OK ? mailp_plan_finish(s, actions, 0, err) : status;
}

/* A chunk that is missing in the ring of the ensemble, since its action was given out while its plan was in progress, begins with NaN;
   those that are there are finite. */
static int mailp_ensemble_has(const mail_session *s, size_t robot, size_t i) {
    const size_t A = s->policy->cfg.act_seq;
    return mailp_not_finite(&s->ensemble[(robot * A + i % A) * A * s->policy->cfg.action_dim], 1) == 1;
}

/* 1 if older chunks have an action for now, for every robot whose newest has none */
static int mailp_ensemble_covers(const mail_session *s) {
    const size_t A = s->policy->cfg.act_seq;
    size_t       robot, i;
    for (robot = 0; robot < s->batch; robot++) {
        const size_t n = s->ensemble_n[robot], oldest = n > A - 1 ? n - (A - 1) : 0;
        for (i = oldest; i < n && !mailp_ensemble_has(s, robot, i); i++) {
        }
        if (i == n && s->next[robot] >= s->due[robot]) {
            return 0;
        }
    }
    return 1;
}

MAIL_API mail_status mail_act(mail_session *session, float *actions, mail_error *err) {
    const mailp_config *c;
    size_t              robot;
    if (session == NULL || actions == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_act: session or actions is NULL");
    }
    c = &session->policy->cfg;
    if (mail_actions_left(session) == 0 && !(session->plan != MAILP_PLAN_NONE && session->ensemble != NULL && mailp_ensemble_covers(session))) {
        mail_status status;
        if (session->plan != MAILP_PLAN_NONE) {
            return mailp_fail(err, MAIL_E_STATE, "the chunk is used up while a plan is in progress: finish it with mail_plan_step and "
                              "mail_plan_end, or cancel it with mail_plan_cancel");
        }
        mailp_activate(session, 0);
        status = mailp_plan_now(session, NULL, err);
        if (status != MAIL_OK) {
            return status;
        }
    }
    for (robot = 0; robot < session->batch; robot++) {
        const size_t A = c->act_seq, D = c->action_dim, one = A * D;
        const int    left = session->next[robot] < session->due[robot];
        float       *action = actions + robot * D;
        size_t       i, j;
        if (session->ensemble == NULL) {
            memcpy(action, session->chunk + robot * one + session->next[robot] * D, D * sizeof(float));
        } else {
            /* chunk number m was planned m actions after the first; its action n - 1 - m is meant for now (arXiv 2304.13705) */
            const size_t n = session->ensemble_n[robot] + !left, oldest = n > A ? n - A : 0;
            if (!left) {
                session->ensemble[(robot * A + session->ensemble_n[robot]++ % A) * one] = NAN;
            }
            for (j = 0; j < D; j++) {
                double sum = 0, weights = 0, rank = 0;
                for (i = oldest; i < n; i++) {
                    if (mailp_ensemble_has(session, robot, i)) {
                        const double w = exp(-(double)session->options.ensemble_decay * rank++);
                        sum += w * (double)session->ensemble[((robot * A + i % A) * A + (n - 1 - i)) * D + j];
                        weights += w;
                    }
                }
                action[j] = (float)(sum / weights);
            }
        }
        mailp_limit(session, action, session->has_last[robot] ? session->last + robot * D : NULL);
        memcpy(session->last + robot * D, action, D * sizeof(float));
        session->has_last[robot] = 1;
        session->next[robot] += (size_t)left;
    }
    session->acts++;
    return MAIL_OK;
}

MAIL_API mail_status mail_plan(mail_session *session, float *actions, mail_error *err) {
    if (session == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_plan: session is NULL");
    }
    mailp_activate(session, 1);
    return mailp_plan_now(session, actions, err);
}

MAIL_API mail_status mail_plan_begin(mail_session *session, mail_error *err) {
    if (session == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_plan_begin: session is NULL");
    }
    mailp_activate(session, 1);
    return mailp_plan_start(session, err);
}

MAIL_API mail_status mail_plan_step(mail_session *session, size_t *left, mail_error *err) {
    mail_status status;
    if (session == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_plan_step: session is NULL");
    }
    if (session->plan != MAILP_PLAN_STEPS) {
        return mailp_fail(err, MAIL_E_STATE, session->plan == MAILP_PLAN_DONE ? "mail_plan_step: all steps are done, call mail_plan_end"
                                                                              : "mail_plan_step: no plan in progress, call mail_plan_begin");
    }
    status = mailp_plan_step(session, err);
    if (status == MAIL_OK && left != NULL) {
        *left = session->n_order - session->at;
    }
    return status;
}

MAIL_API mail_status mail_plan_end(mail_session *session, float *actions, mail_error *err) {
    if (session == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_plan_end: session is NULL");
    }
    if (session->plan != MAILP_PLAN_DONE) {
        return mailp_fail(err, MAIL_E_STATE, session->plan == MAILP_PLAN_STEPS ? "mail_plan_end: %llu steps are still to do"
                                                                               : "mail_plan_end: no plan in progress, call mail_plan_begin",
                          (unsigned long long)(session->n_order - session->at));
    }
    return mailp_plan_finish(session, actions, session->options.align_plan ? session->acts : 0, err);
}

MAIL_API mail_status mail_plan_sample(const mail_session *session, float *actions, mail_error *err) {
    const mailp_config *c;
    size_t              a, i, one;
    if (session == NULL || actions == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_plan_sample: session or actions is NULL");
    }
    c = &session->policy->cfg;
    if (session->plan == MAILP_PLAN_NONE || (c->algorithm == MAIL_BC && session->plan == MAILP_PLAN_STEPS)) {
        return mailp_fail(err, MAIL_E_STATE, "mail_plan_sample: no plan in progress that has actions yet");
    }
    one = c->act_seq * c->action_dim;
    for (a = 0; a < session->n_active; a++) {
        for (i = 0; i < one; i++) {
            actions[session->active[a] * one + i] = mailp_unscale(c, session->x[a * one + i], i % c->action_dim);
        }
    }
    return MAIL_OK;
}

MAIL_API void mail_plan_cancel(mail_session *session) {
    if (session == NULL) {
        return;
    }
    session->plan = MAILP_PLAN_NONE;
}

MAIL_API void mail_session_set_noise(mail_session *session, const float *x_T, const float *noise) {
    if (session == NULL) {
        return;
    }
    session->next_x_T   = x_T;
    session->next_noise = noise;
}

/* seconds of a clock that does not jump, as far as the C library offers one */
static double mailp_now(const mail_session *s) {
    if (s->options.now != NULL) {
        return s->options.now(s->options.now_user);
    }
#if defined(_WIN32) && !defined(MAIL_NO_STDIO)
    {
        LARGE_INTEGER ticks, rate;
        QueryPerformanceCounter(&ticks);
        QueryPerformanceFrequency(&rate);
        return (double)ticks.QuadPart / (double)rate.QuadPart;
    }
#elif defined(CLOCK_MONOTONIC) && !defined(_WIN32)
    {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    }
#elif defined(TIME_UTC)
    {
        struct timespec t;
        timespec_get(&t, TIME_UTC);
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    }
#elif defined(MAILP_POSIX)
    {
        struct timeval t;
        gettimeofday(&t, NULL);
        return (double)t.tv_sec + 1e-6 * (double)t.tv_usec;
    }
#else
    return (double)clock() / (double)CLOCKS_PER_SEC;
#endif
}

/* How many of the coming steps fit into the time by what is known of their cost, if the encoder has run for the first `ready`. */
static double mailp_fit(const mail_session *s, double seconds, size_t ready) {
    const double of_ready = seconds / s->step_seconds;
    return of_ready <= (double)ready ? of_ready
                                     : (double)ready + (seconds - (double)ready * s->step_seconds) / (s->step_seconds + s->encode_seconds);
}

/* Shorten the plan if it does not fit: from the present step down in as many strides as fit, DDIM between them. */
static void mailp_shorten(mail_session *s, double seconds) {
    const size_t left = s->n_order - s->at, from = s->order[s->at];
    size_t       ready = 0, k = 0, n;
    double       fit;
    while (ready < left && mailp_slot_find(s, s->order[s->at + ready]) < s->n_slots) {
        ready++;
    }
    if (mailp_fit(s, seconds, s->policy->cfg.n_trunks == 2 ? ready : left) >= (double)left) {
        return;
    }
    /* other steps than planned: the encoder has run for all of them, or for the present one at most */
    while (k <= from && mailp_slot_find(s, k) < s->n_slots) {
        k++;
    }
    fit = mailp_fit(s, seconds, s->policy->cfg.n_trunks == 1 || k > from ? left : MAILP_MIN(ready, (size_t)1));
    n   = fit < 1 ? 1 : fit < (double)(from + 1) ? (size_t)fit : from + 1;
    if (n < left) {
        s->n_order = s->at + n;
        mailp_order(s->order + s->at, from, n);
    }
}

MAIL_API mail_status mail_plan_within(mail_session *session, float *actions, double seconds, size_t *steps, mail_error *err) {
    double      start;
    mail_status status;
    if (session == NULL || !(seconds >= 0)) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_plan_within: session is NULL or seconds is not 0 or more");
    }
    start  = mailp_now(session);
    status = mail_plan_begin(session, err);
    while (status == MAIL_OK && session->plan == MAILP_PLAN_STEPS) {
        double before = mailp_now(session), took;
        if (session->policy->cfg.algorithm == MAIL_DDPM) {
            if (session->step_seconds > 0) {
                mailp_shorten(session, seconds - (before - start));
            }
            if (session->policy->cfg.n_trunks == 2 && mailp_slot_find(session, session->order[session->at]) == session->n_slots) {
                (void)mailp_slot_of_step(session);
                session->encode_seconds = (mailp_now(session) - before) / (double)session->n_slots;
            }
        }
        before = mailp_now(session);
        status = mailp_plan_step(session, err);
        if (status == MAIL_OK) {
            took = mailp_now(session) - before;
            session->step_seconds = session->step_seconds > 0 ? 0.75 * session->step_seconds + 0.25 * took : took;
        }
    }
    if (status == MAIL_OK) {
        const size_t done = session->at;
        status = mailp_plan_finish(session, actions, 0, err);
        if (status == MAIL_OK && steps != NULL) {
            *steps = done;
        }
    }
    return status;
}

MAIL_API size_t mail_trajectory(float *way_points, size_t capacity, const float *from, const float *to, size_t dim, float max_step) {
    double distance = 0;
    size_t n, i, j;
    if (from == NULL || to == NULL || (way_points == NULL && capacity != 0) || !(max_step > 0 && max_step <= FLT_MAX)) {
        return 0;
    }
    for (j = 0; j < dim; j++) {
        distance += ((double)to[j] - (double)from[j]) * ((double)to[j] - (double)from[j]);
    }
    distance = ceil(sqrt(distance) / (double)max_step);
    if (!(distance <= 1e9)) {
        return 0;
    }
    n = distance < 1 ? 1 : (size_t)distance;
    for (i = 0; i < MAILP_MIN(n, capacity); i++) {
        for (j = 0; j < dim; j++) {
            const double part = (double)(i + 1) / (double)n;
            way_points[i * dim + j] = i + 1 == n ? to[j] : (float)((double)from[j] + part * ((double)to[j] - (double)from[j]));
        }
    }
    return n;
}

/* ---- building blocks ---------------------------------------------------------------------------------------------------------- */

#define MAILP_SCAN_TILE 64  /* tokens: with 256 channels x, dt, z and y of a tile are 256 KB */

static size_t mailp_scan_chunks(size_t length, size_t d_inner, size_t chunks) {
    if (chunks == 0) {  /* channels alone keep many threads busy; few of them and a long sequence do not */
        chunks = mailp_panels(d_inner) >= 8 || length < 2048 ? 1 : MAILP_MIN(length / 512, (size_t)16);
    }
    return MAILP_MAX(MAILP_MIN(chunks, length), (size_t)1);
}

typedef struct mailp_scan_job {
    const mailp_kernels *k;
    float               *y;
    const float         *x, *dt, *B, *C, *z;
    float               *A, *D, *states, *decay, *edge;  /* edge: padded copy of the last, partial panel of x, dt, z, y */
    size_t               length, d_inner, d_state, ep, chunks;
    size_t               n_threads;
    int                  pass;  /* 0: what each piece leaves from a zero state; 1: the outputs */
    float               *waste; /* [chunks][MAILP_SCAN_TILE * ep] outputs of pass 0 that nobody reads */
} mailp_scan_job;

/* Channels of panels [first, end) in one piece of the sequence, MAILP_SCAN_TILE tokens at a time: all panels of a few rows, so that
   memory is read row by row. The panels are whole, or the one that is padded. */
static void mailp_scan_part(const mailp_scan_job *j, size_t chunk, size_t first, size_t end) {
    const size_t c = first * MAILP_LANES, N = j->d_state, ep = j->ep, L = j->length, last = L * (chunk + 1) / j->chunks;
    const int    whole = end * MAILP_LANES <= j->d_inner;
    const size_t ld = whole ? j->d_inner : MAILP_LANES, skip = whole ? c : 0;
    const float *x = (whole ? j->x : j->edge) + skip, *dt = (whole ? j->dt : j->edge + L * MAILP_LANES) + skip;
    const float *z = j->z == NULL ? NULL : (whole ? j->z : j->edge + 2 * L * MAILP_LANES) + skip;
    float       *y = (whole ? j->y : j->edge + 3 * L * MAILP_LANES) + skip;
    float       *before = j->states + chunk * N * ep + c * N, *after = before + N * ep;
    size_t       l = L * chunk / j->chunks, e, n;
    if (j->pass == 0) {
        float *decay = j->decay + chunk * ep + c, *waste = j->waste + (chunk * ep + c) * MAILP_SCAN_TILE;
        double sum[MAILP_LANES];
        for (before = NULL; l < last; l += n, before = after) {
            n = MAILP_MIN(last - l, (size_t)MAILP_SCAN_TILE);
            j->k->scan(waste, (end - first) * MAILP_LANES, after, before, x + l * ld, ld, dt + l * ld, ld, j->A + c * N, j->B + l * N,
                       j->C + l * N, N, j->D + c, NULL, 0, n, N, end - first, 0, 0);
        }
        for (; first < end; first++, dt += MAILP_LANES, decay += MAILP_LANES) {
            memset(sum, 0, sizeof sum);
            for (l = L * chunk / j->chunks; l < last; l++) {
                for (e = 0; e < MAILP_LANES; e++) {
                    sum[e] += (double)dt[l * ld + e];
                }
            }
            for (e = 0; e < MAILP_LANES; e++) {
                decay[e] = (float)sum[e];
            }
        }
        return;
    }
    for (; l < last; l += n) {
        n = MAILP_MIN(last - l, (size_t)MAILP_SCAN_TILE);
        j->k->scan(y + l * ld, ld, l + n == L ? after : before, before, x + l * ld, ld, dt + l * ld, ld, j->A + c * N, j->B + l * N,
                   j->C + l * N, N, j->D + c, z == NULL ? NULL : z + l * ld, ld, n, N, end - first, 0, 0);
    }
}

/* Task t: neighbouring panels of neighbouring pieces. */
static void mailp_scan_task(void *arg, size_t t) {
    const mailp_scan_job *j = (const mailp_scan_job *)arg;
    const size_t          panels = mailp_panels(j->d_inner), whole = j->d_inner / MAILP_LANES;
    const size_t          chunks = j->pass == 0 ? j->chunks - 1 : j->chunks;  /* what the last one leaves comes with its outputs */
    size_t                i, end, to;
    mailp_share(&i, &to, panels * chunks, t, j->n_threads);
    for (; i < to; i = end) {
        const size_t first = i % panels;
        end = i - first + (first < whole ? whole : panels);
        end = MAILP_MIN(end, to);
        mailp_scan_part(j, i / panels, first, first + end - i);
    }
}

MAIL_API size_t mail_selective_scan_size(size_t length, size_t d_inner, size_t d_state, size_t chunks) {
    const uint64_t ep = mailp_pad(d_inner), n = mailp_scan_chunks(length, d_inner, chunks);
    uint64_t       floats = d_state * ep + ep + (n + 1) * d_state * ep + n * ep;
    if (d_state < 1 || d_state > MAILP_MAX_STATE || d_inner < 1) {
        return 0;
    }
    if (d_inner % MAILP_LANES != 0) {
        floats += (uint64_t)4 * length * MAILP_LANES;
    }
    if (n > 1) {
        floats += ep * n * MAILP_SCAN_TILE;
    }
    return mailp_bytes(floats, sizeof(float));
}

MAIL_API mail_status mail_selective_scan(float *y, float *state, const float *x, const float *dt, const float *A, const float *B,
                                         const float *C, const float *D, const float *z, size_t length, size_t d_inner,
                                         size_t d_state, size_t chunks, void *memory, const char *isa,
                                         const mail_parallel *parallel, mail_error *err) {
    mailp_scan_job j;
    size_t         e, s, l, i, edge;
    float         *at = (float *)memory;
    if (y == NULL || state == NULL || x == NULL || dt == NULL || A == NULL || B == NULL || C == NULL || memory == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_selective_scan: a pointer is NULL");
    }
    if ((uintptr_t)memory % MAILP_ALIGN != 0) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_selective_scan: memory is at %p, expected a multiple of %d", memory, MAILP_ALIGN);
    }
    if (mailp_parallel_check(parallel, err) != MAIL_OK) {
        return MAIL_E_ARGUMENT;
    }
    if (d_state < 1 || d_state > MAILP_MAX_STATE || d_inner < 1) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_selective_scan: d_inner is %llu and d_state %llu, expected 1 or more and 1 to %d",
                          (unsigned long long)d_inner, (unsigned long long)d_state, MAILP_MAX_STATE);
    }
    j.k = mailp_kernels_choose(isa);
    if (j.k == NULL) {
        return mailp_fail(err, MAIL_E_UNSUPPORTED, "instruction set '%s' is not known or this machine does not have it", isa);
    }
    if (length == 0) {
        return MAIL_OK;
    }
    j.y       = y;
    j.x       = x;
    j.dt      = dt;
    j.B       = B;
    j.C       = C;
    j.z       = z;
    j.length  = length;
    j.d_inner = d_inner;
    j.d_state = d_state;
    j.ep      = mailp_pad(d_inner);
    j.chunks  = mailp_scan_chunks(length, d_inner, chunks);
    j.n_threads = MAILP_MIN(mailp_threads(parallel), mailp_panels(d_inner) * j.chunks);
    j.A       = at;
    at += d_state * j.ep;
    j.D = at;
    at += j.ep;
    j.states = at;
    at += (j.chunks + 1) * d_state * j.ep;
    j.decay = at;
    at += j.chunks * j.ep;
    j.edge = at;
    edge   = d_inner / MAILP_LANES * MAILP_LANES;
    if (edge < d_inner) {
        at += 4 * length * MAILP_LANES;
        memset(j.edge, 0, 4 * length * MAILP_LANES * sizeof(float));
        for (l = 0; l < length; l++) {
            memcpy(j.edge + l * MAILP_LANES, x + l * d_inner + edge, (d_inner - edge) * sizeof(float));
            memcpy(j.edge + (length + l) * MAILP_LANES, dt + l * d_inner + edge, (d_inner - edge) * sizeof(float));
            if (z != NULL) {
                memcpy(j.edge + (2 * length + l) * MAILP_LANES, z + l * d_inner + edge, (d_inner - edge) * sizeof(float));
            }
        }
    }
    j.waste = at;
    memset(j.A, 0, d_state * j.ep * sizeof(float));
    memset(j.D, 0, j.ep * sizeof(float));
    memset(j.states, 0, d_state * j.ep * sizeof(float));
    for (e = 0; e < d_inner; e++) {
        const size_t to = e / MAILP_LANES * d_state * MAILP_LANES + e % MAILP_LANES;
        j.D[e] = D == NULL ? 0.0f : D[e];
        for (s = 0; s < d_state; s++) {
            j.A[to + s * MAILP_LANES]      = A[e * d_state + s] * 1.44269504f;
            j.states[to + s * MAILP_LANES] = state[e * d_state + s];
        }
    }
    if (j.chunks > 1) {
        j.pass = 0;
        mailp_parallel_run(parallel, j.n_threads, mailp_scan_task, &j);
        for (i = 0; i + 1 < j.chunks; i++) {  /* state after piece i: what it leaves from zero, plus its decay times the state before */
            const float *before = j.states + i * d_state * j.ep;
            float       *after  = j.states + (i + 1) * d_state * j.ep;
            for (s = 0; s < d_state; s++) {
                for (e = 0; e < j.ep; e++) {
                    const size_t to = (e / MAILP_LANES * d_state + s) * MAILP_LANES + e % MAILP_LANES;
                    after[to] += exp2f(j.A[to] * j.decay[i * j.ep + e]) * before[to];
                }
            }
        }
    }
    j.pass = 1;
    mailp_parallel_run(parallel, j.n_threads, mailp_scan_task, &j);
    for (l = 0; edge < d_inner && l < length; l++) {
        memcpy(y + l * d_inner + edge, j.edge + (3 * length + l) * MAILP_LANES, (d_inner - edge) * sizeof(float));
    }
    for (e = 0; e < d_inner; e++) {
        const float *from = j.states + j.chunks * d_state * j.ep + e / MAILP_LANES * d_state * MAILP_LANES + e % MAILP_LANES;
        for (s = 0; s < d_state; s++) {
            state[e * d_state + s] = from[s * MAILP_LANES];
        }
    }
    return MAIL_OK;
}

struct mail_mamba {
    mail_allocator       allocator;
    const mailp_kernels *kernels;
    void                *block;
    mailp_mamba          m;
    mailp_mamba_layer    layer;
};

/* The size of dimension d of the tensor prefix + suffix; fails the loader if it is not there. */
static size_t mailp_dim(mailp_loader *l, const char *prefix, const char *suffix, unsigned n_dims, unsigned d) {
    mailp_name         name;
    const mail_tensor *t = mail_tensors_find(l->tensors, mailp_cat(&name, prefix, suffix));
    if (l->status == MAIL_OK && (t == NULL || t->n_dims != n_dims || t->shape[d] == 0 || t->shape[d] > (1u << 24))) {
        l->status = mailp_fail(l->err, MAIL_E_TENSOR, "tensor '%s' is missing or does not have %u dimensions of sensible size", name.text, n_dims);
    }
    return l->status == MAIL_OK ? (size_t)t->shape[d] : 1;
}

MAIL_API mail_status mail_mamba_create(mail_mamba **block, const mail_tensors *tensors, const char *prefix,
                                       const mail_options *options, mail_error *err) {
    const mail_options o = options == NULL ? mail_options_init() : *options;
    mail_mamba        *b;
    mailp_loader       l;
    if (block != NULL) {
        *block = NULL;
    }
    if (block == NULL || tensors == NULL || prefix == NULL) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_mamba_create: a pointer is NULL");
    }
    b = (mail_mamba *)mailp_alloc(&o.allocator, sizeof *b);
    if (b == NULL) {
        return mailp_fail(err, MAIL_E_MEMORY, "no memory for a Mamba block");
    }
    memset(b, 0, sizeof *b);
    b->allocator = o.allocator;
    if (mailp_loader_begin(&l, tensors, &o, err) != MAIL_OK) {
        mail_mamba_free(b);
        return l.status;
    }
    b->kernels        = l.kernels;
    b->m.n_layers     = 1;
    b->m.d_inner      = mailp_dim(&l, prefix, "A_log", 2, 0);
    b->m.d_state      = mailp_dim(&l, prefix, "A_log", 2, 1);
    b->m.d_model      = mailp_dim(&l, prefix, "in_proj.weight", 2, 1);
    b->m.d_conv       = mailp_dim(&l, prefix, "conv1d.weight", 3, 2);
    b->m.dt_rank      = mailp_dim(&l, prefix, "dt_proj.weight", 2, 1);
    b->m.dp           = mailp_pad(b->m.d_model);
    b->m.ep           = mailp_pad(b->m.d_inner);
    b->m.layers       = &b->layer;
    b->m.state_floats = (b->m.d_conv - 1 + b->m.d_state) * b->m.ep;
    if (l.status == MAIL_OK && b->m.d_state > MAILP_MAX_STATE) {
        l.status = mailp_fail(err, MAIL_E_UNSUPPORTED, "d_state is %llu, at most %d is supported", MAILP_LLU(b->m.d_state), MAILP_MAX_STATE);
    }
    mailp_mixer_build(&l, &b->m, &b->layer, prefix);
    mailp_check_surplus(&l, prefix, "Mamba block");
    b->block = mailp_loader_block(&l);
    if (l.status == MAIL_OK) {
        mailp_mixer_build(&l, &b->m, &b->layer, prefix);
    }
    mailp_loader_end(&l);
    if (l.status != MAIL_OK) {
        mail_mamba_free(b);
        return l.status;
    }
    *block = b;
    return MAIL_OK;
}

MAIL_API void mail_mamba_free(mail_mamba *block) {
    if (block != NULL) {
        mail_allocator allocator = block->allocator;
        mailp_free(&allocator, block->block);
        mailp_free(&allocator, block);
    }
}

MAIL_API size_t mail_mamba_d_model(const mail_mamba *block) {
    return block == NULL ? 0 : block->m.d_model;
}

MAIL_API size_t mail_mamba_state_floats(const mail_mamba *block) {
    return block == NULL ? 0 : block->m.state_floats;
}

MAIL_API size_t mail_mamba_scratch(const mail_mamba *block, size_t length) {
    return block == NULL ? 0 : mailp_bytes(length, (size_t)(mailp_mamba_scratch(&block->m, 1, 1) + block->m.dp) * sizeof(float));
}

MAIL_API void mail_mamba_block(const mail_mamba *block, float *y, float *state, const float *x, size_t length, void *memory) {
    const mailp_mamba *m   = &block->m;
    float             *out = (float *)memory;
    mailp_ctx          ctx;
    mailp_seq          seq;
    mailp_mamba_job    j;
    size_t             i;
    if (length == 0) {
        return;
    }
    memset(&seq, 0, sizeof seq);
    seq.len       = length;
    seq.state_in  = state;
    seq.state_out = state;
    memset(&ctx, 0, sizeof ctx);
    ctx.kernels   = block->kernels;
    ctx.parallel  = NULL;
    ctx.n_threads = 1;
    mailp_mamba_job_init(&j, &ctx, m, out, length, &seq, 1, NULL, out + length * m->dp);
    j.input = x;
    mailp_mamba_layer_run(&j, 0);
    for (i = 0; i < length; i++) {
        memcpy(y + i * m->d_model, out + i * m->dp, m->d_model * sizeof(float));
    }
}

#endif /* upper half */
