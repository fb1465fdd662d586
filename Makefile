# Everything here is a line or two that you could type yourself; `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help demo demo-feed test test-elasticsearch8 test-elasticsearch9 twin histories soak planted record-events bench bench-quick fmt lint clean stack-start stack-stop stack-status stack-wipe

STACK := stack/bin
# MySQL is there for one kind of processor only; elsewhere its tests are left out.
MYSQL := $(if $(filter x86_64,$(shell uname -m)),mysql)
# What the tests need besides Elasticsearch.
TESTED := rabbitmq pg mariadb $(MYSQL) kafka connect registry
# The services of `stack-…`: `make stack-start SERVICES="rabbitmq kafka"`.
SERVICES := rabbitmq elasticsearch pg
# Of a history: of `histories` and of `soak`.
SECONDS := 30
MINUTES := 10
# Of the bench: what is measured beside Pinion (bench/run.sh --help).
PEERS := gearman,celery,bento,pgsync
# What the histories begin with; they start servers of their own.
HISTORIES := $(STACK)/with.sh rabbitmq pg elasticsearch --

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-22s %s\n", $$1, $$2}'

demo: ## a shop of 20,000 orders, two workers, live changes, an analyst's questions
	./demo/run.sh

demo-feed: ## the change feed: rows change in SQL, nobody sends a message, documents follow
	./demo/run.sh feed

test: ## all tests, on the real services; those that were not running are stopped afterwards
	$(STACK)/build-tools.sh
	$(MAKE) twin
	$(STACK)/with.sh $(TESTED) -- $(MAKE) test-elasticsearch8 test-elasticsearch9

test-elasticsearch8: ## all tests, with Elasticsearch 8.18
	$(STACK)/with.sh $(TESTED) elasticsearch -- cargo test --workspace

# Without those in which other servers have the word.
test-elasticsearch9: ## the integration tests with Elasticsearch 9.0, where a JDK of version 21 or newer is found
	@if $(STACK)/elasticsearch9.sh available; then \
	  $(STACK)/with.sh $(TESTED) elasticsearch9 -- \
	    env PINION_TEST_ELASTICSEARCH=$$($(STACK)/elasticsearch9.sh url) cargo test -p pinion-tests -- \
	    --skip histories:: --skip mysql:: --skip feed --skip fan_out:: --skip event_job:: --skip client:: --skip tls:: --skip secrets:: \
	    --skip hostile_ids:: --skip broker_limits:: --skip taken_ahead:: --skip enqueue:: --skip init:: --skip harness::; \
	else echo "no JDK of version 21 or newer: the tests with Elasticsearch 9 are left out"; fi

# Planted bugs are compiled in here, and nowhere else.
twin: ## the pipeline on servers in memory: SEEDS histories, or the one of SEED
	$(if $(SEEDS),PINION_TWIN_SEEDS=$(SEEDS)) $(if $(SEED),PINION_TWIN_SEED=$(SEED)) cargo test -p pinion-tests --features planted-bugs --test twin -- --nocapture $(if $(SEED)$(SEEDS),no_seed)

histories: ## random changes and faults on real servers: SEEDS histories of SECONDS (6 of 30), or the one of SEED
	$(HISTORIES) env PINION_HISTORIES_SECONDS=$(SECONDS) $(if $(SEEDS),PINION_HISTORIES_SEEDS=$(SEEDS)) $(if $(SEED),PINION_HISTORIES_SEED=$(SEED)) \
	  cargo test -p pinion-tests --test integration -- --ignored --nocapture histories::

soak: ## the same for MINUTES a history, each database with queue, feed and both
	$(MAKE) histories SECONDS=$$(($(MINUTES) * 60))

planted: ## plant each bug of the adapters, or BUG, and look for it with histories (those of the pipeline: the twin does)
	$(HISTORIES) env $(if $(BUG),PINION_HISTORIES_BUG=$(BUG)) \
	  cargo test -p pinion-tests --features planted-bugs --test integration -- --ignored --nocapture histories::every_planted_bug

record-events: ## record the events of real connectors that the unit tests decode anew (DATABASE=postgres or mariadb: of one)
	./tests/events/record.sh $(DATABASE)

bench: ## measure all that there is against raw bulk indexing, and PEERS beside it (most of an hour)
	./bench/run.sh --peers $(PEERS) --markdown bench/report.md -- --rebuild --tuning --growth

bench-quick: ## the same in minutes, with fewer orders and without the peers
	./bench/run.sh --quick

fmt: ## format the code
	cargo fmt --all

lint: ## format check and lints, as CI runs them
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

stack-start: ## start the services (SERVICES="…" for others)
	$(STACK)/all.sh start $(SERVICES)

stack-stop: ## stop them
	$(STACK)/all.sh stop $(SERVICES)

stack-status: ## are they up?
	@$(STACK)/all.sh status $(SERVICES)

stack-wipe: ## stop them and delete their data
	$(STACK)/all.sh wipe $(SERVICES)

clean: ## delete what was built; the services' data stays
	cargo clean
