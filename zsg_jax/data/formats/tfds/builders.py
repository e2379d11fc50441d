"""Data sets of any TFDS builder: the only module that imports tensorflow_datasets.

The import takes more than a second, and TFDS three times as long for a record as `example`, which
therefore reads what `prepare` wrote. TFDS decodes with NumPy, so TensorFlow is not needed, but for
features such as images.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zsg_jax.data.formats.jsonl import Refused
from zsg_jax.data.formats.tfds.example import decoded
from zsg_jax.data.formats.tfds.files import Part
from zsg_jax.runtime.errors import UserError, first_line

Decode = Callable[[bytes], dict[str, Any]]


def open_builder(folder: Path, split: str) -> tuple[list[Part], Decode]:
    """The records of a split and what makes fields of one, as `tfds.data_source` gives them.

    Bytes become text, labels the names of their classes, sequences of several features lists of
    objects, arrays lists; an empty text at the top, which TFDS writes for none, null.

    Args:
        folder: of one version, with ArrayRecord files.
        split: as TFDS writes it, as "train" or "train[:10%]".

    Raises:
        UserError: where tensorflow_datasets cannot read the folder.
    """
    import tensorflow_datasets as tfds

    # What a folder made elsewhere may hold comes out in errors of many types.
    try:
        info = tfds.builder_from_directory(str(folder)).info
        parts = [
            Part(Path(one.filename), one.skip, one.examples_in_shard, one.examples_in_shard)
            if one.take < 0
            else Part(Path(one.filename), one.skip, one.take, one.examples_in_shard)
            for one in info.splits[split].file_instructions
        ]
    except Exception as error:
        raise UserError(f"{folder}:{split}: TFDS cannot read it: {first_line(error)}") from None
    features = info.features

    def decode(record: bytes) -> dict[str, Any]:
        try:
            values = features.deserialize_example_np(record)
        except Exception as error:
            raise Refused(f"TFDS cannot decode it: {first_line(error)}") from None
        plain = _plain(tfds, features, values, "")
        return {name: None if value == "" else value for name, value in plain.items()}

    return parts, decode


def _plain(tfds: Any, feature: Any, value: Any, name: str) -> Any:
    """A value as JSON has it, by the feature it is of; None where only the value is known."""
    features = tfds.features
    if isinstance(value, dict) and isinstance(feature, features.Sequence):
        value = [_item(value, index) for index in range(_length(value))]
    if isinstance(feature, features.Dataset | features.Sequence):
        return [_plain(tfds, feature.feature, one, name) for one in value]
    if isinstance(value, dict):
        known = dict(feature) if isinstance(feature, features.FeaturesDict) else {}
        return {
            key: _plain(tfds, known.get(key), one, f"{name}.{key}" if name else key)
            for key, one in value.items()
        }
    if isinstance(feature, features.ClassLabel):
        return None if value < 0 else feature.int2str(int(value))
    if isinstance(value, bytes):
        return decoded(name, value)
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim):
        return [_plain(tfds, None, one, name) for one in value]
    return value.item() if isinstance(value, np.ndarray | np.generic) else value


def _item(value: Any, index: int) -> Any:
    """One object of a sequence of objects, which TFDS keeps as an object of sequences."""
    if isinstance(value, dict):
        return {key: _item(one, index) for key, one in value.items()}
    return value[index]


def _length(value: Any) -> int:
    while isinstance(value, dict):
        value = next(iter(value.values()), ())
    return len(value)
