#!/bin/sh
# Compile every kernel of mail_cuda.cuh with nvcc; print registers and spills; fail on a warning or a spill.
# $1: where to build. NVCC: the compiler. ARCHS: what for.
set -u
b=$1
nvcc=${NVCC:-nvcc}
if ! command -v "$nvcc" >/dev/null 2>&1; then
    echo "cuda: skipped, no nvcc on this machine"
    exit 0
fi
"$nvcc" --version | tail -n 2 | head -n 1
status=0
for arch in ${ARCHS:-80 90a 120}; do
    log=$b/ptxas_$arch.txt
    if ! "$nvcc" -std=c++17 -O3 -DMAIL_NO_SIMD -gencode=arch=compute_"$arch",code=sm_"$arch" -Xptxas -v -cubin tests/cuda/all_kernels.cu \
        -o "$b/all_kernels_$arch.cubin" >"$log" 2>&1; then
        grep -i error "$log" | head -n 20
        echo "sm_$arch: FAIL, does not compile"
        status=1
        continue
    fi
    echo "sm_$arch   registers  spilled bytes  kernel"
    awk -v q="'" '/Compiling entry function/ { split($0, part, q); name = part[2] }
         /spill stores/ { spill = $0; sub(/.*frame, /, "", spill); sub(/ bytes spill stores.*/, "", spill) }
         /Used [0-9]+ registers/ { regs = $0; sub(/.*Used /, "", regs); sub(/ registers.*/, "", regs); print name, regs, spill }' "$log" |
        c++filt | sed -E 's/^void //; s/\(.*\)//' | sort |
        awk '{ spill = $NF; regs = $(NF - 1); NF -= 2; printf "        %10s  %13s  %s\n", regs, spill, $0 }'
    if grep -qE '[1-9][0-9]* bytes spill' "$log"; then
        echo "sm_$arch: FAIL, registers are spilled"
        status=1
    fi
    if grep -i 'warning' "$log" | grep -v 'mail.h'; then
        echo "sm_$arch: FAIL, warnings"
        status=1
    fi
done
exit $status
