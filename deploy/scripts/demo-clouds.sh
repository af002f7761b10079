#!/usr/bin/env bash
# The same jobs on a Docker host and on the doubles of three clouds, and a failover: see deploy/demo/clouds.py.
#
# With GANTRY_BIN_DIR the binaries of that folder are run, and nothing is installed or built.
set -euo pipefail
cd "$(dirname "$0")/../.."

deploy/scripts/install.sh python
GANTRY_PYTHON=$(realpath --no-symlinks "${GANTRY_PYTHON:-${CARGO_TARGET_DIR:-target}/python}")
export GANTRY_PYTHON
. deploy/scripts/release.sh demo-clouds
exec "$GANTRY_BIN_DIR/gantry-servers" run --with docker -- "$PWD/deploy/demo/clouds.py"
