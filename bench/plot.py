"""Draw the comparison of build/bench_peers.json: for each work, how many times as long each engine takes as mail.h.

    python3 bench/plot.py build/bench_peers.json out.png|out.svg [--threads 1] [--table]

--table prints the tables of bench/RESULTS.md instead.
"""
import argparse
import json

ORDER = ["mail.h", "OpenVINO", "ncnn", "ONNX Runtime", "PyTorch compiled", "PyTorch eager"]
COLOUR = dict(zip(ORDER, ["#1b6ca8", "#8fb996", "#c9a227", "#b56576", "#9a8c98", "#4a4e69"]))
WORKS = {"W1": "two ResNet-18\n128x128", "W1b": "128x256\n+ 256x256", "W2_S1": "denoiser\nH1", "W2_S5": "denoiser\nH5",
         "W3": "D-Ma H1\ndecision", "ED-Ma_H1": "ED-Ma H1", "ED-Ma_H5": "ED-Ma H5", "D-Tr_H1": "D-Tr H1", "D-Tr_H5": "D-Tr H5",
         "ED-Tr_H1": "ED-Tr H1", "ED-Tr_H5": "ED-Tr H5", "W4_64": "scan 64", "W4_512": "scan 512", "W4_4096": "scan 4096"}


def engine(label):
    if label.startswith("torch"):
        return "PyTorch compiled" if "compile" in label else "PyTorch eager"
    return {"ort": "ONNX Runtime", "ov": "OpenVINO", "ncnn": "ncnn"}[label.split("-")[0]]


def best(row):
    """engine -> its best export's median, in this row's precision"""
    out = {}
    for label, v in row["peers"].items():
        e = engine(label)
        out[e] = min(out.get(e, v["median"]), v["median"])
    if "ours" in row:
        out["mail.h"] = row["ours"]["median"]
    return out


NAMES = {"W1": "two ResNet-18, 128x128", "W1b": "128x256 and 256x256", "W2_S1": "denoiser alone, D-Ma, history 1",
         "W2_S5": "denoiser alone, D-Ma, history 5", "W3": "a whole decision, D-Ma, history 1, chunk 5",
         "W4_64": "selective scan, 64 tokens", "W4_512": "selective scan, 512 tokens", "W4_4096": "selective scan, 4096 tokens"}
NAMES.update({"%s_H%d" % (a, h): "%s, history %d, chunk 10" % (a, h) for a in ("ED-Ma", "D-Tr", "ED-Tr") for h in (1, 5)})


def table(rows):
    """Markdown tables: one for each number of threads, a line for each work. Ratios are to the fastest float32 peer."""
    for threads in sorted({r["threads"] for r in rows}):
        here = {(r["work"], r["precision"]): r for r in rows if r["threads"] == threads}
        print("\n%d thread%s\n" % (threads, "s" if threads > 1 else ""))
        print("| work | mail.h f32 | bf16 | int8 | fastest float32 peer | ratio f32 | bf16 | int8 | share of floor, f32 |")
        print("|---|---|---|---|---|---|---|---|---|")
        for work in dict.fromkeys(r["work"] for r in rows if r["threads"] == threads):
            of = [here.get((work, p), {}) for p in ("f32", "bf16", "int8")]
            ours = ["%.3g" % r["ours"]["median"] if "ours" in r else "" for r in of]
            ratio = ["%.2f x" % r["ratio_best_peer"] if "ratio_best_peer" in r else "" for r in of]
            peer = "%.3g (%s)" % (of[0]["best_peer_ms"], engine(of[0]["best_peer"])) if "best_peer" in of[0] else ""
            share = "%.0f %%" % (100 * of[0]["share_of_floor"]) if "share_of_floor" in of[0] else ""
            print("| " + " | ".join([NAMES.get(work, work)] + ours + [peer] + ratio + [share]) + " |")


def figure(data, out, threads):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    rows = [r for r in data["rows"] if r["precision"] == "f32" and r["threads"] == threads]
    fig, ax = plt.subplots(figsize=(12, 4.6))
    width = 0.85 / len(ORDER)
    for e in ORDER:
        at, height, label = [], [], []
        for j, r in enumerate(rows):
            b = best(r)
            here = [k for k in ORDER if k in b]
            if e not in b:
                continue
            unit = b.get("mail.h") or min(b.values())
            at.append(j + (here.index(e) - (len(here) - 1) / 2) * width)
            height.append(b[e] / unit)
            label.append("%.3g ms" % unit if e == "mail.h" else "%.1f" % height[-1])
        if at:
            ax.bar_label(ax.bar(at, height, width, label=e, color=COLOUR[e]), label, fontsize=6, rotation=90, padding=2)
    ax.set_xticks(range(len(rows)), [WORKS.get(r["work"], r["work"]) for r in rows], fontsize=8)
    ax.set_yscale("log")
    ax.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    ax.minorticks_off()
    ax.set_ylim(0.8, 60)
    ax.set_ylabel("time, mail.h = 1")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(ncols=len(ORDER), fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.13))
    m = data["machine"]
    ax.text(1, -0.2, "float32, %d thread%s, %s, %s" % (threads, "s" if threads > 1 else "", m["cpu"], m["date"]), fontsize=7,
            transform=ax.transAxes, ha="right")
    fig.tight_layout()
    fig.savefig(out, dpi=160)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("report")
    ap.add_argument("out", nargs="?", default="build/bench_peers.png")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--table", action="store_true")
    a = ap.parse_args()
    data = json.load(open(a.report))
    if a.table:
        table(data["rows"])
    else:
        figure(data, a.out, a.threads)


if __name__ == "__main__":
    main()
