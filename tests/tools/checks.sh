# shellcheck shell=bash
# Checks that are more than one command, and what they build.

# The end-to-end tests are not among all targets, because cargo test leaves them out. The program
# without its tools is linted with a test, whose dev-dependencies keep the features the same.
clippy() {
    cargo clippy --locked --workspace --all-targets -- -D warnings &&
        cargo clippy --locked --workspace --test e2e -- -D warnings &&
        cargo clippy --locked --workspace --no-default-features --bin pacegate --test simulation \
            -- -D warnings &&
        cargo clippy --locked --manifest-path benches/peers/Cargo.toml --all-targets -- -D warnings
}

# Sets `released`, the program as the Dockerfile builds it.
build_released() {
    local target
    target=$(uname -m)-unknown-linux-gnu
    released=$CARGO_TARGET_DIR/$target/release/pacegate
    RUSTFLAGS="-C target-feature=+crt-static" \
        cargo build --locked --release --no-default-features --bin pacegate --target "$target"
}

# build_image NAME: from the Dockerfile. A folder with the program replaces the stage that builds
# it, because there may be no registry to pull that stage's base from.
build_image() {
    local out=$work/image/out
    build_released && install -D "$released" "$out/pacegate" && mkdir -p "$out/lib/pacegate" &&
        buildah bud --isolation chroot --format docker --build-context "build=$work/image" \
            --tag "$1" .
}

# Sets `fuzzers`, the folder of the fuzz targets' programs. The flags are those of cargo-fuzz
# without a sanitizer, because a sanitizer needs a nightly compiler.
build_fuzzers() {
    local target flags
    target=$(rustc -vV | sed -n 's/^host: //p')
    flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
    flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
    flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
    flags+=" -Cllvm-args=-sanitizer-coverage-pc-table -Ccodegen-units=1"
    fuzzers=fuzz/target/$target/release
    # Not --locked: the program's dependencies may have changed since this lock file.
    RUSTFLAGS=$flags cargo build --release --manifest-path fuzz/Cargo.toml \
        --target-dir fuzz/target --target "$target"
}

# fuzz TARGET: for PACEGATE_FUZZ_SECONDS. The cache keeps what it learns for the next run;
# fuzz/artifacts keeps what it finds.
fuzz() {
    local learnt=$cache/fuzz/$1
    mkdir -p "$learnt" fuzz/artifacts
    "$fuzzers/$1" -max_total_time="${PACEGATE_FUZZ_SECONDS:-20}" -timeout=30 -print_final_stats=1 \
        -artifact_prefix="fuzz/artifacts/$1-" "$learnt" "fuzz/corpus/$1" \
        >"$work/fuzz-$1" 2>&1 </dev/null && touch "$work/fuzz-$1.passed"
}

# fuzzed TARGET: the result of fuzzing it.
fuzzed() {
    if [ ! -e "$work/fuzz-$1.passed" ]; then
        tail -n 40 "$work/fuzz-$1"
        return 1
    fi
    awk -v target="$1" '/^stat::number_of_executed_units/ { runs = $2 }
        END { printf "%s: %d inputs\n", target, runs; exit runs == 0 }' "$work/fuzz-$1"
}

# The program has to be where the unit says it is.
service() {
    install -D /bin/true "$work/home/.local/bin/pacegate" && mkdir -p "$work/runtime" &&
        cp config/pacegate.service "$work" &&
        HOME=$work/home XDG_RUNTIME_DIR=$work/runtime \
            systemd-analyze verify --user "$work/pacegate.service" &&
        systemd-analyze security --offline=true --threshold=20 "$work/pacegate.service" |
        tail -n 1
}
