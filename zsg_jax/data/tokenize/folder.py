"""What the files of a tokenizer's folder say together, as transformers reads them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from zsg_jax.runtime.errors import check
from zsg_jax.runtime.files import need_json, read_json
from zsg_jax.runtime.progress import say
from zsg_jax.runtime.streams import hushed

FILE = "tokenizer.json"
_NAMES = "tokenizer_config.json"
# Each of them names special tokens; what a later one says counts.
_NAMING = ("special_tokens_map.json", _NAMES)
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


def read_tokenizer(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The model in a folder, with every token that its files add or call special, and the names.

    Tokens are added that tokenizer.json lacks; named ones are special, whatever it says of them.
    BPE dropout, by which one text has other tokens every time, is off.

    Raises:
        UserError: a file is damaged, or two of them tell of one token different ids.
    """
    content = need_json(folder / FILE, (), "give a folder with one")
    names: dict[str, Any] = {}
    for name in _NAMING:
        names |= read_json(folder / name) or {}
    model = content.get("model")
    if isinstance(model, dict) and model.get("dropout"):
        say(f"{folder / FILE}: its BPE dropout of {model['dropout']} is off: tokens follow a text")
        model["dropout"] = None
    listed = content.get("added_tokens") or []
    check(isinstance(listed, list), f"{folder / FILE}: added_tokens is no list; fetch it again")
    known = {one["content"]: one for one in listed}
    vocabulary = _vocabulary(content)
    ends = [text_of(names.get(key)) for key in ("bos_token", "eos_token")]
    for text, told in _told(folder, names).items():
        if text in ends and text not in vocabulary and text not in known and "wanted" not in told:
            continue  # a mistake, which is told where it is looked for
        if text not in known:
            plain = dict.fromkeys(_FLAGS, False)
            known[text] = {"content": text, "special": False, **plain}
        one = known[text]
        one |= {key: told[key] for key in _FLAGS if key in told and "id" not in one}
        one["special"] = bool(one["special"] or told.get("special"))
    _number(known, vocabulary, _told(folder, names), folder)
    content["added_tokens"] = sorted(known.values(), key=lambda one: one["id"])
    with hushed():
        return tokenizers.Tokenizer.from_str(json.dumps(content)), names


def _told(folder: Path, names: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the files beside tokenizer.json say of tokens, by their texts."""
    told: dict[str, dict[str, Any]] = {}
    for text, number in (read_json(folder / "added_tokens.json") or {}).items():
        told[text] = {"wanted": number, "special": False}
    for number, one in (names.get("added_tokens_decoder") or {}).items():
        told[one["content"]] = {**one, "wanted": int(number)}
    named = [value for key, value in names.items() if key.endswith("_token")]
    for key in _LISTS:
        found = names.get(key) or []
        named += found.values() if isinstance(found, dict) else found
    for value in named:
        flags = value if isinstance(value, dict) else {"content": value}
        if isinstance(flags.get("content"), str):
            text = flags["content"]
            told[text] = {**flags, **told.get(text, {}), "special": True}
    return told


def text_of(token: Any) -> Any:
    """What a folder says of a special token: its text, or an object that holds it."""
    return token.get("content") if isinstance(token, dict) else token


def _vocabulary(content: Mapping[str, Any]) -> Mapping[str, int]:
    model = content.get("model")
    found = model.get("vocab", {}) if isinstance(model, dict) else {}
    if isinstance(found, dict):
        return found
    return {piece: number for number, (piece, *_) in enumerate(found)}  # of Unigram


def _number(
    known: dict[str, dict[str, Any]],
    vocabulary: Mapping[str, int],
    told: Mapping[str, Mapping[str, Any]],
    folder: Path,
) -> None:
    """Gives new tokens the ids that the model has for them, or the next, in the order told."""
    ids = [one["id"] for one in known.values() if "id" in one]
    following = max([*vocabulary.values(), *ids], default=-1) + 1
    new = [text for text, one in known.items() if "id" not in one]
    for text in sorted(new, key=lambda text: told[text].get("wanted", float("inf"))):
        if text in vocabulary:
            known[text]["id"] = vocabulary[text]
        else:
            known[text]["id"], following = following, following + 1
        wanted = told[text].get("wanted", known[text]["id"])
        check(
            wanted == known[text]["id"],
            f"{folder}: {text!r} is token {wanted} by one file, and {known[text]['id']} by "
            f"{FILE}; save the tokenizer again",
        )
