from collections import Counter

import pytest

from zsg_jax.data.formats.natural_instructions.options import WHOLE, Options, PromptForm, from_text
from zsg_jax.runtime.errors import UserError


def test_random_forms_are_tk_instructs_each_as_often_and_by_seed():
    assert Options().form("t", "1") == PromptForm(definition=True, positive=2)
    forms = [Options(schema="random").form("t", str(number)) for number in range(1000)]
    assert set(forms) == {
        # (name, definition, positive, negative, explanation)
        (False, True, 0, 0, False),
        (False, False, 2, 0, False),
        (False, True, 2, 0, False),
        (False, True, 2, 2, False),
        (False, True, 2, 0, True),
    }
    # Expectation 200, standard deviation 12.6.
    assert all(abs(count - 200) < 64 for count in Counter(forms).values())
    assert forms == [Options(schema="random").form("t", str(number)) for number in range(1000)]
    other = [Options(schema="random", seed=1).form("t", str(number)) for number in range(1000)]
    # One in five is the same by chance.
    assert 120 < sum(one == two for one, two in zip(forms, other, strict=True)) < 280


def test_options_come_from_a_flag():
    given = from_text("negative_examples=2, explanation=true,schema=random,max_source=64")
    expected = {"negative_examples": 2, "explanation": True, "schema": "random", "max_source": 64}
    assert given == Options(**expected, reference="first", train_per_task=0, test_per_task=0)
    assert from_text("") == WHOLE
    assert from_text("definition=False", Options()) == Options(definition=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("negative_exmples=2", "did you mean negative_examples"),
        ("explanation", "explanation='' must be true or false"),
        ("max_source=-1", "must be a whole number from 0"),
        ("max_source=ten", "must be a whole number from 0"),
        ("schema=free", "choose one of fixed, random"),
        ("reference=last", "choose one of drawn, first"),
    ],
)
def test_options_that_mean_nothing_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        from_text(text)
