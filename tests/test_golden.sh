#!/bin/sh
# Judge every golden case on every instruction set of this machine, on one and two threads, from .safetensors and .pth,
# and check that for one instruction set all of these give the same bits; and judge them with bf16 and with int8 weights.
#
#     tests/test_golden.sh build/run_case [CASES]        CASES: a folder of case folders; default tests/golden/cases
#
# RUNNER, if set, is put before the program (an emulator); ISAS names the instruction sets to try.
set -u
run=$1
cases=${2:-$(dirname "$0")/golden/cases}
out=$(mktemp -d) || exit 2
trap 'rm -rf "$out"' EXIT INT TERM
status=0
ran=0

# A set that the processor has must not be skipped.
has() {
    [ -n "${RUNNER:-}" ] && return 1
    case $1 in
        scalar) return 0 ;;
        avx2) grep -qw avx2 /proc/cpuinfo 2>/dev/null && grep -qw fma /proc/cpuinfo ;;
        avx512) grep -qw avx512f /proc/cpuinfo 2>/dev/null && grep -qw avx512bw /proc/cpuinfo &&
                grep -qw avx512dq /proc/cpuinfo && grep -qw avx512vl /proc/cpuinfo ;;
        neon) [ "$(uname -m)" = aarch64 ] ;;
    esac
}

for isa in ${ISAS:-scalar avx2 avx512 neon}; do
    first=
    for threads in 1 2; do
        for format in safetensors pth; do
            flag=
            [ "$format" = pth ] && flag=--pth
            file="$out/$isa-$threads-$format"
            # shellcheck disable=SC2086
            ${RUNNER:-} "$run" --isa "$isa" --threads "$threads" $flag --hash "$cases"/*/ >"$file" 2>&1
            code=$?
            if [ $code -eq 3 ] && [ -z "$first" ]; then
                if has "$isa"; then
                    echo "$isa: FAIL, the processor has it but it was refused: $(tail -n 1 "$file")"
                    status=1
                else
                    echo "$isa: skipped, not on this machine"
                fi
                continue 3
            fi
            if [ $code -ne 0 ]; then
                grep -v -e ' ok$' -e '/hash ' "$file" | head -n 40
                echo "$isa, $threads threads, $format: FAIL (exit status $code)"
                status=1
            fi
            grep '/hash ' "$file" >"$file.hash"
            if [ -z "$first" ]; then
                first=$file
            elif ! cmp -s "$first.hash" "$file.hash"; then
                diff "$first.hash" "$file.hash" | grep '^>' | head -n 10
                echo "$isa, $threads threads, $format: FAIL, other bits than with 1 thread and safetensors"
                status=1
            fi
            ran=$((ran + 1))
        done
    done
    for weights in bf16 int8; do
        file="$out/$isa-$weights"
        # shellcheck disable=SC2086
        ${RUNNER:-} "$run" --isa "$isa" --weights $weights "$cases"/*/ >"$file" 2>&1
        code=$?
        if [ $code -ne 0 ]; then
            grep -v ' ok$' "$file" | head -n 40
            echo "$isa, weights $weights: FAIL (exit status $code)"
            status=1
        fi
        ran=$((ran + 1))
    done
    both=0
    for d in "$cases"/*/; do
        [ -f "$d/model.pth" ] && [ -f "$d/model.safetensors" ] && both=$((both + 1))
    done
    echo "$isa: $(grep -c '/hash ' "$first") cases, $(grep -c ' ok$' "$first") outputs ok;" \
         "1 and 2 threads; $both cases from both kinds of file;" \
         "bf16: $(grep -c ' ok$' "$out/$isa-bf16"), int8: $(grep -c ' ok$' "$out/$isa-int8")"
done
[ $ran -gt 0 ] || { echo "no instruction set was run"; status=1; }
exit $status
