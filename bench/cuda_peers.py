"""PyTorch peers of mail_cuda.cuh on the same machine (needs CUDA, torch, torchvision).

Same architecture and random weights as the workload: two ResNet-18/GroupNorm encoders,
16 Mamba layers, 16 DDPM steps.  Two algorithms: `full` re-runs every token at every step
(what the released code does) and `cached` runs the prefix once and five action tokens per
step (what mail.h does), so that the algorithm and the implementation can be told apart.
Prints: name, batch, median ms, p99 ms."""
import argparse, copy, math, statistics, time
import torch, torch.nn as nn, torch.nn.functional as F
import torchvision

DM, DI, DS, DC, R, NL, NS, T, NA = 128, 256, 16, 4, 8, 16, 16, 5, 7
dev = "cuda"


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        net = torchvision.models.resnet18(weights=None, norm_layer=lambda c: nn.GroupNorm(c // 16, c))
        self.body = nn.Sequential(*list(net.children())[:-2])
        self.kp, self.fc = nn.Conv2d(512, 32, 1), nn.Linear(64, 128)
        g = torch.linspace(-1, 1, 4)
        self.register_buffer("gx", g.repeat(4)); self.register_buffer("gy", g.repeat_interleave(4))

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
        self.A_log = nn.Parameter(torch.log(torch.arange(1, DS + 1).float()).repeat(DI, 1)); self.D = nn.Parameter(torch.ones(DI))

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
        self.normf, self.tok, self.act, self.head = nn.LayerNorm(DM), nn.Linear(256, DM), nn.Linear(NA, DM), nn.Linear(DM, NA)
        self.time = nn.Sequential(nn.Linear(DM, 2 * DM), nn.Mish(), nn.Linear(2 * DM, DM))
        self.pos = nn.Parameter(torch.randn(1, obs + T - 1, DM) * 0.02)
        f = torch.exp(torch.arange(64) * -(math.log(10000) / 63)); s = torch.arange(NS).float()[:, None] * f
        self.register_buffer("temb", torch.cat([s.sin(), s.cos()], -1))

    def mixer(self, x, st):
        res, out = None, x
        new = []
        for l, (c, h) in zip(self.layers, st):
            res = out if res is None else out + res
            out, c, h = l(res, c, h)
            new.append((c, h))
        return self.normf(out + res), new

    def fresh(self, b, dt):
        return [(torch.zeros(b, DI, DC - 1, device=dev, dtype=dt), torch.zeros(b, DI, DS, device=dev, dtype=dt)) for _ in range(NL)]

    def features(self, imgs):                            # (2,B,3,128,128): the newest frame of each camera
        return torch.cat([c(i) for c, i in zip(self.cam, imgs)], -1)

    def forward(self, imgs, past, x, noise, cached):
        b = x.shape[0]
        feat = torch.cat([past, self.features(imgs)[:, None]], 1)          # (B,obs,256)
        st = self.tok(feat) + self.pos[:, :self.obs]
        tt = self.time(self.temb)
        if cached:
            pre = torch.cat([tt[:, None, None].expand(NS, b, 1, DM), st[None].expand(NS, b, self.obs, DM)], 2).reshape(NS * b, 1 + self.obs, DM)
            _, states = self.mixer(pre, self.fresh(NS * b, pre.dtype))
        for s in reversed(range(NS)):
            a = self.act(x) + self.pos[:, self.obs - 1:]
            if cached:
                out, _ = self.mixer(a, [(c[s * b:(s + 1) * b], h[s * b:(s + 1) * b]) for c, h in states])
            else:
                seq = torch.cat([tt[s].expand(b, 1, DM), st, a], 1)
                out, _ = self.mixer(seq, self.fresh(b, seq.dtype))
            eps = self.head(out)[:, -T:]
            x0 = (1.05 * x - 0.3 * eps).clamp(-1, 1)
            x = 0.5 * x0 + 0.5 * x + 0.1 * noise[s]
        return x


def timeit(fn, n=60, budget=6.0):
    for _ in range(5): fn()
    torch.cuda.synchronize()
    v, t0 = [], time.time()
    while len(v) < n and time.time() - t0 < budget:
        a, b = torch.cuda.Event(True), torch.cuda.Event(True)
        a.record(); fn(); b.record(); b.synchronize(); v.append(a.elapsed_time(b))
    v.sort()
    return statistics.median(v), v[min(len(v) - 1, int(0.99 * len(v)))]


@torch.no_grad()
def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--batches", default="1,32,64"); ap.add_argument("--obs", type=int, default=1)
    ap.add_argument("--compile", action="store_true"); ap.add_argument("--budget", type=float, default=150)
    o = ap.parse_args(); t_end = time.time() + o.budget
    torch.manual_seed(0)
    net = Policy(o.obs).to(dev).eval()
    net16 = copy.deepcopy(net).bfloat16()
    for b in map(int, o.batches.split(",")):
        imgs = torch.randn(2, b, 3, 128, 128, device=dev); past = torch.randn(b, o.obs - 1, 256, device=dev)
        x, noise = torch.randn(b, T, NA, device=dev), torch.randn(NS, b, T, NA, device=dev)
        d = (net(imgs, past, x, noise, True) - net(imgs, past, x, noise, False)).abs().max().item()
        print(f"# batch {b}: cached and full agree to {d:.1e}")
        for tf32, half in ((False, False), (True, False), (True, True)):
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            kind = "bf16" if half else "tf32" if tf32 else "fp32"
            for cached in (False, True):
                m16 = [v.bfloat16() if half else v for v in (imgs, past, x, noise)]; model = net16 if half else net
                run = lambda: model(*m16, cached)
                name = f"torch {kind} {'cached' if cached else 'full'}"
                if time.time() > t_end: print(f"{name}: skipped, out of time"); continue
                m, p = timeit(run, 20); print(f"{name} eager, batch {b}: {m:.3f} ms, p99 {p:.3f}", flush=True)
                s = torch.cuda.Stream(); s.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(s): run(); run()
                torch.cuda.current_stream().wait_stream(s)
                g = torch.cuda.CUDAGraph()
                with torch.cuda.graph(g): run()
                m, p = timeit(g.replay); print(f"{name} graph, batch {b}: {m:.3f} ms, p99 {p:.3f}", flush=True)
        if o.compile and time.time() < t_end:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            step = torch.compile(net.mixer, mode="default"); keep = net.mixer; net.mixer = step
            feats = torch.compile(net.features, mode="default"); keepf = net.features; net.features = feats
            run = lambda: net(imgs, past, x, noise, True)
            t0 = time.time(); run(); run(); torch.cuda.synchronize(); print(f"# compile took {time.time() - t0:.0f} s")
            g = torch.cuda.CUDAGraph()
            with torch.cuda.graph(g): run()
            m, p = timeit(g.replay); print(f"torch tf32 cached compile+graph, batch {b}: {m:.3f} ms, p99 {p:.3f}", flush=True)
            net.mixer, net.features = keep, keepf


main()
