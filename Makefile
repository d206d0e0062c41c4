# The handful of things one does with this repository. CI runs .ci/run, which
# uses the same commands.
GO       ?= go
BIN      ?= bin/tocsin
FUZZTIME ?= 20s
FALCO_PLUGIN ?= bin/libtocsin.so

.PHONY: build build-static build-musl falco-plugin test test-all lint proto bench fuzz fault compat

build: ## the hub; no cgo, but started by the dynamic linker and with the libc of most systems (glibc)
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN) ./cmd/tocsin

build-static: ## the same, linked to nothing, without native plugins
	CGO_ENABLED=0 $(GO) build -trimpath -tags tocsin_static -o $(BIN) ./cmd/tocsin

# The names that musl's linker has differ from the ones of Go.
MUSL = $(if $(filter arm64,$(shell $(GO) env GOARCH)),aarch64,x86_64)
build-musl: ## like build, with the libc of systems with musl (Alpine)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-I /lib/ld-musl-$(MUSL).so.1' -o $(BIN) ./cmd/tocsin

falco-plugin: ## the plugin that brings events of a hub into Falco, with a C compiler and for the libc of this machine
	CGO_ENABLED=1 $(GO) build -trimpath -buildmode=c-shared -ldflags '-s -w' -o $(FALCO_PLUGIN) ./cmd/falco-plugin-tocsin
	rm -f $(FALCO_PLUGIN:.so=.h)

test: ## what the README says
	$(GO) test ./...

test-all: ## also the tests that take minutes, as .ci/run does, but without the race detector
	TOCSIN_TESTS=all $(GO) test ./...

lint: ## formatting, vet, staticcheck (pinned in go.mod)
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "gofmt these files:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	cd test/compat && $(GO) vet ./...
	cd test/compat/kafka && $(GO) vet ./...
	cd test/bench/otel && $(GO) vet ./...

proto: ## lint the protos and make their Go code anew
	scripts/proto.sh

bench: ## one table: what, ours, the limit measured in the same run, ratio
	$(GO) run ./test/bench

fuzz: ## every fuzz target for FUZZTIME
	scripts/fuzz.sh $(FUZZTIME)

fault: ## hundreds of kill -9 rounds, the disk-full test, 1,000,000 events by every edge over restarts
	TOCSIN_TESTS=all TOCSIN_FAULT_ROUNDS=300 $(GO) test -count=1 -timeout 60m -v -run 'Kill|Crash|DiskFull|PlugPulled' ./internal/journal ./internal/strongbox ./internal/inbox ./internal/sink/file ./internal/deliver/store ./internal/queue ./audit ./internal/source/vaultaudit ./client ./test/acceptance ./test/sinks
	TOCSIN_TESTS=all TOCSIN_FAULT_EVENTS=1000000 $(GO) test -count=1 -timeout 30m -v -run OverRestarts ./test/acceptance
	TOCSIN_FAULT_TIME=3m $(GO) test -count=1 -timeout 30m -v ./test/device
	cd test/compat && TOCSIN_FAULT_EVENTS=1000000 $(GO) test -count=1 -timeout 30m -v -run OverRestarts .

compat: ## foreign clients against the real hub, a real Kafka and more, in modules of their own
	cd test/compat && $(GO) test -count=1 ./...
	cd test/compat/kafka && $(GO) test -count=1 ./...
