"""Write golden cases for a MaIL inference engine.

    python3 make_cases.py OUT [--suite small|tiny|head|vision|demo|all] [--only NAME[,NAME...]] [--seed N]
                              [--configs FILE.json] [--no-pth] [--list]

`small` is the set that lies in the repository, in tests/golden/cases. To save room, some of its cases have only one of
the two weight files, and cases that differ in nothing but settings or inputs point to the same one by a symbolic link.

Cases named conveyor_* and the suite `demo` are rollouts of trained policies (examples/conveyor): a policy runs in the simulator,
which takes a C compiler to build, and the pictures that it saw are the inputs. `demo` has a whole episode for every policy that
is there, shipped or trained into build/conveyor; `make demo-compare` makes and judges it.

For each case OUT/NAME/ holds
    model.pth             state_dict as torch.save writes it (same keys, order and aliasing as an official checkpoint;
                          tensors tagged cuda:0 in some cases, as after training on a GPU)
    model.safetensors     the same weights, every aliased tensor once; __metadata__ maps dropped key -> kept key
    config.json           architecture, what cannot be read off the tensors, the scaler, the errors to compare with
    case.safetensors      inputs and expected outputs

Weights may be stored as f32, f16, bf16, f64 or a mixture; the model is rounded to what is stored before it is run, so
the expected outputs belong to the file exactly.

config.json holds four errors per output, each the largest absolute difference in that output tensor to float64:
    float32_error         PyTorch in float32, on this very case
    float32_error_near    the upper quartile of the same over neighbouring inputs (jittered by 1 %, or one grey level in
                          pictures), each against its own float64 run. One run may be right by luck: where the reverse
                          chain is steep, runs a per cent apart differ tenfold and more in their error
    bf16_error            float64, but every linear and convolution rounds its weights and its input to bf16
    int8_error            the same with int8: weights per output channel, inputs per token or picture (absmax / 127)
the last two are the largest over the case and, where that is cheap, a few of its neighbours.

case.safetensors, single-inference cases (B = batch, T = frames, S = denoiser calls, A = chunk, D = action_dim)
    in.image.<cam>  U8  [B,T,H,W,3]   or  in.features F32 [B,T,state_dim]     in.lang F32 [B,512]
    in.x_T F32 [B,A,D]   in.noise F32 [S,B,A,D]   in.step I32 [S]              (ddpm; noise of step 0 is never used)
    scaler.mean/std/min/max F32 [D]   scaler.bounds F64 [2,D]
    out.kp.<cam> F32 [B,T,32,2]   out.feat.<cam> F32 [B,T,feat]   out.obs F32 [B,(1+)T,state_dim]
    out.time_emb F32 [n_timesteps,d_model]
    out.eps, out.x0 (after clipping), out.x  F32 [S,B,A,D]
    out.action_norm F32 [B,A,D]   out.action F32 [B,A,D]  (after the inverse scaler)
    ref64.*  the float64 value of the same quantity (same float32 schedule tables), to judge accuracy
rollout cases (N environment steps, K network runs)
    in.image.<cam> U8 [N,H,W,3] or in.features F32 [N,state_dim]   in.lang F32 [1,512]
    in.x_T F32 [K,1,A,D]   in.noise F32 [K,S,1,A,D]
    out.infer_at I32 [K]   out.frames_seen I32 [K]   out.actions F32 [N,D]   ref64.actions F64 [N,D]
"""
import argparse
import copy
import json
import os
import sys
import zlib

import numpy as np
import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import mail_reference as R  # noqa: E402

NO_CAMS = {}
TWO = lambda h, w: {"agentview_rgb": (h, w), "eye_in_hand_rgb": (h, w)}


def case(name, suite, kind="single", frames=None, batch=1, steps=0, chunk=None, scale_data=True,
         temperature=None, cuda_tag=False, quiet=False, storage="f32", files="both",
         weights_of=None, share=False, recorded=None, **cfg):
    cfg.setdefault("cameras", NO_CAMS)
    return dict(name=name, suite=suite, kind=kind, frames=frames, batch=batch, steps=steps, chunk=chunk,
                scale_data=scale_data, temperature=temperature, cuda_tag=cuda_tag, quiet=quiet, storage=storage,
                files=files, weights_of=weights_of, share=share, recorded=recorded, config=R.Config(**cfg))


ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))


def conveyor():
    """examples/conveyor/train.py as a module, without its own forward passes"""
    sys.path.insert(0, os.path.join(ROOT, "examples", "conveyor"))
    import train
    train.use(train.PLAIN)
    return train


