#!/usr/bin/env python3
"""Run the studies of the conveyor task in C and write RESULTS.md with its plots (SVG); `make demo-table` calls it.

    python3 results.py EVALUATE [--episodes 500] [--torch PYTHON] [--quick] POLICY.safetensors...

EVALUATE is the program built from evaluate.c. With --torch the same seeds also run through PyTorch by `PYTHON train.py --eval`
(the noise differs, so the two agree within their intervals, not episode by episode). --quick: a tenth of the episodes,
into the folder of EVALUATE instead of this one. Standard library only.
"""
import argparse
import hashlib
import json
import math
import os
import platform
import re
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = {
    "d_ma_h5_ddpm": "D-Ma, history 5, DDPM",
    "d_ma_h5_bc": "D-Ma, history 5, BC",
    "d_ma_h1_ddpm": "D-Ma, history 1, DDPM",
    "d_tr_h5_ddpm": "D-Tr, history 5, DDPM",
    "ed_ma_h5_ddpm": "ED-Ma, history 5, DDPM",
}
COLOURS = ("#c8324b", "#2864c8", "#288c46", "#b07800", "#7840b0")


def interval(k, n):
    """95 % Wilson interval of k successes in n"""
    z, p = 1.959964, k / n
    mid, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (mid - half) / (1 + z * z / n), (mid + half) / (1 + z * z / n)


def percent(k, n):
    lo, hi = interval(k, n)
    return "%.1f %% (%.1f to %.1f)" % (100 * k / n, 100 * lo, 100 * hi)


def stem(path):
    return os.path.basename(path).split(".")[0]


def evaluate(program, path, episodes, *more):
    """-> dict of the numbers evaluate.c prints; results are kept beside the program, by its bytes and the policy's"""
    store, key = program + ".results", hashlib.sha256()
    for name in (program, path):
        with open(name, "rb") as f:
            key.update(f.read())
    key = " ".join((key.hexdigest()[:16], str(episodes), *more))
    known = {}
    if os.path.exists(store):
        with open(store) as f:
            known = json.load(f)
    if key not in known:
        known[key] = subprocess.run([program, "--episodes", str(episodes), *more, path], check=True, stdout=subprocess.PIPE,
                                    universal_newlines=True).stdout
        with open(store, "w") as f:
            json.dump(known, f, indent=1)
    line = known[key].split()
    keys = ("n", "caught", "hit", "missed", "timeout", "left", "right", "ticks", "ms", "ms_worst")
    row = {k: float(v) for k, v in zip(keys, line[-len(keys):])}
    print(stem(path), *more, percent(row["caught"], row["n"]), flush=True)
    return row


def chart(path, title, xlabel, series):
    """series: name -> list of (x, successes, episodes); writes a line chart with error bars"""
    w, h, left, right, top, bottom = 640, 360, 60, 200, 36, 48
    xs = sorted({x for points in series.values() for x, _, _ in points})
    span = (xs[-1] - xs[0]) or 1

    def px(x):
        return left + (x - xs[0]) / span * (w - left - right)

    def py(v):
        return h - bottom - v * (h - top - bottom)

    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">' % (w, h),
           '<rect width="100%" height="100%" fill="white"/>',
           '<text x="%d" y="20" font-size="14">%s</text>' % (left, title),
           '<text x="%d" y="%d" text-anchor="middle">%s</text>' % ((left + w - right) / 2, h - 10, xlabel)]
    for v in (0, 0.25, 0.5, 0.75, 1):
        out.append('<path d="M%.1f %.1fH%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%d %%</text>' % (
            left, py(v), w - right, left - 6, py(v) + 4, 100 * v))
    for x in xs:
        out.append('<text x="%.1f" y="%d" text-anchor="middle">%g</text>' % (px(x), h - bottom + 16, x))
    for i, (name, points) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        out.append('<polyline fill="none" stroke="%s" stroke-width="2" points="%s"/>' % (
            colour, " ".join("%.1f,%.1f" % (px(x), py(k / n)) for x, k, n in points)))
        for x, k, n in points:
            lo, hi = interval(k, n)
            out.append('<path d="M%.1f %.1fV%.1f" stroke="%s"/><circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>' % (
                px(x), py(lo), py(hi), colour, px(x), py(k / n), colour))
        out.append('<text x="%d" y="%d" fill="%s">%s</text>' % (w - right + 10, top + 18 * i + 10, colour, name))
    with open(path, "w") as f:
        f.write("\n".join(out + ["</svg>\n"]))


