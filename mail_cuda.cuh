/* mail_cuda.cuh - MaIL robot policies of mail.h on an NVIDIA GPU

   Include it after mail.h in a .cu file and link nothing but the CUDA runtime:

       #define MAIL_IMPLEMENTATION
       #include "mail.h"
       #include "mail_cuda.cuh"

       mail_cuda_policy  *gpu;
       mail_cuda_session *robots;
       mail_cuda_options  options = mail_cuda_options_init();
       options.session.batch = 32;                                       robots that decide together; other options of mail.h
       mail_cuda_policy_create(&gpu, policy, &err);                      policy: from mail_policy_load
       mail_cuda_session_create(&robots, gpu, &options, stream, &err);
       ...
       mail_cuda_observe(robots, images, 64, &err);                      one frame per robot and camera, as for mail_observe
       mail_cuda_act(robots, actions, &err);                             [32][action_dim], robot's units; or mail_cuda_plan
       cudaStreamSynchronize(stream);                                    nothing before this line has waited for the GPU
       mail_cuda_session_check(robots, &err);                            was everything finite?

   build:  nvcc -std=c++17 -O3 -arch=sm_90a program.cu               (any GPU from sm_80 on; sm_90 without the a is slower for many robots)

   What runs: a decision is one CUDA graph, recorded when the session is created; encoding the cameras is another. The
   denoising loop of a Mamba policy is one launch on a GPU with thread-block clusters (sm_90 and later); everything else, and
   every other GPU, takes the plain path: small kernels, right for every architecture. Both compute what depends only on the
   weights when policy and session are created, what depends on a frame when it arrives, and in each step only the action
   tokens (one launch: with that of a history of one frame, which costs less there than before the loop).

   What holds: after mail_cuda_session_create no call allocates or prints, and none waits for the GPU as long as the caller's
   pictures, noise and actions are in device memory or page-locked memory (cudaHostAlloc): the runtime copies from and to
   other memory of the host only when the stream has come that far. Work is queued on the caller's stream, on the device
   that was current when the policy was created, whichever is current at the call; but in a thread whose current device is another
   the first call makes that one's context, if it has none (cudaSetDevice does), which takes time and memory: set the policy's
   device in such threads. Same input, same bits; a robot's actions do not depend on the other robots of its batch, but on how
   many there are in the last bits, since other kernels may be taken.
   Memory that is given to a call and read later (pictures, goals, noise) stays as it is until the stream has come this far, also
   if the call fails.

   As in mail.h: pictures of every format, size and stride, goals, histories, horizons, DDIM, ensembling, limits, robots that are
   reset one by one. Different: errors that only the network's numbers can show come from mail_cuda_session_check, after the
   fact; a plan is not spread over calls, because a queued one runs while the loop goes on; there is no plan within a time,
   for which n_steps with DDIM is the tool; a policy with cameras takes pictures only, no features.

   Measured on an NVIDIA H200, its latest kernels in parts (bench/RESULTS.md): they are tested on a CPU stand-in and
   compiled for sm_80, sm_90a and sm_120; what that cannot show (memory ordering, inline PTX, speed) is for
   bench/device_run.sh. Needs the CUDA Toolkit 12.1 or later.

   Contents: declarations, >>dev, >>linear, >>mamba, >>attention, >>tokens, >>sampler, >>scan, >>vision, >>denoise,
   >>weights, >>launch, >>api. */
#ifndef MAIL_CUDA_CUH
#define MAIL_CUDA_CUH

#ifdef MAIL_CUDA_ON_CPU
#  include "cuda_on_cpu.h" /* the project's tests run the kernels on a CPU; see there */
#else
#  include <cuda_runtime.h>
#endif
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#ifndef MAIL_CUDA_API
#  define MAIL_CUDA_API static inline
#endif

/* ====================================================================================================================
   >>dev   everything nearer to the hardware than plain CUDA C++

   Kernels below use no inline PTX: each instruction is one mailp_dev_ function here, with a scalar twin for
   cuda_on_cpu.h beside it. All shuffles use the full warp.
   ================================================================================================================= */

/* Dynamic shared memory of the running block, seen as one struct or array; 128-byte aligned. */
#ifdef MAIL_CUDA_ON_CPU
#  define MAILP_CUDA_SHARED(type, name) type *name = (type *)cpucuda::cur->b->smem
#else
#  define MAILP_CUDA_SHARED(type, name)                             \
    extern __shared__ __align__(128) unsigned char mailp_cuda_shared[]; \
    type *name = (type *)mailp_cuda_shared
#endif

/* A stream and the first error met while queueing work on it. With load set nothing is queued: kernels are brought into the
   device's memory, so that no later call has to. */
struct mailp_cuda_queue {
    cudaStream_t stream;
    cudaError_t  error;
    int          load;
    int          early;  /* kernels may begin while the one before them ends: the device can, and all of them wait (mailp_dev_wait) */
    int          fresh;  /* the next kernel comes after something else than one kernel */
    double       cycles; /* what the fused convolutions so far are expected to take */
};

#ifndef MAIL_CUDA_ON_CPU
/* Let a kernel be launched with smem bytes of dynamic shared memory, in clusters of that many blocks. The limit is set to all that
   the device has, whatever smem is: sessions of other sizes, perhaps in other threads, use the same kernel. */
static inline cudaError_t mailp_cuda_allow(const void *kernel, size_t smem, unsigned cluster) {
    cudaFuncAttributes about;
    int                device = 0, most = 0;
    cudaError_t        e = cudaFuncGetAttributes(&about, kernel);
    if (e == cudaSuccess && (size_t)about.maxDynamicSharedSizeBytes < smem) {
        e = cudaGetDevice(&device);
        e = e == cudaSuccess ? cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) : e;
        e = e == cudaSuccess ? cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most - (int)about.sharedSizeBytes) : e;
    }
    if (e == cudaSuccess && cluster > 8) {
        e = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    }
    return e;
}
#endif

/* Queue kernel(args) on q: grid blocks in clusters of `cluster` (1: no clusters), smem bytes of dynamic shared memory.
   After an error nothing more is launched. */
template <class Args>
static inline void mailp_cuda_launch(mailp_cuda_queue *q, void (*kernel)(Args), dim3 grid, unsigned threads, size_t smem,
                                     const Args &args, unsigned cluster = 1) {
    if (q->error != cudaSuccess) {
        return;
    }
    if (q->load) { /* asking about a kernel loads it */
        cudaFuncAttributes about;
        q->error = cudaFuncGetAttributes(&about, (const void *)kernel);
        return;
    }
#ifdef MAIL_CUDA_ON_CPU
    q->error = cpucuda::launch(q->stream, grid, dim3(threads), cluster, smem, q->early && !q->fresh, [=] { kernel(args); });
#else
    cudaLaunchConfig_t  config = {};
    cudaLaunchAttribute attribute[2];
    unsigned            n = 0;
    if (smem > 48 * 1024 || cluster > 8) {
        q->error = mailp_cuda_allow((const void *)kernel, smem, cluster);
    }
    if (q->error != cudaSuccess) {
        return;
    }
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = smem;
    config.stream = q->stream;
    if (cluster > 1) {
        attribute[n].id = cudaLaunchAttributeClusterDimension;
        attribute[n].val.clusterDim.x = cluster;
        attribute[n].val.clusterDim.y = 1;
        attribute[n++].val.clusterDim.z = 1;
    }
    if (q->early && !q->fresh) {
        attribute[n].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute[n++].val.programmaticStreamSerializationAllowed = 1;
    }
    config.attrs = attribute;
    config.numAttrs = n;
    q->error = cudaLaunchKernelEx(&config, kernel, args);
#endif
    q->fresh = 0;
}

/* In a kernel, before it touches what other kernels write or read: let the next one begin, and wait for the end of the one
   before. What is read earlier must be as old as the policy: weights. */
#ifdef MAIL_CUDA_ON_CPU
#  define mailp_dev_wait() cpucuda::dependency_wait(__LINE__)
#else
static __device__ __forceinline__ void mailp_dev_wait() {
#  if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\ngriddepcontrol.wait;" ::: "memory");
#  endif
}
#endif

/* 2^x, to about 2 units in the last place. */
static __device__ __forceinline__ float mailp_dev_ex2(float x) {
#ifdef MAIL_CUDA_ON_CPU
    return exp2f(x);
#else
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#endif
}

/* 1 / x, to a unit in the last place; 0 beyond 2^126. */
static __device__ __forceinline__ float mailp_dev_rcp(float x) {
#ifdef MAIL_CUDA_ON_CPU
    return 1.0f / x;
#else
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#endif
}

#define MAILP_CUDA_LOG2E 1.4426950408889634f

static __device__ __forceinline__ float mailp_dev_silu(float x) {
    return x * mailp_dev_rcp(1.0f + mailp_dev_ex2(-MAILP_CUDA_LOG2E * x));
}

/* log2(x), to about 2^-22 absolutely where x is in 1/2..2, relatively elsewhere. */
static __device__ __forceinline__ float mailp_dev_lg2(float x) {
#ifdef MAIL_CUDA_ON_CPU
    return log2f(x);
#else
    float r;
    asm volatile("lg2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x)); /* volatile: a branch around it would cost more */
    return r;
#endif
}

/* ln(1 + e^x), without a branch and in a third of log1pf's instructions. e = e^x below 1/2: e times the minimax polynomial of
   ln(1 + e) / e of degree 7 (relative error 1e-7); above 20 the difference to x is less than a unit in the last place. */
static __device__ __forceinline__ float mailp_dev_softplus(float x) {
    const float e = mailp_dev_ex2(MAILP_CUDA_LOG2E * x), large = x > 20.0f ? x : 0.69314718056f * mailp_dev_lg2(1.0f + e);
    float       p = fmaf(-0.02743204497f, e, 0.08672942221f);
    p = fmaf(p, e, -0.1467759758f);
    p = fmaf(p, e, 0.1957983524f);
    p = fmaf(p, e, -0.2494998127f);
    p = fmaf(p, e, 0.3333034813f);
    p = fmaf(p, e, -0.4999993145f);
    p = fmaf(p * e, e, e);
#ifndef MAIL_CUDA_ON_CPU
    asm volatile("" : "+f"(p)); /* made in any case: a branch around it would cost more */
#endif
    return e < 0.5f ? p : large;
}

static __device__ __forceinline__ float mailp_dev_gelu(float x) {
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
}

/* 1 / sqrt(x), to about 2 units in the last place. */
static __device__ __forceinline__ float mailp_dev_rsqrt(float x) {
#ifdef MAIL_CUDA_ON_CPU
    return 1.0f / sqrtf(x);
#else
    return rsqrtf(x);
#endif
}

/* The larger of two; not-a-number is larger than all. */
static __device__ __forceinline__ float mailp_dev_larger(float a, float b) {
#ifdef MAIL_CUDA_ON_CPU
    return a > b || a != a ? a : b;
#else
    float r;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
    return r;
#endif
}

/* v, but not-a-number in place of infinity, which a clamp would hide. */
static __device__ __forceinline__ float mailp_dev_finite(float v) {
    return fabsf(v) <= FLT_MAX ? v : NAN;
}

/* v moved into lo..hi; unlike with fminf and fmaxf, not-a-number stays what it is and is seen by the caller. */
static __device__ __forceinline__ float mailp_dev_clamp(float v, float lo, float hi) {
    return v < lo ? lo : v > hi ? hi : v;
}

/* Sum, and maximum, over W neighbouring lanes; every lane gets it. */
template <int W>
static __device__ __forceinline__ float mailp_dev_sum(float v) {
#pragma unroll
    for (int d = W / 2; d; d >>= 1) {
        v += __shfl_xor_sync(0xffffffffu, v, d);
    }
    return v;
}
/* Sums over W neighbouring lanes of N values each; every lane gets N / W of them, those from number lane % W * (N / W) on, in the
   first places of v. */
template <int W, int N>
static __device__ __forceinline__ void mailp_dev_share_sums(float (&v)[N], int lane) {
#pragma unroll
    for (int d = W / 2, n = N / 2; d; d >>= 1, n >>= 1) {
#pragma unroll
        for (int i = 0; i < n; i++) {
            const float keep = lane & d ? v[i + n] : v[i], send = lane & d ? v[i] : v[i + n];
            v[i] = keep + __shfl_xor_sync(0xffffffffu, send, d);
        }
    }
}
static __device__ __forceinline__ float mailp_dev_max32(float v) {
#pragma unroll
    for (int d = 16; d; d >>= 1) {
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    }
    return v;
}

/* ---- barriers in shared memory, and copies into it in the background ---- */

#if defined(MAIL_CUDA_ON_CPU)
#  define MAILP_CUDA_CLUSTERS 1 /* this compilation has them: the kernels that use them are not empty */
typedef cpucuda::MBar mailp_cuda_bar;
#else
#  if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#    define MAILP_CUDA_CLUSTERS 1
#  endif
struct __align__(8) mailp_cuda_bar {
    unsigned long long v;
};
static __device__ __forceinline__ unsigned mailp_dev_s32(const void *p) {
    return (unsigned)__cvta_generic_to_shared(p);
}
#endif

/* One thread: make a barrier whose phases end after `count` arrives, of which one may be an expect, and the bytes it announced. */
static __device__ __forceinline__ void mailp_dev_bar_init(mailp_cuda_bar *bar, int count = 1) {
#ifdef MAIL_CUDA_ON_CPU
    bar->count = bar->pending = count;
    bar->tx = 0;
    bar->phase = 0;
#else
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(mailp_dev_s32(bar)), "r"(count) : "memory");
#endif
}

/* One thread: end the present phase; what it has written, or seen written, is then visible to those who wait. */
static __device__ __forceinline__ void mailp_dev_bar_arrive(mailp_cuda_bar *bar) {
#ifdef MAIL_CUDA_ON_CPU
    --bar->pending;
    cpucuda::settle(bar);
#else
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(mailp_dev_s32(bar)) : "memory");
#endif
}

/* Wait for the end of the phase of this parity (0 for the first); what was written before it, or arrived and was counted on the
   barrier, is then visible to the caller. Not acquire.cluster: that would invalidate the first-level cache and wait for loads
   under way, and there is nothing else to be seen. */
#ifdef MAIL_CUDA_ON_CPU
#  define mailp_dev_bar_wait(bar, parity) cpucuda::bar_wait(bar, (unsigned)(parity), __LINE__)
#else
static __device__ __forceinline__ void mailp_dev_bar_wait(mailp_cuda_bar *bar, unsigned parity) {
#  if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 /* sleeps a while in place of asking again */
    asm volatile("{\n.reg .pred p;\nW: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra W;\n}" ::"r"(mailp_dev_s32(bar)), "r"(parity) : "memory");
#  else
    asm volatile("{\n.reg .pred p;\nW: mbarrier.test_wait.parity.shared.b64 p, [%0], %1;\n@!p bra W;\n}" ::"r"(mailp_dev_s32(bar)), "r"(parity) : "memory");
#  endif
}
#endif

/* Copy BYTES (4 or 16; both sides aligned to that) from global to shared memory in the background; if !in, zeros, and from is
   not read. A group ends with mailp_dev_copies_end; after mailp_dev_copies_wait<N> the calling thread sees its own copies, but
   for those of its last N groups. */
template <int BYTES>
static __device__ __forceinline__ void mailp_dev_copy(void *to, const void *from, bool in) {
    static_assert(BYTES == 4 || BYTES == 16, "what cp.async can do here");
#ifdef MAIL_CUDA_ON_CPU
    cpucuda::copy(to, in ? from : NULL, BYTES);
#else
    if (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(mailp_dev_s32(to)), "l"(from), "r"(in ? 16 : 0) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(mailp_dev_s32(to)), "l"(from), "r"(in ? 4 : 0) : "memory");
    }
#endif
}
#ifdef MAIL_CUDA_ON_CPU
#  define mailp_dev_copies_end() cpucuda::copies_end()
#else
static __device__ __forceinline__ void mailp_dev_copies_end() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
#endif
template <int N>
static __device__ __forceinline__ void mailp_dev_copies_wait() {
#ifdef MAIL_CUDA_ON_CPU
    cpucuda::copies_wait(N);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

/* ---- clusters: push values into a peer's shared memory, counted in bytes by a barrier there ---- */

#ifdef MAILP_CUDA_CLUSTERS
/* Number of this block within its cluster. */
static __device__ __forceinline__ unsigned mailp_dev_rank() {
#  ifdef MAIL_CUDA_ON_CPU
    return cpucuda::cur->b->rank;
#  else
    unsigned r;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
#  endif
}

/* All threads of all blocks of the cluster. */
#  ifdef MAIL_CUDA_ON_CPU
#    define mailp_dev_cluster_sync() cpucuda::sync(cpucuda::cluster_bar(), __LINE__)
#    define mailp_dev_cluster_arrive() cpucuda::cluster_arrive(__LINE__)
#    define mailp_dev_cluster_wait() cpucuda::cluster_wait(__LINE__)
#  else
static __device__ __forceinline__ void mailp_dev_cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
/* The same in two parts, for barriers that were published (see below): peers may go on before this thread waits for them. */
static __device__ __forceinline__ void mailp_dev_cluster_arrive() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
static __device__ __forceinline__ void mailp_dev_cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
static __device__ __forceinline__ unsigned mailp_dev_map(unsigned address, unsigned rank) {
    unsigned r;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(address), "r"(rank));
    return r;
}
#  endif

/* The same thread, after all its inits and before the cluster_sync that lets peers use them. */
static __device__ __forceinline__ void mailp_dev_bar_publish() {
#  ifndef MAIL_CUDA_ON_CPU
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
#  endif
}

/* One thread: the present phase ends when `bytes` have arrived. Pushes may come before this call. */
static __device__ __forceinline__ void mailp_dev_bar_expect(mailp_cuda_bar *bar, unsigned bytes) {
#  ifdef MAIL_CUDA_ON_CPU
    bar->tx += (int)bytes;
    --bar->pending;
    cpucuda::settle(bar);
#  else
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(mailp_dev_s32(bar)), "r"(bytes) : "memory");
#  endif
}

/* Store v at this block's address `local` in block `rank`, and count its 16 bytes on `bar` there. Not in a launch without clusters,
   where the instruction is an illegal one. */
static __device__ __forceinline__ void mailp_dev_push4(float *local, unsigned rank, float4 v, mailp_cuda_bar *bar) {
#  ifdef MAIL_CUDA_ON_CPU
    cpucuda::push(local, rank, &v, 16, bar);
#  else
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1,%2,%3,%4}, [%5];" ::"r"(
                     mailp_dev_map(mailp_dev_s32(local), rank)),
                 "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(mailp_dev_map(mailp_dev_s32(bar), rank))
                 : "memory");
#  endif
}

/* One thread: copy bytes (a multiple of 16; both sides 16-byte aligned) of this block's shared memory to the address `to` in block
   `rank`, in the background, counted on `bar` there. What is copied must have been published by the threads that wrote it. */
static __device__ __forceinline__ void mailp_dev_bulk_push(void *to, unsigned rank, const void *from, unsigned bytes, mailp_cuda_bar *bar) {
#  ifdef MAIL_CUDA_ON_CPU
    cpucuda::bulk_push(to, rank, from, bytes, bar);
#  else
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     mailp_dev_map(mailp_dev_s32(to), rank)),
                 "r"(mailp_dev_s32(from)), "r"(bytes), "r"(mailp_dev_map(mailp_dev_s32(bar), rank))
                 : "memory");
#  endif
}

/* One thread: copy bytes (a multiple of 16; both sides 16-byte aligned) of global memory to shared memory of this block, in the
   background, counted on `bar`. */
static __device__ __forceinline__ void mailp_dev_bulk_load(void *to, const void *from, unsigned bytes, mailp_cuda_bar *bar) {
#  ifdef MAIL_CUDA_ON_CPU
    cpucuda::bulk_push(to, cpucuda::cur->b->rank, from, bytes, bar);
#  else
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(mailp_dev_s32(to)), "l"(from),
                 "r"(bytes), "r"(mailp_dev_s32(bar))
                 : "memory");
#  endif
}

/* What this thread wrote to shared memory may be copied in the background after the next __syncthreads. */
static __device__ __forceinline__ void mailp_dev_publish(void) {
#  ifndef MAIL_CUDA_ON_CPU
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#  endif
}

/* One thread: bring bytes (a multiple of 16, 16-byte aligned) into the L2 cache, in the background. */
static __device__ __forceinline__ void mailp_dev_prefetch(const void *from, unsigned bytes) {
#  ifdef MAIL_CUDA_ON_CPU
    (void)from;
    (void)bytes;
#  else
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#  endif
}
#endif /* MAILP_CUDA_CLUSTERS */

/* ---- tensor cores ---- */

/* float -> nearest half (ties to even, too large: infinity), and back; for packing weights, and for the CPU. */
static inline uint32_t mailp_cuda_to_half(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    const uint32_t sign = u >> 16 & 0x8000u, abs = u & 0x7fffffffu;
    if (abs > 0x7f800000u) {
        return sign | 0x7e00u; /* not a number */
    }
    if (abs >= 0x477ff000u) {
        return sign | 0x7c00u;
    }
    if (abs < 0x38800000u) { /* below 2^-14: units of 2^-24 */
        return sign | (uint32_t)nearbyintf(fabsf(x) * 16777216.0f);
    }
    return sign | ((abs - 0x38000000u + 0xfffu + (abs >> 13 & 1)) >> 13);
}
static inline float mailp_cuda_from_half(uint32_t h) {
    const uint32_t bits = (h & 0x7fffu) << 13, special = bits | 0x7f800000u;
    float          v;
    memcpy(&v, (h & 0x7c00u) == 0x7c00u ? &special : &bits, 4);
    v = (h & 0x7c00u) == 0x7c00u ? v : v * 5192296858534827628530496329220096.0f; /* 2^112: from half's bias to float's */
    return h & 0x8000u ? -v : v;
}

/* D (16 x 8) += A (16 x 16) B (16 x 8), half operands, float32 sums; all lanes. Fragments as in PTX mma.m16n8k16, with
   lane = 4 g + t, two values a register:
       A: a0 (row g, k 2t..)  a1 (g + 8, 2t..)  a2 (g, 2t + 8..)  a3 (g + 8, 2t + 8..)
       B: b0 (k 2t.., column g)  b1 (k 2t + 8.., column g)        D: d0 d1 (g, 2t..)  d2 d3 (g + 8, 2t..) */
static __device__ __forceinline__ void mailp_dev_mma(float d[4], const uint32_t a[4], const uint32_t b[2]) {
#ifdef MAIL_CUDA_ON_CPU
    cpucuda::mma(d, a, b, mailp_cuda_from_half, __LINE__);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/* The four registers of an A fragment. */
static __device__ __forceinline__ void mailp_dev_fragment(uint32_t (&a)[4], uint4 v) {
    a[0] = v.x;
    a[1] = v.y;
    a[2] = v.z;
    a[3] = v.w;
}

/* Two floats as halves, rounded to nearest even, the first in the low part; and back. */
static __device__ __forceinline__ uint32_t mailp_dev_half2(float first, float second) {
#ifdef MAIL_CUDA_ON_CPU
    return mailp_cuda_to_half(first) | mailp_cuda_to_half(second) << 16;
#else
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(second), "f"(first));
    return r;
#endif
}
static __device__ __forceinline__ float mailp_dev_half_first(uint32_t r) {
#ifdef MAIL_CUDA_ON_CPU
    return mailp_cuda_from_half(r & 0xffffu);
#else
    float f;
    asm("{\n.reg .f16 a, b;\nmov.b32 {a, b}, %1;\ncvt.f32.f16 %0, a;\n}" : "=f"(f) : "r"(r));
    return f;
#endif
}
static __device__ __forceinline__ float mailp_dev_half_second(uint32_t r) {
    return mailp_dev_half_first(r >> 16);
}

/* What the halves h lack of the two floats that they were made of, as halves. */
static __device__ __forceinline__ uint32_t mailp_dev_half2_rest(uint32_t h, float first, float second) {
    return mailp_dev_half2(first - mailp_dev_half_first(h), second - mailp_dev_half_second(h));
}

static __device__ __forceinline__ int mailp_dev_bits_set(uint64_t v) {
#ifdef MAIL_CUDA_ON_CPU
    return __builtin_popcountll(v);
#else
    return __popcll(v);
#endif
}

/* The bits of a float, and back. */
static __device__ __forceinline__ uint32_t mailp_dev_bits(float v) {
#ifdef MAIL_CUDA_ON_CPU
    uint32_t u;
    memcpy(&u, &v, 4);
    return u;
#else
    return __float_as_uint(v);
#endif
}
static __device__ __forceinline__ float mailp_dev_float(uint32_t u) {
#ifdef MAIL_CUDA_ON_CPU
    float v;
    memcpy(&v, &u, 4);
    return v;
#else
    return __uint_as_float(u);
#endif
}

/* D (16 x 8) += A (16 x 8) B (8 x 8), tf32 operands (floats whose last 13 bits are 0), float32 sums; all lanes. Fragments as in
   PTX mma.m16n8k8:
       A: a0 (row g, k t)  a1 (g + 8, t)  a2 (g, t + 4)  a3 (g + 8, t + 4)     B: b0 (k t, column g)  b1 (t + 4, g)     D: as above */
static __device__ __forceinline__ void mailp_dev_mma_tf32(float d[4], const uint32_t a[4], const uint32_t b[2]) {
#ifdef MAIL_CUDA_ON_CPU
    cpucuda::mma_tf32(d, a, b, __LINE__);
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/* v as tf32 operands: hi, v rounded to 11 bits (ties away from zero), and what is left of v. A v that is not finite stays so in lo. */
static __device__ __forceinline__ void mailp_dev_split(uint32_t &hi, uint32_t &lo, float v) {
    hi = (mailp_dev_bits(v) + 0x1000u) & 0xffffe000u;
    lo = mailp_dev_bits(v - mailp_dev_float(hi)) & 0xffffe000u;
}

/* v is made here and kept: the compiler would otherwise move its making to where it is used, or make it again there. */
template <class V>
static __device__ __forceinline__ void mailp_dev_keep(V &v) {
#ifdef MAIL_CUDA_ON_CPU
    (void)v;
#else
    asm volatile("" : "+r"(v));
#endif
}

/* The A operands of four steps. */
static __device__ __forceinline__ void mailp_dev_split_weights(uint32_t (&hi)[4][4], uint32_t (&lo)[4][4], const float4 (&w)[4]) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
        mailp_dev_split(hi[k][0], lo[k][0], w[k].x);
        mailp_dev_split(hi[k][1], lo[k][1], w[k].y);
        mailp_dev_split(hi[k][2], lo[k][2], w[k].z);
        mailp_dev_split(hi[k][3], lo[k][3], w[k].w);
    }
}

/* The same product with float operands for 16 inputs, two steps, both sides split already: b has the inputs k t, t + 4 of the first
   step and of the second. Three products, each with sums of its own: acc's sum is the result, to 21 bits. */
static __device__ __forceinline__ void mailp_dev_mma_split(float (&acc)[3][4], const uint32_t (*a_hi)[4], const uint32_t (*a_lo)[4], uint4 b_hi,
                                                           uint4 b_lo) {
    const uint32_t hi[2][2] = {{b_hi.x, b_hi.y}, {b_hi.z, b_hi.w}}, lo[2][2] = {{b_lo.x, b_lo.y}, {b_lo.z, b_lo.w}};
#pragma unroll
    for (int k = 0; k < 2; k++) {
        mailp_dev_mma_tf32(acc[0], a_hi[k], hi[k]);
        mailp_dev_mma_tf32(acc[1], a_lo[k], hi[k]);
        mailp_dev_mma_tf32(acc[2], a_hi[k], lo[k]);
    }
}

/* ---- tensor cores of Hopper: products of a warpgroup, whose operands lie in shared memory ---- */

#if defined(MAIL_CUDA_ON_CPU)
#  define MAILP_CUDA_WARPGROUPS 1 /* this compilation has them */
/* A matrix of halves with rows (of A, or columns of B) in eights: 8 rows of 8 halves, 128 bytes, are one piece; the next 8 rows follow
   at `rows` bytes, the next 8 halves of the same rows at `inputs` bytes. */
struct mailp_cuda_operand {
    const unsigned char *at;
    unsigned             inputs, rows; /* the first 0: rows of 64 bytes as mailp_dev_operand64 has them */
};
#else
#  if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#    define MAILP_CUDA_WARPGROUPS 1
#  endif
typedef uint64_t mailp_cuda_operand; /* a matrix descriptor of PTX */
#endif

#ifdef MAILP_CUDA_WARPGROUPS
/* The three below: not in divergent code; what a whole warp has in common is to be computed once for it. */
static __device__ __forceinline__ mailp_cuda_operand mailp_dev_operand(const void *shared, unsigned inputs, unsigned rows) {
#  ifdef MAIL_CUDA_ON_CPU
    return {(const unsigned char *)shared, inputs, rows};
#  else
    /* in a cluster, addresses have the block's number in their upper bits */
    const unsigned at = __shfl_sync(0xffffffffu, (mailp_dev_s32(shared) & 0x3ffffu) >> 4, 0);
    return (uint64_t)at | (uint64_t)(inputs >> 4) << 16 | (uint64_t)(rows >> 4) << 32;
#  endif
}
/* A matrix with rows of 32 halves one after the other, in memory aligned to 512 bytes; 16-byte piece c of row r lies where c ^ (r / 2 % 4)
   would. */
static __device__ __forceinline__ mailp_cuda_operand mailp_dev_operand64(const void *shared) {
#  ifdef MAIL_CUDA_ON_CPU
    return {(const unsigned char *)shared, 0, 0};
#  else
    return mailp_dev_operand(shared, 16, 512) | (uint64_t)2 << 62;
#  endif
}
/* The same matrix, so many times 16 bytes later. */
static __device__ __forceinline__ mailp_cuda_operand mailp_dev_operand_at(mailp_cuda_operand m, int sixteens) {
#  ifdef MAIL_CUDA_ON_CPU
    m.at += 16 * sixteens;
    return m;
#  else
    return (m & 0xffffffff00000000u) | (uint32_t)((uint32_t)m + (uint32_t)sixteens);
#  endif
}

/* Before the first product after registers of the sums were touched; after a piece of products; until all pieces but the last N
   have ended. All threads of the warpgroup. */
#  ifdef MAIL_CUDA_ON_CPU
#    define mailp_dev_products_begin() ((void)0)
#    define mailp_dev_products_end() ((void)0)
#    define mailp_dev_products_wait(N) cpucuda::sync(cpucuda::cur->w->bar, __LINE__)
#  else
#    define mailp_dev_products_begin() asm volatile("wgmma.fence.sync.aligned;" ::: "memory")
#    define mailp_dev_products_end() asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory")
#    define mailp_dev_products_wait(N) asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory")
#  endif

/* The sums are complete: nothing that uses them is moved before this. */
template <int N>
static __device__ __forceinline__ void mailp_dev_products_done(float (&d)[N]) {
#  ifdef MAIL_CUDA_ON_CPU
    (void)d;
#  else
#    pragma unroll
    for (int i = 0; i < N; i++) {
        asm volatile("" : "+f"(d[i])::"memory");
    }
#  endif
}

/* D (64 x N) = A (64 x 16) B (16 x N), and with add the former D to it; half operands, float32 sums. Thread 32 w + 4 g + t has of D the rows
   16 w + g (d[4 j], d[4 j + 1]) and 16 w + g + 8, columns 8 j + 2 t and the next. */
template <int N>
static __device__ __forceinline__ void mailp_dev_product(float (&d)[N / 2], mailp_cuda_operand a, mailp_cuda_operand b, int add) {
    static_assert(N == 48 || N == 96 || N == 136 || N == 152, "what is listed below");
#  ifdef MAIL_CUDA_ON_CPU
    cpucuda::product<N>(d, a, b, add, mailp_cuda_from_half);
#  else
#    define MAILP_T10(p) "%" #p "0, %" #p "1, %" #p "2, %" #p "3, %" #p "4, %" #p "5, %" #p "6, %" #p "7, %" #p "8, %" #p "9, "
#    define MAILP_D4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#    define MAILP_D20(i) MAILP_D4(i), MAILP_D4((i) + 4), MAILP_D4((i) + 8), MAILP_D4((i) + 12), MAILP_D4((i) + 16)
#    define MAILP_PRODUCT(n, list, a_b, last, ...)                                                                                   \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" last ", 0;\nwgmma.mma_async.sync.aligned.m64n" n "k16.f32.f16.f16 {" list "}, " a_b \
                     ", p, 1, 1, 0, 0;\n}"                                                                                        \
                     : __VA_ARGS__                                                                                                  \
                     : "l"(a), "l"(b), "r"(add))
    if constexpr (N == 48) {
        MAILP_PRODUCT("48", MAILP_T10() MAILP_T10(1) "%20, %21, %22, %23", "%24, %25", "26", MAILP_D20(0), MAILP_D4(20));
    } else if constexpr (N == 96) {
        MAILP_PRODUCT("96", MAILP_T10() MAILP_T10(1) MAILP_T10(2) MAILP_T10(3) "%40, %41, %42, %43, %44, %45, %46, %47", "%48, %49", "50",
                      MAILP_D20(0), MAILP_D20(20), MAILP_D4(40), MAILP_D4(44));
    } else if constexpr (N == 136) {
        MAILP_PRODUCT("136", MAILP_T10() MAILP_T10(1) MAILP_T10(2) MAILP_T10(3) MAILP_T10(4) MAILP_T10(5) "%60, %61, %62, %63, %64, %65, %66, %67",
                      "%68, %69", "70", MAILP_D20(0), MAILP_D20(20), MAILP_D20(40), MAILP_D4(60), MAILP_D4(64));
    } else {
        MAILP_PRODUCT("152", MAILP_T10() MAILP_T10(1) MAILP_T10(2) MAILP_T10(3) MAILP_T10(4) MAILP_T10(5) MAILP_T10(6) "%70, %71, %72, %73, %74, %75",
                      "%76, %77", "78", MAILP_D20(0), MAILP_D20(20), MAILP_D20(40), MAILP_D4(60), MAILP_D4(64), MAILP_D4(68), MAILP_D4(72));
    }
#    undef MAILP_PRODUCT
#    undef MAILP_D20
#    undef MAILP_D4
#    undef MAILP_T10
#  endif
}
#endif /* MAILP_CUDA_WARPGROUPS */

/* A matrix of 8 x 8 halves of which lane 4 g + t has columns 2 t, 2 t + 1 of row g, transposed: rows 2 t, 2 t + 1 of column g. All lanes. */
static __device__ __forceinline__ uint32_t mailp_dev_transpose(uint32_t v) {
#ifdef MAIL_CUDA_ON_CPU
    const int      lane = (int)threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const uint32_t first = __shfl_sync(0xffffffffu, v, 8 * t + g / 2), second = __shfl_sync(0xffffffffu, v, 8 * t + 4 + g / 2);
    return (first >> 16 * (g & 1) & 0xffffu) | (second >> 16 * (g & 1) & 0xffffu) << 16;
#else
    uint32_t r;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(v));
    return r;
#endif
}

/* 16 aligned bytes of global memory, through L2 alone. Not moved: the load begins here and is waited for where it is used. */
template <class V>
static __device__ __forceinline__ V mailp_dev_load16(const V *from) {
    static_assert(sizeof(V) == 16, "16 bytes");
    V v;
#ifdef MAIL_CUDA_ON_CPU
    v = *from;
#else
    uint32_t r[4];
    asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "l"(from));
    memcpy(&v, r, 16);
#endif
    return v;
}

/* ====================================================================================================================
   >>linear   Y = act(norm(X) W^T + bias) + add + add2

   The one matrix product of the plain path; LayerNorm on the way in and residual sums on the way out are part of it.
   ================================================================================================================= */

/* Pieces of two matrices in shared memory, and the sums that a thread makes of them: rows and columns are spread so that
   neighbouring threads read neighbouring rows of W from different banks. */
template <int BM, int BN, int BK, int TM, int TN>
struct mailp_cuda_tile {
    static constexpr int NT = (BM / TM) * (BN / TN); /* threads */
    float X[BM][BK + 4], W[BN][BK + 4];              /* + 4: rows start in different banks, float4 aligned */

    static __device__ __forceinline__ int row(int tid, int i) {
        return tid / (BN / TN) + i * (BM / TM);
    }
    static __device__ __forceinline__ int col(int tid, int j) {
        return tid % (BN / TN) + j * (BN / TN);
    }
    /* sum[i][j] += X[row i] . W[col j] */
    __device__ __forceinline__ void multiply(float (&sum)[TM][TN], int tid) const {
#pragma unroll 4
        for (int k = 0; k < BK; k += 4) {
            float4 w[TN];
#pragma unroll
            for (int j = 0; j < TN; j++) {
                w[j] = *(const float4 *)&W[col(tid, j)][k];
            }
#pragma unroll
            for (int i = 0; i < TM; i++) {
                const float4 x = *(const float4 *)&X[row(tid, i)][k];
#pragma unroll
                for (int j = 0; j < TN; j++) {
                    sum[i][j] += x.x * w[j].x + x.y * w[j].y + x.z * w[j].z + x.w * w[j].w;
                }
            }
        }
    }
};

enum { MAILP_CUDA_IDENTITY, MAILP_CUDA_GELU };

struct mailp_cuda_linear_args {
    float       *Y;                /* [M][ldy], columns 0..N-1 are written; may be add */
    const float *X;                /* [M][ldx] */
    const float *W;                /* [N][K], as in the checkpoint */
    const float *bias;             /* [N] or NULL */
    const float *norm_w, *norm_b;  /* [K] LayerNorm gain (NULL: no norm) and bias (may be NULL), norm_eps 1e-5 */
    const float *add, *add2;       /* [M][N] or NULL: residual stream, ED-Ma's cond */
    int          M, N, K, ldx, ldy, act;
};

template <int BM, int BN, int BK, int TM, int TN>
struct mailp_cuda_linear_shared {
    mailp_cuda_tile<BM, BN, BK, TM, TN> tile;
    float                               mean[BM], inv[BM];
};

/* One block owns BM rows and BN columns of Y and walks over K in pieces of BK; a thread owns TM x TN sums. Two shapes are
   used: 16 x 16 x 128 for the few rows of a denoising step (many blocks, few barriers), 64 x 32 x 32 for everything wide. */
template <int BM, int BN, int BK, int TM, int TN>
static __global__ void __launch_bounds__((BM / TM) * (BN / TN)) mailp_cuda_linear(mailp_cuda_linear_args p) {
    typedef mailp_cuda_linear_shared<BM, BN, BK, TM, TN> Shared;
    constexpr int NT = (BM / TM) * (BN / TN);
    MAILP_CUDA_SHARED(Shared, s);
    const int tid = (int)threadIdx.x, lane = tid & 31, warp = tid >> 5;
    const int m0 = (int)blockIdx.x * BM, n0 = (int)blockIdx.y * BN;

    mailp_dev_wait();
    if (p.norm_w) {
        for (int i = warp; i < BM; i += NT / 32) {
            const int    m = m0 + i < p.M ? m0 + i : p.M - 1;
            const float *x = p.X + (size_t)m * p.ldx;
            float        sum = 0.0f, sq = 0.0f;
            for (int k = lane; k < p.K; k += 32) {
                sum += x[k];
            }
            const float mean = mailp_dev_sum<32>(sum) / (float)p.K;
            for (int k = lane; k < p.K; k += 32) {
                sq += (x[k] - mean) * (x[k] - mean);
            }
            sq = mailp_dev_sum<32>(sq);
            if (lane == 0) {
                s->mean[i] = mean;
                s->inv[i] = 1.0f / sqrtf(sq / (float)p.K + 1e-5f);
            }
        }
        __syncthreads();
    }

    float sum[TM][TN] = {};
    for (int k0 = 0; k0 < p.K; k0 += BK) {
        for (int i = tid; i < BM * BK; i += NT) {
            const int r = i / BK, k = k0 + i % BK;
            float     v = 0.0f;
            if (m0 + r < p.M && k < p.K) {
                v = p.X[(size_t)(m0 + r) * p.ldx + k];
                if (p.norm_w) {
                    v = (v - s->mean[r]) * s->inv[r] * p.norm_w[k] + (p.norm_b ? p.norm_b[k] : 0.0f);
                }
            }
            s->tile.X[r][i % BK] = v;
        }
        for (int i = tid; i < BN * BK; i += NT) {
            const int c = i / BK, k = k0 + i % BK;
            s->tile.W[c][i % BK] = n0 + c < p.N && k < p.K ? p.W[(size_t)(n0 + c) * p.K + k] : 0.0f;
        }
        __syncthreads();
        s->tile.multiply(sum, tid);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < TN; j++) {
            const int m = m0 + s->tile.row(tid, i), n = n0 + s->tile.col(tid, j);
            if (m < p.M && n < p.N) {
                float v = sum[i][j] + (p.bias ? p.bias[n] : 0.0f);
                if (p.act == MAILP_CUDA_GELU) {
                    v = mailp_dev_gelu(v);
                }
                if (p.add2) {
                    v += p.add2[(size_t)m * p.N + n];
                }
                if (p.add) {
                    v += p.add[(size_t)m * p.N + n];
                }
                p.Y[(size_t)m * p.ldy + n] = v;
            }
        }
    }
}

struct mailp_cuda_layer_norm_args {
    float       *Y;                /* [M][K]; may be X */
    const float *X;
    const float *norm_w, *norm_b;  /* [K]; norm_b may be NULL */
    int          M, K;
};

/* Y = layer_norm(X). One warp owns one row. */
static __global__ void __launch_bounds__(128) mailp_cuda_layer_norm(mailp_cuda_layer_norm_args p) {
    const int lane = (int)threadIdx.x & 31, m = (int)blockIdx.x * 4 + ((int)threadIdx.x >> 5);
    mailp_dev_wait();
    if (m >= p.M) {
        return;
    }
    const float *x = p.X + (size_t)m * p.K;
    float        sum = 0.0f, sq = 0.0f;
    for (int k = lane; k < p.K; k += 32) {
        sum += x[k];
    }
    const float mean = mailp_dev_sum<32>(sum) / (float)p.K;
    for (int k = lane; k < p.K; k += 32) {
        sq += (x[k] - mean) * (x[k] - mean);
    }
    const float inv = 1.0f / sqrtf(mailp_dev_sum<32>(sq) / (float)p.K + 1e-5f);
    for (int k = lane; k < p.K; k += 32) {
        p.Y[(size_t)m * p.K + k] = (x[k] - mean) * inv * p.norm_w[k] + (p.norm_b ? p.norm_b[k] : 0.0f);
    }
}

/* ====================================================================================================================
   >>mamba   what lies between in_proj and out_proj

   Sequences are numbered q = step * robots + robot, so that one step of all robots is contiguous.
   ================================================================================================================= */

/* State of one Mamba layer after some tokens: the last d_conv - 1 inputs of conv1d, oldest first, and the ssm_state.
   Channels are cut into slices, as the blocks of a cluster will read them (slice = d_inner for the plain path):
       [sequence][d_inner / slice] of { conv [d_conv - 1][slice], ssm_state [slice][d_state] } */
struct mailp_cuda_state {
    int d_inner, d_state, d_conv, slice;

    __device__ __forceinline__ size_t begin(int q, int c) const {
        return ((size_t)q * (d_inner / slice) + c / slice) * (size_t)(slice * (d_conv - 1 + d_state));
    }
    __device__ __forceinline__ size_t conv(int q, int row, int c) const {
        return begin(q, c) + row * slice + c % slice;
    }
    __device__ __forceinline__ size_t ssm(int q, int n, int c) const {
        return begin(q, c) + (d_conv - 1) * slice + c % slice * d_state + n;
    }
};

struct mailp_cuda_mixer_args {
    float       *y;           /* [sequences][L][d_inner]   out, gated; zeros for tokens past the end of a sequence */
    float       *state_out;   /* state after the last token, or NULL */
    const float *state_in;    /* state before the first token, or NULL: zeros; one for every `share` sequences */
    const float *xz;          /* [sequences][L][2 d_inner] from in_proj: x, then the gate z */
    const float *conv_w;      /* [d_conv][d_inner]         tap d_conv-1 multiplies the current token */
    const float *conv_b;      /* [d_inner] */
    const float *x_proj;      /* [dt_rank + 2 d_state][d_inner] */
    const float *dt_w, *dt_b; /* [dt_rank][d_inner], [d_inner] */
    const float *A2;          /* [d_state][d_inner]        -exp(A_log) * log2(e) */
    const float *D;           /* [d_inner] */
    const int   *states;      /* [robots] state tokens of each robot, or NULL: every sequence has L tokens */
    int          extra;       /* a sequence has states[robot] + extra tokens */
    int          robots, share, L, tile, d_inner, d_state, d_conv, dt_rank, slice_in, slice_out;
};

/*     u_l = silu(conv_b + sum_j conv_w[j] x_(l-(d_conv-1)+j))        dt, B, C = split(x_proj u_l)
       dt  = softplus(dt_w dt + dt_b)
       h_l = exp(dt A) h_(l-1) + dt B u_l,   y_l = (C . h_l + D u_l) silu(z_l)

   One block owns one sequence, a thread one channel (d_inner > threads: every threads-th) with its d_state states in
   registers; x_proj, whose sums run over all channels, is shared out over the warps, a warp per output row. Tokens come
   in tiles (u and x_proj of a tile live in shared memory); between tiles the state waits in state_out. */
template <int NS>
static __global__ void __launch_bounds__(NS <= 16 ? 512 : 256, 1) mailp_cuda_mixer(mailp_cuda_mixer_args p) {
    MAILP_CUDA_SHARED(float, shared);
    const int E = p.d_inner, N = p.d_state, R = p.dt_rank, K = p.d_conv, XP = R + 2 * N;
    const mailp_cuda_state in = {E, N, K, p.slice_in}, out = {E, N, K, p.slice_out};
    float    *u = shared, *xd = shared + (size_t)p.tile * E; /* [tile][E], [tile][XP] */
    const int tid = (int)threadIdx.x, NT = (int)blockDim.x, lane = tid & 31, warp = tid >> 5;
    const int q = (int)blockIdx.x, before = q / p.share;
    mailp_dev_wait();
    const int tokens = p.states ? p.states[q % p.robots] + p.extra : p.L;
    const float *xz = p.xz + (size_t)q * p.L * 2 * E;
    float       *y = p.y + (size_t)q * p.L * E;

    for (int t0 = 0; t0 < tokens; t0 += p.tile) {
        const int len = tokens - t0 < p.tile ? tokens - t0 : p.tile;
        for (int i = tid; i < len * E; i += NT) {
            const int l = t0 + i / E, c = i % E;
            float     v = p.conv_b[c];
            for (int j = 0; j < K; j++) {
                const int at = l - (K - 1) + j;
                float     x = 0.0f;
                if (at >= 0) {
                    x = xz[(size_t)at * 2 * E + c];
                } else if (p.state_in) {
                    x = p.state_in[in.conv(before, at + K - 1, c)];
                }
                v += p.conv_w[j * E + c] * x;
            }
            u[i] = mailp_dev_silu(v);
        }
        __syncthreads();
        for (int r = warp; r < XP; r += NT / 32) {
            const float *w = p.x_proj + (size_t)r * E;
            for (int l = 0; l < len; l++) {
                float v = 0.0f;
                for (int c = lane; c < E; c += 32) {
                    v += w[c] * u[l * E + c];
                }
                v = mailp_dev_sum<32>(v);
                if (lane == 0) {
                    xd[l * XP + r] = v;
                }
            }
        }
        __syncthreads();
        for (int c = tid; c < E; c += NT) {
            float        h[NS], A2[NS];
            const float *from = t0 ? p.state_out : p.state_in;
            const mailp_cuda_state &at = t0 ? out : in;
            const int    begin = t0 ? q : before;
#pragma unroll
            for (int n = 0; n < NS; n++) {
                A2[n] = n < N ? p.A2[n * E + c] : 0.0f;
                h[n] = n < N && from ? from[at.ssm(begin, n, c)] : 0.0f;
            }
            for (int l = 0; l < len; l++) {
                const float *dbc = xd + l * XP;
                float        dt = p.dt_b[c];
                for (int r = 0; r < R; r++) {
                    dt += p.dt_w[r * E + c] * dbc[r];
                }
                dt = mailp_dev_softplus(dt);
                const float ul = u[l * E + c], du = dt * ul;
                float       yl = p.D[c] * ul;
#pragma unroll
                for (int n = 0; n < NS; n++) {
                    if (n < N) {
                        h[n] = mailp_dev_ex2(dt * A2[n]) * h[n] + du * dbc[R + n];
                        yl += h[n] * dbc[R + N + n];
                    }
                }
                y[(size_t)(t0 + l) * E + c] = yl * mailp_dev_silu(xz[(size_t)(t0 + l) * 2 * E + E + c]);
            }
            if (p.state_out) {
#pragma unroll
                for (int n = 0; n < NS; n++) {
                    if (n < N) {
                        p.state_out[out.ssm(q, n, c)] = h[n];
                    }
                }
            }
        }
        __syncthreads();
    }
    for (int i = tokens * E + tid; i < p.L * E; i += NT) {
        y[i] = 0.0f;
    }
    if (p.state_out) {
        for (int i = tid; i < (K - 1) * E; i += NT) {
            const int at = tokens - (K - 1) + i / E, c = i % E;
            float     x = 0.0f;
            if (at >= 0) {
                x = xz[(size_t)at * 2 * E + c];
            } else if (p.state_in) {
                x = p.state_in[in.conv(before, at + K - 1, c)];
            }
            p.state_out[out.conv(q, i / E, c)] = x;
        }
    }
}

/* ====================================================================================================================
   >>attention   softmax(q k / sqrt(head_dim)) v over a cache and, causally, over the tokens themselves
   ================================================================================================================= */

struct mailp_cuda_attend_args {
    float       *y;                /* [sequences][L][d]          out */
    const float *q;                /* [sequences][L] rows of ld_own */
    const float *k, *v;            /* the same rows; NULL: only the cache is attended to */
    const float *cache_k, *cache_v; /* [sequences][cache_rows] rows of ld_cache, or NULL */
    const int   *states;           /* [robots]; a cache holds states[robot] + extra tokens */
    int          extra, robots, L, d, head_dim, ld_own, cache_rows, ld_cache, accumulate;
    float        scale;            /* 1 / sqrt(head_dim) */
};

/* One block owns one sequence and one head, a warp one query at a time. Scores lie in shared memory, [warp][keys]; for
   them a lane owns a key, for the weighted sum a lane owns channels. Keys come in the order cache, own tokens 0..i. */
static __global__ void __launch_bounds__(128) mailp_cuda_attend(mailp_cuda_attend_args p) {
    MAILP_CUDA_SHARED(float, shared);
    const int    lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, warps = (int)blockDim.x >> 5;
    const int    q = (int)blockIdx.x, at = (int)blockIdx.y * p.head_dim;
    mailp_dev_wait();
    const int    cached = p.cache_k ? (p.states ? p.states[q % p.robots] + p.extra : p.cache_rows) : 0;
    float       *score = shared + (size_t)warp * (p.cache_rows + p.L);
    const size_t own0 = (size_t)q * p.L * p.ld_own + at, cache0 = (size_t)q * p.cache_rows * p.ld_cache + at;

    for (int i = warp; i < p.L; i += warps) {
        const float *query = p.q + own0 + (size_t)i * p.ld_own;
        const int    keys = cached + (p.k ? i + 1 : 0);
        float        top = -INFINITY, sum = 0.0f;
        for (int j = lane; j < keys; j += 32) {
            const float *key =
                j < cached ? p.cache_k + cache0 + (size_t)j * p.ld_cache : p.k + own0 + (size_t)(j - cached) * p.ld_own;
            float v = 0.0f;
            for (int e = 0; e < p.head_dim; e++) {
                v += query[e] * key[e];
            }
            score[j] = v * p.scale;
            top = fmaxf(top, score[j]);
        }
        top = mailp_dev_max32(top);
        for (int j = lane; j < keys; j += 32) {
            score[j] = mailp_dev_ex2(MAILP_CUDA_LOG2E * (score[j] - top));
            sum += score[j];
        }
        sum = mailp_dev_sum<32>(sum);
        __syncwarp(); /* scores are seen by all lanes (unseen by test_faults: on the CPU a shuffle orders memory too) */
        for (int e = lane; e < p.head_dim; e += 32) {
            float v = 0.0f;
            for (int j = 0; j < keys; j++) {
                v += score[j] * (j < cached ? p.cache_v[cache0 + (size_t)j * p.ld_cache + e]
                                            : p.v[own0 + (size_t)(j - cached) * p.ld_own + e]);
            }
            float *out = p.y + ((size_t)q * p.L + i) * p.d + at + e;
            v /= sum;
            *out = p.accumulate ? *out + v : v;
        }
        __syncwarp(); /* before the next query overwrites the scores */
    }
}

/* ====================================================================================================================
   >>tokens   histories and tables -> the token rows that the trunks read

   Robots may be at different ages: robot b has states[b] state tokens (language, then its frames, oldest first), at most
   T = obs_seq + lang. Rows past the end of a sequence are zeros; no kernel lets them reach another row.
   ================================================================================================================= */

/* The history of all robots, in device memory; changed by mailp_cuda_age and mailp_cuda_forget. */
struct mailp_cuda_history {
    float *ring;    /* [robots][obs_seq][state_dim] features; slot i is written by the i-th frame, modulo obs_seq */
    float *goal;    /* [robots][state_dim] the language token, or NULL */
    int   *head;    /* [robots] slot of the next frame */
    int   *states;  /* [robots] lang + frames in the ring */
    int   *fault;   /* [robots][2] host memory that the device sees: 1 after an observation, an action that is not finite */
    int    robots, obs_seq, state_dim, lang;
};

/* A frame's features are in the ring: count it. One thread per robot. */
static __global__ void mailp_cuda_age(mailp_cuda_history h) {
    mailp_dev_wait();
    for (int b = (int)threadIdx.x; b < h.robots; b += (int)blockDim.x) {
        h.head[b] = (h.head[b] + 1) % h.obs_seq;
        if (h.states[b] < h.obs_seq + h.lang) {
            h.states[b]++;
        }
    }
}

/* Put features [robots][n] at column `at` of each robot's next slot. One block per robot. */
struct mailp_cuda_put_args {
    mailp_cuda_history h;
    const float       *features;
    int                n, at;
};
static __global__ void mailp_cuda_put(mailp_cuda_put_args p) {
    const int b = (int)blockIdx.x;
    mailp_dev_wait(); /* unseen by test_faults: features come before its graph */
    float    *slot = p.h.ring + ((size_t)b * p.h.obs_seq + p.h.head[b]) * p.h.state_dim + p.at;
    for (int i = (int)threadIdx.x; i < p.n; i += (int)blockDim.x) {
        const float v = p.features[(size_t)b * p.n + i];
        slot[i] = v;
        if (!(fabsf(v) <= FLT_MAX)) {
            p.h.fault[2 * b] = 1;
        }
    }
}

/* obs [robots][T][state_dim]: language, then the frames in order, then zeros. One block per row. */
struct mailp_cuda_window_args {
    float             *obs;
    mailp_cuda_history h;
};
static __global__ void mailp_cuda_window(mailp_cuda_window_args p) {
    const int    T = p.h.obs_seq + p.h.lang, b = (int)blockIdx.x / T, i = (int)blockIdx.x % T;
    mailp_dev_wait(); /* unseen by test_faults: the first of its graph, it has nothing to wait for */
    const int    frames = p.h.states[b] - p.h.lang, frame = i - p.h.lang;
    const float *from = NULL;
    if (frame < 0) {
        from = p.h.goal + (size_t)b * p.h.state_dim;
    } else if (frame < frames) {
        const int slot = (p.h.head[b] - frames + frame + p.h.obs_seq) % p.h.obs_seq;
        from = p.h.ring + ((size_t)b * p.h.obs_seq + slot) * p.h.state_dim;
    }
    for (int e = (int)threadIdx.x; e < p.h.state_dim; e += (int)blockDim.x) {
        p.obs[(size_t)blockIdx.x * p.h.state_dim + e] = from ? from[e] : 0.0f;
    }
}

/* Rows of the observation trunk, X [steps * robots][P][d]: the time token of the step (if time is given), the state
   tokens with their positions, then the rows of a learned table (if given), then zeros. One block per row. */
struct mailp_cuda_prefix_args {
    float       *X;
    const float *time;   /* [steps][d] or NULL */
    const float *tok;    /* [robots][T][d] state tokens before positions */
    const float *pos;    /* [pos_rows][d] */
    const float *table;  /* [n_table][d] or NULL */
    const int   *states;
    int          robots, T, P, d, n_table;
};
static __global__ void mailp_cuda_prefix(mailp_cuda_prefix_args p) {
    const int q = (int)blockIdx.x / p.P, r = (int)blockIdx.x % p.P, b = q % p.robots;
    mailp_dev_wait();
    const int i = p.time ? r - 1 : r, j = i - p.states[b];
    for (int e = (int)threadIdx.x; e < p.d; e += (int)blockDim.x) {
        float v = 0.0f;
        if (i < 0) {
            v = p.time[(size_t)(q / p.robots) * p.d + e];
        } else if (j < 0) {
            v = p.tok[((size_t)b * p.T + i) * p.d + e] + p.pos[(size_t)i * p.d + e];
        } else if (p.table && j < p.n_table) {
            v = p.table[(size_t)j * p.d + e];
        }
        p.X[(size_t)blockIdx.x * p.d + e] = v;
    }
}

/* Y [sequences][n][d] = rows first.. of each sequence of X [sequences][rows][d]; first = skip + (states[robot] if given).
   With one_table, X is a single table [rows][d] that all sequences read. One block per row of Y. */
struct mailp_cuda_rows_args {
    float       *Y;
    const float *X;
    const int   *states;
    int          robots, rows, n, d, skip, one_table;
};
static __global__ void mailp_cuda_rows(mailp_cuda_rows_args p) {
    const int q = (int)blockIdx.x / p.n, r = (int)blockIdx.x % p.n;
    mailp_dev_wait();
    const int row = r + p.skip + (p.states ? p.states[q % p.robots] : 0);
    for (int e = (int)threadIdx.x; e < p.d; e += (int)blockDim.x) {
        const size_t at = ((size_t)(p.one_table ? 0 : q) * p.rows + row) * p.d + e;
        p.Y[(size_t)blockIdx.x * p.d + e] = row < p.rows ? p.X[at] : 0.0f;
    }
}

/* ====================================================================================================================
   >>sampler   what happens to the actions between two passes through the trunk

       noise  = action_pred(norm_f(r))                       x_start = clamp(recip x - recipm1 noise, lo, hi)
       x      = coef1 x_start + coef2 x + sigma z            next tokens u = action_emb(x) + pos
   ================================================================================================================= */

struct mailp_cuda_draw_args {
    float          *x, *noise;   /* [robots][n] for call 0, [calls][robots][n] for the calls after it */
    const uint32_t *plans;       /* [robots] */
    uint64_t        seed;
    int             robots, n, first, calls; /* calls first .. first + calls - 1 are wanted */
};

/* The numbers that mail_noise of mail.h gives for (seed, robot, plans[robot], call): Philox 4x32-10 on counters, then
   Box-Muller in double; only the last bit of a double may differ from the CPU's. One thread makes four neighbours. */
static __global__ void __launch_bounds__(128) mailp_cuda_draw(mailp_cuda_draw_args p) {
    const int quads = (p.n + 3) / 4, i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= quads * p.robots * p.calls) {
        return;
    }
    const int      quad = i % quads, robot = i / quads % p.robots, call = p.first + i / quads / p.robots;
    uint32_t       c0 = (uint32_t)quad, c1 = (uint32_t)call, c2 = p.plans[robot], c3 = (uint32_t)robot;
    uint32_t       k0 = (uint32_t)p.seed, k1 = (uint32_t)(p.seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xd2511f53u * c0, b = (uint64_t)0xcd9e8d57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    const uint32_t word[4] = {c0, c1, c2, c3};
    float         *to = (call ? p.noise + (size_t)(call - 1) * p.robots * p.n : p.x) + (size_t)robot * p.n + quad * 4;
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
        const double u = ((double)word[j] + 0.5) / 4294967296.0, angle = 6.283185307179586 * ((double)word[j + 1] / 4294967296.0);
        const double radius = sqrt(-2.0 * log(u));
        if (quad * 4 + j < p.n) {
            to[j] = (float)(radius * cos(angle));
        }
        if (quad * 4 + j + 1 < p.n) {
            to[j + 1] = (float)(radius * sin(angle));
        }
    }
}

/* Everything that is the same for all denoiser calls. */
struct mailp_cuda_sampler {
    float       *x;              /* [robots][A][D] the noisy actions; holds x_T at the start */
    float       *u;              /* [robots][A][d] next tokens; also the residual stream that the trunk works in */
    float       *actions;        /* [robots][A][D] the chunk, in the robot's units; written by the last call */
    const float *noise;          /* [calls][robots][A][D] */
    const float *norm_w, *norm_b; /* final norm of the trunk, [d]; norm_b may be NULL */
    const float *pred_w, *pred_b; /* action_pred [D][d], [D] */
    const float *emb_w, *emb_b;  /* action_emb [d][D], [d] */
    const float *pos;            /* [pos_rows][d] */
    const float *lo, *hi;        /* [D] clipping box of normalised actions */
    const float *std, *mean;     /* [D] inverse scaler; std NULL: none */
    const float *table;          /* [steps][5] recip, recipm1, coef1, coef2, sigma; DDIM has sigma 0 and coefficients of its own */
    const int   *states;         /* [robots] */
    float       *trace_noise, *trace_x_start, *trace_x, *trace_norm; /* [calls][robots][A][D] or NULL; tests look here */
    int          robots, A, D, d, ddpm, clip, predict_noise;
};

struct mailp_cuda_denoise_args {
    mailp_cuda_sampler s;
    int                call;     /* -1: nothing predicted yet, only embed x */
    int                step;     /* row of the table */
    int                last;
};

/* One warp owns one action row (robot b, action j): lanes share d_model for norm and sums. Products of the update are
   rounded one by one, as the CPU does, since recip and recipm1 reach 325 and cancel. */
static __global__ void __launch_bounds__(128) mailp_cuda_denoise(mailp_cuda_denoise_args p) {
    const mailp_cuda_sampler &s = p.s;
    const int                 lane = (int)threadIdx.x & 31, row = (int)blockIdx.x * 4 + ((int)threadIdx.x >> 5);
    const int                 d = s.d, D = s.D, all = s.robots * s.A;
    mailp_dev_wait();
    if (row >= all) {
        return; /* the whole warp leaves; no block barrier below */
    }
    const int b = row / s.A, j = row % s.A;
    float    *u = s.u + (size_t)row * d, *x = s.x + (size_t)row * D;
    if (p.call >= 0) {
        float sum = 0.0f, sq = 0.0f;
        for (int e = lane; e < d; e += 32) {
            sum += u[e];
        }
        const float mean = mailp_dev_sum<32>(sum) / (float)d;
        for (int e = lane; e < d; e += 32) {
            sq += (u[e] - mean) * (u[e] - mean);
        }
        const float  inv = 1.0f / sqrtf(mailp_dev_sum<32>(sq) / (float)d + 1e-5f);
        const size_t at = ((size_t)p.call * all + row) * D;
        const float *c = s.table + p.step * 5;
        for (int a = 0; a < D; a++) {
            float v = 0.0f;
            for (int e = lane; e < d; e += 32) {
                const float n = (u[e] - mean) * inv * s.norm_w[e] + (s.norm_b ? s.norm_b[e] : 0.0f);
                v += s.pred_w[(size_t)a * d + e] * n;
            }
            v = mailp_dev_finite(mailp_dev_sum<32>(v) + s.pred_b[a]);
            if (lane == 0 && !s.ddpm) {
                x[a] = v;
            } else if (lane == 0) {
                const float x_t = x[a];
                float       x_start = v;
                if (s.predict_noise) {
                    x_start = __fsub_rn(__fmul_rn(c[0], x_t), __fmul_rn(c[1], v));
                }
                if (s.clip) {
                    x_start = mailp_dev_clamp(x_start, s.lo[a], s.hi[a]);
                }
                float next = __fadd_rn(__fmul_rn(c[2], x_start), __fmul_rn(c[3], x_t));
                if (c[4] > 0.0f) {
                    next = __fadd_rn(next, __fmul_rn(c[4], s.noise[at + a]));
                }
                if (s.trace_noise) {
                    s.trace_noise[at + a] = v;
                    s.trace_x_start[at + a] = x_start;
                    s.trace_x[at + a] = next;
                }
                x[a] = next;
            }
            if (lane == 0 && p.last) {
                const float y = s.ddpm ? mailp_dev_clamp(mailp_dev_finite(x[a]), s.lo[a], s.hi[a]) : x[a];
                s.actions[(size_t)row * D + a] = s.std ? __fadd_rn(__fmul_rn(y, s.std[a]), s.mean[a]) : y;
                if (s.trace_norm) {
                    s.trace_norm[(size_t)row * D + a] = y;
                }
            }
        }
        __syncwarp(); /* lane 0's x, and everyone's last look at u */
    }
    if (!p.last) {
        const float *pos = s.pos + (size_t)(s.states[b] - 1 + j) * d; /* the last state and action 0 share a position */
        for (int e = lane; e < d; e += 32) {
            float v = s.emb_b[e];
            for (int a = 0; a < D; a++) {
                v += s.emb_w[(size_t)e * D + a] * x[a];
            }
            u[e] = v + pos[e];
        }
    }
}

/* ---- chunks: from what was predicted to what is given out ---- */

/* What is planned for each robot and how much of it has been given out; device memory. As in mail.h. */
struct mailp_cuda_chunks {
    const float *actions;    /* [robots][A][D] what the latest plan predicted, in the robot's units */
    float       *chunk;      /* [robots][A][D] the same within the limits: what is given out */
    float       *ensemble;   /* [robots][A plans][A][D] as predicted, a ring by plan; NULL: no ensembling */
    float       *last;       /* [robots][D] the last action given out */
    float       *given;      /* [robots][D] the same, for the copy to the caller */
    int         *used, *has_last, *ensemble_n; /* [robots] */
    uint32_t    *plans;      /* [robots] chunks planned since the reset: counter of the noise */
    const float *lo, *hi, *max_step; /* [D] limits, or NULL */
    const double *weight;    /* [A] exp(-decay i) of the i-th oldest chunk of an ensemble */
    int         *fault;      /* of mailp_cuda_history */
    int          robots, A, D, n_exec;
};

/* v within the limits of dimension j; previous is not-a-number if there is none, and then limits nothing. */
static __device__ __forceinline__ float mailp_dev_limit(const mailp_cuda_chunks &c, int j, float v, float previous) {
    if (c.max_step) {
        v = mailp_dev_clamp(v, previous - c.max_step[j], previous + c.max_step[j]);
    }
    v = c.lo && v < c.lo[j] ? c.lo[j] : v;
    return c.hi && v > c.hi[j] ? c.hi[j] : v;
}

struct mailp_cuda_commit_args {
    mailp_cuda_chunks c;
    int               all;   /* 0: only robots whose chunk is used up take the new one */
};

/* The plan becomes the present chunk. One block owns a robot, a thread a dimension with all its actions. */
static __global__ void __launch_bounds__(64) mailp_cuda_commit(mailp_cuda_commit_args p) {
    const mailp_cuda_chunks &c = p.c;
    const int                b = (int)blockIdx.x, tid = (int)threadIdx.x, used = c.used[b];
    const bool               active = p.all || used >= c.n_exec;
    const int                n = c.ensemble_n[b] - (c.ensemble_n[b] > 0 && used == 0); /* a chunk that gave nothing is replaced */
    for (int j = tid; j < c.D && active; j += (int)blockDim.x) {
        float previous = c.has_last[b] ? c.last[(size_t)b * c.D + j] : NAN;
        for (int i = 0; i < c.A; i++) {
            const size_t at = ((size_t)b * c.A + i) * c.D + j;
            const float  v = c.actions[at];
            if (!(fabsf(v) <= FLT_MAX)) {
                c.fault[2 * b + 1] = 1;
            }
            if (c.ensemble) { /* as predicted: the limits are for the mean */
                c.ensemble[(((size_t)b * c.A + n % c.A) * c.A + i) * c.D + j] = v;
            }
            const float given = mailp_dev_limit(c, j, v, previous);
            c.chunk[at] = given;
            previous = fabsf(given) <= FLT_MAX ? given : previous;
        }
    }
    __syncthreads(); /* everyone has read the counters */
    if (tid == 0 && active) {
        c.used[b] = 0;
        c.plans[b]++;
        c.ensemble_n[b] = n + 1;
    }
}

/* The next action of every robot. One block owns a robot, a thread a dimension. */
static __global__ void __launch_bounds__(64) mailp_cuda_give(mailp_cuda_chunks c) {
    const int b = (int)blockIdx.x, tid = (int)threadIdx.x, used = c.used[b], n = c.ensemble_n[b], oldest = n > c.A ? n - c.A : 0;
    const bool has_last = c.has_last[b] != 0;
    for (int j = tid; j < c.D; j += (int)blockDim.x) {
        float v = c.chunk[((size_t)b * c.A + used) * c.D + j];
        if (c.ensemble) { /* chunk number i was planned i actions after the first; its action n - 1 - i is meant for now */
            double sum = 0.0, weights = 0.0;
            for (int i = oldest; i < n; i++) {
                const double w = c.weight[i - oldest];
                sum += w * (double)c.ensemble[(((size_t)b * c.A + i % c.A) * c.A + (n - 1 - i)) * c.D + j];
                weights += w;
            }
            v = (float)(sum / weights);
        }
        v = mailp_dev_limit(c, j, v, has_last ? c.last[(size_t)b * c.D + j] : NAN);
        c.given[(size_t)b * c.D + j] = v;
        if (!(fabsf(v) <= FLT_MAX)) { /* also of a chunk whose plan was told of before */
            c.fault[2 * b + 1] = 1;
        }
        if (fabsf(v) <= FLT_MAX || !has_last) {
            c.last[(size_t)b * c.D + j] = v;
        }
    }
    __syncthreads();
    if (tid == 0) {
        c.has_last[b] = 1;
        c.used[b]++;
    }
}

/* Start over: robot `robot`, or all of them for -1, and then the noise too. One thread per robot. */
struct mailp_cuda_forget_args {
    mailp_cuda_history h;
    mailp_cuda_chunks  c;
    int                robot;
};
static __global__ void __launch_bounds__(128) mailp_cuda_forget(mailp_cuda_forget_args p) {
    for (int b = (int)threadIdx.x; b < p.h.robots; b += (int)blockDim.x) {
        if (p.robot < 0 || p.robot == b) {
            p.h.head[b] = 0;
            p.h.states[b] = p.h.lang;
            p.h.fault[2 * b] = p.h.fault[2 * b + 1] = 0;
            p.c.used[b] = p.c.n_exec;
            p.c.has_last[b] = p.c.ensemble_n[b] = 0;
            p.c.plans[b] = p.robot < 0 ? 0 : p.c.plans[b];
        }
    }
}

/* ====================================================================================================================
   >>scan   the selective scan over long sequences

       h_t = exp(dt_t A) h_(t-1) + dt_t B_t u_t          y_t = (C_t . h_t + D u_t) silu(z_t)

   The recurrence of one state is h -> a h + b with (a, b) = (exp(dt A), dt B u), and such maps compose associatively:
   first (a1, b1), then (a2, b2) is (a2 a1, a2 b1 + b2). So neighbouring lanes take a tile of tokens at once: each composes
   the 8 or 16 tokens that it owns, three to five shuffles scan the lanes, and each replays its tokens from the state it now
   knows. States exist in registers only; what is read from memory is read once per block, while the tile before it is at
   work, and nothing of size L x d_inner x d_state is stored. Source: arXiv 2312.00752, section 3.3.2.
   With channels enough to fill a GPU nothing is scanned: the warps of a block take turns along the sequence and hand the
   states on, see mailp_cuda_ring.
   ================================================================================================================= */

/* DS: d_state rounded up; CH channels a block; NG warps share the states of a channel. TL lanes of a warp share a tile of
   TL * ITEMS tokens, for CPL channels: what they read of B and C serves them all. */
template <int DS, int CH, int NG, int TL, int CPL, int ITEMS>
struct mailp_cuda_scan_shape {
    static constexpr int lanes = TL, channels = CPL, items = ITEMS;
    static constexpr int TILE = TL * ITEMS, OWN = 32 / TL * CPL /* channels of a warp */, NT = CH / OWN * NG * 32, SPG = DS / NG;
    static constexpr int SEGMENT = ITEMS + 4, ROW = TL * SEGMENT + 4; /* floats: lanes that read 16 bytes each, and threads that
                                                                         write neighbouring rows, meet different banks */
    static constexpr int NU = TILE * CH / NT, NB = TILE * DS / NT;    /* values of u (dt, z) and of B (C) that a thread fetches */
    static_assert(CH % OWN == 0 && DS % NG == 0 && NT % CH == 0 && NT % DS == 0, "every thread has as much to do");
    static_assert(SPG <= TL, "a lane keeps one state of each of its channels between tiles");
    struct shared {
        float u[CH][ROW], dt[CH][ROW], B[DS][ROW], C[DS][ROW], y[NG][CH][ROW];
    };
    static __device__ __forceinline__ int place(int t) { /* of token t in a row */
        return t / ITEMS * SEGMENT + t % ITEMS;
    }
};

struct mailp_cuda_scan_args {
    float       *y;            /* [batch][L][d_inner] */
    float       *state_out;    /* [batch][d_inner][d_state] after the last token, or NULL; may be state_in */
    const float *state_in;     /* the same before the first token, or NULL: zeros */
    const float *u, *dt;       /* [batch][L][d_inner] */
    const float *z;            /* [batch][L][d_inner] gate, or NULL: none */
    const float *A;            /* [d_inner][d_state], < 0 */
    const float *B, *C;        /* [batch][L][d_state] */
    const float *D;            /* [d_inner] or NULL: none */
    const float *dt_bias;      /* [d_inner] or NULL */
    int          L, d_inner, d_state, softplus;  /* softplus: dt becomes ln(1 + exp(dt + dt_bias)) here */
};

/* Neighbouring values from shared memory and into it, 16 bytes at a time, or 8. */
template <int N>
static __device__ __forceinline__ void mailp_dev_row(float (&v)[N], const float *from) {
    static_assert(N % 2 == 0, "whole pairs");
#pragma unroll
    for (int i = 0; i + 4 <= N; i += 4) {
        const float4 q = *(const float4 *)(from + i);
        v[i] = q.x;
        v[i + 1] = q.y;
        v[i + 2] = q.z;
        v[i + 3] = q.w;
    }
    if (N % 4) {
        const float2 q = *(const float2 *)(from + N - 2);
        v[N - 2] = q.x;
        v[N - 1] = q.y;
    }
}
template <int N>
static __device__ __forceinline__ void mailp_dev_put(float *to, const float (&v)[N]) {
    static_assert(N % 2 == 0, "whole pairs");
#pragma unroll
    for (int i = 0; i + 4 <= N; i += 4) {
        *(float4 *)(to + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
    }
    if (N % 4) {
        *(float2 *)(to + N - 2) = make_float2(v[N - 2], v[N - 1]);
    }
}

/* A tile: y of this lane's channels and tokens from this warp's states, and the states after it. */
template <class S>
static __device__ __forceinline__ void mailp_cuda_scan_tile(typename S::shared *s, int ch, int n0, int at, int group, const float (&A2)[S::channels],
                                                            float (&carry)[S::channels]) {
    constexpr int CPL = S::channels, ITEMS = S::items, TL = S::lanes;
    const int own = at * S::SEGMENT; /* place of its first token */
    float     dt[CPL][ITEMS], du[CPL][ITEMS], y[CPL][ITEMS], total[CPL];
#pragma unroll
    for (int k = 0; k < CPL; k++) {
        total[k] = 0.0f;
        mailp_dev_row(dt[k], &s->dt[ch + k][own]);
        mailp_dev_row(du[k], &s->u[ch + k][own]);
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            total[k] += dt[k][i];
            du[k][i] *= dt[k][i];
            y[k][i] = 0.0f;
        }
    }
#pragma unroll 1
    for (int n = 0; n < S::SPG; n++) {
        float B[ITEMS], C[ITEMS];
        mailp_dev_row(B, &s->B[n0 + n][own]);
        mailp_dev_row(C, &s->C[n0 + n][own]);
#pragma unroll
        for (int k = 0; k < CPL; k++) {
            const float An = __shfl_sync(0xffffffffu, A2[k], n, TL), before = __shfl_sync(0xffffffffu, carry[k], n, TL);
            float       a[ITEMS], b[ITEMS], sum = 0.0f, prod = mailp_dev_ex2(total[k] * An); /* (prod, sum): the map of this lane's tokens */
#pragma unroll
            for (int i = 0; i < ITEMS; i++) {
                a[i] = mailp_dev_ex2(dt[k][i] * An);
                b[i] = du[k][i] * B[i];
                sum = a[i] * sum + b[i];
            }
#pragma unroll
            for (int d = 1; d < TL; d <<= 1) { /* now of all tokens up to this lane's last */
                const float p0 = __shfl_up_sync(0xffffffffu, prod, d, TL), s0 = __shfl_up_sync(0xffffffffu, sum, d, TL);
                if (at >= d) {
                    sum = prod * s0 + sum;
                    prod *= p0;
                }
            }
            const float p0 = __shfl_up_sync(0xffffffffu, prod, 1, TL), s0 = __shfl_up_sync(0xffffffffu, sum, 1, TL);
            float       h = at ? p0 * before + s0 : before;
#pragma unroll
            for (int i = 0; i < ITEMS; i++) {
                h = a[i] * h + b[i];
                y[k][i] += h * C[i];
            }
            const float after = __shfl_sync(0xffffffffu, h, TL - 1, TL);
            if (at == n) {
                carry[k] = after;
            }
        }
    }
#pragma unroll
    for (int k = 0; k < CPL; k++) {
#pragma unroll
        for (int i = 0; i < ITEMS; i += 4) {
            *(float4 *)&s->y[group][ch + k][own + i] = make_float4(y[k][i], y[k][i + 1], y[k][i + 2], y[k][i + 3]);
        }
    }
}

/* One block owns CH channels of one sequence and walks over its tiles. A lane has TL - 1 companions, ITEMS neighbouring tokens,
   CPL channels and SPG states of each; between tiles it keeps state number `at` (its place among the companions) of them. */
template <int DS, int CH, int NG, int TL, int CPL, int ITEMS>
static __global__ void __launch_bounds__(mailp_cuda_scan_shape<DS, CH, NG, TL, CPL, ITEMS>::NT, 1) mailp_cuda_scan(mailp_cuda_scan_args p) {
    typedef mailp_cuda_scan_shape<DS, CH, NG, TL, CPL, ITEMS> S;
    typedef typename S::shared                                Shared;
    constexpr int NT = S::NT, SPG = S::SPG, TILE = S::TILE, NU = S::NU, NB = S::NB;
    MAILP_CUDA_SHARED(Shared, s);
    const int    tid = (int)threadIdx.x, lane = tid & 31, warp = tid >> 5;
    const int    at = lane % TL, ch = warp / NG * S::OWN + lane / TL * CPL, c0 = (int)blockIdx.x * CH, n0 = warp % NG * SPG;
    const size_t row0 = (size_t)blockIdx.y * (size_t)p.L;
    float        A2[CPL], carry[CPL]; /* of the state that this lane keeps */
    auto         mine = [&](int k) { return c0 + ch + k < p.d_inner && at < SPG && n0 + at < p.d_state; };
    auto         kept = [&](int k) { return ((size_t)blockIdx.y * p.d_inner + c0 + ch + k) * p.d_state + n0 + at; };
#pragma unroll
    for (int k = 0; k < CPL; k++) {
        A2[k] = mine(k) ? p.A[(size_t)(c0 + ch + k) * p.d_state + n0 + at] * MAILP_CUDA_LOG2E : 0.0f;
        carry[k] = mine(k) && p.state_in ? p.state_in[kept(k)] : 0.0f;
    }

    /* What this thread fetches of a tile: tokens tu, tu + NT / CH .. of channel cu, and tokens tb, tb + NT / DS .. of state nb. */
    const int   cu = tid % CH, tu = tid / CH, nb = tid % DS, tb = tid / DS;
    const int   lu = c0 + cu < p.d_inner ? p.L : 0, lb = nb < p.d_state ? p.L : 0; /* tokens that there are */
    const float bias = lu && p.dt_bias ? p.dt_bias[c0 + cu] : 0.0f, D = lu && p.D ? p.D[c0 + cu] : 0.0f;
    size_t      from = (row0 + tu) * p.d_inner + c0 + cu, from_b = (row0 + tb) * p.d_state + nb; /* of the tile; steps fit an int */
    const int   step = NT / CH * p.d_inner, step_b = NT / DS * p.d_state;
    float       u[NU], dt[NU], Du[NU], z[NU], B[NB], C[NB];
    auto        fetch = [&](int t0) {
        const float *fu = p.u + from, *fdt = p.dt + from, *fB = p.B + from_b, *fC = p.C + from_b;
#pragma unroll
        for (int i = 0; i < NU; i++) {
            const bool in = t0 + tu + i * (NT / CH) < lu;
            u[i] = in ? fu[i * step] : 0.0f;
            dt[i] = in ? fdt[i * step] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < NB; i++) {
            const bool in = t0 + tb + i * (NT / DS) < lb;
            B[i] = in ? fB[i * step_b] : 0.0f;
            C[i] = in ? fC[i * step_b] : 0.0f;
        }
    };

    fetch(0);
    for (int t0 = 0; t0 < p.L; t0 += TILE) {
        const float *fz = p.z ? p.z + from : NULL;
        float       *to = p.y + from;
        from += (size_t)TILE * p.d_inner;
        from_b += (size_t)TILE * p.d_state;
#pragma unroll
        for (int i = 0; i < NU; i++) {
            const int t = tu + i * (NT / CH);
            float     raw = dt[i] + bias;
            raw = p.softplus ? mailp_dev_softplus(raw) : raw;
            s->u[cu][S::place(t)] = u[i];
            s->dt[cu][S::place(t)] = t0 + t < lu ? raw : 0.0f; /* 0: h stays */
            Du[i] = D * u[i];
        }
#pragma unroll
        for (int i = 0; i < NB; i++) {
            s->B[nb][S::place(tb + i * (NT / DS))] = B[i];
            s->C[nb][S::place(tb + i * (NT / DS))] = C[i];
        }
        __syncthreads();
        if (t0 + TILE < p.L) {
            fetch(t0 + TILE);
        }
#pragma unroll
        for (int i = 0; i < NU; i++) {
            z[i] = fz && t0 + tu + i * (NT / CH) < lu ? fz[i * step] : 0.0f;
        }
        mailp_cuda_scan_tile<S>(s, ch, n0, at, warp % NG, A2, carry);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < NU; i++) {
            const int t = tu + i * (NT / CH);
            float     v = Du[i];
#pragma unroll
            for (int g = 0; g < NG; g++) {
                v += s->y[g][cu][S::place(t)];
            }
            if (t0 + t < lu) {
                to[i * step] = fz ? v * mailp_dev_silu(z[i]) : v;
            }
        }
        /* No barrier here: u, dt, B and C of the next tile are written by threads that have passed the one above, when
           nobody reads them any more; y of the next tile is written after the next barrier. */
    }
#pragma unroll
    for (int k = 0; k < CPL; k++) {
        if (mine(k) && p.state_out) {
            p.state_out[kept(k)] = carry[k];
        }
    }
}

/* The kernel for many channels with up to 16 states. One block owns CH channels of one sequence, and its warps stand in a ring:
   they take segments of ITEMS tokens in turn. A lane has a pair of channels and SPL states of each; four lanes have all the
   states of a pair, and eight pairs fill the warp.

   What does not depend on earlier states (softplus, exponentials, the map that all tokens of the segment make) a warp computes
   ahead into registers, while others are at work. Then it waits for the states that the warp before it leaves in shared memory,
   leaves their image to the next warp, an fma each, and does its tokens one after the other. So nothing is scanned over lanes, as
   it is in mailp_cuda_scan. What a lane reads of B and C serves two channels, and what it reads of dt and u SPL states, because
   shared memory delivers one register a cycle to one warp of an SM: with one channel a lane that was the limit (82% of its
   cycles on an H100). Then the way around the ring was, with some 330 cycles a segment however many blocks there were; that was
   with all fmas of the tokens on the way. */
struct mailp_cuda_ring {
    static constexpr int W = 8, NT = 32 * W, CH = 16, ITEMS = 8, DS = 16, SPL = DS / 4;
    static constexpr int OWN = ITEMS / 4;       /* tokens that a lane fetches and writes */
    static constexpr int ROW = 2 * ITEMS + 4;   /* floats: lanes of different pairs meet different banks */
    struct warp {
        float B[ITEMS][DS], C[ITEMS][DS];                /* of the segment at work; then of the next */
        float dt[CH / 2][ROW], du[CH / 2][ROW];          /* dt and dt u; the tokens of one channel, then of the other */
    };
    struct shared {
        mailp_cuda_bar      bar[W];                      /* the states for this warp's next segment are there */
        __align__(16) float state[W][2][32][SPL];        /* they */
        warp                of[W];
    };
};

static __global__ void __launch_bounds__(mailp_cuda_ring::NT, 1) mailp_cuda_scan_ring(mailp_cuda_scan_args p) {
    typedef mailp_cuda_ring    S;
    typedef typename S::shared Shared;
    constexpr int W = S::W, ITEMS = S::ITEMS, DS = S::DS, SPL = S::SPL, OWN = S::OWN;
    MAILP_CUDA_SHARED(Shared, s);
    const int    tid = (int)threadIdx.x, lane = tid & 31, warp = tid >> 5, q = lane % 4, pair = lane / 4, next = (warp + 1) % W;
    const int    ch = (int)blockIdx.x * S::CH + 2 * pair, n0 = q * SPL, own = q * OWN, segments = (p.L + ITEMS - 1) / ITEMS;
    const size_t row0 = (size_t)blockIdx.y * (size_t)p.L;
    S::warp     *mine = &s->of[warp];
    float        A2[2][SPL], bias[2], D[2];
    auto         there = [&](int k, int m) { return ch + k < p.d_inner && n0 + m < p.d_state; };
    auto         kept = [&](int k, int m) { return ((size_t)blockIdx.y * p.d_inner + ch + k) * p.d_state + n0 + m; };
#pragma unroll
    for (int k = 0; k < 2; k++) {
        bias[k] = ch + k < p.d_inner && p.dt_bias ? p.dt_bias[ch + k] : 0.0f;
        D[k] = ch + k < p.d_inner && p.D ? p.D[ch + k] : 0.0f;
#pragma unroll
        for (int m = 0; m < SPL; m++) {
            A2[k][m] = there(k, m) ? p.A[(size_t)(ch + k) * p.d_state + n0 + m] * MAILP_CUDA_LOG2E : 0.0f;
            if (warp == 0) {
                s->state[0][k][lane][m] = there(k, m) && p.state_in ? p.state_in[kept(k, m)] : 0.0f;
            }
        }
    }
    if (lane == 0) {
        mailp_dev_bar_init(&s->bar[warp]);
    }

    /* Of u and dt a lane fetches its own tokens into registers, of B and C a warp the segment into shared memory. `left`: tokens
       from the segment's first on, perhaps none. */
    const bool even = p.d_inner % 2 == 0 && (((uintptr_t)p.u | (uintptr_t)p.dt | (uintptr_t)p.y) & 7) == 0; /* pairs are float2 */
    const bool dense = p.d_state == DS && (((uintptr_t)p.B | (uintptr_t)p.C) & 15) == 0;                   /* rows are float4 */
    size_t     from = (row0 + (size_t)(warp * ITEMS + own)) * p.d_inner + ch, from_b = (row0 + (size_t)(warp * ITEMS)) * p.d_state;
    float      u[2][OWN], dt[2][OWN];
    auto       fetch = [&](int left) {
        const float *fu = p.u + from, *fdt = p.dt + from;
#pragma unroll
        for (int j = 0; j < OWN; j++) {
            u[0][j] = u[1][j] = dt[0][j] = dt[1][j] = 0.0f;
            if (own + j < left && ch < p.d_inner) {
                if (even) {
                    const float2 us = *(const float2 *)fu, dts = *(const float2 *)fdt;
                    u[0][j] = us.x;
                    u[1][j] = us.y;
                    dt[0][j] = dts.x;
                    dt[1][j] = dts.y;
                } else {
                    u[0][j] = fu[0];
                    dt[0][j] = fdt[0];
                    if (ch + 1 < p.d_inner) {
                        u[1][j] = fu[1];
                        dt[1][j] = fdt[1];
                    }
                }
            }
            fu += p.d_inner;
            fdt += p.d_inner;
        }
    };
    auto copy = [&](float *to, const float *rows, int left) {
        if (dense) {
            static_assert(ITEMS * DS == 4 * 32, "one piece a lane");
            const bool in = lane * 4 / DS < left;
            mailp_dev_copy<16>(to + lane * 4, in ? rows + from_b + lane * 4 : rows, in);
        } else {
#pragma unroll 1
            for (int i = lane; i < ITEMS * DS; i += 32) {
                const bool in = i / DS < left && i % DS < p.d_state;
                mailp_dev_copy<4>(to + i, in ? rows + from_b + i / DS * p.d_state + i % DS : rows, in);
            }
        }
        mailp_dev_copies_end();
    };
    fetch(p.L - warp * ITEMS);
    copy(mine->B[0], p.B, p.L - warp * ITEMS);
    copy(mine->C[0], p.C, p.L - warp * ITEMS);
    __syncthreads();
    if (tid == 0) {
        mailp_dev_bar_arrive(&s->bar[0]);
    }

    unsigned parity = 0;
    for (int seg = warp; seg < segments; seg += W) {
        const int    left = p.L - seg * ITEMS, left_next = left - ITEMS * W;
        const size_t at = from;
        float        v[2][OWN]; /* y of this lane's tokens; so far D u */
#pragma unroll
        for (int k = 0; k < 2; k++) {
            float step[OWN], du[OWN];
#pragma unroll
            for (int j = 0; j < OWN; j++) {
                const float raw = dt[k][j] + bias[k];
                step[j] = p.softplus ? mailp_dev_softplus(raw) : raw;
                if (left < ITEMS) {
                    step[j] = own + j < left ? step[j] : 0.0f; /* 0: h stays */
                }
                du[j] = step[j] * u[k][j];
                v[k][j] = D[k] * u[k][j];
            }
            mailp_dev_put(&mine->dt[pair][k * ITEMS + own], step);
            mailp_dev_put(&mine->du[pair][k * ITEMS + own], du);
        }
        from += (size_t)(ITEMS * W) * p.d_inner;
        from_b += (size_t)(ITEMS * W) * p.d_state;
        fetch(left_next);

        float a[ITEMS][2][SPL], b[ITEMS][2][SPL], h[2][SPL], prod[2][SPL], sum[2][SPL] = {}, total[2] = {}; /* (prod, sum): the map of all tokens */
        mailp_dev_copies_wait<1>(); /* B */
        __syncwarp();
#pragma unroll
        for (int i0 = 0; i0 < ITEMS; i0 += 4) {
            float step[2][4], du[2][4];
#pragma unroll
            for (int k = 0; k < 2; k++) {
                mailp_dev_row(step[k], &mine->dt[pair][k * ITEMS + i0]);
                mailp_dev_row(du[k], &mine->du[pair][k * ITEMS + i0]);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float B[SPL];
                mailp_dev_row(B, &mine->B[i0 + i][n0]);
#pragma unroll
                for (int k = 0; k < 2; k++) {
#pragma unroll
                    for (int m = 0; m < SPL; m++) {
                        a[i0 + i][k][m] = mailp_dev_ex2(step[k][i] * A2[k][m]);
                        b[i0 + i][k][m] = du[k][i] * B[m];
                        sum[k][m] = a[i0 + i][k][m] * sum[k][m] + b[i0 + i][k][m];
                    }
                    total[k] += step[k][i];
                }
            }
        }
#pragma unroll
        for (int k = 0; k < 2; k++) {
#pragma unroll
            for (int m = 0; m < SPL; m++) {
                prod[k][m] = mailp_dev_ex2(total[k] * A2[k][m]);
            }
        }
        __syncwarp();
        copy(mine->B[0], p.B, left_next);

        mailp_dev_bar_wait(&s->bar[warp], parity);
        parity ^= 1;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            mailp_dev_row(h[k], s->state[warp][k][lane]);
        }
        /* The next warp has read what it was left last time, or this one's states would not have come around. */
#pragma unroll
        for (int k = 0; k < 2; k++) {
#pragma unroll
            for (int m = 0; m < SPL; m++) {
                sum[k][m] = prod[k][m] * h[k][m] + sum[k][m];
            }
            mailp_dev_put(s->state[next][k][lane], sum[k]);
        }
        __syncwarp(); /* all lanes' (unseen by test_faults: there a warp runs until each of its lanes waits) */
        if (lane == 0) {
            mailp_dev_bar_arrive(&s->bar[next]);
        }
        if (left > 0) { /* always: without a branch the assembler begins with these, before the next warp knows */
#pragma unroll
            for (int i = 0; i < ITEMS; i++) {
#pragma unroll
                for (int k = 0; k < 2; k++) {
#pragma unroll
                    for (int m = 0; m < SPL; m++) {
                        h[k][m] = a[i][k][m] * h[k][m] + b[i][k][m];
                        b[i][k][m] = h[k][m]; /* for y */
                    }
                }
            }
        }

        float y[2][ITEMS];
        mailp_dev_copies_wait<1>(); /* C */
        __syncwarp();
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            float C[SPL];
            mailp_dev_row(C, &mine->C[i][n0]);
#pragma unroll
            for (int k = 0; k < 2; k++) {
                y[k][i] = b[i][k][0] * C[0];
#pragma unroll
                for (int m = 1; m < SPL; m++) {
                    y[k][i] += b[i][k][m] * C[m];
                }
            }
        }
        __syncwarp();
        copy(mine->C[0], p.C, left_next);
#pragma unroll
        for (int k = 0; k < 2; k++) { /* sums over the four lanes: each gives away the tokens that are not its own */
            mailp_dev_share_sums<4>(y[k], lane);
#pragma unroll
            for (int j = 0; j < OWN; j++) {
                v[k][j] += y[k][j];
            }
        }
        if (p.z) {
#pragma unroll
            for (int j = 0; j < OWN; j++) {
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    if (own + j < left && ch + k < p.d_inner) {
                        v[k][j] *= mailp_dev_silu(p.z[at + (size_t)(j * p.d_inner + k)]);
                    }
                }
            }
        }
#pragma unroll
        for (int j = 0; j < OWN; j++) {
            float *to = p.y + at + j * p.d_inner;
            if (own + j < left && ch < p.d_inner) {
                if (even) {
                    *(float2 *)to = make_float2(v[0][j], v[1][j]);
                } else {
                    to[0] = v[0][j];
                    if (ch + 1 < p.d_inner) {
                        to[1] = v[1][j];
                    }
                }
            }
        }
    }
    mailp_dev_copies_wait<0>(); /* zeros for a segment after the last */
    __syncthreads();
    if (warp == 0 && p.state_out) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
#pragma unroll
            for (int m = 0; m < SPL; m++) {
                if (there(k, m)) {
                    p.state_out[kept(k, m)] = s->state[segments % W][k][lane][m];
                }
            }
        }
    }
}

/* ====================================================================================================================
   >>vision   resnet18 with GroupNorm, spatial softmax

   Activations are [image][height][width][channel]. A convolution is a matrix product whose X rows are gathered on the
   fly, pixel by pixel; its epilogue leaves (mean, sum of squares about it) of every 16-channel group of its tile, and
   the kernel after it combines those of all tiles, normalises, adds the residual and applies ReLU. Sums of squares are
   taken about means (Chan's formula), so a constant picture does not cancel.
   ================================================================================================================= */

/* ---- pictures: any format and size that mail_observe takes -> [height][width][3], normalised ---- */

enum { MAILP_CUDA_PICTURES = 32 }; /* in one launch: their descriptions are arguments, of which there may be 4 KB */

struct mailp_cuda_picture {
    float               *to;      /* [H][W][3] */
    const unsigned char *data;    /* device memory */
    long long            stride;  /* bytes */
    int                  height, width, format, flip; /* of mail_image */
    int                  H, W;    /* what the camera's network takes */
};

struct mailp_cuda_prepare_args {
    const float       *table;            /* [3][256] normalised value of each byte */
    float              mean[3], std[3];  /* the same for floats */
    mailp_cuda_picture picture[MAILP_CUDA_PICTURES];
};

/* The pixel in row y from the picture's top and column x, 8 bits a channel; NV12 and YUYV as BT.601, limited range. */
static __device__ __forceinline__ void mailp_dev_pixel(int rgb[3], const mailp_cuda_picture &p, int y, int x) {
    const int            row = p.flip ? p.height - 1 - y : y;
    const unsigned char *at = p.data + row * p.stride;
    int                  luma, u, v;
    switch (p.format) {
    case MAIL_RGB8:
    case MAIL_RGBA8:
        at += x * (p.format == MAIL_RGB8 ? 3 : 4);
        rgb[0] = at[0];
        rgb[1] = at[1];
        rgb[2] = at[2];
        return;
    case MAIL_BGR8:
    case MAIL_BGRA8:
        at += x * (p.format == MAIL_BGR8 ? 3 : 4);
        rgb[0] = at[2];
        rgb[1] = at[1];
        rgb[2] = at[0];
        return;
    case MAIL_GRAY8:
        rgb[0] = rgb[1] = rgb[2] = at[x];
        return;
    case MAIL_YUYV:
        luma = at[2 * x];
        u = at[x / 2 * 4 + 1];
        v = at[x / 2 * 4 + 3];
        break;
    default: { /* MAIL_NV12: two rows share one row of U V pairs */
        const unsigned char *uv = p.data + (p.height + row / 2) * p.stride + x / 2 * 2;
        luma = at[x];
        u = uv[0];
        v = uv[1];
        break;
    }
    }
    luma = (luma - 16) * 76309 + 32768; /* coefficients in 1/65536 */
    u -= 128;
    v -= 128;
    const int c[3] = {(luma + 104597 * v) / 65536, (luma - 25675 * u - 53279 * v) / 65536, (luma + 132201 * u) / 65536};
#pragma unroll
    for (int i = 0; i < 3; i++) {
        rgb[i] = c[i] < 0 ? 0 : c[i] > 255 ? 255 : c[i];
    }
}

/* Value of a float picture; what mail.h refuses becomes not-a-number. */
static __device__ __forceinline__ float mailp_dev_value(const mailp_cuda_picture &p, int c, int y, int x) {
    const int   row = p.flip ? p.height - 1 - y : y;
    const float v = ((const float *)(const void *)(p.data + (c * (long long)p.height + row) * p.stride))[x];
    return MAILP_IMAGE_VALUE(v) ? v : NAN;
}

/* Output i of m samples made from n: a mean of `count` inputs from `first` on, by area to shrink, linear to enlarge; the
   same integers as in mail.h, see mailp_filter there. */
struct mailp_cuda_filter {
    int first, count, w_first, w_inner, w_last, total;
    __device__ __forceinline__ int weight(int k) const {
        return k == 0 ? w_first : k + 1 == count ? w_last : w_inner;
    }
};
static __device__ __forceinline__ mailp_cuda_filter mailp_dev_filter(int i, int n, int m) { /* n, m up to 16384: 32 bits do */
    mailp_cuda_filter f;
    f.w_inner = m;
    if (m <= n) {
        const int from = i * n, to = from + n, last = (to - 1) / m;
        f.first = from / m;
        f.count = last - f.first + 1;
        f.w_first = f.count == 1 ? n : (f.first + 1) * m - from;
        f.w_last = to - last * m;
        f.total = n;
    } else {
        const int at = (2 * i + 1) * n, rest = at < m ? 0 : (at - m) % (2 * m);
        f.total = 2 * m;
        f.first = at < m ? 0 : (at - m) / (2 * m);
        f.count = rest == 0 || f.first + 1 >= n ? 1 : 2;
        f.w_first = f.count == 1 ? 2 * m : 2 * m - rest;
        f.w_last = rest;
    }
    return f;
}

/* to = (u / 255 - mean) / std of the resized picture. blockIdx.y owns a picture, a thread a pixel of the result. Sums of
   bytes times weights are below 2^53; doubles of them are exact, whatever their order. */
static __global__ void __launch_bounds__(256) mailp_cuda_prepare(const __grid_constant__ mailp_cuda_prepare_args args) {
    const mailp_cuda_picture &p = args.picture[blockIdx.y];
    const int                 i = (int)(blockIdx.x * blockDim.x + threadIdx.x), x = i % p.W, y = i / p.W;
    if (i >= p.H * p.W) {
        return;
    }
    float     *to = p.to + (size_t)i * 3;
    const bool same = p.height == p.H && p.width == p.W, floats = p.format == MAIL_F32_PLANAR;
    if (same && floats) {
#pragma unroll
        for (int c = 0; c < 3; c++) {
            to[c] = (mailp_dev_value(p, c, y, x) - args.mean[c]) / args.std[c];
        }
        return;
    }
    int rgb[3];
    if (same) {
        mailp_dev_pixel(rgb, p, y, x);
    } else {
        const mailp_cuda_filter fy = mailp_dev_filter(y, p.height, p.H), fx = mailp_dev_filter(x, p.width, p.W);
        const double            total = (double)fx.total * fy.total;
        double                  sum[3] = {0.0, 0.0, 0.0};
        for (int k = 0; k < fy.count; k++) {
            double row[3] = {0.0, 0.0, 0.0};
            for (int j = 0; j < fx.count; j++) {
                const double w = fx.weight(j);
                if (!floats) {
                    mailp_dev_pixel(rgb, p, fy.first + k, fx.first + j);
                }
#pragma unroll
                for (int c = 0; c < 3; c++) {
                    row[c] += w * (floats ? (double)mailp_dev_value(p, c, fy.first + k, fx.first + j) : (double)rgb[c]);
                }
            }
#pragma unroll
            for (int c = 0; c < 3; c++) {
                sum[c] += fy.weight(k) * row[c] / (floats ? total : 1.0);
            }
        }
        if (floats) {
#pragma unroll
            for (int c = 0; c < 3; c++) {
                to[c] = ((float)sum[c] - args.mean[c]) / args.std[c];
            }
            return;
        }
#pragma unroll
        for (int c = 0; c < 3; c++) {
            rgb[c] = (int)(sum[c] / total + 0.5);
        }
    }
#pragma unroll
    for (int c = 0; c < 3; c++) {
        to[c] = args.table[256 * c + rgb[c]];
    }
}

/* ---- convolutions ---- */

struct mailp_cuda_conv_args {
    float       *out;     /* [images][HO * WO][CO] before normalisation */
    float       *stats;   /* [images][CO / 16][tiles][3] mean, sum of squares about it and number of each tile's part of a group */
    const float *in;      /* [images][H][W][CI] */
    const float *w;       /* [CO][size * size * CI], inputs ordered (ky, kx, channel) */
    int          H, W, CI, HO, WO, CO, size, stride, pad, tiles;
};

template <int BM, int BN, int BK, int TM, int TN>
struct mailp_cuda_conv_shared {
    mailp_cuda_tile<BM, BN, BK, TM, TN> tile;
    float                               out[BM][BN + 1];
    int                                 y[BM], x[BM]; /* where each pixel's window begins in the input */
};

/* One block owns BM pixels of one image (blockIdx.z) and BN channels, as in >>linear; a thread loads the same column k
   of every row, so the tap that k belongs to is found once per piece. */
template <int BM, int BN, int BK, int TM, int TN>
static __global__ void __launch_bounds__(128) mailp_cuda_conv(mailp_cuda_conv_args p) {
    typedef mailp_cuda_conv_shared<BM, BN, BK, TM, TN> Shared;
    constexpr int NT = 128;
    static_assert((BM / TM) * (BN / TN) == NT && NT % BK == 0 && BN % 16 == 0, "thread layout");
    MAILP_CUDA_SHARED(Shared, s);
    const int tid = (int)threadIdx.x, lane = tid & 31, warp = tid >> 5;
    const int m0 = (int)blockIdx.x * BM, n0 = (int)blockIdx.y * BN, img = (int)blockIdx.z;
    const int px = p.HO * p.WO, K = p.size * p.size * p.CI, len = px - m0 < BM ? px - m0 : BM;
    const int col = tid % BK;

    for (int r = tid; r < BM; r += NT) {
        s->y[r] = (m0 + r) / p.WO * p.stride - p.pad;
        s->x[r] = (m0 + r) % p.WO * p.stride - p.pad;
    }
    mailp_dev_wait();
    __syncthreads();

    float sum[TM][TN] = {};
    for (int k0 = 0; k0 < K; k0 += BK) {
        const int k = k0 + col, tap = k / p.CI, c = k % p.CI, ky = tap / p.size, kx = tap % p.size;
        for (int r = tid / BK; r < BM; r += NT / BK) {
            const int y = s->y[r] + ky, x = s->x[r] + kx;
            float     v = 0.0f;
            if (r < len && k < K && y >= 0 && y < p.H && x >= 0 && x < p.W) {
                v = p.in[(((size_t)img * p.H + y) * p.W + x) * p.CI + c];
            }
            s->tile.X[r][col] = v;
        }
        for (int r = tid / BK; r < BN; r += NT / BK) {
            s->tile.W[r][col] = n0 + r < p.CO && k < K ? p.w[(size_t)(n0 + r) * K + k] : 0.0f;
        }
        __syncthreads();
        s->tile.multiply(sum, tid);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < TN; j++) {
            s->out[s->tile.row(tid, i)][s->tile.col(tid, j)] = sum[i][j];
        }
    }
    __syncthreads();
    for (int i = tid; i < len * BN; i += NT) {
        if (n0 + i % BN < p.CO) {
            p.out[((size_t)img * px + m0 + i / BN) * p.CO + n0 + i % BN] = s->out[i / BN][i % BN];
        }
    }
    if (warp < BN / 16 && n0 + warp * 16 < p.CO) { /* a warp per group; all its lanes take the same branch */
        float v = 0.0f, sq = 0.0f;
        for (int i = lane; i < len * 16; i += 32) {
            v += s->out[i / 16][warp * 16 + i % 16];
        }
        const float mean = mailp_dev_sum<32>(v) / (float)(len * 16);
        for (int i = lane; i < len * 16; i += 32) {
            const float d = s->out[i / 16][warp * 16 + i % 16] - mean;
            sq += d * d;
        }
        sq = mailp_dev_sum<32>(sq);
        if (lane == 0) {
            float *at = p.stats + (((size_t)img * (p.CO / 16) + n0 / 16 + warp) * p.tiles + blockIdx.x) * 3;
            at[0] = mean;
            at[1] = sq;
            at[2] = (float)(len * 16);
        }
    }
}

/* relu?((v - mean) inv gain + bias + residual); not-a-number stays. */
static __device__ __forceinline__ float4 mailp_dev_normal(float4 v, float mean, float inv, float4 gain, float4 bias, float4 residual, int relu) {
    v.x = (v.x - mean) * inv * gain.x + bias.x + residual.x;
    v.y = (v.y - mean) * inv * gain.y + bias.y + residual.y;
    v.z = (v.z - mean) * inv * gain.z + bias.z + residual.z;
    v.w = (v.w - mean) * inv * gain.w + bias.w + residual.w;
    if (relu) {
        v.x = v.x < 0.0f ? 0.0f : v.x;
        v.y = v.y < 0.0f ? 0.0f : v.y;
        v.z = v.z < 0.0f ? 0.0f : v.z;
        v.w = v.w < 0.0f ? 0.0f : v.w;
    }
    return v;
}

enum { MAILP_CUDA_EYES = 4 }; /* most cameras of one launch */

/* Inputs of tensor cores are multiplied by this before they are split: what a half cannot hold of a value below 1/8 would
   otherwise be lost among the smallest halves (robot cameras: 1.2e-5 from mail.h without, 4e-6 with it). */
#define MAILP_CUDA_RAISE 16.0f

/* Four values as inputs of tensor cores: the first two as halves, what they lack, the last two, what they lack. */
template <bool SPLIT = true>
static __device__ __forceinline__ uint4 mailp_dev_halves(float4 v) {
    v.x *= MAILP_CUDA_RAISE;
    v.y *= MAILP_CUDA_RAISE;
    v.z *= MAILP_CUDA_RAISE;
    v.w *= MAILP_CUDA_RAISE;
    const uint32_t h0 = mailp_dev_half2(v.x, v.y), h1 = mailp_dev_half2(v.z, v.w);
    return make_uint4(h0, SPLIT ? mailp_dev_half2_rest(h0, v.x, v.y) : 0u, h1, SPLIT ? mailp_dev_half2_rest(h1, v.z, v.w) : 0u);
}

/* The maps of mailp_cuda_wide lie in memory ready for tensor cores: as halves hi and lo, times MAILP_CUDA_RAISE, 32 channels of a place
   together, and places in one line: [C / 32][hi, lo][Q] of 64 bytes, whose 16-byte pieces are in the order that mailp_dev_place says. A row of
   a picture is W places and one of zeros, a picture H rows below a row of zeros: what is left of a row's first place is the zero
   that ends the row above. So a tap of a 3x3 convolution is the same line, shifted, and all places of a tile are one product. What
   comes before a convolution with stride 2 is kept in four such maps of its output's size, of even and odd rows and columns (0: even,
   even; 1: even, odd; 2: odd, even; 3). Zeros are written once. */
struct mailp_cuda_line {
    int H, W, P, S, Q; /* of the pictures; places of a row, of a picture, of the whole line; the last a multiple of 8 */
};

/* Where 8 channels from `channel` on lie, of hi or lo, in units of 16 bytes: so that 8 neighbouring places are in different banks of
   shared memory, wherever they begin. */
static inline __host__ __device__ size_t mailp_dev_place(const mailp_cuda_line &line, int place, int channel, int lo) {
    return ((size_t)(channel / 32 * 2 + lo) * (size_t)line.Q + (size_t)place) * 4 + (size_t)((channel / 8 & 3) ^ (place >> 1 & 3));
}
enum {
    MAILP_CUDA_WIDE_PART = 32,   /* inputs in shared memory at once */
    MAILP_CUDA_WIDE_TAPS = 3,    /* and taps */
    MAILP_CUDA_WIDE_ROWS = 64,   /* channels of a block */
    MAILP_CUDA_WIDE_NT = 128,    /* threads: a warpgroup */
    MAILP_CUDA_WIDE_MOST = 152,  /* columns of the widest tile */
    MAILP_CUDA_WIDE_ROBOTS = 5   /* from so many on, with two cameras, it is faster than mailp_cuda_few */
};
static inline __host__ __device__ mailp_cuda_line mailp_cuda_line_of(int H, int W, int images) {
    return {H, W, W + 1, (H + 1) * (W + 1), (images * (H + 1) * (W + 1) + 2 * (W + 1) + 2 + MAILP_CUDA_WIDE_MOST + 16 + 7) / 8 * 8};
}

struct mailp_cuda_norm_args {
    struct {
        float       *out;         /* [images][HO][WO][C]; may be raw or residual unless pooling */
        const float *raw;         /* [images][H][W][C] from the convolution */
        const float *stats;       /* of the same */
        const float *gain, *bias; /* [C] */
        const float *residual;    /* [images][H][W][C] or NULL */
        uint4       *line;        /* in place of out, see mailp_cuda_line, or NULL */
    } eye[MAILP_CUDA_EYES];       /* blockIdx.z */
    int H, W, C, HO, WO, tiles, relu, pool, per_block;
    mailp_cuda_line line;
};

/* out = relu(group_norm(raw) + residual); with pool: max_pool2d(3, 2, 1) of that. One block owns per_block output pixels
   of one image with all channels. First each warp combines the tiles of a group: a lane takes every 32nd tile, then the
   lanes combine pairwise. */
static __global__ void __launch_bounds__(256) mailp_cuda_norm(const __grid_constant__ mailp_cuda_norm_args p) {
    MAILP_CUDA_SHARED(float, shared);
    const auto &eye = p.eye[blockIdx.z];
    const int tid = (int)threadIdx.x, lane = tid & 31, warp = tid >> 5, NT = (int)blockDim.x;
    const int img = (int)blockIdx.y, px = p.H * p.W, out_px = p.HO * p.WO, groups = p.C / 16;
    float    *mean = shared, *inv = shared + groups;

    mailp_dev_wait();
    for (int g = warp; g < groups; g += NT / 32) {
        float n = 0.0f, mu = 0.0f, m2 = 0.0f;
        for (int t = lane; t < p.tiles; t += 32) {
            const float *at = eye.stats + (((size_t)img * groups + g) * p.tiles + t) * 3;
            const float  more = at[2], d = at[0] - mu, all = n + more;
            mu += d * (more / all);
            m2 += at[1] + d * d * (n * more / all);
            n = all;
        }
#pragma unroll
        for (int o = 16; o; o >>= 1) {
            const float n1 = __shfl_down_sync(0xffffffffu, n, o), mu1 = __shfl_down_sync(0xffffffffu, mu, o);
            const float m21 = __shfl_down_sync(0xffffffffu, m2, o), all = n + n1, d = mu1 - mu;
            if (n1 > 0.0f) {
                mu += d * (n1 / all);
                m2 += m21 + d * d * (n * n1 / all);
                n = all;
            }
        }
        if (lane == 0) {
            mean[g] = mu;
            inv[g] = 1.0f / sqrtf(m2 / n + 1e-5f);
        }
    }
    __syncthreads();
    const int first = (int)blockIdx.x * p.per_block;
    const int count = out_px - first < p.per_block ? out_px - first : p.per_block;
    if (p.pool) {
        for (int i = tid; i < count * p.C; i += NT) {
            const int    at = first + i / p.C, c = i % p.C, y0 = at / p.WO * 2 - 1, x0 = at % p.WO * 2 - 1;
            const float  scale = inv[c / 16] * eye.gain[c], mu = mean[c / 16];
            const float *raw = eye.raw + (size_t)img * px * p.C + c;
            float        v = 0.0f; /* after ReLU nothing is smaller */
            for (int y = y0 < 0 ? 0 : y0; y < y0 + 3 && y < p.H; y++) {
                for (int x = x0 < 0 ? 0 : x0; x < x0 + 3 && x < p.W; x++) {
                    const float r = (raw[((size_t)y * p.W + x) * p.C] - mu) * scale + eye.bias[c];
                    v = mailp_dev_larger(v, r);
                }
            }
            eye.out[((size_t)img * out_px + at) * p.C + c] = v;
        }
        return;
    }
    for (int i = tid; i < count * (p.C / 4); i += NT) { /* four channels at a time */
        const int    c = i % (p.C / 4) * 4;
        const size_t at = ((size_t)img * px + first) * p.C + (size_t)i * 4;
        const float4 residual = eye.residual ? *(const float4 *)(eye.residual + at) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        const float4 v = mailp_dev_normal(*(const float4 *)(eye.raw + at), mean[c / 16], inv[c / 16], *(const float4 *)(eye.gain + c),
                                          *(const float4 *)(eye.bias + c), residual, p.relu);
        if (eye.line) { /* half of 16 bytes, of hi and of lo */
            const int   pixel = first + i / (p.C / 4), place = img * p.line.S + (pixel / p.W + 1) * p.line.P + pixel % p.W + 1;
            const uint4 u = mailp_dev_halves(v);
            uint2      *to = (uint2 *)(void *)(eye.line + mailp_dev_place(p.line, place, c, 0)) + (c / 4 & 1);
            to[0] = make_uint2(u.x, u.z);
            to[8 * (size_t)p.line.Q] = make_uint2(u.y, u.w);
        } else {
            *(float4 *)(eye.out + at) = v;
        }
    }
}

/* ---- the same in one launch per convolution, on GPUs with clusters ---- */

/* GroupNorm with 16 channels a group: one group is the 16 rows of a tensor-core tile. The sums stay on chip until the blocks that
   share a picture's group have told each other mean and sum of squares of their parts, so nothing but the finished map goes to
   memory. Three kernels: mailp_cuda_few for latency; for throughput mailp_cuda_wide, on GPUs that have products of warpgroups, and
   mailp_cuda_many. */
enum {
    MAILP_CUDA_FUSED_WARPS = 8,
    MAILP_CUDA_FUSED_PART = 64, /* inputs whose weights follow each other */
    MAILP_CUDA_JOBS = 8         /* most convolutions of one launch */
};

/* Sizes of a convolution's maps. */
struct mailp_cuda_maps {
    int H, W, CI, HO, WO, CO, stride;
};

/* One of the convolutions of a launch; blockIdx.y is its number. All of them have the same maps' sizes. */
struct mailp_cuda_fused_job {
    float       *out;         /* [images][HO][WO][CO] normalised */
    const float *in;          /* [images][H][W][CI] */
    const float *residual;    /* as out, or NULL */
    const uint4 *hi, *lo;     /* A fragments; see mailp_cuda_fragment */
    const float *gain, *bias; /* [CO] */
    float        unscale;
    int          size, relu;  /* size 3, or 1 without padding */
    const void  *ahead;       /* weights of a later launch, to be in the cache by then */
    unsigned     ahead_bytes;
};

/* Rows of input that PX neighbouring output pixels can need. */
static inline __host__ __device__ int mailp_cuda_fused_rows(int px, int HO, int WO, int size, int stride) {
    const int rows = (px + WO - 2) / WO + 1;
    return ((rows < HO ? rows : HO) - 1) * stride + size;
}

/* Inputs whose weights follow each other: the order of weights is (block of inputs, tap, 16 inputs). */
static inline __host__ __device__ int mailp_cuda_fused_block(int CI) {
    return CI % MAILP_CUDA_FUSED_PART ? CI : MAILP_CUDA_FUSED_PART;
}

/* Where the fragment of a group of 16 output channels and a step lies, in uint4; of lo as of hi. Several groups of a step follow each
   other, hi before lo, so that a block's are one piece: [CO / 16 / G][steps][hi, lo][G][32 lanes], G = 4 if that divides, or 2 or 1. */
static inline __host__ __device__ int mailp_cuda_fragment_groups(int CO) {
    return CO % 64 == 0 ? 4 : CO % 32 == 0 ? 2 : 1;
}
static inline __host__ __device__ size_t mailp_cuda_fragment(int CO, int steps, int group, int step) {
    const int G = mailp_cuda_fragment_groups(CO);
    return ((size_t)(group / G * steps + step) * 2 * (size_t)G + (size_t)(group % G)) * 32;
}

/* n / d for n below 65536 and d below 32768, by magic = 2^31 / d + 1. */
static __device__ __forceinline__ int mailp_dev_divide(int n, uint32_t magic) {
    return (int)((uint64_t)(uint32_t)n * magic >> 31);
}

/* Where the inputs of a block lie in shared memory: [images][rows][cols][quads of channels], a pixel's row longer by 32 bytes so that
   lanes read different banks; from row `first * stride - pad` and column -pad on; of a 1x1 convolution every skip-th row and column. */
struct mailp_cuda_patch {
    int      images, rows, cols, first, stride, skip, pad, pitch; /* the last in units of 16 bytes */
    uint32_t by_rows, by_cols;                                    /* for mailp_dev_divide */
};
static __device__ __forceinline__ uint32_t mailp_dev_magic(int d) {
    return (1u << 31) / (uint32_t)d + 1;
}

/* Fill it with channels from `from` on, which is the first picture's. What is loaded as four floats becomes, in its place, halves: the first
   two of the four, what they lack, the last two, what they lack; so a lane has its part of a tensor-core fragment in one read. Short
   loops: code that runs once takes longer to fetch than to run. */
template <bool SPLIT>
static __device__ __forceinline__ void mailp_dev_fill(uint4 *to, const float *from, const mailp_cuda_patch &w, int quads, int H, int W, int CI) {
    const int tid = (int)threadIdx.x, NT = (int)blockDim.x, positions = w.images * w.rows * w.cols;
    const int lanes = quads < NT ? quads : NT, per = NT / lanes, begin = tid < lanes * per ? tid / lanes : positions;
    for (int q = tid % lanes; q < quads; q += lanes) {
#pragma unroll 2
        for (int pos = begin; pos < positions; pos += per) {
            const int  line = mailp_dev_divide(pos, w.by_cols), im = w.images > 1 ? mailp_dev_divide(line, w.by_rows) : 0;
            const int  x = (pos - line * w.cols - w.pad) * w.skip, y = (w.first * w.stride - w.pad + line - im * w.rows) * w.skip;
            const bool in = x >= 0 && x < W && y >= 0 && y < H;
            mailp_dev_copy<16>(to + pos * w.pitch + q, in ? from + ((im * H + y) * W + x) * CI + 4 * q : from, in);
        }
    }
    mailp_dev_copies_end();
    mailp_dev_copies_wait<0>();
    for (int q = tid % lanes; q < quads; q += lanes) { /* the same places as before */
#pragma unroll 2
        for (int pos = begin; pos < positions; pos += per) {
            to[pos * w.pitch + q] = mailp_dev_halves<SPLIT>(*(float4 *)(void *)&to[pos * w.pitch + q]);
        }
    }
}

/* From n parts' mean, sum of squares about it and number (every step-th of `part`): 1 / deviation of all values, and their mean (Chan);
   whole: 1 / their number. A whole warp. */
static __device__ __forceinline__ float mailp_dev_deviation(float *mean, const float4 *part, int n, int step, float whole) {
    const int lane = (int)threadIdx.x & 31;
    float     m = 0.0f, m2 = 0.0f;
    for (int i = lane; i < n; i += 32) {
        m += part[i * step].x * part[i * step].z;
    }
    m = mailp_dev_sum<32>(m) * whole;
    for (int i = lane; i < n; i += 32) {
        const float d = part[i * step].x - m;
        m2 += part[i * step].y + part[i * step].z * d * d;
    }
    *mean = m;
    return mailp_dev_rsqrt(mailp_dev_sum<32>(m2) * whole + 1e-5f);
}

/* ---- many pictures: what counts is that no tensor core waits ---- */

struct mailp_cuda_many_args : mailp_cuda_maps {
    int cluster;
    int images;      /* in all */
    int together;    /* a block's images; more than 1: all their pixels, and then PX = together * HO * WO */
    int part;        /* inputs in shared memory at once: 32 or 64 */
    mailp_cuda_fused_job job[MAILP_CUDA_JOBS];
};

/* CW: warps side by side over channels, 32 each; the others have the same channels of other pixels, 8 TILES each. */
template <int CW, int TILES>
struct mailp_cuda_many_shared {
    static constexpr int PX = 8 * TILES * MAILP_CUDA_FUSED_WARPS / CW, GROUPS = 2 * CW, DEPTH = 4;
    static constexpr size_t OUT = sizeof(float) * PX * (GROUPS * 16 + 4);
    __align__(128) uint4 ring[DEPTH][2][2][GROUPS][32]; /* weights: [piece][step][hi, lo][group][lane] */
    float4         stat[16 * MAILP_CUDA_FUSED_WARPS][GROUPS]; /* mean, sum of squares about it and number of each warp's values */
    mailp_cuda_bar stats;
};

/* A block owns PX pixels (of one picture, which its cluster then owns, or of as many whole pictures as fit) and 32 CW channels. Its
   inputs lie in shared memory, p.part channels at a time, see mailp_cuda_patch; weights come in pieces of two steps,
   three pieces ahead. Two blocks share an SM: one fills while the other multiplies.
   SPLIT: both operands as half hi + lo, 22 bits, three products, float32-class; otherwise one product. An input above 4094
   becomes not-a-number and is seen as such. */
template <int CW, int TILES, bool SPLIT>
static __global__ void __launch_bounds__(256, 2) mailp_cuda_many(const __grid_constant__ mailp_cuda_many_args p) {
#ifdef MAILP_CUDA_CLUSTERS
    typedef mailp_cuda_many_shared<CW, TILES> Shared;
    constexpr int NW = MAILP_CUDA_FUSED_WARPS, PX = Shared::PX, GROUPS = Shared::GROUPS, DEPTH = Shared::DEPTH, ROW = GROUPS * 16 + 4;
    constexpr int MINE = PX / NW, J = MINE / 8, LO = SPLIT ? 2 : 1; /* pixels that a warp normalises */
    MAILP_CUDA_SHARED(Shared, s);
    const mailp_cuda_fused_job &job = p.job[blockIdx.y];
    const int  tid = (int)threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2, t = lane & 3, cw = warp % CW, pw = warp / CW;
    const int  rank = p.cluster > 1 ? (int)mailp_dev_rank() : 0, unit = (int)blockIdx.x / p.cluster, blocks = p.CO / (16 * GROUPS);
    const int  group0 = unit % blocks * GROUPS, img0 = unit / blocks * p.together, here = p.images - img0 < p.together ? p.images - img0 : p.together;
    const bool many = p.together > 1;
    const int  px = p.HO * p.WO, px0 = many ? 0 : rank * PX, own = many ? here * px : px;
    const int  len = own - px0 < PX ? (own - px0 > 0 ? own - px0 : 0) : PX;
    const int  pad = job.size / 2, taps = job.size * job.size, pitch = p.part / 4 + 2;
    const int  rows = mailp_cuda_fused_rows(PX, p.HO, p.WO, job.size, pad ? p.stride : 1), cols = pad ? p.W + 2 : p.WO, first = px0 < px ? px0 / p.WO : 0;
    const int  stride = pad ? p.stride : 1, each = taps * p.part / 32, pieces = p.CI / p.part * each; /* pieces of a part, of all */
    const int  block = mailp_cuda_fused_block(p.CI), all = taps * p.CI / 16;
    uint4     *in = (uint4 *)(void *)(s + 1);
    float     *out = (float *)(s + 1); /* [PX][ROW], when the tile is done with */

    /* the next piece of the weights, each thread a few times 16 bytes of a group: number, place in its part, part, first step */
    const uint4 *const weights = job.hi + mailp_cuda_fragment(p.CO, all, group0 + warp % GROUPS, 0) + lane;
    const size_t a_step = mailp_cuda_fragment(p.CO, all, 0, 1), a_lo = (size_t)(job.lo - job.hi); /* from step to step, from hi to lo */
    int          next = 0, next_i = 0, next_part = 0, next_step = 0;
    auto fetch = [&]() {
        if (next < pieces) {
#pragma unroll
            for (int at = tid; at < 2 * LO * GROUPS * 32; at += 256) {
                const int l = at / (32 * GROUPS) % LO, k = at / (32 * GROUPS * LO);
                mailp_dev_copy<16>(&s->ring[next % DEPTH][k][l][warp % GROUPS][lane], weights + (size_t)(next_step + k) * a_step + l * a_lo, true);
            }
            next_step += p.part == 32 ? block / 16 : 2; /* the next tap, or the other 32 channels of this one */
            if (++next_i == each) {
                next_i = 0;
                const int channel = ++next_part * p.part, b = channel / block;
                next_step = b * (taps * block / 16) + (channel - b * block) / 16;
            }
        }
        next++;
        mailp_dev_copies_end();
    };
    if (tid == 0 && p.cluster > 1) {
        mailp_dev_bar_init(&s->stats);
        mailp_dev_bar_publish();
        mailp_dev_bar_expect(&s->stats, (unsigned)(p.cluster * NW * GROUPS * 16));
    }
    for (int i = 0; i < DEPTH - 1; i++) {
        fetch();
    }
    if (p.cluster > 1) { /* a GPU refuses the instructions of clusters in a launch without them */
        mailp_dev_cluster_arrive();
    }
    float acc[2][TILES][4] = {};
    int   base[TILES]; /* where this lane's pixel of each tile begins; pixels past the end read the last one's */
#pragma unroll
    for (int q = 0; q < TILES; q++) {
        const int want = (pw * TILES + q) * 8 + g, slot = want < len ? want : len - 1, im = many ? slot / px : 0, at = many ? slot % px : px0 + slot;
        base[q] = len ? (((im * rows + (at / p.WO - first) * stride) * cols + at % p.WO * stride) * pitch) * 2 + t : t;
    }
    mailp_dev_wait(); /* the weights are on their way (unseen by test_faults: its cases have nothing before) */

    for (int n = 0, i = each; n < pieces; n++, i++) {
        mailp_dev_copies_wait<DEPTH - 2>(); /* of piece n this thread's part is there */
        __syncthreads(); /* everyone's is; and everyone is done with the piece before, whose place takes another */
        fetch();
        if (i == each) { /* the next inputs */
            i = 0;
            const mailp_cuda_patch patch = {here, rows, cols, first, stride, pad ? 1 : p.stride, pad, pitch, mailp_dev_magic(rows), mailp_dev_magic(cols)};
            mailp_dev_fill<SPLIT>(in, job.in + (size_t)img0 * p.H * p.W * p.CI + n / each * p.part, patch, p.part / 4, p.H, p.W, p.CI);
            __syncthreads();
        }
        const int tap = p.part == 32 ? i : i / 2, ty = tap * 11 / 32, off0 = (ty * cols + tap - ty * 3) * pitch * 2 + (p.part == 32 ? 0 : i % 2 * 16);
#pragma unroll 1
        for (int k = 0; k < 2; k++) {
            const uint2 *from = (const uint2 *)(const void *)in + off0 + 8 * k;
            uint32_t  a0[2][4], a1[2][4];
#pragma unroll
            for (int w = 0; w < 2; w++) {
                mailp_dev_fragment(a0[w], s->ring[n % DEPTH][k][0][cw * 2 + w][lane]);
                mailp_dev_fragment(a1[w], s->ring[n % DEPTH][k][SPLIT][cw * 2 + w][lane]); /* without SPLIT not used */
            }
#pragma unroll
            for (int q0 = 0; q0 < TILES; q0 += 2) {
                float    sum[2][2][4] = {}; /* tensor cores truncate what they add: the long sum is taken by float32 units */
                uint32_t b0[2][2], b1[2][2];
#pragma unroll
                for (int q = 0; q < 2; q++) {
                    const uint2 low = from[base[q0 + q]], high = from[base[q0 + q] + 4];
                    b0[q][0] = low.x;
                    b0[q][1] = high.x;
                    b1[q][0] = low.y;
                    b1[q][1] = high.y;
                }
                if (SPLIT) { /* the small terms first */
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        mailp_dev_mma(sum[e & 1][e >> 1], a1[e & 1], b0[e >> 1]);
                    }
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        mailp_dev_mma(sum[e & 1][e >> 1], a0[e & 1], b1[e >> 1]);
                    }
                }
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    mailp_dev_mma(sum[e & 1][e >> 1], a0[e & 1], b0[e >> 1]);
                }
#pragma unroll
                for (int e = 0; e < 16; e++) {
                    acc[e & 1][q0 + (e >> 1 & 1)][e >> 2] += sum[e & 1][e >> 1 & 1][e >> 2];
                }
            }
        }
    }

    /* the sums change hands: now a warp has MINE pixels, a lane four channels of every group of each eighth of them */
    __syncthreads();
#pragma unroll
    for (int w = 0; w < 2; w++) {
#pragma unroll
        for (int q = 0; q < TILES; q++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                out[((pw * TILES + q) * 8 + 2 * t + (e & 1)) * ROW + (cw * 2 + w) * 16 + g + 8 * (e >> 1)] = acc[w][q][e] * job.unscale;
            }
        }
    }
    __syncthreads();
    const int    left = len - warp * MINE, valid = left < 0 ? 0 : left < MINE ? left : MINE;
    const float  count = 16.0f * (float)valid, part = valid ? 1.0f / count : 0.0f;
    const float *mine = out + (warp * MINE + g) * ROW + 4 * t;
    if (p.cluster > 1) {
        mailp_dev_cluster_wait(); /* every peer's barriers are there (unseen by test_faults: on a CPU they always are) */
    }
#pragma unroll 1
    for (int w = 0; w < GROUPS; w++) {
        float sum = 0.0f, about = 0.0f;
#pragma unroll
        for (int j = 0; j < J; j++) {
            const float4 v = *(const float4 *)(mine + j * 8 * ROW + w * 16);
            sum += j * 8 + g < valid ? v.x + v.y + v.z + v.w : 0.0f;
        }
        const float near = mailp_dev_sum<32>(sum) * part;
#pragma unroll
        for (int j = 0; j < J; j++) {
            const float4 v = *(const float4 *)(mine + j * 8 * ROW + w * 16);
            const float  d0 = v.x - near, d1 = v.y - near, d2 = v.z - near, d3 = v.w - near;
            about += j * 8 + g < valid ? d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3 : 0.0f;
        }
        const float4 stat = make_float4(near, mailp_dev_sum<32>(about), count, 0.0f);
        if (p.cluster == 1) {
            if (lane == 0) {
                s->stat[warp][w] = stat;
            }
        } else if (lane < p.cluster) {
            mailp_dev_push4((float *)&s->stat[rank * NW + warp][w], (unsigned)lane, stat, &s->stats);
        }
    }
    if (p.cluster > 1) {
        mailp_dev_bar_wait(&s->stats, 0);
    } else {
        __syncthreads();
    }
    /* with those of the warps that have pixels of the same picture */
    const int    from = many ? warp * MINE / px * px / MINE : 0, entries = many ? px / MINE : p.cluster * NW;
    const size_t at0 = ((size_t)img0 * px + px0 + warp * MINE + g) * p.CO + group0 * 16 + 4 * t;
    const float  whole = 1.0f / (16.0f * (float)px);
#pragma unroll 1
    for (int w = 0; w < GROUPS; w++) {
        const int    c = (group0 + w) * 16 + 4 * t;
        const float4 gain = *(const float4 *)(job.gain + c), bias = *(const float4 *)(job.bias + c);
        float        mean;
        const float  inv = mailp_dev_deviation(&mean, &s->stat[from][w], entries, GROUPS, whole);
#pragma unroll
        for (int j = 0; j < J; j++) {
            if (j * 8 + g < valid) {
                const size_t at = at0 + (size_t)(j * 8 * p.CO + w * 16);
                const float4 residual = job.residual ? *(const float4 *)(job.residual + at) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                const float4 v = *(const float4 *)(mine + j * 8 * ROW + w * 16);
                *(float4 *)(job.out + at) = mailp_dev_normal(v, mean, inv, gain, bias, residual, job.relu);
            }
        }
    } /* a block leaves when all pushes into it have come; its own go to blocks that wait for them */
#else
    (void)p;
#endif
}

/* ---- few pictures: all SMs share one, and what counts is how long a convolution takes from its first load to its last store ---- */

struct mailp_cuda_few_args : mailp_cuda_maps {
    int part_rows;    /* of output that a block's pixels can lie in */
    int parts, share; /* a cluster is `parts` times `share` blocks: parts of a picture's pixels, each with the channels cut into shares */
    mailp_cuda_fused_job job[MAILP_CUDA_JOBS];
};

template <int TILES>
struct mailp_cuda_few_shared {
    static constexpr size_t PART = sizeof(float4) * MAILP_CUDA_FUSED_WARPS * 8 * TILES * 5; /* see `part` in the kernel */
    float4         gather[32 * TILES];                 /* [share][pixel][4]: of each block of a share, for this block's pixels */
    float4         stat[16 * MAILP_CUDA_FUSED_WARPS];  /* mean, sum of squares about it and number of each warp's values */
    mailp_cuda_bar sums, stats;
};

/* A cluster owns one picture and one group of 16 channels: `parts` times 8 TILES pixels, whose inputs are shared out by channels.
   In a block each warp has all the pixels and every eighth step over the inputs, so no weight is read twice; they are fetched before the
   kernel waits for the one before. The warps' sums are added through shared memory, those of a share's blocks through the cluster:
   each block then has an equal part of the pixels, a thread four channels of one. SPLIT as in mailp_cuda_many. */
template <int TILES, bool SPLIT>
static __global__ void __launch_bounds__(256, 2) mailp_cuda_few(const __grid_constant__ mailp_cuda_few_args p) {
#ifdef MAILP_CUDA_CLUSTERS
    constexpr int NW = MAILP_CUDA_FUSED_WARPS, PX = 8 * TILES, QN = TILES < 4 ? TILES : 4, LO = SPLIT ? 2 : 1;
    typedef mailp_cuda_few_shared<TILES> Shared;
    MAILP_CUDA_SHARED(Shared, s);
    const mailp_cuda_fused_job &job = p.job[blockIdx.y];
    const int      tid = (int)threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2, t = lane & 3;
    const int      cluster = p.parts * p.share, rank = cluster > 1 ? (int)mailp_dev_rank() : 0, share = rank % p.share;
    const int      unit = (int)blockIdx.x / cluster, groups = p.CO / 16, group = unit % groups, img = unit / groups;
    const int      px = p.HO * p.WO, px0 = rank / p.share * PX, len = px - px0 < PX ? (px - px0 > 0 ? px - px0 : 0) : PX;
    const uint32_t by_wo = mailp_dev_magic(p.WO);
    /* the inputs; a 1x1 convolution takes from them what it needs */
    const int      pad = job.size / 2, stride = pad ? p.stride : 1, cols = pad ? p.W + 2 : p.WO, first = px0 < px ? mailp_dev_divide(px0, by_wo) : 0;
    const int      CP = p.CI / p.share, pitch = CP / 4 + 2, rows = (p.part_rows - 1) * stride + job.size;
    const int      each = CP / 16, steps = job.size * job.size * each; /* in the order (tap, 16 inputs) */
    uint4         *weights = (uint4 *)(void *)(s + 1), *in = weights + steps * LO * 32; /* [step][hi, lo][lane] */
    float4(*part)[PX][5] = (float4(*)[PX][5])(void *)in; /* when the inputs are done with: [warp][pixel][16 channels and 4 more: other banks] */

    for (int k = warp; k < steps; k += NW) { /* what a lane copies is what it will read */
        const int    tap = k / each, channel = share * CP + (k - tap * each) * 16, block = mailp_cuda_fused_block(p.CI), b = channel / block;
        const int    taps = job.size * job.size, step = b * (taps * block / 16) + tap * (block / 16) + (channel - b * block) / 16;
        const size_t from = mailp_cuda_fragment(p.CO, taps * p.CI / 16, group, step) + lane;
        mailp_dev_copy<16>(weights + k * LO * 32 + lane, job.hi + from, true);
        if (SPLIT) {
            mailp_dev_copy<16>(weights + (k * LO + 1) * 32 + lane, job.lo + from, true);
        }
    }
    /* what this thread will have: four channels of a pixel */
    const int    mine = PX / p.share, place = share * mine + tid / 4, active = (mine * 4 + 31) / 32, channel = group * 16 + tid % 4 * 4;
    const bool   valid = tid < mine * 4 && place < len;
    const size_t at = ((size_t)img * px + px0 + place) * p.CO + channel;
    const float4 gain = *(const float4 *)(job.gain + channel), bias = *(const float4 *)(job.bias + channel);
    float4       residual = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (tid == 0) {
        if (cluster > 1) {
            mailp_dev_bar_init(&s->sums);
            mailp_dev_bar_init(&s->stats);
            mailp_dev_bar_publish();
            mailp_dev_bar_expect(&s->sums, (unsigned)(PX * 64));
            mailp_dev_bar_expect(&s->stats, (unsigned)(cluster * active * 16));
        }
        if (job.ahead_bytes) { /* each block a slice */
            const unsigned slice = (job.ahead_bytes / gridDim.x + 127) / 128 * 128, begin = slice * blockIdx.x;
            if (begin < job.ahead_bytes) {
                mailp_dev_prefetch((const char *)job.ahead + begin, job.ahead_bytes - begin < slice ? job.ahead_bytes - begin : slice);
            }
        }
    }
    if (cluster > 1) { /* a GPU refuses the instructions of clusters in a launch without them */
        mailp_dev_cluster_arrive();
    }
    const uint2 *base[TILES]; /* where this lane's pixel of each tile begins; pixels past the end read the last one's */
#pragma unroll
    for (int q = 0; q < TILES; q++) {
        const int o = px0 + (q * 8 + g < len ? q * 8 + g : len ? len - 1 : 0), y = mailp_dev_divide(o, by_wo);
        base[q] = (const uint2 *)(const void *)in + (len ? ((y - first) * cols + o - y * p.WO) * stride * pitch * 2 : 0) + t;
    }
    const mailp_cuda_patch patch = {1, rows, cols, first, stride, pad ? 1 : p.stride, pad, pitch, 0, mailp_dev_magic(cols)};

    mailp_dev_wait();
    if (job.residual && valid) {
        residual = *(const float4 *)(job.residual + at);
    }
    mailp_dev_fill<SPLIT>(in, job.in + (size_t)img * p.H * p.W * p.CI + share * CP, patch, CP / 4, p.H, p.W, p.CI);
    __syncthreads();

    float acc[TILES][4] = {};
    int   tap = warp / each, c = warp % each;
#pragma unroll 1
    for (int k = warp; k < steps; k += NW) {
        const int      ty = tap * 11 / 32, off = (ty * cols + tap - ty * 3) * pitch * 2 + c * 8;
        uint32_t       a0[4], a1[4];
        mailp_dev_fragment(a0, weights[k * LO * 32 + lane]);
        mailp_dev_fragment(a1, weights[(k * LO + SPLIT) * 32 + lane]); /* without SPLIT not used */
        for (c += NW; c >= each; c -= each) {
            tap++;
        }
#pragma unroll
        for (int q0 = 0; q0 < TILES; q0 += QN) {
            float    sum[QN][4] = {}; /* tensor cores truncate what they add: the long sum is taken by float32 units */
            uint32_t b0[QN][2], b1[QN][2];
#pragma unroll
            for (int q = 0; q < QN; q++) {
                const uint2 low = base[q0 + q][off], high = base[q0 + q][off + 4];
                b0[q][0] = low.x;
                b0[q][1] = high.x;
                b1[q][0] = low.y;
                b1[q][1] = high.y;
            }
            if (SPLIT) { /* the small terms first */
#pragma unroll
                for (int q = 0; q < QN; q++) {
                    mailp_dev_mma(sum[q], a1, b0[q]);
                }
#pragma unroll
                for (int q = 0; q < QN; q++) {
                    mailp_dev_mma(sum[q], a0, b1[q]);
                }
            }
#pragma unroll
            for (int q = 0; q < QN; q++) {
                mailp_dev_mma(sum[q], a0, b0[q]);
            }
#pragma unroll
            for (int q = 0; q < QN; q++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    acc[q0 + q][e] += sum[q][e];
                }
            }
        }
    }

    /* sums over the warps, then over the blocks that have shares of the same pixels */
    __syncthreads();
#pragma unroll
    for (int q = 0; q < TILES; q++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            ((float *)part[warp][q * 8 + 2 * t + (e & 1)])[g + 8 * (e >> 1)] = acc[q][e];
        }
    }
    __syncthreads();
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (tid < PX * 4) {
#pragma unroll
        for (int w = 0; w < NW; w++) {
            const float4 more = part[w][tid / 4][tid % 4];
            v.x += more.x;
            v.y += more.y;
            v.z += more.z;
            v.w += more.w;
        }
    }
    if (cluster > 1) {
        mailp_dev_cluster_wait(); /* every peer's barriers are there (unseen by test_faults: on a CPU they always are) */
    }
    if (p.share > 1) {
        if (tid < PX * 4) { /* to the block that will have the pixel; mine is a power of 2 */
            const int owner = tid / 4 / mine;
            mailp_dev_push4((float *)&s->gather[share * mine * 4 + tid - owner * mine * 4], (unsigned)(rank - share + owner), v, &s->sums);
        }
        mailp_dev_bar_wait(&s->sums, 0);
        v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        for (int r = 0; r < p.share && tid < mine * 4; r++) {
            const float4 more = s->gather[r * mine * 4 + tid];
            v.x += more.x;
            v.y += more.y;
            v.z += more.z;
            v.w += more.w;
        }
    }

    /* mean and sum of squares about it: of each warp's values, then of all */
    v.x *= job.unscale;
    v.y *= job.unscale;
    v.z *= job.unscale;
    v.w *= job.unscale;
    const int   before = share * mine + warp * 8;
    const float count = 16.0f * (float)(len - before < 0 ? 0 : len - before < 8 ? len - before : 8);
    const float sum = mailp_dev_sum<32>(valid ? v.x + v.y + v.z + v.w : 0.0f), near = count > 0.0f ? sum * (1.0f / count) : 0.0f;
    const float d0 = v.x - near, d1 = v.y - near, d2 = v.z - near, d3 = v.w - near;
    const float about = mailp_dev_sum<32>(valid ? d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3 : 0.0f);
    if (cluster > 1) {
        if (warp < active && lane < cluster) {
            mailp_dev_push4((float *)&s->stat[rank * active + warp], (unsigned)lane, make_float4(near, about, count, 0.0f), &s->stats);
        }
        mailp_dev_bar_wait(&s->stats, 0);
    } else {
        if (lane == 0) {
            s->stat[warp] = make_float4(near, about, count, 0.0f);
        }
        __syncthreads();
    }
    float       mean;
    const float inv = mailp_dev_deviation(&mean, s->stat, cluster * active, 1, 1.0f / (16.0f * (float)px));
    if (valid) { /* a block leaves when all pushes into it have come; its own go to blocks that wait for them */
        *(float4 *)(job.out + at) = mailp_dev_normal(v, mean, inv, gain, bias, residual, job.relu);
    }
#else
    (void)p;
#endif
}

/* ---- many pictures on GPUs with products of warpgroups ---- */

enum mailp_cuda_wide_kind { MAILP_CUDA_WIDE_3, MAILP_CUDA_WIDE_3_STRIDE_2, MAILP_CUDA_WIDE_1_STRIDE_2 }; /* 3x3; 3x3 and 1x1 with stride 2 */

struct mailp_cuda_wide_job {
    const uint4 *in;          /* line of CI channels, or the four of a stride of 2 */
    const uint4 *weights;     /* [CO / 64][CI / 32][taps][hi, lo][4][64] of 8 inputs each; taps as mailp_cuda_wide_tap has them */
    const uint4 *residual;    /* as out, or NULL */
    uint4       *out;         /* line of CO channels; or, with quarters, the four of the next convolution; or NULL */
    float       *final;       /* then [images][H][W][CO] instead */
    const float *gain, *bias; /* [CO] */
    float        unscale;
    int          relu, quarters;
    mailp_cuda_wide_kind kind;
};
struct mailp_cuda_wide_args {
    mailp_cuda_line line, next; /* of the outputs; of the next convolution's */
    int CI, CO, images;
    int together;               /* pictures of a block; 1: a cluster owns one */
    int cluster, slots;         /* the latter: parts of the inputs in shared memory, 2 or 3 */
    mailp_cuda_wide_job job[MAILP_CUDA_JOBS]; /* blockIdx.y */
};

/* Row and column in the kernel, 0 to 2, of a 3x3 convolution's taps in their order; with stride 2 those of map 0 come first, then the two of
   map 1, the two of 2 and the four of 3. */
static inline __host__ __device__ void mailp_cuda_wide_tap(mailp_cuda_wide_kind kind, int tap, int *y, int *x) {
    *y = kind == MAILP_CUDA_WIDE_3 ? tap / 3 : 0x28215 >> 2 * tap & 3;
    *x = kind == MAILP_CUDA_WIDE_3 ? tap % 3 : 0x22161 >> 2 * tap & 3;
}

template <int N, bool SPLIT>
struct mailp_cuda_wide_shared {
    static constexpr int STAGES = N > 96 ? 2 : 3;
    __align__(128) uint4 ring[STAGES][MAILP_CUDA_WIDE_TAPS][SPLIT ? 2 : 1][4][MAILP_CUDA_WIDE_ROWS]; /* weights: [tap][hi, lo][8 inputs][channel] */
    __align__(8) int to[N];                      /* where a column's pixel goes, or -1 */
    int            shift[9];                     /* of a tap's inputs, in 16 bytes */
    float4         stat[16][4];                  /* mean, sum of squares about it and number of each block's values, by groups */
    mailp_cuda_bar filled[STAGES], free[STAGES], patch_filled[3], patch_free[3], stats;
};

/* Columns of a tile before number `end` that a lane has, 8 j + 2 t and the next. */
static __device__ __forceinline__ int mailp_dev_columns_before(int end, int t) {
    const int n = end - 2 * t;
    return n <= 0 ? 0 : 2 * (n >> 3) + ((n & 7) < 2 ? n & 7 : 2);
}
static __device__ __forceinline__ uint64_t mailp_dev_ones(int n) {
    return n >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << n) - 1;
}

/* Into a line: lane 4 g + t has of channel `channel` + g the values v0, v1 in columns 2 t and 2 t + 1 of 8, and knows the place of column g,
   or -1 if it has none. All lanes. */
template <bool SPLIT>
static __device__ __forceinline__ void mailp_dev_put_place(uint4 *out, const mailp_cuda_line &line, int place, int channel, float v0, float v1) {
    const uint32_t hi = mailp_dev_half2(v0 * MAILP_CUDA_RAISE, v1 * MAILP_CUDA_RAISE), hi_out = mailp_dev_transpose(hi);
    const uint32_t lo_out = SPLIT ? mailp_dev_transpose(mailp_dev_half2_rest(hi, v0 * MAILP_CUDA_RAISE, v1 * MAILP_CUDA_RAISE)) : 0u;
    if (place >= 0) {
        uint32_t *at = (uint32_t *)(void *)(out + mailp_dev_place(line, place, channel, 0)) + (threadIdx.x & 3);
        at[0] = hi_out;
        if (SPLIT) {
            at[(size_t)line.Q * 16] = lo_out;
        }
    }
}

/* Places of a part of the inputs in shared memory. */
static inline __host__ __device__ int mailp_cuda_wide_places(int N, int P, mailp_cuda_wide_kind kind) {
    return (N + (kind == MAILP_CUDA_WIDE_1_STRIDE_2 ? 0 : kind == MAILP_CUDA_WIDE_3 ? 2 * (P + 1) : P + 1) + 7 + 7) / 8 * 8;
}

/* A block owns N places of the line, of one picture, which its cluster then owns, or of `together` whole ones, and 64 channels, of which
   each of its four warps has a norm's group of 16. Products go in groups of three taps with 32 inputs: tensor cores, which truncate what
   they add, take the sums of a group, float32 units those of groups. Weights come a group at a time, inputs in parts, both ahead,
   fetched by one thread, of another warp for each group. SPLIT as in mailp_cuda_many. Two blocks share an SM: one ends, or adds, while
   the other multiplies. */
template <int N, bool SPLIT>
static __global__ void __launch_bounds__(MAILP_CUDA_WIDE_NT, 2) mailp_cuda_wide(const __grid_constant__ mailp_cuda_wide_args p) {
#ifdef MAILP_CUDA_WARPGROUPS
    typedef mailp_cuda_wide_shared<N, SPLIT> Shared;
    constexpr int STAGES = Shared::STAGES, LO = SPLIT ? 2 : 1, TAPS = MAILP_CUDA_WIDE_TAPS, ROWS = MAILP_CUDA_WIDE_ROWS;
    constexpr int TAP = LO * 4 * ROWS, TAP_IN = 2 * 4 * ROWS; /* uint4 of a tap's weights here and in memory */
    MAILP_CUDA_SHARED(Shared, s);
    uint4 *const patch = (uint4 *)(((uintptr_t)(s + 1) + 511) / 512 * 512); /* [slots][hi, lo][places][4] */
    const mailp_cuda_wide_job &job = p.job[blockIdx.y];
    const mailp_cuda_wide_kind kind = job.kind;
    const int  tid = (int)threadIdx.x, lane = tid & 31, warp = __shfl_sync(0xffffffffu, tid >> 5, 0), g = lane >> 2, t = lane & 3;
    const int  rank = p.cluster > 1 ? (int)mailp_dev_rank() : 0, unit = (int)blockIdx.x / p.cluster, blocks = p.CO / ROWS;
    const int  block = unit % blocks, img0 = unit / blocks * p.together, here = p.images - img0 < p.together ? p.images - img0 : p.together;
    const int  P = p.line.P, S = p.line.S, Q = p.line.Q, at0 = img0 * S + P + 1 + rank * N; /* the tile's first place */
    const int  first = (at0 - (kind == MAILP_CUDA_WIDE_1_STRIDE_2 ? 0 : P + 1)) / 8 * 8, L = mailp_cuda_wide_places(N, P, kind); /* of the inputs */
    const int  quarters = kind == MAILP_CUDA_WIDE_3_STRIDE_2 ? 4 : 1, patches = p.CI / MAILP_CUDA_WIDE_PART * quarters, slots = p.slots;
    const int  per = kind == MAILP_CUDA_WIDE_1_STRIDE_2 ? 1 : 9, chunks = p.CI / MAILP_CUDA_WIDE_PART * per; /* taps of a part, of all */
    const int  each = per == 1 ? 2 : TAPS, groups = (chunks + each - 1) / each; /* a group needs no more than two parts */
    const unsigned fresh = kind == MAILP_CUDA_WIDE_3_STRIDE_2 ? 0x2b : 1;         /* bits of the taps with which other inputs begin */

    auto fetch = [&](int group, int stage) { /* weights of a group */
        const int n = chunks - group * each < each ? chunks - group * each : each;
        mailp_dev_bar_expect(&s->filled[stage], (unsigned)(n * TAP * 16));
        for (int i = 0; i < n; i += SPLIT ? n : 1) {
            mailp_dev_bulk_load(s->ring[stage][i], job.weights + (size_t)(block * chunks + group * each + i) * TAP_IN, (unsigned)((SPLIT ? n : 1) * TAP * 16), &s->filled[stage]);
        }
    };
    auto fetch_inputs = [&](int part, int slot) {
        const uint4 *from = job.in + ((size_t)(part % quarters * (p.CI / 32) + part / quarters) * 2 * (size_t)Q + (size_t)first) * 4;
        mailp_dev_bar_expect(&s->patch_filled[slot], (unsigned)(LO * L * 64));
        for (int i = 0; i < LO; i++) {
            mailp_dev_bulk_load(patch + (slot * LO + i) * L * 4, from + (size_t)i * (size_t)Q * 4, (unsigned)(L * 64), &s->patch_filled[slot]);
        }
    };
    if (tid == 0) {
        for (int i = 0; i < STAGES; i++) {
            mailp_dev_bar_init(&s->filled[i]);
            mailp_dev_bar_init(&s->free[i], 4);
        }
        for (int i = 0; i < slots; i++) {
            mailp_dev_bar_init(&s->patch_filled[i]);
            mailp_dev_bar_init(&s->patch_free[i], 4);
        }
        mailp_dev_bar_init(&s->stats);
        mailp_dev_bar_publish();
        if (p.cluster > 1) {
            mailp_dev_bar_expect(&s->stats, (unsigned)(p.cluster * 4 * 16));
        }
        for (int i = 0; i < STAGES && i < groups; i++) {
            fetch(i, i);
        }
    }
    if (p.cluster > 1) { /* a GPU refuses the instructions of clusters in a launch without them */
        mailp_dev_cluster_arrive();
    }
    mailp_dev_wait(); /* the weights are on their way (unseen by test_faults: its cases have nothing before) */
    int fetched = patches < slots ? patches : slots;
    if (tid == 0) {
        for (int i = 0; i < fetched; i++) {
            fetch_inputs(i, i);
        }
    }
    if (tid < per) {
        int y = 0, x = 0;
        if (per > 1) {
            mailp_cuda_wide_tap(kind, tid, &y, &x);
        }
        s->shift[tid] = kind == MAILP_CUDA_WIDE_3 ? ((y - 1) * P + x - 1) * 4 : per > 1 ? (((y > 0) - 1) * P + (x > 0) - 1) * 4 : 0;
    }

    /* the columns that are pixels, and where they go */
    const uint32_t by_s = mailp_dev_magic(S), by_p = mailp_dev_magic(P);
    for (int column = tid; column < N; column += MAILP_CUDA_WIDE_NT) {
        const int x = rank * N + column, m = mailp_dev_divide(x, by_s), rest = x - m * S, row = mailp_dev_divide(rest, by_p), col = rest - row * P;
        int       to = -1;
        if (m < here && row < p.line.H && col < P - 1) {
            to = job.final ? ((img0 + m) * p.line.H + row) * p.line.W + col : at0 + column;
            if (job.quarters) {
                to = ((row & 1) * 2 + (col & 1)) * (p.CO / 32 * 2) * p.next.Q + (img0 + m) * p.next.S + (row / 2 + 1) * p.next.P + col / 2 + 1;
            }
        }
        s->to[column] = to;
    }
    __syncthreads();

    const mailp_cuda_operand a0 = mailp_dev_operand(s->ring, 16 * ROWS, 128), b0 = mailp_dev_operand64(patch + (at0 - first) * 4);
    mailp_cuda_operand       inputs = b0;
    float                    acc[N / 2] = {}, sum[N / 2];
    /* next tap of its nine; parts begun, released; where the last begun, the next released and the next fetched one lie; parities */
    int tap = 0, begun = 0, released = 0, slot = slots - 1, last = 0, next = 0, stage = 0, phase = 0, parity = 1, next_parity = 0;
#pragma unroll 1
    for (int group = 0; group < groups; group++) {
        const int n = chunks - group * each < each ? chunks - group * each : each;
        mailp_dev_bar_wait(&s->filled[stage], phase);
#pragma unroll
        for (int i = 0; i < TAPS; i++) {
            if (i < n) {
                if (fresh >> tap & 1) {
                    begun++;
                    slot = slot + 1 < slots ? slot + 1 : 0;
                    parity ^= slot == 0;
                    inputs = mailp_dev_operand_at(b0, slot * LO * L * 4);
                    mailp_dev_bar_wait(&s->patch_filled[slot], parity);
                }
                const mailp_cuda_operand a = mailp_dev_operand_at(a0, (stage * TAPS + i) * TAP), b = mailp_dev_operand_at(inputs, s->shift[tap]);
                tap = tap + 1 < per ? tap + 1 : 0;
                mailp_dev_products_begin();
#pragma unroll
                for (int k = 0; k < 2; k++) { /* the small terms first */
                    if (SPLIT) {
                        mailp_dev_product<N>(sum, mailp_dev_operand_at(a, (4 + 2 * k) * ROWS), mailp_dev_operand_at(b, 2 * k), i + k > 0);
                        mailp_dev_product<N>(sum, mailp_dev_operand_at(a, 2 * k * ROWS), mailp_dev_operand_at(b, 2 * k + L * 4), 1);
                    }
                    mailp_dev_product<N>(sum, mailp_dev_operand_at(a, 2 * k * ROWS), mailp_dev_operand_at(b, 2 * k), SPLIT || i + k > 0);
                }
                mailp_dev_products_end();
            }
        }
        mailp_dev_products_wait(0);
        mailp_dev_products_done(sum);
        const int complete = begun - 1 + (int)(fresh >> tap & 1); /* parts that no tap needs any more */
        if (lane == 0) {
            mailp_dev_bar_arrive(&s->free[stage]);
        }
        for (; released < complete; released++) {
            if (lane == 0) {
                mailp_dev_bar_arrive(&s->patch_free[last]);
            }
            last = last + 1 < slots ? last + 1 : 0;
        }
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            acc[i] += sum[i];
        }
        const bool mine = tid == (group & 3) * 32; /* waits for the other warps, which have come as far */
        if (mine && group + STAGES < groups) {
            mailp_dev_bar_wait(&s->free[stage], phase);
            fetch(group + STAGES, stage);
        }
        for (; fetched < patches && fetched < complete + slots; fetched++) {
            if (mine) {
                mailp_dev_bar_wait(&s->patch_free[next], next_parity);
                fetch_inputs(fetched, next);
            }
            next = next + 1 < slots ? next + 1 : 0;
            next_parity ^= next == 0;
        }
        __syncwarp(); /* the next product is a whole warp's (unseen by test_faults: here each lane has its own) */
        stage = stage + 1 < STAGES ? stage + 1 : 0;
        phase ^= stage == 0;
    }

    /* norm, picture by picture: mean and sum of squares about it, of this warp's 16 channels */
    uint64_t pixels = 0; /* of this lane's columns */
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        const int2 two = *(const int2 *)&s->to[8 * j + 2 * t];
        pixels |= (uint64_t)((two.x >= 0) + 2 * (two.y >= 0)) << 2 * j;
    }
    static_assert(N / 4 <= 64, "a bit for each of a lane's columns");
    const int    channel = block * MAILP_CUDA_WIDE_ROWS + warp * 16 + g;
    const float  gain[2] = {job.gain[channel], job.gain[channel + 8]}, bias[2] = {job.bias[channel], job.bias[channel + 8]};
    if (p.cluster > 1) {
        mailp_dev_cluster_wait(); /* every peer's barriers are there (unseen by test_faults: on a CPU they always are) */
    }
#pragma unroll 1
    for (int m = 0; m < here; m++) {
        const int      begin = m * S - rank * N;
        const uint64_t mine = pixels & mailp_dev_ones(mailp_dev_columns_before(begin + S, t)) & ~mailp_dev_ones(mailp_dev_columns_before(begin, t));
        const float    whole = 1.0f / (16.0f * (float)(p.line.H * p.line.W));
        float          total = 0.0f, about = 0.0f, mean, inv;
#pragma unroll
        for (int i = 0; i < N / 4; i++) {
            total += mine >> i & 1 ? acc[i / 2 * 4 + i % 2] + acc[i / 2 * 4 + i % 2 + 2] : 0.0f;
        }
        const float count = p.cluster > 1 ? 2.0f * mailp_dev_sum<32>((float)mailp_dev_bits_set(mine)) : 16.0f * (float)(p.line.H * p.line.W);
        const float near = count > 0.0f ? mailp_dev_sum<32>(total) * (job.unscale / count) : 0.0f;
#pragma unroll
        for (int i = 0; i < N / 4; i++) {
            const float a = acc[i / 2 * 4 + i % 2] * job.unscale - near, b = acc[i / 2 * 4 + i % 2 + 2] * job.unscale - near;
            about += mine >> i & 1 ? a * a + b * b : 0.0f;
        }
        about = mailp_dev_sum<32>(about);
        if (p.cluster > 1) {
            if (lane < p.cluster) {
                mailp_dev_push4((float *)&s->stat[rank][warp], (unsigned)lane, make_float4(near, about, count, 0.0f), &s->stats);
            }
            mailp_dev_bar_wait(&s->stats, 0);
            inv = mailp_dev_deviation(&mean, &s->stat[0][warp], p.cluster, 4, whole);
        } else {
            mean = near;
            inv = mailp_dev_rsqrt(about * whole + 1e-5f);
        }
#pragma unroll
        for (int i = 0; i < N / 4; i++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float &v = acc[i / 2 * 4 + i % 2 + 2 * h];
                v = mine >> i & 1 ? (v * job.unscale - mean) * inv * gain[h] + bias[h] : v;
            }
        }
    }

    /* residual, ReLU and out; in memory a lane has column 8 j + g, and channels 2 t and 2 t + 1 of 8 */
    constexpr int TOGETHER = 4; /* loads on their way at once */
#pragma unroll
    for (int j0 = 0; j0 < N / 8; j0 += TOGETHER) {
        uint32_t more[TOGETHER][2][LO] = {};
        int      to[TOGETHER];
#pragma unroll
        for (int i = 0; i < TOGETHER && j0 + i < N / 8; i++) {
            const int column = 8 * (j0 + i) + g;
            to[i] = s->to[column];
            if (job.residual && to[i] >= 0) {
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const uint32_t *from = (const uint32_t *)(const void *)(job.residual + mailp_dev_place(p.line, at0 + column, channel - g + 8 * h, 0)) + t;
#pragma unroll
                    for (int e = 0; e < LO; e++) {
                        more[i][h][e] = from[(size_t)e * (size_t)Q * 16];
                    }
                }
            }
        }
#pragma unroll
        for (int i = 0; i < TOGETHER && j0 + i < N / 8; i++) {
            const int j = j0 + i;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float v0 = acc[4 * j + 2 * h], v1 = acc[4 * j + 2 * h + 1];
                if (job.residual) {
                    const uint32_t hi = mailp_dev_transpose(more[i][h][0]), lo = SPLIT ? mailp_dev_transpose(more[i][h][LO - 1]) : 0u;
                    v0 += (mailp_dev_half_first(hi) + mailp_dev_half_first(lo)) * (1.0f / MAILP_CUDA_RAISE);
                    v1 += (mailp_dev_half_second(hi) + mailp_dev_half_second(lo)) * (1.0f / MAILP_CUDA_RAISE);
                }
                if (job.relu) { /* not-a-number stays */
                    v0 = v0 < 0.0f ? 0.0f : v0;
                    v1 = v1 < 0.0f ? 0.0f : v1;
                }
                if (job.final) {
                    const int2 two = *(const int2 *)&s->to[8 * j + 2 * t];
                    if (two.x >= 0) {
                        job.final[(size_t)two.x * (size_t)p.CO + (size_t)(channel + 8 * h)] = v0;
                    }
                    if (two.y >= 0) {
                        job.final[(size_t)two.y * (size_t)p.CO + (size_t)(channel + 8 * h)] = v1;
                    }
                    continue;
                }
                mailp_dev_put_place<SPLIT>(job.out, job.quarters ? p.next : p.line, to[i], channel - g + 8 * h, v0, v1);
            }
        }
    } /* a block leaves when all pushes into it have come; its own go to blocks that wait for them */
#else
    (void)p;
#endif
}

/* ---- the first convolution, 7x7 with stride 2 over 3 channels, and max_pool2d(3, 2, 1) behind its norm and ReLU ---- */

/* Pooling and (r - mean) inv gain + bias can be exchanged: where the gain is not negative, the largest r of a window becomes
   the largest value, otherwise the smallest. So only that one is stored, a quarter of the map, and mailp_cuda_norm, which
   knows the statistics, makes the rest of it. The 21 values of a window's row lie side by side in memory; weights are padded
   with zeros to 32 a row, two steps of a tensor core. */
enum { MAILP_CUDA_STEM_ROW = 32, MAILP_CUDA_STEM_STEPS = 7 * MAILP_CUDA_STEM_ROW / 16 };

struct mailp_cuda_stem_args {
    struct {
        float       *out;      /* [images][PH][PW][CO] of each window the r that matters */
        float       *stats;    /* as for mailp_cuda_conv; a tile is a block */
        const float *in;       /* [images][H][W][3] */
        const uint4 *hi, *lo;  /* A fragments; see mailp_cuda_fragment */
        const float *gain;     /* [CO] */
        float        unscale;
    } eye[MAILP_CUDA_EYES];
    int images;                /* blockIdx.z is camera * images + image */
    int H, W, HO, WO, PH, PW, CO, tiles_x; /* PH = (HO + 1) / 2 */
};

/* TH x TW results of the pooling, for which (2 TH + 1) x (2 TW + 1) sums are needed; the first row and column belong to the
   statistics of the neighbour. */
template <int TH, int TW, int TILES, int GW>
struct mailp_cuda_stem_shared {
    static constexpr int RH = 2 * TH + 1, RW = 2 * TW + 1, IH = 2 * RH + 5, IW = 12 * TW + MAILP_CUDA_STEM_ROW;
    static_assert(RH * RW <= 64 * TILES, "slots");
    __align__(16) uint16_t hi[IH][IW], lo[IH][IW];
    uint4    weights[MAILP_CUDA_STEM_STEPS][2][GW][32]; /* [step][hi, lo][group][lane] */
    float    out[64 * TILES][16 * GW + 1];
    float    red[2][GW][8];
};

/* One block owns TH x TW results of one image (blockIdx.z) and GW groups (blockIdx.y); a warp has TILES tiles of 8 of the sums'
   places, and all channels of the block. */
template <int TH, int TW, int TILES, int GW, bool SPLIT>
static __global__ void __launch_bounds__(256, SPLIT ? 1 : 2) mailp_cuda_stem(const __grid_constant__ mailp_cuda_stem_args p) {
    typedef mailp_cuda_stem_shared<TH, TW, TILES, GW> Shared;
    constexpr int NT = 256, RH = Shared::RH, RW = Shared::RW, IH = Shared::IH, IW = Shared::IW, STEPS = MAILP_CUDA_STEM_STEPS;
    MAILP_CUDA_SHARED(Shared, s);
    const auto &eye = p.eye[(int)blockIdx.z / p.images];
    const int tid = (int)threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2, t = lane & 3;
    const int ty = (int)blockIdx.x / p.tiles_x, tx = (int)blockIdx.x % p.tiles_x, group0 = (int)blockIdx.y * GW, img = (int)blockIdx.z % p.images;
    const int cy0 = 2 * ty * TH - 1, cx0 = 2 * tx * TW - 1; /* the first sum's place */
    const int y0 = 2 * cy0 - 3, x0 = 3 * (2 * cx0 - 3);     /* and its first input */
    const int vh = p.HO - cy0 - 1 < 2 * TH ? p.HO - cy0 - 1 : 2 * TH, vw = p.WO - cx0 - 1 < 2 * TW ? p.WO - cx0 - 1 : 2 * TW;

    for (int i = tid; i < STEPS * GW * 32; i += NT) {
        const int    w = i / 32 % GW, k = i / 32 / GW;
        const size_t at = mailp_cuda_fragment(p.CO, STEPS, group0 + w, k) + (size_t)lane;
        mailp_dev_copy<16>(&s->weights[k][0][w][lane], eye.hi + at, true);
        if (SPLIT) {
            mailp_dev_copy<16>(&s->weights[k][1][w][lane], eye.lo + at, true);
        }
    }
    mailp_dev_wait(); /* unseen by test_faults: it is the first of its graph */
#pragma unroll 4
    for (int i = tid; i < IH * IW / 2; i += NT) {
        const int r = i / (IW / 2), c = i % (IW / 2) * 2, y = y0 + r, x = x0 + c;
        float     a = 0.0f, b = 0.0f;
        if (y >= 0 && y < p.H && x + 1 >= 0) {
            const float *from = eye.in + ((size_t)img * p.H + y) * p.W * 3;
            a = x >= 0 && x < 3 * p.W ? from[x] : 0.0f;
            b = x + 1 < 3 * p.W ? from[x + 1] : 0.0f;
        }
        a *= MAILP_CUDA_RAISE;
        b *= MAILP_CUDA_RAISE;
        const uint32_t h = mailp_dev_half2(a, b);
        *(uint32_t *)&s->hi[r][c] = h;
        if (SPLIT) {
            *(uint32_t *)&s->lo[r][c] = mailp_dev_half2_rest(h, a, b);
        }
    }
    mailp_dev_copies_end();
    mailp_dev_copies_wait<0>();
    __syncthreads();

    float acc[GW][TILES][4];
    int   base[TILES];
#pragma unroll
    for (int q = 0; q < TILES; q++) {
        const int want = (warp * TILES + q) * 8 + g, slot = want < RH * RW ? want : RH * RW - 1;
        base[q] = slot / RW * 2 * IW + slot % RW * 6 + 2 * t;
#pragma unroll
        for (int w = 0; w < GW; w++) {
            acc[w][q][0] = acc[w][q][1] = acc[w][q][2] = acc[w][q][3] = 0.0f;
        }
    }
#pragma unroll 2
    for (int k = 0; k < STEPS; k++) {
        const int off = k / 2 * IW + k % 2 * 16;
        uint32_t  a0[GW][4], a1[GW][4];
#pragma unroll
        for (int w = 0; w < GW; w++) {
            mailp_dev_fragment(a0[w], s->weights[k][0][w][lane]);
            mailp_dev_fragment(a1[w], s->weights[k][SPLIT][w][lane]); /* without SPLIT not used */
        }
#pragma unroll
        for (int q = 0; q < TILES; q++) {
            const uint16_t *h = &s->hi[0][0] + base[q] + off, *l = &s->lo[0][0] + base[q] + off;
            const uint32_t  b0[2] = {*(const uint32_t *)h, *(const uint32_t *)(h + 8)};
            float           sum[GW][4] = {}; /* see mailp_cuda_many */
            if (SPLIT) { /* the small terms first */
                const uint32_t b1[2] = {*(const uint32_t *)l, *(const uint32_t *)(l + 8)};
#pragma unroll
                for (int w = 0; w < GW; w++) {
                    mailp_dev_mma(sum[w], a1[w], b0);
                    mailp_dev_mma(sum[w], a0[w], b1);
                }
            }
#pragma unroll
            for (int w = 0; w < GW; w++) {
                mailp_dev_mma(sum[w], a0[w], b0);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    acc[w][q][e] += sum[w][e];
                }
            }
        }
    }

    /* sums to shared memory; mean and sum of squares of those that are this block's */
    const float count = 16.0f * (float)(vh * vw);
    float       mean[GW];
    bool        own[TILES][2];
#pragma unroll
    for (int q = 0; q < TILES; q++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int slot = (warp * TILES + q) * 8 + 2 * t + e, r = slot / RW - 1, c = slot % RW - 1;
            own[q][e] = r >= 0 && r < vh && c >= 0 && c < vw;
        }
    }
#pragma unroll
    for (int w = 0; w < GW; w++) {
        float sum = 0.0f;
#pragma unroll
        for (int q = 0; q < TILES; q++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                acc[w][q][e] *= eye.unscale;
                s->out[(warp * TILES + q) * 8 + 2 * t + (e & 1)][w * 16 + g + 8 * (e >> 1)] = acc[w][q][e];
                sum += own[q][e & 1] ? acc[w][q][e] : 0.0f;
            }
        }
        sum = mailp_dev_sum<32>(sum);
        if (lane == 0) {
            s->red[0][w][warp] = sum;
        }
    }
    __syncthreads();
#pragma unroll
    for (int w = 0; w < GW; w++) {
        float m2 = 0.0f;
        mean[w] = 0.0f;
        for (int i = 0; i < 8; i++) {
            mean[w] += s->red[0][w][i];
        }
        mean[w] /= count;
#pragma unroll
        for (int q = 0; q < TILES; q++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float d = acc[w][q][e] - mean[w];
                m2 += own[q][e & 1] ? d * d : 0.0f;
            }
        }
        m2 = mailp_dev_sum<32>(m2);
        if (lane == 0) {
            s->red[1][w][warp] = m2;
        }
    }
    __syncthreads();
#pragma unroll
    for (int w = 0; w < GW; w++) {
        if (tid == w) {
            float *at = eye.stats + (((size_t)img * (p.CO / 16) + group0 + w) * gridDim.x + blockIdx.x) * 3;
            float  m2 = 0.0f;
            for (int i = 0; i < 8; i++) {
                m2 += s->red[1][w][i];
            }
            at[0] = mean[w];
            at[1] = m2;
            at[2] = count;
        }
    }
    for (int i = tid; i < TH * TW * 16 * GW; i += NT) {
        const int   c = i % (16 * GW), x = i / (16 * GW) % TW, y = i / (16 * GW * TW), py = ty * TH + y, px = tx * TW + x;
        const float sign = eye.gain[group0 * 16 + c] < 0.0f ? -1.0f : 1.0f;
        if (py < p.PH && px < p.PW) {
            float v = -INFINITY;
#pragma unroll
            for (int k = 0; k < 9; k++) {
                const int r = 2 * y + k / 3, q = 2 * x + k % 3;
                if (cy0 + r >= 0 && cy0 + r < p.HO && cx0 + q >= 0 && cx0 + q < p.WO) {
                    const float f = s->out[r * RW + q][c] * sign;
                    v = mailp_dev_larger(v, f);
                }
            }
            eye.out[(((size_t)img * p.PH + py) * p.PW + px) * p.CO + group0 * 16 + c] = v * sign;
        }
    }
}

/* ---- the same in one launch, by warpgroups ---- */

/* A pixel is four halves here, the last of them nothing, and the 7 pixels of a row under an output, with one more whose weights are zeros,
   are four pieces of 16 bytes; with a stride of 2 the next output's begin a piece later. So a row of a picture is the columns of a product
   as it lies, and with rows of even and of odd number apart from each other the next output row begins a row later: two of them are one
   product, with a few columns between that are nothing. */
enum {
    MAILP_CUDA_WIDE_STEM_WIDTH = 64, /* most outputs of a row */
    MAILP_CUDA_WIDE_STEM_PITCH = 72, /* pieces of a row: 3 more than outputs, and a multiple of 8 */
    MAILP_CUDA_WIDE_STEM_N = MAILP_CUDA_WIDE_STEM_PITCH + MAILP_CUDA_WIDE_STEM_WIDTH, /* columns of a product */
    MAILP_CUDA_WIDE_STEM_PAIRS = 4,  /* products of a block, each for a row of the pooling */
    MAILP_CUDA_WIDE_STEM_IN = 4 * MAILP_CUDA_WIDE_STEM_PAIRS + 5, /* rows that they need */
    MAILP_CUDA_WIDE_STEM_EVEN = (MAILP_CUDA_WIDE_STEM_IN + 1) / 2 /* of them even ones, which lie first */
};

struct mailp_cuda_wide_stem_args {
    struct {
        const float *in;          /* [images][H][W][3] */
        const uint4 *weights;     /* [CO / 64][row][hi, lo][4][64] of two pixels each */
        const float *gain, *bias; /* [CO] */
        float       *out;         /* [images][PH][PW][CO], */
        uint4       *line;        /* or, if this is not NULL, the line of mailp_cuda_wide */
        float        unscale;
    } eye[MAILP_CUDA_EYES]; /* blockIdx.y */
    int H, W, HO, WO, CO, cluster;
    mailp_cuda_line line;   /* of what comes out, [PH][PW] */
};

template <bool SPLIT>
struct mailp_cuda_wide_stem_shared {
    __align__(128) uint4 weights[7][SPLIT ? 2 : 1][4][MAILP_CUDA_WIDE_ROWS];
    uint4          rows[SPLIT ? 2 : 1][MAILP_CUDA_WIDE_STEM_IN][MAILP_CUDA_WIDE_STEM_PITCH];
    float4         above[4][MAILP_CUDA_WIDE_NT]; /* of the sums' row above, for each thread the most of its windows there */
    float4         stat[16][4];                  /* mean, sum of squares about it and number of each block's values, by groups */
    mailp_cuda_bar filled, others;               /* the latter: what the blocks of the cluster send */
};

/* A cluster owns a picture and 64 channels, of which each warp of a block has a norm's group of 16, a block four rows of the pooling. Those
   begin with the sums' row above, of which the block above sends the maxima. As in mailp_cuda_wide, tensor cores take the sums
   of a few products, and two blocks share an SM. */
template <bool SPLIT>
static __global__ void __launch_bounds__(MAILP_CUDA_WIDE_NT, 2) mailp_cuda_wide_stem(const __grid_constant__ mailp_cuda_wide_stem_args p) {
#ifdef MAILP_CUDA_WARPGROUPS
    typedef mailp_cuda_wide_stem_shared<SPLIT> Shared;
    constexpr int N = MAILP_CUDA_WIDE_STEM_N, PITCH = MAILP_CUDA_WIDE_STEM_PITCH, PAIRS = MAILP_CUDA_WIDE_STEM_PAIRS, EVEN = MAILP_CUDA_WIDE_STEM_EVEN;
    constexpr int LO = SPLIT ? 2 : 1, IN = MAILP_CUDA_WIDE_STEM_IN, ROWS = MAILP_CUDA_WIDE_ROWS, J = MAILP_CUDA_WIDE_STEM_WIDTH / 8;
    MAILP_CUDA_SHARED(Shared, s);
    const auto &eye = p.eye[blockIdx.y];
    const int   tid = (int)threadIdx.x, lane = tid & 31, warp = __shfl_sync(0xffffffffu, tid >> 5, 0), g = lane >> 2, t = lane & 3;
    const int   rank = p.cluster > 1 ? (int)mailp_dev_rank() : 0, unit = (int)blockIdx.x / p.cluster, blocks = p.CO / ROWS;
    const int   block = unit % blocks, img = unit / blocks, row0 = rank * 2 * PAIRS; /* the first of the sums' rows */

    if (tid == 0) {
        mailp_dev_bar_init(&s->filled);
        mailp_dev_bar_init(&s->others);
        mailp_dev_bar_publish();
        if (p.cluster > 1) {
            mailp_dev_bar_expect(&s->others, (unsigned)(p.cluster * 4 * 16 + (rank > 0) * (int)sizeof s->above));
        }
        const uint4 *from = eye.weights + (size_t)block * 7 * 2 * 4 * ROWS;
        mailp_dev_bar_expect(&s->filled, (unsigned)sizeof s->weights);
        for (int i = 0; i < 7; i += SPLIT ? 7 : 1) {
            mailp_dev_bulk_load(s->weights[i], from + (size_t)i * 2 * 4 * ROWS, (unsigned)((SPLIT ? 7 : 1) * sizeof s->weights[0]), &s->filled);
        }
    }
    if (p.cluster > 1) { /* a GPU refuses the instructions of clusters in a launch without them */
        mailp_dev_cluster_arrive();
    }
    mailp_dev_wait(); /* unseen by test_faults: its cases have nothing before */
#pragma unroll 4
    for (int i = tid; i < IN * 2 * PITCH; i += MAILP_CUDA_WIDE_NT) { /* pixels */
        const int row = i / (2 * PITCH), at = i % (2 * PITCH), x = at - 3, y = 2 * row0 - 3 + row;
        float     r = 0.0f, green = 0.0f, b = 0.0f;
        if (x >= 0 && x < p.W && y >= 0 && y < p.H) {
            const float *from = eye.in + (((size_t)img * p.H + y) * p.W + x) * 3;
            r = from[0] * MAILP_CUDA_RAISE;
            green = from[1] * MAILP_CUDA_RAISE;
            b = from[2] * MAILP_CUDA_RAISE;
        }
        const uint2 hi = make_uint2(mailp_dev_half2(r, green), mailp_dev_half2(b, 0.0f));
        const int   to = (row % 2 * EVEN + row / 2) * 2 * PITCH + at;
        ((uint2 *)(void *)s->rows[0])[to] = hi;
        if (SPLIT) {
            ((uint2 *)(void *)s->rows[LO - 1])[to] = make_uint2(mailp_dev_half2_rest(hi.x, r, green), mailp_dev_half2_rest(hi.y, b, 0.0f));
        }
    }
    mailp_dev_publish(); /* tensor cores read it */
    __syncthreads();

    const int   channel = block * ROWS + warp * 16 + g;
    const float gain[2] = {eye.gain[channel], eye.gain[channel + 8]}, bias[2] = {eye.bias[channel], eye.bias[channel + 8]};
    const float sign[2] = {gain[0] < 0.0f ? -1.0f : 1.0f, gain[1] < 0.0f ? -1.0f : 1.0f}; /* see mailp_cuda_stem */
    const mailp_cuda_operand a0 = mailp_dev_operand(s->weights, 16 * ROWS, 128), b0 = mailp_dev_operand(s->rows, 16, 128);
    float most[PAIRS][J][2] = {}, below[J][2]; /* of windows 4 j + t: in the rows up to now, in the last of them; times sign */
    float near = 0.0f, first = 0.0f, second = 0.0f; /* about near, which is not far from their mean: sums of the values, of their squares */
#pragma unroll
    for (int j = 0; j < J; j++) {
        below[j][0] = below[j][1] = -INFINITY;
    }
    mailp_dev_bar_wait(&s->filled, 0);
#pragma unroll 1
    for (int pair = 0; pair < PAIRS; pair++) {
        const mailp_cuda_operand b1 = mailp_dev_operand_at(b0, 2 * pair * PITCH);
        float                    acc[N / 2] = {}, sum[N / 2];
#pragma unroll
        for (int row = 0; row < 7; row++) {
            const int                begins = row == 0 || row == 3 || row == 5, ends = row == 2 || row == 4 || row == 6;
            const mailp_cuda_operand a = mailp_dev_operand_at(a0, row * LO * 4 * ROWS), b = mailp_dev_operand_at(b1, (row % 2 * EVEN + row / 2) * PITCH);
            if (begins) {
                mailp_dev_products_begin();
            }
#pragma unroll
            for (int k = 0; k < 2; k++) { /* the small terms first */
                if (SPLIT) {
                    mailp_dev_product<N>(sum, mailp_dev_operand_at(a, (4 + 2 * k) * ROWS), mailp_dev_operand_at(b, 2 * k), !begins || k > 0);
                    mailp_dev_product<N>(sum, mailp_dev_operand_at(a, 2 * k * ROWS), mailp_dev_operand_at(b, 2 * k + IN * PITCH), 1);
                }
                mailp_dev_product<N>(sum, mailp_dev_operand_at(a, 2 * k * ROWS), mailp_dev_operand_at(b, 2 * k), SPLIT || !begins || k > 0);
            }
            if (ends) {
                mailp_dev_products_end();
                mailp_dev_products_wait(0);
                mailp_dev_products_done(sum);
#pragma unroll
                for (int i = 0; i < N / 2; i++) {
                    acc[i] += sum[i];
                }
            }
        }
        const int  rows = p.HO - row0 - 2 * pair; /* 2 or more, or 1, or none */
        const auto value = [&](int row, int j, int h, int e) { return acc[4 * (row * PITCH / 8 + j) + 2 * h + e]; };
        const auto valid = [&](int row, int j, int e) { return row < rows && 8 * j + 2 * t + e < p.WO; };
        if (pair == 0) {
            float total = 0.0f;
#pragma unroll
            for (int i = 0; i < 8 * J; i++) {
                total += valid(i / 4 / J, i / 4 % J, i % 2) ? value(i / 4 / J, i / 4 % J, i / 2 % 2, i % 2) : 0.0f;
            }
            near = mailp_dev_sum<32>(total) / (16.0f * (float)((rows < 2 ? rows : 2) * p.WO));
        }
#pragma unroll
        for (int i = 0; i < 8 * J; i++) {
            const float d = valid(i / 4 / J, i / 4 % J, i % 2) ? value(i / 4 / J, i / 4 % J, i / 2 % 2, i % 2) - near : 0.0f;
            first += d;
            second += d * d;
        }
        /* a window's columns are this lane's two and the one before */
#pragma unroll
        for (int i = 0; i < J * 2 * (PAIRS - 1); i++) {
            most[i / 2 / J][i / 2 % J][i % 2] = most[i / 2 / J + 1][i / 2 % J][i % 2];
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float before[2] = {-INFINITY, -INFINITY}; /* the odd column of the eight before, of both rows */
#pragma unroll
            for (int j = 0; j < J; j++) {
                float here[2];
#pragma unroll
                for (int row = 0; row < 2; row++) {
                    const float even = valid(row, j, 0) ? value(row, j, h, 0) * sign[h] : -INFINITY;
                    const float odd = valid(row, j, 1) ? value(row, j, h, 1) * sign[h] : -INFINITY;
                    const float left = __shfl_sync(0xffffffffu, t == 3 ? before[row] : odd, (lane & 28) | ((t + 3) & 3));
                    before[row] = odd;
                    here[row] = mailp_dev_larger(mailp_dev_larger(even, odd), left);
                }
                most[PAIRS - 1][j][h] = mailp_dev_larger(mailp_dev_larger(here[0], here[1]), below[j][h]);
                below[j][h] = here[1];
            }
        }
    }

    /* to the block below its row above; to all what this block knows of the picture's mean and deviation */
    const int   mine = p.HO - row0 < 2 * PAIRS ? p.HO - row0 : 2 * PAIRS;
    const float count = 16.0f * (float)(mine * p.WO), whole = 1.0f / (16.0f * (float)(p.HO * p.WO));
    float       mean, inv;
    first = mailp_dev_sum<32>(first) / count;
    second = (mailp_dev_sum<32>(second) - first * first * count) * eye.unscale * eye.unscale;
    second = second < 0.0f ? 0.0f : second; /* not-a-number stays */
    near = (near + first) * eye.unscale;
    if (p.cluster > 1) {
        mailp_dev_cluster_wait(); /* every peer's barriers are there (unseen by test_faults: on a CPU they always are) */
        if (rank + 1 < p.cluster) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                mailp_dev_push4((float *)&s->above[i][tid], (unsigned)rank + 1,
                                make_float4(below[2 * i][0], below[2 * i][1], below[2 * i + 1][0], below[2 * i + 1][1]), &s->others);
            }
        }
        if (lane < p.cluster) {
            mailp_dev_push4((float *)&s->stat[rank][warp], (unsigned)lane, make_float4(near, second, count, 0.0f), &s->others);
        }
        mailp_dev_bar_wait(&s->others, 0);
        inv = mailp_dev_deviation(&mean, &s->stat[0][warp], p.cluster, 4, whole);
        if (rank > 0) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float4 v = s->above[i][tid];
                most[0][2 * i][0] = mailp_dev_larger(v.x, most[0][2 * i][0]);
                most[0][2 * i][1] = mailp_dev_larger(v.y, most[0][2 * i][1]);
                most[0][2 * i + 1][0] = mailp_dev_larger(v.z, most[0][2 * i + 1][0]);
                most[0][2 * i + 1][1] = mailp_dev_larger(v.w, most[0][2 * i + 1][1]);
            }
        }
    } else {
        mean = near;
        inv = mailp_dev_rsqrt(second * whole + 1e-5f);
    }

    /* norm, ReLU and out: of 8 windows a lane has numbers t and 4 + t, in a line that of its g, and channels 2 t and 2 t + 1 of 8 */
#pragma unroll
    for (int pair = 0; pair < PAIRS; pair++) {
        const int py = rank * PAIRS + pair;
#pragma unroll
        for (int i = 0; i < J / 2; i++) {
            const int px = 8 * i + 4 * (g & 1) + g / 2;
            const int place = py < p.line.H && px < p.line.W ? img * p.line.S + (py + 1) * p.line.P + px + 1 : -1;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float v[2];
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    v[e] = (most[pair][2 * i + e][h] * (sign[h] * eye.unscale) - mean) * inv * gain[h] + bias[h];
                    v[e] = v[e] < 0.0f ? 0.0f : v[e]; /* not-a-number stays */
                    if (!eye.line && py < p.line.H && 8 * i + 4 * e + t < p.line.W) {
                        eye.out[(((size_t)img * p.line.H + py) * p.line.W + 8 * i + 4 * e + t) * p.CO + channel + 8 * h] = v[e];
                    }
                }
                if (!eye.line) {
                    continue;
                }
                mailp_dev_put_place<SPLIT>(eye.line, p.line, place, channel - g + 8 * h, v[0], v[1]);
            }
        }
    } /* a block leaves when all pushes into it have come; its own go to blocks that wait for them */
#else
    (void)p;
#endif
}

struct mailp_cuda_keypoints_args {
    mailp_cuda_history h;                 /* features go to each robot's next slot */
    struct {
        float       *features;            /* [images][feature_dim]; for tests, as are the keypoints */
        float       *keypoints;           /* [images][n_keypoints][2], x then y */
        const float *map;                 /* [images][px][C] */
        const float *conv_w, *conv_b;     /* [n_keypoints][C], [n_keypoints] */
        const float *pos_x, *pos_y;       /* [px] */
        const float *fc_w, *fc_b;         /* [feature_dim][2 n_keypoints], [feature_dim] */
        const float *temperature;         /* [1] */
        int          at;                  /* the features' place in a slot */
    } eye[MAILP_CUDA_EYES];               /* blockIdx.y */
    int px, C, n_keypoints, feature_dim;
};

/* a = conv_w map + conv_b, p = softmax(a / temperature) over pixels, keypoint = (sum p pos_x, sum p pos_y);
   features = fc_w keypoints + fc_b. One block owns one image. A warp makes 4 x 8 values a (keypoints, pixels), its lanes share the
   channels; then a warp has a keypoint, a lane every 32nd pixel; then a warp a feature. Pixels come in pieces: maximum and
   sums are carried on (a new maximum scales what was summed before). */
enum { MAILP_CUDA_KEYPOINTS_NT = 512, MAILP_CUDA_KEYPOINTS_PX = 128 };

/* Bytes of shared memory for n keypoints */
static inline size_t mailp_cuda_keypoints_bytes(size_t n) {
    return sizeof(float) * (MAILP_CUDA_KEYPOINTS_PX + 6) * n;
}
static __global__ void __launch_bounds__(MAILP_CUDA_KEYPOINTS_NT) mailp_cuda_keypoints(const __grid_constant__ mailp_cuda_keypoints_args p) {
    constexpr int KN = 4, PN = 8, PX = MAILP_CUDA_KEYPOINTS_PX;
    MAILP_CUDA_SHARED(float, shared);
    const auto  &eye = p.eye[blockIdx.y];
    const int    tid = (int)threadIdx.x, lane = tid & 31, warp = tid >> 5, NW = (int)blockDim.x / 32, b = (int)blockIdx.x;
    const float *map = eye.map + (size_t)b * p.px * p.C;
    const float  scale = MAILP_CUDA_LOG2E / eye.temperature[0];
    float       *a = shared;                                                           /* [n_keypoints][PX] */
    float4      *sums = (float4 *)(void *)(shared + p.n_keypoints * PX);               /* [n_keypoints] maximum; sums of p, p x, p y */
    float       *kp = (float *)(sums + p.n_keypoints);                                 /* [n_keypoints][2], x then y */
    const int    quads = (p.n_keypoints + KN - 1) / KN;

    mailp_dev_wait();
    for (int px0 = 0; px0 < p.px; px0 += PX) {
        const int here = p.px - px0 < PX ? p.px - px0 : PX, tasks = quads * ((here + PN - 1) / PN);
        for (int task = warp; task < tasks; task += NW) {
            const int k0 = task % quads * KN, i0 = task / quads * PN;
            float     v[KN * PN] = {};
            for (int c = lane * 4; c < p.C; c += 128) {
                float4 w[KN];
#pragma unroll
                for (int k = 0; k < KN; k++) {
                    w[k] = *(const float4 *)(eye.conv_w + (size_t)(k0 + k < p.n_keypoints ? k0 + k : 0) * p.C + c);
                }
#pragma unroll
                for (int i = 0; i < PN; i++) {
                    const float4 m = *(const float4 *)(map + (size_t)(px0 + i0 + i < p.px ? px0 + i0 + i : 0) * p.C + c);
#pragma unroll
                    for (int k = 0; k < KN; k++) {
                        v[k * PN + i] += w[k].x * m.x + w[k].y * m.y + w[k].z * m.z + w[k].w * m.w;
                    }
                }
            }
            mailp_dev_share_sums<32>(v, lane);
            const int k = k0 + lane / PN, i = i0 + lane % PN;
            if (k < p.n_keypoints && i < here) {
                a[k * PX + i] = (v[0] + eye.conv_b[k]) * scale;
            }
        }
        __syncthreads();
        for (int k = warp; k < p.n_keypoints; k += NW) {
            const float4 old = px0 ? sums[k] : make_float4(-INFINITY, 0.0f, 0.0f, 0.0f);
            float        top = old.x, sum = 0.0f, sx = 0.0f, sy = 0.0f;
            for (int i = lane; i < here; i += 32) {
                const float next = a[k * PX + i];
                top = mailp_dev_larger(top, next);
            }
            top = mailp_dev_max32(top);
            for (int i = lane; i < here; i += 32) {
                const float now = mailp_dev_ex2(a[k * PX + i] - top);
                sum += now;
                sx += now * eye.pos_x[px0 + i];
                sy += now * eye.pos_y[px0 + i];
            }
            const float before = mailp_dev_ex2(old.x - top);
            sum = mailp_dev_sum<32>(sum) + old.y * before;
            sx = mailp_dev_sum<32>(sx) + old.z * before;
            sy = mailp_dev_sum<32>(sy) + old.w * before;
            if (lane == 0) {
                sums[k] = make_float4(top, sum, sx, sy);
                kp[2 * k] = sx / sum;
                kp[2 * k + 1] = sy / sum;
            }
        }
        __syncthreads();
    }
    for (int i = tid; i < 2 * p.n_keypoints; i += (int)blockDim.x) {
        eye.keypoints[(size_t)b * p.n_keypoints * 2 + i] = kp[i];
    }
    float *slot = p.h.ring + ((size_t)b * p.h.obs_seq + p.h.head[b]) * p.h.state_dim + eye.at;
    for (int f = warp; f < p.feature_dim; f += NW) {
        float v = 0.0f;
        for (int k = lane; k < 2 * p.n_keypoints; k += 32) {
            v += eye.fc_w[(size_t)f * 2 * p.n_keypoints + k] * kp[k];
        }
        v = mailp_dev_sum<32>(v) + eye.fc_b[f];
        if (lane == 0) {
            eye.features[(size_t)b * p.feature_dim + f] = v;
            slot[f] = v;
            if (!(fabsf(v) <= FLT_MAX)) {
                p.h.fault[2 * b] = 1;
            }
        }
    }
}

/* ====================================================================================================================
   >>denoise   the whole denoising loop of a few robots in one launch

   A cluster of 8 blocks owns R robots, that is M = R * T tokens: the chunk's, and with OBS = 1 before them the one of an
   observation of a single frame (a sixth more tokens here in place of 48 kernels before the loop, and no states of prefixes
   in memory but the time token's, which all robots share). Block k holds channels 32 k.. of d_inner and rows 16 k.. of
   d_model of every layer; every block keeps the whole residual stream, in registers of the lanes that norm it. In each layer
   the blocks meet three times, each time by sending some hundred bytes into every peer's shared memory in the background and
   waiting on a barrier that counts bytes: partial sums of x_proj, which everyone adds up; those of out_proj, of which a block gets
   and adds up its own rows; these rows. An SM receives about 16 bytes a cycle, so that with three tiles of columns or more the
   first takes two steps, too: each block adds up a part and sends it to everyone. There is no grid barrier and
   no activation in global memory; clusters do not know of each other, so a robot's result does not depend on the batch.

   Products run on tensor cores, tokens being columns, of which a tile has 8. A thread has the weights of its fragments in
   registers: as soon as it has used those of a layer it asks for the next one's, which arrive from L2 while the rest of the
   layer is at work, and need not be read from shared memory, whose bandwidth other stages wait for. in_proj takes half operands as hi + lo (its inputs come from a norm and are small), the other two, whose
   inputs have no bound, tf32 operands as hi + lo; three products each, float32-class.

   No exchange needs two buffers: a peer pushes exchange e of the next layer only after it has received exchange e + 1 of
   this layer from this block, and this block sends that after it has read e.

   Within a stage everything is read before anything is written: the compiler cannot tell that they are different places, and would
   wait for the first tile's results before it reads what the second needs.

   For the released widths only: d_model 128, d_inner 256, dt_rank 8, d_conv up to 4. Others take the plain path.
   ================================================================================================================= */

enum {
    MAILP_CUDA_DM = 128,      /* d_model */
    MAILP_CUDA_DI = 256,      /* d_inner */
    MAILP_CUDA_DC = 4,        /* d_conv, padded with zero taps */
    MAILP_CUDA_DTR = 8,       /* dt_rank */
    MAILP_CUDA_CS = 8,        /* blocks of a cluster */
    MAILP_CUDA_CL = 32,       /* channels of d_inner that a block has: 8 lanes each */
    MAILP_CUDA_OL = 16,       /* rows of d_model: one tile of a tensor core */
    MAILP_CUDA_NT = 256,      /* threads: eight warps */
    MAILP_CUDA_MAX_ACTION = 16
};

/* What a block needs of a layer beside its products, for each of its channels. */
template <int DS>
struct __align__(16) mailp_cuda_channels {
    float conv_w[MAILP_CUDA_CL][MAILP_CUDA_DC], conv_b[MAILP_CUDA_CL];
    float scale[2][MAILP_CUDA_CL], bias[2][MAILP_CUDA_CL]; /* rows of x, of z: in_proj's sums are scaled; it, applied to the norm's bias */
    float dt_w[MAILP_CUDA_CL][MAILP_CUDA_DTR], dt_b[MAILP_CUDA_CL];
    float A2[MAILP_CUDA_CL][DS];
    float D[MAILP_CUDA_CL];
};

/* One block's part of one layer, in the order in which the threads read it. A fragment has 16 rows and as many inputs (half)
   or half as many (tf32); inputs are numbered so that lane 4 g + t has four neighbouring ones of every 16, number 4 t.. */
template <int DS>
struct __align__(128) mailp_cuda_slice {
    static constexpr int XP = MAILP_CUDA_DTR + 2 * DS, XT = (XP + 15) / 16; /* outputs of x_proj, and their tiles */
    uint4  in_proj[2][2][2][MAILP_CUDA_NT]; /* [x, z][hi, lo][step][thread], the norm's gain folded in; warp w: tile w % 2, inputs 32 (w / 2).. */
    float4 out_proj[4][MAILP_CUDA_NT];      /* [step][thread]; this block's channels; warp w: rows 16 w.. */
    float4 x_proj[4][XT * 32];              /* [step][lane of the tile]; outputs are dt, then per pair of states B B C C (8 states: B C) */
    mailp_cuda_channels<DS> channels;
};

struct mailp_cuda_loop_args {
    mailp_cuda_sampler s;
    const void        *slices;  /* [layers][8] of mailp_cuda_slice */
    const float       *state;   /* [layers][steps * robots] states after the prefix, slice = 32; OBS: [layers][steps] after the
                                   time token, which are every robot's */
    const float       *tok;     /* OBS: [robots][128] observation tokens before their position */
    const float       *cond;    /* ED-Ma: [steps][robots][T][128] */
    int                steps, calls, layers;
};

template <int DS, int OBS, int T, int R, bool COND>
struct mailp_cuda_loop_shared {
    static constexpr int M = R * T, TILES = (M + 7) / 8, COLS = 8 * TILES, XP = mailp_cuda_slice<DS>::XP, STATES = OBS ? 1 : R;
    static constexpr int LANES = TILES == 1 ? 32 : TILES == 2 ? 16 : 8; /* that norm a token */
    static constexpr int STATE = MAILP_CUDA_CL * (MAILP_CUDA_DC - 1 + DS);
    static constexpr int ROW = COLS + (TILES % 2 ? 0 : 8); /* floats; = 8 mod 16, so that rows begin in different banks */
    struct layer { /* what comes from global memory, copied by all threads */
        mailp_cuda_channels<DS>    channels;
        __align__(16) float state[STATES][STATE];
    } ring[2];
    __align__(16) uint4 norm[8][TILES][32];                          /* B fragments of in_proj: hi, hi, lo, lo */
    __align__(16) float sums[4][MAILP_CUDA_CL][ROW];                 /* of in_proj, by quarters of the inputs: x, later z */
    __align__(16) uint32_t u[2][MAILP_CUDA_CL / 16][COLS][16];       /* hi, lo; this block's channels, 16 together */
    /* With many columns sums of x_proj travel twice: block k adds up the k-th PART of them and sends it to everyone. */
    static constexpr bool SPREAD = TILES >= 3;
    static constexpr int  PART = SPREAD ? (M * XP + 4 * MAILP_CUDA_CS - 1) / (4 * MAILP_CUDA_CS) * 4 : M * XP;
    __align__(16) float x_proj[COLS][XP], part[MAILP_CUDA_CS][SPREAD ? (PART + 27) / 32 * 32 + 4 : PART]; /* partial sums: this block's, everyone's;
                                                                        spread, they begin in different banks */
    union __align__(16) { /* after the scan nobody needs xd and dt; they are written again when all peers have this layer's out */
        float xd[COLS][XP + 4];                                      /* sums of x_proj; rows begin in different banks, so do those of dt */
        float noise[COLS][MAILP_CUDA_MAX_ACTION];                    /* of the sampler's step */
    };
    union __align__(16) {
        float dt[MAILP_CUDA_CL][COLS + 4][2];                        /* dt and dt u */
        float out[COLS][MAILP_CUDA_OL];                              /* sum of out_proj */
    };
    __align__(16) uint32_t y[2][COLS][MAILP_CUDA_CL];                /* hi, lo; gated scan output of this block's channels; 16 of them
                                                                        swap places with the other 16 in odd columns */
    __align__(16) float rows[MAILP_CUDA_CS][COLS * MAILP_CUDA_OL + 4]; /* of out_proj, by blocks' channels: [pair of columns][row, + 8][4],
                                                                        as a lane has them; parts begin in different banks */
    __align__(16) float out_all[MAILP_CUDA_CS][COLS + 1][MAILP_CUDA_OL]; /* their sum; everyone's */
    __align__(16) float emb_w[MAILP_CUDA_MAX_ACTION][MAILP_CUDA_DM], pred_w[MAILP_CUDA_MAX_ACTION][MAILP_CUDA_DM]; /* [action][d_model] */
    __align__(16) float norm_w[MAILP_CUDA_DM], norm_b[MAILP_CUDA_DM]; /* of the head */
    __align__(16) float x[COLS][MAILP_CUDA_MAX_ACTION]; /* noisy actions; zeros behind them */
    float               box[3][MAILP_CUDA_MAX_ACTION], step[5]; /* pred_b, lo, hi; of the sampler's step */
    mailp_cuda_bar      hop[4];
};

/* Mean and variance of a token's 128 values, of which this lane holds Q * 4 and its LANES neighbours the others; from sums about
   `about`. */
template <int LANES, int Q>
static __device__ __forceinline__ void mailp_cuda_moments(float &mean, float &var, const float4 (&v)[Q], float about) {
    float sum = 0.0f, sq = 0.0f;
#pragma unroll
    for (int q = 0; q < Q; q++) {
        const float a = v[q].x - about, b = v[q].y - about, c = v[q].z - about, d = v[q].w - about;
        sum += (a + b) + (c + d);
        sq += (a * a + b * b) + (c * c + d * d);
    }
#pragma unroll
    for (int d = LANES / 2; d; d >>= 1) {
        sum += __shfl_xor_sync(0xffffffffu, sum, d);
        sq += __shfl_xor_sync(0xffffffffu, sq, d);
    }
    const float off = sum * (1.0f / MAILP_CUDA_DM);
    var = fmaxf(sq * (1.0f / MAILP_CUDA_DM) - off * off, 0.0f);
    mean = about + off;
}

/* One block: its slice of every layer for the M tokens of its cluster. Threads: LANES lanes norm a token; 8 lanes share a channel,
   as one token each (of a tile) around the scan, as 1 or 2 states in it. */
template <int DS, int OBS, int T, int R, bool COND>
static __global__ void __launch_bounds__(MAILP_CUDA_NT, 1) mailp_cuda_loop(mailp_cuda_loop_args p) {
#ifdef MAILP_CUDA_CLUSTERS
    typedef mailp_cuda_slice<DS>                        Slice;
    typedef mailp_cuda_loop_shared<DS, OBS, T, R, COND> Shared;
    typedef typename Shared::layer                      Layer;
    constexpr int M = R * T, TILES = Shared::TILES, COLS = Shared::COLS, XP = Shared::XP, XT = Slice::XT, SPL = DS / 8; /* states a lane */
    constexpr int XW = TILES == 1 ? 1 : MAILP_CUDA_NT / 32 / XT; /* warps that share a tile of x_proj's outputs */
    constexpr int NT = MAILP_CUDA_NT, DM = MAILP_CUDA_DM, DC = MAILP_CUDA_DC, DTR = MAILP_CUDA_DTR, CS = MAILP_CUDA_CS, CL = MAILP_CUDA_CL;
    constexpr int A = T - OBS, CHANNELS4 = sizeof(mailp_cuda_channels<DS>) / 16, STATE4 = Shared::STATE / 4;
    constexpr int LAYER4 = CHANNELS4 + Shared::STATES * STATE4, AHEAD = (LAYER4 + NT - 1) / NT;
    /* One tile: registers are left. Stores, not copies, in the second and third exchange; weights of x_proj and out_proj are split while
       an exchange is waited for; a thread keeps its numbers. */
    constexpr bool ONE = TILES == 1, SPREAD = Shared::SPREAD;
    constexpr int PAIRS = (M + 1) / 2, PART = Shared::PART; /* pairs of columns; sums of x_proj in a part */
    constexpr int LANES = Shared::LANES, Q = 32 / LANES; /* float4 of a token in a lane: channels 4 l.., 4 (l + LANES).., ..; tokens of a warp */
    static_assert(!(OBS && COND), "an encoder's observation goes ahead of the loop");
    static_assert(sizeof(Layer) == 16 * (size_t)LAYER4, "no gaps");
    static_assert(NT / 32 == CS, "a warp for each block");
    MAILP_CUDA_SHARED(Shared, s);
    int            tid = (int)threadIdx.x;
    unsigned       rank = mailp_dev_rank();
    if (ONE) {
        mailp_dev_keep(tid);
        mailp_dev_keep(rank);
    }
    const int lane = tid & 31, g = lane >> 2, t4 = lane & 3, o = tid >> 3, j = tid & 7;
    /* The compiler knows of what a shuffle brings from one lane that branches on it are a warp's; it costs a register. */
    const int warp = COND && TILES > 3 ? tid >> 5 : __shfl_sync(0xffffffffu, tid >> 5, 0);
    const int      robot0 = (int)(blockIdx.x / CS) * R, robots = p.s.robots, D = p.s.D;
    const Slice   *slices = (const Slice *)p.slices + rank;
    const int      total = p.calls * p.layers;

    /* The step of call i; diffusion-X repeats step 0. Robots past the last are computed as copies of it and not stored. Columns that
       only fill the last tile hold anything: a column of a product depends on that column alone. */
    auto step_of = [&](int call) { return call < p.steps ? p.steps - 1 - call : 0; };
    auto part_of = [&](int block) { return !SPREAD ? M * XP : M * XP - block * PART < PART ? M * XP - block * PART : PART; };
    auto robot_at = [&](int r) { return robot0 + r < robots ? robot0 + r : robots - 1; };
    const int  m_own = warp * Q + lane / LANES, l = lane % LANES, token = m_own < M ? m_own : M - 1; /* this lane's column, and what it is */
    const bool observed = OBS && token % T == 0, norms = warp * Q < COLS; /* an observation, not an action; this warp has columns */
    const size_t row = (size_t)robot_at(token / T) * A + token % T - OBS; /* of [robots][A] */

    uint4  in_w[2][2][2];           /* x, z; hi, lo; step */
    float4 out_w[4], x_w[4];
    uint32_t x_hi[4][4], x_lo[4][4];
    float4 ahead[AHEAD];            /* of the next layer's ring */
    auto   load_in = [&](int z, const Slice *w) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            in_w[z][i / 2][i % 2] = mailp_dev_load16<uint4>(&w->in_proj[z][i / 2][i % 2][tid]);
        }
    };
    auto load_x = [&](const Slice *w) {
        if (warp < XW * XT) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                x_w[i] = mailp_dev_load16<float4>(&w->x_proj[i][warp % XT * 32 + lane]);
            }
        }
    };
    auto load_out = [&](const Slice *w) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            out_w[i] = mailp_dev_load16<float4>(&w->out_proj[i][tid]);
        }
    };
    auto load_ahead = [&](const Slice *w, int call, int layer) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int at = i * NT + tid;
            if (at < CHANNELS4) {
                ahead[i] = mailp_dev_load16<float4>((const float4 *)&w->channels + at);
            } else if (at < LAYER4) {
                const int    r = (at - CHANNELS4) / STATE4, shared = OBS ? 1 : robots;
                const size_t q = ((size_t)layer * p.steps + step_of(call)) * shared + (OBS ? 0 : robot_at(r));
                ahead[i] = mailp_dev_load16<float4>((const float4 *)(p.state + (q * CS + rank) * Shared::STATE) + (at - CHANNELS4) % STATE4);
            }
        }
    };
    auto store_ahead = [&](int place) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (i * NT + tid < LAYER4) {
                ((float4 *)&s->ring[place])[i * NT + tid] = ahead[i];
            }
        }
    };

    if (tid == 0) {
        for (int i = 0; i < 4; i++) {
            mailp_dev_bar_init(&s->hop[i]);
        }
        mailp_dev_bar_publish();
    }
    load_in(0, slices);
    load_in(1, slices);
    load_x(slices);
    load_out(slices);
    for (int i = tid; i < D * DM; i += NT) {
        s->pred_w[i / DM][i % DM] = p.s.pred_w[i];
        s->emb_w[i % D][i / D] = p.s.emb_w[i];
    }
    for (int i = D * DM + tid; i < MAILP_CUDA_MAX_ACTION * DM; i += NT) {
        (&s->emb_w[0][0])[i] = 0.0f;
    }
    if (tid < D) {
        s->box[0][tid] = p.s.pred_b[tid];
        s->box[1][tid] = p.s.lo[tid];
        s->box[2][tid] = p.s.hi[tid];
    }
    for (int i = tid; i < DM; i += NT) {
        s->norm_w[i] = p.s.norm_w[i];
        s->norm_b[i] = p.s.norm_b[i];
    }
    mailp_dev_wait();
    load_ahead(slices, 0, 0);

    float4 base[Q], res[Q], cond[Q]; /* of this lane's token: what it is without the noisy actions; residual stream; encoder's output */
    float  mean = 0.0f;              /* before the last layer's output */
    {
        const int     robot = robot_at(token / T);
        const float4 *pos = (const float4 *)(p.s.pos + (size_t)(observed ? 0 : p.s.states[robot] - 1 + token % T - OBS) * DM);
        const float4 *from = (const float4 *)(observed ? p.tok + (size_t)robot * DM : p.s.emb_b);
#pragma unroll
        for (int q = 0; q < Q; q++) {
            const float4 a = pos[l + LANES * q], b = from[l + LANES * q];
            base[q] = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
            res[q] = cond[q] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
        for (int a = l; a < MAILP_CUDA_MAX_ACTION && norms; a += LANES) {
            s->x[m_own][a] = observed || a >= D ? 0.0f : p.s.x[row * D + a];
        }
    }
    auto embed = [&](int call) { /* the noisy actions, and what else a call begins with */
        float sum = 0.0f;
#pragma unroll
        for (int q = 0; q < Q; q++) {
            res[q] = base[q];
#pragma unroll 1
            for (int a0 = 0; a0 < D; a0 += 4) {
                const float4 x4 = *(const float4 *)&s->x[m_own][a0];
                const float  x[4] = {x4.x, x4.y, x4.z, x4.w};
#pragma unroll
                for (int i = 0; i < 4 && !observed; i++) {
                    const float4 e = *(const float4 *)&s->emb_w[a0 + i][4 * (l + LANES * q)];
                    res[q].x += e.x * x[i];
                    res[q].y += e.y * x[i];
                    res[q].z += e.z * x[i];
                    res[q].w += e.w * x[i];
                }
            }
            sum += (res[q].x + res[q].y) + (res[q].z + res[q].w);
            if (COND) {
                cond[q] = ((const float4 *)(p.cond + (((size_t)step_of(call) * robots + robot_at(token / T)) * T + token % T) * DM))[l + LANES * q];
            }
        }
        mean = mailp_dev_sum<LANES>(sum) * (1.0f / DM);
    };
    auto add_out = [&](bool add) { /* the last layer's output to the residual stream */
#pragma unroll
        for (int q = 0; q < Q; q++) {
            const int    k = 4 * (l + LANES * q);
            const float4 v = *(const float4 *)&s->out_all[k / MAILP_CUDA_OL][m_own][k % MAILP_CUDA_OL];
            res[q].x += add ? COND ? v.x + cond[q].x : v.x : 0.0f;
            res[q].y += add ? COND ? v.y + cond[q].y : v.y : 0.0f;
            res[q].z += add ? COND ? v.z + cond[q].z : v.z : 0.0f;
            res[q].w += add ? COND ? v.w + cond[q].w : v.w : 0.0f;
        }
    };
    store_ahead(0);
    __syncthreads(); /* emb_w */
    if (norms) {
        embed(0);
    }
    mailp_dev_cluster_sync(); /* every peer has its barriers before anyone pushes (unseen by test_faults: by then all have long begun) */

    if (ONE && warp < XW * XT) {
        mailp_dev_split_weights(x_hi, x_lo, x_w);
    }
    for (int it = 0, call = 0, layer = 0; it < total; it++) {
        const Layer   &w = s->ring[it & 1];
        const unsigned parity = it & 1;
        const bool     last_layer = layer == p.layers - 1, more = it + 1 < total;
        const int      next_layer = last_layer ? 0 : layer + 1, next_call = last_layer && more ? call + 1 : call;
        const Slice   *next = slices + (size_t)next_layer * CS;

        /* residual sum and layer norm, about the mean that the token had before: one reduction, and nothing cancels */
        if (norms) {
            float now, var;
            add_out(layer > 0);
            mailp_cuda_moments<LANES, Q>(now, var, res, mean);
            const float inv = MAILP_CUDA_RAISE * mailp_dev_rsqrt(var + 1e-5f);
            mean = now;
#pragma unroll
            for (int q = 0; q < Q; q++) {
                const float4   v = make_float4((res[q].x - now) * inv, (res[q].y - now) * inv, (res[q].z - now) * inv, (res[q].w - now) * inv);
                const uint32_t h0 = mailp_dev_half2(v.x, v.y), h1 = mailp_dev_half2(v.z, v.w);
                const int      k4 = l + LANES * q;
                s->norm[k4 >> 2][m_own >> 3][4 * (m_own & 7) + (k4 & 3)] =
                    make_uint4(h0, h1, mailp_dev_half2_rest(h0, v.x, v.y), mailp_dev_half2_rest(h1, v.z, v.w));
            }
        }
        __syncthreads();

        /* in_proj: 16 rows and 32 inputs a warp; sums of x first, those of z while x_proj is on its way */
        auto in_proj = [&](int z) {
            float acc[3][TILES][4] = {};
#pragma unroll
            for (int k = 0; k < 2; k++) {
                uint32_t hi[4], lo[4];
                mailp_dev_fragment(hi, in_w[z][0][k]);
                mailp_dev_fragment(lo, in_w[z][1][k]);
#pragma unroll
                for (int n = 0; n < TILES; n++) {
                    const uint4    v = s->norm[2 * (warp >> 1) + k][n][lane];
                    const uint32_t b0[2] = {v.x, v.y}, b1[2] = {v.z, v.w};
                    mailp_dev_mma(acc[0][n], hi, b0);
                    mailp_dev_mma(acc[1][n], lo, b0);
                    mailp_dev_mma(acc[2][n], hi, b1);
                }
            }
#pragma unroll
            for (int n = 0; n < TILES; n++) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    *(float2 *)&s->sums[warp >> 1][16 * (warp & 1) + 8 * e + g][8 * n + 2 * t4] =
                        make_float2(acc[0][n][2 * e] + (acc[1][n][2 * e] + acc[2][n][2 * e]),
                                    acc[0][n][2 * e + 1] + (acc[1][n][2 * e + 1] + acc[2][n][2 * e + 1]));
                }
            }
            load_in(z, next);
        };
        auto in_sum = [&](int z, int n) { /* of channel o and column 8 n + j */
            const float v = (s->sums[0][o][8 * n + j] + s->sums[1][o][8 * n + j]) + (s->sums[2][o][8 * n + j] + s->sums[3][o][8 * n + j]);
            return v * w.channels.scale[z][o] + w.channels.bias[z][o];
        };
        in_proj(0);
        if (TILES == 2 && warp < XW * XT) {
            mailp_dev_split_weights(x_hi, x_lo, x_w);
        }

        /* conv1d and silu: column 8 n + j of channel o */
        float u[TILES], gate[TILES];
        {
            const float4 cw = *(const float4 *)w.channels.conv_w[o];
            const float  tap[DC] = {cw.x, cw.y, cw.z, cw.w}, conv_b = w.channels.conv_b[o];
            float        old[DC - 1], now[TILES], before[DC - 1] = {}; /* after the time token; the columns before this tile's */
            if (OBS) {
#pragma unroll
                for (int q = 0; q < DC - 1; q++) {
                    old[q] = w.state[0][q * CL + o];
                }
            }
            __syncthreads();
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                now[n] = in_sum(0, n);
            }
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                const int    m = 8 * n + j < M ? 8 * n + j : M - 1, r = m / T, t = m % T;
                const float *state = w.state[OBS ? 0 : r];
                float        v = conv_b + tap[DC - 1] * now[n];
#pragma unroll
                for (int q = 1; q < DC; q++) { /* q tokens ago */
                    const float same = __shfl_sync(0xffffffffu, now[n], j - q, 8), x_q = j >= q ? same : before[q - 1];
                    float       s_q = 0.0f;
                    if (OBS) {
#pragma unroll
                        for (int e = 0; e < q; e++) { /* token e */
                            s_q = t == e ? old[e - q + DC - 1] : s_q;
                        }
                    } else {
                        s_q = state[(t < q ? t - q + DC - 1 : 0) * CL + o];
                    }
                    v += tap[DC - 1 - q] * (t >= q ? x_q : s_q);
                    before[q - 1] = same;
                }
                u[n] = mailp_dev_silu(v);
            }
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                mailp_dev_split(s->u[0][o >> 4][8 * n + j][o & 15], s->u[1][o >> 4][8 * n + j][o & 15], u[n]);
            }
        }
        __syncthreads();

        /* x_proj over this block's channels; the partial sums go to everyone */
        if (tid == NT - 1) { /* arm the exchanges of this layer */
            mailp_dev_bar_expect(&s->hop[0], CS * (unsigned)part_of((int)rank) * sizeof(float));
            if (SPREAD) {
                mailp_dev_bar_expect(&s->hop[3], M * XP * sizeof(float));
            }
            mailp_dev_bar_expect(&s->hop[1], CS * PAIRS * 2 * MAILP_CUDA_OL * sizeof(float));
            mailp_dev_bar_expect(&s->hop[2], CS * M * MAILP_CUDA_OL * sizeof(float));
        }
        if (warp < XW * XT) { /* XW warps a tile of outputs share the tiles of columns */
            constexpr int NX = (TILES + XW - 1) / XW;
            const int     tile = warp % XT;
            float         acc[NX][3][4] = {};
            if (TILES > 2) {
                mailp_dev_split_weights(x_hi, x_lo, x_w);
            }
#pragma unroll
            for (int i = 0; i < NX; i++) {
                const int n = i * XW + warp / XT < TILES ? i * XW + warp / XT : TILES - 1;
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    mailp_dev_mma_split(acc[i], x_hi + 2 * k, x_lo + 2 * k, *(const uint4 *)&s->u[0][k][8 * n + g][4 * t4],
                                         *(const uint4 *)&s->u[1][k][8 * n + g][4 * t4]);
                }
            }
#pragma unroll
            for (int i = 0; i < NX; i++) {
                const int n = i * XW + warp / XT;
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    if (n < TILES && 16 * tile + 8 * (e >> 1) < XP) {
                        s->x_proj[8 * n + 2 * t4 + (e & 1)][16 * tile + 8 * (e >> 1) + g] = acc[i][0][e] + (acc[i][1][e] + acc[i][2][e]);
                    }
                }
            }
            mailp_dev_publish();
        }
        __syncthreads();
        if (lane == 0) { /* a warp for each peer: one would take 400 cycles for all */
            mailp_dev_bulk_push(s->part[rank], (unsigned)warp, &s->x_proj[0][0] + (SPREAD ? warp * PART : 0),
                                (unsigned)part_of(warp) * sizeof(float), &s->hop[0]);
        }
        /* in its shadow: z, the gate, and what the scan needs */
        in_proj(1);
        const float4 w0 = *(const float4 *)&w.channels.dt_w[o][0], w1 = *(const float4 *)&w.channels.dt_w[o][4];
        const float  dt_b = w.channels.dt_b[o], skip = w.channels.D[o];
        float        A2[SPL], h[SPL] = {}, first[SPL]; /* h; OBS: what it is before every robot's tokens */
#pragma unroll
        for (int e = 0; e < SPL; e++) {
            A2[e] = w.channels.A2[o][SPL * j + e];
            first[e] = OBS ? w.state[0][(DC - 1) * CL + o * DS + SPL * j + e] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            gate[n] = mailp_dev_silu(in_sum(1, n));
        }
        uint32_t out_hi[4][4], out_lo[4][4];
        if (ONE && warp < CS) { /* always; a branch keeps the compiler from moving this to where it is used */
            mailp_dev_split_weights(out_hi, out_lo, out_w);
        }
        mailp_dev_bar_wait(&s->hop[0], parity);
        if (SPREAD) { /* a lane adds up four values with 7 others, and sends the sums to one block */
            constexpr int ROUNDS = (PART / 4 + NT / 8 - 1) / (NT / 8);
            const int     peer = lane & 7, size = part_of((int)rank);
            float4        v[ROUNDS];
#pragma unroll
            for (int i = 0; i < ROUNDS; i++) {
                const int at = 4 * (i * (NT / 8) + o);
                v[i] = *(const float4 *)&s->part[peer][at < size ? at : 0];
            }
#pragma unroll
            for (int i = 0; i < ROUNDS; i++) {
                const int at = 4 * (i * (NT / 8) + o), to = (int)rank * PART + at;
                v[i] = make_float4(mailp_dev_sum<8>(v[i].x), mailp_dev_sum<8>(v[i].y), mailp_dev_sum<8>(v[i].z), mailp_dev_sum<8>(v[i].w));
                if (at < size) {
                    mailp_dev_push4(&s->xd[to / XP][to % XP], (unsigned)peer, v[i], &s->hop[3]);
                }
            }
            mailp_dev_bar_wait(&s->hop[3], parity);
        } else {
            constexpr int SUMS = M * XP <= NT ? 1 : M * XP <= 2 * NT ? 2 : 4, ROUNDS = (M * XP / SUMS + NT - 1) / NT; /* neighbours in a thread */
            float         v[ROUNDS][SUMS] = {};
#pragma unroll
            for (int i = 0; i < ROUNDS; i++) {
                const int at = (i * NT + tid) * SUMS < M * XP ? (i * NT + tid) * SUMS : 0;
#pragma unroll
                for (int e = 0; e < SUMS; e++) {
                    v[i][e] = ((s->part[0][at + e] + s->part[1][at + e]) + (s->part[2][at + e] + s->part[3][at + e])) +
                              ((s->part[4][at + e] + s->part[5][at + e]) + (s->part[6][at + e] + s->part[7][at + e]));
                }
            }
#pragma unroll
            for (int i = 0; i < ROUNDS; i++) {
                const int at = (i * NT + tid) * SUMS;
#pragma unroll
                for (int e = 0; e < SUMS && at < M * XP; e++) {
                    s->xd[at / XP][at % XP + e] = v[i][e];
                }
            }
            __syncthreads();
        }

        /* dt of column 8 n + j */
        {
            float dt[TILES];
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                const float4 x0 = *(const float4 *)&s->xd[8 * n + j][0], x1 = *(const float4 *)&s->xd[8 * n + j][4];
                const float  v = (w0.x * x0.x + w0.y * x0.y + (w0.z * x0.z + w0.w * x0.w)) + (w1.x * x1.x + w1.y * x1.y + (w1.z * x1.z + w1.w * x1.w));
                dt[n] = mailp_dev_softplus(v + dt_b);
            }
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                *(float2 *)s->dt[o][8 * n + j] = make_float2(dt[n], dt[n] * u[n]);
            }
        }
        __syncwarp(); /* the 8 lanes of a channel see each other's */

        /* scan over the T tokens of each robot: states SPL j.. of channel o; then, tile by tile, the sum over the states, skip and gate */
        float y[TILES][8] = {};
#pragma unroll
        for (int m = 0; m < M; m++) {
            const float2 dt = *(const float2 *)s->dt[o][m];
            float        B[SPL], C[SPL];
            if (SPL == 2) {
                const float4 v = *(const float4 *)&s->xd[m][DTR + 4 * j];
                B[0] = v.x;
                B[SPL - 1] = v.y;
                C[0] = v.z;
                C[SPL - 1] = v.w;
            } else {
                const float2 v = *(const float2 *)&s->xd[m][DTR + 2 * j];
                B[0] = v.x;
                C[0] = v.y;
            }
#pragma unroll
            for (int e = 0; e < SPL; e++) {
                if (m % T == 0) {
                    h[e] = OBS ? first[e] : w.state[OBS ? 0 : m / T][(DC - 1) * CL + o * DS + SPL * j + e];
                }
                h[e] = mailp_dev_ex2(dt.x * A2[e]) * h[e] + dt.y * B[e];
                y[m / 8][m % 8] += h[e] * C[e];
            }
        }
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            mailp_dev_share_sums<8>(y[n], j);
        }
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            const int col = 8 * n + j, at = ((o >> 4) ^ (col & 1)) * 16 + (o & 15);
            mailp_dev_split(s->y[0][col][at], s->y[1][col][at], (y[n][0] + skip * u[n]) * gate[n]);
        }
        if (!ONE) {
            mailp_dev_split_weights(out_hi, out_lo, out_w);
        }
        __syncthreads();

        /* out_proj over this block's channels: 16 rows a warp, those of block number warp, which adds up everyone's */
        {
            float acc[TILES][3][4] = {};
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const int at = (k ^ (g & 1)) * 16 + 4 * t4;
#pragma unroll
                for (int n = 0; n < TILES; n++) {
                    mailp_dev_mma_split(acc[n], out_hi + 2 * k, out_lo + 2 * k, *(const uint4 *)&s->y[0][8 * n + g][at],
                                         *(const uint4 *)&s->y[1][8 * n + g][at]);
                }
            }
            float *stage = &s->sums[0][0][0] + warp * COLS * MAILP_CUDA_OL; /* nobody needs in_proj's any more */
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                const int    pair = 4 * n + t4;
                const float4 v = make_float4(acc[n][0][0] + (acc[n][1][0] + acc[n][2][0]), acc[n][0][1] + (acc[n][1][1] + acc[n][2][1]),
                                             acc[n][0][2] + (acc[n][1][2] + acc[n][2][2]), acc[n][0][3] + (acc[n][1][3] + acc[n][2][3]));
                if (!ONE) {
                    *(float4 *)&stage[(pair * 8 + g) * 4] = v;
                } else if (pair < PAIRS) {
                    mailp_dev_push4(&s->rows[rank][(pair * 8 + g) * 4], (unsigned)warp, v, &s->hop[1]);
                }
            }
            if (!ONE) {
                mailp_dev_publish();
                __syncwarp();
                if (lane == 0) {
                    mailp_dev_bulk_push(s->rows[rank], (unsigned)warp, stage, PAIRS * 2 * MAILP_CUDA_OL * sizeof(float), &s->hop[1]);
                }
            }
        }
        load_x(next); /* in the exchange's shadow: what the next layer and the sampler need */
        load_ahead(next, next_call, next_layer);
        if (last_layer) {
            if (tid < 5) {
                s->step[tid] = p.s.table[step_of(call) * 5 + tid];
            }
            for (int a = l; a < D && norms; a += LANES) {
                s->noise[m_own][a] = observed ? 0.0f : p.s.noise[((size_t)call * robots * A + row) * D + a];
            }
        }
        mailp_dev_bar_wait(&s->hop[1], parity);
        if (ONE) { /* a lane adds up four rows of a column of one block with 7 others, and sends the sums to one block */
            const int peer = lane & 7, e = lane >> 3, row0 = 4 * (warp & 1);
            float4    v[TILES];
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                const float *from = &s->rows[peer][((4 * n + (warp >> 1)) * 8 + row0) * 4 + e];
                v[n] = make_float4(from[0], from[4], from[8], from[12]);
            }
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                v[n] = make_float4(mailp_dev_sum<8>(v[n].x), mailp_dev_sum<8>(v[n].y), mailp_dev_sum<8>(v[n].z), mailp_dev_sum<8>(v[n].w));
            }
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                const int col = 2 * (4 * n + (warp >> 1)) + (e & 1);
                if (col < M) {
                    mailp_dev_push4(&s->out_all[rank][col][row0 + 8 * (e >> 1)], (unsigned)peer, v[n], &s->hop[2]);
                }
            }
        } else {
            constexpr int SIZE = PAIRS * 2 * MAILP_CUDA_OL, TIMES = (SIZE + NT - 1) / NT;
            float         v[TIMES] = {};
#pragma unroll
            for (int i = 0; i < TIMES; i++) {
                const int at = i * NT + tid < SIZE ? i * NT + tid : 0;
                v[i] = ((s->rows[0][at] + s->rows[1][at]) + (s->rows[2][at] + s->rows[3][at])) +
                       ((s->rows[4][at] + s->rows[5][at]) + (s->rows[6][at] + s->rows[7][at]));
            }
#pragma unroll
            for (int i = 0; i < TIMES; i++) {
                const int at = i * NT + tid;
                if (at < SIZE) {
                    s->out[at / 32 * 2 + (at & 1)][at / 4 % 8 + at / 2 % 2 * 8] = v[i];
                }
            }
            mailp_dev_publish();
            __syncthreads();
            if (lane == 0) {
                mailp_dev_bulk_push(s->out_all[rank], (unsigned)warp, s->out, M * MAILP_CUDA_OL * sizeof(float), &s->hop[2]);
            }
        }
        store_ahead((it + 1) & 1); /* before more loads are under way */
        load_out(next);
        if (ONE && warp < XW * XT) {
            mailp_dev_split_weights(x_hi, x_lo, x_w);
        }
        mailp_dev_bar_wait(&s->hop[2], parity);

        if (last_layer && norms) { /* head and update, the same on every block; see >>sampler */
            const bool last = call + 1 == p.calls;
            float      now, var;
            add_out(true);
            mailp_cuda_moments<LANES, Q>(now, var, res, mean);
            const float inv = mailp_dev_rsqrt(var + 1e-5f);
#pragma unroll
            for (int q = 0; q < Q; q++) {
                const float4 f = *(const float4 *)&s->norm_w[4 * (l + LANES * q)], b = *(const float4 *)&s->norm_b[4 * (l + LANES * q)];
                res[q] = make_float4((res[q].x - now) * inv * f.x + b.x, (res[q].y - now) * inv * f.y + b.y, (res[q].z - now) * inv * f.z + b.z,
                                     (res[q].w - now) * inv * f.w + b.w);
            }
#pragma unroll 1
            for (int a0 = 0; a0 < D; a0 += 8) { /* 8 actions in 8 lanes, that update side by side */
                float     sums[8];
                const int a = a0 + (l & 7);
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    sums[i] = 0.0f;
#pragma unroll
                    for (int q = 0; q < Q; q++) {
                        const float4 f = *(const float4 *)&s->pred_w[a0 + i][4 * (l + LANES * q)];
                        sums[i] += (f.x * res[q].x + f.y * res[q].y) + (f.z * res[q].z + f.w * res[q].w);
                    }
                }
                mailp_dev_share_sums<8>(sums, lane);
                float predicted = sums[0];
#pragma unroll
                for (int d = 8; d < LANES; d <<= 1) {
                    predicted += __shfl_xor_sync(0xffffffffu, predicted, d);
                }
                if (l < 8 && a < D && !observed) {
                    predicted = mailp_dev_finite(predicted + s->box[0][a]);
                    const float x_t = s->x[m_own][a];
                    float       x_start = predicted;
                    if (p.s.predict_noise) {
                        x_start = __fsub_rn(__fmul_rn(s->step[0], x_t), __fmul_rn(s->step[1], predicted));
                    }
                    if (p.s.clip) {
                        x_start = mailp_dev_clamp(x_start, s->box[1][a], s->box[2][a]);
                    }
                    float after = __fadd_rn(__fmul_rn(s->step[2], x_start), __fmul_rn(s->step[3], x_t));
                    if (s->step[4] > 0.0f) {
                        after = __fadd_rn(after, __fmul_rn(s->step[4], s->noise[m_own][a]));
                    }
                    s->x[m_own][a] = after;
                    if (last && rank == 0 && m_own < M && robot0 + token / T < robots) {
                        const float y_a = mailp_dev_clamp(mailp_dev_finite(after), s->box[1][a], s->box[2][a]);
                        p.s.actions[row * D + a] = p.s.std ? __fadd_rn(__fmul_rn(y_a, p.s.std[a]), p.s.mean[a]) : y_a;
                        if (p.s.trace_norm) {
                            p.s.trace_norm[row * D + a] = y_a;
                        }
                    }
                }
            }
            __syncwarp(); /* x is seen by all lanes of its token */
            if (more) {
                embed(next_call);
            }
        }
        layer = next_layer;
        call = next_call;
    }
    mailp_dev_cluster_sync(); /* no block leaves early (unseen by test_faults: all pushes into it were awaited) */
#else
    (void)p;
#endif
}

/* ====================================================================================================================
   >>weights   checkpoint tensors -> one block of device memory

   Loading runs twice over the same code: first it adds up sizes, then it reads tensors into a host copy of the block and
   sets the device pointers. The first failure sticks and everything after it does nothing.
   ================================================================================================================= */

enum { MAILP_CUDA_MAX_LAYERS = 64 };

struct mailp_cuda_source {  /* gives n float32 values of a named tensor */
    mail_status (*read)(void *user, const char *name, float *values, size_t n, mail_error *err);
    void *user;
};

struct mailp_cuda_mamba_layer {
    const float *norm_w, *norm_b, *in_proj, *conv_w, *conv_b, *x_proj, *dt_w, *dt_b, *A2, *D, *out_proj;
};

struct mailp_cuda_block {  /* of a transformer; qkv: query, key, value and, in a decoder, cross_query */
    const float *ln1, *qkv_w, *qkv_b, *cross_w, *cross_b, *proj_w, *proj_b, *ln2, *up_w, *up_b, *down_w, *down_b;
};

struct mailp_cuda_trunk {
    int                    n_layers;
    int                    d_state, d_conv, d_inner, dt_rank;  /* Mamba; d_conv at least 4: shorter ones get zero taps */
    mailp_cuda_mamba_layer mamba[MAILP_CUDA_MAX_LAYERS];
    mailp_cuda_block       block[MAILP_CUDA_MAX_LAYERS];
    const float           *norm_w, *norm_b;                    /* after the last layer; norm_b NULL in a transformer */
};

struct mailp_cuda_stage {  /* a convolution and its GroupNorm */
    const float *w, *gain, *bias;
    int          CI, CO, size, stride;
    const float *hi;       /* the same weights as A fragments (see mailp_cuda_fragment), or NULL */
    float        unscale;  /* what sums of products with them are multiplied by */
    const float *wide;     /* and for mailp_cuda_wide (see mailp_cuda_wide_job), or NULL */
};

struct mailp_cuda_camera {
    mailp_cuda_stage stem, conv1[8], conv2[8], down[8];  /* eight basic blocks; down[i].w NULL: the skip is x itself */
    const float     *kp_w, *kp_b, *pos_x, *pos_y, *temperature, *fc_w, *fc_b;
    int              height, width, n_keypoints, feature_dim;
};

struct mail_cuda_policy {
    mailp_config      config;
    int               device, sm, smem, max_cluster; /* number, compute capability * 10, bytes a block may ask for, largest cluster */
    int               sms;                      /* multiprocessors */
    int               warpgroups;               /* it multiplies by them, and the program was compiled for that (sm_90a) */
    float            *memory;                   /* device; everything below points into it */
    mailp_cuda_trunk  trunk[2];
    mailp_cuda_camera camera[MAIL_MAX_CAMERAS];
    const float      *image_table;              /* [3][256] */
    const float      *tok_w, *tok_b, *pos, *lang_w, *lang_b;
    const float      *time;                     /* [n_timesteps][d_model] time tokens */
    const float      *obs_table, *act_table, *under_table; /* learned rows: after the states in the encoder, the action
                                                   tokens of BC, and what stands under the states in an ED-Ma decoder */
    const float      *emb_w, *emb_b, *pred_w, *pred_b;
    const float      *lo, *hi, *std, *mean;
    float            *ddpm_memory;              /* host */
    mail_ddpm         ddpm;
    const float      *slices;                   /* weights cut for the blocks of a cluster, or NULL */
};

struct mailp_cuda_loader {
    mailp_cuda_source source;
    float            *host, *device;  /* NULL in the first run */
    size_t            used;           /* floats */
    float            *tmp;            /* one tensor */
    size_t            tmp_need;
    mail_status       status;
    mail_error       *err;
};

/* Room for n floats: *device is set, the host copy is returned (NULL in the first run). */
static inline float *mailp_cuda_take(mailp_cuda_loader *l, const float **device, size_t n) {
    const size_t at = l->used;
    l->used += (n + 31) / 32 * 32; /* 128 bytes */
    if (!l->host) {
        return NULL;
    }
    *device = l->device + at;
    return l->host + at;
}

/* values [n] = the named tensor; NULL: nothing is read. */
static inline void mailp_cuda_read(mailp_cuda_loader *l, float *values, size_t n, const char *format, ...) {
    char    name[256];
    va_list args;
    if (!values || l->status != MAIL_OK) {
        return;
    }
    va_start(args, format);
    (void)vsnprintf(name, sizeof name, format, args);
    va_end(args);
    l->status = l->source.read(l->source.user, name, values, n, l->err);
}

/* Take room for a tensor and read it as it is. */
static inline void mailp_cuda_load(mailp_cuda_loader *l, const float **device, size_t n, const char *prefix, const char *name) {
    mailp_cuda_read(l, mailp_cuda_take(l, device, n), n, "%s%s", prefix, name);
}

/* Take room for [cols][rows] and read a tensor [rows][cols] transposed. Returns the host copy or NULL. */
static inline float *mailp_cuda_load_transposed(mailp_cuda_loader *l, const float **device, size_t rows, size_t cols,
                                                const char *prefix, const char *name) {
    float *to = mailp_cuda_take(l, device, rows * cols);
    l->tmp_need = rows * cols > l->tmp_need ? rows * cols : l->tmp_need;
    if (!to) {
        return NULL;
    }
    mailp_cuda_read(l, l->tmp, rows * cols, "%s%s", prefix, name);
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < cols; c++) {
            to[c * rows + r] = l->tmp[r * cols + c];
        }
    }
    return to;
}

static inline void mailp_cuda_load_mamba(mailp_cuda_loader *l, mailp_cuda_trunk *t, const mailp_trunk_config *c, size_t d,
                                         const char *prefix) {
    const size_t E = c->d_inner, N = c->d_state, R = c->dt_rank, taps = c->d_conv < 4 ? 4 : c->d_conv;
    t->d_state = (int)N;
    t->d_conv = (int)taps;
    t->d_inner = (int)E;
    t->dt_rank = (int)R;
    for (size_t i = 0; i < c->n_layers; i++) {
        mailp_cuda_mamba_layer *w = &t->mamba[i];
        char                    at[256];
        (void)snprintf(at, sizeof at, "%s%s.layers.%zu.", prefix, c->name, i);
        mailp_cuda_load(l, &w->norm_w, d, at, "norm.weight");
        mailp_cuda_load(l, &w->norm_b, d, at, "norm.bias");
        mailp_cuda_load(l, &w->in_proj, 2 * E * d, at, "mixer.in_proj.weight");
        mailp_cuda_load(l, &w->conv_b, E, at, "mixer.conv1d.bias");
        mailp_cuda_load(l, &w->x_proj, (R + 2 * N) * E, at, "mixer.x_proj.weight");
        mailp_cuda_load(l, &w->dt_b, E, at, "mixer.dt_proj.bias");
        mailp_cuda_load(l, &w->D, E, at, "mixer.D");
        mailp_cuda_load(l, &w->out_proj, d * E, at, "mixer.out_proj.weight");
        mailp_cuda_load_transposed(l, &w->dt_w, E, R, at, "mixer.dt_proj.weight");
        float *A2 = mailp_cuda_load_transposed(l, &w->A2, E, N, at, "mixer.A_log");
        for (size_t j = 0; A2 && j < E * N; j++) {
            const double a = -exp((double)A2[j]) * 1.4426950408889634;
            A2[j] = (float)(a < -1e30 ? -1e30 : a); /* beyond float32 the decay is 0 all the same, but not 0 times infinity */
        }
        /* [E][1][d_conv] -> [taps][E], zeros before */
        float *conv = mailp_cuda_take(l, &w->conv_w, taps * E);
        l->tmp_need = E * c->d_conv > l->tmp_need ? E * c->d_conv : l->tmp_need;
        if (conv) {
            mailp_cuda_read(l, l->tmp, E * c->d_conv, "%smixer.conv1d.weight", at);
            memset(conv, 0, taps * E * sizeof(float));
            for (size_t j = 0; j < c->d_conv; j++) {
                for (size_t e = 0; e < E; e++) {
                    conv[(taps - c->d_conv + j) * E + e] = l->tmp[e * c->d_conv + j];
                }
            }
        }
    }
    char at[256];
    (void)snprintf(at, sizeof at, "%s%s.", prefix, c->name);
    mailp_cuda_load(l, &t->norm_w, d, at, "norm_f.weight");
    mailp_cuda_load(l, &t->norm_b, d, at, "norm_f.bias");
}

/* Read linear layers `names` (each [d][d] with bias) one below the other. */
static inline void mailp_cuda_load_stack(mailp_cuda_loader *l, const float **w, const float **b, size_t d, const char *at,
                                         const char *const *names, size_t n) {
    float *to_w = mailp_cuda_take(l, w, n * d * d), *to_b = mailp_cuda_take(l, b, n * d);
    for (size_t i = 0; i < n && to_w; i++) {
        mailp_cuda_read(l, to_w + i * d * d, d * d, "%sattn.%s.weight", at, names[i]);
        mailp_cuda_read(l, to_b + i * d, d, "%sattn.%s.bias", at, names[i]);
    }
}

static inline void mailp_cuda_load_transformer(mailp_cuda_loader *l, mailp_cuda_trunk *t, const mailp_trunk_config *c,
                                               size_t d, int cross, const char *prefix) {
    static const char *const own[] = {"query", "key", "value", "cross_query"}, *const other[] = {"cross_key", "cross_value"};
    char                     at[256];
    for (size_t i = 0; i < c->n_layers; i++) {
        mailp_cuda_block *w = &t->block[i];
        (void)snprintf(at, sizeof at, "%s%s.blocks.%zu.", prefix, c->name, i);
        mailp_cuda_load(l, &w->ln1, d, at, "ln1.weight");
        mailp_cuda_load(l, &w->ln2, d, at, "ln2.weight");
        mailp_cuda_load_stack(l, &w->qkv_w, &w->qkv_b, d, at, own, cross ? 4 : 3);
        if (cross) {
            mailp_cuda_load_stack(l, &w->cross_w, &w->cross_b, d, at, other, 2);
        }
        mailp_cuda_load(l, &w->proj_w, d * d, at, "attn.proj.weight");
        mailp_cuda_load(l, &w->proj_b, d, at, "attn.proj.bias");
        mailp_cuda_load(l, &w->up_w, 4 * d * d, at, "mlp.0.weight");
        mailp_cuda_load(l, &w->up_b, 4 * d, at, "mlp.0.bias");
        mailp_cuda_load(l, &w->down_w, 4 * d * d, at, "mlp.2.weight");
        mailp_cuda_load(l, &w->down_b, d, at, "mlp.2.bias");
    }
    (void)snprintf(at, sizeof at, "%s%s.", prefix, c->name);
    mailp_cuda_load(l, &t->norm_w, d, at, "ln.weight");
    t->norm_b = NULL;
}

/* Two neighbouring weights as half operands, hi and lo. */
static inline void mailp_cuda_pack_half(uint32_t *hi, uint32_t *lo, float first, float second) {
    const uint32_t h0 = mailp_cuda_to_half(first), h1 = mailp_cuda_to_half(second);
    *hi = h0 | h1 << 16;
    *lo = mailp_cuda_to_half(first - mailp_cuda_from_half(h0)) | mailp_cuda_to_half(second - mailp_cuda_from_half(h1)) << 16;
}

/* w [CO][taps][CI] -> to, of the same size: fragments for mailp_dev_mma, where mailp_cuda_fragment says, steps in the order of
   mailp_cuda_fused_block: as half (hi) and what rounding lost (lo), both times a power of two that brings the largest weight to 8..16, so that lo is not lost among the smallest
   halves. Returns the inverse of that power and of the one that inputs are multiplied by. */
static inline float mailp_cuda_pack_fragments(float *to, const float *w, size_t CO, size_t taps, size_t CI) {
    const size_t block = (size_t)mailp_cuda_fused_block((int)CI), steps = taps * CI / 16, each = taps * block / 16;
    float        most = 0.0f;
    int          exponent = 4;
    for (size_t i = 0; i < CO * taps * CI; i++) {
        most = fabsf(w[i]) > most ? fabsf(w[i]) : most;
    }
    (void)frexpf(most, &exponent);
    exponent = exponent < -120 ? -120 : exponent; /* smaller ones are nothing; the power and its inverse are to be finite */
    const float scale = ldexpf(1.0f, 4 - exponent);
    for (size_t i = 0; i < CO / 16 * steps * 32 * 4; i++) {
        const size_t r = i % 4, lane = i / 4 % 32, step = i / 128 % steps, group = i / 128 / steps;
        const size_t tap = step % each / (block / 16), input = step / each * block + step % (block / 16) * 16;
        const float *from = w + ((group * 16 + lane / 4 + 8 * (r & 1)) * taps + tap) * CI + input + 2 * (lane % 4) + 8 * (r >> 1);
        uint32_t     h, rest;
        mailp_cuda_pack_half(&h, &rest, from[0] * scale, from[1] * scale);
        const size_t at = 4 * (mailp_cuda_fragment((int)CO, (int)steps, (int)group, (int)step) + lane) + r;
        memcpy(to + at, &h, 4);
        memcpy(to + at + 128 * mailp_cuda_fragment_groups((int)CO), &rest, 4);
    }
    return 1.0f / scale / MAILP_CUDA_RAISE;
}

static inline mailp_cuda_wide_kind mailp_cuda_wide_kind_of(const mailp_cuda_stage &w) {
    return w.size == 1 ? MAILP_CUDA_WIDE_1_STRIDE_2 : w.stride == 2 ? MAILP_CUDA_WIDE_3_STRIDE_2 : MAILP_CUDA_WIDE_3;
}

/* w [CO][taps][CI] -> to, of the same size, in the order of mailp_cuda_wide_job, other than nine taps as they are; scaled like fragments. */
static inline void mailp_cuda_pack_wide(float *to, const float *w, size_t CO, size_t taps, size_t CI, mailp_cuda_wide_kind kind, float scale) {
    const size_t part = MAILP_CUDA_WIDE_PART, rows = MAILP_CUDA_WIDE_ROWS, half = part / 2 * rows; /* words of hi, of lo */
    for (size_t o0 = 0; o0 < CO; o0 += rows) {
        for (size_t i0 = 0; i0 < CI; i0 += part) {
            for (int tap = 0; tap < (int)taps; tap++, to += 2 * half) {
                int y = 0, x = tap;
                if (taps == 9) {
                    mailp_cuda_wide_tap(kind, tap, &y, &x);
                }
                for (size_t i = 0; i < half; i++) { /* [4][rows][4] words */
                    const size_t pair = i % 4, o = i / 4 % rows, eight = i / 4 / rows;
                    const float *from = w + ((o0 + o) * taps + (size_t)(3 * y + x)) * CI + i0 + eight * 8 + 2 * pair;
                    uint32_t     h, rest;
                    mailp_cuda_pack_half(&h, &rest, from[0] * scale, from[1] * scale);
                    memcpy(to + i, &h, 4);
                    memcpy(to + half + i, &rest, 4);
                }
            }
        }
    }
}

/* The same of a first convolution, w [CO][7][7][3], whose rows are 8 pixels of 4 channels then; tmp and to of CO * 224. */
static inline void mailp_cuda_pack_wide_stem(float *to, float *tmp, const float *w, size_t CO, float scale) {
    for (size_t i = 0; i < CO * 7 * 32; i++) {
        const size_t channel = i % 4, pixel = i / 4 % 8;
        tmp[i] = channel < 3 && pixel < 7 ? w[(i / 32 * 7 + pixel) * 3 + channel] : 0.0f;
    }
    mailp_cuda_pack_wide(to, tmp, CO, 7, 32, MAILP_CUDA_WIDE_3, scale);
}

/* A convolution [CO][CI][size][size] -> [CO][size][size][CI], and its norm; with fragments for the fused kernels and what warpgroups take. */
static inline void mailp_cuda_load_stage(mailp_cuda_loader *l, mailp_cuda_stage *s, size_t CI, size_t CO, size_t size,
                                         size_t stride, const char *at, const char *conv, const char *norm, int fragments, int wide) {
    const size_t taps = size * size, n = CO * CI * taps;
    float       *w = mailp_cuda_take(l, &s->w, n);
    s->CI = (int)CI;
    s->CO = (int)CO;
    s->size = (int)size;
    s->stride = (int)stride;
    l->tmp_need = n > l->tmp_need ? n : l->tmp_need;
    if (w) {
        mailp_cuda_read(l, l->tmp, n, "%s%s.weight", at, conv);
        for (size_t o = 0; o < CO; o++) {
            for (size_t i = 0; i < CI; i++) {
                for (size_t k = 0; k < taps; k++) {
                    w[(o * taps + k) * CI + i] = l->tmp[(o * CI + i) * taps + k];
                }
            }
        }
    }
    if (CI == 3 && size == 7) { /* rows of 21 padded to 32; see >>vision */
        const size_t row = MAILP_CUDA_STEM_ROW, all = 7 * row;
        float       *to = mailp_cuda_take(l, &s->hi, CO * all);
        l->tmp_need = CO * all > l->tmp_need ? CO * all : l->tmp_need;
        if (w) {
            for (size_t i = 0; i < CO * all; i++) {
                l->tmp[i] = i % row < 21 ? w[i / all * 147 + i % all / row * 21 + i % row] : 0.0f;
            }
            s->unscale = mailp_cuda_pack_fragments(to, l->tmp, CO, 1, all);
        }
        if (wide && CO % MAILP_CUDA_WIDE_ROWS == 0) {
            to = mailp_cuda_take(l, &s->wide, CO * all);
            if (w) {
                mailp_cuda_pack_wide_stem(to, l->tmp, w, CO, 1.0f / s->unscale / MAILP_CUDA_RAISE);
            }
        }
    } else if (fragments && CI % 16 == 0) {
        float *to = mailp_cuda_take(l, &s->hi, n);
        if (w) {
            s->unscale = mailp_cuda_pack_fragments(to, w, CO, taps, CI);
        }
        if (wide && CI % MAILP_CUDA_WIDE_PART == 0 && CO % MAILP_CUDA_WIDE_ROWS == 0) {
            to = mailp_cuda_take(l, &s->wide, n);
            if (w) {
                mailp_cuda_pack_wide(to, w, CO, taps, CI, mailp_cuda_wide_kind_of(*s), 1.0f / s->unscale / MAILP_CUDA_RAISE);
            }
        }
    }
    mailp_cuda_read(l, mailp_cuda_take(l, &s->gain, CO), CO, "%s%s.weight", at, norm);
    mailp_cuda_read(l, mailp_cuda_take(l, &s->bias, CO), CO, "%s%s.bias", at, norm);
}

static inline void mailp_cuda_load_camera(mailp_cuda_loader *l, mailp_cuda_camera *cam, const mailp_camera_config *c, int fragments, int wide) {
    const size_t px = c->map_height * c->map_width, kp = c->n_keypoints;
    char         at[256], part[320];
    size_t       width = c->res_width;
    cam->height = (int)c->height;
    cam->width = (int)c->width;
    cam->n_keypoints = (int)kp;
    cam->feature_dim = (int)c->feature_dim;
    (void)snprintf(at, sizeof at, "obs_encoder.key_model_map.%s.", c->name);
    (void)snprintf(part, sizeof part, "%sbackbone.nets.", at);
    mailp_cuda_load_stage(l, &cam->stem, 3, width, 7, 2, part, "0", "1", 0, wide);
    for (size_t i = 0; i < 8; i++) {
        const int    first = i % 2 == 0 && i > 0; /* the block that halves the picture and doubles the channels */
        const size_t before = width;
        width = first ? width * 2 : width;
        (void)snprintf(part, sizeof part, "%sbackbone.nets.%zu.%zu.", at, 4 + i / 2, i % 2);
        mailp_cuda_load_stage(l, &cam->conv1[i], before, width, 3, first ? 2 : 1, part, "conv1", "bn1", fragments, wide);
        mailp_cuda_load_stage(l, &cam->conv2[i], width, width, 3, 1, part, "conv2", "bn2", fragments, wide);
        if (first) {
            mailp_cuda_load_stage(l, &cam->down[i], before, width, 1, 2, part, "downsample.0", "downsample.1",
                                  fragments, wide);
        }
    }
    mailp_cuda_load(l, &cam->kp_w, kp * width, at, "pool.nets.weight");
    mailp_cuda_load(l, &cam->kp_b, kp, at, "pool.nets.bias");
    mailp_cuda_load(l, &cam->pos_x, px, at, "pool.pos_x");
    mailp_cuda_load(l, &cam->pos_y, px, at, "pool.pos_y");
    mailp_cuda_load(l, &cam->temperature, 1, at, "pool.temperature");
    mailp_cuda_load(l, &cam->fc_w, c->feature_dim * 2 * kp, at, "nets.3.weight");
    mailp_cuda_load(l, &cam->fc_b, c->feature_dim, at, "nets.3.bias");
}

/* time[s] = time_emb.3(mish(time_emb.1(code(s)))), code(s) = sin and cos of s exp(-m ln(10000) / (d / 2 - 1)); in double. */
static inline void mailp_cuda_load_time(mailp_cuda_loader *l, const float **device, size_t steps, size_t d, const char *prefix) {
    const size_t half = d / 2, mid = 2 * d;
    float       *time = mailp_cuda_take(l, device, steps * d);
    const size_t need = mid * d + mid + d * mid + d + 2 * (d + mid); /* the last: code and hidden as doubles */
    l->tmp_need = need + 2 > l->tmp_need ? need + 2 : l->tmp_need;
    if (!time) {
        return;
    }
    double *code = (double *)l->tmp, *hidden = code + d; /* tmp is aligned for doubles */
    float  *w1 = (float *)(hidden + mid), *b1 = w1 + mid * d, *w3 = b1 + mid, *b3 = w3 + d * mid;
    mailp_cuda_read(l, w1, mid * d, "%stime_emb.1.weight", prefix);
    mailp_cuda_read(l, b1, mid, "%stime_emb.1.bias", prefix);
    mailp_cuda_read(l, w3, d * mid, "%stime_emb.3.weight", prefix);
    mailp_cuda_read(l, b3, d, "%stime_emb.3.bias", prefix);
    for (size_t s = 0; s < steps; s++) {
        for (size_t m = 0; m < half; m++) {
            const double angle = (double)s * exp(-(double)m * log(10000.0) / (double)(half - 1));
            code[m] = sin(angle);
            code[half + m] = cos(angle);
        }
        for (size_t i = 0; i < mid; i++) {
            double v = b1[i];
            for (size_t k = 0; k < d; k++) {
                v += (double)w1[i * d + k] * code[k];
            }
            hidden[i] = v * tanh(v > 40.0 ? v : log1p(exp(v)));
        }
        for (size_t i = 0; i < d; i++) {
            double v = b3[i];
            for (size_t k = 0; k < mid; k++) {
                v += (double)w3[i * mid + k] * hidden[k];
            }
            time[s * d + i] = (float)v;
        }
    }
}

/* The host copy behind a device pointer. */
static inline const float *mailp_cuda_host(const mailp_cuda_loader *l, const float *device) {
    return l->host + (device - l->device);
}

/* Cut the loop's trunk for the blocks of a cluster; see mailp_cuda_slice. Weights have been read. */
template <int DS>
static inline void mailp_cuda_pack_slices(mailp_cuda_loader *l, const float **device, const mailp_cuda_trunk *t) {
    typedef mailp_cuda_slice<DS> Slice;
    constexpr int CS = MAILP_CUDA_CS, CL = MAILP_CUDA_CL, E = MAILP_CUDA_DI, d = MAILP_CUDA_DM, R = MAILP_CUDA_DTR, SPL = DS / 8;
    float        *to = mailp_cuda_take(l, device, (size_t)t->n_layers * CS * sizeof(Slice) / sizeof(float));
    for (int i = 0; to && i < t->n_layers * CS; i++) {
        const mailp_cuda_mamba_layer &w = t->mamba[i / CS];
        const int    block = i % CS;
        Slice       *s = (Slice *)(void *)to + i;
        const float *in_proj = mailp_cuda_host(l, w.in_proj), *out_proj = mailp_cuda_host(l, w.out_proj);
        const float *norm_w = mailp_cuda_host(l, w.norm_w), *norm_b = mailp_cuda_host(l, w.norm_b);
        const float *x_proj = mailp_cuda_host(l, w.x_proj), *conv_w = mailp_cuda_host(l, w.conv_w);
        const float *dt_w = mailp_cuda_host(l, w.dt_w), *A2 = mailp_cuda_host(l, w.A2);
        memset((void *)s, 0, sizeof *s);
        for (int row = 0; row < 2 * CL; row++) { /* this block's of x, then of z */
            const int    z = row / CL, o = row % CL;
            const float *from = in_proj + (size_t)(z * E + block * CL + o) * d;
            double       bias = 0.0;
            float        most = 0.0f, v[MAILP_CUDA_DM];
            int          e;
            for (int k = 0; k < d; k++) {
                bias += (double)from[k] * norm_b[k];
                v[k] = from[k] * norm_w[k];
                most = fabsf(v[k]) > most ? fabsf(v[k]) : most;
            }
            (void)frexpf(most, &e); /* the largest weight of a row becomes a half of 2^12 or less; powers of two round nothing */
            e = most > 0.0f && most <= FLT_MAX ? 12 - e : 0;
            s->channels.scale[z][o] = ldexpf(1.0f / MAILP_CUDA_RAISE, -e);
            s->channels.bias[z][o] = (float)bias;
            for (int k = 0; k < d; k += 2) { /* a pair of inputs: lane t = k / 4 % 4 of the step, first or second half of its four */
                const int thread = (k / 32 * 2 + o / 16) * 32 + o % 8 * 4 + k / 4 % 4, reg = o / 8 % 2 + k / 2 % 2 * 2;
                uint32_t *hi = &s->in_proj[z][0][k / 16 % 2][thread].x, *lo = &s->in_proj[z][1][k / 16 % 2][thread].x;
                mailp_cuda_pack_half(hi + reg, lo + reg, ldexpf(v[k], e), ldexpf(v[k + 1], e));
            }
        }
        for (int row = 0; row < d; row++) {
            for (int k = 0; k < CL; k++) { /* inputs 2 t, 2 t + 1 of a step are lane t's numbers 4 t.. or 4 t + 2.. of 16 */
                const int step = k / 16 * 2 + k / 2 % 2, thread = row / 16 * 32 + row % 8 * 4 + k / 4 % 4;
                (&s->out_proj[step][thread].x)[row / 8 % 2 + k % 2 * 2] = out_proj[(size_t)row * E + block * CL + k];
            }
        }
        for (int row = 0; row < Slice::XP; row++) {
            const int pair = (row - R) / (2 * SPL), in_pair = (row - R) % (2 * SPL); /* of dt, B and C in the checkpoint's order */
            const int from = row < R ? row : in_pair < SPL ? R + SPL * pair + in_pair : R + DS + SPL * pair + in_pair - SPL;
            for (int k = 0; k < CL; k++) {
                const int step = k / 16 * 2 + k / 2 % 2, lane = row / 16 * 32 + row % 8 * 4 + k / 4 % 4;
                (&s->x_proj[step][lane].x)[row / 8 % 2 + k % 2 * 2] = x_proj[(size_t)from * E + block * CL + k];
            }
        }
        for (int o = 0; o < CL; o++) {
            const int c = block * CL + o;
            for (int e = 0; e < MAILP_CUDA_DC; e++) {
                s->channels.conv_w[o][e] = conv_w[(size_t)e * E + c];
            }
            for (int e = 0; e < R; e++) {
                s->channels.dt_w[o][e] = dt_w[(size_t)e * E + c];
            }
            for (int e = 0; e < DS; e++) {
                s->channels.A2[o][e] = A2[(size_t)e * E + c];
            }
            s->channels.conv_b[o] = mailp_cuda_host(l, w.conv_b)[c];
            s->channels.dt_b[o] = mailp_cuda_host(l, w.dt_b)[c];
            s->channels.D[o] = mailp_cuda_host(l, w.D)[c];
        }
    }
}

/* Whether the loop of this policy has the widths that >>denoise is written for. */
static inline int mailp_cuda_loop_fits(const mail_cuda_policy *p) {
    const mailp_config     &c = p->config;
    const mailp_cuda_trunk &t = p->trunk[c.n_trunks - 1];
    return p->sm >= 90 && c.algorithm == MAIL_DDPM && (c.arch == MAIL_D_MA || c.arch == MAIL_ED_MA) &&
           c.d_model == MAILP_CUDA_DM && t.d_inner == MAILP_CUDA_DI && t.dt_rank == MAILP_CUDA_DTR && t.d_conv == MAILP_CUDA_DC &&
           (t.d_state == 8 || t.d_state == 16) && (c.act_seq == 5 || c.act_seq == 10) && c.action_dim <= MAILP_CUDA_MAX_ACTION;
}

/* Everything the device needs. */
static inline void mailp_cuda_load_policy(mailp_cuda_loader *l, mail_cuda_policy *p) {
    const mailp_config *c = &p->config;
    const int           ddpm = c->algorithm == MAIL_DDPM, mamba = c->arch == MAIL_D_MA || c->arch == MAIL_ED_MA;
    const size_t        d = c->d_model, D = c->action_dim, T = c->obs_seq + (c->lang ? 1 : 0);
    const char         *at = ddpm ? "model.model." : "model.";
    for (size_t i = 0; i < c->n_trunks; i++) {
        p->trunk[i].n_layers = (int)c->trunk[i].n_layers;
        if (mamba) {
            mailp_cuda_load_mamba(l, &p->trunk[i], &c->trunk[i], d, at);
        } else {
            mailp_cuda_load_transformer(l, &p->trunk[i], &c->trunk[i], d, i == 1, at);
        }
    }
    for (size_t i = 0; i < c->n_cameras; i++) {
        mailp_cuda_load_camera(l, &p->camera[i], &c->camera[i], p->sm >= 90, p->warpgroups);
    }
    if (c->n_cameras) {
        float *table = mailp_cuda_take(l, &p->image_table, 3 * 256);
        for (int i = 0; table && i < 3 * 256; i++) {
            table[i] = ((float)(i % 256) / 255.0f - mailp_image_mean[i / 256]) / mailp_image_std[i / 256];
        }
    }
    mailp_cuda_load(l, &p->tok_w, d * c->state_dim, at, "tok_emb.weight");
    mailp_cuda_load(l, &p->tok_b, d, at, "tok_emb.bias");
    mailp_cuda_load(l, &p->pos, c->pos_rows * d, at, "pos_emb");
    if (c->lang) {
        mailp_cuda_load(l, &p->lang_w, c->state_dim * c->lang_dim, "linear.", "weight");
        mailp_cuda_load(l, &p->lang_b, c->state_dim, "linear.", "bias");
    }
    if (ddpm) {
        mailp_cuda_load_time(l, &p->time, c->n_timesteps, d, at);
        mailp_cuda_load(l, &p->emb_w, d * D, at, "action_emb.weight");
        mailp_cuda_load(l, &p->emb_b, d, at, "action_emb.bias");
        if (c->arch == MAIL_ED_MA) {
            mailp_cuda_load(l, &p->obs_table, c->act_seq * d, at, "act_tokens.weight");
            mailp_cuda_load(l, &p->under_table, (T + 1) * d, at, "state_tokens.weight");
        }
    } else if (c->arch == MAIL_D_MA || c->arch == MAIL_D_TR) {
        mailp_cuda_load(l, &p->act_table, c->act_seq * d, at, "query_embed.weight");
    } else if (c->arch == MAIL_ED_TR) {
        mailp_cuda_load(l, &p->act_table, c->act_seq * d, at, "action_token.weight");
    } else {
        mailp_cuda_load(l, &p->obs_table, c->act_seq * d, at, "action_token.weight");
        mailp_cuda_load(l, &p->act_table, c->act_seq * d, at, "action_noise_token.weight");
        mailp_cuda_load(l, &p->under_table, T * d, at, "state_token.weight");
    }
    mailp_cuda_load(l, &p->pred_w, D * d, at, "action_pred.weight");
    mailp_cuda_load(l, &p->pred_b, D, at, "action_pred.bias");
    /* scaler: y = (a - mean) / (std + 1e-12); the clipping box is the training actions' range, scaled */
    float *lo = mailp_cuda_take(l, &p->lo, D), *hi = mailp_cuda_take(l, &p->hi, D);
    float *std = mailp_cuda_take(l, &p->std, D), *mean = mailp_cuda_take(l, &p->mean, D);
    for (size_t a = 0; lo && a < D; a++) {
        const double width = (double)c->std[a] + 1e-12;
        lo[a] = c->scale_data ? (float)((double)(c->min[a] - c->mean[a]) / width) : c->min[a];
        hi[a] = c->scale_data ? (float)((double)(c->max[a] - c->mean[a]) / width) : c->max[a];
        std[a] = c->std[a] + 1e-12f;
        mean[a] = c->mean[a];
    }
    if (!c->scale_data) {
        p->std = NULL;
    }
    if (mailp_cuda_loop_fits(p)) {
        const mailp_cuda_trunk *t = &p->trunk[c->n_trunks - 1];
        if (t->d_state == 8) {
            mailp_cuda_pack_slices<8>(l, &p->slices, t);
        } else {
            mailp_cuda_pack_slices<16>(l, &p->slices, t);
        }
    }
}

/* ====================================================================================================================
   >>launch   grids and shared memory of each kernel; the order of kernels in an encoding and in a decision
   ================================================================================================================= */

enum { MAILP_CUDA_MIXER_SHARED = 64 * 1024 };  /* bytes of a tile of tokens; leaves room for two blocks on an SM */

/* What a test may ask of a session; all zero: the fastest way, no trace. */
struct mailp_cuda_wish {
    int trace;             /* keep what each call predicted (plain path) and the normalised actions */
    int plain;             /* take the plain path everywhere */
    int half;              /* one half product in the convolutions */
    int robots;            /* only loops of so many robots a cluster; 0: any */
    int shape;             /* only this shape of fused convolutions, counted from 1; 0: any */
    int ahead;             /* the observation goes ahead of the loop, even one that could go with it */
    int wide;              /* cameras by mailp_cuda_wide, 1: if that can be, -1: never, more: with tiles of so many columns; 0: as is faster */
};

/* One compiled shape of mailp_cuda_loop. */
struct mailp_cuda_loop_choice {
    void (*kernel)(mailp_cuda_loop_args);
    int    robots;           /* that a cluster of MAILP_CUDA_CS blocks decides for */
    size_t shared;
    double cost;             /* milliseconds to be expected for 16 layers and 16 steps */
};

struct mail_cuda_session {
    const mail_cuda_policy *policy;
    cudaStream_t            stream;           /* the caller's */
    cudaGraphExec_t         observe, plan;    /* recorded once */
    int                     B, A, D, d, T;    /* robots, chunk, action_dim, d_model, most state tokens */
    int                     steps, calls;     /* prefixes to compute: timesteps that a plan visits (1 for BC); passes through the trunk */
    int                     P, P0;            /* rows of the observation trunk; rows before the actions in the main one */
    int                     timed, inside;    /* D-Ma: the time token's states are there from the beginning; the observation
                                                 token goes through the loop with the actions */
    mailp_cuda_wish         wish;
    mailp_cuda_loop_choice  loop;             /* the loop as one launch; kernel NULL: plain path */
    int                     eyes;             /* most cameras that are encoded at once; they have maps of their own */
    mail_session_options    options;          /* of mail.h; limits are on the device */
    int                     frames[MAIL_MAX_BATCH];  /* in each robot's history, as the device counts them */
    int                     used[MAIL_MAX_BATCH];    /* actions given out of each robot's chunk, likewise */
    int                     has_goal;
    const float            *x_T, *noise_in;   /* the caller's, for the next plan */
    volatile int           *fault;            /* [B][2] page-locked memory of the host; see mailp_cuda_history */
    /* device */
    unsigned char     *memory;
    mailp_cuda_history history;
    mailp_cuda_chunks  chunks;
    float             *picture[MAIL_MAX_CAMERAS]; /* [B][height][width][3] normalised */
    unsigned char     *stage;                    /* pictures on their way from the host */
    size_t             stage_bytes;
    float             *map[MAILP_CUDA_EYES][4], *stats[MAILP_CUDA_EYES]; /* activations of an encoder; statistics of a convolution */
    int                wide[MAIL_MAX_CAMERAS];   /* this camera goes by mailp_cuda_wide */
    uint4             *line[MAILP_CUDA_EYES][4][3]; /* its maps, by stages: input and output of a block, middle, quarters of the stage before */
    float             *features[MAIL_MAX_CAMERAS], *keypoints[MAIL_MAX_CAMERAS]; /* [B][feature_dim], [B][n_keypoints][2] */
    float             *goal_in;                  /* [B][lang_dim] */
    float             *obs, *tok;                /* [B][T][state_dim], [B][T][d] */
    float             *X, *xz, *y;               /* rows of the widest phase: residual, in_proj or mlp, mixer or attention */
    float             *cond, *cond_prefix, *cond_act; /* ED-Ma: encoder output, and its parts for the decoder */
    float             *cache;                    /* Mamba: states; transformers: q, k, v of the prefix, every layer */
    float             *time_state;               /* D-Ma: [layers][steps] states after the time token */
    float             *scratch_state;
    float             *time, *table;             /* [steps][d], [steps][5] time tokens and coefficients of the timesteps visited */
    float             *x, *u, *actions, *noise;
    float             *trace_noise, *trace_x_start, *trace_x, *trace_norm;
};

static inline unsigned mailp_cuda_tiles(size_t n, size_t size) {
    return (unsigned)((n + size - 1) / size);
}

static inline void mailp_cuda_queue_linear(mailp_cuda_queue *q, const mailp_cuda_linear_args &a) {
    if (a.M <= 64) {
        mailp_cuda_launch(q, mailp_cuda_linear<16, 16, 128, 2, 1>, dim3(mailp_cuda_tiles(a.M, 16), mailp_cuda_tiles(a.N, 16)), 128,
                          sizeof(mailp_cuda_linear_shared<16, 16, 128, 2, 1>), a);
    } else {
        mailp_cuda_launch(q, mailp_cuda_linear<64, 32, 32, 8, 2>, dim3(mailp_cuda_tiles(a.M, 64), mailp_cuda_tiles(a.N, 32)), 128,
                          sizeof(mailp_cuda_linear_shared<64, 32, 32, 8, 2>), a);
    }
}

/* Y = X W^T + bias, all dense. */
static inline mailp_cuda_linear_args mailp_cuda_linear_init(float *Y, const float *X, const float *W, const float *bias,
                                                            int M, int N, int K) {
    mailp_cuda_linear_args a = {};
    a.Y = Y;
    a.X = X;
    a.W = W;
    a.bias = bias;
    a.M = M;
    a.N = N;
    a.K = K;
    a.ldx = K;
    a.ldy = N;
    return a;
}

static inline void mailp_cuda_queue_mixer(mailp_cuda_queue *q, int sequences, mailp_cuda_mixer_args a) {
    const int row = a.d_inner + a.dt_rank + 2 * a.d_state, most = MAILP_CUDA_MIXER_SHARED / 4 / row;
    a.tile = a.L < most ? a.L : most > 1 ? most : 1;
    const size_t smem = sizeof(float) * (size_t)a.tile * row;
    const unsigned threads = a.d_inner >= 512 && a.d_state <= 16 ? 512 : a.d_inner >= 128 ? 256 : 64;
    void (*kernel)(mailp_cuda_mixer_args) = a.d_state <= 8    ? mailp_cuda_mixer<8>
                                            : a.d_state <= 16 ? mailp_cuda_mixer<16>
                                            : a.d_state <= 32 ? mailp_cuda_mixer<32>
                                                              : mailp_cuda_mixer<64>;
    mailp_cuda_launch(q, kernel, dim3((unsigned)sequences), threads, smem, a);
}

/* Which sequences a trunk runs over and what they start from. */
struct mailp_cuda_run {
    float       *X;          /* [sequences][L][d] residual stream, in place */
    int          sequences, L;
    const int   *states;     /* lengths, as in mailp_cuda_mixer_args; NULL: all L */
    int          extra;
    int          first;      /* number of the first sequence within the cache */
    int          use_cache;  /* the prefix is in the cache */
    int          timed;      /* the time token went before: start from time_state */
    int          fill_time;  /* this is the time token: leave time_state; the last layer's output is not needed */
    int          fill_cache; /* this is the prefix: leave it in the cache; the last layer's output is not needed */
    const float *cond;       /* ED-Ma decoder: [sequences][L][d], added after every layer */
};

/* Floats of the cache for one sequence and layer of a Mamba trunk. */
static inline size_t mailp_cuda_state_size(const mailp_cuda_trunk *t) {
    return (size_t)t->d_inner * (size_t)(t->d_conv - 1 + t->d_state);
}

static inline void mailp_cuda_run_mamba(mailp_cuda_queue *q, mail_cuda_session *s, const mailp_cuda_trunk *t,
                                        const mailp_cuda_run &run) {
    const int    M = run.sequences * run.L, d = s->d, E = t->d_inner;
    const size_t state = mailp_cuda_state_size(t);
    for (int i = 0; i < t->n_layers; i++) {
        const mailp_cuda_mamba_layer &w = t->mamba[i];
        float *cache = s->cache ? s->cache + ((size_t)i * s->steps * s->B + run.first) * state : NULL;
        float *time = s->time_state ? s->time_state + (size_t)i * s->steps * state : NULL;
        const int slice = s->loop.kernel ? E / MAILP_CUDA_CS : E; /* of states that the loop will read */

        mailp_cuda_linear_args in = mailp_cuda_linear_init(s->xz, run.X, w.in_proj, NULL, M, 2 * E, d);
        in.norm_w = w.norm_w;
        in.norm_b = w.norm_b;
        mailp_cuda_queue_linear(q, in);

        mailp_cuda_mixer_args a = {};
        a.y = s->y;
        a.state_out = run.fill_time ? time : run.fill_cache ? cache : s->scratch_state;
        a.state_in = run.timed ? time : run.use_cache ? cache : NULL;
        a.share = run.timed ? s->B : 1;
        a.xz = s->xz;
        a.conv_w = w.conv_w;
        a.conv_b = w.conv_b;
        a.x_proj = w.x_proj;
        a.dt_w = w.dt_w;
        a.dt_b = w.dt_b;
        a.A2 = w.A2;
        a.D = w.D;
        a.states = run.states;
        a.extra = run.extra;
        a.robots = s->B;
        a.L = run.L;
        a.d_inner = E;
        a.slice_in = run.timed ? slice : E;
        a.slice_out = run.fill_time || run.fill_cache ? slice : E;
        a.d_state = t->d_state;
        a.d_conv = t->d_conv;
        a.dt_rank = t->dt_rank;
        mailp_cuda_queue_mixer(q, run.sequences, a);

        if (!(run.fill_time || run.fill_cache) || i + 1 < t->n_layers) {
            mailp_cuda_linear_args out = mailp_cuda_linear_init(run.X, s->y, w.out_proj, NULL, M, d, E);
            out.add = run.X;
            out.add2 = run.cond;
            mailp_cuda_queue_linear(q, out);
        }
    }
}

/* memory: q, k, v rows of the cache lie [layer][steps * B][P0][3 d]; of a decoder's memory k, v lie [layer][..][P][2 d]. */
static inline void mailp_cuda_run_transformer(mailp_cuda_queue *q, mail_cuda_session *s, const mailp_cuda_trunk *t,
                                              const mailp_cuda_run &run) {
    const mailp_config &c = s->policy->config;
    const int           M = run.sequences * run.L, d = s->d, heads = (int)c.n_heads;
    const int           cross = t->block[0].cross_w != NULL, width = cross ? 4 * d : 3 * d;
    const int           cache_rows = cross ? s->P : s->P0, ld_cache = cross ? 2 * d : 3 * d;
    for (int i = 0; i < t->n_layers; i++) {
        const mailp_cuda_block &w = t->block[i];
        float *cache = s->cache + ((size_t)i * s->steps * s->B + run.first) * (size_t)cache_rows * ld_cache;
        float *qkv = run.fill_cache ? cache : s->xz;

        mailp_cuda_linear_args in = mailp_cuda_linear_init(qkv, run.X, w.qkv_w, w.qkv_b, M, width, d);
        in.norm_w = w.ln1;
        mailp_cuda_queue_linear(q, in);
        if (run.fill_cache && i + 1 == t->n_layers) {
            break;
        }
        mailp_cuda_attend_args a = {};
        a.y = s->y;
        a.q = qkv;
        a.k = qkv + d;
        a.v = qkv + 2 * d;
        if (run.use_cache && !cross) {
            a.cache_k = cache + d;
            a.cache_v = cache + 2 * d;
        }
        a.states = s->history.states;
        a.extra = s->P - s->T; /* the time token, if there is one */
        a.robots = s->B;
        a.L = run.L;
        a.d = d;
        a.head_dim = d / heads;
        a.ld_own = width;
        a.cache_rows = cache_rows;
        a.ld_cache = ld_cache;
        a.scale = (float)(1.0 / sqrt((double)a.head_dim));
        const dim3   grid((unsigned)run.sequences, (unsigned)heads);
        const size_t smem = sizeof(float) * 4 * (size_t)(cache_rows + run.L);
        mailp_cuda_launch(q, mailp_cuda_attend, grid, 128, smem, a);
        if (cross) {
            a.q = qkv + 3 * d;
            a.k = a.v = NULL;
            a.cache_k = cache;
            a.cache_v = cache + d;
            a.accumulate = 1;
            mailp_cuda_launch(q, mailp_cuda_attend, grid, 128, smem, a);
        }
        mailp_cuda_linear_args proj = mailp_cuda_linear_init(run.X, s->y, w.proj_w, w.proj_b, M, d, d);
        proj.add = run.X;
        mailp_cuda_queue_linear(q, proj);
        mailp_cuda_linear_args up = mailp_cuda_linear_init(s->xz, run.X, w.up_w, w.up_b, M, 4 * d, d);
        up.norm_w = w.ln2;
        up.act = MAILP_CUDA_GELU;
        mailp_cuda_queue_linear(q, up);
        mailp_cuda_linear_args down = mailp_cuda_linear_init(run.X, s->xz, w.down_w, w.down_b, M, d, 4 * d);
        down.add = run.X;
        mailp_cuda_queue_linear(q, down);
    }
}

static inline void mailp_cuda_queue_rows(mailp_cuda_queue *q, mail_cuda_session *s, float *Y, const float *X, int sequences,
                                         int rows, int n, int skip, const int *states, int one_table) {
    mailp_cuda_rows_args a = {};
    a.Y = Y;
    a.X = X;
    a.states = states;
    a.robots = s->B;
    a.rows = rows;
    a.n = n;
    a.d = s->d;
    a.skip = skip;
    a.one_table = one_table;
    mailp_cuda_launch(q, mailp_cuda_rows, dim3((unsigned)(sequences * n)), 128, 0, a);
}

/* D-Ma: what the time token of every step leaves behind, for the whole life of the session. */
static inline void mailp_cuda_queue_time(mailp_cuda_queue *q, mail_cuda_session *s) {
    mailp_cuda_run run = {};
    run.X = s->X;
    run.sequences = s->steps;
    run.L = run.fill_time = 1;
    mailp_cuda_queue_rows(q, s, s->X, s->time, s->steps, 1, 1, 0, NULL, 0);
    mailp_cuda_run_mamba(q, s, &s->policy->trunk[0], run);
}

/* The observation's part of a decision: everything the denoising loop starts from, for all steps at once. Where the observation
   goes through the loop, that is its token. */
static inline void mailp_cuda_queue_prefix(mailp_cuda_queue *q, mail_cuda_session *s) {
    const mail_cuda_policy *p = s->policy;
    const mailp_config     &c = p->config;
    const int               Q = s->steps * s->B, time_row = s->P0 - s->T; /* 1: the time token is a row of each sequence */

    mailp_cuda_window_args window = {s->obs, s->history};
    mailp_cuda_launch(q, mailp_cuda_window, dim3((unsigned)(s->B * s->T)), 128, 0, window);
    mailp_cuda_queue_linear(q, mailp_cuda_linear_init(s->tok, s->obs, p->tok_w, p->tok_b, s->B * s->T, s->d, (int)c.state_dim));
    if (s->inside) {
        return;
    }

    mailp_cuda_prefix_args a = {};
    a.X = s->X;
    a.time = time_row ? s->time : NULL;
    a.tok = s->tok;
    a.pos = p->pos;
    a.table = p->obs_table;
    a.states = s->history.states;
    a.robots = s->B;
    a.T = s->T;
    a.P = s->P;
    a.d = s->d;
    a.n_table = s->A;
    mailp_cuda_launch(q, mailp_cuda_prefix, dim3((unsigned)(Q * s->P)), 128, 0, a);

    mailp_cuda_run run = {};
    run.X = s->X;
    run.sequences = Q;
    run.L = s->P;
    run.states = s->history.states;
    run.extra = time_row;
    run.timed = s->timed;
    switch (c.arch) {
    case MAIL_D_MA:
        run.fill_cache = 1;
        mailp_cuda_run_mamba(q, s, &p->trunk[0], run);
        break;
    case MAIL_D_TR:
        run.fill_cache = 1;
        mailp_cuda_run_transformer(q, s, &p->trunk[0], run);
        break;
    case MAIL_ED_MA: {
        run.extra = time_row + s->A;
        mailp_cuda_run_mamba(q, s, &p->trunk[0], run);
        mailp_cuda_layer_norm_args norm = {s->cond, s->X, p->trunk[0].norm_w, p->trunk[0].norm_b, Q * s->P, s->d};
        mailp_cuda_launch(q, mailp_cuda_layer_norm, dim3(mailp_cuda_tiles((size_t)Q * s->P, 4)), 128, 0, norm);
        mailp_cuda_queue_rows(q, s, s->cond_prefix, s->cond, Q, s->P, s->P0, 0, NULL, 0);
        mailp_cuda_queue_rows(q, s, s->cond_act, s->cond, Q, s->P, s->A, time_row, s->history.states, 0);
        mailp_cuda_queue_rows(q, s, s->X, p->under_table, Q, s->P0, s->P0, 0, NULL, 1);
        run.L = s->P0;
        run.extra = time_row;
        run.fill_cache = 1;
        run.cond = s->cond_prefix;
        mailp_cuda_run_mamba(q, s, &p->trunk[1], run);
        break;
    }
    default: /* MAIL_ED_TR: keys and values of the memory for every decoder block; the encoder's last norm on the way */
        mailp_cuda_run_transformer(q, s, &p->trunk[0], run);
        for (int i = 0; i < p->trunk[1].n_layers; i++) {
            const mailp_cuda_block &w = p->trunk[1].block[i];
            mailp_cuda_linear_args  kv = mailp_cuda_linear_init(s->cache + (size_t)i * Q * s->P * 2 * s->d, s->X, w.cross_w,
                                                                w.cross_b, Q * s->P, 2 * s->d, s->d);
            kv.norm_w = p->trunk[0].norm_w;
            mailp_cuda_queue_linear(q, kv);
        }
        break;
    }
}

static inline mailp_cuda_sampler mailp_cuda_sampler_init(const mail_cuda_session *s) {
    const mail_cuda_policy *p = s->policy;
    const mailp_config     &c = p->config;
    const mailp_cuda_trunk *t = &p->trunk[c.n_trunks - 1];
    mailp_cuda_sampler      a = {};
    a.x = s->x;
    a.u = s->u;
    a.actions = s->actions;
    a.noise = s->noise;
    a.norm_w = t->norm_w;
    a.norm_b = t->norm_b;
    a.pred_w = p->pred_w;
    a.pred_b = p->pred_b;
    a.emb_w = p->emb_w;
    a.emb_b = p->emb_b;
    a.pos = p->pos;
    a.lo = p->lo;
    a.hi = p->hi;
    a.std = p->std;
    a.mean = p->mean;
    a.table = s->table;
    a.states = s->history.states;
    a.trace_noise = s->trace_noise;
    a.trace_x_start = s->trace_x_start;
    a.trace_x = s->trace_x;
    a.trace_norm = s->trace_norm;
    a.robots = s->B;
    a.A = s->A;
    a.D = s->D;
    a.d = s->d;
    a.ddpm = c.algorithm == MAIL_DDPM;
    a.clip = c.clip_denoised;
    a.predict_noise = c.predict_epsilon;
    return a;
}

/* How many clusters of this shape the device can run at once; 0: none. One block is no cluster:
   it is launched without the attribute, and any device that has the memory takes it. */
template <class Args>
static inline int mailp_cuda_active_clusters(void (*kernel)(Args), int cluster, size_t shared, int sms, unsigned threads = 256) {
#ifdef MAIL_CUDA_ON_CPU
    (void)kernel;
    (void)threads;
    return shared <= (size_t)cpucuda::device.smem && cluster <= cpucuda::device.max_cluster ? sms / cluster : 0;
#else
    cudaLaunchConfig_t  config = {};
    cudaLaunchAttribute attribute[1];
    int                 n = 0;
    cudaError_t         e = mailp_cuda_allow((const void *)kernel, shared, (unsigned)cluster);
    config.gridDim = dim3((unsigned)cluster);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    attribute[0].id = cudaLaunchAttributeClusterDimension;
    attribute[0].val.clusterDim.x = (unsigned)cluster;
    attribute[0].val.clusterDim.y = 1;
    attribute[0].val.clusterDim.z = 1;
    config.attrs = attribute;
    config.numAttrs = 1;
    if (e == cudaSuccess && cluster == 1) {
        e = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n, (const void *)kernel, (int)threads, shared);
        n *= sms;
    } else if (e == cudaSuccess) {
        e = cudaOccupancyMaxActiveClusters(&n, (const void *)kernel, &config);
    }
    if (e != cudaSuccess) {
        (void)cudaGetLastError(); /* not an error of ours: another shape, or the plain path, is taken */
        return 0;
    }
    return n;
#endif
}

template <int DS, int OBS, int T, int R, bool COND>
static inline void mailp_cuda_consider(mail_cuda_session *s, double *best) {
    typedef mailp_cuda_loop_shared<DS, OBS, T, R, COND> Shared;
    mailp_cuda_loop_choice l = {mailp_cuda_loop<DS, OBS, T, R, COND>, R, sizeof(Shared), 0.0};
    const mailp_cuda_wish &wish = s->wish;
    if ((wish.robots && wish.robots != R) || l.shared > (size_t)s->policy->smem) {
        return;
    }
    const int active = mailp_cuda_active_clusters(l.kernel, MAILP_CUDA_CS, l.shared, s->policy->sms), clusters = (s->B + R - 1) / R;
    if (active < 1) {
        return;
    }
    /* milliseconds of D-Ma on an NVIDIA H200: 0.79, 1.10, 1.40, 1.47 and 1.73 for 1 to 5 robots of 6 tokens, so 1, 2, 3, 3 and 4 tiles */
    l.cost = (0.50 + 0.22 * Shared::TILES + 0.0117 * Shared::M) * (double)((clusters + active - 1) / active);
    if (!s->loop.kernel || l.cost < *best) {
        s->loop = l;
        s->inside = OBS;
        *best = l.cost;
    }
}

template <int DS, int OBS, bool COND>
static inline void mailp_cuda_consider_all(mail_cuda_session *s) {
    double best = 0.0;
    if (s->A == 5) {
        mailp_cuda_consider<DS, OBS, OBS + 5, 1, COND>(s, &best);
        mailp_cuda_consider<DS, OBS, OBS + 5, 2, COND>(s, &best);
        mailp_cuda_consider<DS, OBS, OBS + 5, 3, COND>(s, &best);
        mailp_cuda_consider<DS, OBS, OBS + 5, 4, COND>(s, &best);
        mailp_cuda_consider<DS, OBS, OBS + 5, 5, COND>(s, &best);
    } else {
        mailp_cuda_consider<DS, OBS, OBS + 10, 1, COND>(s, &best);
        mailp_cuda_consider<DS, OBS, OBS + 10, 2, COND>(s, &best);
    }
}
template <int DS>
static inline void mailp_cuda_consider_trunk(mail_cuda_session *s) {
    if (s->policy->config.arch == MAIL_ED_MA) {
        mailp_cuda_consider_all<DS, 0, true>(s);
        return;
    }
    if (s->T == 1 && !s->wish.ahead) {
        mailp_cuda_consider_all<DS, 1, false>(s);
    }
    if (!s->loop.kernel) { /* a longer observation, or no room for the one more token */
        mailp_cuda_consider_all<DS, 0, false>(s);
    }
}

/* Choose the shape of the loop for this session's batch, or none. */
static inline void mailp_cuda_choose_loop(mail_cuda_session *s) {
    const mail_cuda_policy *p = s->policy;
    if (s->wish.plain || !p->slices) {
        return;
    }
    if (p->trunk[p->config.n_trunks - 1].d_state == 8) {
        mailp_cuda_consider_trunk<8>(s);
    } else {
        mailp_cuda_consider_trunk<16>(s);
    }
}

/* The loop as one launch. x holds x_T. */
static inline void mailp_cuda_queue_fast_loop(mailp_cuda_queue *q, mail_cuda_session *s) {
    const mail_cuda_policy *p = s->policy;
    mailp_cuda_loop_args    a = {};
    a.s = mailp_cuda_sampler_init(s);
    a.slices = p->slices;
    a.state = s->inside ? s->time_state : s->cache;
    a.tok = s->tok;
    a.cond = s->cond_act;
    a.steps = s->steps;
    a.calls = s->calls;
    a.layers = p->trunk[p->config.n_trunks - 1].n_layers;
    const unsigned clusters = mailp_cuda_tiles((size_t)s->B, (size_t)s->loop.robots);
    mailp_cuda_launch(q, s->loop.kernel, dim3(clusters * MAILP_CUDA_CS), MAILP_CUDA_NT, s->loop.shared, a, MAILP_CUDA_CS);
}

/* The loop: plain kernels, call by call. x holds x_T. */
static inline void mailp_cuda_queue_loop(mailp_cuda_queue *q, mail_cuda_session *s) {
    const mail_cuda_policy *p = s->policy;
    const mailp_config     &c = p->config;
    const mailp_cuda_trunk *t = &p->trunk[c.n_trunks - 1];
    const int               ddpm = c.algorithm == MAIL_DDPM, mamba = c.arch == MAIL_D_MA || c.arch == MAIL_ED_MA;
    const dim3              grid(mailp_cuda_tiles((size_t)s->B * s->A, 4));
    mailp_cuda_denoise_args a = {};
    a.s = mailp_cuda_sampler_init(s);
    if (ddpm) {
        a.call = -1;
        mailp_cuda_launch(q, mailp_cuda_denoise, grid, 128, 0, a);
    } else {
        mailp_cuda_queue_rows(q, s, s->u, p->act_table, s->B, s->A, s->A, 0, NULL, 1);
    }
    for (int call = 0; call < s->calls; call++) {
        const int step = ddpm && call < s->steps ? s->steps - 1 - call : 0; /* diffusion-X repeats step 0 */
        mailp_cuda_run run = {};
        run.X = s->u;
        run.sequences = s->B;
        run.L = s->A;
        run.first = step * s->B;
        run.use_cache = 1;
        run.cond = s->cond_act ? s->cond_act + (size_t)step * s->B * s->A * s->d : NULL;
        if (mamba) {
            mailp_cuda_run_mamba(q, s, t, run);
        } else {
            mailp_cuda_run_transformer(q, s, t, run);
        }
        a.call = call;
        a.step = step;
        a.last = call + 1 == s->calls;
        mailp_cuda_launch(q, mailp_cuda_denoise, grid, 128, 0, a);
    }
}

/* One convolution of the plain path. Returns the tiles of its statistics through norm. */
static inline void mailp_cuda_queue_conv(mailp_cuda_queue *q, const mailp_cuda_stage &w, float *out, float *stats,
                                         const float *in, int images, int H, int W, mailp_cuda_norm_args *norm) {
    mailp_cuda_conv_args a = {};
    a.out = out;
    a.stats = stats;
    a.in = in;
    a.w = w.w;
    a.H = H;
    a.W = W;
    a.CI = w.CI;
    a.CO = w.CO;
    a.size = w.size;
    a.stride = w.stride;
    a.pad = w.size / 2;
    a.HO = (H + w.stride - 1) / w.stride;
    a.WO = (W + w.stride - 1) / w.stride;
    const int px = a.HO * a.WO;
    /* wide tiles read each weight less often, narrow ones give every SM something to do */
    const int wide = (int)mailp_cuda_tiles((size_t)px, 64) * (int)mailp_cuda_tiles((size_t)w.CO, 32) * images >= 128;
    const int tile_px = wide ? 64 : 16;
    a.tiles = (int)mailp_cuda_tiles((size_t)px, (size_t)tile_px);
    const dim3   grid((unsigned)a.tiles, mailp_cuda_tiles((size_t)w.CO, wide ? 32 : 16), (unsigned)images);
    if (wide) {
        mailp_cuda_launch(q, mailp_cuda_conv<64, 32, 32, 8, 2>, grid, 128, sizeof(mailp_cuda_conv_shared<64, 32, 32, 8, 2>), a);
    } else {
        mailp_cuda_launch(q, mailp_cuda_conv<16, 16, 128, 2, 1>, grid, 128, sizeof(mailp_cuda_conv_shared<16, 16, 128, 2, 1>), a);
    }
    memset(norm, 0, sizeof *norm);
    norm->eye[0].raw = norm->eye[0].out = out;
    norm->eye[0].stats = stats;
    norm->eye[0].gain = w.gain;
    norm->eye[0].bias = w.bias;
    norm->H = norm->HO = a.HO;
    norm->W = norm->WO = a.WO;
    norm->C = w.CO;
    norm->tiles = a.tiles;
}

static inline void mailp_cuda_queue_norm(mailp_cuda_queue *q, mailp_cuda_norm_args a, int images, int eyes) {
    const int px = a.HO * a.WO;
    const int floats = px * a.C * images * eyes > 1 << 20 ? 4096 : 1024; /* a few maps go to many SMs */
    a.per_block = floats / a.C > 0 ? floats / a.C : 1;
    mailp_cuda_launch(q, mailp_cuda_norm, dim3(mailp_cuda_tiles((size_t)px, (size_t)a.per_block), (unsigned)images, (unsigned)eyes), 256,
                      sizeof(float) * 2 * (size_t)(a.C / 16), a);
}

/* A convolution with its norm, one of several that are queued together: of several cameras, or those that begin a block. */
struct mailp_cuda_work {
    const mailp_cuda_stage *w;
    float                  *out;
    const float            *in, *residual; /* out is not in; it may be the residual, or NULL */
    int                     relu;
    float                  *raw, *stats;   /* room for the sums and statistics of the plain path */
    const mailp_cuda_stage *ahead;         /* whose weights will be needed later, or NULL */
};

/* First convolutions and their pooling on tensor cores; norm is then for mailp_cuda_queue_norm, whose input is already pooled. A large
   tile computes fewer sums twice, a small one gives a few pictures to more SMs. */
template <int TH, int TW, int TILES, int GW>
static inline void mailp_cuda_queue_stem(mailp_cuda_queue *q, const mailp_cuda_work *work, int n, int half, int images, int H, int W,
                                         mailp_cuda_norm_args *norm) {
    const int            CO = work->w->CO;
    mailp_cuda_stem_args a = {};
    a.images = images;
    a.H = H;
    a.W = W;
    a.HO = (H + 1) / 2;
    a.WO = (W + 1) / 2;
    a.PH = (a.HO + 1) / 2;
    a.PW = (a.WO + 1) / 2;
    a.CO = CO;
    a.tiles_x = (int)mailp_cuda_tiles((size_t)a.PW, TW);
    const unsigned tiles = (unsigned)a.tiles_x * mailp_cuda_tiles((size_t)a.PH, TH);
    memset(norm, 0, sizeof *norm);
    for (int i = 0; i < n; i++) {
        const mailp_cuda_work &x = work[i];
        a.eye[i].out = x.raw;
        a.eye[i].stats = x.stats;
        a.eye[i].in = x.in;
        a.eye[i].hi = (const uint4 *)(const void *)x.w->hi;
        a.eye[i].lo = a.eye[i].hi + 32 * mailp_cuda_fragment_groups(CO);
        a.eye[i].gain = norm->eye[i].gain = x.w->gain;
        a.eye[i].unscale = x.w->unscale;
        norm->eye[i].out = x.out;
        norm->eye[i].raw = x.raw;
        norm->eye[i].stats = x.stats;
        norm->eye[i].bias = x.w->bias;
    }
    mailp_cuda_launch(q, half ? mailp_cuda_stem<TH, TW, TILES, GW, false> : mailp_cuda_stem<TH, TW, TILES, GW, true>,
                      dim3(tiles, (unsigned)(CO / 16 / GW), (unsigned)(images * n)), 256, sizeof(mailp_cuda_stem_shared<TH, TW, TILES, GW>), a);
    norm->H = norm->HO = a.PH;
    norm->W = norm->WO = a.PW;
    norm->C = CO;
    norm->tiles = (int)tiles;
    norm->relu = 1;
}

/* All of it by warpgroups, if wide to the first lines of the session; 0: that cannot be, and nothing was queued. */
static inline int mailp_cuda_queue_wide_stem(mailp_cuda_queue *q, const mail_cuda_session *s, const mailp_cuda_work *work, int n, int H, int W, int wide) {
    const auto                kernel = s->wish.half ? mailp_cuda_wide_stem<false> : mailp_cuda_wide_stem<true>;
    const size_t              shared = s->wish.half ? sizeof(mailp_cuda_wide_stem_shared<false>) : sizeof(mailp_cuda_wide_stem_shared<true>);
    mailp_cuda_wide_stem_args a = {};
    a.H = H;
    a.W = W;
    a.HO = (H + 1) / 2;
    a.WO = (W + 1) / 2;
    a.CO = work->w->CO;
    a.line = mailp_cuda_line_of((a.HO + 1) / 2, (a.WO + 1) / 2, s->B);
    a.cluster = (int)mailp_cuda_tiles((size_t)a.line.H, MAILP_CUDA_WIDE_STEM_PAIRS);
    if (s->wish.plain || !work->w->wide || a.WO > MAILP_CUDA_WIDE_STEM_WIDTH || a.cluster > s->policy->max_cluster || shared > (size_t)s->policy->smem ||
        (a.cluster > 1 && mailp_cuda_active_clusters(kernel, a.cluster, shared, s->policy->sms, MAILP_CUDA_WIDE_NT) < 1)) {
        return 0;
    }
    for (int i = 0; i < n; i++) {
        const mailp_cuda_stage &w = *work[i].w;
        a.eye[i] = {work[i].in, (const uint4 *)(const void *)w.wide, w.gain, w.bias, work[i].out, wide ? s->line[i][0][0] : NULL, w.unscale};
    }
    mailp_cuda_launch(q, kernel, dim3((unsigned)(s->B * (a.CO / MAILP_CUDA_WIDE_ROWS) * a.cluster), (unsigned)n), MAILP_CUDA_WIDE_NT, shared, a,
                      (unsigned)a.cluster);
    return 1;
}

/* out = relu(norm(conv(in))), pooled, of cameras with pictures of the same size; wide: as the first lines of the session. */
static inline void mailp_cuda_queue_first(mailp_cuda_queue *q, const mail_cuda_session *s, const mailp_cuda_work *work, int n, int H, int W, int wide) {
    mailp_cuda_norm_args norm;
    const size_t         room = (size_t)s->policy->smem;
    /* of few pictures only where it is wished for: on a GPU it has not been set beside mailp_cuda_stem yet (cuda_bench --only layers does) */
    if ((wide || s->wish.wide > 0) && mailp_cuda_queue_wide_stem(q, s, work, n, H, W, wide)) {
        return;
    }
    if (s->wish.plain || !work->w->hi || room < sizeof(mailp_cuda_stem_shared<4, 6, 2, 2>)) {
        for (int i = 0; i < n; i++) {
            mailp_cuda_queue_conv(q, *work[i].w, work[i].raw, work[i].stats, work[i].in, s->B, H, W, &norm);
            norm.pool = norm.relu = 1;
            norm.HO = (norm.H + 1) / 2;
            norm.WO = (norm.W + 1) / 2;
            norm.eye[0].out = work[i].out;
            mailp_cuda_queue_norm(q, norm, s->B, 1);
        }
        return;
    }
    if (work->w->CO % 32) {
        mailp_cuda_queue_stem<4, 6, 2, 1>(q, work, n, s->wish.half, s->B, H, W, &norm);
    } else if (H * W / 1024 * s->B * n * work->w->CO / 32 < 2 * s->policy->sms || room < sizeof(mailp_cuda_stem_shared<8, 8, 5, 2>)) {
        mailp_cuda_queue_stem<4, 6, 2, 2>(q, work, n, s->wish.half, s->B, H, W, &norm);
    } else {
        mailp_cuda_queue_stem<8, 8, 5, 2>(q, work, n, s->wish.half, s->B, H, W, &norm);
    }
    norm.line = mailp_cuda_line_of(norm.H, norm.W, s->B);
    for (int i = 0; i < n && wide; i++) {
        norm.eye[i].line = s->line[i][0][0];
    }
    mailp_cuda_queue_norm(q, norm, s->B, n);
}

/* A convolution, its norm, residual and ReLU as one of a launch. */
static inline mailp_cuda_fused_job mailp_cuda_fused_job_init(const mailp_cuda_work &work) {
    const mailp_cuda_stage &w = *work.w;
    mailp_cuda_fused_job    job = {};
    job.out = work.out;
    job.in = work.in;
    job.residual = work.residual;
    job.hi = (const uint4 *)(const void *)w.hi;
    job.lo = job.hi + 32 * mailp_cuda_fragment_groups(w.CO);
    job.gain = w.gain;
    job.bias = w.bias;
    job.unscale = w.unscale;
    job.size = w.size;
    job.relu = work.relu;
    if (work.ahead && work.ahead->hi) {
        job.ahead = work.ahead->hi;
        job.ahead_bytes = (unsigned)(sizeof(float) * (size_t)(work.ahead->CO * work.ahead->size * work.ahead->size * work.ahead->CI));
    }
    return job;
}

struct mailp_cuda_many_shape {
    int    groups, px, part; /* channels / 16 and pixels of a block; inputs in shared memory at once */
    size_t shared, out;      /* bytes, without inputs; of what takes their place */
    void (*split)(mailp_cuda_many_args);
    void (*single)(mailp_cuda_many_args);
};
struct mailp_cuda_few_shape {
    int    tiles, share;     /* of 8 pixels that a block owns; blocks with the same pixels */
    size_t shared, part;     /* bytes, without weights and inputs; of what takes their place */
    void (*split)(mailp_cuda_few_args);
    void (*single)(mailp_cuda_few_args);
};

/* Cycles of a launch with `blocks` of them an SM, by measurements on an NVIDIA H100 (1.98 GHz, layers of a resnet18 for 1 to 64 pictures
   of two cameras, within a quarter of nearly all): a block's steps over the inputs and 256 fours of its input tile. */
static inline double mailp_cuda_many_cycles(const mailp_cuda_many_shape &shape, double blocks, double steps, double fours, int half, int two) {
    const int    large = shape.groups * shape.px == 512; /* the others were not measured: they have to promise more */
    const double one = (25000.0 + steps * (half ? 400.0 : 900.0) * (large ? 1.0 : 0.67) + fours * 667.0) * (large ? 1.0 : 1.25);
    return blocks <= 1.0 ? one : two ? 1.3 * one * ceil(blocks / 2.0) : one * ceil(blocks); /* two blocks on an SM help each other */
}
static inline double mailp_cuda_few_cycles(const mailp_cuda_few_shape &shape, double blocks, double steps, double fours, int half) {
    return 8000.0 + blocks * (3200.0 + fours * 312.0 + steps * (half ? 0.7 : 1.0) * (93.0 + 6.25 * shape.tiles));
}

/* n convolutions with maps of the same sizes (their kernels' may differ) in one launch; 0 if no shape fits, and then nothing is
   queued. Of the shapes that fit, the one that should be done first. */
static inline int mailp_cuda_queue_fused(mailp_cuda_queue *q, const mail_cuda_session *s, const mailp_cuda_work *work, int n, int H, int W) {
    static const mailp_cuda_few_shape few[] = {
#define MAILP_CUDA_FEW(TILES, share) \
    {TILES, share, sizeof(mailp_cuda_few_shared<TILES>), mailp_cuda_few_shared<TILES>::PART, mailp_cuda_few<TILES, true>, mailp_cuda_few<TILES, false>}
        MAILP_CUDA_FEW(8, 1), MAILP_CUDA_FEW(8, 2), MAILP_CUDA_FEW(8, 4), MAILP_CUDA_FEW(8, 8),
        MAILP_CUDA_FEW(4, 1), MAILP_CUDA_FEW(4, 2), MAILP_CUDA_FEW(4, 4), MAILP_CUDA_FEW(2, 1), MAILP_CUDA_FEW(2, 2),
#undef MAILP_CUDA_FEW
    };
    static const mailp_cuda_many_shape many[] = {
#define MAILP_CUDA_MANY(CW, TILES, part)                                                                                       \
    {2 * CW, 64 * TILES / CW, part, sizeof(mailp_cuda_many_shared<CW, TILES>), mailp_cuda_many_shared<CW, TILES>::OUT,         \
     mailp_cuda_many<CW, TILES, true>, mailp_cuda_many<CW, TILES, false>}
        MAILP_CUDA_MANY(2, 4, 64), MAILP_CUDA_MANY(2, 4, 32), MAILP_CUDA_MANY(1, 4, 64),
        MAILP_CUDA_MANY(1, 4, 32), MAILP_CUDA_MANY(2, 2, 64), MAILP_CUDA_MANY(2, 2, 32),
#undef MAILP_CUDA_MANY
    };
    const int MANY = (int)(sizeof many / sizeof *many), FEW = (int)(sizeof few / sizeof *few);
    const mailp_cuda_stage &w = *work->w;
    const int HO = (H + w.stride - 1) / w.stride, WO = (W + w.stride - 1) / w.stride, px = HO * WO, half = s->wish.half, wish = s->wish.shape;
    int       size = 1;
    mailp_cuda_fused_job job[MAILP_CUDA_JOBS];
    if (s->wish.plain || n > MAILP_CUDA_JOBS) {
        return 0;
    }
    for (int i = 0; i < n; i++) {
        if (!work[i].w->hi) {
            return 0;
        }
        job[i] = mailp_cuda_fused_job_init(work[i]);
        size = job[i].size > size ? job[i].size : size;
    }
    int large = 0; /* jobs of that size; the others' take a fifth of their time */
    for (int i = 0; i < n; i++) {
        large += job[i].size == size;
    }
    const double more = 1.0 + 0.2 * (n - large) / large;
    const int    stride = size > 1 ? w.stride : 1, cols = size > 1 ? W + 2 : WO; /* of the largest input tile */
    const double sms = (double)s->policy->sms, steps = (double)(size * size * w.CI / 16);
    int          best = 0, best_cluster = 0, best_shared = 0; /* of both lists, counted from 1 */
    double       least = 0.0;
    auto consider = [&](auto kernel, int shape, int cluster, size_t shared, double cycles) {
        if ((!best || cycles < least) && cluster <= s->policy->max_cluster && shared <= (size_t)s->policy->smem && (!wish || wish == shape) &&
            (cluster == 1 || mailp_cuda_active_clusters(kernel, cluster, shared, s->policy->sms) > 0)) { /* a small GPU, or a part of one, may not run it */
            best = shape;
            best_cluster = cluster;
            best_shared = (int)shared;
            least = cycles;
        }
    };
    auto together_of = [&](const mailp_cuda_many_shape &shape) { /* whole pictures that fit a block */
        return shape.px > px && shape.px % px == 0 && px % (shape.px / 8) == 0 ? shape.px / px : 1;
    };
    mailp_cuda_many_args a = {};
    mailp_cuda_few_args  b = {};
    for (int i = 0; i < MANY; i++) {
        int cluster = 1;
        while (cluster * many[i].px < px) {
            cluster *= 2;
        }
        const int    together = together_of(many[i]);
        const int    places = together * mailp_cuda_fused_rows(many[i].px, HO, WO, size, stride) * cols, part = many[i].part;
        const size_t tile = (size_t)places * (size_t)(part + 8) * 4, shared = many[i].shared + (tile > many[i].out ? tile : many[i].out);
        if (w.CO % (16 * many[i].groups) == 0 && w.CI % part == 0 && places <= 65535) {
            const double blocks = (double)((s->B + together - 1) / together * (w.CO / 16 / many[i].groups) * cluster * large) / sms;
            consider(half ? many[i].single : many[i].split, i + 1, cluster, shared,
                     more * mailp_cuda_many_cycles(many[i], blocks, steps, places * w.CI / 1024.0, half, 2 * shared <= (size_t)s->policy->smem));
        }
    }
    for (int i = 0; i < FEW; i++) {
        const int    own = 8 * few[i].tiles, share = few[i].share, rows = mailp_cuda_fused_rows(own, HO, WO, size, stride);
        const size_t tile = (size_t)(rows * cols) * (size_t)(w.CI / share + 8) * 4;
        const size_t shared = few[i].shared + (size_t)(size * size * w.CI / share) * (half ? 32 : 64) + (tile > few[i].part ? tile : few[i].part);
        int          parts = 1;
        while (parts * own < px) {
            parts *= 2;
        }
        if (w.CI % (16 * share) == 0 && own / share >= 8 && rows * cols <= 65535) {
            consider(half ? few[i].single : few[i].split, MANY + i + 1, parts * share, shared,
                     more * mailp_cuda_few_cycles(few[i], (double)(s->B * (w.CO / 16) * parts * share * large) / sms, steps / share, rows * cols * w.CI / share / 1024.0, half));
        }
    }
    if (!best) {
        return 0;
    }
    q->cycles += least;
    const mailp_cuda_maps maps = {H, W, w.CI, HO, WO, w.CO, w.stride};
    if (best > MANY) {
        const auto &shape = few[best - MANY - 1];
        static_cast<mailp_cuda_maps &>(b) = maps;
        b.share = shape.share;
        b.parts = best_cluster / shape.share;
        b.part_rows = (mailp_cuda_fused_rows(8 * shape.tiles, HO, WO, size, stride) - size) / stride + 1;
        memcpy(b.job, job, (size_t)n * sizeof *job);
        mailp_cuda_launch(q, half ? shape.single : shape.split, dim3((unsigned)(s->B * (w.CO / 16) * best_cluster), (unsigned)n), 256, (size_t)best_shared, b,
                          (unsigned)best_cluster);
        return 1;
    }
    const auto &shape = many[best - 1];
    static_cast<mailp_cuda_maps &>(a) = maps;
    a.images = s->B;
    a.part = shape.part;
    a.cluster = best_cluster;
    a.together = together_of(shape);
    memcpy(a.job, job, (size_t)n * sizeof *job);
    mailp_cuda_launch(q, half ? shape.single : shape.split,
                      dim3((unsigned)((s->B + a.together - 1) / a.together * (w.CO / 16 / shape.groups) * a.cluster), (unsigned)n), 256, (size_t)best_shared, a,
                      (unsigned)best_cluster);
    return 1;
}

/* out = relu?(norm(conv(in)) + residual): all in one launch, or one by one, in one launch or two. */
static inline void mailp_cuda_queue_stage(mailp_cuda_queue *q, const mail_cuda_session *s, const mailp_cuda_work *work, int n, int H, int W) {
    if (mailp_cuda_queue_fused(q, s, work, n, H, W)) {
        return;
    }
    for (int i = 0; i < n; i++) {
        if (n > 1 && mailp_cuda_queue_fused(q, s, work + i, 1, H, W)) {
            continue;
        }
        /* the raw sums go through a map of their own, since out may be the residual */
        mailp_cuda_norm_args norm;
        mailp_cuda_queue_conv(q, *work[i].w, work[i].raw, work[i].stats, work[i].in, s->B, H, W, &norm);
        norm.eye[0].out = work[i].out;
        norm.eye[0].residual = work[i].residual;
        norm.relu = work[i].relu;
        mailp_cuda_queue_norm(q, norm, s->B, 1);
    }
}

/* ---- many pictures by warpgroups ---- */

struct mailp_cuda_wide_shape {
    int    columns;
    size_t shared[2]; /* bytes without inputs, by SPLIT */
    void (*split)(mailp_cuda_wide_args);
    void (*single)(mailp_cuda_wide_args);
};
struct mailp_cuda_wide_choice { /* of a convolution's tiles; shape NULL: none fits */
    const mailp_cuda_wide_shape *shape;
    int                          together, cluster, slots;
    size_t                       shared;
    double                       cycles; /* that are to be expected of it */
};

/* The tile for convolutions of this kind from CI to CO channels, whose output is a line of so many pictures, `jobs` of them in one launch. */
static inline mailp_cuda_wide_choice mailp_cuda_choose_wide(const mail_cuda_session *s, const mailp_cuda_line &line, int CI, int CO, int jobs, int same) {
    static const mailp_cuda_wide_shape shapes[] = {
#define MAILP_CUDA_WIDE(N) {N, {sizeof(mailp_cuda_wide_shared<N, false>) + 511, sizeof(mailp_cuda_wide_shared<N, true>) + 511}, mailp_cuda_wide<N, true>, mailp_cuda_wide<N, false>}
        MAILP_CUDA_WIDE(152), MAILP_CUDA_WIDE(136), MAILP_CUDA_WIDE(96), MAILP_CUDA_WIDE(48),
#undef MAILP_CUDA_WIDE
    };
    mailp_cuda_wide_choice best = {};
    const int              split = !s->wish.half, length = line.H * line.P - 1;
    for (const auto &shape : shapes) {
        const int    N = shape.columns, together = length > N ? 1 : (N - length) / line.S + 1, cluster = (length + N - 1) / N;
        const int    L = mailp_cuda_wide_places(N, line.P, same ? MAILP_CUDA_WIDE_3 : MAILP_CUDA_WIDE_3_STRIDE_2);
        const size_t part = (size_t)((1 + split) * L * 64);
        const int    slots = 2 * (shape.shared[split] + 3 * part + 1024) <= (size_t)s->policy->smem + 1024 && !same ? 3 : 2; /* if two blocks fit an SM */
        const size_t shared = shape.shared[split] + (size_t)slots * part;
        if ((s->wish.wide > 1 && s->wish.wide != N) || cluster > s->policy->max_cluster || shared > (size_t)s->policy->smem ||
            (cluster > 1 && mailp_cuda_active_clusters(split ? shape.split : shape.single, cluster, shared, s->policy->sms, MAILP_CUDA_WIDE_NT) < 1)) {
            continue;
        }
        /* Cycles. A tap takes 3 N on tensor cores, which two blocks of an SM share, and 100 are added; 200 in a block alone: what is
           expected of the present form. The one before, without groups of taps, added 480 and 910 on an NVIDIA H200. */
        const double blocks = (double)((s->B + together - 1) / together * cluster * (CO / MAILP_CUDA_WIDE_ROWS) * jobs) / s->policy->sms;
        const double taps = (double)(CI / MAILP_CUDA_WIDE_PART) * 9.0, products = (split ? 3.0 : 1.0) * N;
        const double cycles = blocks <= 1.0 ? 8000.0 + taps * (products + 200.0) : 2.0 * ceil(blocks / 2.0) * (5000.0 + taps * (products + 100.0));
        if (!best.shape || cycles < best.cycles) {
            best = {&shape, together, cluster, slots, shared, cycles};
        }
    }
    return best;
}

/* A convolution as one of a launch. */
struct mailp_cuda_wide_work {
    const mailp_cuda_stage *w;
    const uint4            *in, *residual;
    uint4                  *out;
    float                  *final;
    int                     relu, quarters;
};
static inline void mailp_cuda_queue_wide(mailp_cuda_queue *q, const mail_cuda_session *s, const mailp_cuda_wide_work *work, int n, int H, int W) {
    const mailp_cuda_stage      &w = *work->w;
    mailp_cuda_wide_args         a = {};
    a.line = mailp_cuda_line_of(H, W, s->B);
    a.next = mailp_cuda_line_of((H + 1) / 2, (W + 1) / 2, s->B);
    a.CI = w.CI;
    a.CO = w.CO;
    a.images = s->B;
    int large = 0;
    for (int i = 0; i < n; i++) {
        mailp_cuda_wide_job &job = a.job[i];
        job.in = work[i].in;
        job.weights = (const uint4 *)(const void *)work[i].w->wide;
        job.residual = work[i].residual;
        job.out = work[i].out;
        job.final = work[i].final;
        job.gain = work[i].w->gain;
        job.bias = work[i].w->bias;
        job.unscale = work[i].w->unscale;
        job.relu = work[i].relu;
        job.quarters = work[i].quarters;
        job.kind = mailp_cuda_wide_kind_of(*work[i].w);
        large += work[i].w->size > 1;
    }
    const mailp_cuda_wide_choice choice = mailp_cuda_choose_wide(s, a.line, w.CI, w.CO, large ? large : n, w.stride == 1);
    a.together = choice.together;
    a.cluster = choice.cluster;
    a.slots = choice.slots;
    q->cycles += choice.cycles;
    mailp_cuda_launch(q, s->wish.half ? choice.shape->single : choice.shape->split,
                      dim3((unsigned)((s->B + a.together - 1) / a.together * (w.CO / MAILP_CUDA_WIDE_ROWS) * a.cluster), (unsigned)n), MAILP_CUDA_WIDE_NT,
                      choice.shared, a, (unsigned)a.cluster);
}

/* Whether a camera's convolutions all go by mailp_cuda_wide. */
static inline int mailp_cuda_wide_fits(const mail_cuda_session *s, const mailp_cuda_camera *cam) {
    int H = (cam->height + 3) / 4, W = (cam->width + 3) / 4;
    if (s->wish.plain || s->wish.wide < 0 || !s->policy->warpgroups) {
        return 0;
    }
    for (int i = 0; i < 8; i++) {
        const mailp_cuda_stage &w = cam->conv1[i];
        if (!w.wide || !cam->conv2[i].wide || (w.stride > 1 && !cam->down[i].wide)) {
            return 0;
        }
        H = w.stride > 1 ? (H + 1) / 2 : H;
        W = w.stride > 1 ? (W + 1) / 2 : W;
        const mailp_cuda_line line = mailp_cuda_line_of(H, W, s->B);
        if (!mailp_cuda_choose_wide(s, line, w.CI, w.CO, 1, w.stride == 1).shape || !mailp_cuda_choose_wide(s, line, w.CO, w.CO, 1, 1).shape) {
            return 0;
        }
    }
    return 1;
}

/* Eight blocks of n cameras by warpgroups; the first maps are lines already. The last goes to s->map[e][0]. */
static inline void mailp_cuda_queue_blocks_wide(mailp_cuda_queue *q, mail_cuda_session *s, const mailp_cuda_camera *cam, int n, int H, int W) {
    for (int i = 0; i < 8; i++) {
        mailp_cuda_wide_work work[MAILP_CUDA_JOBS];
        const int            g = i / 2, down = cam->down[i].w != NULL;
        H = down ? (H + 1) / 2 : H;
        W = down ? (W + 1) / 2 : W;
        for (int e = 0; e < n; e++) {
            uint4 *const *line = s->line[e][g];
            work[e] = {&cam[e].conv1[i], down ? line[2] : line[0], NULL, line[1], NULL, 1, 0};
            if (down) {
                work[n + e] = {&cam[e].down[i], line[2], NULL, line[0], NULL, 0, 0};
            }
        }
        mailp_cuda_queue_wide(q, s, work, down ? 2 * n : n, H, W);
        for (int e = 0; e < n; e++) {
            uint4 *const *line = s->line[e][g];
            const int     quarters = i % 2 && i < 7;
            work[e] = {&cam[e].conv2[i], line[1], line[0], quarters ? s->line[e][g + 1][2] : line[0], i == 7 ? s->map[e][0] : NULL, 1, quarters};
        }
        mailp_cuda_queue_wide(q, s, work, n, H, W);
    }
}

/* Pictures of n cameras like the first of them -> features in the ring, from `at` on. */
static inline void mailp_cuda_queue_cameras(mailp_cuda_queue *q, mail_cuda_session *s, int camera, int n, int at) {
    const mailp_cuda_camera *cam = &s->policy->camera[camera];
    float                   *x[MAILP_CUDA_EYES], *y[MAILP_CUDA_EYES], *skip[MAILP_CUDA_EYES]; /* a block's input, middle and shortcut */
    int                      H = cam->height, W = cam->width;
    mailp_cuda_work          work[MAILP_CUDA_JOBS];

    for (int e = 0; e < n; e++) {
        x[e] = s->map[e][0];
        y[e] = s->map[e][1];
        skip[e] = s->map[e][2];
        work[e] = {&cam[e].stem, x[e], s->picture[camera + e], NULL, 1, s->map[e][3], s->stats[e], NULL};
    }
    mailp_cuda_queue_first(q, s, work, n, H, W, s->wide[camera]);
    H = (H + 3) / 4;
    W = (W + 3) / 4;
    if (s->wide[camera]) {
        mailp_cuda_queue_blocks_wide(q, s, cam, n, H, W);
        for (int i = 0; i < 3; i++) {
            H = (H + 1) / 2;
            W = (W + 1) / 2;
        }
    }
    for (int i = 0; i < 8 && !s->wide[camera]; i++) {
        const int stride = cam->conv1[i].stride, HO = (H + stride - 1) / stride, WO = (W + stride - 1) / stride;
        const int down = cam->down[i].w != NULL; /* the block's output takes the place of its input, or of the shortcut, which then becomes the input */
        for (int e = 0; e < n; e++) {
            const mailp_cuda_camera &c = cam[e];
            work[e] = {&c.conv1[i], y[e], x[e], NULL, 1, s->map[e][3], s->stats[e], i < 7 ? &c.conv1[i + 1] : NULL};
            if (down) {
                work[n + e] = {&c.down[i], skip[e], x[e], NULL, 0, s->map[e][3], s->stats[e], i < 7 && c.down[i + 1].w ? &c.down[i + 1] : NULL};
            }
        }
        mailp_cuda_queue_stage(q, s, work, down ? 2 * n : n, H, W);
        for (int e = 0; e < n; e++) {
            if (down) {
                std::swap(x[e], skip[e]);
            }
            work[e] = {&cam[e].conv2[i], x[e], y[e], x[e], 1, s->map[e][3], s->stats[e], i < 7 ? &cam[e].conv2[i + 1] : NULL};
        }
        mailp_cuda_queue_stage(q, s, work, n, HO, WO);
        H = HO;
        W = WO;
    }
    mailp_cuda_keypoints_args k = {};
    k.h = s->history;
    for (int e = 0; e < n; e++) {
        k.eye[e].features = s->features[camera + e];
        k.eye[e].keypoints = s->keypoints[camera + e];
        k.eye[e].map = x[e];
        k.eye[e].conv_w = cam[e].kp_w;
        k.eye[e].conv_b = cam[e].kp_b;
        k.eye[e].pos_x = cam[e].pos_x;
        k.eye[e].pos_y = cam[e].pos_y;
        k.eye[e].fc_w = cam[e].fc_w;
        k.eye[e].fc_b = cam[e].fc_b;
        k.eye[e].temperature = cam[e].temperature;
        k.eye[e].at = at + e * cam->feature_dim;
    }
    k.px = H * W;
    k.C = cam->conv2[7].CO;
    k.n_keypoints = cam->n_keypoints;
    k.feature_dim = cam->feature_dim;
    mailp_cuda_launch(q, mailp_cuda_keypoints, dim3((unsigned)s->B, (unsigned)n), MAILP_CUDA_KEYPOINTS_NT,
                      mailp_cuda_keypoints_bytes((size_t)k.n_keypoints), k);
}

/* How many cameras from this one on have the same sizes and can go through each launch together. */
static inline int mailp_cuda_alike(const mail_cuda_policy *p, int camera) {
    const mailp_cuda_camera *c = &p->camera[camera];
    int                      n = 1;
    while (n < MAILP_CUDA_EYES && camera + n < (int)p->config.n_cameras && c[n].height == c->height && c[n].width == c->width && c[n].stem.CO == c->stem.CO &&
           c[n].n_keypoints == c->n_keypoints && c[n].feature_dim == c->feature_dim) {
        n++;
    }
    return n;
}

/* ====================================================================================================================
   >>api   public functions: check arguments, queue work, return
   ================================================================================================================= */

static inline mail_status mailp_cuda_check(cudaError_t error, const char *doing, mail_error *err) {
    if (error == cudaSuccess) {
        return MAIL_OK;
    }
    (void)cudaGetLastError(); /* it is told here; the caller's next question is not about it */
    return mailp_fail(err, error == cudaErrorMemoryAllocation ? MAIL_E_MEMORY : MAIL_E_UNSUPPORTED, "CUDA, %s: %s", doing,
                      cudaGetErrorString(error));
}

/* While it lives, the policy's device is the current one; a program with several GPUs may have left another. And what this thread
   asks of CUDA does not disturb a graph that another one records in cudaStreamCaptureModeGlobal. */
struct mailp_cuda_on {
    int                   before;
    cudaError_t           error;
    cudaStreamCaptureMode mode;
    explicit mailp_cuda_on(const mail_cuda_policy *policy) : before(-1), error(cudaGetDevice(&before)), mode(cudaStreamCaptureModeRelaxed) {
        if (error != cudaSuccess || before == policy->device) {
            before = -1;
        } else {
            error = cudaSetDevice(policy->device);
        }
        error = error == cudaSuccess ? cudaThreadExchangeStreamCaptureMode(&mode) : error;
    }
    mailp_cuda_on(const mailp_cuda_on &) = delete;
    mailp_cuda_on &operator=(const mailp_cuda_on &) = delete;
    ~mailp_cuda_on() {
        if (error == cudaSuccess) {
            (void)cudaThreadExchangeStreamCaptureMode(&mode);
        }
        if (before >= 0) {
            (void)cudaSetDevice(before);
        }
    }
};

MAIL_CUDA_API void mail_cuda_policy_free(mail_cuda_policy *policy) {
    if (policy) {
        const mailp_cuda_on on(policy);
        (void)cudaFree(policy->memory);
        free(policy->ddpm_memory);
        free(policy);
    }
}

/* Blocks of the largest cluster that the device runs: 16, or 8 where the larger ones are not to be had. */
static inline int mailp_cuda_largest_cluster(void) {
    return mailp_cuda_active_clusters(mailp_cuda_few<2, true>, 16, sizeof(mailp_cuda_few_shared<2>), 16) > 0 ? 16 : 8;
}

/* Load all weights onto the present device. */
static inline mail_status mailp_cuda_policy_build(mail_cuda_policy **out, const mailp_config *config, mailp_cuda_source source,
                                                  mail_error *err) {
    mailp_cuda_loader l;
    void             *raw = NULL;
    int               device = 0, major = 0, minor = 0, smem = 0, sms = 0;
    mail_status       status;
    *out = NULL;
    for (size_t i = 0; i < config->n_trunks; i++) {
        if (config->trunk[i].n_layers > MAILP_CUDA_MAX_LAYERS || config->trunk[i].d_state > 64) {
            return mailp_fail(err, MAIL_E_UNSUPPORTED, "trunk '%s' has %zu layers with d_state %zu; mail_cuda.cuh takes at most %d and 64",
                              config->trunk[i].name, config->trunk[i].n_layers, config->trunk[i].d_state, MAILP_CUDA_MAX_LAYERS);
        }
    }
    mail_cuda_policy *p = (mail_cuda_policy *)calloc(1, sizeof *p);
    if (!p) {
        return mailp_fail(err, MAIL_E_MEMORY, "%zu bytes for a policy", sizeof *p);
    }
    p->config = *config;
    cudaError_t e = cudaGetDevice(&device);
    p->device = device;
    const mailp_cuda_on on(p);
    if (config->algorithm == MAIL_DDPM) {
        p->ddpm_memory = (float *)malloc(MAIL_DDPM_TABLES * config->n_timesteps * sizeof(float));
        if (!p->ddpm_memory) {
            mail_cuda_policy_free(p);
            return mailp_fail(err, MAIL_E_MEMORY, "no memory for a noise schedule");
        }
        status = mail_ddpm_schedule(&p->ddpm, config->schedule, config->n_timesteps, p->ddpm_memory, err);
        if (status != MAIL_OK) {
            mail_cuda_policy_free(p);
            return status;
        }
    }
    if (e == cudaSuccess) {
        e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    }
    if (e == cudaSuccess) {
        e = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    }
    if (e == cudaSuccess) {
        e = cudaDeviceGetAttribute(&smem, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    }
    if (e == cudaSuccess) {
        e = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
    }
    status = mailp_cuda_check(e, "asking the device what it is", err);
    p->sm = major * 10 + minor;
    if (status == MAIL_OK) { /* a program compiled for an older architecture has no clusters on a newer GPU either */
        cudaFuncAttributes about;
        e = cudaFuncGetAttributes(&about, (const void *)mailp_cuda_loop<8, 0, 5, 1, false>);
        status = mailp_cuda_check(e, "looking for kernels (is the program compiled for this GPU?)", err);
        p->sm = e == cudaSuccess && about.ptxVersion < p->sm ? about.ptxVersion : p->sm;
        /* without the architecture's own features (sm_90 in place of sm_90a) the kernel is empty, which needs few registers */
        e = status == MAIL_OK ? cudaFuncGetAttributes(&about, (const void *)mailp_cuda_wide<MAILP_CUDA_WIDE_MOST, true>) : e;
        p->warpgroups = e == cudaSuccess && p->sm == 90 && about.numRegs > 64;
    }
    p->smem = smem;
    p->sms = sms;
    for (size_t i = 0; i < config->n_trunks && status == MAIL_OK; i++) { /* what mailp_cuda_queue_mixer takes for one token */
        const size_t need = 4 * (config->trunk[i].d_inner + config->trunk[i].dt_rank + 2 * config->trunk[i].d_state);
        if (need > (size_t)smem) {
            status = mailp_fail(err, MAIL_E_UNSUPPORTED, "trunk '%s' with d_inner %zu takes %zu bytes of shared memory; a block of this GPU has %d",
                                config->trunk[i].name, config->trunk[i].d_inner, need, smem);
        }
    }
    for (size_t i = 0; i < config->n_cameras && status == MAIL_OK; i++) {
        const size_t need = mailp_cuda_keypoints_bytes(config->camera[i].n_keypoints);
        if (need > (size_t)smem) {
            status = mailp_fail(err, MAIL_E_UNSUPPORTED, "camera '%s' with %zu keypoints takes %zu bytes of shared memory; a block of this GPU has %d",
                                config->camera[i].name, config->camera[i].n_keypoints, need, smem);
        }
    }
    p->max_cluster = p->sm >= 90 ? mailp_cuda_largest_cluster() : 1;

    memset(&l, 0, sizeof l);
    l.source = source;
    l.err = err;
    l.status = status;
    mailp_cuda_load_policy(&l, p);
    const size_t bytes = l.used * sizeof(float);
    if (l.status == MAIL_OK) {
        raw = malloc(bytes + 128);
        l.host = raw ? (float *)(((uintptr_t)raw + 127) / 128 * 128) : NULL; /* slices are structs aligned to 128 */
        l.tmp = (float *)malloc((l.tmp_need + 1) * sizeof(float));
        if (!l.host || !l.tmp) {
            l.status = mailp_fail(err, MAIL_E_MEMORY, "%zu bytes for weights on their way to the GPU", bytes);
        }
    }
    if (l.status == MAIL_OK) {
        l.status = mailp_cuda_check(cudaMalloc((void **)&p->memory, bytes), "allocating memory for weights", err);
    }
    if (l.status == MAIL_OK) {
        l.device = p->memory;
        l.used = 0;
        mailp_cuda_load_policy(&l, p);
    }
    if (l.status == MAIL_OK) {
        cudaStream_t stream = NULL; /* our own: the default stream, or waiting for the whole device, would break into graphs that other threads record */
        cudaError_t  copied = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
        if (copied == cudaSuccess) {
            copied = cudaMemcpyAsync(p->memory, l.host, bytes, cudaMemcpyDefault, stream);
            const cudaError_t waited = cudaStreamSynchronize(stream);
            copied = copied == cudaSuccess ? waited : copied;
            (void)cudaStreamDestroy(stream);
        }
        l.status = mailp_cuda_check(copied, "copying weights", err);
    }
    free(raw);
    free(l.tmp);
    if (l.status != MAIL_OK) {
        mail_cuda_policy_free(p);
        return l.status;
    }
    *out = p;
    return MAIL_OK;
}

/* Tensors of the file that mail_policy_load keeps open. Modules that a checkpoint registers twice are found under either
   name: backbone = nets.0, pool = nets.1. */
static inline mail_status mailp_cuda_read_tensor(void *user, const char *name, float *values, size_t n, mail_error *err) {
    const mail_policy *policy = (const mail_policy *)user;
    const mail_tensor *t = mail_tensors_find(policy->tensors, name);
    char               other[256];
    if (!t && (mailp_alias(other, sizeof other, name, ".backbone.", ".nets.0.") || mailp_alias(other, sizeof other, name, ".pool.", ".nets.1."))) {
        t = mail_tensors_find(policy->tensors, other);
    }
    if (!t || t->count != n) {
        return mailp_fail(err, MAIL_E_TENSOR, "tensor '%s' is missing or has not %zu elements", name, n);
    }
    return mail_tensor_read(t, values, n, err);
}

/* Put a loaded policy's weights on the present device, as float32. The policy is not needed afterwards.
   Returns  MAIL_E_STATE if it was loaded with drop_source; MAIL_E_UNSUPPORTED if it is larger than the kernels allow. */
MAIL_CUDA_API mail_status mail_cuda_policy_create(mail_cuda_policy **out, const mail_policy *policy, mail_error *err) {
    if (out) {
        *out = NULL;
    }
    if (!out || !policy) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_cuda_policy_create: out or policy is NULL");
    }
    if (!policy->tensors) {
        return mailp_fail(err, MAIL_E_STATE, "the policy was loaded with drop_source: its tensors are gone");
    }
    const mailp_cuda_source source = {mailp_cuda_read_tensor, (void *)(uintptr_t)policy};
    return mailp_cuda_policy_build(out, &policy->cfg, source, err);
}

/* Lay out a session's device memory from base on (NULL: only measure) and return its size in bytes. */
static inline size_t mailp_cuda_session_layout(mail_cuda_session *s, unsigned char *base) {
    const mail_cuda_policy *p = s->policy;
    const mailp_config     &c = p->config;
    const int               mamba = c.arch == MAIL_D_MA || c.arch == MAIL_ED_MA;
    const size_t            B = (size_t)s->B, A = (size_t)s->A, D = (size_t)s->D, d = (size_t)s->d, T = (size_t)s->T;
    const size_t            Q = (size_t)s->steps * B, ahead = s->inside ? (size_t)s->steps : Q * (size_t)s->P, rows = ahead > B * A ? ahead : B * A;
    const size_t            chunk = B * A * D, calls = (size_t)s->calls;
    const mailp_cuda_trunk *main = &p->trunk[c.n_trunks - 1];
    size_t                  used = 0, state = 0, wide = 4 * d, narrow = d;
    auto take = [&](size_t bytes) {
        unsigned char *at = base ? base + used : NULL;
        used += (bytes + 255) / 256 * 256;
        return (void *)at;
    };
    auto floats = [&](size_t n) { return (float *)take(n * sizeof(float)); };
    auto ints = [&](size_t n) { return (int *)take(n * sizeof(int)); };

    s->history.robots = s->B;
    s->history.obs_seq = (int)c.obs_seq;
    s->history.state_dim = (int)c.state_dim;
    s->history.lang = c.lang ? 1 : 0;
    s->history.head = ints(B);
    s->history.states = ints(B);
    s->history.ring = floats(B * c.obs_seq * c.state_dim);
    s->history.goal = c.lang ? floats(B * c.state_dim) : NULL;
    s->goal_in = c.lang ? floats(B * c.lang_dim) : NULL;
    s->chunks.robots = s->B;
    s->chunks.A = s->A;
    s->chunks.D = s->D;
    s->chunks.actions = s->actions = floats(chunk);
    s->chunks.chunk = floats(chunk);
    s->chunks.ensemble = s->options.ensemble ? floats(A * chunk) : NULL;
    s->chunks.weight = (const double *)take(A * sizeof(double));
    s->chunks.last = floats(B * D);
    s->chunks.given = floats(B * D);
    s->chunks.used = ints(B);
    s->chunks.has_last = ints(B);
    s->chunks.ensemble_n = ints(B);
    s->chunks.plans = (uint32_t *)take(B * sizeof(uint32_t));
    s->chunks.lo = s->options.action_min ? floats(D) : NULL;
    s->chunks.hi = s->options.action_max ? floats(D) : NULL;
    s->chunks.max_step = s->options.action_max_step ? floats(D) : NULL;
    s->obs = floats(B * T * c.state_dim);
    s->tok = floats(B * T * d);
    if (mamba) {
        for (size_t i = 0; i < c.n_trunks; i++) {
            const mailp_cuda_trunk *t = &p->trunk[i];
            const size_t            E = (size_t)t->d_inner;
            wide = 2 * E > wide ? 2 * E : wide;
            narrow = E > narrow ? E : narrow;
            state = mailp_cuda_state_size(t) > state ? mailp_cuda_state_size(t) : state;
        }
        if (s->timed) {
            s->time_state = floats((size_t)main->n_layers * (size_t)s->steps * state);
        }
        if (!s->inside) {
            s->scratch_state = floats(Q * state);
            s->cache = floats((size_t)main->n_layers * Q * mailp_cuda_state_size(main));
        }
    } else if (c.arch == MAIL_D_TR) {
        s->cache = floats((size_t)main->n_layers * Q * (size_t)s->P0 * 3 * d);
    } else {
        s->cache = floats((size_t)main->n_layers * Q * (size_t)s->P * 2 * d);
    }
    s->X = floats(rows * d);
    s->xz = floats(rows * wide);
    s->y = floats(rows * narrow);
    if (c.arch == MAIL_ED_MA) {
        s->cond = floats(rows * d);
        s->cond_prefix = floats(Q * (size_t)s->P0 * d);
        s->cond_act = floats(Q * A * d);
    }
    s->time = floats((size_t)s->steps * d);
    s->table = floats((size_t)s->steps * 5);
    s->x = floats(chunk);
    s->u = floats(B * A * d);
    s->noise = floats(calls * chunk);
    if (s->wish.trace) {
        s->trace_noise = floats(calls * chunk);
        s->trace_x_start = floats(calls * chunk);
        s->trace_x = floats(calls * chunk);
        s->trace_norm = floats(chunk);
    }
    size_t map = 0, stats = 0;
    for (size_t i = 0; i < c.n_cameras; i++) {
        const mailp_cuda_camera *cam = &p->camera[i];
        const size_t             h = ((size_t)cam->height + 1) / 2, w = ((size_t)cam->width + 1) / 2;
        /* the stem's output is the largest map, but for a few pixels, of which the last map has one with 8 times the channels */
        const size_t             n = B * std::max(h * w, (size_t)8) * (size_t)cam->stem.CO;
        map = n > map ? n : map;
        /* tiles of 16 pixels at least, or of 4 x 6 pooled ones, 3 floats a group of 16 channels; later stages have fewer of
           pixels x channels, but every image has at least one tile per group */
        const size_t tiles = std::max(h * w / 16 + 1, ((h + 1) / 2 + 3) / 4 * (((w + 1) / 2 + 5) / 6));
        const size_t m = B * tiles * (size_t)cam->stem.CO / 16 * 3 + B * (size_t)cam->conv2[7].CO / 16 * 3;
        stats = m > stats ? m : stats;
        s->picture[i] = floats(B * (size_t)cam->height * (size_t)cam->width * 3);
        s->features[i] = floats(B * (size_t)cam->feature_dim);
        s->keypoints[i] = floats(B * (size_t)cam->n_keypoints * 2);
    }
    size_t line[4][2] = {}; /* places and quarters of them, times channels */
    int    narrow_maps = 0;
    for (size_t i = 0; i < c.n_cameras; i++) {
        const mailp_cuda_camera *cam = &p->camera[i];
        narrow_maps = narrow_maps || !s->wide[i];
        for (int k = 0, H = (cam->height + 3) / 4, W = (cam->width + 3) / 4; k < 4 && s->wide[i]; k++, H = (H + 1) / 2, W = (W + 1) / 2) {
            const size_t n = (size_t)mailp_cuda_line_of(H, W, s->B).Q * (size_t)cam->conv2[2 * k].CO;
            line[k][0] = std::max(line[k][0], n);
            line[k][1] = k ? std::max(line[k][1], n / 2 * 4) : 0;
        }
    }
    for (int i = 0; i < s->eyes && c.n_cameras; i++) {
        for (int k = 0; k < 4; k++) { /* the first and the last are enough for those that have lines */
            s->map[i][k] = k == 0 || k == 3 || narrow_maps ? floats(map) : NULL;
        }
        s->stats[i] = floats(stats);
        for (int k = 0; k < 4; k++) {
            for (int n = 0; n < 3; n++) {
                s->line[i][k][n] = (uint4 *)(void *)floats(line[k][n / 2]);
            }
        }
    }
    if (c.n_cameras) {
        s->stage = (unsigned char *)take(s->stage_bytes);
    } else {
        s->features[0] = floats(B * c.state_dim);
    }
    return used;
}

/* ---- what is queued, piece by piece ---- */

/* Everything between new pictures (or features) in the session's buffers and the ring. */
static inline void mailp_cuda_queue_observe(mailp_cuda_queue *q, mail_cuda_session *s) {
    const mailp_config &c = s->policy->config;
    for (int i = 0, at = 0, n; i < (int)c.n_cameras; i += n) {
        n = std::min(mailp_cuda_alike(s->policy, i), s->eyes);
        mailp_cuda_queue_cameras(q, s, i, n, at);
        at += n * s->policy->camera[i].feature_dim;
    }
    if (!c.n_cameras) {
        mailp_cuda_put_args put = {s->history, s->features[0], (int)c.state_dim, 0};
        mailp_cuda_launch(q, mailp_cuda_put, dim3((unsigned)s->B), 128, 0, put);
    }
    mailp_cuda_launch(q, mailp_cuda_age, dim3(1), 128, 0, s->history);
}

/* What the network makes of the histories: s->actions. */
static inline void mailp_cuda_queue_plan(mailp_cuda_queue *q, mail_cuda_session *s) {
    mailp_cuda_queue_prefix(q, s);
    if (s->loop.kernel) {
        mailp_cuda_queue_fast_loop(q, s);
    } else {
        mailp_cuda_queue_loop(q, s);
    }
}

static inline void mailp_cuda_queue_forget(mailp_cuda_queue *q, mail_cuda_session *s, int robot) {
    const mailp_cuda_forget_args a = {s->history, s->chunks, robot};
    mailp_cuda_launch(q, mailp_cuda_forget, dim3(1), 128, 0, a);
}

/* s->x and s->noise, from the caller's arrays or, where there is none, from the seed. */
static inline void mailp_cuda_queue_noise(mailp_cuda_queue *q, mail_cuda_session *s) {
    const size_t         n = (size_t)s->A * (size_t)s->D, quads = (n + 3) / 4 * (size_t)s->B;
    mailp_cuda_draw_args a = {s->x, s->noise, s->chunks.plans, s->options.seed, s->B, (int)n, s->x_T ? 1 : 0, 0};
    a.calls = (s->noise_in ? 1 : 1 + s->calls) - a.first;
    if (a.calls) {
        mailp_cuda_launch(q, mailp_cuda_draw, dim3(mailp_cuda_tiles(quads * (size_t)a.calls, 128)), 128, 0, a);
    }
    if (s->x_T && q->error == cudaSuccess) {
        q->error = cudaMemcpyAsync(s->x, s->x_T, (size_t)s->B * n * sizeof(float), cudaMemcpyDefault, q->stream);
    }
    if (s->noise_in && q->error == cudaSuccess) {
        q->error = cudaMemcpyAsync(s->noise, s->noise_in, (size_t)s->calls * (size_t)s->B * n * sizeof(float), cudaMemcpyDefault, q->stream);
    }
}

static inline void mailp_cuda_queue_commit(mailp_cuda_queue *q, mail_cuda_session *s, int all) {
    const mailp_cuda_commit_args a = {s->chunks, all};
    mailp_cuda_launch(q, mailp_cuda_commit, dim3((unsigned)s->B), 64, 0, a);
}

static inline void mailp_cuda_queue_give(mailp_cuda_queue *q, mail_cuda_session *s) {
    mailp_cuda_launch(q, mailp_cuda_give, dim3((unsigned)s->B), 64, 0, s->chunks);
}

static inline void mailp_cuda_queue_goal(mailp_cuda_queue *q, mail_cuda_session *s) {
    const mail_cuda_policy *p = s->policy;
    mailp_cuda_queue_linear(q, mailp_cuda_linear_init(s->history.goal, s->goal_in, p->lang_w, p->lang_b, s->B, (int)p->config.state_dim,
                                                      (int)p->config.lang_dim));
}

/* n pictures with at most px pixels each in the result. */
static inline void mailp_cuda_queue_prepare(mailp_cuda_queue *q, mail_cuda_session *s, mailp_cuda_prepare_args *a, int n, int px) {
    a->table = s->policy->image_table;
    memcpy(a->mean, mailp_image_mean, sizeof a->mean);
    memcpy(a->std, mailp_image_std, sizeof a->std);
    mailp_cuda_launch(q, mailp_cuda_prepare, dim3(mailp_cuda_tiles((size_t)px, 256), (unsigned)n), 256, 0, *a);
}

/* Bring every kernel that is launched outside a graph into the device's memory. */
static inline void mailp_cuda_load_kernels(mailp_cuda_queue *q, mail_cuda_session *s) {
    mailp_cuda_prepare_args none = {};
    mailp_cuda_queue_forget(q, s, -1);
    mailp_cuda_queue_noise(q, s);
    mailp_cuda_queue_commit(q, s, 1);
    mailp_cuda_queue_give(q, s);
    mailp_cuda_queue_goal(q, s);
    mailp_cuda_queue_prepare(q, s, &none, 1, 1);
}

/* Record what queue() launches as a graph; early: with kernels that begin while the one before them ends. */
static inline cudaError_t mailp_cuda_record_once(cudaGraphExec_t *exec, mail_cuda_session *s, void (*queue)(mailp_cuda_queue *, mail_cuda_session *),
                                                 int early) {
    cudaStream_t     stream = NULL;
    cudaGraph_t      graph = NULL;
    mailp_cuda_queue q = {NULL, cudaSuccess, 1, early, 1, 0.0};
    *exec = NULL;
    queue(&q, s); /* loading a kernel may allocate, which a recording does not allow */
    cudaError_t e = q.error == cudaSuccess ? cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) : q.error;
    if (e != cudaSuccess) {
        return e;
    }
    e = e == cudaSuccess ? cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) : e;
    if (e == cudaSuccess) {
        q.stream = stream;
        q.load = 0;
        q.fresh = 1;
        queue(&q, s);
        e = cudaStreamEndCapture(stream, &graph);
        e = q.error != cudaSuccess ? q.error : e;
    }
    e = e == cudaSuccess ? cudaGraphInstantiate(exec, graph, 0) : e;
    e = e == cudaSuccess ? cudaGraphUpload(*exec, stream) : e;
    e = e == cudaSuccess ? cudaStreamSynchronize(stream) : e;
    if (graph) {
        (void)cudaGraphDestroy(graph);
    }
    (void)cudaStreamDestroy(stream);
    if (e != cudaSuccess && *exec) {
        (void)cudaGraphExecDestroy(*exec);
        *exec = NULL;
    }
    return e;
}

/* The same, without early launches where they are not to be had: below sm_90, or with a driver that refuses them in graphs. */
static inline cudaError_t mailp_cuda_record(cudaGraphExec_t *exec, mail_cuda_session *s, void (*queue)(mailp_cuda_queue *, mail_cuda_session *)) {
    cudaError_t e = cudaErrorInvalidValue;
    if (s->policy->sm >= 90 && !s->wish.plain) {
        e = mailp_cuda_record_once(exec, s, queue, 1);
    }
    if (e != cudaSuccess) {
        (void)cudaGetLastError();
        e = mailp_cuda_record_once(exec, s, queue, 0);
    }
    return e;
}

/* ---- sessions ---- */

MAIL_CUDA_API void mail_cuda_session_free(mail_cuda_session *session) {
    if (!session) {
        return;
    }
    const mailp_cuda_on on(session->policy);
    (void)cudaStreamSynchronize(session->stream); /* what is queued may still use all of this; not the device: that breaks into graphs being recorded */
    if (session->observe) {
        (void)cudaGraphExecDestroy(session->observe);
    }
    if (session->plan) {
        (void)cudaGraphExecDestroy(session->plan);
    }
    (void)cudaFree(session->memory);
    if (session->fault) {
        (void)cudaFreeHost((void *)(uintptr_t)session->fault);
    }
    free(session);
}

/* What the host remembers of one robot, as forgotten. */
static inline void mailp_cuda_forget_robot(mail_cuda_session *s, size_t robot) {
    s->frames[robot] = 0;
    s->used[robot] = s->chunks.n_exec;
}

/* Start an episode, as mail_session_reset does: histories, chunks and noise given for the next plan are forgotten, the noise
   starts over from seed. The goal is kept. */
MAIL_CUDA_API mail_status mail_cuda_session_reset(mail_cuda_session *session, uint64_t seed, mail_error *err) {
    if (!session) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_cuda_session_reset: session is NULL");
    }
    const mailp_cuda_on on(session->policy);
    mailp_cuda_queue    q = {session->stream, on.error, 0, 0, 0, 0.0};
    mailp_cuda_queue_forget(&q, session, -1);
    if (q.error != cudaSuccess) {
        return mailp_cuda_check(q.error, "resetting a session", err);
    }
    session->options.seed = seed;
    session->x_T = session->noise_in = NULL;
    for (size_t b = 0; b < (size_t)session->B; b++) {
        mailp_cuda_forget_robot(session, b);
    }
    return MAIL_OK;
}

/* The same for one robot of the batch; seed and the other robots' histories and chunks are left alone, and that robot's
   noise goes on. */
MAIL_CUDA_API mail_status mail_cuda_session_reset_robot(mail_cuda_session *session, size_t robot, mail_error *err) {
    if (!session || robot >= (size_t)session->B) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "robot %zu of a session with %d", robot, session ? session->B : 0);
    }
    const mailp_cuda_on on(session->policy);
    mailp_cuda_queue    q = {session->stream, on.error, 0, 0, 0, 0.0};
    mailp_cuda_queue_forget(&q, session, (int)robot);
    if (q.error == cudaSuccess) {
        mailp_cuda_forget_robot(session, robot);
    }
    return mailp_cuda_check(q.error, "resetting a robot", err);
}

typedef struct mail_cuda_options {
    mail_session_options session;        /* as for mail_session_create; parallel, profile, allocator, now and align_plan do nothing */
    size_t               picture_bytes;  /* largest picture in host memory, without padding; 0: 1920 x 1080 pixels of 4 bytes */
    int                  half;           /* 1: one half product in the convolutions, not three: faster, error about 3e-4 a layer */
    int                  plain;          /* 1: no clusters, as on an older GPU */
} mail_cuda_options;

MAIL_CUDA_API mail_cuda_options mail_cuda_options_init(void) {
    mail_cuda_options o = {};
    o.session = mail_session_options_init();
    return o;
}

/* The timesteps that a plan visits, ascending, into visited [n_timesteps + 1]; returns how many. A plan goes from the last
   to the first, and for diffusion-X comes to step 0 again and again; see mailp_plan_start. */
static inline size_t mailp_cuda_visited(size_t *visited, const mailp_config &c, const mail_session_options &o) {
    const size_t n = o.n_steps ? o.n_steps : c.n_timesteps;
    size_t       at = 0;
    mailp_order(visited, c.n_timesteps - 1, n);
    if (c.diffusion_x && visited[n - 1] != 0) {
        visited[n] = 0;
        at = 1;
    }
    std::reverse(visited, visited + n + at);
    return n + at;
}

/* The coefficients of >>sampler for timestep t, from which the next is to; to < 0: none. */
static inline void mailp_cuda_coefficients(float row[5], const mail_ddpm &ddpm, size_t t, long to, mail_sampler sampler) {
    row[0] = ddpm.sqrt_recip_alphas_cumprod[t];
    row[1] = ddpm.sqrt_recipm1_alphas_cumprod[t];
    row[2] = ddpm.posterior_mean_coef1[t];
    row[3] = ddpm.posterior_mean_coef2[t];
    row[4] = t ? ddpm.posterior_std[t] : 0.0f;
    if (sampler == MAIL_SAMPLER_DDIM) { /* sqrt(bar') x0 + sqrt(1 - bar') (x - sqrt(bar) x0) / sqrt(1 - bar) */
        const double bar = (double)ddpm.alphas_cumprod[t], next = to < 0 ? 1.0 : (double)ddpm.alphas_cumprod[to];
        const double away = sqrt(1.0 - next) / sqrt(1.0 - bar);
        row[2] = (float)(sqrt(next) - away * sqrt(bar));
        row[3] = (float)away;
        row[4] = 0.0f;
    }
}

/* Fill what stays the same for the whole life of a session. `wait` (5 floats a step) and `wait_weight` (one per action) are
   memory of the host that must live until the stream has come this far. */
static inline cudaError_t mailp_cuda_session_fill(mail_cuda_session *s, const size_t *visited, float *wait, double *wait_weight) {
    const mail_cuda_policy *p = s->policy;
    const float            *limits[3] = {s->options.action_min, s->options.action_max, s->options.action_max_step};
    const float            *to[3] = {s->chunks.lo, s->chunks.hi, s->chunks.max_step};
    const size_t            d = (size_t)s->d, D = (size_t)s->D, steps = (size_t)s->steps;
    cudaError_t             e = cudaSuccess;
    for (int i = 0; i < 3 && e == cudaSuccess; i++) {
        if (limits[i]) {
            e = cudaMemcpyAsync((void *)(uintptr_t)to[i], limits[i], D * sizeof(float), cudaMemcpyDefault, s->stream);
        }
    }
    s->options.action_min = s->options.action_max = s->options.action_max_step = NULL; /* the caller's */
    for (int i = 0; i < s->A; i++) {
        wait_weight[i] = exp(-(double)s->options.ensemble_decay * (double)i);
    }
    if (e == cudaSuccess) {
        e = cudaMemcpyAsync((void *)(uintptr_t)s->chunks.weight, wait_weight, (size_t)s->A * sizeof(double), cudaMemcpyDefault, s->stream);
    }
    if (p->config.algorithm != MAIL_DDPM) {
        return e;
    }
    for (size_t i = 0; i < steps && e == cudaSuccess; i++) {
        mailp_cuda_coefficients(wait + 5 * i, p->ddpm, visited[i], i ? (long)visited[i - 1] : -1, s->options.sampler);
        e = cudaMemcpyAsync(s->time + i * d, p->time + visited[i] * d, d * sizeof(float), cudaMemcpyDefault, s->stream);
    }
    return e == cudaSuccess ? cudaMemcpyAsync(s->table, wait, 5 * steps * sizeof(float), cudaMemcpyDefault, s->stream) : e;
}

/* Are these options right for the policy? As mail.h judges, which looks at the configuration alone. */
static inline mail_status mailp_cuda_options_check(const mail_cuda_policy *policy, const mail_cuda_options &o, mail_error *err) {
    mail_policy *like = (mail_policy *)calloc(1, sizeof *like);
    if (!like) {
        return mailp_fail(err, MAIL_E_MEMORY, "no memory for checking options");
    }
    like->cfg = policy->config;
    const mail_status status = mailp_session_check(like, &o.session, err);
    free(like);
    return status;
}

static inline mail_status mailp_cuda_session_build(mail_cuda_session **out, const mail_cuda_policy *policy, const mail_cuda_options &o,
                                                   cudaStream_t stream, mailp_cuda_wish wish, mail_error *err) {
    const mailp_config &c = policy->config;
    const int           ddpm = c.algorithm == MAIL_DDPM;
    int                 device = -1;
    *out = NULL;
    mail_status status = mailp_cuda_check(cudaGetDevice(&device), "asking for the device", err);
    if (status == MAIL_OK && device != policy->device) {
        status = mailp_fail(err, MAIL_E_STATE, "device %d is current, but the policy is on device %d (cudaSetDevice)", device, policy->device);
    }
    if (status == MAIL_OK) {
        status = mailp_cuda_options_check(policy, o, err);
    }
    if (status != MAIL_OK) {
        return status;
    }
    mail_cuda_session *s = (mail_cuda_session *)calloc(1, sizeof *s);
    size_t            *visited = (size_t *)calloc(c.n_timesteps + 1, sizeof *visited);
    float             *table = (float *)calloc(c.n_timesteps + 1, 5 * sizeof *table);
    double            *weight = (double *)calloc(c.act_seq, sizeof *weight);
    if (!s || !visited || !table || !weight) {
        free(s);
        free(visited);
        free(table);
        free(weight);
        return mailp_fail(err, MAIL_E_MEMORY, "%zu bytes for a session", sizeof *s);
    }
    const mailp_cuda_on on(policy);
    s->policy = policy;
    s->stream = stream;
    s->options = o.session;
    s->B = (int)o.session.batch;
    s->A = (int)c.act_seq;
    s->D = (int)c.action_dim;
    s->d = (int)c.d_model;
    s->T = (int)c.obs_seq + (c.lang ? 1 : 0);
    s->steps = ddpm ? (int)mailp_cuda_visited(visited, c, o.session) : 1;
    s->calls = ddpm ? (int)((o.session.n_steps ? o.session.n_steps : c.n_timesteps) + c.diffusion_x) : 1;
    s->timed = ddpm && c.arch == MAIL_D_MA;
    s->P0 = s->T + (ddpm && !s->timed);
    s->P = c.arch == MAIL_ED_MA ? s->P0 + s->A : s->P0;
    s->chunks.n_exec = (int)(o.session.ensemble ? 1 : o.session.n_action_steps ? o.session.n_action_steps : c.n_action_steps);
    s->stage_bytes = o.picture_bytes ? std::min(o.picture_bytes, (size_t)MAIL_MAX_IMAGE * MAIL_MAX_IMAGE * 12) /* the largest that there is */
                                     : (size_t)1920 * 1080 * 4;
    size_t own = 0; /* pictures of the cameras' own size for all robots go in one piece */
    for (size_t i = 0; i < c.n_cameras; i++) {
        own += (size_t)s->B * ((c.camera[i].height * c.camera[i].width * 3 + 15) / 16 * 16);
    }
    s->stage_bytes = own > s->stage_bytes ? own : s->stage_bytes;
    s->wish = wish;
    s->wish.plain |= o.plain;
    s->wish.half |= o.half;
    s->eyes = 1;
    for (int i = 0; i < (int)c.n_cameras; i++) {
        s->eyes = std::max(s->eyes, mailp_cuda_alike(policy, i));
    }
    mailp_cuda_choose_loop(s);
    for (size_t i = 0; i < c.n_cameras; i++) {
        s->wide[i] = (s->B >= MAILP_CUDA_WIDE_ROBOTS || wish.wide > 0) && mailp_cuda_wide_fits(s, &policy->camera[i]);
    }
    const size_t bytes = mailp_cuda_session_layout(s, NULL);
    status = mailp_cuda_check(cudaMalloc((void **)&s->memory, bytes), "allocating memory for a session", err);
    if (status == MAIL_OK) {
        void       *host = NULL, *seen = NULL;
        cudaError_t e = cudaHostAlloc(&host, 2 * (size_t)s->B * sizeof(int), cudaHostAllocMapped);
        if (e == cudaSuccess) {
            memset(host, 0, 2 * (size_t)s->B * sizeof(int));
            e = cudaHostGetDevicePointer(&seen, host, 0);
        }
        s->fault = (volatile int *)host;
        s->history.fault = s->chunks.fault = (int *)seen;
        status = mailp_cuda_check(e, "allocating page-locked memory for a session", err);
    }
    if (status == MAIL_OK) {
        (void)mailp_cuda_session_layout(s, s->memory);
        status = mailp_cuda_check(cudaMemsetAsync(s->memory, 0, bytes, stream), "clearing a session", err);
    }
    if (status == MAIL_OK) {
        status = mailp_cuda_check(mailp_cuda_session_fill(s, visited, table, weight), "filling a session", err);
    }
    if (status == MAIL_OK) {
        mailp_cuda_queue q = {stream, cudaSuccess, 1, 0, 0, 0.0};
        mailp_cuda_load_kernels(&q, s);
        status = mailp_cuda_check(q.error, "loading kernels", err);
        if (status == MAIL_OK && s->timed) {
            q.load = 0;
            mailp_cuda_queue_time(&q, s);
            status = mailp_cuda_check(q.error, "computing the states after the time tokens", err);
        }
    }
    if (status == MAIL_OK) {
        status = mailp_cuda_check(mailp_cuda_record(&s->observe, s, mailp_cuda_queue_observe), "recording the encoder", err);
    }
    if (status == MAIL_OK) {
        status = mailp_cuda_check(mailp_cuda_record(&s->plan, s, mailp_cuda_queue_plan), "recording a decision", err);
    }
    if (status == MAIL_OK) {
        status = mail_cuda_session_reset(s, o.session.seed, err);
    }
    if (s->memory) {
        const mail_status waited = mailp_cuda_check(cudaStreamSynchronize(stream), "making a session", status == MAIL_OK ? err : NULL);
        status = status == MAIL_OK ? waited : status;
    }
    free(visited);
    free(table);
    free(weight);
    if (status != MAIL_OK) {
        mail_cuda_session_free(s);
        return status;
    }
    *out = s;
    return MAIL_OK;
}

/* A session: histories, chunks, noise and work memory of some robots, on the device that is current (the policy's). What it
   queues goes to the caller's stream; it belongs to the caller, lives until mail_cuda_session_free and must not be recording a
   graph. Not cudaStreamPerThread, which is another stream in every thread, if the session moves between threads.
   options NULL: defaults.
   Memory: allocates here, and then never again.   The policy must outlive the session. */
MAIL_CUDA_API mail_status mail_cuda_session_create(mail_cuda_session **session, const mail_cuda_policy *policy,
                                                   const mail_cuda_options *options, cudaStream_t stream, mail_error *err) {
    const mail_cuda_options o = options ? *options : mail_cuda_options_init();
    mailp_cuda_wish         wish = {};
    if (session) {
        *session = NULL;
    }
    if (!session || !policy) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_cuda_session_create: session or policy is NULL");
    }
    return mailp_cuda_session_build(session, policy, o, stream, wish, err);
}

/* Language goal, as in mail_session_set_goal: n = lang_dim (the same for all) or batch * lang_dim floats, on host or device. Not
   looked at here: one that is not finite is told of by mail_cuda_session_check, and makes actions so until the next goal. */
MAIL_CUDA_API mail_status mail_cuda_session_set_goal(mail_cuda_session *session, const float *embedding, size_t n, mail_error *err) {
    if (!session || !embedding) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_cuda_session_set_goal: session or embedding is NULL");
    }
    const mail_cuda_policy *p = session->policy;
    const size_t            dim = p->config.lang_dim, B = (size_t)session->B;
    if (!p->config.lang) {
        return mailp_fail(err, MAIL_E_STATE, "this policy takes no language goal");
    }
    if (n != dim && n != B * dim) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "a goal of %zu floats; %zu, or %zu for one per robot, are expected", n, dim, B * dim);
    }
    const mailp_cuda_on on(session->policy);
    mailp_cuda_queue    q = {session->stream, on.error, 0, 0, 0, 0.0};
    for (size_t b = 0; b < B && q.error == cudaSuccess; b++) {
        q.error = cudaMemcpyAsync(session->goal_in + b * dim, embedding + (n == dim ? 0 : b * dim), dim * sizeof(float),
                                  cudaMemcpyDefault, session->stream);
    }
    mailp_cuda_queue_goal(&q, session);
    session->has_goal = session->has_goal || q.error == cudaSuccess;
    return mailp_cuda_check(q.error, "setting the goal", err);
}

/* Count a frame of every robot whose encoding has been queued. */
static inline mail_status mailp_cuda_observed(mail_cuda_session *s, cudaError_t e, mail_error *err) {
    if (e == cudaSuccess) {
        e = cudaGraphLaunch(s->observe, s->stream);
    }
    if (e == cudaSuccess) {
        for (int b = 0; b < s->B; b++) {
            s->frames[b] += s->frames[b] < (int)s->policy->config.obs_seq;
        }
    }
    return mailp_cuda_check(e, "encoding a frame", err);
}

/* Whether kernels of this device may read there. */
static inline int mailp_cuda_on_device(const void *data, int device) {
    cudaPointerAttributes about;
    if (cudaPointerGetAttributes(&about, data) != cudaSuccess) {
        (void)cudaGetLastError(); /* some drivers call memory of the C library an error */
        return 0;
    }
    return (about.type == cudaMemoryTypeDevice || about.type == cudaMemoryTypeManaged) && about.device == device;
}

/* Rows of memory that a picture is made of, all planes counted. */
static inline size_t mailp_cuda_image_rows(const mail_image &image) {
    return image.format == MAIL_F32_PLANAR ? 3 * image.height : image.format == MAIL_NV12 ? image.height / 2 * 3 : image.height;
}

/* s->picture of all robots and cameras from pictures that have been checked. */
static inline void mailp_cuda_queue_pictures(mailp_cuda_queue *q, mail_cuda_session *s, const mail_image *images, size_t n) {
    const size_t            cameras = s->policy->config.n_cameras;
    mailp_cuda_prepare_args a = {};
    size_t                  staged = 0;
    int                     waiting = 0, px = 0;
    auto                    flush = [&] {
        if (waiting) {
            mailp_cuda_queue_prepare(q, s, &a, waiting, px);
        }
        waiting = px = 0;
        staged = 0;
    };
    for (size_t i = 0; i < n && q->error == cudaSuccess; i++) {
        const mailp_cuda_camera &cam = s->policy->camera[i % cameras];
        const mail_image        &image = images[i];
        const size_t             row = mailp_image_row_bytes(image.format, image.width), rows = mailp_cuda_image_rows(image);
        const size_t             stride = mailp_image_stride(&image);
        const int                there = mailp_cuda_on_device(image.data, s->policy->device);
        if (waiting == MAILP_CUDA_PICTURES || (!there && staged + rows * row > s->stage_bytes)) {
            flush(); /* then the stage is free again, in the order of the stream */
        }
        mailp_cuda_picture *p = &a.picture[waiting++];
        p->to = s->picture[i % cameras] + i / cameras * (size_t)(cam.height * cam.width * 3);
        p->data = (const unsigned char *)image.data;
        p->stride = (long long)stride;
        p->height = (int)image.height;
        p->width = (int)image.width;
        p->format = (int)image.format;
        p->flip = image.flip;
        p->H = cam.height;
        p->W = cam.width;
        px = cam.height * cam.width > px ? cam.height * cam.width : px;
        if (!there) {
            q->error = stride == row ? cudaMemcpyAsync(s->stage + staged, image.data, rows * row, cudaMemcpyDefault, q->stream)
                                     : cudaMemcpy2DAsync(s->stage + staged, row, image.data, stride, row, rows, cudaMemcpyDefault, q->stream);
            p->data = s->stage + staged;
            p->stride = (long long)row;
            staged += (rows * row + 15) / 16 * 16;
        }
    }
    flush();
}

/* As mailp_image_check, but nothing is read: the picture may be on the device. */
static inline mail_status mailp_cuda_image_check(const mail_cuda_session *s, const mail_image &image, mail_error *err) {
    mail_image like = image;
    if (image.format == MAIL_F32_PLANAR) {
        like.format = MAIL_RGBA8; /* rows are as long */
        if ((uintptr_t)image.data % sizeof(float) || image.stride % sizeof(float)) {
            return mailp_fail(err, MAIL_E_ARGUMENT, "image: float data or stride is not a multiple of %d bytes", (int)sizeof(float));
        }
    }
    const mail_status status = mailp_image_check(&like, err);
    if (status != MAIL_OK) {
        return status;
    }
    const size_t bytes = mailp_cuda_image_rows(image) * mailp_image_row_bytes(image.format, image.width);
    if (bytes > s->stage_bytes && !mailp_cuda_on_device(image.data, s->policy->device)) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "image: %zu bytes in host memory; picture_bytes of the session's options allows %zu", bytes,
                          s->stage_bytes);
    }
    return MAIL_OK;
}

/* Give the newest frame of every camera, as mail_observe does: n = batch * n_cameras images, robot by robot, cameras in
   mail_info order; every format, size and stride that mail.h takes, on host or device. They are converted and encoded on the
   stream, and must stay as they are until it has come this far; with memory of the host that is not page-locked the call may wait
   for what was queued before.
   On an error the histories are as they were; what is not finite in a float picture is told by mail_cuda_session_check. */
MAIL_CUDA_API mail_status mail_cuda_observe(mail_cuda_session *session, const mail_image *images, size_t n, mail_error *err) {
    if (!session || !images) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_cuda_observe: session or images is NULL");
    }
    mail_cuda_session  *s = session;
    const mailp_config &c = s->policy->config;
    const size_t        B = (size_t)s->B;
    const mailp_cuda_on on(s->policy);
    mailp_cuda_queue    q = {s->stream, on.error, 0, 0, 0, 0.0};
    if (!c.n_cameras) {
        return mailp_fail(err, MAIL_E_STATE, "this policy has no cameras: use mail_cuda_observe_features");
    }
    if (n != B * c.n_cameras) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "%zu images; %zu robots with %zu cameras are expected", n, B, c.n_cameras);
    }
    for (size_t i = 0; i < n; i++) {
        mail_error        why;
        const mail_status status = mailp_cuda_image_check(s, images[i], &why);
        if (status != MAIL_OK) {
            return mailp_fail(err, status, "image %zu (%s): %.250s", i, c.camera[i % c.n_cameras].name, why.text);
        }
    }
    mailp_cuda_queue_pictures(&q, s, images, n);
    return mailp_cuda_observed(s, q.error, err);
}

/* Features made elsewhere: n = batch * state_dim floats, on host or device. */
MAIL_CUDA_API mail_status mail_cuda_observe_features(mail_cuda_session *session, const float *features, size_t n, mail_error *err) {
    if (!session || !features) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_cuda_observe_features: session or features is NULL");
    }
    const mailp_config &c = session->policy->config;
    const size_t        want = (size_t)session->B * c.state_dim;
    if (c.n_cameras) {
        return mailp_fail(err, MAIL_E_STATE, "this policy takes pictures: use mail_cuda_observe");
    }
    if (n != want) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "%zu features; %zu are expected", n, want);
    }
    const mailp_cuda_on on(session->policy);
    cudaError_t         e = on.error;
    if (e == cudaSuccess) {
        e = cudaMemcpyAsync(session->features[0], features, n * sizeof(float), cudaMemcpyDefault, session->stream);
    }
    return mailp_cuda_observed(session, e, err);
}

/* 1 if a frame given now will still be in the history at the next decision of mail_cuda_act; if 0 it may be skipped. */
MAIL_CUDA_API int mail_cuda_observe_due(const mail_cuda_session *session) {
    for (int b = 0; session && b < session->B; b++) {
        if (session->chunks.n_exec - session->used[b] < (int)session->policy->config.obs_seq) {
            return 1;
        }
    }
    return 0;
}

/* Noise for the next plan in place of the seed's, as in mail_session_set_noise; on host or device. */
MAIL_CUDA_API void mail_cuda_session_set_noise(mail_cuda_session *session, const float *x_T, const float *noise) {
    if (session) {
        session->x_T = x_T;
        session->noise_in = noise;
    }
}

/* Queue a decision for the robots whose chunk is used up (all: for every robot). The others are computed along, since
   nothing would be faster without them, and left as they are. */
static inline mail_status mailp_cuda_plan_now(mail_cuda_session *s, float *actions, int all, mail_error *err) {
    const mailp_config &c = s->policy->config;
    const mailp_cuda_on on(s->policy);
    mailp_cuda_queue    q = {s->stream, on.error, 0, 0, 0, 0.0};
    if (c.lang && !s->has_goal) {
        return mailp_fail(err, MAIL_E_STATE, "no goal was given: this policy needs mail_cuda_session_set_goal before it can plan");
    }
    for (int b = 0; b < s->B; b++) {
        if (!s->frames[b] && (all || s->used[b] >= s->chunks.n_exec)) {
            return mailp_fail(err, MAIL_E_STATE, "robot %d: no observation since the session began or was reset", b);
        }
    }
    if (c.algorithm == MAIL_DDPM) {
        mailp_cuda_queue_noise(&q, s);
    }
    if (q.error == cudaSuccess) {
        q.error = cudaGraphLaunch(s->plan, s->stream);
    }
    mailp_cuda_queue_commit(&q, s, all);
    for (int b = 0; b < s->B && q.error == cudaSuccess; b++) { /* from here on the device counts so too, whatever becomes of the copy */
        s->used[b] = all || s->used[b] >= s->chunks.n_exec ? 0 : s->used[b];
    }
    if (q.error == cudaSuccess && actions) {
        q.error = cudaMemcpyAsync(actions, s->chunks.chunk, (size_t)s->B * s->A * s->D * sizeof(float), cudaMemcpyDefault, s->stream);
    }
    s->x_T = s->noise_in = NULL;
    return mailp_cuda_check(q.error, "queueing a decision", err);
}

/* Queue a decision for all robots, as mail_plan does; it takes the place of the present chunks in the order of the stream.
   actions [batch][act_seq][action_dim] in the robot's units, on host or device, or NULL; they are there when the stream has
   come this far (mail_cuda_session_check asks without waiting), so a control loop may go on meanwhile; with memory of the host
   that is not page-locked the call may wait for them. */
MAIL_CUDA_API mail_status mail_cuda_plan(mail_cuda_session *session, float *actions, mail_error *err) {
    if (!session) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_cuda_plan: session is NULL");
    }
    return mailp_cuda_plan_now(session, actions, 1, err);
}

/* Next action of every robot, as mail_act: [batch][action_dim] in the robot's units, on host or device; it is there when the
   stream has come this far. Plans for the robots whose chunk is used up. If only the copy to action fails, the action counts as
   given, as a plan is in place whose copy failed. */
MAIL_CUDA_API mail_status mail_cuda_act(mail_cuda_session *session, float *action, mail_error *err) {
    if (!session || !action) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_cuda_act: session or action is NULL");
    }
    mail_cuda_session  *s = session;
    const mailp_cuda_on on(s->policy);
    mailp_cuda_queue    q = {s->stream, on.error, 0, 0, 0, 0.0};
    int                 due = 0;
    for (int b = 0; b < s->B; b++) {
        due += s->used[b] >= s->chunks.n_exec;
    }
    if (due) {
        const mail_status status = mailp_cuda_plan_now(s, NULL, 0, err);
        if (status != MAIL_OK) {
            return status;
        }
    }
    mailp_cuda_queue_give(&q, s);
    for (int b = 0; b < s->B && q.error == cudaSuccess; b++) {
        s->used[b]++;
    }
    if (q.error == cudaSuccess) {
        q.error = cudaMemcpyAsync(action, s->chunks.given, (size_t)s->B * s->D * sizeof(float), cudaMemcpyDefault, s->stream);
    }
    return mailp_cuda_check(q.error, "handing out an action", err);
}

/* Is what was queued done, and did it go well? Never waits.
   Returns  MAIL_E_STATE while the stream has work to do; MAIL_E_NUMBER if since the last check or reset an observation or an
   action was not finite: those actions are not-a-number, not merely large, and stay so until the frame or the chunk that
   brought it is forgotten (mail_cuda_session_reset, _reset_robot), or the goal replaced. One of them is told a call: ask until
   it is MAIL_OK before other robots' actions are used. */
MAIL_CUDA_API mail_status mail_cuda_session_check(mail_cuda_session *session, mail_error *err) {
    if (!session) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_cuda_session_check: session is NULL");
    }
    const mailp_cuda_on on(session->policy);
    const cudaError_t   e = on.error == cudaSuccess ? cudaStreamQuery(session->stream) : on.error;
    if (e == cudaErrorNotReady) {
        return mailp_fail(err, MAIL_E_STATE, "the stream has work to do");
    }
    if (e != cudaSuccess) {
        return mailp_cuda_check(e, "running what was queued", err);
    }
    for (int i = 0; i < 2 * session->B; i++) {
        if (session->fault[i]) {
            session->fault[i] = 0;
            return mailp_fail(err, MAIL_E_NUMBER, "robot %d: %s is not finite", i / 2, i % 2 ? "an action" : "an observation");
        }
    }
    return MAIL_OK;
}

template <int DS, int CH, int NG, int TL, int CPL, int ITEMS>
static inline void mailp_cuda_queue_scan(mailp_cuda_queue *q, const mailp_cuda_scan_args &a, size_t batch) {
    typedef mailp_cuda_scan_shape<DS, CH, NG, TL, CPL, ITEMS> S;
    static_assert(sizeof(typename S::shared) <= 99 * 1024, "what a block may have on every GPU");
    mailp_cuda_launch(q, mailp_cuda_scan<DS, CH, NG, TL, CPL, ITEMS>, dim3(mailp_cuda_tiles((size_t)a.d_inner, CH), (unsigned)batch), S::NT,
                      sizeof(typename S::shared), a);
}

static inline void mailp_cuda_queue_ring(mailp_cuda_queue *q, const mailp_cuda_scan_args &a, size_t batch) {
    typedef mailp_cuda_ring S;
    static_assert(sizeof(S::shared) <= 48 * 1024, "what a block may have without asking");
    mailp_cuda_launch(q, mailp_cuda_scan_ring, dim3(mailp_cuda_tiles((size_t)a.d_inner, S::CH), (unsigned)batch), S::NT, sizeof(S::shared), a);
}

/* The selective scan of mail.h over `batch` sequences at once, for any length; see mailp_cuda_scan_args for the operands,
   all in device memory, and >>scan for how. d_state is at most 64.
   Memory   none, but that the runtime loads a kernel when it is first used.   Work is queued on the stream. */
typedef mailp_cuda_scan_args mail_cuda_scan;
MAIL_CUDA_API mail_status mail_cuda_selective_scan(const mail_cuda_scan *scan, size_t batch, cudaStream_t stream, mail_error *err) {
    mailp_cuda_queue q = {stream, cudaSuccess, 0, 0, 0, 0.0};
    if (!scan || !scan->y || !scan->u || !scan->dt || !scan->A || !scan->B || !scan->C) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "mail_cuda_selective_scan: scan or one of its operands is NULL");
    }
    if (scan->L < 0 || scan->L > 1 << 30 || scan->d_inner < 1 || scan->d_inner > 1 << 20 || scan->d_state < 1 || scan->d_state > 64 || batch > 65535) {
        return mailp_fail(err, MAIL_E_ARGUMENT, "scan of length %d (at most 2^30), d_inner %d (at most 2^20), d_state %d (1 to 64), batch %zu (at most 65535)",
                          scan->L, scan->d_inner, scan->d_state, batch);
    }
    if (!batch) {
        return MAIL_OK;
    }
    /* Of the shapes below those of 16 channels a block, of which a lane has two, take the fewest shared-memory accesses. With too
       few such blocks to fill a GPU: 2 channels, and more lanes for each. */
    const bool few = (size_t)((scan->d_inner + 15) / 16) * batch < 128;
    if (scan->d_state <= 16 && few) {
        mailp_cuda_queue_scan<16, 2, 4, 32, 1, 8>(&q, *scan, batch);
    } else if (scan->d_state <= 8) {
        mailp_cuda_queue_scan<8, 16, 4, 8, 2, 16>(&q, *scan, batch);
    } else if (scan->d_state <= 16) {
        mailp_cuda_queue_ring(&q, *scan, batch);
    } else if (scan->d_state <= 32) {
        mailp_cuda_queue_scan<32, 16, 4, 8, 2, 8>(&q, *scan, batch);
    } else {
        mailp_cuda_queue_scan<64, 8, 8, 8, 2, 8>(&q, *scan, batch);
    }
    return mailp_cuda_check(q.error, "queueing a scan", err);
}

#endif /* MAIL_CUDA_CUH */
