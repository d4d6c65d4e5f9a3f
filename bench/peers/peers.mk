# make bench-peers    time mail.h beside ONNX Runtime, OpenVINO, ncnn and PyTorch; writes build/bench_peers.json
#
# Needs python3 with venv, a C++ compiler (for torch.compile), about 8 GB of disk and a network for the packages. On a quiet
# machine it takes about a quarter of an hour; on a busy one only --clock cpu says anything. PEERS_ROUNDS and PEERS_ARGS (such
# as "--threads 1 --works W1,W3") go to bench/peers/run.py.

PEERS_BUILD  ?= $(B)/peers
PEERS_VENV   ?= $(PEERS_BUILD)/venv
PEERS_ROUNDS ?= 3

.PHONY: bench-peers bench-plot

$(PEERS_VENV)/ready: bench/peers/requirements.txt
	python3 -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/pip install -r bench/peers/requirements.txt
	touch $@

$(PEERS_BUILD)/ready: $(PEERS_VENV)/ready bench/peers/export.py bench/peers/works.py tests/golden/mail_reference.py tests/golden/make_cases.py
	rm -rf $(PEERS_BUILD)/models $(PEERS_BUILD)/cases
	OMP_NUM_THREADS=1 PEERS_BUILD=$(PEERS_BUILD) $(PEERS_VENV)/bin/python bench/peers/export.py
	touch $@

bench-peers: $(PEERS_BUILD)/ready $(B)/bench_policy
	PEERS_BUILD=$(PEERS_BUILD) $(PEERS_VENV)/bin/python bench/peers/run.py $(B)/bench_peers.json --rounds $(PEERS_ROUNDS) $(PEERS_ARGS)

# the figure, drawn from build/bench_peers.json; needs matplotlib
bench-plot:
	$(or $(PEERS_PLOT_PYTHON),python3) bench/plot.py $(B)/bench_peers.json $(B)/bench_peers.png
