import numpy as np
import pytest

from zsg_jax.data.rewrites import left_sides, parse_family, rewrites
from zsg_jax.runtime.errors import UserError


def parts(instance):
    rule, z = instance.turns[0].content.split("\n")
    x, y = rule.split(" -> ")
    return x, y, z, instance.turns[1].content


def test_families_are_built_as_the_table_says():
    rng = np.random.default_rng(0)
    for name, built in {
        "repeat-3": lambda a, b, c: a * 3 + b * 3 + c * 3,
        "period-3": lambda a, b, c: (a + b + c) * 3,
        "mirror-1": lambda a, b, c: a + b + c + c + b + a,
        "mirror-2:pqrs": lambda a, b, c: a + b + c + c + b + a + a + b + c,
    }.items():
        for left in left_sides(parse_family(name), 50, rng):
            text = left.tobytes().decode()
            assert text == built(*dict.fromkeys(text))
            assert "pqrs" not in name or set(text) <= set("pqrs")
    assert left_sides(parse_family("free-5"), 7, rng).shape == (7, 5)


def test_letters_of_a_family_bound_all_its_strings():
    rows = rewrites(["free-3:xyz"], rules=9, samples=9, no_ops=0.5, seed=0, split="train")
    assert {letter for row in rows for letter in "".join(parts(row))} == set("xyz")


def test_instances_are_right_different_and_counted():
    options = {"rules": 30, "samples": 10, "no_ops": 0.25, "seed": 3}
    train = rewrites(["repeat-2", "free-4"], split="train", **options)
    test = rewrites(["repeat-2"], split="test", unlike=train, **options)
    assert len(train) == 600
    assert len({one.id for one in train + test}) == 900
    assert {one.task for one in train} == {"repeat-2", "free-4"}
    no_ops = 0
    for one in train + test:
        x, y, z, answer = parts(one)
        assert answer == y.join(z.split(x, 1))
        no_ops += x not in z
    assert 0.2 < no_ops / 900 < 0.3
    rules = [{parts(one)[0] for one in rows} for rows in (train, test)]
    assert [len(some) for some in rules] == [60, 30]
    assert not rules[0] & rules[1]
    assert train == rewrites(["repeat-2", "free-4"], split="train", **options)
    assert train != rewrites(["repeat-2", "free-4"], split="train", **{**options, "seed": 4})


@pytest.mark.parametrize("no_ops", [0, 1])
def test_no_op_shares_at_the_ends_are_exact(no_ops):
    rows = rewrites(["free-2"], rules=50, samples=20, no_ops=no_ops, seed=0, split="train")
    assert {x in z for x, _, z, _ in map(parts, rows)} == {not no_ops}


@pytest.mark.parametrize(
    ("families", "changes", "message"),
    [
        (["repeat3"], {}, "'repeat3' is no family"),
        (["repeat-0"], {}, "is no family"),
        (["repeat-2:ab"], {}, "at least 3 letters"),
        (["repeat-2:abca"], {}, "each once"),
        ([], {}, "at least one"),
        (["free-3", "free-3"], {}, "different"),
        (["free-3"], {"no_ops": 1.5}, "between 0 and 1"),
        (["free-3"], {"rules": 0}, "at least 1"),
        (["free-1"], {"rules": 27}, "has only about 26 rules"),
    ],
)
def test_what_cannot_be_made_is_refused(families, changes, message):
    options = {"rules": 3, "samples": 2, "no_ops": 0.1, "seed": 0, "split": "train"} | changes
    with pytest.raises(UserError, match=message):
        rewrites(families, **options)
