# A new user needs two of these: make run, and make test.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOFLAGS_BUILD = -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
ACTIONLINT = github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
PLATFORMS = linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
GOTESTSUM = gotest.tools/gotestsum@v1.13.0
# The race detector needs a C compiler.
RACE := $(shell command -v cc >/dev/null 2>&1 && echo -race)

.PHONY: run serve doctor test lint build release image bench soak fuzz chaos licences clean

run: build ## a shop on http://localhost:8080, with imitations of Stripe and Supabase
	@exec bin/sandbox

serve: build ## the service, with its variables from the environment and .env
	@exec bin/stripe-sidecar $(if $(wildcard .env),-env-file .env)

doctor: build ## check the set-up of make serve
	@exec bin/stripe-sidecar $(if $(wildcard .env),-env-file .env) doctor

test: lint ## everything that must hold; under CI=true a skipped test fails
	@events=$$(mktemp); trap 'rm -f "$$events"' EXIT; \
	go run $(GOTESTSUM) --format pkgname --format-hide-empty-pkg --jsonfile "$$events" -- $(RACE) ./... || exit 1; \
	if [ "$(CI)" = true ] && grep -q '"Action":"skip".*"Test":' "$$events"; then \
	  echo 'a test was skipped, which is a failure here'; exit 1; \
	fi

lint: ## formatting, vet, staticcheck, actionlint
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "gofmt -w $$unformatted"; exit 1; fi
	go vet ./...
	go run $(STATICCHECK) ./...
	go run $(ACTIONLINT) .github/workflows/*.yml

build: ## bin/stripe-sidecar, bin/sandbox and bin/bench, static
	@command -v go >/dev/null || { echo "This needs Go $$(sed -n 's/^go //p' go.mod) or later: https://go.dev/dl/"; exit 1; }
	@[ -x bin/sandbox ] || echo "Downloading Go modules and building into bin/ (about a minute the first time) ..."
	@CGO_ENABLED=0 go build $(GOFLAGS_BUILD) -o bin/ ./cmd/...

release: ## dist/: the program for each platform, and SHA256SUMS
	rm -rf dist && mkdir dist
	@for platform in $(PLATFORMS); do \
	  os=$${platform%/*} arch=$${platform#*/} name=stripe-sidecar-$(VERSION)-$$os-$$arch; \
	  if [ $$os = windows ]; then name=$$name.exe; fi; \
	  echo "dist/$$name"; \
	  CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch go build $(GOFLAGS_BUILD) -o dist/$$name ./cmd/stripe-sidecar || exit 1; \
	done
	cd dist && sha256sum stripe-sidecar-* >SHA256SUMS

image: ## the container image stripe-sidecar, for this machine
	docker build --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD) -t stripe-sidecar .

bench: build ## under load beside a bare handler: one table, in about a minute
	@bin/bench

soak: build ## 200,000 requests with faults; nothing may grow
	@bin/bench -soak

fuzz: ## each fuzz target for a minute
	@for package in $$(go list ./...); do \
	  for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz'); do \
	    go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(or $(FUZZTIME),1m) $$package || exit 1; \
	  done; \
	done

chaos: ## replicas killed and restarted under load behind nginx, HAProxy and Caddy; 64 MB and a quarter of a core
	go test -tags chaos -run '^TestChaos' -timeout 10m -v ./cmd/stripe-sidecar

licences: build ## the modules in the binary and their licences
	@go version -m bin/stripe-sidecar | awk '$$1 == "dep" {print $$2 "@" $$3}' | while read -r module; do \
	  dir=$$(go mod download -json "$$module" | sed -n 's/^.*"Dir": "\(.*\)",*$$/\1/p'); \
	  printf '%-75s %s\n' "$$module" "$$(cat "$$dir"/LICEN[CS]E* 2>/dev/null | tr '\n' ' ' | \
	    grep -oE 'Apache License|MIT License|Permission is hereby granted, free of charge|Redistribution and use in source and binary forms|Mozilla Public License' | \
	    head -1 | sed -e 's/Permission is.*/MIT/;s/MIT License/MIT/;s/Redistribution.*/BSD/;s/Apache License/Apache-2.0/;s/Mozilla.*/MPL-2.0/' | grep . || echo "none in the module")"; \
	done

clean:
	rm -rf bin dist
