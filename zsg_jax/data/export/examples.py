"""Rows as `tf.train.Example` records in an ArrayRecord file: what MaxText's grain pipeline parses.

The messages are made at run time from the field numbers of TensorFlow's `example.proto` and
`feature.proto`, so TensorFlow is not needed.
"""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from zsg_jax.data.schemas import KINDS
from zsg_jax.data.schemas.checks import Refused
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import replacing
from zsg_jax.runtime.progress import track

BYTES, INTEGERS, FLOATS, JSON = "bytes_list", "int64_list", "float_list", "JSON text"
# Protocol buffers take no boolean for an integer.
_CONVERT: dict[str, Callable[[Any], Any]] = {BYTES: str.encode, INTEGERS: int, FLOATS: float}
_FLOAT32_MAX = float.fromhex("0x1.fffffep127")


def write_array_record(
    rows: Callable[[], Iterable[bytes]], path: Path, total: int, kind: str = "messages"
) -> Path:
    """Writes one record a row, each in a group of its own so that access by index is exact.

    A column is text (bytes_list), integers and booleans (int64_list) or fractions, perhaps with
    integers among them (float_list: float32), or a list of one of these. Any other column, nested
    or of mixed kinds, is the JSON text of its values as bytes. Null and missing are left out.
    `text` is added (prompt, space, answer), and, for rows with a single user turn, `prompt`
    (a system turn before it, with a blank line) and `completion`; fields of the row stay. `kind`,
    a name from `kinds.KINDS`, tells where a row has its turns.

    Raises:
        UserError: for a field whose name is no text.
    """
    kinds: dict[str, str | None] = {}
    for number, raw in enumerate(track(rows(), f"types for {path.name}", total), start=1):
        for name, value in _with_texts(json.loads(raw), kind).items():
            if name not in kinds:
                _check_name(name, number)
            if kinds.get(name) != JSON:
                kinds[name] = _joint(kinds.get(name), _kind(value))
    with replacing(path) as partial:
        writer = ArrayRecordWriter(str(partial), "group_size:1")
        try:
            for raw in track(rows(), f"writing {path.name}", total):
                record = example(_with_texts(json.loads(raw), kind), kinds)
                _do(writer.write, record.SerializeToString(deterministic=True))
        finally:
            _do(writer.close)
    return path


def example(row: dict[str, Any], kinds: dict[str, str | None]) -> Any:
    """The Example of a row; `kinds` tells each column's kind, None where no value decides it."""
    message = Example()
    for name, value in row.items():
        if value is None:
            continue
        kind = kinds[name] or BYTES
        feature = message.features.feature[name]
        if kind == JSON:
            feature.bytes_list.value.append(_json(value))
            continue
        values = value if isinstance(value, list) else [value]
        # An empty list is told from a missing one by its kind alone.
        getattr(feature, kind).SetInParent()
        getattr(feature, kind).value.extend(map(_CONVERT[kind], values))
    return message


def _do(call: Callable[..., object], *arguments: Any) -> None:
    """Calls the writer, which raises RuntimeError where a disk is full."""
    try:
        call(*arguments)
    except RuntimeError as error:
        raise OSError(str(error)) from None


def _with_texts(row: dict[str, Any], kind: str) -> dict[str, Any]:
    try:
        turns = KINDS[kind].turns(row)
    except Refused:
        return row
    contents = [turn.content for turn in turns]
    added = {}
    if sum(turn.role == "user" for turn in turns) == 1:
        contents = ["\n\n".join(contents[:-1]), contents[-1]]
        if "prompt" not in row and "completion" not in row:
            added = {"prompt": contents[0], "completion": contents[1]}
    return {"text": " ".join(contents)} | added | row


def _kind(value: Any) -> str | None:
    if isinstance(value, list):
        kind: str | None = None
        for one in value:
            if one is None or isinstance(one, list):
                return JSON
            kind = _joint(kind, _kind(one))
        return kind
    if isinstance(value, str):
        return BYTES if value.isascii() or _is_text(value) else JSON
    if isinstance(value, int):
        return INTEGERS if -(2**63) <= value < 2**63 else JSON
    if isinstance(value, float):
        # A larger one would become infinite.
        return JSON if _FLOAT32_MAX < abs(value) < math.inf else FLOATS
    return None if value is None else JSON


def _joint(one: str | None, other: str | None) -> str | None:
    if one is None or one == other:
        return other
    if other is None:
        return one
    return FLOATS if {one, other} == {INTEGERS, FLOATS} else JSON


def _json(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False)
    return text.encode() if _is_text(text) else json.dumps(value).encode()


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_name(name: str, row: int) -> None:
    if not _is_text(name):
        raise UserError(
            f"arrayrecord: row {row}: the field {name!a} holds a lone surrogate in its name; "
            "mend the row or give --format jsonl"
        )


def _example_class() -> Any:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="zsg_jax/example.proto", package="tensorflow", syntax="proto3"
    )

    def message(name: str, parent: Any = None) -> Any:
        types = parent.nested_type if parent is not None else file.message_type
        return types.add(name=name)

    def add(to: Any, name: str, number: int, kind: int, of: str = "", many: bool = False) -> Any:
        return to.field.add(
            name=name,
            number=number,
            type=kind,
            type_name=f".tensorflow.{of}" if of else None,
            label=field.LABEL_REPEATED if many else field.LABEL_OPTIONAL,
        )

    lists = (
        ("BytesList", BYTES, field.TYPE_BYTES),
        ("FloatList", FLOATS, field.TYPE_FLOAT),
        ("Int64List", INTEGERS, field.TYPE_INT64),
    )
    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, key, kind) in enumerate(lists, start=1):
        add(message(name), "value", 1, kind, many=True)
        add(feature, key, number, field.TYPE_MESSAGE, name).oneof_index = 0
    features = message("Features")
    entry = message("FeatureEntry", features)
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, "Feature")
    add(features, "feature", 1, field.TYPE_MESSAGE, "Features.FeatureEntry", many=True)
    add(message("Example"), "features", 1, field.TYPE_MESSAGE, "Features")
    # A pool of its own: TensorFlow, where it is installed, has messages of these names.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


Example = _example_class()
