"""The works that are timed, and the models behind them in the form that suits the frameworks best.

A work is a part of a policy at the sizes of the paper. Its weights, inputs and float64 results are a golden case
(tests/golden/make_cases.py), so every peer and mail.h run the same numbers and can be checked against the same result.

    W1          two ResNet-18 encoders, one 128x128 picture each
    W1b         the real robot's: 128x256 and 256x256
    W2_S1, _S5  denoiser of D-Ma, 16 layers, chunk 5, 16 steps, from 1 or 5 feature vectors
    W3          a whole decision of D-Ma: W1 and W2_S1
    ED-Ma_H1 .. whole decisions of the other systems, chunk 10, history 1 or 5; of the history only the newest frame is
                encoded in the timed part, for everyone: a user of any engine would keep the features of older frames
    W4_L        the selective scan alone, 256 channels of 16 states, L tokens
"""
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tests", "golden"))
import mail_reference as R  # noqa: E402

BUILD = os.environ.get("PEERS_BUILD") or os.path.join(HERE, "..", "..", "build", "peers")
PAIR = {"agentview_rgb": (128, 128), "eye_in_hand_rgb": (128, 128)}
ROBOT = {"agentview_rgb": (128, 256), "eye_in_hand_rgb": (256, 256)}
D_MA = dict(arch="d_ma", n_layers=16, d_state=16, d_conv=4, act_seq=5)
ED_MA = dict(arch="ed_ma", enc_layers=10, dec_layers=6, enc_state=16, dec_state=16, enc_conv=4, dec_conv=2, act_seq=10)
D_TR = dict(arch="d_tr", n_layers=8, act_seq=10)
ED_TR = dict(arch="ed_tr", enc_layers=4, dec_layers=6, act_seq=10)

# case name -> configuration
CASES = {
    "d_ma_h1": dict(D_MA, obs_seq=1, cameras=PAIR),
    "d_ma_head_h1": dict(D_MA, obs_seq=1, cameras={}),
    "d_ma_head_h5": dict(D_MA, obs_seq=5, cameras={}),
    "robot": dict(ED_MA, obs_seq=1, cameras=ROBOT),
}
for _name, _arch in (("ed_ma", ED_MA), ("d_tr", D_TR), ("ed_tr", ED_TR)):
    for _h in (1, 5):
        CASES["%s_h%d" % (_name, _h)] = dict(_arch, obs_seq=_h, cameras=PAIR)

# work -> (case, parts); scans have a length instead
WORKS = {
    "W1": ("d_ma_h1", "vision"),
    "W1b": ("robot", "vision"),
    "W2_S1": ("d_ma_head_h1", "head"),
    "W2_S5": ("d_ma_head_h5", "head"),
    "W3": ("d_ma_h1", "both"),
    "ED-Ma_H1": ("ed_ma_h1", "both"),
    "ED-Ma_H5": ("ed_ma_h5", "both"),
    "D-Tr_H1": ("d_tr_h1", "both"),
    "D-Tr_H5": ("d_tr_h5", "both"),
    "ED-Tr_H1": ("ed_tr_h1", "both"),
    "ED-Tr_H5": ("ed_tr_h5", "both"),
}
SCANS = {"W4_64": 64, "W4_512": 512, "W4_4096": 4096}


def case_dir(name):
    return os.path.join(BUILD, "cases", name)


def model_dir():
    return os.path.join(BUILD, "models")


# ----------------------------------------------------------------------------------------- forms that suit frameworks
class GroupNormAsLayerNorm(nn.Module):
    """GroupNorm written as a layer norm over each group: exports to LayerNormalization, not InstanceNormalization."""

    def __init__(self, gn):
        super().__init__()
        c = gn.num_channels
        self.groups, self.eps = gn.num_groups, gn.eps
        self.weight = nn.Parameter(gn.weight.detach().reshape(1, c, 1, 1).clone())
        self.bias = nn.Parameter(gn.bias.detach().reshape(1, c, 1, 1).clone())

    def forward(self, x):
        n, c, h, w = x.shape
        k = int(c) // self.groups * int(h) * int(w)
        y = F.layer_norm(x.reshape(n, self.groups, -1), (k,), torch.ones(k), torch.zeros(k), self.eps)
        return y.reshape(n, c, h, w) * self.weight + self.bias


def group_norm_as_layer_norm(module):
    for name, child in list(module.named_children()):
        if isinstance(child, nn.GroupNorm):
            setattr(module, name, GroupNormAsLayerNorm(child))
        else:
            group_norm_as_layer_norm(child)
    return module


class TunedMixer(nn.Module):
    """The reference Mixer for a batch of one, with the state as (d_state, d_inner), so that broadcasts run over the
    256 channels, constants formed once, and one matrix product for all C . h."""

    def __init__(self, m):
        super().__init__()
        self.in_proj, self.x_proj, self.dt_proj, self.out_proj = m.in_proj, m.x_proj, m.dt_proj, m.out_proj
        self.sizes = (m.dt_rank, m.d_state, m.d_state)
        self.register_buffer("A", (-torch.exp(m.A_log)).detach().t().contiguous())
        self.register_buffer("taps", m.conv1d.weight.detach()[:, 0].t().contiguous())
        self.register_buffer("conv_bias", m.conv1d.bias.detach().clone())
        self.register_buffer("D", m.D.detach().clone())

    def forward(self, u):
        u = u[0]                                              # [L, d]
        x, z = self.in_proj(u).chunk(2, dim=-1)
        k, n = int(self.taps.shape[0]), int(u.shape[0])
        padded = F.pad(x, (0, 0, k - 1, 0))
        x = F.silu(sum(padded[j:j + n] * self.taps[j] for j in range(k)) + self.conv_bias)
        dt, b, c = self.x_proj(x).split(self.sizes, dim=-1)
        dt = F.softplus(self.dt_proj(dt))
        y = scan(x, dt, self.A, b, c) + self.D * x
        return self.out_proj(y * F.silu(z))[None]


