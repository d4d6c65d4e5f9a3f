#!/bin/sh
# Static analysis of mail.h: clang-tidy, cppcheck, gcc -fanalyzer and clang's analyzer. Clean, or suppressed here with the reason.
#     tests/analysis.sh [TOOL...]      tools: tidy cppcheck gcc clang; default: all that are installed
set -u
cd "$(dirname "$0")/.." || exit 2
out=build/analysis
mkdir -p $out
unit=tests/compile/one.c
failed=0 ran=0
tools=${*:-tidy cppcheck gcc clang}

have() { command -v "$1" >/dev/null 2>&1 || { echo "$1: skipped, not installed"; return 1; }; }

# What is left out of clang-tidy's bugprone, cert, clang-analyzer and performance checks, and why:
#   bugprone-easily-swappable-parameters   kernels take sizes and strides in the order of the equation; STYLE of C, not a bug
#   bugprone-narrowing-conversions, bugprone-implicit-widening-of-multiplication-result
#                                          -Wconversion and -Wsign-conversion are on and clean; products of file sizes go through mailp_mul
#   bugprone-macro-parentheses             MAILP_FN pastes names, MAIL_X lists codes: parentheses would not compile
#   bugprone-suspicious-include            the file includes itself once per instruction set, on purpose
#   bugprone-reserved-identifier, cert-dcl37-c, cert-dcl51-cpp   _GNU_SOURCE in tests is for the C library to read
#   bugprone-branch-clone                  equal branches in tables of dtypes say more than one merged condition
#   bugprone-assignment-in-if-condition    one `else if ((data = alloc()) == NULL)` ladder in mailp_file_read
#   bugprone-multi-level-implicit-pointer-conversion   memcpy of pointer arrays in mailp_sort
#   clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling   wants C11 Annex K, which no C library here has
#   clang-analyzer-optin.performance.Padding   fields stand in the order in which they are read
#   cert-err33-c                           results not wanted are cast to void where it matters; clock and snprintf are not errors
#   cert-flp30-c, clang-analyzer-security.FloatLoopCounter   no float counts a loop that matters
#   bugprone-misplaced-widening-cast       sums and products of sizes that are printed in a message, or lie inside a file that was measured
#   bugprone-not-null-terminated-result    mailp_save: the suffix with its NUL is copied behind in the next line
#   clang-analyzer-security.insecureAPI.strcpy   mailp_open_beside: the name's memory is len + 16 bytes, the longest suffix has 12
#   performance-no-int-to-ptr              (void *)(uintptr_t) drops const, which C has no other word for; addresses to be fetched ahead are
#                                          numbers, since they may lie beyond the array
checks='-*,bugprone-*,cert-*,clang-analyzer-*,performance-*'
for no in bugprone-easily-swappable-parameters bugprone-narrowing-conversions bugprone-implicit-widening-of-multiplication-result \
          bugprone-macro-parentheses bugprone-suspicious-include bugprone-reserved-identifier cert-dcl37-c cert-dcl51-cpp \
          bugprone-branch-clone bugprone-assignment-in-if-condition bugprone-multi-level-implicit-pointer-conversion \
          clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling clang-analyzer-optin.performance.Padding cert-err33-c \
          cert-flp30-c clang-analyzer-security.FloatLoopCounter bugprone-misplaced-widening-cast \
          bugprone-not-null-terminated-result clang-analyzer-security.insecureAPI.strcpy performance-no-int-to-ptr; do
    checks="$checks,-$no"
done

# Single findings that are wrong, by what they say:
#   &unplaced (cppcheck)        an object that the measuring pass of the loader fills and throws away; passed to be written, not read
#   argument step (cppcheck)    the struct's members are set one by one above the call; cppcheck does not follow them into it
known() {
    grep -v -e '&unplaced \[uninitvar\]' -e 'Using argument step that points'
}

verdict() {  # tool, log of findings
    ran=$((ran + 1))
    if [ -s "$2" ]; then
        head -n 30 "$2"
        echo "$1: FAILED, $(grep -c -e warning: -e error: "$2") findings"
        failed=$((failed + 1))
    else
        echo "$1: clean"
    fi
}

for tool in $tools; do
    case $tool in
        tidy)
            have clang-tidy || continue
            clang-tidy --quiet --checks="$checks" --header-filter='mail\.h' $unit -- -std=c11 -I. -DMAIL_THREADS 2>/dev/null |
                grep 'warning:\|error:' | known >$out/tidy.log
            verdict clang-tidy $out/tidy.log ;;
        cppcheck)
            have cppcheck || continue
            # missingIncludeSystem: its own notice; unusedFunction: a library; the rest of "information" is about cppcheck itself.
            # preprocessorErrorDirective: the #error for -ffast-math is meant to be there.
            # Scalar build: the other passes are the same text with other words.
            cppcheck --quiet --std=c99 --enable=warning,portability --inline-suppr --error-exitcode=0 -I. -DMAIL_NO_SIMD -DMAIL_THREADS \
                -U__FAST_MATH__ -U__FINITE_MATH_ONLY__ -U_WIN32 -D__unix__ -D__GNUC__ --suppress=missingIncludeSystem --suppress=unusedFunction \
                --suppress=preprocessorErrorDirective --max-configs=1 $unit 2>&1 | grep -e 'warning:' -e 'error:' -e 'portability:' | known >$out/cppcheck.log
            verdict cppcheck $out/cppcheck.log ;;
        gcc)
            have gcc || continue
            # -O0: at higher levels the analyzer follows inlined code into paths that the arena's two passes exclude.
            # Scalar build for the same reason as above. The parameters bound how many states it keeps per place (defaults: 8 and 5, with
            # which it takes longer than anybody has waited); with them it needs 20 s of processor time and 1.3 GB.
            # No malloc-leak: mailp_free finds the block through the byte before it, which the analyzer does not follow, so that every
            # block seems lost. Leaks are looked for by test_memory, AddressSanitizer and valgrind.
            (ulimit -t 1200
             gcc -std=c11 -O0 -fanalyzer --param=analyzer-max-enodes-per-program-point=4 --param=analyzer-bb-explosion-factor=3 \
                 -Wno-analyzer-malloc-leak -DMAIL_NO_SIMD -DMAIL_THREADS -I. -c $unit -o /dev/null >$out/gcc.txt 2>&1) ||
                 echo "error: gcc did not finish" >>$out/gcc.txt
            grep -e 'warning:' -e 'error:' $out/gcc.txt >$out/gcc.log
            verdict 'gcc -fanalyzer' $out/gcc.log ;;
        clang)
            have clang || continue
            clang --analyze -Xanalyzer -analyzer-output=text -std=c11 -DMAIL_NO_SIMD -DMAIL_THREADS -I. $unit -o /dev/null 2>&1 |
                grep -e 'warning:' -e 'error:' | known >$out/clang.log
            verdict 'clang --analyze' $out/clang.log ;;
        *) echo "unknown tool $tool"; failed=$((failed + 1)) ;;
    esac
done
[ $failed -eq 0 ] || exit 1
[ $ran -gt 0 ] || { echo "no analyzer is installed"; exit 77; }
