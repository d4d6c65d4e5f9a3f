/* cuda_probe: the constants of a GPU on which the design of mail_cuda.cuh rests, in some seconds.

       build/cuda_probe

   Prints, one a line: how many clusters run at once; what a barrier of a cluster takes, and an exchange in which every block
   sends a few bytes to every block and waits for theirs, by stores of 16 bytes spread over the threads and by one copy in the
   background for each peer; what a node of a graph takes, begun early or not; how fast weights come from L2 or device memory into
   the shared memory of 1, 8 or all SMs; and the rates of exponentials and of products on tensor cores. Medians of 9 launches;
   cycles are counted by the SM. Uses the mailp_dev_ functions of the header, so that these are measured as they are used. */
#define MAIL_IMPLEMENTATION
#ifndef MAIL_NO_SIMD
#  define MAIL_NO_SIMD
#endif
#include "../mail.h"

#include "../mail_cuda.cuh"

#include <algorithm>
#include <vector>

#ifdef MAIL_CUDA_ON_CPU
#  error "constants of a GPU: build with nvcc"
#endif

static void check(cudaError_t e, const char *what) {
    if (e != cudaSuccess) {
        printf("%s: %s\n", what, cudaGetErrorString(e));
        exit(1);
    }
}

/* Median of what a kernel's first thread counted (cycles[0]), per repetition. */
template <class Args>
static double cycles(void (*kernel)(Args), unsigned grid, unsigned threads, size_t smem, Args args, unsigned cluster, unsigned *out, int n) {
    std::vector<unsigned> v;
    for (int i = 0; i < 9; i++) {
        mailp_cuda_queue q = {NULL, cudaSuccess, 0, 0, 1, 0.0};
        unsigned         c;
        mailp_cuda_launch(&q, kernel, dim3(grid), threads, smem, args, cluster);
        check(q.error, "launch");
        check(cudaMemcpy(&c, out, sizeof c, cudaMemcpyDeviceToHost), "kernel");
        v.push_back(c);
    }
    std::sort(v.begin(), v.end());
    return (double)v[v.size() / 2] / n;
}

/* ---- clusters ---- */

enum { PROBE_MOST = 4096 }; /* bytes to each peer */

struct probe_shared {
    __align__(128) float in[2][8][PROBE_MOST / 4]; /* two, so that a fast peer never meets what is unread */
    __align__(128) float out[PROBE_MOST / 4];
    mailp_cuda_bar bar[2];
};

struct probe_args {
    unsigned *cycles;
    float    *sink;
    int       n, bytes;
};

static __global__ void __launch_bounds__(256) probe_barrier(probe_args p) {
#ifdef MAILP_CUDA_CLUSTERS
    const unsigned begin = (unsigned)clock();
    for (int i = 0; i < p.n; i++) {
        mailp_dev_cluster_sync();
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        *p.cycles = (unsigned)clock() - begin;
    }
#else
    (void)p;
#endif
}

/* Each exchange depends on what the one before brought. */
template <bool BULK>
static __global__ void __launch_bounds__(256) probe_exchange(probe_args p) {
#ifdef MAILP_CUDA_CLUSTERS
    MAILP_CUDA_SHARED(probe_shared, s);
    const int      tid = (int)threadIdx.x, quads = p.bytes / 16;
    const unsigned rank = mailp_dev_rank();
    float          x = 1.0f;
    if (tid == 0) {
        mailp_dev_bar_init(&s->bar[0]);
        mailp_dev_bar_init(&s->bar[1]);
        mailp_dev_bar_publish();
    }
    mailp_dev_cluster_sync();
    const unsigned begin = (unsigned)clock();
    for (int i = 0; i < p.n; i++) {
        mailp_cuda_bar *bar = &s->bar[i & 1];
        if (tid == 255) {
            mailp_dev_bar_expect(bar, (unsigned)p.bytes * 8);
        }
        if (BULK) {
            if (tid < quads) {
                *(float4 *)&s->out[4 * tid] = make_float4(x, x, x, x);
            }
            mailp_dev_publish();
            __syncthreads();
            if (tid % 32 == 0) {
                mailp_dev_bulk_push(s->in[i & 1][rank], (unsigned)tid / 32, s->out, (unsigned)p.bytes, bar);
            }
        } else {
            for (int k = tid & 31; k < quads; k += 32) { /* a warp for each peer */
                mailp_dev_push4(&s->in[i & 1][rank][4 * k], (unsigned)tid / 32, make_float4(x, x, x, x), bar);
            }
        }
        mailp_dev_bar_wait(bar, i >> 1 & 1);
        x += s->in[i & 1][tid & 7][tid & 3];
        __syncthreads();
    }
    if (blockIdx.x == 0 && tid == 0) {
        *p.cycles = (unsigned)clock() - begin;
    }
    if (x == 12345.0f) {
        *p.sink = x;
    }
    mailp_dev_cluster_sync();
#else
    (void)p;
#endif
}

