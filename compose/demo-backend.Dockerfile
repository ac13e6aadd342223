# The demonstration backend: a service with sessions in Redis and calls in PostgreSQL, unaware of Levee.
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /levee
COPY . .
RUN rm rust-toolchain.toml && cargo build --locked --release --package levee-demo --bin levee-demo-backend

FROM debian:12.12-slim
COPY --from=build /levee/target/release/levee-demo-backend /usr/local/bin/levee-demo-backend
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
  CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9000 && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q '200 OK' <&3"]
ENTRYPOINT ["/usr/local/bin/levee-demo-backend"]
