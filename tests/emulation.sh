#!/bin/sh
# The small suite on machines that are not here: cross-compiled and run under emulation, and on this machine with other compilers,
# optimisation levels and ABI switches. What is not installed is reported as skipped.
#
#     tests/emulation.sh [--install] [--short] [TARGET...]
#
#     --install   first install the Debian packages (as root)
#     --short     golden cases only, on aarch64 and s390x, and one odd build
#     TARGET      aarch64 armv7 riscv64 s390x i686 windows wasm cpu avx512 compilers; default: all
#
# Per target: every golden case (tests/run_case.c) and the tests of sessions, sampler, blocks, kernels, numbers, pictures, files and configuration.
set -u
cd "$(dirname "$0")/.." || exit 2
out=build/emulation
mkdir -p $out
short='' targets=''
for a in "$@"; do
    case $a in
        --install)
            apt-get install -y --no-install-recommends qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabihf \
                libc6-dev-armhf-cross gcc-riscv64-linux-gnu libc6-dev-riscv64-cross gcc-s390x-linux-gnu libc6-dev-s390x-cross \
                gcc-i686-linux-gnu libc6-dev-i386-cross gcc-mingw-w64-x86-64-win32 wine wine64 tcc clang wasi-libc lld \
                libclang-rt-14-dev-wasm32 nodejs bochs bochs-term busybox-static cpio isolinux syslinux-common xorriso \
                linux-image-cloud-amd64 >$out/apt.log 2>&1 || echo "some packages could not be installed, see $out/apt.log" ;;
        --short) short=1 ;;
        *) targets="$targets $a" ;;
    esac
done
if [ -z "$targets" ]; then
    targets='aarch64 armv7 riscv64 s390x i686 windows wasm cpu avx512 compilers'
    [ -n "$short" ] && targets='aarch64 s390x compilers'
fi
suite='test_session test_sampler test_blocks test_kernels test_numbers test_images test_tensors test_config'
[ -n "$short" ] && suite=
failed=0 ran=0 skipped=0
rows=$out/rows
: >$rows

row() {  # target, what, verdict, figure
    printf '%-12s %-34s %-8s %s\n' "$1" "$2" "$3" "$4" | tee -a $rows
    case $3 in ok) ran=$((ran + 1)) ;; skipped) skipped=$((skipped + 1)) ;; *) failed=$((failed + 1)) ;; esac
}

have() { command -v "$1" >/dev/null 2>&1; }

