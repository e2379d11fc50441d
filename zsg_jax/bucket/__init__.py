"""Workdirs in object storage: one folder here, and what is new in it in the bucket."""
