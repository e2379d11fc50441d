"""A pretrained model from its folder, on real rows: what transformers makes of them."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsg_jax.models import huggingface
from zsg_jax.models.loss import answer_losses, token_losses
from zsg_jax.models.model import abstract, hidden

pytestmark = [pytest.mark.references, pytest.mark.slow]

ROWS, LENGTH = 40, 96


def test_the_losses_of_real_rows_are_those_of_transformers(assets):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = assets / "models" / "SmolLM2-135M-Instruct"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    tokens, mask = np.zeros((2, ROWS, LENGTH), np.int32)
    with gzip.open(assets / "data" / "p3" / "test.jsonl.gz", "rt") as lines:
        for row, line in zip(range(ROWS), lines, strict=False):
            messages = json.loads(line)["messages"]
            prompt = tokenizer.apply_chat_template(
                messages[:-1], add_generation_prompt=True, return_dict=False
            )
            answer = tokenizer(f"{messages[-1]['content']}<|im_end|>")["input_ids"]
            ids = [*prompt[-(LENGTH - len(answer)) :], *answer]
            tokens[row, : len(ids)] = ids
            mask[row, len(ids) - len(answer) : len(ids)] = 1
    config = huggingface.read_config(folder)
    graphdef, _ = abstract(config)
    params = huggingface.load(folder, config)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    positions = jnp.broadcast_to(jnp.arange(LENGTH), (8, LENGTH))

    @jax.jit
    def ours(params, tokens, mask):
        x, head = hidden(graphdef, params, tokens, positions, jnp.ones_like(tokens))
        return answer_losses(token_losses(x, head, tokens, config.vocab_size), mask)

    for start in range(0, ROWS, 8):
        part = slice(start, start + 8)
        sums, counts = ours(params, tokens[part], mask[part] == 1)
        labels = torch.tensor(np.where(mask[part] == 1, tokens[part], -100)).long()
        with torch.no_grad():
            logits = theirs(torch.tensor(tokens[part]).long()).logits
        each = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none"
        ).reshape(8, -1)
        wanted = each.numpy().sum(1) / np.asarray(counts)
        assert np.abs(np.asarray(sums) / counts - wanted).max() < 1e-4
