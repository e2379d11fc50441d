"""What every source gives and every later stage takes: one training or test instance."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from zsg_jax.runtime.files import json_bytes

# Roles of what nobody says: a plain text, which is its instance's only turn; and a JSON list of the
# tools that may be called, its first.
TEXT, TOOLS = "text", "tools"
# What fields call the thought that an answer came of; each template reads one of them.
THOUGHTS = ("reasoning_content", "thinking")


class Turn(NamedTuple):
    """One message of a conversation.

    Attributes:
        role: "system", "user", "assistant" or "tool"; or `TEXT` or `TOOLS`.
        content: its text; that of an answer which calls tools may be empty.
        more: JSON object of the other fields that chat templates read: `tool_calls` of an answer,
            and its `THOUGHTS`; `name` and `tool_call_id` of a tool's; "": none.
        learned: of an answer, whether it may carry loss.
    """

    role: str
    content: str
    more: str = ""
    learned: bool = True

    @property
    def fields(self) -> dict[str, Any]:
        """What `more` holds."""
        return json.loads(self.more) if self.more else {}

    @property
    def message(self) -> dict[str, Any]:
        """It as chat templates take it."""
        return {"role": self.role, "content": self.content, **self.fields}

    @property
    def text(self) -> str:
        """All it says, calls as JSON; not what was thought before."""
        calls = self.fields.get("tool_calls", [])
        shown = [json.dumps(one, ensure_ascii=False) for one in calls]
        return " ".join(filter(None, (self.content, *shown)))


@dataclass(frozen=True, slots=True)
class Instance:
    """A conversation that ends in an answer; of rows that are only arranged, perhaps in none.

    Attributes:
        id: unique within its set; the order digest is made of these.
        task: the task's name, for scores by task.
        turns: the tools and a system turn, both optional, then user and assistant in turn; a
            tool's turns stand between an answer that calls and the next answer. The last is the
            answer, where there is one. Or a plain text alone.
        references: accepted answers to the last prompt; the first is the answer's content.
        choices: what the last prompt may be answered by, the answer among them; none where it is
            not a matter of choosing.
        category: the kind of its task, for scores by category; "" where it is not told.
    """

    id: str
    task: str
    turns: tuple[Turn, ...]
    references: tuple[str, ...]
    choices: tuple[str, ...] = ()
    category: str = ""

    @property
    def answered(self) -> bool:
        """Whether the last turn is an answer."""
        return self.turns[-1].role == "assistant"

    @property
    def right(self) -> int:
        """The first of `choices` that is the answer, outer white space aside.

        Raises:
            ValueError: there is none.
        """
        return [one.strip() for one in self.choices].index(self.turns[-1].content.strip())

    @property
    def text(self) -> str:
        """Prompt, a space, answer, or what of these there is.

        It is what is embedded (arXiv 2406.11721, similarity measures).
        """
        return " ".join(turn.text for turn in self.turns)


class InstancesDigest:
    """A running SHA-256 over what instances hold, in the order of the updates.

    Categories only group scores, and are left out: what was made of the data stays valid.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, instance: Instance) -> None:
        """Takes one instance more."""
        parts = [instance.id, instance.task]
        parts += [part for turn in instance.turns for part in turn[:2]]
        parts += instance.references
        self._take(parts)
        if any(turn[2:] != ("", True) for turn in instance.turns):
            # As of choices below.
            self._digest.update(b"\xfe" * 8)
            self._take(part for turn in instance.turns for part in (turn.more, str(turn.learned)))
        if instance.choices:
            # No text is so long: what has no choices keeps the digest it has always had.
            self._digest.update(b"\xff" * 8)
            self._take(instance.choices)
        self._digest.update(b"\xff")

    def _take(self, parts: Iterable[str]) -> None:
        for part in parts:
            encoded = part.encode()
            self._digest.update(len(encoded).to_bytes(8, "little"))
            self._digest.update(encoded)

    def hexdigest(self) -> str:
        """64 hexadecimal digits for all instances so far."""
        return self._digest.hexdigest()


def texts_digest(texts: Sequence[str]) -> str:
    """SHA-256 of a text for each instance, in order, such as its category.

    These `instances_digest` leaves out.
    """
    return hashlib.sha256(json_bytes(texts)).hexdigest()


def instances_digest(instances: Iterable[Instance]) -> str:
    """SHA-256 over all that instances hold, in order; tells whether data has changed."""
    digest = InstancesDigest()
    for instance in instances:
        digest.update(instance)
    return digest.hexdigest()
