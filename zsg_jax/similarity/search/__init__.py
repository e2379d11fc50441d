"""Exact search over embeddings on disk: jitted, blocked, sharded."""
