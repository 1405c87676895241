.DEFAULT_GOAL := help
.PHONY: help setup lock run demo kube check fix pages test unit acceptance bench soak screenshots

PYTHON ?= python3
# Where it is set, as in images of Python, each of the thousand processes that the tests start would
# compile the whole project anew.
unexport PYTHONDONTWRITEBYTECODE

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

# --no-deps: the lock is complete. Where pip resolves, it looks first at the newest release of what is
# wanted with an extra (coverage[toml]), which has no hash here, and set-up ends on the day it is out.
setup: .venv/.locked ## Make the locked environment (needs only python3)
.venv/.locked: pyproject.toml requirements.lock
	@echo "==> making the environment in .venv from requirements.lock (about a minute the first time)"
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed; {sys.executable} is {v[0]}.{v[1]} (choose another: make PYTHON=python3.12 ...)")'
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	.venv/bin/pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

lock: ## Resolve the dependencies anew (for every platform; no download addresses in the file)
	$(PYTHON) -m venv .lockenv && .lockenv/bin/pip install -q uv
	.lockenv/bin/uv pip compile pyproject.toml --all-extras --group dev --universal --generate-hashes --no-emit-index-url --no-header -o requirements.lock
	.lockenv/bin/uv pip compile pyproject.toml --constraint requirements.lock --universal --generate-hashes --no-emit-index-url --no-header -o deploy/requirements.lock
	@echo "hatchling and editables, with which pip builds the package itself, are resolved by pip at set-up"

run: setup ## Run it all on this machine: http://127.0.0.1:8080
	.venv/bin/dory-orchestrator dev

demo: setup ## Kill an edge node, and watch its processors move to the cloud and home again
	.venv/bin/dory-orchestrator demo

kube: setup ## Serve a Kubernetes to try `run --kubeconfig` on, without one; it says how to go on
	.venv/bin/python -m tests.kube.serve

# The tests of the real service wait, and start processes that compute: with two of them beside two
# of the others, two cores are busy nearly all the time.
test: setup ## Every test (embedded PostgreSQL included)
	@echo "==> tests/acceptance; all other tests run beside it and are told of afterwards"
	@.venv/bin/pytest --ignore=tests/acceptance -n 2 --dist worksteal -p no:cacheprovider >.others.log 2>&1 & others=$$!; \
	.venv/bin/pytest tests/acceptance -n 2 --dist load --maxschedchunk 1; status=$$?; \
	wait $$others || status=1; cat .others.log; rm -f .others.log; exit $$status

unit: setup ## Fast tests: no database, no network, no waiting
	.venv/bin/pytest tests/core tests/loops tests/api tests/test_logs.py -m 'not real'

acceptance: setup ## The real service: things killed and frozen
	.venv/bin/pytest tests/acceptance

check: setup ## Format, lint, import rooms, types (what CI runs)
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/lint-imports
	.venv/bin/mypy

fix: setup ## Let the tools repair what they can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

pages: setup ## Write anew what is made from the code: docs/metrics.md, docs/openapi.json, the dashboard
	.venv/bin/python -m tests.deploy.metrics_page
	.venv/bin/python -m tests.deploy.dashboard
	.venv/bin/python -m tests.api.openapi_page

bench: setup ## What heartbeats and reconciliation cost, as ratios measured in one run (needs wrk)
	@status=0; for name in heartbeats reconcile listing page failover; do .venv/bin/python -m benchmarks.$$name || status=1; done; exit $$status

soak: setup ## Simulate a million node-hours with fresh seeds (about two hours on two idle cores)
	.venv/bin/python -m dory_orchestrator.sim.soak

screenshots: setup ## Take the pictures of the page in docs/images (needs /usr/bin/chromium)
	.venv/bin/python -m tests.browser.screenshots
