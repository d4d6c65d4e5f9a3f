"""Independent PyTorch reference for MaIL policies (arXiv 2406.08234), inference only.

Covers the eight heads  {d_ma, ed_ma, d_tr, ed_tr} x {ddpm, bc}, each with or without a
language token, plus the two-camera ResNet-18 encoder, the DDPM sampler, the action scaler
and the receding-horizon rollout loop.  Parameter and buffer names (and their order) equal
those in checkpoints written by the official repository, so `Policy(cfg).state_dict()` is
interchangeable with an official `last_ddpm.pth` / `last_bc.pth`.

Works with torch >= 1.10 on CPU, in float32 or (after `.double()`) in float64.
"""
import json
import math
import struct
from collections import OrderedDict, deque
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CLIP_DIM = 512
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


# --------------------------------------------------------------------------- configuration
@dataclass
class Config:
    arch: str = "d_ma"             # d_ma | ed_ma | d_tr | ed_tr
    algo: str = "ddpm"             # ddpm | bc
    lang: bool = False             # prepend a 512-d language embedding as one extra token
    obs_seq: int = 1               # maximum number of frames in the history
    act_seq: int = 10              # predicted chunk length
    action_dim: int = 7
    state_dim: int = 256           # concatenated camera features
    d_model: int = 128
    lang_dim: int = CLIP_DIM
    # Mamba trunks
    n_layers: int = 16             # d_ma and d_tr
    d_state: int = 16
    d_conv: int = 4
    enc_layers: int = 10           # ed_ma and ed_tr
    dec_layers: int = 6
    enc_state: int = 16
    dec_state: int = 16
    enc_conv: int = 4
    dec_conv: int = 2
    expand: int = 2
    # transformer trunks
    n_heads: int = 4
    # vision: camera name -> (H, W); empty means "features are given"
    cameras: dict = field(default_factory=lambda: {"agentview_rgb": (128, 128), "eye_in_hand_rgb": (128, 128)})
    feat_dim: int = 128
    res_width: int = 64            # ResNet widths are w, 2w, 4w, 8w; a multiple of 16
    # diffusion
    n_timesteps: int = 16
    schedule: str = "cosine"       # cosine | linear | vp
    clip_denoised: bool = True
    predict_epsilon: bool = True
    diffusion_x: int = 0           # extra denoising calls at t = 0

    @property
    def window(self):
        return self.obs_seq + self.act_seq - 1

    @property
    def max_states(self):
        return self.obs_seq + int(self.lang)

    @property
    def pos_rows(self):
        return self.max_states - 1 + self.act_seq

    @property
    def mask_size(self):
        """Side of the causal-mask buffers stored by the official configs."""
        if self.lang:
            return self.window + 5
        if self.algo == "bc":
            return self.window + 3
        return self.window + (2 if self.arch == "d_tr" else 1)

    def to_json(self):
        d = asdict(self)
        d["cameras"] = {k: list(v) for k, v in self.cameras.items()}
        return d

    @staticmethod
    def from_json(d):
        d = dict(d)
        d["cameras"] = {k: tuple(v) for k, v in d.get("cameras", {}).items()}
        return Config(**d)


# --------------------------------------------------------------------------- vision encoder
def _gn(channels):
    return nn.GroupNorm(channels // 16, channels)      # 16 channels per group, eps 1e-5


class ResBlock(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = _gn(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = _gn(cout)
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), _gn(cout))

    def forward(self, x):
        skip = self.downsample(x) if hasattr(self, "downsample") else x
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + skip)


