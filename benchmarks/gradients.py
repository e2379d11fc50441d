"""How fast gradients of single examples are made and projected, against torch and peft.

    ZSG_JAX_ASSETS=DIR python benchmarks/gradients.py [--model FOLDER] [--rows N]

prints a table of rows of P3 under a pretrained model with adapters (default: stories260k, rank 8 of
all products). The peer is what LESS's own way comes to on a CPU: an example at a time through
transformers and peft, its gradient kept, and after every 16 of them a projection by random signs
that are drawn in blocks. Each line is measured in a process of its own, one after the other, and
the inner products of gradients are compared.
"""

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Measured, child, peak_memory, table, tell, timed, verdict
from p3_choices import rows as read_rows

from zsg_jax.runtime.errors import UserError

RANK, ALPHA = 8, 16.0
COMPARED = 24
# Gradients that the peer projects at once, and columns whose signs it draws at once.
AT_ONCE, BLOCK = 16, 512


def _texts(data: str, model: str, count: int) -> list[str]:
    """Conversations of P3 that fit the model whole, evenly spaced."""
    from zsg_jax.data.instance import Instance, Turn
    from zsg_jax.data.tokenize.tokenizer import from_folder
    from zsg_jax.data.views import conversations

    tokenizer, view = from_folder(model), conversations("both")
    given = [
        Instance(one["id"], "", tuple(Turn(**turn) for turn in one["messages"]), ())
        for one in read_rows(data)
    ]
    lengths = [len(one.ids) for one in tokenizer.encode([one.text for one in given])]
    fitting = [view(one) for one, n in zip(given, lengths, strict=True) if n < 450]
    return fitting[:: max(1, len(fitting) // count)][:count]


def _encoder(model: str, dimension: int) -> Any:
    """The encoder, with the adapters that training begins with but for zeros."""
    import jax

    from zsg_jax.data.tokenize.encode import STUDY_FORM
    from zsg_jax.data.tokenize.tokenizer import from_folder
    from zsg_jax.models import huggingface
    from zsg_jax.models.gradients import select
    from zsg_jax.models.lora import LoRA, join, split
    from zsg_jax.models.model import abstract
    from zsg_jax.similarity.encoders.address import Gradients
    from zsg_jax.similarity.encoders.gradients import GradientsEncoder, Stage

    config, lora, rng = huggingface.read_config(model), LoRA(RANK, ALPHA), np.random.default_rng(0)
    shapes = split(abstract(config, lora=lora)[1])[0]
    drawn = jax.tree.map(lambda x: rng.normal(0, 0.05, x.shape).astype(np.float32), shapes)
    params = join(drawn, huggingface.load(model, config))
    stage = Stage(*select(params, "", adapted=True, told="benchmark"))
    settings = Gradients(model, dimension=dimension)
    tokenizer = from_folder(model)
    return GradientsEncoder(config, [stage], tokenizer, STUDY_FORM, settings, lora=lora)


def ours(model: str, data: str, rows: int, dimension: int, runs: int) -> tuple:
    """Embeddings of all rows; the first time, which compiles, is not counted."""
    texts, encoder = _texts(data, model, rows), _encoder(model, dimension)
    first, _ = timed(lambda: encoder.encode(texts), 1)
    seconds, found = timed(lambda: encoder.encode(texts), runs)
    some = found[:COMPARED].astype(np.float64)
    return seconds, {"first": first, "numbers": encoder.count, "cosines": (some @ some.T).tolist()}


def theirs(model: str, data: str, rows: int, dimension: int, runs: int) -> tuple:
    """transformers and peft, example by example, on the same tokens."""
    import peft
    import torch
    import transformers

    encoder = _encoder(model, dimension)
    texts = _texts(data, model, rows)
    sequences = list(encoder._conversations.tokens(texts))
    network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    wanted = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    network = peft.get_peft_model(network, wanted).eval()
    _set_adapters(network, encoder._stages[0].chosen)
    chosen = [one for one in network.parameters() if one.requires_grad]
    examples = []
    for one in sequences:
        ids = torch.tensor(np.asarray(one.ids)).long()[None]
        labels = torch.where(torch.tensor(np.asarray(one.counted))[None], ids, -100)
        examples.append((ids, labels))

    def gradient(ids: Any, labels: Any) -> Any:
        network.zero_grad()
        network(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        return torch.cat([one.grad.flatten() for one in chosen])

    def project(some: Any) -> Any:
        generator, sums = torch.Generator().manual_seed(0), torch.zeros(len(some), dimension)
        for start in range(0, dimension, BLOCK):
            size = some.shape[1], min(BLOCK, dimension - start)
            signs = torch.randint(0, 2, size, generator=generator, dtype=torch.int8).float()
            sums[:, start : start + BLOCK] = some @ (2 * signs - 1)
        return sums

    def run() -> Any:
        parts = []
        for start in range(0, len(examples), AT_ONCE):
            some = torch.stack([gradient(*one) for one in examples[start : start + AT_ONCE]])
            parts.append(torch.nn.functional.normalize(project(some)))
        return torch.cat(parts)

    run_some = examples[:COMPARED]
    alone = timed(lambda: [gradient(*one) for one in run_some], 1)[0] / len(run_some)
    exact = torch.nn.functional.normalize(torch.stack([gradient(*one) for one in run_some]))
    seconds, _ = timed(run, runs)
    return seconds, {"cosines": (exact @ exact.T).tolist(), "gradient": alone}


def _set_adapters(network: Any, named: dict[str, Any]) -> None:
    import torch

    parts = {"attention": "self_attn", "mlp": "mlp"}
    state = network.state_dict()
    for name, leaf in named.items():
        _, part, product, kind = name.split("/")
        for layer, own in enumerate(np.asarray(leaf)):
            place = f"base_model.model.model.layers.{layer}.{parts[part]}.{product}_proj."
            state[f"{place}lora_{kind[-1].upper()}.default.weight"].copy_(torch.tensor(own.T))


def compare(work: dict[str, Any]) -> list[str]:
    """Both, and how far what they give is apart."""
    here = partial(child, script=Path(__file__), **work)
    own: Measured = here("gradients, many at once", "ours")
    peer: Measured = here("torch and peft, one by one", "theirs")
    cosines, kept = (np.array(one.result["cosines"]) for one in (peer, own))
    off = np.abs(kept - cosines).max() * work["dimension"] ** 0.5
    # Both lengths are projected too: so a little more than an inner product's own error.
    if off > 8:
        raise UserError(f"gradients: a cosine is {off:.1f}/√D from that of torch")
    rows = work["rows"]
    title = (
        f"gradients: {rows} rows of P3, adapters of rank {RANK}, {own.result['numbers']:,} numbers "
        f"each, projected to {work['dimension']:,}, median of {work['runs']}\n"
        f"{rows / own.seconds:.1f} examples a second, torch {rows / peer.seconds:.1f}, of which "
        f"{peer.result['gradient'] * 1e3:.1f} ms an example are gradients; cosines at most "
        f"{off:.1f}/√D apart; the first time, which compiles, {own.result['first']:.1f} s"
    )
    ratio = peer.seconds / own.seconds
    return [table(title, own, [peer]), verdict("torch / ours", ratio, 3, at_most=False)]


def main() -> None:
    """Runs the comparison with the sizes of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a Hugging Face folder of a Llama")
    parser.add_argument("--rows", type=int, default=200, help="of P3's test rows")
    parser.add_argument("--dimension", type=int, default=8192, help="of a projection")
    parser.add_argument("--runs", type=int, default=3, help="runs of which the median is told")
    parser.add_argument("--output", type=Path, help="folder for the text file")
    flags = parser.parse_args()
    assets = Path(os.environ.get("ZSG_JAX_ASSETS") or "none")
    model, data = flags.model or assets / "models" / "stories260k", assets / "data" / "p3"
    if not (data.is_dir() and Path(model).is_dir()):
        print("gradients: skipped, ZSG_JAX_ASSETS names no folder with models/ and data/")
        return
    work = {"model": str(model), "data": str(data / "test.jsonl.gz"), "rows": flags.rows}
    work |= {"dimension": flags.dimension, "runs": flags.runs}
    tell("gradients", partial(compare, work), flags.output)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ("ours", "theirs"):
        seconds, result = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
        print(json.dumps({"seconds": seconds, "peak": peak_memory(), "result": result}))
    else:
        try:
            main()
        except UserError as error:
            sys.exit(str(error))
