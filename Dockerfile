# syntax=docker/dockerfile:1
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
# The image's own toolchain is the one that rust-toolchain.toml names; without this rustup would fetch clippy and rustfmt for it.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked -p pinion-worker && cp target/release/pinion /usr/local/bin/pinion

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --no-create-home pinion
COPY --from=build /usr/local/bin/pinion /usr/local/bin/pinion
USER pinion
ENV PINION_CONFIG=/etc/pinion/pinion.toml
EXPOSE 9600
ENTRYPOINT ["pinion"]
CMD ["work"]
