#!/bin/sh
# tests/test_threads.c under ThreadSanitizer: sessions sharing a policy, policies loaded and released side by side, pools that come and
# go, a pool wanted by several at once, plans cancelled in the middle. Any report fails. 77: no compiler here has the sanitizer.
#     LONG=1 tests/extra_tsan.sh      more rounds
set -u
cd "$(dirname "$0")/.." || exit 2
out=build/tsan
mkdir -p $out
echo 'int main(void) { return 0; }' >$out/probe.c
# the sanitizer wants its usual place in memory, which some kernels randomise away
fixed=
setarch "$(uname -m)" -R true 2>/dev/null && fixed="setarch $(uname -m) -R"
for cc in ${CC:-} gcc clang; do
    command -v "$cc" >/dev/null 2>&1 || continue
    "$cc" -fsanitize=thread $out/probe.c -o $out/probe 2>/dev/null && $fixed $out/probe 2>/dev/null || continue
    # scalar kernels only: the sanitizer watches memory, not arithmetic, and the others take it minutes to compile
    "$cc" -O1 -g -fsanitize=thread -DMAIL_NO_SIMD -I. tests/test_threads.c -o $out/test_threads -lm -pthread || exit 1
    mode=--races
    [ -n "${LONG:-}" ] && mode=--long
    # shellcheck disable=SC2086
    TSAN_OPTIONS="halt_on_error=0 exitcode=66" $fixed $out/test_threads ${mode} >$out/log 2>&1
    code=$?
    tail -n 1 $out/log
    if [ $code -ne 0 ]; then
        grep -A 12 -m 3 'WARNING: ThreadSanitizer\|FAILED' $out/log
        exit 1
    fi
    echo "$cc: no data race reported"
    exit 0
done
echo "no compiler with ThreadSanitizer"
exit 77
