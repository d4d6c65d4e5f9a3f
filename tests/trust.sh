#!/bin/sh
# make trust: every promise of tests/README.md, the long way, and a table at the end. Takes hours on two processors, so what went well
# is kept in build/trust and not run again while the sources and the compiler stay the same; `make trust FRESH=1` starts over.
# FUZZ_SECONDS says how long each fuzz target runs; ONLY="san_tensors fuzz" runs these items alone (they are named after their logs there).
set -u
cd "$(dirname "$0")/.." || exit 2
out=build/trust
[ -z "${FRESH:-}" ] || rm -rf $out
mkdir -p $out
failed=0
key=$({ cat mail.h tests/*.[ch] tests/*.sh tests/fuzz/*.[ch] tests/simde/*.h; ${CC:-cc} --version; echo "${FUZZ_SECONDS:-60}"; } | cksum | cut -d' ' -f1)
rows=

item() {  # promise, log name, command
    promise=$1 log=$out/$2.log row=$out/$2.row
    case " ${ONLY:-$2} " in *" $2 "*) ;; *) return ;; esac
    shift 2
    rows="$rows $row"
    if [ "$(cat "$row.key" 2>/dev/null)" = "$key" ]; then
        echo "$(cat "$row")  (kept)"
        return
    fi
    printf '%s ...\n' "$promise"
    began=$(date +%s)
    "$@" >"$log" 2>&1
    code=$?
    took=$(($(date +%s) - began))
    case $code in
        0) verdict=ok ;;
        77) verdict=skipped ;;
        *) verdict=FAILED failed=$((failed + 1)) ;;
    esac
    printf '%-44s %-8s %6ds  %s\n' "$promise" "$verdict" $took "$(tail -n 1 "$log" | tr -d '\r' | cut -c1-90)" | tee "$row"
    [ $verdict = FAILED ] || echo "$key" >"$row.key"
}

sanitized() {  # a test under AddressSanitizer and UBSan
    ${CC:-cc} -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -I. "tests/$1.c" -o "$out/$1.san" -lm -pthread || return 77
    "$out/$1.san"
}

watched() {  # a test under valgrind
    command -v valgrind >/dev/null 2>&1 || { echo "valgrind is not installed"; return 77; }
    # valgrind's processor has AVX2 and no AVX-512: the library chooses AVX2, and the tests run every set it finds
    ${CC:-cc} -O1 -g -I. "tests/$1.c" -o "$out/$1.valgrind" -lm -pthread || return 1
    valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite,indirect,possible "$out/$1.valgrind"
}

for t in tests/test_*.c; do
    name=$(basename "$t" .c)
    item "$name" "$name" "build/$name"
done
for t in blocks config images kernels memory numbers sampler session tensors threads vision; do
    item "test_$t, ASan and UBSan" "san_$t" sanitized test_$t
done
for t in blocks config images kernels sampler session tensors; do
    item "test_$t, valgrind" "valgrind_$t" watched test_$t
done
item "golden cases, every set, 1 and 2 threads" golden sh tests/test_golden.sh build/run_case
item "the AVX-512 kernels by SIMDe" simde sh tests/extra_simde.sh
item "same bits over runs" runs sh tests/extra_runs.sh
item "threads under ThreadSanitizer, long" tsan env LONG=1 sh tests/extra_tsan.sh
item "a million decisions, a day of robot time" long_run build/long_run
item "other machines and compilers" emulation sh tests/emulation.sh
item "static analysis" analysis sh tests/analysis.sh
item "lines of the parsers that run" coverage sh tests/coverage.sh
item "fuzzing, ${FUZZ_SECONDS:-60} s each" fuzz ${MAKE:-make} fuzz
echo
# shellcheck disable=SC2086
cat $rows
[ $failed -eq 0 ]
