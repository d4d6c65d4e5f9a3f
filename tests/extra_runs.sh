#!/bin/sh
# Same seed, same bits over runs: a program that plays every small policy on 1 to 8 threads prints hashes; three runs must agree.
set -u
cd "$(dirname "$0")/.." || exit 2
p=build/test_threads
[ -x $p ] || { echo "build/test_threads is not built"; exit 77; }
first=$($p --hash) || { echo "$first"; exit 1; }
for run in 2 3; do
    again=$($p --hash)
    if [ "$first" != "$again" ]; then
        echo "run $run differs from the first"
        exit 1
    fi
done
echo "three runs, $(echo "$first" | wc -l) cases, the same hashes"
