"""The loss of a large vocabulary, its logits whole (optax) or in parts: memory, time, difference.

    python benchmarks/loss.py

Prints, for the vocabularies of Llama 2, Llama 3 and Qwen, what a compiled loss with its gradients
needs besides its arguments and results (`memory_analysis` of XLA for the machine at hand), the
median time of five calls, and the largest difference between the two forms, relative to the largest
number.
"""

import argparse
import os
import time
from functools import partial
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zsg_jax.models import loss
from zsg_jax.models.head import Head

VOCABULARIES = (32_000, 128_256, 151_936)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Logits whole and in parts.", allow_abbrev=False)
    parser.add_argument("--tokens", type=int, default=1024, help="of a batch, 1024 without it")
    parser.add_argument("--width", type=int, default=256, help="of the model, 256 without it")
    given = parser.parse_args()
    device = jax.devices()[0]
    print(
        f"{given.tokens} tokens, width {given.width}, float32, {device.device_kind}, load "
        f"{os.getloadavg()[0]:.1f}\n"
    )
    print(
        "| words | parts | whole: MB | in parts: MB | ratio | whole: s | in parts: s | difference |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for words in VOCABULARIES:
        print(_row(words, given.tokens, given.width))


def _row(words: int, tokens: int, width: int) -> str:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, tokens, width)), jnp.float32)
    head = jnp.asarray(rng.normal(size=(width, words)) / width**0.5, jnp.float32)
    ids = jnp.asarray(rng.integers(0, words, (1, tokens)), jnp.int32)
    memory, seconds, results = [], [], []
    for total in (_whole, partial(_in_parts, words=words)):
        step = jax.jit(jax.value_and_grad(total, (0, 1)))
        compiled = step.lower(x, head, ids).compile()
        memory.append(compiled.memory_analysis().temp_size_in_bytes / 1e6)
        taken = []
        for _ in range(5):
            started = time.perf_counter()
            result = jax.block_until_ready(compiled(x, head, ids))
            taken.append(time.perf_counter() - started)
        seconds.append(median(taken))
        results.append(result)
    pairs = zip(*map(jax.tree.leaves, results), strict=True)
    difference = max(float(jnp.abs(a - b).max() / jnp.abs(a).max()) for a, b in pairs)
    return (
        f"| {words:,} | {-(-words // loss.PART)} | {memory[0]:,.0f} | {memory[1]:,.0f} | "
        f"{memory[1] / memory[0]:.2f} | {seconds[0]:.2f} | {seconds[1]:.2f} | {difference:.1e} |"
    )


def _whole(x: jax.Array, head: jax.Array, ids: jax.Array) -> jax.Array:
    logits = jnp.einsum("bld,dv->blv", x, head)[:, :-1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()


def _in_parts(x: jax.Array, head: jax.Array, ids: jax.Array, *, words: int) -> jax.Array:
    return loss.token_losses(x, Head(head), ids, words)[:, :-1].mean()


if __name__ == "__main__":
    main()
