# Shared by the scripts behind the Makefile: where the cache is, who runs servers, how a step is announced.
# Sourced, never run. Every script is safe to interrupt and to run again: a step that takes long writes
# into a *.partial folder, which is renamed when it is complete.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$ROOT/scripts/versions.sh"
. "$ROOT/scripts/servers.sh"

# A home that only root may enter is no place for servers that run as another user.
if [ -n "${SPOCK_RECOVERY_CACHE:-}" ]; then
    CACHE=$SPOCK_RECOVERY_CACHE
elif [ "$(id -u)" = 0 ]; then
    CACHE=/var/cache/spock_recovery
else
    CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/spock_recovery
fi

say() { printf '==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '       %s\n' "$line" >&2; done
    exit 1
}

# took <start>: how long a step took that began at $SECONDS = <start>.
took() {
    local seconds=$((SECONDS - $1))
    if [ "$seconds" -lt 100 ]; then printf '%s s' "$seconds"; else printf '%s min %s s' $((seconds / 60)) $((seconds % 60)); fi
}

# step <what> <command…>: says what is done, does it, and says how long it took. errexit does not hold inside the command.
step() {
    local what=$1 begun=$SECONDS
    shift
    say "$what"
    "$@" || return
    note "done in $(took "$begun")"
}

can_be_root() { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo -- "$@"
    else
        die "this step needs root: $*" "Run it as root, or install sudo, and start again."
    fi
}

# The user that servers run as: PostgreSQL refuses to run as root.
server_user() {
    if [ "$(id -u)" != 0 ]; then
        id -un
    elif [ -n "${SPOCK_RECOVERY_USER:-}" ]; then
        printf '%s\n' "$SPOCK_RECOVERY_USER"
    elif getent passwd postgres >/dev/null; then
        printf 'postgres\n'
    else
        printf 'spock_recovery\n'
    fi
}

# Two calls at once (a second terminal, a CI job) must not build into the same folder.
lock_cache() {
    mkdir -p "$CACHE" 2>/dev/null || as_root install -d -o "$(id -u)" "$CACHE"
    [ -w "$CACHE" ] || die "the cache folder $CACHE is not writable" "Set SPOCK_RECOVERY_CACHE to a folder that is."
    exec 9>"$CACHE/.lock"
    flock -n 9 || { note "another set-up is running; waiting for it"; flock 9; }
}

# extension_cargo <pg_config> <cargo arguments…>: cargo for the extension, against that server's headers. Cargo alone: pgrx needs no
# configuration of its own where this variable names the server.
extension_cargo() {
    local pg_config=$1
    shift
    PGRX_PG_CONFIG_PATH=$pg_config cargo "$@"
}

# A program that cargo installs into the cache, if it is there.
cached_tool() { [ -x "$CACHE/tools/$1-$2/bin/$1" ]; }

# What `cargo nextest`, `cargo deny` and `mdbook` find first is the system's own; else the cache's, which setup.sh has built.
use_tools() {
    export PATH="$PATH:$CACHE/tools/cargo-nextest-$NEXTEST_VERSION/bin:$CACHE/tools/cargo-deny-$CARGO_DENY_VERSION/bin:$CACHE/tools/mdbook-$MDBOOK_VERSION/bin"
}

# The toolchain that rust-toolchain.toml names may be one that cannot be had now, where another one would do.
use_rust() {
    local pinned
    command -v cargo >/dev/null 2>&1 ||
        die "cargo is missing" "Install a Rust toolchain, $RUST_LEAST or later: https://rustup.rs"
    command -v rustup >/dev/null 2>&1 || return 0
    [ -z "${RUSTUP_TOOLCHAIN:-}" ] || return 0
    pinned=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$ROOT/rust-toolchain.toml")
    case $'\n'$(rustup toolchain list 2>/dev/null) in *$'\n'"$pinned-"*) return 0 ;; esac
    if (cd "$ROOT" && rustup toolchain install --no-self-update --profile minimal "$pinned" -c rustfmt -c clippy) >/dev/null 2>&1; then
        return 0
    fi
    RUSTUP_TOOLCHAIN=$(rustup default 2>/dev/null | sed 's/ .*//')
    [ -n "$RUSTUP_TOOLCHAIN" ] ||
        die "Rust $pinned is not installed and could not be fetched, and there is no other toolchain" "Run: rustup toolchain install $pinned"
    export RUSTUP_TOOLCHAIN
    note "Rust $pinned could not be fetched; using $RUSTUP_TOOLCHAIN, which is there"
}
use_rust
