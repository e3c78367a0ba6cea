# Two environments, each made once: the pinned one with COMET, and one with the newest transformers 5 and numpy 2.
PYTHON ?= python3
# The CPU build of torch where the index can be reached; elsewhere pip takes what its own indexes have.
TORCH = torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu --retries 1 --timeout 15
# Beside transformers 5: without its pins, which forbid that, and with what it imports itself.
COMET = unbabel-comet==2.2.7 entmax pytorch-lightning lightning-utilities torchmetrics
BIN = .venv/bin
LATEST = .venv-latest/bin

# The tests' real data, WMT22 and Multi30k, are not part of this repository; without them the tests that need them skip.
export MTCPO_TEST_DATA ?= $(wildcard $(CURDIR)/../shared/data)

# Each worker takes whole files of tests, loads torch (1.5 GB) and makes the tiny models for itself; 0: no workers.
JOBS ?= 2
PYTEST = python -m pytest --numprocesses $(JOBS) --dist loadscope

.PHONY: demo test quick check test-latest install clean

# The tokenized data of the demo stay beside its runs.
demo: export HF_DATASETS_CACHE ?= $(CURDIR)/runs/.cache
demo: .venv/ready
	$(BIN)/mtcpo run demo

# Everything in the pinned environment.
test: check
	$(BIN)/$(PYTEST)

# While developing: under two minutes on two cores.
quick: .venv/ready
	$(BIN)/$(PYTEST) -m "not slow and not processes"

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Everything beside transformers 5. Where the pinned environment is there too, each loads what the other has saved.
test-latest: .venv-latest/ready
	$(if $(wildcard $(BIN)/python),MTCPO_OTHER_PYTHON=$(CURDIR)/$(BIN)/python) $(LATEST)/$(PYTEST)

install: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo "what COMET pins has wheels for Python 3.11 and 3.12 only; choose one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[comet,dev,langid,mecab]'
	touch $@

.venv-latest/ready: pyproject.toml
	$(PYTHON) -m venv .venv-latest
	$(LATEST)/pip install --quiet --upgrade pip
	$(LATEST)/pip install --quiet $(TORCH)
	$(LATEST)/pip install --quiet --upgrade --upgrade-strategy eager torch==2.13.0 'transformers>=5,<6' 'numpy>=2' --editable '.[dev,langid,mecab]'
	$(LATEST)/pip install --quiet scipy pandas
	$(LATEST)/pip install --quiet --no-deps $(COMET)
	touch $@

clean:
	rm -rf .venv .venv-latest build dist .mypy_cache .pytest_cache .ruff_cache
