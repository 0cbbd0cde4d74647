# Thin names for scripts/develop.py, which also works where there is no make.

PYTHON ?= python3
# What to provision instead of the image that is made on the spot: make run IMAGE=ubuntu
IMAGE ?=
# What pytest is told: make test ARGS='-k layer -x'; or the benchmark: make bench ARGS='--rounds 1 --images small-files'
ARGS ?=

.PHONY: help run test lint check bench bench-faults bench-start clean

help:
	@$(PYTHON) scripts/develop.py help

run:
	@$(PYTHON) scripts/develop.py run $(if $(IMAGE),'$(IMAGE)')

test:
	@$(PYTHON) scripts/develop.py test $(ARGS)

lint:
	@$(PYTHON) scripts/develop.py lint

check:
	@$(PYTHON) scripts/develop.py check

bench:
	@$(PYTHON) scripts/develop.py bench $(ARGS)

bench-faults:
	@$(PYTHON) scripts/develop.py bench-faults $(ARGS)

bench-start:
	@$(PYTHON) scripts/develop.py bench-start $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find profiles provisioner scripts tests -name __pycache__ -prune -exec rm -rf {} +
