#!/usr/bin/env bash
# rustfmt, clippy and rustdoc without a warning, for every supported major, licences and advisories, the documents' links and
# tables, and the pure unit tests. Stops at the first failure.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
use_tools

mapfile -t servers < <(servers_of lint)
[ "${#servers[@]}" -gt 0 ] || die "there is no PostgreSQL, whose headers lint needs" "Run make lint, or give PG_CONFIG=…"
say "rustfmt"
cargo fmt --all --check
if command -v shellcheck >/dev/null 2>&1; then
    say "shellcheck"
    shellcheck --severity=warning --shell=bash --exclude=SC2034 scripts/*.sh scripts/tests/*.sh
fi
say "clippy"
cargo clippy --locked --quiet --package spockctl --package spock_recovery_cluster --package spock_recovery_bench --package spock_recovery_tests --all-targets -- -D warnings
export RUSTDOCFLAGS="-D warnings"
for server in "${servers[@]}"; do
    read -r major pg_config <<<"$server"
    # With and without what only tests compile.
    say "clippy and rustdoc for PostgreSQL $major"
    of_major=(--locked --quiet --package spock_recovery --no-default-features)
    extension_cargo "$pg_config" clippy "${of_major[@]}" --all-targets --features "pg$major" -- -D warnings
    extension_cargo "$pg_config" clippy "${of_major[@]}" --all-targets --features "pg$major failpoints pg_test" -- -D warnings
    extension_cargo "$pg_config" doc "${of_major[@]}" --lib --no-deps --document-private-items --features "pg$major"
done
cargo doc --locked --quiet --package spockctl --package spock_recovery_cluster --lib --no-deps --document-private-items
if cargo deny --version >/dev/null 2>&1; then
    say "licences, sources and bans of crates"
    cargo deny --offline --log-level error check licenses bans sources
    say "advisories"
    if cargo deny --log-level error fetch db >/dev/null 2>&1; then
        cargo deny --offline --log-level error check advisories
    else
        note "not looked at: the database of advisories cannot be had here"
    fi
fi
say "the documents' links and tables"
cargo test --locked --quiet --package spock_recovery_tests --test manual
say "unit tests"
read -r major pg_config <<<"${servers[0]}"
extension_cargo "$pg_config" test --locked --quiet --package spock_recovery --lib --no-default-features --features "pg$major"
cargo test --locked --quiet --package spockctl --package spock_recovery_cluster --lib
cargo test --locked --quiet --package spock_recovery_bench
scripts/tests/servers.sh
say "lint: clean"
