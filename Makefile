# Everything here makes its own virtual environment; PYTHON chooses the interpreter (>= 3.11).
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

PARALLEL ?= -n auto --maxprocesses 8

ENCODERS := madeleine madeleine-se intra-ssl mean-pool max-pool \
            random-projection untrained patch-count site-only case-id oracle

# Kernels of OpenBLAS, which round differently: those that this processor can run.
CPU     := $(shell grep -m1 '^flags' /proc/cpuinfo 2> /dev/null)
KERNELS := Prescott $(if $(filter avx2,$(CPU)),Haswell) $(if $(filter avx512vl,$(CPU)),SkylakeX)

.PHONY: bench test numerics slow lint types check-lock regress benchmarks docs clean

bench: $(STAMP)  ## the main job: every shipped encoder and control on the 21 tasks, on phantoms
	$(BIN)/mbench run $(ENCODERS:%=--encoder %) --task all --source phantom

test: $(STAMP)  ## the fast tests
	$(BIN)/python -m pytest -q $(PARALLEL)

numerics: $(STAMP)  ## the tests of the formulas under each kernel: no verdict hangs on rounding
	@for kernel in $(KERNELS); do echo "kernel $$kernel" && OPENBLAS_CORETYPE=$$kernel \
	  $(BIN)/python -m pytest -q $(PARALLEL) tests/metrics tests/stats tests/protocols || exit 1; \
	done

slow: $(STAMP)  ## every test, the long ones too
	$(BIN)/python -m pytest -q $(PARALLEL) -m "slow or not slow"

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy

check-lock: $(STAMP)  ## no score moved without a new task version
	$(BIN)/mbench tasks lock --check

regress: $(STAMP)  ## no score moved against the committed baseline
	$(BIN)/mbench regress --json results/regress.json

docs: $(STAMP)  ## the documentation as a site, in site/; a warning fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

benchmarks: $(STAMP)  ## every benchmark as a ratio to its baseline, and the tables of docs/speed.md
	$(BIN)/python -m benchmarks.every

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) results site
