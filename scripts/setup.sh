#!/usr/bin/env bash
# All set-up that `make demo`, `make test` and the other targets need; does nothing where all is there.
#   scripts/setup.sh             packages, servers, cargo-pgrx, user
# PG_CONFIG=… uses that server alone, PG=NN one major, SPOCK_RECOVERY_CACHE=… another cache folder.
. "$(dirname "$0")/lib.sh"

# PostgreSQL's makefiles make their generated headers only when they are the outermost make.
unset MAKELEVEL MAKEFLAGS MFLAGS MAKEOVERRIDES

# What compiles PostgreSQL, what bindgen needs, and what PostgreSQL links with.
PACKAGES="build-essential clang libclang-dev bison flex perl pkg-config xz-utils ca-certificates
    libreadline-dev zlib1g-dev libssl-dev liblz4-dev libzstd-dev libxml2-dev"

# Two calls at once (a second terminal, a CI job) must not build into the same folder.
lock_cache() {
    mkdir -p "$CACHE" 2>/dev/null || as_root install -d -o "$(id -u)" "$CACHE"
    [ -w "$CACHE" ] || die "the cache folder $CACHE is not writable" "Set SPOCK_RECOVERY_CACHE to a folder that is."
    exec 9>"$CACHE/.lock"
    flock -n 9 || { note "another set-up is running; waiting for it"; flock 9; }
}

install_packages() {
    if ! command -v dpkg-query >/dev/null 2>&1; then
        for tool in cc clang bison flex perl pkg-config make xz; do
            command -v "$tool" >/dev/null 2>&1 || die "$tool is missing, and this is not a Debian system" \
                "Install a C compiler, clang with libclang, bison, flex, perl, pkg-config, make and xz by hand."
        done
        return
    fi
    local missing="" package
    for package in $PACKAGES; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -z "$missing" ] && return
    say "installing Debian packages:$missing"
    as_root apt-get update -qq || die "apt-get update failed" "Check the package sources of this machine."
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >"$CACHE/apt.log" 2>&1 ||
        { tail -n 20 "$CACHE/apt.log" >&2; die "these Debian packages could not be installed:$missing"; }
}

check_rust() {
    command -v cargo >/dev/null 2>&1 || die "cargo is missing" "Install a Rust toolchain (1.95 or later, from https://rustup.rs)."
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ||
        note "rustfmt or clippy is missing: make lint will not run (rustup component add rustfmt clippy)"
}

make_user() {
    local user
    user=$(server_user)
    getent passwd "$user" >/dev/null && return
    say "creating the user $user to run servers"
    as_root useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin "$user"
}

# Debian's suite that carries a major's source package (packages.debian.org/source/postgresql-NN).
suite_of_major() {
    case $1 in
        17) printf 'trixie\n' ;;
        18) printf 'forky\n' ;;
    esac
}

