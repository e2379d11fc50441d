"""The command: `python -m zsg_jax.evaluate --checkpoint WORKDIR/runs/NAME-seedK --output DIR`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from zsg_jax.runtime import cli
from zsg_jax.workflows import evaluate


def _mesh(text: str) -> tuple[int, int, int]:
    try:
        data, fsdp, tensor = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three whole numbers, as 2,2,1") from None
    return data, fsdp, tensor


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "evaluate",
        "Measures checkpoints of a study's runs on its test data, as the run itself did, on any "
        "mesh.",
    )
    add = parser.add_argument
    text = "a run, WORKDIR/runs/NAME-seedK, for its last checkpoint, or …/checkpoints/STEP below it"
    add("--checkpoint", metavar="PATH", nargs="+", required=True, help=f"{text}; several in turn")
    text = "folder for evaluation.jsonl, a record of each checkpoint"
    add("--output", metavar="DIR", required=True, type=Path, help=text)
    text = "devices along data, fsdp and tensor, -1 for all that are left; -1,1,1 without it"
    add("--mesh", metavar="D,F,T", type=_mesh, default=(-1, 1, 1), help=text)
    return parser


def main(argv: Sequence[str]) -> None:
    """Evaluates what the flags name."""
    given = _parser().parse_args(list(argv[1:]))
    written = evaluate.run(given.checkpoint, given.output, mesh=given.mesh)
    print(f"evaluated: {os.path.relpath(written)}")


def run() -> None:
    """The command, with the flags of `sys.argv`."""
    cli.guard(main)(sys.argv)


if __name__ == "__main__":
    run()
