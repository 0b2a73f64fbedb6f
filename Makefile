# make demo: quantize, test, look.  make test: the test suite.
# make results DIR_DATA=... [RUNS=...] [FLAGS="--only edsr_x4"]: test what is shipped, print the tables again.
# make networks DIR_DATA=... [PHOTOS=...] [FLAGS="--only edsr_x4"]: train every network of these tables.
# make web [FLAGS="--port 8001"]: the page of examples/web, served; needs npm.
# make test-random: the suite in three orders.  make test-oldest: with the oldest packages that the requirements name.
# VENV, PYTHON: where and with what to install. OLDEST: where the oldest packages go; they need Python 3.11 or 3.12.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= $(VENV)-oldest
DIR_DATA ?= datasets
BIN = $(VENV)/bin

# threads that wait for others sleep: on a busy machine, spinning costs more than all the work
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test test-random test-oldest slow results networks web lint bench

demo: $(VENV)/.installed
	$(BIN)/python -m examples.demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-random: $(VENV)/.installed-dev
	for seed in 1 2 3; do $(BIN)/python -m pytest --random-order --random-order-seed=$$seed || exit 1; done

test-oldest:
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	sed -n 's/>=/==/p' requirements.txt requirements-deploy.txt requirements-dev.txt > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet -r $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pytest

slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

results: $(VENV)/.installed-deploy
	$(BIN)/python -m examples.results --dir_data '$(DIR_DATA)' $(if $(RUNS),--runs $(RUNS)) $(FLAGS)

networks: $(VENV)/.installed-deploy
	$(BIN)/python -m examples.networks --dir_data '$(DIR_DATA)' $(if $(PHOTOS),--photos '$(PHOTOS)') $(FLAGS)

web: $(VENV)/.installed-deploy
	$(BIN)/python -m examples.web.serve $(FLAGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/python -m mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/bicubic.py --runs 3
	$(BIN)/python benchmarks/data_loading.py --runs 3
	for script in train_step test_forward profile_step; do $(BIN)/python benchmarks/$$script.py --repeats 3 || exit 1; done

$(VENV)/.installed: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -r requirements.txt
	touch $@

$(VENV)/.installed-deploy: requirements-deploy.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -r requirements-deploy.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed-deploy
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -r requirements-dev.txt
	touch $@
