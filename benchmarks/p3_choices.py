"""Gives rows that have no choices those that their tasks have, found by the answers of the rows.

    python benchmarks/p3_choices.py p3/test.jsonl.gz choices.jsonl

The choices of a row are all the answers that rows of its task have, sorted: of RTE, CB, COPA and
WiC, those that "Options:" or "between A and B" lists in every prompt. Rows of a task with one
answer alone, or with more than `MOST`, keep none: their answers are not chosen from a list.
"""

import gzip
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MOST = 8
Row = dict[str, Any]


def rows(path: str | Path) -> list[Row]:
    """The rows of a file of JSON lines, plain or .gz."""
    raw = Path(path).read_bytes()
    text = gzip.decompress(raw) if str(path).endswith(".gz") else raw
    return [json.loads(line) for line in text.splitlines()]


def with_choices(given: Iterable[Row]) -> list[Row]:
    """Rows of `messages`, each with the `choices` of its task, where it has any."""
    given = list(given)
    answers: dict[str, set[str]] = {}
    for row in given:
        answers.setdefault(row["task"], set()).add(row["messages"][-1]["content"])
    listed = {task: sorted(found) for task, found in answers.items() if 2 <= len(found) <= MOST}
    return [
        row | ({"choices": listed[row["task"]]} if row["task"] in listed else {}) for row in given
    ]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} ROWS.jsonl[.gz] OUTPUT.jsonl")
    Path(sys.argv[2]).write_text(
        "".join(json.dumps(row) + "\n" for row in with_choices(rows(sys.argv[1])))
    )