class Backbone(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        stem = [nn.Conv2d(3, width, 7, 2, 3, bias=False), _gn(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        stages = [nn.Sequential(ResBlock(widths[i], widths[i + 1], 1 if i == 0 else 2),
                                ResBlock(widths[i + 1], widths[i + 1], 1)) for i in range(4)]
        self.nets = nn.Sequential(*stem, *stages)

    def forward(self, x):
        return self.nets(x)


class KeypointPool(nn.Module):
    """1x1 conv to 32 maps, softmax over pixels, expected (x, y) per map."""

    def __init__(self, h, w, keypoints=32, channels=512):
        super().__init__()
        self.nets = nn.Conv2d(channels, keypoints, 1)
        self.register_buffer("temperature", torch.ones(1))
        gx = torch.from_numpy(np.linspace(-1.0, 1.0, w)).float()
        gy = torch.from_numpy(np.linspace(-1.0, 1.0, h)).float()
        self.register_buffer("pos_x", gx.repeat(h).reshape(1, -1))
        self.register_buffer("pos_y", gy.repeat_interleave(w).reshape(1, -1))

    def forward(self, f):
        logits = self.nets(f).flatten(2)                       # [B, K, H*W], row-major
        p = torch.softmax(logits / self.temperature, dim=-1)
        return torch.stack([(p * self.pos_x).sum(-1), (p * self.pos_y).sum(-1)], dim=-1)   # [B, K, 2]


class CameraNet(nn.Module):
    """Backbone + pool + linear.  The same modules are registered twice (backbone/pool and nets.*),
    because that is how the checkpoints look."""

    def __init__(self, h, w, out, res_width=64):
        super().__init__()
        self.backbone = Backbone(res_width)
        self.pool = KeypointPool(-(-h // 32), -(-w // 32), channels=8 * res_width)
        self.nets = nn.Sequential(self.backbone, self.pool, nn.Flatten(), nn.Linear(64, out))

    def forward(self, img):
        return self.nets(img)


class VisionEncoder(nn.Module):
    def __init__(self, cameras, feat, res_width=64):
        super().__init__()
        self._dummy_variable = nn.Parameter(torch.empty(0))
        self.key_model_map = nn.ModuleDict({k: CameraNet(*hw, feat, res_width) for k, hw in cameras.items()})

    @staticmethod
    def normalise(images_u8, dtype=torch.float32):
        """uint8 [..., H, W, 3] -> normalised [..., 3, H, W]."""
        x = images_u8.to(dtype).movedim(-1, -3) / 255.0
        mean = torch.tensor(IMAGENET_MEAN, dtype=dtype).reshape(3, 1, 1)
        std = torch.tensor(IMAGENET_STD, dtype=dtype).reshape(3, 1, 1)
        return (x - mean) / std

    def camera(self, name, images_u8):
        """[B, T, H, W, 3] uint8 -> (features [B, T, feat], keypoints [B, T, 32, 2])"""
        b, t = images_u8.shape[:2]
        net = self.key_model_map[name]
        x = self.normalise(images_u8.flatten(0, 1), net.nets[3].weight.dtype)
        kp = net.pool(net.backbone(x))
        return net.nets[3](kp.flatten(1)).reshape(b, t, -1), kp.reshape(b, t, *kp.shape[1:])

    def forward(self, images):
        """images: dict name -> uint8 [B, T, H, W, 3]; features are joined in sorted name order"""
        return torch.cat([self.camera(k, images[k])[0] for k in sorted(self.key_model_map.keys())], dim=-1)


# --------------------------------------------------------------------------- Mamba trunk
class Mixer(nn.Module):
    def __init__(self, d, n, k, expand):
        super().__init__()
        e, r = expand * d, math.ceil(d / 16)
        self.d_inner, self.d_state, self.dt_rank = e, n, r
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, n + 1)).repeat(e, 1))
        self.D = nn.Parameter(torch.ones(e))
        self.in_proj = nn.Linear(d, 2 * e, bias=False)
        self.conv1d = nn.Conv1d(e, e, k, groups=e)            # padding done by hand below
        self.x_proj = nn.Linear(e, r + 2 * n, bias=False)
        self.dt_proj = nn.Linear(r, e)
        self.out_proj = nn.Linear(e, d, bias=False)

    def forward(self, u):
        x, z = self.in_proj(u).chunk(2, dim=-1)               # [B, L, E] each; x first, gate second
        k = self.conv1d.weight.shape[-1]
        padded = F.pad(x, (0, 0, k - 1, 0))                   # zeros before the first token: causal
        taps = self.conv1d.weight[:, 0, :]                    # tap k-1 multiplies the current token
        x = sum(padded[:, j:j + x.shape[1]] * taps[:, j] for j in range(k)) + self.conv1d.bias
        x = F.silu(x)
        dt, bm, cm = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt = F.softplus(self.dt_proj(dt))                     # [B, L, E]
        a = -torch.exp(self.A_log)                            # [E, N]
        h = x.new_zeros(x.shape[0], self.d_inner, self.d_state)
        ys = []
        for i in range(x.shape[1]):
            decay = torch.exp(dt[:, i, :, None] * a)
            h = decay * h + (dt[:, i] * x[:, i])[:, :, None] * bm[:, i, None, :]
            ys.append((h * cm[:, i, None, :]).sum(-1))
        y = torch.stack(ys, dim=1) + self.D * x
        return self.out_proj(y * F.silu(z))


class MambaLayer(nn.Module):
    def __init__(self, d, n, k, expand):
        super().__init__()
        self.mixer = Mixer(d, n, k, expand)
        self.norm = nn.LayerNorm(d)


class MambaTrunk(nn.Module):
    def __init__(self, d, layers, n, k, expand=2):
        super().__init__()
        self.layers = nn.ModuleList(MambaLayer(d, n, k, expand) for _ in range(layers))
        self.norm_f = nn.LayerNorm(d)

    def forward(self, x, cond=None):
        for layer in self.layers:                             # x is the residual stream
            y = layer.mixer(layer.norm(x))
            if cond is not None:
                y = y + cond
            x = x + y
        return self.norm_f(x)


# --------------------------------------------------------------------------- transformer trunk
class Scale(nn.Module):
    """LayerNorm with a gain and no bias."""

    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Attention(nn.Module):
    def __init__(self, d, heads, block, cross):
        super().__init__()
        self.heads = heads
        self.key, self.query, self.value = (nn.Linear(d, d) for _ in range(3))
        if cross:
            self.cross_key, self.cross_query, self.cross_value = (nn.Linear(d, d) for _ in range(3))
        self.proj = nn.Linear(d, d)
        self.register_buffer("mask", torch.ones(block, block).tril()[None, None])

    def _heads(self, x):
        b, t, d = x.shape
        return x.reshape(b, t, self.heads, d // self.heads).transpose(1, 2)

    def _attend(self, q, k, v, causal):
        q, k, v = self._heads(q), self._heads(k), self._heads(v)
        s = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if causal:
            n = q.shape[2]
            s = s.masked_fill(self.mask[:, :, :n, :n] == 0, float("-inf"))
        return (torch.softmax(s, dim=-1) @ v).transpose(1, 2).flatten(2)

    def forward(self, x, mem=None):
        y = self._attend(self.query(x), self.key(x), self.value(x), causal=True)
        if mem is not None:                                   # same x feeds both; one shared projection
            y = y + self._attend(self.cross_query(x), self.cross_key(mem), self.cross_value(mem), causal=False)
        return self.proj(y)


class TrBlock(nn.Module):
    def __init__(self, d, heads, block, cross):
        super().__init__()
        self.ln1, self.ln2 = Scale(d), Scale(d)
        self.attn = Attention(d, heads, block, cross)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x, mem=None):
        x = x + self.attn(self.ln1(x), mem)
        return x + self.mlp(self.ln2(x))


class TrTrunk(nn.Module):
    def __init__(self, d, layers, heads, block, cross=False):
        super().__init__()
        self.blocks = nn.Sequential(*[TrBlock(d, heads, block, cross) for _ in range(layers)])
        self.ln = Scale(d)

    def forward(self, x, mem=None):
        for b in self.blocks:
            x = b(x, mem)
        return self.ln(x)


# --------------------------------------------------------------------------- policy heads
class TimeCode(nn.Module):
    """[..., 1] step index -> [..., 1, d] sine/cosine code."""

    def __init__(self, d):
        super().__init__()
        self.d = d

    def forward(self, t):
        half = self.d // 2
        dtype = t.dtype if t.is_floating_point() else torch.float32
        freq = torch.exp(torch.arange(half, dtype=dtype) * -(math.log(10000.0) / (half - 1)))
        arg = t[..., None].to(dtype) * freq
        return torch.cat([torch.sin(arg), torch.cos(arg)], dim=-1)


class Head(nn.Module):
    """Everything between camera features and (predicted noise | normalised actions)."""

    def __init__(self, c: Config):
        super().__init__()
        self.cfg = c
        d, ddpm, ma = c.d_model, c.algo == "ddpm", c.arch.endswith("ma")
        # trunks: attribute names follow the checkpoints
        if c.arch == "d_ma":
            trunk = MambaTrunk(d, c.n_layers, c.d_state, c.d_conv, c.expand)
            if ddpm:
                self.mamba = trunk
            else:
                self.encoder = trunk
        elif c.arch == "d_tr":
            self.encoder = TrTrunk(d, c.n_layers, c.n_heads, c.mask_size)
        elif c.arch == "ed_ma":
            self.encoder = MambaTrunk(d, c.enc_layers, c.enc_state, c.enc_conv, c.expand)
            dec = MambaTrunk(d, c.dec_layers, c.dec_state, c.dec_conv, c.expand)
            if ddpm:
                self.mamba = dec
            else:
                self.decoder = dec
        elif c.arch == "ed_tr":
            self.encoder = TrTrunk(d, c.enc_layers, c.n_heads, c.mask_size)
            self.decoder = TrTrunk(d, c.dec_layers, c.n_heads, c.mask_size, cross=True)
        else:
            raise ValueError(c.arch)
        self.tok_emb = nn.Linear(c.state_dim, d)
        self.pos_emb = nn.Parameter(torch.zeros(1, c.pos_rows, d))
        if ddpm:
            if c.arch == "ed_ma":
                self.state_tokens = nn.Embedding(c.max_states + 1, d)   # row 0 sits under the time token
                self.act_tokens = nn.Embedding(c.act_seq, d)
            self.time_emb = nn.Sequential(TimeCode(d), nn.Linear(d, 2 * d), nn.Mish(), nn.Linear(2 * d, d))
            self.action_emb = nn.Linear(c.action_dim, d)
        elif c.arch in ("d_ma", "d_tr"):
            self.query_embed = nn.Embedding(c.act_seq, d)
        else:
            self.action_token = nn.Embedding(c.act_seq, d)
            if ma:
                self.action_noise_token = nn.Embedding(c.act_seq, d)
                self.state_token = nn.Embedding(c.max_states, d)
        self.action_pred = nn.Linear(d, c.action_dim)

    def _rows(self, table, n, batch):
        return table.weight[:n].expand(batch, -1, -1)

    def forward(self, obs, x=None, step=None):
        """obs [B, t, state_dim] (language token first, if any).
        ddpm: x [B, A, action_dim], step [B] integer -> predicted noise.   bc: -> normalised actions."""
        c, (b, t, _) = self.cfg, obs.shape
        a = c.act_seq
        s = self.tok_emb(obs) + self.pos_emb[:, :t]
        if c.algo == "ddpm":
            time = self.time_emb(step.to(s.dtype)[:, None])                    # [B, 1, d]
            act = self.action_emb(x) + self.pos_emb[:, t - 1:t - 1 + a]        # last state and first action share a row
            if c.arch == "ed_tr":
                y = self.decoder(act, self.encoder(torch.cat([time, s], 1)))
            elif c.arch == "ed_ma":
                cond = self.encoder(torch.cat([time, s, self._rows(self.act_tokens, a, b)], 1))
                y = self.mamba(torch.cat([self._rows(self.state_tokens, t + 1, b), act], 1), cond)
            else:
                trunk = self.mamba if c.arch == "d_ma" else self.encoder
                y = trunk(torch.cat([time, s, act], 1))
        else:
            if c.arch == "ed_tr":
                y = self.decoder(self._rows(self.action_token, a, b), self.encoder(s))
            elif c.arch == "ed_ma":
                cond = self.encoder(torch.cat([s, self._rows(self.action_token, a, b)], 1))
                y = self.decoder(torch.cat([self._rows(self.state_token, t, b),
                                            self._rows(self.action_noise_token, a, b)], 1), cond)
            else:
                y = self.encoder(torch.cat([s, self._rows(self.query_embed, a, b)], 1))
        return self.action_pred(y[:, -a:])


class _Wrap(nn.Module):
    """Adds one `model.` level, as in diffusion checkpoints."""

    def __init__(self, head):
        super().__init__()
        self.model = head


class Policy(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        if cfg.cameras:
            self.obs_encoder = VisionEncoder(cfg.cameras, cfg.feat_dim, cfg.res_width)
            assert cfg.state_dim == cfg.feat_dim * len(cfg.cameras)
        head = Head(cfg)
        self.model = _Wrap(head) if cfg.algo == "ddpm" else head
        if cfg.lang:
            self.linear = nn.Linear(cfg.lang_dim, cfg.state_dim)
        self.eval()

    @property
    def head(self):
        return self.model.model if self.cfg.algo == "ddpm" else self.model

    def observe(self, images=None, features=None, lang=None):
        """-> obs tokens [B, (1 +) T, state_dim]"""
        obs = self.obs_encoder(images) if features is None else features
        if self.cfg.lang:
            obs = torch.cat([self.linear(lang)[:, None], obs], dim=1)
        return obs


# --------------------------------------------------------------------------- diffusion
def beta_table(kind, steps):
    """float64 betas, before the cast to float32."""
    if kind == "cosine":
        n = steps + 1
        # note: n points spread over [0, n], so the spacing is n/steps and the last point is exactly n
        u = np.linspace(0, n, n)
        f = np.cos((u / n + 0.008) / 1.008 * np.pi * 0.5) ** 2
        f = f / f[0]
        return np.clip(1.0 - f[1:] / f[:-1], 0.0, 0.999)
    if kind == "linear":
        return np.linspace(1e-4, 2e-2, steps)
    if kind == "vp":
        j = np.arange(1, steps + 1)
        return 1.0 - np.exp(-0.1 / steps - 0.5 * 9.9 * (2 * j - 1) / steps ** 2)
    raise ValueError(kind)


class Schedule:
    """All tables are built in float32 like the official code; `dtype` only widens them afterwards."""

    def __init__(self, kind, steps, dtype=torch.float32):
        beta = torch.tensor(beta_table(kind, steps), dtype=torch.float32)
        alpha = 1.0 - beta
        bar = torch.cumprod(alpha, 0)
        prev = torch.cat([torch.ones(1), bar[:-1]])
        var = beta * (1.0 - prev) / (1.0 - bar)
        self.steps = steps
        self.tables = OrderedDict(
            beta=beta, alpha=alpha, alpha_bar=bar, alpha_bar_prev=prev,
            recip=torch.sqrt(1.0 / bar), recipm1=torch.sqrt(1.0 / bar - 1.0),
            coef1=beta * torch.sqrt(prev) / (1.0 - bar),
            coef2=(1.0 - prev) * torch.sqrt(alpha) / (1.0 - bar),
            var=var, logvar=torch.log(var.clamp(min=1e-20)))
        self.tables["sigma"] = (0.5 * self.tables["logvar"]).double().exp().float()
        for k, v in self.tables.items():
            setattr(self, k, v.to(dtype))

    def order(self, extra=0):
        """Step indices in the order in which the denoiser is called."""
        return list(range(self.steps - 1, -1, -1)) + [0] * extra


def sample(policy, obs, x_start, noises, lo, hi):
    """DDPM sampling with all randomness supplied.

    noises[s] belongs to the s-th denoiser call (entries for step 0 are drawn but have no effect).
    Returns (actions, trace) where trace has eps, x0 (after clipping) and x for every call.
    """
    c, dtype = policy.cfg, x_start.dtype
    sch = Schedule(c.schedule, c.n_timesteps, dtype)
    lo, hi = lo.to(torch.float32).to(dtype), hi.to(torch.float32).to(dtype)
    x, trace = x_start, {"eps": [], "x0": [], "x": []}
    for s, i in enumerate(sch.order(c.diffusion_x)):
        eps = policy.head(obs, x, torch.full((x.shape[0],), i))
        x0 = sch.recip[i] * x - sch.recipm1[i] * eps if c.predict_epsilon else eps
        if c.clip_denoised:
            x0 = torch.minimum(torch.maximum(x0, lo), hi)
        x = sch.coef1[i] * x0 + sch.coef2[i] * x
        if i > 0:
            x = x + sch.sigma[i] * noises[s]
        for k, v in (("eps", eps), ("x0", x0), ("x", x)):
            trace[k].append(v)
    return torch.minimum(torch.maximum(x, lo), hi), {k: torch.stack(v) for k, v in trace.items()}


class Scaler:
    """Per-dimension standardisation of actions; also gives the clipping box of the sampler."""

    def __init__(self, mean, std, lo, hi, enabled=True):
        self.mean, self.std, self.min, self.max = (np.asarray(v, np.float32) for v in (mean, std, lo, hi))
        self.enabled = enabled

    @staticmethod
    def fit(actions, enabled=True):
        a = np.asarray(actions, np.float32)
        return Scaler(a.mean(0), a.std(0), a.min(0), a.max(0), enabled)

    def bounds(self):
        """float64 [2, D]"""
        if not self.enabled:
            return np.stack([self.min, self.max]).astype(np.float64)
        return np.stack([(v - self.mean) / (self.std.astype(np.float64) + 1e-12) for v in (self.min, self.max)])

    def scale(self, a):
        if not self.enabled:
            return a
        return (a - torch.from_numpy(self.mean)) / (torch.from_numpy(self.std) + 1e-12)

    def unscale(self, a):
        if not self.enabled:
            return a
        mean, std = torch.from_numpy(self.mean).to(a.dtype), torch.from_numpy(self.std).to(a.dtype)
        return a * (std + 1e-12) + mean


def predict(policy, scaler, images=None, features=None, lang=None, x_start=None, noises=None):
    """One full inference. Returns dict with obs, (eps, x0, x,) action_norm, action."""
    with torch.no_grad():
        obs = policy.observe(images, features, lang)
        out = {"obs": obs}
        if policy.cfg.algo == "ddpm":
            lo, hi = (torch.from_numpy(v) for v in scaler.bounds())
            act, trace = sample(policy, obs, x_start, noises, lo, hi)
            out.update(trace)
        else:
            act = policy.head(obs)
        out["action_norm"] = act
        out["action"] = scaler.unscale(act)
    return out


class Rollout:
    """Receding-horizon execution: a frame is pushed every step, the network runs every `chunk` steps.
    The history is never padded: right after reset() the network sees fewer than obs_seq frames."""

    def __init__(self, policy, scaler, chunk=None):
        self.policy, self.scaler = policy, scaler
        self.chunk = chunk or policy.cfg.act_seq
        self.reset()

    def reset(self):
        self.frames = deque(maxlen=self.policy.cfg.obs_seq)
        self.used = self.chunk
        self.plan = None

    def step(self, frame, lang=None, noise_source=None):
        """frame: dict of uint8 [H, W, 3], or a feature vector [state_dim].
        noise_source() -> (x_start, noises), called only when the network runs."""
        self.frames.append(frame)
        if self.used == self.chunk:
            self.used = 0
            kw = {}
            if isinstance(frame, dict):
                kw["images"] = {k: torch.stack([f[k] for f in self.frames])[None] for k in frame}
            else:
                kw["features"] = torch.stack(list(self.frames))[None]
            if self.policy.cfg.algo == "ddpm":
                kw["x_start"], kw["noises"] = noise_source()
            self.plan = predict(self.policy, self.scaler, lang=lang, **kw)["action"]
        self.used += 1
        return self.plan[:, self.used - 1]


# --------------------------------------------------------------------------- checkpoint files
_ST = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8",
       torch.int32: "I32", torch.int64: "I64", torch.bool: "BOOL"}


def drop_aliases(sd):
    """Remove keys that share storage with an earlier key. -> (unique dict, {dropped: kept})"""
    seen, keep, alias = {}, OrderedDict(), {}
    for k, v in sd.items():
        tag = (v.data_ptr(), tuple(v.shape), v.dtype)
        if v.numel() and tag in seen:
            alias[k] = seen[tag]
        else:
            seen[tag] = k
            keep[k] = v
    return keep, alias


def save_safetensors(path, tensors, metadata=None):
    """8-byte little-endian header length, JSON header (padded with spaces to 8), raw little-endian data."""
    header, blobs, at = OrderedDict(), [], 0
    if metadata:
        header["__metadata__"] = {k: str(v) for k, v in metadata.items()}
    for k, v in tensors.items():
        raw = v.detach().cpu().contiguous()
        raw = (raw.view(torch.int16) if v.dtype == torch.bfloat16 else raw).numpy().tobytes()
        header[k] = {"dtype": _ST[v.dtype], "shape": list(v.shape), "data_offsets": [at, at + len(raw)]}
        blobs.append(raw)
        at += len(raw)
    js = json.dumps(header, separators=(",", ":")).encode()
    js += b" " * (-len(js) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(js)))
        f.write(js)
        for raw in blobs:
            f.write(raw)


def load_safetensors(path):
    inv = {v: k for k, v in _ST.items()}
    with open(path, "rb") as f:
        n, = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(n))
        body = f.read()
    meta = header.pop("__metadata__", {})
    out = OrderedDict()
    for k, d in header.items():
        lo, hi = d["data_offsets"]
        dt = inv[d["dtype"]]
        t = torch.frombuffer(bytearray(body[lo:hi]), dtype=dt) if hi > lo else torch.empty(0, dtype=dt)
        out[k] = t.reshape(d["shape"])
    return out, meta


