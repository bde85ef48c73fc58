# pacegate on an empty base: one static binary, no shell, no package, no root.
#
#   docker build -t pacegate .
#   docker run --rm --read-only --cap-drop all --security-opt no-new-privileges \
#     -e PACEGATE_CLIENT_KEY -v pacegate:/var/lib/pacegate -p 127.0.0.1:7223:7223 pacegate
#
# What it keeps, logins and counts, is under /var/lib/pacegate: mount something there.

# Debian 12's C library, linked in: from 2.34 on its resolver (hosts file and DNS) needs no module
# at run time, and its malloc is the one that the program is measured with. musl's is slower.
# No default features: the commands bench, demo and simulate are not for a container.
FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
# The target is named so that the flag holds for the program and not for what builds it.
RUN target="$(uname -m)-unknown-linux-gnu" \
    && RUSTFLAGS="-C target-feature=+crt-static" \
        cargo build --locked --release --no-default-features --bin pacegate --target "$target" \
    && install -D "target/$target/release/pacegate" /out/pacegate \
    && mkdir -p /out/lib/pacegate

FROM scratch
ARG REVISION=unknown
LABEL org.opencontainers.image.title="pacegate" \
      org.opencontainers.image.description="A sidecar that sends a coding agent's requests upstream at the right moment" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /out/pacegate /usr/bin/pacegate
COPY config/container.toml /etc/pacegate/pacegate.toml
# A volume that is new takes the directory's owner over.
COPY --from=build --chown=65532:65532 /out/lib/ /var/lib/
ENV HOME=/var/lib/pacegate
WORKDIR /var/lib/pacegate
USER 65532:65532
EXPOSE 7223
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=6s --start-period=10s CMD ["/usr/bin/pacegate", "health"]
ENTRYPOINT ["/usr/bin/pacegate"]