golden() {  # target, what, command: all golden cases, every output of them
    name=$1 what=$2
    shift 2
    "$@" tests/golden/cases/*/ >"$out/$name.log" 2>&1
    code=$?
    ok=$(tr -d '\r' <"$out/$name.log" | grep -c ' ok$')
    if [ $code -eq 0 ] && [ "$ok" -gt 400 ]; then
        row "$name" "$what" ok "$ok outputs of golden cases"
    elif [ $code -eq 3 ]; then
        row "$name" "$what" skipped "no such instruction set"
    else
        grep -v ' ok' "$out/$name.log" | head -n 5
        row "$name" "$what" FAILED "exit status $code, $ok outputs ok"
    fi
}

program() {  # target, what, command: a test program
    name=$1 what=$2
    shift 2
    "$@" >"$out/$name.log" 2>&1
    code=$?
    line=$(tail -n 1 "$out/$name.log" | tr -d '\r')
    case $line in
        *' passed, 0 failed'*) [ $code -eq 0 ] && row "$name" "$what" ok "${line#*: }" && return ;;
    esac
    grep FAILED "$out/$name.log" | head -n 5
    row "$name" "$what" FAILED "exit status $code: $line"
}

cross() {  # target, compiler, runner, flags
    name=$1 cc=$2 runner=$3
    shift 3
    if ! have "$cc" || ! have "${runner%% *}"; then
        row "$name" "$cc, ${runner%% *}" skipped "not installed"
        return
    fi
    if ! "$cc" -O2 -static "$@" -I. tests/run_case.c -o "$out/$name.run_case" -lm -pthread 2>"$out/$name.txt"; then
        head -n 5 "$out/$name.txt"
        row "$name" "$cc -O2" FAILED "does not compile"
        return
    fi
    # shellcheck disable=SC2086
    golden "$name" "golden cases, ${runner%% *}" $runner "$out/$name.run_case"
    # shellcheck disable=SC2086
    [ "$name" = aarch64 ] && golden "$name" "golden cases, scalar" $runner "$out/$name.run_case" --isa scalar
    for t in $suite; do
        if "$cc" -O1 -static "$@" -I. "tests/$t.c" -o "$out/$name.$t" -lm -pthread 2>"$out/$name.txt"; then
            # shellcheck disable=SC2086
            program "$name" "$t" $runner "$out/$name.$t"
        else
            head -n 5 "$out/$name.txt"
            row "$name" "$t" FAILED "does not compile"
        fi
        rm -f "$out/$name.$t"
    done
}

wine_run() {
    WINEDEBUG=-all WINEPREFIX="$PWD/$out/wine" wine "$@"
}

for target in $targets; do
    case $target in
        aarch64) cross aarch64 aarch64-linux-gnu-gcc qemu-aarch64 ;;
        armv7)   cross armv7 arm-linux-gnueabihf-gcc qemu-arm -march=armv7-a+fp ;;
        riscv64) cross riscv64 riscv64-linux-gnu-gcc qemu-riscv64 ;;
        s390x)   cross s390x s390x-linux-gnu-gcc qemu-s390x ;;
        i686)    cross i686 i686-linux-gnu-gcc qemu-i386 ;;
        windows)
            cc=x86_64-w64-mingw32-gcc
            if ! have $cc || ! have wine; then
                row windows "$cc, wine" skipped "not installed"
                continue
            fi
            $cc -O2 -static -I. tests/run_case.c -o $out/run_case.exe -lm -pthread || { row windows "$cc" FAILED "does not compile"; continue; }
            for isa in scalar avx2 avx512; do
                golden windows "golden cases, wine, $isa" wine_run $out/run_case.exe --isa $isa
            done
            for t in $suite; do
                $cc -O1 -static -I. tests/$t.c -o $out/$t.exe -lm -pthread || { row windows $t FAILED "does not compile"; continue; }
                program windows $t wine_run $out/$t.exe
                rm -f $out/$t.exe
            done ;;
        wasm)
            # no threads there: the programs that need none
            if ! have node || ! have clang ||
               ! clang --target=wasm32-wasi --sysroot=/usr -O1 -I. tests/which_isa.c -o $out/which.wasm -lm 2>$out/wasm.txt; then
                row wasm "clang, wasi-libc, node" skipped "not installed"
                continue
            fi
            for t in test_session test_sampler test_kernels test_numbers test_images test_tensors test_config; do
                clang --target=wasm32-wasi --sysroot=/usr -O1 -Wl,-z,stack-size=8388608 -I. tests/$t.c -o $out/$t.wasm -lm ||
                    { row wasm $t FAILED "does not compile"; continue; }
                program wasm $t node --no-warnings tests/wasi.mjs $out/$t.wasm
            done ;;
        cpu)
            # the choice at run time, on processors that lack one thing or another
            if ! have qemu-x86_64 || [ "$(uname -m)" != x86_64 ]; then
                row cpu "qemu-x86_64" skipped "not installed"
                continue
            fi
            cc -O1 -static -I. tests/which_isa.c -o $out/which_isa -lm || { row cpu which_isa FAILED "does not compile"; continue; }
            for pair in Nehalem:scalar SandyBridge:scalar Haswell:avx2 Haswell,-fma:scalar Haswell,-avx2:scalar Haswell,-xsave:scalar \
                        EPYC:avx2 qemu64:scalar; do
                cpu=${pair%:*} want=${pair#*:}
                got=$(qemu-x86_64 -cpu "$cpu" $out/which_isa 2>/dev/null | tail -n 1)
                if [ "$got" = "$want" ]; then
                    row cpu "$cpu" ok "chose $got"
                else
                    row cpu "$cpu" FAILED "chose '$got', expected $want"
                fi
            done ;;
        avx512)
            # what the compiler makes of the AVX-512 kernels, on processors with and without its VNNI
            machine=$out/avx512
            rm -rf $machine
            mkdir -p $machine/root/tests/golden $machine/root/examples
            for t in run_case test_kernels test_blocks; do
                cc -O2 -static -I. tests/$t.c -o $machine/root/$t -lm -pthread || { row avx512 $t FAILED "does not compile"; continue 2; }
            done
            cp -r tests/golden/cases $machine/root/tests/golden/
            cp -r examples/conveyor $machine/root/examples/
            cat >$machine/root/job <<'END'
for t in test_kernels test_blocks; do
    /$t >/tmp/$t
    echo "result $t $? $(tail -n 1 /tmp/$t)"
    grep -e FAILED -e 'avx512: not' /tmp/$t | head -n 5
done
for weights in f32 bf16 int8; do
    /run_case --isa avx512 --weights $weights /tests/golden/cases/*/ >/tmp/golden
    echo "result golden $? $weights $(grep -c ' ok$' /tmp/golden)"
    grep -v ' ok$' /tmp/golden | head -n 5
done
END
            for model in corei7_icelake_u corei7_skylake_x; do
                sh tests/bochs.sh $machine $model >$machine/why.txt 2>&1
                code=$?
                if [ $code -eq 77 ]; then
                    row avx512 bochs skipped "$(head -n 1 $machine/why.txt)"
                    break
                elif [ $code -ne 0 ]; then
                    tail -n 3 $machine/console.txt
                    row avx512 "$model" FAILED "Linux did not get to the end"
                    continue
                fi
                tr -d '\r' <$machine/console.txt | sed -n 's/^result //p' >$machine/results
                while read -r t code what; do
                    if [ "$code" -eq 0 ] && ! grep -q 'avx512: not' $machine/console.txt; then
                        row avx512 "$t, $model" ok "${what#*: }"
                    else
                        row avx512 "$t, $model" FAILED "exit status $code: $what"
                    fi
                done <$machine/results
                [ "$(wc -l <$machine/results)" -eq 5 ] || row avx512 "$model" FAILED "a result is missing"
            done ;;
        compilers)
            set -- 'cc -O1 -fshort-enums -funsigned-char' 'tcc'
            [ -z "$short" ] && set -- 'gcc -O0' 'gcc -O1' 'gcc -O2' 'gcc -O3' 'gcc -Os' 'gcc -O3 -march=native' 'gcc -std=c99 -O2' \
                'gcc -O1 -fshort-enums -funsigned-char' 'gcc -O2 -fsigned-char -fwrapv -ftrapping-math' 'gcc -O2 -flto' 'clang -O2 -flto' \
                'clang -O0' 'clang -O2' 'clang -O3' 'clang -O3 -march=native' 'clang -O1 -fshort-enums -funsigned-char' tcc
            for build in "$@"; do
                if ! have "${build%% *}"; then
                    row compilers "$build" skipped "not installed"
                    continue
                fi
                # shellcheck disable=SC2086
                if ! $build -I. tests/run_case.c -o $out/native -lm -pthread 2>$out/native.txt; then
                    head -n 5 $out/native.txt
                    row compilers "$build" FAILED "does not compile"
                    continue
                fi
                golden compilers "$build" $out/native
            done ;;
        *) echo "unknown target $target"; failed=$((failed + 1)) ;;
    esac
done
echo "$ran ok, $failed failed, $skipped skipped"
[ $failed -eq 0 ] || exit 1
[ $ran -gt 0 ] || exit 77
