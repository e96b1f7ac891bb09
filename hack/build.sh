#!/bin/sh
# Builds the agent as it is released, for the Makefile and the Dockerfile:
# hack/build.sh OUTPUT, with VERSION and COMMIT in the environment.
set -eu

# What runs once a minute or less is built small: without inlining, which makes a
# fifteenth of the binary. There is no HTTP/2 in it either.
cold='github.com/prometheus/... google.golang.org/... go.yaml.in/... golang.org/x/... crypto/... net/...
	text/... html/template math/big encoding/asn1 encoding/json regexp/...'

output=$1
set --
for p in $cold; do set -- "$@" "-gcflags=$p=-l"; done
set -- "$@" -gcflags=net/netip= # of net/... the one that each entry of a scan needs
CGO_ENABLED=0 go build -tags nethttpomithttp2 -trimpath "$@" \
	-ldflags "-s -w -X main.version=${VERSION:-dev} -X main.commit=${COMMIT:-}" -o "$output" ./cmd/arp-cache-cleaner
