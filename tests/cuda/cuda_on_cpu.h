/* cuda_on_cpu.h - run CUDA C++ kernels on the CPU, one fiber per CUDA thread.

   A test-only stand-in for <cuda_runtime.h>, used when a .cu file is compiled by a C++ compiler:

       c++ -x c++ -std=c++17 -DMAIL_CUDA_ON_CPU test_cuda.cu

   It covers what mail_cuda.cuh uses: blocks, warps, full-mask shuffles and votes, __syncthreads, thread-block clusters
   with peer shared memory, atomics, dynamic shared memory; streams, captured graphs, device memory. Everything closer
   to the hardware is a mailp_dev_ function of mail_cuda.cuh with a scalar twin.

   What it checks that a GPU does not:
     - three kinds of schedule (cpucuda::order or CPUCUDA_ORDER: 0 forward, 1 reverse, 2.. seeded random). A result that
       depends on the order of threads between barriers is a missing barrier;
     - shared memory starts as NaN and ends at a page the process may not touch;
     - a barrier or shuffle that not every thread reaches is reported with the line each thread waits at, instead of
       hanging;
     - global memory comes from malloc and starts as NaN, so AddressSanitizer sees every access;
     - a synchronisation can be switched off by its source line (cpucuda::skip_line), to prove that a test notices;
     - allocations and synchronisations are counted (cpucuda::count), and an allocation or what queues work can be made to fail. */
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>
#if defined(__SANITIZE_ADDRESS__)
#    include <sanitizer/common_interface_defs.h>
#endif
#if !defined(CPUCUDA_UCONTEXT) && !defined(__x86_64__) && !defined(__aarch64__)
#    define CPUCUDA_UCONTEXT 1
#endif
#ifdef CPUCUDA_UCONTEXT
#    include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {
    }
};
struct uint3 {
    unsigned x, y, z;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
static inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}
static inline float2 make_float2(float x, float y) {
    return {x, y};
}
static inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}

