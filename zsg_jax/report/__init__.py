"""The page of a finished study, and that which explains an order."""
