/* test_cuda: the kernels and sessions of mail_cuda.cuh against plain loops in double precision.

       nvcc -std=c++17 -O3 -arch=sm_90a tests/cuda/test_cuda.cu -o build/test_cuda_gpu      on a GPU
       build/test_cuda_gpu [PART]         only the cases whose name contains PART
       build/test_cuda kernels [PART]     the same on the CPU, as a part of all_tests.cu

   On the CPU every case runs under four schedules of its threads, which must give the same bits. */
#include "twin_cases.h"

/* ---- scan ---- */

/* State and output of the scan, token by token in double. */
static void scan_reference(doubles &y, doubles &state, const floats &u, const floats &dt, const floats *z, const floats &A, const floats &B,
                           const floats &C, const floats &D, const floats &bias, size_t batch, size_t L, size_t E, size_t N) {
    y.assign(batch * L * E, 0.0);
    for (size_t b = 0; b < batch; b++) {
        for (size_t e = 0; e < E; e++) {
            double *h = &state[(b * E + e) * N];
            for (size_t t = 0; t < L; t++) {
                const size_t at = (b * L + t) * E + e;
                const double raw = (double)dt[at] + bias[e], step = raw > 20.0 ? raw : log1p(exp(raw));
                double       v = (double)D[e] * u[at];
                for (size_t n = 0; n < N; n++) {
                    h[n] = exp(step * A[e * N + n]) * h[n] + step * B[(b * L + t) * N + n] * u[at];
                    v += h[n] * C[(b * L + t) * N + n];
                }
                y[at] = z ? v * ((*z)[at] / (1.0 + exp(-(double)(*z)[at]))) : v;
            }
        }
    }
}

/* Length L in one piece, and again cut at `cut` with the state carried over. ring: by the kernel for many channels. */
static uint64_t scan_case(size_t batch, size_t L, size_t E, size_t N, size_t cut, bool gate, bool ring = false) {
    ct_scan s(batch, L, E, N, gate);
    auto    run = [&] { return ring ? s.run_ring() : s.run(); };
    doubles want, state(s.h0.begin(), s.h0.end());
    scan_reference(want, state, s.u, s.dt, gate ? &s.z : NULL, s.A, s.B, s.C, s.D, s.bias, batch, L, E, N);
    CHECK(run() == MAIL_OK);
    const floats got = s.y.host(), end = s.h.host();
    CHECK_MSG(ct_distance(got, want) < 2e-6, "%g", ct_distance(got, want));
    CHECK_MSG(ct_distance(end, state) < 2e-6, "%g", ct_distance(end, state));
    if (batch == 1 && cut > 0 && cut < L) { /* rows of one sequence are contiguous, so it can be cut by pointers */
        ct_device y2(L * E), h2(s.h0);
        s.args.y = y2;
        s.args.state_in = s.args.state_out = h2;
        s.args.L = (int)cut;
        CHECK(run() == MAIL_OK);
        s.args.y += cut * E;
        s.args.u += cut * E;
        s.args.dt += cut * E;
        s.args.z = s.args.z ? s.args.z + cut * E : NULL;
        s.args.B += cut * N;
        s.args.C += cut * N;
        s.args.L = (int)(L - cut);
        CHECK(run() == MAIL_OK);
        CHECK(ct_distance(y2.host(), want) < 2e-6);
        CHECK(ct_distance(h2.host(), state) < 2e-6);
    }
    return ct_hash(end, ct_hash(got));
}

/* ---- linear, layer norm ---- */

static uint64_t linear_case(int M, int N, int K, bool norm, bool add, int act) {
    const size_t m = (size_t)M, n = (size_t)N, k = (size_t)K;
    const floats X = ct_normal(m * k, 1, 2.0f, 0.5f), W = ct_normal(n * k, 2, (float)(1.0 / sqrt(K))), b = ct_normal(n, 3);
    const floats g = ct_normal(k, 4, 0.25f, 1.0f), gb = ct_normal(k, 5, 0.25f), r = ct_normal(m * n, 6), r2 = ct_normal(m * n, 7);
    doubles      want(m * n), x(k);
    for (size_t i = 0; i < m; i++) {
        double mean = 0.0, var = 0.0;
        for (size_t e = 0; e < k; e++) {
            mean += X[i * k + e] / (double)k;
        }
        for (size_t e = 0; e < k; e++) {
            var += (X[i * k + e] - mean) * (X[i * k + e] - mean) / (double)k;
        }
        for (size_t e = 0; e < k; e++) {
            x[e] = norm ? (X[i * k + e] - mean) / sqrt(var + 1e-5) * g[e] + gb[e] : (double)X[i * k + e];
        }
        for (size_t j = 0; j < n; j++) {
            double v = b[j];
            for (size_t e = 0; e < k; e++) {
                v += (double)W[j * k + e] * x[e];
            }
            v = act == MAILP_CUDA_GELU ? 0.5 * v * (1.0 + erf(v / sqrt(2.0))) : v;
            want[i * n + j] = v + (add ? (double)r[i * n + j] + r2[i * n + j] : 0.0);
        }
    }
    ct_device        dX(X), dW(W), db(b), dg(g), dgb(gb), Y(r), dr2(r2);
    mailp_cuda_queue q = {NULL, cudaSuccess, 0, 0, 0, 0.0};
    mailp_cuda_linear_args a = mailp_cuda_linear_init(Y, dX, dW, db, M, N, K);
    a.norm_w = norm ? (float *)dg : NULL;
    a.norm_b = norm ? (float *)dgb : NULL;
    a.add = add ? (float *)Y : NULL; /* in place, as the residual stream is */
    a.add2 = add ? (float *)dr2 : NULL;
    a.act = act;
    mailp_cuda_queue_linear(&q, a);
    CHECK(q.error == cudaSuccess);
    const floats got = Y.host();
    CHECK_MSG(ct_distance(got, want) < 1e-6, "%g", ct_distance(got, want));
    return ct_hash(got);
}

/* ---- mixer ---- */

/* Two sequences in one piece, and again prefix and rest through a cut state, with small tiles: all must agree. */
static uint64_t mixer_case(int E, int N, int R, int L, int cut, int tile, int slice) {
    const size_t e = (size_t)E, l = (size_t)L, Q = ct_mixer::Q;
    const int    K = ct_mixer::K;
    ct_mixer     m(E, N, R, L, slice);
    doubles      want(Q * l * e);
    for (size_t q = 0; q < Q; q++) {
        doubles h(e * (size_t)N), u(l * e);
        for (size_t t = 0; t < l; t++) {
            doubles dbc((size_t)(R + 2 * N));
            for (size_t c = 0; c < e; c++) {
                double v = m.conv_b[c];
                for (int j = 0; j < K; j++) {
                    const long at = (long)t - (K - 1) + j;
                    v += at < 0 ? 0.0 : (double)m.conv_w[(size_t)j * e + c] * m.xz[(q * l + (size_t)at) * 2 * e + c];
                }
                u[t * e + c] = v / (1.0 + exp(-v));
            }
            for (size_t r = 0; r < dbc.size(); r++) {
                for (size_t c = 0; c < e; c++) {
                    dbc[r] += (double)m.x_proj[r * e + c] * u[t * e + c];
                }
            }
            for (size_t c = 0; c < e; c++) {
                double dt = m.dt_b[c], y = m.D[c] * u[t * e + c];
                for (int r = 0; r < R; r++) {
                    dt += (double)m.dt_w[(size_t)r * e + c] * dbc[(size_t)r];
                }
                dt = log1p(exp(dt));
                for (int n = 0; n < N; n++) {
                    double &s = h[c * (size_t)N + (size_t)n];
                    s = exp2(dt * m.A2[(size_t)n * e + c]) * s + dt * dbc[(size_t)(R + n)] * u[t * e + c];
                    y += s * dbc[(size_t)(R + N + n)];
                }
                const double z = m.xz[(q * l + t) * 2 * e + e + c];
                want[(q * l + t) * e + c] = y * z / (1.0 + exp(-z));
            }
        }
    }
    m.launch(L, 128);
    const floats whole = m.y.host(), end = m.state.host();
    CHECK_MSG(ct_distance(whole, want) < 1e-6, "%g", ct_distance(whole, want));
    m.launch(tile, 128); /* the state waits in memory between tiles */
    CHECK(ct_hash(m.y.host()) == ct_hash(whole) && ct_hash(m.state.host()) == ct_hash(end));
    /* the first `cut` tokens of each sequence, then the others from the state left behind */
    auto piece = [&](size_t from, size_t to) {
        floats v;
        for (size_t i = 0; i < Q; i++) {
            v.insert(v.end(), m.xz.begin() + (long)((i * l + from) * 2 * e), m.xz.begin() + (long)((i * l + to) * 2 * e));
        }
        return v;
    };
    ct_device first(piece(0, (size_t)cut)), rest(piece((size_t)cut, l)), y1(Q * (size_t)cut * e), y2(Q * (l - (size_t)cut) * e), last(m.state.n);
    m.args.xz = first;
    m.args.y = y1;
    m.args.L = cut;
    m.launch(tile < cut ? tile : cut, 128);
    m.args.xz = rest;
    m.args.y = y2;
    m.args.L = L - cut;
    m.args.state_in = m.state;
    m.args.slice_in = slice;
    m.args.state_out = last;
    m.launch(tile < m.args.L ? tile : m.args.L, 128);
    CHECK(ct_hash(last.host()) == ct_hash(end));
    floats joined, one = y1.host(), two = y2.host();
    for (size_t i = 0; i < Q; i++) {
        joined.insert(joined.end(), one.begin() + (long)(i * (size_t)cut * e), one.begin() + (long)((i + 1) * (size_t)cut * e));
        joined.insert(joined.end(), two.begin() + (long)(i * (l - (size_t)cut) * e), two.begin() + (long)((i + 1) * (l - (size_t)cut) * e));
    }
    CHECK(ct_hash(joined) == ct_hash(whole));
    return ct_hash(end, ct_hash(whole));
}

