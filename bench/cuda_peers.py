"""PyTorch peers of mail_cuda.cuh on the same machine (needs torch; a GPU, but for a dry run with --device cpu).

Same architecture and random weights as the workload: two ResNet-18/GroupNorm encoders,
16 Mamba layers, 16 DDPM steps.  Two algorithms: `full` re-runs every token at every step
(what the released code does) and `cached` runs the prefix once and five action tokens per
step (what mail.h does), so that the algorithm and the implementation can be told apart.
Each eager and as one CUDA graph; with --only-compile, through torch.compile and then as a graph.
Prints lines:  torch NAME, batch B: MEDIAN ms, p99 MS"""
import argparse
import copy
import math
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

DM, DI, DS, DC, R, NL, NS, T, NA = 128, 256, 16, 4, 8, 16, 16, 5, 7


class Block(nn.Module):
    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.GroupNorm(width // 16, width), nn.GroupNorm(width // 16, width)
        self.down = None
        if stride > 1:
            self.down = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.GroupNorm(width // 16, width))

    def forward(self, x):
        skip = x if self.down is None else self.down(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + skip)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.GroupNorm(4, 64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        width = 64
        for stage in range(4):
            layers.append(Block(width, 64 << stage, 1 if stage == 0 else 2))
            width = 64 << stage
            layers.append(Block(width, width, 1))
        self.body = nn.Sequential(*layers)
        self.kp, self.fc = nn.Conv2d(512, 32, 1), nn.Linear(64, 128)
        g = torch.linspace(-1, 1, 4)
        self.register_buffer("gx", g.repeat(4))
        self.register_buffer("gy", g.repeat_interleave(4))

    def forward(self, x):
        a = F.softmax(self.kp(self.body(x)).flatten(2), -1)
        return self.fc(torch.stack([(a * self.gx).sum(-1), (a * self.gy).sum(-1)], -1).flatten(1))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(DM)
        self.in_proj, self.out_proj = nn.Linear(DM, 2 * DI, bias=False), nn.Linear(DI, DM, bias=False)
        self.conv_w, self.conv_b = nn.Parameter(torch.randn(DI, DC) * 0.4), nn.Parameter(torch.randn(DI) * 0.1)
        self.x_proj, self.dt_proj = nn.Linear(DI, R + 2 * DS, bias=False), nn.Linear(R, DI)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, DS + 1).float()).repeat(DI, 1))
        self.D = nn.Parameter(torch.ones(DI))

    def forward(self, x, conv, h):                       # x (B,L,DM), conv (B,DI,DC-1), h (B,DI,DS)
        u, z = self.in_proj(self.norm(x)).chunk(2, -1)
        seq = torch.cat([conv, u.transpose(1, 2)], 2)    # (B,DI,DC-1+L)
        L = u.shape[1]
        u = F.silu(F.conv1d(seq, self.conv_w[:, None], self.conv_b, groups=DI)).transpose(1, 2)
        dt, Bm, C = self.x_proj(u).split([R, DS, DS], -1)
        dt = F.softplus(self.dt_proj(dt))
        dA = torch.exp(dt[..., None] * -torch.exp(self.A_log))
        dBu = (dt * u)[..., None] * Bm[:, :, None]
        ys = []
        for t in range(L):
            h = dA[:, t] * h + dBu[:, t]
            ys.append((h * C[:, t, None]).sum(-1))
        y = (torch.stack(ys, 1) + self.D * u) * F.silu(z)
        return self.out_proj(y), seq[:, :, L:], h


class Policy(nn.Module):
    def __init__(self, obs):
        super().__init__()
        self.obs = obs
        self.cam = nn.ModuleList([Encoder(), Encoder()])
        self.layers = nn.ModuleList([Layer() for _ in range(NL)])
        self.normf, self.tok = nn.LayerNorm(DM), nn.Linear(256, DM)
        self.act, self.head = nn.Linear(NA, DM), nn.Linear(DM, NA)
        self.time = nn.Sequential(nn.Linear(DM, 2 * DM), nn.Mish(), nn.Linear(2 * DM, DM))
        self.pos = nn.Parameter(torch.randn(1, obs + T - 1, DM) * 0.02)
        f = torch.exp(torch.arange(64) * -(math.log(10000) / 63))
        s = torch.arange(NS).float()[:, None] * f
        self.register_buffer("temb", torch.cat([s.sin(), s.cos()], -1))

    def mixer(self, x, st):
        res, out, new = None, x, []
        for l, (c, h) in zip(self.layers, st):
            res = out if res is None else out + res
            out, c, h = l(res, c, h)
            new.append((c, h))
        return self.normf(out + res), new

    def fresh(self, b, like):
        return [(like.new_zeros(b, DI, DC - 1), like.new_zeros(b, DI, DS)) for _ in range(NL)]

    def features(self, imgs):                            # (2,B,3,128,128): the newest frame of each camera
        return torch.cat([c(i) for c, i in zip(self.cam, imgs)], -1)

    def forward(self, imgs, past, x, noise, cached):
        b = x.shape[0]
        feat = torch.cat([past, self.features(imgs)[:, None]], 1)          # (B,obs,256)
        st = self.tok(feat) + self.pos[:, :self.obs]
        tt = self.time(self.temb)
        if cached:
            pre = torch.cat([tt[:, None, None].expand(NS, b, 1, DM), st[None].expand(NS, b, self.obs, DM)], 2)
            _, states = self.mixer(pre.reshape(NS * b, 1 + self.obs, DM), self.fresh(NS * b, pre))
        for s in reversed(range(NS)):
            a = self.act(x) + self.pos[:, self.obs - 1:]
            if cached:
                out, _ = self.mixer(a, [(c[s * b:(s + 1) * b], h[s * b:(s + 1) * b]) for c, h in states])
            else:
                seq = torch.cat([tt[s].expand(b, 1, DM), st, a], 1)
                out, _ = self.mixer(seq, self.fresh(b, seq))
            eps = self.head(out)[:, -T:]
            x0 = (1.05 * x - 0.3 * eps).clamp(-1, 1)     # the cost of the update, not its coefficients
            x = 0.5 * x0 + 0.5 * x + 0.1 * noise[s]
        return x


