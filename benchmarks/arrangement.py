"""How fast TMTA and what it rests on are, each against its peer in the same run.

    python benchmarks/arrangement.py small empty disk huge embedding encoders gpu

prints a table for each case named. Embeddings are made up by a fixed seed and written to a
temporary folder, removed at the end: `huge` and `gpu` need 10 GB there (TMPDIR names another one).
Everything is measured in this very run, each line in a process of its own, one after the other.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import made_up
import numpy as np
from encoders import SHAPES
from measuring import Measured, child, table, tell, verdict

from zsg_jax.arrangement.turns import first_length
from zsg_jax.runtime.errors import UserError

ENCODERS = Path(__file__).with_name("encoders.py")
NO_ASSETS = "skipped, ZSG_JAX_ASSETS names no folder with models/ and data/"


@dataclasses.dataclass
class Sizes:
    """What a case works on; flags override each."""

    rows: int
    tests: int
    dimension: int = 384
    budget: int | None = 30_000
    runs: int = 3
    dtype: str = "float32"

    @property
    def k(self) -> int:
        """Length of faiss's and torch's lists: that of `tmta`'s first ones."""
        return first_length(self.rows, self.tests, self.budget)


def make(folder: Path, sizes: Sizes) -> dict[str, str]:
    """Writes training and test rows; gives their paths."""
    both = {"train": str(folder / "train.npy"), "test": str(folder / "test.npy")}
    print(f"… making {sizes.rows:,} rows up", file=sys.stderr, flush=True)
    made_up.write(Path(both["train"]), sizes.rows, sizes.dimension, dtype=sizes.dtype, test=False)
    made_up.write(Path(both["test"]), sizes.tests, sizes.dimension, dtype="float32", test=True)
    return both


def title(name: str, sizes: Sizes, ours: Measured) -> str:
    """What the numbers of a table belong to."""
    budget = "all rows" if sizes.budget is None else f"{sizes.budget:,}"
    return (
        f"{name}: N={sizes.rows:,} T={sizes.tests:,} D={sizes.dimension} {sizes.dtype}, "
        f"budget {budget}, k={sizes.k}, median of {sizes.runs}\n"
        f"turns {ours.result['turns']:,}, rows chosen {ours.result['chosen']:,}, "
        f"passes over the rows {ours.result['rows_streamed'] / sizes.rows:.2f}"
    )


def small(folder: Path, sizes: Sizes) -> list[str]:
    """Rows in memory, up to a budget: against faiss, the study's algorithm and a bare matmul."""
    files = make(folder, sizes)
    ours = child("tmta", "tmta", **files, in_memory=True, budget=sizes.budget, runs=sizes.runs)
    faiss = child("faiss top-k search", "faiss_search", **files, k=sizes.k, runs=sizes.runs)
    bare = child("bare matmul", "matmul", **files, in_memory=True, runs=sizes.runs)
    studies = _studies(files, sizes, ours)
    return [
        table(title("small", sizes, ours), ours, [faiss, bare, *studies]),
        verdict("tmta / faiss", ours.seconds / faiss.seconds, 1.25, at_most=True),
        verdict("study / tmta", studies[0].seconds / ours.seconds, 10, at_most=False),
    ]


def empty(folder: Path, sizes: Sizes) -> list[str]:
    """The same until the pool is empty: against the study's algorithm."""
    files = make(folder, sizes)
    ours = child("tmta", "tmta", **files, in_memory=True, budget=sizes.budget, runs=sizes.runs)
    studies = _studies(files, sizes, ours)
    return [
        table(title("empty", sizes, ours), ours, studies),
        verdict("study / tmta", studies[0].seconds / ours.seconds, 30, at_most=False),
    ]


def _studies(files: dict[str, str], sizes: Sizes, ours: Measured) -> list[Measured]:
    """The study's algorithm on its matrix (N, T), and on the transposed one, faster in NumPy."""
    found = [
        child(what, "study", **files, budget=sizes.budget, transposed=transposed)
        for what, transposed in (("study, (N, T) matrix", False), ("study, transposed", True))
    ]
    for peer in found:
        if peer.result["digest"] != ours.result["digest"]:
            raise UserError(f"{peer.what}: its order is not that of tmta")
    return found


def disk(folder: Path, sizes: Sizes) -> list[str]:
    """The study's real size, rows on disk: against a bare matmul that reads them too."""
    files = make(folder, sizes)
    ours = child("tmta", "tmta", **files, in_memory=False, budget=sizes.budget, runs=sizes.runs)
    bare = child("bare matmul", "matmul", **files, in_memory=False, runs=sizes.runs)
    return [
        table(title("disk", sizes, ours), ours, [bare]),
        verdict("peak", ours.peak / 1e9, 3, at_most=True, unit=" GB"),
        verdict("tmta / bare matmul", ours.seconds / bare.seconds, 1.5, at_most=True),
    ]


