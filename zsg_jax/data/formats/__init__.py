"""The formats of sources: `registry.FORMATS` lists them; a new one goes there."""
