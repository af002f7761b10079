#!/usr/bin/python3 -B
"""Prints which case of the executor contract holds where, and checks docs/EXECUTORS.md against it.

    matrix.py FILE [--write]

FILE has the lines that the suites wrote (GANTRY_CONTRACT_MATRIX). --write puts the table into the document.
"""

import sys
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "EXECUTORS.md"
BEGIN, END = "<!-- matrix: begin -->\n", "<!-- matrix: end -->\n"
CRATES = Path(__file__).parents[2] / "crates" / "executors"
# Whatever has a suite, in the order of its names.
EXECUTORS = sorted(suite.parents[1].name for suite in CRATES.glob("*/tests/contract.rs"))


def main(path, write):
    lines = sorted({line.strip() for line in Path(path).read_text().splitlines()})
    held = {}
    for line in lines:
        _, executor, case, verdict = line.split(" ", 3)
        held.setdefault(case, {})[executor] = verdict
    width = max(map(len, held))
    print("\nThe executor contract, case by case:\n")
    print(f"{'':{width}}  " + "  ".join(f"{executor:8}" for executor in EXECUTORS).rstrip())
    for case, verdicts in sorted(held.items()):
        cells = (mark(verdicts.get(executor)) for executor in EXECUTORS)
        print(f"{case:{width}}  " + "  ".join(f"{cell:8}" for cell in cells).rstrip())
    print()
    for case, executor, why in reasons(held):
        print(f"{case}, {executor}: {why}")
    missing = [(case, executor) for case, verdicts in held.items() for executor in EXECUTORS if executor not in verdicts]
    if missing:
        print("matrix: these were not run: " + ", ".join(f"{case} on {executor}" for case, executor in missing))
        return 1
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    current, after = rest.split(END)
    if write:
        DOCUMENT.write_text(before + BEGIN + markdown(held) + END + after)
    elif current != markdown(held):
        print("matrix: docs/EXECUTORS.md says something else; `deploy/scripts/matrix.py FILE --write` brings it up to date")
        return 1
    return 0


def mark(verdict):
    return "-" if verdict is None else verdict.split(" ")[0]


def reasons(held):
    for case, verdicts in sorted(held.items()):
        for executor in EXECUTORS:
            if verdicts.get(executor, "").startswith("n/a "):
                yield case, executor, verdicts[executor].removeprefix("n/a ")


def markdown(held):
    rows = ["| case | " + " | ".join(EXECUTORS) + " |", "|---|" + "---|" * len(EXECUTORS)]
    for case, verdicts in sorted(held.items()):
        rows.append(f"| {case.replace('_', ' ')} | " + " | ".join(mark(verdicts.get(e)) for e in EXECUTORS) + " |")
    rows += ["", "What a backend cannot have, and why:", ""]
    rows += [f"- *{case.replace('_', ' ')}*, {executor}: {why}" for case, executor, why in reasons(held)]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[2:] not in ([], ["--write"]):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], "--write" in sys.argv))
