"""Write what the peers need: golden cases of the works (weights, inputs, float64 results), ONNX files, the quantised
ONNX files, ncnn's param and bin files. Run by setup.sh in the peers' virtual environment."""
import os
import struct
import sys
import warnings

import numpy as np
import torch

import works as W

warnings.filterwarnings("ignore")
R = W.R
sys.path.insert(0, os.path.join(W.HERE, "..", "..", "tests", "golden"))
import make_cases as G  # noqa: E402


def write_cases():
    for name, cfg in W.CASES.items():
        if not os.path.exists(os.path.join(W.case_dir(name), "config.json")):
            G.build(G.case(name, "bench", **cfg), 0, os.path.join(W.BUILD, "cases"), write_pth=False)
            print("case", name, flush=True)
    os.makedirs(W.model_dir(), exist_ok=True)
    for name, length in W.SCANS.items():
        t = W.scan_inputs(length)
        R.save_safetensors(os.path.join(W.BUILD, "cases", name + ".safetensors"), {**t, "ref64": W.scan_reference(t)})


def path(name):
    return os.path.join(W.model_dir(), name)


def onnx(module, args, name, inputs):
    if not os.path.exists(path(name)):
        torch.onnx.export(module, args, path(name), input_names=inputs, output_names=["y"], opset_version=17,
                          do_constant_folding=True, dynamo=False)
        print("wrote", name, flush=True)


# ------------------------------------------------------------------------------------------------------- ncnn's files
class Ncnn:
    """Writes ncnn's text graph and weights. Blobs are named b0, b1, ..."""

    def __init__(self):
        self.lines, self.blobs, self.n, self.weights = [], set(), 0, bytearray()

    def layer(self, kind, ins, params="", outs=1):
        names = ["b%d" % (self.n + i) for i in range(outs)]
        self.n += outs
        self.lines.append("%s l%d %d %d %s %s" % (kind, len(self.lines), len(ins), outs, " ".join(ins + names), params))
        self.blobs.update(names)
        return names if outs > 1 else names[0]

    def input(self, name):
        self.lines.append("Input %s 0 1 %s" % (name, name))
        self.blobs.add(name)
        return name

    def put(self, t, flag=True):
        if flag:
            self.weights += struct.pack("<I", 0)                  # 0: float32 follows
        self.weights += np.ascontiguousarray(t.detach().numpy().astype(np.float32)).tobytes()

    def conv(self, x, c, scale=None):
        """scale: 127 / largest input, measured; then the layer is int8"""
        p = "0=%d 1=%d 2=1 3=%d 4=%d 5=%d 6=%d" % (c.out_channels, c.kernel_size[0], c.stride[0], c.padding[0],
                                                 c.bias is not None, c.weight.numel())
        if scale is None:
            self.put(c.weight)
        else:
            w = c.weight.detach()
            s = 127.0 / w.abs().amax((1, 2, 3)).clamp(min=1e-12)
            q = (w * s[:, None, None, None]).round().clamp(-127, 127).to(torch.int8).numpy().tobytes()
            self.weights += struct.pack("<I", 0x000D4B38) + q + b"\0" * (-len(q) % 4)
            p += " 8=2"
        if c.bias is not None:
            self.put(c.bias, False)
        if scale is not None:
            self.put(s, False)
            self.put(torch.tensor([scale]), False)
        return self.layer("Convolution", [x], p)

    def norm(self, x, g):
        self.put(g.weight, False)
        self.put(g.bias, False)
        return self.layer("GroupNorm", [x], "0=%d 1=%d 2=%e 3=1" % (g.num_groups, g.num_channels, g.eps))

    def linear(self, x, weight, bias):
        self.put(weight)
        if bias is not None:
            self.put(bias, False)
        return self.layer("InnerProduct", [x], "0=%d 1=%d 2=%d" % (weight.shape[0], bias is not None, weight.numel()))

    def save(self, name, out):
        self.lines[-1] = self.lines[-1].replace(" %s " % out, " out ")
        self.blobs.discard(out)
        self.blobs.add("out")
        with open(path(name + ".param"), "w") as f:
            f.write("7767517\n%d %d\n%s\n" % (len(self.lines), len(self.blobs), "\n".join(self.lines)))
        with open(path(name + ".bin"), "wb") as f:
            f.write(bytes(self.weights))


def ncnn_camera(name, net, picture, int8):
    """net: backbone, pool, flatten, linear"""
    backbone, pool, _, linear = net
    scales = {}
    if int8:                                                    # calibration: the largest input of every convolution
        hooks = [m.register_forward_pre_hook(lambda m, i: scales.__setitem__(m, 127.0 / float(i[0].abs().max())))
                 for m in backbone.modules() if isinstance(m, torch.nn.Conv2d)]
        net(picture)
        for h in hooks:
            h.remove()
    n, nets = Ncnn(), backbone.nets
    relu = lambda x: n.layer("ReLU", [x])
    conv = lambda x, c, g: n.norm(n.conv(x, c, scales.get(c)), g)
    x = relu(conv(n.input("data"), nets[0], nets[1]))
    x = n.layer("Pooling", [x], "0=0 1=3 2=2 3=1 5=1")
    for stage in nets[4:8]:
        for b in stage:
            p, q = n.layer("Split", [x], "", 2)
            y = conv(relu(conv(p, b.conv1, b.bn1)), b.conv2, b.bn2)
            if hasattr(b, "downsample"):
                q = conv(q, b.downsample[0], b.downsample[1])
            x = relu(n.layer("BinaryOp", [y, q], "0=0"))
    pos = torch.cat([pool.pos_x, pool.pos_y])                   # [2, h * w]
    x = n.conv(x, pool.nets)
    x = n.layer("Reshape", [x], "0=%d 1=%d" % (pos.shape[1], pool.nets.out_channels))
    x = n.layer("Softmax", [x], "0=1 1=1")
    x = n.linear(x, pos, None)
    x = n.layer("Reshape", [x], "0=%d" % (2 * pool.nets.out_channels))
    n.save(name, n.linear(x, linear.weight, linear.bias))


