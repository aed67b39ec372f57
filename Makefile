# The verbs of the project. `make fit` and `make test` set up what they need on a machine with only Python and make.
PYTHON ?= python3
VENV := .venv
KERNEL_TESTS := tests/triton tests/kernels/test_ops.py tests/kernels/test_attention.py tests/kernels/test_elementwise_ops.py
BIN := $(VENV)/bin
# A test computes on one core, so as many processes as a small machine has, each with whole files: what a file sets up
# is set up once.
BESIDE := -n 2 --dist loadfile
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# An older Triton beside the one installed: what compiles under both is tested without a GPU (tests/benchmarks).
OLD_TRITON := $(VENV)/triton-3.6

.PHONY: help setup fit test faults study bench test-gpu bench-gpu lint

help:
	@echo "make fit        fine-tune the embedded model in 4 bits on eight languages: a minute, no download of a model"
	@echo "make test       units, peers and real data, on a CPU"
	@echo "make bench      kernels, training, loading, decoding and scoring beside their peers: half an hour on two cores"
	@echo "make lint       ruff and ruff-format"
	@echo "make test-gpu   the Triton kernels on this machine's GPU; installs nothing"
	@echo "make bench-gpu  the kernels and a training step on it, beside their peers; OUT=DIR keeps the results there"
	@echo "make faults     kills, full disks, damaged files, fuzzing: twenty minutes"
	@echo "make study      rank x bits on the embedded world, three seeds, and the report of it: 23 minutes"

# The stamp is newer than both files when the environment is up to date, so a second run starts at once.
$(VENV)/ready: pyproject.toml constraints.txt
	@echo "Setting up $(VENV), once; a few minutes."
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "maple needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv $(VENV)
	@echo "  1 of 2  PyTorch, the largest part"
	@$(INSTALL) torch
	@echo "  2 of 2  Lightning, transformers, and the peers to compare with"
	@$(INSTALL) -e '.[peers,rouge,alpaca,dev,tensorboard,plots,ray]'
	@touch $@

setup: $(VENV)/ready

fit: setup
	@echo "Fine-tuning the embedded model (1.2 million parameters, 4 bits) on instructions in eight languages."
	$(BIN)/python -m maple.fit

$(OLD_TRITON):
	@echo "Fetching Triton 3.6 for the compilation tests, once."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ triton==3.6.0

test: setup $(OLD_TRITON)
	@echo "Testing everything beside the real peft, bitsandbytes and transformers: a few minutes."
	$(BIN)/python -m pytest $(BESIDE)
	@echo "And the Triton kernels in the interpreter, which needs processes of its own."
	TRITON_INTERPRET=1 $(BIN)/python -m pytest $(BESIDE) $(KERNEL_TESTS)

bench: setup
	$(BIN)/python -m benchmarks.kernels
	$(BIN)/python -m benchmarks.train
	$(BIN)/python -m benchmarks.load
	$(BIN)/python -m benchmarks.decode
	$(BIN)/python -m benchmarks.evaluate

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# One process: Ray's tests fork what they run, and hung in a process of pytest-xdist's.
faults: setup
	@echo "Killing, corrupting, filling and fuzzing: about twenty minutes; at its end, what was tried and what was lost."
	$(BIN)/python -m pytest -q --ignore tests/faults/lessons tests/faults
	@echo "And what the lessons teach, broken on purpose."
	$(BIN)/python -m pytest -q $(BESIDE) tests/faults/lessons

# A stopped one goes on where it was: the same command, the same folder.
study: setup
	@echo "Training and scoring 49 adapters and 3 bases of the embedded world: 23 minutes on two idle cores."
	$(BIN)/python -m maple.study --config configs/study-tiny.yaml --out runs/study-tiny
	$(BIN)/python -m maple.report runs/study-tiny

# Both install nothing and need no network: on a borrowed GPU, PYTHON is whatever python there has PyTorch, and OUT the
# folder whose files come back. At most 3 and 6 minutes.
# Most of the tests' time is compiling, so eight processes share them.
test-gpu:
	@running=""; for i in 0 1 2 3 4 5 6 7; do \
		MAPLE_TEST_SHARD=$$i/8 $(PYTHON) -m pytest -q $(KERNEL_TESTS) & running="$$running $$!"; \
	done; failed=0; for one in $$running; do wait $$one || failed=1; done; exit $$failed

bench-gpu:
	$(PYTHON) -m benchmarks.kernels $(if $(OUT),--out $(OUT))
	$(PYTHON) -m benchmarks.train --ranks 16 $(if $(OUT),--out $(OUT))
