"""Whether a config fits a machine, and how fast it may be there, by compiling its step for it."""
