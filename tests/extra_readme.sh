#!/bin/sh
# The README's first C program compiles as it says, and every `make` target it names is there.
set -eu
cd "$(dirname "$0")/.."
mkdir -p build/readme
awk '/^```c$/ { on = 1; next } /^```$/ { if (on) exit } on' README.md >build/readme/program.c
[ -s build/readme/program.c ]
cc -O2 -Wall -Wextra -I. build/readme/program.c -o build/readme/program -lm
if (cd build/readme && ./program >out.txt); then
    echo "the README's program did not fail without a policy"
    exit 1
fi
grep -q 'policy.safetensors' build/readme/out.txt
for t in $(grep -oE '\bmake [a-z][a-z_-]*' README.md | awk '{print $2}' | sort -u); do
    make -n "$t" >/dev/null || { echo "the README names 'make $t', which the Makefile does not have"; exit 1; }
done
