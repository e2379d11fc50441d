"""Every key that a comparison of selections has besides a study's, its default and its meaning."""

from ml_collections import ConfigDict

from zsg_jax.config import default_config

STUDY = "selection"
# What a study has and a comparison sets for each of its parts, or has no use for.
NOT_HERE = (
    *("seeds", "similarity.encoder", "similarity.trajectory", "report.window"),
    *("arrangement.methods", "arrangement.budget", "training.steps"),
    # Each space would have a pool of its own, and rows at random yet another.
    *("arrangement.deduplicate", "arrangement.drop_leaks"),
)


def selection_config(base: ConfigDict | None = None) -> ConfigDict:
    """The comparison of selections that trains as a study does.

    Args:
        base: the config of that study, which is changed; None: the default.
    """
    config = default_config() if base is None else base
    # What `main` runs.
    config.study = STUDY

    # The grid: every rule selects by every space, for every budget and seed. On a finished workdir
    # values may be added or left out: what has been trained is not trained again.
    config.grid = grid = ConfigDict()
    # What training and test rows are compared by: names as similarity.encoder takes them of a
    # study; and "states:start", the hidden states of the model before it is tuned, which is
    # model.init_from, or the one pretrained here of the first seed.
    grid.spaces = ("hashing", "states:start")
    # Which rows are selected by that: names as arrangement.methods takes them of a study, as far as
    # the budget goes; diverse-N stands for as many as the budget. Rules that need no space, such as
    # score-descending:COLUMN, stand once. Beside all of them stands random.
    grid.rules = ("targets", "tmta-min", "min-nft")
    # Training rows that are selected, multiples of training.batch_size, to be met training.epochs.
    grid.budgets = (320, 640)
    # Of the initial weights, or adapters; of the rows at random; and of the order. Of fewer than
    # five, only large differences are told from chance.
    grid.seeds = (0, 1, 2, 3, 4)
    # Whether the selected rows are met in an order by chance, so that rules differ in which rows
    # they select alone; False keeps the order of the rule.
    grid.shuffle = True
    _adapt(config)
    return config


def _adapt(config: ConfigDict) -> None:
    """Takes away what the grid says, and sets what a comparison has otherwise than a study."""
    for key in NOT_HERE:
        group, _, name = key.rpartition(".")
        del (config[group] if group else config)[name]
    # Targets that steered the selection say nothing of others.
    config.data.report_fraction = 0.5
    # Only ends are compared.
    config.evaluation.every = 1000
    config.report.title = "Which rows to train on"
