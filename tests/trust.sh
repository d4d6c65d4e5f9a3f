#!/bin/sh
# make trust: every promise of tests/README.md, the long way, and a table at the end. Takes hours on two processors.
set -u
cd "$(dirname "$0")/.." || exit 2
out=build/trust
mkdir -p $out
table=$out/table
: >$table
failed=0

item() {  # promise, log name, command
    promise=$1 log=$out/$2.log
    shift 2
    began=$(date +%s)
    "$@" >"$log" 2>&1
    code=$?
    took=$(($(date +%s) - began))
    case $code in
        0) verdict=ok ;;
        77) verdict=skipped ;;
        *) verdict=FAILED failed=$((failed + 1)) ;;
    esac
    printf '%-44s %-8s %6ds  %s\n' "$promise" "$verdict" $took "$(tail -n 1 "$log" | tr -d '\r' | cut -c1-90)" | tee -a $table
}

sanitized() {  # a test under AddressSanitizer and UBSan
    ${CC:-cc} -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -I. "tests/$1.c" -o "$out/$1.san" -lm -pthread || return 77
    "$out/$1.san"
}

watched() {  # a test under valgrind
    command -v valgrind >/dev/null 2>&1 || { echo "valgrind is not installed"; return 77; }
    ${CC:-cc} -O1 -g -DMAIL_NO_SIMD -I. "tests/$1.c" -o "$out/$1.valgrind" -lm -pthread || return 1
    valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite,indirect,possible "$out/$1.valgrind"
}

for t in tests/test_*.c; do
    name=$(basename "$t" .c)
    item "$name" "$name" "build/$name"
done
for t in session sampler blocks numbers memory threads; do
    item "test_$t, ASan and UBSan" "san_$t" sanitized test_$t
done
for t in session sampler numbers; do
    item "test_$t, valgrind" "valgrind_$t" watched test_$t
done
item "golden cases, every set, 1 and 2 threads" golden sh tests/test_golden.sh build/run_case
item "same bits over runs" runs sh tests/extra_runs.sh
item "threads under ThreadSanitizer, long" tsan env LONG=1 sh tests/extra_tsan.sh
item "a million decisions, a day of robot time" long_run build/long_run
item "other machines and compilers" emulation sh tests/emulation.sh
item "static analysis" analysis sh tests/analysis.sh
[ -f tests/fuzz/fuzz.mk ] && item "fuzzing, a minute each" fuzz ${MAKE:-make} fuzz
echo
cat $table
[ $failed -eq 0 ]
