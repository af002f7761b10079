#!/usr/bin/env bash
# Real jobs on a private Gantry: see deploy/demo/demo.py.
#
# With GANTRY_BIN_DIR the binaries of that folder are run, and nothing is installed or built.
set -euo pipefail
cd "$(dirname "$0")/../.."

. deploy/scripts/release.sh demo
exec "$GANTRY_BIN_DIR/gantry-servers" run --with docker -- "$PWD/deploy/demo/demo.py"
