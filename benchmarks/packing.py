"""How fast a packed step is, beside the same step one instance a row, ours and transformers'.

    ZSG_JAX_ASSETS=DIR python benchmarks/packing.py

trains a pretrained Llama of 260,032 parameters (stories260k) on rows of P3 with the settings of the
p3 preset, and prints examples a second: packed; one instance a row, padded to 2,048 tokens as the
study pads; padded to the longest; and the last two under transformers and torch. All take the same
instances in the same steps, and their losses are compared. Everything is measured in this very run,
each line in a process of its own, one after the other.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from measuring import Measured, child, table, tell, verdict

from zsg_jax.runtime.errors import UserError

WORK = Path(__file__).with_name("steps.py")


def measure(assets: str, steps: int, micro: int, runs: int, long: int) -> list[str]:
    """Lines of the table, the rates and the verdicts."""
    shared = {"assets": assets, "steps": steps, "micro": micro, "runs": runs}

    def one(what: str, name: str, **arguments: object) -> Measured:
        return child(what, name, script=WORK, **shared, **arguments)

    packed = one("packed", "ours", packing=True, length=None)
    peers = [
        one(f"unpacked, padded to {long:,}", "ours", packing=False, length=long),
        one("unpacked, padded to the longest", "ours", packing=False, length=None),
        one(f"transformers, padded to {long:,}", "theirs", length=long),
        one("transformers, padded to the longest", "theirs", length=None),
    ]
    for peer in peers:
        pairs = zip(packed.result["losses"], peer.result["losses"], strict=True)
        apart = max(abs(a - b) for a, b in pairs)
        if not apart < 0.01:
            raise UserError(f"{peer.what}: its losses are {apart:g} from those of the packed steps")
    batch = packed.result["batch"]
    rates = [
        f"{row.what:38}{steps * batch / row.seconds:10.1f} examples a second, "
        f"{row.result['fill']:.1%} of the places hold a token"
        for row in (packed, *peers)
    ]
    ratio = [peer.seconds / packed.seconds for peer in peers]
    title = (
        f"packing: {steps} steps of {batch} instances of P3, {micro} rows at once, median of {runs}"
        f"\npacked: {packed.result['rows']:.2f} rows a step of {packed.result['length']} tokens, "
        f"{packed.result['compiles']} shapes compiled"
    )
    return [
        table(title, packed, peers),
        *rates,
        verdict(f"packed over unpacked at {long:,}", ratio[0], 3, at_most=False),
        verdict("packed over unpacked at the longest", ratio[1], 1, at_most=False),
        verdict("packed over transformers at the longest", ratio[3], 1, at_most=False),
    ]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20, help="steps of a run")
    parser.add_argument("--runs", type=int, default=3, help="runs of which the median is told")
    parser.add_argument("--micro", type=int, default=4, help="rows at once")
    parser.add_argument("--long", type=int, default=2048, help="tokens of a long row")
    parser.add_argument("--output", type=Path, help="folder for packing.txt")
    flags = parser.parse_args()
    assets = os.environ.get("ZSG_JAX_ASSETS")
    if not assets or not (Path(assets) / "models" / "stories260k").is_dir():
        print("packing: skipped, ZSG_JAX_ASSETS names no folder with models/ and data/")
        return
    case = partial(measure, assets, flags.steps, flags.micro, flags.runs, flags.long)
    tell("packing", case, flags.output)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
