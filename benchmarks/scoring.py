"""Evaluations to be measured: each function here runs alone in a process of its own."""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from measuring import peak_memory, timed
from p3_choices import rows, with_choices

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.tokenize.encode import encode_choices, encode_prompts
from zsg_jax.data.tokenize.tokenizer import from_folder

LONGEST = 512
ROOM = 400  # tokens of a prompt, so that every text has room in the smallest model


def _instances(data: str, model: str, count: int | None) -> list[Instance]:
    """Test rows of P3 of which no choice is cut, as the evaluator takes them."""
    given = with_choices(rows(data))
    found = [
        Instance(
            row["id"],
            row["task"],
            tuple(Turn(**turn) for turn in row["messages"]),
            (),
            tuple(row["choices"]),
        )
        for row in given
    ]
    every = len(found) // count if count else 1
    found = found[:: max(1, every)][:count]
    texts = encode_choices(found, from_folder(model), LONGEST)
    return [one for one, own in zip(found, texts, strict=True) if all(text.whole for text in own)]


def choices_ours(model: str, data: str, count: int | None, batch: int, runs: int) -> tuple:
    """The evaluator, laying the rows counted, compiling not; its log-likelihoods."""
    from zsg_jax.evaluation.choices import ChoicesEvaluator
    from zsg_jax.evaluation.records import SCORES, read
    from zsg_jax.models import huggingface
    from zsg_jax.models.model import abstract
    from zsg_jax.training import sharding

    instances, mesh = _instances(data, model, count), sharding.make_mesh(1, 1)
    config = huggingface.read_config(model)
    params = huggingface.load(model, config)
    params = jax.device_put(params, sharding.shardings(params, mesh))
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params
    )
    evaluator = ChoicesEvaluator(
        instances,
        from_folder(model),
        graphdef=abstract(config)[0],
        vocab_size=config.vocab_size,
        abstract_params=shapes,
        mesh=mesh,
        batch_size=batch,
        max_length=LONGEST,
    )
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        fields = evaluator(params, 0, folder=Path(folder))
        records = {one["id"]: one for one in read(Path(folder) / SCORES)}
    first = time.perf_counter() - start
    seconds, _ = timed(lambda: evaluator(params, 0), runs)
    told = [records[one.id]["loglikelihoods"] for one in instances]
    return seconds, {"found": told, "first": first, "accuracy": fields["accuracy"]} | _size(model)


def choices_theirs(model: str, data: str, count: int | None, batch: int, runs: int) -> tuple:
    """transformers by hand: every choice with its prompt, the longest first, logits gathered."""
    import torch
    from transformers import AutoModelForCausalLM

    instances = _instances(data, model, count)
    texts = [t for one in encode_choices(instances, from_folder(model), LONGEST) for t in one]
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    order = np.argsort([-len(text.ids) for text in texts], kind="stable")

    @torch.no_grad()
    def run() -> list[float]:
        found = np.zeros(len(texts))
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            longest = max(len(texts[i].ids) for i in part)
            tokens = torch.zeros((len(part), longest), dtype=torch.long)
            mask = torch.zeros_like(tokens)
            for row, i in enumerate(part):
                size = len(texts[i].ids)
                tokens[row, :size], mask[row, :size] = torch.tensor(texts[i].ids).long(), 1
            logits = network(tokens, attention_mask=mask, use_cache=False).logits
            for row, i in enumerate(part):
                at = np.flatnonzero(texts[i].scored)
                nats = logits[row, at - 1].log_softmax(-1)
                found[i] = nats[range(len(at)), tokens[row, at]].double().sum()
        return found.tolist()

    run()
    seconds, flat = timed(run, runs)
    values = iter(flat)
    return seconds, {"found": [[next(values) for _ in one.choices] for one in instances]}


def _prompts(data: str, model: str, count: int | None) -> list[np.ndarray]:
    """Prompts of P3's training rows that leave room for a text, evenly spaced, of mixed lengths."""
    given = rows(Path(data).with_name("train.jsonl.gz"))
    instances = [
        Instance(one["id"], one["task"], tuple(Turn(**turn) for turn in one["messages"]), ())
        for one in given
    ]
    fitting = [p for p in encode_prompts(instances, from_folder(model)).ids if len(p) <= ROOM]
    return fitting[:: max(1, len(fitting) // (count or 512))][: count or 512]


def texts_ours(
    model: str, data: str, count: int | None, batch: int, runs: int, new: int = 64
) -> tuple:
    """The generator, greedy, batches by length."""
    from zsg_jax.evaluation.decoding import Sampling
    from zsg_jax.evaluation.generation import Generator, Prompt
    from zsg_jax.models import huggingface
    from zsg_jax.models.model import abstract
    from zsg_jax.training import sharding

    mesh, config = sharding.make_mesh(1, 1), huggingface.read_config(model)
    params = huggingface.load(model, config)
    params = jax.device_put(params, sharding.shardings(params, mesh))
    eos = [from_folder(model).eos_id]
    generator = Generator(
        abstract(config)[0], config, mesh, Sampling(new), eos=eos, batch_size=batch
    )
    prompts = [Prompt(one, str(i)) for i, one in enumerate(_prompts(data, model, count))]
    start = time.perf_counter()
    generator(params, prompts)
    first = time.perf_counter() - start
    seconds, written = timed(lambda: generator(params, prompts), runs)
    found = [one.tokens for one in written]
    lengths = [len(one.tokens) for one in prompts]
    told = {"found": found, "first": first, "lengths": lengths, "compiled": generator.compiled}
    return seconds, told | _size(model)


def texts_theirs(
    model: str, data: str, count: int | None, batch: int, runs: int, new: int = 64
) -> tuple:
    """transformers' generate, greedy, the same batches of prompts in the order of their lengths."""
    import torch
    from transformers import AutoModelForCausalLM

    prompts = _prompts(data, model, count)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    eos = from_folder(model).eos_id
    order = np.argsort([len(one) for one in prompts], kind="stable")

    @torch.inference_mode()
    def run() -> list[list[int]]:
        found: list[list[int]] = [[]] * len(prompts)
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            tokens, mask = left_padded([prompts[i] for i in part], eos)
            written = network.generate(
                tokens,
                attention_mask=mask,
                max_new_tokens=new,
                do_sample=False,
                eos_token_id=eos,
                pad_token_id=eos,
            )[:, tokens.shape[1] :].tolist()
            for i, one in zip(part, written, strict=True):
                found[i] = one[: one.index(eos)] if eos in one else one
        return found

    run()
    seconds, found = timed(run, runs)
    return seconds, {"found": found}


def left_padded(prompts: Sequence[np.ndarray], pad: int) -> tuple[Any, Any]:
    """Tokens and mask as transformers' generate takes them, int64 tensors (B, L)."""
    import torch

    tokens = torch.full((len(prompts), max(map(len, prompts))), pad)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, -len(prompt) :], mask[row, -len(prompt) :] = torch.tensor(prompt).long(), 1
    return tokens, mask


def _size(model: str) -> dict[str, Any]:
    from zsg_jax.models import huggingface
    from zsg_jax.models.model import abstract
    from zsg_jax.models.model import count as parameters

    return {"parameters": parameters(abstract(huggingface.read_config(model))[1])}


if __name__ == "__main__":
    seconds, result = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"seconds": seconds, "peak": peak_memory(), "result": result}))
