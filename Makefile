# Each target runs scripts/develop.py, which also works without make.

PYTHON ?= python3
# The image to provision instead of a generated one: make run IMAGE=ubuntu
IMAGE ?=
# Arguments of pytest: make test ARGS='-k layer -x'; of a benchmark: make bench ARGS='--rounds 1 --images small-files';
# of the matrix: make matrix ARGS='--only su/userns'
ARGS ?=

.PHONY: help run env test lint check check-fast bench bench-faults bench-start matrix texts zipapp clean

help:
	@$(PYTHON) scripts/develop.py help

run:
	@$(PYTHON) scripts/develop.py run $(if $(IMAGE),'$(IMAGE)')

env:
	@$(PYTHON) scripts/develop.py env

test:
	@$(PYTHON) scripts/develop.py test $(ARGS)

lint:
	@$(PYTHON) scripts/develop.py lint

check:
	@$(PYTHON) scripts/develop.py check

check-fast:
	@$(PYTHON) scripts/develop.py check-fast

bench:
	@$(PYTHON) scripts/develop.py bench $(ARGS)

bench-faults:
	@$(PYTHON) scripts/develop.py bench-faults $(ARGS)

bench-start:
	@$(PYTHON) scripts/develop.py bench-start $(ARGS)

matrix:
	@$(PYTHON) scripts/develop.py matrix $(ARGS)

texts:
	@$(PYTHON) scripts/develop.py texts

zipapp:
	@$(PYTHON) scripts/develop.py zipapp

clean:
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find profiles provisioner scripts tests -name __pycache__ -prune -exec rm -rf {} +
