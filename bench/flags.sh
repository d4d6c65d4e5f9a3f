#!/bin/sh
# What compiler options change: mail.h built with plain -O2 beside -O3 -march=native, in turns.
#
#     bench/flags.sh [ROUNDS] [OPTIONS OF bench_policy...]        default: 5 rounds of --seconds 0.3
#
# Prints the medians of each row over the rounds, and their ratio.
set -eu
rounds=${1:-5}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- --seconds 0.3
here=$(cd "$(dirname "$0")" && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT INT TERM
${CC:-cc} -O2 -I"$here/.." "$here/bench_policy.c" -o "$out/plain" -lm -pthread
${CC:-cc} -O3 -march=native -I"$here/.." "$here/bench_policy.c" -o "$out/native" -lm -pthread
cd "$out"
i=0
while [ $i -lt "$rounds" ]; do
    for build in plain native; do
        ./$build "$@" | awk -v b=$build '/observe|plan|both/ { print b, $1 " " $2 " " $3, $4 }' >>times
    done
    i=$((i + 1))
done
sort -k2,4 -k1,1 -k5,5n times | awk '
    function median(  m) { m = v[int((n + 1) / 2)]; n = 0; return m }
    function flush() { if (key != "") { t[key] = median() } }
    { k = $1 " " $2 " " $3 " " $4; if (k != key) { flush(); key = k } v[++n] = $5 }
    END { flush(); printf "%-20s %9s %9s %7s\n", "ms", "-O2", "native", "ratio"
          for (k in t) if (k ~ /^plain/) { r = substr(k, 7); printf "%-20s %9.3f %9.3f %7.3f\n", r, t[k], t["native " r], t[k] / t["native " r] | "sort" } }'
