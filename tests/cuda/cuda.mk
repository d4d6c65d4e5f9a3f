# mail_cuda.cuh: included by the Makefile.
#
#   make test-cuda-cpu   the kernels on the CPU, through tests/cuda/cuda_on_cpu.h: goldens, schedules, faults, sanitizers
#   make cuda            nvcc for every architecture; prints registers, fails on a spill; "skipped" without nvcc
#   make cuda-programs   tests and bench for the GPU of this machine (ARCH=sm_90a)

NVCC    ?= $(firstword $(wildcard /usr/local/cuda/bin/nvcc) nvcc)
ARCH    ?= sm_90a
CUDA_H   = mail.h mail_cuda.cuh tests/test.h tests/small.h bench/random_policy.h $(wildcard tests/cuda/*.h)
# plain C kernels of mail.h build faster; the CPU engine is not what is tested here
CUDA_CPU = $(CXX) -x c++ -std=c++17 -O1 -g1 -Wall -Wextra -Wshadow -Wno-unknown-pragmas -DMAIL_CUDA_ON_CPU -DMAIL_NO_SIMD -Itests/cuda
# of UBSan what kernels can get wrong; all of it, or -O1, would double the build
CUDA_SAN = -Og -fsanitize=address,alignment,bounds,integer-divide-by-zero,shift,signed-integer-overflow -fno-sanitize-recover=all
CUDA_T   = $(wildcard tests/cuda/*.cu) tests/run_case.c

.PHONY: cuda cuda-programs test-cuda-cpu

$(B)/test_cuda: $(CUDA_T) $(CUDA_H) | $(B)
	$(CUDA_CPU) tests/cuda/all_tests.cu -o $@ -lpthread

$(B)/test_cuda_san: $(CUDA_T) $(CUDA_H) | $(B)
	$(CUDA_CPU) $(CUDA_SAN) tests/cuda/all_tests.cu -o $@ -lpthread

test-cuda-cpu: $(B)/test_cuda $(B)/test_cuda_san
	sh tests/cuda/test_cuda_cpu.sh $(B)

# Registers and spills of every kernel, for the oldest architecture served, the one tuned for and the newest.
cuda: | $(B)
	NVCC="$(NVCC)" sh tests/cuda/compile.sh $(B)

cuda-programs: | $(B)
	$(NVCC) -std=c++17 -O3 -lineinfo -arch=$(ARCH) -DMAIL_NO_SIMD tests/cuda/test_cuda.cu -o $(B)/test_cuda_gpu
	$(NVCC) -std=c++17 -O3 -lineinfo -arch=$(ARCH) -DMAIL_NO_SIMD tests/cuda/run_case_cuda.cu -o $(B)/run_case_cuda_gpu
	$(NVCC) -std=c++17 -O3 -lineinfo -arch=$(ARCH) -DMAIL_NO_SIMD bench/cuda_bench.cu -o $(B)/cuda_bench
	$(NVCC) -std=c++17 -O3 -lineinfo -arch=$(ARCH) -DMAIL_NO_SIMD bench/cuda_probe.cu -o $(B)/cuda_probe