# Debian's source package of a major, from the mirror that this machine already uses: the orig tarball is plain upstream.
download_source() {
    local major=$1 into=$2 mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg apt
    command -v apt-get >/dev/null 2>&1 || die "PostgreSQL $major is not installed and there is no apt-get to fetch its source" \
        "Install PostgreSQL $major with its headers, and give its pg_config: make $MAKE_GOAL PG_CONFIG=/path/to/pg_config"
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' | awk '$1 == "Debian" && $2 == "Debian" { print $3; exit }')
    if [ -z "$mirror" ]; then
        as_root apt-get update -qq
        mirror=$(apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' | awk '$1 == "Debian" && $2 == "Debian" { print $3; exit }')
    fi
    [ -n "$mirror" ] || die "no Debian mirror is configured on this machine, so the source of PostgreSQL $major cannot be had" \
        "Install PostgreSQL $major with its headers, and give its pg_config: make $MAKE_GOAL PG_CONFIG=/path/to/pg_config"
    [ -f "$keyring" ] || die "$keyring is missing" "Install the package debian-archive-keyring."
    mkdir -p "$into/sources" "$into/lists/partial" "$into/cache/archives/partial"
    printf 'Types: deb-src\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' \
        "$mirror" "$(suite_of_major "$major")" "$keyring" >"$into/sources/debian.sources"
    apt="apt-get -qq -o Dir::Etc::sourceparts=$into/sources -o Dir::Etc::sourcelist=/dev/null
        -o Dir::State::lists=$into/lists -o Dir::Cache=$into/cache -o APT::Sandbox::User=$(id -un)"
    # shellcheck disable=SC2086
    (cd "$into" && $apt update && $apt source --download-only "postgresql-$major") >"$into/apt.log" 2>&1 ||
        { tail -n 20 "$into/apt.log" >&2; die "the source of PostgreSQL $major could not be fetched from $mirror"; }
}

# Installs below a folder of its own first, so that an interrupted installation is never taken for a whole one. Chained by
# &&: errexit does not hold in a function whose status is asked for.
compile_server() {
    local work=$1 prefix=$2 part
    cd "$work/src" &&
        ./configure --quiet --prefix="$prefix" --without-icu --with-openssl --with-lz4 --with-zstd --with-libxml &&
        make -s -j"$(nproc)" &&
        make -s -C contrib -j"$(nproc)" &&
        rm -rf "$work/root" || return 1
    for part in . contrib src/test/regress src/test/isolation; do
        make -s -C "$part" all && make -s -C "$part" install DESTDIR="$work/root" || return 1
    done
}

build_server() {
    local major=$1 work="$CACHE/build-$1" tarball version
    say "building PostgreSQL $major from Debian's source package (about 5 minutes, once)"
    rm -rf "$work"
    mkdir -p "$work"
    download_source "$major" "$work"
    tarball=$(find "$work" -maxdepth 1 -name "postgresql-${major}_*.orig.tar.*" ! -name '*.asc' | head -n 1)
    version=$(basename "$tarball" | sed -E 's/^[^_]*_([0-9.]+)\.orig.*/\1/')
    note "source of $version is here; compiling"
    mkdir "$work/src"
    tar -xf "$tarball" -C "$work/src" --strip-components=1
    (compile_server "$work" "$CACHE/pg-$version") >"$work/build.log" 2>&1 ||
        { tail -n 30 "$work/build.log" >&2; die "PostgreSQL $version did not build; the log is $work/build.log"; }
    rm -rf "$CACHE/pg-$version"
    mv "$work/root$CACHE/pg-$version" "$CACHE/pg-$version"
    # The source stays: it is PostgreSQL's best documentation. Objects and lists go.
    make -s -C "$work/src" clean >/dev/null 2>&1 || true
    rm -rf "$work/root" "$work/lists" "$work/cache"
    note "PostgreSQL $version is in $CACHE/pg-$version"
}

install_cargo_pgrx() {
    local home="$CACHE/cargo-pgrx-$PGRX_VERSION"
    [ -x "$home/bin/cargo-pgrx" ] && return
    say "building cargo-pgrx $PGRX_VERSION (about 5 minutes, once)"
    # cargo moves the binary into place only when it is whole, and keeps what was compiled for the next try.
    CARGO_TARGET_DIR="$CACHE/cargo-pgrx-build" cargo install --quiet --locked --version "=$PGRX_VERSION" --root "$home" cargo-pgrx ||
        die "cargo-pgrx $PGRX_VERSION could not be built"
    rm -rf "$CACHE/cargo-pgrx-build"
}

# What `cargo pgrx init` would write, without the initdb that it would run as root.
configure_pgrx() {
    local major config
    mkdir -p "$CACHE/pgrx"
    {
        printf '[configs]\n'
        for major in $MAJORS; do
            if [ -n "${PG_CONFIG:-}" ] && [ "$(pg_major "$PG_CONFIG")" = "$major" ]; then
                printf 'pg%s = "%s"\n' "$major" "$PG_CONFIG"
            elif config=$(PG_CONFIG='' find_pg_config "$major"); then
                printf 'pg%s = "%s"\n' "$major" "$config"
            fi
        done
    } >"$CACHE/pgrx/config.toml.new"
    if cmp -s "$CACHE/pgrx/config.toml.new" "$CACHE/pgrx/config.toml"; then
        rm "$CACHE/pgrx/config.toml.new"
    else
        mv "$CACHE/pgrx/config.toml.new" "$CACHE/pgrx/config.toml"
    fi
}

MAKE_GOAL=${1:-test}
lock_cache
install_packages
check_rust
make_user
for major in $(wanted_majors); do
    find_pg_config "$major" >/dev/null || build_server "$major"
done
install_cargo_pgrx
configure_pgrx
# The servers' user must be able to enter every folder above the cache.
if [ "$(id -u)" = 0 ]; then chmod 755 "$CACHE"; fi
