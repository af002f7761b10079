#!/usr/bin/env bash
# A private Gantry that goes on running: servers, every part, and a Docker Engine with the image
# gantry/busybox:1. deploy/scripts/down.sh stops it; the next start goes on with the same data.
#
#   GANTRY_DATA_DIR  where all of it is kept; default /var/lib/gantry. The servers run as users of
#                    their own, who must be able to enter it: a folder in root's home will not do.
#   GANTRY_LISTEN    the address of the API; default 127.0.0.1:8080, or a free port if that is taken.
#   GANTRY_BIN_DIR   run the binaries of that folder, install and build nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."

. deploy/scripts/release.sh up
. deploy/scripts/state.sh

if ! running; then
    mkdir -p "$data"
    rm -f "$data/env"
    listen=${GANTRY_LISTEN-127.0.0.1:8080}
    if [ -z "${GANTRY_LISTEN-}" ] && (: <"/dev/tcp/${listen/:/\/}") 2>/dev/null; then
        echo "up: $listen is taken, using a free port" >&2
        listen=127.0.0.1:0
    fi
    # A session of its own: it outlives this shell and its terminal.
    setsid "$GANTRY_BIN_DIR/gantry-servers" run --dir "$data" --with docker -- \
        "$GANTRY_BIN_DIR/gantry" dev --data-dir "$data" --listen "$listen" \
        --docker-host "unix://$data/docker/docker.sock" </dev/null >"$data/gantry.log" 2>&1 &
    pid=$!
    echo "$pid" >"$data/pid"
    until [ -e "$data/env" ]; do
        if ! kill -0 "$pid" 2>/dev/null; then
            echo "up: Gantry did not start:" >&2
            tail -n 20 "$data/gantry.log" >&2
            exit 1
        fi
        sleep 0.1
    done
fi

mkdir -p target
printf '. %q\nexport PATH=%q:"$PATH"\n' "$data/env" "$GANTRY_BIN_DIR" >target/gantry.env
cat <<END
Gantry is up: $(sed -n "s/^export GANTRY_URL='\(.*\)'/\1/p" "$data/env")

  . target/gantry.env                                      GANTRY_URL, the key, the command \`gantry\`
  gantry job run --image gantry/busybox:1 -- echo hello    the first job
  make down                                                stops it and keeps its data

Data and log are in $data.
END