def recorded_case(name, suite, policy, episode, **kw):
    """A case of a trained policy in the simulator; policy: its file, of which the name says what it is."""
    T = conveyor()
    return case(name, suite, storage="bf16", files="safetensors", chunk=T.EXECUTE, recorded=(policy, episode),
                **vars(T.config(os.path.basename(policy).split(".")[0])), **kw)


def demo_cases():
    """Whole episodes of every conveyor policy that is there."""
    out = []
    for name in conveyor().POLICIES:
        paths = [os.path.join(ROOT, d, name + ".safetensors") for d in ("examples/conveyor", "build/conveyor")]
        for path in [p for p in paths if os.path.exists(p)][:1]:
            out.append(recorded_case("demo_" + name, "demo", path, 2024, kind="rollout", steps=80))
    return out


def small_cases():
    """The committed set: every architecture, algorithm and format at toy size."""
    out = []
    base = dict(d_model=16, state_dim=12, n_layers=2, d_state=5, d_conv=3, enc_layers=1, dec_layers=2, enc_state=4,
                dec_state=6, enc_conv=4, dec_conv=2, n_heads=2, act_seq=3, action_dim=2, lang_dim=40, n_timesteps=8)

    def one(name, **kw):
        out.append(case(name, "small", **{**base, "files": "safetensors", "storage": "f16", **kw}))

    n = 0
    for arch in ("d_ma", "ed_ma", "d_tr", "ed_tr"):
        for algo in ("ddpm", "bc"):
            for lang in (False, True):
                tag = f"{arch}_{algo}{'_lang' if lang else ''}"
                same = dict(arch=arch, algo=algo, lang=lang)
                five = dict(same, obs_seq=5, storage=("f16", "bf16")[n % 2])
                one(tag + "_h5", batch=1 + n % 2, cuda_tag=n % 4 == 0, files="safetensors" if lang else "both", **five)
                one(tag + "_short", frames=2, n_timesteps=6, weights_of=tag + "_h5", **five)
                one(tag + "_h1", d_model=8, n_layers=1, dec_layers=1, n_timesteps=16, **same)
                n += 1
    # every storage type, in both kinds of file
    for i, kind in enumerate(("f32", "f16", "bf16", "mixed", "f64")):
        one("store_%s" % kind, arch=("d_ma", "ed_tr")[i % 2], lang=i > 2, storage=kind, files="both",
            cuda_tag=i % 2 == 0, n_timesteps=4, d_model=8, n_layers=1, dec_layers=1)
    # widths that fill no vector
    one("odd_d_ma", arch="d_ma", obs_seq=3, batch=3, d_model=24, state_dim=20, action_dim=7, act_seq=5, d_state=7,
        d_conv=4, n_layers=1, n_timesteps=6)
    one("odd_ed_ma", arch="ed_ma", obs_seq=3, batch=2, d_model=40, state_dim=9, action_dim=5, act_seq=7, enc_state=3,
        dec_state=17, enc_conv=2, dec_conv=4, dec_layers=1, n_timesteps=5)
    one("odd_d_tr", arch="d_tr", obs_seq=4, batch=2, d_model=24, n_heads=3, state_dim=11, action_dim=8, act_seq=6,
        n_layers=1, n_timesteps=6)
    one("odd_ed_tr", arch="ed_tr", obs_seq=4, batch=3, d_model=30, n_heads=3, state_dim=7, action_dim=3, act_seq=5,
        dec_layers=1, n_timesteps=4)
    one("odd_d_ma_bc", arch="d_ma", algo="bc", obs_seq=2, batch=3, d_model=20, expand=3, d_conv=2, d_state=1,
        n_layers=1, action_dim=1, act_seq=1)
    one("expand1_d_ma", arch="d_ma", obs_seq=2, expand=1, d_model=24, d_state=16, d_conv=2, n_timesteps=6)
    one("expand3_ed_ma", arch="ed_ma", obs_seq=2, expand=3, d_conv=4, n_timesteps=6, lang=True, dec_layers=1)
    one("long_d_ma", arch="d_ma", obs_seq=10, act_seq=16, n_layers=3, d_state=16, d_conv=4, n_timesteps=4)
    one("wide_d_ma", arch="d_ma", act_seq=5, n_layers=1, d_model=48, state_dim=64, d_state=16, d_conv=4, n_timesteps=4)
    one("wide_d_tr", arch="d_tr", act_seq=10, n_layers=1, d_model=32, state_dim=64, n_heads=4, n_timesteps=4)
    one("taps1_ed_ma", arch="ed_ma", enc_conv=1, dec_conv=3, dec_layers=1, n_timesteps=6)
    one("lang512_ed_ma", arch="ed_ma", lang=True, lang_dim=512, obs_seq=2, d_model=8, dec_layers=1, n_timesteps=4)
    # diffusion: other settings of the policies above
    like = {arch: dict(arch=arch, obs_seq=5, weights_of=arch + "_ddpm_h5", storage="f16")
            for arch in ("d_ma", "ed_ma", "d_tr", "ed_tr")}
    one("linear_d_ma", schedule="linear", n_timesteps=16, **like["d_ma"])
    one("linear50_d_tr", schedule="linear", n_timesteps=50, frames=1, **like["d_tr"])
    one("vp_ed_ma", schedule="vp", n_timesteps=16, **like["ed_ma"])
    one("cosine50_ed_tr", n_timesteps=50, **like["ed_tr"])
    one("steps4_d_tr", n_timesteps=4, **like["d_tr"])
    one("steps1_d_ma", arch="d_ma", n_timesteps=1)
    one("dx10_ed_ma", diffusion_x=10, **like["ed_ma"])
    one("dx3_vp_d_ma", diffusion_x=3, schedule="vp", **like["d_ma"])
    one("noclip_d_ma", clip_denoised=False, schedule="linear", **like["d_ma"])
    one("noclip_ed_tr", clip_denoised=False, schedule="vp", **like["ed_tr"])
    one("x0_d_tr", predict_epsilon=False, **like["d_tr"])
    one("x0_ed_ma", predict_epsilon=False, clip_denoised=False, frames=4, **like["ed_ma"])
    one("noscale_d_ma", scale_data=False, **like["d_ma"])
    one("noscale_ed_tr_bc", scale_data=False, arch="ed_tr", algo="bc", obs_seq=5, weights_of="ed_tr_bc_h5")
    for arch in like:
        one(f"quiet_{arch}", arch=arch, obs_seq=2, quiet=True, storage="f32", d_model=8, n_layers=1, dec_layers=1)
        one(f"roll_{arch}", kind="rollout", steps=11, **like[arch])
    one("roll_chunk2_ed_ma_bc", kind="rollout", steps=9, chunk=2, arch="ed_ma", algo="bc", lang=True, obs_seq=5,
        storage="bf16", weights_of="ed_ma_bc_lang_h5")
    one("roll_chunk1_ed_tr", kind="rollout", steps=7, chunk=1, **like["ed_tr"])
    one("roll_noscale_d_tr", kind="rollout", steps=8, chunk=2, arch="d_tr", lang=True, obs_seq=5, scale_data=False,
        storage="bf16", weights_of="d_tr_ddpm_lang_h5")
    # pictures: a ResNet-18 of a quarter of the width, at sizes that are no multiple of 32
    eye = dict(res_width=16, feat_dim=10, d_model=8, dec_layers=1, n_timesteps=4, temperature=0.75)
    one("vision_one", arch="ed_ma", obs_seq=3, batch=2, state_dim=10, cameras={"wrist_rgb": (50, 70)}, **eye)
    one("vision_one_short", arch="ed_ma", obs_seq=3, frames=1, state_dim=10, cameras={"wrist_rgb": (50, 70)},
        weights_of="vision_one", **eye)
    one("vision_one_roll", kind="rollout", steps=7, arch="ed_ma", obs_seq=3, state_dim=10,
        cameras={"wrist_rgb": (50, 70)}, weights_of="vision_one", **eye)
    # the shipped policy at work: its first decisions, and one decision with all that leads to it
    shipped = os.path.join(ROOT, "examples", "conveyor", "d_ma_h5_ddpm.safetensors")
    out.append(recorded_case("conveyor_roll", "small", shipped, 4, kind="rollout", steps=11))
    out.append(recorded_case("conveyor_one", "small", shipped, 5, steps=13))
    # two cameras of different size, one of them quiet; to save room they share the last two stages, as a .pth can say
    one("vision_two", arch="d_ma", n_layers=2, obs_seq=2, state_dim=20, quiet="eye_in_hand_rgb", share=True, files="pth",
        storage="bf16", cuda_tag=True, cameras={"eye_in_hand_rgb": (33, 64), "agentview_rgb": (97, 40)}, **eye)
    return out