/* ---- memory into shared memory ---- */

struct stream_args {
    unsigned            *cycles;
    const unsigned char *from;
    size_t               span;
    int                  n;
};

/* Pieces of 16 KB, three of them under way. */
static __global__ void __launch_bounds__(256) probe_stream(stream_args p) {
    MAILP_CUDA_SHARED(float4, s); /* [4][1024] */
    const int tid = (int)threadIdx.x;
    auto      fetch = [&](int i) {
        const unsigned char *from = p.from + ((size_t)blockIdx.x * p.n + i) * 16384 % p.span;
        for (int k = tid; k < 1024 && i < p.n; k += 256) {
            mailp_dev_copy<16>(s + (i & 3) * 1024 + k, from + 16 * k, true);
        }
        mailp_dev_copies_end();
    };
    const unsigned begin = (unsigned)clock();
    for (int i = 0; i < 3; i++) {
        fetch(i);
    }
    for (int i = 0; i < p.n; i++) {
        mailp_dev_copies_wait<2>();
        __syncthreads();
        fetch(i + 3);
    }
    if (blockIdx.x == 0 && tid == 0) {
        *p.cycles = (unsigned)clock() - begin;
    }
}

/* ---- rates of one SM ---- */

static __global__ void __launch_bounds__(1024) probe_ex2(probe_args p) {
    float          x[8];
    const unsigned begin = (unsigned)clock();
#pragma unroll
    for (int j = 0; j < 8; j++) {
        x[j] = 0.001f * (float)(threadIdx.x + j);
    }
    for (int i = 0; i < p.n; i++) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
            x[j] = mailp_dev_ex2(x[j]);
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        *p.cycles = (unsigned)clock() - begin;
    }
    p.sink[threadIdx.x] = x[0] + x[1] + x[2] + x[3] + x[4] + x[5] + x[6] + x[7];
}

template <bool TF32>
static __global__ void __launch_bounds__(256) probe_mma(probe_args p) {
    float          d[8][4] = {};
    const uint32_t a[4] = {0, 0, 0, threadIdx.x << 13}, b[2] = {0, threadIdx.x << 13};
    const unsigned begin = (unsigned)clock();
    for (int i = 0; i < p.n; i++) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
            if (TF32) {
                mailp_dev_mma_tf32(d[j], a, b);
            } else {
                mailp_dev_mma(d[j], a, b);
            }
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        *p.cycles = (unsigned)clock() - begin;
    }
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        sum += d[j][0] + d[j][3];
    }
    p.sink[threadIdx.x] = sum;
}

/* ---- graphs ---- */

static __global__ void probe_nothing(probe_args p) {
    mailp_dev_wait();
    if (p.n == 12345) {
        *p.sink = 1.0f;
    }
}

