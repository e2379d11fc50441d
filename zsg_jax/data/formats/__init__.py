"""Files of every layout, as rows of JSON objects."""
