import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.tokenize.tokenizer import (
    ByteTokenizer,
    FileTokenizer,
    RenderedEncoder,
    from_folder,
    train_bpe,
)
from zsg_jax.runtime.errors import UserError

TEXTS = ["The cat sat on the mat.", "Ein Käse für 3 €", "<|eos|> is text here", "日本語 🎉"]
BPE = train_bpe(TEXTS * 3, 400)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=["bytes", "bpe"])
@given(text=st.text(max_size=40))
def test_text_comes_back_and_spans_cover_it(tokenizer, text):
    (encoding,) = tokenizer.encode([text])
    assert tokenizer.decode(encoding.ids.tolist()) == text
    assert encoding.ids.max(initial=0) < tokenizer.vocab_size
    assert len(encoding.ids) == len(encoding.spans)
    covered = {place for start, end in encoding.spans.tolist() for place in range(start, end)}
    assert covered == set(range(len(text)))


def test_byte_spans_name_the_character_of_each_byte():
    (encoding,) = ByteTokenizer().encode(["aé€b"])
    assert encoding.spans[:, 0].tolist() == [0, 1, 1, 2, 2, 2, 3]


def test_special_tokens_spelled_in_a_text_are_text():
    (encoding,) = BPE.encode(["a<|eos|>b<|bos|>"])
    assert not {BPE.eos_id, BPE.bos_id} & set(encoding.ids.tolist())


def test_a_trained_tokenizer_is_saved_and_read_back(tmp_path):
    BPE.save(tmp_path / "t")
    again = from_folder(tmp_path / "t")
    assert again.fingerprint == BPE.fingerprint
    assert (again.bos_id, again.eos_id, again.vocab_size) == (
        BPE.bos_id,
        BPE.eos_id,
        BPE.vocab_size,
    )
    assert (again.encode(TEXTS)[0].ids == BPE.encode(TEXTS)[0].ids).all()


def test_training_is_repeatable_and_keeps_to_its_size():
    assert train_bpe(TEXTS * 3, 400).fingerprint == BPE.fingerprint
    assert BPE.vocab_size <= 400
    with pytest.raises(UserError, match="258"):
        train_bpe(TEXTS, 200)


def test_folders_that_do_not_serve_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        from_folder(tmp_path)
    BPE.save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"bos_token": None}))
    with pytest.raises(UserError, match="names no eos_token"):
        from_folder(tmp_path)
    config.write_text(json.dumps({"eos_token": "</nope>"}))
    with pytest.raises(UserError, match="is not in tokenizer"):
        from_folder(tmp_path)
    for odd in (2, ["</s>"], {"content": 3}):
        config.write_text(json.dumps({"eos_token": odd}))
        with pytest.raises(UserError, match="not the text of a token"):
            from_folder(tmp_path)
    config.write_text(json.dumps({"eos_token": {"content": "<|eos|>"}}))
    tokenizer = from_folder(tmp_path)
    assert tokenizer.bos_id is None
    config.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="is no tokenizer that can be read"):
        from_folder(tmp_path)


def trimming():
    """As `BPE`, but a folder's own wish takes white space out of the spans."""
    inner = tokenizers.Tokenizer.from_str(BPE._inner.to_str())
    inner.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    return FileTokenizer(inner, BPE.bos_id, BPE.eos_id)


@pytest.mark.parametrize(
    "tokenizer", [ByteTokenizer(), BPE, trimming()], ids=["bytes", "bpe", "trimming"]
)
@settings(deadline=None)
@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from(["text", "plain", "special"]), st.text(max_size=5) | st.just("a b")
        ),
        max_size=8,
    )
)
def test_rendered_texts_hold_special_tokens_but_not_those_that_are_only_spelled(tokenizer, parts):
    text, plain, wanted = "", [], []
    for kind, letters in parts:
        piece = letters if kind == "text" else "<|eos|>"
        if kind == "plain":
            plain.append((len(text), len(text) + len(piece)))
        if kind == "special":
            wanted.append("")
        else:
            wanted = [*wanted[:-1], (wanted or [""])[-1] + piece]
        text += piece
    (encoding,) = tokenizer.encode_rendered([text], [plain])
    special = encoding.ids == tokenizer.eos_id
    assert special.sum() == sum(kind == "special" for kind, _ in parts)
    assert tokenizer.decode(encoding.ids.tolist()) == "".join(
        "" if kind == "special" else letters if kind == "text" else "<|eos|>"
        for kind, letters in parts
    )
    for span in encoding.spans[special].tolist():
        assert text[slice(*span)] == "<|eos|>"
        assert span not in [list(one) for one in plain]
    covered = {place for start, end in encoding.spans.tolist() for place in range(start, end)}
    assert covered == set(range(len(text)))


def test_a_spelled_token_does_not_put_a_space_into_a_text(assets):
    tokenizer = from_folder(assets / "models" / "stories260k")
    text = "<s>Once a</s>pon a time</s>"
    (spelled,) = tokenizer.encode_rendered([text], [[(3, 23)]])
    assert (spelled.ids[0], spelled.ids[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
    assert (spelled.ids == tokenizer.eos_id).sum() == 1
    assert tokenizer.decode(spelled.ids.tolist()) == "Once a</s>pon a time"
    assert (tokenizer.special_tokens["unk_token"], tokenizer.special_tokens["bos_token"]) == (
        "<unk>",
        "<s>",
    )


@pytest.mark.parametrize("words", [" hello", "hello ", " hello ", "hello"])
def test_a_token_that_takes_white_space_beside_it_stays_one(words):
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"hello": 0, "?": 1, "<s>": 2}, unk_token="?")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.add_special_tokens(
        [tokenizers.AddedToken(token, lstrip=True, rstrip=True) for token in ("<u>", "<e>")]
    )
    text = f"<u>{words}<e>"
    (found,) = RenderedEncoder(inner).encode([text], [[(3, 3 + len(words))]])
    assert found.ids.tolist() == [3, 0, 4]
    assert found.spans.tolist()[0] == [0, 3]
    assert found.spans.tolist()[2] == [3 + len(words), len(text)]
    # What a turn spells stays text.
    (found,) = RenderedEncoder(inner).encode([text + "<u>"], [[(3, len(text) + 3)]])
    assert found.ids[0] == 3
    assert not np.isin(found.ids[1:], [3, 4]).any()
