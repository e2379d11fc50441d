"""The command: `python -m zsg_jax.evaluate --checkpoint WORKDIR/runs/NAME-seedK --output DIR`."""

import argparse
from collections.abc import Sequence

from zsg_jax.data.schemas.registry import AUTO, BAD_ROWS, SCHEMAS
from zsg_jax.data.tokenize.encode import ANSWERS
from zsg_jax.data.tokenize.truncation import TRUNCATIONS
from zsg_jax.evaluation.metrics import METRICS
from zsg_jax.models.dtypes import COMPUTED
from zsg_jax.runtime import cli, progress, streams
from zsg_jax.runtime.files import at_home
from zsg_jax.workflows.evaluate_options import BASELINES, EvaluateOptions


def _mesh(text: str) -> tuple[int, int, int]:
    try:
        data, fsdp, tensor = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three whole numbers, as 2,2,1") from None
    return data, fsdp, tensor


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "evaluate",
        "Measures checkpoints of a study's runs as the run itself did, a Hugging Face folder, or "
        "texts that others generated. Run again, it goes on where it was stopped.",
        "--checkpoint workdir/tmta/runs/tmta-min-max-seed0 --output evaluated",
        EvaluateOptions,
    )
    add = parser.flag
    text = "runs, WORKDIR/runs/NAME-seedK, for the last checkpoint of each, or …/checkpoints/STEP"
    add("--checkpoint", text, metavar="PATH", nargs="+")
    add("--model", "or a Hugging Face folder, or hub:OWNER/NAME", metavar="FOLDER")
    add("--adapters", "PEFT's LoRA adapters for --model", metavar="FOLDER")
    text = 'or JSON lines {"id": …, "text": …} with what others generated for the test rows'
    add("--predictions", text, metavar="FILE.jsonl")
    add("--baseline", "or what needs no model", choices=("", *BASELINES), metavar="NAME")
    text = "test rows, any source of a study; the study's own for --checkpoint without it"
    add("--test", text, metavar="FILE")
    text = "without it a study's own, loss of --model, rouge,exact_match of given texts"
    add("--metrics", f"of {','.join(METRICS)}; {text}", metavar="NAME,…")
    text = "folder for evaluation.jsonl, a record of each"
    add("--output", text, metavar="DIR", required=True, type=at_home)
    text = "devices along data, fsdp and tensor, -1 for all that are left"
    add("--mesh", text, metavar="D,F,T", type=_mesh)
    add("--decoding", "greedy, study, NAME=VALUE,…, or a name and changes", metavar="HOW")
    add("--stops", "words that end a text", nargs="+", metavar="WORDS")
    add("--rouge-tokenizer", "folder of a tokenizer whose tokens rouge counts", metavar="FOLDER")
    add("--reward-model", "folder, or hub:OWNER/NAME, for the metric reward", metavar="FOLDER")
    add("--reward-template", "study, chat, or a Jinja file", metavar="NAME")
    text = "what the reward model is computed in"
    add("--reward-dtype", text, choices=COMPUTED)
    add("--batch-size", "rows at once", type=int, metavar="N")
    add("--max-length", "tokens at most of a row, and of a prompt", type=int, metavar="N")
    add("--tokenizer", "another folder than --model's own", metavar="FOLDER")
    add("--dtype", "what --model computes in", choices=COMPUTED)
    add("--template", "study, chat, or a Jinja file", metavar="NAME")
    text = "what a chat template is given besides, as enable_thinking=false"
    add("--template-args", text, metavar="NAME=VALUE,…")
    add("--answers", "which answers of a conversation are measured", choices=ANSWERS)
    add("--truncation", "what a longer row loses", choices=TRUNCATIONS)
    add("--data-format", "what the rows of --test look like", choices=(AUTO, *SCHEMAS))
    add("--data-fields", "other names of their fields, NEW=OLD,…", metavar="FIELDS")
    text = "what prompts of a task list show, as negative_examples=2"
    add("--natural-instructions", text, metavar="OPTIONS")
    add("--bad-rows", "stop at a bad row, or leave it out", choices=BAD_ROWS)
    return parser


def main(argv: Sequence[str]) -> None:
    """Evaluates what the flags name."""
    given = vars(_parser().parse_args(list(argv[1:])))
    progress.pulse()
    with streams.importing():
        from zsg_jax.workflows import evaluate
    given["stops"] = given["stops"] and tuple(given["stops"])
    written = evaluate.run(EvaluateOptions(**given))
    streams.show(f"evaluated: {streams.near(written)}")


run = cli.command(main)

if __name__ == "__main__":
    run()
