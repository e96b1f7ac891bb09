# `make run` does the job on this machine; `make test` passes the tests.
# Both need Go and iproute2, nothing else; Go fetches what it needs by itself.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null)
EPOCH   := $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
IMAGE   ?= ghcr.io/arp-cache-cleaner/arp-cache-cleaner:$(VERSION)
ENGINE  ?= $(firstword $(foreach e,docker podman buildah,$(if $(shell command -v $(e)),$(e))))
SUDO    := $(if $(filter 0,$(shell id -u)),,sudo)
TOOL    := go tool -modfile=hack/tools/go.mod

# Only what is under deploy/ needs these. They are built once, and kept out of every go.mod.
HELM        ?= go run helm.sh/helm/v3/cmd/helm@v3.22.0
KUSTOMIZE   ?= go run sigs.k8s.io/kustomize/kustomize/v5@v5.8.1
KUBECONFORM ?= go run github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0
ACTIONLINT  ?= go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

NFPM        ?= go run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4

# These, only whoever releases or reviews.
GOVULNCHECK ?= go run golang.org/x/vuln/cmd/govulncheck@v1.9.0
CYCLONEDX   ?= go run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0

.PHONY: build run test test-all demo bench bench-hour bench-footprint bench-loss bench-vip lint fuzz generate measure pictures check-docs manifests check-deploy packages check-packages interop e2e soak faults oldkernel cover govulncheck sbom image clean

build: ## compile bin/arp-cache-cleaner
	VERSION=$(VERSION) COMMIT=$(COMMIT) hack/build.sh bin/arp-cache-cleaner

run: build ## renew this machine's neighbour entries until interrupted
	$(SUDO) bin/arp-cache-cleaner $(ARGS)

# Live tests wait most of the time, so many run side by side. Those that take longer
# or need the machine to themselves (lab.Alone) are left out with -short: with
# test-all one package runs at a time, and they go first, one after the other.
test: ## tests, side by side; live ones need root or user namespaces
	go test -short -parallel 10 -timeout 15m $(TESTFLAGS) ./...

test-all: ## all tests, those that need the machine to themselves as well; it must be idle
	go test -p 1 -parallel 10 -timeout 15m $(TESTFLAGS) ./...

demo: build ## watch the agent work in namespaces, for a bit more than a minute
	go run ./hack/demo

# The kernel's limits on its table are raised meanwhile, which takes root.
BENCH_SIZES ?= 1000,10000
BENCH_ROUNDS ?= 11
bench: build bin/bench ## CPU time of renewals, scans and scrapes: the agent beside the usual ways
	$(SUDO) bin/bench -sizes $(BENCH_SIZES) -rounds $(BENCH_ROUNDS)

BENCH_FOR ?= 5m
bench-hour: build bin/bench ## CPU time of an hour: the agent, and flushing the whole table; BENCH_FOR for each agent
	$(SUDO) bin/bench -hour -for $(BENCH_FOR)

bench-footprint: build bin/bench ## memory, size and start of the agent
	$(SUDO) bin/bench -footprint

.PHONY: bin/bench
bin/bench:
	cd hack/bench && go build -o ../../bin/bench .

bench-loss: build ## packets lost while an entry is renewed: the agent beside the usual commands
	go run ./hack/bench-loss

bench-vip: build ## seconds until a moved VIP is used, with the agent and without; see measure as well
	go run ./hack/bench-vip

lint: ## formatting, vet, linters, tidy modules
	$(TOOL) golangci-lint run ./...
	cd hack/bench && go tool -modfile=../tools/go.mod golangci-lint run ./...
	go mod tidy -diff
	cd hack/tools && go mod tidy -diff
	cd hack/bench && go mod tidy -diff

FUZZTIME ?= 30s
fuzz: ## fuzz every decoder, the flags and the HTTP handlers for FUZZTIME each
	@for p in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz'); do \
	    echo "$$p $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done

generate: ## write the tables of docs from the code
	go generate ./...

measure: build ## measure what the pictures of docs/ are drawn from; the machine must be idle for 20 minutes
	go run ./hack/bench-vip -docs docs
	go run ./hack/pictures -measure 10m

pictures: ## draw the pictures of docs/ from what was measured, and take those of the status page; needs Chromium
	go run ./hack/pictures
	ARP_LAB_REQUIRE=1 go test -count=1 -run '^TestScreenshots$$' ./pkg/status -screenshots ../../docs/pictures

check-docs: build ## links and anchors of the documents lead somewhere, and what they say to type runs
	go run ./hack/check-docs

manifests: ## render deploy/chart into everything else under deploy/
	hack/manifests.sh $(HELM)

check-deploy: ## lint the chart, hold manifests to their schemas, test the alerts; needs promtool
	HELM="$(HELM)" KUSTOMIZE="$(KUSTOMIZE)" KUBECONFORM="$(KUBECONFORM)" ACTIONLINT="$(ACTIONLINT)" hack/check-deploy.sh

packages: ## build bin/packages: .deb and .rpm for amd64 and arm64, and the binaries
	VERSION=$(VERSION) COMMIT=$(COMMIT) EPOCH=$(EPOCH) NFPM="$(NFPM)" hack/packages.sh

check-packages: packages ## install the .deb into a root of its own, and run what is in it without root
	hack/check-packages.sh

interop: build ## a real keepalived moves a VIP, nothing that it announces arrives, and the agent follows; needs keepalived and nft
	go run ./hack/interop

e2e: build ## show the promise on the cluster that KUBECONFIG names; see hack/e2e/README.md
	go run ./hack/e2e

soak: ## four days' scans in minutes, over a table that churns; then some with the race detector
	go test -timeout 60m -run '^TestSoak$$' -v ./cmd/arp-cache-cleaner -soak 17280
	go test -race -timeout 60m -run '^TestSoak$$' -v ./cmd/arp-cache-cleaner -soak 1728

faults: ## kill and stop agents 200 times, at random moments and in the middle of trials
	go test -timeout 60m -run '^Test(Killed|Stopped|Frozen)' -v ./cmd/arp-cache-cleaner -kills 200

oldkernel: ## the live tests on older kernels, in virtual machines; SUITES names Debian's releases
	hack/oldkernel/run $(SUITES)

cover: ## coverage of the pure rooms, which is not to fall; PROFILE is one of go test
	hack/coverage.sh $(PROFILE)

govulncheck: ## known vulnerabilities that this code reaches; asks the Go vulnerability database
	$(GOVULNCHECK) ./...

sbom: ## write bin/sbom.json, what the binary is made of (CycloneDX)
	@mkdir -p bin
	$(CYCLONEDX) app -json -licenses -std -main cmd/arp-cache-cleaner -output bin/sbom.json .

# The same commit gives the same image: its files and its configuration carry the
# commit's time.
image: ## build the container image with docker, podman or buildah
	SOURCE_DATE_EPOCH=$(EPOCH) $(or $(ENGINE),$(error make image needs docker, podman or buildah)) build \
		$(if $(filter docker,$(notdir $(ENGINE))),,--timestamp $(EPOCH)) $(if $(PLATFORM),--platform $(PLATFORM)) \
		--build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) --build-arg SOURCE_DATE_EPOCH=$(EPOCH) \
		-t $(IMAGE) $(IMAGEFLAGS) .

clean:
	rm -rf bin
