#!/usr/bin/env bash
# The whole test suite on private servers. Arguments go to `cargo nextest run`.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" != 0 ]; then
    echo "test: the tests start a private Docker Engine, and that needs root" >&2
    exit 1
fi
deploy/scripts/install.sh servers nextest python
GANTRY_PYTHON=$(realpath --no-symlinks "${GANTRY_PYTHON:-${CARGO_TARGET_DIR:-target}/python}")
export GANTRY_PYTHON

export SQLX_OFFLINE=true
# Everything in one build, so that nothing is compiled twice with other features.
cargo build --workspace --bins --tests
built=${CARGO_TARGET_DIR:-target}/debug
GANTRY_CONTRACT_MATRIX=$(realpath --no-symlinks "${CARGO_TARGET_DIR:-target}/contract-matrix.txt")
export GANTRY_CONTRACT_MATRIX
rm -f "$GANTRY_CONTRACT_MATRIX"
"$built/gantry-servers" run --with postgres,rabbitmq,docker,ministack -- \
    cargo nextest run --workspace "$@"
# Which case of the executor contract holds where; unless somebody asked for certain tests.
if [ $# = 0 ]; then
    deploy/scripts/matrix.py "$GANTRY_CONTRACT_MATRIX"
fi
cargo test --workspace --doc --quiet
# All that follows uses what is built; it is left out if somebody asked for certain tests.
if [ $# != 0 ]; then
    exit
fi
export GANTRY_BIN_DIR=$built
# Real processes under a short schedule of faults, on servers of their own.
deploy/scripts/chaos.sh run --seed 1 --short
# What the backlog promises, in small.
deploy/scripts/chaos-load.sh --short
# The path against the SQL floor of the same run: half of what a debug build reaches. It finds a query for each job where one
# was for hundreds, and says nothing of the machine.
"$built/gantry-bench" --case control --events unbound --jobs 5000 --pairs 1 --at-least 0.05 --binaries "$built" >/dev/null
# The same jobs on Docker and on the doubles of the clouds, and a failover, as the command starts them.
deploy/scripts/demo-clouds.sh
# README.md, as it is written.
tests/quickstart/run.py
