#!/usr/bin/env bash
# Stops what deploy/scripts/up.sh has started, and keeps its data. Containers end with it.
set -euo pipefail
cd "$(dirname "$0")/../.."

. deploy/scripts/state.sh

if ! running; then
    echo "down: Gantry is not up in $data" >&2
    exit 0
fi
kill -TERM "$pid"
while running; do
    sleep 0.1
done
rm -f "$data/pid" "$data/env" target/gantry.env
echo "Gantry is down; its data is in $data"
