"""Training steps to be measured: each function here runs alone in a process of its own."""

import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from measuring import peak_memory, timed

from zsg_jax.data.batches.steps import SequencesAtOnce, Steps, lay, sequence_length
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.tokenize.encode import Examples, encode
from zsg_jax.data.tokenize.tokenizer import from_folder
from zsg_jax.training import optimizer, sharding
from zsg_jax.training.trainer import Trainer, TrainerOptions

# The p3 preset's, but for its number of steps.
BATCH, LONGEST, RATE, CLIP = 16, 512, 1e-3, 1.0

# The shape of stories260k, and about the lengths of P3's rows, for where neither is at hand.
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": LONGEST,
    "tie_word_embeddings": True,
}
MEAN_LENGTH, DEVIATION = 190, 0.8


class MadeUp:
    """Random tokens in rows whose lengths are spread as those of P3's are; the last third answers.

    As `data.prompts.Examples`: item i is the tokens and the loss mask of row i.
    """

    def __init__(self, count: int) -> None:
        self._rng = np.random.default_rng(1)
        drawn = MEAN_LENGTH * np.exp(
            DEVIATION * self._rng.standard_normal(count) - DEVIATION**2 / 2
        )
        self.lengths = np.clip(drawn, 8, LONGEST).astype(np.int32)
        self._tokens = [
            self._rng.integers(3, SHAPE["vocab_size"], length, np.int32) for length in self.lengths
        ]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: Any) -> tuple[np.ndarray, np.ndarray]:
        tokens = self._tokens[row]
        return tokens, np.arange(len(tokens)) >= 2 * len(tokens) // 3


class Work(NamedTuple):
    """The rows that both sides train on, in the order they do."""

    model: Path
    examples: Examples | MadeUp
    order: np.ndarray


def make_model(folder: str) -> tuple:
    """Writes a random model in the shape of stories260k."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder)
    return 0.0, {}


def _work(assets: str, steps: int) -> Work:
    if not (Path(assets) / "models").is_dir():
        count = steps * BATCH
        return Work(Path(assets), MadeUp(count), np.arange(count))
    model = Path(assets) / "models" / "stories260k"
    instances = []
    with gzip.open(Path(assets) / "data" / "p3" / "train.jsonl.gz", "rt") as file:
        for number, line in enumerate(file):
            turns = [Turn(**turn) for turn in json.loads(line)["messages"]]
            instances.append(Instance(id=str(number), task="", turns=tuple(turns), references=()))
    examples = encode(instances, from_folder(model), LONGEST)
    usable = np.flatnonzero(examples.answer_tokens)
    order = np.random.default_rng(0).permutation(usable)[: steps * BATCH]
    return Work(model, examples, order)


def ours(
    assets: str,
    steps: int,
    packing: bool,
    length: int | None,
    micro: int,
    runs: int,
    warm: int = 0,
) -> tuple:
    """This project's steps, compiling not counted, laying the rows counted.

    `length` is that of a row; None: of the longest instance. `warm` steps go before, unmeasured.
    """
    from zsg_jax.models import huggingface

    work, mesh = _work(assets, steps), sharding.make_mesh(1, 1)
    lengths = work.examples.lengths
    length = length or sequence_length(int(lengths[work.order].max()), LONGEST)
    options = TrainerOptions(BATCH, micro, RATE, "cosine", 0, CLIP, 0.0, packing)
    config = huggingface.read_config(work.model)
    trainer = Trainer(config, options, mesh, init_from=work.model)
    at_once = SequencesAtOnce(1, micro) if packing else None
    laid = Steps(work.examples, work.order, batch_size=BATCH, length=length, packing=at_once)
    step = trainer.compiled_step(steps, length, laid.shapes(steps))
    placed = jax.tree.map(lambda leaf: leaf.sharding, trainer.abstract_state)
    start = jax.device_get(trainer.initial_state(0))

    def run(steps: int = steps) -> list[float]:
        state, losses = jax.device_put(start, placed), []
        for number in range(steps):
            state, metrics = step(state, sharding.place_batch(laid[number], mesh))
            losses.append(metrics["loss"])
        return [float(loss) for loss in jax.device_get(losses)]

    run(warm)
    seconds, losses = timed(run, runs)
    shapes, cores = laid.shapes(steps), len(os.sched_getaffinity(0))
    rows = float(laid.counts[:steps].mean())
    said = {"losses": losses, "fill": laid.fill(steps), "rows": rows, "length": length}
    return seconds, said | {"compiles": len(shapes), "batch": BATCH, "threads": cores}


def theirs(
    assets: str, steps: int, length: int | None, micro: int, runs: int, warm: int = 0
) -> tuple:
    """transformers' Llama under torch, rows padded to `length`; None: to the longest of a batch."""
    import torch
    from transformers import LlamaForCausalLM

    work = _work(assets, steps)
    model = LlamaForCausalLM.from_pretrained(work.model, dtype=torch.float32)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    rate = optimizer.schedule("cosine", RATE, steps, 0)
    rates = [float(rate(number)) for number in range(steps)]
    lengths, places = work.examples.lengths, 0

    def take(number: int, tx: Any) -> float:
        nonlocal places
        index = work.order[number * BATCH : (number + 1) * BATCH]
        batch = lay(work.examples, index, BATCH, length or int(lengths[index].max()))
        places += batch["tokens"].size
        count, total = int(batch["loss_mask"][:, 1:].sum()), 0.0
        tx.zero_grad()
        for first in range(0, BATCH, micro):
            part = {name: torch.tensor(rows[first : first + micro]) for name, rows in batch.items()}
            tokens, mask = part["tokens"].long(), part["segment_ids"].long()
            logits = model(tokens, attention_mask=mask, use_cache=False).logits[:, :-1]
            answers = part["loss_mask"][:, 1:]
            loss = torch.nn.functional.cross_entropy(
                logits[answers], tokens[:, 1:][answers], reduction="sum"
            )
            (loss / count).backward()
            total += loss.item() / count
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for group in tx.param_groups:
            group["lr"] = rates[number]
        tx.step()
        return total

    def run(steps: int = steps) -> list[float]:
        nonlocal places
        places = 0
        model.load_state_dict(start)
        tx = torch.optim.AdamW(
            model.parameters(), lr=RATE, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0
        )
        return [take(number, tx) for number in range(steps)]

    run(warm)
    seconds, losses = timed(run, runs)
    said = {"losses": losses, "fill": float(lengths[work.order].sum() / places)}
    return seconds, said | {"threads": torch.get_num_threads()}


if __name__ == "__main__":
    seconds, result = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"seconds": seconds, "peak": peak_memory(), "result": result}))
