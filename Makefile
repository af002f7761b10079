# Each target installs what is missing, starts its own private servers and stops them again.

.DEFAULT_GOAL := help
.PHONY: help demo up down test lint sqlx

help: ## Shows this list
	@sed -n 's/^\([a-z]*\):.* ## /  make \1\t/p' $(MAKEFILE_LIST)

demo: ## Runs real jobs on a private Gantry, shows what happens and checks how each ends
	deploy/scripts/demo.sh

up: ## Starts a private Gantry that goes on running
	deploy/scripts/up.sh

down: ## Stops it, and keeps its data
	deploy/scripts/down.sh

test: ## Runs all tests; ARGS go to cargo nextest, for example ARGS="-E 'package(gantry-core)'"
	deploy/scripts/test.sh $(ARGS)

lint: ## Checks format, lints, documentation, licences and sources
	deploy/scripts/lint.sh

sqlx: ## Writes .sqlx anew, after a change of the schema or of a query
	deploy/scripts/sqlx.sh
