#!/usr/bin/env bash
# The multi-node tests SOAK_ROUNDS times (5) on each wanted major, to catch what fails now and then. There are no long
# randomised runs of its own yet, but kill -9 comes SOAK_KILLS times (100) where a test kills at random. Reports each round; fails if one failed.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

ROUNDS=${SOAK_ROUNDS:-5}
export SOAK_KILLS=${SOAK_KILLS:-100}
case $ROUNDS in '' | *[!0-9]* | 0) die "SOAK_ROUNDS=$ROUNDS is no number of rounds" ;; esac

cargo test --quiet --package spock_recovery_tests --no-run
bad=0
for major in $(wanted_majors); do
    pg_config=$(find_pg_config "$major") || die "there is no PostgreSQL $major" "Run make soak, or give PG_CONFIG=…"
    PG_CONFIG=$pg_config scripts/install.sh test
    for ((round = 1; round <= ROUNDS; round++)); do
        begun=$SECONDS
        log="${CARGO_TARGET_DIR:-target}/soak-$major-$round.log"
        if SPOCK_RECOVERY_PG_CONFIG=$pg_config cargo test --quiet --package spock_recovery_tests -- \
            --test-threads="$(($(nproc) * 2))" >"$log" 2>&1; then
            note "PostgreSQL $major, round $round of $ROUNDS: passed in $((SECONDS - begun)) s"
        else
            bad=$((bad + 1))
            note "PostgreSQL $major, round $round of $ROUNDS: FAILED; output: $log"
        fi
    done
done
say "soak: $bad failed rounds"
[ "$bad" = 0 ]
