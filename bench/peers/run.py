"""Time mail.h and its peers in one interleaved run and write a JSON report.

    run.py OUT.json [--threads 1,2] [--rounds 3] [--works W1,W3] [--peers ort-f32,ncnn-f32] [--no-mail] [--clock cpu]

Every engine, precision and thread count is a process of its own (bench/peers/worker.py, build/bench_policy --worker), which
sleeps on a pipe while others are timed. For each work, each round visits every process once, in an order that is
reversed every other round: two untimed runs, then a block of timed ones of about 150 ms. The kernel says how long the
threads of a process had to wait for a processor; a block in which that was more than 3 % of its time was disturbed by
other programs and is tried again, at most RETRY times. Clean blocks count where there are any; the report says how many.
--clock cpu is for a machine that never falls quiet: one thread only, and of each run the lesser of wall clock and
processor time (which leaves out waiting for a processor, but counts threads that spin beside the one that works).

The report holds, for each work, precision and number of threads: our median, each peer's median, ratio_best_peer (the
fastest float32 peer over ours), ratio_best_peer_same (the fastest peer of the same precision, where there is one), and
share_of_floor (the floor that follows from this machine's measured limits, see floors.py, over our median).
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import floors  # noqa: E402

ROOT = os.path.join(HERE, "..", "..")
BUILD = os.environ.get("PEERS_BUILD") or os.path.join(ROOT, "build", "peers")
BLOCK_MS, RETRY, WAITED, GAP = 150.0, 4, 0.03, 0.03
VISION = ["W1", "W1b"]
HEAD = ["W2_S1", "W2_S5", "W3", "ED-Ma_H1", "ED-Ma_H5", "D-Tr_H1", "D-Tr_H5", "ED-Tr_H1", "ED-Tr_H5"]
SCAN = ["W4_64", "W4_512", "W4_4096"]
PEERS = {
    "ort-f32": VISION + HEAD + SCAN,
    "ort-f32-ln": VISION,
    "ort-int8": VISION + HEAD,
    "ov-f32": VISION + HEAD + SCAN,
    "ov-int8": VISION,
    "ncnn-f32": VISION,
    "ncnn-bf16": VISION,
    "ncnn-int8": VISION,
    "torch-f32": VISION + HEAD + SCAN,
    "torch-compile-f32": ["W1", "W2_S1", "W3"],               # compiling the other heads takes minutes each
}


class Process:
    """One worker: label, threads, precision, the works it can do and its errors to float64."""

    def __init__(self, label, precision, threads, command, works):
        self.label, self.precision, self.threads = label, precision, threads
        self.works, self.errors, self.blocks = [], {}, {}
        self.p = subprocess.Popen(command + works, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        while True:
            line = self.p.stdout.readline()
            if line.startswith("err"):
                _, name, value = line.split()
                self.works.append(name)
                self.errors[name] = float(value)
            elif line.startswith("ready"):
                break
            elif not line:
                print("%s %s on %d threads stopped early; by hand: %s" % (label, precision, threads, " ".join(command + works)), flush=True)
                self.works, self.p = [], None
                break

    def ask(self, work, runs):
        self.p.stdin.write("%s %d\n" % (work, runs))
        self.p.stdin.flush()
        return [float(v) for v in self.p.stdout.readline().split()]

    def waited(self):
        """Seconds that our threads were ready to run and had no processor."""
        total = 0
        for t in os.listdir("/proc/%d/task" % self.p.pid):
            try:
                total += int(open("/proc/%d/task/%s/schedstat" % (self.p.pid, t)).read().split()[1])
            except (OSError, IndexError):
                pass
        return total / 1e9

    def block(self, work, runs):
        for _ in range(1 if os.environ.get("PEERS_CLOCK") == "cpu" else RETRY):
            time.sleep(GAP)
            self.ask(work, 2)
            before, start = self.waited(), time.time()
            times = self.ask(work, runs)
            clean = self.waited() - before <= WAITED * (time.time() - start)
            if clean:
                break
        self.blocks.setdefault(work, []).append((clean, times))

    def result(self, work):
        blocks = self.blocks[work]
        clean = [t for ok, t in blocks if ok]
        times = sorted(v for t in (clean or [t for _, t in blocks]) for v in t)
        pick = lambda q: times[min(len(times) - 1, int(q * len(times)))]
        return dict(median=statistics.median(times), min=times[0], p90=pick(0.9), p99=pick(0.99), runs=len(times),
                    clean_blocks=len(clean), blocks=len(blocks), error=self.errors[work])


def start(a):
    """All workers, as many at a time as there are processors; each prints its line when it is ready."""
    python = os.environ.get("PEERS_PYTHON") or sys.executable
    program = os.environ.get("MAIL_BENCH") or os.path.join(ROOT, "build", "bench_policy")
    wanted = set(a.works.split(",")) if a.works else None
    keep = lambda works: [w for w in works if not wanted or w in wanted]
    todo = []
    for threads in map(int, a.threads.split(",")):
        for precision in () if a.no_mail else ("f32", "bf16", "int8"):
            todo.append(("mail.h", precision, threads, [program, "--worker", os.path.join(BUILD, "cases"), str(threads), precision],
                         keep(VISION + HEAD + (SCAN if precision == "f32" else []))))
        for label, works in PEERS.items():
            if not a.peers or label in a.peers.split(","):
                precision = next(p for p in ("f32", "bf16", "int8") if p in label.split("-"))
                todo.append((label, precision, threads, [python, os.path.join(HERE, "worker.py"), label, str(threads)], keep(works)))

    def one(args):
        p = Process(*args)
        print("ready", p.label, p.precision, p.threads, {k: "%.1e" % v for k, v in p.errors.items()}, flush=True)
        return p
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [p for p in pool.map(one, [t for t in todo if t[4]]) if p.p]


def machine():
    cpu = [l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith(("model name", "flags"))][:2]
    versions = {}
    for name in ("torch", "onnxruntime", "openvino", "ncnn", "numpy"):
        try:
            from importlib.metadata import version
            versions[name] = version(name)
        except Exception:  # noqa: BLE001  (a peer that is not installed)
            pass
    return dict(cpu=cpu[0] if cpu else "", cpus=os.cpu_count(),
                avx512=[f for f in (cpu[1].split() if len(cpu) > 1 else []) if f.startswith(("avx512", "amx", "avx_vnni"))],
                kernel=os.uname().release, date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), load=os.getloadavg(),
                versions=versions)


def report(processes, limits):
    rows = []
    for work in VISION + HEAD + SCAN:
        for threads in sorted({p.threads for p in processes}):
            here = [p for p in processes if p.threads == threads and work in p.blocks]
            peers = {p.label: dict(p.result(work), precision=p.precision) for p in here if p.label != "mail.h"}
            ours = {p.precision: p.result(work) for p in here if p.label == "mail.h"}
            best = lambda prec: min(((v["median"], k) for k, v in peers.items() if v["precision"] == prec), default=None)
            for precision in ("f32", "bf16", "int8"):
                mine, f32, same = ours.get(precision), best("f32"), best(precision)
                if not mine and not same:
                    continue
                row = dict(work=work, precision=precision, threads=threads,
                           peers={k: v for k, v in peers.items() if v["precision"] == precision})
                if f32:
                    row["best_peer"] = f32[1]
                    row["best_peer_ms"] = f32[0]
                floor = floors.floor_ms(work, precision, threads, limits)
                if floor:
                    row["floor_ms"] = floor
                if mine:
                    row["ours"] = mine
                    if f32:
                        row["ratio_best_peer"] = f32[0] / mine["median"]
                    if same:
                        row["ratio_best_peer_same"] = same[0] / mine["median"]
                        row["best_peer_same"] = same[1]
                    if floor:
                        row["share_of_floor"] = floor / mine["median"]
                rows.append(row)
    return rows


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("out")
    ap.add_argument("--threads", default="1,2")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--works", default="")
    ap.add_argument("--peers", default="")
    ap.add_argument("--no-mail", action="store_true")
    ap.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    a = ap.parse_args()
    os.environ["PEERS_CLOCK"] = a.clock
    if a.clock == "cpu":
        a.threads = "1"
    limits = floors.measure(ROOT)
    processes = start(a)
    for work in VISION + HEAD + SCAN:
        here = [p for p in processes if work in p.works]
        if not here:
            continue
        runs = {p: max(3, min(300, int(BLOCK_MS / min(p.ask(work, 3))))) for p in here}
        for r in range(a.rounds):
            for p in here if r % 2 == 0 else here[::-1]:
                p.block(work, runs[p])
        print("\n%s" % work)
        for p in sorted(here, key=lambda p: (p.threads, p.result(work)["median"])):
            v = p.result(work)
            print("  %d thread%s %-20s %-5s median %9.3f  min %9.3f  p90 %9.3f  clean %d/%d  error %.1e" % (
                p.threads, " " if p.threads == 1 else "s", p.label, p.precision, v["median"], v["min"], v["p90"],
                v["clean_blocks"], v["blocks"], v["error"]), flush=True)
        with open(a.out, "w") as f:
            json.dump(dict(machine=machine(), clock=a.clock, limits=limits, rows=report(processes, limits)), f, indent=1)
            f.write("\n")
    for p in processes:
        p.p.stdin.close()
        p.p.wait()


if __name__ == "__main__":
    main()
