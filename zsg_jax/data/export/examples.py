"""Records as `tf.train.Example` in an ArrayRecord file: what MaxText's grain pipeline parses.

The messages are made at run time from the field numbers of TensorFlow's `example.proto` and
`feature.proto`, so neither TensorFlow nor TFDS is imported.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from zsg_jax.data.formats.jsonl import Refused, is_unicode
from zsg_jax.data.schemas.registry import SCHEMAS
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import replacing
from zsg_jax.runtime.progress import track

# The types of a column; the first three are TensorFlow's names.
BYTES, INTEGERS, FLOATS, JSON = "bytes_list", "int64_list", "float_list", "JSON text"
# Integers until there is a fraction beside them: float32 does not hold each of these.
_LARGE = "integers of which some are no float32"
# Protocol buffers take no boolean for an integer.
_CONVERT: dict[str, Callable[[Any], Any]] = {BYTES: str.encode, INTEGERS: int, FLOATS: float}
_FLOAT32_MAX = float.fromhex("0x1.fffffep127")


def write_array_record(
    records: Callable[[], Iterable[bytes]], path: Path, total: int, schema: str = "messages"
) -> Path:
    """Writes records for whoever parses `tf.train.Example`.

    A column is text (bytes_list), integers and booleans (int64_list) or fractions, perhaps with
    integers among them that float32 holds (float_list: float32), or a list of one of these. Any
    other column, nested or of mixed types, is the JSON text of its values as bytes. Null and
    missing are left out.
    `text` is added (prompt, space, answer), and, for records with a single user turn, `prompt`
    (a system turn before it, with a blank line) and, where it is answered, `completion`; fields of
    the record stay.
    `schema`, a name from `SCHEMAS`, tells where a record has its turns.

    Raises:
        UserError: for a field whose name is no text.
    """
    types: dict[str, str | None] = {}
    for number, raw in enumerate(track(records(), f"types for {path.name}", total), start=1):
        for name, value in _with_texts(json.loads(raw), schema).items():
            if name not in types:
                _check_name(name, number)
            if types.get(name) != JSON:
                types[name] = _joint(types.get(name), _type(value))
    types = {name: INTEGERS if one == _LARGE else one for name, one in types.items()}
    with replacing(path) as partial, record_writer(partial) as write:
        for raw in track(records(), f"writing {path.name}", total):
            made = example(_with_texts(json.loads(raw), schema), types)
            write(made.SerializeToString(deterministic=True))
    return path


def example(record: dict[str, Any], types: dict[str, str | None]) -> Any:
    """The Example of a record; `types` has each column's type, None where no value decides it."""
    message = Example()
    for name, value in record.items():
        if value is None:
            continue
        type = types[name] or BYTES
        feature = message.features.feature[name]
        if type == JSON:
            feature.bytes_list.value.append(_json(value))
            continue
        values = value if isinstance(value, list) else [value]
        # An empty list is told from a missing one by its type alone.
        getattr(feature, type).SetInParent()
        getattr(feature, type).value.extend(map(_CONVERT[type], values))
    return message


@contextmanager
def record_writer(path: Path) -> Iterator[Callable[[bytes], object]]:
    """Writes an ArrayRecord file, each record in a group of its own, for exact access by index.

    Raises:
        OSError: where it cannot be written, as on a full disk.
    """
    try:
        writer = ArrayRecordWriter(str(path), "group_size:1")
        try:
            yield writer.write
        finally:
            writer.close()
    except RuntimeError as error:
        raise OSError(str(error)) from None


def _with_texts(record: dict[str, Any], schema: str) -> dict[str, Any]:
    try:
        turns = SCHEMAS[schema].turns(record)
    except Refused:
        return record
    contents = [turn.text for turn in turns]
    added = {}
    if sum(turn.role == "user" for turn in turns) == 1:
        answer = contents[-1:] if turns[-1].role == "assistant" else []
        contents = ["\n\n".join(contents[: len(contents) - len(answer)]), *answer]
        if "prompt" not in record and "completion" not in record:
            added = dict(zip(("prompt", "completion"), contents, strict=False))
    return {"text": " ".join(contents)} | added | record


def _type(value: Any) -> str | None:
    if isinstance(value, list):
        type: str | None = None
        for item in value:
            if item is None or isinstance(item, list):
                return JSON
            type = _joint(type, _type(item))
        return type
    if isinstance(value, str):
        return BYTES if is_unicode(value) else JSON
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            return JSON
        return INTEGERS if int(np.float32(value)) == value else _LARGE
    if isinstance(value, float):
        # A larger one would become infinite.
        return JSON if _FLOAT32_MAX < abs(value) < math.inf else FLOATS
    return None if value is None else JSON


def _joint(one: str | None, other: str | None) -> str | None:
    if one is None or one == other:
        return other
    if other is None:
        return one
    both = {one, other}
    if both == {INTEGERS, FLOATS}:
        return FLOATS
    return _LARGE if both == {INTEGERS, _LARGE} else JSON


def _json(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False)
    return text.encode() if is_unicode(text) else json.dumps(value).encode()


def _check_name(name: str, number: int) -> None:
    if not is_unicode(name):
        raise UserError(
            f"arrayrecord: row {number}: the field {name!a} holds a lone surrogate in its name; "
            "mend the row or give --format jsonl"
        )


_PROTO = """
name: "zsg_jax/example.proto" package: "tensorflow" syntax: "proto3"
message_type { name: "BytesList"
  field { name: "value" number: 1 type: TYPE_BYTES label: LABEL_REPEATED } }
message_type { name: "FloatList"
  field { name: "value" number: 1 type: TYPE_FLOAT label: LABEL_REPEATED } }
message_type { name: "Int64List"
  field { name: "value" number: 1 type: TYPE_INT64 label: LABEL_REPEATED } }
message_type { name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 type: TYPE_MESSAGE type_name: ".tensorflow.BytesList"
          label: LABEL_OPTIONAL oneof_index: 0 }
  field { name: "float_list" number: 2 type: TYPE_MESSAGE type_name: ".tensorflow.FloatList"
          label: LABEL_OPTIONAL oneof_index: 0 }
  field { name: "int64_list" number: 3 type: TYPE_MESSAGE type_name: ".tensorflow.Int64List"
          label: LABEL_OPTIONAL oneof_index: 0 } }
message_type { name: "Features"
  field { name: "feature" number: 1 type: TYPE_MESSAGE label: LABEL_REPEATED
          type_name: ".tensorflow.Features.FeatureEntry" }
  nested_type { name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
    field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".tensorflow.Feature"
            label: LABEL_OPTIONAL } } }
message_type { name: "Example"
  field { name: "features" number: 1 type: TYPE_MESSAGE type_name: ".tensorflow.Features"
          label: LABEL_OPTIONAL } }
"""
# A pool of its own: TensorFlow, where it is installed, has messages of these names.
_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(text_format.Parse(_PROTO, descriptor_pb2.FileDescriptorProto()))
Example = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("tensorflow.Example"))
