"""Generation on a GPU: each function here runs alone in a process of its own.

A model of random weights in bfloat16, prompts of made-up tokens of mixed lengths, greedy, and no
token ends a text: so both sides write as many tokens.
"""

import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measuring import peak_memory, timed
from scoring import left_padded

# The shape of Llama 3.2 1B.
SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
SHORTEST, LONGEST = 64, 384


def make(folder: str, tiny: bool) -> tuple:
    """Writes the model, as transformers begins it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    small = {"num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 256}
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE | (small if tiny else {}))
    on = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(on):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return 0.0, {}


def _prompts(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(SHORTEST, LONGEST + 1, count)
    return [rng.integers(1000, SHAPE["vocab_size"], n).astype(np.int32) for n in lengths]


def ours(folder: str, batch: int, new: int, runs: int) -> tuple:
    """The generator; its first tokens, and the seconds of one token of all texts."""
    from zsg_jax.evaluation.decoding import Sampling
    from zsg_jax.evaluation.generation import Generator, Prompt
    from zsg_jax.models import huggingface
    from zsg_jax.models.model import abstract, cast
    from zsg_jax.models.placement import Compute
    from zsg_jax.training import sharding

    mesh, config = sharding.make_mesh(1, 1), huggingface.read_config(folder)
    params = cast(huggingface.load(folder, config), jnp.bfloat16)
    params = jax.device_put(params, sharding.shardings(params, mesh))
    prompts = [Prompt(one, str(i)) for i, one in enumerate(_prompts(batch))]
    graphdef = abstract(config, Compute(jnp.bfloat16))[0]
    found: dict[str, Any] = {}
    for tokens in (1, new):
        generator = Generator(graphdef, config, mesh, Sampling(tokens), eos=(), batch_size=batch)
        start = time.perf_counter()
        generator(params, prompts)
        found["first"] = time.perf_counter() - start
        found[str(tokens)], written = timed(lambda g=generator: g(params, prompts), runs)
    found["token"] = (found[str(new)] - found["1"]) / (new - 1)
    found["bytes"] = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    found["cache"] = (
        4
        * config.num_layers
        * config.num_kv_heads
        * config.head_dim
        * sum(len(one) + new / 2 for one in _prompts(batch))
    )
    return found[str(new)], found | {"found": [one.tokens for one in written]}


def theirs(folder: str, batch: int, new: int, runs: int) -> tuple:
    """transformers' generate, attention by sdpa, prompts padded on the left."""
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="sdpa", device_map="cuda"
    ).eval()
    tokens, mask = (one.cuda() for one in left_padded(_prompts(batch), 0))

    @torch.inference_mode()
    def run() -> list[list[int]]:
        written = network.generate(
            tokens,
            attention_mask=mask,
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )
        return written[:, tokens.shape[1] :].tolist()

    run()
    seconds, found = timed(run, runs)
    return seconds, {"found": found}


def bandwidth() -> tuple:
    """Bytes a second that a copy of 4 GB moves, read and written."""
    x = jnp.ones(1 << 30, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    copy(x).block_until_ready()

    def run() -> None:
        for _ in range(10):
            y = copy(x)
        y.block_until_ready()

    seconds, _ = timed(run, 3)
    return seconds, {"rate": 10 * 2 * x.nbytes / seconds}


if __name__ == "__main__":
    seconds, result = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"seconds": seconds, "peak": peak_memory(), "result": result}))