/* ---- convolution with group norm ---- */

static void conv_reference(doubles &out, const doubles &in, const floats &w, const floats &gain, const floats &bias, const doubles *residual,
                           bool relu, int images, int H, int W, int CI, int CO, int size, int stride) {
    const int HO = (H + stride - 1) / stride, WO = (W + stride - 1) / stride, px = HO * WO;
    out.assign((size_t)images * (size_t)px * (size_t)CO, 0.0);
    for (int n = 0; n < images; n++) {
        for (int i = 0; i < px; i++) {
            for (int o = 0; o < CO; o++) {
                double v = 0.0;
                for (int k = 0; k < size * size; k++) {
                    const int y = i / WO * stride - size / 2 + k / size, x = i % WO * stride - size / 2 + k % size;
                    for (int c = 0; y >= 0 && y < H && x >= 0 && x < W && c < CI; c++) {
                        v += (double)w[(size_t)((o * size * size + k) * CI + c)] * in[(size_t)(((n * H + y) * W + x) * CI + c)];
                    }
                }
                out[(size_t)((n * px + i) * CO + o)] = v;
            }
        }
        for (int g = 0; g < CO / 16; g++) {
            double mean = 0.0, var = 0.0;
            auto   at = [&](int i, int c) -> double & { return out[(size_t)((n * px + i) * CO + g * 16 + c)]; };
            for (int i = 0; i < px * 16; i++) {
                mean += at(i / 16, i % 16) / (16.0 * px);
            }
            for (int i = 0; i < px * 16; i++) {
                var += (at(i / 16, i % 16) - mean) * (at(i / 16, i % 16) - mean) / (16.0 * px);
            }
            for (int i = 0; i < px * 16; i++) {
                double v = (at(i / 16, i % 16) - mean) / sqrt(var + 1e-5) * gain[(size_t)(g * 16 + i % 16)] + bias[(size_t)(g * 16 + i % 16)];
                v += residual ? (*residual)[(size_t)((n * px + i / 16) * CO + g * 16 + i % 16)] : 0.0;
                at(i / 16, i % 16) = relu && v < 0.0 ? 0.0 : v;
            }
        }
    }
}

static uint64_t conv_case(int images, int H, int W, int CI, int CO, int size, int stride, bool residual, bool constant) {
    const int    HO = (H + stride - 1) / stride, WO = (W + stride - 1) / stride;
    const size_t n_out = (size_t)(images * HO * WO * CO);
    floats       in = ct_normal((size_t)(images * H * W * CI), 1);
    const floats w = ct_normal((size_t)(CO * size * size * CI), 2, (float)(1.0 / sqrt((double)(size * size * CI))));
    const floats gain = ct_normal((size_t)CO, 3, 0.5f, 0.5f), bias = ct_normal((size_t)CO, 4, 0.3f), skip = ct_normal(n_out, 5);
    if (constant) { /* zero variance but for the border: sums of squares must not cancel */
        in.assign(in.size(), 100.0f);
    }
    doubles want, wide_skip(skip.begin(), skip.end());
    conv_reference(want, doubles(in.begin(), in.end()), w, gain, bias, residual ? &wide_skip : NULL, true, images, H, W, CI, CO, size, stride);
    ct_device            din(in), dw(w), dg(gain), db(bias), dskip(skip), out(n_out), stats(n_out);
    mailp_cuda_queue q = {NULL, cudaSuccess, 0, 0, 0, 0.0};
    mailp_cuda_stage     stage = {dw, dg, db, CI, CO, size, stride, NULL, 1.0f, NULL};
    mailp_cuda_norm_args norm;
    mailp_cuda_queue_conv(&q, stage, out, stats, din, images, H, W, &norm);
    norm.relu = 1;
    norm.eye[0].residual = residual ? (float *)dskip : NULL;
    mailp_cuda_queue_norm(&q, norm, images, 1);
    CHECK(q.error == cudaSuccess);
    const floats got = out.host();
    CHECK_MSG(ct_distance(got, want) < (constant ? 2e-5 : 2e-6), "%g", ct_distance(got, want));
    return ct_hash(got);
}

/* What a convolution that is queued by itself needs of a session: how many pictures, and an H100's policy. */
static void convolution_session(mail_cuda_session *session, mail_cuda_policy *policy, int images) {
    memset((void *)policy, 0, sizeof *policy);
    memset((void *)session, 0, sizeof *session);
    policy->smem = 227 * 1024;
    policy->max_cluster = 16;
    policy->sms = 132;
    session->policy = policy;
    session->B = images;
}

/* The same in one launch, by one shape of mailp_cuda_queue_fused (counted from 1) or, for 0, the one it would choose. */
static uint64_t fused_case(int images, int H, int W, int CI, int CO, int size, int stride, bool residual, bool half, int shape) {
    const int    HO = (H + stride - 1) / stride, WO = (W + stride - 1) / stride, K = size * size * CI;
    const size_t n_out = (size_t)(images * HO * WO * CO), n_w = (size_t)(CO * K);
    const floats in = ct_normal((size_t)(images * H * W * CI), 1), w = ct_normal(n_w, 2, (float)(1.0 / sqrt((double)K)));
    const floats gain = ct_normal((size_t)CO, 3, 0.5f, 0.5f), bias = ct_normal((size_t)CO, 4, 0.3f), skip = ct_normal(n_out, 5);
    floats       hi(n_w);
    doubles      want, wide_skip(skip.begin(), skip.end());
    const float unscale = mailp_cuda_pack_fragments(hi.data(), w.data(), (size_t)CO, (size_t)(size * size), (size_t)CI);
    conv_reference(want, doubles(in.begin(), in.end()), w, gain, bias, residual ? &wide_skip : NULL, true, images, H, W, CI, CO, size, stride);
    ct_device         din(in), dw(w), dg(gain), db(bias), dhi(hi), out(skip);
    mail_cuda_policy  policy;
    mail_cuda_session session;
    mailp_cuda_queue q = {NULL, cudaSuccess, 0, 0, 0, 0.0};
    mailp_cuda_stage  stage = {dw, dg, db, CI, CO, size, stride, dhi, unscale, NULL};
    convolution_session(&session, &policy, images);
    session.eyes = 1;
    session.wish.half = half;
    session.wish.shape = shape;
    const mailp_cuda_work work = {&stage, out, din, residual ? (float *)out : NULL, 1, NULL, NULL, NULL}; /* out over the skip */
    CHECK(mailp_cuda_queue_fused(&q, &session, &work, 1, H, W) == 1);
    CHECK(q.error == cudaSuccess);
    const floats got = out.host();
    CHECK_MSG(ct_distance(got, want) < (half ? 1e-3 : 1e-6), "%g", ct_distance(got, want));
    return ct_hash(got);
}

