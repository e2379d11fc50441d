"""Arranged records in the formats that trainers read."""

from zsg_jax.data.export.fields import with_fields
from zsg_jax.data.export.write import FORMATS, check_format, write

__all__ = ["FORMATS", "check_format", "with_fields", "write"]
