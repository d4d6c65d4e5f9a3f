#!/bin/sh
# Run the CPU tests of mail_cuda.cuh that `make test-cuda-cpu` has built into the folder $1, in two lanes side by side.
set -u
b=$1
cases=$(dirname "$0")/../golden/cases
out=$(mktemp -d) || exit 2
trap 'rm -rf "$out"' EXIT INT TERM

# file of the log, name, command...: the result in file.result
step() {
    log=$out/$1
    name=$2
    shift 2
    begin=$(date +%s)
    "$@" >"$log" 2>&1
    code=$?
    if [ $code -ne 0 ]; then
        tail -n 40 "$log"
    fi
    echo "$name: $([ $code -eq 0 ] && echo ok || echo "FAIL (exit status $code)"), $(grep -c . "$log") lines, $(($(date +%s) - begin)) s" | tee "$log.result"
}

# golden cases by the fastest way under a forward and a random schedule
goldens() {
    step fast0 "golden cases, schedule 0" env CPUCUDA_ORDER=0 "$b/test_cuda" case --hash "$cases"/*/
    step fast2 "golden cases, schedule 2" env CPUCUDA_ORDER=2 "$b/test_cuda" case --hash "$cases"/*/
}

# and by the plain path under a reverse one
plain() {
    step plain1 "golden cases, plain path, schedule 1" env CPUCUDA_ORDER=1 "$b/test_cuda" case --plain --hash "$cases"/*/
}

# sanitizers see every access to global memory, and shared memory ends at a guarded page
sanitizers() {
    step san_cases "golden cases, AddressSanitizer and UBSan" "$b/test_cuda_san" case "$cases"/*_h1/ "$cases"/*_short/ "$cases"/odd_*/
    step san_kernels "kernels and sessions, AddressSanitizer and UBSan" env CT_TIMES=1 "$b/test_cuda_san" kernels
}

kernels() {
    step kernels "kernels and sessions, up to four schedules" "$b/test_cuda" kernels
    step faults "planted faults" "$b/test_cuda" faults "$(dirname "$0")/../../mail_cuda.cuh"
}

(sanitizers; plain) &
kernels
goldens
wait
failed=0
for r in "$out"/*.result; do
    grep -q FAIL "$r" && failed=1
done
grep -E 'FAIL|passed' "$out/kernels"
cat "$out/faults"
for run in fast0 fast2 plain1; do
    grep -E ' FAIL|/hash ' "$out/$run" >"$out/$run.hash"
done
cmp -s "$out/fast0.hash" "$out/fast2.hash" || { echo "golden cases: FAIL, the bits depend on the schedule"; failed=1; }
# without cameras (vision_*, conveyor_*) these small policies take the same kernels either way
for run in fast0 plain1; do
    grep -Ev '^(vision|conveyor)_' "$out/$run.hash" >"$out/$run.blind"
done
cmp -s "$out/fast0.blind" "$out/plain1.blind" || { echo "golden cases: FAIL, the plain path has other bits"; failed=1; }
echo "golden cases: $(grep -c ' ok$' "$out/fast0") outputs ok, by the plain path $(grep -c ' ok$' "$out/plain1")"
exit $failed
