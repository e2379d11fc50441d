"""Text to token ids: bytes, a byte-level BPE trained on the training rows, or a folder's own."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import write_bytes, write_json

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


Span = tuple[int, int]


class Encoding(NamedTuple):
    """Tokens of one text: ids (n,) int32, and the characters [start, end) it came from (n, 2)."""

    ids: np.ndarray
    spans: np.ndarray


class Tokenizer(Protocol):
    """What the pipeline needs of a tokenizer.

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

    vocab_size: int
    bos_id: int | None
    eos_id: int
    fingerprint: str
    special_tokens: Mapping[str, str]
    special_texts: Sequence[str]
    added: tuple[int, int]

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Encodes texts; special tokens spelled inside a text are plain text."""
        ...

    def encode_rendered(
        self, texts: Sequence[str], plain: Sequence[Sequence[Span]]
    ) -> list[Encoding]:
        """Encodes texts in which special tokens are spelled, each as its one id; adds none.

        `plain` holds the characters [start, end) of each text where a special token is only text.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text, without special tokens."""
        ...


class ByteTokenizer:
    """UTF-8 bytes are the ids 0–255; then bos and eos."""

    vocab_size = 258
    bos_id: int | None = 256
    eos_id = 257
    fingerprint = hashlib.sha256(b"bytes, bos 256, eos 257").hexdigest()
    special_tokens: Mapping[str, str] = {"bos_token": BOS, "eos_token": EOS}
    special_texts: Sequence[str] = (BOS, EOS)
    added = (0, 0)

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """See `Tokenizer.encode`."""
        encodings = []
        for text in texts:
            ids = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
            # A byte 10xxxxxx goes on with the character before it.
            character = np.cumsum((ids & 0xC0) != 0x80) - 1
            encodings.append(Encoding(ids, np.stack([character, character + 1], axis=1)))
        return encodings

    def encode_rendered(
        self, texts: Sequence[str], plain: Sequence[Sequence[Span]]
    ) -> list[Encoding]:
        """See `Tokenizer.encode_rendered`."""
        ids = {BOS: 256, EOS: self.eos_id}
        return [
            _encode_spelled(text, ids, lambda part: self.encode([part])[0], kept)
            for text, kept in zip(texts, plain, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return bytes(i for i in ids if i < 256).decode(errors="replace")


class FileTokenizer:
    """A `tokenizers` model, with the ids of its bos and eos."""

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
        """See `Tokenizer.encode`."""
        return [
            _to_encoding(encoding)
            for encoding in self._inner.encode_batch(list(texts), add_special_tokens=False)
        ]

    def encode_rendered(
        self, texts: Sequence[str], plain: Sequence[Sequence[Span]]
    ) -> list[Encoding]:
        """See `Tokenizer.encode_rendered`."""
        if self._rendered is None:
            self._rendered = RenderedEncoder(self._inner)
        return self._rendered.encode(texts, plain)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return self._inner.decode(list(ids), skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, as `from_folder` reads them."""
        names = {"eos_token": self._inner.id_to_token(self.eos_id)}
        if self.bos_id is not None:
            names["bos_token"] = self._inner.id_to_token(self.bos_id)
        write_json(folder / "tokenizer_config.json", names)
        # Written last: where tokenizer.json stands, the folder is whole.
        write_bytes(folder / "tokenizer.json", self._inner.to_str(pretty=True).encode())


def train_bpe(texts: Iterable[str], vocab_size: int) -> FileTokenizer:
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
    return FileTokenizer(inner, 0, 1)


