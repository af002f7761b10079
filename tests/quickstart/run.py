#!/usr/bin/python3
"""Runs the code of README.md as it is written there, and compares what it prints with what README.md shows.

    GANTRY_BIN_DIR=target/debug tests/quickstart/run.py

All `sh` blocks run in one shell, in order; a block with a file's name behind its language is written to that file. A
`text` block is the output of the block before it: numbers and ids may differ, and `...` stands for anything.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCED = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIME_LIMIT = 300


def main():
    readme = FENCED.findall((ROOT / "README.md").read_text())
    scripts = steps(readme)
    if not scripts:
        sys.exit("quickstart: README.md has no `sh` block")
    with tempfile.TemporaryDirectory(prefix="gantry-quickstart-") as folder:
        folder = Path(folder)
        outputs = run(folder, readme, [script for script, _ in scripts])
        left = left_behind(folder)
    failures = [f"still runs: {process}" for process in left]
    for (script, expected), (code, output) in zip(scripts, outputs):
        if code != 0:
            failures.append(f"exit code {code}:\n{script}\nwhich printed:\n{output}")
        elif expected is not None and not pattern(expected).fullmatch(normal(output)):
            failures.append(f"{script}\nprinted:\n{output}\nand not:\n{expected}")
    if len(outputs) < len(scripts):
        failures.append(f"the shell ended in:\n{scripts[len(outputs)][0]}")
    for failure in failures:
        print(f"quickstart: FAILED: {failure}", file=sys.stderr)
    print(f"quickstart: {len(scripts)} blocks of README.md, {len(failures)} failures")
    return 1 if failures else 0


def steps(blocks):
    """Each `sh` block, with the `text` block that follows it before the next one, if there is one."""
    found = []
    for language, _, body in blocks:
        if language == "sh":
            found.append((body, None))
        elif language == "text":
            found[-1] = (found[-1][0], body)
    return found


def run(folder, blocks, scripts):
    """The exit code and the stdout of each script."""
    # The servers' own users have to get to their data.
    folder.chmod(0o711)
    # Beside the checkout, so that what runs there is not disturbed.
    for name in ["Makefile", "deploy"]:
        (folder / name).symlink_to(ROOT / name)
    for _, name, body in blocks:
        if name:
            (folder / name).write_text(body)
    binaries = Path(os.environ.get("GANTRY_BIN_DIR", ROOT / "target/debug")).resolve()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GANTRY_", "MAKE"))} | {
        "GANTRY_BIN_DIR": str(binaries),
        "GANTRY_DATA_DIR": str(folder / "data"),
        "GANTRY_LISTEN": "127.0.0.1:0",
        # Debian's python3 before any other: it has Debian's pika.
        "PATH": f"/usr/bin:{os.environ['PATH']}",
    }
    shell = "".join(f"{script}\nprintf '\\0%d\\0' $?\n" for script in scripts)
    options = {"cwd": folder, "env": environment, "stdin": subprocess.DEVNULL}
    try:
        ran = subprocess.run(["bash", "-c", shell], stdout=subprocess.PIPE, text=True, timeout=TIME_LIMIT, **options)
    finally:
        # Nothing is left to it if the blocks have come to their end.
        subprocess.run(["make", "--silent", "down"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    parts = ran.stdout.split("\0")
    # README.md shows the default.
    shown = [output.replace(environment["GANTRY_DATA_DIR"], "/var/lib/gantry") for output in parts[0::2]]
    return [(int(code), output) for output, code in zip(shown, parts[1::2])]


def pattern(expected):
    """What an output has to be, as an expression over its normal form."""
    return re.compile(".*".join(re.escape(normal(part)) for part in expected.split("...")), re.DOTALL)


def normal(text):
    """`text` without what differs from run to run: ids, numbers with their units, the width of columns."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{64}", "ID", text)
    text = re.sub(r"\d+(\.\d+)*( ?(ms|s|m)\b)?", "N", text)
    return re.sub(r"\s+", " ", text).strip()


def left_behind(folder):
    """The processes that still have to do with `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            works_in = os.readlink(process / "cwd")
        except OSError:
            continue
        if int(process.name) != os.getpid() and (str(folder) in words or works_in.startswith(str(folder))):
            found.append(f"{process.name} {words}")
    return found


if __name__ == "__main__":
    sys.exit(main())
