"""What makes an embedding of a text: `registry.ENCODERS` lists them; a new one goes there."""
