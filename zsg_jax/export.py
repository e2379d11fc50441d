"""The command: `python -m zsg_jax.export --workdir WORKDIR --run NAME-seedK --output FOLDER`."""

from collections.abc import Sequence

from zsg_jax.models.dtypes import DTYPES, SAME
from zsg_jax.runtime import cli, streams
from zsg_jax.runtime.files import at_home
from zsg_jax.workflows.export_options import ExportOptions


def _parser() -> cli.Parser:
    description = "Writes a checkpoint of a study's run as a Hugging Face folder."
    example = "--workdir workdir/tmta --run tmta-min-max-seed0 --output exported"
    parser = cli.Parser("export", description, example, ExportOptions)
    add = parser.flag
    text = "the study's; may be gs://… or s3://…"
    add("--workdir", text, metavar="WORKDIR", required=True, type=at_home)
    add("--run", "a folder of WORKDIR/runs", metavar="NAME-seedK", required=True)
    add("--output", "to be made", metavar="FOLDER", required=True, type=at_home)
    add("--step", "of a checkpoint that is kept; the last without it", metavar="S", type=int)
    text = "of the weights; same: as in the folder that training started from, or as trained"
    add("--dtype", text, choices=(SAME, *DTYPES))
    add("--file-gb", "gigabytes at most of a file of weights", metavar="N", type=float)
    text = "the adapters of a LoRA run alone, in PEFT's layout; without it they are merged"
    add("--adapters", text, action="store_true")
    return parser


def main(argv: Sequence[str]) -> None:
    """Exports what the flags name."""
    given = vars(_parser().parse_args(list(argv[1:])))
    with streams.importing():
        import jax

        from zsg_jax.workflows import export as exporting
    # Nothing is computed, and a model may be larger than one accelerator's memory.
    jax.config.update("jax_platforms", "cpu")
    written = exporting.run(ExportOptions(**given))
    streams.show(f"exported: {streams.near(written)}")


run = cli.command(main)

if __name__ == "__main__":
    run()
