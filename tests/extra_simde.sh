#!/bin/sh
# The AVX-512 kernels, and AVX2's with AVX-VNNI, on a machine that has neither: the tests of kernels, pictures, blocks, numbers and sessions and the golden
# cases, with SIMDe's portable intrinsics in the place of the compiler's (tests/simde/avx512.h). Wants gcc, SIMDe
# (Debian: libsimde-dev) and a processor with AVX2; 77: not all there. Most of its minute and a half is spent compiling.
set -u
cd "$(dirname "$0")/.." || exit 2
out=build/simde
mkdir -p $out
grep -qw avx2 /proc/cpuinfo 2>/dev/null && grep -qw fma /proc/cpuinfo || { echo "the processor has no AVX2"; exit 77; }
command -v gcc >/dev/null 2>&1 || { echo "gcc is not installed"; exit 77; }
echo '#include <simde/x86/avx512.h>' | gcc -E -x c - >/dev/null 2>&1 || { echo "SIMDe is not installed"; exit 77; }
build() {
    gcc -O1 -include tests/simde/avx512.h -mavx2 -mfma -Wno-psabi -I. "tests/$1.c" -o "$out/$1" -lm -pthread
}
for pair in 'test_kernels test_vision' 'test_blocks run_case' 'test_numbers test_session'; do  # two at a time
    one=${pair% *} two=${pair#* }
    build "$one" & pid=$!
    build "$two" || exit 1
    wait $pid || exit 1
done
checks=0
for t in test_kernels test_vision test_blocks test_numbers test_session; do
    if ! $out/$t >$out/$t.log 2>&1 || grep -q 'avx.*not on this machine' $out/$t.log; then
        grep -e FAIL -e avx $out/$t.log | head -n 20
        tail -n 1 $out/$t.log
        exit 1
    fi
    checks=$((checks + $(tail -n 1 $out/$t.log | sed -n 's/.* \([0-9]*\) passed.*/\1/p')))
done
if ! ISAS='avx2 avx512' sh tests/test_golden.sh $out/run_case >$out/golden.log 2>&1 || grep -q skipped $out/golden.log; then
    tail -n 20 $out/golden.log
    exit 1
fi
echo "$checks checks; golden: $(tr '\n' ' ' <$out/golden.log)"
