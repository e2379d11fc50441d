import json
from contextlib import ExitStack

import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.workdir import claims
from zsg_jax.workflows.study_data import open_pool

TEMPLATE = (
    "{{ bos_token }}{% for t in messages %}<{{ t.role }}>{{ t.content }}"
    "{{ eos_token if t.role == 'assistant' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def facts_of(small_config, tmp_path):
    """What a study says of its data, of which three examples are too long."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{n}" * 60},
                {"role": "assistant", "content": a},
            ]
        }
        for n, a in enumerate(["yes", " no", "maybe so"])
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for side in ("train", "test"):
        (tmp_path / f"{side}.jsonl").write_text(lines)

    def make(**changes):
        given = {f"data.{side}": str(tmp_path / f"{side}.jsonl") for side in ("train", "test")}
        given |= {"data.truncation": "head", "data.max_length": 64, "evaluation.max_length": 64}
        with ExitStack() as stack:
            pool = open_pool(small_config(**given, **changes), tmp_path / "w", stack)[1]
            return pool.facts | {"weights_digest": ""}

    return make


def test_a_study_follows_its_template_and_is_bound_to_it(facts_of, tmp_path, capsys):
    template = tmp_path / "mine.jinja"
    template.write_text(TEMPLATE)
    facts = facts_of(**{"data.template": str(template)})
    assert "3 lost" in capsys.readouterr().err
    assert (facts["train_dropped"], facts["train_answer_cut"]) == ([], 0)
    # All three lose what does not fit of <user>, 60 letters, <assistant>, the answer and eos.
    answers = len("yes") + len(" no") + len("maybe so")
    assert facts["train_prompt_cut_tokens"] == 3 * (1 + 6 + 60 + 11 + 1 - 64) + answers
    assert facts["train_stripped"] == 0
    claims.claim_data(tmp_path, facts)
    claims.claim_data(tmp_path, facts_of(**{"data.template": str(template)}))
    template.write_text(TEMPLATE.replace("<", "["))
    with pytest.raises(UserError, match="the chat template changed since it was made"):
        claims.claim_data(tmp_path, facts_of(**{"data.template": str(template)}))


def test_white_space_that_the_studys_form_leaves_out_is_counted_and_told(facts_of, capsys):
    facts = facts_of()
    assert (facts["train_stripped"], facts["test_stripped_turns"]) == (1, 1)
    assert "of 3 train rows, 1 in 1 turn" in capsys.readouterr().err
    joined = facts_of(**{"data.join_tokens": True})
    assert joined["template_digest"] != facts["template_digest"]