/* Where hi of value i of pictures [images][H][W][C] lies in the line of them, in halves; quarters: of even and odd rows and columns. */
static size_t place_of(const mailp_cuda_line &line, int i, int H, int W, int C, bool quarters) {
    const int c = i % C, x = i / C % W, y = i / C / W % H, n = i / C / W / H, quarter = quarters ? (y & 1) * 2 + (x & 1) : 0;
    const int place = n * line.S + ((quarters ? y / 2 : y) + 1) * line.P + (quarters ? x / 2 : x) + 1;
    return (mailp_dev_place(line, place, c / 8 * 8, 0) + (size_t)(quarter * (C / 32) * 2) * (size_t)line.Q * 4) * 8 + (size_t)(c % 8);
}

/* The pictures as such a line. */
static floats line_of(const floats &in, int images, int H, int W, int C, bool quarters) {
    const int             h = quarters ? (H + 1) / 2 : H, w = quarters ? (W + 1) / 2 : W;
    const mailp_cuda_line line = mailp_cuda_line_of(h, w, images);
    floats                out((size_t)(quarters ? 4 : 1) * (size_t)line.Q * (size_t)C);
    uint16_t             *halves = (uint16_t *)(void *)out.data();
    for (int i = 0; i < images * H * W * C; i++) {
        const float  v = in[(size_t)i] * MAILP_CUDA_RAISE;
        const size_t at = place_of(line, i, H, W, C, quarters);
        uint32_t     hi, lo;
        mailp_cuda_pack_half(&hi, &lo, v, 0.0f);
        halves[at] = (uint16_t)hi;
        halves[at + (size_t)line.Q * 32] = (uint16_t)lo;
    }
    return out;
}

/* Such a line's pictures; whatever is no pixel is to be zero. */
static floats pictures_of(const floats &all, int images, int H, int W, int C, bool quarters) {
    floats                out((size_t)(images * H * W * C));
    const floats          there = line_of(floats(out.size(), 1.0f), images, H, W, C, quarters);
    const mailp_cuda_line line = mailp_cuda_line_of(quarters ? (H + 1) / 2 : H, quarters ? (W + 1) / 2 : W, images);
    const uint16_t       *halves = (const uint16_t *)(const void *)all.data(), *marks = (const uint16_t *)(const void *)there.data();
    size_t                stray = 0;
    for (int i = 0; i < images * H * W * C; i++) {
        const size_t at = place_of(line, i, H, W, C, quarters);
        out[(size_t)i] = (mailp_cuda_from_half(halves[at]) + mailp_cuda_from_half(halves[at + (size_t)line.Q * 32])) / MAILP_CUDA_RAISE;
    }
    for (size_t i = 0; i < 2 * all.size(); i++) {
        const size_t hi_of = i / 32 / (size_t)line.Q % 2 ? i - (size_t)line.Q * 32 : i;
        stray += halves[i] != 0 && marks[hi_of] == 0;
    }
    CHECK_MSG(stray == 0, "%zu values beside the pictures", stray);
    return out;
}

/* By warpgroups: as fused_case, with tiles of so many columns. The output as a line, in quarters or as pictures. */
static uint64_t wide_case(int images, int H, int W, int CI, int CO, int size, int stride, bool residual, bool half, int columns, const char *form) {
    const int    HO = (H + stride - 1) / stride, WO = (W + stride - 1) / stride, K = size * size * CI;
    const size_t n_out = (size_t)(images * HO * WO * CO), n_w = (size_t)(CO * K);
    const floats in = ct_normal((size_t)(images * H * W * CI), 1), w = ct_normal(n_w, 2, (float)(1.0 / sqrt((double)K)));
    const floats gain = ct_normal((size_t)CO, 3, 0.5f, 0.5f), bias = ct_normal((size_t)CO, 4, 0.3f), skip = ct_normal(n_out, 5);
    const bool   quarters = strcmp(form, "quarters") == 0, final = strcmp(form, "pictures") == 0;
    floats       hi(n_w), packed(n_w);
    doubles      want, wide_skip(skip.begin(), skip.end());
    mailp_cuda_stage stage = {NULL, NULL, NULL, CI, CO, size, stride, NULL, 1.0f, NULL};
    stage.unscale = mailp_cuda_pack_fragments(hi.data(), w.data(), (size_t)CO, (size_t)(size * size), (size_t)CI);
    mailp_cuda_pack_wide(packed.data(), w.data(), (size_t)CO, (size_t)(size * size), (size_t)CI, mailp_cuda_wide_kind_of(stage), 1.0f / stage.unscale / MAILP_CUDA_RAISE);
    conv_reference(want, doubles(in.begin(), in.end()), w, gain, bias, residual ? &wide_skip : NULL, true, images, H, W, CI, CO, size, stride);
    const floats      skip_line = line_of(skip, images, HO, WO, CO, false);
    const floats      empty = line_of(floats(n_out), images, HO, WO, CO, quarters);
    ct_device         din(line_of(in, images, H, W, CI, stride > 1)), dw(packed), dg(gain), db(bias), dskip(skip_line), out(empty), pictures(n_out);
    mail_cuda_policy  policy;
    mail_cuda_session session;
    mailp_cuda_queue  q = {NULL, cudaSuccess, 0, 0, 0, 0.0};
    convolution_session(&session, &policy, images);
    session.wish.half = half;
    session.wish.wide = columns;
    stage.gain = dg;
    stage.bias = db;
    stage.wide = dw;
    auto line = [](ct_device &d) { return (uint4 *)(void *)(float *)d; };
    const mailp_cuda_wide_work work = {&stage, line(din), residual ? line(dskip) : NULL, line(out), final ? (float *)pictures : NULL, 1, quarters};
    mailp_cuda_queue_wide(&q, &session, &work, 1, HO, WO);
    CHECK(q.error == cudaSuccess);
    const floats got = final ? pictures.host() : pictures_of(out.host(), images, HO, WO, CO, quarters);
    CHECK_MSG(ct_distance(got, want) < (half ? 1e-3 : 1e-6), "%g", ct_distance(got, want));
    return ct_hash(got);
}

/* The first convolution with its pooling, by tiles of either size (as a GPU of so many SMs takes them) or by warpgroups (0: to a line,
   -1: to pictures), against convolution, norm and ReLU in double, then pooled. */
