"""Which tokens a tokenizer has is told by all files of its folder, as transformers reads them."""

import json

import pytest

from zsg_jax.data.tokenize.tokenizer import from_folder, train_bpe
from zsg_jax.runtime.errors import UserError

TEXT = "<|x|>some words<|y|> <|x|><|eos|>"
FLAGS = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
DECODER = {
    "280": {"content": "<|x|>", "special": True, **FLAGS},
    "281": {"content": "<|y|>", "special": False, **FLAGS},
}
CASES = {
    "named": ({"additional_special_tokens": ["<|x|>", "<|y|>"]}, None),
    "extra": ({"extra_special_tokens": {"a": "<|x|>", "b": "<|y|>"}}, None),
    "pad": ({"pad_token": "<|y|>", "cls_token": "<|x|>"}, None),
    "decoder": ({"added_tokens_decoder": DECODER}, None),
    "added": ({}, {"<|y|>": 281, "<|x|>": 280}),
    "none": ({}, None),
}


@pytest.fixture
def folder(tmp_path):
    train_bpe(["some words to learn from"], 280).save(tmp_path)
    return tmp_path


def edit(path, change):
    content = json.loads(path.read_text()) if path.exists() else {}
    change(content)
    path.write_text(json.dumps(content, ensure_ascii=False))


def size(folder):
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return max(vocab.values()) + 1


@pytest.mark.parametrize("name", CASES)
def test_ids_are_those_of_transformers(folder, name):
    named, added = CASES[name]
    shift = size(folder) - 280
    if "added_tokens_decoder" in named:
        moved = {str(int(key) + shift): one for key, one in DECODER.items()}
        named = {"added_tokens_decoder": moved}
    edit(folder / "tokenizer_config.json", lambda content: content.update(named))
    if added:
        edit(
            folder / "added_tokens.json",
            lambda c: c.update({k: v + shift for k, v in added.items()}),
        )
    ours = from_folder(folder)
    (rendered,) = ours.encode_rendered([TEXT], [[]])
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    assert rendered.ids.tolist() == theirs(TEXT, add_special_tokens=False)["input_ids"]


def test_a_named_token_that_is_spelled_in_a_text_is_text(folder):
    def unspecial(content):
        for one in content["added_tokens"]:
            one["special"] = False

    edit(folder / "tokenizer.json", unspecial)
    tokenizer = from_folder(folder)
    (one,) = tokenizer.encode(["some<|eos|>words"])
    assert tokenizer.eos_id not in one.ids.tolist()
    assert "<|eos|>" in tokenizer.special_texts


def test_an_id_that_the_files_do_not_agree_on_is_refused(folder):
    (folder / "added_tokens.json").write_text('{"<|x|>": 5000}')
    with pytest.raises(UserError, match=r"'<\|x\|>' is token 5000 by one file, and \d+ by"):
        from_folder(folder)


def test_dropout_is_off_and_told(folder, capsys):
    edit(folder / "tokenizer.json", lambda content: content["model"].update(dropout=0.5))
    tokenizer = from_folder(folder)
    ids = {tuple(tokenizer.encode(["some words to learn from"])[0].ids.tolist()) for _ in range(20)}
    assert len(ids) == 1
    assert "dropout of 0.5 is off" in capsys.readouterr().err


def test_a_byte_order_mark_is_no_text(folder):
    path = folder / "tokenizer_config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert from_folder(folder).eos_id == 1
