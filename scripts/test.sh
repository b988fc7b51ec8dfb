#!/usr/bin/env bash
# Every test: set-up's decisions and the pure unit tests once, then per major the extension's #[pg_test] functions, pg_regress and
# the multi-node tests. A phase that fails does not keep the next from running. The summary says which servers were used, which
# major could not be had, and what did not run; the last line is `N passed, N failed`, over everything. A phase that failed
# without a failed test (it did not build) counts as one failure, and so does a major that could not be had under CI=true.
# Arguments are words in tests' names: scripts/test.sh harness runs what has that in its name.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
use_tools

LOGS=${CARGO_TARGET_DIR:-target}/test-phases
FILTERS=("$@")

mkdir -p "$LOGS"
STARTED=$LOGS/started
touch "$STARTED"
passed=0
failed=0
summary=()

# counts <file>: what a phase's output tells of its tests: `passed failed`. nextest ends with a line of sums; where it was killed
# before that, the lines of single tests count, as they came. tests/pg_tests.rs, tests/regress.rs and scripts/tests/ write sums of
# their own.
counts() {
    sed 's/\x1b\[[0-9;]*m//g' "$1" | awk '
        function number(pattern) { return match($0, pattern) ? substr($0, RSTART, RLENGTH) + 0 : 0 }
        /^ +(PASS|LEAK) \[/ { p++ }
        /^ +(FAIL|TIMEOUT|ABORT|SIG[A-Z]+) \[/ { f++ }
        /^ +Summary \[/ { p = number("[0-9]+ passed"); f = number("[0-9]+ failed") + number("[0-9]+ timed out") + number("[0-9]+ exec failed"); sum_p += p; sum_f += f; p = f = 0; ended = 1; next }
        ended && /^ +(PASS|LEAK|FAIL|TIMEOUT|ABORT|SIG[A-Z]+) \[/ { p = f = 0 }
        match($0, /(pg_test|pg_regress|set-up): [0-9]+ passed, [0-9]+ failed/) { split(substr($0, RSTART, RLENGTH), n, " "); sum_p += n[2]; sum_f += n[4] }
        END { print sum_p + p, sum_f + f }'
}

# reasons <file>: what the tests that failed have said, each in a few lines, for whoever sees the end of the output alone.
reasons() {
    sed 's/\x1b\[[0-9;]*m//g' "$1" | awk '
        /panicked at / { left = 6 }
        /stack backtrace:|^ *$/ { left = 0 }
        left > 0 && said < 60 { print; left--; said++ }' | cut -c 1-400
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
        if [ "$f" = 0 ]; then f=1; fi
        summary+=("FAILED: $name (its output: $log)")
    fi
    passed=$((passed + p))
    failed=$((failed + f))
    note "$name: $p passed, $f failed in $(took "$begun")"
    return "$status"
}

unit_tests() {
    local major pg_config
    read -r major pg_config < <(servers_of test)
    extension_cargo "$pg_config" nextest run --locked --package spock_recovery --lib --no-default-features --features "pg$major" \
        --status-level fail --show-progress none &&
        cargo nextest run --locked --package spockctl --package spock_recovery_cluster --lib --status-level fail --show-progress none
}

build_tests() { cargo nextest run --locked --package spock_recovery_tests --no-run; }

server_kind() { if is_prebuilt "$1"; then printf ' (prebuilt: without TLS, lz4, ICU and regression modules)'; fi; }

phase "set-up's decisions" scripts/tests/servers.sh || true
phase "unit tests" unit_tests || true
built=no
if phase "build of the multi-node tests" build_tests; then built=yes; fi
mapfile -t servers < <(servers_of test)
for server in ${servers[@]+"${servers[@]}"}; do
    read -r major pg_config <<<"$server"
    summary+=("ran on $("$pg_config" --version)$(server_kind "$pg_config"), $pg_config")
    if [ "$built" = yes ] &&
        phase "extension for PostgreSQL $major" env PG_CONFIG="$pg_config" scripts/install.sh test; then
        phase "tests on PostgreSQL $major" scripts/multinode.sh "$pg_config" "${FILTERS[@]}" || true
    fi
done
plan test
for major in $GOAL_MAJORS; do
    case " ${PG_CONFIG:+$major} ${servers[*]%% *} " in
        *" $major "*) ;;
        *)
            summary+=("*** NOT RUN on PostgreSQL $major: no server could be had (make test says why at its beginning) ***")
            if [ "${CI:-}" = true ]; then failed=$((failed + 1)); fi
            ;;
    esac
done

say "summary"
for line in "${summary[@]}"; do
    note "$line"
    case $line in FAILED:*"its output: "*) log=${line##*its output: } && reasons "${log%)}" ;; esac
done
for log in "$LOGS"/tests_on_PostgreSQL_*.log; do
    [ -f "$log" ] && [ "$log" -nt "$STARTED" ] && { grep -E '^ +(left out|did not run): ' "$log" || true; }
done
note "everything: $(took 0)"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