static uint64_t first_case(int images, int H, int W, int CO, bool half, int sms) {
    const int    HO = (H + 1) / 2, WO = (W + 1) / 2, PH = (HO + 1) / 2, PW = (WO + 1) / 2;
    const floats in = ct_normal((size_t)(images * H * W * 3), 1), w = ct_normal((size_t)(CO * 147), 2, 0.1f);
    const floats gain = ct_normal((size_t)CO, 3, 0.5f, 0.2f), bias = ct_normal((size_t)CO, 4, 0.3f);
    floats       wide((size_t)(CO * 224)), hi(wide.size()), packed(wide.size());
    doubles      map, want;
    for (size_t i = 0; i < wide.size(); i++) {
        wide[i] = i % 32 < 21 ? w[i / 224 * 147 + i % 224 / 32 * 21 + i % 32] : 0.0f;
    }
    const float unscale = mailp_cuda_pack_fragments(hi.data(), wide.data(), (size_t)CO, 1, 224);
    if (sms <= 0) {
        mailp_cuda_pack_wide_stem(packed.data(), wide.data(), w.data(), (size_t)CO, 1.0f / unscale / MAILP_CUDA_RAISE);
    }
    conv_reference(map, doubles(in.begin(), in.end()), w, gain, bias, NULL, true, images, H, W, 3, CO, 7, 2);
    for (int i = 0; i < images * PH * PW * CO; i++) {
        const int c = i % CO, x0 = i / CO % PW * 2 - 1, y0 = i / CO / PW % PH * 2 - 1, n = i / CO / PW / PH;
        double    most = 0.0;
        for (int y = std::max(y0, 0); y < std::min(y0 + 3, HO); y++) {
            for (int x = std::max(x0, 0); x < std::min(x0 + 3, WO); x++) {
                most = std::max(most, map[(size_t)(((n * HO + y) * WO + x) * CO + c)]);
            }
        }
        want.push_back(most);
    }
    ct_device         din(in), dw(w), dg(gain), db(bias), dhi(hi), dwide(packed), raw((size_t)(images * HO * WO * CO)), stats(raw.n), out(want.size());
    ct_device         line(sms ? floats(1) : line_of(floats(want.size()), images, PH, PW, CO, false));
    mail_cuda_policy  policy;
    mail_cuda_session session;
    mailp_cuda_queue  q = {NULL, cudaSuccess, 0, 0, 0, 0.0};
    mailp_cuda_stage  stage = {dw, dg, db, 3, CO, 7, 2, dhi, unscale, sms <= 0 ? (const float *)dwide : NULL};
    convolution_session(&session, &policy, images);
    policy.sms = sms > 0 ? sms : policy.sms;
    session.line[0][0][0] = (uint4 *)(void *)(float *)line;
    session.wish.half = half;
    session.wish.wide = sms < 0;
    const mailp_cuda_work work = {&stage, out, din, NULL, 1, raw, stats, NULL};
    mailp_cuda_queue_first(&q, &session, &work, 1, H, W, sms == 0);
    CHECK(q.error == cudaSuccess);
    const floats got = sms != 0 ? out.host() : pictures_of(line.host(), images, PH, PW, CO, false);
    CHECK_MSG(ct_distance(got, want) < (half ? 1e-3 : 1e-6), "%g", ct_distance(got, want));
    session.wish.plain = 1;
    mailp_cuda_queue_first(&q, &session, &work, 1, H, W, 0);
    CHECK(q.error == cudaSuccess && ct_distance(out.host(), want) < 1e-6);
    return ct_hash(got);
}

/* Every half survives the way through float, and floats between two halves go to the nearer one, ties to the even. */
static uint64_t half_case(void) {
    for (uint32_t h = 0; h < 0x7c00; h++) {
        const float a = mailp_cuda_from_half(h), b = mailp_cuda_from_half(h + 1 < 0x7c00 ? h + 1 : h);
        const float middle = (float)(((double)a + b) / 2);
        const uint32_t even = h & 1 && h + 1 < 0x7c00 ? h + 1 : h;
        if (mailp_cuda_to_half(a) != h || mailp_cuda_to_half(-a) != (h | 0x8000u) || mailp_cuda_to_half(middle) != even ||
            mailp_cuda_to_half(nextafterf(middle, a)) != h) {
            CHECK_MSG(0, "half %04x", (unsigned)h);
        }
    }
    CHECK(mailp_cuda_to_half(65504.0f) == 0x7bff && mailp_cuda_to_half(65520.0f) == 0x7c00 && mailp_cuda_to_half(INFINITY) == 0x7c00);
    CHECK(mailp_cuda_from_half(mailp_cuda_to_half(NAN)) != mailp_cuda_from_half(mailp_cuda_to_half(NAN)));
    floats      packed(16 * 16); /* weights next to nothing stay finite, and so does what undoes their scale */
    const float unscale = mailp_cuda_pack_fragments(packed.data(), floats(16 * 16, 1e-40f).data(), 16, 1, 16);
    CHECK(fabsf(unscale) <= FLT_MAX);
    for (float f : packed) {
        uint32_t two;
        memcpy(&two, &f, sizeof two);
        CHECK((two & 0x7c00) != 0x7c00 && (two >> 16 & 0x7c00) != 0x7c00);
    }
    return 0;
}

struct softplus_args {
    float       *y;
    const float *x;
    int          n;
};
static __global__ void softplus_kernel(softplus_args p) {
    for (int i = (int)threadIdx.x; i < p.n; i += (int)blockDim.x) {
        p.y[i] = mailp_dev_softplus(p.x[i]);
    }
}
static uint64_t softplus_case(void) {
    floats x;
    for (int i = -1500; i <= 2500; i++) {
        x.push_back((float)i * 0.01f);
    }
    const ct_device  from(x), to(x.size());
    mailp_cuda_queue q = {};
    mailp_cuda_launch(&q, softplus_kernel, dim3(1), 64, 0, softplus_args{to, from, (int)x.size()});
    CHECK(q.error == cudaSuccess);
    const floats y = to.host();
    double       worst = 0.0;
    for (size_t i = 0; i < x.size(); i++) {
        const double want = log1p(exp((double)x[i]));
        worst = std::max(worst, fabs(y[i] - want) / want);
    }
    CHECK_MSG(worst < 1.5e-6, "%g", worst); /* of which 1e-6 is the rounding of x log2(e) at -15 */
    return ct_hash(y);
}

/* ---- sessions ---- */

/* Features of frame `t` for robot `robot`. */
static floats frame_of(size_t robot, size_t t, size_t n) {
    return ct_normal(n, 1000 + robot * 100 + t);
}

/* Plan for `batch` robots after two frames each; robot b is the same whatever the batch. */
static floats plan_for(const mailp_config &c, const mail_cuda_policy *p, size_t batch, mailp_cuda_wish wish, const mail_cuda_session **kept = NULL) {
    mail_cuda_session *s = ct_session(p, batch, wish);
    mail_error         err;
    const size_t       one = c.act_seq * c.action_dim;
    floats             actions(batch * one);
    for (size_t t = 0; t < 2; t++) {
        floats f;
        for (size_t b = 0; b < batch; b++) {
            const floats v = frame_of(b, t, c.state_dim);
            f.insert(f.end(), v.begin(), v.end());
        }
        CHECK(mail_cuda_observe_features(s, f.data(), f.size(), &err) == MAIL_OK);
    }
    CHECK(mail_cuda_plan(s, actions.data(), &err) == MAIL_OK);
    (void)cudaDeviceSynchronize();
    if (wish.robots) {
        CHECK(s->loop.kernel != NULL && s->loop.robots == wish.robots);
    }
    if (kept) {
        *kept = s;
    } else {
        mail_cuda_session_free(s);
    }
    return actions;
}

/* The loop as one launch against the plain path, and a robot's bits in two batches; an observation token that goes through the
   loop against one that goes ahead of it. */
static uint64_t loop_case(mail_arch arch, size_t d_state, size_t history, size_t chunk, int robots, size_t batch) {
    mailp_config c = ct_config(arch, d_state, chunk);
    c.obs_seq = history;
    c.n_timesteps = 2;
    c.diffusion_x = robots == 1 ? 1 : 0;
    mail_cuda_policy *p = ct_policy(c);
    mailp_cuda_wish   plain = {}, fast = {};
    plain.plain = 1;
    fast.robots = robots;
    const mail_cuda_session *s, *before;
    const floats want = plan_for(c, p, batch, plain), got = plan_for(c, p, batch, fast), alone = plan_for(c, p, 1, fast, &s);
#ifdef MAIL_CUDA_ON_CPU
    const double limit = 2e-6; /* the stand-in's products are exact and their sums rounded once */
#else
    const double limit = 1e-5; /* tensor cores cut the addends off at the largest one's last bits; what is promised beside mail.h */
#endif
    CHECK_MSG(ct_distance(got, want) < limit, "%g", ct_distance(got, want));
    CHECK(memcmp(got.data(), alone.data(), alone.size() * sizeof(float)) == 0);
    if (history == 1 && arch == MAIL_D_MA) {
        fast.ahead = 1;
        const floats ahead = plan_for(c, p, 1, fast, &before);
        CHECK(s->inside && !s->cache);
        CHECK(!before->inside && before->cache);
        CHECK_MSG(ct_distance(alone, ahead) < 1e-6, "%g", ct_distance(alone, ahead));
        mail_cuda_session_free((mail_cuda_session *)(uintptr_t)before);
    }
    mail_cuda_session_free((mail_cuda_session *)(uintptr_t)s);
    mail_cuda_policy_free(p);
    return ct_hash(got);
}

