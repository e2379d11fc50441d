"""What makes an embedding of a text; `choose.ENCODERS` lists them."""
