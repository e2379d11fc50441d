"""Whether a difference is real: errors, paired differences and steadiness; float64 throughout."""
