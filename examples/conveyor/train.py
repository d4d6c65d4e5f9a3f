#!/usr/bin/env python3
"""Train a MaIL policy for the conveyor task (sim.h), from nothing to files that mail.h loads.

    python3 train.py                          the shipped policy: D-Ma, history 5, DDPM
    python3 train.py NAME                     another one; the names are in POLICIES below
    python3 train.py all                      all of them, one after the other
    python3 train.py --quick                  a smoke run of two minutes: few steps, then a small evaluation
    python3 train.py NAME --eval 500          only run a trained policy in the simulator, in PyTorch
    python3 train.py --check                  the fast forward passes used here against the reference model

Needs torch >= 1.13, numpy and a C compiler. Everything follows from --seed (on one machine, with the same torch); an
interrupted run goes on where the last state was saved. Into --out (default: ../../build/conveyor) it writes, per policy,

    NAME.pth          state_dict as the official training code saves it (EMA weights for ddpm)
    NAME.json         what a .pth does not hold: scaler, history, schedule, cameras
    NAME.safetensors  weights in bfloat16 and the same facts as metadata; this alone is enough for mail.h
    NAME.state        to go on training

The model is tests/golden/mail_reference.py with a narrower ResNet-18. The recipe is the official one (Adam, EMA 0.995, cosine
schedule, 16 steps) but for what one processor core forces: there are three stages. First the two encoders learn to tell from
single pictures where things are; this is done once, in OUT/vision.state, for all policies. Then the head learns on features
computed once, and at last everything is trained together, in batches of short stretches of demonstrations whose windows
share their encoded frames, each with several noise levels. Learning rates fall to zero over the last 40 % of a stage. The
target of a window is what the expert would do from there undisturbed, not what was executed. Frames are lost at random anew
each time a demonstration is used.
"""
import argparse
import copy
import ctypes
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import time

try:    # some builds of OpenBLAS take a new processor for a very old one, which makes products five times slower
    with open("/proc/cpuinfo") as cpuinfo:
        if "avx512f" in cpuinfo.read():
            os.environ.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX")
