# The digest is that of 1.26.9's index for all platforms, as several public repositories have
# it; no registry was in reach where this was written. Dependabot keeps it current.
FROM --platform=$BUILDPLATFORM golang:1.26.9@sha256:f1f0bcc2c524a3ced375fcb4d1ecb7aa371aa7070e112599aaca45cc02d0101b AS build
WORKDIR /src
ARG VERSION TARGETOS TARGETARCH
# A plain docker build takes the version from git.
RUN --mount=type=bind,target=. \
    --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    version="${VERSION:-$(git -c safe.directory=/src describe --tags --always --dirty || echo dev)}" && \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" -o /stripe-sidecar ./cmd/stripe-sidecar

# Nothing but the program and the authorities it trusts: no shell, no user but
# nobody, no file that can be written.
FROM scratch
ARG VERSION REVISION SOURCE
# Of whoever builds and publishes it; empty where they say nothing. Licences are the owner's to name.
LABEL org.opencontainers.image.title="stripe-sidecar" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /stripe-sidecar /stripe-sidecar
USER 65534:65534
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=4s --start-period=2s CMD ["/stripe-sidecar", "healthcheck"]
ENTRYPOINT ["/stripe-sidecar"]
