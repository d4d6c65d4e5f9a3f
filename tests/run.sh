#!/bin/sh
# Run every check that needs no more than a C compiler, add up their verdicts, and end with "N passed, N failed, N skipped".
# A program counts its own checks and says so in its last line; a script counts as one check.
cd "$(dirname "$0")/.." || exit 2
passed=0 failed=0 skipped=0
log=$(mktemp) || exit 2
trap 'rm -f "$log"' EXIT INT TERM

program() {  # a test program with a closing line of its own
    "$@" >"$log" 2>&1
    code=$?
    line=$(tail -n 1 "$log")
    p=$(echo "$line" | sed -n 's/.* \([0-9]*\) passed.*/\1/p') f=$(echo "$line" | sed -n 's/.* \([0-9]*\) failed.*/\1/p')
    s=$(echo "$line" | sed -n 's/.* \([0-9]*\) skipped.*/\1/p')
    if [ $code -ne 0 ] || [ -z "$p" ]; then
        cat "$log"
        [ "${f:-0}" -gt 0 ] || f=1
        echo "$*: FAILED (exit status $code)"
    else
        echo "$line"
    fi
    passed=$((passed + ${p:-0})) failed=$((failed + ${f:-0})) skipped=$((skipped + ${s:-0}))
}

check() {  # name, then a command whose exit status is the verdict; 77: skipped
    name=$1
    shift
    "$@" >"$log" 2>&1
    code=$?
    if [ $code -eq 0 ]; then
        passed=$((passed + 1))
        echo "$name: ok"
        grep -E 'cases,|skipped' "$log"
    elif [ $code -eq 77 ]; then
        skipped=$((skipped + 1))
        echo "$name: skipped: $(tail -n 1 "$log")"
    else
        failed=$((failed + 1))
        cat "$log"
        echo "$name: FAILED (exit status $code)"
    fi
}

for t in tests/test_*.c; do
    program "build/$(basename "$t" .c)"
done
check "golden cases" sh tests/test_golden.sh build/run_case
check "strict builds" sh tests/strict.sh
check "examples" sh tests/test_examples.sh
for extra in tests/extra_*.sh; do
    [ -f "$extra" ] && check "$(basename "$extra" .sh)" sh "$extra"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
