#!/usr/bin/env bash
# The multi-node tests SOAK_ROUNDS times (5) on each wanted major, with longer histories of random kills (SOAK_KILLS, 100) and
# larger transactions (SOAK_ROWS, 1000000 rows), to catch what fails now and then. SOAK_SEED repeats the moments of a round,
# SEEDS=100-199 plays those random histories, YOUNG=1 each on a mesh of that second, REBUILDS=1 with lost slots and rebuilds, CONVERGENCE_JOBS=6 so many of them side by
# side; TESTS=convergence runs the tests alone whose names hold one of these words.
# Reports each round; fails if one failed.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

ROUNDS=${SOAK_ROUNDS:-5}
export SOAK_KILLS=${SOAK_KILLS:-100}
# Random histories: one seed or a range.
[ -z "${SEEDS:-}" ] || export CONVERGENCE_SEEDS=$SEEDS
[ -z "${YOUNG:-}" ] || export CONVERGENCE_YOUNG=$YOUNG
[ -z "${REBUILDS:-}" ] || export CONVERGENCE_REBUILDS=$REBUILDS
export SOAK_ROWS=${SOAK_ROWS:-1000000}
export NEXTEST_PROFILE=soak
case $ROUNDS in '' | *[!0-9]* | 0) die "SOAK_ROUNDS=$ROUNDS is no number of rounds" ;; esac

LOGS=${CARGO_TARGET_DIR:-target}/soak
mkdir -p "$LOGS"
bad=0
mapfile -t servers < <(servers_of soak)
[ "${#servers[@]}" -gt 0 ] || die "there is no PostgreSQL" "Run make soak, or give PG_CONFIG=…"
for server in "${servers[@]}"; do
    read -r major pg_config <<<"$server"
    PG_CONFIG=$pg_config scripts/install.sh test
    for ((round = 1; round <= ROUNDS; round++)); do
        begun=$SECONDS
        log="$LOGS/$major-$round.log"
        # shellcheck disable=SC2086 # words
        if scripts/multinode.sh "$pg_config" ${TESTS:-} "$@" >"$log" 2>&1; then
            note "PostgreSQL $major, round $round of $ROUNDS: passed in $((SECONDS - begun)) s"
        else
            bad=$((bad + 1))
            note "PostgreSQL $major, round $round of $ROUNDS: FAILED; output: $log"
        fi
    done
done
say "soak: $bad failed rounds"
[ "$bad" = 0 ]
