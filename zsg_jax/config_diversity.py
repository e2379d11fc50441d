"""Every key of the instruction-diversity study, its default and what it means."""

from ml_collections import ConfigDict

STUDY = "diversity"


def diversity_config() -> ConfigDict:
    """The small form that shows the transition on two cores; configs/diversity.py has others."""
    config = ConfigDict()
    # What `main` runs.
    config.study = STUDY

    # The grid: a cell for every combination of these values. On a finished workdir values may be
    # added or left out: cells that have finished are not trained again.
    config.grid = _grid()

    config.data = data = ConfigDict()
    # Letters of the alphabet, 62 at most.
    data.letters = 26
    # How a row is written: "compact", x>y|z=answer$, or "lines", x -> y, z and the answer on a line
    # each. Characters are tokens.
    data.form = "compact"

    config.model = model = ConfigDict()
    # "small", a decoder of 3 layers × 128 × 4 heads, or "gpt2", the paper's 6 × 256 × 4.
    model.size = "small"
    # What products are computed in: "float32" (of which a GPU's matrix units keep 10 bits of the
    # mantissa) or "bfloat16". Weights, norms and the loss are float32 in any case.
    model.dtype = "float32"

    config.mesh = mesh = ConfigDict()
    # Cells at most that an accelerator computes as one array; a CPU computes one a core.
    mesh.stack = 32

    config.training = _training()

    config.evaluation = _evaluation()

    config.report = report = ConfigDict()
    # What the page is called.
    report.title = "How many instructions does it take?"
    return config


def _grid() -> ConfigDict:
    grid = ConfigDict()
    # I, instructions trained on.
    grid.rules = (64, 256, 512, 768, 1024, 2048, 4096)
    # S, rows drawn an instruction, met again epoch after epoch; 0: every row is a fresh one.
    grid.samples = (0,)
    # The same told as I·S, rows in all; 0: as samples says.
    grid.pool = (0,)
    # Share of training rows whose instruction does not apply.
    grid.no_ops = (0.0,)
    # α of the power law of the instructions' shares, by the density α·u^(α-1); 0: equal shares.
    grid.exponent = (0.0,)
    # How often a string holds x: a count, or several joined by +, each in as many rows.
    grid.occurrences = ("1",)
    # Families of rules, as in zsg_jax/data/rewriting/families.py: "free", "repeat:3-6+mirror:3", …
    grid.families = ("free",)
    # Letters of x, y and z.
    grid.lengths = ("3/3/10",)
    # Rules of an instruction, applied by priority, and how often at most; 1 and 1 is the paper's.
    grid.list_length = (1,)
    grid.limit = (1,)
    # Whether each row has a letter cipher of its own, given in its prompt.
    grid.encrypted = (False,)
    # At its peak.
    grid.learning_rate = (4e-3,)
    # Of the weights, the rules and the rows.
    grid.seed = (0, 1, 2)
    return grid


def _training() -> ConfigDict:
    training = ConfigDict()
    # Rows a step, and steps.
    training.batch_size = 64
    training.steps = 1200
    # The learning rate rises for so many steps, then falls linearly to this share of its peak.
    training.warmup_steps = 100
    training.final_share = 0.05
    # AdamW's; gradients are clipped to this norm, cell by cell, 0: not.
    training.b2 = 0.98
    training.eps = 1e-8
    training.weight_decay = 0.1
    training.clip_norm = 1.0
    # Tokens that carry loss: "all", or "answers" alone with their end.
    training.loss = "all"
    # Steps between two times that a cell's state is kept, a multiple of evaluation.every.
    training.checkpoint_every = 300
    return training


def _evaluation() -> ConfigDict:
    evaluation = ConfigDict()
    # Steps between two scorings; step 0 and the last are always scored.
    evaluation.every = 100
    # Rows of unseen rules, and as many of trained ones; and how many unseen rules there are.
    evaluation.rows = 500
    evaluation.rules = 500
    # Families of the unseen rules; "": the cell's own.
    evaluation.families = ""
    # Share of these rows to which no rule applies, and how often the others hold x.
    evaluation.no_ops = 0.0
    evaluation.occurrences = "1"
    # Of the unseen rules and rows.
    evaluation.seed = 0
    return evaluation
