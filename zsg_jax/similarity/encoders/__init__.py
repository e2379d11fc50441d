"""What makes an embedding of a text."""
