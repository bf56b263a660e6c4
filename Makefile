# Every target brings what it needs, on a machine that has Python 3.11 or later, make and git.
# `make help` lists them.

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long check simulate bench bench-peers bench-broker docs lock images images-with-docker up down elk

BIN := .venv/bin

# What a person may say: make simulate APP=my.py SEEDS=1000, make demo ARGS="--nodes 16", make test ARGS="-k zset"
APP ?= examples/bank.py
SEEDS ?= 200
ARGS ?=

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.set-up  ## bring pipenv and the environment (.venv); the other targets do this by themselves

.venv/.set-up: Pipfile Pipfile.lock pyproject.toml scripts/setup
	@scripts/setup

demo: setup  ## views over all flights of 2013, changed by the thousand, and held against recomputation
	$(BIN)/dist-zero run examples/flights.py --all --check $(ARGS)

check: setup  ## style and types of the whole tree (ruff, mypy)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

images: setup  ## the image of the services and those it needs, in the local Docker Engine
	@scripts/images

# Docker is neither installed nor started here: without it the virtual tests say so and are skipped.
images-with-docker: setup
	@if docker version >/dev/null 2>&1; then scripts/images; fi

test: check images-with-docker  ## check, and every test but the long ones (ARGS="-k simulated" for some)
	@scripts/test $(ARGS)

test-long: check images-with-docker  ## every test, the long ones too, with far more random examples
	@scripts/test --long $(ARGS)

simulate: setup  ## one program under many seeds of faults, on all cores (APP=examples/bank.py SEEDS=2000)
	$(BIN)/dist-zero test $(APP) --seeds $(SEEDS) $(ARGS)

bench: setup  ## workloads beside other engines, the cost of an update, deploying, saving (ARGS="W1 q3 --repeat 3")
	$(BIN)/python -m benchmarks $(ARGS)

bench-peers: setup  ## bring Pathway, Bytewax and Flink for `make bench`, each into an environment of its own
	@scripts/peers $(ARGS)

bench-broker: setup  ## the same over RabbitMQ, beside plain aio-pika and Celery (needs Docker and the images)
	$(BIN)/python -m benchmarks rabbitmq bytes latency start recovery reshard $(ARGS)

up: setup  ## a system in containers (docker-compose.yml), with passwords in .env (ARGS="--scale node-runner=4")
	@scripts/up $(ARGS)

down:  ## end that system; its data stay (ARGS=-v takes them away)
	@scripts/compose --profile elk down $(ARGS)

elk:  ## Elasticsearch, Logstash and Kibana for the logs (elk/README.md); 'make down' ends them, too
	@elk/up

docs: setup  ## the documentation as HTML, in docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

lock:  ## make Pipfile.lock anew from Pipfile, with the newest versions (needs Python 3.11 in .venv)
	@scripts/setup lock
