"""What every source gives and every later stage takes: one training or test instance."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Turn(NamedTuple):
    """One message of a conversation; `role` is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Instance:
    """A conversation that ends in an answer.

    Attributes:
        id: unique within its set; the order digest is made of these.
        task: the task's name, for scores by task.
        turns: an optional system turn, then user and assistant in turn; the last is the answer.
        references: accepted answers to the last prompt; the first is the last turn's content.
    """

    id: str
    task: str
    turns: tuple[Turn, ...]
    references: tuple[str, ...]

    @property
    def text(self) -> str:
        """Prompt, a space, answer: what is embedded (arXiv 2406.11721, similarity measures)."""
        return " ".join(turn.content for turn in self.turns)


def instances_digest(instances: Iterable[Instance]) -> str:
    """SHA-256 over ids, tasks, turns and references, in order; tells whether data has changed."""
    digest = hashlib.sha256()
    for instance in instances:
        parts = [instance.id, instance.task]
        parts += [part for turn in instance.turns for part in turn]
        parts += instance.references
        for part in parts:
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
        digest.update(b"\xff")
    return digest.hexdigest()
