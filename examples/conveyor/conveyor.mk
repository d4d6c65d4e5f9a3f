# Rules of the conveyor example; the Makefile includes this file.
#   make demo          100 episodes with the shipped policy, numbers and pictures into build/demo
#   make demo-table    all studies with the shipped policies, and those trained into build/conveyor, into RESULTS.md (long);
#                      DEMO_TORCH=python3 adds the same episodes run through PyTorch
#   make demo-compare  C against PyTorch, action by action, on a recorded episode of every policy that is there (needs torch)
#   make demo-check    a short run of all three programs, and what they say to a missing or damaged policy
CONVEYOR        := examples/conveyor
CONVEYOR_POLICY ?= $(CONVEYOR)/d_ma_h5_ddpm.safetensors
CONVEYOR_FLAGS  ?= -std=c99 -O2 -Wall -Wextra
# the shipped file of a name comes first, then one that train.py made
CONVEYOR_NAMES  := d_ma_h5_ddpm ed_ma_h5_ddpm d_tr_h5_ddpm d_ma_h1_ddpm d_ma_h5_bc d_ma_h5_ddpm_20 d_ma_h5_ddpm_50 \
                   d_ma_h5_ddpm_100 d_ma_h5_ddpm_occ
CONVEYOR_ALL     = $(foreach n,$(CONVEYOR_NAMES),$(firstword $(wildcard $(CONVEYOR)/$(n).safetensors build/conveyor/$(n).safetensors)))
CONVEYOR_HEADERS := mail.h $(addprefix $(CONVEYOR)/,episode.h picture.h sim.h)

build/conveyor/play build/conveyor/demo build/conveyor/evaluate: build/conveyor/%: $(CONVEYOR)/%.c $(CONVEYOR_HEADERS)
	@mkdir -p build/conveyor
	$(CC) $(CONVEYOR_FLAGS) -I. -o $@ $< -lm

.PHONY: demo demo-table demo-compare demo-check
demo: build/conveyor/demo
	@mkdir -p build/demo
	build/conveyor/demo $(CONVEYOR_POLICY) build/demo

demo-table: build/conveyor/evaluate
	python3 $(CONVEYOR)/results.py $< $(CONVEYOR_ALL) $(if $(DEMO_TORCH),--torch $(DEMO_TORCH))

demo-compare: build/run_case
	rm -rf build/demo-compare
	$(PYTHON) tests/golden/make_cases.py build/demo-compare --suite demo
	build/run_case build/demo-compare/*/

demo-check: build/conveyor/demo build/conveyor/play build/conveyor/evaluate
	@mkdir -p build/demo-check
	build/conveyor/demo $(CONVEYOR_POLICY) build/demo-check 10
	build/conveyor/play $(CONVEYOR_POLICY) 10 1000 spread
	build/conveyor/evaluate --episodes 10 $(CONVEYOR_POLICY)
	@head -c 100000 $(CONVEYOR_POLICY) > build/demo-check/damaged.safetensors
	@# they stop with status 2 and a line that names the file, once
	@for p in demo play evaluate; do for f in absent damaged; do \
	    build/conveyor/$$p build/demo-check/$$f.safetensors >build/demo-check/log 2>&1; status=$$?; \
	    test $$status -eq 2 && test "$$(grep -o $$f.safetensors build/demo-check/log | wc -l)" -eq 1 || { \
	        cat build/demo-check/log; echo "FAILED: $$p with a policy that is $$f: status $$status"; exit 1; }; \
	done; done
	@echo "demo-check: three programs ran, and refused an absent and a damaged policy"