STORAGE = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}


@torch.no_grad()
def stored(policy, storage):
    """The state_dict as it will lie in a file, aliases kept, and the policy rounded to the very same numbers.
    storage: a key of STORAGE, or "mixed", which walks through the four types from tensor to tensor."""
    out, seen, kinds = OrderedDict(), {}, list(STORAGE.values())
    for k, v in policy.state_dict().items():
        tag = (v.data_ptr(), tuple(v.shape))
        if v.numel() == 0 or tag not in seen:
            dtype = kinds[len(seen) % len(kinds)] if storage == "mixed" else STORAGE[storage]
            seen[tag] = v if dtype == v.dtype else v.to(dtype)
            v.copy_(seen[tag])
        out[k] = seen[tag]
    return out


def save_checkpoint(policy, stem, metadata=None):
    """Write stem.pth (torch.save of the state_dict, aliases share storage) and stem.safetensors
    (each tensor once; `__metadata__` maps every dropped key to the kept one)."""
    sd = policy.state_dict()
    torch.save(sd, stem + ".pth")
    keep, alias = drop_aliases(sd)
    save_safetensors(stem + ".safetensors", keep, {**(metadata or {}), **alias})


def load_checkpoint(policy, path):
    if path.endswith(".safetensors"):
        sd, meta = load_safetensors(path)
        for k, kept in meta.items():
            if kept in sd and k not in sd:
                sd[k] = sd[kept]
    else:
        sd = torch.load(path, map_location="cpu")
    policy.load_state_dict(sd)
    return policy


