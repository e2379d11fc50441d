"""Embedding both sides: what it took, kills and all; texts that leave nothing to compare."""

import json

import pytest

from zsg_jax.arrangement import embedded
from zsg_jax.data.dataset import from_list
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.hashing import HashingEncoder


def rows(count):
    turns = (Turn("user", "ask"), Turn("assistant", "answer"))
    return from_list([Instance(str(n), "t", turns, ("answer",)) for n in range(count)])


def test_the_cost_of_embeddings_outlives_a_kill(tmp_path, monkeypatch):
    now, left = [0.0], [1]
    encode = HashingEncoder.encode

    def ten_seconds(self, *given):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        now[0] += 10
        return encode(self, *given)

    monkeypatch.setattr(embedded.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(HashingEncoder, "encode", ten_seconds)
    with pytest.raises(KeyboardInterrupt):
        embedded.embed_pair(rows(4), rows(3), "hashing", tmp_path)
    left[0] = 9
    embedded.embed_pair(rows(4), rows(3), "hashing", tmp_path)
    told = json.loads((tmp_path / embedded.COST).read_text())
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.npy")]
    assert told == {"seconds": 20.0, "bytes": sum(sizes)}
    now[0] += 10
    embedded.embed_pair(rows(4), rows(3), "hashing", tmp_path)  # nothing is left to embed
    assert json.loads((tmp_path / embedded.COST).read_text()) == told
    # Made again, by the same name and of other texts, which take as many bytes.
    for path in tmp_path.rglob("*.npy"):
        path.unlink()
    embedded.embed_pair(rows(4), rows(3), "hashing", tmp_path)
    again = {"seconds": 40.0, "bytes": sum(sizes)}
    assert json.loads((tmp_path / embedded.COST).read_text()) == again
    prompts = embedded.Embedded("prompt")
    embedded.embed_pair(rows(4), rows(3), "hashing", tmp_path, embedded=prompts)
    assert json.loads((tmp_path / embedded.COST).read_text()) == {**again, "seconds": 60.0}


def test_a_plain_text_is_a_conversation_that_is_all_prompt(tmp_path, monkeypatch, capsys):
    text = from_list([Instance(str(n), "t", (Turn("text", "abc"),), ()) for n in range(3)])
    prompts = embedded.Embedded("prompt")
    with pytest.raises(UserError, match="plain text without a prompt"):
        embedded.embed_pair(rows(4), text, "hashing", tmp_path / "hashing", embedded=prompts)

    encoder = HashingEncoder()
    encoder.conversations = True
    monkeypatch.setattr(embedded, "open_encoder", lambda *given, **more: encoder)
    for name in ("prompt", "both"):
        what = embedded.Embedded(name)
        embedded.embed_pair(rows(4), text, "hashing", tmp_path / name, embedded=what)
    both, prompt = ((tmp_path / one / "test/00000.npy").read_bytes() for one in ("both", "prompt"))
    assert both == prompt
    assert "makes the same text of all 3 test rows, 'abc'" in capsys.readouterr().err


def test_a_template_that_makes_no_text_is_refused_and_empty_or_equal_ones_are_told(
    tmp_path, capsys
):
    def sides(*asked):
        turns = [(Turn("user", ask), Turn("assistant", "answer")) for ask in asked]
        return from_list([Instance(str(n), "t", one, ("answer",)) for n, one in enumerate(turns)])

    def made(template, name):
        view = tmp_path / f"{name}.jinja"
        view.write_text(template)
        what = embedded.Embedded(str(view))
        train, test = sides("ask", "tell", "be"), sides("ask me")
        embedded.embed_pair(train, test, "hashing", tmp_path / name, embedded=what)
        return capsys.readouterr().err

    for template in ("{{ messages[0].contnt }}", " {{ messages[0].contnt }}\n"):
        with pytest.raises(UserError, match=r"typo\.jinja' makes no text of any of the training"):
            made(template, "typo")
    with pytest.raises(UserError, match="makes no text of any of the test rows"):
        made("{{ messages[0].content if 'me' not in messages[0].content }}", "one side")
    assert "same text of all 3 training rows, 'Q:'" in made("Q: {{ messages[0].contnt }}", "head")
    part = made("{{ messages[0].content if 's' in messages[0].content }}", "part")
    assert "makes no text of 2 of 3 training rows" in part
    assert "makes" not in made("{{ messages[0].content }}", "whole")
