# The long checks: make trust runs them one after the other and prints a line for each. The short forms are part of make test.

.PHONY: trust emulation analysis coverage

$(B)/long_run: tests/long_run.c mail.h tests/small.h | $(B)
	$(CC) $(CFLAGS) $(WARN_C) -I. $< -o $@ $(LDLIBS)

$(TESTS:%=$(B)/%): tests/small.h

trust: $(TESTS:%=$(B)/%) $(B)/run_case $(B)/long_run
	MAKE="$(MAKE)" FRESH="$(FRESH)" FUZZ_SECONDS="$(FUZZ_SECONDS)" ONLY="$(ONLY)" sh tests/trust.sh

emulation:
	sh tests/emulation.sh

analysis:
	sh tests/analysis.sh

# lines of the parsers that run under the unit tests, the fuzz seeds and what make fuzz has found so far
coverage:
	sh tests/coverage.sh $(wildcard $(B)/corpus_*)
