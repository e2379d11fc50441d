import json

from zsg_jax.config import default_config
from zsg_jax.data.sources import load

OPTIONS = default_config().data.rewrites.to_dict()


def test_a_side_is_made_or_read_and_skipped_rows_of_both_are_told(tmp_path):
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": turns}) + "\n{\n")
    train, test, skipped = load(str(path), "rewrites", bad_rows="skip", rewrites_options=OPTIONS)
    assert [one.id for one in train] == ["rows.jsonl:1"]
    assert len(test) == 2 * OPTIONS["test_rules"] * OPTIONS["test_samples"]
    assert [row.line for row in skipped] == [2]
    train, test, skipped = load("rewrites", str(path), bad_rows="skip", rewrites_options=OPTIONS)
    assert len(train) == 4 * OPTIONS["rules"] * OPTIONS["samples"]
    assert len(skipped) == 1


def test_no_rule_of_the_test_set_stands_in_the_pool():
    train, test, _ = load("rewrites", "rewrites", bad_rows="refuse", rewrites_options=OPTIONS)
    rules = [{one.turns[0].content.split(" ")[0] for one in side} for side in (train, test)]
    assert not rules[0] & rules[1]
