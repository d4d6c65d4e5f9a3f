#!/bin/sh
# Run fuzz targets one after the other and print what each did: inputs tried, processor time, edges of code reached.
#     tests/fuzz/run.sh BUILD SECONDS TARGET...      BUILD: where fuzz_TARGET is; its corpus_TARGET is kept there
# A finding is left in BUILD/crash_TARGET-*, and the exit status is 1. Every run adds a line to BUILD/fuzz_total (target, inputs, processor
# seconds); its sums come last, so that rounds of days or of several programs side by side are counted. Start over by removing the file.
set -u
b=$1 seconds=$2 failed=0 all_inputs=0 all_cpu=0
shift 2
printf '%-12s %12s %10s %8s  %s\n' target inputs 'cpu s' edges verdict
for t in "$@"; do
    mkdir -p "$b/corpus_$t"
    (
        "$b/fuzz_$t" -max_total_time="$seconds" -timeout=60 -rss_limit_mb=2000 -print_final_stats=1 -artifact_prefix="$b/crash_$t-" \
            "$b/corpus_$t" "tests/fuzz/seeds/$t" >"$b/fuzz_$t.log" 2>&1
        echo $? >"$b/fuzz_$t.status"
        times >"$b/fuzz_$t.times"  # of this shell, then of its children: "1m2.345s 0m0.678s"
    )
    status=$(cat "$b/fuzz_$t.status")
    cpu=$(tail -n 1 "$b/fuzz_$t.times" | awk '{ for (i = 1; i <= 2; i++) { split($i, p, "m"); s += 60 * p[1] + p[2] } printf "%.1f", s }')
    inputs=$(sed -n 's/.*number_of_executed_units: *//p' "$b/fuzz_$t.log" | tail -n 1)
    edges=$(grep -o 'cov: [0-9]*' "$b/fuzz_$t.log" | tail -n 1)
    verdict=ok
    if grep -q 'libFuzzer: run interrupted' "$b/fuzz_$t.log"; then
        verdict=stopped
    elif [ "$status" -ne 0 ]; then
        verdict=FINDING failed=1
        grep -m 1 -A 12 -e ERROR -e 'runtime error' -e 'fuzz_.*\.c:' "$b/fuzz_$t.log"
    fi
    echo "$t ${inputs:-0} $cpu ${edges#cov: }" >>"$b/fuzz_total"
    printf '%-12s %12s %10s %8s  %s\n' "$t" "${inputs:-?}" "$cpu" "${edges#cov: }" $verdict
    all_inputs=$((all_inputs + ${inputs:-0}))
    all_cpu=$(echo "$all_cpu $cpu" | awk '{ print $1 + $2 }')
done
echo "$all_inputs inputs in $all_cpu s of processor time, $([ $failed -eq 0 ] && echo 'no finding' || echo FINDINGS)"
awk '{ runs[$1]++; inputs[$1] += $2; cpu[$1] += $3; edges[$1] = $4 > edges[$1] ? $4 : edges[$1]; n += $2; s += $3 }
    END {
        for (t in runs) printf "  all runs: %-12s %12d %10.1f %8d  %d runs\n", t, inputs[t], cpu[t], edges[t], runs[t] | "sort"
        close("sort")
        printf "  all runs: %d inputs in %.1f s, %.2f hours of processor time\n", n, s, s / 3600
    }' "$b/fuzz_total"
exit $failed
