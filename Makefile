# make            the examples
# make demo       a policy acting on pictures, with its timing
# make test       everything that a machine with a C compiler can check
# make strict     warnings as errors, every standard, both compilers where they are
# make golden     the large golden suites (needs python3 with torch)
# make bench      latency per part and per decision;  make bench-peers: beside ONNX Runtime, OpenVINO, ncnn and PyTorch
# make fuzz       every fuzz target for a minute;  make trust: the long forms of the checks
# make cuda       compile mail_cuda.cuh;  make test-cuda-cpu: its kernels on the CPU

MAKEFLAGS += -j$(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
CC      ?= cc
CXX     ?= c++
CFLAGS  ?= -O2 -g1
WARN     = -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef
WARN_C   = $(WARN) -Wstrict-prototypes -Wmissing-prototypes
LDLIBS   = -lm
# the first python that has torch, for the large golden suites
PYTHON  ?= $(shell for p in python3 /usr/bin/python3; do $$p -c "import torch" 2>/dev/null && echo $$p && break; done || echo python3)
B        = build
STB     := $(wildcard /usr/include/stb/stb_image.h)
HEADERS  = mail.h tests/test.h

EXAMPLES = convert_checkpoint from_memory hello_policy inspect_checkpoint profile_policy robot_loop
ifneq ($(STB),)
EXAMPLES += act_on_images
endif
TESTS    = $(sort $(patsubst tests/%.c,%,$(wildcard tests/test_*.c)))
BENCHES  = $(sort $(patsubst bench/%.c,%,$(wildcard bench/bench_*.c)))

.PHONY: all test strict golden golden-test demo bench bench-table bench-flags examples clean
all: examples

$(B):
	mkdir -p $@

$(B)/test_%: tests/test_%.c $(HEADERS) | $(B)
	$(CC) $(CFLAGS) $(WARN_C) -I. $< -o $@ $(LDLIBS) -pthread

$(B)/run_case: tests/run_case.c mail.h | $(B)
	$(CC) $(CFLAGS) $(WARN_C) -I. $< -o $@ $(LDLIBS) -pthread

$(B)/bench_%: bench/bench_%.c mail.h | $(B)
	$(CC) $(CFLAGS) $(WARN_C) -I. $< -o $@ $(LDLIBS) -pthread

$(B)/act_on_images: examples/act_on_images.c mail.h | $(B)
	$(CC) $(CFLAGS) $(WARN_C) -Wno-unused-function -I. -isystem /usr/include/stb $< -o $@ $(LDLIBS)

$(B)/%: examples/%.c mail.h | $(B)
	$(CC) $(CFLAGS) $(WARN_C) -I. $< -o $@ $(LDLIBS)

# what only reads and writes files needs no vectors, which are most of the compiler's time
$(B)/test_config $(B)/test_tensors $(B)/convert_checkpoint $(B)/inspect_checkpoint: CFLAGS += -DMAIL_NO_SIMD

examples: $(EXAMPLES:%=$(B)/%)

test: $(TESTS:%=$(B)/%) $(B)/run_case examples
	sh tests/run.sh

strict:
	sh tests/strict.sh

# float64 goldens of the paper's sizes; PyTorch writes them, the C program judges itself against them
golden: $(B)/run_case
	$(PYTHON) tests/golden/make_cases.py $(B)/golden --suite head
	$(PYTHON) tests/golden/make_cases.py $(B)/golden --suite vision

golden-test: $(B)/run_case
	sh tests/test_golden.sh $(B)/run_case $(B)/golden

# python3, where it is there, adds the share of what this machine can do (bench/limits.c, bench/peers/floors.py)
bench: $(BENCHES:%=$(B)/%)
	for b in $(BENCHES); do $(B)/$$b >$(B)/$$b.txt || exit 1; python3 bench/peers/floors.py <$(B)/$$b.txt || cat $(B)/$$b.txt; done

# architecture x weights x threads: latency, memory and, if `make golden` was run, action error
bench-table: $(B)/bench_policy $(B)/run_case
	$(PYTHON) bench/table.py $(B)/bench_policy $(B)/run_case $(wildcard $(B)/golden)

# plain -O2 beside -O3 -march=native
bench-flags:
	sh bench/flags.sh

clean:
	rm -rf $(B)

# their rules are in the files included below
bench-peers cuda demo demo-check demo-table fuzz test-cuda-cpu trust:

-include examples/conveyor/conveyor.mk tests/cuda/cuda.mk bench/peers/peers.mk tests/fuzz/fuzz.mk tests/trust.mk
