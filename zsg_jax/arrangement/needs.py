"""What methods ask of a comparison of two sides."""

from enum import Flag, auto


class Needs(Flag):
    """What will be asked of a `Comparison`, so that one pass over the embeddings gives all of it.

    `NEAREST` and `FARTHEST` are TMTA's turns, `STATISTICS` each training example's cosines over
    the test examples, `TASK_MEANS` the WSD of tasks.
    """

    NOTHING = 0
    STATISTICS = auto()
    NEAREST = auto()
    FARTHEST = auto()
    TASK_MEANS = auto()
