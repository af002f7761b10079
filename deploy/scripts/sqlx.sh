#!/usr/bin/env bash
# Writes .sqlx anew: what Postgres says about every query in crates/store, for builds that have
# no database (SQLX_OFFLINE=true).
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "${1-}" != on-private-postgres ]; then
    deploy/scripts/install.sh servers
    cargo build -p gantry-servers
    exec "${CARGO_TARGET_DIR:-target}/debug/gantry-servers" run --with postgres -- \
        "$PWD/deploy/scripts/sqlx.sh" on-private-postgres
fi

psql --quiet --no-psqlrc --single-transaction --set=ON_ERROR_STOP=1 \
    --file=migrations/0001_initial.sql "$GANTRY_TEST_POSTGRES_URL"

# Beside the old answers, which stay when a query is wrong.
new=$PWD/.sqlx.new
trap 'rm -rf "$new"' EXIT
rm -rf "$new" && mkdir "$new"
# The answers are written when a macro is expanded, so the crate has to be compiled again.
touch crates/store/src/lib.rs
SQLX_OFFLINE=false SQLX_OFFLINE_DIR=$new DATABASE_URL=$GANTRY_TEST_POSTGRES_URL \
    cargo check -p gantry-store --all-targets
rm -rf .sqlx && mv "$new" .sqlx
echo "sqlx: $(find .sqlx -name 'query-*.json' | wc -l) queries in .sqlx"