def processor():
    try:
        with open("/proc/cpuinfo") as f:
            return re.search(r"model name\s*:\s*(.*)", f.read()).group(1)
    except (OSError, AttributeError):
        return platform.machine()


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("evaluate")
    p.add_argument("policies", nargs="+")
    p.add_argument("--episodes", type=int, default=500)
    p.add_argument("--studies", type=int, default=200, help="episodes for all but the first table")
    p.add_argument("--torch", metavar="PYTHON")
    p.add_argument("--quick", action="store_true")
    args = p.parse_args()
    program = os.path.abspath(args.evaluate)
    out = os.path.dirname(program) if args.quick else HERE
    n, m = (max(20, v // 10) if args.quick else v for v in (args.episodes, args.studies))
    text = ["# Results of the conveyor task", "",
            "Written by `results.py` (`make demo-table`); do not edit. %d episodes each, seeds 0 to %d, which no demonstration"
            % (n, n - 1), "used, unless another number is given; every number but those marked PyTorch comes from the C program `evaluate.c`. In brackets: 95 % Wilson intervals.",
            "Milliseconds were measured on %s, one thread, other work running beside." % processor(), ""]
    notes = os.path.join(HERE, "NOTES.md")
    if os.path.exists(notes):
        with open(notes) as f:
            text += f.read().strip().split("\n") + [""]

    text += ["## Policies", "",
             "| policy | caught | hit the obstacle | closed on nothing | out of time | left / right | ticks | ms a decision |%s" %
             (" PyTorch, caught |" if args.torch else ""), "|---|---|---|---|---|---|---|---|%s" % ("---|" if args.torch else "")]
    base = {}
    for path in args.policies:
        r = base[path] = evaluate(program, path, n)
        row = "| %s | %s | %d | %d | %d | %d / %d | %.1f | %.2f |" % (
            NAMES.get(stem(path), stem(path)), percent(r["caught"], n), r["hit"], r["missed"], r["timeout"], r["left"], r["right"],
            r["ticks"], r["ms"])
        if args.torch:
            line = subprocess.run([args.torch, os.path.join(HERE, "train.py"), stem(path), "--eval", str(n), "--policy", path],
                                  check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout
            share = float(re.search(r"success\s+([\d.]+)", line).group(1))
            row += " %s |" % percent(round(share / 100 * n), n)
        text.append(row)

    executed = (1, 2, 4, 8)
    text += ["", "## Actions executed before the next decision", "",
             "Every policy predicts 8 actions. The more of them are executed without looking again, the more it matters that a chunk",
             "is one way round and not a mean of two, and that the puck's speed is known. %d episodes here and in the tables below." % m, "",
             "| policy | " + " | ".join(str(e) for e in executed) + " |", "|---|" + "---|" * len(executed)]
    series = {}
    for path in args.policies:
        name = NAMES.get(stem(path), stem(path))
        rows = [evaluate(program, path, m, "--execute", str(e)) for e in executed]
        series[name] = [(e, r["caught"], r["n"]) for e, r in zip(executed, rows)]
        text.append("| %s | %s |" % (name, " | ".join("%.1f %%, %d hit" % (100 * r["caught"] / r["n"], r["hit"]) for r in rows)))
    chart(os.path.join(out, "executed.svg"), "caught, by actions executed per decision", "actions executed", series)
    text += ["", "![executed](executed.svg)"]

    shares = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    text += ["", "## Occluded pictures", "",
             "A share of the 8 x 8 pixel squares of every picture is black, drawn anew for each frame; on top of the fifth of all",
             "frames that is lost anyway. No policy was trained with occlusion.", "",
             "| policy | " + " | ".join("%d %%" % (100 * s) for s in shares) + " |", "|---|" + "---|" * len(shares)]
    series = {}
    for path in args.policies:
        rows = [base[path] if s == 0 else evaluate(program, path, m, "--occlude", str(s)) for s in shares]
        series[NAMES.get(stem(path), stem(path))] = [(100 * s, r["caught"], r["n"]) for s, r in zip(shares, rows)]
        text.append("| %s | %s |" % (NAMES.get(stem(path), stem(path)), " | ".join("%.1f %%" % (100 * r["caught"] / r["n"]) for r in rows)))
    chart(os.path.join(out, "occlusion.svg"), "caught, by occluded share", "occluded share of the picture, %", series)
    text += ["", "![occlusion](occlusion.svg)", "", "## Fewer denoising steps", "",
             "All 16 steps by DDPM against fewer by DDIM (eta 0).", ""]

    counts = (1, 2, 4, 8, 16)
    text += ["| policy | " + " | ".join("DDIM %d" % c for c in counts) + " | DDPM 16 |", "|---|" + "---|" * (len(counts) + 1)]
    series = {}
    for path in args.policies:
        if "ddpm" not in stem(path):
            continue
        rows = [evaluate(program, path, m, "--steps", str(c)) for c in counts]
        name = NAMES.get(stem(path), stem(path))
        series[name] = [(c, r["caught"], r["n"]) for c, r in zip(counts, rows)]
        text.append("| %s | %s |" % (name, " | ".join("%.1f %%, %.2f ms" % (100 * r["caught"] / r["n"], r["ms"])
                                                       for r in rows + [base[path]])))
    if series:
        chart(os.path.join(out, "steps.svg"), "caught, by DDIM steps", "denoising steps", series)
        text += ["", "![steps](steps.svg)"]
    with open(os.path.join(out, "RESULTS.md"), "w") as f:
        f.write("\n".join(text) + "\n")
    print("wrote", os.path.join(out, "RESULTS.md"))


if __name__ == "__main__":
    main()
