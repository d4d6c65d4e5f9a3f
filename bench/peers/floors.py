"""The time below which a work cannot be done on this machine, from its measured limits (bench/limits.c).

Convolutions, per layer: the larger of arithmetic and reading the layer's weights once; direct, Winograd F(2x2) or F(4x4) (of stride
2 by phases: 25 products for 2 x 2 outputs of a 3 x 3, 363 for 3 x 3 of the 7 x 7, three colours), whichever is least; Winograd's transforms and all
activations are taken as free, so the floor cannot quite be reached.
Denoisers: matrix products that are needed when everything that does not depend on the noisy actions is done once per
decision for all steps together and what depends on weights alone is done at load; the scan with 3 multiply-adds and one
exponential (counted as 11 multiply-adds, an estimate) per state and token. Norms, activations and softmax are free.
bf16 weights count as the integers of 16 bits that they become, int8 as those of 8, and where the processor has no such
products as floats; Winograd's products are those of floats."""
import json
import math
import os
import subprocess

EXP = 11


def most(a, b):
    """The larger of two measurements, entry by entry."""
    return {k: most(a[k], v) if isinstance(v, dict) else max(a[k], v) for k, v in b.items()} if a else b


def measure(root):
    """Build and run bench/limits.c. -> {"1": {...}, "2": {...}}, the best of this and earlier runs in this build folder:
    a limit that was reached once is one, and a busy machine shows less."""
    program = os.path.join(root, "build", "limits")
    os.makedirs(os.path.dirname(program), exist_ok=True)
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-pthread", os.path.join(root, "bench", "limits.c"), "-o", program], check=True)
    now = json.loads(subprocess.run([program], check=True, stdout=subprocess.PIPE, text=True).stdout)
    kept = program + ".json"
    if os.path.exists(kept):
        now = most(json.load(open(kept)), now)
    with open(kept, "w") as f:
        json.dump(now, f, indent=1)
    return now


def rates(limits, precision, threads, weight_bytes):
    """-> operations and bytes per millisecond; weights are read from wherever a set of that size stays"""
    def best(key):                                             # two threads are no slower than one, whatever was measured
        return max(key(limits[str(t)]) for t in (1, 2) if t <= threads)
    mib = max(weight_bytes / 2 ** 20, 1e-3)
    size = min(limits["1"]["read_gbs"], key=lambda k: abs(math.log(int(k) / mib)))
    ops = best(lambda m: m[{"f32": "f32_gflops", "bf16": "int16_gops", "int8": "int8_gops"}[precision]] or m["f32_gflops"])
    return ops * 1e6, best(lambda m: m["read_gbs"][size]) * 1e6


def convolutions(h, w, width=64):
    """(input channels, output channels, kernel, stride, output height, output width) of a camera's ResNet-18"""
    half = lambda v: (v + 1) // 2
    out, h, w = [(3, width, 7, 2, half(h), half(w))], half(half(h)), half(half(w))
    cin = width
    for cout in (width, 2 * width, 4 * width, 8 * width):
        stride = 1 if cout == width else 2
        if stride == 2:
            h, w = half(h), half(w)
            out.append((cin, cout, 1, 2, h, w))
        out += [(cin, cout, 3, stride, h, w)] + 3 * [(cout, cout, 3, 1, h, w)]
        cin = cout
    return out + [(cin, 32, 1, 1, h, w)]


def cost(layer, tile):
    """operations of a layer; tile 0: direct, else the edge of Winograd's output tile"""
    cin, cout, k, stride, h, w = layer
    if tile == 0 or k == 1:
        return 2 * cin * cout * k * k * h * w
    if stride == 2:
        tile, products = (3, 121) if k == 7 else (2, 25)
    else:
        products = (tile + 2) ** 2
    return 2 * cin * cout * products * math.ceil(h / tile) * math.ceil(w / tile)


def weights(layer):
    """weights of a layer, which Winograd transforms when they are used"""
    cin, cout, k = layer[:3]
    return cin * cout * k * k


