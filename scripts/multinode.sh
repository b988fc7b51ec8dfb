#!/usr/bin/env bash
# Runs the multi-node tests against the server of one pg_config, in which the extension was installed for tests.
#   scripts/multinode.sh <pg_config> [words in tests' names …]
# What this server or this call cannot run is left out by name, and said: no test passes without having run. Each test has a
# deadline of its own (.config/nextest.toml).
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
use_tools

pg_config=$1
shift
major=$(pg_major "$pg_config")
filter="all()"
leave_out() {
    filter="$filter - test(/$1/)"
    note "left out: $1 ($2)"
}
[ "$major" -ge 18 ] || leave_out an_installed_extension_spock "needs extension_control_path of PostgreSQL 18"
[ "$major" -ge 18 ] || leave_out virtual_columns_are_computed "needs virtual columns of PostgreSQL 18"
if [ "$major" -lt 18 ]; then
    leave_out survives_pg_upgrade "runs with 18, after 17"
elif ! { PG_CONFIG='' && plan test && find_there 17; } || [ ! -f "$("$PG_CONFIG_FOUND" --sharedir)/extension/spock_recovery.control" ]; then
    leave_out survives_pg_upgrade "needs PostgreSQL 17 with the extension beside 18"
fi

# What a server was configured without, as the prebuilt ones are.
configured=$("$pg_config" --configure)
case $configured in *--with-libxml*) ;; *) leave_out '^parity::(types|encodings)::' "needs a server with libxml" ;; esac
[ -x "$("$pg_config" --bindir)/vacuumlo" ] || leave_out outlives_vacuumlo "needs a server with vacuumlo"
{ command -v barman && command -v rsync; } >/dev/null || leave_out '^backup::barman' "needs barman 3.19 and rsync in PATH"
case $configured in *--with-lz4*) ;; *) leave_out '^parity::columns::' "needs a server with lz4" ;; esac

# Data directories come and go by the hundred, and a file system on a disk spends more time on that than the servers on their work:
# they are in memory where there is plenty of it.
has_gigabytes() { [ "$(($1 / 1024 / 1024))" -ge 8 ]; }
if [ -z "${SPOCK_RECOVERY_TMP:-}" ] && [ "$(stat --file-system --format=%T /dev/shm 2>/dev/null)" = tmpfs ] && [ -w /dev/shm ] &&
    has_gigabytes "$(df --output=avail /dev/shm | tail -n 1)" && has_gigabytes "$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)"; then
    export SPOCK_RECOVERY_TMP=/dev/shm
    note "data directories are in memory, in /dev/shm (SPOCK_RECOVERY_TMP=/tmp puts them on the disk)"
fi

# One test more than cores, three servers and more each, for they wait half of the time. Their workers look and poll ten times a
# second: with a load of 40 on two cores a test of 9 s took 400 s.
export NEXTEST_TEST_THREADS=${NEXTEST_TEST_THREADS:-$(($(nproc) + 1))}
export SPOCK_RECOVERY_PG_CONFIG=$pg_config
selection=(--locked --package spock_recovery_tests --filterset "$filter" "$@")
results=$(mktemp)
trap 'rm -f "$results"' EXIT
status=0
# A word that no test has is an empty run, which is an error.
cargo nextest run "${selection[@]}" --profile "${NEXTEST_PROFILE:-default}" 2>&1 | tee "$results" || status=$?

# What was chosen and has no result, by name: nextest tells how many.
missing=$(comm -23 <(cargo nextest list "${selection[@]}" --message-format oneline --cargo-quiet 2>/dev/null | awk '{ print $NF }' | sort -u) \
    <(sed 's/\x1b\[[0-9;]*m//g' "$results" | awk '/^ +(PASS|LEAK|FAIL|TIMEOUT|ABORT|SIG[A-Z]+) +\[/ { print $NF }' | sort -u))
for name in $missing; do note "did not run: $name"; done
if [ "$status" = 0 ] && [ -n "$missing" ]; then status=1; fi
exit "$status"
