"""The folder a study lives in: whom it belongs to, and what was trained in it."""
