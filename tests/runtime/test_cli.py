from zsg_jax.runtime.cli import _last_of_each


def test_an_override_given_twice_is_the_last_one():
    given = [
        "main",
        "--config.seeds=(0,)",
        "--config=x.py",
        "--workdir=a=b",
        "--config.data.seed=1",
        "--config.seeds=(1, 2)",
        "-config.data.seed=4",
    ]
    kept = [
        "main",
        "--config=x.py",
        "--workdir=a=b",
        "--config.seeds=(1, 2)",
        "-config.data.seed=4",
    ]
    assert _last_of_each(given) == kept
    assert _last_of_each(["main", "a", "a"]) == ["main", "a", "a"]
