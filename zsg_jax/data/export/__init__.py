"""Arranged records in the formats that trainers read."""

from zsg_jax.data.export.fields import arranged, with_fields
from zsg_jax.data.export.write import FORMATS, check_format, write

__all__ = ["FORMATS", "arranged", "check_format", "with_fields", "write"]
