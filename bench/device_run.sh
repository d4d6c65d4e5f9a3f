#!/bin/sh
# One command for a machine with a GPU: build, tests, sanitizers, times, peers, profile; under ten minutes.
#
#     bench/device_run.sh [OUT]        OUT: where the logs go; default build/device
#
# Every stage has its own limit and its log is written as it ends; the table that matters is printed last.
set -u
cd "$(dirname "$0")/.." || exit 2
out=${1:-${OUT:-build/device}}
mkdir -p "$out" build
: >"$out/steps"
gpu=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
if [ -z "$gpu" ]; then
    echo "device_run: skipped, no GPU on this machine"
    exit 0
fi
[ "$gpu" = 90 ] && gpu=90a
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
flags="-std=c++17 -O3 -lineinfo -DMAIL_NO_SIMD -gencode=arch=compute_$gpu,code=sm_$gpu"
failed=0

step() { # name, seconds, command...
    name=$1
    limit=$2
    shift 2
    begin=$(date +%s)
    timeout "$limit" "$@" >"$out/$name.log" 2>&1
    code=$?
    [ $code -eq 0 ] || failed=1
    echo "$name: exit status $code, $(($(date +%s) - begin)) s" | tee -a "$out/steps"
}

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu --format=csv | tee "$out/gpu.log"
date -u +%F | tee -a "$out/gpu.log"
# shellcheck disable=SC2086
(
    $nvcc $flags tests/cuda/test_cuda.cu -o build/test_cuda_gpu >"$out/build_test.log" 2>&1 &
    $nvcc $flags tests/cuda/run_case_cuda.cu -o build/run_case_cuda_gpu >"$out/build_case.log" 2>&1 &
    $nvcc $flags bench/cuda_bench.cu -o build/cuda_bench >"$out/build_bench.log" 2>&1 &
    wait
)
for program in test_cuda_gpu run_case_cuda_gpu cuda_bench; do
    [ -x build/$program ] || { echo "build of $program failed"; failed=1; }
done

step test 60 build/test_cuda_gpu
step goldens_fast 60 build/run_case_cuda_gpu tests/golden/cases/*/
step goldens_plain 60 build/run_case_cuda_gpu --plain tests/golden/cases/*/
[ -d build/golden ] && step goldens_large 60 build/run_case_cuda_gpu build/golden/*/
step memcheck 60 compute-sanitizer --tool memcheck --error-exitcode 9 build/test_cuda_gpu "loop D-Ma, d_state 16, 5 actions, 8"
step racecheck 60 compute-sanitizer --tool racecheck --error-exitcode 9 build/test_cuda_gpu "fused conv 3x3, 8"
step synccheck 40 compute-sanitizer --tool synccheck --error-exitcode 9 build/test_cuda_gpu "loop ED-Ma, d_state 8"
step bench 100 build/cuda_bench --seconds 0.5
if python3 -c 'import torch, torchvision' 2>/dev/null; then
    step peers 150 python3 bench/cuda_peers.py --batches 1,32,64 --budget 110 --compile
else
    echo "peers: skipped, no torch and torchvision" | tee -a "$out/steps"
fi
if command -v ncu >/dev/null 2>&1; then
    step ncu 60 ncu --clock-control none --set basic -k regex:mailp_cuda_loop -c 2 build/cuda_bench --batches 1 --seconds 0.01
fi
nvidia-smi --query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu --format=csv,noheader >>"$out/gpu.log"

{
    echo "---- checks"
    tail -n 1 "$out/test.log"
    for log in goldens_fast goldens_plain goldens_large; do
        [ -f "$out/$log.log" ] && echo "$log: $(grep -c ' ok$' "$out/$log.log") outputs ok, $(grep -c ' FAIL' "$out/$log.log") failed"
    done
    for log in memcheck racecheck synccheck; do
        tail -n 1 "$out/$log.log"
    done
    echo "---- times"
    cat "$out/bench.log"
    [ -f "$out/peers.log" ] && { echo "---- peers"; grep -v '^#' "$out/peers.log"; }
    echo "---- stages"
    cat "$out/steps"
} | tee "$out/table.txt"
exit $failed
