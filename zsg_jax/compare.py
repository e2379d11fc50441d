"""The command: `python -m zsg_jax.compare WORKDIR WORKDIR… --output DIR`."""

from collections.abc import Sequence

from zsg_jax.runtime import cli, streams
from zsg_jax.runtime.files import at_home
from zsg_jax.workflows.compare_options import CompareOptions


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "compare",
        "Writes one page of several finished studies: their curves and losses side by side, which "
        "differences are told from chance, and what settings differ. Studies of other test rows, "
        "another tokenizer or another way to measure are refused.",
        "workdir/tmta workdir/mine --output compared",
        CompareOptions,
    )
    add = parser.flag
    add("workdirs", "of finished studies", metavar="WORKDIR", nargs="+")
    text = "folder for the page and its figures"
    add("--output", text, metavar="DIR", required=True, type=at_home)
    text = "step up to which losses and areas are told as well; the studies' own, if all the same"
    add("--window", text, metavar="STEP", type=int)
    return parser


def main(argv: Sequence[str]) -> None:
    """Compares what the flags name."""
    given = vars(_parser().parse_args(list(argv[1:])))
    # Imported here: --help and --version do not wait for it.
    with streams.importing():
        from zsg_jax.workflows import compare
    written = compare.run(CompareOptions(**given))
    streams.show(f"compared: {streams.near(written)}")


run = cli.command(main)

if __name__ == "__main__":
    run()
