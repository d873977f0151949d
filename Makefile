# Short names for the common commands; CONTRIBUTING.md says when to use which.
# Each works on a machine that has Rust, a C++ compiler and Python with pip, and can be repeated.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long wheel test-python fmt lint bench parity parity-golden clean-store

BUILT := $(abspath $(or $(CARGO_TARGET_DIR),target))

# Cargo unites the features of all packages that it is given: with --workspace, demo, tests, parity and benches share every dependency.

# Tests whose tool is missing add their name here (tests/src/tools.rs).
SKIPPED := $(BUILT)/skipped-tests

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## fetch libtorch into .libtorch/, unless it is there or LIBTORCH or LIBTORCH_USE_PYTORCH is set
	@bash deploy/setup/libtorch.sh

demo: setup ## build cm3flow and run it on the sample corpus; the store is tests/corpus/.cm3flow/
	cargo build --workspace --bin cm3flow
	$(BUILT)/debug/cm3flow run tests/corpus/photos.toml
	@rm -rf tests/corpus/.cm3flow/bundle
	$(BUILT)/debug/cm3flow checkpoints export tests/corpus/photos.toml --to tests/corpus/.cm3flow/bundle

# Runs the tests with the options $(1) of nextest, or $(2) of the tests themselves, then doctests; names and counts the skipped ones.
define run_tests
	@mkdir -p $(dir $(SKIPPED)) && : > $(SKIPPED)
	@export CM3FLOW_SKIPPED=$(SKIPPED); status=0; \
	if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run --workspace $(1) || status=1; \
	else \
		cargo test --workspace --tests --no-fail-fast -- $(2) || status=1; \
	fi; \
	cargo test --workspace --doc || status=1; \
	cat $(SKIPPED); \
	awk -F: '{ sub(/^SKIPPED /, "", $$1); names = names (NR > 1 ? ", " : ": ") $$1 } END { print "skipped " NR " tests" names }' $(SKIPPED); \
	exit $$status
endef

test: setup ## run all tests and doctests, and name the skipped ones
	$(call run_tests)

test-long: export CM3FLOW_LONG := 1
test-long: setup ## run all tests at full length, those too that are ignored for their length: hours
	$(call run_tests,--profile long --run-ignored all,--include-ignored --skip vq::cuda::tests::)

wheel: ## build the PyTorch reader as a wheel, in target/wheels/
	@bash deploy/python/wheel.sh $(BUILT)/wheels

test-python: setup ## test that wheel under PyTorch; fetches 3 GB of Python packages once
	cargo build --workspace --bin cm3flow --bin s3-service
	@CM3FLOW_BUILT=$(BUILT) bash deploy/python/test.sh

fmt: ## format the sources
	cargo fmt --all
	cargo fmt --manifest-path deploy/python/Cargo.toml

lint: setup ## check format, lints and documentation
	cargo fmt --all --check
	cargo fmt --manifest-path deploy/python/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="$$RUSTDOCFLAGS -D warnings" cargo doc --workspace --no-deps

bench: setup ## run the benchmarks with the profile that the tests use
	cargo bench --workspace --bench stages --bench model --profile dev

parity: setup ## compare image tokenizers and decoder with the reference implementations; fetches 3 GB of Python packages once
	cargo build --workspace --example vq_values
	@bash tests/parity/python.sh tests/parity/parity.py $(BUILT)/debug/examples/vq_values
	@bash tests/parity/python.sh tests/parity/opt.py

parity-golden: ## write the small files of tests/parity/golden/ anew
	@bash tests/parity/python.sh tests/parity/parity.py --golden
	@bash tests/parity/python.sh tests/parity/opt.py --golden

clean-store: ## remove the store that demo filled
	rm -rf tests/corpus/.cm3flow
