"""One peer in one process, asleep until asked.  usage: worker.py PEER THREADS WORK...

PEER is LIBRARY-PRECISION[-VARIANT]:
    ort-f32 ort-f32-ln ort-f32-plain ort-int8 ort-int8-ln    ONNX Runtime
    ov-f32 ov-f32-ln ov-int8 ov-int8-ln                      OpenVINO
    ncnn-f32 ncnn-bf16 ncnn-int8                             ncnn (encoders only)
    torch-f32 torch-compile-f32 torch-bf16                   PyTorch, eager and compiled

PEERS_CLOCK=cpu: the times are the lesser of wall clock and the process's processor time.

First 'err WORK largest-difference-to-float64' for each work and 'ready'. Then reads 'WORK RUNS' and answers with one line
of milliseconds, one per run.
"""
import os
import sys
import time

LIBRARY, _, REST = sys.argv[1].partition("-")
THREADS = int(sys.argv[2])
os.environ["OMP_NUM_THREADS"] = str(THREADS)
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.abspath(os.path.join(os.environ.get("PEERS_BUILD", "build/peers"), "inductor")))

import numpy as np  # noqa: E402
import torch  # noqa: E402

import works as W  # noqa: E402

torch.set_num_threads(THREADS)
torch.set_grad_enabled(False)
PARTS = set(REST.split("-"))
CPU_CLOCK = os.environ.get("PEERS_CLOCK") == "cpu"
INT8, BF16 = "int8" in PARTS, "bf16" in PARTS
TAIL = (".int8" if INT8 else "") + ".onnx"


def onnx_file(case, part):
    """The file for this variant; the plain form of a head is what the reference model exports as it stands."""
    kind = {"vision": "vision_ln" if "ln" in PARTS else "vision", "head": "head_plain" if "plain" in PARTS else "head"}
    if part == "vision":
        case = "robot" if case == "robot" else "d_ma_h1"          # the same sizes: every policy's encoders cost the same
    return os.path.join(W.model_dir(), "%s.%s%s" % (case, kind[part], TAIL))


# Each maker returns a function of NumPy arrays (in the order of the graph's inputs) -> NumPy array.
def make_ort(file):
    import onnxruntime as ort
    o = ort.SessionOptions()
    o.intra_op_num_threads, o.inter_op_num_threads = THREADS, 1
    o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    o.add_session_config_entry("session.intra_op.allow_spinning", "1")
    s = ort.InferenceSession(file, o, providers=["CPUExecutionProvider"])
    names = [i.name for i in s.get_inputs()]
    return lambda *a: s.run(None, dict(zip(names, a)))[0]


def make_ov(file):
    import openvino as ov
    core = ov.Core()
    model = core.compile_model(core.read_model(file), "CPU", {
        "INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if BF16 else "f32"})
    request = model.create_infer_request()
    return lambda *a: request.infer(list(a), share_inputs=True, share_outputs=True)[0]


def make_ncnn(stem):
    import ncnn
    net = ncnn.Net()
    net.opt.num_threads, net.opt.lightmode, net.opt.use_bf16_storage = THREADS, True, BF16
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(stem + ".param") or net.load_model(stem + ".bin"):
        raise SystemExit("ncnn cannot load " + stem)

    def run(picture):
        ex = net.create_extractor()
        ex.input("data", ncnn.Mat(picture[0]))
        return np.array(ex.extract("out")[1])
    return run


def make_torch(module, name):
    module = module.eval()
    if BF16:
        module = module.to(torch.bfloat16)
    f = torch.compile(module) if "compile" in PARTS else module
    cast = (lambda v: torch.from_numpy(v).to(torch.bfloat16)) if BF16 else torch.from_numpy
    return lambda *a: f(*map(cast, a)).float().numpy()


def vision(name, case):
    pictures = [p.numpy() for p in case.pictures]
    if LIBRARY == "ncnn":
        stem = "robot" if name == "robot" else "d_ma_h1"
        nets = [make_ncnn(os.path.join(W.model_dir(), "%s.vision%d%s" % (stem, i, ".int8" if INT8 else "")))
                for i in range(len(pictures))]
        return lambda: np.concatenate([n(p) for n, p in zip(nets, pictures)])[None]
    if LIBRARY == "torch":
        f = make_torch(W.Vision(case.policy()), name)
    else:
        f = {"ort": make_ort, "ov": make_ov}[LIBRARY](onnx_file(name, "vision"))
    return lambda: f(*pictures)


def head(name, case):
    if LIBRARY == "torch":
        f = make_torch(W.Denoiser(case.policy()), name)
    else:
        f = {"ort": make_ort, "ov": make_ov}[LIBRARY](onnx_file(name, "head"))
    run, states = case.sampler(), np.ascontiguousarray(case.states.numpy())
    return lambda: run(f, states)


def scan(name):
    t = W.scan_inputs(W.SCANS[name])
    want = W.scan_reference(t).numpy()
    if LIBRARY == "torch":
        a = t["A"].t().contiguous()
        f = W.scan if W.SCANS[name] <= 64 else W.scan_long
        f = torch.compile(f) if "compile" in PARTS and W.SCANS[name] <= 64 else torch.jit.script(f) if "compile" in PARTS else f
        run = lambda: (f(t["x"], t["dt"], a, t["B"], t["C"]) + t["D"] * t["x"]).numpy()
    else:
        g = {"ort": make_ort, "ov": make_ov}[LIBRARY](os.path.join(W.model_dir(), name + ".onnx"))
        args = [t[k].numpy() for k in ("x", "dt", "B", "C")]
        run = lambda: g(*args)
    return run, lambda y: np.abs(y - want).max()


def work(name):
    """-> (function to time, function from its result to the largest error)"""
    if name in W.SCANS:
        return scan(name)
    case_name, part = W.WORKS[name]
    case = W.Case(case_name)
    own = case_name in ("d_ma_h1", "robot") or LIBRARY == "torch"  # else another policy's encoders stand in: time, no result
    want_f = None if case.want_features is None else case.want_features.numpy()
    want_a = case.want_actions.numpy()
    if part == "vision":
        return vision(case_name, case), lambda y: np.abs(y - want_f).max()
    h = head(case_name, case)
    if part == "head":
        return h, lambda y: np.abs(y - want_a).max()
    v = vision(case_name, case)

    def check(y):
        e = np.abs(y[1] - want_a).max()
        return max(e, np.abs(y[0] - want_f).max()) if own else e
    return lambda: (v(), h()), check


def main():
    todo = {}
    for name in sys.argv[3:]:
        run, check = work(name)
        for _ in range(3):
            y = run()
        todo[name] = run
        print("err", name, "%.2e" % check(y), flush=True)
    print("ready", flush=True)
    for line in sys.stdin:
        name, runs = line.split()
        run, out = todo[name], []
        for _ in range(int(runs)):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            out.append((min(wall, cpu) if CPU_CLOCK else wall) * 1e3)
        print(" ".join("%.5f" % v for v in out), flush=True)


if __name__ == "__main__":
    main()