def default_cases():
    out = small_cases() + demo_cases()
    # --- tiny: small odd sizes, features given, every (arch, algo, lang) combination
    tiny = dict(d_model=32, state_dim=24, n_layers=2, d_state=5, d_conv=3, enc_layers=2, dec_layers=3,
                enc_state=4, dec_state=6, enc_conv=4, dec_conv=2, n_heads=4, act_seq=4, action_dim=3)
    for arch in ("d_ma", "ed_ma", "d_tr", "ed_tr"):
        for algo in ("ddpm", "bc"):
            for lang in (False, True):
                tag = f"{arch}_{algo}{'_lang' if lang else ''}"
                out.append(case("tiny_" + tag + "_h1", "tiny", arch=arch, algo=algo, lang=lang, obs_seq=1, **tiny))
                out.append(case("tiny_" + tag + "_h5", "tiny", arch=arch, algo=algo, lang=lang, obs_seq=5, batch=2, **tiny))
                out.append(case("tiny_" + tag + "_h5_short", "tiny", arch=arch, algo=algo, lang=lang, obs_seq=5, frames=2, **tiny))
    odd = dict(tiny, d_model=48, state_dim=40, n_heads=3, action_dim=8, act_seq=7)
    for arch in ("d_ma", "ed_ma", "d_tr", "ed_tr"):
        out.append(case(f"tiny_{arch}_odd", "tiny", arch=arch, obs_seq=3, batch=3, **odd))
        out.append(case(f"tiny_{arch}_quiet", "tiny", arch=arch, obs_seq=2, quiet=True, **tiny))
        out.append(case(f"tiny_{arch}_roll", "tiny", kind="rollout", steps=14, arch=arch, obs_seq=3, **tiny))
    out += [
        case("tiny_d_ma_linear", "tiny", arch="d_ma", schedule="linear", **tiny),
        case("tiny_ed_ma_vp", "tiny", arch="ed_ma", schedule="vp", obs_seq=5, **tiny),
        case("tiny_d_tr_cosine50", "tiny", arch="d_tr", n_timesteps=50, **tiny),
        case("tiny_ed_tr_cosine4", "tiny", arch="ed_tr", n_timesteps=4, **tiny),
        case("tiny_ed_ma_dx10", "tiny", arch="ed_ma", diffusion_x=10, obs_seq=5, **tiny),
        case("tiny_d_ma_dx3_vp", "tiny", arch="d_ma", diffusion_x=3, schedule="vp", **tiny),
        case("tiny_d_ma_noscale", "tiny", arch="d_ma", scale_data=False, **tiny),
        case("tiny_d_ma_bc_noscale", "tiny", arch="d_ma", algo="bc", scale_data=False, **tiny),
        case("tiny_ed_ma_bc_chunk2", "tiny", kind="rollout", steps=9, chunk=2, arch="ed_ma", algo="bc", lang=True, obs_seq=5, **tiny),
        case("tiny_ed_tr_chunk1", "tiny", kind="rollout", steps=7, chunk=1, arch="ed_tr", obs_seq=4, **tiny),
        case("tiny_d_ma_long", "tiny", arch="d_ma", obs_seq=10, **dict(tiny, act_seq=16, n_layers=3, d_state=16, d_conv=4)),
    ]
    # --- head: real sizes without the ResNets (paper hyper-parameters)
    L10 = dict(act_seq=10)
    for H in (1, 5):
        out += [
            case(f"head_d_ma_h{H}", "head", arch="d_ma", obs_seq=H, n_layers=16, d_state=16, d_conv=4, cuda_tag=True, **L10),
            case(f"head_ed_ma_h{H}", "head", arch="ed_ma", obs_seq=H, enc_layers=10, dec_layers=6, enc_state=16, dec_state=16,
                 enc_conv=4, dec_conv=2, **L10),
            case(f"head_d_tr_h{H}", "head", arch="d_tr", obs_seq=H, n_layers=8, **L10),
            case(f"head_ed_tr_h{H}", "head", arch="ed_tr", obs_seq=H, enc_layers=4, dec_layers=6, **L10),
            case(f"head_d_ma_lang_h{H}", "head", arch="d_ma", lang=True, obs_seq=H, act_seq=5, n_layers=16, d_state=8, d_conv=4),
            case(f"head_ed_ma_lang_h{H}", "head", arch="ed_ma", lang=True, obs_seq=H, act_seq=5, enc_layers=10, dec_layers=10,
                 enc_state=16, dec_state=16, enc_conv=4, dec_conv=2),
            case(f"head_d_tr_lang_h{H}", "head", arch="d_tr", lang=True, obs_seq=H, act_seq=5, n_layers=8),
            case(f"head_ed_tr_lang_h{H}", "head", arch="ed_tr", lang=True, obs_seq=H, act_seq=5, enc_layers=4, dec_layers=6),
            case(f"head_d_ma_bc_h{H}", "head", arch="d_ma", algo="bc", obs_seq=H, n_layers=16, **L10),
            case(f"head_ed_ma_bc_h{H}", "head", arch="ed_ma", algo="bc", obs_seq=H, enc_layers=8, dec_layers=10, enc_state=8, dec_state=8,
                 enc_conv=2, dec_conv=2, **L10),
            case(f"head_d_tr_bc_h{H}", "head", arch="d_tr", algo="bc", obs_seq=H, n_layers=8, **L10),
            case(f"head_ed_tr_bc_h{H}", "head", arch="ed_tr", algo="bc", obs_seq=H, enc_layers=4, dec_layers=6, **L10),
        ]
    out += [
        case("head_ed_ma_h10", "head", arch="ed_ma", obs_seq=10, act_seq=10, enc_layers=8, dec_layers=10, enc_state=8, dec_state=8, enc_conv=2, dec_conv=2),
        case("head_d_ma_h5_short", "head", arch="d_ma", obs_seq=5, frames=1, act_seq=10),
        case("head_ed_ma_dx10", "head", arch="ed_ma", obs_seq=5, act_seq=5, diffusion_x=10),
    ]
    # --- vision: uint8 pictures through both ResNets
    out += [
        case("vision_d_ma_h1", "vision", arch="d_ma", obs_seq=1, act_seq=10, cameras=TWO(128, 128), cuda_tag=True),
        case("vision_ed_ma_h5", "vision", arch="ed_ma", obs_seq=5, act_seq=10, cameras=TWO(128, 128)),
        case("vision_ed_ma_lang_h1", "vision", arch="ed_ma", lang=True, obs_seq=1, act_seq=5, dec_layers=10, cameras=TWO(128, 128)),
        case("vision_d_tr_bc_lang_h5", "vision", arch="d_tr", algo="bc", lang=True, obs_seq=5, frames=3, act_seq=5, n_layers=8, cameras=TWO(64, 96)),
        case("vision_ed_tr_oddsize", "vision", arch="ed_tr", obs_seq=1, act_seq=10, enc_layers=4, dec_layers=6, temperature=0.7, cameras=TWO(50, 70)),
        case("vision_ed_ma_robot", "vision", arch="ed_ma", obs_seq=1, act_seq=10, action_dim=8,
             cameras={"agentview_rgb": (128, 256), "eye_in_hand_rgb": (256, 256)}),
        case("vision_quiet", "vision", arch="d_ma", algo="bc", obs_seq=1, act_seq=5, n_layers=2, quiet=True, cameras=TWO(64, 64)),
        case("vision_d_ma_roll", "vision", kind="rollout", steps=11, arch="d_ma", obs_seq=5, act_seq=5, n_layers=4, cameras=TWO(32, 32)),
    ]
    return out


