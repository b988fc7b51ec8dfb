#!/usr/bin/env bash
# Installs the extension as users get it into one server, and runs `spockctl demo --crash` there: a node is lost and
# recovered. KEEP=1 leaves the servers running.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

read -r _ pg_config < <(servers_of demo) || die "there is no PostgreSQL" "Run make demo, or give PG_CONFIG=…"
PG_CONFIG=$pg_config scripts/install.sh release
say "the demo"
options=(--crash --pg-config "$pg_config")
if [ "${KEEP:-0}" = 1 ]; then options+=(--keep); fi
exec "${CARGO_TARGET_DIR:-target}/release/spockctl" demo "${options[@]}"
