#!/bin/sh
# Run the CPU tests of mail_cuda.cuh that `make test-cuda-cpu` has built into the folder $1.
set -u
b=$1
cases=$(dirname "$0")/../golden/cases
out=$(mktemp -d) || exit 2
trap 'rm -rf "$out"' EXIT INT TERM
failed=0

step() { # name, command...
    name=$1
    shift
    begin=$(date +%s)
    "$@" >"$out/log" 2>&1
    code=$?
    if [ $code -ne 0 ]; then
        tail -n 40 "$out/log"
        failed=1
    fi
    echo "$name: $([ $code -eq 0 ] && echo ok || echo "FAIL (exit status $code)"), $(grep -c . "$out/log") lines, $(($(date +%s) - begin)) s"
}

step "kernels and sessions, four schedules" "$b/test_cuda" kernels
grep -E 'FAIL|passed' "$out/log"
# golden cases: the same bits under a forward and a random schedule
for order in 0 2; do
    step "golden cases, schedule $order" env CPUCUDA_ORDER=$order "$b/test_cuda" case --hash "$cases"/*/
    grep -E ' FAIL|/hash ' "$out/log" >"$out/hash$order"
done
cmp -s "$out/hash0" "$out/hash2" || { echo "golden cases: FAIL, the bits depend on the schedule"; failed=1; }
step "planted faults" "$b/test_cuda" faults "$(dirname "$0")/../../mail_cuda.cuh"
cat "$out/log"
# sanitizers see every access to global memory, and shared memory ends at a guarded page
step "kernels and sessions, AddressSanitizer and UBSan" env CT_TIMES=1 "$b/test_cuda_san" kernels
step "golden cases, AddressSanitizer and UBSan" "$b/test_cuda_san" case "$cases"/*_h1/ "$cases"/*_short/ "$cases"/odd_*/
exit $failed
