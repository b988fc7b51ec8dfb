# The whole interface of the build; each target is a script, which says what it does at its head.
#   PG=17|18        one major alone
#   PG_CONFIG=…     that server alone

.PHONY: help demo test lint docs soak bench install clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo      set everything up, lose a node, recover it and verify the result (KEEP=1 leaves the servers running)'
	@echo 'make test      set everything up and run every test on each supported PostgreSQL'
	@echo 'make lint      rustfmt, clippy, rustdoc, the documents'"'"' links and tables, and the pure unit tests'
	@echo 'make docs      the documents as a site, in target/book/'
	@echo 'make soak      the multi-node tests again and again (SOAK_ROUNDS=5)'
	@echo 'make bench     measures the recovery beside its alternatives (QUICK=1 smaller; SCENARIO=small one alone; GROWTH=1 curves)'
	@echo 'make install   build the extension for PG_CONFIG=…, or for the servers in the cache, and install it'
	@echo 'make clean     remove what was built here; servers and tools in the cache stay'
	@echo 'PG=17|18 picks a major, PG_CONFIG=/path/to/pg_config a server.'

demo:
	@scripts/setup.sh demo
	@scripts/demo.sh

test:
	@scripts/setup.sh test
	@scripts/test.sh

lint:
	@scripts/setup.sh lint
	@scripts/lint.sh

docs:
	@scripts/setup.sh docs
	@scripts/docs.sh

soak:
	@scripts/setup.sh soak
	@scripts/soak.sh

bench:
	@scripts/setup.sh bench
	@scripts/bench.sh

install:
	@scripts/setup.sh install
	@scripts/install.sh release

clean:
	@cargo clean
