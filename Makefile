# Two commands do everything on a fresh machine: `make demo` and `make test`. `make help` lists the others.
#
# PYTHON=/path/to/python   interpreter for the virtual environments, when they are created
# TESTS=tests/core         what to test;  PYTEST_ARGS='-k name -x'   further arguments for pytest
# DEMO_ARGS=...            arguments for the demo script;  BENCH_ARGS=... for the benchmarks

VENV := .venv
VENV26 := .venv-paddle26
VENV_PEER := .venv-paddleslim
PY := $(VENV)/bin/python
PY26 := $(VENV26)/bin/python
TESTS ?= tests
WORKERS ?= 2
PYTEST := -m pytest -q -n $(WORKERS) $(TESTS) $(PYTEST_ARGS)
# The environment variable decides the IR when Paddle is imported. A failure on one IR does not hide the other's tests.
both_irs = @status=0; for pir in 1 0; do \
		echo "== FLAGS_enable_pir_api=$$pir"; \
		FLAGS_enable_pir_api=$$pir $(PY) $(PYTEST) $(1) || status=1; \
	done; exit $$status
PYTHON ?=
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help demo test test-paddle26 test-full lint format bench docs api-spec lock clean distclean

help:
	@echo 'make demo           prune a digits classifier by sensitivity, end to end, with a report'
	@echo 'make test           the tests on Paddle 3.3.1, on PIR and on the legacy IR'
	@echo 'make test-paddle26  the tests on Paddle 2.6.2'
	@echo 'make test-full      all tests, the long ones too, on the three configurations'
	@echo 'make lint           ruff, mypy --strict, import layers, API.spec'
	@echo 'make format         let ruff rewrite the sources'
	@echo 'make bench          the benchmarks against PaddleSlim, an hour on a quiet machine'
	@echo 'make docs           the documentation as static pages in build/docs'
	@echo 'make api-spec       rewrite API.spec after a change of the public interface'
	@echo 'make clean          remove what was built;  make distclean  the environments too'

# The stamp is written last, so an interrupted installation starts over.
$(VENV)/.ready: tools/create_venv.sh $(wildcard requirements/paddle33-*.txt)
	sh tools/create_venv.sh $(VENV) paddle33
	@touch $@

$(VENV26)/.ready: tools/create_venv.sh $(wildcard requirements/paddle26-*.txt)
	sh tools/create_venv.sh $(VENV26) paddle26
	@touch $@

$(VENV_PEER)/.ready: tools/create_venv.sh $(wildcard requirements/bench-*.txt)
	sh tools/create_venv.sh $(VENV_PEER) bench
	@touch $@

# Paddle says which executor it runs and how it was built; the demo has enough to say.
demo: export GLOG_minloglevel = 2
demo: export PYTHONWARNINGS = ignore:No ccache found:UserWarning
demo: $(VENV)/.ready
	$(PY) demo/prune_by_sensitivity.py $(DEMO_ARGS)

test test-paddle26 test-full: export OMP_NUM_THREADS = 1
# Compiled once, the package and the tests serve every process and configuration: a fifth of a minute each time.
test test-paddle26 test-full: export PYTHONDONTWRITEBYTECODE =

test: $(VENV)/.ready
	$(call both_irs,)

# Paddle 2.6 has an unfinished PIR that the flag would switch on.
test-paddle26: $(VENV26)/.ready
	FLAGS_enable_pir_api=0 $(PY26) $(PYTEST)

test-full: $(VENV)/.ready $(VENV26)/.ready
	$(call both_irs,-m '')
	FLAGS_enable_pir_api=0 $(PY26) $(PYTEST) -m ''

lint: $(VENV)/.ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy --strict paddleslim_ng
	$(PY) tools/check_layers.py
	$(PY) tools/api_spec.py --check

format: $(VENV)/.ready
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# Without PaddleSlim its column is left out.
bench: $(VENV)/.ready $(VENV26)/.ready
	@$(MAKE) --no-print-directory $(VENV_PEER)/.ready || echo 'PaddleSlim could not be installed'
	$(PY) benchmarks/run.py $(BENCH_ARGS)

docs: $(VENV)/.ready
	$(PY) tools/build_docs.py build/docs

api-spec: $(VENV)/.ready
	$(PY) tools/api_spec.py

# Pins for the Python that runs it; see requirements/README.md.
lock:
	$(if $(PYTHON),$(PYTHON),python3.10) tools/lock_requirements.py paddle33
	$(if $(PYTHON),$(PYTHON),python3.10) tools/lock_requirements.py paddle26
	$(if $(PYTHON),$(PYTHON),python3.10) tools/lock_requirements.py bench

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name '.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) $(VENV26) $(VENV_PEER)
