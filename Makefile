# make demo    install, then the main job on an embedded data set (about a minute)
# make test    install, then the tests
# make lint    style and types
# make calibration   what the report's verdicts are worth: simulated studies, about a minute
# make test-slurm   studies on a real Slurm of two nodes on this machine (root, Debian's packages; six minutes)
# make soak    300 runs by one command: do it and its server grow? one to four minutes
# make bench   what the engine, the studies and the start cost, in about a quarter of an hour (needs CIFAR-10)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test slow test-slurm soak lint bench calibration clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): torch and what it needs are about 5 GB, a few minutes"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/harness ablate ablations/quickstart.yaml --jobs 2

# One thread a process: two test processes with default threads crowd each other on two cores.
test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow and not real_data and not soak"

slow: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "(slow or real_data) and not slurm and not soak"

# It starts munged, slurmctld and two slurmd of its own, and ends them; says what is missing where something is.
test-slurm: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -rs -m slurm tests/slurm

# One study of 300 runs; SOAK_RUNS=30 for a look.
soak: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -s -m soak tests/damage

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Threads are torch's own choice here, as for a user: some arms set them themselves.
bench: install
	$(BIN)/python -m tests.benchmarks --json bench.json --markdown bench.md

# One thread: the arrays are small, and the numbers are the same.
calibration: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.calibration --json reports/calibration.json --markdown reports/calibration.md

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
