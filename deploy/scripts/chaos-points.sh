#!/usr/bin/env bash
# Kills every part once at each of its failpoints, on private servers. Arguments go to `gantry-chaos points`.
set -euo pipefail
cd "$(dirname "$0")/../.."

deploy/scripts/install.sh servers

export SQLX_OFFLINE=true
cargo build -p gantry-servers -p gantry-dispatcher -p gantry-recorder -p gantry-executor-mock -p gantry-chaos
bin=${CARGO_TARGET_DIR:-target}/debug
exec "$bin/gantry-servers" run --with postgres,rabbitmq -- "$bin/gantry-chaos" points --binaries "$bin" "$@"
