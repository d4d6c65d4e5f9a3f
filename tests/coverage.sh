#!/bin/sh
# Which lines of the parsers run under the unit tests and the fuzz seeds: the lines that never ran, then a row
# per section of mail.h.
#     tests/coverage.sh [FOLDER...]     folders of more fuzz inputs, each named corpus_TARGET (as make fuzz leaves them in build)
# Goal: 95 % of each section. tests/README.md explains what is left. Needs gcc and its gcov; 77: not here.
set -u
cd "$(dirname "$0")/.." || exit 2
command -v gcc >/dev/null 2>&1 && command -v gcov >/dev/null 2>&1 || { echo "gcc or gcov is not installed"; exit 77; }
root=$PWD out=$PWD/build/coverage
rm -rf "$out"
mkdir -p "$out"

build() {  # name, source, flags: to $out/name, its notes and counts beside it
    name=$1 source=$2
    shift 2
    # -O0 and scalar kernels: a line of the text is a line of the count
    (cd "$out" && gcc -O0 -g --coverage -DMAIL_NO_SIMD -I"$root" -I"$root/tests" "$@" "$root/$source" -o "$name" -lm -pthread) || exit 1
}

for t in test_tensors test_config; do
    build $t tests/$t.c
    "$out/$t" >"$out/$t.log" 2>&1 || { tail -n 3 "$out/$t.log"; exit 1; }
done
for t in config policy pth safetensors; do
    build fuzz_$t tests/fuzz/fuzz_$t.c -DFUZZ_MAIN
    for folder in tests/fuzz/seeds/$t "$@"; do
        case $folder in
            */seeds/$t | */corpus_$t | corpus_$t) find "$folder" -type f | xargs -n 200 "$out/fuzz_$t" >"$out/fuzz_$t.log" 2>&1 || { tail -n 3 "$out/fuzz_$t.log"; exit 1; } ;;
        esac
    done
done
for counts in "$out"/*.gcda; do
    (cd "$out" && gcov -t "$(basename "$counts")") 2>/dev/null | awk '/:Source:/ { on = /mail\.h$/ } on'
done >"$out/lines"
# a line has run if it did in any of the programs
awk -F: '
    { n = $2 + 0; if (n == 0) next; text = $0; sub(/^[^:]*:[^:]*:/, "", text); line[n] = text; most = n > most ? n : most }
    $1 !~ /^ *-$/ { code[n] = 1; if ($1 !~ /[#=]/) ran[n] = 1 }
    END {
        for (n = 1; n <= most; n++) {
            if (match(line[n], /^   >>[a-z]+ /)) { section = substr(line[n], 6, RLENGTH - 6) }
            if (section !~ /^(bytes|json|tensors|config)$/ || !code[n]) continue
            total[section]++
            if (ran[n]) hit[section]++; else missed = missed sprintf("%6d %s\n", n, line[n])
        }
        printf "never ran:\n%s", missed
        split("bytes json tensors config", names, " ")
        for (i = 1; i <= 4; i++) {
            s = names[i]
            if (!total[s]) { bad = 1; continue }
            printf "%-8s %5d of %5d lines ran  %6.2f %%\n", s, hit[s], total[s], 100 * hit[s] / total[s]
            if (hit[s] < 0.95 * total[s]) bad = 1
            hits += hit[s]; lines += total[s]
        }
        printf "%d of %d lines of the parsers ran, %.2f %%\n", hits, lines, 100 * hits / (lines ? lines : 1)
        exit bad
    }' "$out/lines"
