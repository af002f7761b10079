#!/usr/bin/env bash
# Everything that breaks Gantry on purpose, on private servers, summed up in one last line. Arguments go to
# `gantry-chaos all`; or, with `run` as the first, to `gantry-chaos run`, which is the schedule of faults alone.
#
# What is broken is the release build, as it would run. With GANTRY_BIN_DIR the binaries of that folder are run, and nothing of
# Gantry is built.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" != 0 ]; then
    echo "chaos: this starts a private Docker Engine, and that needs root" >&2
    exit 1
fi
deploy/scripts/install.sh servers python
GANTRY_PYTHON=$(realpath --no-symlinks "${GANTRY_PYTHON:-${CARGO_TARGET_DIR:-target}/python}")
export GANTRY_PYTHON

if [ -z "${GANTRY_BIN_DIR-}" ]; then
    SQLX_OFFLINE=true cargo build --release --workspace --bins
    GANTRY_BIN_DIR=${CARGO_TARGET_DIR:-target}/release
fi
# A copy, so that a build in the meantime changes nothing halfway.
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
cp "$GANTRY_BIN_DIR"/gantry-{servers,dispatcher,recorder,api,chaos} "$GANTRY_BIN_DIR"/gantry-worker-* "$bin"

if [ "${1:-}" = run ]; then
    shift
    "$bin/gantry-chaos" run --binaries "$bin" "$@"
else
    "$bin/gantry-servers" run --with postgres,rabbitmq -- "$bin/gantry-chaos" all --binaries "$bin" "$@"
fi
