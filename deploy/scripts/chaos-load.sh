#!/usr/bin/env bash
# Measures what the backlog promises under load, on private servers. Arguments go to `gantry-chaos load`.
#
# With GANTRY_BIN_DIR the binaries of that folder are run, and nothing of Gantry is built.
set -euo pipefail
cd "$(dirname "$0")/../.."

deploy/scripts/install.sh servers

if [ -z "${GANTRY_BIN_DIR-}" ]; then
    SQLX_OFFLINE=true cargo build -p gantry-servers -p gantry-dispatcher -p gantry-recorder -p gantry-api \
        -p gantry-executor-mock -p gantry-chaos
    GANTRY_BIN_DIR=${CARGO_TARGET_DIR:-target}/debug
fi
# A copy, so that a build in the meantime changes nothing halfway.
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
cp "$GANTRY_BIN_DIR"/gantry-{servers,dispatcher,recorder,api,worker-mock,chaos} "$bin"

"$bin/gantry-servers" run --with postgres,rabbitmq -- "$bin/gantry-chaos" load --binaries "$bin" "$@"
