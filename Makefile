# make run: install, make a sample case, segment it, say where the results lie.    make test: the whole default test suite.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
SAMPLE := output/sample/phantom_0001
RESULT := output/result
MASK := $(RESULT)/images/automated-petct-lesion-segmentation/phantom_0001.mha

.PHONY: run test lint install clean
.DELETE_ON_ERROR:

install: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: '$(PYTHON)' is not Python 3.11 or newer; name one: make PYTHON=python3.11" >&2; exit 2; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "error: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 2; }
	@echo "installing into $(VENV), once: about 3 GB to download, 6 GB on disk"
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

run: $(STAMP)
	@rm -rf output/sample $(RESULT)
	$(BIN)/l2s phantom output/sample --cases 1 --seed 8 --shape 272 112 144 --spacing-mm 4 4 4
	$(BIN)/python process.py --input $(SAMPLE) --output $(RESULT) --preview
	$(BIN)/l2s evaluate $(SAMPLE)/truth.mha $(MASK) --json $(RESULT)/evaluation.json
	@echo
	@echo "mask:       $(CURDIR)/$(MASK)"
	@echo "record:     $(CURDIR)/$(RESULT)/l2s-record.json"
	@echo "evaluation: $(CURDIR)/$(RESULT)/evaluation.json"
	@echo "picture:    $(CURDIR)/$(RESULT)/l2s-preview.png"
	@echo "Research use only: the weights were trained on phantoms and sarcoma crops."

# A process a core, four at most, each with one thread and whole files of tests (TESTS=--numprocesses=0: one process, for a debugger). Twice, as
# training's tests fork workers, which a process that holds every library of the other tests does not survive.
TESTS ?= --numprocesses=logical --maxprocesses=4 --dist=loadfile
test: export OMP_NUM_THREADS ?= 1
test: $(STAMP)
	$(BIN)/python -m pytest $(TESTS) tests/training
	$(BIN)/python -m pytest $(TESTS) --ignore=tests/training

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) output dist *.egg-info
