"""Five chat styles: a template file, a tokenizer, and by hand what the template must write."""

import functools
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.tokenize.jinja import ChatTemplate
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer, Tokenizer

FOLDER = Path(__file__).parent / "chat"
TEXTS = [
    "[INST] Who wrote it? [/INST] Nobody wrote it down. <<SYS>>\nBe kind.\n<</SYS>>\n\n",
    "user\nassistant\nmodel\nsystem\nYou are of use. 12 + 30 = 42\n\n",
    "é 日本 🎉 Hello there, hello you\nUser: So?\nAssistant: So.",
]


class Style(NamedTuple):
    """The special tokens, the places of bos and eos among them, and what stands around turns."""

    special: list[str]
    bos: int | None
    eos: int
    system: str
    user: str
    answer: str
    opening: str = ""
    after: str = ""


_HEAD = "<|start_header_id|>{}<|end_header_id|>\n\n"
_LLAMA3 = "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>"
STYLES = {
    "llama2": Style(
        ["<s>", "</s>"], 0, 1, "<<SYS>>\n{}\n<</SYS>>\n\n", "<s>[INST] {} [/INST]", " {} </s>"
    ),
    "llama3": Style(
        _LLAMA3.split(),
        0,
        1,
        _HEAD.format("system") + "{}<|eot_id|>",
        _HEAD.format("user") + "{}<|eot_id|>" + _HEAD.format("assistant"),
        "{}<|eot_id|>",
        opening="<|begin_of_text|>",
    ),
    "qwen": Style(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        None,
        2,
        "<|im_start|>system\n{}<|im_end|>\n",
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
        "{}<|im_end|>",
        after="\n",
    ),
    "mistral": Style(
        ["<s>", "</s>", "[INST]", "[/INST]"],
        0,
        1,
        "{}\n\n",
        "[INST] {} [/INST]",
        " {}</s>",
        opening="<s>",
    ),
    "gemma": Style(
        ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
        0,
        1,
        "",
        "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
        "{}<end_of_turn>",
        opening="<bos>",
        after="\n",
    ),
    # Needs no template; the names of bos and eos are its tokenizer's.
    "study": Style(
        ["<s>", "</s>"],
        0,
        1,
        "System: {}\n",
        "User: {}\nAssistant: ",
        "{}</s>",
        opening="<s>",
        after="\n",
    ),
}
# Those whose text comes back byte for byte; the others put "▁" for spaces.
BYTE_LEVEL = ("llama3", "qwen", "digits")


def expected(style, turns):
    """What a template must write for (role, content) turns: pieces, and whether each is learned."""
    form, turns = STYLES[style], list(turns)
    trim = (lambda text: text) if style == "qwen" else str.strip
    system = form.system.format(trim(turns.pop(0)[1])) if turns[0][0] == "system" else ""
    if style == "qwen" and not system:
        system = form.system.format("You are of use.")
    # Where a system turn stands inside a user's.
    inside = {"llama2": 0, "mistral": len(turns) - 2}.get(style)
    pieces = [(form.opening + ("" if inside is not None else system), False)]
    for number, (role, content, *_) in enumerate(turns):
        own = (system if number == inside else "") + trim(content)
        if role == "user":
            pieces.append((pieces.pop()[0] + form.user.format(own), False))
        else:
            pieces += [(form.answer.format(own), True), (form.after, False)]
    if style == "study" or not form.after:
        pieces.pop()
    return pieces


def source(style, marked):
    """The template's text, with its {% generation %} blocks or without."""
    text = (FOLDER / f"{style}.jinja").read_text()
    return text if marked else re.sub(r"{%-? (end)?generation -?%}", "", text)


def template(style, marked=False):
    """The style's template, compiled."""
    return ChatTemplate(source(style, marked), f"{style}.jinja", tokenizer(style).special_tokens)


def instance(*contents, system=None):
    """A conversation of what a user and an assistant say in turn."""
    turns = [Turn(("user", "assistant")[n % 2], text) for n, text in enumerate(contents)]
    turns = [Turn("system", system)] * (system is not None) + turns
    return Instance("i", "t", tuple(turns), (contents[-1],))


@functools.cache
def inner(name):
    """A small BPE in the manner of a style's models, or of "digits" or "prepend"."""
    special = STYLES.get(name, STYLES["study"]).special
    alphabet, held = [], []
    if name in BYTE_LEVEL:
        made = tokenizers.Tokenizer(models.BPE())
        # Line breaks stand apart from what follows, as in both families' own patterns.
        split = pre_tokenizers.Split(Regex(r"\s*[\r\n]+| ?[^\s]+|\s+(?!\S)|\s"), "isolated")
        if name == "digits":
            split = pre_tokenizers.Digits(individual_digits=True)
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name == "digits")
        made.pre_tokenizer = pre_tokenizers.Sequence([split, level])
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        held = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
        if name == "gemma":
            made.normalizer = normalizers.Replace(" ", "▁")
            made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        else:
            made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + len(held) + 400,
        special_tokens=[*special, *held],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    made.train_from_iterator(TEXTS * 4, trainer)
    if held:
        # The bytes and <unk> were special tokens to get their places; they are plain entries.
        content = json.loads(made.to_str())
        added = [one for one in content["added_tokens"] if one["content"] in special]
        made = tokenizers.Tokenizer.from_str(json.dumps(content | {"added_tokens": added}))
    if name == "gemma":
        made.add_tokens([AddedToken("\n", normalized=False)])
    if name == "prepend":
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        made.pre_tokenizer = None
    return made


@functools.cache
def tokenizer(name):
    """The same as the pipeline's tokenizer; "bytes" too."""
    if name == "bytes":
        return ByteTokenizer()
    special, bos, eos = STYLES.get(name, STYLES["study"])[:3]
    names = {"eos_token": special[eos]} | ({} if bos is None else {"bos_token": special[bos]})
    copy = tokenizers.Tokenizer.from_str(inner(name).to_str())
    return Tokenizer(copy, bos, eos, names)


def special_ids(style, name):
    """The ids of the special tokens that a style may write, by their text."""
    if name == "bytes":
        return {"<s>": 256, "</s>": 257}
    return {text: inner(name).token_to_id(text) for text in STYLES[style].special}


def shown(name, ids):
    """Ids as text with special tokens; blanks are left out where a tokenizer moves them."""
    if name == "bytes":
        spelled = {256: b"<s>", 257: b"</s>"}
        return b"".join(spelled.get(i, bytes([i % 256])) for i in ids).decode()
    return plain(name, inner(name).decode(ids, skip_special_tokens=False))


def plain(name, text):
    """A text as `shown` gives it."""
    return text if name in (*BYTE_LEVEL, "bytes") else text.replace("▁", "").replace(" ", "")


@pytest.fixture(scope="session")
def styles():
    """This file's functions, which tests of several modules need."""
    return sys.modules[__name__]
