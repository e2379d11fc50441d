import json
import shutil

import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows import study

TEMPLATE = (
    "{{ bos_token }}{% for t in messages %}<{{ t.role }}>{{ t.content }}"
    "{{ eos_token if t.role == 'assistant' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_study_follows_its_template_and_is_bound_to_it(
    small_config, read_metrics, tmp_path, capsys
):
    template = tmp_path / "mine.jinja"
    template.write_text(TEMPLATE)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{n}" * 60},
                {"role": "assistant", "content": a},
            ]
        }
        for n, a in enumerate(["yes", "no", "maybe so"])
    ]
    for side in ("train", "test"):
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = small_config(
        **{
            "data.train": str(tmp_path / "train.jsonl"),
            "data.test": str(tmp_path / "test.jsonl"),
            "data.template": str(template),
            "data.truncation": "head",
            "data.max_length": 64,
            "evaluation.max_length": 64,
        }
    )
    page = study.run(config, tmp_path / "w", command="").read_text()
    assert "3 of 3 train rows were longer than data.max_length" in page
    assert "3 lost" in capsys.readouterr().err
    (first, *_) = read_metrics(tmp_path / "w" / "runs" / "tmta-nft-seed0")
    assert first["instances"] == 3
    data = json.loads((tmp_path / "w" / "data.json").read_text())
    assert (data["train_dropped"], data["train_answer_cut"]) == ([], 0)
    # All three lose what does not fit of <user>, 60 letters, <assistant>, the answer and eos.
    answers = len("yes") + len("no") + len("maybe so")
    assert data["train_prompt_cut_tokens"] == 3 * (1 + 6 + 60 + 11 + 1 - 64) + answers
    template.write_text(TEMPLATE.replace("<", "["))
    shutil.rmtree(tmp_path / "w" / "runs")
    with pytest.raises(UserError, match="the chat template changed since it was made"):
        study.run(config, tmp_path / "w", command="")
