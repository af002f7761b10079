"""The demo's jobs, each with the end it is expected to come to.

The input is this machine's /usr/share. What a container should find there is worked out here as well, in Python, so
that "as expected" means that the work was done and not only that nothing failed.
"""

import collections
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

IMAGE = "gantry/busybox:1"
INPUT = Path("/usr/share")
MOUNT = {"source": str(INPUT), "target": "/data"}
LICENCES = INPUT / "common-licenses"

# The first process of a container gets no signal that it does not ask for.
FOREVER = "trap 'exit 1' TERM; tail -f /data/common-licenses/GPL-3 >/dev/null & wait"


@dataclass
class Job:
    """What to run, and how it should end. `output` is stdout, or parsed_output where that is JSON."""

    name: str
    script: str
    status: str = "completed"
    failure: str | None = None
    exit_code: int | None = None
    attempts: int = 1
    output: str | dict | None = None
    spec: dict = field(default_factory=dict)
    over: str = "HTTP"
    cancel: bool = False

    def submission(self):
        """As it is handed in, over either door."""
        spec = {"image": IMAGE, "command": ["sh", "-ec", self.script], "mounts": [MOUNT], "timeout_seconds": 120}
        return {"version": "1", "name": self.name, "idempotency_key": f"demo-{self.name}", "spec": spec | self.spec}


def all_jobs():
    """Reads the input once, and says what is to be found in it."""
    documents = sorted((path for path in (INPUT / "doc").rglob("*") if is_plain(path)), key=bytes)
    digest = hashlib.sha256()
    for path in documents:
        digest.update(path.read_bytes())
    licences = [path for path in LICENCES.iterdir() if is_plain(path)]
    text = b"".join(path.read_bytes() for path in licences)
    words = collections.Counter(re.findall("[a-z]+", (LICENCES / "GPL-3").read_text().lower()))
    top = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:5]
    largest = max(licences, key=lambda path: path.stat().st_size)
    facts = {"files": len(licences), "bytes": len(text), "largest": largest.stat().st_size}

    return [
        Job("count", "find /data/doc -type f | wc -l", output=str(len(documents))),
        Job(
            "hash",
            "find /data/doc -type f | LC_ALL=C sort | tr '\\n' '\\0' | xargs -0 cat | sha256sum | cut -c 1-64",
            output=digest.hexdigest(),
        ),
        Job(
            "compress",
            "cd /data/common-licenses; find . -type f | xargs cat | gzip -9 >/tmp/all.gz; gunzip -c /tmp/all.gz | wc -c",
            output=str(len(text)),
        ),
        Job(
            "words",
            "tr A-Z a-z </data/common-licenses/GPL-3 | tr -cs a-z '\\n' | grep . | sort | uniq -c"
            " | sort -k 1,1nr -k 2,2 | head -n 5 | awk '{ print $2, $1 }'",
            output="\n".join(f"{word} {count}" for word, count in top),
        ),
        Job(
            "json",
            "cd /data/common-licenses; echo 'stdout may say more; its last line of JSON counts'; find . -type f | xargs stat -c %s"
            ' | awk \'{ n++; sum += $1; if ($1 > top) top = $1 }'
            ' END { printf "{\\"files\\": %d, \\"bytes\\": %d, \\"largest\\": %d}\\n", n, sum, top }\'',
            output=facts,
        ),
        Job(
            "lines",
            "cd /data/common-licenses; find . -type f | xargs cat | wc -l",
            output=str(text.count(b"\n")),
            over="AMQP",
        ),
        Job(
            "exit-3",
            "grep -rq 'no licence says this' /data/common-licenses || exit 3",
            status="failed", failure="exit_nonzero", exit_code=3,
        ),
        Job(
            "retry",
            'echo "attempt $GANTRY_ATTEMPT"; [ "$GANTRY_ATTEMPT" = 2 ]',
            attempts=2,
            output="attempt 2",
            spec={"retry": {"max_attempts": 3, "backoff_seconds": 1}},
        ),
        Job(
            "memory",
            "while cat /data/common-licenses/GPL-3; do :; done | sort",
            status="failed", failure="oom_killed", exit_code=137,
            spec={"memory_limit_mb": 16},
        ),
        Job("timeout", FOREVER, status="timeout", failure="timeout", spec={"timeout_seconds": 3}),
        Job("cancel", FOREVER, status="cancelled", failure="cancelled", cancel=True),
        Job(
            "refused",
            "ls /root",
            status="failed", failure="invalid_spec",
            spec={"mounts": [{"source": "/root", "target": "/root"}]},
        ),
    ]


def is_plain(path):
    return path.is_file() and not path.is_symlink()
