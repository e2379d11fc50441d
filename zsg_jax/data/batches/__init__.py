"""An order of token sequences as one packed batch a step."""
