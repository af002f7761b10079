# Sourced by up.sh and down.sh: where the running Gantry is kept, and whether it runs.

data=$(realpath -m "${GANTRY_DATA_DIR:-/var/lib/gantry}")

# Sets `pid`. A number that another process has by now does not count.
running() {
    pid=$(cat "$data/pid" 2>/dev/null) &&
        tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "run --dir $data "
}
