"""How alike instances are. A new space is an encoder, listed in `encoders.registry.ENCODERS`."""
