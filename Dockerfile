# The sidecar, `levee`. For PostgreSQL, Redis and Envoy see docker-compose.yml.
#
#   docker build -t levee .
#   docker run --read-only --user 10001:10001 -v "$PWD/levee.yaml:/etc/levee/levee.yaml:ro" levee

# The version in rust-toolchain.toml, on a Debian no newer than the one below, whose C library the binary runs with.
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /levee
COPY . .
RUN rm rust-toolchain.toml && cargo build --locked --release --package levee --bin levee

FROM debian:12.12-slim
# The CA certificates for TLS to Redis and the database, unless a configuration names others.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /levee/target/release/levee /usr/local/bin/levee
# This user owns no file of the image and writes none.
USER 10001:10001
# The image has no curl, but bash can send the request.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
  CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9464 && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q '200 OK' <&3"]
ENTRYPOINT ["/usr/local/bin/levee"]
CMD ["run", "--config", "/etc/levee/levee.yaml"]