def config_from_state_dict(sd, obs_seq=None, act_seq=None, n_heads=4, **rest):
    """Recover the configuration from tensor shapes.  What shapes cannot tell has to be passed in:
    n_heads always (transformers); one of obs_seq / act_seq for d_ma, d_tr, ed_tr in ddpm form;
    everything about the diffusion schedule, the scaler and the image sizes' aspect (see below)."""
    ddpm = any(k.startswith("model.model.") for k in sd)
    p = "model.model." if ddpm else "model."
    h = {k[len(p):]: v for k, v in sd.items() if k.startswith(p)}

    def depth(trunk, item):
        idx = [int(k.split(".")[2]) for k in h if k.startswith(f"{trunk}.{item}.")]
        return 1 + max(idx) if idx else 0

    ma = "encoder.layers.0.mixer.A_log" in h or "mamba.layers.0.mixer.A_log" in h
    two = any(k.startswith("decoder.") for k in h) or (ma and "encoder.layers.0.mixer.D" in h and "mamba.layers.0.mixer.D" in h)
    c = dict(arch=("ed_" if two else "d_") + ("ma" if ma else "tr"), algo="ddpm" if ddpm else "bc",
             lang="linear.weight" in sd, d_model=h["tok_emb.weight"].shape[0], state_dim=h["tok_emb.weight"].shape[1],
             action_dim=h["action_pred.weight"].shape[0], n_heads=n_heads)
    if c["lang"]:
        c["lang_dim"] = sd["linear.weight"].shape[1]
    for name in ("act_tokens", "query_embed", "action_token"):
        if name + ".weight" in h:
            act_seq = h[name + ".weight"].shape[0]
    total = h["pos_emb"].shape[1] + 1 - int(c["lang"])       # obs_seq + act_seq
    if act_seq is None:
        if obs_seq is None:
            raise ValueError("shapes only give obs_seq + act_seq = %d" % total)
        act_seq = total - obs_seq
    c.update(act_seq=act_seq, obs_seq=total - act_seq)

    def ssm(trunk):
        m = f"{trunk}.layers.0.mixer."
        return depth(trunk, "layers"), h[m + "A_log"].shape[1], h[m + "conv1d.weight"].shape[2]

    first, second = ("encoder", "mamba" if ddpm else "decoder") if two else (("mamba" if ma and ddpm else "encoder"), None)
    if ma:
        c["expand"] = h[f"{first}.layers.0.mixer.D"].shape[0] // c["d_model"]
        if two:
            (c["enc_layers"], c["enc_state"], c["enc_conv"]), (c["dec_layers"], c["dec_state"], c["dec_conv"]) = ssm(first), ssm(second)
        else:
            c["n_layers"], c["d_state"], c["d_conv"] = ssm(first)
    elif two:
        c["enc_layers"], c["dec_layers"] = depth("encoder", "blocks"), depth("decoder", "blocks")
    else:
        c["n_layers"] = depth("encoder", "blocks")
    cams = {}
    for k, v in sd.items():
        if k.startswith("obs_encoder.key_model_map.") and k.endswith(".pool.pos_x"):
            x = v.flatten().tolist()
            w = next((i for i in range(1, len(x)) if x[i] == x[0]), len(x)) if len(x) > 1 else 1
            if len(x) > 1 and all(e == x[0] for e in x):
                w = 1
            cams[k.split(".")[2]] = (32 * (len(x) // w), 32 * w)   # image size up to rounding to multiples of 32
            c["feat_dim"] = sd[k.replace("pool.pos_x", "nets.3.weight")].shape[0]
            c["res_width"] = sd[k.replace("pool.pos_x", "backbone.nets.0.weight")].shape[0]
    c["cameras"] = cams
    c.update(rest)
    return Config(**c)


# --------------------------------------------------------------------------- test weights
@torch.no_grad()
def randomise(policy, seed, temperature=None, lean=3.0, quiet=False):
    """Give every parameter (affine gains, biases, token tables, ...) a non-trivial value while keeping
    activations of order one, so that a mistake anywhere shows in the output.
    quiet: make what enters the normalisation layers small, so that their epsilon matters; a camera's name does so for
    that camera's ResNet alone."""
    g = torch.Generator().manual_seed(seed)

    def normal(p, mean, std):
        p.copy_(mean + std * torch.randn(p.shape, generator=g))

    done = set()
    for mod in policy.modules():
        if id(mod) in done:
            continue
        done.add(id(mod))
        if isinstance(mod, nn.Conv2d):
            fan = mod.weight[0].numel()
            normal(mod.weight, 0.0, math.sqrt((2.0 if mod.weight.shape[-1] > 1 else 3.0) / fan))
            if mod.bias is not None:
                normal(mod.bias, 0.0, 0.3)
        elif isinstance(mod, nn.Conv1d):
            normal(mod.weight, 0.0, 1.0 / math.sqrt(mod.weight.shape[-1]))
            normal(mod.bias, 0.0, 0.2)
        elif isinstance(mod, nn.Linear):
            normal(mod.weight, 0.0, 1.0 / math.sqrt(mod.weight.shape[1]))
            if mod.bias is not None:
                normal(mod.bias, 0.0, 0.2)
        elif isinstance(mod, (nn.GroupNorm, nn.LayerNorm)):
            normal(mod.weight, 1.0, 0.25)
            normal(mod.bias, 0.0, 0.25)
        elif isinstance(mod, Scale):
            normal(mod.weight, 1.0, 0.25)
        elif isinstance(mod, nn.Embedding):
            normal(mod.weight, 0.0, 0.7)
        elif isinstance(mod, Head):
            normal(mod.pos_emb, 0.0, 0.5)
        elif isinstance(mod, KeypointPool) and temperature is not None:
            mod.temperature.fill_(temperature)
    for mod in policy.modules():                              # after the generic Linear pass
        if isinstance(mod, Mixer):
            n = mod.d_state
            normal(mod.A_log, 0.0, 0.3)
            mod.A_log.add_(torch.log(torch.arange(1.0, n + 1)))
            normal(mod.D, 1.0, 0.3)
            dt = torch.exp(torch.rand(mod.d_inner, generator=g) * math.log(1000.0) + math.log(1e-3))   # 1e-3 .. 1
            mod.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))                                  # softplus^-1
            mod.out_proj.weight.mul_(0.7)
        elif isinstance(mod, Attention):
            for m in (mod.query, mod.key):
                m.weight.mul_(1.4)
        elif isinstance(mod, Head) and mod.cfg.algo == "ddpm":
            # let the predicted noise lean on the noisy action, as in a trained model; otherwise the
            # reverse chain runs away and most results end on the clipping bounds
            w = mod.action_emb.weight                          # [d, action_dim]
            w.mul_(2.0)
            mod.action_pred.weight.mul_(0.5).add_(lean * (w / w.pow(2).sum(0)).t())
    if quiet:
        for mod in policy.modules() if quiet is True else ():
            if isinstance(mod, Head):
                mod.pos_emb.mul_(0.01)
                parts = [mod.tok_emb] + ([mod.time_emb[3], mod.action_emb] if mod.cfg.algo == "ddpm" else [])
                for m in parts:
                    m.weight.mul_(0.01)
                    m.bias.mul_(0.01)
            elif isinstance(mod, Mixer):
                mod.out_proj.weight.mul_(0.01)
            elif isinstance(mod, TrBlock):
                for m in (mod.attn.proj, mod.mlp[2]):
                    m.weight.mul_(0.01)
                    m.bias.mul_(0.01)
            elif isinstance(mod, nn.Embedding):
                mod.weight.mul_(0.01)
        done = set()
        cams = policy.obs_encoder.key_model_map if policy.cfg.cameras else {}
        for mod in policy.modules() if quiet is True else cams[quiet].modules():
            if isinstance(mod, Backbone) and id(mod) not in done:
                done.add(id(mod))
                for m in mod.modules():
                    if isinstance(m, nn.Conv2d):
                        m.weight.mul_(0.004)
                    elif isinstance(m, nn.GroupNorm):
                        m.weight.mul_(0.5)
    return policy


