#!/usr/bin/env bash
# Installs what is missing of the given tools, and does nothing when all are there.
#
#   install.sh [servers] [nextest] [deny] [python]
set -euo pipefail

# What the tests and `gantry dev` start (each on ports of its own; services that the packages
# start are left alone), and what the tests use as clients.
SERVERS=(
    postgresql rabbitmq-server docker.io iptables busybox-static docker-registry faketime
    openssh-server openssh-client
    python3 python3-pika python3-venv curl ca-certificates
)

say() { echo "install: $*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        say "this needs root, and there is no sudo: $*"
        exit 1
    fi
}

installed() { [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

apt_install() {
    say "installing the Debian packages $*"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --quiet --no-install-recommends "$@" >&2
}

debian() {
    if ! command -v apt-get >/dev/null; then
        say "no apt-get here; going on with what is installed. Needed: $*"
        return
    fi
    local missing=() package
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        apt_install "${missing[@]}"
    fi
    # From Debian 13 on, the engine's package comes without the command.
    if ! command -v docker >/dev/null; then
        apt_install docker-cli
    fi
}

cargo_tool() {
    if ! cargo "$1" --version >/dev/null 2>&1; then
        say "installing cargo-$1 (some minutes)"
        cargo install --locked "cargo-$1"
    fi
}

# What others wrote and the clouds' executors are held to, in an environment of its own: $GANTRY_PYTHON.
python_environment() {
    local wanted=deploy/python/requirements.txt environment=${GANTRY_PYTHON:-${CARGO_TARGET_DIR:-target}/python}
    if cmp --silent "$wanted" "$environment/installed.txt"; then
        return
    fi
    say "installing what $wanted names into $environment"
    debian python3-venv
    rm -rf "$environment"
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted"
    cp "$wanted" "$environment/installed.txt"
}

cd "$(dirname "$0")/../.."
for tool in "$@"; do
    case $tool in
        servers) debian "${SERVERS[@]}" ;;
        nextest | deny) cargo_tool "$tool" ;;
        python) python_environment ;;
        *)
            say "unknown: $tool (known: servers, nextest, deny, python)"
            exit 2
            ;;
    esac
done
