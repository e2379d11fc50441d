import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.tokenize.rendered import RenderedEncoder
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer, Tokenizer, from_folder, train_bpe
from zsg_jax.runtime.errors import UserError

TEXTS = ["The cat sat on the mat.", "Ein Käse für 3 €", "<|eos|> is text here", "日本語 🎉"]
BYTES, BPE = ByteTokenizer(), train_bpe(TEXTS * 3, 400)


def trimming():
    """As `BPE`, but a folder's own wish takes white space out of the spans."""
    inner = tokenizers.Tokenizer.from_str(BPE._inner.to_str())
    inner.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    return Tokenizer(inner, BPE.bos_id, BPE.eos_id)


@pytest.mark.parametrize("tokenizer", [BYTES, BPE, trimming()], ids=["bytes", "bpe", "trimming"])
@settings(max_examples=30)
@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from(["text", "plain", "special"]), st.text(max_size=5) | st.just("a b")
        ),
        max_size=8,
    )
)
def test_text_comes_back_with_special_tokens_but_not_those_that_are_only_spelled(tokenizer, parts):
    text, plain = "", []
    for kind, letters in parts:
        piece = letters if kind == "text" else "<|eos|>"
        if kind == "plain":
            plain.append((len(text), len(text) + len(piece)))
        text += piece
    (encoding,) = tokenizer.encode_rendered([text], [plain])
    special = encoding.ids == tokenizer.eos_id
    assert special.sum() == sum(kind == "special" for kind, _ in parts)
    assert tokenizer.decode(encoding.ids.tolist()) == "".join(
        {"special": "", "plain": "<|eos|>"}.get(kind, letters) for kind, letters in parts
    )
    for span in encoding.spans[special].tolist():
        assert text[slice(*span)] == "<|eos|>"
        assert span not in [list(one) for one in plain]
    check_spans(text, encoding)
    # Where nothing is rendered, all of it is text.
    (encoding,) = tokenizer.encode([text])
    assert tokenizer.decode(encoding.ids.tolist()) == text
    if tokenizer in (BYTES, BPE):
        check_spans(text, encoding)
    if tokenizer is BYTES:
        assert encoding.ids.tolist() == list(text.encode())
        (plainly,) = tokenizer.encode_rendered([text], [[(0, len(text))]])
        np.testing.assert_array_equal(plainly.ids, encoding.ids)
        np.testing.assert_array_equal(plainly.spans, encoding.spans)


def check_spans(text, encoding):
    assert len(encoding.ids) == len(encoding.spans)
    covered = {place for start, end in encoding.spans.tolist() for place in range(start, end)}
    assert covered == set(range(len(text)))


@pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])
def test_a_tokenizer_is_saved_and_read_back(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = from_folder(tmp_path)
    for name in ("bos_id", "eos_id", "vocab_size", "special_tokens", "special_texts"):
        assert getattr(again, name) == getattr(tokenizer, name)
    for one, other in zip(again.encode(TEXTS), tokenizer.encode(TEXTS), strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)


def test_training_is_repeatable_and_keeps_to_its_size():
    assert train_bpe(TEXTS * 3, 400).fingerprint == BPE.fingerprint
    assert BPE.vocab_size <= 400
    with pytest.raises(UserError, match="258"):
        train_bpe(TEXTS, 200)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"bos_token": null}', "names no eos_token"),
        ('{"eos_token": "</nope>"}', "is not in tokenizer"),
        ('{"eos_token": 2}', "not the text of a token"),
        ('{"eos_token": ["</s>"]}', "not the text of a token"),
        ('{"eos_token": {"content": 3}}', "not the text of a token"),
        ("{", "is damaged"),
        (None, "cannot be read as what it should be: .*Model missing"),
    ],
)
def test_folders_that_do_not_serve_are_refused(config, message, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        from_folder(tmp_path)
    BPE.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|eos|>"}}')
    assert from_folder(tmp_path).bos_id is None
    name = "tokenizer_config.json" if config else "tokenizer.json"
    (tmp_path / name).write_text(config or "{}")
    with pytest.raises(UserError, match=message):
        from_folder(tmp_path)


def test_a_spelled_token_does_not_put_a_space_into_a_text(assets):
    tokenizer = from_folder(assets / "models" / "stories260k")
    text = "<s>Once a</s>pon a time</s>"
    (spelled,) = tokenizer.encode_rendered([text], [[(3, 23)]])
    assert (spelled.ids[0], spelled.ids[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
    assert (spelled.ids == tokenizer.eos_id).sum() == 1
    assert tokenizer.decode(spelled.ids.tolist()) == "Once a</s>pon a time"
    assert tokenizer.special_tokens["unk_token"] == "<unk>"


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
