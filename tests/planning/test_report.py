"""What a plan says of shares: never a whole that is none."""

import pytest

from zsg_jax.planning.report import percent_text


@pytest.mark.parametrize("share", [0, 1e-5, 0.0004, 0.125, 0.9, 0.9996, 1, 1.0004, 1.5, 30.0])
def test_a_share_is_told_by_as_many_digits_as_tell_it_from_none_and_from_all(share):
    told = float(percent_text(share).removesuffix("%")) / 100
    assert told == pytest.approx(share, abs=6e-4)
    assert (told == 0, told > 1, told < 1) == (share == 0, share > 1, share < 1)