def timeit(fn, n=60, budget=1.5):
    """Milliseconds on the device: median and 99th percentile."""
    for _ in range(3):
        fn()
    torch.cuda.synchronize()
    v, t0 = [], time.time()
    while len(v) < 5 or (len(v) < n and time.time() - t0 < budget):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        fn()
        b.record()
        b.synchronize()
        v.append(a.elapsed_time(b))
    v.sort()
    return statistics.median(v), v[min(len(v) - 1, int(0.99 * len(v)))]


def as_graph(run):
    s = torch.cuda.Stream()
    s.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(s):
        run()
        run()
    torch.cuda.current_stream().wait_stream(s)
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g):
        run()
    return g.replay


def report(name, batch, make, t_end):
    """Time what make() gives; a peer that fails or does not fit says so and the others go on."""
    if time.time() > t_end:
        print(f"# torch {name}, batch {batch}: skipped, out of time", flush=True)
        return
    try:
        median, p99 = timeit(make())
        print(f"torch {name}, batch {batch}: {median:.3f} ms, p99 {p99:.3f}", flush=True)
    except Exception as e:  # noqa: BLE001
        print(f"# torch {name}, batch {batch}: failed: {str(e).splitlines()[0][:200] if str(e) else type(e).__name__}", flush=True)


@torch.no_grad()
def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--batches", default="1,32,64")
    ap.add_argument("--obs", type=int, default=1)
    ap.add_argument("--only-compile", action="store_true")
    ap.add_argument("--budget", type=float, default=150, help="seconds; no new measurement is begun after them")
    ap.add_argument("--device", default="cuda")
    o = ap.parse_args()
    t_end = time.time() + o.budget
    print(f"# torch {torch.__version__}")
    torch.manual_seed(0)
    net = Policy(o.obs).to(o.device).eval()
    net16 = copy.deepcopy(net).bfloat16()

    def inputs(b):
        d = o.device
        return (torch.randn(2, b, 3, 128, 128, device=d), torch.randn(b, o.obs - 1, 256, device=d),
                torch.randn(b, T, NA, device=d), torch.randn(NS, b, T, NA, device=d))

    def precision(tf32):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32

    batches = [int(b) for b in o.batches.split(",")]
    given = {b: inputs(b) for b in batches}
    for b in batches if not o.only_compile else []:
        precision(False)
        apart = (net(*given[b], True) - net(*given[b], False)).abs().max().item()
        print(f"# batch {b}: cached and full agree to {apart:.1e}", flush=True)
        if o.device == "cpu":
            continue
        for kind, tf32, half in (("fp32", False, False), ("tf32", True, False), ("bf16", True, True)):
            precision(tf32)
            values = [v.bfloat16() if half else v for v in given[b]]
            model = net16 if half else net
            for cached in (True, False):
                def run():
                    return model(*values, cached)
                name = f"{kind} {'cached' if cached else 'full'}"
                report(f"{name} graph", b, lambda: as_graph(run), t_end)
                report(f"{name} eager", b, lambda: run, t_end)
    if o.only_compile:
        precision(True)
        mixer, features = net.mixer, net.features
        expected = {b: net(*given[b], True) for b in batches} if o.device == "cpu" else {}
        net.mixer, net.features = torch.compile(mixer, dynamic=False), torch.compile(features, dynamic=False)
        for b in batches:
            t0 = time.time()
            if o.device == "cpu":  # a dry run
                print(f"# batch {b}: compiled and eager agree to {(net(*given[b], True) - expected[b]).abs().max().item():.1e}", flush=True)
                continue

            def run():
                return net(*given[b], True)
            report("tf32 cached compile+graph", b, lambda: as_graph(run), t_end)
            report("tf32 cached compile", b, lambda: run, t_end)
            print(f"# compiling and timing took {time.time() - t0:.0f} s", flush=True)
        net.mixer, net.features = mixer, features


main()