# ---------------------------------------------------------------------------------------- int8 for ONNX Runtime and OpenVINO
def quantise(name, out, reader, linear_only):
    if os.path.exists(path(out)):
        return
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
    if linear_only:
        quantize_dynamic(path(name), path(out), weight_type=QuantType.QInt8, per_channel=True)
    else:
        class Reader(CalibrationDataReader):
            def __init__(self):
                self.it = iter(reader)

            def get_next(self):
                return next(self.it, None)
        quantize_static(path(name), path(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                        op_types_to_quantize=["Conv", "Add", "Relu", "MaxPool"])
    print("wrote", out, flush=True)


def main():
    write_cases()
    torch.set_grad_enabled(False)
    for name in W.CASES:
        c = W.Case(name)
        policy = c.policy()
        names = ["x%d" % i for i in range(len(c.pictures))]
        if c.pictures and name in ("d_ma_h1", "robot"):
            v = W.Vision(policy)
            onnx(v, tuple(c.pictures), name + ".vision.onnx", names)
            for i, net in enumerate(v.nets):
                ncnn_camera("%s.vision%d" % (name, i), net, c.pictures[i], False)
                ncnn_camera("%s.vision%d.int8" % (name, i), net, c.pictures[i], True)
            onnx(W.group_norm_as_layer_norm(v), tuple(c.pictures), name + ".vision_ln.onnx", names)
            g = torch.Generator().manual_seed(1)
            feed = []
            for _ in range(8):                                  # calibration pictures like the case's, other seeds
                pics = [R.VisionEncoder.normalise(G.pictures(g, (1, *p.shape[2:], 3))) for p in c.pictures]
                feed.append(dict(zip(names, (p.numpy() for p in pics))))
            for kind in ("vision", "vision_ln"):
                quantise("%s.%s.onnx" % (name, kind), "%s.%s.int8.onnx" % (name, kind), feed, False)
        if name == "robot":
            continue
        args = (c.states, c.x, torch.tensor([3.0]))
        for kind in ("head", "head_plain"):
            onnx(W.Denoiser(c.policy(), kind == "head").eval(), args, "%s.%s.onnx" % (name, kind), ["states", "x", "step"])
        quantise(name + ".head.onnx", name + ".head.int8.onnx", None, True)
    for name, length in W.SCANS.items():
        scan_onnx(name, length)
    print("exported")


def scan_onnx(name, length):
    """The selective scan as an ONNX Scan node, state as (d_state, d_inner); torch's exporter would unroll it."""
    from onnx import TensorProto, helper as H, numpy_helper as N, save
    if os.path.exists(path(name + ".onnx")):
        return
    t = W.scan_inputs(length)
    e, n = t["A"].shape
    value = lambda k, s: H.make_tensor_value_info(k, TensorProto.FLOAT, s)
    node = H.make_node
    body = H.make_graph(
        [node("Mul", ["A", "dt_t"], ["dtA"]), node("Exp", ["dtA"], ["decay"]), node("Unsqueeze", ["B_t", "last"], ["Bc"]),
         node("Mul", ["Bc", "dtx_t"], ["add"]), node("Mul", ["decay", "h"], ["kept"]), node("Add", ["kept", "add"], ["h_out"]),
         node("MatMul", ["C_t", "h_out"], ["y_t"])], "body",
        [value("h", [n, e]), value("dt_t", [e]), value("dtx_t", [e]), value("B_t", [n]), value("C_t", [n])],
        [value("h_out", [n, e]), value("y_t", [e])])
    graph = H.make_graph(
        [node("Mul", ["dt", "x"], ["dtx"]),
         node("Scan", ["h0", "dt", "dtx", "B", "C"], ["hN", "ys"], body=body, num_scan_inputs=4),
         node("Mul", ["x", "D"], ["xD"]), node("Add", ["ys", "xD"], ["y"])], "scan",
        [value("x", [length, e]), value("dt", [length, e]), value("B", [length, n]), value("C", [length, n])],
        [value("y", [length, e])],
        [N.from_array(t["A"].t().contiguous().numpy(), "A"), N.from_array(t["D"].numpy(), "D"),
         N.from_array(np.zeros((n, e), np.float32), "h0"), N.from_array(np.array([-1], np.int64), "last")])
    save(H.make_model(graph, opset_imports=[H.make_opsetid("", 17)], ir_version=8), path(name + ".onnx"))


if __name__ == "__main__":
    main()