namespace cpucuda {

/* ---- what a test may set and read ---- */

inline int env_int(const char *n, int d) {
    const char *s = getenv(n);
    return s ? atoi(s) : d;
}
inline int order = env_int("CPUCUDA_ORDER", 0); /* schedule of the next launches */
inline int skip_line = 0;                       /* the synchronisation on this source line does nothing */
inline bool sync_seen[1 << 15];                 /* lines on which a synchronisation has run */
struct Count {
    long mallocs, frees, syncs, launches;
};
inline Count count;      /* calls so far */
inline long fail_malloc; /* when n > 0: the n-th allocation from now on fails */
inline long fail_call;   /* the same for calls that queue a launch, a graph or a copy */
inline bool call_fails() {
    return fail_call > 0 && --fail_call == 0;
}
struct Device {          /* what the attribute queries answer */
    int major = 9, minor = 0, smem = 227 * 1024, max_cluster = 16;
    int compiled_for = 90; /* ptxVersion of every kernel */
    int sms = 132;
};
inline Device device;
inline int current_device = 0;

inline bool skipped(int line) {
    if (line < 1 << 15) {
        sync_seen[line] = true;
    }
    return line == skip_line;
}

/* ---- the machine ---- */

struct Barrier {
    int arrived = 0, expected = 0;
    unsigned gen = 0;
    int line = 0;
};

struct Warp {
    Barrier bar;
    uint64_t slot[2][32];     /* shuffle values, two generations */
    double a[2][16][16], b[2][8][16]; /* operands of an emulated mma: rows, columns */
};

struct Block {
    uint3 bid{};
    unsigned rank = 0; /* rank inside its cluster */
    unsigned live = 0; /* threads that have not returned */
    unsigned char *smem = nullptr;
    size_t smem_bytes = 0;
    Barrier bar;
    std::unique_ptr<Warp[]> warps;
};

struct MBar {
    int count, pending, tx;
    unsigned phase;
}; /* an mbarrier: arrivals of a phase; arrivals and bytes still due */
inline MBar nobody; /* stands for the barrier of a copy that has none */
inline void settle(MBar *b) {
    if (b->pending == 0 && b->tx == 0) {
        b->pending = b->count;
        ++b->phase;
    }
}

struct Async { /* a copy that has been issued but not delivered */
    Block *to;
    unsigned char *dst;
    const void *src;
    float value[4];
    unsigned bytes;
    MBar *bar;
};

struct Group;

struct Fiber {
    const unsigned *wait = nullptr; /* blocked while *wait == wait_val */
    unsigned wait_val = 0;
    int line = 0;
    bool done = false, polling = false;
    int lane = 0;
    unsigned warp_ops = 0, copies = 0; /* of copies: groups that have ended */
    uint3 tid{};
    Group *g = nullptr;
    Block *b = nullptr;
    Warp *w = nullptr;
    unsigned char *stack = nullptr;
#ifdef CPUCUDA_UCONTEXT
    ucontext_t ctx;
#else
    void *sp = nullptr;
#endif
#if defined(__SANITIZE_ADDRESS__)
    void *fake = nullptr;
#endif
};

struct Group { /* what must be resident together: a block, a cluster or the grid */
    dim3 grid, block;
    unsigned cluster = 1;
    std::vector<Block> blocks;
    Barrier cluster_bar[64]; /* one per cluster of the group (64 is enough for tests) */
    Barrier grid_bar;
    std::vector<Async> inflight;
    int order = 0;
};

static constexpr size_t STACK = 128 * 1024;
inline thread_local Fiber *cur = nullptr;
/* The warp whose lanes take turns, in this order. A lane that has to wait gives way to the next one that need not, without a detour through
   the scheduler (which leaves 0.7 of the time of the kernels' tests). */
struct Lanes {
    Fiber *first;
    int    n, order[32];
};
inline thread_local Lanes *turn = nullptr;
inline thread_local int    turn_at = 0;
inline thread_local bool   turn_moved = false; /* since the scheduler resumed a lane */
/* What the running kernel may have been launched before the end of: it runs when a thread waits for it, or at the end. */
inline thread_local std::function<void()> before;
inline thread_local bool before_wanted = false;
inline thread_local const std::function<void()> *body = nullptr;
inline std::atomic<uint64_t> switches{0};
inline thread_local uint64_t my_switches = 0, polls = 0;

#ifdef CPUCUDA_UCONTEXT
inline thread_local ucontext_t sched_ctx;
#else
inline thread_local void *sched_sp;
extern "C" void cpucuda_switch(void **save_sp, void *load_sp);
#    if defined(__x86_64__)
asm(".pushsection .text\n.weak cpucuda_switch\n.type cpucuda_switch,@function\ncpucuda_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n.popsection\n");
#    else
asm(".pushsection .text\n.weak cpucuda_switch\n.type cpucuda_switch,%function\ncpucuda_switch:\n"
    "sub sp,sp,#160\nstp x19,x20,[sp,#0]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\n"
    "stp x25,x26,[sp,#48]\nstp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\n"
    "stp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\nstp d12,d13,[sp,#128]\nstp d14,d15,[sp,#144]\n"
    "mov x2,sp\nstr x2,[x0]\nmov sp,x1\n"
    "ldp x19,x20,[sp,#0]\nldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\n"
    "ldp x27,x28,[sp,#64]\nldp x29,x30,[sp,#80]\nldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\n"
    "ldp d12,d13,[sp,#128]\nldp d14,d15,[sp,#144]\nadd sp,sp,#160\nret\n.popsection\n");
#    endif
#endif

#if defined(__SANITIZE_ADDRESS__)
inline thread_local void *sched_fake;
inline thread_local const void *sched_bottom;
inline thread_local size_t sched_size;
inline thread_local bool from_sched; /* whether the last switch was made by the scheduler */
inline void arrived_at(void *fake) {
    __sanitizer_finish_switch_fiber(fake, from_sched ? &sched_bottom : nullptr, from_sched ? &sched_size : nullptr);
}
#endif

[[noreturn]] inline void die(const char *what) {
    fprintf(stderr, "cuda_on_cpu: %s\n", what);
    abort();
}

inline bool waits(const Fiber *f) {
    return f->done || (f->wait && *(volatile const unsigned *)f->wait == f->wait_val);
}

/* The next lane of this warp's turn that can go on, or nullptr */
inline Fiber *next_lane() {
    while (++turn_at < turn->n) {
        Fiber *f = turn->first + turn->order[turn_at];
        if (!waits(f)) {
            f->wait = nullptr;
            return f;
        }
    }
    return nullptr;
}

inline void yield() { /* to the next lane, or to the scheduler if it has to see to something */
    Fiber *f = cur, *to = before_wanted || f->polling || f->done ? nullptr : next_lane();
    ++my_switches;
#if defined(__SANITIZE_ADDRESS__)
    from_sched = false;
    __sanitizer_start_switch_fiber(&f->fake, to ? to->stack : sched_bottom, to ? STACK : sched_size);
#endif
    if (to) {
        turn_moved = true;
        cur = to;
    }
#ifdef CPUCUDA_UCONTEXT
    swapcontext(&f->ctx, to ? &to->ctx : &sched_ctx);
#else
    cpucuda_switch(&f->sp, to ? to->sp : sched_sp);
#endif
#if defined(__SANITIZE_ADDRESS__)
    arrived_at(f->fake);
#endif
}

inline void block_on(const unsigned *p, unsigned while_equal, int line) {
    cur->wait = p;
    cur->wait_val = while_equal;
    cur->line = line;
    yield();
}

inline void arrive(Barrier &b, int line) {
    if (b.arrived && b.line != line) {
        fprintf(stderr, "cuda_on_cpu: threads of one barrier or warp are at line %d and line %d\n", b.line, line);
        abort();
    }
    b.line = line;
    if (++b.arrived >= b.expected) {
        b.arrived = 0;
        ++b.gen;
        return;
    }
    block_on(&b.gen, b.gen, line);
}

inline void sync(Barrier &b, int line) {
    if (!skipped(line)) {
        arrive(b, line);
    }
}

/* Arriving and waiting apart, for a barrier of which a thread uses one phase. */
inline void arrive_only(Barrier &b, int line) {
    if (!skipped(line) && ++b.arrived >= b.expected) {
        b.arrived = 0;
        ++b.gen;
    }
}
inline void wait_only(Barrier &b, int line) {
    if (!skipped(line) && b.gen == 0) {
        block_on(&b.gen, 0, line);
    }
}

inline void leave(Barrier &b) { /* an exited thread no longer counts (compute capability >= 7.0) */
    if (--b.expected > 0 && b.arrived >= b.expected) {
        b.arrived = 0;
        ++b.gen;
    }
}

/* Asynchronous copies are delivered as late as possible (order 0), at once (order 1) or at random (order 2..), so that
   a missing wait reads NaN under at least one of them. */
inline void deliver(Group &g) {
    for (size_t i = 0; i < g.inflight.size(); ++i) {
        Async a = g.inflight[i];
        if (!a.to->live) {
            die("an asynchronous copy reached a block that has exited");
        }
        memcpy(a.dst, a.src ? a.src : (const void *)a.value, a.bytes);
        if (a.bar != &nobody) {
            a.bar->tx -= (int)a.bytes;
            settle(a.bar);
        }
    }
    g.inflight.clear();
}
inline void issue(Async a) {
    if (a.src) {
        memset(a.dst, 0xFF, a.bytes);
    }
    cur->g->inflight.push_back(a);
    if (cur->g->order == 1) {
        deliver(*cur->g);
    }
}
inline void push(void *local, unsigned rank, const void *value, unsigned bytes, MBar *bar) {
    Block *me = cur->b, *peer = me + ((int)rank - (int)me->rank);
    Async a{peer,  peer->smem + ((unsigned char *)local - me->smem),        nullptr, {},
            bytes, (MBar *)(peer->smem + ((unsigned char *)bar - me->smem))};
    if ((uintptr_t)a.dst % bytes) {
        die("misaligned push");
    }
    memcpy(a.value, value, bytes);
    issue(a);
}

inline void bulk_push(void *local, unsigned rank, const void *from, unsigned bytes, MBar *bar) {
    Block *me = cur->b, *peer = me + ((int)rank - (int)me->rank);
    Async a{peer,  peer->smem + ((unsigned char *)local - me->smem),        from, {},
            bytes, (MBar *)(peer->smem + ((unsigned char *)bar - me->smem))};
    if (((uintptr_t)a.dst | (uintptr_t)from | bytes) % 16) {
        die("misaligned copy to a peer");
    }
    issue(a);
}

/* cp.async, its groups and the wait for them: of one thread, which is kept in `value`. from NULL: zeros. */
inline void copy(void *to, const void *from, unsigned bytes) {
    if ((uintptr_t)to % bytes || (uintptr_t)from % bytes) {
        die("misaligned copy");
    }
    if (!from) {
        memset(to, 0, bytes);
        return;
    }
    Async a{cur->b, (unsigned char *)to, from, {}, bytes, &nobody};
    memcpy(a.value, &cur, sizeof cur);
    memcpy(a.value + 2, &cur->copies, sizeof cur->copies);
    issue(a);
}
inline void copies_end() {
    cur->copies++;
}
inline void copies_wait(int but) { /* all groups but the last few */
    std::vector<Async> rest;
    for (const Async &a : cur->g->inflight) {
        Fiber   *who;
        unsigned group;
        memcpy(&who, a.value, sizeof who);
        memcpy(&group, a.value + 2, sizeof group);
        if (a.bar == &nobody && who == cur && (int)(cur->copies - group) > but) {
            memcpy(a.dst, a.src, a.bytes);
        } else {
            rest.push_back(a);
        }
    }
    cur->g->inflight.swap(rest);
}

/* griddepcontrol.wait */
inline void dependency_wait(int line) {
    if (!skipped(line) && before) {
        before_wanted = true;
        yield();
    }
}

template <class P>
inline void wait_until(P ready, int line) { /* spin on a flag in memory */
    while (!ready()) {
        cur->polling = true;
        cur->line = line;
        yield();
    }
    cur->polling = false;
    polls = 0;
}

inline void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
    arrived_at(nullptr);
#endif
    (*body)();
    Fiber *f = cur;
    f->done = true;
    --f->b->live;
    leave(f->b->bar);
    unsigned c = (unsigned)(f->b - f->g->blocks.data()) / f->g->cluster;
    leave(f->g->cluster_bar[c]);
    leave(f->g->grid_bar);
    for (;;) {
        yield();
    }
}

