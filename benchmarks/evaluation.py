"""How fast evaluations are, each against its peer in the same run.

    ZSG_JAX_ASSETS=DIR python benchmarks/evaluation.py choices texts [--model FOLDER]

prints a table for each case named, of rows of P3 under a pretrained model (default: stories260k).
Everything is measured in this very run, each line in a process of its own, one after the other, and
what both sides give is compared. A new case is a function here and an entry of `CASES`; what it
measures, functions of `scoring.py`.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from measuring import Measured, child, table, tell, verdict

from zsg_jax.runtime.errors import UserError

WORK = Path(__file__).with_name("scoring.py")
CARD = Path(__file__).with_name("card.py")


class Work(NamedTuple):
    """What a case works on.

    Attributes:
        model: a Hugging Face folder with its tokenizer.
        data: P3's test rows.
        count: how many of them, evenly spaced; None: all.
        batch: sequences at once, of both sides.
        runs: of which the median is told.
        new: tokens of a text.
        target: how many times as fast as the peer texts are to be.
    """

    model: str
    data: str
    count: int | None
    batch: int
    runs: int
    new: int
    target: float


def _measure(what: str, name: str, work: Work, **more: int) -> Measured:
    given = {key: value for key, value in work._asdict().items() if key not in ("new", "target")}
    return child(what, name, script=WORK, **given, **more)


def choices(work: Work) -> list[str]:
    """Rank classification: against transformers, every choice with its prompt, by hand."""
    ours = _measure("choices as branches of a prompt", "choices_ours", work)
    theirs = _measure("transformers, choice by choice", "choices_theirs", work)
    pairs = zip(ours.result["found"], theirs.result["found"], strict=True)
    apart = max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))
    if not apart < 1e-2:
        raise UserError(f"choices: the log-likelihoods are {apart:g} from those of transformers")
    count = len(ours.result["found"])
    title = (
        f"choices: {count} rows of P3, {sum(map(len, ours.result['found']))} choices, "
        f"{ours.result['parameters']:,} parameters, {work.batch} sequences at once, median of "
        f"{work.runs}\nlog-likelihoods {apart:.1e} apart at most; the first evaluation, which "
        f"compiles, {ours.result['first']:.1f} s; accuracy {ours.result['accuracy']:.1f}"
    )
    return [
        table(title, ours, [theirs]),
        verdict("transformers / ours", theirs.seconds / ours.seconds, 1.5, at_most=False),
    ]


def texts(work: Work) -> list[str]:
    """Greedy texts after prompts of mixed lengths: against transformers' generate."""
    ours = _measure("texts, batches by length", "texts_ours", work, new=work.new)
    theirs = _measure("transformers' generate", "texts_theirs", work, new=work.new)
    found, lengths = ours.result["found"], ours.result["lengths"]
    same = sum(a == b for a, b in zip(found, theirs.result["found"], strict=True))
    # Rounding may turn a near tie, after which a text goes its own way.
    if same < 0.9 * len(found):
        raise UserError(f"texts: only {same} of {len(found)} are those of transformers")
    tokens = sum(map(len, found))
    title = (
        f"texts: {len(found)} prompts of P3 of {min(lengths)} to {max(lengths)} tokens, up to "
        f"{work.new} new, {ours.result['parameters']:,} parameters, {work.batch} prompts at once, "
        f"median of {work.runs}\n{same} of {len(found)} texts are the same, {tokens:,} tokens: "
        f"{tokens / ours.seconds:,.0f} a second, transformers {tokens / theirs.seconds:,.0f}; "
        f"compiled for {len(ours.result['compiled'])} lengths, the first time "
        f"{ours.result['first']:.1f} s"
    )
    ratio = theirs.seconds / ours.seconds
    return [
        table(title, ours, [theirs]),
        verdict("transformers / ours", ratio, work.target, at_most=False),
    ]


def card(work: Work) -> list[str]:
    """Greedy texts of a model of a billion weights on a GPU, 64 at once: against transformers'."""
    if not child("looking for a GPU", "has_card").result["found"]:
        return ["card: skipped, no GPU that both JAX and torch find"]
    with tempfile.TemporaryDirectory(prefix="zsg_jax-benchmark-") as folder:
        child("a random model", "make", script=CARD, folder=folder, tiny=False)
        given = {"folder": folder, "batch": 64, "new": 128, "runs": work.runs}
        ours = child("texts", "ours", script=CARD, **given)
        theirs = child("transformers' generate, sdpa", "theirs", script=CARD, **given)
    rate = child("a copy", "bandwidth", script=CARD).result["rate"]
    token, result = ours.result["token"], ours.result
    pairs = list(zip(result["found"], theirs.result["found"], strict=True))
    same = sum(a[:1] == b[:1] for a, b in pairs)
    read, texts = result["bytes"] + result["cache"], 64 * 128
    title = (
        f"card: 64 prompts of 64 to 384 made-up tokens, 128 new, a Llama of "
        f"{result['bytes'] / 2:,.0f} random weights, bfloat16, median of {work.runs}\n"
        f"first tokens as transformers': {same} of {len(pairs)}; {texts / ours.seconds:,.0f} "
        f"tokens a second, transformers {texts / theirs.seconds:,.0f}; prompts "
        f"{result['1']:.3f} s, then {1e3 * token:.2f} ms a token of all; the first time "
        f"{result['first']:.0f} s\nweights and cache are {read / 1e9:.2f} GB a token, "
        f"{1e3 * read / rate:.2f} ms at the {rate / 1e12:.2f} TB/s that a copy reaches here"
    )
    return [
        table(title, ours, [theirs]),
        verdict("transformers / ours", theirs.seconds / ours.seconds, 3, at_most=False),
        verdict("bandwidth limit / a token", read / rate / token, 0.6, at_most=False),
    ]


CASES: dict[str, Callable[[Work], list[str]]] = {"choices": choices, "texts": texts, "card": card}


def main() -> None:
    """Runs the cases named on the command line."""
    listing = "\n".join(f"  {name:10} {run.__doc__}" for name, run in CASES.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"cases:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="+", choices=CASES, metavar="CASE", help="see below")
    parser.add_argument("--model", help="a Hugging Face folder")
    parser.add_argument("--rows", type=int, help="so many test rows instead of all")
    parser.add_argument("--batch", type=int, default=16, help="sequences at once")
    parser.add_argument("--runs", type=int, default=3, help="runs of which the median is told")
    parser.add_argument("--new", type=int, default=64, help="tokens of a text")
    parser.add_argument("--target", type=float, default=3.0, help="of texts, times as fast")
    parser.add_argument("--output", type=Path, help="folder for one text file a case")
    flags = parser.parse_args()
    assets = Path(os.environ.get("ZSG_JAX_ASSETS") or "none")
    model, data = flags.model or assets / "models" / "stories260k", assets / "data" / "p3"
    if set(flags.cases) != {"card"} and not (data.is_dir() and Path(model).is_dir()):
        print("evaluation: skipped, ZSG_JAX_ASSETS names no folder with models/ and data/")
        return
    given = flags.rows, flags.batch, flags.runs, flags.new, flags.target
    work = Work(str(model), str(data / "test.jsonl.gz"), *given)
    for name in flags.cases:
        tell(name, partial(CASES[name], work), flags.output)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