def huge(folder: Path, sizes: Sizes) -> list[str]:
    """Tens of millions, bfloat16 on disk: time a row against the disk case's, and a bare matmul."""
    files = make(folder, sizes)
    options = {"in_memory": False, "budget": sizes.budget}
    ours = child("tmta", "tmta", **files, **options, runs=sizes.runs)
    bare = child("bare matmul", "matmul", **files, in_memory=False, runs=sizes.runs)
    real = dataclasses.replace(
        sizes,
        rows=max(1, sizes.rows * 1_340_000 // 10_000_000),
        tests=sizes.tests * 1125 // 1000,
        dtype="float32",
    )
    smaller = child("tmta, the disk case", "tmta", **make(folder, real), **options, runs=1)
    a_row = [1e6 * found.seconds / n.rows for found, n in ((ours, sizes), (smaller, real))]
    return [
        table(title("huge", sizes, ours), ours, [bare, smaller]),
        f"microseconds a row: {a_row[0]:.2f} here, {a_row[1]:.2f} at N={real.rows:,} "
        f"T={real.tests:,}",
        verdict("peak", ours.peak / 1e9, 4, at_most=True, unit=" GB"),
        verdict("time a row / the disk case's", a_row[0] / a_row[1], 1.2, at_most=True),
        verdict("tmta / bare matmul", ours.seconds / bare.seconds, 1.5, at_most=True),
    ]


def embedding(folder: Path, sizes: Sizes) -> list[str]:
    """Real P3 rows through MiniLM on the CPU: against sentence-transformers, same weights."""
    assets = _assets()
    if assets is None:
        return [NO_ASSETS]
    model = assets / "models" / "all-MiniLM-L6-v2"
    return _embedding(f"embedding, {model.name}", model, assets, sizes)


def encoders(folder: Path, sizes: Sizes) -> list[str]:
    """The same, through random weights in the shapes of a BERT, a ModernBERT and a Qwen 3."""
    assets, lines = _assets(), []
    if assets is None:
        return [NO_ASSETS]
    for kind, (shape, _, _) in SHAPES.items():
        made = folder / kind
        child(f"making {shape}", "make", ENCODERS, kind=kind, folder=str(made), assets=str(assets))
        lines += _embedding(f"{kind}: as {shape}", made, assets, sizes)
    return lines


def _assets() -> Path | None:
    assets = Path(os.environ.get("ZSG_JAX_ASSETS", "/nonexistent"))
    return assets if (assets / "models" / "all-MiniLM-L6-v2").is_dir() else None


def _embedding(title: str, model: Path, assets: Path, sizes: Sizes) -> list[str]:
    """A table of one encoder."""
    work = {"folder": str(model), "assets": str(assets), "rows": sizes.rows, "runs": sizes.runs}
    ours = child("SentenceEncoder", "sentences", ENCODERS, **work, ours=True)
    peer = child("sentence-transformers", "sentences", ENCODERS, **work, ours=False)
    apart = np.abs(np.subtract(ours.result["some"], peer.result["some"])).max()
    if apart > 1e-5:
        raise UserError(f"{title}: the two are {apart:g} apart, so they compute different things")
    rows = ours.result["rows"]
    rates = [f"{rows / one.seconds:.1f}" for one in (ours, peer)]
    firsts = [f"{one.result['first']:.1f}" for one in (ours, peer)]
    return [
        table(f"{title}: {rows:,} rows of P3, median of {sizes.runs}", ours, [peer]),
        f"examples/s {rates[0]} and {rates[1]}; the first run, which compiles, {firsts[0]} s and "
        f"{firsts[1]} s",
        verdict("its seconds / ours", peer.seconds / ours.seconds, 1.2, at_most=False),
    ]


def gpu(folder: Path, sizes: Sizes) -> list[str]:
    """A card's turn: seconds, share of its measured rate, against torch's matmul and topk."""
    if not child("looking for a GPU", "has_card").result["found"]:
        return ["gpu: skipped, no GPU that both JAX and torch find"]
    files = make(folder, sizes)
    ours = child("tmta", "tmta", **files, in_memory=False, budget=sizes.budget, runs=sizes.runs)
    rates = {name: child(name, "card_rate", dtype=name) for name in ("float32", "bfloat16")}
    search = {"k": sizes.k, "runs": sizes.runs}
    peers = [child("bare matmul", "matmul", **files, in_memory=False, runs=sizes.runs)]
    peers += [
        child(f"torch matmul+topk {name}", "torch_search", **files, dtype=name, **search)
        for name in rates
    ]
    done = 2 * ours.result["rows_streamed"] * sizes.tests * sizes.dimension / ours.seconds
    shares = [
        f"{done / 1e12:.1f} TFLOP/s, {done / rate.result['flops']:.1%} of the card's measured "
        f"{rate.result['flops'] / 1e12:.1f} in {name}"
        for name, rate in rates.items()
    ]
    return [table(title("gpu", sizes, ours), ours, peers), *shares]


CASES: dict[str, tuple[Callable[[Path, Sizes], list[str]], Sizes]] = {
    "small": (small, Sizes(200_000, 1_000)),
    "empty": (empty, Sizes(200_000, 1_000, budget=None)),
    "disk": (disk, Sizes(1_340_000, 1_125)),
    "huge": (huge, Sizes(10_000_000, 1_000, runs=1, dtype="bfloat16")),
    "embedding": (embedding, Sizes(2_000, 0)),
    "encoders": (encoders, Sizes(400, 0, runs=2)),
    "gpu": (gpu, Sizes(10_000_000, 10_000, runs=1, dtype="bfloat16")),
}


def main() -> None:
    """Runs the cases named on the command line."""
    listing = "\n".join(f"  {name:10} {run.__doc__}" for name, (run, _) in CASES.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"cases:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="+", choices=CASES, metavar="CASE", help="see below")
    for name in ("rows", "tests", "dimension", "budget", "runs"):
        parser.add_argument(f"--{name}", type=int, help=f"another {name} than the case's own")
    parser.add_argument("--output", type=Path, help="folder for one text file a case")
    flags = parser.parse_args()
    names = [field.name for field in dataclasses.fields(Sizes)]
    given = {k: v for k, v in vars(flags).items() if k in names and v is not None}
    for name in flags.cases:
        run, sizes = CASES[name]
        with tempfile.TemporaryDirectory(prefix="zsg_jax-benchmark-") as folder:
            case = partial(run, Path(folder), dataclasses.replace(sizes, **given))
            tell(name, case, flags.output)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
