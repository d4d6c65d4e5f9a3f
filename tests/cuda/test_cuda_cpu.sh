#!/bin/sh
# Run the CPU tests of mail_cuda.cuh that `make test-cuda-cpu` has built into the folder $1, as many side by side as there are processors.
set -u
cases=$(dirname "$0")/../golden/cases
out=$(mktemp -d) || exit 2
trap 'rm -rf "$out"' EXIT INT TERM
export b="$1" cases out

# A name, which is that of its log, and a command; longest first. Sanitizers see every access to global memory, and shared memory ends at a
# guarded page. Golden cases go by the fastest way under a forward and a random schedule, and by the plain path under a reverse one.
cat >"$out/jobs" <<EOF
sanitizers_0     env CT_TIMES=1 CT_SHARE=0/4 $b/test_cuda_san kernels
sanitizers_1     env CT_TIMES=1 CT_SHARE=1/4 $b/test_cuda_san kernels
sanitizers_2     env CT_TIMES=1 CT_SHARE=2/4 $b/test_cuda_san kernels
sanitizers_3     env CT_TIMES=1 CT_SHARE=3/4 $b/test_cuda_san kernels
faults           $b/test_cuda faults $(dirname "$0")/../../mail_cuda.cuh
kernels_0        env CT_SHARE=0/3 $b/test_cuda kernels
kernels_1        env CT_SHARE=1/3 $b/test_cuda kernels
kernels_2        env CT_SHARE=2/3 $b/test_cuda kernels
goldens_0        env CPUCUDA_ORDER=0 $b/test_cuda case --hash $cases/*/
goldens_2        env CPUCUDA_ORDER=2 $b/test_cuda case --hash $cases/*/
goldens_plain    env CPUCUDA_ORDER=1 $b/test_cuda case --plain --hash $cases/*/
sanitizers_cases $b/test_cuda_san case $cases/*_h1/ $cases/*_short/ $cases/odd_*/
EOF
xargs -P "$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)" -L 1 sh -c '
    begin=$(date +%s)
    log=$out/$0
    eval "$*" >"$log" 2>&1
    code=$?
    [ $code -eq 0 ] || tail -n 40 "$log"
    echo "$0: $([ $code -eq 0 ] && echo ok || echo "FAIL (exit status $code)"), $(grep -c . "$log") lines, $(($(date +%s) - begin)) s" | tee "$log.result"
' <"$out/jobs"

failed=0
for log in $(awk '{ print $1 }' "$out/jobs"); do
    grep -qs ': ok' "$out/$log.result" || failed=1
done
grep -h FAIL "$out"/kernels_?
awk '/ passed, / { passed += $2; failed += $4; skipped += $6 } END { print "test_cuda: " passed " passed, " failed " failed, " skipped " skipped" }' "$out"/kernels_?
cat "$out/faults"
for run in goldens_0 goldens_2 goldens_plain; do
    grep -E ' FAIL|/hash ' "$out/$run" >"$out/$run.hash"
done
cmp -s "$out/goldens_0.hash" "$out/goldens_2.hash" || { echo "golden cases: FAIL, the bits depend on the schedule"; failed=1; }
# without cameras (vision_*, conveyor_*) these small policies take the same kernels either way
for run in goldens_0 goldens_plain; do
    grep -Ev '^(vision|conveyor)_' "$out/$run.hash" >"$out/$run.blind"
done
cmp -s "$out/goldens_0.blind" "$out/goldens_plain.blind" || { echo "golden cases: FAIL, the plain path has other bits"; failed=1; }
echo "golden cases: $(grep -c ' ok$' "$out/goldens_0") outputs ok, by the plain path $(grep -c ' ok$' "$out/goldens_plain")"
exit $failed
