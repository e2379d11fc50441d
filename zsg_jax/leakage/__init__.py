"""What of the test data stands in the training data."""
