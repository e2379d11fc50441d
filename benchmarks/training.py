"""How fast a training step is, beside transformers and torch on the same machine in the same run.

    ZSG_JAX_ASSETS=DIR python benchmarks/training.py cpu
    python benchmarks/training.py small
    python benchmarks/training.py gpu

prints a table for each case named. Each measurement is a process of its own; the sides take turns,
and the median of each is told. `--tiny` runs every line in a minute, on anything, to show that it
runs: its numbers mean nothing.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from measuring import child, table, tell, verdict
from turns import alike, mfu, rate, turns

from zsg_jax.runtime.errors import UserError

STEPS = Path(__file__).with_name("steps.py")
FULL_ROWS = Path(__file__).with_name("full_rows.py")


class Try(NamedTuple):
    """A way to fit a step: rows a step, rows at once, and whether layers are computed again."""

    batch: int
    at_once: int
    remat: bool


# Each side takes the way that is fastest for it.
WAYS: dict[str, tuple[Try, ...]] = {
    "1b": (Try(16, 8, False), Try(16, 4, False), Try(8, 8, False)),
    "7b": (Try(16, 2, True), Try(4, 4, True), Try(2, 2, True)),
}
# The load above which a machine is not this benchmark's alone.
BUSY = 0.5
MFU_TARGET, RATIO_TARGET = 0.5, 1.15


def cpu(flags: argparse.Namespace) -> list[str]:
    """The p3 preset's model, rows and batch, packed: against torch padded to a batch's longest."""
    steps, micro = (1, 2) if flags.tiny else (flags.steps or 20, 2)
    assets = os.environ.get("ZSG_JAX_ASSETS", "")
    with tempfile.TemporaryDirectory(prefix="zsg_jax-benchmark-") as made:
        real = (
            not flags.tiny and bool(assets) and (Path(assets) / "models" / "stories260k").is_dir()
        )
        if not real:
            child("a random model", "make_model", script=STEPS, folder=made)
        shared = {
            "assets": assets if real else made,
            "steps": steps,
            "runs": 1,
            "warm": 0 if flags.tiny else 2,
        }
        packed = {"packing": True, "length": None, "micro": micro}
        ours, *peers = turns(
            flags.runs,
            lambda: child("packed", "ours", script=STEPS, **shared, **packed),
            *(
                lambda what=what, rows=rows: child(
                    what, "theirs", script=STEPS, **shared, length=None, micro=rows
                )
                for what, rows in (("torch, 2 rows at once", 2), ("torch, 16 rows at once", 16))
            ),
        )
    batch = ours.result["batch"]
    for peer in peers:
        alike(ours, peer, 0.01)
    what = "stories260k on rows of P3" if real else "a random model of its shape, made-up rows"
    rates = [
        f"{row.what:38}{steps * batch / row.seconds:10.1f} examples a second, "
        f"{row.result['fill']:.1%} of the places hold a token, {row.result['threads']} threads"
        for row in (ours, *peers)
    ]
    title = (
        f"cpu: {what}, {steps} steps of {batch} instances, float32, median of {flags.runs} turns\n"
        f"packed: {ours.result['rows']:.2f} rows a step of {ours.result['length']} tokens, "
        f"{micro} at once; torch: rows padded to the longest of the batch"
    )
    best = min(peer.seconds for peer in peers)
    said = verdict("examples/s over the faster torch", best / ours.seconds, 1, at_most=False)
    return [table(title, ours, peers), *rates, said]


def small(flags: argparse.Namespace) -> list[str]:
    """A Llama of 5.8 M parameters on full rows of 256 tokens, on a CPU: against torch."""
    shape, steps = ("tiny", 1) if flags.tiny else ("small", flags.steps or 5)
    length = 32 if flags.tiny else 256
    work = {"shape": shape, "dtype": "float32", "length": length, "remat": False}
    work |= {"batch": 16, "at_once": 16, "steps": steps, "warm": 1}
    kinds = {"torch, eager": ""} if flags.tiny else {"torch, eager": "", "torch": "inductor"}
    ours, *peers = turns(
        flags.runs,
        lambda: child("this project", "ours", script=FULL_ROWS, **work),
        *(
            lambda what=what, kind=kind: child(
                what, "theirs", script=FULL_ROWS, **work, compile=kind
            )
            for what, kind in kinds.items()
        ),
    )
    for peer in peers:
        alike(ours, peer, 0.3)
    title = (
        f"small: {steps} steps of 16 rows of {length} tokens, float32, median of {flags.runs} "
        f"turns; threads: ours {ours.result['threads']}, torch {peers[0].result['threads']}"
    )
    rates = [rate(row, 16 * length * steps, ours) for row in (ours, *peers)]
    best = min(peer.seconds for peer in peers)
    said = verdict("steps/s over the faster torch", best / ours.seconds, 1, at_most=False)
    return [table(title, ours, peers), *rates, said]


def gpu(flags: argparse.Namespace) -> list[str]:
    """Llama 1B and 7B, full fine-tuning, bfloat16 products, 2,048 tokens: against torch.compile."""
    if not flags.tiny and not _has_card():
        return ["gpu: skipped, no GPU that both JAX and torch find; --tiny runs it on anything"]
    lines = []
    for shape in ("tiny",) if flags.tiny else flags.shapes:
        ways = (Try(4, 2, True), Try(2, 2, False)) if flags.tiny else WAYS[shape]
        lines += _card(shape, ways, flags)
    return lines


def _card(shape: str, ways: tuple[Try, ...], flags: argparse.Namespace) -> list[str]:
    length, steps = (32, 2) if flags.tiny else (2048, flags.steps or 10)
    compiler = "aot_eager" if flags.tiny else "inductor"
    lines = [
        f"gpu: Llama {shape}, rows of {length} tokens, random weights, all of them trained; "
        f"weights, gradients and AdamW's moments float32, products bfloat16 (torch: autocast); "
        f"torch.compile({compiler}), sdpa, fused AdamW; {steps} steps, median of {flags.runs} turns"
    ]
    best: dict[str, tuple[float, float | None]] = {}
    for way in ways:
        work = {"shape": shape, "dtype": "bfloat16", "length": length, "steps": steps}
        work["warm"] = 1 if flags.tiny else 3
        work |= way._asdict()
        name = f"{way.batch} rows, {way.at_once} at once{', remat' * way.remat}"
        both = turns(
            flags.runs,
            lambda work=work, name=name: child(f"ours, {name}", "ours", script=FULL_ROWS, **work),
            lambda work=work, name=name: child(
                f"torch, {name}", "theirs", script=FULL_ROWS, **work, compile=compiler
            ),
        )
        for side, row in zip(("ours", "torch"), both, strict=True):
            lines.append(rate(row, way.batch * length * steps, both[0]))
            if "lacks" not in row.result:
                found = way.batch * length * steps / row.seconds
                if side not in best or found > best[side][0]:
                    best[side] = found, mfu(row, both[0])
        if all("lacks" not in row.result for row in both):
            alike(*both, 0.3)
    for side in ("ours", "torch"):
        if side not in best:
            lines.append(f"target MISSED: {side} fits in none of these ways")
    if "ours" in best:
        share = best["ours"][1]
        lines.append(
            "target MFU: not told, the device's peak is not known"
            if share is None
            else verdict("MFU", share, MFU_TARGET, at_most=False)
        )
    if len(best) == 2:
        ratio = best["ours"][0] / best["torch"][0]
        lines.append(verdict("tokens/s over torch", ratio, RATIO_TARGET, at_most=False))
    return lines


def _has_card() -> bool:
    return bool(child("looking for a GPU", "has_card").result["found"])


CASES: dict[str, Callable[[Any], list[str]]] = {"cpu": cpu, "small": small, "gpu": gpu}


def main() -> None:
    """Runs the cases named on the command line."""
    listing = "\n".join(f"  {name:10} {run.__doc__}" for name, run in CASES.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"cases:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="+", choices=CASES, metavar="CASE", help="see below")
    parser.add_argument("--runs", type=int, default=3, help="turns of which the median is told")
    parser.add_argument("--steps", type=int, help="measured steps of a turn")
    parser.add_argument("--shapes", nargs="+", choices=WAYS, default=[*WAYS], help="of gpu")
    parser.add_argument("--tiny", action="store_true", help="only show that it runs")
    parser.add_argument("--output", type=Path, help="folder for one text file a case")
    flags = parser.parse_args()

    def remarks(before: str) -> list[str]:
        busy = "the machine was busy with other work: neither side's seconds are its own"
        tiny = "--tiny: a test of the benchmark; no number here means anything"
        return [busy] * (float(before) > BUSY) + [tiny] * flags.tiny

    for name in flags.cases:
        tell(f"training-{name}", partial(CASES[name], flags), flags.output, remarks)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
