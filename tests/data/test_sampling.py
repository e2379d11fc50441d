import hashlib

from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.data.sampling import draw, sample

IDS = st.lists(st.text(max_size=4), unique=True, max_size=30)


def test_a_draw_is_the_digest_of_the_seed_and_the_names():
    content = b"".join(
        len(part).to_bytes(8, "little") + part for part in (b"7", b"row", "ä".encode())
    )
    expected = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    assert draw(7, "row", "ä") == expected
    # Names are kept apart, and so are seeds.
    assert len({draw(7, "ab", "c"), draw(7, "a", "bc"), draw(7, "abc"), draw(8, "ab", "c")}) == 4


@given(IDS, st.integers(0, 40), st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_sample_hangs_on_the_set_of_ids_alone(ids, size, seed, random):
    drawn = {ids[index] for index in sample(ids, size, seed, "task")}
    assert len(drawn) == min(size, len(ids))
    shuffled = random.sample(ids, len(ids))
    indices = sample(shuffled, size, seed, "task")
    assert indices == sorted(indices)
    assert {shuffled[index] for index in indices} == drawn
    # One more is drawn to those there are; an id that was not drawn was in nobody's way.
    assert drawn <= {ids[index] for index in sample(ids, size + 1, seed, "task")}
    if len(drawn) < len(ids):
        less = [identity for identity in ids if identity in drawn] + [
            identity for identity in ids if identity not in drawn
        ][:-1]
        assert {less[index] for index in sample(less, size, seed, "task")} == drawn
