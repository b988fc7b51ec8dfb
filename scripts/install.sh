#!/usr/bin/env bash
# Builds the extension and installs it into PG_CONFIG's server, or into the server of each wanted major.
#   scripts/install.sh release   optimised, without failpoints: what users get
#   scripts/install.sh test      with failpoints and the #[pg_test] functions
. "$(dirname "$0")/lib.sh"
use_pgrx
cd "$ROOT"

KIND=${1:-release}
for major in $(wanted_majors); do
    pg_config=$(find_pg_config "$major") || die "there is no PostgreSQL $major" "Run scripts/setup.sh, or give PG_CONFIG=…"
    case $KIND in
        release) options=(--release --features "pg$major") ;;
        test) options=(--features "pg$major failpoints pg_test") ;;
        *) die "install.sh: \"$KIND\" is neither release nor test" ;;
    esac
    # A packaged server belongs to root.
    if [ ! -w "$("$pg_config" --pkglibdir)" ] || [ ! -w "$("$pg_config" --sharedir)/extension" ]; then options+=(--sudo); fi
    say "building the extension ($KIND) for $("$pg_config" --version) and installing it"
    cargo pgrx install --pg-config "$pg_config" --no-default-features "${options[@]}"
done
