#!/bin/sh
# One command for a machine with a GPU: build, tests, goldens, times, peers, sanitizers, profile; in MINUTES (default 9).
#
#     bench/device_run.sh [OUT]        OUT: where the results go; default $OUT or build/device
#
# Needs the CUDA Toolkit and a C++ compiler; PyTorch for the peers, nothing from a network. Every stage has its own limit and
# a failing one stops no other; what the time does not suffice for is said to be skipped. Results are two files, however
# the run ends: OUT/table.txt (what matters, as it stood after the last stage that ended) and OUT/all.log (what every stage
# printed). NVCC, PYTHON: other programs than nvcc and python3. PREBUILT: a folder with programs that were built elsewhere, which
# saves minutes of the machine (test_cuda_gpu, run_case_cuda_gpu, cuda_bench, cuda_probe).
set -u
cd "$(dirname "$0")/.." || exit 2
out=${1:-${OUT:-build/device}}
log=build/device_logs
rm -rf "$log"
mkdir -p "$out" "$log" || exit 2
out=$(cd "$out" && pwd)
: >"$out/all.log"
: >"$log/steps"
rm -f "$out/table.txt" build/test_cuda_gpu build/run_case_cuda_gpu build/cuda_bench build/cuda_probe
start=$(date +%s)
total=$(awk "BEGIN { print int(60 * ${MINUTES:-9}) }")
failed=0

if ! command -v nvidia-smi >/dev/null 2>&1 || ! nvidia-smi -L 2>/dev/null | grep -q GPU; then
    echo "device_run: skipped, no GPU on this machine" | tee "$out/table.txt"
    exit 0
fi
nvcc=${NVCC:-nvcc}
command -v "$nvcc" >/dev/null 2>&1 || nvcc=/usr/local/cuda/bin/nvcc
if ! command -v "$nvcc" >/dev/null 2>&1; then
    echo "device_run: there is a GPU, but no nvcc (set NVCC)" | tee "$out/table.txt"
    exit 2
fi
# tools of the toolkit that are not in PATH
PATH=$PATH:$(dirname "$(command -v "$nvcc")")
export PATH
# "9.0" -> 90; drivers that do not know the question answer with a sentence
cap=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '. ')
case $cap in
    '' | *[!0-9]*) arch=-arch=native ;;
    90) arch=-gencode=arch=compute_90a,code=sm_90a ;;
    *) arch=-gencode=arch=compute_$cap,code=sm_$cap ;;
esac
flags="-std=c++17 -O3 -lineinfo -DMAIL_NO_SIMD $arch"
if "$nvcc" --help 2>/dev/null | grep -q -e --split-compile; then
    flags="$flags --split-compile=4"
fi

clocks() {
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu --format=csv,noheader 2>&1
}

# Medians at batch 1: ours (column "both") against the fastest line of the peers.
ratio() {
    ours=$(awk '$1 == "decision" && $2 == 1 { print $3 }' "$log/bench.log" 2>/dev/null)
    best=$(cat "$log"/peers*.log 2>/dev/null | sed -n 's/^\(torch .*\), batch 1: \([0-9.]*\) ms.*/\2 \1/p' | sort -n | head -n 1)
    if [ -n "$ours" ] && [ -n "$best" ]; then
        echo "$best" | awk -v ours="$ours" '{ t = $1; $1 = ""; printf "batch 1: %.3f ms against %.3f ms of%s: %.1fx (target: 10x)\n", ours, t, $0, t / ours }'
    else
        echo "batch 1 against PyTorch: not measured"
    fi
}

# Everything so far, as OUT/table.txt.
table() {
    {
        cat "$log/gpu"
        echo "---- checks"
        [ -f "$log/test.log" ] && { grep -E 'FAIL|skipped, no' "$log/test.log"; tail -n 1 "$log/test.log"; }
        for name in goldens_fast goldens_plain goldens_large; do
            [ -f "$log/$name.log" ] && {
                grep ' FAIL' "$log/$name.log"
                echo "$name: $(grep -c ' ok$' "$log/$name.log") outputs ok, $(grep -c ' FAIL' "$log/$name.log") failed"
            }
        done
        for name in memcheck racecheck synccheck initcheck cpu_tests; do
            [ -f "$log/$name.log" ] && echo "$name: $(tail -n 1 "$log/$name.log")"
        done
        echo "---- times"
        for name in bench loops layers scan probe cpu; do
            [ -f "$log/$name.log" ] && cat "$log/$name.log"
        done
        ratio
        for name in peers peers_compile; do
            [ -f "$log/$name.log" ] && { echo "---- $name"; cat "$log/$name.log"; }
        done
        echo "---- stages, $(($(date +%s) - start)) s together"
        cat "$log/steps"
    } >"$out/table.txt.new" 2>&1
    mv "$out/table.txt.new" "$out/table.txt"
}

say() {
    echo "$1" | tee -a "$log/steps"
    table
}

# file: goes to the end of OUT/all.log, at most the last 4000 lines of it
keep() {
    {
        echo "==== ${1##*/}"
        tail -n 4000 "$1"
    } >>"$out/all.log"
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
    timeout -k 5 "$limit" "$@" >"$log/$name.log" 2>&1 </dev/null
    code=$?
    case $code in
        0) how=ok ;;
        124 | 137) how="FAIL, its $limit s were up" ;;
        *) how="FAIL, exit status $code" ;;
    esac
    [ $code -eq 0 ] || failed=1
    keep "$log/$name.log"
    [ $code -eq 0 ] || tail -n 5 "$log/$name.log"
    say "$name: $how, $(($(date +%s) - begin)) s"
    return $code
}