def pictures(g, shape):
    """Blobs plus noise, covering the full 0..255 range."""
    *lead, h, w, _ = shape
    n = int(np.prod(lead))
    low = torch.rand(n, 3, 5, 5, generator=g) * 340 - 40
    up = torch.nn.functional.interpolate(low, size=(h, w), mode="bilinear", align_corners=True)
    img = up + 18 * torch.randn(n, 3, h, w, generator=g)
    return img.clamp(0, 255).round().to(torch.uint8).movedim(1, -1).reshape(shape).contiguous()


def make_scaler(g, dim, enabled):
    spread = 0.15 + 0.45 * torch.rand(dim, generator=g)
    a = torch.randn(600, dim, generator=g) * spread + 0.2 * torch.randn(dim, generator=g)
    a[:, -1] = torch.where(torch.rand(600, generator=g) < 0.6, -1.0, 1.0)     # gripper-like
    a = a.clamp(-0.9375, 0.9375) if enabled else a * 4
    return R.Scaler.fit(a.numpy(), enabled)


def save_pth(sd, path, cuda_tag):
    if not cuda_tag:
        torch.save(sd, path)
        return
    reg = torch.serialization._package_registry
    keep = list(reg)
    torch.serialization.register_package(0, lambda s: "cuda:0", lambda s, loc: None)
    try:
        torch.save(sd, path)
    finally:
        reg[:] = keep


