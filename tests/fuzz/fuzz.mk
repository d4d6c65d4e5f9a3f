# make fuzz          every fuzz target for FUZZ_SECONDS (needs clang with libFuzzer)
# make fuzz-32       the same as 32-bit programs, whose sizes wrap sooner (needs g++-multilib too)
# make fuzz-seeds    the seeds alone, with the ordinary compiler and sanitizers
FUZZ_SECONDS ?= 60
FUZZ_CC      ?= clang
FUZZ_TARGETS  = $(sort $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c)))
FUZZ_PARSERS  = config pth safetensors
FUZZ_FLAGS    = -g -O1 -I. -fsanitize=address,undefined -fno-sanitize-recover=undefined
FUZZ_HEADERS  = mail.h tests/fuzz/fuzz.h tests/small_checkpoint.h

.PHONY: fuzz fuzz-32 fuzz-seeds
# the parsers' targets need no kernels, and build and run faster without
$(FUZZ_PARSERS:%=$(B)/fuzz_%) $(FUZZ_PARSERS:%=$(B)/seeds_%): FUZZ_FLAGS += -DMAIL_NO_SIMD

$(B)/fuzz_%: tests/fuzz/fuzz_%.c $(FUZZ_HEADERS) | $(B)
	$(FUZZ_CC) $(FUZZ_FLAGS) -fsanitize=fuzzer $< -o $@ $(LDLIBS)

$(B)/seeds_%: tests/fuzz/fuzz_%.c $(FUZZ_HEADERS) | $(B)
	$(CC) $(FUZZ_FLAGS) -DFUZZ_MAIN $< -o $@ $(LDLIBS)

fuzz: $(FUZZ_TARGETS:%=$(B)/fuzz_%)
	sh tests/fuzz/run.sh $(B) $(FUZZ_SECONDS) $(FUZZ_TARGETS)

fuzz-32:
	mkdir -p $(B)/32
	$(MAKE) fuzz B=$(B)/32 FUZZ_CC="$(FUZZ_CC) -m32 -L$$(dirname $$(g++ -m32 -print-file-name=libstdc++.so))"

fuzz-seeds: $(FUZZ_TARGETS:%=$(B)/seeds_%)
	for t in $(FUZZ_TARGETS); do $(B)/seeds_$$t tests/fuzz/seeds/$$t/* || exit 1; done
