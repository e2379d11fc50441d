"""A workdir belongs to one study; what it says of the models trained in it."""
