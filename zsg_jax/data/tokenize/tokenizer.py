"""Text to token ids: bytes, a byte-level BPE trained on the training rows, or a folder's own."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from zsg_jax.data.tokenize.encoding import Encoding, Span
from zsg_jax.data.tokenize.folder import read_tokenizer, text_of
from zsg_jax.data.tokenize.rendered import RenderedEncoder, encoded, to_encoding
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import write_bytes, write_json
from zsg_jax.runtime.foreign import reading
from zsg_jax.runtime.streams import hushed

BOS, EOS = "<|bos|>", "<|eos|>"
# What a tokenizer's folder may hold, by one version or another of transformers.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)


class Tokenizer:
    """A `tokenizers` model, with the ids of its bos and eos.

    Attributes:
        vocab_size: ids are below it.
        bos_id: put before every instance; None where the tokenizer has none.
        eos_id: closes every answer.
        fingerprint: SHA-256 over all that decides an encoding.
        special_tokens: their texts by the names that chat templates use, as {"bos_token": "<s>"}.
        special_texts: the texts of all special tokens, named or not.
        added: special tokens that the tokenizer's own files put before and behind a text, as
            other programs use them; `encode` does not.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        bos_id: int | None,
        eos_id: int,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        """Takes a model; `special_tokens` are all it names, by default bos and eos."""
        # Padding and truncation are ours to do and to count; a "</s>" in a user's text is text.
        inner.no_padding()
        inner.no_truncation()
        inner.encode_special_tokens = True
        self._inner = inner
        with hushed():
            own = inner.encode("a").special_tokens_mask
        self.added = (own.index(0), own[::-1].index(0)) if 0 in own else (0, 0)
        self.vocab_size = max(inner.get_vocab(with_added_tokens=True).values()) + 1
        self.bos_id = bos_id
        self.eos_id = eos_id
        content = json.dumps([inner.to_str(), bos_id, eos_id]).encode()
        self.fingerprint = hashlib.sha256(content).hexdigest()
        if special_tokens is None:
            ids = {"bos_token": bos_id, "eos_token": eos_id}
            special_tokens = {
                name: str(inner.id_to_token(i)) for name, i in ids.items() if i is not None
            }
        self.special_tokens = special_tokens
        added = inner.get_added_tokens_decoder()
        self.special_texts: Sequence[str] = [one.content for one in added.values() if one.special]
        self._rendered: RenderedEncoder | None = None

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Encodes texts; special tokens spelled inside a text are plain text."""
        return [to_encoding(one) for one in encoded(self._inner, texts)]

    def encode_rendered(
        self, texts: Sequence[str], plain: Sequence[Sequence[Span]]
    ) -> list[Encoding]:
        """Encodes texts in which special tokens are spelled, each as its one id; adds none.

        `plain` holds the characters [start, end) of each text where a special token is only text.
        """
        if self._rendered is None:
            self._rendered = RenderedEncoder(self._inner)
        return self._rendered.encode(texts, plain)

    def spelled(self, text: str) -> list[str]:
        """The tokens of a text as the vocabulary spells them, such as "Ġword" for " word"."""
        return encoded(self._inner, [text])[0].tokens

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text, without special tokens."""
        return self._inner.decode(list(ids), skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, as `from_folder` reads them."""
        names = {"eos_token": self._inner.id_to_token(self.eos_id)}
        if self.bos_id is not None:
            names["bos_token"] = self._inner.id_to_token(self.bos_id)
        write_json(folder / "tokenizer_config.json", names)
        # Written last: where tokenizer.json stands, the folder is whole.
        write_bytes(folder / "tokenizer.json", self._inner.to_str(pretty=True).encode())


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes are the ids 0 to 255; then bos and eos."""

    vocab_size = 258

    def __init__(self) -> None:
        """Makes the model."""
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        # As GPT-2 spells bytes: what can be printed by itself, the others by letters from 256 on.
        others = [byte for byte in range(256) if chr(byte) not in alphabet]
        spelled = [others.index(b) + 256 if b in others else b for b in range(256)]
        vocabulary = {chr(code): byte for byte, code in enumerate(spelled)}
        inner = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        inner.add_special_tokens([BOS, EOS])
        super().__init__(inner, 256, 257)
        self.fingerprint = hashlib.sha256(b"bytes, bos 256, eos 257").hexdigest()

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """As the model would, many times faster."""
        encodings = []
        for text in texts:
            ids = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
            # A byte 10xxxxxx goes on with the character before it.
            character = np.cumsum((ids & 0xC0) != 0x80) - 1
            encodings.append(Encoding(ids, np.stack([character, character + 1], axis=1)))
        return encodings


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a byte-level BPE of at most `vocab_size` entries on `texts`.

    Raises:
        UserError: if `vocab_size` cannot even hold the 256 bytes, bos and eos.
    """
    if vocab_size < 258:
        raise UserError(
            f"tokenizer_size={vocab_size} is too small: 256 bytes, bos and eos need 258"
        )
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    # Special tokens come first, in the order given above.
    return Tokenizer(inner, 0, 1)


def from_folder(folder: str | Path) -> Tokenizer:
    """Reads tokenizer.json, and bos and eos from tokenizer_config.json or special_tokens_map.json.

    Raises:
        UserError: if a file is missing or broken, or no eos is named.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        missing = path if folder.is_dir() else f"the folder {folder}"
        raise UserError(
            f"tokenizer: {missing} does not exist; give a folder with a tokenizer.json, "
            '"bytes" or "train"'
        )
    with reading(path, "give a folder with a tokenizer that can be read"):
        return _read(folder)


def _read(folder: Path) -> Tokenizer:
    inner, names = read_tokenizer(folder)
    eos_id = _special(inner, names, "eos_token", folder)
    if eos_id is None:
        raise UserError(
            f"{folder}: names no eos_token, which closes every answer; "
            'add {"eos_token": …} to tokenizer_config.json'
        )
    bos_id = _special(inner, names, "bos_token", folder)
    texts = {key: text_of(token) for key, token in names.items() if key.endswith("_token")}
    special = {key: text for key, text in texts.items() if isinstance(text, str)}
    return Tokenizer(inner, bos_id, eos_id, special)


def _special(
    inner: tokenizers.Tokenizer, names: dict[str, Any], key: str, folder: Path
) -> int | None:
    token = text_of(names.get(key))
    if token is None:
        return None
    if not isinstance(token, str):
        raise UserError(f"{folder}: {key} is {token!r}, not the text of a token")
    token_id = inner.token_to_id(token)
    if token_id is None:
        raise UserError(f"{folder}: {key} {token!r} is not in tokenizer.json's vocabulary")
    return token_id
