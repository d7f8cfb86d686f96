# `make` alone prints what there is. Everything runs in .venv, which is made on first use.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PY := .venv/bin/python
SOURCES := $(wildcard node operator tests bench)
# Processes that tests run in: they mostly wait for servers. 0: all in one, as a debugger likes it.
WORKERS := 3
# Whose threads stop at random in `make test-stumbling`: see tests/stumbling/sitecustomize.py.
WHO := others
# How many seeds `make soak` plays.
SEEDS := 100000

.PHONY: help
help: ## this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv
venv: ## the virtual environment .venv, with locked dependencies and an editable install
	@scripts/venv

.PHONY: lock
lock: venv ## requirements/*.txt again from pyproject.toml (ARGS=--upgrade for newer versions)
	scripts/lock $(ARGS)

.PHONY: lint
lint: venv ## ruff, mypy --strict, import layers
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m ruff format --check $(SOURCES)
	$(PY) -m mypy $(SOURCES)
	.venv/bin/lint-imports

.PHONY: format
format: venv ## what ruff can put right by itself
	$(PY) -m ruff check --fix $(SOURCES)
	$(PY) -m ruff format $(SOURCES)

.PHONY: servers
servers: venv ## real MySQL and MariaDB servers for demo and tests, into a cache folder outside the tree
	$(PY) -m kingbus_node.demo.servers

.PHONY: programs
programs: venv # what some tests run and nobody sells ready: built with Go once (minutes), then found in the cache
	PYTHONPATH=tests $(PY) -m kube.binaries
	PYTHONPATH=tests $(PY) -m tools.helm

# Whoever chooses tests has what they need already, or needs none of it.
.PHONY: test
test: venv servers $(if $(ARGS),,programs) ## every test; ARGS="tests/unit -k gtid" chooses, WORKERS=0 runs one at a time
	$(PY) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

.PHONY: crds
crds: venv ## crds/*.yaml again from the operator's model
	$(PY) -m kingbus_operator.api.crd > crds/binlogclusters.yaml
	$(PY) scripts/manifests --no-helm

.PHONY: test-kube
test-kube: venv programs ## the operator against a real kube-apiserver and etcd
	$(PY) -m pytest tests/kube $(ARGS)

.PHONY: test-clients
test-clients: venv servers ## every client and replica, those too that have to be built first (needs go, mvn and npm)
	$(PY) -m pytest tests/clients --all-clients --timeout=900 $(ARGS)

.PHONY: compatibility
compatibility: venv servers ## docs/compatibility.md again, from a run of all clients, replicas and kinds of sources
	$(PY) -m pytest tests/clients tests/integration --all-clients --timeout=900 -n 2 --dist loadfile --compatibility docs/compatibility.md $(ARGS)

.PHONY: test-pods
test-pods: venv servers programs ## the deployed operator with real nodes as pods, on a real kube-apiserver (root only)
	$(PY) -m pytest tests/kube/check_real_pods.py --timeout=1800 $(ARGS)

.PHONY: manifests
manifests: venv programs ## the manifests that are copies or renderings of others (scripts/manifests)
	$(PY) scripts/manifests

.PHONY: test-deploy
test-deploy: venv programs ## the chart, by helm
	$(PY) -m pytest tests/deploy $(ARGS)

.PHONY: image
image: venv ## the container image; without Docker by Debian's buildah, as root (ARGS="--archive kingbus.tar")
	PYTHONPATH=tests $(PY) -m tools.image $(ARGS)

.PHONY: test-image
test-image: venv ## the image, built by Debian's buildah and run as Kubernetes would run it (root only)
	$(PY) -m pytest tests/deploy/check_image.py --timeout=1800 $(ARGS)

.PHONY: e2e
e2e: venv servers ## everything on a real Kubernetes: E2E_USE_KUBECONFIG=1, or kind, or one made here (root); ARGS="-k drain"
	PYTHONPATH=tests $(PY) -m e2e.run test $(ARGS)

.PHONY: e2e-up e2e-down
e2e-up: venv ## a Kubernetes that stays: `make e2e` uses it, and is done sooner
	PYTHONPATH=tests $(PY) -m e2e.run up

e2e-down: venv ## its end
	PYTHONPATH=tests $(PY) -m e2e.run down

.PHONY: docs
docs: venv ## docs/cli.md, docs/http.md and the expected outputs of commands, from the code
	KINGBUS_WRITE_GOLDEN=1 $(PY) -m pytest -q tests/unit/cli tests/unit/admin/test_reference.py

.PHONY: fuzz
fuzz: venv ## the property tests, for longer
	$(PY) -m pytest tests/unit --hypothesis-profile=fuzz --timeout=0 -m fuzz $(ARGS)

.PHONY: chaos
chaos: venv servers ## random kills, hangs and stops of a real cluster under load (ARGS="--minutes 30 --seed 7 --flavor mariadb")
	PYTHONPATH=tests $(PY) -m servers.chaos $(ARGS)

.PHONY: test-stumbling
test-stumbling: venv servers $(if $(ARGS),,programs) ## what depends on who is first: tests with threads that stop at random (WHO=tests: the tests' own)
	PYTHONPATH=tests/stumbling KINGBUS_STUMBLING=$(WHO) $(PY) -m pytest -n $(WORKERS) --dist worksteal --timeout=900 $(ARGS)

.PHONY: test-kills
test-kills: venv servers ## rounds of kills, stops and partitions of a real cluster, all compared after each (root only; ARGS="--rounds 20")
	PYTHONPATH=tests $(PY) -m servers.kills $(ARGS)

.PHONY: test-big
test-big: venv servers ## transactions of 1 GiB through a cluster, a file beyond 4 GiB, and the memory that they take (25 GB of disk)
	$(PY) -m pytest -s tests/integration/check_big_transactions.py tests/integration/check_files_beyond_4_gib.py --timeout=3600 $(ARGS)

.PHONY: soak
soak: venv ## the simulator, for as long as one likes: make soak SEEDS=100000 (ARGS="--first 5000 --jobs 2")
	$(PY) -m tests.simulation --seeds $(SEEDS) $(ARGS)

.PHONY: demo
demo: venv ## a real source, three nodes and a real replica on this machine, the leader killed (ARGS="--flavor mariadb --check")
	.venv/bin/kingbus demo $(ARGS)

.PHONY: bench-quick
bench-quick: venv servers ## scanner, ingest and serving speed, each beside the same read straight from the source
	$(PY) -m bench.quick $(ARGS)

.PHONY: bench-raft
bench-raft: venv servers ## consensus of three nodes and catching up with a real source, beside the same without Raft (ARGS="--megabytes 256")
	$(PY) -m bench.raft $(ARGS)

.PHONY: bench-failover
bench-failover: venv servers ## how long a replica waits when the leader is killed, or hands over (ARGS="--rounds 20")
	$(PY) -m bench.failover $(ARGS)

.PHONY: bench-heartbeats
bench-heartbeats: venv servers ## whether hundreds of readers move the leader's heartbeats (ARGS="--readers 500")
	PYTHONPATH=tests $(PY) -m servers.heartbeats $(ARGS)

.PHONY: bench-sites
bench-sites: venv servers ## a cluster of three sites far apart, beside plain TCP over the same lines (root only; ARGS="--megabytes 100")
	PYTHONPATH=tests $(PY) -m sites.speed $(ARGS)

.PHONY: clean
clean: ## caches and build products (.venv and the servers stay)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
