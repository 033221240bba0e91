# Each target is what a person would type. `make help` lists them.
SHELL := /bin/bash
MODULES := . bench e2e
LOCAL := $(CURDIR)/.local
LINT := go tool -modfile=$(CURDIR)/tools/go.mod golangci-lint
FUZZTIME ?= 30s
SECONDS ?= 60
SEED ?=
SEEDS ?= 200

.PHONY: help all test race soak fuzz parity-fuzz bench lint generate tidy-check envoy

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-11s %s\n", $$1, $$2}'

all: lint test race ## run lint, test and race: all must pass before a commit

test: plan envoy ## run the tests of all modules (2 to 10 minutes; installs Envoy)
	@set -e; for m in $(MODULES); do (cd $$m && echo "== go test $$m" && PILLION_ENVOY=$$($(CURDIR)/tools/envoy path $(LOCAL)) go test ./...); done

race: envoy ## run the tests three times with the race detector (slow)
	@set -e; for m in . e2e; do (cd $$m && echo "== go test -race $$m" && PILLION_ENVOY=$$($(CURDIR)/tools/envoy path $(LOCAL)) go test -race -count=3 ./...); done

soak: ## misuse clients, servers, gRPC and clusters at random, for SECONDS=60 each
	PILLION_SOAK=$(SECONDS)s PILLION_SOAK_SEED=$(SEED) go test -race -count=1 -v -timeout $$((3 * $(SECONDS) + 600))s ./internal/soak
	PILLION_SOAK=$(SECONDS)s go test -race -count=1 -v -timeout $$(($(SECONDS) + 600))s -run '^TestStress$$' ./cluster

fuzz: ## run each fuzz target for FUZZTIME=30s
	@set -e; for p in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
		echo "== $$p $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p; done; done

parity-fuzz: envoy ## compare with Envoy in random scenarios: SEEDS=200 or SEEDS=1-2000, PARITY_FUZZ='-time 2m'
	PILLION_ENVOY=$$(tools/envoy path $(LOCAL)) go run ./internal/parity/parityfuzz -seeds $(SEEDS) -dir $(LOCAL)/parity-fuzz $(PARITY_FUZZ)

bench: ## measure, check the bounds, write docs/performance.md and README
	cd bench && go run . -check -docs ../docs/performance.md -readme ../README.md

lint: tidy-check ## run go vet and golangci-lint in every module
	@set -e; for m in $(MODULES); do (cd $$m && echo "== lint $$m" && go vet ./... && $(LINT) run --allow-parallel-runners ./...); done

tidy-check: ## check that go.mod and go.sum match the code
	@set -e; for m in $(MODULES); do (cd $$m && go mod tidy -diff); done

generate: ## generate files again
	go generate ./...

envoy: ## install Envoy into .local, for tests and for examples/compare
	@tools/envoy install $(LOCAL)

.PHONY: plan
plan:
	@echo "== make test takes 2 to 10 minutes on 2 cores"