inline void start(Fiber *f, size_t index) {
#ifdef CPUCUDA_UCONTEXT
    getcontext(&f->ctx);
    f->ctx.uc_stack.ss_sp = f->stack;
    f->ctx.uc_stack.ss_size = STACK;
    f->ctx.uc_link = nullptr;
    makecontext(&f->ctx, (void (*)())fiber_main, 0);
#else
    /* Spread the tops over the cache sets; equal offsets would all collide. */
    uintptr_t top = (((uintptr_t)f->stack + STACK) & ~(uintptr_t)63) - index % 61 * 256;
#    if defined(__x86_64__)
    void **sp = (void **)(top - 64);
    sp[6] = (void *)fiber_main; /* return address of the first switch */
    for (int i = 0; i < 6; ++i) {
        sp[i] = nullptr;
    }
#    else
    void **sp = (void **)(top - 160);
    memset(sp, 0, 160);
    sp[11] = (void *)fiber_main; /* x30 */
#    endif
    f->sp = sp;
#endif
}

/* Let f go on; returned: the lane of its warp that stopped last */
inline Fiber *resume(Fiber *f) {
    cur = f;
    turn_moved = false;
#if defined(__SANITIZE_ADDRESS__)
    from_sched = true;
    __sanitizer_start_switch_fiber(&sched_fake, f->stack, STACK);
#endif
#ifdef CPUCUDA_UCONTEXT
    swapcontext(&sched_ctx, &f->ctx);
#else
    cpucuda_switch(&sched_sp, f->sp);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(sched_fake, nullptr, nullptr);
#endif
    f = cur;
    cur = nullptr;
    return f;
}

