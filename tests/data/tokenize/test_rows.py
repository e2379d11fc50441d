import numpy as np

from zsg_jax.data.tokenize.rows import holds_words


def test_words_may_take_the_space_before_them_and_nothing_else_of_the_form():
    #  "as:  no way.\nX": the words are "no way.", characters 5 to 12, after two spaces.
    spans = np.array(
        [[0, 3], [3, 4], [4, 7], [7, 11], [11, 12], [11, 13], [3, 7], [12, 13], [2, 6]]
    )
    found = holds_words(spans, 5, 12, lead=2)
    #  "as:"  " "    " no"  " way"  "."   ".\n"  "  no"  "\n"   ":  n"
    assert found.tolist() == [False, False, True, True, True, False, True, False, False]
