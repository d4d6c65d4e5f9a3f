#!/bin/sh
# One command for a machine with a GPU: build, tests, goldens, times, peers, sanitizers, profile; under ten minutes.
#
#     bench/device_run.sh [OUT]        OUT: where the logs go; default build/device
#
# Needs the CUDA Toolkit and a C++ compiler; PyTorch for the peers. Every stage has its own limit and all together MINUTES
# (default 9.5): what does not fit is said to be skipped. The table that matters is written last, to OUT/table.txt.
# NVCC, PYTHON: other programs than nvcc and python3.
set -u
cd "$(dirname "$0")/.." || exit 2
out=${1:-${OUT:-build/device}}
mkdir -p "$out" build || exit 2
out=$(cd "$out" && pwd)
rm -f "$out"/*.log "$out/steps" "$out/table.txt"
rm -f build/test_cuda_gpu build/run_case_cuda_gpu build/cuda_bench
: >"$out/steps"
start=$(date +%s)
minutes=${MINUTES:-9.5}
total=$(awk "BEGIN { print int(60 * $minutes) }")
failed=0

if ! command -v nvidia-smi >/dev/null 2>&1 || ! nvidia-smi -L 2>/dev/null | grep -q GPU; then
    echo "device_run: skipped, no GPU on this machine"
    exit 0
fi
nvcc=${NVCC:-nvcc}
command -v "$nvcc" >/dev/null 2>&1 || nvcc=/usr/local/cuda/bin/nvcc
if ! command -v "$nvcc" >/dev/null 2>&1; then
    echo "device_run: there is a GPU, but no nvcc (set NVCC)"
    exit 2
fi
# "9.0" -> 90; drivers that do not know the question answer with a sentence
cap=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '. ')
case $cap in
    '' | *[!0-9]*) arch=-arch=native ;;
    90) arch=-gencode=arch=compute_90a,code=sm_90a ;;
    *) arch=-gencode=arch=compute_$cap,code=sm_$cap ;;
esac
flags="-std=c++17 -O3 -lineinfo -DMAIL_NO_SIMD $arch"
# tools of the toolkit that are not in PATH
PATH=$PATH:$(dirname "$(command -v "$nvcc")")
export PATH

say() {
    echo "$1" | tee -a "$out/steps"
}

# name, most seconds, command...: a log of its own, a line in steps
step() {
    name=$1
    limit=$2
    shift 2
    begin=$(date +%s)
    left=$((total - (begin - start)))
    if [ $left -lt 15 ]; then
        say "$name: skipped, out of time"
        return 1
    fi
    [ "$limit" -lt $left ] || limit=$left
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
    code=$?
    [ $code -eq 0 ] || failed=1
    say "$name: $([ $code -eq 0 ] && echo ok || echo "FAIL, exit status $code$([ $code -eq 124 ] && echo ' (its time was up)')"), $(($(date +%s) - begin)) s"
    return $code
}

clocks() {
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu --format=csv,noheader 2>&1
}

{
    date -u +%F
    clocks
    "$nvcc" --version | tail -n 2 | head -n 1
} | tee "$out/gpu.log"

# shellcheck disable=SC2086
(
    for program in tests/cuda/test_cuda:test_cuda_gpu tests/cuda/run_case_cuda:run_case_cuda_gpu bench/cuda_bench:cuda_bench; do
        timeout 300 "$nvcc" $flags -I. "${program%%:*}.cu" -o "build/${program##*:}" >"$out/build_${program##*:}.log" 2>&1 &
    done
    wait
)
say "build: $(($(date +%s) - start)) s"
for program in test_cuda_gpu run_case_cuda_gpu cuda_bench; do
    if [ ! -x build/$program ]; then
        say "build of $program: FAIL"
        tail -n 5 "$out/build_$program.log"
        failed=1
    fi
done

if [ -x build/test_cuda_gpu ]; then
    step test 90 build/test_cuda_gpu
fi
if [ -x build/run_case_cuda_gpu ]; then
    step goldens_fast 60 build/run_case_cuda_gpu tests/golden/cases/*/
    step goldens_plain 60 build/run_case_cuda_gpu --plain tests/golden/cases/*/
    if [ -d build/golden ]; then
        step goldens_large 60 build/run_case_cuda_gpu build/golden/*/
    fi
fi
if [ -x build/cuda_bench ]; then
    step bench 90 build/cuda_bench --seconds 0.3
fi
python=${PYTHON:-python3}
if "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    step peers 140 "$python" bench/cuda_peers.py --batches 1,32,64 --budget 100 --compile
else
    say "peers: skipped, no PyTorch that sees the GPU (PYTHON names another one)"
fi
if command -v compute-sanitizer >/dev/null 2>&1 && [ -x build/test_cuda_gpu ]; then
    step memcheck 50 compute-sanitizer --tool memcheck --error-exitcode 9 build/test_cuda_gpu "loop D-Ma, d_state 16, 5 actions, 8 blocks"
    step racecheck 50 compute-sanitizer --tool racecheck --error-exitcode 9 build/test_cuda_gpu "fused conv 3x3, 8 pixels"
    step synccheck 40 compute-sanitizer --tool synccheck --error-exitcode 9 build/test_cuda_gpu "loop ED-Ma, d_state 8"
    step initcheck 40 compute-sanitizer --tool initcheck --error-exitcode 9 build/test_cuda_gpu "ages D-Tr"
else
    say "sanitizers: skipped, no compute-sanitizer"
fi
if command -v ncu >/dev/null 2>&1 && [ -x build/cuda_bench ]; then
    failed_before=$failed
    step ncu 60 ncu --clock-control none --set basic -k regex:mailp_cuda_loop -c 2 build/cuda_bench --batches 1 --seconds 0.01
    failed=$failed_before # counters may be closed to users
else
    say "ncu: skipped"
fi
clocks >>"$out/gpu.log"

# Medians at batch 1: ours (column "both") against the fastest line of the peers.
ratio() {
    ours=$(awk '$1 == "decision" && $2 == 1 { print $3 }' "$out/bench.log" 2>/dev/null)
    best=$(sed -n 's/^\(torch .*\), batch 1: \([0-9.]*\) ms.*/\2 \1/p' "$out/peers.log" 2>/dev/null | sort -n | head -n 1)
    if [ -n "$ours" ] && [ -n "$best" ]; then
        echo "$best" | awk -v ours="$ours" '{ t = $1; $1 = ""; printf "batch 1: %.3f ms against %.3f ms of%s: %.1fx (target: 10x)\n", ours, t, $0, t / ours }'
    else
        echo "batch 1 against PyTorch: not measured"
    fi
}

{
    cat "$out/gpu.log"
    echo "---- checks"
    [ -f "$out/test.log" ] && { grep FAIL "$out/test.log"; tail -n 1 "$out/test.log"; }
    for log in goldens_fast goldens_plain goldens_large; do
        [ -f "$out/$log.log" ] && { grep ' FAIL' "$out/$log.log"; echo "$log: $(grep -c ' ok$' "$out/$log.log") outputs ok, $(grep -c ' FAIL' "$out/$log.log") failed"; }
    done
    for log in memcheck racecheck synccheck initcheck; do
        [ -f "$out/$log.log" ] && tail -n 1 "$out/$log.log"
    done
    echo "---- times"
    [ -f "$out/bench.log" ] && cat "$out/bench.log"
    ratio
    [ -f "$out/peers.log" ] && { echo "---- peers"; cat "$out/peers.log"; }
    echo "---- stages, $(($(date +%s) - start)) s together"
    cat "$out/steps"
} | tee "$out/table.txt"
exit $failed
