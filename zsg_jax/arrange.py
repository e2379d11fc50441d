"""The command: `python -m zsg_jax.arrange --train FILE --test FILE --method NAME --output DIR`."""

from collections.abc import Callable, Sequence

from zsg_jax.arrangement.methods import NAMES
from zsg_jax.arrangement.reorderings import SUFFIXES
from zsg_jax.data.export import FORMATS
from zsg_jax.data.schemas.registry import AUTO, BAD_ROWS, SCHEMAS
from zsg_jax.runtime import cli, progress, streams
from zsg_jax.runtime.files import at_home
from zsg_jax.similarity.names import DISTANCES, DTYPES
from zsg_jax.workflows.arrange_options import ArrangeOptions


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "arrange",
        "Arranges training rows by their similarity to test rows and writes them in that order, "
        "for any trainer. Nothing is downloaded but what hub: names.",
        "--train train.jsonl --test test.jsonl --method tmta-nft --output arranged --explain",
        ArrangeOptions,
    )
    for part in (_add_rows, _add_order, _add_embeddings, _add_output, _add_reading):
        part(parser.flag)
    return parser


def _add_rows(add: Callable[..., None]) -> None:
    source = (
        "JSON lines or a JSON array (.gz too), .parquet, a folder of these or of a data set of "
        "datasets, a Natural Instructions task list (.txt), hub:OWNER/NAME[:SPLIT], or of TFDS "
        "FOLDER[:SPLIT] or tfds:NAME[/CONFIG][:VERSION][:SPLIT][@DATA_DIR]; or string rewriting, "
        "rewrites:KEY=VALUE,…"
    )
    add("--train", f"training rows: {source}", metavar="FILE", required=True)
    add("--test", f"test rows to arrange toward: {source}", metavar="FILE", required=True)
    add("--output", "folder to write to", metavar="DIR", required=True, type=at_home)


def _add_order(add: Callable[..., None]) -> None:
    names = f"{', '.join(NAMES[:-1])} or {NAMES[-1]}"
    again = ", ".join(SUFFIXES)
    add("--method", f"{names}; NAME@SEED for those that shuffle; and {again}", metavar="NAME")
    add(
        "--budget",
        "rows wanted, all without it; TMTA keeps its last turn whole",
        type=int,
        metavar="N",
    )
    add("--seed", "for methods that shuffle, and for --report-split", type=int, metavar="K")


def _add_embeddings(add: Callable[..., None]) -> None:
    text = (
        "hashing; the folder of a sentence encoder, on disk or as hub:OWNER/NAME[@REVISION]; "
        "the hidden states of a decoder, states:FOLDER or states:RUN[@STEP][,layer=N]"
        "[,pooling=weighted|mean|last][,tokens=all|answers][,KEY=VALUE]; or the gradients of its "
        "loss, gradients:RUN[@STEP,…] or gradients:FOLDER[,dimension=D][,seed=K][,KEY=VALUE]"
    )
    add("--encoder", text, metavar="NAME")
    text = "what of a row is embedded: both, prompt, answer, or a Jinja file that gets messages"
    add("--text", text, metavar="WHAT")
    text = "before every {} row, as some encoders ask: a text, or name:NAME of the encoder's own"
    add("--train-prompt", text.format("training"), metavar="TEXT")
    add("--test-prompt", text.format("test"), metavar="TEXT")
    add("--dtype", "what embeddings are kept in", choices=DTYPES)
    text = "folder that keeps the embeddings of these two files, DIR/embeddings without it"
    add("--embeddings", text, metavar="FOLDER")
    text = "folder of embeddings by content, shared by all that is arranged; none without it"
    add("--cache", text, metavar="FOLDER")
    add("--train-embeddings", "ready (N, D) embeddings of the training rows", metavar="A.npy")
    add("--test-embeddings", "ready (T, D) embeddings of the test rows", metavar="B.npy")
    add("--distance", "what WSD, avg and ot measure", choices=DISTANCES)
    add("--w-min", "WSD's weight of the minimum distance", type=float, metavar="W")
    add("--w-avg", "WSD's weight of the average; the study's without it", type=float, metavar="W")


def _add_output(add: Callable[..., None]) -> None:
    add("--format", "of the arranged rows", choices=tuple(FORMATS))
    add("--explain", "also write a page that shows what the order does", action="store_true")
    add("--drop-leaks", "leave out training rows that leak test rows", action="store_true")
    text = "leave out training rows whose cosine with an earlier one that stays is X or more"
    add("--deduplicate", text, type=float, metavar="X")
    text = "cosine from which a row is a near duplicate; without it 0.95, of hidden states 0.999"
    add("--leak-similarity", text, type=float, metavar="X")
    add("--leak-words", "length of word n-grams that count as shared", type=int, metavar="N")
    add("--report-split", "share of test rows kept for scoring only", type=float, metavar="F")


def _add_reading(add: Callable[..., None]) -> None:
    text = "what the rows of both files look like; auto tells it by the first of each"
    add("--data-format", text, choices=(AUTO, *SCHEMAS))
    text = "other names of fields, NEW=OLD,…, as prompt=question,completion=answers.text.0"
    add("--data-fields", text, metavar="FIELDS")
    add(
        "--natural-instructions",
        "what prompts of a task list show and which instances are taken, as "
        "negative_examples=2,explanation=true,train_per_task=100; all of them without it",
        metavar="OPTIONS",
    )
    add("--bad-rows", "stop at a bad row, or leave it out", choices=BAD_ROWS)
    add("--max-row-bytes", "what is longer as JSON is a bad row", type=int, metavar="N")
    add(
        "--block-rows",
        "training rows compared at once; never changes a result",
        type=int,
        metavar="N",
    )


def main(argv: Sequence[str]) -> None:
    """Arranges what the flags name."""
    given = vars(_parser().parse_args(list(argv[1:])))
    progress.pulse()
    with streams.importing():
        from zsg_jax.workflows import arrange as command
    written = command.run(ArrangeOptions(**given))
    streams.show(f"arranged: {streams.near(written)}")


run = cli.command(main)

if __name__ == "__main__":
    run()
