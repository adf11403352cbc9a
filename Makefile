# make demo, make test: each sets everything up first. All installs are the project's own: .venv from pyproject.toml,
# exact versions from constraints.txt; Fashion-MNIST is fetched by the program (no root, README "Data").
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test slow slurm proof clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@echo "setting up .venv (several GB, a few minutes the first time)" >&2
	@$(PYTHON) -m venv .venv >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' >&2
	@touch $@

demo: setup
	@$(BIN)/gfs sweep -c configs/quickstart.yaml

test: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest

slow: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow and not proof and not slurm'

slurm: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 -m slurm tests/cluster/slurm

proof: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m proof -rP

clean:
	rm -rf .venv build *.egg-info
