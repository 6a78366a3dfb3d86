# make up      run the gateway on examples/quickstart (sets everything up first)
# make test    every test, through a real Envoy and a real Redis (sets everything up first)
# make check   formatting, types, import contracts, fast tests
# make bench   the benchmarks, side by side in one run
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    := $(VENV)/.run-ready
DEV    := $(VENV)/.dev-ready

.PHONY: up test check fast bench soak docs lock clean
up: $(RUN)
	@$(BIN)/causeway up examples/quickstart

test: $(DEV)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory fast

fast: $(DEV)
	$(BIN)/python -m pytest -q -m "not gateway and not docker and not slow"

bench: $(DEV)
	$(BIN)/python -m benchmarks

soak: $(DEV)
	$(BIN)/python -m pytest -q -m slow -o faulthandler_timeout=3600

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(RUN): requirements/runtime.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): requirements/dev.lock $(RUN)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@touch $@

# The parts of docs/ that are made from the models.
docs: $(RUN)
	$(BIN)/causeway schema > docs/manifest.schema.json
	@{ sed '/<!-- reference -->/q' docs/manifests.md; $(BIN)/causeway schema --reference; } > docs/manifests.md.new
	@mv docs/manifests.md.new docs/manifests.md

# Needs uv. The locks hold hashes and no index address.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--extra embedded --group build pyproject.toml -o requirements/runtime.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--extra embedded --group build --group dev -c requirements/runtime.lock pyproject.toml -o requirements/dev.lock

clean:
	rm -rf $(VENV) build *.egg-info
