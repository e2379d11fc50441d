"""The diversity study's small decoder in torch, trained as there: a peer to measure beside."""

import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Layer(nn.Module):
    """A layer: rotary attention, then a gated feed-forward, norms before each."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        D, inner, self.heads = config.hidden_size, config.intermediate_size, config.num_heads
        self.norms = nn.ModuleList([nn.RMSNorm(D, eps=config.rms_norm_eps) for _ in range(2)])
        self.qkv = nn.Linear(D, 3 * D, bias=False)
        self.o = nn.Linear(D, D, bias=False)
        self.gate_up = nn.Linear(D, 2 * inner, bias=False)
        self.down = nn.Linear(inner, D, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """The layer on (B, L, D)."""
        B, L, D = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(B, L, 3, self.heads, -1).permute(2, 0, 3, 1, 4)

        def turned(one: torch.Tensor) -> torch.Tensor:
            a, b = one.chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        mixed = F.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(B, L, D))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    """The decoder of a `DecoderConfig`."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        D, half = config.hidden_size, config.head_dim // 2
        self.embed = nn.Embedding(config.vocab_size, D)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.num_layers)])
        self.norm = nn.RMSNorm(D, eps=config.rms_norm_eps)
        self.head = nn.Linear(D, config.vocab_size, bias=False)
        turns = config.rope_theta ** (-torch.arange(half) / half)
        angle = torch.arange(config.max_positions)[:, None] * turns
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (B, L, V)."""
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return self.head(self.norm(x))


class Peer:
    """Takes steps with AdamW, clipping, and loss on all tokens."""

    def __init__(self, config: Any, threads: int, *, compiled: bool, device: str = "cpu") -> None:
        """Takes the config of the model, and how torch computes it; of float32 as XLA does."""
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
        torch.manual_seed(0)
        self._device = device
        self._model = Decoder(config).to(device)
        self._call = torch.compile(self._model) if compiled else self._model
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.1, fused=True
        )

    def seconds(self, tokens: np.ndarray) -> float:
        """Seconds a step over rows (T, B, L), after some steps to warm up."""
        on_device = torch.from_numpy(tokens).to(self._device)
        for batch in on_device[:5]:
            self._step(batch)
        self._wait()
        start = time.perf_counter()
        for batch in on_device:
            self._step(batch)
        self._wait()
        return (time.perf_counter() - start) / len(tokens)

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()

    def _step(self, rows: torch.Tensor) -> None:
        logits = self._call(rows)[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