def from_folder(folder: str | Path) -> FileTokenizer:
    """Reads tokenizer.json, and bos and eos from tokenizer_config.json or special_tokens_map.json.

    Raises:
        UserError: if a file is missing or broken, or no eos is named.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            f"tokenizer: {path} does not exist; give a folder with a tokenizer.json, "
            '"bytes" or "train"'
        )
    try:
        inner = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{path}: is no tokenizer that can be read: {error}") from None
    names: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            try:
                content = json.loads((folder / name).read_text())
            except ValueError as error:
                raise UserError(f"{folder / name}: is not JSON: {error}") from None
            if not isinstance(content, dict):
                raise UserError(f"{folder / name}: is not a JSON object")
            names |= content
    eos_id = _special(inner, names, "eos_token", folder)
    if eos_id is None:
        raise UserError(
            f"{folder}: names no eos_token, which closes every answer; "
            'add {"eos_token": …} to tokenizer_config.json'
        )
    bos_id = _special(inner, names, "bos_token", folder)
    special = {}
    for key, token in names.items():
        text = token.get("content") if isinstance(token, dict) else token
        if key.endswith("_token") and isinstance(text, str):
            special[key] = text
    return FileTokenizer(inner, bos_id, eos_id, special)


def _special(
    inner: tokenizers.Tokenizer, names: dict[str, Any], key: str, folder: Path
) -> int | None:
    token = names.get(key)
    if isinstance(token, dict):
        token = token.get("content")
    if token is None:
        return None
    if not isinstance(token, str):
        raise UserError(f"{folder}: {key} is {token!r}, not the text of a token")
    token_id = inner.token_to_id(token)
    if token_id is None:
        raise UserError(f"{folder}: {key} {token!r} is not in tokenizer.json's vocabulary")
    return token_id


def _to_encoding(encoding: tokenizers.Encoding) -> Encoding:
    """What `tokenizers` gives, as arrays."""
    return Encoding(
        np.asarray(encoding.ids, np.int32), np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
    )


def _encode_spelled(
    text: str, ids: Mapping[str, int], encode: Callable[[str], Encoding], plain: Sequence[Span]
) -> Encoding:
    """Encodes `text` with `encode`, but the special tokens `ids` as themselves.

    Args:
        ids: texts of special tokens and their ids.
        plain: characters [start, end) in which a special token is only text.
    """
    parts, read = [], 0
    for found in re.finditer("|".join(map(re.escape, ids)), text):
        if not _overlaps(found.span(), plain):
            parts.append(_moved(encode(text[read : found.start()]), read))
            parts.append(Encoding(np.asarray([ids[found[0]]], np.int32), np.array([found.span()])))
            read = found.end()
    return _joined([*parts, _moved(encode(text[read:]), read)])


class RenderedEncoder:
    """A `tokenizers` model that knows special tokens when it sees them, and adds none itself."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        """Copies `inner`, which is left as it is."""
        self._inner = tokenizers.Tokenizer.from_str(inner.to_str())
        # It may take white space out of the spans, which are all that shows a token's borders.
        self._inner.post_processor = None
        self._inner.encode_special_tokens = False
        added = inner.get_added_tokens_decoder().items()
        self._special = np.asarray([i for i, one in added if one.special], np.int32)

    def encode(self, texts: Sequence[str], plain: Sequence[Sequence[Span]]) -> list[Encoding]:
        """Encodes texts; `plain` holds for each the characters where special tokens are text."""
        batch = self._inner.encode_batch(list(texts), add_special_tokens=False)
        return [
            self._with_plain(text, _to_encoding(one), kept)
            for text, one, kept in zip(texts, batch, plain, strict=True)
        ]

    def _with_plain(self, text: str, whole: Encoding, plain: Sequence[Span]) -> Encoding:
        """`whole` with those stretches between real special tokens anew that spell others."""
        special = np.flatnonzero(np.isin(whole.ids, self._special)).tolist()
        # A token that takes white space beside it does not own it: a turn may begin there.
        bare = Encoding(whole.ids, whole.spans.copy())
        for i in special:
            bare.spans[i] = _stripped(text, *whole.spans[i].tolist())
        real = [i for i in special if not _overlaps(bare.spans[i].tolist(), plain)]
        if len(real) == len(special):
            return bare
        parts, read = [], 0
        for place in [*real, len(whole.ids)]:
            if any(read <= i < place for i in special):
                start = int(whole.spans[read - 1, 1]) if read else 0
                end = len(text) if place == len(whole.ids) else int(whole.spans[place, 0])
                parts.append(_moved(self._encode_plain(text[start:end], start > 0), start))
            else:
                parts.append(_part(bare, read, place))
            parts.append(_part(bare, place, place + 1))
            read = place + 1
        return _joined(parts)

    def _encode_plain(self, text: str, inside: bool) -> Encoding:
        self._inner.encode_special_tokens = True
        # Some models put a space before a text's first word; a line break keeps it off the words
        # of a text that goes on, unless it is joined with them.
        shift = int(inside)
        one = _to_encoding(self._inner.encode("\n" * shift + text, add_special_tokens=False))
        if ((one.spans[:, 0] < shift) & (one.spans[:, 1] > shift)).any():
            shift = 0
            one = _to_encoding(self._inner.encode(text, add_special_tokens=False))
        self._inner.encode_special_tokens = False
        own = one.spans[:, 1] > shift
        return Encoding(one.ids[own], one.spans[own] - shift)


def _part(encoding: Encoding, start: int, end: int) -> Encoding:
    return Encoding(encoding.ids[start:end], encoding.spans[start:end])


def _moved(encoding: Encoding, by: int) -> Encoding:
    return Encoding(encoding.ids, encoding.spans + by)


def _joined(parts: Sequence[Encoding]) -> Encoding:
    ids, spans = zip(*parts, strict=True)
    return Encoding(np.concatenate(ids), np.concatenate(spans))


def _stripped(text: str, start: int, end: int) -> Span:
    """A span without the white space at its ends, if it holds anything else."""
    part = text[start:end]
    if not part.strip():
        return start, end
    return end - len(part.lstrip()), start + len(part.rstrip())


def _overlaps(span: Sequence[int], others: Sequence[Span]) -> bool:
    return any(start < span[1] and span[0] < end for start, end in others)
