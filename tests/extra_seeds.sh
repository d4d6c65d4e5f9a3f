#!/bin/sh
# Every committed fuzz input once, under AddressSanitizer and UBSan, by the ordinary compiler (the short form of make fuzz). 77: it has none.
set -u
cd "$(dirname "$0")/.." || exit 2
cc=${CC:-cc} out=build/seeds inputs=0
mkdir -p $out
echo 'int main(void) { return 0; }' >$out/probe.c
$cc -fsanitize=address,undefined $out/probe.c -o $out/probe 2>/dev/null && $out/probe || { echo "no compiler with AddressSanitizer"; exit 77; }
for source in tests/fuzz/fuzz_*.c; do
    t=$(basename "$source" .c) t=${t#fuzz_}
    # -O0 and scalar kernels: quickest to build
    $cc -O0 -g -DMAIL_NO_SIMD -DFUZZ_MAIN -fsanitize=address,undefined -fno-sanitize-recover=all -I. "$source" -o "$out/$t" -lm || exit 1
    "$out/$t" tests/fuzz/seeds/"$t"/* >"$out/$t.log" 2>&1 || { tail -n 20 "$out/$t.log"; exit 1; }
    inputs=$((inputs + $(sed -n 's/ inputs$//p' "$out/$t.log")))
done
echo "$inputs inputs, no report"
