# Shared by the scripts behind the Makefile: where the cache is, who runs servers, how a step is announced.
# Sourced, never run. Every script is safe to interrupt and to run again: a step that takes long writes
# into a *.partial folder and is renamed when it is complete.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PGRX_VERSION=0.18.0
MAJORS="17 18"

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

# The majors of this call: PG_CONFIG's own, PG's, or all.
wanted_majors() {
    if [ -n "${PG_CONFIG:-}" ]; then
        pg_major "$PG_CONFIG"
    elif [ -n "${PG:-}" ]; then
        case " $MAJORS " in
            *" $PG "*) printf '%s\n' "$PG" ;;
            *) die "PG=$PG is not supported" "Supported majors: $MAJORS." ;;
        esac
    else
        printf '%s\n' $MAJORS
    fi
}

pg_major() {
    local version
    version=$("$1" --version 2>/dev/null) || die "PG_CONFIG=$1 cannot be run" "Give the path of a pg_config."
    version=${version#PostgreSQL }
    case " $MAJORS " in
        *" ${version%%[.a-z]*} "*) printf '%s\n' "${version%%[.a-z]*}" ;;
        *) die "PostgreSQL $version of $1 is not supported" "Supported majors: $MAJORS." ;;
    esac
}

# A server can be used if it has its headers, its server programs and its test driver's prerequisites.
usable_server() {
    [ -x "$1" ] && [ -f "$("$1" --includedir-server)/postgres.h" ] && [ -x "$("$1" --bindir)/initdb" ]
}

# pg_config of a major: the caller's own, the system's, or the one built into the cache. Fails if there is none.
find_pg_config() {
    local candidate
    if [ -n "${PG_CONFIG:-}" ]; then
        usable_server "$PG_CONFIG" || die "the server of PG_CONFIG=$PG_CONFIG lacks its headers or initdb" \
            "Install its development package (on Debian postgresql-server-dev-NN), or leave PG_CONFIG out."
        printf '%s\n' "$PG_CONFIG"
        return
    fi
    for candidate in "/usr/lib/postgresql/$1/bin/pg_config" "$CACHE"/pg-"$1".*/bin/pg_config; do
        if usable_server "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

# cargo-pgrx and its configuration live in the cache, so that a user's own ~/.pgrx is left alone.
use_pgrx() {
    export PATH="$CACHE/cargo-pgrx-$PGRX_VERSION/bin:$PATH"
    export PGRX_HOME="$CACHE/pgrx"
}
