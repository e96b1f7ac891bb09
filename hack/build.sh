#!/bin/sh
# Builds the agent as it is released, for the Makefile and the Dockerfile:
# hack/build.sh OUTPUT, with VERSION and COMMIT in the environment.
set -eu
CGO_ENABLED=0 go build -tags nethttpomithttp2 -trimpath \
	-ldflags "-s -w -X main.version=${VERSION:-dev} -X main.commit=${COMMIT:-}" -o "$1" ./cmd/arp-cache-cleaner
