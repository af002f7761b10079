#!/usr/bin/env bash
# Measures other queues on the same private servers, end to end. Results are JSON on stdout, with a table on stderr.
#
#   bench-peers.sh [--jobs N] [--only PEER,...]
#
# The peers and their settings: benches/peers. They are installed into target/peers.
#
#   GANTRY_BIN_DIR  take gantry-servers from that folder, install and build nothing of Gantry.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v npm >/dev/null || ! node --eval 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; then
    echo "bench-peers: this needs Node.js 20 or newer, with npm" >&2
    exit 1
fi
if [ -z "${GANTRY_BIN_DIR-}" ]; then
    deploy/scripts/install.sh servers >&2
    SQLX_OFFLINE=true cargo build --release -p gantry-servers >&2
    GANTRY_BIN_DIR=${CARGO_TARGET_DIR:-target}/release
fi

# A copy, so that nothing is written into the source tree: the peers leave caches beside their scripts.
peers=$(realpath --no-symlinks "${CARGO_TARGET_DIR:-target}/peers")
mkdir -p "$peers"
cp benches/peers/* "$peers"
if ! cmp --silent "$peers/requirements.txt" "$peers/python/installed.txt"; then
    echo "bench-peers: installing the Python peers" >&2
    rm -rf "$peers/python"
    python3 -m venv "$peers/python"
    "$peers/python/bin/pip" install --quiet --disable-pip-version-check --requirement "$peers/requirements.txt" >&2
    cp "$peers/requirements.txt" "$peers/python/installed.txt"
fi
if ! cmp --silent "$peers/package.json" "$peers/node_modules/installed.json"; then
    echo "bench-peers: installing the Node.js peers" >&2
    rm -rf "$peers/node_modules"
    npm install --prefix "$peers" --omit=dev --no-package-lock --no-audit --no-fund --loglevel=error >&2
    cp "$peers/package.json" "$peers/node_modules/installed.json"
fi

exec "$GANTRY_BIN_DIR/gantry-servers" run --with postgres,rabbitmq -- "$peers/python/bin/python" "$peers/run.py" "$@"
