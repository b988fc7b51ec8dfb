#!/usr/bin/env bash
# Measurements; results go to target/bench/results.json.
. "$(dirname "$0")/lib.sh"

die "there is no benchmark scenario yet: nothing was measured" \
    "The rescue, which is what will be measured, is not built yet."