# --------------------------------------------------------------------------- accounting
def count_parameters(policy):
    """Distinct trainable parameters per component (aliases once; buffers not counted)."""
    out, seen = OrderedDict(), set()
    for k, p in policy.named_parameters():
        if id(p) in seen:
            continue
        seen.add(id(p))
        parts = k.split(".")
        if parts[0] == "obs_encoder":
            name = "vision." + parts[2] if len(parts) > 2 else "vision"
        elif parts[0] == "linear":
            name = "language linear"
        else:
            name = parts[2] if policy.cfg.algo == "ddpm" else parts[1]
        out[name] = out.get(name, 0) + p.numel()
    out["total"] = sum(out.values())
    return out


def vision_macs(h, w, feat=128, width=64):
    """Multiply-accumulates of one camera image, per stage."""
    half = lambda v: -(-v // 2)
    rows, h, w = OrderedDict(), half(h), half(w)
    rows["conv1 7x7/2"] = h * w * width * 3 * 49
    h, w = half(h), half(w)
    cin = width
    for i, cout in enumerate((width, 2 * width, 4 * width, 8 * width)):
        m = 0
        if i:
            h, w = half(h), half(w)
            m += h * w * cout * cin
        m += h * w * cout * cin * 9 + 3 * h * w * cout * cout * 9
        rows["layer%d" % (i + 1)] = m
        cin = cout
    rows["keypoint 1x1"] = h * w * 8 * width * 32
    rows["linear"] = 64 * feat
    rows["total"] = sum(rows.values())
    return rows


def mamba_layer_macs(d, n, k, expand=2):
    """Per token. The scan is charged 3 MAC per state element (decay*h + (dt x) B, then C.h)."""
    e, r = expand * d, math.ceil(d / 16)
    return OrderedDict(in_proj=2 * d * e, conv=e * k, x_proj=e * (r + 2 * n), dt_proj=r * e, scan=3 * e * n, out_proj=e * d)


def head_macs(c: Config, frames=None, calls=None):
    """MACs of the head for one inference exactly as the official code runs it (nothing cached)."""
    t = (frames or c.obs_seq) + int(c.lang)
    d, a = c.d_model, c.act_seq
    ddpm = c.algo == "ddpm"
    calls = calls or (c.n_timesteps + c.diffusion_x if ddpm else 1)
    mam = lambda n, k: sum(mamba_layer_macs(d, n, k, c.expand).values())
    tr = lambda q: q * (4 * d * d + 8 * d * d) + 2 * d * q * q                      # masked half still computed
    L = t + a + (1 if ddpm else 0)
    m = OrderedDict(tok_emb=t * c.state_dim * d)
    if ddpm:
        m["time_emb"] = 4 * d * d
        m["action_emb"] = a * c.action_dim * d
    if c.arch == "d_ma":
        m["trunk"] = L * c.n_layers * mam(c.d_state, c.d_conv)
    elif c.arch == "d_tr":
        m["trunk"] = c.n_layers * tr(L)
    elif c.arch == "ed_ma":
        m["encoder"] = L * c.enc_layers * mam(c.enc_state, c.enc_conv)
        m["decoder"] = L * c.dec_layers * mam(c.dec_state, c.dec_conv)
    else:
        mem = t + (1 if ddpm else 0)
        m["encoder"] = c.enc_layers * tr(mem)
        m["decoder"] = c.dec_layers * (tr(a) + a * d * d + 2 * mem * d * d + 2 * d * a * mem)
    m["action_pred"] = (a if c.arch == "ed_tr" or (not ddpm and c.arch.startswith("d_")) or (c.arch == "d_tr") else L) * d * c.action_dim
    per = sum(m.values())
    m["per_call"], m["calls"], m["total"] = per, calls, per * calls
    return m
