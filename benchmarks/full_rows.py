"""Steps on rows full of tokens: each function here runs alone in a process of its own.

Both sides keep weights, gradients and AdamW's moments in float32, and multiply in `dtype`: ours by
casting weights where they are used, torch under autocast. Both clip, and take the same tokens.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from measuring import peak_memory

from zsg_jax.models.decoder import DecoderConfig
from zsg_jax.models.families import FAMILIES
from zsg_jax.training import flops

SHAPES: dict[str, DecoderConfig] = {
    "tiny": FAMILIES["llama"].sized("tiny", 300, 64),
    # 5.8 M parameters.
    "small": FAMILIES["llama"].sized("small", 5632, 2048),
    # Llama 3.2 1B, without the scaling of its positions; 1,235,814,400 parameters.
    "1b": DecoderConfig(
        "llama",
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_layers=16,
        num_heads=32,
        num_kv_heads=8,
        head_dim=64,
        max_positions=2048,
        rope_theta=500000.0,
        tie_embeddings=True,
    ),
    "7b": FAMILIES["llama"].sized("llama2_7b"),
}
RATE, CLIP = 1e-5, 1.0


def ours(
    shape: str,
    dtype: str,
    length: int,
    batch: int,
    at_once: int,
    remat: bool,
    steps: int,
    warm: int,
) -> tuple:
    """This project's steps, compiling not counted."""
    # JAX would leave a quarter of a card's memory alone, which torch does not.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
    import jax
    import jax.numpy as jnp

    from zsg_jax.models import attention
    from zsg_jax.models.placement import Compute
    from zsg_jax.training import sharding
    from zsg_jax.training.trainer import Trainer, TrainerOptions

    model, mesh = SHAPES[shape], sharding.make_mesh(1, 1)
    options = TrainerOptions(batch, at_once, RATE, "constant", 0, CLIP, 0.0)
    tokens = _tokens(model, batch, length)
    laid = {
        "tokens": tokens,
        "positions": np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape),
        "segment_ids": np.ones_like(tokens),
        "loss_mask": np.ones(tokens.shape, bool),
        "index": np.arange(batch, dtype=np.int32),
    }

    def run() -> tuple:
        platform = mesh.devices.flat[0].platform
        head_dim = model.hidden_size // model.num_heads
        kind, _ = attention.choose(platform, head_dim=head_dim, length=length, dtype=dtype)
        compute = Compute(jnp.dtype(dtype), "full" if remat else "none", kind)
        trainer = Trainer(model, options, mesh, compute=compute)
        state = trainer.initial_state(0)
        step = trainer.compiled_step(warm + steps, length)
        placed = sharding.place_batch(laid, mesh)
        losses = []
        for number in range(warm + steps):
            if number == warm:
                jax.block_until_ready(state)
                start = time.perf_counter()
            state, metrics = step(state, placed)
            losses.append(metrics["loss"])
        jax.block_until_ready(state)
        return time.perf_counter() - start, [float(one) for one in jax.device_get(losses)]

    device = jax.devices()[0]
    said = {
        "device": device.device_kind,
        "peak_flops": flops.peak(device.device_kind, dtype),
        "flops": flops.train(model, [length] * batch) * steps,
        "threads": len(os.sched_getaffinity(0)),
    }
    seconds, result = _fitting(run, said)
    stats = device.memory_stats() or {}
    return seconds, result | {"memory": stats.get("peak_bytes_in_use")}


def theirs(
    shape: str,
    dtype: str,
    length: int,
    batch: int,
    at_once: int,
    remat: bool,
    steps: int,
    warm: int,
    compile: str,
) -> tuple:
    """transformers' Llama, sdpa, fused AdamW; `compile` is torch.compile's backend, "" for none."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = SHAPES[shape]
    place = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = torch.tensor(_tokens(model, batch, length), device=place).long()
    half = dtype == "bfloat16"
    # float32 products as JAX takes them by default on a card.
    torch.set_float32_matmul_precision("high" if place == "cuda" else "highest")

    def run() -> tuple:
        torch.manual_seed(0)
        config = LlamaConfig(**_in_transformers(model), attn_implementation="sdpa")
        with torch.device(place):
            net = LlamaForCausalLM(config)
        net.train()
        if remat:
            net.gradient_checkpointing_enable({"use_reentrant": False})
        forward = torch.compile(net, backend=compile) if compile else net
        tx = torch.optim.AdamW(
            net.parameters(), lr=RATE, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0, fused=True
        )

        def take() -> Any:
            tx.zero_grad()
            total = torch.zeros((), device=place)
            for part in tokens.split(at_once):
                with torch.autocast(place, torch.bfloat16, enabled=half):
                    logits = forward(part, use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(
                    logits[:, :-1].flatten(0, 1).float(), part[:, 1:].flatten(), reduction="sum"
                ) / (batch * (length - 1))
                loss.backward()
                total += loss.detach()
            torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            tx.step()
            return total

        losses = []
        for number in range(warm + steps):
            if number == warm:
                _wait(place)
                start = time.perf_counter()
            losses.append(take())
        _wait(place)
        return time.perf_counter() - start, [float(one) for one in losses]

    seconds, result = _fitting(run, {"threads": torch.get_num_threads()})
    memory = torch.cuda.max_memory_allocated() if place == "cuda" else None
    return seconds, result | {"memory": memory}


def _fitting(run: Callable[[], tuple], said: dict[str, Any]) -> tuple:
    """What `run` measured; or, if memory was too small for it, `lacks` says so."""
    try:
        seconds, losses = run()
    except RuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text and "out of memory" not in text.lower():
            raise
        return 0.0, said | {"lacks": text.splitlines()[0][:150]}
    return seconds, said | {"losses": losses}


def _wait(place: str) -> None:
    import torch

    if place == "cuda":
        torch.cuda.synchronize()


def _tokens(model: DecoderConfig, batch: int, length: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, model.vocab_size, (batch, length), np.int32)


def _in_transformers(model: DecoderConfig) -> dict[str, Any]:
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": model.max_positions,
        "rope_parameters": {"rope_theta": model.rope_theta, "rope_type": "default"},
        "rms_norm_eps": model.rms_norm_eps,
        "tie_word_embeddings": model.tie_embeddings,
    }


if __name__ == "__main__":
    seconds, result = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"seconds": seconds, "peak": peak_memory(), "result": result}))
