"""Settings that several configs share: real data and a model to go with them."""

from ml_collections import ConfigDict


def p3(config: ConfigDict, title: str) -> None:
    """A pretrained Llama of 260,032 parameters on P3, embedded by all-MiniLM-L6-v2.

    The paths are names to be replaced: data.train, data.test, similarity.encoder, tokenizer and
    model.init_from.
    """
    config.seeds = (0,)
    config.data.train = "p3/train.jsonl.gz"
    config.data.test = "p3/test.jsonl.gz"
    config.data.max_length = 512
    config.evaluation.max_length = 512
    config.similarity.encoder = "all-MiniLM-L6-v2"
    config.tokenizer = "stories260k"
    config.model.init_from = "stories260k"
    config.training.micro_batch_size = 2
    config.training.learning_rate = 1e-3
    config.report.title = title