def vision_ms(sizes, precision, threads, limits):
    size = {"f32": 4, "bf16": 2, "int8": 1}[precision]
    layers = [l for h, w in sizes for l in convolutions(h, w)]
    ops, read = rates(limits, precision, threads, size * sum(map(weights, layers)))
    plain, _ = rates(limits, "f32", threads, 1)

    def layer_ms(layer, tile):
        return max(cost(layer, tile) / (plain if tile else ops), size * weights(layer) / read)
    return sum(min(layer_ms(l, t) for t in (0, 2, 4)) for l in layers)


def mamba(tokens, layers, n=16, k=4, d=128):
    """operations of matrix products, and states updated, of tokens through a stack of layers"""
    e, r = 2 * d, d // 16
    return 2 * tokens * layers * (2 * d * e + e * k + e * (r + 2 * n) + r * e + e * d), tokens * layers * e * n


def transformer(tokens, layers, d=128):
    return 2 * tokens * layers * 12 * d * d, 0


def head_ms(arch, s, a, precision, threads, limits, steps=16, d=128):
    """One decision from s state tokens to a chunk of a actions."""
    if arch == "d_ma":
        parts = [mamba(steps * (s + a), 16)]
    elif arch == "ed_ma":
        parts = [mamba(steps * (s + a), 10), mamba(steps * a, 6, k=2), mamba(steps * s, 5, k=2)]
    elif arch == "d_tr":
        parts = [transformer(steps * (s + a), 8)]
    else:
        parts = [transformer(steps * s, 4), transformer(steps * a, 6), (2 * steps * 6 * (a * d * d + s * 2 * d * d), 0)]
    ops, _ = rates(limits, precision, threads, 1)
    plain, _ = rates(limits, "f32", threads, 1)
    return sum(p[0] for p in parts) / ops + sum(p[1] for p in parts) * 2 * (3 + EXP) / plain


def floor_ms(work, precision, threads, limits):
    pair, robot = ((128, 128), (128, 128)), ((128, 256), (256, 256))
    if work == "W1":
        return vision_ms(pair, precision, threads, limits)
    if work == "W1b":
        return vision_ms(robot, precision, threads, limits)
    if work.startswith("W2_S"):
        return head_ms("d_ma", int(work[4:]), 5, precision, threads, limits)
    if work == "W3":
        return floor_ms("W1", precision, threads, limits) + floor_ms("W2_S1", precision, threads, limits)
    if work.startswith("W4_"):
        return int(work[3:]) * 256 * 16 * 2 * (3 + EXP) / rates(limits, "f32", threads, 1)[0]
    arch, h = work.split("_H")
    return floor_ms("W1", precision, threads, limits) + head_ms(arch.lower().replace("-", "_"), int(h), 10, precision, threads, limits)


def main():
    """Pass on what bench_policy prints, with each row's share of the floor of this machine as a last column."""
    import re
    import sys
    here = os.path.dirname(os.path.abspath(__file__))
    limits, precision, threads = None, "f32", 1
    for line in sys.stdin:
        line = line.rstrip("\n")
        first = re.match(r"\w+, (\d+) threads?, weights (\w+);", line)
        row = re.match(r"(ED-Ma|D-Ma|ED-Tr|D-Tr) H(\d) +(observe|plan|both) +([\d.]+)", line)
        if first:
            threads, precision = min(int(first.group(1)), 2), first.group(2)
            limits = measure(os.path.join(here, "..", ".."))
        elif line.startswith("policy"):
            line += "   floor ms   share"
        elif row and limits:
            arch, history, part, median = row.groups()
            vision = floor_ms("W1", precision, threads, limits)
            plan = head_ms(arch.lower().replace("-", "_"), int(history), 5 if arch == "D-Ma" else 10, precision, threads, limits)
            floor = vision * (part != "plan") + plan * (part != "observe")
            line += "   %8.2f   %3.0f %%" % (floor, 100 * floor / float(median))
        print(line, flush=True)


if __name__ == "__main__":
    main()
