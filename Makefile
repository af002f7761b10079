# Each target installs what is missing, starts its own private servers and stops them again.

.DEFAULT_GOAL := help
.PHONY: help demo demo-clouds up down test bench bench-peers chaos chaos-points chaos-load chaos-load-short chaos-sabotage lint sqlx

help: ## Shows this list
	@sed -n 's/^\([a-z-]*\):.* ## /  make \1\t/p' $(MAKEFILE_LIST)

demo: ## Runs real jobs on a private Gantry, shows what happens and checks how each ends
	deploy/scripts/demo.sh

demo-clouds: ## Runs the same jobs on a Docker host and on the doubles of three clouds, and shows a failover
	deploy/scripts/demo-clouds.sh

up: ## Starts a private Gantry that goes on running
	deploy/scripts/up.sh

down: ## Stops it, and keeps its data
	deploy/scripts/down.sh

test: ## Runs all tests; ARGS go to cargo nextest, for example ARGS="-E 'package(gantry-core)'"
	deploy/scripts/test.sh $(ARGS)

bench: ## Measures; for example ARGS="--case control --jobs 50000", ARGS="--case idle --case docker"
	deploy/scripts/bench.sh $(ARGS)

bench-peers: ## Measures other queues on the same servers; for example ARGS="--jobs 50000 --only celery,pg-boss-work"
	deploy/scripts/bench-peers.sh $(ARGS)

chaos: ## Breaks everything that can break and counts what is lost, doubled or left; SEED=2 is another schedule
	deploy/scripts/chaos.sh --seed $(or $(SEED),1) $(ARGS)

chaos-points: ## Kills every part at each of its failpoints and checks the promises; ARGS, for example ARGS="--only launch"
	deploy/scripts/chaos-points.sh $(ARGS)

chaos-load: ## Measures what the backlog promises under load; ARGS, for example ARGS="--only limits --seed 2"
	deploy/scripts/chaos-load.sh $(ARGS)

chaos-load-short: ## The same in small, in a minute or two
	deploy/scripts/chaos-load.sh --short $(ARGS)

chaos-sabotage: ## Shows that the counters of `make chaos` can rise
	deploy/scripts/chaos-sabotage.sh

lint: ## Checks format, lints, documentation, licences and sources
	deploy/scripts/lint.sh

sqlx: ## Writes .sqlx anew, after a change of the schema or of a query
	deploy/scripts/sqlx.sh
