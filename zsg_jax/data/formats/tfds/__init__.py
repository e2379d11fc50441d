"""Data sets of TFDS, the TensorFlow datasets, as ArrayRecord files on disk: read without copies."""

from zsg_jax.data.formats.tfds.address import PREFIX, is_tfds
from zsg_jax.data.formats.tfds.read import TfdsRecords, open_tfds, tfds_records

__all__ = ["PREFIX", "TfdsRecords", "is_tfds", "open_tfds", "tfds_records"]
