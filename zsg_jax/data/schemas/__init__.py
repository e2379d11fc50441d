"""The schemas of records: `registry.SCHEMAS` lists them; a new one goes there."""