/* Robots of different ages in one batch, on the plain path: each equals a session of its own. */
static uint64_t ages_case(mail_arch arch, mail_algorithm algorithm) {
    mailp_config c = ct_config(arch, 16, 3);
    c.algorithm = algorithm;
    c.obs_seq = 3;
    c.lang = 1;
    c.lang_dim = 20;
    c.pos_rows = c.obs_seq + c.act_seq;
    if (algorithm == MAIL_BC && arch == MAIL_D_MA) {
        (void)snprintf(c.trunk[0].name, sizeof c.trunk[0].name, "encoder");
    } else if (algorithm == MAIL_BC && arch == MAIL_ED_MA) {
        (void)snprintf(c.trunk[1].name, sizeof c.trunk[1].name, "decoder");
    }
    mail_cuda_policy  *p = ct_policy(c);
    mail_error         err;
    const size_t       one = c.act_seq * c.action_dim, B = 3;
    mailp_cuda_wish    wish = {};
    mail_cuda_session *s = ct_session(p, B, wish);
    floats             goals = ct_normal(B * c.lang_dim, 5), actions(B * one), x_T = ct_normal(B * one, 6);
    floats             noise = ct_normal(B * one * c.n_timesteps, 7);
    CHECK(mail_cuda_session_set_goal(s, goals.data(), goals.size(), &err) == MAIL_OK);
    for (size_t t = 0; t < 5; t++) {
        floats f;
        for (size_t b = 0; b < B; b++) {
            const floats v = frame_of(b, t, c.state_dim);
            f.insert(f.end(), v.begin(), v.end());
        }
        if (t == 3) {
            CHECK(mail_cuda_session_reset_robot(s, 1, &err) == MAIL_OK); /* robot 1 will have seen frames 3 and 4 */
        } else if (t == 4) {
            CHECK(mail_cuda_session_reset_robot(s, 2, &err) == MAIL_OK); /* robot 2 only the last */
        }
        CHECK(mail_cuda_observe_features(s, f.data(), f.size(), &err) == MAIL_OK);
    }
    mail_cuda_session_set_noise(s, x_T.data(), noise.data());
    CHECK(mail_cuda_plan(s, actions.data(), &err) == MAIL_OK);
    (void)cudaDeviceSynchronize();
    for (size_t b = 0; b < B; b++) {
        mail_cuda_session *own = ct_session(p, 1, wish);
        floats             plan(one), z;
        CHECK(mail_cuda_session_set_goal(own, goals.data() + b * c.lang_dim, c.lang_dim, &err) == MAIL_OK);
        for (size_t t = b == 0 ? 2 : b + 2; t < 5; t++) {
            const floats v = frame_of(b, t, c.state_dim);
            CHECK(mail_cuda_observe_features(own, v.data(), v.size(), &err) == MAIL_OK);
        }
        for (size_t i = 0; i < c.n_timesteps; i++) {
            z.insert(z.end(), noise.begin() + (long)((i * B + b) * one), noise.begin() + (long)((i * B + b + 1) * one));
        }
        mail_cuda_session_set_noise(own, x_T.data() + b * one, z.data());
        CHECK(mail_cuda_plan(own, plan.data(), &err) == MAIL_OK);
        (void)cudaDeviceSynchronize();
        CHECK(memcmp(plan.data(), actions.data() + b * one, one * sizeof(float)) == 0);
        mail_cuda_session_free(own);
    }
    mail_cuda_session_free(s);
    mail_cuda_policy_free(p);
    return ct_hash(actions);
}

