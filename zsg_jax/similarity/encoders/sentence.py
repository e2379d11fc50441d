"""Turns texts into embeddings with a sentence-transformers model, such as all-MiniLM-L6-v2.

An embedding that decides an order must not depend on its neighbours. XLA sums in another order
for another array shape, so a text's shape depends on nothing but its number of tokens: it goes
to the narrowest bucket that holds it, and every batch of a bucket has that bucket's one shape.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tokenizers import Tokenizer

from zsg_jax.models import bert, huggingface
from zsg_jax.models.huggingface.weights import read_json
from zsg_jax.runtime.errors import UserError, check

# Part of every fingerprint: raise it when the same files would give other embeddings.
_VERSION = 1
_WIDTHS = (16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
# Tokens in one batch of one device: what fits a CPU's cache, or keeps an accelerator busy.
_BATCH_TOKENS = {"cpu": 1024}
_BATCH_TOKENS_ELSEWHERE = 32768
_TOKENIZED_AT_ONCE = 1024


class _Layout(NamedTuple):
    """What the files beside the weights say about the way from text to embedding."""

    transformer: Path
    max_tokens: int | None
    lower: bool


class SentenceEncoder:
    """A BERT with mean pooling and unit norm, read from a folder; nothing is downloaded.

    Attributes:
        name: the folder's name.
        dimension: D, the length of an embedding.
        fingerprint: SHA-256 over everything that decides an embedding: weights, config,
            tokenizer, token limit, pooling and this module's version; not the machine: another
            kind of device or number of cores may change the last digits (4e-8 seen).
        max_tokens: longer texts are cut to this many, special tokens counted.

    Raises:
        UserError: a file is missing or damaged, or asks for what is not computed here.
    """

    def __init__(self, folder: str | Path, *, mesh: Mesh | None = None) -> None:
        """Reads the model.

        Args:
            folder: in the layout of sentence-transformers, or a bare BERT in Hugging Face's.
            mesh: its devices share every batch; without one, the first device does it all. An
                embedding is the same bit for bit on either if the devices are of one kind.
        """
        folder = Path(folder)
        self.name = folder.resolve().name
        layout = _read_layout(folder)
        config = huggingface.read_bert_config(layout.transformer)
        params = huggingface.load_bert(layout.transformer, config)
        self.dimension = config.hidden_size
        self.max_tokens = min(layout.max_tokens or 256, config.max_positions)
        self._lower = layout.lower
        self._tokenizer, content = _read_tokenizer(layout.transformer / "tokenizer.json", config)
        self._tokenizer.enable_truncation(self.max_tokens)
        self.fingerprint = _fingerprint(params, config, content, self.max_tokens, self._lower)

        self._mesh = mesh or Mesh(np.array(jax.local_devices()[:1]), ("data",))
        self._widths = [w for w in _WIDTHS if w < self.max_tokens] + [self.max_tokens]
        everywhere, rows = NamedSharding(self._mesh, P()), P(self._mesh.axis_names)
        self._rows = NamedSharding(self._mesh, rows)
        self._params = jax.tree.map(lambda x: _place(np.asarray(x), everywhere), params)
        graphdef, _ = bert.abstract(config)

        def embed(params: Any, tokens_BxL: jax.Array, lengths_B: jax.Array) -> jax.Array:
            return _embed(graphdef, params, tokens_BxL, lengths_B)

        # shard_map and not a sharded jit: each device then runs the program of one device alone.
        mapped = jax.shard_map(
            embed, mesh=self._mesh, in_specs=(P(), rows, rows), out_specs=rows, check_vma=False
        )
        self._embed = jax.jit(mapped, out_shardings=everywhere)

    def encode(
        self, texts: Sequence[str], on_progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """The embeddings of `texts`, (n, D) float32 of length one, in the order given.

        On one machine each is the same bit for bit whatever other texts are given with it, and in
        whatever order. On several hosts every process gives the same texts and gets all.

        Args:
            texts: any strings; the empty one has an embedding too.
            on_progress: called with the number of texts that have just been finished.
        """
        embeddings = np.empty((len(texts), self.dimension), np.float32)
        running: deque[tuple[list[int], jax.Array]] = deque()

        def finish() -> None:
            rows, result = running.popleft()
            embeddings[rows] = np.asarray(result)[: len(rows)]
            if on_progress is not None:
                on_progress(len(rows))

        for rows, tokens, lengths in self._batches(texts):
            # One batch runs while the next is tokenized and packed.
            if len(running) > 1:
                finish()
            batch = (_place(tokens, self._rows), _place(lengths, self._rows))
            running.append((rows, self._embed(self._params, *batch)))
        while running:
            finish()
        return embeddings

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """Row numbers, tokens (B, L) int32 and lengths (B,) int32 of one full batch after another;
        what is left over at the end comes in batches padded to the same shape."""
        waiting: dict[int, list[tuple[int, list[int]]]] = {width: [] for width in self._widths}
        for start in range(0, len(texts), _TOKENIZED_AT_ONCE):
            part = list(texts[start : start + _TOKENIZED_AT_ONCE])
            if self._lower:
                part = [text.lower() for text in part]
            for row, encoding in enumerate(self._tokenizer.encode_batch_fast(part), start):
                ids = encoding.ids
                width = next(w for w in self._widths if len(ids) <= w)
                waiting[width].append((row, ids))
                if len(waiting[width]) == self._batch_rows(width):
                    yield self._pack(width, waiting[width])
                    waiting[width] = []
        for width, left in waiting.items():
            if left:
                yield self._pack(width, left)

    def _batch_rows(self, width: int) -> int:
        """Rows in a batch of this width, over all devices."""
        platform = self._mesh.devices.flat[0].platform
        return max(1, _BATCH_TOKENS.get(platform, _BATCH_TOKENS_ELSEWHERE) // width) * (
            self._mesh.size
        )

    def _pack(
        self, width: int, filled: list[tuple[int, list[int]]]
    ) -> tuple[list[int], np.ndarray, np.ndarray]:
        tokens = np.zeros((self._batch_rows(width), width), np.int32)
        lengths = np.zeros(len(tokens), np.int32)
        for i, (_, ids) in enumerate(filled):
            tokens[i, : len(ids)], lengths[i] = ids, len(ids)
        return [row for row, _ in filled], tokens, lengths


def _place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """`array`, which every process holds alike, on the devices of `sharding`."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _embed(graphdef: Any, params: Any, tokens_BxL: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """Unit-norm means of the last hidden states over the tokens that are no padding, (B, D)."""
    with jax.default_matmul_precision("highest"):
        mask_BxL = jnp.arange(tokens_BxL.shape[1]) < lengths_B[:, None]
        hidden_BxLxD = bert.apply(graphdef, params, tokens_BxL, mask_BxL)
    sum_BxD = jnp.sum(jnp.where(mask_BxL[..., None], hidden_BxLxD, 0), axis=1)
    mean_BxD = sum_BxD / jnp.maximum(lengths_B, 1)[:, None]
    norm_Bx1 = jnp.linalg.norm(mean_BxD, axis=1, keepdims=True)
    return mean_BxD / jnp.maximum(norm_Bx1, 1e-12)


def _read_layout(folder: Path) -> _Layout:
    """Reads modules.json and what it points to, refusing what is not computed here by name."""
    check(folder.is_dir(), f"{folder}: no such folder; give one that holds a sentence encoder")
    listing, transformer = folder / "modules.json", folder
    if listing.exists():
        modules = read_json(listing)
        try:
            kinds = [module["type"].rpartition(".")[2] for module in modules]
            paths = [folder / module["path"] for module in modules]
        except (TypeError, KeyError, AttributeError):
            raise UserError(
                f"{listing}: no list of modules, each with type and path; fetch the file again"
            ) from None
        check(
            kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]),
            f"{listing}: modules are {', '.join(kinds)}, but only Transformer, Pooling, Normalize"
            " are computed here; take another encoder",
        )
        transformer = paths[0]
        _check_pooling(paths[1] / "config.json")
    settings = folder / "config_sentence_transformers.json"
    prompt = _object(settings).get("default_prompt_name") if settings.exists() else None
    check(
        prompt is None,
        f"{settings}: default_prompt_name is {prompt!r}, but no prompt is put before a text here;"
        " take another encoder",
    )
    own = transformer / "sentence_bert_config.json"
    values = _object(own) if own.exists() else {}
    limit = values.get("max_seq_length")
    if limit is None and listing.exists() and (transformer / "tokenizer_config.json").exists():
        # Where sentence-transformers 6 keeps it; without a limit this is a huge number.
        limit = _object(transformer / "tokenizer_config.json").get("model_max_length")
    check(
        limit is None or (isinstance(limit, int | float) and limit >= 3),
        f"{own}: max_seq_length is {limit!r}; give a whole number from 3",
    )
    return _Layout(
        transformer, None if limit is None else int(limit), values.get("do_lower_case") is True
    )


def _check_pooling(path: Path) -> None:
    values, prefix = _object(path), "pooling_mode_"
    modes = values.get("pooling_mode", [])  # sentence-transformers 6; a flag for each mode before
    modes = [modes] if isinstance(modes, str) else list(modes)
    modes += [key.removeprefix(prefix) for key, on in values.items() if prefix in key and on]
    check(
        modes in (["mean"], ["mean_tokens"]),
        f"{path}: pooling mode is {' and '.join(map(str, modes)) or 'not named'}, but only mean"
        " is computed here; take another encoder",
    )


def _object(path: Path) -> dict[str, Any]:
    values = read_json(path)
    check(isinstance(values, dict), f"{path}: holds no JSON object; fetch the file again")
    return values


def _read_tokenizer(path: Path, config: bert.BertConfig) -> tuple[Tokenizer, Any]:
    """The tokenizer without its own cutting and padding, and the file's content without these."""
    content = _object(path)
    content |= {"truncation": None, "padding": None}
    try:
        tokenizer = Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # what the tokenizers library raises has no narrower type
        raise UserError(f"{path}: no tokenizer ({error}); fetch the file again") from None
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    check(
        largest < config.vocab_size,
        f"{path}: token number {largest} is beyond vocab_size={config.vocab_size} of config.json;"
        " use the files that belong together",
    )
    return tokenizer, {key: value for key, value in content.items() if value is not None}


def _fingerprint(params: Any, config: bert.BertConfig, *rest: Any) -> str:
    """SHA-256 over the weights as numbers, whatever files they lay in, and all the settings."""
    digest = hashlib.sha256()
    for path, leaf in sorted(traverse_util.flatten_dict(params, sep=".").items()):
        digest.update(f"{path} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf, "<f4").tobytes())
    settings = [_VERSION, repr(config), "mean pooling, unit norm", *rest]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()