[[noreturn]] inline void deadlock(std::vector<Fiber> &fs) {
    fprintf(stderr, "cuda_on_cpu: deadlock; threads still waiting:\n");
    int shown = 0;
    for (auto &f : fs) {
        if (!f.done && shown++ < 12) {
            fprintf(stderr, "  block %u cluster-rank %u thread %u line %d (%s)\n", f.b->bid.x, f.b->rank, f.tid.x,
                    f.line,
                    f.polling                 ? "spin"
                    : f.wait == &f.b->bar.gen ? "__syncthreads"
                    : f.wait == &f.w->bar.gen ? "warp op"
                                              : "cluster, grid or memory barrier");
        }
    }
    abort();
}

struct Pool { /* per OS thread: stacks and guarded shared memory, reused */
    ~Pool() {
        for (auto p : stacks) {
            munmap(p, STACK);
        }
        for (auto &p : smem) {
            if (p.first) {
                munmap(p.first, p.second);
            }
        }
    }
    std::vector<unsigned char *> stacks;
    std::vector<std::pair<unsigned char *, size_t>> smem;
    unsigned char *stack(size_t i) {
        while (stacks.size() <= i) {
            void *p = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (p == MAP_FAILED) {
                die("mmap stack");
            }
            stacks.push_back((unsigned char *)p);
        }
        return stacks[i];
    }
    unsigned char *shared(size_t i, size_t bytes) { /* 128-byte aligned, as on a GPU; behind it, less than 128 bytes off, an inaccessible page */
        size_t page = (size_t)sysconf(_SC_PAGESIZE), len = (bytes + page - 1) / page * page + page;
        while (smem.size() <= i) {
            smem.push_back({nullptr, 0});
        }
        if (smem[i].second < len) {
            if (smem[i].first) {
                munmap(smem[i].first, smem[i].second);
            }
            void *p = mmap(nullptr, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (p == MAP_FAILED) {
                die("mmap shared");
            }
            mprotect((unsigned char *)p + len - page, page, PROT_NONE);
            smem[i] = {(unsigned char *)p, len};
        }
        unsigned char *end = smem[i].first + smem[i].second - page;
        return end - (bytes + 127) / 128 * 128;
    }
};

inline void run_group(Group &g, const std::function<void()> &fn, int how, unsigned seed, Pool &pool) {
    body = &fn;
    const unsigned nt = g.block.x * g.block.y * g.block.z;
    std::vector<Fiber> fs(g.blocks.size() * nt);
    std::vector<Lanes> warps;
    for (size_t bi = 0; bi < g.blocks.size(); ++bi) {
        Block &b = g.blocks[bi];
        b.smem = pool.shared(bi, b.smem_bytes);
        memset(b.smem, 0xFF, b.smem_bytes); /* NaN in float, bf16 and half */
        b.bar = Barrier{0, (int)nt};
        b.live = nt;
        unsigned nw = (nt + 31) / 32;
        b.warps.reset(new Warp[nw]);
        for (unsigned w = 0; w < nw; ++w) {
            Lanes l;
            l.first = &fs[bi * nt + w * 32];
            l.n = (int)std::min(32u, nt - w * 32);
            for (int i = 0; i < l.n; ++i) {
                l.order[i] = how == 1 ? l.n - 1 - i : i;
            }
            b.warps[w].bar.expected = l.n;
            warps.push_back(l);
        }
        for (unsigned t = 0; t < nt; ++t) {
            Fiber &f = fs[bi * nt + t];
            f.g = &g;
            f.b = &b;
            f.w = &b.warps[t / 32];
            f.lane = (int)(t % 32);
            f.tid = uint3{t % g.block.x, t / g.block.x % g.block.y, t / (g.block.x * g.block.y)};
            f.stack = pool.stack(bi * nt + t);
            start(&f, bi * nt + t);
        }
    }
    for (auto &c : g.cluster_bar) {
        c = Barrier{0, (int)(g.cluster * nt)};
    }
    g.grid_bar = Barrier{0, (int)(g.blocks.size() * nt)};
    std::mt19937 rng(seed);
    g.order = how;
    if (how == 1) {
        std::reverse(warps.begin(), warps.end());
    }
    polls = 0;
    for (size_t live = fs.size(); live;) { /* a warp runs until all its lanes block */
        if (how >= 2) {
            std::shuffle(warps.begin(), warps.end(), rng);
        }
        bool progress = false, polling = false;
        for (Lanes &l : warps) {
            if (how >= 2) {
                std::shuffle(l.order, l.order + l.n, rng);
            }
            for (bool again = true; again;) {
                again = false;
                turn = &l;
                turn_at = -1;
                while (Fiber *f = next_lane()) {
                    f = resume(f);
                    again |= turn_moved;
                    if (before_wanted) { /* run it here, between two threads of this kernel */
                        const int at = turn_at;
                        before_wanted = false;
                        const std::function<void()> first = std::move(before);
                        before = nullptr;
                        first();
                        body = &fn;
                        polls = 0;
                        turn = &l;
                        turn_at = at;
                    }
                    if (f->done) {
                        --live;
                    }
                    if (f->polling) {
                        polling = true;
                    } else {
                        again = true;
                    }
                }
                progress |= again;
            }
        }
        if (!g.inflight.empty() && (!progress || (how >= 2 && rng() % 2))) {
            deliver(g);
            continue;
        }
        if (!progress && live && (!polling || ++polls > 1000000)) {
            deadlock(fs);
        }
    }
    if (!g.inflight.empty()) {
        die("an asynchronous copy was under way when its blocks had exited");
    }
}

inline void launch_now(dim3 grid, dim3 block, unsigned cluster, bool cooperative, size_t smem,
                       std::function<void()> fn) {
    const unsigned nb = grid.x * grid.y * grid.z;
    const unsigned per = cooperative ? nb : cluster;
    if (nb % cluster) {
        die("grid is not a multiple of the cluster size");
    }
    if (smem > 227 * 1024) {
        die("more than 227 KB of shared memory");
    }
    const int how = cpucuda::order;
    std::atomic<unsigned> next{0};
    auto worker = [&] {
        static thread_local std::vector<std::unique_ptr<Pool>> pools; /* one for each kernel that waits for another */
        static thread_local size_t depth = 0;
        while (pools.size() <= depth) {
            pools.emplace_back(new Pool);
        }
        Pool &pool = *pools[depth++];
        for (;;) {
            unsigned first = next.fetch_add(per);
            if (first >= nb) {
                break;
            }
            Group g;
            g.grid = grid;
            g.block = block;
            g.cluster = cluster;
            g.blocks.resize(per);
            for (unsigned i = 0; i < per; ++i) {
                unsigned b = first + i;
                g.blocks[i].bid = uint3{b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
                g.blocks[i].rank = i % cluster;
                g.blocks[i].smem_bytes = smem;
            }
            run_group(g, fn, how, 1234u + first + (unsigned)how, pool);
        }
        depth--;
        switches += my_switches;
        my_switches = 0;
    };
    unsigned nthr = before ? 1 : std::min<unsigned>((unsigned)env_int("CPUCUDA_THREADS", 1), nb / per);
    std::vector<std::thread> ts;
    for (unsigned i = 1; i < nthr; ++i) {
        ts.emplace_back(worker);
    }
    worker();
    for (auto &t : ts) {
        t.join();
    }
}

template <class T>
inline T shfl(T v, int src, int line) {
    static_assert(sizeof(T) <= 8, "shuffle up to 8 bytes");
    Fiber *f = cur;
    Warp *w = f->w;
    unsigned p = f->warp_ops++ & 1;
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof v);
    w->slot[p][f->lane] = bits;
    arrive(w->bar, line);
    T r;
    memcpy(&r, &w->slot[p][src & 31], sizeof r);
    return r;
}
/* ---- twins of mailp_dev_ functions ---- */

inline Barrier &cluster_bar() {
    Group *g = cur->g;
    return g->cluster_bar[(cur->b - g->blocks.data()) / g->cluster];
}
inline void cluster_arrive(int line) {
    arrive_only(cluster_bar(), line);
}
inline void cluster_wait(int line) {
    wait_only(cluster_bar(), line);
}
inline void bar_wait(MBar *bar, unsigned parity, int line) {
    if (!skipped(line) && (bar->phase & 1) == parity) {
        block_on(&bar->phase, bar->phase, line);
    }
}
/* Sums in double, rounded once: the unit's own rounding differs a little, so only tolerances compare with a GPU. */
inline void mma_sums(float d[4], const Warp *w, unsigned p, int lane, int inputs) {
    const double *row0 = w->a[p][lane / 4], *row1 = w->a[p][lane / 4 + 8], *col0 = w->b[p][2 * (lane % 4)], *col1 = w->b[p][2 * (lane % 4) + 1];
    double s0 = d[0], s1 = d[1], s2 = d[2], s3 = d[3];
    for (int k = 0; k < inputs; ++k) {
        s0 += row0[k] * col0[k];
        s1 += row0[k] * col1[k];
        s2 += row1[k] * col0[k];
        s3 += row1[k] * col1[k];
    }
    d[0] = (float)s0;
    d[1] = (float)s1;
    d[2] = (float)s2;
    d[3] = (float)s3;
}
inline const double *half_values(float (*value)(uint32_t)) { /* of all 65536 */
    static const std::vector<double> values = [value] {
        std::vector<double> v(1 << 16);
        for (uint32_t h = 0; h < 1 << 16; ++h) {
            v[h] = value(h);
        }
        return v;
    }();
    return values.data();
}
inline void mma(float d[4], const uint32_t a[4], const uint32_t b[2], float (*value)(uint32_t), int line) {
    Fiber *f = cur;
    Warp *w = f->w;
    unsigned p = f->warp_ops++ & 1;
    const double *number = half_values(value);
    const int g = f->lane / 4, t = f->lane % 4;
    for (int i = 0; i < 8; ++i) {
        w->a[p][g + 8 * (i / 2 % 2)][2 * t + i % 2 + 8 * (i / 4)] = number[a[i / 2] >> i % 2 * 16 & 0xffffu];
    }
    for (int i = 0; i < 4; ++i) {
        w->b[p][g][2 * t + i % 2 + 8 * (i / 2)] = number[b[i / 2] >> i % 2 * 16 & 0xffffu];
    }
    arrive(w->bar, line);
    mma_sums(d, w, p, f->lane, 16);
}

/* The same for tf32 operands, 8 inputs. */
inline void mma_tf32(float d[4], const uint32_t a[4], const uint32_t b[2], int line) {
    Fiber *f = cur;
    Warp *w = f->w;
    unsigned p = f->warp_ops++ & 1;
    const int g = f->lane / 4, t = f->lane % 4;
    const auto number = [](uint32_t bits) {
        if (bits & 0x1fffu) {
            die("an operand has more bits than tf32");
        }
        float v;
        memcpy(&v, &bits, sizeof v);
        return (double)v;
    };
    for (int i = 0; i < 4; ++i) {
        w->a[p][g + 8 * (i % 2)][t + 4 * (i / 2)] = number(a[i]);
    }
    for (int i = 0; i < 2; ++i) {
        w->b[p][g][t + 4 * i] = number(b[i]);
    }
    arrive(w->bar, line);
    mma_sums(d, w, p, f->lane, 8);
}

/* A lane's part of a warpgroup's product, at once: its operands are complete, or a barrier was forgotten. */
#define CPUCUDA_QUICK __attribute__((optimize("O3"), no_sanitize("address", "undefined")))
template <class Operand>
CPUCUDA_QUICK inline void half_row(double v[16], const Operand &m, int row, const double *number) {
    for (int eight = 0; eight < 2; ++eight) {
        const unsigned char *at = m.at + (size_t)(row / 8) * m.rows + (size_t)eight * m.inputs + (size_t)(row % 8 * 16);
        if (!m.inputs) { /* rows of 64 bytes, whose pieces of 16 change places as their addresses say */
            const uintptr_t flat = (uintptr_t)m.at + (size_t)(row * 64 + eight * 16);
            at = (const unsigned char *)(flat ^ (flat >> 7 & 3) << 4);
        }
        uint16_t h[8];
        memcpy(h, at, sizeof h);
        for (int k = 0; k < 8; ++k) {
            v[8 * eight + k] = number[h[k]];
        }
    }
}
template <int N, class Operand>
CPUCUDA_QUICK inline void product(float *d, const Operand &a, const Operand &b, int add, float (*value)(uint32_t)) {
    const int lane = cur->lane, g = lane / 4, t = lane % 4, warp = (int)cur->tid.x / 32 % 4;
    const double *number = half_values(value);
    double row0[16], row1[16], col[16];
    half_row(row0, a, 16 * warp + g, number);
    half_row(row1, a, 16 * warp + g + 8, number);
    for (int i = 0; i < N / 4; ++i) {
        float *at = d + i / 2 * 4 + i % 2;
        double s0 = add ? at[0] : 0.0, s1 = add ? at[2] : 0.0;
        half_row(col, b, i / 2 * 8 + 2 * t + i % 2, number);
        for (int k = 0; k < 16; ++k) {
            s0 += row0[k] * col[k];
            s1 += row1[k] * col[k];
        }
        at[0] = (float)s0;
        at[2] = (float)s1;
    }
}

inline void need_full(unsigned m) {
    if (m != 0xffffffffu) {
        die("only full-warp masks are supported");
    }
}
template <class T>
T shfl_idx(unsigned m, T v, int s, int width, int line) {
    need_full(m);
    return shfl(v, (cur->lane & ~(width - 1)) | (s & (width - 1)), line);
}
template <class T>
T shfl_xor(unsigned m, T v, int x, int width, int line) {
    need_full(m);
    int s = cur->lane ^ x;
    return shfl(v, (s & ~(width - 1)) == (cur->lane & ~(width - 1)) ? s : cur->lane, line);
}
template <class T>
T shfl_up(unsigned m, T v, int d, int width, int line) {
    need_full(m);
    int l = cur->lane & (width - 1);
    return shfl(v, l >= d ? cur->lane - d : cur->lane, line);
}
template <class T>
T shfl_down(unsigned m, T v, int d, int width, int line) {
    need_full(m);
    int l = cur->lane & (width - 1);
    return shfl(v, l + d < width ? cur->lane + d : cur->lane, line);
}
inline unsigned ballot(unsigned m, int pred, int line) {
    need_full(m);
    Fiber *f = cur;
    Warp *w = f->w;
    unsigned p = f->warp_ops++ & 1;
    w->slot[p][f->lane] = pred != 0;
    arrive(w->bar, line);
    unsigned r = 0;
    for (int i = 0; i < 32; ++i) {
        r |= (unsigned)(w->slot[p][i] & 1) << i;
    }
    return r;
}
} /* namespace cpucuda */

