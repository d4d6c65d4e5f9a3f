#!/bin/sh
# The kernels of mail_cuda.cuh on the CPU, where there is a C++ compiler.
cd "$(dirname "$0")/.." || exit 2
if ! command -v c++ >/dev/null 2>&1; then
    echo "no C++ compiler"
    exit 77
fi
make test-cuda-cpu
