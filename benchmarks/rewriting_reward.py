"""Trains a reward model of string rewriting: how many letters of an answer are right, in its words.

    python benchmarks/rewriting_reward.py REWRITES OUTPUT [STEPS]

REWRITES is an address of rows to train on, "rewrites:rules=…,spaced=true"; a sixteenth of its rules
is kept to tell how often the better of two answers is preferred. Each row is shown with two answers
of its prompt, one more wrong than the other: by letters drawn anew, or the prompt's own letters
with no rule applied. The loss is -log sigmoid(difference of rewards), of Bradley and Terry, plus
that of the right answer's next tokens, from which the model learns what rewriting is. OUTPUT is a
folder of transformers' LlamaForSequenceClassification with tokenizer and chat template, so
`evaluation.texts.reward_template` is "chat". It needs torch and transformers.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.nn import functional

from zsg_jax.data.rewriting.address import records
from zsg_jax.data.tokenize.tokenizer import Tokenizer, train_bpe

VOCABULARY, LENGTH, BATCH, RATE, WARMUP = 320, 64, 64, 3e-3, 100
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.content }}"
    "{{ '\\n' if message.role == 'user' else eos_token }}{% endfor %}"
)
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 344,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4,
    "max_position_embeddings": 128, "num_labels": 1,
}  # fmt: skip
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
UNAPPLIED = -1
WRONG = (0, 0, 0, 1, 1, 2, 3, 5, UNAPPLIED)  # letters, as they are drawn
Row = tuple[str, str]


def worse(row: Row, draw: np.random.Generator, wrong: int) -> str:
    """The right answer with `wrong` letters drawn anew; `UNAPPLIED`: what was to be rewritten."""
    if wrong == UNAPPLIED:
        return row[0].split("\n")[-1]
    letters = row[1].split()
    for place in draw.choice(len(letters), wrong, replace=False):
        letters[place] = draw.choice([one for one in ALPHABET if one != letters[place]])
    return " ".join(letters)


def two(row: Row, draw: np.random.Generator) -> tuple[str, str]:
    """Two answers of a row, the first the better: with fewer letters that are wrong."""
    while True:
        made = [worse(row, draw, wrong) for wrong in draw.choice(WRONG, 2)]
        errors = [
            sum(a != b for a, b in zip(one.split(), row[1].split(), strict=True)) for one in made
        ]
        if errors[0] != errors[1]:
            return (made[0], made[1]) if errors[0] < errors[1] else (made[1], made[0])


class Sequences:
    """Texts as (n, LENGTH) tokens, and where each prompt and each text ends."""

    def __init__(self, tokenizer: Tokenizer, prompts: Sequence[str], texts: Sequence[str]) -> None:
        """Tokenizes as `TEMPLATE` writes."""
        bos, eos = tokenizer.bos_id, tokenizer.eos_id
        ids = tokenizer.encode([f"{p}\n{t}" for p, t in zip(prompts, texts, strict=True)])
        self.tokens = torch.full((len(ids), LENGTH), eos)
        self.ends = torch.tensor([len(one.ids) + 1 for one in ids])
        self.starts = torch.tensor([len(one.ids) for one in tokenizer.encode(list(prompts))]) + 2
        for row, one in zip(self.tokens, ids, strict=True):
            row[: len(one.ids) + 1] = torch.tensor([bos, *one.ids])


def rewards(model: torch.nn.Module, seen: Sequences) -> tuple[torch.Tensor, torch.Tensor]:
    """The rewards (n,) of sequences and the logits (n, LENGTH - 1, vocabulary) of next tokens."""
    hidden = model.model(seen.tokens[:, : int(seen.ends.max()) + 1]).last_hidden_state
    scores = model.score(hidden)[torch.arange(len(seen.ends)), seen.ends, 0]
    return scores, hidden[:, :-1] @ model.model.embed_tokens.weight.T


def loss_of(model: torch.nn.Module, tokenizer: Tokenizer, rows: list[Row], draw) -> torch.Tensor:
    """Bradley and Terry's loss of two answers to each row, plus that of the right one's tokens."""
    better, worse_ = zip(*(two(row, draw) for row in rows), strict=True)
    prompts, right = zip(*rows, strict=True)
    n = len(rows)
    seen = Sequences(tokenizer, prompts * 3, (*better, *worse_, *right))
    scores, logits = rewards(model, seen)
    places = torch.arange(1, logits.shape[1] + 1)
    answer = (places >= seen.starts[2 * n :, None]) & (places <= seen.ends[2 * n :, None])
    targets = seen.tokens[2 * n :, 1 : logits.shape[1] + 1].masked_fill(~answer, -100)
    next_tokens = functional.cross_entropy(logits[2 * n :].flatten(0, 1), targets.flatten())
    return next_tokens - functional.logsigmoid(scores[:n] - scores[n : 2 * n]).mean()


def preferred(model: torch.nn.Module, tokenizer: Tokenizer, rows: list[Row]) -> dict[int, float]:
    """How often the right answer has more reward than one with so many wrong letters, a share."""
    draw, found = np.random.default_rng(1), {}
    prompts, right = zip(*rows, strict=True)
    with torch.no_grad():
        best, _ = rewards(model, Sequences(tokenizer, prompts, right))
        for wrong in (1, 2, 5, UNAPPLIED):
            texts = [worse(row, draw, wrong) for row in rows]
            scores, _ = rewards(model, Sequences(tokenizer, prompts, texts))
            found[wrong] = float((best > scores).double().mean())
    return found


def main(address: str, output: Path, steps: int) -> None:
    """Trains, tells how often the better answer is preferred, and writes the folder."""
    rows, held_out = [], []
    for record in records(Path(address)):
        one = json.loads(record.raw)
        side = held_out if one["instruction"] % 16 == 0 else rows
        side.append((one["prompt"], one["completion"]))
    tokenizer = train_bpe((text for row in rows for text in row), VOCABULARY)
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    config = transformers.LlamaConfig(**SHAPE, pad_token_id=tokenizer.eos_id)
    model = transformers.LlamaForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.1)
    start = time.perf_counter()
    for step in range(1, steps + 1):
        part = [rows[i] for i in draw.choice(len(rows), BATCH, replace=False)]
        loss = loss_of(model, tokenizer, part, draw)
        falling = 0.1 + 0.45 * (1 + np.cos(np.pi * step / steps))
        optimizer.param_groups[0]["lr"] = RATE * min(step / WARMUP, 1) * falling
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps:
            shares = preferred(model, tokenizer, held_out[:1024])
            told = ", ".join(f"{_named(wrong)} {share:.3f}" for wrong, share in shares.items())
            seconds = time.perf_counter() - start
            print(
                f"step {step}, loss {loss.item():.3f}, {seconds:.0f} s; preferred to {told}",
                flush=True,
            )
    model.save_pretrained(output)
    tokenizer.save(output)
    (output / "chat_template.jinja").write_text(TEMPLATE)


def _named(wrong: int) -> str:
    return "no rule applied" if wrong == UNAPPLIED else f"{wrong} wrong"


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(f"usage: {sys.argv[0]} REWRITES OUTPUT [STEPS]")
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else 1500)