def case_seed(name, seed):
    return (zlib.crc32(name.encode()) + 7919 * seed) & 0x7fffffff     # does not depend on the list


def jittered(t, g):
    """Inputs next to the given ones: grey levels by one, everything else by 1 %."""
    out = {}
    for k, v in t.items():
        if v.dtype == torch.uint8:
            out[k] = (v.short() + torch.randint(-1, 2, v.shape, generator=g)).clamp(0, 255).to(torch.uint8)
        else:
            out[k] = v * (1 + 0.01 * torch.randn(v.shape, generator=g))
    return out


def coarse(wide, kind):
    """A copy of the float64 policy whose linears and convolutions see rounded weights and rounded inputs."""
    def bf16(v):
        return v.float().bfloat16().double()

    def int8(v, dims):
        scale = v.abs().amax(dims, keepdim=True).clamp(min=1e-30) / 127
        return (v / scale).round() * scale

    p = copy.deepcopy(wide)
    for mod in p.modules():
        if isinstance(mod, (torch.nn.Linear, torch.nn.Conv2d)):
            conv = isinstance(mod, torch.nn.Conv2d)
            w = mod.weight.data
            mod.weight.data = bf16(w) if kind == "bf16" else int8(w, tuple(range(1, w.dim())))
            dims = (1, 2, 3) if conv else (-1,)
            mod.register_forward_pre_hook(lambda m, i, d=dims: (bf16(i[0]) if kind == "bf16" else int8(i[0], d),))
    return p


