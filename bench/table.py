"""One table of architecture x weights: latency on one and two threads, loading, memory, action error (`make bench-table`).

    python3 bench/table.py build/bench_policy build/run_case [CASES] [--rounds 3] [--seconds 0.5] [--isa NAME]

A decision is the newest frame of two 128x128 cameras encoded and a chunk planned, history 1, 16 steps, random weights. The programs
run in turns; a cell is the median over the rounds. CASES is the folder that `make golden` fills; without it the errors are left out.
"""
import argparse
import re
import statistics
import subprocess

WEIGHTS = ("f32", "bf16", "int8")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("bench")
    p.add_argument("run_case")
    p.add_argument("cases", nargs="?")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", default="0.5")
    p.add_argument("--isa")
    args = p.parse_args()
    times, load, errors = {}, {}, {}
    for i in range(args.rounds):
        for weights in WEIGHTS:
            for threads in (1, 2):
                command = [args.bench, "--weights", weights, "--threads", str(threads), "--seconds", args.seconds]
                out = subprocess.run(command + (["--isa", args.isa] if args.isa else []), check=True, stdout=subprocess.PIPE, text=True).stdout
                for policy, median in re.findall(r"^(\S+) H1 +both +([\d.]+)", out, re.M):
                    times.setdefault((policy, weights, threads), []).append(float(median))
                for policy, ms, packed, peak in re.findall(r"^(\S+) H1 +load (\d+) ms, weights ([\d.]+) MB packed, peak memory ([\d.]+)", out, re.M):
                    load.setdefault((policy, weights), []).append((int(ms), packed, peak))
    if args.cases:
        out = subprocess.run(["sh", "bench/errors.sh", args.run_case, args.cases], check=True, stdout=subprocess.PIPE, text=True).stdout
        for policy, weights, most, rms in re.findall(r"^\| (\S+) \| (\w+) \| \d+ \| (\S+) \| (\S+) \|", out, re.M):
            errors[policy, weights] = "%s / %s" % (most, rms)
    print("| policy | weights | decision, ms | on two threads | loading, ms | weights, MB | peak memory of loading, MB | action error, largest / RMS |")
    print("|---|---|---|---|---|---|---|---|")
    for policy in ("D-Ma", "ED-Ma", "D-Tr", "ED-Tr"):
        for weights in WEIGHTS:
            one, two = (statistics.median(times[policy, weights, t]) for t in (1, 2))
            ms, packed, peak = min(load.get((policy, weights), [(0, "?", "?")]))
            print("| %s | %s | %.1f | %.1f | %d | %s | %s | %s |" % (policy, weights, one, two, ms, packed, peak, errors.get((policy, weights), "")))


if __name__ == "__main__":
    main()
