#!/usr/bin/env bash
# Shows that the counters of `gantry-chaos run` can rise: each kind of sabotage must raise its own, and fail the run.
set -euo pipefail
cd "$(dirname "$0")/../.."

caught() { # KIND COUNTER
    local said
    if said=$(deploy/scripts/chaos.sh run --sabotage "$1" 2>&1); then
        echo "$said"
        echo "chaos-sabotage: $1 was not noticed" >&2
        exit 1
    fi
    if ! grep --quiet --extended-regexp "^chaos: .* $2=[1-9]" <<<"$said"; then
        echo "$said"
        echo "chaos-sabotage: $1 did not raise $2" >&2
        exit 1
    fi
    echo "chaos-sabotage: $1: $(grep '^chaos: .* jobs' <<<"$said")"
    # The run keeps what a person would look into; here it is known.
    sed -n 's/^chaos: logs and ledgers are kept in //p' <<<"$said" | xargs --no-run-if-empty rm -rf
}

caught deleted-job lost
caught second-container duplicated
caught over-limit over_limit
caught leaked-slot leaked_slots
caught orphan orphans
caught false-exit-code wrong_result
