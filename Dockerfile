FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY pkg pkg
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -tags nethttpomithttp2 -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /arp-cache-cleaner ./cmd/arp-cache-cleaner

FROM gcr.io/distroless/static-debian12
COPY --from=build /arp-cache-cleaner /arp-cache-cleaner
# Not a "nonroot" image: Kubernetes sets no ambient capabilities, so that
# CAP_NET_ADMIN added to another user's container has no effect.
USER 0
ENTRYPOINT ["/arp-cache-cleaner"]
