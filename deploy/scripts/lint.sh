#!/usr/bin/env bash
# Format, lints, documentation and dependencies; every warning is an error.
set -euo pipefail
cd "$(dirname "$0")/../.."

deploy/scripts/install.sh deny

export SQLX_OFFLINE=true
cargo fmt --all --check
cargo clippy --workspace --all-targets -- -D warnings
RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --workspace
# Advisories are left out: their database is fetched from the network at every run.
cargo deny check bans licenses sources