#define threadIdx (cpucuda::cur->tid)
#define blockIdx (cpucuda::cur->b->bid)
#define blockDim (cpucuda::cur->g->block)
#define gridDim (cpucuda::cur->g->grid)
#define __syncthreads() cpucuda::sync(cpucuda::cur->b->bar, __LINE__)
#define __syncwarp(...) cpucuda::sync(cpucuda::cur->w->bar, __LINE__)
#define __shfl_sync(m, v, ...) cpucuda::shfl_idx(m, v, CPUCUDA_ARG2_(__VA_ARGS__, 32), __LINE__)
#define __shfl_xor_sync(m, v, ...) cpucuda::shfl_xor(m, v, CPUCUDA_ARG2_(__VA_ARGS__, 32), __LINE__)
#define __shfl_up_sync(m, v, ...) cpucuda::shfl_up(m, v, CPUCUDA_ARG2_(__VA_ARGS__, 32), __LINE__)
#define __shfl_down_sync(m, v, ...) cpucuda::shfl_down(m, v, CPUCUDA_ARG2_(__VA_ARGS__, 32), __LINE__)
#define CPUCUDA_ARG2_(...) CPUCUDA_ARG2__(__VA_ARGS__, 0)
#define CPUCUDA_ARG2__(a, b, ...) a, b
#define __ballot_sync(m, p) cpucuda::ballot(m, p, __LINE__)