/* Microseconds of one of 500 nodes that depend on each other. */
static double node(int early) {
    const int        nodes = 500;
    cudaStream_t     stream;
    cudaGraph_t      graph;
    cudaGraphExec_t  exec;
    cudaEvent_t      begin, end;
    float            best = 1e9f;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    check(cudaEventCreate(&begin), "event");
    check(cudaEventCreate(&end), "event");
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    mailp_cuda_queue q = {stream, cudaSuccess, 0, early, 1, 0.0};
    for (int i = 0; i < nodes; i++) {
        mailp_cuda_launch(&q, probe_nothing, dim3(128), 256, 0, probe_args());
    }
    check(cudaStreamEndCapture(stream, &graph), "capture");
    check(q.error, "capture");
    check(cudaGraphInstantiate(&exec, graph, 0), "graph");
    for (int i = 0; i < 9; i++) {
        float ms;
        check(cudaEventRecord(begin, stream), "event");
        check(cudaGraphLaunch(exec, stream), "graph");
        check(cudaEventRecord(end, stream), "event");
        check(cudaEventSynchronize(end), "graph");
        check(cudaEventElapsedTime(&ms, begin, end), "event");
        best = ms < best ? ms : best;
    }
    (void)cudaGraphExecDestroy(exec);
    (void)cudaGraphDestroy(graph);
    (void)cudaStreamDestroy(stream);
    return 1e3 * best / nodes;
}

int main(void) {
    cudaDeviceProp prop;
    int            devices = 0;
    unsigned      *out;
    float         *sink;
    unsigned char *memory;
    const size_t   large = (size_t)1 << 30;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < 1) {
        printf("cuda_probe: skipped, no GPU\n");
        return 0;
    }
    check(cudaGetDeviceProperties(&prop, 0), "properties");
    check(cudaMalloc((void **)&out, sizeof *out), "memory");
    check(cudaMalloc((void **)&sink, 4096), "memory");
    check(cudaMalloc((void **)&memory, large), "memory");
    check(cudaMemset(memory, 1, large), "memory");
    printf("%s, %d SMs, %d MB of L2\n", prop.name, prop.multiProcessorCount, prop.l2CacheSize >> 20);
    printf("node of a graph: %.2f us, begun early %.2f us\n", node(0), node(1));
    if (prop.major >= 9) {
        for (int cluster = 2; cluster <= 16; cluster *= 2) {
            const probe_args a = {out, sink, 1000, 0};
            const int        active = mailp_cuda_active_clusters(probe_exchange<true>, cluster, (size_t)200 * 1024, prop.multiProcessorCount);
            if (active > 0) {
                printf("clusters of %d: %d at once with 200 KB of shared memory; barrier %.0f cycles\n", cluster, active,
                       cycles(probe_barrier, (unsigned)cluster, 256, 0, a, (unsigned)cluster, out, a.n));
            }
        }
        for (int clusters = 1; clusters <= 15; clusters += 14) {
            printf("exchange in a cluster of 8, %d at once; bytes to each block: cycles by stores, by copies\n", clusters);
            for (int bytes = 64; bytes <= PROBE_MOST; bytes *= 4) {
                const probe_args a = {out, sink, 1000, bytes};
                printf("%8d %8.0f %8.0f\n", bytes, cycles(probe_exchange<false>, 8u * (unsigned)clusters, 256, sizeof(probe_shared), a, 8, out, a.n),
                       cycles(probe_exchange<true>, 8u * (unsigned)clusters, 256, sizeof(probe_shared), a, 8, out, a.n));
            }
        }
    }
    printf("into shared memory, bytes a cycle and SM: of 8 MB, of %zu MB\n", large >> 20);
    for (int blocks : {1, 8, prop.multiProcessorCount}) {
        const stream_args l2 = {out, memory, (size_t)8 << 20, 500}, far = {out, memory, large, 500};
        printf("%8d SMs %8.1f %8.1f\n", blocks, 16384.0 / cycles(probe_stream, (unsigned)blocks, 256, 65536, l2, 1, out, l2.n),
               16384.0 / cycles(probe_stream, (unsigned)blocks, 256, 65536, far, 1, out, far.n));
    }
    const probe_args rate = {out, sink, 5000, 0};
    printf("a cycle and SM: %.1f exponentials, %.0f products of halves, %.0f of tf32\n", 8.0 * 1024 / cycles(probe_ex2, 1, 1024, 0, rate, 1, out, rate.n),
           8.0 * 8 * 2048 / cycles(probe_mma<false>, 1, 256, 0, rate, 1, out, rate.n), 8.0 * 8 * 1024 / cycles(probe_mma<true>, 1, 256, 0, rate, 1, out, rate.n));
    return 0;
}
