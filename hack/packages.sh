#!/usr/bin/env bash
# Builds bin/packages: a .deb and an .rpm for each architecture, and the binaries in
# them. `make packages` runs it, with VERSION, COMMIT and EPOCH in the environment, and
# the command for nfpm in NFPM. The same commit gives the same files. Their names have
# no ~ for a candidate's version, as nfpm's would: GitHub makes another sign of it.
set -euo pipefail
cd "$(dirname "$0")/.."
out=bin/packages
rm -rf "$out"
mkdir -p "$out"
# What is no release (a commit, dev) is older than any.
case $VERSION in
  v[0-9]*) export PACKAGE_VERSION=${VERSION#v} ;;
  *) export PACKAGE_VERSION=0.0.0-$VERSION ;;
esac
export SOURCE_DATE_EPOCH=$EPOCH
for ARCH in ${ARCHS:-amd64 arm64}; do
  export ARCH BINARY=$out/arp-cache-cleaner-linux-$ARCH
  GOOS=linux GOARCH=$ARCH hack/build.sh "$BINARY"
  for packager in deb rpm; do
    $NFPM package --config deploy/packages/nfpm.yaml --packager $packager --target "$out/arp-cache-cleaner_${PACKAGE_VERSION}_$ARCH.$packager"
  done
done
