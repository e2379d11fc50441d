"""The tokenizer of an encoder's folder: tokenizer.json, and where tokenizer_config.json decides."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from zsg_jax.runtime.errors import UserError, check
from zsg_jax.similarity.encoders.folder import read_object

# transformers builds these anew of the vocabulary and the keys below, whatever else tokenizer.json
# says; the class that a family has where none is named.
_BERT_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "MPNetTokenizer")
_CLASSES = {"bert": "BertTokenizer", "distilbert": "DistilBertTokenizer", "mpnet": "MPNetTokenizer"}
# From tokenizer_config.json to the normalizer of tokenizer.json, and what is meant without it.
_BERT_KEYS: dict[str, tuple[str, bool | None]] = {
    "do_lower_case": ("lowercase", True),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
    "strip_accents": ("strip_accents", None),
}


class EncoderTokenizer(NamedTuple):
    """A tokenizer that cuts texts.

    Attributes:
        tokenizer: gives ids without padding.
        max_tokens: tokens of a text at most, special ones counted.
        content: what decides its ids, as JSON values.
    """

    tokenizer: Tokenizer
    max_tokens: int
    content: Any


def read_tokenizer(
    folder: Path,
    family: str,
    *,
    vocab_size: int,
    max_positions: int,
    max_tokens: int | None = None,
    lower: bool = False,
) -> EncoderTokenizer:
    """Reads tokenizer.json and tokenizer_config.json as transformers does.

    Args:
        folder: holds both; the second may be missing.
        family: the model's.
        vocab_size, max_positions: of the model, which a token's number and a text must fit.
        max_tokens: tokens of a text at most; None: what tokenizer_config.json says, if anything.
        lower: whether texts are brought to lower case first, whatever the files say.

    Raises:
        UserError: a file is missing or damaged, or the two contradict each other.
    """
    path, other = folder / "tokenizer.json", folder / "tokenizer_config.json"
    content = read_object(path)
    settings = read_object(other) if other.exists() else {}
    side = _side(other, settings, content.get("truncation"))
    content |= {"truncation": None, "padding": None}
    _settle_normalizer(path, content, family, settings)
    if lower:
        _lower(content)
    check(
        not settings.get("split_special_tokens"),
        f"{other}: split_special_tokens is on, which is not done here; take another encoder",
    )
    try:
        tokenizer = Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # what the tokenizers library raises has no narrower type
        raise UserError(f"{path}: no tokenizer ({error}); fetch the file again") from None
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    check(
        largest < vocab_size,
        f"{path}: token number {largest} is beyond vocab_size={vocab_size} of config.json;"
        " use the files that belong together",
    )
    if max_tokens is None:
        # Without a limit this is a huge number.
        own = settings.get("model_max_length", settings.get("max_len"))
        check(
            own is None or (isinstance(own, int | float) and own >= 3),
            f"{other}: model_max_length is {own!r}; give a whole number from 3",
        )
        max_tokens = max_positions if own is None else int(own)
    max_tokens = min(max_tokens, max_positions)
    tokenizer.enable_truncation(max_tokens, direction=side)
    kept = {key: value for key, value in content.items() if value is not None}
    return EncoderTokenizer(tokenizer, max_tokens, [kept, side])


def _side(path: Path, settings: dict[str, Any], truncation: Any) -> str:
    """The side that a long text loses: of tokenizer_config.json, or else of tokenizer.json."""
    other = truncation.get("direction") if isinstance(truncation, dict) else None
    side = settings.get("truncation_side") or (other or "right").lower()
    check(side in ("left", "right"), f"{path}: truncation_side is {side!r}; give left or right")
    return side


def _settle_normalizer(
    path: Path, content: dict[str, Any], family: str, settings: dict[str, Any]
) -> None:
    """Lets tokenizer_config.json decide where transformers' class for BERT lets it."""
    kind = str(settings.get("tokenizer_class") or _CLASSES.get(family)).removesuffix("Fast")
    if kind not in _BERT_CLASSES:
        return
    kinds = [(content.get(key) or {}).get("type") for key in ("normalizer", "pre_tokenizer")]
    # Older files leave out the type of the model.
    model = (content.get("model") or {}).get("type", "WordPiece")
    check(
        [*kinds, model] == ["BertNormalizer", "BertPreTokenizer", "WordPiece"],
        f"{path}: normalizer, pre_tokenizer and model are {kinds[0]}, {kinds[1]} and {model}, but "
        f"transformers' {kind} has BertNormalizer, BertPreTokenizer and WordPiece; save the "
        "tokenizer again with transformers, or name its class in tokenizer_config.json",
    )
    chosen = {ours: settings.get(theirs, default) for theirs, (ours, default) in _BERT_KEYS.items()}
    content["normalizer"] = {**content["normalizer"], "clean_text": True, **chosen}


def _lower(content: dict[str, Any]) -> None:
    normalizer = content.get("normalizer")
    several = [] if normalizer is None else [normalizer]
    if normalizer and normalizer.get("type") == "Sequence":
        several = normalizer["normalizers"]
    if all(one.get("type") != "Lowercase" for one in several):
        several = [{"type": "Lowercase"}, *several]
        content["normalizer"] = {"type": "Sequence", "normalizers": several}
