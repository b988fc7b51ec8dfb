#!/usr/bin/env bash
# All set-up that a goal of the Makefile needs; does nothing, and needs no network, where everything is there.
#   scripts/setup.sh <demo|test|lint|docs|soak|bench|install>
# PG_CONFIG=… uses that server alone, PG=NN one major, SPOCK_RECOVERY_SERVER=… one place for servers (servers.sh),
# SPOCK_RECOVERY_CACHE=… another cache folder.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# What compiles the extension: a linker, and libclang, by which bindgen reads PostgreSQL's headers.
BUILD_PACKAGES="build-essential clang libclang-dev pkg-config ca-certificates"
# What compiles PostgreSQL, and what it links with.
SOURCE_PACKAGES="build-essential bison flex perl pkg-config bzip2 xz-utils ca-certificates
    libreadline-dev zlib1g-dev libssl-dev liblz4-dev libzstd-dev libxml2-dev"

lists_updated=no
update_package_lists() {
    [ "$lists_updated" = no ] || return 0
    lists_updated=yes
    as_root apt-get update -qq >"$CACHE/apt.log" 2>&1 || note "apt-get update failed; going on with the lists that are there: $(last_words "$CACHE/apt.log")"
}

install_debian_packages() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$CACHE/apt.log" 2>&1
}

# install_missing_packages <name…>: on Debian, those that are not there; elsewhere it only looks for the programs. REASON if it fails.
install_missing_packages() {
    local missing="" name
    if ! command -v dpkg-query >/dev/null 2>&1; then
        for name in cc clang make "${@//*/}"; do
            if [ -n "$name" ] && ! command -v "$name" >/dev/null 2>&1; then missing="$missing $name"; fi
        done
        [ -z "$missing" ] && return
        REASON="missing, and this is not a Debian system:$missing"
        return 1
    fi
    for name in "$@"; do
        # shellcheck disable=SC2016
        case $(dpkg-query -W -f '${Status}' "$name" 2>/dev/null) in *'ok installed'*) ;; *) missing="$missing $name" ;; esac
    done
    [ -z "$missing" ] && return
    if ! can_be_root; then
        REASON="these Debian packages, which need root to install: apt-get install$missing"
        return 1
    fi
    update_package_lists
    # shellcheck disable=SC2086
    step "installing Debian packages:$missing" install_debian_packages $missing && return
    REASON="these Debian packages could not be installed:$missing ($(last_words "$CACHE/apt.log"))"
    return 1
}

check_rust() {
    local version
    version=$(cargo --version | sed -E 's/^cargo ([0-9]+\.[0-9]+).*/\1/')
    [ "$(printf '%s\n' "$RUST_LEAST" "$version" | sort -V | sed -n 1p)" = "$RUST_LEAST" ] ||
        die "cargo $version is too old" "Rust $RUST_LEAST or later is needed: https://rustup.rs"
    if [ "$1" = lint ]; then
        cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ||
            die "rustfmt or clippy is missing" "Run: rustup component add rustfmt clippy"
    fi
}

# Everything in Cargo.lock, so that what compiles afterwards needs no network, and a missing network is said here.
fetch_crates() {
    cd "$ROOT"
    cargo fetch --quiet --locked --offline 2>/dev/null && return
    step "fetching the crates that Cargo.lock names" cargo fetch --quiet --locked ||
        die "the crates could not be fetched" "Is there a network, and does cargo reach its registry? What is fetched once needs no network again."
}

make_user() {
    local user
    user=$(server_user)
    getent passwd "$user" >/dev/null && return
    say "creating the user $user to run servers"
    as_root useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin "$user"
}

# has_program <crate>: whether the system has the program of that crate: one of cargo's own, or one that is called by its name.
has_program() {
    case $1 in
        cargo-*) cargo "${1#cargo-}" --version >/dev/null 2>&1 ;;
        *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

# install_tool <crate> <version> <minutes> <options…>: builds a program with cargo into the cache, unless the system has one.
install_tool() {
    local crate=$1 version=$2 minutes=$3 home
    shift 3
    home="$CACHE/tools/$crate-$version"
    if has_program "$crate" || cached_tool "$crate" "$version"; then return; fi
    rm -rf "$home.partial"
    # What was compiled stays for the next try.
    CARGO_TARGET_DIR="$CACHE/tools/build" step "building $crate $version (about $minutes minutes, once)" \
        cargo install --quiet --locked --version "=$version" --root "$home.partial" "$@" "$crate" || return
    mv "$home.partial" "$home"
    rm -rf "$CACHE/tools/build"
}

main() {
    lock_cache
    install_missing_packages $BUILD_PACKAGES || die "what compiles the extension is missing" "$REASON"
    check_rust "$1"
    # The documents need no server.
    if [ "$1" != docs ]; then
        make_user
        say "looking for PostgreSQL"
        ensure_servers "$1"
    fi
    fetch_crates
    use_tools
    case $1 in
        test | soak)
            install_tool cargo-nextest "$NEXTEST_VERSION" 5 --no-default-features --features default-no-update ||
                die "cargo-nextest $NEXTEST_VERSION, which runs the tests, could not be built" "See https://nexte.st for other ways to install it."
            ;;
        lint)
            install_tool cargo-deny "$CARGO_DENY_VERSION" 6 || note "cargo-deny could not be built: licences and advisories are not looked at"
            ;;
        docs)
            install_tool mdbook "$MDBOOK_VERSION" 5 --no-default-features --features search ||
                die "mdbook $MDBOOK_VERSION, which builds the site, could not be built" "The pages in docs/ can be read without it."
            ;;
    esac
    # The servers' user must be able to enter every folder above the cache.
    if [ "$(id -u)" = 0 ]; then chmod 755 "$CACHE"; fi
}

# scripts/tests/servers.sh sources this file for its functions.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then main "${1:-test}"; fi
