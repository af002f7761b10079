#!/usr/bin/env bash
# Measures Gantry with its parts as separate processes, built as they are shipped, on private servers. Results are JSON on stdout.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" != 0 ]; then
    echo "bench: this starts a private Docker Engine, and that needs root" >&2
    exit 1
fi
deploy/scripts/install.sh servers >&2
SQLX_OFFLINE=true cargo build --profile dist -p gantry-bench -p gantry-dispatcher -p gantry-recorder -p gantry-api \
    -p gantry-executor-mock -p gantry-executor-docker >&2
"${CARGO_TARGET_DIR:-target}/dist/gantry-bench" --binaries "${CARGO_TARGET_DIR:-target}/dist" "$@"
