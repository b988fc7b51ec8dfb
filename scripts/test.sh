#!/usr/bin/env bash
# Every test: pure unit tests once, then per major the extension's #[pg_test] functions, pg_regress and the multi-node tests.
# A phase that fails does not keep the next from running. The last line is `N passed, N failed`, over everything;
# a phase that failed without a failed test (it did not build, or hung) counts as one failure.
# Arguments go to the test binary: scripts/test.sh harness runs what has that in its name.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
use_pgrx

LOGS=${CARGO_TARGET_DIR:-target}/test-phases
FILTERS=("$@")

mkdir -p "$LOGS"
passed=0
failed=0
broken=()

# Sums libtest's results and those of the two runners (tests/pg_tests.rs, tests/regress.rs) in a phase's output: `passed failed`.
counts() {
    awk '
        match($0, /[0-9]+ passed; [0-9]+ failed/) { split(substr($0, RSTART, RLENGTH), n, " "); p += n[1]; f += n[3] }
        match($0, /(pg_test|pg_regress): [0-9]+ passed, [0-9]+ failed/) { split(substr($0, RSTART, RLENGTH), n, " "); p += n[2]; f += n[4] }
        END { print p + 0, f + 0 }' "$1"
}

# phase <name> <command…>: runs it, shows its output, says how long it took, adds up its tests.
phase() {
    local name=$1 log begun=$SECONDS status=0 p f
    shift
    log="$LOGS/${name//[^a-zA-Z0-9]/_}.log"
    say "$name"
    "$@" 2>&1 | tee "$log" || status=$?
    read -r p f < <(counts "$log")
    if [ "$status" != 0 ]; then
        broken+=("$name")
        if [ "$f" = 0 ]; then f=1; fi
    fi
    passed=$((passed + p))
    failed=$((failed + f))
    note "$name: $((SECONDS - begun)) s$([ "$status" = 0 ] || printf ', FAILED (status %s)' "$status")"
    return "$status"
}

unit_tests() {
    local major
    major=$(wanted_majors | head -n 1)
    cargo test --quiet --package spock_recovery --lib --no-default-features --features "pg$major" &&
        cargo test --quiet --package spockctl --lib
}

build_tests() {
    cargo test --quiet --package spock_recovery_tests --no-run
}

phase "unit tests" unit_tests || true
if phase "build of the multi-node tests" build_tests; then
    for major in $(wanted_majors); do
        pg_config=$(find_pg_config "$major") || die "there is no PostgreSQL $major" "Run make test, or give PG_CONFIG=…"
        phase "extension for PostgreSQL $major" env PG_CONFIG="$pg_config" scripts/install.sh test &&
            phase "tests on PostgreSQL $major" scripts/multinode.sh "$pg_config" "${FILTERS[@]}" || true
    done
fi

note "everything: $SECONDS s"
for name in "${broken[@]}"; do
    note "failed: $name (its output: $LOGS/${name//[^a-zA-Z0-9]/_}.log)"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