except OSError:
    pass
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.normpath(os.path.join(HERE, "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "tests", "golden"))
import mail_reference as ref  # noqa: E402

CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")
SIZE = 64                      # pictures are SIZE x SIZE
CHUNK, EXECUTE = 8, 2          # actions predicted, and executed before the next decision
ACTION_NAMES = ("move_x", "move_y", "gripper")
SETTLE, LOSS = 4, 0.2          # as in sim.h
OUTCOMES = ("running", "caught", "hit", "missed", "timeout")

# What tells the policies apart. share: of the demonstrations that the head learns from; occluded: trained with squares of the
# pictures blacked out. Those with one of these are trained in a shorter way (0.24 of the head's steps and no third stage) and are
# to be compared with one another.
POLICIES = {
    "d_ma_h5_ddpm": dict(arch="d_ma", obs_seq=5, algo="ddpm"),
    "ed_ma_h5_ddpm": dict(arch="ed_ma", obs_seq=5, algo="ddpm"),
    "d_tr_h5_ddpm": dict(arch="d_tr", obs_seq=5, algo="ddpm"),
    "d_ma_h1_ddpm": dict(arch="d_ma", obs_seq=1, algo="ddpm"),
    "d_ma_h5_bc": dict(arch="d_ma", obs_seq=5, algo="bc"),
    "d_ma_h5_ddpm_20": dict(arch="d_ma", obs_seq=5, algo="ddpm", share=0.2),
    "d_ma_h5_ddpm_50": dict(arch="d_ma", obs_seq=5, algo="ddpm", share=0.5),
    "d_ma_h5_ddpm_100": dict(arch="d_ma", obs_seq=5, algo="ddpm", share=1.0),
    "d_ma_h5_ddpm_occ": dict(arch="d_ma", obs_seq=5, algo="ddpm", occluded=True),
}
# Shares of 8 x 8 squares that are blacked out when a policy is trained with occlusion; each window has one of these
LEVELS = ((0.0, 0.0), (0.0, 0.25), (0.25, 0.5))


def setting(name, key, otherwise=None):
    return POLICIES[name].get(key, otherwise)


def config(name):
    return ref.Config(act_seq=CHUNK, action_dim=3, state_dim=128, d_model=64, n_layers=4, enc_layers=3, dec_layers=3,
                      dec_conv=4, cameras={k: (SIZE, SIZE) for k in CAMERAS}, feat_dim=64, res_width=16,
                      **{k: setting(name, k) for k in ("arch", "obs_seq", "algo")})


# --------------------------------------------------------------------------- C parts
def build(out):
    """Compile the simulator and fast.c; -> (sim, fast) libraries, fast is None if it cannot be built."""
    def cc(source, target, *flags):
        path = os.path.join(out, target)
        if not os.path.exists(path) or os.path.getmtime(path) < os.path.getmtime(source):
            tmp = "%s.%d" % (path, os.getpid())
            subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", *flags, "-x", "c", source, "-o", tmp, "-lm"],
                           check=True)
            os.replace(tmp, path)
        return ctypes.CDLL(path)

    os.makedirs(out, exist_ok=True)
    sim = cc(os.path.join(HERE, "sim.h"), "libconveyor.so", "-O2", "-DCONVEYOR_API=")
    sim.conveyor_reset.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    sim.conveyor_demo.argtypes = [ctypes.c_uint64, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    sim.conveyor_step.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    sim.conveyor_report.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    sim.conveyor_render_many.argtypes = [ctypes.c_void_p] + [ctypes.c_int] * 5 + [ctypes.c_void_p]
    try:
        fast = cc(os.path.join(HERE, "fast.c"), "libfast.so", "-O3", "-march=native", "-ffast-math", "-mprefer-vector-width=512")
    except subprocess.CalledProcessError:
        fast = None
    return sim, fast


def render(sim, states, camera, lossy):
    """states: uint8 [n, state bytes] -> uint8 [n, SIZE, SIZE, 3]"""
    states = np.ascontiguousarray(states)
    out = np.empty((len(states), SIZE, SIZE, 3), np.uint8)
    sim.conveyor_render_many(states.ctypes.data, len(states), camera, SIZE, SIZE, int(lossy), out.ctypes.data)
    return out


def occlude(pictures, level, rng):
    """Black out squares of pictures [n, SIZE, SIZE, 3], in place; level [n] into LEVELS."""
    share = rng.uniform(*np.array(LEVELS)[level].T)
    n = SIZE // 8
    squares = rng.random((len(pictures), n, n)) < share[:, None, None]
    pictures.reshape(len(pictures), n, 8, n, 8, 3).transpose(0, 1, 3, 2, 4, 5)[squares] = 0


# --------------------------------------------------------------------------- fast, equivalent forward passes
class Scan(torch.autograd.Function):
    lib = None

    @staticmethod
    def forward(ctx, dt, x, a, bm, cm):
        dt, x, a, bm, cm = (v.detach().contiguous() for v in (dt, x, a, bm, cm))
        y = torch.empty_like(x)
        if Scan.lib.scan_forward(*(ctypes.c_void_p(v.data_ptr()) for v in (y, dt, x, a, bm, cm)), *x.shape):
            raise ValueError("sequence too long for fast.c")
        ctx.save_for_backward(dt, x, a, bm, cm)
        return y

    @staticmethod
    def backward(ctx, gy):
        dt, x, a, bm, cm = ctx.saved_tensors
        gy = gy.contiguous()
        grads = [torch.empty_like(dt), torch.empty_like(x), torch.zeros_like(a), torch.zeros_like(bm), torch.zeros_like(cm)]
        Scan.lib.scan_backward(*(ctypes.c_void_p(v.data_ptr()) for v in (*grads, gy, dt, x, a, bm, cm)), *x.shape)
        return tuple(grads)


def pointers(*tensors):
    return (ctypes.c_void_p(v.data_ptr()) for v in tensors)


class ConvSilu(torch.autograd.Function):
    """silu of the causal convolution; x [batch, tokens, d_inner] may be a slice of wider rows, taps [K, d_inner]"""

    @staticmethod
    def forward(ctx, x, taps, bias):
        x, taps, bias = x.detach(), taps.detach().contiguous(), bias.detach()
        y = torch.empty(x.shape)
        if Scan.lib.conv_forward(*pointers(y, x, taps, bias), *x.shape, x.stride(1), len(taps)):
            raise ValueError("too wide for fast.c")
        ctx.save_for_backward(x, taps, bias)
        return y

    @staticmethod
    def backward(ctx, gy):
        x, taps, bias = ctx.saved_tensors
        gx, gtaps, gbias = torch.empty(x.shape), torch.zeros_like(taps), torch.zeros_like(bias)
        Scan.lib.conv_backward(*pointers(gx, gtaps, gbias, gy.contiguous(), x, taps, bias), *x.shape, x.stride(1), len(taps))
        return gx, gtaps, gbias


class Gate(torch.autograd.Function):
    """(y + D x) silu(z); z may be a slice of wider rows"""

    @staticmethod
    def forward(ctx, y, x, z, d):
        y, x, z, d = (v.detach() for v in (y, x, z, d))
        out = torch.empty_like(y)
        Scan.lib.gate_forward(*pointers(out, y, x, z, d), y.shape[0] * y.shape[1], y.shape[2], z.stride(1))
        ctx.save_for_backward(y, x, z, d)
        return out

    @staticmethod
    def backward(ctx, g):
        y, x, z, d = ctx.saved_tensors
        gy, gx, gz, gd = torch.empty_like(y), torch.empty_like(y), torch.empty_like(y), torch.zeros_like(d)
        Scan.lib.gate_backward(*pointers(gy, gx, gz, gd, g.contiguous(), y, x, z, d), y.shape[0] * y.shape[1], y.shape[2], z.stride(1))
        return gy, gx, gz, gd


def mixer_forward(self, u):
    """ref.Mixer.forward with all but its products in C (the loop in PyTorch is used where that does not fit)."""
    if Scan.lib is None or self.d_state != 16 or u.dtype != torch.float32 or u.device.type != "cpu":
        return reference_mixer_forward(self, u)
    x, z = self.in_proj(u).chunk(2, dim=-1)
    x = ConvSilu.apply(x, self.conv1d.weight[:, 0, :].t(), self.conv1d.bias)
    dt, bm, cm = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
    y = Scan.apply(F.softplus(self.dt_proj(dt)), x, -torch.exp(self.A_log), bm, cm)
    return self.out_proj(Gate.apply(y, x, z, self.D))


class Norm(torch.autograd.Function):
    """Group norm, then ReLU if asked; [n, channels, h, w] stored channels last"""

    @staticmethod
    def forward(ctx, x, gain, bias, relu):
        x = x.detach().contiguous(memory_format=torch.channels_last)
        n, c, h, w = x.shape
        y, stats = torch.empty_like(x), torch.empty(n, c // 16, 2)
        Scan.lib.norm_forward(*(ctypes.c_void_p(v.data_ptr()) for v in (y, stats, x, gain, bias)), n, h * w, c, int(relu))
        ctx.save_for_backward(y, x, stats, gain)
        ctx.relu = relu
        return y

    @staticmethod
    def backward(ctx, gy):
        y, x, stats, gain = ctx.saved_tensors
        n, c, h, w = x.shape
        gy = gy.contiguous(memory_format=torch.channels_last)
        gx, ggain, gbias = torch.empty_like(x), torch.zeros_like(gain), torch.zeros_like(gain)
        Scan.lib.norm_backward(*(ctypes.c_void_p(v.data_ptr()) for v in (gx, ggain, gbias, gy, y, x, stats, gain)),
                               n, h * w, c, int(ctx.relu))
        return gx, ggain, gbias, None


def norm(layer, x, relu):
    if Scan.lib is None or x.dtype != torch.float32 or x.device.type != "cpu":
        return F.relu(layer(x)) if relu else layer(x)
    return Norm.apply(x, layer.weight, layer.bias, relu)


def block_forward(self, x):
    skip = norm(self.downsample[1], self.downsample[0](x), False) if hasattr(self, "downsample") else x
    y = norm(self.bn1, self.conv1(x), True)
    return F.relu(norm(self.bn2, self.conv2(y), False) + skip)


def backbone_forward(self, x):
    x = norm(self.nets[1], self.nets[0](x), True)
    return self.nets[3:](x)


FAST = {(ref.Mixer, "forward"): mixer_forward, (ref.ResBlock, "forward"): block_forward, (ref.Backbone, "forward"): backbone_forward}
PLAIN = {k: getattr(*k) for k in FAST}
reference_mixer_forward = ref.Mixer.forward


def use(table):
    for (cls, name), f in table.items():
        setattr(cls, name, f)


use(FAST)


def encode(policy, pictures):
    """{camera: uint8 [n, SIZE, SIZE, 3]} -> features [n, state_dim]"""
    return policy.obs_encoder({k: v[:, None] for k, v in pictures.items()})[:, 0]


# --------------------------------------------------------------------------- data
class Demos:
    """All ticks of n demonstrations, one after the other; pictures are rendered when needed."""

    def __init__(self, sim, n, occluded=False, first_seed=1_000_000):
        size, limit = sim.conveyor_size(), 90
        states, chunks = np.zeros((limit, size), np.uint8), np.zeros((limit, CHUNK, 3), np.float32)
        all_states, all_chunks, self.starts, self.lengths = [], [], [], []
        at, seed = 0, first_seed
        while len(self.starts) < n:
            ticks = sim.conveyor_demo(seed, limit, CHUNK, states.ctypes.data, chunks.ctypes.data)
            seed += 1
            if ticks < 12 or ticks == limit:
                continue
            all_states.append(states[:ticks].copy())
            all_chunks.append(chunks[:ticks].copy())
            self.starts.append(at)
            self.lengths.append(ticks)
            at += ticks
        self.sim, self.occluded = sim, occluded
        self.states, self.chunks = np.concatenate(all_states), np.concatenate(all_chunks)
        self.starts, self.lengths = np.array(self.starts), np.array(self.lengths)
        first = np.concatenate([self.chunks[s + SETTLE:s + n, 0] for s, n in zip(self.starts, self.lengths)])
        self.scaler = ref.Scaler(first.mean(0), first.std(0), self.chunks.reshape(-1, 3).min(0), self.chunks.reshape(-1, 3).max(0))

    def places(self):
        """-> (where things are [ticks, camera, 6], what of it the camera can tell): hand x, y, then for the camera above
        obstacle x, y, radius and puck x, for the one on the hand obstacle and puck relative to the hand"""
        report = np.zeros((len(self.states), 9), np.float32)
        for s, r in zip(self.states, report):
            self.sim.conveyor_report(s.ctypes.data, r.ctypes.data)
        hx, hy, px, ox, oy, radius = report[:, 3:].T
        above = np.stack([hx, hy, ox, oy, radius, px], 1)
        hand = np.stack([hx, hy, ox - hx, oy - hy, px - hx, 0.68 - hy], 1)
        seen = np.ones_like(hand)
        seen[:, 2:4] = (np.abs(hand[:, 2:4]).max(1) < 0.6)[:, None]
        seen[:, 4:6] = (np.abs(hand[:, 4:6]).max(1) < 0.55)[:, None]
        return np.stack([above, hand], 1), np.stack([np.ones_like(above), seen], 1).astype(np.float32)

    def remember(self, policy, path, source):
        """Encode every tick once, or once for each of LEVELS, for the stage in which the encoder rests: features [levels, ticks,
        state_dim], white [levels, 32, state_dim] of lost frames. Kept in a file, made anew if `source` is newer."""
        if os.path.exists(path) and os.path.getmtime(path) >= os.path.getmtime(source):
            saved = torch.load(path)
            if saved["features"].shape[1] >= len(self.states):           # fewer demonstrations are the first of more
                self.features, self.white = saved["features"][:, :len(self.states)], saved["white"]
                return
        began, rng = time.time(), np.random.default_rng(11)
        features, white = [], []

        def look(pictures, level):
            for v in pictures.values():
                if level:
                    occlude(v, np.full(len(v), level), rng)
            return encode(policy, {k: torch.from_numpy(v) for k, v in pictures.items()})

        with torch.no_grad():
            levels = range(len(LEVELS) if self.occluded else 1)
            for level in levels:
                parts = []
                white.append(look({k: np.full((32, SIZE, SIZE, 3), 255, np.uint8) for k in CAMERAS}, level))
                for at in range(0, len(self.states), 128):
                    part = self.states[at:at + 128]
                    parts.append(look({k: render(self.sim, part, i, False) for i, k in enumerate(CAMERAS)}, level))
                    if at // 128 % 100 == 99:
                        done = level + (at + 128) / len(self.states)
                        print("encoding %.0f %%  %.0f s left" % (100 * done / len(levels), (time.time() - began) / done *
                                                                 (len(levels) - done)), flush=True)
                features.append(torch.cat(parts))
        self.features, self.white = torch.stack(features), torch.stack(white)
        torch.save(dict(features=self.features, white=self.white), path)

    @torch.no_grad()
    def turn(self, policy):
        """Choose other coordinates for the features of each camera, by changing the encoder's last linear map: first the
        places that the first stage learned (in tenths), then whether the frame is lost, then the rest, made small. Nothing
        is lost by it. As they come, three directions hold nearly all the variance, and a head takes long to find the others."""
        places, seen = (torch.from_numpy(v) for v in self.places())
        blank = max(1, len(self.states) // 10)
        turned, white = [], []
        for c, k in enumerate(CAMERAS):
            last = policy.obs_encoder.key_model_map[k].nets[3]
            n = last.weight.shape[0]
            part = slice(c * n, (c + 1) * n)
            f, w = self.features[0, :, part].double(), self.white[0, 0, part].double()
            mean = f.mean(0)
            x = torch.cat([f - mean, torch.ones(len(f), 1, dtype=torch.double)], 1)
            ridge = 1e-6 * len(f) * torch.eye(n + 1, dtype=torch.double)
            rows = []
            for j in range(6):
                s = seen[:, c, j:j + 1].double()
                rows.append(10 * torch.linalg.solve((x * s).T @ x + ridge, (x * s).T @ places[:, c, j].double()))
            xw = torch.cat([w - mean, torch.ones(1, dtype=torch.double)])
            rows.append(3 * torch.linalg.solve(x.T @ x + blank * torch.outer(xw, xw) + ridge, blank * xw))
            u, s, _ = torch.linalg.svd((f - mean).T @ (f - mean) / len(f))
            rest = 0.3 * u[:, :n - 7].T / (s[:n - 7].sqrt()[:, None] + 1e-3)
            m = torch.cat([torch.stack(rows)[:, :n], rest])
            b = torch.cat([torch.stack(rows)[:, n], torch.zeros(n - 7, dtype=torch.double)]) - m @ mean
            last.bias.copy_((m @ last.bias.double() + b).float())
            last.weight.copy_((m @ last.weight.double()).float())
            turned.append((self.features[..., part].double() @ m.T + b).float())
            white.append((self.white[..., part].double() @ m.T + b).float())
        self.features, self.white = torch.cat(turned, -1), torch.cat(white, -1)

    def windows(self, rng, n, obs_seq):
        """-> n windows from all over, as features [n, obs_seq, state_dim], and their chunks"""
        demo = rng.integers(len(self.starts), size=n)
        at = SETTLE + (rng.random(n) * (self.lengths[demo] - SETTLE)).astype(int)
        at[rng.random(n) < 0.15] = SETTLE                      # the first decision is rare and matters most
        ticks = (self.starts[demo] + at)[:, None] + np.arange(1 - obs_seq, 1)
        level = torch.from_numpy(rng.integers(len(self.features), size=n))
        obs = self.features[level[:, None], torch.from_numpy(ticks)]
        half = obs.shape[-1] // len(CAMERAS)
        for c in range(len(CAMERAS)):
            lost = torch.from_numpy(rng.random(ticks.shape) < LOSS)
            white = self.white[level[:, None], torch.from_numpy(rng.integers(self.white.shape[1], size=ticks.shape))]
            obs[..., c * half:(c + 1) * half][lost] = white[..., c * half:(c + 1) * half][lost]
        return obs, torch.from_numpy(self.chunks[ticks[:, -1]])

    def batch(self, rng, stretches, frames, obs_seq):
        """-> pictures of stretches * frames ticks, and for every window (its last tick's index among the frames, chunk)"""
        demo = rng.integers(len(self.starts), size=stretches)
        length = self.lengths[demo]
        at = (rng.random(stretches) * (length - frames + 1)).astype(int)
        at[rng.random(stretches) < 0.2] = 0                    # the first decision is rare and matters most
        if obs_seq == 1:
            at = np.maximum(at, np.minimum(SETTLE, length - frames))
        ticks = (self.starts[demo] + at)[:, None] + np.arange(frames)
        lost = rng.random((len(CAMERAS), stretches * frames)) < LOSS
        pictures, level = {}, np.repeat(rng.integers(len(LEVELS), size=stretches), frames)
        for c, k in enumerate(CAMERAS):
            p = render(self.sim, self.states[ticks.ravel()], c, False)
            p[lost[c]] = 255
            if self.occluded:
                occlude(p, level, rng)
            pictures[k] = torch.from_numpy(p)
        ends = np.arange(obs_seq - 1, frames)
        last = (np.arange(stretches)[:, None] * frames + ends).ravel()
        return pictures, torch.from_numpy(last), torch.from_numpy(self.chunks[ticks[:, ends].ravel()])


# --------------------------------------------------------------------------- training
@torch.no_grad()
def initialise(policy, seed):
    """PyTorch's defaults, but: He for convolutions, Mamba's own step sizes, small random tokens and positions."""
    torch.manual_seed(seed)
    for m in policy.modules():
        if isinstance(m, nn.Conv2d) and m.weight.shape[-1] > 1:
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(m, ref.Mixer):
            dt = torch.exp(torch.rand(m.d_inner) * (math.log(0.1) - math.log(0.001)) + math.log(0.001)).clamp(min=1e-4)
            m.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
            nn.init.uniform_(m.dt_proj.weight, -m.dt_rank ** -0.5, m.dt_rank ** -0.5)
        elif isinstance(m, nn.Embedding):
            nn.init.normal_(m.weight, 0.0, 0.02)
        elif isinstance(m, ref.Head):
            nn.init.normal_(m.pos_emb, 0.0, 0.02)


def train_vision(args, sim, demos, path, steps, start=None):
    """First stage: each camera's network learns to tell from single pictures where things are, by a linear map from its
    features that is thrown away afterwards. start: the file of an earlier such stage, to go on from with occlusion.
    -> state_dict of the encoder; kept in the file `path` for other policies"""
    policy = ref.Policy(config("d_ma_h5_bc"))
    initialise(policy, args.seed)
    encoder, cfg = policy.obs_encoder, policy.cfg
    for net in encoder.key_model_map.values():
        net.to(memory_format=torch.channels_last)
    tell = nn.ModuleList(nn.Linear(cfg.feat_dim, 6) for _ in CAMERAS)
    parts = nn.ModuleList([encoder, tell])
    optimiser = torch.optim.Adam(parts.parameters(), lr=1e-3)
    step, began = 0, time.time()
    if start:
        parts.load_state_dict(torch.load(start, map_location="cpu")["parts"])
    if os.path.exists(path):
        saved = torch.load(path, map_location="cpu")
        parts.load_state_dict(saved["parts"])
        optimiser.load_state_dict(saved["optimiser"])
        step = saved["step"]
    if step >= steps:
        return encoder.state_dict()
    places, seen = demos.places()
    error = np.zeros((2, 6))

    def save():
        torch.save(dict(parts=parts.state_dict(), optimiser=optimiser.state_dict(), step=step), path + ".tmp")
        os.replace(path + ".tmp", path)

    first = step
    try:
        while step < steps:
            rng = np.random.default_rng((args.seed, 7, step))
            at = rng.integers(len(demos.states), size=128)
            optimiser.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            optimiser.zero_grad(set_to_none=True)
            for c, name in enumerate(CAMERAS):
                pictures = render(sim, demos.states[at], c, False)
                if start:
                    occlude(pictures, rng.integers(len(LEVELS), size=len(pictures)), rng)
                off = tell[c](encoder.camera(name, torch.from_numpy(pictures)[:, None])[0][:, 0]) - torch.from_numpy(places[at, c])
                off = off * torch.from_numpy(seen[at, c])
                (off ** 2).mean().backward()
                now = ((off.detach() ** 2).sum(0) / torch.from_numpy(seen[at, c]).sum(0).clamp(min=1)).numpy()
                error[c] = now if step == first else 0.95 * error[c] + 0.05 * now
            optimiser.step()
            step += 1
            if step % args.every == 0:
                each = (time.time() - began) / (step - first)
                print("vision %d/%d  errors %s %s  %.2f s/step  %.0f min left" % (
                    step, steps, *(" ".join("%.3f" % v for v in np.sqrt(e)) for e in error), each,
                    each * (steps - step) / 60), flush=True)
            if step % 200 == 0:
                save()
    finally:
        save()
    return encoder.state_dict()


def loss_of(policy, schedule, scaler, batch, draws, gen):
    pictures, last, chunks = batch
    feats = encode(policy, pictures)
    history = policy.cfg.obs_seq
    obs = torch.stack([feats[last - (history - 1) + j] for j in range(history)], 1)       # [windows, obs_seq, state_dim]
    return loss_of_head(policy, schedule, scaler, obs, chunks, draws, gen)


def loss_of_head(policy, schedule, scaler, obs, chunks, draws, gen):
    c, target = policy.cfg, scaler.scale(chunks)
    if c.algo == "bc":
        return F.mse_loss(policy.head(obs), target)
    obs, target = obs.repeat_interleave(draws, 0), target.repeat_interleave(draws, 0)
    step = torch.randint(0, c.n_timesteps, (len(obs),), generator=gen)
    noise = torch.randn(target.shape, generator=gen)
    bar = schedule.alpha_bar[step][:, None, None]
    return F.mse_loss(policy.head(obs, bar.sqrt() * target + (1 - bar).sqrt() * noise, step), noise)


def train(args, sim, name):
    stem = os.path.join(args.out, name)
    cfg = config(name)
    policy = ref.Policy(cfg)
    initialise(policy, args.seed)
    for net in policy.obs_encoder.key_model_map.values():
        net.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(policy.parameters(), lr=args.lr)
    ema, step, spent = copy.deepcopy(policy), 0, 0.0
    steps, head_steps = args.steps, args.head_steps
    if len(POLICIES[name]) > 3:
        steps = head_steps = round(0.24 * head_steps)
    demos = Demos(sim, round(args.demos * setting(name, "share", 1)), setting(name, "occluded", False))
    schedule = ref.Schedule(cfg.schedule, cfg.n_timesteps)
    print("%s: %d demonstrations, %d ticks, %d parameters" % (
        name, len(demos.starts), len(demos.states), ref.count_parameters(policy)["total"]), flush=True)
    everything = demos if "share" not in POLICIES[name] else Demos(sim, args.demos)    # the encoder sees all of them
    eyes = os.path.join(args.out, "vision")
    state = train_vision(args, sim, everything, eyes + ".state", args.vision_steps)
    if demos.occluded:                                         # go on from there
        state = train_vision(args, sim, everything, eyes + "_occ.state", round(0.4 * args.vision_steps), eyes + ".state")
        eyes += "_occ"
    policy.obs_encoder.load_state_dict(state)
    everything.remember(policy, eyes + ".features", eyes + ".state")
    demos.features, demos.white = everything.features[:, :len(demos.states)], everything.white
    demos.turn(policy)
    ema = copy.deepcopy(policy)
    if os.path.exists(stem + ".state"):
        saved = torch.load(stem + ".state", map_location="cpu")
        policy.load_state_dict(saved["policy"])
        ema.load_state_dict(saved["ema"])
        optimiser.load_state_dict(saved["optimiser"])
        step, spent = saved["step"], saved["seconds"]
        print("going on from step %d" % step, flush=True)

    def save():
        tmp = stem + ".state.tmp"
        torch.save(dict(policy=policy.state_dict(), ema=ema.state_dict(), optimiser=optimiser.state_dict(), step=step,
                        seconds=spent + time.time() - began), tmp)
        os.replace(tmp, stem + ".state")
        export(stem, ema if cfg.algo == "ddpm" else policy, demos.scaler, step)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))    # so that the state is saved
    began, mean, first = time.time(), None, step
    weights, average = list(policy.parameters()), list(ema.parameters())
    try:
        while step < steps:
            rng = np.random.default_rng((args.seed, step))     # the batch follows from seed and step: resumable
            gen = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
            head = step < head_steps                      # the encoder rests
            at, of, top = (step, head_steps, args.lr) if head else (step - head_steps, steps - head_steps, args.lr / 4)
            left = (of - at) / (0.4 * of)
            for group in optimiser.param_groups:
                group["lr"] = top * min(1.0, (at + 1) / 50, 0.5 - 0.5 * math.cos(math.pi * min(1.0, left)))
            optimiser.zero_grad(set_to_none=True)
            if head:
                loss = loss_of_head(policy, schedule, demos.scaler, *demos.windows(rng, args.windows, cfg.obs_seq), 1, gen)
            else:
                loss = loss_of(policy, schedule, demos.scaler, demos.batch(rng, args.stretches, args.frames, cfg.obs_seq),
                               args.draws, gen)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            decay = min(0.995, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_mul_(average, decay)
                torch._foreach_add_(average, weights, alpha=1 - decay)
            step += 1
            mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
            if step % args.every == 0 or step == steps:
                each = (time.time() - began) / (step - first)
                bar = "#" * (20 * step // steps)
                print("%s[%-20s] %d/%d  loss %.4f  %.2f s/step  %.0f min left" % (
                    "\r" if sys.stdout.isatty() else "", bar, step, steps, mean, each, each * (steps - step) / 60),
                    end="" if sys.stdout.isatty() else "\n", flush=True)
            if step % 200 == 0:
                save()
    finally:
        if step > first:
            save()
    print("\n%s: %.0f s of training" % (name, spent + time.time() - began), flush=True)


# --------------------------------------------------------------------------- files
def facts(cfg, scaler, step=None):
    """What the tensors do not say, as a nested dict (NAME.json); metadata() makes it flat."""
    numbers = {k: [float(v) for v in getattr(scaler, k)] for k in ("mean", "std", "min", "max")}
    return dict(n_heads=cfg.n_heads, obs_seq=cfg.obs_seq, act_seq=cfg.act_seq, n_action_steps=EXECUTE,
                n_timesteps=cfg.n_timesteps, schedule=cfg.schedule, clip_denoised=cfg.clip_denoised,
                predict_epsilon=cfg.predict_epsilon, diffusion_x=cfg.diffusion_x, scale_data=True, scaler=numbers,
                cameras={k: list(v) for k, v in cfg.cameras.items()}, action_names=list(ACTION_NAMES),
                description="conveyor, %s %s H%d, %s training steps" % (cfg.arch, cfg.algo, cfg.obs_seq, step))


def metadata(d, prefix="mail."):
    out = {}
    for k, v in d.items():
        if k == "scaler":
            out.update(metadata(v, prefix + "scaler."))
        else:
            out[prefix + k] = v if isinstance(v, str) else json.dumps(v)
    return out


def save_bf16(path, tensors, meta):
    """safetensors with bfloat16 weights, rounded to nearest even; buffers and vectors are stored the same way."""
    header, blobs, at = {"__metadata__": meta}, [], 0
    for k, v in tensors.items():
        raw = v.detach().cpu().contiguous().to(torch.bfloat16).view(torch.int16).numpy().tobytes()
        header[k] = {"dtype": "BF16", "shape": list(v.shape), "data_offsets": [at, at + len(raw)]}
        blobs.append(raw)
        at += len(raw)
    js = json.dumps(header, separators=(",", ":")).encode()
    js += b" " * (-len(js) % 8)
    with open(path + ".tmp", "wb") as f:
        f.write(struct.pack("<Q", len(js)) + js + b"".join(blobs))
    os.replace(path + ".tmp", path)


def export(stem, policy, scaler, step):
    d = facts(policy.cfg, scaler, step)
    sd = type(policy.state_dict())((k, v.contiguous()) for k, v in policy.state_dict().items())
    torch.save(sd, stem + ".pth")
    with open(stem + ".json", "w") as f:
        json.dump(d, f, indent=1)
    keep, _ = ref.drop_aliases(policy.state_dict())
    save_bf16(stem + ".safetensors", keep, metadata(d))


def load(path, name):
    """-> (policy, scaler) from NAME.safetensors (so with the shipped bfloat16 weights)"""
    with open(path, "rb") as f:
        n, = struct.unpack("<Q", f.read(8))
        header, body = json.loads(f.read(n)), f.read()
    meta = header.pop("__metadata__")
    policy = ref.Policy(config(name))
    sd = policy.state_dict()
    for k, d in header.items():
        lo, hi = d["data_offsets"]
        bits = torch.from_numpy(np.frombuffer(body[lo:hi], np.int16).copy())
        with torch.no_grad():
            sd[k].copy_(bits.view(torch.bfloat16).float().reshape(d["shape"]))
    policy.load_state_dict(sd)
    return policy, ref.Scaler(*(json.loads(meta["mail.scaler." + k]) for k in ("mean", "std", "min", "max")))


# --------------------------------------------------------------------------- evaluation
def interval(k, n):
    """95 % Wilson interval of k successes in n"""
    z, p = 1.959964, k / n
    mid, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (mid - half) / (1 + z * z / n), (mid + half) / (1 + z * z / n)


@torch.no_grad()
def evaluate(sim, policy, scaler, n, first_seed=0):
    """Run n episodes side by side. -> list of dict(seed, status, ticks, way)"""
    c, size = policy.cfg, sim.conveyor_size()
    lo, hi = (torch.from_numpy(v) for v in scaler.bounds())
    states = np.zeros((n, size), np.uint8)
    for i in range(n):
        sim.conveyor_reset(states[i].ctypes.data, first_seed + i)
    gens = [torch.Generator().manual_seed(first_seed + i) for i in range(n)]
    running = np.ones(n, bool)
    history, plan, used, tick = [], None, EXECUTE, 0
    while running.any():
        live = np.flatnonzero(running)
        if c.obs_seq > 1 or used == EXECUTE:
            feats = torch.zeros(n, c.state_dim)
            for part in np.array_split(live, max(1, len(live) // 100)):
                feats[part] = encode(policy, {k: torch.from_numpy(render(sim, states[part], i, True)) for i, k in enumerate(CAMERAS)})
            history = (history + [feats])[-c.obs_seq:]
        if tick >= SETTLE and used == EXECUTE:
            plan = np.zeros((n, CHUNK, 3), np.float32)
            for part in np.array_split(live, max(1, len(live) // 100)):
                obs = torch.stack([h[part] for h in history], 1)
                if c.algo == "ddpm":
                    draw = torch.stack([torch.randn(1 + c.n_timesteps, CHUNK, 3, generator=gens[i]) for i in part], 1)
                    act = ref.sample(policy, obs, draw[0], draw[1:], lo, hi)[0]
                else:
                    act = policy.head(obs)
                plan[part] = scaler.unscale(act).numpy()
            used = 0
        for i in np.flatnonzero(running):
            action = np.ascontiguousarray(plan[i, used]) if plan is not None else np.zeros(3, np.float32)
            running[i] = sim.conveyor_step(states[i].ctypes.data, action.ctypes.data) == 0
        used += plan is not None
        tick += 1
    out, report = [], np.zeros(9, np.float32)
    for i in range(n):
        sim.conveyor_report(states[i].ctypes.data, report.ctypes.data)
        out.append(dict(seed=first_seed + i, status=OUTCOMES[int(report[1])], ticks=int(report[0]), way=int(report[2])))
    return out


def show(name, rows):
    n, won = len(rows), [r for r in rows if r["status"] == "caught"]
    lo, hi = interval(len(won), n)
    print("%-14s success %5.1f %% [%.1f, %.1f] of %d   hit %d  missed %d  timeout %d   left %d right %d   ticks %.1f" % (
        name, 100 * len(won) / n, 100 * lo, 100 * hi, n, *(sum(r["status"] == s for r in rows) for s in OUTCOMES[2:]),
        sum(r["way"] == -1 for r in won), sum(r["way"] == 1 for r in won),
        sum(r["ticks"] for r in won) / max(1, len(won))), flush=True)


# --------------------------------------------------------------------------- check
def check(sim):
    """The parts in C, with their gradients, against the reference model under autograd."""
    for name in [k for k in POLICIES if len(POLICIES[k]) == 3]:
        policy = ref.Policy(config(name))
        initialise(policy, 1)
        for net in policy.obs_encoder.key_model_map.values():
            net.to(memory_format=torch.channels_last)
        demos = Demos(sim, 4)
        batch = demos.batch(np.random.default_rng(0), 2, 8, policy.cfg.obs_seq)
        results = []
        for table in (FAST, PLAIN):
            use(table)
            policy.zero_grad()
            loss = loss_of(policy, ref.Schedule("cosine", 16), demos.scaler, batch, 2, torch.Generator().manual_seed(0))
            loss.backward()
            results.append((loss.item(), torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])))
        use(FAST)
        (a, ga), (b, gb) = results
        worst = ((ga - gb).norm() / gb.norm()).item()
        print("%-14s loss %.6f %.6f   gradient differs by %.1e" % (name, a, b, worst))
        # rounding may turn a ReLU or choose another of two equal pixels in max pooling, so a gradient may differ by 1e-3
        if abs(a - b) > 1e-5 * b or worst > 5e-3:
            raise SystemExit("train.py: the fast forward pass does not agree with the reference")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("name", nargs="?", default="d_ma_h5_ddpm", choices=[*POLICIES, "all"])
    p.add_argument("--out", default=os.path.join(ROOT, "build", "conveyor"))
    p.add_argument("--steps", type=int, default=2650, help="steps of the second and third stage together")
    p.add_argument("--head-steps", type=int, default=2500, help="of them with the encoder at rest")
    p.add_argument("--windows", type=int, default=256, help="windows in a batch while the encoder rests")
    p.add_argument("--demos", type=int, default=2000)
    p.add_argument("--stretches", type=int, default=16, help="stretches of demonstrations in a batch")
    p.add_argument("--frames", type=int, default=8, help="ticks in a stretch")
    p.add_argument("--draws", type=int, default=6, help="noise levels per window")
    p.add_argument("--lr", type=float, default=1e-3, help="of the second stage; a quarter of it in the third")
    p.add_argument("--vision-steps", type=int, default=1000, help="steps of the first stage")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--every", type=int, default=20, help="steps between progress lines")
    p.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "0")))
    p.add_argument("--eval", type=int, default=0, metavar="N", help="only evaluate, on seeds 0 .. N-1")
    p.add_argument("--policy", help="with --eval: a safetensors file other than OUT/NAME.safetensors")
    p.add_argument("--quick", action="store_true")
    p.add_argument("--check", action="store_true")
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    sim, Scan.lib = build(args.out)
    if args.check:
        return check(sim)
    if args.quick:
        args.out, args.demos, args.every = os.path.join(args.out, "quick"), 100, 10
        args.vision_steps, args.head_steps, args.steps = 60, 60, 70
        shutil.rmtree(args.out, ignore_errors=True)             # it begins anew each time
        os.makedirs(args.out)
        check(sim)
    for name in POLICIES if args.name == "all" else [args.name]:
        if not args.eval:
            train(args, sim, name)
        if args.eval or args.quick:
            policy, scaler = load(args.policy or os.path.join(args.out, name + ".safetensors"), name)
            show(name, evaluate(sim, policy, scaler, args.eval or 20))


if __name__ == "__main__":
    main()
