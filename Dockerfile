FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /stripe-sidecar ./cmd/stripe-sidecar

# Nothing but the program and the authorities it trusts: no shell, no user but
# nobody, no file that can be written.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /stripe-sidecar /stripe-sidecar
USER 65534:65534
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=4s --start-period=2s CMD ["/stripe-sidecar", "healthcheck"]
ENTRYPOINT ["/stripe-sidecar"]
