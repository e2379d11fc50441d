"""Sources of every format, as records: JSON objects and where each stands."""
