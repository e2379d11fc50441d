"""The right training data at the right time: arrangement studies for instruction tuning in JAX."""
