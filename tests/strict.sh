#!/bin/sh
# The header under every standard and switch, with warnings as errors, by every compiler that is here. Each build is linked and run.
set -u
cd "$(dirname "$0")/.." || exit 2
out=build/strict
rm -rf $out
mkdir -p $out
: >$out/builds
: >$out/built
warn="-Werror -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -I."
warn_c="$warn -Wstrict-prototypes -Wmissing-prototypes"
failed=0

# A compiler and what it is given, for the builds that are done side by side below.
build() {
    echo "$*" >>$out/builds
}

for cc in gcc clang; do
    command -v $cc >/dev/null 2>&1 || { echo "$cc: skipped, not installed"; continue; }
    build $cc -std=c11 -O3 $warn_c -DMAIL_THREADS tests/compile/one.c -lm -pthread
    if printf '#include <errno.h>\nint main(void) { return 0; }\n' | $cc -m32 -x c - -o $out/small -lm 2>/dev/null; then
        build $cc -m32 -std=c99 -O2 $warn_c tests/compile/one.c -lm
    else
        echo "$cc -m32: skipped, no 32-bit libraries"
    fi
    build $cc -std=c11 -O1 $warn_c tests/compile/two_a.c tests/compile/two_b.c -lm
    build $cc -std=c11 -O0 $warn_c -DMAIL_STATIC tests/compile/two_static_a.c tests/compile/two_static_b.c -lm
    build $cc -std=c17 -O1 $warn_c tests/compile/one.c -lm
    build $cc -std=c99 -O1 $warn_c -DMAIL_NO_STDIO tests/compile/one.c -lm
    build $cc -std=c99 -O1 $warn_c -DMAIL_THREADS tests/compile/one.c -lm -pthread
    build $cc -std=c99 -O1 $warn_c -DMAIL_NO_SIMD tests/compile/one.c -lm
done
for cxx in g++ clang++; do
    command -v $cxx >/dev/null 2>&1 || { echo "$cxx: skipped, not installed"; continue; }
    for std in c++11 c++17 c++20; do
        build $cxx -x c++ -std=$std -O1 $warn tests/compile/one.c -lm
    done
done
xargs -P "$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)" -L 1 sh -c '
    program=$(mktemp '$out'/program.XXXXXX) || exit 1
    if "$@" -o "$program" && "$program"; then
        echo "$*" >>'$out'/built
    else
        echo "FAILED: $*"
    fi' sh <$out/builds &

for cc in gcc clang; do
    command -v $cc >/dev/null 2>&1 || continue
    # exported symbols
    $cc -O0 -I. -DMAIL_THREADS -c tests/compile/one.c -o $out/one.o || failed=$((failed + 1))
    if command -v nm >/dev/null 2>&1; then
        others=$(nm -g --defined-only $out/one.o | awk '{print $3}' | grep -v -e '^mail_' -e '^main$')
        [ -z "$others" ] || { echo "$cc exports other names: $others"; failed=$((failed + 1)); }
    fi
    # -ffast-math would let NaN pass unseen: it has to be refused with a reason
    if $cc -O2 -ffast-math -I. -c tests/compile/one.c -o $out/fast.o 2>$out/fast.txt; then
        echo "$cc: -ffast-math was not refused"
        failed=$((failed + 1))
    else
        grep -q 'mail.h.*NaN' $out/fast.txt || { echo "$cc: -ffast-math was refused without the reason"; failed=$((failed + 1)); }
    fi
    # options that change the declarations, given after them
    if printf '#include "mail.h"\n#define MAIL_THREADS\n#define MAIL_IMPLEMENTATION\n#include "mail.h"\n' |
        $cc -I. -x c -c - -o $out/late.o 2>$out/late.txt; then
        echo "$cc: MAIL_THREADS after the first include was not refused"
        failed=$((failed + 1))
    else
        grep -q 'before every include' $out/late.txt || { echo "$cc: MAIL_THREADS was refused without the reason"; failed=$((failed + 1)); }
    fi
done
if command -v nvcc >/dev/null 2>&1; then
    cp tests/compile/one.c $out/one.cu
    nvcc -O1 -I. -c $out/one.cu -o $out/one_cu.o || failed=$((failed + 1))
fi
# the contents list on top of the header names every banner, in order
listed=$(sed -n '/Contents:/,/\*\//p' mail.h | grep -o '>>[a-z]*' | tr '\n' ' ')
banners=$(sed -n 's/^   \(>>[a-z]*\) .*/\1/p' mail.h | tr '\n' ' ')
[ "$listed" = "$banners" ] || { echo "contents list ($listed) is not the banners ($banners)"; failed=$((failed + 1)); }
wait
built=$(grep -c . $out/built)
failed=$((failed + $(grep -c . $out/builds) - built))
echo "$built builds and runs, $failed failed"
[ $failed -eq 0 ]
