FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY hack/build.sh hack/
COPY cmd cmd
COPY pkg pkg
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
ARG COMMIT
ARG SOURCE_DATE_EPOCH=0
RUN GOOS=$TARGETOS GOARCH=$TARGETARCH VERSION=$VERSION COMMIT=$COMMIT hack/build.sh /arp-cache-cleaner \
 && touch -d @$SOURCE_DATE_EPOCH /arp-cache-cleaner

# Nothing but the binary: it asks no certificate authority but the one that it is
# given, and needs no shell, time zones or users.
FROM scratch
ARG VERSION=dev
ARG COMMIT
LABEL org.opencontainers.image.title="arp-cache-cleaner" \
      org.opencontainers.image.description="Keeps the neighbour (ARP and ND) table of a node fresh" \
      org.opencontainers.image.source="https://github.com/arp-cache-cleaner/arp-cache-cleaner" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$COMMIT"
COPY --from=build /arp-cache-cleaner /arp-cache-cleaner
# Not an unprivileged user: Kubernetes sets no ambient capabilities, so that
# CAP_NET_ADMIN added to another user's container has no effect.
USER 0
ENTRYPOINT ["/arp-cache-cleaner"]