{
    date -u +%F
    clocks
    "$nvcc" --version | tail -n 2 | head -n 1
} >"$log/gpu"
cat "$log/gpu"

# Programs are built side by side.
for program in tests/cuda/test_cuda:test_cuda_gpu tests/cuda/run_case_cuda:run_case_cuda_gpu bench/cuda_bench:cuda_bench bench/cuda_probe:cuda_probe; do
    if [ -x "${PREBUILT:-}/${program##*:}" ]; then
        cp "$PREBUILT/${program##*:}" build/ && echo "built elsewhere" >"$log/build_${program##*:}.log"
        continue
    fi
    # shellcheck disable=SC2086
    timeout 240 "$nvcc" $flags -I. "${program%%:*}.cu" -o "build/${program##*:}" >"$log/build_${program##*:}.log" 2>&1 </dev/null &
done
wait
for program in test_cuda_gpu run_case_cuda_gpu cuda_bench cuda_probe; do
    keep "$log/build_$program.log"
    if [ ! -x build/$program ]; then
        tail -n 5 "$log/build_$program.log"
        say "build of $program: FAIL"
        failed=1
    fi
done
say "build: $(($(date +%s) - start)) s"

# What matters most comes first: does it run, is it right, how fast is it, and how fast are the others.
[ -x build/test_cuda_gpu ] && step test 120 build/test_cuda_gpu
[ -x build/run_case_cuda_gpu ] && step goldens_fast 90 build/run_case_cuda_gpu tests/golden/cases/*/
[ -x build/cuda_bench ] && step bench 90 build/cuda_bench --seconds 0.2 --only decisions
[ -x build/cuda_probe ] && step probe 15 build/cuda_probe
[ -x build/cuda_bench ] && step loops 20 build/cuda_bench --only loops
[ -x build/cuda_bench ] && step layers 40 build/cuda_bench --only layers
[ -x build/cuda_bench ] && step scan 40 build/cuda_bench --only scans
python=${PYTHON:-python3}
torch=0
if timeout 60 "$python" -c 'import torch; assert torch.cuda.is_available()' >"$log/torch.log" 2>&1; then
    torch=1
    step peers 100 "$python" bench/cuda_peers.py --batches 1,32,64 --budget 80
else
    keep "$log/torch.log"
    say "peers: skipped, no PyTorch that sees the GPU (PYTHON names another one)"
fi
[ -x build/run_case_cuda_gpu ] && step goldens_plain 60 build/run_case_cuda_gpu --plain tests/golden/cases/*/
if command -v compute-sanitizer >/dev/null 2>&1 && [ -x build/test_cuda_gpu ]; then
    check() { # tool, most seconds, cases
        step "$1" "$2" compute-sanitizer --tool "$1" --error-exitcode 9 build/test_cuda_gpu "$3"
    }
    check memcheck 40 "loop D-Ma, d_state 16, 2 frames, 5 actions"
    check racecheck 40 "fused conv 3x3, 8"
    check synccheck 30 "loop ED-Ma, d_state 8"
    check initcheck 30 "ages D-Tr"
else
    say "sanitizers: skipped, no compute-sanitizer"
fi
if command -v ncu >/dev/null 2>&1 && [ -x build/cuda_bench ]; then
    failed_before=$failed # counters may be closed to users
    step ncu_1 40 ncu --clock-control none --metrics gpu__time_duration.sum,sm__throughput.avg.pct_of_peak_sustained_elapsed --csv \
        -k regex:mailp_cuda -c 60 build/cuda_bench --batches 1 --seconds 0.01 --only decisions
    step ncu_64 50 ncu --clock-control none --metrics gpu__time_duration.sum,sm__throughput.avg.pct_of_peak_sustained_elapsed --csv \
        -k regex:mailp_cuda -c 110 build/cuda_bench --batches 64 --seconds 0.01 --only decisions
    # where the warps of the denoising loop wait, instruction by instruction: OUT/loop_sass.csv
    step ncu_loop 40 ncu --clock-control none --section SourceCounters --warp-sampling-interval 0 --warp-sampling-buffer-size 536870912 \
        -k regex:mailp_cuda_loop -c 1 -f -o "$log/loop" build/cuda_bench --only loops
    ncu -i "$log/loop.ncu-rep" --page source --csv --print-source sass >"$out/loop_sass.csv" 2>/dev/null
    failed=$failed_before
else
    say "ncu: skipped"
fi
# The processor of such a machine often has AVX-512, which is seldom at hand: mail.h's kernels, right and how fast, layer by layer.
isa=$(grep -qw avx512dq /proc/cpuinfo && echo avx512 || echo avx2)
step cpu_tests 90 sh -c "grep -m 1 'model name' /proc/cpuinfo; for t in test_kernels test_vision; do
    ${CC:-cc} -O2 -I. tests/\$t.c -o build/device_\$t -lm -pthread && build/device_\$t || exit 1; done"
step cpu 60 sh -c "${CC:-cc} -O2 -I. bench/bench_vision.c -o build/device_vision -lm -pthread && ${CC:-cc} -O2 -I. bench/bench_policy.c -o build/device_policy -lm -pthread &&
    for w in f32 bf16 int8; do build/device_vision --isa $isa --weights \$w --runs 20 --layers; build/device_policy --isa $isa --weights \$w; done"
[ $torch = 1 ] && step peers_compile 150 "$python" bench/cuda_peers.py --batches 1,32,64 --budget 110 --only-compile
[ -x build/run_case_cuda_gpu ] && [ -d build/golden ] && step goldens_large 60 build/run_case_cuda_gpu build/golden/*/
clocks >>"$log/gpu"
table
echo "---- table"
cat "$out/table.txt"
exit $failed
