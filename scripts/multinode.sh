#!/usr/bin/env bash
# Runs the multi-node tests against the server of one pg_config, in which the extension was installed for tests.
#   scripts/multinode.sh <pg_config> [words in tests' names …]
# What this server or this call cannot run is left out by name, and said: no test passes without having run.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

# Several times what a run takes, so that a test that hangs ends the run and not the patience of CI.
LIMIT=${MULTINODE_LIMIT:-25m}

pg_config=$1
shift
left_out=()
leave_out() {
    left_out+=(--skip "$1")
    note "left out: $1 ($2)"
}
major=$(pg_major "$pg_config")
[ "$major" -ge 18 ] || leave_out an_installed_extension_spock "needs extension_control_path of PostgreSQL 18"
[ "$major" -ge 18 ] || leave_out virtual_columns_are_computed "needs virtual columns of PostgreSQL 18"
if [ "$major" -lt 18 ]; then
    leave_out survives_pg_upgrade "runs with 18, after 17"
elif ! old=$(PG_CONFIG='' find_pg_config 17) || [ ! -f "$("$old" --sharedir)/extension/spock_recovery.control" ]; then
    leave_out survives_pg_upgrade "needs PostgreSQL 17 with the extension beside 18"
fi
binary=$(cargo test --quiet --package spock_recovery_tests --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
# Servers wait more than they compute. In the foreground: an interrupt typed at the terminal reaches the tests.
SPOCK_RECOVERY_PG_CONFIG=$pg_config timeout --foreground --kill-after=30s "$LIMIT" \
    "$binary" --test-threads="$(($(nproc) * 2))" "${left_out[@]}" "$@"
