"""What a TFDS data set of instances is on disk: its files' names and what its JSON files say."""

import re
from collections.abc import Collection
from typing import Any, NamedTuple

FEATURES, INFO, MANIFEST = "features.json", "dataset_info.json", "manifest.json"
FORMAT = "array_record"
NAME = re.compile(r"[a-z][a-z0-9_]*")
VERSION = re.compile(r"\d+\.\d+\.\d+")
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_CLASSES = "tensorflow_datasets.core.features."
# Fields of an instance that are there where one has any.
MORE = ("choices", "category")


class Split(NamedTuple):
    """A split: the records of each shard, and the bytes of all of them."""

    name: str
    lengths: tuple[int, ...]
    size: int


def shard_name(name: str, split: str, shard: int, shards: int) -> str:
    """The file of one shard, as TFDS's default template has it."""
    return f"{name}-{split}.{FORMAT}-{shard:05d}-of-{shards:05d}"


def features(more: Collection[str] = ()) -> dict[str, Any]:
    """What TFDS saves for id, task, messages (role and content) and references, all of text.

    Args:
        more: what there is of `MORE`: choices, which are several, and the category.
    """
    text = {"pythonClassName": f"{_CLASSES}text_feature.Text", "text": {}}
    messages = _sequence(_features_dict({"content": text, "role": text}))
    held = {"id": text, "messages": messages, "references": _sequence(text), "task": text}
    optional = {"choices": _sequence(text), "category": text}
    return _features_dict(held | {name: optional[name] for name in more})


def info(name: str, version: str, splits: list[Split]) -> dict[str, Any]:
    """What TFDS saves of a data set with these splits; its 64-bit numbers are texts."""
    return {
        "description": "Instances prepared by zsg_jax: id, task, messages and references.",
        "fileFormat": FORMAT,
        "name": name,
        "splits": [
            {
                "filepathTemplate": TEMPLATE,
                "name": split.name,
                "numBytes": str(split.size),
                "shardLengths": [str(length) for length in split.lengths],
            }
            for split in splits
        ],
        "version": version,
    }


def _features_dict(held: dict[str, Any]) -> dict[str, Any]:
    return {
        "featuresDict": {"features": held},
        "pythonClassName": f"{_CLASSES}features_dict.FeaturesDict",
    }


def _sequence(of: dict[str, Any]) -> dict[str, Any]:
    return {
        "pythonClassName": f"{_CLASSES}sequence_feature.Sequence",
        "sequence": {"feature": of, "length": "-1"},
    }
