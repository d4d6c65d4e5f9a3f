#!/usr/bin/env python3
"""Run the studies of the conveyor task in C and write RESULTS.md with its plots (SVG); `make demo-table` calls it.

    python3 results.py EVALUATE [--episodes 500] [--torch PYTHON] [--quick] POLICY.safetensors...

EVALUATE is the program built from evaluate.c. With --torch the same seeds also run through PyTorch by `PYTHON train.py --eval`
(the noise differs, so the two agree within their intervals, not episode by episode). --quick: a tenth of the episodes,
into the folder of EVALUATE instead of this one. What was run before is kept beside EVALUATE. Standard library only.
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
    "d_ma_h5_ddpm_100": "D-Ma, history 5, DDPM, shorter training",
    "d_ma_h5_ddpm_occ": "the same, trained with occlusion",
}
MAIN = tuple(NAMES)[:5]
FEWER = (("d_ma_h5_ddpm_20", 20), ("d_ma_h5_ddpm_50", 50), ("d_ma_h5_ddpm_100", 100))    # per cent of the demonstrations
COLOURS = ("#c8324b", "#2864c8", "#288c46", "#b07800", "#7840b0", "#00808c", "#806040")


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


def name_of(path):
    return NAMES.get(stem(path), stem(path))


def once(program, path, command):
    """What a command prints; kept beside the program, by the program's bytes, the policy's and the arguments"""
    store, key = program + ".results", hashlib.sha256()
    for name in (program, path):
        with open(name, "rb") as f:
            key.update(f.read())
    key = " ".join((key.hexdigest()[:16], *(os.path.basename(c) for c in command)))
    known = {}
    if os.path.exists(store):
        with open(store) as f:
            known = json.load(f)
    if key not in known:
        known[key] = subprocess.run(command, check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout
        with open(store, "w") as f:
            json.dump(known, f, indent=1)
    return known[key]


def evaluate(program, path, episodes, *more):
    """-> dict of the numbers evaluate.c prints"""
    line = once(program, path, [program, "--episodes", str(episodes), *more, path]).split()
    keys = ("n", "caught", "hit", "missed", "timeout", "left", "right", "ticks", "ms", "ms_worst")
    row = {k: float(v) for k, v in zip(keys, line[-len(keys):])}
    print(stem(path), *more, percent(row["caught"], row["n"]), flush=True)
    return row


def table(head, rows):
    return ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)] + ["| " + " | ".join(r) + " |" for r in rows]


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
            "Written by `results.py` (`make demo-table`); do not edit. %d episodes, seeds 0 to %d, which no demonstration used," % (n, n - 1),
            "unless another number is given; every number but those marked PyTorch comes from the C program `evaluate.c`. In",
            "brackets: 95 %% Wilson intervals. Milliseconds were measured on %s, one thread, other work" % processor(),
            "running beside.", ""]
    notes = os.path.join(HERE, "NOTES.md")
    if os.path.exists(notes):
        with open(notes) as f:
            text += f.read().strip().split("\n") + [""]

    by_name = {stem(p): p for p in args.policies}
    main_five = [p for p in args.policies if stem(p) in MAIN]
    ddpm = [p for p in main_five if "ddpm" in stem(p)]
    base = {p: evaluate(program, p, n) for p in args.policies}

    def short(r):
        return "%.1f %%" % (100 * r["caught"] / r["n"])

    def points(xs, rows):
        return [(x, r["caught"], r["n"]) for x, r in zip(xs, rows)]

    def plot(file, title, xlabel, series):
        chart(os.path.join(out, file), title, xlabel, series)
        return ["", "![%s](%s)" % (title, file)]

    text += ["## Policies"]
    head = ["policy", "caught", "hit the obstacle", "closed on nothing", "out of time", "left / right", "ticks", "ms a decision"]
    rows = []
    for path in main_five:
        r = base[path]
        rows.append([name_of(path), percent(r["caught"], n), *("%d" % r[k] for k in ("hit", "missed", "timeout")),
                     "%d / %d" % (r["left"], r["right"]), "%.1f" % r["ticks"], "%.2f" % r["ms"]])
        if args.torch:
            line = once(program, path, [args.torch, os.path.join(HERE, "train.py"), stem(path), "--eval", str(n), "--policy", path])
            share = float(re.search(r"success\s+([\d.]+)", line).group(1))
            rows[-1].append(percent(round(share / 100 * n), n))
            print(stem(path), "PyTorch", rows[-1][-1], flush=True)
    text += table(head + (["PyTorch, caught"] if args.torch else []), rows)

    executed = (1, 2, 4, 8)
    rows, series = [], {}
    for path in main_five:
        runs = [base[path] if e == 2 else evaluate(program, path, m, "--execute", str(e)) for e in executed]
        series[name_of(path)] = points(executed, runs)
        rows.append([name_of(path)] + ["%s, %d hit" % (short(r), r["hit"]) for r in runs])
    text += ["", "## Actions executed before the next decision", "",
             "Every policy predicts 8 actions. The more of them are executed without looking again, the more it matters that a chunk",
             "is one way round and not a mean of two, and that the puck's speed is known. %d episodes, %d for two actions, the policies'" % (m, n),
             "own number."]
    text += table(["policy", *map(str, executed)], rows)
    text += plot("executed.svg", "caught, by actions executed per decision", "actions executed", series)

    shares = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    rows, series = [], {}
    occluded = [by_name[k] for k in ("d_ma_h5_ddpm_100", "d_ma_h5_ddpm_occ") if "d_ma_h5_ddpm_occ" in by_name]
    for path in main_five + occluded:
        runs = [base[path] if s == 0 else evaluate(program, path, m, "--occlude", str(s)) for s in shares]
        series[name_of(path)] = points([100 * s for s in shares], runs)
        rows.append([name_of(path)] + [short(r) for r in runs])
    text += ["", "## Occluded pictures", "",
             "A share of the 8 x 8 pixel squares of every picture is black, drawn anew for each frame; on top of the fifth of all",
             "frames that is lost anyway. %d episodes, %d without occlusion." % (m, n)]
    text += table(["policy", *("%d %%" % (100 * s) for s in shares)], rows)
    text += plot("occlusion.svg", "caught, by occluded share", "occluded share of the picture, %", series)

    fewer = [(by_name[k], share) for k, share in FEWER if k in by_name]
    if len(fewer) > 1:
        text += ["", "## Fewer demonstrations", "",
                 "The head trained on the first 20 % and 50 % of the 2,000 demonstrations and on all of them, 600 steps each, with the",
                 "same encoder, which has seen all of them in its first stage. %d episodes." % n]
        text += table(["policy", *("%d %%" % share for _, share in fewer)],
                      [[NAMES["d_ma_h5_ddpm"], *(percent(base[p]["caught"], n) for p, _ in fewer)]])
        text += plot("demonstrations.svg", "caught, by demonstrations", "share of the demonstrations, %",
                     {NAMES["d_ma_h5_ddpm"]: points([share for _, share in fewer], [base[p] for p, _ in fewer])})

    counts = (1, 2, 4, 8, 16)
    rows, series = [], {}
    for path in ddpm:
        runs = [evaluate(program, path, m, "--steps", str(c)) for c in counts]
        series[name_of(path)] = points(counts, runs)
        rows.append([name_of(path)] + ["%s, %.2f ms" % (short(r), r["ms"]) for r in runs + [base[path]]])
    text += ["", "## Fewer denoising steps", "",
             "All 16 steps by DDPM against fewer by DDIM (eta 0). %d episodes, %d for DDPM." % (m, n)]
    text += table(["policy", *("DDIM %d" % c for c in counts), "DDPM 16"], rows)
    text += plot("steps.svg", "caught, by DDIM steps", "denoising steps", series)

    held = ("f32", "bf16", "int8")
    shipped = [p for p in main_five if os.path.dirname(os.path.abspath(p)) == HERE]
    rows = []
    for path in shipped:
        runs = [base[path]] + [evaluate(program, path, n, "--weights", w) for w in held[1:]]
        rows.append([name_of(path)] + ["%s, %.2f ms" % (percent(r["caught"], n), r["ms"]) for r in runs])
    text += ["", "## How weights are held", "",
             "The shipped policies with their weights as float32, bfloat16 or 8-bit integers in memory. %d episodes." % n]
    text += table(["policy", *held], rows)
    with open(os.path.join(out, "RESULTS.md"), "w") as f:
        f.write("\n".join(text) + "\n")
    print("wrote", os.path.join(out, "RESULTS.md"))


if __name__ == "__main__":
    main()
