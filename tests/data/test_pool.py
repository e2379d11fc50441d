from dataclasses import replace

import numpy as np
import pytest

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.pool import keep_trained, make_pool
from zsg_jax.data.tokenize.encode import Form
from zsg_jax.data.tokenize.jinja import ChatTemplate
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer
from zsg_jax.runtime.errors import UserError


def instances(tasks, answer="yes"):
    return [
        Instance(f"row {n}", task, (Turn("user", f"ask {n}"), Turn("assistant", answer)), (answer,))
        for n, task in enumerate(tasks)
    ]


def pool(test, **options):
    return make_pool(
        instances("tt"), test, ByteTokenizer(), train_length=64, test_length=64, **options
    )


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_a_fraction_splits_every_task_and_without_one_all_test_examples_are_both(fraction):
    long = Instance("long", "a", (Turn("user", "x" * 99), Turn("assistant", "y")), ("y",))
    made, again = (pool([*instances("abababab"), long], report_fraction=fraction) for _ in "12")
    # What has no answer token is gone before the split.
    assert len(made.test) == len(made.test_examples) == 8
    assert made.facts["test_dropped"] == ["long"]
    assert made.facts["test_ids"] == [made.test[index].id for index in made.scored]
    assert made.facts["test_id_tasks"] == [made.test[index].task for index in made.scored]
    assert made.facts["split"] == bool(fraction)
    np.testing.assert_array_equal(made.scored, again.scored)
    both = sorted({*made.aimed, *made.scored})
    assert both == list(range(8))
    for part in (made.aimed, made.scored):
        tasks = sorted(made.test[index].task for index in part)
        assert tasks == (["a", "a", "b", "b"] if fraction else list("aaaabbbb"))


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_rows_to_score_that_say_the_same_as_one_to_arrange_toward_or_another_are_counted(fraction):
    test = instances("aabbab")
    twins = [replace(one, id=f"twin of {one.id}") for one in test[:3]]
    made = pool([*test, *twins], report_fraction=fraction)
    texts = made.test.texts[:]
    steered = [texts[i] for i in made.aimed]
    alike = [i for i in made.scored if texts[i] in steered]
    assert made.facts["scored_alike"] == (len(alike) if fraction else 0)
    scored = [texts[i] for i in made.scored]
    copies = [i for i, text in enumerate(scored) if text in scored[:i]]
    assert made.facts["scored_copies"] == len(copies)
    assert len(copies) == (3 if not fraction else 0)
    # Apart from one another under this seed, some of them.
    assert alike


GEMMA_LIKE = ChatTemplate(
    "{% for t in messages %}{% if t.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}<{{ t.role }}>{{ t.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}",
    "own.jinja",
    ByteTokenizer().special_tokens,
)


def with_system(examples):
    return [replace(one, turns=(Turn("system", "s"), *one.turns)) for one in examples]


def test_examples_that_the_template_does_not_fit_are_refused_or_skipped_and_told(capsys):
    form = Form(GEMMA_LIKE)
    good = instances("aa")
    bad = [replace(one, id=f"bad {n}") for n, one in enumerate(with_system(instances("aa")))]
    with pytest.raises(UserError, match=r"own\.jinja does not fit test row 'bad 0': it says: no"):
        pool([*good, *bad], form=form)
    made = pool([*good, *bad], form=form, bad_rows="skip")
    assert list(made.test) == good
    reason = "it says: no system"
    assert made.facts["test_refused"] == [
        {"id": "bad 0", "reason": reason},
        {"id": "bad 1", "reason": reason},
    ]
    assert made.facts["test_dropped"] == ["bad 0", "bad 1"]
    messages = capsys.readouterr().err
    assert "skipped 2 of 4 test rows, as own.jinja does not fit test row 'bad 0'" in messages
    assert "no answer token" not in messages
    for bad_rows in ("refuse", "skip"):
        with pytest.raises(UserError, match="nor does it fit any other: give another"):
            pool(bad, form=form, bad_rows=bad_rows)
    assert pool(good, form=form).facts["template_digest"] == GEMMA_LIKE.fingerprint
    assert pool(good).facts["template_digest"] == Form().fingerprint


def test_what_was_cut_is_counted_by_kind_and_told(capsys):
    long = Instance("p", "a", (Turn("user", "x" * 50), Turn("assistant", "yes")), ("yes",))
    wordy = Instance("w", "a", (Turn("user", "x"), Turn("assistant", "y" * 70)), ("y" * 70,))
    # bos, "User: ", line break, "Assistant: ", answer, eos: 64 tokens hold 41 of the 50 letters.
    facts = pool([*instances("a"), long, wordy], form=Form(truncation="head")).facts
    assert (facts["test_prompt_cut"], facts["test_prompt_cut_tokens"]) == (2, 9 + 1)
    assert (facts["test_answer_cut"], facts["test_answer_cut_tokens"]) == (1, 71 - 45)
    assert facts["test_cut"] == 2
    messages = capsys.readouterr().err
    assert (
        "of 3 test rows: 2 lost 10 tokens of the prompt; 1 lost 26 tokens of an answer" in messages
    )
    assert "train rows" not in messages


def test_a_trained_tokenizer_is_that_of_its_examples_and_size(tmp_path):
    few, more = instances("a"), [*instances("a"), *instances("b", "quite another answer")]

    def kept(examples, size):
        keep_trained(tmp_path, examples, size)
        return (tmp_path / "tokenizer.json").read_bytes(), (
            tmp_path / "tokenizer.json"
        ).stat().st_mtime_ns

    first = kept(few, 262)
    assert kept(few, 262) == first
    second = kept(more, 262)
    assert second[0] != first[0]
    assert kept(more, 270)[0] != second[0]
    assert kept(few, 262)[0] == first[0]
    (tmp_path / "trained.json").write_text("{")
    assert kept(more, 262)[0] == second[0]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = tmp_path / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        assert kept(more, 262)[0] == second[0]
        assert path.read_bytes() == whole
