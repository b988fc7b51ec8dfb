#!/usr/bin/env bash
# Builds the documents as a site, with mdBook, into target/book/. Its links are checked first, as by make lint.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
use_tools

say "links and reference tables"
cargo test --locked --quiet --package spock_recovery_tests --test manual
say "the site"
mdbook build
note "open ${ROOT}/target/book/index.html"
