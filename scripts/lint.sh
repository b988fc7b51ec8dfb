#!/usr/bin/env bash
# rustfmt, clippy and rustdoc without a warning, for every supported major, and the pure unit tests. Stops at the first failure.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
use_pgrx

say "rustfmt"
cargo fmt --all --check
say "clippy"
cargo clippy --quiet --package spockctl --package spock_recovery_bench --package spock_recovery_tests --all-targets -- -D warnings
export RUSTDOCFLAGS="-D warnings"
for major in $(wanted_majors); do
    # With and without what only tests compile.
    say "clippy and rustdoc for PostgreSQL $major"
    cargo clippy --quiet --package spock_recovery --all-targets --no-default-features --features "pg$major" -- -D warnings
    cargo clippy --quiet --package spock_recovery --all-targets --no-default-features --features "pg$major failpoints pg_test" -- -D warnings
    cargo doc --quiet --package spock_recovery --lib --no-deps --document-private-items --no-default-features --features "pg$major"
done
cargo doc --quiet --package spockctl --lib --no-deps --document-private-items
say "unit tests"
major=$(wanted_majors | head -n 1)
cargo test --quiet --package spock_recovery --lib --no-default-features --features "pg$major"
cargo test --quiet --package spockctl --lib
cargo test --quiet --package spock_recovery_bench
say "lint: clean"
