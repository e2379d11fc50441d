"""The command: `python -m zsg_jax.prepare --train SOURCE [--test SOURCE] --output DIR`."""

from collections.abc import Sequence

from zsg_jax.data.schemas.registry import AUTO, BAD_ROWS, SCHEMAS
from zsg_jax.runtime import cli, streams
from zsg_jax.runtime.files import at_home
from zsg_jax.workflows.prepare_options import PrepareOptions


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "prepare",
        "Writes sources as a versioned data set of TFDS, in ArrayRecord shards that can be read in "
        "any order. Killed, the same command goes on after the last whole shard and writes the "
        "same bytes. Nothing is downloaded.",
        "--train train.jsonl --test test.jsonl --output prepared",
        PrepareOptions,
    )
    add = parser.flag
    source = "any source that a study may train on, also a mixture (.mix.json)"
    add("--train", f"rows of the split train: {source}", metavar="SOURCE", required=True)
    add("--test", "rows of the split test, likewise; none without it", metavar="SOURCE")
    text = "folder of the data set; its last name is the data set's"
    add("--output", text, metavar="DIR", required=True, type=at_home)
    add("--version", "three numbers; each version has a folder of its own", metavar="X.Y.Z")
    add("--shard-mb", "text of a shard at most, in megabytes", type=float, metavar="MB")
    add("--shard-rows", "rows of a shard at most, instead", type=int, metavar="N")
    text = "tasks to train on and unseen ones: a task split file, held-out:N or held-out:SHARE"
    add("--split", text, metavar="SPLIT")
    add("--train-per-task", "training rows at most of a task, drawn", type=int, metavar="N")
    add("--test-per-task", "test rows at most of a task, drawn", type=int, metavar="N")
    add("--seed", "of what is drawn", type=int, metavar="K")
    text = "what the rows of both look like; auto tells it by the first of each"
    add("--data-format", text, choices=(AUTO, *SCHEMAS))
    text = "other names of fields, NEW=OLD,…, as prompt=question,completion=answers.text.0"
    add("--data-fields", text, metavar="FIELDS")
    text = "what prompts of a task list show and which instances are taken; all without it"
    add("--natural-instructions", text, metavar="OPTIONS")
    add("--bad-rows", "stop at a bad row, or leave it out", choices=BAD_ROWS)
    add("--max-row-bytes", "what is longer as JSON is a bad row", type=int, metavar="N")
    return parser


def main(argv: Sequence[str]) -> None:
    """Writes what the flags name."""
    given = vars(_parser().parse_args(list(argv[1:])))
    with streams.importing():
        from zsg_jax.workflows import prepare as command
    written = command.run(PrepareOptions(**given))
    streams.show(f"prepared: {streams.near(written)}")


run = cli.command(main)

if __name__ == "__main__":
    run()