/* The seed's noise is mail.h's; act hands out the chunk action by action; a decision neither allocates nor waits. */
static uint64_t session_case(void) {
    mailp_config c = ct_config(MAIL_D_MA, 8, 5);
    c.n_action_steps = 3;
    mail_cuda_policy  *p = ct_policy(c);
    mail_error         err;
    const size_t       B = 2, one = c.act_seq * c.action_dim, n = B * one;
    mailp_cuda_wish    wish = {};
    wish.plain = 1;
    mail_cuda_session *s = ct_session(p, B, wish);
    floats             f = ct_normal(B * c.state_dim, 3), drawn(n), given(n), action(B * c.action_dim), x_T(n), noise(n * c.n_timesteps);
    CHECK(mail_cuda_plan(s, drawn.data(), &err) == MAIL_E_STATE); /* no frame yet */
    CHECK(mail_cuda_observe_features(s, f.data(), f.size() - 1, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_cuda_observe(s, NULL, 0, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_cuda_session_set_goal(s, f.data(), 1, &err) == MAIL_E_STATE);
    CHECK(mail_cuda_session_reset_robot(s, B, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_cuda_observe_features(s, f.data(), f.size(), &err) == MAIL_OK);
#ifdef MAIL_CUDA_ON_CPU
    const cpucuda::Count before = cpucuda::count;
#endif
    CHECK(mail_cuda_observe_features(s, f.data(), f.size(), &err) == MAIL_OK);
    CHECK(mail_cuda_plan(s, drawn.data(), &err) == MAIL_OK);
    CHECK(mail_cuda_act(s, action.data(), &err) == MAIL_OK);
#ifdef MAIL_CUDA_ON_CPU
    CHECK(cpucuda::count.mallocs == before.mallocs && cpucuda::count.syncs == before.syncs);
#endif
    (void)cudaDeviceSynchronize();
    for (size_t b = 0; b < B; b++) {
        CHECK(memcmp(&action[b * c.action_dim], &drawn[b * one], c.action_dim * sizeof(float)) == 0);
        mail_noise(&x_T[b * one], one, 7, (uint32_t)b, 0, 0);
        for (size_t i = 0; i < c.n_timesteps; i++) {
            mail_noise(&noise[(i * B + b) * one], one, 7, (uint32_t)b, 0, (uint32_t)i + 1);
        }
    }
    const floats on_device = ct_host(s->noise, n * c.n_timesteps);
    CHECK(ct_distance(on_device, noise) < 1e-7);
    mail_cuda_session_set_noise(s, x_T.data(), noise.data());
    CHECK(mail_cuda_plan(s, given.data(), &err) == MAIL_OK);
    (void)cudaDeviceSynchronize();
    CHECK_MSG(ct_distance(given, drawn) < 1e-5, "%g", ct_distance(given, drawn));
    /* chunk of 3: two more actions of the present one, then a new plan, with other noise */
    floats first(B * c.action_dim), next(B * c.action_dim);
    CHECK(mail_cuda_act(s, first.data(), &err) == MAIL_OK && mail_cuda_act(s, next.data(), &err) == MAIL_OK);
    CHECK(mail_cuda_act(s, next.data(), &err) == MAIL_OK && s->used[0] == 3);
    CHECK(mail_cuda_act(s, next.data(), &err) == MAIL_OK && s->used[0] == 1);
    (void)cudaDeviceSynchronize();
    CHECK(memcmp(first.data(), given.data(), c.action_dim * sizeof(float)) == 0);
    CHECK(memcmp(first.data(), next.data(), first.size() * sizeof(float)) != 0);
    /* reset: everything as in the beginning */
    CHECK(mail_cuda_session_reset(s, 7, &err) == MAIL_OK);
    CHECK(mail_cuda_plan(s, next.data(), &err) == MAIL_E_STATE);
    floats again(n);
    CHECK(mail_cuda_observe_features(s, f.data(), f.size(), &err) == MAIL_OK);
    CHECK(mail_cuda_observe_features(s, f.data(), f.size(), &err) == MAIL_OK);
    CHECK(mail_cuda_plan(s, again.data(), &err) == MAIL_OK);
    (void)cudaDeviceSynchronize();
    CHECK(memcmp(again.data(), drawn.data(), n * sizeof(float)) == 0);
    /* not-a-number in, not-a-number out: the clamp does not hide it; robots are told of one by one */
    f[3] = NAN;
    CHECK(mail_cuda_observe_features(s, f.data(), f.size(), &err) == MAIL_OK && mail_cuda_plan(s, again.data(), &err) == MAIL_OK);
    (void)cudaDeviceSynchronize();
    CHECK(again[0] != again[0] && again[n - 1] == again[n - 1]);
    CHECK(mail_cuda_session_check(s, &err) == MAIL_E_NUMBER && strstr(err.text, "robot 0") != NULL);
    f[c.state_dim] = NAN;
    CHECK(mail_cuda_observe_features(s, f.data(), f.size(), &err) == MAIL_OK);
    (void)cudaDeviceSynchronize();
    int told[2] = {0, 0};
    while (mail_cuda_session_check(s, &err) == MAIL_E_NUMBER && told[0] + told[1] < 9) {
        told[strstr(err.text, "robot 1") != NULL]++;
    }
    CHECK(told[0] >= 1 && told[1] == 1 && mail_cuda_session_check(s, &err) == MAIL_OK);
    mail_cuda_session_free(s);
    mail_cuda_policy_free(p);
    return ct_hash(drawn);
}

#ifdef MAIL_CUDA_ON_CPU
/* Each call that queues work fails once in each call of the API: that is told, and afterwards the host counts frames and actions as the
   device does. */
static uint64_t fault_case(void) {
    mailp_config c = ct_config(MAIL_D_MA, 8, 5);
    c.n_timesteps = 1;
    c.n_action_steps = 2;
    c.trunk[0].n_layers = 1;
    mail_cuda_policy *p = ct_policy(c);
    mailp_cuda_wish   wish = {};
    wish.plain = 1;
    const size_t       B = 2;
    mail_cuda_session *s = ct_session(p, B, wish);
    const floats       f = ct_normal(B * c.state_dim, 3);
    floats             plan(B * c.act_seq * c.action_dim), action(B * c.action_dim);
    mail_error         err;
    long               faults = 0;
    auto call = [&](int which) {
        return which == 0   ? mail_cuda_observe_features(s, f.data(), f.size(), &err)
               : which == 1 ? mail_cuda_act(s, action.data(), &err)
               : which == 2 ? mail_cuda_plan(s, plan.data(), &err)
               : which == 3 ? mail_cuda_session_reset(s, 9, &err)
                            : mail_cuda_session_reset_robot(s, 1, &err);
    };
    auto agree = [&](int which, long at) {
        for (size_t b = 0; b < B; b++) {
            CHECK_MSG(s->used[b] == s->chunks.used[b] && (int)s->frames[b] == s->history.states[b],
                      "call %d, fault %ld, robot %zu: the host counts %d actions and %d frames, the device %d and %d", which, at, b, s->used[b],
                      (int)s->frames[b], s->chunks.used[b], s->history.states[b]);
        }
    };
    for (int which = 0; which < 5; which++) {
        for (int acts = 1; acts < 3; acts++) { /* within a chunk, and where the next is due */
            for (long at = 1, hit = 1; hit; at++) {
                CHECK(call(3) == MAIL_OK && call(0) == MAIL_OK && call(1) == MAIL_OK && (acts < 2 || call(1) == MAIL_OK));
                cpucuda::fail_call = at;
                const mail_status status = call(which);
                hit = cpucuda::fail_call == 0;
                cpucuda::fail_call = 0;
                CHECK_MSG((status != MAIL_OK) == (hit != 0), "call %d, fault %ld: %s", which, at, mail_status_text(status));
                agree(which, at);
                CHECK(call(0) == MAIL_OK && call(1) == MAIL_OK);
                agree(which, at);
                faults += hit;
            }
        }
    }
    CHECK(faults > 20);
    mail_cuda_session_free(s);
    mail_cuda_policy_free(p);
    return 0;
}
#endif

/* Actions that are not finite are told of whenever one is handed out, and the step limit then counts from the last that was. */
static uint64_t number_case(void) {
    mailp_config c = ct_config(MAIL_D_MA, 16, 5);
    c.n_action_steps = 2;
    mail_cuda_policy *p = ct_policy(c);
    mail_cuda_options o = mail_cuda_options_init();
    const floats      step(c.action_dim, 0.01f);
    mail_error        err;
    floats            a(c.action_dim), last;
    o.session.action_max_step = step.data();
    mail_cuda_session *s = ct_session(p, 1, mailp_cuda_wish(), o);
    for (int frame = 0; frame < 4; frame++) {
        floats f = ct_normal(c.state_dim, (uint64_t)frame + 1);
        f[3] = frame == 1 ? NAN : f[3];
        CHECK(mail_cuda_observe_features(s, f.data(), f.size(), &err) == MAIL_OK);
        for (int i = 0; i < 2; i++) {
            CHECK(mail_cuda_act(s, a.data(), &err) == MAIL_OK);
            (void)cudaDeviceSynchronize();
            const bool        bad = frame == 1 || frame == 2; /* while frame 1 is one of the two in the history */
            const mail_status status = mail_cuda_session_check(s, &err);
            CHECK_MSG(status == (bad ? MAIL_E_NUMBER : MAIL_OK), "frame %d, action %d, %g: status %d", frame, i, (double)a[0], (int)status);
            CHECK(bad == !(fabsf(a[0]) <= FLT_MAX));
            for (size_t j = 0; j < a.size() && !bad && !last.empty(); j++) {
                CHECK_MSG(fabsf(a[j] - last[j]) <= 0.0101f, "frame %d, action %d: from %g to %g", frame, i, (double)last[j], (double)a[j]);
            }
            last = bad ? last : a;
        }
    }
    mail_cuda_session_free(s);
    mail_cuda_policy_free(p);
    return ct_hash(last);
}

/* What is refused, and that nothing leaks when an allocation fails. */
static uint64_t refuse_case(void) {
    mailp_config       c = ct_config(MAIL_D_MA, 16, 5);
    mail_cuda_policy  *p = ct_policy(c), *none = p;
    mail_cuda_session *s = NULL;
    mail_error         err;
    mail_cuda_options  none_at_all = mail_cuda_options_init(), too_many = none_at_all;
    none_at_all.session.batch = 0;
    too_many.session.batch = MAIL_MAX_BATCH + 1;
    CHECK(mail_cuda_policy_create(&none, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_cuda_session_create(&s, NULL, NULL, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_cuda_session_create(&s, p, &none_at_all, NULL, &err) == MAIL_E_ARGUMENT && s == NULL);
    CHECK(mail_cuda_session_create(&s, p, &too_many, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_cuda_plan(NULL, NULL, &err) == MAIL_E_ARGUMENT && mail_cuda_act(NULL, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_cuda_observe(NULL, NULL, 0, &err) == MAIL_E_ARGUMENT && mail_cuda_session_reset(NULL, 0, &err) == MAIL_E_ARGUMENT);
    mail_cuda_scan scan = {};
    CHECK(mail_cuda_selective_scan(&scan, 1, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_cuda_selective_scan(NULL, 1, NULL, &err) == MAIL_E_ARGUMENT);
    float        none_read = 0; /* operands that are refused before any of them is read */
    const struct { int L, d_inner, d_state; size_t batch; } beyond[] = {
        {-1, 16, 16, 1}, {(1 << 30) + 1, 16, 16, 1}, {1, 0, 16, 1}, {1, (1 << 20) + 1, 16, 1}, {1, 16, 0, 1}, {1, 16, 65, 1}, {1, 16, 16, 65536}};
    for (const auto &b : beyond) {
        scan.y = &none_read;
        scan.u = scan.dt = scan.A = scan.B = scan.C = &none_read;
        scan.L = b.L;
        scan.d_inner = b.d_inner;
        scan.d_state = b.d_state;
        CHECK_MSG(mail_cuda_selective_scan(&scan, b.batch, NULL, &err) == MAIL_E_ARGUMENT && strstr(err.text, "2^30") != NULL,
                  "scan of length %d, d_inner %d, d_state %d, batch %zu", b.L, b.d_inner, b.d_state, b.batch);
    }
    c.trunk[0].d_state = 65;
    const mailp_cuda_source source = {ct_read, NULL};
    CHECK(mailp_cuda_policy_build(&none, &c, source, &err) == MAIL_E_UNSUPPORTED && none == NULL);
#ifdef MAIL_CUDA_ON_CPU
    const cpucuda::Count before = cpucuda::count;
    c.trunk[0].d_state = 16;
    cpucuda::fail_malloc = 1;
    CHECK(mailp_cuda_policy_build(&none, &c, source, &err) == MAIL_E_MEMORY && none == NULL);
    cpucuda::fail_malloc = 1;
    CHECK(mail_cuda_session_create(&s, p, NULL, NULL, &err) == MAIL_E_MEMORY && s == NULL);
    CHECK(cpucuda::count.mallocs - before.mallocs == cpucuda::count.frees - before.frees);
    /* GPUs without clusters, or with little shared memory, take the plain path */
    cpucuda::device.max_cluster = 4;
    CHECK(mail_cuda_session_create(&s, p, NULL, NULL, &err) == MAIL_OK && s->loop.kernel == NULL);
    mail_cuda_session_free(s);
    cpucuda::device.max_cluster = 16;
    CHECK(mail_cuda_session_create(&s, p, NULL, NULL, &err) == MAIL_OK && s->loop.kernel != NULL);
    mail_cuda_session_free(s);
    cpucuda::device.smem = 48 * 1024;
    mail_cuda_policy *small = ct_policy(c);
    mailp_config wide = c;
    wide.trunk[0].d_inner = 32768;
    CHECK(mailp_cuda_policy_build(&none, &wide, source, &err) == MAIL_E_UNSUPPORTED && strstr(err.text, "d_inner 32768") != NULL && none == NULL);
    CHECK(mail_cuda_session_create(&s, small, NULL, NULL, &err) == MAIL_OK && s->loop.kernel == NULL);
    mail_cuda_session_free(s);
    mail_cuda_policy_free(small);
    cpucuda::device.smem = 227 * 1024;
    cpucuda::device.major = 8;
    mail_cuda_policy *old = ct_policy(c);
    CHECK(mail_cuda_session_create(&s, old, NULL, NULL, &err) == MAIL_OK && s->loop.kernel == NULL);
    mail_cuda_session_free(s);
    mail_cuda_policy_free(old);
    cpucuda::device.major = 9;
    cpucuda::device.compiled_for = 80; /* a new GPU, but a program that knows no clusters: its kernels for them are empty */
    mail_cuda_policy *plain = ct_policy(c);
    CHECK(mail_cuda_session_create(&s, plain, NULL, NULL, &err) == MAIL_OK && s->loop.kernel == NULL && plain->max_cluster == 1);
    mail_cuda_session_free(s);
    plain->device = 1;
    CHECK(mail_cuda_session_create(&s, plain, NULL, NULL, &err) == MAIL_E_STATE && s == NULL);
    mail_cuda_policy_free(plain);
    cpucuda::device.compiled_for = 90;
#endif
    mail_cuda_policy_free(p);
    return 0;
}

#ifndef TEST_CUDA_MAIN
#  define TEST_CUDA_MAIN main
#endif
int TEST_CUDA_MAIN(int argc, char **argv) {
#ifndef MAIL_CUDA_ON_CPU
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < 1) {
        printf("test_cuda: skipped, no GPU\n");
        return 0;
    }
#endif
    std::vector<ct_case> cases = {
        {"scan L 0", [] { return scan_case(1, 0, 8, 16, 0, false); }},
        {"scan L 1", [] { return scan_case(2, 1, 8, 8, 0, true); }},
        {"scan L 7, d_state 5, odd channels", [] { return scan_case(1, 7, 5, 5, 3, false); }},
        {"scan L 255", [] { return scan_case(1, 255, 16, 16, 100, true); }},
        {"scan L 40, wide blocks, d_state 8", [] { return scan_case(128, 40, 10, 8, 0, true); }},
        {"scan L 41, wide blocks, d_state 16", [] { return scan_case(65, 41, 20, 16, 0, false); }},
        {"scan L 300, d_state 32", [] { return scan_case(1, 300, 6, 32, 299, true); }},
        {"scan L 600, d_state 64", [] { return scan_case(1, 600, 4, 64, 257, false); }},
        {"scan L 2, 3, 31, 33, 63", [] {
             uint64_t hash = 0;
             for (size_t L : {2, 3, 31, 33, 63}) {
                 hash = ct_hash(&hash, sizeof hash, scan_case(1, L, 3, 16, L / 2, true));
             }
             return hash;
         }},
        {"scan L 256, 511, 513, 767, 1025", [] {
             uint64_t hash = 0;
             for (size_t L : {256, 511, 513, 767, 1025}) {
                 hash = ct_hash(&hash, sizeof hash, scan_case(1, L, 2, 8, 255 + L % 3, false));
             }
             return hash;
         }},
        {"scan, ring, L 0", [] { return scan_case(2, 0, 17, 16, 0, false, true); }},
        {"scan, ring, L 1", [] { return scan_case(2, 1, 16, 16, 0, true, true); }},
        {"scan, ring, around a segment of 8", [] {
             uint64_t hash = 0;
             for (size_t L : {7, 8, 9, 16, 17}) {
                 hash = ct_hash(&hash, sizeof hash, scan_case(1, L, 18, 16, L / 2, L % 2, true));
             }
             return hash;
         }},
        {"scan, ring, around a turn of 8 warps", [] {
             uint64_t hash = 0;
             for (size_t L : {63, 64, 65, 71, 127, 129}) {
                 hash = ct_hash(&hash, sizeof hash, scan_case(1, L, 6, 16, L - 8, L % 2, true));
             }
             return hash;
         }},
        {"scan, ring, odd channels, d_state 13", [] { return scan_case(3, 211, 17, 13, 0, true, true); }},
        {"scan, ring, one channel, d_state 1", [] { return scan_case(1, 120, 1, 1, 61, false, true); }},
        {"scan, ring, d_state 7, rows of 4 bytes", [] { return scan_case(1, 100, 19, 7, 33, false, true); }},
        {"scan, ring, L 2049", [] { return scan_case(1, 2049, 2, 16, 1025, true, true); }},
        {"scan L 65535", [] { return scan_case(1, 65535, 1, 2, 4097, true); }},
        {"scan L 65536", [] { return scan_case(1, 65536, 2, 3, 4096, false); }},
        {"linear 5 rows", [] { return linear_case(5, 512, 128, true, false, MAILP_CUDA_IDENTITY); }},
        {"linear 17 rows, in place, odd sizes", [] { return linear_case(17, 19, 33, false, true, MAILP_CUDA_IDENTITY); }},
        {"linear 130 rows, gelu", [] { return linear_case(130, 70, 129, true, true, MAILP_CUDA_GELU); }},
        {"mixer, tiles and cuts", [] { return mixer_case(96, 5, 3, 9, 2, 2, 32); }},
        {"mixer, released widths, slices of 16", [] { return mixer_case(256, 16, 8, 12, 7, 5, 16); }},
        {"conv 3x3, residual", [] { return conv_case(2, 9, 7, 16, 32, 3, 1, true, false); }},
        {"conv 3x3, stride 2, wide tiles", [] { return conv_case(40, 23, 20, 16, 32, 3, 2, false, false); }},
        {"conv 1x1, stride 2", [] { return conv_case(1, 8, 6, 64, 48, 1, 2, false, false); }},
        {"conv of a constant picture", [] { return conv_case(1, 16, 16, 16, 16, 3, 1, false, true); }},
        {"first conv, small tiles", [] { return first_case(2, 37, 64, 16, false, 132); }},
        {"first conv, small tiles, two groups", [] { return first_case(1, 64, 46, 32, false, 132); }},
        {"first conv, large tiles", [] { return first_case(1, 70, 67, 32, false, 1); }},
        {"first conv by warpgroups", [] { return first_case(2, 30, 28, 64, false, 0); }},
        {"first conv by warpgroups, 3 blocks an image", [] { return first_case(1, 46, 128, 128, false, 0); }},
        {"first conv by warpgroups, 2 blocks, one with a row", [] { return first_case(1, 33, 20, 64, false, 0); }},
        {"first conv by warpgroups, to pictures", [] { return first_case(2, 25, 38, 64, false, -1); }},
        {"first conv by warpgroups, one half product", [] { return first_case(1, 20, 22, 64, true, 0); }},
        {"first conv to a line, of pictures too wide for warpgroups", [] { return first_case(2, 9, 132, 64, false, 0); }},
        {"first conv, large tiles, one half product", [] { return first_case(1, 33, 130, 64, true, 1); }},
        {"half from and to float", [] { return half_case(); }},
        {"softplus", [] { return softplus_case(); }},
        {"fused conv 3x3, one image a block", [] { return fused_case(2, 16, 8, 64, 64, 3, 1, true, false, 1); }},
        {"fused conv 3x3, 2 blocks an image, odd size", [] { return fused_case(1, 15, 16, 32, 64, 3, 1, true, false, 2); }},
        {"fused conv 3x3, 8 images a block, in parts", [] { return fused_case(9, 4, 4, 128, 64, 3, 1, true, false, 1); }},
        {"fused conv 3x3, stride 2, 2 images a block", [] { return fused_case(3, 16, 16, 64, 64, 3, 2, false, false, 2); }},
        {"fused conv 3x3, small blocks of channels", [] { return fused_case(1, 15, 20, 64, 32, 3, 1, true, false, 3); }},
        {"fused conv 3x3, 4 images, small blocks of channels", [] { return fused_case(5, 8, 8, 96, 32, 3, 1, true, false, 4); }},
        {"fused conv 3x3, 9 pixels an image", [] { return fused_case(2, 3, 3, 64, 64, 3, 1, true, false, 1); }},
        {"fused conv 1x1, many pictures", [] { return fused_case(9, 8, 8, 64, 64, 1, 2, false, false, 1); }},
        {"fused conv 3x3, 4 images a small block", [] { return fused_case(5, 4, 4, 64, 64, 3, 1, true, false, 5); }},
        {"fused conv 3x3, small blocks, stride 2", [] { return fused_case(2, 15, 16, 96, 64, 3, 2, false, false, 6); }},
        {"fused conv 3x3, many pictures, one half product", [] { return fused_case(3, 8, 8, 64, 64, 3, 1, true, true, 1); }},
        {"fused conv 3x3, few pictures", [] { return fused_case(1, 16, 15, 64, 32, 3, 1, true, false, 7); }},
        {"fused conv 3x3, few pictures, shares", [] { return fused_case(2, 16, 16, 128, 16, 3, 1, true, false, 8); }},
        {"fused conv 3x3, few pictures, stride 2", [] { return fused_case(1, 15, 16, 64, 16, 3, 2, false, false, 9); }},
        {"fused conv 3x3, few pictures, 8 shares", [] { return fused_case(1, 8, 8, 128, 16, 3, 1, false, false, 10); }},
        {"fused conv 3x3, few pictures, 48 channels", [] { return fused_case(1, 9, 7, 48, 48, 3, 1, false, false, 11); }},
        {"fused conv 3x3, few small pictures", [] { return fused_case(2, 4, 4, 512, 16, 3, 1, true, false, 15); }},
        {"fused conv 3x3, few small pictures, odd", [] { return fused_case(1, 3, 3, 128, 16, 3, 1, true, true, 15); }},
        {"fused conv 3x3, few small pictures, one block", [] { return fused_case(1, 3, 4, 64, 16, 3, 1, true, false, 14); }},
        {"fused conv 1x1, few pictures, stride 2", [] { return fused_case(1, 8, 8, 256, 32, 1, 2, false, false, 12); }},
        {"fused conv 3x3, the shape it chooses", [] { return fused_case(1, 16, 16, 64, 64, 3, 1, true, false, 0); }},
        {"wide conv 3x3, 2 images a block", [] { return wide_case(3, 8, 8, 64, 64, 3, 1, true, false, 152, "line"); }},
        {"wide conv 3x3, 3 blocks an image", [] { return wide_case(2, 16, 15, 32, 64, 3, 1, true, false, 96, "line"); }},
        {"wide conv 3x3, 2 blocks an image", [] { return wide_case(1, 16, 16, 96, 64, 3, 1, true, false, 136, "line"); }},
        {"wide conv 3x3, 2 images a block, pictures", [] { return wide_case(5, 4, 4, 96, 128, 3, 1, true, false, 48, "pictures"); }},
        {"wide conv 3x3, quarters", [] { return wide_case(3, 8, 7, 64, 64, 3, 1, true, false, 152, "quarters"); }},
        {"wide conv 3x3, 1 pixel an image", [] { return wide_case(13, 1, 1, 64, 64, 3, 1, true, false, 48, "line"); }},
        {"wide conv 3x3, stride 2", [] { return wide_case(3, 15, 16, 64, 64, 3, 2, false, false, 152, "line"); }},
        {"wide conv 3x3, stride 2, 2 blocks an image", [] { return wide_case(1, 20, 16, 96, 64, 3, 2, false, false, 48, "line"); }},
        {"wide conv 1x1, stride 2", [] { return wide_case(4, 16, 15, 96, 64, 1, 2, false, false, 96, "line"); }},
        {"wide conv 3x3, one half product", [] { return wide_case(3, 8, 8, 64, 64, 3, 1, true, true, 96, "line"); }},
        {"fused conv 3x3, one half product", [] { return fused_case(1, 8, 8, 32, 16, 3, 1, true, true, 0); }},
        {"loop D-Ma, d_state 16, 2 frames, 5 actions", [] { return loop_case(MAIL_D_MA, 16, 2, 5, 1, 2); }},
        {"loop D-Ma, d_state 16, 1 frame, 5 actions", [] { return loop_case(MAIL_D_MA, 16, 1, 5, 1, 2); }},
        {"loop D-Ma, d_state 8, 2 frames, 5 actions, 2 robots", [] { return loop_case(MAIL_D_MA, 8, 2, 5, 2, 3); }},
        {"loop D-Ma, d_state 8, 1 frame, 5 actions, 2 robots", [] { return loop_case(MAIL_D_MA, 8, 1, 5, 2, 3); }},
        {"loop D-Ma, d_state 8, 2 frames, 10 actions", [] { return loop_case(MAIL_D_MA, 8, 2, 10, 1, 1); }},
        {"loop D-Ma, d_state 16, 1 frame, 10 actions, 2 robots", [] { return loop_case(MAIL_D_MA, 16, 1, 10, 2, 3); }},
        {"loop D-Ma, d_state 16, 2 frames, 5 actions, 3 robots", [] { return loop_case(MAIL_D_MA, 16, 2, 5, 3, 4); }},
        {"loop D-Ma, d_state 16, 2 frames, 5 actions, 4 robots", [] { return loop_case(MAIL_D_MA, 16, 2, 5, 4, 2); }},
        {"loop D-Ma, d_state 8, 1 frame, 5 actions, 5 robots", [] { return loop_case(MAIL_D_MA, 8, 1, 5, 5, 6); }},
        {"loop D-Ma, d_state 16, 1 frame, 5 actions, 3 robots", [] { return loop_case(MAIL_D_MA, 16, 1, 5, 3, 4); }},
        {"loop D-Ma, d_state 16, 1 frame, 5 actions, 4 robots", [] { return loop_case(MAIL_D_MA, 16, 1, 5, 4, 4); }},
        {"loop ED-Ma, d_state 8, 1 frame, 5 actions", [] { return loop_case(MAIL_ED_MA, 8, 1, 5, 1, 1); }},
        {"loop ED-Ma, d_state 16, 2 frames, 10 actions", [] { return loop_case(MAIL_ED_MA, 16, 2, 10, 1, 2); }},
        {"loop ED-Ma, d_state 16, 2 frames, 10 actions, 2 robots", [] { return loop_case(MAIL_ED_MA, 16, 2, 10, 2, 2); }},
        {"ages D-Ma", [] { return ages_case(MAIL_D_MA, MAIL_DDPM); }},
        {"ages ED-Ma", [] { return ages_case(MAIL_ED_MA, MAIL_DDPM); }},
        {"ages D-Tr", [] { return ages_case(MAIL_D_TR, MAIL_DDPM); }},
        {"ages ED-Tr", [] { return ages_case(MAIL_ED_TR, MAIL_DDPM); }},
        {"ages ED-Ma BC", [] { return ages_case(MAIL_ED_MA, MAIL_BC); }},
        {"ages ED-Tr BC", [] { return ages_case(MAIL_ED_TR, MAIL_BC); }},
        {"session: noise, act, reset, no allocation", [] { return session_case(); }},
#ifdef MAIL_CUDA_ON_CPU
        {"session: what queues work fails", [] { return fault_case(); }},
#endif
        {"actions that are not finite", [] { return number_case(); }},
        {"what is refused; failing allocations; small GPUs", [] { return refuse_case(); }},
    };
    const std::vector<ct_case> twins = twin_cases();
    cases.insert(cases.end(), twins.begin(), twins.end());
    return ct_run("test_cuda", cases, argc > 1 ? argv[1] : NULL);
}
