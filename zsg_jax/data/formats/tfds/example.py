"""An instance as one `tf.train.Example`, laid out as TFDS lays out `layout.features`."""

from collections.abc import Collection, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from zsg_jax.data.export.examples import Example
from zsg_jax.data.formats.jsonl import Refused
from zsg_jax.data.instance import Instance

_ROLE, _CONTENT = "messages/role", "messages/content"


def to_record(instance: Instance, more: Collection[str] = ()) -> bytes:
    """The bytes of an instance, with fields of `layout.MORE`; the same has the same bytes."""
    message = Example()
    columns: dict[str, Sequence[str]] = {
        "id": [instance.id],
        "task": [instance.task],
        _ROLE: [turn.role for turn in instance.turns],
        _CONTENT: [turn.content for turn in instance.turns],
        "references": instance.references,
    }
    optional = {"choices": instance.choices, "category": [instance.category]}
    columns |= {name: optional[name] for name in more}
    for name, texts in columns.items():
        held = message.features.feature[name].bytes_list
        held.SetInParent()
        held.value.extend(map(str.encode, texts))
    return message.SerializeToString(deterministic=True)


def from_record(record: bytes) -> dict[str, Any]:
    """The fields id, task, messages and references of a record, and those of `MORE` that it has.

    Raises:
        Refused: where it holds no such instance, or what is not UTF-8.
    """
    try:
        held = Example.FromString(record).features.feature
    except DecodeError:
        raise Refused("is no tf.train.Example") from None
    texts = {
        name: [decoded(name, value) for value in feature.bytes_list.value]
        for name, feature in held.items()
    }
    roles, contents = texts.get(_ROLE, []), texts.get(_CONTENT, [])
    if len(roles) != len(contents):
        raise Refused(f'"messages" has {len(roles)} roles for {len(contents)} contents')
    fields: dict[str, Any] = {name: texts[name][0] for name in ("id", "task") if texts.get(name)}
    fields["messages"] = [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=True)
    ]
    fields["references"] = texts.get("references", [])
    if texts.get("choices"):
        fields["choices"] = texts["choices"]
    if any(texts.get("category", ())):
        (fields["category"],) = texts["category"]
    return fields


def decoded(name: str, value: bytes) -> str:
    """The text of a field; raises Refused where it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise Refused(f'"{name}" is not UTF-8 (byte {error.start} of a text)') from None
