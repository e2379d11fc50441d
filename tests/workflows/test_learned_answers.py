"""Studies embed by the answers that they learn: states and gradients of `data.answers`."""

import json

import numpy as np
import pytest

from zsg_jax.arrangement.spaces import open_encoder
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.views import conversations
from zsg_jax.workflows import study

SPACES = {"states": ",tokens=answers", "gradients": ",dimension=64"}


def asked(number):
    return [("user", f"q{number}"), ("assistant", f"first {number}"), ("user", "and?")]


def rows(count, start):
    return [[*asked(start + n), ("assistant", f"then {n * n}")] for n in range(count)]


def embedded(encoder, several):
    view = conversations("both")
    made = [Instance("a", "t", tuple(Turn(*turn) for turn in turns), ()) for turns in several]
    return np.asarray(encoder.encode([view(one) for one in made]))


@pytest.mark.parametrize("space", SPACES)
def test_the_answers_that_are_learned_are_those_that_carry_loss(write_bytes_llama, tmp_path, space):
    name = f"{space}:{write_bytes_llama(tmp_path / 'llama')}{SPACES[space]}"
    plain = open_encoder(name, tmp_path)
    every, last, each = (open_encoder(name, tmp_path, one) for one in ("all", "last", "each"))
    assert plain.fingerprint == every.fingerprint != last.fingerprint == each.fingerprint
    whole = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    unlearned = [whole[0], ("assistant", "b", "", False), *whole[2:]]
    np.testing.assert_array_equal(embedded(last, [whole]), embedded(every, [unlearned]))
    assert (embedded(last, [whole]) * embedded(every, [whole])).sum() < 0.9999


@pytest.mark.parametrize("answers", ["all", "last", "each"])
def test_a_study_embeds_by_the_answers_that_it_learns(
    small_config, write_bytes_llama, tmp_path, answers
):
    sides = {"train": rows(12, 0), "test": rows(4, 20)}
    for side, several in sides.items():
        messages = ([{"role": who, "content": said} for who, said in turns] for turns in several)
        lines = (json.dumps({"messages": one}) + "\n" for one in messages)
        (tmp_path / f"{side}.jsonl").write_text("".join(lines))
    llama = str(write_bytes_llama(tmp_path / "llama"))
    name = f"states:{llama}{SPACES['states']}"
    config = small_config(
        **{f"data.{side}": str(tmp_path / f"{side}.jsonl") for side in sides},
        **{"data.answers": answers, "similarity.encoder": name},
        **{"model.init_from": llama, "tokenizer": llama, "data.max_length": 128},
        **{"training.steps": 1, "evaluation.max_length": 128},
    )
    study.run(config, tmp_path / "w", command="test")
    encoder = open_encoder(name, tmp_path, answers)
    for side, several in sides.items():
        if answers == "each":
            several = [part for one in several for part in (one[:2], one)]
        found = np.load(tmp_path / "w" / "embeddings" / side / "00000.npy")
        np.testing.assert_allclose(found, embedded(encoder, several), atol=1e-6)