def run_single(policy, c, scaler, t):
    """t: inputs by name, float32. -> outputs by name in the policy's precision"""
    double = policy.head.tok_emb.weight.dtype == torch.float64
    cast = lambda k: None if k not in t else t[k].double() if double else t[k]
    out, images = {}, None
    if c.cameras:
        images = {k: t["image." + k] for k in c.cameras}
        for k, v in images.items():
            out["feat." + k], out["kp." + k] = policy.obs_encoder.camera(k, v)
    if c.algo == "ddpm":
        steps = torch.arange(c.n_timesteps)[:, None]
        out["time_emb"] = policy.head.time_emb(steps.double() if double else steps.float())[:, 0]
    out.update(R.predict(policy, scaler, images, cast("features"), cast("lang"), cast("x_T"), cast("noise")))
    return out


def run_rollout(policy, c, scaler, t, steps, chunk):
    double = policy.head.tok_emb.weight.dtype == torch.float64
    cast = lambda v: v.double() if double else v
    it = iter(range(steps))

    def source():
        i = next(it)
        return cast(t["x_T"][i]), cast(t["noise"][i])
    r = R.Rollout(policy, scaler, chunk)
    frame = lambda i: {k: t["image." + k][i] for k in c.cameras} if c.cameras else cast(t["features"][i])
    return {"actions": torch.cat([r.step(frame(i), cast(t["lang"]) if c.lang else None, source) for i in range(steps)])}


def record(policy, scaler, episode, steps, chunk, x_T, noise):
    """Run an episode in the simulator, at most `steps` ticks. -> {camera: uint8 [ticks, H, W, 3]}; the actions follow from the
    pictures, so whoever gets them with the same noise acts the same, but for rounding."""
    T = conveyor()
    sim = T.build(os.path.join(ROOT, "build", "conveyor"))[0]
    state, frames, plans = np.zeros((1, sim.conveyor_size()), np.uint8), [], iter(range(steps))
    roll = R.Rollout(policy, scaler, chunk)
    sim.conveyor_reset(state.ctypes.data, episode)
    for _ in range(steps):
        frames.append({k: torch.from_numpy(T.render(sim, state, i, True))[0] for i, k in enumerate(T.CAMERAS)})

        def source():
            i = next(plans)
            return x_T[i], noise[i]
        action = roll.step(frames[-1], None, source)[0].numpy().copy()
        if sim.conveyor_step(state.ctypes.data, action.ctypes.data):
            break
    return {k: torch.stack([f[k] for f in frames]) for k in T.CAMERAS}


