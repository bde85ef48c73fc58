# shellcheck shell=bash
# Installs the programs that a section needs. A function that fails leaves the reason in `lacking`;
# find_X sets X.

opencode_version=1.18.33
# The newest version, and the last one that takes a lock for dead after 10 s instead of 35.
qwen_code_versions=(0.24.4 0.15.10)
deny_version=0.20.2
# The version of gungraun in Cargo.lock: the two must be equal.
gungraun_version=0.20.0

# quietly REASON COMMAND...: if the command fails, its last lines are printed and REASON is in
# `lacking`.
quietly() {
    lacking=$1
    "${@:2}" >"$work/installing" 2>&1 </dev/null && return
    tail -n 3 "$work/installing"
    return 1
}

# ensure PROGRAM PACKAGE...: installs Debian's packages if the program is missing.
ensure() {
    type -P "$1" >/dev/null && return
    lacking="$1 is not installed, and only root on a Debian can install it here"
    [ "$(id -u)" -eq 0 ] && type -P apt-get >/dev/null || return
    printf 'installing %s\n' "${*:2}"
    quietly "$1 is not installed, and apt-get could not install it" apt_install "${@:2}"
}

# apt_install PACKAGE...: Debian's lists are fetched once per run.
apt_install() {
    [ -e "$work/updated" ] || apt-get update -q && touch "$work/updated" &&
        DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"
}

# cargo_install CRATE VERSION OPTION...: sets `program`. The program runs for seconds, so the build
# is the fastest one. Two programs share what is built.
cargo_install() {
    local root=$cache/$1-$2
    program=$root/bin/$1
    [ -x "$program" ] && return
    printf 'installing %s %s into %s, which takes two minutes\n' "$1" "$2" "$root"
    quietly "$1 is not installed and could not be built" \
        env CARGO_PROFILE_DEV_DEBUG=0 cargo install --debug --quiet --locked --root "$root" \
        --target-dir "$work/installs" "${@:3}" "$1@$2"
}

# Older versions cannot read our manifests.
find_deny() {
    deny=$(type -P cargo-deny) && [ "$("$deny" --version)" = "cargo-deny $deny_version" ] && return
    cargo_install cargo-deny "$deny_version" --no-default-features && deny=$program
}

# Runs benches under valgrind.
find_gungraun() {
    ensure valgrind valgrind && cargo_install gungraun-runner "$gungraun_version" &&
        gungraun=$program
}

# npm_install PACKAGE VERSION OPTION...: sets `folder`, where node_modules has the package.
npm_install() {
    folder=$cache/${1##*/}-$2
    [ -d "$folder" ] && return
    ensure npm npm || return
    printf 'installing %s %s into %s\n' "$1" "$2" "$folder"
    local half=$folder.$$
    mkdir -p "$half"
    # The folder gets its name when it is complete. The packages' scripts only copy binaries.
    quietly "npm could not install $1 $2" npm install --prefix "$half" --ignore-scripts \
        --no-audit --no-fund "${@:3}" "$1@$2" && mv "$half" "$folder" && return
    rm -rf "$half"
    return 1
}

# npm installs one binary, or two where the processor may be too old for the first.
find_opencode() {
    npm_install opencode-ai "$opencode_version" || return
    for opencode in "$folder"/node_modules/opencode-*/bin/opencode; do
        [ "$(HOME=$work "$opencode" --version 2>/dev/null </dev/null)" = "$opencode_version" ] && return
    done
    lacking="no binary of opencode-ai $opencode_version runs on this machine"
    return 1
}

# Scripts for node, separated by colons. The optional packages are for terminals.
find_qwen_code() {
    local version script
    qwen_code=
    for version in "${qwen_code_versions[@]}"; do
        npm_install @qwen-code/qwen-code "$version" --omit=optional || return
        script=$folder/node_modules/@qwen-code/qwen-code/cli.js
        if [ "$(HOME=$work node "$script" --version 2>/dev/null </dev/null)" = "$version" ]; then
            qwen_code+=${qwen_code:+:}$script
        else
            lacking="qwen-code $version does not run with the node that is here"
            printf '%s\n' "$lacking"
        fi
    done
    [ -n "$qwen_code" ]
}

find_chromium() {
    chromium=$(type -P chromium || type -P chromium-browser || type -P google-chrome) && return
    ensure chromium chromium && chromium=$(type -P chromium)
}

# Namespaces give one program its own network and its own table of hosts.
have_namespaces() {
    lacking="only root can have a network and a table of hosts of its own"
    [ "$(id -u)" -eq 0 ] && ensure unshare util-linux && ensure ip iproute2 || return
    unshare --net --mount --pid --fork true 2>"$work/unshare" && return
    lacking="no namespaces here: $(head -n 1 "$work/unshare")"
    return 1
}

# Images are built and run without a service manager.
have_engine() {
    have_namespaces && ensure buildah buildah && ensure podman podman && ensure runc runc || return
    buildah info >"$work/buildah" 2>&1 && return
    lacking="no images here: $(tail -n 1 "$work/buildah")"
    return 1
}