def scan(x, dt, a, b, c):
    """x, dt [L, E]; a [N, E]; b, c [L, N] -> [L, E]"""
    decay = torch.exp(dt[:, None] * a).unbind(0)
    add = ((dt * x)[:, None] * b[:, :, None]).unbind(0)
    h = add[0]
    states = [h]
    for i in range(1, len(add)):
        h = decay[i] * h + add[i]
        states.append(h)
    return torch.matmul(c[:, None], torch.stack(states))[:, 0]


def scan_long(x, dt, a, b, c):
    """The same without the [L, N, E] tensors: better for long sequences."""
    dtx = dt * x
    h = torch.zeros_like(a)
    ys = []
    for i in range(x.shape[0]):
        h = torch.exp(a * dt[i]) * h + b[i][:, None] * dtx[i]
        ys.append(torch.mv(h.t(), c[i]))
    return torch.stack(ys)


def tune_mixers(module):
    for name, child in list(module.named_children()):
        if isinstance(child, R.Mixer):
            setattr(module, name, TunedMixer(child))
        else:
            tune_mixers(child)
    return module


class Vision(nn.Module):
    """All cameras of a policy: one normalised picture [1, 3, H, W] each -> features [1, state_dim]"""

    def __init__(self, policy):
        super().__init__()
        cams = policy.obs_encoder.key_model_map
        self.nets = nn.ModuleList(nn.Sequential(cams[k].backbone, cams[k].pool, nn.Flatten(), cams[k].nets[3])
                                  for k in sorted(cams.keys()))

    def forward(self, *pictures):
        return torch.cat([net(p) for net, p in zip(self.nets, pictures)], dim=-1)


class Denoiser(nn.Module):
    """One call of the head: states [1, S, state_dim], noisy actions [1, A, D], step [1] float -> predicted noise"""

    def __init__(self, policy, tuned=True):
        super().__init__()
        self.head = tune_mixers(policy.head) if tuned else policy.head

    def forward(self, states, x, step):
        return self.head(states, x, step)


# --------------------------------------------------------------------------------------------------- inputs, results
class Case:
    """A golden case as the workers need it."""

    def __init__(self, name):
        import json
        d = case_dir(name)
        self.info = json.load(open(os.path.join(d, "config.json")))
        self.config = R.Config.from_json(self.info["config"])
        self.t, _ = R.load_safetensors(os.path.join(d, "case.safetensors"))
        self.policy_file = os.path.join(d, "model.safetensors")
        c = self.config
        self.pictures = [R.VisionEncoder.normalise(self.t["in.image." + k][:, -1]).contiguous() for k in sorted(c.cameras)]
        self.states = self.t["in.features"] if not c.cameras else self.t["out.obs"]
        self.x, self.noise = self.t["in.x_T"], self.t["in.noise"][:, 0]
        self.want_features = self.t["ref64.obs"][:, -1] if c.cameras else None
        self.want_actions = self.t["ref64.action_norm"]

    def policy(self):
        return R.load_checkpoint(R.Policy(self.config), self.policy_file)

    def sampler(self):
        """-> function(denoise, states): the whole loop, in NumPy; denoise(states, x, step) -> predicted noise"""
        c, s = self.config, R.Schedule(self.config.schedule, self.config.n_timesteps)
        k = {n: s.tables[n].numpy().tolist() for n in ("recip", "recipm1", "coef1", "coef2", "sigma")}
        lo, hi = self.t["scaler.bounds"].numpy().astype(np.float32)
        x_start, noise = self.x.numpy(), self.noise.numpy()
        steps = [np.full((1,), i, np.float32) for i in range(c.n_timesteps)]

        def run(denoise, states):
            x = x_start
            for n, i in enumerate(range(c.n_timesteps - 1, -1, -1)):
                x0 = k["recip"][i] * x - k["recipm1"][i] * denoise(states, x, steps[i])
                x = k["coef1"][i] * np.clip(x0, lo, hi) + k["coef2"][i] * x
                if i:
                    x = x + k["sigma"][i] * noise[n]
                x = x.astype(np.float32, copy=False)
            return np.clip(x, lo, hi)
        return run


def scan_inputs(length, e=256, n=16):
    g = torch.Generator().manual_seed(7 + length)
    rand = lambda *s: torch.randn(*s, generator=g)
    a = -torch.exp(0.3 * rand(e, n) + torch.log(torch.arange(1.0, n + 1)))
    dt = F.softplus(rand(length, e) - 3)
    return dict(x=rand(length, e), dt=dt, A=a, B=rand(length, n), C=rand(length, n), D=1 + 0.3 * rand(e))


def scan_reference(t):
    t = {k: v.double() for k, v in t.items()}
    return scan_long(t["x"], t["dt"], t["A"].t().contiguous(), t["B"], t["C"]) + t["D"] * t["x"]
