"""The language models that can be trained: a family is an entry here, and a layout in huggingface.

A family's name is what Hugging Face calls its model_type.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from zsg_jax.models.decoder import DecoderConfig
from zsg_jax.models.experts import Routing
from zsg_jax.models.gpt2 import Gpt2Config
from zsg_jax.models.rotary import Llama3Scaling, YarnScaling
from zsg_jax.runtime.errors import UserError, check, did_you_mean

ModelConfig = DecoderConfig | Gpt2Config
# The family of random weights that name none.
DEFAULT = "llama"


class Family(NamedTuple):
    """A family of models.

    Attributes:
        name: its key in `FAMILIES`.
        config: makes a config of the fields that differ within the family.
        sizes: fields by the name of a size. Those without vocab_size or max_positions take the
            vocabulary of whatever tokenizer the study has, and its longest sequence.
    """

    name: str
    config: Callable[..., ModelConfig]
    sizes: Mapping[str, Mapping[str, Any]]

    def sized(
        self, size: str, vocab_size: int | None = None, max_positions: int | None = None
    ) -> ModelConfig:
        """The config of a named size; `vocab_size` and `max_positions` win over the size's own.

        Raises:
            UserError: there is no such size, or it has no vocabulary or positions of its own and
                none were given.
        """
        if size not in self.sizes:
            hint = did_you_mean(size, self.sizes, cutoff=0.3)
            raise UserError(
                f"{self.name} size {size!r} is not one of {', '.join(self.sizes)}{hint}"
            )
        values = dict(self.sizes[size])
        for key, value in (("vocab_size", vocab_size), ("max_positions", max_positions)):
            if value is not None:
                values[key] = value
            check(key in values, f"{self.name} size {size!r} has no {key} of its own; give one")
        return self.config(**values)


def _decoder(
    width: int, inner: int, layers: int, heads: int, kv_heads: int, head_dim: int, **more: Any
) -> dict[str, Any]:
    """The fields of a size of `DecoderConfig`."""
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        **more,
    }


def _gpt2(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    """The fields of a size of `Gpt2Config`."""
    shape = {"hidden_size": width, "intermediate_size": 4 * width}
    return {**shape, "num_layers": layers, "num_heads": heads, **more}


# 0.11 M parameters besides the embedding: for tests and first tries on a laptop.
_TINY = _decoder(64, 128, 3, 4, 2, 16, tie_embeddings=True)
_LLAMA3 = _decoder(4096, 14336, 32, 32, 8, 128, vocab_size=128256, rope_theta=500000.0)
_QWEN: dict[str, Any] = {"rope_theta": 1000000.0, "rms_norm_eps": 1e-6}
_OLMO: dict[str, Any] = {"qk_norm_joint": True, "pre_norm": False, "post_norm": True}
_OLMO_7B = _decoder(4096, 11008, 32, 32, 32, 128, vocab_size=100352, rope_theta=500000.0)
_GEMMA: dict[str, Any] = {
    "post_norm": True,
    "norm_offset": True,
    "activation": "gelu_tanh",
    "scale_embeddings": True,
    "rms_norm_eps": 1e-6,
}
_GEMMA2: dict[str, Any] = {"attention_softcap": 50.0, "logit_softcap": 30.0}
_GEMMA3: dict[str, Any] = {"rope_theta": 1000000.0, "local_rope_theta": 10000.0}

FAMILIES = {
    family.name: family
    for family in (
        Family(
            "llama",
            partial(DecoderConfig, "llama"),
            {
                "tiny": _TINY,
                # 4.3 M besides the embedding, about 6 M with 8,192 tokens.
                "small": _decoder(256, 688, 6, 8, 4, 32, tie_embeddings=True),
                # arXiv 2307.09288; 6,738,415,616 parameters.
                "llama2_7b": _decoder(
                    4096, 11008, 32, 32, 32, 128, vocab_size=32000, max_positions=4096
                ),
                # arXiv 2407.21783; 8,030,261,248 parameters.
                "llama3_8b": {**_LLAMA3, "max_positions": 8192},
                # The same, for texts 16 times as long.
                "llama3_1_8b": {
                    **_LLAMA3,
                    "max_positions": 131072,
                    "rope_scaling": Llama3Scaling(8.0, 1.0, 4.0, 8192),
                },
            },
        ),
        Family(
            "mistral",
            partial(DecoderConfig, "mistral"),
            {
                "tiny": {**_TINY, "windows": (64,)},
                # arXiv 2310.06825; 7,241,732,096 parameters.
                "mistral_7b": _decoder(
                    *(4096, 14336, 32, 32, 8, 128),
                    vocab_size=32000,
                    max_positions=32768,
                    windows=(4096,),
                ),
            },
        ),
        Family(
            "qwen2",
            partial(DecoderConfig, "qwen2", attention_bias=True),
            {
                "tiny": {**_TINY, **_QWEN},
                # Qwen 2.5, arXiv 2412.15115; 7,615,616,512 parameters.
                "qwen2_5_7b": _decoder(
                    *(3584, 18944, 28, 28, 4, 128),
                    vocab_size=152064,
                    max_positions=131072,
                    **_QWEN,
                ),
            },
        ),
        Family(
            "qwen3",
            partial(DecoderConfig, "qwen3", qk_norm=True),
            {
                "tiny": {**_TINY, **_QWEN},
                # arXiv 2505.09388; 8,190,735,360 parameters.
                "qwen3_8b": _decoder(
                    *(4096, 12288, 36, 32, 8, 128),
                    vocab_size=151936,
                    max_positions=40960,
                    **_QWEN,
                ),
            },
        ),
        Family(
            "qwen3_moe",
            partial(DecoderConfig, "qwen3_moe", qk_norm=True),
            {
                "tiny": {**_TINY, **_QWEN, "intermediate_size": 48, "routing": Routing(4, 2)},
                # arXiv 2505.09388; 30,532,122,624 parameters.
                "qwen3_30b_a3b": _decoder(
                    *(2048, 768, 48, 32, 4, 128),
                    vocab_size=151936,
                    max_positions=40960,
                    routing=Routing(128, 8),
                    **_QWEN,
                ),
            },
        ),
        Family(
            "gpt_oss",
            partial(DecoderConfig, "gpt_oss", attention_bias=True, output_bias=True, sinks=True),
            {
                "tiny": {**_TINY, "windows": (64, None), "intermediate_size": 48}
                | {"routing": Routing(4, 2, bias=True, limit=7.0), "rope_theta": 150000.0},
                # arXiv 2508.10925; 20,914,757,184 parameters.
                "gpt_oss_20b": _decoder(
                    *(2880, 2880, 24, 64, 8, 64),
                    vocab_size=201088,
                    max_positions=131072,
                    windows=(128, None),
                    routing=Routing(32, 4, bias=True, limit=7.0),
                    rope_theta=150000.0,
                    rope_scaling=YarnScaling(32.0, 4096, 0.1 * math.log(32) + 1, truncate=False),
                ),
            },
        ),
        Family(
            "ministral",
            partial(DecoderConfig, "ministral"),
            {
                "tiny": {**_TINY, "windows": (64, None)},
                # 8,019,808,256 parameters.
                "ministral_8b": _decoder(
                    *(4096, 12288, 36, 32, 8, 128),
                    vocab_size=131072,
                    max_positions=131072,
                    windows=(None, 32768, 32768, 32768),
                    rope_theta=1e8,
                ),
            },
        ),
        Family(
            "smollm3",
            partial(DecoderConfig, "smollm3"),
            {
                "tiny": {**_TINY, "rope_layers": (True, True, False), "rope_theta": 2e6},
                # 3,075,098,624 parameters.
                "smollm3_3b": _decoder(
                    *(2048, 11008, 36, 16, 4, 128),
                    vocab_size=128256,
                    max_positions=65536,
                    rope_layers=(True, True, True, False),
                    rope_theta=5e6,
                    rms_norm_eps=1e-6,
                    tie_embeddings=True,
                ),
            },
        ),
        Family(
            "olmo2",
            partial(DecoderConfig, "olmo2", **_OLMO),
            {
                "tiny": _TINY,
                # arXiv 2501.00656; 7,298,617,344 parameters.
                "olmo2_7b": {**_OLMO_7B, "max_positions": 4096, "rms_norm_eps": 1e-6},
            },
        ),
        Family(
            "olmo3",
            partial(DecoderConfig, "olmo3", **_OLMO, local_rope_theta=5e5),
            {
                "tiny": {**_TINY, "windows": (64, 64, None), "rope_theta": 5e5},
                # 7,298,617,344 parameters.
                "olmo3_7b": {
                    **_OLMO_7B,
                    "max_positions": 8192,
                    "rms_norm_eps": 1e-6,
                    "windows": (4096, 4096, 4096, None),
                },
            },
        ),
        Family(
            "gemma2",
            partial(DecoderConfig, "gemma2", **_GEMMA),
            {
                "tiny": {**_TINY, **_GEMMA2, "windows": (64, None), "query_scalar": 16.0},
                # arXiv 2408.00118; 2,614,341,888 parameters.
                "gemma2_2b": _decoder(
                    *(2304, 9216, 26, 8, 4, 256),
                    **_GEMMA2,
                    vocab_size=256000,
                    max_positions=8192,
                    windows=(4096, None),
                    query_scalar=256.0,
                    tie_embeddings=True,
                ),
            },
        ),
        Family(
            "gemma3_text",
            partial(DecoderConfig, "gemma3_text", qk_norm=True, **_GEMMA),
            {
                "tiny": {**_TINY, **_GEMMA3, "windows": (64, 64, None), "query_scalar": 16.0},
                # arXiv 2503.19786; 999,885,952 parameters.
                "gemma3_1b": _decoder(
                    *(1152, 6912, 26, 4, 1, 256),
                    **_GEMMA3,
                    vocab_size=262144,
                    max_positions=32768,
                    windows=(512,) * 5 + (None,),
                    query_scalar=256.0,
                    tie_embeddings=True,
                ),
            },
        ),
        Family(
            "phi3",
            partial(DecoderConfig, "phi3"),
            {
                "tiny": _TINY,
                # arXiv 2412.08905; 14,659,507,200 parameters.
                "phi4": _decoder(
                    *(5120, 17920, 40, 40, 10, 128),
                    vocab_size=100352,
                    max_positions=16384,
                    rope_theta=250000.0,
                ),
            },
        ),
        Family(
            "gpt2",
            Gpt2Config,
            {
                # 0.15 M parameters besides the embeddings: for tests and first tries on a laptop.
                "tiny": _gpt2(64, 3, 4),
                # arXiv 2402.10891; 4.7 M besides the embeddings.
                "diversity": _gpt2(256, 6, 4),
                # The smallest published one; 124,439,808 parameters.
                "gpt2": _gpt2(768, 12, 12, vocab_size=50257, max_positions=1024),
            },
        ),
    )
}


def is_file(size: str) -> bool:
    """Whether `model.size` is a file like config.json and no name."""
    return size.endswith(".json")
