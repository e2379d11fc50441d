import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.arrangement.epochs import RULES, Anew, check_rules, epochs, read_anew
from zsg_jax.runtime.errors import UserError


@given(
    order=st.lists(st.integers(0, 99), unique=True, min_size=1, max_size=30),
    rules=st.lists(st.sampled_from(sorted(RULES)), min_size=1, max_size=4),
    seed=st.integers(0, 3),
)
def test_each_epoch_takes_the_order_by_its_rule(order, rules, seed):
    found = epochs(np.array(order), rules, seed).reshape(len(rules), -1).tolist()
    for number, (rule, one) in enumerate(zip(rules, found, strict=True), start=1):
        if rule == "shuffled":
            assert sorted(one) == sorted(order)
            draws = np.random.Generator(np.random.PCG64([seed, number])).permutation(len(order))
            assert one == [order[place] for place in draws]
        else:
            assert one == (order if rule == "ordered" else order[::-1])


def test_two_shuffled_epochs_differ_and_so_do_seeds():
    order = np.arange(20)
    first, second = epochs(order, ["shuffled"] * 2, 0).reshape(2, -1).tolist()
    assert first != second
    assert first != epochs(order, ["shuffled"], 1).tolist()


@pytest.mark.parametrize(
    ("rules", "message"), [((), "is empty"), (("shuffeld",), "did you mean shuffled")]
)
def test_what_is_no_rule_is_refused(rules, message):
    with pytest.raises(UserError, match=rf"training\.epochs.*{message}"):
        check_rules(rules, None)


def test_an_epoch_that_is_arranged_anew_begins_with_the_order():
    assert epochs(np.array([4, 2, 7]), ["anew@1"], 0).tolist() == [4, 2, 7]
    told = read_anew(["anew@3+60,layer=2,tokens=answers"])
    assert told.steps == (3, 60)
    assert told.encoder("w/runs/a-seed0", 3) == "states:w/runs/a-seed0@3,layer=2,tokens=answers"
    told = read_anew(["anew@7:gradients,dimension=64"])
    assert told.encoder("r", 7) == "gradients:r@7,dimension=64"
    assert read_anew(["ordered", "shuffled"]) == Anew()
