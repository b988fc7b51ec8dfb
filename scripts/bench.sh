#!/usr/bin/env bash
# Installs the extension as users get it into the oldest wanted server, and measures it there: docs/performance.md says how
# to read what comes out, which also goes to target/bench/results.json.
#   scripts/bench.sh [scenario …]     SCENARIO=… does the same; without any, all
# QUICK=1 measures one pair of each on less data; PAIRS=5 measures five pairs. GROWTH=1 measures the curves instead (gap,
# retained_wal, peers, databases): target/bench/growth.json and growth.svg.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

scenarios=("$@")
if [ -n "${SCENARIO:-}" ]; then read -r -a scenarios <<<"$SCENARIO"; fi
read -r _ pg_config < <(servers_of bench) || die "there is no PostgreSQL" "Run make bench, or give PG_CONFIG=…"
PG_CONFIG=$pg_config scripts/install.sh release
step "compiling the benchmark" cargo build --locked --quiet --release --package spock_recovery_bench
say "measuring"
TARGET=${CARGO_TARGET_DIR:-target}
options=(--pg-config "$pg_config" --output "$TARGET/bench/results.json")
if [ "${QUICK:-0}" = 1 ]; then options+=(--quick); fi
if [ "${GROWTH:-0}" = 1 ]; then options+=(--growth); fi
if [ -n "${PAIRS:-}" ]; then options+=(--pairs "$PAIRS"); fi
exec "$TARGET/release/spock_recovery_bench" "${options[@]}" "${scenarios[@]}"
