"""Data sets of TFDS, the TensorFlow datasets, as ArrayRecord files on disk: read without copies."""

from zsg_jax.data.formats.tfds.address import PREFIX, is_records
from zsg_jax.data.formats.tfds.read import Records, open_records, record_rows

__all__ = ["PREFIX", "Records", "is_records", "open_records", "record_rows"]
