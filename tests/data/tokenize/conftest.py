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

from zsg_jax.data.tokenize.tokenizer import FileTokenizer

FOLDER = Path(__file__).parent / "chat"
TEXTS = [
    "[INST] Who wrote it? [/INST] Nobody wrote it down. <<SYS>>\nBe kind.\n<</SYS>>\n\n",
    "user\nassistant\nmodel\nsystem\nYou are of use. 12 + 30 = 42\n\n",
    "é 日本 🎉 Hello there, hello you",
]
SPECIAL = {
    "llama2": ["<s>", "</s>"],
    "llama3": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ],
    "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "mistral": ["<s>", "</s>", "[INST]", "[/INST]"],
    "gemma": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
}
BOS = {"llama2": 0, "llama3": 0, "qwen": None, "mistral": 0, "gemma": 0}
EOS = {"llama2": 1, "llama3": 1, "qwen": 2, "mistral": 1, "gemma": 1}
STYLES = tuple(SPECIAL)
# Those whose text comes back byte for byte; the others put "▁" for spaces.
BYTE_LEVEL = ("llama3", "qwen")


class Piece(NamedTuple):
    text: str
    learned: bool = False


def expected(style, turns):
    """What a template must write for (role, content) turns, from the formats' descriptions."""
    turns = list(turns)
    system = turns.pop(0)[1] if turns[0][0] == "system" else None
    asked = [content for role, content in turns if role == "user"]
    answered = [content for role, content in turns if role == "assistant"]
    pieces = []
    if style == "llama3":
        pieces.append(Piece("<|begin_of_text|>"))
    if style == "gemma":
        pieces.append(Piece("<bos>"))
    if style == "mistral":
        pieces.append(Piece("<s>"))
    if style == "llama3" and system is not None:
        head = "<|start_header_id|>system<|end_header_id|>\n\n"
        pieces.append(Piece(f"{head}{system.strip()}<|eot_id|>"))
    if style == "qwen":
        system = "You are of use." if system is None else system
        pieces.append(Piece(f"<|im_start|>system\n{system}<|im_end|>\n"))
    for number, (user, answer) in enumerate(zip(asked, answered, strict=True)):
        u, a = user.strip(), answer.strip()
        if style == "llama2":
            if system is not None and number == 0:
                u = f"<<SYS>>\n{system.strip()}\n<</SYS>>\n\n{u}"
            pieces += [Piece(f"<s>[INST] {u} [/INST]"), Piece(f" {a} </s>", True)]
        elif style == "llama3":
            head = "<|start_header_id|>{}<|end_header_id|>\n\n"
            prompt = f"{head.format('user')}{u}<|eot_id|>{head.format('assistant')}"
            pieces += [Piece(prompt), Piece(f"{a}<|eot_id|>", True)]
        elif style == "qwen":
            prompt = f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
            pieces += [Piece(prompt), Piece(f"{answer}<|im_end|>", True), Piece("\n")]
        elif style == "mistral":
            if system is not None and number == len(asked) - 1:
                u = f"{system.strip()}\n\n{u}"
            pieces += [Piece(f"[INST] {u} [/INST]"), Piece(f" {a}</s>", True)]
        elif style == "gemma":
            prompt = f"<start_of_turn>user\n{u}<end_of_turn>\n<start_of_turn>model\n"
            pieces += [Piece(prompt), Piece(f"{a}<end_of_turn>", True), Piece("\n")]
    return pieces


def source(style, marked):
    """The template's text, with its {% generation %} blocks or without."""
    text = (FOLDER / f"{style}.jinja").read_text()
    return text if marked else re.sub(r"{%-? (end)?generation -?%}", "", text)


@functools.cache
def inner(style):
    """A small BPE in the manner of the style's models, trained on `TEXTS`."""
    special = SPECIAL[style]
    if style in BYTE_LEVEL:
        made = tokenizers.Tokenizer(models.BPE())
        # Line breaks stand apart from what follows, as in both families' own patterns.
        split = pre_tokenizers.Split(Regex(r"\s*[\r\n]+| ?[^\s]+|\s+(?!\S)|\s"), "isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence([split, level])
        made.decoder = decoders.ByteLevel()
        alphabet, held = pre_tokenizers.ByteLevel.alphabet(), []
    else:
        made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        held = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
        if style == "gemma":
            made.normalizer = normalizers.Replace(" ", "▁")
            made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        else:
            made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        alphabet = []
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + len(held) + 400,
        special_tokens=[*special, *held],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    made.train_from_iterator(TEXTS * 4, trainer)
    if held:
        made = _without_held(made, special)
    if style == "gemma":
        made.add_tokens([AddedToken("\n", normalized=False)])
    return made


def _without_held(made, special):
    # The bytes and <unk> were given as special tokens to get their places; they are plain entries.
    content = json.loads(made.to_str())
    content["added_tokens"] = [one for one in content["added_tokens"] if one["content"] in special]
    return tokenizers.Tokenizer.from_str(json.dumps(content))


@functools.cache
def tokenizer(style):
    """The same as the pipeline's tokenizer."""
    special = SPECIAL[style]
    bos, eos = BOS[style], EOS[style]
    names = {"eos_token": special[eos]} | ({} if bos is None else {"bos_token": special[bos]})
    copy = tokenizers.Tokenizer.from_str(inner(style).to_str())
    return FileTokenizer(copy, bos, eos, names)


@pytest.fixture(scope="session")
def styles():
    """This file's functions, which tests of several modules need."""
    return sys.modules[__name__]