@torch.no_grad()
def build(spec, base_seed, out_dir, write_pth=True):
    c, seed, other = spec["config"], case_seed(spec["name"], base_seed), spec["weights_of"]
    g = torch.Generator().manual_seed(seed)
    if spec["recorded"]:
        other = os.path.basename(spec["recorded"][0])
        policy, scaler = conveyor().load(spec["recorded"][0], other.split(".")[0])
        policy.eval()
    else:
        policy = R.randomise(R.Policy(c), case_seed(other or spec["name"], base_seed), spec["temperature"], quiet=spec["quiet"])
        scaler = make_scaler(g, c.action_dim, spec["scale_data"])
    if spec["share"]:                                         # all cameras get the last two stages of the first by name
        nets = [policy.obs_encoder.key_model_map[k].backbone.nets for k in sorted(c.cameras)]
        for n in nets[1:]:
            n[6], n[7] = nets[0][6], nets[0][7]
    sd = R.stored(policy, spec["storage"])
    calls = (c.n_timesteps + c.diffusion_x) if c.algo == "ddpm" else 0
    frames = spec["frames"] or c.obs_seq
    single, chunk = spec["kind"] == "single", spec["chunk"] or c.act_seq
    scaling = {"scaler." + k: torch.from_numpy(getattr(scaler, k)) for k in ("mean", "std", "min", "max")}
    scaling["scaler.bounds"] = torch.from_numpy(scaler.bounds())

    # inputs; the order of the draws is part of what a seed means
    B, steps, runs = spec["batch"], spec["steps"], list(range(0, spec["steps"], chunk))
    lead, noise_lead = ((B, frames), ()) if single else ((steps,), (len(runs),))
    t = {}

    def draw_lang():
        if c.lang:
            t["lang"] = 0.44 * torch.randn(B, c.lang_dim, generator=g)

    if not single:
        draw_lang()
    if not spec["recorded"]:
        for k, (h, w) in c.cameras.items():
            t["image." + k] = pictures(g, (*lead, h, w, 3))
    if not c.cameras:
        t["features"] = 0.5 * torch.randn(*lead, c.state_dim, generator=g)
    if single:
        draw_lang()
    if calls:
        t["x_T"] = torch.randn(*noise_lead, B, c.act_seq, c.action_dim, generator=g)
        t["noise"] = torch.randn(*noise_lead, calls, B, c.act_seq, c.action_dim, generator=g)
    if spec["recorded"]:
        draw = [t.get(k, torch.zeros(0)) for k in ("x_T", "noise")]
        if single:                                            # every plan on the way with the noise that the case has
            draw = [v[None].expand(len(runs), *v.shape) for v in draw]
        seen = record(policy, scaler, spec["recorded"][1], spec["steps"], chunk, *draw)
        steps = len(seen[next(iter(seen))])
        runs = list(range(0, steps, chunk))
        for k, v in seen.items():
            t["image." + k] = v[None, -frames:] if single else v
        for k in () if single or not calls else ("x_T", "noise"):
            t[k] = t[k][:len(runs)].clone()

    # outputs and errors
    wide = copy.deepcopy(policy).double()
    rough = {k: coarse(wide, k) for k in ("bf16", "int8")}
    run = (lambda p, v: run_single(p, c, scaler, v)) if single else \
        (lambda p, v: run_rollout(p, c, scaler, v, steps, chunk))
    worst = lambda a, b: {k: float((a[k].double() - b[k]).abs().max()) for k in b}
    more = lambda a, b: {k: max(v, a.get(k, 0.0)) for k, v in b.items()}
    a, b = run(policy, t), run(wide, t)
    err, near, notes = worst(a, b), [], {}
    rough_err = {k: worst(run(p, t), b) for k, p in rough.items()}
    jitter = torch.Generator().manual_seed(seed ^ 0x5eed)
    n_near = {"small": 15, "tiny": 15, "custom": 15, "head": 7}.get(spec["suite"], 3)
    for i in range(n_near):
        v = jittered(t, jitter)
        b2 = run(wide, v)
        near.append(worst(run(policy, v), b2))
        for k, p in rough.items() if i < (7 if n_near > 3 else 0) else ():
            rough_err[k] = more(rough_err[k], worst(run(p, v), b2))
    near = {k: sorted(e[k] for e in near)[round(0.75 * (n_near - 1))] for k in err}
    if single:
        lo, hi = (torch.from_numpy(v).float() for v in scaler.bounds())
        if calls:
            notes["clipped_fraction"] = float(((a["action_norm"] <= lo) | (a["action_norm"] >= hi)).float().mean())
        # how much the result depends on what the robot sees (must not vanish)
        inverse = {k: 255 - v if v.dtype == torch.uint8 else v.flip(-1) if k == "features" else v for k, v in t.items()}
        notes["sensitivity"] = float((run(policy, inverse)["action_norm"] - a["action_norm"]).abs().max())
        assert notes["sensitivity"] > 0.02, (spec["name"], notes)

    full = {**scaling, **{"in." + k: v for k, v in t.items()}}
    if single and calls:
        full["in.step"] = torch.tensor(R.Schedule(c.schedule, c.n_timesteps).order(c.diffusion_x), dtype=torch.int32)
    if not single:
        full["out.infer_at"] = torch.tensor(runs, dtype=torch.int32)
        full["out.frames_seen"] = torch.tensor([min(i + 1, c.obs_seq) for i in runs], dtype=torch.int32)
    for k in b:
        full["out." + k], full["ref64." + k] = a[k], b[k]
    for k, v in full.items():
        assert torch.isfinite(v.double()).all(), (spec["name"], k)

    d = os.path.join(out_dir, spec["name"])
    os.makedirs(d, exist_ok=True)
    if spec["recorded"]:
        links = {"model.safetensors": os.path.relpath(spec["recorded"][0], d)}
    else:
        links = {n: os.path.join("..", other, n) for n in ("model.safetensors", "model.pth")
                 if other and os.path.exists(os.path.join(out_dir, other, n))}
    if links:
        for name, target in links.items():
            if os.path.lexists(os.path.join(d, name)):
                os.remove(os.path.join(d, name))
            os.symlink(target, os.path.join(d, name))
        p = os.path.join(d, "model.safetensors")
        there = R.load_safetensors(p)[0] if os.path.exists(p) else torch.load(p[:-11] + "pth", "cpu")
        for k, v in there.items():                            # the link must lead to the very weights that were run
            assert torch.equal(v, sd[k]), (spec["name"], k)
    else:
        if write_pth and spec["files"] != "safetensors":
            save_pth(sd, os.path.join(d, "model.pth"), spec["cuda_tag"])
        if spec["files"] != "pth":
            keep, alias = R.drop_aliases(sd)
            R.save_safetensors(os.path.join(d, "model.safetensors"), keep, alias)
    info = dict(name=spec["name"], kind=spec["kind"], seed=seed, frames=frames, batch=spec["batch"],
                n_action_steps=chunk, scale_data=spec["scale_data"], storage=spec["storage"], config=c.to_json(),
                scaler={k: getattr(scaler, k).tolist() for k in ("mean", "std", "min", "max")},
                camera_order=sorted(c.cameras), float32_error=err, float32_error_near=near,
                bf16_error=rough_err["bf16"], int8_error=rough_err["int8"], notes=notes)
    with open(os.path.join(d, "config.json"), "w") as f:
        json.dump(info, f, indent=1)
        f.write("\n")
    R.save_safetensors(os.path.join(d, "case.safetensors"), full, {"name": spec["name"], "kind": spec["kind"]})
    return info


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("out")
    ap.add_argument("--suite", default="tiny", choices=["small", "tiny", "head", "vision", "demo", "all"])
    ap.add_argument("--only", default="")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--configs", help="JSON list of {name, kind?, frames?, batch?, ..., config: {...}} used instead of the built-in list")
    ap.add_argument("--no-pth", action="store_true")
    ap.add_argument("--list", action="store_true")
    a = ap.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if a.configs:
        cases = []
        for d in json.load(open(a.configs)):
            d = dict(d)
            cfg = R.Config.from_json(d.pop("config"))
            base = case(d.pop("name"), "custom", **d)
            base["config"] = cfg
            cases.append(base)
    else:
        cases = default_cases()
    only = set(filter(None, a.only.split(",")))
    for spec in cases:
        if only and spec["name"] not in only:
            continue
        if not only and not a.configs and a.suite != "all" and spec["suite"] != a.suite:
            continue
        if a.list:
            print(spec["name"])
            continue
        info = build(spec, a.seed, a.out, not a.no_pth)
        e = info["float32_error"]
        k = "actions" if "actions" in e else "action"
        print("%-28s error of %s: float32 %.1e, near %.1e, bf16 %.1e, int8 %.1e  %s" % (
            spec["name"], k, e[k], info["float32_error_near"][k], info["bf16_error"][k], info["int8_error"][k],
            {k: round(v, 3) for k, v in info["notes"].items()}), flush=True)


if __name__ == "__main__":
    main()
