#!/usr/bin/env bash
# Builds the extension with cargo alone, and installs it into PG_CONFIG's server, or into every server of a supported major that is
# there.
#   scripts/install.sh release   optimised, without failpoints: what users get; and spockctl beside it
#   scripts/install.sh test      with failpoints and the #[pg_test] functions
# What `cargo pgrx install` would do: build, write the version into the control file, put the SQL files together in the order of
# src/lib.rs, copy. tests/install.rs compares the SQL of both ways.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

KIND=${1:-release}

# The files that src/lib.rs names, in its order.
sql_files() { grep -o '"\.\./sql/[a-z0-9_]*\.sql"' src/lib.rs | tr -d '"' | sed 's#^\.\./##'; }

install_file() {
    local mode=$1 from=$2 to=$3 as=""
    # A packaged server belongs to root. Renamed into place: a server may be running the library that is there.
    [ -w "$(dirname "$to")" ] || as=as_root
    $as install -m "$mode" "$from" "$to.new" && $as mv -f "$to.new" "$to"
}

# What ALTER EXTENSION … UPDATE runs. cargo-pgrx copies the files of these names out of sql/ as well.
install_upgrades() {
    local extension=$1 script files=(sql/spock_recovery--*--*.sql)
    # The tests begin with the SQL of versions that were released.
    if [ "$KIND" = test ]; then files+=(tests/fixtures/spock_recovery--*.sql); fi
    for script in "${files[@]}"; do
        install_file 644 "$script" "$extension/$(basename "$script")" || return
    done
}

# Chained by &&: errexit does not hold in a function whose status is asked for.
install_into() {
    local major=$1 pg_config=$2 version library extension staged features="spock_recovery/pg$1" profile=debug options=()
    case $KIND in
        # In one call, which keeps both cores busy and compiles for both what they share.
        release) options=(--release --package spockctl --bins) profile=release ;;
        test) features="$features spock_recovery/failpoints spock_recovery/pg_test" ;;
    esac
    extension_cargo "$pg_config" build --locked --package spock_recovery --lib --no-default-features \
        --features "$features" ${options[@]+"${options[@]}"} || return
    version=$(cargo pkgid --locked --package spock_recovery | sed 's/.*[#@]//')
    library=$("$pg_config" --pkglibdir)
    extension=$("$pg_config" --sharedir)/extension
    staged=$TARGET/install-$major-$KIND
    # The library first: SQL of a new version must not meet an old library.
    # shellcheck disable=SC2046
    mkdir -p "$staged" &&
        sed "s/@CARGO_VERSION@/$version/" spock_recovery.control >"$staged/spock_recovery.control" &&
        cat $(sql_files) >"$staged/spock_recovery--$version.sql" &&
        install_file 755 "$TARGET/$profile/libspock_recovery.so" "$library/spock_recovery.so" &&
        install_file 644 "$staged/spock_recovery--$version.sql" "$extension/spock_recovery--$version.sql" &&
        install_upgrades "$extension" &&
        install_file 644 "$staged/spock_recovery.control" "$extension/spock_recovery.control"
}

case $KIND in release | test) ;; *) die "install.sh: \"$KIND\" is neither release nor test" ;; esac
TARGET=${CARGO_TARGET_DIR:-target}
installed=0
while read -r major pg_config; do
    step "compiling the extension ($KIND) for $("$pg_config" --version), and installing it (2 to 4 minutes the first time)" \
        install_into "$major" "$pg_config" </dev/null || die "the extension was not installed into $("$pg_config" --version)"
    installed=$((installed + 1))
done < <(servers_of install)
[ "$installed" -gt 0 ] || die "there is no PostgreSQL to install into" "Run make install, or give PG_CONFIG=…"
