"""Exact search over rows on disk: jitted, blocked, sharded."""
