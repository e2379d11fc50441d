"""An order of token rows as one packed batch a step."""
