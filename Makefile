# The verbs of the project. `make fit` and `make test` set up what they need on a machine with only Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REAL ?= ../shared/real

.PHONY: help setup fit test faults study bench test-gpu bench-gpu lint

help:
	@echo "make fit        fine-tune a real 4-bit model on real instructions, on this machine"
	@echo "make test       units, peers and real data, on a CPU"
	@echo "make bench      quantise, dequantise and linear beside bitsandbytes on this machine"
	@echo "make lint       ruff and ruff-format"
	@echo "make faults | study | test-gpu | bench-gpu    say what they wait for"

# The stamp is newer than both files when the environment is up to date, so a second run starts at once.
$(VENV)/ready: pyproject.toml constraints.txt
	@echo "Setting up $(VENV): PyTorch, Lightning, transformers and the peers; a few minutes, once."
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "maple needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[peers,dev,tensorboard]'
	@touch $@

setup: $(VENV)/ready

fit: setup
	@test -d $(REAL)/models/stories260k || { echo "make fit needs a model folder: none is embedded yet, and $(REAL)/models/stories260k is not there. Use: python -m maple.fit --model NAME --data FILE.jsonl"; exit 2; }
	$(BIN)/python -m maple.fit --config configs/stories260k.yaml --model $(REAL)/models/stories260k --data $(REAL)/instruct/multialpaca

test: setup
	$(BIN)/python -m pytest

bench: setup
	$(BIN)/python -m benchmarks.kernels

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

faults:
	@echo "make faults: nothing to run yet; kills, corruption and fuzzing come with checkpoints and --resume."

study:
	@echo "make study: nothing to run yet; it comes with python -m maple.study."

test-gpu bench-gpu:
	@echo "make $@: nothing to run yet; it comes with the Triton kernels."