#define __expf expf
#define __logf logf
static inline float __fdividef(float a, float b) {
    return a / b;
}
static inline float __fmul_rn(float a, float b) {
    return a * b;
}
static inline float __fadd_rn(float a, float b) {
    return a + b;
}
static inline float __fsub_rn(float a, float b) {
    return a - b;
}
template <class T>
static inline T __ldg(const T *p) {
    return *p;
}
static inline float atomicAdd(float *p, float v) {
    uint32_t o = __atomic_load_n((uint32_t *)p, __ATOMIC_RELAXED), n;
    float f;
    do {
        memcpy(&f, &o, 4);
        f += v;
        memcpy(&n, &f, 4);
    } while (!__atomic_compare_exchange_n((uint32_t *)p, &o, n, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    memcpy(&f, &o, 4);
    return f;
}
static inline unsigned atomicAdd(unsigned *p, unsigned v) {
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
static inline int atomicAdd(int *p, int v) {
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}

/* ---- streams, graphs, memory: everything runs at once, in the order of the calls, unless a graph is being captured.

   A graph runs in any order that its dependencies allow: that of the calls under schedule 0, the latest first under 1, a
   random one from 2 on. A kernel launched early (programmatic dependent launch) then begins before the kernel it depends on,
   which runs only when a thread calls dependency_wait. ---- */

using cudaError_t = int;
static constexpr int cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorNotReady = 600;
static constexpr int cudaErrorStreamCaptureUnjoined = 904;

namespace cpucuda {
struct Node {
    std::function<void()> work;
    std::vector<size_t> after;
    bool early; /* may begin before the end of what it comes after */
};
struct Stream;
struct Graph {
    std::vector<Node> nodes;
    std::vector<Stream *> streams; /* recording into it */
};
struct Stream {
    Graph *capture = nullptr;
    std::vector<size_t> last; /* what the next node comes after */
};
struct Event {
    Graph *capture = nullptr;
    std::vector<size_t> last;
};
inline void enqueue(Stream *stream, std::function<void()> work, bool early = false) {
    if (stream && stream->capture) {
        Graph &g = *stream->capture;
        g.nodes.push_back({std::move(work), stream->last, early && stream->last.size() == 1});
        stream->last = {g.nodes.size() - 1};
    } else {
        work();
    }
}
inline void run_node(Graph &g, size_t i, std::function<void()> first, std::vector<char> &done, std::mt19937 &rng, int depth) {
    size_t next = g.nodes.size(), n = 0;
    for (size_t j = i + 1; j < g.nodes.size(); ++j) {
        for (size_t k : g.nodes[j].after) {
            n += k == i;
            next = k == i ? j : next;
        }
    }
    done[i] = 1;
    auto work = [&g, i, first] {
        const std::function<void()> outer = std::move(before);
        before = first;
        g.nodes[i].work();
        if (before) { /* it has not waited */
            const std::function<void()> late = std::move(before);
            before = nullptr;
            late();
        }
        before = outer;
    };
    if (n == 1 && g.nodes[next].early && depth < 2 && (order == 1 || (order > 1 && rng() % 2))) {
        run_node(g, next, work, done, rng, depth + 1);
    } else {
        work();
    }
}
inline void run_graph(Graph &g) {
    std::vector<char> done(g.nodes.size());
    std::mt19937 rng(4321u + (unsigned)order);
    for (size_t left = g.nodes.size(); left;) {
        std::vector<size_t> ready;
        for (size_t i = 0; i < g.nodes.size(); ++i) {
            bool is = !done[i];
            for (size_t k : g.nodes[i].after) {
                is = is && done[k];
            }
            if (is) {
                ready.push_back(i);
            }
        }
        run_node(g, order == 0 ? ready.front() : order == 1 ? ready.back() : ready[rng() % ready.size()], nullptr, done, rng, 0);
        left = (size_t)std::count(done.begin(), done.end(), 0);
    }
}
inline cudaError_t launch(Stream *stream, dim3 grid, dim3 block, unsigned cluster, size_t smem, bool early, std::function<void()> fn) {
    if (cluster > (unsigned)device.max_cluster || smem > (size_t)device.smem || block.x > 1024 || !grid.x || !grid.y ||
        !grid.z || grid.y > 65535 || grid.z > 65535 || call_fails()) {
        return cudaErrorInvalidValue;
    }
    count.launches++;
    enqueue(
        stream,
        [=] {
            launch_now(grid, block, cluster, false, smem, fn);
        },
        early);
    return cudaSuccess;
}
} /* namespace cpucuda */

using cudaEvent_t = cpucuda::Event *;
using cudaStream_t = cpucuda::Stream *;
using cudaGraph_t = cpucuda::Graph *;
using cudaGraphExec_t = cpucuda::Graph *;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };
enum cudaDeviceAttr {
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor,
    cudaDevAttrMaxSharedMemoryPerBlockOptin,
    cudaDevAttrMultiProcessorCount
};
static constexpr unsigned cudaStreamNonBlocking = 1, cudaHostAllocMapped = 2;
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice, cudaMemoryTypeManaged };
struct cudaPointerAttributes {
    cudaMemoryType type;
    int device;
};
namespace cpucuda {
inline std::map<const char *, size_t> on_device; /* what cudaMalloc gave out */
}

template <class T>
static inline cudaError_t cudaMalloc(T **p, size_t n) {
    *p = nullptr;
    if (cpucuda::fail_malloc > 0 && --cpucuda::fail_malloc == 0) {
        return cudaErrorMemoryAllocation;
    }
    cpucuda::count.mallocs++;
    *p = (T *)malloc(n ? n : 1);
    memset((void *)*p, 0xFF, n);
    cpucuda::on_device[(const char *)*p] = n;
    return cudaSuccess;
}
static inline cudaError_t cudaFree(void *p) {
    cpucuda::count.frees += p != nullptr;
    cpucuda::on_device.erase((const char *)p);
    free(p);
    return cudaSuccess;
}
template <class T>
static inline cudaError_t cudaHostAlloc(T **p, size_t n, unsigned) {
    const cudaError_t e = cudaMalloc(p, n);
    cpucuda::on_device.erase((const char *)*p);
    return e;
}
static inline cudaError_t cudaFreeHost(void *p) {
    return cudaFree(p);
}
static inline cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned) {
    *device = host;
    return cudaSuccess;
}
static inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *about, const void *p) {
    auto at = cpucuda::on_device.upper_bound((const char *)p);
    about->type = cudaMemoryTypeUnregistered;
    about->device = 0;
    if (at != cpucuda::on_device.begin() && (const char *)p < std::prev(at)->first + std::prev(at)->second) {
        about->type = cudaMemoryTypeDevice;
    }
    return cudaSuccess;
}
static inline cudaError_t cudaMemcpy(void *d, const void *s, size_t n, cudaMemcpyKind) {
    cpucuda::count.syncs++;
    memcpy(d, s, n);
    return cudaSuccess;
}
static inline cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, cudaMemcpyKind, cudaStream_t stream) {
    if (cpucuda::call_fails()) {
        return cudaErrorInvalidValue;
    }
    cpucuda::enqueue(stream, [=] {
        memcpy(d, s, n);
    });
    return cudaSuccess;
}
static inline cudaError_t cudaMemcpy2DAsync(void *d, size_t d_pitch, const void *s, size_t s_pitch, size_t width, size_t height,
                                            cudaMemcpyKind, cudaStream_t stream) {
    if (cpucuda::call_fails()) {
        return cudaErrorInvalidValue;
    }
    cpucuda::enqueue(stream, [=] {
        for (size_t i = 0; i < height; i++) {
            memcpy((char *)d + i * d_pitch, (const char *)s + i * s_pitch, width);
        }
    });
    return cudaSuccess;
}
static inline cudaError_t cudaMemsetAsync(void *d, int v, size_t n, cudaStream_t stream) {
    cpucuda::enqueue(stream, [=] {
        memset(d, v, n);
    });
    return cudaSuccess;
}
static inline cudaError_t cudaMemset(void *d, int v, size_t n) {
    memset(d, v, n);
    return cudaSuccess;
}
static inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    *stream = new cpucuda::Stream;
    return cudaSuccess;
}
static inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}
static inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
    cpucuda::count.syncs++;
    return cudaSuccess;
}
static inline cudaError_t cudaStreamQuery(cudaStream_t) {
    return cudaSuccess;
}
static inline cudaError_t cudaDeviceSynchronize() {
    cpucuda::count.syncs++;
    return cudaSuccess;
}
static inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *) {
    return cudaSuccess;
}
static inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    stream->capture = new cpucuda::Graph;
    stream->capture->streams.push_back(stream);
    stream->last.clear();
    return cudaSuccess;
}
static inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    cpucuda::Graph *g = *graph = stream->capture;
    std::vector<char> joined(g->nodes.size());
    for (size_t i : stream->last) {
        joined[i] = 1;
    }
    for (size_t i = g->nodes.size(); i-- > 0;) {
        for (size_t k : g->nodes[i].after) {
            joined[k] = joined[k] || joined[i];
        }
    }
    for (cudaStream_t s : g->streams) {
        s->capture = nullptr;
    }
    return std::count(joined.begin(), joined.end(), 0) ? cudaErrorStreamCaptureUnjoined : cudaSuccess;
}
static constexpr unsigned cudaEventDisableTiming = 2;
static inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    *event = new cpucuda::Event;
    return cudaSuccess;
}
static inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}
static inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    event->capture = stream->capture;
    event->last = stream->last;
    return cudaSuccess;
}
static inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    if (event->capture && stream->capture != event->capture) { /* the stream joins the recording */
        stream->capture = event->capture;
        stream->capture->streams.push_back(stream);
        stream->last.clear();
    }
    stream->last.insert(stream->last.end(), event->last.begin(), event->last.end());
    return cudaSuccess;
}
static inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    *exec = new cpucuda::Graph(*graph);
    return cudaSuccess;
}
static inline cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
    return cudaSuccess;
}
static inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    if (cpucuda::call_fails()) {
        return cudaErrorInvalidValue;
    }
    cpucuda::enqueue(stream, [=] {
        cpucuda::run_graph(*exec);
    });
    return cudaSuccess;
}
static inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
static inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    return cudaSuccess;
}
static inline cudaError_t cudaGetDevice(int *device) {
    *device = cpucuda::current_device;
    return cudaSuccess;
}
static inline cudaError_t cudaSetDevice(int device) {
    cpucuda::current_device = device;
    return cudaSuccess;
}
static inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr what, int) {
    *value = what == cudaDevAttrComputeCapabilityMajor   ? cpucuda::device.major
             : what == cudaDevAttrComputeCapabilityMinor ? cpucuda::device.minor
             : what == cudaDevAttrMultiProcessorCount    ? cpucuda::device.sms
                                                         : cpucuda::device.smem;
    return cudaSuccess;
}
struct cudaFuncAttributes {
    int ptxVersion, numRegs;
};
static inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *about, const void *) {
    about->ptxVersion = cpucuda::device.compiled_for;
    about->numRegs = 128;
    return cudaSuccess;
}
static inline cudaError_t cudaGetLastError() {
    return cudaSuccess;
}
static inline const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaErrorMemoryAllocation ? "out of memory" : e ? "invalid value" : "no error";
}
