# Sourced with the caller's name: sets GANTRY_BIN_DIR to the folder of the binaries, after installing what is missing
# and building them. If it is set already, it is taken as it is.

if [ "$(id -u)" != 0 ]; then
    echo "$1: this starts a private Docker Engine, and that needs root" >&2
    exit 1
fi
if [ -z "${GANTRY_BIN_DIR-}" ]; then
    deploy/scripts/install.sh servers
    SQLX_OFFLINE=true cargo build --release -p gantry-cli -p gantry-servers
    GANTRY_BIN_DIR=${CARGO_TARGET_DIR:-target}/release
fi
GANTRY_BIN_DIR=$(realpath "$GANTRY_BIN_DIR")
export GANTRY_BIN_DIR
