"""From sources to a Dataset, from an order to batches; formats and schemas have registries."""
