"""Language models: `families.FAMILIES` lists them, `huggingface` has their layouts."""
